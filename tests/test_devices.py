"""Facts about what a machine has, and what several replicas change."""

import json

import keras
import numpy as np
import pytest

from helpers import devices, models, processor, training


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


HAS_GPU = bool(devices._find()[0])
needs_a_gpu = pytest.mark.skipif(not HAS_GPU, reason="this machine has no GPU that the backend sees")
needs_no_gpu = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU")


@needs_no_gpu
def test_a_cpu_says_in_one_line_what_it_has():
    machine = devices.setup()
    assert keras.config.dtype_policy().name == machine.precision
    assert (machine.accelerators, machine.replicas) == ((), 1)
    assert str(machine).startswith("CPU with ")
    assert "\n" not in str(machine)


def test_precision_can_be_chosen():
    assert devices.setup(precision="mixed_bfloat16").precision == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == "mixed_bfloat16"


@needs_no_gpu
def test_a_required_gpu_that_is_not_there_is_one_sentence():
    with pytest.raises(RuntimeError, match=r"A GPU is required \(REQUIRE_GPU\) and \w+ sees none: .* set REQUIRE_GPU"):
        devices.setup(require_gpu=True)


@needs_a_gpu
def test_a_gpu_is_named_and_trains_with_what_was_chosen():
    machine = devices.setup(require_gpu=True)
    assert str(machine).split(",")[0].endswith(machine.accelerators[0])
    model = models.mlp((6, 5, 1), 3, units=8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, **machine.compile_options)
    images, labels = np.zeros((64, 6, 5, 1), np.uint8), np.zeros(64, np.int64)
    history = training.fit(model, (images, labels), epochs=3, verbose=False)
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


@pytest.mark.parametrize(
    ("backend", "gpus", "replicas", "jit_compile", "steps"),
    [
        ("tensorflow", 0, 1, False, 8),
        ("tensorflow", 1, 1, True, 8),
        ("tensorflow", 2, 2, False, 1),
        ("jax", 0, 1, True, 8),
        ("jax", 4, 4, True, 8),
        ("torch", 0, 1, False, 1),
        ("torch", 4, 1, False, 1),
    ],
)
def test_what_pays_follows_from_backend_and_gpus(backend, gpus, replicas, jit_compile, steps):
    machine = devices._settings(backend, ["NVIDIA T4"] * gpus, "mixed_float16")
    assert machine.compile_options == {"jit_compile": jit_compile, "steps_per_execution": steps}
    assert machine.replicas == replicas


