"""Distillation: a small student learns from the logits of a large teacher, which are asked for once."""

import keras
import numpy as np


def soft_targets(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Returns the softmax of logits divided by a temperature; the higher it is, the softer they are.

    Args:
        logits: Shape (..., classes).
        temperature: Above 0; at 1 it is the plain softmax.

    Returns:
        Probabilities of the same shape; float64.

    Raises:
        ValueError: If the temperature is not above 0.

    Example:

    >>> soft_targets(np.log([[1.0, 9.0]]), 1.0).round(2), soft_targets(np.log([[1.0, 9.0]]), 2.0).round(2)
    (array([[0.1, 0.9]]), array([[0.25, 0.75]]))
    """
    from scipy.special import softmax

    _check(temperature=temperature)
    return softmax(np.asarray(logits, np.float64) / temperature, axis=-1)


def distillation_loss(student_logits, teacher_logits, *, temperature: float):
    """Returns T² KL(softmax(teacher / T) ‖ softmax(student / T)), one number for each picture.

    At high temperatures the gradient falls as 1 / T². T² makes up for it, so that the teacher's part weighs about the
    same whichever T is tried.

    Reference:
        Hinton, Vinyals and Dean, 2015, section 2, https://arxiv.org/abs/1503.02531
    """
    teacher = keras.ops.log_softmax(teacher_logits / temperature)
    student = keras.ops.log_softmax(student_logits / temperature)
    return temperature**2 * keras.ops.sum(keras.ops.exp(teacher) * (teacher - student), axis=-1)


def targets(one_hot: np.ndarray, teacher_logits: np.ndarray) -> np.ndarray:
    """Puts the true labels and what the teacher says side by side, as `DistillationLoss` reads them.

    The teacher sees each training picture once, before the training, and not again in each epoch.

    Args:
        one_hot: Rows with a 1 at the true class, shape (n, classes).
        teacher_logits: The teacher's outputs for the same pictures, shape (n, classes).

    Returns:
        float32 of shape (n, 2 * classes).

    Raises:
        ValueError: If the two do not have one shape, or a logit is not finite.

    Example:

    >>> targets(np.eye(2), np.array([[3.0, -1.0], [0.5, 2.0]]))
    array([[ 1. ,  0. ,  3. , -1. ],
           [ 0. ,  1. ,  0.5,  2. ]], dtype=float32)
    """
    one_hot, teacher_logits = np.asarray(one_hot, np.float32), np.asarray(teacher_logits, np.float32)
    if one_hot.ndim != 2 or one_hot.shape != teacher_logits.shape:
        raise ValueError(
            "Labels are one-hot rows and the teacher gives one logit for each class of each picture; "
            f"received labels of shape {one_hot.shape} and logits of shape {teacher_logits.shape}."
        )
    if not np.isfinite(teacher_logits).all():
        raise ValueError("Some of the teacher's logits are not finite: a student learns nothing from them.")
    return np.concatenate([one_hot, teacher_logits], axis=1)


@keras.saving.register_keras_serializable(package="workbook")
class DistillationLoss(keras.losses.Loss):
    """The loss of a student: `weight` parts what the teacher says, the rest cross-entropy with the true label.

    Args:
        temperature: Above 0; softens both sides of the teacher's part.
        weight: Share of the teacher's part, from 0 to 1.

    Raises:
        ValueError: If one of them is out of range, or the targets of a batch are not twice as wide
            as the student's logits.

    Example:

    >>> loss = DistillationLoss(temperature=4.0, weight=0.9)
    >>> logits = np.array([[3.0, -1.0]], np.float32)  # the student says what the teacher says
    >>> round(float(loss(targets(np.eye(2)[:1], logits), logits)), 5)  # 0.1 * log(1 + exp(-4))
    0.00181

    Reference:
        Hinton, Vinyals and Dean, 2015, section 2, https://arxiv.org/abs/1503.02531
    """

    def __init__(
        self, temperature: float = 4.0, weight: float = 0.9, *, name: str = "distillation_loss", **options
    ) -> None:
        _check(temperature=temperature, weight=weight)
        super().__init__(name=name, **options)
        self.temperature, self.weight = temperature, weight

    def call(self, y_true, y_pred):
        one_hot, teacher = _halves(y_true, y_pred)
        soft = distillation_loss(y_pred, teacher, temperature=self.temperature)
        hard = keras.ops.categorical_crossentropy(one_hot, y_pred, from_logits=True)
        return self.weight * soft + (1 - self.weight) * hard

    def get_config(self) -> dict:
        return {**super().get_config(), "temperature": self.temperature, "weight": self.weight}


@keras.saving.register_keras_serializable(package="workbook")
def accuracy(y_true, y_pred):
    """Returns 1 for each picture whose largest logit is at its true class, else 0: for `compile(metrics=[…])`.

    Args:
        y_true: What `targets` returned, shape (n, 2 * classes).
        y_pred: The student's logits, shape (n, classes).

    Raises:
        ValueError: If the targets are not twice as wide as the logits.

    Example:

    >>> labels = targets(np.eye(2), np.array([[0.0, 9.0], [0.0, 9.0]]))  # the teacher errs on the first
    >>> np.asarray(accuracy(labels, np.array([[1.0, 0.0], [1.0, 0.0]])))
    array([1., 0.], dtype=float32)
    """
    one_hot, _ = _halves(keras.ops.convert_to_tensor(y_true), keras.ops.convert_to_tensor(y_pred))
    return keras.ops.cast(keras.ops.argmax(one_hot, axis=-1) == keras.ops.argmax(y_pred, axis=-1), "float32")


def _halves(y_true, y_pred):
    """Returns true labels and teacher's logits, each of shape (n, classes)."""
    classes = y_pred.shape[-1]
    if y_true.shape[-1] != 2 * classes:
        raise ValueError(
            f"A student with {classes} outputs needs targets of width {2 * classes}, true labels and the teacher's "
            f"logits side by side; received width {y_true.shape[-1]}. Make them with "
            "distillation.targets(one_hot, teacher_logits), from a teacher of the same classes."
        )
    return y_true[:, :classes], y_true[:, classes:]


def _check(*, temperature: float, weight: float = 0.0) -> None:
    if not temperature > 0 or not 0 <= weight <= 1:
        raise ValueError(
            f"The temperature is above 0 and the weight of the teacher between 0 and 1; received {temperature} "
            f"and {weight}."
        )
