"""Pictures a second of the input pipeline alone: 28x28 from memory maps and PNG files, 224x224 from JPEG files."""

import contextlib
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import results, side_by_side
from benchmarks.variants._pictures import COMPARED
from helpers import kernel, processor, sources

JPEGS = 2000
ROUNDING = {"grey": (0, 0.0), "jpeg": (16, 2.0)}  # largest and mean difference of pixels between decoders, of 255
DIRECTORY, PYDATASET = "image_dataset_from_directory", "PyDataset, picture by picture"
RAW, DECODERS = "a decoder alone", ("Pillow, processes", "Pillow, threads", "TensorFlow")
GREY = "28x28 grey, shifted and mirrored batches"
FIRST, LATER = "224x224 JPEG, first epoch", "224x224 JPEG, each later epoch"
DECODED = "224x224 JPEG, decoded into a memory map"


def measure(*, repeats: int, pictures: int, torch_python: str | None = None, **_: object) -> results.Result:
    """Reads augmented batches with nobody training, grey ones and JPEG files, and trains on the grey ones of ours."""
    if not torch_python:
        print("  PyTorch is not compared: name a Python that has it with --torch-python.", file=sys.stderr)
    cores = processor.cores()
    with _folders(pictures) as folder:
        runs = {kind: side_by_side.run(_variants(kind, torch_python), repeats=repeats,
                                       arguments=["--folder", str(folder), "--kind", kind, "--threads", str(cores)])
                for kind in ROUNDING}  # fmt: skip
    for kind, found in runs.items():
        _check(kind, found)
    grey, jpeg = runs["grey"], runs["jpeg"]
    peers = {name: _of(found, "pictures_per_second") for name, found in jpeg.items() if name not in (results.OURS, RAW)}
    raw = _of(jpeg[RAW], "pictures_per_second")
    compared = [
        results.compare(GREY, "pictures/s", {name: _of(found, "pictures_per_second") for name, found in grey.items()}),
        results.compare(FIRST, "pictures/s", {results.OURS: _of(jpeg[results.OURS], "first_epoch"), **peers}),
        results.compare(LATER, "pictures/s", {results.OURS: _of(jpeg[results.OURS], "pictures_per_second"), **peers}),
    ]
    consumed, collected = _of(grey[results.OURS], "training"), _of(jpeg[results.OURS], "collected")
    training = results.ratio(GREY, "training the classic CNN on them", _of(grey[results.OURS], "pictures_per_second"),
                             consumed)  # fmt: skip
    decoding = results.ratio(DECODED, RAW, collected, raw)
    return results.Result(
        question="How many pictures a second does the input pipeline give when nobody trains on them?",
        held_equal=[
            f"{pictures:,} pictures of Fashion-MNIST, batches of 128, shifts of up to 2 pixels, half of them mirrored: "
            "from a memory map; for image_dataset_from_directory from PNG files",
            f"{JPEGS:,} JPEG files of 224x224 (parts of scikit-learn's two photographs, quality 90), batches of 64, "
            "shifts of up to 16 pixels, half of them mirrored; all files in the system's cache",
            "the pixels of the first pictures before augmentation: equal for grey, within the decoders' rounding "
            "for JPEG; the number of pictures and the sum of their labels",
            f"as many workers as cores for PyTorch's DataLoader, the PyDataset and the decoder alone: {cores}",
            "the first pass of each is not timed",
            "ours decodes JPEG files once, into a memory map: its first epoch is that and one pass over the map",
        ],
        repeats=repeats,
        machine=results.machine("keras", "tensorflow", "numpy", "pillow",
                                others={torch_python: ("torch",)} if torch_python else {}),
        rows=[*(row for rows, _ in compared for row in rows),
              results.row("training the classic CNN on them", "pictures/s", consumed),
              results.row(DECODED, "pictures/s", collected), results.row(DECODED, "pictures/s", raw, of=RAW),
              *(results.row(DECODED, "pictures/s", _of(jpeg[RAW], way), of=f"{RAW}: {way}") for way in DECODERS)],
        ratios=[*(ratio for _, ratios in compared for ratio in ratios), training, decoding],
        limits=_limits(runs),
        goals=[
            results.goal("28x28: at least 5 times what training takes", training["median"], at_least=5, what=GREY,
                         to=training["to"], why="one thread prepares batches"),
            results.goal("224x224 JPEG: at least 0.8 of raw decoding, on all cores", decoding["median"], at_least=0.8,
                         what=DECODED, to=RAW,
                         why="the bound is the quickest of three decoders, ours is Pillow in threads, and files are "
                             "opened, headers checked and pixels written besides"),
        ],
        runs=runs,
    )  # fmt: skip


