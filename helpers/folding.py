"""A model built again with other layers: some replaced, some left out, batch normalization folded into others."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator

import keras
import numpy as np

_LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_OUTSIDE = ""  # in place of a name: what reads the model's outputs


def fold_batch_normalization(model: keras.Model) -> keras.Model:
    """Returns a copy in which batch normalization has become part of the layer before it.

    At prediction it is a factor and a shift for each channel, and those of a `Conv2D`,
    `DepthwiseConv2D` or `Dense` without activation can take them over, also through pooling in
    between. Normalization stays as it is where it does not follow such a layer, where its input is
    used elsewhere, too, and behind a max pooling if the factor of a channel is negative: the
    largest value would become the smallest.

    Args:
        model: A functional or sequential model.

    Returns:
        An uncompiled functional model with the same outputs at prediction, layers named as before.

    Raises:
        ValueError: If the model is not one of those.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    >>> [type(layer).__name__ for layer in fold_batch_normalization(model).layers]
    ['InputLayer', 'Dense']

    Reference:
        Jacob et al., 2018, section 3.2, https://arxiv.org/abs/1712.05877
    """
    folded = _foldable(model)  # layers by name, each with the name of the normalization that it takes over

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "use_bias": True} if layer.name in folded else config)

    copied = rebuild(model, copy, without=folded.values())
    for name, normalization in folded.items():
        kernel, *bias = model.get_layer(name).get_weights()
        factor, shift = _affine(model.get_layer(normalization))
        # A depthwise kernel is (height, width, channels, multiplier); the outputs are the last two in one.
        shape = kernel.shape[2:] if isinstance(model.get_layer(name), keras.layers.DepthwiseConv2D) else -1
        bias = bias[0] * factor + shift if bias else shift
        copied.get_layer(name).set_weights([kernel * factor.reshape(shape), bias])
    return copied


def without_softmax(model: keras.Model) -> keras.Model:
    """Returns a model that gives logits: the one received, or a copy if that ends in a softmax.

    Distillation divides logits by a temperature, and integers hold them better than probabilities.
    Dropout and a linear activation behind the softmax, such as a cast to float32, do not hide it.

    Args:
        model: A functional or sequential model with one output.

    Raises:
        ValueError: If it is not one of those, or its softmax is in a model inside it or is no layer.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    >>> without_softmax(model).layers[-1].activation.__name__
    'linear'
    """
    last = _end(model)
    inner = isinstance(last, keras.Model) and without_softmax(last) is not last
    if inner or (type(last).__name__ == "Softmax" and not isinstance(last, keras.Layer)):
        place = f"in the model {last.name} inside it" if inner else "an operation and no layer"
        raise ValueError(
            f"{model.name} ends in a softmax that is {place}, and cannot be taken out: build it as one graph of "
            "layers that ends in a layer Softmax or in one with activation='softmax'."
        )
    if isinstance(last, keras.layers.Softmax):
        return rebuild(model, without=[last.name])
    if getattr(last, "activation", None) not in (keras.activations.softmax, keras.ops.softmax):
        return model

    def copy(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        return type(layer).from_config({**config, "activation": "linear"} if layer is last else config)

    return rebuild(model, copy)


def rebuild(
    model: keras.Model, copy: Callable[[keras.Layer], keras.Layer] | None = None, *, without: Collection[str] = ()
) -> keras.Model:
    """Returns a model of copies of the layers of another.

    Args:
        model: A functional or sequential model.
        copy: Takes a layer, returns the one in its place, under the same name; equal ones if not given.
        without: Names of layers to leave out; what they get goes to those they feed.

    Returns:
        An uncompiled functional model. Layers of the same kind as before have their weights, too.

    Raises:
        ValueError: If the model is not one of those.
    """

    def call(layer: keras.Layer, *args, **options):
        return args[0] if layer.name in without else layer(*args, **options)

    copied = keras.models.clone_model(_functional(model), clone_function=copy, call_function=call)
    for layer in copied.layers:
        old = model.get_layer(layer.name) if not isinstance(layer, keras.layers.InputLayer) else layer
        if type(layer) is type(old) and len(layer.weights) == len(old.weights):
            layer.set_weights(old.get_weights())
    return copied


def names(structure: object) -> Iterator[str]:
    """Yields the layers' names in the [name, node, tensor] triples of a functional model's configuration."""
    if isinstance(structure, dict):
        structure = list(structure.values())
    if structure and isinstance(structure[0], str):
        yield structure[0]
    else:
        for part in structure:
            yield from names(part)


def sources(structure: object) -> Iterator[str]:
    """Yields the names of the layers whose tensors are in a call's arguments, as a configuration holds them."""
    if isinstance(structure, dict):
        if structure.get("class_name") == "__keras_tensor__":
            yield structure["config"]["keras_history"][0]
            return
        structure = list(structure.values())
    if isinstance(structure, list | tuple):
        for part in structure:
            yield from sources(part)


