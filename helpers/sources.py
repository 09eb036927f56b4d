"""Pictures and labels from wherever they lie: a folder, an archive, a URL, a database, a CSV, IDX files."""

import contextlib
import csv
import hashlib
import math
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

import numpy as np
import pandas as pd

from helpers import artifacts, folders, idx, pictures, processor
from helpers.pictures import UnreadablePicture
from helpers.pictures import decode as decode  # also found here
from helpers.records import (
    PICTURE_BYTES,
    Finding,
    Record,
    SourceError,
    counted,
    is_litter,
    printable,
    public,
    shortened,
)

_CHUNK_BYTES, _CHUNK_PICTURES = 16 * 2**20, 256  # what is read at a time, while as much is decoded
TWO_CLASSES = (
    "learning needs at least two classes, each a folder of pictures, or a label of its own: move the pictures of each "
    "class into its own folder, or list the files in a CSV with the columns path and label"
)
KINDS = "a folder, a .zip or .tar archive, an http(s) address of one, a .csv file, or a SQLAlchemy database URL"


class Source(Protocol):
    """What all sources have in common.

    Attributes:
        findings: What the last pass over `records` left out, and why.
        classes: Names of the classes in their published order; `None` where there is none.
    """

    findings: list[Finding]
    classes: list[str] | None

    def records(self) -> Iterator[Record]:
        """Yields the pictures one by one, the same in each pass."""

    def describe(self) -> str:
        """Returns half a sentence for reports, without secrets and without paths of this machine."""


def open_source(source: str = "", *, query: str = "") -> Source:
    """Opens a source by what its name is.

    Args:
        source: A folder (a class a folder, or IDX files), a zip or tar archive, an http(s) address
            of one, a CSV of paths and labels, or a SQLAlchemy URL; `""` for the embedded Fashion-MNIST.
        query: For a database: the SELECT that yields bytes and label.

    Returns:
        The source. An archive from the network is on disk by then, in the notebook's `cache`.

    Raises:
        SourceError: If there is no such source; the message says how to mend it.

    Example:

    >>> open_source("").describe()
    'the IDX files of fashion-mnist'
    """
    if source == "":
        own = artifacts.root() / "data" / "fashion-mnist"
        if not own.is_dir():
            raise SourceError(f"{own} is not there, Fashion-MNIST's folder: put it back as it is in the repository.")
        return idx.IdxSource(own)
    scheme = source.partition("://")[0].lower() if "://" in source else ""
    if scheme in ("http", "https"):
        from helpers import downloads

        path = downloads.download(source)
        forget = partial(downloads.forget, path)  # a damaged file would stay, because the server has no other version
        try:
            return _archive(path, public(source), on_damage=forget)
        except SourceError:
            forget()
            raise
    if scheme == "file":
        path = unquote(urlsplit(source).path)
        raise SourceError(f"A file or folder is named by its path, without `file://`: write {printable(path)!r}.")
    if scheme:
        from helpers import databases

        return databases.DatabaseSource(source, query)
    try:
        path = Path(source).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, no permission, `~` of nobody who is known
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        shown = shortened(printable(source), 80)
        raise SourceError(f"{shown} cannot be opened ({why}): a source is {KINDS}.") from error
    if is_folder:
        return idx.IdxSource(path) if any(idx.parts(path)) else folders.FolderSource(path)
    if not is_file:
        raise SourceError(f"There is no {printable(source)!r}: a source is {KINDS}.")
    if path.suffix.lower() == ".csv":
        return folders.CsvSource(path)
    return _archive(path, printable(path.name))


def _archive(path: Path, title: str, on_damage: Callable[[], None] = lambda: None) -> Source:
    from helpers import archives

    try:
        return archives.ArchiveSource(path, title=title, on_damage=on_damage)
    except SourceError:
        with open(path, "rb") as file:
            content = file.read(PICTURE_BYTES)
        if content.startswith(b"SQLite format 3\0"):
            raise SourceError(
                f"{title} is an SQLite database: write sqlite:/// before its path, and add a query."
            ) from None
        with contextlib.suppress(UnreadablePicture):
            pictures.header(content)
            raise SourceError(f"{title} is one picture: name a folder that has a sub-folder for each class.") from None
        raise


def glance(source: Source, *, seconds: float = 10.0) -> None:
    """Refuses a source that cannot be read or holds no two classes, as far as a quick look tells.

    It ends with the second class, so it is quick unless the first class is large or there is no other.

    Args:
        source: An opened source.
        seconds: When to stop looking, and let the source pass.

    Raises:
        SourceError: If the source cannot be read, holds no picture, or pictures of one class only.
    """
    end = time.monotonic() + seconds
    labels, count, refused = set(), 0, []
    with contextlib.closing(source.records()) as found:
        for record in found:
            try:
                if not isinstance(record.picture, np.ndarray):
                    pictures.header(record.picture)
            except UnreadablePicture as error:
                refused = refused or [Finding(record.name, "unreadable", "drop", str(error))]
            else:
                count += 1
                labels |= {record.label} - {None}
            if len(labels) > 1 or time.monotonic() > end:
                return
    if count == 0:
        raise _no_picture(source, [*source.findings, *refused])
    what, held = source.describe(), f"{counted(count, 'picture')} of {counted(len(labels), 'class')}"
    asked = _asked_about_table(source) or ("" if labels else _asked_about_parent(source))
    raise SourceError(f"{what[0].upper()}{what[1:]} holds {held}: {TWO_CLASSES}.{asked}")


