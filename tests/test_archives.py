import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile

import numpy as np
import pytest

from helpers import archives, records
from helpers.records import SourceError
from helpers.rehearsal import encode

PICTURE = encode(np.arange(12, dtype=np.uint8).reshape(3, 4))
TREE = {"cat/1.png": PICTURE, "cat/more/2.png": PICTURE, "dog/3.png": PICTURE}


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path, members, mode="w", **options):
    with tarfile.open(path, mode, **options) as archive:
        for name, content in members.items():
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def read(path, **options):
    source = archives.ArchiveSource(path, **options)
    return source, list(source.records())


PACKERS = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda path, members: tarred(path, members, "w:gz"),
    "tar.bz2": lambda path, members: tarred(path, members, "w:bz2"),
    "tar.xz": lambda path, members: tarred(path, members, "w:xz", preset=0),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_pictures_and_classes_come_out_of_every_kind(kind, tmp_path):
    source, records = read(PACKERS[kind](tmp_path / f"pets.{kind}", TREE))
    assert [(r.name, r.label, r.picture) for r in records] == [
        ("cat/1.png", "cat", PICTURE), ("cat/more/2.png", "cat", PICTURE), ("dog/3.png", "dog", PICTURE),
    ]  # fmt: skip
    assert source.findings == []
    assert list(source.records()) == records  # once more from the start


def test_a_tar_that_ends_with_a_zip_is_a_tar(tmp_path):
    inner = zipped(tmp_path / "inner.zip", {"other/1.png": PICTURE}).read_bytes()
    _, records = read(tarred(tmp_path / "pets.tar", {**TREE, "dog/notes.docx": inner}))
    assert [r.name for r in records] == [*TREE, "dog/notes.docx"]


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_a_wrapping_folder_and_published_splits_are_recognised(kind, tmp_path):
    tree = {"pets/train/cat/1.png": PICTURE, "pets/Test/dog/2.png": PICTURE, "__MACOSX/._1.png": b"", ".DS_Store": b""}
    source, records = read(PACKERS[kind](tmp_path / "pets", tree))
    assert [(r.label, r.split) for r in records] == [("cat", "train"), ("dog", "test")]
    assert source.findings == []


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../up.png", "cat/../../up.png", "/etc/passwd", "C:/x.png", "cat\\..\\x.png"])
def test_names_that_lead_out_are_findings_and_nothing_is_written(kind, name, tmp_path):
    source, records = read(PACKERS[kind](tmp_path / "pets", {**TREE, name: PICTURE}))
    assert len(records) == 3
    assert [(f.kind, f.action) for f in source.findings] == [("unsafe name", "drop")]
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    path = zipped(tmp_path / "pets.zip", TREE)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    source, records = read(path)
    assert len(records) == 3
    assert source.findings[0].detail == "is a link or a device; not followed"


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_not_followed(type, tmp_path):
    link = tarfile.TarInfo("cat/link.png")
    link.type, link.linkname = type, "/etc/passwd"
    source, records = read(tarred(tmp_path / "pets.tar", {**TREE, link: b""}))
    assert len(records) == 3
    assert [f.kind for f in source.findings] == ["not a file"]


def test_line_breaks_and_other_scripts_in_names_print_safely(tmp_path):
    _, records = read(zipped(tmp_path / "pets.zip", {"猫/一\n.png": PICTURE, "dog/\u202egnp.png": PICTURE}))
    assert [(r.name, r.label) for r in records] == [("猫/一\\n.png", "猫"), ("dog/\\u202egnp.png", "dog")]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_a_decompression_bomb_is_one_sentence(kind, tmp_path):
    path = PACKERS[kind](tmp_path / "bomb", {f"cat/{i}.bmp": bytes(24 * 2**20) for i in range(3)})
    assert path.stat().st_size < 1_000_000
    with pytest.raises(SourceError, match="looks like a decompression bomb"):
        read(path)


def test_a_bomb_in_the_header_of_a_tar_is_one_sentence(tmp_path):
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(header.tobuf())
        file.write(bytes(1 << 20))
    with pytest.raises(SourceError, match="asks for more memory than allowed"):
        read(tmp_path / "bomb.tar.gz")


