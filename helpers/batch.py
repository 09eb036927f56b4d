"""Answers for whole folders, archives, databases: streamed, in shards, and taken up again after a kill."""

import contextlib
import dataclasses
import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from helpers import artifacts, classifier, data, folders, pictures, processor, records, sources
from helpers.classifier import Classifier
from helpers.records import PICTURE_BYTES, Record

SHARD = 10_000
_AHEAD = 3  # pieces that wait for the model while a shard is written
# A dictionary of all probabilities would take three times as long and half as much room again.
_AS_PARQUET = {"compression": "zstd", "use_dictionary": ["input", "class", "label", "error"],
               "write_page_checksum": True}  # fmt: skip
_PACKED = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz"})
_CHUNK, _CHUNK_BYTES = 2000, 2**24  # the most that is decoded, and answered, at a time, in files and in pixels


class Summary(NamedTuple):
    """How a batch went.

    Attributes:
        path: The table with a row for each picture.
        pictures: Rows with an answer.
        unreadable: Rows without one; their column `error` says why.
        resumed: Rows that an earlier call, which was ended, had left.
        seconds: Of this call.
        accuracy: Share of right answers where the inputs name classes that the model knows, else None.
    """

    path: Path
    pictures: int
    unreadable: int
    resumed: int
    seconds: float
    accuracy: float | None


class _Rows(NamedTuple):
    """A piece of an input: what was decoded, and what each row is called."""

    images: np.ndarray  # of the rows that could be read
    readable: np.ndarray  # bool, one a row
    names: list[str]
    labels: list[str | None]
    errors: list[str | None]


def predict(
    inputs: Iterable[str | Path],
    model: str | Path | Classifier,
    output: str | Path,
    *,
    query: str = "",
    shard: int = SHARD,
    progress: Callable[[int], None] = lambda rows: None,
) -> Summary:
    """Answers for every picture of the inputs, in their order, and writes a Parquet file.

    Its columns: `input`, `name` (where the picture lies there), `class`, `probability`, `probabilities` (in the order
    of the classes), `label` (if the input names one) and `error` (why a picture could not be read; such rows have no
    class). Which model answered stands in the file's metadata and, with its checksum, in `<output>.manifest.json`.

    What is done lies in whole shards in `<output>.parts` until all is done. Called again after a kill, with the same
    model and inputs, it goes on behind the last shard; with others, or files that have changed since, it begins anew. A
    shard that was damaged or is missing is done again, with all behind it.
    Whether what a network address leads to has changed is not seen. The output may lie in a folder that is an input.

    Args:
        inputs: Each what `sources.open_source` takes, a single picture file, or a prepared data set's folder.
        model: A loaded classifier, or what `classifier.load` takes.
        output: Ends in `.parquet`.
        query: For databases: a SELECT that yields bytes, in an order of its own.
        shard: Rows of a shard.
        progress: Told, from time to time, how many rows more are done.

    Raises:
        ValueError: If the output's name does not fit, an input cannot be read, or nothing was found in any.
        OSError: If the output cannot be written, or another process is at work on it. What is done is kept.
    """
    begun = time.perf_counter()
    output, inputs = Path(output), [str(one) for one in inputs]
    if output.suffix != ".parquet":
        raise ValueError(f"Predictions are written to a .parquet file (for Excel, pandas reads that and writes .csv); "
                         f"received {output.name}.")  # fmt: skip
    if shard < 1:
        raise ValueError(f"A shard has at least one row; received {shard}.")
    found = model if isinstance(model, Classifier) else classifier.load(model)
    parts, own = output.with_name(f"{output.name}.parts"), _own(output)
    opened = [_open(one, query, own) for one in inputs]
    with artifacts.explained(output), _alone(parts, output):
        job = {"model": _named(found), "inputs": [records.public(one) for one in inputs], "query": query,
               "shard": shard, "content": [sources.fingerprint(one, own) for one in inputs]}  # fmt: skip
        done = _take_up(parts, job)
        progress(done)
        _work(opened, found, parts, done, shard, progress)
        summary = _join(parts, output, found, [records.public(one) for one in inputs])
        artifacts.remove(parts)
    return summary._replace(resumed=done, seconds=time.perf_counter() - begun)


def lines(path: str | Path) -> Iterator[str]:
    """Yields what `predict` has written as lines for people: name, class and probability, or why there is none."""
    for rows in pq.ParquetFile(path).iter_batches(columns=["name", "class", "probability", "error"]):
        for row in rows.to_pylist():
            said = row["error"] or f"{row['class']}\t{row['probability']:.3f}"
            yield f"{row['name']}\t{said}"


