#!/usr/bin/env python
"""Cut the pictures of the map in nbs/index.ipynb, nbs/images/NAME.png, out of the chapters.

A chapter chooses its picture by metadata of the cell that shows it, so that the choice moves with
the cell: `"thumbnail": [left, top, right, bottom]`, the part to keep, in shares of the picture.
A chapter that chooses none shows its first picture whole.
"""
import base64
import io

from nbformat import NotebookNode
from PIL import Image

from house import ROOT, chapters, read_notebook

WIDTH, COLOURS = 160, 128  # pixels, and how many colours: small files


def thumbnail(nb: NotebookNode) -> Image.Image:
    "The chosen part of a chapter's chosen picture, small."
    cells = [cell for cell in nb.cells if "thumbnail" in cell.metadata] or nb.cells
    pngs = [(output.data["image/png"], cell.metadata.get("thumbnail", [0, 0, 1, 1]))
            for cell in cells for output in cell.get("outputs", [])
            if "image/png" in output.get("data", {})]
    if not pngs:
        raise ValueError("no picture, or none in the cell with the metadata `thumbnail`")
    png, box = pngs[0]
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    image = image.crop([round(part * side) for part, side in zip(box, image.size * 2)])
    height = round(WIDTH * image.height / image.width)
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(COLOURS)


if __name__ == "__main__":
    for path in chapters():
        print(path.name)
        picture = ROOT / "nbs" / "images" / f"{path.stem}.png"
        thumbnail(read_notebook(path)).save(picture, optimize=True)
