"""Weights set to zero: masks by magnitude, N:M patterns, and training that keeps the zeros.

A mask is a boolean array shaped like a kernel; `True` is a weight that stays. Only kernels are
pruned: biases and what normalization learns are few, and each of them moves a whole channel.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import keras
import numpy as np
import pandas as pd

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_LAYERS = (keras.layers.Dense, *_CONVOLUTIONS, *_DEPTHWISE, *_SEPARABLE)
_SCOPES = ("layer", "global", "lamp")


def magnitude_mask(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """Marks the largest-magnitude weights to keep.

    Args:
        weights: Array of any shape.
        sparsity: Share of the weights to set to zero, in `[0, 1)`.

    Returns:
        Boolean array shaped like `weights` with exactly `round(sparsity * weights.size)` entries
        that are `False`. Of equal magnitudes the earlier go first, so the count is exact.

    Raises:
        ValueError: If `sparsity` is outside `[0, 1)`.

    Example:

    >>> magnitude_mask(np.array([0.1, -2.0, 0.3, -0.05]), sparsity=0.5)
    array([False,  True,  True, False])

    Reference:
        Han et al., 2015, https://arxiv.org/abs/1506.02626
    """
    _check_sparsity(sparsity)
    weights = np.asarray(weights)
    return _without_smallest(np.abs(weights).ravel(), round(sparsity * weights.size)).reshape(weights.shape)


def n_m_mask(weights: np.ndarray, *, keep: int = 2, of: int = 4) -> np.ndarray:
    """Marks the `keep` largest weights in every group of `of` neighbours among those that are summed.

    Groups run down each output's weights, flattened: for a convolution's kernel (height, width, in,
    out) along the input channels, and on into the next pixel where `in` is no multiple of `of`. A
    last group of fewer than `of` weights stays dense. Sparse tensor cores read 2 of 4.

    Args:
        weights: Kernel of shape (…, outputs), or one output's weights of shape (n,).
        keep: Weights that stay in each group.
        of: Weights in a group.

    Returns:
        Boolean array shaped like `weights`. Of equal magnitudes the earlier go first.

    Raises:
        ValueError: If `keep` is not from 1 to below `of`.

    Example:

    >>> n_m_mask(np.array([0.1, -2.0, 0.3, -0.05, 9.0, 8.0, 7.0, 6.0, 0.01]))
    array([False,  True,  True, False,  True,  True, False, False,  True])

    Reference:
        Mishra et al., 2021, https://arxiv.org/abs/2104.08378
    """
    if not 1 <= keep < of:
        raise ValueError(f"keep is {keep} of {of}: in each group at least 1 weight stays and 1 goes, such as 2 of 4.")
    weights = np.asarray(weights)
    rows = weights.reshape(-1, weights.shape[-1] if weights.ndim > 1 else 1)  # (summed, outputs)
    whole = len(rows) // of * of
    groups = np.abs(rows[:whole]).reshape(whole // of, of, rows.shape[1])
    ranks = groups.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    mask = np.ones(rows.shape, bool)
    mask[:whole] = (ranks >= of - keep).reshape(whole, rows.shape[1])
    return mask.reshape(weights.shape)


def lamp_scores(weights: np.ndarray) -> np.ndarray:
    """Returns how much each weight matters among those of its layer that are not pruned before it.

    It is the square of a weight, divided by the sum of that and all larger squares. Magnitudes of two
    layers cannot be compared, because normalization undoes any factor; these scores can.

    Args:
        weights: All of a layer's, of any shape.

    Returns:
        float64 shaped like `weights`, from 0 to 1, in the order of their magnitudes. Of equal
        magnitudes the earlier get less.

    Example:

    >>> lamp_scores(np.array([1.0, -3.0, 2.0])).round(3)  # 1/14, 9/9, 4/13
    array([0.071, 1.   , 0.308])

    Reference:
        Lee et al., 2021, equation 1, https://arxiv.org/abs/2010.07611
    """
    weights = np.asarray(weights, np.float64)
    squares = np.square(weights).ravel()
    order = np.argsort(squares, kind="stable")
    sums = np.cumsum(squares[order][::-1])[::-1]
    scores = np.empty_like(squares)
    scores[order] = squares[order] / np.maximum(sums, np.finfo(np.float64).tiny)
    return scores.reshape(weights.shape)


def polynomial_sparsity(step: int, *, steps: int, final: float) -> float:
    """Returns the sparsity at a step of a cubic schedule from 0, which prunes quickly first and slowly at the end.

    Args:
        step: Batches trained so far.
        steps: Length of the schedule; from there on the sparsity is `final`.
        final: Sparsity at its end, in `[0, 1)`.

    Raises:
        ValueError: If one of them is out of range.

    Example:

    >>> [polynomial_sparsity(step, steps=100, final=0.5) for step in (0, 50, 100, 200)]
    [0.0, 0.4375, 0.5, 0.5]

    Reference:
        Zhu and Gupta, 2017, equation 1, https://arxiv.org/abs/1710.01878
    """
    _check_sparsity(final, "final")
    if steps < 1:
        raise ValueError(f"The schedule takes at least 1 step; received {steps}.")
    left = 1 - min(max(step / steps, 0.0), 1.0)
    return final - final * left**3


def kernels(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the kernels of all dense and (depthwise, separable) convolutional layers, at any depth.

    Args:
        model: A built model.

    Returns:
        Variables by the name of their layer; in a nested model `inner/layer`, in a separable
        convolution `layer/depthwise` and `layer/pointwise`. A shared kernel is named once.

    Raises:
        ValueError: If there are none, two layers have one name, or Keras has quantized one or given it a LoRA.
    """
    return {name: kernel for name, (_, kernel) in _kernels(model).items()}


