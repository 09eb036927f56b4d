"""Facts about masks: worked by hand, exact in number, and kept while a model trains."""

import json
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from helpers import models, pruning, training

layers = keras.layers
STEPS = 40  # of a test training: 2 epochs of 20 batches
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="this is TensorFlow's")

weights = hnp.arrays(np.float32, hnp.array_shapes(max_dims=4, max_side=5), elements=st.floats(-4, 4, width=16))
sparsities = st.floats(0, 1, exclude_max=True)


class Watched(layers.Dense):
    """A dense layer that notes, at the begin of each training step, how many weights of its kernel are zero."""

    def build(self, input_shape):
        super().build(input_shape)
        self.step = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="step")
        self.noted = self.add_weight(shape=(200,), dtype="int32", initializer="zeros", trainable=False, name="noted")

    def call(self, inputs, training=False):
        if training:
            zeros = keras.ops.cast(keras.ops.sum(keras.ops.cast(self.kernel == 0, "float32")), "int32")
            now = keras.ops.cast(keras.ops.arange(200) == self.step, "int32")
            self.noted.assign(self.noted + now * zeros)
            self.step.assign(self.step + 1)
        return super().call(inputs)

    @property
    def zeros(self):
        count = int(keras.ops.convert_to_numpy(self.step))
        return keras.ops.convert_to_numpy(self.noted)[:count].tolist()


def _watched(optimizer=None, *, head=None, **options):
    """Returns a compiled model with a watched kernel of 10 x 10 weights."""
    head = [layers.Dense(3, name="logits")] if head is None else head
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((10,)), Watched(10, "tanh", name="watched"), *head])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(0.1, momentum=0.9), loss, **{"jit_compile": False} | options)
    return model


def _fit(model, *callbacks, epochs=2):
    x = np.random.default_rng(0).normal(size=(80, 10)).astype(np.float32)
    model.fit(x, np.arange(80) % 3, batch_size=4, epochs=epochs, callbacks=list(callbacks), verbose=0)


def _mask_of_one(model, sparsity):
    return {"watched": pruning.layer_masks(model, sparsity)["watched"]}


def _kernel(model, name="watched"):
    return keras.ops.convert_to_numpy(pruning.kernels(model)[name])


def _nested():
    inner = keras.Sequential([keras.Input((4, 4, 4)), layers.Conv2D(2, 3, name="conv")], name="inner")
    inputs = keras.Input((4, 4, 2))
    x = layers.SeparableConv2D(4, 1, name="separable")(inputs)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(layers.BatchNormalization()(x))
    shared = layers.Dense(2, name="shared")
    x = shared(shared(layers.Flatten()(inner(x))[:, :2]))
    return keras.Model(inputs, layers.Dense(3, name="logits")(x), name="nested")


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_mask_has_exact_sparsity_with_ties():
    mask = pruning.magnitude_mask(np.array([[1.0, -1.0], [1.0, 1.0]]), 0.5)
    np.testing.assert_array_equal(mask, [[False, False], [True, True]])
    assert pruning.magnitude_mask(np.zeros(10), 0.7).sum() == 3


def test_two_of_four_by_hand():
    rows = np.array([[1.0, -4], [-2, 3], [3, 2], [-4, 1], [9, 9]])  # (summed, outputs): a column is an output
    expected = [[False, True], [False, True], [True, False], [True, False], [True, True]]
    np.testing.assert_array_equal(pruning.n_m_mask(rows), expected)
    np.testing.assert_array_equal(pruning.n_m_mask(np.ones(8), keep=1), [False, False, False, True] * 2)


def test_groups_run_along_the_input_channels_of_a_convolution():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 8, 5))
    mask = pruning.n_m_mask(kernel, keep=1)
    np.testing.assert_array_equal(mask.reshape(3, 3, 2, 4, 5).sum(axis=3), 1)


def test_schedule_by_hand():
    assert pruning.polynomial_sparsity(5, steps=10, final=0.8) == pytest.approx(0.7)  # half of the way: 0.8 - 0.8 / 8
    assert pruning.polynomial_sparsity(99, steps=10, final=0.8) == 0.8


