#!/usr/bin/env python
"""Measure what painters make of pairs of which one object is hidden; write the result beside this
script.

    benchmarks/outpainting.py --train runs/outpainting   fine-tune the model that ships; resumes
    benchmarks/outpainting.py            100 scenes of each kind of pair, ten minutes of one core
    benchmarks/outpainting.py -n 10      fewer, and the stored result stays

Four ways, the same scenes, captions and seeds: the model that is given what is known; the shipped
text-to-image model with the known part written over every step, each step taken once or five times
(a third of `-n`, as it costs five times as much); the same model from the caption alone, the known
half pasted over its picture. `placed`: the judge reads both objects in their relation. `window`:
the background, too. `seam`: mean jump at the edge, 8-bit steps; among `floors`, `real` is that of
the true picture, `coded` that of the known half pasted over the true picture as the autoencoder
gives it back. `from_text`: everything hidden, beside the shipped model. `hard`: `cut`, the edge
goes through an object, root mean square error of the hidden strip against the truth, in 8-bit
steps; `unnamed`, captions that do not name the background, seam. `rows`: panoramas of twelve
objects, right windows by place.
"""
import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _results import store
from torch import Tensor

from tld.diffusion import DiffusionTransformer
from tld.measures import effect, wilson_interval
from tld.outpainting import Outpainter, Repainter, chain_prompts, hide_one, panoramas, seam
from tld.pictures import to_float
from tld.recipes import outpainting_config, train_outpainting
from tld.weights import SHIPPED
from tld.world.captions import describe
from tld.world.judge import Judge, judge_prompts
from tld.world.models import say, scenes_where
from tld.world.objects import BACKGROUNDS
from tld.world.scenes import Scene, paint_batch
from tld.world.worlds import SIDE

RESULT = Path(__file__).with_suffix(".json")
STORED = 100  # scenes of each kind in the stored result
KINDS = {"seen": "val", "never seen": "unseen"}
ROWS, PLACES = 20, 12
GROUP = 50  # scenes painted at once


def scenes_of(kind: str, n: int, seed: int = 16) -> list[Scene]:
    "Pairs of one kind, each object within its own half of the picture."
    def fits(scene): return hide_one(scene, 0) is not None
    return [scene for _, scene in scenes_where("full", fits, n, seed, KINDS[kind])]


def halves_of(scenes: list[Scene]) -> Tensor:
    "Hide the first object of every second scene, of the others the second: (n, 1, 128, 128)."
    return torch.stack([hide_one(scene, i % 2) for i, scene in enumerate(scenes)])


def painters() -> dict[str, Callable]:
    "The ways to paint: name -> function of (pictures, masks, captions), seeds 0, 1, ..."
    ours, once, again, text = Outpainter(), Repainter(), Repainter(), DiffusionTransformer()
    again.resample = 5
    def pasted(x, mask, captions, seed):
        return torch.where(mask > 0, x, text.generate_images(captions, seed=seed))
    def in_groups(paint):
        def run(x, mask, captions):
            return torch.cat([paint(x[i:i + GROUP], mask[i:i + GROUP], captions[i:i + GROUP], i)
                              for i in range(0, len(x), GROUP)])
        return run
    ways = {"conditioned": ours.paint, "written over": once.paint,
            "written over, r = 5": again.paint, "pasted": pasted}
    return {name: in_groups(paint) for name, paint in ways.items()}


def marks_of(paint: Callable, scenes: list[Scene], judge: Judge) -> dict[str, Tensor]:
    "Hide, paint, read: (n,) each."
    x, mask = to_float(paint_batch(scenes)), halves_of(scenes)
    captions = [describe(scene) for scene in scenes]
    y = paint(x, mask, captions)
    marks = judge_prompts(captions, y, judge)[2]
    return {"placed": marks["relation"], "window": marks["all"], "seam": seam(y, mask),
            "kept": ((y == x) | (mask == 0)).flatten(1).all(1)}


def summary(way: str, kind: str, marks: dict) -> dict:
    "A row of the table."
    n, placed = len(marks["placed"]), int(marks["placed"].sum())
    return {"way": way, "pairs": kind, "n": n, "placed": placed,
            "placed_interval": [round(p, 4) for p in wilson_interval(placed, n)],
            "window": int(marks["window"].sum()), "kept": int(marks["kept"].sum()),
            "seam": round(marks["seam"].mean().item(), 2)}


def floors(n: int) -> dict:
    "The jump at the edge in true pictures, and where only the autoencoder stands between."
    vae, scenes = Outpainter().diffuser, scenes_of("seen", n)
    x, mask = to_float(paint_batch(scenes)), halves_of(scenes)
    coded = torch.cat([vae.decode(vae.encode(part)) for part in x.split(GROUP)])
    return {"real": round(seam(x, mask).mean().item(), 2),
            "coded": round(seam(torch.where(mask > 0, x, coded), mask).mean().item(), 2)}


