"""One serving process: HTTP, and gRPC with KServe's messages. Started by `serving`.

It ends when whoever started it does: its standard input is a pipe from there, and the pipe's end is the end.
"""

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
import uvloop

from helpers import rpc
from helpers.live import Live
from helpers.protocols import Limits
from helpers.rest import Door, Patient
from helpers.serving import at_end_of_input
from helpers.telemetry import Telemetry

_DRAIN_SECONDS = 10


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
    guard = {"limits": limits, "key": settings["key"]}
    Patient.seconds, Patient.telemetry = limits.receive_seconds, telemetry
    config = uvicorn.Config(
        Door(live, telemetry, **guard), http=Patient, ws="none", lifespan="off", log_config=None,
        access_log=False, server_header=False, limit_concurrency=limits.connections, timeout_keep_alive=65,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )  # fmt: skip
    web = _Server(config)
    calls = rpc.server(rpc.Service(live, telemetry, **guard), limits)
    calls.add_insecure_port(settings["grpc"])
    await calls.start()
    watching = asyncio.create_task(live.watch())
    threading.Thread(target=at_end_of_input, args=(lambda: setattr(web, "should_exit", True),), daemon=True).start()
    gc.collect()
    gc.freeze()
    telemetry.say("serving", models=live.names(), pid=os.getpid())
    print("ready\n", end="", flush=True)  # in one piece, also where PYTHONUNBUFFERED writes each argument by itself
    await web.serve(sockets=[listening])
    watching.cancel()
    await calls.stop(grace=_DRAIN_SECONDS)
    await live.drain()
    telemetry.say("stopped", pid=os.getpid())


def main() -> None:
    """Runs one process; its settings are the first line of standard input."""
    settings = json.loads(sys.stdin.buffer.readline())
    logging.basicConfig(level=logging.ERROR, format='{"level": "%(levelname)s", "message": "%(name)s"}')
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # it repeats what clients send
    with socket.socket(fileno=settings["descriptor"]) as listening:
        for number in (signal.SIGINT, signal.SIGTERM):  # sent to all by a terminal or a service manager
            signal.signal(number, signal.SIG_IGN)
        uvloop.run(serve(settings, listening))


if __name__ == "__main__":
    main()
