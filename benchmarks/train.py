#!/usr/bin/env python
"""Measure how much of the machine's matrix speed a training step uses, at three sizes.

    benchmarks/train.py                       about five minutes on two cores; writes train.json
    benchmarks/train.py --seconds 0.1         a trial; the stored result stays
    benchmarks/train.py --precision no        in float32
    benchmarks/train.py --without-amx         as on a processor without matrix units; stored apart

The peak is that of a large matrix product in the same process, the work of a step is what
`torch.utils.flop_counter` counts in a forward pass, three times (backward costs two). Fractions are
medians over rounds of a second, in each the peak and then the step, so that a machine that is
slower for a while is slower for both. So do steps of the original's loop in plain PyTorch (Adam,
its own attention kernel, convolutions over channels first, averages by a loop), for the ratio of
pictures per second. On a GPU the clock is that of CUDA events, and the largest size has a batch of
256. The parts of a step are timed apart; a part outside forward and backward is
`outside`. At the end each kind of optimiser and average is timed against the one in use.
"""
import argparse
import copy
import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from _results import store
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tld.configs import DataConfig, DenoiserConfig, ModelConfig, TrainConfig
from tld.denoiser import Denoiser
from tld.fit import accumulate_gradients, draw_batches, draw_noise, fit_steps, training_loss
from tld.harness.parallel import start_accelerator, wrap
from tld.latents import LatentShards
from tld.optim import ema_decay, ema_update
from tld.train import build
from tld.transformer_blocks import MLPSepConv

RESULT = Path(__file__).with_suffix(".json")
# name: sizes of the model, pictures per step on a CPU, on a GPU
SIZES = {
    "3 x 128, 16 x 16": (dict(n_layers=3, embed_dim=128, image_size=16), 128, 1024),
    "6 x 256, 16 x 16": (dict(n_layers=6, embed_dim=256, image_size=16), 64, 1024),
    "12 x 768, 32 x 32": (dict(n_layers=12, embed_dim=768, image_size=32), 4, 256),
}
ROUNDS = 9
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
# Matrix units (AMX) make products several times faster, but not what surrounds them: compare
# fractions on one kind of machine only. This is what PyTorch's library then still uses.
WITHOUT_AMX = "AVX512_CORE_BF16"
# What the original's model reached in plain PyTorch under bfloat16 autocast, two cores without AMX.
ORIGINAL = {"3 x 128, 16 x 16": 0.24, "6 x 256, 16 x 16": 0.48, "12 x 768, 32 x 32": 0.72}


class Clock:
    "Seconds of a call, on the device that does the work."
    def __init__(self, device: torch.device):
        self.gpu = device.type == "cuda"

    def __call__(self, work: Callable[[], object]) -> float:
        if not self.gpu:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def repeat(clock: Clock, work: Callable[[], object], seconds: float, least: int = 3) -> list[float]:
    "Times of a call, over and over for so long."
    times: list[float] = []
    while len(times) < least or sum(times) < seconds:
        times.append(clock(work))
    return times


def peak(device: torch.device, dtype: torch.dtype, clock: Clock, seconds: float) -> float:
    "Floating-point operations per second of a large matrix product, the best of many."
    n = 8192 if clock.gpu else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    a @ b
    return 2 * n**3 / min(repeat(clock, lambda: a @ b, seconds))


def step_cost(config: DenoiserConfig, batch_size: int) -> int:
    "Floating-point operations of forward and backward."
    model = Denoiser.from_config(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *model.latent_shape), torch.full((1, 1), 0.5),
              torch.ones(1, config.text_emb_size))
    return 3 * batch_size * counter.get_total_flops()


def make_data(config: DenoiserConfig, n: int, folder: Path) -> DataConfig:
    rng, side = np.random.default_rng(0), config.image_size
    z = rng.standard_normal((n, config.n_channels, side, side), dtype=np.float32)
    np.save(folder / "latents.npy", z.astype(np.float16))
    text = rng.standard_normal((n, config.text_emb_size), dtype=np.float32)
    np.save(folder / "text.npy", text.astype(np.float16))
    return DataConfig(str(folder / "latents.npy"), str(folder / "text.npy"))


