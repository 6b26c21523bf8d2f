"""Fields and checks that the decoders of ROS 2 and Foxglove messages share.

All raise LogError, without file, topic and time.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Protocol

import numpy as np

from perception.logs.messages import Image, LogError, RecordingTime

MOST_FIELDS = 1000  # of a point
_LARGEST_POINT = 65536  # bytes; these two are far beyond those of any sensor
# sensor_msgs/image_encodings.hpp: bytes a pixel
PIXEL_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 2}
PIXEL_BYTES |= {f"bayer_{order}{bits}": bits // 8 for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
_SAME_PIXELS = {"8UC1": "mono8", "8UC3": "bgr8"}  # OpenCV's names, which cv_bridge passes through
FIRST_BYTES = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG"}


class Vector(Protocol):
    x: float
    y: float
    z: float


class Quaternion(Vector, Protocol):
    w: float


def timestamp_ns(seconds: int, nanos: int, log_time_ns: int) -> int:
    """Time of measurement; the :class:`RecordingTime` where the message has no stamp."""
    stamp_ns = 1_000_000_000 * seconds + nanos
    if not (0 <= stamp_ns < 1 << 63 and 0 <= nanos < 1_000_000_000):
        raise LogError(f"a timestamp since 1970 was expected, found {seconds} s {nanos} ns")
    return stamp_ns or RecordingTime(log_time_ns)


def numbers(what: str, values, *shape: int) -> np.ndarray:
    """float64 of a shape, by default [N] of any length."""
    array = np.array(values, dtype=np.float64)
    size = int(np.prod(shape)) if shape else array.size
    if array.size != size or not np.isfinite(array).all():
        raise LogError(f"{what}: finite numbers were expected, {size} of them, found {array.ravel()[:12].tolist()}")
    return array.reshape(shape or -1)


def pose(translation: Vector, rotation: Quaternion) -> np.ndarray:
    """As in :class:`perception.logs.messages.Transform`."""
    at, q = translation, rotation
    return numbers("translation and rotation", (at.x, at.y, at.z, q.w, q.x, q.y, q.z), 7)


def compressed_encoding(text: str, data: bytes | memoryview) -> str:
    """jpeg or png. text: either of them, or what image_transport writes, such as "rgb8; jpeg compressed bgr8".

    Where it says neither, such as "mjpeg" or nothing at all, the first bytes of the data decide.
    """
    words = re.findall(r"\w+", text.lower())
    found = next((name for name in ("jpeg", "jpg", "png") if name in words), None)
    if found is None:
        found = next((name for name, first in FIRST_BYTES.items() if bytes(data[:4]).startswith(first)), None)
    if found is None or "compresseddepth" in words:
        raise LogError(f"an image in the format jpeg or png was expected, found {text[:40]!r}")
    return found.replace("jpg", "jpeg")


def raw_image(frame_id: str, encoding: str, data: bytes | memoryview, width: int, height: int, step: int) -> Image:
    encoding = _SAME_PIXELS.get(encoding, encoding)
    if encoding not in PIXEL_BYTES:
        raise LogError(f"an encoding of {', '.join(PIXEL_BYTES)} was expected, found {encoding[:40]!r}")
    if not (width and height and step >= width * PIXEL_BYTES[encoding] and len(data) == height * step):
        raise LogError(
            f"{height} rows of {width} pixels of {encoding} were expected, found {len(data)} bytes in rows of {step}"
        )
    return Image(frame_id, encoding, data, width, height, step)


@lru_cache(maxsize=256)
def point_dtype(
    fields: tuple[tuple[str, int, int, int], ...], types: tuple[np.dtype, ...], size: int, size_name: str
) -> np.dtype:
    """The structured type of one point.

    Args:
        fields: (name, offset, number of its type, count).  types: those of the numbers from 1.
        size: bytes of a point.  size_name: what the message calls it.
    """
    if not fields:
        raise LogError("a point has no field: at least one was expected, found 0 fields")
    if not 0 < size <= _LARGEST_POINT:
        raise LogError(f"points with fields were expected, found {len(fields)} fields, {size_name} {size}")
    names = [name for name, *_ in fields]
    if "" in names or len(set(names)) < len(names):
        raise LogError(f"distinct names of fields were expected, found {' '.join(names)[:200]!r}")
    formats: dict[str, np.dtype] = {}
    end = 0
    for name, offset, number, count in sorted(fields, key=lambda field: field[1]):
        if not 1 <= number <= len(types):
            raise LogError(f"field {name[:50]!r}: a datatype from 1 to {len(types)} was expected, found {number}")
        scalar = types[number - 1]
        if offset < end:
            raise LogError(f"field {name[:50]!r}: an offset from {end} was expected, found {offset}: fields overlap")
        end = offset + count * scalar.itemsize
        if end > size:
            raise LogError(f"field {name[:50]!r}: an offset within {size_name} {size} was expected, found {offset}")
        formats[name] = scalar if count == 1 else np.dtype((scalar, (count,)))
    ordered = [formats[name] for name in names]
    return np.dtype({"names": names, "formats": ordered, "offsets": [field[1] for field in fields], "itemsize": size})