def layer_masks(model: keras.Model, sparsity: float) -> dict[str, np.ndarray]:
    """Returns a mask by magnitude for each kernel, all of the same sparsity.

    Args:
        model: A built model.
        sparsity: Share of each kernel to set to zero, in `[0, 1)`; at least one weight of each stays.

    Returns:
        Boolean arrays by the names of `kernels`.

    Raises:
        ValueError: If `sparsity` is outside `[0, 1)`.
    """
    return _masks(_magnitudes(model), sparsity, "layer")


def global_masks(model: keras.Model, sparsity: float) -> dict[str, np.ndarray]:
    """Returns masks by magnitude with one threshold for all kernels, so that some layers lose more than others.

    Args:
        model: A built model.
        sparsity: Share of all the weights together, in `[0, 1)`. The count is exact; but the largest
            weight of each kernel stays, because a layer of zeros would cut the network in two.

    Returns:
        Boolean arrays by the names of `kernels`.

    Raises:
        ValueError: If `sparsity` is outside `[0, 1)` or leaves fewer weights than there are kernels.
    """
    return _masks(_magnitudes(model), sparsity, "global")


def lamp_masks(model: keras.Model, sparsity: float) -> dict[str, np.ndarray]:
    """Returns masks with one threshold for the `lamp_scores` of all kernels; otherwise as `global_masks`."""
    return _masks(_magnitudes(model), sparsity, "lamp")


