#!/usr/bin/env python
"""Make every link to this repository follow `user`, `repo` and `branch` of settings.ini.

In every notebook: repository links, the Colab badge, the Colab install cell, and the navigation
line (first after the title, and last). Chapters link the chapters before and after; every notebook
links the contents and Colab. `make sync` says what would change.
"""
import os
import re
from pathlib import Path

import nbformat

from house import ROOT, chapters, directives, notebooks, read_notebook, settings

BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
COLAB = "https://colab.research.google.com/github/"
INSTALL = """\
#| eval: false
# On Colab, install the package; anywhere else this does nothing.
import sys
if "google.colab" in sys.modules:
    %pip install -q git+https://github.com/{user}/{repo}"""


def is_install(cell) -> bool:
    return "eval: false" in directives(cell) and "google.colab" in cell.source


def is_navigation(cell) -> bool:
    return cell.cell_type == "markdown" and BADGE in cell.source \
        and bool(re.search(r"\((\.\./)*index\.ipynb\)", cell.source))


def title(path: Path) -> str:
    "The number of a chapter, from its file name, and its title."
    heading = read_notebook(path).cells[0].source.splitlines()[0]
    return path.stem.split("_")[0] + " " + re.sub(r"^#\s*(\d+\s+)?", "", heading)


def navigation(path: Path, cfg: dict[str, str]) -> str:
    "The line that leads from a notebook to its neighbours, the contents and Colab."
    nbs = next(folder for folder in path.parents if folder.name == "nbs")
    links = [f"[Contents]({Path(os.path.relpath(nbs / 'index.ipynb', path.parent)).as_posix()})"]
    series = chapters(nbs.parent)
    if path in series:
        i = series.index(path)
        links = [f"[← {title(other)}]({other.name})" for other in series[:i][-1:]] + links \
            + [f"[{title(other)} →]({other.name})" for other in series[i + 1:][:1]]
    url = COLAB + "{user}/{repo}/blob/{branch}/nbs/".format(**cfg)
    return " · ".join([*links, f"{BADGE}({url}{path.relative_to(nbs).as_posix()})"])


def former_names(cells: list) -> set[tuple[str, str]]:
    "The (user, repo) that badges and install cells name now: what has to be replaced."
    ours = "\n".join(cell.source for cell in cells if is_navigation(cell) or is_install(cell))
    return set(re.findall(r"(?:google\.com/github|git\+https://github\.com)"
                          r"/([\w.-]+)/([\w.-]+?)(?:\.git)?(?=/|\s|$)", ours))


def relink(text: str, former: set[tuple[str, str]], cfg: dict[str, str]) -> str:
    "Replace links to the repository under any of its former names."
    end = r"(?=\.git\b|[^\w.-]|$)"
    for user, repo in former:
        name, pages = re.escape(f"{user}/{repo}"), re.escape(f"{user}.github.io/{repo}")
        text = re.sub("(?<=com/|hub/)" + name + end, "{user}/{repo}".format(**cfg), text)
        text = re.sub(pages + end, "{user}.github.io/{repo}".format(**cfg), text)
    ours = re.escape(COLAB + "{user}/{repo}/blob/".format(**cfg))
    return re.sub(rf"({ours})[\w.-]+(?=/nbs/)", rf"\g<1>{cfg['branch']}", text)


def main(root: Path = ROOT) -> None:
    cfg, nbs = settings(root), {path: read_notebook(path) for path in notebooks(root)}
    former = former_names([cell for nb in nbs.values() for cell in nb.cells])
    for path, nb in nbs.items():
        for cell in nb.cells:
            if is_install(cell):
                cell.source = INSTALL.format(**cfg)
            elif is_navigation(cell) and path.stem != "index":
                cell.source = navigation(path, cfg)
            else:
                cell.source = relink(cell.source, former, cfg)
        if nb != read_notebook(path):
            nbformat.write(nb, path)
            print(path.relative_to(root), "rewritten")


if __name__ == "__main__":
    main()
