"""The notebooks as files, and the rules that hold between the project's files."""

import ast
import base64
import copy
import io
import re
import statistics
import sys
import tokenize
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from helpers import notebooks, rehearsal, stamp
from helpers.doctor import locked_versions

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IGNORED = "nbval-ignore-output"
TAGS = re.compile(r"parameters|hide-input|default-data|nbval-ignore-output|nbval-tolerance-(\d*\.?\d+(e-?\d+)?)")
# A path that begins at the root, at home or above: in quotes, as code writes it. "/" alone joins paths.
ABSOLUTE = re.compile(r"""["'](?:/(?:home|root|tmp|work|usr|var|mnt|opt|Users|etc)\b|~/|\.\./|[A-Za-z]:\\)""")
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|Users)/[\w.]")


def code_cells(content) -> list:
    return [cell for cell in content.cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def texts(cell) -> str:
    """All text that nbval compares of a cell's outputs."""
    parts = [output.text for output in cell.outputs if output.output_type == "stream" and output.name == "stdout"]
    for output in cell.outputs:
        if output.output_type in ("display_data", "execute_result"):
            parts += [str(value) for kind, value in output.data.items() if kind.startswith("text/")]
    return "".join(parts)


def pictures(content) -> Iterator[tuple]:
    for cell in code_cells(content):
        for output in cell.outputs:
            for kind in ("image/png", "image/jpeg"):
                if kind in output.get("data", {}):
                    yield cell, output, kind


# Each check yields what is wrong, in a sentence that names the cell.


def executed_in_order(content, path: Path) -> Iterator[str]:
    for expected, cell in enumerate(code_cells(content), 1):
        if (count := cell.execution_count) != expected:
            yield f"cell {cell.id!r} has execution count {count}, not {expected}: run all in a fresh kernel"


def without_errors(content, path: Path) -> Iterator[str]:
    for cell in code_cells(content):
        if any(output.output_type == "error" for output in cell.outputs):
            yield f"cell {cell.id!r} stores an error"
        if any(output.output_type == "stream" and output.name == "stderr" for output in cell.outputs):
            yield f"cell {cell.id!r} stores what was written to stderr"


def with_a_title_and_an_end(content, path: Path) -> Iterator[str]:
    first = content.cells[0]
    number = int(path.name[:2])
    if first.cell_type != "markdown" or not re.match(rf"# {number} · .+\?$", first.source.splitlines()[0]):
        yield f"the first cell does not begin with `# {number} · Topic: a question?`"
    for word in ("**You will**", "**Needs**", "**Takes**"):
        if word not in first.source:
            yield f"the first cell has no {word}"
    texts = [cell.source for cell in content.cells if cell.cell_type == "markdown"]
    headings = [line for text in texts for line in text.splitlines() if line.startswith("#")]
    if "## Summary" not in headings:
        yield "there is no heading `## Summary`"
    if len([heading for heading in headings if heading.startswith("# ")]) != 1:
        yield "there is not exactly one heading of the first level"


def with_one_parameters_cell_before_the_setup(content, path: Path) -> Iterator[str]:
    cells = code_cells(content)
    tagged = [index for index, cell in enumerate(cells) if "parameters" in tags(cell)]
    if tagged != [0]:
        yield "the first code cell, and no other, is to have the tag `parameters`"
        return
    if any("injected-parameters" in tags(cell) for cell in cells):
        yield "it was run with other parameters than its own"
    setup = cells[1].source if len(cells) > 1 else ""
    if not re.search(r"parameters\.check\(\s*globals\(\)", setup) or f'artifacts.begin("{path.stem}"' not in setup:
        yield f'the second code cell is to call parameters.check(globals(), …) and artifacts.begin("{path.stem}", …)'


def with_commented_literals_as_parameters(content, path: Path) -> Iterator[str]:
    source = next((cell.source for cell in code_cells(content) if "parameters" in tags(cell)), "")
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(source).body:
        target = getattr(statement, "target", None) or getattr(statement, "targets", [None])[0]
        name = getattr(target, "id", "?")
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or not name.isupper():
            yield f"the parameters cell holds more than NAME = value: {ast.unparse(statement)}"
            continue
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            yield f"the parameter {name} is not a literal"
        if statement.end_lineno not in commented:
            yield f"the parameter {name} has no comment behind it"
        elif source.splitlines()[statement.end_lineno - 1].count("=") > 1:
            yield f"the comment of {name} holds a =, which `papermill --help-notebook` cannot read"


def with_short_cells(content, path: Path) -> Iterator[str]:
    sources = {cell.id: cell.source.splitlines() for cell in code_cells(content)}
    lengths = {name: len(lines) for name, lines in sources.items()}
    # after the parameters and the set-up, which are as long as they must be
    lesson = [sum(bool(line.strip()) for line in lines) for lines in list(sources.values())[2:]]
    if statistics.median(lesson) > 6:
        yield f"the median length of the code cells is {statistics.median(lesson)} lines, above 6"
    for name, length in lengths.items():
        if length > 25:
            yield f"cell {name!r} has {length} lines, above 25"


def with_code_that_belongs_in_a_notebook(content, path: Path) -> Iterator[str]:
    for cell in code_cells(content):
        if re.search(r"^\s*[!%]", cell.source, re.MULTILINE):
            yield f"cell {cell.id!r} has a shell command or a magic"
            continue
        if ABSOLUTE.search(cell.source):
            yield f"cell {cell.id!r} names a path that is absolute, at home or above"
        if "filterwarnings" in cell.source or "simplefilter" in cell.source:
            yield f"cell {cell.id!r} hides warnings"
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ClassDef):
                yield f"cell {cell.id!r} defines the class {node.name}"
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno + 1 > 15:
                yield f"cell {cell.id!r} defines {node.name} of {node.end_lineno - node.lineno + 1} lines, above 15"
            if isinstance(node, ast.ImportFrom) and any(name.name == "*" for name in node.names):
                yield f"cell {cell.id!r} imports *"


