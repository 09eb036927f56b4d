"""JupyterLab in a real browser, as a reader meets it: the first page, a whole notebook, a control that is moved."""

import base64
import gzip
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
import numpy as np
import pytest
from PIL import Image

from helpers import artifacts, classifier, cleaning, data, registry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium"),
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups"),
]
ROOT = Path(__file__).resolve().parents[1]
VIEW = "application/vnd.jupyter.widget-view+json"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A copy of the notebooks, since JupyterLab saves what it runs."""
    place = tmp_path_factory.mktemp("lab")
    shutil.copytree(ROOT / "notebooks", place / "notebooks")
    return place


@pytest.fixture(scope="module")
def address(place, running, until):
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
    with open(log, "w") as file, running(
        command, stdout=file, stderr=file, env=environment, start_new_session=True
    ) as process:
        try:
            yield until(lambda: re.search(r"http://127.0.0.1:\d+/\S+token=\w+", log.read_text()), 60)[0]
        finally:
            os.killpg(process.pid, 15)  # its kernels, too


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
    page.wait_for_selector("text=Workbook | Idle")  # who runs a cell before that is asked for a kernel


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


def test_a_verdict_on_a_finding_is_kept(address, place, until):
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
        until(decisions.is_file)
    [verdict] = cleaning.read_decisions(decisions).values()
    assert verdict == "drop"


NEAREST = """\
test_images, test_labels = (np.asarray(part) for part in dataset.split("test"))
means = np.stack([train[0][train[1] == label].mean(axis=0) for label in range(classes)])
logits = {"better CNN": -np.square(test_images[:, None] - means).mean(axis=(2, 3, 4))}
right = {"better CNN": evaluation.correct(test_labels, logits["better CNN"])}

def mistakes(truth, answer):
    pairs = zip(test_labels, logits["better CNN"].argmax(axis=1), strict=True)
    rows = [row for row, pair in enumerate(pairs) if [dataset.classes[label] for label in pair] == [truth, answer]]
    title = f"{truth}, taken for {answer}: {records.counted(len(rows), 'picture')}{', the first 16' * (len(rows) > 16)}"
    return plotting.image_grid(test_images[rows[:16]], columns=8, size=0.7, title=title)
"""
FILES = """\
names, elsewhere = ["big", "int8", "small", "smallest"], {}
measured = pd.DataFrame({"compressed_bytes": [456_384, 122_304, 20_056, 10_900],
                         "latency_ms_p50": [0.06, 0.03, 0.02, 0.02],
                         "accuracy": [0.931, 0.93, 0.925, 0.922],
                         "validation_accuracy": [0.93, 0.929, 0.926, 0.921]}, index=names)

def best(chosen, fits):
    ax = plotting.frontier(shown, x="kilobytes", y="accuracy", fits=fits, chosen=chosen)
    ax.set(xlabel="kilobytes, packed", ylabel="test accuracy")
    ax.set_title(f"Best on validation within the budgets: {chosen or 'none'}")
    return ax
"""
SERVED = """\
import requests
from helpers import classifier, serving

live = classifier.load(out / "registry" / "wardrobe")
server, predict = serving.start(out / "registry", log=out / "server.log"), "/v1/models/wardrobe:predict"

def answered(number):
    return plotting.answer(images[number], dataset.classes, live.answer(images[[number]]).probabilities[0])
