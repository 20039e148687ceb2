#!/usr/bin/env python
"""Time to quality: train the starter world by the original's recipe and by ours, three seeds each.

    benchmarks/speedrun.py              hours, most of them the original's; writes speedrun.json
    benchmarks/speedrun.py --trial      a few steps on few scenes; the stored result stays

A run draws pictures of prompts whose pairs of objects no training scene holds, every so many steps,
and notes when the share that is entirely right passes 50, 80, 90 and 95%. What counts are the
minutes of processor time and the pictures trained on; drawing and judging are not counted. A run
ends at 95%, at the end of its recipe, or when it has had its minutes: then the marks it did not
reach are null. Finished runs are kept, so that a stopped script goes on where it was.
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
from tld.configs import DenoiserConfig, ModelConfig, TrainConfig
from tld.scenes import Judge, SceneDataset
from tld.text import load_text_encoder
from tld.train import encode_scenes, prompt_accuracy
from tld.train import main as train

RESULT = Path(__file__).with_suffix(".json")
MARKS = (0.5, 0.8, 0.9, 0.95)
SEEDS = (0, 1, 2)
MINUTES = 60.0   # of processor time, at most
# name: model, recipe. The original's defaults are those of `TrainConfig`; a run has no end.
RECIPES = {
    "ours": (DenoiserConfig.scenes(), TrainConfig.scenes(
        batch_size=32, n_steps=500, decay_steps=200, save_and_eval_every_iters=25)),
    "the original": (DenoiserConfig.scenes(adaln=False), TrainConfig(
        n_steps=1_000_000, save_and_eval_every_iters=100)),
}


class Ended(Exception):
    "The last mark is reached, or the time is over."


class Referee:
    "Draws and judges while a run trains, and counts neither."
    def __init__(self, recipe: TrainConfig, prompts: SceneDataset, minutes: float):
        self.recipe, self.prompts, self.minutes = recipe, prompts, minutes
        self.parts = load_autoencoder(), load_text_encoder()
        self.judge, self.curve, self.used = Judge("starter"), [], 0.0
        self.since = time.process_time()

    def __call__(self, state) -> None:
        self.used += (time.process_time() - self.since) / 60
        right = prompt_accuracy(state.ema_model, *self.parts, self.prompts, self.judge,
                                guidance=2.0)["all"]
        self.curve.append((state.step * self.recipe.batch_size, round(self.used, 3),
                           round(right, 4)))
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
    "Processor time of the original over ours to each mark, medians; > where it never got there."
    ratios = {}
    for mark in (f"{mark:.0%}" for mark in MARKS):
        minutes = {}
        for name in RECIPES:
            runs = [done[key] for key in done if key.startswith(name + ", seed")]
            minutes[name] = [r["marks"][mark]["minutes"] if r["marks"][mark] else None
                             for r in runs]
        ours, theirs = minutes["ours"], minutes["the original"]
        if not ours or not theirs or None in ours:
            continue
        limit = [run["minutes"] for key, run in done.items() if key.startswith("the original")]
        reached = [t for t in theirs if t is not None]
        worst = statistics.median(reached if len(reached) == len(theirs) else limit)
        sign = "" if len(reached) == len(theirs) else "> "
        ratios[mark] = f"{sign}{worst / statistics.median(ours):.1f}"
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", action="store_true")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="at most, of each run")
    args = parser.parse_args()
    done = json.loads(RESULT.read_text()) if RESULT.exists() and not args.trial else {}
    n_scenes, n_prompts = (512, 4) if args.trial else (12_000, 256)
    prompts = SceneDataset("starter", "unseen", n_prompts, seed=3)
    with tempfile.TemporaryDirectory() as tmp:
        scenes = SceneDataset("starter", "train", n_scenes, seed=11)
        data = encode_scenes(tmp, scenes, load_autoencoder(), load_text_encoder())
        for name, (model, recipe) in RECIPES.items():   # ours first, the long ones after
            for seed in SEEDS[:1 if args.trial else None]:
                key = f"{name}, seed {seed}"
                if key in done:
                    continue
                print(key, flush=True)
                changes = {"seed": seed, "run_dir": f"{tmp}/{key}", "progress": False}
                if args.trial:
                    changes |= {"n_steps": 4, "save_and_eval_every_iters": 2, "batch_size": 8}
                once = TrainConfig(**{**vars(recipe), **changes})
                referee = Referee(once, prompts, args.minutes)
                try:
                    if train(ModelConfig(data, model, once), on_eval=referee) is None:
                        sys.exit("stopped by a signal: this run is not kept")
                except Ended:
                    pass
                done[key] = {"marks": referee.marks(), "minutes": round(referee.used, 2),
                             "best": max(point[2] for point in referee.curve)}
                if not args.trial:
                    store(RESULT, {**done, "original / ours": compare(done)})
    print(json.dumps(compare(done)))


if __name__ == "__main__":
    main()
