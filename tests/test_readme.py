"""Every command that the READMEs show: run as it stands, or, where it would take minutes, up to its first cell."""

import json
import os
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from papermill.cli import papermill
from PIL import Image

from helpers import artifacts, cli, notebooks

ROOT = Path(__file__).resolve().parents[1]
READMES = ("README.md", "README.zh.md")


def shown(name: str) -> list[str]:
    """Returns the command lines of a README: those in its blocks, and those of helpers and make in its text."""
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    inline = re.findall(r"`((?:\.venv/bin/)?python -m (?:helpers|benchmarks)[^`\n]*|make \w+)`", prose)
    commands = [re.split(r"\s{2,}#", line)[0].strip() for line in [*lines, *inline]]
    return list(dict.fromkeys(command for command in commands if command))


EVERY = sorted({(name, command) for name in READMES for command in shown(name)})
QUICK = r"python -m helpers (predict|registry)\b"
ASKED_OF_PAPERMILL = r"papermill --help-notebook "
DOCTOR = r"\.venv/bin/python -m helpers doctor$"
SERVED = r"python -m helpers serve$|printf .*\| curl .*localhost:8080/"
MAKE = r"make "
RUN = r"python -m helpers run\b"
PAPERMILL = r"papermill -k workbook "
BENCHMARKS = r"python -m benchmarks "
KNOWN = [QUICK, ASKED_OF_PAPERMILL, DOCTOR, SERVED, MAKE, RUN, PAPERMILL, BENCHMARKS]
ASKED = sorted({tuple(sorted(filter(re.compile(SERVED).match, shown(name)), key=len)) for name in READMES})


def named(*patterns: str) -> list[str]:
    """Returns the commands of the READMEs that begin as one of the regular expressions says."""
    return sorted({command for _, command in EVERY if any(re.match(pattern, command) for pattern in patterns)})


@pytest.fixture(scope="module")
def after_a_run(tmp_path_factory, fill_registry):
    """A folder as a reader has it after a run: two versions of a small classifier, and pictures to ask about."""
    place = tmp_path_factory.mktemp("place")
    fill_registry(place / "outputs" / "registry", "classifier", versions=2, test_accuracy=0.9)
    picture = np.random.default_rng(0).integers(0, 256, (4, 4), dtype=np.uint8)
    (place / "more" / "pictures" / "ant").mkdir(parents=True)
    for path in ("photo.jpg", "more/pictures/ant/1.png"):
        Image.fromarray(picture).resize((9, 7)).save(place / path)
    (place / "notebooks").symlink_to(ROOT / "notebooks")
    (place / ".venv" / "bin").mkdir(parents=True)
    python = place / ".venv" / "bin" / "python"  # a link would not find the packages
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return place


@pytest.fixture
def place(after_a_run, tmp_path):
    """A copy of that folder for one command, with the outputs that all tests have."""
    return shutil.copytree(after_a_run, tmp_path, symlinks=True, dirs_exist_ok=True)


def run(command: str, place: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", "-c", command], cwd=place, env=environment, capture_output=True, text=True)


def test_there_are_commands():
    assert len(shown("README.md")) >= 15
    assert len(shown("README.zh.md")) >= 8


def test_every_command_is_known_to_a_test():
    assert {command for _, command in EVERY} == set(named(*KNOWN))


IN_KERAS = [command for command in named(QUICK) if ".keras" in command]
SLOW = [pytest.param(command, marks=pytest.mark.slow) for command in named(DOCTOR)]  # it starts a kernel


@pytest.mark.parametrize("command", [*sorted(set(named(QUICK)) - set(IN_KERAS)), *SLOW])
def test_a_command_of_the_readmes_works(command, place):
    ended = run(command, place)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_KERAS)
def test_a_network_that_notebook_03_has_trained_answers_as_the_readmes_say(command, place):
    from helpers import models

    (place / "outputs" / "03_cnn_training").mkdir()
    models.mlp((4, 4, 1), 3).save(place / "outputs" / "03_cnn_training" / "model.keras")
    ended = run(command, place)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout


@pytest.mark.parametrize("command", named(MAKE))
def test_a_target_of_the_readmes_is_in_the_makefile(command):
    planned = subprocess.run(["make", "-n", *shlex.split(command)[1:2]], cwd=ROOT, capture_output=True, text=True)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("command", named(RUN))
def test_a_run_of_the_readmes_is_right_up_to_its_first_cell(command, capsys):
    """A kernel that is not there: all that comes before is checked."""
    words = shlex.split(command)[3:]
    assert cli.main([*words, "--kernel", "nowhere", "--output", str(artifacts.outputs())]) == 2
    refused = capsys.readouterr().err.strip().splitlines()[-1]
    assert refused.startswith("error: Jupyter knows no kernel named 'nowhere'"), refused


@pytest.mark.parametrize("command", named(PAPERMILL))
def test_parameters_of_a_papermill_command_are_those_of_its_notebook(command):
    words = shlex.split(command)
    notebook = notebooks.read(ROOT / words[3])
    given = {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == "-p"}
    assert given
    assert notebooks.with_parameters(notebook, given).keys() == given.keys()


@pytest.mark.parametrize("command", named(ASKED_OF_PAPERMILL))
def test_papermill_tells_the_parameters_of_a_notebook(command, monkeypatch):
    words = shlex.split(command)
    assert (Path(sys.executable).parent / words[0]).is_file()
    monkeypatch.chdir(ROOT)
    asked = CliRunner().invoke(papermill, words[1:])  # as the script does, with the libraries that are here already
    assert asked.exit_code == 0, asked.output
    assert set(notebooks.read(Path(words[2])).defaults) <= set(re.findall(r"(\w+): ", asked.output))


@pytest.mark.parametrize("command", named(BENCHMARKS))
def test_a_benchmark_of_the_readmes_is_known(command, monkeypatch, capsys):
    words = shlex.split(command)[2:]
    monkeypatch.setattr(sys, "argv", [*words, "--help"])
    with pytest.raises(SystemExit) as ended:  # as `python -m` does, with the libraries that are here already
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    assert not ended.value.code
    assert re.search(rf"\b{words[1]}\b", capsys.readouterr().out)


@pytest.mark.parametrize(("serve", "ask"), ASKED)
def test_the_server_of_the_readmes_answers_their_request(serve, ask, place, until):
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    Image.fromarray(noise).save(place / "photo.jpg", quality=95)
    assert (place / "photo.jpg").stat().st_size > 128 * 1024  # as a photo has, and no argument of a command may have
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, *shlex.split(serve)[1:], "--port", str(port), "--grpc-port", "0", "--follow"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    log = subprocess.DEVNULL
    with subprocess.Popen(words, cwd=place, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log) as server:
        try:
            until(lambda: ready(port), 60)
            answered = run(f"set -o pipefail; {ask.replace(':8080', f':{port}').replace('curl', 'curl -sS')}", place)
        finally:
            server.stdin.close()
    [prediction] = json.loads(answered.stdout)["predictions"]
    assert prediction["label"] in ("ant", "bee", "cat")


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:  # a busy machine's TimeoutError, too
        return False
