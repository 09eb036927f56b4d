"""Pictures and labels from a database that SQLAlchemy reaches, by a query that only reads."""

import re
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy
from sqlalchemy import exc

from helpers.records import (
    PICTURE_BYTES,
    Finding,
    Record,
    SourceError,
    clean_label,
    clean_split,
    printable,
    public,
    shortened,
)

_ROWS = 8  # fetched at a time: this many pictures, before their size is known, are in memory up to three times
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*|/\*.*?\*/", re.DOTALL)
_EXPECTED = "its first column is to hold the picture's bytes, its second the label; `name` and `split` may follow"


class DatabaseSource:
    """Pictures that a query yields: bytes and label, then, if it likes, `name` and `split`.

    Rows are streamed, so a table larger than memory can be read. The query must be a SELECT; it runs
    in a transaction that is rolled back, read-only where the database knows such a thing.

    Args:
        url: SQLAlchemy URL, such as `sqlite:///pictures.db` or `postgresql+psycopg://user@host/name`.
        query: Such as `SELECT picture, label FROM pictures`. Order it, so that two runs see one order.

    Raises:
        SourceError: If the URL, its driver or the query cannot work.
    """

    classes = None

    def __init__(self, url: str, query: str):
        self.findings: list[Finding] = []
        self._title = public(url)
        try:
            parsed = sqlalchemy.engine.make_url(url)
            self._name = printable(Path(parsed.database or "").name) or self._title
            self._engine = sqlalchemy.create_engine(_read_only(parsed), poolclass=sqlalchemy.pool.NullPool)
        except SourceError:
            raise
        except ValueError:  # of int() or float(); it repeats what stands there, which may be a password
            raise SourceError(
                f"{self._title} is no address of a database: its port, or an option behind it, is to be a number."
            ) from None
        except (exc.ArgumentError, exc.NoSuchModuleError) as error:
            raise SourceError(f"This is no database address that SQLAlchemy knows: {_short(error)}.") from error
        except ImportError as error:
            raise SourceError(f"The driver for {parsed.drivername} is not installed ({error}): install it.") from error
        self._query = _only_select(query)  # after the address: `ftp://…` is no database that lacks a query

    def describe(self) -> str:
        return f"a query to the database {self._name}"

    def records(self) -> Iterator[Record]:
        self.findings.clear()
        count = 0
        try:
            with self._engine.connect() as connection:
                rows = self._execute(connection)
                columns = [str(key).lower() for key in rows.keys()]  # noqa: SIM118 (a result is no dict)
                self._check(columns)
                for count, row in enumerate(rows, start=1):
                    yield from self._record(count, columns, tuple(row))
                connection.rollback()
        except exc.SQLAlchemyError as error:
            raise SourceError(f"The database {self._title} refused: {_short(error)}.") from error
        if count == 0:
            raise SourceError(f"The query returned no rows: {_EXPECTED}.")

    def _execute(self, connection: sqlalchemy.Connection) -> sqlalchemy.CursorResult:
        # no_parameters: the query goes to the driver as it is, whatever ':' or '%' it holds.
        options = {"stream_results": True, "yield_per": _ROWS, "no_parameters": True}
        if connection.dialect.name == "postgresql":
            options["postgresql_readonly"] = True
        connection = connection.execution_options(**options)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
        return connection.exec_driver_sql(self._query)

    def _check(self, columns: list[str]) -> None:
        extra = set(columns[2:]) - {"name", "split"}
        if len(columns) < 2 or extra:
            raise SourceError(f"The query yields the columns {', '.join(columns)}: {_EXPECTED}.")

    def _record(self, count: int, columns: list[str], row: tuple) -> Iterator[Record]:
        picture, label, *rest = row
        extra = dict(zip(columns[2:], rest, strict=True))
        name = printable(str(extra.get("name") or f"row {count}"))
        if picture is not None and not isinstance(picture, bytes | bytearray | memoryview):
            raise SourceError(f"The query's column {columns[0]} holds {type(picture).__name__}: {_EXPECTED}.")
        if isinstance(label, bytes | bytearray | memoryview):
            raise SourceError(f"The query's column {columns[1]} holds bytes: {_EXPECTED}.")
        if picture is None or len(picture) > PICTURE_BYTES:
            why = "is NULL" if picture is None else f"has {len(picture):,} bytes, more than allowed"
            self.findings.append(Finding(name, "unreadable", "drop", why))
        else:
            yield Record(name, bytes(picture), clean_label(label), clean_split(extra.get("split")))


def _only_select(query: str) -> str:
    bare = _QUOTED.sub(" ", query).strip().rstrip(";").strip()
    if not re.match(r"(select|with)\b", bare, re.IGNORECASE) or ";" in bare:
        received = " ".join(query.split())[:60] or "nothing"
        raise SourceError(
            f"The query must be one SELECT, because sources are only read; received {received!r}: "
            "for instance SELECT picture, label FROM pictures ORDER BY id."
        )
    return query.strip().rstrip(";")


def _read_only(url: sqlalchemy.URL) -> sqlalchemy.URL:
    """Returns the URL with which SQLite opens its file for reading; a file that is not there is not made."""
    file = url.database or ":memory:"
    if url.get_backend_name() != "sqlite" or file == ":memory:" or file.startswith("file:"):
        return url
    if not Path(file).is_file():
        raise SourceError(
            f"There is no SQLite file {printable(file)}: check its path (relative ones have three slashes)."
        )
    return url.set(database=Path(file).absolute().as_uri()).update_query_dict({"mode": "ro", "uri": "true"})


def _short(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return shortened(str(cause), 200).rstrip(".")
