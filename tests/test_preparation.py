import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest

from helpers import cleaning, data, preparation, records, rehearsal
from helpers.records import SourceError
from helpers.rehearsal import encode


def soiled(tmp_path, count=200):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 8, 8), np.uint8)
    labels = np.array(["cat", "dog"])[random.integers(0, 2, count)]
    table = rehearsal.soil(images, labels, np.where(np.arange(count) < 150, "train", "test"), each=4, seed=0)
    return str(rehearsal.write_folder(table, tmp_path / "pets"))


def test_a_soiled_folder_becomes_a_clean_data_set(tmp_path):
    found = data.load(preparation.prepare(soiled(tmp_path), tmp_path / "dataset"), verify=True)
    assert found.classes == ["cat", "dog"]
    content = cleaning.exact_groups(found.images)
    taken = np.concatenate([content[indices] for indices in found.splits.values()])
    assert len(np.unique(taken)) == len(taken)
    assert len(found.splits["test"]) == 50 + 4  # the published test set, with the pictures that leaked into it
    assert found.manifest["findings"]["unreadable"] == 4
    assert found.manifest["source"] == "the folder pets"


def test_what_was_found_wrong_lies_with_the_data_set(tmp_path):
    folder = preparation.prepare(soiled(tmp_path), tmp_path / "dataset")
    found = pd.read_csv(folder / "findings.csv").set_index("name")
    unreadable = found[found["kind"] == "unreadable"]
    assert sorted(unreadable.index.str.rpartition("/").get_level_values(2)) == [
        f"unreadable-{number:02d}.png" for number in range(4)
    ]
    assert set(unreadable["action"]) == {"drop"}
    assert found["kind"].value_counts().to_dict() == data.load(folder).manifest["findings"]


def test_what_is_prepared_on_the_spot_says_from_which_source(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    source = soiled(tmp_path)
    assert preparation.prepared(source, tmp_path / "mine").manifest["parameters"]["SOURCE"] == source


def test_another_source_is_prepared_on_the_spot_and_what_01_made_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))
    with pytest.raises(FileNotFoundError, match="Notebook 01_data_preparation makes it"):
        preparation.prepared("", tmp_path / "mine")
    source = soiled(tmp_path)
    assert preparation.prepared(source, tmp_path / "mine").classes == ["cat", "dog"]
    assert (tmp_path / "mine").is_dir()
    folder = tmp_path / "outputs" / data.MADE_BY / "dataset"
    images = np.zeros((4, 2, 2, 1), np.uint8)
    data.write(folder, images, [0, 1, 0, 1], ["a", "b"], {"train": [0, 1]}, parameters={"SOURCE": source})
    assert preparation.prepared("", tmp_path / "none").classes == ["a", "b"]
    assert preparation.prepared(source, tmp_path / "none").classes == ["a", "b"]
    assert not (tmp_path / "none").exists()


@pytest.fixture
def prepared_by_01(tmp_path, monkeypatch):
    """Writes a data set as notebook 01 does it for a source; its classes are `a` and `b`."""
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "outputs"))

    def write(source, **facts):
        folder, images = tmp_path / "outputs" / data.MADE_BY / "dataset", np.zeros((4, 2, 2, 1), np.uint8)
        parameters = {"SOURCE": records.public(source)}
        data.write(folder, images, [0, 1, 0, 1], ["a", "b"], {"train": [0, 1]}, parameters=parameters, **facts)

    return write


def test_an_address_that_differs_in_its_query_is_another_source(tmp_path, prepared_by_01):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(f"{('cat', 'dog')[number % 2]}/{number}.png", encode(picture))

    def classes(source):
        return preparation.prepared(source, tmp_path / "mine").classes

    with rehearsal.serve(tmp_path) as server:
        url = f"{server.url}/pets.zip"
        prepared_by_01(f"{url}?set=1")
        assert classes(f"{url}?set=2") == ["cat", "dog"]
        prepared_by_01(f"{url}?set=1", source_sha256=preparation.fingerprint(f"{url}?set=1"))
        assert classes(f"{url}?set=1") == ["a", "b"]
        assert classes(f"{url}?set=2") == ["cat", "dog"]
        assert classes(url) == ["cat", "dog"]
        prepared_by_01(url)
        assert classes(url) == ["a", "b"]


