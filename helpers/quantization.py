"""Quantization: numbers as whole multiples of a step, and training that knows the rounding to come.

A grid says which numbers survive: `scale * (code - zero_point)` for whole codes from `low` to `high`.
`aware` builds the model that is trained with the rounding in place, `plain` the one to export.
"""

from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from helpers import folding

_MOMENTUM = 0.99  # of the moving average of an activation's range


class Grid(NamedTuple):
    """The numbers `scale * (code - zero_point)`; scale and zero point broadcast against what is rounded."""

    scale: np.ndarray
    zero_point: np.ndarray
    low: int
    high: int


def affine_grid(minimum: np.ndarray, maximum: np.ndarray, *, bits: int = 8) -> Grid:
    """Returns the grid of signed codes that covers a range, with 0 on it: for activations.

    Args:
        minimum: Lower end of the range; a number, or an array for several ranges.
        maximum: Upper end. A range that does not hold 0 is extended to it, so that padding and what
            a ReLU cuts off stay exact.
        bits: Width of a code, 2 to 16.

    Returns:
        A grid with `2**bits` codes; its ends are at most half a step off the range's.

    Raises:
        ValueError: If an end is not finite, the ends are in the wrong order, or `bits` is out of range.

    Example:

    >>> affine_grid(-1.0, 3.0, bits=2)  # four codes: -1.33, 0, 1.33, 2.67
    Grid(scale=array(1.3333334, dtype=float32), zero_point=array(-1, dtype=int32), low=-2, high=1)

    Reference:
        Jacob et al., 2018, equation 1, https://arxiv.org/abs/1712.05877
    """
    _check_bits(bits)
    minimum, maximum = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
    if not (np.isfinite(minimum).all() and np.isfinite(maximum).all() and np.all(minimum <= maximum)):
        raise ValueError(f"A range goes from a finite minimum up to a maximum; received {minimum} and {maximum}.")
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    # Divided one by one: the difference of two large numbers is beyond float32.
    scale = _usable(np.maximum(maximum, 0) / (high - low) - np.minimum(minimum, 0) / (high - low))
    zero_point = np.clip(np.rint(low - np.minimum(minimum, 0) / scale), low, high)
    return Grid(scale, np.asarray(zero_point, np.int32), low, high)


def symmetric_grid(weights: np.ndarray, *, bits: int = 8, axis: int | tuple[int, ...] | None = -1) -> Grid:
    """Returns the grid around 0 that reaches to the largest weight of each channel, as LiteRT does it.

    Args:
        weights: Array of any shape.
        bits: Width of a code, 2 to 16.
        axis: Where the channels lie: the last axis of the kernels of convolutions and dense layers,
            `(2, 3)` for those of depthwise convolutions; `None` for one grid for all.

    Returns:
        A grid with `2**bits - 1` codes and zero point 0: the lowest code has no counterpart and is
        left out. Weights that are 0 stay 0.

    Raises:
        ValueError: If a weight is not finite, or `bits` is out of range.

    Example:

    >>> symmetric_grid(np.array([[0.7, -1.0], [-1.4, 0.0]]), bits=4)  # a column is a channel
    Grid(scale=array([[0.2 , 0.14285715]], dtype=float32), zero_point=0, low=-7, high=7)

    Reference:
        Krishnamoorthi, 2018, section 2.2, https://arxiv.org/abs/1806.08342
    """
    _check_bits(bits)
    weights = np.asarray(weights, np.float32)
    if not np.isfinite(weights).all():
        raise ValueError("Some weights are not finite, so no grid reaches them: the training that made them diverged.")
    levels = 2 ** (bits - 1) - 1
    largest = np.max(np.abs(weights), axis=_others(axis, weights.ndim), keepdims=axis is not None, initial=0)
    return Grid(_usable(largest / np.float32(levels)), 0, -levels, levels)


