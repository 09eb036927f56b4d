"""The command line: `python -m helpers run | predict | serve | registry | report | doctor | refresh | kernel`."""

import argparse
import contextlib
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_EXAMPLES = """\
examples:
  python -m helpers run                                     every notebook, defaults, into outputs/
  python -m helpers run --profile quick                     the same in five minutes
  python -m helpers run 03 -p EPOCHS 2                      one notebook with another value
  python -m helpers run --source ~/pictures --output /tmp/mine
  python -m helpers doctor                                  is everything in place?
  python -m helpers registry promote classifier 1           make a registered model the live one
  python -m helpers predict photo.jpg                       ask the model that `run` has made
  python -m helpers serve                                   answer over HTTP and gRPC on this machine
"""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0: all went well. 1: a cell or a claim failed, or something is amiss. 2: the request was
    refused before or during the work; one sentence on stderr says why. 130: interrupted.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal may know no ✔; stderr replaces already
    parsed = _parser().parse_args(_separated(sys.argv[1:] if arguments is None else arguments))
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


def _separated(words: list[str]) -> list[str]:
    """Takes `-p NAME=VALUE` for `-p NAME VALUE`."""
    separated: list[str] = []
    for word in words:
        pair = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", word, re.DOTALL) if separated[-1:] == ["-p"] else None
        separated += pair.groups() if pair else [word]
    return separated


def _parser() -> argparse.ArgumentParser:
    # The libraries behind each command are imported when it runs: `--help` is quick.
    parser = argparse.ArgumentParser(
        prog="python -m helpers",
        description="Runs, checks and renders the workbook's notebooks; serves their models and predicts with them.",
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
    report.add_argument("--story", action="store_true", help="fold the code, for readers who want the story")
    report.set_defaults(command=_report)

    _add_predict(commands)
    _add_serve(commands)
    _add_registry(commands)

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


def _add_predict(commands: argparse._SubParsersAction) -> None:
    predict = commands.add_parser(
        "predict",
        help="answer for folders, archives, databases or single pictures, into a Parquet file",
        description="Answers for every picture and writes a table. Killed, the same command goes on where it was; "
        "pictures that cannot be read get a row that says why.",
    )
    predict.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="pictures: what --source of `run` takes, or one file"
    )
    predict.add_argument(
        "--model",
        metavar="M",
        help="model file, or folder of a registered model or of its version (default: outputs/registry/classifier)",
    )
    predict.add_argument("--output", metavar="FILE", help="table to write: FILE.parquet (default: answers are printed)")
    predict.add_argument("--query", default="", metavar="SQL", help="for a database: SELECT bytes … ORDER BY …")
    predict.add_argument("--shard", type=int, default=10_000, metavar="N", help="pictures that are kept at a time")
    predict.set_defaults(command=_predict)


def _add_registry(commands: argparse._SubParsersAction) -> None:
    registry = commands.add_parser("registry", help="list the registered models, make a version live, or go back")
    actions = registry.add_subparsers(metavar="action", required=True)
    show = actions.add_parser("list", help="show all versions, the live ones marked")
    show.add_argument("name", nargs="?", help="of the model (default: all)")
    promote = actions.add_parser("promote", help="make a version the live one, if it passes its trial")
    promote.add_argument("name", help="of the model")
    promote.add_argument("version", type=int, help="its number")
    rollback = actions.add_parser("rollback", help="go back to the version that was live before")
    rollback.add_argument("name", help="of the model")
    for action, command in ((show, _registry_list), (promote, _registry_promote), (rollback, _registry_rollback)):
        action.add_argument("--registry", metavar="DIR", help="folder of the registry (default: outputs/registry)")
        action.set_defaults(command=command)


