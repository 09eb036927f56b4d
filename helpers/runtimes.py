"""The runtimes that exported models run in: each starts a file and gives a picture's shape and a function.

The function takes uint8 pictures (n, height, width, channels), contiguous and of that shape, and gives float32
logits (n, classes). What is wrong with a file is raised as the runtime raises it: `inference` says it in a sentence.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

LARGEST_TENSOR = 2**30  # bytes for one picture: a damaged file may ask for more memory than there is

Started = tuple[tuple[int, ...], Callable[[np.ndarray], np.ndarray]]


def litert(content: bytes, threads: int) -> Started:
    """Starts LiteRT on a verified file's bytes; the batch is resized only when it changes."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    for tensor in interpreter.get_tensor_details():
        if np.prod(tensor["shape"].astype(np.float64)) * np.dtype(tensor["dtype"]).itemsize > LARGEST_TENSOR:
            raise ValueError(f"a tensor of shape {tensor['shape'].tolist()}")
    interpreter.allocate_tensors()
    source, target = _one_of_each(interpreter.get_input_details(), interpreter.get_output_details())
    shape = _fixed(source["shape_signature"][1:].tolist())
    scale, zero = target["quantization"]
    _check_input(source["dtype"])
    prepared = int(source["shape"][0])

    def run(images: np.ndarray) -> np.ndarray:
        nonlocal prepared
        if len(images) != prepared:
            prepared = 0  # until the new batch is in place: where the old one is fixed, that fails
            interpreter.resize_tensor_input(source["index"], images.shape)
            interpreter.allocate_tensors()
            prepared = len(images)
        interpreter.set_tensor(source["index"], images.astype(source["dtype"], copy=False))
        interpreter.invoke()
        logits = interpreter.get_tensor(target["index"])
        if not scale:  # real numbers, of whatever type
            return logits.astype(np.float32, copy=False)
        return (logits.astype(np.float32) - zero) * np.float32(scale)

    return shape, run


def onnx(path: Path, threads: int) -> Started:
    """Starts ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what goes wrong is raised anyway
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"], enable_fallback=False)
    source, _ = _one_of_each(session.get_inputs(), session.get_outputs())
    dtype = np.dtype({"tensor(uint8)": "uint8", "tensor(float)": "float32"}.get(source.type, "V"))
    _check_input(dtype)
    shape = _fixed(source.shape[1:])

    def run(images: np.ndarray) -> np.ndarray:
        return session.run(None, {source.name: images.astype(dtype, copy=False)})[0].astype(np.float32, copy=False)

    return shape, run


def openvino(path: Path, threads: int) -> Started:
    """Compiles an ONNX file with OpenVINO for the CPU, in float32: left alone it would choose bfloat16 by itself."""
    import openvino as ov

    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    compiled = ov.Core().compile_model(path, "CPU", options)
    source, _ = _one_of_each(compiled.inputs, compiled.outputs)
    dtype = np.dtype(source.element_type.to_dtype())
    _check_input(dtype)
    shape = _fixed(None if side.is_dynamic else side.get_length() for side in list(source.partial_shape)[1:])

    def run(images: np.ndarray) -> np.ndarray:
        return np.array(compiled(images.astype(dtype, copy=False))[0], np.float32)

    return shape, run


def saved_model(path: Path, threads: int) -> Started:
    """Loads a SavedModel with TensorFlow, which uses as many threads as it likes."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]
    (name, source), _ = _one_of_each(
        list(signature.structured_input_signature[1].items()), list(signature.structured_outputs)
    )
    shape = _fixed(source.shape[1:])
    _check_input(np.dtype(source.dtype.as_numpy_dtype))

    def run(images: np.ndarray, _keep: object = loaded) -> np.ndarray:  # unloaded, its functions would fail
        answer = signature(**{name: tf.constant(images, dtype=source.dtype)})
        return next(iter(answer.values())).numpy().astype(np.float32, copy=False)

    return shape, run


def keras(path: Path, call: str) -> Started:
    """Loads a `.keras` file in safe mode, to be asked by `predict` or by a direct call."""
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    source, _ = _one_of_each(model.inputs, model.outputs)
    shape = _fixed(source.shape[1:])

    def predict(images: np.ndarray) -> np.ndarray:
        return model.predict(images, batch_size=len(images), verbose=0).astype(np.float32, copy=False)

    def direct(images: np.ndarray) -> np.ndarray:
        return keras.ops.convert_to_numpy(model(images, training=False)).astype(np.float32, copy=False)

    return shape, predict if call == "predict" else direct


def _one_of_each(inputs: Sequence, outputs: Sequence) -> tuple:
    """Returns the input and the output of a classifier."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(
            f"it takes {len(inputs)} inputs and gives {len(outputs)} outputs, and a classifier has one of each"
        )
    return inputs[0], outputs[0]


def _fixed(sides: Iterable) -> tuple[int, ...]:
    """Returns the sides of a picture, if all of them are known."""
    sides = tuple(sides)
    if not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"it takes pictures of the sides {sides}, and a classifier's are fixed")
    return sides


def _check_input(dtype: np.dtype) -> None:
    if dtype not in (np.uint8, np.float32):
        raise ValueError(f"it takes {np.dtype(dtype).name}, not pictures as uint8 or float32")
