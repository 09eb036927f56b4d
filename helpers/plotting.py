"""Every figure of the notebooks: arrays or DataFrames in, Axes out.

Meaning is constant everywhere: training is solid, validation dashed, a baseline grey; a variant
has one colour; several seeds are a band from the lowest to the highest around their mean.
"""

import contextlib
import io
import itertools
import logging
from collections.abc import Callable, Collection, Sequence

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib import font_manager, patheffects
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

# Okabe and Ito's colours, which people with any common colour blindness tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
BASELINE = "#8c8c8c"
_LONGEST_NAME = 28
_MOST_CLASSES = 40  # in one figure
_CJK = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
        "Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei")  # fmt: skip
_HALO = [patheffects.withStroke(linewidth=3, foreground="white")]  # a line behind a name leaves it legible


def use_style() -> None:
    """Sets Matplotlib's defaults to the style of the workbook; call it once in a notebook's set-up.

    Names that Matplotlib's own font cannot write, such as Chinese ones, are drawn with the first of the
    usual fonts for them that is installed.
    """
    if not any(font.name in _CJK for font in font_manager.fontManager.ttflist):
        known = {font.fname for font in font_manager.fontManager.ttflist}
        for path in set(font_manager.findSystemFonts()) - known:  # installed since Matplotlib has kept its list
            with contextlib.suppress(Exception):  # a file that is no font raises many kinds
                font_manager.fontManager.addfont(path)
    installed = {font.name for font in font_manager.fontManager.ttflist}
    logging.getLogger(font_manager.__name__).setLevel(logging.ERROR)  # or each figure tells of a font's odd weight
    matplotlib.rcParams.update(
        {
            "font.family": ["DejaVu Sans", *(name for name in _CJK if name in installed)],
            "figure.figsize": (6, 3.5),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": "small",
            "font.size": 9,
            "image.cmap": "gray",
            "image.interpolation": "nearest",
            "savefig.facecolor": "white",
        }
    )


def show(figure: Figure | Axes | np.ndarray, *, alt: str) -> None:
    """Publishes a figure with its alternative text, and closes it.

    The output holds the PNG, the text as metadata of the picture (which rendered pages use), and
    "Figure: …" as plain text, which is what a check of the notebook compares.

    Args:
        figure: A figure, an Axes, or an array of them as `plt.subplots` returns it.
        alt: What the figure shows, for those who cannot see it; no measured value, as those differ.

    Raises:
        ValueError: If `alt` is empty.
    """
    from IPython.display import display

    bundle, metadata = described(png(figure), alt)
    display(bundle, metadata=metadata, raw=True)


