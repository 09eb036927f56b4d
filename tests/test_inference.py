"""Facts about models as they run: the answers, the refusals, the measurements."""

import json
import lzma
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from helpers import export, inference, modelfiles, models, processor, runtimes, training

slow = pytest.mark.slow
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow exports")
WEIGHTS = np.array([[1, 0], [0, 1], [2, 0], [0, -1]], np.float32)


def _write_onnx(path, *, dtype=TensorProto.UINT8, sides=(2, 2, 1), count="n", more=()):
    """Writes a network of one layer whose numbers can be worked by hand."""
    nodes = [
        helper.make_node("Cast", ["pictures"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info(name, dtype, [count, *sides]) for name in ("pictures", *more)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [count, 2])]
    graph = helper.make_graph(nodes, "hand", inputs, outputs, [onnx.numpy_helper.from_array(WEIGHTS, "weights")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.save(model, path)
    return path


def _write_tflite(path, answer, *, count=None, sides=(2, 2, 1)):
    """Writes what a function of float32 pictures computes."""
    import tensorflow as tf

    taken = [tf.TensorSpec([count, *sides], tf.float32)]
    graph = tf.function(answer, input_signature=taken).get_concrete_function()
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([graph]).convert())
    return path


@pytest.fixture(scope="module")
def hand(tmp_path_factory):
    return inference.load(_write_onnx(tmp_path_factory.mktemp("hand") / "hand.onnx"), trusted=True)


def _pictures(count=40, shape=(8, 8, 1)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def tflite(tmp_path_factory):
    """A small model, and its file in full integers."""
    keras.utils.set_random_seed(0)
    model = models.classic_cnn((8, 8, 1), 3, filters=(4,), units=8)
    path = tmp_path_factory.mktemp("tflite") / "small.tflite"
    return model, export.write(model, path, quantization="int8", calibration=_pictures())


# ── answers ─────────────────────────────────────────────────────────────────────────────────────


def test_logits_of_a_layer_worked_by_hand(hand):
    pictures = np.array([[1, 2, 3, 4], [255, 0, 255, 0]], np.uint8).reshape(2, 2, 2, 1)
    np.testing.assert_array_equal(hand.predict(pictures), [[1 + 2 * 3, 2 - 4], [255 * 3, 0]])
    assert (hand.runtime, hand.input_shape, hand.classes) == ("ONNX Runtime", (2, 2, 1), 2)


@settings(max_examples=25)
@given(count=st.integers(0, 230))
def test_batches_of_any_size_give_each_picture_its_own_answer(hand, count):
    pictures = _pictures(count, (2, 2, 1))
    logits = hand.predict(pictures)
    assert (logits.dtype, logits.shape) == (np.float32, (count, 2))
    np.testing.assert_array_equal(logits, pictures.reshape(count, 4) @ WEIGHTS)


def test_a_memory_map_and_a_view_are_read_as_they_are(hand, tmp_path):
    np.save(tmp_path / "a.npy", _pictures(130, (2, 2, 1)))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")[::2]
    np.testing.assert_array_equal(hand.predict(mapped), mapped.reshape(65, 4) @ WEIGHTS)


def test_a_file_that_takes_floats_is_fed_grey_levels(tmp_path, hand):
    floats = inference.load(_write_onnx(tmp_path / "f.onnx", dtype=TensorProto.FLOAT), trusted=True)
    pictures = _pictures(3, (2, 2, 1))
    np.testing.assert_array_equal(floats.predict(pictures), hand.predict(pictures))


def test_openvino_runs_the_same_onnx_file(hand):
    pytest.importorskip("openvino", reason="OpenVINO is installed where it is wanted")
    other = inference.load(hand.path, call="openvino", trusted=True)
    assert (other.runtime, other.input_shape, other.classes) == ("OpenVINO", (2, 2, 1), 2)
    pictures = _pictures(130, (2, 2, 1))
    np.testing.assert_array_equal(other.predict(pictures), hand.predict(pictures))


@needs_tensorflow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
def test_litert_answers_in_numbers_of_any_type(tmp_path, hand, dtype):
    def answer(x):
        return keras.ops.cast(keras.ops.reshape(x, (-1, 4)) @ WEIGHTS, dtype)

    pictures = _pictures(3, (2, 2, 1)) // 8  # sums that float16 holds
    logits = inference.load(_write_tflite(tmp_path / "m.tflite", answer), trusted=True).predict(pictures)
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(logits, hand.predict(pictures))


@needs_tensorflow
def test_a_file_that_takes_one_picture_at_a_time_is_asked_one_by_one(tmp_path, hand):
    pictures = _pictures(5, (2, 2, 1))
    for path in (
        _write_onnx(tmp_path / "one.onnx", count=1),
        _write_tflite(tmp_path / "one.tflite", lambda x: keras.ops.reshape(x, (1, 4)) @ WEIGHTS, count=1),
    ):
        predictor = inference.load(path, trusted=True)
        for _ in range(2):
            np.testing.assert_array_equal(predictor.predict(pictures), hand.predict(pictures))
            np.testing.assert_array_equal(predictor.predict(pictures[:1]), hand.predict(pictures[:1]))


@needs_tensorflow
def test_litert_answers_on_after_a_batch_that_the_file_does_not_take(tmp_path):
    path = _write_tflite(tmp_path / "one.tflite", lambda x: keras.ops.reshape(x, (1, 4)) @ WEIGHTS, count=1)
    shape, run = runtimes.litert(path.read_bytes(), 1)
    before = run(np.ones((1, *shape), np.uint8))
    with pytest.raises(RuntimeError):
        run(np.ones((2, *shape), np.uint8))
    np.testing.assert_array_equal(run(np.ones((1, *shape), np.uint8)), before)


def test_parity_of_equal_and_of_opposite_logits():
    logits = np.array([[1.0, 2.0], [4.0, 3.0]])
    assert inference.parity(logits, logits) == (0.0, 1.0)
    assert inference.parity(logits, -logits) == (8.0, 0.0)
    assert inference.parity(logits, logits + [[5, 5], [5, 7]]) == (7.0, 0.5)


def test_operators_of_the_layer_worked_by_hand(hand):
    table = inference.operators(hand.path)
    assert table.columns.tolist() == ["operator", "input", "weights", "output", "count", "float"]
    assert table.to_numpy().tolist() == [
        ["Cast", "UINT8", "", "FLOAT32", 1, True],
        ["Flatten", "FLOAT32", "", "FLOAT32", 1, True],
        ["MatMul", "FLOAT32", "FLOAT32", "FLOAT32", 1, True],
    ]


@slow
@needs_tensorflow
def test_a_packed_file_answers_like_the_file(tflite, tmp_path):
    model, path = tflite
    packed = export.pack(path)
    answers = [inference.load(one).predict(_pictures(120)) for one in (path, packed)]
    np.testing.assert_array_equal(*answers)
    assert inference.parity(answers[0], training.logits(model, _pictures(120))).agreement > 0.9
    assert inference.operators(packed).equals(inference.operators(path))


@slow
@needs_tensorflow
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_exported_files_run_without_keras_and_tensorflow(tflite, hand, kind, fresh_python):
    path = {"tflite": tflite[1], "onnx": hand.path}[kind]
    source = (
        "import sys; from helpers import inference; import numpy as np; predictor = inference.load(sys.argv[1]); "
        "predictor.predict(np.zeros((3, *predictor.input_shape), np.uint8)); inference.operators(sys.argv[1]); "
        "print([name for name in ('keras', 'tensorflow', 'jax', 'torch') if name in sys.modules])"
    )
    assert fresh_python(source, path).strip() == "[]"


# ── refusals ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((1, 2, 2, 1), np.float32), r"float32 of shape \(1, 2, 2, 1\)"),
        (np.zeros((2, 2, 1), np.uint8), r"uint8 of shape \(2, 2, 1\)"),
        (np.zeros((1, 2, 2, 3), np.uint8), r"uint8 of shape \(1, 2, 2, 3\)"),
        ([[1]], "list of shape"),
    ],
)
def test_other_pictures_are_refused_before_the_runtime_sees_them(hand, images, found):
    with pytest.raises(ValueError, match=rf"hand.onnx takes uint8 pictures of shape \(n, 2, 2, 1\); received {found}"):
        hand.predict(images)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.mark.parametrize("content", [b"", b"\0", PNG, PNG * 50], ids=["empty", "a byte", "a picture", "a larger one"])
@pytest.mark.parametrize("name", ["m.tflite", "m.tflite.xz", "m.onnx", "m.keras"])
def test_foreign_files_are_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} (is not a|cannot be loaded by ONNX Runtime)") as raised:
        inference.load(tmp_path / name, trusted=True)
    assert "\n" not in str(raised.value)


