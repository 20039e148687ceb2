"The `tld` command, run as a user runs it: in a process of its own, in an empty folder."
import os
import subprocess
import sys

import pytest
from PIL import Image

from conftest import ROOT, needs_weights


def tld(folder, *args, offline=()):
    "Run the command; its finished process."
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **dict(offline)}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, "-c", "from tld.cli import main; main()", *args],
                          cwd=folder, env=env, capture_output=True, text=True, timeout=300)


def test_help_names_every_command(tmp_path):
    done = tld(tmp_path, "--help")
    assert done.returncode == 0
    for command in ("generate", "demo", "info", "train", "train-autoencoder",
                    "train-text-encoder", "train-shipped"):
        assert command in done.stdout


@pytest.mark.parametrize("args, reason", [
    (["generate", "   "], "empty"),
    (["generate", "fox " * 200], "at most 300"),
    (["generate", "cat", "-n", "0"], "at least 1"),
    (["generate", "cat", "--steps", "-3"], "at least 1"),
    (["generate", "cat", "-o", "nowhere/a.png"], "no folder"),
    (["generate", "cat", "--sampler", "euler"], "unknown sampler"),
    (["generate"], "required"),
    (["train", "nowhere.json"], "nowhere.json"),
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
    assert done.returncode == 0 and "flurb" in done.stderr
    assert (tmp_path / "a.png").exists()
