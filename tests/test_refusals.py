"""What a server should not be sent: each gets its status and one sentence, and the next request its answer."""

import asyncio
import base64
import contextlib
import gzip
import io
import json
import pickle
import socket
import struct
import time
import zlib
from typing import NamedTuple

import grpc
import numpy as np
import psutil
import pytest
import requests
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from PIL import Image

from helpers import classifier, processor, serving

pytestmark = [pytest.mark.slow, pytest.mark.alone]
INFER, PREDICT = "/v2/models/tiny/infer", "/v1/models/tiny:predict"
PIXELS = list(range(0, 160, 10))
GOOD = {"name": "pictures", "shape": [1, 4, 4, 1], "datatype": "UINT8", "data": PIXELS}
PATIENCE = 1.0  # seconds until the server gives a slow client up


@pytest.fixture(scope="module")
def server(fill_registry, tmp_path_factory):
    root = fill_registry(tmp_path_factory.mktemp("registry"), "tiny")
    with serving.start(root, log=root / "log", arguments=("--limit", "receive_seconds", str(PATIENCE))) as started:
        started.first, started.model = started.workers(), classifier.load(root / "tiny")
        assert answered_right(started)
        started.memory = started.memory_mb()
        yield started


def answered_right(server):
    told = requests.post(server.url + INFER, json={"inputs": [GOOD]}, timeout=20).json()
    expected = server.model.answer(np.uint8(PIXELS).reshape(1, 4, 4, 1))
    return told["outputs"][0]["data"] == expected.labels.tolist() and np.allclose(
        told["outputs"][1]["data"], expected.probabilities, atol=1e-6
    )


def peak_mb(server):
    """Returns the most memory that the worker has ever held."""
    (worker,) = server.workers()
    return processor.peak_bytes(worker) / 1e6


def is_a_sentence(text):
    return 20 <= len(text) <= 400 and text.endswith(".") and text.isprintable() and "Traceback" not in text


def sentence(headers, body):
    assert headers["content-type"] == "application/json"
    told = json.loads(body)
    assert set(told) == {"error"}
    assert is_a_sentence(told["error"]), told
    return told["error"]


# ── the requests ────────────────────────────────────────────────────────────────────────────────


class Case(NamedTuple):
    name: str
    path: str
    body: bytes
    status: int = 400
    says: str = ""
    headers: dict = {}
    method: str = "POST"


def infer(name, body, says="", status=400, **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = {"content-type": "application/json"} | {key.replace("_", "-"): value for key, value in headers.items()}
    return Case(f"infer: {name}", INFER, body, status, says, given)


def tensor(title, says="", status=400, /, *, without=(), **changed):
    given = {key: value for key, value in (GOOD | changed).items() if key not in without}
    return infer(f"tensor with {title}", {"inputs": [given]}, says, status)


def predict(name, body, says="", status=400):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Case(f"predict: {name}", PREDICT, body, status, says, {"content-type": "application/json"})


def picture(name, content, says="A picture of"):
    return predict(f"a picture that is {name}", {"instances": [{"b64": base64.b64encode(content).decode()}]}, says)


def saved(form):
    Image.fromarray(np.arange(0, 240, 15, np.uint8).reshape(4, 4)).save(file := io.BytesIO(), form)
    return file.getvalue()


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, pixels=b""):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


