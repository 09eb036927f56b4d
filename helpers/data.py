"""The prepared data set: split by content, written whole, read memory-mapped."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers import artifacts

MADE_BY = "01_data_preparation"
_FILES = ("images.npy", "labels.npy", "classes.json", "splits.npz")


class Rows:
    """Some rows of an array on disk: looks like an array, and reads what is asked for when it is asked for.

    Attributes:
        shape: `(rows, height, width, channels)`.
        dtype: That of the array.

    Example:

    >>> rows = Rows(np.array([10, 11, 12, 13]), np.array([3, 1, 0]))
    >>> len(rows), rows[0].tolist(), rows[1:].tolist()
    (3, 13, [11, 10])
    """

    def __init__(self, array: np.ndarray, indices: np.ndarray) -> None:
        self._array, self._indices = array, indices
        self.shape, self.dtype = (len(indices), *array.shape[1:]), array.dtype

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, rows: int | slice | np.ndarray) -> np.ndarray:
        return np.asarray(self._array[self._indices[rows]])

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


@dataclass(frozen=True, repr=False)
class DataSet:
    """A prepared data set as `load` returns it.

    Attributes:
        images: uint8 array of shape (n, height, width, channels), memory-mapped read-only.
        labels: int64 array of shape (n,), positions in `classes`.
        classes: Class names.
        splits: For each of `"train"`, `"validation"`, `"test"` the sorted indices of its pictures.
        manifest: What `write` recorded: parameters, facts, checksums of the files.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    splits: dict[str, np.ndarray]
    manifest: dict

    def split(self, name: str, *, at_most: int | None = None) -> tuple[Rows, np.ndarray]:
        """Returns the pictures of one split, left on disk until they are asked for, and their labels.

        Args:
            name: Of the split.
            at_most: How many pictures, drawn by chance and always in the same order, so that any first part of them
                is a fair sample. If not given, all of them as they lie: those of a folder come class by class.

        Raises:
            KeyError: If there is no such split; the message names those that there are.
        """
        if name not in self.splits:
            raise KeyError(f"There is no split {name!r}: this data set has {', '.join(self.splits)}.")
        indices = self.splits[name]
        if at_most is not None:
            indices = np.random.default_rng(0).permutation(indices)[:at_most]
        return Rows(self.images, indices), self.labels[indices]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a picture."""
        return self.images.shape[1:]

    @property
    def checksum(self) -> str:
        """SHA-256 over the checksums of the four files: equal for equal content."""
        files = self.manifest["files"]
        return hashlib.sha256("".join(files[name]["sha256"] for name in _FILES).encode()).hexdigest()

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {len(indices):,}" for name, indices in self.splits.items())
        return f"DataSet({len(self.images):,} pictures of {self.shape}, {len(self.classes)} classes; {counts})"


def split(
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    fixed_test: np.ndarray | None = None,
    validation: float = 0.1,
    test: float = 0.15,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Splits pictures into train, validation and test, class by class and group by group.

    A group is a set of pictures that must not be torn apart, such as a picture and its duplicates;
    it counts under the class of its first picture. Of each class, validation and test get their
    share to within one picture, or to within the size of the largest group. Tiny classes: one group
    goes to train; with two, test gets one as well; with three, validation does, too.

    Args:
        labels: Class of each picture, shape (n,).
        groups: Group of each picture, shape (n,); each picture is its own group if not given.
        fixed_test: Boolean mask of a published test set, which is kept as it is; `test` is then
            not used. A picture outside it whose group has a member inside is left out altogether:
            keeping it would let a model train on its own exam.
        validation: Share of validation, of the pictures that are not in `fixed_test`.
        test: Share of test.
        seed: Seed of the random choice.

    Returns:
        `{"train": …, "validation": …, "test": …}`: sorted int64 indices, disjoint. Together they
        hold every picture but those that `fixed_test` leaves out.

    Raises:
        ValueError: If lengths differ, or the shares leave nothing to train on.

    Example:

    >>> parts = split(np.repeat([0, 1], 10), validation=0.1, test=0.2)
    >>> {name: len(indices) for name, indices in parts.items()}
    {'train': 14, 'validation': 2, 'test': 4}
    """
    labels = np.asarray(labels)
    groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
    fixed = np.zeros(len(labels), bool) if fixed_test is None else np.asarray(fixed_test, bool)
    _check_split(labels, groups, fixed, validation, 0.0 if fixed_test is not None else test)
    shares = {"test": 0.0 if fixed_test is not None else test, "validation": validation}
    shares = {"train": 1.0 - sum(shares.values()), **shares}

    _, groups = np.unique(groups, return_inverse=True)
    in_test = np.zeros(groups.max(initial=-1) + 1, bool)
    in_test[groups[fixed]] = True
    free = np.flatnonzero(~in_test[groups])
    _, first, group_of_free, sizes = np.unique(
        groups[free], return_index=True, return_inverse=True, return_counts=True
    )
    class_of_group = np.unique(labels[free][first], return_inverse=True)[1]
    random = np.random.default_rng(seed)
    part_of_group = np.empty(len(sizes), np.int64)
    for label in range(class_of_group.max(initial=-1) + 1):
        members = random.permutation(np.flatnonzero(class_of_group == label))
        part_of_group[members] = _assign(sizes[members], np.array(list(shares.values())))

    part = part_of_group[group_of_free]
    parts = {name: free[part == code].astype(np.int64) for code, name in enumerate(shares)}
    if fixed_test is not None:
        parts["test"] = np.flatnonzero(fixed).astype(np.int64)
    return {name: parts[name] for name in ("train", "validation", "test")}