# ── inputs ──────────────────────────────────────────────────────────────────────────────────────


@dataclasses.dataclass
class _Input:
    """An opened input; `rows` yields its pieces from a row on, with the findings of its source at the end."""

    title: str
    rows: Callable[[Classifier, int], Iterator[_Rows]]


class _Others(folders.FolderSource):
    """A folder of pictures, but for what this very call writes into it."""

    def __init__(self, root: Path, own: frozenset[str]) -> None:
        super().__init__(root)
        inside = (Path(one) for one in own if Path(one).is_relative_to(self._root))
        self._own = [one.relative_to(self._root).parts for one in inside]

    def _files(self) -> Iterator[tuple[str, ...]]:
        return (parts for parts in super()._files() if all(parts[: len(own)] != own for own in self._own))


def _own(output: Path) -> frozenset[str]:
    whole = os.path.join(os.path.realpath(output.parent), output.name)
    return frozenset((whole, f"{whole}.manifest.json", f"{whole}.parts"))


def _open(text: str, query: str, own: frozenset[str]) -> _Input:
    path, title = artifacts.expanded(text), records.printable(records.public(text))
    if "://" not in text and (path / "images.npy").is_file() and (path / "manifest.json").is_file():
        labels = np.load(path / "labels.npy", mmap_mode="r")
        prepared = dataclasses.replace(data.load(path), labels=labels, splits={})  # what grows with it is left on disk
        return _Input(title, lambda model, start: _prepared(prepared, model, start))
    if "://" not in text and path.is_file() and _is_picture(path):
        return _one_picture(path, title)
    if "://" not in text and not path.exists():
        raise sources.SourceError(f"There is no {records.printable(text)!r}: an input is one picture, {sources.KINDS}.")
    try:
        source = sources.open_source(text, query=query)
    except (sources.SourceError, PermissionError):
        if "://" in text or not path.is_file() or _is_of_many(path):
            raise
        return _one_picture(path, title)
    if isinstance(source, folders.FolderSource):
        source = _Others(path, own)
    return _Input(title, lambda model, start: _decoded(source.records(), source.findings, model, start))


def _one_picture(path: Path, title: str) -> _Input:
    """Opens a file that was named by itself; what is no picture gets its row like the others."""
    left_out = []

    def record() -> Iterator[Record]:
        real, name = path.resolve(), records.printable(path.name)
        content = folders.read(real, real.parent, name, left_out)
        if content is not None:
            yield Record(name, content)

    return _Input(title, lambda model, start: _decoded(record(), left_out, model, start))


def _is_of_many(path: Path) -> bool:
    """Says whether a file that is no source was to hold many pictures, by its name or its beginning."""
    if path.suffix.lower() in _PACKED:
        return True
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(16).startswith((b"PK", b"SQLite format 3\0"))
    return False


def _is_picture(path: Path) -> bool:
    with contextlib.suppress(pictures.UnreadablePicture, PermissionError), open(path, "rb") as file:
        pictures.header(file.read(PICTURE_BYTES))
        return True
    return False


def _prepared(dataset: data.DataSet, model: Classifier, start: int) -> Iterator[_Rows]:
    if dataset.shape != model.predictor.input_shape:
        raise ValueError(
            f"The data set's pictures are {dataset.shape}, and the model takes {model.predictor.input_shape}: "
            "prepare them in that size with notebook 01, or name the pictures' own folder."
        )
    classes = np.asarray(dataset.classes, object)
    step = _at_a_time(dataset.shape)
    for begin in range(start, len(dataset.images), step):
        rows = range(begin, min(begin + step, len(dataset.images)))
        images, labels = _read(dataset.images, rows), classes[_read(dataset.labels, rows)].tolist()
        yield _Rows(images, np.ones(len(rows), bool), [str(row) for row in rows], labels, [None] * len(rows))


def _read(mapped: np.memmap, rows: range) -> np.ndarray:
    """Returns rows of a mapped array, read from its file: pages that were looked at would count as memory."""
    items = math.prod(mapped.shape[1:])
    at = mapped.offset + rows.start * items * mapped.itemsize
    read = np.fromfile(mapped.filename, mapped.dtype, len(rows) * items, offset=at)
    return read.reshape(-1, *mapped.shape[1:])


