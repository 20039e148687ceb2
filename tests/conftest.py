"What the tests of the house share."
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".ci"))

ASSETS = ROOT / "tld" / "assets"
SHIPPED = all((ASSETS / part).exists() for part in
              ("denoiser/denoiser.safetensors", "autoencoder", "text_encoder"))
needs_weights = pytest.mark.skipif(not SHIPPED, reason="the shipped weights are not there")


def pytest_configure(config):
    config.addinivalue_line("markers", "slow: minutes long; `make test-slow` runs it")


markdown = new_markdown_cell


def code(text: str, *outputs, count: int | None = None):
    return new_code_cell(text, outputs=list(outputs), execution_count=count)


def stream(text: str, name: str = "stdout"):
    return new_output("stream", name=name, text=text)


def shown(metadata: dict | None = None, **data: str):
    "A displayed output; keyword `text_plain` stands for the type text/plain."
    data = {kind.replace("_", "/", 1): value for kind, value in data.items()}
    return new_output("display_data", data, metadata=metadata or {})


def notebook(cells: list, **metadata):
    cells = [nbformat.from_dict({**cell, "id": f"cell{i}"}) for i, cell in enumerate(cells)]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, **metadata})


def save(path: Path, cells: list, **metadata) -> Path:
    "Write a notebook as nbdev would."
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(cells, **metadata), path)
    return path


@pytest.fixture(scope="session")
def offline(tmp_path_factory):
    "Environment variables under which a new Python process cannot open a connection."
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*args, **kwargs): raise OSError('no network in this test')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
    )
    return {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