def with_outputs_that_hold_elsewhere(content, path: Path) -> Iterator[str]:
    for cell in code_cells(content):
        if MACHINE.search(texts(cell)):
            yield f"cell {cell.id!r} shows a path of the machine it ran on"
        if re.search(r"\d%\|[█▏▎▍▌▋▊▉ #]*\||\[=+>?\.*\]|\x08|\r(?!\n)|━━", texts(cell)):
            yield f"cell {cell.id!r} shows a progress bar"
        for output in cell.outputs:
            if any("widget" in kind for kind in output.get("data", {})):
                yield f"cell {cell.id!r} shows a widget"


def with_most_cells_compared(content, path: Path) -> Iterator[str]:
    cells = code_cells(content)
    compared = [cell for cell in cells if texts(cell).strip() and IGNORED not in tags(cell)]
    if len(compared) < 0.6 * len(cells):
        yield f"nbval compares the text of {len(compared)} of {len(cells)} code cells, fewer than 60%"


def with_known_tags_and_readable_ids(content, path: Path) -> Iterator[str]:
    for cell in content.cells:
        for tag in tags(cell):
            if not TAGS.fullmatch(tag):
                yield f"cell {cell.id!r} has the tag {tag!r}, which means nothing here"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", cell.id) or re.fullmatch(r"[0-9a-f]{8}|[0-9a-f-]{32,}", cell.id):
            yield f"cell id {cell.id!r} is not a short name such as 'setup'"


def with_claims_told_apart(content, path: Path) -> Iterator[str]:
    lines = [line for cell in code_cells(content) for line in texts(cell).splitlines() if line.startswith(("✔ ", "✘ "))]
    for line in sorted(set(lines)):
        if lines.count(line) > 1:
            yield f"the claim {line[2:]!r} is made {lines.count(line)} times, and the last would replace the others"


def with_figures_that_show_something_and_say_what(content, path: Path) -> Iterator[str]:
    for cell, output, kind in pictures(content):
        if len(output.metadata.get(kind, {}).get("alt", "").strip()) < 10:
            yield f"a picture of cell {cell.id!r} has no alt text: publish it with plotting.show(figure, alt=…)"
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(output.data[kind]))).convert("L"), dtype=float)
        if pixels.std() < 1.0:
            yield f"a picture of cell {cell.id!r} is blank"


def with_a_picture_beside_its_controls(content, path: Path) -> Iterator[str]:
    drawn = [cell.id for cell, *_ in pictures(content)]
    for cell in code_cells(content):
        if re.search(r"\bwidgets\.(?!watched\b)\w+\(", cell.source) and cell.id not in drawn:
            yield f"cell {cell.id!r} has controls, and no picture for a page without a kernel"


