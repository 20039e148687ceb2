#!/usr/bin/env python
"""Measure what drawing costs, against what the machine can do; write counts and ratios beside this.

    benchmarks/generate.py              the shipped model, then the 101M configuration
    benchmarks/generate.py --skip-101m  the shipped model only
    benchmarks/generate.py -n 2 --steps 2 --fast   a smoke test; the stored result stays

Both draw 36 pictures in as many steps as the shipped model's card says, in bfloat16; the shipped
model as its card says, with guidance at high noise only, the other with guidance at all levels. The
peak is that of a bfloat16 matrix product in the same process, the best of several before *and*
after the run, as other load on the machine changes both alike. Work is counted in multiply-adds
times two, by PyTorch's own counter, and only that of matrix products, convolutions and attention: a
layer norm counts as no work, but its time counts. `share_of_peak` is work / time / peak over the
denoiser's calls; `share_of_rest` is the time of everything else (text, noise, solver, guidance,
decoding, PIL) in the whole.

The 101M configuration has random weights, and so has its autoencoder of Stable Diffusion XL's size;
neither changes what it costs. Without a CLIP of its size its text is random, too. Where there is a
GPU it runs there as well. Seconds are printed, never stored.
"""
import argparse
import json
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from _results import store
from diffusers import AutoencoderKL
from torch.utils.flop_counter import FlopCounterMode

from tld.autoencoder import load_autoencoder
from tld.configs import DenoiserConfig, LTDConfig
from tld.denoiser import Denoiser, n_params
from tld.diffusion import DiffusionTransformer
from tld.generator import DiffusionGenerator
from tld.pictures import to_pil
from tld.sampling import N_STEPS
from tld.weights import SHIPPED, ModelFiles
from tld.world.captions import SceneDataset

RESULT = Path(__file__).with_suffix(".json")
STORED = 36  # pictures of the stored result
BF16 = torch.bfloat16


class Clock:
    "Seconds by stage; a stage within another is taken off the outer one."
    def __init__(self, device: torch.device):
        self.device, self.seconds, self.calls, self.stack = device, defaultdict(float), {}, []
        self.rows = defaultdict(int)   # latents, pictures ... that a stage was given

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def stage(self, name: str):
        start, outer = self.now(), self.stack
        self.stack = [0.0]
        yield
        spent = self.now() - start
        self.seconds[name] += spent - self.stack[0]
        self.calls[name] = self.calls.get(name, 0) + 1
        self.stack = outer
        if outer:
            outer[0] += spent

    def watch(self, owner: object, method: str, name: str):
        "Time every call of a method as a stage."
        plain = getattr(owner, method)

        def timed(*args, **kwargs):
            self.rows[name] += len(args[0])
            with self.stage(name):
                return plain(*args, **kwargs)
        setattr(owner, method, timed)


def flops_per_second(device: torch.device, side: int, seconds: float = 1.0) -> float:
    "The best rate of a bfloat16 matrix product of this side, over about so many seconds."
    a, b = (torch.randn(side, side, dtype=BF16, device=device) for _ in range(2))
    clock, best = Clock(device), 0.0
    a @ b
    end = clock.now() + seconds
    while (start := clock.now()) < end:
        a @ b
        best = max(best, 2 * side**3 / (clock.now() - start))
    return best


def peak(device: torch.device) -> float:
    sides = (2048, 4096, 8192) if device.type == "cuda" else (768, 1024, 2048)
    return max(flops_per_second(device, side) for side in sides)


def flops_of_a_call(generator: DiffusionGenerator, batch: int) -> int:
    "The work of one call of the denoiser."
    x = torch.randn(batch, *generator.model.latent_shape, device=generator.device)
    config = generator.model.config
    rows = [config.n_text_tokens] * (config.n_text_tokens > 1)
    label = torch.randn(batch, *rows, config.text_emb_size, device=generator.device)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        generator.denoise(x, torch.full((batch, 1), 0.5, device=generator.device), label)
    return counter.get_total_flops()


def timed_run(draw: Callable[[], list], clock: Clock) -> float:
    "Draw once and leave only that run on the clock; its seconds."
    clock.seconds.clear()
    clock.calls.clear()
    clock.rows.clear()
    start = clock.now()
    with clock.stage("solver and the rest"):
        draw()
    return clock.now() - start


