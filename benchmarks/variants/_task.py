"""What all variants share: their arguments, the pictures, and how a result is timed and printed."""

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help=".npz with train_images, train_labels, test_images, test_labels")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--same-batch", action="store_true", help="not the library's own batch size, but --batch")
    return parser.parse_args()


def arrays(path: str) -> list[np.ndarray]:
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
