"Every rule of the notebook lint accepts a good chapter and rejects a bad one made for it."
import copy

import pytest

from conftest import code, markdown, save, shown, stream
from house import settings
from links import INSTALL, navigation
from lint_notebooks import MAX_COLUMNS, MAX_NOTEBOOK, MAX_OUTPUT, RULES, lint

TITLE = markdown("# 01 A chapter\n> What it is about.")
WIDGETS = "application_vnd.jupyter.widget-view+json"
DOT = "![a red dot](dot.png)"


@pytest.fixture
def chapter(tmp_path):
    "Path and cells of a chapter with nothing wrong."
    path = tmp_path / "nbs" / "01_chapter.ipynb"
    save(path, [TITLE])
    save(path.with_name("index.ipynb"), [TITLE])
    path.with_name("dot.png").write_bytes(b"")
    line = markdown(navigation(path, settings()))
    cells = [
        TITLE,
        line,
        markdown(f"{DOT} [contents](index.ipynb#top) [paper](https://arxiv.org) [up](#top)\n"
                 "`[not](a link)` $f[x](t)$ <img src='dot.png' alt='a dot'>"),
        code(INSTALL.format(**settings())),
        code("#| default_exp chapter"),
        code("#| export\nimport math\n\nfrom tld.configs import *"),
        code("%matplotlib inline\nprint(math.pi)", stream("3.14159 in 2 steps, 0.5 seen\n")),
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
        if cell["cell_type"] == "code":
            cell["outputs"] = []
    return chapter


def exporting(text):
    return add(code("#| export\n" + text))


BAD = {
    "a widget": ("widgets", add(code("f()", shown(**{WIDGETS: "x"})))),
    "stderr": ("stderr", add(code("f()", stream("hm", "stderr")))),
    "a traceback": ("errors", add(code("f()", {"output_type": "error", "ename": "E", "evalue": "",
                                               "traceback": []}))),
    "a warning": ("residue: a warning", add(code("f()", stream("UserWarning: x")))),
    "a home path": ("residue: a path", add(code("f()", stream("saved to /home/me/x.png")))),
    "a Windows path": ("residue: a path", add(code("f()", stream("C:\\Users\\me\\x.png")))),
    "a bar": ("residue: a progress bar", add(code("f()", stream("3/3 [00:00, 57.1it/s]")))),
    "a slow bar": ("residue: a progress bar", add(code("f()", stream("3/3 [00:00, 2s/it]")))),
    "half a bar": ("residue: a progress bar", add(code("f()", stream(" 50%|###")))),
    "an address": ("residue: a memory", add(code("f()", shown(text_plain="<object at 0x7fab>")))),
    "one in HTML": ("residue: a memory", add(code("f()", shown(text_html="<b>f at 0x7fab</b>")))),
    "a timing": ("residue: a timing", add(code("f()", stream("done in 12.3 s")))),
    "%time": ("residue: a timing", add(code("f()", stream("Wall time: 3 min")))),
    "a large output": ("large_output", add(code("f()", shown(image_png="x" * MAX_OUTPUT)))),
    "a large notebook": ("large_notebook", add(markdown("x" * MAX_NOTEBOOK))),
    "cells run out of order": ("run_order", add(code("f()", count=2), code("g()", count=1))),
    "a cell run twice": ("run_order", add(code("f()", count=2), code("g()", count=2))),
    "a print without output": ("missing_outputs", add(code("print(1)"))),
    "a figure without output": ("missing_outputs", add(code("ax.plot(x)\nplt.show()"))),
    "no outputs at all": ("no_outputs", without_outputs),
    "no alt text": ("alt_text", add(markdown("![](dot.png)"))),
    "blank alt text": ("alt_text", add(markdown("![ ](https://example.org/dot.png)"))),
    "a tag without alt text": ("alt_text", add(markdown("<img src='dot.png'>"))),
    "a tag with blank alt text": ("alt_text", add(markdown("<img src='dot.png' alt=''>"))),
    "base64": ("inline_pictures", add(markdown("![a dot](data:image/png;base64,AAAA)"))),
    "an attachment": ("inline_pictures", add(markdown("![a dot](attachment:dot.png)"))),
    "attachments": ("inline_pictures", add({**markdown("text"), "attachments": {"a.png": {}}})),
    "a link to a missing file": ("broken_links", add(markdown("[gone](02_gone.ipynb#part)"))),
    "an absolute link": ("broken_links", add(markdown("[root](/etc)"))),
    "a missing picture": ("broken_links", add(markdown("<img src='gone.png' alt='gone'>"))),
    "a trailing empty cell": ("empty_cells", lambda chapter: [*chapter, code("")]),
    "an empty cell": ("empty_cells", add(markdown(" \n"))),
    "more in the first cell": ("opening", lambda c: [markdown("# T\n> s\n\nmore"), *c[1:]]),
    "no summary": ("opening", lambda c: [markdown("# T"), *c[1:]]),
    "code first": ("opening", lambda c: [code("# T\n> s"), *c[1:]]),
    "no navigation": ("navigation", lambda c: [c[0], *c[2:]]),
    "no closing navigation": ("navigation", lambda c: c[:-1]),
    "another closing navigation": ("navigation", lambda c: [*c[:-1], markdown("[x](index.ipynb)")]),
    "eval: false": ("not_evaluated", add(code("#| eval: false\nf()"))),
    "a star import": ("star_imports", add(code("from fastcore.test import *"))),
    "an exported star import": ("star_imports", exporting("from math import *")),
    "nbdev": ("needs_nbdev", add(code("import nbdev; nbdev.nbdev_export()"))),
    "nbdev.showdoc": ("needs_nbdev", add(code("from nbdev.showdoc import show_doc"))),
    "a long exported line": ("long_lines", exporting("x = 1  #" + "-" * (MAX_COLUMNS - 7))),
    "an exported print": ("exported_calls", exporting("def f():\n    print(1)")),
    "an exported .cuda()": ("exported_calls", exporting("def f(x):\n    return x.cuda()")),
    "a print in exporti": ("exported_calls", add(code("#| exporti\ndef f(): print(1)"))),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_chapter_is_rejected(chapter, case):
    path, cells = chapter
    (rule, _, words), spoil = BAD[case][0].partition(": "), BAD[case][1]
    found = lint(save(path, spoil(copy.deepcopy(cells))))
    assert any(words in message and message.endswith(f"[{rule}]") for message in found), found


def test_every_rule_has_a_bad_chapter():
    assert {rule.split(":")[0] for rule, _ in BAD.values()} == set(RULES)


def test_widget_state_in_the_metadata_is_rejected(chapter):
    assert "widgets" in "".join(lint(save(*chapter, widgets={"state": {}})))


def test_limits_are_inclusive(chapter):
    path, cells = chapter
    fits = code("#| export\nx = 1  #" + "-" * (MAX_COLUMNS - 8))
    ordered = [code("f()", count=1), code("g()", count=3)]
    assert lint(save(path, add(fits, *ordered)(cells))) == []


def test_a_command_line_module_may_print(chapter):
    path, cells = chapter
    cells[4] = code("#| default_exp cli")
    assert lint(save(path, exporting("def f():\n    print(1)")(cells))) == []


def test_solutions_have_no_layout_but_the_other_rules(chapter):
    path = chapter[0].parent / "solutions" / "01_chapter.ipynb"
    assert lint(save(path, [markdown("Exercise 1"), code("assert True")])) == []
    assert len(lint(save(path, [code("print(1)"), markdown("![](../dot.png)")]))) == 2


def test_the_index_needs_no_navigation(tmp_path):
    assert lint(save(tmp_path / "index.ipynb", [TITLE, markdown("text")])) == []
