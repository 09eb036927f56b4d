"""Facts about checkpoints: a training that was killed ends as the undisturbed one; another one begins anew."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, checkpoints, preprocessing, training

EPOCHS = 4


def _pictures() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (32, 8, 8, 1), np.uint8), np.arange(32) % 3


def _model(*, seed=0, rate=0.01, epochs=EPOCHS, dropout=0.5, skip="first", decay=True, metrics=("accuracy",)):
    """A network that has all kinds of state: moments, moving averages, random numbers of a layer, a schedule."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8, 8, 1))
    first = keras.layers.Conv2D(4, 3, padding="same")(keras.layers.Rescaling(1 / 255)(inputs))
    second = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, padding="same")(first))
    x = keras.layers.Add()([second, {"first": first, "second": second}[skip]])
    x = keras.layers.Dropout(dropout)(keras.layers.Flatten()(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(x), name="small")
    optimizer = keras.optimizers.AdamW(training.OneCycle(rate, steps=2 * epochs))
    if not decay:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=list(metrics), run_eagerly=True)
    return model


def _fit(path, *, model=None, epochs=EPOCHS, seed=0, stop=None, train=None, validation=None, **options):
    model = _model(epochs=epochs) if model is None else model
    stops = [keras.callbacks.LambdaCallback(on_epoch_begin=stop)] if stop else []
    options = {"batch_size": 16, "augment": preprocessing.Jitter(shift=1), **options}
    history = training.fit(model, train or _pictures(), validation or _pictures(), epochs=epochs, seed=seed,
                           callbacks=stops, checkpoint=path, verbose=False, **options)  # fmt: skip
    return model, history


def _interrupt(epoch, logs):
    if epoch == 2:
        raise KeyboardInterrupt


_built = functools.cache(_model)


@functools.cache
def _undisturbed() -> tuple[keras.Model, pd.DataFrame]:
    return _fit(None)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)


@functools.cache
def _halfway(folder: Path) -> tuple[str, bytes]:
    """Name and content of a checkpoint after two of four epochs."""
    with pytest.raises(KeyboardInterrupt):
        _fit(folder / "small.npz", stop=_interrupt)
    (path,) = folder.iterdir()
    return path.name, path.read_bytes()


@pytest.fixture
def interrupted(often, tmp_path_factory, tmp_path):
    """A folder with a checkpoint after two of four epochs."""
    name, content = _halfway(tmp_path_factory.getbasetemp() / "halfway")
    (tmp_path / name).write_bytes(content)
    return tmp_path


def _same(found: tuple[keras.Model, pd.DataFrame], expected: tuple[keras.Model, pd.DataFrame]) -> None:
    variables = [[*model.variables, *model.optimizer.variables] for model in (found[0], expected[0])]
    for one, other in zip(*variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)), err_msg=one.path)
    pd.testing.assert_frame_equal(found[1].drop(columns="seconds"), expected[1].drop(columns="seconds"))


# ── going on ────────────────────────────────────────────────────────────────────────────────────


def test_called_again_it_ends_as_the_undisturbed_training_does(interrupted, capfd):
    (file,) = interrupted.iterdir()
    began = []
    found = _fit(interrupted / "small.npz", stop=lambda epoch, logs: began.append(epoch))
    assert began == [2, 3]
    assert f"small goes on after epoch 2, from {file}\n" in capfd.readouterr().err
    _same(found, _undisturbed())
    assert not any(interrupted.iterdir())


def test_interrupted_in_a_notebook_the_same_cell_goes_on(often, tmp_path):
    model, began = _model(), []
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "small.npz", model=model, stop=_interrupt)
    found = _fit(tmp_path / "small.npz", model=model, stop=lambda epoch, logs: began.append(epoch))
    assert began == [2, 3]
    _same(found, _undisturbed())


