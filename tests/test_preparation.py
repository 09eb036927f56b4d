import hashlib
import os
import shutil
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import artifacts, cleaning, data, pictures, preparation, records, rehearsal, sources
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


def test_what_is_prepared_on_the_spot_says_from_which_source(tmp_path):
    source = soiled(tmp_path)
    assert preparation.prepared(source, tmp_path / "mine").manifest["parameters"]["SOURCE"] == source


def test_another_source_is_prepared_on_the_spot_and_what_01_made_is_used(tmp_path, prepared_by_01):
    with pytest.raises(FileNotFoundError, match="Notebook 01_data_preparation makes it"):
        preparation.prepared("", tmp_path / "mine")
    source = soiled(tmp_path)
    assert preparation.prepared(source, tmp_path / "mine").classes == ["cat", "dog"]
    assert (tmp_path / "mine").is_dir()
    recorded_by_01(prepared_by_01, source)
    assert preparation.prepared("", tmp_path / "none").classes == ["a", "b"]
    assert preparation.prepared(source, tmp_path / "none").classes == ["a", "b"]
    assert not (tmp_path / "none").exists()


@pytest.fixture
def prepared_by_01():
    """Writes a data set as notebook 01 does it for a source; its classes are `a` and `b`."""

    def write(source, settings=(), **facts):
        folder, images = artifacts.outputs() / data.MADE_BY / "dataset", np.zeros((4, 2, 2, 1), np.uint8)
        parameters = {"SOURCE": records.public(source), **dict(settings)}
        data.write(folder, images, [0, 1, 0, 1], ["a", "b"], {"train": [0, 1]}, parameters=parameters, **facts)

    return write


def add_pictures(folder, *labels, first=0, count=20):
    random = np.random.default_rng(first)
    for number in range(first, first + count):
        path = folder / labels[number % len(labels)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(random.integers(0, 256, (8, 8), np.uint8)))
    return folder


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """A folder of pictures, in the folder from which a command is given."""
    monkeypatch.chdir(tmp_path)
    return add_pictures(tmp_path / "pets", "cat", "dog")


@pytest.fixture
def taken(tmp_path, capsys):
    """Returns the classes of what `prepared` opens for a source, and what it says."""

    def take(source, **options):
        capsys.readouterr()
        found = preparation.prepared(str(source), tmp_path / "mine", **options)
        return found.classes, capsys.readouterr().err

    return take


def recorded_by_01(prepared_by_01, source, settings=()):
    prepared_by_01(source, settings, source_sha256=preparation.fingerprint(source))


def test_a_folder_is_the_same_source_however_its_path_is_spelled(prepared_by_01, pets, taken, monkeypatch):
    (pets.parent / "link").symlink_to(pets)
    monkeypatch.setenv("HOME", str(pets.parent))
    recorded_by_01(prepared_by_01, "pets")
    for source in ("pets", "./pets", "pets/", pets, "link", "~/pets", "../" + pets.parent.name + "/pets"):
        assert taken(source) == (["a", "b"], "")
    monkeypatch.chdir(pets)
    assert taken("../pets") == (["a", "b"], "")


def test_one_name_in_two_folders_is_two_sources(tmp_path, prepared_by_01, pets, taken, monkeypatch):
    recorded_by_01(prepared_by_01, "pets")
    add_pictures(tmp_path / "other" / "pets", "hen", "owl")
    monkeypatch.chdir(tmp_path / "other")
    line = "pets lies in another place than what notebook 01 has prepared: prepared here, with the defaults.\n"
    assert taken("pets") == (["hen", "owl"], line)


def added(pets):
    add_pictures(pets, "hen", first=100)


def replaced(pets):
    (pets / "cat" / "0.png").write_bytes((pets / "cat" / "0.png").read_bytes() + b"more")


def touched(pets):
    os.utime(pets / "cat" / "0.png", (1, 1))


def removed(pets):
    (pets / "cat" / "0.png").unlink()


def renamed(pets):
    (pets / "cat" / "0.png").rename(pets / "dog" / "0.png")


@pytest.mark.parametrize("change", [added, replaced, touched, removed, renamed])
def test_files_that_have_changed_are_prepared_anew(prepared_by_01, pets, taken, change):
    recorded_by_01(prepared_by_01, "pets")
    change(pets)
    line = "The files of ./pets are not those that notebook 01 has prepared: prepared anew, with its settings.\n"
    assert taken("./pets") == (["cat", "dog"] + ["hen"] * (change is added), line)


def test_what_a_desktop_leaves_behind_changes_nothing(prepared_by_01, pets, taken):
    recorded_by_01(prepared_by_01, "pets")
    (pets / ".DS_Store").write_text("x")
    assert taken("pets") == (["a", "b"], "")


