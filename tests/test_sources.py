import contextlib
import gzip
import hashlib
import io
import json
import os
import sqlite3
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import artifacts, cleaning, pictures, records, rehearsal, sources
from helpers.records import SourceError
from helpers.rehearsal import encode
from helpers.sources import collect, open_source

GREY = np.arange(30, dtype=np.uint8).reshape(5, 6)
COLOUR = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Writes files into a folder and returns it."""

    def write(files):
        for name, content in files.items():
            path = os.path.join(tmp_path / "pets", name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(content)
        return str(tmp_path / "pets")

    return write


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


# Folders ---------------------------------------------------------------------------------------


def test_the_first_folder_is_the_class_and_deeper_ones_group(tree):
    root = tree({"cat/1.png": encode(GREY), "cat/monday/2.png": encode(GREY), "dog/3.png": encode(GREY)})
    found = collect(root)
    assert found.names.tolist() == ["cat/1.png", "cat/monday/2.png", "dog/3.png"]
    assert found.labels.tolist() == ["cat", "cat", "dog"]
    assert found.splits.tolist() == ["", "", ""]
    assert found.classes == ["cat", "dog"]


def test_folders_named_after_splits_are_published_splits(tree):
    root = tree({"training/cat/1.png": encode(GREY), "val/cat/2.png": encode(GREY), "Test/dog/x/3.png": encode(GREY)})
    found = collect(root)
    assert sorted(zip(found.labels, found.splits, strict=True)) == [
        ("cat", "train"), ("cat", "validation"), ("dog", "test"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["cat/1", "test/2"], [("cat", None), ("test", None)]),  # a class that happens to be called test
        (["train/1", "test/2"], [("train", None), ("test", None)]),  # nothing lies deeper
        (["pets/cat/1", "pets/dog/2"], [("cat", None), ("dog", None)]),
        (["pets/LICENSE", "pets/cat/1", "pets/dog/2"], [(None, None), ("cat", None), ("dog", None)]),
        (["README", "pets/train/cat/1", "pets/test/dog/2"], [(None, None), ("cat", "train"), ("dog", "test")]),
        (["cat/1"], [("cat", None)]),
        (["cat/monday/1", "dog/2"], [("cat", None), ("dog", None)]),
        (["1", "cat/2"], [(None, None), ("cat", None)]),
        (["data/train/1", "data/train/cat/2"], [(None, "train"), ("cat", "train")]),
        (["cat/train/monday/1", "dog/test/monday/2"], [("cat", None), ("dog", None)]),
        (["cat/train/mon/1", "cat/test/mon/1", "dog/train/mon/1", "dog/test/mon/1"],
         [("cat", None), ("cat", None), ("dog", None), ("dog", None)]),
        (["bus/1", "train/monday/2", "car/3"], [("bus", None), ("train", None), ("car", None)]),
        (["train/1", "test/2", "cat/3"], [("train", None), ("test", None), ("cat", None)]),  # no class lies deeper
    ],
)  # fmt: skip
def test_folders_are_classes_splits_or_groups(paths, expected):
    parts = [tuple(path.split("/")) for path in paths]
    found = records.layout(parts)
    assert [found.place(each) for each in parts] == expected


def test_what_is_no_picture_becomes_a_finding_and_the_rest_is_collected(tree):
    root = tree(
        {
            "cat/1.png": encode(GREY), "cat/empty.png": b"", "cat/drawing.png": b"<svg/>", "cat/run.png": b"#!/bin/sh",
            "cat/half.png": encode(COLOUR)[:60], "dog/鞋\n.png": encode(GREY), "dog/notes.txt": b"hello",
            "cat/.hidden": b"",
        }
    )  # fmt: skip
    found = collect(root)
    assert found.names.tolist() == ["cat/1.png", "dog/鞋\\n.png"]
    assert dict(zip(found.findings["name"], found.findings["detail"], strict=True)) == {
        "cat/drawing.png": "is an SVG drawing, which has no pixels",
        "cat/empty.png": "is empty (0 bytes)",
        "cat/half.png": "is cut short",
        "cat/run.png": "is a script",
        "dog/notes.txt": "is not a picture of a format that is read (PNG, JPEG, GIF, BMP, TIFF, WEBP, PPM)",
    }
    assert set(found.findings["action"]) == {"drop"}


def test_bytes_in_names_that_are_no_text_print_safely(tmp_path, tree):
    root = tree({"cat/1.png": encode(GREY)})
    with open(os.fsencode(root) + b"/cat/\xff\xfe.png", "wb") as file:
        file.write(encode(GREY))
    names = collect(root).names.tolist()
    assert names[0] == "cat/1.png"
    names[1].encode("utf-8")


def test_links_that_lead_out_are_findings(tmp_path, tree):
    root = tree({"cat/1.png": encode(GREY)})
    (tmp_path / "secret.png").write_bytes(encode(GREY))
    os.symlink(tmp_path / "secret.png", f"{root}/cat/out.png")
    os.symlink(f"{root}/cat/1.png", f"{root}/cat/inside.png")
    os.symlink(tmp_path, f"{root}/dog")
    os.symlink("loop.png", f"{root}/cat/loop.png")
    os.mkfifo(f"{root}/cat/pipe.png")
    found = collect(root)
    assert found.names.tolist() == ["cat/1.png", "cat/inside.png"]
    assert sorted(zip(found.findings["name"], found.findings["kind"], strict=True)) == [
        ("cat/loop.png", "unreadable"), ("cat/out.png", "unsafe name"), ("cat/pipe.png", "not a file"),
        ("dog", "not a file"),
    ]  # fmt: skip


def test_a_folder_that_cannot_be_read_is_a_finding(tree, monkeypatch):
    root = tree({"cat/1.png": encode(GREY), "dog/2.png": encode(GREY)})
    scan = os.scandir

    def refuse(path):  # permissions do not bind root, who may run the tests
        if os.fspath(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = collect(root)
    assert found.names.tolist() == ["cat/1.png"]
    assert found.findings[["name", "kind", "detail"]].to_numpy().tolist() == [
        ["dog", "unreadable", "is a folder that cannot be read (Permission denied)"]
    ]


def test_a_class_without_a_picture_is_a_finding(tmp_path, tree):
    root = tree({"cat/1.png": encode(GREY)})
    os.mkdir(f"{root}/dog")
    assert collect(root).findings[["name", "kind"]].to_numpy().tolist() == [["dog", "empty class"]]


@pytest.mark.parametrize("files", [{}, {"cat/notes.txt": b"hello"}])
def test_a_folder_without_a_picture_is_one_sentence(tmp_path, tree, files):
    (tmp_path / "pets").mkdir()
    with pytest.raises(SourceError, match="No picture in the folder pets"):
        collect(tree(files))


def test_a_source_that_is_not_there_is_one_sentence():
    with pytest.raises(SourceError, match="There is no 'pets-of-mine': a source is a folder"):
        open_source("pets-of-mine")


def test_the_address_of_a_file_is_told_as_its_path():
    with pytest.raises(SourceError, match="by its path, without `file://`: write '/tmp/my pics'."):
        open_source("file:///tmp/my%20pics")


def test_pictures_that_all_lie_in_one_folder_are_told_the_way_out(tree):
    root = tree({f"cat_{number}.png": encode(GREY) for number in range(3)})
    with pytest.raises(SourceError, match="holds 3 pictures of 0 classes: .* own folder, or list the files") as told:
        sources.glance(open_source(root))
    assert "in a CSV with the columns path and label" in str(told.value)
    assert "Did you mean" not in str(told.value)
    tree({"labels.csv": b"path,label"})
    with pytest.raises(SourceError, match=r"Did you mean its table, labels\.csv\?$"):
        sources.glance(open_source(root))


def test_one_class_of_several_is_asked_about_its_parent(tree):
    files = {"cat/1.png": encode(GREY), "cat/2.png": encode(GREY), "dog/a/1.png": encode(GREY), "list.csv": b"path"}
    root = tree(files)
    with pytest.raises(SourceError, match=r"path and label\. Did you mean its parent, pets\?$"):
        sources.glance(open_source(f"{root}/cat"))
    tree({"dog/a/1.png": b"no picture"})
    with pytest.raises(SourceError, match=r"path and label\.$"):
        sources.glance(open_source(f"{root}/cat"))


@pytest.mark.parametrize(
    ("source", "why"), [("~nobody-of-this-name/pets", "home directory"), ("a" * 5000, "File name too long")]
)
def test_a_name_that_cannot_be_looked_up_is_one_sentence(source, why):
    with pytest.raises(SourceError, match=rf"{source[:20]}.* cannot be opened \(.*{why}\): a source is a folder"):
        open_source(source)


def test_a_picture_in_place_of_a_source_is_one_sentence(tmp_path, tree):
    root = tree({"single.png": encode(GREY), "half.tar": b"half"})
    with pytest.raises(SourceError, match="single.png is one picture: name a folder that has a sub-folder for each"):
        open_source(f"{root}/single.png")
    with rehearsal.serve(root) as server, pytest.raises(SourceError, match="/single.png is one picture"):
        open_source(f"{server.url}/single.png")
    with pytest.raises(SourceError, match="half.tar is neither a zip nor a tar archive"):
        open_source(f"{root}/half.tar")


def packed(names):
    buffer, content = io.BytesIO(), encode(np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8))
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_a_download_whose_damage_shows_as_it_is_read_is_fetched_anew_by_the_next_run(answering):
    whole = packed(["cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"])
    bodies, same = iter([whole[: len(whole) // 2], whole]), {"ETag": '"1"'}  # all as one version
    with answering(lambda _, known: (304, same, b"") if known == '"1"' else (200, same, next(bodies))) as server:
        with pytest.raises(SourceError, match="pets.tar.gz is damaged or cut short"):
            collect(f"{server.url}/pets.tar.gz")
        for _ in range(2):  # the second time it is not sent
            assert collect(f"{server.url}/pets.tar.gz").labels.tolist() == ["cat", "cat", "dog", "dog"]


def test_a_glance_ends_with_the_second_class(tree, monkeypatch):
    root = tree({f"{label}/{number}.png": encode(GREY) for label in ("cat", "dog") for number in range(9)})
    looked = []
    header = pictures.header
    monkeypatch.setattr(pictures, "header", lambda *args, **named: looked.append(1) or header(*args, **named))
    assert sources.glance(open_source(root)) is None
    assert len(looked) == 10


def test_a_glance_that_takes_too_long_lets_a_source_pass(tree):
    root = tree({"cat/1.png": encode(GREY), "cat/2.png": encode(GREY)})
    assert sources.glance(open_source(root), seconds=0) is None
    with pytest.raises(SourceError, match="The folder pets holds 2 pictures of 1 class: learning needs"):
        sources.glance(open_source(root))


def test_pictures_without_a_label_are_no_class(tree):
    with pytest.raises(SourceError, match="holds 2 pictures of 1 class"):
        sources.glance(open_source(tree({"1.png": encode(GREY), "cat/2.png": encode(GREY)})))


# Size and channels -----------------------------------------------------------------------------


def test_the_size_of_nearly_all_pictures_is_the_size(tree):
    root = tree({f"cat/{i:02d}.png": encode(GREY) for i in range(19)} | {"dog/odd.png": encode(np.tile(GREY, (3, 3)))})
    found = collect(root)
    assert found.images.shape == (20, 5, 6, 1)
    assert found.originals.iloc[-1].tolist() == [15, 18, "L"]


def test_mixed_sizes_give_their_median_brought_down(tree):
    sizes = [(100, 300), (200, 400), (300, 500)]
    root = tree({f"cat/{h}.png": encode(np.zeros((h, w, 3), np.uint8)) for h, w in sizes})
    assert collect(root).images.shape == (3, 32, 64, 3)
    assert collect(root, largest=128).images.shape == (3, 64, 128, 3)


def test_a_median_that_is_nearly_square_is_made_square(tree):
    root = tree({f"cat/{w}.png": encode(np.zeros((50, w), np.uint8)) for w in (40, 55, 70)})
    assert collect(root).images.shape == (3, 50, 50, 1)


def test_grey_and_colour_mix_to_colour_unless_nearly_all_are_grey(tree):
    root = tree({"cat/1.png": encode(GREY), "cat/2.png": encode(COLOUR)})
    found = collect(root)
    assert found.images.shape == (2, 5, 6, 3)
    assert np.array_equal(found.images[0], np.repeat(GREY[..., None], 3, axis=-1))
    assert np.array_equal(found.images[1], COLOUR)
    assert collect(root, channels=1).images.shape == (2, 5, 6, 1)


def test_formats_and_orientations_may_mix(tmp_path, tree):
    root = tree({"cat/1.png": encode(GREY), "cat/2.bmp": encode(GREY, "BMP"), "cat/3.TIF": encode(GREY, "TIFF")})
    exif = Image.Exif()
    exif[0x0112] = 6
    tree({"cat/4.webp": encode(np.rot90(GREY), "WEBP", lossless=True, exif=exif)})
    found = collect(root, channels=1)
    assert (found.images == GREY[..., None]).all()


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_pictures_that_are_stored_on_their_side_are_collected_upright(tree, format):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((40, 60), np.uint8)
    stored[:, :15] = 255
    found = collect(tree({f"cat/1.{format}": encode(stored, format, exif=exif)}))
    assert found.images.shape == (1, 60, 40, 1)
    assert found.originals.iloc[0].tolist() == [60, 40, "L"]
    white = found.images[0, ..., 0] > 128
    assert white[:15].all()
    assert not white[15:].any()


class One:
    """A source of one picture."""

    findings, classes = [], None

    def __init__(self, picture):
        self.picture = picture

    def records(self):
        yield records.Record("1.png", self.picture, "cat")

    def describe(self):
        return "one picture"


def exif_of(byte_order, tag, kind, count, value):
    layout = {b"MM": ">", b"II": "<"}[byte_order]
    entry = struct.pack(layout + "HHHI", 1, tag, kind, count) + value
    return b"Exif\0\0" + byte_order + struct.pack(layout + "HI", 42, 8) + entry + bytes(4)


orders = st.sampled_from([b"MM", b"II"])
exifs = st.binary(max_size=20).map(b"Exif\0\0".__add__) | st.builds(
    exif_of, orders, st.just(0x0112), st.integers(0, 13), st.integers(0, 3), st.binary(min_size=4, max_size=4)
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "WEBP", "PNG"])
@settings(max_examples=60)
@given(exifs, st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4))
@example(exif_of(b"MM", 0x0112, 2, 2, b"x\0\0\0"), [])  # an orientation that is a text
@example(b"Exif\0\0garbage", [])
def test_whatever_the_exif_of_a_picture_holds_it_is_collected_or_a_finding(format, exif, damage):
    content = bytearray(encode(COLOUR, format, exif=exif))
    for place, value in damage:
        content[int(place * len(content))] = value
    source = One(bytes(content))
    size, channels = sources.survey(source)
    assert channels in (1, 3)
    with contextlib.suppress(SourceError):  # it is the only picture, and may be damaged
        assert len(collect(source, size=(min(size[0], 9), min(size[1], 9)), channels=channels).images) == 1


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0garbage", b"Exif\0\0MM", exif_of(b"II", 0x0112, 3, 1, b"\x09\0\0\0"),
        exif_of(b"MM", 0x0112, 2, 2, b"x\0\0\0"), exif_of(b"MM", 0x0112, 1, 2, b"xy\0\0"),
    ],
    ids=["garbage", "cut short", "turned nine ways", "a text", "bytes"],
)  # fmt: skip
def test_a_picture_whose_exif_says_nothing_of_use_lies_as_it_is_stored(format, exif):
    found = collect(One(encode(COLOUR, format, exif=exif)))
    assert found.images.shape == (1, *COLOUR.shape)
    assert found.originals.iloc[0].tolist() == [5, 6, "RGB"]


def test_a_huge_picture_costs_no_memory(tree, monkeypatch):
    monkeypatch.setitem(pictures.header.__kwdefaults__, "max_pixels", 1_000_000)
    root = tree({"cat/1.png": encode(GREY), "cat/huge.png": encode(np.zeros((3000, 3000), np.uint8))})
    found = collect(root)
    assert found.findings["detail"].tolist() == ["is 3000 x 3000, more than the 1,000,000 pixels allowed"]


MEGABYTES_MORE = (  # by how much a process of its own grows by a statement; its imports do not count
    "from helpers import processor, sources; sources.open_source('');"
    "base = processor.peak_bytes(); {}; print((processor.peak_bytes() - base) // 2**20)"
)


def test_memory_stays_bounded_while_the_set_grows(tmp_path, tree, fresh_python):
    root = tree({"cat/0.png": encode(np.zeros((256, 256, 3), np.uint8))})
    for number in range(1, 2000):
        os.link(f"{root}/cat/0.png", f"{root}/cat/{number}.png")
    collect = f"found = sources.collect({root!r}, largest=256); assert found.images.nbytes > 390e6"
    grown = int(fresh_python(MEGABYTES_MORE.format(collect)))
    assert grown < 150, f"{grown} MB more for a set of 393 MB"


def test_memory_stays_bounded_while_large_pictures_meet(tree, fresh_python):
    picture = encode(np.zeros((3000, 3000, 4), np.uint8), compress_level=1)
    root = tree({f"cat/{number}.png": picture for number in range(6)})
    collect = f"found = sources.collect({root!r}); assert found.images.shape == (6, 64, 64, 3)"
    grown = int(fresh_python(MEGABYTES_MORE.format(f"processor.cores = lambda: 8; {collect}")))
    assert grown < 300, f"{grown} MB more for pictures of 36 MB each"


# Names -----------------------------------------------------------------------------------------


def test_a_name_that_comes_again_is_numbered_and_no_name_of_another_is_taken():
    assert sources._unique([]) == []
    assert sources._unique(["a", "b"]) == ["a", "b"]
    assert sources._unique(["a", "a", "b", "a", "b"]) == ["a", "a (2)", "b", "a (3)", "b (2)"]
    assert sources._unique(["a", "a", "a (2)", "a (2)", "a"]) == ["a", "a (3)", "a (2)", "a (2) (2)", "a (4)"]


@given(st.lists(st.sampled_from(["", "a", "a (2)", "a (3)", "a (2) (2)", "b"]), max_size=40))
def test_names_are_unique_and_what_stood_first_keeps_its_own(names):
    unique = sources._unique(names)
    assert len(set(unique)) == len(names)
    assert [unique[names.index(name)] for name in set(names)] == list(set(names))
    assert all(own == name or own.startswith(f"{name} (") for own, name in zip(unique, names, strict=True))
    assert sources._unique(unique) == unique


def test_many_pictures_of_one_name_are_numbered_in_no_time():
    names = sources._unique(["a"] * 100_000 + [f"a ({number})" for number in range(2, 100_000)])
    assert len(set(names)) == len(names)


PICTURES = [encode(np.random.default_rng(number).integers(0, 256, (20, 20), np.uint8)) for number in range(5)]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_of_one_name_in_an_archive_are_told_apart(tmp_path):
    names = ["cat/0.png", "cat/1.png", "cat/0.png", "dog/2.png"]
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for name, picture in zip(names, PICTURES, strict=False):
            archive.writestr(name, picture)
    found = collect(str(tmp_path / "pets.zip"))
    assert found.names.tolist() == ["cat/0.png", "cat/1.png", "cat/0.png (2)", "dog/2.png"]


def test_rows_of_one_name_in_a_database_are_told_apart_even_if_one_is_no_picture(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "pets.db")) as database:
        database.execute("CREATE TABLE pictures (picture, label, name)")
        rows = [(b"no picture", "cat", "x"), (None, "cat", "x"), (PICTURES[0], "cat", "x"), (PICTURES[1], "dog", "x")]
        database.executemany("INSERT INTO pictures VALUES (?, ?, ?)", rows)
        database.commit()
    found = collect(open_source(f"sqlite:///{tmp_path / 'pets.db'}", query="SELECT * FROM pictures ORDER BY rowid"))
    assert list(zip(found.names, found.labels, strict=True)) == [("x", "cat"), ("x (2)", "dog")]
    assert found.findings[["name", "detail"]].to_numpy().tolist() == [
        ["x (3)", "is NULL"], ["x (4)", f"is not a picture of a format that is read ({', '.join(pictures.FORMATS)})"],
    ]  # fmt: skip


@pytest.mark.parametrize(("judged", "stays"), [("0.png", ["dog"]), ("0.png (2)", ["cat"])])
def test_a_file_that_is_listed_under_two_labels_can_be_judged(tree, judged, stays):
    listed = "path,label\n0.png,cat\n1.png,dog\n2.png,cat\n3.png,dog\n4.png,cat\n0.png,dog\n"
    files = {f"{number}.png": picture for number, picture in enumerate(PICTURES)}
    found = collect(f"{tree(files | {'list.csv': listed.encode()})}/list.csv")
    findings, _ = cleaning.inspect(found)
    assert set(findings.loc[findings["kind"] == "two labels", "name"]) == {"0.png", "0.png (2)"}
    other = {"0.png": "0.png (2)", "0.png (2)": "0.png"}[judged]
    decided = cleaning.decide(findings, {judged: "drop", other: "keep"})
    rows = cleaning.kept(len(found.images), decided)
    kept = dict(zip(found.names[rows], found.labels[rows], strict=True))
    assert [label for name, label in kept.items() if name.startswith("0.png")] == stays


# CSV -------------------------------------------------------------------------------------------


def test_a_csv_names_paths_labels_and_splits(tmp_path, tree):
    root = tree({"a.png": encode(GREY), "b/c.png": encode(COLOUR)})
    with open(f"{root}/list.csv", "w", encoding="utf-8-sig") as file:
        file.write("split,label,path\ntrain, cat ,a.png\ntest,,b/c.png\n,dog,none.png\n")
    found = collect(f"{root}/list.csv")
    assert list(zip(found.names, found.labels, found.splits, strict=True)) == [
        ("a.png", "cat", "train"), ("b/c.png", "", "test"),
    ]  # fmt: skip
    assert found.findings[["name", "detail"]].to_numpy().tolist() == [["none.png", "is not there"]]


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfpath;label;split\r\na.png;cat, black;train\r\n",
        b"Label\tpath\tSPLIT\ncat, black\ta.png\ttrain\n",
        b'"Path" ,"Label",split\na.png,"cat, black",train\n',
        b'"path";"label";"split"\n"a.png";"cat, black";"train"\n',
    ],
)
def test_a_csv_has_commas_semicolons_or_tabs_and_names_of_columns_in_any_case(tree, content):
    root = tree({"a.png": encode(GREY), "list.csv": content})
    found = collect(f"{root}/list.csv")
    assert (found.names.tolist(), found.labels.tolist()) == (["a.png"], ["cat, black"])
    assert found.splits.tolist() == ["train"]


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../secret.png", "link.png"])
def test_a_csv_cannot_name_files_outside_its_folder(tmp_path, tree, path):
    root = tree({"list.csv": f"path,label\na.png,cat\n{path},cat\n".encode(), "a.png": encode(GREY)})
    (tmp_path / "secret.png").write_bytes(encode(GREY))
    os.symlink(tmp_path / "secret.png", f"{root}/link.png")
    found = collect(f"{root}/list.csv")
    assert found.names.tolist() == ["a.png"]
    assert found.findings["kind"].tolist() == ["unsafe name"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,class\na.png,cat\n", "has the columns file, class: its first line is to name `path` and `label`"),
        (b"", "has the columns nothing"),
        (b"File;Class\na.png;cat\n", "has the columns file;class: its first line"),
        (b"path,label\n\xff\xfe,cat\n", "is not a CSV file in UTF-8 .*: save it as one, in Excel as `CSV UTF-8`"),
        (b'path,label\n"a.png,cat\n', "is not a CSV file in UTF-8"),
        (b"path,label,split\na.png,cat,holdout\n", "split is called 'holdout'"),
    ],
)
def test_a_broken_csv_is_one_sentence(tree, content, message):
    root = tree({"list.csv": content, "a.png": encode(GREY)})
    with pytest.raises(SourceError, match=message):
        collect(f"{root}/list.csv")


def test_control_characters_in_a_csv_are_escaped(tree):
    root = tree({"list.csv": b'path,label\n"a\n\x1b.png",cat\n', "a\n\x1b.png": encode(GREY)})
    assert collect(f"{root}/list.csv").names.tolist() == ["a\\n\\x1b.png"]


def test_a_csv_of_windows_has_backslashes_and_cannot_lead_out_by_them(tmp_path, tree):
    root = tree({"list.csv": b"path,label\nb\\c.png,cat\n..\\secret.png,cat\na\\1.png,dog\n", "b/c.png": encode(GREY),
                 "a\\1.png": encode(GREY)})  # fmt: skip
    (tmp_path / "secret.png").write_bytes(encode(GREY))
    found = collect(f"{root}/list.csv")
    assert list(zip(found.names, found.labels, strict=True)) == [("b\\c.png", "cat"), ("a\\1.png", "dog")]
    assert found.findings["kind"].tolist() == ["unsafe name"]


def test_a_csv_row_that_is_too_short_is_a_finding(tree):
    root = tree({"list.csv": b"path,label\na.png\n\x00.png,cat\n,cat\n", "a.png": encode(GREY)})
    found = collect(f"{root}/list.csv")
    assert found.labels.tolist() == [""]
    assert len(found.findings) == 2


# IDX -------------------------------------------------------------------------------------------


def write_idx(folder, *, zipped=True, **changes):
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    contents = {
        "train-images-idx3-ubyte": idx_bytes(random.integers(0, 256, (7, 4, 3), np.uint8)),
        "train-labels-idx1-ubyte": idx_bytes(np.arange(7, dtype=np.uint8)),
        "t10k-images-idx3-ubyte": idx_bytes(random.integers(0, 256, (2, 4, 3), np.uint8)),
        "t10k-labels-idx1-ubyte": idx_bytes(np.array([3, 1], np.uint8)),
    } | {name.replace("_", "-"): content for name, content in changes.items()}
    for name, content in contents.items():
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)
    return contents


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_come_in_their_order_with_published_splits(tmp_path, zipped):
    contents = write_idx(tmp_path / "mnist", zipped=zipped)
    found = collect(str(tmp_path / "mnist"))
    assert found.images.shape == (9, 4, 3, 1)
    assert found.images[:7].tobytes() == contents["train-images-idx3-ubyte"][16:]
    assert found.labels.tolist() == ["0", "1", "2", "3", "4", "5", "6", "3", "1"]
    assert found.splits.tolist() == ["train"] * 7 + ["test"] * 2
    assert found.names[[0, 8]].tolist() == ["train/00000", "t10k/00001"]


def test_idx_classes_and_checksums_are_read(tmp_path):
    contents = write_idx(tmp_path / "mnist")
    names = list("abcdefg")
    (tmp_path / "mnist" / "classes.json").write_text(json.dumps(names))
    sums = {name: {"sha256": hashlib.sha256(content).hexdigest()} for name, content in contents.items()}
    (tmp_path / "mnist" / "checksums.json").write_text(json.dumps(sums))
    found = collect(str(tmp_path / "mnist"))
    assert found.classes == names
    assert found.labels.tolist() == [*names, "d", "b"]
    sums["t10k-images-idx3-ubyte"]["sha256"] = "0" * 64
    (tmp_path / "mnist" / "checksums.json").write_text(json.dumps(sums))
    with pytest.raises(SourceError, match="t10k-images-idx3-ubyte.gz is not what checksums.json says"):
        collect(str(tmp_path / "mnist"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels_idx1_ubyte": idx_bytes(np.zeros(6, np.uint8))}, "differ in number"),
        ({"train_labels_idx1_ubyte": idx_bytes(np.zeros(8, np.uint8))}, "differ in number"),
        ({"train_images_idx3_ubyte": b"\0\0\x08\x03" + struct.pack(">3I", 7, 4, 3) + b"xx"}, "damaged or cut short"),
        ({"train_images_idx3_ubyte": b"\0\0\x08\x03" + struct.pack(">3I", 2**31, 4, 2**31)}, "more than allowed"),
        ({"train_images_idx3_ubyte": b"\0\0\x0d\x03" + bytes(12)}, "no IDX file"),
        ({"train_labels_idx1_ubyte": idx_bytes(np.zeros(7, np.uint8)) + b"more"}, "damaged or cut short"),
    ],
)
def test_broken_idx_files_are_one_sentence(tmp_path, change, message):
    write_idx(tmp_path / "mnist", **change)
    with pytest.raises(SourceError, match=message):
        collect(str(tmp_path / "mnist"))


def test_packed_labels_that_expand_without_bounds_are_refused_by_their_header(tmp_path):
    write_idx(tmp_path / "mnist")
    bomb = b"\0\0\x08\x01" + struct.pack(">I", 100_000_000)
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(SourceError, match="train-labels-idx1-ubyte.gz claims 100,000,000 items .* more than allowed"):
        collect(str(tmp_path / "mnist"))


def test_idx_files_without_a_picture_are_one_sentence(tmp_path):
    empty = {f"{part}_{kind}": idx_bytes(np.zeros((0, 4, 3)[:dimensions], np.uint8)) for part in ("train", "t10k")
             for kind, dimensions in (("images_idx3_ubyte", 3), ("labels_idx1_ubyte", 1))}  # fmt: skip
    write_idx(tmp_path / "mnist", **empty)
    with pytest.raises(SourceError, match="No picture in the IDX files of mnist"):
        collect(str(tmp_path / "mnist"))


def test_idx_files_with_a_dot_beside_folders_that_are_called_as_files_are(tmp_path):
    contents = write_idx(tmp_path / "mnist", zipped=False)
    for name in contents:
        (tmp_path / "mnist" / name).rename(tmp_path / "mnist" / name.replace("-idx", ".idx"))
        (tmp_path / "mnist" / name).mkdir()
    found = collect(str(tmp_path / "mnist"))
    assert found.labels.tolist() == ["0", "1", "2", "3", "4", "5", "6", "3", "1"]
    assert found.names[[0, 8]].tolist() == ["train/00000", "t10k/00001"]


def test_idx_files_that_lie_there_packed_and_unpacked_are_read_once(tmp_path):
    write_idx(tmp_path / "mnist", zipped=True)
    write_idx(tmp_path / "mnist", zipped=False)
    (tmp_path / "mnist" / "train-images-idx3-ubyte.gz.part").write_bytes(b"half")
    assert len(collect(str(tmp_path / "mnist")).images) == 9


def test_class_names_may_be_numbers_and_lose_none_of_their_pictures(tmp_path):
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "classes.json").write_text('[0, 1, 2.5, " three ", "4", "e\\u0301", true]')
    found = collect(str(tmp_path / "mnist"))
    assert found.classes == ["0", "1", "2.5", "three", "4", "é", "True"]
    assert found.labels.tolist() == [*found.classes, "three", "1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": 0}', "holds a dict"),
        ('["a", "", "c"]', 'names the class of label 1 "": it must be a text'),
        ('["a", "b", null]', "names the class of label 2 null: it must be a text"),
        ('[["a"], "b"]', r'names the class of label 0 \["a"\]: it must be a text'),
        ('["cat", "dog", " cat"]', "has the name 'cat' for the labels 0 and 2: each label needs a name of its own"),
        ('["1", "0", 1]', "has the name '1' for the labels 0 and 2"),
    ],
)
def test_class_names_that_are_no_list_or_not_one_for_each_class_are_one_sentence(tmp_path, content, message):
    write_idx(tmp_path / "mnist")
    (tmp_path / "mnist" / "classes.json").write_text(content)
    with pytest.raises(SourceError, match=f"classes.json {message}"):
        open_source(str(tmp_path / "mnist"))


def test_checksums_may_be_plain_texts_and_nothing_else(tmp_path):
    name, contents = "train-images-idx3-ubyte", write_idx(tmp_path / "mnist")
    path = tmp_path / "mnist" / "checksums.json"
    path.write_text(json.dumps({name: hashlib.sha256(contents[name]).hexdigest().upper()}))
    assert len(collect(str(tmp_path / "mnist")).images) == 9
    path.write_text(json.dumps({name: "0" * 64}))
    with pytest.raises(SourceError, match=f"{name}.gz is not what checksums.json says"):
        collect(str(tmp_path / "mnist"))
    for entry in (7, None, ["abc"], {"md5": "abc"}):
        path.write_text(json.dumps({name: entry}))
        with pytest.raises(SourceError, match=f"checksums.json holds .* for {name}: it must be a SHA-256 in quotes"):
            open_source(str(tmp_path / "mnist"))


def test_half_a_gz_and_missing_labels_are_one_sentence(tmp_path):
    write_idx(tmp_path / "mnist")
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(SourceError, match="damaged or cut short"):
        collect(str(tmp_path / "mnist"))
    (tmp_path / "mnist" / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(SourceError, match="it holds the labels"):
        collect(str(tmp_path / "mnist"))


def test_fashion_mnist_is_embedded_and_whole():
    found = collect("")
    assert found.images.shape == (70_000, 28, 28, 1)
    assert found.splits[[0, 59_999, 60_000]].tolist() == ["train", "train", "test"]
    assert found.classes[0] == "T-shirt/top"
    assert np.array_equal(np.unique(found.labels, return_counts=True)[1], [7000] * 10)
    assert hashlib.sha256(idx_bytes(found.images[:60_000, ..., 0])).hexdigest() == (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
    )


# All of them -----------------------------------------------------------------------------------


def test_every_kind_of_source_hands_out_the_same_pictures(tmp_path):
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (300, 8, 8), np.uint8)
    labels = np.array(["cat", "dog"])[random.integers(0, 2, 300)]
    splits = np.where(np.arange(300) < 250, "train", "test")
    table = rehearsal.soil(images, labels, splits, each=4, seed=0)
    folder = rehearsal.write_folder(table, tmp_path / "pets")
    rehearsal.write_zip(table, tmp_path / "pets.zip")
    query = "SELECT picture, label, name, split FROM pictures ORDER BY id"
    database = rehearsal.write_sqlite(table, tmp_path / "pets.db")
    with rehearsal.serve(tmp_path, break_after=10_000) as server:
        opened = [
            open_source(str(folder)), open_source(str(tmp_path / "pets.zip")), open_source(f"{server.url}/pets.zip"),
            open_source(f"sqlite:///{database}", query=query),
            open_source(str(rehearsal.write_csv(table, folder, tmp_path / "pets.csv"))),
        ]  # fmt: skip
    found = [collect(source) for source in opened]
    contents = [sorted(zip((i.tobytes() for i in c.images), c.labels, c.splits, strict=True)) for c in found]
    assert all(content == contents[0] for content in contents)
    assert len(contents[0]) == 300 + 9 * 4
    assert all(len(c.findings) == 4 for c in found)


def test_pictures_are_decoded_in_chunks_of_bounded_size():
    encoded = [records.Record(str(number), bytes(2**20)) for number in range(100)]
    decoded = [records.Record(str(number), np.zeros((1024, 1024), np.uint8)) for number in range(100)]
    for each in (encoded, decoded):
        assert [len(chunk) for chunk in sources._chunks(iter(each), 100)] == [17, 17, 17, 17, 17, 15]
    small = [records.Record(str(number), bytes(1000)) for number in range(300)]
    assert [len(chunk) for chunk in sources._chunks(iter(small), 28 * 28)] == [256, 44]
    assert {len(chunk) for chunk in sources._chunks(iter(small), 1024 * 1024 * 3)} == {6}  # small files, large pictures


def test_a_notebook_collects_within_its_own_folder(tree):
    artifacts.begin("01_data_preparation", {})
    before = sorted(artifacts.outputs().rglob("*"))
    collect(tree({"cat/1.png": encode(GREY)}))
    assert sorted(artifacts.outputs().rglob("*")) == before


def test_nothing_is_left_in_the_output_folder(tree):
    collect(tree({"cat/1.png": encode(GREY)}))
    assert [path for path in artifacts.outputs().rglob("*") if path.is_file()] == []


def test_a_collection_outlives_its_file(tree):
    found = collect(tree({"cat/1.png": encode(GREY)}))
    assert isinstance(found.images, np.memmap)
    assert np.array_equal(found.images[0, ..., 0], GREY)
    assert not found.images.flags.writeable