def test_kernels_are_found_at_any_depth_by_readable_names():
    found = pruning.kernels(_nested())
    assert {name: tuple(kernel.shape) for name, kernel in found.items()} == {
        "separable/depthwise": (1, 1, 2, 1),
        "separable/pointwise": (1, 1, 2, 4),
        "depthwise": (3, 3, 4, 1),
        "inner/conv": (3, 3, 4, 2),
        "shared": (2, 2),
        "logits": (2, 3),
    }


def test_masks_of_a_layer_and_of_all_by_hand():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="small"), layers.Dense(4, name="large")])
    small, large = np.array([[0.1], [-0.2], [0.3], [0.4]]), np.array([[1.0, -2.0, 3.0, 4.0]])
    model.set_weights([small, np.zeros(1), large, np.zeros(4)])
    for mask in pruning.layer_masks(model, 0.5).values():
        assert mask.ravel().tolist() == [False, False, True, True]
    masks = pruning.global_masks(model, 0.5)  # the largest of the small kernel stays, so one of the large goes
    assert masks["small"].ravel().tolist() == [False, False, False, True]
    assert masks["large"].ravel().tolist() == [False, True, True, True]
    pruning.apply(model, masks)
    table = pruning.zeros(model)
    assert table.to_numpy().tolist() == [["small", 4, 3, 0.75], ["large", 4, 1, 0.25]]
    np.testing.assert_array_equal(_kernel(model, "large"), [[0, -2, 3, 4]])


def test_a_depthwise_kernel_has_its_groups_over_the_pixels_of_a_channel():
    model = _nested()
    masks = pruning.n_m_masks(model)
    assert set(masks) == set(pruning.kernels(model))
    channels = masks["depthwise"].reshape(9, 4)
    assert channels[:4].sum(axis=0).tolist() == channels[4:8].sum(axis=0).tolist() == [2] * 4
    assert channels[8].all()  # what is left over stays


def test_sensitivity_by_hand_and_without_a_trace():
    model = _nested()
    before = model.get_weights()
    table = pruning.sensitivity(model, lambda model: pruning.zeros(model)["zeros"].sum(), sparsities=[0.0, 0.5])
    sizes = pruning.zeros(model)["weights"]
    assert table["layer"].tolist() == [name for name in pruning.kernels(model) for _ in range(2)]
    assert table["score"].tolist() == [value for size in sizes for value in (0, round(size / 2))]
    np.testing.assert_equal(model.get_weights(), before)


# ── properties ──────────────────────────────────────────────────────────────────────────────────


@given(weights, sparsities)
def test_a_mask_is_exact_and_keeps_the_largest(values, sparsity):
    mask = pruning.magnitude_mask(values, sparsity)
    assert mask.shape == values.shape
    assert np.count_nonzero(~mask) == round(sparsity * values.size)
    if 0 < mask.sum() < mask.size:
        assert np.abs(values)[mask].min() >= np.abs(values)[~mask].max()


@given(weights, st.integers(2, 5), st.data())
def test_every_whole_group_keeps_its_largest(values, of, data):
    keep = data.draw(st.integers(1, of - 1))
    columns = values.reshape(-1, values.shape[-1] if values.ndim > 1 else 1).T
    mask = pruning.n_m_mask(values, keep=keep, of=of).reshape(columns.T.shape).T
    for column, stays in zip(np.abs(columns), mask, strict=True):
        for start in range(0, len(column), of):
            group, kept = column[start : start + of], stays[start : start + of]
            expected = sorted(group, reverse=True)[: keep if len(group) == of else of]
            assert sorted(group[kept], reverse=True) == expected


@given(st.integers(1, 500), sparsities)
def test_the_schedule_climbs_from_zero_to_final(steps, final):
    at = (0, steps // 3, steps // 2, steps, steps + 9)
    path = [pruning.polynomial_sparsity(step, steps=steps, final=final) for step in at]
    assert path[0] == 0
    assert path[-2:] == [final, final]
    assert np.all(np.diff(path) >= -1e-12)


@given(st.floats(0, 0.85))
def test_global_masks_are_exact_in_total_and_cut_no_layer(sparsity):
    model = _nested_once()
    masks = pruning.global_masks(model, sparsity)
    total = sum(mask.size for mask in masks.values())
    assert sum(np.count_nonzero(~mask) for mask in masks.values()) == round(sparsity * total)
    assert all(mask.any() for mask in pruning.layer_masks(model, 0.99).values())
    assert all(mask.any() for mask in masks.values())


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-100, 100, width=32)))
def test_lamp_scores_are_their_formula(weights):
    squares = np.square(weights.astype(np.float64))
    place = [(square, i) for i, square in enumerate(squares)]
    expected = [square and square / sum(other for other, j in place if (other, j) >= (square, i))
                for square, i in place]  # fmt: skip
    np.testing.assert_allclose(pruning.lamp_scores(weights), expected, rtol=1e-9)


