"""A model that answers over the network: a parent that holds the address, and worker processes that answer.

The parent opens the sockets and starts the workers; one that dies is replaced, while what arrives meanwhile waits at
the open socket. `start` runs all of it beside a notebook. Only the workers import KServe, and none imports TensorFlow
unless a version is a `.keras` file or a SavedModel.
"""

import atexit
import contextlib
import dataclasses
import ipaddress
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from helpers import artifacts, registry
from helpers.protocols import Limits

_READY_SECONDS = 60
_STOP_SECONDS = 15
_EARLY_DEATHS = 5  # workers that die before they are ready, one after the other, until the parent gives up
_MEMORY = "/dev/shm"
_LINE = re.compile(r"Serving .* at (http://\S+) and grpc://(\S+?);")


def supervise(
    root: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int = 8081,
    workers: int = 1,
    key: str | None = None,
    largest: int = 64,
    threads: int = 1,
    limits: Limits = Limits(),  # noqa: B008  frozen
    follow: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Serves the promoted versions of a registry until a signal says stop.

    Args:
        root: Folder of the registry.
        host: Address to listen on; others than this machine's own need a key.
        port: Of HTTP; 0 for a free one.
        grpc_port: Of gRPC; 0 for a free one.
        workers: Processes that answer.
        key: What clients have to show.
        largest: The most pictures in one call of a model; 1 answers each request by itself.
        threads: Of one call of a model.
        limits: How much of a client is put up with.
        follow: Whether the end of standard input is the end of the server.
        say: Is told once where it serves.

    Raises:
        ValueError: If nothing is promoted, a number makes no sense, or another address is asked for without a key.
        OSError: If the address cannot be had.
    """
    root = artifacts.expanded(root).absolute()
    _check_numbers({"--port": port, "--grpc-port": grpc_port, "--workers": workers, "--threads": threads,
                    "--largest-batch": largest})  # fmt: skip
    _check(root, host, key)
    settings = {"registry": str(root), "key": key, "largest": largest, "threads": threads,
                "limits": dataclasses.asdict(limits)}  # fmt: skip
    # Mapped files: on a disk that is full, a worker that writes to them is killed.
    metrics = _metrics_folder()
    try:
        with contextlib.ExitStack() as held:
            listening = _listen_for_each(host, port, workers, held)
            with _listen(host, grpc_port, "--grpc-port") as free:  # workers share it: they would not notice a stranger
                settings["grpc"] = _address(host, free)
            stopping = threading.Event()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                if signal.getsignal(number) != signal.SIG_IGN:  # as nohup asks for
                    signal.signal(number, lambda *_: stopping.set())
            if follow:
                threading.Thread(target=at_end_of_input, args=(stopping.set,), daemon=True).start()
            crew = [_Worker(settings, one, metrics) for one in listening]
            try:
                for worker in crew:
                    worker.wait_until_ready(stopping)
                what = ", ".join(f"{name} {registry.promoted(name, root=root)}" for name in _live(root))
                at = f"http://{_address(host, listening[0])} and grpc://{settings['grpc']}"
                if not stopping.is_set():
                    say(f"Serving {what} at {at}; Ctrl+C ends it.")
                _keep_alive(crew, stopping)
            finally:
                for worker in crew:
                    worker.release()
                for worker in crew:
                    worker.end()
    finally:
        shutil.rmtree(metrics, ignore_errors=True)


class Server:
    """A server in processes of its own, beside this one. Use it in a `with`, or call `stop`.

    Attributes:
        url: `http://127.0.0.1:<port>`.
        grpc: `127.0.0.1:<port>`.
        log: The file with its lines of JSON.
        ready_seconds: From its start until it answered.
    """

    def __init__(self, process: subprocess.Popen, url: str, grpc: str, log: Path, ready_seconds: float) -> None:
        self._process, self.url, self.grpc, self.log, self.ready_seconds = process, url, grpc, log, ready_seconds
        atexit.register(self.stop)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def workers(self) -> list[int]:
        """Returns the process numbers of the workers that live."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one.pid for one in psutil.Process(self._process.pid).children()]
        return []

    def memory_mb(self) -> float:
        """Returns the memory that parent and workers hold, in MB."""
        total = 0
        for pid in (self._process.pid, *self.workers()):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += psutil.Process(pid).memory_info().rss
        return total / 1e6

    def stop(self) -> None:
        """Ends the server; what it was asked before is answered. Nothing happens the second time."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            try:
                self._process.wait(_STOP_SECONDS + 5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process.stdout.close()


def start(
    root: str | Path, *, log: str | Path, workers: int = 1, arguments: tuple[str, ...] = (), key: str | None = None
) -> Server:
    """Starts a server on free ports of this machine and waits until it answers.

    It ends with `stop`, and with this process, however that ends. Where the environment names a proxy, clients in
    this process ask servers on this machine without it from now on: it could not reach them.

    Args:
        root: Folder of the registry.
        log: File for its lines of JSON; an earlier one is replaced.
        workers: Processes that answer.
        arguments: More of `python -m helpers serve`, such as `("--largest-batch", "1")`.
        key: What clients have to show.

    Raises:
        ValueError: With what the server said, if it does not start.
    """
    begun = time.perf_counter()
    _spare_the_proxy()
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "helpers", "serve", "--registry", str(Path(root).absolute()), "--port", "0",
               "--grpc-port", "0", "--workers", str(workers), "--follow", *arguments]  # fmt: skip
    environment = _environment() | ({"WORKBOOK_API_KEY": key} if key else {})
    with open(log, "wb") as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                                   env=environment, start_new_session=True)  # fmt: skip
    line = process.stdout.readline().decode(errors="replace")
    found = _LINE.match(line)
    if found is None:
        process.stdin.close()
        process.wait()
        process.stdout.close()
        said = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise ValueError(f"The server did not start: {said[0].removeprefix('error: ')[:500]}")
    return Server(process, found[1], found[2], log, time.perf_counter() - begun)


class _Worker:
    """A worker process, and another one when it has died."""

    def __init__(self, settings: dict, listening: socket.socket, metrics: str) -> None:
        self._settings, self._listening, self._metrics = settings, listening, metrics
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        descriptor, self._ready = self._listening.fileno(), False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-m", "helpers.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor],
            env=_environment() | {"PROMETHEUS_MULTIPROC_DIR": self._metrics}, start_new_session=True,
        )  # fmt: skip
        self._process.stdin.write(json.dumps(self._settings | {"descriptor": descriptor}).encode() + b"\n")
        self._process.stdin.flush()

    def wait_until_ready(self, stopping: threading.Event) -> None:
        end = time.monotonic() + _READY_SECONDS
        while not select.select([self._process.stdout], [], [], 0.1)[0]:
            if stopping.is_set():
                return
            if time.monotonic() > end:
                self._process.kill()
        self._hear()
        if not self._ready:
            raise ValueError(
                "A worker ended, or said nothing for a minute, before it was ready: the lines above say why."
            )

    def replace_if_dead(self) -> None:
        if self._process.poll() is None:
            return
        self._hear()
        self._deaths = 0 if self._ready else self._deaths + 1
        if self._deaths >= _EARLY_DEATHS:
            raise ValueError(
                f"The workers die before they are ready, {_EARLY_DEATHS} in a row: the lines above say why."
            )
        event = {"time": round(time.time(), 3), "event": "worker died", "status": self._process.returncode}
        with contextlib.suppress(OSError):  # a full disk, too
            print(json.dumps(event), file=sys.stderr, flush=True)
        self.release()
        self._process.stdout.close()
        self._start()

    def _hear(self) -> None:
        self._ready = self._ready or self._process.stdout.readline() == b"ready\n"

    def release(self) -> None:
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def end(self) -> None:
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def _keep_alive(crew: list[_Worker], stopping: threading.Event) -> None:
    while not stopping.wait(0.05):
        for worker in crew:
            worker.replace_if_dead()


def at_end_of_input(stop: Callable[[], object]) -> None:
    """Calls `stop` at the end of standard input."""
    with contextlib.suppress(OSError, ValueError):
        while os.read(sys.stdin.fileno(), 1):  # a thread in `sys.stdin.read` would abort Python's end
            pass
    stop()


def _check_numbers(given: dict[str, int]) -> None:
    for option, number in given.items():
        least, most = (0, 65535) if option.endswith("port") else (1, 2**31 - 1)
        if not least <= number <= most:
            raise ValueError(f"{option} must be a number from {least} to {most}; received {number}.")


def _check(root: Path, host: str, key: str | None) -> None:
    if not root.is_dir():
        raise ValueError(
            f"There is no registry {root}: run notebook 05, which registers a model, or name another folder."
        )
    if not _live(root):
        raise ValueError(
            f"No version of a model is promoted in {root}: `python -m helpers registry promote NAME VERSION`."
        )
    if not _is_loopback(host) and not key:
        raise ValueError(
            f"{host} can be reached from other machines: put a key into WORKBOOK_API_KEY (or --api-key-file FILE), "
            "or listen on 127.0.0.1."
        )


def _live(root: Path) -> list[str]:
    return [name for name in registry.names(root=root) if registry.promoted(name, root=root) is not None]


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _listen_for_each(host: str, port: int, workers: int, held: contextlib.ExitStack) -> list[socket.socket]:
    """Opens a socket for each worker at one address: of one that all share, the quickest would take every connection.

    Linux deals connections out; elsewhere workers share one socket. The parent keeps the sockets: what waits for a
    worker that dies is not lost.
    """
    if workers == 1 or sys.platform != "linux":
        return [held.enter_context(_listen(host, port, "--port"))] * workers
    with _listen(host, port, "--port") as free:  # those below would not notice a stranger
        port = free.getsockname()[1]
    return [held.enter_context(_listen(host, port, "--port", shared=True)) for _ in range(workers)]


def _listen(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = address[0] == "::" and socket.has_dualstack_ipv6()  # as gRPC takes it, too
        return socket.create_server(address[:2], family=family, backlog=2048, reuse_port=shared, dualstack_ipv6=both)
    except OSError as error:
        why = error.strerror or str(error)
        raise OSError(
            error.errno, f"{host} port {port} cannot be listened on ({why}): name another with {option}."
        ) from error


def _metrics_folder() -> str:
    """Makes a folder of this process in memory; those of processes that were killed go."""
    memory = Path(_MEMORY if os.access(_MEMORY, os.W_OK) else tempfile.gettempdir())
    for left in memory.glob("workbook-metrics-*-*"):
        owner = left.name.split("-")[2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"workbook-metrics-{os.getpid()}-", dir=memory)


def _spare_the_proxy() -> None:
    if urllib.request.getproxies_environment():
        for name in ("no_proxy", "NO_PROXY"):
            spared = [host for host in os.environ.get(name, "").split(",") if host]
            here = [host for host in ("127.0.0.1", "localhost", "::1") if host not in spared]
            os.environ[name] = ",".join(spared + here)


def _address(host: str, listening: socket.socket) -> str:
    return f"[{host}]:{listening.getsockname()[1]}" if ":" in host else f"{host}:{listening.getsockname()[1]}"


def _environment() -> dict[str, str]:
    paths = [str(artifacts.root()), os.environ.get("PYTHONPATH")]
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "GRPC_VERBOSITY": "ERROR"} | os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths))
    }  # fmt: skip
