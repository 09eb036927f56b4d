"""What clients say, understood or refused with a sentence; a server's side of it is in test_refusals.py."""

import base64
import json
import struct
import tracemalloc

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from helpers import protocols
from helpers.classifier import Answers
from helpers.pictures import UnreadablePicture
from helpers.protocols import Expected, Limits, Refused, Tensor


def decode(file):
    if len(file) != 16:
        raise UnreadablePicture("is no picture")
    return np.frombuffer(file, np.uint8).reshape(4, 4, 1)


EXPECTED = Expected((4, 4, 1), 5, decode)
COLOUR = Expected((2, 2, 3), 5, decode)
# Of one to four bytes in UTF-8; all of Unicode would first be looked through for seconds.
TEXTS = st.text("".join(map(chr, range(128))) + "äß€鞋连\u2028\ufeff\uffff\U0001f392\U0010ffff")
PICTURES = st.integers(1, 5).flatmap(lambda n: arrays(np.uint8, (n, 4, 4, 1)))
ANSWERS = Answers(np.array(["a", "ä€"]), np.float32([[0.75, 0.25], [0.125, 0.875]]), np.zeros((2, 2), np.float32))


def refused(status, says, read, *given):
    with pytest.raises(Refused, match=says) as error:
        read(*given)
    assert error.value.status == status


# ── TensorFlow Serving ──────────────────────────────────────────────────────────────────────────


@given(PICTURES)
def test_rows_and_columns_with_and_without_channels_are_the_same_pictures(images):
    flat, named = images[..., 0].tolist(), [{"pictures": one} for one in images.tolist()]
    for content in (
        {"instances": images.tolist()}, {"instances": flat}, {"instances": named}, {"inputs": images.tolist()},
        {"inputs": {"pictures": flat}}, {"instances": images.astype(float).tolist()},
        {"instances": flat, "signature_name": "serving_default"},
        {"instances": [{"b64": base64.b64encode(one.tobytes()).decode()} for one in images]},
    ):  # fmt: skip
        found = protocols.predict_request(json.dumps(content).encode(), EXPECTED)
        np.testing.assert_array_equal(found, images)
        assert found.dtype == np.uint8


def test_pixels_and_files_may_be_mixed():
    one, two = np.zeros((4, 4), np.uint8), np.full((4, 4), 7, np.uint8)
    content = {"instances": [one.tolist(), {"b64": base64.b64encode(two.tobytes()).decode()}]}
    found = protocols.predict_request(json.dumps(content).encode(), EXPECTED)
    np.testing.assert_array_equal(found[..., 0], [one, two])


def test_colour_pictures_are_not_taken_without_their_channels():
    ok = protocols.predict_request(json.dumps({"instances": np.ones((1, 2, 2, 3), int).tolist()}).encode(), COLOUR)
    assert ok.shape == (1, 2, 2, 3)
    flat = json.dumps({"instances": np.ones((1, 2, 2), int).tolist()}).encode()
    refused(400, r"2 x 2 x 3 numbers; received the shape \[2, 2\]", protocols.predict_request, flat, COLOUR)


