"""Facts about histories, schedules, saved models and their cards."""

import gc
import itertools
import json
import weakref
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from helpers import artifacts, models, optimizers, plotting, training, widgets

SHAPE, CLASSES = (6, 5, 1), ["bag", "coat", "shoe"]


def _data(count=60, seed=0):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    images = random.integers(0, 60, (count, *SHAPE), dtype=np.uint8)
    images[np.arange(count), labels] += 120  # row number `label` is bright
    return images, labels


def _compiled(learning_rate=0.01, seed=0, *, traced=False, **options):
    """Returns a small network; step by step a short training begins sooner than one that is traced."""
    keras.utils.set_random_seed(seed)
    model = models.mlp(SHAPE, 3, units=8, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate), loss, metrics=["accuracy"], run_eagerly=not traced)
    return model


# ── histories ───────────────────────────────────────────────────────────────────────────────────


def test_history_has_one_row_an_epoch_and_learns():
    model = _compiled(0.1, traced=True)
    history = training.fit(model, _data(), _data(30, seed=1), epochs=4, batch_size=10, verbose=False)
    columns = ["epoch", "seconds", "accuracy", "loss", "val_accuracy", "val_loss", "learning_rate"]
    assert sorted(history.columns) == sorted(columns)
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["loss"].is_monotonic_decreasing
    assert history["val_accuracy"].iloc[-1] > 0.9
    np.testing.assert_allclose(history["learning_rate"], 0.1)


def test_seconds_are_those_of_the_steps_and_not_of_validation(monkeypatch):
    now = [0.0]

    def wait(seconds):
        now[0] += seconds

    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])
    waiting = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: wait(1))
    waiting.on_test_batch_end = lambda batch, logs=None: wait(9)
    history = training.fit(_compiled(), _data(), _data(), epochs=2, callbacks=[waiting], verbose=False)
    assert history["seconds"].tolist() == [1, 1]


def test_progress_is_one_line_an_epoch_on_stderr_alone(capsys):
    training.fit(_compiled(), _data(), _data(), epochs=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("mlp: epoch 1/2, ")
    assert "val_accuracy" in lines[0]


def test_quick_epochs_do_not_flood_stderr_and_the_last_is_told(monkeypatch, capsys):
    now = itertools.count(step=0.01)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(now))
    training.fit(_compiled(), _data(), epochs=20)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) < 5
    assert lines[-1].startswith("mlp: epoch 20/20, ")


def test_the_chart_that_is_left_has_every_epoch(monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "somebody looks on")
    progress, model = training.Progress(), _compiled(1e-12)
    model.fit(*_data(), epochs=9, callbacks=[progress, keras.callbacks.EarlyStopping("loss", patience=3)], verbose=0)
    assert 1 < len(progress.rows) < 9
    whole = plotting.png(plotting.learning_curves(pd.DataFrame(progress.rows), metric="loss"))
    assert bytes(progress._dashboard._picture.value) == whole


