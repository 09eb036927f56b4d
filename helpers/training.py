"""Training runs as data: histories, repeats over seeds, schedules, and the model that is left."""

import math
import platform
import sys
import time
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from helpers import artifacts, devices, preprocessing

_VERSIONED = ("keras", "tensorflow", "jax", "torch", "numpy")


class Progress(keras.callbacks.Callback):
    """Collects one row an epoch and, if asked, prints it as one line on stderr.

    stderr, because times differ from run to run and the committed output of a notebook must not.

    Attributes:
        rows: The rows so far, as dicts; the columns of `fit`.
    """

    def __init__(self, name: str = "", *, verbose: bool = True) -> None:
        super().__init__()
        self.name, self.verbose, self.rows = name, verbose, []

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        row = {"epoch": epoch + 1, "seconds": time.perf_counter() - self._started, **(logs or {})}
        row.setdefault("learning_rate", float(self.model.optimizer.learning_rate))
        self.rows.append(row)
        if self.verbose:
            metrics = ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "loss" in key or "acc" in key)
            total = f"/{self.params['epochs']}" if self.params.get("epochs") else ""
            print(f"{self.name or self.model.name}: epoch {epoch + 1}{total}, {row['seconds']:.1f} s, {metrics}",
                  file=sys.stderr, flush=True)  # fmt: skip


@keras.saving.register_keras_serializable(package="workbook")
class OneCycle(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that climbs from almost 0 to `peak` in a straight line, and falls back.

    A high rate in the middle explores and regularizes; the long way down settles. The whole of it
    is laid out for `steps`, so a short run ends as calmly as a long one.

    Args:
        peak: Highest rate.
        steps: Batches of the whole training; past them the rate stays at its end.
        warm_up: Share of the steps on the way up, in `(0, 1)`.

    Raises:
        ValueError: If one of them is out of range.

    Example:

    >>> rate = OneCycle(0.1, steps=100, warm_up=0.2)
    >>> [round(float(rate(step)), 4) for step in (0, 10, 20, 60, 100)]
    [0.0001, 0.05, 0.1, 0.05, 0.0001]

    Reference:
        Smith and Topin, 2017, https://arxiv.org/abs/1708.07120
    """

    def __init__(self, peak: float, *, steps: int, warm_up: float = 0.25) -> None:
        if peak <= 0 or steps < 1 or not 0 < warm_up < 1:
            raise ValueError(
                "One cycle needs a peak above 0, at least 1 step and a warm_up between 0 and 1; "
                f"received {peak}, {steps} and {warm_up}."
            )
        self.peak, self.steps, self.warm_up = peak, steps, warm_up

    def __call__(self, step: int) -> object:
        done = keras.ops.cast(step, "float32") / self.steps
        share = keras.ops.minimum(done / self.warm_up, (1 - done) / (1 - self.warm_up))
        return self.peak * keras.ops.maximum(share, 1e-3)

    def get_config(self) -> dict:
        return {"peak": self.peak, "steps": self.steps, "warm_up": self.warm_up}


def steps(pictures: int, *, batch_size: int, epochs: int) -> int:
    """Returns the number of batches of a whole training, which schedules are laid out for.

    >>> steps(1000, batch_size=128, epochs=3)
    24
    """
    return math.ceil(pictures / batch_size) * epochs


def fit(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | keras.Layer | None = None,
    seed: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: bool = True,
) -> pd.DataFrame:
    """Calls `model.fit` with batches that never wait, and returns its history.

    Pictures in memory go to Keras as they are. With `augment`, they come from
    `preprocessing.batches`, one thread ahead of the training.

    Args:
        model: A compiled model.
        train: Pictures and labels.
        validation: The same, looked at after each epoch.
        epochs: Passes over the training pictures.
        batch_size: Pictures in a batch, over all replicas together.
        augment: What makes another version of a batch, such as `preprocessing.Jitter`.
        seed: Seed of order and augmentation where `augment` is given; else Keras's own counts
            (`keras.utils.set_random_seed`).
        callbacks: More callbacks, such as `keras.callbacks.EarlyStopping`.
        verbose: Whether each epoch is a line on stderr.

    Returns:
        One row an epoch: `epoch`, `seconds`, `loss`, `accuracy`, `val_loss`, `val_accuracy`,
        `learning_rate`; the metrics as the model was compiled with.

    Raises:
        ValueError: If the model is not compiled, there are fewer pictures than replicas, or the
            loss is not finite at the end.
    """
    if not model.compiled:
        raise ValueError("The model is not compiled: call model.compile(optimizer, loss, metrics) first.")
    count = devices.replicas()
    _check_replicas(model, count, min(batch_size, len(train[0])))
    progress = Progress(verbose=verbose)
    if augment is None and count == 1:
        data = {"x": train[0], "y": train[1], "batch_size": batch_size, "shuffle": True}
    else:
        # A replica without a picture crashes: several replicas leave a smaller last batch out.
        size = min(batch_size, len(train[0])) // count * count
        data = {"x": preprocessing.batches(*train, batch_size=size, shuffle=True, seed=seed,
                                           augment=augment, drop_last=count > 1)}  # fmt: skip
    if validation is not None:
        rows = _even(len(validation[0]), count, 500)
        data |= {"validation_data": tuple(part[: rows.total] for part in validation)}
        data |= {"validation_batch_size": rows.batch}
    model.fit(**data, epochs=epochs, callbacks=[progress, *callbacks], verbose=0)
    history = pd.DataFrame(progress.rows)
    if not np.isfinite(history["loss"].iloc[-1]):
        raise ValueError(
            f"The loss of {model.name} is {history['loss'].iloc[-1]} after epoch {len(history)}: "
            "the training diverged. Lower the learning rate."
        )
    return history
