"""Requests a second and latencies of the server, against plain KServe, with the same model and the same clients."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import results, side_by_side, triton
from helpers import artifacts, classifier, data, inference, loadtest, registry, serving

CLIENTS = (1, 8, 64)
SECONDS = 2.0
_FIGURES = ("per_second", "p50_ms", "p99_ms")


def measure(*, repeats: int, triton_python: str | None = None, **_: object) -> results.Result:
    """Asks all servers in turn, round by round, each answer compared with the model's own."""
    home = artifacts.require("06_deployment_prediction/registry", made_by="06_deployment_prediction")
    version = registry.folder("wardrobe", 1, root=home)
    images, model = np.asarray(data.load().split("test", at_most=1000)[0]), classifier.load(version)
    right = _right(model.answer(images).labels, model.classes)
    bare = inference.measure(registry.model_file(version), images).latency_ms_p50
    logs = artifacts.outputs() / "benchmarks"
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(serving.start(home, log=logs / "serving.log"))
        single = ("--largest-batch", "1")
        alone = stack.enter_context(serving.start(home, log=logs / "alone.log", arguments=single))
        plain = stack.enter_context(_plain_kserve(version, logs / "kserve.log"))
        servers = {"ours": ours.url, "ours, one by one": alone.url, "KServe": plain}
        if triton_python:
            file = artifacts.require("06_deployment_prediction/models/model.onnx", made_by="06_deployment_prediction")
            started = triton.serve(triton_python, file, "wardrobe", model.classes, logs / "triton.log")
            servers["Triton"] = stack.enter_context(started)
        else:
            print("  Triton is not compared: name a Python that has nvidia-pytriton and onnxruntime with "
                  "--triton-python.", file=sys.stderr)  # fmt: skip
        found = _rounds(servers, repeats, images, right)
    return _result(pd.DataFrame(found), bare, repeats, triton_python)


def _rounds(servers: dict[str, str], repeats: int, images: np.ndarray, right: Callable) -> list[dict]:
    rows = []
    for turn in range(repeats):
        for protocol, message in (("V2 JSON", _json(images)), ("V2 binary", _binary(images)), ("V1", _v1(images))):
            asked = [name for name in servers if protocol != "V1" or name != "Triton"]  # which does not speak V1
            for clients in CLIENTS:
                for name in asked if turn % 2 == 0 else asked[::-1]:
                    url = servers[name]
                    requests = loadtest.run(url, message, clients=clients, seconds=SECONDS, warm_up=20, check=right)
                    told = loadtest.summary(requests)
                    rows.append({"server": name, "protocol": protocol, "clients": clients, "turn": turn, **told})
                    figures = f"{told['per_second']:,.0f} requests/s, p50 {told['p50_ms']:.2f} ms"
                    print(f"  {name}, {protocol}, {clients} clients: {figures}", file=sys.stderr, flush=True)
    return rows


