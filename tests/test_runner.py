import errno
import functools
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, lock, notebooks, outcomes, plans, rehearsal, runner
from helpers.outcomes import Outcome
from helpers.progress import RunProgress
from helpers.records import SourceError

WRITE = "artifacts.write_json(out / 'list.json', [SEED, 2])\nclaims.check('The list has two entries', 2, at_least=2)"
LONG = "import os, time\nopen({!r}, 'w').write(f'{{os.getpid()}} ')\ntime.sleep(60)"  # says who it is, and stays
READ = "print(artifacts.require('01_data/list.json', made_by='01_data').read_text())"


@pytest.fixture
def two(project, make):
    """A root with two notebooks; the second needs the first."""
    first = make.tiny("01_data", make.markdown("## Writing", "writing"), make.code(WRITE, "write"))
    second = make.tiny("02_train", make.code(READ, "read"), needs="notebook 01", parameters="EPOCHS = 2  # passes",
                       rules="EPOCHS=(int, 1, 9)")  # fmt: skip
    make.write_notebooks(project, n01_data=first, n02_train=second)
    return project


def plan(numbers=(), profile=None, **given):
    found = notebooks.find()
    chosen, values = plans.make(found, list(numbers), plans.read_profile(profile, found), given)
    return [notebook.stem for notebook in chosen], values


def executed(stem):
    """Returns a notebook as its run has left it."""
    return nbformat.read(artifacts.outputs() / stem / f"{stem}.ipynb", as_version=4)


def texts():
    """Returns what all files of all runs hold."""
    return [path.read_text() for path in artifacts.outputs().rglob("*") if path.is_file()]


def made(stem):
    """Says that a notebook has been run."""
    outcomes.record(Outcome(stem, stem, outcomes.RAN))


# What is to be run.


def test_without_numbers_every_notebook_runs_in_order(two):
    assert plan()[0] == ["01_data", "02_train"]


@pytest.mark.parametrize("text", ["2", "02", "02_train", "02_train/", "/other/notebooks/02_train.ipynb"])
def test_a_notebook_is_named_by_number_stem_or_path(two, text):
    made("01_data")
    assert plan([text])[0] == ["02_train"]


@pytest.mark.parametrize("text", ["3", "train", "02_other", "", "1.5", "02_train.txt"])
def test_a_notebook_that_is_not_there_is_refused(two, text):
    with pytest.raises(ValueError, match="There is no notebook .*: there are 01_data, 02_train"):
        plan([text])


def test_what_a_notebook_needs_runs_first_if_it_was_never_run(two):
    assert plan(["02"])[0] == ["01_data", "02_train"]


@pytest.mark.parametrize("left", ["dataset/manifest.json", "model_card.json", "models.csv"])
def test_what_another_tool_has_run_counts(two, left):
    artifacts.write_json(artifacts.outputs() / "01_data" / left, {})
    assert plan(["02"])[0] == ["02_train"]


def test_what_ended_badly_is_run_again(two):
    outcomes.record(Outcome("01_data", "1", outcomes.FAILED))
    artifacts.write_json(artifacts.outputs() / "01_data" / "dataset" / "manifest.json", {})
    assert plan(["02"])[0] == ["01_data", "02_train"]


def test_a_parameter_goes_to_the_notebooks_that_know_it(two):
    assert plan(EPOCHS="3", SEED="5")[1] == {"01_data": {"SEED": 5}, "02_train": {"EPOCHS": 3}}


def test_a_parameter_of_a_needed_notebook_runs_it_anew(two):
    made("01_data")
    assert plan(["02"], SEED="5") == (["01_data", "02_train"], {"01_data": {"SEED": 5}, "02_train": {}})


def test_a_parameter_that_no_notebook_knows_is_refused_with_a_hint(two):
    with pytest.raises(ValueError, match="No notebook of this run has a parameter EPOCS: did you mean EPOCHS"):
        plan(EPOCS="3")
    with pytest.raises(ValueError, match="No notebook of this run has a parameter EPOCHS: it knows SEED"):
        plan(["01"], EPOCHS="3")


