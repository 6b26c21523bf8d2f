"""Strict decoding of JPEG and PNG: everything that was stored, or an error in one line."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np

from perception.errors import PerceptionError

_MOST_PIXELS = 1 << 26  # of an image whose size nobody has announced; a damaged header may claim 60000 x 60000


class ImageError(PerceptionError):
    """Bytes that are no whole image of the expected size. The message does not say where they come from."""


def decode_image(
    data: bytes | memoryview, size: tuple[int, int] | None = None, cover: tuple[int, int] | None = None
) -> tuple[np.ndarray, int]:
    """A JPEG or PNG as uint8 [H, W, 3] RGB, as stored: intrinsics know nothing of an EXIF orientation.

    OpenCV fills the lost part of a truncated JPEG with grey and says nothing, so JPEGs go through simplejpeg's strict
    mode where it is installed; otherwise the end marker is checked, which finds truncation but no damage in the middle.

    Args:
        size: height and width it must have, None for any. They are looked up before decoding: a damaged header that
            claims 60000 x 60000 would otherwise take all memory there is.
        cover: height and width, at least 8, that the caller will make of it. simplejpeg then decodes a JPEG at the
            smallest of 1/1, 1/2, 1/4 and 1/8 of its sides that is no smaller: a DCT block of 8 x 8 gives 4 x 4, 2 x 2
            or one pixel, for half the time. (libjpeg-turbo has no fast code for the fractions between.)

    Returns:
        The image, and what its sides were divided by; a part of a pixel that remains at the end makes one more.

    Raises:
        ImageError: see the class.
    """
    found = image_size(data)
    if size is not None and found != tuple(size):
        raise ImageError(f"height, width {tuple(size)} were expected, found height, width {found}")
    if found[0] * found[1] > _MOST_PIXELS:
        raise ImageError(f"at most {_MOST_PIXELS} pixels were expected, found height, width {found}")
    if _is_jpeg(data):
        return _decode_jpeg(data, found, _reduction(found, cover or found))
    return _decode_png(bytes(data)), 1


def image_size(data: bytes | memoryview) -> tuple[int, int]:
    """Height and width of a JPEG or PNG, from its header; raises ImageError."""
    beginning = bytes(data[:8])
    if not _is_jpeg(data) and beginning != b"\x89PNG\r\n\x1a\n":
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
    try:
        import simplejpeg
    except ImportError:
        if not bytes(data).rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ImageError("a whole JPEG was expected, found one without its end marker: truncated") from None
        return _decode_opencv(data), 1
    height, width = (-(-side // reduction) for side in size)
    try:
        image = simplejpeg.decode_jpeg(
            data, colorspace="RGB", strict=True, min_height=height, min_width=width, min_factor=reduction
        )
    except ValueError as error:
        raise ImageError(f"a whole JPEG was expected, found a damaged one: {error}") from None
    return image, reduction


def _decode_png(data: bytes) -> np.ndarray:
    """Walks the chunks and their checksums first, since OpenCV returns damaged PNGs too."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + length
        if at > len(data) or zlib.crc32(data[at - 8 - length : at - 4]) != int.from_bytes(data[at - 4 : at], "big"):
            raise ImageError("a whole PNG was expected, found a damaged or truncated chunk")
    return _decode_opencv(data)


def _decode_opencv(data: bytes | memoryview) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"the image cannot be decoded: {error.err}") from None
    if image is None:
        raise ImageError("the image cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
