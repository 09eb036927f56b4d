"""What a machine could do at most: operations of a network, the fastest product of matrices, the fastest copy."""

import time
from collections.abc import Callable

import numpy as np


def training_flop(model: object) -> int:
    """Counts the multiplications and additions of one picture, forward and backward, in convolutions and dense layers.

    Backward there are two products as large as the one forward: one for the weights and one for what comes in. The
    first layer needs only that for the weights, because nothing asks for the slope in the pixels.

    Args:
        model: A functional Keras model whose layers are called one after the other.
    """
    from helpers import models

    products = list(models.multiply_adds(model).values())
    return 6 * sum(products) - 2 * products[0]


def peak_flops(dtype: str = "float32") -> float:
    """Measures the operations a second of a large product of matrices in Keras's backend."""
    import keras

    side, random = 2048, np.random.default_rng(0)
    one, other = (keras.ops.cast(random.random((side, side), np.float32), dtype) for _ in range(2))
    seconds = fastest(lambda: float(keras.ops.matmul(one, other)[0, 0]))
    return 2 * side**3 / seconds


def copy_bandwidth() -> float:
    """Measures the bytes a second of a copy in memory by one core, those read and those written."""
    source, target = (np.ones(2**28, np.uint8) for _ in range(2))
    return 2 * source.nbytes / fastest(lambda: np.copyto(target, source))


def fastest(work: Callable[[], object]) -> float:
    """Returns the seconds of the fastest of seven runs, after one that warms up."""
    work()
    seconds = []
    for _ in range(7):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)
