"""What a benchmark found, in one form for all: plain JSON values, medians with their spread, goals held or missed.

A ratio says how many times as good ours is: above 1, ours is ahead. The raw figures of all rounds are kept beside it.
"""

import itertools
import json
import math
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from benchmarks import side_by_side
from helpers import artifacts, processor

OURS = "ours"
_ASK = """
import contextlib, json, platform, sys
from importlib import metadata
found = {"Python": platform.python_version()}
for name in sys.argv[1:]:
    with contextlib.suppress(metadata.PackageNotFoundError):
        found[name] = metadata.version(name)
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Result:
    """What one benchmark found.

    Attributes:
        question: What it asks, one sentence.
        held_equal: What was the same for all that took part, a clause each.
        repeats: Rounds; in each of them all took their turn.
        machine: As `machine` returns it.
        rows: Figures, as `row` and `compare` return them.
        ratios: As `ratio` and `compare` return them.
        limits: As `limit` returns them: what the machine could do at most.
        goals: As `goal` returns them. A missed one stays, with the reason.
        runs: What was measured, before any median; any JSON value.
        quoted: The `what` of those comparisons and goals that the tables quote; all of them if empty.
        taken: When, in how many seconds and at which commit; the command line fills it in.
    """

    question: str
    held_equal: list[str]
    repeats: int
    machine: dict
    rows: list[dict]
    ratios: list[dict] = field(default_factory=list)
    limits: list[dict] = field(default_factory=list)
    goals: list[dict] = field(default_factory=list)
    runs: object = None
    quoted: list[str] = field(default_factory=list)
    taken: dict = field(default_factory=dict)


def row(what: str, unit: str, values: Iterable[float], *, of: str = OURS) -> dict:
    """Returns one figure of one peer over all rounds.

    Args:
        what: What is measured, such as `"one picture, p50"`; the same for all peers.
        unit: Such as `"ms"`.
        values: One a round.
        of: Whose figure it is.

    Example:

    >>> row("one picture", "ms", [3.0, 1.0, 2.0])
    {'what': 'one picture', 'of': 'ours', 'unit': 'ms', 'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    values = [float(value) for value in values]
    figures = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return {"what": what, "of": of, "unit": unit, **figures}


def ratio(
    what: str, to: str, ours: list[float], theirs: list[float], *, less_is_better: bool = False, name: str = OURS
) -> dict:
    """Returns how many times as good ours is as a peer, round by round.

    Args:
        what: As in `row`.
        to: The peer.
        ours: One figure a round.
        theirs: The same of the peer.
        less_is_better: Whether they are seconds, bytes or the like.
        name: What ours is called.

    Example:

    >>> ratio("one picture", "LiteRT", [2.0, 2.0, 4.0], [4.0, 6.0, 4.0], less_is_better=True)
    {'what': 'one picture', 'ours': 'ours', 'to': 'LiteRT', 'median': 2.0, 'low': 1.0, 'high': 3.0}
    """
    found = side_by_side.ratios(theirs, ours) if less_is_better else side_by_side.ratios(ours, theirs)
    return {"what": what, "ours": name, "to": to, **found}


def compare(
    what: str, unit: str, values: dict[str, list[float]], *, less_is_better: bool = False
) -> tuple[list[dict], list[dict]]:
    """Returns the rows of all peers for one figure, and the ratios of ours to each other one.

    Args:
        what: As in `row`.
        unit: As in `row`.
        values: For each peer its figure of each round; `OURS` is one of them.
        less_is_better: As in `ratio`.
    """
    rows = [row(what, unit, found, of=name) for name, found in values.items()]
    ratios = [
        ratio(what, name, values[OURS], found, less_is_better=less_is_better)
        for name, found in values.items()
        if name != OURS
    ]
    return rows, ratios


def limit(limit: str, value: float, unit: str, *, reached: float, why: str) -> dict:
    """Returns what the machine could do at most.

    Args:
        limit: What sets it, such as `"arithmetic of two cores, float32"`.
        value: The figure that it would allow.
        unit: Of that figure.
        reached: How much of it ours reaches, 0 to 1.
        why: Where the rest goes, one sentence.
    """
    return {"limit": limit, "value": float(value), "unit": unit, "reached": float(reached), "why": why}


def goal(
    goal: str, measured: float, *, why: str, at_least: float | None = None, at_most: float | None = None,
    unit: str = "times", what: str = "", to: str = "",
) -> dict:  # fmt: skip
    """Returns a goal beside what was measured.

    Args:
        goal: One clause, such as `"1.5 times Keras's defaults"`.
        measured: The median.
        why: What keeps the figure where it is: the reason that is printed if the goal is missed.
        at_least: The bound, if more is better.
        at_most: The bound, if less is better.
        unit: Of the measured figure and the bound.
        what: The comparison that it belongs to, so that the tables show both in one line.
        to: The peer of that comparison.

    Raises:
        ValueError: If there is no reason, or not exactly one bound.

    Example:

    >>> goal("under 0.3 s", 0.4, at_most=0.3, unit="s", why="imports take it")["held"]
    False
    """
    if not why.strip():
        raise ValueError(f"The goal {goal!r} has no reason: say what keeps the figure where it is.")
    if (at_least is None) == (at_most is None):
        raise ValueError(f"The goal {goal!r} needs one bound: give at_least or at_most.")
    held = measured >= at_least if at_least is not None else measured <= at_most
    bound = {"at_least": at_least} if at_least is not None else {"at_most": at_most}
    found = {"goal": goal, "measured": float(measured), **bound, "unit": unit, "held": bool(held), "why": why}
    return {"what": what or goal, "to": to, **found}


def machine(*packages: str, others: dict[str, tuple[str, ...]] | None = None) -> dict:
    """Returns what a reader must know to compare figures: processor, cores, memory, system, versions.

    Args:
        packages: Of this Python whose versions matter.
        others: For another Python's path the packages that matter there.
    """
    versions = _versions(sys.executable, packages)
    for python, names in (others or {}).items():
        theirs = _versions(python, names)
        theirs.pop("Python")
        versions |= theirs
    memory = round(psutil.virtual_memory().total / 1e9)
    found = {"processor": processor.name(), "cores": processor.cores(), "system": platform.system()}
    return {**found, "memory_gb": memory, "versions": versions}


def write(name: str, result: Result) -> Path:
    """Writes a result into `outputs/benchmarks`.

    Raises:
        ValueError: If a figure is not a number.
    """
    return artifacts.write_json(folder() / f"{name}.json", asdict(result))


def read(path: Path) -> Result | None:
    """Reads a result; `None` if it is not there or has another form."""
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def folder() -> Path:
    """Returns where results are written."""
    return artifacts.outputs() / "benchmarks"


def growth(sizes: list[float], values: list[float]) -> list[float]:
    """Returns the exponent of growth from each size to the next.

    Example:

    >>> growth([10, 100, 1000], [2, 200, 2000])
    [2.0, 1.0]
    """
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True)]
    return [round((y - before) / (x - start), 6) for (start, before), (x, y) in itertools.pairwise(points)]


def _versions(python: str, packages: Iterable[str]) -> dict[str, str]:
    done = subprocess.run([python, "-c", _ASK, *packages], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)
