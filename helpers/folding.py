"""A model built again with other layers: some replaced, some left out, batch normalization folded into others."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection

import keras
import numpy as np

_LINEAR = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_POOLS = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)
_OUTSIDE = ""  # in place of a name: what feeds the model, and what reads its outputs


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

    Args:
        model: A functional or sequential model with one output.

    Raises:
        ValueError: If it ends in a softmax and is not one of those.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    >>> without_softmax(model).layers[-1].activation.__name__
    'linear'
    """
    last, softmax = model.layers[-1], keras.activations.softmax
    if isinstance(last, keras.layers.Softmax):
        return rebuild(model, without=[last.name])
    if getattr(last, "activation", None) is not softmax:
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

    copied = _clone(model, copy or _copy, call)
    for layer in copied.layers:
        old = model.get_layer(layer.name) if not isinstance(layer, keras.layers.InputLayer) else layer
        if type(layer) is type(old) and len(layer.weights) == len(old.weights):
            layer.set_weights(old.get_weights())
    return copied


def _copy(layer: keras.Layer) -> keras.Layer:
    return type(layer).from_config(layer.get_config())


def _clone(model: keras.Model, copy: Callable, call: Callable) -> keras.Model:
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"{model.name} cannot be rebuilt layer by layer: a functional model, or a sequential one that knows "
            "the shape of its input, is expected."
        )
    single = isinstance(model, keras.Sequential)
    inputs, outputs = (model.inputs[0], model.outputs[0]) if single else (model.input, model.output)
    # Functional, so that calls can be changed; uncompiled, so that the copy is, too.
    functional = keras.Model(inputs, outputs, name=model.name)
    return keras.models.clone_model(functional, clone_function=copy, call_function=call)


def _affine(layer: keras.layers.BatchNormalization) -> tuple[np.ndarray, np.ndarray]:
    """Returns factor and shift of a normalization at prediction, each of shape (channels,)."""
    mean, variance = (keras.ops.convert_to_numpy(part) for part in (layer.moving_mean, layer.moving_variance))
    gamma = 1 if layer.gamma is None else keras.ops.convert_to_numpy(layer.gamma)
    beta = 0 if layer.beta is None else keras.ops.convert_to_numpy(layer.beta)
    factor = gamma / np.sqrt(variance + layer.epsilon)
    return factor, beta - mean * factor


def _foldable(model: keras.Model) -> dict[str, str]:
    """Returns the names of the layers that can take over a normalization, each with the name of that."""
    sources, layers, folded = _sources(model), {layer.name: layer for layer in model.layers}, {}
    used = Counter(name for names in sources.values() for name in names)
    for layer in model.layers:
        # Along another axis than the last, the channels are not those of the layer before.
        if type(layer) is not keras.layers.BatchNormalization or layer.axis not in (-1, layer.input_spec.ndim - 1):
            continue
        negative = np.any(_affine(layer)[0] < 0)
        before = layer
        while before is layer or (type(before) in _POOLS and not (negative and type(before) is _POOLS[0])):
            feeding = sources[before.name]
            if len(feeding) != 1 or feeding[0] not in layers or used[feeding[0]] != 1:
                break  # what is not among the layers is an input, or an operation that is no layer
            before = layers[feeding[0]]
        if type(before) in _LINEAR and before.activation is keras.activations.linear:
            folded[before.name] = layer.name
    return folded


def _sources(model: keras.Model) -> dict[str, list[str]]:
    """Returns the names of the layers that feed each layer, over all of its calls, and the outputs."""
    made, sources = {}, defaultdict(list)

    def source(x: keras.KerasTensor) -> str:
        return made.get(id(x), (_OUTSIDE, x))[0]

    def call(layer: keras.Layer, *args, **options):
        read = [x for x in keras.tree.flatten((args, options)) if isinstance(x, keras.KerasTensor)]
        outputs = layer(*args, **options)
        sources[layer.name] += [source(x) for x in read]
        # With the tensor itself, so that its id is not given to another one.
        made.update({id(x): (layer.name, x) for x in keras.tree.flatten(outputs)})
        return outputs

    copied = _clone(model, _copy, call)
    sources[_OUTSIDE] = [source(x) for x in copied.outputs]
    return sources