def _add_serve(commands: argparse._SubParsersAction) -> None:
    serve = commands.add_parser(
        "serve",
        help="answer predictions over HTTP and gRPC with the promoted versions of a registry",
        description="Answers predictions over HTTP (TensorFlow Serving's protocol and V2) and gRPC with the promoted "
        "versions of a registry, and takes over what is promoted later. For other addresses than this machine's own, "
        "put a key into WORKBOOK_API_KEY or a file.",
    )
    serve.add_argument("--registry", metavar="DIR", help="folder of the registry (default: outputs/registry)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    for option, default, name, what in (
        ("--port", 8080, "PORT", "of HTTP; 0 for a free one"),
        ("--grpc-port", 8081, "PORT", "of gRPC; 0 for a free one"),
        ("--workers", 1, "N", "processes that answer"),
        ("--threads", 1, "N", "of one call of a model"),
        ("--largest-batch", 64, "N", "pictures in one call of a model"),
    ):
        serve.add_argument(option, type=int, default=default, metavar=name, help=f"{what} (default: {default})")
    serve.add_argument("--api-key-file", metavar="FILE", help="file whose first line is the key that clients show")
    serve.add_argument(
        "--limit", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="to a request: body (bytes), pictures, pixels, receive_seconds, answer_seconds, connections",
    )  # fmt: skip
    serve.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)  # ends with its standard input
    serve.set_defaults(command=_serve)


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    together = "numbers of notebooks, all in one place, such as 01 03 (default: all)"  # argparse: not 01 --profile P 03
    parser.add_argument("numbers", nargs="*", metavar="NN", help=together)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", metavar="DIR", help="folder to write to (default: $WORKBOOK_OUTPUTS or outputs/)")


def _run(parsed: argparse.Namespace) -> int:
    _choose_outputs(parsed.output)
    from helpers import runner

    words = [text for text in parsed.numbers if not Path(text).name[:1].isdigit()]
    if parsed.source is not None and words:
        whole = shlex.quote(" ".join([parsed.source, *parsed.numbers]))
        raise ValueError(f"There is no notebook {words[0]!r}: write quotes around names with spaces: --source {whole}.")
    given = dict(parsed.parameters)
    if parsed.source is not None and not parsed.source.strip():
        raise ValueError("--source is empty: name your pictures, or leave it out for Fashion-MNIST.")
    if parsed.source is not None:
        given["SOURCE"] = parsed.source
    return runner.run(parsed.numbers, profile=parsed.profile, given=given, kernel_name=parsed.kernel)


def _refresh(parsed: argparse.Namespace) -> int:
    _choose_outputs(parsed.output)
    from helpers import runner

    return runner.refresh(parsed.numbers)


def _report(parsed: argparse.Namespace) -> int:
    from helpers import artifacts

    if parsed.folder is not None and not artifacts.expanded(parsed.folder).is_dir():
        raise ValueError(f"There is no folder {parsed.folder}: name one that a run has written to.")
    _choose_outputs(parsed.folder)
    if parsed.folder is not None and not any(artifacts.outputs().glob("*/[0-9][0-9]_*.ipynb")):
        raise ValueError(f"No run has written to {parsed.folder}: name the folder that was a run's --output.")
    from helpers import report

    print(report.render_all(story=parsed.story))
    return 0


def _predict(parsed: argparse.Namespace) -> int:
    from tqdm import tqdm

    from helpers import batch, classifier

    named = _model(parsed.model)
    with _without_notes():
        model = classifier.load(named)

    def predict(output: str | Path) -> "batch.Summary":
        with tqdm(unit=" pictures", disable=not (sys.stderr and sys.stderr.isatty()), file=sys.stderr) as bar:
            return batch.predict(
                parsed.inputs, model, output, query=parsed.query, shard=parsed.shard, progress=bar.update
            )

    if parsed.output is None:
        with tempfile.TemporaryDirectory() as folder:
            for line in batch.lines(predict(Path(folder, "answers.parquet")).path):
                print(line)
        return 0
    done = predict(parsed.output)
    print(
        f"{done.pictures} pictures answered, {done.unreadable} could not be read"
        + (f", {done.resumed} rows were there already" if done.resumed else "")
        + (f"; {done.accuracy:.1%} as labelled" if done.accuracy is not None else "")
        + f": {done.path}"
    )
    return 0


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps from the terminal what libraries in C++ note while they start: their errors are exceptions anyway."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # which TensorFlow heeds only once it has begun
    if sys.stderr is None:  # closed: nobody would read them
        yield
        return
    with open(os.dup(2), "w") as terminal, open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(terminal):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal.fileno(), 2)


