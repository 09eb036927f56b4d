"""Facts about registered versions: numbered once, whole, never changed."""

import json
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers import artifacts, inference, registry

FACTS = {"facts": {"accuracy": 0.9}, "made_by": "05_compression", "parameters": {"SEED": 0}}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "student-int8.tflite"
    path.write_bytes(b"weights")
    return path


def _names(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return sorted(path.relative_to(folder).as_posix() for path in files)


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


def test_the_next_number_is_above_the_newest_when_older_versions_were_removed(file):
    one, two, _ = (registry.register("student", file, **FACTS | {"facts": {"run": run}}) for run in (1, 2, 3))
    for removed in (one, two):
        shutil.rmtree(removed.path)
    assert registry.register("student", file, **FACTS | {"facts": {"run": 4}}).number == 4
    assert registry.versions("student") == [3, 4]


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
    for name in ("manifest.json", "saved_model.pb", "variables/data"):
        (tmp_path / "saved" / name).write_text(name)
    version = registry.register("student", tmp_path / "saved", **FACTS)
    inside = ["saved/manifest.json", "saved/saved_model.pb", "saved/variables/data"]
    assert _names(version.path) == ["manifest.json", *inside]
    assert sorted(registry.manifest(registry.folder("student"))["files"]) == inside


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
    assert registry.register("student", file, **FACTS).number == 2  # as that sentence advises
    assert registry.folder("student").name == "2"


def test_a_version_is_whole_beside_what_a_file_manager_leaves(file):
    first = registry.register("student", file, **FACTS)
    (first.path / ".DS_Store").write_bytes(b"x")
    assert registry.folder("student") == first.path
    assert registry.register("student", file, **FACTS) == first


def test_a_folder_without_a_manifest_is_listed_with_the_reason_and_takes_its_number_alone(file):
    first = registry.register("student", file, **FACTS)
    (first.path.parent / "2").mkdir()
    assert registry.register("student", file, **FACTS | {"facts": {}}).number == 3
    listed = registry.listing("student").set_index("version")
    assert listed.loc[[1, 3], "file"].tolist() == [file.name, file.name]
    assert "manifest of" in listed.loc[2, "file"]
    assert "register the model again" in listed.loc[2, "file"]


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
    with pytest.raises(FileNotFoundError, match="no version 7 of the model student; there is version 1"):
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
def test_processes_that_register_at_once_get_numbers_of_their_own(file, tmp_path, until):
    start = tmp_path / "start"
    command = [sys.executable, "-c", _REGISTER_MANY, str(file)]
    workers = [subprocess.Popen([*command, str(worker), str(start)], stdout=subprocess.PIPE) for worker in range(4)]
    until(lambda: len(list(tmp_path.glob("start-*"))) == 4)
    start.touch()
    printed = [worker.communicate(timeout=60)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    own, same = (sum(numbers, []) for numbers in zip(*map(json.loads, printed), strict=True))
    assert len(set(own)) == 40
    assert len(set(same)) == 10  # what four of them registered alike is one version
    assert registry.versions("student") == list(range(1, 51))
    for number in registry.versions("student"):
        registry.folder("student", number)


def test_threads_that_register_at_once_get_numbers_of_their_own(file):
    def register(number):
        return registry.register("student", {f"{name}.txt": file for name in "abcdefgh"}, **FACTS | {"facts": number})

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(register, range(16)))
    assert sorted(version.number for version in found) == list(range(1, 17))
    assert [registry.manifest(registry.folder(*version[:2]))["facts"] for version in found] == list(range(16))


_REGISTER_SLOWLY = """
import sys, time
from helpers import artifacts, registry
artifacts.write_manifest = lambda *arguments, **facts: time.sleep(60)
registry.register("student", sys.argv[1], facts={}, made_by="05_compression", parameters={})
"""


@pytest.mark.slow
def test_a_killed_registration_leaves_no_version_and_the_next_clears_it(file, until):
    base = artifacts.outputs() / "registry" / "student"
    writer = subprocess.Popen([sys.executable, "-c", _REGISTER_SLOWLY, str(file)])
    until(lambda: file.name in "".join(_names(base)))
    writer.kill()
    writer.wait()
    assert registry.versions("student") == []
    assert _names(base) != []
    assert registry.register("student", file, **FACTS).number == 1
    assert _names(base) == ["1/manifest.json", f"1/{file.name}"]


# ── the live version ────────────────────────────────────────────────────────────────────────────


PICTURES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), dtype=np.uint8)
CLASSES = {"facts": {"classes": ["a", "b", "c"], "input": [4, 4, 1]}}


