"The scripts of .ci, each on a small repository: running notebooks, links, README, sync check."
import base64
import io
import shutil
import subprocess
import sys

import pytest
from PIL import Image, ImageChops, ImageStat

import sync
import thumbnails
from conftest import ROOT, code, markdown, notebook, save, shown, stream
from house import read_notebook, settings
from links import INSTALL, former_names, navigation, relink
from readme import from_top, render
from run_notebooks import smaller, tidy


def run(root, script, *arguments):
    command = [sys.executable, root / ".ci" / script, *map(str, arguments)]
    return subprocess.run(command, cwd=root.parent, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path):
    "A repository of two chapters, one solution and an index, in sync."
    root = tmp_path / "repository"
    shutil.copytree(ROOT / ".ci", root / ".ci")
    shutil.copy(ROOT / "settings.ini", root)
    (root / "tld").mkdir()
    cfg = settings(root)
    install = code(INSTALL.format(**cfg))
    repo = "https://github.com/{user}/{repo}".format(**cfg)
    first, second = (root / "nbs" / f"0{i}_{name}.ipynb" for i, name in ((1, "one"), (2, "two")))
    titles = [markdown(f"# 0{i} {name}\n> Summary.") for i, name in ((1, "One"), (2, "Two"))]
    for path, heading in zip((first, second), titles):
        save(path, [heading])
    for path, heading in zip((first, second), titles):
        line = markdown(navigation(path, cfg))
        default = code(f"#| default_exp {path.stem[3:]}")
        function = code("#| export\ndef f():\n    return 1")
        call = code("f()", shown(text_plain="1"))
        save(path, [heading, line, install, default, function, call, line])
    save(root / "nbs" / "solutions" / "01_one.ipynb", [markdown(f"[home]({repo})"), install])
    save(root / "nbs" / "index.ipynb",
         [markdown("# Series\n> Summary."), markdown("![dot](dot.png) [one](01_one.ipynb)")])
    for command in (["git", "init", "-q"], [sync.sys.executable, ".ci/readme.py"],
                    [f"{sync.Path(sys.executable).parent}/nbdev_export"]):
        subprocess.run(command, cwd=root, check=True, capture_output=True)
    (root / "nbs" / "dot.png").touch()
    return root


# ---- run_notebooks.py ----

def test_a_notebook_is_run_in_place_and_cleaned(tmp_path):
    cells = [
        code("for i in range(3): print(i, flush=True)"),
        code("import os, sys, tld\nfrom tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass\n"
             "print(os.path.basename(os.getcwd()), os.environ['PASSED_ON'])"),
        code("import matplotlib.pyplot as plt\nplt.figure(figsize=(1, 1))\n"
             "plt.plot([1, 2])\nplt.show()\nobject()"),
    ]
    path = save(tmp_path / "nbs" / "01.ipynb", cells)
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "run_notebooks.py", path], capture_output=True, text=True,
        env={"PASSED_ON": "yes", "MPLBACKEND": "agg", "HOME": str(tmp_path), "PATH": "/usr/bin"})
    assert done.returncode == 0, done.stderr
    first, second, third = read_notebook(path)["cells"]
    assert first["outputs"] == [stream("0\n1\n2\n")]
    assert second["outputs"] == [stream("nbs yes\n")]
    picture, plain = third["outputs"]
    assert "image/png" in picture["data"] and plain["data"]["text/plain"] == ["<object>"]
    assert [cell["execution_count"] for cell in (first, second, third)] == [None] * 3
    assert first["metadata"] == {} and plain["execution_count"] is None
    once = path.read_text()
    subprocess.run([sync.Path(sys.executable).parent / "nbdev_clean", "--fname", path], check=True)
    assert path.read_text() == once
    assert [p.name for p in path.parent.iterdir()] == ["01.ipynb"]


@pytest.mark.parametrize("bad", ["1 / 0", "open('02.ipynb', 'a').write(' ')"])
def test_a_failing_or_edited_notebook_is_left_alone(tmp_path, bad):
    paths = [save(tmp_path / f"0{i}.ipynb", [code(text), code("print(1)")])
             for i, text in ((1, "2"), (2, bad), (3, "3"))]
    before = [path.read_text() for path in paths]
    done = run(ROOT, "run_notebooks.py", *paths)
    assert done.returncode == 1 and ("ZeroDivisionError" in done.stderr) == (bad == "1 / 0")
    after = [path.read_text() for path in paths]
    assert after[0] != before[0] and after[1].rstrip(" ") == before[1] and after[2] == before[2]
    assert len(list(tmp_path.iterdir())) == 3


