"""Facts about rounding to a grid, the gradient through it, and models that train with it."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import quantization, training
from helpers.quantization import Grid

layers = keras.layers
floats = st.floats(-1e4, 1e4, width=32)
weights = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=4), elements=floats)
widths = st.integers(2, 16)
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own")


def _value(x):
    return keras.ops.convert_to_numpy(x)


def _snapped(values, grid):
    return quantization.dequantize(quantization.quantize(values, grid), grid)


def _network(seed=0):
    """Returns a graph with each kind of layer that can be aware, and a sum."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1), dtype="uint8", name="pictures")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv", bias_initializer="normal")(x)
    y = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=1, name="depthwise", activation="relu")(x)
    x = layers.MaxPooling2D()(layers.Add()([x, y]))
    x = layers.Dropout(0.1)(layers.Flatten()(x))
    outputs = layers.Dense(3, dtype="float32", name="logits")(x)
    return keras.Model(inputs, outputs, name="network")


def _data(count=128):
    random = np.random.default_rng(0)
    images = random.integers(0, 100, (count, 8, 8, 1), dtype=np.uint8)
    labels = np.arange(count) % 3
    for place, label in enumerate(labels):
        images[place, label * 2 : label * 2 + 3] += 120
    return images, labels


def _compiled(model, **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"], **options)
    return model


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_affine_grid_by_hand():
    grid = quantization.affine_grid(-1.0, 1.55)  # 255 steps of 0.01; 100 of them below 0
    assert (float(grid.scale), int(grid.zero_point), grid.low, grid.high) == (pytest.approx(0.01), -28, -128, 127)
    codes = quantization.quantize(np.array([-2.0, -1.0, 0.0, 0.014, 1.55, 3.0]), grid)
    np.testing.assert_array_equal(codes, [-128, -128, -28, -27, 127, 127])
    np.testing.assert_allclose(quantization.dequantize(codes, grid), [-1, -1, 0, 0.01, 1.55, 1.55], rtol=1e-6)


def test_a_range_is_extended_to_0_and_may_be_a_point():
    assert int(quantization.affine_grid(1.0, 2.55).zero_point) == -128
    assert int(quantization.affine_grid(-3.0, -1.0).zero_point) == 127
    for point in (0.0, 5.0, -5.0):
        grid = quantization.affine_grid(point, point)
        np.testing.assert_allclose(_snapped(np.array([0.0, point]), grid), [0, point], rtol=1e-6)


def test_affine_grids_of_several_ranges_are_those_of_each():
    both = quantization.affine_grid(np.array([-1.0, 0.0]), np.array([1.0, 4.0]), bits=4)
    for place, ends in enumerate([(-1.0, 1.0), (0.0, 4.0)]):
        one = quantization.affine_grid(*ends, bits=4)
        assert (both.scale[place], both.zero_point[place]) == (one.scale, one.zero_point)


def test_symmetric_grid_by_hand():
    kernel = np.array([[0.75, -2.0, 0.0], [-1.4, 1.1, 0.0]])  # a column is a channel; largest 1.4, 2, 0
    grid = quantization.symmetric_grid(kernel, bits=4)
    np.testing.assert_allclose(grid.scale, [[0.2, 2 / 7, 1]])
    np.testing.assert_array_equal(quantization.quantize(kernel, grid), [[4, -7, 0], [-7, 4, 0]])  # 3.75 and 3.85
    whole = quantization.symmetric_grid(kernel, bits=4, axis=None)
    np.testing.assert_allclose(whole.scale, 2 / 7)
    np.testing.assert_array_equal(quantization.quantize(kernel, whole), [[3, -7, 0], [-5, 4, 0]])


def test_a_depthwise_kernel_has_a_grid_for_each_of_its_filters():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 2))
    grid = quantization.symmetric_grid(kernel, axis=(2, 3))
    np.testing.assert_allclose(grid.scale[0, 0], np.abs(kernel).max(axis=(0, 1)) / 127, rtol=1e-6)


def test_halves_go_to_the_even_code():
    codes = quantization.quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5]), Grid(1.0, 0, -8, 7))
    np.testing.assert_array_equal(codes, [0, 2, 2, 0, -2])
    assert codes.dtype == np.int8
    assert quantization.quantize(np.array([300.0]), Grid(1.0, 0, -512, 511)).dtype == np.int16


