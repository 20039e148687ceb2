#!/usr/bin/env python
"""Measure the scenes and their judge; write the result beside this script.

    benchmarks/scenes.py            2,000 scenes of each world, some minutes on one core
    benchmarks/scenes.py -n 100     fewer, and the stored result stays

`render_per_s` is scenes drawn, described and painted in a second by one process, sprites cached
(after `warm_up_s`); `aim_ratio` is against 2,000 a second. The judge reads fresh scenes of seed
11, half from `val` and half from `unseen`, of every size and place the world has, and counts
objects, relation and background; `interval` is Wilson's at 95%. `confusions` lists every picture
that it misread: caption, what is there, what it saw. `shuffled_right` gives each picture another's
caption; `shuffled_chance` is how often two of the captions ask for the same, so a judge that reads
nothing but the picture scores just that.
"""
import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from _results import store
from tqdm.auto import tqdm

from tld.measures import PARTS, wilson_interval
from tld.world.captions import Wanted, wanted_of
from tld.world.judge import Judge, Reading, agreement
from tld.world.objects import sprite
from tld.world.scenes import WORLDS, make_scene, render

RESULT = Path(__file__).with_suffix(".json")
STORED = 2000  # scenes of each world in the stored result
AIM = 2000     # scenes a second
BATCH = 50
SEED = 11


def rendering(world: str, n: int) -> dict:
    "How fast scenes of a world are drawn, described and painted, in this one process."
    clock = time.perf_counter()
    w = WORLDS[world]()
    for name in w.objects:
        for size in {*w.pair_sizes, *w.single_sizes}:
            sprite(name, size)
    make_scene(world)
    warm_up = time.perf_counter() - clock
    rates = {"both": [], "paint": []}
    for repeat in range(5):  # the best of five: other programs only ever slow one down
        clock = time.perf_counter()
        scenes = [make_scene(world, "train", SEED + repeat, i) for i in range(n)]
        middle = time.perf_counter()
        for scene in scenes:
            render(scene)
        end = time.perf_counter()
        rates["both"].append(n / (end - clock))
        rates["paint"].append(n / (end - middle))
    return {"warm_up_s": round(warm_up, 1), "render_per_s": round(max(rates["both"])),
            "paint_only_per_s": round(max(rates["paint"])),
            "aim_ratio": round(max(rates["both"]) / AIM, 2)}


def as_reading(wanted: Wanted) -> Reading:
    "What a faultless judge would see in a picture of this."
    return Reading(wanted.objects, wanted.relation, wanted.background, 1.0)


def said(what: Wanted | Reading) -> str:
    return f" {what.relation} ".join(what.objects) + f" on {what.background}"


def judging(world: str, n: int) -> dict:
    "What the judge makes of n fresh scenes, under their captions and under each other's."
    scenes = [make_scene(world, ("val", "unseen")[i % 2], SEED, i) for i in range(n)]
    wanted, judge, readings = [wanted_of(s) for s in scenes], Judge(world), []
    clock = time.perf_counter()
    for start in tqdm(range(0, n, BATCH), desc=world):
        images = np.stack([render(s) for s in scenes[start:start + BATCH]])
        readings += judge.read(torch.from_numpy(images).permute(0, 3, 1, 2))
    seconds = time.perf_counter() - clock
    verdicts = [agreement(w, r) for w, r in zip(wanted, readings)]
    right = {part: sum(v[part] for v in verdicts) for part in PARTS}
    order = np.random.default_rng(SEED).permutation(n)
    others = [wanted[order[i]] if order[i] != i else wanted[i - 1] for i in range(n)]
    pairs = {tuple(sorted((a, b))) for w, r in zip(wanted, readings)
             for a, b in zip(w.objects, r.objects) if a != b}
    fits = sorted(r.fit for r in readings)
    return {
        "scenes": n, "single_objects": sum(len(s.objects) == 1 for s in scenes),
        "right": right, "share": round(right["all"] / n, 5),
        "interval": [round(end, 5) for end in wilson_interval(right["all"], n)],
        "confused_pairs": sorted(pairs),
        "confusions": [[s.caption, said(w), said(r)] for s, w, r, v in
                       zip(scenes, wanted, readings, verdicts) if not v["all"]],
        "shuffled_right": sum(agreement(w, r)["all"] for w, r in zip(others, readings)),
        "shuffled_chance": sum(agreement(w, as_reading(own))["all"]
                               for w, own in zip(others, wanted)),
        "fit": {"least": round(fits[0], 4), "median": round(fits[n // 2], 4)},
        "read_per_s": round(n / seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="scenes of each world")
    n = parser.parse_args().n
    torch.set_num_threads(1)
    results = {world: {**rendering(world, n), **judging(world, n)} for world in WORLDS}
    for world, result in results.items():
        print(f"{world}: {json.dumps(result)}")
    if n == STORED:
        store(RESULT, results)


if __name__ == "__main__":
    main()
