"""Facts about registered versions: numbered once, whole, never changed."""

import json
import subprocess
import sys
import time

import pytest

from helpers import artifacts, registry

FACTS = {"facts": {"accuracy": 0.9}, "made_by": "05_compression", "parameters": {"SEED": 0}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "student-int8.tflite"
    path.write_bytes(b"weights")
    return path


def _names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_versions_are_numbered_from_one_and_hold_copies(file):
    for number in (1, 2, 3):
        file.write_bytes(b"weights %d" % number)
        assert registry.register("student", file, **FACTS).number == number
    assert registry.versions("student") == [1, 2, 3]
    assert registry.folder("student") == artifacts.outputs() / "registry" / "student" / "3"
    assert (registry.folder("student", 2) / file.name).read_bytes() == b"weights 2"


def test_ten_comes_after_nine(file):
    for number in range(1, 12):
        registry.register("student", file, **FACTS | {"facts": {"run": number}})
    assert registry.versions("student") == list(range(1, 12))
    assert registry.manifest(registry.folder("student"))["facts"] == {"run": 11}


def test_a_manifest_tells_what_and_from_what_and_no_time(file):
    version = registry.register("student", {"model.tflite": file}, **FACTS)
    assert json.loads((version.path / "manifest.json").read_text()) == {
        "name": "student", **FACTS,
        "files": {"model.tflite": {"bytes": 7, "sha256": artifacts.sha256(file)}},
    }  # fmt: skip
    assert registry.manifest(version.path)["made_by"] == "05_compression"


def test_the_same_again_is_the_version_that_is_there(file):
    first = registry.register("student", file, **FACTS)
    registry.register("student", file, **FACTS | {"facts": {"accuracy": 0.8}})
    assert registry.register("student", file, **FACTS) == first
    assert registry.versions("student") == [1, 2]
    assert registry.register("other", file, **FACTS).number == 1


def test_a_saved_model_is_registered_with_all_its_files(tmp_path):
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    for name in ("saved_model.pb", "variables/data"):
        (tmp_path / "saved" / name).write_text(name)
    version = registry.register("student", tmp_path / "saved", **FACTS)
    assert _names(version.path) == ["manifest.json", "saved/saved_model.pb", "saved/variables/data"]


@pytest.mark.parametrize("harm", ["change", "remove", "add"])
def test_files_that_are_not_as_registered_are_named(file, harm):
    path = registry.register("student", file, **FACTS).path
    changed = path / ("extra" if harm == "add" else file.name)
    if harm == "remove":
        changed.unlink()
    else:
        changed.write_bytes(b"weight!")
    with pytest.raises(ValueError, match=rf"{changed.name} is not as it was registered"):
        registry.folder("student")
    with pytest.raises(ValueError, match="is not as it was registered"):
        registry.register("student", file, **FACTS)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "a.b", "ä", "a\n", "x" * 101, None])
def test_names_that_are_paths_are_refused(file, name):
    for call in (lambda: registry.register(name, file, **FACTS), lambda: registry.versions(name),
                 lambda: registry.folder(name)):  # fmt: skip
        with pytest.raises(ValueError, match="letters, digits, - and _ only"):
            call()
    assert not (artifacts.outputs() / "registry").exists()


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "manifest.json", ".hidden", ""])
def test_files_get_no_name_outside_their_version(file, name):
    with pytest.raises(ValueError, match="A registered file's name"):
        registry.register("student", {name: file}, **FACTS)
    assert registry.versions("student") == []


def test_what_is_missing_is_named(tmp_path, file):
    with pytest.raises(FileNotFoundError, match=r"no file .*nothing\.tflite to register"):
        registry.register("student", tmp_path / "nothing.tflite", **FACTS)
    with pytest.raises(ValueError, match="at least one file"):
        registry.register("student", {}, **FACTS)
    with pytest.raises(FileNotFoundError, match="no version of the model student; there is none"):
        registry.folder("student")
    registry.register("student", file, **FACTS)
    with pytest.raises(FileNotFoundError, match="no version 7 of the model student; there is versions 1"):
        registry.folder("student", 7)


def test_a_registration_that_fails_leaves_nothing(file):
    with pytest.raises(ValueError, match="not JSON compliant"):
        registry.register("student", file, **FACTS | {"facts": {"accuracy": float("nan")}})
    assert _names(artifacts.outputs() / "registry") == []


_REGISTER_MANY = """
import json, sys, time
from pathlib import Path
from helpers import registry
file, worker, start = sys.argv[1:]
Path(f"{start}-{worker}").touch()
while not Path(start).exists():
    time.sleep(0.001)
own, same = [], []
for number in range(10):
    for numbers, facts in ((own, {"run": f"{worker}-{number}"}), (same, {"shared": number})):
        known = {"made_by": "05_compression", "parameters": {"SEED": 0}}
        numbers.append(registry.register("student", file, facts=facts, **known).number)
print(json.dumps([own, same]))
"""


@pytest.mark.slow
def test_processes_that_register_at_once_get_numbers_of_their_own(file, tmp_path):
    start = tmp_path / "start"
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", _REGISTER_MANY, str(file), str(worker), str(start)], stdout=subprocess.PIPE
        )
        for worker in range(4)
    ]
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("start-*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    start.touch()
    printed = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    own, same = (sum(numbers, []) for numbers in zip(*map(json.loads, printed), strict=True))
    assert len(set(own)) == 40
    assert len(set(same)) == 10  # what four of them registered alike is one version
    assert registry.versions("student") == list(range(1, 51))
    for number in registry.versions("student"):
        registry.folder("student", number)


_REGISTER_SLOWLY = """
import sys, time
from helpers import artifacts, registry
artifacts.write_manifest = lambda *arguments, **facts: time.sleep(60)
registry.register("student", sys.argv[1], facts={}, made_by="05_compression", parameters={})
"""


@pytest.mark.slow
def test_a_killed_registration_leaves_no_version_and_the_next_clears_it(file):
    base = artifacts.outputs() / "registry" / "student"
    writer = subprocess.Popen([sys.executable, "-c", _REGISTER_SLOWLY, str(file)])
    deadline = time.monotonic() + 20
    while file.name not in "".join(_names(base)) and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.kill()
    writer.wait()
    assert registry.versions("student") == []
    assert _names(base) != []
    assert registry.register("student", file, **FACTS).number == 1
    assert _names(base) == ["1/manifest.json", f"1/{file.name}"]
