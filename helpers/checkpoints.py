"""What a training has changed so far, in a file: killed, the same training goes on after its last whole epoch."""

import contextlib
import hashlib
import json
import re
import sys
import time
from pathlib import Path

import keras
import numpy as np

from helpers import artifacts

SECONDS = 30.0  # a file is written at the first end of an epoch that is so long after the last one
_PROBED = 1000  # pictures whose bytes tell one data set from another, beside all labels


class Checkpoint(keras.callbacks.Callback):
    """Keeps weights, state of the optimizer and of all random numbers, and the history, after an epoch.

    `keras.callbacks.BackupAndRestore` keeps neither the history nor the seeds of dropout. What is taken up here
    ends as the undisturbed training does, bit for bit where the backend computes so.

    Args:
        path: The file, which ends in `.npz`.
        training: What decides the outcome, see `fingerprint`; a file of another training is not taken up.
        rows: The list that holds the history; what the file knows is put into it.
    """

    def __init__(self, path: str | Path, training: str, rows: list[dict]) -> None:
        super().__init__()
        self.path, self.training, self.rows = Path(path), training, rows

    def restore(self, model: keras.Model) -> int:
        """Takes up what the file holds, and says so on stderr.

        Args:
            model: The compiled model, as it was when the training began.

        Returns:
            How many epochs are done; 0 without a file, or with one of another training or that cannot be read.
        """
        if not self.path.exists():
            return 0
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        variables = _variables(model)
        try:
            with open(self.path, "rb") as data, np.load(data) as file:
                told = json.loads(str(file["training"]))
                if told["training"] != self.training:
                    _say(f"{self.path} is of another training, of other data or settings: {model.name} begins anew")
                    return 0
                values = [file[str(i)] for i in range(len(variables))]
        except artifacts.DAMAGED as error:
            _say(f"{self.path} cannot be read ({error}): {model.name} begins anew")
            return 0
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self.rows[:] = told["rows"]
        _say(f"{model.name} goes on after epoch {len(self.rows)}, from {self.path}")
        return len(self.rows)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._written = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last = self.model.stop_training or epoch + 1 == self.params.get("epochs")
        if last or time.perf_counter() < self._written + SECONDS:
            return
        told = json.dumps({"training": self.training, "rows": self.rows}, default=float)
        values = {str(i): keras.ops.convert_to_numpy(value) for i, value in enumerate(_variables(self.model))}
        try:
            with artifacts.writing(self.path) as partial:
                np.savez(partial, training=told, **values)
        except OSError as error:  # the training itself can go on
            _say(f"{self.model.name} goes on without a checkpoint. {artifacts.explain(error, self.path)}")
        self._written = time.perf_counter()

    def on_train_end(self, logs: dict | None = None) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def fingerprint(model: keras.Model, *splits: tuple[np.ndarray, np.ndarray] | None, **settings: object) -> str:
    """Returns the SHA-256 of all that decides how a training ends.

    Args:
        model: The compiled model: its structure, how it is compiled, and the weights that it starts from.
        splits: Pictures and labels of training and validation; of the pictures 1,000 are read.
        settings: What else counts, such as epochs and versions.
    """
    digest = hashlib.sha256()
    arrays = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    for pictures, labels in filter(None, splits):
        few = np.unique(np.linspace(0, len(pictures) - 1, _PROBED).astype(int))
        arrays += [np.asarray(pictures[few]), np.asarray(labels), np.array(len(pictures))]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    layers = [(type(layer).__name__, layer.get_config()) for layer in model._flatten_layers()
              if not isinstance(layer, keras.Model)]  # fmt: skip
    facts = json.dumps([layers, model.get_compile_config(), settings], sort_keys=True, default=_told)
    digest.update(re.sub(r'("name": "[^"]*?)_\d+"', r'\1"', facts).encode())  # Keras counts its names in a process
    return digest.hexdigest()


def _told(setting: object) -> object:
    if isinstance(setting, keras.Layer):
        return setting.get_config()
    return getattr(setting, "__qualname__", None) or str(setting)  # a function's text holds its address


def _variables(model: keras.Model) -> list:
    return [*model.variables, *model.optimizer.variables]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
