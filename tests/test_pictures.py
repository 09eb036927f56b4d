import contextlib
import struct
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor, wait
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from helpers import pictures
from helpers.pictures import UnreadablePicture
from helpers.records import Record

GRADIENT = np.add.outer(np.arange(16) * 4, np.arange(24) * 8).astype(np.uint8)  # 16 high, 24 wide


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = body, b"IDAT" + zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_lossless_formats_come_back_equal(format):
    assert np.array_equal(pictures.decode(encoded(Image.fromarray(GRADIENT), format)), GRADIENT)


def test_threads_that_open_pictures_leave_the_warnings_of_the_process_alone():
    data, before = encoded(Image.fromarray(GRADIENT)), [*warnings.filters]
    together = threading.Barrier(8)

    def work():
        together.wait()
        for _ in range(200):
            pictures.header(data)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert warnings.filters == before
    finally:
        sys.setswitchinterval(interval)
        warnings.filters[:] = before


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_close(format):
    decoded = pictures.decode(encoded(Image.fromarray(GRADIENT), format, quality=95)).convert("L")
    assert np.abs(np.asarray(decoded).astype(int) - GRADIENT).max() < 12


@pytest.mark.parametrize("format", ["TIFF", "WEBP", "PNG"])
@pytest.mark.parametrize(("orientation", "turned"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(format, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(GRADIENT), format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    expected = np.rot90(GRADIENT, turned)
    assert np.array_equal(pictures.decode(data).convert("L"), expected)
    assert pictures.upright_size(pictures.header(data)) == expected.shape


TURNED = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06" + bytes(6)  # EXIF that holds the orientation 6


@pytest.mark.parametrize("is_first", [True, False])
def test_a_png_is_turned_wherever_its_orientation_stands_and_no_pixel_is_decoded_to_know_its_size(is_first):
    data = encoded(Image.fromarray(GRADIENT))
    at = data.index(b"IDAT" if is_first else b"IEND") - 4
    data = data[:at] + chunk(b"eXIf" + TURNED) + data[at:]
    image = pictures.header(data)
    assert pictures.upright_size(image) == ((24, 16) if is_first else (16, 24))  # what stands behind is not known yet
    assert image.tile, "it has been decoded"
    assert np.array_equal(pictures.decode(data), np.rot90(GRADIENT, 3))


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("XML:com.adobe.xmp", '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'),
        ("Raw profile type exif", f"\nexif\n      26\n{TURNED.hex()}"),
    ],
)
def test_a_png_is_as_large_as_it_lies_whoever_names_its_orientation(keyword, text):
    info = PngImagePlugin.PngInfo()
    if "xmp" in keyword:
        info.add_itxt(keyword, text)
    else:
        info.add_text(keyword, text, zip=True)
    data = encoded(Image.fromarray(GRADIENT), pnginfo=info)
    assert pictures.upright_size(pictures.header(data)) == (24, 16)
    assert np.asarray(pictures.decode(data)).shape == (24, 16)


def test_sixteen_bit_grey_is_scaled_to_eight():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    assert np.asarray(pictures.decode(encoded(Image.fromarray(values)))).tolist() == [[0, 1, 128, 255]]


def test_eight_bits_kept_in_32_stay_as_they_are():
    values = np.array([[0, 1, 128, 255]], np.int32)
    assert np.asarray(pictures.decode(encoded(Image.fromarray(values), "TIFF"))).tolist() == [[0, 1, 128, 255]]
    sixteen = values * 257
    assert np.asarray(pictures.decode(encoded(Image.fromarray(sixteen), "TIFF"))).tolist() == [[0, 1, 128, 255]]


def test_transparency_lies_on_white():
    pixels = np.zeros((1, 2, 4), np.uint8)
    pixels[0, 1] = (200, 0, 0, 255)
    assert np.asarray(pictures.decode(encoded(Image.fromarray(pixels)))).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_transparent_grey_stays_grey():
    image = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    decoded = pictures.decode(encoded(image))
    assert decoded.mode == "L"
    assert np.asarray(decoded).tolist() == [[10, 255]]


def test_palette_cmyk_and_one_bit_pictures_keep_their_colours():
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    assert pictures.decode(encoded(red.convert("P"))).getpixel((0, 0)) == (255, 0, 0)
    assert np.allclose(pictures.decode(encoded(red.convert("CMYK"), "JPEG")).getpixel((0, 0)), (255, 0, 0), atol=4)
    assert pictures.decode(encoded(Image.new("1", (8, 8), 1))).getpixel((0, 0)) == 255


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("is_grey", [True, False])
def test_a_palette_of_greys_is_known_by_the_header_in_every_format(format, is_grey):
    image = Image.fromarray(GRADIENT // 16, "P")
    image.putpalette([value for i in range(16) for value in (255 - 16 * i, 255 - 16 * i, 255 - 16 * i * is_grey)])
    data = encoded(image, format)
    assert pictures.is_grey(pictures.header(data)) is is_grey
    assert pictures.decode(data).mode == ("L" if is_grey else "RGB")


def test_float_pixels_are_refused_with_a_reason():
    with pytest.raises(UnreadablePicture, match="floating-point.*8 or 16 bits"):
        pictures.decode(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b'\xef\xbb\xbf<svg xmlns="x"/>', "SVG"),
        (b"<?xml version='1.0'?><svg/>", "XML"),
        (b"#!/bin/sh\nrm -rf ~\n", "is a script"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"GIF", "not a picture of a format that is read"),
        (b"just text", "not a picture of a format that is read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is a HEIC picture \(as iPhones make\): save it as JPEG or PNG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heix", "is a HEIC picture"),
        (b"\0\0\0\x20ftypavif\0\0\0\0avifmif1", "is an AVIF picture: save it as JPEG or PNG"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avif", "is an AVIF picture"),
        (b"\0\0\0\x18ftypisom\0\0\0\0mp42", "not a picture of a format that is read"),
    ],
)
def test_what_is_no_picture_is_named(content, reason):
    with pytest.raises(UnreadablePicture, match=reason):
        pictures.decode(content)


@pytest.mark.parametrize("size", [(50_000, 50_000), (8_000, 8_000), (10_000_000, 10)])
def test_a_picture_of_too_many_pixels_is_refused_by_its_header(size):
    with pytest.raises(UnreadablePicture, match="50,000,000 pixels allowed"):
        pictures.decode(png_header(*size))


def test_the_pixel_limit_is_exact():
    data = encoded(Image.fromarray(GRADIENT))
    assert pictures.decode(data, max_pixels=16 * 24).size == (24, 16)
    with pytest.raises(UnreadablePicture, match="24 x 16"):
        pictures.decode(data, max_pixels=16 * 24 - 1)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_no_part_of_a_picture_passes_for_another_picture(format):
    noise = np.random.default_rng(0).integers(0, 256, (16, 24), np.uint8)
    data = encoded(Image.fromarray(noise), format)
    whole = np.asarray(pictures.decode(data))
    refused = 0
    for length in range(len(data)):
        try:
            part = np.asarray(pictures.decode(data[:length]))
        except UnreadablePicture:
            refused += 1
        else:
            assert np.array_equal(part, whole), f"the first {length} of {len(data)} bytes"
    assert refused > 0.9 * len(data)


@settings(max_examples=150)
@given(st.data())
def test_damaged_bytes_give_a_picture_or_a_reason_and_nothing_else(data):
    format = data.draw(st.sampled_from(pictures.FORMATS))
    content = bytearray(encoded(Image.fromarray(GRADIENT), format))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadablePicture):
        assert pictures.decode(bytes(content), max_pixels=10_000).mode in ("L", "RGB")


