"""From the bytes of one picture file to pixels, trusting nothing in it."""

import re
import threading
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from io import BytesIO
from itertools import chain
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from helpers.records import PIXELS, Record

Result = TypeVar("Result")
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")  # decoded inside Pillow; none starts a program
_GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_ONE_AT_A_TIME = threading.Lock()  # what `catch_warnings` puts back is the whole process's
_LARGE = 4_000_000  # pixels; decoding takes up to 20 bytes for each
_ONE_LARGE = threading.Lock()  # is held while such a picture is decoded, or each core would decode one
_WORTH_A_THREAD = 10_000  # bytes of an encoded picture; smaller ones are decoded before a thread has them
_ORIENTATION = 0x0112  # EXIF tag; 5 to 8 lie on their side
_TELLING = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})  # keys of `info` for it
_BEGINNINGS = {
    b"": "is empty (0 bytes)",
    b"<svg": "is an SVG drawing, which has no pixels",
    b"<?xml": "is XML text (perhaps an SVG drawing), which has no pixels",
    b"<!DOCTYPE": "is a web page",
    b"<html": "is a web page",
    b"#!": "is a script",
    b"%!PS": "is a PostScript program",
    b"%PDF": "is a PDF document",
    b"PK\x03\x04": "is a zip archive inside the source",
    b"\x7fELF": "is a program",
    b"MZ": "is a program",
}
_BRANDS = re.compile(rb"avif|hei[cx]|mif1(?!.*avif)", re.DOTALL)  # `mif1` alone says no more than: pictures


class UnreadablePicture(ValueError):
    """A picture that cannot be decoded; the message is a clause that says why."""


