"""Sets that nobody here made, from a folder to a served model: how each run ends, and how good the model gets."""

import json
import re
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from benchmarks import results

_PHOTOGRAPH = (2000, 3000)  # height and width that the photographs are brought to
_ICONS = Path("/usr/share/icons/oxygen/base/128x128")  # Debian's package oxygen-icon-theme: a folder for each use
_FIGURES = (("seconds", "the whole run", "s"), ("test_accuracy", "test accuracy", ""),
            ("folds_accuracy", "accuracy in folds", ""),
            ("smallest_file", "smallest file", "bytes"))  # fmt: skip


def measure(*, profile: str = "quick", sources: list[str] | None = None, **_: object) -> results.Result:
    """Runs all notebooks on each set: those given, or digits, characters, photographs and icons that packages bring.

    A set that cannot be learnt from ends with a sentence; it is in the row, and nothing is raised.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        given = ((Path(source).name, Path(source)) for source in sources or [])
        for name, source in given if sources else _bundled(Path(folder)):
            found[name] = _run(source, Path(folder) / "outputs" / name, profile)
            print(f"  {name}: {', '.join(f'{key} {value}' for key, value in found[name].items())}", file=sys.stderr)
    rows = [
        results.row(f"{name}, {what}", unit, [run[key]])
        for name, run in found.items()
        for key, what, unit in _FIGURES
        if key in run
    ]
    ended = [run["status"] == 0 or _is_a_sentence(run) for run in found.values()]
    return results.Result(
        question="Sets that nobody here made, from a folder to a served model: how does each run end?",
        held_equal=[f"all notebooks with the profile {profile}, nothing set by hand for any set"],
        repeats=1, machine=results.machine("tensorflow", "keras", "scikit-learn", "pillow"), rows=rows,
        goals=[results.goal("every set ends with a model, or with a sentence that says why not",
                            sum(ended) / len(ended), at_least=1, unit="of the sets",
                            why="a claim that holds for Fashion-MNIST failed on one of them")],
        runs={"profile": profile, "sets": found},
    )  # fmt: skip


def _is_a_sentence(run: dict) -> bool:
    """Says whether a run ended with a refusal of ours, and not with another error, a crash or a failed claim."""
    return run["status"] == 2 or re.search(r"raised (ValueError|SourceError|FileNotFoundError): ", run.get("why", ""))


def _run(source: Path, output: Path, profile: str) -> dict:
    chosen = [] if profile == "default" else ["--profile", profile]
    command = [sys.executable, "-m", "helpers", "run", "--source", str(source), *chosen]
    begun = time.perf_counter()
    ended = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True)
    row = {"status": ended.returncode, "seconds": round(time.perf_counter() - begun)}
    runs = [json.loads(path.read_text()) for path in sorted(output.glob("*/run.json"))]
    row["claims"] = f"{sum(run['held'] for run in runs)} of {sum(run['claimed'] for run in runs)}"
    if not runs:
        row["why"] = ended.stderr.strip().splitlines()[-1]
    elif failed := [run["error"] for run in runs if run["status"] == "failed"]:
        row["why"] = failed[0]
    if (card := output / "03_cnn_training" / "model_card.json").is_file():
        facts = json.loads(card.read_text())
        metrics = facts["metrics"]
        row |= {"classes": len(facts["classes"]), "input": facts["input"]["shape"][1:]}
        told = ("test_accuracy", "test_balanced", "folds")
        row |= {key: round(value, 3) for key, value in metrics.items() if key.startswith(told)}
    if (table := output / "05_compression" / "models.csv").is_file():
        row["smallest_file"] = int(pd.read_csv(table)["bytes"].min())
    return row


def _bundled(folder: Path) -> Iterator[tuple[str, Path]]:
    """Writes, one after the other, what packages bring along: a folder a set, a subfolder a class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.images * 255 / 16).round().astype(np.uint8), digits.target
    place = np.arange(len(labels))
    for name, chosen in {
        "digits": place, "uneven digits": np.flatnonzero((labels % 2 == 1) | (place % 10 == 0)),
        "two classes": np.flatnonzero(labels < 2), "one class": np.flatnonzero(labels == 0),
        "twelve pictures": np.concatenate([np.flatnonzero(labels == label)[:6] for label in (0, 1)]),
    }.items():  # fmt: skip
        for number in chosen:
            _save(Image.fromarray(images[number]), folder / name / str(labels[number]) / f"{number}.png")
        yield name, folder / name
    for name, write in (("a hundred characters", _characters), ("photographs", _photographs)):
        write(folder / name)
        yield name, folder / name
    if _ICONS.is_dir():
        for use in _ICONS.iterdir():
            if len([*use.glob("*.png")]) >= 30:
                shutil.copytree(use, folder / "icons" / use.name)
        yield "icons", folder / "icons"


def _characters(folder: Path) -> None:
    """Writes a hundred characters as the fonts of matplotlib have them."""
    import matplotlib

    greek = "αβγδεζηθλμξπρστφχψωΓΔΘΛΞΠΣΦΨΩ"
    characters = (string.digits + string.ascii_letters + greek + string.punctuation)[:100]
    fonts = Path(matplotlib.get_data_path(), "fonts", "ttf")
    for path in sorted([*fonts.glob("DejaVu*.ttf"), *fonts.glob("STIXGeneral*.ttf")]):
        font = ImageFont.truetype(path, 22)
        for character in characters:
            picture = Image.new("L", (32, 32))
            ImageDraw.Draw(picture).text((16, 16), character, fill=255, font=font, anchor="mm")
            _save(picture, folder / f"{ord(character):04x}" / f"{path.stem}.png")


def _photographs(folder: Path) -> None:
    """Writes parts of scikit-learn's two photographs, as large as cameras make them."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    for title, picture in zip(("temple", "flower"), load_sample_images().images, strict=True):
        height, width = picture.shape[0] * 3 // 4, picture.shape[1] * 3 // 4
        for number in range(20):
            top, left = random.integers(picture.shape[0] - height), random.integers(picture.shape[1] - width)
            part = Image.fromarray(picture[top : top + height, left : left + width]).resize(_PHOTOGRAPH[::-1])
            _save(part, folder / title / f"{number}.jpg")


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
