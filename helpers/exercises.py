"""Exercises that check themselves: what a reader's function must do, in sentences like those of the claims."""

from collections.abc import Callable
from numbers import Real

import numpy as np

from helpers import claims


def check(
    statement: str,
    measure: Callable[[], float | bool],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    within: tuple[float, float] | None = None,
) -> None:
    """Prints whether a reader's answer does what the statement says; nothing is recorded, and nothing stops.

    Args:
        statement: One sentence about the answer.
        measure: Asks the reader's function; returns a figure, or a bool for a statement without one. As long as it
            raises `NotImplementedError` the exercise is open.
        at_least: Lowest figure for which the statement holds, inclusive.
        at_most: Highest figure for which it holds, inclusive.
        within: Lowest and highest figure, inclusive.

    Raises:
        ValueError: If more than one bound is given.

    Example:

    >>> check("Twice three is six", lambda: 2 * 3, within=(6, 6))
    ✔ Twice three is six
    >>> check("Half of three is two", lambda: 3 / 2, within=(2, 2))
    ✘ Half of three is two: it is 1.5, expected 2 to 2
    >>> check("Nothing is two", lambda: None, within=(2, 2))
    ✘ Nothing is two: it returned None
    >>> check("Three is odd", lambda: 3 & 1)
    ✘ Three is odd: it returned 1
    """
    try:
        measured = measure()
    except NotImplementedError:
        print(f"○ {statement}: still open")
        return
    except Exception as error:  # a reader's code raises whatever it likes
        print(f"✘ {statement}: it raised {type(error).__name__}: {' '.join(str(error).split())}")
        return
    is_figure = at_least is not None or at_most is not None or within is not None
    if is_figure:
        measured = _number(measured)
    if not isinstance(measured, Real | np.bool_ if is_figure else bool | np.bool_):
        print(f"✘ {statement}: it returned {_shown(measured)}")
        return
    entry = claims.judge(statement, measured, at_least=at_least, at_most=at_most, within=within)
    found = f": it is {claims.short(entry['measured'])}, expected {claims.bound_text(entry)}"
    print(f"✔ {statement}" if entry["held"] else f"✘ {statement}{found}")


def _number(measured: object) -> object:
    # A number in whatever form, such as a tensor, as a float; anything else as it is.
    try:
        return measured if isinstance(measured, str) else float(measured)
    except Exception:  # each library raises its own
        return measured


def _shown(measured: object) -> str:
    text = " ".join(repr(measured).split())
    return text if len(text) <= 40 else f"{text[:39]}…"
