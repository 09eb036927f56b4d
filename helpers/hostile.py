"""Sources as an attacker, an accident or an old disk would leave them, and what becomes of each."""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from helpers import cleaning, sources
from helpers.rehearsal import encode

_OUTSIDE = ("../../up.png", "/etc/up.png")  # names in an archive that lead out of it
_OWNED = "owned"  # the file that scripts would write, were they run


class Attack(NamedTuple):
    """One hostile source.

    Attributes:
        what: What it is.
        source: What `sources.open_source` is to be given.
        says: Words that all stand in the findings, or in the sentence, that are the right answer.
        query: The query, for a database.
    """

    what: str
    source: str
    says: tuple[str, ...]
    query: str = ""


def attacks(folder: Path, url: str, database: str) -> list[Attack]:
    """Writes hostile sources.

    Args:
        folder: Where; an http server at `url` is to serve its files.
        url: Address of that server.
        database: SQLAlchemy URL of a database with a table `pictures` (`rehearsal.write_sqlite`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    fine = encode(np.arange(64, dtype=np.uint8).reshape(8, 8))
    with zipfile.ZipFile(folder / "names.zip", "w") as archive:
        for name in (*_OUTSIDE, "cat/fine.png"):
            archive.writestr(name, fine)
        link = zipfile.ZipInfo("cat/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with zipfile.ZipFile(folder / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"cat/{number}.bmp", bytes(20 * 2**20))
    whole = (folder / "names.zip").read_bytes()
    (folder / "half.zip").write_bytes(whole[: len(whole) // 2])
    trees = {
        "huge": {"cat/huge.png": _png_header(50_000, 50_000), "cat/fine.png": fine},
        "disguised": {
            "cat/drawing.png": b"<svg onload='alert(1)'/>", "cat/run.png": f"#!/bin/sh\ntouch {_OWNED}\n".encode(),
            "cat/page.png": f"%!PS\n({_OWNED}) (w) file\n".encode(), "cat/empty.png": b"", "cat/fine.png": fine,
        },
        "named": {"鞋/line\nbreak.png": fine, "cat/\u202egnp.exe": b"MZ"},
        "single": {"cat/1.png": fine, "dog/nothing.txt": b"none here"},
    }  # fmt: skip
    for tree, files in trees.items():
        for name, content in files.items():
            path = folder / tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    (folder / "none").mkdir(exist_ok=True)
    outside = folder / "single" / "cat" / "outside.png"
    if not outside.is_symlink():
        os.symlink(folder / "huge" / "cat" / "fine.png", outside)
    return [
        Attack("zip with ../, absolute and linked names", str(folder / "names.zip"),
               ("1 collected", *(f"{name}: leads out" for name in _OUTSIDE), "cat/link.png: is a link")),
        Attack("zip bomb: 100 MB in 100 kB", str(folder / "bomb.zip"), ("looks like a decompression bomb",)),
        Attack("half a zip", str(folder / "half.zip"), ("cut short",)),
        Attack("picture of 50,000 x 50,000", str(folder / "huge"),
               ("1 collected", "cat/huge.png: has more than the 50,000,000 pixels allowed")),
        Attack("SVG, script, PostScript and nothing, all named .png", str(folder / "disguised"),
               ("1 collected", "g.png: is an SVG", "run.png: is a script", "page.png: is a PostScript",
                "empty.png: is empty")),
        Attack("file names with a line break, in Chinese, written backwards", str(folder / "named"),
               ("1 collected", "cat/\\u202egnp.exe: is a program")),
        Attack("class of one picture, class of none, link that leads out", str(folder / "single"),
               ("1 collected", "cat/outside.png: leads out of its folder", "dog/nothing.txt: is not a picture")),
        Attack("folder with nothing in it", str(folder / "none"), ("No picture in the folder none",)),
        Attack("folder that is not there", str(folder / "nowhere"), ("There is no",)),
        Attack("query that returns no rows", database, ("returned no rows",),
               "SELECT picture, label FROM pictures WHERE id < 0"),
        Attack("query with the wrong columns", database, ("column label holds str",),
               "SELECT label, name FROM pictures"),
        Attack("query that deletes", database, ("must be one SELECT",), "DELETE FROM pictures"),
        Attack("URL that answers 404", f"{url}/nowhere.zip", ("answered 404",)),
        Attack("URL with half a file", f"{url}/half.zip", ("cut short",)),
    ]  # fmt: skip


def targets(folder: Path) -> list[Path]:
    """Returns the files outside that `attacks(folder, …)` would write, were a name or a script in them obeyed."""
    starts = (Path.cwd(), folder)  # where a script runs, and where an archive is unpacked
    return sorted({(start / name).resolve() for start in starts for name in (*_OUTSIDE, _OWNED)})


def answer(attack: Attack, *, hide: dict[str, str]) -> str:
    """Collects and cleans one hostile source; returns its findings, or the sentence that refused it.

    Args:
        attack: The source.
        hide: Texts of this machine, such as the folder, and what to show in their place.
    """
    try:
        found = sources.collect(sources.open_source(attack.source, query=attack.query))
        findings, _ = cleaning.inspect(found)
        lines = [f"{row.name}: {row.detail}" for row in findings.itertuples(index=False)]
        text = f"{len(found.images)} collected; " + "; ".join(lines)
    except sources.SourceError as error:
        text = str(error)
    for shown, instead in hide.items():
        text = text.replace(shown, instead)
    return text


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = body, b"IDAT" + zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks
    )