@on_tensorflow
def test_gradient_is_1_inside_the_range_and_0_outside():
    import tensorflow as tf

    x = tf.Variable([-5.0, -1.9, -0.3, 0.0, 0.2, 1.4, 5.0])
    with tf.GradientTape() as tape:
        y = quantization.fake_quantize(x, scale=0.5, zero_point=1, low=-3, high=4)  # -2 to 1.5
        total = tf.reduce_sum(y * tf.range(1.0, 8.0))
    np.testing.assert_allclose(y, [-2, -2, -0.5, 0, 0, 1.5, 1.5])
    np.testing.assert_allclose(tape.gradient(total, x), [0, 2, 3, 4, 5, 6, 0])


@on_tensorflow
def test_every_weight_of_an_aware_layer_has_a_gradient_the_largest_too():
    import tensorflow as tf

    # 0.7 / (0.7 / 7) is above 7 in float32 for many such numbers.
    random = np.random.default_rng(0)
    layer = quantization.AwareDense(500, weight_bits=4)
    layer.build((None, 2))
    layer.kernel.assign(random.normal(size=(2, 500)))
    inputs = tf.constant([[2.0, -3.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(inputs))
    np.testing.assert_allclose(tape.gradient(total, layer.kernel._value), np.tile([[2.0], [-3.0]], 500), rtol=1e-5)


def test_a_range_is_the_first_batch_and_then_moves_by_a_hundredth():
    layer = quantization.FakeQuantize(8)
    layer(np.array([-1.0, 3.0], np.float32), training=True)
    assert (float(layer.minimum), float(layer.maximum)) == (-1, 3)
    layer(np.array([1.0, 13.0], np.float32), training=True)
    assert (float(layer.minimum), float(layer.maximum)) == (pytest.approx(-0.99), pytest.approx(3.1))
    x = np.array([-99.0, -0.5, 0.334, 2.0], np.float32)
    expected = _snapped(x, quantization.affine_grid(_value(layer.minimum), _value(layer.maximum)))
    np.testing.assert_allclose(_value(layer(x)), expected, rtol=1e-6)
    assert (float(layer.minimum), float(layer.maximum)) == (pytest.approx(-0.99), pytest.approx(3.1))


def test_a_range_without_a_training_is_that_of_the_batch():
    layer, x = quantization.FakeQuantize(4), np.array([-1.0, 0.34, 2.0], np.float32)
    np.testing.assert_allclose(_value(layer(x)), _snapped(x, quantization.affine_grid(-1.0, 2.0, bits=4)), rtol=1e-6)
    assert float(layer.maximum) == 0
    np.testing.assert_array_equal(_value(layer(np.zeros(3, np.float32))), np.zeros(3))


def test_an_aware_layer_is_the_product_of_rounded_parts():
    random = np.random.default_rng(0)
    layer, x = quantization.AwareDense(5, weight_bits=3, activation_bits=4), random.normal(size=(6, 7)).astype("f")
    layer.build((None, 7))
    layer.bias.assign(random.normal(size=5))
    kernel = _value(layer.kernel)
    by_hand = _snapped(x, quantization.affine_grid(x.min(), x.max(), bits=4)) @ _snapped(
        kernel, quantization.symmetric_grid(kernel, bits=3)
    ) + _value(layer.bias)
    np.testing.assert_allclose(_value(layer(x, training=True)), by_hand, rtol=1e-5, atol=1e-6)


# ── properties ──────────────────────────────────────────────────────────────────────────────────


@given(ends=st.tuples(floats, floats), x=hnp.arrays(np.float32, 20, elements=floats), bits=widths)
def test_round_trip_errs_by_half_a_step_at_most_inside_the_range(ends, x, bits):
    minimum, maximum = min(ends), max(ends)
    grid, x = quantization.affine_grid(minimum, maximum, bits=bits), np.clip(x, minimum, maximum)
    slack = 1e-6 * max(abs(minimum), abs(maximum))  # float32
    assert np.abs(_snapped(x, grid) - x).max() <= 0.5 * grid.scale + slack
    assert _snapped(np.zeros(1), grid) == 0
    assert grid.low <= grid.zero_point <= grid.high


@given(kernel=weights, bits=widths, axis=st.sampled_from([-1, 0, (0, 1), None]))
def test_symmetric_codes_err_by_half_a_step_reach_both_ends_and_keep_signs_and_zeros(kernel, bits, axis):
    grid = quantization.symmetric_grid(kernel, bits=bits, axis=axis)
    codes = quantization.quantize(kernel, grid)
    tolerance = 0.5 * grid.scale + 1e-6 * np.abs(kernel)
    assert np.all(np.abs(quantization.dequantize(codes, grid) - kernel) <= tolerance)
    assert np.all(np.abs(codes) <= 2 ** (bits - 1) - 1)
    assert np.all((codes == 0) | (np.sign(codes) == np.sign(kernel)))
    np.testing.assert_array_equal(quantization.quantize(-kernel, grid), -codes)
    if axis is None and np.abs(kernel).max() > 1e-30:
        assert np.abs(codes).max() == 2 ** (bits - 1) - 1


@given(codes=hnp.arrays(np.int16, 10, elements=st.integers(-8, 7)), scale=st.floats(1e-3, 1e3), zero=st.integers(-8, 7))
def test_codes_come_back_from_the_numbers_they_stand_for(codes, scale, zero):
    grid = Grid(scale, zero, -8, 7)
    np.testing.assert_array_equal(quantization.quantize(quantization.dequantize(codes, grid), grid), codes)


@given(x=hnp.arrays(np.float32, 20, elements=st.floats(-100, 100, width=32)), bits=widths)
def test_fake_quantization_gives_the_numbers_of_the_real_one(x, bits):
    grid = quantization.affine_grid(-20.0, 50.0, bits=bits)
    fake = quantization.fake_quantize(keras.ops.convert_to_tensor(x), **grid._asdict())
    np.testing.assert_allclose(_value(fake), _snapped(x, grid), rtol=1e-6, atol=1e-7)


# ── beside other implementations ────────────────────────────────────────────────────────────────


@on_tensorflow
@pytest.mark.parametrize(("minimum", "maximum"), [(-1.0, 3.0), (0.0, 6.0), (-2.0, 0.5)])
def test_tensorflow_rounds_to_the_same_grid_with_the_same_gradient(minimum, maximum):
    import tensorflow as tf

    x = tf.Variable(np.random.default_rng(0).uniform(-4, 8, 1000).astype("f"))
    grid = quantization.affine_grid(minimum, maximum)
    with tf.GradientTape(persistent=True) as tape:
        ours = quantization.fake_quantize(x, **grid._asdict())
        theirs = tf.quantization.fake_quant_with_min_max_vars(x, minimum, maximum)
    # Its ends are the range's moved by the rounding of the zero point, as ours are; halves go up there.
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(tape.gradient(ours, x), tape.gradient(theirs, x))


def test_keras_rounds_a_kernel_to_the_same_codes():
    kernel = np.random.default_rng(0).normal(size=(20, 6)).astype("f")
    codes, _ = keras.quantizers.abs_max_quantize(kernel, axis=0, to_numpy=True)
    np.testing.assert_array_equal(quantization.quantize(kernel, quantization.symmetric_grid(kernel)), codes)


# ── models ──────────────────────────────────────────────────────────────────────────────────────


def test_an_aware_model_with_many_bits_is_the_model():
    model = _network()
    before = model.get_weights()
    aware = quantization.aware(model, weight_bits=16, activation_bits=16)
    assert [layer.name for layer in aware.layers] == [layer.name for layer in model.layers]
    assert not aware.compiled
    images = _data()[0]
    np.testing.assert_allclose(_value(aware(images)), _value(model(images)), atol=1e-3)
    assert len(aware.trainable_variables) == len(model.trainable_variables)
    np.testing.assert_equal(model.get_weights(), before)


def test_few_bits_change_the_outputs_and_weights_and_activations_each_do():
    model, images = _network(), _data()[0]
    exact = _value(model(images))
    for bits in [{"weight_bits": 3, "activation_bits": None}, {"weight_bits": 16, "activation_bits": 3}]:
        assert np.abs(_value(quantization.aware(model, **bits)(images)) - exact).max() > 0.01


@pytest.mark.parametrize(("widths", "first", "others"), [
    ({"weight_bits": 4}, 7, 7), ({"weight_bits": 3, "first_bits": 8}, 127, 3),
])  # fmt: skip
def test_plain_is_the_aware_model_that_rounds_weights_only_in_ordinary_layers(widths, first, others):
    model, images = _network(), _data()[0]
    aware = quantization.aware(model, activation_bits=None, **widths)
    plain = quantization.plain(aware)
    np.testing.assert_allclose(_value(plain(images)), _value(aware(images)), rtol=1e-5, atol=1e-5)
    assert all(type(layer).__module__.startswith("keras.") for layer in plain.layers)
    for name, axes, most in [("conv", (0, 1, 2), first), ("depthwise", (0, 1), others), ("logits", (0,), others)]:
        kernel = _value(plain.get_layer(name).kernel)
        steps = kernel / (np.abs(kernel).max(axis=axes, keepdims=True) / most)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5 if most < 127 else 1e-4)
    assert len(np.unique(_value(plain.get_layer("conv").kernel))) > others  # more than the others' bits tell apart


def test_a_sequential_model_becomes_aware_and_plain_again():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, activation="relu"), layers.Dense(2, use_bias=False)])
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("f")
    plain = quantization.plain(quantization.aware(model, weight_bits=16))
    np.testing.assert_allclose(_value(plain(x)), _value(model(x)), atol=1e-3)


