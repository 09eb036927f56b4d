"""Facts about the benchmarks of training, accuracy and pipeline: what they count, hold equal and refuse to compare."""

import contextlib
import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import accuracy, arithmetic, gpu, pipeline, results, side_by_side, training
from benchmarks.variants import _pictures, _race, _recipe
from helpers import artifacts, models, processor
from helpers.training import OneCycle


def test_operations_of_a_training_step_counted_by_hand():
    first, second = 2 * 26 * 26 * (3 * 3 * 1 * 32), 2 * 11 * 11 * (3 * 3 * 32 * 64)
    dense, last = 2 * 1600 * 128, 2 * 128 * 10
    by_hand = 2 * first + 3 * (second + dense + last)  # nothing asks for the slope in the pixels
    assert arithmetic.training_flop(models.classic_cnn((28, 28, 1), 10)) == by_hand == 15_396_864


def test_a_dense_layer_costs_two_operations_a_weight_in_each_of_its_products():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    assert arithmetic.training_flop(model) == 2 * (2 * 15) + 3 * (2 * 6)


def test_all_libraries_follow_the_same_learning_rate():
    rate = OneCycle(0.01, steps=200)
    for step in (0, 1, 25, 50, 51, 120, 199, 200):
        assert 0.01 * _recipe.share_of_peak(step, 200) == pytest.approx(float(rate(step)), rel=1e-4)


@pytest.mark.parametrize("network", sorted(_recipe.PEAK))
def test_the_twin_in_pytorch_has_as_many_weights(network):
    pytest.importorskip("torch")
    from benchmarks.variants import _twins

    model = getattr(models, network)((28, 28, 1), 10)
    assert _twins.weights(_twins.build(network)) == sum(math.prod(weight.shape) for weight in model.trainable_weights)


def test_the_clock_stands_still_while_a_model_is_evaluated(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_race.time, "perf_counter", lambda: now[0])
    race = _race.Race([0.90, 0.92])

    def epoch(accuracy):
        now[0] += 10  # of training

        def evaluate():
            now[0] += 100
            return accuracy

        return race.end_epoch(evaluate)

    assert [epoch(0.85), epoch(0.91), epoch(0.89)] == [False, False, False]
    assert race.figures() == {
        "to 0.90": 20, "to 0.92": math.inf, "seconds": 30, "epochs": 3, "best": 0.91, "last": 0.89,
    }  # fmt: skip
    assert epoch(0.93)
    assert race.figures()["to 0.92"] == 40


def _run(seconds, *, all_of_it=100.0):
    return {"to 0.92": seconds, "seconds": all_of_it, "epochs": 15.0, "best": 0.9}


def test_a_peer_that_does_not_arrive_counts_with_all_it_trained_and_says_so():
    ours, peer = [_run(10.0), _run(20.0)], [_run(math.inf), _run(80.0)]
    rows, (ratio,) = accuracy._compared(0.92, ours, {"Keras": peer})
    name = "Keras (not reached in 15 epochs by 1 of 2, at least)"
    assert [(row["of"], row["median"]) for row in rows] == [("ours", 15.0), (name, 90.0)]
    assert (ratio["to"], ratio["low"], ratio["high"]) == (name, 4.0, 10.0)
    assert all(goal["held"] for goal in accuracy._goals(0.92, [ratio]))


def test_if_ours_does_not_arrive_there_is_no_ratio_and_the_goal_is_missed():
    rows, ratios = accuracy._compared(0.92, [_run(10.0), _run(math.inf)], {"Keras": [_run(50.0), _run(60.0)]})
    assert "not reached" in rows[0]["of"]
    assert ratios == []
    (goal,) = accuracy._goals(0.92, ratios)
    assert not goal["held"]
    assert "not every seed" in goal["why"]


def test_what_was_not_reached_is_nothing_in_json():
    found = accuracy.finite({"Keras": [_run(math.inf)]})
    assert json.loads(json.dumps(found, allow_nan=False))["Keras"][0]["to 0.92"] is None


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """What a race of a small residual network with all of the long recipe's options told, on whatever is here."""
    random, path = np.random.default_rng(0), tmp_path_factory.mktemp("race") / "pictures.npz"
    content = {}
    for name in ("train", "validation", "test"):
        content[f"{name}_labels"] = np.arange(200) % 10
        content[f"{name}_images"] = random.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    np.savez(path, **content)
    options = gpu.recipe()[1].replace("--width 64", "--width 4").split()
    script = artifacts.root() / "benchmarks" / "variants" / "ours_race.py"
    command = [sys.executable, str(script), "--data", str(path), *options, "--epochs", "3", "--targets", "0.01",
               "--to-the-end"]  # fmt: skip
    told = subprocess.run(command, cwd=artifacts.root(), capture_output=True, text=True, check=False,
                          env={**gpu.environment(), "PYTHONPATH": str(artifacts.root())})  # fmt: skip
    assert told.returncode == 0, told.stderr[-2000:]
    return json.loads(told.stdout.splitlines()[-1])


@pytest.mark.slow
def test_the_long_recipe_trains_to_its_end_whatever_is_reached(raced):
    assert raced["epochs"] == 3
    assert raced["to 0.01"] < raced["seconds"]
    assert raced["last"] <= raced["best"]