def test_only_neighbouring_pieces_of_one_stream_are_merged():
    def said(text, name="stdout"):
        return {"output_type": "stream", "name": name, "text": text}

    plot = shown(text_plain="1")
    bar = shown(**{"application_vnd.jupyter.widget-view+json": {}})
    outputs = [said("a"), bar, said("b"), plot, said("c"), said("d", "stderr"), said("e")]
    assert tidy(outputs) == [said("ab"), plot, said("c"), said("d", "stderr"), said("e")]


def test_of_a_panel_its_still_picture_stays():
    png = as_png(Image.new("RGB", (8, 8)))
    still = shown(image_png=smaller(png), text_plain="a panel")
    panel = shown(**{"application_vnd.jupyter.widget-view+json": {"model_id": "0"}},
                  image_png=png, text_plain="a panel")
    assert tidy([panel]) == [still]


def as_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_pictures_are_packed_without_loss():
    image = Image.radial_gradient("L").convert("RGB").quantize(8)
    packed = smaller(as_png(image))
    assert len(packed) < 0.9 * len(as_png(image))
    again = Image.open(io.BytesIO(base64.b64decode(packed)))
    assert again.convert("RGB").tobytes() == image.convert("RGB").tobytes()


# ---- links.py ----

def test_one_command_moves_every_link(repository):
    assert run(repository, "links.py", "--check").returncode == 0
    ini = repository / "settings.ini"
    old = settings(repository)
    ini.write_text(ini.read_text().replace(f"user = {old['user']}", "user = someone")
                   .replace(f"repo = {old['repo']}", "repo = else-where")
                   .replace("branch = main", "branch = trunk"))
    before = {path: path.read_text() for path in repository.glob("nbs/**/*.ipynb")}
    stale = run(repository, "links.py", "--check")
    assert stale.returncode == 1
    for line in ("01_one.ipynb: cell 1: navigation line", "01_one.ipynb: cell 2: install cell",
                 "solutions/01_one.ipynb: cell 0: repository link"):
        assert f"nbs/{line} is stale" in stale.stdout
    assert {path: path.read_text() for path in before} == before
    assert run(repository, "links.py").returncode == 0
    text = "".join(path.read_text() for path in before)
    assert f"{old['user']}/{old['repo']}" not in text
    assert "colab.research.google.com/github/someone/else-where/blob/trunk/nbs/01_one.ipynb" in text
    assert "git+https://github.com/someone/else-where\"" in text
    assert run(repository, "links.py", "--check").stdout == ""


def test_navigation_leads_to_the_neighbours(repository):
    path = repository / "nbs" / "02_two.ipynb"
    line = navigation(path, settings(repository))
    assert line.startswith("[← 01 One](01_one.ipynb) · [Contents](index.ipynb) · [![Open In Colab]")
    path.rename(path.with_name("03_three.ipynb"))
    save(path, [markdown("# In between\n> Summary.")])
    stale = run(repository, "links.py", "--check").stdout
    assert "01_one.ipynb: cell 6" in stale and "03_three.ipynb: cell 1" in stale
    assert "· [02 In between →](02_two.ipynb) ·" in navigation(
        path.with_name("01_one.ipynb"), settings(repository))


def test_only_links_to_this_repository_move():
    cfg = {"user": "u", "repo": "r", "branch": "main"}
    former = {("me", "tld")}
    for old, new in {
        "https://github.com/me/tld/issues": "https://github.com/u/r/issues",
        "(https://github.com/me/tld)": "(https://github.com/u/r)",
        "git clone https://github.com/me/tld.git": "git clone https://github.com/u/r.git",
        "https://raw.githubusercontent.com/me/tld/main/a.png":
            "https://raw.githubusercontent.com/u/r/main/a.png",
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
        code("#| echo: true\nf()", shown(text_plain="<F>"), stream("said\n")),
        code("#| export"),
        code("table()", shown(text_html="<img src='a.png' alt='a'>", text_plain="table")),
    ]))
    assert text.split("\n\n", 1)[1] == (
        "# T\n> s\n\n```python\nf()\n```\n\n```text\n<F>\n```\n\n```text\nsaid\n```\n\n"
        "```python\ntable()\n```\n\n<img src='nbs/a.png' alt='a'>\n")


