"""Filters and units taken out for good: a smaller dense model, quick on any machine.

Channels are followed through the graph by position, each under a number of its own. Where two meet
in a sum they become one; a flattened map repeats its numbers at every pixel. What shares a number
goes together, and a kernel keeps those rows and columns whose numbers stay.
"""

import copy
import math
from typing import NamedTuple

import keras
import numpy as np

from helpers import folding

_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *_SEPARABLE)
_PRODUCERS = (keras.layers.Dense, *_CONVOLUTIONS)
_MERGES = ("Add", "Subtract", "Average", "Maximum", "Minimum", "Multiply", "Concatenate")
# What treats each channel by itself and in the same way; PReLU and batch normalization learn something for each.
_ACTIVATIONS = ("Activation", "ELU", "Identity", "LeakyReLU", "PReLU", "ReLU", "Softmax")
_OPERATIONS = ("Cast", "Relu", "Relu6")  # of keras.ops
_PICTURES = ("CenterCrop", "Normalization", "Rescaling", "Resizing")
_FAMILIES = ("AveragePooling", "Cropping", "GlobalAveragePooling", "GlobalMaxPooling", "MaxPooling", "Random",
             "SpatialDropout", "UpSampling", "ZeroPadding")  # fmt: skip
_NOISES = ("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise")
_ELEMENTWISE = {
    *("celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu", "linear", "mish"),
    *("log_sigmoid", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "squareplus", "tanh"),
}


class Group(NamedTuple):
    """Channels that can be removed, each through all layers that make it.

    Attributes:
        name: The first of the producers.
        producers: Names of the convolutions and dense layers whose outputs these are.
        channels: How many.
    """

    name: str
    producers: tuple[str, ...]
    channels: int


def groups(model: keras.Model) -> list[Group]:
    """Returns the sets of channels that can be removed, in the order of the graph.

    Outputs of layers that meet in a sum belong together. Channels of the input, of the outputs, and
    those which a softmax weighs against each other stay, and are in no group.

    Args:
        model: A built Sequential or functional model.

    Raises:
        ValueError: If a layer is beyond what can be followed.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(2)])
    >>> groups(model)
    [Group(name='hidden', producers=('hidden',), channels=3)]
    """
    return [Group(name, tuple(producers), len(ids)) for name, (producers, ids) in _Graph(model).groups().items()]


