#!/usr/bin/env python
"""Train the denoiser of the open world; stop it at any time, the same command resumes.

    benchmarks/open_denoiser.py RUN --text T                     encode pictures, train
    benchmarks/open_denoiser.py RUN --text T --minutes 150       a slice
    benchmarks/open_denoiser.py RUN --text T --finish 8000 --out FOLDER
                                                                 let the rate fall, and store
    benchmarks/open_denoiser.py RUN --text T --world starter --autoencoder patches \\
        --model '{"n_channels": 8}'                              sixteen objects, linear latents

The pictures of RUN/latents are encoded once; their captions are drawn anew each time one is used.
The learning rate stays up until `--finish N` lets it fall to zero over N steps more: in a state
file of its own, so that the run can go on afterwards from where it was. What is stored are the
averaged weights.
"""
import argparse
import copy
import json
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from tld.autoencoder import encode_images, load_autoencoder
from tld.configs import DenoiserConfig, TrainConfig, config_to_dict
from tld.denoiser import Denoiser
from tld.files import write_atomically
from tld.fit import PlainEngine, batch_indices, fit_steps, make_optimizer
from tld.latents import Batch, dequantize_latents, open_npy, quantize_latents
from tld.pictures import to_float
from tld.precision import autocast, pick_precision
from tld.recipes import load_state, save_state
from tld.text import TextEncoder, load_text_encoder
from tld.weights import save_denoiser
from tld.world.open_captions import OpenScenes
from tld.world.open_facts import size_name
from tld.world.open_scenes import paint_batch
from tld.world.patch_latents import PatchLatents, starter_data

ROWS, REACH, SHARD = 18, 8.0, 12_800   # text rows; of 8-bit latents; pictures in a file
SAMPLING = {"n_iter": 10, "class_guidance": 2.0, "shift": 5.0, "guidance_interval": [0.8, 1.0]}


def open_config(**changes) -> DenoiserConfig:
    "Size and switches of the shipped denoiser."
    return DenoiserConfig(**{**dict(
        image_size=16, n_channels=16, embed_dim=192, n_layers=4, adaln=True, text_emb_size=256,
        n_text_tokens=ROWS, positions="sincos"), **changes})


def open_recipe(**changes) -> TrainConfig:
    "How it is trained; without an end, at the full rate."
    return TrainConfig(**{**dict(
        batch_size=32, lr=2e-3, n_steps=100_000, warmup_steps=100, alpha=0.999, seed=0,
        noise_distribution="logit_normal", logit_loc=(0.5, 1.6, 2.7), logit_scale=(1.2, 0.8, 0.9),
        stratified=True, loss_weighting="v", min_noise_level=0.2, cond_drop_prob=0.1,
        optimizer="muon", muon_lr=0.01),
        **changes})


class Captioned:
    "Latents of scenes, and a caption drawn for each use of one."

    def __init__(self, scenes: OpenScenes, latents: Callable[[np.ndarray], Tensor],
                 encoder: TextEncoder, large: int = 1):   # large: uses of a large object in a pass
        self.scenes, self.latents, self.encoder = scenes, latents, encoder
        self.order = np.arange(len(scenes))
        if large > 1:
            boxes = (scenes.scene(int(i)).boxes for i in self.order)
            is_large = np.array([size_name(first) == "large" for first, *_ in boxes])
            self.order = np.repeat(self.order, np.where(is_large, large, 1))

    def batches(self, config: TrainConfig, first_step: int, rows: int) -> Iterator[Batch]:
        "The batches of the steps from the first on, with so many rows of text."
        for step in count(first_step):
            n = len(self.order)
            places = batch_indices(n, config.batch_size, step, config.seed)
            which, use = self.order[places], step * config.batch_size // n
            said = [self.scenes.caption(int(i), use) for i in which]
            with autocast("cpu", pick_precision("cpu")):
                text = self.encoder(said, tokens=rows > 1).float()
            yield Batch(self.latents(which), text[:, :rows] if rows > 1 else text)


