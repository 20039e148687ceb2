"The package as a whole: what importing it does, what it needs, and which way its imports point."
import ast
import configparser
import graphlib
import json
import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import setuptools

import house
from conftest import ROOT

# A module imports only from the layers above its own, and of its own only what stands before it.
# A name that does not exist (yet) does no harm; a module that is not named here fails.
LAYERS = {
    "helpers": "configs cumulative files hub precision pictures optim weights",
    "the method": "noise_schedules vdm exact transformer_blocks denoiser sampling_parts sampling "
                  "autoencoder text latents fit generator diffusion",
    "measures": "measures",
    "world": "world.objects world.words world.worlds world.scenes world.facts "
             "world.captions world.patch_latents world.training world.judge world.contrast "
             "world.optimum world.scores world.models world.answers world.parts "
             "world.report world.measure",
    "ingest": "ingest.tables ingest.addresses ingest.fetch ingest.encode",
    "harness": "harness.checkpoint harness.parallel harness.watch harness.resumable",
    "programs": "data train",
    "evaluation": "evaluate",
    "experiments": "distill high_resolution outpainting interpolation personalise",
    "recipes": "recipes",
    "interfaces": "cli serve export",
}
ORDER = " ".join(LAYERS.values()).split()
PACKAGES = {"world", "ingest", "harness"}
# The longest a file may be; else 350 lines at the top of tld/, 300 in a sub-package.
LIMITS = {"cli": 450, "fit": 220}

FILES = {".".join(path.relative_to(ROOT / "tld").with_suffix("").parts): path
         for path in house.modules()}
MODULES = sorted(FILES)


def of_tld(dotted: str) -> set[str]:
    "The modules that `dotted`, a name below tld, is in: of a sub-package itself, all."
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        name = ".".join(parts[:count])
        if name in {*MODULES, *ORDER}:
            return {name}
        if name in PACKAGES:
            return {module for module in {*MODULES, *ORDER} if module.startswith(f"{name}.")}
    return set()


def imports(code: str, module: str) -> tuple[set[str], set[str], set[str]]:
    """What a module imports, in functions too: modules of tld, other packages, and of those the
    ones imported at the top level."""
    tree, ours, others, top = ast.parse(code), set(), set(), set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ["tld", *module.split(".")]
            base = package[:len(package) - node.level] if node.level else []
            base = ".".join([*base, node.module] if node.module else base)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            first, _, rest = name.partition(".")
            if first == "tld":
                ours |= of_tld(rest)
            elif first not in sys.stdlib_module_names:
                others.add(first)
                top |= {first} if node in tree.body else set()
    return ours, others, top


