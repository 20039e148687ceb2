#!/usr/bin/env python
"""Train the starter world by many recipes at equal compute; write what each drew right.

    benchmarks/starter_recipes.py              all of them, an hour and a half on one core
    benchmarks/starter_recipes.py --steps 3    a trial; the stored result stays

Every recipe runs from three seeds, sees the same 12,000 scenes and takes 150 steps of 64 pictures,
fewer where a step costs more floating-point operations (as `torch.utils.flop_counter` counts them),
more where it costs less. Each is judged on the same 256 prompts of never-seen pairs: 15 steps of
DPM-Solver++(2M), guidance 2. Finished runs are kept in the JSON beside this script, so that a
stopped script goes on where it was.
"""
import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _results import store
from torch.utils.flop_counter import FlopCounterMode

from tld.autoencoder import load_autoencoder
from tld.configs import DataConfig, DenoiserConfig, ModelConfig, TrainConfig
from tld.denoiser import Denoiser, load_denoiser
from tld.evaluate import prompt_accuracy
from tld.recipes import shipped_encoders
from tld.text import load_text_encoder
from tld.train import main as train
from tld.world.judge import Judge
from tld.world.scenes import SceneDataset, encode_scenes

RESULT = Path(__file__).with_suffix(".json")
STEPS = 150
SEEDS = (0, 1, 2)
# What is changed.
RECIPES: dict[str, dict] = {
    "the starting point": {},
    "noise Beta(1, 2.5)": dict(noise_distribution="beta"),
    "noise uniform": dict(noise_distribution="uniform"),
    "noise logit-normal(0, 1)": dict(logit_loc=0.0, logit_scale=1.0),
    "noise logit-normal(2, 1.4)": dict(logit_loc=2.0),
    "loss weighted as v": dict(loss_weighting="v"),
    "loss weighted by min-SNR": dict(loss_weighting="min_snr"),
    "AdamW, lr 1e-3": dict(optimizer="adamw"),
    "AdamW, lr 3e-3": dict(optimizer="adamw", lr=3e-3),
    "AdamW, lr 3e-3, cosine": dict(optimizer="adamw", lr=3e-3, lr_schedule="cosine"),
    "Muon, lr 0.04": dict(muon_lr=0.04),
    "constant learning rate": dict(lr_schedule="constant"),
    "learning rate falling by a cosine": dict(lr_schedule="cosine"),
    "batch 32, twice the steps": dict(batch_size=32),
    "batch 128, half the steps": dict(batch_size=128),
    "power-function EMA": dict(ema_gamma=6.94),   # 10% of the run (Karras et al. 2024)
    "no adaLN": dict(adaln=False),
    "QK-norm": dict(qk_norm=True),
    "text as tokens, too": dict(n_text_tokens=32),
    "256 wide, 4 layers": dict(embed_dim=256),
    "64 wide, 8 layers": dict(embed_dim=64, n_layers=8),
    "batch 32, the rate falling late": dict(batch_size=32, decay_steps=120),
}


def step_cost(changes: dict) -> int:
    "Floating-point operations of the forward pass of one step."
    sizes = {k: v for k, v in changes.items() if k in DenoiserConfig.__dataclass_fields__}
    config = DenoiserConfig.scenes(**sizes)
    model, B = Denoiser.from_config(config), changes.get("batch_size", 64)
    label = torch.ones(B, config.n_text_tokens, config.text_emb_size)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(B, *model.latent_shape), torch.full((B, 1), 0.5), label)
    return counter.get_total_flops()


def run(changes: dict, steps: int, seed: int, folder: Path, data: dict[bool, DataConfig],
        parts) -> dict:
    "Train one recipe from random weights and measure it."
    sizes = {k: v for k, v in changes.items() if k in DenoiserConfig.__dataclass_fields__}
    recipe = {k: v for k, v in changes.items() if k not in sizes}
    tokens = "n_text_tokens" in sizes
    config = ModelConfig(data[tokens], DenoiserConfig.scenes(**sizes), TrainConfig.scenes(
        **{**dict(n_steps=steps, seed=seed, warmup_steps=20, run_dir=str(folder), progress=False,
                  save_and_eval_every_iters=steps), **recipe}))
    train(config)
    model, _ = load_denoiser(folder)
    vae, encoder, judge = parts
    prompts = SceneDataset("starter", "unseen", 256, seed=3)
    tokens_of = partial(encoder, tokens=tokens)
    accuracy = prompt_accuracy(model, vae, tokens_of, prompts, judge, guidance=2.0)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {"unseen": {part: round(share, 4) for part, share in accuracy.items()},
            "loss": round(log[-1]["loss"], 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=STEPS, help="of the recipe itself")
    steps = parser.parse_args().steps
    done = json.loads(RESULT.read_text()) if RESULT.exists() and steps == STEPS else {}
    vae, encoder, judge = load_autoencoder(), load_text_encoder(), Judge("starter")
    with tempfile.TemporaryDirectory() as tmp:
        dataset = SceneDataset("starter", "train", 12_000 if steps == STEPS else 256, seed=11)
        encode, _ = shipped_encoders()
        tokens = encode_scenes(tmp, dataset, encode, partial(encoder, tokens=True))
        pooled = DataConfig(tokens.latent_path, f"{tmp}/pooled.npy")
        np.save(pooled.text_emb_path, np.load(tokens.text_emb_path)[:, 0])
        data = {True: tokens, False: pooled}
        todo = [(seed, name) for seed in SEEDS[:None if steps == STEPS else 1] for name in RECIPES]
        for i, (seed, name) in enumerate(todo):
            changes = RECIPES[name]
            n = max(1, round(steps * step_cost({}) / step_cost(changes)))
            entry = done.setdefault(name, {"steps": n, "changes": changes, "runs": []})
            if len(entry["runs"]) > seed:
                continue
            entry["runs"].append(run(changes, n, seed, Path(tmp) / f"run{i}", data,
                                     (vae, encoder, judge)))
            print(name, json.dumps(entry["runs"][-1]), flush=True)
            if steps == STEPS:
                store(RESULT, {name: done[name] for name in RECIPES if name in done})


if __name__ == "__main__":
    main()