@pytest.mark.slow
def test_the_gpu_s_figures_say_what_was_reached_and_what_was_not(raced):
    short = {**raced, "to 0.94": math.inf}
    found = gpu.result({"short": [short], "long": [raced]}, 1, {})
    rows = {row["what"]: row for row in found.rows}
    assert rows["to 0.94 test accuracy, a cycle of 15 epochs"]["of"] == "ours (not reached by 1 of 1, at least)"
    assert rows[gpu.LAST]["median"] == raced["last"]
    assert [goal["held"] for goal in found.goals] == [False] * 3
    assert results.read(results.write("gpu", found)) is not None


@pytest.mark.slow
def test_without_a_gpu_nothing_is_measured_and_a_sentence_says_so(capfd):
    if not gpu.device(gpu.environment(), required=False).startswith("CPU"):
        pytest.skip("there is a GPU")
    assert command.main(["gpu"]) == 1
    assert "gpu was not measured: A GPU is required" in capfd.readouterr().err


def _trained(**changes):
    run = {"pictures_per_second": 1.0, "accuracy": 0.88, "weights": 10.0}
    return {"ours": [run], "PyTorch, float32": [{**run, **changes}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"weights": 11.0}, "other networks"), ({"accuracy": 0.85}, "cannot be compared"), ({"accuracy": 0.91}, "apart")],
)
def test_speeds_of_other_networks_or_accuracies_are_not_compared(changes, message):
    with pytest.raises(RuntimeError, match=message):
        training._check(_trained(**changes), "the classic CNN", judge=True)


def test_keras_with_its_defaults_may_be_less_accurate_but_not_more():
    ours, peer = [{"accuracy": 0.88, "weights": 10.0}], {"accuracy": 0.80, "weights": 10.0}
    training._check({"ours": ours, training.DEFAULTS: [peer]}, "the classic CNN", judge=True)
    with pytest.raises(RuntimeError, match="apart"):
        training._check({"ours": ours, training.DEFAULTS: [{**peer, "accuracy": 0.95}]}, "the CNN", judge=True)


def test_equal_accuracy_is_claimed_only_where_it_was_judged():
    assert training._accuracies(training.JUDGED).startswith("test accuracy, within 0.02 of ours; Keras's default")
    assert training._accuracies(training.JUDGED - 1).startswith("not judged: test accuracy")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"largest_difference": 1.0}, "other grey pixels"), ({"pictures": 99}, "number"), ({"labels": 3}, "labels")],
)
def test_pipelines_that_give_other_pictures_are_not_compared(changes, message):
    run = {"largest_difference": 0.0, "mean_difference": 0.0, "pictures": 100, "labels": 450}
    pipeline._check("grey", {"ours": [run], "PyDataset": [run]})
    with pytest.raises(RuntimeError, match=message):
        pipeline._check("grey", {"ours": [run], "PyDataset": [{**run, **changes}]})


def test_the_workers_and_each_decoder_s_figure_are_told(monkeypatch, tmp_path):
    read = {"largest_difference": 0.0, "mean_difference": 0.0, "pictures": 100, "labels": 450, "bandwidth": 1e9,
            "pictures_per_second": 90.0, "first_epoch": 40.0, "collected": 50.0, "training": 10.0}  # fmt: skip
    ways = dict(zip(pipeline.DECODERS, (80.0, 60.0, 70.0), strict=True))

    def run(variants, **_):
        return {name: [{**ways, "pictures_per_second": 80.0} if name == pipeline.RAW else read] for name in variants}

    monkeypatch.setattr(processor, "cores", lambda: 3)
    monkeypatch.setattr(pipeline, "_folders", lambda _: contextlib.nullcontext(tmp_path))
    monkeypatch.setattr(side_by_side, "run", run)
    found = pipeline.measure(repeats=1, pictures=1000, torch_python=sys.executable)
    told = {row["of"]: row["median"] for row in found.rows if row["what"] == pipeline.DECODED}
    assert told == {"ours": 50, pipeline.RAW: 80, **{f"{pipeline.RAW}: {way}": speed for way, speed in ways.items()}}
    assert "PyTorch DataLoader, 3 workers" in {row["of"] for row in found.rows}
    assert any("as many workers as cores" in clause and clause.endswith(": 3") for clause in found.held_equal)


@pytest.mark.slow
def test_our_pipeline_reads_and_trains_on_a_few_grey_pictures(tmp_path):
    pipeline._write_grey(tmp_path, 256)
    ours = {"ours": pipeline._variants("grey", None)["ours"]}
    given = ["--folder", str(tmp_path), "--kind", "grey", "--threads", "1", "--passes", "1"]
    found = side_by_side.run(ours, repeats=1, arguments=given)
    pipeline._check("grey", found)
    [run] = found["ours"]
    assert run["pictures"] == 256
    assert min(run["pictures_per_second"], run["training"]) > 0


def test_one_picture_is_shifted_and_mirrored_within_its_frame():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    found = {_pictures.augmented(picture, 1, np.random.default_rng(seed)).tobytes() for seed in range(200)}
    assert len(found) == 2 * 3 * 3
    assert picture.tobytes() in found
    assert np.ascontiguousarray(picture[:, ::-1]).tobytes() in found