def quantize(x: np.ndarray, grid: Grid) -> np.ndarray:
    """Rounds to the nearest code, half to even; what is outside the range gets the code at its end.

    Args:
        x: Array that the grid broadcasts against.
        grid: Where to round to.

    Returns:
        Codes shaped like `x`: int8, or int16 for more than 8 bits.

    Raises:
        ValueError: If one of the numbers is not a number.

    Example:

    >>> quantize(np.array([-9.0, -0.4, 0.0, 1.0, 9.0]), Grid(0.5, 1, -8, 7))
    array([-8,  0,  1,  3,  7], dtype=int8)
    """
    x = np.asarray(x)
    if np.isnan(x).any():
        raise ValueError("What is not a number (NaN) has no code: look for it where the numbers come from.")
    with np.errstate(over="ignore"):  # far outside the range: clipped all the same
        codes = np.clip(np.rint(x / grid.scale) + grid.zero_point, grid.low, grid.high)
    return codes.astype(np.int8 if grid.high < 128 else np.int16)


def dequantize(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """Returns the numbers that codes stand for, as float32.

    >>> dequantize(np.array([-8, 1, 7]), Grid(0.5, 1, -8, 7))
    array([-4.5,  0. ,  3. ], dtype=float32)
    """
    return ((np.asarray(codes, np.int32) - grid.zero_point) * np.asarray(grid.scale, np.float32)).astype(np.float32)


def fake_quantize(x, *, scale, low, high, zero_point=0):
    """Rounds `x` to a grid and stays float; the gradient passes as if nothing had been rounded.

    Rounding has slope 0 almost everywhere, so nothing could be learned through it. The straight-through
    estimator takes slope 1 inside the range and 0 outside.

    Args:
        x: Tensor of any shape.
        scale, zero_point, low, high: The grid, as in `Grid`; numbers or tensors.

    Returns:
        Like `x`; the rounding is done in float32 whatever its dtype.

    Reference:
        Bengio, Léonard and Courville, 2013, https://arxiv.org/abs/1308.3432 and
        Jacob et al., 2018, section 3, https://arxiv.org/abs/1712.05877
    """
    codes = ops.clip(ops.cast(x, "float32") / scale, low - zero_point, high - zero_point)
    return ops.cast(_round(codes) * scale, x.dtype)


def _round(codes):
    """Returns whole numbers, exactly: the difference that is added has no rounding error of its own."""
    return codes + ops.stop_gradient(ops.round(codes) - codes)


@keras.saving.register_keras_serializable(package="workbook")
class FakeQuantize(keras.layers.Layer):
    """Rounds activations to the affine grid of their range, a moving average over the batches of training.

    Until the first batch of training the range is that of the batch at hand.

    Args:
        bits: Width of a code, 2 to 16.
    """

    def __init__(self, bits: int = 8, **options) -> None:
        super().__init__(**options)
        _check_bits(bits)
        self.bits = bits

    def build(self, input_shape) -> None:
        self.minimum, self.maximum = (
            self.add_weight(name=name, shape=(), initializer="zeros", dtype="float32", trainable=False,
                            autocast=False, aggregation="mean")
            for name in ("minimum", "maximum")
        )  # fmt: skip

    def call(self, x, training: bool | None = None):
        minimum, maximum = self._range(x, training)
        low, high = -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        scale = _usable((maximum - minimum) / (high - low), ops)  # the grid of affine_grid
        zero_point = ops.clip(ops.round(low - minimum / scale), low, high)
        return fake_quantize(x, scale=scale, zero_point=zero_point, low=low, high=high)

    def _range(self, x, training: bool | None):
        x = ops.stop_gradient(x)
        now = ops.minimum(ops.min(x), 0), ops.maximum(ops.max(x), 0)
        now = [ops.cast(end, "float32") for end in now]
        known = [ops.convert_to_tensor(end) for end in (self.minimum, self.maximum)]
        share = _MOMENTUM if training else 1.0
        moved = [share * before + (1 - share) * end for before, end in zip(known, now, strict=True)]
        ends = [ops.where(known[0] < known[1], *pair) for pair in zip(moved, now, strict=True)]
        if training:
            self.minimum.assign(ends[0])
            self.maximum.assign(ends[1])
        return ends

    def get_config(self) -> dict:
        return {**super().get_config(), "bits": self.bits}


class _Aware:
    """What a layer needs to multiply rounded activations by rounded weights; `kernel` stays float32 and is trained."""

    channels = -1  # axis of the kernel

    def __init__(self, *args, weight_bits: int = 8, activation_bits: int | None = None, **options) -> None:
        super().__init__(*args, **options)
        _check_bits(weight_bits)
        self.weight_bits, self.activation_bits = weight_bits, activation_bits
        self.rounding = FakeQuantize(activation_bits, dtype=self.dtype_policy) if activation_bits else None

    def build(self, input_shape) -> None:
        super().build(input_shape)
        if self.rounding is not None:
            self.rounding.build(input_shape)  # loading from a file needs its variables before the first call

    def add_weight(self, *args, **options):
        return super().add_weight(*args, **{**options, "autocast": False})  # the grid is computed in float32

    def call(self, inputs, training: bool | None = None):
        if self.rounding is not None:
            inputs = self.rounding(inputs, training=training)
        outputs = self._product(inputs, ops.cast(self.rounded_kernel(), self.compute_dtype))
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, self.compute_dtype)
        return outputs if self.activation is None else self.activation(outputs)

    def rounded_kernel(self):
        """Returns the kernel on the symmetric grid of its current values; float32."""
        others, levels = _others(self.channels, len(self.kernel.shape)), 2 ** (self.weight_bits - 1) - 1
        largest = ops.max(ops.abs(ops.stop_gradient(self.kernel)), axis=others, keepdims=True)
        scale = _usable(largest / levels, ops)
        # Without clip: the largest weight is at the end of the grid, and a hair beyond it would lose its gradient.
        return _round(self.kernel / scale) * scale

    def get_config(self) -> dict:
        return {**super().get_config(), "weight_bits": self.weight_bits, "activation_bits": self.activation_bits}


