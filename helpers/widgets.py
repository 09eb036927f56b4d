"""Controls under a picture: live in JupyterLab, a static picture where widgets do not run."""

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
    box = ipywidgets.VBox([*controls.values(), shown])
    bundle, metadata = plotting.described(bytes(shown.value), alt)
    view = {"version_major": 2, "version_minor": 0, "model_id": box.model_id}
    display({"application/vnd.jupyter.widget-view+json": view, **bundle}, metadata=metadata, raw=True)