def header(picture: bytes, *, max_pixels: int = PIXELS) -> Image.Image:
    """Opens a picture without decoding it: size, mode and format are known, its pixels are not.

    Args:
        picture: The bytes of a PNG, JPEG, GIF, BMP, TIFF, WebP or PPM file.
        max_pixels: Largest picture that will be decoded.

    Raises:
        UnreadablePicture: If it is of another format, damaged or too large.
    """
    try:
        with _ONE_AT_A_TIME, warnings.catch_warnings(action="ignore"):  # our own limit follows
            image = Image.open(BytesIO(picture), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UnreadablePicture(f"has more than the {max_pixels:,} pixels allowed") from None
    except UnidentifiedImageError:
        raise UnreadablePicture(_what_it_is(picture)) from None
    except Exception as error:  # Pillow's plugins raise whatever a damaged header makes them stumble over
        raise UnreadablePicture(_reason(error)) from error
    width, height = image.size
    if width * height > max_pixels:
        raise UnreadablePicture(f"is {width} x {height}, more than the {max_pixels:,} pixels allowed")
    return image


def decode(picture: bytes, *, max_pixels: int = PIXELS) -> Image.Image:
    """Decodes a picture to 8 bits, grey (mode L) or colour (mode RGB), upright.

    The EXIF orientation is applied, transparency lies on white, 16-bit greys are scaled to 8 bits,
    of an animation the first frame is taken. A picture that is cut short is an error, not half a picture.

    Args:
        picture: The bytes of a PNG, JPEG, GIF, BMP, TIFF, WebP or PPM file.
        max_pixels: Largest picture that will be decoded.

    Raises:
        UnreadablePicture: If it is of another format, damaged, cut short or too large.
    """
    return _decoded(header(picture, max_pixels=max_pixels), None, _eight_bits)


def fitted(image: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """Decodes what `header` opened and brings it to size; arguments, result and errors as for `decode` and `fit`.

    A JPEG is decoded at an eighth, a quarter or half its size where that is enough, which is much faster.
    """
    return _decoded(image, size, lambda whole: fit(_eight_bits(whole), size, channels))


def _decoded(
    image: Image.Image, at_least: tuple[int, int] | None, finish: Callable[[Image.Image], Result]
) -> Result:
    """Decodes what `header` opened and returns what `finish` makes of it; of large pictures one at a time."""
    assert not ImageFile.LOAD_TRUNCATED_IMAGES, "a library has told Pillow to accept half pictures"
    try:
        stored = image.width * image.height
        if at_least is not None and image.format == "JPEG":
            side = 2 * max(at_least)  # square: the picture may lie on its side
            image.draft(None, (side, side))
        held = image.width * image.height
        if image.info.get("progressive"):
            held = max(held, stored // 3)  # its coefficients, 6 bytes a pixel, whatever size it is decoded at
        if held <= _LARGE:
            return finish(_loaded(image))
        with _ONE_LARGE, ThreadPoolExecutor(1) as alone:  # a thread may keep for itself what it has freed
            return alone.submit(lambda: finish(_loaded(image))).result()
    except UnreadablePicture:
        raise
    except Exception as error:  # as above: decoders of damaged data raise almost anything
        raise UnreadablePicture(_reason(error)) from error


def _loaded(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def fit(image: Image.Image, size: tuple[int, int], channels: int) -> np.ndarray:
    """Brings a picture to the size and channels of its data set.

    A picture of another shape is scaled, with antialiasing and its proportions kept, until it covers
    the size; what then stands over is cut off evenly at both ends.

    Args:
        image: Mode L or RGB.
        size: Height and width.
        channels: 1 for grey, 3 for colour.

    Returns:
        uint8, shape (height, width, channels).
    """
    height, width = size
    image = _convert(image, "L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), method=Image.Resampling.LANCZOS)
    return np.asarray(image).reshape(height, width, channels)


def encoded_bytes(record: Record) -> int:
    """Returns how many bytes a record's picture has as its source hands it out."""
    return memoryview(record.picture).nbytes


def in_threads(work: Callable[[Record], Result], records: list[Record], pool: Executor) -> Iterable[Result]:
    """Applies what decodes a picture to each of some records, in threads where they pay, and keeps the order.

    A thread takes several pictures in a turn: handing each over by itself would stop the others, which
    hold Python's lock between two pictures, and takes a fifth of the time of small JPEG files.

    Args:
        work: Decodes one record; it must not raise.
        records: Records that are in memory.
        pool: Threads; they begin at once.
    """
    if sum(map(encoded_bytes, records)) <= _WORTH_A_THREAD * len(records):
        return map(work, records)
    turn = max(1, min(32, len(records) // 16))
    parts = [records[start : start + turn] for start in range(0, len(records), turn)]
    return chain.from_iterable(pool.map(lambda part: [work(record) for record in part], parts))


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the height and width that an opened picture has once its EXIF orientation is applied."""
    asked = image if image.format in ("JPEG", "MPO", "WEBP") else None  # Pillow turns a TIFF by itself
    if image.format == "PNG" and _TELLING & image.info.keys():
        asked = Image.new("1", (1, 1))  # a PNG would decode its pixels, to look behind them as well
        asked.info = image.info
    try:
        lying = asked is not None and asked.getexif().get(_ORIENTATION, 1) in range(5, 9)
    except Exception:  # damaged EXIF makes Pillow raise whatever it stumbles over: `fitted` says what is amiss
        lying = False
    return image.size if lying else image.size[::-1]


def is_grey(image: Image.Image) -> bool:
    """Returns whether an opened picture is stored as grey: by its mode, or by a palette of greys."""
    if image.mode == "P" and image.palette is not None and image.palette.mode == "RGB":
        swatch = Image.new("P", (1, 1))  # it has the palette as RGB; BMP and TIFF store it in another order
        try:
            swatch.putpalette(image.palette)
            colours = swatch.getpalette()
        except ValueError:  # a damaged palette: `fitted` says so
            return False
        return len(colours) > 0 and colours[0::3] == colours[1::3] == colours[2::3]
    return image.mode in _GREY_MODES


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise UnreadablePicture("has floating-point pixels of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UnreadablePicture("has 32-bit pixels; save it with 8 or 16 bits")
        if image.mode == "I" and image.format == "TIFF" and values.max() <= 255:  # 8 bits, kept in 32
            return Image.fromarray(values.astype(np.uint8))
        return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = _convert(image, "RGBA")
        grey = image.getchannel("R").tobytes() == image.getchannel("G").tobytes() == image.getchannel("B").tobytes()
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    return _convert(image, "L" if is_grey(image) else "RGB")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)  # convert copies even if there is nothing to do


def _what_it_is(picture: bytes) -> str:
    if picture[4:8] == b"ftyp" and (brand := _BRANDS.search(picture[8:40])):
        what = "an AVIF picture" if brand[0] == b"avif" else "a HEIC picture (as iPhones make)"
        return f"is {what}: save it as JPEG or PNG"
    start = picture[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    for beginning, what in _BEGINNINGS.items():
        if start.lower().startswith(beginning.lower()) and (beginning or not picture):
            return what
    return f"is not a picture of a format that is read ({', '.join(FORMATS)})"


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120]
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return "is cut short"
    return f"is damaged ({text or type(error).__name__})"
