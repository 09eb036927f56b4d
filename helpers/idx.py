"""Pictures in IDX files, the format of MNIST and its kin."""

import gzip
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers.records import PIXELS, Finding, Record, SourceError, clean_label, printable, unpacked

_IMAGES = re.compile(r"-images([-.])idx3-ubyte(?:\.gz)?$")


class IdxSource:
    """IDX files as MNIST and its kin have them: `<part>-images-idx3-ubyte` and `<part>-labels-idx1-ubyte`, raw or .gz,
    or with a dot in front of `idx`.

    The parts `train` and `t10k` (or `test`) are the published splits. `classes.json` beside them names the
    classes in the order of the labels, each once; by `checksums.json` (SHA-256 by file name, or objects that
    hold one) their decompressed content is checked.

    Args:
        root: The folder.

    Raises:
        SourceError: If `classes.json` or `checksums.json` is there and is not of that form.
    """

    def __init__(self, root: str | Path):
        self.findings: list[Finding] = []
        self._root = Path(root).resolve()
        self.classes = self._class_names()
        self._checksums = self._sums()

    def describe(self) -> str:
        return f"the IDX files of {printable(self._root.name)}"

    def records(self) -> Iterator[Record]:
        found = {path.name.partition("-images")[0]: path for path in sorted(parts(self._root))}  # packed or not
        for path in sorted(found.values(), key=lambda path: (not _is_train(path), path.name)):
            part = path.name.partition("-images")[0]
            split = "train" if _is_train(path) else "test" if part.endswith(("t10k", "test")) else None
            labels = np.concatenate([np.empty(0, np.uint8), *self._arrays(self._labels_of(path), 1)])
            if self.classes and labels.max(initial=0) >= len(self.classes):
                raise SourceError(f"{part} has the label {labels.max()}, but classes.json names {len(self.classes)}.")
            yield from self._records(part, split, labels, self._arrays(path, 3))

    def _records(
        self, part: str, split: str | None, labels: np.ndarray, chunks: Iterator[np.ndarray]
    ) -> Iterator[Record]:
        count = 0
        for chunk in chunks:
            if count + len(chunk) > len(labels):
                count += len(chunk)
                break
            for picture in chunk:
                label = self.classes[labels[count]] if self.classes else str(labels[count])
                yield Record(f"{part}/{count:05d}", picture, label, split)
                count += 1
        if count != len(labels):
            raise SourceError(f"The pictures and labels of {part} differ in number: they do not belong together.")

    def _labels_of(self, images: Path) -> Path:
        name = _IMAGES.sub(r"-labels\1idx1-ubyte", images.name)
        found = next((self._root / n for n in (name + ".gz", name) if (self._root / n).is_file()), None)
        if found is None:
            raise SourceError(f"Beside {images.name} there is no {name}: it holds the labels.")
        return found

    def _arrays(self, path: Path, dimensions: int) -> Iterator[np.ndarray]:
        """Yields the content of an IDX file in chunks; the checksum is compared at the end."""
        digest, allowed = hashlib.sha256(), unpacked(path.stat().st_size)
        try:
            with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
                head = file.read(4 + 4 * dimensions)
                if len(head) < 4 + 4 * dimensions or head[:4] != bytes([0, 0, 8, dimensions]):
                    raise SourceError(f"{path.name} is no IDX file of {dimensions} dimensions: fetch it again.")
                digest.update(head)
                count, *shape = struct.unpack(f">{dimensions}I", head[4:])
                item = int(np.prod(shape, dtype=object)) if shape else 1
                if not 0 < item <= PIXELS or count * item > allowed:
                    raise SourceError(f"{path.name} claims {count:,} items of {shape}, more than allowed.")
                step = max(1, (1 << 22) // item)
                for start in range(0, count, step):
                    wanted = min(step, count - start) * item
                    data = file.read(wanted)
                    if len(data) != wanted:
                        raise EOFError("it ends early")
                    digest.update(data)
                    yield np.frombuffer(data, np.uint8).reshape(-1, *shape)
                if file.read(1):
                    raise EOFError("it goes on after its end")
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{path.name} is damaged or cut short ({error}): fetch it again.") from error
        expected = self._checksums.get(path.name.removesuffix(".gz"), digest.hexdigest())
        if expected != digest.hexdigest():
            raise SourceError(f"{path.name} is not what checksums.json says: fetch it again.")

    def _class_names(self) -> list[str] | None:
        given = self._json("classes.json", list)
        if given is None:
            return None
        names = [clean_label(name) if isinstance(name, str | int | float) else None for name in given]
        for label, name in enumerate(names):
            if name is None:
                raise SourceError(
                    f"classes.json names the class of label {label} {json.dumps(given[label])[:40]}: "
                    "it must be a text that is not empty, or a number."
                )
            if name in names[:label]:
                raise SourceError(
                    f"classes.json has the name {name!r} for the labels {names.index(name)} and {label}: "
                    "each label needs a name of its own."
                )
        return names

    def _sums(self) -> dict[str, str]:
        sums = {}
        for name, entry in (self._json("checksums.json", dict) or {}).items():
            expected = entry.get("sha256") if isinstance(entry, dict) else entry
            if not isinstance(expected, str):
                raise SourceError(
                    f"checksums.json holds {json.dumps(entry)[:40]} for {printable(name)}: "
                    'it must be a SHA-256 in quotes, or {"sha256": …} with one.'
                )
            sums[name] = expected.lower()
        return sums

    def _json(self, name: str, kind: type) -> list | dict | None:
        path = self._root / name
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SourceError(f"{name} is not JSON ({error}): mend it.") from error
        if not isinstance(content, kind):
            raise SourceError(f"{name} holds a {type(content).__name__}: it must hold a {kind.__name__}.")
        return content


def parts(folder: Path) -> Iterator[Path]:
    """Yields the files of a folder that by their names hold pictures, packed or not."""
    return (path for path in folder.glob("*-images[-.]idx3-ubyte*") if _IMAGES.search(path.name) and path.is_file())


def _is_train(path: Path) -> bool:
    return path.name.partition("-images")[0].endswith("train")
