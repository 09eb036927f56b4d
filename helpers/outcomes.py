"""How the last run of each notebook went: recorded beside what it made."""

import json
import typing
from typing import NamedTuple

from helpers import artifacts

RAN, FAILED, SKIPPED = "ran", "failed", "skipped"
COMMITTED = "not run here: the committed notebook"  # what a report says where a folder holds no run
FILE = "run.json"  # in outputs/<stem>/


class Outcome(NamedTuple):
    """How one notebook's run went."""

    stem: str
    title: str
    status: str  # RAN, FAILED, SKIPPED or COMMITTED
    cells: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    held: int = 0
    claimed: int = 0
    error: str = ""


def record(outcome: Outcome) -> None:
    """Writes how a notebook's run went into its output folder."""
    artifacts.write_json(artifacts.outputs() / outcome.stem / FILE, outcome._asdict())


def read(stem: str) -> Outcome | None:
    """Returns how the last run of a notebook went; `None` if it was never run, or by another tool, or is not told."""
    try:
        outcome = Outcome(**json.loads((artifacts.outputs() / stem / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # TypeError: written by another version
        return None
    kinds = typing.get_type_hints(Outcome)
    whole = all(isinstance(value, int | kinds[name] if kinds[name] is float else kinds[name])
                for name, value in outcome._asdict().items())  # fmt: skip
    return outcome if whole and outcome.stem == stem else None


def read_all() -> list[Outcome]:
    """Returns how the last run of each notebook in `artifacts.outputs()` went, in order."""
    stems = sorted(path.parent.name for path in artifacts.outputs().glob(f"*/{FILE}"))
    return [outcome for stem in stems if (outcome := read(stem)) is not None]