def png(figure: Figure | Axes | np.ndarray) -> bytes:
    """Returns a figure as the bytes of a PNG, the same for the same figure, and closes it."""
    while not isinstance(figure, Figure):
        figure = figure.flat[0] if isinstance(figure, np.ndarray) else figure.figure
    file = io.BytesIO()
    figure.savefig(file, format="png", bbox_inches="tight", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()


def drawn(draw: Callable[[], Figure | Axes | np.ndarray]) -> bytes:
    """Returns what a call draws as the bytes of a PNG; if it raises, the figures that it has begun are closed."""
    before = set(plt.get_fignums())
    try:
        return png(draw())
    except BaseException:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        raise


def described(picture: bytes, alt: str) -> tuple[dict, dict]:
    """Returns a PNG with its alternative text as Jupyter's data of an output, and their metadata.

    Raises:
        ValueError: If `alt` is empty.
    """
    if not alt.strip():
        raise ValueError("A figure needs its alternative text: say in one sentence what it shows.")
    return {"image/png": picture, "text/plain": f"Figure: {alt}"}, {"image/png": {"alt": alt}}


def log_axis(axis: Axis) -> None:
    """Makes an axis logarithmic, with numbers as labels at 1, 2 and 5 times the powers of ten, or at these alone.

    Args:
        axis: Such as `ax.xaxis`. What sets the scale anew, as `ax.semilogy` does, comes before.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(_Decades())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))


class _Decades(LogLocator):
    """Ticks at 1, 2 and 5 if they have room, else at 1; evenly in a part of a decade that has too few of them."""

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        low, high = sorted((vmin, vmax))
        room = min(9, self.axis.get_tick_space())
        self.set_params(subs=(1, 2, 5) if 3 * np.log10(high / low) <= room else (1,))
        ticks = super().tick_values(low, high)
        seen = np.count_nonzero((low <= ticks) & (ticks <= high))
        if seen < 3 and high < 10 * low:
            return MaxNLocator(5, steps=(1, 2, 5, 10)).tick_values(low, high)
        return ticks


def image_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str] = (),
    *,
    columns: int = 8,
    row_titles: Sequence[str] = (),
    size: float = 0.85,
    title: str | None = None,
) -> np.ndarray:
    """Draws pictures in rows.

    Args:
        images: Arrays of shape (height, width) or (height, width, 1 or 3); sizes may differ. Black to white
            is 0 to 255 for whole numbers and 0 to 1 for floats.
        titles: A short text above each picture.
        columns: Pictures in a row.
        row_titles: A text left of each row.
        size: Inches of a picture.
        title: Question that the whole figure answers.

    Returns:
        Axes of shape (rows, columns).
    """
    columns = min(columns, max(len(images), 1))
    rows = -(-len(images) // columns) or 1
    lines = max((str(text).count("\n") + 1 for text in titles), default=0)
    extra, longest = 0.16 * lines, max(8, int(18 * size))
    width, height = columns * size, rows * (size + extra) + 0.3
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
    for ax, image in zip(axes.flat, images, strict=False):
        _draw_picture(ax, np.asarray(image))
    for ax, text in zip(axes.flat, titles, strict=False):
        ax.set_title(_text(text, longest), fontsize="x-small", loc="center", pad=2)
    for ax, text in zip(axes[:, 0], row_titles, strict=False):
        ax.set_ylabel(_text(text), rotation=0, ha="right", va="center", fontsize="small")
    beside = max(ax.yaxis.label.get_window_extent().width for ax in axes[:, 0]) / figure.dpi
    figure.set_size_inches(width + beside + 0.1 * (beside > 0), height)
    if title:
        figure.suptitle(_text(title, len(title)), x=0.01, ha="left", fontsize="medium")
    return axes


def learning_curves(
    history: "pandas.DataFrame",  # noqa: F821
    *,
    metric: str = "accuracy",
    by: str | None = None,
    training: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draws a metric over the epochs: training solid, validation dashed, seeds as a band.

    Args:
        history: Columns `epoch`, the metric, `val_` + the metric, and, where they apply, `seed` and `by`.
        metric: Column to draw.
        by: Column that names the variant of each row; each gets a colour.
        training: Whether to draw the training curve, too.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax)
    variants = {None: history} if by is None else dict(list(history.groupby(by, sort=False)))
    curves = [(metric, "training", "-")] * training + [(f"val_{metric}", "validation", "--")]
    curves = [curve for curve in curves if curve[0] in history]
    unseen = "validation " * ([role for _, role, _ in curves] == ["validation"])
    for index, (variant, rows) in enumerate(variants.items()):
        for column, role, line in curves:
            over_seeds = rows.groupby("epoch")[column].agg(["mean", "min", "max"])
            names = [] if variant is None else [_text(variant)]
            names += [role] if variant is None or len(curves) > 1 else []
            colour = COLOURS[index % len(COLOURS)]
            style = line if len(over_seeds) > 1 else "o"  # a line through one epoch would be invisible
            ax.plot(over_seeds.index, over_seeds["mean"], style, color=colour, label=", ".join(names))
            if "seed" in rows and rows["seed"].nunique() > 1:
                ax.fill_between(over_seeds.index, over_seeds["min"], over_seeds["max"], color=colour, alpha=0.18, lw=0)
    ax.set(xlabel="epoch", ylabel=unseen + metric.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(ax)
    return ax


def bands(
    runs: "pandas.DataFrame",  # noqa: F821
    *,
    x: str,
    y: str,
    by: str,
    log: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Draws the mean of several seeds over a setting, one line a variant, with a band from lowest to highest.

    Args:
        runs: One row a run.
        x: Column with the setting, such as the learning rate.
        y: Column with the result.
        by: Column that names the variant.
        log: Whether the setting is on a logarithmic axis.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax)
    for index, (variant, rows) in enumerate(runs.groupby(by, sort=False)):
        over_seeds = rows.groupby(x)[y].agg(["mean", "min", "max"])
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(over_seeds.index, over_seeds["mean"], "o-", color=colour, ms=4, label=_text(variant))
        ax.fill_between(over_seeds.index, over_seeds["min"], over_seeds["max"], color=colour, alpha=0.18, lw=0)
    ax.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    if log:
        log_axis(ax.xaxis)
    _legend(ax)
    return ax


def panels(
    runs: "pandas.DataFrame",  # noqa: F821
    *,
    x: str,
    y: str,
    by: str,
    order: Sequence[str],
    title: str | None = None,
) -> np.ndarray:
    """Draws each variant in a panel of its own, with the band of its seeds, before the means of all in grey.

    For more variants than eyes can tell apart by colour.

    Args:
        runs: One row a run and value of `x`.
        x: Column with the horizontal value, such as the epoch.
        y: Column with the result.
        by: Column that names the variant.
        order: Variants in the order of the panels.
        title: Question that the whole figure answers.

    Returns:
        Axes of shape (rows, at most 3).
    """
    axes = _grid(len(order), (2.4, 1.7), title)
    over_seeds = {name: runs[runs[by] == name].groupby(x)[y].agg(["mean", "min", "max"]) for name in order}
    for ax, name in zip(axes.flat, order, strict=False):
        for other in over_seeds.values():
            ax.plot(other.index, other["mean"], color=BASELINE, lw=0.6, alpha=0.6)
        own = over_seeds[name]
        ax.plot(own.index, own["mean"], "o-", color=COLOURS[0], ms=3)
        ax.fill_between(own.index, own["min"], own["max"], color=COLOURS[0], alpha=0.25, lw=0)
        ax.set_title(_text(name))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for ax in axes[-1]:
        ax.set_xlabel(x.replace("_", " "))
    for ax in axes[:, 0]:
        ax.set_ylabel(y.replace("val_", "validation ").replace("_", " "))
    return axes


def intervals(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    *,
    baseline: float | None = None,
    label: str = "accuracy",
    most: int = _MOST_CLASSES,
    ax: Axes | None = None,
) -> Axes:
    """Draws one value a row with its interval, top to bottom: a ladder of models, recall by class.

    Args:
        names: Name of each row.
        values: Where its dot is.
        low: Lower end of its interval.
        high: Upper end of its interval.
        baseline: Draws a grey line at this value.
        label: Label of the horizontal axis, with its unit.
        most: Of more rows than these those with the lowest values are drawn.
        ax: Where to draw; a new figure if not given.
    """
    if len(names) > most:
        lowest = np.sort(np.argsort(values, kind="stable")[:most])
        label += f" (the lowest {most} of {len(names):,})"
        names = [names[row] for row in lowest]
        values, low, high = (part if part is None else np.asarray(part)[lowest] for part in (values, low, high))
    ax = _axes(ax, height=max(1.6, 0.75 + 0.27 * len(names)))
    rows = np.arange(len(names))
    if low is not None and high is not None:
        ax.hlines(rows, low, high, color=COLOURS[0], lw=2.5, alpha=0.45)
    ax.plot(values, rows, "o", color=COLOURS[0], ms=5)
    if baseline is not None:
        ax.axvline(baseline, color=BASELINE, lw=1.2)
    _name_rows(ax, names, label)
    return ax


def dots(
    runs: "pandas.DataFrame",  # noqa: F821
    *,
    value: str,
    by: str,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws every run as a dot in the row of its variant, with a bar at the mean.

    Args:
        runs: One row a run.
        value: Column with the result.
        by: Column that names the variant.
        label: Label of the horizontal axis, with its unit; the name of the column if not given.
        ax: Where to draw; a new figure if not given.
    """
    variants = dict(list(runs.groupby(by, sort=False)[value]))
    ax = _axes(ax, height=max(1.6, 0.75 + 0.35 * len(variants)))
    for row, results in enumerate(variants.values()):
        ax.plot(results, np.full(len(results), row), "o", color=COLOURS[0], ms=5, alpha=0.7, mew=0)
        ax.vlines(results.mean(), row - 0.3, row + 0.3, color=COLOURS[0], lw=2)
    _name_rows(ax, variants, label or value.replace("_", " "))
    return ax


def frontier(
    rows: "pandas.DataFrame",  # noqa: F821
    *,
    x: str,
    y: str,
    fits: Sequence[str] | None = None,
    chosen: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws what each variant costs and what it is worth, and joins those that no other beats in both.

    Where names would cover each other, some of those that are not on the frontier are left out.

    Args:
        rows: One row a variant, named by the index.
        x: Column with the cost, above 0, less is better: bytes, milliseconds.
        y: Column with the worth, more is better: accuracy.
        fits: Names within a budget; the others are grey. All of them if not given.
        chosen: Name to mark with a ring.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax, 8, 4.5)
    inside = rows.index.isin(rows.index if fits is None else fits)
    best = rows.sort_values([x, y], ascending=[True, False])
    best = best[best[y] > best[y].cummax().shift(fill_value=-np.inf)]
    ax.step(best[x], best[y], where="post", color=COLOURS[0], lw=1.2, zorder=1)
    ax.scatter(rows[x], rows[y], c=np.where(inside, COLOURS[0], BASELINE), s=28, zorder=2)
    if chosen is not None:
        ax.plot(rows.loc[chosen, x], rows.loc[chosen, y], "o", ms=13, mfc="none", mec=COLOURS[5], mew=2, zorder=3)
    ax.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
    log_axis(ax.xaxis)
    ax.margins(x=0.12, y=0.15)
    first = [chosen] * (chosen is not None) + best.index.tolist()
    corners = np.repeat(best[[x, y]].to_numpy(), 2, axis=0)
    _label(ax, rows.loc[list(dict.fromkeys(first + rows.index.tolist())), [x, y]], chosen,
           around=np.column_stack([corners[1:, 0], corners[:-1, 1]]))  # fmt: skip
    return ax


def _label(ax: Axes, points: "pandas.DataFrame", ringed: str | None, around: np.ndarray) -> None:  # noqa: F821
    """Writes their names beside points, the first ones first; one that would cover a point or a name is left out.

    A name stands beside the line through the corners `around`, and on it only where there is no other place.
    """
    ax.figure.draw_without_rendering()  # the layout moves the axes: measured is where they will be
    radii = [8 if name == ringed else 4 for name in points.index]  # in points of 1/72 inch
    taken = [Bbox.from_bounds(x, y, 0, 0).padded(radius * ax.figure.dpi / 72)
             for (x, y), radius in zip(ax.transData.transform(points.to_numpy()), radii, strict=True)]  # fmt: skip
    line = [Bbox(ends).padded(1) for ends in itertools.pairwise(ax.transData.transform(around))]
    edge = ax.get_window_extent()
    for (name, x, y), radius in zip(points.itertuples(), radii, strict=True):
        above, below, right = radius + 5, -radius - 11, radius + 3
        corners = [(right, 5, "left"), (-right, 5, "right"), (right, -11, "left"), (-right, -11, "right")]
        sides = [(0, above, "center"), (0, below, "center"), (right + 1, -3, "left"), (-right - 1, -3, "right")]
        for covered, (across, up, side) in itertools.product((taken + line, taken), sides + corners):
            text = ax.annotate(_text(name), (x, y), xytext=(across, up), textcoords="offset points",
                               fontsize="x-small", ha=side, path_effects=_HALO)  # fmt: skip
            box = text.get_window_extent().padded(1)
            if edge.x0 <= box.x0 and box.x1 <= edge.x1 and not any(box.overlaps(other) for other in covered):
                taken.append(box)
                break
            text.remove()


def latencies(
    table: "pandas.DataFrame",  # noqa: F821
    *,
    by: str,
    ax: Axes | None = None,
) -> Axes:
    """Draws how long answers take over the number of clients: the median solid, the 99th percentile dashed.

    Args:
        table: One row a server and number of clients: `clients`, `p50_ms`, `p99_ms`.
        by: Column that names the server.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax)
    for index, (server, rows) in enumerate(table.groupby(by, sort=False)):
        colour = COLOURS[index % len(COLOURS)]
        ax.plot(rows["clients"], rows["p50_ms"], "o-", color=colour, ms=4, label=f"{_text(server)}: median")
        ax.plot(rows["clients"], rows["p99_ms"], "o--", color=colour, ms=4, mfc="white", label="99th percentile")
    clients = sorted(set(table["clients"]))
    ax.set(xlabel="clients at a time", ylabel="ms until the answer")
    log_axis(ax.xaxis)
    log_axis(ax.yaxis)
    ax.set_xticks(clients, [str(count) for count in clients])
    _legend(ax)
    return ax


def timeline(
    requests: "pandas.DataFrame",  # noqa: F821
    *,
    by: str,
    events: dict[str, float] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draws every request of a load test as a dot: when it was sent, and how long its answer took.

    Args:
        requests: As `loadtest.run` gives them: `start` in seconds, `ms`.
        by: Column that decides the colour, such as the version that answered.
        events: What happened, and at which second: a line each.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax)
    for index, (name, rows) in enumerate(requests.groupby(by)):
        size = 2.5 if len(rows) > 100 else 6  # a few among thousands are to be seen
        ax.plot(rows["start"], rows["ms"], ".", color=COLOURS[index % len(COLOURS)], ms=size, alpha=0.6, mew=0,
                label=_text(name))  # fmt: skip
    for name, second in (events or {}).items():
        ax.axvline(second, color=BASELINE, lw=1.2)
        ax.annotate(
            f" {_text(name)}", (second, 0.02), xycoords=("data", "axes fraction"), va="bottom", fontsize="small"
        )
    log_axis(ax.yaxis)
    ax.set(xlabel="seconds", ylabel="ms until the answer", ylim=(requests["ms"].min() / 2, None))
    legend = ax.legend(title=by.replace("_", " "), loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)
    for handle in legend.legend_handles:
        handle.set(markersize=8, alpha=1)
    return ax


def answer(image: np.ndarray, names: Sequence[str], probabilities: Sequence[float]) -> Axes:
    """Draws a picture beside the five likeliest classes that a model sees in it.

    Args:
        image: Shape (height, width) or (height, width, 1 or 3).
        names: Of the classes.
        probabilities: Of each, from 0 to 1.

    Returns:
        The Axes of the bars.
    """
    _, (left, right) = plt.subplots(1, 2, figsize=(6, 2.2), width_ratios=(1, 1.6), layout="constrained")
    _draw_picture(left, np.asarray(image))
    left.set_axis_off()
    best = np.argsort(probabilities)[::-1][:5]
    shown = np.round([probabilities[index] for index in best], 3)
    bars = right.barh(np.arange(len(best)), shown, color=COLOURS[0], height=0.65)
    right.bar_label(bars, fmt=_number, padding=3, fontsize="small")
    _name_rows(right, [names[index] for index in best], "probability")
    right.set_xlim(0, 1.18)
    right.xaxis.set_major_locator(MaxNLocator(nbins=5))
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    return right


def class_balance(counts: dict[str, np.ndarray], classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draws how many pictures of each class each split holds: by its name, shape (classes,).

    Of more than 40 classes the 20 largest and the 20 smallest are drawn, from the largest to the smallest.
    """
    label, half = "pictures", _MOST_CLASSES // 2
    if len(classes) > _MOST_CLASSES:
        label = f"pictures (of {len(classes):,} classes the {half} largest and the {half} smallest)"
        order = np.argsort(-np.sum(list(counts.values()), axis=0), kind="stable")
        extreme = np.concatenate([order[:half], order[-half:]])
        classes = [classes[row] for row in extreme]
        counts = {name: np.asarray(count)[extreme] for name, count in counts.items()}
    ax = _axes(ax, height=max(1.6, 0.9 + 0.25 * len(classes)))
    rows, left = np.arange(len(classes)), np.zeros(len(classes))
    for index, (name, count) in enumerate(counts.items()):
        ax.barh(rows, count, left=left, height=0.7, label=name, color=COLOURS[index % len(COLOURS)])
        left = left + count
    _name_rows(ax, classes, label)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    _legend(ax)
    return ax


def descent(
    value: Callable[[np.ndarray], np.ndarray],
    paths: dict[str, np.ndarray],
    *,
    minimum: np.ndarray,
    across: tuple[float, float],
    up: tuple[float, float],
    size: tuple[float, float] = (2.2, 1.7),
    title: str | None = None,
) -> np.ndarray:
    """Draws ways down a surface of two weights over its contours, each in a panel of its own.

    Args:
        value: The surface: points of shape (..., 2) to heights of shape (...).
        paths: Way of each name, shape (steps + 1, 2); not a number where it has left.
        minimum: Where the surface is lowest, shape (2,).
        across: First and last value of the first weight.
        up: The same for the second.
        size: Inches of a panel.
        title: Question that the whole figure answers.

    Returns:
        Axes of shape (rows, at most 3).
    """
    axes = _grid(len(paths), size, title)
    grid = np.stack(np.meshgrid(np.linspace(*across, 160), np.linspace(*up, 120)), axis=-1)
    height = np.log10(value(grid) - value(np.asarray(minimum)) + 1e-3)
    for ax, (name, path) in zip(axes.flat, paths.items(), strict=False):
        ax.contour(*np.moveaxis(grid, -1, 0), height, levels=10, cmap="Greys", linewidths=0.6)
        ax.plot(*path.T, ".-", color=COLOURS[0], ms=2.5, lw=0.9)
        ax.plot(*minimum, "*", color=COLOURS[1], ms=8)
        ax.set(xlim=across, ylim=up, title=_text(name))
        ax.grid(False)
    plt.setp(axes[-1], xlabel="x")
    plt.setp(axes[:, 0], ylabel="y")
    return axes


def confusion_matrix(matrix: np.ndarray, classes: Sequence[str], *, ax: Axes | None = None) -> Axes:
    """Draws a confusion matrix: truth in rows, prediction in columns, mistakes coloured by their share of the row.

    Up to 20 classes the counts are written in the cells, zeros left out. The right answers on the diagonal have no
    colour: beside them every mistake would be pale. Of more than 40 classes those are drawn that have most mistakes.
    """
    matrix, predicted = np.asarray(matrix), "predicted"
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    if len(matrix) > _MOST_CLASSES:
        wrong = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
        rows = np.sort(np.argsort(-wrong, kind="stable")[:_MOST_CLASSES])
        predicted = f"predicted ({_MOST_CLASSES} of {len(matrix)} classes: those with most mistakes)"
        matrix, share = matrix[np.ix_(rows, rows)], share[np.ix_(rows, rows)]
        classes = [classes[row] for row in rows]
    side = max(3.2, 0.42 * len(classes) + 1.3)
    ax = _axes(ax, width=side + 0.6, height=side)
    np.fill_diagonal(share, 0)
    drawn = ax.imshow(share, cmap="Blues", vmin=0, vmax=share.max() or 1)
    if len(classes) <= 20:
        for row, column in np.argwhere(matrix):
            colour = "white" if share[row, column] > 0.5 * share.max() else "black"
            ax.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=colour, fontsize="x-small")
    ticks = np.arange(len(classes))
    ax.set_xticks(ticks, [_text(name) for name in classes], rotation=90)
    ax.set_yticks(ticks, [_text(name) for name in classes])
    ax.set(xlabel=predicted, ylabel="true")
    ax.grid(False)
    ax.figure.colorbar(drawn, ax=ax, label="share of the true class, mistakes alone", shrink=0.7)
    return ax


