"""Command line of the benchmarks: `python -m benchmarks [NAME…] [--repeats N] …` and `python -m benchmarks publish`."""

import argparse
import dataclasses
import datetime
import importlib
import importlib.util
import subprocess
import sys
import textwrap
import time
import traceback

from benchmarks import report, results, side_by_side
from helpers import artifacts

# The module of each, whose `measure` returns a `results.Result`, and the minutes it takes on two quiet cores.
BENCHMARKS = {
    "training": ("training", 22), "accuracy": ("accuracy", 25), "pipeline": ("pipeline", 5),
    "prediction": ("prediction", 5), "serving": ("serving", 4), "batch": ("batch", 4), "seeds": ("seeds", 2),
    "duplicates": ("duplicates", 5), "startup": ("startup", 2), "workbook": ("workbook", 29),
    "own": ("own_pictures", 39), "gpu": ("gpu", 0),
}  # fmt: skip
GPU, PUBLISH = "gpu", "publish"  # the one that needs a GPU is measured only where it is named
_PEERS = {  # for each option that names a Python: what it has to import, and the packages that bring it
    "torch_python": ("torch, numpy, PIL", "torch numpy pillow"),
    "triton_python": ("pytriton, onnxruntime", "nvidia-pytriton onnxruntime"),
    "peer_python": ("cleanvision", "cleanvision"),
}


def main(arguments: list[str] | None = None) -> int:
    """Measures what was asked for; returns 1 if a benchmark could not be measured, 2 for a wrong command, else 0."""
    parser = _parser()
    options = parser.parse_args(arguments)
    known = [*BENCHMARKS, PUBLISH]
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: name one of {', '.join(known)}")
    if options.names == [PUBLISH]:
        return _publish()
    if PUBLISH in options.names:
        parser.error("`publish` stands alone: measure first, then publish")
    if min(options.repeats, options.pictures // 1000) < 1:
        parser.error("--repeats is at least 1 and --pictures at least 1000")
    for option in _PEERS:
        if getattr(options, option) and (lacking := _lacking(option, getattr(options, option))):
            parser.error(lacking)
    options.torch_python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    asked = {name: value for name, value in vars(options).items() if name != "names"}
    failed = [name for name in options.names or _anywhere() if not _measure(name, asked)]
    print(f"Report: {report.write(BENCHMARKS)}")
    if failed:
        print(f"Not measured: {', '.join(failed)}.", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    minutes = textwrap.fill(", ".join(f"{name} {BENCHMARKS[name][1]}" for name in _anywhere()), 100)
    whole = sum(BENCHMARKS[name][1] for name in _anywhere())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures side by side, and writes outputs/benchmarks/report.html, report.json and report.md.",
        epilog=f"Minutes on two quiet cores, with the default options:\n{minutes};\nall of them {whole}.\n"
               f"{GPU} needs a GPU and has not been timed.\n"
               "Exit status: 0 if all were measured, whether their goals were held or missed; 1 if one could not be.",
    )  # fmt: skip
    add = parser.add_argument
    add("names", nargs="*", help=f"which: {', '.join(BENCHMARKS)} (all but {GPU} if none is named); "
                                 f"or {PUBLISH}: put the table into the READMEs")  # fmt: skip
    add("--repeats", type=int, default=3, help="rounds, in each of which all take their turn (default 3)")
    add("--pictures", type=int, default=20_000, help="training pictures (default 20000)")
    add("--torch-python", help="a Python that has PyTorch; this one's own PyTorch if not given")
    add("--triton-python", help="for `serving`: a Python that has nvidia-pytriton and onnxruntime, to compare with")
    add("--peer-python", help="for `duplicates`: a Python that has cleanvision, to compare with")
    add("--sizes", type=int, nargs="+", help="for `duplicates`: numbers of pictures (default 10000 100000 1000000)")
    add("--against", metavar="REV", help="for `workbook`: the commit to compare with (default: the last release)")
    add("--source", action="append", dest="sources", help="for `own`: a folder of pictures (may be given many times)")
    add("--profile", default="quick", help="for `own` and `workbook`: how the notebooks run (quick, if not given)")
    return parser


def _anywhere() -> list[str]:
    """Returns the benchmarks that a machine without a GPU can measure."""
    return [name for name in BENCHMARKS if name != GPU]


def _lacking(option: str, python: str) -> str | None:
    """Returns what keeps a Python from running the peer that it is named for, one sentence; `None` if nothing does."""
    modules, packages = _PEERS[option]
    named = f"--{option.replace('_', '-')} {python}"
    try:
        done = subprocess.run([python, "-c", f"import {modules}"], env=side_by_side.clean(python, {}),
                              capture_output=True, text=True, check=False)  # fmt: skip
    except OSError as error:
        return f"{named} cannot be started ({error.strerror}): name the `python` of an environment that has {packages}."
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return f"{named} cannot import {modules} ({why}): `{python} -m pip install {packages}` mends it."
    return None


def _measure(name: str, asked: dict) -> bool:
    """Measures one benchmark, prints what it found and writes it; says in a sentence why it cannot be measured."""
    begun = time.perf_counter()
    try:
        module = importlib.import_module(f"benchmarks.{BENCHMARKS[name][0]}")
        found = module.measure(**asked)
        taken = {"date": datetime.date.today().isoformat(), "seconds": round(time.perf_counter() - begun),
                 "commit": _commit()}  # fmt: skip
        found = dataclasses.replace(found, taken=taken)
        print(report.text(name, found))
        print(f"  written to {results.write(name, found)}\n", flush=True)
    except (OSError, RuntimeError, ValueError) as error:  # not there, or peers that differ: the message says what
        print(f"error: {name} was not measured: {error}", file=sys.stderr, flush=True)
        return False
    except Exception:  # a mistake of ours; the others are measured all the same
        traceback.print_exc()
        print(f"error: {name} was not measured.", file=sys.stderr, flush=True)
        return False
    return True


def _commit() -> str:
    """Returns the commit that is measured, with a plus if files have changed since; nothing outside of Git."""
    command = ["git", "-C", str(artifacts.root()), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _publish() -> int:
    try:
        for path in report.publish(BENCHMARKS):
            print(f"Written: {path}")
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
