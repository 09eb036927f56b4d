"""Files appear whole or not at all."""

import json
import multiprocessing
import os
import time

import pytest

from helpers import artifacts


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_root_holds_the_notebooks_and_the_data():
    assert (artifacts.root() / "notebooks").is_dir()
    assert (artifacts.root() / "data" / "fashion-mnist").is_dir()


def test_outputs_follow_the_environment(tmp_path, monkeypatch):
    assert artifacts.outputs() == tmp_path / "outputs"
    monkeypatch.delenv("WORKBOOK_OUTPUTS")
    assert artifacts.outputs() == artifacts.root() / "outputs"


def test_relative_outputs_are_one_folder_wherever_a_process_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_OUTPUTS", "mine")
    monkeypatch.chdir(tmp_path)
    assert artifacts.outputs() == artifacts.root() / "mine"


def test_the_home_folder_of_nobody_is_refused(monkeypatch):
    monkeypatch.setenv("WORKBOOK_OUTPUTS", "~nouser/x")
    with pytest.raises(ValueError, match="'~nouser/x' begins with ~nouser, and no user .* or write ./~nouser for a"):
        artifacts.outputs()


def test_a_write_that_fails_leaves_the_old_file_and_no_part(tmp_path):
    path = artifacts.write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(ZeroDivisionError), artifacts.writing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert json.loads(path.read_text()) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_the_part_keeps_the_suffix_by_which_libraries_choose_a_format(tmp_path):
    with artifacts.writing(tmp_path / "model.keras") as partial:
        assert partial.suffix == ".keras"
        partial.write_bytes(b"x")


@pytest.fixture
def steps(monkeypatch):
    """What is written through to the disk, by the number of its inode, and each move, in their order."""
    found, move = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: found.append(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "replace", lambda old, new: (found.append("moved"), move(old, new)))
    return found


def test_a_file_is_on_the_disk_before_it_is_moved_and_its_folder_afterwards(tmp_path, steps):
    with artifacts.writing(tmp_path / "a.txt") as partial:
        partial.write_text("whole")
    assert steps == [(tmp_path / "a.txt").stat().st_ino, "moved", tmp_path.stat().st_ino]


def test_all_files_of_a_folder_are_on_the_disk_before_it_is_moved(tmp_path, steps):
    with artifacts.writing_folder(tmp_path / "set") as folder:
        (folder / "sub").mkdir()
        for name in ("a", "sub/b"):
            (folder / name).write_text(name)
    files = {(tmp_path / "set" / name).stat().st_ino for name in ("a", "sub/b")}
    assert set(steps[:2]) == files
    assert steps[2:] == ["moved", tmp_path.stat().st_ino]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for name in ("old", "new"):
        with artifacts.writing_folder(tmp_path / "set") as folder:
            (folder / name).write_text(name)
    assert names(tmp_path) == ["new", "set"]


@pytest.mark.parametrize("fails", ["while it is written", "as it is moved into place"])
def test_a_folder_that_fails_leaves_the_old_one(tmp_path, monkeypatch, fails):
    with artifacts.writing_folder(tmp_path / "set") as folder:
        (folder / "old").write_text("old")
    move = os.replace
    with pytest.raises(ZeroDivisionError), artifacts.writing_folder(tmp_path / "set") as folder:
        (folder / "new").write_text("new")
        if fails == "while it is written":
            raise ZeroDivisionError
        monkeypatch.setattr(os, "replace", lambda old, new: 1 / 0 if (old / "new").exists() else move(old, new))
    assert names(tmp_path) == ["old", "set"]


def _write_slowly(path):
    with artifacts.writing(path) as partial:
        partial.write_text("half")
        time.sleep(60)


def test_begin_clears_all_parts_but_those_that_a_live_process_is_writing(until):
    folder = artifacts.begin("09_shared", {})
    writer = multiprocessing.get_context("fork").Process(target=_write_slowly, args=(folder / "a.txt",))
    writer.start()
    try:
        until(lambda: list(folder.glob(".partial-*")))
        (folder / f".partial-{os.getpid()}-b.txt").write_text("half")
        (folder / ".partial-lab").mkdir()
        artifacts.begin("09_shared", {})
        assert names(folder) == [f".partial-{writer.pid}-a.txt", "parameters.json"]
    finally:
        writer.kill()
        writer.join()
    assert not (folder / "a.txt").exists()
    artifacts.begin("09_shared", {})
    assert names(folder) == ["parameters.json"]


def test_begin_writes_down_no_password():
    folder = artifacts.begin("09_secret", {"SOURCE": "postgresql://me:secret@host/db?token=secret", "SEED": 1})
    assert json.loads((folder / "parameters.json").read_text()) == {"SOURCE": "postgresql://host/db", "SEED": 1}


