"""Training under what a notebook cannot show: killed processes, full disks, two processes, signals.

Runs are tiny and start by fork, so that each costs milliseconds; what they leave in their run
folder is compared.
"""
import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import accelerate
import numpy as np
import pytest
import torch
from accelerate.commands import launch
from accelerate.utils.launch import prepare_multi_gpu_env
from PIL import Image
from safetensors.torch import load_file
from torch.distributed.fsdp import FSDPModule

import tld.cli
import tld.harness.checkpoint
import tld.harness.watch
import tld.train
from conftest import ROOT
from tld.configs import (
    DataConfig,
    DenoiserConfig,
    ModelConfig,
    TrainConfig,
    config_to_dict,
    load_config,
)
from tld.denoiser import Denoiser, load_denoiser
from tld.fit import (
    accumulate_gradients,
    batch_indices,
    draw_batches,
    draw_noise,
    fit_steps,
    training_loss,
)
from tld.harness.checkpoint import checkpoints, read_meta
from tld.harness.parallel import fsdp_settings, place_model, start_accelerator
from tld.latents import LatentShards
from tld.train import build, main

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def config(tmp_path):
    "A tiny run of 24 steps, 16 pictures each, on 60 latents whose channel means the text tells."
    rng = np.random.default_rng(0)
    text = rng.standard_normal((60, 16)).astype("float32")
    latents = text[:, :4, None, None] + 0.1 * rng.standard_normal((60, 4, 8, 8)).astype("float32")
    np.save(tmp_path / "latents.npy", latents)
    np.save(tmp_path / "text.npy", text)
    recipe = TrainConfig(batch_size=16, n_steps=24, lr=3e-3, warmup_steps=2, optimizer="muon",
                         lr_schedule="cosine", noise_distribution="uniform", progress=False,
                         save_and_eval_every_iters=4, log_every_iters=3, n_val=4, seed=3,
                         run_dir=str(tmp_path / "run"))
    data = DataConfig(str(tmp_path / "latents.npy"), str(tmp_path / "text.npy"))
    return ModelConfig(data, DenoiserConfig.tiny(dropout=0.1), recipe)


def with_validation(config):
    "On its own training data: what is tested here is not how well it does."
    data = config.data_config
    return replace(config, data_config=replace(data, val_latent_path=data.latent_path,
                                               val_text_emb_path=data.text_emb_path))


def change(config, **changes):
    return replace(config, train_config=replace(config.train_config, **changes))


def here(config, name, **changes):
    "The same run in another folder."
    return change(config, run_dir=str(Path(config.train_config.run_dir).with_name(name)), **changes)


def free_port() -> str:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


def start(function, world=1):
    "Run a function in `world` processes that know of each other, as accelerate launches them."
    port = free_port()

    def body(rank):
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stderr = open(os.devnull, "w")  # tracebacks that are expected
        if world > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
                           "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                           "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        function()
    workers = [FORK.Process(target=body, args=(rank,)) for rank in range(world)]
    for worker in workers:
        worker.start()
    return workers


def finish(workers, timeout=120):
    "Wait; the exit codes."
    for worker in workers:
        worker.join(timeout)
        if worker.is_alive():
            worker.kill()
    return [worker.exitcode for worker in workers]


def train(config, world=1):
    assert finish(start(lambda: main(config), world)) == [0] * world
    return Path(config.train_config.run_dir)


def log(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def assert_same_end(a, b):
    "Weights, average, optimiser and log of two runs agree to the last bit."
    last = [checkpoints(run_dir)[-1] for run_dir in (a, b)]
    assert last[0].name == last[1].name
    for part in ("model", "ema"):
        assert equal(*(load_file(path / f"{part}.safetensors") for path in last)), part
    assert equal(*(torch.load(path / "optimizer.pt", weights_only=True) for path in last))
    assert equal(*(load_file(run_dir / "denoiser.safetensors") for run_dir in (a, b)))
    lines = [[{k: v for k, v in e.items() if k != "images_per_s"} for e in log(d)] for d in (a, b)]
    assert lines[0] == lines[1]


def wait_for(condition, timeout=60):
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.001)


# ---- killed and resumed ----

