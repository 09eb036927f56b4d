"""The door of the server, called as uvicorn calls it, and the gRPC service; real processes are in test_serving.py."""

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
import time

import grpc
import httpx
import numpy as np
import pytest
import uvicorn
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services
from prometheus_client import CollectorRegistry

from helpers import classifier, protocols, rest, rpc
from helpers.batching import Full
from helpers.live import Live
from helpers.protocols import Limits, Refused
from helpers.rest import Door
from helpers.telemetry import Telemetry

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), dtype=np.uint8)
INFER, PREDICT = "/v2/models/pets/infer", "/v1/models/pets:predict"


@pytest.fixture(scope="module")
def root(fill_registry, tmp_path_factory):
    return fill_registry(tmp_path_factory.mktemp("registry"), "pets", versions=2)


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def ask(root, log):
    """A function that sends one request through the door."""

    def send(method, path, *, key=None, limits=None, live=None, **given):
        async def exchange():
            telemetry = Telemetry(log, CollectorRegistry())
            models = live or Live(root, telemetry)
            await models.refresh()
            door = Door(models, telemetry, limits=limits or Limits(), key=key)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://door") as client:
                return await client.request(method, path, **given)

        return asyncio.run(exchange())

    return send


def tensor(images, **more):
    return {"inputs": [{"name": "pictures", "shape": list(images.shape), "datatype": "UINT8",
                        "data": images.ravel().tolist()}], **more}  # fmt: skip


@pytest.fixture
def in_threads(monkeypatch):
    """For each request that is read, whether that happens in a thread of its own."""
    found = []

    def note(module, name):
        read = getattr(module, name)

        def noting(*given):
            found.append(threading.current_thread() is not threading.main_thread())
            return read(*given)

        monkeypatch.setattr(module, name, noting)

    for module, name in ((protocols, "predict_request"), (protocols, "infer_request"), (rpc, "_pictures")):
        note(module, name)
    return found


def lines(log):
    return [json.loads(line) for line in log.getvalue().splitlines() if "route" in line]


@pytest.mark.parametrize(("of", "number"), [("", "1"), ("/versions/1", "1"), ("/versions/2", "2")])
def test_predictions_in_both_protocols_are_those_of_the_version_that_is_asked(ask, root, of, number):
    expected = classifier.load(root / "pets" / number).answer(IMAGES)
    told = ask("POST", f"/v1/models/pets{of}:predict", json={"instances": IMAGES.tolist()}).json()
    assert [row["label"] for row in told["predictions"]] == expected.labels.tolist()
    assert told["model_version"] == number
    told = ask("POST", f"/v2/models/pets{of}/infer", json=tensor(IMAGES, id="7")).json()
    assert (told["id"], told["model_version"]) == ("7", number)
    assert told["outputs"][0]["data"] == expected.labels.tolist()
    np.testing.assert_allclose(np.reshape(told["outputs"][1]["data"], (30, 3)), expected.probabilities, atol=1e-6)


def test_a_large_request_is_read_in_a_thread_and_answered_alike(ask, root, in_threads):
    many = np.tile(IMAGES, (10, 1, 1, 1))
    expected = classifier.load(root / "pets").answer(many).labels.tolist()
    for images in (many[:30], many):
        told = ask("POST", INFER, json=tensor(images), limits=Limits(pictures=300)).json()
        assert told["outputs"][0]["data"] == expected[: len(images)]
    assert in_threads == [False, True]


def test_a_picture_file_is_read_in_a_thread_however_few_bytes_it_has(ask, root, in_threads):
    file = b"P5 4 4 255\n" + IMAGES[0].tobytes()
    binary, text = len(file).to_bytes(4, "little") + file, base64.b64encode(file).decode()
    given = {"name": "pictures", "shape": [1], "datatype": "BYTES"}
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(binary)}}]}).encode()
    headers = {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}
    instances = json.dumps({"instances": [{"b64": text}]}).encode()
    escaped = instances.replace(b"b64", rb"\u006264")  # the same to whoever reads JSON
    told = [ask("POST", PREDICT, content=content).json()["predictions"][0]["label"] for content in (instances, escaped)]
    told += ask("POST", INFER, json={"inputs": [given | {"data": [text]}]}).json()["outputs"][0]["data"]
    told += ask("POST", INFER, content=head + binary, headers=headers).json()["outputs"][0]["data"]
    assert told == 4 * classifier.load(root / "pets").answer(IMAGES[:1]).labels.tolist()
    assert in_threads == [True] * 4