@keras.saving.register_keras_serializable(package="workbook")
class AwareConv2D(_Aware, keras.layers.Conv2D):
    """A `Conv2D` that trains with rounded weights and activations."""

    def _product(self, inputs, kernel):
        return self.convolution_op(inputs, kernel)


@keras.saving.register_keras_serializable(package="workbook")
class AwareDepthwiseConv2D(_Aware, keras.layers.DepthwiseConv2D):
    """A `DepthwiseConv2D` that trains with rounded weights and activations."""

    channels = (2, 3)

    def _product(self, inputs, kernel):
        return ops.depthwise_conv(inputs, kernel, self.strides, self.padding, self.data_format, self.dilation_rate)


@keras.saving.register_keras_serializable(package="workbook")
class AwareDense(_Aware, keras.layers.Dense):
    """A `Dense` that trains with rounded weights and activations."""

    def _product(self, inputs, kernel):
        return ops.matmul(inputs, kernel)


_AWARE = {
    keras.layers.Conv2D: AwareConv2D,
    keras.layers.DepthwiseConv2D: AwareDepthwiseConv2D,
    keras.layers.Dense: AwareDense,
}
_PLAIN = {aware: plain for plain, aware in _AWARE.items()}


def aware(
    model: keras.Model, *, weight_bits: int = 8, first_bits: int | None = None, activation_bits: int | None = 8
) -> keras.Model:
    """Returns a copy of a model for quantization-aware training, with its weights.

    `Conv2D`, `DepthwiseConv2D` and `Dense` multiply what they get, rounded to the range that it had
    in training, by weights rounded to the symmetric grid of each channel. What enters a product is
    rounded behind pooling and ReLU: the same numbers as if each had been rounded before, and fewer.
    The weights that are trained stay float32; those that are 0 count as 0.

    Args:
        model: A functional or sequential model. Its batch normalization may be folded afterwards, too: it multiplies
            whole filters, and each has its own scale. Other layers, and models inside it, are left as they are.
        weight_bits: Width of a weight, 2 to 16; biases are left alone.
        first_bits: The same of the first layer, if it is to have another: it has few weights, and all that
            follows depends on them.
        activation_bits: Width of an activation, 2 to 16; `None` to round the weights only.

    Returns:
        An uncompiled functional model, layers named as before. `plain` takes it back.

    Raises:
        ValueError: If a width is out of range, or the model has no such layer or cannot be rebuilt.

    Reference:
        Jacob et al., 2018, section 3, https://arxiv.org/abs/1712.05877
    """
    first_bits = weight_bits if first_bits is None else first_bits
    _check_bits(weight_bits, first_bits, *([] if activation_bits is None else [activation_bits]))
    new = {}
    for layer in model.layers:
        if type(layer) in _AWARE:
            _check_layer(layer)
            widths = {"weight_bits": weight_bits if new else first_bits, "activation_bits": activation_bits}
            new[layer.name] = _AWARE[type(layer)].from_config({**layer.get_config(), **widths})
    return _exchange(model, new, _AWARE)