def test_changed_files_get_the_settings_of_01(tmp_path, prepared_by_01, pets, taken):
    (tmp_path / "verdicts.csv").write_text("name,verdict\ncat/copy.png,drop\n")
    settings = {"IMAGE_SIZE": 4, "CHANNELS": 3, "VALIDATION_SHARE": 0.0, "TEST_SHARE": 0.5, "NEAR_DUPLICATE": 0.99,
                "DECISIONS": "verdicts.csv", "QUERY": "", "SEED": 5, "LAB_PICTURES": 400}  # fmt: skip
    recorded_by_01(prepared_by_01, "pets", settings)
    shutil.copy(pets / "cat" / "0.png", pets / "cat" / "copy.png")
    assert "with its settings" in taken("pets", seed=1)[1]
    found = data.load(tmp_path / "mine")
    assert found.shape == (4, 4, 3)
    assert {name: len(indices) for name, indices in found.splits.items()} == {"train": 10, "validation": 0, "test": 10}
    assert found.manifest["parameters"] == settings | {"SOURCE": "pets"}
    told = pd.read_csv(tmp_path / "mine" / "findings.csv").set_index("name")
    assert told.loc["cat/copy.png", "detail"].endswith("; so you decided")
    recorded_by_01(prepared_by_01, "pets", settings | {"SEED": 6})
    touched(pets)
    taken("pets", seed=1)
    assert found.splits["test"].tolist() != data.load(tmp_path / "mine").splits["test"].tolist()


@pytest.mark.parametrize(("verdicts", "why"), [(None, "There is no file verdicts.csv"), ("x/9.png", "no finding abo")])
def test_verdicts_that_do_not_fit_changed_files_are_one_sentence(prepared_by_01, pets, taken, verdicts, why):
    if verdicts:
        (pets.parent / "verdicts.csv").write_text(f"name,verdict\n{verdicts},drop\n")
    recorded_by_01(prepared_by_01, "pets", {"DECISIONS": "verdicts.csv"})
    added(pets)
    with pytest.raises(SourceError, match=f"The verdicts of verdicts.csv do not fit pets any more: .*{why}") as caught:
        taken("pets")
    assert str(caught.value).endswith(". Run notebook 01 on it again, with other DECISIONS or none.")


def packed(pets):
    with zipfile.ZipFile("pets.zip", "w") as archive:
        for path in sorted(pets.rglob("*.png")):
            archive.write(path, path.relative_to(pets))
    return "pets.zip"


def listed(pets):
    names = sorted(path.relative_to(pets.parent) for path in pets.rglob("*.png"))
    (pets.parent / "pets.csv").write_text("path,label\n" + "".join(f"{name},{name.parts[1]}\n" for name in names))
    return "pets.csv"


def stored(pets):
    (pets.parent / "pets.db").unlink(missing_ok=True)
    rows = [[path.read_bytes(), path.parent.name, path.name, ""] for path in sorted(pets.rglob("*.png"))]
    rehearsal.write_sqlite(pd.DataFrame(rows, columns=["picture", "label", "name", "split"]), pets.parent / "pets.db")
    return "sqlite:///pets.db"


@pytest.mark.parametrize("write", [packed, listed, stored])
def test_archives_tables_and_sqlite_files_are_told_apart_as_folders_are(prepared_by_01, pets, taken, write):
    source = write(pets)
    other = source.replace("pets", f"{pets.parent}/pets")
    recorded_by_01(prepared_by_01, source, {"QUERY": "SELECT picture, label FROM pictures ORDER BY id"})
    assert taken(source) == taken(other) == (["a", "b"], "")
    added(pets)
    write(pets)
    for one in (source, other):
        classes, line = taken(one)
        assert classes == ["cat", "dog", "hen"]
        assert line.startswith(f"The files of {one} are not those")


def test_a_table_whose_pictures_have_changed_has_changed(prepared_by_01, pets, taken):
    recorded_by_01(prepared_by_01, listed(pets))
    replaced(pets)
    assert taken("pets.csv")[0] == ["cat", "dog"]


@pytest.mark.parametrize("write", [lambda pets: "pets", packed, listed, stored])
def test_what_01_made_of_a_source_that_is_gone_is_used(prepared_by_01, pets, taken, write):
    source = write(pets)
    recorded_by_01(prepared_by_01, source)
    pets.rename("elsewhere")
    for path in pets.parent.glob("pets.*"):
        path.unlink()
    line = f"{source} is not there any more: what notebook 01 has prepared of it is used.\n"
    assert taken(source) == (["a", "b"], line)
    assert taken("") == (["a", "b"], "")


def test_what_01_made_of_a_source_that_cannot_be_read_is_used(prepared_by_01, pets, taken, monkeypatch):
    recorded_by_01(prepared_by_01, "pets")
    touched(pets)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root
    line = "pets cannot be read any more: what notebook 01 has prepared of it is used.\n"
    assert taken("pets") == (["a", "b"], line)


def test_a_name_that_is_gone_here_and_was_prepared_elsewhere_is_not_there(
    tmp_path, prepared_by_01, pets, taken, monkeypatch
):
    recorded_by_01(prepared_by_01, "pets")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with pytest.raises(SourceError, match="There is no 'pets'"):
        taken("pets")


