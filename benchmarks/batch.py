"""Predictions for many pictures: speed and memory, against the bare runtime in a loop and `model.predict`."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import results, side_by_side
from helpers import artifacts, data, processor, registry

SIZES = (10_000, 100_000, 1_000_000)
_COMPARED = {
    "pictures_per_second": "their work", "whole_process": "with their start",
    "per_cpu_second": "for each second of a core",
}  # fmt: skip
BARE = "bare runtime"


def measure(*, repeats: int, **_: object) -> results.Result:
    """Answers for the prepared set of notebook 01 in all ways, and for larger ones made of it in ours and the bare."""
    home = artifacts.require("06_deployment_prediction/registry", made_by="06_deployment_prediction")
    version = registry.folder("wardrobe", 1, root=home)
    whole = artifacts.require("01_data_preparation/dataset", made_by="01_data_preparation")
    model = artifacts.require("03_cnn_training/model.keras", made_by="03_cnn_training")
    variants = {"ours": (sys.executable, f"batch.py --ours {version}", {})}
    variants[BARE] = (sys.executable, f"batch.py --bare {registry.model_file(version)}", {})
    everyone = variants | {"model.predict": (sys.executable, f"batch.py --keras {model}", {})}
    rows, ratios, grown = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        given = ["--answers", folder, "--threads", str(processor.cores())]
        runs = side_by_side.run(everyone, repeats=repeats, arguments=["--data", str(whole), *given])
        require_equal({path.stem: np.load(path) for path in Path(folder).glob("*.npy")})
        for key, how in _COMPARED.items():
            speeds = {name: [run[key] for run in found] for name, found in runs.items()}
            more = results.compare(f"batch, {how}, pictures a second", "pictures/s", speeds)
            rows, ratios = rows + more[0], ratios + more[1]
        peaks = {name: [run["peak_mb"] for run in found] for name, found in runs.items()}
        more = results.compare("batch, peak memory", "MB", peaks, less_is_better=True)
        rows, ratios = rows + more[0], ratios + more[1]
        for count in SIZES:
            larger = _repeated(whole, count, Path(folder) / str(count))
            found = side_by_side.run(variants, repeats=1, arguments=["--data", larger, *given])
            runs[f"{count:,} pictures"] = found
            artifacts.remove(Path(larger))
            grown.append(found["ours"][0]["peak_mb"])
            rows += [results.row(f"{count:,} pictures, peak memory", "MB", grown[-1:])]
            speeds = {name: [run[0]["whole_process"]] for name, run in found.items()}
            more = results.compare(f"{count:,} pictures with their start, pictures a second", "pictures/s", speeds)
            rows, ratios = rows + more[0], ratios + more[1]
    pictures = len(data.load(whole).images)
    work = next(one["median"] for one in ratios if one["to"] == BARE)
    return results.Result(
        question=f"How many pictures a second are answered in batch, of {pictures:,} prepared ones?",
        held_equal=["the same model (ours and bare: the same LiteRT file) and the same pictures, mapped into memory",
                    "a fresh process each, all cores; the answers of all for the first 2,000 pictures were compared"],
        repeats=repeats, machine=results.machine("ai-edge-litert", "pyarrow", "tensorflow", "keras", "numpy"),
        rows=rows, ratios=ratios,
        limits=[results.limit("the bare LiteRT interpreter in a loop, which keeps no answer",
                              next(row["median"] for row in rows if row["of"] == BARE), "pictures/s", reached=work,
                              why="labels and probabilities are made, compressed and written as Parquet, in shards "
                              "that a kill leaves whole")],
        goals=[
            results.goal("0.9 of the bare runtime", work, at_least=0.9, to=BARE,
                         what="batch, their work, pictures a second",
                         why="the answers are compressed and written on the same cores that compute them"),
            results.goal("a hundred times the pictures in no more than 1.5 times the memory", grown[-1] / grown[0],
                         at_most=1.5, what="batch, growth of the peak memory",
                         why="something grows with the number of pictures"),
        ],
        runs=runs,
        quoted=["batch, their work, pictures a second", "batch, with their start, pictures a second",
                "batch, peak memory", "batch, growth of the peak memory"],
    )  # fmt: skip


def require_equal(answers: dict[str, np.ndarray]) -> None:
    """Raises if the classes that the peers named differ in more than one picture of a thousand."""
    first, *others = answers.values()
    for name, other in zip(list(answers)[1:], others, strict=True):
        if len(other) != len(first) or np.mean(other != first) > 0.001:
            raise RuntimeError(f"The answers of {name} and {next(iter(answers))} differ: the figures mean nothing.")


def _repeated(folder: Path, count: int, target: Path) -> str:
    """Writes a data set of that many pictures, which are those of another one over and over."""
    known = data.load(folder)

    def chunks() -> Iterator[np.ndarray]:
        for start in range(0, count, 10_000):
            yield np.asarray(known.images[np.arange(start, min(start + 10_000, count)) % len(known.images)])

    labels = known.labels[np.arange(count) % len(known.labels)]
    splits = {"train": np.arange(count)}
    return str(data.write(target, chunks(), labels, known.classes, splits, parameters={}, made_by="benchmark"))
