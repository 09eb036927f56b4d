"""The load generator against a server of sockets that does what each test wants."""

import asyncio
import json
import threading
import time
from contextlib import contextmanager

import pandas as pd
import pytest

from helpers import loadtest


@contextmanager
def serving(answer):
    """Runs a server in a thread; `answer` gets the body of a request and returns bytes, or None to hang up."""
    loop, found, stop = asyncio.new_event_loop(), {}, None

    async def client(reader, writer):
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            told = answer(head, await reader.readexactly(length))
            if told is None:
                break
            writer.write(told)
            await writer.drain()
        writer.close()

    async def quietly(reader, writer):
        try:
            await client(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run():
        nonlocal stop
        stop = asyncio.Event()
        server = await asyncio.start_server(quietly, "127.0.0.1", 0)
        found["url"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await stop.wait()
        server.close()

    started = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
    thread.start()
    started.wait(10)
    try:
        yield found["url"]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def ok(body, status=200):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def number(n):
    return loadtest.json_message("/ask", n)


def test_each_answer_is_given_to_whoever_asked_for_it():
    with serving(lambda head, body: ok(b"%d" % (2 * int(body)))) as url:
        found = loadtest.run(url, number, clients=7, seconds=0.3, check=lambda n, body: int(body) == 2 * n)
    assert len(found) > 50
    assert found["right"].all()
    assert sorted(found["number"]) == list(range(len(found)))
    assert (found["tries"] == 1).all()


def test_a_wrong_answer_and_a_refusal_are_counted_apart():
    def answer(head, body):
        return ok(b"no", 503) if int(body) % 10 == 3 else ok(b"0" if int(body) % 10 == 4 else body)

    with serving(answer) as url:
        found = loadtest.run(url, number, clients=2, seconds=0.3, check=lambda n, body: int(body) == n)
    told = loadtest.summary(found)
    last = found["number"] % 10
    assert told["failed"] == (last == 3).sum() > 0
    assert told["wrong"] == (last == 4).sum() > 0
    assert found.loc[last == 4, "status"].eq(200).all()


def test_a_request_that_breaks_off_is_sent_again_for_as_long_as_patience_lasts():
    seen = set()

    def answer(head, body):
        n = int(body)
        if n % 5 == 0 and n not in seen:
            seen.add(n)
            return None
        return ok(body)

    with serving(answer) as url:
        patient = loadtest.run(url, number, clients=3, seconds=0.3, patience=5, check=lambda n, body: int(body) == n)
        seen.clear()
        hasty = loadtest.run(url, number, clients=3, seconds=0.3, check=lambda n, body: int(body) == n)
    assert patient["right"].all()
    assert patient.loc[patient["number"] % 5 == 0, "tries"].eq(2).all()
    assert hasty.loc[hasty["number"] % 5 == 0, "status"].eq(0).all()
    assert not hasty.loc[hasty["number"] % 5 == 0, "right"].any()


def test_a_server_that_is_not_there_is_a_failed_request_and_no_exception():
    found = loadtest.run("http://127.0.0.1:9", number, clients=1, seconds=0.05)
    assert (found["status"] == 0).all()


def test_warm_up_is_not_counted_and_clients_do_not_wait_for_each_other():
    with serving(lambda head, body: ok(body)) as url:
        found = loadtest.run(url, number, clients=4, seconds=0.2, warm_up=10)
    assert found["number"].min() == 10


def test_events_happen_at_their_second_and_their_error_is_raised():
    moments = []
    with serving(lambda head, body: ok(body)) as url:
        begun = time.perf_counter()
        loadtest.run(url, number, clients=1, seconds=0.4, at={0.2: lambda: moments.append(time.perf_counter() - begun)})
        assert 0.2 <= moments[0] < 1.5
        with pytest.raises(ZeroDivisionError):
            loadtest.run(url, number, clients=1, seconds=0.2, at={0.1: lambda: 1 / 0})


def test_a_request_goes_over_the_wire_as_it_is():
    heads = []

    def answer(head, body):
        heads.append((head.decode(), json.loads(body)))
        return ok(b"")

    message = loadtest.Message("/v2/x", b"[1]", (("content-type", "application/json"), ("x-request-id", "7")))
    with serving(answer) as url:
        loadtest.run(url, lambda n: message, clients=1, seconds=0.01)
    head, body = heads[0]
    assert head.startswith("POST /v2/x HTTP/1.1\r\n")
    assert "x-request-id: 7\r\n" in head
    assert "content-length: 3\r\n" in head
    assert body == [1]


def test_a_summary_by_hand():
    requests = pd.DataFrame({"start": [0.0, 1.0, 1.5, 3.9], "ms": [10, 20, 30, 100], "status": [200, 200, 500, 200],
                             "right": [True, False, False, True]})  # fmt: skip
    told = loadtest.summary(requests)
    assert told["requests"] == 4
    assert told["per_second"] == pytest.approx(1.0)
    assert told["p50_ms"] == 25
    assert (told["failed"], told["wrong"]) == (1, 1)
