"""Controls beside a picture: live in JupyterLab, a static picture where widgets do not run."""

import html
import io
import os
from collections.abc import Callable
from typing import NamedTuple

import ipycanvas
import ipywidgets
import numpy as np
from IPython.display import display
from PIL import Image, ImageDraw

from helpers import plotting

_SIDE = 280  # of a canvas, the longer one, in pixels


def explore(draw: Callable, *, alt: str, **controls: ipywidgets.ValueWidget) -> None:
    """Publishes a figure, and above it controls which draw it anew.

    One output holds both: JupyterLab shows the controls with the live picture, a rendered page or a
    notebook without a kernel shows the figure as it is for the controls' first values.

    Args:
        draw: Takes the controls' values by name; returns a figure or Axes. What it raises is shown as a sentence.
        alt: What the figure shows, for those who cannot see it.
        controls: Widgets with a value, such as `ipywidgets.FloatSlider(0.9, min=0.0, max=0.99)`. An uploaded file
            counts until another control is moved.

    Raises:
        ValueError: If there is no control, or `alt` is empty.
    """
    if not controls:
        raise ValueError("There is nothing to explore: pass at least one control, such as ipywidgets.FloatSlider().")

    def picture() -> bytes:
        return plotting.drawn(lambda: draw(**{name: control.value for name, control in controls.items()}))

    def look(change: dict) -> None:
        for control in controls.values():
            if isinstance(control, ipywidgets.FileUpload) and control.value and control is not change["owner"]:
                control.value = ()  # which draws; else the file would hide what is chosen now
                return
        try:
            shown.value, said.value = picture(), ""
        except Exception as error:  # it would end in a log that nobody sees, below a picture of other values
            said.value = _sentence(error)
        said.layout.display, shown.layout.display = (None, "none") if said.value else ("none", None)

    said = ipywidgets.HTML(layout={"display": "none"})
    shown = ipywidgets.Image(value=picture(), format="png")
    for name, control in controls.items():
        control.description = control.description or name.replace("_", " ")
        control.observe(look, "value")
    label = max(7.0, 0.6 * max(len(control.description) for control in controls.values()))
    for control in controls.values():
        if hasattr(control.style, "description_width"):  # none is cut short, and all begin at one line
            control.style.description_width = f"{label:.1f}em"
        if hasattr(control, "readout"):  # else a long label leaves a slider of a few pixels
            control.layout.width, control.layout.max_width = f"{label + 22:.1f}em", "100%"
    _publish([*controls.values(), said, shown], shown, alt)


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
        draw: Takes a finding (a row); returns a figure or Axes. What it raises is shown in place of the picture, but
            for the first finding.
        decisions: Verdicts by the names of pictures, `"keep"` or `"drop"`: those given are added here.
        save: Is called with `decisions` after each verdict. If it raises, the verdict is taken back, and the reason
            is shown.
        alt: What the figure of the first finding shows, for those who cannot see it.
    """
    kind = ipywidgets.Dropdown(options=findings["kind"].unique().tolist(), description="kind")
    number = ipywidgets.IntSlider(1, min=1)
    verdict = ipywidgets.ToggleButtons(options=["as found", "keep", "drop"], description="verdict")
    said, shown = ipywidgets.HTML(), ipywidgets.Image(format="png")

    def finding() -> "pandas.Series":  # noqa: F821
        return findings[findings["kind"] == kind.value].iloc[number.value - 1]

    def text() -> str:
        one = finding()
        return html.escape(f"{one['name']} {one['detail']}: {one['action']}")

    def picture() -> bytes:
        return plotting.drawn(lambda: draw(finding()))

    def show(_: object = None) -> None:
        verdict.value, said.value = decisions.get(finding()["name"], "as found"), text()
        try:
            shown.value, shown.layout.display = picture(), None
        except Exception as error:  # else the picture of another finding would stay
            said.value, shown.layout.display = f"{text()}<br>{_sentence(error)}", "none"

    def turn(_: object = None) -> None:
        number.value, number.max = 1, int((findings["kind"] == kind.value).sum())
        number.description = f"of {number.max:,}:"
        show()

    def decide(change: dict) -> None:
        name, before = finding()["name"], dict(decisions)
        if change["new"] == decisions.get(name, "as found"):  # another finding came into view
            return
        decisions.pop(name, None)
        if change["new"] != "as found":
            decisions[name] = change["new"]
        try:
            save(decisions)
            show()  # without what was said of a verdict that could not be saved
        except Exception as error:
            decisions.clear()
            decisions.update(before)
            verdict.value, said.value = decisions.get(name, "as found"), f"{text()}<br>{_sentence(error)}"

    turn()
    shown.value = shown.value or picture()  # what the first one raises is seen below the cell
    kind.observe(turn, "value")
    number.observe(show, "value")
    verdict.observe(decide, "value")
    _publish([kind, number, verdict, said, shown], shown, alt)


def sketch(answer: Callable, *, like: np.ndarray, example: list[list[tuple[float, float]]], alt: str) -> None:
    """Publishes a canvas to draw on, and beside it the figure that answers the drawing after each stroke.

    Args:
        answer: Takes the drawing as the bytes of a PNG file, as an upload is; returns a figure or Axes. What it raises
            is shown as a sentence.
        like: Pictures that the model knows, uint8, shape (n, height, width, 1 or 3). The canvas has their proportions
            and, to begin with, the colour of their upper edge.
        example: The strokes that are there at first, each a list of points (x, y), both from 0 to 1.
        alt: What the figure of the example shows, for those who cannot see it.

    Raises:
        ValueError: If nothing is to be seen of the example, or `alt` is empty.
    """
    drawing = _Drawing(answer, like)
    for points in example:
        drawing.begin([(x * drawing.canvas.width, y * drawing.canvas.height) for x, y in points])
    drawing.shown.value = drawing.ask()
    _publish(drawing.parts, drawing.shown, alt)


class _Stroke(NamedTuple):
    points: list[tuple[float, float]]
    width: int
    colour: str


class _Drawing:
    """Strokes, on a canvas for the reader and in a picture for the model: only points come from the page."""

    def __init__(self, answer: Callable, like: np.ndarray) -> None:
        height, width = (round(_SIDE * side / max(like.shape[1:3])) for side in like.shape[1:3])
        edge = np.broadcast_to(np.median(like[:, 0], axis=(0, 1)), 3).astype(int)
        self.strokes, self._pressed, self._answer = [], False, answer
        layout = {"align_self": "flex-start", "border": f"1px solid {plotting.BASELINE}"}
        self.canvas = ipycanvas.Canvas(width=width, height=height, layout=layout)
        self._other = ipycanvas.Canvas(width=1, height=1)
        self._thickness = ipywidgets.IntSlider(_SIDE // 8, min=1, max=_SIDE // 3, description="thickness")
        self._brush = ipywidgets.ColorPicker(value="#000000" if edge.mean() > 127 else "#ffffff", description="brush")
        self._ground = ipywidgets.ColorPicker(value="#{:02x}{:02x}{:02x}".format(*edge), description="ground")
        self._clear = ipywidgets.Button(description="Clear", tooltip="Takes all strokes away")
        self._said, self.shown = ipywidgets.Label(), ipywidgets.Image(format="png")
        below = ipywidgets.HBox([self._clear, self._said])
        side_by_side = ipywidgets.HBox([self.canvas, self.shown], layout={"flex_flow": "row wrap"})  # if there is room
        self.parts = [self._thickness, self._brush, self._ground, side_by_side, below]
        self._listen()

    def _listen(self) -> None:
        self.canvas.on_mouse_down(lambda x, y: self._press((x, y)))
        self.canvas.on_mouse_move(lambda x, y: self._move((x, y)))
        self.canvas.on_mouse_up(lambda x, y: self._release())
        self.canvas.on_mouse_out(lambda x, y: self._release())
        self.canvas.on_touch_start(lambda touches: self._press(touches[0]))
        self.canvas.on_touch_move(lambda touches: self._move(touches[0]))
        self.canvas.on_touch_end(lambda touches: self._release())
        self.canvas.on_touch_cancel(lambda touches: self._release())
        self.canvas.on_key_down(self._key)
        self.canvas.on_client_ready(self._paint)
        self._ground.observe(lambda change: (self._paint(), self.look()), "value")
        self._clear.on_click(self._wipe)

    def begin(self, points: list[tuple[float, float]]) -> None:
        """Adds a stroke of the brush as it is now."""
        self.strokes.append(_Stroke(points, self._thickness.value, self._brush.value))

    def look(self) -> None:
        """Shows the answer to the drawing, or says why there is none."""
        try:
            self.shown.value, self._said.value = self.ask(), ""
        except Exception as error:  # it would end in a log that nobody sees, beside the answer to another drawing
            self._said.value = str(error) or type(error).__name__
        self.shown.layout.display = "none" if self._said.value else None

    def ask(self) -> bytes:
        """Returns the figure that answers the drawing, as a PNG."""
        picture, file = self._picture(), io.BytesIO()
        if picture.getcolors(1) is not None:
            raise ValueError("There is nothing to be seen: draw something.")
        picture.save(file, "PNG")
        return plotting.drawn(lambda: self._answer(file.getvalue()))

    def _picture(self) -> Image.Image:
        picture = Image.new("RGB", (self.canvas.width, self.canvas.height), self._ground.value)
        pen = ImageDraw.Draw(picture)
        for points, width, colour in self.strokes:
            pen.line(points, colour, width)
            for x, y in points:  # round ends, and round joints
                pen.circle((x, y), width / 2, colour)
        return picture

    def _paint(self) -> None:
        self._other.clear()  # a page loaded anew does not know which canvas is meant before it changes (ipycanvas #322)
        self.canvas.put_image_data(np.asarray(self._picture().convert("RGBA")))  # as a PNG; RGB would travel as a JPEG

    def _press(self, point: tuple[float, float]) -> None:
        self.begin([point])
        self._pressed = True
        _, width, colour = self.strokes[-1]
        self.canvas.fill_style = self.canvas.stroke_style = colour
        self.canvas.line_width, self.canvas.line_cap = width, "round"
        self.canvas.fill_circle(*point, width / 2)

    def _move(self, point: tuple[float, float]) -> None:
        if self._pressed:
            self.canvas.stroke_line(*self.strokes[-1].points[-1], *point)
            self.strokes[-1].points.append(point)

    def _release(self) -> None:
        if self._pressed:
            self._pressed = False
            self.canvas.blur()  # gives JupyterLab its keys back
            self.look()

    def _wipe(self, _: object) -> None:
        self.strokes, self._pressed = [], False
        self._paint()
        self.look()

    def _key(self, key: str, shift: bool, *_: bool) -> None:
        """Lets Tab leave the canvas, which would keep it to itself."""
        if key == "Tab" and shift:
            self.canvas.blur()
        elif key == "Tab":
            self._clear.focus()


def _sentence(error: Exception) -> str:
    return html.escape(str(error) or type(error).__name__)


def _publish(parts: list[ipywidgets.Widget], shown: ipywidgets.Image, alt: str) -> None:
    shown.layout.align_self, shown.layout.max_width = "flex-start", "100%"  # as large as it is drawn, and not blurred
    box = ipywidgets.VBox(parts)
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
        layout = {"display": "none", "align_self": "flex-start", "max_width": "100%"}  # as large as it is drawn
        self._picture = ipywidgets.Image(format="png", layout=layout)
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
        """Leaves the last picture, or else the text, in place of the controls, for when there is no kernel."""
        if self._shown is None:
            return
        bundle, metadata = {"text/plain": text}, {}
        if self._picture.value:
            bundle, metadata = plotting.described(bytes(self._picture.value), f"Loss over the epochs. {text}")
        self._shown.update(bundle, metadata=metadata, raw=True)

    def _stop(self, _: object) -> None:
        self.stopped, self._button.disabled = True, True
        self._button.description = "Stopping …"
