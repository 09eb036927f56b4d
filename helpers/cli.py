"""The command line: `python -m helpers run | doctor | report | refresh | kernel install`."""

import argparse
import os
import re
import sys
from pathlib import Path

_EXAMPLES = """\
examples:
  python -m helpers run                                     every notebook, defaults, into outputs/
  python -m helpers run --profile quick                     the same in five minutes
  python -m helpers run 03 -p EPOCHS 2                      one notebook with another value
  python -m helpers run --source ~/pictures --output /tmp/mine
  python -m helpers doctor                                  is everything in place?
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0: all went well. 1: a cell or a claim failed, or something is amiss. 2: the request was
    refused before or during the work; one sentence on stderr says why. 130: interrupted.
    """
    parsed = _parser().parse_args(arguments)
    try:
        return parsed.command(parsed)
    except KeyboardInterrupt:
        print("\nInterrupted; files are whole, and the same command starts again.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `… | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ValueError) as error:
        if os.environ.get("WORKBOOK_DEBUG"):
            raise
        print(f"error: {_sentence(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    # The libraries behind each command are imported when it runs: `--help` is quick.
    parser = argparse.ArgumentParser(
        prog="python -m helpers",
        description="Runs, checks and renders the workbook's notebooks.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="command", required=True)

    run = commands.add_parser("run", help="execute notebooks headless into outputs/")
    run._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.I)  # argparse: not -1e-3
    _add_numbers(run)
    run.add_argument(
        "--source", metavar="S", help="pictures: folder, archive, URL, database, CSV; the same as -p SOURCE S"
    )
    run.add_argument("--profile", metavar="P", help="quick, full, or a YAML file of parameters")
    run.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in each notebook that has it; may be repeated",
    )
    _add_output(run)
    run.add_argument(
        "--kernel", metavar="NAME", default="workbook", help="Jupyter kernel to run in (default: workbook)"
    )
    run.set_defaults(command=_run)

    refresh = commands.add_parser(
        "refresh", help="execute with the defaults and put the outputs, ready to commit, into notebooks/"
    )
    _add_numbers(refresh)
    _add_output(refresh)
    refresh.set_defaults(command=_refresh)

    report = commands.add_parser("report", help="render the executed notebooks of a folder as HTML pages")
    report.add_argument("folder", nargs="?", metavar="DIR", help="where a run wrote to (default: outputs)")
    report.set_defaults(command=_report)

    doctor = commands.add_parser("doctor", help="show versions, devices, kernel, disk and data, and what is amiss")
    doctor.set_defaults(command=_doctor)

    kernel = commands.add_parser("kernel", help="register the Jupyter kernel of the workbook")
    actions = kernel.add_subparsers(metavar="action", required=True)
    install = actions.add_parser("install", help="register this Python as the kernel `workbook`")
    place = install.add_mutually_exclusive_group()
    place.add_argument("--prefix", metavar="P", help="environment to install into (default: this Python's)")
    place.add_argument("--user", action="store_true", help="install for your user, seen from every environment")
    install.set_defaults(command=_kernel_install)
    return parser


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("numbers", nargs="*", metavar="NN", help="numbers of notebooks, such as 01 03 (default: all)")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", help="folder to write to (default: $WORKBOOK_OUTPUTS or outputs/)")


def _run(parsed: argparse.Namespace) -> int:
    _choose_outputs(parsed.output)
    from helpers import runner

    given = dict(parsed.parameters)
    if parsed.source is not None:
        given["SOURCE"] = parsed.source
    return runner.run(parsed.numbers, profile=parsed.profile, given=given, kernel_name=parsed.kernel)


def _refresh(parsed: argparse.Namespace) -> int:
    _choose_outputs(parsed.output)
    from helpers import runner

    return runner.refresh(parsed.numbers)


def _report(parsed: argparse.Namespace) -> int:
    if parsed.folder is not None and not Path(parsed.folder).expanduser().is_dir():
        raise ValueError(f"There is no folder {parsed.folder}: name one that a run has written to.")
    _choose_outputs(parsed.folder)
    from helpers import report

    print(report.render_all())
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from helpers import doctor

    return doctor.examine()


def _kernel_install(parsed: argparse.Namespace) -> int:
    from helpers import kernel

    print(f"The kernel `{kernel.NAME}` is in {kernel.install(parsed.prefix, user=parsed.user)}.")
    return 0


def _choose_outputs(folder: str | None) -> None:
    # The kernels inherit the environment: notebooks and runner agree on where files go.
    if folder is not None:
        os.environ["WORKBOOK_OUTPUTS"] = str(Path(folder).expanduser().absolute())


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        # Those that the helpers raise are sentences; those of the system are a few words.
        if error.strerror.endswith((".", "!", "?")) or error.filename is None:
            return error.strerror
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__
