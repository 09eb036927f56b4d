"""Weight sharing: a kernel of few distinct values is a small codebook and one short code for each weight."""

from typing import NamedTuple

import keras
import numpy as np

from helpers import pruning

_ROUNDS = 20_000  # of k-means, which has come to rest long before


class Clusters(NamedTuple):
    """The values that weights share: rising, float32 of shape (k,); and the place among them of each weight."""

    centroids: np.ndarray
    codes: np.ndarray


def cluster(weights: np.ndarray, count: int, *, keep_zeros: bool = False) -> Clusters:
    """Finds the values that weights may share with little error: k-means on the line.

    The centroids begin evenly spaced from the smallest weight to the largest, because few but
    large weights matter most; the result depends on nothing else.

    Args:
        weights: Array of any shape.
        count: Number of clusters, 1 to 65536.
        keep_zeros: Whether weights of exactly 0, pruned ones, are a cluster of their own, one of
            the `count`, whose centroid is 0.

    Returns:
        At most `count` clusters, each with a weight: an empty one cuts the one with the largest error
        in two. Weights of no more than `count` values stay exactly as they are.

    Raises:
        ValueError: If there is no weight, one is not finite, or the count is out of range.

    Example:

    >>> cluster(np.array([0.0, 0.1, 0.2, 0.9, 1.1]), 2)
    Clusters(centroids=array([0.1, 1. ], dtype=float32), codes=array([0, 0, 0, 1, 1], dtype=uint8))

    Reference:
        Han, Mao and Dally, 2016, section 3, https://arxiv.org/abs/1510.00149
    """
    weights = np.asarray(weights, np.float32)
    zero = weights == 0 if keep_zeros else np.zeros(weights.shape, bool)
    least = 2 if zero.any() and not zero.all() else 1
    if weights.size == 0 or not np.isfinite(weights).all() or not least <= count <= 2**16:
        raise ValueError(
            f"Clusters are made of at least one weight, all finite, and their count is {least} to {2**16}; "
            f"received weights of shape {weights.shape} and a count of {count}."
        )
    rest, place = weights[~zero], 0
    centroids, codes = _k_means(rest, count - int(zero.any())) if rest.size else (rest, np.empty(0, int))
    if zero.any():
        place = int(np.searchsorted(centroids, 0))  # where the 0 goes
        centroids, codes = np.insert(centroids, place, 0), codes + (codes >= place)
    all_codes = np.full(weights.shape, place, np.uint8 if count <= 2**8 else np.uint16)
    all_codes[~zero] = codes
    return Clusters(centroids.astype(np.float32), all_codes)