def killed(config, world, delay, victims):
    "Run until `delay` seconds after the first checkpoint of this start, then kill -9; exit codes."
    pids = FORK.Array("i", world)

    def body():
        def kill():
            for rank in victims:
                os.kill(pids[rank], signal.SIGKILL)

        def evaluate(state):
            if not timer.is_alive():
                timer.start()
        pids[int(os.environ.get("RANK", 0))] = os.getpid()
        timer = threading.Timer(delay, kill)
        main(config, evaluate)
        timer.join()  # finished first: killed all the same
    return finish(start(body, world))


@pytest.mark.parametrize("world", [1, 2])
def test_a_run_killed_several_times_ends_as_one_that_was_not(config, world):
    config = change(with_validation(config), batch_size=16 // world, n_steps=40)
    whole = train(here(config, "whole"), world)
    again = here(config, "killed", from_scratch=False)
    run_dir, moment, steps = Path(again.train_config.run_dir), random.Random(), []
    for victims in ([world - 1], range(world), [0]):  # the other one of two must not hang
        codes = killed(again, world, moment.random() * 0.15, victims)
        assert 0 not in codes and codes[victims[0]] == -signal.SIGKILL
        steps.append(read_meta(checkpoints(run_dir)[-1])["step"])
        if steps[-1] == 40:
            break
    assert steps == sorted(set(steps)) and steps[0] < 40
    train(again, world)
    assert_same_end(whole, run_dir)
    assert not list((run_dir / "checkpoints").glob(".*"))  # what killed writers left is cleared


def test_what_the_dice_decide_is_in_the_seed_and_the_step(config):
    "The check above would see a generator that is not restored: another seed gives other weights."
    a, b = (train(here(config, str(seed), seed=seed)) for seed in (3, 4))
    with pytest.raises(AssertionError):
        assert_same_end(a, b)


def terminate_after(number, rank):
    "Have a process of the run get SIGTERM when it has noted so many steps."
    original = tld.train.fit_steps

    def steps(*args, **kwargs):
        for step in original(*args, **kwargs):
            yield step
            if step.number == number and int(os.environ.get("RANK", 0)) == rank:
                os.kill(os.getpid(), signal.SIGTERM)
    tld.train.fit_steps = steps


@pytest.mark.parametrize("world", [1, 2])
def test_sigterm_writes_a_checkpoint_and_ends_cleanly(config, world):
    config = change(config, batch_size=16 // world, save_and_eval_every_iters=24)
    whole = train(here(config, "whole"), world)
    stopped = here(config, "stopped", from_scratch=False)
    run_dir = Path(stopped.train_config.run_dir)

    def run():
        terminate_after(12, world - 1)
        main(stopped)
    assert finish(start(run, world)) == [0] * world  # one of two hears it, both stop together
    assert read_meta(checkpoints(run_dir)[-1])["step"] == 14  # two steps after the last log line
    assert not (run_dir / "denoiser.safetensors").exists()
    train(stopped, world)
    assert_same_end(whole, run_dir)


def test_ctrl_c_writes_a_checkpoint_and_is_passed_on(config):
    def run():
        try:
            main(config)
        except KeyboardInterrupt:
            os._exit(77)
    run_dir = Path(config.train_config.run_dir)
    worker, = start(run)
    wait_for(lambda: (run_dir / "log.jsonl").exists() and len(log(run_dir)) > 0)
    os.kill(worker.pid, signal.SIGINT)
    assert finish([worker]) == [77]
    assert 3 <= read_meta(checkpoints(run_dir)[-1])["step"] < 24


def test_ctrl_c_ends_the_command_with_a_word(config, monkeypatch, capsys, tmp_path):
    def stop(config):
        raise KeyboardInterrupt
    monkeypatch.setattr(tld.train, "main", stop)
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)))
    with warnings.catch_warnings(), pytest.raises(SystemExit) as end:
        tld.cli.main(["train", str(tmp_path / "config.json")])
    assert end.value.code == 130 and "from_scratch to false" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), tld.harness.watch.StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: signals.asked)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        raise AssertionError("it waited")
    assert signal.getsignal(signal.SIGINT) is before


# ---- disks ----