def _decoded(found: Iterator[Record], findings: list, model: Classifier, start: int) -> Iterator[_Rows]:
    def bring(record: Record) -> np.ndarray | str:
        try:
            return model.array(record.picture)
        except pictures.UnreadablePicture as error:
            return str(error)

    seen = 0
    with contextlib.closing(found), ThreadPoolExecutor(min(4, processor.cores())) as pool:
        for _ in islice(found, start):  # what an earlier call has answered
            seen += 1
        while chunk := _chunk(found, _at_a_time(model.predictor.input_shape)):
            seen += len(chunk)
            brought = list(pictures.in_threads(bring, chunk, pool))
            names, labels = [record.name for record in chunk], [record.label for record in chunk]
            yield _rows(brought, names, labels, model.predictor.input_shape)
    left_out = findings[max(0, start - seen) :]  # files that are no pictures at all: the source tells at its end
    if left_out:
        yield _rows([one.detail for one in left_out], [one.name for one in left_out], [None] * len(left_out),
                    model.predictor.input_shape)  # fmt: skip


def _at_a_time(shape: tuple[int, int, int]) -> int:
    return max(1, min(_CHUNK, _CHUNK_BYTES // math.prod(shape)))


def _chunk(found: Iterator[Record], most: int) -> list[Record]:
    chunk, held = [], 0
    while len(chunk) < most and held < _CHUNK_BYTES and (record := next(found, None)) is not None:
        chunk.append(record)
        held += pictures.encoded_bytes(record)
    return chunk


def _rows(brought: list, names: list[str], labels: list[str | None], shape: tuple[int, int, int]) -> _Rows:
    readable = np.array([isinstance(one, np.ndarray) for one in brought])
    images = np.stack([one for one in brought if isinstance(one, np.ndarray)]) if readable.any() else np.empty(
        (0, *shape), np.uint8)  # fmt: skip
    return _Rows(images, readable, names, labels, [one if isinstance(one, str) else None for one in brought])


# ── the work ────────────────────────────────────────────────────────────────────────────────────


def _work(
    opened: list[_Input], model: Classifier, parts: Path, done: int, shard: int, progress: Callable[[int], None]
) -> None:  # fmt: skip
    """Decodes a piece while those before it are answered, and writes a shard whenever one is full."""
    pending, number, waiting = [], len(_shards(parts)), 0
    schema, ahead = _schema(model), deque()

    def collect() -> None:
        nonlocal pending, number, waiting
        title, rows, answers = ahead.popleft()
        pending.append(_table(title, rows, answers.result(), model, schema))
        waiting += len(rows.names)
        progress(len(rows.names))
        while waiting >= shard:
            whole = pa.concat_tables(pending)
            _write(whole.slice(0, shard), parts / f"{number:06}.parquet")
            pending, number, waiting = [whole.slice(shard)], number + 1, waiting - shard

    with ThreadPoolExecutor(1) as thread:
        for title, rows in _all_rows(opened, model, parts, done):
            ahead.append((title, rows, thread.submit(model.answer, rows.images)))
            while len(ahead) > _AHEAD:
                collect()
        while ahead:
            collect()
    if waiting:
        _write(pa.concat_tables(pending), parts / f"{number:06}.parquet")


def _all_rows(opened: list[_Input], model: Classifier, parts: Path, done: int) -> Iterator[tuple[str, _Rows]]:
    """Yields the pieces of all inputs behind the first `done` rows; where each input ends stands in `ends.json`."""
    ends_file = parts / "ends.json"
    ends = json.loads(ends_file.read_text()) if ends_file.is_file() else []
    begin = 0
    for number, one in enumerate(opened):
        if number < len(ends) and ends[number] <= done:  # answered to its end
            begin = ends[number]
            continue
        at = max(done, begin)
        for rows in one.rows(model, at - begin):
            at += len(rows.names)
            yield one.title, rows
        begin = at
        ends = [*ends[:number], at]
        artifacts.write_json(ends_file, ends)


def _schema(model: Classifier) -> pa.Schema:
    said = {"model": json.dumps(_named(model), sort_keys=True), "classes": json.dumps(model.classes)}
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [("input", text), ("name", pa.string()), ("class", text), ("probability", pa.float32()),
              ("probabilities", pa.list_(pa.float32(), len(model.classes))), ("label", pa.string()),
              ("error", pa.string())]  # fmt: skip
    return pa.schema(fields, metadata=said)


def _table(title: str, rows: _Rows, answers: classifier.Answers, model: Classifier, schema: pa.Schema) -> pa.Table:
    count = len(rows.names)
    place = np.cumsum(rows.readable) - 1
    missing = pa.array(~rows.readable)
    spread = answers.probabilities[place] if rows.readable.any() else np.zeros((count, len(model.classes)), np.float32)
    best = spread.argmax(axis=1).astype(np.int32)
    flat = pa.array(np.ascontiguousarray(spread).reshape(-1))
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), [title]),
        pa.array(rows.names, pa.string()),
        pa.DictionaryArray.from_arrays(pa.array(best, mask=~rows.readable), model.classes),
        pa.array(spread.max(axis=1), mask=~rows.readable),
        pa.FixedSizeListArray.from_arrays(flat, len(model.classes), mask=missing),
        pa.array(rows.labels, pa.string()),
        pa.array(rows.errors, pa.string()),
    ]
    return pa.table(columns, schema=schema)


