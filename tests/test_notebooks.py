"""Runs the project's notebooks: with the quick profile, killed midway and once more, and as they are committed."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, comparison, data, lock, notebooks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks.find(ROOT / "notebooks") if any((ROOT / "notebooks").glob("*.ipynb")) else {}
CELL_TIMEOUT = 1200  # seconds; the longest cell takes about 220 on two quiet cores

each_notebook = pytest.mark.parametrize("number", NOTEBOOKS, ids=[notebook.stem for notebook in NOTEBOOKS.values()])


def helpers(*arguments: str, **named) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "helpers", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, **named)


def nbval(path: Path, outputs: Path) -> None:
    """Runs a notebook in the project's kernel and fails with the cells whose outputs differ."""
    options = ["--nbval", "--nbval-kernel-name", "workbook", "--nbval-kernel-startup-timeout", "180"]
    options += ["--nbval-cell-timeout", str(CELL_TIMEOUT), "-p", "tests.nbval_plugin", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "--color=no", "--no-header", "-q", *options, str(path)]
    environment = {**os.environ, "WORKBOOK_OUTPUTS": str(outputs)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.fail(f"{path.name} gives other outputs than it stores:\n{told.stdout}{told.stderr}", pytrace=False)


def files(folder: Path) -> dict[str, str]:
    """Returns a digest of each artifact by its path; not of what holds times or the place where it lies, nor of
    SavedModels, which TensorFlow writes in another order in every process."""
    left_out, names = {".ipynb", ".html", ".log", ".config"}, {"run.json", "claims.json"}
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in left_out and path.name not in names and not in_saved_model(path)
        and ".partial-" not in path.as_posix()
    }


