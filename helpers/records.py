"""What every source hands out, and the two ways in which it says no: a finding or a sentence."""

import unicodedata
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from helpers.artifacts import public as public  # sources name themselves by it, and notebooks call it here

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "tests": "test",
}


_JOINERS = "\u200c\u200d"  # unseen, and letters of Persian and Indian words and parts of emoji all the same
# How much of a source is believed before it is taken for an attack or an accident.
PICTURE_BYTES = 64 * 2**20  # of the largest encoded picture
PIXELS = 50_000_000  # of the largest picture; checked in its header, before it is decoded
TOTAL_BYTES = 200 * 2**30  # of the largest archive or IDX file once decompressed, and of the largest download
RATIO = 100  # how many times its own size a packed file may expand to
_SLACK = 64 * 2**20  # bytes that any packed file may hold, however small it is itself


class Record(NamedTuple):
    """One picture as a source hands it out.

    Attributes:
        name: Where it lies in its source; control characters are escaped, so it can be printed.
        picture: The bytes of an encoded picture, or its pixels as a uint8 array.
        label: Name of its class; `None` where there is none.
        split: `"train"`, `"validation"` or `"test"` where the source publishes splits.
    """

    name: str
    picture: bytes | np.ndarray
    label: str | None = None
    split: str | None = None


class Finding(NamedTuple):
    """Something that is amiss with one picture, and what becomes of the picture.

    Attributes:
        name: Name of the picture's record.
        kind: What is amiss, such as `"unreadable"`.
        action: `"drop"`, `"keep"` or `"review"` (kept, but worth a look).
        detail: One clause that says why.
        group: Number shared by the pictures of one finding; -1 where it is about one picture.
        row: Position in the collection; -1 for what did not get into it.
    """

    name: str
    kind: str
    action: str
    detail: str
    group: int = -1
    row: int = -1


class SourceError(ValueError):
    """A source that cannot be read at all; the message is one sentence for the reader."""


def unpacked(packed: int) -> int:
    """Returns how many bytes a file may hold that has `packed` bytes on disk."""
    return min(TOTAL_BYTES, packed * RATIO + _SLACK)


class Layout(NamedTuple):
    """How the folders of a tree name splits and classes; `layout` finds it out."""

    skip: int
    has_splits: bool

    def place(self, parts: tuple[str, ...]) -> tuple[str | None, str | None]:
        """Returns label and split of the file whose path has these parts."""
        folders = parts[self.skip : -1]
        split = None
        if self.has_splits and folders:
            split = _SPLITS.get(folders[0].lower())
            folders = folders[1:] if split else ()  # what lies beside the splits is of no class
        return clean_label(folders[0] if folders else None), split


def layout(paths: Iterable[tuple[str, ...]]) -> Layout:
    """Finds out which folder level of a tree names the class.

    The class is the first folder below the root; folders below it only group pictures. Two levels
    may lie above it: one folder that wraps all the others, as archives often have (a licence may lie
    beside them), and then folders named after splits (`train`, `val`, `test` and the like). They are taken
    for splits if all are, or if two splits or more have folders of their own: a picture that lies beside
    these then has neither label nor split.

    Args:
        paths: Path of each file, relative to the root, as its parts.

    Example:

    >>> found = layout([("pets", "train", "cat", "1.png"), ("pets", "test", "dog", "2.png")])
    >>> found.place(("pets", "test", "dog", "2.png"))
    ('dog', 'test')
    """
    # For each number of leading folders skipped: the folders found there, and the depth of files below.
    tops: tuple[set, set] = (set(), set())
    published: dict[tuple[str, ...], set] = {}  # of a folder, the splits named in it that have folders of their own
    deepest = 0
    for parts in paths:
        deepest = max(deepest, len(parts))
        for skip in (0, 1):
            if len(parts) > skip + 1:
                tops[skip].add(parts[skip].lower())
            if len(parts) > skip + 2 and (split := _SPLITS.get(parts[skip].lower())):
                published.setdefault(parts[:skip], set()).add(split)
    if len(published.pop((), ())) > 1:
        return Layout(0, True)
    if len(published) == 1 and len(*published.values()) > 1:  # two such folders are classes, with splits as groups
        return Layout(1, True)
    wrapped = len(tops[0]) == 1 and deepest >= 3 and not tops[0] <= _SPLITS.keys()
    skip = int(wrapped)
    has_splits = bool(tops[skip]) and tops[skip] <= _SPLITS.keys() and deepest - skip >= 3
    return Layout(skip, has_splits)


def is_litter(parts: tuple[str, ...]) -> bool:
    """Returns whether a path is what desktops leave behind (`.DS_Store`, `__MACOSX`), passed over in silence."""
    return any(part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini") for part in parts)


def clean_label(label: object) -> str | None:
    """Returns a label in one Unicode form, each space in it one plain space; `None` if nothing is left.

    Example:

    >>> clean_label("  ankle\N{NO-BREAK SPACE} boot "), clean_label(7), clean_label("  ")
    ('ankle boot', '7', None)
    """
    if label is None:
        return None
    return printable(" ".join(unicodedata.normalize("NFC", str(label)).split())) or None


def clean_split(split: object) -> str | None:
    """Returns the split that a source names by any of its usual names; `None` for no name.

    Raises:
        SourceError: If the name is not one of a split.
    """
    name = str(split).strip().lower() if split is not None else ""
    if name and name not in _SPLITS:
        raise SourceError(f"The split is called {name[:40]!r}: it must be one of {', '.join(_SPLITS)}, or empty.")
    return _SPLITS.get(name)


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, for sentences.

    Example:

    >>> counted(1, "class"), counted(2, "class"), counted(1000, "picture")
    ('1 class', '2 classes', '1,000 pictures')
    """
    return f"{number:,} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"


def shortened(text: str, most: int) -> str:
    """Returns a text on one line, cut after a word and marked with `…` where it is longer than `most` signs.

    Example:

    >>> shortened("The server\\nsays no, and goes on saying so", 22)
    'The server says no, …'
    """
    line = " ".join(text.split())
    if len(line) <= most:
        return line
    return f"{line[: most - 1].rpartition(' ')[0] or line[: most - 2]} …"


def printable(name: str) -> str:
    """Returns a name with line breaks, control and undecodable characters escaped; letters of all scripts stay.

    Example:

    >>> printable("鞋\\n.png")
    '鞋\\\\n.png'
    """
    if name.isprintable():
        return name
    return "".join(c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape").decode() for c in name)