def test_a_fingerprint_shows_no_path_and_that_of_an_address_and_of_the_embedded_set_are_of_its_name(pets):
    sign = preparation.fingerprint("pets")
    assert set(sign) <= set("0123456789abcdef-")
    assert sign == preparation.fingerprint(str(pets))
    for source in ("", "https://host/pets.zip", "postgresql://host/pets", "sqlite://", "sqlite:///:memory:"):
        assert preparation.fingerprint(source) == hashlib.sha256(source.encode()).hexdigest()


def test_an_address_that_differs_in_its_query_is_another_source(tmp_path, prepared_by_01):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 4, 4), np.uint8)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for number, picture in enumerate(pictures):
            archive.writestr(f"{('cat', 'dog')[number % 2]}/{number}.png", encode(picture))

    def classes(source):
        return preparation.prepared(source, tmp_path / "mine").classes

    with rehearsal.serve(tmp_path) as server:
        url = f"{server.url}/pets.zip"
        prepared_by_01(f"{url}?set=1", source_sha256=preparation.fingerprint(f"{url}?set=1"))
        assert classes(f"{url}?set=1") == ["a", "b"]
        assert classes(f"{url}?set=2") == ["cat", "dog"]
        assert classes(url) == ["cat", "dog"]


def test_a_database_is_taken_as_01_has_queried_it_or_01_is_to_do_so_first(tmp_path, prepared_by_01):
    url = "postgresql://me:secret@host/pets"
    for made in (lambda: None, lambda: prepared_by_01("postgresql://host/dogs")):
        made()
        with pytest.raises(SourceError, match="prepare it with notebook 01 first") as caught:
            preparation.prepared(url, tmp_path / "mine")
        assert "secret" not in str(caught.value)
    recorded_by_01(prepared_by_01, url)
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
    found = data.load(preparation.prepare(str(tmp_path / "photos"), tmp_path / "dataset"))
    assert found.shape == (64, 33, 3)
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


def test_classes_that_may_be_one_and_those_that_a_split_lacks_are_said_in_words(tmp_path):
    random = np.random.default_rng(0)
    for name in ("train/cat", "train/Cat", "train/dog", "test/cat", "test/Cat"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(3):
            picture = encode(random.integers(0, 256, (8, 8), np.uint8))
            (tmp_path / "pets" / name / f"{number}.png").write_bytes(picture)
    collection = sources.collect(str(tmp_path / "pets"))
    findings, _ = cleaning.inspect(collection)
    said = preparation.in_words(collection, findings, np.arange(15), {"train": np.arange(9), "test": np.arange(9, 15)})
    assert "Look at these classes: Cat differs only in case from cat, dog is left with no picture in test." in said


def test_pictures_of_16_bits_that_come_in_dark_are_said_in_words(tmp_path):
    random = np.random.default_rng(0)
    for name, brightest in (("dim", 4096), ("full", 65536)):
        (tmp_path / "cells" / name).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(0, brightest, (8, 8), np.uint16)
            Image.fromarray(pixels).save(tmp_path / "cells" / name / f"{number}.png")
    collection = sources.collect(str(tmp_path / "cells"))
    findings, _ = cleaning.inspect(collection)
    said = preparation.in_words(collection, findings, np.arange(6), {"train": np.arange(4), "test": np.arange(4, 6)})
    assert "Of 16 bits, and dark at 8: dim/0.png, dim/1.png, dim/2.png. Multiply the values" in said


def test_what_came_in_and_what_did_not_is_said_in_words(tmp_path):
    random = np.random.default_rng(0)
    files = {f"{name}/{number}.png": encode(random.integers(0, 256, (8, 8), np.uint8))
             for name in ("cat", "dog", "dog/puppy") for number in range(9)}  # fmt: skip
    files |= {"dog/again.png": files["dog/0.png"], "cat/a.txt": b"text", "cat/b.txt": b"text", "ox/1.png": b""}
    for name, content in files.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).write_bytes(content)
    collection = sources.collect(str(tmp_path / "pets"))
    findings, _ = cleaning.inspect(collection)
    rows = cleaning.kept(len(collection.labels), findings)
    splits, formats = {"train": np.arange(20), "test": np.arange(20, 27)}, ", ".join(pictures.FORMATS)
    assert preparation.in_words(collection, findings, rows, splits).splitlines() == [
        "28 pictures came in and 27 stay: 20 for train, 7 for test.",
        "Left out: exact duplicate 1.",
        f"2 did not come in, such as cat/a.txt: is not a picture of a format that is read ({formats}).",
        "ox/1.png is empty (0 bytes).",
        "Folders within a class count as that class: dog/puppy.",
        "Of 2 classes dog has most pictures, 18, and cat fewest, 9. Whoever always says dog is right on 0.667 of them.",
        "7 test pictures are few: notebook 03 lets each picture be judged by a model that has not seen it.",
    ]
