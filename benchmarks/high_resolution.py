#!/usr/bin/env python
"""Measure pictures of 256 pixels before and after fine-tuning, and what large sizes cost.

    benchmarks/high_resolution.py --train runs/high_resolution   fine-tune, note the curve; resumes
    benchmarks/high_resolution.py             100 prompts of each kind by every way, then the costs
    benchmarks/high_resolution.py -n 4        fewer, one size; the stored result stays

`curve`: after so many minutes of the processor's training, how many of 64 prompts of held-out
pairs are entirely right; drawing and judging are not counted. `ways`: the shipped model's pictures
enlarged; the shipped model with its positions repeated, extended and stretched; the fine-tuned
model by its card's setting, and by the shipped model's, which is not shifted. All draw the same
prompts from the same seeds; every prompt says all but the tint, of sixteen objects.
`right`: entirely, of n, by the judge, on pictures averaged down to 128 pixels. `copies`: how often
an object asked for alone is found, in the sizes it has at 128 pixels or twice those, a mean.
`error`: root mean square against the scene that the judge read, painted on 256 pixels, 8-bit
levels; `coded` is that of true scenes through the autoencoder. `sharpness`: as in chapter 12, over
that of the painted scenes; both of pictures in which a scene was read. `cost`: one evaluation of
the 101M model, random weights, bfloat16: tokens, work, time over that at 256 pixels, memory beyond
weights; `decoder`: memory of decoding with an autoencoder of SDXL's size, whole and in tiles.
"""
import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from _results import store
from generate import sdxl_size
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tld.autoencoder import decode_latents, encode_images
from tld.configs import DenoiserConfig
from tld.denoiser import Denoiser, cloned, load_denoiser, n_params
from tld.diffusion import DiffusionTransformer
from tld.high_resolution import (
    at_size,
    count_copies,
    high_resolution_config,
    resolution_shift,
    shifted_sampling,
)
from tld.measures import sharpness
from tld.pictures import to_float
from tld.recipes import SIXTEEN_OBJECTS, train_high_resolution
from tld.weights import SHIPPED, ModelFiles
from tld.world.facts import Mentions
from tld.world.judge import Judge, judge_prompts
from tld.world.models import Row, asked
from tld.world.scenes import paint_batch

RESULT = Path(__file__).with_suffix(".json")
STORED = 100   # prompts of each kind
GROUP = 25     # pictures drawn at once
SIZES = 48, 80, 96, 160   # of objects: at 128 pixels, and at 256
TABLE = "denoiser_trans_block.pos_embed.weight"
ALL = Mentions(category=0, size=1, place=1, relation=1, background=1)
KINDS = {"one object": Row("val", "one", ALL), "pairs seen": Row("val", "pair", ALL),
         "pairs held out": Row("unseen", "pair", ALL)}

Way = Callable[[list[str], list[int]], Tensor]   # prompts, seeds -> pictures


def drawn(model: Denoiser, small: DiffusionTransformer, sampling: dict) -> Way:
    "Draw with another denoiser and the shipped encoders."
    painter = DiffusionTransformer(vae=small.vae, encoder=small.encoder, denoiser=model,
                                   model_dtype=torch.bfloat16)
    return lambda prompts, seeds: painter.generate_images(prompts, seed=seeds, **sampling)


