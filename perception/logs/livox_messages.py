"""The clouds of Livox drivers (CustomMsg): read in one go, since a message object for every point would take too long.

The definition: https://github.com/Livox-SDK/livox_ros_driver2. Times of points are nanoseconds after ``timebase``; it
is taken to be the stamp, which drivers derive from it.
"""

from __future__ import annotations

import struct

import numpy as np

from perception.logs.decoding import timestamp_ns
from perception.logs.messages import Cloud, LogError, Payload

TYPES = ("livox_ros_driver/msg/CustomMsg", "livox_ros_driver2/msg/CustomMsg")
_FIELDS = [("offset_time", "u4"), ("x", "f4"), ("y", "f4"), ("z", "f4"), ("reflectivity", "u1")]
_FIELDS += [("tag", "u1"), ("line", "u1")]


def decode_livox(data: bytes | memoryview, log_time_ns: int, is_ros1: bool) -> list[tuple[int, Payload]]:
    """Raises LogError for a message of another size than it says."""
    order = ">" if not is_ros1 and bytes(data[:2]) == b"\0\0" else "<"
    body = memoryview(data)[0 if is_ros1 else 4 :]
    try:
        at = 4 if is_ros1 else 0  # ROS 1 counts its headers
        seconds, nanos, length = struct.unpack_from(f"{order}iII", body, at)
        at += 12
        frame_id = bytes(body[at : at + length]).rstrip(b"\0").decode()
        at += length
        at += 0 if is_ros1 else -at % 8  # CDR aligns every number to its size
        at += struct.calcsize("=QIB3B")  # timebase, number of points, LiDAR, reserved
        (count,) = struct.unpack_from(f"{order}I", body, at)
        at += 4
        point = np.dtype([(name, kind if kind == "u1" else order + kind) for name, kind in _FIELDS])
        stride = point.itemsize if is_ros1 else point.itemsize + 1
        end = at + max(count * stride - (stride - point.itemsize), 0)
        if not end <= len(body) < end + 4:
            raise LogError(f"{count} points of {stride} bytes were expected, found {len(body) - at} bytes of them")
        records: np.ndarray = np.ndarray((count,), point, body, at, (stride,))
    except (struct.error, UnicodeDecodeError) as error:
        raise LogError(f"a cloud of Livox was expected, found {len(data)} bytes that are none: {error}") from None
    return [(timestamp_ns(seconds, nanos, log_time_ns), Cloud(frame_id.removeprefix("/"), records))]
