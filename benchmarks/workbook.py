"""The whole workbook, seconds and memory of each notebook, against its own last release or another commit."""

import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import results
from helpers import artifacts, kernel, outcomes, processor

SLOWER = 0.9  # share of the other tree's speed that each notebook keeps at least


def measure(
    *, repeats: int, against: str | None = None, profile: str = "quick", numbers: tuple[str, ...] = (), **_: object
) -> results.Result:
    """Runs all notebooks of this tree and of an earlier one in turn, each time into an empty folder.

    Args:
        repeats: Rounds.
        against: The commit to compare with; the last release if not given.
        profile: As in `python -m helpers run`; `"default"` for the notebooks' own values.
        numbers: Which notebooks; all if none is named.

    Raises:
        ValueError: If there is no such commit, or it has no notebooks.
        RuntimeError: If a notebook of this tree fails.
    """
    revision = _commit(against) if against else last_release()
    trees = {"ours": artifacts.root()}
    runs: dict[str, list[dict]] = {}
    with contextlib.ExitStack() as stack:
        if revision:
            other = f"{'commit' if against else 'release'} {revision}"
            trees[other] = stack.enter_context(checked_out(revision))
        else:
            print("  No release has notebooks: name a commit to compare with by --against.", file=sys.stderr)
        for name, tree in trees.items():
            _require_own_helpers(name, tree)
        for turn in range(repeats):
            for name in list(trees)[:: 1 if turn % 2 == 0 else -1]:
                runs.setdefault(name, []).append(_run(name, trees[name], profile, numbers))
    return _result(runs, repeats, profile, revision)


def last_release() -> str | None:
    """Returns the newest commit that changed the version in pyproject.toml and has notebooks; `None` without one."""
    commits = _git("log", "--format=%h", "-G^version *=", "--", "pyproject.toml").split()
    return next((commit for commit in commits if _git("ls-tree", commit, "notebooks/")), None)


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Yields a folder with the files of a commit, which is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(tree), revision)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _commit(revision: str) -> str:
    found = _git("rev-parse", "--short", f"{revision}^{{commit}}").strip()
    if not _git("ls-tree", found, "notebooks/"):
        raise ValueError(f"{revision} has no notebooks: name another commit with --against.")
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(artifacts.root()), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def _environment(tree: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(tree), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _require_own_helpers(name: str, tree: Path) -> None:
    """Raises if a kernel that is started for a tree imports the helpers of another one."""
    import nbclient
    import nbformat

    cell = nbformat.v4.new_code_cell("import helpers; print(helpers.__file__)")
    client = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=[cell]), kernel_name=kernel.NAME)
    client.execute(env=_environment(tree), stderr=subprocess.DEVNULL)
    imported = Path(cell.outputs[0]["text"].strip())
    if tree.resolve() not in imported.resolve().parents:
        raise RuntimeError(f"The kernel of {name} imports {imported}: another tree would be measured.")


def _run(name: str, tree: Path, profile: str, numbers: tuple[str, ...]) -> dict:
    """Returns for each notebook how it went, and what the whole run took."""
    chosen = [] if profile == "default" else ["--profile", profile]
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "helpers", "run", *numbers, *chosen, "--output", output]
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, cwd=tree, env=_environment(tree), capture_output=True, text=True, check=False)
        seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
        written = sorted(Path(output).glob(f"*/{outcomes.FILE}"))
        found = {path.parent.name: json.loads(path.read_text()) for path in written}
    bad = {stem: one.get("error") or "a claim failed" for stem, one in found.items()
           if one["status"] != outcomes.RAN or one["held"] != one["claimed"]}  # fmt: skip
    if bad or not found:
        why = "; ".join(f"{stem}: {error}" for stem, error in bad.items()) or done.stderr.strip()[-400:]
        other = "" if name == "ours" else " It may need other packages than this .venv has."
        raise RuntimeError(f"The notebooks of {name} do not run to their end here: {why}.{other}")
    print(f"  {name}: {seconds:.0f} s", file=sys.stderr, flush=True)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {stem: {"seconds": one["seconds"], "peak_mb": one["peak_bytes"] / 1e6} for stem, one in found.items()}
    return {"seconds": seconds, "cpu_seconds": cpu, "notebooks": figures}


def _result(runs: dict[str, list[dict]], repeats: int, profile: str, revision: str | None) -> results.Result:
    rows, ratios, goals = [], [], []
    for stem in runs["ours"][0]["notebooks"]:
        compared = [name for name, found in runs.items() if all(stem in run["notebooks"] for run in found)]
        for key, word, unit in (("seconds", "seconds", "s"), ("peak_mb", "peak memory", "MB")):
            values = {name: [run["notebooks"][stem][key] for run in runs[name]] for name in compared}
            what = f"notebook {stem[:2]}, {profile}: {word}"
            more = results.compare(what, unit, values, less_is_better=True)
            rows, ratios = rows + more[0], ratios + more[1]
            if key == "seconds":
                goals += [_goal(what, one) for one in more[1]]
    whole = f"the whole workbook, {profile}: seconds"
    more = results.compare(whole, "s", {name: [run["seconds"] for run in found] for name, found in runs.items()},
                           less_is_better=True)  # fmt: skip
    rows, ratios, goals = rows + more[0], ratios + more[1], goals + [_goal(whole, one) for one in more[1]]
    other = next((name for name in runs if name != "ours"), "its last release")
    wall, cpu = (statistics.median(run[key] for run in runs["ours"]) for key in ("seconds", "cpu_seconds"))
    ideal = cpu / processor.cores()
    return results.Result(
        question=f"What does the whole workbook take, and has a change made it slower than {other}?",
        held_equal=[f"the profile {profile}, an empty output folder each time, the same .venv for both, in turn",
                    f"each kernel imports its own tree's helpers; {_locks(revision)}"],
        repeats=repeats, machine=results.machine("tensorflow", "keras", "papermill", "ipykernel"),
        rows=rows, ratios=ratios, goals=goals, runs=runs, quoted=[whole],
        limits=[results.limit(
            "all cores busy from start to end with the processor time that it takes now", ideal, "s",
            reached=ideal / wall, why="six kernels start and import TensorFlow on one core each, and what notebooks "
            "measure picture by picture, or draw, uses one core",
        )],
    )  # fmt: skip


def _goal(what: str, ratio: dict) -> dict:
    return results.goal(f"at least {SLOWER} of the speed of {ratio['to']}", ratio["median"], at_least=SLOWER, what=what,
                        to=ratio["to"], why="the notebook does more than it did, or a change made it slower: see its "
                        "cells")  # fmt: skip


def _locks(revision: str | None) -> str:
    """Returns a clause on whether the other tree was locked with the packages that it is run with now."""
    if revision is None:
        return "no release has notebooks to compare with"
    try:
        theirs = _git("show", f"{revision}:requirements.lock")
    except ValueError:
        return f"{revision} has no lock of its own"
    own = (artifacts.root() / "requirements.lock").read_text(encoding="utf-8")
    pinned = [set(re.findall(r"^\S+==\S+", text, re.MULTILINE)) for text in (own, theirs)]
    differ = len(pinned[0] ^ pinned[1])
    return f"{differ} lines of the two locks differ" if differ else "both locks name the same packages"