def test_a_training_that_is_interrupted_takes_its_controls_away(monkeypatch):
    class Impatient(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    monkeypatch.setenv("JPY_SESSION_NAME", "somebody looks on")
    left = []
    handle = SimpleNamespace(update=lambda bundle, **options: left.append(bundle["text/plain"]))
    monkeypatch.setattr(widgets, "display", lambda *shown, **options: handle)
    with pytest.raises(KeyboardInterrupt):
        training.fit(_compiled(), _data(), epochs=3, callbacks=[Impatient()])
    assert left[-1].endswith("It was interrupted in epoch 2.")


def test_same_seed_trains_the_same_model():
    runs = [training.fit(_compiled(seed=3), _data(), epochs=2, verbose=False) for _ in range(2)]
    pd.testing.assert_series_equal(runs[0]["loss"], runs[1]["loss"])


def test_augmentation_is_asked_for_each_training_batch_and_never_for_validation():
    seen = []

    def spy(images, random):
        seen.append(images)
        return images

    images, labels = _data(40)
    training.fit(_compiled(), (images, labels), _data(30, seed=1), epochs=2, batch_size=20, augment=spy, verbose=False)
    pictures = {picture.tobytes() for picture in images}
    assert {picture.tobytes() for batch in seen for picture in batch} == pictures


def test_each_epoch_of_a_seed_has_an_order_and_a_version_of_its_own():
    def spied(seed=5):
        batches = []

        def spy(images, random):
            batches.append((images.tobytes(), random.random()))
            return images

        training.fit(_compiled(), _data(40), epochs=3, batch_size=20, augment=spy, seed=seed, verbose=False)
        return batches[-6:]  # what came before them was a look at the form of a batch

    first, second, third = (spied()[i : i + 2] for i in (0, 2, 4))
    assert spied() == first + second + third
    for mine, other in zip(first + second + third, spied(seed=6), strict=True):
        assert mine[0] != other[0]
        assert mine[1] != other[1]
    for part in (0, 1):  # the order of the pictures, and what the augmentation draws
        assert len({tuple(batch[part] for batch in epoch) for epoch in (first, second, third)}) == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="tf.data feeds TensorFlow alone")
def test_no_tuner_can_hold_up_the_end_of_an_epoch():
    import tensorflow as tf

    started = []

    class Model(keras.Model):
        def fit(self, x, validation_data, **options):
            started.extend([x, validation_data])
            return super().fit(x, validation_data=validation_data, **options)

    built = _compiled()
    model = Model(built.inputs, built.outputs)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    training.fit(model, _data(), _data(), epochs=1, verbose=False)
    assert [data.options().autotune.enabled for data in started] == [False, False]
    assert all(isinstance(data, tf.data.Dataset) for data in started)


def test_early_stopping_ends_the_history():
    stop = keras.callbacks.EarlyStopping("val_loss", patience=1)
    # A rate of 1e-12 changes nothing, so the second epoch is no better than the first.
    history = training.fit(_compiled(1e-12), _data(), _data(), epochs=9, callbacks=[stop], verbose=False)
    assert len(history) == 2


@pytest.mark.parametrize("hot", [False, True])
def test_class_weights_are_in_the_training_loss_and_not_in_validation(hot):
    images, labels = _data()
    targets = np.eye(3, dtype=np.float32)[labels] if hot else labels
    model = _compiled(0.0)
    if hot:
        loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.0), loss)
    surprise = -log_softmax(training.logits(model, images), axis=1)[np.arange(60), labels]
    weights = {0: 1.0, 1: 5.0, 2: 0.0}
    history = training.fit(model, (images, targets), (images, targets), epochs=1, batch_size=60, verbose=False,
                           class_weight=weights)  # fmt: skip
    np.testing.assert_allclose(history["loss"], np.mean(surprise * [weights[one] for one in labels]), rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], surprise.mean(), rtol=1e-5)


@given(st.lists(st.integers(0, 4), min_size=1))
def test_with_class_weights_all_classes_that_are_there_weigh_the_same(labels):
    weights = training.class_weights(np.array(labels), 6)
    heavy = [weights[one] * labels.count(one) for one in set(labels)]
    np.testing.assert_allclose(heavy, len(labels) / len(heavy))
    assert list(weights) == list(range(6))  # Keras asks for every class
    assert weights[5] == 1.0


def test_a_small_set_is_passed_until_the_weights_have_had_their_steps():
    assert training.passes(12, 8, batch_size=128, at_least=100) == 100
    assert training.passes(1000, 8, batch_size=100, at_least=100) == 10
    assert training.passes(1001, 8, batch_size=100, at_least=100) == 10  # 110 batches: nine epochs have 99
    assert training.passes(54_000, 1, batch_size=128, at_least=100) == 1


