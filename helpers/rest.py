"""The HTTP side of a serving process: TensorFlow Serving's REST and the Open Inference Protocol V2.

Every refusal is JSON with one sentence: `{"error": "…"}`.
"""

import asyncio
import contextlib
import hmac
import re
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from helpers import openapi, protocols
from helpers.batching import Batcher, Full
from helpers.live import Live, expected
from helpers.protocols import INPUT, Limits, Refused
from helpers.telemetry import Telemetry

_MODEL = re.compile(
    r"/(?:v1/models/(?P<v1>[^/:]+)(?:/versions/(?P<of1>[^/:]+))?(?P<do1>:predict|/metadata|)"
    r"|v2/models/(?P<v2>[^/]+)(?:/versions/(?P<of2>[^/]+))?(?P<do2>/infer|/ready|))"
)
_OF_SERVER = ("/", "/v1/models", "/v2", "/v2/health/live", "/v2/models")
_JSON_LENGTH = b"inference-header-content-length"
WORTH_A_THREAD = 16384  # bytes of a request from which reading it would keep the others waiting
_OF_FILES = (b"b64", b"BYTES", b"\\")  # without them no JSON holds picture files, where 1 kB may be 25 million pixels
_READERS = ThreadPoolExecutor(2, thread_name_prefix="reader")  # few: a request of that size takes 700 MB meanwhile
_LARGEST_HEADERS = 65536  # bytes
_LINGER_SECONDS, _LINGER_BYTES = 1.0, 2**20  # how long a client that was refused may go on writing
_BUSY = "The server has too much to do: ask again in a moment."

Receive = Callable[[], Awaitable[dict]]
Send = Callable[[dict], Awaitable[None]]


