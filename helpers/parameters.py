"""The parameters of a notebook: known by name, of the right type and in range, before any work."""

import difflib
import math

_KINDS = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "True or False", list: "a list"}


def check(scope: dict, **rules: type | tuple | set | list) -> dict:
    """Checks the values of a notebook's parameters and returns them.

    Call it in the cell after the one tagged `parameters`. papermill only warns about a parameter
    that a notebook does not have; here a misspelt one is an error, because every name in `scope`
    that is written in capitals and has at least four letters must be among `rules`.

    Args:
        scope: The notebook's `globals()`.
        rules: For each parameter its type (`SOURCE=str`), its type with the lowest and highest
            value allowed (`EPOCHS=(int, 1, 500)`), or a set of allowed values; for a parameter that
            is a list of such, each once, a list (`RATES=[float, 0.0, 1.0]`, `RULES=["sgd", "adam"]`).
            A whole number passes as a float.

    Returns:
        The parameters in the order of `rules`, floats as floats.

    Raises:
        ValueError: One sentence that names the parameter, what it is and what it should be.

    Example:

    >>> check({"EPOCHS": 3, "DROPOUT": 0}, EPOCHS=(int, 1, 500), DROPOUT=(float, 0.0, 0.9))
    {'EPOCHS': 3, 'DROPOUT': 0.0}
    """
    unknown = [name for name in scope if _is_parameter(name) and name not in rules]
    if unknown:
        raise ValueError(f"This notebook has no parameter {unknown[0]}: {hint(unknown[0], rules)}")
    missing = [name for name in rules if name not in scope]
    if missing:
        raise ValueError(f"The parameter {missing[0]} is not set: run the cell tagged `parameters` first.")
    return {name: _value(name, scope[name], rule) for name, rule in rules.items()}


def hint(name: object, known: dict | list) -> str:
    """Returns what to say after an unknown name: the closest known one, or all of them."""
    close = difflib.get_close_matches(str(name).upper(), known, n=1)  # YAML reads `on: 1` as `True: 1`
    if close:
        return f"did you mean {close[0]}?"
    return f"it knows {', '.join(known)}." if known else "it has none."


def _values(name: str, values: object, rule: tuple | set) -> list:
    if type(values) is not list or not values:
        raise ValueError(f"{name} is {values!r}: it must be a list in square brackets, with at least one entry.")
    checked = [_value(f"An entry of {name}", value, rule) for value in values]
    if len(set(checked)) < len(checked):
        raise ValueError(f"{name} is {values!r}: each entry may stand there once.")
    return checked


def _is_parameter(name: str) -> bool:
    return name.isupper() and len(name) >= 4 and not name.startswith("_")


def _value(name: str, value: object, rule: type | tuple | set | list) -> object:
    if isinstance(rule, list):
        return _values(name, value, tuple(rule) if isinstance(rule[0], type) else set(rule))
    if isinstance(rule, set):
        # `==` alone would let 1 pass for True and "1" stand beside 1.
        if not any(type(value) is type(allowed) and value == allowed for allowed in rule):
            close = difflib.get_close_matches(str(value), [str(allowed) for allowed in rule], n=1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(sorted(map(repr, rule)))}{hint}.")
        return value
    kind, low, high = rule if isinstance(rule, tuple) else (rule, None, None)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} is {value!r} ({type(value).__name__}): it must be {_KINDS[kind]}.")
    if kind is float and not math.isfinite(value):
        raise ValueError(f"{name} is {value}: it must be a finite number.")
    if (low is not None and value < low) or (high is not None and value > high):
        bounded = low is not None and high is not None
        span = f"from {low} to {high}" if bounded else f"at least {low}" if high is None else f"at most {high}"
        raise ValueError(f"{name} is {value}: it must be {span}.")
    return value
