"""All pictures of a prepared data set, answered by `batch.predict` (--ours VERSION) or LiteRT in a loop (--bare FILE).

The bare runtime has no more around it than it needs: it imports nothing of ours, and keeps no answer.
"""

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil

AT_A_TIME = 50  # the bare runtime's fastest, and what ours takes: the sums in between stay in the CPU's cache

parser = argparse.ArgumentParser()
parser.add_argument("--ours")
parser.add_argument("--bare")
parser.add_argument("--data", required=True)
options = parser.parse_args()


def ours() -> Callable[[], int]:
    from helpers import batch, classifier

    model = classifier.load(options.ours)

    def work() -> int:
        with tempfile.TemporaryDirectory() as folder:
            return batch.predict([options.data], model, Path(folder) / "all.parquet").pictures

    return work


def bare() -> Callable[[], int]:
    from ai_edge_litert.interpreter import Interpreter

    images = np.load(Path(options.data) / "images.npy", mmap_mode="r")
    interpreter = Interpreter(options.bare, num_threads=len(os.sched_getaffinity(0)))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def work() -> int:
        answers = 0
        for start in range(0, len(images), AT_A_TIME):
            pictures = images[start : start + AT_A_TIME]
            if start == 0 or len(pictures) < AT_A_TIME:
                interpreter.resize_tensor_input(source["index"], pictures.shape)
                interpreter.allocate_tensors()
            interpreter.set_tensor(source["index"], pictures.astype(source["dtype"], copy=False))
            interpreter.invoke()
            answers += len(interpreter.get_tensor(target["index"]).argmax(axis=1))
        return answers

    return work


work = ours() if options.ours else bare()
before, begun = sum(psutil.Process().cpu_times()[:4]), time.perf_counter()
pictures = work()
seconds = time.perf_counter() - begun
after = sum(psutil.Process().cpu_times()[:4])
# `ru_maxrss` would begin with the memory of whoever started this process
peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6
figures = {
    "pictures_per_second": pictures / seconds,
    "whole_process": pictures / (time.time() - psutil.Process().create_time()),
    "per_cpu_second": pictures / (after - before),
    "peak_mb": peak,
}
print(json.dumps(figures))
