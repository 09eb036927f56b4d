"""Runs the numbered notebooks headless, each in a kernel of its own, and says how it went."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import artifacts, claims, kernel, notebooks
from helpers.notebooks import Notebook
from helpers.progress import Progress, duration, size

RAN, FAILED, SKIPPED = "ran", "failed", "skipped"
_RECORD = "run.json"  # in outputs/<stem>/: how the last run of that notebook went
# How Python, HDF5, NumPy and SQLite say that a disk, a quota or a file-size limit is full.
_FULL = re.compile(rf"errno\W+({errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\b|requested and \d+ written|disk is full", re.I)
_PATIENCE = 5  # seconds to wait for the kernel of a killed run to follow it


class Outcome(NamedTuple):
    """How one notebook's run went."""

    stem: str
    title: str
    status: str  # RAN, FAILED or SKIPPED
    cells: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    held: int = 0
    claimed: int = 0
    error: str = ""


def run(
    numbers: list[str] | None = None,
    *,
    profile: str | None = None,
    given: dict[str, object] | None = None,
    kernel_name: str = kernel.NAME,
) -> int:
    """Runs notebooks into `artifacts.outputs()`; returns 0 if every cell ran and every claim held, else 1.

    Args:
        numbers: Which (`["01", "03"]`); all of `notebooks/` if empty.
        profile: `"quick"`, `"full"`, or the path of a YAML file; see `read_profile`.
        given: Parameter values, for each notebook that has a parameter of the name.
        kernel_name: Jupyter kernel to run in.

    Raises:
        ValueError: For an unknown notebook, profile, parameter or kernel, or a value that a
            notebook would refuse; raised before any work.
        OSError: If the outputs cannot be written, or another run is writing there.
    """
    found = notebooks.find()
    chosen, values = plan(found, numbers or [], read_profile(profile, found), given or {})
    if trouble := kernel.problem(kernel_name):
        raise ValueError(trouble)
    asked = {_number(text, found) for text in numbers or []} or set(found)
    for notebook in (notebook for notebook in chosen if notebook.number not in asked):
        print(f"{notebook.stem} runs first: what was asked for needs it.", file=sys.stderr)
    with _sigterm_as_interrupt(), locked(artifacts.outputs()) as lock:
        outcomes = _run_all(chosen, values, kernel_name, lock)
        index = _index()
    _print_summary(outcomes, index)
    return 0 if all(o.status == RAN and o.held == o.claimed for o in outcomes) else 1


def refresh(numbers: list[str] | None = None) -> int:
    """Runs notebooks with their defaults and writes them, ready to commit, into `notebooks/`.

    Nothing is written there unless every cell ran and every claim held.
    """
    status = run(numbers)
    if status != 0:
        print("Nothing was written into notebooks/: a cell or a claim failed.", file=sys.stderr)
        return status
    found = notebooks.find()
    return _commit_ready(plan(found, numbers or [], {}, {})[0])


def plan(
    found: dict[str, Notebook], numbers: list[str], profile: dict[str, dict], given: dict[str, object]
) -> tuple[list[Notebook], dict[str, dict]]:
    """Returns the notebooks to run in order, and the parameters of each by stem.

    To those that are asked for come the ones they need: when they have not been run yet, and when
    a value in `given` is theirs alone (`run 03 -p SOURCE pictures` prepares the pictures anew).

    Raises:
        ValueError: If there is no such notebook or parameter, or a value does not fit.
    """
    chosen = {_number(text, found) for text in numbers} or set(found)
    reach = _needed(found, chosen)
    for name in given:
        if any(name in found[number].defaults for number in chosen):
            continue
        owners = {number for number in reach if name in found[number].defaults}
        if not owners:
            names = sorted({known for number in chosen | reach for known in found[number].defaults})
            raise ValueError(f"No notebook of this run has a parameter {name}: {notebooks.hint(name, names)}")
        chosen |= owners | {number for number in reach if _needed(found, {number}) & owners}
    chosen |= {number for number in reach - chosen if not _made(found[number])}
    order = [found[number] for number in sorted(chosen)]
    values = {}
    for notebook in order:
        mine = {name: value for name, value in given.items() if name in notebook.defaults}
        values[notebook.stem] = notebooks.with_parameters(notebook, {**profile.get(notebook.stem, {}), **mine})
    return order, values