def as_refresh_writes_it(content, path: Path) -> Iterator[str]:
    allowed = {"kernelspec", "language_info", stamp.KEY}
    if extra := set(content.metadata) - allowed:
        yield f"the metadata hold {', '.join(sorted(extra))}: write it with `make refresh`"
    if content.metadata.get("kernelspec", {}).get("name") != "workbook":
        yield "the kernel is not `workbook`"
    for cell in content.cells:
        if extra := set(cell.metadata) - {"tags"}:
            yield f"the metadata of cell {cell.id!r} hold {', '.join(sorted(extra))}: write it with `make refresh`"


def as_its_code_and_data_are_now(content, path: Path) -> Iterator[str]:
    try:
        changed = stamp.stale(content)
    except ValueError as error:
        yield str(error)
        return
    if names := [name for name in changed if name in ("source", "parameters", "data")]:
        yield f"{' and '.join(names)} changed after the outputs were made: write them with `make refresh`"
    elif changed:  # most changes there leave the outputs as they are; nbval compares them
        warnings.warn(f"{path.name} was last run before {' and '.join(changed)} changed", stacklevel=2)


# How each check can be made to fail, from a notebook in which it finds nothing.


def strip(content):
    for cell in code_cells(content):
        cell.outputs, cell.execution_count = [], None


def source(index: int, text: str) -> Callable:
    return lambda content: content.cells[index].update(source=text)


def output(**changed) -> Callable:
    return lambda content: content.cells[5].outputs.append(nbformat.v4.new_output(**changed))


def png(pixels: np.ndarray) -> str:
    return base64.b64encode(rehearsal.encode(pixels)).decode()


def blank(content):
    content.cells[4].outputs[0].data["image/png"] = png(np.full((8, 8), 255, np.uint8))


