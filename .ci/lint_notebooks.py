#!/usr/bin/env python
"""Check the form of notebooks; exit 1 and list what is wrong.

    .ci/lint_notebooks.py                    every notebook, solutions too
    .ci/lint_notebooks.py nbs/05_sampling.ipynb ...

A rule is a generator of messages over a `Notebook`. Rules marked `chapter` are about how chapters
are laid out and do not bind the solutions of exercises.
"""
import argparse
import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from house import QUOTED, directives, exported, notebooks, source
from links import is_install, is_navigation

MAX_COLUMNS = 100
MAX_NOTEBOOK = 600_000  # bytes
MAX_OUTPUT = 150_000    # bytes
WIDGETS = "application/vnd.jupyter.widget"
PRINTING_MODULES = {"cli"}

OUTPUT_RESIDUE = {  # what no committed output may say, and what it is called
    r"Warning": "a warning",
    r"/home/|/Users/|/root/|/work/|/tmp/|[A-Z]:\\Users": "a path of somebody's machine",
    r"it/s\b|s/it\b|\d%\|": "a progress bar",
    r" at 0x[0-9a-fA-F]+": "a memory address",
    r"Wall time|CPU times|\b\d+\.\d+ ?(?:s|ms|µs|us|secs?|seconds)\b": "a timing",
}
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]*)[^)]*\)")
IMAGE_TAG = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
LINK = re.compile(r"""\]\(([^()\s]+)[^()]*\)|\b(?:src|href)=["']([^"']+)["']""")


@dataclass
class Notebook:
    path: Path
    text: str = field(init=False)
    cells: list[dict] = field(init=False)

    def __post_init__(self):
        self.text = self.path.read_text(encoding="utf-8")
        self.json = json.loads(self.text)
        self.cells = self.json["cells"]

    @cached_property
    def code(self) -> list[tuple[int, dict]]:
        return [(i, cell) for i, cell in enumerate(self.cells) if cell["cell_type"] == "code"]

    @cached_property
    def prose(self) -> list[tuple[int, str]]:
        "Markdown cells without the code and formulas in them."
        return [(i, QUOTED.sub("", source(cell))) for i, cell in enumerate(self.cells)
                if cell["cell_type"] == "markdown"]

    @cached_property
    def outputs(self) -> list[tuple[int, dict]]:
        return [(i, output) for i, cell in self.code for output in cell["outputs"]]

    @cached_property
    def exports(self) -> list[tuple[int, str]]:
        return [(i, source(cell)) for i, cell in self.code if exported(cell)]

    @cached_property
    def module(self) -> str:
        "The name of the module that the notebook makes."
        flags = (flag.split() for _, cell in self.code for flag in directives(cell))
        return next((flag[1] for flag in flags if flag[0] == "default_exp"), "")


@dataclass
class Rule:
    check: Callable[[Notebook], Iterator[str]]
    chapter: bool


RULES: dict[str, Rule] = {}


def rule(function=None, *, chapter=False):
    "Register a rule under the name of its function."
    if function is None:
        return lambda f: rule(f, chapter=chapter)
    RULES[function.__name__] = Rule(function, chapter)
    return function


def output_text(output: dict) -> str:
    "All the text of an output."
    pieces = [output.get("text", "")]
    pieces += [data for kind, data in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join("".join(piece) for piece in pieces)


def parse(code: str) -> ast.Module:
    "The syntax tree of a cell; magics and shell lines are taken out first."
    lines = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in code.splitlines()]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return ast.Module([], [])  # running the notebook will say it better


# ---- outputs ----

@rule
def widgets(nb):
    if "widgets" in nb.json["metadata"]:
        yield "widget state in the metadata"
    for i, output in nb.outputs:
        if any(kind.startswith(WIDGETS) for kind in output.get("data", {})):
            yield f"cell {i}: a widget as output"


@rule
def stderr(nb):
    for i, output in nb.outputs:
        if output.get("name") == "stderr":
            yield f"cell {i}: stderr output"


@rule
def errors(nb):
    for i, output in nb.outputs:
        if output["output_type"] == "error":
            yield f"cell {i}: a traceback"


@rule
def residue(nb):
    for i, output in nb.outputs:
        for pattern, name in OUTPUT_RESIDUE.items():
            if match := re.search(pattern, output_text(output)):
                yield f"cell {i}: the output holds {name}: {match.group()!r}"


@rule
def large_output(nb):
    for i, output in nb.outputs:
        if (size := len(json.dumps(output))) > MAX_OUTPUT:
            yield f"cell {i}: an output of {size // 1000} KB, more than {MAX_OUTPUT // 1000}"


@rule
def large_notebook(nb):
    if (size := len(nb.text.encode())) > MAX_NOTEBOOK:
        yield f"{size // 1000} KB, more than {MAX_NOTEBOOK // 1000}"


