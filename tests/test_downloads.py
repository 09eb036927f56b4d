import hashlib
import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import pytest

from helpers import artifacts, downloads, rehearsal
from helpers.records import SourceError

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def shelf(tmp_path):
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "pets.zip").write_bytes(CONTENT)
    return folder


def fetch(url, tmp_path, **options):
    return downloads.download(url, folder=tmp_path / "cache", pause=0, **options)


def part(start, end, total=512_000):
    headers = {"ETag": '"1"', "Content-Length": end - start, "Content-Range": f"bytes {start}-{end - 1}/{total}"}
    return 206, headers, CONTENT[start:end]


BROKEN_OFF = 200, {"ETag": '"1"', "Content-Length": len(CONTENT)}, CONTENT[:200_000]


def test_a_file_arrives_whole(shelf, tmp_path):
    with rehearsal.serve(shelf) as server:
        path = fetch(f"{server.url}/pets.zip", tmp_path, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-pets.zip")
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, f"{path.name}.json"]


def test_a_file_that_is_there_is_fetched_again_only_if_it_has_changed(shelf, tmp_path):
    with rehearsal.serve(shelf) as server:
        path = fetch(f"{server.url}/pets.zip", tmp_path)
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == CONTENT
        assert server.log == ["200 bytes 0 to 512,000", "304 Not Modified"]
        path.write_bytes(CONTENT[:-1])  # damaged here
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == CONTENT
        (shelf / "pets.zip").write_bytes(b"another")  # changed there
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == b"another"
        assert server.log[2:] == ["200 bytes 0 to 512,000", "200 bytes 0 to 7"]


