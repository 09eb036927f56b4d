"""Model files from anywhere, read without trusting what is in them."""

import json
import lzma
import zipfile
import zlib
from pathlib import Path

LARGEST = 2**30  # bytes that a packed file may expand to
_LARGEST_CONFIG = 64 * 2**20
_LARGEST_ARCHIVE = 8 * 2**30

# Layers that hold code, or fetch it from another file.
_RUN_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
# Where the parts of a network come from. `keras.utils`, `keras.saving` and `keras.config` open files, fetch
# addresses, or switch safe mode off; as an activation they would be called.
_FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "ops", "regularizers")
_CLASSES = (*_FUNCTIONS, "dtype_policies", "layers", "models", "optimizers", "quantizers", "random")


def read_tflite(path: Path) -> bytes:
    """Returns the bytes of a `.tflite` file, or of the one in a `.tflite.xz`.

    Raises:
        ValueError: If the file is empty, not what its name says, cut off, or expands to more than 1 GB.
    """
    content = path.read_bytes()
    if path.suffix == ".xz":
        decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LARGEST)
        try:
            content = decoder.decompress(content, max_length=LARGEST + 1)
        except (lzma.LZMAError, MemoryError, EOFError) as error:
            raise ValueError(f"{path} is not a whole .xz file ({error}): pack the model again.") from error
        if len(content) > LARGEST:
            raise ValueError(f"{path} expands to more than {LARGEST} bytes, more than a model for this use needs.")
        if not decoder.eof or decoder.unused_data:
            raise ValueError(f"{path} is not a whole .xz file (its end does not fit): pack the model again.")
    if content[4:8] != b"TFL3":
        raise ValueError(f"{path} is not a LiteRT model (there is no TFL3 mark in its {len(content)} bytes).")
    return content


def check_keras(path: Path) -> None:
    """Raises unless all that a `.keras` file asks for is a part of a network that Keras itself brings.

    Keras's safe mode refuses functions stored as bytecode, pickled PyTorch modules and layers that load a SavedModel.
    This refuses them before Keras sees the file, and with them every other layer that can carry or fetch code, and
    every function that is not meant to be part of a network.

    Raises:
        ValueError: With what was found.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _LARGEST_ARCHIVE:
                raise ValueError(f"{path} expands to more than {_LARGEST_ARCHIVE} bytes.")
            with archive.open("config.json") as file:
                config = json.loads(file.read(_LARGEST_CONFIG))
    except (zipfile.BadZipFile, KeyError, EOFError, OSError, RuntimeError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path} is not a .keras file ({str(error).strip(chr(39))}).") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a .keras file (its config.json is not text).") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a .keras file (its config.json is not JSON: {error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a .keras file (its config.json does not describe a model).")
    config.pop("compile_config", None)  # optimizers and losses are not loaded
    _check_parts(config, path)


def _check_parts(config: object, path: Path) -> None:
    waiting = [config]
    while waiting:  # no recursion: a file may nest as deep as it likes
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if "class_name" in part:
                _check_part(part, path)
            waiting += part.values()


def _check_part(part: dict, path: Path) -> None:
    name, module, registered = part["class_name"], part.get("module"), part.get("registered_name")
    if not isinstance(name, str):
        raise ValueError(f"{path} is not a .keras file (a class_name in its config.json is {name!r:.100}, not a name).")
    if name.rpartition(".")[2] in _RUN_CODE:
        raise ValueError(
            f"{path} is refused: its layer {name} can run code that comes with the file. "
            "Replace that layer by one of Keras's own and save the model again."
        )
    if module is None and name.startswith("__"):  # plain values: __numpy__, __tensor__, __keras_tensor__
        return
    function = name == "function"
    what = part.get("config") if function else name
    # Keras looks a class up by the name it was registered under, a function by its own.
    if module == "builtins" or _is_known(what if function else registered):
        return
    if "." not in str(what) and _brings(str(module), function=function):  # a dot would lead on into another module
        return
    raise ValueError(
        f"{path} is refused: it asks for {module}.{what}, which is no part of a network that Keras brings. "
        "Rebuild the model from Keras's own layers, or register that class in this process if it is yours."
    )


def _brings(module: str, *, function: bool) -> bool:
    """Returns whether a module of Keras holds parts of networks."""
    if module == "keras":
        return not function
    package = module.removeprefix("keras.src.").removeprefix("keras.").partition(".")[0]
    return module.startswith("keras.") and package in (_FUNCTIONS if function else _CLASSES)


def _is_known(registered: object) -> bool:
    import keras

    return (
        isinstance(registered, str) and ">" in registered and keras.saving.get_registered_object(registered) is not None
    )


def litert_operators(content: bytes) -> list[tuple[str, str, str, str]]:
    """Returns operator, input, weights and output types of each operator of a LiteRT file that has been verified."""
    from ai_edge_litert import schema_py_generated as schema

    operators = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    types = {code: name for name, code in vars(schema.TensorType).items() if name.isupper()}
    model = schema.Model.GetRootAs(content, 0)
    rows = []
    for graph in (model.Subgraphs(i) for i in range(model.SubgraphsLength())):
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        constant = [model.Buffers(tensor.Buffer()).DataLength() > 0 for tensor in tensors]
        for operator in (graph.Operators(i) for i in range(graph.OperatorsLength())):
            code = model.OperatorCodes(operator.OpcodeIndex())
            code = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
            read = [i for i in (operator.Inputs(k) for k in range(operator.InputsLength())) if i >= 0]
            made = operator.Outputs(0)
            rows.append(
                _row(
                    operators.get(code, str(code)),
                    [types[tensors[i].Type()] for i in read if not constant[i]],
                    [types[tensors[i].Type()] for i in read if constant[i]],
                    types[tensors[made].Type()],
                )
            )
    return rows


def onnx_operators(path: Path) -> list[tuple[str, str, str, str]]:
    """Returns operator, input, weights and output types of each operator of an ONNX file."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    name = onnx.TensorProto.DataType.Name
    constants = {tensor.name: name(tensor.data_type) for tensor in graph.initializer}
    values = {
        value.name: name(value.type.tensor_type.elem_type) for value in (*graph.input, *graph.value_info, *graph.output)
    }
    return [
        _row(
            node.op_type,
            [values.get(one, "?") for one in node.input if one and one not in constants],
            [constants[one] for one in node.input if one in constants],
            values.get(node.output[0], "?"),
        )
        for node in graph.node
    ]


def _row(operator: str, inputs: list[str], constants: list[str], output: str) -> tuple[str, str, str, str]:
    """Returns an operator with the type it reads, that of its weights (not of sizes and biases), and its output."""
    kinds = [kind for kind in constants if not kind.startswith(("INT32", "INT64"))]
    row = (operator, (inputs or constants or [""])[0], kinds[0] if kinds and inputs else "", output)
    return tuple("FLOAT32" if kind == "FLOAT" else kind for kind in row)
