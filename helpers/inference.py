"""Exported models as they run: one way to load and ask them, and measurements in a process of their own.

Importing this module loads neither Keras nor TensorFlow, and a LiteRT or ONNX file never does.
"""

import contextlib
import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import timeit
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import modelfiles, processor, runtimes

RUNTIMES = {".tflite": "LiteRT", ".xz": "LiteRT", ".onnx": "ONNX Runtime", ".keras": "Keras", "": "SavedModel"}
_RAPL = Path("/sys/class/powercap/intel-rapl:0")
_BATCH = 50  # pictures of 28x28 at a time in LiteRT and ONNX Runtime: what they compute stays in the CPU's cache
_LARGE_BATCH = 500
_TIMEOUT = 900  # seconds for one measurement
_SECONDS = 2.0  # the longest that one latency or throughput is measured
_NATIVE = ("LiteRT", "ONNX Runtime", "OpenVINO")  # they heed `threads`, and may crash on a damaged file
_SHORT = 0.1  # seconds that a latency is measured at least, so that the processor is awake
_STEADY = 0.3  # the same of a throughput, whose best run is to be one that nobody disturbed


class Parity(NamedTuple):
    """How close two models' logits are: largest absolute difference, share of equal answers."""

    max_difference: float
    agreement: float


@dataclass(frozen=True)
class Measurement:
    """What one model file did in a process of its own.

    `peak_mb` is the most memory that the process held, with Python, NumPy and the runtime in it, once the model
    was loaded and had answered single pictures and `throughput_pictures` of them; None where the system does not
    tell. `joules_per_1000` is the energy of the processor for 1,000 pictures; None where it may not be read.
    `latency_threads` is the number of threads with which one picture took `latency_ms_p50`; None for TensorFlow.
    """

    path: Path
    runtime: str
    logits: np.ndarray
    load_seconds: float
    latency_ms_p50: float
    latency_ms_p95: float
    latency_threads: int | None
    pictures_per_second: float
    peak_mb: float | None
    joules_per_1000: float | None


