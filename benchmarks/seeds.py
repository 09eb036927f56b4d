"""What repeating a training over seeds costs above its training steps."""

import statistics
import sys

from benchmarks import results, side_by_side
from helpers import kernel

PICTURES, BATCH = 2000, 64  # a run of the comparison in notebook 04


def measure(*, repeats: int, **_: object) -> results.Result:
    """Trains over five seeds with one restarted model and with new ones, beside one fit of as many steps."""
    variants = {"seeds": (sys.executable, "seeds.py", dict(kernel.ENVIRONMENT))}
    with side_by_side.fashion_mnist(PICTURES) as data:
        given = ["--data", data, "--batch", str(BATCH), "--turn"]
        runs = [side_by_side.run(variants, repeats=1, arguments=[*given, str(turn)])["seeds"][0]
                for turn in range(repeats)]  # fmt: skip
    steps, ours = ([run[name] for run in runs] for name in ("steps", "restarted"))
    above = [mine / alone for mine, alone in zip(ours, steps, strict=True)]
    what = "five seeds of the classic CNN, seconds"
    values = {"ours": ours, "a new model for each seed": [run["new"] for run in runs]}
    rows, ratios = results.compare(what, "s", values, less_is_better=True)
    return results.Result(
        question="What does repeating a training over five seeds cost above its training steps?",
        held_equal=[f"{PICTURES:,} pictures of Fashion-MNIST, 5 epochs of batches of {BATCH} for each seed",
                    "one process a round, in which each way takes its turn to be first, with the compiled steps of the "
                    "first model warm"],
        repeats=repeats, machine=results.machine("tensorflow", "keras", "numpy"), rows=rows, ratios=ratios,
        limits=[results.limit(
            "the training steps of all seeds in one fit", statistics.median(steps), "s",
            reached=side_by_side.ratios(steps, ours)["median"],
            why="each seed draws new weights and starts a fit; nothing is compiled again",
        )],
        goals=[results.goal(
            "five seeds cost at most a tenth more than their training steps", statistics.median(above), at_most=1.1,
            why="each seed draws new weights and starts a fit", what=what,
        )],
        runs=runs,
    )  # fmt: skip
