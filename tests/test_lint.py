"Every rule of the lints accepts a good chapter and rejects a bad one made for it."
import copy
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, code, markdown, save, shown, stream
from house import settings
from links import INSTALL, navigation
from lint_notebooks import MAX_COLUMNS, MAX_NOTEBOOK, MAX_OLD, MAX_OUTPUT, REJECTED, lint

TITLE = markdown("# A chapter\n> What it is about.")
WIDGETS = "application_vnd.jupyter.widget-view+json"
ALT = {"image/png": {"alt": "a red dot"}}


@pytest.fixture
def chapter(tmp_path):
    "Path and cells of a chapter with nothing wrong; its name is none of those in OLD."
    path = tmp_path / "nbs" / "part" / "chapter.ipynb"
    save(path, [TITLE])
    save(path.parents[1] / "index.ipynb", [TITLE])
    path.with_name("dot.png").write_bytes(b"")
    line = markdown(navigation(path, settings()))
    cells = [
        TITLE,
        line,
        markdown("![a red dot](dot.png) [contents](../index.ipynb#top) [paper](https://arxiv.org) "
                 "[up](#top) `[not](a link)` $f[x](t)$ <img src='dot.png' alt='a dot'>"),
        code(INSTALL.format(**settings())),
        code("#| default_exp part.chapter"),
        code("#| export\nimport math\n\nfrom tld.configs import LTDConfig"),
        code("%matplotlib inline\nprint(math.pi)", stream("3.14159 in 2 steps, 0.5 seen\n")),
        code("show(dot)", shown(ALT, image_png="AAAA", text_plain="<Figure>")),
        code("x = 1"),
        line,
    ]
    return path, cells


def test_a_good_chapter_passes(chapter):
    assert lint(save(*chapter)) == []


def add(*cells):
    "Put cells before the closing navigation line."
    return lambda chapter: chapter[:-1] + list(cells) + chapter[-1:]


def without_outputs(chapter):
    for cell in chapter:
        if cell.cell_type == "code":
            cell.outputs = []
    return chapter


def said(text, name="stdout"):
    return add(code("f()", stream(text, name)))


