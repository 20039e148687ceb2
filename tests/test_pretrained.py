"Weights from elsewhere: downloads that break, names on the hub, strangers' files, full sizes."
import dataclasses
import hashlib
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import tld.text
from conftest import ROOT
from pretrained_server import FileServer
from tld.autoencoder import decode_latents, load_autoencoder
from tld.configs import ClipConfig, DenoiserConfig, DenoiserLoad, LTDConfig, VaeConfig
from tld.denoiser import Denoiser, fetch_denoiser, n_params
from tld.hub import download
from tld.text import TextEncoderConfig, clip, load_text_encoder, make_clip
from tld.weights import save_denoiser

DATA = Path(__file__).parent / "data"
BODY = np.random.default_rng(0).bytes(600_000)
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    with FileServer(file=BODY) as server:
        yield server


@pytest.fixture
def get(server, tmp_path):
    "Download /file, or a part of it; the bytes that are then there, or None."
    place = tmp_path / "place" / "file.pth"

    def get(**options):
        try:
            download(f"{server.home}/file", place, progress=False, **options)
        finally:
            get.there = place.read_bytes() if place.exists() else None
            get.partial = sum(p.stat().st_size for p in place.parent.glob(".*.part"))
        assert [p.name for p in place.parent.iterdir()] == ["file.pth"]
        return get.there

    get.there = get.partial = None
    return get


# ---- one file from any address ----

def test_a_download_happens_once(server, get):
    assert get(sha256=SHA.upper()) == BODY and len(server.seen) == 1
    assert get(sha256=SHA) == BODY and len(server.seen) == 1


def test_a_broken_connection_is_resumed(server, get):
    server.cut = 250_000
    assert get(sha256=SHA) == BODY
    assert server.ranges_asked() == ["bytes=250000-", "bytes=500000-"]


@pytest.mark.parametrize("lacking", ["ranges", "versions"])
def test_without_ranges_or_versions_a_download_starts_again(server, get, lacking):
    "A partial file is not continued blindly: the next attempt brings all of it, or nothing."
    setattr(server, lacking, False)
    server.cut = 250_000
    with pytest.raises(OSError, match="the connection ended after 250,000 of 600,000 bytes"):
        get()
    assert get.there is None
    server.cut = None
    assert get(sha256=SHA) == BODY


def test_a_partial_file_of_another_version_is_not_continued(server, get):
    server.cut, server.ranges = 250_000, False
    with pytest.raises(OSError):
        get()
    assert get.there is None and get.partial == 250_000
    server.content["/file"] = new = BODY[::-1]   # as long, but another
    server.cut, server.ranges = None, True
    assert get() == new and server.ranges_asked() == ["bytes=250000-"]   # of the old


@pytest.mark.parametrize("length", [600_000, 500_000])
def test_a_file_that_changes_between_two_requests_is_not_mixed(server, get, length):
    "The version is asked for, then the file changes, then the range is asked for."
    new = BODY[::-1][:length]
    server.cut, server.on_range = 400_000, lambda: server.content.update({"/file": new})
    assert get() == new


def test_another_range_than_asked_for_is_not_taken(server, get):
    server.cut, server.confused = 250_000, True
    with pytest.raises(OSError, match="bytes from 250,000 on were asked for, 'bytes 0-"):
        get()
    assert get.there is None and get.partial == 250_000


def test_a_wrong_hash_leaves_nothing(server, get):
    with pytest.raises(ValueError, match="has the SHA-256 .* not 000.*nothing was kept"):
        get(sha256="0" * 64)
    assert get.there is None and get.partial == 0
    assert get(sha256=SHA) == BODY
    with pytest.raises(ValueError, match="delete it to download it again"):
        get(sha256="0" * 64)
    assert get.there == BODY   # a file that was there is not thrown away


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_a_refusal_is_an_error_at_once(server, get, status):
    server.status = status
    with pytest.raises(OSError, match=f"cannot download .*/file: the server answers {status}.*"
                                      "put it at .*file.pth"):
        get()
    assert get.there is None and len(server.seen) == 1


def test_a_web_page_is_not_a_file(server, get):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(OSError, match="a web page, not a file; on the hub, .* /resolve/"):
        get()
    assert get.there is None and get.partial == 0


