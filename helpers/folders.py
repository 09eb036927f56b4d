"""Pictures that lie as files: a folder tree with a class a folder, or a CSV of paths and labels."""

import csv
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TextIO

from helpers.records import (
    PICTURE_BYTES,
    Finding,
    Record,
    SourceError,
    clean_label,
    clean_split,
    is_litter,
    layout,
    printable,
)

_COLUMNS = {"path", "label"}


class FolderSource:
    """A folder tree with a class a folder.

    The class is the first folder below the root; deeper folders only group pictures. Folders named
    after splits (`train`, `val`, `test`) are taken for published splits, and the class is the folder
    below them; `records.layout` has the rule. Every file counts as a picture, whatever its name; those
    that are none become findings. Names that begin with a dot are passed over, links are followed only
    to files inside the root.

    Args:
        root: The folder.
    """

    classes = None

    def __init__(self, root: str | Path):
        self.findings: list[Finding] = []
        self._root = Path(root).resolve()

    def describe(self) -> str:
        return f"the folder {printable(self._root.name)}"

    @property
    def parent(self) -> str:
        """Name of the folder that this one lies in."""
        return printable(self._root.parent.name)

    @property
    def tables(self) -> list[str]:
        """Names of the CSV files that lie in it."""
        return [printable(path.name) for path in sorted(self._root.glob("*.[cC][sS][vV]"))]

    def records(self) -> Iterator[Record]:
        self.findings.clear()
        found = layout(self._files())
        self.findings.clear()
        for parts in self._files():
            picture = read(os.path.join(self._root, *parts), self._root, _shown(parts), self.findings)
            if picture is not None:
                yield Record(_shown(parts), picture, *found.place(parts))

    def beside(self) -> Iterator[bytes]:
        """Yields what the first files hold of each folder that lies beside this one."""
        for folder in sorted(self._root.parent.iterdir()):
            if folder.is_dir() and folder != self._root and not is_litter((folder.name,)):
                for parts in islice(FolderSource(folder)._files(), 3):
                    content = read(folder.joinpath(*parts), folder, "", [])
                    if content is not None:
                        yield content

    def _files(self) -> Iterator[tuple[str, ...]]:
        """Yields the path of each file as its parts, sorted; what is no file becomes a finding."""
        for folder, subfolders, files in os.walk(self._root, onerror=self._note_unreadable):
            subfolders[:] = sorted(name for name in subfolders if not is_litter((name,)))
            above = Path(folder).relative_to(self._root).parts
            for name in subfolders:
                if os.path.islink(os.path.join(folder, name)):
                    self._note((*above, name), "not a file", "is a link to a folder; not followed")
            if above and not files and not subfolders:
                self._note(above, "empty class", "is a folder without a picture")
            yield from ((*above, name) for name in sorted(files) if not is_litter((name,)))

    def _note_unreadable(self, error: OSError) -> None:
        parts = Path(error.filename).relative_to(self._root).parts
        self._note(parts or (self._root.name,), "unreadable", f"is a folder that cannot be read ({error.strerror})")

    def _note(self, parts: tuple[str, ...], kind: str, why: str) -> None:
        self.findings.append(Finding(_shown(parts), kind, "drop", why))


class CsvSource:
    r"""A CSV file with the columns `path` and `label`, and `split` if it likes.

    Columns are separated by commas, or by semicolons or tabs, as Excel writes them in some countries. Paths
    are relative to the file's own folder and must stay inside it; they may have Windows' `\`.

    Args:
        path: The CSV file, UTF-8, with a header.
    """

    classes = None

    def __init__(self, path: str | Path):
        self.findings: list[Finding] = []
        self._path = Path(path).resolve()

    def describe(self) -> str:
        return f"the table {printable(self._path.name)}"

    def records(self) -> Iterator[Record]:
        self.findings.clear()
        root = self._path.parent
        try:
            with open(self._path, newline="", encoding="utf-8-sig") as file:
                rows = table(file)
                self._check(rows.fieldnames)
                for row in rows:
                    name = (row["path"] or "").strip()
                    shown = printable(name)
                    path = os.path.join(root, name)
                    if not os.path.lexists(path):
                        path = os.path.join(root, name.replace("\\", "/"))
                    picture = read(path, root, shown, self.findings)
                    if picture is not None:
                        yield Record(shown, picture, clean_label(row["label"]), clean_split(row.get("split")))
        except (csv.Error, UnicodeDecodeError) as error:
            raise SourceError(
                f"{self._path.name} is not a CSV file in UTF-8 ({error}): save it as one, in Excel as `CSV UTF-8`."
            ) from error

    def _check(self, columns: list[str]) -> None:
        if not _COLUMNS.issubset(columns):
            received = printable(", ".join(columns)[:80]) or "nothing"
            raise SourceError(
                f"{self._path.name} has the columns {received}: its first line is to name `path` and `label` "
                "(and `split`, if there are published splits)."
            )


def table(file: TextIO) -> csv.DictReader:
    """Returns the rows of an opened CSV file, by the names of its columns in lower case.

    What separates the columns is the sign that makes the first line name those that are needed.
    """
    for delimiter in ";\t,":
        file.seek(0)
        columns = [name.strip().lower() for name in next(csv.reader(file, delimiter=delimiter), [])]
        if _COLUMNS.issubset(columns):
            break
    return csv.DictReader(file, columns, delimiter=delimiter, strict=True)


def read(path: str | Path, root: Path, name: str, findings: list[Finding]) -> bytes | None:
    """Reads a file if it is one, lies inside `root` and is not too large; adds a finding otherwise."""
    kind, why = "unreadable", ""
    try:
        real = os.path.realpath(path)
        status = os.stat(real)
        if not real.startswith(os.path.join(root, "")):
            kind, why = "unsafe name", "leads out of its folder; not read"
        elif not stat.S_ISREG(status.st_mode):
            kind, why = "not a file", "is a folder, a pipe or a device"
        elif status.st_size > PICTURE_BYTES:
            why = f"has {status.st_size:,} bytes, more than allowed"
        else:
            with open(real, "rb") as file:
                return file.read(status.st_size)  # Python sets aside as many bytes as it is asked for
    except FileNotFoundError:
        why = "is not there"
    except (OSError, ValueError) as error:  # no permission, links in a circle, a zero byte in the name
        why = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    findings.append(Finding(name, kind, "drop", why))
    return None


def _shown(parts: tuple[str, ...]) -> str:
    """Returns a path to print: bytes that are no UTF-8, which Python keeps as surrogates, are escaped."""
    return printable("/".join(parts))