@pytest.fixture
def registered(tmp_path, write_onnx):
    """A function that registers a model; its examples are its own answers unless others are given."""

    def register(seed=0, *, of=None, **changed):
        path = write_onnx(tmp_path / "model.onnx", seed=seed)
        reference = write_onnx(tmp_path / "other.onnx", seed=seed if of is None else of)
        logits = inference.load(reference, trusted=True).predict(PICTURES)
        return registry.register("student", path, **FACTS | CLASSES | {"examples": (PICTURES, logits)} | changed)

    return register


def test_nothing_is_live_before_a_version_is_promoted(registered):
    assert registry.promoted("student") is None
    registered()
    assert registry.promoted("student") is None
    assert registry.names() == ["student"]


@pytest.mark.slow
def test_promotions_can_be_taken_back_one_by_one(registered):
    for seed in range(3):
        number = registered(seed).number
        assert registry.promote("student", number).number == number == registry.promoted("student")
    registry.promote("student", 3)  # it is live already
    assert [registry.rollback("student").number for _ in range(2)] == [2, 1]
    assert registry.promoted("student") == 1
    with pytest.raises(ValueError, match="student cannot go back: version 1 is the first"):
        registry.rollback("student")
    assert registry.promoted("student") == 1


@pytest.mark.slow
def test_a_model_that_does_not_answer_like_its_source_is_not_promoted(registered):
    registered(0)
    registry.promote("student", 1)
    wrong = registered(1, of=0).number
    with pytest.raises(ValueError, match=r"Version 2 of student is not promoted: it gives \d+\.\d% of its 40 examples"):
        registry.promote("student", wrong)
    assert registry.promoted("student") == 1
    assert registry.promote("student", registered(1, of=0, agreement=0.05).number).number == 3


@pytest.mark.slow
def test_what_does_not_fit_its_manifest_is_not_promoted(registered, tmp_path):
    two = registered(facts={"classes": ["a", "b"], "input": [4, 4, 1]})
    with pytest.raises(ValueError, match="answers for 3 classes, and its manifest names 2"):
        registry.promote("student", two.number)
    other = registered(facts=CLASSES["facts"] | {"input": [8, 8, 1]})
    with pytest.raises(ValueError, match=r"its examples are \(4, 4, 1\), its manifest says \(8, 8, 1\)"):
        registry.promote("student", other.number)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    logits = np.zeros((40, 3))
    third = registry.register("student", damaged, **FACTS | CLASSES, examples=(PICTURES, logits))
    with pytest.raises(ValueError, match="Version 3 of student is not promoted: .* cannot be loaded by ONNX Runtime"):
        registry.promote("student", third.number)
    assert registry.promoted("student") is None


def test_a_version_with_the_classes_of_the_live_one_in_another_order_is_not_promoted(registered):
    first = registered(0)
    artifacts.write_json(first.path.parent / "promoted", {"version": 1, "before": []})
    moved = registered(1, facts={"classes": ["b", "c", "a"], "input": [4, 4, 1]}).number
    with pytest.raises(ValueError, match="Version 2 of student is not promoted: class 0 is 'b', and 'a' in version 1"):
        registry.promote("student", moved)
    assert registry.promoted("student") == 1


@pytest.mark.slow
def test_a_version_with_other_classes_is_promoted_and_so_is_one_beside_a_damaged_live_one(registered):
    first = registered(0)
    artifacts.write_json(first.path.parent / "promoted", {"version": 1, "before": []})
    assert registry.promote("student", registered(1, facts={"classes": ["d", "b", "a"]}).number).number == 2
    (first.path.parent / "2" / "manifest.json").write_text("{")
    assert registry.promote("student", registered(3, facts={"classes": ["b", "d", "a"]}).number).number == 3


