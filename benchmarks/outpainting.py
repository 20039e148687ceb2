#!/usr/bin/env python
"""Measure what painters make of scenes of which one object is hidden; write the result beside this
script.

    benchmarks/outpainting.py            300 scenes of each kind of pair, about ten minutes
    benchmarks/outpainting.py -n 10      fewer, and the stored result stays

Four ways, the same scenes, captions and seeds: the model that is told what is known; the shipped
text-to-image model with the known part written over every step, each step taken once or five times
(a third of `-n`, as it costs five times as much); the same model from the caption alone, the known
half pasted over its picture. `free`: the judge finds the objects asked for, in their places.
`window`: the background, too. `seam`: mean jump at the edge, 8-bit steps; among `floors`, `real` is
that of the true picture, `coded` that of the known half pasted over the true picture as the
autoencoder gives it back. `from_text`: everything hidden, beside the shipped model. `hard`: `cut`,
the edge goes through an object, root mean square error of the hidden strip against the truth, in
8-bit steps; `unnamed`, captions that do not name the background, seam. `rows`: panoramas of twelve
objects, right windows by place.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _results import store

from tld.diffusion import DiffusionTransformer
from tld.measures import effect, wilson_interval
from tld.outpainting import (
    Outpainter,
    Repainter,
    chain_prompts,
    hide_one,
    outpainting_marks,
    panoramas,
    seam,
)
from tld.pictures import to_float
from tld.world.captions import describe
from tld.world.judge import Judge, judge_marks
from tld.world.objects import BACKGROUNDS
from tld.world.scenes import SceneDataset, shipped_world

RESULT = Path(__file__).with_suffix(".json")
STORED = 300  # scenes of each kind in the stored result
KINDS = {"seen": "val", "never seen": "unseen"}
ROWS, PLACES = 20, 12
GROUP = 50  # scenes painted at once


def scenes_of(kind: str, n: int) -> SceneDataset:
    "Scenes of two objects in their slots, pairs of one kind."
    return SceneDataset(shipped_world(), KINDS[kind], n, seed=16, n_objects=2)


def painters() -> dict:
    "The ways to paint: name -> function of (pictures, masks, captions, seeds)."
    told, once, again, text = Outpainter(), Repainter(), Repainter(), DiffusionTransformer()
    again.resample = 5
    def pasted(x, mask, captions, seeds):
        return torch.where(mask > 0, x, text.generate_images(captions, seed=seeds))
    ways = {"told": told, "written over": once, "written over, r = 5": again}
    return {name: lambda x, m, c, s, p=p: p.paint(x, m, c, s) for name, p in ways.items()} | {
        "text alone, pasted": pasted}


def summary(way: str, kind: str, marks: dict) -> dict:
    "A row of the table."
    n, free = len(marks["free"]), int(marks["free"].sum())
    return {"way": way, "pairs": kind, "n": n, "free": free,
            "free_interval": [round(p, 4) for p in wilson_interval(free, n)],
            "window": int(marks["all"].sum()), "kept": int(marks["kept"].sum()),
            "seam": round(marks["seam"].mean().item(), 2)}


def floors(kind: str, n: int) -> dict:
    "The jump at the edge in true pictures, and where only the autoencoder stands between."
    vae, data = Outpainter().diffuser, scenes_of(kind, n)
    real, coded = [], []
    for start in range(0, n, GROUP):
        rows = range(start, min(start + GROUP, n))
        x = to_float(torch.stack([data[i][0] for i in rows]))
        mask = torch.stack([hide_one(data.scene(i), i % 2) for i in rows])
        real.append(seam(x, mask))
        coded.append(seam(torch.where(mask > 0, x, vae.decode(vae.encode(x))), mask))
    return {"real": round(torch.cat(real).mean().item(), 2),
            "coded": round(torch.cat(coded).mean().item(), 2)}


def from_text(judge: Judge, n: int) -> dict:
    "Everything hidden: how many pictures of the widened model are right, and of the shipped one."
    told, text, right = Outpainter(), DiffusionTransformer(), {"told": 0, "shipped": 0}
    data = scenes_of("seen", n)
    for start in range(0, n, GROUP):
        rows = range(start, min(start + GROUP, n))
        captions, blank = [data.scene(i).caption for i in rows], torch.zeros(len(rows), 3, 64, 64)
        images = {"told": told.paint(blank, blank[:, :1], captions, list(rows)),
                  "shipped": text.generate_images(captions, seed=list(rows))}
        for name, x in images.items():
            right[name] += int(judge_marks(x, captions, judge)["all"].sum())
    return {"n": n, **right}


def hard_cases(ways: dict, n: int) -> dict:
    "Where the known part matters most: a cut object, a background that no caption names."
    data = SceneDataset(shipped_world(), "val", n, seed=19, n_objects=2, p_background=0)
    scenes = [data.scene(i) for i in range(n)]
    x = to_float(torch.stack([data[i][0] for i in range(n)]))
    halves, strips = torch.stack([hide_one(s, i % 2) for i, s in enumerate(scenes)]), []
    for i, half in enumerate(halves):   # the outer 16 pixels of the hidden half stay hidden
        axis = 2 if scenes[i].relation == "left of" else 1
        strips.append(torch.maximum(half, half.roll(16 if i % 2 else -16, axis)))
    strips, result, errors = torch.stack(strips), {"n": n}, {}
    named = [describe(s) for s in scenes]
    for way, paint in ways.items():
        y, cut = (torch.cat([paint(*(t[i:i + GROUP] for t in (x, mask, texts, range(n))))
                             for i in range(0, n, GROUP)])
                  for mask, texts in ((halves, [s.caption for s in scenes]), (strips, named)))
        hidden = (1 - strips).expand_as(x)
        square = ((cut - x) * hidden).square().sum((1, 2, 3)) / hidden.sum((1, 2, 3))
        errors[way] = {"unnamed": seam(y, halves), "cut": 127.5 * square.sqrt()}
        result[way] = {"unnamed": round(errors[way]["unnamed"].mean().item(), 2),
                       "cut": round(127.5 * square.mean().sqrt().item(), 2)}
    result["effects"] = {part: str(effect(e, errors["told"][part]))   # told minus written over
                         for part, e in errors["written over"].items()}
    return result


def rows_of_objects(judge: Judge, n: int) -> dict:
    "Paint n panoramas of twelve objects each, to the right and down; right windows by place."
    rng, result = np.random.default_rng(17), {"n": n}
    for direction in ("right", "down"):
        backgrounds = [str(rng.choice(list(BACKGROUNDS))) for _ in range(n)]
        objects = np.array(judge.world.objects)
        names = [rng.choice(objects, PLACES, False).tolist() for _ in range(n)]
        prompts = [chain_prompts(row, b, direction) for row, b in zip(names, backgrounds)]
        x = panoramas(Outpainter(), prompts, direction, seed=18)
        axis = 3 if direction == "right" else 2
        windows = x.unfold(axis, 64, 32).movedim(axis, 1)            # (n, places - 1, 3, 64, 64)
        windows = windows if axis == 3 else windows.transpose(-1, -2)
        marks = judge_marks(windows.flatten(0, 1).contiguous(), sum(prompts, []), judge)
        right = marks["objects"] & marks["relation"] & marks["background"]
        result[direction] = right.view(n, -1).sum(0).tolist()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED)
    n = parser.parse_args().n
    judge, ways, marks = Judge("full"), painters(), {}
    result: dict = {"ways": []}
    for way, paint in ways.items():
        for kind in KINDS:
            m = n if way in ("told", "written over") else max(1, n // 3)
            marks[way, kind] = outpainting_marks(paint, scenes_of(kind, m), judge, GROUP)
            result["ways"].append(summary(way, kind, marks[way, kind]))
            print(json.dumps(result["ways"][-1]), flush=True)
    def joined(way, part, m=None):
        return torch.cat([marks[way, kind][part][:m].double() for kind in KINDS])
    result["effects"] = {}   # told minus another way, the same scenes
    for way in list(ways)[1:]:
        m = len(marks[way, "seen"]["free"])
        result["effects"][way] = {part: str(effect(joined(way, part), joined("told", part, m)))
                                  for part in ("free", "seam")}
    result["floors"] = floors("seen", n)
    result["from_text"] = from_text(judge, max(1, n // 3))
    result["hard"] = hard_cases(ways, max(2, n // 5))
    result["rows"] = rows_of_objects(judge, min(n, ROWS))
    print(json.dumps(result, indent=1))
    if n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
