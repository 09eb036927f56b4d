"""Pictures as they come in, class names out; from a registered version or from a file."""

import hashlib
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from helpers import artifacts, classifier, inference, pictures, registry
from helpers.rehearsal import encode

CLASSES = ["ant", "bee", "cat"]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _files_of_our_own(monkeypatch):
    """They need not be tried in a process first: test_inference.py is about that."""
    monkeypatch.setattr(inference, "_try_elsewhere", lambda path: None)


@pytest.fixture
def file(write_onnx, tmp_path):
    return write_onnx(tmp_path / "model.onnx")


@pytest.fixture(scope="module")
def loaded(write_onnx, tmp_path_factory):
    return classifier.load(write_onnx(tmp_path_factory.mktemp("loaded") / "model.onnx"))


@pytest.fixture
def register(file, loaded, tmp_path):
    def make(**facts):
        known = {"classes": CLASSES, "input": [4, 4, 1]} | facts
        known = {name: value for name, value in known.items() if value is not None}
        examples = IMAGES, loaded.predictor.predict(IMAGES)
        return registry.register("pets", file, facts=known, made_by="test", parameters={}, examples=examples,
                                 root=tmp_path / "registry")  # fmt: skip

    return make


def test_answers_are_names_probabilities_and_the_logits_of_the_file(register, file):
    found = classifier.load(register(temperature=2.0).path)
    answers, logits = found.answer(IMAGES), inference.load(file).predict(IMAGES)
    np.testing.assert_allclose(answers.logits, logits, atol=1e-6)
    assert answers.labels.tolist() == [CLASSES[index] for index in logits.argmax(axis=1)]
    by_hand = np.exp(logits / 2) / np.exp(logits / 2).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(answers.probabilities, by_hand, atol=1e-6)
    assert answers.probabilities.dtype == np.float32


def test_huge_logits_do_not_overflow(loaded):
    sure = classifier.Classifier("m", None, "", CLASSES, 1e-4, loaded.predictor).answer(IMAGES)
    assert np.isfinite(sure.probabilities).all()
    np.testing.assert_allclose(sure.probabilities.sum(axis=1), 1, atol=1e-6)


def test_no_pictures_have_no_answers(loaded):
    answers = loaded.answer(IMAGES[:0])
    assert len(answers.labels) == 0
    assert answers.probabilities.shape == (0, 3)


def test_a_version_knows_its_name_number_and_checksum(register, file):
    found = classifier.load(register().path)
    assert (found.name, found.version, found.checksum) == ("pets", 1, artifacts.sha256(file))
    assert found.temperature == 1.0


def test_a_models_folder_stands_for_its_live_version(register, tmp_path):
    first, second = register(), register(test_accuracy=0.5)
    registry.promote("pets", 2, root=tmp_path / "registry")
    assert second.number == 2
    assert classifier.load(first.path.parent).version == 2
    assert classifier.load(first.path).version == 1


def test_a_version_beside_a_registry_has_no_number(register, tmp_path):
    shutil.copytree(register().path, tmp_path / "copy")
    found = classifier.load(tmp_path / "copy")
    assert (found.name, found.version, found.classes) == ("pets", None, CLASSES)


def test_the_checksum_of_a_folder_is_that_of_its_files():
    files = {f"saved/{name}": {"sha256": sum_} for name, sum_ in (("b", "2" * 64), ("a", "1" * 64))}
    lines = f"saved/a {'1' * 64}\nsaved/b {'2' * 64}"
    expected = hashlib.sha256(lines.encode()).hexdigest()
    others = {"saved2/a": {"sha256": "3" * 64}, "examples.npz": {"sha256": "4" * 64}}
    assert classifier._checksum(files, "saved") == classifier._checksum(files | others, "saved") == expected
    assert classifier._checksum(files | {"saved/c": {"sha256": "5" * 64}}, "saved") != expected


def test_a_folder_that_is_no_version_is_refused(register, tmp_path):
    with pytest.raises(ValueError, match="is no version of a registered model: name a folder such as"):
        classifier.load(register().path.parent)  # none is live
    with pytest.raises(ValueError, match="is no version"):
        classifier.load(tmp_path)


def test_a_changed_file_is_refused(register):
    path = register().path
    content = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(content[:-1] + b"\0")
    with pytest.raises(ValueError, match="not as it was registered"):
        classifier.load(path)


def test_a_manifest_that_does_not_fit_its_model_is_refused(register):
    with pytest.raises(ValueError, match="answers for 3 classes, and 2 names are known"):
        classifier.load(register(classes=["ant", "bee"]).path)
    with pytest.raises(ValueError, match=r"takes pictures of shape \(4, 4, 1\), its manifest says \(28, 28, 1\)"):
        classifier.load(register(input=[28, 28, 1]).path)


def test_classes_without_names_are_called_by_their_numbers(register, file):
    assert classifier.load(register(classes=None).path).classes == ["0", "1", "2"]
    assert classifier.load(file).classes == ["0", "1", "2"]


