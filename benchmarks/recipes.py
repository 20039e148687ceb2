#!/usr/bin/env python
"""Train the starter world by many recipes at equal compute; write what each reached.

    benchmarks/recipes.py                all of them, two hours or so on one core
    benchmarks/recipes.py --only Muon    those whose names hold a word
    benchmarks/recipes.py --steps 3      a trial; the stored result stays

Every run sees the same 32,000 pictures (linear patch latents, 8 channels), captions and noise as
the first, but for what its name says; a batch of another size takes as many more or fewer steps.
The rate falls to zero over the last 30%, the average spans about a tenth of the run. Measured on
the same prompts and scenes by `tld.world.report`: 256 prompts of each kind, and the distance
from the exact denoiser. Finished runs are kept in the JSON beside this script: stopped, it goes on.
"""
import argparse
import copy
import json
import time
from pathlib import Path

import torch
from _results import store

from tld.configs import DenoiserConfig, TrainConfig
from tld.denoiser import Denoiser, n_params
from tld.fit import PlainEngine, fit_steps, make_optimizer
from tld.precision import pick_precision
from tld.text import load_text_encoder
from tld.world.captions import SceneDataset
from tld.world.facts import Mentions
from tld.world.judge import Judge
from tld.world.models import WorldModel, from_network
from tld.world.parts import Sizes
from tld.world.patch_latents import starter_data
from tld.world.report import measure_world, measures_of
from tld.world.scores import Codec, Setting
from tld.world.training import CaptionedLatents, painted_latents

RESULT = Path(__file__).with_suffix(".json")
PICTURES = 32_000
SIZES = Sizes(prompts=256, objects=8, known=24, scenes=8)
SETTING = Setting(10, 5.0, "dpmpp_2m", 2.0, (0.8, 1.0))
NOISE = {"beta": dict(noise_distribution="beta"), "uniform": dict(noise_distribution="uniform")}


def mixture(*parts: tuple[float, float]) -> dict:
    loc, scale = zip(*parts)
    return dict(logit_loc=loc, logit_scale=scale)


ADAMW, EDM = dict(optimizer="adamw"), dict(prediction="edm", loss_weighting="edm")
RECIPES: dict[str, dict] = {
    "the starting point": {},
    "the starting point, seed 1": dict(seed=1),
    "the starting point, seed 2": dict(seed=2),
    # Which noise, and how it is weighed.
    "noise Beta(1, 2.5), the original's": NOISE["beta"],
    "noise uniform": NOISE["uniform"],
    "noise logit-normal(.5, 1.2)": mixture((0.5, 1.2)),
    "noise logit-normal(1.5, 1.3)": mixture((1.5, 1.3)),
    "noise (.5, 1.2) and (2.4, .9)": mixture((0.5, 1.2), (2.4, 0.9)),
    "noise (.5, 1.2), (1.3, .8) and (2.4, .9)": mixture((0.5, 1.2), (1.3, 0.8), (2.4, 0.9)),
    "weight 1": dict(loss_weighting="x0"),
    "weight 1 / sigma^2, at most 4": dict(min_noise_level=0.5),
    "weight 1 / sigma^2, at most 100": dict(min_noise_level=0.1),
    "EDM's prediction and weight": EDM,
    "EDM's prediction and weight, noise (1.5, 1.3)": {**EDM, **mixture((1.5, 1.3))},
    "levels not stratified": dict(stratified=False),
    # How the run ends.
    "no decay": dict(lr_schedule="constant"),
    "decay over the whole run": dict(decay=1.0),
    "decay over the last 10%": dict(decay=0.1),
    "no average": dict(alpha=0.0),
    "average over a third": dict(alpha=0.997),
    "no clipping": dict(grad_clip=0.0),
    # What captions say.
    "size and place in 30% of captions": dict(mentions=Mentions(size=0.3, place=0.3)),
    "everything always said": dict(mentions=Mentions(0, 1, 1, 1, 1)),
    "captions dropped: 5%": dict(cond_drop_prob=0.05),
    "captions dropped: 20%": dict(cond_drop_prob=0.2),
    # The text, the size, the optimiser.
    "text pooled to one row": dict(n_text_tokens=1),
    "positions learned": dict(positions="learned"),
    "no adaLN": dict(adaln=False),
    "QK-norm": dict(qk_norm=True),
    "batch 16": dict(batch_size=16),
    "batch 64": dict(batch_size=64),
    "batch 64, Muon 0.02": dict(batch_size=64, muon_lr=0.02),
    "256 wide": dict(embed_dim=256),
    "128 wide, 6 layers": dict(embed_dim=128, n_layers=6),
    "Muon 0.005": dict(muon_lr=0.005),
    "Muon 0.02": dict(muon_lr=0.02),
    "Muon 0.01, AdamW 1e-3": dict(lr=1e-3),
    "AdamW 5e-4": {**ADAMW, "lr": 5e-4},
    "AdamW 1e-3": {**ADAMW, "lr": 1e-3},
    "AdamW 2e-3": ADAMW,
    "AdamW 4e-3": {**ADAMW, "lr": 4e-3},
}
_CONFIG = DenoiserConfig.__dataclass_fields__