IMPORTS = {name: imports(path.read_text(), name) for name, path in FILES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    assert name in ORDER, f"say in LAYERS of tests/test_house.py where tld.{name} stands"
    assert IMPORTS[name][0] <= set(ORDER[:ORDER.index(name)])


def test_the_method_imports_no_sub_package():
    for name in " ".join(LAYERS[layer] for layer in ("helpers", "the method", "measures")).split():
        assert not {other.split(".")[0] for other in IMPORTS.get(name, [()])[0]} & PACKAGES, name


def test_no_cycle():
    tuple(graphlib.TopologicalSorter({m: IMPORTS[m][0] for m in MODULES}).static_order())


def test_imports_are_found():
    code = """
from . import captions
from .. import vdm, __version__
from ..world.objects import (
    a,
    b as c,
)
from .judge import d
import tld.configs, os, numpy.linalg
from tld import world
from torch import nn
def f():
    import pandas
    from ...tld.sampling import e
    import tld.world.scenes as g
"""
    ours, others, top = imports(code.replace("from tld import world\n", ""), "world.optimum")
    assert ours == {"vdm", "sampling", "configs", "world.objects", "world.scenes",
                    "world.captions", "world.judge"}
    assert others == {"numpy", "torch", "pandas"} and top == {"numpy", "torch"}
    assert imports(code, "world.optimum")[0] > ours  # a whole sub-package
    assert imports("from .sampling import e\nfrom .harness import x, watch", "train")[0] >= {
        "sampling", "harness.watch", "harness.parallel"}


@pytest.mark.parametrize("name", MODULES)
def test_a_file_is_short(name):
    lines = len(FILES[name].read_text().splitlines())
    assert lines <= LIMITS.get(name, 300 if "." in name else 350)


# Each module in a process of its own: the fork of one that knows what takes long to import only.
ALONE = """
import importlib, json, os, sys
import diffusers.models, matplotlib.pyplot, torch, torchvision
for name in sys.argv[1:]:
    if not os.fork():
        for stream, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{name}.{kind}", os.O_CREAT | os.O_WRONLY), stream)
        module = importlib.import_module("tld." + name)
        missing = [each for each in module.__all__ if not hasattr(module, each)]
        print(json.dumps([module.__all__, missing, module.__doc__, module.__file__]))
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def imported_alone(tmp_path_factory, offline):
    folder = tmp_path_factory.mktemp("alone")
    path = os.pathsep.join([str(ROOT), offline["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *MODULES], cwd=folder, capture_output=True, text=True,
        env={**os.environ, **offline, "PYTHONPATH": path, "HOME": str(folder)})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_alone_silently_and_offline(name, imported_alone):
    said = (imported_alone / f"{name}.err").read_text()
    assert not said, said
    out = (imported_alone / f"{name}.out").read_text()
    names, missing, doc, file = json.loads(out)  # nothing else was printed
    assert names and not missing
    assert doc, "the module has no docstring: does cell 0 of its notebook have a `> summary`?"
    assert file == str(FILES[name])


def test_offline_means_offline(offline):
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **offline},
                          capture_output=True, text=True)
    assert "no network in this test" in done.stderr


def test_importing_the_package_is_light():
    code = "import sys, tld; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_git_ignores_nothing_of_the_package_or_the_notebooks():
    there = [path.relative_to(ROOT).as_posix() for folder in ("tld", "nbs")
             for path in (ROOT / folder).rglob("*") if path.is_file()]
    kept = [name for name in there if not re.search(
        r"/__pycache__/|/\.ipynb_checkpoints/|\.tmp$|/\.[^/]*$", name)]
    kept += [f"tld/{name.replace('.', '/')}.py" for name in ORDER]
    kept += [f"{folder}/{name}/x.{end}" for folder, end in (("tld", "py"), ("nbs", "ipynb"))
             for name in ("runs", "build", "dist", "data", "docs", "_docs", "appendix", "harness")]
    command = ["git", "-c", "safe.directory=*", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(kept), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr  # 1: none is ignored


# ---- packaging ----

@pytest.fixture(scope="module")
def metadata():
    "What setup.py tells setuptools."
    told, setup = {}, setuptools.setup
    setuptools.setup = told.update
    try:
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = setup
    return told


def distribution(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ]", requirement)[0].lower().replace("_", "-")


def test_setup_says_what_settings_say(metadata):
    parser = configparser.ConfigParser(delimiters="=")
    parser.read(ROOT / "settings.ini")
    ini = parser["DEFAULT"]
    assert metadata["name"] == "tld" and metadata["version"] == ini["version"]
    assert metadata["python_requires"] == ">=3.10"
    assert metadata["install_requires"] == ini["requirements"].split()
    for extra in ("data", "eval", "track", "video", "dev"):
        assert metadata["extras_require"][extra] == ini[f"{extra}_requirements"].split()
    assert metadata["entry_points"]["console_scripts"] == ["tld=tld.cli:main"]
    folders = {path.parent.relative_to(ROOT) for path in FILES.values()}
    assert set(metadata["packages"]) == {".".join(folder.parts) for folder in folders}
    init = (ROOT / "tld" / "__init__.py").read_text()
    assert f'__version__ = "{ini["version"]}"' in init


def test_one_version_of_a_requirement(metadata):
    "setuptools<81 and the like are written the same wherever they stand."
    written = {}
    everywhere = [metadata["install_requires"], *metadata["extras_require"].values()]
    for requirement in {r for group in everywhere for r in group}:
        written.setdefault(distribution(requirement), set()).add(requirement)
    plain = {name for name, forms in written.items() if len(forms) > 1}
    assert plain <= {"fastcore"}  # the notebooks need any, nbdev 2 needs it below 2


def test_what_is_imported_is_required(metadata):
    "At the top of a module only plain requirements; within functions also those of an extra."
    packages = packages_distributions()
    plain = {distribution(r) for r in metadata["install_requires"]}
    extra = {distribution(r) for r in metadata["extras_require"]["all"]}
    for name, (_, others, top) in IMPORTS.items():
        for package in others:
            known = {d.lower().replace("_", "-") for d in packages.get(package, [package])}
            assert known & (plain if package in top else plain | extra), f"tld.{name}: {package}"


def test_setuptools_is_held_back(metadata):
    "`clip` imports pkg_resources, which setuptools 81 no longer has; the build uses the same."
    assert any(r.startswith("setuptools<81") for r in metadata["install_requires"])
    assert '"setuptools>=64,<81"' in (ROOT / "pyproject.toml").read_text()
