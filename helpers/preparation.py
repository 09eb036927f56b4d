"""From a source to the prepared data set: collect, clean, split, write, as notebook 01 shows it step by step."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from helpers import artifacts, cleaning, data, records, sources
from helpers.records import counted
from helpers.sources import Collection

_CHUNK = 4096  # pictures written at a time


class _Settings(NamedTuple):
    """How a source is prepared; what notebook 01 has in its parameters."""

    query: str = ""
    channels: int | None = None
    largest: int = 64
    near: float = 0.995
    decisions: str = ""
    validation: float = 0.1
    test: float = 0.15
    seed: int = 0


def prepare(source: str, folder: str | Path, *, seed: int = 0) -> Path:
    """Prepares the pictures of a source in one call.

    Args:
        source: What `sources.open_source` takes.
        folder: Where to write the data set; it appears whole or not at all, and then `findings.csv` in it.
        seed: Seed of the split.

    Returns:
        The folder, for `data.load`.

    Raises:
        records.SourceError: If the source cannot be read, or cleaning leaves nothing to train on.
    """
    settings = _Settings(seed=seed)
    parameters = {name: getattr(settings, name) for name in ("query", "validation", "test", "seed")}
    return _prepare(source, folder, settings, parameters)


def _prepare(source: str, folder: str | Path, settings: _Settings, parameters: dict) -> Path:
    decisions = cleaning.read_decisions(settings.decisions) if settings.decisions else {}
    opened = sources.open_source(source, query=settings.query)
    collection = sources.collect(opened, channels=settings.channels, largest=settings.largest)
    findings, content = cleaning.inspect(collection, near=settings.near)
    decided = cleaning.decide(findings, decisions)
    rows = cleaning.kept(len(collection.images), decided)
    labels, classes = encode_labels(collection, rows)
    splits = split(
        labels, collection.splits[rows], content[rows],
        validation=settings.validation, test=settings.test, seed=settings.seed,
    )  # fmt: skip
    written = data.write(
        folder,
        chunks(collection.images, rows),
        labels,
        classes,
        splits,
        parameters={**parameters, "SOURCE": records.public(source)},
        made_by="helpers.preparation",
        source=opened.describe(),
        findings=findings["kind"].value_counts().sort_index().to_dict(),
    )
    cleaning.write_findings(written / "findings.csv", decided)
    return written


def prepared(source: str, folder: str | Path, *, seed: int = 0) -> data.DataSet:
    """Opens the data set that notebook 01 has prepared, or prepares the pictures on the spot.

    What 01 has prepared is taken if it is of this source, however its path is spelled, and the source has the files
    that it had then. Otherwise a line on stderr says what is done: files that have changed are prepared with the
    settings of 01; for files that are gone, what 01 has made of them is taken.

    Args:
        source: What `sources.open_source` takes; `""` for what notebook 01 has prepared, whatever it is. A database
            is taken as notebook 01 has queried it.
        folder: Where pictures are prepared on the spot.
        seed: Seed of the split there, unless the settings of 01 have one.

    Raises:
        FileNotFoundError: If `source` is empty and notebook 01 has not run; the message says how to run it.
        records.SourceError: If the source cannot be read, or cleaning leaves nothing to train on, or if it is a
            database that notebook 01 has not prepared, or its files have changed and 01's verdicts do not fit them.
    """
    try:
        dataset = data.load()
    except FileNotFoundError:
        if not source:
            raise
        dataset = None
    if not source:
        return dataset
    change, shown = _change(dataset, source), records.printable(records.public(source))
    gone = _out_of_reach(source) if change == "files" else ""
    if gone:
        _say(f"{shown} {gone}: what notebook 01 has prepared of it is used.")
    if gone or not change:
        return dataset
    if change == "files":
        _say(f"The files of {shown} are not those that notebook 01 has prepared: prepared anew, with its settings.")
        return data.load(_prepare_again(source, folder, dataset.manifest["parameters"], seed))
    if _is_database(source):
        raise records.SourceError(
            f"{records.public(source)} is not what notebook 01 has prepared: prepare it with notebook 01 first, "
            "which asks for the query that a database needs."
        )
    if dataset is not None:
        _say(f"{shown} lies in another place than what notebook 01 has prepared: prepared here, with the defaults.")
    return data.load(prepare(source, folder, seed=seed))


def fingerprint(source: str) -> str:
    """Returns a sign by which a source is known again, without its secrets and paths of this machine.

    For an address it is the SHA-256 of the whole of it. For what lies on this machine it is that of its place, however
    that is spelled, and behind a dash that of the names, sizes and times of its files.

    Example:

    >>> fingerprint("https://example.org/get?set=1")[:8], fingerprint("https://example.org/get?set=2")[:8]
    ('83b97a40', '8d62c174')
    >>> fingerprint(".") == fingerprint(os.getcwd())
    True
    """
    place = _place(source)
    if not place:
        return _sha256(source)
    files = sources.fingerprint(f"sqlite:///{place}" if "://" in source else place)
    return f"{_sha256(place)}-{files}"


def _place(source: str) -> str:
    """Returns where on this machine a source lies, links resolved; nothing for an address or the embedded set."""
    if "://" in source:
        file = re.fullmatch(r"sqlite(?:\+\w+)?:///((?!file:|:memory:)[^?]+)(?:\?.*)?", source, re.DOTALL)
        return os.path.realpath(file[1]) if file else ""
    return os.path.realpath(artifacts.expanded(source)) if source else ""


def _change(dataset: data.DataSet | None, source: str) -> str:
    """Returns what of a source is not as notebook 01 has recorded it: `"place"`, `"files"`, or nothing."""
    if dataset is None:
        return "place"
    recorded, now = dataset.manifest.get("source_sha256", ""), fingerprint(source)
    if recorded == now:
        return ""
    place, _, files = now.partition("-")
    return "files" if files and recorded.startswith(f"{place}-") else "place"


def _out_of_reach(source: str) -> str:
    place = _place(source)
    if not os.path.exists(place):
        return "is not there any more"
    return "" if os.access(place, os.R_OK) else "cannot be read any more"


def _prepare_again(source: str, folder: str | Path, recorded: dict, seed: int) -> Path:
    """Prepares a source with the parameters that notebook 01 had."""
    names = {"query": "QUERY", "largest": "IMAGE_SIZE", "near": "NEAR_DUPLICATE", "decisions": "DECISIONS",
             "validation": "VALIDATION_SHARE", "test": "TEST_SHARE", "seed": "SEED"}  # fmt: skip
    known = {"seed": seed} | {field: recorded[name] for field, name in names.items() if name in recorded}
    settings = _Settings(channels=recorded.get("CHANNELS") or None, **known)
    try:
        return _prepare(source, folder, settings, recorded)
    except (FileNotFoundError, ValueError) as error:
        if not settings.decisions or isinstance(error, records.SourceError):
            raise
        shown = records.printable(records.public(source))
        raise records.SourceError(
            f"The verdicts of {settings.decisions} do not fit {shown} any more: {str(error).rstrip('.')}. "
            "Run notebook 01 on it again, with other DECISIONS or none."
        ) from error


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _is_database(source: str) -> bool:
    return "://" in source and source.partition("://")[0].lower() not in ("http", "https", "file")


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


def in_words(collection: Collection, findings: pd.DataFrame, rows: np.ndarray, splits: dict[str, np.ndarray]) -> str:
    """Says in a few sentences what came in, what was left out and why, and how the classes share the rest.

    Args:
        collection: What was collected.
        findings: Columns as in `records.Finding`, with the verdicts that count.
        rows: Rows of the pictures that stay.
        splits: Positions in `rows` by the name of the split.
    """
    labels, classes = encode_labels(collection, rows)
    sizes, total = np.bincount(labels), len(collection.labels)
    parts = ", ".join(f"{len(indices):,} for {name}" for name, indices in splits.items())
    said = [f"{total:,} pictures came in and {len(rows):,} stay: {parts}."]
    dropped = findings[findings["action"] == "drop"]
    kinds = dropped[dropped["row"] >= 0].drop_duplicates("row")["kind"].value_counts()
    if len(kinds):
        said.append(f"Left out: {', '.join(f'{kind} {number:,}' for kind, number in kinds.items())}.")
    unread = dropped[dropped["row"] < 0].groupby("detail")["name"].agg(["size", "first"])
    for why, number, name in unread.nlargest(5, "size").itertuples():
        said.append(f"{number:,} did not come in, such as {name}: {why}." if number > 1 else f"{name} {why}.")
    narrow = findings.loc[findings["kind"] == "narrow range", "name"].tolist()
    if narrow:
        said.append(f"Of 16 bits, and dark at 8: {_few(narrow)}. Multiply the values of all pictures until the "
                    "brightest is near 65,535, and save them anew.")  # fmt: skip
    parents = {collection.names[row].rpartition("/")[0]: collection.labels[row] for row in rows}
    within = sorted(folder for folder, label in parents.items() if label in folder.split("/")[:-1])
    if within:
        said.append(f"Folders within a class count as that class: {_few(within)}.")
    if tiny := findings.loc[findings["kind"] == "tiny class", "name"].tolist():
        said.append(f"Too few different pictures to learn from and be tested by: {_few(tiny)}.")
    odd = findings[findings["kind"].isin(["alike classes", "absent class"])]
    if len(odd):
        said.append(f"Look at these classes: {_few((odd['name'] + ' ' + odd['detail']).tolist())}.")
    small, large = sizes.argmin(), sizes.argmax()
    shares = f"{classes[large]} has most pictures, {sizes[large]:,}, and {classes[small]} fewest, {sizes[small]:,}"
    shares = shares if sizes[large] > sizes[small] else f"each has {sizes[large]:,} pictures"
    said.append(f"Of {len(classes)} classes {shares}. Whoever always says {classes[large]} is right on "
                f"{sizes[large] / sizes.sum():.3f} of them.")  # fmt: skip
    if (tests := len(splits["test"])) < 200:
        said.append(f"{tests} test pictures are few: notebook 03 lets each picture be judged by a model that has not "
                    "seen it.")  # fmt: skip
    return "\n".join(said)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5:,} more" if len(names) > 5 else "")


def chunks(images: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the chosen pictures in pieces, so that a set larger than memory can be written."""
    return (np.asarray(images[rows[start : start + _CHUNK]]) for start in range(0, len(rows), _CHUNK))
