"""Facts about predictions for many pictures: every one once, the same numbers, whatever happens on the way."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers import artifacts, batch, classifier, data, folders, registry, rehearsal

CLASSES = ["ant", "bee", "cat"]
PICTURES = np.random.default_rng(0).integers(0, 256, (23, 4, 4, 1), dtype=np.uint8)


def png(picture):
    return rehearsal.encode(picture[..., 0])


def in_database(path, contents):
    """Adds files to a database, which need not be there yet; returns its address."""
    with sqlite3.connect(path) as database:
        database.execute("create table if not exists pictures (content blob)")
        database.executemany("insert into pictures values (?)", [(content,) for content in contents])
    return f"sqlite:///{path}"


@pytest.fixture(scope="module")
def model(tmp_path_factory, fill_registry):
    return fill_registry(tmp_path_factory.mktemp("registry"), "tiny", temperature=2.0) / "tiny" / "1"


@pytest.fixture
def folder(tmp_path):
    """23 pictures in two folders, and one file that is none."""
    for number, picture in enumerate(PICTURES):
        path = tmp_path / "in" / ("ant" if number % 2 else "bee") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(picture))
    (tmp_path / "in" / "bee" / "99.png").write_bytes(png(PICTURES[0])[:45])
    return tmp_path / "in"


def number_of(table):
    return table["name"].str.extract(r"(\d+)\.png")[0].astype(int).to_numpy()


def assert_right(table, model):
    """Every picture of `PICTURES` is there once, with the numbers of the classifier."""
    good = table[table["error"].isna()]
    numbers = number_of(good)
    assert sorted(numbers) == list(range(23))
    expected = classifier.load(model).answer(PICTURES[numbers])
    assert good["class"].tolist() == expected.labels.tolist()
    np.testing.assert_array_equal(np.stack(good["probabilities"]), expected.probabilities)
    np.testing.assert_array_equal(good["probability"], expected.probabilities.max(axis=1))


def test_a_folder_gets_a_row_for_each_file_with_the_numbers_of_the_classifier(folder, model, tmp_path):
    done = batch.predict([folder], model, tmp_path / "out.parquet")
    table = pd.read_parquet(done.path)
    assert (done.pictures, done.unreadable, done.resumed, len(table)) == (23, 1, 0, 24)
    assert_right(table, model)
    bad = table[table["error"].notna()]
    assert bad["name"].tolist() == ["bee/99.png"]
    assert bad["error"].tolist() == ["is cut short"]
    assert bad[["class", "probability", "probabilities"]].isna().all(axis=None)
    assert table["label"].tolist() == [name.split("/")[0] for name in table["name"]]
    right = (table["class"].astype(object) == table["label"])[table["error"].isna()]
    assert done.accuracy == pytest.approx(right.mean())
    assert not (tmp_path / "out.parquet.parts").exists()


def test_the_file_says_which_model_answered_and_has_its_checksum_beside_it(folder, model, tmp_path):
    batch.predict([folder], model, tmp_path / "out.parquet")
    said = pq.read_schema(tmp_path / "out.parquet").metadata
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    checksum = registry.manifest(model)["files"]["model.onnx"]["sha256"]
    assert json.loads(said[b"model"]) == {"name": "tiny", "version": 1, "sha256": checksum, "temperature": 2.0}
    assert json.loads(said[b"classes"]) == CLASSES == manifest["classes"]
    assert manifest["model"] == json.loads(said[b"model"])
    assert manifest["sha256"] == artifacts.sha256(tmp_path / "out.parquet")
    assert (manifest["rows"], manifest["unreadable"], manifest["labelled"]) == (24, 1, 23)


@pytest.mark.parametrize("shard", [1, 5, 24, 100])
def test_the_size_of_the_shards_changes_nothing(folder, model, tmp_path, shard):
    batch.predict([folder], model, tmp_path / "one.parquet")
    batch.predict([folder], model, tmp_path / "out.parquet", shard=shard)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "one.parquet"), pd.read_parquet(tmp_path / "out.parquet"))


def test_two_runs_write_the_same_bytes(folder, model, tmp_path):
    for name in ("one", "two"):
        batch.predict([folder], model, tmp_path / f"{name}.parquet", shard=7)
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


def test_archives_databases_files_and_prepared_sets_are_inputs_too(folder, model, tmp_path):
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
    address = in_database(tmp_path / "in.db", map(png, PICTURES))
    splits = {"train": np.arange(20), "validation": np.array([20, 21]), "test": np.array([22])}
    data.write(tmp_path / "set", [PICTURES], np.arange(23) % 3, CLASSES, splits, parameters={}, made_by="test")
    inputs = [tmp_path / "in.zip", address, folder / "bee" / "00.png", tmp_path / "set"]
    query = "select content, null from pictures order by rowid"
    done = batch.predict(inputs, model, tmp_path / "out.parquet", query=query)
    table = pd.read_parquet(done.path)
    counts = table[table["error"].isna()].groupby("input", observed=True).size()
    assert counts.tolist() == [23, 23, 1, 23]
    assert_right(table[table["input"].astype(str).str.endswith("in.zip")], model)
    expected = classifier.load(model).answer(PICTURES)
    for name in (address, str(tmp_path / "set")):
        rows = table[table["input"] == name]
        np.testing.assert_array_equal(np.stack(rows["probabilities"]), expected.probabilities)


def test_paths_that_are_no_utf_8_are_inputs_and_are_named_in_signs_that_print(folder, model, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    (folder / "bee").rename(odd)
    (odd / "00.png").rename(odd / os.fsdecode(b"\xe9\n.png"))
    done = batch.predict([odd / os.fsdecode(b"\xe9\n.png"), odd], model, tmp_path / "out.parquet")
    table = pd.read_parquet(done.path)
    assert table["name"].tolist()[0] == "\\udce9\\n.png"
    assert table["input"].astype(str).iloc[-1] == f"{tmp_path}/caf\\udce9"
    (tmp_path / "out.parquet.manifest.json").read_text(encoding="utf-8")


def test_pictures_without_labels_and_of_any_size_are_answered(model, tmp_path):
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (300, 200), "red").save(tmp_path / "flat" / "large.jpg")
    (tmp_path / "flat" / "notes.txt").write_text("not a picture")
    done = batch.predict([tmp_path / "flat"], model, tmp_path / "out.parquet")
    table = pd.read_parquet(done.path).set_index("name")
    assert (done.pictures, done.unreadable, done.accuracy) == (1, 1, None)
    assert table.loc["large.jpg", "class"] in CLASSES
    assert table.loc["notes.txt", "error"].startswith("is not a picture of a format that is read")
    assert table["label"].isna().all()


def test_a_file_that_is_named_and_is_no_picture_gets_a_row_that_says_why(folder, model, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "PICTURE_BYTES", 1000)
    bad = {
        "IMG_0.HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "is a HEIC picture (as iPhones make)"),
        "empty.jpg": (b"", "is empty (0 bytes)"),
        "page.jpg": (b"<!DOCTYPE html><html></html>", "is a web page"),
        "cut.jpg": (png(PICTURES[0])[:45], "is cut short"),
        "large.jpg": (b"\0" * 2000, "has 2,000 bytes, more than allowed"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.png").symlink_to(folder / "bee" / "02.png")
    inputs = [folder / "bee" / "00.png", *(tmp_path / name for name in bad), tmp_path / "link.png"]
    done = batch.predict(inputs, model, tmp_path / "out.parquet")
    assert (done.pictures, done.unreadable) == (2, 5)
    table = pd.read_parquet(done.path)
    assert table["name"].tolist() == ["00.png", *bad, "link.png"]
    told = table["error"].tolist()
    assert told[0] is told[-1] is None
    for said, (_, why) in zip(told[1:-1], bad.values(), strict=True):
        assert said.startswith(why)


def test_a_picture_of_more_pixels_than_the_limit_is_not_decoded(folder, model, tmp_path, monkeypatch):
    monkeypatch.setitem(classifier.Classifier.array.__kwdefaults__, "max_pixels", 399)
    Image.new("L", (20, 20)).save(folder / "ant" / "large.png")
    done = batch.predict([folder], model, tmp_path / "out.parquet")
    table = pd.read_parquet(done.path).set_index("name")
    assert (done.pictures, done.unreadable) == (23, 2)
    assert table.loc["ant/large.png", "error"] == "is 20 x 20, more than the 399 pixels allowed"
    monkeypatch.undo()
    assert batch.predict([folder], model, tmp_path / "out.parquet").pictures == 24


def test_secrets_in_an_address_are_not_written(model, tmp_path):
    address = in_database(tmp_path / "in.db", [png(PICTURES[0])]) + "?timeout=7"
    batch.predict([address], model, tmp_path / "out.parquet", query="select content, null from pictures")
    for name in ("out.parquet", "out.parquet.manifest.json"):
        assert b"timeout" not in (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": "out.csv"}, r"written to a .parquet file .*; received out.csv"),
        ({"shard": 0}, "at least one row; received 0"),
        ({"inputs": ["nothing"]}, "There is no 'nothing': an input is one picture, a folder, a .zip or .tar archive, "),
        ({"inputs": ["junk/a.png"]}, r"No picture in junk/a.png could be read: the first is empty \(0 bytes\)"),
        ({"inputs": ["cut.zip"]}, "cut.zip is neither a zip nor a tar archive: it is cut short"),
        ({"inputs": ["page.zip"]}, "page.zip is neither a zip nor a tar archive: it begins with"),
        ({"inputs": ["pets.db"]}, "pets.db is an SQLite database: write sqlite:/// before its path, and add a query"),
        ({"inputs": ["empty"]}, r"No picture in .*empty could be read: there is nothing in it"),
        ({"inputs": ["junk"]}, r"No picture in .*junk could be read: the first is empty \(0 bytes\)"),
        ({"model": "nothing.onnx"}, "There is no model nothing.onnx"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_leaves_no_output(
    folder, model, tmp_path, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "a.png").write_bytes(b"")
    (tmp_path / "cut.zip").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "page.zip").write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "pets.db").write_bytes(b"SQLite format 3\0")
    given = {"inputs": [folder], "model": model, "output": "out.parquet"} | change
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        batch.predict(given.pop("inputs"), given.pop("model"), given.pop("output"), **given)
    assert not (tmp_path / "out.parquet").exists()


def test_another_size_of_a_prepared_set_is_refused(model, tmp_path):
    splits = {"train": np.arange(3), "validation": np.array([3]), "test": np.array([4])}
    pictures = np.zeros((5, 6, 6, 1), np.uint8)
    pictures[:, 0, 0, 0] = range(5)
    data.write(tmp_path / "set", [pictures], np.arange(5) % 3, CLASSES, splits, parameters={}, made_by="test")
    with pytest.raises(ValueError, match=r"pictures are \(6, 6, 1\), and the model takes \(4, 4, 1\)"):
        batch.predict([tmp_path / "set"], model, tmp_path / "out.parquet")


# ── killed, full, at once ───────────────────────────────────────────────────────────────────────

_STOPPING = """
import os, signal, sys
from helpers import batch
model, folder, output, stop = sys.argv[1:]
told = 0
def progress(rows):
    global told
    told += rows
    if told >= int(stop):
        os.kill(os.getpid(), signal.SIGKILL)
