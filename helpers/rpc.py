"""The gRPC side of a serving process: KServe's service of the Open Inference Protocol, with versions and batches."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from kserve.protocol.grpc import grpc_predict_v2_pb2 as messages
from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

from helpers import protocols
from helpers.batching import Batcher
from helpers.live import Live, expected
from helpers.protocols import Limits, Refused, Tensor
from helpers.rest import WORTH_A_THREAD, answered, check_key, metadata, read_apart
from helpers.telemetry import Telemetry

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip


class Service(services.GRPCInferenceServiceServicer):
    """Answers the calls of the protocol.

    Args:
        live: The models.
        telemetry: Is told of each call.
        limits: How much of a client is put up with.
        key: What clients have to show in `authorization` or `x-api-key`; nothing if None.
    """

    def __init__(self, live: Live, telemetry: Telemetry, *, limits: Limits, key: str | None) -> None:
        self._live, self._telemetry, self._limits, self._key = live, telemetry, limits, key

    async def ServerLive(self, request: messages.ServerLiveRequest, context: grpc.aio.ServicerContext) -> object:
        return messages.ServerLiveResponse(live=True)

    async def ServerMetadata(
        self, request: messages.ServerMetadataRequest, context: grpc.aio.ServicerContext
    ) -> object:
        async def work(facts: dict) -> object:
            return messages.ServerMetadataResponse(**protocols.SERVER)

        return await self._answered("v2", context, work)

    async def ServerReady(self, request: messages.ServerReadyRequest, context: grpc.aio.ServicerContext) -> object:
        return messages.ServerReadyResponse(ready=bool(self._live.names()))

    async def ModelReady(self, request: messages.ModelReadyRequest, context: grpc.aio.ServicerContext) -> object:
        async def work(facts: dict) -> object:
            await self._batcher(request.name, request.version, facts)
            return messages.ModelReadyResponse(ready=True)

        return await self._answered("ready", context, work)

    async def ModelMetadata(self, request: messages.ModelMetadataRequest, context: grpc.aio.ServicerContext) -> object:
        async def work(facts: dict) -> object:
            found = metadata((await self._batcher(request.name, request.version, facts)).classifier)
            del found["classes"]  # the protocol's message has no place for them
            return messages.ModelMetadataResponse(**found)

        return await self._answered("model", context, work)

    async def ModelInfer(self, request: messages.ModelInferRequest, context: grpc.aio.ServicerContext) -> object:
        async def work(facts: dict) -> object:
            if request.id:
                facts["id"] = request.id
            batcher = await self._batcher(request.model_name, request.model_version, facts)
            found = expected(batcher.classifier, self._limits)
            if request.ByteSize() < WORTH_A_THREAD and all(given.datatype != "BYTES" for given in request.inputs):
                images = _pictures(request, found)
            else:
                images = await read_apart(self._limits.answer_seconds, _pictures, request, found)
            outputs = protocols.check_outputs([output.name for output in request.outputs])
            answers = await answered(batcher, images, facts, self._limits, self._telemetry)
            return _response(request, batcher, answers, outputs)

        return await self._answered("infer", context, work)

    async def RepositoryModelLoad(self, request: object, context: grpc.aio.ServicerContext) -> object:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Versions are promoted in the registry, not by clients.")

    RepositoryModelUnload = RepositoryModelLoad

    async def _batcher(self, name: str, version: str, facts: dict) -> Batcher:
        batcher = await self._live.get(name, version or None)
        facts |= {"model": name, "version": batcher.classifier.version}
        return batcher

    async def _answered(
        self, route: str, context: grpc.aio.ServicerContext, work: Callable[[dict], Awaitable[object]]
    ) -> object:
        start, facts, status = time.perf_counter(), {}, 500
        try:
            check_key({name.encode(): _bytes(value) for name, value in context.invocation_metadata()}, self._key)
            response = await work(facts)
            status = 200
            return response
        except Refused as refused:
            status = refused.status
            facts["reason"] = str(refused)[:200]
            await context.abort(_CODES[status], str(refused))
        except asyncio.CancelledError:
            status = 499  # the client left, or its own deadline has passed
            raise
        except Exception as error:
            if status != 200 and not isinstance(error, grpc.aio.AbortError):
                self._telemetry.say("failed", route=f"grpc {route}", reason=f"{type(error).__name__}: {error}"[:500])
                with contextlib.suppress(grpc.aio.AbortError):
                    await context.abort(grpc.StatusCode.INTERNAL, "The server failed at this call; its log says why.")
            raise
        finally:
            self._telemetry.answered(f"grpc {route}", status, time.perf_counter() - start, **facts)


class _Readable(grpc.aio.ServerInterceptor):
    """Refuses bytes that are no message of the protocol: gRPC itself would call them a fault of the server."""

    async def intercept_service(self, continuation: Callable, details: grpc.HandlerCallDetails) -> object:
        handler = await continuation(details)
        if handler is None:  # no such call
            return None

        def read(content: bytes) -> object:
            try:
                return handler.request_deserializer(content)
            except DecodeError:
                return None

        async def answer(request: object, context: grpc.aio.ServicerContext) -> object:
            if request is None:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, "The call holds no message of the Open Inference Protocol V2."
                )
            return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, read, handler.response_serializer)


def server(service: Service, limits: Limits) -> grpc.aio.Server:
    """Returns a gRPC server with the service, not yet listening."""
    sizes = [("grpc.max_receive_message_length", limits.body), ("grpc.max_send_message_length", limits.body)]
    options = [*sizes, ("grpc.so_reuseport", 1)]
    made = grpc.aio.server(options=options, interceptors=[_Readable()], maximum_concurrent_rpcs=limits.connections)
    services.add_GRPCInferenceServiceServicer_to_server(service, made)
    return made


def _pictures(request: messages.ModelInferRequest, expected: protocols.Expected) -> np.ndarray:
    if len(request.inputs) != 1 or len(request.raw_input_contents) > 1:
        raise Refused(400, f'A call has the one input "{protocols.INPUT}"; received {len(request.inputs)}.')
    (given,) = request.inputs
    if request.raw_input_contents:
        if given.HasField("contents"):
            raise Refused(400, "A tensor is given as contents or as raw contents, not as both.")
        data = request.raw_input_contents[0]
        return protocols.read(Tensor(given.name, given.datatype, tuple(given.shape), data), expected)
    data = list(given.contents.uint_contents)
    if given.datatype == "BYTES":  # files as they are; JSON needs base64, gRPC does not
        data = b"".join(len(file).to_bytes(4, "little") + file for file in given.contents.bytes_contents)
    return protocols.read(Tensor(given.name, given.datatype, tuple(given.shape), data), expected)


def _response(
    request: messages.ModelInferRequest, batcher: Batcher, answers: protocols.Answers, outputs: tuple[str, ...]
) -> messages.ModelInferResponse:
    model = batcher.classifier
    response = messages.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    for name in outputs:
        values = answers.labels if name == "label" else answers.probabilities
        response.outputs.add(name=name, datatype="BYTES" if name == "label" else "FP32", shape=list(values.shape))
        raw = protocols.pack_strings(values) if name == "label" else np.ascontiguousarray(values, "<f4").tobytes()
        response.raw_output_contents.append(raw)
    return response


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