def test_the_answer_in_rows():
    told = json.loads(protocols.predict_response(ANSWERS, 3))
    assert told == {"model_version": "3", "predictions": [
        {"label": "a", "probability": 0.75, "probabilities": [0.75, 0.25]},
        {"label": "ä€", "probability": 0.875, "probabilities": [0.125, 0.875]},
    ]}  # fmt: skip


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        ([], 400, "JSON object; received a list"), ({}, 400, "an empty object"),
        ({"instances": [], "inputs": []}, 400, "an object with 'instances', 'inputs'"),
        ({"instances": []}, 400, "at least one picture; received none"),
        ({"instances": [[[0] * 4] * 4] * 6}, 413, "at most 5 pictures; received 6: send them in several"),
        ({"inputs": {"images": []}}, 400, 'one input "pictures"; received an object with \'images\''),
        ({"instances": [{"b64": "!"}]}, 400, "not whole base64"),
        ({"instances": [{"b64": "ä"}]}, 400, "only ASCII"),
        ({"instances": [{"b64": "AAAA"}]}, 400, "A picture of 3 bytes is no picture"),
        ({"instances": [[[0] * 4] * 3]}, 400, r"received the shape \[3, 4\]"),
        ({"instances": [[[0] * 4, [0] * 3]]}, 400, "differ in length or depth"),
        ({"instances": [[[-1] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[0.5] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[1e300] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": 3, "signature_name": "x"}, 400, "only signature"),
        ({"instances": 3}, 400, "one entry a picture; received 3"),
        ({"instances": {"pictures": [[[0] * 4] * 4]}}, 400, "one entry a picture; received an object"),
        ({"inputs": {}}, 400, "received an empty object"),
        ({"instances": [{"b64": "AAAA", "name": 1}]}, 400, "an object with 'b64', 'name'"),
        ({"instances": [{"b64": 7}]}, 400, "A picture file is given as"),
        ({"instances": [{"b64": "AAAA"}, [[0]]]}, 400, "A picture of 3 bytes"),
        ({"instances": [[[0] * 4] * 4, [[0] * 3] * 4]}, 400, "differ in length or depth"),
        ({"instances": [[[0] * 4] * 4, 0]}, 400, "differ in length or depth"),
        ({"instances": [[[True, 0, 0, 0]] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[["7"] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[None, 0, 0, 0]] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[256] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[256.0] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[[2**64 - 1] * 4] * 4]}, 400, "whole numbers from 0 to 255"),
        ({"instances": [[]]}, 400, r"received the shape \[0\]"),
        ({"inputs": "x"}, 400, '"inputs" is a list with one entry a picture; received \'x\''),
    ],
)  # fmt: skip
def test_what_is_no_prediction_is_refused(content, status, says):
    refused(status, says, protocols.predict_request, json.dumps(content).encode(), EXPECTED)


@given(arrays(np.int16, (1, 4, 4, 1), elements=st.integers(-2, 258)), st.sampled_from([int, float]))
def test_pixels_are_taken_if_and_only_if_all_are_bytes(values, kind):
    body = json.dumps({"instances": values.astype(kind).tolist()}).encode()
    if ((values >= 0) & (values <= 255)).all():
        np.testing.assert_array_equal(protocols.predict_request(body, EXPECTED), values)
    else:
        refused(400, "whole numbers from 0 to 255", protocols.predict_request, body, EXPECTED)


USUAL = json.dumps({"instances": [[[[7], [0], [255], [3]]] * 4]}).encode()
SIGNS = st.sampled_from(list(b'0123456789[]{},:-.e" \n'))


@given(st.lists(st.tuples(st.sampled_from("ird"), st.integers(0, len(USUAL) - 1), SIGNS), max_size=3))
def test_a_body_with_slips_of_the_pen_is_read_as_a_json_parser_reads_it(slips):
    body = bytearray(USUAL)
    for what, place, sign in slips:
        body[place : place + (what != "i")] = b"" if what == "d" else bytes([sign])
    try:
        content = json.loads(body)
        pixels = np.array(content["instances"], dtype=float)
        wanted = pixels.reshape(-1, 4, 4, 1) if pixels.shape[1:] in {(4, 4), (4, 4, 1)} and pixels.size else None
    except (ValueError, KeyError, TypeError):
        wanted = None
    if wanted is not None and ((wanted >= 0) & (wanted <= 255) & (wanted % 1 == 0)).all():
        read = protocols.predict_request(bytes(body), EXPECTED)
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, wanted)
    else:
        with pytest.raises(Refused):
            protocols.predict_request(bytes(body), EXPECTED)


@pytest.mark.parametrize("depth", [17, 100])
def test_lists_may_not_lie_in_each_other_without_end(depth):
    body = b'{"instances": ' + b"[" * depth + b"0" + b"]" * depth + b"}"
    refused(400, "differ in length or depth", protocols.predict_request, body, EXPECTED)


def test_a_long_text_among_pixels_takes_no_more_room_than_it_has():
    body = json.dumps({"instances": [[["a" * 2000] + [0] * 20_000]]}).encode()
    tracemalloc.start()
    try:
        refused(400, "whole numbers from 0 to 255", protocols.predict_request, body, EXPECTED)
        assert tracemalloc.get_traced_memory()[1] < 100 * len(body)
    finally:
        tracemalloc.stop()


# ── Open Inference Protocol V2 ──────────────────────────────────────────────────────────────────


def v2(images, **more):
    tensor = {"name": "pictures", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **more}).encode()


