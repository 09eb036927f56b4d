"""Training runs as data: histories, repeats over seeds, schedules, and the model that is left."""

import json
import math
import platform
import random
import sys
import time
import weakref
import zipfile
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from scipy.special import log_softmax

from helpers import artifacts, checkpoints, devices, fusion, preprocessing

_VERSIONED = ("keras", "tensorflow", "jax", "torch", "numpy")
_AT_A_TIME = 500  # pictures in a batch where nothing is learned
_MEASURED = 10_000  # pictures that batch normalization is measured with again


class Diverged(ValueError):
    """A training whose loss is not finite any more; `history` holds its epochs up to there."""

    def __init__(self, message: str, history: pd.DataFrame) -> None:
        super().__init__(message)
        self.history = history


class Progress(keras.callbacks.Callback):
    """Collects one row an epoch; ends what has diverged. If asked, it shows how far the training is.

    In JupyterLab that is a chart with the time left and a button that ends the training, which then keeps its best
    weights. Elsewhere it is a line an epoch on stderr, because times differ from run to run and the committed output
    of a notebook must not; of epochs that are quicker than half a second not each has one.

    Attributes:
        rows: The rows so far, as dicts; the columns of `fit`.
    """

    def __init__(self, *, verbose: bool = True) -> None:
        super().__init__()
        self.verbose, self.rows = verbose, []
        self._dashboard, self._best, self._told, self._drawn = None, (np.inf, None), 0.0, (0, 0.0)

    def on_train_begin(self, logs: dict | None = None) -> None:
        from helpers import widgets

        self._began, self._before = time.perf_counter(), len(self.rows)  # rows of a checkpoint took no time now
        if self.verbose and widgets.watched():
            self._dashboard = widgets.Dashboard(self.model.name)

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        self._started, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._trained = time.perf_counter()  # what follows is validation and no part of a step's price

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        if self._dashboard is None:
            return
        self.model.stop_training |= self._dashboard.stopped
        if time.perf_counter() > self._told + 0.5:
            self._told, steps = time.perf_counter(), self.params.get("steps")
            self._dashboard.say(self._left(len(self.rows) + ((batch + 1) / steps if steps else 0)))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        seconds = (self._trained or time.perf_counter()) - self._started
        row = {"epoch": epoch + 1, "seconds": seconds, **(logs or {})}
        row.setdefault("learning_rate", float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)))
        self.rows.append(row)
        if not np.isfinite(row.get("loss", 0.0)):
            self.model.stop_training = True
        if self._dashboard is not None:
            self._show(row)
        elif self.verbose and (epoch + 1 == self.params.get("epochs") or time.perf_counter() > self._told + 0.5):
            self._told = time.perf_counter()
            total = f"/{self.params['epochs']}" if self.params.get("epochs") else ""
            print(f"{self.model.name}: epoch {epoch + 1}{total}, {row['seconds']:.1f} s, {_metrics(row)}",
                  file=sys.stderr, flush=True)  # fmt: skip

    def on_train_end(self, logs: dict | None = None) -> None:
        if self._dashboard is None:
            return
        if self._drawn[0] < len(self.rows):  # early stopping ended it between two pictures
            self._draw()
        loss, weights = self._best
        kept = ""
        if self._dashboard.stopped and weights is not None:
            self.model.set_weights(weights)
            since = f" since epoch {self._before}" if self._before else ""
            keeps = f"keeps the weights with the lowest loss{since}, {loss:.4f}."
            print(f"The training was stopped after epoch {len(self.rows)} of {self.params.get('epochs')} and {keeps}")
            kept = f" It was stopped and {keeps}"
        self._dashboard.close(f"{len(self.rows)} epochs, {_metrics(self.rows[-1])}.{kept}" if self.rows else "")

    def interrupted(self) -> None:
        """Takes away the controls of a training that was broken off: they would go on saying what is left of it."""
        if self._dashboard is not None:
            self._dashboard.close(f"It was interrupted in epoch {len(self.rows) + 1}.")

    def _left(self, done: float) -> str:
        epochs = self.params.get("epochs") or 1
        seconds = (time.perf_counter() - self._began) / max(done - self._before, 1e-9) * (epochs - done)
        told = f", {_metrics(self.rows[-1])}" if self.rows else ""
        return f"epoch {min(int(done) + 1, epochs)} of {epochs}, {max(seconds, 0):.0f} s left{told}"

    def _show(self, row: dict) -> None:
        loss = row.get("val_loss", row["loss"])
        if loss < self._best[0]:
            self._best = loss, self.model.get_weights()
        self._dashboard.say(self._left(len(self.rows)))
        if time.perf_counter() > self._drawn[1] + 1:  # it takes 0.1 s
            self._draw()

    def _draw(self) -> None:
        from helpers import plotting

        self._dashboard.draw(plotting.learning_curves(pd.DataFrame(self.rows), metric="loss"))
        self._drawn = len(self.rows), time.perf_counter()


