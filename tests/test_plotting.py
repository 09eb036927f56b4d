"""Facts about the figures: what is drawn, and what a reader without eyes gets."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.path import Path

from helpers import plotting


@pytest.fixture(autouse=True)
def _style():
    with matplotlib.rc_context():
        plotting.use_style()
        yield
    plt.close("all")


@pytest.fixture
def published(monkeypatch):
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **options: outputs.append((bundle, options)))
    return outputs


def history(seeds=1):
    rows = [
        {"seed": seed, "epoch": epoch, "accuracy": 0.5 + epoch / 10 + seed / 100, "val_accuracy": 0.4 + epoch / 10}
        for seed in range(seeds)
        for epoch in (1, 2, 3)
    ]
    return pd.DataFrame(rows)


def test_show_publishes_one_png_with_alternative_text_and_closes(published):
    plotting.show(plt.subplots(2)[1], alt="Two empty axes.")
    [(bundle, options)] = published
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert bundle["text/plain"] == "Figure: Two empty axes."
    assert options["metadata"]["image/png"]["alt"] == "Two empty axes."
    assert plt.get_fignums() == []


def test_equal_figures_are_equal_bytes(published):
    for _ in range(2):
        plotting.show(plotting.intervals(["a"], [1.0]), alt="One dot.")
    assert published[0][0]["image/png"] == published[1][0]["image/png"]


def test_what_raises_while_drawing_leaves_no_figure_behind():
    kept = plt.figure()

    def draw():
        plt.subplots()
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        plotting.drawn(draw)
    assert plt.get_fignums() == [kept.number]
    assert plotting.drawn(lambda: plotting.intervals(["a"], [1.0])).startswith(b"\x89PNG")
    assert plt.get_fignums() == [kept.number]


def test_figure_without_alternative_text_is_refused():
    with pytest.raises(ValueError, match="needs its alternative text"):
        plotting.show(plt.figure(), alt=" ")


def test_training_is_solid_validation_dashed_in_one_colour():
    ax = plotting.learning_curves(history())
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() == plotting.COLOURS[0]
    assert [line.get_label() for line in ax.lines] == ["training", "validation"]
    assert not ax.collections, "one seed has no band"


def test_a_single_epoch_is_a_dot():
    ax = plotting.learning_curves(history().head(1))
    assert [(line.get_marker(), line.get_linestyle()) for line in ax.lines] == [("o", "None")] * 2


def test_seeds_are_a_band_from_lowest_to_highest_around_the_mean():
    ax = plotting.learning_curves(history(seeds=3))
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.61, 0.71, 0.81])
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (pytest.approx(0.6), pytest.approx(0.82))


def test_each_variant_has_its_colour():
    runs = pd.concat([history().assign(scaling=name) for name in ("raw", "z-score")])
    ax = plotting.learning_curves(runs, by="scaling", training=False)
    assert [line.get_label() for line in ax.lines] == ["raw", "z-score"]
    assert len({line.get_color() for line in ax.lines}) == 2


def test_where_validation_alone_is_drawn_the_axis_says_so():
    assert plotting.learning_curves(history()).get_ylabel() == "accuracy"
    assert plotting.learning_curves(history(), training=False).get_ylabel() == "validation accuracy"
    unseen = history().drop(columns="val_accuracy")
    assert plotting.learning_curves(unseen).get_ylabel() == "accuracy"


def test_bands_run_from_lowest_to_highest_over_a_setting():
    runs = pd.DataFrame({"rate": [1, 1, 10, 10], "score": [0.2, 0.4, 0.5, 0.9], "net": "a"})
    ax = plotting.bands(runs, x="rate", y="score", by="net", log=True)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0.3], [10, 0.7]])
    heights = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (0.2, 0.9)
    assert ax.get_xscale() == "log"


def test_grid_takes_grey_and_colour_of_any_size_and_leaves_the_rest_empty():
    images = [np.zeros((5, 4), np.uint8), np.zeros((28, 28, 1), np.uint8), np.zeros((9, 7, 3), np.uint8)]
    axes = plotting.image_grid(images, ["a", "b", "c"], columns=2, row_titles=["first", "second"])
    assert axes.shape == (2, 2)
    assert [len(ax.images) for ax in axes.flat] == [1, 1, 1, 0]
    assert axes[1, 0].get_ylabel() == "second"


def test_grid_scales_whole_numbers_to_255_and_floats_to_1():
    whole, fraction = np.full((2, 2), 100, np.uint8), np.full((2, 2), 0.5)
    assert plotting.image_grid([whole])[0, 0].images[0].get_clim() == (0, 255)
    assert plotting.image_grid([fraction])[0, 0].images[0].get_clim() == (0, 1)
    colour = plotting.image_grid([np.full((2, 2, 3), 255, np.uint8)])[0, 0].images[0].get_array()
    assert colour.max() == 1
    assert plotting.image_grid([whole > 0])[0, 0].images[0].get_clim() == (0, 1)  # a mask is black and white


CHINESE = {path for path in font_manager.findSystemFonts() if "wqy" in path.lower() or "cjk" in path.lower()}


@pytest.mark.skipif(not CHINESE, reason="no Chinese font here")
def test_chinese_names_are_drawn_with_a_font_that_matplotlibs_list_does_not_have_yet(recwarn, monkeypatch):
    listed = [font for font in font_manager.fontManager.ttflist if font.fname not in CHINESE]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    plotting.use_style()
    axes = plotting.image_grid(np.zeros((1, 4, 4, 1), np.uint8), ["鞋子"])
    plotting.png(axes)
    assert [str(one.message) for one in recwarn if "missing from font" in str(one.message)] == []


def test_grid_of_nothing_is_an_empty_figure(published):
    plotting.show(plotting.image_grid([]), alt="No picture.")
    none = plotting.image_grid(np.zeros((0, 4, 4)), [], row_titles=np.array(["a", "b"]), title="Which are wrong?")
    plotting.show(none, alt="No picture.")
    assert len(published) == 2


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("letter", ["i", "m", "W"])
def test_row_titles_of_any_length_have_their_room_beside_the_pictures(letter, columns, recwarn):
    names = ["b", letter * 40]
    axes = plotting.image_grid(np.zeros((2 * columns, 4, 4)), columns=columns, row_titles=names, size=0.5)
    figure = axes[0, 0].figure
    figure.draw_without_rendering()
    assert [str(one.message) for one in recwarn] == []
    places = [ax.get_window_extent() for ax in axes[1]]
    assert axes[1, 0].yaxis.label.get_window_extent().x1 < places[0].x0
    assert all(0.4 < place.width / figure.dpi < 0.6 for place in places)
    assert all(right.x0 - left.x1 < 0.2 * figure.dpi for left, right in zip(places, places[1:], strict=False))


@pytest.mark.parametrize("name", ["$", "a\nb", "x\0y", "$x_{", "n" * 500])
def test_any_class_name_can_be_drawn(name, published):
    plotting.show(plotting.confusion_matrix(np.eye(2, dtype=int), [name, "b"]), alt="A matrix.")
    plotting.show(plotting.image_grid([np.zeros((2, 2))], [name]), alt="A picture.")
    assert len(published) == 2


def test_confusion_matrix_colours_the_mistakes_alone():
    drawn = plotting.confusion_matrix(np.array([[90, 10], [0, 0]]), ["a", "b"]).images[0]
    assert drawn.get_array().tolist() == [[0, 0.1], [0, 0]]
    assert drawn.get_clim() == (0, 0.1)


def test_confusion_matrix_has_truth_in_rows_and_predictions_in_columns():
    ax = plotting.confusion_matrix(np.array([[5, 2], [0, 7]]), ["a", "b"])
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {(0, 0): "5", (1, 0): "2", (1, 1): "7"}  # across, down
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "true")


def test_confusion_matrix_writes_counts_for_few_classes_only():
    assert len(plotting.confusion_matrix(np.eye(3, dtype=int), list("abc")).texts) == 3
    assert len(plotting.confusion_matrix(np.eye(30, dtype=int), [str(i) for i in range(30)]).texts) == 0


def test_of_many_classes_the_confused_ones_are_drawn():
    matrix = np.diag(np.full(300, 5))
    matrix[7, 250] = matrix[250, 7] = 3
    matrix[7, 100:150] = 1  # classes that are not drawn count for the share all the same
    ax = plotting.confusion_matrix(matrix, [f"class {i}" for i in range(300)])
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert len(shown) == 40
    assert {"class 7", "class 250"} <= set(shown)
    assert ax.images[0].get_array()[shown.index("class 250"), shown.index("class 7")] == 3 / 8
    assert ax.images[0].get_array()[shown.index("class 7"), shown.index("class 250")] == 3 / 58
    assert "40 of 300 classes" in ax.get_xlabel()
    assert max(ax.figure.get_size_inches()) < 20


def test_titles_of_pictures_fit_above_them_and_dollars_are_no_formula():
    titles = ["golden retriever\nnot Irish wolfhound"] * 2
    axes = plotting.image_grid(np.zeros((2, 4, 4), np.uint8), titles, title="cheap_$, taken for dear_$: 2 pictures")
    figure = axes[0, 0].figure
    figure.canvas.draw()
    for ax in axes.flat:
        assert ax.title.get_window_extent().width <= figure.get_size_inches()[0] / 2 * figure.dpi
    assert [line[-1] for line in axes[0, 0].get_title().split("\n")] == ["…", "…"]
    assert figure.get_suptitle() == r"cheap_\$, taken for dear_\$: 2 pictures"


def test_intervals_run_from_top_to_bottom_with_the_baseline_in_grey():
    ax = plotting.intervals(["a", "b"], [0.5, 0.9], [0.4, 0.8], [0.6, 1.0], baseline=0.1)
    assert ax.get_ylim() == (1.5, -0.5)
    assert ax.lines[-1].get_color() == plotting.BASELINE
    assert [segment[:, 0].tolist() for segment in ax.collections[0].get_segments()] == [[0.4, 0.6], [0.8, 1.0]]


def test_of_many_intervals_the_lowest_are_drawn_and_the_label_says_so():
    values = np.random.default_rng(0).permutation(1000) / 1000
    names = [f"class {i}" for i in range(1000)]
    ax = plotting.intervals(names, list(values), list(values - 0.1), values + 0.1, label="recall")
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert shown == [names[row] for row in np.flatnonzero(values < 0.04)]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), values[values < 0.04])
    ends = np.array([segment[:, 0] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(ends.mean(axis=1), values[values < 0.04])
    assert ax.get_xlabel() == "recall (the lowest 40 of 1,000)"
    assert ax.figure.get_size_inches()[1] < 13
    for few, options in ((40, {}), (90, {"most": 90})):
        ax = plotting.intervals(names[:few], values[:few], label="recall", **options)
        assert (len(ax.lines[0].get_xdata()), ax.get_xlabel()) == (few, "recall")


def test_dots_show_every_run_and_the_mean():
    ax = plotting.dots(pd.DataFrame({"net": ["a", "a", "b"], "score": [1.0, 2.0, 4.0]}), value="score", by="net")
    assert [line.get_xdata().tolist() for line in ax.lines] == [[1, 2], [4]]
    assert [segments.get_segments()[0][0, 0] for segments in ax.collections] == [1.5, 4]


def test_an_answer_shows_the_likeliest_classes_first():
    ax = plotting.answer(np.zeros((4, 4), np.uint8), list("abcdef"), [0.1, 0.5, 0.05, 0.2504, 0.02, 0.0796])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b", "d", "a", "f", "c"]
    assert [bar.get_width() for bar in ax.patches] == [0.5, 0.25, 0.1, 0.08, 0.05]
    assert [text.get_text() for text in ax.texts] == ["0.5", "0.25", "0.1", "0.08", "0.05"]


def test_class_balance_stacks_the_splits():
    ax = plotting.class_balance({"train": np.array([6, 4]), "test": np.array([3, 2])}, ["a", "b"])
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(0, 6), (0, 4), (6, 3), (4, 2)]


def test_of_many_classes_the_largest_and_the_smallest_are_balanced():
    counts = np.random.default_rng(0).permutation(1000)
    ax = plotting.class_balance({"train": 2 * counts, "test": counts}, [f"class {i}" for i in range(1000)])
    shown = [int(label.get_text().split()[1]) for label in ax.get_yticklabels()]
    assert counts[shown].tolist() == [*range(999, 979, -1), *range(19, -1, -1)]
    assert [bar.get_width() for bar in ax.patches] == [*2 * counts[shown], *counts[shown]]
    assert [bar.get_x() for bar in ax.patches[40:]] == [*2 * counts[shown]]
    assert ax.get_xlabel() == "pictures (of 1,000 classes the 20 largest and the 20 smallest)"
    assert ax.figure.get_size_inches()[1] < 13
    few = plotting.class_balance({"train": counts[:40]}, [str(i) for i in range(40)])
    assert ([bar.get_width() for bar in few.patches], few.get_xlabel()) == (list(counts[:40]), "pictures")


def test_reliability_leaves_bins_of_few_answers_out():
    curve = np.array([0.1, 0.3, np.nan, 0.9]), np.array([0.0, 0.2, np.nan, 0.8]), np.array([19, 20, 0, 80])
    ax = plotting.reliability({"raw": curve})
    assert ax.lines[1].get_xdata().tolist() == [0.3, 0.9]
    assert ax.get_xlabel() == "confidence (bins of 20 pictures or more)"


def test_reliability_draws_several_curves_by_the_same_rule():
    raw = np.array([0.3, 0.6, 0.9]), np.array([0.2, 0.5, 0.8]), np.array([25, 5, 75])
    mended = np.array([0.4, 0.5, 0.8]), np.array([0.4, 0.6, 0.8]), np.array([20, 25, 75])
    ax = plotting.reliability({"raw": raw, "$T$": mended})
    assert [line.get_xdata().tolist() for line in ax.lines[1:]] == [[0.3, 0.9], [0.4, 0.5, 0.8]]
    assert [line.get_color() for line in ax.lines] == [plotting.BASELINE, *plotting.COLOURS[:2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["perfectly calibrated", "raw", r"\$T\$"]
    areas = np.concatenate([dots.get_sizes() for dots in ax.collections])
    np.testing.assert_allclose(areas, 12 + 300 * np.array([25 / 105, 75 / 105, 20 / 120, 25 / 120, 75 / 120]))


def test_descent_draws_each_way_in_a_panel_over_contours_of_the_surface():
    ways = {name: np.linspace([-4.0, 1.0], [0.0, 0.0], steps) for name, steps in zip("abcd", (3, 5, 9, 2), strict=True)}
    ways["b"][3:] = np.nan  # left for infinity
    axes = plotting.descent(lambda w: np.sum(w**2, axis=-1), ways, minimum=np.zeros(2), across=(-5, 1), up=(-2, 2))
    assert axes.shape == (2, 3)
    assert [ax.get_title(loc="left") for ax in axes.flat] == ["a", "b", "c", "d", "", ""]
    assert [ax.get_visible() for ax in axes[1]] == [True, False, False]
    np.testing.assert_array_equal(axes[0, 1].lines[0].get_xydata(), ways["b"])
    assert axes[0, 0].get_xlim() == (-5, 1)
    assert axes[0, 0].collections


def test_contours_are_about_the_height_above_the_lowest_place():
    levels = []
    for lowest in (0.0, -7.0):
        axes = plotting.descent(
            lambda w, lowest=lowest: np.sum(w**2, axis=-1) + lowest, {"a": np.zeros((1, 2))},
            minimum=np.zeros(2), across=(-1, 1), up=(-1, 1),
        )  # fmt: skip
        levels.append(axes[0, 0].collections[0].levels)
    np.testing.assert_allclose(*levels)


def test_of_equals_the_cheapest_alone_is_on_the_frontier():
    rows = pd.DataFrame({"kilobytes": [10.0, 20.0, 20.0], "accuracy": [0.9, 0.9, 0.8]}, index=["a", "b", "c"])
    assert plotting.frontier(rows, x="kilobytes", y="accuracy").lines[0].get_xydata().tolist() == [[10, 0.9]]


def test_each_variant_has_a_panel_with_its_band_before_all_means():
    runs = pd.concat([history(seeds=2).assign(rule=name) for name in ("lion", "adam")])
    runs.loc[runs["rule"] == "adam", "accuracy"] += 0.1
    axes = plotting.panels(runs, x="epoch", y="accuracy", by="rule", order=["adam", "lion"])
    assert [ax.get_title(loc="left") for ax in axes.flat] == ["adam", "lion"]
    assert [len(ax.lines) for ax in axes.flat] == [3, 3]
    np.testing.assert_allclose(axes[0, 0].lines[-1].get_ydata(), [0.705, 0.805, 0.905])
    band = axes[0, 1].collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 0.6
    assert band[:, 1].max() == 0.81


def models():
    return pd.DataFrame(
        {"kilobytes": [100.0, 50.0, 60.0, 10.0], "accuracy": [0.93, 0.92, 0.91, 0.90]},
        index=["big", "half", "bad", "tiny"],
    )


def test_frontier_joins_what_no_other_beats_in_both():
    ax = plotting.frontier(models(), x="kilobytes", y="accuracy")
    assert ax.lines[0].get_xdata().tolist() == [10, 50, 100]  # without `bad`: larger and worse than `half`
    assert ax.lines[0].get_ydata().tolist() == [0.90, 0.92, 0.93]
    assert sorted(text.get_text() for text in ax.texts) == ["bad", "big", "half", "tiny"]


def test_names_on_the_frontier_come_first_and_none_covers_another():
    crowd = pd.DataFrame({"kilobytes": np.full(30, 20.0), "accuracy": np.linspace(0.9, 0.9001, 30)})
    crowd.index = [f"a long name {number}" for number in range(30)]
    ax = plotting.frontier(pd.concat([crowd, models()]), x="kilobytes", y="accuracy", chosen="half")
    named = [text.get_text() for text in ax.texts]
    assert {"big", "half", "tiny", "a long name 29"} <= set(named)
    assert len(named) < 20
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    points = ax.transData.transform(ax.collections[0].get_offsets())
    assert not any(box.contains(x, y) for box in boxes for x, y in points)


def test_names_stand_beside_the_line_where_there_is_room():
    rows = models()
    rows.loc["under a step of the line"] = [99.0, 0.9215]
    ax = plotting.frontier(rows, x="kilobytes", y="accuracy")
    ax.figure.draw_without_rendering()
    x, y = ax.lines[0].get_xydata().repeat(2, axis=0).T
    line = Path(ax.transData.transform(np.column_stack([x[1:], y[:-1]])))
    covered = [text.get_text() for text in ax.texts if line.intersects_bbox(text.get_window_extent(), filled=False)]
    assert covered == []
    assert len(ax.texts) == len(rows)


@pytest.mark.parametrize("below", [0.001, 0.0022, 0.0026, 0.003])
def test_no_name_covers_the_ring_around_the_chosen(below):
    near, chosen = models(), "half"
    near.loc["g"] = [near.loc[chosen, "kilobytes"], near.loc[chosen, "accuracy"] - below]
    ax = plotting.frontier(near, x="kilobytes", y="accuracy", chosen=chosen)
    ax.figure.draw_without_rendering()
    ring = ax.lines[1]
    radius = (ring.get_markersize() + ring.get_markeredgewidth()) / 2 * ax.figure.dpi / 72
    x, y = ax.transData.transform(ring.get_xydata()[0])
    for text in ax.texts:
        box = text.get_window_extent()
        away = np.hypot(x - np.clip(x, box.x0, box.x1), y - np.clip(y, box.y0, box.y1))
        assert away >= radius, text.get_text()
    assert chosen in [text.get_text() for text in ax.texts]


def test_frontier_greys_what_is_outside_the_budget_and_rings_the_chosen():
    ax = plotting.frontier(models(), x="kilobytes", y="accuracy", fits=["tiny"], chosen="tiny")
    grey = matplotlib.colors.to_rgba(plotting.BASELINE)
    assert [tuple(colour) == grey for colour in ax.collections[0].get_facecolors()] == [True, True, True, False]
    assert ax.lines[1].get_xdata() == [10]


def measured():
    return pd.DataFrame(
        {"server": ["ours"] * 3 + ["theirs"] * 3, "clients": [1, 8, 64] * 2,
         "p50_ms": [1.0, 2.0, 9.0, 2.0, 5.0, 30.0], "p99_ms": [2.0, 6.0, 40.0, 4.0, 20.0, 300.0]}
    )  # fmt: skip


def test_latencies_are_the_median_solid_and_the_99th_percentile_dashed_in_one_colour_a_server():
    ax = plotting.latencies(measured(), by="server")
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"] * 2
    assert [line.get_color() for line in ax.lines] == [plotting.COLOURS[0]] * 2 + [plotting.COLOURS[1]] * 2
    assert [line.get_label() for line in ax.lines[::2]] == ["ours: median", "theirs: median"]
    np.testing.assert_array_equal(ax.lines[2].get_xydata(), [[1, 2], [8, 5], [64, 30]])
    np.testing.assert_array_equal(ax.lines[3].get_xydata(), [[1, 4], [8, 20], [64, 300]])


def labels(axis):
    """The texts at an axis that are to be seen."""
    axis.figure.draw_without_rendering()
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [tick.label1.get_text() for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_text()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 47), ["0.5", "1", "2", "5", "10", "20"]),
        ((4, 900), ["5", "10", "20", "50", "100", "200", "500"]),
        ((47, 0.5), ["0.5", "1", "2", "5", "10", "20"]),
        ((0.18, 0.9), ["0.2", "0.4", "0.6", "0.8"]),
        ((9.2, 13.4), ["10", "11", "12", "13"]),
        ((2e-5, 3e2), ["0.0001", "0.001", "0.01", "0.1", "1", "10", "100"]),
    ],
)
@pytest.mark.parametrize("which", ["xaxis", "yaxis"])
def test_a_logarithmic_axis_has_numbers_and_as_many_as_there_is_room_for(which, values, expected):
    ax = plt.subplots()[1]
    ax.plot(values, values, "o")
    plotting.log_axis(getattr(ax, which))
    ax.set(xlim=values, ylim=values)
    assert labels(getattr(ax, which)) == expected
    boxes = [text.get_window_extent() for text in getattr(ax, which).get_majorticklabels()]
    assert not any(one.overlaps(other) for one, other in zip(boxes, boxes[1:], strict=False))
    assert (ax.get_xscale(), ax.get_yscale()) == (("log", "linear") if which == "xaxis" else ("linear", "log"))


def test_every_logarithmic_axis_of_a_figure_has_such_numbers():
    load = measured().assign(p50_ms=[0.5, 1, 3, 2, 5, 9], p99_ms=[1, 2, 5, 8, 12, 47])
    assert labels(plotting.latencies(load, by="server").yaxis) == ["0.5", "1", "2", "5", "10", "20", "50"]
    sizes = models().assign(kilobytes=[4.0, 6.0, 17.0, 47.0])
    assert labels(plotting.frontier(sizes, x="kilobytes", y="accuracy").xaxis) == ["5", "10", "20", "50"]
    runs = pd.DataFrame({"rate": [0.003, 0.01, 0.1], "score": [0.2, 0.5, 0.9], "net": "a"})
    assert labels(plotting.bands(runs, x="rate", y="score", by="net", log=True).xaxis) == [
        "0.005", "0.01", "0.02", "0.05", "0.1"
    ]  # fmt: skip


def test_latencies_have_a_tick_for_each_number_of_clients_and_no_powers_of_ten():
    ax = plotting.latencies(measured().iloc[::-1], by="server")
    ax.figure.canvas.draw()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "8", "64"]
    assert "100" in [text.get_text() for text in ax.get_yticklabels()]
    assert ax.lines[0].get_label() == "theirs: median", "servers come in the order of the table"
    assert "ms" in ax.get_ylabel()


def test_more_servers_than_colours_begin_with_the_first_again():
    many = pd.concat([measured().head(1).assign(server=str(n)) for n in range(len(plotting.COLOURS) + 1)])
    ax = plotting.latencies(many, by="server")
    assert ax.lines[-1].get_color() == plotting.COLOURS[0]


def requests(count=3):
    return pd.DataFrame({"start": np.arange(count) / 10, "ms": np.linspace(2, 40, count), "model_version": [2] * count})


def test_timeline_has_a_dot_a_request_and_a_colour_a_version():
    both = pd.concat([requests(4), requests(2).assign(model_version=1)])
    ax = plotting.timeline(both, by="model_version")
    first, second = ax.lines
    np.testing.assert_allclose(first.get_xydata(), [[0, 2], [0.1, 40]])
    assert len(second.get_xdata()) == 4
    assert [line.get_label() for line in ax.lines] == ["1", "2"]
    assert [line.get_color() for line in ax.lines] == list(plotting.COLOURS[:2])
    assert {line.get_linestyle() for line in ax.lines} == {"None"}
    assert ax.get_legend().get_title().get_text() == "model version"


def test_timeline_shows_the_quickest_request_above_the_edge_on_a_logarithmic_axis():
    ax = plotting.timeline(requests(), by="model_version")
    ax.figure.canvas.draw()
    assert ax.get_yscale() == "log"
    assert ax.get_ylim()[0] == 1
    assert ax.get_ylim()[1] > 40
    assert {"2", "5", "10", "20"} <= {text.get_text() for text in ax.get_yticklabels()}


def test_few_requests_have_larger_dots_than_thousands_and_the_legend_has_equal_ones():
    ax = plotting.timeline(pd.concat([requests(101), requests(100).assign(model_version=3)]), by="model_version")
    assert ax.lines[0].get_markersize() < ax.lines[1].get_markersize()
    handles = ax.get_legend().legend_handles
    assert {(handle.get_markersize(), handle.get_alpha()) for handle in handles} == {(8, 1)}


@pytest.mark.parametrize("name", ["promoted", "$_{$", "a\nb"])
def test_an_event_is_a_grey_line_with_its_name_whatever_that_is(name, published):
    ax = plotting.timeline(requests(), by="model_version", events={name: 0.15})
    assert ax.lines[-1].get_xdata() == [0.15, 0.15]
    assert ax.lines[-1].get_color() == plotting.BASELINE
    assert [text.xy[0] for text in ax.texts] == [0.15]
    assert name.replace("$", "") in ax.texts[0].get_text().replace("\\$", "")
    plotting.show(ax, alt="A line.")
    assert published


def test_latencies_and_timelines_draw_where_they_are_told():
    _, (left, right) = plt.subplots(1, 2)
    assert plotting.latencies(measured(), by="server", ax=left) is left
    assert plotting.timeline(requests(), by="model_version", ax=right) is right
    assert len(plt.get_fignums()) == 1
