"""cleanvision on a file of pictures: exact and near-duplicates, blank and over-exposed pictures, odd sizes."""

import argparse
import json
import time
from pathlib import Path

import _task
import numpy as np
from cleanvision import Imagelab
from PIL import Image

ISSUES = ("exact_duplicates", "near_duplicates", "low_information", "light", "odd_size")


class Pictures:
    """What cleanvision takes for a torchvision data set; its processes get the file's name, and not its content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[row, ..., 0]), 0

    def __reduce__(self) -> tuple:
        return Pictures, (self.path,)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="a folder with images.npy")
    folder = Path(parser.parse_args().data)
    pictures = Pictures(folder / "images.npy")
    begun = time.perf_counter()
    lab = Imagelab(torchvision_dataset=pictures, verbose=False)
    lab.find_issues({issue: {} for issue in ISSUES}, verbose=False)
    seconds = time.perf_counter() - begun
    content = np.arange(len(pictures))
    for kind in ("near_duplicates", "exact_duplicates"):
        for rows in lab.info[kind]["sets"]:
            content[rows] = content[rows[0]]
    np.save(folder / "cleanvision.npy", content)
    print(json.dumps({"seconds": seconds, "peak_mb": _task.peak_mb()}))