"""
# Of each notebook the cells that its explorer needs, with lines in place of what takes minutes; then control by control
# the keys that are pressed or the file that is handed over, and the figure that is then to be seen, or the sentence.
# Space opens a list, for JupyterLab keeps the arrows.
EXPLORERS = {
    "02_preprocessing": (
        ["load", "matrix-real", "layers", "layers-explorer"],
        ("rotation", "ArrowRight", "augmented(0.06, 0.1, 0.1, 0.05)"),
        ("shift", "End", "augmented(0.06, 0.5, 0.1, 0.05)"),
        ("zoom", "Home", "augmented(0.06, 0.5, 0.0, 0.05)"),
        ("noise", "PageUp", "augmented(0.06, 0.5, 0.0, 0.1)"),
    ),
    "03_cnn_training": (
        ["data", "judged", NEAREST, "confusion", "recall", "hardest", "mistakes-explorer"],
        ("truth", "Home Space ArrowDown Enter", "mistakes('Trouser', dataset.classes[others.argmax()])"),
        ("answer", "Home Space ArrowDown ArrowDown ArrowDown Enter", "mistakes('Trouser', 'Dress')"),
        ("answer", "End", "mistakes('Trouser', 'Ankle boot')"),
    ),
    "05_compression": (
        [FILES, "frontier"],
        ("kilobytes", "PageDown " * 6, "best('small', ['small', 'smallest'])"),
        ("ms", "Home", "best(None, [])"),
    ),
    "06_deployment_prediction": (
        ["data", SERVED, "curl", "widget"],
        ("number", "ArrowRight ArrowRight", "answered(2)"),
        ("Upload", "picture.png", "answered(9)"),
        ("Upload", "notes.png", "is not a picture"),
        ("number", "ArrowLeft", "answered(1)"),
    ),
}


@pytest.fixture
def prepared(write_onnx):
    """What earlier notebooks leave, small: a data set of real pictures, and a model of it that can be served."""
    raw = ROOT / "data" / "fashion-mnist"
    pixels, labels = (
        np.frombuffer(gzip.decompress((raw / f"t10k-{name}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
        for name, offset in (("images-idx3", 16), ("labels-idx1", 8))
    )
    images, labels = pixels.reshape(-1, 28, 28, 1)[:600], labels[:600].astype(np.int64)
    classes = json.loads((raw / "classes.json").read_text())
    folder = artifacts.outputs() / "01_data_preparation" / "dataset"
    found = data.load(data.write(folder, images, labels, classes, data.split(labels, test=0.5), parameters={}))
    root = artifacts.outputs() / "06_deployment_prediction" / "registry"
    root.mkdir(parents=True)
    file = write_onnx(root / "model.onnx", sides=found.shape, classes=10)
    facts = {"classes": classes, "input": list(found.shape), "temperature": 20.0}
    examples = images[:20], classifier.load(file).answer(images[:20]).logits
    registry.register("wardrobe", file, facts=facts, made_by="test", parameters={}, examples=examples, root=root)
    registry.promote("wardrobe", 1, root=root)
    return found


def press(page, label, keys, folder):
    """Goes from the explorer's cell to the control of this label by Tab; presses keys there, or hands over a file."""
    page.locator(".jp-CodeCell:has(img.jupyter-widgets)").focus()
    focused = "(document.activeElement.closest('.widget-inline-hbox') ?? document.activeElement).innerText.trim()"
    for _ in range(15):
        page.keyboard.press("Tab")
        if page.evaluate(focused).startswith(label):
            break
    else:
        raise AssertionError(f"Tab does not lead to {label!r}")
    if label == "Upload":
        with page.expect_file_chooser() as chooser:
            page.keyboard.press("Enter")
        chooser.value.set_files(folder / keys)
        return
    for key in keys.split():
        page.keyboard.press(key)


READ = "async image => { try { return [...await (await fetch(image.src)).bytes()] } catch { return image.src } }"


def excerpt(make, stem, parts, figures):
    """A notebook of some cells of another, of lines in their place, and of the figures that are to be seen."""
    own = {cell.id: cell for cell in nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=4).cells}
    first = make.code(f"import os\nos.environ['WORKBOOK_OUTPUTS'] = {str(artifacts.outputs())!r}", "first")
    cells = [own.get(part) or make.code(part, f"part-{at}") for at, part in enumerate(["parameters", "setup", *parts])]
    last = make.code("\n".join(f"plotting.show({figure}, alt='to be seen')" for figure in figures), "last")
    return make.notebook(first, *cells, last)


