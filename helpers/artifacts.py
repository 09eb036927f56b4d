"""Where files live, and how they come to lie there: whole or not at all."""

import contextlib
import errno
import hashlib
import html
import json
import os
import re
import shutil
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial-"  # prefix of everything that is still being written
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # what stays as it is when requests quotes an address
MINIMUM_FREE = 500 * 2**20  # bytes; the largest notebook leaves about 150 MB
# What reading an .npz may raise whose bytes have changed: zipfile takes some of them for a cipher or another method.
DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, OSError)
RUNNER = "WORKBOOK_RUNNER"  # variable of the environment, set in the kernels that the runner starts

_current: str | None = None


def root() -> Path:
    """Returns the project's root: the folder that holds `notebooks`, `data` and `outputs`."""
    return Path(__file__).resolve().parents[1]


def outputs() -> Path:
    """Returns the folder that all runs write to: `$WORKBOOK_OUTPUTS`, or `outputs` in the root.

    A relative one counts from the root, so that a kernel, which starts elsewhere, finds the same folder.
    """
    chosen = os.environ.get("WORKBOOK_OUTPUTS")
    return (root() / expanded(chosen)).resolve() if chosen else root() / "outputs"


def expanded(path: str | Path) -> Path:
    """Returns a path with `~` and `~user` replaced by the home folder.

    Raises:
        ValueError: If there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        name = Path(path).parts[0]
        raise ValueError(
            f"{str(path)!r} begins with {name}, and no user of this name has a home folder: "
            f"name an existing user, or write ./{name} for a folder of this name."
        ) from None


def begin(stem: str, parameters: dict) -> Path:
    """Opens the output folder of one notebook.

    Makes `outputs()/stem`, removes what an interrupted run left half-written, the claims of the
    run before and, unless the runner has just written it, how that run went, and remembers `stem`
    as the notebook to which claims belong.

    Args:
        stem: Name of the notebook without its suffix, such as `"03_cnn_training"`.
        parameters: The values that this run uses; recorded in `parameters.json`, addresses without their secrets.

    Returns:
        The folder, which exists and can be written.

    Raises:
        OSError: If the folder cannot be made or written, or the disk has less than 500 MB free.
    """
    global _current
    folder = outputs() / stem
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial(folder)
        for stale in ("claims.json",) if os.environ.get(RUNNER) else ("claims.json", "run.json"):
            (folder / stale).unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
        if free < MINIMUM_FREE:
            raise OSError(errno.ENOSPC, "the disk is almost full")
        shown = {name: public(value) if isinstance(value, str) else value for name, value in parameters.items()}
        write_json(folder / "parameters.json", shown)
    _current = stem
    return folder


def public(source: str) -> str:
    """Returns an address without user, password and query, which may hold secrets; other names as they are.

    Example:

    >>> public("https://me:secret@example.org/pets.zip?token=1")
    'https://example.org/pets.zip'
    >>> public("postgresql://me:se/cret@example.org/pets")
    'postgresql://example.org/pets'
    """
    scheme, _, place, _ = _address(source)
    return f"{scheme}://{place}" if scheme else source


def concealed(text: str, source: str) -> str:
    """Returns a text without what `public` takes away from an address, wherever it stands and however it is quoted.

    A password of less than four signs, and a value of less than eight in a query, may be a word of
    the text: it goes only where it stands beside its user or its name.

    Example:

    >>> concealed("GET /a.zip?token=sesame+open refused", "https://example.org/a.zip?token=sesame+open")
    'GET /a.zip?*** refused'
    """
    scheme, user, place, query = _address(source)
    password = user.removesuffix("@").partition(":")[2] if ":" in user else user.removesuffix("@")
    if ":" not in user and scheme.lower() not in ("http", "https"):  # a name alone, such as `postgres`
        password = ""
    pairs = re.split("[&;#]", query.lstrip("?#"))
    values = [value for pair in pairs if len(value := pair.partition("=")[2]) >= 8]
    parts = [user, query.lstrip("?#"), *(pair for pair in pairs if "=" in pair), *values]
    parts += [password] if len(password) >= 4 else []
    same = {source.strip(): f"{scheme}://{place}"} if user or query else {}
    for part in filter(None, parts):
        same |= dict.fromkeys((part, urllib.parse.unquote(part), urllib.parse.quote(part, safe=_KEPT)), "***")
    for part in list(same):
        same |= dict.fromkeys((html.escape(part), repr(part)[1:-1], json.dumps(part)[1:-1]), same[part])
    for part in sorted(same, key=len, reverse=True):
        text = text.replace(part, same[part])
    return text


def _address(source: str) -> tuple[str, str, str, str]:
    # An address as scheme, user and password with their @, place, and query with its mark; no scheme in other names.
    found = re.fullmatch(r"\s*([A-Za-z][\w+.-]*)://(.*)", source, re.DOTALL)
    if not found:
        return "", "", source, ""
    scheme, rest = found.groups()
    web = scheme.lower() in ("http", "https")
    user = re.match(r"([^/]*@)?" if web else r"([^:/]*(:[^@]*)?@)?", rest)[0]  # SQLAlchemy takes any sign but @
    place = re.split("[?#]", rest[len(user) :])[0]
    return scheme, user, place, rest[len(user) + len(place) :]


def current() -> Path:
    """Returns the output folder of the notebook that called `begin` last.

    Raises:
        RuntimeError: If `begin` has not been called in this process.
    """
    if _current is None:
        raise RuntimeError("No notebook has begun: call artifacts.begin('<notebook stem>', parameters) first.")
    return outputs() / _current


def working() -> Path:
    """Returns where this process may write by the way: the folder of its notebook, or `outputs()` if none has begun.

    Only notebook N writes `outputs()/<N stem>`, so what a helper fetches or spools goes there, too.
    """
    return outputs() if _current is None else current()


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an `OSError` of the block into one that says so in a sentence, see `explain`, unless it is one already."""
    try:
        yield
    except OSError as error:
        if error.errno is None or (error.strerror or "").endswith("."):
            raise
        raise OSError(error.errno, explain(error, path)) from error