def plain(model: keras.Model) -> keras.Model:
    """Returns a model of `aware` as ordinary Keras layers, its weights on their grid: the one to export.

    Args:
        model: What `aware` returned, trained.

    Returns:
        An uncompiled functional model. It loads without this package, and predicts what an aware
        model does that rounds its weights only.

    Raises:
        ValueError: If no layer of the model is aware, or it cannot be rebuilt.
    """
    rounded = [layer for layer in model.layers if type(layer) in _PLAIN]
    new = {}
    for layer in rounded:
        config = layer.get_config()
        del config["weight_bits"], config["activation_bits"]
        new[layer.name] = _PLAIN[type(layer)].from_config(config)
    copied = _exchange(model, new, _PLAIN)
    for layer in rounded:
        kernel = ops.convert_to_numpy(layer.kernel)
        grid = symmetric_grid(kernel, bits=layer.weight_bits, axis=layer.channels)
        copied.get_layer(layer.name).kernel.assign(dequantize(quantize(kernel, grid), grid))
    return copied


def _exchange(model: keras.Model, new: dict[str, keras.Layer], kinds: Iterable[type]) -> keras.Model:
    """Returns a copy of a model with new layers in place of those of some kinds, by name, with their weights."""
    if not new:
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{model.name} has none of the layers that are exchanged here: {names}.")

    def copy(layer: keras.Layer) -> keras.Layer:
        return new.get(layer.name) or type(layer).from_config(layer.get_config())

    copied = folding.rebuild(model, copy)
    for name, layer in new.items():
        # By way of NumPy: on JAX two variables would share an array, and training one would delete it.
        layer.kernel.assign(ops.convert_to_numpy(model.get_layer(name).kernel))
        if layer.bias is not None:
            layer.bias.assign(ops.convert_to_numpy(model.get_layer(name).bias))
    return copied


def _others(axis: int | tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """Returns the axes that share a grid: all but those of the channels."""
    kept = () if axis is None else (axis,) if isinstance(axis, int) else axis
    return tuple(place for place in range(rank) if place not in {at % rank for at in kept})


def _usable(scale, library=np):
    """Returns 1 where a scale is 0 or too small to divide by: all that it is for rounds to 0."""
    return library.where(scale > np.finfo(np.float32).tiny, scale, library.ones_like(scale))


def _check_bits(*widths: int) -> None:
    for bits in widths:
        if not isinstance(bits, int | np.integer) or not 2 <= bits <= 16:
            raise ValueError(f"A code has 2 to 16 bits; received {bits!r}.")


def _check_layer(layer: keras.Layer) -> None:
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        raise ValueError(f"Layer {layer.name} has its channels first; build the model with channels last.")
    if layer.quantization_mode or getattr(layer, "lora_enabled", False):
        raise ValueError(
            f"Layer {layer.name} is quantized by Keras already, or has LoRA weights: take the float model."
        )
