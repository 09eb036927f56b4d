"""The long training on a GPU: seconds to 0.94, the accuracy it ends at, and how busy the GPU is."""

import math
import os
import statistics
import subprocess
import sys

from benchmarks import accuracy, results, side_by_side
from helpers import artifacts, kernel, notebooks, plans

TARGET, SHORT = 0.94, 15  # epochs of a cycle that is laid out to reach it: a guess, not tried yet
AIMS = (0.955, 0.96, 0.967)  # of the test pictures after the long cycle; the last is the published table's best
NETWORK, LAST = "the wide residual network", "test accuracy after the last epoch"
_OPTIONS = {"WIDTH": "width", "BLOCKS": "blocks", "DROPOUT": "dropout", "SHIFT": "shift", "ERASE": "erase"}


def measure(*, repeats: int, **_: object) -> results.Result:
    """Trains what notebook 03 trains with `profiles/full.yaml`, in a short cycle and in its own, a seed a round.

    Raises:
        RuntimeError: If Keras's backend sees no GPU.
    """
    variables = environment()
    machine = results.machine("keras", "tensorflow", "jax", "numpy") | {"processor": device(variables)}
    rounds = []
    with accuracy.prepared() as archive:
        for seed in range(repeats):
            arguments = ["--data", archive, "--seed", str(seed)]
            rounds.append(side_by_side.run(_variants(variables), repeats=1, arguments=arguments))
    runs = {name: [found[name][0] for found in rounds] for name in rounds[0]}
    return result(runs, repeats, machine)


def environment() -> dict[str, str]:
    """Returns the environment of the trainings: that of the workbook's kernel, and the Keras backend asked for here."""
    return kernel.ENVIRONMENT | {name: os.environ[name] for name in ("KERAS_BACKEND",) if name in os.environ}


def device(variables: dict[str, str], *, required: bool = True) -> str:
    """Returns what the trainings will run on, asked in a process that gives the GPU's memory back.

    Raises:
        RuntimeError: If a GPU is required and there is none.
    """
    ask = f"from helpers import devices; print(devices.setup(require_gpu={required}))"
    told = subprocess.run([sys.executable, "-c", ask], cwd=artifacts.root(), env=os.environ | variables,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if told.returncode:
        raise RuntimeError(told.stderr.strip().splitlines()[-1].removeprefix("RuntimeError: "))
    return told.stdout.strip()


def recipe() -> tuple[int, str]:
    """Returns the epochs of the long profile, and the rest of its recipe as options of `variants/ours_race.py`.

    >>> recipe()[1]
    '--width 64 --blocks 2 --dropout 0.3 --shift 3 --erase 0.5'
    """
    asked = plans.read_profile("full", notebooks.find())["03_cnn_training"]
    return asked["EPOCHS"], " ".join(f"--{option} {asked[name]}" for name, option in _OPTIONS.items() if name in asked)


def result(runs: dict[str, list[dict]], repeats: int, machine: dict) -> results.Result:
    """Returns the rows, limits and goals of both cycles.

    Args:
        runs: For `"short"` and `"long"` what each run of `variants/ours_race.py` told.
        repeats: Rounds.
        machine: As `results.machine` returns it.
    """
    short, long = runs["short"], runs["long"]
    epochs, options = recipe()
    rows, reached = [], f"to {TARGET} test accuracy, a cycle of {SHORT} epochs"
    arrived = [run[f"to {TARGET:.2f}"] for run in short]
    late = f" (not reached by {sum(map(math.isinf, arrived))} of {repeats}, at least)" if math.inf in arrived else ""
    seconds = [run["seconds"] if math.isinf(one) else one for one, run in zip(arrived, short, strict=True)]
    rows.append(results.row(reached, "s", seconds, of=results.OURS + late))
    rows.append(results.row(LAST, "of 1", [run["last"] for run in long]))
    rows.append(results.row(f"training {epochs} epochs", "s", [run["seconds"] for run in long]))
    speed = [run["pictures"] * run["epochs"] / run["seconds"] for run in long]
    rows.append(results.row(f"training {NETWORK}", "pictures/s", speed))
    for key, what, unit in (("gpu_percent", "time in which the GPU computes", "%"), ("gpu_mb", "GPU memory", "MB")):
        if all(key in run for run in long):
            rows.append(results.row(what, unit, [run[key] for run in long]))
    last = statistics.median(run["last"] for run in long)
    why = "the recipe was chosen without a GPU at hand: a longer cycle, or another augmentation, is to be tried"
    return results.Result(
        question=f"How long does {NETWORK} train on a GPU, and how far does it get?",
        held_equal=[f"notebook 03's network and recipe with {options}, {epochs} epochs; all its training pictures, all "
                    "10,000 test ones", "the clock stands still while the model is evaluated; a seed a round"],
        repeats=repeats, machine=machine, rows=rows, ratios=[],
        limits=[accuracy.limit(f"training {epochs} epochs", long)],
        goals=[results.goal(f"{aim} of the test pictures", last, at_least=aim, unit="of 1", what=LAST, why=why)
               for aim in AIMS],
        runs=accuracy.finite(runs),
    )  # fmt: skip


def _variants(variables: dict[str, str]) -> dict[str, tuple[str, str, dict[str, str]]]:
    epochs, options = recipe()
    script = f"ours_race.py {options} --targets {TARGET}"
    return {"short": (sys.executable, f"{script} --epochs {SHORT}", variables),
            "long": (sys.executable, f"{script} --epochs {epochs} --to-the-end", variables)}  # fmt: skip