def explain(error: OSError, path: Path) -> str:
    """Returns one sentence that says why `path` cannot be written, and how to mend it."""
    elsewhere = "name another folder with --output or WORKBOOK_OUTPUTS"
    if error.errno == errno.EDQUOT:
        return f"Your quota is used up where {path} lies (see `quota -s`): remove some of your files, or {elsewhere}."
    if error.errno == errno.EFBIG:
        return f"A file in {path} would be larger than it may be: raise the limit (see `ulimit -f`), or {elsewhere}."
    if error.errno == errno.ENOSPC:
        return (
            f"There is no room to write in {path} ({free_space(path)} free, {size(MINIMUM_FREE)} needed): "
            f"free some space, or {elsewhere}."
        )
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return (
            f"The folder {path} cannot be written ({os.strerror(error.errno)}): "
            f"mend its permissions, or {elsewhere}."
        )
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"A file stands where the folder {path} should be: move it away, or name another folder with --output."
    return f"{path} cannot be written: {error.strerror or error}."


def free_space(path: Path) -> str:
    """Returns the free space of the disk that holds `path` (or its nearest parent that exists)."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return size(shutil.disk_usage(path).free)


def require(path: str | Path, made_by: str) -> Path:
    """Returns the path of an artifact that an earlier notebook made.

    Args:
        path: Absolute, or relative to `outputs()`.
        made_by: Stem of the notebook that writes it, such as `"01_data_preparation"`.

    Raises:
        FileNotFoundError: If it is not there; the message names the command that makes it.
    """
    found = outputs() / path
    if not found.exists():
        number = made_by.split("_")[0]
        raise FileNotFoundError(
            f"{found} is not there. Notebook {made_by} makes it: "
            f"run that notebook first, for instance with `python -m helpers run {number}`."
        )
    return found


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to, and moves it into place when the block ends well.

    A reader, or a run that starts again after a crash, sees the old file or the whole new one,
    never a part. When the block raises, the part is removed and `path` is left as it was.

    Example:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with writing(Path(folder) / "note.txt") as partial:
    ...         _ = partial.write_text("whole")
    ...     (Path(folder) / "note.txt").read_text()
    'whole'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: Keras and NumPy choose a format by it.
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        remove(partial)


@contextlib.contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder beside `path` to fill, and swaps it in when the block ends well.

    What stood at `path` before is replaced as a whole: no file of the old folder survives among
    the new ones. Killed between the two renames, `path` is missing and `require` says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    retired = path.with_name(f"{PARTIAL}{os.getpid()}-old-{path.name}")
    remove(partial)
    partial.mkdir()
    try:
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            os.replace(path, retired)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        remove(partial)
        if retired.exists() and not path.exists():  # the second rename failed
            os.replace(retired, path)
        remove(retired)


def write_json(path: str | Path, content: object) -> Path:
    """Writes `content` as JSON: sorted keys, UTF-8, the same bytes for the same content.

    A byte of a path that is no UTF-8, which Python keeps as a surrogate, is escaped and comes back as it was.
    """
    path = Path(path)
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path) as partial:
        partial.write_bytes(text.encode("utf-8", "backslashreplace"))
    return path


def sha256(path: str | Path) -> str:
    """Returns the SHA-256 of a file's bytes in hexadecimal, a piece at a time."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: str | Path, *, made_by: str, parameters: dict, **facts: object) -> Path:
    """Writes `manifest.json`: what lies in `folder`, who made it, and from which parameters.

    It holds no time and no path of the machine, so that two equal runs write equal manifests.

    Args:
        folder: Its files, in subfolders too, are listed with bytes and SHA-256.
        made_by: Stem of the notebook, or name of the command.
        parameters: The values used.
        facts: More entries, JSON values, such as counts.
    """
    folder = Path(folder)
    files = {
        file.relative_to(folder).as_posix(): {"bytes": file.stat().st_size, "sha256": sha256(file)}
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file != folder / "manifest.json" and not file.name.startswith(PARTIAL)
    }
    content = {**facts, "made_by": made_by, "parameters": parameters, "files": files}
    return write_json(folder / "manifest.json", content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_partial(folder: Path) -> None:
    """Removes what is half-written in a folder, at any depth, unless another process is still writing it."""
    for parent, folders, files in os.walk(folder):  # a folder that another process moves meanwhile is passed over
        partial = [name for name in (*folders, *files) if name.startswith(PARTIAL)]
        folders[:] = set(folders).difference(partial)
        for leftover in (Path(parent, name) for name in partial):
            if not another_writes(leftover):
                remove(leftover)


def another_writes(partial: Path) -> bool:
    """Says whether a process other than this one, which is alive, is writing a file or folder named `.partial-…`."""
    writer = re.match(rf"{re.escape(PARTIAL)}(\d+)-", partial.name)  # as `writing` and `writing_folder` name it
    if writer is None or int(writer[1]) == os.getpid():
        return False
    try:
        os.kill(int(writer[1]), 0)  # asks only
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, as somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file or a whole folder; nothing happens if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size(count: int) -> str:
    """Returns a number of bytes for eyes.

    >>> size(1_234_000_000), size(56_700_000)
    ('1.2 GB', '57 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
