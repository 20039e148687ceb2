#!/usr/bin/env python
"""Measure pictures of 128 pixels before and after fine-tuning, and what large sizes cost.

    benchmarks/high_resolution.py --train runs/high_resolution   fine-tune, and note the curve
    benchmarks/high_resolution.py             100 prompts of each kind by every way, then the costs
    benchmarks/high_resolution.py -n 4        fewer, one large size; the stored result stays

`curve`: after so many minutes of one core's training, how many of 64 prompts of never-seen pairs
are entirely right; drawing and judging are not counted. `ways`: the shipped model's pictures
enlarged; the shipped model with stretched and with repeated positions; the fine-tuned model in the
shipped one's way (15 steps, guidance 2), in its own, and in its own on noise levels shifted by 2.
All draw the same prompts from the same seeds.
`right`: entirely, of n, by the judge, on pictures averaged down to 64 pixels. `copies`: how often
an object asked for alone is found, at the size it has at 64 pixels or at twice that, a mean.
`error`: root mean square against the true scene painted on 128 pixels, 8-bit levels, captions that
name the background; `coded` is that of the true scene through the autoencoder. `sharpness`: as in
chapter 12, over that of the true scenes. `cost`: one evaluation of the 101M model, random weights,
bfloat16: tokens, work, time over that at 256 pixels, memory beyond
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

from tld.autoencoder import decode_latents, encode_images, load_autoencoder
from tld.configs import DenoiserConfig
from tld.denoiser import Denoiser, load_denoiser, n_params
from tld.diffusion import DiffusionTransformer
from tld.high_resolution import (
    at_size,
    count_copies,
    encode_high_resolution,
    high_resolution_config,
)
from tld.measures import sharpness
from tld.noise_schedules import noise_level_grid
from tld.pictures import to_float
from tld.precision import autocasted
from tld.recipes import shipped_encoders, train_high_resolution
from tld.sampling import GUIDANCE, draw
from tld.text import load_text_encoder
from tld.weights import SHIPPED, ModelFiles
from tld.world.judge import Judge, judge_marks
from tld.world.scenes import SceneDataset, shipped_world

RESULT = Path(__file__).with_suffix(".json")
STORED = 100   # prompts of each kind
GROUP = 25     # pictures drawn at once


class Referee:
    "Notes the share right while a run trains, and the processor time it took."
    def __init__(self, path: Path, every: int = 200, n: int = 64):
        self.path, self.every = path, every
        self.prompts = [SceneDataset(shipped_world(), "unseen", n, seed=21).scene(i).caption
                        for i in range(n)]
        self.vae, self.judge = load_autoencoder(), Judge("full")
        with torch.no_grad():
            self.labels = load_text_encoder()(self.prompts)
        known = json.loads(path.read_text()) if path.exists() else {"curve": [], "minutes": 0.0}
        self.curve, self.used = known["curve"], known["minutes"]
        self.since = time.process_time()

    def __call__(self, run) -> None:
        self.used += (time.process_time() - self.since) / 60
        if run.step % self.every == 0 or run.step in (50, 100):
            right = 0
            for i in range(0, len(self.prompts), GROUP):
                z = draw(autocasted(run.ema_model, "bf16"), run.ema_model.latent_shape,
                         range(i, len(self.prompts))[:GROUP], cond=self.labels[i:i + GROUP],
                         guidance=GUIDANCE)
                marks = judge_marks(decode_latents(self.vae, z),
                                    self.prompts[i:i + GROUP], self.judge)
                right += int(marks["all"].sum())
            self.curve.append({"steps": run.step, "minutes": round(self.used, 2),
                               "right": right, "n": len(self.prompts)})
            print(self.curve[-1], flush=True)
        self.path.write_text(json.dumps({"curve": self.curve, "minutes": self.used}))
        self.since = time.process_time()


def train(out_dir: str) -> list[dict]:
    "Fine-tune, and keep the curve."
    config = high_resolution_config(out_dir)
    if not Path(config.data_config.text_emb_path).exists():
        encode_high_resolution(out_dir, *shipped_encoders())
    referee = Referee(Path(out_dir) / "curve.json")
    train_high_resolution(config, SHIPPED["high_resolution"], on_eval=referee)
    return referee.curve


# ---- pictures ----

KINDS = {"one object": ("val", 1), "seen pairs": ("val", 2), "never-seen pairs": ("unseen", 2)}


def repeated(model: Denoiser) -> Denoiser:
    "The same model with its grid of positions laid out four times."
    wide, (rows, columns) = at_size(model, 32), model.denoiser_trans_block.grid
    table = model.denoiser_trans_block.pos_embed.weight.detach().view(rows, columns, -1)
    wide.denoiser_trans_block.pos_embed.weight.data = table.repeat(2, 2, 1).flatten(0, 1)
    return wide


def ways() -> dict[str, Callable[[list[str], list[int]], Tensor]]:
    "Ways to draw 128 pixels: name -> function of (captions, seeds)."
    small = DiffusionTransformer(model_dtype=torch.bfloat16)

    def large(model: Denoiser) -> DiffusionTransformer:
        return DiffusionTransformer(vae=small.vae, encoder=small.encoder, denoiser=model,
                                    model_dtype=torch.bfloat16)
    tuned, before = load_denoiser("high_resolution")[0], at_size(small.denoiser, 32)
    own = ModelFiles("high_resolution").sampling

    def enlarged(captions, seeds):
        return F.interpolate(small.generate_images(captions, seed=seeds), scale_factor=2,
                             mode="bicubic").clamp(-1, 1)

    def drawn(model, **how):
        return lambda captions, seeds: large(model).generate_images(captions, seed=seeds, **how)
    shifted = {**own, "noise_levels": noise_level_grid(own["n_iter"], shift=2.0)}
    return {"64 pixels, enlarged": enlarged,
            "positions repeated": drawn(repeated(small.denoiser)),
            "positions stretched": drawn(before),
            "positions stretched, its way": drawn(before, **own),
            "fine-tuned": drawn(tuned),
            "fine-tuned, its way": drawn(tuned, **own),
            "fine-tuned, its way, shifted": drawn(tuned, **shifted)}


def rms(a: Tensor, b: Tensor) -> Tensor:   # (B,), 8-bit levels
    return 127.5 * (a - b).square().mean((1, 2, 3)).sqrt()


def measure_ways(n: int) -> dict[str, dict]:
    "Draw the same prompts by every way, and measure."
    judge, table = Judge("full"), {}
    data = {kind: SceneDataset(shipped_world(), split, n, seed=22, n_objects=k, p_background=1.0,
                               scale=2) for kind, (split, k) in KINDS.items()}
    for way, draw_way in ways().items():
        row: dict = {"right": {}, "copies": [], "error": [], "sharpness": []}
        for kind, scenes in data.items():
            right = 0
            for start in range(0, n, GROUP):
                rows = range(start, min(start + GROUP, n))
                captions = [scenes.scene(i).caption for i in rows]
                true = to_float(torch.stack([scenes[i][0] for i in rows]))
                x = draw_way(captions, list(rows))
                right += int(judge_marks(x, captions, judge)["all"].sum())
                if kind == "one object":   # of two, a part of one may look like the other
                    boxes = [(s.objects[0], s.boxes[0][2]) for s in map(scenes.scene, rows)]
                    row["copies"] += [count_copies(image, *box, (1, 2))
                                      for image, box in zip(x, boxes)]
                row["error"] += rms(x, true).tolist()
                row["sharpness"] += (sharpness(x) / sharpness(true)).tolist()
            row["right"][kind] = {"right": right, "n": n}
        table[way] = {"right": row.pop("right"),
                      **{name: round(statistics.mean(v), 3) for name, v in row.items()}}
        print(way, json.dumps(table[way]), flush=True)
    true = to_float(torch.stack([data["seen pairs"][i][0] for i in range(min(n, 100))]))
    vae = load_autoencoder()
    coded = decode_latents(vae, encode_images(vae, true))
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
        results["cost"], results["decoder"] = costs([256, 512, 1024] if args.n == STORED
                                                    else [256, 512])
    print(json.dumps(results, indent=1))
    if args.train or args.n == STORED:
        store(RESULT, results)


if __name__ == "__main__":
    main()