@pytest.mark.parametrize("stem", EXPLORERS)
def test_an_explorer_follows_the_keys_and_leaves_a_picture(address, place, make, prepared, tmp_path, until, stem):
    parts, *steps = EXPLORERS[stem]
    figures = [seen for *_, seen in steps if seen.endswith(")")]
    path = place / "notebooks" / f"explorer_{stem}.ipynb"
    nbformat.write(excerpt(make, stem, parts, figures), path)
    images, _ = prepared.split("test", at_most=10_000)  # as notebook 06 does
    Image.fromarray(images[9][..., 0]).convert("RGBA").save(tmp_path / "picture.png")
    (tmp_path / "notes.png").write_text("hello")
    with browser(address) as page:
        open_notebook(page, address, path.name)
        run_all(page, seconds=200)
        page.on("filechooser", lambda chooser: None)  # one that comes while Playwright begins to listen would be lost
        live = page.locator(".jp-OutputArea img.jupyter-widgets")
        still = page.locator(".jp-CodeCell").last.locator(".jp-RenderedImage img")
        for label, keys, seen in steps:
            press(page, label, keys, tmp_path)
            if seen not in figures:
                page.wait_for_selector(f".jp-OutputArea .widget-html:has-text({seen!r})")
                continue
            drawn = still.nth(figures.index(seen))
            until(lambda drawn=drawn: live.evaluate(READ) == drawn.evaluate(READ))
            live.wait_for()
        done = saved(page, path)
    [kept] = [output for output in done.cells[-2].outputs if VIEW in output.get("data", {})]
    assert kept.data["text/plain"] == f"Figure: {kept.metadata['image/png']['alt']}"
    drawn = [output.data["image/png"] for output in (kept, *done.cells[-1].outputs)]
    assert len({base64.b64decode(picture) for picture in drawn}) == 1 + len(figures)


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
    stopped, after = cell.outputs[-1].text.splitlines()
    epochs = int(after.split()[0])
    assert 0 < epochs < 2000
    assert stopped.startswith(f"The training was stopped after epoch {epochs} of 2000 and keeps the weights with")
    kept = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    assert "keeps the weights with the lowest loss" in kept[0].data["text/plain"]
    assert not [output for output in cell.outputs if output.output_type == "stream" and output.name == "stderr"]


DRAWING = """\
import numpy as np
from helpers import classifier, plotting, widgets

model = classifier.load("tiny.onnx")


def seen(file):
    picture = model.array(file)
    return plotting.answer(picture, model.classes, model.answer(picture[None]).probabilities[0])


widgets.sketch(seen, like=np.zeros((1, 4, 4, 1), np.uint8), example=[[(0.2, 0.2), (0.8, 0.2)]], alt="A stroke")
"""
PIXEL = "([canvas, x, y]) => [...canvas.getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]"


def test_a_drawing_is_answered_and_the_keyboard_clears_it(address, place, make, write_onnx, until):
    path = place / "notebooks" / "drawing.ipynb"
    write_onnx(path.with_name("tiny.onnx"))
    nbformat.write(make.notebook(make.code(DRAWING, "drawing")), path)
    with browser(address) as page:
        open_notebook(page, address, path.name)
        run_all(page, seconds=60)
        canvas = page.locator(".jp-OutputArea canvas")
        canvas.wait_for()
        picture = page.locator(".jp-OutputArea img.jupyter-widgets")

        def becomes(colour, x, y):
            until(lambda: page.evaluate(PIXEL, [canvas.element_handle(), x, y]) == [colour] * 3)

        def draw_upright():
            box, before = canvas.bounding_box(), picture.get_attribute("src")
            page.mouse.move(box["x"] + 140, box["y"] + 100)
            page.mouse.down()
            page.mouse.move(box["x"] + 140, box["y"] + 240, steps=2)
            becomes(255, 140, 205)
            assert picture.get_attribute("src") == before
            page.mouse.up()
            page.wait_for_function("([img, before]) => img.src !== before", arg=[picture.element_handle(), before])

        becomes(255, 140, 56)
        becomes(0, 140, 205)
        draw_upright()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector(".jp-OutputArea .widget-label:has-text('draw something')")
        becomes(0, 140, 205)
        becomes(0, 140, 56)
        assert picture.is_hidden()
        page.keyboard.press("Shift+Tab")  # into the canvas, and out again on both sides
        assert canvas.evaluate("canvas => document.activeElement === canvas")
        page.keyboard.press("Tab")
        page.wait_for_selector(".jp-OutputArea button:has-text('Clear'):focus")
        saved(page, path)
        page.reload()
        canvas.wait_for()
        becomes(0, 140, 205)
        draw_upright()
