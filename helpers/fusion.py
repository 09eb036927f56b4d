"""Batch normalization and Adam in TensorFlow's fused kernels while a model trains on a CPU: the same numbers, sooner.

Keras puts both together from single operations, each of which reads and writes a whole array; on a CPU that takes as
long as the convolutions. TensorFlow has one kernel for all of it. A model's own layers and optimizer stay what they
are, so that whatever is copied, saved or looked at afterwards is Keras's own.
"""

import contextlib
import types
from collections.abc import Callable, Iterator

import keras


@contextlib.contextmanager
def fused(model: keras.Model) -> Iterator[None]:
    """Makes a training step that is traced inside the block use the fused kernels; elsewhere nothing changes.

    Batch normalization over the last axis of pictures and plain Adam and AdamW are fused, on TensorFlow's CPU.
    Everything else is computed as before, and so is prediction.

    Args:
        model: A compiled model.

    Reference:
        https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/fused_batch_norm
    """
    swapped = [(part, name, types.MethodType(work, part)) for part, name, work in _fusible(model)]
    for part, name, work in swapped:
        vars(part)[name] = work  # hides the method of the class
    try:
        yield
    finally:
        for part, name, _ in swapped:
            vars(part).pop(name, None)


def _fusible(model: keras.Model) -> Iterator[tuple[object, str, Callable]]:
    """Yields the parts of a model that a fused kernel can do, the method, and what stands in for it."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU") or tf.distribute.has_strategy():
        return
    for layer in model._flatten_layers():
        if type(layer) is keras.layers.BatchNormalization and _is_plain(layer):
            yield layer, "call", _normalize
    optimizer = model.optimizer
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW) and not optimizer.amsgrad:
        yield optimizer, "update_step", _adam


def _is_plain(layer: keras.layers.BatchNormalization) -> bool:
    pictures = layer.built and layer.input_spec.ndim == 4 and layer.axis in (-1, 3)
    return pictures and layer.scale and layer.center and layer.trainable and not (layer.renorm or layer.synchronized)


def _normalize(layer, inputs, training=None, mask=None):
    if not training or mask is not None or inputs.dtype not in ("float32", "bfloat16"):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    import tensorflow as tf

    outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        inputs, layer.gamma.value, layer.beta.value, epsilon=layer.epsilon, is_training=True
    )
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], "float32")
    variance *= (count - 1) / count  # the kernel gives that of the population, Keras keeps that of the batch
    for kept, found in ((layer.moving_mean, mean), (layer.moving_variance, variance)):
        kept.assign(kept * layer.momentum + found * (1 - layer.momentum))
    return outputs


def _adam(optimizer, gradient, variable, learning_rate):
    import tensorflow as tf

    if isinstance(gradient, tf.IndexedSlices) or variable.dtype != "float32":
        return type(optimizer).update_step(optimizer, gradient, variable, learning_rate)
    place = optimizer._get_variable_index(variable)
    momentum, velocity = optimizer._momentums[place].value, optimizer._velocities[place].value
    step = tf.cast(optimizer.iterations + 1, "float32")  # a tensor where gradients are accumulated
    return tf.raw_ops.ResourceApplyAdam(
        var=variable.handle, m=momentum.handle, v=velocity.handle,
        beta1_power=optimizer.beta_1**step, beta2_power=optimizer.beta_2**step, lr=tf.cast(learning_rate, "float32"),
        beta1=optimizer.beta_1, beta2=optimizer.beta_2, epsilon=optimizer.epsilon, grad=tf.cast(gradient, "float32"),
    )  # fmt: skip
