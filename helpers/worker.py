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


async def serve(settings: dict, listening: socket.socket) -> None:
    """Answers until a signal or the end of standard input says stop, and then all that was asked before it.

    Args:
        settings: `registry`, `host`, `grpc_port`, `key`, `threads`, `largest`, `limits`.
        listening: The HTTP socket; all processes of a server accept from it.
    """
    limits, telemetry = Limits(**settings["limits"]), Telemetry()
    live = Live(Path(settings["registry"]), telemetry, largest=settings["largest"], threads=settings["threads"])
    await live.refresh()
    app, plane = kserve_application()
    plane._model_registry = _Names(live)
    guard = {"limits": limits, "key": settings["key"]}
    Patient.seconds = limits.receive_seconds
    config = uvicorn.Config(
        Door(app, live, telemetry, **guard), http=Patient, ws="none", lifespan="off", loop="uvloop", log_config=None,
        access_log=False, server_header=False, limit_concurrency=limits.connections, timeout_keep_alive=65,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )  # fmt: skip
    web = uvicorn.Server(config)
    calls = rpc.server(rpc.Service(plane, live, telemetry, **guard), limits)
    calls.add_insecure_port(f"{grpc_host(settings['host'])}:{settings['grpc_port']}")
    await calls.start()
    watching = asyncio.create_task(live.watch())
    threading.Thread(target=_follow_parent, args=(web,), daemon=True).start()
    gc.collect()
    gc.freeze()
    telemetry.say("serving", models=live.names(), pid=os.getpid())
    print("ready", flush=True)
    await web.serve(sockets=[listening])
    watching.cancel()
    await calls.stop(grace=_DRAIN_SECONDS)
    await live.drain()
    telemetry.say("stopped", pid=os.getpid())


def grpc_host(host: str) -> str:
    """Returns a host as gRPC addresses write it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def _follow_parent(web: uvicorn.Server) -> None:
    with contextlib.suppress(OSError, ValueError):
        while sys.stdin.buffer.read(1):
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all: the parent decides
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(serve(settings, listening))


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


if __name__ == "__main__":
    main()
