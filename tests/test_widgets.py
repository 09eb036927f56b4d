"""Facts about controls under a picture: what is published, and what a moved control does."""

import ast
import datetime
import io
import shlex
import shutil
import subprocess

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from helpers import artifacts, classifier, plotting, widgets

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def published(monkeypatch):
    outputs = []
    monkeypatch.setattr(widgets, "display", lambda bundle, **options: outputs.append((bundle, options)))
    return outputs


def draw(height, name):
    axes = plt.subplots(figsize=(2, 1))[1]
    axes.bar([name], [height])
    axes.set_ylim(0, 10)
    return axes


def children(published):
    """Returns what the one box holds that was published."""
    [(bundle, _)] = published
    return ipywidgets.widgets.widget._instances[bundle[VIEW]["model_id"]].children


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


def test_one_output_holds_the_controls_and_their_static_picture(published):
    widgets.explore(draw, alt="One bar", height=ipywidgets.IntSlider(3, min=0, max=10), name=ipywidgets.Text("a"))
    [(bundle, options)] = published
    assert bundle["text/plain"] == "Figure: One bar"
    assert options["metadata"]["image/png"]["alt"] == "One bar"
    assert bundle["image/png"] == plotting.png(draw(3, "a"))
    assert type(bundle["image/png"]) is bytes  # as a kernel can send it
    assert [control.description for control in children(published)[:-2]] == ["height", "name"]
    assert plt.get_fignums() == []


def test_no_label_is_cut_short_and_a_long_one_leaves_room_to_its_slider(published):
    long = ipywidgets.FloatSlider(0.1, description="rotation (turns either way)")
    upload = ipywidgets.FileUpload()
    widgets.explore(lambda turn, name, file: draw(turn, name), alt="One bar", turn=long, name=ipywidgets.Text("a"),
                    file=upload)  # fmt: skip
    controls = children(published)[:-2]
    assert [control.style.description_width for control in controls[:2]] == ["16.2em", "16.2em"]
    assert (long.layout.width, upload.layout.width) == ("38.2em", None)


def test_a_moved_control_draws_the_picture_anew(published):
    height = ipywidgets.IntSlider(3, min=0, max=10)
    widgets.explore(draw, alt="One bar", height=height, name=ipywidgets.Text("a"))
    shown = children(published)[-1]
    height.value = 9
    np.testing.assert_array_equal(pixels(shown.value), pixels(plotting.png(draw(9, "a"))))
    assert (pixels(shown.value) != pixels(published[0][0]["image/png"])).any()


def test_what_cannot_be_drawn_is_said_in_place_of_the_picture_until_something_can_be(published):
    height = ipywidgets.IntSlider(3, min=0, max=10)
    widgets.explore(lambda height: draw(10 / (height - 9), "a"), alt="One bar", height=height)
    said, shown = children(published)[-2:]
    for value, sentence, hidden in ((9, "division by zero", (None, "none")), (8, "", ("none", None))):
        height.value = value
        assert (said.value, (said.layout.display, shown.layout.display)) == (sentence, hidden)


def test_a_drawing_that_raises_leaves_no_figure_behind(published):
    height = ipywidgets.IntSlider(3, min=0, max=10)
    widgets.explore(lambda height: draw(height, "a").set_ylim(0, 10 / (height - 9)) and plt.gcf(), alt="One bar",
                    height=height)  # fmt: skip
    for value in (9, 8, 9):
        height.value = value
    assert plt.get_fignums() == []


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lab_lets_a_photograph_of_any_phone_through():
    recipe = subprocess.run(["make", "-n", "lab"], cwd=artifacts.root(), capture_output=True, text=True, check=True)
    words = shlex.split(recipe.stdout)
    [settings] = [word.split("=", 1)[1] for word in words if word.startswith("--ServerApp.tornado_settings=")]
    assert ast.literal_eval(settings) == {"websocket_max_message_size": 100 * 2**20}  # tornado's own: 10 MiB


def test_an_uploaded_file_counts_until_another_control_is_moved(published):
    height, upload = ipywidgets.IntSlider(3, min=0, max=10), ipywidgets.FileUpload()
    widgets.explore(lambda height, upload: draw(height, "upload" if upload else "a"), alt="One bar", height=height,
                    upload=upload)  # fmt: skip
    shown = children(published)[-1]
    moment = datetime.datetime.now(datetime.UTC)
    upload.value = [{"name": "b", "type": "", "size": 1, "content": memoryview(b"b"), "last_modified": moment}]
    assert shown.value == plotting.png(draw(3, "upload"))
    height.value = 4
    assert shown.value == plotting.png(draw(4, "a"))


def test_without_a_control_or_a_description_there_is_nothing_to_explore():
    with pytest.raises(ValueError, match="nothing to explore: pass at least one control"):
        widgets.explore(draw, alt="One bar")
    with pytest.raises(ValueError, match="needs its alternative text"):
        widgets.explore(lambda height: draw(height, "a"), alt=" ", height=ipywidgets.IntSlider(3))


