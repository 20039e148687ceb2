#!/usr/bin/env python
"""Measure the shipped autoencoder on scenes it never saw; write the result beside this script.

    benchmarks/autoencoder.py            1,000 scenes of each held-out split, about five minutes
    benchmarks/autoencoder.py -n 50      fewer, and the stored result stays

`psnr_db` is of the mean squared error over all pixels of all pictures, `worst_db` of the worst
picture. The judge counts a picture as right when objects, relation and background all are; it reads
the originals as well, so that its own mistakes can be told from the autoencoder's. `*_std` are of
the scaled latents. Speeds are printed, not stored.
"""
import argparse
import json
import time
from pathlib import Path

import torch
from _results import store
from tqdm.auto import tqdm

from tld.autoencoder import decode_latents, encode_images, load_autoencoder, psnr
from tld.pictures import to_float
from tld.world.captions import wanted_of
from tld.world.judge import Judge, agreement
from tld.world.scenes import SceneDataset

RESULT = Path(__file__).with_suffix(".json")
STORED = 1000  # scenes of each split in the stored result
BATCH = 50


def right(judge: Judge, images: torch.Tensor, wanted: list) -> list[bool]:
    "Whether the judge reads each picture, (B, 3, 64, 64) in [-1, 1], as wanted."
    readings = judge.read((images + 1) / 2)
    return [agreement(w, reading)["all"] for w, reading in zip(wanted, readings)]


def measure(split: str, n: int) -> tuple[dict, dict]:
    "The accuracy on the first n scenes of a split, and how fast the parts were, pictures/s."
    vae, judge, dataset = load_autoencoder(), Judge("full"), SceneDataset("full", split, n)
    images, decoded, latents, ok, ok_originals = [], [], [], [], []
    seconds = {"encode": 0.0, "decode": 0.0}
    for start in tqdm(range(0, n, BATCH), desc=split):
        items = range(start, min(start + BATCH, n))
        images.append(to_float(torch.stack([dataset[i][0] for i in items])))
        clock = time.perf_counter()
        latents.append(encode_images(vae, images[-1]))
        seconds["encode"] += time.perf_counter() - clock
        clock = time.perf_counter()
        decoded.append(decode_latents(vae, latents[-1]))
        seconds["decode"] += time.perf_counter() - clock
        wanted = [wanted_of(dataset.scene(i)) for i in items]
        ok += right(judge, decoded[-1], wanted)
        ok_originals += right(judge, images[-1], wanted)
    x, y, z = map(torch.cat, (images, decoded, latents))
    each = [psnr(a, b) for a, b in zip(x, y)]
    result = {
        "scenes": n, "psnr_db": round(psnr(x, y), 2), "worst_db": round(min(each), 2),
        "judge_right": sum(ok), "judge_right_originals": sum(ok_originals),
        "misread": [dataset.scene(i).caption for i in range(n) if not ok[i]],
        "latent_std": round(z.std().item(), 3),
        "channel_mean": [round(v, 2) for v in z.mean((0, 2, 3)).tolist()],
        "channel_std": [round(v, 2) for v in z.std((0, 2, 3)).tolist()],
    }
    return result, {part: n / s for part, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="scenes of each split")
    n = parser.parse_args().n
    results = {}
    for split in ("val", "unseen"):
        results[split], speed = measure(split, n)
        print(f"{split}: {json.dumps(results[split])}")
        print(f"{split}: " + ", ".join(f"{part} {v:.0f} pictures/s" for part, v in speed.items())
              + f" on {torch.get_num_threads()} threads")
    if n == STORED:
        store(RESULT, results)


if __name__ == "__main__":
    main()
