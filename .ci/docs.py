#!/usr/bin/env python
"Write the notebooks as web pages into _docs/, beside what else they link; index.html is the first."
import re
import shutil

from nbconvert import HTMLExporter

from house import ROOT, notebooks

if __name__ == "__main__":
    nbs, pages = ROOT / "nbs", ROOT / "_docs"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(nbs, pages, ignore=shutil.ignore_patterns("*.ipynb", ".*", "__pycache__"))
    for path in notebooks():
        html, _ = HTMLExporter(embed_images=True).from_filename(str(path))
        html = re.sub(r'(href="[^":]+)\.ipynb(?=["#])', r"\1.html", html)  # links among pages
        (pages / path.relative_to(nbs).with_suffix(".html")).write_text(html, encoding="utf-8")