def _write(table: pa.Table, path: Path) -> None:
    with artifacts.writing(path) as partial:
        pq.write_table(table.unify_dictionaries().combine_chunks(), partial, **_AS_PARQUET)


def _join(parts: Path, output: Path, model: Classifier, inputs: list[str]) -> Summary:
    """Copies the shards, one at a time, into the output, and writes the manifest beside it."""
    counts = {"rows": 0, "unreadable": 0, "labelled": 0, "right": 0}
    with artifacts.writing(output) as partial, pq.ParquetWriter(partial, _schema(model), **_AS_PARQUET) as whole:
        for path in _shards(parts):
            table = pq.read_table(path)
            counts["rows"] += len(table)
            counts["unreadable"] += len(table) - table["error"].null_count
            labels, answers = table["label"].to_numpy(), table["class"].cast(pa.string()).to_numpy()
            known = np.isin(labels.astype(object), model.classes) & (answers != None)  # noqa: E711  elementwise
            counts["labelled"] += int(known.sum())
            counts["right"] += int((labels[known] == answers[known]).sum())
            whole.write_table(table)
        if counts["rows"] == counts["unreadable"]:
            shards = _shards(parts)
            why = f"the first {pq.read_table(shards[0])['error'][0]}" if shards else "there is nothing in it"
            artifacts.remove(parts)  # whoever mends the input does not want these rows again
            raise ValueError(f"No picture in {', '.join(inputs)} could be read: {why}.")
    accuracy = counts["right"] / counts["labelled"] if counts["labelled"] else None
    content = {**counts, "accuracy": accuracy, "inputs": inputs, "model": _named(model), "classes": model.classes,
               "sha256": artifacts.sha256(output)}  # fmt: skip
    artifacts.write_json(output.with_name(f"{output.name}.manifest.json"), content)
    return Summary(output, counts["rows"] - counts["unreadable"], counts["unreadable"], 0, 0.0, accuracy)


# ── what is done already ────────────────────────────────────────────────────────────────────────


def _take_up(parts: Path, job: dict) -> int:
    """Returns the rows that an earlier call of the same job has left; what another job left is removed."""
    try:
        same = json.loads((parts / "job.json").read_text(encoding="utf-8")) == json.loads(json.dumps(job))
    except (OSError, ValueError):
        same = False
    if not same:
        for path in parts.iterdir():
            if path.name != ".lock":
                artifacts.remove(path)
        artifacts.write_json(parts / "job.json", job)
    artifacts.remove_partial(parts)
    return _kept(parts, job["shard"])


def _kept(parts: Path, shard: int) -> int:
    """Returns the rows of the shards that are whole; the first that is damaged or missing goes, with all behind it."""
    rows, there = 0, _shards(parts)
    for number, path in enumerate(there):
        found = _whole_rows(path) if path.name == f"{number:06}.parquet" and rows == number * shard else None
        if found is None:
            for left in there[number:]:
                artifacts.remove(left)
            break
        rows += found
    return rows


def _whole_rows(path: Path) -> int | None:
    with contextlib.suppress(OSError, pa.ArrowException):
        return len(pq.read_table(path, page_checksum_verification=True))
    return None


def _shards(parts: Path) -> list[Path]:
    return sorted(parts.glob("[0-9]*.parquet"))


def _named(model: Classifier) -> dict:
    return {"name": model.name, "version": model.version, "sha256": model.checksum, "temperature": model.temperature}


@contextlib.contextmanager
def _alone(parts: Path, output: Path) -> Iterator[None]:
    import fcntl

    parts.mkdir(parents=True, exist_ok=True)
    with open(parts / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OSError(
                error.errno, f"Another process is writing {output}: wait until it ends, or name another output."
            ) from None
        yield
