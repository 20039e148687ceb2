"What only processes can show of `tld.evaluate`: killed, split, flat in memory, without weights."
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import ROOT, needs_weights

SMALL = ["evaluate", "--prompts", "3", "--chunk", "1", "--steps", "2", "--metrics", "all",
         "--per-prompt", "2", "--bank", "60", "--world", "starter", "--clip", "CLIP"]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
       "TQDM_DISABLE": "1"}


def command(*args):
    return [sys.executable, "-c", "from tld.cli import main; main()", *map(str, args)]


def run(folder, *args):
    return subprocess.run(command(*args), cwd=folder, env=ENV, capture_output=True, text=True,
                          timeout=600)


def tiny_clip(folder, n_image_steps=2):
    "A CLIP of random weights, whose card says how many steps its image tower had."
    from tld.text import TextEncoderConfig, make_clip, save_text_encoder, used_tokens
    recipe, said = TextEncoderConfig.tiny(n_image_steps=n_image_steps), ["a fox", "two cats"]
    torch.manual_seed(0)
    model = make_clip(recipe, len(used_tokens(said)))
    save_text_encoder(model, used_tokens(said), folder, recipe, said, [])
    return str(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "The options of a small run; the settings hold the path of its CLIP."
    clip = tiny_clip(tmp_path_factory.mktemp("clip"))
    return [clip if option == "CLIP" else option for option in SMALL]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, small):
    "A run that nothing disturbed."
    folder = tmp_path_factory.mktemp("whole")
    done = run(folder, *small, "-o", "out")
    assert done.returncode == 0, done.stderr
    return folder / "out", done


@needs_weights
def test_the_command_measures_everything_and_says_so(finished):
    out, done = finished
    result = json.loads((out / "evaluate.json").read_text())
    from tld.evaluate import METRICS
    assert set(METRICS) <= set(result) and result["pictures"] == 18
    assert "category only:" in done.stdout and "wrote out" in done.stdout
    assert "mostly bias" in done.stderr  # FID of three pictures
    assert (out / "evaluate.png").stat().st_size > 1000