def test_a_full_disk_leaves_the_last_checkpoint_usable(config):
    whole = train(here(config, "whole"))

    def limited():
        def evaluate(state):
            if state.step == 8:  # from here on no file may grow beyond 100 kB; weights need 200
                resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            main(config, evaluate)
        except OSError as e:
            os._exit(77 if "is the disk full?" in str(e) and "step_00000008" in str(e) else 1)
    assert finish(start(limited)) == [77]
    run_dir = Path(config.train_config.run_dir)
    assert [path.name for path in (run_dir / "checkpoints").iterdir() if path.name[0] == "."] == []
    assert read_meta(checkpoints(run_dir)[-1])["step"] == 8
    load_denoiser(checkpoints(run_dir)[-1], "ema")
    train(change(config, from_scratch=False))
    assert_same_end(whole, run_dir)


@pytest.mark.parametrize("crash", ["save_denoiser", "torch.save", "os.replace"])
def test_a_crash_while_writing_leaves_the_last_checkpoint_usable(config, crash):
    whole = train(here(config, "whole"))

    def crashing():
        owner, name = {"save_denoiser": (tld.harness.checkpoint, "save_denoiser"),
                       "torch.save": (torch, "save"),
                       "os.replace": (os, "replace")}[crash]
        original, calls = getattr(owner, name), []

        def fail(*args, **kwargs):
            calls.append(1)
            if "step_00000012" in str(args):
                os._exit(77)  # no `finally` runs
            return original(*args, **kwargs)
        setattr(owner, name, fail)
        main(config)
    assert finish(start(crashing)) == [77]
    run_dir = Path(config.train_config.run_dir)
    assert read_meta(checkpoints(run_dir)[-1])["step"] == 8
    assert list((run_dir / "checkpoints").glob(".step_00000012*"))
    train(change(config, from_scratch=False))
    assert_same_end(whole, run_dir)
    assert not list((run_dir / "checkpoints").glob(".*"))