def _assign(sizes: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Returns for each group of one class the position of its part in `shares` (train, test, validation)."""
    exact = shares * sizes.sum()
    wanted = np.floor(exact + 1e-9).astype(np.int64)
    # The largest remainders get what rounding down left over; equal ones in the order of `shares`.
    remainder = np.round(exact - wanted, 9)
    wanted[np.argsort(-remainder, kind="stable")[: sizes.sum() - wanted.sum()]] += 1

    part = np.empty(len(sizes), np.int64)
    for group in sorted(np.flatnonzero(sizes > 1), key=lambda group: -sizes[group]):
        part[group] = np.argmax(wanted)
        wanted[part[group]] -= sizes[group]
    singles = np.flatnonzero(sizes == 1)
    room = np.maximum(wanted, 0)
    part[singles] = np.repeat(np.arange(len(shares)), room)[: len(singles)]

    used = np.flatnonzero(shares > 0)
    for needed, code in enumerate(used, start=1):
        if len(sizes) >= needed and not np.any(part == code):
            counts = np.bincount(part, minlength=len(shares))
            crowded = len(shares) - 1 - np.argmax(counts[::-1])  # of equals the one that matters least
            candidates = np.flatnonzero(part == crowded)
            part[candidates[np.argmin(sizes[candidates])]] = code
    return part


def _check_split(labels: np.ndarray, groups: np.ndarray, fixed: np.ndarray, validation: float, test: float) -> None:
    if labels.ndim != 1 or groups.shape != labels.shape or fixed.shape != labels.shape:
        raise ValueError(
            "labels, groups and fixed_test hold one entry for each picture; received shapes "
            f"{labels.shape}, {groups.shape} and {fixed.shape}."
        )
    if not (0 <= validation < 1 and 0 <= test < 1 and validation + test < 1):
        raise ValueError(
            f"The shares of validation ({validation}) and test ({test}) are at least 0 and together below 1, "
            "so that something is left to train on."
        )


def write(
    folder: str | Path,
    images: np.ndarray | Iterable[np.ndarray],
    labels: np.ndarray,
    classes: list[str],
    splits: dict[str, np.ndarray],
    *,
    parameters: dict,
    made_by: str = MADE_BY,
    **facts: object,
) -> Path:
    """Writes a prepared data set; the folder appears whole or not at all.

    Args:
        folder: Where to write; what stood there before is replaced.
        images: uint8, shape (n, height, width, channels) or (n, height, width); or an iterable
            of such arrays, which are written one by one, so that a set larger than memory fits.
        labels: Position in `classes` of each picture, shape (n,).
        classes: Class names, each once.
        splits: Indices of each split; no picture in two of them.
        parameters: What the set was made from; recorded in the manifest.
        made_by: Stem of the notebook that writes it.
        facts: More entries of the manifest, JSON values.

    Returns:
        The folder.

    Raises:
        ValueError: If labels, splits or pictures do not fit together.
    """
    labels = np.asarray(labels, dtype=np.int64)
    splits = {name: np.asarray(indices, dtype=np.int64) for name, indices in splits.items()}
    _check_set(labels, classes, splits)
    chunks = [images] if isinstance(images, np.ndarray) else images
    with artifacts.writing_folder(folder) as partial:
        _write_images(partial / "images.npy", chunks, len(labels))
        np.save(partial / "labels.npy", labels)
        np.savez(partial / "splits.npz", **splits)
        artifacts.write_json(partial / "classes.json", list(classes))
        counts = {name: np.bincount(labels[i], minlength=len(classes)).tolist() for name, i in splits.items()}
        artifacts.write_manifest(partial, made_by=made_by, parameters=parameters, counts=counts, **facts)
    return Path(folder)


def _write_images(path: Path, chunks: Iterable[np.ndarray], count: int) -> None:
    """Writes chunks as one .npy; plain writes, because pages of a memory map would count as memory."""
    written, shape = 0, None
    with open(path, "wb") as file:
        for chunk in chunks:
            chunk = chunk[..., np.newaxis] if chunk.ndim == 3 else chunk
            if chunk.ndim != 4 or chunk.dtype != np.uint8:
                raise ValueError(
                    "Pictures are uint8 of shape (n, height, width, channels); "
                    f"received {chunk.dtype} of shape {chunk.shape}."
                )
            if shape is None:
                shape = chunk.shape[1:]
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, *shape)}
                np.lib.format.write_array_header_1_0(file, header)
            if chunk.shape[1:] != shape:
                raise ValueError(f"All pictures have one shape: received {chunk.shape[1:]} after {shape}.")
            file.write(np.ascontiguousarray(chunk).data)
            written += len(chunk)
    if written != count or shape is None:
        raise ValueError(f"There are {count} labels for {written} pictures: each picture needs one.")


def _check_set(labels: np.ndarray, classes: list[str], splits: dict[str, np.ndarray]) -> None:
    if len(labels) == 0:
        raise ValueError("There is no picture to write: a data set needs at least one.")
    if len(set(classes)) != len(classes):
        raise ValueError("Each class name stands once in classes; received a name twice.")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"Labels are positions in the {len(classes)} classes; received {labels.min()} to {labels.max()}."
        )
    taken = np.concatenate([np.empty(0, np.int64), *splits.values()])
    if len(taken) and (taken.min() < 0 or taken.max() >= len(labels)):
        raise ValueError(f"Splits hold indices from 0 to {len(labels) - 1}; received {taken.min()} to {taken.max()}.")
    if len(np.unique(taken)) != len(taken):
        raise ValueError("No picture may be in two splits, or twice in one; make them with data.split.")


def load(folder: str | Path | None = None, *, verify: bool = False) -> DataSet:
    """Opens a prepared data set without reading its pictures into memory.

    Args:
        folder: Folder that `write` made; that of notebook 01 if not given.
        verify: Whether to read all files and compare their checksums with the manifest.

    Raises:
        FileNotFoundError: If it is not there; the message says which notebook makes it.
        ValueError: If a file is not the one that the manifest describes.
    """
    folder = artifacts.require(f"{MADE_BY}/dataset" if folder is None else Path(folder).absolute(), made_by=MADE_BY)
    for name in (*_FILES, "manifest.json"):
        artifacts.require(folder / name, made_by=MADE_BY)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = {name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"]) for name in _FILES}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'manifest.json'} is no manifest of a data set: run notebook {MADE_BY} again."
        ) from error
    for name, (size, checksum) in files.items():
        if (folder / name).stat().st_size != size or (verify and artifacts.sha256(folder / name) != checksum):
            raise ValueError(
                f"{folder / name} is not the file that its manifest describes: run notebook {MADE_BY} again."
            )
    with np.load(folder / "splits.npz") as archive:
        splits = {name: archive[name] for name in archive.files}
    return DataSet(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        labels=np.load(folder / "labels.npy"),
        classes=json.loads((folder / "classes.json").read_text(encoding="utf-8")),
        splits=splits,
        manifest=manifest,
    )
