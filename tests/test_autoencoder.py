"The shipped autoencoder: what it decodes, the scale of its latents, its recipe."
import json
import runpy

import pytest
import torch
from torch.testing import assert_close

from conftest import ROOT
from tld.autoencoder import (
    AutoencoderConfig,
    decode_latents,
    encode_images,
    latent_scale,
    load_autoencoder,
    make_autoencoder,
)
from tld.generator import LatentModel

FOLDER = ROOT / "tld" / "assets" / "autoencoder"


@pytest.fixture(scope="module")
def measured():
    "The script's own measure, on fewer fresh scenes."
    script = ROOT / "benchmarks" / "autoencoder.py"
    return runpy.run_path(str(script))["measure"](FOLDER, 64)


def test_decoded_pictures_are_close_and_read_right(measured):
    assert measured["pictures"] == 64 and measured["psnr"] >= 27
    assert measured["judge_right"] >= 0.99 * 64  # objects, places, sizes, background and tint


def test_channels_are_centred_and_of_unit_size(measured):
    mean, std = (torch.tensor(measured[f"channel_{name}"]) for name in ("mean", "std"))
    used = torch.tensor([c not in (7, 13) for c in range(16)])
    assert mean.abs().max() < 0.1 and (std[used] - 1).abs().max() < 0.1
    assert std[~used].max() < 0.3  # what the encoder hardly uses is not blown up


def test_one_scale_for_all_channels_may_be_given_instead():
    vae = load_autoencoder(FOLDER)
    model = LatentModel(torch.nn.Identity(), vae)
    x = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    z = model.encode(x)
    assert torch.equal(z, encode_images(vae, x)) and latent_scale(vae).shape == (16, 1, 1)
    assert_close(model.encode(x, 8.0) * 8, z * latent_scale(vae))
    assert_close(model.decode(model.encode(x, 8.0), 8.0), decode_latents(vae, z), rtol=0, atol=1e-4)


def test_the_recipe_makes_this_network():
    stored = json.loads((FOLDER / "config.json").read_text())
    made = json.loads(make_autoencoder(AutoencoderConfig()).to_json_string())
    differ = {key for key in stored if stored[key] != made[key]} - {"_diffusers_version"}
    assert differ == {"latents_mean", "latents_std"}
