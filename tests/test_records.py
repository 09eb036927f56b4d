"""Facts about layouts: which folders are classes, which are splits, and what lies beside them."""

import zipfile

import numpy as np
import pytest

from helpers import sources
from helpers.rehearsal import encode

GREY = encode(np.arange(30, dtype=np.uint8).reshape(5, 6))
SPLITS = {f"{split}/{label}/{split}.png": GREY for split in ("train", "test") for label in ("cat", "dog")}
WRAPPED = {f"pets/{name}": picture for name, picture in SPLITS.items()}
BESIDE = {
    "a text": {**SPLITS, "docs/readme.txt": b"hello"},
    "pictures without a class": {**SPLITS, "unlabelled/1.png": GREY},
    "another spelling": {name.replace("test/", "tests/"): picture for name, picture in SPLITS.items()},
    "a licence beside what wraps them": {**WRAPPED, "licences/LICENSE": b"free"},
    "another class of the set": {**SPLITS, "extra/cat/1.png": GREY},
    "a text inside what wraps them": {**WRAPPED, "pets/docs/readme.txt": b"hello"},
}


def as_folder(files, root):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def as_zip(files, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return str(path)


@pytest.mark.parametrize("write", [as_folder, as_zip])
@pytest.mark.parametrize("files", BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_splits_makes_no_classes_of_them(files, write, tmp_path):
    found = sources.collect(write(files, tmp_path / "pets"))
    assert found.classes == ["cat", "dog"]
    placed = sorted(zip(found.labels, found.splits, strict=True))
    assert [(label, split) for label, split in placed if label] == [
        ("cat", "test"), ("cat", "train"), ("dog", "test"), ("dog", "train"),
    ]  # fmt: skip
    beside = {name for name in files if not name.endswith(("train.png", "test.png"))}
    unlabelled = found.names[found.labels == ""].tolist()
    assert {*unlabelled, *found.findings["name"]} == beside  # none of it is lost in silence
