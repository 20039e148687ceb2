#!/usr/bin/env python
"""Measure the shipped model at length; write shares, tables and curves beside this.

    benchmarks/evaluate.py                  all of it, an hour or two on one core
    benchmarks/evaluate.py --processes 2    the same numbers, shared between two processes
    benchmarks/evaluate.py --trial          a few prompts of each, to see it work; nothing is stored

The headline: 1,000 prompts of each kind with every metric, and 20 of each drawn four times for
diversity. The curves: 30 prompts of each kind a point, accuracy and sharpness against steps,
guidance and sampler, one of them changed at a time. All points have the same prompts and seeds, so
`effect` compares them in pairs with the default's. Runs are kept in runs/evaluate/, by the hash of
the weights: a stopped script resumes, and new weights begin anew.
"""
import argparse
from dataclasses import asdict, replace
from pathlib import Path

from _results import store

from tld.evaluate import METRICS, EvaluateConfig, evaluate, load_columns, report_lines, weights_hash
from tld.measures import effect
from tld.sampling import SAMPLERS

RESULT = Path(__file__).with_suffix(".json")
RUNS = Path(__file__).parents[1] / "runs" / "evaluate"
CURVES = {
    "steps": (4, 6, 8, 10, 15, 20, 30, 50),
    "guidance": (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0),
    "sampler": tuple(SAMPLERS),
}


def plan(trial: bool) -> dict[str, EvaluateConfig]:
    "What is run, by the folder it is kept in."
    stride = 4 if trial else 1
    base = EvaluateConfig(prompts=1 if trial else 30, metrics=("accuracy", "sharpness"))
    every = tuple(metric for metric in METRICS if metric != "diversity")
    runs = {
        "headline": EvaluateConfig(prompts=2 if trial else 1000, metrics=every,
                                   bank=200 if trial else 20_000),
        "diversity": EvaluateConfig(prompts=1 if trial else 20, per_prompt=4, chunk=10,
                                    metrics=("diversity",)),
        "default": base,
    }
    for name, values in CURVES.items():
        for value in values[::stride]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--trial", action="store_true", help="few prompts; the stored result stays")
    args = parser.parse_args()
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
              "by_category": headline["accuracy"]["by_category"],
              **{name: headline[name] for name in runs["headline"].metrics if name != "accuracy"},
              "diversity": results["diversity"]["diversity"]}
    for curve, values in CURVES.items():
        names = {value: f"{curve}_{value}" if f"{curve}_{value}" in runs else "default"
                 for value in values if f"{curve}_{value}" in runs
                 or value == getattr(runs["default"], curve)}
        stored[curve] = {str(value): point(results[name], runs[name], folder / name, base)
                         for value, name in names.items()}
    store(folder / "trial.json" if args.trial else RESULT, stored)


if __name__ == "__main__":
    main()
