"""A file fetched over http or https to disk, taken up where a broken connection left it."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import requests
import tenacity
import urllib3
from tqdm import tqdm

from helpers import artifacts
from helpers.records import TOTAL_BYTES, SourceError, counted, public, shortened

_QUIET = 2.0  # seconds before a download shows its progress on stderr


def download(
    url: str,
    *,
    folder: Path | None = None,
    sha256: str = "",
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Fetches a file over http or https to disk; a broken connection is taken up where it broke.

    A file that an earlier call has fetched whole is fetched again only if the server has another version.
    Of two processes that fetch into one folder, one waits for the other.

    Args:
        url: Where it lies.
        folder: Where to put it; `cache` in `artifacts.working()` if not given. A part that an earlier
            run left there is continued.
        sha256: Its checksum in hexadecimal, if you know it.
        attempts: How often to try before giving up; an attempt that gets further than all before it is the
            first again.
        pause: Seconds before the second attempt; they double with each.

    Returns:
        The file's path.

    Raises:
        SourceError: If the server says no, goes on failing, or sends another content than `sha256`.
    """
    shown = public(url)
    try:
        path = urlsplit(url).path
    except ValueError:  # its message may repeat a password
        raise _no_address(shown) from None
    folder = artifacts.working() / "cache" if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]", "_", PurePosixPath(path).name)[-80:] or "download"
    target = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"
    retry = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_exponential(multiplier=pause, max=30),
        retry=tenacity.retry_if_exception_type((requests.ConnectionError, requests.Timeout, _Interrupted)),
        after=_Progress(target),
        reraise=True,
    )
    with _alone(folder):
        try:
            version = retry(_fetch, url, target)
        except SourceError:
            raise
        except (requests.RequestException, _Interrupted) as error:
            if isinstance(error, requests.exceptions.InvalidURL):
                raise _no_address(shown) from error
            tried = counted(retry.statistics["attempt_number"], "attempt")
            raise SourceError(f"{shown} could not be fetched in {tried} ({_cause(error, url)}): try later.") from error
        except ValueError as error:  # a host that is none, in the address or where the server sends us
            raise _no_address(shown) from error
        received = artifacts.sha256(target)
        if sha256 and received != sha256.lower():
            forget(target)
            raise SourceError(f"{shown} has the SHA-256 {received}, expected was {sha256}: its content is another one.")
        artifacts.write_json(_note(target), {"version": version, "sha256": received})
    return target


def forget(target: Path) -> None:
    """Removes a file that `download` returned, and what is noted of it."""
    _note(target).unlink(missing_ok=True)
    target.unlink(missing_ok=True)


def _note(target: Path) -> Path:
    return target.with_name(target.name + ".json")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _kept(target: Path) -> str:
    """Returns the version of a file that is there, whole and unchanged; else `""`."""
    try:
        noted = json.loads(_note(target).read_text())
        whole = target.stat().st_size <= TOTAL_BYTES and artifacts.sha256(target) == noted["sha256"]
        return noted["version"] if whole else ""
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def _part(target: Path) -> tuple[Path, Path]:
    return target.with_name(target.name + ".part"), target.with_name(target.name + ".part.json")


def _had(target: Path) -> int:
    """Returns how many bytes of a file an attempt may take up."""
    part, note = _part(target)
    return part.stat().st_size if part.exists() and note.exists() else 0


class _Progress:
    """Sees after each attempt how far it got, and numbers one that got further than all before as the first."""

    def __init__(self, target: Path):
        self._target, self._most = target, _had(target)

    def __call__(self, state: tenacity.RetryCallState) -> None:
        had = _had(self._target)
        if had > self._most:
            self._most, state.attempt_number = had, 1


class _Interrupted(Exception):
    """The server stopped early or is busy; worth another attempt."""


def _no_address(shown: str) -> SourceError:
    return SourceError(f"{shown} could not be fetched: it is, or leads to, no valid address. Mend its host and port.")


def _range(response: requests.Response) -> tuple[int, int]:
    """Returns where the part that a 206 brings begins, and the size of the whole; (-1, 0) where it does not say."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
    return (int(told[1]), int(told[2])) if told else (-1, 0)


def _version(headers: Mapping[str, str]) -> str:
    """Returns the ETag or the time of change that stands for each byte of a file, or `""`; see RFC 9110, 13.1.5."""
    etag, changed = headers.get("ETag", ""), headers.get("Last-Modified", "")
    if etag:  # a weak one may be that of two files which mean the same, and a date counts only where there is none
        return "" if etag.startswith("W/") else etag
    return changed if changed != headers.get("Date") else ""  # a file may change twice in a second


def _cause(error: Exception, url: str) -> str:
    # urllib3 says what happened below its pools and retries; the address, and a query, may hold secrets.
    cause = getattr(error.args[0] if error.args else None, "reason", None) or error
    told = re.sub(r"^\w+\(host=.*?\): ", "", str(cause)).replace(url, public(url))
    return shortened(re.sub(r"\?\S+", "", told), 160)


def _fetch(url: str, target: Path) -> str:
    """One attempt: continues `<target>.part` where the server allows it, and renames it when whole.

    Returns the version that the server names, an ETag or a time, or `""`.
    """
    part, note = _part(target)
    have = _had(target)
    headers, kept = {"Accept-Encoding": "identity"}, ""
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": json.loads(note.read_text())["version"]}
    elif kept := _kept(target):
        headers["If-None-Match" if kept.startswith('"') else "If-Modified-Since"] = kept
    with requests.get(url, headers=headers, stream=True, timeout=(10, 60)) as response:
        if response.status_code == 304 and kept:
            return kept
        if response.status_code == 416:
            part.unlink(missing_ok=True)
        if response.status_code in (408, 416, 425, 429, 500, 502, 503, 504):
            raise _Interrupted(f"the server answered {response.status_code} {response.reason}")
        if response.status_code not in (200, 206):
            raise SourceError(
                f"{public(url)} answered {response.status_code} {response.reason}: check the address."
            )
        start, expected = 0, response.raw.length_remaining or 0  # 0: the server does not say how much it will send
        if response.status_code == 206:
            start, expected = _range(response)
            if start != have:
                part.unlink(missing_ok=True)
                raise _Interrupted("the server sent another part of the file than it was asked for")
        version = headers["If-Range"] if start else _version(response.headers)  # a part need not name it again
        note.unlink(missing_ok=True)
        if not start:  # before the note: a part must never stand beside the version of another file
            part.unlink(missing_ok=True)
        if version:
            artifacts.write_json(note, {"version": version})
        written = start
        bar = tqdm(total=expected or None, initial=written, desc=target.name[13:], delay=_QUIET, leave=False,
                   unit="B", unit_scale=True)  # fmt: skip
        try:
            with bar, open(part, "ab" if start else "wb") as file:
                # read1, not iter_content: what came before the connection broke is kept.
                while chunk := response.raw.read1(1 << 16):
                    written += len(chunk)
                    if max(written, expected) > TOTAL_BYTES:
                        raise SourceError(f"{public(url)} is larger than the {TOTAL_BYTES / 1e9:.3g} GB allowed.")
                    file.write(chunk)
                    bar.update(len(chunk))
        except urllib3.exceptions.HTTPError as error:
            raise _Interrupted(f"the connection broke after {written:,} of {expected:,} bytes") from error
    if expected and written != expected:
        raise _Interrupted(f"the connection broke after {written:,} of {expected:,} bytes")
    part.replace(target)
    note.unlink(missing_ok=True)
    return version