def n_m_masks(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the `n_m_mask`, 2 of 4, of each kernel; a depthwise kernel's groups run over the pixels of each channel.

    Args:
        model: A built model.

    Returns:
        Boolean arrays by the names of `kernels`.
    """
    masks = {}
    for name, (depthwise, kernel) in _kernels(model).items():
        weights = _values(kernel)
        summed = (-1, int(np.prod(weights.shape[-2:]))) if depthwise else weights.shape  # (…, in, multiplier)
        masks[name] = n_m_mask(weights.reshape(summed)).reshape(weights.shape)
    return masks


def apply(model: keras.Model, masks: dict[str, np.ndarray]) -> None:
    """Sets the weights to zero, in place, where their mask is `False`.

    Args:
        model: A built model.
        masks: Boolean arrays by the names of `kernels`; what has no mask stays as it is.

    Raises:
        ValueError: If a name or a shape is not one of the model's.
    """
    found = kernels(model)
    for name, mask in _checked(found, masks).items():
        found[name].assign(np.where(mask, keras.ops.convert_to_numpy(found[name]), 0))


def zeros(model: keras.Model) -> pd.DataFrame:
    """Counts the zeros in each kernel.

    Returns:
        Columns `layer`, `weights`, `zeros` and `sparsity` (the share of zeros), one row a kernel.
    """
    rows = [(name, weights.size, int(np.sum(weights == 0))) for name, weights in _magnitudes(model).items()]
    table = pd.DataFrame(rows, columns=["layer", "weights", "zeros"])
    return table.assign(sparsity=table["zeros"] / table["weights"])


def sensitivity(
    model: keras.Model, score: Callable[[keras.Model], float], *, sparsities: Iterable[float]
) -> pd.DataFrame:
    """Prunes one kernel at a time by magnitude, and asks how good the model still is.

    Args:
        model: A built model; it has its own weights again afterwards, even if `score` fails.
        score: Says how good the model is, such as its accuracy on validation pictures.
        sparsities: Shares of a kernel to set to zero, each in `[0, 1)`.

    Returns:
        Columns `layer`, `sparsity`, `score`; one row a kernel and sparsity.

    Reference:
        Li et al., 2017, section 3.2, https://arxiv.org/abs/1608.08710
    """
    sparsities = list(sparsities)
    for sparsity in sparsities:
        _check_sparsity(sparsity)
    rows = []
    for name, kernel in kernels(model).items():
        before = keras.ops.convert_to_numpy(kernel).copy()
        try:
            for sparsity in sparsities:
                kernel.assign(np.where(magnitude_mask(before, sparsity), before, 0))
                rows.append((name, sparsity, float(score(model))))
        finally:
            kernel.assign(before)
    return pd.DataFrame(rows, columns=["layer", "sparsity", "score"])


class Masks(keras.callbacks.Callback):
    """Keeps pruned weights at exactly zero while a model trains, after every step of the optimizer.

    For the time of the training each kernel has a constraint, which Keras's optimizers apply as the
    last part of a step: inside several steps an execution, inside XLA and on every replica, whatever
    momentum and decay would do. Give it the masks, or let the sparsity grow to `final` along
    `polynomial_sparsity`: every so many steps the smallest weights go, and none comes back.

    The training step is compiled anew at the start, and by the next training without this; on JAX,
    which compiles the masks in, also whenever they grow. Each training begins the schedule again.
    If a training breaks off with an error, Keras does not say so to callbacks: the constraints stay
    until `release` is called or another `Masks` takes over. They are never part of a saved model.
    Put it behind a callback that restores earlier weights at the end, such as `EarlyStopping`.

    Args:
        masks: Boolean arrays by the names of `kernels`, which stay as they are.
        final: Instead of them, the sparsity at the end.
        steps: With `final`: batches until it is reached. Leave some of the training behind it.
        every: With `final`: batches between two looks; with several steps an execution, the next
            one that Python sees.
        scope: With `final`: `"layer"` as in `layer_masks`, `"global"` as in `global_masks`, or `"lamp"`
            as in `lamp_masks`, the best at high sparsity.

    Attributes:
        masks: The masks in force; after a training those it ended with.
        history: Pairs of a step and the sparsity from there on.

    Raises:
        ValueError: If there are both or neither of `masks` and `final`, or one is out of range.

    Reference:
        Zhu and Gupta, 2017, https://arxiv.org/abs/1710.01878
    """

    def __init__(
        self,
        masks: dict[str, np.ndarray] | None = None,
        *,
        final: float | None = None,
        steps: int | None = None,
        every: int = 100,
        scope: str = "layer",
    ) -> None:
        super().__init__()
        if (masks is None) == (final is None) or (final is None) != (steps is None):
            raise ValueError("Masks takes either masks, or a final sparsity with the steps to reach it in.")
        if every < 1 or scope not in _SCOPES:
            raise ValueError(
                f"every is at least 1 and scope one of {', '.join(_SCOPES)}; received {every} and {scope!r}."
            )
        if final is not None:
            polynomial_sparsity(0, steps=steps, final=final)
        self.masks, self.history = dict(masks or {}), []
        self._growing, self._scope = final is not None, scope
        self._every, self._schedule = every, {"steps": steps, "final": final}
        self._constraints: dict[str, _Kept] = {}

    def on_train_begin(self, logs: dict | None = None) -> None:
        found = kernels(self.model)
        self._before_epoch = self._seen = 0
        if self._growing:
            self.history = []
            self.masks = {name: np.ones(part.shape, bool) for name, part in found.items()}
        self.masks = _checked(found, self.masks)
        with _placed(self.model):
            self._constraints = {name: _Kept(found[name], mask) for name, mask in self.masks.items()}
        if self._growing:
            self._grow(0)
        self._enforce()
        self.model.make_train_function(force=True)  # one compiled before knows nothing of the constraints

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        count = self.params.get("steps")  # the last execution of an epoch may have fewer batches than the others
        before, self._seen = self._seen, self._before_epoch + min(batch + 1, count or batch + 1)
        if not self._growing or before >= self._schedule["steps"]:
            return
        if self._seen // self._every > before // self._every or self._seen >= self._schedule["steps"]:
            self._grow(self._seen)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._before_epoch = self._seen
        self._enforce()

    def on_train_end(self, logs: dict | None = None) -> None:
        self._enforce()  # an average of the weights over time has only now been put in their place
        self.release()

    def release(self) -> None:
        """Takes the constraints off again; the weights may change from the next training on."""
        for constraint in self._constraints.values():
            constraint.release()
        self._constraints = {}
        if self.model is not None:
            self.model.train_function = None

    def _grow(self, step: int) -> None:
        """Prunes to the sparsity of a step: what is masked already comes first, and the smallest after it."""
        on_jax = keras.backend.backend() == "jax"
        if on_jax and step:
            self.model.jax_state_sync()
        sparsity = polynomial_sparsity(step, **self._schedule)
        found = kernels(self.model)
        sizes = {name: np.where(mask, np.abs(_values(found[name])), -1) for name, mask in self.masks.items()}
        self.masks = _masks(sizes, sparsity, self._scope)
        self.history.append((step, sparsity))
        for name, mask in self.masks.items():
            self._constraints[name].mask.assign(mask)
        self._enforce()
        if on_jax and step:
            self.model.make_train_function(force=True)

    def _enforce(self) -> None:
        for constraint in self._constraints.values():
            constraint.enforce()


class _Kept:
    """A constraint that sets to zero what its mask does not keep; on `variable` from the start until `release`."""

    def __init__(self, variable: keras.Variable, mask: np.ndarray) -> None:
        former = variable.constraint
        self.variable, self.former = variable, former.former if isinstance(former, _Kept) else former
        # A variable, so that it can change without compiling the step anew.
        self.mask = keras.Variable(mask, dtype="bool", trainable=False, name="mask")
        variable.constraint = self

    def __call__(self, weights: object) -> object:
        weights = keras.ops.convert_to_tensor(weights if self.former is None else self.former(weights))
        return keras.ops.where(self.mask.value, weights, keras.ops.zeros_like(weights))  # a product would keep NaN

    def enforce(self) -> None:
        kept = keras.ops.convert_to_numpy(self.mask)
        self.variable.assign(np.where(kept, keras.ops.convert_to_numpy(self.variable), 0))

    def release(self) -> None:
        if self.variable.constraint is self:
            self.variable.constraint = self.former


def _placed(model: keras.Model) -> contextlib.AbstractContextManager:
    """Returns the scope in which a model's variables are made: on each of its replicas."""
    if keras.backend.backend() == "tensorflow":
        return model.distribute_strategy.scope()
    return contextlib.nullcontext()


def _kernels(model: keras.Model) -> dict[str, tuple[bool, keras.Variable]]:
    """Returns for each kernel whether it is depthwise, and the variable."""
    found, known = {}, set()
    for name, layer in _walk(model):
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"Layer {name} is quantized by Keras already, or has LoRA weights: take the float model."
            )
        for part in ("kernel", "depthwise_kernel", "pointwise_kernel"):
            kernel = getattr(layer, part, None)
            if isinstance(kernel, keras.Variable) and id(kernel) not in known:
                known.add(id(kernel))
                full = name if part == "kernel" else f"{name}/{part.removesuffix('_kernel')}"
                if full in found:
                    raise ValueError(f"{model.name} has two kernels {full}: give each of its layers another name.")
                depthwise = part == "depthwise_kernel" or isinstance(layer, _DEPTHWISE)
                found[full] = depthwise, kernel
    if not found:
        raise ValueError(
            f"{model.name} has no kernel to prune: a built model with dense or convolutional layers is expected."
        )
    return found