@dataclass(frozen=True)
class Predictor:
    """A loaded model: raw pictures in, logits out. Not for several threads at once."""

    path: Path
    runtime: str
    input_shape: tuple[int, int, int]
    classes: int
    _run: Callable[[np.ndarray], np.ndarray] = field(repr=False)
    _batch: int = field(repr=False)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits of pictures.

        Args:
            images: uint8 of shape (n, height, width, channels), values 0 to 255; a memory map is read batch by batch.

        Returns:
            float32 of shape (n, classes).

        Raises:
            ValueError: If shape or dtype is another one.
        """
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != self.input_shape:
            found = getattr(images, "dtype", type(images).__name__)
            raise ValueError(
                f"{self.path.name} takes uint8 pictures of shape (n, {', '.join(map(str, self.input_shape))}); "
                f"received {found} of shape {np.shape(images)}."
            )
        if len(images) <= self._batch and len(images) > 0:
            return self._run(np.ascontiguousarray(images))
        logits = np.empty((len(images), self.classes), np.float32)
        for start in range(0, len(images), self._batch):
            logits[start : start + self._batch] = self._run(np.ascontiguousarray(images[start : start + self._batch]))
        return logits


def load(path: str | Path, *, threads: int | None = None, call: str = "predict", trusted: bool = False) -> Predictor:
    """Loads a model file and lets it answer one black picture.

    A damaged LiteRT or ONNX file that is still in the right form can crash whoever runs it. So a process of its own
    tries it first, which takes a fifth of a second.

    Args:
        path: A `.tflite`, `.tflite.xz`, `.onnx` or `.keras` file, or a SavedModel folder. A `.keras` file that could
            run code is refused. A SavedModel is a program: load only those that you trust.
        threads: For LiteRT and ONNX Runtime; as many as this process may use cores if not given. A small network
            answers single pictures sooner with 1 (`measure` tells), and many at once with all.
        call: How a `.keras` model is asked: `"predict"` for `model.predict`, `"direct"` for `model(pictures)`.
            `"openvino"` runs an `.onnx` file in OpenVINO, where that is installed.
        trusted: Whether to leave that trial out: the file is known to be whole, by its checksum for instance.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If the file is not what its name says, or damaged, or not a classifier of pictures.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model {path}: export one with helpers.export, or mend the name.")
    runtime = _runtime(path)
    if call not in ("predict", "direct", "openvino"):
        raise ValueError(f'call is "predict", "direct" or "openvino"; received {call!r}.')
    if call == "openvino":
        if path.suffix != ".onnx":
            raise ValueError(f"OpenVINO is asked with an .onnx file; received {path.name}.")
        runtime = "OpenVINO"
    if threads is not None and threads < 1:
        raise ValueError(f"threads is at least 1; received {threads}.")
    threads = threads or processor.cores()
    start = {
        "LiteRT": runtimes.litert, "ONNX Runtime": runtimes.onnx, "OpenVINO": runtimes.openvino,
        "SavedModel": runtimes.saved_model, "Keras": runtimes.keras,
    }[runtime]  # fmt: skip
    if runtime == "Keras":
        modelfiles.check_keras(path)
    content = modelfiles.read_tflite(path) if runtime == "LiteRT" else path
    if runtime in _NATIVE and not trusted:
        _try_elsewhere(path)
    try:
        shape, run = start(content, call if runtime == "Keras" else threads)
        logits = run(np.zeros((1, *shape), np.uint8)) if len(shape) == 3 else np.empty(0)
    except Exception as error:  # runtimes raise whatever they like
        raise ValueError(f"{path} cannot be loaded by {runtime} ({_reason(error)}): export it again.") from error
    if logits.ndim != 2 or len(logits) != 1:
        raise ValueError(f"{path} is not a classifier of pictures: it takes {shape} and gives {logits.shape[1:]}.")
    batch = _LARGE_BATCH if runtime in ("Keras", "SavedModel") else _BATCH
    batch = max(1, min(batch, batch * 784 // int(np.prod(shape))))
    batch = batch if batch == 1 or _takes_two(run, shape) else 1
    name = "Keras call" if runtime == "Keras" and call == "direct" else runtime
    if runtime == "Keras":
        import keras  # the runtime has loaded it

        name += "" if keras.backend.backend() == "tensorflow" else f" on {keras.backend.backend()}"
    return Predictor(path, name, shape, logits.shape[1], run, batch)


def parity(logits: np.ndarray, reference: np.ndarray) -> Parity:
    """Compares logits with those of another model for the same pictures.

    Args:
        logits: Shape (n, classes).
        reference: The same shape.

    Example:

    >>> parity(np.array([[1.0, 2.0], [4.0, 3.0]]), np.array([[1.5, 2.0], [2.0, 3.0]]))
    Parity(max_difference=2.0, agreement=0.5)
    """
    logits, reference = np.asarray(logits), np.asarray(reference)
    if logits.shape != reference.shape or logits.ndim != 2 or len(logits) == 0:
        raise ValueError(
            "Logits are compared for the same pictures and classes, and at least one of each; "
            f"received shapes {logits.shape} and {reference.shape}."
        )
    difference = np.abs(logits.astype(np.float64) - reference).max()
    return Parity(float(difference), float(np.mean(logits.argmax(1) == reference.argmax(1))))


def operators(path: str | Path) -> "pandas.DataFrame":  # noqa: F821
    """Lists a file's operators with the types they work on, as they stand in the file, before a runtime fuses any.

    Args:
        path: A `.tflite`, `.tflite.xz` or `.onnx` file.

    Returns:
        One row for each kind: `operator`, `input`, `weights` (the type of its constants but for sizes and indices,
        or empty), `output`, `count`, and `float`: whether it takes or gives floating-point numbers. In the order
        in which they first occur.

    Raises:
        FileNotFoundError, ValueError: As in `load`, or if it is another kind of file.
    """
    import pandas as pd

    path = Path(path)
    is_litert = _runtime(path) == "LiteRT"
    if not is_litert and path.suffix != ".onnx":
        raise ValueError(f"Operators are listed of .tflite, .tflite.xz and .onnx files; received {path.name}.")
    load(path)  # the runtime verifies what is read below
    read = modelfiles.litert_operators(modelfiles.read_tflite(path)) if is_litert else modelfiles.onnx_operators(path)
    counts = Counter(read)
    frame = pd.DataFrame([(*row, count) for row, count in counts.items()],
                         columns=["operator", "input", "weights", "output", "count"])  # fmt: skip
    frame["float"] = (frame["input"] + frame["output"]).str.contains("FLOAT")
    return frame


def measure(
    path: str | Path,
    images: np.ndarray,
    *,
    repeats: int = 200,
    warm_up: int = 20,
    threads: int | None = None,
    throughput_pictures: int = 1000,
    call: str = "predict",
    backend: str | None = None,
) -> Measurement:
    """Measures a model file in a process that has just started and does nothing else.

    Latency is the time of `predict` for one picture, over `repeats` of them: over more where these take less than
    0.1 seconds, over fewer where they would take more than 2. LiteRT and ONNX Runtime are asked with one thread, too,
    which is quicker where a network is so small that threads wait for each other longer than they compute; the quicker
    counts. Throughput is the best of twice 5 runs over `throughput_pictures`, before and after that, more where 5 take
    less than 0.3 seconds and fewer where they would take more than 2: what other processes take away cannot make it
    better.

    Args:
        path: As in `load`.
        images: uint8 of shape (n, height, width, channels), at least one; logits are given for all of them.
        repeats: Single pictures that are timed.
        warm_up: Single pictures before that, for as long.
        threads: As in `load`, and then with no other number; TensorFlow heeds it here, too.
        throughput_pictures: Pictures of one run; `images` are repeated if they are fewer.
        call: As in `load`.
        backend: Keras's backend in that process, for `.keras`; that of this one if not given.

    Raises:
        FileNotFoundError, ValueError: As in `load`, or if the process ended before its answer.
    """
    path = Path(path)
    if len(images) == 0 or min(repeats, throughput_pictures) < 1:
        raise ValueError("A measurement needs at least one picture, one repeat and one picture for the throughput.")
    request = {"path": str(path.absolute()), "threads": threads, "call": call, "repeats": repeats,
               "warm_up": warm_up, "throughput_pictures": throughput_pictures}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="measure-") as name:
        folder = Path(name)
        np.save(folder / "images.npy", images)
        (folder / "request.json").write_text(json.dumps(request))
        _in_fresh_process(folder, path, threads, backend)
        found = json.loads((folder / "result.json").read_text())
        logits = np.load(folder / "logits.npy", allow_pickle=False)
    return Measurement(path=path, logits=logits, **found)


def times_as_long(path: str | Path, other: str | Path, image: np.ndarray, *, rounds: int = 50) -> float:
    """Returns how many times as long a file takes for one picture as another: the median of rounds of 20 calls each.

    Both run in this process with one thread and take turns, so that what slows one of them slows the other, too: times
    of `measure`, taken one file after the other, move by half where a picture takes millionths of a second.

    Args:
        path, other: As in `load`.
        image: uint8 of shape (1, height, width, channels).
        rounds: How often both take their turn.

    Raises:
        FileNotFoundError, ValueError: As in `load`.
    """
    calls = [functools.partial(load(file, threads=1).predict, image) for file in (path, other)]
    seconds = np.array([[timeit.timeit(call, number=20) for call in calls] for _ in range(rounds)])
    return float(np.median(seconds[:, 0] / seconds[:, 1]))


def _in_fresh_process(folder: Path, path: Path, threads: int | None, backend: str | None) -> None:
    try:
        done = _run_this_module("measure", folder, threads=threads, backend=backend, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"Measuring {path} took longer than {_TIMEOUT} s and was ended: ask about fewer pictures."
        ) from None
    refused = folder / "error.json"
    if refused.exists():
        error = json.loads(refused.read_text())
        raise {"FileNotFoundError": FileNotFoundError}.get(error["type"], ValueError)(error["message"])
    if done.returncode < 0:
        end = signal.Signals(-done.returncode).name
        why = "memory ran out, most likely" if end == "SIGKILL" else "the file is damaged, most likely"
        raise ValueError(f"The process that measured {path} was ended by {end}: {why}.")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise ValueError(f"The process that measured {path} ended before its answer: {said[0][:300]}")


def _try_elsewhere(path: Path) -> None:
    """Raises if a process that loads the file and asks it is killed, or never ends."""
    try:
        done = _run_this_module("try", path.absolute(), threads=1, timeout=60)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{path} is damaged: it gave no answer within a minute. Export it again.") from None
    if done.returncode < 0:
        end = signal.Signals(-done.returncode).name
        raise ValueError(f"{path} is damaged: the process that tried it was ended by {end}. Export it again.")


def _run_this_module(
    task: str, path: Path, *, threads: int | None, timeout: float, backend: str | None = None
) -> subprocess.CompletedProcess:
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3"} | os.environ | ({"KERAS_BACKEND": backend} if backend else {})
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    if threads is not None:
        environment |= {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads)}
    command = [sys.executable, "-P", "-m", "helpers.inference", task, str(path)]  # -P: no module of the working folder
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
    )


