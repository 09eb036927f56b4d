"""Runs variants of a measurement in turn, each in a fresh process, and compares them as ratios."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from helpers import artifacts, sources


def run(variants: dict[str, tuple[str, str, dict[str, str]]], *, repeats: int, arguments: Iterable[str]) -> dict:
    """Measures every variant `repeats` times, alternating, so that a slow minute hits all of them.

    Args:
        variants: For each name the Python to use, the script in `benchmarks/variants` (with options of its own),
            and its environment.
        repeats: Rounds.
        arguments: Passed to every script, which prints one JSON object as its last line.

    Returns:
        For each variant the list of what its runs printed.
    """
    runs = {name: [] for name in variants}
    for turn in range(repeats):
        for name, (python, script, environment) in variants.items():
            script, *options = script.split()
            command = [python, str(artifacts.root() / "benchmarks" / "variants" / script), *options, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, env=clean(python, environment), check=False)
            if done.returncode:
                raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            figures = ", ".join(f"{key} {value:,.4g}" for key, value in runs[name][-1].items())
            print(f"  {name}, run {turn + 1} of {repeats}: {figures}", file=sys.stderr, flush=True)
    return runs


@contextlib.contextmanager
def fashion_mnist(pictures: int) -> Iterator[str]:
    """Yields the path of an .npz with the first training pictures and all test pictures."""
    collected = sources.collect("")
    labels = np.searchsorted(sorted(collected.classes), collected.labels)
    train, test = (np.flatnonzero(collected.splits == name) for name in ("train", "test"))
    parts = {"train": train[:pictures], "test": test}
    content = {f"{name}_images": np.asarray(collected.images[rows]) for name, rows in parts.items()}
    content |= {f"{name}_labels": labels[rows].astype(np.int64) for name, rows in parts.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "pictures.npz")
        np.savez(path, **content)
        yield path


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    """Waits until an address answers; raises what the log says if the process ends or a minute is over."""
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"{address} does not answer:\n{log.read_text(errors='replace')[-3000:]}")


def ratios(numerator: list[float], denominator: list[float]) -> dict[str, float]:
    """Returns the median of the ratios of runs of the same turn, with the lowest and the highest.

    >>> ratios([4.0, 6.0, 9.0], [2.0, 2.0, 3.0])
    {'median': 3.0, 'low': 2.0, 'high': 3.0}
    """
    quotients = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(quotients), "low": min(quotients), "high": max(quotients)}


def clean(python: str, extra: dict[str, str]) -> dict[str, str]:
    """Returns the environment of a Python without what would tune a library, so that defaults are defaults."""
    tuned = ("TF_", "OMP_", "MKL_", "ONEDNN_", "KERAS_", "XLA_", "DNNL_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tuned)}
    own = [os.environ["PYTHONPATH"]] if python == sys.executable and os.environ.get("PYTHONPATH") else []
    path = os.pathsep.join([str(artifacts.root()), *own])  # another Python's packages are no packages of ours
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path, **extra}
