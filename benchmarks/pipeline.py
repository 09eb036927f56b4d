"""Pictures a second of the input pipeline alone, against what training takes."""

import statistics
import sys

from benchmarks import side_by_side
from helpers import kernel


def measure(*, repeats: int, pictures: int, **_: object) -> dict:
    """Reads augmented batches from a memory map with nobody training, then trains on them."""
    variants = {"pipeline": (sys.executable, "pipeline.py", dict(kernel.ENVIRONMENT))}
    with side_by_side.fashion_mnist(pictures) as data:
        runs = side_by_side.run(variants, repeats=repeats, arguments=["--data", data])["pipeline"]
    alone, training = ([run[key] for run in runs] for key in ("alone", "training"))
    ratio = side_by_side.ratios(alone, training)
    print(f"pipeline, {pictures:,} pictures from a memory map, shifted and mirrored, batch 128")
    print(f"  alone {statistics.median(alone):,.0f} pictures/s, training {statistics.median(training):,.0f}")
    print(f"  pipeline to training: {ratio['median']:.1f} times ({ratio['low']:.1f} to {ratio['high']:.1f})")
    return {"machine": side_by_side.machine(), "runs": runs, "ratio_of_alone_to_training": ratio}