def test_a_database_is_taken_as_01_has_queried_it_or_01_is_to_do_so_first(tmp_path, prepared_by_01):
    url = "postgresql://me:secret@host/pets"
    for made in (lambda: None, lambda: prepared_by_01("postgresql://host/dogs")):
        made()
        with pytest.raises(SourceError, match="prepare it with notebook 01 first") as caught:
            preparation.prepared(url, tmp_path / "mine")
        assert "secret" not in str(caught.value)
    for facts in ({}, {"source_sha256": preparation.fingerprint(url)}):
        prepared_by_01(url, **facts)
        assert preparation.prepared(url, tmp_path / "mine").classes == ["a", "b"]


def test_two_runs_write_the_same_bytes(tmp_path):
    source = soiled(tmp_path)
    folders = [preparation.prepare(source, tmp_path / name, seed=3) for name in ("one", "two")]
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two


def test_colour_photos_of_two_classes_and_many_sizes(tmp_path):
    random = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (4, 5, 3), np.uint8).repeat(10 + number, axis=0).repeat(12, axis=1)
        path.write_bytes(encode(pixels, "JPEG"))
    found = data.load(preparation.prepare(str(tmp_path / "photos"), tmp_path / "dataset", size=(32, 32)))
    assert found.shape == (32, 32, 3)
    assert {name: len(indices) for name, indices in found.splits.items()} == {"train": 30, "validation": 4, "test": 6}


def test_a_published_validation_set_is_kept():
    labels = np.tile([0, 1], 20)
    published = np.array(["train"] * 30 + ["validation"] * 10)
    parts = preparation.split(labels, published, np.arange(40), validation=0.5, test=0.2, seed=0)
    assert parts["validation"].tolist() == list(range(30, 40))
    assert len(parts["test"]) == 6
    assert sorted(np.concatenate(list(parts.values()))) == list(range(40))


def test_what_looks_like_a_picture_of_a_published_validation_set_is_left_out():
    published = np.array([""] * 30 + ["validation"] * 10)
    content = np.arange(40)
    content[0] = content[35]
    parts = preparation.split(np.tile([0, 1], 20), published, content, validation=0.1, test=0.2, seed=0)
    assert parts["validation"].tolist() == list(range(30, 40))
    assert sorted(np.concatenate(list(parts.values()))) == list(range(1, 40))


def test_one_class_is_one_sentence(tmp_path):
    path = tmp_path / "pets" / "cat" / "1.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(encode(np.arange(64, dtype=np.uint8).reshape(8, 8)))
    with pytest.raises(SourceError, match="leaves 1 picture of 1 class: learning needs at least two"):
        preparation.prepare(str(tmp_path / "pets"), tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_the_manifest_holds_no_secrets(tmp_path):
    soiled(tmp_path)
    shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path / "pets")
    with rehearsal.serve(tmp_path) as server:
        address = server.url.replace("//", "//me:secret@") + "/pets.zip?token=secret"
        folder = preparation.prepare(address, tmp_path / "dataset")
    assert "pets.zip" in data.load(folder).manifest["source"]
    assert "secret" not in (folder / "manifest.json").read_text()


def test_too_few_pictures_for_every_split_are_one_sentence():
    with pytest.raises(SourceError, match="4 pictures of 2 classes leave none for validation: bring more"):
        preparation.split(
            np.array([0, 0, 1, 1]), np.full(4, ""), np.arange(4), validation=0.1, test=0.1, seed=0
        )