def _metrics(row: dict) -> str:
    return ", ".join(f"{key} {value:.4f}" for key, value in row.items() if "loss" in key or "acc" in key)


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


class Muon(keras.optimizers.Muon):
    """Keras's Muon for the kernels of convolutions, too, which Keras itself leaves to AdamW.

    A kernel is taken for the matrix that it is to a patch of the picture: a row for each number of the patch, a
    column for each filter. Biases, normalizations and depthwise kernels take AdamW's step as before; the arguments
    are Keras's.

    Reference:
        Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/
    """

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        kernel = len(variable.shape) == 4 and variable.shape[-1] > 1
        return not kernel and super()._should_use_adamw(variable)

    def zeropower_via_newtonschulz5(self, x: keras.KerasTensor, steps: int) -> keras.KerasTensor:
        matrix = keras.ops.reshape(x, (-1, x.shape[-1]))
        return keras.ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x: keras.KerasTensor) -> keras.KerasTensor:
        if self.rms_rate is None:
            return x
        return x * (self.rms_rate * max(math.prod(x.shape[:-1]), x.shape[-1]) ** 0.5)


def steps(pictures: int, *, batch_size: int, epochs: int) -> int:
    """Returns the number of batches of a whole training, which schedules are laid out for.

    As in `fit`, several devices leave a smaller last batch out.

    >>> steps(1000, batch_size=128, epochs=3)
    24
    """
    count = devices.shares()
    size = min(batch_size, pictures) // count * count
    return (math.ceil(pictures / batch_size) if count == 1 else pictures // max(size, 1)) * epochs


def passes(pictures: int, epochs: int, *, batch_size: int, at_least: int) -> int:
    """Returns for how many epochs to train: those asked for, or more where the set is too small to learn in them.

    Args:
        pictures: Training pictures.
        epochs: What is enough for a large set.
        batch_size: Pictures in a batch.
        at_least: Batches, each a step of the weights, that the training has to have.

    >>> passes(54_000, 8, batch_size=128, at_least=100), passes(270, 8, batch_size=128, at_least=100)
    (8, 34)
    """
    return max(epochs, math.ceil(at_least / steps(pictures, batch_size=batch_size, epochs=1)))


def class_weights(labels: np.ndarray, classes: int) -> dict[int, float]:
    """Returns what a picture of each class counts in the loss, so that all classes count alike.

    Args:
        labels: int of shape (n,).
        classes: How many classes there are; one without pictures gets 1.

    Returns:
        Weights in inverse proportion to the classes' sizes; their mean over the pictures is 1.

    >>> class_weights(np.array([0, 0, 0, 1]), 2)
    {0: 0.6666666666666666, 1: 2.0}
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.where(counts, len(labels) / ((counts > 0).sum() * np.maximum(counts, 1)), 1.0)
    return dict(enumerate(weights.tolist()))


def fit(
    model: keras.Model,
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    epochs: int,
    batch_size: int = 128,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | keras.Layer | None = None,
    class_weight: dict[int, float] | None = None,
    seed: int = 0,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    checkpoint: str | Path | None = None,
    verbose: bool = True,
) -> pd.DataFrame:
    """Calls `model.fit` with batches that never wait, and returns its history.

    They come from `preprocessing.batches`, a few ahead of the training, in an order that depends on
    `seed` alone: the same on every backend.

    Args:
        model: A compiled model.
        train: Pictures and labels; labels that are whole numbers count the classes from 0.
        validation: The same, looked at after each epoch.
        epochs: Passes over the training pictures, at least one.
        batch_size: Pictures in a batch, over all devices together.
        augment: What makes another version of a batch, such as `preprocessing.Jitter`.
        class_weight: What a picture of each class counts in the training loss, such as `class_weights` gives.
        seed: Seed of order and augmentation; dropout and initial weights follow
            `keras.utils.set_random_seed`.
        callbacks: More callbacks, such as `keras.callbacks.EarlyStopping`.
        checkpoint: A name that ends in `.npz`, for a training that may be killed or interrupted: the same call goes on
            after the last epoch that the file holds, see `checkpoints`. It is written every half minute at most, and
            removed in the end. What callbacks and layers in `augment` remember, as `EarlyStopping` does, begins anew.
            An interrupted model has its first weights again.
        verbose: Whether each epoch is a line on stderr.

    Returns:
        One row an epoch: `epoch`, `seconds` (of its steps, without validation), `loss`, `accuracy`, `val_loss`,
        `val_accuracy`, `learning_rate`; the metrics as the model was compiled with. No row if a callback, such as
        `keras.callbacks.BackupAndRestore`, finds that all epochs are done.

    Raises:
        ValueError: If the model is not compiled, or not built and to be kept, there is no epoch, a label is no class
            of the model, or there are fewer pictures than devices.
        Diverged: If the loss of an epoch is not finite, which ends the training, or in the end that of the validation.
    """
    if not model.compiled:
        raise ValueError("The model is not compiled: call model.compile(optimizer, loss, metrics) first.")
    if checkpoint is not None and not model.built:
        raise ValueError("A model that is not built has no weights to keep: begin it with keras.Input(shape).")
    if epochs < 1:
        raise ValueError(f"A training passes over its pictures at least once; received epochs={epochs}.")
    for _, labels in filter(None, (train, validation)):
        _check_labels(model, labels)
    count = devices.shares()
    _check_replicas(model, devices.replicas())
    progress = Progress(verbose=verbose)
    # A device without a picture crashes: several leave a smaller last batch out.
    size = min(batch_size, len(train[0])) // count * count
    if count > 1 and size == 0:
        raise ValueError(
            f"A batch of {min(batch_size, len(train[0]))} leaves some of {count} devices without a picture: "
            "make it larger."
        )
    batches = preprocessing.batches(*train, batch_size=size, shuffle=True, seed=seed,
                                    augment=augment, drop_last=count > 1)  # fmt: skip
    judge = None
    if validation is not None:
        total, size = _even(len(validation[0]), count, 500)
        judge = _feed(preprocessing.batches(*validation, indices=np.arange(total), batch_size=size))
    turn = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: batches.start(epoch))
    done, callbacks = 0, [turn, progress, *callbacks]
    kept = None
    if checkpoint is not None:
        model.optimizer.build(model.trainable_variables)
        training = checkpoints.fingerprint(
            model, train, validation, epochs=epochs, batch_size=batch_size, devices=count, seed=seed, augment=augment,
            class_weight=sorted((class_weight or {}).items()), versions=versions(),
        )  # fmt: skip
        kept = checkpoints.Checkpoint(checkpoint, training, progress.rows, model)
        done = kept.restore(model)
        callbacks.append(kept)
    try:
        with fusion.fused(model):
            model.fit(_feed(batches), validation_data=judge, epochs=epochs, initial_epoch=done, shuffle=False,
                      class_weight=class_weight, callbacks=callbacks, verbose=0)  # fmt: skip
    except KeyboardInterrupt:
        progress.interrupted()
        if kept is not None:
            kept.rewind(model)
        raise
    history = pd.DataFrame(progress.rows)
    for name in ("loss", "val_loss"):
        if name in history and not np.isfinite(history[name].iloc[-1]):
            raise Diverged(
                f"The {name} of {model.name} is {history[name].iloc[-1]} after epoch {len(history)}: "
                "the training diverged. Lower the learning rate.",
                history,
            )
    return history


def restart(model: keras.Model, *, seed: int, learning_rate: float | None = None) -> keras.Model:
    """Gives a compiled model new initial weights and its optimizer a new state.

    What follows is what a newly built model would do at the learning rate that the optimizer has now; but it
    need not be compiled again, and on TensorFlow takes no memory for another graph, which lives as long as the
    program. Where something has lowered the rate, as `keras.callbacks.ReduceLROnPlateau` does, say `learning_rate`.

    Args:
        model: A compiled functional model.
        seed: Where initial weights, dropout and augmentation layers start from; equal seeds give equal ones.
        learning_rate: Another one than it has now, if the rate is a number and not a schedule.

    Returns:
        The model, for `fit`.

    Raises:
        ValueError: If the model is not compiled.
    """
    if not model.compiled:
        raise ValueError("The model is not compiled: call model.compile(optimizer, loss, metrics) first.")
    # Keras's seeds come from here. keras.utils.set_random_seed would seed TensorFlow's generator, too, which
    # no layer uses and which makes TensorFlow throw away all that it has prepared: 0.3 s for the next step.
    random.seed(seed)
    if keras.backend.backend() == "torch":  # whose dropout draws from its own
        import torch

        torch.manual_seed(seed)
    fresh = type(model).from_config(model.get_config())
    checkpoints.assign(model.variables, fresh.variables)
    optimizer = model.optimizer
    if optimizer.built:
        begin = type(optimizer).from_config(optimizer.get_config())
        begin.build(fresh.trainable_variables)
        checkpoints.assign(optimizer.variables, begin.variables)
    if learning_rate is not None:
        optimizer.learning_rate = learning_rate
    return model


def batch_losses(
    model: keras.Model, train: tuple[np.ndarray, np.ndarray], *, batch_size: int, batches: int, seed: int = 0
) -> np.ndarray:
    """Trains on some batches and returns the loss of each; for a range test of the learning rate.

    Args:
        model: A model compiled with `steps_per_execution=1`.
        train: Pictures and labels, read again from the start if they are fewer than the batches need.
        batch_size: Pictures in a batch.
        batches: How many.
        seed: Seed of the order.

    Returns:
        float64 of shape (batches,), each loss from before its step; not a number after divergence.

    Raises:
        ValueError: If the model runs several steps at a time, and so shows only their mean.
    """
    if model.steps_per_execution != 1:
        raise ValueError(
            f"The model runs {model.steps_per_execution} steps at a time and shows only their mean: "
            "compile it with steps_per_execution=1."
        )
    sums = []

    def note(batch: int, logs: dict) -> None:  # Keras shows the mean over the epoch so far
        sums.append(logs["loss"] * (batch + 1))

    size = _even(batch_size, devices.shares(), batch_size)[1]
    order = np.resize(np.random.default_rng(seed).permutation(len(train[0])), batches * size)
    rows = preprocessing.batches(*train, indices=order, batch_size=size)
    noting = keras.callbacks.LambdaCallback(on_train_batch_end=note)
    model.fit(_feed(rows), shuffle=False, callbacks=[noting], verbose=0)
    return np.diff(sums, prepend=0.0)


def repeat(run: Callable[[int], pd.DataFrame], seeds: Iterable[int]) -> pd.DataFrame:
    """Calls `run(seed)` once for each seed and returns the histories under each other.

    Args:
        run: Fits a new model, or one that `restart` has made new, and returns its history. Before
            each call all of Keras's random numbers start from the seed.
        seeds: Seeds; one number says nothing about noise.

    Returns:
        The rows of all histories with a column `seed` in front.
    """
    histories = []
    for seed in seeds:
        keras.utils.set_random_seed(seed)
        history = run(seed)
        history.insert(0, "seed", seed)
        histories.append(history)
    if not histories:
        raise ValueError("There is no seed to repeat the training for.")
    return pd.concat(histories, ignore_index=True)


def logits(model: keras.Model, images: np.ndarray) -> np.ndarray:
    """Returns the model's outputs for all pictures as float32, on any number of devices.

    Args:
        model: A model; it need not be compiled.
        images: uint8 of shape (n, height, width, channels); a memory map is read batch by batch.

    Returns:
        float32 of shape (n, classes).
    """
    if len(images) == 0:
        return np.empty((0, *model.output_shape[1:]), np.float32)
    count = devices.shares()
    size = min(_AT_A_TIME, len(images)) // count * count or count
    rows = np.arange(len(images))
    if count > 1:  # a device without a picture crashes: the last one is asked about again
        rows = np.pad(rows, (0, -len(rows) % size), mode="edge")
    batches = preprocessing.batches(images, np.zeros(len(images), np.int64), indices=rows, batch_size=size)
    return model.predict(_feed(batches), verbose=0)[: len(images)].astype(np.float32)


def renew_statistics(
    model: keras.Model,
    images: np.ndarray,
    *,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
) -> None:
    """Measures the means and variances of all batch normalization again, with the weights as they are now.

    Training keeps moving averages of them. Those are of weights that have gone since, which matters where weights
    still jump at the end, as rounded ones do.

    Args:
        model: A model; its weights stay. Layers that act in training, such as dropout, act here, too.
        images: Training pictures of shape (n, height, width, channels); of more than 10,000 so many are drawn. The
            variance is a mean of those within batches of up to 500.
        augment: What training did to a batch.

    Raises:
        ValueError: If there is no picture.

    Reference:
        Wu and Johnson, 2021, section 3, https://arxiv.org/abs/2105.07576 and
        Nagel et al., 2022, https://icml.cc/virtual/2022/poster/17839
    """
    if not len(images):
        raise ValueError("Statistics are those of at least one picture; received none.")
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    random = np.random.default_rng(0)
    order = random.permutation(len(images))[:_MEASURED]
    parts = np.array_split(order, math.ceil(len(order) / _AT_A_TIME))  # of equal size: each counts as much
    before = [layer.momentum for layer in norms]
    try:
        for done, rows in enumerate(parts):
            for layer in norms:
                layer.momentum = done / (done + 1)  # the moving average is the mean of all batches so far
            batch = np.asarray(images[np.sort(rows)])
            model(batch if augment is None else augment(batch, random), training=True)
    finally:
        for layer, momentum in zip(norms, before, strict=True):
            layer.momentum = momentum


def flat_weights(model: keras.Model) -> np.ndarray:
    """Returns all weights of a model as one vector: its place in the space in which training walks."""
    return np.concatenate([weights.ravel() for weights in model.get_weights()])


def losses_between(
    model: keras.Model, data: tuple[np.ndarray, np.ndarray], first: np.ndarray, second: np.ndarray, *, at: np.ndarray
) -> np.ndarray:
    """Returns the loss along the straight line between two places in the space of all weights.

    Args:
        model: A model with logits as outputs; it ends at the last place that was looked at.
        data: Pictures and labels to take the mean cross-entropy over.
        first: Where the line begins, as `flat_weights` gives it.
        second: Where it is at 1.
        at: Shares of the way, shape (n,); above 1 it goes on behind `second`.

    Returns:
        float64 of shape (n,).

    Reference:
        Goodfellow et al., 2015, section 2, https://arxiv.org/abs/1412.6544
    """
    images, labels = data
    losses, parts = [], model.get_weights()
    ends = np.cumsum([part.size for part in parts])[:-1]
    for share in at:
        pieces = np.split(first + share * (second - first), ends)
        model.set_weights([piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)])
        surprise = -log_softmax(logits(model, images).astype(np.float64), axis=1)[np.arange(len(labels)), labels]
        losses.append(surprise.mean())
    return np.array(losses)


def model_card(
    model: keras.Model,
    *,
    data_checksum: str,
    classes: list[str],
    parameters: dict,
    seeds: Iterable[int],
    metrics: dict[str, float],
    history: pd.DataFrame | None = None,
    **facts: object,
) -> dict:
    """Describes a trained model: what it takes and gives, and all that is needed to make it again.

    Args:
        model: The model.
        data_checksum: `DataSet.checksum` of what it was trained on.
        classes: Class names in the order of the outputs.
        parameters: Values that the training used.
        seeds: Every seed that was set.
        metrics: Results by name, each with its split in the name, such as `"test_accuracy"`.
        history: History of the training; its last row is recorded without the times.
        facts: More entries, JSON values.

    Raises:
        ValueError: If there is not one output for each class, or a figure is not finite.
    """
    if model.output_shape[-1] != len(classes):
        raise ValueError(f"{model.name} has {model.output_shape[-1]} outputs for {len(classes)} classes: {classes}.")
    card = {
        "model": model.name,
        "weights": model.count_params(),
        "input": {"dtype": model.inputs[0].dtype, "shape": list(model.input_shape), "values": "0 to 255, unscaled"},
        "output": {"shape": list(model.output_shape), "values": "logits, one for each class"},
        "classes": list(classes),
        "data_checksum": data_checksum,
        "parameters": parameters,
        "seeds": list(seeds),
        "metrics": {name: float(value) for name, value in metrics.items()},
        "versions": versions(),
        **facts,
    }
    if history is not None:
        last = history.drop(columns=["seconds"], errors="ignore").iloc[-1]
        card["last_epoch"] = {name: round(float(value), 6) for name, value in last.items()}
    for name, value in (card["metrics"] | card.get("last_epoch", {})).items():
        if not math.isfinite(value):
            raise ValueError(f"A card holds finite figures; {name} is {value}: measure it again, or leave it out.")
    return card


def save(model: keras.Model, path: str | Path, card: dict | None = None) -> Path:
    """Writes a model as `.keras`, and its card beside it as `model_card.json`; each whole or not at all.

    With a card the old one goes before the model is replaced, so that it never lies beside another's; without one, a
    card that is there stays, and its SHA-256 tells which model it is of.

    What is written is float32, needs no accelerator and no training state, whatever the model was
    trained on: batch normalization is not synchronized any more, and there is no optimizer.

    Args:
        model: A functional model.
        path: Ends in `.keras`.
        card: What `model_card` returned; the SHA-256 of the model file is added.

    Returns:
        The path of the model.
    """
    path = Path(path)
    if path.suffix != ".keras":
        raise ValueError(f"A model is saved in a file that ends in .keras; received {path.name}.")
    with artifacts.writing(path) as partial:
        portable(model).save(partial)
        _drop_times(partial)
        if card is not None:
            path.with_name("model_card.json").unlink(missing_ok=True)
    if card is not None:
        artifacts.write_json(path.with_name("model_card.json"), {**card, "sha256": artifacts.sha256(path)})
    return path


def _drop_times(path: Path) -> None:
    """Rewrites a `.keras` archive without its dates, so that equal models are equal files."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    metadata = json.loads(members["metadata.json"])
    members["metadata.json"] = json.dumps({**metadata, "date_saved": ""}, sort_keys=True).encode()
    with zipfile.ZipFile(path, "w") as archive:  # stored, as Keras does: weights hardly shrink
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980, the first day of zip


def portable(model: keras.Model, change: Callable[[dict], dict] = lambda part: part) -> keras.Model:
    """Returns an uncompiled copy of a functional model in float32, with the same weights.

    Args:
        model: A functional model.
        change: Takes each part of the model's configuration, inner ones first, and returns what stands in its place.
    """
    copy = type(model).from_config(_without_machine(model.get_config(), change))
    copy.set_weights(model.get_weights())
    return copy


def _without_machine(config: object, change: Callable[[dict], dict]) -> object:
    """Returns a layer's config, at any depth, without mixed precision and synchronization."""
    if isinstance(config, list | tuple):
        return type(config)(_without_machine(item, change) for item in config)
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config["config"]["name"].startswith("mixed_"):
        return {**config, "config": {"name": "float32"}}
    config = {key: _without_machine(value, change) for key, value in config.items()}
    return change({**config, "synchronized": False} if config.get("synchronized") else config)


def versions() -> dict[str, str]:
    """Returns Python's version, the backend's name, and the versions of what trains."""
    found = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in _VERSIONED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _feed(batches: preprocessing.Batches) -> object:
    """Returns batches as this backend reads them without a wait: on TensorFlow tf.data with its tuner off.

    Keras leaves the tuner on. At the end of an epoch that thread may sleep through its cancellation,
    and training waits for it, for up to as long as the epoch took. And TensorFlow keeps each function of
    `tf.numpy_function` as long as the program runs: what ours holds is let go with the data set.
    """
    if keras.backend.backend() != "tensorflow":
        return batches
    import tensorflow as tf

    example, held = batches[0], [batches]
    like = [(part.dtype, (None, *part.shape[1:])) for part in example]

    def read(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        parts = tf.numpy_function(lambda i: held[0][int(i)], [number], [dtype for dtype, _ in like])
        return tuple(tf.ensure_shape(part, shape) for part, (_, shape) in zip(parts, like, strict=True))

    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.range(len(batches)).map(read).prefetch(4).with_options(options)
    weakref.finalize(dataset, held.clear)
    return dataset


def _check_labels(model: keras.Model, labels: np.ndarray) -> None:
    """Refuses whole numbers that are no class of the model: JAX and a GPU would train on them without a word."""
    labels, outputs = np.asarray(labels), getattr(model, "output_shape", ()) if model.built else ()
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or len(outputs) != 2:
        return
    classes = outputs[-1]
    if isinstance(classes, int) and classes > 1 and (labels.min() < 0 or labels.max() >= classes):
        raise ValueError(
            f"{model.name} has {classes} outputs, for labels from 0 to {classes - 1}; received labels from "
            f"{labels.min()} to {labels.max()}: count the classes from 0, or build the model for more of them."
        )


def _check_replicas(model: keras.Model, count: int) -> None:
    """Refuses what several TensorFlow replicas would get wrong without a word."""
    if count == 1:
        return
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)  # mixed_float16 wraps it
    clips = [name for name in ("clipnorm", "clipvalue", "global_clipnorm") if getattr(optimizer, name, None)]
    if clips:
        raise ValueError(
            f"The optimizer clips gradients ({clips[0]}), which {count} replicas do each for its own share, "
            "so the sum is wrong: leave it out, or train on one device."
        )
    loose = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    if loose:
        raise ValueError(
            f"Layer {loose[0]} would normalize each of {count} replicas by itself: build it with synchronized=True."
        )


def _even(pictures: int, count: int, batch: int) -> tuple[int, int]:
    """Returns how many pictures to validate on, and in which batches, so that all devices have as many in each.

    >>> _even(5003, 1, 500), _even(5003, 4, 500), _even(30, 4, 500)
    ((5003, 500), (5000, 500), (28, 28))
    """
    if count == 1:
        return pictures, batch
    total = pictures // count * count
    return total, min(batch // count * count, total)
