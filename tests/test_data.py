"""Facts about splits and about the prepared data set on disk."""

import datetime
import shutil
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import artifacts, data

labels_of_any_balance = st.lists(st.integers(0, 4), min_size=1, max_size=120).map(np.array)
shares = st.tuples(st.floats(0, 0.3), st.floats(0, 0.3))


def whole(parts):
    return np.concatenate(list(parts.values()))


# ── splits ──────────────────────────────────────────────────────────────────────────────────────


def test_split_of_two_classes_of_ten_by_hand():
    parts = data.split(np.repeat([0, 1], 10), validation=0.1, test=0.2, seed=3)
    assert list(parts) == ["train", "validation", "test"]
    for name, of_each_class in {"train": 7, "validation": 1, "test": 2}.items():
        assert np.bincount(np.repeat([0, 1], 10)[parts[name]]).tolist() == [of_each_class] * 2


@pytest.mark.parametrize(
    ("pictures", "train", "validation", "test"), [(1, 1, 0, 0), (2, 1, 0, 1), (3, 1, 1, 1), (4, 2, 1, 1)]
)
def test_tiny_class_serves_train_first_then_test_then_validation(pictures, train, validation, test):
    parts = data.split(np.zeros(pictures, int))
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [train, validation, test]


def test_large_group_goes_where_there_is_room_and_the_shares_hold():
    groups = np.concatenate([np.zeros(50, int), np.arange(1, 51)])  # one group of 50 pictures and 50 of one
    for seed in range(5):
        parts = data.split(np.zeros(100, int), groups=groups, seed=seed)
        assert [len(parts[name]) for name in ("train", "validation", "test")] == [75, 10, 15]
        assert set(range(50)) <= set(parts["train"].tolist())


def test_the_largest_group_is_placed_first_so_that_the_next_finds_room_and_the_shares_hold():
    groups = np.concatenate([np.repeat([100, 101], [50, 30]), np.arange(20)])
    for seed in range(8):  # each draws the groups in an order of its own
        parts = data.split(np.zeros(100, int), groups=groups, validation=0.2, test=0.3, seed=seed)
        assert [len(parts[name]) for name in ("train", "validation", "test")] == [50, 20, 30]


@given(labels_of_any_balance, shares, st.integers(0, 99))
def test_splits_are_disjoint_complete_sorted_and_stratified(labels, shares, seed):
    validation, test = shares
    parts = data.split(labels, validation=validation, test=test, seed=seed)
    assert sorted(whole(parts)) == list(range(len(labels)))
    for name, share in {"validation": validation, "test": test}.items():
        assert np.all(np.diff(parts[name]) > 0)
        for label in np.unique(labels):
            assert abs(np.sum(labels[parts[name]] == label) - share * np.sum(labels == label)) <= 1 + 1e-6
    assert set(labels[parts["train"]]) == set(labels), "every class is trained on"


@given(st.data(), labels_of_any_balance, st.integers(0, 99))
def test_groups_never_straddle_two_splits(draw, labels, seed):
    groups = np.array(draw.draw(st.lists(st.integers(0, 30), min_size=len(labels), max_size=len(labels))))
    parts = data.split(labels, groups=groups, seed=seed)
    assert sorted(whole(parts)) == list(range(len(labels)))
    owners = [set(groups[indices]) for indices in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    for name, share in {"validation": 0.1, "test": 0.15}.items():
        first = labels[[np.flatnonzero(groups == group)[0] for group in groups]]  # a group counts under one class
        for label in np.unique(first):
            largest = np.bincount(groups).max()
            assert abs(np.sum(first[parts[name]] == label) - share * np.sum(first == label)) <= largest + 1e-6


@given(st.data(), labels_of_any_balance, st.integers(0, 99))
def test_fixed_test_stays_and_its_relatives_are_left_out(draw, labels, seed):
    one_each = {"min_size": len(labels), "max_size": len(labels)}
    groups = np.array(draw.draw(st.lists(st.integers(0, 60), **one_each)))
    fixed = np.array(draw.draw(st.lists(st.booleans(), **one_each)))
    parts = data.split(labels, groups=groups, fixed_test=fixed, seed=seed)
    np.testing.assert_array_equal(parts["test"], np.flatnonzero(fixed))
    left_out = np.isin(groups, groups[fixed]) & ~fixed
    assert sorted(whole(parts)) == np.flatnonzero(~left_out).tolist()
    assert not set(groups[parts["train"]]) & set(groups[parts["validation"]])


def test_published_test_set_leaves_a_tenth_of_the_rest_for_validation():
    labels = np.tile(np.arange(10), 700)
    parts = data.split(labels, fixed_test=np.arange(7000) >= 6000, validation=0.1, seed=1)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [5400, 600, 1000]
    assert np.bincount(labels[parts["validation"]]).tolist() == [60] * 10


def test_same_seed_same_split_and_another_seed_another():
    labels = np.tile(np.arange(5), 40)
    first, again, other = (data.split(labels, seed=seed) for seed in (7, 7, 8))
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["test"], other["test"])


