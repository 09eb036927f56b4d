import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers import artifacts, classifier, cli, doctor, kernel, registry, trial


@pytest.fixture
def run_arguments(monkeypatch):
    """What the command line asks the runner for."""
    from helpers import runner

    asked = []
    monkeypatch.setattr(runner, "run", lambda numbers, **given: asked.append((numbers, given)) or 0)
    monkeypatch.setattr(runner, "refresh", lambda numbers: asked.append(numbers) or 0)
    return asked


@pytest.mark.parametrize(("arguments", "numbers", "given", "more"), [
    ([], [], {}, {}),  # every notebook with its defaults
    (["01", "03", "-p", "EPOCHS", "2", "-p", "NAME", "a b", "--profile", "quick", "--kernel", "other"], ["01", "03"],
     {"EPOCHS": "2", "NAME": "a b"}, {"profile": "quick", "kernel_name": "other"}),
    (["--source", "some/folder"], [], {"SOURCE": "some/folder"}, {}),
    (["-p", "EPOCHS=2", "-p", "QUERY=SELECT a FROM b WHERE c=1", "-p", "NAME", "x=y", "03"], ["03"],
     {"EPOCHS": "2", "QUERY": "SELECT a FROM b WHERE c=1", "NAME": "x=y"}, {}),
    *((["-p", "SHIFT", value], [], {"SHIFT": value}, {}) for value in ("-3", "-0.5", "-.5", "-1e-3", "-2.5E6")),
])  # fmt: skip
def test_run_passes_numbers_parameters_profile_and_kernel(run_arguments, arguments, numbers, given, more):
    assert cli.main(["run", *arguments]) == 0
    assert run_arguments == [(numbers, {"profile": None, "kernel_name": "workbook", "given": given} | more)]


def test_output_is_relative_to_where_the_command_is_given(run_arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli.main(["run", "--output", "mine"])
    assert artifacts.outputs() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        *((arguments, "'~nouser/x' begins with ~nouser, and no user") for arguments in (
            ["run", "--output", "~nouser/x"], ["run", "--profile", "~nouser/x"], ["run", "--source", "~nouser/x"],
            ["report", "~nouser/x"], ["kernel", "install", "--prefix", "~nouser/x"],
        )),
        (["run", "--output", ""], "The folder to write to is '': name one, such as outputs, or leave it out."),
        (["refresh", "--output", " "], "The folder to write to is ' ': name one"),
        (["report", ""], "The folder to write to is '': name one"),
        (["report", "missing"], "There is no folder missing: name one that a run has written to"),
        (["report", "."], "No run has written to .: name the folder that was a run's --output."),
        (["run", "--source", " "], "--source is empty: name your pictures, or leave it out for Fashion-MNIST."),
    ],
)  # fmt: skip
def test_a_folder_that_is_none_is_refused(arguments, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence}")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_ticks_gets_another_sign():
    say = "import sys; from helpers import cli, doctor; doctor.findings = lambda: [doctor.Finding('a', 'b')]"
    command = [sys.executable, "-c", f"{say}; sys.exit(cli.main(['doctor']))"]
    told = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("? a ")