def test_two_processes_fetch_a_file_once(shelf, tmp_path):
    with rehearsal.serve(shelf) as server:
        program = (
            "import pathlib, sys; from helpers import downloads; print(flush=True); sys.stdin.readline();"
            f"downloads.download('{server.url}/pets.zip', folder=pathlib.Path({str(tmp_path / 'cache')!r}))"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        both = [subprocess.Popen([sys.executable, "-c", program], **pipes) for _ in range(2)]
        for process in both:
            process.stdout.readline()
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        for process in both:
            process.communicate(timeout=60)
        assert [process.returncode for process in both] == [0, 0]
    assert server.log == ["200 bytes 0 to 512,000", "304 Not Modified"]


def test_a_long_download_shows_how_far_it_is_and_a_short_one_nothing(shelf, tmp_path, capsys, monkeypatch):
    with rehearsal.serve(shelf) as server:
        fetch(f"{server.url}/pets.zip", tmp_path / "short")
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(downloads, "_QUIET", 0)
        fetch(f"{server.url}/pets.zip", tmp_path / "long")
    assert "pets.zip:   0%" in capsys.readouterr().err


def test_a_notebook_downloads_into_its_own_folder(shelf):
    folder = artifacts.begin("01_data_preparation", {})
    with rehearsal.serve(shelf) as server:
        path = downloads.download(f"{server.url}/pets.zip")
    assert path.parent == folder / "cache"
    assert list(artifacts.outputs().iterdir()) == [folder]


def test_a_file_that_comes_in_parts_is_whole_with_the_last_of_them(tmp_path, answering):
    with answering(lambda at, _: part(at, min(at + 150_000, len(CONTENT))) if at else BROKEN_OFF) as server:
        for had in ("200,000", "350,000"):
            with pytest.raises(SourceError, match=f"1 attempt .*after {had} of 512,000 bytes"):
                fetch(f"{server.url}/pets.zip", tmp_path, attempts=1)
        assert not list((tmp_path / "cache").glob("*.zip"))
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == CONTENT


def broken_off_at(start, end):
    return *(part(start, len(CONTENT)) if start else BROKEN_OFF)[:2], CONTENT[start:end]


def test_a_download_goes_on_as_long_as_attempts_bring_something_new(tmp_path, answering):
    with answering(lambda start, _: broken_off_at(start, start + 40_000)) as server:
        assert fetch(f"{server.url}/pets.zip", tmp_path, attempts=2).read_bytes() == CONTENT
    assert server.asked == list(range(0, len(CONTENT), 40_000))


def test_attempts_in_a_row_that_bring_nothing_new_end_a_download(tmp_path, answering):
    ends, says = iter([200_000, 200_000, 300_000, 300_000, 300_000]), "5 attempts .*after 300,000 of 512,000 bytes"
    broken_off = answering(lambda start, _: broken_off_at(start, next(ends)))
    with broken_off as server, pytest.raises(SourceError, match=says):
        fetch(f"{server.url}/pets.zip", tmp_path, attempts=3)
    assert server.asked == [0, 200_000, 200_000, 300_000, 300_000]


def test_a_server_that_starts_over_each_time_is_not_asked_for_ever(tmp_path, answering):
    broken_off, says = (200, {"Content-Length": len(CONTENT)}, CONTENT[:200_000]), "could not be fetched in 3 attempts"
    with answering(lambda *_: broken_off) as server, pytest.raises(SourceError, match=says):
        fetch(f"{server.url}/pets.zip", tmp_path, attempts=3)
    assert server.asked == [0, 0, 0]


MONDAY, TUESDAY = "Mon, 01 Jan 2024 00:00:00 GMT", "Tue, 02 Jan 2024 00:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "now", "version"),
    [
        ({"ETag": '"1"', "Last-Modified": MONDAY}, TUESDAY, '"1"'),
        ({"ETag": 'W/"1"', "Last-Modified": MONDAY}, TUESDAY, ""),  # a date counts only where there is no ETag
        ({"Last-Modified": MONDAY}, TUESDAY, MONDAY),
        ({"Last-Modified": MONDAY}, MONDAY, ""),  # it may change once more in this second
        ({"ETag": 'W/"1"'}, TUESDAY, ""),
    ],
)
def test_a_download_is_taken_up_by_a_version_that_stands_for_each_byte(
    tmp_path, monkeypatch, answering, headers, now, version
):
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: now)
    ends = iter([200_000, None])

    def answer(start, _):
        if not start:
            return 200, headers | {"Content-Length": len(CONTENT)}, CONTENT[: next(ends)]
        status, told, _ = part(start, len(CONTENT))
        told.pop("ETag")  # nothing that the client knows already
        return status, told, CONTENT[start : start + 200_000]

    with answering(answer) as server:
        path = fetch(f"{server.url}/pets.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == ([0, 200_000, 400_000] if version else [0, 0])
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["version"] == version


@pytest.mark.parametrize("other", [part(300_000, len(CONTENT)), part(200_000, len(CONTENT), "*"),
                                   (206, {"Content-Length": 3}, b"abc")])  # fmt: skip
def test_a_part_that_was_not_asked_for_is_not_patched_in(tmp_path, answering, other):
    answers = iter([BROKEN_OFF, other, (200, {"Content-Length": len(CONTENT)}, CONTENT)])
    with answering(lambda *_: next(answers)) as server:
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == CONTENT
    assert server.asked == [0, 200_000, 0]


@pytest.mark.parametrize("length", ["many", "3, 3", ""])
def test_a_length_that_is_no_number_is_no_reason_to_fail(tmp_path, answering, length):
    with answering(lambda *_: (200, {"Content-Length": length}, b"abc")) as server:
        assert fetch(f"{server.url}/pets.zip", tmp_path).read_bytes() == b"abc"


@pytest.mark.parametrize(("answer", "says"), [
    (part(300_000, len(CONTENT)), "another part"), ((304, {}, b""), "answered 304 Not Modified"),
])  # fmt: skip
def test_what_a_file_that_was_asked_for_as_a_whole_cannot_be_is_one_sentence(tmp_path, answering, answer, says):
    with answering(lambda *_: answer) as server, pytest.raises(SourceError, match=says):
        fetch(f"{server.url}/pets.zip", tmp_path, attempts=2)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    "url", ["http://[::1/x.zip", "http://a..b/x.zip", "http://", "http://exa mple/x.zip", "http://127.0.0.1:99999/x"]
)
def test_what_is_no_address_is_one_sentence(tmp_path, url):
    says = "could not be fetched: it is, or leads to, no valid address. Mend its host and port."
    with pytest.raises(SourceError) as caught:
        fetch(url, tmp_path)
    assert str(caught.value) == f"{url} {says}"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://[::1/x.zip", "could not be fetched: it is, or leads to, no valid address"),
        ("http://a..b/x.zip", "could not be fetched: it is, or leads to, no valid address"),
        ("ftp://127.0.0.1/x.zip", "could not be fetched in 1 attempt "),
    ],
)
def test_a_server_that_sends_us_to_no_address_is_asked_once(tmp_path, answering, target, says):
    with answering(lambda *_: (302, {"Location": target}, b"")) as server, pytest.raises(SourceError, match=says):
        fetch(f"{server.url}/pets.zip", tmp_path)
    assert server.asked == [0]