WHOLE = json.dumps({"inputs": [GOOD]}).encode()
TEXTS = {
    "empty": b"", "a number": b"1", "a text": b'"pictures"', "null": b"null", "a list": b"[]", "NaN": b"NaN",
    "an open brace": b"{", "100,000 brackets": b"[" * 100_000, "100,000 braces": b'{"inputs":' * 100_000,
    "single quotes": b"{'inputs': []}", "a trailing comma": b'{"inputs": [],}', "a comment": b"{} // this",
    "two objects": b"{}{}", "a byte order mark": b"\xef\xbb\xbf{}", "no UTF-8": b'{"inputs": "\xff\xfe"}',
    "UTF-16": WHOLE.decode().encode("utf-16"), "a lone surrogate": b'{"id": "\\ud800", "inputs": []}',
    "a raw control character": b'{"id": "a\x00b"}', "XML": b"<inputs/>", "YAML": b"inputs: []", "a form": b"inputs=1",
    "a pickle": pickle.dumps({"inputs": []}), "zeros": b"\0" * 1000, "spaces": b" " * 1000,
}  # fmt: skip
JSON = [infer(f"{name} as body", text) for name, text in TEXTS.items()]
JSON += [infer(f"cut after {cut} of {len(WHOLE)} bytes", WHOLE[:cut], "JSON") for cut in range(5, len(WHOLE), 16)]
JSON += [predict(f"{name} as body", text) for name, text in list(TEXTS.items())[:12]]

# Of each kind of V2 and V1 some: what else a body may hold that is refused is in test_protocols.py.
V2 = [infer(f"inputs that are {name}", {"inputs": value}) for name, value in {
    "null": None, "an object": {}, "a list of null": [None], "an empty tensor": [{}],
}.items()]  # fmt: skip
V2 += [tensor(f"no {field}", without=[field]) for field in GOOD]
V2 += [
    tensor("another type", "UINT8", datatype="FP32"), tensor("a huge shape", shape=[1, *[2**64 - 1] * 7]),
    tensor("a shape of 100,000 sides", "list of at most", shape=[1] * 100_000),
    tensor("257 pictures", "at most 256 pictures", 413, shape=[257, 4, 4, 1]),
    tensor("2^62 pictures", "at most 256 pictures", 413, shape=[2**62, 4, 4, 1]),
    tensor("a pixel of 10^30", data=[10**30, *PIXELS[1:]]), tensor("ragged data", data=[[1, 2], [3]]),
    infer("the pixel NaN", WHOLE.replace(b"[0, 10", b"[NaN, 10")),
    infer("a number as id", {"inputs": [GOOD], "id": 1}, '"id"'),
    infer("an unknown output", {"inputs": [GOOD], "outputs": [{"name": "logits"}]}, "logits"),
    infer("inputs twice", WHOLE[:-1] + b', "inputs": []}', '"inputs" is a list'),
    infer("a body in gzip", gzip.compress(WHOLE), "JSON", content_encoding="gzip"),
    tensor("a type of 5,000 letters", "received a text of 5000 characters", datatype="x" * 5000),
]


def binary(title, says="", /, *, size=16, tail=bytes(16), length=None, status=400, **changed):
    given = {key: value for key, value in GOOD.items() if key != "data"} | changed
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": size}}]}).encode()
    length = str(len(head)) if length is None else length
    return infer(f"binary, {title}", head + tail, says, status, content_type="application/octet-stream",
                 inference_header_content_length=length)  # fmt: skip


V2 += [
    binary("too few bytes", "15 bytes follow", tail=bytes(15)), binary("too many bytes", tail=bytes(17)),
    binary("a huge size", size=2**62), binary("length beyond the body", "Content-Length is", length="99999"),
    binary("length 0", length="0"), binary("length inside of the JSON", length="20"),
    binary("a negative length", "number of bytes", length="-1"), binary("length as words", "number", length="ten"),
    binary("an empty length", "number", length=" "), binary("a long length", "number", length="9" * 50),
    binary("files, lengths beyond the end", "lengths", datatype="BYTES", shape=[1], tail=b"\xff" * 16),
    binary("files, 257", "at most 256", datatype="BYTES", shape=[257], size=1028, tail=bytes(1028), status=413),
]

