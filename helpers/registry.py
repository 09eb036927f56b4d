"""Versions of models in `outputs/registry/<name>/<number>/`: each whole, numbered once, never changed.

Which one is live stands in `outputs/registry/<name>/promoted`, which is replaced in one step. Every function takes
another registry's folder as `root`.
"""

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import artifacts

EXAMPLES = "examples.npz"  # pictures, and the logits of the model that a version was made from
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_MODELS = (".tflite", ".tflite.xz", ".onnx", ".keras")


class Version(NamedTuple):
    """A registered version: the model's name, its number, the folder with its files."""

    name: str
    number: int
    path: Path


def register(
    name: str,
    files: dict[str, str | Path] | str | Path,
    *,
    facts: dict,
    made_by: str,
    parameters: dict,
    examples: tuple[np.ndarray, np.ndarray] | None = None,
    agreement: float = 1.0,
    root: str | Path | None = None,
) -> Version:
    """Copies a model's files into the registry under the next free number, with a manifest.

    Several processes and threads may register at once: each gets a number of its own. Whoever registers what is there
    already, whole and with the same facts and parameters, gets the version that holds it. A process that is killed
    leaves none.

    Args:
        name: The model's name: letters, digits, - and _.
        files: One file or SavedModel folder, or several with the names that they get in the version.
        facts: What is known about the model, as JSON values: its accuracy, its classes.
        made_by: Stem of the notebook, or name of the command.
        parameters: The values used.
        examples: Raw pictures, uint8 (n, height, width, channels), and the logits (n, classes) that the model gave
            for them from which this one was made. Without them a version cannot be promoted.
        agreement: On how large a share of the examples this version has to give the same class: 1 for a file in
            float32, less for one that was rounded or is a student.
        root: Folder of the registry; `outputs/registry` if not given.

    Raises:
        ValueError: If a name cannot be used, or the examples are none.
        FileNotFoundError: If a file is not there.
    """
    sources = _sources(files)
    base = _base(name, root)
    kept = {} if examples is None else {"examples": _checked(*examples, agreement)}
    base.mkdir(parents=True, exist_ok=True)
    partial = base / f"{artifacts.PARTIAL}{os.getpid()}-version"
    with _alone(base):
        try:
            for target, source in sources.items():
                with artifacts.writing(partial / target) as file:
                    shutil.copyfile(source, file)
            if examples is not None:
                with artifacts.writing(partial / EXAMPLES) as file:
                    np.savez_compressed(file, images=examples[0], logits=np.asarray(examples[1], np.float32))
            artifacts.write_manifest(partial, made_by=made_by, parameters=parameters, name=name, facts=facts, **kept)
            return _settle(name, partial)
        finally:
            artifacts.remove(partial)


def names(*, root: str | Path | None = None) -> list[str]:
    """Returns the names of all models that have a version."""
    base = _root(root)
    if not base.is_dir():
        return []
    return sorted(
        entry.name for entry in base.iterdir() if _NAME.fullmatch(entry.name) and versions(entry.name, root=root)
    )


def versions(name: str, *, root: str | Path | None = None) -> list[int]:
    """Returns the numbers of a model's versions, oldest first; none for a name that was never registered.

    Example:

    >>> versions("never-registered")
    []
    """
    base = _base(name, root)
    if not base.is_dir():
        return []
    return sorted(int(entry.name) for entry in base.iterdir() if re.fullmatch(r"[1-9]\d*", entry.name))


def folder(name: str, version: int | None = None, *, root: str | Path | None = None) -> Path:
    """Returns the folder of a version, all of whose files are as they were registered.

    Args:
        name: The model's name.
        version: Its number; the newest if not given.
        root: Folder of the registry.

    Raises:
        FileNotFoundError: If there is no such version.
        ValueError: If a file is missing, changed, or was added.
    """
    there = versions(name, root=root)
    number = version if version is not None else max(there, default=None)
    if number not in there:
        numbers = ", ".join(map(str, there))
        known = "is none" if not there else f"is version {numbers}" if len(there) == 1 else f"are versions {numbers}"
        wanted = f"no version {version} of" if version is not None else "no version of"
        raise FileNotFoundError(f"The registry has {wanted} the model {name}; there {known}.")
    path = _base(name, root) / str(number)
    verify(path)
    return path


def model_file(path: Path) -> Path:
    """Returns the model in a version's folder: a file, or the folder of a SavedModel.

    Raises:
        ValueError: If there is none, or more than one.
    """
    files = manifest(path)["files"]
    there = [path / file for file in files if "/" not in file and file.endswith(_MODELS)]
    there += [path / file.split("/")[0] for file in files if re.fullmatch(r"[^/]+/saved_model\.pb", file)]
    if len(there) != 1:
        named = ", ".join(file.name for file in there) or "none"
        raise ValueError(f"A version that can answer holds one model; {path} holds {named}.")
    return there[0]


# ── the live version ────────────────────────────────────────────────────────────────────────────


def promoted(name: str, *, root: str | Path | None = None) -> int | None:
    """Returns the number of the live version; None if no version was ever promoted. Reads one small file."""
    return _promotions(_base(name, root))["version"]


def promote(name: str, version: int, *, root: str | Path | None = None) -> Version:
    """Makes a version the live one, if it passes its trial.

    The trial is `trial.check`: in a process of its own, the model loads, takes and gives what its manifest says, and
    answers the examples like the model that it was made from; its classes are in the order of the live version's,
    where they are the same. Killed at any moment, the state is that before or after.

    Raises:
        FileNotFoundError: If there is no such version.
        ValueError: If its files were changed, or it fails its trial; what is live stays so.
    """
    from helpers import trial

    path = folder(name, version, root=root)
    live = promoted(name, root=root)
    trial.check(path, None if live in (None, version) else path.parent / str(live))
    with _alone(path.parent):
        found = _promotions(path.parent)
        if found["version"] != version:
            before = [*found["before"], found["version"]] if found["version"] is not None else []
            artifacts.write_json(path.parent / "promoted", {"version": version, "before": before})
    return Version(name, version, path)


