import os
import sqlite3
import sys

import numpy as np
import pytest
import sqlalchemy

from helpers import databases
from helpers.records import SourceError
from helpers.rehearsal import encode

PICTURE = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))
QUERY = "SELECT picture, label FROM pictures ORDER BY id"


@pytest.fixture
def sqlite_url(tmp_path):
    with sqlite3.connect(tmp_path / "pets.db") as connection:
        connection.execute("CREATE TABLE pictures (id INTEGER PRIMARY KEY, picture BLOB, label, name, split)")
        rows = [(PICTURE, "cat", "a.png", "train"), (PICTURE, 7, "b.png", "test"), (PICTURE, None, None, None)]
        connection.executemany("INSERT INTO pictures (picture, label, name, split) VALUES (?, ?, ?, ?)", rows)
    connection.close()
    return f"sqlite:///{tmp_path}/pets.db"


def read(url, query=QUERY, **options):
    source = databases.DatabaseSource(url, query, **options)
    return source, list(source.records())


def test_bytes_and_label_are_the_first_two_columns(sqlite_url):
    source, records = read(sqlite_url)
    assert [(r.name, r.picture, r.label, r.split) for r in records] == [
        ("row 1", PICTURE, "cat", None), ("row 2", PICTURE, "7", None), ("row 3", PICTURE, None, None),
    ]  # fmt: skip
    assert list(source.records()) == records
    assert source.describe() == "a query to the database pets.db"


def test_name_and_split_may_follow(sqlite_url):
    _, records = read(sqlite_url, "SELECT picture, label, name, split FROM pictures ORDER BY id;")
    assert [(r.name, r.split) for r in records] == [("a.png", "train"), ("b.png", "test"), ("row 3", None)]


def test_a_query_with_colons_and_percent_signs_goes_through(sqlite_url):
    _, records = read(sqlite_url, "SELECT picture, ':x' || '%s;' FROM pictures WHERE label LIKE '%a%' -- one; two")
    assert [r.label for r in records] == [":x%s;"]


@pytest.mark.parametrize(
    "query",
    [
        "", "DELETE FROM pictures", "DROP TABLE pictures", "SELECT 1; DROP TABLE pictures", "PRAGMA query_only = OFF",
        "/* SELECT */ UPDATE pictures SET label = 'x'", "ATTACH DATABASE 'other.db' AS other",
    ],
)  # fmt: skip
def test_a_query_that_does_more_than_read_is_refused(sqlite_url, query):
    with pytest.raises(SourceError, match="must be one SELECT"):
        read(sqlite_url, query)


def test_a_write_behind_a_with_is_refused_by_the_database(sqlite_url):
    with pytest.raises(SourceError, match="refused"):
        read(sqlite_url, "WITH x AS (SELECT 1) DELETE FROM pictures")
    assert len(read(sqlite_url)[1]) == 3


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT picture FROM pictures", "yields the columns picture: its first column"),
        ("SELECT label, picture FROM pictures", "column label holds str"),
        ("SELECT picture, picture FROM pictures", "holds bytes"),
        ("SELECT picture, label, id FROM pictures", "yields the columns picture, label, id"),
        ("SELECT picture, label, 'holdout' AS split FROM pictures", "split is called 'holdout'"),
        ("SELECT picture, label FROM dogs", "refused: no such table: dogs"),
        ("SELECT picture, label FROM pictures WHERE id > 99", "returned no rows"),
    ],
)
def test_no_rows_or_wrong_columns_are_one_sentence(sqlite_url, query, message):
    with pytest.raises(SourceError, match=message):
        read(sqlite_url, query)


def test_a_null_or_huge_picture_is_a_finding(sqlite_url, monkeypatch):
    source, records = read(sqlite_url, "SELECT NULL, label FROM pictures")
    assert records == []
    assert [f.detail for f in source.findings] == ["is NULL"] * 3
    monkeypatch.setattr(databases, "PICTURE_BYTES", 10)
    source, records = read(sqlite_url)
    assert records == []
    assert "more than allowed" in source.findings[0].detail