def test_a_killed_download_is_taken_up_again(server, get, tmp_path):
    server.pause = 0.05
    code = ("import sys; from tld.hub import download; "
            "download(sys.argv[1], sys.argv[2], progress=False)")
    place = tmp_path / "place" / "file.pth"
    process = subprocess.Popen([sys.executable, "-c", code, f"{server.home}/file", str(place)],
                               env={**os.environ, "PYTHONPATH": str(ROOT)})
    parts, began = [], time.monotonic()
    while not any(p.stat().st_size >= 262_144 for p in parts):
        assert process.poll() is None and time.monotonic() - began < 120
        time.sleep(0.02)
        parts = list(place.parent.glob(".*.part"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not place.exists()
    server.pause = 0.0
    assert get(sha256=SHA) == BODY
    first = int(server.ranges_asked()[0][len("bytes="):-1])
    assert 262_144 <= first < len(BODY)


# ---- no network ----

@pytest.fixture
def no_network(monkeypatch, tmp_path):
    "Every connection is refused, the caches are empty, and the hub is not known to be offline."
    def refuse(*args, **kwargs):
        raise OSError("no network in this test")
    for where, name in ((socket.socket, "connect"), (socket, "getaddrinfo"),
                        (socket, "create_connection")):
        monkeypatch.setattr(where, name, refuse)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(tld.text, "CACHE", tmp_path / "clip")


@pytest.mark.parametrize("load, name, says", [
    (load_autoencoder, "madebyollin/sdxl-vae-fp16-fix",
     ["no autoencoder at 'madebyollin/sdxl-vae-fp16-fix'", "the hub is out of reach",
      "hf download madebyollin/sdxl-vae-fp16-fix --local-dir"]),
    (load_autoencoder, "./nowhere", ["no autoencoder at './nowhere'", "not 'shipped'"]),
    (load_text_encoder, "ViT-L/14",
     ["no text encoder 'ViT-L/14'", "ViT-L-14.pt: no connection (no network in this test)",
      "fetch it elsewhere and put it at", "clip/ViT-L-14.pt"]),
    (Denoiser.from_pretrained, "owner/denoiser", ["cannot get 'owner/denoiser' from the hub",
                                                  "hf download owner/denoiser --local-dir"]),
    (lambda url: fetch_denoiser(DenoiserLoad(file_url=url, local_filename="never/there.pth")),
     "https://huggingface.co/a/b/resolve/main/c.pth",
     ["cannot download https://huggingface.co/a/b/resolve/main/c.pth: no connection",
      "put it at never/there.pth"]),
])
def test_without_a_network_the_error_says_what_to_do_and_soon(load, name, says, no_network,
                                                              tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    with pytest.raises(OSError) as error:
        load(name)
    assert time.monotonic() - began < 5   # the hub's own library tries for half a minute
    for words in says:
        assert words in str(error.value)


# ---- names on the hub ----

@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    "A hub on this machine, with an empty cache."
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.home)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        server.home + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    huggingface_hub.close_session()
    yield server
    huggingface_hub.close_session()


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_an_autoencoder_by_its_hub_name_and_from_the_cache(hub, tmp_path, monkeypatch):
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "vae" / "other.safetensors").write_bytes(b"a second copy nobody asked for")
    hub.repo("owner/vae", tmp_path / "vae")
    loaded = load_autoencoder("owner/vae", torch.bfloat16)
    assert loaded.dtype == torch.bfloat16 and same_weights(loaded, vae.bfloat16())
    assert not any("other" in path for _, path, _ in hub.seen)

    n = len(hub.seen)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert same_weights(load_autoencoder("owner/vae", torch.bfloat16), vae)
    assert len(hub.seen) == n
    with pytest.raises(OSError, match="the hub is out of reach, and its files are not in"):
        load_autoencoder("owner/another")


def test_weights_that_lack_something_are_refused(tmp_path):
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["decoder.conv_in.weight"]
    save_file(weights, path)
    with pytest.raises(OSError, match="weights are missing: .*decoder.conv_in.weight"):
        load_autoencoder(tmp_path)


def test_a_name_the_hub_does_not_know(hub):
    with pytest.raises(OSError, match="no autoencoder at 'owner/none'.*cannot get 'owner/none'"):
        load_autoencoder("owner/none")


def test_a_denoiser_goes_to_the_hub_and_comes_back(hub, tmp_path, monkeypatch):
    class Api:
        def __init__(self, **kwargs):
            pass

        def create_repo(self, repo_id, **kwargs):
            return huggingface_hub.RepoUrl(f"{hub.home}/{repo_id}", endpoint=hub.home)

        def upload_folder(self, repo_id, folder_path, **kwargs):
            shutil.copytree(folder_path, tmp_path / "pushed")
            hub.repo(repo_id, tmp_path / "pushed")
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    config = DenoiserConfig.tiny(adaln=True, image_size=(8, 12))
    model = Denoiser.from_config(config)
    about = {"about": "Trained on nothing.", "license": "apache-2.0"}
    assert model.push_to_hub("owner/denoiser", model_card_kwargs=about) == "done"
    there = sorted(p.name for p in (tmp_path / "pushed").iterdir())
    assert there == ["README.md", "denoiser.json", "denoiser.safetensors"]
    card = huggingface_hub.ModelCard.load(tmp_path / "pushed" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.pipeline_tag == "text-to-image"
    assert "Trained on nothing." in card.text and 'from_pretrained("owner/denoiser")' in card.text

    back = Denoiser.from_pretrained("owner/denoiser")
    assert same_weights(back, model) and back.config == config and not back.training


# ---- denoisers from an address ----

@pytest.fixture
def golden():
    "Weights, inputs and outputs of the original's code, in both layouts."
    return {key: torch.tensor(value) for key, value in np.load(DATA / "golden_small.npz").items()}


def saved(content) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@pytest.mark.parametrize("layout", ["original", "published"])
@pytest.mark.parametrize("config", [None, DenoiserConfig(
    image_size=8, noise_embed_dims=64, n_layers=2, text_emb_size=48)])
def test_the_originals_checkpoint_from_an_address(server, tmp_path, golden, layout, config):
    "As its training saves it, over a connection that breaks; the layout told by the place."
    weights = {f"module._orig_mod.{key[2:]}": value for key, value in golden.items()
               if key.startswith("w.")}
    server.content["/state.pth"] = body = saved({"model_ema": weights, "global_step": 7})
    server.cut = len(body) // 2 + 1
    place = DenoiserLoad(torch.float32, f"{server.home}/state.pth", str(tmp_path / "state.pth"),
                         layout, hashlib.sha256(body).hexdigest())
    model, its_config = fetch_denoiser(place, config, progress=False)
    with torch.no_grad():
        out = model(golden["x"], golden["noise_level"], golden["text_emb"])
    assert_close(out, golden[f"out_{layout}"], rtol=0, atol=1e-4)
    assert its_config.layout == layout and its_config.n_layers == 2 and server.ranges_asked()
    half, _ = fetch_denoiser(dataclasses.replace(place, dtype=torch.bfloat16), config)
    assert half.label_proj.weight.dtype == torch.bfloat16


def test_the_published_file_is_not_loaded_in_another_layout(tmp_path):
    path = tmp_path / "state_dict_378000.pth"
    torch.save(Denoiser.from_config(DenoiserConfig.tiny()).state_dict(), path)
    place = DenoiserLoad(local_filename=str(path))
    assert fetch_denoiser(place)[1].layout == "published"
    with pytest.raises(ValueError, match="has layout 'published', not 'original'; names and shapes "
                                         "fit both.*set the layout to 'published'"):
        fetch_denoiser(place, DenoiserConfig.tiny())


class Evil:
    "Pickled, it makes a file wherever it is unpickled without care."
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_no_stranger_runs_code(tmp_path):
    mark, config = tmp_path / "was here", DenoiserConfig.tiny()
    weights = Denoiser.from_config(config).state_dict()
    for name in ("bad.pth", "bad.safetensors"):
        torch.save({**weights, "evil": Evil(mark)}, tmp_path / name)
        with pytest.raises(ValueError, match="weights"):
            fetch_denoiser(DenoiserLoad(local_filename=str(tmp_path / name)), config)
    torch.save({"evil": Evil(mark)}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="could run code when loaded"):
        load_text_encoder(tmp_path / "model.pt")
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path / "vae")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"evil": Evil(mark)}, tmp_path / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match="no autoencoder at"):
        load_autoencoder(tmp_path / "vae")
    assert not mark.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert mark.exists()   # the trap works


