"""What clients of a served model say and hear: TensorFlow Serving's REST and the Open Inference Protocol V2.

Both lead to one array of pictures, and an answer goes back in the form it was asked in. What does not fit is `Refused`
with a sentence; nothing here knows of sockets. References: https://www.tensorflow.org/tfx/serving/api_rest and
https://github.com/kserve/open-inference-protocol
"""

import binascii
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from typing import NamedTuple

import numpy as np
import orjson
import simdjson

from helpers.classifier import Answers
from helpers.pictures import UnreadablePicture

INPUT = "pictures"
SERVER = {"name": "workbook", "version": "2", "extensions": ["binary_tensor_data"]}  # as V2 asks for it
OUTPUTS = ("label", "probabilities")
_IN_JSON = 40  # characters of a value that an error repeats at most
_DEEPEST = 8  # lists in lists, and sides of a shape; pictures need 4


class Refused(ValueError):
    """A request that cannot be answered: an HTTP status, one sentence for its sender, and what its status asks for."""

    def __init__(self, status: int, sentence: str, *, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Limits:
    """How much of a client is put up with.

    Attributes:
        body: Bytes of a request.
        pictures: In one request.
        pixels: Of the picture files of one request, together.
        receive_seconds: Until a request has arrived.
        answer_seconds: Until the model has answered.
        connections: At a time.
    """

    body: int = 16 * 2**20
    pictures: int = 256
    pixels: int = 25_000_000
    receive_seconds: float = 10.0
    answer_seconds: float = 30.0
    connections: int = 1000


def limits(given: dict[str, str]) -> Limits:
    """Returns the usual limits but for those that are given, as text, by name.

    Raises:
        ValueError: If there is no such limit, or its value is none: above 0 and below 2**31.
    """
    usual, changed = asdict(Limits()), {}
    for name, value in given.items():
        if name not in usual:
            raise ValueError(f"There is no limit {name!r}: there are {', '.join(usual)}.")
        try:
            changed[name] = type(usual[name])(value)
        except ValueError:
            changed[name] = -1
        if not 0 < changed[name] < 2**31:  # gRPC and the clock of the event loop take no more
            raise ValueError(
                f"The limit {name} is {value!r}: it must be a number above 0 and below 2**31, such as {usual[name]}."
            )
    return Limits(**changed)


class Expected(NamedTuple):
    """What the model takes, and how much of it at a time.

    Attributes:
        shape: Height, width and channels of a picture.
        pictures: The most pictures in one request.
        decode: From the bytes of a picture file to uint8 pixels of that shape; raises `UnreadablePicture`.
    """

    shape: tuple[int, int, int]
    pictures: int
    decode: Callable[[bytes], np.ndarray]


class Tensor(NamedTuple):
    """A tensor as V2 sends it: `data` is a (nested) list of values, or the bytes of a binary tensor."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: list | bytes


@dataclass(frozen=True)
class Request:
    """A V2 request, understood.

    Attributes:
        images: uint8, shape (n, height, width, channels).
        id: What the client calls the request, if it said so.
        outputs: Names of the outputs that are wanted, in order.
        binary: Which of them go back as binary tensors.
    """

    images: np.ndarray
    id: str | None
    outputs: tuple[str, ...]
    binary: frozenset[str]


# ── TensorFlow Serving ──────────────────────────────────────────────────────────────────────────


def predict_request(body: bytes, expected: Expected) -> np.ndarray:
    """Reads the body of a `:predict` request in the row form (`instances`) or the column form (`inputs`).

    Each instance is a picture: nested lists of whole numbers from 0 to 255, or `{"b64": …}` with the bytes of a
    picture file.

    Returns:
        uint8, shape (n, height, width, channels).

    Raises:
        Refused: 400, or 413 for too many pictures.
    """
    if (usual := _usual_instances(body, expected)) is not None:
        return usual
    content = _json(body)
    given = [name for name in ("instances", "inputs") if name in content]
    if len(given) != 1:
        raise Refused(400, f'A prediction is asked with "instances" or "inputs"; received {_keys(content)}.')
    if content.get("signature_name", "serving_default") != "serving_default":
        raise Refused(400, f'The only signature is "serving_default"; received {_short(content["signature_name"])}.')
    instances = content[given[0]]
    if given[0] == "inputs" and isinstance(instances, dict):
        if instances.keys() != {INPUT}:
            raise Refused(400, f'The model has the one input "{INPUT}"; received {_keys(instances)}.')
        instances = instances[INPUT]
    if not isinstance(instances, list):
        raise Refused(400, f'"{given[0]}" is a list with one entry a picture; received {_short(instances)}.')
    _check_count(len(instances), expected)
    rows = [one[INPUT] if isinstance(one, dict) and one.keys() == {INPUT} else one for one in instances]
    if any(isinstance(one, dict) for one in rows):
        return np.stack([_instance(one, expected) for one in rows])
    return _pixels(rows, expected)


def predict_response(answers: Answers, version: int | None) -> bytes:
    """Writes the answer to a `:predict` request: for each picture its label, how sure, and all probabilities."""
    sure = answers.probabilities.max(axis=1)
    rows = [
        {"label": label, "probability": float(probability), "probabilities": row}
        for label, probability, row in zip(answers.labels.tolist(), sure, answers.probabilities, strict=True)
    ]
    return orjson.dumps({"predictions": rows, "model_version": str(version)}, option=orjson.OPT_SERIALIZE_NUMPY)


def _usual_instances(body: bytes, expected: Expected) -> np.ndarray | None:
    """Reads `{"instances": …}` with nothing but pixels in it, without a Python object for each; None if it is another.

    What is left of such a body without its digits is brackets and commas in an order that the shape gives. Numbers
    that JSON does not know, such as 007 or "1 2", are found by the parser.
    """
    frame = body.translate(None, b"0123456789 \t\r\n")
    for picture in _frames(expected.shape):
        count = (len(frame) - 15) // (len(picture) + 1)
        if 0 < count <= expected.pictures and frame == b'{"instances":[%s]}' % b",".join([picture] * count):
            try:
                numbers = simdjson.Parser().parse(body)["instances"].as_buffer(of_type="u")
                pixels = np.frombuffer(numbers, np.uint64).reshape(count, *expected.shape)  # a pixel may be `[]`
            except (ValueError, TypeError, KeyError):
                return None
            return pixels.astype(np.uint8) if pixels.max() <= 255 else None
    return None


@cache
def _frames(shape: tuple[int, int, int]) -> list[bytes]:
    """Returns the brackets and commas of a picture in JSON, with its channels and, if there is one only, without."""
    height, width, channels = shape
    pixels = [b"[%s]" % (b"," * (channels - 1)), b""][: 2 if channels == 1 else 1]
    rows = [b"[%s]" % b",".join([pixel] * width) for pixel in pixels]
    return [b"[%s]" % b",".join([row] * height) for row in rows]


def _instance(one: object, expected: Expected) -> np.ndarray:
    if not isinstance(one, dict):
        return _pixels([one], expected)[0]
    if one.keys() != {"b64"} or not isinstance(one["b64"], str):
        raise Refused(400, f'A picture file is given as {{"b64": "…"}}; received {_keys(one)}.')
    return _decoded(_base64(one["b64"]), expected)


# ── Open Inference Protocol V2 ──────────────────────────────────────────────────────────────────


def infer_request(body: bytes, json_length: int | None, expected: Expected) -> Request:
    """Reads the body of an `/infer` request.

    Args:
        body: JSON, followed by binary tensors if there are any.
        json_length: Bytes of the JSON, as the header `Inference-Header-Content-Length` says; all if None.
        expected: What the model takes.

    Raises:
        Refused: 400, or 413 for too many pictures.
    """
    length = len(body) if json_length is None else json_length
    if not 0 <= length <= len(body):
        raise Refused(400, f"Inference-Header-Content-Length is {length}, and the body has {len(body)} bytes.")
    content = _json(body[:length])
    identity = content.get("id")
    if identity is not None and not isinstance(identity, str):
        raise Refused(400, f'"id" is text; received {_short(identity)}.')
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise Refused(400, f'"inputs" is a list with the one tensor "{INPUT}"; received {_short(inputs)}.')
    tensor = _tensor(inputs[0], body[length:])
    outputs, binary = _wanted(content)
    return Request(read(tensor, expected), identity, outputs, binary)


def read(tensor: Tensor, expected: Expected) -> np.ndarray:
    """Returns the pictures of a V2 tensor: UINT8 pixels, or BYTES with a picture file each.

    Raises:
        Refused: 400, or 413 for too many pictures.
    """
    if tensor.name != INPUT:
        raise Refused(400, f'The model has the one input "{INPUT}"; received {_short(tensor.name)}.')
    shape = _shape(tensor.shape, expected)
    if tensor.datatype == "BYTES":
        if len(shape) != 1:
            raise Refused(400, f"Picture files (BYTES) have the shape [n]; received {list(shape)}.")
        files = _byte_strings(tensor.data) if isinstance(tensor.data, bytes) else list(map(_base64, tensor.data))
        _check_elements(len(files), shape)
        return np.stack([_decoded(file, expected) for file in files])
    if tensor.datatype != "UINT8":
        raise Refused(400, f'"{INPUT}" has the data type UINT8 or BYTES; received {_short(tensor.datatype)}.')
    height, width, channels = expected.shape
    if shape[1:] not in {expected.shape, (height, width) if channels == 1 else expected.shape}:
        raise Refused(400, f"Pictures have the shape [n, {height}, {width}, {channels}]; received {list(shape)}.")
    if isinstance(tensor.data, bytes):
        _check_elements(len(tensor.data), shape)
        return np.frombuffer(tensor.data, np.uint8).reshape(-1, *expected.shape)
    values = _numbers(tensor.data)
    _check_elements(values.size, shape)
    return values.reshape(-1, *expected.shape)


def infer_response(
    answers: Answers, name: str, version: int | None, request: Request
) -> tuple[bytes, int | None]:  # fmt: skip
    """Writes the answer to an `/infer` request.

    Returns:
        The body, and the bytes of its JSON if binary tensors follow it, else None.
    """
    outputs, tail = [], []
    for output in request.outputs:
        values = answers.labels if output == "label" else answers.probabilities
        tensor = {"name": output, "datatype": "BYTES" if output == "label" else "FP32", "shape": list(values.shape)}
        if output in request.binary:
            tail.append(pack_strings(values) if output == "label" else values.astype("<f4").tobytes())
            tensor["parameters"] = {"binary_data_size": len(tail[-1])}
        else:
            tensor["data"] = values.tolist() if output == "label" else np.ascontiguousarray(values).reshape(-1)
        outputs.append(tensor)
    said = {"model_name": name, "model_version": str(version), "id": request.id or "", "outputs": outputs}
    content = orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([content, *tail]), len(content) if tail else None


def pack_strings(values: Sequence[str]) -> bytes:
    """Returns text as V2's binary BYTES: each with its length before it, 4 bytes, little-endian."""
    encoded = [str(value).encode() for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the outputs that are wanted, all if none is named.

    Raises:
        Refused: 400, if one is unknown or named twice.
    """
    unknown = [name for name in names if name not in OUTPUTS]
    if unknown or len(set(names)) != len(names):
        what = f"received {_short(unknown[0])}" if unknown else "one was named twice"
        raise Refused(400, f"The model has the outputs {' and '.join(OUTPUTS)}; {what}.")
    return tuple(names) or OUTPUTS


def _tensor(given: dict, tail: bytes) -> Tensor:
    parameters = _given(given, "parameters", {})
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else parameters
    name, datatype, shape = (given.get(key) for key in ("name", "datatype", "shape"))
    if size is None:
        if tail:
            raise Refused(400, f"{len(tail)} bytes follow the JSON, and no tensor has a binary_data_size.")
        if not isinstance(given.get("data"), list):
            raise Refused(400, f'The tensor has no list "data" and no binary_data_size; received {_keys(given)}.')
        return Tensor(name, datatype, shape, given["data"])
    if isinstance(size, bool) or not isinstance(size, int) or size != len(tail):
        raise Refused(400, f"binary_data_size is {_short(size)}, and {len(tail)} bytes follow the JSON.")
    if "data" in given:
        raise Refused(400, 'A tensor is given as "data" or as binary data, not as both.')
    return Tensor(name, datatype, shape, tail)


def _wanted(content: dict) -> tuple[tuple[str, ...], frozenset[str]]:
    parameters, wanted = _given(content, "parameters", {}), _given(content, "outputs", [])
    if not isinstance(parameters, dict) or not isinstance(wanted, list):
        raise Refused(400, '"outputs" is a list and "parameters" an object, where they are given.')
    if not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in wanted):
        raise Refused(400, f'Each of "outputs" is an object with a "name"; received {_short(wanted)}.')
    names = check_outputs([one["name"] for one in wanted])
    every = _flag(parameters, "binary_data_output", usual=False)
    binary = {name for name in names if every}
    for one in wanted:
        own = _given(one, "parameters", {})
        if not isinstance(own, dict):
            raise Refused(400, f'"parameters" of an output is an object; received {_short(own)}.')
        (binary.add if _flag(own, "binary_data", usual=every) else binary.discard)(one["name"])
    return names, frozenset(binary)


def _flag(parameters: dict, name: str, *, usual: bool) -> bool:
    value = _given(parameters, name, usual)
    if not isinstance(value, bool):
        raise Refused(400, f'"{name}" is true or false; received {_short(value)}.')
    return value


def _given(content: dict, name: str, usual: object) -> object:
    value = content.get(name)
    return usual if value is None else value  # null is as good as nothing, 0 and "" are not


# ── what both have in common ────────────────────────────────────────────────────────────────────


def _json(body: bytes) -> dict:
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(400, f"The body is not JSON ({error}).") from None
    if not isinstance(content, dict):
        raise Refused(400, f"The body is a JSON object; received {_short(content)}.")
    return content


def _base64(text: object) -> bytes:
    if not isinstance(text, str):
        raise Refused(400, f"A picture file is given in base64; received {_short(text)}.")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise Refused(400, f"A picture is not whole base64 ({error}).") from None


def _decoded(file: bytes, expected: Expected) -> np.ndarray:
    try:
        return expected.decode(file)
    except UnreadablePicture as error:
        raise Refused(400, f"A picture of {len(file)} bytes {error}.") from None


def _pixels(rows: list, expected: Expected) -> np.ndarray:
    values = _numbers(rows)
    height, width, channels = expected.shape
    if values.shape[1:] not in {expected.shape, (height, width) if channels == 1 else expected.shape}:
        raise Refused(400, f"Each of instances is a picture of {height} x {width} x {channels} numbers; "
                           f"received the shape {list(values.shape[1:])}.")  # fmt: skip
    return values.reshape(-1, *expected.shape)


def _numbers(values: list) -> np.ndarray:
    # `np.array` would take the texts as well, and give every number the room of the longest.
    shape, flat = [len(values)], values
    while (kinds := set(map(type, flat))) == {list} and len(shape) < _DEEPEST:
        if len(set(map(len, flat))) > 1:
            break
        shape.append(len(flat[0]))
        flat = list(chain.from_iterable(flat))
    if list in kinds:
        raise Refused(400, "The lists of a picture differ in length or depth.")
    try:
        if float in kinds:
            flat = [int(value) if type(value) is float and value.is_integer() else value for value in flat]
        pixels = bytes(flat) if kinds <= {int, float} else None
    except (TypeError, ValueError):  # a fraction; a number that is no byte
        pixels = None
    if pixels is None:
        raise Refused(400, "Pixels are whole numbers from 0 to 255; received others.")
    return np.frombuffer(pixels, np.uint8).reshape(shape)


def _shape(shape: object, expected: Expected) -> tuple[int, ...]:
    whole = isinstance(shape, Sequence) and all(isinstance(side, int) and not isinstance(side, bool) for side in shape)
    if not whole or isinstance(shape, str) or len(shape) == 0 or min(shape) < 0:
        raise Refused(400, f'"shape" is a list of whole numbers; received {_short(shape)}.')
    if len(shape) > _DEEPEST:
        raise Refused(400, f'"shape" is a list of at most {_DEEPEST} whole numbers; received {len(shape)}.')
    _check_count(shape[0], expected)
    return tuple(shape)


def _check_count(count: int, expected: Expected) -> None:
    if count == 0:
        raise Refused(400, "A request holds at least one picture; received none.")
    if count > expected.pictures:
        raise Refused(
            413, f"A request holds at most {expected.pictures} pictures; received {count}: send them in several."
        )


def _check_elements(found: int, shape: tuple[int, ...]) -> None:
    if found != math.prod(shape):
        raise Refused(400, f"The shape {list(shape)} stands for {math.prod(shape)} values; received {found}.")


def _byte_strings(content: bytes) -> list[bytes]:
    files, start = [], 0
    while start < len(content):
        end = start + 4 + int.from_bytes(content[start : start + 4], "little")
        if start + 4 > len(content) or end > len(content):
            raise Refused(400, f"The lengths in a binary BYTES tensor do not fit its {len(content)} bytes.")
        files.append(content[start + 4 : end])
        start = end
    return files


def _keys(given: dict) -> str:
    names = ", ".join(_short(key) for key in list(given)[:5])
    return f"an object with {names}" if given else "an empty object"


def _short(value: object) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, str) and len(value) > _IN_JSON:  # it may be a picture, and errors are in the log
        return f"a text of {len(value)} characters"
    return repr(value)[:_IN_JSON]