def _k_means(weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rising centroids and the code of each weight; on sorted weights each cluster is a slice."""
    values, inverse, repeats = np.unique(weights.astype(np.float64), return_inverse=True, return_counts=True)
    if len(values) <= count:
        return values, inverse
    counts, sums, squares = (np.append(0, np.cumsum(values**power * repeats)) for power in (0, 1, 2))
    centroids, edges = np.linspace(values[0], values[-1], count), None
    for _ in range(_ROUNDS):
        ends = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
        before, edges = edges, np.concatenate([[0], ends, [len(values)]])
        members = np.diff(counts[edges])
        if np.array_equal(before, edges):
            break
        centroids = np.where(members > 0, np.diff(sums[edges]) / np.maximum(members, 1), centroids)
        if np.any(empty := members == 0):  # each cuts one of the clusters with the largest errors in two
            errors = np.diff(squares[edges]) - members * centroids**2
            worst = np.argsort(-errors, kind="stable")[: empty.sum()]
            centroids[empty] = values[edges[worst + 1] - 1]
            centroids.sort()
    filled = members > 0
    centroids = np.diff(sums[edges])[filled] / members[filled]  # of these slices: the rounds may end after a cut
    codes = np.repeat(np.cumsum(filled) - 1, np.diff(edges))  # of the values
    return centroids, codes[inverse]


def restore(clusters: Clusters) -> np.ndarray:
    """Returns the weights: for each code its centroid, float32.

    >>> restore(Clusters(np.array([-0.5, 2.0], np.float32), np.array([[1, 0], [0, 0]], np.uint8)))
    array([[ 2. , -0.5],
           [-0.5, -0.5]], dtype=float32)
    """
    return clusters.centroids[clusters.codes]


def entropy(codes: np.ndarray) -> float:
    """Returns how many bits a code carries on average, if each is coded for itself: rare ones more, common ones less.

    Args:
        codes: Whole numbers of any shape, at least one.

    Raises:
        ValueError: If there is none.

    Example:

    >>> entropy(np.array([0, 0, 1, 2]))  # half of them one bit, the others two
    1.5

    Reference:
        Shannon, 1948, https://doi.org/10.1002/j.1538-7305.1948.tb01338.x
    """
    codes = np.asarray(codes)
    if codes.size == 0:
        raise ValueError("The entropy is a mean over codes, and there is none.")
    shares = np.unique(codes, return_counts=True)[1] / codes.size
    return float(np.sum(shares * np.log2(1 / shares)))


def coded_bytes(codes: np.ndarray) -> float:
    """Returns the fewest bytes that hold codes, coded one by one; the codebook, 4 bytes a centroid, comes on top.

    >>> coded_bytes(np.repeat([0, 1], 400))
    100.0
    """
    return entropy(codes) * np.size(codes) / 8


def cluster_model(model: keras.Model, count: int, *, keep_zeros: bool = True) -> dict[str, Clusters]:
    """Gives each kernel of a model a codebook of its own, and its weights the values in it.

    Args:
        model: A built model; its kernels are changed.
        count: Number of clusters in each kernel.
        keep_zeros: Whether pruned weights stay exactly 0.

    Returns:
        Clusters by the name of the kernel; `Shared` keeps them in training.

    Raises:
        ValueError: If `cluster` refuses a kernel.
    """
    kernels = pruning.kernels(model)
    found = {
        name: cluster(keras.ops.convert_to_numpy(kernel), count, keep_zeros=keep_zeros)
        for name, kernel in kernels.items()
    }
    for name, clusters in found.items():
        kernels[name].assign(restore(clusters))
    return found


class Shared(keras.callbacks.Callback):
    """Keeps the weights of a cluster equal while a model trains, so that in effect its centroids are trained.

    After every step of the optimizer each weight becomes the mean of its cluster. With gradient descent that is the
    step of the centroid along the mean of its weights' gradients (Han et al. take their sum: a step longer by the
    number of weights). A centroid of exactly 0 stays 0, so what was pruned stays pruned without another callback. It
    happens in a constraint of each kernel: inside several steps an execution and inside XLA. The training step is
    compiled anew at the start, and by the next training without this. If a training breaks off with an error, Keras
    does not say so to callbacks: the constraints stay until `release` is called or another `Shared` takes over.

    Args:
        clusters: What `cluster_model` returned.

    Attributes:
        clusters: After the training with the centroids it ended with.

    Raises:
        ValueError: When a training begins whose model does not have these kernels, or has another
            constraint on one of them.

    Reference:
        Han, Mao and Dally, 2016, section 3.3, https://arxiv.org/abs/1510.00149
    """

    def __init__(self, clusters: dict[str, Clusters]) -> None:
        super().__init__()
        self.clusters = dict(clusters)
        self._shared: dict[str, tuple[keras.Variable, _Means]] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        kernels = pruning.kernels(self.model)
        for name, clusters in self.clusters.items():
            _check_kernel(name, kernels, clusters)
        self._shared = {name: (kernels[name], _Means(clusters)) for name, clusters in self.clusters.items()}
        for kernel, means in self._shared.values():
            kernel.constraint = means
            kernel.assign(means(kernel))
        self.model.make_train_function(force=True)  # one compiled before knows nothing of the constraints

    def on_train_end(self, logs: dict | None = None) -> None:
        for name, (kernel, means) in self._shared.items():
            # An average of the weights over time may only now have been put in their place.
            kernel.assign(means(kernel))
            centroids, codes = self.clusters[name].centroids.copy(), self.clusters[name].codes
            centroids[codes.ravel()] = keras.ops.convert_to_numpy(kernel).ravel()
            self.clusters[name] = Clusters(centroids, codes)
        self.release()

    def release(self) -> None:
        """Takes the constraints off again; weights of a cluster may differ from the next training on."""
        for kernel, means in self._shared.values():
            if kernel.constraint is means:
                kernel.constraint = None
        self._shared = {}
        if self.model is not None:
            self.model.train_function = None


class _Means:
    """A constraint that replaces each weight by the mean of its cluster, or by 0 if its centroid is 0."""

    def __init__(self, clusters: Clusters) -> None:
        self._codes = clusters.codes.astype(np.int32)
        self._members = np.bincount(self._codes.ravel(), minlength=len(clusters.centroids)).astype(np.float32)
        used, first = np.unique(self._codes, return_index=True)
        self._first = np.zeros(len(self._members), np.int32)
        self._first[used] = first
        self._kept = (clusters.centroids != 0).astype(np.float32)

    def __call__(self, weights: object) -> object:
        flat, codes = keras.ops.reshape(keras.ops.convert_to_tensor(weights), (-1,)), self._codes.ravel()
        # Only how far each is from the first is added up: equal weights stay what they are to the last bit.
        first = keras.ops.take(flat, self._first)
        apart = flat - keras.ops.take(first, codes)
        sums = keras.ops.segment_sum(apart, codes, num_segments=len(self._members))
        means = keras.ops.add(first, keras.ops.divide(sums, np.maximum(self._members, 1)))
        means = keras.ops.multiply(means, self._kept)
        return keras.ops.take(means, self._codes)


def _check_kernel(name: str, kernels: dict[str, keras.Variable], clusters: Clusters) -> None:
    if name not in kernels or tuple(kernels[name].shape) != clusters.codes.shape:
        there = f"is of shape {tuple(kernels[name].shape)}" if name in kernels else "is not in the model"
        raise ValueError(
            f"The clusters are of a kernel {name} of shape {clusters.codes.shape}, which {there}: "
            "make them with clustering.cluster_model from the model that is trained."
        )
    # One of this kind was left by a training that broke off.
    if kernels[name].constraint is not None and not isinstance(kernels[name].constraint, _Means):
        raise ValueError(
            f"The kernel {name} has a constraint already, and sharing would undo it: leave it out. "
            "Zeros are kept by clusters made with keep_zeros=True."
        )
