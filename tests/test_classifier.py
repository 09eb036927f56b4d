"""Pictures as they come in, class names out; from a registered version or from a file."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from helpers import artifacts, classifier, inference, pictures, registry

CLASSES = ["ant", "bee", "cat"]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)


@pytest.fixture
def file(write_onnx, tmp_path):
    return write_onnx(tmp_path / "model.onnx")


@pytest.fixture
def register(file, tmp_path):
    def make(**facts):
        known = {"classes": CLASSES, "input": [4, 4, 1]} | facts
        known = {name: value for name, value in known.items() if value is not None}
        examples = IMAGES, inference.load(file).predict(IMAGES)
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


def test_huge_logits_do_not_overflow(file):
    found = classifier.load(file)
    sure = classifier.Classifier("m", None, "", CLASSES, 1e-4, found.predictor).answer(IMAGES)
    assert np.isfinite(sure.probabilities).all()
    np.testing.assert_allclose(sure.probabilities.sum(axis=1), 1, atol=1e-6)


def test_no_pictures_have_no_answers(file):
    answers = classifier.load(file).answer(IMAGES[:0])
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
    for other in (json.dumps(card | {"sha256": "0" * 64}), "[]", "{"):
        file.with_name("model_card.json").write_text(other)
        assert classifier.load(file).classes == ["0", "1", "2"]


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model"):
        classifier.load(tmp_path / "none.onnx")


def encoded(array, form="PNG"):
    Image.fromarray(array).save(content := io.BytesIO(), form)
    return content.getvalue()


def test_a_picture_file_of_the_models_size_is_its_pixels(file):
    found = classifier.load(file)
    np.testing.assert_array_equal(found.array(encoded(IMAGES[0, ..., 0])), IMAGES[0])
    np.testing.assert_array_equal(found.array(IMAGES[0]), IMAGES[0])
    np.testing.assert_array_equal(found.array(IMAGES[0, ..., 0]), IMAGES[0])


def test_pictures_of_other_sizes_and_colours_are_brought_to_the_models(file, write_onnx, tmp_path):
    grey, colour = classifier.load(file), classifier.load(write_onnx(tmp_path / "colour.onnx", sides=(4, 4, 3)))
    large = np.full((40, 60, 3), (10, 200, 30), np.uint8)
    for given in (large, encoded(large), encoded(large, "JPEG")):
        assert grey.array(given).shape == (4, 4, 1)
        assert colour.array(given).shape == (4, 4, 3)
        assert abs(colour.array(given)[2, 2].astype(int) - (10, 200, 30)).max() < 8
    assert colour.array(IMAGES[0]).shape == (4, 4, 3)
    assert (np.ptp(colour.array(IMAGES[0]), axis=-1) == 0).all()


@pytest.mark.parametrize("content", [b"", b"hello", encoded(IMAGES[0, ..., 0])[:-30]])
def test_what_is_no_picture_is_said(file, content):
    with pytest.raises(pictures.UnreadablePicture):
        classifier.load(file).array(content)


def test_a_picture_above_the_limit_is_not_decoded(file):
    with pytest.raises(pictures.UnreadablePicture, match="pixels"):
        classifier.load(file).array(encoded(np.zeros((50, 50), np.uint8)), max_pixels=2499)