def longname(size):
    """Returns the header with which GNU's tar announces a long name, and the name."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, size
    return header.tobuf(tarfile.GNU_FORMAT) + b"a" * size + bytes(-size % 512)


def test_headers_that_ask_for_much_in_all_are_one_sentence(tmp_path, monkeypatch):
    path = tarred(tmp_path / "pets.tar", TREE)
    content = path.read_bytes()
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as file:
        file.write(longname(1 << 20) * 5 + content)
    assert len(read(tmp_path / "bomb.tar.gz")[1]) == 3
    monkeypatch.setattr(archives, "PICTURE_BYTES", 1 << 20)
    monkeypatch.setattr(records, "TOTAL_BYTES", 4 << 20)
    with pytest.raises(SourceError, match="asks for more memory than allowed"):
        read(tmp_path / "bomb.tar.gz")


def test_headers_about_headers_are_one_sentence(tmp_path):
    path = tarred(tmp_path / "pets.tar", TREE)
    path.write_bytes(longname(10) * 2000 + path.read_bytes())
    with pytest.raises(SourceError, match="pets.tar is damaged or cut short"):
        read(path)


def test_a_member_that_ends_before_it_begins_is_one_sentence(tmp_path):
    odd = tarfile.TarInfo("cat/odd.png")
    odd.size = -(2**70)
    (tmp_path / "pets.tar").write_bytes(odd.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(SourceError, match="pets.tar is damaged or cut short"):
        read(tmp_path / "pets.tar")


def test_a_zip_with_a_name_that_says_it_is_utf_8_and_is_not_is_one_sentence(tmp_path):
    path = zipped(tmp_path / "pets.zip", {"cat/é.png": PICTURE, "x": PICTURE})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9x"))
    with pytest.raises(SourceError, match="pets.zip is damaged or cut short"):
        read(path)


def test_an_empty_name_in_a_zip_is_a_finding(tmp_path):
    path = zipped(tmp_path / "pets.zip", {"cat/1.png": PICTURE, "x": PICTURE})
    content = path.read_bytes()
    entry = content.rindex(b"PK\x01\x02")
    path.write_bytes(content[: entry + 28] + b"\0\0\1\0" + content[entry + 32 :])  # its letter is an extra field
    source, records = read(path)
    assert [r.name for r in records] == ["cat/1.png"]
    assert [f.kind for f in source.findings] == ["unsafe name"]


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("utf-8", ["Café/1.png", "鞋/é.png"]),  # macOS
        ("gb2312", ["鞋/1.png", "包/二.png"]),  # Windows in Chinese
        ("cp437", ["Café/1.png", "Größe/2.png", "Señor/ñ.png"]),  # what the format says
    ],
)
def test_names_in_a_zip_that_does_not_say_their_encoding(encoding, names, tmp_path):
    raw = {name.encode(encoding): f"{at}".rjust(len(name.encode(encoding)), "_") for at, name in enumerate(names)}
    content = zipped(tmp_path / "pets.zip", dict.fromkeys(raw.values(), PICTURE)).read_bytes()
    for name, stands_in in raw.items():
        content = content.replace(stands_in.encode(), name)
    (tmp_path / "pets.zip").write_bytes(content)
    source, records = read(tmp_path / "pets.zip")
    assert [(r.name, r.label) for r in records] == [(name, name.split("/")[0]) for name in names]
    assert source.findings == []


def test_a_zip_of_windows_with_backslashes_has_folders(tmp_path):
    path = zipped(tmp_path / "pets.zip", {"pets\\cat\\": b"", "pets\\cat\\1.png": PICTURE, "pets\\dog\\2.png": PICTURE})
    source, records = read(path)
    assert [(r.name, r.label) for r in records] == [("pets/cat/1.png", "cat"), ("pets/dog/2.png", "dog")]
    assert source.findings == []


def test_a_tar_from_before_there_was_a_standard_is_read(tmp_path):
    path = tarred(tmp_path / "pets.tar", {"cat/1.png": PICTURE})
    content = bytearray(path.read_bytes())
    content[257:265] = bytes(8)
    content[148:156] = b"%06o\0 " % (256 + sum(content[:148]) + sum(content[156:512]))
    path.write_bytes(content)
    assert [(r.name, r.picture) for r in read(path)[1]] == [("cat/1.png", PICTURE)]


def test_a_member_that_lies_about_its_size_is_a_finding(tmp_path):
    path = zipped(tmp_path / "pets.zip", {**TREE, "dog/long.png": bytes(100_000)})
    content = path.read_bytes().replace((100_000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    path.write_bytes(content)
    source, records = read(path)
    assert len(records) == 3
    assert [(f.name, f.kind) for f in source.findings] == [("dog/long.png", "unreadable")]


def test_a_member_beyond_the_limit_is_a_finding(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PICTURE_BYTES", 4000)
    source, records = read(zipped(tmp_path / "pets.zip", {**TREE, "dog/4.bmp": bytes(5000)}))
    assert len(records) == 3
    assert source.findings[0].detail == "has 5,000 bytes, more than allowed"


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_inflate_without_bounds_are_not_read(method, tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", method) as archive:
        archive.writestr("cat/1.png", PICTURE)
    source, records = read(tmp_path / "pets.zip")
    assert records == []
    assert "other than deflate" in source.findings[0].detail


def test_a_damaged_member_of_a_zip_is_a_finding(tmp_path):
    path = zipped(tmp_path / "pets.zip", {"cat/1.png": bytes(range(256)) * 9, "dog/2.png": PICTURE})
    content = bytearray(path.read_bytes())
    content[60:70] = b"0123456789"
    path.write_bytes(content)
    source, records = read(path)
    assert [r.name for r in records] == ["dog/2.png"]
    assert "is damaged in the archive" in source.findings[0].detail


@pytest.mark.parametrize("kind", PACKERS)
def test_an_archive_says_that_it_is_damaged_to_who_may_have_another(kind, tmp_path):
    noise = {f"cat/{i}.png": np.random.default_rng(i).bytes(9000) for i in range(9)}
    told, path = [], PACKERS[kind](tmp_path / "pets", noise)
    assert len(read(path, on_damage=lambda: told.append(1))[1]) == 9
    assert told == []
    content = path.read_bytes()  # half a zip is none, and refused at once: here its table of contents is damaged
    path.write_bytes(content.replace(b"PK\1\2", b"PK__") if kind == "zip" else content[: len(content) // 2])
    with pytest.raises(SourceError, match="damaged or cut short"):
        read(path, on_damage=lambda: told.append(1))
    assert told == [1]


NO_ARCHIVES = {"nothing": b"", "a page": b"<html>404</html>", "half a zip": b"PK\x03\x04 and no more",
               "gzip alone": gzip.compress(b"x"), "bzip2 alone": bz2.compress(b"x"),
               "xz alone": lzma.compress(b"")}  # fmt: skip


@pytest.mark.parametrize("content", NO_ARCHIVES.values(), ids=NO_ARCHIVES)  # gzip's bytes hold the time
def test_what_is_no_archive_is_one_sentence(content, tmp_path):
    (tmp_path / "pets.zip").write_bytes(content)
    with pytest.raises(SourceError, match="neither a zip nor a tar|damaged or cut short"):
        read(tmp_path / "pets.zip")