def test_what_is_missing_or_unknown_is_named(tmp_path, hand):
    with pytest.raises(FileNotFoundError, match=r"There is no model .*m\.tflite: export one"):
        inference.load(tmp_path / "m.tflite")
    for name in ("m.h5", "m.txt.xz"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=rf"A model is a \.tflite, .* received .*{name}"):
            inference.load(tmp_path / name)
    (tmp_path / "shoes.v2").mkdir()
    (tmp_path / "shoes.v2" / "saved_model.pb").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"shoes\.v2 cannot be loaded by SavedModel"):
        inference.load(tmp_path / "shoes.v2")
    with pytest.raises(ValueError, match="threads is at least 1; received 0"):
        inference.load(hand.path, threads=0)
    with pytest.raises(ValueError, match="received 'often'"):
        inference.load(hand.path, call="often")
    with pytest.raises(ValueError, match=r"OpenVINO is asked with an .onnx file; received m.tflite"):
        (hand.path.parent / "m.tflite").write_bytes(b"")
        inference.load(hand.path.parent / "m.tflite", call="openvino")
    with pytest.raises(ValueError, match=r"Operators are listed of .* received .*\.keras"):
        (tmp_path / "m.keras").write_bytes(b"")
        inference.operators(tmp_path / "m.keras")
    (tmp_path / "m.onnx").write_bytes(PNG)
    with pytest.raises(ValueError, match=r"m\.onnx cannot be loaded by ONNX Runtime \(.*\): export it again"):
        inference.operators(tmp_path / "m.onnx")
    with pytest.raises(FileNotFoundError, match="There is no model"):
        inference.operators(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="same pictures and classes"):
        inference.parity(np.zeros((2, 3)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match="at least one picture"):
        inference.measure(hand.path, _pictures(0, (2, 2, 1)))


def test_a_file_of_something_else_than_pictures_is_refused(tmp_path):
    path = _write_onnx(tmp_path / "table.onnx", sides=(4,))
    with pytest.raises(ValueError, match=r"is not a classifier of pictures: it takes \(4,\)"):
        inference.load(path, trusted=True)


def _keras_of(path, sides, *, inputs=1, outputs=1):
    taken = [keras.Input((*sides, 1), name=f"pictures_{number}") for number in range(inputs)]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Concatenate()(taken) if inputs > 1 else taken[0])
    return training.save(keras.Model(taken, [keras.layers.Dense(2)(x) for _ in range(outputs)]), path)


