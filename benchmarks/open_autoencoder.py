#!/usr/bin/env python
"""Train the autoencoder of the open world, and measure it on fresh scenes.

    benchmarks/open_autoencoder.py RUN                  train (resumes), write RUN/model, measure
    benchmarks/open_autoencoder.py RUN --steps 20       a trial
    benchmarks/open_autoencoder.py RUN --measure MODEL  measure a stored one only

Blocks of 8 x 8 pixels become 192 channels on a grid of 16 x 16, on which all layers work: the fast
way on a CPU. An hour or so of one core with bfloat16 products. It is the first of the parts that a
model of the open world needs; the others are not there yet.
"""
import argparse
import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from tld.autoencoder import autoencoder_loss, decode_latents, encode_images, load_autoencoder, psnr
from tld.files import write_atomically
from tld.pictures import to_float
from tld.world.open_judge import OpenJudge
from tld.world.open_scenes import make_scene, paint_batch

WIDTH, BATCH, LR, KL_WEIGHT = 128, 16, 2e-3, 1e-4


def pictures(split: str, seed: int, start: int, n: int):
    "Scenes of the full open world, and their pictures in [-1, 1]."
    scenes = [make_scene("full", split, seed, i) for i in range(start, start + n)]
    return scenes, to_float(paint_batch(scenes))


def build(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=192, out_channels=192, block_out_channels=(WIDTH,),
        down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1, latent_channels=channels, norm_num_groups=16,
        mid_block_add_attention=False, sample_size=16, scaling_factor=1.0)


def train(run: Path, channels: int, steps: int) -> AutoencoderKL:
    torch.manual_seed(0)
    vae = build(channels).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), LR, betas=(.9, .99), weight_decay=0)
    path, first = run / "state.pt", 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        vae.load_state_dict(state["m"])
        optimizer.load_state_dict(state["o"])
        first = state["step"]
    for step in range(first, steps):
        torch.manual_seed(step)
        rate = LR * min(1, (step + 1) / 50, (steps - step) / (.4 * steps))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, error = autoencoder_loss(vae, pictures("train", 1, step * BATCH, BATCH)[1], KL_WEIGHT)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"m": vae.state_dict(), "o": optimizer.state_dict(), "step": step + 1}
            write_atomically(path, lambda p, state=state: torch.save(state, p))
            print(f"step {step + 1}: {10 * math.log10(4 / error.item()):.1f} dB", flush=True)
    return vae.eval()


@torch.no_grad()
def finish(vae: AutoencoderKL, folder: Path):
    "Store the latents' mean and deviation, and save in float16."
    x = F.pixel_unshuffle(pictures("train", 2, 0, 512)[1], 8)
    z = vae.encode(x).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / z.std().item(), shift_factor=z.mean().item())
    vae.half().save_pretrained(folder)


@torch.no_grad()
def measure(folder: Path, n: int = 512) -> dict:
    "Fidelity on fresh scenes, what the judge reads in them decoded, and the spread of latents."
    vae, judge = load_autoencoder(folder), OpenJudge("full")
    quality, right, latents = [], 0, []
    for start in range(0, n, 64):
        scenes, x = pictures("val", 5, start, 64)
        latents.append(encode_images(vae, x))
        y = decode_latents(vae, latents[-1])
        quality.append(psnr(y, x))
        right += sum(r.scene == s for r, s in zip(judge.read(y), scenes))
    z = torch.cat(latents)
    return {"pictures": n, "psnr": round(sum(quality) / len(quality), 2), "judge_right": right,
            "latents_std": round(z.std().item(), 3),
            "channels_std": [round(s, 2) for s in z.std((0, 2, 3)).tolist()]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/open_autoencoder"),
                        help="folder of state and model")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--measure", type=Path, help="a folder with a model")
    args = parser.parse_args()
    folder = args.measure or args.run / "model"
    if not args.measure:
        finish(train(args.run, args.channels, args.steps), folder)
    print(json.dumps(measure(folder), indent=1))


if __name__ == "__main__":
    main()
