"The scripts of .ci, each on a small repository: running notebooks, links, README, docs, sync."
import base64
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from PIL import Image, ImageChops, ImageStat

import lint_notebooks
import sync
from conftest import ROOT, code, markdown, notebook, save, shown, stream
from house import chapters, directives, modules, notebooks, read_notebook, settings
from links import INSTALL, former_names, navigation, relink
from readme import from_top, render
from run_notebooks import smaller, tidy
from thumbnails import WIDTH, thumbnail

BIN = Path(sys.executable).parent


def run(root, *command, **env):
    done = subprocess.run(command, cwd=root, capture_output=True, text=True,
                          env={**os.environ, "MPLBACKEND": "agg", **env})
    return done.returncode, done.stdout + done.stderr


def script(root, name, *arguments):
    return run(root.parent, sys.executable, root / ".ci" / name, *arguments)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    "A repository of two chapters, a module in a sub-package, a solution and an index, in sync."
    root = tmp_path_factory.mktemp("template")
    shutil.copytree(ROOT / ".ci", root / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("settings.ini", "Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, root)
    (root / "tld").mkdir()
    cfg = settings(root)
    repo = "https://github.com/{user}/{repo}".format(**cfg)
    names = {"01_one": "one", "02_two": "two", "world/thing": "world.thing"}
    for name, module in names.items():
        save(root / "nbs" / f"{name}.ipynb", [markdown(f"# {module.title()}\n> Summary.")])
    for name, module in names.items():
        path = root / "nbs" / f"{name}.ipynb"
        line = markdown(navigation(path, cfg))
        save(path, [read_notebook(path).cells[0], line, code(INSTALL.format(**cfg)),
                    code(f"#| default_exp {module}"), code("#| export\ndef f():\n    return 1"),
                    code("f()", shown(text_plain="1")), line])
    save(root / "nbs" / "solutions" / "01_one.ipynb",
         [markdown(f"[home]({repo})"), code(INSTALL.format(**cfg)), code("import os"),
          code("assert os.getcwd().endswith('solutions') and os.path.exists('../index.ipynb')")])
    save(root / "nbs" / "index.ipynb", [markdown("# Series\n> Summary."), markdown(
        "![dot](dot.png) [one](01_one.ipynb) [thing](world/thing.ipynb)")])
    save(root / "nbs" / "world" / ".ipynb_checkpoints" / "thing-checkpoint.ipynb", [code("1 / 0")])
    (root / "nbs" / "dot.png").touch()
    run(root, "git", "init", "-q")
    assert run(root, "make", "-o", ".venv/.dev", f"BIN={BIN}", "regenerate")[0] == 0
    return root


@pytest.fixture
def repository(template, tmp_path):
    return Path(shutil.copytree(template, tmp_path / "repository"))


# ---- one list of notebooks ----

def test_every_notebook_is_linted_tested_documented_and_exported(monkeypatch):
    everything = {path for path in (ROOT / "nbs").rglob("*.ipynb")
                  if ".ipynb_checkpoints" not in path.parts}
    assert set(notebooks()) == everything  # run, linked, documented (see below)
    linted = []
    monkeypatch.setattr(lint_notebooks, "lint", lambda path: linted.append(path) or [])
    monkeypatch.setattr(sys, "argv", ["lint_notebooks.py"])
    lint_notebooks.main()
    assert set(linted) == everything
    monkeypatch.chdir(ROOT)
    get_config.cache_clear()
    tested = set(nbglob(as_path=True))  # as nbdev_test, nbdev_export call it
    assert {path.resolve() for path in tested} == everything
    assert not list((ROOT / "nbs").rglob(".notest"))
    made = {}
    for path in everything:
        lines = [line for cell in read_notebook(path).cells for line in directives(cell)]
        if names := [line.split()[1] for line in lines if line.startswith("default_exp")]:
            made[path] = "/".join(["tld", *names[0].split(".")]) + ".py"
            folder = path.relative_to(ROOT / "nbs").parent.as_posix()
            below = Path(made[path]).relative_to("tld").parent.as_posix()
            assert folder in (".", "appendix", below)
        else:
            assert not any(re.match(r"exports?i?\b", line) for line in lines), path
    assert sorted(made.values()) == [path.relative_to(ROOT).as_posix() for path in modules()]


def test_every_script_sees_every_folder(repository):
    nbs = repository / "nbs"
    everything = {path.relative_to(nbs).with_suffix("").as_posix()
                  for path in notebooks(repository)}
    assert everything == {"01_one", "02_two", "index", "solutions/01_one", "world/thing"}
    status, said = script(repository, "lint_notebooks.py")
    assert status == 0 and said.startswith("5 notebooks"), said
    assert script(repository, "docs.py")[0] == 0
    pages = repository / "_docs"
    assert {path.relative_to(pages).with_suffix("").as_posix()
            for path in pages.rglob("*.html")} == everything
    assert 'href="../index.html"' in (pages / "world" / "thing.html").read_text()
    assert (pages / "dot.png").exists()
    status, said = run(repository, BIN / "nbdev_test", "--n_workers", "0", "--do_print")
    assert status == 0, said
    assert {Path(path).relative_to(nbs).with_suffix("").as_posix()
            for path in re.findall("Completed (.*)", said)} == everything
    index = (repository / "tld" / "_modidx.py").read_text()
    assert "'tld.world.thing.f': ('world/thing.html#f', 'tld/world/thing.py')" in index
    status, said = script(repository, "run_notebooks.py")
    assert status == 0 and said.count(".ipynb: ") == 5, said


# ---- run_notebooks.py ----

def test_a_notebook_is_run_in_place_and_cleaned(tmp_path):
    cells = [
        code("for i in range(3): print(i, flush=True)"),
        code("import os, sys, tld\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\n"
             "print(os.path.basename(os.getcwd()), os.environ['PASSED_ON'])"),
        code("import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\n"
             "plt.plot([1, 2])\nplt.show()\nobject()"),
    ]
    cells[2].metadata = {"thumbnail": [0, 0, 1, 1], "scrolled": True}
    path = save(tmp_path / "nbs" / "01.ipynb", cells)
    env = {"PASSED_ON": "yes", "HOME": str(tmp_path), "PATH": "/usr/bin"}
    status, said = run(tmp_path, sys.executable, ROOT / ".ci" / "run_notebooks.py", path, **env)
    assert status == 0, said
    first, second, third = read_notebook(path).cells
    assert first.outputs == [stream("0\n1\n2\n")]
    assert second.outputs == [stream("nbs yes\n")]
    picture, plain = third.outputs
    assert "image/png" in picture.data and plain.data["text/plain"] == "<object>"
    assert [cell.execution_count for cell in (first, second, third)] == [None] * 3
    assert first.metadata == {} and plain.execution_count is None
    assert third.metadata == {"thumbnail": [0, 0, 1, 1]}
    once = path.read_text()
    assert run(ROOT, BIN / "nbdev_clean", "--fname", path)[0] == 0
    assert path.read_text() == once
    assert [p.name for p in path.parent.iterdir()] == ["01.ipynb"]


@pytest.mark.parametrize("bad, word", [("1 / 0", "ZeroDivisionError"),
                                       ("open('02.ipynb', 'a').write(' ')", "edited while it ran")])
def test_a_failing_or_edited_notebook_is_left_alone(tmp_path, bad, word):
    paths = [save(tmp_path / f"0{i}.ipynb", [code(text), code("print(1)")])
             for i, text in ((1, "2"), (2, bad), (3, "3"))]
    before = [path.read_text() for path in paths]
    status, said = script(ROOT, "run_notebooks.py", *paths)
    assert status == 1 and word in said
    after = [path.read_text() for path in paths]
    assert after[0] != before[0] and after[1].rstrip(" ") == before[1] and after[2] == before[2]
    assert len(list(tmp_path.iterdir())) == 3


def as_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_outputs_are_tidied():
    "Bars go, a panel's still picture stays, neighbouring pieces of one stream are joined."
    png = as_png(Image.new("RGB", (8, 8)))
    widget = {"application_vnd.jupyter.widget-view+json": {"model_id": "0"}}
    panel = shown(**widget, image_png=png, text_plain="a panel")
    cell = code("f()", stream("a"), stream("b"), shown(**widget), panel, stream("c"),
                stream("d", "stderr"), stream("e"))
    tidy(cell)
    still = shown(image_png=smaller(png), text_plain="a panel")
    assert cell.outputs == [stream("ab"), still, stream("c"), stream("d", "stderr"), stream("e")]


def test_pictures_are_packed_without_loss():
    image = Image.radial_gradient("L").convert("RGB").quantize(8)
    packed = smaller(as_png(image))
    assert len(packed) < 0.9 * len(as_png(image))
    again = Image.open(io.BytesIO(base64.b64decode(packed)))
    assert again.convert("RGB").tobytes() == image.convert("RGB").tobytes()


# ---- links.py ----

def test_one_command_moves_every_link(repository):
    assert script(repository, "links.py") == (0, "")
    ini = repository / "settings.ini"
    old = settings(repository)
    ini.write_text(ini.read_text().replace(f"user = {old['user']}", "user = someone")
                   .replace(f"repo = {old['repo']}", "repo = else-where")
                   .replace("branch = main", "branch = trunk"))
    status, said = script(repository, "links.py")
    assert status == 0 and said.count("rewritten") == 4  # all but the index
    text = "".join(path.read_text() for path in notebooks(repository))
    assert f"{old['user']}/{old['repo']}" not in text
    colab = "colab.research.google.com/github/someone/else-where/blob/trunk/nbs/"
    assert colab + "01_one.ipynb" in text and colab + "world/thing.ipynb" in text
    assert "git+https://github.com/someone/else-where\"" in text
    assert "[home](https://github.com/someone/else-where)" in text
    assert script(repository, "links.py") == (0, "")


def test_navigation_leads_to_the_neighbours(repository):
    nbs, cfg = repository / "nbs", settings(repository)
    line = navigation(nbs / "02_two.ipynb", cfg)
    assert line.startswith("[← 01 One](01_one.ipynb) · [Contents](index.ipynb) · [![Open")
    (nbs / "02_two.ipynb").rename(nbs / "03_three.ipynb")
    save(nbs / "02_between.ipynb", [markdown("# In between\n> Summary.")])
    said = script(repository, "links.py")[1]
    assert "01_one.ipynb" in said and "03_three.ipynb" in said and "thing" not in said
    assert "· [02 In between →](02_between.ipynb) ·" in navigation(nbs / "01_one.ipynb", cfg)


def test_reference_notebooks_lead_to_the_contents_and_colab(repository):
    nbs, cfg = repository / "nbs", settings(repository)
    for name, contents in (("configs", "index"), ("world/thing", "../index"),
                           ("appendix/02_more", "../index")):
        line = navigation(nbs / f"{name}.ipynb", cfg)
        assert line.startswith(f"[Contents]({contents}.ipynb) · [![Open In Colab]")
        assert line.endswith(f"/nbs/{name}.ipynb)") and line.count(" · ") == 1
    moved = nbs / "harness" / "two.ipynb"
    moved.parent.mkdir()
    (nbs / "02_two.ipynb").rename(moved)
    script(repository, "links.py")
    cells = read_notebook(moved).cells
    assert cells[1].source == cells[-1].source == navigation(moved, cfg)


def test_only_links_to_this_repository_move():
    cfg = {"user": "u", "repo": "r", "branch": "main"}
    former = {("me", "tld")}
    for old, new in {
        "https://github.com/me/tld/issues": "https://github.com/u/r/issues",
        "(https://github.com/me/tld)": "(https://github.com/u/r)",
        "git clone https://github.com/me/tld.git": "git clone https://github.com/u/r.git",
        "https://raw.githubusercontent.com/me/tld/main/a.png":
            "https://raw.githubusercontent.com/u/r/main/a.png",
        "https://colab.research.google.com/github/me/tld/blob/old/nbs/a.ipynb":
            "https://colab.research.google.com/github/u/r/blob/main/nbs/a.ipynb",
        "https://me.github.io/tld/": "https://u.github.io/r/",
    }.items():
        assert relink(old, former, cfg) == new
    for other in ("https://github.com/me/tldr", "https://github.com/some/tld", "me/tld",
                  "https://github.com/me/tld.other/x"):
        assert relink(other, former, cfg) == other


def test_former_names_come_from_badges_and_install_cells_only():
    cells = [markdown("https://github.com/apapiu/other"),
             code(INSTALL.format(user="me", repo="tld"))]
    assert former_names(cells) == {("me", "tld")}


# ---- readme.py ----

def test_readme_is_rendered_from_the_index():
    text = render(notebook([
        markdown("# T\n> s"),
        code(INSTALL.format(user="u", repo="r")),
        code("#| hide\nsecret = 1"),
        code("table()", shown(text_html="<img src='a.png' alt='a'>", text_plain="table")),
        code("rows()", shown(text_markdown="| [a](a.ipynb) |", text_plain="<Markdown>")),
        markdown("```python\nf('[a](b)')\n```"),
    ]))
    assert text.split("\n\n", 1)[1] == ("# T\n> s\n\n<img src='nbs/a.png' alt='a'>\n\n"
                                        "| [a](nbs/a.ipynb) |\n\n```python\nf('[a](b)')\n```\n")


def test_readme_links_work_from_the_top():
    for old, new in {
        "[a](01_a.ipynb)": "[a](nbs/01_a.ipynb)",
        "[a](world/a.ipynb#part)": "[a](nbs/world/a.ipynb#part)",
        '![a](images/a.png "title")': '![a](nbs/images/a.png "title")',
        "[l](../LICENSE)": "[l](LICENSE)",
        "[![b](b.svg)](02_b.ipynb)": "[![b](nbs/b.svg)](nbs/02_b.ipynb)",
        '<img src="images/a.png" alt="x">': '<img src="nbs/images/a.png" alt="x">',
        "<a href='../tld'>": "<a href='tld'>",
    }.items():
        assert from_top(old) == new
    for kept in ("[a](https://x.org/a.png)", "[a](#part)", "[m](mailto:a@b.c)", "f[0](1 2)",
                 "$f[x](t)$", "`[a](b)`"):
        assert from_top(kept) == kept


def test_readme_refuses_pictures_in_outputs():
    png = as_png(Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match="picture"):
        render(notebook([code("f()", shown(image_png=png))]))


# ---- benchmarks/mutations.py ----

def test_mutations_are_run_against_a_notebook_and_its_appendix(repository, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import mutations
    lesson, appendix = "nbs/03_three.ipynb", "nbs/appendix/03_three.ipynb"
    save(repository / lesson, [
        code("#| default_exp three"), code("#| export\ndef minus(a):\n    return -a"),
        code("#| export\ndef below(a, b):\n    return a < b"),
        code("#| export\ndef unseen(a, b):\n    return divmod(a, b)"),
        code("assert minus(1) == -1")])
    save(repository / appendix, [code("from tld.three import below\nassert not below(1, 1)")])
    assert run(repository, BIN / "nbdev_export")[0] == 0
    (repository / "benchmarks").mkdir()
    for name, value in (("ROOT", repository), ("MODULES", ["three"]),
                        ("RESULT", repository / "benchmarks" / "mutations.json")):
        monkeypatch.setattr(mutations, name, value)
    monkeypatch.setattr(sys, "argv", ["mutations.py", "--processes", "2"])
    before = (repository / "tld" / "three.py").read_text(), (repository / lesson).read_text()
    with pytest.raises(SystemExit, match="True"):  # one survives, without a reason
        mutations.main()
    said = capsys.readouterr().out
    assert f"return a: killed by {lesson} cell 4 (cell4): AssertionError" in said
    assert f"return a <= b: killed by {appendix} cell 0 (cell0): AssertionError" in said
    assert "return divmod(b, a): SURVIVED" in said and "1 of 3 survived" in said
    after = (repository / "tld" / "three.py").read_text(), (repository / lesson).read_text()
    assert after == before
    assert "no end" in mutations.failure(repository, lesson, 0.01)

    again = []  # only what changed: none, then the survivor's tests
    monkeypatch.setattr(mutations, "run", lambda m, *_: again.append(m.kind) or {
        "killed_by": None, "seconds": 1})
    for expected in ([], ["unchanged", "swap"]):
        with pytest.raises(SystemExit):
            mutations.main()
        assert again == expected
        save(repository / appendix, [*read_notebook(repository / appendix).cells, code("0")])


# ---- sync.py ----

def snapshot(root):
    return {path: path.read_bytes() for path in root.rglob("*")
            if path.is_file() and ".git" not in path.parts}


def test_sync_finds_what_is_stale_and_touches_nothing(repository):
    assert sync.check(repository) == ""

    def edit(name, old, new):
        path = repository / name
        path.write_text(path.read_text().replace(old, new))
        assert new in path.read_text()

    edit("tld/one.py", "return 1", "return 2")
    edit("README.md", "Series", "Other")
    edit("nbs/02_two.ipynb", '"execution_count": null', '"execution_count": 1')
    edit("nbs/world/thing.ipynb", "return 1", "return 3")
    edit("settings.ini", "user = ", "user = x")
    edit("settings.ini", "\nversion = ", "\nversion = 9.")
    (repository / "tld" / "two.py").unlink()
    shutil.copy(repository / "tld" / "one.py", repository / "tld" / "world" / "gone.py")
    before = snapshot(repository)
    found = sync.check(repository)
    assert snapshot(repository) == before
    for line in ("-    return 2", "-# Other", '-   "execution_count": 1', "+    return 3",
                 "[home](https://github.com/x", '+__version__ = "9.', "+++ regenerated/tld/two.py",
                 "--- tree/tld/world/gone.py", "+++ regenerated/tld/_modidx.py"):
        assert line in found, line


# ---- the pictures of the map ----

@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_picture_of_the_map_is_what_the_chapter_shows(path):
    now = thumbnail(read_notebook(path)).convert("RGB")
    kept = Image.open(ROOT / "nbs" / "images" / f"{path.stem}.png").convert("RGB")
    assert kept.size == now.size, "run `make thumbnails`"
    off = ImageStat.Stat(ImageChops.difference(now, kept)).mean
    assert max(off) < 4, "run `make thumbnails`"  # not 0: another Pillow may round otherwise


def test_a_thumbnail_is_the_part_asked_for():
    image = Image.new("RGB", (640, 200), "red")
    image.paste("blue", (320, 0, 640, 200))
    other = code("f()", shown(image_png=as_png(Image.new("RGB", (10, 10)))))
    cell = code("f()", stream("said"), shown(image_png=as_png(image)))

    def cut(cells):
        return thumbnail(notebook(cells)).convert("RGB")

    assert cut([markdown("# T"), other, cell]).getcolors() == [(WIDTH ** 2, (0, 0, 0))]
    cell.metadata["thumbnail"] = [0, 0, .5, 1]
    assert cut([other, cell]).size == (160, 100)
    assert cut([other, cell]).getcolors() == [(16000, (255, 0, 0))]
    cell.metadata["thumbnail"] = [.5, .5, 1, 1]
    assert cut([cell, other]).size == (160, 50)
    assert cut([cell, other]).getcolors() == [(8000, (0, 0, 255))]
    cell.outputs = []
    with pytest.raises(ValueError, match="no picture"):
        cut([other, cell])


def test_the_map_has_a_row_and_a_picture_for_every_chapter():
    index = "".join(cell.source for cell in read_notebook(ROOT / "nbs" / "index.ipynb").cells)
    for chapter in chapters():
        assert f"]({chapter.name})" in index and f"](images/{chapter.stem}.png)" in index, chapter
    pictures = list((ROOT / "nbs" / "images").iterdir())
    assert all(f"](images/{picture.name})" in index for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 300_000