def test_refresh_passes_numbers(run_arguments):
    assert cli.main(["refresh", "02"]) == 0
    assert run_arguments == [["02"]]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("EPOCHS is 'x': it must be a whole number."), "EPOCHS is 'x': it must be a whole number."),
        (OSError(28, "There is no room."), "There is no room."),
        (FileNotFoundError(2, "No such file or directory", "some/file"), "some/file: No such file or directory."),
        (FileNotFoundError("It is not there."), "It is not there."),
    ],
)
def test_an_error_is_told_as_a_sentence(error, sentence):
    assert cli._sentence(error) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "03", "-p", "EPOCHS", "x"], "EPOCHS is 'x': it must be a whole number, such as 8."),
        (["run", "03", "-p", "EPOCHS", "0"], "03_cnn_training: EPOCHS is 0: it must be from 1 to 500."),
        (["run", "--kernel", "nix"], "Jupyter knows no kernel named 'nix'"),
        (["run", "1.5"], "There is no notebook '1.5': there are 01_data_preparation, "),
        (["run", "--profile", "slow"], "There is no profile 'slow': name one of full, quick, or a YAML file."),
        (["run", "--source", "no/such/folder"], "There is no 'no/such/folder': a source is a folder, "),
        (["refresh", "99"], "There is no notebook '99': there are 01_data_preparation, "),
        (["kernel", "install", "--prefix", __file__], f"The kernel cannot be installed in {__file__}"),
        (["registry", "list"], "No version of any model is in the registry "),
        (["registry", "list", "cats"], "No version of cats is in the registry "),
        (["registry", "promote", "cats", "1"], "The registry has no version 1 of the model cats; there is none."),
        (["registry", "rollback", "cats"], "There is no model cats in the registry."),
        (["predict", "--model", "no.onnx", "x.png"], "There is no model no.onnx: run `python -m helpers run` first"),
        (["predict", "x.png"], "There is no model "),
        (["run", "--source", "my", "own pictures"], "There is no notebook 'own pictures': write quotes around names"),
        (["serve"], "There is no registry "),
        (["serve", "--limit", "colours", "3"], "There is no limit 'colours': there are body, pictures, pixels, "),
        (["serve", "--limit", "body", "much"], "The limit body is 'much': it must be a number above 0 and below 2**31"),
        (["serve", "--limit", "body", "3000000000"], "The limit body is '3000000000': it must be a number above 0 and"),
        (["serve", "--limit", "pictures", "0"], "The limit pictures is '0': it must be a number above 0 and below 2*"),
        (["serve", "--threads", "0"], "--threads must be a number from 1 to 2147483647; received 0."),
        (["serve", "--largest-batch", "-5"], "--largest-batch must be a number from 1 to 2147483647; received -5."),
        (["serve", "--workers", "0"], "--workers must be a number from 1 to 2147483647; received 0."),
        (["serve", "--port", "70000"], "--port must be a number from 0 to 65535; received 70000."),
        (["serve", "--grpc-port", "-1"], "--grpc-port must be a number from 0 to 65535; received -1."),
        (["serve", "--api-key-file", "/dev/null"], "The first line of /dev/null is empty: write the key there, or "),
        (["serve", "--api-key-file", "no/key"], "no/key: No such file or directory."),
    ],
)
def test_a_refusal_is_one_sentence_and_status_2(arguments, sentence, capsys):
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {sentence}")
    assert told.err.count("\n") == 1
    assert told.out == ""
    assert not artifacts.outputs().exists()


@pytest.fixture
def model(fill_registry):
    """Two registered versions of the model `pets`, the first live."""
    return fill_registry(artifacts.outputs() / "registry", "pets", versions=2, test_accuracy=0.91) / "pets"


def test_the_registry_is_listed_promoted_and_rolled_back(model, capsys, monkeypatch):
    monkeypatch.setattr(trial, "check", lambda *_, **__: None)  # a process for each; test_registry.py is about that

    def listed():
        assert cli.main(["registry", "list", "pets"]) == 0
        return [line.split() for line in capsys.readouterr().out.splitlines()]

    assert [(line[1], line[2] == "live") for line in listed()] == [("1", True), ("2", False)]
    assert cli.main(["registry", "promote", "pets", "2"]) == 0
    assert capsys.readouterr().out == "Version 2 of pets is live.\n"
    assert [(line[1], line[2] == "live") for line in listed()] == [("1", False), ("2", True)]
    assert listed()[0][-2:] == ["0.9100", "model.onnx"]
    assert cli.main(["registry", "rollback", "pets"]) == 0
    assert capsys.readouterr().out == "Version 1 of pets is live again.\n"
    assert registry.promoted("pets") == 1
    assert cli.main(["registry", "promote", "pets", "2", "--registry", str(model.parent)]) == 0
    assert registry.promoted("pets") == 2


