"""Measured statements: a sentence, the figure behind it, and the bound that it must meet."""

import json
import math

from helpers import artifacts

_SIGNS = {True: "✔", False: "✘", None: "(measured, not judged in this run)"}
_BOUNDS = ("at_least", "at_most", "within")


def check(
    statement: str,
    measured: float | bool,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
    unit: str = "",
    judged: bool = True,
) -> None:
    """Checks one statement of a notebook against what was measured, prints it and records it.

    The printed line holds the statement and a tick or a cross, and not the figure, so that it is
    the same on every machine on which the statement holds. The figure goes to
    `outputs/<stem>/claims.json`. A statement that fails does not stop the notebook; the runner
    ends non-zero for it after all notebooks have run.

    Args:
        statement: One sentence with its bound in words.
        measured: The figure, or a bool for a statement without one. A figure that is not finite
            holds no bound.
        at_least: Lowest figure for which it holds, inclusive.
        at_most: Highest figure for which it holds, inclusive.
        within: Lowest and highest figure, inclusive.
        unit: Unit of the figure, for the table.
        judged: Whether the bound applies to this run; if not, the figure is recorded all the same, and `held` is None.

    Raises:
        ValueError: If not exactly one bound is given for a number, or any for a bool.
    """
    entry = judge(statement, measured, at_least=at_least, at_most=at_most, within=within)
    entry = {"claim": statement, "measured": entry.pop("measured"), "unit": unit, **entry}
    if not judged:
        entry["held"] = None
    _record(entry)
    print(f"{_SIGNS[entry['held']]} {statement}")


def judge(
    statement: str,
    measured: float | bool,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
) -> dict:
    """Returns the figure, whether it holds its bound, and that bound, by name; arguments and errors as in `check`."""
    bounds = {"at_least": at_least, "at_most": at_most, "within": within}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    is_bool = type(measured).__name__ == "bool"  # Python's and NumPy's
    if is_bool and given:
        raise ValueError(f"The claim {statement!r} is true or false and takes no bound; received {given}.")
    if not is_bool and len(given) != 1:
        raise ValueError(f"The claim {statement!r} takes exactly one of {', '.join(_BOUNDS)}; received {given}.")

    figure = bool(measured) if is_bool else float(measured)
    low, high = within if within is not None else (at_least, at_most)
    bounded = (low is None or figure >= low) and (high is None or figure <= high)
    finite = math.isfinite(figure)
    entry = {"measured": figure if finite else str(figure), "held": figure if is_bool else finite and bounded}
    for name, bound in given.items():
        entry[name] = [float(b) for b in bound] if name == "within" else float(bound)
    return entry


def read(stem: str | None = None) -> list[dict]:
    """Returns the claims that a notebook has recorded, in order (`[]` before the first, or if their file is damaged).

    Args:
        stem: Stem of the notebook; the current one if not given.
    """
    folder = artifacts.current() if stem is None else artifacts.outputs() / stem
    try:
        entries = json.loads((folder / "claims.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return []
    return entries if isinstance(entries, list) and all(map(_whole, entries)) else []


def _whole(entry: object) -> bool:
    kinds = {"claim": str, "measured": (bool, int, float, str), "unit": str, "held": (bool, type(None))}
    try:
        return all(isinstance(entry[name], kind) for name, kind in kinds.items()) and bool(bound_text(entry))
    except (KeyError, IndexError, TypeError):
        return False


def table(stem: str | None = None) -> "pandas.DataFrame":  # noqa: F821
    """Returns the recorded claims as a DataFrame: claim, measured, unit, expected, held (– if not judged)."""
    import pandas as pd

    rows = [
        {
            "claim": entry["claim"],
            "measured": short(entry["measured"]),
            "unit": entry["unit"],
            "expected": "–" if entry["held"] is None else bound_text(entry),
            "held": "–" if entry["held"] is None else _SIGNS[entry["held"]],
        }
        for entry in read(stem)
    ]
    return pd.DataFrame(rows, columns=["claim", "measured", "unit", "expected", "held"])


def bound_text(entry: dict) -> str:
    """Returns the bound of a recorded claim as text.

    Example:

    >>> bound_text({"claim": "…", "measured": 3.9, "at_least": 3.5})
    '≥ 3.5'
    """
    if "at_least" in entry:
        return f"≥ {short(entry['at_least'])}"
    if "at_most" in entry:
        return f"≤ {short(entry['at_most'])}"
    if "within" in entry:
        return f"{short(entry['within'][0])} to {short(entry['within'][1])}"
    return "true"


def _record(entry: dict) -> None:
    recorded = [other for other in read() if other["claim"] != entry["claim"]]  # a cell run again replaces its line
    artifacts.write_json(artifacts.current() / "claims.json", [*recorded, entry])


def short(figure: float | bool | str) -> str:
    """Returns a figure for people: four digits that count."""
    if isinstance(figure, (bool, str)):
        return str(figure).lower()
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"