FINDINGS = pd.DataFrame(
    [("a", "blank", "drop", "is grey", 0), ("b", "twin", "review", "is c", 1), ("c", "twin", "drop", "is b", 2)],
    columns=["name", "kind", "action", "detail", "row"],
)


def judged(published, decisions, save, drawn=lambda finding: draw(1 + finding["row"], finding["name"])):
    widgets.judge(FINDINGS, drawn, decisions, save=save, alt="A finding")
    return children(published)


def test_a_verdict_is_saved_and_stands_when_the_finding_comes_back(published):
    saved, decisions = [], {"b": "drop"}
    kind, number, verdict, said, shown = judged(published, decisions, lambda made: saved.append(dict(made)))
    assert (kind.value, number.max, verdict.value, said.value) == ("blank", 1, "as found", "a is grey: drop")
    verdict.value = "keep"
    kind.value = "twin"
    assert (number.max, verdict.value) == (2, "drop")
    number.value = 2
    assert (verdict.value, said.value, shown.value) == ("as found", "c is b: drop", plotting.png(draw(3, "c")))
    kind.value = "blank"
    assert (number.value, number.max, verdict.value) == (1, 1, "keep")
    verdict.value = "as found"
    assert saved == [{"b": "drop", "a": "keep"}, {"b": "drop"}]


def test_a_verdict_that_cannot_be_saved_is_taken_back_and_said(published):
    full, decisions = [True], {"a": "drop", "b": "drop"}

    def save(made):
        if full:
            raise OSError("No space <left> on device")

    kind, number, verdict, said, shown = judged(published, decisions, save)
    verdict.value = "keep"
    assert (verdict.value, list(decisions.items())) == ("drop", [("a", "drop"), ("b", "drop")])
    assert (said.value, shown.layout.display) == ("a is grey: drop<br>No space &lt;left&gt; on device", None)
    verdict.value = "as found"
    assert (verdict.value, decisions["a"]) == ("drop", "drop")
    full.clear()
    verdict.value = "keep"
    assert (verdict.value, decisions["a"], said.value) == ("keep", "keep", "a is grey: drop")


def test_the_page_hears_that_a_verdict_was_taken_back(published, monkeypatch):
    def save(made):
        raise OSError("No space left on device")

    verdict, sent = judged(published, {}, save)[2], []
    monkeypatch.setattr(verdict, "send_state", lambda key=None: sent.append((key, verdict.index)))
    verdict.set_state({"index": 1})
    assert (verdict.value, verdict.index) == ("as found", 0)
    assert ("index", 0) in sent or ({"index"}, 0) in sent


def test_a_finding_that_cannot_be_drawn_is_said_in_place_of_its_picture(published):
    def drawn(finding):
        axes = draw(1 + finding["row"], finding["name"])
        if finding["name"] == "b":
            raise ValueError("b is torn")
        return axes

    decisions = {"b": "drop"}
    kind, number, verdict, said, shown = judged(published, decisions, lambda made: None, drawn)
    kind.value = "twin"
    for choice in ("drop", "keep"):  # it can be judged all the same
        verdict.value = choice
        assert (verdict.value, decisions["b"]) == (choice, choice)
        assert (said.value, shown.layout.display) == ("b is c: review<br>b is torn", "none")
    number.value = 2
    assert (verdict.value, said.value, shown.layout.display) == ("as found", "c is b: drop", None)
    assert shown.value == plotting.png(draw(3, "c"))
    assert plt.get_fignums() == []


def test_a_first_finding_that_cannot_be_drawn_is_raised_where_all_is_published(published):
    with pytest.raises(ZeroDivisionError):
        judged(published, {}, lambda made: None, lambda finding: 1 / 0)
    assert published == []


class Sketch:
    """A published canvas, the files that its answer was asked about, and a hand that draws."""

    def __init__(self, published, like, example):
        self.asked = []
        widgets.sketch(self.answer, like=like, example=example, alt="A stroke and what it is")
        [(self.bundle, self.options)] = published
        self.thickness, self.brush, self.ground, row, below = children(published)
        (self.canvas, self.shown), (self.clear, self.said) = row.children, below.children

    def answer(self, file):
        self.asked.append(file)
        return draw(len(self.asked), "asked")

    def event(self, name, **content):
        self.canvas._handle_frontend_event(None, {"event": name, **content}, [])

    def mouse(self, *points):
        for name, (x, y) in zip(["mouse_down", *["mouse_move"] * (len(points) - 1)], points, strict=True):
            self.event(name, x=x, y=y)
        self.event("mouse_up", x=points[-1][0], y=points[-1][1])

    def rgb(self):
        return np.asarray(Image.open(io.BytesIO(self.asked[-1])))


EXAMPLE = [[(0.1, 0.5), (0.9, 0.5)]]
BLACK = np.zeros((3, 28, 28, 1), np.uint8)


