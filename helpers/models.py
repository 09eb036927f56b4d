"""Networks as functional models: uncompiled, raw uint8 pictures in, logits out.

Every builder takes the shape of a picture and the number of classes, so the same code serves grey
and coloured pictures of any size. What prepares the pixels is the model's first layer: whoever has
the model needs nothing else to use it.
"""

import math

import keras

from helpers import devices


def softmax_regression(input_shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Builds a linear model: one weight for each pixel and class."""
    inputs, x = _pixels(input_shape)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, _logits(x, classes), name="softmax_regression")


def mlp(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    units: int = 128,
    dropout: float = 0.0,
    regularizer: keras.Regularizer | str | None = None,
) -> keras.Model:
    """Builds a network with one hidden layer of ReLUs; 784-128-10 on Fashion-MNIST."""
    inputs, x = _pixels(input_shape)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(units, activation="relu", kernel_regularizer=regularizer)(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, _logits(x, classes), name="mlp")


def classic_cnn(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    filters: tuple[int, ...] = (32, 64),
    units: int = 128,
    dropout: float = 0.0,
) -> keras.Model:
    """Builds the classic stack: convolutions of 3x3 with pooling, one dense layer, the classes.

    Pooling comes before the ReLU. Both orders give the same numbers, because ReLU does not change
    which of four values is the largest, and this one computes the ReLU on a quarter of them.
    """
    inputs, x = _pixels(input_shape)
    for width in filters:
        x = keras.layers.Conv2D(width, 3, padding=_padding(x))(x)
        x = _pool(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(units, activation="relu")(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, _logits(x, classes), name="classic_cnn")


def better_cnn(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    width: int = 32,
    blocks: int = 0,
    dropout: float = 0.0,
) -> keras.Model:
    """Builds a residual network with batch normalization that grows from quick to deep.

    Stages of twice the filters on half the side, until a side has 8 pixels or fewer. Each
    convolution is pooled first, then normalized, then rectified: the cheap order on a CPU. With
    `blocks=0` it is three convolutions, which two cores train in minutes; with `width=64,
    blocks=2` a wide residual network for a GPU. The classes are read from the flattened map,
    because where a sleeve is tells as much as that there is one.

    Args:
        input_shape: Height, width and channels of a picture.
        classes: Number of classes.
        width: Filters of the first stage; the second has twice, all others four times as many.
        blocks: Residual blocks (two convolutions each) in every stage.
        dropout: Share of the filters that are left out in front of the classes.

    Reference:
        He et al., 2016, https://arxiv.org/abs/1603.05027 and
        Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146
    """
    inputs, x = _pixels(input_shape)
    poolings = max(2, math.ceil(math.log2(max(x.shape[1:3]) / 8)))
    for stage in range(poolings + 1):
        # Without blocks the later stages give up their edge: on 28x28 46% fewer products, and nothing lost.
        padding = "same" if blocks or stage == 0 else _padding(x)
        x = _convolution(x, width * 2 ** min(stage, 2), padding=padding)
        for _ in range(blocks):
            x = _residual_block(x)
        if stage < poolings:
            x = _pool(x, padding="same")
        x = _normalized(x)
    if dropout:
        x = keras.layers.SpatialDropout2D(dropout)(x)  # one draw a map: drawing for each pixel costs a tenth of it all
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, _logits(x, classes), name="better_cnn")


def affordable_cnn(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    pictures: int,
    widths: tuple[int, ...] = (32, 16),
    budget: float = 5e13,
    **options: int | float,
) -> keras.Model:
    """Builds the better CNN with the first of some widths whose training stays within a budget, or with the last.

    The default budget is ten times what eight epochs of Fashion-MNIST cost.

    Args:
        input_shape: Height, width and channels of a picture.
        classes: Number of classes.
        pictures: Pictures that training sees, those of all epochs together.
        widths: Filters of the first stage to choose from, most first.
        budget: Multiply-adds of the whole training: three times those of all pictures forward.
        options: `blocks` and `dropout`, as `better_cnn` takes them.

    >>> affordable_cnn((28, 28, 1), 10, pictures=8 * 54_000).layers[2].filters
    32
    >>> affordable_cnn((128, 128, 3), 10, pictures=8 * 54_000).layers[2].filters
    16
    """
    for width in widths:
        model = better_cnn(input_shape, classes, width=width, **options)
        if 3 * sum(multiply_adds(model).values()) * pictures <= budget:
            break
    return model


def multiply_adds(model: keras.Model) -> dict[str, int]:
    """Counts the products of one picture forward, in each Conv2D and Dense layer that a functional model has itself.

    >>> multiply_adds(softmax_regression((28, 28, 1), 10))
    {'logits': 7840}
    """
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense)]
    return {layer.name: math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in layers}


def mirror_averaged(model: keras.Model) -> keras.Model:
    """Wraps a model so that it looks at each picture and at its mirror image, and averages the logits.

    It costs a second look at each picture and no training; use it where the classes do not change
    in a mirror.
    """
    inputs = keras.Input(model.input_shape[1:], dtype=model.inputs[0].dtype, name="pictures")
    outputs = keras.layers.Average(dtype="float32")([model(inputs), model(keras.ops.flip(inputs, axis=2))])
    return keras.Model(inputs, outputs, name=f"{model.name}_mirrored")


def _pixels(input_shape: tuple[int, int, int]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the input of raw pixels, and the same scaled to 0 to 1: black stays 0, like the padding around it."""
    if len(input_shape) != 3 or input_shape[2] not in (1, 3) or min(input_shape) < 1:
        raise ValueError(
            "input_shape is (height, width, channels) of a picture with 1 or 3 channels; "
            f"received {tuple(input_shape)}."
        )
    inputs = keras.Input(tuple(input_shape), dtype="uint8", name="pictures")
    return inputs, keras.layers.Rescaling(1 / 255, name="scale")(inputs)


def _logits(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    if classes < 2:
        raise ValueError(f"A classifier chooses between at least 2 classes; received {classes}.")
    return keras.layers.Dense(classes, dtype="float32", name="logits")(x)  # float32 in mixed precision, too


def _padding(x: keras.KerasTensor) -> str:
    """Returns `"valid"`, or `"same"` where a picture has become too small to lose its edge."""
    return "valid" if min(x.shape[1:3]) >= 4 else "same"


def _pool(x: keras.KerasTensor, *, padding: str = "valid") -> keras.KerasTensor:
    return keras.layers.MaxPooling2D(padding=padding)(x) if min(x.shape[1:3]) >= 2 else x


def _convolution(x: keras.KerasTensor, filters: int, *, padding: str = "same") -> keras.KerasTensor:
    # Without bias: the normalization that follows brings its own.
    return keras.layers.Conv2D(filters, 3, padding=padding, use_bias=False, kernel_initializer="he_normal")(x)


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    """Returns `x` normalized over the batch (all replicas of it) and rectified."""
    x = keras.layers.BatchNormalization(momentum=0.9, synchronized=devices.replicas() > 1)(x)
    return keras.layers.ReLU()(x)


def _residual_block(x: keras.KerasTensor) -> keras.KerasTensor:
    filters = x.shape[-1]
    change = _convolution(_normalized(_convolution(_normalized(x), filters)), filters)
    return keras.layers.Add()([x, change])