def test_groups_and_labels_may_be_texts():
    parts = data.split(np.array(["cat", "dog"] * 10), groups=np.array([f"id{i // 2}" for i in range(20)]))
    assert sorted(whole(parts)) == list(range(20))


def test_empty_set_gives_empty_splits():
    assert [len(part) for part in data.split(np.array([], int)).values()] == [0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.6, "test": 0.5}, "together below 1"),
        ({"validation": -0.1}, "at least 0"),
        ({"groups": [1, 2]}, r"one entry for each picture.*\(3,\), \(2,\)"),
    ],
)
def test_bad_split_says_what_was_received(options, message):
    with pytest.raises(ValueError, match=message):
        data.split(np.array([0, 1, 2]), **options)


# ── on disk ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def small():
    random = np.random.default_rng(0)
    labels = np.arange(24) % 3
    return {
        "images": random.integers(0, 256, (24, 5, 4, 3), dtype=np.uint8),
        "labels": labels,
        "classes": ["ant", "bee", "Käfer\n"],
        "splits": data.split(labels),
        "parameters": {"SEED": 0},
    }


def test_written_set_is_read_back_equal_and_memory_mapped(tmp_path, small):
    data.write(tmp_path / "set", **small, source="drawn")
    read = data.load(tmp_path / "set", verify=True)
    assert isinstance(read.images, np.memmap)
    assert not read.images.flags.writeable
    np.testing.assert_array_equal(read.images, small["images"])
    np.testing.assert_array_equal(read.labels, small["labels"])
    assert (read.classes, read.shape) == (small["classes"], (5, 4, 3))
    assert read.manifest["source"] == "drawn"
    in_train = read.labels[read.splits["train"]]
    assert read.manifest["counts"]["train"] == np.bincount(in_train, minlength=len(read.classes)).tolist()
    images, labels = read.split("test")
    np.testing.assert_array_equal(images, small["images"][small["splits"]["test"]])
    assert labels.dtype == np.int64


def test_split_leaves_its_pictures_on_disk_until_they_are_asked_for(tmp_path, small):
    read = data.load(data.write(tmp_path / "set", **small))
    images, labels = read.split("train", at_most=7)
    row = {picture.tobytes(): number for number, picture in enumerate(small["images"])}
    drawn = [row[picture.tobytes()] for picture in images]
    assert set(drawn) <= set(small["splits"]["train"])
    asked = small["images"][drawn]
    assert isinstance(images._array, np.memmap)
    assert (len(images), images.shape, images.dtype, len(labels)) == (7, asked.shape, np.uint8, 7)
    for rows in (3, slice(2, 5), np.array([6, 0]), np.arange(7) % 2 == 0):
        np.testing.assert_array_equal(images[rows], asked[rows])
        assert type(images[rows]) is np.ndarray


def test_a_part_of_a_split_is_a_fair_sample_of_a_folder_and_always_the_same(tmp_path):
    labels = np.repeat(np.arange(5), 200)  # as a folder is collected: class by class
    images = np.zeros((1000, 2, 2, 1), np.uint8)
    written = data.write(tmp_path / "set", images, labels, list("abcde"), data.split(labels), parameters={})
    (_, drawn), (_, again) = (data.load(written).split("train", at_most=100) for _ in range(2))
    np.testing.assert_array_equal(drawn, again)
    assert np.bincount(drawn, minlength=5).min() >= 10
    _, everything = data.load(written).split("train", at_most=10**6)
    assert len(everything) == len(data.load(written).splits["train"])
    assert np.bincount(everything[:100], minlength=5).min() >= 10


def test_chunks_and_grey_pictures_give_the_bytes_of_one_array(tmp_path, small):
    grey = small["images"][..., 0]
    data.write(tmp_path / "whole", **{**small, "images": grey[..., None]})
    data.write(tmp_path / "chunks", **{**small, "images": (grey[i : i + 7] for i in range(0, 24, 7))})
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "chunks" / file.name).read_bytes(), file.name
    assert data.load(tmp_path / "whole").checksum == data.load(tmp_path / "chunks").checksum