LONG = "def f():\n" + "    pass\n" * 15
BAD = {
    executed_in_order: [
        (strip, "execution count None, not 1"),
        (lambda c: c.cells[4].update(execution_count=7), "execution count 7, not 3"),
        (lambda c: c.cells.insert(4, c.cells.pop(5)), "execution count 4, not 3"),
    ],
    with_most_cells_compared: [
        (strip, "compares the text of 0 of 5"),
        (lambda c: c.cells[5].metadata.update(tags=[IGNORED]), "of 2 of 5 code cells, fewer than 60%"),
        (lambda c: c.cells[4].outputs[0].data.pop("text/plain"), "of 2 of 5 code cells"),
    ],
    without_errors: [
        (output(output_type="error", ename="E", evalue="", traceback=[]), "cell 'claim' stores an error"),
        (output(output_type="stream", name="stderr", text="x"), "cell 'claim' stores what was written to stderr"),
    ],
    with_a_title_and_an_end: [
        (source(0, "# Data"), r"does not begin with `# 1 · Topic: a question\?`"),
        (source(0, "# 1 · Data: what?\n**You will** **Takes**"), r"has no \*\*Needs\*\*"),
        (source(6, "The end"), "no heading `## Summary`"),
        (source(3, "# Another title"), "not exactly one heading of the first level"),
    ],
    with_one_parameters_cell_before_the_setup: [
        (lambda c: c.cells[1].metadata.clear(), "is to have the tag `parameters`"),
        (lambda c: c.cells[4].metadata.update(tags=["parameters"]), "and no other"),
        (source(2, "import keras"), "is to call parameters.check"),
        (lambda c: c.cells[4].metadata.update(tags=["injected-parameters"]), "other parameters"),
    ],
    with_commented_literals_as_parameters: [
        (source(1, "SEED = 0"), "SEED has no comment"),
        (source(1, "SIZE = 0  # px; 0 = any"), "the comment of SIZE holds a ="),
        (source(1, "SIZE = 2 * 3  # px"), "SIZE is not a literal"),
        (source(1, "import keras  # a library"), "more than NAME = value"),
    ],
    with_short_cells: [
        (source(4, "x = 1\n" * 26), "has 26 lines, above 25"),
        (lambda c: [cell.update(source="x = 1\n" * 7) for cell in code_cells(c)], "median length .* is 7"),
    ],
    with_code_that_belongs_in_a_notebook: [
        (source(4, "!pip install keras"), "shell command or a magic"),
        (source(4, "%matplotlib inline"), "shell command or a magic"),
        (source(4, "open('/home/me/x')"), "path that is absolute"),
        (source(4, "open('../x')"), "path that is absolute, at home or above"),
        (source(4, "import warnings\nwarnings.filterwarnings('ignore')"), "hides warnings"),
        (source(4, "class Net:\n    pass"), "defines the class Net"),
        (source(4, LONG), "defines f of 16 lines, above 15"),
        (source(4, "from helpers.data import *"), r"imports \*"),
    ],
    with_outputs_that_hold_elsewhere: [
        (output(output_type="stream", name="stdout", text="in /home/me/x\n"), "path of the machine"),
        (output(output_type="stream", name="stdout", text=" 50%|███   | 1/2"), "progress bar"),
        (output(output_type="display_data", data={"application/vnd.jupyter.widget-view+json": {}}), "shows a widget"),
    ],
    with_known_tags_and_readable_ids: [
        (lambda c: c.cells[4].metadata.update(tags=["nbval-tolerance-much"]), "means nothing here"),
        (lambda c: c.cells[4].update(id="1f2e3d4c"), "is not a short name"),
    ],
    with_claims_told_apart: [
        (lambda c: c.cells[2].outputs.extend(copy.deepcopy(c.cells[5].outputs)),
         "the claim 'It holds' is made 2 times"),
    ],
    with_figures_that_show_something_and_say_what: [
        (blank, "a picture of cell 'figure' is blank"),
        (lambda c: c.cells[4].outputs[0].metadata.clear(), "has no alt text"),
    ],
    with_a_picture_beside_its_controls: [
        (lambda c: (c.cells[4].update(source="widgets.explore(draw, x=slider)"), c.cells[4].outputs.clear()),
         "cell 'figure' has controls, and no picture"),
    ],
    as_its_code_and_data_are_now: [
        (lambda c: c.metadata.pop(stamp.KEY), "has no stamp"),
        (source(4, "plot(2)"), "source changed after the outputs were made"),
        (lambda c: c.metadata[stamp.KEY].update(data="0"), "data changed after"),
    ],
    as_refresh_writes_it: [
        (lambda c: c.metadata.update(papermill={}), "the metadata hold papermill"),
        (lambda c: c.metadata.update(widgets={}), "the metadata hold widgets"),
        (lambda c: c.metadata.kernelspec.update(name="python3"), "the kernel is not `workbook`"),
        (lambda c: c.cells[4].metadata.update(execution={}), "metadata of cell 'figure' hold execution"),
    ],
}  # fmt: skip
CHECKS = list(BAD)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is(path, check):
    assert list(check(nbformat.read(path, as_version=4), path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_smaller_than_a_megabyte_and_a_half(path):
    assert path.stat().st_size < 1_500_000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_equal_to_its_normalised_form(path, tmp_path):
    content = nbformat.read(path, as_version=4)
    nbformat.validate(content)
    notebooks.write(notebooks.normalise(content), tmp_path / path.name)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_rules_of_the_parameters_can_be_read_before_a_run(path):
    # So that `run -p EPOCHS 0` is refused before any notebook runs.
    notebook = notebooks.read(path)
    assert notebook.rules is not None
    assert set(notebook.rules) == set(notebook.defaults)
    notebooks.with_parameters(notebook, notebook.defaults)


# Each check sees what it is for.


@pytest.fixture(scope="module")
def flawless(make):
    """A notebook in which every check finds nothing."""
    figure = make.code("plot()", "figure")
    claim = make.code("claim()", "claim")
    table = make.code("claims.table()", "table", IGNORED)
    body = [make.markdown("## A section", "section"), figure, claim, make.markdown("## Summary", "summary"), table]
    content = make.tiny("01_data", *body)
    cells = code_cells(content)
    for count, cell in enumerate(cells, 1):
        cell.execution_count = count
    data = {"image/png": png(np.arange(64, dtype=np.uint8).reshape(8, 8)), "text/plain": "Figure: a gradient"}
    alt = {"image/png": {"alt": "A gradient from black to white"}}
    stream = nbformat.v4.new_output("stream", name="stdout", text="✔ It holds\n")
    figure.outputs = [nbformat.v4.new_output("display_data", data, metadata=alt)]
    claim.outputs = [stream]
    cells[1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="ready\n")]
    content.metadata[stamp.KEY] = stamp.make(content, 1.0)
    return content


@pytest.fixture
def good(flawless):
    """A copy of that notebook, to be spoilt."""
    return copy.deepcopy(flawless)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_good_notebook_passes(good, check):
    assert list(check(good, Path("01_data.ipynb"))) == []


@pytest.mark.parametrize(("check", "spoil", "message"), [(check, *one) for check in BAD for one in BAD[check]])
def test_a_bad_notebook_is_seen(good, check, spoil, message):
    spoil(good)
    found = list(check(good, Path("01_data.ipynb")))
    assert any(re.search(message, sentence) for sentence in found), found


# Between files.


LOADED = "import sys; before = set(sys.modules); import {}; print(*set(sys.modules) - before)"


def test_importing_helpers_imports_no_library_and_takes_no_time(fresh_python):
    assert set(fresh_python(LOADED.format("helpers")).split()) <= {"helpers"}
    timed = "import time; before = time.perf_counter(); import helpers; print(time.perf_counter() - before)"
    assert min(float(fresh_python(timed)) for _ in range(3)) < 0.05


def test_modules_import_neither_keras_nor_tensorflow(fresh_python):
    modules = ["evaluation", "optimizers", "plotting", "data", "notebooks", "runner", "report"]  # and those below
    script = (
        "import importlib, sys\n"
        "for module in sys.argv[1:]:\n"
        "    importlib.import_module(f'helpers.{module}')\n"
        "    print(module, *{'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules))"
    )
    assert fresh_python(script, *modules).splitlines() == modules


@pytest.mark.parametrize("module", ["artifacts", "claims", "parameters", "cli", "kernel"])
def test_module_imports_the_standard_library_alone(module, fresh_python):
    loaded = {name.split(".")[0] for name in fresh_python(LOADED.format(f"helpers.{module}")).split()}
    strangers = {name for name in loaded - set(sys.stdlib_module_names) - {"helpers"} if not name.startswith("_")}
    assert not strangers


def test_no_module_is_called_after_nothing():
    names = {path.stem for path in (ROOT / "helpers").glob("*.py")}
    assert not names & {"utils", "util", "misc", "common", "tools", "helpers"}


def test_environment_of_conda_has_the_versions_of_the_lock():
    import yaml

    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    pinned = dict(
        re.match(r"([A-Za-z0-9._-]+)(?:\[[\w,-]+\])?==([^\s;]+)", line).groups() for line in pip if "==" in line
    )
    locked = {name.lower().replace("_", "-"): version for name, version in locked_versions().items()}
    differing = {name: (version, locked.get(name.lower().replace("_", "-"))) for name, version in pinned.items()}
    assert {name: pair for name, pair in differing.items() if pair[0] != pair[1]} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in wanted}
    assert names - {name.lower().replace("_", "-") for name in pinned} == set()


def test_the_lock_pins_extras_where_a_package_asks_for_them():
    """pip takes `coverage[toml]` for a package of its own: a pin without the extra fails at the next release."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    for asked in ("coverage[toml]", "psycopg[binary]"):
        assert re.search(rf"^{re.escape(asked)}==", lock, re.MULTILINE), asked
    assert {"coverage", "psycopg"} <= set(locked_versions())


def test_no_file_names_a_package_index():
    places = ["requirements.lock", "environment.yml", "pyproject.toml", "Makefile", "README.md", "CONTRIBUTING.md"]
    files = [ROOT / place for place in (*places, ".ci/run")]
    files += [*(ROOT / "helpers").glob("*.py"), *(ROOT / "tests").glob("*.py"), *NOTEBOOKS]
    option = re.compile(r"(?<!emit-)(?:extra-)?(?:index-url|find-links)\b(?!\|)|https?://[^\s\"']*/simple\b")
    naming = [file.name for file in files if file.exists() and option.search(file.read_text(encoding="utf-8"))]
    assert [name for name in naming if name != Path(__file__).name] == []
    assert "://" not in (ROOT / "requirements.lock").read_text(encoding="utf-8")