class Steps:
    "A training run without its harness: call it to take a step."
    def __init__(self, config: ModelConfig, accelerator: Accelerator):
        paths, self.accelerator = config.data_config, accelerator
        self.cfg = replace(config.train_config, n_steps=1_000_000)   # no end
        model, self.ema_model, optimizer = build(config, accelerator)
        self.model, self.optimizer = wrap(model, optimizer, accelerator)
        self.data = LatentShards(paths.latent_path, paths.text_emb_path)
        self.steps = fit_steps(self.model, draw_batches(self.data, self.cfg), self.cfg,
                               self.optimizer, ema=self.ema_model, engine=accelerator)

    def __call__(self):
        next(self.steps)

    def draw(self, step: int = 3) -> tuple:
        "The batch and the noise of a step."
        batch = next(draw_batches(self.data, self.cfg, step))
        return batch, draw_noise(self.cfg, step, batch)


def parts_of_a_step(run: Steps, clock: Clock, seconds: float) -> dict[str, float]:
    "Seconds of each part, medians."
    cfg, accelerator = run.cfg, run.accelerator
    batch, noise = run.draw()
    decay = ema_decay(3, cfg.alpha, cfg.ema_gamma)

    def gradients():
        run.optimizer.zero_grad()
        accumulate_gradients(run.model, batch, noise, cfg, training_loss, accelerator)

    def step():
        accelerator.clip_grad_norm_(run.model.parameters(), cfg.grad_clip)
        run.optimizer.step()
    parts = {"forward and backward": gradients, "clipping and optimiser": step,
             "average": lambda: ema_update(run.ema_model, run.model, decay),
             "data and noise": run.draw}
    return {name: statistics.median(repeat(clock, part, seconds)) for name, part in parts.items()}


class PlainMLP(nn.Module):
    "The layers of `MLPSepConv`, applied as they are to (B, D, H, W)."
    def __init__(self, mlp: MLPSepConv):
        super().__init__()
        self.mlp = mlp.mlp

    def forward(self, x, grid):
        return self.mlp(x.mT.unflatten(2, grid)).flatten(2).mT


def plain_attention(q, k, v, attn_mask, is_causal, dropout_p):
    return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal)


def plain_step(config: DenoiserConfig, run: Steps) -> Callable[[], None]:
    "A step of the original's loop, as one would write it: the same model, batch and precision."
    cfg, device = run.cfg, run.accelerator.device
    model = Denoiser.from_config(config).to(device)
    for block in model.denoiser_trans_block.decoder_blocks:
        block.mlp = PlainMLP(block.mlp)
    average, optimizer = copy.deepcopy(model), torch.optim.Adam(model.parameters(), lr=cfg.lr)
    batch, noise = (part.to(device) for part in run.draw(0))

    def step():
        with patch("tld.transformer_blocks.attend", plain_attention):
            with run.accelerator.autocast():
                loss = training_loss(model, batch, noise, cfg)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters()):
                a.mul_(cfg.alpha).add_(p, alpha=1 - cfg.alpha)
    return step


