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

from benchmarks import side_by_side, triton
from helpers import artifacts, classifier, data, inference, loadtest, registry, serving

CLIENTS = (1, 8, 64)
SECONDS = 2.0


def measure(*, repeats: int, triton_python: str | None = None, **_: object) -> dict:
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
    return _report(pd.DataFrame(found), bare)


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


def _report(table: pd.DataFrame, bare: float) -> dict:
    bad = table.groupby("server", sort=False)[["requests", "failed", "wrong"]].sum()
    if bad[["failed", "wrong"]].to_numpy().any():
        raise RuntimeError(f"Requests failed or were answered wrongly, and the figures mean nothing:\n{bad}")
    keys = ["protocol", "clients", "server"]
    shown = table.groupby(keys, sort=False)[["per_second", "p50_ms", "p99_ms"]].median()
    print(f"one picture a request; the bare runtime takes {bare:.3f} ms for it")
    for server, counts in bad.iterrows():
        print(f"  {server:16} {counts['requests']:9,} requests, {counts['failed']} failed, {counts['wrong']} wrong")
    ratios = {}
    for (protocol, clients, server), row in shown.iterrows():
        print(f"  {protocol:9} {clients:3} clients, {server:16} {row['per_second']:7,.0f} requests/s, "
              f"p50 {row['p50_ms']:6.2f}, p99 {row['p99_ms']:6.2f} ms: {row['p99_ms'] / row['p50_ms']:.1f} times p50"
              )  # fmt: skip
    rates = table.pivot_table("per_second", keys, "turn")
    for (protocol, clients, server), theirs in rates.iterrows():
        if server != "ours":
            ratio = side_by_side.ratios(rates.loc[protocol, clients, "ours"].tolist(), theirs.tolist())
            ratios[f"{server}, {protocol}, {clients} clients"] = ratio
            print(f"  ours to {server}, {protocol}, {clients} clients: {ratio['median']:.2f} times "
                  f"({ratio['low']:.2f} to {ratio['high']:.2f})")  # fmt: skip
    alone = {protocol: shown.loc[protocol, 1, "ours"]["p50_ms"] - bare for protocol in table["protocol"].unique()}
    said = ", ".join(f"{ms:.2f} ms in {protocol}" for protocol, ms in alone.items())
    print(f"  one client waits longer than for the bare runtime: {said}")
    return {"machine": side_by_side.machine(), "runs": table.to_dict("records"), "ratio_of_requests_per_second": ratios,
            "bare_ms": bare, "longer_ms": alone}  # fmt: skip


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
