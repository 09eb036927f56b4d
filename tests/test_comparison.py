"""Facts about comparisons: each setting trained once, kept through a kill, divergence recorded."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from helpers import artifacts, comparison
from helpers.training import Diverged

SETTINGS = pd.DataFrame({"optimizer": ["adam", "adam", "lion"], "learning_rate": [0.1, 0.01, 0.1], "seed": [0, 0, 3]})


def trial(optimizer, learning_rate, seed):
    accuracy = [0.5, 0.5 + learning_rate, 0.6 + learning_rate]
    history = pd.DataFrame({"epoch": [1, 2, 3], "seconds": [2.0, 1.0, 1.0], "val_accuracy": accuracy})
    history["learning_rate"] = learning_rate * np.array([1.0, 0.5, 0.0])  # as a schedule lowers it
    return history, {"right": np.arange(4) > seed}


def counted(trained):
    def counting(**row):
        trained.append(tuple(row.values()))
        return trial(**row)

    return counting


def test_runs_hold_setting_history_and_status_of_each(tmp_path):
    results = comparison.run(trial, SETTINGS, tmp_path, facts={"epochs": 3})
    assert results.runs.columns.tolist() == [*SETTINGS.columns, "epoch", "seconds", "val_accuracy", "status"]
    assert results.runs["optimizer"].tolist() == ["adam"] * 6 + ["lion"] * 3
    assert results.runs["val_accuracy"].tolist()[2:6] == [0.7, 0.5, 0.51, 0.61]
    assert set(results.runs["status"]) == {"ok"}
    assert [arrays["right"].tolist() for arrays in results.arrays][1:] == [[False, True, True, True], [False] * 4]


def test_what_is_finished_is_not_trained_again_and_comes_back_equal(tmp_path):
    trained = []
    first = comparison.run(counted(trained), SETTINGS[:2], tmp_path, facts={"epochs": 3})
    again = comparison.run(counted(trained), SETTINGS, tmp_path, facts={"epochs": 3})
    assert trained == [("adam", 0.1, 0), ("adam", 0.01, 0), ("lion", 0.1, 3)]
    pd.testing.assert_frame_equal(again.runs[:6], first.runs)
    np.testing.assert_array_equal(again.arrays[0]["right"], first.arrays[0]["right"])


def test_kept_figures_are_the_trained_ones_to_the_last_bit(tmp_path):
    figures = np.random.default_rng(0).random(200)
    kept = comparison.run(
        lambda seed: (pd.DataFrame({"epoch": range(200), "loss": figures}), {}),
        pd.DataFrame({"seed": [0]}), tmp_path, facts={},
    )  # fmt: skip
    np.testing.assert_array_equal(kept.runs["loss"], figures)


@pytest.mark.parametrize("wrong", [None, [1, None]])
def test_what_cannot_be_kept_is_named_and_leaves_no_file(wrong, tmp_path):
    with pytest.raises(ValueError, match=f"received {type(wrong).__name__} as 'right': return an array, or leave"):
        comparison.run(lambda **row: (trial(**row)[0], {"right": wrong}), SETTINGS, tmp_path, facts={})
    assert list(tmp_path.iterdir()) == []


def test_settings_of_any_length_have_a_file_each(tmp_path):
    settings = pd.DataFrame({f"option_{number}": ["ü" * 60, "ü" * 60] for number in range(9)} | {"seed": [0, 1]})
    history = pd.DataFrame({"epoch": [1]})
    runs = comparison.run(lambda **row: (history, {}), settings, tmp_path, facts={}).runs
    assert len(list(tmp_path.iterdir())) == len(runs) == 2


def test_runs_of_other_facts_and_damaged_ones_are_trained_again(tmp_path):
    trained = []
    comparison.run(counted(trained), SETTINGS[:1], tmp_path, facts={"data": "a"})
    comparison.run(counted(trained), SETTINGS[:1], tmp_path, facts={"data": "b"})
    assert len(trained) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    comparison.run(counted(trained), SETTINGS[:1], tmp_path, facts={"data": "b"})
    assert len(trained) == 3


def test_facts_of_a_row_alone_decide_about_its_runs(tmp_path):
    trained, settings = [], {"adam": 0.9, "lion": 0.5}
    for _ in range(2):
        comparison.run(counted(trained), SETTINGS, tmp_path, facts=lambda row: {"momentum": settings[row["optimizer"]]})
    assert len(trained) == 3
    settings["lion"] = 0.6
    comparison.run(counted(trained), SETTINGS, tmp_path, facts=lambda row: {"momentum": settings[row["optimizer"]]})
    assert trained[3:] == [("lion", 0.1, 3)]


def test_a_run_with_any_byte_changed_is_trained_again_or_comes_back_equal(tmp_path):
    comparison.run(trial, SETTINGS[:1], tmp_path, facts={})
    [path] = tmp_path.iterdir()
    history, arrays = comparison._read(path)
    whole, again, right = path.read_bytes(), [], arrays["right"].tolist()
    with open(path, "r+b", buffering=0) as file:  # one byte is written sooner than a file
        for place, byte in enumerate(whole):
            for flip in (1, 128):
                os.pwrite(file.fileno(), bytes([byte ^ flip]), place)
                found = comparison._read(path)
                again.append(found is None)
                if found is not None:
                    assert found[0].equals(history)
                    assert {name: kept.tolist() for name, kept in found[1].items()} == {"right": right}
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert 0.5 < np.mean(again) < 1


def test_a_changed_training_is_trained_again(tmp_path):
    def other(**row):
        return trial(**{**row, "learning_rate": 0.4})

    comparison.run(trial, SETTINGS, tmp_path, facts={})
    assert comparison.run(other, SETTINGS, tmp_path, facts={}).runs["val_accuracy"].max() == 1.0


def test_a_diverging_run_is_recorded_and_the_comparison_goes_on(tmp_path, capsys):
    trained = []

    def sometimes(optimizer, learning_rate, seed):
        trained.append(learning_rate)
        if learning_rate == 0.01:
            raise Diverged("The loss is nan", pd.DataFrame({"epoch": [1], "seconds": [2.0], "loss": [np.nan]}))
        return trial(optimizer, learning_rate, seed)

    results = comparison.run(sometimes, SETTINGS, tmp_path, facts={})
    assert results.runs["status"].tolist() == ["ok"] * 3 + ["diverged"] + ["ok"] * 3
    assert np.isnan(results.runs["loss"].iloc[3])
    assert results.arrays[1] == {}
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].startswith("2/3 optimizer adam, learning_rate 0.01, seed 0: diverged, ")
    comparison.run(sometimes, SETTINGS, tmp_path, facts={})
    assert len(trained) == 3  # a divergence is a result, too


def test_another_error_stops_and_keeps_what_is_finished(tmp_path):
    trained, full = [], ["lion"]

    def breaks(optimizer, learning_rate, seed):
        trained.append(optimizer)
        if optimizer in full:
            raise MemoryError
        return trial(optimizer, learning_rate, seed)

    with pytest.raises(MemoryError):
        comparison.run(breaks, SETTINGS, tmp_path, facts={})
    full.clear()
    comparison.run(breaks, SETTINGS, tmp_path, facts={})
    assert trained == ["adam", "adam", "lion", "lion"]


KILLED = """
import sys, time
import pandas as pd
from helpers import comparison