ROWS = np.uint8(PIXELS).reshape(4, 4).tolist()
V1 = [
    predict("a null", {"instances": [None]}), predict("ragged rows", {"instances": [[[1, 2], [3]]]}),
    predict("another object", {"instances": [{"b65": "aGVsbG8="}]}),
    predict("neither instances nor inputs", {"examples": [ROWS]}, '"instances" or "inputs"'),
    predict("another signature", {"instances": [ROWS], "signature_name": "train"}, "signature"),
    predict("base64 with a space", {"instances": [{"b64": "aGVs bG8="}]}, "base64"),
    predict("257 pictures", {"instances": [ROWS] * 257}, "at most 256", 413),
]
V1 += [picture(name, content) for name, content in {
    "empty": b"", "a word": b"hello", "a page": b"<html><script>alert(1)</script></html>",
    "a drawing in SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>', "a pickle": pickle.dumps(print),
    "a PDF": b"%PDF-1.7\n", "an archive": b"PK\x03\x04" + bytes(60), "a program": b"\x7fELF" + bytes(60),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n", "the head of a PNG": b"\x89PNG\r\n\x1a\n",
    "a bomb": png(50_000, 50_000), "a wide bomb": png(2**31 - 1, 1),
    "a PNG without pixels": png(4, 4), "a PNG of size 0": png(0, 0),
    "a PNG with too few pixels": png(400, 400, bytes(99)),
    "a PNG with a damaged head": saved("PNG").replace(b"IHDR", b"IHDX"), "a GIF cut": saved("GIF")[:30],
    "a JPEG cut": saved("JPEG")[:-30], "a JPEG cut early": saved("JPEG")[:100], "a BMP cut": saved("BMP")[:60],
    "a TIFF cut": saved("TIFF")[:20], "a WebP cut": saved("WEBP")[:24],
}.items()]  # fmt: skip
V1 += [picture(f"a PNG cut after {cut} bytes", saved("PNG")[:cut]) for cut in range(10, len(saved("PNG")) - 20, 12)]

NAMES = [
    "..", "../tiny", "..%2ftiny", "%2e%2e%2f%2e%2e%2fetc%2fpasswd", "..\\tiny", "tiny%00", "tiny%0d%0aX-Evil:%201",
    "tiny/..", "Tiny", "tiny%20", "%74iny%2f", "kitchen", "~root", "x" * 3000, "%F0%9F%99%82", "%ff%fe",
    "tiny;version=1", "{tiny}", "$(id)", "'%20OR%201=1", "tiny,tiny", "*", "<b>", "registry", "promoted",
    "%F3%A0%80%81" * 100, "%C2%85" * 100,
]  # fmt: skip
PATHS = [Case(f"the model {name[:40]}", f"/v2/models/{name}/infer", WHOLE, 404) for name in NAMES]
PATHS += [Case(f"the model {name[:40]} for V1", f"/v1/models/{name}:predict", b"{}", 404) for name in NAMES[:12]]
PATHS += [Case(f"the version {version[:40]}", f"/v2/models/tiny/versions/{version}/infer", WHOLE, 404)
          for version in ("0", "2", "99", "-1", "+1", "01", "1.0", "1e0", "1e3", "0x1", "latest", "%31%30", "1%00",
                          "..", "..%2f1", "9" * 9, "9" * 400, "%D9%A1", "%C2%B2", "1;2", "None",
                          "%F3%A0%80%81" * 100)]  # fmt: skip
PATHS += [Case(f"the address {path[:40]}", path, WHOLE, 404) for path in (
    "/v2/models//infer", "//v2/models/tiny/infer", "/v2/models/tiny/infer/", "/v2/models/tiny/Infer",
    "/V2/models/tiny/infer", "/v2/models/tiny/versions//infer", "/v2/repository/index",
    "/v2/repository/models/tiny/load", "/v3/models/tiny/infer", "/v1/models/tiny:classify",
    "/v1/models/tiny:predict:predict", "/v1/models/tiny:explain", "/.env", "/docs", "/redoc", "/admin",
    "/v2/models/tiny/generate", "/openai/v1/models", "/metrics/../v2x", "/static/../../etc/passwd",
)]  # fmt: skip
METHODS = [Case(f"{method} of {path}", path, b"", 405, "is asked with", method=method) for path, method in (
    (INFER, "GET"), (INFER, "PUT"), (INFER, "DELETE"), (INFER, "PATCH"), (INFER, "OPTIONS"), (INFER, "HEAD"),
    (PREDICT, "GET"), (PREDICT, "TRACE"), ("/v2/models/tiny", "POST"), ("/metrics", "DELETE"), ("/v2", "PUT"),
    ("/openapi.json", "POST"), ("/v2/health/live", "POST"), ("/v2/models/tiny/versions/infer", "POST"),
)]  # fmt: skip
TYPES = [infer(f"the type {kind or 'of nothing'}", WHOLE, "The body is application/json", 415, content_type=kind)
         for kind in ("text/plain", "text/html", "application/xml", "multipart/form-data; boundary=x", "image/png",
                      "application/octet-stream", "application/x-www-form-urlencoded", "application/jsonx", "x",
                      "application/msgpack", "text/pl\xe4in\x85")]  # fmt: skip