@given(PICTURES)
def test_json_and_binary_pixels_and_files_are_the_same_pictures(images):
    files = [one.tobytes() for one in images]
    shape = list(images.shape)
    for tensor in (
        Tensor("pictures", "UINT8", shape, images.ravel().tolist()),
        Tensor("pictures", "UINT8", shape, images.tolist()),
        Tensor("pictures", "UINT8", shape[:3], images.tobytes()), Tensor("pictures", "UINT8", shape, images.tobytes()),
        Tensor("pictures", "BYTES", shape[:1], [base64.b64encode(file).decode() for file in files]),
        Tensor("pictures", "BYTES", shape[:1], b"".join(struct.pack("<I", len(file)) + file for file in files)),
    ):  # fmt: skip
        np.testing.assert_array_equal(protocols.read(tensor, EXPECTED), images)


@given(PICTURES)
def test_a_binary_tensor_behind_the_json(images):
    tensor = {"name": "pictures", "datatype": "UINT8", "shape": list(images.shape),
              "parameters": {"binary_data_size": images.size}}  # fmt: skip
    head = json.dumps({"inputs": [tensor], "id": "7"}).encode()
    found = protocols.infer_request(head + images.tobytes(), len(head), EXPECTED)
    np.testing.assert_array_equal(found.images, images)
    assert found.id == "7"


IMAGE = np.zeros((1, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("more", "outputs", "binary"),
    [
        ({}, ("label", "probabilities"), set()),
        ({"outputs": []}, ("label", "probabilities"), set()),
        ({"outputs": [{"name": "probabilities"}]}, ("probabilities",), set()),
        ({"outputs": [{"name": "probabilities"}, {"name": "label"}]}, ("probabilities", "label"), set()),
        ({"parameters": {"binary_data_output": True}}, ("label", "probabilities"), {"label", "probabilities"}),
        ({"outputs": [{"name": "label", "parameters": {"binary_data": True}}]}, ("label",), {"label"}),
        ({"parameters": {"binary_data_output": True},
          "outputs": [{"name": "label", "parameters": {"binary_data": False}}, {"name": "probabilities"}]},
         ("label", "probabilities"), {"probabilities"}),
    ],
)  # fmt: skip
def test_which_outputs_are_wanted_and_how(more, outputs, binary):
    found = protocols.infer_request(v2(IMAGE, **more), None, EXPECTED)
    assert (found.outputs, found.binary) == (outputs, binary)


@pytest.mark.parametrize("binary", [(), ("label",), ("probabilities",), ("label", "probabilities")])
def test_the_answer_in_tensors_is_read_by_kserve(binary):
    from kserve import InferResponse

    request = protocols.Request(IMAGE, "id 1", protocols.OUTPUTS, frozenset(binary))
    body, length = protocols.infer_response(ANSWERS, "pets", 2, request)
    assert (length is not None) == bool(binary)
    head = json.loads(body[:length])
    assert (head["model_name"], head["model_version"], head["id"]) == ("pets", "2", "id 1")
    label, spread = InferResponse.from_bytes(body, length or len(body)).outputs
    named = [one.decode() if isinstance(one, bytes) else one for one in label.as_numpy().tolist()]
    assert named == ["a", "ä€"]
    np.testing.assert_array_equal(spread.as_numpy(), ANSWERS.probabilities)


@given(st.lists(TEXTS))
def test_packed_strings_have_their_length_before_them(texts):
    packed, found = protocols.pack_strings(texts), []
    while packed:
        (size,) = struct.unpack("<I", packed[:4])
        found.append(packed[4 : 4 + size].decode())
        packed = packed[4 + size :]
    assert found == texts


@given(st.lists(TEXTS, min_size=1))
def test_packed_strings_come_back_as_files(texts):
    found = []

    def keep(file):
        found.append(file.decode())
        return np.zeros((1, 1, 1), np.uint8)

    tensor = Tensor("pictures", "BYTES", [len(texts)], protocols.pack_strings(texts))
    assert protocols.read(tensor, Expected((1, 1, 1), len(texts), keep)).shape == (len(texts), 1, 1, 1)
    assert found == texts


def test_an_answer_says_its_outputs_in_the_order_in_which_they_were_wanted():
    request = protocols.Request(IMAGE, None, ("probabilities", "label"), frozenset({"label"}))
    body, length = protocols.infer_response(ANSWERS, "pets", 2, request)
    told = json.loads(body[:length])
    assert told["id"] == ""
    assert [one["name"] for one in told["outputs"]] == ["probabilities", "label"]
    assert told["outputs"][0] == {
        "name": "probabilities", "datatype": "FP32", "shape": [2, 2], "data": [0.75, 0.25, 0.125, 0.875]}  # fmt: skip
    assert told["outputs"][1]["parameters"]["binary_data_size"] == len(body) - length
    assert body[length:] == b"\x01\0\0\0a\x05\0\0\0\xc3\xa4\xe2\x82\xac"


GOOD = {"name": "pictures", "datatype": "UINT8", "shape": [1, 4, 4, 1]}
DATA = {"data": [0] * 16}
SIZE = {"parameters": {"binary_data_size": 16}}


@pytest.mark.parametrize(
    ("content", "tail", "says"),
    [
        ({"inputs": [GOOD | DATA], "id": 7}, b"", '"id" is text; received 7'),
        ({}, b"", 'one tensor "pictures"; received None'), ({"inputs": {}}, b"", "received an object"),
        ({"inputs": []}, b"", "received a list"), ({"inputs": [GOOD | DATA] * 2}, b"", "received a list"),
        ({"inputs": [1]}, b"", "received a list"),
        ({"inputs": [GOOD]}, b"", 'no list "data" and no binary_data_size; received an object with \'name\''),
        ({"inputs": [GOOD | {"data": "0"}]}, b"", 'no list "data"'),
        ({"inputs": [GOOD | DATA]}, b"ab", "2 bytes follow the JSON, and no tensor has a binary_data_size"),
        ({"inputs": [GOOD | SIZE]}, bytes(15), "binary_data_size is 16, and 15 bytes follow"),
        ({"inputs": [GOOD | SIZE]}, bytes(17), "binary_data_size is 16, and 17 bytes follow"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": True}}]}, b"a", "binary_data_size is True"),
        ({"inputs": [GOOD | {"parameters": {"binary_data_size": "16"}}]}, bytes(16), "binary_data_size is '16'"),
        ({"inputs": [GOOD | {"parameters": [16]}]}, bytes(16), "binary_data_size is a list"),
        ({"inputs": [GOOD | DATA | SIZE]}, bytes(16), "not as both"),
        ({"inputs": [GOOD | DATA], "parameters": [1]}, b"", '"outputs" is a list and "parameters" an object'),
        ({"inputs": [GOOD | DATA], "outputs": {"name": "label"}}, b"", '"outputs" is a list'),
        ({"inputs": [GOOD | DATA], "outputs": ["label"]}, b"", 'an object with a "name"; received a list'),
        ({"inputs": [GOOD | DATA], "outputs": [{"name": 1}]}, b"", 'an object with a "name"'),
        ({"inputs": [GOOD | DATA], "outputs": [{"name": "label", "parameters": [1]}]}, b"", "object; received a list"),
        ({"inputs": [GOOD | DATA], "outputs": [{"name": "label", "parameters": {"binary_data": 0}}]}, b"", "true or"),
        ({"inputs": [GOOD | DATA], "parameters": {"binary_data_output": "no"}}, b"", "is true or false; received 'no'"),
        ({"inputs": [GOOD | DATA], "outputs": [{"name": "logits"}]}, b"", "label and probabilities; received 'logits'"),
        ({"inputs": [GOOD | DATA], "outputs": [{"name": "label"}] * 2}, b"", "one was named twice"),
    ],
)  # fmt: skip
def test_what_is_no_inference_is_refused(content, tail, says):
    head = json.dumps(content).encode()
    refused(400, says, protocols.infer_request, head + tail, len(head), EXPECTED)


@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"{} // this", b"{}{}", b'{"inputs": "\xff\xfe"}'])
def test_what_is_no_json_is_refused(body):
    for read in (protocols.predict_request, lambda body, expected: protocols.infer_request(body, None, expected)):
        refused(400, "The body is not JSON", read, body, EXPECTED)


