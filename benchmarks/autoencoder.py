#!/usr/bin/env python
"""Train the autoencoder, and measure it on fresh scenes.

    benchmarks/autoencoder.py RUN                  train (resumes), save in RUN, measure
    benchmarks/autoencoder.py RUN --steps 20       a trial
    benchmarks/autoencoder.py --measure MODEL      measure a stored one only

The recipe is `AutoencoderConfig()`. Blocks of 8 x 8 pixels become 192 channels on a grid
of 16 x 16, on which all layers work: the fast way on a CPU. About an hour of one core.
"""
import argparse
import json
from pathlib import Path

import torch

from tld.autoencoder import AutoencoderConfig, decode_latents, encode_images, load_autoencoder, psnr
from tld.pictures import to_float
from tld.recipes import train_autoencoder
from tld.world.captions import SceneDataset
from tld.world.judge import Judge
from tld.world.scenes import paint_batch

FULL = AutoencoderConfig()


def measure(folder: Path, n: int = 512) -> dict:
    "Fidelity on fresh scenes, what the judge reads in them decoded, and the spread of latents."
    dataset = SceneDataset("full", "val", seed=5)
    vae, judge = load_autoencoder(folder), Judge("full")
    images, decoded, latents, right = [], [], [], 0
    for start in range(0, n, 64):
        scenes = [dataset.scene(i) for i in range(start, min(n, start + 64))]
        images.append(to_float(paint_batch(scenes)))
        latents.append(encode_images(vae, images[-1]))
        decoded.append(decode_latents(vae, latents[-1]))
        right += sum(r.scene == s for r, s in zip(judge.read(decoded[-1]), scenes))
    x, y, z = map(torch.cat, (images, decoded, latents))
    return {"pictures": n, "psnr": round(psnr(y, x), 2), "judge_right": right,
            "channel_mean": [round(v, 2) for v in z.mean((0, 2, 3)).tolist()],
            "channel_std": [round(v, 2) for v in z.std((0, 2, 3)).tolist()]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/autoencoder"),
                        help="folder of the run's state and of the model")
    parser.add_argument("--channels", type=int, default=FULL.latent_channels)
    parser.add_argument("--steps", type=int, default=FULL.n_steps)
    parser.add_argument("--measure", type=Path, help="a folder with a model")
    args = parser.parse_args()
    if not args.measure:
        decay = round(args.steps * FULL.decay_steps / FULL.n_steps)
        cfg = AutoencoderConfig(
            latent_channels=args.channels, n_steps=args.steps, decay_steps=decay)
        train_autoencoder(SceneDataset("full", "train", seed=1), args.run, cfg, dtype=torch.float16)
    print(json.dumps(measure(args.measure or args.run), indent=1))


if __name__ == "__main__":
    main()
