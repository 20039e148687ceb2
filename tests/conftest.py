"What the tests of the house share."
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

ASSETS = ROOT / "tld" / "assets"
SHIPPED = all((ASSETS / part).exists() for part in
              ("denoiser/denoiser.safetensors", "autoencoder", "text_encoder"))
needs_weights = pytest.mark.skipif(not SHIPPED, reason="the shipped weights are not there")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes long; `make test-slow` runs it")


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "id": "", "metadata": {}, "source": text.splitlines(True)}


def code(text: str, *outputs: dict, count: int | None = None) -> dict:
    return {"cell_type": "code", "execution_count": count, "id": "", "metadata": {},
            "outputs": list(outputs), "source": text.splitlines(True)}


def stream(text: str, name: str = "stdout") -> dict:
    return {"name": name, "output_type": "stream", "text": text.splitlines(True)}


def shown(**data: str) -> dict:
    "A displayed output; keyword `text_plain` stands for the type text/plain."
    data = {kind.replace("_", "/", 1): value for kind, value in data.items()}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def notebook(cells: list[dict]) -> dict:
    cells = [{**cell, "id": f"cell{i}"} for i, cell in enumerate(cells)]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def save(path: Path, cells: list[dict], **metadata) -> Path:
    "Write a notebook as nbdev would."
    nb = notebook(cells)
    nb["metadata"].update(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def offline(tmp_path):
    "Environment variables under which a new Python process cannot open a connection."
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network in this test')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
    )
    return {"PYTHONPATH": str(tmp_path / "offline"), "OMP_NUM_THREADS": "1"}
