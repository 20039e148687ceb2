"The training loop alone: a golden run, and what it must not need."
import ast
import copy
import inspect

import numpy as np
import pytest
import torch

import tld.fit
from conftest import ROOT
from tld.configs import DenoiserConfig, TrainConfig
from tld.denoiser import Denoiser
from tld.fit import draw_batches, fit_steps, make_optimizer
from tld.latents import LatentShards

# How far the weights and their average have moved (mean absolute), and losses of steps 1, 6 and 11,
# in float32 on one thread. Muon is left out: it computes in bfloat16, which differs by machine.
GOLDEN = [0.009417721, 0.009273265, 1.67626, 0.7460549, 0.5461794]


def golden_run(folder, **changes):
    "Twelve steps of a tiny model on 60 latents whose channel means the text gives."
    rng = np.random.default_rng(0)
    text = rng.standard_normal((60, 16)).astype("float32")
    noise = rng.standard_normal((60, 4, 8, 8)).astype("float32")
    np.save(folder / "latents.npy", text[:, :4, None, None] + 0.1 * noise)
    np.save(folder / "text.npy", text)
    data = LatentShards(folder / "latents.npy", folder / "text.npy")
    config = TrainConfig(**{**dict(
        batch_size=16, n_steps=12, lr=3e-3, warmup_steps=2, lr_schedule="cosine", seed=3,
        noise_distribution="logit_normal", stratified=True, accumulate=2), **changes})
    torch.manual_seed(config.seed)
    model = Denoiser.from_config(DenoiserConfig.tiny(dropout=0.1))
    start, ema = copy.deepcopy(model), copy.deepcopy(model).eval().requires_grad_(False)
    steps = fit_steps(model, draw_batches(data, config), config, make_optimizer(model, config),
                      ema=ema)
    losses = [step.loss.item() for step in steps]
    moved = [torch.cat([(p - q).flatten() for p, q in zip(part.parameters(), start.parameters())])
             .abs().mean().item() for part in (model, ema)]
    return [*moved, *losses[::5]]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_golden_run(tmp_path, one_thread):
    assert golden_run(tmp_path) == pytest.approx(GOLDEN, rel=1e-5, abs=1e-5)


def test_the_golden_run_sees_a_change(tmp_path, one_thread):
    "Another draw of the noise, another rate, no dropout of captions: each is seen."
    for change in (dict(seed=4), dict(lr=3.01e-3), dict(cond_drop_prob=0.0), dict(alpha=0.5)):
        changed = golden_run(tmp_path, **change)
        assert changed != pytest.approx(GOLDEN, rel=1e-5, abs=1e-5), change


def test_the_loop_knows_no_folder_log_or_process():
    "`tld.fit` holds the method and nothing else."
    tree = ast.parse(inspect.getsource(tld.fit))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
               for alias in node.names}
    modules |= {node.module.split(".")[0] for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and not node.level}
    assert modules <= {"collections", "contextlib", "functools", "itertools", "typing", "numpy",
                       "torch"}
    assert len((ROOT / "tld" / "fit.py").read_text().splitlines()) <= 220