def test_a_stroke_reaches_the_model_white_where_it_was_drawn(published, write_onnx, tmp_path):
    model = classifier.load(write_onnx(tmp_path / "model.onnx", sides=(28, 28, 1)))
    sketch = Sketch(published, BLACK, EXAMPLE)
    sketch.thickness.value = 20
    sketch.mouse((50, 30), (50, 100), (50, 250))
    picture = model.array(sketch.asked[-1])
    assert (picture.shape, picture.dtype) == ((28, 28, 1), np.uint8)
    assert picture[3:25, 4:6].min() > 200  # 20 of 280 pixels are 2 of 28
    assert picture[5:11, [0, 1, 2, 7, 8, 9]].max() < 10
    assert picture[14, 4:24].min() > 200  # the example is still there
    assert picture[[0, 1, 26, 27]].max() < 20
    assert model.answer(picture[None]).probabilities.shape == (1, 3)


def test_the_model_is_asked_at_the_end_of_each_stroke_and_of_nothing_else(published):
    sketch = Sketch(published, BLACK, EXAMPLE)
    assert sketch.bundle["image/png"] == plotting.png(draw(1, "asked"))
    assert sketch.options["metadata"]["image/png"]["alt"] == "A stroke and what it is"
    sketch.event("mouse_move", x=10, y=10)
    sketch.event("mouse_up", x=10, y=10)
    sketch.event("mouse_out", x=10, y=10)
    assert len(sketch.asked) == 1
    sketch.event("mouse_down", x=10, y=10)
    sketch.event("mouse_move", x=90, y=10)
    assert len(sketch.asked) == 1
    sketch.event("mouse_out", x=280, y=10)
    sketch.event("mouse_move", x=150, y=200)
    assert len(sketch.asked) == 2
    assert sketch.shown.value == plotting.png(draw(2, "asked"))
    assert not sketch.rgb()[190:].any()


def test_a_finger_draws_as_the_mouse_does(published):
    sketch = Sketch(published, BLACK, EXAMPLE)
    sketch.mouse((40, 40), (200, 40))
    by_mouse = sketch.rgb()
    sketch.clear.click()
    assert (by_mouse[40, 40:200] == 255).all()
    sketch.event("touch_start", touches=[{"x": 40, "y": 40}])
    sketch.event("touch_move", touches=[{"x": 200, "y": 40}])
    sketch.event("touch_end", touches=[])
    np.testing.assert_array_equal(sketch.rgb()[:80], by_mouse[:80])
    assert not sketch.rgb()[120:].any()


def test_of_an_empty_canvas_the_model_is_not_asked(published, caplog):
    sketch = Sketch(published, BLACK, EXAMPLE)
    assert (sketch.said.value, sketch.shown.layout.display) == ("", None)
    sketch.event("mouse_down", x=10, y=10)
    sketch.clear.click()
    sketch.event("mouse_move", x=90, y=10)
    sketch.event("mouse_up", x=90, y=10)
    assert caplog.text == ""
    assert (sketch.said.value, sketch.shown.layout.display) == ("There is nothing to be seen: draw something.", "none")
    sketch.brush.value = sketch.ground.value
    sketch.mouse((10, 10), (90, 90))
    assert len(sketch.asked) == 1
    sketch.ground.value = "#ff0000"
    assert (len(sketch.asked), sketch.said.value, sketch.shown.layout.display) == (2, "", None)
    assert sketch.rgb()[[50, 150], [50, 150]].tolist() == [[0, 0, 0], [255, 0, 0]]


def test_a_canvas_has_the_proportions_and_the_ground_of_the_models_pictures(published, write_onnx, tmp_path):
    like = np.full((5, 24, 48, 3), (250, 128, 10), np.uint8)
    like[0] = 0
    like[:, 4:] = 99
    sketch = Sketch(published, like, EXAMPLE)
    assert (sketch.canvas.width, sketch.canvas.height) == (280, 140)
    assert (sketch.ground.value, sketch.brush.value) == ("#fa800a", "#000000")
    assert sketch.rgb().shape == (140, 280, 3)
    model = classifier.load(write_onnx(tmp_path / "model.onnx", sides=(24, 48, 3)))
    picture = model.array(sketch.asked[-1])
    np.testing.assert_allclose(picture[[0, 12], [0, 24]], [[250, 128, 10], [0, 0, 0]], atol=3)


def test_what_the_answer_raises_is_said_in_its_place(published):
    sketch = Sketch(published, BLACK, EXAMPLE)
    sketch.asked = None
    sketch.mouse((10, 10), (90, 90))
    assert plt.get_fignums() == []
    assert (sketch.said.value, sketch.shown.layout.display) == ("'NoneType' object has no attribute 'append'", "none")


def test_a_canvas_begins_with_something_to_be_seen():
    with pytest.raises(ValueError, match="There is nothing to be seen"):
        widgets.sketch(lambda file: draw(1, "a"), like=BLACK, example=[], alt="Nothing")
    with pytest.raises(ValueError, match="needs its alternative text"):
        widgets.sketch(lambda file: draw(1, "a"), like=BLACK, example=EXAMPLE, alt=" ")
