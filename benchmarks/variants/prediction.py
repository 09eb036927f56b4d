"""One picture after the other through one runtime; `--peer make` trains the model and writes it in each format."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import _task
import numpy as np

WARM_UP, TIMED, COMPARED = 200, 2000, 500

parser = argparse.ArgumentParser()
parser.add_argument("--peer", required=True)
parser.add_argument("--models", required=True, type=Path, help="folder of the model files")
parser.add_argument("--data", required=True, help=".npz, see _task")
parser.add_argument("--threads", required=True, type=int)
options = parser.parse_args()
images, labels, test_images, _ = _task.arrays(options.data)


def make() -> None:
    import keras

    from benchmarks import arithmetic
    from helpers import export, models, training

    keras.utils.set_random_seed(0)
    model = models.better_cnn(images.shape[1:], 10)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(images, labels, batch_size=64, epochs=2, verbose=0)
    for suffix in ("keras", "tflite", "onnx"):
        export.write(training.portable(model), options.models / f"model.{suffix}")
    _task.report(
        flop=2 * sum(models.multiply_adds(model).values()), peak_flops=arithmetic.peak_flops(),
        weights=model.count_params(), bytes=4 * model.count_params(), bandwidth=arithmetic.copy_bandwidth(),
    )  # fmt: skip


def ours() -> Callable[[np.ndarray], np.ndarray]:
    from helpers import classifier

    model = classifier.load(options.models / "model.tflite")
    return lambda picture: model.answer(picture).logits


def logits() -> Callable[[np.ndarray], np.ndarray]:
    from helpers import inference

    return inference.load(options.models / "model.tflite").predict


def litert() -> Callable[[np.ndarray], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(options.models / "model.tflite"), num_threads=options.threads)
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()

    def ask(picture: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(source["index"], picture)
        interpreter.invoke()
        return interpreter.get_tensor(target["index"])

    return ask


def onnx() -> Callable[[np.ndarray], np.ndarray]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    session = onnxruntime.InferenceSession(options.models / "model.onnx", settings, ["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda picture: session.run(None, {name: picture})[0]


def direct() -> Callable[[np.ndarray], np.ndarray]:
    import keras

    model = keras.saving.load_model(options.models / "model.keras", compile=False)
    return lambda picture: keras.ops.convert_to_numpy(model(picture, training=False))


def predict() -> Callable[[np.ndarray], np.ndarray]:
    import keras

    model = keras.saving.load_model(options.models / "model.keras", compile=False)
    return lambda picture: model.predict(picture, verbose=0)


def timed(ask: Callable[[np.ndarray], np.ndarray], *, most: float = 20.0) -> np.ndarray:
    """Returns the milliseconds of each call; fewer than 2,000 where these would take too many seconds."""
    singles = [test_images[row % len(test_images)][None] for row in range(WARM_UP + TIMED)]
    milliseconds, end = [], time.perf_counter() + most
    for row, picture in enumerate(singles):
        begun = time.perf_counter()
        if begun > end and row > 100:
            break
        ask(picture)
        milliseconds.append(1e3 * (time.perf_counter() - begun))
    return np.array(milliseconds[min(WARM_UP, len(milliseconds) // 2) :])


if options.peer == "make":
    make()
else:
    peers = {"ours": ours, "logits": logits, "litert": litert, "onnx": onnx, "direct": direct, "predict": predict}
    ask = peers[options.peer]()
    milliseconds, peak = timed(ask), _task.peak_mb()
    np.save(options.models / f"{options.peer}.npy", np.concatenate([ask(one[None]) for one in test_images[:COMPARED]]))
    _task.report(
        calls=len(milliseconds), p50_ms=np.percentile(milliseconds, 50), p99_ms=np.percentile(milliseconds, 99),
        peak_mb=peak,
    )  # fmt: skip