def test_few_requests_are_read_at_a_time_and_who_waits_too_long_is_turned_away():
    free, reading, most = threading.Event(), set(), []

    def read(number):
        reading.add(number)
        most.append(len(reading))
        free.wait(20)
        reading.discard(number)
        return number

    async def everything():
        held = [asyncio.create_task(rest.read_apart(30, read, number)) for number in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="too much to do") as refused:
            await rest.read_apart(0.05, read, 5)
        free.set()
        return refused.value.status, await asyncio.gather(*held)

    assert asyncio.run(everything()) == (503, [0, 1, 2, 3, 4])
    assert max(most) == 2
    assert len(most) == 5  # and its request is not read after all


def test_binary_in_binary_out(ask, root):
    given = {"name": "pictures", "shape": [30, 4, 4, 1], "datatype": "UINT8", "parameters": {"binary_data_size": 480}}
    head = json.dumps({"inputs": [given], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    told = ask("POST", INFER, content=head + IMAGES.tobytes(), headers=headers)
    assert told.headers["content-type"] == "application/octet-stream"
    spread = told.content[-30 * 3 * 4 :]
    expected = classifier.load(root / "pets").answer(IMAGES).probabilities
    np.testing.assert_allclose(np.frombuffer(spread, "<f4").reshape(30, 3), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", {"status": "alive"}), ("/v1/models", {"models": ["pets"]}), ("/v2/models", {"models": ["pets"]}),
        ("/v2/health/ready", {"ready": True}), ("/v2/health/live", {"live": True}),
        ("/v2/models/pets/ready", {"name": "pets", "ready": True}),
        ("/v2/models/pets/versions/2/ready", {"name": "pets", "ready": True}),
    ],
)  # fmt: skip
def test_what_the_server_says_of_itself(ask, path, content):
    assert ask("GET", path).json() == content


def test_what_it_says_of_a_model(ask):
    told = ask("GET", "/v2/models/pets/versions/2").json()
    assert told["versions"] == ["2"]
    assert told["platform"] == "ONNX Runtime"
    assert told["inputs"] == [{"name": "pictures", "datatype": "UINT8", "shape": [-1, 4, 4, 1]}]
    assert told["outputs"][1] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    [status] = ask("GET", "/v1/models/pets").json()["model_version_status"]
    assert (status["version"], status["state"]) == ("1", "AVAILABLE")
    assert ask("GET", "/v1/models/pets/metadata").json()["classes"] == ["ant", "bee", "cat"]
    assert "workbook_model_version" in ask("GET", "/metrics").text
    document = ask("GET", "/openapi.json", key=None).json()
    assert INFER in document["paths"]
    assert "security" not in document


@pytest.mark.parametrize("path", ["/v2/models/pets", "/", "/v1/models", "/v2", "/v2/health/live", "/v2/models"])
def test_head_is_a_get_without_its_body(ask, path):
    assert ask("HEAD", path).status_code == 200


def test_without_a_live_model_it_is_not_ready(ask, tmp_path):
    nothing = Live(tmp_path, Telemetry(None, CollectorRegistry()))
    told = ask("GET", "/v2/health/ready", live=nothing)
    assert (told.status_code, told.json()) == (503, {"ready": False})
    assert ask("POST", INFER, live=nothing, json={}).json()["error"] == "There is no model 'pets'; there is none."


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "header"),
    [
        ("POST", "/nowhere", {"content": b"x" * 100}, 404, None),
        ("GET", INFER, {}, 405, ("allow", "POST")), ("PUT", "/metrics", {}, 405, ("allow", "GET, HEAD")),
        ("POST", INFER, {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, None),
        ("POST", INFER, {"content": b"{"}, 400, None),
        ("POST", INFER, {"content": b"x" * 2000}, 413, ("connection", "close")),
        ("POST", PREDICT, {"json": {"instances": [[[0] * 4] * 4] * 9}}, 413, None),
        ("POST", INFER, {"content": b"{}", "headers": {"inference-header-content-length": "-1"}}, 400, None),
        ("POST", "/v2/models/pets/versions/9/infer", {"content": b"{}"}, 404, None),
    ],
)  # fmt: skip
def test_a_refusal_is_json_with_one_sentence(ask, log, method, path, given, status, header):
    told = ask(method, path, limits=Limits(body=1500, pictures=8), **given)
    assert told.status_code == status
    assert set(told.json()) == {"error"}
    assert header is None or told.headers[header[0]] == header[1]
    assert lines(log)[-1]["status"] == status
    assert told.json()["error"].startswith(lines(log)[-1]["reason"][:20])