@rule
def run_order(nb):
    counts = [(i, cell["execution_count"]) for i, cell in nb.code if cell.get("execution_count")]
    for (_, before), (i, count) in zip(counts, counts[1:]):
        if count <= before:
            yield f"cell {i}: run as [{count}] after [{before}]: run all, in order"


def shows_something(cell: dict) -> bool:
    "Whether a cell certainly has an output: it prints or shows a figure at its top level."
    calls = (node.value.func for node in parse(source(cell)).body
             if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    return any(ast.unparse(call) in ("print", "plt.show", "display") for call in calls)


@rule
def missing_outputs(nb):
    for i, cell in nb.code:
        if shows_something(cell) and not cell["outputs"]:
            yield f"cell {i}: prints or shows, but has no output: run the notebook"


@rule(chapter=True)
def no_outputs(nb):
    if any(not is_install(cell) for _, cell in nb.code) and not nb.outputs:
        yield "no cell has an output: run the notebook"


# ---- Markdown ----

@rule
def alt_text(nb):
    for i, text in nb.prose:
        for alt, target in IMAGE.findall(text):
            if not alt.strip():
                yield f"cell {i}: no alt text: {target}"
        for tag in IMAGE_TAG.findall(text):
            if not re.search(r"""\balt=["'][^"']*\w""", tag):
                yield f"cell {i}: no alt text: {tag}"


@rule
def inline_pictures(nb):
    for i, cell in enumerate(nb.cells):
        if cell["cell_type"] == "markdown" and re.search(r"base64,|attachment:", source(cell)) \
                or cell.get("attachments"):
            yield f"cell {i}: a picture inside the Markdown: link a file"


@rule
def broken_links(nb):
    for i, text in nb.prose:
        for target in map("".join, LINK.findall(text)):
            name = re.split(r"[#?]", target)[0]
            if re.match(r"[a-z]+:", target) or not name:  # elsewhere, or within the page
                continue
            if name.startswith("/") or not (nb.path.parent / name).exists():
                yield f"cell {i}: a link to nothing: {target}"


@rule
def empty_cells(nb):
    for i, cell in enumerate(nb.cells):
        if not source(cell).strip():
            yield f"cell {i}: empty"


# ---- layout of a chapter ----

@rule(chapter=True)
def opening(nb):
    first = nb.cells[0]
    lines = [line for line in source(first).splitlines() if line.strip()]
    if first["cell_type"] != "markdown" or len(lines) != 2 \
            or not re.match(r"# \S", lines[0]) or not re.match(r"> \S", lines[1]):
        yield "cell 0: must be `# Title` and `> summary`, nothing else"


@rule(chapter=True)
def navigation(nb):
    if nb.path.stem == "index":
        return
    first, last = nb.cells[min(1, len(nb.cells) - 1)], nb.cells[-1]
    if not is_navigation(first):
        yield "cell 1: must be the navigation line"
    if source(first) != source(last) or len(nb.cells) < 3:
        yield "the last cell must repeat the navigation line of cell 1"


# ---- code ----

@rule
def not_evaluated(nb):
    for i, cell in nb.code:
        if "eval: false" in directives(cell) and not is_install(cell):
            yield f"cell {i}: `eval: false` is for the Colab install cell only"


@rule
def star_imports(nb):
    for i, cell in nb.code:
        for node in ast.walk(parse(source(cell))):
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" \
                    and not node.level and node.module.split(".")[0] != "tld":
                yield f"cell {i}: from {node.module} import *"


@rule
def needs_nbdev(nb):
    for i, cell in nb.code:
        for node in ast.walk(parse(source(cell))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "nbdev" for name in names):
                yield f"cell {i}: needs nbdev, which a reader does not have"


@rule
def long_lines(nb):
    for i, code in nb.exports:
        for line in code.splitlines():
            if len(line) > MAX_COLUMNS:
                yield f"cell {i}: {len(line)} columns, more than {MAX_COLUMNS}: {line.strip()[:50]}"


@rule
def exported_calls(nb):
    for i, code in nb.exports:
        for node in ast.walk(parse(code)):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called.endswith(".cuda"):
                yield f"cell {i}: `.cuda()` in the package: take the device from the inputs"
            if called == "print" and nb.module not in PRINTING_MODULES:
                yield f"cell {i}: `print` in the package"


def lint(path: Path) -> list[str]:
    "What is wrong with a notebook, one line each, with the name of the rule."
    nb, solution = Notebook(path), path.parent.name == "solutions"
    return [f"{message} [{name}]" for name, rule in RULES.items()
            if not (rule.chapter and solution) for message in rule.check(nb)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    paths = parser.parse_args().notebooks or notebooks()
    found = [f"{path.name}: {message}" for path in paths for message in lint(path)]
    print("\n".join(found) or f"{len(paths)} notebooks, nothing wrong with their form")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