@pytest.mark.parametrize("length", [-1, 5])
def test_a_json_longer_than_its_body_is_refused(length):
    refused(400, f"is {length}, and the body has 2 bytes", protocols.infer_request, b"{}", length, EXPECTED)


def test_colour_pictures_in_a_tensor_are_not_taken_without_their_channels():
    images = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)
    tensor = Tensor("pictures", "UINT8", [2, 2, 2, 3], images.tobytes())
    np.testing.assert_array_equal(protocols.read(tensor, COLOUR), images)
    refused(400, r"\[n, 2, 2, 3\]; received \[6, 2, 2\]", protocols.read, tensor._replace(shape=[6, 2, 2]),
            COLOUR._replace(pictures=6))  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"name": "images"}, 400, 'one input "pictures"; received \'images\''),
        ({"datatype": "FP32"}, 400, "UINT8 or BYTES; received 'FP32'"),
        ({"shape": [1, 5, 4, 1]}, 400, r"\[n, 4, 4, 1\]; received \[1, 5, 4, 1\]"),
        ({"shape": [True, 4, 4, 1]}, 400, "list of whole numbers"), ({"shape": "1441"}, 400, "list of whole numbers"),
        ({"shape": [-1, 4, 4, 1]}, 400, "list of whole numbers"), ({"shape": [6, 4, 4, 1]}, 413, "at most 5"),
        ({"shape": [0, 4, 4, 1]}, 400, "at least one"), ({"shape": []}, 400, "list of whole numbers; received a list"),
        ({"shape": None}, 400, "list of whole numbers; received None"),
        ({"shape": [1.0, 4, 4, 1]}, 400, "list of whole numbers"),
        ({"shape": [1] * 9}, 400, "list of at most 8 whole numbers; received 9"),
        ({"shape": [1] * 8}, 400, r"shape \[n, 4, 4, 1\]; received"),
        ({"datatype": "x" * 5000}, 400, "received a text of 5000 characters"),
        ({"data": [256] + [0] * 15}, 400, "whole numbers from 0 to 255"), ({"data": [0.5] * 16}, 400, "whole numbers"),
        ({"data": bytes(15)}, 400, "stands for 16 values; received 15"),
        ({"shape": [2, 4, 4, 1]}, 400, "stands for 32 values; received 16"),
        ({"datatype": "BYTES", "shape": [1, 1]}, 400, r"shape \[n\]; received \[1, 1\]"),
        ({"datatype": "BYTES", "shape": [1], "data": [7]}, 400, "in base64; received 7"),
        ({"datatype": "BYTES", "shape": [2], "data": ["AAAA"]}, 400, "stands for 2 values; received 1"),
        ({"datatype": "BYTES", "shape": [1], "data": b"\1\0\0"}, 400, "lengths in a binary BYTES tensor"),
        ({"datatype": "BYTES", "shape": [1], "data": b"\1\0\0\0"}, 400, "lengths in a binary BYTES tensor"),
        ({"datatype": "BYTES", "shape": [1], "data": b"\1\0\0\0a"}, 400, "A picture of 1 bytes is no picture"),
        ({"datatype": "BYTES", "shape": [1], "data": b"\0\0\0\0" * 2}, 400, "stands for 1 values; received 2"),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_refused(changed, status, says):
    tensor = Tensor("pictures", "UINT8", [1, 4, 4, 1], [0] * 16)._replace(**changed)
    refused(status, says, protocols.read, tensor, EXPECTED)


