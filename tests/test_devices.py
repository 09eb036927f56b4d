"""Facts about what a machine has, and what several replicas change."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from helpers import artifacts, devices


@pytest.fixture(autouse=True)
def _float32_afterwards():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def find(monkeypatch):
    """Lets the backend see the given accelerators."""

    def pretend(names, policy="mixed_bfloat16"):
        monkeypatch.setattr(devices, f"_{keras.backend.backend()}_gpus", lambda: (names, policy))
        monkeypatch.setattr(devices, "share_batches", lambda count: count)

    return pretend


def test_a_cpu_gets_no_xla_and_says_so_in_one_line(find, monkeypatch):
    find([])
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda: False)
    machine = devices.setup()
    assert (machine.precision, machine.jit_compile, machine.replicas) == ("float32", False, 1)
    assert keras.config.dtype_policy().name == "float32"
    assert str(machine).startswith("CPU with ")
    assert "no XLA" in str(machine)
    assert "\n" not in str(machine)


def test_a_cpu_that_multiplies_bfloat16_uses_it(find, monkeypatch):
    find([])
    monkeypatch.setattr(devices, "_multiplies_bfloat16", lambda: True)
    assert devices.setup().precision == "mixed_bfloat16"
    assert devices.setup(precision="float32").precision == "float32"


def test_one_gpu_gets_xla_and_mixed_precision(find):
    find(["NVIDIA H200"])
    machine = devices.setup(require_gpu=True)
    assert machine.compile_options == {"jit_compile": True, "steps_per_execution": 8}
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert str(machine).startswith("NVIDIA H200, mixed_bfloat16, XLA; TensorFlow 2")


def test_several_gpus_share_batches_without_xla(find):
    find(["T4", "T4"], "mixed_float16")
    machine = devices.setup()
    assert machine.compile_options == {"jit_compile": False, "steps_per_execution": 1}
    assert str(machine).startswith("2 x T4, 2 replicas, mixed_float16, no XLA")


@pytest.mark.parametrize(
    ("capability", "policy"), [((9, 0), "mixed_bfloat16"), ((7, 5), "mixed_float16"), ((6, 1), "float32")]
)
def test_precision_follows_compute_capability(capability, policy):
    assert devices._policy(capability) == policy


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx2", False), ("fpu avx512_bf16", True), ("amx_bf16 amx_tile", True)]
)
def test_bfloat16_is_read_from_the_processors_flags(tmp_path, flags, expected):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert devices._multiplies_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_without_cpuinfo_has_no_bfloat16(tmp_path):
    assert not devices._multiplies_bfloat16(tmp_path / "missing")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="asks TensorFlow")
def test_tensorflows_gpus_are_asked_for_name_and_growing_memory(monkeypatch):
    import tensorflow as tf

    grown = []
    details = {"device_name": "Tesla T4", "compute_capability": (7, 5)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu 0", "gpu 1"])
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on)))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices._tensorflow_gpus() == (["Tesla T4", "Tesla T4"], "mixed_float16")
    assert grown == [("gpu 0", True), ("gpu 1", True)]


def test_gpus_of_the_other_backends_are_found(monkeypatch):
    cuda = SimpleNamespace(
        device_count=lambda: 1, get_device_capability=lambda gpu: (9, 0), get_device_name=lambda gpu: "H200"
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert devices._torch_gpus() == (["H200"], "mixed_bfloat16")
    found = [SimpleNamespace(platform=p, device_kind=k) for p, k in (("cpu", "cpu"), ("gpu", "A100"))]
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(devices=lambda: found))
    assert devices._jax_accelerators() == (["A100"], "mixed_bfloat16")


def test_batches_are_shared_as_each_backend_can(monkeypatch):
    shared = []
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.setattr(keras.distribution, "DataParallel", lambda: "all devices")
    monkeypatch.setattr(keras.distribution, "set_distribution", shared.append)
    assert devices.share_batches(4) == 4
    assert shared == ["all devices"]
    assert devices.replicas() == 1
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert devices.share_batches(4) == 1


def test_a_required_gpu_that_is_not_there_is_one_sentence(find):
    find([])
    with pytest.raises(RuntimeError, match=r"A GPU is required \(REQUIRE_GPU\) and \w+ sees none: .* set REQUIRE_GPU"):
        devices.setup(require_gpu=True)


def test_unknown_precision_is_named():
    with pytest.raises(ValueError, match="received 'int4'"):
        devices.setup(precision="int4")


_SHARED = """
import json, sys
import keras, numpy as np, tensorflow as tf
from helpers import devices, models, training
count = int(sys.argv[1])
if count > 1:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    assert devices.share_batches(count, names=[f"CPU:{i}" for i in range(count)]) == count
assert devices.replicas() == count
keras.utils.set_random_seed(0)
random = np.random.default_rng(0)
images, labels = random.integers(0, 256, (70, 8, 8, 1), dtype=np.uint8), random.integers(0, 3, 70)
model = models.better_cnn((8, 8, 1), 3, width=8, dropout=0.0)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05), loss, metrics=["accuracy"], jit_compile=False)
# All pictures in one batch: the order in which several replicas read them is another one.
same = lambda batch, random: batch
history = training.fit(model, (images[:64], labels[:64]), (images, labels), epochs=3, batch_size=64,
                       augment=same, verbose=False)
refused = ""
if count > 1:
    model.compile(keras.optimizers.SGD(0.05, clipnorm=1.0), loss)
    try:
        training.fit(model, (images, labels), epochs=1)
    except ValueError as error:
        refused = str(error)
print(json.dumps([history["loss"].tolist(), training.logits(model, images, batch_size=32).tolist(), refused]))
"""


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="MirroredStrategy is TensorFlow's")
def test_two_replicas_train_and_predict_like_one():
    outcomes = []
    for count in (1, 2):
        command = [sys.executable, "-c", _SHARED, str(count)]
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(artifacts.root())}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        outcomes.append(json.loads(done.stdout.splitlines()[-1]))
    (loss_one, logits_one, _), (loss_two, logits_two, refused) = outcomes
    np.testing.assert_allclose(loss_two, loss_one, rtol=1e-4)
    np.testing.assert_allclose(logits_two, logits_one, rtol=1e-3, atol=1e-4)
    assert "clips gradients (clipnorm)" in refused