def test_divergence_is_one_sentence():
    with pytest.raises(ValueError, match="mlp is .* after epoch 1: the training diverged. Lower the learning rate"):
        training.fit(_compiled(1e30), _data(), epochs=3, batch_size=10, verbose=False)
    with pytest.raises(training.Diverged, match="The val_loss of mlp is .* after epoch 1"):  # the only step was too far
        training.fit(_compiled(1e38), _data(), _data(), epochs=1, verbose=False)


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_training_without_an_epoch_is_refused(epochs):
    with pytest.raises(ValueError, match=f"at least once; received epochs={epochs}"):
        training.fit(_compiled(), _data(), epochs=epochs)


def test_a_training_that_was_finished_before_has_no_rows(tmp_path):
    model = _compiled()
    saving = keras.callbacks.BackupAndRestore(tmp_path / "state", delete_checkpoint=False)
    assert len(training.fit(model, _data(), epochs=2, callbacks=[saving], verbose=False)) == 2
    assert training.fit(model, _data(), epochs=2, callbacks=[saving], verbose=False).empty


@pytest.mark.parametrize(("label", "told"), [(3, "0 to 3"), (-1, "-1 to 2")])
def test_labels_that_are_no_class_are_refused_in_training_and_in_validation(label, told):
    images, labels = _data()
    wrong = np.where(np.arange(60) == 7, label, labels)
    for sets in ([(images, wrong)], [(images, labels), (images, wrong)]):
        with pytest.raises(ValueError, match=f"mlp has 3 outputs, for labels from 0 to 2; received labels from {told}"):
            training.fit(_compiled(), *sets, epochs=1)


def test_what_a_model_has_seen_does_not_stay_in_memory():
    images, labels = _data()
    seen, model = weakref.ref(images), _compiled(traced=True)
    training.fit(model, (images, labels), (images, labels), epochs=2, verbose=False)
    training.logits(model, images)
    del images
    gc.collect()
    assert seen() is None


def test_a_model_that_is_not_compiled_is_refused():
    with pytest.raises(ValueError, match=r"not compiled: call model\.compile"):
        training.fit(models.mlp(SHAPE, 3), _data(), epochs=1)


@pytest.mark.parametrize("count", [24, 300])  # fewer pictures than the batches take, and more
def test_batch_losses_are_those_of_single_steps(count):
    model = _compiled(0.05)
    model.steps_per_execution = 1
    images, labels = _data(count)
    losses = training.batch_losses(model, (images, labels), batch_size=8, batches=5, seed=2)
    order = np.resize(np.random.default_rng(2).permutation(count), 40).reshape(5, 8)
    assert order.max() > count * 0.8  # of all pictures, not of the first
    again = _compiled(0.05)
    expected = []
    for rows in order:
        odds = np.exp(keras.ops.convert_to_numpy(again(images[rows])))
        expected.append(-np.log(odds / odds.sum(1, keepdims=True))[np.arange(8), labels[rows]].mean())
        again.train_on_batch(images[rows], labels[rows])
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    model.steps_per_execution = 8
    with pytest.raises(ValueError, match="runs 8 steps at a time .* compile it with steps_per_execution=1"):
        training.batch_losses(model, (images, labels), batch_size=8, batches=5)


def test_repeat_labels_rows_with_their_seed_and_starts_from_it():
    drawn = []

    def run(seed):
        drawn.append(np.asarray(keras.random.normal((2,))).tolist())
        return pd.DataFrame({"epoch": [1, 2]})

    histories = training.repeat(run, [5, 6, 5])
    assert histories["seed"].tolist() == [5, 5, 6, 6, 5, 5]
    assert drawn[0] == drawn[2] != drawn[1]
    with pytest.raises(ValueError, match="no seed"):
        training.repeat(run, [])


