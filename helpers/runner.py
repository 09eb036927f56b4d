"""Runs the numbered notebooks headless, each in a kernel of its own, and says how it went."""

import contextlib
import errno
import functools
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import artifacts, claims, kernel, lock, notebooks, outcomes, plans, stamp
from helpers.artifacts import size
from helpers.notebooks import Notebook
from helpers.outcomes import FAILED, RAN, SKIPPED, Outcome
from helpers.progress import RunProgress, duration

# How Python, HDF5, NumPy and SQLite say that a disk, a quota or a file-size limit is full.
_FULL = re.compile(
    rf"errno\W+(?P<number>{errno.ENOSPC}|{errno.EDQUOT}|{errno.EFBIG})\b|requested and \d+ written|disk is full", re.I
)
_LONGEST = 400  # signs of an error's message; the helpers' own sentences are shorter and end with what to do


def run(
    numbers: list[str] | None = None,
    *,
    profile: str | None = None,
    given: dict[str, object] | None = None,
    kernel_name: str = kernel.NAME,
    clean: bool = False,
) -> int:
    """Runs notebooks into `artifacts.outputs()`; returns 0 if every cell ran and every claim held, else 1.

    Args:
        numbers: Which (`["01", "03"]`); all of `notebooks/` if empty.
        profile: `"quick"`, `"full"`, or the path of a YAML file; see `plans.read_profile`.
        given: Parameter values, for each notebook that has a parameter of the name.
        kernel_name: Jupyter kernel to run in.
        clean: Whether each notebook begins without what an earlier run of it has left, such as finished
            trainings of a comparison.

    Raises:
        ValueError: For an unknown notebook, profile, parameter or kernel, a value that a notebook would
            refuse, a source that is not there, or pages that cannot be made; raised before any work.
        OSError: If the outputs cannot be written, or another run is writing there.
    """
    from helpers import report

    found = notebooks.find()
    chosen, values = plans.make(found, numbers or [], plans.read_profile(profile, found), given or {})
    if trouble := kernel.backend_problem() or kernel.problem(kernel_name) or report.problem():
        raise ValueError(trouble)
    _refuse_wrong_sources(chosen, values)
    asked = {plans.number_of(text, found) for text in numbers or []} or set(found)
    for notebook in (notebook for notebook in chosen if notebook.number not in asked):
        print(f"{notebook.stem} runs first: what was asked for needs it.", file=sys.stderr)
    with _sigterm_as_interrupt(), lock.held(artifacts.outputs()) as descriptor:
        if clean:
            for notebook in chosen:
                artifacts.remove(artifacts.outputs() / notebook.stem)
        went = _run_all(chosen, values, kernel_name, descriptor)
        index = _index()
    _print_summary(went, index)
    return 0 if all(outcome.status == RAN and outcome.held == outcome.claimed for outcome in went) else 1


def refresh(numbers: list[str] | None = None) -> int:
    """Runs notebooks with their defaults and writes them, ready to commit, into `notebooks/`.

    What they need runs first, with its defaults too: an earlier run may have had other parameters.
    All of them begin without what earlier runs have left.
    Nothing is written there unless every cell ran and every claim held.
    """
    found = notebooks.find()
    asked = {plans.number_of(text, found) for text in numbers or []} or set(found)
    status = run(sorted(asked | plans.needed(found, asked)), clean=True)
    if status != 0:
        print("Nothing was written into notebooks/: a cell or a claim failed.", file=sys.stderr)
        return status
    return _commit_ready([found[number] for number in sorted(asked)])


def _refuse_wrong_sources(chosen: list[Notebook], values: dict[str, dict]) -> None:
    # A wrong source is told now, before the pages and claims of the last run make way for a failed one.
    given = [{**notebook.defaults, **values[notebook.stem]} for notebook in chosen]
    asked = {(mine["SOURCE"], mine.get("QUERY")) for mine in given if mine.get("SOURCE")}
    for source, query in sorted(asked, key=repr):
        scheme = source.partition("://")[0].lower() if "://" in source else ""
        if not scheme:
            artifacts.expanded(source)  # refuses the home folder of nobody
        if scheme in ("http", "https"):  # fetched by the notebook, into its own folder
            continue
        if scheme and query is None:  # without a parameter for it, the notebook takes what another has queried
            continue
        from helpers import sources

        sources.glance(sources.open_source(source, query=query or ""))