def test_the_last_checkpoints_and_the_best_are_kept(config, monkeypatch):
    losses = iter([5.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    monkeypatch.setattr(tld.harness.watch, "validate", lambda *a, **k: {"val_loss": next(losses)})
    main(change(with_validation(config), keep_checkpoints=3))
    kept = [read_meta(path)["step"] for path in checkpoints(config.train_config.run_dir)]
    assert kept == [8, 16, 20, 24]


def test_a_run_is_not_written_over(config):
    main(change(config, n_steps=4))
    with pytest.raises(FileExistsError, match="step_00000004.*from_scratch=False"):
        main(config)
    main(change(config, from_scratch=False))
    with pytest.raises(ValueError, match="begun with seed = 3, now it is 4: "):
        main(change(config, from_scratch=False, seed=4))
    with pytest.raises(ValueError, match="global_batch = 16, now it is 8"):
        main(change(config, from_scratch=False, batch_size=8))


def test_a_checkpoint_of_another_version_says_what_differs(config):
    main(change(config, n_steps=4))
    path = checkpoints(config.train_config.run_dir)[-1] / "state.json"
    meta = json.loads(path.read_text())
    meta["denoiser_config"]["swin"] = meta["denoiser_config"].pop("qk_norm")
    path.write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="config.swin = False, now it is None; "
                                         ".*qk_norm = None, now it is False"):
        main(change(config, from_scratch=False))


# ---- several processes, parts of batches ----

def exact(config, **changes):
    """In float32, without dropout (which each process draws for itself), a log line a step; not by
    Muon, whose bfloat16 products make much of the last digit of a gradient."""
    config = replace(config, denoiser_config=DenoiserConfig.tiny())
    changes = {"optimizer": "adamw", "mixed_precision": "no", "log_every_iters": 1, **changes}
    return change(config, **changes)


@pytest.mark.parametrize("world, accumulate", [(2, 1), (1, 4), (2, 2)])
def test_split_batches_train_as_whole_ones(config, world, accumulate):
    a = train(here(exact(config, stratified=True), "whole"))
    b = train(here(exact(config, stratified=True, batch_size=16 // world, accumulate=accumulate),
                   "split"), world)
    losses = [torch.tensor([e["loss"] for e in log(run_dir)]) for run_dir in (a, b)]
    assert len(losses[0]) == 24
    torch.testing.assert_close(*losses, rtol=0, atol=1e-4)
    assert losses[0][-4:].mean() < 0.7 * losses[0][:4].mean()  # or agreement would say nothing
    weights = [load_file(checkpoints(run_dir)[-1] / "model.safetensors") for run_dir in (a, b)]
    for key in weights[0]:
        torch.testing.assert_close(weights[0][key], weights[1][key], rtol=0, atol=1e-3)


def test_a_run_goes_on_with_another_number_of_processes(config):
    run_dir = train(exact(config, n_steps=12, lr_schedule="constant"))
    assert read_meta(checkpoints(run_dir)[-1])["step"] == 12
    whole = train(here(exact(config, lr_schedule="constant"), "constant"))
    train(exact(config, batch_size=8, from_scratch=False, lr_schedule="constant"), 2)
    losses = [torch.tensor([e["loss"] for e in log(path)]) for path in (whole, run_dir)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-4)


def test_the_file_for_two_machines_is_one_that_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file
    read = load_config_from_file(str(ROOT / "nbs" / "accelerate" / "two_nodes.yaml"))
    assert (read.num_machines, read.num_processes, read.distributed_type) == (2, 16, "MULTI_GPU")


# ---- FSDP: two processes share one model ----

@pytest.fixture
def fsdp(monkeypatch):
    "What `accelerate launch --config_file fsdp.yaml` tells the processes it starts."
    args = launch.launch_command_parser().parse_args(
        ["--config_file", str(ROOT / "nbs" / "accelerate" / "fsdp.yaml"), "-m", "tld.train"])
    told = prepare_multi_gpu_env(launch._validate_launch_command(args)[0])
    for name in told:
        if name.startswith("FSDP_") or name == "ACCELERATE_USE_FSDP":
            monkeypatch.setenv(name, told[name])
    return monkeypatch


def parts(model):
    return [p.to_local() for p in model.parameters()]


def test_shared_weights_train_as_whole_ones(config, fsdp):
    "So the clipping sees the norm of the whole gradient: it always acts here."
    config = with_validation(exact(config, grad_clip=0.1))
    shared = train(here(config, "shared", batch_size=8), 2)
    fsdp.delenv("ACCELERATE_USE_FSDP")
    whole = train(here(config, "whole"))
    for what in ("loss", "val_loss"):
        a, b = (torch.tensor([e[what] for e in log(run) if what in e]) for run in (whole, shared))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
        assert len(a) == {"loss": 24, "val_loss": 6}[what] and a[-1] < 0.8 * a[0]
    for name in ("model", "ema"):
        a, b = (load_denoiser(checkpoints(run)[-1], name)[0].state_dict()
                for run in (whole, shared))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    assert equal(load_denoiser(shared)[0].state_dict(), b)


def test_shared_weights_travel_in_bfloat16_and_train_nearly_as_well(config, fsdp):
    config = exact(config, mixed_precision="bf16")
    shared = train(here(config, "shared", batch_size=8), 2)
    fsdp.delenv("ACCELERATE_USE_FSDP")
    whole = train(here(config, "whole"))
    a, b = (torch.tensor([e["loss"] for e in log(run)]) for run in (whole, shared))
    torch.testing.assert_close(a, b, rtol=0.02, atol=0)
    assert a[-1] < 0.8 * a[0]


def test_a_run_of_shared_weights_killed_several_times_ends_as_one_that_was_not(config, fsdp):
    config = change(with_validation(config), batch_size=8, optimizer="adamw")
    whole = train(here(config, "whole"), 2)
    again = here(config, "killed", from_scratch=False)
    run_dir, moment, steps = Path(again.train_config.run_dir), random.Random(), []
    for victims in ([1], [0]):
        assert -signal.SIGKILL in killed(again, 2, moment.random() * 0.15, victims)
        steps.append(read_meta(checkpoints(run_dir)[-1])["step"])
    assert steps == sorted(steps) and 4 <= steps[0] < 24
    train(again, 2)
    assert_same_end(whole, run_dir)


def test_shared_weights_go_on_as_whole_ones_and_back(config, fsdp):
    config = exact(config, lr_schedule="constant", from_scratch=False)
    whole = here(config, "whole")
    train(change(config, n_steps=8, batch_size=8), 2)
    fsdp.setenv("ACCELERATE_USE_FSDP", "false")
    run_dir = train(change(config, n_steps=16))
    train(whole)
    fsdp.setenv("ACCELERATE_USE_FSDP", "true")
    train(change(config, batch_size=8), 2)
    losses = [torch.tensor([e["loss"] for e in log(path)])
              for path in (Path(whole.train_config.run_dir), run_dir)]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-4)
    a, b = (load_denoiser(c.train_config.run_dir)[0].state_dict() for c in (config, whole))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_sample_grids_are_drawn_with_their_captions(config, fsdp, monkeypatch, shared):
    "By each process where the weights are shared, by the first alone where they are not."
    fsdp.setenv("ACCELERATE_USE_FSDP", str(shared).lower())
    monkeypatch.setattr(tld.harness.watch, "load_autoencoder", lambda name: None)
    monkeypatch.setattr(tld.harness.watch, "decode_latents",
                        lambda vae, z: z[:, :3].clamp(-1, 1))
    folder, captions = Path(config.data_config.latent_path).parent, ["a fox", "a cat", "ein Würfel"]
    np.save(folder / "val.npy", np.load(folder / "text.npy")[:3])
    config = replace(config, data_config=replace(config.data_config, val_path=folder / "val.npy"))
    config = exact(config, n_steps=4, batch_size=8)
    grids = []
    for name in ("bare", "labelled"):
        run_dir = train(here(config, name), 2)
        grids.append(np.array(Image.open(run_dir / "samples_000004.png").convert("RGB")))
        (folder / "val.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    below = 4 + 8 * 16   # 8 pixels, each repeated 16 times, in a row of three
    assert grids[0].shape == (below + 4, 3 * (128 + 4) + 4, 3)
    assert grids[1].shape[0] > below + 12 and (grids[1][:below] == grids[0][:below]).all()
    assert all((grids[1][below:, 4 + 132 * i:132 * (i + 1)] < 128).any() for i in range(3))
    (folder / "val.txt").write_text("a fox\n")
    with pytest.raises(ValueError, match="val.txt has 1 lines, one for each of 3 texts"):
        main(here(config, "wrong"))


def test_a_model_with_extra_channels_is_validated_and_drawn(config, monkeypatch):
    "Its channels beside the latents are those of the held-out pictures."
    monkeypatch.setattr(tld.harness.watch, "load_autoencoder", lambda name: None)
    monkeypatch.setattr(tld.harness.watch, "decode_latents",
                        lambda vae, z: z[:, :3].clamp(-1, 1))
    folder = Path(config.data_config.latent_path).parent
    z = np.load(folder / "latents.npy")
    np.save(folder / "both.npy", np.concatenate([z, z, z[:, :1] * 0 + 1], 1))   # told all there is
    np.save(folder / "val.npy", np.load(folder / "text.npy")[:3])
    data = replace(config.data_config, latent_path=str(folder / "both.npy"),
                   val_path=str(folder / "val.npy"))
    config = replace(change(config, n_steps=8, save_and_eval_every_iters=8), data_config=data,
                     denoiser_config=DenoiserConfig.tiny(extra_channels=5))
    with pytest.raises(ValueError, match="give val_latent_path and val_text_emb_path beside"):
        main(config)
    run_dir = train(with_validation(config))
    assert (run_dir / "samples_000008.png").exists() and len(log(run_dir)[-1]["val_loss_bins"]) == 8


def test_sigterm_ends_a_run_of_shared_weights_cleanly(config, fsdp):
    config = change(config, batch_size=8, save_and_eval_every_iters=24, optimizer="adamw")
    whole = train(here(config, "whole"), 2)
    stopped = here(config, "stopped", from_scratch=False)

    def run():
        terminate_after(12, 1)
        main(stopped)
    assert finish(start(run, 2)) == [0, 0]
    assert read_meta(checkpoints(stopped.train_config.run_dir)[-1])["step"] == 14
    assert_same_end(whole, train(stopped, 2))


def test_each_of_two_processes_holds_half_of_the_bytes(config, fsdp):
    "4 for a weight, 4 for its average, 8 for Adam's moments, 4 for the gradient: 20 N over two."
    config = change(config, batch_size=8, optimizer="adamw")
    n = sum(p.numel() for p in Denoiser.from_config(config.denoiser_config).parameters())

    def body():
        with start_accelerator(config) as accelerator:
            data = LatentShards(config.data_config.latent_path, config.data_config.text_emb_path)
            model, ema_model, optimizer = build(config, accelerator)
            cfg = replace(config.train_config, n_steps=1)
            batches = draw_batches(data, cfg, 0, accelerator.process_index, 2)
            for _ in fit_steps(model, batches, cfg, optimizer, ema=ema_model, engine=accelerator):
                pass
            batch = next(batches)
            noise = draw_noise(cfg, 1, batch, 2)
            accumulate_gradients(model, batch, noise, cfg, training_loss, accelerator)
            moments = [value.to_local() for memory in optimizer.state.values()
                       for value in memory.values() if value.ndim]
            gradients = [p.grad.to_local() for p in model.parameters()]
            held = [sum(t.nbytes for t in tensors) / n for tensors in
                    (parts(model), parts(ema_model), moments, gradients)]
            np.testing.assert_allclose(held, [2, 2, 4, 2], rtol=0.01)
            assert {t.dtype for t in parts(model) + parts(ema_model)} == {torch.float32}
    assert finish(start(body, 2)) == [0, 0]


def test_every_block_is_split_by_itself(config, fsdp):
    def body():
        with start_accelerator(config) as accelerator:
            model = Denoiser.from_config(DenoiserConfig.tiny(n_layers=3))
            settings = fsdp_settings(TrainConfig(), accelerator.mixed_precision)
            place_model(model, accelerator, settings)
            split = [name for name, part in model.named_modules() if isinstance(part, FSDPModule)]
            blocks = [f"denoiser_trans_block.decoder_blocks.{i}" for i in range(3)]
            assert split == ["", *blocks]
            settings.transformer_cls_names_to_wrap = ["Block"]
            with pytest.raises(ValueError, match="no {'Block'} in the model.*class DecoderBlock"):
                place_model(Denoiser.from_config(DenoiserConfig.tiny()), accelerator, settings)
    assert finish(start(body, 2)) == [0, 0]


def test_accelerate_launches_fsdp(config, fsdp, tmp_path):
    config = change(config, batch_size=8, optimizer="adamw")
    expected = train(here(config, "expected"), 2)
    fsdp.undo()
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(config)))
    command = ["-m", "accelerate.commands.launch", "--config_file",
               ROOT / "nbs" / "accelerate" / "fsdp.yaml", "--num_processes", "2",
               "--main_process_port", free_port(), "-m", "tld.train", tmp_path / "config.json"]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=tmp_path, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_end(expected, Path(config.train_config.run_dir))


