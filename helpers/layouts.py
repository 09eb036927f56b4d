"""The folders that other people's servers want: TensorFlow Serving's, Triton's, and a container's context."""

import json
import re
import shutil
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from helpers import artifacts, registry

# What a serving process imports, but for what these need themselves.
_SERVING = (
    "kserve", "uvicorn[standard]", "orjson", "pysimdjson", "prometheus-client", "grpcio", "numpy", "pillow", "psutil",
    "ai-edge-litert", "onnxruntime",
)  # fmt: skip
_SERVED = (".tflite", ".tflite.xz", ".onnx")
_CONTAINERFILE = """\
# Serves the models in registry/. Build and run, with Podman or Docker, the key of your clients in the file `key`:
#   podman build -t {name} .
#   podman run --rm -p 8080:8080 -p 8081:8081 -v ./key:/run/secrets/api_key:ro {name}
FROM python:{python}-slim
WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir --require-hashes -r requirements.txt
COPY helpers helpers
COPY registry registry
RUN chmod -R a+rX .
USER 10001
EXPOSE 8080 8081
HEALTHCHECK --start-period=10s CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({{}})).open('http://127.0.0.1:8080/v2/health/ready')"]
ENTRYPOINT {command}
"""
_TRITON = """\
name: "{name}"
backend: "onnxruntime"
max_batch_size: 64
input [ {{ name: "{source}", data_type: TYPE_{source_type}, dims: {source_dims} }} ]
output [ {{ name: "{target}", data_type: TYPE_{target_type}, dims: {target_dims}, label_filename: "labels.txt" }} ]
dynamic_batching {{ }}
instance_group [ {{ count: 1, kind: KIND_CPU }} ]
version_policy: {{ latest: {{ num_versions: 2 }} }}
"""
_TRITON_TYPES = {"FLOAT16": "FP16", "BFLOAT16": "BF16", "FLOAT": "FP32", "DOUBLE": "FP64"}  # others as in ONNX


def tensorflow_serving(saved_model: str | Path, folder: str | Path, *, name: str) -> Path:
    """Writes a model base path for TensorFlow Serving: `<name>/1/saved_model.pb` and a `models.config`.

    Start it there with `tensorflow_model_server --model_config_file=models.config --rest_api_port=8501`.

    Args:
        saved_model: Folder of a SavedModel.
        folder: Where to write; replaced as a whole.
        name: The model's name in addresses.

    Returns:
        The folder.

    Raises:
        ValueError: If that is no SavedModel, or the name cannot be one.
    """
    saved_model = Path(saved_model)
    if not (saved_model / "saved_model.pb").is_file():
        raise ValueError(f"{saved_model} is no SavedModel: export the model to a name without a suffix.")
    _check(name)
    with artifacts.writing_folder(folder) as partial:
        shutil.copytree(saved_model, partial / name / "1")
        entry = (
            f'config {{ name: "{name}", base_path: "{Path(folder).absolute() / name}", model_platform: "tensorflow" }}'
        )
        (partial / "models.config").write_text(f"model_config_list {{ {entry} }}\n", encoding="utf-8")
    return Path(folder)


