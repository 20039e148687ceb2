#!/usr/bin/env python
"""Measure the few-step student against its teacher; write shares and distances beside this.

    benchmarks/distill.py --train runs/few_steps   distil the student that ships; resumes
    benchmarks/distill.py            all of it, ten minutes on one core
    benchmarks/distill.py -n 20      fewer prompts of each kind; nothing is stored

Every way of drawing has the same prompts and the same start noises, so the effects are paired and
the distances are between pictures of one noise. `accuracy` is the judge's, on held-out prompts;
`distance` the root mean square of the latents' difference to those of the teacher's trajectory (as
many steps as its card says, no noise added), over their spread; `off` how far a picture's corners
are from the nearest of the world's background colours (sRGB, 0 to 255), on prompts that leave the
background open;
`passes` rows through the network for a picture; `time` the processor time of drawing and decoding
32 pictures over the teacher's, medians of turns.
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
from tld.distill import DistillConfig
from tld.files import write_atomically
from tld.measures import effect, wilson_interval
from tld.precision import autocasted, pick_precision
from tld.recipes import train_few_steps
from tld.sampling import draw as draw_latents
from tld.sampling import sampling_levels
from tld.text import load_text_encoder
from tld.weights import SHIPPED, ModelFiles
from tld.world.captions import encode_captions
from tld.world.facts import Mentions
from tld.world.judge import Judge, judge_prompts, known_grounds
from tld.world.measure import setting_of
from tld.world.models import FAITHFUL, Row, asked
from tld.world.scores import Setting

RESULT = Path(__file__).with_suffix(".json")
RUNS = Path(__file__).parents[1] / "runs" / "distill"
TEACHER, TRAJECTORY = "teacher", "teacher, no noise added"
ODE = {"sampler": "dpmpp_2m"}
WAYS = {  # weights, and what differs from their card's setting
    TEACHER: ("denoiser", {}),
    TRAJECTORY: ("denoiser", ODE),
    **{f"student, {n} steps": ("few_steps", {"n_iter": n}) for n in (1, 2, 4)},
    **{f"teacher, {n} steps": ("denoiser", {**ODE, "n_iter": n}) for n in (1, 2, 4)},
    "teacher, 4 steps, w = 1": ("denoiser", {**ODE, "n_iter": 4, "class_guidance": 1.0}),
}
OPEN = "one object, background left open"
KINDS = {kind: FAITHFUL[kind] for kind in ("one object", "pairs seen", "pairs held out")}
KINDS[OPEN] = Row("val", "one", Mentions(category=0, background=0))
PART = 50
STORED = 300   # prompts of each kind in the stored result


def off_palette(images: torch.Tensor) -> torch.Tensor:
    "How far the corners, of 4 x 4 pixels, are from the nearest background, root mean square, (B,)."
    c = (images.clamp(-1, 1) + 1) * 127.5
    corners = torch.stack([c[..., :4, :4], c[..., :4, -4:], c[..., -4:, :4], c[..., -4:, -4:]])
    mean = corners.mean((0, -1, -2))                                            # (B, 3)
    return (mean[:, None] - 255 * known_grounds()).square().mean(-1).sqrt().amin(1)


def setting(way: str) -> Setting:
    "How a way draws."
    place, changes = WAYS[way]
    return setting_of(ModelFiles(place).sampling, **changes)


def passes(way: str) -> int:
    "Rows through the network for a picture: two in a guided step."
    how = setting(way)
    low, high = how.interval
    levels = sampling_levels(how.n_steps, shift=how.shift)[:-1]
    acts = (levels >= low) & (levels <= high) if how.guidance != 1 else levels < 0
    return len(levels) + int(acts.sum())


def draw(way: str, captions: list[str], seeds: range, parts: dict) -> torch.Tensor:
    model, how = parts["models"][WAYS[way][0]], setting(way)
    text = encode_captions(parts["encoder"], captions, model.config.n_text_tokens)
    return draw_latents(autocasted(model, pick_precision("cpu")), model.latent_shape, seeds,
                        how.n_steps, how.sampler, cond=text, guidance=how.guidance,
                        interval=how.interval, shift=how.shift)


def measure(way: str, kind: str, prompts: list[str], parts: dict, folder: Path) -> dict:
    "Columns of one way and kind, from parts that are kept."
    columns: dict = {}
    for start in range(0, len(prompts), PART):
        rows = range(start, min(start + PART, len(prompts)))
        path = folder / f"{way}_{kind}_{start}_{len(rows)}.pt".replace(" ", "-")
        if not path.exists():
            captions = [prompts[i] for i in rows]
            latents = draw(way, captions, rows, parts)
            images = decode_latents(parts["vae"], latents)
            marks = judge_prompts(captions, images, parts["judge"])[2]
            out = {"latents": latents, "all": marks["all"]}
            if kind == OPEN:
                out["off"] = off_palette(images)
            write_atomically(path, lambda p, out=out: torch.save(out, p))
        for name, values in torch.load(path, weights_only=True).items():
            columns.setdefault(name, []).append(values)
    return {name: torch.cat(values) for name, values in columns.items()}


def times(captions: list[str], parts: dict, turns: int = 3) -> dict[str, float]:
    "Processor time of each way over the teacher's, drawing and decoding the same 32 prompts."
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for way in list(WAYS) * (turns + 1):
        start = time.process_time()
        decode_latents(parts["vae"], draw(way, captions, range(len(captions)), parts))
        spent[way].append(time.process_time() - start)
    middle = {way: statistics.median(seconds[1:]) for way, seconds in spent.items()}
    return {way: round(seconds / middle[TEACHER], 3) for way, seconds in middle.items()}


def row_of(way: str, found: dict, time_share: float, n: int) -> dict:
    "What is stored of a way."
    row: dict = {"passes": passes(way), "time": time_share, "accuracy": {}}
    close = {}
    for kind in KINDS:
        mine, end = found[way, kind], found[TRAJECTORY, kind]["latents"]
        close[kind] = ((mine["latents"] - end).square().mean().sqrt() / end.std()).item()
        right = int(mine["all"].sum())
        row["accuracy"][kind] = {"right": right, "n": n, "share": round(right / n, 4),
                                 "interval": [round(p, 4) for p in wilson_interval(right, n)]}
    row["off"] = round(found[way, OPEN]["off"].mean().item(), 2)
    old, new = (torch.cat([found[w, kind]["all"] for kind in KINDS]) for w in (TEACHER, way))
    e = effect(old.float(), new.float())
    row["effect"], row["says"] = [round(v, 4) for v in (e.difference, e.low, e.high)], str(e)
    row["distance_open"] = round(close.pop(OPEN), 4)
    row["distance"] = round(statistics.mean(close.values()), 4)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=STORED, help="prompts of each kind")
    parser.add_argument("--train", metavar="FOLDER", help="distil, with the run's state there")
    args = parser.parse_args()
    if args.train:
        train_few_steps(DistillConfig(run_dir=args.train), SHIPPED["few_steps"], progress=True)
        return
    n = args.n
    torch.set_num_threads(1)
    parts = {"vae": load_autoencoder(), "encoder": load_text_encoder(), "judge": Judge("full")}
    prompts = {kind: asked("full", row, n, seed=4)[0] for kind, row in KINDS.items()}
    models = "denoiser", "few_steps"
    weights = [ModelFiles(place).sha256[:8] for place in models]
    folder, begun, found = RUNS / "-".join([str(n), *weights]), time.perf_counter(), {}
    parts["models"] = {place: load_denoiser(place)[0] for place in models}
    cost = times(asked("full", KINDS[OPEN], 32, seed=4)[0], parts)
    for way in WAYS:
        for kind in KINDS:
            found[way, kind] = measure(way, kind, prompts[kind], parts, folder)
            print(f"{time.perf_counter() - begun:6.0f} s  {way}, {kind}", flush=True)
    result: dict = {"n": n}
    for way in WAYS:
        result[way] = row_of(way, found, cost[way], n)
        print(way, result[way])
    if n == STORED:
        store(RESULT, result)


if __name__ == "__main__":
    main()