def _onnx_of_two_outputs(path):
    model = onnx.load(_write_onnx(path))
    model.graph.output.insert(0, helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["n", 4]))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("call", ["predict", "openvino"])
def test_an_onnx_file_has_one_input_one_output_and_fixed_sides(tmp_path, call):
    if call == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is installed where it is wanted")
    for path, message in (
        (_write_onnx(tmp_path / "inputs.onnx", more=["mask"]), "it takes 2 inputs and gives 1 outputs, and a classif"),
        (_onnx_of_two_outputs(tmp_path / "outputs.onnx"), "it takes 1 inputs and gives 2 outputs, and a classifier"),
        (_write_onnx(tmp_path / "sides.onnx", sides=("h", 2, 1)), r"it takes pictures of the sides \(\S+, 2, 1\), and"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name} cannot be loaded by .* \({message}.*: export it again"):
            inference.load(path, trusted=True, call=call)


@pytest.mark.parametrize("saved", [False, pytest.param(True, marks=[slow, needs_tensorflow])])
def test_a_keras_file_or_saved_model_has_one_input_one_output_and_fixed_sides(tmp_path, saved):
    for options, message in (
        ({"sides": (2, 2), "inputs": 2}, "it takes 2 inputs and gives 1 outputs"),
        ({"sides": (2, 2), "outputs": 2}, "it takes 1 inputs and gives 2 outputs"),
        ({"sides": (None, 2)}, r"it takes pictures of the sides \(None, 2, 1\)"),
    ):
        path, runtime = _keras_of(tmp_path / "m.keras", **options), "Keras"
        if saved:
            keras.saving.load_model(path).export(tmp_path / "m", verbose=False)
            path, runtime = tmp_path / "m", "SavedModel"
        with pytest.raises(ValueError, match=rf"{path.name} cannot be loaded by {runtime} \({message}, and a classifi"):
            inference.load(path)


@needs_tensorflow
def test_a_litert_file_has_fixed_sides(tmp_path):
    path = _write_tflite(tmp_path / "m.tflite", lambda x: keras.ops.mean(x, axis=(1, 2)), sides=(None, 2, 2))
    with pytest.raises(ValueError, match=r"by LiteRT \(it takes pictures of the sides \(-1, 2, 2\)"):
        inference.load(path, trusted=True)


def test_no_pictures_have_no_answers_in_a_runtime_that_refuses_an_empty_batch(tmp_path):
    predictor = inference.load(training.save(models.softmax_regression((2, 2, 1), 2), tmp_path / "m.keras"))
    logits = predictor.predict(_pictures(0, (2, 2, 1)))
    assert (logits.dtype, logits.shape) == (np.float32, (0, 2))


def test_a_packed_file_cut_off_changed_or_too_large_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"\0\0\0\0TFL3" + bytes(range(256)) * 8)
    packed = export.pack(path)
    whole = packed.read_bytes()
    broken = [whole[:length] for length in range(0, len(whole), 7)] + [whole + b"more"]
    broken += [whole[:i] + bytes([whole[i] ^ 255]) + whole[i + 1 :] for i in range(0, len(whole), 7)]
    for content in broken:
        packed.write_bytes(content)
        with pytest.raises(ValueError, match=r"is not a whole \.xz file \(.*\): pack the model again"):
            modelfiles.read_tflite(packed)
    packed.write_bytes(whole)
    assert modelfiles.read_tflite(packed) == path.read_bytes()
    monkeypatch.setattr(modelfiles, "LARGEST", 1000)
    with pytest.raises(
        ValueError, match=r"is not a whole .xz file \(Memory usage limit|expands to more than 1000 bytes"
    ):
        modelfiles.read_tflite(packed)


def test_a_small_file_that_expands_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(modelfiles, "LARGEST", 10_000_000)
    packed = tmp_path / "bomb.tflite.xz"
    packed.write_bytes(lzma.compress(bytes(10_000_001), preset=0))
    assert packed.stat().st_size < 10_000
    with pytest.raises(ValueError, match="expands to more than 10000000 bytes"):
        modelfiles.read_tflite(packed)


def _changed(path, change):
    """Rewrites the configuration in a `.keras` file."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    members["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_a_lambda_that_runs_code_is_refused_and_nothing_has_run(tmp_path):
    mark, place = tmp_path / "it-ran", str(tmp_path / "it-ran")
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Lambda(lambda x: (open(place, "w").close(), x)[1], output_shape=(8, 8, 1))(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
    model.save(tmp_path / "evil.keras")
    mark.unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"evil\.keras is refused: its layer Lambda can run code"):
        inference.load(tmp_path / "evil.keras")
    assert not mark.exists()
    loaded = keras.saving.load_model(tmp_path / "evil.keras", safe_mode=False)  # the file does what it threatens
    loaded.predict(np.zeros((1, 8, 8, 1)), verbose=0)
    assert mark.exists()


@pytest.mark.parametrize(
    ("module", "function"),
    [("os", "system"), ("builtins", "eval"), ("subprocess", "check_output"), ("keras.utils", "get_file"),
     ("keras.config", "enable_unsafe_deserialization"), ("keras.models", "load_model"), ("keras", "Variable"),
     ("keras.src.utils.file_utils", "get_file"), ("helpers.artifacts", "remove")],
)  # fmt: skip
def test_no_file_names_a_function_to_be_called(tmp_path, module, function):
    def call(config):
        dense = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Dense")
        part = {"module": module, "class_name": "function", "config": function, "registered_name": function}
        dense["config"]["activation"] = part

    path = training.save(models.softmax_regression((2, 2, 1), 2), tmp_path / "m.keras")
    refusal = rf"is refused: it asks for {module}\.{function}"
    if module == "builtins":  # so Keras writes its own activations, and finds no other
        refusal = rf"cannot be loaded by Keras \(Could not locate function '{function}'"
    with pytest.raises(ValueError, match=rf"m\.keras {refusal}"):
        inference.load(_changed(path, call))


@pytest.mark.parametrize(
    ("module", "name"),
    [("subprocess", "Popen"), ("keras.layers", "TFSMLayer"), ("keras.layers", "TorchModuleWrapper"),
     ("keras.src.layers", "JaxLayer"), ("keras.callbacks", "LambdaCallback"), ("mine", "Layer"),
     ("keras", "layers.TFSMLayer"), ("keras", "layers.Lambda"), ("keras", "utils.get_file"),
     ("keras.layers", "core.Dense")],
)  # fmt: skip
def test_no_file_names_a_class_that_is_no_part_of_a_network(tmp_path, module, name):
    def replace(config):
        config["config"]["layers"][-1].update(module=module, class_name=name, registered_name=name)

    path = training.save(models.softmax_regression((2, 2, 1), 2), tmp_path / "m.keras")
    with pytest.raises(ValueError, match=rf"m\.keras is refused: .*{name}"):
        inference.load(_changed(path, replace))


@keras.saving.register_keras_serializable("tests")
def doubled(x):
    return 2 * x


def test_a_registered_name_vouches_for_no_other_function(tmp_path):
    def replace(config):
        part = {"module": "os", "class_name": "function", "config": "system", "registered_name": "tests>doubled"}
        config["config"]["layers"][-1]["config"]["activation"] = part

    path = training.save(models.softmax_regression((2, 2, 1), 2), tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"m\.keras is refused: it asks for os\.system"):
        modelfiles.check_keras(_changed(path, replace))
    inputs = keras.Input((2, 2, 1))
    own = keras.Model(inputs, keras.layers.Dense(2, activation=doubled)(keras.layers.Flatten()(inputs)))
    assert inference.load(training.save(own, tmp_path / "own.keras")).classes == 2


@pytest.mark.parametrize("name", [["a"], {}, 3, None])
def test_a_class_is_a_name(tmp_path, name):
    path = training.save(models.softmax_regression((2, 2, 1), 2), tmp_path / "m.keras")
    path = _changed(path, lambda config: config["config"]["layers"][-1].update(class_name=name))
    with pytest.raises(ValueError, match=r"m\.keras is not a \.keras file \(a class_name .* not a name\)"):
        modelfiles.check_keras(path)


@pytest.mark.parametrize("method", ["ZIP_STORED", "ZIP_DEFLATED", "ZIP_BZIP2", "ZIP_LZMA"])
def test_a_damaged_archive_is_one_sentence(tmp_path, method):
    path, config = tmp_path / "m.keras", json.dumps({"class_name": "Dense", "module": "keras.layers", "config": {}})
    with zipfile.ZipFile(path, "w", getattr(zipfile, method)) as archive:
        archive.writestr("config.json", config)
    whole, refused = path.read_bytes(), 0
    for place in range(len(whole)):
        for change in (1, 255):  # at two of them the flag of an encrypted member
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            try:
                modelfiles.check_keras(path)
            except ValueError as error:
                refused += str(error).startswith(str(path))
    assert refused > len(config)


def test_networks_of_kerass_own_parts_are_loaded(tmp_path):
    inputs = keras.Input((8, 8, 1), name="pictures")
    x = keras.layers.Conv2D(2, 3, kernel_regularizer="l2", kernel_constraint=keras.constraints.MaxNorm(2))(inputs)
    x = keras.layers.Activation(keras.activations.gelu)(keras.ops.flip(x, axis=1))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="relu")(keras.layers.GlobalAveragePooling2D()(x)))
    model.compile(keras.optimizers.Adam(), keras.losses.SparseCategoricalCrossentropy())
    model.save(tmp_path / "m.keras")
    pictures = _pictures(4)
    expected = keras.ops.convert_to_numpy(model(pictures.astype(np.float32)))
    for call, runtime in (("predict", "Keras"), ("direct", "Keras call")):
        predictor = inference.load(tmp_path / "m.keras", call=call)
        assert predictor.runtime == runtime
        np.testing.assert_allclose(predictor.predict(pictures), expected, rtol=1e-4, atol=1e-4)


def _with_zero_points_outside_int8(path, target):
    """Breaks numbers, not the form: the runtime takes the file and reads where it may not."""
    content = path.read_bytes()
    zero = np.array(-128, np.int64).tobytes()
    assert zero in content
    target.write_bytes(content.replace(zero, np.array(-250, np.int64).tobytes()))
    return target


@slow
@needs_tensorflow
def test_a_file_that_crashes_its_reader_is_one_sentence(tflite, tmp_path):
    path = _with_zero_points_outside_int8(tflite[1], tmp_path / "m.tflite")
    with pytest.raises(ValueError, match=r"m\.tflite is damaged: the process that tried it was ended by SIG\w+"):
        inference.load(path)
    with pytest.raises(ValueError, match=r"The process that measured .*m\.tflite was ended by SIG\w+: .* damaged"):
        inference.measure(path, _pictures(3))


_TRUNCATED = """
import sys
from pathlib import Path
from helpers import inference
content, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
lengths = sorted({*range(0, len(content), len(content) // 150), *range(len(content) - 20, len(content))})
refused = 0
for length in lengths:
    path.write_bytes(content[:length])
    try:
        inference.load(path, trusted=True)
    except ValueError as error:
        refused += "\\n" not in str(error)
print(len(lengths), refused)
"""


@slow
@needs_tensorflow
@pytest.mark.parametrize("kind", ["tflite", "onnx"])
def test_files_cut_off_anywhere_are_refused_and_the_process_lives(tflite, hand, tmp_path, kind, fresh_python):
    path = {"tflite": tflite[1], "onnx": hand.path}[kind]
    tried, refused = map(int, fresh_python(_TRUNCATED, path, tmp_path / path.name).split())
    assert tried == refused > 100


@slow
@needs_tensorflow
def test_flipped_bytes_are_refused_or_answered_and_the_process_lives(tflite, tmp_path):
    content, random = tflite[1].read_bytes(), np.random.default_rng(0)
    path, ends = tmp_path / "m.tflite", []
    for _ in range(30):
        broken = bytearray(content)
        for place in random.integers(len(broken), size=2):
            broken[place] ^= int(random.integers(1, 256))
        path.write_bytes(broken)
        try:
            predictor = inference.load(path)
            ends.append(predictor.predict(np.zeros((3, *predictor.input_shape), np.uint8)).shape[0] == 3)
        except ValueError as error:
            ends.append("\n" not in str(error))
    assert all(ends)


# ── measurements ────────────────────────────────────────────────────────────────────────────────


@slow
@pytest.mark.alone
@needs_tensorflow
def test_a_measurement_is_of_a_process_of_its_own(tflite):
    _, path = tflite
    pictures = _pictures(70)
    found = inference.measure(path, pictures, repeats=30, throughput_pictures=200)
    np.testing.assert_array_equal(found.logits, inference.load(path).predict(pictures))
    assert found.runtime == "LiteRT"
    assert 0 < found.load_seconds < 5
    assert 0 < found.latency_ms_p50 <= found.latency_ms_p95 < 50
    assert found.pictures_per_second > 1000
    assert found.latency_threads in (1, processor.cores())
    assert inference.measure(path, pictures, threads=3, repeats=5).latency_threads == 3
    if Path("/proc/self/status").exists():
        assert 10 < found.peak_mb < 200 < processor.peak_bytes() / 1e6  # which holds TensorFlow


@slow
@pytest.mark.alone
def test_a_keras_model_is_measured_by_predict_and_by_a_call(tmp_path):
    model = models.softmax_regression((2, 2, 1), 2)
    path = training.save(model, tmp_path / "m.keras")
    pictures = _pictures(4, (2, 2, 1))
    found = {call: inference.measure(path, pictures, repeats=5, warm_up=2, throughput_pictures=10, call=call)
             for call in ("predict", "direct")}  # fmt: skip
    for measured in found.values():
        np.testing.assert_allclose(measured.logits, training.logits(model, pictures), rtol=1e-4, atol=1e-4)
    assert found["predict"].runtime == "Keras"
    assert found["predict"].latency_threads is None
    assert found["direct"].runtime == "Keras call"
    assert found["direct"].latency_ms_p50 < found["predict"].latency_ms_p50


@slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_keras_model_gives_the_same_answers_on_another_backend(backend, tmp_path):
    pytest.importorskip(backend)
    model = models.better_cnn((8, 8, 1), 3, width=4)
    path, pictures = training.save(model, tmp_path / "m.keras"), _pictures(20, (8, 8, 1))
    found = inference.measure(path, pictures, repeats=3, throughput_pictures=20, backend=backend)
    assert found.runtime == f"Keras on {backend}"
    np.testing.assert_allclose(found.logits, training.logits(model, pictures), rtol=1e-3, atol=1e-3)


@slow
def test_a_measurement_says_what_is_wrong_with_the_file(tmp_path, hand):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        inference.measure(tmp_path / "m.onnx", _pictures(2))
    (tmp_path / "m.tflite").write_bytes(PNG)
    with pytest.raises(ValueError, match=r"m\.tflite is not a LiteRT model"):
        inference.measure(tmp_path / "m.tflite", _pictures(2))
    with pytest.raises(ValueError, match=r"takes uint8 pictures of shape \(n, 2, 2, 1\)"):
        inference.measure(hand.path, _pictures(2))


def test_energy_is_the_difference_of_a_counter_that_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_RAPL", tmp_path)
    assert inference._joules_since(inference._energy()) is None
    (tmp_path / "max_energy_range_uj").write_text("10000000\n")
    (tmp_path / "energy_uj").write_text("2000000\n")
    assert inference._joules_since(500_000) == 1.5
    assert inference._joules_since(9_000_000) == 3.0


def test_a_picture_takes_a_file_as_long_as_itself_and_less_than_a_larger_model(tflite, tmp_path):
    wide = models.classic_cnn((8, 8, 1), 3, filters=(256,), units=512)
    large = export.write(wide, tmp_path / "large.tflite")
    _, small = tflite
    assert 0.5 < inference.times_as_long(small, small, _pictures(1), rounds=9) < 2
    assert inference.times_as_long(large, small, _pictures(1), rounds=9) > 2
    assert inference.times_as_long(small, large, _pictures(1), rounds=9) < 0.5
