#!/usr/bin/env python
"""Cut the pictures of the map in nbs/index.ipynb out of the notebooks' own outputs.

    .ci/thumbnails.py       write nbs/images/NAME.png for every chapter in PICTURES

Run it when a chapter in there was run anew (`make notebooks` does).
"""
import base64
import io
import sys

from PIL import Image

from house import ROOT, read_notebook

WIDTH, COLOURS = 160, 128  # pixels, and how many colours: small files
# Chapter -> the cell that draws its picture, and what to keep of it: left, top, right, bottom.
PICTURES = {
    "00_tour": ("ed0ca894", (0, 0, .5, 1)),
    "01_noise_schedules": ("21de14a4", (0, .3, .67, 1)),
    "02_vdm": ("ef3000b5", (0, .34, 1, 1)),
    "03_transformer_blocks": ("526c253a", (.04, .36, 1, .83)),
    "04_denoiser": ("4551e02c", (.04, .03, 1, .75)),
    "05_sampling": ("2abe6263", (.07, .2, 1, .86)),
    "06_scenes": ("bd28ceba", (0, 0, .5, .42)),
    "07_autoencoder": ("3f9ed209", (.08, .2, 1, 1)),
    "08_text_encoder": ("aa0e3ad6", (.06, .1, 1, .86)),
    "09_data": ("c4222ede", (0, .2, 1, 1)),
    "10_training": ("57da7d34", (0, .38, .6, 1)),
    "11_generation": ("8ff55a18", (0, 0, 1, 1)),
    "12_evaluation": ("305a2dac", (.02, .12, .68, .93)),
    "13_few_steps": ("8c8b3dc4", (0, .795, 1, .925)),
    "14_high_resolution": ("9059d394", (0, .33, .5, 1)),
    "15_outpainting": ("5e236f20", (.016, .15, .5, .93)),
    "16_interpolation": ("ad083faa", (.225, .5, .78, .89)),
}


def picture(name: str, cell_id: str) -> Image.Image:
    "The picture that a cell of a chapter shows."
    for cell in read_notebook(ROOT / "nbs" / f"{name}.ipynb")["cells"]:
        for output in cell.get("outputs", []) if cell["id"] == cell_id else []:
            if png := output.get("data", {}).get("image/png"):
                return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    raise ValueError(f"{name}: cell {cell_id} is gone or shows no picture: "
                     "name another in PICTURES of .ci/thumbnails.py")


def thumbnail(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    "A part of a picture, small."
    sides = image.size * 2
    image = image.crop([round(part * side) for part, side in zip(box, sides)])
    height = round(WIDTH * image.height / image.width)
    return image.resize((WIDTH, height), Image.Resampling.LANCZOS).quantize(COLOURS)


def main() -> int:
    for name, (cell_id, box) in PICTURES.items():
        path = ROOT / "nbs" / "images" / f"{name}.png"
        thumbnail(picture(name, cell_id), box).save(path, optimize=True)
        print(path.relative_to(ROOT), path.stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