# ── inside the fresh process ────────────────────────────────────────────────────────────────────


def _main(task: str, path: Path) -> int:
    if task == "try":
        with contextlib.suppress(ValueError):  # whoever asked sees it, too
            predictor = load(path, threads=1, trusted=True)
            predictor.predict(np.zeros((3, *predictor.input_shape), np.uint8))
        return 0
    return _answer(path)


def _answer(folder: Path) -> int:
    request = json.loads((folder / "request.json").read_text())
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    try:
        result, logits = _measured(images, **request)
    except Exception as error:  # runtimes raise whatever they like
        said = str(error) if isinstance(error, ValueError | OSError) else None
        said = said or f"{request['path']} cannot be measured ({_reason(error)}): export it again."
        message = {"type": type(error).__name__, "message": said}
        (folder / "error.json").write_text(json.dumps(message))
        return 1
    np.save(folder / "logits.npy", logits)
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def _measured(
    images: np.ndarray, *, path: str, threads: int | None, call: str, repeats: int, warm_up: int,
    throughput_pictures: int,
) -> tuple[dict, np.ndarray]:  # fmt: skip
    start = time.perf_counter()
    predictor = load(path, threads=threads, call=call, trusted=True)
    load_seconds = time.perf_counter() - start
    singles = np.array(images[:256])

    def one_by_one(asked: Predictor) -> np.ndarray:
        pictures = itertools.cycle(picture[None] for picture in singles)
        _timed(asked, pictures, warm_up, at_least=_SHORT)
        return 1e3 * _timed(asked, pictures, repeats, at_least=_SHORT)

    threaded = predictor.runtime in _NATIVE
    latencies = {threads or processor.cores() if threaded else None: one_by_one(predictor)}
    many = np.array(images[np.arange(throughput_pictures) % len(images)])
    predictor.predict(many)
    energy = _energy()
    seconds = _timed(predictor, itertools.repeat(many), 5, at_least=_STEADY)
    joules = _joules_since(energy)
    peak = processor.peak_bytes()  # before all pictures are read: mapped pages count as memory
    if threaded and not threads and processor.cores() > 1:
        latencies[1] = one_by_one(load(path, threads=1, call=call, trusted=True))
    later = _timed(predictor, itertools.repeat(many), 5, at_least=_STEADY)  # another process may have been busy before
    quickest = min(latencies, key=lambda count: np.median(latencies[count]))
    result = {
        "runtime": predictor.runtime,
        "load_seconds": load_seconds,
        "latency_ms_p50": float(np.percentile(latencies[quickest], 50)),
        "latency_ms_p95": float(np.percentile(latencies[quickest], 95)),
        "latency_threads": quickest,
        "pictures_per_second": throughput_pictures / float(min(seconds.min(), later.min())),
        "peak_mb": peak / 1e6 if peak else None,
        "joules_per_1000": None if joules is None else joules * 1000 / (len(seconds) * throughput_pictures),
    }
    return result, predictor.predict(images)