def _result(table: pd.DataFrame, bare: float, repeats: int, triton_python: str | None) -> results.Result:
    bad = table.groupby("server", sort=False)[["requests", "failed", "wrong"]].sum()
    if bad[["failed", "wrong"]].to_numpy().any():
        raise RuntimeError(f"Requests failed or were answered wrongly, and the figures mean nothing:\n{bad}")
    rows, ratios, longer = [], [], {}
    for (protocol, clients), found in table.groupby(["protocol", "clients"], sort=False):
        situation = f"{protocol}, {clients} client{'s' if clients > 1 else ''}"
        figures = {name: dict(list(found.groupby("server", sort=False)[name])) for name in _FIGURES}
        rates = {server: rate.tolist() for server, rate in figures["per_second"].items()}
        more = results.compare(f"{situation}, requests a second", "requests/s", rates)
        rows, ratios = rows + more[0], ratios + more[1]
        for name in ("p50_ms", "p99_ms"):
            what = f"{situation}, {name.removesuffix('_ms')}"
            rows += [results.row(what, "ms", waits, of=server) for server, waits in figures[name].items()]
        if clients == 1:
            longer[protocol] = float(figures["p50_ms"]["ours"].median()) - bare
    return results.Result(
        question="How many requests a second does the server answer, and how long does one wait?",
        held_equal=["the same LiteRT file, one picture a request (Triton: the same model in ONNX Runtime, behind its "
                    "Python backend; it answers with logits alone)",
                    "clients and servers on the same cores, all servers up, asked in turn",
                    f"every answer compared with the model's own: {bad['requests'].sum():,} requests, none failed or "
                    "was wrong"],
        repeats=repeats,
        machine=results.machine("kserve", "ai-edge-litert", "uvicorn", "numpy",
                                others={triton_python: ("nvidia-pytriton",)} if triton_python else None),
        rows=rows, ratios=ratios,
        limits=[results.limit(
            f"the bare runtime, called in process for the one picture of a request ({protocol}, 1 client)", bare, "ms",
            reached=bare / (bare + more), why="a request crosses the loopback and two processes, and is read, checked, "
            "answered and counted in Python") for protocol, more in longer.items()],
        goals=[results.goal("p50 at most 2 ms above the bare runtime", more, at_most=2, unit="ms",
                            what=f"{protocol}, 1 client, requests a second",
                            why="it is the way of a request through Python") for protocol, more in longer.items()],
        runs=table.to_dict("records"),
    )  # fmt: skip


def _json(images: np.ndarray) -> Callable[[int], loadtest.Message]:
    bodies = [
        {"inputs": [{"name": "pictures", "shape": [1, *one.shape], "datatype": "UINT8", "data": one.ravel().tolist()}]}
        for one in images
    ]
    messages = [loadtest.json_message("/v2/models/wardrobe/infer", body) for body in bodies]
    return lambda number: messages[number % len(messages)]


def _v1(images: np.ndarray) -> Callable[[int], loadtest.Message]:
    bodies = [{"instances": [one.tolist()]} for one in images]
    messages = [loadtest.json_message("/v1/models/wardrobe:predict", body) for body in bodies]
    return lambda number: messages[number % len(messages)]


def _binary(images: np.ndarray) -> Callable[[int], loadtest.Message]:
    tensor = {"name": "pictures", "shape": [1, *images.shape[1:]], "datatype": "UINT8",
              "parameters": {"binary_data_size": images[0].size}}  # fmt: skip
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": False}}).encode()
    headers = ("content-type", "application/octet-stream"), ("inference-header-content-length", str(len(head)))
    messages = [loadtest.Message("/v2/models/wardrobe/infer", head + one.tobytes(), headers) for one in images]
    return lambda number: messages[number % len(messages)]


def _right(labels: np.ndarray, classes: list[str]) -> Callable[[int, bytes], bool]:
    """Compares by label; of a server that gives logits alone, by the class of the largest."""

    def check(number: int, body: bytes) -> bool:
        answer = json.loads(body)
        if "predictions" in answer:
            return answer["predictions"][0]["label"] == labels[number % len(labels)]
        outputs = {one["name"]: one["data"] for one in answer["outputs"]}
        label = outputs["label"][0] if "label" in outputs else classes[int(np.argmax(outputs["logits"]))]
        return label == labels[number % len(labels)]

    return check


@contextlib.contextmanager
def _plain_kserve(version: Path, log: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        http, rpc = one.getsockname()[1], two.getsockname()[1]
    script = artifacts.root() / "benchmarks" / "variants" / "plain_kserve.py"
    command = [sys.executable, "-W", "ignore", str(script), "--model", str(version), "--http_port", str(http),
               "--grpc_port", str(rpc), "--access_log_format", ""]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(artifacts.root())}
    with open(log, "wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
        try:
            url = f"http://127.0.0.1:{http}"
            side_by_side.wait_for(f"{url}/v2/models/wardrobe/ready", process, log)
            yield url
        finally:
            process.terminate()
