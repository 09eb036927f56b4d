"""Facts about the fused kernels: the same numbers as Keras's own, and nothing left behind in a model."""

import contextlib

import keras
import numpy as np
import pytest

from helpers import fusion, models

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the kernels are TensorFlow's")
OPTIMIZERS = {
    "Adam": lambda: keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 5)),
    "AdamW": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, beta_2=0.9, clipnorm=1.0),
    "accumulating": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "SGD": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
}


def _data():
    random = np.random.default_rng(0)
    return random.integers(0, 256, (50, 8, 8, 1), dtype=np.uint8), random.integers(0, 3, 50)


def _trained(optimizer, *, fused, traced):
    keras.utils.set_random_seed(0)
    model, data = models.better_cnn((8, 8, 1), 3, width=4), _data()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, run_eagerly=not traced)  # the same kernels, and quicker to begin
    with fusion.fused(model) if fused else contextlib.nullcontext():
        history = model.fit(*data, epochs=2, batch_size=20, shuffle=False, verbose=0, validation_data=data,
                            validation_batch_size=50).history  # fmt: skip
    return model, np.array([history["loss"], history["val_loss"]])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_losses_weights_and_moving_averages_are_those_of_keras(name):
    (one, losses), (other, expected) = (
        _trained(OPTIMIZERS[name](), fused=fused, traced=name == "Adam") for fused in (True, False)
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for found, wanted in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-4)
    for found, wanted in zip(one.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-2, atol=1e-3)


def _after_a_step(layers, inputs, *, fused):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(inputs.shape[1:], dtype=inputs.dtype.name), *layers()])
    model.compile("adam", "mse", run_eagerly=True)
    with fusion.fused(model) if fused else contextlib.nullcontext():
        model.train_on_batch(inputs, np.zeros(model.compute_output_shape(inputs.shape)))
    return model.get_weights()


@pytest.mark.parametrize(
    ("layers", "inputs"),
    [
        (lambda: [keras.layers.BatchNormalization(dtype="float64")], np.arange(24.0).reshape(2, 2, 2, 3)),
        (lambda: [keras.layers.Embedding(9, 2)], np.array([[1, 5], [5, 5]])),
    ],
    ids=["float64", "gradients of a few rows"],
)
def test_what_has_no_kernel_is_computed_as_before(layers, inputs):
    one, other = (_after_a_step(layers, inputs, fused=fused) for fused in (True, False))
    for found, wanted in zip(one, other, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_one_step_of_a_normalization_worked_by_hand():
    layer = keras.layers.BatchNormalization(momentum=0.5, epsilon=0.0)
    inputs = keras.Input((1, 2, 1))
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    pictures = np.array([1.0, 3.0, 5.0, 7.0], np.float32).reshape(2, 1, 2, 1)  # mean 4, variance 5
    with fusion.fused(model):
        loss = model.train_on_batch(pictures, np.zeros_like(pictures))
    assert float(loss) == pytest.approx(1.0)  # what is normalized has mean square 1
    assert np.ravel(layer.moving_mean) == pytest.approx([2.0])
    assert np.ravel(layer.moving_variance) == pytest.approx([3.0])  # half of 1 and half of 5


def test_the_kernels_are_used_inside_the_block_and_gone_after_it():
    model = models.better_cnn((8, 8, 1), 3, width=4)
    model.compile("adam", "mse")
    normal = next(layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    own = normal.call.__func__, model.optimizer.update_step.__func__
    with fusion.fused(model):
        assert normal.call.__func__ is fusion._normalize
        assert model.optimizer.update_step.__func__ is fusion._adam
    assert (normal.call.__func__, model.optimizer.update_step.__func__) == own
    assert type(normal) is keras.layers.BatchNormalization


@pytest.mark.parametrize("options", [{"axis": 1}, {"scale": False}, {"renorm": True}, {"trainable": False}])
def test_other_normalizations_stay_kerass_own(options):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, keras.layers.BatchNormalization(**options)(inputs))
    model.compile("sgd", "mse")
    assert list(fusion._fusible(model)) == []


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam(amsgrad=True), keras.optimizers.Nadam(),
                                       keras.optimizers.SGD(momentum=0.9)], ids=lambda one: one.name)  # fmt: skip
def test_other_optimizers_stay_kerass_own(optimizer):
    model = models.better_cnn((8, 8, 1), 3, width=4)
    model.compile(optimizer, "mse")
    assert [name for _, name, _ in fusion._fusible(model)] == ["call"] * 3


def test_layers_of_a_model_inside_a_model_are_fused_too():
    inner = models.better_cnn((8, 8, 1), 3, width=4)
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    model = keras.Model(inputs, inner(inputs))
    model.compile("adam", "mse")
    assert [name for _, name, _ in fusion._fusible(model)] == ["call"] * 3 + ["update_step"]