def triton(onnx_file: str | Path, folder: str | Path, *, name: str, classes: list[str]) -> Path:
    """Writes a model repository for Triton: `<name>/config.pbtxt`, `<name>/labels.txt`, `<name>/1/model.onnx`.

    Start it with `tritonserver --model-repository=<folder>`.

    Args:
        onnx_file: Takes pictures (n, height, width, channels) and gives logits (n, classes).
        folder: Where to write; replaced as a whole.
        name: The model's name in addresses.
        classes: Class names, in the order of the logits.

    Raises:
        ValueError: If the file is no such model or has its weights in other files, or a name cannot be one.
    """
    import onnx

    _check(name)
    for label in classes:
        if "\n" in label:
            raise ValueError(f"labels.txt holds a class name a line; received {label!r}: take the line break out.")
    try:
        graph = onnx.load(onnx_file, load_external_data=False).graph
        (source,), (target,) = graph.input, graph.output
    except Exception as error:  # protobuf's errors, and a graph of another form
        raise ValueError(f"{onnx_file} is no ONNX classifier ({type(error).__name__}): export it again.") from error
    tensors = [*graph.initializer, *(attribute.t for node in graph.node for attribute in node.attribute)]
    if any(map(onnx.external_data_helper.uses_external_data, tensors)):
        raise ValueError(
            f"{onnx_file} has its weights in other files, and one file is copied: "
            "put them into it with onnx.save(onnx.load(path), path)."
        )
    filled = {"name": name}
    for role, tensor in (("source", source), ("target", target)):
        kind = onnx.TensorProto.DataType.Name(tensor.type.tensor_type.elem_type)
        sides = tensor.type.tensor_type.shape.dim
        dims = [side.dim_value if side.HasField("dim_value") else -1 for side in sides][1:]
        filled |= {role: tensor.name, f"{role}_type": _TRITON_TYPES.get(kind, kind), f"{role}_dims": dims}
    if filled["target_dims"] != [len(classes)]:
        raise ValueError(f"{onnx_file} answers for {filled['target_dims']} classes; received {len(classes)} names.")
    with artifacts.writing_folder(folder) as partial:
        (partial / name / "1").mkdir(parents=True)
        shutil.copyfile(onnx_file, partial / name / "1" / "model.onnx")
        (partial / name / "config.pbtxt").write_text(_TRITON.format(**filled), encoding="utf-8")
        (partial / name / "labels.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return Path(folder)


def container(folder: str | Path, *, name: str, root: str | Path | None = None) -> Path:
    """Writes all that a container image of the server is built from: `Containerfile`, packages, code, live version.

    The packages are those of `requirements.lock` that serving needs, with their checksums. The server listens on all
    addresses of the container and reads its key from `/run/secrets/api_key`.

    Args:
        folder: Where to write; replaced as a whole.
        name: Of the registered model.
        root: Folder of the registry; `outputs/registry` if not given.

    Raises:
        ValueError: If no version of the model is live, or the live one needs TensorFlow, which the image has not.
    """
    number = registry.promoted(name, root=root)
    if number is None:
        raise ValueError(f"No version of {name} is live: `python -m helpers registry promote {name} VERSION`.")
    version = registry.folder(name, number, root=root)
    model = registry.model_file(version)
    if not model.name.endswith(_SERVED):
        raise ValueError(
            f"The image has no TensorFlow, and the live version of {name} is {model.name}: export the model to LiteRT "
            "or ONNX, and promote that version."
        )
    command = ["python", "-m", "helpers", "serve", "--registry", "registry", "--host", "0.0.0.0",
               "--api-key-file", "/run/secrets/api_key"]  # fmt: skip
    with artifacts.writing_folder(folder) as partial:
        shutil.copytree(version, partial / "registry" / name / str(number))
        artifacts.write_json(partial / "registry" / name / "promoted", {"version": number, "before": []})
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(__file__).parent, partial / "helpers", ignore=ignored)
        (partial / "requirements.txt").write_text(serving_requirements(), encoding="utf-8")
        text = _CONTAINERFILE.format(name=name.lower(), python="3.11", command=json.dumps(command))
        (partial / "Containerfile").write_text(text, encoding="utf-8")
    return Path(folder)


def serving_requirements() -> str:
    """Returns the part of `requirements.lock` that a serving process needs, as it stands there, with checksums."""
    lock = (artifacts.root() / "requirements.lock").read_text(encoding="utf-8")
    blocks = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if found := re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?==", block):
            lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
            blocks.setdefault(canonicalize_name(found[1]), []).append("\n".join(lines).rstrip())
    needed = _closure([Requirement(text) for text in _SERVING])
    missing = sorted(needed - blocks.keys())
    if missing:
        raise ValueError(f"requirements.lock does not name {', '.join(missing)}: make it anew with `make lock`.")
    return "\n".join(block for name in sorted(needed) for block in blocks[name]) + "\n"


def _closure(wanted: list[Requirement]) -> set[str]:
    """Returns the names of packages and all that they need, as the installed ones say it."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while wanted:
        one = wanted.pop()
        for extra in ("", *one.extras):
            key = canonicalize_name(one.name), extra
            if key in seen:
                continue
            seen.add(key)
            found.add(key[0])
            for text in metadata.requires(one.name) or []:
                needed = Requirement(text)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    wanted.append(needed)
    return found


def _check(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(f"A model has a name of letters, digits, - and _; received {name!r}.")