def test_a_body_without_a_length_is_limited_too(ask):
    def parts():
        for _ in range(10):
            yield b" " * 1000

    class Stream(httpx.AsyncByteStream):
        async def __aiter__(self):
            for part in parts():
                yield part

    told = ask("POST", INFER, limits=Limits(body=5000), content=Stream())
    assert told.status_code == 413
    mend = "send fewer pictures at a time, or smaller ones, or start `serve --limit body BYTES` with more."
    assert told.json()["error"] == f"A request has at most 5000 bytes; received more: {mend}"


def test_a_key_is_asked_for_everywhere_but_at_the_health(ask):
    for headers, status in (
        ({}, 401), ({"x-api-key": "sesam"}, 401), ({"authorization": "sesame"}, 401), ({"x-api-key": "sesame"}, 200),
        ({"authorization": "bearer sesame"}, 200),
        ({"authorization": "Bearer sesame"}, 200),
    ):  # fmt: skip
        told = ask("POST", INFER, key="sesame", json=tensor(IMAGES[:1]), headers=headers)
        assert told.status_code == status
        for path in ("/openapi.json", "/metrics"):
            assert ask("GET", path, key="sesame", headers=headers).status_code == status
    assert told.json()["outputs"]
    refused = ask("GET", "/v2", key="sesame")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert "sesame" not in refused.text
    assert ask("GET", "/v2/health/live", key="sesame").status_code == 200
    assert ask("GET", "/openapi.json", key="k", headers={"x-api-key": "k"}).json()["security"]


def test_a_request_keeps_the_id_that_its_client_gave_it(ask, log):
    told = ask("POST", INFER, json=tensor(IMAGES[:1], id="in the body"), headers={"x-request-id": "in the header"})
    assert told.headers["x-request-id"] == "in the header"
    assert (lines(log)[-1]["id"], lines(log)[-1]["pictures"]) == ("in the header", 1)
    ask("POST", INFER, json=tensor(IMAGES[:1], id="in the body"))
    assert lines(log)[-1]["id"] == "in the body"


def test_a_model_that_is_slow_or_overrun_is_503_or_504(ask, root, monkeypatch):
    def slow(self, images):
        time.sleep(0.3)

    live = Live(root, Telemetry(None, CollectorRegistry()))
    asyncio.run(live.refresh())
    monkeypatch.setattr(classifier.Classifier, "answer", slow)
    told = ask("POST", INFER, live=live, limits=Limits(answer_seconds=0.05), json=tensor(IMAGES[:1]))
    assert (told.status_code, told.json()["error"][:32]) == (504, "There was no answer within 0.05 ")

    async def full(self, images):
        raise Full

    monkeypatch.setattr(rest.Batcher, "answer", full)
    told = ask("POST", INFER, live=live, json=tensor(IMAGES[:1]))
    assert (told.status_code, told.headers["retry-after"]) == (503, "1")


def test_a_fault_of_the_server_is_500_and_its_log_says_why(ask, log, root, monkeypatch):
    def broken(self, images):
        raise RuntimeError("the model is ill")

    live = Live(root, Telemetry(log, CollectorRegistry()))
    asyncio.run(live.refresh())
    monkeypatch.setattr(classifier.Classifier, "answer", broken)
    told = ask("POST", INFER, live=live, json=tensor(IMAGES[:1]))
    assert told.status_code == 500
    assert told.json() == {"error": "The server failed at this request; its log says why."}
    assert "RuntimeError: the model is ill" in log.getvalue()


# ── uvicorn's protocol ──────────────────────────────────────────────────────────────────────────


