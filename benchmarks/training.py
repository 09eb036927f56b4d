"""Pictures a second in training the classic CNN: ours, Keras's defaults, and plain PyTorch."""

import statistics
import sys

from benchmarks import side_by_side
from helpers import kernel

BATCH = 128


def measure(*, repeats: int, pictures: int, torch_python: str | None = None, **_: object) -> dict:
    """Trains the classic CNN in each way, prints speeds, accuracies and ratios, and returns them.

    All ways see the same pictures for the same number of epochs, and are scored on the 10,000 test
    pictures. The time is that of the epochs after the first, so that building the graph is not in it.
    """
    variants = {
        "keras defaults": (sys.executable, "keras_defaults.py", {}),
        "keras, batch 128": (sys.executable, "keras_defaults.py --same-batch", {}),
        "ours": (sys.executable, "ours.py", dict(kernel.ENVIRONMENT)),
    }
    if torch_python:
        variants["pytorch"] = (torch_python, "pytorch.py", {})
    else:
        print("  PyTorch is not installed here: name a Python that has it with --torch-python.", file=sys.stderr)
    with side_by_side.fashion_mnist(pictures) as data:
        runs = side_by_side.run(variants, repeats=repeats, arguments=["--data", data, "--batch", str(BATCH)])
    speed = {name: [run["pictures_per_second"] for run in found] for name, found in runs.items()}
    accuracy = {name: statistics.mean(run["accuracy"] for run in found) for name, found in runs.items()}
    compared = {other: side_by_side.ratios(speed["ours"], speed[other]) for other in runs if other != "ours"}
    print(f"training, classic CNN, {pictures:,} pictures, batch {BATCH} (Keras's default: 32)")
    for name in runs:
        print(f"  {name:16} {statistics.median(speed[name]):8,.0f} pictures/s, test accuracy {accuracy[name]:.3f}")
    for other, ratio in compared.items():
        print(f"  ours to {other}: {ratio['median']:.2f} times ({ratio['low']:.2f} to {ratio['high']:.2f})")
    return {"machine": side_by_side.machine(), "runs": runs, "ratio_of_ours_to": compared, "accuracy": accuracy}