def run(changes: dict, pictures: int, text: str) -> dict:
    "Train one recipe and measure it."
    changes = dict(changes)
    mentions, decay = changes.pop("mentions", None), changes.pop("decay", 0.3)
    sizes = DenoiserConfig.scenes(**{
        "n_channels": 8, **{k: v for k, v in changes.items() if k in _CONFIG}})
    recipe = TrainConfig.scenes(**{
        "alpha": 0.99,
        **{k: v for k, v in changes.items() if k not in _CONFIG}})
    recipe.n_steps = pictures // recipe.batch_size
    recipe.decay_steps = int(decay * recipe.n_steps)
    scenes = SceneDataset("starter", "train", 1 << 20, 17, mentions)
    encoder, patches = load_text_encoder(text), starter_data(1)[2]
    data = CaptionedLatents(
        scenes, painted_latents(scenes, patches.encode), encoder, sizes.n_text_tokens)
    torch.manual_seed(recipe.seed)
    model = Denoiser.from_config(sizes)
    average = copy.deepcopy(model).requires_grad_(False)
    begin = time.process_time()
    for step in fit_steps(
            model, data.batches(recipe), recipe,
            make_optimizer(model, recipe), ema=average,
            engine=PlainEngine("cpu", pick_precision("cpu"))):
        loss = step.loss
    minutes = (time.process_time() - begin) / 60
    world = WorldModel(from_network(average, encoder), Codec(patches.encode, patches.decode),
                       Judge("starter"))
    found = measures_of(measure_world(world, SETTING, SIZES, only=("faithful", "excess")))
    kept = {name: [round(v, 4) for v in (m["value"], *m["interval"])]
            for name, m in found.items() if "mmse)" not in name}
    parts = {part: round(share, 3) for part, share in
             found["faithful: one object"]["parts"].items()}
    return {"processor_minutes": round(minutes, 2), "parameters": n_params(model),
            "loss": round(loss.item(), 4), "one_object": parts, "measures": kept}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="shipped", help="folder of the text encoder")
    parser.add_argument("--only", default="", help="a word of the names")
    parser.add_argument("--steps", type=int, help="of 32 pictures; a trial")
    args = parser.parse_args()
    pictures = 32 * args.steps if args.steps else PICTURES
    results = {} if args.steps or not RESULT.exists() else json.loads(RESULT.read_text())
    for name, changes in RECIPES.items():
        if name in results or args.only not in name:
            continue
        results[name] = run(changes, pictures, args.text)
        print(name, json.dumps(results[name]), flush=True)
        if not args.steps:
            store(RESULT, results)


if __name__ == "__main__":
    main()
