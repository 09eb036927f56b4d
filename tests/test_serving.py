"""A real server process, asked as clients ask it, and treated as the world treats servers."""

import asyncio
import contextlib
import dataclasses
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests

from helpers import artifacts, classifier, layouts, loadtest, registry, serving
from helpers.protocols import Limits

pytestmark = [pytest.mark.slow, pytest.mark.alone]
CLASSES = ["ankle boot", "bag", "coat"]
INFER, PREDICT = "/v2/models/tiny/infer", "/v1/models/tiny:predict"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (300, 4, 4, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def fill(fill_registry, tmp_path_factory):
    """A function that makes a registry with the model `tiny`: version 1 is live, version 2 answers otherwise."""
    facts = {"classes": CLASSES, "temperature": 1.5}
    return lambda: fill_registry(tmp_path_factory.mktemp("registry"), "tiny", versions=2, **facts)


@pytest.fixture(scope="module")
def answers(fill, images):
    """What the two versions say about each picture, by number."""
    root = fill()
    found = {number: classifier.load(root / "tiny" / str(number)).answer(images) for number in (1, 2)}
    assert (found[1].labels != found[2].labels).mean() > 0.2
    return found


@pytest.fixture(scope="module")
def server(fill, tmp_path_factory):
    with serving.start(fill(), log=tmp_path_factory.mktemp("log") / "server.log") as started:
        yield started


@pytest.fixture
def start(fill, tmp_path):
    """A function that starts a server on a registry of its own, for tests that change or kill something."""
    started = []

    def begin(root=None, **options):
        started.append(serving.start(root or fill(), log=tmp_path / f"{len(started)}.log", **options))
        return started[-1]

    yield begin
    for one in started:
        one.stop()


def tensor(batch, **more):
    return {"inputs": [{"name": "pictures", "shape": list(batch.shape), "datatype": "UINT8",
                        "data": batch.ravel().tolist()}], **more}  # fmt: skip


def post(server, path, content, **more):
    return requests.post(server.url + path, json=content, timeout=20, **more)


def message(images):
    return lambda number: loadtest.json_message(INFER, tensor(images[number % len(images)][None], id=str(number)))


def right(answers, images):
    """A function for `loadtest.run`: is this the answer to that very request, as its version gives it?"""

    def check(number, body):
        told = json.loads(body)
        expected = answers[int(told["model_version"])]
        label, spread = (output["data"] for output in told["outputs"])
        row = number % len(images)
        same = np.allclose(spread, expected.probabilities[row], atol=1e-6)
        return told["id"] == str(number) and label == [expected.labels[row]] and same

    return check


def log_of(server):
    return [json.loads(line) for line in server.log.read_text().splitlines()]


# ── answers ─────────────────────────────────────────────────────────────────────────────────────


def test_every_route_gives_the_answers_of_the_model_in_this_process(server, images, answers):
    expected = answers[1]
    v1 = post(server, PREDICT, {"instances": images.tolist()[:250]}).json()["predictions"]
    columns = post(server, PREDICT, {"inputs": {"pictures": images[:250, :, :, 0].tolist()}}).json()["predictions"]
    v2 = post(server, INFER, tensor(images[:250])).json()["outputs"]
    for rows in (v1, columns):
        assert [row["label"] for row in rows] == expected.labels[:250].tolist()
        np.testing.assert_allclose([row["probabilities"] for row in rows], expected.probabilities[:250], atol=1e-6)
    assert v2[0] == {"name": "label", "datatype": "BYTES", "shape": [250], "data": expected.labels[:250].tolist()}
    np.testing.assert_allclose(np.reshape(v2[1]["data"], (250, 3)), expected.probabilities[:250], atol=1e-6)


def test_the_clients_of_kserve_are_answered_over_rest_and_grpc(server, images, answers):
    from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

    async def ask():
        rest, found = InferenceRESTClient(RESTConfig(protocol="v2", timeout=20)), []
        rpc = InferenceGRPCClient(server.grpc)
        for binary in (True, False):
            given = InferInput("pictures", [200, 4, 4, 1], "UINT8")
            given.set_data_from_numpy(images[:200], binary_data=binary)
            found.append(await rest.infer(server.url, InferRequest("tiny", [given]), model_name="tiny"))
            found.append(await rpc.infer(InferRequest("tiny", [given])))
        states = [await rpc.is_server_live(), await rpc.is_server_ready(), await rpc.is_model_ready("tiny"),
                  await rest.is_server_ready(server.url), await rest.is_model_ready(server.url, "tiny")]  # fmt: skip
        await rpc.close()
        return found, states

    found, states = asyncio.run(ask())
    assert states == [True] * 5
    for one in found:
        labels = [label.decode() if isinstance(label, bytes) else label for label in one.outputs[0].as_numpy()]
        assert labels == answers[1].labels[:200].tolist()
        np.testing.assert_allclose(one.outputs[1].as_numpy(), answers[1].probabilities[:200], atol=1e-6)
        assert one.model_name == "tiny"


# ── what it tells of itself ─────────────────────────────────────────────────────────────────────


def metrics(server):
    page = requests.get(f"{server.url}/metrics", timeout=20).text
    lines = (line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_the_metrics_count_what_was_asked(start, images, answers):
    server = start(workers=2)
    for _ in range(5):  # each on a connection of its own: either worker may take it
        post(server, INFER, tensor(images[:7]))
    post(server, INFER, {"inputs": []})
    found = metrics(server)
    assert found['workbook_requests_total{route="infer",status="200"}'] == 5
    assert found['workbook_requests_total{route="infer",status="400"}'] == 1
    assert found['workbook_request_seconds_count{route="infer"}'] == 6
    assert found['workbook_batch_pictures_sum{model="tiny",version="1"}'] == 35
    assert found['workbook_model_version{model="tiny"}'] == 1
    counted = {label: found.get(f'workbook_predictions_total{{label="{label}",model="tiny",version="1"}}', 0)
               for label in CLASSES}  # fmt: skip
    assert counted == {label: 5.0 * (answers[1].labels[:7] == label).sum() for label in CLASSES}


# ── keys and addresses ──────────────────────────────────────────────────────────────────────────


def test_without_its_key_a_server_answers_neither_over_rest_nor_grpc(start, images):
    import grpc
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    server = start(key="open sesame")
    for headers, status in (({}, 401), ({"X-API-Key": "open sesame"}, 200)):
        assert post(server, INFER, tensor(images[:1]), headers=headers).status_code == status

    async def ask(**headers):
        client = InferenceGRPCClient(server.grpc)
        given = InferInput("pictures", [1, 4, 4, 1], "UINT8")
        given.set_data_from_numpy(images[:1])
        try:
            return await client.infer(InferRequest("tiny", [given]), headers=tuple(headers.items()) or None)
        finally:
            await client.close()

    assert asyncio.run(ask(authorization="Bearer open sesame")).model_name == "tiny"
    with pytest.raises(grpc.RpcError, match="wants its key"):
        asyncio.run(ask())


def serve(*arguments, **environment):
    command = [sys.executable, "-m", "helpers", "serve", *arguments]
    changed = {name: value for name, value in os.environ.items() if name != "WORKBOOK_API_KEY"} | environment
    return subprocess.run(command, capture_output=True, text=True, env=changed, timeout=60)


def test_another_address_needs_a_key(fill):
    done = serve("--registry", str(fill()), "--host", "0.0.0.0")
    assert done.returncode != 0
    assert "0.0.0.0 can be reached from other machines: put a key" in done.stderr


@pytest.fixture
def as_a_command(fill, running):
    """A server as a terminal or a service manager starts it: the leader of its group, with nobody who follows it."""
    # under nohup the tests ignore the one, behind a script's & the other, and so would the server
    answers = {signal.SIGHUP: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    before = {number: signal.signal(number, answer) for number, answer in answers.items()}

    def begin(*arguments, **environment):
        command = [sys.executable, "-m", "helpers", "serve", "--registry", str(fill())]
        command += ["--port", "0", "--grpc-port", "0", *arguments]
        return running(command, env=os.environ | environment, start_new_session=True, text=True,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip

    yield begin
    for number, answer in before.items():
        signal.signal(number, answer)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("send", "moment"), [
    (os.killpg, "once it has workers"), (os.killpg, "once it serves"), (os.kill, "once it serves"),
])  # fmt: skip
def test_a_signal_to_it_or_its_whole_group_ends_it_in_silence_and_nothing_is_left(
    as_a_command, until, number, send, moment
):
    with as_a_command() as process:
        if moment == "once it serves":
            assert process.stdout.readline().startswith("Serving tiny 1 at http://127.0.0.1:")
        workers = until(psutil.Process(process.pid).children, 60)
        send(process.pid, number)
        assert process.wait(30) == 0
        said = process.stdout.read() + process.stderr.read()
    assert "Traceback" not in said
    assert "error" not in said
    assert gone([worker.pid for worker in workers])
    assert not list(Path(serving._MEMORY).glob(f"workbook-metrics-{process.pid}-*"))


def test_what_a_killed_server_left_in_memory_goes_with_the_next_start(as_a_command, start):
    with as_a_command() as process:
        process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()
    assert list(Path(serving._MEMORY).glob(f"workbook-metrics-{process.pid}-*"))
    start()
    assert not list(Path(serving._MEMORY).glob(f"workbook-metrics-{process.pid}-*"))


def test_a_key_that_ends_with_a_line_break_is_the_key_without_it(as_a_command, images):
    with as_a_command(WORKBOOK_API_KEY="sesame\n") as process:
        url = process.stdout.readline().split()[4]
        for headers, status in (({"X-API-Key": "sesame"}, 200), ({}, 401)):
            told = requests.post(url + INFER, json=tensor(images[:1]), headers=headers, timeout=20)
            assert told.status_code == status


def test_all_addresses_of_both_kinds_are_those_of_http_too(as_a_command):
    if not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    with as_a_command("--host", "::", WORKBOOK_API_KEY="sesame") as process:
        port = int(process.stdout.readline().split()[4].rpartition(":")[2])
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port), timeout=10).close()


def test_clients_of_a_server_on_this_machine_ask_it_past_a_proxy(start, images, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "intern.example")
    monkeypatch.setenv("NO_PROXY", "")
    server = start()  # changes the environment, which `monkeypatch` brings back
    assert post(server, INFER, tensor(images[:1])).status_code == 200
    with urllib.request.urlopen(server.url + "/v2/health/ready", timeout=10) as answer:
        assert answer.status == 200
    assert os.environ["no_proxy"] == "intern.example,127.0.0.1,localhost,::1"


def test_a_port_that_is_taken_is_named(fill):
    root = str(fill())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve("--registry", root, "--port", str(port))
        assert f"127.0.0.1 port {port} cannot be listened on" in done.stderr
        done = serve("--registry", root, "--port", "0", "--grpc-port", str(port))
        assert "name another with --grpc-port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_registry_without_a_live_version_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="did not start: No version of a model is promoted"):
        serving.start(tmp_path, log=tmp_path / "log")


# ── changes under load ──────────────────────────────────────────────────────────────────────────


def test_a_new_version_and_the_old_one_again_lose_and_mix_up_no_request(start, fill, images, answers, until):
    root = fill()
    server = start(root)

    def took_over():
        return [line["version"] for line in log_of(server) if line.get("event") == "took over"]

    def change():
        registry.promote("tiny", 2, root=root)
        until(lambda: took_over() == [1, 2])
        time.sleep(0.5)
        registry.rollback("tiny", root=root)

    found = loadtest.run(server.url, message(images), clients=8, seconds=4, check=right(answers, images),
                         at={1.0: change})  # fmt: skip
    until(lambda: took_over() == [1, 2, 1])
    assert len(found) > 500
    assert (found["status"] == 200).all()
    assert found["right"].all()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_replaced_and_every_request_is_answered_in_the_end(start, images, answers, workers):
    server = start(workers=workers)
    victim = server.workers()[0]
    found = loadtest.run(server.url, message(images), clients=8, seconds=4, check=right(answers, images), patience=20,
                         at={1.0: lambda: os.kill(victim, signal.SIGKILL)})  # fmt: skip
    assert found["right"].all()
    assert found["ms"].max() < 20_000  # a fresh worker starts in 1.1 s on a quiet machine
    assert (found["tries"] > 1).any() or workers > 1
    assert len(server.workers()) == workers
    assert victim not in server.workers()
    assert "worker died" in [line.get("event") for line in log_of(server)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere workers share one socket")
def test_connections_are_dealt_out_to_all_workers_and_none_takes_those_of_another():
    taken = []
    with contextlib.ExitStack() as held:
        sockets = serving._listen_for_each("127.0.0.1", 0, 2, held)
        for _ in range(64):
            held.enter_context(socket.create_connection(sockets[0].getsockname()))
        for one in sockets:
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    taken.append(one)
                    held.enter_context(one.accept()[0])
    assert [taken.count(one) > 8 for one in sockets] == [True, True]
    assert len(taken) == 64 + 2  # each was asked once more than it had


def test_a_model_promoted_later_is_served_too(start, fill, images, answers, until):
    root = fill()
    server = start(root)
    shutil.copytree(root / "tiny" / "2", root / "other" / "1")
    artifacts.write_json(root / "other" / "promoted", {"version": 1, "before": []})
    told = until(lambda: post(server, "/v2/models/other/infer", tensor(images[:9])))  # a response of 404 is false
    assert told.json()["outputs"][0]["data"] == answers[2].labels[:9].tolist()


def test_a_server_without_a_version_that_can_be_loaded_does_not_start(fill, tmp_path):
    root = fill()
    (root / "tiny" / "1" / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="did not start: A worker ended, .* before it was ready: the lines above say"):
        serving.start(root, log=tmp_path / "log")
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()[:-1]]
    assert [line["event"] for line in said] == ["could not load", "ended"]
    assert "model.onnx is not as it was registered" in said[0]["reason"]


@pytest.fixture
def worker(fill, tmp_path):
    """One worker, as the parent has it, with its registry; four of its forerunners have died before they were ready."""
    root = fill()
    limits = dataclasses.asdict(Limits())
    settings = {"registry": str(root), "key": None, "largest": 1, "threads": 1, "limits": limits, "grpc": "127.0.0.1:0"}
    with serving._listen("127.0.0.1", 0, "--port") as listening:
        started = serving._Worker(settings, listening, str(tmp_path))
        started._deaths = 4
        yield root, started
        started.release()
        started.end()


def test_workers_that_die_before_they_are_ready_are_not_replaced_for_ever(worker):
    root, one = worker
    (root / "tiny" / "1" / "model.onnx").write_bytes(b"damaged")
    assert one._process.wait(60) == 1
    with pytest.raises(ValueError, match="The workers die before they are ready, 5 in a row: the lines above say why"):
        one.replace_if_dead()


def test_a_worker_that_was_ready_is_replaced_each_time(worker):
    _, one = worker
    first = one._process
    assert select.select([first.stdout], [], [], 60)[0]  # says that it is ready, and nobody has listened yet
    first.kill()
    first.wait()
    one.replace_if_dead()
    assert one._process is not first
    one.wait_until_ready(threading.Event())


def test_metrics_do_not_lie_on_a_disk_that_may_be_full(start):
    files = {file.path for pid in start().workers() for file in psutil.Process(pid).open_files()}
    assert {path.split("/")[1:3][0] for path in files if "workbook-metrics-" in path} == {"dev"}


# ── its end ─────────────────────────────────────────────────────────────────────────────────────


def gone(pids, seconds=10):
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], seconds)
    return not alive


