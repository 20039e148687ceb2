"A wheel built from the tree, installed elsewhere, draws a picture offline."
import os
import subprocess
import sys
import zipfile

import pytest

import sync
from conftest import ROOT, needs_weights
from house import modules

PROMPT = "a fox left of a cake on a blue background"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "The wheel, built from a copy of the tree so that nothing old in build/ gets in."
    folder = tmp_path_factory.mktemp("wheel")
    sync.copy_tree(ROOT, folder / "tree")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
               "--disable-pip-version-check", "-w", folder, folder / "tree"]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_its_sub_packages_and_its_assets(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tree = {name for name in sync.tree_files(ROOT)
            if name.startswith("tld/assets/") or (name.startswith("tld/") and name.endswith(".py"))}
    assert {name for name in names if ".dist-info/" not in name} == tree
    assert {path.relative_to(ROOT).as_posix() for path in modules()} < tree
    assert any(name.startswith("tld/world/") for name in names)
    assert any(name.endswith(".safetensors") for name in names)
    assert any(name.endswith("LICENSE") for name in names)


@needs_weights
def test_an_installed_wheel_draws_offline(wheel, offline, tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
               "--disable-pip-version-check", "--target", site, wheel]
    subprocess.run(command, check=True)
    env = {**os.environ, **offline, "HOME": str(tmp_path),
           "PYTHONPATH": os.pathsep.join([str(site), offline["PYTHONPATH"]])}

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    where = run(sys.executable, "-c", "import tld; print(tld.__file__)").stdout.strip()
    assert where == str(site / "tld" / "__init__.py")
    drawn = run(sys.executable, site / "bin" / "tld", "generate", PROMPT, "--seed", "1",
                "--steps", "4", "-o", "out.png")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