def rollback(name: str, *, root: str | Path | None = None) -> Version:
    """Makes the version live again that was so before the present one.

    It passed its trial when it was promoted; here its files are compared with their checksums once more.

    Raises:
        ValueError: If none was promoted before, or its files were changed.
    """
    base = _base(name, root)
    if not base.is_dir():
        raise ValueError(f"There is no model {name} in the registry.")
    with _alone(base):
        found = _promotions(base)
        if not found["before"]:
            live = "no version is live" if found["version"] is None else f"version {found['version']} is the first"
            raise ValueError(f"The model {name} cannot go back: {live}.")
        *before, version = found["before"]
        path = folder(name, version, root=root)
        artifacts.write_json(base / "promoted", {"version": version, "before": before})
    return Version(name, version, path)


def listing(name: str | None = None, *, root: str | Path | None = None) -> "pandas.DataFrame":  # noqa: F821
    """Returns a row for each version of one model, or of all: what it is, and whether it is live.

    Columns: `name`, `version`, `live`, `file`, `bytes` (of all its files), `test_accuracy` (NaN where it is not
    known), `made_by`. A version whose manifest cannot be read has the reason in place of its file.
    """
    import pandas as pd

    rows = []
    for one in names(root=root) if name is None else [name]:
        live = promoted(one, root=root)
        for number in versions(one, root=root):
            path = _base(one, root) / str(number)
            try:
                known = manifest(path)
            except ValueError as error:
                rows.append((one, number, number == live, str(error), 0, float("nan"), ""))
                continue
            size = sum(entry["bytes"] for entry in known["files"].values())
            accuracy = known.get("facts", {}).get("test_accuracy", float("nan"))
            rows.append((one, number, number == live, _named(path), size, accuracy, known["made_by"]))
    return pd.DataFrame(rows, columns=["name", "version", "live", "file", "bytes", "test_accuracy", "made_by"])


# ── what versions are made of ───────────────────────────────────────────────────────────────────


def verify(path: Path) -> None:
    """Raises ValueError unless a version's folder holds the files that were registered, all of them and no other.

    What a file manager leaves there counts for nothing: files whose name begins with a dot.
    """
    expected = manifest(path)["files"]
    there = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
    found = {file.relative_to(path).as_posix() for file in there} - {"manifest.json"}
    wrong = sorted(found ^ set(expected)) or [
        name for name, entry in expected.items() if artifacts.sha256(path / name) != entry["sha256"]
    ]
    if wrong:
        raise ValueError(
            f"{path / wrong[0]} is not as it was registered: register the model again under a new version."
        )


def manifest(path: Path) -> dict:
    """Returns what a version's folder says of itself: `name`, `facts`, `files`, `made_by`, `parameters`."""
    try:
        found = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        if missing := {"name", "files", "made_by"} - dict(found).keys():
            raise ValueError(f"it has no {min(missing)}")
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"The manifest of {path} cannot be read ({error}): register the model again.") from error
    return found


def _settle(name: str, partial: Path) -> Version:
    """Moves a complete version under its number; who comes second to a number tries the next one."""
    content = (partial / "manifest.json").read_bytes()
    while True:
        there = versions(name, root=partial.parent.parent)
        for number in reversed(there):
            path = partial.parent / str(number)
            if _holds(path, content):
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


def _holds(path: Path, content: bytes) -> bool:
    """Returns whether a version has this manifest and is whole; a damaged one is passed over for a new version."""
    try:
        if (path / "manifest.json").read_bytes() != content:
            return False
        verify(path)
    except (OSError, ValueError):
        return False
    return True


def _root(root: str | Path | None) -> Path:
    return artifacts.outputs() / "registry" if root is None else artifacts.expanded(root)


def _base(name: str, root: str | Path | None) -> Path:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"A model's name has letters, digits, - and _ only, at most 100; received {name!r}.")
    return _root(root) / name


def _promotions(base: Path) -> dict:
    try:
        found = json.loads((base / "promoted").read_text(encoding="utf-8"))
        if not isinstance(found["version"], int) or not all(isinstance(one, int) for one in found["before"]):
            raise ValueError("it names no versions")
    except FileNotFoundError:
        return {"version": None, "before": []}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{base / 'promoted'} cannot be read ({error}): remove it and promote a version again."
        ) from error
    return found


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """Lets one process, and one thread of it, change a model at a time; the lock ends with whoever holds it."""
    import fcntl

    with open(base / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        artifacts.remove_partial(base)
        yield


def _checked(images: np.ndarray, logits: np.ndarray, agreement: float) -> dict:
    if len(images) == 0 or len(images) != len(logits) or np.ndim(images) != 4 or np.ndim(logits) != 2:
        raise ValueError(
            "Examples are pictures (n, height, width, channels) and their logits (n, classes), at least one; "
            f"received {np.shape(images)} and {np.shape(logits)}."
        )
    if images.dtype != np.uint8:
        raise ValueError(f"Examples are raw pictures, uint8; received {images.dtype}.")
    if not 0 < agreement <= 1:
        raise ValueError(f"The share of equal answers is above 0 and at most 1; received {agreement}.")
    return {"agreement": agreement, "pictures": len(images)}


def _named(path: Path) -> str:
    with contextlib.suppress(ValueError):
        return model_file(path).name
    return "no model"


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
