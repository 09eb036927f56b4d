"""How good predictions are, and how sure we may be of it: from labels and predictions alone."""

from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

_SPREAD = 0.5  # of the logarithm of a temperature, before any picture is seen: 68% lie between 0.6 and 1.65


class Interval(NamedTuple):
    """An estimate with the ends of its confidence interval."""

    estimate: float
    low: float
    high: float


class ReliabilityCurve(NamedTuple):
    """Confidence and accuracy of the pictures in each bin of confidence; NaN where there is none."""

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Returns the share of pictures whose prediction is their label.

    Args:
        labels: True classes, shape (n,).
        predictions: Classes of shape (n,), or logits or probabilities of shape (n, classes).
    """
    return float(np.mean(correct(labels, predictions)))


def correct(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Returns for each picture whether its prediction is its label, as booleans of shape (n,).

    Args:
        labels: True classes, shape (n,).
        predictions: Classes of shape (n,), or logits or probabilities of shape (n, classes).

    Raises:
        ValueError: If there is no picture, the two do not hold one entry for each, or a logit is not finite.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if predictions.ndim == 2:
        _check_finite(predictions)
        predictions = predictions.argmax(axis=1)
    if labels.ndim != 1 or labels.shape != predictions.shape or len(labels) == 0:
        raise ValueError(
            "Labels and predictions hold one entry for each picture, and at least one; "
            f"received shapes {labels.shape} and {predictions.shape}."
        )
    return labels == predictions


def wilson_interval(successes: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 95% Wilson score interval of a share, which stays inside 0 and 1 for small counts, too.

    Args:
        successes: Number of successes; a number or an array.
        total: Number of trials; without any, the interval is 0 to 1.

    Returns:
        Lower and upper ends, shaped like the input.

    Example:

    >>> [round(float(end), 4) for end in wilson_interval(8, 10)]
    [0.4902, 0.9433]

    Reference:
        Wilson, 1927, https://doi.org/10.1080/01621459.1927.10502953
    """
    successes, total = np.asarray(successes, float), np.asarray(total, float)
    z = stats.norm.ppf(0.975)
    n = np.maximum(total, 1e-12)
    share = successes / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = np.where(successes == 0, 0.0, middle - half)  # exactly, where rounding would leave a trace
    high = np.where(successes == total, 1.0, middle + half)
    return np.clip(low, 0, 1), np.clip(high, 0, 1)


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, *, classes: int) -> np.ndarray:
    """Counts how often class i (row) was predicted as class j (column); shape (classes, classes).

    Raises:
        ValueError: If a label or a prediction is no whole number from 0 to `classes - 1`.
    """
    labels, predictions = _whole(labels, classes, "labels"), _whole(predictions, classes, "predictions")
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def recall_by_class(labels: np.ndarray, predictions: np.ndarray, classes: list[str]) -> "pandas.DataFrame":  # noqa: F821
    """Returns the share of each class that was found, with its Wilson interval.

    Returns:
        Columns `class`, `pictures`, `found`, `recall`, `low`, `high`; recall is NaN for a class
        without pictures.
    """
    import pandas as pd

    matrix = confusion_matrix(labels, predictions, classes=len(classes))
    pictures, found = matrix.sum(axis=1), matrix.diagonal()
    low, high = wilson_interval(found, pictures)
    recall = np.where(pictures > 0, found / np.maximum(pictures, 1), np.nan)
    return pd.DataFrame(
        {"class": classes, "pictures": pictures, "found": found, "recall": recall, "low": low, "high": high}
    )


def in_words(labels: np.ndarray, predictions: np.ndarray, classes: list[str]) -> str:
    """Says in a few sentences how good the answers are, how sure that is, and where they go wrong.

    Args:
        labels: int of shape (n,).
        predictions: Predicted classes, int of shape (n,).
        classes: Class names.

    >>> print(in_words(np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1]), ["cat", "dog"]))
    3 of 4 pictures are answered rightly: 0.750, with 95% confidence 0.301 to 0.954.
    Hardest is dog: 1 of 2 are found, and it is most often taken for cat.
    4 pictures are few to judge by: the interval is 0.65 wide.
    """
    right, total = int(correct(labels, predictions).sum()), len(labels)
    low, high = wilson_interval(right, total)
    said = [f"{right:,} of {total:,} pictures are answered rightly: {np.round(right / total, 3):.3f}, "
            f"with 95% confidence {low:.3f} to {high:.3f}."]  # fmt: skip
    recall = recall_by_class(labels, predictions, classes)
    worst = recall["recall"].idxmin()
    if (one := recall.loc[worst])["found"] < one["pictures"]:
        taken_for = confusion_matrix(labels, predictions, classes=len(classes))[worst]
        taken_for[worst] = 0
        said.append(f"Hardest is {one['class']}: {one['found']:,} of {one['pictures']:,} are found, "
                    f"and it is most often taken for {classes[taken_for.argmax()]}.")  # fmt: skip
    if high - low > 0.1:
        said.append(f"{total:,} pictures are few to judge by: the interval is {high - low:.2f} wide.")
    return "\n".join(said)


