import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def same(nbval_plugin):
    def compare(left: str, right: str, tolerance: float = 0.05) -> bool:
        equal = nbval_plugin.Tolerant(left, tolerance) == nbval_plugin.Tolerant(right, tolerance)
        assert equal != (nbval_plugin.Tolerant(left, tolerance) != nbval_plugin.Tolerant(right, tolerance))
        return equal

    return compare


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("accuracy 0.91", "accuracy 0.93"),
        ("accuracy .91", "accuracy 0.93"),
        ("1,000 pictures", "1,040 pictures"),
        ("-1e-3", "0.001"),
        ("loss −0.30", "loss -0.31"),
        ("a  0.9\nb 10.0", "a 0.91\nb  9.9"),  # columns widen with their numbers
        ("[0.788 0.8  ]", "[0.78  0.812]"),  # NumPy fills up the short ones
        ("(0.5, 0.6)", "(0.52, 0.58)"),
        ("90.1%", "91.2%"),
        ("same text, no number", "same text, no number"),
        ("Intel Xeon E5-2686 at 2.3e0 GHz", "Intel Xeon E5-2686 at 2.31 GHz"),
    ],
)
def test_small_differences_of_numbers_pass(same, left, right):
    assert same(left, right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("accuracy 0.91", "accuracy 0.85"),
        ("1,000 pictures", "1,100 pictures"),
        ("accuracy 0.91", "recall 0.91"),
        ("0.1 0.2", "0.1"),
        ("conv_2 0.1", "conv_3 0.1"),
        ("28x28", "28x29"),
        ("0.5", "-0.5"),
        ("0.5", "nan"),
        ("✔ holds", "✘ holds"),
        ("a\nb", "a b"),
    ],
)
def test_real_differences_fail(same, left, right):
    assert not same(left, right)


def test_tolerance_is_relative_and_absolute(same):
    assert same("0.000", "0.009", 0.01)
    assert same("1000", "1009", 0.01)
    assert not same("1000", "1011", 0.01)


def test_tag_gives_the_tolerance(nbval_plugin):
    assert nbval_plugin.tolerance({"tags": ["other", "nbval-tolerance-0.05"]}) == 0.05
    assert nbval_plugin.tolerance({"tags": ["nbval-tolerance-1e-3"]}) == 1e-3
    assert nbval_plugin.tolerance({"tags": ["nbval-tolerance-much"]}) is None
    assert nbval_plugin.tolerance({}) is None
    assert nbval_plugin.tolerance({"tags": None}) is None


@pytest.mark.slow
def test_nbval_compares_text_exactly_numbers_by_tag_and_stderr_never(make, tmp_path):
    cells = [
        make.code("import sys; print('noise', file=sys.stderr)", "noise"),  # 0: stderr alone, none stored
        make.code("print('accuracy', 0.91)", "exact"),  # 1: stored as 0.90
        make.code("print('accuracy', 0.91)", "near", "nbval-tolerance-0.05"),  # 2: stored as 0.90
        make.code("print('accuracy', 0.91)", "far", "nbval-tolerance-0.05"),  # 3: stored as 0.80
        make.code("print('other', 0.91)", "text", "nbval-tolerance-0.05"),  # 4: stored as accuracy
        make.code("{'a': 0.91}", "result", "nbval-tolerance-0.05"),  # 5: stored as 0.90
        make.code("1 + 1;", "hidden"),  # 6: nothing stored
    ]
    stored = [None, "accuracy 0.90\n", "accuracy 0.90\n", "accuracy 0.80\n", "accuracy 0.91\n", None, None]
    for count, (cell, text) in enumerate(zip(cells, stored, strict=True), 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text)] if text else []
    cells[5].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "{'a': 0.90}"}, execution_count=6)]
    nbformat.write(make.notebook(*cells), tmp_path / "01_data.ipynb")
    command = [sys.executable, "-m", "pytest", "--color=no", "-rA", "-p", "no:cacheprovider", "--nbval", "-p"]
    command += ["tests.nbval_plugin", "--nbval-kernel-name", "workbook", "--nbval-cell-timeout", "60"]
    command += [str(tmp_path / "01_data.ipynb")]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    lines = [line for line in told.splitlines() if line.startswith(("PASSED", "FAILED"))]
    went = {int(line.split("Cell ")[1].split()[0]): line.split()[0] for line in lines}
    assert went == {0: "PASSED", 1: "FAILED", 2: "PASSED", 3: "FAILED", 4: "FAILED", 5: "PASSED", 6: "PASSED"}, told
