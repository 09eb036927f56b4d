"""Many clients at a time on one server: each sends its next request when the last one is answered."""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple
from urllib.parse import urlsplit

import pandas as pd
import uvloop


class Message(NamedTuple):
    """An HTTP request as it goes over the wire, and what comes back."""

    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


def run(
    url: str,
    message: Callable[[int], Message],
    *,
    clients: int,
    seconds: float,
    check: Callable[[int, bytes], bool] | None = None,
    patience: float = 0.0,
    warm_up: int = 0,
    at: Mapping[float, Callable[[], object]] | None = None,
) -> pd.DataFrame:
    """Keeps a server busy with a number of clients, each on a connection of its own.

    Args:
        url: Of the server, such as `http://127.0.0.1:8080`.
        message: Gives the n-th request.
        clients: Requests that are under way at any moment.
        seconds: For how long new ones are sent.
        check: Told n and the body of an answer of status 200, says whether it is the right one.
        patience: For how many seconds a request that broke off is sent again.
        warm_up: Requests before that, which do not count.
        at: What else is to happen, by the second from the beginning: each is called in a thread of its own, and what
            it raises is raised at the end.

    Returns:
        One row for each request: `number`, `start` (seconds from the first one), `ms` (from sending, tries that
        broke off included), `status` (0 if the connection broke off and patience was over), `tries`, `right`
        (status 200, and `check`, if there is one, agrees).
    """
    address = urlsplit(url)
    host, port = address.hostname, address.port
    rows: list[tuple] = []

    async def everything() -> None:
        numbers = iter(range(2**62))
        for _ in range(warm_up):
            await _ask(connections[0], message(next(numbers)), 0.0)
        begun = time.perf_counter()

        async def client(connection: "_Connection") -> None:
            while (start := time.perf_counter()) < begun + seconds:
                number = next(numbers)
                status, body, tries = await _ask(connection, message(number), patience)
                ms = 1e3 * (time.perf_counter() - start)
                right = status == 200 and (check is None or check(number, body))
                rows.append((number, start - begun, ms, status, tries, right))

        async def happen(second: float, what: Callable[[], object]) -> None:
            await asyncio.sleep(second - (time.perf_counter() - begun))
            await asyncio.to_thread(what)

        await asyncio.gather(*map(client, connections), *(happen(*event) for event in (at or {}).items()))

    connections = [_Connection(host, port) for _ in range(clients)]
    # In a thread of its own: a notebook has a running loop already.
    ThreadPoolExecutor(1).submit(lambda: uvloop.run(everything())).result()
    return pd.DataFrame(rows, columns=["number", "start", "ms", "status", "tries", "right"])


def summary(requests: pd.DataFrame) -> dict[str, float]:
    """Returns what a load test found: requests a second, percentiles of latency, failures.

    Returns:
        `requests`, `per_second`, `p50_ms`, `p95_ms`, `p99_ms`, `failed` (status not 200), `wrong` (answered, and not
        rightly).
    """
    duration = (requests["start"] + requests["ms"] / 1e3).max()
    p50, p95, p99 = requests["ms"].quantile([0.5, 0.95, 0.99])
    ok = requests["status"] == 200
    return {
        "requests": len(requests), "per_second": len(requests) / duration, "p50_ms": p50, "p95_ms": p95, "p99_ms": p99,
        "failed": int((~ok).sum()), "wrong": int((ok & ~requests["right"]).sum()),
    }  # fmt: skip


def json_message(path: str, content: object) -> Message:
    """Returns a request with a JSON body."""
    return Message(path, json.dumps(content).encode())


async def _ask(connection: "_Connection", message: Message, patience: float) -> tuple[int, bytes, int]:
    end, tries = time.perf_counter() + patience, 0
    while True:
        tries += 1
        try:
            return *await connection.ask(message), tries
        except OSError:
            if time.perf_counter() >= end:
                return 0, b"", tries
            await asyncio.sleep(0.05)


class _Connection(asyncio.Protocol):
    """A kept-alive HTTP/1.1 connection, opened when it is needed: no more than a load test wants."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future | None = None
        self._received = b""

    async def ask(self, message: Message) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port)
        self._received, self._answer = b"", loop.create_future()
        headers = (("host", self._host), ("content-length", len(message.body)), *message.headers)
        lines = [f"POST {message.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
        self._transport.write("\r\n".join(lines).encode() + message.body)
        return await self._answer

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head) if found else None
        if length is not None and len(body) >= int(length[1]) and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the server closed the connection"))