def scores(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns how much each channel matters, by the size of the weights that make it.

    It is the L2 norm of a channel's filter over all producers of its group. Where batch normalization
    follows a producer, directly or behind layers without weights and with no other way out, the filter
    is as large as it arrives: times |gamma| / sqrt(variance + epsilon). Li et al. take the sum of absolute weights,
    and Liu et al. |gamma| alone.

    Args:
        model: As for `groups`.

    Returns:
        float64 of shape (channels,) by the name of each group.

    Reference:
        Li et al., 2017, https://arxiv.org/abs/1608.08710 and
        Liu et al., 2017, https://arxiv.org/abs/1708.06519
    """
    graph, found = _Graph(model), {}
    for name, (producers, ids) in graph.groups().items():
        sums = np.zeros(len(graph.parents))
        for producer in producers:
            kernel = _kernel(graph.layers[producer])
            filters = kernel.reshape(-1, kernel.shape[-1]) * _gain(graph, producer)  # (summed, channels)
            np.add.at(sums, graph.channels(producer), np.sum(filters**2, axis=0))
        found[name] = np.sqrt(sums[ids])
    return found


def remove(model: keras.Model, keep: dict[str, np.ndarray]) -> keras.Model:
    """Returns a model without some of the channels: its kernels, biases and statistics are smaller.

    Where the channels left out were zero, it computes the same. The names of layers, the types of
    inputs and whatever else was configured stay.

    Args:
        model: As for `groups`; it is not changed.
        keep: Boolean arrays of shape (channels,) by the names of groups; a group that is not named
            keeps all.

    Returns:
        A functional model, not compiled.

    Raises:
        ValueError: If a name or a shape is not one of the groups', or a group or one of its producers would
            keep nothing.
    """
    graph = _Graph(model)
    kept = _kept(graph, keep)
    config = copy.deepcopy(graph.config)
    for entry in config["layers"]:
        entry.pop("build_config", None)  # it has the old shapes
        count = int(kept[graph.channels(entry["name"])].sum())
        for size in {"filters", "units"} & entry["config"].keys():
            entry["config"][size] = count
        if entry["class_name"] == "Reshape":
            entry["config"]["target_shape"] = [*graph.layers[entry["name"]].output.shape[1:-1], count]
    smaller = keras.Model.from_config(config)
    for name, layer in graph.layers.items():
        if getattr(layer, "weights", None):
            before = [kept[graph.channels(source)] for source in graph.inputs[name]]
            weights = _sliced(layer, layer.get_weights(), before, kept[graph.channels(name)])
            smaller.get_layer(name).set_weights(weights)
            if _kind(layer) == "Normalization":
                smaller.get_layer(name).finalize_state()  # it computes with constants made from its weights
    return smaller


def silence(model: keras.Model, keep: dict[str, np.ndarray]) -> None:
    """Sets to zero, in place, what makes the channels that `remove` would take out.

    Where what follows keeps a zero, as ReLU does and a sigmoid does not, `remove` then changes no output.

    Args:
        model: As for `groups`.
        keep: As for `remove`.

    Raises:
        ValueError: As `remove` does.
    """
    graph = _Graph(model)
    kept = _kept(graph, keep)
    for name, layer in graph.layers.items():
        if type(layer) in (*_PRODUCERS, *_DEPTHWISE) or _kind(layer) == "BatchNormalization":
            first = 1 if type(layer) in (*_SEPARABLE, *_DEPTHWISE) else 0  # a kernel for each channel that comes in
            weights, stays = layer.get_weights(), kept[graph.channels(name)]
            layer.set_weights(weights[:first] + [np.where(stays, part, 0) for part in weights[first:]])


def shrink(model: keras.Model, *, share: float, multiple: int = 1) -> keras.Model:
    """Returns a model without the channels of the lowest `scores`, the same share of every group.

    Train it on for a while: what is left has to make up for what has gone.

    Args:
        model: As for `groups`; it is not changed.
        share: Share of each group's channels to remove, in `[0, 1)`; each group keeps at least one.
        multiple: The number kept is the nearest multiple of this, such as 16 for processors that
            compute with so many at once; not in groups of less than twice as many channels.

    Returns:
        A functional model, not compiled.

    Raises:
        ValueError: If an argument is out of range, or there is no group.
    """
    if not 0 <= share < 1:
        raise ValueError(
            f"share is {share}: it is the part of the channels to remove, from 0 to below 1, a share such as 0.5."
        )
    if multiple < 1:
        raise ValueError(f"multiple is a number of channels from 1; received {multiple}.")
    found, graph, keep = scores(model), _Graph(model), {}
    if not found:
        raise ValueError(f"{model.name} has no channels between its input and its outputs that could be removed.")
    for name, score in found.items():
        count = max(len(score) - round(share * len(score)), 1)
        if len(score) >= 2 * multiple:
            count = max(math.floor(count / multiple + 0.5), 1) * multiple
        count = min(count, len(score))
        keep[name] = np.zeros(len(score), bool)
        keep[name][np.argsort(score, kind="stable")[len(score) - count :]] = True
        producers, ids = graph.groups()[name]
        for own in (np.flatnonzero(np.isin(ids, graph.channels(producer))) for producer in producers):
            if not keep[name][own].any():  # of each layer the best stays
                keep[name][own[score[own].argmax()]] = True
    return remove(model, keep)


class _Graph:
    """A model's layers in order, with the number of the channel at each position of their outputs.

    Attributes:
        config: The functional model's configuration.
        layers: Layers and operations by name.
        inputs: Names of the layers that feed each layer.
        parents: For each number the one that it became when two met; itself if it met none.
    """

    def __init__(self, model: keras.Model) -> None:
        graph = model
        if isinstance(model, keras.Sequential) and model.built:  # the same layers, as a graph
            graph = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
        self.config = graph.get_config() if hasattr(graph, "operations") else {}
        if "input_layers" not in self.config:
            raise ValueError(
                f"{model.name} is a {type(model).__name__} whose graph is not known: "
                "a functional model, or a Sequential that begins with an Input, is expected."
            )
        self.layers = {operation.name: operation for operation in graph.operations}
        self.inputs: dict[str, list[str]] = {}
        self.parents: list[int] = []
        self._numbers: dict[str, np.ndarray] = {}
        self._fixed: set[int] = set()
        for entry in self.config["layers"]:
            self._follow(entry)
        for name in folding.names(self.config["output_layers"]):
            self._fix(self._numbers[name])

    def channels(self, name: str) -> np.ndarray:
        """Returns the number of each channel that leaves a layer, shape (channels,)."""
        return np.array([self._find(number) for number in self._numbers[name]], int)

    def groups(self) -> dict[str, tuple[list[str], np.ndarray]]:
        """Returns the producers and the channels' numbers of each group that may lose some."""
        found: list[tuple[list[str], dict[int, None]]] = []
        for name, layer in self.layers.items():
            if type(layer) not in _PRODUCERS:
                continue
            producers, ids = [name], dict.fromkeys(self.channels(name).tolist())
            for group in [group for group in found if group[1].keys() & ids.keys()]:
                found.remove(group)
                producers, ids = group[0] + producers, group[1] | ids
            found.append((producers, ids))
        fixed = {self._find(number) for number in self._fixed}
        order = list(self.layers)
        free = [(sorted(producers, key=order.index), ids) for producers, ids in found if not ids.keys() & fixed]
        free.sort(key=lambda group: order.index(group[0][0]))
        return {producers[0]: (producers, np.array(list(ids), int)) for producers, ids in free}

    def _follow(self, entry: dict) -> None:
        """Numbers the outputs of a layer, whose inputs are numbered."""
        name, layer = entry["name"], self.layers[entry["name"]]
        if len(entry["inbound_nodes"]) > 1:
            raise _beyond(layer, "it is used more than once")
        self.inputs[name] = sources = list(folding.sources(entry["inbound_nodes"]))
        before = [self._numbers[source] for source in sources]
        _check(layer, [len(numbers) for numbers in before])
        kind = _kind(layer)
        if kind == "InputLayer":
            if not layer.output.shape[1:] or layer.output.shape[-1] is None:
                raise _beyond(layer, "the number of its channels is not fixed")
            self._numbers[name] = self._new(layer.output.shape[-1])
            self._fix(self._numbers[name])
        elif type(layer) in _PRODUCERS:
            self._numbers[name] = self._new(layer.output.shape[-1])
        elif type(layer) in _DEPTHWISE:
            self._numbers[name] = np.repeat(before[0], layer.depth_multiplier)
        elif kind == "Concatenate" and layer.axis in (-1, len(layer.output.shape) - 1):
            self._numbers[name] = np.concatenate(before)
        elif kind in _MERGES:
            for numbers in before[1:]:
                self._unite(before[0], numbers)
            self._numbers[name] = before[0]
        elif kind in ("Flatten", "Reshape"):
            self._numbers[name] = self._reshaped(before[0], layer)
        else:
            self._numbers[name] = before[0]
        if _mixes(layer):
            self._fix(self._numbers[name])

    def _reshaped(self, numbers: np.ndarray, layer: keras.Layer) -> np.ndarray:
        """Returns the numbers in another shape, where those that come to lie under each other become one."""
        shape, target = layer.input.shape[1:], layer.output.shape[1:]
        if None in (*shape, *target):
            raise _beyond(layer, "its input is of no fixed size")
        rows = np.broadcast_to(numbers, shape).reshape(-1, target[-1])  # the channels are the last axis
        for row in rows[1:]:
            self._unite(rows[0], row)
        return rows[0]

    def _new(self, count: int) -> np.ndarray:
        numbers = range(len(self.parents), len(self.parents) + count)
        self.parents.extend(numbers)
        return np.array(numbers, int)

    def _fix(self, numbers: np.ndarray) -> None:
        self._fixed.update(numbers.tolist())

    def _unite(self, first: np.ndarray, second: np.ndarray) -> None:
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            one, other = self._find(one), self._find(other)
            self.parents[max(one, other)] = min(one, other)

    def _find(self, number: int) -> int:
        while self.parents[number] != number:
            number = self.parents[number]
        return number


def _kind(layer: keras.Layer) -> str:
    """Returns the class of a layer of Keras, `""` for one of somebody else's."""
    return type(layer).__name__ if type(layer).__module__.split(".")[0] == "keras" else ""


def _check(layer: keras.Layer, channels: list[int]) -> None:
    """Refuses what cannot be followed, by the name and the class of the layer."""
    kind = _kind(layer)
    if isinstance(layer, keras.Model):
        raise _beyond(layer, "it is a model inside the model: build one graph of all its layers")
    single = ("InputLayer", "BatchNormalization", "Flatten", "Reshape", *_ACTIVATIONS, *_NOISES, *_PICTURES)
    known = single + _MERGES if isinstance(layer, keras.Layer) else (*_OPERATIONS, "Add")
    family = isinstance(layer, keras.Layer) and kind.rstrip("123D").startswith(_FAMILIES)
    if not (kind in known or family or type(layer) in (*_PRODUCERS, *_DEPTHWISE)):
        raise _beyond(layer, "what it does to the channels is not known")
    if getattr(layer, "data_format", "") == "channels_first":
        raise _beyond(layer, "its channels are not the last axis")
    if kind == "BatchNormalization" and layer.axis not in (-1, len(layer.input.shape) - 1):
        raise _beyond(layer, "it normalizes another axis than the last")
    if getattr(layer, "groups", 1) != 1:
        raise _beyond(layer, f"it has {layer.groups} groups")
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        raise _beyond(layer, "its kernel is quantized or has a LoRA: take the model from before that")
    if kind in _MERGES and len(channels) < 2:
        raise _beyond(layer, "one of its inputs is not the output of a layer")
    if kind in _MERGES and kind != "Concatenate" and len(set(channels)) > 1:
        raise _beyond(layer, f"its inputs have {' and '.join(map(str, channels))} channels")


def _beyond(layer: keras.Layer, reason: str) -> ValueError:
    return ValueError(f"Channels cannot be removed around layer {layer.name} ({type(layer).__name__}): {reason}.")


def _mixes(layer: keras.Layer) -> bool:
    """Says whether the channels that leave a layer depend on how many there are, or have a constant each."""
    if _kind(layer) in ("Softmax", "Normalization"):
        return True
    if _kind(layer) == "Rescaling":
        return np.ndim(layer.scale) > 0 or np.ndim(layer.offset) > 0
    activation = getattr(layer, "activation", None)
    return activation is not None and getattr(activation, "__name__", "") not in _ELEMENTWISE


def _kernel(layer: keras.Layer) -> np.ndarray:
    kernel = _values(layer.pointwise_kernel if type(layer) in _SEPARABLE else layer.kernel)
    if not np.isfinite(kernel).all():
        raise _beyond(layer, "some of its weights are not finite: the training that made them diverged")
    return kernel


def _values(variable: keras.Variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)


def _gain(graph: _Graph, name: str) -> np.ndarray | float:
    """Returns what a batch normalization behind a producer multiplies each of its channels by; 1 if there is none."""
    while True:
        consumers = [consumer for consumer, sources in graph.inputs.items() if name in sources]
        if len(consumers) != 1:
            return 1.0
        name = consumers[0]
        layer = graph.layers[name]
        if _kind(layer) == "BatchNormalization":
            gamma = np.abs(_values(layer.gamma)) if layer.scale else 1.0
            return gamma / np.sqrt(_values(layer.moving_variance) + layer.epsilon)
        if getattr(layer, "weights", None) or _kind(layer) in (*_MERGES, "Flatten", "Reshape"):
            return 1.0


def _kept(graph: _Graph, keep: dict[str, np.ndarray]) -> np.ndarray:
    """Returns for each number whether its channel stays."""
    found = graph.groups()
    kept = np.ones(len(graph.parents), bool)
    for name, mask in keep.items():
        if name not in found:
            raise ValueError(f"There is no group {name!r}; the groups are {', '.join(found) or 'none'}.")
        mask, ids = np.asarray(mask), found[name][1]
        if mask.dtype != bool or mask.shape != ids.shape or not mask.any():
            raise ValueError(
                f"keep[{name!r}] is {mask.dtype} of shape {mask.shape}, {np.count_nonzero(mask)} of them true: "
                f"booleans of shape {ids.shape} are expected, at least one of them true."
            )
        kept[ids] = mask
        for producer in found[name][0]:
            if not kept[graph.channels(producer)].any():
                raise _beyond(graph.layers[producer], f"of the group {name} it would keep nothing")
    return kept


def _sliced(layer: keras.Layer, weights: list[np.ndarray], before: list[np.ndarray], after: np.ndarray) -> list:
    """Returns a layer's weights for the channels that come in and go out; masks of shape (channels,)."""
    if _kind(layer) == "Normalization":
        return weights
    if type(layer) in _SEPARABLE:
        depthwise, pointwise, *bias = weights
        rows = np.repeat(before[0], layer.depth_multiplier)
        return [depthwise[..., before[0], :], pointwise[..., rows, :][..., after], *(part[after] for part in bias)]
    if type(layer) in _DEPTHWISE:
        kernel, *bias = weights
        return [kernel[..., before[0], :], *(part[after] for part in bias)]
    if type(layer) in _PRODUCERS:
        kernel, *bias = weights
        return [kernel[..., before[0], :][..., after], *(part[after] for part in bias)]
    return [part[..., after] for part in weights]  # batch normalization, PReLU
