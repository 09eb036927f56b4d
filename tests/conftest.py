"""What all tests share: outputs in a folder of their own, and a tiny project to run."""

import contextlib
import gc
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

from helpers import artifacts

settings.register_profile("workbook", deadline=None)  # the first example imports and compiles
settings.load_profile("workbook")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported for the tests stays: looking through it for garbage again and again takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.fixture(autouse=True)
def _outputs_of_its_own(tmp_path, monkeypatch):
    """No test reads or writes the user's outputs/."""
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setattr(artifacts, "_current", None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A root of its own for the notebooks that `helpers` runs in this process."""
    root = tmp_path / "project"
    root.mkdir()
    monkeypatch.setattr(artifacts, "root", lambda: root)
    return root


@pytest.fixture(scope="session")
def write_onnx() -> Callable[..., Path]:
    """A function that writes a classifier of 4x4 pictures in three classes: small, and nothing has to be trained."""

    def write(path: Path, *, seed: int = 0, sides: tuple[int, ...] = (4, 4, 1), classes: int = 3) -> Path:
        import onnx
        from onnx import TensorProto, helper

        weights = np.random.default_rng(seed).normal(0, 0.01, (int(np.prod(sides)), classes)).astype(np.float32)
        nodes = [
            helper.make_node("Cast", ["pictures"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["numbers"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ]
        inputs = [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["n", *sides])]
        outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", classes])]
        graph = helper.make_graph(nodes, "tiny", inputs, outputs, [onnx.numpy_helper.from_array(weights, "weights")])
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)
        return path

    return write


@pytest.fixture(scope="session")
def running() -> Callable[..., contextlib.AbstractContextManager[subprocess.Popen]]:
    """A context manager: `subprocess.Popen`, whose process is ended however the block ends, so that nobody waits."""

    @contextlib.contextmanager
    def run(command: list[str], **options: object) -> Iterator[subprocess.Popen]:
        with subprocess.Popen(command, **options) as process:
            try:
                yield process
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                process.kill()

    return run


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """Functions that build notebooks and command lines."""
    functions = (markdown, code, notebook, tiny, write_notebooks, command)
    return SimpleNamespace(**{function.__name__: function for function in functions})


@pytest.fixture(scope="session")
def nbval_plugin() -> ModuleType:
    """The module `nbval_plugin.py`, which pytest loads where notebooks are compared."""
    spec = importlib.util.spec_from_file_location("nbval_plugin", Path(__file__).with_name("nbval_plugin.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def markdown(source: str, name: str) -> dict:
    import nbformat  # late: the process that hands out the tests to others does without, and starts them sooner

    return nbformat.v4.new_markdown_cell(source, id=name)


def code(source: str, name: str, *tags: str) -> dict:
    import nbformat

    return nbformat.v4.new_code_cell(source, id=name, metadata={"tags": list(tags)} if tags else {})


def notebook(*cells: dict) -> dict:
    import nbformat

    kernelspec = {"name": "workbook", "display_name": "Workbook", "language": "python"}
    return nbformat.v4.new_notebook(cells=list(cells), metadata={"kernelspec": kernelspec})


def tiny(stem: str, *body: dict, needs: str = "nothing", parameters: str = "SEED = 0  # seed", rules: str = "") -> dict:
    """Returns a notebook in the project's form around the cells of `body`."""
    rules = rules or "SEED=(int, 0, 99)"
    setup = (
        "from helpers import artifacts, claims, parameters\n"
        f"used = parameters.check(globals(), {rules})\n"
        f'out = artifacts.begin("{stem}", used)'
    )
    title = (
        f"# {int(stem[:2])} · {stem[3:].title()}: does it run?\n\n**You will** see. **Needs** {needs}. **Takes** 1 s."
    )
    return notebook(markdown(title, "intro"), code(parameters, "parameters", "parameters"), code(setup, "setup"), *body)


def write_notebooks(root: Path, **contents: dict) -> Path:
    """Writes notebooks by stem (`n01_data=…` is `01_data.ipynb`) into `root/notebooks`."""
    import nbformat

    folder = root / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in contents.items():
        nbformat.write(content, folder / f"{stem.removeprefix('n')}.ipynb")
    return folder


def command(root: Path, *arguments: str) -> list[str]:
    """Returns a command line that is `python -m helpers …` with the notebooks of another root."""
    start = (
        "import sys; from pathlib import Path; from helpers import artifacts; "
        f"artifacts.root = lambda: Path({str(root)!r}); from helpers.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    return [sys.executable, "-c", start, *arguments]
