#!/usr/bin/env python
"""Compare ways between prompts and between noises: is the circle more even than the line?

    benchmarks/interpolation.py        40 pairs of either, some minutes on one core
    benchmarks/interpolation.py -n 3   fewer, and the stored result stays

A walk has nine frames. `lerp` and `slerp` are medians of its largest jump over its mean jump
(`unevenness`), `even` that of slerp drawn once more at even times, `still` the share of jumps below
a fifth of the walk's largest. `effect` compares slerp with lerp pair by pair (`tld.evaluate`).
Prompts are captions of held-out scenes of one object, named with its background, the noise the same
all the way; between noises the prompt is an object whose background is left open.
"""
import argparse
import json
from pathlib import Path

import torch
from _results import store

from tld.diffusion import DiffusionTransformer
from tld.interpolation import interpolate, step_sizes, unevenness
from tld.measures import effect
from tld.world.objects import OBJECTS
from tld.world.scenes import SceneDataset

RESULT = Path(__file__).with_suffix(".json")
STORED = 40   # pairs of the stored result
FRAMES = 9


def walks(model: DiffusionTransformer, prompts, seeds, kind: str) -> dict[str, float]:
    "How uneven the ways between two prompts, or two noises, are."
    films = {way: interpolate(model, prompts, seeds, FRAMES, **{kind: way})
             for way in ("lerp", "slerp")}
    row = {way: unevenness(film.frames) for way, film in films.items()}
    even = interpolate(model, prompts, seeds, FRAMES, even=1)
    sizes = {way: step_sizes(film.frames) for way, film in films.items()}
    still = {f"still {way}": (s < s.max() / 5).double().mean() for way, s in sizes.items()}
    return {**row, **still, "even": unevenness(even.frames)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="pairs of either kind")
    args = parser.parse_args()
    model = DiffusionTransformer(model_dtype=torch.bfloat16)
    data = SceneDataset("full", "val", 2 * args.n, seed=6, n_objects=1, p_background=1.0)
    captions, names = [data.scene(i).caption for i in range(2 * args.n)], list(OBJECTS)
    ways = {"prompts": [(captions[2 * i:2 * i + 2], i, "text_way") for i in range(args.n)],
            "noises": [(f"a {names[i]}", [2 * i, 2 * i + 1], "noise_way") for i in range(args.n)]}
    result = {}
    for name, pairs in ways.items():
        rows = [walks(model, *pair) for pair in pairs]
        columns = {key: torch.tensor([row[key] for row in rows]).double() for key in rows[0]}
        medians = {key: round(column.median().item(), 3) for key, column in columns.items()}
        result[name] = {"pairs": args.n, **medians,
                        "effect": str(effect(columns["lerp"], columns["slerp"]))}
        print(name, json.dumps(result[name]), flush=True)
    if args.n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