def test_readme_links_work_from_the_top():
    for old, new in {
        "[a](01_a.ipynb)": "[a](nbs/01_a.ipynb)",
        "[a](01_a.ipynb#part)": "[a](nbs/01_a.ipynb#part)",
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
    with pytest.raises(ValueError, match="picture"):
        render(notebook([code("f()", shown(image_png="AAAA"))]))


def test_readme_check(repository):
    assert run(repository, "readme.py", "--check").returncode == 0
    readme = repository / "README.md"
    readme.write_text(readme.read_text() + "more\n")
    stale = run(repository, "readme.py", "--check")
    assert stale.returncode == 1 and "make readme" in stale.stdout
    assert readme.read_text().endswith("more\n")


# ---- sync.py ----

def snapshot(root):
    return {path: path.read_bytes() for path in root.rglob("*")
            if path.is_file() and ".git" not in path.parts}


def edit_module(root):
    (root / "tld" / "one.py").write_text((root / "tld" / "one.py").read_text() + "x = 1\n")


def edit_readme(root):
    (root / "README.md").write_text("# Other\n")


def leave_run_count(root):
    path = root / "nbs" / "01_one.ipynb"
    path.write_text(path.read_text().replace('"execution_count": null', '"execution_count": 1'))


def forget_export(root):
    path = root / "nbs" / "01_one.ipynb"
    path.write_text(path.read_text().replace("return 1", "return 2"))


def lose_module(root):
    (root / "tld" / "two.py").unlink()


def orphan_module(root):
    shutil.copy(root / "tld" / "one.py", root / "tld" / "gone.py")


def move_repository(root):
    ini = root / "settings.ini"
    ini.write_text(ini.read_text().replace("user = ", "user = x"))


def raise_version(root):
    ini = root / "settings.ini"
    ini.write_text(ini.read_text().replace("version = ", "version = 9."))


@pytest.mark.parametrize("spoil, name", [
    (edit_module, "tld/one.py"), (edit_readme, "README.md"), (leave_run_count, "nbs/01_one.ipynb"),
    (forget_export, "tld/one.py"), (lose_module, "tld/two.py: is missing"),
    (orphan_module, "tld/gone.py: no notebook makes it"), (move_repository, "nbs/02_two.ipynb"),
    (raise_version, "tld/__init__.py"), (None, ""),
])
def test_sync_finds_what_is_stale_and_touches_nothing(repository, spoil, name):
    if spoil:
        spoil(repository)
    before = snapshot(repository)
    texts = sync.check(repository)
    assert bool(texts) == bool(spoil)
    assert not spoil or any(name in text for text in texts), texts
    assert snapshot(repository) == before


def test_solutions_are_not_exported(repository):
    path = repository / "nbs" / "solutions" / "01_one.ipynb"
    save(path, [code("#| default_exp solved"), code("#| export\ny = 1")])
    assert sync.check(repository) == []
    assert not (repository / "tld" / "solved.py").exists()


# ---- the pictures of the map ----

@pytest.mark.parametrize("name", thumbnails.PICTURES)
def test_a_picture_of_the_map_is_what_the_chapter_shows(name):
    cell_id, box = thumbnails.PICTURES[name]
    now = thumbnails.thumbnail(thumbnails.picture(name, cell_id), box).convert("RGB")
    kept = Image.open(ROOT / "nbs" / "images" / f"{name}.png").convert("RGB")
    assert kept.size == now.size, "run `make thumbnails`"
    off = ImageStat.Stat(ImageChops.difference(now, kept)).mean
    assert max(off) < 4, "run `make thumbnails`"  # not 0: another Pillow may round otherwise


def test_a_thumbnail_is_the_part_asked_for():
    image = Image.new("RGB", (640, 200), "red")
    image.paste("blue", (320, 0, 640, 200))
    left = thumbnails.thumbnail(image, (0, 0, .5, 1)).convert("RGB")
    assert left.size == (160, 100) and left.getcolors() == [(16000, (255, 0, 0))]
    lower_right = thumbnails.thumbnail(image, (.5, .5, 1, 1)).convert("RGB")
    assert lower_right.size == (160, 50) and lower_right.getcolors() == [(8000, (0, 0, 255))]


def test_a_picture_that_is_gone_is_named():
    with pytest.raises(ValueError, match="00_tour: cell nowhere is gone .* PICTURES"):
        thumbnails.picture("00_tour", "nowhere")


def test_the_map_has_a_row_and_a_picture_for_every_chapter():
    index = "".join("".join(cell["source"])
                    for cell in read_notebook(ROOT / "nbs" / "index.ipynb")["cells"])
    for chapter in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        assert f"]({chapter.name})" in index and f"](images/{chapter.stem}.png)" in index, chapter
    pictures = list((ROOT / "nbs" / "images").iterdir())
    assert all(f"](images/{picture.name})" in index for picture in pictures)
    assert sum(picture.stat().st_size for picture in pictures) < 300_000