def reliability(
    curves: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], *, ax: Axes | None = None
) -> Axes:  # fmt: skip
    """Draws accuracy over confidence with the diagonal of perfect calibration in grey.

    Bins of fewer than 20 pictures are left out: their accuracy says little.

    Args:
        curves: By name, each a tuple of confidence, accuracy and count of its bins, as
            `evaluation.reliability_curve` returns it. The area of a dot grows with its share of the curve's pictures.
        ax: Where to draw; a new figure if not given.
    """
    ax = _axes(ax, width=5.6, height=3.8)
    ax.plot([0, 1], [0, 1], color=BASELINE, lw=1, label="perfectly calibrated")
    for (name, curve), colour in zip(curves.items(), itertools.cycle(COLOURS)):
        x, y, pictures = (np.asarray(part) for part in curve)
        kept = pictures >= 20
        ax.plot(x[kept], y[kept], color=colour, lw=1.2, label=_text(name))
        ax.scatter(x[kept], y[kept], s=12 + 300 * pictures[kept] / max(pictures.sum(), 1), color=colour, alpha=0.7)
    ax.set(xlabel="confidence (bins of 20 pictures or more)", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
    _legend(ax)
    return ax


def _draw_picture(ax: Axes, image: np.ndarray) -> None:
    white = 255 if image.dtype.kind in "iu" else 1
    if image.ndim == 3 and image.shape[-1] == 3:
        ax.imshow(np.clip(image.astype(float) / white, 0, 1))
    else:
        ax.imshow(image.reshape(image.shape[:2]), vmin=0, vmax=white)


def _axes(ax: Axes | None, width: float = 6, height: float = 3.5) -> Axes:
    return plt.subplots(figsize=(width, height))[1] if ax is None else ax


def _grid(count: int, size: tuple[float, float], title: str | None) -> np.ndarray:
    """Returns axes, 3 in a row, that share their scales; what is left over at the end is hidden."""
    columns = min(3, count)
    rows = -(-count // columns)
    figsize = (columns * size[0], rows * size[1] + 0.3 * bool(title))
    figure, axes = plt.subplots(rows, columns, figsize=figsize, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    if title:
        figure.suptitle(_text(title, len(title)), x=0.01, ha="left", fontsize="medium")
    return axes


def _name_rows(ax: Axes, names: Collection[str], label: str) -> None:
    """Writes the name of each row, from top to bottom, and a label below them."""
    ax.set_yticks(range(len(names)), [_text(name) for name in names])
    ax.set(xlabel=label, ylim=(len(names) - 0.5, -0.5))
    ax.grid(axis="y", visible=False)


def _legend(ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        ax.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)


def _text(name: object, longest: int = _LONGEST_NAME) -> str:
    """Returns a name that is safe to draw: dollars are no formula, control characters are seen, long lines are cut."""
    lines = str(name).split("\n")
    shown = ["".join(sign if sign.isprintable() else "�" for sign in line) for line in lines]
    shown = [line if len(line) <= longest else line[: longest - 1] + "…" for line in shown]
    return "\n".join(shown).replace("$", r"\$")


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or float(value).is_integer() else f"{value:.3g}"
