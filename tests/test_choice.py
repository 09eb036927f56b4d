"""Runs the two cells of notebook 05 that choose the file to deploy, on files whose answers are known."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers import inference

NOTEBOOK = Path(__file__).resolve().parents[1] / "notebooks" / "05_compression.ipynb"
PICTURES = 200
# Of each file: kilobytes, validation accuracy, and how often it gives the big model's answer.
FILES = {"big": (400, 0.93, 1.0), "int8": (100, 0.92, 0.98), "small": (20, 0.91, 0.9), "smallest": (10, 0.915, 0.7)}


def choose(files: dict[str, tuple[float, float, float]] = FILES, *, agreement: float = 0.9, budget: float = 0.0) -> str:
    """Returns what the notebook chooses; a twentieth of the big model's weights is 20 kilobytes."""
    answers = np.eye(10)[np.arange(PICTURES) % 10]
    table = pd.DataFrame(files, index=["bytes", "validation_accuracy", "alike"]).T
    table["bytes"] *= 1000
    seen = {}
    for name, alike in table["alike"].items():
        logits = answers.copy()
        other = round(alike * PICTURES)
        logits[other:] = np.roll(logits[other:], 1, axis=1)
        seen[name] = logits
    known = {"seen": seen, "measured": table, "validation": (answers, None), "big_bytes": 400_000,
             "AGREEMENT": agreement, "BUDGET_KB": budget, "inference": inference, "np": np, "pd": pd}  # fmt: skip
    cells = {cell.id: cell.source for cell in nbformat.read(NOTEBOOK, as_version=4).cells}
    for name in ("faithful", "speed"):
        exec(compile(cells[name], name, "exec"), known)
    return known["chosen"]


def test_the_most_accurate_file_of_those_that_fit_and_agree_is_chosen():
    assert choose() == "small"  # the smallest is more accurate and agrees too seldom
    assert choose(agreement=0.7) == "smallest"
    assert choose(budget=100) == "int8"
    assert choose(budget=1000) == "big"


def test_where_no_small_file_agrees_the_smallest_that_does_is_chosen():
    assert choose(agreement=0.95) == "int8"
    assert choose(agreement=1.0) == "big"


def test_a_budget_that_no_file_keeps_is_an_error_that_says_what_would_do():
    with pytest.raises(ValueError, match=r"No file of at most 19.* gives 90% .* the smallest that does has 20\.0 kB"):
        choose(budget=19)


def test_a_file_of_any_number_of_bytes_fits_where_nothing_smaller_agrees_and_within_the_size_that_is_named():
    for size in (8001, 20_001, 24_436, 32_254):  # not all of these are a thousand times their thousandth
        files = {"big": (400, 0.93, 1.0), "int8": (size / 1000, 0.92, 0.98)}
        assert choose(files, agreement=0.95) == "int8"
        with pytest.raises(ValueError, match="kB: raise") as refused:
            choose(files, budget=1.0)
        wanted = float(re.search(r"has ([\d.]+) kB", str(refused.value))[1])
        assert choose(files, budget=wanted) == "int8"


def test_of_equally_accurate_files_the_smallest_is_chosen():
    files = {"big": (400, 0.93, 1.0), "float16": (200, 0.93, 1.0), "int8": (100, 0.93, 1.0)}
    assert choose(files, budget=1000) == "int8"