@pytest.mark.parametrize("optimizer", ["nadam", "loss scaling"])
def test_a_restarted_model_trains_as_a_new_one_does(optimizer):
    def build():
        keras.utils.set_random_seed(7)
        layers = [keras.layers.Flatten(), keras.layers.BatchNormalization(), keras.layers.Dropout(0.4)]
        model = keras.Sequential([keras.Input(SHAPE), *layers, keras.layers.Dense(3)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        chosen = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()) if optimizer != "nadam" else optimizer
        model.compile(chosen, loss, metrics=["accuracy"], run_eagerly=optimizer != "nadam")
        return model

    fit = {"train": _data(40), "epochs": 2, "batch_size": 20, "verbose": False}
    used = build()
    training.fit(used, **fit)
    new = training.fit(training.restart(build(), seed=3), **fit)
    for seed, equal in ((4, False), (3, True)):
        again = training.fit(training.restart(used, seed=seed), **fit)
        assert again["loss"].equals(new["loss"]) == equal


def test_a_restart_takes_another_learning_rate_without_compiling_again():
    model = _compiled(0.1, traced=True)
    training.fit(model, _data(), epochs=1, verbose=False)
    function = model.train_function
    history = training.fit(training.restart(model, seed=1, learning_rate=1e-12), _data(), epochs=2, verbose=False)
    np.testing.assert_allclose(history["learning_rate"], 1e-12)
    np.testing.assert_allclose(history["loss"].diff().iloc[1], 0, atol=1e-5)  # the step reads the new rate
    assert model.train_function is function
    assert float(training.restart(model, seed=1).optimizer.learning_rate) == pytest.approx(1e-12)  # which stays
    assert float(training.restart(model, seed=1, learning_rate=0.0).optimizer.learning_rate) == 0
    with pytest.raises(ValueError, match="not compiled"):
        training.restart(models.mlp(SHAPE, 3), seed=1)


# ── schedule ────────────────────────────────────────────────────────────────────────────────────


def test_muon_takes_the_kernel_of_a_convolution_for_a_matrix():
    random = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 5), "dense": (6, 4), "wide": (2, 7), "depthwise": (3, 3, 4, 1), "bias": (5,)}
    start, slopes = ({name: random.normal(size=shape).astype("float32") for name, shape in shapes.items()}
                     for _ in range(2))  # fmt: skip
    variables = {name: keras.Variable(value, name=name) for name, value in start.items()}
    optimizer = training.Muon(0.1, weight_decay=0.0, adam_weight_decay=0.0)
    optimizer.apply([keras.ops.convert_to_tensor(slope) for slope in slopes.values()], list(variables.values()))
    for name in ("kernel", "dense", "wide"):
        flat = (array[name].reshape(-1, shapes[name][-1]).astype(float) for array in (start, slopes))
        w, g = flat
        expected = w - 0.1 * 0.2 * max(w.shape) ** 0.5 * optimizers.newton_schulz((1 + 0.95) * g)
        found = keras.ops.convert_to_numpy(variables[name]).reshape(w.shape)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=name)
    for name in ("depthwise", "bias"):  # AdamW's first step is the rate, against the sign of the slope
        found = keras.ops.convert_to_numpy(variables[name])
        np.testing.assert_allclose(found, start[name] - 0.1 * np.sign(slopes[name]), atol=1e-4, err_msg=name)


def test_muons_step_keeps_its_own_length_without_an_rms_rate():
    steps = []
    for rms_rate in (None, 0.2):
        kernel = keras.Variable(np.zeros((9, 3), "float32"), name="kernel")
        optimizer = training.Muon(0.1, rms_rate=rms_rate, weight_decay=0.0)
        optimizer.apply([keras.ops.convert_to_tensor(np.eye(9, 3, dtype="float32"))], [kernel])
        steps.append(keras.ops.convert_to_numpy(kernel))
    np.testing.assert_allclose(steps[1], steps[0] * 0.2 * 3, rtol=1e-5)