def _run_all(chosen: list[Notebook], values: dict[str, dict], kernel_name: str, descriptor: int) -> list[Outcome]:
    went: list[Outcome] = []
    progress = RunProgress(sys.stderr)
    for notebook in chosen:
        lost = [o.stem for o in went if o.status != RAN and o.stem.split("_")[0] in notebook.needs]
        if lost:
            error = f"it needs {lost[0]}, which did not end well"
            outcome = Outcome(notebook.stem, notebook.title, SKIPPED, error=error)
        else:
            outcome = _run_one(notebook, values[notebook.stem], kernel_name, descriptor, progress)
        with artifacts.explained(artifacts.outputs() / notebook.stem):
            outcomes.record(outcome)
        progress.end(outcome)
        went.append(outcome)
    return went


def _run_one(notebook: Notebook, values: dict, kernel_name: str, descriptor: int, progress: RunProgress) -> Outcome:
    from papermill.execute import execute_notebook

    from helpers import engine, report

    folder = artifacts.outputs() / notebook.stem
    with artifacts.explained(folder):  # what is to be said of this run if nothing comes after
        outcomes.record(Outcome(notebook.stem, notebook.title, FAILED, error="it was interrupted"))
        (folder / "claims.json").unlink(missing_ok=True)
    content = notebooks.load(notebook.path)
    progress.begin(notebook.stem, content.cells, inserted=bool(values))
    watch = engine.Watch(
        progress.cell,
        lambda text: progress.words(_concealed(text, values)),
        lambda: progress.tick(watch.seconds, watch.peak_bytes),
        keep_open=(descriptor,),
    )
    error = ""
    try:
        execute_notebook(
            content, None, values, engine_name=engine.NAME, kernel_name=kernel_name, progress_bar=False, watch=watch
        )
    except Exception as raised:  # a cell's error, a dead kernel, a kernel that does not start
        error = _concealed(_reason(raised, progress.position, watch.end), values)
    finally:  # a notebook that fails or is interrupted does not reach its cell that tidies up
        artifacts.remove_partial(folder)
    watch.finish()
    executed = watch.notebook or content
    waiting = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source and not cell.execution_count]
    if waiting and not error:
        error = f"it stopped after {progress.position} without an error, and the cell {waiting[0].id!r} never ran"
    executed.metadata.pop("papermill", None)
    if not error:
        executed.metadata[stamp.KEY] = stamp.make(executed, watch.seconds)
    _hide_secrets(executed, values)
    if values.get("SOURCE") or _prepared_from():
        notebooks.mark_default_data(executed)
    with artifacts.explained(folder):
        notebooks.write(executed, folder / f"{notebook.stem}.ipynb")
        page = report.page(executed, notebook.title)
        with artifacts.writing(folder / f"{notebook.stem}.html") as partial:
            partial.write_text(page, encoding="utf-8")
    recorded = [entry for entry in claims.read(notebook.stem) if entry["held"] is not None]  # those that were judged
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