CASES = [*JSON, *V2, *V1, *PATHS, *METHODS, *TYPES]


def test_there_are_at_least_200_of_them_each_with_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.encode("ascii", "replace").decode())
def test_a_bad_request_is_refused_with_a_sentence(server, case):
    target = server.url.removeprefix("http://")
    lines = [f"{case.method} {case.path} HTTP/1.1", f"host: {target}", f"content-length: {len(case.body)}",
             "connection: close", *(f"{name}: {value}" for name, value in case.headers.items())]  # fmt: skip
    status, headers, body = exchange(server, "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + case.body)
    assert status == case.status, body
    if case.method != "HEAD":
        assert case.says in sentence(headers, body)
    assert answered_right(server)


# ── over the wire ───────────────────────────────────────────────────────────────────────────────


def connect(server):
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def exchange(server, content):
    """Sends bytes as they are; returns status, headers and body of what comes back, (None, {}, b"") for nothing."""
    with connect(server) as connection:
        connection.sendall(content)
        return answer(connection)


def answer(connection):
    received = b""
    while more := connection.recv(65536):
        received += more
    if not received:
        return None, {}, b""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


LINE, HEAD = f"POST {INFER} HTTP/1.1\r\n".encode(), b"host: x\r\nconnection: close\r\n"
SIZED = b"content-length: %d\r\n\r\n" % len(WHOLE) + WHOLE
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"
WIRE = {
    "no HTTP at all": b"hello\r\n\r\n", "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "zeros": bytes(200), "a method of its own": b"FROBNICATE / HTTP/1.1\r\nhost: x\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    "a space in the address": b"GET /v2 /models HTTP/1.1\r\nhost: x\r\n\r\n",
    "a header without a colon": LINE + b"nonsense\r\n" + HEAD + b"\r\n",
    "a header with a zero": LINE + b"x-a: a\0b\r\n" + HEAD + b"\r\n",
    "two different lengths": LINE + HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a length that is a word": LINE + HEAD + b"content-length: five\r\n\r\nhello",
    "a negative length": LINE + HEAD + b"content-length: -5\r\n\r\nhello",
    "a length and chunks": LINE + HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk of no length": LINE + HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "100 kB of headers": LINE + b"x-a: " + b"a" * 100_000 + b"\r\n" + HEAD + SIZED,
    "10,000 headers": LINE + b"x-abc: a\r\n" * 11_000 + HEAD + SIZED,
    "an address of 100 kB": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "an address of 60 kB and as much of headers": LINE.replace(b" HTTP", b"?" + b"a" * 60_000 + b" HTTP")
    + b"x-a: " + b"a" * 60_000 + b"\r\n" + HEAD + SIZED,
    "no host": LINE + b"connection: close\r\n" + SIZED, "HTTP/0.9": b"GET /v2\r\n\r\n",
    "HTTP/2.0": LINE.replace(b"1.1", b"2.0") + HEAD + SIZED,
    "a greeting of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bytes in the address": LINE.replace(b"tiny", b"\xff\xfe") + HEAD + SIZED,
    "an address without a slash": LINE.replace(b"/v2", b"v2") + HEAD + SIZED,
    "no address but a host": b"GET http://x HTTP/1.1\r\n" + HEAD + b"\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\n" + HEAD + b"\r\n", "a star": b"OPTIONS * HTTP/1.1\r\n" + HEAD + b"\r\n",
    "an unknown encoding": LINE + HEAD + b"transfer-encoding: gzip\r\n\r\n" + WHOLE,
}  # fmt: skip


@pytest.mark.parametrize("name", WIRE)
def test_what_is_no_request_is_refused_with_a_sentence(server, name):
    status, headers, body = exchange(server, WIRE[name])
    assert 400 <= status < 500
    assert sentence(headers, body)
    assert answered_right(server)


def test_who_is_refused_while_still_writing_gets_the_sentence_all_the_same(server):
    with connect(server) as connection:
        connection.sendall(LINE + HEAD + b"x-a: " + b"a" * 70_000)  # too much: the server answers now
        for _ in range(5):
            time.sleep(0.02)
            connection.sendall(b"a" * 10_000)
        status, headers, body = answer(connection)
    assert status == 400
    assert sentence(headers, body)


ENDLESS = {
    "a header": LINE + HEAD + b"x-a: ", "trailers": LINE + HEAD + CHUNKED + b"2\r\n{}\r\n0\r\nx-a: ",
    "trailers after the answer": b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n" + CHUNKED + b"0\r\nx-a: ",
    "what belongs to a chunk": LINE + HEAD + CHUNKED + b"2;",
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_is_cut_off_before_it_is_large(server, what):
    sent, megabyte = 0, b"a" * 2**20
    with connect(server) as connection:
        connection.sendall(ENDLESS[what])
        time.sleep(0.05)  # let it answer what it answers without the rest
        while sent < 50:
            try:
                connection.sendall(megabyte)
            except ConnectionError:
                break
            sent += 1
    assert sent < 20  # what the two sockets hold, and not what the server does
    assert answered_right(server)


def test_100_mb_are_refused_by_their_length_before_they_come(server):
    begun = time.monotonic()
    with connect(server) as connection:
        connection.sendall(LINE + HEAD + b"content-length: 104857600\r\nexpect: 100-continue\r\n\r\n")
        status, _, body = answer(connection)
    assert time.monotonic() - begun < PATIENCE - 0.2  # it does not wait for what the client does not send
    assert status == 413
    assert "at most 16777216 bytes; received 104857600" in json.loads(body)["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_100_mb_that_come_all_the_same_are_refused_and_not_kept(server, chunked):
    megabyte = b" " * 2**20
    size = b"transfer-encoding: chunked\r\n\r\n" if chunked else b"content-length: 104857600\r\n\r\n"
    before = peak_mb(server)
    with connect(server) as connection:
        connection.sendall(LINE + HEAD + size)
        try:
            for _ in range(100):
                connection.sendall(b"100000\r\n" + megabyte + b"\r\n" if chunked else megabyte)
            connection.sendall(b"0\r\n\r\n" if chunked else b"")
            status, _, body = answer(connection)
        except ConnectionError:  # it may have turned its back meanwhile
            status = None
    if status is not None:
        assert status == 413
        assert "error" in json.loads(body)
    assert peak_mb(server) < before + 60
    assert answered_right(server)


SLOW = {
    "the first line": b"POST /v2", "the headers": LINE + b"host: x\r\nx-slow: ", "nothing": b"",
    "the body": LINE + HEAD + b"content-length: 500\r\n\r\n",
    "a chunk": LINE + HEAD + CHUNKED + b"500\r\n",
    "to no address": b"POST /x HTTP/1.1\r\n" + HEAD + CHUNKED + b"500\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", SLOW)
def test_a_client_that_dribbles_is_given_up_and_keeps_nobody_waiting(server, what):
    begun = time.monotonic()
    with connect(server) as connection:
        connection.sendall(SLOW[what])
        try:
            while time.monotonic() < begun + 10:
                connection.settimeout(0.1)
                try:
                    if connection.recv(65536):
                        break
                except TimeoutError:
                    connection.sendall(b"a" if what != "nothing" else b"")
                    continue
                break
        except ConnectionError:
            pass
    assert PATIENCE - 0.2 < time.monotonic() - begun < PATIENCE + 4
    assert answered_right(server)


def test_a_hundred_idle_connections_keep_nobody_waiting(server):
    held = [connect(server) for _ in range(100)]
    assert answered_right(server)
    for connection in held:
        connection.close()


def test_a_client_that_leaves_in_the_middle_disturbs_nobody(server):
    for cut in (20, 60, 150):
        with connect(server) as connection:
            connection.sendall((LINE + HEAD + b"content-length: 900\r\n\r\n" + WHOLE)[:cut])
    assert answered_right(server)


@pytest.mark.parametrize("cut", [20, 60, 150, None])
def test_a_client_that_closes_its_half_is_answered_or_let_go_at_once(server, cut):
    begun = time.monotonic()
    with connect(server) as connection:
        connection.sendall((LINE + HEAD + SIZED)[:cut])
        connection.shutdown(socket.SHUT_WR)
        status, _, _ = answer(connection)
    assert status in (None, 200, 400)
    assert time.monotonic() - begun < PATIENCE - 0.2
    assert answered_right(server)


def test_requests_in_one_go_are_answered_one_after_the_other(server):
    one = LINE + b"host: x\r\ncontent-length: %d\r\n\r\n" % len(WHOLE) + WHOLE
    last = one.replace(b"host: x", b"host: x\r\nconnection: close")
    with connect(server) as connection:
        connection.sendall(one + LINE + b"host: x\r\ncontent-length: 2\r\n\r\n{}" + last)
        received = b""
        while more := connection.recv(65536):
            received += more
    assert [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]] == [200, 400, 200]


# ── gRPC ────────────────────────────────────────────────────────────────────────────────────────


def call(model="tiny", version="", outputs=(), inputs=1, raw=(), contents=None, **changed):
    given = {"name": "pictures", "datatype": "UINT8", "shape": [1, 4, 4, 1]} | changed
    request = messages.ModelInferRequest(model_name=model, model_version=version)
    for _ in range(inputs):
        contents = {"uint_contents": PIXELS} if contents is None and not raw else contents
        request.inputs.add(**given, **({"contents": contents} if contents else {}))
    for name in outputs:
        request.outputs.add(name=name)
    request.raw_input_contents.extend(raw)
    return request


INVALID, MISSING, LARGE = "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"
CALLS = {
    "another name": (call(name="images"), INVALID), "no name": (call(name=""), INVALID),
    "another type": (call(datatype="FP32"), INVALID), "no type": (call(datatype=""), INVALID),
    "NaN": (call(datatype="FP32", contents={"fp32_contents": [float("nan")] * 16}), INVALID),
    "another shape": (call(shape=[1, 5, 5, 1]), INVALID), "no shape": (call(shape=[]), INVALID),
    "a negative shape": (call(shape=[-1, 4, 4, 1]), INVALID), "one dimension": (call(shape=[16]), INVALID),
    "257 pictures": (call(shape=[257, 4, 4, 1]), LARGE), "no pictures": (call(shape=[0, 4, 4, 1]), INVALID),
    "too few pixels": (call(contents={"uint_contents": PIXELS[1:]}), INVALID),
    "too bright": (call(contents={"uint_contents": [256] * 16}), INVALID),
    "values of another field": (call(contents={"int_contents": PIXELS}), INVALID),
    "raw, too few": (call(raw=[bytes(15)]), INVALID), "raw, too many": (call(raw=[bytes(17)]), INVALID),
    "raw, two": (call(raw=[bytes(16), bytes(16)]), INVALID),
    "raw and contents": (call(raw=[bytes(16)], contents={"uint_contents": PIXELS}), INVALID),
    "no inputs": (call(inputs=0), INVALID), "two inputs": (call(inputs=2), INVALID),
    "unknown output": (call(outputs=["logits"]), INVALID), "an output twice": (call(outputs=["label"] * 2), INVALID),
    "no picture": (call(datatype="BYTES", shape=[1], contents={"bytes_contents": [b"hello"]}), INVALID),
    "a bomb": (call(datatype="BYTES", shape=[1], contents={"bytes_contents": [png(50_000, 50_000)]}), INVALID),
    "raw files, lengths that lie": (call(datatype="BYTES", shape=[1], raw=[b"\xff" * 16]), INVALID),
    "unknown model": (call("kitchen"), MISSING), "no model": (call(""), MISSING), "a path": (call("../tiny"), MISSING),
    "unknown version": (call(version="99"), MISSING), "a version that is a path": (call(version="../1"), MISSING),
    "a version that is a word": (call(version="latest"), MISSING), "20 MB": (call(raw=[bytes(20_000_000)]), LARGE),
    "100,000 sides": (call(shape=[1] * 100_000), INVALID), "a zero in the name": (call("tiny\0"), MISSING),
    "a name of odd signs": (call("\U000e0001" * 5000), MISSING), "version 0": (call(version="0"), MISSING),
    "a version of odd signs": (call(version="\U000e0001" * 5000), MISSING),
    "files of another field": (call(datatype="BYTES", shape=[1], contents={"uint_contents": [1]}), INVALID),
    "two files, one said": (call(datatype="BYTES", shape=[1], contents={"bytes_contents": [b"a"] * 2}), INVALID),
    "an output of odd signs": (call(outputs=["\U000e0001" * 5000]), INVALID),
}  # fmt: skip


def infer_over_grpc(server, request):
    with grpc.insecure_channel(server.grpc) as channel:
        return services.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call_is_refused_with_a_sentence(server, name):
    request, code = CALLS[name]
    with pytest.raises(grpc.RpcError) as refused:
        infer_over_grpc(server, request)
    assert refused.value.code().name == code, refused.value.details()
    if name != "20 MB":  # gRPC's own sentence
        assert is_a_sentence(refused.value.details())
    expected = server.model.answer(np.uint8(PIXELS).reshape(1, 4, 4, 1)).labels[0].encode()
    assert infer_over_grpc(server, call()).raw_output_contents[0][4:] == expected


@pytest.mark.parametrize(("method", "code"), [
    ("ModelInfer", INVALID), ("ModelMetadata", INVALID), ("ModelReady", INVALID), ("ModelForget", "UNIMPLEMENTED"),
])  # fmt: skip
def test_bytes_that_are_no_message_are_refused(server, method, code):
    with grpc.insecure_channel(server.grpc) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/inference.GRPCInferenceService/{method}")(b"\xff" * 50, timeout=20)
    assert refused.value.code().name == code
    assert code != INVALID or is_a_sentence(refused.value.details())


def test_bytes_that_are_no_grpc_end_with_the_connection(server):
    host, _, port = server.grpc.rpartition(":")
    for content in (bytes(200), LINE + HEAD + SIZED):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(content)
            with contextlib.suppress(ConnectionError):
                while connection.recv(65536):
                    pass
    assert infer_over_grpc(server, call()).model_name == "tiny"


# ── and after all of it ─────────────────────────────────────────────────────────────────────────


def test_one_process_has_lived_through_it_with_its_memory_flat_and_nothing_of_it_in_its_log(server):
    assert server.workers() == server.first
    assert psutil.pid_exists(server.first[0])
    assert server.memory_mb() < server.memory + 60
    log = server.log.read_text()
    assert '"failed"' not in log
    for secret in ("aGVsbG8", "PGh0bWw", "0, 10, 20", "0,10,20", base64.b64encode(saved("PNG")).decode()[:20]):
        assert secret not in log


def test_it_answers_many_right_while_it_refuses_many(server):
    async def everything():
        def bad(number):
            case = CASES[number % len(JSON)]
            return requests.post(server.url + case.path, data=case.body, headers=case.headers, timeout=20).status_code

        refused = [asyncio.to_thread(bad, number) for number in range(100)]
        answered = [asyncio.to_thread(answered_right, server) for _ in range(100)]
        return await asyncio.gather(*refused, *answered)

    results = asyncio.run(everything())
    assert set(results[:100]) == {400}
    assert set(results[100:]) == {True}
