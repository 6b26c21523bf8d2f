"""Image files of anybody: what is stored comes back, and what no camera writes is refused before it is decoded."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from perception.data import image_files
from perception.data.image_files import ImageError, decode_image, image_size

GREY, GREY_ALPHA, RGB, PALETTE, RGBA = 0, 4, 2, 3, 6  # colour types of PNG


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows: bytes, width: int, height: int, colour: int = RGB, depth: int = 8, before: bytes = b"") -> bytes:
    """rows: with the byte in front of each that names its filter."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PIXEL = (200, 100, 50)
ROWS = (b"\0" + bytes(PIXEL) * 4) * 2  # 4 wide, 2 high
JPEG = simplejpeg.encode_jpeg(np.full((16, 32, 3), PIXEL, np.uint8), quality=95)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (png(ROWS, 4, 2), PIXEL),
        (png((b"\0" + bytes((*PIXEL, 7)) * 4) * 2, 4, 2, RGBA), PIXEL),
        (png((b"\0" + b"\x64" * 4) * 2, 4, 2, GREY), (100, 100, 100)),
        (png((b"\0" + b"\x64\x07" * 4) * 2, 4, 2, GREY_ALPHA), (100, 100, 100)),
        (png((b"\0\xf0") * 2, 4, 2, GREY, depth=1), (255, 255, 255)),
        (png((b"\0" + b"\1" * 4) * 2, 4, 2, PALETTE, before=chunk(b"PLTE", bytes(3) + bytes(PIXEL))), PIXEL),
        (png((b"\0" + b"\xc8\1\x64\2\x32\3" * 4) * 2, 4, 2, RGB, depth=16), PIXEL),
        (png((b"\0" + b"\x64\xff" * 4) * 2, 4, 2, GREY, depth=16), (100, 100, 100)),
        (png((b"\0" + b"\x06\x4f" * 4) * 2, 4, 2, GREY, depth=16), (100, 100, 100)),  # 0x64f of 12 bits
    ],
)
def test_every_kind_of_png_becomes_rgb_of_eight_bits(image, pixel):
    pixels, reduction = decode_image(image, (2, 4))
    assert reduction == 1 and pixels.dtype == np.uint8 and pixels.shape == (2, 4, 3)
    assert (pixels == pixel).all() and pixels.flags.writeable


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 2), (5, 5), (33, 18)])
def test_an_interlaced_png(width, height):
    """By Adam7: pixels of the first pass stand in columns 0, 8, 16, ... of rows 0, 8, 16, ..., and so on."""
    picture = np.random.default_rng(width).integers(256, size=(height, width, 3), dtype=np.uint8)
    starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    passes = [picture[y::down, x::right] for y, x, down, right in starts]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    whole = png(rows, width, height)
    whole = whole[:28] + b"\1" + struct.pack(">I", zlib.crc32(whole[12:28] + b"\1")) + whole[33:]
    assert np.array_equal(decode_image(whole)[0], picture)
    cut = png(rows[:-1], width, height)
    with pytest.raises(ImageError, match="damaged one"):
        decode_image(cut[:28] + b"\1" + struct.pack(">I", zlib.crc32(cut[12:28] + b"\1")) + cut[33:])


def animation(kind: bytes) -> bytes:
    return chunk(b"acTL", struct.pack(">II", 2, 0)) if kind == b"acTL" else chunk(kind, bytes(30))


@pytest.mark.parametrize("kind", [b"acTL", b"fcTL", b"fdAT"])
def test_an_animated_png_is_refused(kind):
    with pytest.raises(ImageError, match=f"animated PNG: a chunk {kind.decode()}"):
        decode_image(png(ROWS, 4, 2, before=animation(kind)))


def test_texts_and_profiles_that_would_take_all_memory_are_not_looked_at():
    bomb = zlib.compress(bytes(50_000_000), 9)
    image = png(ROWS, 4, 2, before=chunk(b"iCCP", b"x\0\0" + bomb) + chunk(b"zTXt", b"x\0\0" + bomb))
    assert (decode_image(image)[0] == PIXEL).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (png(ROWS, 8192 * 2, 8192), "67108864 pixels"),
        (png(b"\0\0", 200_000, 1, GREY), "32767 a side"),
        (JPEG.replace(struct.pack(">HH", 16, 32), struct.pack(">HH", 65500, 65500)), r"found .* \(65500, 65500\)"),
        (png(ROWS, 4, 3), "39 bytes of rows were expected, found 26"),
        (png(ROWS, 4, 2)[:-12], "truncated chunk"),
        (png(ROWS, 4, 2).replace(b"IDAT", b"IDAX"), "damaged or truncated chunk"),
        (png(ROWS, 4, 2, before=chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))), "second header"),
        (png((b"\0" + b"\1" * 4) * 2, 4, 2, colour=5), "damaged one"),
        (JPEG[:-2], "damaged one"),
        (JPEG[: len(JPEG) // 2], "damaged one"),
        (JPEG[:2] + b"\xff\xd9", "height and width"),
        (b"GIF89a", "a JPEG or PNG"),
        (b"", "a JPEG or PNG"),
    ],
)
def test_what_is_no_picture_is_one_line(image, message):
    with pytest.raises(ImageError, match=message) as error:
        decode_image(image)
    assert "\n" not in str(error.value)


def test_a_jpeg_of_too_many_passes_is_refused():
    """A scan of some bytes asks for a pass over all pixels."""
    with BytesIO() as file:
        Image.fromarray(np.full((64, 64, 3), PIXEL, np.uint8)).save(file, "JPEG", progressive=True)
        whole = file.getvalue()
    assert np.abs(decode_image(whole)[0].astype(int) - PIXEL).max() <= 3
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x01\x3f\x00\x00"
    with pytest.raises(ImageError, match="at most 100 scans was expected, found 110"):
        decode_image(whole[:-2] + 100 * scan + whole[-2:])


def test_a_png_of_too_many_chunks_is_refused(monkeypatch):
    monkeypatch.setattr(image_files, "_MOST_CHUNKS", 5)
    decode_image(png(ROWS, 4, 2, before=2 * chunk(b"tEXt", b"")))
    with pytest.raises(ImageError, match="at most 5 chunks"):
        decode_image(png(ROWS, 4, 2, before=3 * chunk(b"tEXt", b"")))


def test_the_size_stands_in_the_header():
    assert image_size(png(ROWS, 4, 2)) == (2, 4) and image_size(JPEG) == (16, 32)
