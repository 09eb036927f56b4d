"""Facts about controls under a picture: what is published, and what a moved control does."""

import io

import ipywidgets
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from helpers import plotting, widgets

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


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L"))


def test_one_output_holds_the_controls_and_their_static_picture(published):
    widgets.explore(draw, alt="One bar", height=ipywidgets.IntSlider(3, min=0, max=10), name=ipywidgets.Text("a"))
    [(bundle, options)] = published
    assert bundle["text/plain"] == "Figure: One bar"
    assert options["metadata"]["image/png"]["alt"] == "One bar"
    assert bundle["image/png"] == plotting.png(draw(3, "a"))
    box = ipywidgets.widgets.widget._instances[bundle[VIEW]["model_id"]]
    assert [control.description for control in box.children[:-1]] == ["height", "name"]
    assert plt.get_fignums() == []


def test_a_moved_control_draws_the_picture_anew(published):
    height = ipywidgets.IntSlider(3, min=0, max=10)
    widgets.explore(draw, alt="One bar", height=height, name=ipywidgets.Text("a"))
    [(bundle, _)] = published
    shown = ipywidgets.widgets.widget._instances[bundle[VIEW]["model_id"]].children[-1]
    height.value = 9
    np.testing.assert_array_equal(pixels(shown.value), pixels(plotting.png(draw(9, "a"))))
    assert (pixels(shown.value) != pixels(bundle["image/png"])).any()


def test_without_a_control_or_a_description_there_is_nothing_to_explore():
    with pytest.raises(ValueError, match="nothing to explore: pass at least one control"):
        widgets.explore(draw, alt="One bar")
    with pytest.raises(ValueError, match="needs its alternative text"):
        widgets.explore(lambda height: draw(height, "a"), alt=" ", height=ipywidgets.IntSlider(3))


def test_the_static_picture_can_be_sent_by_a_kernel(published):
    widgets.explore(draw, alt="One bar", height=ipywidgets.IntSlider(3), name=ipywidgets.Text("a"))
    [(bundle, _)] = published
    assert type(bundle["image/png"]) is bytes


def test_a_verdict_is_saved_and_stands_when_the_finding_comes_back(published):
    findings = pd.DataFrame(
        [("a", "blank", "drop", "is grey", 0), ("b", "twin", "review", "is c", 1), ("c", "twin", "drop", "is b", 2)],
        columns=["name", "kind", "action", "detail", "row"],
    )
    saved, decisions = [], {"b": "drop"}
    drawn = lambda finding: draw(1 + finding["row"], finding["name"])  # noqa: E731
    widgets.judge(findings, drawn, decisions, save=lambda made: saved.append(dict(made)), alt="A finding")
    [(bundle, _)] = published
    kind, number, verdict, said, shown = ipywidgets.widgets.widget._instances[bundle[VIEW]["model_id"]].children
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
