"""Facts about channels: which go together, and that a model without dead ones computes the same."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import channels, models

layers = keras.layers


def _classic():
    return models.classic_cnn((8, 8, 1), 3, filters=(4, 6), units=5)


def _better():
    return models.better_cnn((8, 8, 3), 3, width=4, dropout=0.5)


def _residual():
    return models.better_cnn((8, 8, 1), 3, width=4, blocks=1)


def _sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.ZeroPadding2D(),
            layers.SeparableConv2D(4, 3, depth_multiplier=2, strides=2, activation="relu"),
            layers.SpatialDropout2D(0.2),
            layers.SeparableConv2D(6, 3, depth_multiplier=2),
            layers.BatchNormalization(scale=False),
            layers.PReLU(shared_axes=(1, 2)),
            layers.Reshape((-1, 6)),
            layers.GlobalMaxPooling1D(),
            layers.Dense(5, activation="tanh"),
            layers.Dense(2, activation="softmax"),
        ]
    )


def _mobile():
    inputs = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="stem")(x)
    x = start = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(8, 1, use_bias=False, name="expand")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="depthwise")(x)
    x = layers.Activation("relu6")(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(4, 1, use_bias=False, name="project")(x))
    x = layers.Add()([start, x])
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    return keras.Model(inputs, layers.Dense(3, name="logits")(layers.Flatten()(x)), name="mobile")


def _branches():
    inputs = keras.Input((4, 4, 2))
    left = layers.Conv2D(3, 3, padding="same", activation="relu", name="left")(inputs)
    right = layers.Conv2D(2, 1, name="right")(layers.AveragePooling2D(2)(left))
    both = layers.Concatenate()([layers.UpSampling2D()(right), inputs, left])  # 2 + 2 + 3
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.LeakyReLU()(both))))


def _excited():
    inputs = keras.Input((4, 4, 2))
    x = keras.ops.relu(layers.Conv2D(4, 3, name="conv")(inputs))
    weights = layers.Dense(3, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.Dense(4, activation="sigmoid", name="excite")(weights)])
    x = layers.Dense(8, name="wide")(layers.Flatten()(x))
    x = layers.Conv2D(3, 1, name="last")(layers.Reshape((2, 2, 2), name="map")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


# What follows the producers of each group and has a weight for each of its channels: which of the batch
# normalizations, or the name of a layer that makes two outputs of each input.
FOLLOWERS = {
    _classic: [[], [], []],
    _better: [[0], [1], [2]],
    _residual: [[0, 2], [1], [3, 5], [4], [6, 8], [7]],
    _sequential: [[], [0], []],
    _mobile: [[0, 3], [1, "depthwise", 2]],
    _branches: [[], []],
    _excited: [[], [], [], []],
}
built = functools.cache(lambda build: build())


def _awake(build, seed=0):
    """Returns the model of a builder with none of its weights, biases and statistics at 0 or 1."""
    model, random = built(build), np.random.default_rng(seed)
    values = [random.uniform(0.3, 1.0, weights.shape) for weights in model.weights]
    signs = [1 if "variance" in weights.path else random.choice([-1, 1], weights.shape) for weights in model.weights]
    model.set_weights([sign * value for sign, value in zip(signs, values, strict=True)])
    return model


def _outputs(model):
    shape = (5, *model.input_shape[1:])
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = x if model.inputs[0].dtype == "uint8" else (x / 255).astype(np.float32)
    return keras.ops.convert_to_numpy(model(x))


def _kill(model, build, keep):
    """Makes channels zero wherever they are made or shifted, by the names of layers and the table above."""
    norms = [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)]
    for group, followers in zip(channels.groups(model), FOLLOWERS[build], strict=True):
        names = [norms[each] if isinstance(each, int) else each for each in followers]
        for layer in (model.get_layer(name) for name in (*group.producers, *names)):
            weights = layer.get_weights()
            for variable, values in zip(layer.weights, weights, strict=True):
                if "variance" in variable.path or "depthwise_kernel" in variable.path:
                    continue
                if isinstance(layer, layers.DepthwiseConv2D) and values.ndim > 1:
                    values[..., ~keep[group.name], :] = 0
                    continue
                size = values.shape[-1]
                twice = size == 2 * group.channels and layer.name in names
                number = np.arange(size) // 2 if twice else np.arange(size) % group.channels
                values[..., ~keep[group.name][number]] = 0
            layer.set_weights(weights)


def _assert_equal(outputs, expected):
    assert np.ptp(expected) > 0
    np.testing.assert_allclose(outputs, expected, rtol=1e-3, atol=1e-5 * np.abs(expected).max())


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_a_unit_removed_from_a_dense_network_by_hand():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(3, "relu", name="hidden"), layers.Dense(1)])
    weights = [[[1.0, 2, 3], [4, 5, 6]], [7.0, 8, 9], [[1.0], [2], [3]], [4.0]]
    model.set_weights([np.array(part) for part in weights])
    assert channels.groups(model) == [channels.Group("hidden", ("hidden",), 3)]
    smaller = channels.remove(model, {"hidden": np.array([True, False, True])})
    expected = [[[1, 3], [4, 6]], [7, 9], [[1], [3]], [4]]
    np.testing.assert_equal(smaller.get_weights(), list(map(np.array, expected)))
    assert float(smaller(np.array([[1.0, 1.0]]))[0, 0]) == (1 + 4 + 7) * 1 + (3 + 6 + 9) * 3 + 4


def test_rows_of_a_dense_layer_after_flatten_are_those_of_the_channel_at_every_pixel():
    model = keras.Sequential(
        [keras.Input((1, 2, 1)), layers.Conv2D(3, 1, name="conv"), layers.Flatten(), layers.Dense(1)]
    )
    model.layers[-1].set_weights([np.arange(6.0)[:, None], np.zeros(1)])
    smaller = channels.remove(model, {"conv": np.array([False, True, True])})
    np.testing.assert_array_equal(smaller.layers[-1].get_weights()[0].ravel(), [1, 2, 4, 5])


def test_scores_by_hand():
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            layers.Conv2D(2, (1, 2), use_bias=False, name="conv"),
            layers.MaxPooling2D((2, 1)),
            layers.BatchNormalization(epsilon=1.0, name="bn"),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    model.get_layer("conv").set_weights([np.array([[[[3.0, 1.0]], [[-4.0, 1.0]]]])])
    zeros = np.zeros(2)
    model.get_layer("bn").set_weights([np.array([-2.0, 1.0]), zeros, zeros, np.array([3.0, 0.0])])  # over 2 and over 1
    np.testing.assert_allclose(channels.scores(model)["conv"], [5 * 2 / 2, np.sqrt(2)])


def test_a_normalization_behind_a_fork_or_a_sum_does_not_count():
    inputs = keras.Input((1,))
    first = layers.Dense(2, name="first")(inputs)
    normal = layers.BatchNormalization(name="normal")(first)
    both = layers.Concatenate()([normal, layers.Dense(2, name="second")(inputs)])
    both = layers.BatchNormalization(name="of_both")(both)
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()([both, first])))
    for name in ("first", "second"):
        model.get_layer(name).set_weights([np.array([[3.0, -4.0]]), np.zeros(2)])
    for name in ("normal", "of_both"):
        layer = model.get_layer(name)
        layer.gamma.assign(np.full(layer.gamma.shape, 9.0))
    found = channels.scores(model)
    np.testing.assert_allclose(found["first"], [3, 4])
    np.testing.assert_allclose(found["second"], [3, 4])


def test_a_normalization_behind_flatten_does_not_count():
    model = keras.Sequential([keras.Input((1, 2, 1)), layers.Conv2D(1, 1, name="conv"), layers.Flatten(),
                              layers.BatchNormalization(name="normal"), layers.Dense(1)])  # fmt: skip
    model.get_layer("conv").set_weights([np.full((1, 1, 1, 1), 3.0), np.zeros(1)])
    model.get_layer("normal").gamma.assign([5.0, 7.0])  # a number for each pixel, not for each channel
    np.testing.assert_allclose(channels.scores(model)["conv"], [3])


def test_scores_of_layers_that_meet_are_the_norm_over_all_their_filters():
    inputs = keras.Input((1,))
    both = layers.Add()([layers.Dense(2, name="a")(inputs), layers.Dense(2, name="b")(inputs)])
    model = keras.Model(inputs, layers.Dense(1)(both))
    for name, weights in {"a": [3.0, 1.0], "b": [4.0, 0.0]}.items():
        model.get_layer(name).set_weights([np.array([weights]), np.zeros(2)])
    np.testing.assert_allclose(channels.scores(model)["a"], [5, 1])


def test_shrinking_keeps_the_highest_scores():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(10, name="hidden"), layers.Dense(1)])
    kernel = np.array([[5.0, 1, -9, 2, 8, -3, 7, 4, 6, 10]])
    model.get_layer("hidden").set_weights([kernel, np.zeros(10)])
    kept = channels.shrink(model, share=0.7).get_layer("hidden").get_weights()[0]
    np.testing.assert_array_equal(kept, [[-9, 8, 10]])
    for multiple, count in [(4, 4), (5, 5), (6, 3)]:  # 10 are less than twice 6
        assert channels.shrink(model, share=0.7, multiple=multiple).get_layer("hidden").units == count
    assert channels.shrink(model, share=0.5, multiple=4).get_layer("hidden").units == 4
    assert channels.shrink(model, share=0.4, multiple=4).get_layer("hidden").units == 8
    assert channels.shrink(model, share=0.99).get_layer("hidden").units == 1
    assert channels.shrink(model, share=0.0).count_params() == model.count_params()


# ── which channels go together ──────────────────────────────────────────────────────────────────


def test_groups_of_a_mobile_network():
    assert channels.groups(built(_mobile)) == [("stem", ("stem", "project"), 4), ("expand", ("expand",), 8)]


def test_a_stage_of_a_residual_network_goes_together_and_its_inner_layers_alone():
    model = built(_residual)
    names = [layer.name for layer in model.layers if isinstance(layer, layers.Conv2D)]
    stages = [names[i : i + 3] for i in (0, 3, 6)]
    expected = []
    for (first, inner, last), width in zip(stages, (4, 8, 16), strict=True):
        expected += [(first, (first, last), width), (inner, (inner,), width)]
    assert channels.groups(model) == expected


def test_what_is_added_to_the_input_or_is_an_output_stays():
    inputs = keras.Input((3,))
    x = layers.Add()([inputs, layers.Dense(3, name="on_the_input")(inputs)])
    x = layers.Dense(4, name="free")(x)
    weighed = layers.Softmax()(layers.Dense(5, name="weighed")(x))
    model = keras.Model(inputs, [layers.Dense(2)(weighed), layers.Dense(2)(x)])
    assert [group.name for group in channels.groups(model)] == ["free"]


def test_positions_after_a_concatenation_belong_to_what_they_came_from():
    inputs = keras.Input((4,))
    parts = layers.Concatenate()([layers.Dense(2, name="a")(inputs), layers.Dense(3, name="b")(inputs)])
    model = keras.Model(inputs, layers.Dense(1)(layers.Add()([parts, layers.Dense(5, name="c")(inputs)])))
    assert channels.groups(model) == [("a", ("a", "b", "c"), 5)]
    smaller = channels.remove(model, {"a": np.array([True, False, True, False, True])})
    assert [smaller.get_layer(name).units for name in "abc"] == [1, 2, 3]
    np.testing.assert_array_equal(
        smaller.get_layer("b").get_weights()[0], model.get_layer("b").get_weights()[0][:, ::2]
    )


def test_a_reshape_ties_what_it_puts_under_each_other():
    # The 8 units become 2 channels of 4 pixels: 2 classes of channels, each of 4 units.
    found = {group.name: group.channels for group in channels.groups(built(_excited))}
    assert found == {"conv": 4, "squeeze": 3, "wide": 2, "last": 3}
    smaller = channels.remove(built(_excited), {"wide": np.array([False, True])})
    assert smaller.get_layer("wide").units == 4
    assert smaller.get_layer("map").output.shape == (None, 2, 2, 1)


# ── a model without dead channels computes the same ─────────────────────────────────────────────


@pytest.mark.parametrize("build", FOLLOWERS, ids=lambda build: build.__name__)
def test_removing_channels_that_are_zero_leaves_the_outputs_equal(build):
    model = _awake(build)
    keep = {group.name: np.arange(group.channels) != group.channels // 2 for group in channels.groups(model)}
    _kill(model, build, keep)
    smaller = channels.remove(model, keep)
    _assert_equal(_outputs(smaller), _outputs(model))
    assert smaller.count_params() < model.count_params()
    assert [group.channels + 1 for group in channels.groups(smaller)] == [len(mask) for mask in keep.values()]
    assert (smaller.name, smaller.inputs[0].dtype) == (model.name, model.inputs[0].dtype)
    assert smaller.output_shape == model.output_shape


@pytest.mark.parametrize("build", FOLLOWERS, ids=lambda build: build.__name__)
def test_silenced_channels_can_be_removed_and_the_outputs_stay_equal(build):
    model = _awake(build)
    before = _outputs(model)
    keep = {group.name: np.arange(group.channels) % 3 != 1 for group in channels.groups(model)}
    channels.silence(model, keep)
    silenced = _outputs(model)
    assert not np.allclose(silenced, before)
    _assert_equal(_outputs(channels.remove(model, keep)), silenced)


@pytest.mark.parametrize("first", [
    [layers.Conv2D(4, 3), layers.Conv2D(8, 3), layers.BatchNormalization()],
    [layers.BatchNormalization(), layers.Conv2D(4, 3)], [layers.SeparableConv2D(4, 3)],
    [layers.Flatten(), layers.Dense(4), layers.Dense(6), layers.BatchNormalization()],
], ids=["no_normalization_behind", "normalized_input", "separable", "dense"])  # fmt: skip
def test_the_first_group_of_any_graph_can_be_silenced(first):
    model = keras.Sequential([keras.Input((8, 8, 1)), *first, layers.Flatten(), layers.Dense(3)])
    group = channels.groups(model)[0]
    keep = {group.name: np.arange(group.channels) % 2 == 0}
    channels.silence(model, keep)
    _assert_equal(_outputs(channels.remove(model, keep)), _outputs(model))


@settings(max_examples=12)
@given(st.sampled_from(list(FOLLOWERS)), st.integers(0, 1000))
def test_the_smaller_model_is_the_larger_without_the_effect_of_those_channels(build, seed):
    model, random = _awake(build, seed), np.random.default_rng(seed)
    keep = {}
    for group in channels.groups(model):
        keep[group.name] = random.random(group.channels) < 0.6
        keep[group.name][random.integers(group.channels)] = True
    smaller = channels.remove(model, keep)
    _kill(model, build, keep)
    _assert_equal(_outputs(smaller), _outputs(model))


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 9))
@settings(max_examples=10)
def test_shrinking_leaves_about_the_share_and_at_least_one(share, multiple):
    model = built(_mobile)
    smaller = channels.shrink(model, share=share, multiple=multiple)
    for before, after in zip(channels.groups(model), channels.groups(smaller), strict=True):
        assert after.name == before.name
        wanted = max((1 - share) * before.channels, 1)
        assert after.channels >= 1
        if before.channels < 2 * multiple:
            assert abs(after.channels - wanted) <= max(0.5, 1 - wanted)
        else:
            assert after.channels % multiple == 0 or after.channels == before.channels
            assert after.channels - wanted < multiple
            assert wanted - after.channels <= multiple / 2 + 0.5


def test_half_the_channels_are_about_a_quarter_of_the_weights():
    model = models.better_cnn((8, 8, 1), 3, width=16)
    smaller = channels.shrink(model, share=0.5)
    assert model.count_params() == 9 * (16 + 16 * 32 + 32 * 64) + 4 * (16 + 32 + 64) + 64 * 3 + 3
    assert smaller.count_params() == 9 * (8 + 8 * 16 + 16 * 32) + 4 * (8 + 16 + 32) + 32 * 3 + 3


def test_the_model_that_is_shrunk_stays_as_it_was():
    model = _awake(_mobile)
    before = model.get_weights()
    channels.shrink(model, share=0.5)
    np.testing.assert_equal(model.get_weights(), before)


def test_without_a_word_about_a_group_all_of_it_stays():
    model = _awake(_mobile)
    _assert_equal(_outputs(channels.remove(model, {})), _outputs(model))


def test_normalization_of_the_input_is_taken_over():
    normalization = layers.Normalization()
    normalization.adapt(np.random.default_rng(0).normal(3, 2, (20, 4)))
    model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(6), layers.Dense(2)])
    _assert_equal(_outputs(channels.remove(model, {})), _outputs(model))


def test_what_was_shrunk_is_saved_loaded_and_trained(tmp_path):
    smaller = channels.shrink(_awake(_residual), share=0.5, multiple=2)
    smaller.save(tmp_path / "smaller.keras")
    loaded = keras.models.load_model(tmp_path / "smaller.keras")
    np.testing.assert_array_equal(_outputs(loaded), _outputs(smaller))
    loaded.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    loaded.fit(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 2, 0]), verbose=0)


def test_mixed_precision_stays(precision):
    with precision("mixed_bfloat16"):
        model = models.better_cnn((8, 8, 1), 3, width=4)
    smaller = channels.shrink(model, share=0.5)
    dtypes = [layer.compute_dtype for layer in smaller.layers[1:]]
    assert dtypes == [layer.compute_dtype for layer in model.layers[1:]]
    assert set(dtypes) == {"bfloat16", "float32"}


# ── saying no ───────────────────────────────────────────────────────────────────────────────────


class Doubled(layers.Layer):
    def call(self, inputs):
        return inputs * 2


def _added_constant(x):
    return x + 1.0


def _twice(x):
    dense = layers.Dense(4, name="twice")
    return dense(dense(x))


def _nested(x):
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(4)(inputs), name="inner")(x)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Doubled(name="own"), r"around layer own \(Doubled\): what it does to the channels is not known"),
        (layers.Lambda(lambda x: x, name="code"), r"layer code \(Lambda\): what"),
        (layers.LayerNormalization(name="norm"), r"layer norm \(LayerNormalization\): what"),
        (lambda x: layers.Attention(name="look")([x[:, None], x[:, None]]), r"\(GetItem\): what"),
        (lambda x: layers.Dot(1, name="dot")([x, x]), r"layer dot \(Dot\): what"),
        (lambda x: layers.Multiply(name="gate")([x, layers.Dense(1)(x)]), r"gate \(Multiply\): .* 4 and 1 channels"),
        (_added_constant, r"\(Add\): one of its inputs is not the output of a layer"),
        (_twice, r"layer twice \(Dense\): it is used more than once"),
        (_nested, r"layer inner \(Functional\): it is a model inside the model"),
    ],
)
def test_a_graph_that_is_beyond_it_names_layer_and_class(part, message):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2)(part(layers.Dense(4)(inputs))))
    for ask in (channels.groups, channels.scores, lambda model: channels.shrink(model, share=0.5)):
        with pytest.raises(ValueError, match=message):
            ask(model)


def _side_by_side():
    inputs = keras.Input((4, 4, 2))
    strong = layers.Conv2D(4, 1, name="strong", kernel_initializer="ones")(inputs)
    weak = layers.Conv2D(4, 1, name="weak", kernel_initializer=keras.initializers.Constant(0.01))(strong)
    both = layers.Concatenate()([strong, weak])
    added = layers.Add()([both, layers.Conv2D(8, 1, name="sum", kernel_initializer="zeros")(inputs)])
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(added)))


def test_of_each_layer_of_a_group_something_stays():
    model = _side_by_side()
    [group] = channels.groups(model)
    smaller = channels.shrink(model, share=0.5)
    assert [smaller.get_layer(name).filters for name in ("strong", "weak", "sum")] == [4, 1, 5]
    without_weak = {group.name: np.arange(8) >= 4}  # the group has them in the order in which they met
    for change in (channels.remove, channels.silence):
        with pytest.raises(ValueError, match=r"layer weak \(Conv2D\): of the group strong it would keep nothing"):
            change(model, without_weak)


def test_weights_that_are_not_finite_have_no_score():
    model = _classic()
    weights = model.get_weights()
    weights[0][0, 0, 0, 0] = np.nan
    model.set_weights(weights)
    with pytest.raises(ValueError, match="some of its weights are not finite: the training that made them diverged"):
        channels.shrink(model, share=0.5)


def test_convolutions_of_several_groups_and_other_axes_are_refused():
    inputs = keras.Input((4, 4, 4))
    for layer, message in [
        (layers.Conv2D(4, 1, groups=2), r"\(Conv2D\): it has 2 groups"),
        (layers.BatchNormalization(axis=1), "another axis than the last"),
        (layers.MaxPooling2D(data_format="channels_first"), "its channels are not the last axis"),
    ]:
        with pytest.raises(ValueError, match=message):
            channels.groups(keras.Model(inputs, layer(inputs)))


def test_a_model_without_a_graph_is_refused():
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Own(name="own"), keras.Sequential([layers.Dense(2)], name="own")):
        with pytest.raises(ValueError, match="own is a (Own|Sequential) whose graph is not known: a functional model"):
            channels.groups(model)


@pytest.mark.parametrize("share", [50, 1, -0.1, float("nan")])
def test_a_share_out_of_range_is_named(share):
    with pytest.raises(ValueError, match=f"share is {share}: .* a share such as 0.5"):
        channels.shrink(built(_mobile), share=share)


def test_other_arguments_out_of_range_are_named():
    model = built(_mobile)
    with pytest.raises(ValueError, match="multiple is a number of channels from 1; received 0"):
        channels.shrink(model, share=0.5, multiple=0)
    with pytest.raises(ValueError, match="no group 'logits'; the groups are stem, expand"):
        channels.remove(model, {"logits": np.ones(3, bool)})
    for mask in (np.ones(5, bool), np.zeros(4, bool), np.ones(4)):
        with pytest.raises(
            ValueError, match=r"keep\['stem'\] is .* booleans of shape \(4,\) are expected, at least one"
        ):
            channels.remove(model, {"stem": mask})
    with pytest.raises(ValueError, match="has no channels between its input and its outputs"):
        channels.shrink(models.softmax_regression((4, 4, 1), 3), share=0.5)
