"""JPEG files in memory to pixels on all cores, and nothing else, in the quickest of three ways."""

import io
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import _pictures
import _task
import numpy as np
from PIL import Image

task = _pictures.arguments()
cores = task.threads
files = [path.read_bytes() for path in _pictures.files(task.folder / "jpeg")[0]]


def decode(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def decode_part(number):
    return sum(len(decode(content)) for content in files[number::cores])


def speed(work):
    seconds = []
    for _ in range(task.passes + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return len(files) / statistics.median(seconds[1:])


def with_tensorflow():
    for _ in tensors:
        pass


with ProcessPoolExecutor(cores) as processes:
    figures = {"Pillow, processes": speed(lambda: list(processes.map(decode_part, range(cores))))}
with ThreadPoolExecutor(cores) as threads:
    figures["Pillow, threads"] = speed(lambda: [len(picture) for picture in threads.map(decode, files)])
import tensorflow as tf  # noqa: E402  (after the processes, which would inherit its threads)

tensors = tf.data.Dataset.from_tensor_slices(files).map(tf.io.decode_jpeg, num_parallel_calls=cores)
figures["TensorFlow"] = speed(with_tensorflow)
_task.report(**figures, pictures_per_second=max(figures.values()))
