"""Models as files for other runtimes: Keras, SavedModel, ONNX, and LiteRT in float32, float16 or int8.

Whatever the format, the file takes raw uint8 pictures in batches of any size and gives float32 logits,
and it appears whole or not at all. Equal weights give equal bytes, but for a SavedModel: TensorFlow numbers
the functions and shuffles the variables of a SavedModel anew in every process.
"""

import contextlib
import io
import lzma
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from helpers import artifacts, training

QUANTIZATIONS = (None, "float16", "dynamic", "int8")
# How LZMA takes a byte's place into account, as (lc, lp, pb), and how far it looks for repetitions (0: as it sees fit):
# its default, and what suits int8, int8 with many zeros, float16 and float32.
_CODINGS = ((3, 0, 2, 0), (0, 0, 0, 0), (0, 0, 0, 1), (4, 0, 0, 0), (0, 1, 1, 0), (2, 1, 1, 0), (2, 2, 2, 0))
_SAMPLE = 1 << 18  # bytes on which the coding of a larger file is chosen


@keras.saving.register_keras_serializable("workbook")
class StaticFlatten(keras.layers.Flatten):
    """Flattens like `Flatten`, with every size but the batch's known: one operator in the file instead of four."""

    def call(self, inputs):
        if self.data_format == "channels_first":
            return super().call(inputs)
        return keras.ops.reshape(inputs, (-1, int(np.prod(inputs.shape[1:]))))


def write(
    model: keras.Model,
    path: str | Path,
    *,
    quantization: str | None = None,
    calibration: np.ndarray | None = None,
    per_channel: bool = True,
) -> Path:
    """Writes a classifier in the format that the name's suffix tells.

    Args:
        model: Takes pictures of one size with values 0 to 255, as uint8 or float, and gives logits (n, classes).
        path: Ends in `.keras`, `.onnx` or `.tflite`; without a suffix it becomes a SavedModel folder.
        quantization: For `.tflite` only. None keeps float32; `"float16"` stores float16 and computes in float32;
            `"dynamic"` stores int8 weights and measures activations as it goes; `"int8"` computes in integers
            alone, up to the last operator, which turns int8 logits into float32.
        calibration: Pictures of the training split for `"int8"`, uint8 of shape (n, height, width, channels). If
            0 and 255 do not occur in them, one more is calibrated on: the first with these two as its corners. So
            one step of the input is one grey level, and no picture is rounded.
        per_channel: Whether each filter of an int8 weight gets a scale of its own, or all share one.

    Returns:
        The path.

    Raises:
        ValueError: If an argument does not fit, or the format cannot hold one of the model's layers.
    """
    path = Path(path)
    shape = _check(model, path, quantization, calibration)
    if path.suffix == ".keras":
        return training.save(model, path)
    if path.suffix == "":
        with artifacts.writing_folder(path) as partial, _explained(model, path):
            _takes_bytes(model, shape).export(partial, format="tf_saved_model", verbose=False)
        return path
    with artifacts.writing(path) as partial, _explained(model, path):
        if path.suffix == ".onnx":
            with _sets_in_one_order():
                _takes_bytes(model, shape).export(partial, format="onnx", verbose=False)
            _canonical_onnx(partial)
        else:
            options = _litert_options(quantization, calibration, per_channel)
            copy = _takes_floats(model) if quantization == "int8" else _takes_bytes(model, shape)
            copy.export(partial, format="litert", verbose=False, **options)
            _without_notes(partial)
    return path