@pytest.mark.slow
def test_killed_it_goes_on_after_its_last_whole_epoch(tmp_path, often):
    script = f"""
import os, signal
from pathlib import Path
from helpers import checkpoints
from tests import test_checkpoints
checkpoints.SECONDS = 0.0
def kill(epoch, logs):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
test_checkpoints._fit(Path({str(tmp_path)!r}) / "small.npz", stop=kill)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=artifacts.root(), env=dict(os.environ), timeout=300)
    assert killed.returncode == -signal.SIGKILL
    began = []
    found = _fit(tmp_path / "small.npz", stop=lambda epoch, logs: began.append(epoch))
    assert began == [3]
    _same(found, _undisturbed())


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data],
                         ids=["cut short", "empty", "changed"])  # fmt: skip
def test_a_damaged_file_begins_anew_and_says_so(interrupted, capfd, damage):
    (file,) = interrupted.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    found = _fit(interrupted / "small.npz")
    assert f"{file} cannot be read" in capfd.readouterr().err
    _same(found, _undisturbed())


def test_a_file_of_another_kind_begins_anew(interrupted, capfd):
    (file,) = interrupted.iterdir()
    np.savez(file, training=json.dumps(["a list"]))
    _fit(interrupted / "small.npz")
    assert f"{file} cannot be read" in capfd.readouterr().err


# ── another training ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("change", [
    {"model": {"seed": 1}}, {"model": {"rate": 0.02}}, {"model": {"dropout": 0.4}}, {"model": {"skip": "second"}},
    {"model": {"decay": False}}, {"epochs": 5}, {"seed": 1}, {"batch_size": 15},
    {"augment": preprocessing.Jitter(shift=2)}, {"class_weight": {0: 2.0, 1: 1.0, 2: 1.0}},
    {"train": (255 - _pictures()[0], _pictures()[1])}, {"train": (_pictures()[0], 2 - _pictures()[1])},
    {"train": (np.where(np.arange(32)[:, None, None, None] == 15, 0, _pictures()[0]).astype(np.uint8), _pictures()[1])},
    {"validation": (255 - _pictures()[0], _pictures()[1])},
], ids=["first weights", "rate", "dropout", "wiring", "decay", "epochs", "seed", "batch size", "augmentation",
        "class weights", "pictures", "labels", "one picture", "validation"])  # fmt: skip
def test_another_training_begins_anew_says_so_and_leaves_the_file(interrupted, capfd, change):
    (file,) = interrupted.iterdir()
    content, began = file.read_bytes(), []
    options = {**change, "model": _model(**change["model"])} if "model" in change else change

    def stop(epoch, logs):
        began.append(epoch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(interrupted / "small.npz", **options, stop=stop)
    assert began == [0]
    assert f"{file} is of another training" in capfd.readouterr().err
    assert file.read_bytes() == content
    assert list(interrupted.iterdir()) == [file]


def _darker(images, random, by=1):
    return images // by


def _lighter(images, random, by=1):
    return images + by


class _Shift:
    def __init__(self, by):
        self.by = by

    def move(self, images, random):
        return np.roll(images, self.by, axis=1)


def _closure(by):
    return lambda images, random: images // by


def _known(images, random):
    return images if images.dtype.name in {"uint8", "uint16", "float16", "float32"} else images // 255


def _hollow(by):
    return lambda images, random: images


@pytest.mark.parametrize(("one", "same", "other"), [
    (_darker, _darker, _lighter), (_closure(2), _closure(2), _closure(3)), (_closure(2), _closure(2), _hollow(2)),
    (functools.partial(_darker, by=2), functools.partial(_darker, by=2), functools.partial(_darker, by=3)),
    (_Shift(1).move, _Shift(1).move, _Shift(2).move), (_Shift({2, 1}), _Shift({1, 2}), _Shift({1, 3})),
    (np.arange(3), np.arange(3), np.arange(4)),
    (keras.layers.RandomFlip("horizontal"), keras.layers.RandomFlip("horizontal"), keras.layers.RandomFlip("vertical")),
], ids=["function", "closure", "code", "partial", "method", "object", "array", "layer"])  # fmt: skip
def test_what_decides_is_told_by_what_it_does_and_not_by_where_it_lies(one, same, other):
    first, second, third = (checkpoints.fingerprint(_built(), augment=thing) for thing in (one, same, other))
    assert first == second != third


@pytest.mark.slow
def test_a_fingerprint_is_that_of_every_process(fresh_python):
    script = """
from helpers import checkpoints
from tests import test_checkpoints as tests
print(checkpoints.fingerprint(tests._model(), tests._pictures(), a={"x", "y", "z"}, b=tests._closure(2),
                              c=tests._known))
"""
    here = checkpoints.fingerprint(_model(), _pictures(), a={"z", "x", "y"}, b=_closure(2), c=_known)
    assert fresh_python(script, PYTHONHASHSEED="7").strip() == here


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def test_a_short_training_writes_nothing_and_says_nothing(tmp_path, capfd):
    seen = []
    _fit(tmp_path / "small.npz", stop=lambda epoch, logs: seen.extend(tmp_path.iterdir()))
    assert seen == []
    assert "small" not in capfd.readouterr().err


def test_it_is_written_when_the_time_has_come_and_not_before_that_again(tmp_path, monkeypatch):
    now, changed = [0.0], []

    def pass_time(epoch, logs):
        changed.append(next((file.stat().st_mtime_ns for file in tmp_path.iterdir()), None))
        now[0] += 20

    monkeypatch.setattr(checkpoints.time, "perf_counter", lambda: now[0])
    _fit(tmp_path / "small.npz", model=_model(epochs=6), epochs=6, stop=pass_time)
    assert changed[:2] == [None, None]
    assert changed[2] == changed[3] != changed[4]  # after 40 and 80 seconds


def test_a_write_that_breaks_off_leaves_the_file_before(interrupted, monkeypatch):
    (file,) = interrupted.iterdir()
    content = file.read_bytes()

    def break_off(partial, **arrays):
        partial.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.np, "savez", break_off)
    with pytest.raises(KeyboardInterrupt):
        _fit(interrupted / "small.npz")
    assert file.read_bytes() == content
    assert list(interrupted.iterdir()) == [file]


def test_where_nothing_can_be_written_the_training_goes_on(tmp_path, often, capfd):
    (tmp_path / "file").write_text("no folder")
    found = _fit(tmp_path / "file" / "small.npz")
    assert "small goes on without a checkpoint. A file stands where the folder" in capfd.readouterr().err
    _same(found, _undisturbed())


def test_metrics_of_each_class_and_numbers_of_numpy_are_kept(tmp_path, often):
    weights = {np.int64(k): 1.0 for k in range(3)}
    one_hot = (_pictures()[0], np.eye(3, dtype=np.float32)[_pictures()[1]])
    model = _model()
    model.compile("adam", keras.losses.CategoricalCrossentropy(from_logits=True), metrics=[keras.metrics.F1Score()],
                  run_eagerly=True)  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path / "small.npz", model=model, train=one_hot, validation=one_hot, class_weight=weights,
             stop=_interrupt)  # fmt: skip
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_without_weights_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="has no weights to keep: begin it with keras.Input"):
        _fit(tmp_path / "small.npz", model=model)