@pytest.mark.parametrize("text", ["two ideas, see http://a.org/?b#c", "a/b://c?d", "C:/pictures?", "://x?y"])
def test_a_text_that_is_no_address_is_left_as_it_is(text):
    assert artifacts.public(text) == text


ADDRESS = "https://me:pass%20word@example.org/a.zip?token=TOP%2fSECRET&n=1#k=another-one"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"Get {ADDRESS}.", "Get https://example.org/a.zip."),
        ("GET /a.zip?token=TOP%2fSECRET&n=1#k=another-one", "GET /a.zip?***"),
        ("token TOP/SECRET or TOP%2fSECRET", "token *** or ***"),
        ("{'k': 'another-one', 'n': 1}", "{'k': '***', 'n': 1}"),
        ("user me has pass%20word, 'pass word'", "user me has ***, '***'"),
        ("?n=1&amp;", "?***&amp;"),
    ],
)
def test_secrets_of_an_address_are_concealed_wherever_they_stand(text, shown):
    assert artifacts.concealed(text, ADDRESS) == shown


@pytest.mark.parametrize("source", ["", "pictures", "https://example.org/a.zip", "postgresql://postgres@host/db"])
def test_nothing_is_concealed_where_there_is_no_secret(source):
    text = "postgres at postgresql://host/db, pictures at https://example.org/a.zip"
    assert artifacts.concealed(text, source) == text


def test_what_another_tool_runs_anew_is_no_longer_what_the_runner_told(monkeypatch):
    folder = artifacts.outputs() / "09_twice"
    for runner, kept in (("1", True), ("", False)):
        artifacts.write_json(folder / "run.json", {})
        monkeypatch.setenv(artifacts.RUNNER, runner)
        artifacts.begin("09_twice", {})
        assert (folder / "run.json").exists() == kept


def test_begin_forgets_the_claims_of_the_run_before(tmp_path):
    folder = artifacts.begin("09_twice", {"SEED": 1})
    (folder / "claims.json").write_text("[]")
    assert artifacts.begin("09_twice", {"SEED": 2}) == folder == artifacts.current()
    assert not (folder / "claims.json").exists()
    assert json.loads((folder / "parameters.json").read_text()) == {"SEED": 2}


def test_begin_says_in_a_sentence_that_a_file_stands_in_the_way(tmp_path):
    (tmp_path / "outputs").write_text("not a folder")
    with pytest.raises(OSError, match="A file stands where the folder .* should be"):
        artifacts.begin("09_blocked", {})


def test_begin_says_in_a_sentence_that_the_disk_is_full(monkeypatch):
    monkeypatch.setattr(artifacts, "MINIMUM_FREE", 2**62)  # more than any disk has
    with pytest.raises(OSError, match=r"There is no room to write in .* free some space, or name another folder"):
        artifacts.begin("09_full", {})


def test_current_asks_for_begin_first():
    with pytest.raises(RuntimeError, match="call artifacts.begin"):
        artifacts.current()


def test_work_by_the_way_lies_in_the_notebooks_folder():
    assert artifacts.working() == artifacts.outputs()
    assert artifacts.begin("09_some", {}) == artifacts.working()


def test_what_is_missing_names_the_notebook_and_the_command():
    with pytest.raises(FileNotFoundError, match=r"Notebook 01_data_preparation makes it.*helpers run 01"):
        artifacts.require("01_data_preparation/dataset", made_by="01_data_preparation")


def test_what_is_there_is_returned():
    folder = artifacts.begin("01_data_preparation", {})
    assert artifacts.require("01_data_preparation", made_by="01_data_preparation") == folder


def test_sha256_of_the_standard_example(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert artifacts.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_equal_runs_write_equal_manifests(tmp_path):
    texts = []
    for name in ("a", "b"):
        folder = tmp_path / name
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "x.bin").write_bytes(b"123")
        (folder / "sub" / "manifest.json").write_bytes(b"{}")  # somebody else's
        texts.append(artifacts.write_manifest(folder, made_by="01", parameters={"SEED": 0}, n=3).read_bytes())
    assert texts[0] == texts[1]
    manifest = json.loads(texts[0])
    sizes = {name: entry["bytes"] for name, entry in manifest["files"].items()}
    assert sizes == {"sub/x.bin": 3, "sub/manifest.json": 2}
    assert manifest["n"] == 3


def test_json_holds_a_path_that_is_no_utf_8_and_gives_it_back(tmp_path):
    path = os.fsdecode(b"caf\xe9/\xe9\x9e\x8b.png")
    artifacts.write_json(tmp_path / "a.json", {"SOURCE": path})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"SOURCE": path}
    assert "\\udce9/鞋" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        artifacts.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []
