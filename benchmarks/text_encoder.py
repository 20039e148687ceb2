#!/usr/bin/env python
"""Measure the shipped text encoder on scenes it never saw; write the result beside this script.

    benchmarks/text_encoder.py            2,000 scenes of each held-out split, some minutes
    benchmarks/text_encoder.py -n 50      fewer, and the stored result stays

For each scene with two objects, a caption of it must be nearer (cosine) than a caption of each of
three others that differ in one thing: objects swapped, relation turned, another background. The
question is asked by another caption of the scene and by its picture. `all` counts scenes where the
right caption beats all three. `same_scene_cosine` is the mean between two captions of one scene.
"""
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _results import store
from tqdm.auto import tqdm

from tld.text import load_text_encoder
from tld.weights import SHIPPED
from tld.world.contrast import pick_captions
from tld.world.scenes import make_scene

RESULT = Path(__file__).with_suffix(".json")
STORED = 2000  # scenes of each split in the stored result
BATCH = 100


def measure(split: str, n: int) -> dict:
    "Count on the first n scenes with two objects of a split."
    encoder, rng = load_text_encoder(), np.random.default_rng(0)
    drawn = (make_scene("full", split, 0, i) for i in range(10 * n))
    pairs = [s for s, _ in zip((s for s in drawn if s.relation), range(n))]
    alike: list[float] = []
    won: dict[str, list[torch.Tensor]] = {"caption": [], "picture": []}
    for start in tqdm(range(0, n, BATCH), desc=split):
        batch, cosines = pick_captions(encoder, pairs[start:start + BATCH], rng)
        alike += cosines.tolist()
        for who, kinds in batch.items():
            won[who].append(torch.stack(list(kinds.values()), 1))
    result: dict = {"scenes": n, "same_scene_cosine": round(float(np.mean(alike)), 4)}
    for who, parts in won.items():
        ok = torch.cat(parts)
        counts = dict(zip(batch[who], ok.sum(0).tolist()))
        result[who] = {**counts, "all": int(ok.all(1).sum())}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="scenes of each split")
    n = parser.parse_args().n
    results = {split: measure(split, n) for split in ("val", "unseen")}
    results["bytes"] = (SHIPPED["text_encoder"] / "model.pt").stat().st_size
    for name, result in results.items():
        print(f"{name}: {json.dumps(result)}")
    if n == STORED:
        store(RESULT, results)


if __name__ == "__main__":
    main()
