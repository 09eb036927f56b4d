"""Triton Inference Server on a CPU, from the wheel of nvidia-pytriton in an environment of its own.

That wheel has the server and its Python backend, and not the ONNX one: so the repository is the one that
`layouts.triton` writes, with the file run by ONNX Runtime in the Python backend.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import side_by_side
from helpers import layouts

_ASK = (
    "import json, pathlib, sys, pytriton, onnxruntime; site = pathlib.Path(pytriton.__file__).parent.parent; "
    "print(json.dumps([str(site), '%d.%d' % sys.version_info[:2]]))"
)
_MODEL = """\
import sys

sys.path.insert(0, {site!r})
import pathlib

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = pathlib.Path(args["model_repository"], args["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(file), options)

    def execute(self, requests):
        given = [triton.get_input_tensor_by_name(one, {source!r}).as_numpy() for one in requests]
        (found,) = self.session.run(None, {{{source!r}: np.concatenate(given)}})
        ends = np.cumsum([len(one) for one in given])[:-1]
        return [triton.InferenceResponse([triton.Tensor({target!r}, part)]) for part in np.split(found, ends)]
"""


@contextlib.contextmanager
def serve(python: str, onnx_file: Path, name: str, classes: list[str], log: Path) -> Iterator[str]:
    """Runs Triton with one model until the block ends; yields its address.

    Args:
        python: Of the environment that has nvidia-pytriton and onnxruntime.
        onnx_file: The model.
        name: Its name in addresses.
        classes: Class names.
        log: File for what the server says.
    """
    site, version = json.loads(subprocess.run([python, "-c", _ASK], capture_output=True, check=True, text=True).stdout)
    home = Path(site, "pytriton", "tritonserver")
    with tempfile.TemporaryDirectory() as folder:
        backends, repository = Path(folder, "backends"), Path(folder, "models")
        shutil.copytree(home / "backends" / "python", backends / "python")
        stub = "triton_python_backend_stub"
        shutil.copy(home / "python_backend_stubs" / version / stub, backends / "python" / stub)
        _write_repository(repository, onnx_file, name, classes, site)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        command = [
            str(home / "bin" / "tritonserver"), f"--model-repository={repository}", f"--backend-directory={backends}",
            "--http-address=127.0.0.1", f"--http-port={port}", "--allow-grpc=false", "--allow-metrics=false",
        ]  # fmt: skip
        libraries = os.pathsep.join([str(home / "external_libs"), str(Path(site, "nvidia_pytriton.libs"))])
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        with open(log, "wb") as file, subprocess.Popen(command, stdout=file, stderr=file, env=environment) as process:
            try:
                side_by_side.wait_for(f"http://127.0.0.1:{port}/v2/models/{name}/ready", process, log)
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()


def _write_repository(folder: Path, onnx_file: Path, name: str, classes: list[str], site: str) -> None:
    layouts.triton(onnx_file, folder, name=name, classes=classes)
    config = folder / name / "config.pbtxt"
    config.write_text(config.read_text().replace('backend: "onnxruntime"', 'backend: "python"'))
    filled = _MODEL.format(site=site, source="pictures", target="logits")
    (folder / name / "1" / "model.py").write_text(filled)
