"What the scripts in this folder share: where things are, and how a notebook is read and written."
import re
from configparser import ConfigParser
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
# Links in Markdown; code and formulas, in which what looks like a link is none.
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^()\s"']+)(?=["')]|\s+["'])""")
QUOTED = re.compile(r"(```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$)", re.DOTALL)


def settings(root: Path = ROOT) -> dict[str, str]:
    "The settings.ini of a repository."
    parser = ConfigParser(delimiters="=")
    parser.read(root / "settings.ini", encoding="utf-8")
    return dict(parser["DEFAULT"])


def notebooks(root: Path = ROOT) -> list[Path]:
    "All notebooks under nbs/ but hidden ones, as nbdev finds them: chapters first, then folders."
    found = ((path.relative_to(root / "nbs").parts, path) for path in root.glob("nbs/**/*.ipynb"))
    kept = [(parts, path) for parts, path in found if not any(part[0] in "._" for part in parts)]
    return [path for _, path in sorted(kept, key=lambda pair: (len(pair[0]), pair[0]))]


def chapters(root: Path = ROOT) -> list[Path]:
    "The numbered notebooks at the top of nbs/, in reading order."
    return [path for path in notebooks(root)
            if path.parent.name == "nbs" and path.name[0].isdigit()]


def modules(root: Path = ROOT) -> list[Path]:
    "All modules under tld/ that a notebook makes."
    return sorted(path for path in root.glob("tld/**/*.py") if path.name[0] != "_")


def read_notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def directives(cell: nbformat.NotebookNode) -> list[str]:
    "The `#| ...` lines of a code cell, without the `#|`."
    lines = cell.source.splitlines() if cell.cell_type == "code" else []
    return [line[2:].strip() for line in lines if line.startswith("#|")]
