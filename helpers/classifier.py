"""A model that takes pictures as they come and answers with class names: what serving and batch prediction share."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import artifacts, inference, pictures, registry
from helpers.inference import Predictor
from helpers.records import PIXELS


class Answers(NamedTuple):
    """What a classifier says about n pictures.

    Attributes:
        labels: The likeliest class of each, shape (n,), names.
        probabilities: float32, shape (n, classes); each row sums to 1.
        logits: float32, shape (n, classes), as the model file gave them.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class Classifier:
    """A loaded model with the names of its classes. Not for several threads at once.

    Attributes:
        name: Of the registered model, or the file's.
        version: Its number in the registry; None for a file that is not registered.
        checksum: SHA-256 of the model file: answers say by it what they came from.
        classes: Class names in the order of the logits.
        temperature: What logits are divided by before the softmax; 1 leaves them as they are.
        predictor: Raw pictures in, logits out.
        data_checksum: `DataSet.checksum` of what it learned from; "" where that is not known.
    """

    name: str
    version: int | None
    checksum: str
    classes: list[str]
    temperature: float
    predictor: Predictor
    data_checksum: str = ""

    def check_data(self, checksum: str) -> None:
        """Raises ValueError if it is known to have learned from another data set than that with this checksum.

        Its accuracy on the test pictures of another one, or of another split of the same, would flatter it.
        """
        if self.data_checksum not in ("", checksum):
            raise ValueError(
                f"{self.name} learned from other pictures, or from another split of them, than are prepared now: it "
                "may know the test pictures. Run the notebooks that made it again (`python -m helpers run 03 05`), or "
                "name its file as MODEL to take it all the same."
            )

    def array(self, picture: bytes | np.ndarray, *, max_pixels: int = PIXELS) -> np.ndarray:
        """Brings one picture to the model's size and channels, as notebook 01 brought those it was trained on.

        Args:
            picture: The bytes of a picture file, or uint8 pixels of shape (height, width[, 1 or 3]).
            max_pixels: Largest picture that will be decoded.

        Returns:
            uint8, shape (height, width, channels).

        Raises:
            pictures.UnreadablePicture: If it cannot be decoded; the message is a clause that says why.
        """
        height, width, channels = self.predictor.input_shape
        if isinstance(picture, np.ndarray):
            picture = picture[..., 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
            if picture.shape == (height, width, channels)[: picture.ndim] and (picture.ndim == 3) == (channels == 3):
                return picture.reshape(height, width, channels)
            return pictures.fit(pictures.Image.fromarray(picture), (height, width), channels)
        return pictures.fitted(pictures.header(picture, max_pixels=max_pixels), (height, width), channels)

    def answer(self, images: np.ndarray) -> Answers:
        """Classifies pictures.

        Args:
            images: uint8 of the model's shape, (n, height, width, channels), n may be 0.

        Raises:
            ValueError: If shape or dtype is another one.
        """
        logits = self.predictor.predict(images)
        scaled = logits / np.float32(self.temperature)
        probabilities = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        return Answers(np.asarray(self.classes)[logits.argmax(axis=1)], probabilities, logits)


def load(path: str | Path, *, threads: int | None = None) -> Classifier:
    """Loads a registered version, or a model file.

    Class names, and the temperature of the softmax if there is one, come from the version's manifest; for a model
    file from the `model_card.json` beside it if that card is of this very file. Where none is known, the classes
    are called by their numbers.

    Args:
        path: A version's folder in a registry, a model's folder there (for its live version), or a `.tflite`,
            `.tflite.xz`, `.onnx` or `.keras` file. A SavedModel, which is a program, is loaded as part of a version.
        threads: As in `inference.load`.

    Raises:
        FileNotFoundError: If nothing is there.
        ValueError: If it is no model, is damaged, or does not fit what its manifest says.
    """
    path = artifacts.expanded(path)
    if path.is_dir():
        return _registered(path.absolute(), threads)  # `.` has no name
    checksum = artifacts.sha256(path) if path.is_file() else ""
    predictor = inference.load(path, threads=threads)
    card = _card(path.with_name("model_card.json"), checksum)
    classes = card.get("classes") or [str(number) for number in range(predictor.classes)]
    temperature, data = card.get("temperature", 1.0), card.get("data_checksum", "")
    return _checked(path, Classifier(path.name, None, checksum, classes, temperature, predictor, data))


def _registered(folder: Path, threads: int | None) -> Classifier:
    if (folder / "promoted").is_file():
        live = registry.promoted(folder.name, root=folder.parent)
        return _registered(folder / str(live), threads)
    if not (folder / "manifest.json").is_file():
        raise ValueError(
            f"{folder} is no version of a registered model: name a folder such as registry/<name>/1, or promote one."
        )
    registry.verify(folder)
    manifest = registry.manifest(folder)
    path = registry.model_file(folder)
    facts = manifest.get("facts", {})
    predictor = inference.load(path, threads=threads, trusted=True)  # its checksum has just been compared
    classes = facts.get("classes") or [str(number) for number in range(predictor.classes)]
    version = int(folder.name) if folder.name.isdecimal() else None
    checksum = _checksum(manifest["files"], path.name)
    found = Classifier(
        manifest["name"], version, checksum, classes, facts.get("temperature", 1.0), predictor,
        facts.get("data_checksum", ""),
    )  # fmt: skip
    if "input" in facts and tuple(facts["input"]) != predictor.input_shape:
        raise ValueError(
            f"{path} takes pictures of shape {predictor.input_shape}, its manifest says {tuple(facts['input'])}: "
            "register the model again."
        )
    return _checked(path, found)


def _checksum(files: dict, name: str) -> str:
    """Returns the SHA-256 of a registered file; of a folder, that of its files' names and sums."""
    if name in files:
        return files[name]["sha256"]
    inside = sorted(f"{file} {entry['sha256']}" for file, entry in files.items() if file.startswith(f"{name}/"))
    return hashlib.sha256("\n".join(inside).encode()).hexdigest()


def _card(path: Path, checksum: str) -> dict:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return card if isinstance(card, dict) and card.get("sha256") == checksum else {}


def check_temperature(path: Path, temperature: object) -> None:
    """Raises ValueError unless the logits of a model can be divided by its temperature."""
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ValueError(
            f"The temperature of {path} is {temperature!r}, and logits are divided by it: register the model "
            "again with a number above 0."
        )


def _checked(path: Path, found: Classifier) -> Classifier:
    check_temperature(path, found.temperature)
    if len(found.classes) != found.predictor.classes:
        raise ValueError(
            f"{path} answers for {found.predictor.classes} classes, and {len(found.classes)} names are known: "
            "register the model again with the names of its classes."
        )
    return found
