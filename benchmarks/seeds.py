"""What repeating a training over seeds costs above its training steps."""

import statistics
import sys

from benchmarks import side_by_side
from helpers import kernel

PICTURES, BATCH = 2000, 64  # a run of the comparison in notebook 04


def measure(*, repeats: int, **_: object) -> dict:
    """Trains over five seeds with one restarted model and with new ones, beside one fit of as many steps."""
    variants = {"seeds": (sys.executable, "seeds.py", dict(kernel.ENVIRONMENT))}
    with side_by_side.fashion_mnist(PICTURES) as data:
        runs = side_by_side.run(variants, repeats=repeats, arguments=["--data", data, "--batch", str(BATCH)])["seeds"]
    steps = [run["steps"] for run in runs]
    compared = {name: side_by_side.ratios([run[name] for run in runs], steps) for name in ("restarted", "new")}
    print(f"five seeds of the classic CNN, {PICTURES:,} pictures, 5 epochs, batch {BATCH}")
    print(f"  the training steps alone: {statistics.median(steps):.1f} s")
    for name, ratio in compared.items():
        print(f"  {name}: {ratio['median']:.2f} times that ({ratio['low']:.2f} to {ratio['high']:.2f})")
    return {"machine": side_by_side.machine(), "runs": runs, "ratio_to_steps": compared}