def test_a_version_whose_answers_could_not_be_divided_by_its_temperature_is_not_promoted(registered):
    registered(facts=CLASSES["facts"] | {"temperature": 0})
    with pytest.raises(ValueError, match=r"Version 1 of student is not promoted: The temperature of .*/1 is 0, and"):
        registry.promote("student", 1)


def test_a_version_without_examples_is_not_promoted(file):
    registry.register("student", file, **FACTS)
    with pytest.raises(ValueError, match="no examples to be tried on. Register it again with examples="):
        registry.promote("student", 1)
    with pytest.raises(FileNotFoundError, match="no version 5 of the model student"):
        registry.promote("student", 5)
    with pytest.raises(ValueError, match="student cannot go back: no version is live"):
        registry.rollback("student")
    with pytest.raises(ValueError, match="no model other in the registry"):
        registry.rollback("other")


def test_a_version_whose_files_were_changed_is_not_gone_back_to(registered):
    first, second = registered(0), registered(1)
    artifacts.write_json(first.path.parent / "promoted", {"version": 2, "before": [1]})
    (first.path / "model.onnx").write_bytes(b"changed")
    with pytest.raises(ValueError, match=r"model.onnx is not as it was registered"):
        registry.rollback("student")
    assert registry.promoted("student") == second.number


@pytest.mark.parametrize(
    ("pictures", "logits", "agreement", "message"),
    [
        (PICTURES, np.zeros((39, 3)), 1.0, r"received \(40, 4, 4, 1\) and \(39, 3\)"),
        (PICTURES[:0], np.zeros((0, 3)), 1.0, "at least one"),
        (PICTURES[0], np.zeros((4, 3)), 1.0, "height, width, channels"),
        (PICTURES.astype(float), np.zeros((40, 3)), 1.0, "raw pictures, uint8; received float64"),
        (PICTURES, np.zeros((40, 3)), 0.0, "above 0 and at most 1; received 0.0"),
        (PICTURES, np.zeros((40, 3)), 80, "above 0 and at most 1; received 80"),
    ],
)
def test_examples_that_are_none_are_refused(file, pictures, logits, agreement, message):
    with pytest.raises(ValueError, match=message):
        registry.register("student", file, **FACTS, examples=(pictures, logits), agreement=agreement)
    assert registry.versions("student") == []


def test_examples_are_kept_as_they_were_in_the_same_bytes(registered):
    first, again = registered(0), registered(0)
    assert first == again
    with np.load(first.path / registry.EXAMPLES, allow_pickle=False) as examples:
        assert (examples["images"] == PICTURES).all()
        assert (examples["logits"].dtype, examples["logits"].shape) == (np.float32, (40, 3))
    assert registry.manifest(first.path)["examples"] == {"agreement": 1.0, "pictures": 40}


def test_a_damaged_note_of_what_is_live_is_one_sentence(registered):
    base = registered().path.parent
    for content in ("{", "[]", '{"version": "1", "before": []}', '{"version": 1}', '{"version": 1, "before": [null]}'):
        (base / "promoted").write_text(content)
        with pytest.raises(ValueError, match="promoted cannot be read .*: remove it and promote a version again"):
            registry.promoted("student")


def test_the_model_of_a_version_is_the_one_file_that_is_one(registered, file, tmp_path):
    assert registry.model_file(registered().path).name == "model.onnx"
    two = registry.register("student", {"a.onnx": file, "b.tflite": file}, **FACTS)
    with pytest.raises(ValueError, match=r"holds one model; .* holds a.onnx, b.tflite"):
        registry.model_file(two.path)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"x")
    saved = registry.register("student", tmp_path / "saved", **FACTS)
    assert registry.model_file(saved.path) == saved.path / "saved"