def _timed(predictor: Predictor, calls: Iterator[np.ndarray], count: int, *, at_least: float) -> np.ndarray:
    """Returns the seconds of each of `count` calls: of more, until they took `at_least` seconds; of fewer, if those
    would take too long."""
    seconds, begin = [], time.perf_counter()
    for pictures in calls:
        start = time.perf_counter()
        if start - begin > _SECONDS or (len(seconds) >= count and start - begin >= at_least):
            break
        predictor.predict(pictures)
        seconds.append(time.perf_counter() - start)
    return np.array(seconds)


def _energy() -> int | None:
    """Returns the processor's energy counter in microjoules, or None where it may not be read."""
    try:
        return int((_RAPL / "energy_uj").read_text())
    except (OSError, ValueError):
        return None


def _joules_since(before: int | None) -> float | None:
    after = _energy()
    if before is None or after is None:
        return None
    if after < before:  # the counter has begun anew
        after += int((_RAPL / "max_energy_range_uj").read_text())
    return (after - before) / 1e6


def _takes_two(run: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...]) -> bool:
    """Says whether a model answers for two pictures at a time; one whose batch is fixed does not."""
    try:
        return len(run(np.zeros((2, *shape), np.uint8))) == 2
    except Exception:  # runtimes raise whatever they like
        return False


def _runtime(path: Path) -> str:
    if (path / "saved_model.pb").is_file():  # whatever its folder is called
        return "SavedModel"
    suffix = path.suffix if path.suffix != ".xz" or path.name.endswith(".tflite.xz") else path.name
    if suffix not in RUNTIMES or (suffix == "") != path.is_dir():
        raise ValueError(
            f"A model is a .tflite, .tflite.xz, .onnx or .keras file, or a SavedModel folder; received {path}."
        )
    return RUNTIMES[suffix]


def _reason(error: Exception) -> str:
    said = str(error).rpartition("Exception encountered:")[2]  # Keras puts a page of its own in front of it
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:200].rstrip(".:")


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
