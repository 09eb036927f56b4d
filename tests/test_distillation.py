"""Facts about distillation: the loss by hand and in NumPy, its gradient, and the trap in Keras's own."""

import inspect
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import rel_entr, softmax

from helpers import distillation, models, training

logits = hnp.arrays(np.float64, (3, 4), elements=st.floats(-20, 20))
temperatures = st.floats(0.5, 20)

STUDENT = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
TEACHER = np.array([[3.0, 2.0, 1.0], [4 * np.log(2), 0.0, 0.0]])


def _value(x):
    return keras.ops.convert_to_numpy(x)


def _loss(student, teacher, temperature):
    return _value(distillation.distillation_loss(student, teacher, temperature=temperature))


# ── worked by hand ──────────────────────────────────────────────────────────────────────────────


def test_loss_by_hand():
    # Second picture at T = 4: the teacher says 1/2, 1/4, 1/4, the student 1/3 each.
    second = 16 * (np.log(3 / 2) / 2 + np.log(3 / 4) / 2)
    # First at T = 1: e², e, 1 over their sum against the reverse; the logarithms differ by 2, 0, -2.
    first = 2 * (math.e**2 - 1) / (math.e**2 + math.e + 1)
    assert _loss(STUDENT, TEACHER, 4.0)[1] == pytest.approx(second, rel=1e-6)
    assert _loss(STUDENT, TEACHER, 1.0)[0] == pytest.approx(first, rel=1e-6)


def test_soft_targets_by_hand():
    np.testing.assert_allclose(distillation.soft_targets(TEACHER[1], 4.0), [1 / 2, 1 / 4, 1 / 4])
    np.testing.assert_allclose(distillation.soft_targets(np.array([1e4, 0.0]), 1.0), [1, 0])


def test_weight_mixes_the_teacher_and_the_true_label_by_hand():
    labels = distillation.targets(np.eye(3)[[0, 0]], TEACHER)
    teacher = np.mean(_loss(STUDENT.astype("float32"), TEACHER.astype("float32"), 4.0))
    label = (np.log(1 + math.e + math.e**2) + np.log(3)) / 2  # of logits 1, 2, 3 and 0, 0, 0
    for weight in (0.0, 0.25, 1.0):
        loss = distillation.DistillationLoss(4.0, weight)
        value = float(loss(labels, STUDENT.astype("float32")))
        assert value == pytest.approx(weight * teacher + (1 - weight) * label, rel=1e-5)


def test_accuracy_looks_at_the_true_label_and_not_at_the_teacher():
    labels = distillation.targets(np.eye(3)[[2, 1]], TEACHER)
    np.testing.assert_array_equal(_value(distillation.accuracy(labels, STUDENT)), [1, 0])


def test_the_source_that_is_shown_is_short():
    assert len(inspect.getsource(distillation.distillation_loss).splitlines()) <= 15


# ── properties ──────────────────────────────────────────────────────────────────────────────────


@given(student=logits, teacher=logits, temperature=temperatures)
def test_loss_is_the_formula_and_0_for_the_teacher_itself(student, teacher, temperature):
    divergence = rel_entr(softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)).sum(axis=1)
    rtol, atol = (1e-6, 1e-9) if keras.backend.backend() == "tensorflow" else (1e-3, 1e-3)  # JAX: float32
    expected = temperature**2 * divergence
    np.testing.assert_allclose(_loss(student, teacher, temperature), expected, rtol=rtol, atol=atol)
    np.testing.assert_allclose(_loss(teacher, teacher, temperature), 0, atol=atol)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="differences need the float64 that JAX has switched off")
@given(student=logits, teacher=logits, temperature=temperatures)
def test_gradient_is_the_temperature_times_the_difference_of_the_soft_targets(student, teacher, temperature):
    moved = student + 1e-5 * np.concatenate([np.eye(4), -np.eye(4)])[:, None]  # all of them in one call
    losses = _loss(moved.reshape(-1, 4), np.tile(teacher, (8, 1)), temperature).reshape(8, -1)
    by_differences = (losses[:4] - losses[4:]).T / 2e-5
    soft = [distillation.soft_targets(part, temperature) for part in (student, teacher)]
    np.testing.assert_allclose(by_differences, temperature * (soft[0] - soft[1]), atol=1e-4)


# ── beside Keras ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's own gradient")
def test_tensorflow_finds_the_same_gradient():
    import tensorflow as tf

    student = tf.Variable(STUDENT)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(distillation.distillation_loss(student, TEACHER, temperature=4.0))
    expected = 4 * (softmax(STUDENT / 4, axis=1) - softmax(TEACHER / 4, axis=1))
    np.testing.assert_allclose(tape.gradient(loss, student), expected, rtol=1e-6)