@pytest.fixture(scope="module")
def trained():
    """An aware model after a training with half of its last kernel pruned, its history, and the mask."""
    aware = _compiled(quantization.aware(_network(), weight_bits=4, activation_bits=6))
    kernel = aware.get_layer("logits").kernel
    mask = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.assign(_value(kernel) * mask)
    kernel.constraint = lambda weights: weights * mask.astype("float32")
    return aware, training.fit(aware, _data(), epochs=8, batch_size=8, verbose=False), mask


def test_training_moves_ranges_and_weights_and_gets_better(trained):
    aware, history, _ = trained
    images, labels = _data()
    assert history["accuracy"].iloc[-1] > 0.95
    assert all(float(aware.get_layer(name).rounding.maximum) > 0 for name in ("conv", "depthwise", "logits"))
    plain = quantization.plain(aware)
    assert np.mean(training.logits(plain, images).argmax(axis=1) == labels) > 0.95
    assert len(np.unique(_value(aware.get_layer("logits").kernel))) > 3 * 15 + 1  # what is trained stays fine


def test_what_is_pruned_stays_pruned(trained):
    aware, _, mask = trained
    kernel = aware.get_layer("logits").kernel
    assert np.all(_value(quantization.plain(aware).get_layer("logits").kernel)[~mask] == 0)
    assert np.all(_value(kernel)[mask] != 0)


