"""What this installation has and what is amiss: versions, devices, kernel, disk, data."""

import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from helpers import artifacts, kernel, report
from helpers.artifacts import size

_SHOWN = ("keras", "tensorflow", "numpy", "pandas", "papermill", "jupyterlab")
_DEVICES = "from helpers import devices; print(devices.setup())"
_ANEW = "run `make -B setup`"  # without -B it does nothing where .venv is newer than the lock


class Finding(NamedTuple):
    """One thing that was looked at: what was found, and how to mend it if it is amiss."""

    subject: str
    found: str
    mend: str | None = None


def examine() -> int:
    """Prints what this installation has; the last line says what to do. Returns 0 if all is well, else 1."""
    amiss = []
    for finding in findings():
        print(f"{'✘' if finding.mend else '✔'} {finding.subject:<8}  {finding.found}", flush=True)
        if finding.mend:
            amiss.append(finding.mend)
    print(
        "To mend it: " + "; then ".join(dict.fromkeys(amiss)) + "."
        if amiss
        else "All is well: `make run` runs the notebooks."
    )
    return 1 if amiss else 0


def findings() -> Iterator[Finding]:
    """Looks at one thing after another, the slow one (devices, which imports Keras) last."""
    yield Finding("python", f"{platform.python_version()} in {sys.prefix}, {platform.system()} {platform.machine()}")
    yield _packages()
    yield _helpers()
    yield _told("kernel", kernel.problem(), f"{kernel.NAME} starts this Python")
    yield _told("pages", report.problem(), "nbconvert makes them")
    yield _disk()
    yield _data()
    yield _devices()


def _packages() -> Finding:
    shown = ", ".join(f"{name} {_version(name) or 'missing'}" for name in _SHOWN)
    wanted = locked_versions()
    missing = [name for name in _SHOWN if _version(name) is None]
    other = [name for name, version in wanted.items() if _version(name) not in (None, version)]
    if missing:
        return Finding("packages", shown, _ANEW)
    if other:
        first = other[0]
        differing = (
            f"{len(other)} differ from requirements.lock, first {first} {_version(first)} (locked: {wanted[first]})"
        )
        return Finding("packages", f"{shown}; {differing}", _ANEW)
    return Finding("packages", shown)


def _helpers() -> Finding:
    # What JupyterLab's kernels import: they start in other folders, where the installation alone says what helpers are.
    look = [sys.executable, "-P", "-c", "import helpers; print(helpers.__file__)"]
    told = subprocess.run(look, capture_output=True, text=True, check=False).stdout.strip()
    if not told:
        return Finding("helpers", "Python finds none outside of this folder", _ANEW)
    found = Path(told).resolve().parents[1]
    mend = _ANEW if found != artifacts.root() else None
    return Finding("helpers", f"those of {found}" + (f", and not those of {artifacts.root()}" if mend else ""), mend)


def locked_versions() -> dict[str, str]:
    """Returns the versions in `requirements.lock` by package, of those that any system gets."""
    path = artifacts.root() / "requirements.lock"
    if not path.exists():
        return {}
    return dict(
        re.findall(
            r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)(?=\s*\\?$)", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    )


def _told(subject: str, trouble: str | None, well: str) -> Finding:
    """Returns a finding from a sentence that ends with what to do behind its last colon."""
    return Finding(subject, trouble, trouble.rpartition(": ")[2].rstrip(".")) if trouble else Finding(subject, well)


def _disk() -> Finding:
    folder = artifacts.outputs()
    place = "name another folder with --output or WORKBOOK_OUTPUTS"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"\0" * 4096)
    except OSError as error:
        return Finding("disk", artifacts.explain(error, folder), f"make {folder} writable, or {place}")
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free for {folder}"
    return Finding("disk", found, f"free some space, or {place}" if free < artifacts.MINIMUM_FREE else None)


def _data() -> Finding:
    folder = artifacts.root() / "data" / "fashion-mnist"
    mend = f"put the files of {folder.relative_to(artifacts.root())} back as they are in the repository"
    try:
        read = "checksums.json"
        wanted = json.loads((folder / read).read_text(encoding="utf-8"))
        for name, facts in wanted.items():
            read = f"{name}.gz"
            with gzip.open(folder / f"{name}.gz") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != facts["sha256"]:
                    return Finding("data", f"{folder / name}.gz is not the file that was published", mend)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        return Finding("data", f"Fashion-MNIST's {read} cannot be read: {error}", mend)
    return Finding("data", f"Fashion-MNIST, {len(wanted)} files with the right SHA-256")


def _devices() -> Finding:
    if trouble := kernel.backend_problem():
        return _told("devices", trouble, "")
    try:
        told = subprocess.run(
            [sys.executable, "-c", _DEVICES],
            env={**os.environ, **kernel.ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Finding("devices", "Keras did not start within three minutes", _ANEW)
    if told.returncode:
        last = (told.stderr.strip().splitlines() or [f"status {told.returncode}"])[-1]
        return Finding("devices", f"Keras does not start: {last}", _ANEW)
    return Finding("devices", " ".join(told.stdout.split()))


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
