"""How the last run of each notebook went: recorded beside what it made."""

import json
from typing import NamedTuple

from helpers import artifacts

RAN, FAILED, SKIPPED = "ran", "failed", "skipped"
FILE = "run.json"  # in outputs/<stem>/


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


def record(outcome: Outcome) -> None:
    """Writes how a notebook's run went into its output folder."""
    artifacts.write_json(artifacts.outputs() / outcome.stem / FILE, outcome._asdict())


def read(stem: str) -> Outcome | None:
    """Returns how the last run of a notebook went; `None` if it was never run, or by another tool."""
    try:
        return Outcome(**json.loads((artifacts.outputs() / stem / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # TypeError: written by another version
        return None


def read_all() -> list[Outcome]:
    """Returns how the last run of each notebook in `artifacts.outputs()` went, in order."""
    stems = sorted(path.parent.name for path in artifacts.outputs().glob(f"*/{FILE}"))
    return [outcome for stem in stems if (outcome := read(stem)) is not None]
