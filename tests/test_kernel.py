import json
import os
import pwd
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from helpers import artifacts, kernel


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Jupyter finds kernels in this folder first."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    return tmp_path


def test_spec_starts_this_python_and_leaves_c_output_out_of_the_notebook():
    spec = kernel.spec()
    assert spec["argv"][0] == sys.executable
    assert "--IPKernelApp.capture_fd_output=False" in spec["argv"]
    assert spec["argv"][-1] == "{connection_file}"
    assert spec["display_name"] == "Workbook"


def test_environment_has_only_texts_and_leaves_the_backend_to_the_reader():
    assert all(isinstance(value, str) for value in kernel.ENVIRONMENT.values())
    assert "KERAS_BACKEND" not in kernel.ENVIRONMENT


def test_install_writes_what_jupyter_finds(found):
    folder = kernel.install(found)
    assert folder == found / "share" / "jupyter" / "kernels" / "workbook"
    assert json.loads((folder / "kernel.json").read_text()) == kernel.spec()
    assert kernel.problem() is None


def test_installing_again_changes_nothing(found):
    file = kernel.install(found) / "kernel.json"
    before = file.stat()
    kernel.install(found)
    assert file.stat().st_ino == before.st_ino
    assert file.stat().st_mtime_ns == before.st_mtime_ns


def test_install_replaces_another_python_and_leaves_nothing_aside(found):
    folder = found / "share" / "jupyter" / "kernels" / "workbook"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text("{}")
    kernel.install(found)
    assert kernel.problem() is None
    assert [path.name for path in folder.parent.iterdir()] == ["workbook"]


def test_install_for_the_user_goes_to_jupyters_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "mine"))
    assert kernel.install(user=True) == tmp_path / "mine" / "kernels" / "workbook"


def test_install_into_a_file_is_one_sentence(tmp_path):
    (tmp_path / "share").write_text("")
    with pytest.raises(OSError, match=r"cannot be installed in .*install elsewhere with `python -m helpers"):
        kernel.install(tmp_path)


def test_problem_names_a_python_that_is_gone(found):
    _write(found, argv=["/nowhere/python", "-m", "ipykernel_launcher"])
    assert "starts /nowhere/python, a Python that is gone: run `" in kernel.problem()


@pytest.mark.parametrize("place", ["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def test_problem_names_the_command_that_mends_it(tmp_path, monkeypatch, place):
    from helpers import cli

    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # as outside of virtual environments
    monkeypatch.setenv(place, str(tmp_path / "share" / "jupyter"))
    _write(tmp_path, argv=["/nowhere/python", "-m", "ipykernel_launcher"])
    python, *arguments = shlex.split(re.search("run `(.*)`", kernel.problem())[1])
    assert Path(shutil.which(python)).resolve() == Path(sys.executable).resolve()
    assert arguments[:2] == ["-m", "helpers"]
    assert cli.main(arguments[2:]) == 0
    assert kernel.problem() is None


def test_a_kernel_of_the_user_that_comes_after_the_environments_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    assert kernel._install_command(str(tmp_path / "kernels" / "workbook")).endswith("kernel install")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_setup_registers_a_kernel_that_was_removed(tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "helpers"):
        (tmp_path / name).symlink_to(artifacts.root() / name)
    (tmp_path / ".venv" / ".ready").touch()
    # The tests may themselves be run by make.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    told = subprocess.run(["make", "setup"], cwd=tmp_path, capture_output=True, text=True, check=True, env=alone)
    assert told.stdout + told.stderr == ""
    assert (tmp_path / ".venv" / "share" / "jupyter" / "kernels" / "workbook" / "kernel.json").exists()


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_setup_makes_a_venv_anew_that_has_no_pip(tmp_path):
    shutil.copy(artifacts.root() / "Makefile", tmp_path)
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).touch()
    venv.create(tmp_path / ".venv", with_pip=False)  # as an interrupted creation leaves it
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\ntest "$1" = --version\n')
    python.chmod(0o755)
    told = subprocess.run(["make", "setup", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, check=False)
    assert told.returncode == 2  # this Python makes none
    assert (tmp_path / "asked").read_text().splitlines()[-1] == "-m venv .venv"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_clean_leaves_the_readme_of_the_outputs_alone(tmp_path):
    shutil.copy(artifacts.root() / "Makefile", tmp_path)
    for place in ("outputs", "outputs/01_data"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "README.md").touch()
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True)
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["README.md"]


def test_problem_of_a_user_without_a_home_is_one_sentence(monkeypatch):
    def nobody(_):
        raise KeyError("no such user")

    for name in ("HOME", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert kernel.problem() == "Jupyter finds no home folder of this user: set HOME to a folder that may be written."


def test_problem_names_another_python(found, tmp_path):
    other = tmp_path / "python"
    other.symlink_to(sys.executable)
    _write(found, argv=[str(other), *kernel.spec()["argv"][1:]])
    assert f"starts {other}, another Python" in kernel.problem()


def test_a_linked_checkout_has_the_same_python(tmp_path):
    (tmp_path / "checkout").symlink_to(Path(sys.executable).parents[1])
    assert kernel._same_python(str(tmp_path / "checkout" / Path(sys.executable).parent.name / "python"))


def test_problem_names_an_older_version(found):
    _write(found, env={})
    assert "of an older version" in kernel.problem()


def test_another_kernel_only_has_to_be_there(found):
    assert "no kernel named 'nothing-of-this-name'" in kernel.problem("nothing-of-this-name")
    kernel.install(found)
    _write(found, argv=["/nowhere/python"])
    (found / "share/jupyter/kernels/workbook").rename(found / "share/jupyter/kernels/other-one")
    assert kernel.problem("other-one") is None


@pytest.mark.slow
def test_cells_do_not_capture_what_c_writes_to_stderr(tmp_path):
    # nbval would report it as an unexpected output, since it does not see it.
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="workbook", stderr=subprocess.DEVNULL)
    try:
        texts = []
        source = "import os, sys; os.write(2, b'from C'); print('from Python'); print(os.environ['PYTHONHASHSEED'])"
        client.execute_interactive(source, output_hook=lambda m: texts.append(m["content"].get("text", "")), timeout=60)
        assert "".join(texts) == "from Python\n0\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _write(prefix: Path, **changed: object) -> None:
    folder = prefix / "share" / "jupyter" / "kernels" / "workbook"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernel.json").write_text(json.dumps({**kernel.spec(), **changed}))
