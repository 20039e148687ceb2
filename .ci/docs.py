#!/usr/bin/env python
"""Write the notebooks as web pages into _docs/, index.html first, with their pictures inside.

What else a notebook links to (a configuration, say) is copied beside the pages.
"""
import re
import shutil
import sys

from nbconvert import HTMLExporter

from house import ROOT, notebooks


def main() -> int:
    pages = ROOT / "_docs"
    shutil.rmtree(pages, ignore_errors=True)
    exporter = HTMLExporter(embed_images=True)
    for path in notebooks():
        page = pages / path.relative_to(ROOT / "nbs").with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        resources = {"metadata": {"path": str(path.parent), "name": path.stem}}
        html, _ = exporter.from_filename(str(path), resources=resources)
        html = re.sub(r'(href="[^":]+)\.ipynb(?=["#])', r"\1.html", html)  # links among pages
        page.write_text(html, encoding="utf-8")
        print(page.relative_to(ROOT))
    for extra in (ROOT / "nbs").rglob("*.yaml"):
        copy = pages / extra.relative_to(ROOT / "nbs")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(extra, copy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
