"""JupyterLab in a real browser, as a reader meets it: the first page, a whole notebook, a control that is moved."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

from helpers import cleaning

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium"),
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups"),
]
ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the notebooks, since JupyterLab saves what it runs."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", place / "notebooks")
    return place


@pytest.fixture(scope="module")
def address(place):
    """The address of JupyterLab as `make lab` starts it, but for the folder and the browser."""
    recipe = subprocess.run(["make", "-n", "lab"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = re.findall(r"--\w+\.default_url=\S+", recipe)
    assert len(options) == 1
    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={place}", "--no-browser", "--allow-root", *options]
    command += ["--port=0"]
    settings = place / "settings"
    environment = os.environ | {
        "JUPYTERLAB_SETTINGS_DIR": str(settings), "JUPYTERLAB_WORKSPACES_DIR": str(place / "workspaces"),
        "WORKBOOK_OUTPUTS": str(place / "outputs"),
    }  # fmt: skip
    viewer = settings / "@jupyterlab" / "docmanager-extension" / "plugin.jupyterlab-settings"
    viewer.parent.mkdir(parents=True)
    overrides = json.loads(re.search(r"'(\{.*\})'", recipe)[1])
    viewer.write_text(json.dumps(overrides["@jupyterlab/docmanager-extension:plugin"]))
    log = place / "lab.log"
    with open(log, "w") as file, subprocess.Popen(
        command, stdout=file, stderr=file, env=environment, start_new_session=True
    ) as process:
        end = time.monotonic() + 60
        while not (found := re.search(r"http://127.0.0.1:\d+/\S+token=\w+", log.read_text())):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield found[0]
        os.killpg(process.pid, 15)


@contextmanager
def browser(address):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = chromium.new_page(viewport={"width": 1400, "height": 1000})
        page.set_default_timeout(60_000)
        page.goto(address)
        yield page
        chromium.close()


def open_notebook(page, address, name):
    server, _, token = re.match(r"(http://[^/]+)/(.*)\?token=(\w+)", address).groups()
    page.goto(f"{server}/lab/tree/notebooks/{name}?token={token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']")


def run_all(page, *, seconds):
    from playwright.sync_api import TimeoutError

    for left in reversed(range(3)):  # JupyterLab forgets what is run in the moment in which its kernel connects
        page.click("text=Run >> nth=0")
        page.click("text='Run All Cells'")
        try:
            page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='busy']", timeout=8000)
            break
        except TimeoutError:
            if not left:
                raise
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status='idle']", timeout=1000 * seconds)


def move_slider(page, *, steps):
    """Moves the first slider by its keys; returns when the picture below is another."""
    picture = page.locator(".jp-OutputArea img.jupyter-widgets").last
    picture.wait_for()
    before = picture.get_attribute("src")
    page.locator(".jp-OutputArea .noUi-handle, .jp-OutputArea .slider-container [role=slider]").first.focus()
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("([picture, before]) => picture.src !== before", arg=[picture.element_handle(), before])


def saved(page, path):
    page.keyboard.press("Control+s")
    page.wait_for_function("!document.querySelector('.jp-mod-dirty')")
    time.sleep(1)
    return nbformat.read(path, as_version=4)


def test_the_first_page_says_where_to_begin_and_its_links_open_notebooks(address):
    with browser(address) as page:
        page.wait_for_selector(".jp-RenderedMarkdown h1:has-text('Begin here')")
        page.click(".jp-RenderedMarkdown a:has-text('01 · Data preparation')")
        page.wait_for_selector(".jp-Notebook h1:has-text('1 · Data preparation')")
        page.wait_for_selector("text=Workbook | Idle")


def test_a_notebook_runs_from_top_to_bottom_in_its_kernel(address, place):
    path = place / "notebooks" / "01_data_preparation.ipynb"
    content = nbformat.read(path, as_version=4)
    parameters = next(cell for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    parameters.source = parameters.source.replace("LAB_PICTURES: int = 2000", "LAB_PICTURES: int = 600")
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(content, path)
    with browser(address) as page:
        open_notebook(page, address, path.name)
        run_all(page, seconds=200)
        done = [cell for cell in saved(page, path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in done] == list(range(1, len(done) + 1))
    assert not [output for cell in done for output in cell.outputs if output.output_type == "error"]
    assert (place / "outputs" / "01_data_preparation" / "dataset" / "manifest.json").is_file()


def test_a_control_that_is_moved_draws_its_picture_anew(address, place):
    content = nbformat.read(ROOT / "notebooks" / "04_optimizer_comparison.ipynb", as_version=4)
    last = next(i for i, cell in enumerate(content.cells) if "widgets.explore(" in cell.source)
    content.cells = content.cells[: last + 1]
    path = place / "notebooks" / "explorer.ipynb"
    nbformat.write(content, path)
    with browser(address) as page:
        open_notebook(page, address, path.name)
        run_all(page, seconds=200)
        move_slider(page, steps=5)


def test_a_verdict_on_a_finding_is_kept(address, place):
    content = nbformat.read(ROOT / "notebooks" / "01_data_preparation.ipynb", as_version=4)
    wanted = ("setup", "collect", "judge")
    content.cells = [c for c in content.cells if c.id in wanted or "parameters" in c.metadata.get("tags", [])]
    path = place / "notebooks" / "verdict.ipynb"
    nbformat.write(content, path)
    decisions = place / "outputs" / "01_data_preparation" / "decisions.csv"
    decisions.unlink(missing_ok=True)
    with browser(address) as page:
        open_notebook(page, address, path.name)
        run_all(page, seconds=200)
        move_slider(page, steps=1)
        page.locator(".jp-OutputArea .widget-toggle-button:has-text('drop')").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector(".jp-OutputArea .widget-toggle-button.mod-active:has-text('drop')")
        end = time.monotonic() + 20
        while not decisions.is_file():
            assert time.monotonic() < end
            time.sleep(0.1)
    [verdict] = cleaning.read_decisions(decisions).values()
    assert verdict == "drop"


TRAINING = """\
import keras
import numpy as np
from helpers import models, training

random = np.random.default_rng(0)
images, labels = random.integers(0, 256, (2000, 28, 28, 1), dtype=np.uint8), random.integers(0, 3, 2000)
model = models.mlp((28, 28, 1), 3)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
history = training.fit(model, (images, labels), (images[:500], labels[:500]), epochs=2000)
print(len(history), np.isclose(model.evaluate(images[:500], labels[:500], verbose=0)[0], history["val_loss"].min()))
"""


def test_a_training_shows_its_curve_and_can_be_stopped_with_its_best_weights(address, place, make):
    path = place / "notebooks" / "training.ipynb"
    nbformat.write(make.notebook(make.code(TRAINING, "training")), path)
    with browser(address) as page:
        open_notebook(page, address, path.name)
        page.click("text=Run >> nth=0")
        page.click("text='Run All Cells'")
        page.locator(".jp-OutputArea img.jupyter-widgets").wait_for(timeout=180_000)
        told = page.locator(".jp-OutputArea .widget-html").inner_text()
        assert re.search(r"epoch \d+ of 2000, \d+ s left, .*loss", told)
        page.locator(".jp-OutputArea button:has-text('Stop')").click()
        page.wait_for_selector(".jp-OutputArea pre:has-text('True')")
        (cell,) = saved(page, path).cells
    epochs = int(cell.outputs[-1].text.split()[0])
    assert 0 < epochs < 2000
    kept = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    assert "keeps the weights with the lowest loss" in kept[0].data["text/plain"]
    assert not [output for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"]
