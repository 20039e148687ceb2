#!/usr/bin/env python
"""Execute notebooks (all, or those named) in place, and leave them as `nbdev_clean` would.

Each runs in a fresh kernel, in its own folder, with this repository first on the path and progress
bars off. A notebook is replaced only when all its cells ran; the first failing cell ends the run.
"""
import base64
import io
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbdev.clean import clean_nb
from PIL import Image

from house import ROOT, notebooks, settings

WIDGET = "application/vnd.jupyter.widget-view+json"


def kernel_env() -> dict[str, str]:
    "The caller's environment, with what makes outputs the same everywhere."
    env = {"TQDM_DISABLE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **os.environ}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.pop("MPLBACKEND", None)  # the kernel's own default draws pictures into the notebook
    return env


def smaller(png: str) -> str:
    "Pack a picture better, in base64: the same pixels (pictures of few colours shrink by a third)."
    image, packed = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return min(base64.b64encode(packed.getvalue()).decode(), png, key=len)


def tidy(cell: nbformat.NotebookNode) -> None:
    """Leave out widgets (of a panel with knobs the still picture it brings stays), pack pictures,
    and join neighbouring pieces of one stream: how a print is cut up depends on timing."""
    kept = []
    for output in cell.outputs:
        data = output.get("data", {})
        if data.pop(WIDGET, None) is None or "image/png" in data:
            kept.append(output)
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
    cell.outputs = kept
    CoalesceStreamsPreprocessor().preprocess_cell(cell, {}, 0)


def run_notebook(path: Path) -> None:
    "Execute `path` in place; a cell that fails raises and leaves the file untouched."
    before = path.read_text(encoding="utf-8")
    nb = nbformat.reads(before, as_version=4)
    NotebookClient(
        nb, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    ).execute(env=kernel_env())
    for cell in nb.cells:
        if cell.cell_type == "code":
            tidy(cell)
    clean_nb(nb, allowed_cell_metadata_keys=settings()["allowed_cell_metadata_keys"].split())
    if path.read_text(encoding="utf-8") != before:
        raise SystemExit(f"{path.name} was edited while it ran; it is left as it is")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    nbformat.write(nb, temporary)
    os.replace(temporary, path)


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:] or notebooks()):
        start = time.time()
        run_notebook(path.resolve())
        print(f"{path}: {time.time() - start:.0f} s", flush=True)
