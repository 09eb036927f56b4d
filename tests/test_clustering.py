"""Facts about shared weights: clusters by hand and beside other k-means, code length, and training that keeps them."""

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.cluster.vq import kmeans2
from scipy.stats import entropy
from sklearn.cluster import KMeans

from helpers import clustering, models, pruning, training
from helpers.clustering import Clusters

values = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=8), elements=st.floats(-10, 10, width=32))
few = hnp.arrays(np.float32, st.integers(1, 60), elements=st.sampled_from(np.linspace(-1, 1, 9, dtype="f")))
counts = st.integers(2, 12)


def _value(x):
    return keras.ops.convert_to_numpy(x)


def _error(weights, centroids):
    return np.min((weights.reshape(-1, 1) - centroids) ** 2, axis=1).sum()


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_k_means_by_hand():
    # Starts at 0, 5, 10; then {0, 1}, {4, 5, 6, 7}, {9, 10}: means 0.5, 5.5, 9.5; nothing moves any more.
    weights = np.array([[10, 0, 5, 1], [4, 6, 7, 9]])
    clusters = clustering.cluster(weights, 3)
    np.testing.assert_array_equal(clusters.centroids, [0.5, 5.5, 9.5])
    np.testing.assert_array_equal(clusters.codes, [[2, 0, 1, 0], [1, 1, 1, 2]])
    np.testing.assert_array_equal(clustering.restore(clusters), [[9.5, 0.5, 5.5, 0.5], [5.5, 5.5, 5.5, 9.5]])


