"""The progress of a run on a terminal (one live line) or in a log (a line for each section)."""

import re
import shutil
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from helpers.artifacts import size
from helpers.outcomes import RAN, Outcome


def duration(seconds: float) -> str:
    """Returns a time for eyes.

    >>> duration(41.3), duration(184)
    ('41 s', '3:04 min')
    """
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60}:{whole % 60:02d} min"


class RunProgress:
    """Says on a stream where a run is: notebook, code cell i of n, section."""

    def __init__(self, stream: TextIO):
        self._stream = stream
        self._live = stream.isatty()
        self._lock = threading.Lock()  # ticks come from another thread
        self.begin("", [], inserted=False)

    def begin(self, stem: str, cells: list, *, inserted: bool) -> None:
        """Begins a notebook.

        Args:
            stem: Its name.
            cells: Its cells, before parameters are inserted.
            inserted: Whether one more cell, with parameters, comes after the one tagged `parameters`.
        """
        self._stem = stem
        self._cells = list(cells)
        if inserted:
            tagged = [i for i, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", [])]
            at = tagged[0] + 1 if tagged else 0
            self._cells.insert(at, _INSERTED)
        self._count = sum(_is_code(cell) for cell in self._cells)
        self._at = 0
        self._section = self._told = self._words = ""
        self.tick(0, 0)

    @property
    def position(self) -> str:
        return f"cell {self._at} of {self._count}"

    def cell(self, index: int) -> None:
        """Notes that the cell at `index` begins."""
        cell = self._cells[index]
        self._words = ""
        if not _is_code(cell):
            heading = re.search(r"^##+ (.+)$", cell["source"], re.MULTILINE)
            self._section = heading[1].strip() if heading else self._section
            return
        self._at += 1
        if not self._live and (self._at == 1 or self._section != self._told):
            self._told = self._section
            self._write(f"{self._stem}: cell {self._at}/{self._count}{' · ' if self._section else ''}{self._section}\n")

    def words(self, text: str) -> None:
        """Passes on what the cell says of its long work: its last line on the live line, or each in the log."""
        lines = [line.rsplit("\r", 1)[-1] for line in text.splitlines() if line.strip()]
        if lines and self._live:
            self._words = lines[-1]
        elif lines:
            self._write("".join(f"{self._stem}: {line}\n" for line in lines))

    def tick(self, seconds: float, peak_bytes: int) -> None:
        """Brings the live line up to date."""
        if not self._live or not self._stem:
            return
        text = (
            f"{self._stem}  cell {self._at}/{self._count} · {duration(seconds)} · {size(peak_bytes)} · "
            f"{self._words or self._section}"
        )
        width = shutil.get_terminal_size().columns - 1
        self._write(f"{self._clear()}{text[:width]}")

    def end(self, outcome: Outcome) -> None:
        """Leaves one lasting line on how the notebook went."""
        if outcome.status == RAN:
            text = (
                f"{outcome.cells} cells, {duration(outcome.seconds)}, {size(outcome.peak_bytes)}, "
                f"{outcome.held} of {outcome.claimed} claims held"
            )
        else:
            text = f"{outcome.status}: {outcome.error}"
        self._write(f"{self._clear()}{outcome.stem}: {text}\n")
        self._stem = ""

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()


_INSERTED = {"cell_type": "code", "source": "# parameters"}


def _is_code(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool(cell["source"].strip())


def ticker() -> Callable[[str], None]:
    """Returns a function that says where long work is: on stderr, or in JupyterLab in one line that is overwritten."""
    from IPython.display import display

    from helpers import widgets

    if not widgets.watched():
        return lambda line: print(line, file=sys.stderr, flush=True)
    shown = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda line: shown.update({"text/plain": line}, raw=True)