def test_a_saved_aware_model_keeps_weights_ranges_and_bits(trained, tmp_path):
    aware, _, _ = trained
    aware.save(tmp_path / "aware.keras")
    again = keras.models.load_model(tmp_path / "aware.keras")
    assert (again.get_layer("conv").weight_bits, again.get_layer("conv").activation_bits) == (4, 6)
    np.testing.assert_equal(again.get_weights(), aware.get_weights())
    images = _data()[0]
    np.testing.assert_array_equal(_value(again(images)), _value(aware(images)))


def test_rounding_is_done_in_float32_under_mixed_precision(precision):
    with precision("mixed_bfloat16"):
        aware = quantization.aware(_network(), weight_bits=8)
    assert aware.get_layer("conv").compute_dtype == "bfloat16"
    assert aware.get_layer("depthwise").output.dtype == "bfloat16"
    assert aware.outputs[0].dtype == "float32"
    layer = quantization.AwareDense(50, use_bias=False, dtype="mixed_bfloat16")
    rounded = _value(keras.ops.cast(layer(np.eye(9, dtype="f")), "float32"))
    kernel = _value(layer.kernel)
    expected = _snapped(kernel, quantization.symmetric_grid(kernel))
    np.testing.assert_array_equal(rounded, _value(keras.ops.cast(keras.ops.cast(expected, "bfloat16"), "float32")))
    x = keras.ops.cast(np.linspace(0, 1, 9), "bfloat16")
    assert keras.backend.standardize_dtype(quantization.fake_quantize(x, scale=0.1, low=-8, high=7).dtype) == "bfloat16"


@pytest.mark.slow
def test_xla_trains_as_the_graph_does():
    images, labels = _data()
    losses, ranges = [], []
    for options in ({"jit_compile": False}, {"jit_compile": True, "steps_per_execution": 8}):
        aware = _compiled(quantization.aware(_network(), weight_bits=8), **options)
        history = training.fit(aware, (images, labels), epochs=6, batch_size=16, verbose=False)
        losses.append(history["loss"].iloc[-1])
        ranges.append(float(aware.get_layer("logits").rounding.maximum))
    assert max(losses) < 0.5
    np.testing.assert_allclose(*ranges, rtol=0.2)