def _functional(model: keras.Model) -> keras.Model:
    """Returns a model as a graph: functional, so that calls can be changed; uncompiled, so that a copy is, too."""
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name} cannot be rebuilt layer by layer: a functional model, or a sequential one that knows "
            "the shape of its input, is expected."
        )
    single = isinstance(model, keras.Sequential)
    inputs, outputs = (model.inputs[0], model.outputs[0]) if single else (model.input, model.output)
    return keras.Model(inputs, outputs, name=model.name)


def _end(model: keras.Model) -> keras.Operation:
    """Returns the operation that makes the output, before those that pass it on as it is at prediction."""
    made = _functional(model).outputs[0]._keras_history
    while isinstance(made.operation, keras.layers.Dropout) or (
        isinstance(made.operation, keras.layers.Activation)
        and made.operation.activation is keras.activations.linear
    ):
        made = made.operation._inbound_nodes[made.node_index].input_tensors[0]._keras_history
    return made.operation


def _affine(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and shift of a normalization at prediction, each of shape (channels,)."""
    mean, variance = (keras.ops.convert_to_numpy(part) for part in (layer.moving_mean, layer.moving_variance))
    gamma = 1 if layer.gamma is None else keras.ops.convert_to_numpy(layer.gamma)
    beta = 0 if layer.beta is None else keras.ops.convert_to_numpy(layer.beta)
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return factor, beta - mean * factor


def _foldable(model: keras.Model) -> dict[str, str]:
    """Returns the names of the layers that can take over a normalization, each with the name of that."""
    feeding, layers, folded = _feeding(model), {layer.name: layer for layer in model.layers}, {}
    used = Counter(name for feeders in feeding.values() for name in feeders)
    for layer in model.layers:
        # Along another axis than the last, the channels are not those of the layer before.
        if type(layer) is not keras.layers.BatchNormalization or layer.axis not in (-1, layer.input_spec.ndim - 1):
            continue
        negative = np.any(_affine(layer)[0] < 0)
        before = layer
        while before is layer or (type(before) in _POOLS and not (negative and type(before) is _POOLS[0])):
            feeders = feeding[before.name]
            if len(feeders) != 1 or feeders[0] not in layers or used[feeders[0]] != 1:
                break  # what is not among the layers is an input, or an operation that is no layer
            if getattr(layers[feeders[0]], "data_format", "channels_last") != "channels_last":
                break  # its channels are not the last axis
            before = layers[feeders[0]]
        if type(before) in _LINEAR and before.activation is keras.activations.linear:
            folded[before.name] = layer.name
    return folded


def _feeding(model: keras.Model) -> dict[str, list[str]]:
    """Returns the names of the layers that feed each layer, over all of its calls, and the outputs."""
    config = _functional(model).get_config()
    feeding = {entry["name"]: list(sources(entry["inbound_nodes"])) for entry in config["layers"]}
    return {**feeding, _OUTSIDE: list(names(config["output_layers"]))}