def test_fit_leaves_a_picture_of_the_right_size_alone():
    assert np.array_equal(pictures.fit(Image.fromarray(GRADIENT), (16, 24), 1)[..., 0], GRADIENT)


def test_fit_keeps_proportions_and_cuts_both_ends_evenly():
    bars = np.repeat([0, 100, 100, 200], 10).astype(np.uint8)  # 40 wide, 20 high
    image = Image.fromarray(np.tile(bars, (20, 1)))
    assert np.unique(pictures.fit(image, (20, 20), 1)).tolist() == [100]


def test_fit_antialiases():
    stripes = Image.fromarray(np.tile(np.array([0, 255] * 50, np.uint8), (100, 1)))
    inner = pictures.fit(stripes, (10, 10), 1)[:, 1:-1]
    assert np.abs(inner.astype(int) - 128).max() < 10


def test_a_jpeg_decoded_small_looks_like_the_large_one():
    random = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    data = encoded(Image.fromarray(random).resize((640, 640)), "JPEG", quality=95)
    small = pictures.fitted(pictures.header(data), (32, 32), 3)
    large = pictures.fit(pictures.decode(data), (32, 32), 3)
    assert np.abs(small.astype(int) - large).mean() < 3


@pytest.mark.parametrize(
    ("side", "format", "options", "waits"),
    [
        (1900, "PNG", {}, False),
        (2100, "PNG", {}, True),
        (3700, "JPEG", {}, False),  # decoded at an eighth of its size
        (3700, "JPEG", {"progressive": True}, True),  # which does not help where it comes in passes
    ],
)
def test_what_takes_much_memory_to_decode_waits_for_its_turn_and_nothing_else_does(side, format, options, waits):
    image = pictures.header(encoded(Image.new("L", (side, side), 7), format, **options))
    with ThreadPoolExecutor(1) as pool:
        with pictures._ONE_LARGE:
            begun = pool.submit(pictures.fitted, image, (8, 8), 1)
            assert bool(wait([begun], timeout=0.3 if waits else 60).done) is not waits
        assert np.array_equal(begun.result(60), np.full((8, 8, 1), 7))


def test_a_large_picture_that_is_damaged_gives_its_reason():
    data = encoded(Image.new("L", (2100, 2100)))
    with pytest.raises(UnreadablePicture, match="is cut short"):
        pictures.decode(data[:-60])


def test_large_pictures_are_decoded_in_threads_several_in_a_turn_and_in_order():
    records = [Record(str(number), bytes(20_000)) for number in range(100)]
    begun = []

    def work(record):
        begun.append((threading.get_ident(), int(record.name)))
        return int(record.name)

    with ThreadPoolExecutor(2) as pool:
        assert list(pictures.in_threads(work, records, pool)) == list(range(100))
        assert list(pictures.in_threads(work, records[:3], pool)) == [0, 1, 2]
        assert list(pictures.in_threads(work, [], pool)) == []
    assert threading.get_ident() not in {thread for thread, _ in begun}
    for thread in {thread for thread, _ in begun}:
        mine = [number for who, number in begun[:100] if who == thread]
        turns = [mine[start : start + 6] for start in range(0, len(mine), 6)]
        assert all(turn == list(range(turn[0], turn[0] + len(turn))) for turn in turns)


def test_small_pictures_are_decoded_where_they_are():
    records = [Record("a", bytes(10))] * 3
    with ThreadPoolExecutor(1) as pool:
        told = list(pictures.in_threads(lambda record: threading.get_ident(), records, pool))
    assert set(told) == {threading.get_ident()}