def test_what_was_asked_before_the_end_is_answered(start, images, answers):
    server = start()
    found = loadtest.run(server.url, message(images), clients=4, seconds=1.5, check=right(answers, images),
                         at={0.7: server.stop})  # fmt: skip
    asked = found[found["status"] != 0]
    assert len(asked) > 50
    assert asked["right"].all()
    broken = found[found["status"] == 0]
    assert broken["start"].min() > 0.6  # nobody is turned away before
    assert server.workers() == []


def test_the_server_ends_when_whoever_started_it_is_killed(fill, tmp_path):
    script = ("import sys; from helpers import serving; s = serving.start(sys.argv[1], log=sys.argv[2]); "
              "print(s._process.pid, *s.workers(), flush=True); input()")  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script, str(fill()), str(tmp_path / "log")], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        process.kill()
    assert gone(pids)


def test_workers_end_when_their_parent_is_killed(start):
    server = start(workers=2)
    pids = server.workers()
    assert len(pids) == 2
    server._process.kill()
    assert gone(pids)


def test_a_signal_to_a_worker_loses_nothing_since_its_parent_decides(start, images):
    server = start()
    (pid,) = server.workers()
    os.kill(pid, signal.SIGTERM)
    found = loadtest.run(server.url, message(images), clients=2, seconds=1)
    assert (found["status"] == 200).all()
    assert server.workers() == [pid]
    os.killpg(server._process.pid, signal.SIGTERM)
    assert server._process.wait(30) == 0
    assert "stopped" in [line.get("event") for line in log_of(server)]