@pytest.fixture
def shop(project, make, tmp_path):
    """A root whose notebook takes pictures, and a folder of wrong ones."""
    tiny = make.tiny("01_data", parameters='SOURCE = ""\nQUERY = ""', rules="SOURCE=str, QUERY=str")
    make.write_notebooks(project, n01_data=tiny)
    picture = rehearsal.encode(np.zeros((2, 2), np.uint8))
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / "1.png").write_bytes(picture)
    table = pd.DataFrame([[picture, "cat", "1", ""]], columns=["picture", "label", "name", "split"])
    rehearsal.write_sqlite(table, tmp_path / "pets.db")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "query", "sentence"),
    [
        ("no/such/folder", "", "There is no 'no/such/folder': a source is a folder"),
        ("{}/pets", "", "The folder pets holds 1 picture of 1 class: learning needs at least two classes, each"),
        ("sqlite:///{}/pets.db", "", "The query must be one SELECT, because sources are only read; received 'nothing'"),
        ("sqlite:///{}/pets.db", "SELECT picture FROM pictures", "The query yields the columns picture: its first"),
        ("sqlite:///{}/pets.db", "SELECT picture, label FROM pictures", "pets.db holds 1 picture of 1 class: learning"),
        ("ftp://host/pets", "", "This is no database address that SQLAlchemy knows"),
    ],
)
def test_a_source_that_cannot_be_learnt_from_is_refused_before_any_work(shop, source, query, sentence):
    with pytest.raises(SourceError, match=sentence):
        runner.run(given={"SOURCE": source.format(shop), "QUERY": query})
    assert not artifacts.outputs().exists()


def test_a_database_without_a_parameter_for_its_query_is_left_to_the_notebook(project, make):
    make.write_notebooks(project, n01_data=make.tiny("01_data", parameters='SOURCE = ""', rules="SOURCE=str"))
    found = notebooks.find()
    runner._refuse_wrong_sources([found["01"]], {"01_data": {"SOURCE": "sqlite:///no.db"}})
    runner._refuse_wrong_sources([found["01"]], {"01_data": {"SOURCE": "HTTP://127.0.0.1:9/no.zip"}})


def test_a_profile_has_a_section_for_each_notebook_and_the_command_line_wins(two, tmp_path):
    (tmp_path / "mine.yaml").write_text("01_data:\n  SEED: 3\n02_train:\n  EPOCHS: 1\n")
    values = {"01_data": {"SEED": 3}, "02_train": {"EPOCHS": 4}}
    assert plan(profile=str(tmp_path / "mine.yaml"), EPOCHS="4")[1] == values