class Referee:
    "Notes the share right while a run trains, and the processor time it took."
    def __init__(self, path: Path, every: int = 500, n: int = 64):
        self.path, self.every = path, every
        self.prompts = asked(SIXTEEN_OBJECTS, KINDS["pairs held out"], n, seed=21)[0]
        self.small, self.judge = DiffusionTransformer(), Judge("full")
        known = json.loads(path.read_text()) if path.exists() else {"curve": [], "minutes": 0.0}
        self.curve, self.used = known["curve"], known["minutes"]
        self.since = time.process_time()

    def __call__(self, run) -> None:
        self.used += (time.process_time() - self.since) / 60
        if run.step % self.every == 0 or run.step == 100:
            right, old = 0, self.small.denoiser.latent_shape[1:]
            shift = resolution_shift(old, run.ema_model.latent_shape[1:])
            way = drawn(run.ema_model, self.small, shifted_sampling(self.small.sampling, shift))
            for i in range(0, len(self.prompts), GROUP):
                prompts = self.prompts[i:i + GROUP]
                x = way(prompts, list(range(i, i + len(prompts))))
                right += int(judge_prompts(prompts, x, self.judge)[2]["all"].sum())
            self.curve.append({"steps": run.step, "minutes": round(self.used, 2),
                               "right": right, "n": len(self.prompts)})
            print(self.curve[-1], flush=True)
        self.path.write_text(json.dumps({"curve": self.curve, "minutes": self.used}))
        self.since = time.process_time()


def train(out_dir: str) -> list[dict]:
    "Fine-tune, and keep the curve."
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    referee = Referee(Path(out_dir) / "curve.json")
    train_high_resolution(high_resolution_config(out_dir), SHIPPED["high_resolution"],
                          on_eval=referee)
    return referee.curve


# ---- pictures ----

def repeated(model: Denoiser) -> Denoiser:
    "The same model with its grid of positions laid out four times."
    grid = model.state_dict()[TABLE].view(*model.denoiser_trans_block.grid, -1)
    return cloned(model, {TABLE: grid.repeat(2, 2, 1).flatten(0, 1)},
                  image_size=2 * model.config.image_size)


def ways() -> dict[str, Way]:
    "Ways to draw 256 pixels."
    small = DiffusionTransformer(model_dtype=torch.bfloat16)
    side, setting = 2 * small.denoiser.config.image_size, small.sampling
    tuned, own = load_denoiser("high_resolution")[0], ModelFiles("high_resolution").sampling

    def enlarged(prompts, seeds):
        return F.interpolate(small.generate_images(prompts, seed=seeds), scale_factor=2,
                             mode="bicubic").clamp(-1, 1)
    extended = at_size(small.denoiser, side, stretch=False)
    return {"128 pixels, enlarged": enlarged,
            "positions repeated": drawn(repeated(small.denoiser), small, setting),
            "positions extended": drawn(extended, small, setting),
            "positions stretched": drawn(at_size(small.denoiser, side), small, setting),
            "fine-tuned": drawn(tuned, small, own),
            "fine-tuned, not shifted": drawn(tuned, small, setting)}


def rms(a: Tensor, b: Tensor) -> Tensor:   # (B,), 8-bit levels
    return 127.5 * (a - b).square().mean((1, 2, 3)).sqrt()


def measure_ways(n: int) -> dict[str, dict]:
    "Draw the same prompts by every way, and measure."
    judge, table = Judge("full"), {}
    data = {kind: asked(SIXTEEN_OBJECTS, row, n, seed=22) for kind, row in KINDS.items()}
    for way, draw_way in ways().items():
        row: dict = {"right": {}, "copies": [], "error": [], "sharpness": []}
        for kind, (prompts, scenes) in data.items():
            right = 0
            for start in range(0, n, GROUP):
                part = slice(start, min(start + GROUP, n))
                x = draw_way(prompts[part], list(range(n))[part])
                _, readings, marks = judge_prompts(prompts[part], x, judge)
                right += int(marks["all"].sum())
                if kind == "one object":   # of two, a part of one may look like the other
                    row["copies"] += [count_copies(image, scene.objects[0], SIZES)
                                      for image, scene in zip(x, scenes[part])]
                if seen := [i for i, r in enumerate(readings) if r.scene]:
                    read = to_float(paint_batch([readings[i].scene for i in seen], 2))
                    row["error"] += rms(x[seen], read).tolist()
                    row["sharpness"] += (sharpness(x[seen]) / sharpness(read)).tolist()
            row["right"][kind] = {"right": right, "n": n}
        table[way] = {"right": row.pop("right"), **{
            name: round(statistics.mean(v), 3) if v else None for name, v in row.items()}}
        print(way, json.dumps(table[way]), flush=True)
    true = to_float(paint_batch(data["pairs seen"][1][:n], 2))
    vae = DiffusionTransformer().vae
    coded = torch.cat([decode_latents(vae, encode_images(vae, x)) for x in true.split(GROUP)])
    table["the true scene, coded"] = {
        "error": round(rms(coded, true).mean().item(), 3),
        "sharpness": round((sharpness(coded) / sharpness(true)).mean().item(), 3)}
    return table


