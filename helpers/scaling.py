"""Scaling that is fitted once, on the training split: z-score standardization and min-max normalization."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_CHUNK_BYTES = 1 << 16  # how much of an array `fit_…` reads at a time; as float64 it is eight times that


@dataclass(frozen=True)
class Scaler:
    """A linear scaling `(x - shift) / scale` whose two arrays were fitted once, on the training split.

    Attributes:
        shift: float64; a number, one for each channel, or one for each position.
        scale: The same; never 0.
    """

    shift: np.ndarray
    scale: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Returns the scaled values as float32."""
        values = np.asarray(values)
        # Every uint8 is exact in float32; other values lose digits if they are rounded before the shift.
        exact = np.float32 if values.dtype == np.uint8 else np.float64
        return np.divide(np.subtract(values, self.shift, dtype=exact), self.scale, dtype=exact).astype(np.float32)

    def inverse(self, scaled: np.ndarray) -> np.ndarray:
        """Returns the values from which `scaled` was made, as float64."""
        return np.asarray(scaled, np.float64) * self.scale + self.shift


def fit_standard(values: np.ndarray, *, indices: np.ndarray | None = None, per: str = "channel") -> Scaler:
    """Fits z-score standardization: `z = (x - mean) / standard deviation`.

    Args:
        values: Array of any dtype with one item a row; a memory map is read piece by piece.
        indices: The rows to fit on: those of the training split. All rows if not given.
        per: `"set"` for one mean and deviation, `"channel"` for one for each entry of the last axis
            (a column of a matrix, a colour of a picture), `"feature"` for one for each position.

    Returns:
        The scaling. What does not vary is shifted to 0 and not divided.

    Example:

    >>> standard = fit_standard(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> standard(np.array([[1.0, 5.0], [4.0, 6.0]]))
    array([[-1.,  0.],
           [ 2.,  1.]], dtype=float32)
    """
    pieces = _Pieces(values, indices, per)
    mean = sum(piece.sum(axis=0) for piece in pieces) / pieces.count
    variance = sum(np.square(piece - mean).sum(axis=0) for piece in pieces) / pieces.count
    deviation = np.sqrt(variance)
    # Rounding leaves a constant of, say, 0.1 with a deviation near 1e-17: that is no variation.
    constant = deviation <= 1e-12 * np.abs(mean)
    return Scaler(pieces.shaped(mean), pieces.shaped(np.where(constant, 1.0, deviation)))


def fit_min_max(values: np.ndarray, *, indices: np.ndarray | None = None, per: str = "channel") -> Scaler:
    """Fits min-max normalization: `y = (x - min) / (max - min)`.

    Args:
        values: Array of any dtype with one item a row; a memory map is read piece by piece.
        indices: The rows to fit on: those of the training split. All rows if not given.
        per: As in `fit_standard`.

    Returns:
        The scaling. What does not vary becomes 0. Later values outside the range that was fitted
        end outside 0 to 1: they are not clipped.
    """
    pieces = _Pieces(values, indices, per)
    smallest = np.min([piece.min(axis=0) for piece in pieces], axis=0)
    largest = np.max([piece.max(axis=0) for piece in pieces], axis=0)
    scale = np.where(largest > smallest, largest - smallest, 1.0)
    return Scaler(pieces.shaped(smallest), pieces.shaped(scale))


class _Pieces:
    """Rows of an array in float64 pieces of shape (k, statistics), so that a large one fits in memory."""

    def __init__(self, values: np.ndarray, indices: np.ndarray | None, per: str) -> None:
        kinds = {"set": (), "channel": values.shape[1:][-1:], "feature": values.shape[1:]}
        if per not in kinds:
            raise ValueError(f"per is one of {', '.join(map(repr, kinds))}; received {per!r}.")
        self._values, self._indices, self._shape = values, indices, kinds[per]
        if np.asarray(indices).dtype == bool:
            raise ValueError("indices are positions of rows; received a mask: pass np.flatnonzero(mask).")
        rows = len(values) if indices is None else len(indices)
        if rows == 0:
            raise ValueError("There is nothing to fit on: the training split is empty.")
        self._rows = rows
        self._step = max(1, _CHUNK_BYTES // max(1, values[:1].nbytes))
        self.count = rows * values[:1].size // max(1, int(np.prod(self._shape)))

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, self._rows, self._step):
            part = slice(start, start + self._step)
            piece = self._values[part if self._indices is None else self._indices[part]]
            yield np.asarray(piece, np.float64).reshape(-1, int(np.prod(self._shape)))

    def shaped(self, statistic: np.ndarray) -> np.ndarray:
        return statistic.reshape(self._shape)