def test_keras_has_this_loss_only_if_asked_for_by_its_class():
    asked = keras.distillation.LogitsDistillation(temperature=3.0, loss=keras.losses.KLDivergence())
    default = keras.distillation.LogitsDistillation(temperature=3.0)
    student, teacher = STUDENT.astype("float32"), TEACHER.astype("float32")
    ours = _loss(student, teacher, 3.0).mean()
    assert float(asked.compute_loss(teacher, student)) == pytest.approx(ours, rel=1e-4)
    assert float(default.compute_loss(teacher, student)) != pytest.approx(ours, rel=0.1)


def test_loss_is_the_same_after_it_was_written_down():
    loss = distillation.DistillationLoss(3.0, 0.4, name="students")
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (type(again), again.get_config()) == (distillation.DistillationLoss, loss.get_config())
    assert (again.temperature, again.weight, again.name) == (3.0, 0.4, "students")


# ── in a training ───────────────────────────────────────────────────────────────────────────────


def _taught(**options):
    """Returns history, answers and targets of a student whose teacher is right where its labels are often wrong."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (256, 4, 4, 1), dtype=np.uint8)
    bright = images[:, :, :2].mean(axis=(1, 2, 3)) > images[:, :, 2:].mean(axis=(1, 2, 3))
    teacher = np.where(bright[:, None], [[4.0, 0.0]], [[0.0, 4.0]])
    wrong = random.random(256) < 0.3
    labels = distillation.targets(np.eye(2)[(bright == wrong).astype(int)], teacher)
    student = models.softmax_regression((4, 4, 1), 2)
    student.compile(keras.optimizers.Adam(0.05), distillation.DistillationLoss(2.0, 0.9),
                    metrics=[distillation.accuracy], **options)  # fmt: skip
    history = training.fit(student, (images, labels), (images, labels), epochs=12, batch_size=32, verbose=False)
    return history, training.logits(student, images).argmax(axis=1), labels


def test_a_student_learns_what_the_teacher_says_and_its_accuracy_is_that_of_the_labels():
    history, answers, labels = _taught()
    assert np.mean(answers == labels[:, 2:].argmax(axis=1)) > 0.9
    assert np.mean(labels[:, :2].argmax(axis=1) == labels[:, 2:].argmax(axis=1)) < 0.8
    assert {"accuracy", "val_accuracy"} <= set(history)
    assert history["val_accuracy"].iloc[-1] == pytest.approx(np.mean(answers == labels[:, :2].argmax(axis=1)))


@pytest.mark.slow
def test_a_student_learns_with_xla_and_mixed_precision(precision):
    with precision("mixed_bfloat16"):
        _, answers, labels = _taught(jit_compile=True, steps_per_execution=4)
    assert np.mean(answers == labels[:, 2:].argmax(axis=1)) > 0.9


JAX = """
import jax, keras
import numpy as np
from helpers import distillation, models, training
assert keras.backend.backend() == "jax"
random = np.random.default_rng(0)
student, teacher = random.normal(size=(2, 5, 3)).astype("float32")
slope = jax.grad(lambda x: distillation.distillation_loss(x, teacher, temperature=4.0).sum())(student)
soft = [distillation.soft_targets(part, 4.0) for part in (student, teacher)]
np.testing.assert_allclose(slope, 4 * (soft[0] - soft[1]), atol=1e-5)
images = random.integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)
labels = distillation.targets(np.eye(3)[np.arange(64) % 3], random.normal(size=(64, 3)))
model = models.mlp((4, 4, 1), 3, units=8)
model.compile("adam", distillation.DistillationLoss(), metrics=[distillation.accuracy], steps_per_execution=8)
history = training.fit(model, (images, labels), epochs=2, batch_size=4, verbose=False)
assert history["loss"].iloc[1] < history["loss"].iloc[0] and "accuracy" in history
"""


@pytest.mark.slow
def test_distillation_on_jax(fresh_python):
    pytest.importorskip("jax")
    fresh_python(JAX, KERAS_BACKEND="jax")


# ── what is refused ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one_hot", "teacher", "message"),
    [
        (np.eye(3), np.zeros((3, 4)), r"labels of shape \(3, 3\) and logits of shape \(3, 4\)"),
        (np.arange(3), np.zeros((3, 3)), r"one-hot rows"),
        (np.eye(2), np.array([[0, 1], [0, np.inf]]), "not finite"),
    ],
)
def test_targets_that_do_not_fit_say_so(one_hot, teacher, message):
    with pytest.raises(ValueError, match=message):
        distillation.targets(one_hot, teacher)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": float("nan")}, {"weight": 1.5}])
def test_values_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="above 0 and the weight of the teacher between 0 and 1; received"):
        distillation.DistillationLoss(**options)
    if "temperature" in options:
        with pytest.raises(ValueError, match="above 0"):
            distillation.soft_targets(STUDENT, options["temperature"])


def test_a_teacher_of_other_classes_is_refused():
    for function in (distillation.DistillationLoss(), distillation.accuracy):
        with pytest.raises(ValueError, match="3 outputs needs targets of width 6.*received width 8"):
            function(np.zeros((2, 8), np.float32), STUDENT.astype("float32"))