async def echo(scope, receive, send):
    body, more = b"", scope["path"] != "/unread"
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def listening(seconds, told=None, application=echo, **settings):
    class Patient(rest.Patient):
        pass

    Patient.seconds, Patient.telemetry = seconds, told
    config = uvicorn.Config(application, http=Patient, ws="none", lifespan="off", log_config=None, access_log=False,
                            **settings)  # fmt: skip
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        task = asyncio.create_task(server.serve(sockets=[taken]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield taken.getsockname()[1]
        server.should_exit = True
        await task


def over_the_wire(*pieces, seconds=0.3, pause=0.0, **settings):
    async def exchange():
        async with listening(seconds, **settings) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(pause)
            found = await asyncio.wait_for(reader.read(), 5)
            writer.close()
            return found

    return asyncio.run(exchange())


def test_headers_that_do_not_arrive_in_time_are_408():
    assert over_the_wire(b"POST / HTTP/1.1\r\nx: ").startswith(b"HTTP/1.1 408 ")
    assert b"send it again" in over_the_wire(b"")


def test_the_clock_starts_again_with_the_next_request_of_a_connection():
    one = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    found = over_the_wire(one, one, b"GET / HTTP/1.1\r\nx", pause=0.6, seconds=1.0)
    assert found.count(b"200 OK") == 2
    assert b"408" in found


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_headers_that_are_too_large_are_400(end):
    found = over_the_wire(b"GET / HTTP/1.1\r\n", b"x: " + b"a" * 70_000 + end)
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"at most 65536 bytes of headers" in found


def test_a_body_larger_than_headers_may_be_is_none_of_them():
    found = over_the_wire(b"POST / HTTP/1.1\r\nconnection: close\r\ncontent-length: 200000\r\n\r\n" + b"a" * 200_000)
    assert found.startswith(b"HTTP/1.1 200 ")


def test_a_connection_too_many_is_503_with_a_sentence():
    head, _, body = over_the_wire(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", limit_concurrency=1).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"connection: close" in head
    assert b"retry-after: 1" in head
    assert json.loads(body) == {"error": "The server has too much to do: ask again in a moment."}


HELLO = b"POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"


@pytest.mark.parametrize(("first", "more"), [(HELLO, b"a"), (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\r\n")])
def test_a_connection_does_not_stay_open_for_what_follows_an_answer_and_does_not_end(first, more):
    found = over_the_wire(first, more, pause=0.1, timeout_keep_alive=60)
    assert found.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in found


def test_a_body_that_nobody_reads_may_come_later_and_the_connection_goes_on():
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    found = over_the_wire(HELLO, b"a", b"a" * 99, *[b""] * 4, last, seconds=0.8, pause=0.2)
    assert found.count(b"200 OK") == 2
    assert b"408" not in found


@pytest.mark.parametrize(("path", "key", "status"), [("/nowhere", b"sesame", 404), (INFER, b"sesam", 401)])
def test_who_is_refused_while_still_writing_sees_why(path, key, status):
    door = Door(None, Telemetry(None, CollectorRegistry()), limits=Limits(receive_seconds=4), key="sesame")
    head = b"POST %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: %s\r\n" % (path.encode(), key)
    pieces = [head + b"content-length: 2097152\r\n\r\n", *[b" " * 2**18] * 8]
    found = over_the_wire(*pieces, pause=0.02, application=door)
    assert found.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"].startswith(("There is nothing at", "This server wants"))
    begun = time.monotonic()
    asking = over_the_wire(head + b"content-length: 2097152\r\nexpect: 100-continue\r\n\r\n", application=door)
    assert asking.startswith(b"HTTP/1.1 %d " % status)  # and is not told to go on
    assert time.monotonic() - begun < 3


OFFER = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n"


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_who_offers_another_protocol_is_answered_in_this_one(pause):
    sized, chunked = b"content-length: 5\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"
    last = b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + sized + b"third"
    found = over_the_wire(OFFER + sized, b"fir", b"st", OFFER + chunked, b"6\r\nsecond\r\n0\r\n\r\n", last, pause=pause)
    assert [part.partition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]] == [
        b"first", b"second", b"third"]  # fmt: skip


def test_a_thousand_offers_in_one_go_are_no_more_than_a_thousand_requests():
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    offer = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert over_the_wire(offer * 1000 + last, seconds=20).count(b"200 OK") == 1001


@pytest.mark.parametrize(
    ("sent", "settings", "status"),
    [(b"no HTTP\r\n\r\n", {}, 400), (b"GET / HTTP", {}, 408), (HELLO, {"limit_concurrency": 1}, 503)],
)
def test_what_does_not_come_to_the_door_is_counted_and_logged_too(log, sent, settings, status):
    telemetry = Telemetry(log, CollectorRegistry())
    found = over_the_wire(sent, told=telemetry, **settings)
    assert found.startswith(b"HTTP/1.1 %d " % status)
    assert f'workbook_requests_total{{route="other",status="{status}"}} 1.0' in telemetry.page()[0].decode()
    reason = json.loads(found.partition(b"\r\n\r\n")[2])["error"]
    assert [(line["route"], line["status"], line["reason"]) for line in lines(log)] == [("other", status, reason)]


# ── gRPC ────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def call(root, log):
    """A function that makes one call of the service, over a socket."""

    def make(method, request, *, key=None, metadata=(), limits=None, seconds=20):
        async def exchange():
            telemetry, bounds = Telemetry(log, CollectorRegistry()), limits or Limits()
            live = Live(root, telemetry)
            await live.refresh()
            server = rpc.server(rpc.Service(live, telemetry, limits=bounds, key=key), bounds)
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub = services.GRPCInferenceServiceStub(channel)
                try:
                    return await getattr(stub, method)(request, metadata=metadata, timeout=seconds)
                finally:
                    await server.stop(0)

        return asyncio.run(exchange())

    return make


def infer(images, raw=True, model="pets", version=""):
    request = messages.ModelInferRequest(model_name=model, model_version=version, id="7")
    given = request.inputs.add(name="pictures", datatype="UINT8", shape=list(images.shape))
    if raw:
        request.raw_input_contents.append(images.tobytes())
    else:
        given.contents.uint_contents.extend(images.ravel().tolist())
    return request


@pytest.mark.parametrize("raw", [True, False])
def test_calls_are_answered_with_the_classifiers_numbers(call, root, log, in_threads, raw):
    many = np.tile(IMAGES, (35, 1, 1, 1))
    for images in (IMAGES[:3], many):
        told = call("ModelInfer", infer(images, raw), limits=Limits(pictures=len(many)))
        expected = classifier.load(root / "pets").answer(images)
        spread = np.frombuffer(told.raw_output_contents[1], "<f4").reshape(-1, 3)
        np.testing.assert_allclose(spread, expected.probabilities, atol=1e-6)
        assert (told.id, told.model_version) == ("7", "1")
    assert lines(log)[-1]["route"] == "grpc infer"
    assert lines(log)[-1]["pictures"] == len(many)
    assert in_threads == [False, True]


def test_picture_files_go_over_grpc_as_they_are_and_are_read_in_a_thread(call, root, in_threads):
    request = messages.ModelInferRequest(model_name="pets")
    given = request.inputs.add(name="pictures", datatype="BYTES", shape=[1])
    given.contents.bytes_contents.append(b"P5 4 4 255\n" + IMAGES[0].tobytes())
    told = call("ModelInfer", request)
    assert told.raw_output_contents[0][4:].decode() == classifier.load(root / "pets").answer(IMAGES[:1]).labels[0]
    assert in_threads == [True]


def test_the_server_and_its_models_are_described(call):
    assert call("ServerReady", messages.ServerReadyRequest()).ready
    assert call("ModelReady", messages.ModelReadyRequest(name="pets")).ready
    told = call("ModelMetadata", messages.ModelMetadataRequest(name="pets", version="2"))
    assert (told.versions, told.inputs[0].shape) == (["2"], [-1, 4, 4, 1])


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (infer(IMAGES[:1], model="cats"), "NOT_FOUND"), (infer(IMAGES[:1], version="9"), "NOT_FOUND"),
        (infer(IMAGES[:9]), "RESOURCE_EXHAUSTED"), (messages.ModelInferRequest(model_name="pets"), "INVALID_ARGUMENT"),
    ],
)  # fmt: skip
def test_a_refused_call_has_the_code_for_it(call, log, request_, code):
    with pytest.raises(grpc.RpcError) as refused:
        call("ModelInfer", request_, limits=Limits(pictures=8))
    assert refused.value.code().name == code
    assert lines(log)[-1]["reason"] == refused.value.details()


def test_a_call_without_the_key_is_unauthenticated(call):
    with pytest.raises(grpc.RpcError) as refused:
        call("ModelInfer", infer(IMAGES[:1]), key="sesame")
    assert refused.value.code().name == "UNAUTHENTICATED"
    told = call("ModelInfer", infer(IMAGES[:1]), key="sesame", metadata=(("x-api-key", "sesame"),))
    assert told.model_name == "pets"


def test_a_fault_at_a_call_is_internal_and_its_log_says_why(call, log, monkeypatch):
    monkeypatch.setattr(rpc, "_response", lambda *_: 1 / 0)
    with pytest.raises(grpc.RpcError, match="The server failed at this call; its log says why") as failed:
        call("ModelInfer", infer(IMAGES[:1]))
    assert failed.value.code().name == "INTERNAL"
    assert "ZeroDivisionError" in log.getvalue()


def test_a_call_whose_client_waits_no_longer_is_no_fault_of_the_server(call, log, monkeypatch):
    left = threading.Event()
    monkeypatch.setattr(classifier.Classifier, "answer", lambda self, images: images.any() and left.wait(20))
    with pytest.raises(grpc.RpcError) as failed:
        call("ModelInfer", infer(IMAGES[:1]), seconds=1)
    left.set()
    assert failed.value.code().name == "DEADLINE_EXCEEDED"
    assert [line["status"] for line in lines(log)] == [499]
    assert "failed" not in log.getvalue()


def test_clients_load_nothing(call):
    with pytest.raises(grpc.RpcError, match="promoted in the registry"):
        call("RepositoryModelLoad", messages.RepositoryModelLoadRequest())
