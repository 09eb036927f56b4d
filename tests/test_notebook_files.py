"""Tests of `helpers.notebooks`; `test_notebooks.py` runs the project's own."""

import copy
import math
import re
import sys

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import artifacts, kernel, notebooks


def test_find_reads_number_title_needs_and_defaults(project, make):
    train = make.tiny(
        "02_train",
        needs="the data of notebook 01, 28 pictures",
        parameters='RATE = 1e-3  # rate\nNAME: str = "a"  # name',
    )
    make.write_notebooks(project, n01_data=make.tiny("01_data"), n02_train=train)
    found = notebooks.find()
    assert list(found) == ["01", "02"]
    assert found["02"].title == "2 · Train: does it run?"
    assert found["02"].needs == ("01",)
    assert found["02"].defaults == {"RATE": 1e-3, "NAME": "a"}
    assert found["01"].needs == ()
    assert found["01"].rules == {"SEED": (int, 0, 99)}


def test_needs_may_name_artifacts(project, make):
    text = "`outputs/01_data/dataset` and what [02](02_b.ipynb) makes"
    make.write_notebooks(
        project, n01_data=make.tiny("01_data"), n02_b=make.tiny("02_b"), n03_c=make.tiny("03_c", needs=text)
    )
    assert notebooks.find()["03"].needs == ("01", "02")