def from_text(ways: dict, judge: Judge, n: int) -> dict:
    "Everything hidden: how many pictures of the fine-tuned model are right, and of the shipped."
    captions = [describe(scene) for scene in scenes_of("seen", n)]
    blank = torch.zeros(n, 3, SIDE, SIDE)
    images = {"conditioned": ways["conditioned"](blank, blank[:, :1], captions),
              "shipped": ways["pasted"](blank, blank[:, :1], captions)}
    return {"n": n, **{name: int(judge_prompts(captions, x, judge)[2]["all"].sum())
                       for name, x in images.items()}}


def hard_cases(ways: dict, n: int) -> dict:
    "Where the known part matters most: a cut object, a background that no caption names."
    scenes = scenes_of("seen", n, 19)
    x, halves, strips = to_float(paint_batch(scenes)), halves_of(scenes), []
    for i, half in enumerate(halves):   # only the outer 32 pixels of the hidden half stay hidden
        axis = 2 if scenes[i].relation == "left of" else 1
        strips.append(torch.maximum(half, half.roll(32 if i % 2 else -32, axis)))
    strips, result, errors = torch.stack(strips), {"n": n}, {}
    named, unnamed = list(map(describe, scenes)), [say(scene, ("relation",)) for scene in scenes]
    hidden = (1 - strips).expand_as(x)
    for way, paint in ways.items():
        cut = paint(x, strips, named)
        square = ((cut - x) * hidden).square().sum((1, 2, 3)) / hidden.sum((1, 2, 3))
        errors[way] = {"unnamed": seam(paint(x, halves, unnamed), halves),
                       "cut": 127.5 * square.sqrt()}
        result[way] = {"unnamed": round(errors[way]["unnamed"].mean().item(), 2),
                       "cut": round(127.5 * square.mean().sqrt().item(), 2)}
    result["effects"] = {part: str(effect(e, errors["conditioned"][part]))
                         for part, e in errors["written over"].items()}
    return result


def rows_of_objects(judge: Judge, n: int) -> dict:
    "Paint n panoramas of twelve objects each, to the right and down; right windows by place."
    rng, result = np.random.default_rng(17), {"n": n}
    for direction in ("right", "down"):
        backgrounds = [str(rng.choice(list(BACKGROUNDS))) for _ in range(n)]
        names = [rng.choice(judge.world.objects, PLACES, False).tolist() for _ in range(n)]
        prompts = [chain_prompts(row, b, direction) for row, b in zip(names, backgrounds)]
        x = panoramas(Outpainter(), prompts, direction, seed=18)
        axis = 3 if direction == "right" else 2
        windows = x.unfold(axis, SIDE, SIDE // 2).movedim(axis, 1)       # (n, places - 1, 3, ...)
        windows = windows if axis == 3 else windows.transpose(-1, -2)
        marks = judge_prompts(sum(prompts, []), windows.flatten(0, 1).contiguous(), judge)[2]
        result[direction] = marks["all"].view(n, -1).sum(0).tolist()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED)
    parser.add_argument("--train", metavar="FOLDER", help="fine-tune, with the run's state there")
    args = parser.parse_args()
    if args.train:
        train_outpainting(outpainting_config(args.train), SHIPPED["outpainting"])
        return
    n = args.n
    judge, ways, marks = Judge("full"), painters(), {}
    result: dict = {"ways": []}
    for way, paint in ways.items():
        for kind in KINDS:
            m = n if way in ("conditioned", "written over") else max(1, n // 3)
            marks[way, kind] = marks_of(paint, scenes_of(kind, m), judge)
            result["ways"].append(summary(way, kind, marks[way, kind]))
            print(json.dumps(result["ways"][-1]), flush=True)
    def joined(way, part, m=None):
        return torch.cat([marks[way, kind][part][:m].double() for kind in KINDS])
    result["effects"] = {}   # conditioned minus another way, the same scenes
    for way in list(ways)[1:]:
        m = len(marks[way, "seen"]["placed"])
        result["effects"][way] = {
            part: str(effect(joined(way, part), joined("conditioned", part, m)))
            for part in ("placed", "seam")}
    result["floors"] = floors(n)
    result["from_text"] = from_text(ways, judge, max(1, n // 3))
    result["hard"] = hard_cases(ways, max(2, n // 5))
    result["rows"] = rows_of_objects(judge, min(n, ROWS))
    print(json.dumps(result, indent=1))
    if n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