@pytest.mark.parametrize(
    ("capability", "policy"), [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")]
)
def test_precision_follows_compute_capability(capability, policy):
    assert devices._policy(capability) == policy


@pytest.mark.parametrize(
    ("vendor", "flags", "expected"),
    [
        ("AuthenticAMD", "fpu avx2", False),
        ("AuthenticAMD", "fpu avx512_bf16", True),
        ("GenuineIntel", "avx512_bf16 amx_bf16 amx_tile", True),
        ("GenuineIntel", "fpu avx512_bf16", False),  # slower than float32: a cloud hides what would make it quick
    ],
)
def test_bfloat16_is_chosen_where_the_processor_is_quicker_with_it(tmp_path, vendor, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nvendor_id\t: {vendor}\nflags\t\t: {flags}\n\n")
    assert devices._bfloat16_pays(tmp_path / "cpuinfo") is expected


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "1000000 100000"}, 8),  # more than there are
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({}, 8),
    ],
)
def test_the_quota_of_a_container_counts_as_cores(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(processor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert processor.cores(tmp_path) == cores


def test_a_system_without_cpuinfo_has_no_bfloat16(tmp_path):
    assert not devices._bfloat16_pays(tmp_path / "missing")


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="received 'int4'"):
        devices.setup(precision="int4")


_SPLIT = """
import json, sys
import keras, numpy as np
from helpers import devices, training
count = int(sys.argv[1])
if count > 1:
    assert devices.share_batches(count) == count
assert (devices.shares(), devices.replicas()) == (count, 1)
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
images, labels = random.integers(0, 256, (70, 8, 8, 1), dtype=np.uint8), random.integers(0, 3, 70)
model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 255), keras.layers.BatchNormalization(),
                          keras.layers.Flatten(), keras.layers.Dense(3)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"])
whole = images[:64], labels[:64]
history = training.fit(model, whole, whole, epochs=3, batch_size=64, verbose=False)
training.renew_statistics(model, images)
outcome = [history["loss"].tolist() + history["val_loss"].tolist(), training.logits(model, images[:65]).tolist()]
odd = images[:65], labels[:65]
training.fit(model, odd, odd, epochs=1, batch_size=13, verbose=False)
steps = training.steps(65, batch_size=13, epochs=1)
assert int(model.optimizer._iterations.value) == 3 + steps, steps
training.batch_losses(model, odd, batch_size=13, batches=2)
try:
    training.fit(model, odd, epochs=1, batch_size=count - 1)
except ValueError as error:
    outcome.append(str(error))
print(json.dumps(outcome))
"""


def _last_line(printed):
    return json.loads(printed.splitlines()[-1])


@pytest.mark.slow
def test_two_devices_of_jax_train_and_predict_like_one(fresh_python):
    pytest.importorskip("jax")
    outcomes = [_last_line(fresh_python(_SPLIT, count, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu",
                                        XLA_FLAGS=f"--xla_force_host_platform_device_count={count}"))
                for count in (1, 2)]  # fmt: skip
    (loss_one, logits_one, _), (loss_two, logits_two, refused) = outcomes
    np.testing.assert_allclose(loss_two, loss_one, rtol=1e-4)
    np.testing.assert_allclose(logits_two, logits_one, rtol=1e-3, atol=1e-4)
    assert "A batch of 1 leaves some of 2 devices without a picture" in refused


_SHARED = """
import json, sys
import keras, numpy as np, tensorflow as tf
from helpers import devices, models, training
count = int(sys.argv[1])
if count > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    assert devices.share_batches(count, names=[f"CPU:{i}" for i in range(count)]) == count
assert devices.shares() == devices.replicas() == count
assert training.steps(270, batch_size=128, epochs=1) == (3 if count == 1 else 2)
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
images, labels = random.integers(0, 256, (70, 8, 8, 1), dtype=np.uint8), random.integers(0, 3, 70)
model = models.better_cnn((8, 8, 1), 3, width=8, dropout=0.0)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"], jit_compile=False)
judge = tuple(np.tile(part, (15,) + (1,) * (part.ndim - 1)) for part in (images, labels))  # 1050: 500, 500, 50
# All pictures in one batch: the order in which several replicas read them is another one.
same = lambda batch, random: batch
history = training.fit(model, (images[:64], labels[:64]), judge, epochs=3, batch_size=64,
                       augment=same, verbose=False)
refused = ""
if count > 1:
    model.compile(keras.optimizers.SGD(0.05, clipnorm=1.0), loss)
    try:
        training.fit(model, (images, labels), epochs=1)
    except ValueError as error:
        refused = str(error)
losses = history["loss"].tolist() + history["val_loss"].tolist()
training.renew_statistics(model, images)
training._AT_A_TIME = 32
print(json.dumps([losses, training.logits(model, images).tolist(), refused]))
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_replicas_train_and_predict_like_one(fresh_python):
    outcomes = [_last_line(fresh_python(_SHARED, count)) for count in (1, 2)]
    (loss_one, logits_one, _), (loss_two, logits_two, refused) = outcomes
    np.testing.assert_allclose(loss_two, loss_one, rtol=1e-4)
    np.testing.assert_allclose(logits_two, logits_one, rtol=1e-3, atol=1e-4)
    assert "clips gradients (clipnorm)" in refused