def test_a_file_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(SourceError, match="no SQLite file"):
        read(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"), [("nonsense://x/y", "no database address"), ("mssql+pyodbc://x/y", "driver.*not installed")]
)
def test_an_unknown_database_is_one_sentence(url, message):
    with pytest.raises(SourceError, match=message):
        read(url)


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:secret@host:abc/pets", "{}?timeout=abc"])
def test_a_number_that_is_none_in_an_address_is_one_sentence(sqlite_url, url):
    with pytest.raises(SourceError, match="is no address of a database: its port, or an option") as caught:
        read(url.format(sqlite_url))
    assert "secret" not in str(caught.value)


def test_a_database_is_called_by_its_name_in_any_script(sqlite_url, tmp_path):
    (tmp_path / "pets.db").rename(tmp_path / "鞋 pets.db")
    source, records = read(f"sqlite:///{tmp_path}/鞋 pets.db")
    assert source.describe() == "a query to the database 鞋 pets.db"
    assert len(records) == 3


def test_an_address_of_another_kind_is_no_database_that_lacks_a_query():
    with pytest.raises(SourceError, match="no database address"):
        databases.DatabaseSource("ftp://host/pictures.zip", "")


@pytest.mark.parametrize("url", ["me:/secret?@127.0.0.1:9/pets", "127.0.0.1:9/pets?user=me&password=secret"])
def test_passwords_are_not_repeated(url):
    with pytest.raises(SourceError, match="refused") as caught:
        read(f"postgresql+psycopg://{url}")
    assert "secret" not in str(caught.value)


def test_rows_are_streamed(sqlite_url):
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) "
    source = databases.DatabaseSource(sqlite_url, many + "SELECT zeroblob(1000), i FROM n")
    records = source.records()
    assert [next(records).label for _ in range(3)] == ["1", "2", "3"]  # a billion rows are not fetched first
    records.close()


@pytest.fixture
def postgres_url():
    url = os.environ.get("TEST_POSTGRES_URL")
    if not url:
        pytest.skip("TEST_POSTGRES_URL is not set")
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS workbook_pictures")
        connection.exec_driver_sql("CREATE SEQUENCE IF NOT EXISTS workbook_numbers")
        connection.exec_driver_sql("CREATE TABLE workbook_pictures (id int, picture bytea, label text)")
        rows = "SELECT i, :picture, 'cat ' || i % 2 FROM generate_series(1, 500) i"
        connection.execute(sqlalchemy.text(f"INSERT INTO workbook_pictures {rows}"), {"picture": PICTURE})
    yield url
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE workbook_pictures")
        connection.exec_driver_sql("DROP SEQUENCE workbook_numbers")
    engine.dispose()


def test_postgres_hands_out_pictures(postgres_url):
    query = "SELECT picture, label FROM workbook_pictures WHERE label LIKE 'cat%' ORDER BY id"
    _, records = read(postgres_url, query)
    assert [r.label for r in records] == ["cat 1", "cat 0"] * 250
    assert {r.picture for r in records} == {PICTURE}


def test_postgres_refuses_to_write(postgres_url):
    query = "WITH gone AS (DELETE FROM workbook_pictures RETURNING picture, label) SELECT picture, label FROM gone"
    with pytest.raises(SourceError, match="refused.*data-modifying"):
        read(postgres_url, query)
    with pytest.raises(SourceError, match="refused.*read-only transaction"):
        read(postgres_url, "SELECT picture, nextval('workbook_numbers') FROM workbook_pictures")
    assert len(read(postgres_url, "SELECT picture, label FROM workbook_pictures")[1]) == 500


def test_postgres_streams(postgres_url):
    query = "SELECT decode('00', 'hex'), generate_series(1, 1000000000)"
    records = databases.DatabaseSource(postgres_url, query).records()
    assert [next(records).label for _ in range(3)] == ["1", "2", "3"]
    records.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_postgres_streams_large_pictures_in_bounded_memory(postgres_url, fresh_python):
    program = (
        "import sys; from helpers import databases, processor;"
        "query = \"SELECT decode(repeat('00', 5000000), 'hex'), i FROM generate_series(1, 128) i\";"
        "assert sum(1 for _ in databases.DatabaseSource(sys.argv[1], query).records()) == 128;"
        "print(processor.peak_bytes() // 2**20)"
    )
    peak = int(fresh_python(program, postgres_url))
    assert peak < 500, f"{peak} MB for pictures of 5 MB"
