"""From a source to the prepared data set: collect, clean, split, write, as notebook 01 shows it step by step."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from helpers import cleaning, data, records, sources
from helpers.records import counted
from helpers.sources import Collection

_CHUNK = 4096  # pictures written at a time


def prepare(
    source: str,
    folder: str | Path,
    *,
    query: str = "",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
    validation: float = 0.1,
    test: float = 0.15,
    seed: int = 0,
) -> Path:
    """Prepares the pictures of a source in one call.

    Args:
        source: What `sources.open_source` takes.
        folder: Where to write the data set; it appears whole or not at all, and then `findings.csv` in it.
        query: For a database: the SELECT that yields bytes and label.
        size: Height and width; found out from the pictures if not given.
        channels: 1 or 3; found out as well if not given.
        validation: Share of validation, where the source publishes none.
        test: Share of test, where the source publishes none.
        seed: Seed of the split.

    Returns:
        The folder, for `data.load`.

    Raises:
        records.SourceError: If the source cannot be read, or cleaning leaves nothing to train on.
    """
    opened = sources.open_source(source, query=query)
    collection = sources.collect(opened, size=size, channels=channels)
    findings, content = cleaning.inspect(collection)
    rows = cleaning.kept(len(collection.images), findings)
    labels, classes = encode_labels(collection, rows)
    splits = split(labels, collection.splits[rows], content[rows], validation=validation, test=test, seed=seed)
    written = data.write(
        folder,
        chunks(collection.images, rows),
        labels,
        classes,
        splits,
        parameters={"SOURCE": records.public(source), "query": query, "validation": validation, "test": test,
                    "seed": seed},
        made_by="helpers.preparation",
        source=opened.describe(),
        findings=findings["kind"].value_counts().sort_index().to_dict(),
    )  # fmt: skip
    cleaning.write_findings(written / "findings.csv", findings)
    return written


def prepared(source: str, folder: str | Path, *, seed: int = 0) -> data.DataSet:
    """Opens the data set that notebook 01 has prepared, or prepares another source on the spot.

    Args:
        source: What `sources.open_source` takes; `""` for what notebook 01 has prepared, whatever it is. A database
            is taken as notebook 01 has queried it.
        folder: Where another source is prepared, if notebook 01 has not prepared that very one.
        seed: Seed of the split there.

    Raises:
        FileNotFoundError: If `source` is empty and notebook 01 has not run; the message says how to run it.
        records.SourceError: If the source cannot be read, or cleaning leaves nothing to train on, or if it is a
            database that notebook 01 has not prepared.
    """
    try:
        dataset = data.load()
    except FileNotFoundError:
        if not source:
            raise
        dataset = None
    if not source or (dataset is not None and _is_made_from(dataset, source)):
        return dataset
    if _is_database(source):
        raise records.SourceError(
            f"{records.public(source)} is not what notebook 01 has prepared: prepare it with notebook 01 first, "
            "which asks for the query that a database needs."
        )
    return data.load(prepare(source, folder, seed=seed))


def fingerprint(source: str) -> str:
    """Returns the SHA-256 of a source's whole name: it tells two addresses apart without repeating their secrets.

    Example:

    >>> fingerprint("https://example.org/get?set=1")[:8], fingerprint("https://example.org/get?set=2")[:8]
    ('83b97a40', '8d62c174')
    """
    return hashlib.sha256(source.encode(errors="surrogateescape")).hexdigest()


def _is_made_from(dataset: data.DataSet, source: str) -> bool:
    recorded = dataset.manifest.get("source_sha256")
    if recorded:
        return recorded == fingerprint(source)
    # Without it there is the address as it may be shown: one that hides something could be that of another set.
    shown = records.public(source)
    return dataset.manifest["parameters"].get("SOURCE") == shown and (shown == source or _is_database(source))


def _is_database(source: str) -> bool:
    return "://" in source and source.partition("://")[0].lower() not in ("http", "https")


def encode_labels(collection: Collection, rows: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Returns the labels of the chosen pictures as positions in the list of classes, and that list.

    Raises:
        SourceError: If nothing is chosen, or all of it is of one class.
    """
    labels = collection.labels[rows]
    present = set(labels)
    if len(present) < 2:
        raise records.SourceError(
            f"Cleaning leaves {counted(len(rows), 'picture')} of {counted(len(present), 'class')}: "
            f"{sources.TWO_CLASSES}."
        )
    classes = [name for name in collection.classes if name in present]
    position = {name: number for number, name in enumerate(classes)}
    return np.array([position[label] for label in labels], np.int64), classes


def split(
    labels: np.ndarray, published: np.ndarray, content: np.ndarray, *, validation: float, test: float, seed: int
) -> dict[str, np.ndarray]:
    """Splits as `data.split` does, and keeps the splits that a source publishes.

    A picture outside the published validation or test set that has the content of one inside is left out. The
    published sets themselves stay whole: pictures of one content in both are for `cleaning.leaks` to find before.

    Args:
        labels: Class of each picture, shape (n,).
        published: Its published split, `""` where there is none, shape (n,).
        content: Number of its content, shape (n,); equal ones stay on one side.
        validation: Share of validation, if none is published.
        test: Share of test, if none is published.
        seed: Seed of the random choice.

    Raises:
        SourceError: If there are so few pictures that one of the splits would be empty.
    """
    fixed_test = published == "test"
    in_validation = published == "validation"  # data.split knows of a fixed test set only
    has_validation = in_validation.any()
    free = np.flatnonzero(~in_validation & (fixed_test | ~np.isin(content, content[in_validation])))
    parts = data.split(
        labels[free],
        groups=content[free],
        fixed_test=fixed_test[free] if fixed_test.any() else None,
        validation=0.0 if has_validation else validation,
        test=test,
        seed=seed,
    )
    parts = {name: free[indices] for name, indices in parts.items()}
    if has_validation:
        parts["validation"] = np.flatnonzero(in_validation)
    asked = {"train": True, "validation": has_validation or validation > 0, "test": fixed_test.any() or test > 0}
    empty = [name for name, wanted in asked.items() if wanted and not len(parts[name])]
    if empty:
        raise records.SourceError(
            f"{counted(len(labels), 'picture')} of {counted(len(np.unique(labels)), 'class')} leave none for "
            f"{' and '.join(empty)}: bring more of each class, ten or better a hundred."
        )
    return parts


def chunks(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the chosen pictures in pieces, so that a set larger than memory can be written."""
    return (np.asarray(images[rows[start : start + _CHUNK]]) for start in range(0, len(rows), _CHUNK))