@pytest.mark.parametrize("name, value, changes, reason", [
    ("FSDP_VERSION", "1", {}, "fsdp_version: 2"),
    ("FSDP_AUTO_WRAP_POLICY", "NO_WRAP", {}, "TRANSFORMER_BASED_WRAP"),
    ("FSDP_RESHARD_AFTER_FORWARD", "false", {}, "fsdp_reshard_after_forward: true"),
    ("FSDP_OFFLOAD_PARAMS", "true", {}, "fsdp_offload_params: false"),
    ("FSDP_ACTIVATION_CHECKPOINTING", "true", {}, "fsdp_activation_checkpointing: false"),
    ("FSDP_VERSION", "2", dict(optimizer="muon"), 'optimizer="adamw" .Muon needs whole matrices'),
    ("FSDP_VERSION", "2", dict(mixed_precision="fp16"), 'mixed_precision="bf16" or "no"'),
    ("FSDP_VERSION", "2", dict(compile=True), "compile=False"),
])
def test_what_fsdp_cannot_do_is_named(config, fsdp, name, value, changes, reason):
    fsdp.setenv(name, value)
    with pytest.raises(ValueError, match=f"FSDP works here only with .*{reason}"):
        main(change(config, **{"optimizer": "adamw", **changes}))


def test_each_picture_is_seen_once_per_epoch_by_one_of_two_processes(config):
    run = exact(config, batch_size=8, n_steps=None, n_epoch=4)
    folder = Path(run.train_config.run_dir)

    def recorded():
        original = LatentShards.batch

        def batch(self, indices):
            if sys._getframe(1).f_code.co_name == "draw_batches":
                with open(f"{folder}.{os.environ['RANK']}", "a") as f:
                    f.write(json.dumps(indices.tolist()) + "\n")
            return original(self, indices)
        LatentShards.batch = batch
        main(run)
    assert finish(start(recorded, 2)) == [0, 0]
    seen = [[json.loads(line) for line in open(f"{folder}.{rank}")] for rank in (0, 1)]
    stream = np.concatenate([np.concatenate(step) for step in zip(*seen)])
    assert len(stream) == 15 * 16  # 4 epochs of 60 pictures in steps of 16
    for epoch in stream.reshape(4, 60):
        assert sorted(epoch) == list(range(60))
    assert not (stream[:60] == stream[60:120]).all()