def test_predict_prints_an_answer_for_each_picture(model, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    picture = np.random.default_rng(1).integers(0, 256, (4, 4), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"no picture")
    assert cli.main(["predict", "--model", str(model), str(tmp_path / "in")]) == 0
    told = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    answer = classifier.load(model).answer(picture[None, :, :, None])
    assert told[0] == ["a.png", answer.labels[0], f"{answer.probabilities.max():.3f}"]
    assert told[1][0] == "b.png"
    assert len(told) == 2


def test_predict_with_a_model_of_which_no_version_is_live_says_how_to_promote_one(model, capsys, monkeypatch):
    (model / "promoted").unlink()
    assert cli.main(["predict", "--model", str(model), "a.png"]) == 2
    command = "`python -m helpers registry promote pets 2`"
    assert capsys.readouterr().err == f"error: No version of the model pets is live: {command} tries the newest.\n"
    model.parent.rename(model.parents[1] / "other")
    assert cli.main(["predict", "--model", str(model.parents[1] / "other" / "pets"), "a.png"]) == 2
    assert f"promote pets 2 --registry {model.parents[1] / 'other'}`" in capsys.readouterr().err


def test_predict_writes_a_table_and_says_what_became_of_the_pictures(model, tmp_path, capsys):
    for number, label in enumerate(("ant", "bee")):
        (tmp_path / "in" / label).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 50 + number, np.uint8)).save(tmp_path / "in" / label / "one.png")
    (tmp_path / "in" / "bee" / "two.png").write_bytes(b"no picture")
    output = tmp_path / "answers.parquet"
    assert cli.main(["predict", "--model", str(model / "2"), str(tmp_path / "in"), "--output", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("2 pictures answered, 1 could not be read; ")
    assert told.out.endswith(f"% as labelled: {output}\n")
    assert told.err == ""
    assert len(pd.read_parquet(output)) == 3


def test_an_interrupt_is_one_line_and_status_130(monkeypatch, capsys):
    def interrupted(*arguments, **named):  # tests/test_runner.py interrupts a real run
        raise KeyboardInterrupt

    monkeypatch.setattr(kernel, "install", interrupted)
    assert cli.main(["kernel", "install"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("WORKBOOK_DEBUG", "1")
    with pytest.raises(ValueError, match="There is no folder missing"):
        cli.main(["report", "missing"])


def test_kernel_install_says_where(tmp_path, capsys):
    assert cli.main(["kernel", "install", "--prefix", str(tmp_path)]) == 0
    assert str(tmp_path / "share" / "jupyter" / "kernels" / "workbook") in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["walk"], ["kernel"], ["run", "-p", "EPOCHS"], ["kernel", "install", "--user", "--prefix", "p"]]
)
def test_a_command_line_that_is_none_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_help_is_quick_and_names_every_command():
    before = time.perf_counter()
    told = subprocess.run([sys.executable, "-m", "helpers", "--help"], capture_output=True, text=True, check=True)
    took = time.perf_counter() - before
    commands = {"run", "predict", "serve", "registry", "doctor", "report", "refresh", "kernel"}
    assert commands <= set(told.stdout.split())
    assert took < 2.0  # 0.08 s on a quiet machine; importing papermill alone takes 2 s


def test_help_imports_no_library(fresh_python):
    listing = (
        "import sys; from helpers import cli\ntry: cli.main(['run', '--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    loaded = {name.split(".")[0] for name in fresh_python(listing).splitlines()[-1].split()}
    heavy = {"papermill", "nbformat", "nbconvert", "pandas", "numpy", "keras", "tensorflow", "yaml", "psutil"}
    assert not loaded & heavy


def test_doctor_says_that_all_is_well(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "findings", lambda: iter([doctor.Finding("kernel", "is there")]))
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "✔ kernel    is there",
        "All is well: `make run` runs the notebooks.",
    ]


def test_doctor_ends_with_what_to_do(monkeypatch, capsys):
    found = [doctor.Finding("a", "no", "do this"), doctor.Finding("b", "yes"), doctor.Finding("c", "no", "do that")]
    monkeypatch.setattr(doctor, "findings", lambda: iter([*found, found[0]]))
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "To mend it: do this; then do that."


def test_doctor_looks_at_everything(monkeypatch):
    monkeypatch.setattr(doctor, "_DEVICES", "print('CPU, 2 cores')")
    found = {finding.subject: finding for finding in doctor.findings()}
    assert list(found) == ["python", "packages", "helpers", "kernel", "pages", "disk", "data", "devices"]
    assert found["data"].mend is None
    assert found["devices"].found == "CPU, 2 cores"


def test_doctor_takes_what_to_do_from_behind_the_last_colon():
    amiss = doctor._told("pages", "cannot be made (none: at all): install it anew.", "are made")
    assert amiss == doctor.Finding("pages", "cannot be made (none: at all): install it anew.", "install it anew")
    assert doctor._told("pages", None, "are made") == doctor.Finding("pages", "are made")


def test_a_backend_that_keras_does_not_know_is_told_before_any_work(monkeypatch, capsys):
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    sentence = "KERAS_BACKEND is 'nonsense', which Keras does not know: set it to tensorflow, jax, torch, or unset it."
    assert cli.main(["run", "01"]) == 2
    assert capsys.readouterr().err == f"error: {sentence}\n"
    assert doctor._devices() == doctor.Finding("devices", sentence, "set it to tensorflow, jax, torch, or unset it")


def test_doctor_sees_a_changed_data_file(project):
    folder = project / "data" / "fashion-mnist"
    folder.mkdir(parents=True)
    (folder / "checksums.json").write_text(json.dumps({"labels": {"sha256": "0" * 64, "bytes": 1}}))
    assert "cannot be read" in doctor._data().found
    (folder / "labels.gz").write_bytes(gzip.compress(b"\0"))
    finding = doctor._data()
    assert "is not the file that was published" in finding.found
    assert finding.mend.startswith("put the files of data/fashion-mnist back")
    whole = gzip.compress(bytes(range(256)) * 9)
    (folder / "labels.gz").write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    assert "Fashion-MNIST's labels.gz cannot be read: Error -3 while decompressing data" in doctor._data().found


def test_doctor_sees_the_helpers_of_another_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(artifacts.root()))
    assert doctor._helpers() == doctor.Finding("helpers", f"those of {artifacts.root()}")
    (tmp_path / "helpers").mkdir()
    (tmp_path / "helpers" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor._helpers()
    assert finding.found == f"those of {tmp_path}, and not those of {artifacts.root()}"
    assert finding.mend == "run `make -B setup`"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_what_doctor_asks_for_installs_anew():
    words = doctor._ANEW.split("`")[1].split()
    planned = subprocess.run([*words, "-n"], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    assert planned.stdout.count("-m pip install") == 2


def test_doctor_sees_a_package_of_another_version(project):
    (project / "requirements.lock").write_text(
        "numpy==1.0 \\\n    --hash=sha256:00\npytz==9 ; sys_platform == 'none' \\\n"
    )
    finding = doctor._packages()
    assert "1 differ from requirements.lock, first numpy" in finding.found
    assert finding.mend == "run `make -B setup`"


def test_doctor_sees_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBOOK_OUTPUTS", str(tmp_path / "file" / "outputs"))
    assert "A file stands where the folder" in doctor._disk().found


def test_doctor_sees_keras_that_does_not_start(monkeypatch):
    monkeypatch.setattr(doctor, "_DEVICES", "raise ImportError('no such library')")
    finding = doctor._devices()
    assert finding.found == "Keras does not start: ImportError: no such library"
    assert finding.mend
