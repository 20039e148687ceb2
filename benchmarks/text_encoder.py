#!/usr/bin/env python
"""Train the text encoder, and measure it on captions it never saw.

    benchmarks/text_encoder.py RUN                  train (resumes), measure what is in RUN
    benchmarks/text_encoder.py RUN --image-steps 0  the text tower; the other any other day
    benchmarks/text_encoder.py RUN --tower FILE     a text tower is given: train the other
    benchmarks/text_encoder.py RUN --measure        measure only

On 4,096 captions each of `val` (other scenes than in training) and `unseen` (combinations that
training never shows): `read`, each attribute by linear probes that are fitted to the frozen pooled
embeddings of 32,768 training captions, over all captions and over those that say it; `nearer`, how
often a caption (a picture) is nearer to a right caption in other words than to one with one fact
changed (false of the picture). Shares in percent, with 95% intervals (Wilson). `typed` counts
captions, of 256, whose embedding moves when they are typed otherwise; `pieces` training captions by
their number of word pieces, of which a denoiser with 18 rows reads 17.
"""
import argparse
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tld.files import read_tensors, write_atomically
from tld.measures import wilson_interval
from tld.recipes import train_text_encoder
from tld.text import TextEncoder, TextEncoderConfig, clip, load_text_encoder, plain_words
from tld.world.captions import word
from tld.world.contrast import ATTRIBUTES, fact_labels, fit_probes, pick_captions
from tld.world.facts import Wanted, mention
from tld.world.scenes import Scene, make_scene

BATCH, FITTED, TYPED = 256, 32_768, 256
SIZES = ("embed_dim", "context_length", "text_width", "text_layers")
TYPINGS: dict[str, Callable[[str], str]] = {
    "a full stop": lambda caption: caption + ".",
    "capitals": str.upper,
    "quotes": lambda caption: f'"{caption}"',
    "doubled spaces": lambda caption: caption.replace(" ", "  "),
    "an emoji": lambda caption: caption + " 🙂",
    "no articles": plain_words}


def given_tower(path: Path) -> tuple[dict, dict]:
    "Weights of `Towers` and what they fix of the recipe: of a run, or of the prototype."
    stored = read_tensors(path)
    if "m" in stored:   # the prototype's
        return stored["m"], {name: stored["cfg"][name] for name in SIZES}
    return stored["parts"]["model"], {name: stored["settings"][name] for name in SIZES}


def draw(split: str, n: int, seed: int) -> tuple[list[Scene], list[Wanted], list[str]]:
    "Scenes, what a caption of each says, and the captions."
    rng = np.random.default_rng([seed, n])
    scenes = [make_scene("full", split, seed, i) for i in range(n)]
    said = [mention(scene, rng) for scene in scenes]
    return scenes, said, [word(w, rng) for w in said]


def encode(encoder: TextEncoder, captions: list[str]) -> torch.Tensor:
    return torch.cat([encoder(captions[i:i + BATCH]) for i in range(0, len(captions), BATCH)])


def share(right: torch.Tensor) -> list[float]:
    "How many of a hundred, and the interval."
    low, high = wilson_interval(int(right.sum()), len(right))
    return [round(100 * x, 2) for x in (right.float().mean().item(), low, high)]


def read(right: torch.Tensor, labels: torch.Tensor) -> dict:
    "The share of captions read right, by attribute."
    result = {"everything": share(right.all(1))}
    for name, values, ok, label in zip(ATTRIBUTES, ATTRIBUTES.values(), right.T, labels.T):
        is_said = label != values.index(None)
        result[name] = {"all": share(ok), "said": share(ok[is_said]) if is_said.any() else None}
    return result


def nearer(encoder: TextEncoder, scenes: list[Scene], pictures: bool) -> dict:
    "How often the right caption is the nearer one, by who asks and what was changed."
    rng, won = np.random.default_rng(1), {}
    for i in range(0, len(scenes), BATCH):
        for who, kinds in pick_captions(encoder, scenes[i:i + BATCH], rng).items():
            for what, ok in kinds.items():
                won.setdefault(who, {}).setdefault(what, []).append(ok)
    return {who: {what: share(torch.cat(parts)) for what, parts in kinds.items()}
            for who, kinds in won.items() if pictures or who == "caption"}


def measure(folder: Path, n: int, fitted: int = FITTED) -> dict:
    "All measures of an encoder."
    encoder = load_text_encoder(folder)
    recipe = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]
    _, said, captions = draw("train", fitted, 21)
    probes = fit_probes(encode(encoder, captions), fact_labels(said))
    count, pieces = Counter(), clip.clip._tokenizer.encode
    count.update(len(pieces(plain_words(caption))) for caption in captions)
    results: dict = {"captions": n, "fitted": fitted, "pieces": dict(sorted(count.items()))}
    for split in ("val", "unseen"):
        scenes, said, captions = draw(split, n, 5)
        labels = fact_labels(said)
        right = probes.right(encode(encoder, captions), labels)
        results[split] = {"read": read(right, labels),
                          "nearer": nearer(encoder, scenes, recipe["n_image_steps"] > 0)}
    results["typed"] = {how: sum(not torch.equal(encoder([c]), encoder([typed(c)]))
                                 for c in captions[:TYPED]) for how, typed in TYPINGS.items()}
    results["bytes"] = (folder / "model.pt").stat().st_size
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default=Path("runs/text_encoder"),
                        help="folder of states and model")
    parser.add_argument("--tower", type=Path, help="the state of a text tower")
    parser.add_argument("--text-steps", type=int, help="else as the recipe says")
    parser.add_argument("--image-steps", type=int, help="the same; 0: no image tower")
    parser.add_argument("--tiny", action="store_true", help="a small model, for tests")
    parser.add_argument("--measure", action="store_true", help="do not train")
    parser.add_argument("-n", type=int, default=4096, help="captions of each split")
    args = parser.parse_args()
    if not args.measure:
        weights, sizes = given_tower(args.tower) if args.tower else (None, {})
        steps = {"n_text_steps": args.text_steps, "n_image_steps": args.image_steps}
        chosen = {name: value for name, value in steps.items() if value is not None}
        make = TextEncoderConfig.tiny if args.tiny else TextEncoderConfig
        cfg = make(**{**sizes, **chosen})
        train_text_encoder(args.run, cfg, text_tower=weights)
    results = measure(args.run, args.n, min(FITTED, 8 * args.n))
    text = json.dumps(results, indent=1)
    write_atomically(args.run / "measures.json", lambda p: p.write_text(text, encoding="utf-8"))
    print(text)


if __name__ == "__main__":
    main()
