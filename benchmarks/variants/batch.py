"""All pictures of a prepared data set, answered by `batch.predict` (--ours VERSION), LiteRT in a loop (--bare FILE)
or `model.predict` with its defaults (--keras FILE).

What each answers for the first pictures is written beside the others' after the time is taken. The bare runtime has
no more around it than it needs: it imports nothing of ours, and keeps no answer.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import _task
import numpy as np
import psutil

AT_A_TIME = 50  # the bare runtime's fastest, and what ours takes: the sums in between stay in the CPU's cache
FIRST = 2000  # pictures whose answers are compared

parser = argparse.ArgumentParser()
parser.add_argument("--ours")
parser.add_argument("--bare")
parser.add_argument("--keras")
parser.add_argument("--data", required=True)
parser.add_argument("--threads", required=True, type=int, help="of the bare runtime")
parser.add_argument("--answers", required=True, help="folder for the classes of the first pictures")
options = parser.parse_args()


def ours(folder: str) -> tuple[Callable[[], int], Callable[[], np.ndarray]]:
    from helpers import batch, classifier

    model, output = classifier.load(options.ours), Path(folder) / "all.parquet"

    def answers() -> np.ndarray:
        import pyarrow.parquet as pq

        names = pq.read_table(output, columns=["class"])["class"].slice(0, FIRST).to_pylist()
        return np.array([model.classes.index(name) for name in names])

    return lambda: batch.predict([options.data], model, output).pictures, answers


def bare() -> tuple[Callable[[], int], Callable[[], np.ndarray]]:
    from ai_edge_litert.interpreter import Interpreter

    images = np.load(Path(options.data) / "images.npy", mmap_mode="r")
    interpreter = Interpreter(options.bare, num_threads=options.threads)
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def answered(pictures: np.ndarray, *, resize: bool) -> np.ndarray:
        if resize:
            interpreter.resize_tensor_input(source["index"], pictures.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(source["index"], pictures.astype(source["dtype"], copy=False))
        interpreter.invoke()
        return interpreter.get_tensor(target["index"]).argmax(axis=1)

    def work() -> int:
        answers = 0
        for start in range(0, len(images), AT_A_TIME):
            pictures = images[start : start + AT_A_TIME]
            answers += len(answered(pictures, resize=start == 0 or len(pictures) < AT_A_TIME))
        return answers

    return work, lambda: answered(images[:FIRST], resize=True)


def keras_defaults() -> tuple[Callable[[], int], Callable[[], np.ndarray]]:
    import keras

    images = np.load(Path(options.data) / "images.npy", mmap_mode="r")
    model = keras.saving.load_model(options.keras, compile=False)
    return (
        lambda: len(model.predict(images, verbose=0)),
        lambda: model.predict(images[:FIRST], verbose=0).argmax(axis=1),
    )


with tempfile.TemporaryDirectory() as folder:
    name = "ours" if options.ours else "bare" if options.bare else "keras"
    work, answers = {"ours": lambda: ours(folder), "bare": bare, "keras": keras_defaults}[name]()
    before, begun = sum(psutil.Process().cpu_times()[:4]), time.perf_counter()
    pictures = work()
    seconds = time.perf_counter() - begun
    whole = time.time() - psutil.Process().create_time()
    after, peak = sum(psutil.Process().cpu_times()[:4]), _task.peak_mb()
    np.save(Path(options.answers) / f"{name}.npy", answers())
_task.report(
    pictures_per_second=pictures / seconds, whole_process=pictures / whole, per_cpu_second=pictures / (after - before),
    peak_mb=peak,
)  # fmt: skip