def reliability_curve(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> ReliabilityCurve:
    """Compares how sure a model is with how often it is right, in bins of equal width.

    Args:
        labels: True classes, shape (n,).
        probabilities: Shape (n, classes), rows that sum to 1. For logits take the softmax first.
        bins: Number of bins between 0 and 1; a confidence on an edge falls in the bin below it.

    Raises:
        ValueError: If `probabilities` holds other values than probabilities, or there is no picture.
    """
    probabilities = np.asarray(probabilities, dtype=np.float64)
    right = correct(labels, probabilities)
    if not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3) or probabilities.min() < 0:
        raise ValueError(
            "Calibration is about probabilities: rows of numbers from 0 that sum to 1. "
            "Take the softmax of logits first (scipy.special.softmax(logits, axis=1))."
        )
    confidence = probabilities.max(axis=1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    divisor = np.where(count > 0, count, np.nan)
    return ReliabilityCurve(
        confidence=np.bincount(place, confidence, bins) / divisor,
        accuracy=np.bincount(place, right, bins) / divisor,
        count=count,
    )


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, *, bins: int = 15) -> float:
    """Returns the mean gap between confidence and accuracy over bins, weighted by their pictures.

    Example:

    >>> labels = np.array([0, 0, 0, 1])  # sure at 0.75, right in 3 of 4: well calibrated
    >>> expected_calibration_error(labels, np.tile([0.75, 0.25], (4, 1)))
    0.0

    Reference:
        Guo et al., 2017, equation 3, https://arxiv.org/abs/1706.04599
    """
    curve = reliability_curve(labels, probabilities, bins=bins)
    gaps = np.nan_to_num(np.abs(curve.confidence - curve.accuracy))
    return float(np.sum(gaps * curve.count) / curve.count.sum())


def fit_temperature(labels: np.ndarray, logits: np.ndarray) -> float:
    """Finds what to divide logits by so that the true classes become as likely as possible; answers stay the same.

    A few pictures that are all right, or all wrong, would ask for a temperature of 0 or of infinity. So the logarithm
    is taken to be 0 give or take 0.5 before any picture is seen: thousands of pictures overrule that, three do not.

    Args:
        labels: True classes, shape (n,).
        logits: Shape (n, classes), of pictures that the model was not trained on.

    Returns:
        A number from 0.05 to 20; above 1 where the model is too sure of itself.

    Raises:
        ValueError: If there is no picture, or a logit is not finite.

    Example:

    >>> labels, logits = np.array([0, 0, 0, 1] * 1000), np.array([[4.0, 0.0]] * 4000)
    >>> round(fit_temperature(labels, logits), 2)  # 3 of 4 right: log(3) apart
    3.62
    >>> round(fit_temperature(labels[:4], logits[:4]), 2)
    1.57

    Reference:
        Guo et al., 2017, https://arxiv.org/abs/1706.04599
    """
    logits = np.asarray(logits, float)
    correct(labels, logits)  # refuses what cannot be judged
    labels, rows = _whole(labels, logits.shape[1], "labels"), np.arange(len(logits))

    def loss(log_temperature: float) -> float:
        likely = special.log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels]
        return (log_temperature / _SPREAD) ** 2 / 2 / len(labels) - likely.mean()

    return float(np.exp(optimize.minimize_scalar(loss, bounds=(-3, 3), options={"xatol": 1e-6}).x))


def paired_bootstrap(first: np.ndarray, second: np.ndarray, *, resamples: int = 2000) -> Interval:
    """Returns how much better `first` is than `second` on the same pictures, with its 95% percentile interval.

    Both models see the same pictures, so each resample draws pictures and takes both answers: what
    makes a picture hard for both cancels, and the interval is far narrower than two single ones.

    Args:
        first: Whether model one was right on each picture (or its loss there), shape (n,).
        second: The same for model two.
        resamples: How often to draw the pictures anew, with replacement.

    Raises:
        ValueError: If the two are not about the same number of pictures.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    if first.shape != second.shape:
        raise ValueError(f"A pair is about the same pictures; received {len(first)} and {len(second)} of them.")
    difference, random = first - second, np.random.default_rng(0)
    size = len(difference)
    drawn = [difference[random.integers(0, size, size)].mean() for _ in range(resamples)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def surest_mistakes(labels: np.ndarray, probabilities: np.ndarray, *, count: int = 16) -> np.ndarray:
    """Returns the indices of at most `count` wrong predictions, the one with most confidence first."""
    wrong = np.flatnonzero(~correct(labels, probabilities))
    confidence = np.asarray(probabilities).max(axis=1)[wrong]
    return wrong[np.argsort(-confidence, kind="stable")][:count]


def _check_finite(logits: np.ndarray) -> None:
    wrong = np.count_nonzero(~np.isfinite(logits).all(axis=1))
    if wrong:
        raise ValueError(
            f"{wrong:,} of {len(logits):,} pictures have logits or probabilities that are not finite, as those of a "
            "model whose training diverged: train it again with a lower learning rate."
        )


def _whole(values: np.ndarray, classes: int, name: str) -> np.ndarray:
    values = np.asarray(values)
    if values.size and (values.dtype.kind not in "iub" or values.min() < 0 or values.max() >= classes):
        raise ValueError(
            f"{classes} classes have {name} that are whole numbers from 0 to {classes - 1}; "
            f"received {values.dtype} from {values.min()} to {values.max()}."
        )
    return values.astype(np.int64)  # of uint8, products would overflow