def test_a_file_takes_names_and_temperature_from_the_card_beside_it_if_that_is_its_own(file):
    card = {"sha256": artifacts.sha256(file), "classes": CLASSES, "temperature": 1.7}
    file.with_name("model_card.json").write_text(json.dumps(card))
    found = classifier.load(file)
    assert (found.classes, found.temperature, found.version) == (CLASSES, 1.7, None)
    file.with_name("model_card.json").write_text(json.dumps(card | {"classes": CLASSES[:2]}))
    with pytest.raises(ValueError, match="answers for 3 classes, and 2 names are known"):
        classifier.load(file)
    for other in (json.dumps(card | {"sha256": "0" * 64}), "[]", "{"):
        file.with_name("model_card.json").write_text(other)
        assert classifier.load(file).classes == ["0", "1", "2"]


def test_a_model_that_learned_from_other_pictures_is_not_judged_by_these(register, file):
    registered = classifier.load(register(data_checksum="a").path)
    registered.check_data("a")
    with pytest.raises(ValueError, match="learned from other pictures, or from another split of them"):
        registered.check_data("b")
    classifier.load(file).check_data("b")  # nothing is known of it
    card = {"sha256": artifacts.sha256(file), "classes": CLASSES, "data_checksum": "a"}
    file.with_name("model_card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=f"{file.name} learned from other pictures"):
        classifier.load(file).check_data("b")


@pytest.mark.parametrize("temperature", [0, -1.0, "2"])
def test_a_temperature_that_nothing_can_be_divided_by_is_refused(register, temperature):
    with pytest.raises(ValueError, match=r"logits are divided by it: register the model again with a number above 0"):
        classifier.load(register(temperature=temperature).path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        classifier.load(tmp_path / "none.onnx")


def test_a_picture_file_of_the_models_size_is_its_pixels(loaded):
    np.testing.assert_array_equal(loaded.array(encode(IMAGES[0, ..., 0])), IMAGES[0])
    np.testing.assert_array_equal(loaded.array(IMAGES[0]), IMAGES[0])
    np.testing.assert_array_equal(loaded.array(IMAGES[0, ..., 0]), IMAGES[0])


SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given((SIDES | SIDES.map(lambda sides: (*sides, 3))).flatmap(lambda shape: arrays(np.uint8, shape)))
def test_a_file_and_its_pixels_are_the_same_picture(loaded, pixels):
    found = loaded.array(pixels)
    assert (found.shape, found.dtype) == ((4, 4, 1), np.uint8)
    for form in ("PNG", "BMP", "TIFF"):
        np.testing.assert_array_equal(loaded.array(encode(pixels, form)), found)


def test_a_wider_or_higher_picture_gives_its_middle(loaded):
    wide = np.arange(32, dtype=np.uint8).reshape(4, 8)
    for pixels, middle in ((wide, wide[:, 2:6]), (wide.T.copy(), wide.T[2:6])):
        for picture in (pixels, pixels[..., None], encode(pixels)):
            np.testing.assert_array_equal(loaded.array(picture)[..., 0], middle)


def test_colour_becomes_grey_by_how_bright_it_is_seen(loaded):
    pixels = np.full((6, 4, 3), (10, 200, 30), np.uint8)
    grey = 0.299 * 10 + 0.587 * 200 + 0.114 * 30
    for picture, off in ((pixels, 1), (encode(pixels), 1), (encode(pixels, "JPEG"), 3)):
        assert abs(loaded.array(picture).astype(float) - grey).max() <= off


def test_a_photograph_on_its_side_is_turned_upright(loaded):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    pixels = IMAGES[0, ..., 0]
    np.testing.assert_array_equal(loaded.array(encode(pixels, exif=exif))[..., 0], np.rot90(pixels, -1))


def test_pictures_of_other_sizes_and_colours_are_brought_to_the_models(loaded, write_onnx, tmp_path):
    colour = classifier.load(write_onnx(tmp_path / "colour.onnx", sides=(4, 4, 3)))
    large = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    for picture in (large, encode(large), encode(large, "JPEG")):
        assert loaded.array(picture).shape == (4, 4, 1)
        assert colour.array(picture).shape == (4, 4, 3)
        assert abs(colour.array(picture)[2, 2].astype(int) - (10, 200, 30)).max() < 8
    assert colour.array(IMAGES[0]).shape == (4, 4, 3)
    assert (np.ptp(colour.array(IMAGES[0]), axis=-1) == 0).all()


def test_a_picture_above_the_limit_is_not_decoded(loaded):
    content = encode(np.zeros((50, 50), np.uint8))
    assert loaded.array(content, max_pixels=2500).shape == (4, 4, 1)
    with pytest.raises(pictures.UnreadablePicture, match="pixels"):
        loaded.array(content, max_pixels=2499)