def measure(name: str, generator: DiffusionGenerator, draw: Callable[[], list], clock: Clock,
            n: int, repeats: int) -> dict:
    "Time `draw`, print it stage by stage, and give the ratios."
    device, model = generator.device, generator.model
    before, whole = peak(device), 0.0
    flops = flops_of_a_call(generator, n) / n   # of one latent
    clock.watch(model, "forward", "denoiser")
    clock.watch(generator, "decode", "decoder")
    for _ in range(repeats):
        taken = timed_run(draw, clock)
        if not whole or taken < whole:
            whole, stages, calls = taken, dict(clock.seconds), dict(clock.calls)
            rows = clock.rows["denoiser"]   # guidance asks with the text and without
    best = max(before, peak(device))
    rate = flops * rows / stages["denoiser"]
    result = {"parameters": n_params(model), "pictures": n, "denoiser_calls": calls["denoiser"],
              "latents_per_picture": round(rows / n, 2), "gflop_per_latent": round(flops / 1e9, 3),
              "share_of_peak": round(rate / best, 3),
              "share_of_rest": round(1 - stages["denoiser"] / whole, 3),
              "shares": {k: round(v / whole, 4) for k, v in sorted(stages.items())}}
    print(f"{name} on {device}: {n} pictures in {whole:.2f} s; peak {best / 1e9:,.0f} GFLOP/s, "
          f"denoiser {rate / 1e9:,.0f} GFLOP/s = {rate / best:.0%} of it")
    for stage, spent in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"  {stage:20} {spent:8.3f} s  {spent / whole:6.1%}")
    return result


def own_steps() -> int:
    "The steps of the shipped model."
    there = (SHIPPED["denoiser"] / "denoiser.json").is_file()
    return ModelFiles().sampling["n_iter"] if there else N_STEPS


def shipped(n: int, steps: int, fast: bool) -> dict:
    "The shipped model from prompts to PIL pictures (or one like it, if none is there)."
    config = LTDConfig()
    if not (SHIPPED["denoiser"] / "denoiser.json").is_file():
        print("no shipped denoiser: one of its size with random weights")
        warnings.simplefilter("ignore")
        config = LTDConfig(denoiser_cfg=DenoiserConfig.scenes())
    model = DiffusionTransformer(config, model_dtype=BF16)
    scenes, clock = SceneDataset("full", "val"), Clock(model.diffuser.device)
    prompts = [scenes.caption(i) for i in range(n)]
    clock.watch(model, "embed", "text encoder")

    def draw() -> list:
        images = model.generate_images(prompts, n_iter=steps)
        with clock.stage("PIL"):
            return [to_pil(image) for image in images]
    return measure("shipped", model.diffuser, draw, clock, n, 1 if fast else 5)


def sdxl_size() -> AutoencoderKL:
    "An autoencoder with the layout and size of Stable Diffusion XL's, random weights."
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        sample_size=256, scaling_factor=0.13025)
    vae.enable_slicing()  # one picture at a time: 36 at once would need several GB
    return vae.eval().requires_grad_(False).to(BF16)


def published(device: torch.device, n: int, steps: int, fast: bool) -> dict:
    "The 101M configuration at 256 pixels, from embeddings to PIL pictures."
    config = DenoiserConfig.tiny(image_size=16, n_channels=16) if fast \
        else DenoiserConfig.published_101m()
    vae = load_autoencoder() if fast else sdxl_size()
    generator = DiffusionGenerator(Denoiser.from_config(config), vae, device, BF16)
    labels, clock = torch.randn(n, config.text_emb_size), Clock(device)

    def draw() -> list:
        images = generator.generate(labels, steps)[0]
        with clock.stage("PIL"):
            return [to_pil(image) for image in images]
    return measure("101M", generator, draw, clock, n, 1 if device.type == "cpu" else 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="pictures")
    parser.add_argument("--steps", type=int, help="(as many as the shipped model's card says)")
    parser.add_argument("--skip-101m", action="store_true")
    parser.add_argument("--fast", action="store_true", help="small stand-ins, one repetition")
    args = parser.parse_args()
    steps = args.steps or own_steps()
    print(f"{torch.get_num_threads()} threads, {steps} steps")
    results = {"shipped": shipped(args.n, steps, args.fast)}
    if not args.skip_101m:
        devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
        for device in map(torch.device, devices):
            results[f"101M on {device}"] = published(device, args.n, steps, args.fast)
    if (args.n, steps) == (STORED, own_steps()) and not args.fast:
        kept = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        store(RESULT, {**kept, **results})


if __name__ == "__main__":
    main()