def test_the_list_tells_all_versions_and_which_is_live(registered, file):
    registered(0)
    registered(1, facts=CLASSES["facts"] | {"test_accuracy": 0.93})
    registry.register("another", file, **FACTS)
    artifacts.write_json(artifacts.outputs() / "registry" / "student" / "promoted", {"version": 2, "before": []})
    table = registry.listing()
    assert table[["name", "version", "live", "file"]].values.tolist() == [
        ["another", 1, False, "student-int8.tflite"], ["student", 1, False, "model.onnx"],
        ["student", 2, True, "model.onnx"],
    ]  # fmt: skip
    assert table["test_accuracy"].isna().tolist() == [True, True, False]
    assert registry.listing("student")["version"].tolist() == [1, 2]
    assert registry.listing("nobody").empty


def test_another_folder_can_be_a_registry(file, tmp_path):
    registry.register("student", file, **FACTS, root=tmp_path / "mine")
    assert registry.versions("student", root=tmp_path / "mine") == [1]
    assert registry.folder("student", root=tmp_path / "mine") == tmp_path / "mine" / "student" / "1"
    assert (registry.names(), registry.names(root=tmp_path / "mine")) == ([], ["student"])


_CHANGE_FOREVER = """
import sys
from helpers import registry, trial
trial.check = lambda path, live=None: None  # the trial takes most of the time and changes nothing
print("begun", flush=True)
while True:
    registry.promote("student", 1)
    registry.promote("student", 2)
    registry.rollback("student")
    registry.rollback("student") if len(registry._promotions(registry._base("student", None))["before"]) > 3 else None
"""


@pytest.mark.slow
def test_killed_at_any_moment_what_is_live_is_a_version_that_was_promoted(registered):
    base = registered(0).path.parent
    registered(1)
    artifacts.write_json(base / "promoted", {"version": 1, "before": []})  # a slow machine may not come to it at first
    for attempt in range(12):
        workers = [subprocess.Popen([sys.executable, "-c", _CHANGE_FOREVER], stdout=subprocess.PIPE) for _ in range(2)]
        for worker in workers:
            worker.stdout.readline()
        time.sleep(0.01 + 0.007 * attempt)
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        found = json.loads((base / "promoted").read_text())
        assert found["version"] in (1, 2)
        assert set(found["before"]) <= {1, 2}
    artifacts.write_json(base / "promoted", {"version": 1, "before": [2]})
    registry.rollback("student")
    assert registry.promoted("student") == 2
    assert not list(base.glob(f"{artifacts.PARTIAL}*"))  # what the killed ones had half-written is gone


_IN_TURNS = """
import sys
from helpers import registry, trial
trial.check = lambda path, live=None: None
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[1])):
    for number in sys.argv[2:]:
        registry.promote("student", int(number)) if number != "back" else registry.rollback("student")
"""


def _at_once(base, times, *numbers):
    """Promotes and goes back in two processes that begin together; returns all that was live before, and what is."""
    workers = [
        subprocess.Popen([sys.executable, "-c", _IN_TURNS, str(times), *map(str, one)], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE) for one in numbers
    ]  # fmt: skip
    for worker in workers:
        worker.stdout.readline()
    for worker in workers:
        worker.stdin.write(b"\n")
        worker.stdin.flush()
    for worker in workers:
        worker.communicate()
    assert [worker.returncode for worker in workers] == [0, 0]
    found = json.loads((base / "promoted").read_text())
    return [*found["before"], found["version"]]


@pytest.mark.slow
def test_two_processes_that_promote_at_once_lose_no_promotion(registered):
    for seed in range(4):
        base = registered(seed).path.parent
    line = _at_once(base, 25, (1, 2), (3, 4))
    assert len(line) == 100  # every promotion is another one than that before it, whoever made that
    assert [number for number in line if number < 3] == [1, 2] * 25


@pytest.mark.slow
def test_while_one_process_goes_back_no_promotion_of_another_is_lost_or_doubled(file):
    for number in range(1, 81):
        base = registry.register("student", file, **FACTS | {"facts": {"run": number}}).path.parent
    artifacts.write_json(base / "promoted", {"version": 41, "before": list(range(1, 41))})
    line = _at_once(base, 1, range(42, 81), ["back"] * 40)
    assert len(line) == 41 + 39 - 40  # each promotion adds one, each way back takes the last
    assert line == sorted(set(line))
