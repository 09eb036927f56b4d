"""Does a model keep its answer where a picture changes and what it shows does not? From pictures and answers."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from helpers import evaluation

_STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}


def shifted(images: np.ndarray, direction: str, pixels: int = 1) -> np.ndarray:
    """Moves pictures by whole pixels; black comes in at the other edge.

    Args:
        images: Shape (n, height, width, channels).
        direction: `"up"`, `"down"`, `"left"` or `"right"`.
        pixels: How far.

    Example:

    >>> shifted(np.array([[[[1], [2], [3]]]]), "right")[0, 0, :, 0]
    array([0, 1, 2])
    """
    if direction not in _STEPS:
        raise ValueError(f"Pictures are moved {', '.join(_STEPS)}; received {direction!r}.")
    down, right = (pixels * step for step in _STEPS[direction])
    moved = np.zeros_like(images)
    height, width = images.shape[1:3]
    to = slice(max(down, 0), max(height + down, 0)), slice(max(right, 0), max(width + right, 0))
    of = slice(max(-down, 0), max(height - down, 0)), slice(max(-right, 0), max(width - right, 0))
    moved[:, *to] = images[:, *of]
    return moved


def brightened(images: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies all pixels by a factor; what is brighter than white becomes white.

    Example:

    >>> brightened(np.array([0, 10, 200], np.uint8), 1.5)
    array([  0,  15, 255], dtype=uint8)
    """
    return np.rint(np.clip(images * np.float32(factor), 0, 255)).astype(np.uint8)


def noisy(images: np.ndarray, sigma: float, *, seed: int = 0) -> np.ndarray:
    """Adds Gaussian noise of standard deviation `sigma`, in grey levels, and stays between black and white."""
    noise = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    return np.rint(np.clip(images + np.float32(sigma) * noise, 0, 255)).astype(np.uint8)


def mirrored(images: np.ndarray) -> np.ndarray:
    """Returns the mirror images, left for right, as a view."""
    return images[:, :, ::-1]


def steadiness(
    classify: Callable[[np.ndarray], np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
    changes: dict[str, Callable[[np.ndarray], np.ndarray]],
) -> pd.DataFrame:
    """Compares a model's answers for changed pictures with those for the pictures as they are.

    Args:
        classify: From uint8 pictures (n, height, width, channels) to their classes (n,).
        images: The pictures.
        labels: Their true classes, shape (n,), as `classify` names them.
        changes: By name, from pictures to pictures.

    Returns:
        One row for each change, by its name: `same` (share of answers that stay) with its 95% Wilson interval `low`
        and `high`, and `accuracy` on the changed pictures.

    Raises:
        ValueError: If there is no picture or no change.
    """
    if len(images) == 0 or not changes:
        raise ValueError(f"At least one picture and one change are needed; received {len(images)} and {len(changes)}.")
    before, rows = classify(images), {}
    for name, change in changes.items():
        after = classify(np.ascontiguousarray(change(images)))
        same = after == before
        low, high = evaluation.wilson_interval(same.sum(), len(same))
        rows[name] = same.mean(), float(low), float(high), np.mean(after == labels)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["same", "low", "high", "accuracy"])
