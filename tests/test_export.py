"""Facts about the files that models are written to."""

import lzma

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import artifacts, export, inference, modelfiles, models, training

SHAPE = (8, 8, 1)
slow = pytest.mark.slow
needs_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow exports")


def _model():
    keras.utils.set_random_seed(0)
    model = models.better_cnn(SHAPE, 3, width=8)
    for layer in model.layers:  # statistics as after a training
        if isinstance(layer, keras.layers.BatchNormalization):
            random = np.random.default_rng(len(layer.name))
            layer.set_weights([random.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return model


def _pictures(count=60, low=0, high=256, shape=SHAPE):
    return np.random.default_rng(0).integers(low, high, (count, *shape), dtype=np.uint8)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model, and the folder with its files in every format."""
    folder, model = tmp_path_factory.mktemp("written"), _model()
    for name, options in {
        "model.keras": {},
        "model": {},
        "model.onnx": {},
        "float32.tflite": {},
        "float16.tflite": {"quantization": "float16"},
        "dynamic.tflite": {"quantization": "dynamic"},
        "int8.tflite": {"quantization": "int8", "calibration": _pictures(low=20, high=200)},
        "per_tensor.tflite": {"quantization": "int8", "calibration": _pictures(), "per_channel": False},
    }.items():
        assert export.write(model, folder / name, **options) == folder / name
    return model, folder


# ── entropy coding ──────────────────────────────────────────────────────────────────────────────


def test_a_packed_file_is_small_and_holds_the_same_bytes(tmp_path):
    weights = np.random.default_rng(0).integers(-3, 4, 50_000, dtype=np.int8)  # log2(7) = 2.81 bits each
    content = b"\0\0\0\0TFL3" + weights.tobytes()
    (tmp_path / "a.tflite").write_bytes(content)
    packed = export.pack(tmp_path / "a.tflite")
    assert packed.name == "a.tflite.xz"
    assert modelfiles.read_tflite(packed) == lzma.decompress(packed.read_bytes()) == content
    entropy = 50_000 * np.log2(7) / 8
    assert entropy < packed.stat().st_size < 1.1 * entropy
    assert export.packed_size(tmp_path / "a.tflite") == export.packed_size(packed) == packed.stat().st_size


def test_floats_are_coded_as_floats():
    weights = np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float32).tobytes()
    assert len(export._smallest(weights)) < 0.95 * len(lzma.compress(weights))


def test_the_coding_of_a_large_file_is_chosen_on_a_sample(monkeypatch):
    content = np.random.default_rng(0).normal(0, 0.05, 20_000).astype(np.float32).tobytes()
    best = export._smallest(content)
    monkeypatch.setattr(export, "_SAMPLE", 20_000)
    assert export._smallest(content) == best


@settings(max_examples=25)
@given(content=st.binary(max_size=3000))
def test_any_bytes_come_back(content):
    assert lzma.decompress(export._smallest(content)) == content


def test_sizes_of_a_folder_are_those_of_all_its_files(tmp_path):
    (tmp_path / "variables").mkdir()
    for name in ("saved_model.pb", "variables/data"):
        (tmp_path / name).write_bytes(bytes(5000))
    assert export.size(tmp_path) == 10_000
    assert 0 < export.packed_size(tmp_path) < 300


# ── what goes into the converter ────────────────────────────────────────────────────────────────


def test_calibration_reaches_black_and_white():
    grey = _pictures(3, low=50, high=100)
    fed = [pictures for (pictures,) in export._calibrating(grey)]
    assert [pictures.shape for pictures in fed] == [(1, *SHAPE)] * 4
    assert {pictures.dtype for pictures in fed} == {np.dtype("float32")}
    assert (min(map(np.min, fed)), max(map(np.max, fed))) == (0, 255)
    assert np.count_nonzero(fed[3] != grey[0]) == 2  # all but two pixels are as they were
    assert len(list(export._calibrating(_pictures(30)))) == 30  # black and white are in it


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_flattening_of_known_sizes_is_flattening(data_format):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    expected = keras.layers.Flatten(data_format=data_format)(x)
    np.testing.assert_array_equal(export.StaticFlatten(data_format=data_format)(x), expected)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("m.h5", {}, r"ends in \.keras, \.onnx or \.tflite, or to one without a suffix .* received m\.h5"),
        ("m.tflite", {"quantization": "int4"}, '"float16", "dynamic" or "int8"; received \'int4\''),
        ("m.onnx", {"quantization": "float16"}, r"Only a \.tflite file is quantized on export; received m\.onnx"),
        ("m.tflite", {"calibration": _pictures()}, 'used by quantization="int8" alone'),
        ("m.tflite", {"quantization": "int8"}, r"needs calibration pictures .* uint8 of shape \(n, 8, 8, 1\)"),
        ("m.tflite", {"quantization": "int8", "calibration": _pictures(0)}, r"at least one picture; received uint8"),
        ("m.tflite", {"quantization": "int8", "calibration": _pictures(2)[..., 0]}, r"uint8 of shape \(2, 8, 8\)"),
        ("m.tflite", {"quantization": "int8", "calibration": _pictures(2) / 255}, "received float64 of shape"),
        ("m.tflite", {"quantization": "int8", "calibration": [[0]]}, "received list of shape"),
    ],
)  # fmt: skip
@needs_tensorflow
def test_what_does_not_fit_together_is_one_sentence(tmp_path, name, options, message):
    with pytest.raises(ValueError, match=message):
        export.write(models.softmax_regression(SHAPE, 3), tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_something_else_is_refused(tmp_path):
    inputs = keras.Input((5,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="table")
    with pytest.raises(ValueError, match=r"pictures of one size .* table takes \[\(None, 5\)\]"):
        export.write(model, tmp_path / "m.keras")
    inputs = keras.Input(SHAPE)
    model = keras.Model(inputs, keras.layers.Conv2D(2, 3)(inputs), name="map")
    with pytest.raises(ValueError, match=r"logits of shape \(n, classes\); map gives \[\(None, 6, 6, 2\)\]"):
        export.write(model, tmp_path / "m.keras")


def test_a_model_without_a_graph_is_refused(tmp_path):
    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    for model in (Own(name="own"), keras.Sequential([keras.layers.Dense(2)], name="own")):
        with pytest.raises(ValueError, match="own cannot be exported: a functional model, or a sequential one that"):
            export.write(model, tmp_path / "m.keras")


def test_only_a_tflite_file_is_packed(tmp_path):
    with pytest.raises(ValueError, match=r"codes a \.tflite file; received m\.onnx"):
        export.pack(tmp_path / "m.onnx")


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow exports")
def test_another_backend_writes_keras_files_alone(tmp_path):
    model = models.softmax_regression(SHAPE, 3)
    assert export.write(model, tmp_path / "m.keras").exists()
    with pytest.raises(ValueError, match=r"set KERAS_BACKEND=tensorflow, or write a \.keras file"):
        export.write(model, tmp_path / "m.onnx")


# ── the files ───────────────────────────────────────────────────────────────────────────────────


@slow
@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("model.keras", 1e-6), ("model", 1e-5), ("model.onnx", 1e-5), ("float32.tflite", 1e-5), ("float16.tflite", 0.005),
     ("dynamic.tflite", 0.05), ("int8.tflite", 0.05), ("per_tensor.tflite", 0.1)],
)  # fmt: skip
def test_every_format_takes_raw_pictures_and_gives_the_models_logits(written, name, tolerance):
    model, folder = written
    pictures = _pictures(low=20, high=200)
    reference = training.logits(model, pictures)
    for count in (60, 1):
        logits = inference.load(folder / name, trusted=True).predict(pictures[:count])
        assert logits.dtype == np.float32
        parity = inference.parity(logits, reference[:count])
        assert parity.max_difference < tolerance * np.ptp(reference)


@slow
@needs_tensorflow
@pytest.mark.parametrize("name", ["dynamic.tflite", "int8.tflite"])
def test_rounded_activations_depend_on_no_neighbour_in_the_batch(written, name):
    pictures = _pictures(40)
    pictures[::2] //= 16  # dark ones beside bright ones: a range that they shared would show
    predictor = inference.load(written[1] / name)
    alone = np.concatenate([predictor.predict(picture[None]) for picture in pictures])
    np.testing.assert_array_equal(predictor.predict(pictures), alone)


@slow
@needs_tensorflow
def test_fewer_bits_are_smaller_files(written):
    _, folder = written
    sizes = {path.stem: path.stat().st_size for path in folder.glob("*.tflite")}
    assert sizes["float16"] < 0.7 * sizes["float32"]
    assert sizes["int8"] < 0.5 * sizes["float32"]
    assert sizes["per_tensor"] < sizes["int8"]  # a scale a filter takes room


@slow
@needs_tensorflow
@pytest.mark.parametrize("name", ["int8.tflite", "per_tensor.tflite"])
def test_full_integer_leaves_no_operator_in_float_but_the_last(written, name):
    table = inference.operators(written[1] / name)
    assert table.loc[table["float"], ["operator", "count"]].to_numpy().tolist() == [["DEQUANTIZE", 1]]
    assert table["operator"].iloc[-1] == "DEQUANTIZE"
    assert set(table.loc[table["operator"] == "CONV_2D", "weights"]) == {"INT8"}
    assert inference.operators(written[1] / "float32.tflite")["float"].all()


@slow
@needs_tensorflow
def test_one_step_of_the_input_is_one_grey_level_and_filters_have_their_scales(written):
    from ai_edge_litert.interpreter import Interpreter

    for name, scales in (("int8.tflite", 8), ("per_tensor.tflite", 1)):
        interpreter = Interpreter(str(written[1] / name))
        (source,) = interpreter.get_input_details()
        assert (source["dtype"], source["quantization"]) == (np.uint8, (1.0, 0))
        assert source["shape_signature"].tolist() == [-1, *SHAPE]
        kernels = [tensor for tensor in interpreter.get_tensor_details() if tensor["shape"].tolist() == [8, 3, 3, 1]]
        assert [len(kernel["quantization_parameters"]["scales"]) for kernel in kernels] == [scales]


_WRITE = """
import sys, keras, numpy as np
from helpers import export
folder, model = sys.argv[1], keras.saving.load_model(sys.argv[1] + "/model.keras")
pictures = np.load(folder + "/pictures.npy")
export.write(model, folder + "/again.onnx")
export.write(model, folder + "/again32.tflite")
export.write(model, folder + "/again8.tflite", quantization="int8", calibration=pictures)
export.write(model, folder + "/again.keras")
"""


@slow
@needs_tensorflow
def test_another_process_writes_the_same_bytes_and_nothing_to_the_screen(written, fresh_python):
    _, folder = written
    np.save(folder / "pictures.npy", _pictures(low=20, high=200))
    assert fresh_python(_WRITE, folder, PYTHONHASHSEED="7") == ""
    pairs = [("model.onnx", "again.onnx"), ("float32.tflite", "again32.tflite"), ("int8.tflite", "again8.tflite"),
             ("model.keras", "again.keras")]  # fmt: skip
    assert {one: artifacts.sha256(folder / one) == artifacts.sha256(folder / two) for one, two in pairs} == {
        one: True for one, _ in pairs
    }


@slow
@needs_tensorflow
@pytest.mark.parametrize("name", ["m.tflite", "m.onnx"])
def test_a_model_of_floats_takes_bytes_once_written(tmp_path, name):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    pictures = _pictures(5, shape=(8, 8, 3))
    expected = model.predict(pictures.astype(np.float32), verbose=0)
    logits = inference.load(export.write(model, tmp_path / name)).predict(pictures)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


@slow
@needs_tensorflow
@pytest.mark.parametrize(
    ("name", "message"),
    [("m.tflite", "the LiteRT converter says “.*LogMatrixDeterminant”"),
     ("m.onnx", "the ONNX converter says “No Op registered for LogMatrixDeterminant”")],
)  # fmt: skip
def test_a_layer_that_a_format_has_not_is_one_sentence_and_leaves_the_old_file(tmp_path, capfd, name, message):
    inputs = keras.Input(SHAPE, dtype="uint8")
    x = keras.layers.Dense(4)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs)))
    x = keras.ops.slogdet(keras.ops.reshape(x, (-1, 2, 2)))[1]
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.ops.expand_dims(x, -1)), name="odd")
    (tmp_path / name).write_bytes(b"old")
    with pytest.raises(ValueError, match=f"The model odd cannot be written as {name}: {message}") as raised:
        export.write(model, tmp_path / name)
    assert "\n" not in str(raised.value)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"old")]
    assert capfd.readouterr().out == ""
