"""What a notebook's outputs were made from and on: kept in its metadata, so that a stale one can be told."""

import ast
import contextlib
import hashlib
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from helpers import artifacts, processor
from helpers.progress import duration

KEY = "workbook"  # in a notebook's metadata
_DATA = "data/fashion-mnist"
_PARAMETERS = {"parameters", "injected-parameters"}


def make(content: "nbformat.NotebookNode", seconds: float) -> dict:  # noqa: F821
    """Returns the stamp of a notebook that has just run, for that many seconds."""
    versions = {}
    for name in ("tensorflow", "keras"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    checked = {
        "python": platform.python_version(),
        **versions,
        "cores": processor.cores(),
        "processor": processor.name(),
    }
    return {**_hashes(content), "checked": {**checked, "seconds": round(seconds)}}


def stale(content: "nbformat.NotebookNode") -> list[str]:  # noqa: F821
    """Returns what has changed since a notebook ran: of "source", "parameters", "helpers", "lock" and "data".

    Raises:
        ValueError: If it has no stamp.
    """
    stamp = content.metadata.get(KEY)
    if not stamp:
        raise ValueError("The notebook has no stamp: write it with `python -m helpers refresh`.")
    return [name for name, now in _hashes(content).items() if stamp.get(name) != now]


def sentence(content: "nbformat.NotebookNode") -> str:  # noqa: F821
    """Returns with what, on what and for how long a notebook ran; nothing if it has no stamp."""
    checked = content.metadata.get(KEY, {}).get("checked")
    if not checked:
        return ""
    titles = {"tensorflow": "TensorFlow", "keras": "Keras", "python": "Python"}
    versions = ", ".join(f"{title} {checked[name]}" for name, title in titles.items() if name in checked)
    cpu = f"{checked['cores']} cores of {checked['processor']}"
    return f"Checked with {versions}: {duration(checked['seconds'])} on {cpu}."


def _hashes(content: "nbformat.NotebookNode") -> dict[str, str]:  # noqa: F821
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    taken = [cell.source for cell in code if _PARAMETERS & set(cell.metadata.get("tags") or [])]
    source = [cell.source for cell in code if cell.source not in taken]
    root = artifacts.root()
    return {
        "source": _hash(text.encode() for text in source),
        "parameters": _hash(text.encode() for text in taken),
        "helpers": _hash(path.read_bytes() for path in sorted(_reached(source, root / "helpers"))),
        "lock": _hash(path.read_bytes() for path in root.glob("requirements.lock")),
        "data": _hash(path.read_bytes() for path in sorted((root / _DATA).glob("*.gz"))),
    }


def _hash(contents: Iterable[bytes]) -> str:
    whole = hashlib.sha256()
    for content in contents:
        whole.update(hashlib.sha256(content).digest())
    return whole.hexdigest()[:16]


def _reached(cells: list[str], folder: Path) -> set[Path]:
    """Returns the modules of helpers that cells import, or start by name, and those that these do in turn."""
    found, waiting = set(), set().union(*map(_named, cells))
    while waiting:
        path = folder / f"{waiting.pop()}.py"
        if path.is_file() and path not in found:
            found.add(path)
            waiting |= _named(path.read_text(encoding="utf-8"))
    return found


def _named(source: str) -> set[str]:
    names = set()
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a notebook of the reader's own may have magics
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "helpers":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # `python -m helpers.worker`
            first, _, module = node.value.partition(".")
            names |= {module or "__main__"} if first == "helpers" else set()
    return names