def read_profile(name: str | None, found: dict[str, Notebook]) -> dict[str, dict]:
    """Returns the parameters that a profile gives to each notebook, by stem.

    A profile is YAML: a section for each notebook, named by its stem, with parameters and values.

    Raises:
        ValueError: If there is no such profile, or it is not of that form.
    """
    if name is None:
        return {}
    import yaml

    folder = artifacts.root() / "notebooks" / "profiles"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        path = Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"There is no profile {name!r}: name one of {known}, or a YAML file.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no sections: write `<notebook stem>:` and below it `NAME: value` lines.")
    stems = [notebook.stem for notebook in found.values()]
    for stem, section in content.items():
        if stem not in stems:
            raise ValueError(f"{path} has a section {stem!r}, which is no notebook: it can have {', '.join(stems)}.")
        if not isinstance(section, dict):
            raise ValueError(f"The section {stem} of {path} holds no `NAME: value` lines.")
    return content


def records() -> list[Outcome]:
    """Returns how the last run of each notebook in `artifacts.outputs()` went, in order."""
    found = []
    for path in sorted(artifacts.outputs().glob(f"*/{_RECORD}")):
        with contextlib.suppress(ValueError, TypeError):  # of another version
            found.append(Outcome(**json.loads(path.read_text(encoding="utf-8"))))
    return found


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Makes `folder`, holds its lock for the block, and yields the lock's file descriptor.

    The kernels inherit the descriptor: when a run is killed, the lock lasts until its kernel,
    which ends within a second, can write no more.

    Raises:
        OSError: If the folder cannot be written, the disk is almost full, or another run holds it.
    """
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise OSError(error.errno, artifacts.explain(error, folder)) from error
    try:
        _acquire(fcntl, descriptor, folder)
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            if shutil.disk_usage(folder).free < artifacts._MINIMUM_FREE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for leftover in folder.glob(artifacts._PARTIAL + "*"):
                artifacts._remove(leftover)
        except OSError as error:
            raise OSError(error.errno, artifacts.explain(error, folder)) from error
        yield descriptor
    finally:
        os.close(descriptor)


def _acquire(fcntl, descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            owner = os.pread(descriptor, 20, 0).decode(errors="replace").strip() or "unknown"
            raise OSError(
                errno.EAGAIN,
                f"Another run (process {owner}) is writing to {folder}: "
                "wait until it ends, or name another folder with --output.",
            ) from None


def _run_all(chosen: list[Notebook], values: dict[str, dict], kernel_name: str, lock: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    progress = Progress(sys.stderr)
    for notebook in chosen:
        lost = [o.stem for o in outcomes if o.status != RAN and o.stem.split("_")[0] in notebook.needs]
        if lost:
            outcome = Outcome(notebook.stem, notebook.title, SKIPPED, error=f"it needs {lost[0]}, which did not end well")
        else:
            outcome = _run_one(notebook, values[notebook.stem], kernel_name, lock, progress)
        folder = artifacts.outputs() / notebook.stem
        with _explained(folder):
            artifacts.write_json(folder / _RECORD, outcome._asdict())
        progress.end(outcome)
        outcomes.append(outcome)
    return outcomes


def _run_one(notebook: Notebook, values: dict, kernel_name: str, lock: int, progress: Progress) -> Outcome:
    import nbformat
    from papermill.execute import execute_notebook

    from helpers import engine, report

    folder = artifacts.outputs() / notebook.stem
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for stale in (_RECORD, "claims.json"):
            (folder / stale).unlink(missing_ok=True)
    content = nbformat.read(notebook.path, as_version=4)
    progress.begin(notebook.stem, content.cells, inserted=bool(values))
    watch = engine.Watch(progress.cell, lambda: progress.tick(watch.seconds, watch.peak_bytes), keep_open=(lock,))
    error = ""
    try:
        execute_notebook(
            content, None, values, engine_name=engine.NAME, kernel_name=kernel_name, progress_bar=False, watch=watch
        )
    except Exception as raised:  # a cell's error, a dead kernel, a kernel that does not start
        error = _reason(raised, progress.position, watch.end)
    watch.finish()
    executed = watch.notebook or content
    waiting = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source and not cell.execution_count]
    if waiting and not error:
        error = f"it stopped after {progress.position} without an error, and the cell {waiting[0].id!r} never ran"
    executed.metadata.pop("papermill", None)
    page = report.page(executed, notebook.title)
    with _explained(folder):
        notebooks.write(executed, folder / f"{notebook.stem}.ipynb")
        with artifacts.writing(folder / f"{notebook.stem}.html") as partial:
            partial.write_text(page, encoding="utf-8")
    recorded = claims.read(notebook.stem)
    return Outcome(
        notebook.stem,
        notebook.title,
        FAILED if error else RAN,
        cells=sum(cell.cell_type == "code" for cell in executed.cells),
        seconds=round(watch.seconds, 1),
        peak_bytes=watch.peak_bytes,
        held=sum(entry["held"] for entry in recorded),
        claimed=len(recorded),
        error=error,
    )


def _reason(raised: Exception, position: str, end: str) -> str:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if isinstance(raised, PapermillExecutionError):
        if _FULL.search(str(raised.evalue)):  # nothing that follows could write either
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise OSError(errno.ENOSPC, artifacts.explain(full, artifacts.outputs()))
        return f"{position} raised {raised.ename}: {' '.join(str(raised.evalue).split())[:300]}".removesuffix(": ")
    if isinstance(raised, DeadKernelError) or "Kernel died" in str(raised):
        return f"the kernel ended in {position} {end}"
    return f"{type(raised).__name__} at {position}: {' '.join(str(raised).split())[:300]}"


def _commit_ready(chosen: list[Notebook]) -> int:
    import nbformat

    ready = []
    for notebook in chosen:
        executed = nbformat.read(artifacts.outputs() / notebook.stem / f"{notebook.stem}.ipynb", as_version=4)
        try:
            ready.append((notebook.path, notebooks.normalise(executed)))
        except ValueError as error:
            raise ValueError(f"{notebook.path.name} cannot be committed, and nothing was written: {error}") from None
    for path, content in ready:
        notebooks.write(content, path)
        print(f"Refreshed {path}")
    return 0


def _print_summary(outcomes: list[Outcome], index: Path) -> None:
    width = max(len(outcome.stem) for outcome in outcomes)
    print(f"{'notebook':<{width}}  {'time':>8}  {'memory':>8}  claims held")
    for o in outcomes:
        end = f"{o.held} of {o.claimed}"
        if o.status != RAN:
            end = f"{o.status}: {o.error}"
        time_taken, memory = (duration(o.seconds), size(o.peak_bytes)) if o.status != SKIPPED else ("–", "–")
        print(f"{o.stem:<{width}}  {time_taken:>8}  {memory:>8}  {end}")
    for o in outcomes:
        for entry in claims.read(o.stem) if o.status != SKIPPED else []:
            if not entry["held"]:
                print(f"✘ {o.stem}: {entry['claim']} (measured {entry['measured']}, expected {claims.bound_text(entry)})")
    print(f"Pages: {index}")


def _index() -> Path:
    from helpers import report

    with _explained(artifacts.outputs()):
        return report.write_index(records())


def _needed(found: dict[str, Notebook], numbers: set[str]) -> set[str]:
    reached: set[str] = set()
    waiting = list(numbers)
    while waiting:
        for need in found[waiting.pop()].needs:
            if need in found and need not in reached:
                reached.add(need)
                waiting.append(need)
    return reached


def _made(notebook: Notebook) -> bool:
    folder = artifacts.outputs() / notebook.stem
    try:
        return json.loads((folder / _RECORD).read_text(encoding="utf-8"))["status"] == RAN
    except (OSError, ValueError, KeyError):
        return any(folder.rglob("manifest.json"))  # run by JupyterLab or plain papermill


def _number(text: str, found: dict[str, Notebook]) -> str:
    stem = Path(text).stem
    number = stem.split("_")[0].zfill(2)
    if number not in found or (not stem.isdigit() and stem != found[number].stem):
        raise ValueError(f"There is no notebook {text!r}: there are {', '.join(n.stem for n in found.values())}.")
    return number


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, artifacts.explain(error, folder)) from error


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    # A batch system or a closed terminal ends a run as Ctrl-C does: the kernel is shut down first.
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
