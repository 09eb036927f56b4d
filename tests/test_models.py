"""Facts about the networks: shapes, sizes known by hand, what goes in and what comes out."""

import keras
import numpy as np
import pytest

from helpers import models, training

BUILDERS = [models.softmax_regression, models.mlp, models.classic_cnn, models.better_cnn]


def _pictures(count, shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_numbers_of_weights_worked_by_hand():
    shape = (28, 28, 1)
    assert models.softmax_regression(shape, 10).count_params() == 784 * 10 + 10
    assert models.mlp(shape, 10).count_params() == 784 * 128 + 128 + 128 * 10 + 10
    convolutions = (9 * 1 * 32 + 32) + (9 * 32 * 64 + 64)
    dense = (5 * 5 * 64 * 128 + 128) + (128 * 10 + 10)
    assert models.classic_cnn(shape, 10).count_params() == convolutions + dense == 225_034


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(("shape", "classes"), [((28, 28, 1), 10), ((7, 5, 3), 2), ((1, 1, 1), 3)])
def test_raw_pixels_in_and_finite_float32_logits_out(build, shape, classes):
    model = build(shape, classes)
    outputs = keras.ops.convert_to_numpy(model(_pictures(3, shape)))
    assert (outputs.shape, outputs.dtype) == ((3, classes), np.float32)
    assert np.isfinite(outputs).all()
    assert model.inputs[0].dtype == "uint8"
    assert not model.compiled


def test_softmax_regression_is_the_formula():
    model = models.softmax_regression((2, 3, 1), 4)
    images = _pictures(5, (2, 3, 1))
    weights, bias = (keras.ops.convert_to_numpy(w) for w in model.weights)
    by_hand = (images.reshape(5, 6) / 255) @ weights + bias
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), by_hand, rtol=1e-5, atol=1e-6)


def test_logits_stay_float32_in_mixed_precision(precision):
    with precision("mixed_bfloat16"):
        model = models.better_cnn((8, 8, 1), 3, width=8)
    assert model.outputs[0].dtype == "float32"
    assert any(layer.compute_dtype == "bfloat16" for layer in model.layers)


@pytest.mark.slow
def test_better_cnn_learns_what_softmax_regression_cannot():
    # Class 1 has its two bright pixels side by side, class 0 apart, anywhere (round the edge): no single pixel tells.
    random = np.random.default_rng(0)
    images, labels = np.zeros((600, 8, 8, 1), np.uint8), np.arange(600) % 2
    for image, label in zip(images, labels, strict=True):
        row, column = random.integers(0, 8, 2)
        image[row, [column, (column + (1 if label else 3)) % 8]] = 255
    scores = {}
    for build in (models.softmax_regression, lambda *shape: models.better_cnn(*shape, width=8, dropout=0.0)):
        keras.utils.set_random_seed(0)
        model = build((8, 8, 1), 2)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        history = training.fit(model, (images, labels), epochs=10, batch_size=50, verbose=False)
        scores[model.name] = history["accuracy"].iloc[-1]
    assert scores["softmax_regression"] < 0.75
    assert scores["better_cnn"] > 0.95


def test_blocks_add_two_convolutions_each_to_every_stage():
    plain, deep = (models.better_cnn((16, 16, 1), 3, width=8, blocks=blocks) for blocks in (0, 2))
    count = [sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) for model in (plain, deep)]
    assert count == [3, 3 + 3 * 2 * 2]


def test_multiply_adds_worked_by_hand():
    products = models.multiply_adds(models.classic_cnn((28, 28, 1), 10))
    assert list(products.values()) == [26 * 26 * 9 * 32, 11 * 11 * 9 * 32 * 64, 5 * 5 * 64 * 128, 128 * 10]


def test_the_widest_network_that_the_budget_allows_is_built():
    def cost(width):
        return 300 * sum(models.multiply_adds(models.better_cnn((16, 16, 3), 4, width=width)).values())

    def width(budget):
        return models.affordable_cnn((16, 16, 3), 4, pictures=100, widths=(8, 4), budget=budget).layers[2].filters

    assert [width(cost(8)), width(cost(8) - 1), width(cost(4)), width(0)] == [8, 4, 4, 4]


def test_large_pictures_are_pooled_down_before_the_dense_layer():
    model = models.better_cnn((128, 96, 3), 5)
    assert model.count_params() < 1_000_000


def test_averaging_over_the_mirror_image_is_blind_to_it():
    model = models.mlp((4, 6, 1), 3)
    both = models.mirror_averaged(model)
    images = _pictures(4, (4, 6, 1))
    mirrored = np.ascontiguousarray(images[:, :, ::-1])
    by_hand = (np.asarray(model(images)) + np.asarray(model(mirrored))) / 2
    np.testing.assert_allclose(both(images), by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(both(mirrored), by_hand, rtol=1e-5, atol=1e-6)


def test_l2_adds_its_penalty_to_the_loss():
    model = models.mlp((2, 2, 1), 2, units=3, regularizer=keras.regularizers.L2(0.1))
    kernel = keras.ops.convert_to_numpy(model.layers[3].kernel)
    np.testing.assert_allclose(float(model.losses[0]), 0.1 * np.sum(kernel**2), rtol=1e-5)


def test_dropout_is_off_at_prediction():
    model = models.mlp((4, 4, 1), 3, dropout=0.9)
    images = _pictures(2, (4, 4, 1))
    np.testing.assert_array_equal(model(images, training=False), model(images, training=False))
    assert not np.array_equal(model(images, training=True), model(images, training=True))


@pytest.mark.parametrize("build", BUILDERS)
def test_what_is_no_picture_or_no_choice_is_named(build):
    with pytest.raises(ValueError, match=r"\(height, width, channels\).*received \(28, 28\)"):
        build((28, 28), 10)
    with pytest.raises(ValueError, match="at least 2 classes; received 1"):
        build((28, 28, 1), 1)