@needs_weights
def test_killed_it_goes_on_and_ends_the_same(finished, small, tmp_path):
    process = subprocess.Popen(command(*small, "-o", "out"), cwd=tmp_path, env=ENV,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out" / "parts"
    for _ in range(6000):
        if parts.is_dir() and len(list(parts.glob("*.safetensors"))) >= 3:
            break
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("*.safetensors")}
    assert 3 <= len(kept) < 10 and not (tmp_path / "out" / "evaluate.json").exists()
    done = run(tmp_path, *small, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    for name in ("evaluate.json", "evaluate.png"):
        assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()
    other = run(tmp_path, *small, "--guidance", "3", "-o", "out")
    assert other.returncode == 2 and "was begun with guidance = 2.0, now it is 3.0" in other.stderr


@needs_weights
def test_in_two_processes_it_is_the_same(finished, small, tmp_path):
    done = run(tmp_path, *small, "-o", "out", "--processes", "2")
    assert done.returncode == 0, done.stderr
    name = "evaluate.json"
    assert (tmp_path / "out" / name).read_bytes() == (finished[0] / name).read_bytes()


class Listener:
    "Stands where the model is, and remembers what it was asked for."
    def generate_images(self, captions, guidance, seeds, **how):
        self.asked = captions, guidance, list(seeds), how
        return torch.zeros(len(captions), 3, 128, 128)


@needs_weights
def test_without_an_image_tower_it_says_so(tmp_path):
    from tld.evaluate import EvaluateConfig, evaluate, report_lines
    clip = tiny_clip(tmp_path / "clip", n_image_steps=0)
    with pytest.raises(ValueError, match="cmmd: not measured.*n_image_steps 0"):
        EvaluateConfig(metrics=("cmmd",), clip=clip)
    config = EvaluateConfig(prompts=1, metrics=("sharpness", "fid", "clip_score"), clip=clip,
                            world="starter", steps=1)
    lines = report_lines(evaluate(config, tmp_path / "out"))
    assert sum("not measured" in line for line in lines) == 2
    assert any(line.startswith("sharpness: ") for line in lines)


@needs_weights
def test_a_later_chunk_goes_on_with_prompts_and_seeds():
    from tld.evaluate import Chunk, EvaluateConfig, Worker, caption_of
    from tld.world.answers import kinds_of
    config = EvaluateConfig(prompts=9, per_prompt=2, metrics=("sharpness",), world="starter",
                            seed=100, guidance=3.0, steps=7, sampler="ddim", shift=2.0)
    worker = Worker(config)
    worker.model = Listener()
    for kind_number, kind in enumerate(kinds_of("starter")):
        for start, stop in ((0, 2), (3, 5)):
            columns = worker(Chunk(kind, start, stop))
            captions, guidance, seeds, how = worker.model.asked
            assert seeds == list(range(100 + 2 * start, 100 + 2 * stop))
            rows = range(18 * kind_number + 2 * start, 18 * kind_number + 2 * stop)
            assert captions == [caption_of(config, row) for row in rows]
            assert guidance == 3.0 and how == {
                "n_iter": 7, "sampler": "ddim", "shift": 2.0,
                "guidance_interval": config.guidance_interval}
            assert ("pictures" in columns) == (start == 0)


FLAT = r"""
import re, sys, torch
import tld.evaluate as e
class Worker:   # draws nothing, but in chunks as large as real ones
    def __init__(self, config): self.config = config
    def __call__(self, chunk):
        pictures = torch.zeros(100, 3, 128, 128)   # 20 MB
        pictures += 1
        n = chunk.stop - chunk.start
        return {"clip_score": torch.ones(n), "sharpness": torch.ones(n)} | (
            {} if chunk.start else {"pictures": pictures[:6].byte()})
e.Worker = Worker
config = e.EvaluateConfig(prompts=int(sys.argv[1]), chunk=50, metrics=("clip_score",),
                          clip="ViT-L/14", world="starter")
e.evaluate(config, sys.argv[2])
print(int(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1]) // 1024)
"""


@needs_weights
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="tells the peak on Linux")
def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    peaks = [int(subprocess.run([sys.executable, "-c", FLAT, str(n), str(tmp_path / str(n))],
                                env=ENV, capture_output=True, text=True, check=True).stdout)
             for n in (250, 2500)]
    assert peaks[1] - peaks[0] < 100  # MB; kept, the pictures of 135 chunks would be 2.7 GB


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    "A file of weights for the library's network: random ones."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network
    folder = tmp_path_factory.mktemp("inception")
    torch.manual_seed(0)
    torch.save({}, folder / "none.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Network, "load_state_dict", lambda self, state: None)
        network = Network("inception-v3-compat", ["2048"], str(folder / "none.pth"))
    torch.save(network.state_dict(), folder / "random.pth")
    return folder / "random.pth"


def test_inception_is_given_its_weights_and_whole_pixels(random_inception):
    from torchmetrics.image.fid import NoTrainInceptionV3

    from tld.measures import inception_features
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    features = inception_features(random_inception)(images)
    expected = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(random_inception))
    pixels = ((images + 1) * 127.5).round().byte()
    assert features.shape == (2, 2048) and torch.equal(features, expected(pixels))
    assert not torch.equal(features[0], features[1])


@needs_weights
def test_a_run_takes_fid_from_the_features_asked_for(random_inception, tmp_path):
    from tld.evaluate import METRICS, EvaluateConfig, Worker, chunks
    config = EvaluateConfig(prompts=1, metrics=("fid", "cmmd"), world="starter", steps=1,
                            features=str(random_inception), clip=tiny_clip(tmp_path / "clip"))
    columns = Worker(config)(chunks(config)[0])
    for which in ("drawn", "real", "floor"):
        assert columns[f"inception_{which}"].shape == (1, 2048)
        assert len(columns[f"clip_{which}"]) == 1
    made = {f"{kind}_{which}": torch.randn(30, 3) + (which == "drawn") * shift
            for kind, shift in (("inception", 3.0), ("clip", 0.0))
            for which in ("drawn", "real", "floor")}
    fid = METRICS["fid"](config, made)
    assert fid["value"] > 15 > 5 > fid["floor"] and fid["features"] == str(random_inception)


class Harmful:
    "A pickle that would run code."
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_in_place_of_inceptions_weights_does_not_run(tmp_path, monkeypatch):
    from tld.measures import inception_features
    monkeypatch.chdir(tmp_path)
    torch.save(Harmful(), tmp_path / "bad.pth")
    with pytest.raises(Exception, match="Weights only load failed|weights_only"):
        inception_features(tmp_path / "bad.pth")
    assert not (tmp_path / "harm").exists()


def test_without_a_network_inception_says_what_to_do(tmp_path, offline):
    code = "from tld.measures import inception_features; inception_features()"
    env = {**os.environ, **offline, "TORCH_HOME": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), offline["PYTHONPATH"]])
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert "cannot be had" in done.stderr and "features of a CLIP" in done.stderr
    assert not list(tmp_path.rglob("*.pth"))