def memory(device: torch.device) -> float:
    "Largest use so far, in MB: of the device, or of this process."
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(name: str, args: argparse.Namespace) -> dict:
    "Train for a while at one size; what fraction of the peak that is, and where the rest goes."
    sizes, on_cpu, on_gpu = SIZES[name]
    with tempfile.TemporaryDirectory() as tmp:
        batch = on_gpu if torch.cuda.is_available() else on_cpu
        cfg = TrainConfig(batch_size=batch, optimizer=args.optimizer, run_dir=f"{tmp}/run",
                          mixed_precision=args.precision, compile=args.compile)
        model = DenoiserConfig(**sizes)
        config = ModelConfig(make_data(model, max(2 * batch, 256), Path(tmp)), model, cfg)
        with start_accelerator(config) as accelerator:
            clock, dtype = Clock(accelerator.device), DTYPES[accelerator.mixed_precision]
            step = Steps(config, accelerator)
            for _ in range(3):
                step()
            cost, fractions, speeds, ratios = step_cost(model, batch), [], [], []
            plain = plain_step(model, step)
            plain()

            def middle(work: Callable[[], object]) -> float:
                return statistics.median(repeat(clock, work, args.seconds, least=1))
            for _ in range(ROUNDS):
                top = peak(accelerator.device, dtype, clock, args.seconds / 3)
                seconds = middle(step)
                fractions.append(cost / seconds / top)
                speeds.append((batch / seconds, cost / seconds, top))
                ratios.append(middle(plain) / seconds)
            parts = parts_of_a_step(step, clock, args.seconds)
            images, flops, top = (statistics.median(column) for column in zip(*speeds))
            print(f"{name}, batch {batch}, {accelerator.mixed_precision}: {images:.1f} images/s, "
                  f"{flops / 1e9:.0f} of {top / 1e9:.0f} GFLOP/s, "
                  f"{memory(accelerator.device):.0f} MB at most", flush=True)
    whole = sum(parts.values())
    shares = {part: round(seconds / whole, 4) for part, seconds in parts.items()}
    result = {"fraction of peak": round(statistics.median(fractions), 3),
              "lowest, highest": [round(f(fractions), 3) for f in (min, max)],
              "the original, bf16": ORIGINAL[name],
              "speed over plain PyTorch": round(statistics.median(ratios), 2),
              "shares of a step": shares,
              "outside": round(1 - shares["forward and backward"], 4), "batch": batch}
    print(json.dumps(result), flush=True)
    return result


def compare_updates(seconds: float) -> dict[str, float]:
    "Time of other ways to step and to average, 6 x 256, over that of the way in use."
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Denoiser.from_config(DenoiserConfig(n_layers=6, embed_dim=256)).to(device)
    average, clock = copy.deepcopy(model), Clock(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)

    @torch.no_grad()
    def loop():
        for a, p in zip(average.parameters(), model.parameters()):
            a.lerp_(p, 0.001)
    kinds = {"fused": dict(fused=True), "foreach": dict(foreach=True), "loop": dict(foreach=False)}
    ways = {f"AdamW, {kind}": torch.optim.AdamW(model.parameters(), **options).step
            for kind, options in kinds.items()}
    ways |= {"average, foreach": lambda: ema_update(average, model, 0.999), "average, loop": loop}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(3):
        for name, way in ways.items():
            times[name].append(statistics.median(repeat(clock, way, seconds / 3)))
    best = {name: min(values) for name, values in times.items()}
    used = {"AdamW": best["AdamW, fused"], "average": best["average, foreach"]}
    return {name: round(value / used[name.split(",")[0]], 2) for name, value in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--sizes", type=int, default=3, help="only the first so many")
    parser.add_argument("--precision", choices=DTYPES, help="default: what the device does well")
    parser.add_argument("--optimizer", default="adamw", help="adamw or muon")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--without-amx", action="store_true")
    args = parser.parse_args()
    if args.without_amx:
        os.environ["ONEDNN_MAX_CPU_ISA"] = WITHOUT_AMX   # read at the first product
    results: dict = {name: measure(name, args) for name in list(SIZES)[:args.sizes]}
    results["time of other updates over the one in use"] = compare_updates(3 * args.seconds)
    print(json.dumps(results["time of other updates over the one in use"]))
    stored = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for suffix, plain in {"": [], ", without AMX": ["--without-amx"]}.items():
        if args == parser.parse_args(plain):
            store(RESULT, stored | {key + suffix: result for key, result in results.items()})


if __name__ == "__main__":
    main()
