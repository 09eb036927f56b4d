"""Command line of the benchmarks: `python -m benchmarks [NAME…] [--repeats N] …`."""

import argparse
import importlib.util
import sys

from benchmarks import batch, own_pictures, pipeline, seeds, serving, training
from helpers import artifacts

_BENCHMARKS = {
    "training": training.measure, "pipeline": pipeline.measure, "seeds": seeds.measure, "serving": serving.measure,
    "batch": batch.measure, "own": own_pictures.measure,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split(":")[0] + ".")
    parser.add_argument("names", nargs="*", help=f"which: {', '.join(_BENCHMARKS)} (all if none is named)")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes for each variant (default 3)")
    parser.add_argument("--pictures", type=int, default=20_000, help="training pictures (default 20000)")
    parser.add_argument("--torch-python", help="a Python that has PyTorch; this one's own PyTorch if not given")
    parser.add_argument("--triton-python", help="a Python that has nvidia-pytriton and onnxruntime, to compare with")
    parser.add_argument("--source", action="append", help="for `own`: a folder of pictures (may be given many times)")
    parser.add_argument("--profile", default="quick", help="for `own`: how the notebooks run (default quick)")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in _BENCHMARKS]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}: name one of {', '.join(_BENCHMARKS)}")
    if min(options.repeats, options.pictures // 1000) < 1:
        parser.error("--repeats is at least 1 and --pictures at least 1000")
    torch_python = options.torch_python or (sys.executable if importlib.util.find_spec("torch") else None)
    for name in options.names or _BENCHMARKS:
        try:
            results = _BENCHMARKS[name](
                repeats=options.repeats, pictures=options.pictures, torch_python=torch_python,
                triton_python=options.triton_python, sources=options.source, profile=options.profile,
            )  # fmt: skip
        except FileNotFoundError as error:  # what a notebook makes is not there; the message says which
            print(f"error: {error}", file=sys.stderr)
            return 1
        path = artifacts.write_json(artifacts.outputs() / "benchmarks" / f"{name}.json", results)
        print(f"  written to {path}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
