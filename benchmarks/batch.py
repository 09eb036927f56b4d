"""Predictions for many pictures, pictures a second and memory, against the bare runtime in a loop."""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import side_by_side
from helpers import artifacts, data, registry

SIZES = (10_000, 100_000, 1_000_000)
_COMPARED = {
    "pictures_per_second": "their work", "whole_process": "with their start",
    "per_cpu_second": "for each second of a core",
}  # fmt: skip


def measure(*, repeats: int, **_: object) -> dict:
    """Answers for the prepared set of notebook 01 in both ways, and for larger ones made of it."""
    home = artifacts.require("06_deployment_prediction/registry", made_by="06_deployment_prediction")
    version = registry.folder("wardrobe", 1, root=home)
    whole = artifacts.require("01_data_preparation/dataset", made_by="01_data_preparation")
    ours = {"ours": (sys.executable, f"batch.py --ours {version}", {})}
    bare = {"bare runtime": (sys.executable, f"batch.py --bare {registry.model_file(version)}", {})}
    runs = side_by_side.run(ours | bare, repeats=repeats, arguments=["--data", str(whole)])
    print(f"batch prediction, {len(data.load(whole).images):,} pictures, {registry.model_file(version).name}")
    compared = {}
    for kind, what in _COMPARED.items():
        speed = {name: [run[kind] for run in found] for name, found in runs.items()}
        ratio = compared[kind] = side_by_side.ratios(speed["ours"], speed["bare runtime"])
        print(f"  {what}: {statistics.median(speed['ours']):,.0f} pictures/s, bare "
              f"{statistics.median(speed['bare runtime']):,.0f}: {ratio['median']:.2f} times "
              f"({ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip
    peaks = {}
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            larger = _repeated(whole, count, Path(folder) / "dataset")
            found = side_by_side.run(ours | bare, repeats=1, arguments=["--data", larger])
        (one,), (other,) = found.values()
        peaks[count] = one["peak_mb"]
        print(f"  {count:9,} pictures: {one['peak_mb']:.0f} MB at most; with the start "
              f"{one['whole_process'] / other['whole_process']:.2f} times the bare runtime's speed")  # fmt: skip
    print(f"  a hundred times the pictures take {peaks[SIZES[-1]] / peaks[SIZES[0]]:.2f} times the memory")
    return {"machine": side_by_side.machine(), "runs": runs, "ratio_of_ours_to_bare": compared, "peak_mb": peaks}


def _repeated(folder: Path, count: int, target: Path) -> str:
    """Writes a data set of that many pictures, which are those of another one over and over."""
    known = data.load(folder)

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, count, 10_000):
            yield np.asarray(known.images[np.arange(start, min(start + 10_000, count)) % len(known.images)])

    labels = known.labels[np.arange(count) % len(known.labels)]
    splits = {"train": np.arange(count)}
    return str(data.write(target, chunks(), labels, known.classes, splits, parameters={}, made_by="benchmark"))
