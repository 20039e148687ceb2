"The panel of chapter 11 as a user finds it: in JupyterLab, in a real browser, turned by hand."
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from conftest import ROOT, needs_weights

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
            "chromium-headless-shell")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         "--disable-component-update", "--disable-sync", "--disable-quic")
SCREENSHOT = ROOT / "runs" / "panel.png"  # not kept in git

# The notebook that is open, as JupyterLab has it: cells out of sight are not in the page.
CELLS = """() => [...jupyterapp.shell.currentWidget.content.model.cells]
    .filter(cell => cell.type === 'code')
    .map(cell => ({count: cell.executionCount, state: cell.executionState,
                   outputs: cell.outputs.toJSON().map(o => o.ename || o.name || o.output_type)}))"""
SHOW_PANEL = """() => {
    const notebook = jupyterapp.shell.currentWidget.content;
    const cells = [...notebook.model.cells];
    return notebook.scrollToItem(
        cells.findIndex(c => c.sharedModel.source.includes('widgets.VBox')), 'start');
}"""
RECORD = """element => {
    window.said = [];
    new MutationObserver(() => window.said.push(element.innerText))
        .observe(element, {childList: true, characterData: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def page():
    "A page of a headless browser."
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    with playwright.sync_playwright() as p:
        own = p.chromium.executable_path
        path = next(filter(None, map(shutil.which, BROWSERS)), own)
        if not Path(path).exists():
            pytest.skip("no browser: apt-get install chromium, or playwright install chromium")
        browser = p.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1100})
        yield page
        browser.close()


@pytest.fixture
def lab(tmp_path):
    "The address of a JupyterLab that serves a copy of the notebooks to somebody new."
    shutil.copytree(ROOT / "nbs", tmp_path / "nbs")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    folders = {f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME")}
    env = {**os.environ, **folders, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT),
           "https_proxy": "http://127.0.0.1:9"}  # nobody there: no published model of 1.6 GB
    env.pop("MPLBACKEND", None)  # the kernel's own default draws into the notebook
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
               "--ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
               "--IdentityProvider.token=reader", "--LabApp.news_url=None",
               "--expose-app-in-browser", tmp_path / "nbs"]
    with open(tmp_path / "lab.log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/api", timeout=5)
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.2)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


def run_all(page, seconds: float):
    "Run all cells, as the menu does, and wait until they have run."
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    end = time.time() + seconds
    while time.time() < end:
        cells = page.evaluate(CELLS)
        kinds = {kind for cell in cells for kind in cell["outputs"]}
        assert kinds <= {"stdout", "display_data", "execute_result"}, kinds  # no error, no stderr
        if all(cell["count"] and cell["state"] == "idle" for cell in cells):
            return
        time.sleep(0.5)
    raise AssertionError(f"not done: {cells}")


def wait_until(page, locator, condition: str):
    "Wait until a function in JavaScript says true of what a locator finds."
    page.wait_for_function(condition, arg=locator.element_handle(), timeout=120_000)


@needs_weights
def test_a_new_user_runs_chapter_11_and_turns_knobs(page, lab):
    page.goto(f"{lab}/lab/tree/11_generation.ipynb?token=reader")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
    page.evaluate(SHOW_PANEL)
    cell = page.locator(".jp-CodeCell", has_text="panel = widgets.VBox")
    cell.locator("img[src^='data:image/png']").wait_for()   # before anything runs: a picture

    run_all(page, seconds=600)
    page.evaluate(SHOW_PANEL)
    panel = cell.locator(".jp-OutputArea-output .widget-vbox").first
    panel.wait_for()
    message, picture = panel.locator(":scope > .widget-label"), panel.locator("img").first
    sees = "it => it.innerText === 'the judge sees: {} on a blue background'"
    wait_until(page, message, sees.format("a fox left of a cake"))
    wait_until(page, picture, "it => it.naturalWidth === 256")
    assert cell.locator("img[src^='data:image/png']").count() == 0   # the panel took its place

    message.evaluate(RECORD)
    before = picture.get_attribute("src")
    seed = panel.locator(".widget-hslider", has_text="seed")
    seed.get_by_role("slider").press("ArrowRight")     # a hand moves a knob
    wait_until(page, message, "() => window.said.some(text => text.startsWith('the judge sees'))")
    assert seed.locator(".widget-readout").inner_text() == "2"
    assert picture.get_attribute("src") != before
    said = page.evaluate("window.said")
    assert sum(text.startswith("step ") for text in said) > 5, said   # it was drawn before our eyes

    panel.locator("input[type=text]").fill("a cake left of a fox on a blue background")
    panel.locator("input[type=text]").press("Enter")
    wait_until(page, message, sees.format("a cake left of a fox"))
    for news in page.get_by_role("button", name="No", exact=True).all():
        news.click()
        news.wait_for(state="detached")
    panel.evaluate("element => element.scrollIntoView()")
    SCREENSHOT.parent.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOT)