batch._CHUNK = 3
batch.predict([folder, folder], model, output, shard=4, progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(1,), (7,), (24, 30), (9, 9, 9, 9), (47,)])
def test_killed_and_called_again_it_writes_what_an_undisturbed_run_does(folder, model, tmp_path, stops):
    batch.predict([folder, folder], model, tmp_path / "one.parquet", shard=4)
    output = tmp_path / "out.parquet"
    for stop in stops:
        ended = subprocess.run([sys.executable, "-c", _STOPPING, str(model), str(folder), str(output), str(stop)])
        assert ended.returncode == -signal.SIGKILL
        assert not output.exists()
    left = len(list((tmp_path / "out.parquet.parts").glob("*.parquet")))
    done = batch.predict([folder, folder], model, output, shard=4)
    assert done.resumed == 4 * left
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize("harm", ["cut", "a bit", "missing"])
def test_a_shard_that_has_come_to_harm_is_done_again(folder, model, tmp_path, interrupted, harm):
    batch.predict([folder], model, tmp_path / "one.parquet", shard=2)
    output = tmp_path / "out.parquet"
    interrupted(folder, output)
    second = tmp_path / "out.parquet.parts" / "000001.parquet"
    content = bytearray(second.read_bytes())
    if harm == "cut":
        second.write_bytes(content[:100])
    elif harm == "a bit":
        content[len(content) // 4] ^= 1
        second.write_bytes(content)
    else:
        second.unlink()
    done = batch.predict([folder], model, output, shard=2)
    assert done.resumed == 2
    assert output.read_bytes() == (tmp_path / "one.parquet").read_bytes()


@pytest.mark.parametrize("change", ["input", "model", "shard", "query"])
def test_what_another_job_has_left_is_not_taken_up(folder, model, tmp_path, write_onnx, interrupted, change):
    output, given, query = tmp_path / "out.parquet", folder, ""
    if change == "query":
        given = in_database(tmp_path / "in.db", map(png, PICTURES))
        query = "select content, null from pictures order by rowid"
    interrupted(given, output, query=query)
    if change == "input":
        (folder / "bee" / "00.png").write_bytes(png(PICTURES[1]))
    other = write_onnx(tmp_path / "other.onnx", seed=2) if change == "model" else model
    query += " desc" if query else ""
    done = batch.predict([given], other, output, shard=3 if change == "shard" else 2, query=query)
    assert (done.resumed, done.pictures) == (0, 23)


def test_an_interrupted_job_is_taken_up(folder, model, tmp_path, interrupted):
    interrupted(folder, tmp_path / "out.parquet")
    done = batch.predict([folder], model, tmp_path / "out.parquet", shard=2)
    assert done.resumed >= 8
    assert_right(pd.read_parquet(done.path), model)


@pytest.fixture
def interrupted(model, tmp_path, monkeypatch):
    """A function that begins to predict and is interrupted when some shards of two rows are done."""
    monkeypatch.setattr(batch, "_CHUNK", 5)

    def begin(given, output, **options):
        told = []

        def stop(rows):
            told.append(rows)
            if sum(told) >= 15:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            batch.predict([given], model, output, shard=2, progress=stop, **options)
        assert list(output.with_name(f"{output.name}.parts").glob("*.parquet"))

    return begin


def test_an_output_inside_its_input_is_no_part_of_it(folder, model, tmp_path, interrupted, monkeypatch):
    batch.predict([folder], model, tmp_path / "out.parquet", shard=2)
    monkeypatch.chdir(folder)
    for place in (folder, folder / "ant"):
        output = place / "answers.parquet"
        interrupted(".", output)
        (place / f"{artifacts.PARTIAL}1-answers.parquet").write_bytes(b"what a kill at the very end leaves")
        done = batch.predict(["."], model, output, shard=2)
        assert done.resumed >= 8
        again = batch.predict(["."], model, output, shard=2)
        assert (again.pictures, again.unreadable) == (done.pictures, done.unreadable) == (23, 1)
        expected = pd.read_parquet(tmp_path / "out.parquet").drop(columns="input")
        pd.testing.assert_frame_equal(pd.read_parquet(output).drop(columns="input"), expected)
        for path in place.glob("answers.parquet*"):
            path.unlink()


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("kind", ["database", "table"])
def test_what_stands_in_a_changed_database_or_beside_a_table_is_read_again(
    folder, model, tmp_path, interrupted, kind, changed
):
    rows, query = sorted(folder.rglob("*.png"))[:-1], ""
    if kind == "database":
        given = in_database(tmp_path / "in.db", [path.read_bytes() for path in rows])
        query = "select content, null from pictures"
    else:
        given = tmp_path / "in.csv"
        given.write_text("path;label\n" + "".join(f"{path.relative_to(tmp_path)};\n" for path in rows))
    interrupted(given, tmp_path / "out.parquet", query=query)
    if changed and kind == "database":
        in_database(tmp_path / "in.db", [png(PICTURES[1])])
    elif changed:
        rows[0].write_bytes(png(np.tile(PICTURES[1], (2, 2, 1))))
    done = batch.predict([given], model, tmp_path / "out.parquet", query=query, shard=2)
    assert (done.resumed == 0) == changed


def test_nothing_is_kept_of_an_input_that_cannot_be_read(model, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "in.csv").write_text("path,label\na.png,\n")
    with pytest.raises(ValueError, match="could be read"):
        batch.predict([tmp_path / "in.csv"], model, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet.parts").exists()


def test_few_large_files_are_held_at_a_time(folder, model, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(batch, "_CHUNK_BYTES", 150)  # two of these files, and nine of what the model takes
    done = batch.predict([folder], model, tmp_path / "out.parquet", progress=told.append)
    assert done.pictures == sum(told) - done.unreadable == 23
    assert max(told) <= 3
    assert_right(pd.read_parquet(done.path), model)


def test_two_at_once_on_one_output_are_one_too_many(folder, model, tmp_path):
    refused = []

    def again(rows):
        with pytest.raises(OSError, match="Another process is writing .*out.parquet: wait until it ends"):
            batch.predict([folder], model, tmp_path / "out.parquet")
        refused.append(rows)

    batch.predict([folder], model, tmp_path / "out.parquet", progress=again)
    assert refused
    assert_right(pd.read_parquet(tmp_path / "out.parquet"), model)


_FULL = """
import resource, sys
from helpers.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_is_done_is_kept(folder, model, tmp_path):
    command = ["predict", "--model", str(model), str(folder), "--output", str(tmp_path / "out.parquet"), "--shard", "2"]
    ended = subprocess.run([sys.executable, "-c", _FULL, "6000", *command], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "would be larger than it may be: raise the limit (see `ulimit -f`)" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
    assert len(list((tmp_path / "out.parquet.parts").glob("*.parquet"))) == 12  # the whole is larger than each
    assert not (tmp_path / "out.parquet").exists()
    done = batch.predict([folder], model, tmp_path / "out.parquet", shard=2)
    assert done.resumed == 24
    assert_right(pd.read_parquet(done.path), model)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".keras", ".tflite"])
def test_only_the_answer_is_printed_whatever_the_runtime_notes_as_it_starts(suffix, tmp_path):
    from helpers import export, models

    path = export.write(models.softmax_regression((4, 4, 1), 3), tmp_path / f"model{suffix}")
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    command = [sys.executable, "-m", "helpers", "predict", "--model", str(path), str(tmp_path / "a.png")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.stdout.startswith("a.png\t")
    assert ended.stderr == ""
    closed = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True)
    assert closed.stdout == ended.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
def test_a_picture_that_may_not_be_read_gets_its_row(folder, model, tmp_path, bound_by_permissions):
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    (tmp_path / "secret.png").chmod(0)
    command = [sys.executable, "-m", "helpers", "predict", "--model", str(model), tmp_path / "secret.png"]
    command = [*bound_by_permissions, *command, folder / "bee" / "00.png"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("secret.png\tcannot be read (Permission denied)\n00.png\t")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
def test_a_folder_that_cannot_be_written_is_one_sentence(folder, model, tmp_path, bound_by_permissions):
    (tmp_path / "locked").mkdir(mode=0o555)
    command = [sys.executable, "-m", "helpers", "predict", "--model", str(model), str(folder), "--output"]
    output = str(tmp_path / "locked" / "out.parquet")
    ended = subprocess.run([*bound_by_permissions, *command, output], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: The folder .*out.parquet cannot be written \(Permission denied\): .*\n", ended.stderr)


_MEASURE = """
import sys
from helpers import batch, processor
batch.predict([sys.argv[1]], sys.argv[2], sys.argv[3], shard=2000)
print(processor.peak_bytes() // 2**20)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_pictures(model, tmp_path, fresh_python):
    megabytes = {}
    for count in (4_000, 400_000):
        pictures = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
        splits = {"train": np.arange(count - 2), "validation": np.array([count - 2]), "test": np.array([count - 1])}
        path = tmp_path / str(count)
        data.write(path, [pictures], np.arange(count) % 3, CLASSES, splits, parameters={}, made_by="test")
        megabytes[count] = int(fresh_python(_MEASURE, path, model, f"{path}.parquet"))
    assert megabytes[400_000] < megabytes[4_000] + 20  # all rows kept would be 55