@settings(max_examples=25)
@given(st.floats(1e-5, 10), st.integers(2, 10_000), st.floats(0.05, 0.95))
def test_one_cycle_never_leaves_its_range_and_peaks_where_it_says(peak, steps, warm_up):
    rate = training.OneCycle(peak, steps=steps, warm_up=warm_up)
    values = [float(rate(step)) for step in (0, warm_up * steps, steps, 2 * steps)]
    np.testing.assert_allclose(values, [peak / 1000, peak, peak / 1000, peak / 1000], rtol=1e-2)


def test_schedule_survives_its_config():
    rate = training.OneCycle(0.2, steps=50, warm_up=0.4)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(rate))
    assert float(again(13)) == float(rate(13))


def test_history_records_the_rate_of_a_schedule():
    keras.utils.set_random_seed(0)
    model = models.softmax_regression(SHAPE, 3)
    rate = training.OneCycle(0.1, steps=training.steps(60, batch_size=20, epochs=2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(rate), loss, run_eagerly=True)
    history = training.fit(model, _data(), epochs=2, batch_size=20, verbose=False)
    np.testing.assert_allclose(history["learning_rate"], [0.1 * (1 - 1 / 3) , 0.0001], rtol=1e-3)


@pytest.mark.parametrize("wrong", [{"peak": 0}, {"steps": 0}, {"warm_up": 1.0}, {"warm_up": 0.0}])
def test_an_impossible_cycle_is_refused(wrong):
    with pytest.raises(ValueError, match="One cycle needs"):
        training.OneCycle(**{"peak": 0.1, "steps": 10, "warm_up": 0.2, **wrong})


# ── several replicas ────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50)
@given(st.integers(1, 3000), st.integers(1, 8), st.integers(8, 600))
def test_every_replica_has_pictures_in_every_validation_batch(pictures, count, batch):
    if pictures < count:
        return
    total, size = training._even(pictures, count, batch)
    assert pictures - count < total <= pictures
    assert count == 1 or (size % count == 0 and total % count == 0 and 0 < size <= total)


def test_replicas_refuse_normalization_of_their_own_share():
    model = models.better_cnn((8, 8, 1), 2, width=8)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="each of 2 replicas by itself: build it with synchronized=True"):
        training._check_replicas(model, 2)


@pytest.mark.parametrize("wrap", [lambda optimizer: optimizer, keras.optimizers.LossScaleOptimizer])
def test_replicas_refuse_clipping_in_mixed_precision_too(wrap):
    model = models.mlp(SHAPE, 2)
    model.compile(wrap(keras.optimizers.SGD(clipvalue=1.0)), "mse")
    with pytest.raises(ValueError, match=r"The optimizer clips gradients \(clipvalue\), which 2 replicas do each"):
        training._check_replicas(model, 2)
    training._check_replicas(model, 1)


# ── the model that is left ──────────────────────────────────────────────────────────────────────


def test_logits_are_the_models_own_for_any_number_of_pictures(monkeypatch):
    monkeypatch.setattr(training, "_AT_A_TIME", 5)
    model = _compiled()
    images, _ = _data(23)
    np.testing.assert_allclose(training.logits(model, images), model(images), rtol=1e-5, atol=1e-6)
    assert training.logits(model, images[:0]).shape == (0, 3)


def _normalizing():
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE, dtype="uint8")
    x = keras.layers.Conv2D(3, 3, name="conv")(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.BatchNormalization(momentum=0.9, name="norm")(x)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x)))