def test_a_run_folder_that_machines_do_not_share_is_noticed(config):
    run = change(config, batch_size=8, from_scratch=False)
    train(change(run, n_steps=4), 2)

    def apart():
        where = run.train_config.run_dir + ("" if os.environ["RANK"] == "0" else "elsewhere")
        try:
            main(change(run, run_dir=where))
        except RuntimeError as e:
            os._exit(77 if "disk that all machines share" in str(e) else 1)
    assert finish(start(apart, 2)) == [77, 77]


@pytest.fixture(scope="module")
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("way", ["tld_train", "accelerate_launch", "notebook_launcher"])
def test_every_way_to_start_a_run_is_the_same_run(config, way, tmp_path, environment):
    world = 1 if way == "tld_train" else 2
    expected = train(here(config, "expected"), world)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_to_dict(config)))
    assert load_config(ModelConfig, path) == config
    command = {
        "tld_train": ["-c", "from tld.cli import main; main()", "train", path],
        "accelerate_launch": [
            "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
            "--main_process_port", free_port(), "-m", "tld.train", path],
        "notebook_launcher": [
            "-c", "import sys, torch, accelerate\nfrom tld.configs import *\n"
            "from tld.train import main\nfrom dataclasses import replace\n"
            "cfg = load_config(ModelConfig, sys.argv[1])\n"
            "main(replace(cfg, train_config=replace(cfg.train_config, run_dir=sys.argv[2])))\n"
            "accelerate.notebook_launcher(main, (cfg,), num_processes=2, use_port=sys.argv[3])",
            path, tmp_path / "first", free_port()]}[way]
    done = subprocess.run([sys.executable, *map(str, command)], cwd=tmp_path, env=environment,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_same_end(expected, Path(config.train_config.run_dir))


# ---- guard rails ----

def spoil(config, what, function):
    "Rewrite the latents or texts of a run."
    path = {"latents": config.data_config.latent_path, "text": config.data_config.text_emb_path}
    values = function(np.load(path[what]))
    np.save(path[what], values)


def with_nan(values):
    values[37, 0] = np.nan
    return values


@pytest.mark.parametrize("what, function, reason", [
    ("latents", lambda z: 9 * z, "standard deviation .* scale them"),
    ("latents", with_nan, "latents hold nan or inf, first at picture 37"),
    ("text", with_nan, "text embeddings hold nan or inf, first at picture 37"),
    ("text", lambda e: e[:, :9], "9 wide, the model has text_emb_size=16"),
    ("text", lambda e: e[:50], "60 latents, but 50 texts"),
    ("text", lambda e: e[:, None].repeat(2, 1), "2 rows, the model has n_text_tokens=1"),
    ("latents", lambda z: z[:, :3], "3 channels"),
    ("latents", lambda z: z[..., :4], r"\(8, 4\) large, the model has image_size=8"),
    ("latents", lambda z: (9 * z).astype(np.int32), "latents are stored as int32"),
    ("text", lambda e: e.astype(complex), "text embeddings are stored as complex128"),
    ("latents", lambda z: z.astype(np.uint8), "8-bit latents, but their reach is missing"),
])
def test_bad_data_is_named_before_training(config, what, function, reason):
    spoil(config, what, function)
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        main(config)
    assert not Path(config.train_config.run_dir).exists()


def test_no_data_is_named(config):
    for what in ("latents", "text"):
        spoil(config, what, lambda values: values[:0])
    with pytest.raises(ValueError, match="all shards are empty"):
        main(config)


@pytest.mark.parametrize("changes, reason", [
    (dict(batch_size=61), "batch_size=61 > 60 pictures"),
    (dict(accumulate=3), "not a multiple"),
    (dict(optimizer="sgd"), "adamw, muon"),
    (dict(lr_schedule="step"), "constant, linear, cosine"),
    (dict(noise_distribution="gauss"), "gauss"),
    (dict(loss_weighting="w"), "'w'"),
    (dict(mixed_precision="fp8x"), "fp8x.*'bf16'"),
    (dict(tracker="paper"), "paper"),
    (dict(seed=-1), "must not be negative"),
])
def test_bad_settings_are_named_before_training(config, changes, reason):
    with pytest.raises(ValueError, match=reason):
        main(change(config, **changes))
    assert not (Path(config.train_config.run_dir) / "checkpoints").exists()


def test_a_place_that_cannot_be_written_is_named_before_training(config, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(OSError, match=f"cannot write to run_dir={place}"):
            main(change(config, run_dir=str(place)))


def test_a_loss_that_is_not_a_number_ends_the_run(config):
    run = exact(config, lr=1e30, muon_lr=1e30, warmup_steps=8, grad_clip=0.0)
    with pytest.raises(FloatingPointError, match=r"loss is (nan|inf) at step \d+, learning rate"):
        main(run)
    about = json.loads((Path(run.train_config.run_dir) / "bad_step.json").read_text())
    seen = batch_indices(60, 16, about["step"], seed=3)
    assert about["indices"] == seen.tolist() and about["lr"] > 0
    for path in checkpoints(run.train_config.run_dir):  # none is of nan
        assert all(w.isfinite().all() for w in load_file(path / "model.safetensors").values())


def test_float16_scales_its_losses_and_resumes(config, monkeypatch):
    "accelerate offers float16 on GPUs only: give it a scaler of the CPU."
    original = tld.train.start_accelerator

    @contextlib.contextmanager
    def scaled(config):
        with original(config) as accelerator:
            accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
            accelerator.unscale_gradients = lambda: [  # what it does where precision is fp16
                scaler.unscale_(o.optimizer) for o in accelerator._optimizers]
            yield accelerator
    plain = exact(config, lr_schedule="constant", optimizer="muon")
    main(here(plain, "plain"))
    monkeypatch.setattr(tld.train, "start_accelerator", scaled)
    main(here(plain, "scaled", n_steps=8))
    scaled_run = here(plain, "scaled", from_scratch=False)
    main(scaled_run)
    last = [checkpoints(Path(scaled_run.train_config.run_dir).with_name(name))[-1]
            for name in ("plain", "scaled")]
    assert read_meta(last[1])["scaler"]["scale"] == 2.0**14
    a, b = (load_file(path / "model.safetensors") for path in last)
    for key in a:  # powers of two come and go without rounding, so clipping sees the same
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-4)


def test_trackers_get_what_the_log_gets(config, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    told, original = [], accelerate.Accelerator.log
    monkeypatch.setattr(accelerate.Accelerator, "log", lambda self, values, step:
                        (told.append(values), original(self, values, step)))
    main(change(with_validation(config), n_steps=4, use_wandb=True))
    run_dir = Path(config.train_config.run_dir)
    assert list(run_dir.parent.rglob("*.wandb"))
    lines = log(run_dir)
    assert [entry["loss"] for entry in told] == [entry["loss"] for entry in lines]
    assert told[-1]["val_loss_bins/7"] == lines[-1]["val_loss_bins"][7]


@pytest.mark.slow
def test_a_compiled_run_has_the_same_names_and_nearly_the_same_weights(config):
    a = train(here(exact(config, n_steps=4), "plain"))
    b = train(here(exact(config, n_steps=4, compile=True), "compiled"))
    a, b = (load_file(checkpoints(run)[-1] / "model.safetensors") for run in (a, b))
    assert a.keys() == b.keys()
    for key in a:
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=1e-4)
