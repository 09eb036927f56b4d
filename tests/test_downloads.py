import contextlib
import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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


@contextlib.contextmanager
def answering(answer):
    """Serves what `answer` returns for the start of the range asked for (0: none): a status, headers and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = answer(int(self.headers.get("Range", "bytes=0-").strip("bytes=-")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = True

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


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


def test_a_broken_connection_is_taken_up_where_it_broke(shelf, tmp_path):
    with rehearsal.serve(shelf, break_after=200_000) as server:
        path = fetch(f"{server.url}/pets.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.log == ["200 bytes 0 to 200,000, then broken off", "206 bytes 200,000 to 512,000"]


def test_a_file_that_comes_in_parts_is_whole_with_the_last_of_them(tmp_path):
    with answering(lambda start: part(start, min(start + 150_000, len(CONTENT))) if start else BROKEN_OFF) as url:
        for had in ("200,000", "350,000"):
            with pytest.raises(SourceError, match=f"1 attempt .*after {had} of 512,000 bytes"):
                fetch(f"{url}/pets.zip", tmp_path, attempts=1)
        assert not list((tmp_path / "cache").glob("*.zip"))
        assert fetch(f"{url}/pets.zip", tmp_path).read_bytes() == CONTENT


def test_a_download_goes_on_as_long_as_attempts_bring_something_new(tmp_path):
    asked = []

    def answer(start):
        asked.append(start)
        whole = part(start, len(CONTENT)) if start else BROKEN_OFF
        return *whole[:2], CONTENT[start : start + 40_000]

    with answering(answer) as url:
        assert fetch(f"{url}/pets.zip", tmp_path, attempts=2).read_bytes() == CONTENT
    assert asked == list(range(0, len(CONTENT), 40_000))


def test_attempts_in_a_row_that_bring_nothing_new_end_a_download(tmp_path):
    asked, ends = [], [200_000, 200_000, 300_000, 300_000, 300_000]

    def answer(start):
        asked.append(start)
        whole = part(start, len(CONTENT)) if start else BROKEN_OFF
        return *whole[:2], CONTENT[start : ends[len(asked) - 1]]

    with answering(answer) as url, pytest.raises(SourceError, match="5 attempts .*after 300,000 of 512,000 bytes"):
        fetch(f"{url}/pets.zip", tmp_path, attempts=3)
    assert asked == [0, 200_000, 200_000, 300_000, 300_000]


def test_a_server_that_starts_over_each_time_is_not_asked_for_ever(tmp_path):
    asked = []
    broken_off = 200, {"Content-Length": len(CONTENT)}, CONTENT[:200_000]
    says = "could not be fetched in 3 attempts"
    with answering(lambda start: asked.append(start) or broken_off) as url, pytest.raises(SourceError, match=says):
        fetch(f"{url}/pets.zip", tmp_path, attempts=3)
    assert asked == [0, 0, 0]


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
def test_a_download_is_taken_up_by_a_version_that_stands_for_each_byte(tmp_path, monkeypatch, headers, now, version):
    monkeypatch.setattr(BaseHTTPRequestHandler, "date_time_string", lambda self: now)
    asked = []

    def answer(start):
        asked.append(start)
        if not start:
            return 200, headers | {"Content-Length": len(CONTENT)}, CONTENT[: 200_000 if len(asked) == 1 else None]
        status, told, _ = part(start, len(CONTENT))
        told.pop("ETag")  # nothing that the client knows already
        return status, told, CONTENT[start : start + 200_000]

    with answering(answer) as url:
        path = fetch(f"{url}/pets.zip", tmp_path)
    assert path.read_bytes() == CONTENT
    assert asked == ([0, 200_000, 400_000] if version else [0, 0])
    assert json.loads(path.with_name(f"{path.name}.json").read_text())["version"] == version


@pytest.mark.parametrize("other", [part(300_000, len(CONTENT)), part(200_000, len(CONTENT), "*"),
                                   (206, {"Content-Length": 3}, b"abc")])  # fmt: skip
def test_a_part_that_was_not_asked_for_is_not_patched_in(tmp_path, other):
    asked = []

    def answer(start):
        asked.append(start)
        return [BROKEN_OFF, other, (200, {"Content-Length": len(CONTENT)}, CONTENT)][len(asked) - 1]

    with answering(answer) as url:
        assert fetch(f"{url}/pets.zip", tmp_path).read_bytes() == CONTENT
    assert asked == [0, 200_000, 0]


def test_a_part_of_a_file_that_was_asked_for_as_a_whole_is_refused(tmp_path):
    with answering(lambda start: part(300_000, len(CONTENT))) as url, pytest.raises(SourceError, match="another part"):
        fetch(f"{url}/pets.zip", tmp_path, attempts=2)
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("length", ["many", "3, 3", ""])
def test_a_length_that_is_no_number_is_no_reason_to_fail(tmp_path, length):
    with answering(lambda start: (200, {"Content-Length": length}, b"abc")) as url:
        assert fetch(f"{url}/pets.zip", tmp_path).read_bytes() == b"abc"


def test_not_modified_where_nothing_is_there_is_one_sentence(tmp_path):
    with answering(lambda start: (304, {}, b"")) as url, pytest.raises(SourceError, match="answered 304 Not Modified"):
        fetch(f"{url}/pets.zip", tmp_path)


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
def test_a_server_that_sends_us_to_no_address_is_asked_once(tmp_path, target, says):
    asked = []
    sent = 302, {"Location": target}, b""
    with answering(lambda start: asked.append(start) or sent) as url, pytest.raises(SourceError, match=says):
        fetch(f"{url}/pets.zip", tmp_path)
    assert asked == [0]


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


def test_half_a_file_is_one_sentence(shelf, tmp_path):
    with rehearsal.serve(shelf, break_after=100) as server, pytest.raises(SourceError, match="could not be fetched"):
        fetch(f"{server.url}/pets.zip", tmp_path, attempts=1)
    assert not list((tmp_path / "cache").glob("*.zip"))


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
