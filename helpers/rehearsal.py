"""Sources with known dirt, made from clean pictures, so that collecting and cleaning can be measured."""

import sqlite3
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from PIL import Image

DIRT = (
    "unreadable", "missing label", "exact duplicate", "near-duplicate", "two labels", "two splits",
    "wrong size", "wrong mode", "blank", "saturated",
)  # fmt: skip
COPIES = ("exact duplicate", "near-duplicate", "two labels", "two splits")
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"><rect width="28" height="28"/></svg>'


def encode(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    """Returns the bytes of a picture file with these uint8 pixels, grey (h, w) or colour (h, w, 3)."""
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def soil(images: np.ndarray, labels: np.ndarray, splits: np.ndarray, *, each: int, seed: int) -> pd.DataFrame:
    """Encodes clean pictures and mixes in `each` pieces of every kind of dirt.

    Args:
        images: Clean grey pictures, uint8, shape (n, height, width).
        labels: Class name of each, shape (n,), at least two of them.
        splits: `"train"` or `"test"` for each, shape (n,).
        each: Pieces of dirt of each kind in `DIRT`.
        seed: Seed of the choice of pictures that are copied or spoilt.

    Returns:
        DataFrame with one row a picture: `name`, `picture` (bytes), `label` (or `None`), `split`, `dirt`
        (`""` for clean ones), `source` (position of the clean picture that it is or was made from).
    """
    names = np.array([f"{i:05d}.png" for i in range(len(images))])
    table = pd.DataFrame({"name": names, "label": labels, "split": splits, "dirt": "", "source": range(len(images))})
    table["picture"] = [encode(pixels) for pixels in images]
    random = np.random.default_rng(seed)
    train = np.flatnonzero(splits == "train")
    chosen = random.choice(train, size=(len(DIRT), each), replace=False)
    added = [
        _spoilt(kind, number, table.iloc[position], images[position], list(np.unique(labels)))
        for kind, positions in zip(DIRT, chosen, strict=True)
        for number, position in enumerate(positions)
    ]
    return pd.concat([table, pd.DataFrame(added)], ignore_index=True)


def _spoilt(kind: str, number: int, clean: pd.Series, pixels: np.ndarray, classes: list[str]) -> dict:
    """Returns the row of one piece of dirt made from one clean picture."""
    row = {**clean, "name": f"{kind.replace(' ', '-')}-{number:02d}.png", "dirt": kind}
    if kind == "unreadable":
        variants = (clean["picture"][: len(clean["picture"]) // 2], b"", _SVG, b"#!/bin/sh\necho run\n")
        row["picture"] = variants[number % len(variants)]
    elif kind == "missing label":
        row["label"] = None
        row["picture"] = encode(pixels[::-1].copy())  # upside down: no duplicate of the clean one
    elif kind == "near-duplicate":
        dimmed = (pixels * (0.95 - 0.02 * (number % 20))).astype(np.uint8)
        row["picture"] = encode(dimmed) if number % 2 else encode(pixels, "JPEG", quality=95 - 2 * (number % 20))
    elif kind == "two labels":
        row["label"] = next(name for name in classes if name != clean["label"])
    elif kind == "two splits":
        row["split"] = "test"
    elif kind == "wrong size":
        larger = Image.fromarray(pixels[::-1].copy()).resize((40, 52))
        row["picture"] = encode(np.asarray(larger))
    elif kind == "wrong mode":
        tinted = np.stack([pixels[::-1], pixels[::-1] // 2, 255 - pixels[::-1]], axis=-1)
        row["picture"] = encode(tinted)
    elif kind == "blank":
        row["picture"] = encode(np.full_like(pixels, number * 37 % 250))  # no two alike up to 250
    elif kind == "saturated":
        left = pixels[::-1] > np.quantile(pixels, 0.88)  # all but an eighth is burnt out
        row["picture"] = encode(np.where(left, 200, 255).astype(np.uint8))
    return row


def write_folder(table: pd.DataFrame, folder: Path) -> Path:
    """Writes `soil`'s pictures as `<split>/<class>/<name>`; those without a label lie beside the classes."""
    for row in table.itertuples():
        path = folder / row.split / (row.label or "") / row.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(row.picture)
    return folder


def write_zip(table: pd.DataFrame, path: Path) -> Path:
    """Packs `soil`'s pictures as a zip with the folders of `write_folder`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for row in table.itertuples():
            archive.writestr("/".join(filter(None, (row.split, row.label, row.name))), row.picture)
    return path


def write_sqlite(table: pd.DataFrame, path: Path) -> Path:
    """Writes `soil`'s pictures as the table `pictures` (id, picture, label, name, split) of a SQLite file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE pictures (id INTEGER PRIMARY KEY, picture BLOB, label, name, split)")
        rows = table[["picture", "label", "name", "split"]].itertuples(index=False, name=None)
        connection.executemany("INSERT INTO pictures (picture, label, name, split) VALUES (?, ?, ?, ?)", rows)
    return path


def write_csv(table: pd.DataFrame, folder: Path, path: Path) -> Path:
    """Writes a CSV beside the folder that `write_folder` made: `path`, `label`, `split`."""
    paths = [f"{folder.name}/{'/'.join(filter(None, row[:3]))}" for row in zip(
        table["split"], table["label"], table["name"], strict=True
    )]  # fmt: skip
    pd.DataFrame({"path": paths, "label": table["label"], "split": table["split"]}).to_csv(path, index=False)
    return path


class Served(NamedTuple):
    """A running server: its address, and a line for each answer it gave."""

    url: str
    log: list[str]


@contextmanager
def serve(folder: Path, *, break_after: int | None = None) -> Iterator[Served]:
    """Serves the files of a folder over http on this machine while the block runs.

    Args:
        folder: Its files are served by name; everything else is answered 404.
        break_after: Bytes after which the first answer breaks off, as a bad network would do it.
    """

    class Handler(BaseHTTPRequestHandler):
        broken = break_after is None

        def do_GET(self) -> None:
            path = Path(folder) / Path(urlsplit(self.path).path).name
            if not path.is_file():
                log.append("404 Not Found")
                return self.send_error(404)
            content, start = path.read_bytes(), 0
            version = f'"{zlib.crc32(content)}"'
            if self.headers.get("If-None-Match") == version:
                log.append("304 Not Modified")
                self.send_response(304)
                return self.end_headers()
            asked = self.headers.get("Range") if self.headers.get("If-Range") == version else None
            if asked:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", version)
            self.end_headers()
            end, Handler.broken, breaks = len(content), True, not Handler.broken
            if breaks:
                end = start + break_after
            log.append(f"{206 if asked else 200} bytes {start:,} to {end:,}" + (", then broken off" if breaks else ""))
            self.close_connection = True
            return self.wfile.write(content[start:end])

        def log_message(self, *_: object) -> None:
            pass

    log: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_port}", log)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def score(table: pd.DataFrame, findings: pd.DataFrame) -> pd.DataFrame:
    """Measures each check against the known dirt.

    A finding counts as right if it names the piece of dirt or, where the dirt is a copy, the picture
    that it is a copy of: of two equal pictures either is the duplicate. Of other dirt the clean picture
    that it was made from is a false alarm.

    Args:
        table: What `soil` returned.
        findings: What `cleaning.inspect` found in it; names may have folders before them.

    Returns:
        DataFrame with one row a kind of dirt: `kind`, `pieces`, `recall` (share of the pieces that are
        found), `precision` (share of the findings of that kind that are right).
    """
    origin = dict(zip(table["name"], table["source"], strict=True))
    found = findings.assign(last=findings["name"].str.rpartition("/")[2])
    found["source"] = found["last"].map(origin)
    rows = []
    for kind in DIRT:
        # Equal pictures in two splits or under two labels are exact duplicates as well.
        also = {"exact duplicate": ("two labels", "two splits"), "near-duplicate": COPIES}.get(kind, ())
        by, said = ("source", "source") if kind in COPIES else ("name", "last")
        pieces = set(table.loc[table["dirt"] == kind, by])
        right = set(table.loc[table["dirt"].isin([kind, *also]), by])
        named = found.loc[found["kind"] == kind, said]
        recall = len(pieces & set(named)) / len(pieces)
        rows.append((kind, len(pieces), recall, named.isin(right).mean() if len(named) else 1.0))
    return pd.DataFrame(rows, columns=["kind", "pieces", "recall", "precision"])
