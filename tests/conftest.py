"""What all tests share: outputs in a folder of their own, and a tiny project to run."""

import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
def fill_registry(write_onnx) -> Callable[..., Path]:
    """A function that registers versions of that classifier, with its own answers to be tried on; 1 is live."""

    def fill(root: Path, name: str, *, versions: int = 1, live: int = 1, **facts: object) -> Path:
        from helpers import inference, registry

        root.mkdir(parents=True, exist_ok=True)
        images = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 1), dtype=np.uint8)
        facts = {"classes": ["ant", "bee", "cat"], "input": [4, 4, 1]} | facts
        for seed in range(1, versions + 1):
            file = write_onnx(root / "model.onnx", seed=seed)
            examples = images, inference.load(file, trusted=True).predict(images)
            registry.register(name, file, facts=facts, made_by="test", parameters={}, examples=examples, root=root)
            file.unlink()
        artifacts.write_json(root / name / "promoted", {"version": live, "before": []})  # its trial takes a process
        return root

    return fill


@pytest.fixture(scope="session")
def answering() -> Callable[..., contextlib.AbstractContextManager[SimpleNamespace]]:
    """A context manager: a server at `url` that gives what `answer` returns for the start of the range asked for
    (0: none) and the version that is known: a status, headers and a body. `asked` has each start."""

    @contextlib.contextmanager
    def serve(answer: Callable[[int, str], tuple[int, dict, bytes]]) -> Iterator[SimpleNamespace]:
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(int(self.headers.get("Range", "bytes=0-").strip("bytes=-")))
                status, headers, body = answer(asked[-1], self.headers.get("If-None-Match", ""))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = True

            def log_message(self, *_):
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            try:
                yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
            finally:
                server.shutdown()

    return serve


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
def fresh_python() -> Callable[..., str]:
    """A function that runs a program in a Python of its own, which has to end well, and returns what it prints."""

    def run(program: str, *arguments: object, **variables: str) -> str:
        root = Path(__file__).resolve().parents[1]
        ended = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], cwd=root, capture_output=True,
                               text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"} | variables)  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-2000:]
        return ended.stdout

    return run


@pytest.fixture(scope="session")
def bound_by_permissions() -> list[str]:
    """What begins a command to which permissions apply, even if root runs it."""
    ordinary = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    return ordinary if os.geteuid() == 0 else []


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """A function that waits until something is there, and returns it."""

    def wait(found: Callable[[], object], seconds: float = 30) -> object:
        end = time.monotonic() + seconds
        while not (there := found()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.02)
        return there

    return wait


@pytest.fixture(scope="session")
def precision() -> Callable[[str], contextlib.AbstractContextManager[None]]:
    """A context manager: what is built in its block has this precision, and nothing behind it."""

    @contextlib.contextmanager
    def policy(name: str) -> Iterator[None]:
        import keras

        usual = keras.config.dtype_policy()
        keras.config.set_dtype_policy(name)
        try:
            yield
        finally:
            keras.config.set_dtype_policy(usual)

    return policy


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
