"""How long one waits: for `--help`, for the package, and for a notebook's first training step after Run All."""

import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import results
from helpers import artifacts, kernel

PROCESSES = 10
NOTEBOOK = "03_cnn_training"
_COMMANDS = {
    "bare": ["-c", "pass"],
    "help": ["-m", "helpers", "--help"],
    "keras": ["-c", "import keras"],
    "import": ["-c", "import time; begun = time.perf_counter(); import helpers; print(time.perf_counter() - begun)"],
}
# Notebook 03 trains as it is; the first batch that ends tells the time, and ends the training.
_WATCH = """\
import time as _time

class _First(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(f"\\nfirst step at {_time.time()}")
        self.model.stop_training = True

def _watched(model, *given, callbacks=None, _fit=keras.Model.fit, **more):
    return _fit(model, *given, callbacks=[*(callbacks or []), _First()], **more)

keras.Model.fit = _watched
"""


def measure(*, repeats: int, **_: object) -> results.Result:
    """Starts each command in fresh processes, in turn with a bare Python, and notebook 03 up to its first step."""
    runs: dict[str, list[float]] = {name: [] for name in [*_COMMANDS, "notebook"]}
    for _ in range(max(PROCESSES, repeats)):
        for name in ("bare", "help", "import"):
            runs[name].append(_seconds(name))
    with tempfile.TemporaryDirectory() as folder:
        _prepare(folder)
        for turn in range(repeats):
            runs["keras"].append(_seconds("keras"))
            runs["notebook"].append(first_step(folder))
            print(f"  notebook 03, run {turn + 1} of {repeats}: {runs['notebook'][-1]:.1f} s", file=sys.stderr)
    what = {"help": "python -m helpers --help", "import": "import helpers", "notebook": "first step after Run All"}
    units = {"help": ("s", 1), "import": ("ms", 1000), "notebook": ("s", 1)}
    rows = [results.row(text, units[name][0], [units[name][1] * one for one in runs[name]])
            for name, text in what.items()]  # fmt: skip
    rows.append(results.row(what["help"], "s", runs["bare"], of="python -c pass"))
    rows.append(results.row(what["notebook"], "s", runs["keras"], of="python -c 'import keras'"))
    middle = {name: statistics.median(values) for name, values in runs.items()}
    return results.Result(
        question="How long does one wait for the command line, the package, and a notebook's first training step?",
        held_equal=["fresh processes of the same Python, files in the system's cache",
                    "notebook 03 with its defaults from the start of its kernel to the end of the first batch that "
                    "trains, with the data that notebook 01 has prepared"],
        repeats=repeats, machine=results.machine("tensorflow", "keras", "ipykernel"), rows=rows,
        limits=[
            results.limit("a bare Python (python -c pass)", middle["bare"], "s",
                          reached=middle["bare"] / middle["help"],
                          why="argparse is imported and the parsers of all commands are built"),
            results.limit("the import of Keras and TensorFlow, before any of ours", middle["keras"], "s",
                          reached=middle["keras"] / middle["notebook"],
                          why="the kernel starts, pandas, SciPy, scikit-learn and Matplotlib are imported, two figures "
                          "are drawn, and the step is traced and compiled"),
        ],
        goals=[
            results.goal("--help under 0.3 s", middle["help"], at_most=0.3, unit="s", what=what["help"],
                         why="Python itself and argparse take it"),
            results.goal("import under 50 ms", 1000 * middle["import"], at_most=50, unit="ms", what=what["import"],
                         why="the package imports something when it is imported"),
            results.goal("first step under 15 s", middle["notebook"], at_most=15, unit="s", what=what["notebook"],
                         why="the imports of TensorFlow and Keras take most of it"),
        ],
        runs=runs,
    )  # fmt: skip


def first_step(outputs: str) -> float:
    """Returns the seconds from the start of a kernel to the end of notebook 03's first training step.

    Raises:
        RuntimeError: If no training came to its first step.
    """
    import nbclient
    import nbformat

    content = nbformat.read(artifacts.root() / "notebooks" / f"{NOTEBOOK}.ipynb", as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    imports = next(index for index, cell in enumerate(code) if "import keras" in cell.source)
    content.cells = [*code[: imports + 1], nbformat.v4.new_code_cell(_WATCH), *code[imports + 1 :]]
    client = nbclient.NotebookClient(content, kernel_name=kernel.NAME, timeout=600)
    begun = time.time()
    environment = os.environ | {"WORKBOOK_OUTPUTS": outputs, "PYTHONPATH": str(artifacts.root())}
    with client.setup_kernel(env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        for index, cell in enumerate(content.cells):
            client.execute_cell(cell, index)
            told = "".join(output.get("text", "") for output in cell.outputs)
            if at := re.search(r"first step at ([\d.]+)", told):
                return float(at[1]) - begun
    raise RuntimeError(f"Notebook {NOTEBOOK} never trained a batch.")


def _seconds(name: str) -> float:
    command = [sys.executable, *_COMMANDS[name]]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(artifacts.root())}
    begun = time.perf_counter()
    done = subprocess.run(command, cwd=artifacts.root(), env=environment, capture_output=True, text=True, check=True)
    taken = time.perf_counter() - begun
    return float(done.stdout) if name == "import" else taken


def _prepare(outputs: str) -> None:
    """Runs notebook 01 into a folder, with a small rehearsal: notebook 03 takes its data from there."""
    command = [sys.executable, "-m", "helpers", "run", "01", "--profile", "quick", "--output", outputs]
    environment = os.environ | {"PYTHONPATH": str(artifacts.root())}
    done = subprocess.run(command, cwd=artifacts.root(), env=environment, capture_output=True, text=True, check=False)
    if not Path(outputs, "01_data_preparation", "dataset").is_dir():
        raise RuntimeError(f"Notebook 01 failed:\n{done.stderr[-2000:]}")
