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
# sensor_msgs/image_encodings.hpp: bytes a pixel; of planar ones, of the first plane
PIXEL_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
PIXEL_BYTES |= {"rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8, "mono16": 2}
PIXEL_BYTES |= {f"bayer_{order}{bits}": bits // 8 for order in ("rggb", "bggr", "gbrg", "grbg") for bits in (8, 16)}
PIXEL_BYTES |= {"yuv422": 2, "yuv422_yuy2": 2, "nv12": 1, "nv21": 1, "i420": 1}
PLANAR = ("nv12", "nv21", "i420")  # half as many rows of colours follow those of brightness
_SAME_PIXELS = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2", "yuy2": "yuv422_yuy2", "yuv420": "i420", "yuv420p": "i420"}
_SAME_PIXELS |= {"8uc1": "mono8", "8uc3": "bgr8", "8uc4": "bgra8"}  # OpenCV's names, which cv_bridge passes through
_SAME_PIXELS |= {"16uc1": "mono16", "16uc3": "bgr16", "16uc4": "bgra16"}
CODECS = ("h264", "h265", "vp9", "av1")  # of videos
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


def timestamp_or_recording_ns(seconds: int, nanos: int, log_time_ns: int) -> int:
    """As :func:`timestamp_ns`, but a stamp that is none costs nothing else: for one of several in a message."""
    try:
        return timestamp_ns(seconds, nanos, log_time_ns)
    except LogError:
        return RecordingTime(log_time_ns)


def numbers(what: str, values, *shape: int) -> np.ndarray:
    """float64 of a shape, by default [N] of any length."""
    array = np.array(values, dtype=np.float64)
    size = int(np.prod(shape)) if shape else array.size
    if array.size != size or not np.isfinite(array).all():
        raise LogError(f"{what}: finite numbers were expected, {size} of them, found {array.ravel()[:12].tolist()}")
    return array.reshape(shape or -1)


def pose(translation: Vector, rotation: Quaternion) -> np.ndarray:
    """As in :class:`perception.logs.messages.Transform`. Not checked, so that others in its message can be used."""
    at, q = translation, rotation
    return np.array((at.x, at.y, at.z, q.w, q.x, q.y, q.z), dtype=np.float64)


def compressed_image(frame_id: str, text: str, data: bytes | memoryview) -> Image:
    """A JPEG, a PNG or a packet of a video.

    Args:
        text: jpeg, png, h264 or the like, or what image_transport writes, such as "rgb8; jpeg compressed bgr8". Where
            it says none of them, such as "mjpeg" or nothing at all, the first bytes of the data decide.
    """
    words = re.findall(r"\w+", text.lower())
    found = next((name for name in ("jpeg", "jpg", "png") if name in words), None) or video_codec(text)
    if found is None:
        found = next((name for name, first in FIRST_BYTES.items() if bytes(data[:4]).startswith(first)), None)
    if found is None or "compresseddepth" in words:
        raise LogError(f"an image in the format jpeg, png, {', '.join(CODECS)} was expected, found {text[:40]!r}")
    # image_transport compresses a Bayer pattern as it is, as a grey image, unless it says "compressed bgr8".
    mosaic = words[0] if re.fullmatch("bayer_(rggb|bggr|gbrg|grbg)(8|16)", words[0] if words else "") else ""
    mosaic = "" if words[-1:] and re.match("bgr|rgb", words[-1]) else mosaic
    return Image(frame_id, found.replace("jpg", "jpeg"), data, mosaic=mosaic[: len("bayer_rggb")])


def compressed_format(image: Image) -> str:
    """What :func:`compressed_image` reads the same image from."""
    return f"{image.mosaic}8; {image.encoding} compressed mono8" if image.mosaic else image.encoding


def video_codec(text: str) -> str | None:
    """One of CODECS by the names of formats, FFmpeg's codecs and encoders: H264, libx265, hevc_nvenc, ..."""
    name = text.lower().partition(";")[0]  # FFMPEGPacket adds the formats of pixels
    aliases = {"264": "h264", "avc": "h264", "265": "h265", "hevc": "h265", "vp9": "vp9", "av1": "av1"}
    return next((codec for alias, codec in aliases.items() if alias in name), None)


def video_image(frame_id: str, text: str, data: bytes | memoryview, width: int = 0, height: int = 0) -> Image:
    """A packet of a video; of Motion JPEG, a JPEG."""
    codec = "jpeg" if "jpeg" in text.lower() else video_codec(text)
    if codec is None:
        raise LogError(f"a video in {', '.join(CODECS)} was expected, found {text[:40]!r}")
    return Image(frame_id, codec, data, *((0, 0) if codec == "jpeg" else (width, height)))


def raw_image(
    frame_id: str, encoding: str, data: bytes | memoryview, width: int, height: int, step: int, big_endian: bool = False
) -> Image:
    """Pixels as they are, of 16 bits little-endian. What comes behind the last row is left out.

    A ``step`` that contradicts the data is ignored where the rows are dense.
    """
    name = _SAME_PIXELS.get(encoding.lower(), encoding.lower())
    if name not in PIXEL_BYTES:
        raise LogError(f"an encoding of {', '.join(PIXEL_BYTES)} was expected, found {encoding[:40]!r}")
    dense, rows = width * PIXEL_BYTES[name], raw_rows(name, height)
    step = dense if step < dense and len(data) == rows * dense else step
    if not (width and height and step >= dense and len(data) >= rows * step):
        raise LogError(
            f"{height} rows of {width} pixels of {name} were expected, found {len(data)} bytes in rows of {step}"
        )
    if (name.startswith("yuv422") and width % 2) or (name in PLANAR and (width % 2 or height % 2)):
        raise LogError(f"sides of an even number of pixels were expected for {name}, found {width} x {height}")
    data = data[: rows * step]
    if name.endswith("16") and big_endian:
        if step % 2:
            raise LogError(f"rows of whole 16-bit pixels were expected, found rows of {step} bytes")
        data = np.frombuffer(data, ">u2").astype("<u2").view(np.uint8).data
    return Image(frame_id, name, data, width, height, step)


def raw_rows(encoding: str, height: int) -> int:
    """Rows of ``step`` bytes of an image of raw pixels."""
    return height * 3 // 2 if encoding in PLANAR else height


@lru_cache(maxsize=256)
def point_dtype(
    fields: tuple[tuple[str, int, int, int], ...], types: tuple[np.dtype, ...], size: int, size_name: str
) -> tuple[np.dtype, tuple[str, ...]]:
    """The structured type of one point, and a line on every field that cannot be read and is left out.

    Args:
        fields: (name, offset, number of its type, count).  types: those of the numbers from 1.
        size: bytes of a point.  size_name: what the message calls it.

    Raises:
        LogError: no field can be read.
    """
    if not fields:
        raise LogError("a point has no field: at least one was expected, found 0 fields")
    if not 0 < size <= _LARGEST_POINT:
        raise LogError(f"points with fields were expected, found {len(fields)} fields, {size_name} {size}")
    formats: dict[str, tuple[int, np.dtype]] = {}
    defects = []
    for name, offset, number, count in fields:
        shown = f"field {name[:50]!r}"
        if name in formats or name in ("", "_"):  # PCL names its padding "_", several times
            defects += [] if name in ("", "_") else [f"{shown}: a name of its own was expected, found a second one"]
        elif not 1 <= number <= len(types):
            defects.append(f"{shown}: a datatype from 1 to {len(types)} was expected, found {number}")
        elif offset + count * types[number - 1].itemsize > size:
            defects.append(f"{shown}: an offset within {size_name} {size} was expected, found {offset}")
        else:
            scalar = types[number - 1]
            formats[name] = offset, scalar if count == 1 else np.dtype((scalar, (count,)))
    if not formats:
        raise LogError(f"fields of points were expected, found none: {'; '.join(defects[:3]) or 'none has a name'}")
    offsets, dtypes = zip(*formats.values())
    point = {"names": list(formats), "formats": list(dtypes), "offsets": list(offsets), "itemsize": size}
    return np.dtype(point), tuple(defects)  # type: ignore[call-overload]
