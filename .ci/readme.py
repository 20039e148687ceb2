#!/usr/bin/env python
"""Write README.md from nbs/index.ipynb: its Markdown, and what its code cells show.

Relative links are made to work from the top of the repository. A picture belongs in a file that the
notebook links, not in a cell's output.
"""
import posixpath
import re

from nbconvert import MarkdownExporter
from nbformat import NotebookNode

from house import LINK, QUOTED, ROOT, read_notebook

NOTE = "<!-- Written by `make readme` from nbs/index.ipynb: edit that. -->"
ELSEWHERE = re.compile(r"[a-z]+:|#|/", re.IGNORECASE)  # a URL, an anchor, an absolute path


def from_top(markdown: str) -> str:
    "Relative link targets of nbs/, as seen from the top of the repository."
    def move(match: re.Match) -> str:
        before, target = match.groups()
        return match[0] if ELSEWHERE.match(target) else \
            before + posixpath.normpath(posixpath.join("nbs", target))

    pieces = QUOTED.split(markdown)  # every second piece is quoted
    return "".join(LINK.sub(move, piece) if i % 2 == 0 else piece for i, piece in enumerate(pieces))


def render(nb: NotebookNode) -> str:
    "The notebook as Markdown."
    text, resources = MarkdownExporter(exclude_input=True).from_notebook_node(nb)
    if resources["outputs"]:
        raise ValueError("index.ipynb shows a picture in an output: save it and link the file")
    return f"{NOTE}\n\n" + re.sub(r"\n{3,}", "\n\n", from_top(text)).strip() + "\n"


if __name__ == "__main__":
    readme = render(read_notebook(ROOT / "nbs" / "index.ipynb"))
    (ROOT / "README.md").write_text(readme, encoding="utf-8")
