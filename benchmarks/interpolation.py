#!/usr/bin/env python
"""Measure films between noises and between prompts: is the circle more even than the line?

    benchmarks/interpolation.py        40 pairs of either, some minutes on one core
    benchmarks/interpolation.py -n 3   fewer, and the stored result stays

A walk has nine frames. `lerp`, `slerp`, `mixed` are medians of its largest jump over its mean jump
(`unevenness`), by how noises or prompts are walked between; `even` is that of the same walk drawn
once more at even times (noises: on the circle), `still` the share of jumps below a fifth of the
walk's largest. `effect` compares slerp with lerp pair by pair (`tld.measures`). Prompts say all of
held-out scenes of one object, the noise is the same all the way; between noises the prompt is an
object of which all else is left open.
"""
import argparse
import json
from pathlib import Path

import torch
from _results import store
from torch import Tensor

from tld.diffusion import DiffusionTransformer
from tld.interpolation import interpolate, lerp, step_sizes, unevenness, walk_settings
from tld.measures import effect
from tld.sampling import seeded_noise
from tld.world.facts import Mentions
from tld.world.models import Row, asked
from tld.world.worlds import get_world

RESULT = Path(__file__).with_suffix(".json")
STORED = 40   # pairs of the stored result
FRAMES = 9


def still(frames: Tensor) -> float:
    "The share of jumps below a fifth of the largest."
    sizes = step_sizes(frames)
    return (sizes < sizes.max() / 5).double().mean().item()


def between_noises(model: DiffusionTransformer, prompt: str, seeds: list[int]) -> dict[str, float]:
    "How uneven the paths between two noises are."
    ends = seeded_noise(model.denoiser.latent_shape, seeds)
    line = model.diffuser.generate(
        model.embed(prompt), num_imgs=FRAMES, seeds=lerp(*ends, torch.linspace(0, 1, FRAMES)),
        **walk_settings(model))[0]
    circle, even = (interpolate(model, prompt, seeds, FRAMES, even=n).frames for n in (0, 1))
    return {"lerp": unevenness(line), "slerp": unevenness(circle), "even": unevenness(even),
            "still": still(circle)}


def between_prompts(model: DiffusionTransformer, prompts: list[str], seed: int) -> dict[str, float]:
    "How uneven the path between two prompts is."
    plain, even = (interpolate(model, prompts, seed, FRAMES, even=n).frames for n in (0, 1))
    return {"mixed": unevenness(plain), "even": unevenness(even), "still": still(plain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="pairs of either kind")
    n = parser.parse_args().n
    model = DiffusionTransformer(model_dtype=torch.bfloat16)
    told = asked("full", Row("val", "one", Mentions(0, 1, 1, 1, 1)), 2 * n, seed=6)[0]
    names = get_world("full").objects
    rows = {"noises": (between_noises(model, f"a {names[i]}", [2 * i, 2 * i + 1])
                       for i in range(n)),
            "prompts": (between_prompts(model, told[2 * i:2 * i + 2], i) for i in range(n))}
    result = {}
    for name, found in rows.items():
        found = list(found)
        columns = {key: torch.tensor([row[key] for row in found]).double() for key in found[0]}
        medians = {key: round(column.median().item(), 3) for key, column in columns.items()}
        result[name] = {"pairs": n, **medians}
        if name == "noises":
            result[name]["effect"] = str(effect(columns["lerp"], columns["slerp"]))
        print(name, json.dumps(result[name]), flush=True)
    if n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