def trial(number):
    print(number, flush=True)
    time.sleep(0.3)
    return pd.DataFrame({"epoch": [1], "seconds": [0.3]}), {}

comparison.run(trial, pd.DataFrame({"number": range(int(sys.argv[2]))}), sys.argv[1], facts={})
"""


@pytest.mark.slow
def test_a_killed_comparison_leaves_whole_runs_alone(tmp_path, until):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.Popen([*command, "100"], cwd=artifacts.root(), stdout=subprocess.DEVNULL)
    until(lambda: len(list(tmp_path.glob("[0-9]*.npz"))) >= 2, 120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list(tmp_path.glob("[0-9]*.npz")))
    assert 2 <= kept < 100
    again = subprocess.run(
        [*command, str(kept + 2)], cwd=artifacts.root(), capture_output=True, text=True, check=True
    )
    assert again.stdout.split() == [str(kept), str(kept + 1)]


def test_target_is_reached_at_the_first_epoch_that_is_good_enough(tmp_path):
    runs = comparison.run(trial, SETTINGS, tmp_path, facts={}).runs
    reached = comparison.first_to_reach(runs, 0.6, by=["optimizer", "learning_rate", "seed"])
    assert reached.loc[("adam", 0.1, 0)].tolist() == [2, 3.0]
    assert reached.loc[("adam", 0.01, 0)].tolist() == [3, 4.0]
    assert comparison.first_to_reach(runs, 0.9, by=["optimizer"]).isna().all(axis=None)


@pytest.mark.parametrize("settings", [SETTINGS[:0], pd.concat([SETTINGS, SETTINGS[:1]])])
def test_no_setting_or_one_twice_is_refused(settings, tmp_path):
    with pytest.raises(ValueError, match="Each setting is trained once, and there is at least one; received"):
        comparison.run(trial, settings, tmp_path, facts={})


def test_a_training_whose_text_lies_nowhere_is_told_apart_by_its_code(tmp_path):
    def typed(accuracy):  # as at a prompt
        scope = {"pd": pd}
        exec(f"def train(seed): return pd.DataFrame({{'epoch': [1], 'val_accuracy': [{accuracy}]}}), {{}}", scope)
        return scope["train"]

    for accuracy in (0.1, 0.9):
        runs = comparison.run(typed(accuracy), pd.DataFrame({"seed": [0]}), tmp_path, facts={}).runs
        assert runs["val_accuracy"].tolist() == [accuracy]
