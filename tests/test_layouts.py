"""Folders for other people's servers. Whether the container's answers are right is in test_serving.py."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from packaging.requirements import Requirement

from helpers import artifacts, inference, layouts, registry

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture
def file(write_onnx, tmp_path):
    return write_onnx(tmp_path / "model.onnx")


def test_triton_gets_the_file_with_its_names_types_and_sides(file, tmp_path):
    folder = layouts.triton(file, tmp_path / "triton", name="pets", classes=CLASSES, version=3, largest=16)
    assert (folder / "pets" / "3" / "model.onnx").read_bytes() == file.read_bytes()
    assert (folder / "pets" / "labels.txt").read_text().split() == CLASSES
    text = (folder / "pets" / "config.pbtxt").read_text()
    assert 'name: "pets"' in text
    assert "max_batch_size: 16" in text
    assert 'input [ { name: "pictures", data_type: TYPE_UINT8, dims: [4, 4, 1] } ]' in text
    assert 'output [ { name: "logits", data_type: TYPE_FP32, dims: [3], label_filename: "labels.txt" } ]' in text
    assert text.count("{") == text.count("}")


def test_triton_is_not_told_what_is_not_so(file, tmp_path):
    with pytest.raises(ValueError, match=r"answers for \[3\] classes; received 2 names"):
        layouts.triton(file, tmp_path / "triton", name="pets", classes=CLASSES[:2])
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="is no ONNX classifier"):
        layouts.triton(tmp_path / "bad.onnx", tmp_path / "triton", name="pets", classes=CLASSES)
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize(("name", "version"), [("../x", 1), ("", 1), ("a b", 1), ("pets", 0)])
def test_names_that_cannot_be_addresses_are_refused(file, tmp_path, name, version):
    with pytest.raises(ValueError, match="A model has a name of letters"):
        layouts.triton(file, tmp_path / "triton", name=name, classes=CLASSES, version=version)


def test_tensorflow_serving_gets_the_saved_model_under_its_number(tmp_path):
    import keras

    from helpers import export

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    saved = export.write(model, tmp_path / "saved")
    folder = layouts.tensorflow_serving(saved, tmp_path / "tfs", name="pets", version=2)
    config = (folder / "models.config").read_text()
    base = re.search(r'base_path: "([^"]+)"', config)[1]
    assert f'name: "pets", base_path: "{folder / "pets"}"' in config
    np.testing.assert_allclose(
        inference.load(f"{base}/2").predict(IMAGES), inference.load(saved).predict(IMAGES), atol=1e-6
    )
    with pytest.raises(ValueError, match="is no SavedModel"):
        layouts.tensorflow_serving(tmp_path, tmp_path / "tfs", name="pets")


@pytest.fixture
def context(file, tmp_path):
    root = tmp_path / "registry"
    for number in (1, 2):
        facts = {"classes": CLASSES, "input": [4, 4, 1], "number": number}
        registry.register("pets", file, facts=facts, made_by="test", parameters={}, root=root,
                          examples=(IMAGES, inference.load(file).predict(IMAGES)))  # fmt: skip
    registry.promote("pets", 2, root=root)
    return layouts.container(tmp_path / "image", name="pets", root=root)


def test_a_container_holds_the_live_version_and_no_other(context):
    assert registry.versions("pets", root=context / "registry") == [2]
    assert registry.promoted("pets", root=context / "registry") == 2
    registry.verify(context / "registry" / "pets" / "2")


def test_all_that_a_containerfile_copies_is_there_and_its_command_is_understood(context):
    text = (context / "Containerfile").read_text()
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (context / source).exists()
    command = json.loads(text.partition("ENTRYPOINT ")[2])
    done = subprocess.run([sys.executable, *command[1:], "--help"], cwd=context, capture_output=True, text=True)
    assert done.returncode == 0
    assert "USER 10001" in text


def test_a_containers_packages_are_those_of_the_lock_with_checksums_and_without_tensorflow(context):
    text = (context / "requirements.txt").read_text()
    lock = (artifacts.root() / "requirements.lock").read_text()
    pins = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==(\S+)", text, re.MULTILINE)
    names = {name for name, _ in pins}
    assert {"kserve", "uvicorn", "onnxruntime", "ai-edge-litert", "numpy", "pillow"} <= names
    assert not names & {"tensorflow", "keras", "jupyterlab", "torch", "jax"}
    assert all(f"{name}==" in lock or f"{name}[" in lock for name in names)
    assert text.count("--hash=sha256:") >= len(pins)
    for line in text.splitlines():
        if line and not line.startswith(" "):
            Requirement(line.split(" \\")[0])


def test_without_a_live_version_there_is_nothing_to_put_into_a_container(file, tmp_path):
    with pytest.raises(ValueError, match="No version of pets is live: `python -m helpers registry promote"):
        layouts.container(tmp_path / "image", name="pets", root=tmp_path / "registry")