def _prepared_from() -> str:
    """Returns where the pictures come from that notebook 01 has prepared; nothing for the default ones, or for none."""
    manifest = artifacts.outputs() / "01_data_preparation" / "dataset" / "manifest.json"
    try:
        return json.loads(manifest.read_text(encoding="utf-8"))["parameters"]["SOURCE"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def _hide_secrets(executed: "nbformat.NotebookNode", values: dict) -> None:  # noqa: F821
    # An address may hold a password; what is written down is the address without it.
    from papermill.translators import PythonTranslator

    shown = {name: artifacts.public(value) if isinstance(value, str) else value for name, value in values.items()}
    for cell in executed.cells:
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = PythonTranslator.codify(shown)
        if cell.cell_type == "code":
            cell.outputs = [_concealed(output, values) for output in cell.outputs]


def _concealed(output: object, values: dict) -> object:
    if isinstance(output, str):
        return functools.reduce(artifacts.concealed, (one for one in values.values() if isinstance(one, str)), output)
    if isinstance(output, list):
        return [_concealed(one, values) for one in output]
    if isinstance(output, dict):  # pictures are no text
        same = {name: one for name, one in output.items() if name.startswith("image/") and name != "image/svg+xml"}
        return type(output)({name: same.get(name) or _concealed(one, values) for name, one in output.items()})
    return output


def _reason(raised: Exception, position: str, end: str) -> str:
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    from helpers.records import shortened

    if isinstance(raised, PapermillExecutionError):
        if full := _FULL.search(str(raised.evalue)):  # nothing that follows could write either
            number = int(full["number"] or errno.ENOSPC)
            raise OSError(number, artifacts.explain(OSError(number, os.strerror(number)), artifacts.outputs()))
        return f"{position} raised {raised.ename}: {shortened(str(raised.evalue), _LONGEST)}".removesuffix(": ")
    if isinstance(raised, DeadKernelError) or "Kernel died" in str(raised):
        return f"the kernel ended in {position} {end}"
    return f"{type(raised).__name__} at {position}: {shortened(str(raised), _LONGEST)}"


def _commit_ready(chosen: list[Notebook]) -> int:
    ready = []
    for notebook in chosen:
        executed = notebooks.load(artifacts.outputs() / notebook.stem / f"{notebook.stem}.ipynb")
        try:
            ready.append((notebook.path, notebooks.normalise(executed)))
        except ValueError as error:
            raise ValueError(f"{notebook.path.name} cannot be committed, and nothing was written: {error}") from None
    for path, content in ready:
        notebooks.write(content, path)
        print(f"Refreshed {path}")
    return 0


def _print_summary(went: list[Outcome], index: Path) -> None:
    from helpers import report

    width = max(len(outcome.stem) for outcome in went)
    print(f"{'notebook':<{width}}  {'time':>8}  {'memory':>8}  claims held")
    for o in went:
        end = f"{o.held} of {o.claimed}"
        if o.status != RAN:
            end = f"{o.status}: {o.error}"
        time_taken, memory = (duration(o.seconds), size(o.peak_bytes)) if o.status != SKIPPED else ("–", "–")
        print(f"{o.stem:<{width}}  {time_taken:>8}  {memory:>8}  {end}")
    for o in went:
        for entry in claims.read(o.stem) if o.status != SKIPPED else []:
            if entry["held"] is False:
                print(
                    f"✘ {o.stem}: {entry['claim']} (measured {entry['measured']}, expected {claims.bound_text(entry)})"
                )
    for o in went:
        if o.status == RAN and (words := report.in_words(o.stem)):
            print(f"\n{o.title.partition(':')[0]}\n{words}")
    print(f"\nPages: {index}")
    served, trained = (artifacts.outputs() / path for path in ("registry/classifier", "03_cnn_training/model.keras"))
    models = {served / "promoted": served, trained: trained}
    written = sorted(filter(Path.is_file, models), key=lambda path: path.stat().st_mtime)  # the last was made last
    if written and went[-1].status == RAN:
        model = models[written[-1]]
        asked = model == served and artifacts.outputs() == artifacts.root() / "outputs"
        named = "" if asked else f"--model {shlex.quote(str(model))} "
        print(f"Ask it: python -m helpers predict {named}photo.jpg")


def _index() -> Path:
    from helpers import report

    with artifacts.explained(artifacts.outputs()):
        return report.write_index(outcomes.read_all())


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    # A batch system or a closed terminal ends a run as Ctrl-C does: the kernel is shut down first.
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:  # as `nohup` asks
            continue
        with contextlib.suppress(ValueError):  # not in the main thread
            before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
