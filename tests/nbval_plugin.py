"""nbval as this project uses it: stderr is never compared, `;` hides a result, numbers may have a tolerance.

A cell tagged `nbval-tolerance-0.05` passes when its text is the same but for the numbers, and each
number is within 0.05 of the stored one, absolutely or relatively. `python -m pytest -p
tests.nbval_plugin --nbval …` loads it.
"""

import math
import re

import pytest
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell

TAG = re.compile(r"nbval-tolerance-(\d*\.?\d+(?:e-?\d+)?)")
# Numbers that stand alone: not the 2 of conv_2, nor those of 28x28.
_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)"
_NUMBER = re.compile(rf"(?<![\w.])[-+−]?(?:{_WHOLE}(?:\.\d*)?|\.\d+)(?:e[-+]?\d+)?(?!\w)", re.IGNORECASE)


class Tolerant(str):
    """A text that equals another when only its numbers differ, and those by little."""

    tolerance: float

    def __new__(cls, text: str, tolerance: float):
        self = super().__new__(cls, text)
        self.tolerance = tolerance
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        mask, numbers = split(str(self))
        other_mask, others = split(str(other))
        if mask != other_mask:
            return False
        return all(
            math.isclose(a, b, rel_tol=self.tolerance, abs_tol=self.tolerance)
            for a, b in zip(numbers, others, strict=True)
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


def split(text: str) -> tuple[str, list[float]]:
    """Returns a text with its numbers masked and blanks joined (columns widen with digits), and the numbers."""
    numbers: list[float] = []

    def mask(match: re.Match) -> str:
        numbers.append(float(match[0].replace(",", "").replace("−", "-")))
        return "#"

    masked = re.sub(r"[ \t]+", " ", _NUMBER.sub(mask, text))
    masked = re.sub(r" (?=[\])])|(?<=[\[(]) ", "", masked)  # NumPy fills up a short number before its bracket
    return re.sub(r"-{2,}", "--", masked), numbers


def tolerance(metadata: dict) -> float | None:
    """Returns the tolerance that a cell's tags give, `None` without one."""
    found = [match for tag in metadata.get("tags") or [] if (match := TAG.fullmatch(tag))]
    return float(found[0][1]) if found else None


def pytest_configure(config: pytest.Config) -> None:
    exact = IPyNbCell.sanitize
    if getattr(exact, "tolerant", False):
        return

    def sanitize(self: IPyNbCell, text: object) -> object:
        clean = exact(self, text)
        allowed = tolerance(self.cell.metadata)
        return Tolerant(clean, allowed) if allowed is not None and isinstance(clean, str) else clean

    def execute(self: RunningKernel, source: str, allow_stdin: bool | None = None) -> str:
        # Kept in the history, as in JupyterLab: IPython looks there for the `;` that hides a result.
        return self.kc.execute(source, allow_stdin=allow_stdin, stop_on_error=False, store_history=True)

    sanitize.tolerant = True
    IPyNbCell.sanitize = sanitize
    RunningKernel.execute_cell_input = execute


def pytest_collectstart(collector: pytest.Collector) -> None:
    # What libraries say on stderr differs between machines and is no result.
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)