def in_files(folder: Path) -> Callable[[np.ndarray], Tensor]:
    "Latents that `encode` wrote."
    files = [open_npy(path) for path in sorted(folder.glob("*_latents.npy"))]

    def latents(which: np.ndarray) -> Tensor:
        codes = np.stack([files[i // SHARD][i % SHARD] for i in which])
        return dequantize_latents(torch.from_numpy(codes), REACH)
    return latents


def painted(scenes: OpenScenes, patches: PatchLatents) -> Callable[[np.ndarray], Tensor]:
    "Linear latents are so fast that they need no files."
    return lambda which: patches.encode(paint_batch([scenes.scene(int(i)) for i in which]))


def encode(folder: Path, scenes: OpenScenes, autoencoder: str):
    "Write what is missing of the encoded pictures."
    folder.mkdir(parents=True, exist_ok=True)
    vae = load_autoencoder(autoencoder)
    for start in tqdm(range(0, len(scenes), SHARD), desc="encode", disable=None):
        path = folder / f"{start:08d}_latents.npy"
        if path.exists():
            continue
        parts = []
        for i in range(start, min(start + SHARD, len(scenes)), 128):
            rows = range(i, min(i + 128, len(scenes)))
            images = to_float(paint_batch([scenes.scene(k) for k in rows]))
            with torch.no_grad(), autocast("cpu", pick_precision("cpu")):
                parts.append(quantize_latents(encode_images(vae, images), REACH))
        codes = torch.cat(parts).numpy()

        def write(p: Path, codes=codes):
            with open(p, "wb") as f:   # `np.save` would add an ending to the name
                np.save(f, codes)
        write_atomically(path, write)


def train(args: argparse.Namespace) -> Path | None:
    scenes = OpenScenes(args.world, "train", args.pictures, seed=17)
    sizes = open_config(**json.loads(args.model))
    recipe = open_recipe(**json.loads(args.recipe))
    if args.autoencoder == "patches":
        latents = painted(scenes, starter_data(1, n_channels=sizes.n_channels)[2])
    else:
        encode(args.run / "latents", scenes, args.autoencoder)
        latents = in_files(args.run / "latents")
    data = Captioned(scenes, latents, load_text_encoder(args.text), args.large)
    settings = {"pictures": len(scenes), "model": config_to_dict(sizes),
                "recipe": json.loads(args.recipe)}
    torch.manual_seed(recipe.seed)
    model = Denoiser.from_config(sizes)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = make_optimizer(model, recipe)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    state = args.run / "state.pt"
    first = load_state(state, settings, parts)
    recipe.n_steps = args.steps
    if args.finish:   # a branch: the run itself is left as it is
        begun, state = first, args.run / f"finish_{first:07d}_{args.finish}.pt"
        first = load_state(state, settings, parts) or begun
        recipe.n_steps, recipe.decay_steps = begun + args.finish, args.finish
        recipe.lr_schedule = "linear"
    end = time.monotonic() + 60 * args.minutes
    steps = fit_steps(
        model, data.batches(recipe, first, sizes.n_text_tokens), recipe, optimizer, ema=average,
        first_step=first, engine=PlainEngine("cpu", pick_precision("cpu")))
    losses: list[float] = []
    for step in steps:
        losses.append(step.loss.item())
        last = step.number == recipe.n_steps or time.monotonic() > end
        if step.number % 500 == 0 or last:
            save_state(state, step.number, settings, parts)
            print(f"step {step.number}: loss {np.mean(losses[-500:]):.4f}", flush=True)
        if last:
            break
    done = not args.minutes or first >= recipe.n_steps or step.number == recipe.n_steps
    if not args.out or not done:
        return None
    about = {"train_config": config_to_dict(recipe), "pictures": len(scenes),
             "sampling": SAMPLING}
    return save_denoiser(average, sizes, args.out, extra=about, dtype=torch.float16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of latents and state")
    parser.add_argument("--text", default="shipped", help="folder of the text encoder")
    parser.add_argument("--autoencoder", default="benchmarks/open_autoencoder",
                        help="folder, or patches: linear latents")
    parser.add_argument("--world", default="full")
    parser.add_argument("--pictures", type=int, default=358_400, help="how many scenes")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--finish", type=int, default=0,
                        help="steps in which the rate falls to zero")
    parser.add_argument("--large", type=int, default=1,
                        help="uses of a large object for one of any other: they are a quarter of "
                             "all pictures and hold most of what is to be learned; end without")
    parser.add_argument("--minutes", type=float, default=1e9, help="of this slice")
    parser.add_argument("--model", default="{}", help="JSON: changes of the sizes")
    parser.add_argument("--recipe", default="{}", help="JSON: changes of the recipe")
    parser.add_argument("--out", type=Path, help="folder for the averaged weights, float16")
    print(train(parser.parse_args()) or "stopped, or nothing to store; the same command resumes")


if __name__ == "__main__":
    main()
