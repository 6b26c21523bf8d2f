"""Strict decoding of JPEG and PNG: everything that was stored, or an error in one line.

The files may be anybody's. What they claim is checked before a decoder sees them, and each kind has one decoder that is
made for such files: simplejpeg (libjpeg-turbo, strict), and the PNG decoder of Pillow. OpenCV is not used: some of its
releases can be made to write beyond their memory, and it fills the lost part of a truncated JPEG with grey.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import simplejpeg
from PIL.PngImagePlugin import PngImageFile

from perception.errors import PerceptionError

# Beyond every camera of a vehicle. A damaged header may claim 60000 x 60000, and a progressive JPEG of a few kilobytes
# may ask for thousands of passes over all pixels, where an encoder makes about ten.
MOST_PIXELS = 1 << 26
LONGEST_SIDE = (1 << 15) - 1  # of what OpenCV can resample
_MOST_SCANS = 100
_MOST_CHUNKS = 100_000  # writers put eight kilobytes or more into each

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# First column and row, and steps, of the passes of an interlaced PNG (Adam7).
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class ImageError(PerceptionError):
    """Bytes that are no whole image of the expected size. The message does not say where they come from."""


def decode_image(
    data: bytes | memoryview, size: tuple[int, int] | None = None, cover: tuple[int, int] | None = None
) -> tuple[np.ndarray, int]:
    """A JPEG or PNG as uint8 [H, W, 3] RGB, as stored: intrinsics know nothing of an EXIF orientation.

    Of 16 bits the upper eight are kept, or the upper eight of 12 where a grey PNG has no larger values.

    Args:
        size: height and width it must have, None for any. They are looked up before decoding: a damaged header that
            claims 60000 x 60000 would otherwise take all memory there is.
        cover: height and width, at least 8, that the caller will make of it. A JPEG is then decoded at the smallest of
            1/1, 1/2, 1/4 and 1/8 of its sides that is no smaller: a DCT block of 8 x 8 gives 4 x 4, 2 x 2 or one pixel,
            for half the time. (libjpeg-turbo has no fast code for the fractions between.)

    Returns:
        The image, and what its sides were divided by; a part of a pixel that remains at the end makes one more.

    Raises:
        ImageError: see the class.
    """
    found = image_size(data)
    if size is not None and found != tuple(size):
        raise ImageError(f"height, width {tuple(size)} were expected, found height, width {found}")
    if found[0] * found[1] > MOST_PIXELS or max(found) > LONGEST_SIDE:
        raise ImageError(
            f"at most {MOST_PIXELS} pixels, and {LONGEST_SIDE} a side, were expected, found height, width {found}"
        )
    if _is_jpeg(data):
        return _decode_jpeg(data, found, _reduction(found, cover or found))
    return _decode_png(bytes(data)), 1


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """Height and width of a JPEG or PNG, from its header; raises ImageError."""
    beginning = bytes(data[:8])
    if not _is_jpeg(data) and beginning != _PNG:
        raise ImageError(f"a JPEG or PNG image was expected, found bytes beginning with {beginning[:4]!r}")
    size = _jpeg_size(data) if _is_jpeg(data) else _png_size(data)
    if size is None or not all(size):
        raise ImageError("an image with height and width was expected, found none")
    return size


def _is_jpeg(data: bytes | memoryview) -> bool:
    return bytes(data[:2]) == b"\xff\xd8"


def _reduction(size: tuple[int, int], cover: tuple[int, int]) -> int:
    return max((n for n in (2, 4, 8) if size[0] >= n * cover[0] and size[1] >= n * cover[1]), default=1)


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Height and width from the start-of-frame segment."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # padding
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, at + 5)
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _png_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Height and width from the header chunk, which is the first."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        return None
    width, height = struct.unpack_from(">II", data, 16)
    return height, width


def _decode_jpeg(data: bytes | memoryview, size: tuple[int, int], reduction: int) -> tuple[np.ndarray, int]:
    scans = bytes(data).count(b"\xff\xda")  # never within a scan; the thumbnail of a header has one or more of its own
    if scans > _MOST_SCANS:
        raise ImageError(f"a JPEG of at most {_MOST_SCANS} scans was expected, found {scans}")
    height, width = (-(-side // reduction) for side in size)
    try:
        image = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, min_height=height, min_width=width, min_factor=reduction
        )
    except ValueError as error:
        raise ImageError(f"a whole JPEG was expected, found a damaged one: {error}") from None
    return image, reduction


def _decode_png(data: bytes) -> np.ndarray:
    chunks = _pixel_chunks(data)
    try:
        with PngImageFile(BytesIO(b"".join(chunks))) as image:
            _check_rows(chunks)
            if image.mode == "I;16":
                return np.repeat(_eight_bits(np.asarray(image))[..., None], 3, axis=2)
            return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, zlib.error) as error:
        raise ImageError(f"a whole PNG was expected, found a damaged one: {error}") from None


def _pixel_chunks(data: bytes) -> list[bytes]:
    """The signature and the chunks that the pixels need: no texts, profiles and the like, which may be bombs.

    Raises:
        ImageError: a chunk that is damaged, whose checksum is wrong, or is missing; an animation.
    """
    kept, at = [_PNG], len(_PNG)
    for _ in range(_MOST_CHUNKS):
        begin, length, kind = at, int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data) or zlib.crc32(data[begin + 4 : at - 4]) != int.from_bytes(data[at - 4 : at], "big"):
            raise ImageError("a whole PNG was expected, found a damaged or truncated chunk")
        if kind in _ANIMATION:
            raise ImageError(f"a single picture was expected, found an animated PNG: a chunk {kind.decode()}")
        if kind == b"IHDR" and begin > len(_PNG):
            raise ImageError("a whole PNG was expected, found a second header")
        if kind in _PIXELS:
            kept.append(data[begin:at])
        if kind == b"IEND":
            return kept
    raise ImageError(f"a PNG of at most {_MOST_CHUNKS} chunks was expected, found more")


def _check_rows(chunks: list[bytes]) -> None:
    """Raise ValueError if rows are missing, which Pillow leaves black where the compressed data end properly."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", chunks[1], 8)
    expected = 0
    for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-max(width - x, 0) // step_x), -(-max(height - y, 0) // step_y)
        expected += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8)) if columns else 0
    inflate, found = zlib.decompressobj(), 0
    for chunk in chunks:
        rest = chunk[8:-4] if chunk[4:8] == b"IDAT" else b""
        while rest and found < expected:
            found += len(inflate.decompress(rest, 1 << 20))
            rest = inflate.unconsumed_tail
    if found + len(inflate.flush()) < expected:
        raise ValueError(f"{expected} bytes of rows were expected, found {found}")


def _eight_bits(grey: np.ndarray) -> np.ndarray:
    """uint8 of uint16 [H, W]. Many cameras measure 12 bits, and write them as they are."""
    return (grey >> (4 if grey.max(initial=0) < 1 << 12 else 8)).astype(np.uint8)
