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

from conftest import ROOT

MODULES = sorted(path.stem for path in (ROOT / "tld").glob("*.py") if path.stem[0] != "_")

# Which modules a module may import. What is not named here stands above all that is, and its
# modules may import each other in this order.
BASE = {"configs", "download", "optim"}
LOWER = {
    "configs": set(),
    "download": set(),
    "optim": set(),
    "noise_schedules": BASE,
    "vdm": BASE | {"noise_schedules"},
    "sampling": BASE | {"noise_schedules", "vdm"},
    "transformer_blocks": BASE,
    "denoiser": BASE | {"transformer_blocks"},
    "scenes": BASE,
    "autoencoder": BASE,
    "text": BASE | {"scenes"},  # what the small CLIP is trained on
    "data": BASE | {"autoencoder", "text"},
    "train": BASE | {"noise_schedules", "vdm", "sampling", "denoiser", "scenes", "autoencoder",
                     "text", "data"},
    "diffusion": BASE | {"noise_schedules", "sampling", "denoiser", "scenes", "autoencoder",
                         "text"},
}
LATER = ["evaluate", "distill", "high_resolution", "outpainting", "interpolation", "cli"]


def imports(code: str) -> tuple[set[str], set[str], set[str]]:
    "Modules of tld, other packages, and of those the ones imported at the top level only."
    tree, ours, others, top = ast.parse(code), set(), set(), set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            module = ("tld." if node.level else "") + (node.module or "")
            names = [f"tld.{alias.name}" for alias in node.names] if module.strip(".") == "tld" \
                else [module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "tld":
                ours |= set(rest[:1]) & set(MODULES)
            else:
                others.add(first)
                top |= {first} if node in tree.body else set()
    return ours, others - sys.stdlib_module_names, top - sys.stdlib_module_names


IMPORTS = {name: imports((ROOT / "tld" / f"{name}.py").read_text()) for name in MODULES}


def allowed(module: str) -> set[str]:
    if module in LOWER:
        return LOWER[module]
    return set(LOWER) | set(LATER[:LATER.index(module)])


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_one_way(name):
    assert name in [*LOWER, *LATER], f"say in tests/test_house.py where tld.{name} stands"
    assert IMPORTS[name][0] <= allowed(name)


def test_no_cycle():
    tuple(graphlib.TopologicalSorter({m: IMPORTS[m][0] for m in MODULES}).static_order())
    assert all(module not in allowed(lower) for module in LOWER for lower in LOWER[module])


def test_imports_are_found():
    ours, others, top = imports(
        "from . import vdm\nfrom .sampling import f\nimport tld.scenes\nimport os, numpy.linalg\n"
        "from tld.configs import g\nfrom torch import nn\ndef f():\n    import pandas\n")
    assert ours == {"vdm", "sampling", "scenes", "configs"} & set(MODULES)
    assert others == {"numpy", "torch", "pandas"} and top == {"numpy", "torch"}


ALONE = """
import importlib, json, sys
module = importlib.import_module("tld." + sys.argv[1])
names = module.__all__
missing = [name for name in names if not hasattr(module, name)]
print(json.dumps([names, missing, module.__doc__, module.__file__]))
"""


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_alone_silently_and_offline(name, offline, tmp_path):
    path = os.pathsep.join([str(ROOT), offline["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", ALONE, name], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, **offline, "PYTHONPATH": path, "HOME": str(tmp_path)})
    assert (done.returncode, done.stderr) == (0, "")
    names, missing, doc, file = json.loads(done.stdout)  # nothing else was printed
    assert names and not missing
    assert doc, "the module has no docstring: does cell 0 of its notebook have a `> summary`?"
    assert file == str(ROOT / "tld" / f"{name}.py")


def test_offline_means_offline(offline):
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **offline},
                          capture_output=True, text=True)
    assert "no network in this test" in done.stderr


def test_importing_the_package_is_light():
    code = "import sys, tld; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


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
    assert metadata["packages"] == ["tld"]
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