def test_a_profile_of_the_project_is_named_without_its_suffix(two):
    folder = two / "notebooks" / "profiles"
    folder.mkdir()
    (folder / "quick.yaml").write_text("02_train:\n  EPOCHS: 1\n")
    assert plan(profile="quick")[1]["02_train"] == {"EPOCHS": 1}
    with pytest.raises(ValueError, match="no profile 'slow': name one of quick, or a YAML file"):
        plan(profile="slow")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not YAML"),
        ("- 1", "holds no sections"),
        ("03_other:\n  A: 1", "has a section '03_other', which is no notebook: it can have 01_data, 02_train"),
        ("01_data: 3", "The section 01_data of .* holds no `NAME: value` lines"),
        ("01_data:\n  SEDE: 3", "01_data has no parameter SEDE: did you mean SEED"),
        ("01_data:\n  SEED: many", "SEED is 'many': it must be a whole number"),
        ("01_data:\n  SEED: 1.5", "SEED is 1.5: it must be a whole number"),
        ("01_data:\n  on: 1", "01_data has no parameter True: it knows SEED"),
        ("01_data:\n  7: 1", "01_data has no parameter 7: it knows SEED"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(two, tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        plan(profile=str(tmp_path / "bad.yaml"))


def test_pages_that_cannot_be_made_are_refused_before_any_work(two, monkeypatch):
    from nbconvert.exporters import templateexporter

    monkeypatch.setattr(templateexporter, "jupyter_path", lambda *_: [])  # as after `pip install --target`
    with pytest.raises(ValueError, match=r"page here \(No template .*\): install it anew into .*JUPYTER_PATH"):
        runner.run()
    assert not artifacts.outputs().exists()


# Where it is written.


def test_a_second_run_into_one_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0)
    says = f"Another run .process {os.getpid()}. is writing to"
    with lock.held(tmp_path), pytest.raises(OSError, match=says), lock.held(tmp_path):
        pass
    with lock.held(tmp_path):
        pass


def test_the_lock_waits_for_a_run_that_is_about_to_end(tmp_path):
    hold = (
        "import time; from pathlib import Path; from helpers import lock\n"
        f"with lock.held(Path({str(tmp_path)!r})): print(flush=True); time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with lock.held(tmp_path):
            assert holder.wait(5) == 0


def test_what_a_killed_run_left_beside_the_index_is_removed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    alive = f".partial-{os.getppid()}-answers"  # it writes there still
    for name in (f".partial-{dead.pid}-index.html", ".partial-lab", alive):
        (tmp_path / name).write_text("half")
    with lock.held(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", alive}


def test_a_file_in_place_of_the_folder_is_one_sentence(tmp_path):
    (tmp_path / "outputs").write_text("")
    with pytest.raises(OSError, match="A file stands where the folder"), lock.held(tmp_path / "outputs"):
        pass


def test_a_full_disk_is_one_sentence_before_any_work(two, monkeypatch):
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(lock.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="There is no room to write in"):
        runner.run()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="drops a capability of Linux")
def test_a_folder_that_cannot_be_written_is_one_sentence_and_status_2(two, make, tmp_path, bound_by_permissions):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    command = [*bound_by_permissions, *make.command(two, "run", "--output", str(locked))]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert re.fullmatch(r"error: The folder .*locked cannot be written \(Permission denied\): mend .*\n", told.stderr)
    assert told.stdout == ""


def raised(ename, evalue):
    from papermill.exceptions import PapermillExecutionError

    return PapermillExecutionError(cell_index=1, exec_count=1, source="", ename=ename, evalue=evalue, traceback=[])


@pytest.mark.parametrize(
    ("evalue", "told"),
    [
        ("[Errno 28] No space left on device", "There is no room to write in"),
        ("[Errno 27] File too large", "would be larger than it may be: raise the limit"),
        (f"[Errno {errno.EDQUOT}] Disk quota exceeded", "Your quota is used up"),
        ("Can't write data (file write failed: errno = 28, …)", "There is no room to write in"),
        ("4096 requested and 0 written", "There is no room to write in"),
        ("(sqlite3.OperationalError) database or disk is full", "There is no room to write in"),
    ],
)
def test_a_disk_that_fills_up_is_known_in_every_librarys_words(evalue, told):
    with pytest.raises(OSError, match=told):
        runner._reason(raised("OSError", evalue), "cell 1 of 2", "")


def test_a_long_message_ends_after_a_word_and_says_that_it_is_cut():
    sentence = runner._reason(raised("ValueError", "Name a folder. " + "reason " * 100), "cell 1 of 2", "")
    assert sentence.startswith("cell 1 of 2 raised ValueError: Name a folder. reason")
    assert sentence.endswith("reason …")
    assert len(sentence) < 450


@pytest.mark.slow
def test_a_disk_that_fills_up_midway_is_one_sentence_and_status_2(project, make, tmp_path):
    body = make.code("(out / 'big.bin').write_bytes(bytes(3_000_000))", "big")
    make.write_notebooks(project, n01_data=make.tiny("01_data", body))
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # noqa: E731
    command = make.command(project, "run", "--output", str(tmp_path / "out"))
    told = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert told.returncode == 2
    assert re.match(r"error: A file in .*/out would be larger than it may be", told.stderr.splitlines()[-1])
    assert "Traceback" not in told.stderr


# How it goes.


@pytest.mark.slow
def test_a_run_makes_notebooks_pages_an_index_and_a_summary(two, capsys):
    assert runner.run(given={"SEED": "7"}) == 0
    folder = artifacts.outputs() / "01_data"
    assert json.loads((folder / "list.json").read_text()) == [7, 2]
    assert {path.name for path in folder.iterdir()} == {
        "01_data.ipynb", "01_data.html", "claims.json", "parameters.json", "list.json", "run.json"
    }  # fmt: skip
    first, second = outcomes.read_all()
    assert (first.status, first.cells, first.held, first.claimed) == ("ran", 4, 1, 1)
    assert first.seconds > 0
    assert first.peak_bytes > 20e6  # an empty Python takes as much
    assert second.claimed == 0
    index = (artifacts.outputs() / "index.html").read_text()
    assert '<a href="01_data/01_data.html">1 · Data: does it run?</a>' in index
    assert "The list has two entries" in index
    told = capsys.readouterr()
    assert re.search(r"^01_data +\d+ s +\d+ MB  1 of 1$", told.out, re.MULTILINE)
    assert re.search(r"^01_data: cell 4/4 · Writing$", told.err, re.MULTILINE)
    assert re.search(r"^02_train: 3 cells, \d+ s, \d+ MB, 0 of 0 claims held$", told.err, re.MULTILINE)


@pytest.mark.slow
def test_a_failed_claim_stops_nothing_and_ends_with_status_1(two, make, capsys):
    claim = make.tiny("01_data", make.code(WRITE.replace("2, at_least=2", "1, at_least=2"), "write"))
    make.write_notebooks(two, n01_data=claim)
    assert runner.run() == 1
    assert [outcome.status for outcome in outcomes.read_all()] == ["ran", "ran"]
    assert "✘ 01_data: The list has two entries (measured 1.0, expected ≥ 2)" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("1 / 0", "cell 3 of 4 raised ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(0)", "it stopped after cell 3 of 4 without an error, and the cell 'after' never ran"),
        (
            "import os; os.write(2, b'I0000 00:00:17 cudart_stub.cc:31] no cuda\\n'); os.kill(os.getpid(), 9)",
            "the kernel ended in cell 3 of 4 by SIGKILL, often for want of memory",
        ),
        ("import os; os.kill(os.getpid(), 9)", "the kernel ended in cell 3 of 4 by SIGKILL, often for want of memory"),
    ],
)
def test_a_failed_notebook_skips_those_that_need_it_and_no_others(project, make, capsys, source, error):
    bad = make.tiny("01_data", make.code(source, "bad"), make.code("print(1)", "after"))
    others = {"n02_train": make.tiny("02_train", needs="01"), "n03_free": make.tiny("03_free")}
    make.write_notebooks(project, n01_data=bad, **others)
    assert runner.run() == 1
    first, second, third = outcomes.read_all()
    assert (first.status, first.error) == ("failed", error)
    assert (second.status, second.error) == ("skipped", "it needs 01_data, which did not end well")
    assert third.status == "ran"
    assert (artifacts.outputs() / "01_data" / "01_data.html").exists()
    assert f"failed: {error}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_failed_notebook_leaves_nothing_half_written(project, make):
    body = make.code("(out / 'deep' / '.partial-lab').mkdir(parents=True)\n1 / 0", "bad")
    make.write_notebooks(project, n01_data=make.tiny("01_data", body))
    assert runner.run() == 1
    assert (artifacts.outputs() / "01_data" / "deep").exists()
    assert not list(artifacts.outputs().rglob(".partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize(("given", "prepared_from", "marked"), [
    ("", None, False), ("postgresql://host/db", None, True),  # it is not asked: this notebook opens nothing
    ("", "", False), ("", "pets", True),
])  # fmt: skip
def test_a_run_on_other_pictures_marks_what_is_about_the_default_data(project, make, given, prepared_from, marked):
    text = make.markdown("Ten classes, equally frequent.", "reading")
    text.metadata["tags"] = ["default-data"]
    content = make.tiny("02_more", text, parameters='SOURCE = ""  # where from', rules="SOURCE=str")
    make.write_notebooks(project, n02_more=content)
    if prepared_from is not None:
        manifest = artifacts.outputs() / "01_data_preparation" / "dataset" / "manifest.json"
        artifacts.write_json(manifest, {"parameters": {"SOURCE": prepared_from}})
    assert runner.run(given={"SOURCE": given} if given else {}) == 0
    sources = [cell.source for cell in executed("02_more").cells]
    assert any("the default data, Fashion-MNIST" in source for source in sources) == marked
    assert any("Ten classes, equally frequent." in source for source in sources)