def test_a_file_that_is_no_notebook_is_named(project, make):
    folder = make.write_notebooks(project)
    (folder / "01_data.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"01_data\.ipynb cannot be read as a notebook"):
        notebooks.find()


def test_a_python_without_jupyter_is_told_and_not_the_notebook(project, make, monkeypatch):
    make.write_notebooks(project, n01_data=make.tiny("01_data"))
    for name in ("nbformat", "jupyter_client.kernelspec"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=r"^This Python \(.*\) lacks nbformat: run `\.venv/bin/python`"):
        notebooks.find()
    assert kernel.problem().startswith(f"This Python ({sys.executable}) lacks Jupyter")


def test_tags_that_are_null_are_none(project, make):
    content = make.tiny("01_data")
    content.cells[0].metadata["tags"] = content.cells[2].metadata["tags"] = None
    folder = make.write_notebooks(project, n01_data=content)
    assert notebooks.find()["01"].defaults == {"SEED": 0}
    assert ["tags" in cell.metadata for cell in notebooks.load(folder / "01_data.ipynb").cells] == [False, True, False]


def test_no_notebook_is_said(project):
    with pytest.raises(FileNotFoundError, match="no notebook named like"):
        notebooks.find()


def test_a_parameter_that_is_computed_and_two_notebooks_of_one_number_are_refused(project, make):
    make.write_notebooks(project, n01_data=make.tiny("01_data", parameters="SIZE = 2 * 3  # px"))
    with pytest.raises(ValueError, match=r"parameter of 01_data\.ipynb is not a literal: SIZE = 2 \* 3"):
        notebooks.find()
    make.write_notebooks(project, n01_data=make.tiny("01_data"), n01_b=make.tiny("01_b"))
    with pytest.raises(ValueError, match="Two notebooks have the number 01"):
        notebooks.find()


@pytest.mark.parametrize(
    ("value", "default", "parsed"),
    [
        ("7", 1, 7),
        ("-7", 1, -7),
        ("7", 1.0, 7.0),
        ("1e-3", 1.0, 0.001),
        ("007", "", "007"),
        ("", "a", ""),
        ("None", "a", "None"),
        ("TRUE", False, True),
        ("no", True, False),
        ("[1, 2]", [0], [1, 2]),
        ("folder", None, "folder"),
        ("3", None, 3),
        (3, 1.0, 3.0),
        (True, False, True),
    ],
)
def test_a_value_takes_the_type_of_the_default(value, default, parsed):
    result = notebooks.parse("NAME", value, default)
    assert result == parsed
    assert type(result) is type(parsed)


@pytest.mark.parametrize(
    ("value", "default", "expected"),
    [
        ("2.5", 1, "a whole number"),
        ("x", 1.0, "a number"),
        ("maybe", True, "true or false"),
        ("x, 2", [1], "type list"),
        (2.5, 1, "a whole number"),
        (True, 1, "a whole number"),
        (1, True, "true or false"),
        (7, "a", "a text"),
        ("[", [1], "type list"),
        ("{[1]: 2}", [1], "type list"),
    ],
)
def test_a_value_of_another_type_is_refused(value, default, expected):
    with pytest.raises(ValueError, match=f"NAME is {__import__('re').escape(repr(value))}: it must be .*{expected}"):
        notebooks.parse("NAME", value, default)


@given(st.integers() | st.floats(allow_nan=False) | st.text("aZ0 '\"\\\n\0ä鞋\U0001f392") | st.booleans())
def test_what_python_prints_is_parsed_back(value):
    assert notebooks.parse("NAME", str(value), value) == value


def test_nan_is_a_number_and_left_to_the_notebook():
    assert math.isnan(notebooks.parse("NAME", "nan", 1.0))


def test_values_are_checked_against_the_notebooks_own_rules(project, make):
    folder = make.write_notebooks(project, n01_data=make.tiny("01_data"))
    notebook = notebooks.read(folder / "01_data.ipynb")
    assert notebooks.with_parameters(notebook, {"SEED": "7"}) == {"SEED": 7}
    with pytest.raises(ValueError, match="01_data: SEED is 100: it must be from 0 to 99"):
        notebooks.with_parameters(notebook, {"SEED": "100"})
    with pytest.raises(ValueError, match="01_data has no parameter SEDE: did you mean SEED"):
        notebooks.with_parameters(notebook, {"SEDE": "1"})


def test_rules_that_cannot_be_read_are_left_to_the_notebook(project, make):
    folder = make.write_notebooks(project, n01_data=make.tiny("01_data", rules="SEED=(int, 0, limit())"))
    notebook = notebooks.read(folder / "01_data.ipynb")
    assert notebook.rules is None
    assert notebooks.with_parameters(notebook, {"SEED": "100"}) == {"SEED": 100}


WIDGET = "application/vnd.jupyter.widget-view+json"


def executed(make):
    """A notebook as papermill leaves it."""
    output = nbformat.v4.new_output
    work = make.code("work()", "work", "nbval-ignore-output")
    work.outputs = [
        output("stream", name="stdout", text="one\n"),
        output("stream", name="stderr", text="noise\n"),
        output("stream", name="stdout", text="two\n"),
        output(
            "display_data", {"image/png": "aGk=", "text/plain": "Figure: hi"}, metadata={"image/png": {"alt": "hi"}}
        ),
        output("display_data", {WIDGET: {}, "text/plain": "bar"}),
        output("display_data", {WIDGET: {}, "image/png": "aGk=", "text/plain": "Figure: an explorer"}),
        output("execute_result", {"text/plain": "3"}, execution_count=9),
    ]
    empty = make.code("", "empty")
    content = make.tiny("01_data", work, empty, make.markdown("end", "end"))
    injected = make.code("# Parameters\nSEED = 1", "random-id", "injected-parameters")
    content.cells.insert(2, injected)
    for number, cell in enumerate((cell for cell in content.cells if cell.cell_type == "code" and cell.source), 3):
        cell.execution_count = number
        cell.metadata["papermill"] = {"start_time": "2026", "duration": 0.1}
        cell.metadata["execution"] = {"iopub.execute_input": "2026"}
    content.metadata["papermill"] = {"duration": 3.0, "input_path": "/home/me"}
    content.metadata["widgets"] = {"state": {}}
    content.metadata["language_info"] = {"name": "python", "version": "3.11.7", "pygments_lexer": "ipython3"}
    return content


def test_normalised_notebook_has_no_trace_of_the_run(make):
    content = notebooks.normalise(executed(make))
    assert dict(content.metadata) == {
        "kernelspec": {"name": "workbook", "display_name": "Workbook", "language": "python"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    assert [cell.id for cell in content.cells] == ["intro", "parameters", "setup", "work", "empty", "end"]
    assert [dict(cell.metadata) for cell in content.cells[:4]] == [
        {},
        {"tags": ["parameters"]},
        {},
        {"tags": ["nbval-ignore-output"]},
    ]
    assert [cell.get("execution_count") for cell in content.cells] == [None, 1, 2, 3, None, None]


def test_normalised_outputs_keep_results_and_pictures(make):
    outputs = notebooks.normalise(executed(make)).cells[3].outputs
    assert [output.output_type for output in outputs] == ["stream", *["display_data"] * 2, "execute_result"]
    assert outputs[0].text == "one\ntwo\n"
    assert outputs[1].metadata["image/png"]["alt"] == "hi"
    assert outputs[2].data == {"image/png": "aGk=", "text/plain": "Figure: an explorer"}
    assert outputs[3].execution_count == 3


def test_normalising_is_idempotent_to_the_byte(make, tmp_path):
    once = notebooks.normalise(executed(make))
    notebooks.write(once, tmp_path / "once.ipynb")
    again = notebooks.normalise(nbformat.read(tmp_path / "once.ipynb", as_version=4))
    notebooks.write(again, tmp_path / "again.ipynb")
    assert (tmp_path / "once.ipynb").read_bytes() == (tmp_path / "again.ipynb").read_bytes()


def test_normalising_leaves_what_it_was_given_alone(make):
    content = executed(make)
    before = copy.deepcopy(content)
    notebooks.normalise(content)
    assert content == before


def test_a_cell_that_failed_is_not_committed(make):
    content = executed(make)
    content.cells[4].outputs = [nbformat.v4.new_output("error", ename="ValueError", evalue="no", traceback=[])]
    with pytest.raises(ValueError, match="cell 'work' has failed: ValueError: no"):
        notebooks.normalise(content)


def test_a_cell_that_did_not_run_is_not_committed(make):
    content = executed(make)
    content.cells[4].execution_count = None
    with pytest.raises(ValueError, match="cell 'work' has not run"):
        notebooks.normalise(content)


@pytest.mark.parametrize("place", ["root", "outputs"])
def test_a_path_of_this_machine_is_not_committed(make, place):
    content = executed(make)
    content.cells[4].outputs[0].text = f"in {getattr(artifacts, place)()}/x.png\n"
    with pytest.raises(ValueError, match="cell 'work' shows .* a path of this machine"):
        notebooks.normalise(content)


def test_a_text_about_the_default_data_is_marked_behind_its_heading(make):
    about, other = make.markdown("## Summary\n\n- It is so.\n- Really.", "summary"), make.markdown("Also.", "other")
    plain = make.markdown("It is so.\n\nReally.", "plain")
    about.metadata["tags"] = plain.metadata["tags"] = ["default-data"]
    content = make.tiny("01_data", about, other, plain)
    notebooks.mark_default_data(content)
    marked, unmarked, second = (cell.source for cell in content.cells[-3:])
    assert re.fullmatch(r"## Summary\n\n> \*What follows .*Fashion-MNIST\..*\*\n\n- It is so\.\n- Really\.", marked)
    assert unmarked == "Also."
    assert re.fullmatch(r"> \*What follows .*\*\n\nIt is so\.\n\nReally\.", second)
