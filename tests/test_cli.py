"The `tld` command, run as a user runs it: in a process of its own, in an empty folder."
import json
import os
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

from conftest import ROOT, needs_weights


def tld(folder, *args, offline=()):
    "Run the command; its finished process."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **dict(offline)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, "-c", "from tld.cli import main; main()", *args],
                          cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def python(folder, code):
    "Run some code in a process of its own."
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=300)


def rms(a, b):
    "Root mean square difference of two pictures, in grey levels."
    return ImageStat.Stat(ImageChops.difference(a.convert("RGB"), b.convert("RGB"))).rms[0]


def test_help_names_every_command(tmp_path):
    done = tld(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("generate", "demo", "info", "objects", "train", "train-autoencoder",
                    "train-text-encoder", "train-shipped", "measure", "evaluate", "interpolate",
                    "outpaint", "train-few-steps", "train-high-resolution", "train-outpainting"):
        assert command in done.stdout


@pytest.mark.parametrize("args, reason", [
    (["generate", "   "], "empty"),
    (["generate", "fox " * 200], "at most 300"),
    (["generate", "cat", "-n", "0"], "at least 1"),
    (["generate", "cat", "--steps", "-3"], "at least 1"),
    (["generate", "cat", "-o", "nowhere/a.png"], "no folder"),
    (["generate", "cat", "-o", "a.jpg"], "give a .png"),
    (["generate", "cat", "--sampler", "euler"], "unknown sampler"),
    (["generate", "cat", "--strength", "0.5"], "needs --image"),
    (["generate", "-f", "nowhere.txt"], "nowhere.txt"),
    (["generate"], "no prompt"),
    (["generate", "cat", "--model", "fast"], "no denoiser at fast; shipped are"),
    (["outpaint", "cat", "--mask", "mask.png"], "needs --image"),
    (["outpaint", "cat", "--image", "nowhere.png"], "nowhere.png"),
    (["demo", "-o", "here"], "give a .png"),
    (["train", "nowhere.json"], "nowhere.json"),
    (["evaluate", "--metrics", "beauty"], "unknown metrics"),
    (["evaluate", "--model", "nowhere"], "no denoiser at nowhere; shipped are"),
    (["measure", "--model", "nowhere"], "no denoiser at nowhere; shipped are"),
    (["measure", "--check", "exact"], "in starter only"),
    (["measure", "--only", "beauty"], "unknown parts beauty; there are faithful"),
    (["paint", "cat"], "invalid choice"),
])
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, args, reason):
    done = tld(tmp_path, *args)
    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_training_file_with_a_typing_error_names_the_nearest_field(tmp_path):
    (tmp_path / "run.json").write_text('{"data_confg": {}}')
    done = tld(tmp_path, "train", "run.json")
    assert done.returncode == 2
    assert "run.json" in done.stderr and "data_config" in done.stderr


def test_the_pipeline_imports_nothing_heavy(tmp_path):
    "diffusers, transformers and clip take seconds to import; they wait until they are needed."
    heavy = ("diffusers", "transformers", "clip", "accelerate", "torchvision", "torch._dynamo",
             "matplotlib", "tld.autoencoder", "tld.text")
    done = python(tmp_path, f"import sys, tld.diffusion, tld.cli\n"
                            f"print([m for m in {heavy} if m in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_help_does_not_even_import_torch(tmp_path):
    done = python(tmp_path, "import sys, tld.cli\ntld.cli.make_parser().format_help()\n"
                            "print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_info_names_versions_and_weights(tmp_path):
    done = tld(tmp_path, "info")
    assert done.returncode == 0, done.stderr
    for word in ("tld ", "torch ", "device: CPU", "autoencoder: ", "denoiser"):
        assert word in done.stdout


def test_objects_are_listed_by_category(tmp_path):
    done = tld(tmp_path, "objects")
    assert done.returncode == 0, done.stderr
    lists = dict(line.split(": ", 1) for line in done.stdout.replace("\n  ", " ").splitlines())
    assert "fox" in lists["animal"].split(", ") and "panda" not in lists["animal"].split(", ")
    assert "panda" in lists["never trained"].split(", ") and "blue" in lists["backgrounds"]
    objects = [name for names in lists.values() for name in names.split(", ")]
    assert len(objects) == 100 + 10 + 8  # with the backgrounds


@needs_weights
def test_prompts_from_a_file_become_a_folder_of_pictures(tmp_path, offline):
    (tmp_path / "prompts.txt").write_text("# animals\na fox\n\na cat above a dog\n")
    done = tld(tmp_path, "generate", "-f", "prompts.txt", "-n", "2", "--seed", "5", "--steps", "2",
               "-o", "drawn", offline=offline.items())
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "drawn").iterdir())
    assert names == ["001_a-fox_5.png", "002_a-fox_6.png", "003_a-cat-above-a-dog_7.png",
                     "004_a-cat-above-a-dog_8.png"]
    third = Image.open(tmp_path / "drawn" / names[2])
    assert third.text["prompt"] == "a cat above a dog" and third.text["seed"] == "7"
    assert json.loads(third.text["settings"])["n_iter"] == 2

    again = tld(tmp_path, "generate", "a cat", "--image", "drawn/" + names[2], "--strength", "0",
                "-o", "again", "--negative", "a dog")
    assert again.returncode == 0, again.stderr
    kept = Image.open(next((tmp_path / "again").iterdir()))
    assert rms(kept, third) < 16  # of 255: the autoencoder's round trip


@needs_weights
def test_generate_draws_offline_the_same_picture_twice(tmp_path, offline):
    for name in ("a.png", "b.png"):
        done = tld(tmp_path, "generate", "a fox left of a cake on a blue background", "--seed", "1",
                   "--steps", "4", "-o", name, "--judge", offline=offline.items())
        assert done.returncode == 0, done.stderr
        assert "judge saw" in done.stdout
    a, b = (Image.open(tmp_path / name) for name in ("a.png", "b.png"))
    assert a.tobytes() == b.tobytes()
    assert a.text["seed"] == "1" and "fox" in a.text["prompt"]


@needs_weights
def test_a_word_it_does_not_know_is_named_and_drawn_anyway(tmp_path):
    done = tld(tmp_path, "generate", "a flurb", "--steps", "2", "-o", "a.png")
    assert done.returncode == 0 and "unknown object 'flurb'" in done.stderr
    assert (tmp_path / "a.png").exists()
