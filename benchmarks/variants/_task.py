"""What all variants share: the pictures, and how a result is timed and printed."""

import json
import re
import time
from pathlib import Path

import numpy as np


def arrays(path: str) -> list[np.ndarray]:
    """Returns train_images, train_labels, test_images and test_labels of an .npz."""
    with np.load(path) as archive:
        return [archive[f"{part}_{kind}"] for part in ("train", "test") for kind in ("images", "labels")]


def timed(train_one_epoch, epochs: int, pictures: int) -> float:
    """Returns the pictures a second of all epochs but the first, in which graphs are built."""
    seconds = []
    for _ in range(epochs):
        started = time.perf_counter()
        train_one_epoch()
        seconds.append(time.perf_counter() - started)
    return pictures * (epochs - 1) / sum(seconds[1:])


def report(**figures: float) -> None:
    print(json.dumps({name: float(value) for name, value in figures.items()}))


def peak_mb() -> float:
    """Returns the most memory that this process has had; `ru_maxrss` would begin with that of whoever started it."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
