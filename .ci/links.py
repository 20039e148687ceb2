#!/usr/bin/env python
"""Make every link to this repository follow `user`, `repo` and `branch` of settings.ini.

In every notebook: repository links, the Colab badge, the Colab install cell, and the navigation
line (first after the title, and last), whose neighbours are the chapters before and after.

    .ci/links.py           rewrite
    .ci/links.py --check   change nothing; exit 1 and list what is stale
"""
import argparse
import re
import sys
from pathlib import Path

from house import ROOT, directives, notebook_text, notebooks, read_notebook, settings, source

BADGE = "[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
COLAB = "https://colab.research.google.com/github/"
INSTALL = """\
#| eval: false
# On Colab, install the package; anywhere else this does nothing.
import sys
if "google.colab" in sys.modules:
    %pip install -q git+https://github.com/{user}/{repo}"""


def is_install(cell: dict) -> bool:
    return "eval: false" in directives(cell) and "google.colab" in source(cell)


def is_navigation(cell: dict) -> bool:
    return cell["cell_type"] == "markdown" and "(index.ipynb)" in source(cell) \
        and BADGE in source(cell)


def title(path: Path) -> str:
    "The number of a chapter, from its file name, and its title."
    heading = source(read_notebook(path)["cells"][0]).splitlines()[0]
    return path.stem.split("_")[0] + " " + re.sub(r"^#\s*(\d+\s+)?", "", heading)


def navigation(path: Path, cfg: dict[str, str]) -> str:
    "The line that leads from a notebook to its neighbours, the contents and Colab."
    chapters = sorted(path.parent.glob("[0-9]*.ipynb"))
    links = ["[Contents](index.ipynb)"]
    if path in chapters:
        i = chapters.index(path)
        if i > 0:
            links.insert(0, f"[← {title(chapters[i - 1])}]({chapters[i - 1].name})")
        if i + 1 < len(chapters):
            links.append(f"[{title(chapters[i + 1])} →]({chapters[i + 1].name})")
    url = COLAB + "{user}/{repo}/blob/{branch}/nbs/".format(**cfg) + path.name
    return " · ".join([*links, f"{BADGE}({url})"])


def former_names(cells: list[dict]) -> set[tuple[str, str]]:
    "The (user, repo) that badges and install cells name now: what has to be replaced."
    found = set()
    for cell in cells:
        if is_navigation(cell):
            found |= set(re.findall(re.escape(COLAB) + r"([\w.-]+)/([\w.-]+)/blob/", source(cell)))
        elif is_install(cell):
            found |= set(re.findall(r"github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?$", source(cell)))
    return found


def relink(text: str, former: set[tuple[str, str]], cfg: dict[str, str]) -> str:
    "Replace links to the repository under any of its former names."
    for user, repo in former:
        hosts = r"((?:github\.com|githubusercontent\.com|research\.google\.com/github)/)"
        name = re.escape(f"{user}/{repo}") + r"(?=\.git\b|[^\w.-]|$)"
        text = re.sub(hosts + name, rf"\g<1>{cfg['user']}/{cfg['repo']}", text)
        pages = re.escape(f"{user}.github.io/{repo}") + r"(?=[^\w.-]|$)"
        text = re.sub(pages, f"{cfg['user']}.github.io/{cfg['repo']}", text)
    branch = rf"({re.escape(COLAB + cfg['user'] + '/' + cfg['repo'])}/blob/)[\w.-]+(?=/nbs/)"
    return re.sub(branch, rf"\g<1>{cfg['branch']}", text)


def rewrite(path: Path, nb: dict, former: set[tuple[str, str]], cfg: dict[str, str]) -> list[str]:
    "Rewrite a notebook in memory; say what was stale."
    stale = []
    for i, cell in enumerate(nb["cells"]):
        old = source(cell)
        if is_install(cell):
            new, what = INSTALL.format(**cfg), "install cell"
        elif is_navigation(cell) and path.stem != "index":
            new, what = navigation(path, cfg), "navigation line"
        else:
            new, what = relink(old, former, cfg), "repository link"
        if new != old:
            cell["source"] = new.splitlines(keepends=True)
            stale.append(f"cell {i}: {what}")
    return stale


def main(root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, list what is stale")
    check = parser.parse_args().check
    cfg = settings(root)
    nbs = {path: read_notebook(path) for path in notebooks(root)}
    former = set().union(*(former_names(nb["cells"]) for nb in nbs.values()))
    stale = False
    for path, nb in nbs.items():
        for what in rewrite(path, nb, former, cfg):
            stale = True
            print(f"{path.relative_to(root)}: {what}" + (" is stale" if check else " rewritten"))
        if not check:
            text = notebook_text(nb)
            if text != path.read_text(encoding="utf-8"):
                path.write_text(text, encoding="utf-8")
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