def test_the_server_does_not_import_tensorflow_and_is_ready_soon(start):
    server = start()
    mapped = {os.path.basename(entry.path) for entry in psutil.Process(server.workers()[0]).memory_maps()}
    assert any("onnxruntime" in name for name in mapped)
    assert not any("tensorflow" in name for name in mapped)
    assert server.ready_seconds < 20  # 1.1 s on a quiet machine; the benchmark has the figure


# ── for longer ──────────────────────────────────────────────────────────────────────────────────


def test_memory_does_not_grow_with_the_requests(start, images, answers):
    server = start()
    ask = partial(loadtest.run, server.url, message(images), clients=16, check=right(answers, images))
    ask(seconds=2)
    before = server.memory_mb()
    found = ask(seconds=float(os.environ.get("WORKBOOK_SOAK_SECONDS", "5")))
    assert found["right"].all()
    assert server.memory_mb() < before + 15


# ── elsewhere ───────────────────────────────────────────────────────────────────────────────────


def test_the_folder_of_a_container_holds_a_server_that_answers(fill, images, answers, tmp_path, running):
    folder = layouts.container(tmp_path / "image", name="tiny", root=fill())
    text = (folder / "Containerfile").read_text()
    command = json.loads(text.partition("ENTRYPOINT ")[2])
    (tmp_path / "key").write_text("open sesame\n")
    command = [sys.executable, *command[1:]]
    command[command.index("0.0.0.0")] = "127.0.0.1"
    command[command.index("/run/secrets/api_key")] = str(tmp_path / "key")
    command += ["--port", "0", "--grpc-port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with running(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[4]
        told = requests.post(url + INFER, json=tensor(images[:9]), headers={"X-API-Key": "open sesame"}, timeout=20)
        where = psutil.Process(process.pid).children()[0].environ()["PYTHONPATH"]
    assert told.json()["outputs"][0]["data"] == answers[1].labels[:9].tolist()
    assert where.split(os.pathsep)[0] == str(folder)  # its own code, not ours
