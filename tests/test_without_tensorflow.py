"""A machine that has JAX and no TensorFlow, as many with a GPU are: the package imports there, and notebooks train."""

import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers import artifacts

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="needs jax"),
    pytest.mark.skipif(os.name != "posix", reason="needs symbolic links"),
]
_LEFT_OUT = ("tensorflow", "tensorboard", "tf2onnx")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with all that is installed here but TensorFlow."""
    home = tmp_path_factory.mktemp("without") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    packages = home / "lib" / Path(sysconfig.get_path("purelib")).parent.name / "site-packages"
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(_LEFT_OUT):
            (packages / path.name).symlink_to(path)
    (home / "share" / "jupyter").mkdir(parents=True)
    (home / "share" / "jupyter" / "nbconvert").symlink_to(Path(sys.prefix) / "share" / "jupyter" / "nbconvert")
    return home / "bin" / "python"


def _run(*command, **more):
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": str(artifacts.root()), **more}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)


def test_every_room_but_those_of_tensorflow_imports(python):
    rooms = sorted(path.stem for path in (artifacts.root() / "helpers").glob("[a-z]*.py"))
    code = f"import importlib.util as u, importlib as i; assert u.find_spec('tensorflow') is None\n" \
           f"for room in {rooms}: i.import_module('helpers.' + room)\nprint('all')"  # fmt: skip
    ended = _run(python, "-c", code)
    assert ended.stdout.strip() == "all", ended.stderr[-2000:]


@pytest.fixture
def pictures(tmp_path):
    """Stripes that stand, and stripes that lie."""
    random, folder = np.random.default_rng(0), tmp_path / "pictures"
    for label in ("standing", "lying"):
        (folder / label).mkdir(parents=True)
        for number in range(60):
            picture = random.integers(0, 120, (12, 12), dtype=np.uint8)
            (picture if label == "lying" else picture.T)[:: random.integers(2, 5)] += 100
            Image.fromarray(picture).save(folder / label / f"{number}.png")
    return folder


def test_notebook_03_trains_there(python, pictures, tmp_path):
    assert _run(python, "-m", "helpers", "kernel", "install", "--prefix", python.parents[1]).returncode == 0
    ended = _run(python, "-m", "helpers", "run", "03", "--source", pictures, "--profile", "quick",
                 "--output", tmp_path / "outputs")  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    card = json.loads((tmp_path / "outputs" / "03_cnn_training" / "model_card.json").read_text())
    assert card["versions"]["backend"] == "jax"
    assert "tensorflow" not in card["versions"]
    assert card["metrics"]["folds_accuracy"] > 0.9
