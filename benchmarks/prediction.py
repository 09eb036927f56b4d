"""One picture, asked in process: how long an answer takes, against the runtimes alone."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import results, side_by_side
from helpers import kernel, processor

PEERS = {
    "ours": "ours", "ours, logits alone": "logits", "LiteRT": "litert", "ONNX Runtime": "onnx",
    "model(x)": "direct", "model.predict": "predict",
}  # fmt: skip
PICTURES = 2000  # for the training on the spot
_ROUNDING = 1e-3  # of the largest logit


def measure(*, repeats: int, **_: object) -> results.Result:
    """Trains a model on the spot, writes it in each format, and asks each runtime picture by picture."""
    with tempfile.TemporaryDirectory() as name, side_by_side.fashion_mnist(PICTURES) as data:
        folder = Path(name)
        quiet = dict(kernel.ENVIRONMENT)
        given = ["--models", str(folder), "--data", data, "--threads", str(processor.cores())]
        model = {"the model": (sys.executable, "prediction.py --peer make", quiet)}
        facts = side_by_side.run(model, repeats=1, arguments=given)["the model"][0]
        variants = {peer: (sys.executable, f"prediction.py --peer {script}", quiet) for peer, script in PEERS.items()}
        runs = side_by_side.run(variants, repeats=repeats, arguments=given)
        differences = differ({peer: np.load(folder / f"{script}.npy") for peer, script in PEERS.items()})
    rows, ratios = [], []
    for key, figure, unit in (("p50_ms", "p50", "ms"), ("p99_ms", "p99", "ms"), ("peak_mb", "peak memory", "MB")):
        values = {peer: [run[key] for run in found] for peer, found in runs.items()}
        more = results.compare(f"one picture in process, {figure}", unit, values, less_is_better=True)
        rows, ratios = rows + more[0], ratios + more[1]
    return results.Result(
        question="How long does one picture take, asked in process?",
        held_equal=[
            f"the weights of one better CNN ({facts['weights']:,.0f} weights, trained on the spot), float32, all cores",
            f"a fresh process each, pictures as uint8 one by one after some that are not timed: {calls(runs)}",
            f"the logits of all for 500 pictures differ by at most {max(differences.values()):.1e} of the largest; by "
            f"more than {_ROUNDING:g} the run would end",
            "ours also makes label and probabilities of the logits; the one called logits alone and the peers do not",
        ],
        repeats=repeats,
        machine=results.machine("ai-edge-litert", "onnxruntime", "tensorflow", "keras", "numpy"),
        rows=rows, ratios=ratios, limits=_limits(facts, rows),
        runs={"runs": runs, "facts": facts, "differences": differences},
    )  # fmt: skip


def calls(runs: dict[str, list[dict]]) -> str:
    """Returns a clause on how many calls of each peer were timed; slow ones stop early."""
    timed = {peer: int(min(run["calls"] for run in found)) for peer, found in runs.items()}
    most = max(timed.values())
    fewer = "".join(f"; of {peer}, which is slow, {count:,}" for peer, count in timed.items() if count < most)
    return f"{most:,} timed calls{fewer}"


def differ(logits: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns by how much each peer's logits differ from those of `model.predict`, as a share of the largest of them.

    Raises:
        RuntimeError: If it is more than rounding: figures of different work mean nothing.
    """
    reference = logits["model.predict"]
    found = {peer: float(np.abs(one - reference).max() / np.abs(reference).max()) for peer, one in logits.items()}
    for peer, difference in found.items():
        if not difference <= _ROUNDING:
            raise RuntimeError(f"The logits of {peer} and model.predict differ by {difference:.2g} of the largest.")
    return found


def _limits(facts: dict[str, float], rows: list[dict]) -> list[dict]:
    ours = next(row["median"] for row in rows if row["of"] == "ours")
    arithmetic, bytes_moved = 1e3 * facts["flop"] / facts["peak_flops"], 1e3 * facts["bytes"] / facts["bandwidth"]
    return [
        results.limit(
            f"arithmetic: {facts['flop'] / 1e6:.1f} million operations at the {facts['peak_flops'] / 1e9:.0f} billion "
            "a second of a large product of matrices on all cores", arithmetic, "ms", reached=arithmetic / ours,
            why="one picture makes matrices too small to fill the processor's units and two threads; calls from Python "
            "and checks of the input take a few microseconds each",
        ),
        results.limit(
            f"bytes: {facts['bytes'] / 1e3:.0f} kB of weights, read once from memory", bytes_moved, "ms",
            reached=bytes_moved / ours, why="the weights stay in the cache: arithmetic is the nearer limit",
        ),
    ]  # fmt: skip