@pytest.mark.slow
def test_mixed_precision_trains(precision):
    with precision("mixed_bfloat16"):
        aware = _compiled(quantization.aware(_network(), weight_bits=4), steps_per_execution=8)
        history = training.fit(aware, _data(), epochs=8, batch_size=8, verbose=False)
    assert history["accuracy"].iloc[-1] > 0.9


LOAD = """
import sys, keras
import numpy as np
model = keras.models.load_model(sys.argv[1])
assert "helpers" not in sys.modules
np.testing.assert_allclose(model.predict(np.load(sys.argv[2]), verbose=0), np.load(sys.argv[3]), rtol=1e-5, atol=1e-5)
"""

JAX = """
import jax, keras
import numpy as np
from helpers import folding, quantization, training
assert keras.backend.backend() == "jax"
x = np.array([-5.0, -1.9, -0.3, 0.0, 0.2, 1.4, 5.0], np.float32)
slope = jax.grad(lambda x: quantization.fake_quantize(x, scale=0.5, zero_point=1, low=-3, high=4).sum())(x)
np.testing.assert_array_equal(slope, [0, 1, 1, 1, 1, 1, 0])
layers, random = keras.layers, np.random.default_rng(0)
inputs = keras.Input((8, 8, 1))
x = layers.DepthwiseConv2D(3, activation="relu")(layers.Conv2D(4, 3, use_bias=False)(inputs))
model = keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(layers.BatchNormalization()(x))))
images, labels = random.normal(size=(64, 8, 8, 1)).astype("float32"), np.arange(64) % 3
training.renew_statistics(model, images)
assert np.abs(model.layers[3].moving_mean).max() > 0
model = quantization.aware(folding.fold_batch_normalization(model), weight_bits=4)
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), steps_per_execution=8)
history = training.fit(model, (images, labels), epochs=4, batch_size=8, verbose=False)
assert history["loss"].iloc[-1] < history["loss"].iloc[0]
assert float(model.get_layer("logits").rounding.maximum) > 0
weights_only = quantization.aware(model := quantization.plain(model), weight_bits=4, activation_bits=None)
np.testing.assert_allclose(weights_only(images), model(images), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_a_plain_model_loads_without_this_package(tmp_path, fresh_python):
    images = _data(8)[0]
    plain = quantization.plain(quantization.aware(_network(), weight_bits=4))
    plain.save(tmp_path / "plain.keras")
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "logits.npy", _value(plain(images)))
    fresh_python(LOAD, *(tmp_path / name for name in ("plain.keras", "images.npy", "logits.npy")))


@pytest.mark.slow
def test_quantization_on_jax(fresh_python):
    pytest.importorskip("jax")
    fresh_python(JAX, KERAS_BACKEND="jax")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bits", [1, 17, 8.0, 0])
def test_a_width_out_of_range_is_refused(bits):
    message = f"2 to 16 bits; received {bits}"
    for call in (
        lambda: quantization.affine_grid(0.0, 1.0, bits=bits),
        lambda: quantization.symmetric_grid(np.ones((2, 2)), bits=bits),
        lambda: quantization.aware(_network(), weight_bits=bits),
        lambda: quantization.aware(_network(), first_bits=bits),
        lambda: quantization.aware(_network(), activation_bits=bits),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: quantization.affine_grid(1.0, -1.0), "finite minimum up to a maximum; received 1.0 and -1.0"),
        (lambda: quantization.affine_grid(0.0, np.inf), "finite minimum"),
        (lambda: quantization.symmetric_grid(np.array([np.nan])), "not finite"),
        (lambda: quantization.quantize(np.array([np.nan]), Grid(1.0, 0, -8, 7)), "has no code"),
        (lambda: quantization.plain(_network()), "network has none of the layers.*AwareConv2D, Aware"),
        (lambda: quantization.aware(quantization.aware(_network())), "network has none of the layers.*Conv2D, Dep"),
    ],
)
def test_what_cannot_be_quantized_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layers_that_an_aware_one_would_get_wrong_are_refused():
    model = keras.Sequential([keras.Input((2, 4, 4)), layers.Conv2D(3, 1, data_format="channels_first")])
    with pytest.raises(ValueError, match="channels first"):
        quantization.aware(model)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match="quantized by Keras already"):
        quantization.aware(model)