def in_saved_model(path: Path) -> bool:
    return any((folder / "saved_model.pb").is_file() for folder in path.parents[:2])


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file, or of the content without the seconds where it is about trainings."""
    if path.name == "runs.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    if path.name == "models.csv":
        steady = ["name", "technique", "file", "runtime", "bytes", "compressed_bytes", "accuracy"]
        return pd.read_csv(path).query("runtime != 'SavedModel'")[steady].to_csv()
    if path.suffix == ".parquet":
        return pd.read_parquet(path).drop(columns="input").to_csv()  # it names the folder
    if path.name.endswith(".parquet.manifest.json"):
        told = json.loads(path.read_text())
        return str({name: told[name] for name in sorted(told.keys() - {"inputs", "sha256"})})
    if path.parent.name == "runs":
        history, arrays = comparison._read(path)
        return history.drop(columns="seconds").to_csv() + str({name: array.tobytes() for name, array in arrays.items()})
    return artifacts.sha256(path)


@pytest.fixture(scope="session")
def quick(tmp_path_factory) -> Path:
    """The outputs of one run with the quick profile."""
    outputs = tmp_path_factory.mktemp("quick")
    told = helpers("run", "--profile", "quick", "--output", str(outputs))
    if told.returncode:
        pytest.fail(f"`run --profile quick` ended with {told.returncode}:\n{told.stdout}{told.stderr}", pytrace=False)
    return outputs


@each_notebook
def test_quick_profile_runs_and_holds_its_claims(quick, number):
    stem = NOTEBOOKS[number].stem
    record = json.loads((quick / stem / "run.json").read_text())
    assert record["status"] == "ran"
    assert record["held"] == record["claimed"] > 0
    assert record["peak_bytes"] < 4e9
    assert f'href="{stem}/{stem}.html"' in (quick / "index.html").read_text()
    assert not list(quick.rglob(".partial-*"))


@pytest.fixture(scope="session")
def killed(request, quick, tmp_path_factory) -> Iterator[dict[str, Future]]:
    """What comes of killing each notebook that is asked for midway and running it again; two at a time, none timed."""
    folder = tmp_path_factory.mktemp("killed")
    asked = [item.callspec.params["number"] for item in request.session.items if "killed" in item.fixturenames]
    with ThreadPoolExecutor(2) as pool:
        yield {number: pool.submit(kill_and_run_again, quick, number, folder / number) for number in asked}
        pool.shutdown(cancel_futures=True)


@each_notebook
def test_killed_midway_and_run_again_it_gives_the_same_outputs_and_artifacts(killed, number):
    killed[number].result()


def kill_and_run_again(quick: Path, number: str, outputs: Path) -> None:
    stem = NOTEBOOKS[number].stem
    shutil.copytree(quick, outputs)
    shutil.rmtree(outputs / stem)
    kill_in_the_middle(["run", number, "--profile", "quick", "--output", str(outputs)])
    with lock.held(outputs):  # waits for the kernel, which ends soon after the run
        expected, whole = files(quick / stem), files(outputs / stem)
    assert {name: expected.get(name) for name in whole} == whole, "a file was left half-written"
    nbval(quick / stem / f"{stem}.ipynb", outputs)
    assert files(outputs / stem) == expected
    assert not list(outputs.rglob(".partial-*"))


def kill_in_the_middle(arguments: list[str]) -> None:
    """Starts a run on a terminal and kills it once half of its cells are done."""
    terminal, inner = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "helpers", *arguments], cwd=ROOT, stderr=inner, stdout=inner) as run:
        os.close(inner)
        shown = ""
        while not (at := re.findall(r"cell (\d+)/(\d+)", shown)) or 2 * int(at[-1][0]) < int(at[-1][1]):
            try:
                shown += os.read(terminal, 4096).decode(errors="replace")
            except OSError:  # it has ended, and closed the terminal
                pytest.fail(f"the run ended before half of its cells: {shown}", pytrace=False)
        time.sleep(0.3)
        run.send_signal(signal.SIGKILL)
        assert run.wait() == -signal.SIGKILL, "the run ended before it was killed"
    os.close(terminal)


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Callable[[str], None]:
    """A function that runs a committed notebook, after those it needs, and compares its outputs."""
    outputs = tmp_path_factory.mktemp("committed")
    failed: dict[str, BaseException | None] = {}

    def compare(number: str) -> None:
        if number not in failed:
            for need in NOTEBOOKS[number].needs:
                try:
                    compare(need)
                except pytest.fail.Exception:
                    continue  # reported by its own test; what it made may do
            try:
                nbval(NOTEBOOKS[number].path, outputs)
                failed[number] = None
            except pytest.fail.Exception as failure:
                failed[number] = failure
        if failed[number] is not None:
            raise failed[number]

    return compare


@pytest.mark.alone
@each_notebook
def test_committed_outputs_are_what_the_notebook_gives(committed, number):
    committed(number)


@pytest.mark.skipif("04" not in NOTEBOOKS, reason="there is no notebook 04")
def test_claims_of_the_optimizers_fail_on_swapped_labels(quick, tmp_path):
    true = data.load(quick / data.MADE_BY / "dataset")
    swapped = np.random.default_rng(0).permutation(true.labels)
    folder = tmp_path / data.MADE_BY / "dataset"
    data.write(folder, true.images, swapped, true.classes, true.splits, parameters=true.manifest["parameters"])
    told = helpers("run", "04", "--profile", "quick", "--output", str(tmp_path))
    assert told.returncode == 1
    assert "✘ 04_optimizer_comparison: The best rule reaches at least 0.5 on the validation pictures" in told.stdout
    assert json.loads((tmp_path / "04_optimizer_comparison" / "run.json").read_text())["status"] == "ran"


def test_plain_papermill_runs_a_notebook_from_any_folder(make, tmp_path):
    body = make.code("claims.check('The seed is two', SEED == 2)", "seed")
    folder = make.write_notebooks(tmp_path / "project", n01_data=make.tiny("01_data", body))
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    command = [str(Path(sys.executable).with_name("papermill")), "-k", "workbook", "--no-progress-bar"]
    command += [str(folder / "01_data.ipynb"), "out.ipynb", "-p", "SEED", "2"]
    told = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert "✔ The seed is two" in (elsewhere / "out.ipynb").read_text()
    assert (artifacts.outputs() / "01_data" / "claims.json").exists()