def _walk(model: keras.Layer, path: str = "") -> Iterator[tuple[str, keras.Layer]]:
    for layer in model._flatten_layers(include_self=False, recursive=False):
        name = f"{path}{layer.name}"
        if isinstance(layer, _LAYERS):
            yield name, layer
        else:
            yield from _walk(layer, f"{name}/")


def _values(kernel: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(kernel).astype(np.float32)  # bfloat16 has no sort of its own


def _magnitudes(model: keras.Model) -> dict[str, np.ndarray]:
    return {name: np.abs(_values(kernel)) for name, kernel in kernels(model).items()}


def _masks(magnitudes: dict[str, np.ndarray], sparsity: float, scope: str) -> dict[str, np.ndarray]:
    """Returns masks without the smallest magnitudes; the largest of each kernel stays."""
    _check_sparsity(sparsity)
    if wrong := [name for name, part in magnitudes.items() if not np.isfinite(part).all()]:
        raise ValueError(f"Some weights of {wrong[0]} are not finite: the training that made them diverged.")
    flat = {name: part.ravel().copy() for name, part in magnitudes.items()}
    if scope == "lamp":  # what is masked already has a magnitude of -1
        flat = {name: np.where(part < 0, -1, lamp_scores(np.maximum(part, 0))) for name, part in flat.items()}
    for part in flat.values():
        part[part.argmax()] = np.inf
    if scope == "layer":
        masks = [_without_smallest(part, min(round(sparsity * part.size), part.size - 1)) for part in flat.values()]
    else:
        everything = np.concatenate(list(flat.values()))
        count = round(sparsity * everything.size)
        if count > everything.size - len(flat):
            raise ValueError(
                f"A sparsity of {sparsity} leaves {everything.size - count} of {everything.size:,} weights for "
                f"{len(flat)} layers, and each needs at least 1: lower it."
            )
        masks = np.split(_without_smallest(everything, count), np.cumsum([part.size for part in flat.values()])[:-1])
    return {name: mask.reshape(part.shape) for (name, part), mask in zip(magnitudes.items(), masks, strict=True)}


def _without_smallest(magnitudes: np.ndarray, count: int) -> np.ndarray:
    """Returns a mask, shape (n,), without the `count` smallest; of equal ones the earlier go first."""
    mask = np.ones(magnitudes.size, bool)
    mask[np.argsort(magnitudes, kind="stable")[:count]] = False
    return mask


def _checked(found: dict[str, keras.Variable], masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the masks as arrays, if they fit the kernels."""
    masks = {name: np.asarray(mask) for name, mask in masks.items()}
    for name, mask in masks.items():
        if name not in found:
            raise ValueError(f"There is no kernel {name!r} to mask: the kernels are {', '.join(found)}.")
        if mask.dtype != bool or mask.shape != tuple(found[name].shape):
            raise ValueError(
                f"The mask of {name} is {mask.dtype} of shape {mask.shape}: "
                f"booleans of shape {tuple(found[name].shape)} are expected."
            )
    return masks


def _check_sparsity(sparsity: float, name: str = "sparsity") -> None:
    if not 0 <= sparsity < 1:
        raise ValueError(
            f"{name} is {sparsity}: it is the part of the weights to set to zero, from 0 to below 1, "
            "a share such as 0.8."
        )