def test_renewed_statistics_are_those_of_the_training_pictures_under_the_weights_as_they_are():
    model, (images, _) = _normalizing(), _data(61)
    seen = keras.ops.convert_to_numpy(model.get_layer("conv")(images / np.float32(255)))
    before = {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables}
    training.renew_statistics(model, images)
    norm = model.get_layer("norm")
    np.testing.assert_allclose(norm.moving_mean, seen.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(norm.moving_variance, seen.var(axis=(0, 1, 2)), rtol=1e-4)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(variable, before[variable.path])
    assert norm.momentum == 0.9


def test_renewed_statistics_are_a_mean_over_batches_and_over_no_more_pictures_than_asked(monkeypatch):
    model, (images, _) = _normalizing(), _data(60)
    asked = []

    def mirrored(batch, random):
        asked.append(len(batch))
        return batch[:, :, ::-1]

    monkeypatch.setattr(training, "_AT_A_TIME", 20)
    training.renew_statistics(model, images, augment=mirrored)
    seen = keras.ops.convert_to_numpy(model.get_layer("conv")(images[:, :, ::-1] / np.float32(255)))
    np.testing.assert_allclose(model.get_layer("norm").moving_mean, seen.mean(axis=(0, 1, 2)), atol=1e-5)
    assert asked == [20, 20, 20]
    asked.clear()
    monkeypatch.setattr(training, "_AT_A_TIME", 10)
    monkeypatch.setattr(training, "_MEASURED", 25)
    training.renew_statistics(model, images, augment=mirrored)
    assert sorted(asked) == [8, 8, 9]
    plain = models.mlp(SHAPE, 3)
    training.renew_statistics(plain, images)  # there is nothing to measure


def test_renewed_statistics_are_of_pictures_from_everywhere_and_the_same_each_time(monkeypatch):
    images = np.repeat(np.array([0, 250], np.uint8), 500)[:, None, None, None] * np.ones((1, *SHAPE), np.uint8)
    inputs = keras.Input(SHAPE)
    inner = keras.Sequential([keras.Input(SHAPE), keras.layers.BatchNormalization(name="norm")])
    model = keras.Model(inputs, keras.layers.Flatten()(inner(keras.layers.Rescaling(1.0)(inputs))))
    norm = inner.get_layer("norm")
    monkeypatch.setattr(training, "_MEASURED", 100)
    training.renew_statistics(model, images)
    found = float(np.mean(norm.moving_mean))
    assert 75 < found < 175  # of the first hundred it would be 0
    training.renew_statistics(model, images)
    assert float(np.mean(norm.moving_mean)) == found


def test_statistics_of_nothing_are_refused_and_leave_the_model_as_it_was():
    model = _normalizing()
    before = model.get_weights()
    with pytest.raises(ValueError, match="at least one picture"):
        training.renew_statistics(model, _data()[0][:0])
    with pytest.raises(ZeroDivisionError):
        training.renew_statistics(model, _data()[0], augment=lambda batch, random: 1 / 0)
    assert model.get_layer("norm").momentum == 0.9
    np.testing.assert_equal(model.get_weights(), before)


def test_losses_between_two_places_are_those_of_models_that_stand_there():
    one, other = _compiled(seed=1), _compiled(seed=2)
    data = _data()
    expected = [one.evaluate(*data, verbose=0)[0], other.evaluate(*data, verbose=0)[0]]
    places = [training.flat_weights(model) for model in (one, other)]
    losses = training.losses_between(one, data, *places, at=np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(losses[[0, 2]], expected, rtol=1e-4)
    assert losses[1] != losses[0]


def test_saved_model_gives_equal_logits_and_equal_files(tmp_path):
    model, (images, _) = _compiled(dropout=0.3), _data()
    first, second = (training.save(model, tmp_path / name) for name in ("a.keras", "b.keras"))
    assert first.read_bytes() == second.read_bytes()
    loaded = keras.saving.load_model(first)
    np.testing.assert_array_equal(training.logits(loaded, images), training.logits(model, images))
    with zipfile.ZipFile(first) as archive:
        assert archive.testzip() is None
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("metadata.json"))["date_saved"] == ""


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_of_mixed_precision_and_replicas_is_saved_as_plain_float32(tmp_path, precision, policy):
    with precision(policy):
        model = models.better_cnn((8, 8, 1), 3, width=8)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    loaded = keras.saving.load_model(training.save(model, tmp_path / "model.keras"))
    layers = loaded._flatten_layers(include_self=False)
    assert {layer.compute_dtype for layer in layers} <= {"float32", "uint8"}
    assert not any(getattr(layer, "synchronized", False) for layer in loaded.layers)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    np.testing.assert_allclose(training.logits(loaded, images), training.logits(model, images), atol=0.05)


def test_card_tells_what_goes_in_and_what_comes_out(tmp_path):
    model = _compiled()
    history = training.fit(model, _data(), epochs=2, verbose=False)
    card = training.model_card(
        model, data_checksum="abc", classes=CLASSES, parameters={"EPOCHS": 1}, seeds=range(2),
        metrics={"test_accuracy": np.float32(0.5)}, history=history, licence="MIT",
    )  # fmt: skip
    path = training.save(model, tmp_path / "model.keras", card)
    written = json.loads((tmp_path / "model_card.json").read_text())
    assert written["input"] == {"dtype": "uint8", "shape": [None, *SHAPE], "values": "0 to 255, unscaled"}
    assert written["output"] == {"shape": [None, 3], "values": "logits, one for each class"}
    assert (written["model"], written["weights"], written["parameters"]) == ("mlp", 275, {"EPOCHS": 1})
    assert (written["classes"], written["data_checksum"], written["seeds"]) == (CLASSES, "abc", [0, 1])
    assert written["metrics"] == {"test_accuracy": 0.5}
    assert written["licence"] == "MIT"
    assert written["versions"] == training.versions()
    assert {"python", "backend", "keras", "numpy"} <= set(written["versions"])
    last = history.iloc[-1].drop("seconds").round(6)
    assert last["loss"] != history["loss"].iloc[0].round(6)
    assert written["last_epoch"] == last.to_dict()
    assert len(written["sha256"]) == 64
    assert path.name == "model.keras"


@pytest.mark.parametrize("figure", [np.nan, np.inf])
def test_a_figure_that_is_not_finite_has_no_place_on_a_card(figure):
    facts = {"data_checksum": "", "classes": CLASSES, "parameters": {}, "seeds": []}
    with pytest.raises(ValueError, match=f"test_accuracy is {figure}: measure it again"):
        training.model_card(_compiled(), metrics={"test_accuracy": figure}, **facts)
    with pytest.raises(ValueError, match=f"val_loss is {figure}"):
        training.model_card(_compiled(), metrics={}, history=pd.DataFrame({"val_loss": [figure]}), **facts)


def test_no_card_lies_beside_another_model_than_its_own(tmp_path):
    path, card = tmp_path / "model.keras", tmp_path / "model_card.json"
    training.save(_compiled(), path, {"metrics": {}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        training.save(_compiled(seed=1), path, {"metrics": {"test_accuracy": float("nan")}})
    assert not card.exists()
    training.save(_compiled(), path, {"metrics": {}})
    assert json.loads(card.read_text())["sha256"] == artifacts.sha256(path)
    training.save(_compiled(seed=2), path)
    assert json.loads(card.read_text())["sha256"] != artifacts.sha256(path)  # which tells that it is of another


def test_a_model_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = training.save(_compiled(), tmp_path / "model.keras")
    content = path.read_bytes()

    def break_off(partial):
        partial.write_bytes(partial.read_bytes()[:100])
        raise OSError("the disk is full")

    monkeypatch.setattr(training, "_drop_times", break_off)
    with pytest.raises(OSError, match="the disk is full"):
        training.save(_compiled(seed=1), path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_card_and_file_name_are_checked(tmp_path):
    with pytest.raises(ValueError, match="3 outputs for 2 classes"):
        training.model_card(_compiled(), data_checksum="", classes=CLASSES[:2], parameters={}, seeds=[], metrics={})
    with pytest.raises(ValueError, match=r"ends in \.keras; received model\.h5"):
        training.save(_compiled(), tmp_path / "model.h5")
    with pytest.raises(ValueError, match="received model"):
        training.save(_compiled(), tmp_path / "model")
