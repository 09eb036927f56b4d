"""Cleans a file of pictures and finds its duplicates: as notebook 01 does (--ours), or with imagehash in a loop."""

import argparse
import hashlib
import json
import time
from pathlib import Path

import _task
import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("--ours", action="store_true")
parser.add_argument("--imagehash", action="store_true")
parser.add_argument("--data", required=True, help="a folder with images.npy")
options = parser.parse_args()
if options.ours:
    import pandas as pd

    from helpers import cleaning, records, sources
else:
    import imagehash
    from PIL import Image


def ours(images: np.ndarray) -> np.ndarray:
    count = len(images)
    names = np.char.mod("%07d.png", np.arange(count))
    size = {"height": np.full(count, images.shape[1]), "width": np.full(count, images.shape[2])}
    originals = pd.DataFrame({**size, "mode": pd.Categorical.from_codes(np.zeros(count, np.int8), ["L"])})
    nothing = pd.DataFrame(columns=records.Finding._fields).astype({"group": np.int64, "row": np.int64})
    labels, splits = np.full(count, "one"), np.full(count, "")
    collection = sources.Collection(images, names, labels, splits, originals, nothing, ["one"])
    return cleaning.inspect(collection)[1]


def loop(images: np.ndarray) -> np.ndarray:
    seen: dict[object, int] = {}
    content = np.arange(len(images))
    for row, picture in enumerate(images):
        digest = hashlib.md5(picture.tobytes()).digest()
        looks = str(imagehash.phash(Image.fromarray(picture[..., 0])))
        content[row] = seen.setdefault(looks, seen.setdefault(digest, row))
    return content


images = np.load(Path(options.data) / "images.npy", mmap_mode="r")
begun = time.perf_counter()
content = ours(images) if options.ours else loop(images)
seconds = time.perf_counter() - begun
np.save(Path(options.data) / ("ours.npy" if options.ours else "imagehash.npy"), content)
print(json.dumps({"seconds": seconds, "peak_mb": _task.peak_mb()}))