@pytest.mark.slow
def test_a_password_in_an_address_is_not_written_down(project, make):
    content = make.tiny("01_data", parameters='SOURCE = ""  # where from', rules="SOURCE=str")
    content.cells[-1].source = content.cells[-1].source.replace("used)", "{})")
    address = 'postgresql://me:"secret\\ü@host/db?token=secret'  # papermill writes such signs in another way
    content.cells.append(make.code(f"assert len(SOURCE) == {len(address)}", "whole"))
    make.write_notebooks(project, n01_data=content)
    assert runner.run(given={"SOURCE": address}) == 0
    assert "postgresql://host/db" in (artifacts.outputs() / "01_data" / "01_data.ipynb").read_text()
    assert not any("secret" in text for text in texts())


@pytest.mark.slow
def test_a_token_in_an_error_or_an_output_is_not_written_down(project, make, capsys):
    fetch = make.code("import requests\nprint('about', SOURCE)\nrequests.get(SOURCE)", "fetch")
    content = make.tiny("01_data", fetch, parameters='SOURCE = ""  # where from', rules="SOURCE=str")
    make.write_notebooks(project, n01_data=content)
    assert runner.run(given={"SOURCE": "http://127.0.0.1:9/x.zip?token=TOPSECRET"}) == 1
    assert "x.zip?***" in (artifacts.outputs() / "01_data" / "01_data.ipynb").read_text()
    assert not any("TOPSECRET" in text for text in texts())
    assert "TOPSECRET" not in "".join(capsys.readouterr())