# ---- costs ----

def memory_from_here() -> Callable[[], int]:
    "Forget the peak of this process's memory (Linux only); what is returned tells the new one, MB."
    def peak() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) // 1000
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    return lambda: peak() - before


def denoiser_cost(px: int) -> dict:
    "One evaluation of the 101M model; run in a process of its own."
    torch.manual_seed(0)
    base = Denoiser.from_config(DenoiserConfig.published_101m())
    model = at_size(base, px // 8).eval().to(torch.bfloat16)
    x, level = torch.randn(1, 4, px // 8, px // 8), torch.full((1, 1), 0.5)
    text = torch.randn(1, 768)
    del base
    megabytes, times = memory_from_here(), []
    with torch.inference_mode():
        for _ in range(4):
            start = time.perf_counter()
            out = model(x, level, text)
            times.append(time.perf_counter() - start)
    # Counted without numbers: on a CPU the counter does not know the fused attention.
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Denoiser.from_config(model.config)(torch.zeros(x.shape), torch.ones(1, 1),
                                           torch.zeros(1, 768))
    return {"shape": list(out.shape), "parameters": n_params(model), "tokens": (px // 16) ** 2,
            "gflop": round(counter.get_total_flops() / 1e9), "seconds": min(times),
            "megabytes": megabytes()}


def decoder_cost(px: int, tile: int | None) -> dict:
    "Memory of decoding one picture by a decoder of SDXL's size; run in a process of its own."
    vae = sdxl_size()
    megabytes = memory_from_here()
    out = decode_latents(vae, torch.randn(1, 4, px // 8, px // 8), tile=tile)
    return {"shape": list(out.shape), "megabytes": megabytes()}


def apart(*arguments: object) -> dict:
    "Run a part of this script in a process of its own, as memory is counted from its start."
    command = [sys.executable, __file__, "--part", *map(str, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def costs(sizes: list[int]) -> tuple[dict, dict]:
    "Denoiser and decoder, at each size of picture."
    denoiser = {f"{px} px": apart("denoiser", px) for px in sizes}
    first = denoiser[f"{sizes[0]} px"]["seconds"]
    for row in denoiser.values():   # seconds differ from machine to machine
        row["time over 256 px"] = round(row.pop("seconds") / first, 1)
    decoder = {f"{px} px, {how}": apart("decoder", px, tile)
               for px in sizes[1:] for how, tile in (("whole", 0), ("tiles of 64", 64))
               if tile < px // 8}
    return denoiser, decoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED)
    parser.add_argument("--train", metavar="FOLDER", help="fine-tune there, and note the curve")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        kind, *numbers = args.part
        cost = denoiser_cost if kind == "denoiser" else decoder_cost
        print(json.dumps(cost(*(int(number) or None for number in numbers))))
        return
    results = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    if args.train:
        results["curve"] = train(args.train)
    else:
        results["ways"] = measure_ways(args.n)
        sizes = [256, 512, 1024] if args.n == STORED else [256]
        results["cost"], results["decoder"] = costs(sizes)
    print(json.dumps(results, indent=1))
    if args.train or args.n == STORED:
        store(RESULT, results)


if __name__ == "__main__":
    main()