FAILED = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
BAD = {
    "a widget": ("a widget", add(code("f()", shown(**{WIDGETS: "x"})))),
    "stderr": ("a traceback or stderr", said("hm", "stderr")),
    "an error": ("a traceback or stderr", add(code("f()", FAILED))),
    "a warning": ("a warning", said("UserWarning: x")),
    "a home path": ("a path of somebody's machine", said("saved to /home/me/x.png")),
    "a Windows path": ("a path of somebody's machine", said("C:\\Users\\me\\x.png")),
    "a bar": ("a progress bar", said("3/3 [00:00, 57.1it/s]")),
    "a slow bar": ("a progress bar", said("3/3 [00:00, 2s/it]")),
    "half a bar": ("a progress bar", said(" 50%|###")),
    "an address": ("a memory address", add(code("f()", shown(text_plain="<o at 0x7fab>")))),
    "one in HTML": ("a memory address", add(code("f()", shown(text_html="<b>f at 0x7fab</b>")))),
    "a timing": ("a timing", said("first\n12.3 s")),
    "%time": ("a timing", said("Wall time: 3 min")),
    "a large output": ("an output of", add(code("f()", shown(ALT, image_png="x" * MAX_OUTPUT)))),
    "a large notebook": ("a notebook of", add(markdown("x" * MAX_NOTEBOOK))),
    "cells run out of order": ("out of order", add(code("f()", count=2), code("g()", count=1))),
    "a cell run twice": ("out of order", add(code("f()", count=2), code("g()", count=2))),
    "a print without output": ("has no output", add(code("x = 1\nprint(x)"))),
    "a figure without output": ("has no output", add(code("ax.plot(x)\nplt.show()"))),
    "no outputs at all": ("no cell has an output", without_outputs),
    "no alt text": ("without alt text", add(markdown("![](dot.png)"))),
    "blank alt text": ("without alt text", add(markdown("![ ](https://example.org/dot.png)"))),
    "a tag without alt text": ("without alt text", add(markdown("<img src='dot.png'>"))),
    "a tag with blank alt text": ("without alt text", add(markdown("<img src='dot.png' alt=''>"))),
    "a figure without alt text": ("a figure without", add(code("f()", shown(image_png="AAAA")))),
    "a photograph, too": ("a figure without", add(code("f()", shown(ALT, image_jpeg="AAAA")))),
    "base64": ("a picture in the M", add(markdown("![a dot](data:image/png;base64,AAAA)"))),
    "an attachment": ("a picture in the Markdown", add(markdown("![a dot](attachment:dot.png)"))),
    "attachments": ("with an attachment", add({**markdown("text"), "attachments": {"a.png": {}}})),
    "a link to a missing file": ("a link to nothing", add(markdown("[gone](02_gone.ipynb#part)"))),
    "an absolute link": ("a link to nothing", add(markdown("[root](/etc)"))),
    "a missing picture": ("a link to nothing", add(markdown("<img src='gone.png' alt='gone'>"))),
    "a trailing empty cell": ("empty", lambda chapter: [*chapter, code("")]),
    "an empty cell": ("empty", add(markdown(" \n"))),
    "more in the first cell": ("cell 0 must", lambda c: [markdown("# T\n> s\n\nmore"), *c[1:]]),
    "no summary": ("cell 0 must", lambda c: [markdown("# T"), *c[1:]]),
    "one line": ("cell 0 must", lambda c: [markdown("# T > s"), *c[1:]]),
    "code first": ("cell 0 must", lambda c: [code("# T\n> s"), *c[1:]]),
    "no navigation": ("the navigation line", lambda c: [c[0], *c[2:]]),
    "no closing navigation": ("the navigation line", lambda c: c[:-1]),
    "another closing line": ("the navigation line", lambda c: [*c[:-1], markdown("[x](#x)")]),
    "eval: false": ("a cell that is not run", add(code("#| eval: false\nf()"))),
    "a long line": ("columns, more than", add(code("#| export\nx = 1  #" + "-" * MAX_COLUMNS))),
    ".cuda()": ("`.cuda()`", add(code("#| export\ndef f(x):\n    return x.cuda()"))),
    ".cuda() in exporti": ("`.cuda()`", add(code("#| exporti\ny = f(x).cuda()"))),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_chapter_is_rejected(chapter, case):
    path, cells = chapter
    words, spoil = BAD[case]
    assert any(words in message for message in lint(save(path, spoil(copy.deepcopy(cells)))))


def test_every_rejected_pattern_has_a_bad_chapter():
    tried = [words for words, _ in BAD.values()]
    assert all(any(words in what for words in tried)
               for patterns in REJECTED.values() for what in patterns.values())


def test_widget_state_in_the_metadata_is_rejected(chapter):
    assert "widget" in "".join(lint(save(*chapter, widgets={"state": {}})))


def test_limits_are_inclusive(chapter):
    path, cells = chapter
    fits = code("#| export\nx = 1  #" + "-" * (MAX_COLUMNS - 8))
    ordered = [code("f()", count=1), code("g()", count=3)]
    assert lint(save(path, add(fits, *ordered)(cells))) == []


def test_old_notebooks_have_longer_lines_and_figures_without_alt_text(chapter):
    path, cells = chapter
    old = path.parents[1] / "07_old.ipynb"
    path.with_name("dot.png").rename(old.with_name("dot.png"))
    line = markdown(navigation(old, settings()))
    cells = [cells[0], line, code("f()", shown(image_png="AAAA")), line]
    long = code("#| export\nx = 1  #" + "-" * (MAX_OLD - 8))
    assert lint(save(old, add(long)(cells))) == []
    assert lint(save(old, add(code(long.source + "-"))(cells))) != []


def test_solutions_have_no_layout_but_the_other_rules(chapter):
    path = chapter[0].parents[1] / "solutions" / "01_chapter.ipynb"
    assert lint(save(path, [markdown("Exercise 1"), code("assert True")])) == []
    assert len(lint(save(path, [code("print(1)"), markdown("![](../part/dot.png)")]))) == 2


def test_the_index_needs_no_navigation(tmp_path):
    assert lint(save(tmp_path / "nbs" / "index.ipynb", [TITLE, markdown("text")])) == []


# ---- what ruff checks, by pyproject.toml ----

@pytest.mark.parametrize("name, text, rule", [
    ("nbs/part/x.ipynb", "from fastcore.test import *", "F403"),
    ("nbs/part/x.ipynb", "#| export\nfrom math import *", "F403"),
    ("nbs/x.ipynb", "y = undefined", "F821"),
    ("nbs/x.ipynb", "import nbdev; nbdev.nbdev_export()", "TID251"),
    ("nbs/solutions/x.ipynb", "from nbdev.showdoc import show_doc", "TID251"),
    ("nbs/x.ipynb", "%matplotlib inline\n%pip list\n!ls\nprint(1); x = 1", ""),
    ("tld/world/x.py", "print(1)\n", "T201"),
    ("tld/cli.py", "print(1)\n", ""),
])
def test_ruff(tmp_path, name, text, rule):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    if path.suffix == ".ipynb":
        save(path, [code(text)])
    else:
        path.write_text(text)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == bool(rule) and f"{rule} " in done.stdout, done.stdout + done.stderr
