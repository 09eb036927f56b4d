"""Pictures a second in training the classic and the better CNN: ours, Keras, Keras on JAX, and plain PyTorch."""

import importlib.util
import statistics
import sys

from benchmarks import results, side_by_side
from helpers import kernel

BATCH, EPOCHS = 128, 3
TOLERANCE = 0.02  # of test accuracy, between what is trained in the same way
JUDGED = 10_000  # pictures from which on the accuracies are judged: of fewer they depend on the seed
NETWORKS = {"classic_cnn": "the classic CNN", "better_cnn": "the better CNN"}
FLOAT32, DEFAULTS, JAX = "ours, float32", "Keras, default settings", "Keras on JAX"
PYTORCH, AUTOCAST = "PyTorch, float32", "PyTorch, bf16 autocast"
_GOALS = {DEFAULTS: 1.5, f"Keras, batch {BATCH}": 1.0, PYTORCH: 1.5, AUTOCAST: 1.0, JAX: 1.0}
_WHY = {
    DEFAULTS: "a network of so few products is bound by memory as much as by arithmetic, in larger batches, too",
    f"Keras, batch {BATCH}": "both call the same convolutions, and without bfloat16 they take most of the time",
    PYTORCH: "in float32 both are level; the lead is bfloat16's, which a processor has to have",
    AUTOCAST: "both call the same convolutions in bfloat16",
    JAX: "XLA would have to compute these convolutions on a processor as quickly as oneDNN",
}


def measure(*, repeats: int, pictures: int, torch_python: str | None = None, **_: object) -> results.Result:
    """Trains both networks in each way, and compares the epochs after the first, in which graphs are built."""
    rows, ratios, limits, goals, kept = [], [], [], [], {}
    with side_by_side.fashion_mnist(pictures) as data:
        for network, title in NETWORKS.items():
            arguments = ["--data", data, "--batch", str(BATCH), "--epochs", str(EPOCHS), "--network", network]
            runs = kept[network] = side_by_side.run(_variants(torch_python), repeats=repeats, arguments=arguments)
            _check(runs, title, judge=pictures >= JUDGED)
            speed = {name: [run["pictures_per_second"] for run in found] for name, found in runs.items()}
            what = f"training {title}"
            compared = results.compare(what, "pictures/s", speed)
            rows += compared[0]
            ratios += compared[1]
            if PYTORCH in runs:
                alike = f"{what}, float32 in both"
                ratios.append(results.ratio(alike, PYTORCH, speed[FLOAT32], speed[PYTORCH], name=FLOAT32))
                rows += [results.row(alike, "pictures/s", speed[name], of=name) for name in (FLOAT32, PYTORCH)]
            rows += [results.row(f"{what}: test accuracy", "of 1", [run["accuracy"] for run in found], of=name)
                     for name, found in runs.items()]  # fmt: skip
            limits += _limits(runs, title)
            goals += _goals(what, compared[1])
    return results.Result(
        question="How many pictures a second does training take?",
        held_equal=[
            f"{pictures:,} pictures of Fashion-MNIST, {EPOCHS} epochs, of which the first is not timed; scored on the "
            "10,000 test pictures",
            "the network: layers, their order, number of weights, how initial weights are drawn; no augmentation",
            f"batches of {BATCH}, Adam, one cycle of the learning rate; Keras's default settings are batches of 32 and "
            "a rate of 0.001",
            _accuracies(pictures),
        ],
        repeats=repeats,
        machine=results.machine("tensorflow", "keras", "jax", "numpy",
                                others={torch_python: ("torch",)} if torch_python else {}),
        rows=rows, ratios=ratios, limits=limits, goals=goals, runs=kept,
    )  # fmt: skip


def _variants(torch_python: str | None) -> dict[str, tuple[str, str, dict[str, str]]]:
    found = {
        "ours": (sys.executable, "ours.py", dict(kernel.ENVIRONMENT)),
        FLOAT32: (sys.executable, "ours.py --precision float32", dict(kernel.ENVIRONMENT)),
        DEFAULTS: (sys.executable, "keras_fit.py --defaults", {}),
        f"Keras, batch {BATCH}": (sys.executable, "keras_fit.py", {}),
    }
    if importlib.util.find_spec("jax"):
        found[JAX] = (sys.executable, "keras_fit.py", {"KERAS_BACKEND": "jax"})
    else:
        print("  JAX is not compared: install the test extra.", file=sys.stderr)
    if torch_python:
        found |= {PYTORCH: (torch_python, "pytorch.py", {}), AUTOCAST: (torch_python, "pytorch.py --autocast", {})}
    else:
        print("  PyTorch is not compared: name a Python that has it with --torch-python.", file=sys.stderr)
    return found


def _check(runs: dict[str, list[dict]], title: str, *, judge: bool) -> None:
    """Refuses to compare what is not the same network, or, if asked to judge, not equally accurate."""
    weights = {name: {run["weights"] for run in found} for name, found in runs.items()}
    if len(set().union(*weights.values())) != 1:
        raise RuntimeError(f"The peers train other networks than {title}: numbers of weights {weights}.")
    accuracy = {name: statistics.mean(run["accuracy"] for run in found) for name, found in runs.items()}
    for name, found in accuracy.items():
        ahead = accuracy["ours"] - found
        # The defaults are another recipe: they may be less accurate, not more.
        if judge and (ahead < -TOLERANCE or (ahead > TOLERANCE and name != DEFAULTS)):
            raise RuntimeError(
                f"{title}: test accuracy {accuracy['ours']:.3f} (ours) and {found:.3f} ({name}) are more than "
                f"{TOLERANCE} apart, so their speeds cannot be compared."
            )


def _accuracies(pictures: int) -> str:
    """Returns a clause on what `_check` has judged."""
    if pictures < JUDGED:
        return f"not judged: test accuracy, which depends on the seed where there are fewer than {JUDGED:,} pictures"
    return f"test accuracy, within {TOLERANCE} of ours; Keras's default settings, another recipe, may be less accurate"


def _limits(runs: dict[str, list[dict]], title: str) -> list[dict]:
    """Returns how much of the processor's products in float32, and in bfloat16 if ours uses it, training reaches."""
    found = []
    for name in dict.fromkeys((FLOAT32, "ours" if runs["ours"][0]["bfloat16"] else FLOAT32)):
        peak = max(run["peak"] for run in runs[name])
        most = peak / runs[name][0]["flop"]
        speed = statistics.median(run["pictures_per_second"] for run in runs[name])
        kind = "bfloat16" if name == "ours" else "float32"
        why = (
            f"{runs[name][0]['flop'] / 1e6:.1f} MFLOP a picture at the {peak / 1e9:,.0f} GFLOP/s of a product of large "
            "matrices; these filters are narrow, and pooling, activation, normalization and Adam move bytes instead"
        )
        found.append(results.limit(f"{title}: products in {kind}", most, "pictures/s", reached=speed / most, why=why))
    return found


def _goals(what: str, ratios: list[dict]) -> list[dict]:
    return [
        results.goal(
            f"{what}: at least {_GOALS[one['to']]} times {one['to']}" if _GOALS[one["to"]] > 1
            else f"{what}: ahead of {one['to']}",
            one["median"], at_least=_GOALS[one["to"]], why=_WHY[one["to"]], what=what, to=one["to"],
        )
        for one in ratios if one["to"] in _GOALS
    ]  # fmt: skip
