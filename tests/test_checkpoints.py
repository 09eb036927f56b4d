"""Facts about checkpoints: a training that was killed ends as the undisturbed one; another one begins anew."""

import functools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, checkpoints, preprocessing, training

EPOCHS = 4


def _data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (60, 8, 8, 1), np.uint8), np.arange(60) % 3


def _fit(path, *, seed=0, epochs=EPOCHS, rate=0.01, batch_size=16, shift=1, pictures=None, stop=None):
    """Trains a network that has all kinds of state: moments, moving averages, random numbers of a layer, a schedule."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([
        keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(4, 3),
        keras.layers.BatchNormalization(), keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(3),
    ], name="small")  # fmt: skip
    schedule = training.OneCycle(rate, steps=training.steps(60, batch_size=batch_size, epochs=epochs))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.AdamW(schedule), loss, metrics=["accuracy"], run_eagerly=True)
    stops = [keras.callbacks.LambdaCallback(on_epoch_begin=stop)] if stop else []
    history = training.fit(
        model, _data() if pictures is None else pictures, _data(), epochs=epochs, batch_size=batch_size, seed=seed,
        augment=preprocessing.Jitter(shift=shift), callbacks=stops, checkpoint=path, verbose=False,
    )  # fmt: skip
    return model, history


def _interrupt(epoch, logs):
    if epoch == 2:
        raise KeyboardInterrupt


@functools.cache
def _undisturbed() -> tuple[keras.Model, pd.DataFrame]:
    return _fit(None)


@functools.cache
def _halfway() -> bytes:
    """A checkpoint after two of four epochs."""
    with tempfile.TemporaryDirectory() as folder, pytest.raises(KeyboardInterrupt):
        try:
            _fit(Path(folder) / "halfway.npz", stop=_interrupt)
        finally:
            data = (Path(folder) / "halfway.npz").read_bytes()
    return data


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    path = tmp_path / "small.checkpoint.npz"
    path.write_bytes(_halfway())
    return path


def _same(found: tuple[keras.Model, pd.DataFrame], expected: tuple[keras.Model, pd.DataFrame]) -> None:
    variables = [[*model.variables, *model.optimizer.variables] for model in (found[0], expected[0])]
    for one, other in zip(*variables, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)), err_msg=one.path)
    pd.testing.assert_frame_equal(found[1].drop(columns="seconds"), expected[1].drop(columns="seconds"))


def test_interrupted_and_called_again_it_ends_as_the_undisturbed_training_does(interrupted, capfd):
    began = []
    found = _fit(interrupted, stop=lambda epoch, logs: began.append(epoch))
    assert began == [2, 3]
    assert f"small goes on after epoch 2, from {interrupted}" in capfd.readouterr().err
    _same(found, _undisturbed())
    assert not any(interrupted.parent.iterdir())


def test_killed_it_goes_on_after_its_last_whole_epoch(tmp_path):
    path = tmp_path / "small.checkpoint.npz"
    script = f"""
import os, signal
from helpers import checkpoints
from tests import test_checkpoints
checkpoints.SECONDS = 0.0
def kill(epoch, logs):
    if epoch == 3:
        os.kill(os.getpid(), signal.SIGKILL)
test_checkpoints._fit({str(path)!r}, stop=kill)
"""
    killed = subprocess.run([sys.executable, "-c", script], cwd=artifacts.root(), env=dict(os.environ), timeout=120)
    assert killed.returncode == -signal.SIGKILL
    began = []
    found = _fit(path, stop=lambda epoch, logs: began.append(epoch))
    assert began == [3]
    _same(found, _undisturbed())


@pytest.mark.parametrize("change", [
    {"seed": 1}, {"epochs": 5}, {"rate": 0.02}, {"batch_size": 15}, {"shift": 0},
    {"pictures": (255 - _data()[0], _data()[1])}, {"pictures": (_data()[0], 2 - _data()[1])},
], ids=["seed", "epochs", "rate", "batch size", "augmentation", "pictures", "labels"])  # fmt: skip
def test_another_training_begins_anew_and_says_so(interrupted, capfd, change):
    began = []

    def stop(epoch, logs):
        began.append(epoch)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _fit(interrupted, **change, stop=stop)
    assert began == [0]
    assert f"{interrupted} is of another training" in capfd.readouterr().err


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PK" + data],
                         ids=["cut short", "empty", "changed"])  # fmt: skip
def test_a_damaged_file_begins_anew_and_says_so(interrupted, capfd, damage):
    interrupted.write_bytes(damage(interrupted.read_bytes()))
    found = _fit(interrupted)
    assert f"{interrupted} cannot be read" in capfd.readouterr().err
    _same(found, _undisturbed())


def test_a_short_training_writes_nothing(tmp_path):
    seen = []
    _fit(tmp_path / "small.checkpoint.npz", stop=lambda epoch, logs: seen.extend(tmp_path.iterdir()))
    assert seen == []


def test_where_nothing_can_be_written_the_training_goes_on(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(checkpoints, "SECONDS", 0.0)
    (tmp_path / "file").write_text("no folder")
    found = _fit(tmp_path / "file" / "small.checkpoint.npz")
    assert "A file stands where the folder" in capfd.readouterr().err
    _same(found, _undisturbed())