@pytest.mark.parametrize("changed", ["a pixel", "a label", "a class name", "a split"])
def test_checksum_changes_with_each_part_of_the_set(tmp_path, small, changed):
    data.write(tmp_path / "a", **small)
    if changed == "a pixel":
        small["images"][3, 2, 1, 0] ^= 1
    elif changed == "a label":
        small["labels"][3] = 1
    elif changed == "a class name":
        small["classes"][1] = "wasp"
    else:
        small["splits"]["train"] = small["splits"]["train"][1:]
    data.write(tmp_path / "b", **small)
    assert data.load(tmp_path / "a").checksum != data.load(tmp_path / "b").checksum


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((24, 5, 4, 3))}, r"uint8.*received float64"),
        ({"images": np.zeros((23, 5, 4, 3), np.uint8)}, "24 labels for 23 pictures"),
        ({"images": [np.zeros((12, 5, 4, 3), np.uint8), np.zeros((12, 4, 4, 3), np.uint8)]}, "one shape"),
        ({"images": []}, "24 labels for 0 pictures"),
        ({"classes": ["ant", "bee"]}, "positions in the 2 classes; received 0 to 2"),
        ({"classes": ["ant", "bee", "bee"]}, "a name twice"),
        ({"splits": {"train": [0, 1], "test": [1]}}, "in two splits"),
        ({"splits": {"train": [24]}}, "from 0 to 23; received 24"),
        ({"labels": np.array([], int), "splits": {}}, "no picture"),
    ],
)
def test_set_that_does_not_fit_together_is_refused_and_leaves_the_old_one(tmp_path, small, change, message):
    data.write(tmp_path / "set", **small)
    before = data.load(tmp_path / "set").checksum
    with pytest.raises(ValueError, match=message):
        data.write(tmp_path / "set", **{**small, **change})
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]
    assert data.load(tmp_path / "set", verify=True).checksum == before


def test_missing_set_names_the_notebook_that_makes_it():
    with pytest.raises(FileNotFoundError, match="01_data_preparation makes it"):
        data.load()


def test_default_set_is_that_of_notebook_01(small):
    data.write(artifacts.outputs() / "01_data_preparation" / "dataset", **small)
    assert repr(data.load()).startswith("DataSet(24 pictures of (5, 4, 3), 3 classes; train ")


def test_file_that_is_cut_short_or_changed_is_found(tmp_path, small):
    folder = data.write(tmp_path / "set", **small)
    shutil.copytree(folder, tmp_path / "cut")
    with open(tmp_path / "cut" / "images.npy", "r+b") as file:
        file.truncate(500)
    with pytest.raises(ValueError, match="not the file that its manifest describes"):
        data.load(tmp_path / "cut")
    content = bytearray((folder / "images.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images.npy").write_bytes(content)
    with pytest.raises(ValueError, match="run notebook 01_data_preparation again"):
        data.load(folder, verify=True)


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"files": {"images.npy": 3}}'])
def test_manifest_that_is_none_is_one_sentence(tmp_path, small, content):
    folder = data.write(tmp_path / "set", **small)
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match="is no manifest of a data set: run notebook 01_data_preparation again"):
        data.load(folder)


def test_unknown_split_names_those_there_are(tmp_path, small):
    with pytest.raises(KeyError, match="train, validation, test"):
        data.load(data.write(tmp_path / "set", **small)).split("dev")


def test_manifest_holds_no_time_and_no_path(tmp_path, small):
    folder = data.write(tmp_path / "set", **small)
    text = (folder / "manifest.json").read_text()
    assert str(tmp_path) not in text
    now = datetime.datetime.now()
    assert now.date().isoformat() not in text
    assert str(int(now.timestamp()))[:6] not in text


WRITE_A_LARGE_SET = """
import resource, sys
import numpy as np
from helpers import data
limit = int(sys.argv[2]) * 2**20
before = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (before + limit, before + limit))
chunks = (np.full((1000, 32, 32, 3), i, np.uint8) for i in range(50))   # 50 chunks of 3 MB: 147 MB
images = chunks if sys.argv[3] == "chunks" else np.concatenate(list(chunks))
labels = np.zeros(50_000, int)
data.write(sys.argv[1], images, labels, ["a"], data.split(labels), parameters={})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("how", "fits"), [("chunks", True), ("at once", False)])
def test_set_larger_than_memory_is_written_in_chunks(tmp_path, how, fits):
    command = [sys.executable, "-c", WRITE_A_LARGE_SET, str(tmp_path / "set"), "64", how]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=artifacts.root())
    assert (ended.returncode == 0) is fits, ended.stderr
    assert (tmp_path / "set").exists() is fits
    if not fits:
        assert "MemoryError" in ended.stderr


@settings(max_examples=20)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 3]), st.integers(1, 11))
def test_any_shape_in_any_chunks_comes_back(tmp_path_factory, n, height, width, channels, chunk):
    images = np.random.default_rng(n).integers(0, 256, (n, height, width, channels), dtype=np.uint8)
    labels = np.arange(n) % 2
    folder = data.write(
        tmp_path_factory.mktemp("set"), (images[i : i + chunk] for i in range(0, n, chunk)), labels, ["a", "b"],
        data.split(labels), parameters={},
    )
    np.testing.assert_array_equal(data.load(folder).images, images)