def test_a_later_run_takes_up_what_an_earlier_one_left(shelf, tmp_path):
    with rehearsal.serve(shelf, break_after=200_000) as server:
        with pytest.raises(SourceError, match="could not be fetched in 1 attempt"):
            fetch(f"{server.url}/pets.zip", tmp_path, attempts=1)
        path = fetch(f"{server.url}/pets.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.log[-1].startswith("206 bytes 200,000")


def test_a_file_that_has_changed_in_between_is_not_patched_together(shelf, tmp_path):
    with rehearsal.serve(shelf, break_after=200_000) as server:
        with pytest.raises(SourceError):
            fetch(f"{server.url}/pets.zip", tmp_path, attempts=1)
        (shelf / "pets.zip").write_bytes(b"another" * 1000)
        path = fetch(f"{server.url}/pets.zip", tmp_path)
    assert path.read_bytes() == b"another" * 1000


def test_a_run_killed_as_a_changed_file_begins_is_not_patched_together(shelf, tmp_path, monkeypatch):
    write_json = artifacts.write_json

    def killed(path, content):
        write_json(path, content)
        raise KeyboardInterrupt

    with rehearsal.serve(shelf, break_after=200_000) as server:
        with pytest.raises(SourceError):
            fetch(f"{server.url}/pets.zip", tmp_path, attempts=1)
        (shelf / "pets.zip").write_bytes(CONTENT[::-1])
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(artifacts, "write_json", killed)
            fetch(f"{server.url}/pets.zip", tmp_path)
        path = fetch(f"{server.url}/pets.zip", tmp_path)
    assert path.read_bytes() == CONTENT[::-1]


def test_404_is_said_at_once(shelf, tmp_path):
    with rehearsal.serve(shelf) as server, pytest.raises(SourceError, match="answered 404 .*: check the address"):
        fetch(f"{server.url}/dogs.zip", tmp_path)
    assert server.log == ["404 Not Found"]


def test_a_wrong_checksum_leaves_nothing(shelf, tmp_path):
    with rehearsal.serve(shelf) as server, pytest.raises(SourceError, match="SHA-256"):
        fetch(f"{server.url}/pets.zip", tmp_path, sha256="0" * 64)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_beyond_the_limit_is_not_fetched(shelf, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "TOTAL_BYTES", 1000)
    with rehearsal.serve(shelf) as server, pytest.raises(SourceError, match="larger than"):
        fetch(f"{server.url}/pets.zip", tmp_path)


def test_nobody_there_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match=r"9/pets.zip could not be fetched in 2 attempts \(.*refused\): try later"):
        fetch("http://127.0.0.1:9/pets.zip", tmp_path, attempts=2)


def test_secrets_in_an_address_are_not_repeated(shelf, tmp_path):
    with rehearsal.serve(shelf) as server, pytest.raises(SourceError) as caught:
        fetch(server.url.replace("//", "//me:secret@") + "/dogs.zip?token=hidden", tmp_path)
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)
    for nowhere in ("127.0.0.1:9", "127.0.0.1:port"):
        with pytest.raises(SourceError, match="could not be fetched") as caught:
            fetch(f"http://me:secret@{nowhere}/dogs.zip?token=hidden", tmp_path, attempts=1)
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)