class Door:
    """The ASGI application that answers.

    Args:
        live: The models.
        telemetry: Is told of each request.
        limits: How much of a client is put up with.
        key: What clients have to show, as `Authorization: Bearer …` or `X-API-Key: …`; nothing if None.
    """

    def __init__(self, live: Live, telemetry: Telemetry, *, limits: Limits, key: str | None = None) -> None:
        self._live, self._telemetry, self._limits, self._key = live, telemetry, limits, key

    async def __call__(self, scope: dict, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # uvicorn opens no web socket and has no life-span events for us
            return
        start, facts = time.perf_counter(), {}
        headers = dict(scope["headers"])
        if identity := headers.get(b"x-request-id"):
            facts["id"] = identity.decode("latin-1")
        route, status = "other", 500
        try:
            _check_http(scope, headers)
            if not scope["path"].startswith("/v2/health/"):  # who asks whether it lives has no key
                check_key(headers, self._key)
            route, answer = self._route(scope, headers)
            status, body, more = await answer(scope, receive, headers, facts)
            await _respond(send, status, body, more, identity)
        except Refused as refused:
            status = refused.status
            if status in (401, 404, 405, 413) and "whole" not in scope:
                await self._discard(receive, headers)
            facts["reason"] = str(refused)[:200]
            await _refuse(send, refused, identity)
        except _Gone:
            status = 499  # as nginx calls it: the client left before its answer
        except Exception as error:
            self._telemetry.say("failed", route=route, reason=f"{type(error).__name__}: {error}"[:500])
            await _refuse(send, Refused(500, "The server failed at this request; its log says why."), identity)
        finally:
            self._telemetry.answered(route, status, time.perf_counter() - start, **facts)

    def _route(self, scope: dict, headers: dict) -> tuple[str, Callable]:
        path, method = scope["path"], scope["method"]
        match = _MODEL.fullmatch(path)
        if match is None:
            fixed = dict.fromkeys(_OF_SERVER, self._server) | {
                "/metrics": self._metrics, "/v2/health/ready": self._ready, "/openapi.json": self._openapi,
            }  # fmt: skip
            if path not in fixed:
                raise Refused(404, "There is nothing at this address: predictions are at /v1/models/<name>:predict and "
                                   "/v2/models/<name>/infer.")  # fmt: skip
            route, answer = path.strip("/").replace("/", " ") or "live", fixed[path]
        else:
            route, answer = {
                ":predict": ("predict", self._predict), "/infer": ("infer", self._infer),
                "/metadata": ("metadata", self._v1_metadata), "/ready": ("ready", self._model_ready),
                "": ("model", self._v1_model if match["v1"] else self._v2_model),
            }[match["do1"] or match["do2"] or ""]  # fmt: skip
            scope["model"] = match["v1"] or match["v2"], match["of1"] or match["of2"]
        wanted = "POST" if route in ("predict", "infer") else "GET"
        if method != wanted and not (method == "HEAD" and wanted == "GET"):
            allowed = b"POST" if wanted == "POST" else b"GET, HEAD"
            raise Refused(
                405, f"This address is asked with {wanted}; received {method[:20]}.", headers=[(b"allow", allowed)]
            )
        return route, answer

    # ── predictions ─────────────────────────────────────────────────────────────────────────────

    async def _predict(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        batcher = await self._batcher(scope, facts)
        _check_type(headers, b"application/json", b"application/x-www-form-urlencoded")  # what curl -d says of its body
        body = await self._body(scope, receive, headers)
        found = expected(batcher.classifier, self._limits)
        images = await self._read(body, body, protocols.predict_request, body, found)
        answers = await answered(batcher, images, facts, self._limits, self._telemetry)
        return 200, protocols.predict_response(answers, batcher.classifier.version), []

    async def _infer(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        batcher = await self._batcher(scope, facts)
        length = headers.get(_JSON_LENGTH)
        binary = (b"application/octet-stream",) if length is not None else ()
        _check_type(headers, b"application/json", *binary)
        if length is not None and not re.fullmatch(rb"\d{1,12}", length):
            raise Refused(400, "Inference-Header-Content-Length is the number of bytes of the JSON; received another.")
        body = await self._body(scope, receive, headers)
        length = None if length is None else int(length)
        found = expected(batcher.classifier, self._limits)
        request = await self._read(body, body[:length], protocols.infer_request, body, length, found)
        if request.id:
            facts.setdefault("id", request.id)
        answers = await answered(batcher, request.images, facts, self._limits, self._telemetry)
        model = batcher.classifier
        content, json_length = protocols.infer_response(answers, model.name, model.version, request)
        if json_length is None:
            return 200, content, []
        return 200, content, [(b"content-type", b"application/octet-stream"), (_JSON_LENGTH, b"%d" % json_length)]

    async def _batcher(self, scope: dict, facts: dict) -> Batcher:
        name, version = scope["model"]
        batcher = await self._live.get(name, version)
        facts |= {"model": name, "version": batcher.classifier.version}
        return batcher

    async def _read(self, body: bytes, json: bytes, read: Callable, *given: object) -> object:
        if len(body) < WORTH_A_THREAD and not any(sign in json for sign in _OF_FILES):
            return read(*given)
        return await read_apart(self._limits.answer_seconds, read, *given)

    async def _body(self, scope: dict, receive: Receive, headers: dict) -> bytes:
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self._limits.body:
            raise self._too_large(declared.decode("latin-1")[:20])
        body, more = bytearray(), True
        try:
            async with asyncio.timeout(self._limits.receive_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self._limits.body:
                        raise self._too_large("more")
        except TimeoutError:
            seconds = self._limits.receive_seconds
            raise Refused(408, f"The request had not arrived after {seconds:g} seconds: send it again.") from None
        scope["whole"] = True
        return bytes(body)

    def _too_large(self, found: str) -> Refused:
        mend = "send fewer pictures at a time, or smaller ones, or start `serve --limit body BYTES` with more"
        return Refused(413, f"A request has at most {self._limits.body} bytes; received {found}: {mend}.")

    async def _discard(self, receive: Receive, headers: dict) -> None:
        """Reads what a refused client is sending: one that is still writing would not see the answer."""
        if headers.get(b"expect", b"").lower() == b"100-continue":
            return  # it has not begun
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.receive_seconds):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass

    # ── about models and the server ─────────────────────────────────────────────────────────────

    async def _server(self, scope: dict, *_: object) -> tuple:
        models = {"models": self._live.names()}
        told = {"/": {"status": "alive"}, "/v1/models": models, "/v2": protocols.SERVER,
                "/v2/health/live": {"live": True}, "/v2/models": models}  # fmt: skip
        return 200, orjson.dumps(told[scope["path"]]), []

    async def _metrics(self, *_: object) -> tuple:
        page, kind = self._telemetry.page()
        return 200, page, [(b"content-type", kind.encode())]

    async def _openapi(self, *_: object) -> tuple:
        models = [self._live.find(name).classifier for name in self._live.names()]
        return 200, orjson.dumps(openapi.describe(models, self._limits, key=self._key is not None)), []

    async def _ready(self, *_: object) -> tuple:
        ready = bool(self._live.names())
        return (200 if ready else 503), orjson.dumps({"ready": ready}), []

    async def _model_ready(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        batcher = await self._batcher(scope, facts)
        return 200, orjson.dumps({"name": batcher.classifier.name, "ready": True}), []

    async def _v2_model(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        return 200, orjson.dumps(metadata((await self._batcher(scope, facts)).classifier)), []

    async def _v1_model(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        model = (await self._batcher(scope, facts)).classifier
        status = {
            "version": str(model.version),
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
        return 200, orjson.dumps({"name": model.name, "ready": True, "model_version_status": [status]}), []

    async def _v1_metadata(self, scope: dict, receive: Receive, headers: dict, facts: dict) -> tuple:
        model = (await self._batcher(scope, facts)).classifier
        spec = {"name": model.name, "signature_name": "serving_default", "version": str(model.version)}
        described = metadata(model)
        return 200, orjson.dumps({"model_spec": spec, "metadata": described, "classes": model.classes}), []


async def read_apart(seconds: float, read: Callable, *given: object) -> object:
    """Reads a request in one of the few threads for that; refuses, 503, if none was free in time."""
    try:
        async with asyncio.timeout(seconds):
            return await asyncio.get_running_loop().run_in_executor(_READERS, read, *given)
    except TimeoutError:
        raise Refused(503, _BUSY) from None


async def answered(
    batcher: Batcher, images: object, facts: dict, limits: Limits, telemetry: Telemetry
) -> protocols.Answers:  # fmt: skip
    """Returns a model's answers and counts them, or refuses: 503 if too many wait, 504 if it takes too long."""
    facts["pictures"], seconds = len(images), limits.answer_seconds
    try:
        async with asyncio.timeout(seconds):
            answers = await batcher.answer(images)
    except Full:
        raise Refused(503, _BUSY) from None
    except TimeoutError:
        said = f"There was no answer within {seconds:g} seconds: ask again, or for fewer pictures."
        raise Refused(504, said) from None
    telemetry.classified(batcher.classifier, answers)
    return answers


def metadata(model: "classifier.Classifier") -> dict:  # noqa: F821
    """Returns what V2 says of a model; `classes` is ours, in the order of the probabilities."""
    pictures = {"name": INPUT, "datatype": "UINT8", "shape": [-1, *model.predictor.input_shape]}
    outputs = [{"name": "label", "datatype": "BYTES", "shape": [-1]},
               {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(model.classes)]}]  # fmt: skip
    return {"name": model.name, "versions": [str(model.version)], "platform": model.predictor.runtime,
            "inputs": [pictures], "outputs": outputs, "classes": model.classes}  # fmt: skip


def check_key(headers: dict[bytes, bytes], key: str | None) -> None:
    """Raises Refused, 401, unless the headers (in lower case) show the key."""
    if key is None:
        return
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    shown = headers.get(b"x-api-key") or (token.strip() if scheme.lower() == b"bearer" else b"")
    if not hmac.compare_digest(shown, key.encode()):
        raise Refused(401, "This server wants its key: send it as `Authorization: Bearer <key>` or `X-API-Key: <key>`.")


class Patient(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a limit to how long, and how large, all but the body of a request may be.

    What uvicorn itself refuses, as no HTTP or for too many connections, gets its sentence here, too, and is counted.
    A client that offers another protocol (`Upgrade: h2c`) is answered in this one.
    """

    seconds = Limits.receive_seconds
    telemetry: Telemetry | None = None
    _deadline: asyncio.TimerHandle | None = None
    _unread = 0  # bytes since a request, or the last piece of its body, began
    _ended = False  # the last answer is written

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._await_headers()

    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        if self._ended:
            if self._unread > _LINGER_BYTES:
                self.transport.close()
            return
        while data and not self._ended:
            self._fed, self._again = data, b""
            super().data_received(data)
            data = self._again
        if self._unread > _LARGEST_HEADERS and not self._ended:  # of headers, or behind the body
            self.send_400_response("")
        waiting = self._deadline is not None or self.timeout_keep_alive_task is not None
        if not waiting and self.cycle is not None and self.cycle.response_complete:  # the rest of a body nobody reads
            self._await_headers()

    def _should_upgrade(self) -> bool:
        return self.parser.get_method() != b"CONNECT"

    def handle_websocket_upgrade(self) -> None:
        """Reads a request again without its offer: the parser has taken that for the end of HTTP."""
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self._again = b"\r\n".join([*lines, b"", self._fed[sys.exc_info()[1].args[0] :]])

    def send_400_response(self, msg: str) -> None:
        sentence = f"A request is HTTP/1.1 with at most {_LARGEST_HEADERS} bytes of headers; what came in is none."
        self._end(400, sentence)

    def on_headers_complete(self) -> None:
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > _LARGEST_HEADERS:
            raise ValueError("too large")  # they came in one piece; uvicorn then sends the response above
        self._stop_waiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._unread = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete:  # before its body had come: now it is idle
            self._stop_waiting()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._unread = 0

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._deadline is None:  # the next request of a connection that was idle
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        self._unread = 0
        self._deadline = self.loop.call_later(self.seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        self._end(408, "The request had not arrived in time: send it again.")

    def _start_asgi_task(self, cycle: object, app: Callable) -> None:
        if app is not self.app:
            app = _busy
            self._count(503, _BUSY)
        super()._start_asgi_task(cycle, app)

    def _count(self, status: int, reason: str) -> None:
        if self.telemetry is not None:
            self.telemetry.answered("other", status, 0.0, reason=reason)

    def _end(self, status: int, sentence: str) -> None:
        """Writes the last answer; a socket closed under a client that is still writing would take it back."""
        if self._ended or self.transport.is_closing():
            return
        self._ended, self._unread = True, 0
        self._stop_waiting()
        self._unset_keepalive_if_required()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # what it would still answer has no one to read it
            self.cycle.message_event.set()
        body = orjson.dumps({"error": sentence})
        self.transport.write(
            b"%scontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s"
            % (STATUS_LINE[status], len(body), body)
        )
        self._count(status, sentence)
        self.transport.write_eof()
        self._deadline = self.loop.call_later(_LINGER_SECONDS, self.transport.close)


class _Gone(Exception):
    """The client has left."""


def _check_http(scope: dict, headers: dict) -> None:
    if scope["http_version"] not in ("1.0", "1.1"):
        raise Refused(400, f"The server speaks HTTP/1.1; received HTTP/{scope['http_version']}.")
    if b"host" not in headers and scope["http_version"] == "1.1":
        raise Refused(400, "A request of HTTP/1.1 names its host; received none.")


def _check_type(headers: dict, *allowed: bytes) -> None:
    kind = headers.get(b"content-type", b"application/json").partition(b";")[0].strip().lower()
    if kind not in allowed:
        wanted = " or ".join(one.decode() for one in allowed)
        raise Refused(415, f"The body is {wanted}; received {kind.decode('ascii', 'replace')[:60]}.")


async def _busy(scope: dict, receive: Receive, send: Send) -> None:
    await _refuse(send, Refused(503, _BUSY, headers=[(b"connection", b"close")]), None)


async def _respond(send: Send, status: int, body: bytes, more: list, identity: bytes | None) -> None:
    headers = more if any(name == b"content-type" for name, _ in more) else [
        (b"content-type", b"application/json"), *more
    ]  # fmt: skip
    headers = [*headers, (b"content-length", b"%d" % len(body))]
    if identity:
        headers.append((b"x-request-id", identity))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(send: Send, refused: Refused, identity: bytes | None) -> None:
    more = [*refused.headers, *([(b"connection", b"close")] if refused.status in (408, 413) else [])]
    more += [(b"retry-after", b"1")] if refused.status == 503 else []
    more += [(b"www-authenticate", b"Bearer")] if refused.status == 401 else []
    with contextlib.suppress(RuntimeError):  # the answer had begun, or the client is gone
        await _respond(send, refused.status, orjson.dumps({"error": str(refused)}), more, identity)
