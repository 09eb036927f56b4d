"""Exercises that check themselves, and the solutions that the notebooks fold away."""

import ast
import json
import re
from pathlib import Path

import keras
import nbformat
import numpy as np
import pytest

from helpers import exercises

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("0*.ipynb"))


def turn(path: Path) -> tuple[str, str]:
    """Returns the text of a notebook's exercise and the code that checks it."""
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    return cells["your-turn"], cells["your-turn-check"]


def said(code: str, answer: str, capsys: pytest.CaptureFixture) -> list[str]:
    """Runs an exercise with a reader's function in place of the empty one; returns the lines that it prints."""
    given = {node.name: node for node in ast.parse(answer).body}
    checked = ast.parse(code)
    checked.body = [
        given.get(node.name, node) if isinstance(node, ast.FunctionDef) else node for node in checked.body
    ]
    exec(compile(checked, "exercise", "exec"), {"np": np, "keras": keras, "json": json})
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_an_exercise_is_open_until_it_is_solved(path, capsys, precision):
    text, code = turn(path)
    before = said(code, "", capsys)
    assert len(before) >= 3
    assert all(line.startswith("○ ") and line.endswith(": still open") for line in before)
    solution = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert [line[0] for line in said(code, solution, capsys)] == ["✔"] * len(before)
    with precision("mixed_bfloat16"):  # as `devices.setup` may have chosen
        assert [line[0] for line in said(code, solution, capsys)] == ["✔"] * len(before)


WRONG = {
    "01_data_preparation": "return np.arange(80), np.arange(80, 100)",
    "02_preprocessing": "deviation = [np.where(x.std(0) == 0, 1, x.std(0)) for x in (train, other)]\n"
    "    return (train - train.mean(0)) / deviation[0], (other - train.mean(0)) / deviation[1]",
    "03_cnn_training": "return images[:, ::2, ::2]",
    "04_optimizer_comparison": "velocity = share * velocity - rate * gradient\n    return weight - velocity, velocity",
    "05_compression": "step = np.ptp(np.append(values, 0)) / 2 ** (bits - 1)  # one bit is lost\n"
    "    zero = round(-min(values.min(), 0) / step)\n    return np.round(values / step).astype(int) + zero, step, zero",
    "06_deployment_prediction": 'return json.dumps({"instances": images.tolist()}).encode()',
}


@pytest.mark.parametrize("body", [None, "return None", "return np.zeros((2, 3))", "return [[1, 2], 'a']"])
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_usual_mistakes_are_told(path, body, capsys):
    _, code = turn(path)
    function = next(node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef))
    wrong = f"def {function.name}({ast.unparse(function.args)}):\n    {body or WRONG[path.stem]}\n"
    lines = said(code, wrong, capsys)
    assert any(line.startswith("✘ ") and ": it " in line for line in lines)
    assert not any("○" in line for line in lines)


@pytest.mark.parametrize("bound", [{}, {"within": (1, 2)}])
@pytest.mark.parametrize(
    ("answer", "shown"),
    [(None, "None"), ([1, 2], "[1, 2]"), (np.ones((2, 1)), "array([[1.], [1.]])"), ("a" * 50, f"'{'a' * 38}…")],
)
def test_an_answer_that_is_no_figure_is_told_and_stops_nothing(answer, shown, bound, capsys):
    exercises.check("A third of it is there", lambda: answer, **bound)
    assert capsys.readouterr().out == f"✘ A third of it is there: it returned {shown}\n"


def test_a_figure_counts_in_whatever_form_it_comes(capsys):
    for figure in (np.float32(1.5), keras.ops.convert_to_tensor(1.5), True):
        exercises.check("It is one or more", lambda figure=figure: figure, within=(1, 1.5))
    exercises.check("It is true", lambda: np.bool_(True))
    assert capsys.readouterr().out.count("✔") == 4


def test_a_solution_lies_two_folds_deep():
    for path in NOTEBOOKS:
        text, _ = turn(path)
        before = text[: text.index("```python")]
        assert before.count("<details>") - before.count("</details>") == 2, path.stem


def test_a_readers_error_is_told_in_one_line_and_stops_nothing(capsys):
    exercises.check("A third of it is there", lambda: 1 / 0, at_most=1)
    assert capsys.readouterr().out == "✘ A third of it is there: it raised ZeroDivisionError: division by zero\n"
    exercises.check("It is legible", lambda: exec("raise ValueError('one\\n\\ntwo')"), at_most=1)  # as Keras's are
    assert capsys.readouterr().out == "✘ It is legible: it raised ValueError: one two\n"


def test_a_number_where_true_or_false_is_asked_is_an_answer_and_two_bounds_are_a_mistake(capsys):
    exercises.check("It is large", lambda: 3)
    assert capsys.readouterr().out == "✘ It is large: it returned 3\n"
    with pytest.raises(ValueError, match="takes exactly one of at_least, at_most, within"):
        exercises.check("It is large", lambda: 3, at_least=1, at_most=4)
