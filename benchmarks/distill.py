#!/usr/bin/env python
"""Measure the few-step student against its teacher; write shares and distances beside this.

    benchmarks/distill.py            all of it, ten minutes on one core
    benchmarks/distill.py --n 20     fewer prompts of each kind; nothing is stored

Every way of drawing has the same prompts and the same start noises, so the effects are paired and
the distances are between pictures of one noise. `accuracy` is the judge's, on held-out prompts;
`distance` the root mean square of the latents' difference to the teacher's fifteen guided steps,
over the spread of the teacher's latents; `off` how far a picture's corners are from the nearest of
the world's eight background colours (sRGB, 0 to 255), on prompts that leave the background open;
`time` the processor time of drawing and decoding 32 pictures over the teacher's, medians of turns.
Parts are kept in runs/distill/, by weights: a script that was stopped resumes.
"""
import argparse
import statistics
import time
from pathlib import Path

import torch
from _results import store

from tld.autoencoder import decode_latents, load_autoencoder
from tld.denoiser import load_denoiser
from tld.files import write_atomically
from tld.measures import effect, wilson_interval
from tld.precision import autocasted
from tld.sampling import draw as draw_latents
from tld.text import load_text_encoder
from tld.weights import ModelFiles
from tld.world.judge import Judge, judge_marks
from tld.world.objects import BACKGROUNDS
from tld.world.scenes import SceneDataset, held_out_prompts

RESULT = Path(__file__).with_suffix(".json")
RUNS = Path(__file__).parents[1] / "runs" / "distill"
TEACHER = "teacher, 15 guided steps"
WAYS = {  # weights, steps, guidance, passes of the network
    TEACHER: ("denoiser", 15, 2.0, 30),
    "student, 1 step": ("few_steps", 1, 1.0, 1),
    "student, 2 steps": ("few_steps", 2, 1.0, 2),
    "student, 4 steps": ("few_steps", 4, 1.0, 4),
    "teacher, 1 step": ("denoiser", 1, 1.0, 1),
    "teacher, 2 steps": ("denoiser", 2, 1.0, 2),
    "teacher, 4 steps": ("denoiser", 4, 1.0, 4),
}
OPEN = "one object, background left open"
JUDGED = list(WAYS)[:5]
PART = 50
STORED = 300   # prompts of each kind in the stored result


def off_palette(images: torch.Tensor) -> torch.Tensor:
    "How far the corners, of 4 x 4 pixels, are from the nearest background, root mean square, (B,)."
    colours = torch.tensor(list(BACKGROUNDS.values())).float()
    c = (images.clamp(-1, 1) + 1) * 127.5
    corners = torch.stack([c[..., :4, :4], c[..., :4, -4:], c[..., -4:, :4], c[..., -4:, -4:]])
    mean = corners.mean((0, -1, -2))                                            # (B, 3)
    return (mean[:, None] - colours).square().mean(-1).sqrt().amin(1)


def draw(way: str, captions: list[str], seeds: range, parts: dict) -> torch.Tensor:
    place, steps, guidance, _ = WAYS[way]
    model, sampler = parts["models"][place], "dpmpp_2m" if place == "denoiser" else "ddim"
    return draw_latents(autocasted(model, "bf16"), model.latent_shape, seeds, steps, sampler,
                        cond=parts["encoder"](captions), guidance=guidance)


def measure(way: str, kind: str, prompts: SceneDataset, parts: dict, folder: Path) -> dict:
    "Columns of one way and kind, from parts that are kept."
    columns = {}
    for start in range(0, len(prompts), PART):
        rows = range(start, min(start + PART, len(prompts)))
        path = folder / f"{way}_{kind}_{start}_{len(rows)}.pt".replace(" ", "-")
        if not path.exists():
            captions = [prompts.scene(i).caption for i in rows]
            latents, out = draw(way, captions, rows, parts), {}
            if kind == OPEN:
                out["off"] = off_palette(decode_latents(parts["vae"], latents))
            elif way in JUDGED:
                images = decode_latents(parts["vae"], latents)
                out["all"] = judge_marks(images, captions, parts["judge"])["all"]
            out["latents"] = latents
            write_atomically(path, lambda p, out=out: torch.save(out, p))
        for name, values in torch.load(path, weights_only=True).items():
            columns.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in columns.items()}


def times(prompts: SceneDataset, parts: dict, turns: int = 3) -> dict[str, float]:
    "Processor time of each way over the teacher's, drawing and decoding the same 32 prompts."
    captions, spent = [prompts.scene(i).caption for i in range(32)], {way: [] for way in WAYS}
    for way in list(WAYS) * (turns + 1):
        start = time.process_time()
        decode_latents(parts["vae"], draw(way, captions, range(32), parts))
        spent[way].append(time.process_time() - start)
    middle = {way: statistics.median(seconds[1:]) for way, seconds in spent.items()}
    return {way: round(seconds / middle[TEACHER], 3) for way, seconds in middle.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=STORED, help="prompts of each kind")
    n = parser.parse_args().n
    torch.set_num_threads(1)
    parts = {"vae": load_autoencoder(), "encoder": load_text_encoder(),
             "judge": Judge("full")}
    kinds = held_out_prompts(n)
    kinds[OPEN] = SceneDataset("full", "val", n, seed=4, n_objects=1, p_background=0.0)
    models = "denoiser", "few_steps"
    weights = [ModelFiles(place).sha256[:8] for place in models]
    folder, begun, all_of = RUNS / "-".join([str(n), *weights]), time.perf_counter(), {}
    parts["models"] = {place: load_denoiser(place)[0] for place in models}
    cost = times(SceneDataset("full", "val", 32, seed=4), parts)
    for way in WAYS:
        for kind, prompts in kinds.items():
            all_of[way, kind] = measure(way, kind, prompts, parts, folder)
            print(f"{time.perf_counter() - begun:6.0f} s  {way}, {kind}", flush=True)
    result = {"n": n}
    for way, (_, steps, guidance, passes) in WAYS.items():
        row = {"steps": steps, "guidance": guidance, "passes": passes, "time": cost[way],
               "accuracy": {}}
        close = []
        for kind in kinds:
            mine, teacher = all_of[way, kind], all_of[TEACHER, kind]
            close.append((mine["latents"] - teacher["latents"]).square().mean().sqrt()
                         / teacher["latents"].std())
            if "off" in mine:
                row["off"] = round(mine["off"].mean().item(), 2)
            if "all" in mine:
                right = int(mine["all"].sum())
                interval = [round(p, 4) for p in wilson_interval(right, n)]
                row["accuracy"][kind] = {"right": right, "n": n, "share": round(right / n, 4),
                                         "interval": interval}
        judged = [k for k in kinds if "all" in all_of[way, k]]
        if judged:
            old, new = (torch.cat([all_of[w, k]["all"] for k in judged]) for w in (TEACHER, way))
            e = effect(old.float(), new.float())
            row["effect"] = [round(e.difference, 4), round(e.low, 4), round(e.high, 4)]
            row["says"] = str(e)
        row["distance"] = round(torch.stack(close[:-1]).mean().item(), 4)
        row["distance_open"] = round(close[-1].item(), 4)
        result[way] = row
        print(way, row)
    if n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
