"""What the input pipelines share: their arguments, the same augmentation for one picture, and how they are timed."""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

KINDS = {"grey": (28, 1, 2, 128), "jpeg": (224, 3, 16, 64)}  # side, channels, largest shift, pictures in a batch
COMPARED = 64  # pictures whose pixels are compared


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True, help="with grey/, jpeg/ and what belongs to them")
    parser.add_argument("--kind", choices=KINDS, required=True)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, required=True, help="of the decoder alone; workers of the loaders")
    parser.add_argument("--how", help="of Keras: directory or pydataset")
    return parser.parse_args()


def files(folder: Path) -> tuple[list[Path], list[int]]:
    """Returns the pictures of a folder in the order of their paths, and the number of each one's class."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    classes = sorted({path.parent.name for path in found})
    return found, [classes.index(path.parent.name) for path in found]


def mapped(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the grey pictures as a memory map, in the order of their paths, and their labels."""
    return np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def augmented(picture: np.ndarray, shift: int, random: np.random.Generator) -> np.ndarray:
    """Shifts one picture and mirrors it in half of the cases."""
    height, width = picture.shape[:2]
    row, column = random.integers(0, 2 * shift + 1, 2)
    picture = np.pad(picture, ((shift, shift), (shift, shift), (0, 0)))[row : row + height, column : column + width]
    return picture[:, ::-1] if random.random() < 0.5 else picture


def speed(batches: Callable[[], Iterable], passes: int) -> dict[str, float]:
    """Returns the pictures a second of all passes but the first, and what a pass holds."""
    seconds = []
    for _ in range(passes + 1):
        begun, count, labels = time.perf_counter(), 0, 0
        for images, truth in batches():
            count += len(images)
            labels += int(np.sum(np.asarray(truth)))
        seconds.append(time.perf_counter() - begun)
    return {"pictures_per_second": count / statistics.median(seconds[1:]), "pictures": count, "labels": labels}


def differences(folder: Path, kind: str, pictures: np.ndarray) -> dict[str, float]:
    """Returns how far the first pictures, read without augmentation, are from what Pillow decodes."""
    found = np.asarray(pictures)[:COMPARED].astype(int)
    gap = np.abs(found - np.load(folder / f"{kind}.npy").astype(int))
    return {"largest_difference": gap.max(), "mean_difference": gap.mean()}
