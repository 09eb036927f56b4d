"""Many trainings side by side: each setting once, finished ones kept through a kill, divergence recorded."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import artifacts, checkpoints
from helpers.progress import duration, ticker
from helpers.training import Diverged


class Results(NamedTuple):
    """What `run` returns.

    Attributes:
        runs: One row an epoch of every run: the setting, the columns of its history (without those
            that the setting has, too), and `status`, `"ok"` or `"diverged"`.
        arrays: For each row of the settings what its training returned beside the history; empty
            where it diverged.
    """

    runs: pd.DataFrame
    arrays: list[dict[str, np.ndarray]]


def run(
    train: Callable[..., tuple[pd.DataFrame, dict[str, np.ndarray]]],
    settings: pd.DataFrame,
    folder: str | Path,
    *,
    facts: dict | Callable[[dict], dict],
) -> Results:
    """Trains once for each row of `settings`, and not again what `folder` holds from before.

    Each run is a file of its own, which appears whole when the run has ended: killed at any point,
    the same call goes on where it was. A run that diverges is recorded as such, and the rest goes on.

    Args:
        train: Takes the columns of `settings` as keyword arguments; returns a history with a column
            `epoch`, and arrays by name to keep beside it.
        settings: One row a run, such as optimizer, learning rate and seed.
        folder: Where the runs are kept.
        facts: What else decides the outcome: data, network, epochs, versions; JSON values, or a function
            that returns them for a row. A run that was kept under other facts, or with other code in
            `train`, is not used; what a closure or a partial holds beside its code belongs into the facts.

    Returns:
        The histories under each other, and the arrays.

    Raises:
        ValueError: If there is no setting, or one twice, or what `train` returns beside the history is no array.
    """
    if settings.empty or settings.duplicated().any():
        raise ValueError(
            f"Each setting is trained once, and there is at least one; received {len(settings)}, "
            f"of which {settings.duplicated().sum()} are repeated."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = settings.to_dict("records")
    asked = [facts(row) if callable(facts) else facts for row in rows]
    function = getattr(train, "func", train)  # of a functools.partial
    does = [getattr(function, part, None) for part in ("__code__", "__defaults__", "__kwdefaults__")]
    paths = [folder / f"{_name(row)}-{_digest([row, known, does])}.npz" for row, known in zip(rows, asked, strict=True)]
    histories, arrays, started, trained = [], [], time.perf_counter(), 0
    waiting = sum(not path.exists() for path in paths)
    tell = ticker()
    for row, path in zip(rows, paths, strict=True):
        found = _read(path)
        if found is None:
            _write(path, *_outcome(train, row))
            found = _read(path)
            trained += 1
            tell(_progress(row, found[0], trained, waiting, started))
        others = [column for column in found[0].columns if column not in row]
        histories.append(found[0].assign(**row)[[*row, *others]])
        arrays.append(found[1])
    return Results(pd.concat(histories, ignore_index=True), arrays)


def first_to_reach(runs: pd.DataFrame, target: float, *, by: list[str]) -> pd.DataFrame:
    """Returns for each run the first epoch whose `val_accuracy` is at least `target`, and the seconds until its end.

    Args:
        runs: As `run` returns them.
        target: What must be reached.
        by: Columns that tell runs apart.

    Returns:
        Indexed by `by`: `epochs` and `seconds`, not a number for a run that never got there.

    Example:

    >>> runs = pd.DataFrame({"seed": 0, "epoch": [1, 2], "seconds": [2.0, 1.0], "val_accuracy": [0.5, 0.8]})
    >>> first_to_reach(runs, 0.75, by=["seed"]).to_dict("records")
    [{'epochs': 2.0, 'seconds': 3.0}]
    >>> first_to_reach(runs.assign(momentum=None), 0.75, by=["momentum"])["epochs"].tolist()
    [2.0]
    """

    def reach(run: pd.DataFrame) -> pd.Series:
        there = (run["val_accuracy"] >= target).to_numpy()
        if not there.any():
            return pd.Series({"epochs": np.nan, "seconds": np.nan})
        count = int(there.argmax()) + 1
        return pd.Series({"epochs": float(run["epoch"].iloc[count - 1]), "seconds": run["seconds"].iloc[:count].sum()})

    return runs.groupby(by, sort=False, dropna=False)[["epoch", "seconds", "val_accuracy"]].apply(reach)


def _outcome(train: Callable, row: dict) -> tuple[pd.DataFrame, dict]:
    try:
        history, arrays = train(**row)
        return history.assign(status="ok"), arrays
    except Diverged as diverged:
        return diverged.history.assign(status="diverged"), {}


def _name(row: dict) -> str:
    name = "-".join("".join(c if c.isalnum() or c in "._" else "_" for c in str(value))[:40] for value in row.values())
    return name.encode()[:200].decode(errors="ignore")  # a file's name has 255 bytes; the digest tells runs apart


def _digest(facts: list) -> str:
    text = json.dumps(facts, sort_keys=True, default=checkpoints.told)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _write(path: Path, history: pd.DataFrame, arrays: dict) -> None:
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(
                f"What is kept beside a history are arrays of numbers or texts; received {type(array).__name__} as "
                f"{name!r}: return an array, or leave it out."
            )
    with artifacts.writing(path) as partial:
        np.savez(partial, _history=history.to_csv(index=False), _names=sorted(arrays), **arrays)


def _read(path: Path) -> tuple[pd.DataFrame, dict] | None:
    try:
        with open(path, "rb") as file, np.load(file) as archive:
            history = pd.read_csv(io.StringIO(str(archive["_history"])), float_precision="round_trip")
            arrays = {str(name): archive[str(name)] for name in archive["_names"]}
    except (FileNotFoundError, *artifacts.DAMAGED):  # train again
        return None
    return history, arrays


def _progress(row: dict, history: pd.DataFrame, trained: int, waiting: int, started: float) -> str:
    last = history.iloc[-1]
    shown = "diverged" if last["status"] != "ok" else f"val_accuracy {last.get('val_accuracy', float('nan')):.3f}"
    left = (time.perf_counter() - started) / trained * (waiting - trained)
    what = ", ".join(f"{name} {f'{value:g}' if isinstance(value, float) else value}" for name, value in row.items())
    return f"{trained}/{waiting} {what}: {shown}, {duration(max(left, 0))} left"
