"""Controls beside a picture: live in JupyterLab, a static picture where widgets do not run."""

import html
import os
from collections.abc import Callable

import ipywidgets
from IPython.display import display

from helpers import plotting


def explore(draw: Callable, *, alt: str, **controls: ipywidgets.ValueWidget) -> None:
    """Publishes a figure, and above it controls which draw it anew.

    One output holds both: JupyterLab shows the controls with the live picture, a rendered page or a
    notebook without a kernel shows the figure as it is for the controls' first values.

    Args:
        draw: Takes the controls' values by name; returns a figure or Axes.
        alt: What the figure shows, for those who cannot see it.
        controls: Widgets with a value, such as `ipywidgets.FloatSlider(0.9, min=0.0, max=0.99)`.

    Raises:
        ValueError: If there is no control, or `alt` is empty.
    """
    if not controls:
        raise ValueError("There is nothing to explore: pass at least one control, such as ipywidgets.FloatSlider().")

    def picture() -> bytes:
        return plotting.png(draw(**{name: control.value for name, control in controls.items()}))

    shown = ipywidgets.Image(value=picture(), format="png")
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.observe(lambda change: setattr(shown, "value", picture()), "value")
    _publish([*controls.values()], shown, alt)


def judge(
    findings: "pandas.DataFrame",  # noqa: F821
    draw: Callable,
    decisions: dict[str, str],
    *,
    save: Callable[[dict[str, str]], object],
    alt: str,
) -> None:
    """Publishes the findings of a cleaning, one at a time, with a verdict to be given on each.

    Args:
        findings: Columns as in `records.Finding`, at least one row.
        draw: Takes a finding (a row); returns a figure or Axes.
        decisions: Verdicts by the names of pictures, `"keep"` or `"drop"`: those given are added here.
        save: Is called with `decisions` after each verdict.
        alt: What the figure of the first finding shows, for those who cannot see it.
    """
    kind = ipywidgets.Dropdown(options=findings["kind"].unique().tolist(), description="kind")
    number = ipywidgets.IntSlider(1, min=1, description="number")
    verdict = ipywidgets.ToggleButtons(options=["as found", "keep", "drop"], description="verdict")
    said, shown = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def finding() -> "pandas.Series":  # noqa: F821
        return findings[findings["kind"] == kind.value].iloc[number.value - 1]

    def show(_: object = None) -> None:
        one = finding()
        verdict.value = decisions.get(one["name"], "as found")
        said.value = html.escape(f"{one['name']} {one['detail']}: {one['action']}")
        shown.value = plotting.png(draw(one))

    def turn(_: object = None) -> None:
        number.value, number.max = 1, int((findings["kind"] == kind.value).sum())
        show()

    def decide(change: dict) -> None:
        name = finding()["name"]
        if change["new"] == decisions.get(name, "as found"):  # another finding came into view
            return
        decisions.pop(name, None)
        if change["new"] != "as found":
            decisions[name] = change["new"]
        save(decisions)

    turn()
    kind.observe(turn, "value")
    number.observe(show, "value")
    verdict.observe(decide, "value")
    _publish([kind, number, verdict, said], shown, alt)


def _publish(controls: list[ipywidgets.Widget], shown: ipywidgets.Image, alt: str) -> None:
    shown.layout.align_self, shown.layout.max_width = "flex-start", "100%"  # as large as it is drawn, and not blurred
    box = ipywidgets.VBox([*controls, shown])
    bundle, metadata = plotting.described(bytes(shown.value), alt)
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, **bundle}, metadata=metadata, raw=True)


def watched() -> bool:
    """Returns whether a Jupyter server started this kernel, for somebody to look on; papermill and nbval do not."""
    return "JPY_SESSION_NAME" in os.environ


class Dashboard:
    """A chart of a training while it runs, what it says of itself, and a button to stop it.

    JupyterLab handles the click in a thread of its own, since the kernel is at work.

    Args:
        name: What is trained.

    Attributes:
        stopped: Whether the button was pressed.
    """

    def __init__(self, name: str) -> None:
        self.stopped, self._name = False, name
        self._text = ipywidgets.HTML()
        self._button = ipywidgets.Button(description="Stop", tooltip="Ends the training and keeps the best weights")
        self._button.on_click(self._stop)
        self._picture = ipywidgets.Image(format="png", layout={"display": "none"})
        box = ipywidgets.VBox([ipywidgets.HBox([self._button, self._text]), self._picture])
        self._shown = display(box, display_id=True)
        # The kernel sends a click to the thread that spoke last for the button. That is the one at work: forget it,
        # and the click goes where JupyterLab sends it, to a thread beside.
        vars(self._button.comm).pop("_reply_subshell_id", None)

    def say(self, text: str) -> None:
        """Shows one line of text."""
        self._text.value = f"<b>{html.escape(self._name)}</b> &nbsp; {html.escape(text)}"

    def draw(self, figure: object) -> None:
        """Shows a figure below it."""
        self._picture.value, self._picture.layout.display = plotting.png(figure), None

    def close(self, text: str) -> None:
        """Leaves the last picture in place of the controls, for when there is no kernel."""
        if self._shown is not None and self._picture.value:
            bundle, metadata = plotting.described(bytes(self._picture.value), f"Loss over the epochs. {text}")
            self._shown.update(bundle, metadata=metadata, raw=True)

    def _stop(self, _: object) -> None:
        self.stopped, self._button.disabled = True, True
        self._button.description = "Stopping …"
