"""What this machine has, and what follows for XLA, precision, memory and replicas."""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import keras

from helpers import processor

_PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
_NAMES = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}
_CUDA = {"tensorflow": "its CUDA build with `pip install -e '.[gpu]'`", "torch": "a CUDA build of it from pytorch.org",
         "jax": "its CUDA build with `pip install 'jax[cuda12]'`"}  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """What `setup` found and set.

    Attributes:
        backend: `"tensorflow"`, `"jax"` or `"torch"`.
        accelerators: Names of the GPUs (or TPUs); empty on a CPU.
        cores: CPU cores that this process may use.
        precision: The Keras dtype policy in force.
        replicas: Devices that share each batch.
        jit_compile: For `model.compile`: whether XLA pays here.
        steps_per_execution: For `model.compile`: batches that run between two looks of Python.
    """

    backend: str
    accelerators: tuple[str, ...]
    cores: int
    precision: str
    replicas: int
    jit_compile: bool
    steps_per_execution: int

    @property
    def compile_options(self) -> dict:
        """What `model.compile(…, **machine.compile_options)` needs to be fast here."""
        return {"jit_compile": self.jit_compile, "steps_per_execution": self.steps_per_execution}

    def __str__(self) -> str:
        if self.accelerators:
            first, count = self.accelerators[0], len(self.accelerators)
            place = f"{count} x {first}" if count > 1 else first
        else:
            place = f"CPU with {self.cores} cores" if self.cores != 1 else "CPU with 1 core"
        shared = f", {self.replicas} replicas" if self.replicas > 1 else ""
        xla = "XLA" if self.jit_compile else "no XLA"
        library = f"{_NAMES[self.backend]} {version(self.backend)}, Keras {keras.__version__}"
        return f"{place}{shared}, {self.precision}, {xla}; {library}"


def setup(*, require_gpu: bool = False, precision: str = "auto") -> Machine:
    """Makes Keras use what this machine has; call it once, before the first model is built.

    With a GPU: memory grows as it is needed, mixed precision is on, and XLA, but not on PyTorch. With several, each
    batch is shared among them (`tf.distribute.MirroredStrategy`, without XLA, or `keras.distribution` on JAX)
    for every model built from then on, without a `with` block. Without one: the CPU, on TensorFlow without XLA, which
    is slower there, and bfloat16 only where the processor multiplies it quicker than float32.

    Args:
        require_gpu: Whether a machine without a GPU is an error.
        precision: A Keras dtype policy, or `"auto"` for the quickest that trains as well.

    Returns:
        What was found; `str()` of it is one line to print.

    Raises:
        ValueError: If `precision` is none of those.
        RuntimeError: If a GPU is required and the backend sees none.
    """
    if precision not in _PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(_PRECISIONS)}; received {precision!r}.")
    backend = keras.backend.backend()
    accelerators, quickest = _find()
    if require_gpu and not accelerators:
        raise RuntimeError(
            f"A GPU is required (REQUIRE_GPU) and {_NAMES[backend]} sees none: install {_CUDA[backend]} "
            "and check the driver with nvidia-smi, or set REQUIRE_GPU to False."
        )
    machine = _settings(backend, accelerators, quickest if precision == "auto" else precision)
    keras.config.set_dtype_policy(machine.precision)
    if machine.replicas > 1:
        share_batches(machine.replicas)
    return machine


def _find() -> tuple[list[str], str]:
    """Returns the names of the accelerators that the backend sees, and the quickest policy that trains as well."""
    backend = keras.backend.backend()
    find = {"tensorflow": _tensorflow_gpus, "jax": _jax_accelerators, "torch": _torch_gpus}[backend]
    accelerators, quickest = find()
    if accelerators:
        return accelerators, quickest
    return [], "mixed_bfloat16" if backend == "tensorflow" and _bfloat16_pays() else "float32"


def _settings(backend: str, accelerators: list[str], precision: str) -> Machine:
    """Returns what pays on a machine with these accelerators; changes nothing."""
    replicas = len(accelerators) if len(accelerators) > 1 and backend != "torch" else 1
    # MirroredStrategy in Keras's fit fails with XLA and with several steps an execution.
    mirrored = backend == "tensorflow" and replicas > 1
    return Machine(
        backend=backend,
        accelerators=tuple(accelerators),
        cores=processor.cores(),
        precision=precision,
        replicas=replicas,
        jit_compile=backend == "jax" or (backend == "tensorflow" and bool(accelerators) and not mirrored),
        steps_per_execution=1 if mirrored or backend == "torch" else 8,
    )


def share_batches(count: int, *, names: list[str] | None = None) -> int:
    """Shares each batch of every model built from now on among several devices.

    What follows for models on TensorFlow, where each replica sees its part of a batch only: batch
    normalization must be `synchronized`, and gradients must not be clipped in the optimizer, which
    clips each replica's share before they are added. `models` and `training` heed both.

    Args:
        count: How many devices.
        names: Names of TensorFlow's logical devices; its first GPUs if not given.

    Returns:
        The number of replicas: 1 where the backend cannot share (PyTorch).
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        names = names or [f"GPU:{i}" for i in range(count)]
        strategy = tf.distribute.MirroredStrategy(names)
        tf.distribute.experimental_set_strategy(strategy)
        return strategy.num_replicas_in_sync
    if backend == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return count
    return 1


def shares() -> int:
    """Returns among how many devices each batch is split, and so what its size has to divide by."""
    if keras.backend.backend() != "jax":
        return replicas()
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


def replicas() -> int:
    """Returns how many TensorFlow replicas compute their share of a batch apart; 1 elsewhere.

    JAX splits batches, too (`shares`), but computes with them as one.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def _tensorflow_gpus() -> tuple[list[str], str]:
    import tensorflow as tf

    # Its warning on retracing is about one function called with ever new shapes; here each model is a new one.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # the GPU is in use already: a notebook's cell that runs a second time
            break
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [detail.get("device_name", "GPU") for detail in details]
    return names, _policy(min((detail.get("compute_capability", (0, 0)) for detail in details), default=(0, 0)))


def _jax_accelerators() -> tuple[list[str], str]:
    import jax

    return [device.device_kind for device in jax.devices() if device.platform != "cpu"], "mixed_bfloat16"


def _torch_gpus() -> tuple[list[str], str]:
    import torch

    gpus = range(torch.cuda.device_count())
    capability = min((torch.cuda.get_device_capability(gpu) for gpu in gpus), default=(0, 0))
    return [torch.cuda.get_device_name(gpu) for gpu in gpus], _policy(capability)


def _policy(capability: tuple[int, int]) -> str:
    """Returns the quickest policy for a CUDA compute capability: bfloat16 from Ampere, float16 from Volta."""
    if tuple(capability) >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if tuple(capability) >= (7, 0) else "float32"


def _bfloat16_pays(cpuinfo: str | Path = "/proc/cpuinfo") -> bool:
    """Returns whether the processor multiplies bfloat16 quicker than float32.

    AMX does, and so does AVX-512 BF16 on AMD. Intel's cores reach no more products a second with AVX-512 BF16 than in
    float32, and a cloud may hide their AMX: there a 5th Xeon multiplies matrices at 0.57 of float32's speed and trains
    notebook 03's CNNs at three quarters of it (`benchmarks.arithmetic.peak_flops`).
    """
    fields = processor.facts(cpuinfo)  # of the last core; all are alike
    flags = fields.get("flags", "").split()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and fields.get("vendor_id") != "GenuineIntel")
