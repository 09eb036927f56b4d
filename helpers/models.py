"""Networks as functional models: uncompiled, raw uint8 pictures in, logits out.

Every builder takes the shape of a picture and the number of classes, so the same code serves grey
and coloured pictures of any size. What prepares the pixels is the model's first layer: whoever has
the model needs nothing else to use it.
"""

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
    regularizer: keras.Regularizer | str | None = None,
) -> keras.Model:
    """Builds the classic stack: convolutions of 3x3 with pooling, one dense layer, the classes.

    Pooling comes before the ReLU. Both orders give the same numbers, because ReLU does not change
    which of four values is the largest, and this one computes the ReLU on a quarter of them.
    """
    inputs, x = _pixels(input_shape)
    for width in filters:
        x = keras.layers.Conv2D(width, 3, padding=_padding(x), kernel_regularizer=regularizer)(x)
        x = _pool(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(units, activation="relu", kernel_regularizer=regularizer)(x)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    return keras.Model(inputs, _logits(x, classes), name="classic_cnn")


def _pixels(input_shape: tuple[int, int, int]) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Returns the input of raw pixels, and the same scaled to -1 to 1."""
    if len(input_shape) != 3 or input_shape[2] not in (1, 3) or min(input_shape) < 1:
        raise ValueError(
            "input_shape is (height, width, channels) of a picture with 1 or 3 channels; "
            f"received {tuple(input_shape)}."
        )
    inputs = keras.Input(tuple(input_shape), dtype="uint8", name="pictures")
    return inputs, keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="scale")(inputs)


def _logits(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    if classes < 2:
        raise ValueError(f"A classifier chooses between at least 2 classes; received {classes}.")
    return keras.layers.Dense(classes, dtype="float32", name="logits")(x)  # float32 in mixed precision, too


def _padding(x: keras.KerasTensor) -> str:
    """Returns `"valid"`, or `"same"` where a picture has become too small to lose its edge."""
    return "valid" if min(x.shape[1:3]) >= 4 else "same"


def _pool(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.MaxPooling2D()(x) if min(x.shape[1:3]) >= 2 else x


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    """Returns `x` after batch normalization, whose averages follow quickly enough for short training."""
    return keras.layers.BatchNormalization(momentum=0.9, synchronized=devices.replicas() > 1)(x)
