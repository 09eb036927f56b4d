"""All pictures of a prepared data set, answered by `batch.predict` (--ours) or by the bare runtime in a loop."""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from helpers import batch, inference

parser = argparse.ArgumentParser()
parser.add_argument("--ours", action="store_true")
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
options = parser.parse_args()

begun = time.perf_counter()
if options.ours:
    with tempfile.TemporaryDirectory() as folder:
        pictures = batch.predict([options.data], options.model, Path(folder) / "all.parquet").pictures
else:
    images = np.load(Path(options.data) / "images.npy", mmap_mode="r")
    predictor, pictures = inference.load(options.model), 0
    for start in range(0, len(images), 1024):
        logits = predictor.predict(np.asarray(images[start : start + 1024]))
        pictures += len(logits.argmax(axis=1))
seconds = time.perf_counter() - begun
figures = {
    "pictures_per_second": pictures / seconds,
    "whole_process": pictures / (time.time() - psutil.Process().create_time()),
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}
print(json.dumps(figures))