KEYS = TEXTS | st.sampled_from(["inputs", "instances", "name", "shape", "datatype", "data", "b64", "parameters"])
LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | TEXTS


@given(st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)))
def test_whatever_json_comes_in_is_read_or_refused_with_a_sentence(content):
    try:
        body = orjson.dumps(content)
    except TypeError:  # a whole number that orjson does not write
        return
    for read in (protocols.predict_request, lambda body, expected: protocols.infer_request(body, None, expected)):
        with pytest.raises(Refused) as error:
            read(body, EXPECTED)
        assert error.value.status in (400, 413)
        assert len(str(error.value)) < 400


@given(st.binary(max_size=100), st.none() | st.integers(-5, 120))
def test_whatever_bytes_come_in_are_refused_with_a_sentence(body, length):
    with pytest.raises(Refused):
        protocols.infer_request(body, length, EXPECTED)


def test_an_error_repeats_little_of_what_came_in():
    with pytest.raises(Refused) as error:
        protocols.read(Tensor("x" * 10_000, "UINT8", [1, 4, 4, 1], []), EXPECTED)
    assert len(str(error.value)) < 120


# ── limits ──────────────────────────────────────────────────────────────────────────────────────


def test_limits_are_the_usual_ones_but_for_those_given():
    found = protocols.limits({"body": "100", "receive_seconds": "0.5"})
    assert found == Limits(body=100, receive_seconds=0.5)
    assert protocols.limits({}) == Limits()


@pytest.mark.parametrize(
    "given",
    [{"body": "1.5"}, {"body": "-1"}, {"body": "0"}, {"body": "many"}, {"pixels": "nan"}, {"answer_seconds": "nan"},
     {"body": str(2**31)}, {"receive_seconds": "inf"}],
)
def test_a_limit_that_is_none_is_refused(given):
    with pytest.raises(ValueError, match="it must be a number above 0"):
        protocols.limits(given)
    with pytest.raises(ValueError, match="There is no limit 'size'"):
        protocols.limits({"size": "3"})