def _asked_about_table(source: Source) -> str:
    tables = source.tables if isinstance(source, folders.FolderSource) else []
    return f" Did you mean its table, {tables[0]}?" if tables else ""


def _asked_about_parent(source: Source) -> str:
    """Asks whether the folder above was meant, if a folder beside this one holds a picture, too."""
    if isinstance(source, folders.FolderSource) and source.parent:
        with contextlib.suppress(OSError):
            for content in source.beside():
                with contextlib.suppress(UnreadablePicture):
                    pictures.header(content)
                    return f" Did you mean its parent, {source.parent}?"
    return ""


def _no_picture(source: Source, findings: list[Finding]) -> SourceError:
    why = f"{findings[0].name} {findings[0].detail}" if findings else "it is empty"
    return SourceError(f"No picture in {source.describe()}: {why}.")


def fingerprint(source: str, own: frozenset[str] = frozenset()) -> str:
    """Returns a sign that changes with a source: its name, and the names, sizes and times of its files on this machine.

    Args:
        source: What `open_source` takes.
        own: Whole paths of files and folders in it that do not count.
    """
    digest = hashlib.sha256(source.encode(errors="surrogateescape"))
    for path in _files(source, own):
        with contextlib.suppress(OSError, ValueError):  # a name that none can have
            told = os.stat(path)
            digest.update(f"{path} {told.st_size} {told.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(text: str, own: frozenset[str]) -> Iterator[str | Path]:
    """Yields a source's files on this machine, but for `own`."""
    path = artifacts.expanded(text)
    if "://" in text:
        if text.startswith("sqlite"):
            from sqlalchemy.engine import make_url

            database = make_url(text).database or ""
            yield database
            with contextlib.suppress(OSError):  # an empty one is made by whoever reads, and is left or taken away
                if os.path.getsize(wal := f"{database}-wal"):
                    yield wal
    elif path.is_dir():
        for folder, subfolders, files in os.walk(path):
            real = os.path.realpath(folder)
            litter = {name for name in (*subfolders, *files) if is_litter((name,))}
            litter |= {name for name in (*subfolders, *files) if os.path.join(real, name) in own}
            subfolders[:] = sorted(set(subfolders) - litter)
            yield from (os.path.join(folder, name) for name in sorted(set(files) - litter))
    else:
        yield path
        if path.suffix.lower() == ".csv":
            with (
                contextlib.suppress(OSError, csv.Error, ValueError),
                open(path, newline="", encoding="utf-8-sig") as rows,
            ):
                yield from (path.parent / (row.get("path") or "").strip() for row in folders.table(rows))


class Collection(NamedTuple):
    """Pictures of one size, collected from a source.

    Attributes:
        images: uint8, shape (n, height, width, channels), memory-mapped from a file without a name,
            so that nothing is left behind when the last reference goes.
        names: Where each picture lies in its source, shape (n,); a name that comes again there is numbered,
            such as `a.png (2)`, so that each stands for one picture or one finding of what did not get in.
        labels: Class name of each picture, `""` where there is none, shape (n,).
        splits: Published split of each picture, `""` where there is none, shape (n,).
        originals: DataFrame of what the pictures were: `height`, `width`, `mode` (Pillow's).
        findings: DataFrame of what did not get in, and why (columns as in `Finding`).
        classes: Class names in their published order, or sorted.
    """

    images: np.ndarray
    names: np.ndarray
    labels: np.ndarray
    splits: np.ndarray
    originals: pd.DataFrame
    findings: pd.DataFrame
    classes: list[str]


def collect(
    source: str | Source = "",
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    largest: int = 64,
) -> Collection:
    """Reads all pictures of a source into one array of one size, a chunk at a time.

    A size that is not given is that of most pictures (90%), or else their median height and width,
    a square if these differ by a tenth at most, brought down to `largest` pixels at the longer side.
    Channels that are not given are 1 if most pictures (90%) are grey, else 3. `pictures.fit` says
    how a picture of another shape is brought to size.

    Args:
        source: An opened source, or what `open_source` takes.
        size: Height and width; found out in a first pass over the pictures' headers if not given.
        channels: 1 or 3; found out as well if not given.
        largest: Longest side, in pixels, of a size that is found out.

    Raises:
        SourceError: If the source cannot be read, or holds no picture.
    """
    opened = open_source(source) if isinstance(source, str) else source
    if size is None or channels is None:
        found = survey(opened, largest=largest)
        size, channels = size or found[0], channels or found[1]
    work = partial(_bring, size=size, channels=channels)
    rows, findings = [], []
    folder = artifacts.working()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file, ThreadPoolExecutor(min(8, processor.cores())) as pool:
        for record, result in _brought(opened.records(), work, pool, math.prod(size) * channels):
            if isinstance(result, str):
                findings.append(Finding(record.name, "unreadable", "drop", result))
            else:
                file.write(result.pixels)
                rows.append((record.name, record.label or "", record.split or "", *result[1:]))
        findings = [*opened.findings, *findings]
        if not rows:
            raise _no_picture(opened, findings)
        names = _unique([row[0] for row in rows] + [finding.name for finding in findings])
        findings = pd.DataFrame(findings, columns=Finding._fields).astype({"group": np.int64, "row": np.int64})
        findings["name"] = names[len(rows) :]
        file.flush()
        images = np.memmap(file, np.uint8, mode="r", shape=(len(rows), *size, channels))
    table = pd.DataFrame(rows, columns=["name", "label", "split", "height", "width", "mode"])
    table["name"] = names[: len(rows)]
    return Collection(
        images=images,
        names=table["name"].to_numpy(),
        labels=table["label"].to_numpy(),
        splits=table["split"].to_numpy(),
        originals=table[["height", "width", "mode"]],
        findings=findings,
        classes=opened.classes or sorted(set(table["label"]) - {""}),
    )


def _unique(names: list[str]) -> list[str]:
    """Returns the names with those that come again numbered: `a`, `a (2)`, `a (3)`."""
    taken, counts, unique = set(names), Counter(), []
    if len(taken) == len(names):
        return names
    for name in names:
        counts[name] += 1
        if counts[name] > 1:
            while (own := f"{name} ({counts[name]})") in taken:
                counts[name] += 1
            taken.add(own)
        unique.append(own if counts[name] > 1 else name)
    return unique


def survey(source: Source, *, largest: int = 64) -> tuple[tuple[int, int], int]:
    """Finds out size and channels from the pictures' headers; `collect` says by which rule."""
    sizes, modes = Counter(), Counter()
    for record in source.records():
        picture = record.picture
        if isinstance(picture, np.ndarray):
            sizes[picture.shape[:2]] += 1
            modes[picture.ndim == 2] += 1
            continue
        try:
            image = pictures.header(picture)
        except UnreadablePicture:
            continue
        sizes[pictures.upright_size(image)] += 1
        modes[pictures.is_grey(image)] += 1
    total = sum(sizes.values())
    if total == 0:
        return (1, 1), 1  # `collect` says that there is no picture
    size, count = sizes.most_common(1)[0]
    if count < 0.9 * total:
        values = np.array(list(sizes.elements()))
        size = tuple(int(side) for side in np.median(values, axis=0))
        size = (min(size),) * 2 if max(size) <= 1.1 * min(size) else size
    scale = min(1.0, largest / max(size))
    size = tuple(max(1, round(side * scale)) for side in size)
    return size, 1 if modes[True] >= 0.9 * total else 3


class _Brought(NamedTuple):
    pixels: np.ndarray
    height: int
    width: int
    mode: str


def _bring(record: Record, *, size: tuple[int, int], channels: int) -> _Brought | str:
    """Decodes one record and brings it to size; a picture that cannot be decoded gives the reason."""
    picture = record.picture
    if isinstance(picture, np.ndarray):
        mode = "L" if picture.ndim == 2 else "RGB"
        height, width = picture.shape[:2]
        if (height, width) == size and channels == (1 if mode == "L" else 3):
            return _Brought(np.ascontiguousarray(picture), height, width, mode)
        image = pictures.Image.fromarray(picture)
        return _Brought(pictures.fit(image, size, channels), height, width, mode)
    try:
        image = pictures.header(picture)
        mode, (height, width) = image.mode, pictures.upright_size(image)
        return _Brought(pictures.fitted(image, size, channels), height, width, mode)
    except UnreadablePicture as error:
        return str(error)


def _brought(
    records: Iterator[Record], work: Callable[[Record], _Brought | str], pool: ThreadPoolExecutor, brought_bytes: int
) -> Iterator[tuple[Record, _Brought | str]]:
    """Yields each record with what `work` makes of it, in order; the next chunk is read while one is decoded."""
    before = ()
    for chunk in _chunks(records, brought_bytes):
        begun = zip(chunk, pictures.in_threads(work, chunk, pool), strict=True)
        yield from before
        before = begun
    yield from before


def _chunks(records: Iterator[Record], brought_bytes: int) -> Iterator[list[Record]]:
    chunk, used = [], 0
    for record in records:
        chunk.append(record)
        used += max(pictures.encoded_bytes(record), brought_bytes)  # a small file may become a large picture
        if len(chunk) == _CHUNK_PICTURES or used > _CHUNK_BYTES:
            yield chunk
            chunk, used = [], 0
    if chunk:
        yield chunk
