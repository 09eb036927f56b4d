"""What a training has changed so far, in a file: killed, the same training goes on after the last epoch kept."""

import contextlib
import functools
import hashlib
import json
import re
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np

from helpers import artifacts

SECONDS = 30.0  # a file is written at the first end of an epoch that is so long after the last one
_PROBED = 1000  # pictures whose bytes tell one data set from another, beside all labels


class Checkpoint(keras.callbacks.Callback):
    """Keeps weights, state of the optimizer and of all random numbers, and the history, after an epoch.

    `keras.callbacks.BackupAndRestore` keeps neither the history nor the seeds of dropout. What is taken up here
    ends as the undisturbed training does, bit for bit where the backend computes so. (On PyTorch dropout without a seed
    draws from a generator that no variable holds: there it goes on with other draws.)

    Args:
        path: A name that ends in `.npz`; the file's has the first digits of `training` in it, too, so that no other
            training with this path removes it.
        training: What decides the outcome, see `fingerprint`.
        rows: The list that holds the history; what the file knows is put into it.
        model: The compiled model with its optimizer built, as it is when the training begins.

    Attributes:
        path: The file.
    """

    def __init__(self, path: str | Path, training: str, rows: list[dict], model: keras.Model) -> None:
        super().__init__()
        self._named, self._training, self._rows = Path(path), training, rows
        self.path = self._named.with_name(f"{self._named.stem}-{training[:8]}.npz")
        self._first = _values(model)

    def restore(self, model: keras.Model) -> int:
        """Takes up what the file holds, and says so on stderr.

        Returns:
            How many epochs are done; 0 without a file, or with one that cannot be read.
        """
        for other in sorted(self.path.parent.glob(f"{self._named.stem}-????????.npz")):
            if other != self.path:
                _say(f"{other} is of another training, of other data, settings or first weights: remove it if that "
                     "is not to go on")  # fmt: skip
        if not self.path.exists():
            return 0
        try:
            with open(self.path, "rb") as data, np.load(data) as file:
                told = json.loads(str(file["training"]))
                if told["training"] != self._training:
                    raise ValueError("it is of another training")
                values = [file[str(i)] for i in range(len(self._first))]
                rows = list(told["rows"])
        except (*artifacts.DAMAGED, TypeError) as error:
            _say(f"{self.path} cannot be read ({error}): {model.name} begins anew")
            return 0
        assign(_variables(model), values)
        self._rows[:] = rows
        _say(f"{model.name} goes on after epoch {len(rows)}, from {self.path}")
        return len(rows)

    def rewind(self, model: keras.Model) -> None:
        """Gives the model back what it had when the training began, so that the same call goes on."""
        assign(_variables(model), self._first)

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._written = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        last = self.model.stop_training or epoch + 1 == self.params.get("epochs")
        if last or time.perf_counter() < self._written + SECONDS:
            return
        told = json.dumps({"training": self._training, "rows": self._rows}, default=lambda x: np.asarray(x).tolist())
        values = {str(i): value for i, value in enumerate(_values(self.model))}
        try:
            with artifacts.writing(self.path) as partial, open(partial, "wb") as file:
                np.savez(file, training=told, **values)
        except OSError as error:  # the training itself can go on
            _say(f"{self.model.name} goes on without a checkpoint. {artifacts.explain(error, self.path.parent)}")
        self._written = time.perf_counter()

    def on_train_end(self, logs: dict | None = None) -> None:
        with contextlib.suppress(OSError):
            self.path.unlink()


def fingerprint(model: keras.Model, *splits: tuple[np.ndarray, np.ndarray] | None, **settings: object) -> str:
    """Returns the SHA-256 of all that decides how a training ends.

    Args:
        model: The compiled model, with its optimizer built: its structure, how it is compiled, and all that it and
            its optimizer start from.
        splits: Pictures and labels of training and validation; of the pictures 1,000 are read.
        settings: What else counts, such as epochs and versions. Functions count by their code and what they hold.
    """
    digest, arrays = hashlib.sha256(), _values(model)
    for pictures, labels in filter(None, splits):
        few = np.unique(np.linspace(0, len(pictures) - 1, _PROBED).astype(int))
        arrays += [np.asarray(pictures[few]), np.asarray(labels), np.array(len(pictures))]
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    structure = json.dumps(model.get_config(), sort_keys=True, default=told)
    for position, layer in enumerate(model._flatten_layers()):  # Keras counts its names in a process
        structure = structure.replace(f'"{layer.name}"', f'"layer {position}"')
    decays = [model.optimizer._use_weight_decay(variable) for variable in model.trainable_variables]
    loss = told(model.loss) if isinstance(model.loss, types.FunctionType) else None  # else its config tells
    facts = json.dumps([model.get_compile_config(), loss, decays, settings], sort_keys=True, default=told)
    digest.update(re.sub(r'("name": "[^"]*?)_\d+"', r'\1"', structure + facts).encode())
    return digest.hexdigest()


def told(thing: object) -> object:
    """Returns what can be written as JSON, and is the same in every process, in place of what cannot."""
    if thing is None or isinstance(thing, str | int | float):
        return thing
    if isinstance(thing, set | frozenset):
        return sorted(map(str, thing))
    if isinstance(thing, np.ndarray | np.generic):
        return thing.tolist()
    if isinstance(thing, keras.Layer):
        return [thing.get_config(), [array.tolist() for array in thing.get_weights()]]
    if isinstance(thing, functools.partial):
        return [told(thing.func), thing.args, thing.keywords]
    if isinstance(thing, types.MethodType):
        return [told(thing.__func__), told(thing.__self__)]
    if isinstance(thing, types.FunctionType):
        held = [cell.cell_contents for cell in thing.__closure__ or ()]
        return [thing.__qualname__, thing.__code__, thing.__defaults__, thing.__kwdefaults__, held]
    if isinstance(thing, types.CodeType):  # without its comments and where it stands
        return [thing.co_code.hex(), thing.co_names, [told(one) for one in thing.co_consts]]
    return [type(thing).__qualname__, getattr(thing, "__dict__", None) or str(thing)]


def _values(model: keras.Model) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in _variables(model)]


def assign(variables: list[keras.Variable], values: list) -> None:
    """Gives each variable its value."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