def test_lamp_scores_know_no_factor_of_a_layer_where_magnitudes_do():
    model = _watched()
    for masks, moves in ((pruning.global_masks, True), (pruning.lamp_masks, False)):
        before = masks(model, 0.5)["watched"]
        kernel = pruning.kernels(model)["watched"]
        kernel.assign(1024 * kernel)
        assert np.array_equal(masks(model, 0.5)["watched"], before) != moves
        kernel.assign(kernel / 1024)


_made = {}


def _nested_once():
    if not _made:
        _made["model"] = _nested()
        _made["model"].set_weights([w * 0.001 if i < 4 else w for i, w in enumerate(_made["model"].get_weights())])
    return _made["model"]


# ── while a model trains ────────────────────────────────────────────────────────────────────────


def test_a_mask_that_nobody_keeps_is_gone_after_one_step():
    model = _watched()
    pruning.apply(model, _mask_of_one(model, 0.8))
    _fit(model)
    assert model.get_layer("watched").zeros[:2] == [80, 0]


AVERAGING = {"use_ema": True, "ema_momentum": 0.999, "ema_overwrite_frequency": 7}


@pytest.mark.parametrize(("averaging", "options"), [({}, {"steps_per_execution": 8}), (AVERAGING, {})],
                         ids=["several steps at a time", "an average of the weights"])  # fmt: skip
def test_masked_weights_are_zero_after_every_step_in_spite_of_momentum(averaging, options):
    model = _watched(keras.optimizers.SGD(0.1, momentum=0.9, **averaging), **options)
    _fit(model, epochs=1)  # so that the optimizer has momentum, and the step is compiled without a mask
    before = _kernel(model).copy()
    masks = pruning.layer_masks(model, 0.8)
    _fit(model, pruning.Masks(masks))
    assert model.get_layer("watched").zeros == [0] * 20 + [80] * STEPS
    np.testing.assert_array_equal(_kernel(model) == 0, ~masks["watched"])
    assert np.all(_kernel(model)[masks["watched"]] != before[masks["watched"]])


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_masked_weights_are_zero_after_every_step_inside_xla(precision, policy):
    with precision(policy):
        model = _watched(jit_compile=True)
    growing = pruning.Masks(final=0.8, steps=20, every=10)
    _fit(model, growing)
    assert model.get_layer("watched").zeros == [0] * 10 + [70] * 10 + [80] * 20


def test_sparsity_grows_along_the_schedule():
    model = _watched(head=[], steps_per_execution=8)  # one kernel: what all layers lose is what it loses
    growing = pruning.Masks(final=0.8, steps=30, every=10)
    _fit(model, growing)
    # An epoch has 20 steps, so Python looks after 8, 16 and 20, and after 28, 36 and 40.
    looks = [(0, 0.0), (16, 0.8 - 0.8 * (14 / 30) ** 3), (20, 0.8 - 0.8 * (10 / 30) ** 3), (36, 0.8)]
    assert [step for step, _ in growing.history] == [step for step, _ in looks]
    np.testing.assert_allclose([value for _, value in growing.history], [value for _, value in looks])
    assert model.get_layer("watched").zeros == [0] * 16 + [72] * 4 + [77] * 16 + [80] * 4
    np.testing.assert_array_equal(_kernel(model) == 0, ~growing.masks["watched"])


@pytest.mark.parametrize("scope", ["global", "lamp"])
def test_a_schedule_over_all_layers_is_exact_in_total_and_never_gives_a_weight_back(scope):
    model = _watched()
    growing, seen = pruning.Masks(final=0.8, steps=20, every=5, scope=scope), []
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(growing.masks))
    _fit(model, growing, note)
    total = pruning.zeros(model)
    assert total["zeros"].sum() == round(0.8 * total["weights"].sum())
    assert total["sparsity"].nunique() == 2
    for earlier, later in zip(seen, seen[1:], strict=False):
        assert all(np.all(earlier[name] | ~later[name]) for name in later)


