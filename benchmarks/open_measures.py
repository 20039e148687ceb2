#!/usr/bin/env python
"""Print all measures of a model of the open world, with intervals, ceilings and targets.

    benchmarks/open_measures.py --denoiser D --text T --autoencoder A    about ten minutes
    benchmarks/open_measures.py ... --brief                              about one
    benchmarks/open_measures.py ... --only excess picture --out FILE     some parts, kept in FILE
    benchmarks/open_measures.py --world starter --check exact            a reference instead

D, T and A are folders, or `shipped`; A can also be `patches`, linear patch latents. How samples are
drawn is what the denoiser's card says, unless it is said here. With --out a stopped run resumes,
and parts can be added later; the weights and the setting have to be the same. References: `exact`,
the exact denoiser (of `starter` only), `lookup`, one scene for a prompt, and `renders`, true draws.
"""
import argparse
import json
from dataclasses import asdict
from pathlib import Path

from tld.autoencoder import load_autoencoder
from tld.denoiser import load_files
from tld.files import check_same_settings, file_sha256, write_atomically
from tld.sampling import GUIDANCE, N_STEPS
from tld.text import load_text_encoder
from tld.weights import SHIPPED, ModelFiles
from tld.world.open_judge import OpenJudge
from tld.world.open_measures import Codec, PromptDenoiser, Setting, by_prompt
from tld.world.open_models import ExactPrompts, WorldModel, codec_of, from_network, lookup
from tld.world.open_report import PARTS, measure_world, report_table
from tld.world.open_scenes import get_open_world
from tld.world.patch_latents import starter_data

SIZES = "full", "brief"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--denoiser", default="denoiser", help="folder or shipped name")
    parser.add_argument("--text", default="shipped")
    parser.add_argument("--autoencoder", default="shipped", help="folder, shipped or patches")
    parser.add_argument("--check", choices=("exact", "lookup", "renders"))
    parser.add_argument("--world", default="full", choices=("full", "starter"))
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=(), metavar="PART",
                        help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, help="JSON file of results")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--shift", type=float)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--interval", type=float, nargs=2, help="noise levels where guidance acts")
    return parser.parse_args()


def setting_of(args: argparse.Namespace, card: dict) -> Setting:
    "What is said here, else on the card, else the package's defaults."
    said = {"n_iter": args.steps, "shift": args.shift, "class_guidance": args.guidance,
            "guidance_interval": args.interval}
    s = {"n_iter": N_STEPS, "shift": 1.0, "class_guidance": GUIDANCE, "sampler": "dpmpp_2m",
         "guidance_interval": (0.0, 1.0), **card,
         **{name: value for name, value in said.items() if value is not None}}
    return Setting(s["n_iter"], s["shift"], s["sampler"], s["class_guidance"],
                   tuple(s["guidance_interval"]))


def hashes(place: Path) -> list[str]:
    "Name the weights of a folder by their content."
    files = [path for path in sorted(place.glob("*")) if path.suffix in (".safetensors", ".pt")]
    return [file_sha256(path)[:16] for path in files]


def load_network(args: argparse.Namespace) -> tuple[PromptDenoiser, int, dict, list[str]]:
    "A denoiser of prompts, its latents' channels, how it is sampled, and what its weights hold."
    files, text = ModelFiles(args.denoiser), Path(args.text)
    net = load_files(files)[0]
    text = SHIPPED["text_encoder"] if args.text == "shipped" else text
    denoise = from_network(net, load_text_encoder(args.text))
    return denoise, net.config.n_channels, files.sampling, [files.sha256[:16], *hashes(text)]


def load_codec(name: str, n_channels: int) -> tuple[Codec, list[str]]:
    if name == "patches":
        patches = starter_data(1, n_channels=n_channels)[2]
        return Codec(patches.encode, patches.decode), [f"patches, {n_channels} channels"]
    place = SHIPPED["autoencoder"] if name == "shipped" else Path(name)
    return codec_of(load_autoencoder(name)), hashes(place)


def load(args: argparse.Namespace) -> tuple[WorldModel, Setting, dict]:
    "The model, how it is sampled, and what names both."
    world, denoise = get_open_world(args.world), None
    channels, card, weights = 8, {"class_guidance": 1.0, "n_iter": 20, "shift": 5.0}, []
    if not args.check:
        denoise, channels, card, weights = load_network(args)
    codec, files = load_codec(args.autoencoder, channels)
    if args.check == "exact":
        denoise = by_prompt(ExactPrompts(world, codec.encode, "all"))
    if args.check == "lookup":
        denoise = lookup(world, codec.encode)
    setting = setting_of(args, card)
    about = {"model": args.check or "network", "weights": weights + files, "world": args.world,
             "setting": asdict(setting), "size": SIZES[args.brief], "seed": args.seed}
    return WorldModel(denoise, codec, OpenJudge(world)), setting, about


def main() -> None:
    args = parse()
    if args.check == "exact" and args.world != "starter":
        raise SystemExit("exact: the scenes of any prompt can be listed in --world starter only")
    model, setting, about = load(args)
    stored = {}
    if args.out and args.out.exists():
        stored = json.loads(args.out.read_text(encoding="utf-8"))
        check_same_settings(args.out, about, stored["about"])

    def save(result: dict) -> None:
        if args.out:
            text = json.dumps({"about": about, "result": result}, indent=1)
            write_atomically(args.out, lambda p: p.write_text(text, encoding="utf-8"))

    result = measure_world(
        model, setting, about["size"], args.seed, args.only, stored.get("result"), save,
        lambda line: print(line, flush=True))
    print("", json.dumps(about), "", report_table(result), sep="\n")


if __name__ == "__main__":
    main()
