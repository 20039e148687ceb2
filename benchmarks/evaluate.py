#!/usr/bin/env python
"""Measure the shipped model at length; write shares, tables and curves beside this.

    benchmarks/evaluate.py                  all of it, half an hour on one core
    benchmarks/evaluate.py --processes 2    the same numbers, shared between two processes
    benchmarks/evaluate.py --ema            the average's part only, five minutes on one core
    benchmarks/evaluate.py --trial          a few prompts of each, to see it work; nothing is stored

The headline: 1,000 prompts of each kind with every metric, and 60 prompts drawn four times for
diversity. The curves: 201 prompts a point, accuracy and sharpness against steps, guidance and
sampler, one of them changed at a time. All points have the same prompts and seeds, so `effect`
compares them in pairs with the default's. `ema`: the starter model of chapter 10, trained anew, as
only a run has weights that are not averaged; 256 prompts of never-seen pairs at several steps, from
the averaged weights and from those of the moment, the rate falling over the last 200 of 500 steps.
Runs are kept in runs/evaluate/, by the hash of the
weights: a stopped script resumes, and new weights begin anew.
"""
import argparse
import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from _results import store

from tld.autoencoder import decode_latents, load_autoencoder
from tld.configs import DenoiserConfig, ModelConfig, TrainConfig
from tld.evaluate import METRICS, EvaluateConfig, evaluate, load_columns, report_lines, weights_hash
from tld.measures import effect
from tld.precision import autocasted, pick_precision
from tld.recipes import shipped_encoders
from tld.sampling import GUIDANCE, SAMPLERS, draw
from tld.text import load_text_encoder
from tld.train import main as train
from tld.world.judge import Judge, judge_marks
from tld.world.scenes import SceneDataset, encode_scenes

RESULT = Path(__file__).with_suffix(".json")
RUNS = Path(__file__).parents[1] / "runs" / "evaluate"
CURVES = {
    "steps": (4, 6, 8, 10, 15, 20, 30, 50),
    "guidance": (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    "sampler": tuple(SAMPLERS),
}


def plan(trial: bool) -> dict[str, EvaluateConfig]:
    "What is run, by the folder it is kept in."
    size = 2 if trial else 1
    base = EvaluateConfig(prompts=3 if trial else 67, metrics=("accuracy", "sharpness"))
    every = tuple(metric for metric in METRICS if metric != "diversity")
    runs = {
        "headline": EvaluateConfig(prompts=5 if trial else 1000, metrics=every,
                                   bank=200 if trial else 20_000),
        "diversity": EvaluateConfig(prompts=2 if trial else 20, per_prompt=4, chunk=10,
                                    metrics=("diversity",)),
        "default": base,
    }
    for name, values in CURVES.items():
        for value in values[::size]:
            if getattr(base, name) != value:
                runs[f"{name}_{value}"] = replace(base, **{name: value})
    return runs


def point(result: dict, config: EvaluateConfig, folder: Path, base: dict) -> dict:
    "One point of a curve, with the effect of what was changed."
    row = result["accuracy"]["by_kind"]["all kinds"]["all"]
    columns = load_columns(config, folder)
    return {**row, "sharpness": result["sharpness"]["ratio"]["mean"],
            "effect": str(effect(base["all"], columns["all"])),
            "effect_on_sharpness": str(effect(base["sharpness"], columns["sharpness"]))}


def ema_effects(trial: bool) -> dict[str, dict]:
    "Averaged weights against those of the moment, paired prompts and seeds, by step."
    n, scenes, every = (8, 256, 4) if trial else (256, 12_000, 100)
    vae, encoder, judge, rows = load_autoencoder(), load_text_encoder(), Judge("starter"), {}
    prompts = SceneDataset("starter", "unseen", n, seed=3)
    captions = [prompts.scene(i).caption for i in range(n)]
    labels = encoder(captions).detach()

    def compare(state) -> None:
        right = []
        for model in (state.model, state.ema_model):
            denoise = autocasted(model.eval(), pick_precision(labels.device))
            latents = draw(denoise, model.latent_shape, range(n), cond=labels, guidance=GUIDANCE)
            images = decode_latents(vae, latents)
            right.append(judge_marks(images, captions, judge)["all"].double())
        state.model.train()
        moment, averaged = (int(r.sum()) for r in right)
        rows[str(state.step)] = {"n": n, "moment": moment, "averaged": averaged,
                                 "effect": str(effect(*right))}
        print(state.step, rows[str(state.step)], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        data = encode_scenes(folder, SceneDataset("starter", "train", scenes, seed=11),
                             *shipped_encoders(), progress=False)
        recipe = TrainConfig.scenes(batch_size=32, n_steps=5 * every, decay_steps=2 * every,
                                    save_and_eval_every_iters=every, progress=False,
                                    run_dir=f"{folder}/run")
        train(ModelConfig(data, DenoiserConfig.scenes(), recipe), on_eval=compare)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trial", action="store_true", help="few prompts; the stored result stays")
    parser.add_argument("--ema", action="store_true", help="only what the average is worth")
    args = parser.parse_args()
    if args.ema:
        rows = ema_effects(args.trial)
        if not args.trial:
            store(RESULT, {**json.loads(RESULT.read_text()), "ema": rows})
        return
    runs = plan(args.trial)
    weights = weights_hash(runs["headline"])
    folder = RUNS / (weights + "_trial" * args.trial)
    results = {}
    for name, config in runs.items():
        results[name] = evaluate(config, folder / name, args.processes, progress=True)
        print(f"== {name}", *report_lines(results[name]), sep="\n", flush=True)
    headline, base = results["headline"], load_columns(runs["default"], folder / "default")
    stored = {"weights": weights, "settings": asdict(runs["headline"]),
              "accuracy": headline["accuracy"]["by_kind"],
              "by_object": headline["accuracy"]["by_object"],
              **{name: headline[name] for name in runs["headline"].metrics if name != "accuracy"},
              "diversity": results["diversity"]["diversity"]}
    for curve, values in CURVES.items():
        names = {value: f"{curve}_{value}" if f"{curve}_{value}" in runs else "default"
                 for value in values if f"{curve}_{value}" in runs
                 or value == getattr(runs["default"], curve)}
        stored[curve] = {str(value): point(results[name], runs[name], folder / name, base)
                         for value, name in names.items()}
    stored["ema"] = ema_effects(args.trial)
    store(folder / "trial.json" if args.trial else RESULT, stored)


if __name__ == "__main__":
    main()
