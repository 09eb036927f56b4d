"""All pictures of a prepared data set, answered by `batch.predict` (--ours) or by the bare runtime in a loop.

The bare runtime has no more around it than it needs: it imports nothing of ours, and keeps no answer.
"""

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

AT_A_TIME = 50  # the bare runtime's fastest, and what ours takes: the sums in between stay in the CPU's cache

parser = argparse.ArgumentParser()
parser.add_argument("--ours", action="store_true")
parser.add_argument("--model", required=True)
parser.add_argument("--data", required=True)
options = parser.parse_args()


def ours() -> int:
    from helpers import batch

    with tempfile.TemporaryDirectory() as folder:
        return batch.predict([options.data], options.model, Path(folder) / "all.parquet").pictures


def bare() -> int:
    from ai_edge_litert.interpreter import Interpreter

    images, answers = np.load(Path(options.data) / "images.npy", mmap_mode="r"), 0
    interpreter = Interpreter(options.model, num_threads=len(os.sched_getaffinity(0)))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    for start in range(0, len(images), AT_A_TIME):
        pictures = images[start : start + AT_A_TIME]
        if start == 0 or len(pictures) < AT_A_TIME:
            interpreter.resize_tensor_input(source["index"], pictures.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], pictures.astype(source["dtype"], copy=False))
        interpreter.invoke()
        answers += len(interpreter.get_tensor(target["index"]).argmax(axis=1))
    return answers


# `ru_maxrss` would begin with the memory of whoever started this process
begun = time.perf_counter()
pictures = ours() if options.ours else bare()
seconds = time.perf_counter() - begun
times = psutil.Process().cpu_times()
figures = {
    "pictures_per_second": pictures / seconds,
    "whole_process": pictures / (time.time() - psutil.Process().create_time()),
    "cpu_seconds": sum(times[:4]),
    "peak_mb": int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6,
}
print(json.dumps(figures))