def _variants(kind: str, torch_python: str | None) -> dict[str, tuple[str, str, dict[str, str]]]:
    found = {
        results.OURS: (sys.executable, "pipeline_ours.py", dict(kernel.ENVIRONMENT)),
        DIRECTORY: (sys.executable, "pipeline_keras.py --how directory", {}),
        PYDATASET: (sys.executable, "pipeline_keras.py --how pydataset", {}),
    }
    if torch_python:
        found[f"PyTorch DataLoader, {processor.cores()} workers"] = (torch_python, "pipeline_pytorch.py", {})
    return found | ({RAW: (sys.executable, "pipeline_decoders.py", {})} if kind == "jpeg" else {})


@contextlib.contextmanager
def _folders(pictures: int) -> Iterator[Path]:
    """Yields a folder with grey/ and jpeg/, a class a subfolder, and arrays of what they hold in the order of paths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_grey(folder, pictures)
        _write_jpegs(folder / "jpeg")
        paths = sorted((folder / "jpeg").rglob("*.jpg"))[:COMPARED]
        np.save(folder / "jpeg.npy", np.stack([np.asarray(Image.open(path)) for path in paths]))
        yield folder


def _write_grey(folder: Path, pictures: int) -> None:
    collected = sources.collect("")
    rows = np.flatnonzero(collected.splits == "train")[:pictures]
    labels = np.searchsorted(sorted(collected.classes), collected.labels[rows])
    order = np.argsort(labels, kind="stable")
    images, labels = np.asarray(collected.images[rows[order]]), labels[order].astype(np.int64)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = folder / "grey" / str(label) / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "grey.npy", images[:COMPARED])


def _write_jpegs(folder: Path, side: int = 224) -> None:
    """Writes parts of two real photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for title, photograph in zip(("flower", "temple"), load_sample_images().images[::-1], strict=True):
        (folder / title).mkdir(parents=True)
        for number in range(JPEGS // 2):
            top, left = (random.integers(length - side) for length in photograph.shape[:2])
            part = Image.fromarray(photograph[top : top + side, left : left + side])
            part.save(folder / title / f"{number:06}.jpg", quality=90)


def _of(found: list[dict], figure: str) -> list[float]:
    return [run[figure] for run in found]


def _check(kind: str, runs: dict[str, list[dict]]) -> None:
    """Refuses to compare pipelines that give other pictures, or not all of them."""
    largest, mean = ROUNDING[kind]
    read = {name: run for name, found in runs.items() if name != RAW for run in found}
    for name, run in read.items():
        if run["largest_difference"] > largest or run["mean_difference"] > mean:
            raise RuntimeError(
                f"{name} gives other {kind} pixels than Pillow: up to {run['largest_difference']:.0f} of 255 apart, "
                f"{run['mean_difference']:.2f} on average."
            )
    passes = {name: (run["pictures"], run["labels"]) for name, run in read.items()}
    if len(set(passes.values())) != 1:
        raise RuntimeError(f"The pipelines give other {kind} pictures: number, and sum of the labels, {passes}.")


def _limits(runs: dict[str, list[dict]]) -> list[dict]:
    """Returns what the memory would allow for grey pictures, and the decoder for JPEG files."""
    ours, jpeg = runs["grey"][results.OURS], runs["jpeg"]
    bandwidth = max(run["bandwidth"] for run in ours)
    most, speed = bandwidth / (2 * 28 * 28), statistics.median(_of(ours, "pictures_per_second"))
    raw = statistics.median(_of(jpeg[RAW], "pictures_per_second"))
    first = statistics.median(_of(jpeg[results.OURS], "first_epoch"))
    return [
        results.limit(
            f"28x28: one copy at the memory's {bandwidth / 1e9:.0f} GB/s", most, "pictures/s", reached=speed / most,
            why="a picture of 784 bytes is read, shifted and mirrored by itself, and that takes NumPy a microsecond or "
                "two, whatever the memory could do",
        ),
        results.limit(
            "224x224 JPEG: decoding on all cores, the quickest of three ways", raw, "pictures/s", reached=first / raw,
            why="in the first epoch files are opened, pixels written and read back, and one thread shifts and mirrors",
        ),
    ]  # fmt: skip
