"""The project's Jupyter kernel: one kernelspec for JupyterLab, papermill and nbval."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

from helpers import artifacts

NAME = "workbook"
_BACKENDS = ("tensorflow", "jax", "torch")

# What every run of a notebook starts from. KERAS_BACKEND is left to the reader's environment.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0",  # sets and dicts of str in the same order each run
    "TF_CPP_MIN_LOG_LEVEL": "3",  # no notes on oneDNN, cuInit and registered factories; errors are exceptions anyway
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",  # two notebooks can share a GPU
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the same with JAX, which would take three quarters of its memory
    "GRPC_VERBOSITY": "ERROR",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no warning on frozen modules at start
}


def spec() -> dict:
    """Returns the kernelspec that starts this Python.

    `capture_fd_output=False` leaves what C libraries write to stderr out of the notebook, so that
    papermill (which would capture it) and nbval (which would not) see the same outputs.
    """
    return {
        "argv": [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "--IPKernelApp.capture_fd_output=False",
            "-f",
            "{connection_file}",
        ],
        "display_name": "Workbook",
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {"debugger": True},
        "env": ENVIRONMENT,
    }


def install(prefix: str | Path | None = None, *, user: bool = False) -> Path:
    """Installs the kernelspec, whole or not at all, and returns its folder.

    Installing again changes nothing.

    Args:
        prefix: Environment to install into; this Python's own if not given.
        user: Install for the user instead, seen from every environment.

    Raises:
        OSError: If the folder cannot be written.
    """
    if user:
        from jupyter_core.paths import jupyter_data_dir

        data = Path(jupyter_data_dir())
    else:
        data = artifacts.expanded(prefix or sys.prefix).absolute() / "share" / "jupyter"
    folder = data / "kernels" / NAME
    text = json.dumps(spec(), indent=1, sort_keys=True) + "\n"
    try:
        if _read(folder) != text:
            with artifacts.writing_folder(folder) as partial:
                (partial / "kernel.json").write_text(text, encoding="utf-8")
    except OSError as error:
        elsewhere = "--prefix FOLDER" if user else "--user"
        raise OSError(
            error.errno,
            f"The kernel cannot be installed in {folder} ({error.strerror}): mend that folder's permissions, "
            f"or install elsewhere with `python -m helpers kernel install {elsewhere}`.",
        ) from error
    return folder


def problem(name: str = NAME) -> str | None:
    """Returns one sentence on what is wrong with the kernel that Jupyter finds, or `None`.

    A kernel of another name than the project's is only checked to be there: a reader who asks
    for one has a reason.
    """
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ModuleNotFoundError:
        return f"This Python ({sys.executable}) lacks Jupyter: run `.venv/bin/python`, or `make setup` first."
    try:
        found = KernelSpecManager().get_kernel_spec(name)
    except (NoSuchKernel, ValueError):
        if name != NAME:
            return f"Jupyter knows no kernel named {name!r}: `jupyter kernelspec list` shows those it knows."
        return f"The kernel `workbook` is not registered: run `{_install_command()}`."
    except RuntimeError:  # as in a container that runs under a number of its own
        return "Jupyter finds no home folder of this user: set HOME to a folder that may be written."
    if name != NAME:
        return None
    if not found.argv:
        amiss = "starts nothing"
    elif not Path(found.argv[0]).exists():
        amiss = f"starts {found.argv[0]}, a Python that is gone"
    elif not _same_python(found.argv[0]):
        amiss = f"starts {found.argv[0]}, another Python"
    elif found.argv[1:] != spec()["argv"][1:] or found.env != ENVIRONMENT:
        amiss = "is of an older version"
    else:
        return None
    return f"The kernel `workbook` in {found.resource_dir} {amiss}: run `{_install_command(found.resource_dir)}`."


def backend_problem() -> str | None:
    """Returns one sentence if `KERAS_BACKEND` names none that Keras has, or `None`."""
    chosen = os.environ.get("KERAS_BACKEND") or _BACKENDS[0]
    if chosen in _BACKENDS:
        return None
    return f"KERAS_BACKEND is {chosen!r}, which Keras does not know: set it to {', '.join(_BACKENDS)}, or unset it."


def _install_command(stale: str | None = None) -> str:
    """Returns the command that registers this Python where Jupyter looks no later than in the folder `stale`."""
    from jupyter_core.paths import jupyter_data_dir, jupyter_path

    on_path = shutil.which("python")
    python = "python" if on_path and _same_python(on_path) else shlex.quote(sys.executable)
    command = f"{python} -m helpers kernel install"
    own = str(Path(sys.prefix) / "share" / "jupyter" / "kernels")
    there = str(Path(stale).parent) if stale else own
    if next((place for place in jupyter_path("kernels") if place in (own, there)), own) == own:
        return command
    if there == str(Path(jupyter_data_dir()) / "kernels"):
        return f"{command} --user"
    return f"{command} --prefix {shlex.quote(str(Path(there).parents[2]))}"


def _same_python(path: str) -> bool:
    # Links alone do not tell: every virtual environment links to the same interpreter.
    mine, other = (os.path.realpath(os.path.dirname(one)) for one in (sys.executable, path))
    return mine == other and os.path.realpath(path) == os.path.realpath(sys.executable)


def _read(folder: Path) -> str | None:
    try:
        return (folder / "kernel.json").read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