def test_zeros_keep_a_cluster_of_their_own_by_hand():
    weights = np.array([-2.0, 0.0, 0.1, 0.3, 0.0, -4.0])
    clusters = clustering.cluster(weights, 3, keep_zeros=True)
    np.testing.assert_allclose(clusters.centroids, [-3, 0, 0.2], rtol=1e-6)
    np.testing.assert_array_equal(clusters.codes, [0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(clustering.cluster(np.zeros(3), 1, keep_zeros=True).centroids, [0])
    assert len(clustering.cluster(np.arange(1.0, 9.0), 4, keep_zeros=True).centroids) == 4  # no zero, none reserved


def test_a_cluster_that_begins_empty_cuts_another_in_two():
    weights = np.array([0, 1, 2, 3, 100.0])  # starts at 0, 50, 100, and nothing is near 50
    np.testing.assert_array_equal(clustering.cluster(weights, 3).centroids, [0.5, 2.5, 100])


def test_no_more_values_than_clusters_are_kept_exactly():
    weights = np.array([0.1, -0.3, 0.1, 7.0], np.float32)
    for count in (3, 256, 300):
        clusters = clustering.cluster(weights, count)
        np.testing.assert_array_equal(clustering.restore(clusters), weights)
        assert clusters.codes.dtype == (np.uint8 if count <= 256 else np.uint16)


def test_entropy_and_bytes_by_hand():
    assert clustering.entropy(np.repeat([5, 1, 2], [4, 2, 2])) == 1.5
    assert clustering.entropy(np.zeros((3, 3), int)) == 0
    assert clustering.coded_bytes(np.repeat([5, 1, 2], [4, 2, 2]).reshape(2, 4)) == 1.5


# ── properties ──────────────────────────────────────────────────────────────────────────────────


@given(weights=st.one_of(values, few), count=counts, keep=st.booleans())
def test_every_weight_is_at_the_centroid_of_its_cluster_and_no_value_is_without_weights(weights, count, keep):
    clusters = clustering.cluster(weights, count, keep_zeros=keep)
    restored = clustering.restore(clusters)
    assert restored.dtype == np.float32
    assert restored.shape == weights.shape
    np.testing.assert_array_equal(np.unique(clusters.codes), np.arange(len(clusters.centroids)))
    assert len(clusters.centroids) <= count
    assert np.all(np.diff(clusters.centroids) >= 0)
    if keep:
        assert np.all(restored[weights == 0] == 0)
    for code, centroid in enumerate(clusters.centroids):
        np.testing.assert_allclose(weights[clusters.codes == code].mean(dtype=float), centroid, rtol=1e-5, atol=1e-6)


@given(weights=st.one_of(values, few), count=counts)
@example(weights=np.array([[0, 3, 1, 4, -1], [6e-42, 1.2e-38, 5, 2, 2]], np.float32), count=8)  # cut to the last round
def test_no_weight_is_nearer_to_another_centroid(weights, count):
    clusters = clustering.cluster(weights, count)
    error = np.sum((clustering.restore(clusters).astype(float) - weights) ** 2)
    assert error <= _error(weights, clusters.centroids.astype(float)) + 1e-4
    assert error <= np.sum((weights - weights.mean(dtype=float)) ** 2) + 1e-4  # never worse than one cluster


@given(weights=values, count=counts)
def test_the_order_of_the_weights_does_not_matter(weights, count):
    flat, turned = clustering.cluster(weights.ravel(), count), clustering.cluster(weights.ravel()[::-1], count)
    np.testing.assert_array_equal(flat.centroids, turned.centroids)
    np.testing.assert_array_equal(flat.codes, turned.codes[::-1])


@given(codes=hnp.arrays(np.uint8, hnp.array_shapes(max_dims=2), elements=st.integers(0, 9)))
def test_entropy_is_that_of_scipy_and_at_most_the_bits_of_a_plain_code(codes):
    bits = clustering.entropy(codes)
    assert bits == pytest.approx(entropy(np.bincount(codes.ravel()), base=2), abs=1e-12)
    assert bits <= np.log2(len(np.unique(codes))) + 1e-12


# ── beside other implementations ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [2, 5, 16])
def test_scikit_learn_and_scipy_find_the_same_centroids_from_the_same_start(count):
    weights = np.random.default_rng(0).uniform(-1, 1, 1000).astype("f")
    start = np.linspace(weights.min(), weights.max(), count)[:, None]
    theirs = KMeans(count, init=start, n_init=1, max_iter=1000, tol=0).fit(weights[:, None])
    scipys, codes = kmeans2(weights[:, None].astype(float), start.astype(float), minit="matrix", iter=1000)
    clusters = clustering.cluster(weights, count)
    np.testing.assert_allclose(clusters.centroids, np.sort(theirs.cluster_centers_.ravel()), atol=1e-6)
    np.testing.assert_allclose(clusters.centroids, scipys.ravel(), atol=1e-6)
    np.testing.assert_array_equal(clusters.codes, codes)


def test_many_clusters_of_a_bell_are_as_good_as_those_of_scikit_learn():
    weights = np.random.default_rng(0).normal(size=5000).astype("f")
    start = np.linspace(weights.min(), weights.max(), 128)[:, None]
    theirs = KMeans(128, init=start, n_init=1, max_iter=1000, tol=0).fit(weights[:, None])
    clusters = clustering.cluster(weights, 128)
    assert len(clusters.centroids) == 128
    assert np.sum((clustering.restore(clusters) - weights) ** 2) < 1.1 * theirs.inertia_


# ── models ──────────────────────────────────────────────────────────────────────────────────────

_CODES = np.array([[0], [1], [1], [2], [0], [1]], np.uint8)
_START = np.array([-0.5, 0.0, 0.25], np.float32)


def _line(optimizer=None, **options):
    """Returns a linear model of six weights in three clusters, its clusters, and what it learns from."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False, name="line")])
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **options or {"run_eagerly": True})
    clusters = Clusters(_START, _CODES)
    model.get_layer("line").kernel.assign(clustering.restore(clusters))
    random = np.random.default_rng(0)
    return model, {"line": clusters}, random.normal(size=(64, 6)).astype("f"), random.normal(size=(64, 1)).astype("f")


def _centroids_by_hand(x, y, *, batch):
    """Returns where gradient descent on the centroids themselves takes them; the one at 0 stays."""
    centroids = _START.astype(float)
    for first in range(0, len(x), batch):
        rows = slice(first, first + batch)
        gradient = 2 * x[rows].T @ (x[rows] @ centroids[_CODES] - y[rows]) / batch
        for code in (0, 2):
            centroids[code] -= 0.05 * gradient[code == _CODES].mean()
    return centroids


@pytest.mark.parametrize("steps", [1, 8])
def test_sharing_trains_the_centroids_with_the_mean_of_the_gradients(steps):
    model, clusters, x, y = _line(steps_per_execution=steps)
    callback = clustering.Shared(clusters)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])
    expected = _centroids_by_hand(x, y, batch=8)
    np.testing.assert_allclose(_value(model.get_layer("line").kernel), expected[_CODES], rtol=1e-4)
    np.testing.assert_array_equal(clustering.restore(callback.clusters["line"]), _value(model.get_layer("line").kernel))
    np.testing.assert_array_equal(clusters["line"].centroids, _START)  # the caller's stay


def test_sharing_ends_with_the_training_and_can_begin_in_a_later_one():
    model, clusters, x, y = _line(steps_per_execution=8)
    kernel = model.get_layer("line").kernel

    def distinct():
        return len(np.unique(_value(kernel)))

    model.fit(x, y, batch_size=8, verbose=0)
    assert distinct() == 6
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[clustering.Shared(clusters)])
    assert distinct() == 3
    assert kernel.constraint is None
    model.fit(x, y, batch_size=8, verbose=0)
    assert distinct() == 6


def test_a_step_that_was_compiled_before_shares_too():
    model, clusters, x, y = _line(steps_per_execution=8)
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    model.get_layer("line").kernel.assign(clustering.restore(clusters["line"]))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[clustering.Shared(clusters)])
    expected = _centroids_by_hand(x, y, batch=8)[_CODES]
    np.testing.assert_allclose(_value(model.get_layer("line").kernel), expected, rtol=1e-4)


@pytest.mark.parametrize("end", ["release", "next"])
def test_a_training_that_breaks_off_leaves_what_release_or_the_next_takes_away(end):
    model, clusters, x, y = _line()
    kernel, first = model.get_layer("line").kernel, clustering.Shared(clusters)

    def stop(batch, logs):
        raise KeyboardInterrupt

    breaking = keras.callbacks.LambdaCallback(on_train_batch_end=stop)
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[first, breaking])
    assert kernel.constraint is not None
    if end == "release":
        first.release()
    else:
        model.fit(x, y, batch_size=8, verbose=0, callbacks=[clustering.Shared(clusters)])
    assert kernel.constraint is None
    model.fit(x, y, batch_size=8, verbose=0)
    assert len(np.unique(_value(kernel))) == 6
    clustering.Shared(clusters).release()  # before any training there is nothing to take off


def test_average_of_the_weights_over_time_is_shared_too():
    model, clusters, x, y = _line(optimizer=keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9))
    model.get_layer("line").kernel.assign(np.arange(6.0)[:, None])
    model.fit(x, y, batch_size=8, verbose=0)  # the average begins with weights that are not shared
    callback = clustering.Shared(clusters)
    model.fit(x, y, batch_size=8, verbose=0, callbacks=[callback])
    assert len(np.unique(_value(model.get_layer("line").kernel))) == 3
    np.testing.assert_array_equal(clustering.restore(callback.clusters["line"]), _value(model.get_layer("line").kernel))


def test_equal_weights_stay_as_they_are_to_the_last_bit():
    weights = np.random.default_rng(0).normal(size=(40, 50)).astype("f")
    clusters = clustering.cluster(weights, 7)
    shared = clustering.restore(clusters)
    np.testing.assert_array_equal(_value(clustering._Means(clusters)(shared)), shared)


def test_a_model_has_a_codebook_for_each_kernel():
    model = models.classic_cnn((8, 8, 1), 3, filters=(3, 4), units=5)
    kernels = pruning.kernels(model)
    second = list(kernels)[1]
    kernels[second].assign(np.where(np.arange(4) % 2, _value(kernels[second]), 0))
    before = _value(kernels[second])
    biases = [_value(variable) for variable in model.weights if variable.name == "bias"]
    found = clustering.cluster_model(model, 4)
    assert list(found) == list(kernels)
    for name in kernels:
        assert len(np.unique(_value(kernels[name]))) <= 4
        np.testing.assert_array_equal(_value(kernels[name]), clustering.restore(found[name]))
    np.testing.assert_array_equal(_value(kernels[second]) == 0, before == 0)
    for old, variable in zip(biases, (v for v in model.weights if v.name == "bias"), strict=True):
        np.testing.assert_array_equal(old, _value(variable))


@pytest.mark.slow
def test_a_pruned_network_fine_tunes_with_adam_xla_and_shared_weights():
    keras.utils.set_random_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (256, 8, 8, 1), dtype=np.uint8)
    labels = (images[:, :4].mean(axis=(1, 2, 3)) > images[:, 4:].mean(axis=(1, 2, 3))).astype(int)
    model = models.classic_cnn((8, 8, 1), 2, filters=(4, 4), units=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], jit_compile=True, steps_per_execution=8)
    pruning.apply(model, pruning.global_masks(model, 0.5))
    zeros = {name: _value(kernel) == 0 for name, kernel in pruning.kernels(model).items()}
    callback = clustering.Shared(clustering.cluster_model(model, 8))
    history = training.fit(model, (images, labels), epochs=6, batch_size=16, verbose=False, callbacks=[callback])
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]
    for name, kernel in pruning.kernels(model).items():
        assert len(np.unique(_value(kernel))) <= 8
        assert np.all(_value(kernel)[zeros[name]] == 0)
        np.testing.assert_array_equal(clustering.restore(callback.clusters[name]), _value(kernel))


JAX = """
import importlib.util, sys
import keras
import numpy as np
from helpers import clustering
assert keras.backend.backend() == "jax"
spec = importlib.util.spec_from_file_location("facts", sys.argv[1])
facts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(facts)
for steps in (1, 8):
    facts.test_sharing_trains_the_centroids_with_the_mean_of_the_gradients(steps)
facts.test_sharing_ends_with_the_training_and_can_begin_in_a_later_one()
facts.test_a_step_that_was_compiled_before_shares_too()
"""


@pytest.mark.slow
def test_sharing_on_jax(fresh_python):
    pytest.importorskip("jax")
    fresh_python(JAX, __file__, KERAS_BACKEND="jax")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("weights", "count", "message"),
    [
        (np.ones((2, 3)), 0, r"count is 1 to 65536; received weights of shape \(2, 3\) and a count of 0"),
        (np.ones(3), 2**16 + 1, "1 to 65536"),
        (np.array([0.0, 1.0]), 1, "count is 2 to 65536"),
        (np.array([]), 2, r"shape \(0,\)"),
        (np.array([np.nan, 1.0]), 2, "all finite"),
    ],
)
def test_what_cannot_be_clustered_is_refused(weights, count, message):
    with pytest.raises(ValueError, match=message):
        clustering.cluster(weights, count, keep_zeros=True)


def test_entropy_of_nothing_is_refused():
    with pytest.raises(ValueError, match="there is none"):
        clustering.entropy(np.array([], np.uint8))


def test_clusters_of_another_model_and_other_constraints_are_refused():
    model, clusters, x, y = _line()
    with pytest.raises(ValueError, match="Layer dense is quantized by Keras already"):
        quantized = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="dense")])
        quantized.layers[0].quantize("int8")
        clustering.cluster_model(quantized, 2)
    for wrong, message in [
        ({"other": clusters["line"]}, r"a kernel other of shape \(6, 1\), which is not in the model"),
        ({"line": Clusters(_START, _CODES[:4])}, r"shape \(4, 1\), which is of shape \(6, 1\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0, callbacks=[clustering.Shared(wrong)])
    model.get_layer("line").kernel.constraint = keras.constraints.NonNeg()
    with pytest.raises(ValueError, match="kernel line has a constraint already"):
        model.fit(x, y, verbose=0, callbacks=[clustering.Shared(clusters)])


def test_many_weights_come_to_rest_with_the_nearest_value():
    weights = np.random.default_rng(0).normal(0, 1, 300_000).astype(np.float32)
    centroids, codes = clustering._k_means(weights, 128)
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights.astype(np.float64))
    assert (codes == nearest).all()