def _model(named: str | None) -> Path:
    """Returns the model to ask; refuses one that is not there, or of which no version is live."""
    from helpers import artifacts

    model = artifacts.outputs() / "registry" / "classifier" if named is None else artifacts.expanded(named)
    if not model.exists():
        raise ValueError(f"There is no model {model}: run `python -m helpers run` first, or name its full path.")
    versions = [int(path.parent.name) for path in model.glob("*/manifest.json") if path.parent.name.isdecimal()]
    if versions and not (model / "promoted").is_file():
        name, root = model.absolute().name, model.absolute().parent
        own = "" if root == artifacts.outputs() / "registry" else f" --registry {shlex.quote(str(root))}"
        command = f"python -m helpers registry promote {name} {max(versions)}{own}"
        raise ValueError(f"No version of the model {name} is live: `{command}` tries the newest.")
    return model


def _registry_list(parsed: argparse.Namespace) -> int:
    from helpers import artifacts, registry

    table = registry.listing(parsed.name, root=parsed.registry)
    if table.empty:
        raise ValueError(
            f"No version of {parsed.name or 'any model'} is in the registry "
            f"{parsed.registry or artifacts.outputs() / 'registry'}: run notebook 05, or name another."
        )
    for row in table.itertuples():
        mark = "live" if row.live else ""
        accuracy = "" if row.test_accuracy != row.test_accuracy else f"{row.test_accuracy:.4f}"
        print(f"{row.name:20} {row.version:4} {mark:4} {row.bytes:12,} bytes  {accuracy:6}  {row.file}")
    return 0


def _registry_promote(parsed: argparse.Namespace) -> int:
    from helpers import registry

    found = registry.promote(parsed.name, parsed.version, root=parsed.registry)
    print(f"Version {found.number} of {found.name} is live.")
    return 0


def _registry_rollback(parsed: argparse.Namespace) -> int:
    from helpers import registry

    found = registry.rollback(parsed.name, root=parsed.registry)
    print(f"Version {found.number} of {found.name} is live again.")
    return 0


def _serve(parsed: argparse.Namespace) -> int:
    from helpers import artifacts, protocols, serving

    limits = protocols.limits(dict(parsed.limit))
    key = os.environ.get("WORKBOOK_API_KEY", "").strip()  # as a secret it may end with a line break
    if parsed.api_key_file is not None:
        key = artifacts.expanded(parsed.api_key_file).read_text(encoding="utf-8").partition("\n")[0].strip()
        if not key:
            raise ValueError(
                f"The first line of {parsed.api_key_file} is empty: write the key there, or leave --api-key-file out."
            )
    serving.supervise(
        parsed.registry or artifacts.outputs() / "registry",
        host=parsed.host,
        port=parsed.port,
        grpc_port=parsed.grpc_port,
        workers=parsed.workers,
        key=key or None,
        largest=parsed.largest_batch,
        threads=parsed.threads,
        limits=limits,
        follow=parsed.follow,
        say=lambda line: print(line, flush=True),
    )
    return 0


def _doctor(parsed: argparse.Namespace) -> int:
    from helpers import doctor

    return doctor.examine()


def _kernel_install(parsed: argparse.Namespace) -> int:
    from helpers import kernel

    print(f"The kernel `{kernel.NAME}` is in {kernel.install(parsed.prefix, user=parsed.user)}.")
    return 0


def _choose_outputs(folder: str | None) -> None:
    from helpers import artifacts

    # The kernels inherit the environment: notebooks and runner agree on where files go.
    if folder is not None:
        if not folder.strip():
            raise ValueError(f"The folder to write to is {folder!r}: name one, such as outputs, or leave it out.")
        os.environ["WORKBOOK_OUTPUTS"] = str(artifacts.expanded(folder).absolute())


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        # Those that the helpers raise are sentences; those of the system are a few words.
        if error.strerror.endswith((".", "!", "?")) or error.filename is None:
            return error.strerror
        return f"{error.filename}: {error.strerror}."
    return str(error) or type(error).__name__
