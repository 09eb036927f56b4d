"""A claim is a sentence, a figure and a bound; the line printed is the same on every machine."""

import json

import numpy as np
import pytest

from helpers import artifacts, claims


@pytest.fixture(autouse=True)
def folder():
    return artifacts.begin("09_claims", {})


@pytest.mark.parametrize(
    ("measured", "bound", "held"),
    [
        (0.925, {"at_least": 0.925}, True),
        (0.9249, {"at_least": 0.925}, False),
        (2.0, {"at_most": 2.0}, True),
        (2.1, {"at_most": 2.0}, False),
        (1.0, {"within": (1.0, 2.0)}, True),
        (2.5, {"within": (1.0, 2.0)}, False),
        (float("nan"), {"at_most": 1.0}, False),
        (float("inf"), {"at_least": 1.0}, False),
        (True, {}, True),
        (np.bool_(False), {}, False),
        (np.float32(3.0), {"at_least": 2}, True),
    ],
)
def test_the_bound_decides(measured, bound, held):
    claims.check("It holds", measured, **bound)
    assert claims.read()[0]["held"] is held


def test_what_is_not_judged_is_measured_all_the_same(capsys):
    claims.check("There are enough pictures", 12, at_least=50_000, judged=False)
    claims.check("The order is that of the paper", False, judged=False)
    claims.check("It counts", 12, at_least=2)
    assert capsys.readouterr().out.splitlines() == [
        "(measured, not judged in this run) There are enough pictures",
        "(measured, not judged in this run) The order is that of the paper",
        "✔ It counts",
    ]
    assert [(entry["measured"], entry["held"]) for entry in claims.read()] == [(12, None), (False, None), (12, True)]
    assert claims.table()[["measured", "expected", "held"]].to_numpy().tolist() == [
        ["12", "–", "–"], ["false", "–", "–"], ["12", "≥ 2", "✔"],
    ]  # fmt: skip


def test_the_printed_line_holds_no_figure(capsys):
    claims.check("Small enough", 0.123, at_most=1.0)
    claims.check("Large enough", 0.123, at_least=1.0)
    assert capsys.readouterr().out == "✔ Small enough\n✘ Large enough\n"


def test_the_file_is_a_list_in_the_order_of_the_checks(folder):
    claims.check("First", 4, at_least=3.5, unit="times")
    claims.check("Second", 1.5, within=(1, 2))
    assert json.loads((folder / "claims.json").read_text()) == [
        {"claim": "First", "measured": 4.0, "unit": "times", "at_least": 3.5, "held": True},
        {"claim": "Second", "measured": 1.5, "unit": "", "within": [1.0, 2.0], "held": True},
    ]


def test_a_cell_run_again_replaces_its_line():
    claims.check("Once", 1, at_least=2)
    claims.check("Once", 3, at_least=2)
    assert [entry["measured"] for entry in claims.read()] == [3.0]


def test_the_table_shows_figure_bound_and_outcome():
    claims.check("Times smaller", 3.91234, at_least=3.5, unit="times")
    claims.check("Equal", True)
    table = claims.table()
    assert table.values.tolist() == [
        ["Times smaller", "3.912", "times", "≥ 3.5", "✔"],
        ["Equal", "true", "", "true", "✔"],
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[{}]", "[3]", '[{"claim": 1, "measured": 1, "unit": "", "held": true}]',
     '[{"claim": "It", "measured": 1, "unit": "", "held": true, "at_least": null}]',
     '[{"claim": "It", "measured": 1, "unit": "", "held": true, "within": [1]}]'],
)  # fmt: skip
def test_a_damaged_file_holds_no_claims(folder, text):
    (folder / "claims.json").write_text(text)
    assert claims.read() == []
    assert claims.table().empty
    claims.check("It holds", True)
    assert len(claims.read()) == 1


def test_no_claims_give_an_empty_list_and_table():
    assert claims.read() == []
    assert claims.table().empty


@pytest.mark.parametrize(("measured", "bounds", "says"), [
    (1.0, {}, "takes exactly one of"), (1.0, {"at_least": 1, "at_most": 2}, "takes exactly one of"),
    (True, {"at_least": 1}, "takes no bound"),
])  # fmt: skip
def test_a_number_takes_exactly_one_bound_and_a_truth_none(measured, bounds, says):
    with pytest.raises(ValueError, match=says):
        claims.check("Unclear", measured, **bounds)


def test_a_figure_that_is_not_finite_is_recorded_as_text():
    claims.check("Finite", float("nan"), at_most=1)
    assert claims.read()[0]["measured"] == "nan"