def pack(path: str | Path) -> Path:
    """Writes a `.tflite` file entropy-coded as `.tflite.xz` beside it; `inference` runs that file as it is.

    Several settings of LZMA are tried (on a sample, if the file is large) and the best is kept: the same bytes for
    the same file.

    Raises:
        ValueError: If the file is not a `.tflite`.

    Reference:
        The last stage of Han et al., 2016, https://arxiv.org/abs/1510.00149, which uses Huffman coding.
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"pack codes a .tflite file; received {path.name}.")
    packed = path.with_name(path.name + ".xz")
    with artifacts.writing(packed) as partial:
        partial.write_bytes(_smallest(path.read_bytes()))
    return packed


def packed_size(path: str | Path) -> int:
    """Returns how many bytes a model file, or all files of a SavedModel, take entropy-coded; writes nothing.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "zeros.tflite").write_bytes(bytes(100_000))
    ...     size(folder), packed_size(folder) < 200
    (100000, True)
    """
    path = Path(path)
    if path.suffix == ".xz":
        return path.stat().st_size
    return len(_smallest(b"".join(file.read_bytes() for file in _files(path))))


def size(path: str | Path) -> int:
    """Returns the bytes of a model file, or of all files of a SavedModel folder."""
    return sum(file.stat().st_size for file in _files(Path(path)))


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _smallest(content: bytes) -> bytes:
    middle = max(0, (len(content) - _SAMPLE) // 2)
    sample = content[middle : middle + _SAMPLE]
    coded = {coding: _coded(sample, coding) for coding in _CODINGS}
    best = min(coded, key=lambda coding: len(coded[coding]))
    return coded[best] if len(sample) == len(content) else _coded(content, best)


def _coded(content: bytes, coding: tuple[int, int, int, int]) -> bytes:
    lc, lp, pb, depth = coding
    # No larger dictionary than there is to remember: whoever decodes must allocate it.
    dictionary = min(max(4096, 1 << len(content).bit_length()), 1 << 26)
    settings = {"dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb, "mf": lzma.MF_BT3, "depth": depth}
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, **settings}]
    return lzma.compress(content, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


# ── what is asked for ───────────────────────────────────────────────────────────────────────────


def _check(
    model: keras.Model, path: Path, quantization: str | None, calibration: np.ndarray | None
) -> tuple[int, int, int]:
    """Returns a picture's shape if all that was asked for fits together."""
    if path.suffix not in ("", ".keras", ".onnx", ".tflite"):
        raise ValueError(
            "A model is exported to a name that ends in .keras, .onnx or .tflite, or to one without a suffix for a "
            f"SavedModel; received {path.name}."
        )
    if path.suffix != ".keras" and keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Keras on TensorFlow exports {path.name}, and this process runs it on {keras.backend.backend()}: "
            "set KERAS_BACKEND=tensorflow, or write a .keras file."
        )
    if quantization not in QUANTIZATIONS:
        raise ValueError(f'quantization is None, "float16", "dynamic" or "int8"; received {quantization!r}.')
    if quantization and path.suffix != ".tflite":
        raise ValueError(f"Only a .tflite file is quantized on export; received {path.name} with {quantization!r}.")
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise ValueError(
            f"{model.name} cannot be exported: a functional model, or a sequential one that knows the shape of its "
            "input, is expected."
        )
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or None in inputs[0].shape[1:]:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ValueError(
            f"A model takes pictures of one size (n, height, width, channels); {model.name} takes {shapes}."
        )
    if len(outputs) != 1 or len(outputs[0].shape) != 2:
        shapes = [tuple(tensor.shape) for tensor in outputs]
        raise ValueError(f"A classifier gives logits of shape (n, classes); {model.name} gives {shapes}.")
    shape = tuple(inputs[0].shape[1:])
    _check_calibration(calibration, shape, needed=quantization == "int8")
    return shape


def _check_calibration(calibration: np.ndarray | None, shape: tuple[int, int, int], *, needed: bool) -> None:
    if not needed:
        if calibration is not None:
            raise ValueError('Calibration pictures are used by quantization="int8" alone: leave them out.')
        return
    expected = f"uint8 of shape (n, {', '.join(map(str, shape))}) with at least one picture"
    if calibration is None:
        raise ValueError(f"Full integer quantization needs calibration pictures of the training split: {expected}.")
    found = getattr(calibration, "dtype", type(calibration).__name__), np.shape(calibration)
    if found[0] != np.uint8 or found[1][1:] != shape or len(calibration) == 0:
        raise ValueError(f"Calibration pictures are {expected}; received {found[0]} of shape {found[1]}.")


@contextlib.contextmanager
def _explained(model: keras.Model, path: Path) -> Iterator[None]:
    """Turns what a converter raises into one sentence, and keeps its chatter off the screen."""
    try:
        with artifacts.explained(path), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # tf2onnx looks for names that NumPy 2 has given up
            yield
    except OSError:
        raise
    except Exception as error:  # converters raise whatever they like
        kind = {".onnx": "ONNX", ".tflite": "LiteRT"}.get(path.suffix, "SavedModel")
        raise ValueError(
            f"The model {model.name} cannot be written as {path.name}: the {kind} converter says "
            f"“{_said(error)}”. Replace the layer it names, or choose another format."
        ) from error


def _said(error: Exception) -> str:
    """Returns the part of a converter's message that names what it cannot convert, out of pages of its own code."""
    for pattern in (r"(?:Select|Custom) ops: [^\n]*", r"No Op registered for \S+", r"error: ('[^\n]*)"):
        found = re.search(pattern, str(error))
        if found:
            return found[found.lastindex or 0].strip()[:300]
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300]


# ── copies that export well ─────────────────────────────────────────────────────────────────────


def _takes_floats(model: keras.Model) -> keras.Model:
    """Returns a float32 copy that takes float32 pictures of 0 to 255, so that no cast stands before its first layer."""
    return training.portable(model, _for_export)


