"""One serving process: KServe's application and gRPC service, with our door in front. Started by `serving`.

It ends when whoever started it does: its standard input is a pipe from there, and the pipe's end is the end.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from helpers import rpc
from helpers.live import Live
from helpers.protocols import Limits
from helpers.rest import Door, Patient
from helpers.telemetry import Telemetry

_DRAIN_SECONDS = 10


def kserve_application() -> tuple[object, object]:
    """Returns KServe's web application, without its predictions of its own models, and its data plane."""
    sys.argv[1:], arguments = [], sys.argv[1:]  # importing KServe's server reads the command line
    try:
        from kserve import ModelRepository
        from kserve.model_server import app
        from kserve.protocol.dataplane import DataPlane
        from kserve.protocol.rest.server import RESTServer
    finally:
        sys.argv[1:] = arguments
    plane = DataPlane(model_registry=ModelRepository())
    RESTServer("kserve.model_server:app", plane, None, 0).create_application()
    return app, plane


class _Names:
    """Tells KServe's data plane which models there are, at the moment when it asks."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def get_models(self) -> dict[str, None]:
        return dict.fromkeys(self._live.names())


class _Server(uvicorn.Server):
    """uvicorn's server, which does not listen to signals: the parent decides when it ends."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: dict, listening: socket.socket) -> None:
    """Answers until the end of standard input says stop, and then all that was asked before it.

    Args:
        settings: `registry`, `grpc` (address to listen on), `key`, `threads`, `largest`, `limits`.
        listening: The HTTP socket; all processes of a server accept from it.

    Raises:
        SystemExit: If there is nothing to answer with; the log says why.
    """
    limits, telemetry = Limits(**settings["limits"]), Telemetry()
    live = Live(Path(settings["registry"]), telemetry, largest=settings["largest"], threads=settings["threads"])
    await live.refresh()
    if not live.names():
        telemetry.say("ended", reason="no promoted version could be loaded", pid=os.getpid())
        sys.exit(1)
    app, plane = kserve_application()
    plane._model_registry = _Names(live)
    guard = {"limits": limits, "key": settings["key"]}
    Patient.seconds, Patient.telemetry = limits.receive_seconds, telemetry
    config = uvicorn.Config(
        Door(app, live, telemetry, **guard), http=Patient, ws="none", lifespan="off", loop="uvloop", log_config=None,
        access_log=False, server_header=False, limit_concurrency=limits.connections, timeout_keep_alive=65,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )  # fmt: skip
    web = _Server(config)
    calls = rpc.server(rpc.Service(plane, live, telemetry, **guard), limits)
    calls.add_insecure_port(settings["grpc"])
    await calls.start()
    watching = asyncio.create_task(live.watch())
    threading.Thread(target=_follow_parent, args=(web,), daemon=True).start()
    gc.collect()
    gc.freeze()
    telemetry.say("serving", models=live.names(), pid=os.getpid())
    print("ready\n", end="", flush=True)  # in one piece, also where PYTHONUNBUFFERED writes each argument by itself
    await web.serve(sockets=[listening])
    watching.cancel()
    await calls.stop(grace=_DRAIN_SECONDS)
    await live.drain()
    telemetry.say("stopped", pid=os.getpid())


def _follow_parent(web: uvicorn.Server) -> None:
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 1):
            pass
    web.should_exit = True


def main() -> None:
    """Runs one process; its settings are the first line of standard input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--descriptor", type=int, required=True)
    parsed = parser.parse_args()
    settings = json.loads(sys.stdin.buffer.readline())
    logging.basicConfig(level=logging.ERROR, format='{"level": "%(levelname)s", "message": "%(name)s"}')
    for name in ("kserve", "kserve.trace", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they repeat what clients send
    with socket.socket(fileno=parsed.descriptor) as listening:
        for number in (signal.SIGINT, signal.SIGTERM):  # sent to all by a terminal or a service manager
            signal.signal(number, signal.SIG_IGN)
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(serve(settings, listening))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
