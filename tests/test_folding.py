"""Facts about models that are built again: what batch normalization folds into, and that nothing else changes."""

import keras
import numpy as np
import pytest

from helpers import folding, models

layers = keras.layers


def _settled(model, *, seed=0, negative=False):
    """Gives a model random weights, and its normalizations such statistics as a training leaves."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            parts = [random.uniform(0.5, 1.5, layer.gamma.shape)] if layer.scale else []
            if negative:
                parts[0][0] *= -1
            parts += [random.normal(size=layer.moving_mean.shape)] * layer.center
            layer.set_weights([*parts, random.normal(size=layer.moving_mean.shape),
                               random.uniform(0.5, 2, layer.moving_mean.shape)])  # fmt: skip
        else:
            layer.set_weights([random.normal(scale=0.5, size=part.shape) for part in layer.get_weights()])
    return model


def _normalizations(model):
    return [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)]


def _pictures(shape, count=4):
    return np.random.default_rng(9).normal(size=(count, *shape)).astype(np.float32)


def _outputs(model, inputs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(inputs))


def _assert_same(folded, model, shape=(8, 8, 2)):
    np.testing.assert_allclose(_outputs(folded, _pictures(shape)), _outputs(model, _pictures(shape)), atol=1e-4)


def _stack(*parts, shape=(8, 8, 2), name=None):
    return keras.Sequential([keras.Input(shape), *parts], name=name)


def test_a_dense_layer_takes_over_a_normalization_by_hand():
    dense, normal = layers.Dense(1, name="dense"), layers.BatchNormalization(epsilon=0.0)
    model = _stack(dense, normal, shape=(2,))
    dense.set_weights([np.array([[1.0], [2.0]]), np.array([3.0])])
    normal.set_weights([np.array([6.0]), np.array([-1.0]), np.array([5.0]), np.array([4.0])])
    # 6 / sqrt(4) = 3; 3 * (x + 2y + 3 - 5) - 1 = 3x + 6y - 7
    kernel, bias = folding.fold_batch_normalization(model).get_layer("dense").get_weights()
    np.testing.assert_allclose(kernel, [[3], [6]])
    np.testing.assert_allclose(bias, [-7])


@pytest.mark.parametrize(
    "parts",
    [
        lambda: [layers.Conv2D(3, 3), layers.BatchNormalization()],
        lambda: [layers.Conv2D(4, 3, use_bias=False, groups=2, strides=2), layers.BatchNormalization(scale=False)],
        lambda: [layers.DepthwiseConv2D(3, depth_multiplier=3), layers.BatchNormalization(center=False)],
        lambda: [layers.Conv2D(3, 3), layers.MaxPooling2D(3, 2, padding="same"), layers.BatchNormalization(axis=3)],
        lambda: [layers.Dense(3), layers.MaxPooling2D(), layers.AveragePooling2D(2), layers.BatchNormalization()],
    ],
)
def test_normalization_is_gone_and_the_outputs_are_equal(parts):
    model = _settled(_stack(*parts()))
    before = model.get_weights()
    folded = folding.fold_batch_normalization(model)
    assert _normalizations(folded) == []
    _assert_same(folded, model)
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.parametrize(("pool", "left"), [(layers.MaxPooling2D, 1), (layers.AveragePooling2D, 0)])
def test_a_negative_factor_passes_an_average_but_not_a_maximum(pool, left):
    model = _settled(_stack(layers.Conv2D(3, 3), pool(2, padding="same"), layers.BatchNormalization()), negative=True)
    folded = folding.fold_batch_normalization(model)
    assert len(_normalizations(folded)) == left
    _assert_same(folded, model)


def test_a_graph_with_branches_keeps_what_cannot_be_folded():
    inputs = keras.Input((8, 8, 2))
    x = layers.BatchNormalization(name="of_the_input")(inputs)
    first = layers.Conv2D(3, 3, padding="same")(x)
    branch = layers.BatchNormalization(name="of_a_fork")(first)  # the sum below needs what is before it
    branch = layers.Conv2D(3, 3, padding="same", activation="relu")(branch)
    branch = layers.BatchNormalization(name="behind_a_relu")(branch)
    branch = layers.Conv2D(3, 3, padding="same", use_bias=False, name="taking")(branch)
    branch = layers.BatchNormalization(name="folds")(branch)
    x = layers.BatchNormalization(name="of_a_sum")(layers.Add()([first, branch]))
    shared = layers.Conv2D(3, 3, name="shared")
    twice = layers.Add()([layers.BatchNormalization(name="of_one_of_two")(shared(x)), shared(branch)])
    out = layers.Conv2D(2, 1)(twice)
    normal = layers.BatchNormalization(name="beside_an_output")(out)
    model = _settled(keras.Model(inputs, [out, normal]))
    folded = folding.fold_batch_normalization(model)
    assert set(_normalizations(model)) - set(_normalizations(folded)) == {"folds"}
    assert folded.get_layer("taking").use_bias
    pictures = _pictures((8, 8, 2))
    for old, now in zip(_outputs(model, pictures), _outputs(folded, pictures), strict=True):
        np.testing.assert_allclose(now, old, atol=1e-4)


def test_a_normalization_of_two_layers_stays():
    inputs, normal = keras.Input((8, 8, 2)), layers.BatchNormalization()
    parts = [normal(layers.Conv2D(3, 3)(inputs)), normal(layers.Conv2D(3, 3)(inputs))]
    model = _settled(keras.Model(inputs, layers.Add()(parts)))
    folded = folding.fold_batch_normalization(model)
    assert len(_normalizations(folded)) == 1
    _assert_same(folded, model)


def test_operations_and_models_in_a_graph_are_taken_over_as_they_are():
    inputs = keras.Input((8, 8, 2))
    x = _stack(layers.Conv2D(3, 3), layers.BatchNormalization(), name="inner")(inputs)
    x = layers.BatchNormalization(name="behind_an_operation")(keras.ops.sin(x) + 1)
    x = layers.BatchNormalization(name="folds")(layers.Conv2D(3, 3)(x))
    model = keras.Model(inputs, x)
    _settled(model.get_layer("inner"))
    for layer in model.layers[2:]:
        layer.set_weights([part + 0.5 for part in layer.get_weights()])
    folded = folding.fold_batch_normalization(model)
    assert _normalizations(folded) == ["behind_an_operation"]
    assert len(_normalizations(folded.get_layer("inner"))) == 1
    _assert_same(folded, model)


def test_normalization_along_another_axis_stays():
    model = _settled(_stack(layers.Conv2D(3, 3), layers.BatchNormalization(axis=1)))
    assert len(_normalizations(folding.fold_batch_normalization(model))) == 1


def test_normalization_of_the_last_axis_of_channels_first_stays():
    for parts in (
        [layers.Conv2D(6, 1, data_format="channels_first")],
        [layers.Dense(6), layers.AveragePooling2D((1, 2), padding="same", strides=1, data_format="channels_first")],
    ):
        model = _settled(_stack(*parts, layers.BatchNormalization(), shape=(2, 6, 6)))
        folded = folding.fold_batch_normalization(model)
        assert len(_normalizations(folded)) == 1
        np.testing.assert_array_equal(_outputs(folded, _pictures((2, 6, 6))), _outputs(model, _pictures((2, 6, 6))))


@pytest.mark.parametrize(("blocks", "left"), [(0, 0), (1, 6)])
def test_the_better_cnn_keeps_only_what_stands_before_the_convolutions_of_its_blocks(blocks, left):
    model = _settled(models.better_cnn((16, 16, 1), 3, width=4, blocks=blocks))
    folded = folding.fold_batch_normalization(model)
    # In each of three stages: the one behind the fork in front of the block, and the one behind its sum.
    assert len(_normalizations(folded)) == left
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 1), dtype=np.uint8)
    np.testing.assert_allclose(_outputs(folded, images), _outputs(model, images), rtol=1e-4, atol=1e-4)
    assert folded.inputs[0].dtype == "uint8"


def test_rebuilding_gives_an_equal_uncompiled_model_with_weights_of_its_own():
    model = _settled(models.better_cnn((8, 8, 1), 3, width=2))
    model.compile("sgd", "mse")
    copy = folding.rebuild(model)
    assert not copy.compiled
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    before = _outputs(model, images)
    np.testing.assert_array_equal(_outputs(copy, images), before)
    copy.set_weights([0 * part for part in copy.get_weights()])
    np.testing.assert_array_equal(_outputs(model, images), before)


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        pass

    for model in (Own(), keras.Sequential(), keras.Sequential([layers.Dense(2)])):
        for ask in (folding.fold_batch_normalization, folding.without_softmax):
            with pytest.raises(ValueError, match="cannot be rebuilt layer by layer: a functional model, or a sequent"):
                ask(model)


@pytest.mark.parametrize(
    "end",
    [[layers.Dense(3, activation="softmax")], [layers.Dense(3), layers.Activation("softmax")],
     [layers.Dense(3), layers.Softmax()], [layers.Dense(3, activation=keras.ops.softmax)],
     [layers.Dense(3, activation="softmax"), layers.Dropout(0.5), layers.Activation("linear", dtype="float32")]],
)  # fmt: skip
def test_what_is_left_without_the_softmax_are_the_logits(end):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), *end])
    logits = folding.without_softmax(model)
    x = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    powers = np.exp(_outputs(logits, x))
    probabilities = _outputs(model, x)
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), probabilities, rtol=1e-4)
    assert not np.allclose(powers.sum(axis=1), np.exp(probabilities).sum(axis=1))
    assert folding.without_softmax(logits) is logits


def test_a_softmax_that_cannot_be_taken_out_is_said_and_what_ends_in_none_is_left_alone():
    inputs = keras.Input((4,))
    inner = _stack(layers.Dense(3, activation="softmax"), shape=(4,), name="inner")
    for end, message in (
        (keras.ops.softmax(layers.Dense(3)(inputs)), "whole ends in a softmax that is an operation and no layer"),
        (inner(inputs), "whole ends in a softmax that is in the model inner inside it"),
    ):
        with pytest.raises(ValueError, match=message):
            folding.without_softmax(keras.Model(inputs, end, name="whole"))
    for end in (_stack(layers.Dense(3), shape=(4,))(inputs), keras.ops.relu(layers.Softmax()(inputs))):
        model = keras.Model(inputs, end)
        assert folding.without_softmax(model) is model
