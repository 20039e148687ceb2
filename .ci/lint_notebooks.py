#!/usr/bin/env python
"""Check the form of notebooks (all, or those named); list what is wrong, exit 1.

Ruff checks the code in them, nbdev_clean the metadata, `make sync` links to their neighbours.
"""
import json
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from nbformat import NotebookNode

from house import LINK, QUOTED, directives, notebooks, read_notebook
from links import is_install, is_navigation

MAX_NOTEBOOK, MAX_OUTPUT = 600_000, 150_000  # bytes
MAX_COLUMNS, MAX_OLD = 88, 100               # of exported lines
# Notebooks with cells from before two rules: figures have alt text, exported lines 88 columns.
# To tighten: draw the figures of one with `show(fig, alt=...)` of tld.pictures, shorten its lines,
# run it, take its name out.
OLD = """07_* 08_* 09_* 12_* 13_* 14_* 15_* 16_* cli configs files generator hub measures
    optim precision recipes train weights harness/parallel harness/resumable
    solutions/15_* world/captions world/objects""".split()
# What must not stand where, and what it is called. An output begins with its type and stream.
REJECTED = {
    "output": {
        r"\A(error|stream stderr)$": "a traceback or stderr",
        r"^application/vnd\.jupyter\.widget": "a widget",
        r"Warning": "a warning",
        r"/home/|/Users/|/root/|/work/|/tmp/|[A-Z]:\\Users": "a path of somebody's machine",
        r"it/s\b|s/it\b|\d%\|": "a progress bar",
        r" at 0x[0-9a-fA-F]+": "a memory address",
        r"Wall time|CPU times|\b\d+\.\d+ ?(?:s|ms|µs|us|secs?|seconds)\b": "a timing",
    },
    "markdown": {
        r"!\[\s*\]\([^)]*|<img\b(?![^>]*\balt=[\"'][^\"']*\w)[^>]*>": "a picture without alt text",
        r"base64,|attachment:": "a picture in the Markdown: link a file",
    },
    "code": {r"^#\| *eval: false": "a cell that is not run, and not the Colab install cell"},
    "export": {r"\.cuda\(\)": "`.cuda()`: take the device from the inputs"},
}
SHOWS = re.compile(r"^(print|plt\.show|display|show)\(", re.MULTILINE)


def search(kind: str, text: str) -> Iterator[str]:
    "What of REJECTED a text holds."
    for pattern, what in REJECTED[kind].items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            yield f"the {kind} holds {what}: {match[0][:60]!r}"


def check_output(output: NotebookNode, old: bool) -> Iterator[str]:
    data = output.get("data", {})
    said = [output.get("text", ""), *(data[kind] for kind in data if kind.startswith("text/"))]
    head = f"{output.output_type} {output.get('name', '')}".strip()
    yield from search("output", "\n".join([head, *data, *said]))
    if (size := len(json.dumps(output))) > MAX_OUTPUT:
        yield f"an output of {size // 1000} KB, more than {MAX_OUTPUT // 1000}"
    for kind in data:
        alt = output.metadata.get(kind, {}).get("alt", "").strip()
        if kind.startswith("image/") and not alt and not old:
            yield "a figure without alt text: use show(fig, alt=...)"


def check_cell(cell: NotebookNode, path: Path, old: bool) -> Iterator[str]:
    if not cell.source.strip() or cell.get("attachments"):
        yield "empty, or with an attachment"
    if cell.cell_type == "markdown":
        prose = QUOTED.sub("", cell.source)
        yield from search("markdown", prose)
        for _, target in LINK.findall(prose):
            file = re.split(r"[#?]", target)[0]  # empty: a link within the page
            if not re.match(r"[a-z]+:", target) and file \
                    and (file.startswith("/") or not (path.parent / file).exists()):
                yield f"a link to nothing: {target}"
        return
    if not is_install(cell):
        yield from search("code", cell.source)
    if SHOWS.search(cell.source) and not cell.outputs:
        yield "prints or shows, but has no output: run the notebook"
    if any(re.match(r"exports?i?\b", line) for line in directives(cell)):
        yield from search("export", cell.source)
        limit = MAX_OLD if old else MAX_COLUMNS
        for line in cell.source.splitlines():
            if len(line) > limit:
                yield f"{len(line)} columns, more than {limit}: {line.strip()[:50]}"
    for output in cell.outputs:
        yield from check_output(output, old)


def check_notebook(nb: NotebookNode, path: Path, name: str) -> Iterator[str]:
    if path.stat().st_size > MAX_NOTEBOOK:
        yield f"a notebook of {path.stat().st_size // 1000} KB, more than {MAX_NOTEBOOK // 1000}"
    if "widgets" in nb.metadata:
        yield "widget state in the metadata"
    counts = [cell.execution_count for cell in nb.cells if cell.get("execution_count")]
    if any(count <= before for before, count in zip(counts, counts[1:])):
        yield f"cells run out of order, as {counts}: run all"
    if name.startswith("solutions/"):
        return  # the rest is how chapters and reference notebooks are laid out
    cells, first = nb.cells, nb.cells[0]
    if first.cell_type != "markdown" or not re.fullmatch(r"# \S.*\n\s*> \S.*\s*", first.source):
        yield "cell 0 must be `# Title` and `> summary`, nothing else"
    if name != "index" and (len(cells) < 3 or not is_navigation(cells[1])
                            or cells[1].source != cells[-1].source):
        yield "cell 1 and the last cell must be the navigation line"
    code = [cell for cell in cells if cell.cell_type == "code" and not is_install(cell)]
    if code and not any(cell.outputs for cell in code):
        yield "no cell has an output: run the notebook"


def lint(path: Path) -> list[str]:
    "What is wrong with a notebook, one line each."
    nb = read_notebook(path)
    name = path.stem if path.parent.name == "nbs" else f"{path.parent.name}/{path.stem}"
    old = any(fnmatch(name, pattern) for pattern in OLD)
    found = [f"{name}: {message}" for message in check_notebook(nb, path, name)]
    return found + [f"{name}: cell {i}: {message}" for i, cell in enumerate(nb.cells)
                    for message in check_cell(cell, path, old)]


def main() -> int:
    paths = [Path(name).resolve() for name in sys.argv[1:]] or notebooks()
    found = [message for path in paths for message in lint(path)]
    print("\n".join(found) or f"{len(paths)} notebooks, nothing wrong with their form")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
