#!/usr/bin/env python
"""Time to quality: train the starter world by the original's recipe and by ours, three seeds each.

    benchmarks/speedrun.py              hours, most of them the original's; writes speedrun.json
    benchmarks/speedrun.py --seed 1     one seed only: several may run side by side, a core each
    benchmarks/speedrun.py --trial      a few steps on few scenes; the stored result stays

A run draws prompts of single objects that were not trained on, every so many steps, and notes when
the share in which everything that is said is right passes 50, 80, 90 and 95%. The original reads
one pooled row of text, learns its positions and has no adaLN; both are sampled in the same way.
What counts are the minutes of processor time and the pictures trained on; drawing and judging are
not counted. A run ends at 95%, at the end of its recipe, or when it has had its minutes: then the
marks it did not reach are null. Runs are kept in runs/speedrun: a stopped script goes on where it
was, and so does a run that has had its minutes and now gets more.
"""
import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _results import store

from tld.autoencoder import load_autoencoder
from tld.configs import DataConfig, DenoiserConfig, ModelConfig, TrainConfig
from tld.files import write_atomically
from tld.recipes import shipped_encoders
from tld.text import load_text_encoder
from tld.train import main as train
from tld.world.captions import SceneDataset, encode_dataset
from tld.world.judge import Judge, judge_prompts
from tld.world.models import FAITHFUL, asked, codec_of, from_network
from tld.world.scores import Setting, draw_prompts

RESULT = Path(__file__).with_suffix(".json")
RUNS = Path(__file__).parents[1] / "runs" / "speedrun"
MARKS = (0.5, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
MINUTES = 60.0   # of processor time, at most
SETTING = Setting(10, 5.0, "dpmpp_2m", 2.0, (0.8, 1.0))
# name: model, recipe. The original's defaults are those of `TrainConfig`; a run has no end.
RECIPES = {
    "ours": (DenoiserConfig.scenes(), TrainConfig.scenes(
        alpha=0.99, n_steps=1000, decay_steps=300, save_and_eval_every_iters=50)),
    "the original": (DenoiserConfig.scenes(
        adaln=False, positions="learned", n_text_tokens=1), TrainConfig(
        n_steps=1_000_000, save_and_eval_every_iters=100)),
}


class Ended(Exception):
    "The last mark is reached, or the time is over."


class Referee:
    "Draws and judges while a run trains, and counts neither."
    def __init__(self, recipe: TrainConfig, prompts: list[str], minutes: float):
        self.recipe, self.prompts, self.minutes = recipe, prompts, minutes
        self.codec, self.encoder = codec_of(load_autoencoder()), load_text_encoder()
        self.judge, self.path = Judge("starter"), Path(recipe.run_dir) / "curve.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.curve, self.used = known.get("curve", []), known.get("used", 0.0)
        self.since = time.process_time()

    def keep(self) -> None:
        "Write down what a stopped script goes on from; the checkpoint is there already."
        text = json.dumps({"used": self.used, "curve": self.curve})
        write_atomically(self.path, lambda p: p.write_text(text))

    def __call__(self, run) -> None:
        self.used += (time.process_time() - self.since) / 60
        self.keep()
        model, prompts = run.ema_model, self.prompts
        latents = draw_prompts(from_network(model, self.encoder), prompts, model.latent_shape,
                               range(len(prompts)), SETTING)
        marks = judge_prompts(prompts, self.codec.decode(latents), self.judge)[2]
        right = marks["all"].float().mean().item()
        self.curve.append((run.step * self.recipe.batch_size, round(self.used, 3),
                           round(right, 4)))
        self.keep()
        print(f"  {self.curve[-1][0]} pictures, {self.used:.1f} minutes: {right:.1%}", flush=True)
        if right >= MARKS[-1] or self.used >= self.minutes:
            raise Ended
        self.since = time.process_time()

    def marks(self) -> dict[str, dict]:
        "Pictures and minutes at which each mark was passed first."
        passed = {mark: next((point for point in self.curve if point[2] >= mark), None)
                  for mark in MARKS}
        return {f"{mark:.0%}": point and {"pictures": point[0], "minutes": point[1]}
                for mark, point in passed.items()}


def compare(done: dict) -> dict[str, str]:
    "Processor time of the original over ours to each mark, medians; > where one never got there."
    ratios = {}
    for mark in (f"{mark:.0%}" for mark in MARKS):
        minutes, sign = {}, ""
        for name in RECIPES:
            runs = [run for key, run in done.items() if key.startswith(name + ", seed")]
            reached = [run["marks"][mark] for run in runs]
            minutes[name] = [at["minutes"] if at else run["minutes"]
                             for at, run in zip(reached, runs)]
            if name == "the original" and None in reached:
                sign = "> "   # what it took at least
        ours, theirs = minutes["ours"], minutes["the original"]
        if ours and theirs:
            ratios[mark] = f"{sign}{statistics.median(theirs) / statistics.median(ours):.1f}"
    return ratios


def results() -> dict:
    "What is stored; read anew each time, as another script may have added a run."
    return json.loads(RESULT.read_text()) if RESULT.exists() else {}


def prepare(folder: Path, n_scenes: int) -> dict[int, DataConfig]:
    "Encode the scenes that all runs train on, once; by rows of text."
    scenes = SceneDataset("starter", "train", n_scenes, seed=11)
    return {rows: encode_dataset(folder / f"{rows} rows", scenes, *shipped_encoders(), rows=rows)
            for rows in {model.n_text_tokens for model, _ in RECIPES.values()}}


def race(key: str, config: ModelConfig, prompts: list[str], minutes: float) -> dict:
    "Train until the last mark, or the end of the time."
    print(key, flush=True)
    referee = Referee(config.train_config, prompts, minutes)
    try:
        if train(config, on_eval=referee) is None:
            sys.exit("stopped by a signal: call again to resume")
    except Ended:
        pass
    return {"marks": referee.marks(), "minutes": round(referee.used, 2),
            "best": max(point[2] for point in referee.curve)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at most, of each run")
    parser.add_argument("--seed", type=int, choices=SEEDS, help="only this one")
    args = parser.parse_args()
    seeds = SEEDS[:1] if args.trial else SEEDS if args.seed is None else [args.seed]
    small = {"n_steps": 4, "save_and_eval_every_iters": 2, "batch_size": 8} if args.trial else {}
    prompts = asked("starter", FAITHFUL["one object"], 4 if args.trial else 256, seed=3)[0]
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) if args.trial else RUNS
        data = prepare(folder, 512 if args.trial else 12_000)
        for name, (model, recipe) in RECIPES.items():   # ours first, the long ones after
            for seed in seeds:
                key = f"{name}, seed {seed}"
                known = {} if args.trial else results().get(key, {})
                if known and (known["best"] >= MARKS[-1] or known["minutes"] >= args.minutes):
                    continue
                once = TrainConfig(**{**vars(recipe), "seed": seed, "run_dir": str(folder / key),
                                      "from_scratch": False, "progress": False, **small})
                config = ModelConfig(data[model.n_text_tokens], model, once)
                run = race(key, config, prompts, args.minutes)
                if not args.trial:
                    done = {**results(), key: run}
                    store(RESULT, {**done, "original / ours": compare(done)})
    print(json.dumps(compare(results())))


if __name__ == "__main__":
    main()
