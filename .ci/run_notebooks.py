#!/usr/bin/env python
"""Execute notebooks in order, in place, and leave them as `nbdev_clean` would.

    .ci/run_notebooks.py                    every notebook of nbs/, in order
    .ci/run_notebooks.py nbs/05_sampling.ipynb ...

Each runs in a fresh kernel, in its own folder, with this repository first on the path and progress
bars off. A notebook is replaced only when all its cells ran; the first failing cell ends the run.
"""
import argparse
import base64
import io
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from execnb.nbio import nb2str
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import clean_nb
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
WIDGET = "application/vnd.jupyter.widget-view+json"


def kernel_env() -> dict[str, str]:
    "The caller's environment, with what makes outputs the same everywhere."
    env = dict(os.environ)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    env.pop("MPLBACKEND", None)  # the kernel's own default draws pictures into the notebook
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        env.setdefault(name, "1")
    return env


def smaller(png: str) -> str:
    "Pack a picture better, in base64: the same pixels (pictures of few colours shrink by a third)."
    image, packed = Image.open(io.BytesIO(base64.b64decode(png))), io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return min(base64.b64encode(packed.getvalue()).decode(), png, key=len)


def tidy(outputs: list[dict]) -> list[dict]:
    """Pack pictures, leave out widgets (progress bars that TQDM_DISABLE does not reach; of a panel
    with knobs the still picture it brings stays) and join neighbouring pieces of one stream: how a
    print is cut up depends on timing."""
    tidied = []
    for out in outputs:
        last = tidied[-1] if tidied else {}
        data = out.get("data", {})
        if data.pop(WIDGET, None) is not None and "image/png" not in data:
            continue
        if "image/png" in data:
            data["image/png"] = smaller(data["image/png"])
        if out["output_type"] == "stream" and out["name"] == last.get("name"):
            last["text"] += out["text"]
        else:
            tidied.append(out)
    return tidied


def run_notebook(path: Path) -> None:
    "Execute `path` in place; a cell that fails raises and leaves the file untouched."
    before = path.read_bytes()
    nb = nbformat.reads(before.decode(), as_version=4)
    client = NotebookClient(
        nb, timeout=None, kernel_name="python3", record_timing=False, store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    client.execute(env=kernel_env())
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.outputs = tidy(cell.outputs)
    cleaned = json.loads(nbformat.writes(nb))
    clean_nb(cleaned)
    if path.read_bytes() != before:
        raise RuntimeError(f"{path.name} was edited while it ran; it is left as it is")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(nb2str(cleaned), encoding="utf-8")
    os.replace(temporary, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of nbs/, in order")
    notebooks = parser.parse_args().notebooks or sorted((ROOT / "nbs").glob("*.ipynb"))
    for path in notebooks:
        start = time.time()
        print(f"{path} ... ", end="", flush=True)
        try:
            run_notebook(path.resolve())
        except (CellExecutionError, RuntimeError) as error:
            print(f"failed\n\n{error}", file=sys.stderr)
            return 1
        print(f"{time.time() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
