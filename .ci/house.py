"What the scripts in this folder share: where things are, and how a notebook is read and written."
import json
import re
from configparser import ConfigParser
from pathlib import Path

from execnb.nbio import nb2str

ROOT = Path(__file__).resolve().parents[1]
# Code and formulas inside Markdown: what looks like a link in there is none.
QUOTED = re.compile(r"(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$)", re.DOTALL)


def settings(root: Path = ROOT) -> dict[str, str]:
    "The settings.ini of a repository."
    parser = ConfigParser(delimiters="=")
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def notebooks(root: Path = ROOT) -> list[Path]:
    "All notebooks in reading order, the solutions of the exercises last."
    return sorted(root.glob("nbs/*.ipynb")) + sorted(root.glob("nbs/solutions/*.ipynb"))


def read_notebook(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def write_if_changed(path: Path, text: str) -> bool:
    "Write, and say whether that changed anything."
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        path.write_text(text, encoding="utf-8")
    return changed


def notebook_text(nb: dict) -> str:
    "The text of a notebook file, laid out as nbdev does."
    return nb2str(nb)


def source(cell: dict) -> str:
    return "".join(cell["source"])


def directives(cell: dict) -> list[str]:
    "The `#| ...` lines that open a code cell, without the `#|`."
    if cell["cell_type"] != "code":
        return []
    lines = [line.strip() for line in source(cell).strip().splitlines()]
    count = next((i for i, line in enumerate(lines) if not line.startswith("#|")), len(lines))
    return [line[2:].strip() for line in lines[:count]]


def exported(cell: dict) -> bool:
    return any(re.match(r"exports?i?\b", line) for line in directives(cell))
