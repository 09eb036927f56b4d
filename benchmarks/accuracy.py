"""Seconds of training to 0.90 and to 0.92 test accuracy: ours, the classic Keras recipe, and the same in PyTorch."""

import contextlib
import math
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import results, side_by_side
from helpers import data, kernel, preparation

# Of our one cycle, for each target: one more than the fewest that got 0.01 past it on validation with seed 10, where
# cycles of 1, 2, 3 and 4 epochs ended at 0.916, 0.926, 0.933 and 0.936.
EPOCHS = {0.90: 2, 0.92: 4}
AT_MOST = 15  # epochs of the classic recipe, whose accuracy has stopped rising by then
KERAS, PYTORCH = "the classic recipe, Keras", "the classic recipe, PyTorch"
_LEAD = 2.0  # the goal: at most half of the classic recipe's time


def measure(*, repeats: int, torch_python: str | None = None, **_: object) -> results.Result:
    """Trains up to both targets with a seed for each round, on all training pictures of notebook 01."""
    if not torch_python:
        print("  PyTorch is not compared: name a Python that has it with --torch-python.", file=sys.stderr)
    variants, rounds = _variants(torch_python), []
    with prepared() as archive:
        for seed in range(repeats):
            arguments = ["--data", archive, "--seed", str(seed)]
            rounds.append(side_by_side.run(variants, repeats=1, arguments=arguments))
    runs = {name: [found[name][0] for found in rounds] for name in variants}
    rows, ratios, limits, goals = [], [], [], []
    for target in EPOCHS:
        ours = runs[_ours(target)]
        compared = _compared(target, ours, {name: runs[name] for name in (KERAS, PYTORCH) if name in runs})
        rows += compared[0]
        ratios += compared[1]
        goals += _goals(target, compared[1])
        limits.append(limit(_what(target), ours))
    return results.Result(
        question="How many seconds of training does a test accuracy of 0.90, and of 0.92, take?",
        held_equal=[
            "all training pictures of notebook 01 (Fashion-MNIST without its validation split), all 10,000 test ones",
            "the clock: from the first call of training, with the building of graphs, to the end of the first epoch "
            "that reaches the target; it stands still while the model is evaluated",
            "a seed a round",
            "not equal, because that is the question: the recipe. Ours is the better CNN with mirrored pictures and "
            f"one cycle laid out for {' and '.join(str(epochs) for epochs in EPOCHS.values())} epochs, chosen on "
            "validation with another seed; the classic one is the classic CNN, Adam with a rate of 0.001, batches of "
            f"32, at most {AT_MOST} epochs, in float32; ours multiplies in bfloat16 where the processor can",
        ],
        repeats=repeats,
        machine=results.machine("tensorflow", "keras", "numpy",
                                others={torch_python: ("torch",)} if torch_python else {}),
        rows=rows, ratios=ratios, limits=limits, goals=goals, runs=finite(runs),
    )  # fmt: skip


@contextlib.contextmanager
def prepared() -> Iterator[str]:
    """Yields the path of an .npz with the splits that notebook 01 makes of Fashion-MNIST."""
    with tempfile.TemporaryDirectory() as folder:
        dataset = data.load(preparation.prepare("", Path(folder) / "dataset"))
        splits = {name: dataset.split(name) for name in ("train", "validation", "test")}
        content = {f"{name}_images": images[:] for name, (images, _) in splits.items()}
        content |= {f"{name}_labels": labels for name, (_, labels) in splits.items()}
        np.savez(Path(folder) / "pictures.npz", **content)
        yield str(Path(folder) / "pictures.npz")


def _ours(target: float) -> str:
    return f"ours, {EPOCHS[target]} epochs for {target:.2f}"


def _variants(torch_python: str | None) -> dict[str, tuple[str, str, dict[str, str]]]:
    own = dict(kernel.ENVIRONMENT)
    found = {
        _ours(target): (sys.executable, f"ours_race.py --epochs {epochs} --targets {target}", own)
        for target, epochs in EPOCHS.items()
    }
    targets = f"--epochs {AT_MOST} --targets {' '.join(str(target) for target in EPOCHS)}"
    found[KERAS] = (sys.executable, f"keras_race.py {targets}", {})
    if torch_python:
        found[PYTORCH] = (torch_python, f"pytorch_race.py {targets}", {})
    return found


def _what(target: float) -> str:
    return f"to {target:.2f} test accuracy"


def _compared(target: float, ours: list[dict], peers: dict[str, list[dict]]) -> tuple[list[dict], list[dict]]:
    """Returns the rows and ratios of one target.

    Who misses it counts with all that was trained, and is named so: for a peer that is a lower bound of its seconds
    and of the ratio. Ours is compared only if it arrives with every seed.
    """
    values, late = {}, {}
    for name, found in {results.OURS: ours, **peers}.items():
        times = [run[f"to {target:.2f}"] for run in found]
        late[name] = sum(math.isinf(seconds) for seconds in times)
        missed = f"not reached in {found[0]['epochs']:.0f} epochs by {late[name]} of {len(found)}, at least"
        values[f"{name} ({missed})" if late[name] else name] = [
            run["seconds"] if math.isinf(seconds) else seconds for run, seconds in zip(found, times, strict=True)
        ]
    if not late[results.OURS]:
        return results.compare(_what(target), "s", values, less_is_better=True)
    return [results.row(_what(target), "s", seconds, of=name) for name, seconds in values.items()], []


def _goals(target: float, ratios: list[dict]) -> list[dict]:
    what = _what(target)
    if not ratios:
        why = f"not every seed of ours reached it in {EPOCHS[target]} epochs"
        return [results.goal(f"{what} at all", 0, at_least=1, unit="of 1", why=why, what=what)]
    why = f"ours takes {EPOCHS[target]} epochs of a network with more products, and builds its graph in that time"
    return [
        results.goal(f"{what}: at most half the seconds of {one['to']}", one["median"], at_least=_LEAD, why=why,
                     what=what, to=one["to"])
        for one in ratios
    ]  # fmt: skip


def limit(what: str, ours: list[dict]) -> dict:
    """Returns the seconds that the products alone would take if they were of large matrices.

    Args:
        what: What was trained.
        ours: What each run of `ours_race.py` told.
    """
    flop = ours[0]["pictures"] * ours[0]["epochs"] * ours[0]["flop"]
    least = flop / max(run["peak"] for run in ours)
    taken = statistics.median(run["seconds"] for run in ours)
    return results.limit(
        f"{what}: the products of ours alone", least, "s", reached=least / taken,
        why=f"{flop / 1e12:.1f} TFLOP in all; the graph is built within this time, filters are narrow, and "
            "normalization and pooling move bytes",
    )  # fmt: skip


def finite(runs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Returns runs in which what was not reached is nothing instead of infinite, as JSON wants it."""
    return {
        name: [{key: None if math.isinf(value) else value for key, value in run.items()} for run in found]
        for name, found in runs.items()
    }
