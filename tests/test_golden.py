"The original's outputs and key table, checked in a fresh process without the notebooks."
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tld.configs import DenoiserConfig
from tld.denoiser import Denoiser, from_original_state_dict, n_params

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("layout", ["original", "published"])
def test_golden_outputs(layout):
    "A small random model gives what the original code gave, in both layouts."
    golden = {key: torch.tensor(value) for key, value in np.load(DATA / "golden_small.npz").items()}
    weights = {key[2:]: value for key, value in golden.items() if key.startswith("w.")}
    config = DenoiserConfig(image_size=8, noise_embed_dims=64, n_layers=2, text_emb_size=48,
                            layout=layout)
    model = from_original_state_dict(weights, config)
    with torch.no_grad():
        out = model(golden["x"], golden["noise_level"], golden["text_emb"])
    torch.testing.assert_close(out, golden[f"out_{layout}"], rtol=0, atol=1e-4)


def test_published_keys():
    "The 101M model has the original's parameter names and shapes."
    with torch.device("meta"):
        model = Denoiser.from_config(DenoiserConfig.published_101m())
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == json.loads((DATA / "keys_101m.json").read_text())
    assert n_params(model) == 101_164_352