@pytest.mark.slow
def test_a_kernel_has_the_helpers_of_the_checkout_that_runs(project, make, tmp_path):
    checkout = tmp_path / "copy"  # installed nowhere
    shutil.copytree(Path(runner.__file__).parent, checkout / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    body = make.code("import helpers\nprint(helpers.__file__)", "where")
    make.write_notebooks(project, n01_data=make.tiny("01_data", body))
    subprocess.run(make.command(project, "run"), cwd=checkout, check=True)
    assert executed("01_data").cells[-1].outputs[0].text == f"{checkout / 'helpers' / '__init__.py'}\n"


@pytest.mark.slow
def test_claims_of_an_earlier_run_do_not_count(project, make):
    make.write_notebooks(project, n01_data=make.tiny("01_data", rules="SEED=nonsense()"))  # it fails before it begins
    old = {"claim": "Old", "measured": True, "unit": "", "held": True}
    artifacts.write_json(artifacts.outputs() / "01_data" / "claims.json", [old])
    assert runner.run() == 1
    assert outcomes.read("01_data").claimed == 0


@pytest.mark.slow
def test_modules_beside_the_reader_do_not_stand_in_for_the_projects(project, make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "helpers.py").write_text("raise RuntimeError('the wrong one')")
    (tmp_path / "pictures").mkdir()
    body = make.code("from pathlib import Path\nPath('pictures').is_dir() or 1 / 0", "relative")
    make.write_notebooks(project, n01_data=make.tiny("01_data", body))
    assert runner.run() == 0


@pytest.mark.slow
def test_refresh_writes_equal_files_and_only_after_a_clean_run(two, make, capsys):
    assert runner.refresh() == 0
    file = two / "notebooks" / "01_data.ipynb"
    once = file.read_text()
    cells = nbformat.read(file, as_version=4).cells
    assert [cell.execution_count for cell in cells if cell.cell_type == "code"] == [1, 2, 3]
    assert cells[-1].outputs[0].text == "✔ The list has two entries\n"
    assert runner.refresh() == 0
    again = file.read_text()
    took = r'(?<="seconds": )\d+'  # in the stamp
    assert re.sub(took, "", again) == re.sub(took, "", once)
    make.write_notebooks(two, n02_train=make.tiny("02_train", make.code("claims.check('No', False)", "no"), needs="01"))
    before = (two / "notebooks" / "02_train.ipynb").read_bytes()
    assert runner.refresh() == 1
    assert (two / "notebooks" / "02_train.ipynb").read_bytes() == before
    assert file.read_text() == again
    assert "Nothing was written into notebooks/" in capsys.readouterr().err


@pytest.mark.slow
def test_refresh_begins_without_what_an_earlier_run_has_left(project, make):
    body = make.code("print((out / 'kept.txt').exists())\n(out / 'kept.txt').write_text('')", "look")
    make.write_notebooks(project, n01_data=make.tiny("01_data", body, make.code("claims.check('Yes', True)", "yes")))
    assert runner.run() == runner.run() == 0
    told = [executed("01_data")]
    assert runner.refresh() == 0
    told.append(nbformat.read(project / "notebooks" / "01_data.ipynb", as_version=4))
    assert [content.cells[-2].outputs[0].text for content in told] == ["True\n", "False\n"]


@pytest.mark.slow
def test_refresh_does_not_build_on_a_run_with_other_parameters(two):
    assert runner.run(["01"], given={"SEED": "7"}) == 0
    before = (two / "notebooks" / "01_data.ipynb").read_bytes()
    assert runner.refresh(["02"]) == 0
    cells = nbformat.read(two / "notebooks" / "02_train.ipynb", as_version=4).cells
    assert json.loads(cells[-1].outputs[0].text) == [0, 2]
    assert (two / "notebooks" / "01_data.ipynb").read_bytes() == before


@pytest.mark.slow
def test_refresh_refuses_a_path_of_this_machine(project, make):
    make.write_notebooks(project, n01_data=make.tiny("01_data", make.code("print(out)", "where")))
    says = r"01_data\.ipynb cannot be committed, and nothing was written: The cell 'where' shows"
    with pytest.raises(ValueError, match=says):
        runner.refresh()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_takes_its_kernel_with_it(project, make, tmp_path, until, number):
    pid = tmp_path / "kernel.pid"
    make.write_notebooks(project, n01_data=make.tiny("01_data", make.code(LONG.format(str(pid)), "long")))
    heard = functools.partial(signal.signal, number, signal.SIG_DFL)  # a shell's background jobs ignore SIGINT
    heard = None if number == signal.SIGKILL else heard
    with subprocess.Popen(make.command(project, "run"), stderr=subprocess.PIPE, text=True, preexec_fn=heard) as run:
        kernel = int(until(lambda: pid.exists() and pid.read_text().endswith(" ") and pid.read_text()))
        run.send_signal(number)
        told = run.stderr.read()
        status = run.wait(20)
    assert status == (-9 if number == signal.SIGKILL else 130)
    until(lambda: not Path(f"/proc/{kernel}").exists(), 5)
    assert "Traceback" not in told
    assert outcomes.read("01_data")[2:] == Outcome("", "", outcomes.FAILED, error="it was interrupted")[2:]
    assert not list(artifacts.outputs().rglob(".partial-*"))
    with lock.held(artifacts.outputs()):  # it is free again
        pass


@pytest.mark.slow
def test_the_lock_of_a_killed_run_lasts_as_long_as_its_kernel(project, make, tmp_path, monkeypatch, until):
    pid = tmp_path / "kernel.pid"
    make.write_notebooks(project, n01_data=make.tiny("01_data", make.code(LONG.format(str(pid)), "long")))
    with subprocess.Popen(make.command(project, "run"), stderr=subprocess.DEVNULL) as run:
        kernel = int(until(lambda: pid.exists() and pid.read_text().endswith(" ") and pid.read_text()))
        os.kill(kernel, signal.SIGSTOP)
        run.kill()
    try:
        monkeypatch.setattr(lock, "_PATIENCE", 0)
        with pytest.raises(OSError, match="Another run"), lock.held(artifacts.outputs()):
            pass
    finally:
        os.kill(kernel, signal.SIGCONT)
    monkeypatch.setattr(lock, "_PATIENCE", 5)
    with lock.held(artifacts.outputs()):  # the kernel has seen that it is alone, and ended
        pass


def test_a_run_under_nohup_goes_on_when_the_terminal_closes():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with runner._sigterm_as_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with runner._sigterm_as_interrupt(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


# What is seen meanwhile.


class Terminal(io.StringIO):
    def isatty(self):
        return True


def outcome(**changed):
    return Outcome("01_data", "1 · Data", "ran", 3, 41.3, 1_200_000_000, 2, 3)._replace(**changed)


def test_a_log_gets_a_line_for_each_section(make):
    log = io.StringIO()
    progress = RunProgress(log)
    cells = make.tiny("01_data", make.markdown("## First\ntext", "a"), make.code("1", "b"), make.code("2", "c")).cells
    progress.begin("01_data", cells, inserted=False)
    for index in range(len(cells)):
        progress.cell(index)
    progress.words("epoch 1\n\nepoch 2\n")
    progress.tick(1.0, 100)
    progress.end(outcome())
    assert log.getvalue().splitlines() == [
        "01_data: cell 1/4",
        "01_data: cell 3/4 · First",
        "01_data: epoch 1",
        "01_data: epoch 2",
        "01_data: 3 cells, 41 s, 1.2 GB, 2 of 3 claims held",
    ]


def test_a_terminal_gets_one_live_line_no_wider_than_it_is(make, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    terminal = Terminal()
    progress = RunProgress(terminal)
    cells = make.tiny("01_data", make.markdown("## A section with a long title", "a"), make.code("1", "b")).cells
    progress.begin("01_data", cells, inserted=True)
    for index in range(len(cells) + 1):
        progress.cell(index)
    progress.tick(61.0, 57_000_000)
    assert "\n" not in terminal.getvalue()
    line = terminal.getvalue().split("\r\x1b[K")[-1]
    assert line == "01_data  cell 4/4 · 61 s · 57 MB · A sec"[:39]
    progress.words("epoch 1\nepoch 2\n")
    progress.tick(62.0, 57_000_000)
    assert terminal.getvalue().endswith("01_data  cell 4/4 · 62 s · 57 MB · epoc")
    progress.end(outcome(status="failed", error="cell 4 of 4 raised"))
    assert terminal.getvalue().endswith("\r\x1b[K01_data: failed: cell 4 of 4 raised\n")