# ---- CLIP ----

def test_openais_archive_by_name_and_only_with_its_hash(server, tmp_path, monkeypatch):
    cfg = TextEncoderConfig.tiny(context_length=77)
    model = make_clip(cfg, 49408).eval()
    inputs = torch.zeros(1, 3, 64, 64), clip.tokenize("a fox")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(model, inputs).save(tmp_path / "program.pt")
    body = (tmp_path / "program.pt").read_bytes()
    url = f"{server.home}/{hashlib.sha256(body).hexdigest()}/small.pt"
    monkeypatch.setattr(tld.text, "CACHE", tmp_path / "clip")
    with pytest.raises(ValueError, match="a TorchScript archive, which is a program, and not one"):
        load_text_encoder(tmp_path / "program.pt")

    monkeypatch.setitem(clip.clip._MODELS, "Small", url)
    server.content[url[len(server.home):]] = body + b"!"   # what came is not what was published
    with pytest.raises(ValueError, match="nothing was kept"):
        load_text_encoder("Small")
    server.content[url[len(server.home):]] = body
    for name in ("Small", tmp_path / "program.pt", tmp_path / "clip" / "small.pt"):
        encoder = load_text_encoder(name)
        with torch.no_grad():
            assert_close(encoder(["a fox"]), model.encode_text(inputs[1]), rtol=1e-2, atol=1e-2)
    half = load_text_encoder("Small", dtype=torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    assert_close(half(["a fox"]), encoder(["a fox"]), rtol=0.1, atol=0.1)


# ---- the package ----

def test_importing_the_denoiser_is_light():
    code = ("import sys, tld.denoiser, tld.diffusion; "
            "print([m for m in ('diffusers', 'transformers', 'clip') if m in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# ---- full size ----

@pytest.mark.slow
def test_the_published_model_at_full_size_with_random_weights(server, tmp_path):
    "Every part as large as the real one, each through its file; what is missing is the training."
    from tld.diffusion import DiffusionTransformer
    published = LTDConfig.published_101m()
    torch.manual_seed(0)

    model = Denoiser.from_config(published.denoiser_cfg)
    assert n_params(model) == 101_164_352
    server.content["/state_dict_378000.pth"] = body = saved(
        {"model_ema": {f"_orig_mod.{key}": value for key, value in model.state_dict().items()}})
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        sample_size=256, scaling_factor=0.13025).save_pretrained(tmp_path / "vae")
    text = clip.model.CLIP(768, 224, 1, 64, 14, 77, 49408, 768, 12, 12)   # ViT-L/14's text tower
    text = {key: value.half() for key, value in text.state_dict().items()}
    torch.save(text, tmp_path / "clip.pt")

    place = dataclasses.replace(
        published.denoiser_load, file_url=f"{server.home}/state_dict_378000.pth",
        local_filename=str(tmp_path / "state_dict_378000.pth"),
        sha256=hashlib.sha256(body).hexdigest())
    config = dataclasses.replace(
        published, denoiser_load=place, clip_cfg=ClipConfig(str(tmp_path / "clip.pt")),
        vae_cfg=VaeConfig(published.vae_cfg.vae_scale_factor, str(tmp_path / "vae")))
    draw = DiffusionTransformer(config)
    assert same_weights(draw.denoiser, model) and draw.denoiser_cfg.layout == "published"
    picture = draw.generate_image_from_text("a cute cat", class_guidance=3, n_iter=2)
    assert picture.size == (256, 256)
    latents = torch.randn(2, 4, 32, 32)
    whole = decode_latents(draw.vae, latents, 8.0)
    assert whole.shape == (2, 3, 256, 256) and whole.dtype == torch.float32
    assert_close(decode_latents(draw.vae, latents, 8.0, batch_size=1), whole, rtol=0, atol=1e-3)


def test_a_folder_of_ours_says_what_does_not_fit(tmp_path):
    config = DenoiserConfig.tiny()
    save_denoiser(Denoiser.from_config(config), config, tmp_path)
    with pytest.raises(ValueError, match="made with embed_dim=64, n_layers=1, the config says "
                                         "embed_dim=128, n_layers=2: give the config the sizes"):
        fetch_denoiser(DenoiserLoad(local_filename=str(tmp_path)),
                       DenoiserConfig.tiny(embed_dim=128, n_layers=2))
