"""Folders for other people's servers. Whether the container's answers are right is in test_serving.py."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from helpers import artifacts, inference, layouts, registry

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), dtype=np.uint8)
CLASSES = ["ant", "bee", "cat"]


@pytest.fixture(scope="module")
def file(write_onnx, tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("file") / "model.onnx")


@pytest.fixture
def saved(tmp_path):
    """A folder in the form of a SavedModel, made without TensorFlow."""
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        path = tmp_path / "saved" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "saved"


def test_triton_gets_the_file_with_its_names_types_and_sides(file, tmp_path):
    folder = layouts.triton(file, tmp_path / "triton", name="pets", classes=CLASSES)
    assert (folder / "pets" / "1" / "model.onnx").read_bytes() == file.read_bytes()
    assert (folder / "pets" / "labels.txt").read_text().split() == CLASSES
    text = (folder / "pets" / "config.pbtxt").read_text()
    assert 'name: "pets"' in text
    assert "max_batch_size: 64" in text
    assert 'input [ { name: "pictures", data_type: TYPE_UINT8, dims: [4, 4, 1] } ]' in text
    assert 'output [ { name: "logits", data_type: TYPE_FP32, dims: [3], label_filename: "labels.txt" } ]' in text
    assert text.count("{") == text.count("}")


def test_triton_is_not_told_what_is_not_so(file, tmp_path):
    with pytest.raises(ValueError, match=r"answers for \[3\] classes; received 2 names"):
        layouts.triton(file, tmp_path / "triton", name="pets", classes=CLASSES[:2])
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for name in ("bad.onnx", "none.onnx"):
        with pytest.raises(ValueError, match="is no ONNX classifier .*: export it again"):
            layouts.triton(tmp_path / name, tmp_path / "triton", name="pets", classes=CLASSES)
    assert not (tmp_path / "triton").exists()


def changed(file, target, change):
    """Writes an ONNX file that differs in its declarations; nobody runs it."""
    import onnx

    model = onnx.load(file)
    change(model.graph)
    target.write_bytes(model.SerializeToString())
    return target


def test_a_file_of_two_inputs_or_outputs_is_no_classifier(file, tmp_path):
    for change in (lambda graph: graph.input.add(name="more"), lambda graph: graph.output.add(name="more")):
        with pytest.raises(ValueError, match="is no ONNX classifier"):
            layouts.triton(changed(file, tmp_path / "two.onnx", change), tmp_path / "t", name="pets", classes=CLASSES)


def test_weights_in_other_files_are_refused_until_they_are_in_one(file, tmp_path):
    import onnx

    path = tmp_path / "model.onnx"
    onnx.save(onnx.load(file), path, save_as_external_data=True, location="weights", size_threshold=0)
    with pytest.raises(ValueError, match="has its weights in other files, and one file is copied: put them into it"):
        layouts.triton(path, tmp_path / "triton", name="pets", classes=CLASSES)
    assert not (tmp_path / "triton").exists()
    onnx.save(onnx.load(path), path)  # as the sentence says
    folder = layouts.triton(path, tmp_path / "triton", name="pets", classes=CLASSES)
    answers = [inference.load(one, trusted=True).predict(IMAGES) for one in (file, folder / "pets/1/model.onnx")]
    np.testing.assert_array_equal(*answers)


def test_a_side_that_is_not_fixed_is_minus_one(file, tmp_path):
    def change(graph):
        sides = graph.input[0].type.tensor_type.shape.dim
        sides[1].dim_param = "height"
        sides[2].ClearField("dim_value")

    folder = layouts.triton(changed(file, tmp_path / "m.onnx", change), tmp_path / "t", name="pets", classes=CLASSES)
    assert "dims: [-1, -1, 1] }" in (folder / "pets" / "config.pbtxt").read_text()


def test_a_class_name_that_triton_would_misread_is_refused(file, tmp_path):
    with pytest.raises(ValueError, match=r"a class name a line; received 'bee\\nwasp': take"):
        layouts.triton(file, tmp_path / "triton", name="pets", classes=["ant", "bee\nwasp", "cat"])
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize(("kind", "called"), [("FLOAT", "FP32"), ("FLOAT16", "FP16"), ("DOUBLE", "FP64"),
                                              ("BFLOAT16", "BF16"), ("INT8", "INT8")])  # fmt: skip
def test_types_are_called_as_triton_calls_them(file, tmp_path, kind, called):
    import onnx

    def change(graph):
        graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.DataType.Value(kind)

    other = changed(file, tmp_path / "other.onnx", change)
    folder = layouts.triton(other, tmp_path / "triton", name="pets", classes=CLASSES)
    assert f'name: "logits", data_type: TYPE_{called},' in (folder / "pets" / "config.pbtxt").read_text()


@pytest.mark.parametrize("name", ["../x", "", "a b", "a.b", "ä", "x" * 101, "pets\n"])
def test_names_that_cannot_be_addresses_are_refused(file, saved, tmp_path, name):
    with pytest.raises(ValueError, match="A model has a name of letters"):
        layouts.triton(file, tmp_path / "out", name=name, classes=CLASSES)
    with pytest.raises(ValueError, match="A model has a name of letters"):
        layouts.tensorflow_serving(saved, tmp_path / "out", name=name)
    assert not (tmp_path / "out").exists()


def test_what_was_there_is_replaced_as_a_whole(file, saved, tmp_path):
    write = {
        "triton": lambda name: layouts.triton(file, tmp_path / "triton", name=name, classes=CLASSES),
        "tfs": lambda name: layouts.tensorflow_serving(saved, tmp_path / "tfs", name=name),
    }
    for kind, function in write.items():
        function("old")
        function("new")
        assert {path.name for path in (tmp_path / kind).iterdir()} - {"models.config"} == {"new"}


def test_a_folder_that_is_no_saved_model_is_refused_and_what_was_there_stays(saved, tmp_path):
    folder = layouts.tensorflow_serving(saved, tmp_path / "tfs", name="pets")
    for path in (tmp_path, saved / "variables", tmp_path / "none"):
        with pytest.raises(ValueError, match="is no SavedModel: export the model to a name without a suffix"):
            layouts.tensorflow_serving(path, folder, name="pets")
    assert (folder / "pets" / "1" / "saved_model.pb").is_file()


def test_all_files_of_a_saved_model_are_copied_and_found_from_anywhere(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    layouts.tensorflow_serving("saved", "tfs", name="pets")
    for file in saved.rglob("*.*"):
        assert (tmp_path / "tfs" / "pets" / "1" / file.relative_to(saved)).read_text() == file.read_text()
    text = (tmp_path / "tfs" / "models.config").read_text()
    assert f'base_path: "{tmp_path}/tfs/pets", model_platform: "tensorflow"' in text
    assert text.count("{") == text.count("}") == 2


def test_tensorflow_serving_gets_the_saved_model_under_its_number(tmp_path):
    import keras

    from helpers import export

    model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    saved = export.write(model, tmp_path / "saved")
    folder = layouts.tensorflow_serving(saved, tmp_path / "tfs", name="pets")
    config = (folder / "models.config").read_text()
    base = re.search(r'base_path: "([^"]+)"', config)[1]
    assert f'name: "pets", base_path: "{folder / "pets"}"' in config
    np.testing.assert_allclose(
        inference.load(f"{base}/1").predict(IMAGES), inference.load(saved).predict(IMAGES), atol=1e-6
    )


@pytest.fixture(scope="module")
def context(fill_registry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("container")
    root = fill_registry(folder / "registry", "pets", versions=2, live=2)
    return layouts.container(folder / "image", name="pets", root=root)


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


def test_a_lock_that_lacks_a_package_is_said(project):
    lock = (Path(layouts.__file__).parents[1] / "requirements.lock").read_text()
    (project / "requirements.lock").write_text(lock)
    assert "\nnumpy==" in layouts.serving_requirements()
    less = re.sub(r"(?m)^(numpy|pillow)==", r"no-\1==", lock)
    (project / "requirements.lock").write_text(less)
    with pytest.raises(ValueError, match="requirements.lock does not name numpy, pillow: make it anew"):
        layouts.serving_requirements()


def test_packages_that_an_extra_asks_for_are_among_them(context):
    text = (context / "requirements.txt").read_text()
    for name in ("uvloop", "httptools"):  # of uvicorn[standard]
        assert f"\n{name}==" in text
    assert "#" not in text


def test_a_damaged_version_is_not_put_into_a_container(fill_registry, tmp_path):
    root = fill_registry(tmp_path / "registry", "pets")
    assert (layouts.container(tmp_path / "image", name="pets", root=root) / "registry" / "pets" / "1").is_dir()
    (root / "pets" / "1" / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ValueError, match="is not as it was registered"):
        layouts.container(tmp_path / "another", name="pets", root=root)
    assert not (tmp_path / "another").exists()


def test_without_a_live_version_there_is_nothing_to_put_into_a_container(file, tmp_path):
    with pytest.raises(ValueError, match="No version of pets is live: `python -m helpers registry promote"):
        layouts.container(tmp_path / "image", name="pets", root=tmp_path / "registry")


def test_a_version_that_needs_tensorflow_is_not_put_into_a_container(tmp_path):
    from helpers import models, training

    model = training.save(models.softmax_regression((4, 4, 1), 3), tmp_path / "model.keras")
    root, facts = tmp_path / "registry", {"classes": CLASSES, "input": [4, 4, 1]}
    registry.register("pets", model, facts=facts, made_by="test", parameters={}, root=root)
    artifacts.write_json(root / "pets" / "promoted", {"version": 1, "before": []})
    with pytest.raises(ValueError, match=r"no TensorFlow, and the live version of pets is model.keras: export"):
        layouts.container(tmp_path / "image", name="pets", root=root)
    assert not (tmp_path / "image").exists()


def test_a_container_has_every_package_that_its_server_imports(context):
    """With nothing of this environment but what `requirements.txt` names, as in the image."""
    script = (
        "import sys, importlib.abc; from importlib import metadata\n"
        "allowed, owners = set(sys.argv[1].split()), metadata.packages_distributions()\n"
        "class Only(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        owned = {one.lower().replace('_', '-').replace('.', '-') for one in owners.get(name, ())}\n"
        "        if '.' not in name and name != 'helpers' and owned and not owned & allowed:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Only())\n"
        "missing = set()\n"
        "while True:\n"
        "    try:\n"
        "        from helpers import cli, live, serving, worker\n"
        "        live.classifier.load('registry/pets/2')\n"
        "        break\n"
        "    except (ModuleNotFoundError, ValueError) as error:  # what lacks is noted, and then it is there\n"
        "        name = getattr(error, 'name', None) or error.__cause__.name\n"
        "        missing.add(name)\n"
        "        allowed |= {one.lower().replace('_', '-').replace('.', '-') for one in owners[name]}\n"
        "print(*sorted(missing))"
    )
    text = (context / "requirements.txt").read_text()
    names = {name.lower().replace("_", "-").replace(".", "-") for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)", text)}
    some = {"pysimdjson", "onnxruntime", "grpcio"}  # that these lack is seen
    command = [sys.executable, "-W", "ignore", "-c", script, " ".join(names - some)]
    done = subprocess.run(command, cwd=context, capture_output=True, text=True)
    assert done.stdout.split() == ["grpc", "onnxruntime", "simdjson"], done.stderr[-2000:]
