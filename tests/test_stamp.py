"""What a notebook's outputs were made from and on."""

from pathlib import Path

import nbformat
import pytest

from helpers import artifacts, notebooks, processor, report, stamp

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small project with a notebook that reaches two of its three modules."""
    helpers, data = tmp_path / "helpers", tmp_path / "data" / "fashion-mnist"
    helpers.mkdir()
    data.mkdir(parents=True)
    (helpers / "near.py").write_text("def f():\n    from helpers.far import g\n    return g()\n")
    (helpers / "far.py").write_text("def g(): return 1\n")
    (helpers / "other.py").write_text("x = 1\n")
    (helpers / "__main__.py").write_text("from helpers import other\n")
    (data / "images.gz").write_bytes(b"pictures")
    (tmp_path / "requirements.lock").write_text("keras==3\n")
    monkeypatch.setattr(artifacts, "root", lambda: tmp_path)
    return tmp_path


def notebook(*sources: str, first: str = "SEED = 0"):
    cells = [nbformat.v4.new_markdown_cell("# 1 · A title"), nbformat.v4.new_code_cell(first)]
    cells[1].metadata.tags = ["parameters"]
    content = nbformat.v4.new_notebook(cells=[*cells, *map(nbformat.v4.new_code_cell, sources)])
    content.metadata[stamp.KEY] = stamp.make(content, 61.4)
    return content


CHANGES = {
    "helpers/near.py": ["helpers"], "helpers/far.py": ["helpers"], "helpers/other.py": [],
    "requirements.lock": ["lock"], "data/fashion-mnist/images.gz": ["data"],
}  # fmt: skip


@pytest.mark.parametrize("file", CHANGES)
def test_a_change_of_what_a_notebook_reaches_makes_it_stale(project, file):
    content = notebook("from helpers import near")
    assert stamp.stale(content) == []
    (project / file).write_text("y = 2\n")
    assert stamp.stale(content) == CHANGES[file]


def test_a_command_reaches_what_it_starts(project):
    content = notebook('run(["python", "-m", "helpers", "predict"])')
    (project / "helpers" / "other.py").write_text("x = 2\n")
    assert stamp.stale(content) == ["helpers"]


def test_code_and_parameters_count_and_text_does_not(project):
    content = notebook("from helpers import near", "near.f()")
    content.cells[0].source = "# 1 · Another title"
    assert stamp.stale(content) == []
    content.cells[1].source = "SEED = 1"
    assert stamp.stale(content) == ["parameters"]
    content.cells[3].source = "near.f() + 1"
    assert stamp.stale(content) == ["source", "parameters"]


def test_magics_of_a_reader_and_no_tags_are_no_error(project):
    content = notebook("%matplotlib inline", "from helpers import near")
    content.cells[2].metadata["tags"] = None
    assert stamp.stale(content) == []


def test_a_notebook_without_a_stamp_is_told():
    with pytest.raises(ValueError, match="has no stamp: write it with `python -m helpers refresh`"):
        stamp.stale(nbformat.v4.new_notebook())


def test_it_is_committed_and_shown_on_the_page(project):
    content = notebook()
    said = stamp.sentence(content)
    assert said.startswith("Checked with TensorFlow 2.")
    assert ", Keras 3." in said
    assert said.endswith(f"61 s on {processor.cores()} cores of {processor.name()}.")
    assert f"<footer><p>{said}</p></footer>" in report.page(content, "A title")
    for cell in content.cells:
        cell.update(execution_count=1) if cell.cell_type == "code" else None
    assert notebooks.normalise(content).metadata[stamp.KEY] == content.metadata[stamp.KEY]
    del content.metadata[stamp.KEY]
    assert stamp.sentence(content) == ""
    assert "<footer>" not in report.page(content, "A title")


def test_the_processor_has_a_name_wherever_it_says_so(tmp_path):
    (tmp_path / "cpuinfo").write_text("model name\t: Some CPU\nflags\t\t: sse avx2 avx512f\n")
    assert processor.name(tmp_path / "cpuinfo") == "Some CPU (avx512f)"
    assert processor.name(tmp_path / "none")


def test_the_committed_notebooks_reach_much_of_helpers():
    content = nbformat.read(ROOT / "notebooks" / "06_deployment_prediction.ipynb", as_version=4)
    reached = {path.stem for path in stamp._reached([cell.source for cell in content.cells], ROOT / "helpers")}
    assert {"serving", "worker", "rest", "protocols", "batch", "cli"} <= reached
