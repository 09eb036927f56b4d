"""Pictures inside zip and tar archives, read in place and never extracted."""

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from helpers.records import PICTURE_BYTES, RATIO, Finding, Record, SourceError, is_litter, layout, printable, unpacked

_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, NotImplementedError,
    ValueError, IndexError, RecursionError,  # names that are no text or empty, tar headers about headers
)  # fmt: skip
_MAGIC = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_NAMED_IN_UTF_8 = 0x800  # the bit of a member's flags that says so
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that Python inflates in bounded steps


class ArchiveSource:
    """Pictures in a zip or tar archive (tar plain or with gzip, bzip2 or xz), a class a folder.

    Members are read one at a time and never extracted, so no name in the archive can name a file on
    this machine. Links and devices are not followed.

    Args:
        path: The archive.
        title: What to call it in `describe`; its name if not given.
        on_damage: Called when `records` comes upon damage that ends the reading.

    Raises:
        SourceError: If it is neither a zip nor a tar archive.
    """

    classes = None

    def __init__(self, path: str | Path, *, title: str = "", on_damage: Callable[[], None] = lambda: None):
        self.findings: list[Finding] = []
        self._path, self._on_damage = Path(path), on_damage
        self._title = title or printable(self._path.name)
        self._members = self._zip_members if self._is_zip() else self._tar_members

    def describe(self) -> str:
        return f"the archive {self._title}"

    def records(self) -> Iterator[Record]:
        with self._one_sentence():
            found = layout(PurePosixPath(member.name).parts for member in self._usable())
        self.findings.clear()
        with self._one_sentence():
            for member in self._usable():
                data = self._data(member)
                if data is not None:
                    label, split = found.place(PurePosixPath(member.name).parts)
                    yield Record(printable(member.name), data, label, split)

    def _usable(self) -> Iterator["_Member"]:
        """Yields the members that may hold a picture; the others become findings."""
        total, allowed = 0, unpacked(self._path.stat().st_size)
        for member in self._members():
            total += member.size
            if total > allowed:
                raise SourceError(
                    f"{self._title} expands to more than {RATIO} times its own size: it looks like a "
                    "decompression bomb. If it is not, unpack it and name the folder."
                )
            path = PurePosixPath(member.name)
            if _leads_out(member.name):
                self._drop(member, "unsafe name", "leads out of the archive; not read")
            elif is_litter(path.parts):
                continue
            elif member.problem:
                self._drop(member, "not a file", member.problem)
            elif member.size > PICTURE_BYTES:
                self._drop(member, "unreadable", f"has {member.size:,} bytes, more than allowed")
            else:
                yield member

    def _data(self, member: "_Member") -> bytes | None:
        try:
            return member.read()
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            if self._members == self._tar_members:
                raise  # what follows in a tar cannot be found any more
            self._drop(member, "unreadable", f"is damaged in the archive ({printable(str(error))[:80]})")
            return None

    def _drop(self, member: "_Member", kind: str, why: str) -> None:
        self.findings.append(Finding(printable(member.name), kind, "drop", why))

    def _is_zip(self) -> bool:
        with open(self._path, "rb") as file:
            start = file.read(512)
        if _begins_as_tar(start) or any(start.startswith(magic) for magic in _MAGIC):
            return False  # asked first: a tar whose last member is a zip ends like a zip
        if zipfile.is_zipfile(self._path):
            return True
        what = "is empty" if not start else "is cut short" if start.startswith(b"PK") else f"begins with {start[:12]!r}"
        raise SourceError(f"{self._title} is neither a zip nor a tar archive: it {what}. Fetch or pack it again.")

    def _zip_members(self) -> Iterator["_Member"]:
        with zipfile.ZipFile(self._path) as archive:
            members = archive.infolist()
            for info, name in zip(members, _names(members), strict=True):
                kind = stat.S_IFMT(info.external_attr >> 16)
                problem = ""
                if info.flag_bits & 1:
                    problem = "is encrypted"
                elif info.compress_type not in _METHODS:
                    problem = "is packed by a method other than deflate"
                elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    problem = "is a link or a device; not followed"
                if not name.endswith("/"):
                    yield _Member(name, info.file_size, problem, lambda info=info: archive.read(info))

    def _tar_members(self) -> Iterator["_Member"]:
        with open(self._path, "rb") as file:
            start = file.read(6)
        opener = next((opener for magic, opener in _MAGIC.items() if start.startswith(magic)), open)
        with opener(self._path, "rb") as file:
            allowed = unpacked(self._path.stat().st_size)
            archive = tarfile.TarFile(fileobj=_Guarded(file, PICTURE_BYTES, allowed))
            while (member := archive.next()) is not None:
                archive.members.clear()  # or a long archive fills the memory
                problem = "" if member.isreg() and not member.issparse() else "is a link or a device; not followed"
                if not member.isdir():
                    yield _Member(
                        member.name, member.size, problem, lambda member=member: archive.extractfile(member).read()
                    )

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        try:
            yield
        except SourceError:
            raise
        except _BROKEN as error:
            self._on_damage()
            why = printable(str(error))[:120].rstrip(".") or type(error).__name__
            raise SourceError(
                f"{self._title} is damaged or cut short ({why}): fetch or pack it again."
            ) from error


def _begins_as_tar(start: bytes) -> bool:
    """Returns whether a file begins with the header of a tar, which tars from before 1988 do not name."""
    with suppress(tarfile.HeaderError):
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")  # its checksum is right
        return True
    return start[257:262] == b"ustar"


def _names(members: list[zipfile.ZipInfo]) -> list[str]:
    """Returns the names of a zip's members as their writer meant them, with `/` between folders.

    Windows writes `\\` there, macOS writes UTF-8 without saying so, and Windows in Chinese writes its own code, told
    by GB 2312, whose pairs of bytes hardly occur in other names. Names that all are none of these stay as they are.
    """
    names = [info.filename for info in members]
    unsaid = [at for at, info in enumerate(members)
              if not info.flag_bits & _NAMED_IN_UTF_8 and info.filename == info.orig_filename]  # fmt: skip
    stored = [names[at].encode("cp437") for at in unsaid]  # zipfile has read them so
    for encoding in ("utf-8", "gb2312"):
        with suppress(UnicodeError):
            for at, name in zip(unsaid, [name.decode(encoding) for name in stored], strict=True):
                names[at] = name
            break
    return [name.replace("\\", "/") for name in names]


def _leads_out(name: str) -> bool:
    """Returns whether a member's name, unpacked on any system, could land outside its folder."""
    path = PurePosixPath(name)
    return not path.parts or path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0]


class _Member(NamedTuple):
    name: str
    size: int
    problem: str
    read: Callable[[], bytes]


class _Guarded:
    """A file that refuses to hand out more than the largest picture at once, or too much in all.

    Headers of a tar can ask for both, and `ArchiveSource` only counts what its members say of their size.
    """

    def __init__(self, file: io.IOBase, largest: int, allowed: int):
        self._file, self._largest, self._left = file, largest + 1024, allowed

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > min(self._largest, self._left):
            raise tarfile.ReadError("a header asks for more memory than allowed")
        data = self._file.read(size)
        self._left -= len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
