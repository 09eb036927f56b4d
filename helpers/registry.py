"""Versions of models in `outputs/registry/<name>/<number>/`: each whole, numbered once, never changed."""

import errno
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from helpers import artifacts


class Version(NamedTuple):
    """A registered version: the model's name, its number, the folder with its files."""

    name: str
    number: int
    path: Path


def register(
    name: str, files: dict[str, str | Path] | str | Path, *, facts: dict, made_by: str, parameters: dict
) -> Version:
    """Copies a model's files into the registry under the next free number, with a manifest.

    Several processes may register at once: each gets a number of its own. Whoever registers what is there already,
    with the same facts and parameters, gets the version that holds it. A process that is killed leaves no version.

    Args:
        name: The model's name: letters, digits, - and _.
        files: One file or SavedModel folder, or several with the names that they get in the version.
        facts: What is known about the model, as JSON values: its accuracy, its classes.
        made_by: Stem of the notebook, or name of the command.
        parameters: The values used.

    Raises:
        ValueError: If a name cannot be used.
        FileNotFoundError: If a file is not there.
    """
    sources = _sources(files)
    base = _base(name)
    base.mkdir(parents=True, exist_ok=True)
    artifacts.remove_partial(base)
    partial = Path(tempfile.mkdtemp(prefix=f"{artifacts.PARTIAL}{os.getpid()}-", dir=base))
    try:
        partial.chmod(0o777 & ~_umask())
        for target, source in sources.items():
            (partial / target).parent.mkdir(parents=True, exist_ok=True)
            with artifacts.writing(partial / target) as file:
                shutil.copyfile(source, file)
        artifacts.write_manifest(partial, made_by=made_by, parameters=parameters, name=name, facts=facts)
        return _settle(name, partial)
    finally:
        artifacts.remove(partial)


def versions(name: str) -> list[int]:
    """Returns the numbers of a model's versions, oldest first; none for a name that was never registered.

    Example:

    >>> versions("never-registered")
    []
    """
    base = _base(name)
    if not base.is_dir():
        return []
    return sorted(int(entry.name) for entry in base.iterdir() if re.fullmatch(r"[1-9]\d*", entry.name))


def folder(name: str, version: int | None = None) -> Path:
    """Returns the folder of a version, all of whose files are as they were registered.

    Args:
        name: The model's name.
        version: Its number; the newest if not given.

    Raises:
        FileNotFoundError: If there is no such version.
        ValueError: If a file is missing, changed, or was added.
    """
    there = versions(name)
    number = version if version is not None else max(there, default=None)
    if number not in there:
        known = f"versions {', '.join(map(str, there))}" if there else "none"
        wanted = f"no version {version} of" if version is not None else "no version of"
        raise FileNotFoundError(f"The registry has {wanted} the model {name}; there is {known}.")
    path = _base(name) / str(number)
    _verify(path)
    return path


def manifest(path: Path) -> dict:
    """Returns what a version's folder says of itself: `name`, `facts`, `files`, `made_by`, `parameters`."""
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"The manifest of {path} cannot be read ({error}): register the model again.") from error


def _settle(name: str, partial: Path) -> Version:
    """Moves a complete version under its number; who comes second to a number tries the next one."""
    content = (partial / "manifest.json").read_bytes()
    while True:
        there = versions(name)
        for number in reversed(there):
            path = partial.parent / str(number)
            if (path / "manifest.json").read_bytes() == content:
                _verify(path)
                return Version(name, number, path)
        number = max(there, default=0) + 1
        path = partial.parent / str(number)
        try:
            os.rename(partial, path)  # fails where a folder with files stands
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return Version(name, number, path)


def _verify(path: Path) -> None:
    expected = manifest(path)["files"]
    found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()} - {"manifest.json"}
    wrong = sorted(found ^ set(expected)) or [
        name for name, entry in expected.items() if artifacts.sha256(path / name) != entry["sha256"]
    ]
    if wrong:
        raise ValueError(
            f"{path / wrong[0]} is not as it was registered: register the model again under a new version."
        )


def _base(name: str) -> Path:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise ValueError(f"A model's name has letters, digits, - and _ only, at most 100; received {name!r}.")
    return artifacts.outputs() / "registry" / name


def _sources(files: dict[str, str | Path] | str | Path) -> dict[str, Path]:
    """Returns the files to copy by the names that they get, those of folders one by one."""
    chosen = files if isinstance(files, dict) else {Path(files).name: files}
    sources = {}
    for name, source in chosen.items():
        source = Path(source)
        if not re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)*", name, re.ASCII) or name == "manifest.json":
            raise ValueError(
                f"A registered file's name has letters, digits, ., - and _ and is not manifest.json; received {name!r}."
            )
        if source.is_dir():
            inside = (file for file in source.rglob("*") if file.is_file())
            sources |= {f"{name}/{file.relative_to(source).as_posix()}": file for file in inside}
        elif source.is_file():
            sources[name] = source
        else:
            raise FileNotFoundError(f"There is no file {source} to register: export the model first.")
    if not sources:
        raise ValueError("A version holds at least one file; received none.")
    return sources


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