def test_the_average_that_is_swapped_in_after_an_epoch_is_masked_for_what_comes_behind():
    model, seen = _watched(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.999)), []
    _fit(model, epochs=1)
    note = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(np.sum(_kernel(model) == 0)))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    _fit(model, swap, pruning.Masks(pruning.layer_masks(model, 0.8)), note)
    assert seen == [80, 80]


def test_afterwards_the_weights_are_free_and_a_former_constraint_is_back():
    model = _watched()
    kernel = pruning.kernels(model)["watched"]
    kernel.constraint = former = keras.constraints.MaxNorm(0.1, axis=0)
    _fit(model, pruning.Masks(_mask_of_one(model, 0.8)))
    assert kernel.constraint is former
    assert np.linalg.norm(_kernel(model), axis=0).max() < 0.11  # it was heeded all along
    assert pruning.kernels(model)["logits"].constraint is None
    assert np.count_nonzero(_kernel(model, "logits")) == 30  # what has no mask stays as it is
    assert np.count_nonzero(_kernel(model)) == 20
    _fit(model, epochs=1)
    assert np.count_nonzero(_kernel(model)) == 100


def test_a_training_that_breaks_off_leaves_what_release_or_the_next_takes_away():
    class Broken(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise RuntimeError("broken")

    model, first = _watched(), None
    kernel = pruning.kernels(model)["watched"]
    for end in ("release", "next"):
        first = pruning.Masks(_mask_of_one(model, 0.8))
        with pytest.raises(RuntimeError, match="broken"):
            _fit(model, first, Broken())
        assert kernel.constraint is not None
        if end == "release":
            first.release()
        else:
            _fit(model, pruning.Masks(_mask_of_one(model, 0.1)))
        assert kernel.constraint is None
    assert np.count_nonzero(_kernel(model) == 0) == 10


def test_a_model_saved_while_it_is_pruned_needs_none_of_our_classes(tmp_path):
    model = models.mlp((4, 4, 1), 3, units=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, jit_compile=False, steps_per_execution=8)
    saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    growing = pruning.Masks(final=0.5, steps=10, every=2)
    training.fit(model, (images, np.arange(60) % 3), epochs=2, batch_size=4, callbacks=[growing, saving], verbose=False)
    model.save(tmp_path / "end.keras")
    assert pruning.zeros(model)["sparsity"].tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    for name in ("1", "2", "end"):
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            assert b"helpers" not in archive.read("config.json")
        loaded = keras.models.load_model(tmp_path / f"{name}.keras")
        assert all(kernel.constraint is None for kernel in pruning.kernels(loaded).values())
    np.testing.assert_equal(loaded.get_weights(), model.get_weights())


_SHARED = """
import json, sys
import keras, numpy as np, tensorflow as tf
from helpers import devices, models, pruning, training
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
assert devices.share_batches(2, names=["CPU:0", "CPU:1"]) == 2
keras.utils.set_random_seed(0)
images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)
model = models.mlp((4, 4, 1), 3, units=10)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, jit_compile=False)
kernel = pruning.kernels(model)["dense"]
counts, start = [], kernel.value.values[0].numpy().copy()
def note(batch, logs):
    counts.append([int((part.numpy() == 0).sum()) for part in kernel.value.values])
growing = pruning.Masks(final=0.8, steps=8, every=4)
watching = keras.callbacks.LambdaCallback(on_train_batch_begin=note)
training.fit(model, (images, np.arange(64) % 3), epochs=3, batch_size=16, callbacks=[growing, watching], verbose=False)
one, other = (part.numpy() for part in kernel.value.values)
assert np.array_equal(one, other) and np.mean(one[one != 0] != start[one != 0]) > 0.5  # but those of silent units
print(json.dumps(counts))
"""


@pytest.mark.slow
@on_tensorflow
def test_two_replicas_keep_the_same_zeros(fresh_python):
    # 160 weights: after 4 of 8 steps 7/8 of 0.8
    assert json.loads(fresh_python(_SHARED).splitlines()[-1]) == [[0, 0]] * 4 + [[112, 112]] * 4 + [[128, 128]] * 4


# ── saying no ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("masks", [pruning.layer_masks, pruning.global_masks, pruning.lamp_masks])
def test_weights_that_are_not_finite_are_refused_by_the_name_of_their_layer(masks):
    dense = [keras.layers.Dense(2, name=name) for name in ("first", "last")]
    model = keras.Sequential([keras.Input((3,)), *dense])
    model.get_layer("last").kernel.assign([[1.0, np.nan], [0.0, 2.0]])
    with pytest.raises(ValueError, match="Some weights of last.* are not finite: the training that made them diverged"):
        masks(model, 0.5)


@pytest.mark.parametrize("sparsity", [80, 1, 1.0, -0.1, float("nan")])
def test_a_sparsity_out_of_range_is_named(sparsity):
    model = _nested_once()
    for ask in (
        lambda: pruning.magnitude_mask(np.ones(4), sparsity),
        lambda: pruning.layer_masks(model, sparsity),
        lambda: pruning.global_masks(model, sparsity),
        lambda: pruning.sensitivity(model, lambda model: 0.0, sparsities=[0.5, sparsity]),
    ):
        with pytest.raises(ValueError, match=f"^sparsity is {sparsity}: .* a share such as 0.8"):
            ask()
    with pytest.raises(ValueError, match=f"^final is {sparsity}: .* a share such as 0.8"):
        pruning.Masks(final=sparsity, steps=10)


def test_a_sparsity_that_would_cut_the_network_is_refused():
    with pytest.raises(ValueError, match=r"0.99 leaves 1 of 128 weights for 6 layers, and each needs at least 1"):
        pruning.global_masks(_nested_once(), 0.99)


def test_a_score_that_fails_leaves_the_weights_as_they_were():
    model = _nested_once()
    before = model.get_weights()
    with pytest.raises(ZeroDivisionError):
        pruning.sensitivity(model, lambda model: 1 / 0, sparsities=[0.5])
    np.testing.assert_equal(model.get_weights(), before)


def test_masks_that_do_not_fit_are_named():
    model = _watched()
    with pytest.raises(ValueError, match="no kernel 'wached' to mask: the kernels are watched, logits"):
        pruning.apply(model, {"wached": np.ones((10, 10), bool)})
    with pytest.raises(ValueError, match=r"mask of watched is bool of shape \(10,\): booleans of shape \(10, 10\)"):
        pruning.apply(model, {"watched": np.ones(10, bool)})
    with pytest.raises(ValueError, match=r"mask of watched is float64 of shape \(10, 10\): booleans"):
        _fit(model, pruning.Masks({"watched": np.ones((10, 10))}))


def test_other_arguments_out_of_range_are_named():
    for keep, of in ((0, 4), (4, 4), (5, 4)):
        with pytest.raises(ValueError, match=f"keep is {keep} of {of}: .* such as 2 of 4"):
            pruning.n_m_mask(np.ones(8), keep=keep, of=of)
    for arguments in ({}, {"masks": {}, "final": 0.5, "steps": 1}, {"final": 0.5}, {"masks": {}, "steps": 3}):
        with pytest.raises(ValueError, match="either masks, or a final sparsity with the steps"):
            pruning.Masks(**arguments)
    with pytest.raises(ValueError, match="at least 1 and scope one of layer, global, lamp; received 0 and 'all'"):
        pruning.Masks(final=0.5, steps=3, every=0, scope="all")
    with pytest.raises(ValueError, match="The schedule takes at least 1 step; received 0"):
        pruning.Masks(final=0.5, steps=0)


def test_a_model_without_kernels_is_named():
    model = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()], name="bare")
    with pytest.raises(ValueError, match="bare has no kernel to prune: a built model with dense or convolutional"):
        pruning.kernels(model)


def test_kernels_that_are_no_plain_weights_are_refused():
    for change in (lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), layers.Dense(2)])
        change(model.layers[0])
        with pytest.raises(ValueError, match="Layer first is quantized by Keras already, or has LoRA weights"):
            pruning.kernels(model)


def test_two_layers_of_one_name_are_refused():
    class Two(keras.Model):
        def __init__(self):
            super().__init__(name="two")
            self.first, self.second = layers.Dense(2, name="same"), layers.Dense(2, name="same")

        def call(self, inputs):
            return self.second(self.first(inputs))

    model = Two()
    model(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="two has two kernels same: give each of its layers another name"):
        pruning.kernels(model)