def _takes_bytes(model: keras.Model, shape: tuple[int, int, int]) -> keras.Model:
    """Returns a float32 copy that takes uint8 pictures, whatever the model itself takes."""
    inputs = keras.Input(shape, dtype="uint8", name="pictures")
    outputs = _takes_floats(model)(keras.ops.cast(inputs, "float32"))
    copy = keras.Model(inputs, outputs, name=model.name)
    copy(np.zeros((1, *shape), np.uint8))  # the ONNX export refuses a model that has never been called
    return copy


def _for_export(part: dict) -> dict:
    """Returns a part of a model's config with a float32 input, or flattening of known sizes."""
    if part.get("class_name") == "InputLayer":
        return {**part, "config": {**part["config"], "dtype": "float32"}}
    if part.get("class_name") == "Flatten" and part.get("module") == "keras.layers":
        name = keras.saving.get_registered_name(StaticFlatten)
        return {**part, "class_name": "StaticFlatten", "module": StaticFlatten.__module__, "registered_name": name}
    return part


# ── LiteRT ──────────────────────────────────────────────────────────────────────────────────────


def _litert_options(quantization: str | None, calibration: np.ndarray | None, per_channel: bool) -> dict:
    """Returns the converter's settings; operators that only TensorFlow itself could run are refused in all of them."""
    import tensorflow as tf

    options = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if quantization is None:
        return options
    options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        options["target_spec"]["supported_types"] = [tf.float16]
        return options
    options["_experimental_disable_per_channel"] = not per_channel
    if quantization == "int8":
        options["target_spec"] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]}
        options["representative_dataset"] = lambda: _calibrating(calibration)
        options["inference_input_type"] = tf.uint8
        options["inference_output_type"] = tf.float32
    return options


def _calibrating(pictures: np.ndarray) -> Iterator[list[np.ndarray]]:
    for picture in pictures:
        yield [picture[None].astype(np.float32)]
    if pictures.min() > 0 or pictures.max() < 255:
        stretched = np.array(pictures[:1], np.float32)
        stretched.flat[0], stretched.flat[-1] = 0, 255
        yield [stretched]


def _without_notes(path: Path) -> None:
    """Takes out what no runtime reads, a tenth of a small packed file: tensors' names and how it was converted."""
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(path)
    flatbuffer_utils.strip_strings(model)
    for entry in model.metadata or []:
        if entry.name == b"CONVERSION_METADATA":
            model.buffers[entry.buffer].data = None
    model.metadata = [entry for entry in model.metadata or [] if entry.name != b"CONVERSION_METADATA"]
    path.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))


# ── ONNX ────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _sets_in_one_order() -> Iterator[None]:
    """Orders tf2onnx's sets of nodes by name: left alone they follow memory addresses, and one graph in 50 comes out
    with its transposes elsewhere."""
    from tf2onnx.graph import Node

    before = Node.__hash__
    Node.__hash__ = lambda node: zlib.crc32(node.name.encode())
    try:
        yield
    finally:
        Node.__hash__ = before


def _canonical_onnx(path: Path) -> None:
    """Renames and sorts what tf2onnx names and sorts anew in every process, and checks the file.

    The check matters: what tf2onnx cannot convert it passes on under TensorFlow's name, and says nothing.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    if not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        nodes = _in_order(graph)
        names = {"": "", graph.input[0].name: "pictures", graph.output[0].name: "logits"}
        for node in nodes:
            for old in (*node.input, *node.output):
                names.setdefault(old, f"t{len(names) - 3}")
        for number, node in enumerate(nodes):
            node.name = f"{node.op_type}_{number}"
            node.input[:] = [names[old] for old in node.input]
            node.output[:] = [names[old] for old in node.output]
        constants = {names[tensor.name]: tensor for tensor in graph.initializer if tensor.name in names}
        for new, tensor in constants.items():
            tensor.name = new
        constants = [constants[new] for new in names.values() if new in constants]
        for field, content in (("node", nodes), ("initializer", constants), ("value_info", [])):
            content = [type(item).FromString(item.SerializeToString()) for item in content]
            graph.ClearField(field)
            getattr(graph, field).extend(content)
        graph.input[0].name, graph.output[0].name, graph.name = "pictures", "logits", "classifier"
        graph.doc_string = ""  # the function's number in this process
    for tensor in (graph.input[0], graph.output[0]):
        tensor.type.tensor_type.shape.dim[0].dim_param = "n"
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _in_order(graph: object) -> list:
    """Returns the nodes that the output needs, each after those it reads: an order that only the graph decides."""
    makers = {name: node for node in graph.node for name in node.output}
    ordered, seen, waiting = [], set(), [(makers[graph.output[0].name], False)]
    while waiting:
        node, complete = waiting.pop()
        if complete:
            ordered.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting += [(makers[name], False) for name in reversed(node.input) if name in makers]
    return ordered
