"""Strict readers of the three nuScenes sensor file formats.

Each reads one whole file and either returns everything in it or raises :class:`DataError` in one line. Nothing here
knows frames, filters or tables; see ``nuscenes.py`` for those.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception.data.image_files import ImageError, decode_image
from perception.errors import PerceptionError
from perception.files import open_regular
from perception.sample import LIMITS

LIDAR_BIN_COLUMNS = 5  # x, y, z, intensity, ring index, all float32
_LOOKED_AT, MOST_RINGS = 64, 65535
_PCD_HEADER_BYTES = 4096  # a nuScenes header takes about 380; a file without DATA in the first 4 KiB is no PCD
_PCD_USUAL_END = b"\nDATA binary\n"
_MOST_COUNT = 1024  # numbers in a field of a point
_PCD_KINDS = {"F": "f", "I": "i", "U": "u"}
_PCD_SIZES = {"F": (4, 8), "I": (1, 2, 4, 8), "U": (1, 2, 4, 8)}


class DataError(PerceptionError):
    """A file or table on disk that is missing, damaged or not what the tables say."""


def read_bytes(path: str | Path, most: int | None = None) -> bytes:
    """The content of a file, of ``most`` bytes if that is given."""
    try:
        with open_regular(path) as file:
            data = file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if most is not None and len(data) > most:
        raise DataError(f"{path}: at most {most} bytes were expected, found more")
    return data


def _unreadable(path: str | Path, error: OSError) -> DataError:
    return DataError(f"{path}: cannot be read: {error.strerror or error}")


def path_below(root: str | Path, filename: str) -> str:
    """The path of a file of the data set, as a table names it.

    A folder may be a link, such as ``samples`` to another disk. The link of a single file leads to a file below the
    root, below the folder it is in or below one of the root's: a data set that was downloaded must not show other files
    of this machine.

    Raises:
        DataError: it leads out of the root.
    """
    path = os.path.join(root, filename)  # a Path takes as long as reading a radar
    if not is_below_root(filename):
        raise DataError(f"{path}: a file below the data root was expected, found {filename!r} in the index")
    if os.path.islink(path):
        target = os.path.realpath(path)
        places = [root, os.path.dirname(path), *(entry.path for entry in os.scandir(root) if entry.is_dir())]
        if not any(target.startswith(os.path.realpath(place).rstrip("/") + "/") for place in places):
            raise DataError(f"{path}: a file below the data root was expected, found a link to {target}")
    return path


def is_below_root(filename: str) -> bool:
    """Whether the name of a file can lead nowhere but below its root, links aside."""
    parts = filename.split("/")
    return not (filename.startswith("/") or "\\" in filename or ".." in parts or parts[-1] in ("", "."))


def lidar_bin_length(path: str | Path) -> int:
    """How many points a ``.pcd.bin`` sweep holds.

    The format has no header, so its size is all that can be checked: N x 20 bytes. No bytes are no points.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise _unreadable(path, error) from None
    if size % (4 * LIDAR_BIN_COLUMNS):
        guess = "truncated?" if size % 16 else "truncated, or points of four numbers?"
        raise DataError(f"{path}: a multiple of {4 * LIDAR_BIN_COLUMNS} bytes was expected, found {size}: {guess}")
    return size // (4 * LIDAR_BIN_COLUMNS)


def read_lidar_bin(path: str | Path, out: np.ndarray) -> None:
    """Fill ``out``, contiguous float32 [N, 5] as long as :func:`lidar_bin_length` said, with a ``.pcd.bin`` sweep.

    Columns: x, y, z (metres, sensor frame), intensity 0..255, ring index.
    """
    try:
        with open_regular(path) as file:
            size = file.readinto(out.data) + len(file.read(1))
    except OSError as error:
        raise _unreadable(path, error) from None
    if size != out.nbytes:
        raise DataError(f"{path}: {out.nbytes} bytes were expected, found {size}: is it being written?")
    _require_lidar_points(path, out)


def _require_lidar_points(path: str | Path, points: np.ndarray) -> None:
    """Raises DataError for what has the size of points, but is something else: the format has no header.

    Looked at are the first bytes and some points from all over the file. Those with a number that is not finite say
    nothing: they are how a sensor says that there was no return. Ring -1 is of clouds merged from several sensors.
    """
    beginning = points[:1].tobytes()
    if beginning and all(32 <= byte < 127 or byte in b"\t\n\r" for byte in beginning):
        raise DataError(f"{path}: points were expected, found text: {beginning.decode()!r}")
    some = points[:: max(1, len(points) // _LOOKED_AT)]
    some = some[np.isfinite(some).all(axis=1)]
    ring, most = some[:, 4], np.abs(some[:, :4]).max(axis=1, initial=0)
    wrong = (ring != np.rint(ring)) | (ring < -1) | (ring > MOST_RINGS) | (most > LIMITS["x"])
    if wrong.sum() > max(1, 0.3 * len(some)):  # fewer are damaged numbers, which are dropped later
        raise DataError(
            f"{path}: points of x, y, z, intensity and a whole ring number, all float32, were expected, found one of "
            f"{', '.join(f'{number:.4g}' for number in some[wrong.argmax()])}: another format?"
        )


def read_pcd(path: str | Path) -> np.ndarray:
    """A binary PCD file: structured array [N], one named field for every entry of FIELDS, types as the header declares.

    https://pointclouds.org/documentation/tutorials/pcd_file_format.html; DATA binary only, which is what nuScenes
    radars use. A field of several numbers is an array. Bytes after the last point are ignored: nuScenes pads with
    several kilobytes of zeros, others with a newline or nothing.
    """
    data = read_bytes(path)
    usual_end = data.find(_PCD_USUAL_END, 0, _PCD_HEADER_BYTES)
    try:
        layout = _pcd_layout(data[: usual_end + len(_PCD_USUAL_END) if usual_end >= 0 else _PCD_HEADER_BYTES])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    expected, found = layout.points * layout.dtype.itemsize, len(data) - layout.start
    if found < expected:
        raise DataError(f"{path}: {expected} bytes of data ({layout.points} points) were expected, found {found}")
    return np.frombuffer(data, dtype=layout.dtype, count=layout.points, offset=layout.start)


class _PcdLayout(NamedTuple):
    """What a header says: the packed type of one point, how many there are, and where they begin."""

    dtype: np.dtype
    points: int
    start: int


@lru_cache(maxsize=1024)  # the headers of a radar differ in the number of points only, which is at most 125
def _pcd_layout(beginning: bytes) -> _PcdLayout:
    """From the first bytes of a file, with the whole header among them. Errors do not name the file."""
    header, start = _pcd_header(beginning)
    dtype = _pcd_dtype(header)
    width, height = _integers(header, "WIDTH", 1)[0], _integers({"HEIGHT": ["1"], **header}, "HEIGHT", 1)[0]
    points = _integers({"POINTS": [str(width * height)], **header}, "POINTS", 1)[0]
    if points != width * height:
        raise DataError(f"POINTS equal to WIDTH x HEIGHT = {width * height} was expected, found {points}")
    return _PcdLayout(dtype, points, start)


def _pcd_header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """The header as keyword -> values, and where the data begin."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start, _PCD_HEADER_BYTES)
        if end < 0:
            raise DataError("a PCD header ending in a DATA line was expected, found none")
        try:
            words = data[start:end].decode("ascii").split()
        except UnicodeDecodeError:
            raise DataError("a PCD header in ASCII was expected, found other bytes") from None
        start = end + 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] in header:
            raise DataError(f"one {words[0]} line in the PCD header was expected, found two")
        header[words[0]] = words[1:]
    if header["DATA"] != ["binary"]:
        raise DataError(f"'DATA binary' was expected, found 'DATA {' '.join(header['DATA'])}'")
    return header, start


def _pcd_dtype(header: dict[str, list[str]]) -> np.dtype:
    """The packed type of one point."""
    fields = [f"_{i}" if name == "_" else name for i, name in enumerate(header.get("FIELDS", []))]  # _ is padding
    if not fields or len(set(fields)) != len(fields):
        raise DataError(f"distinct names in FIELDS were expected, found '{' '.join(fields)}'")
    sizes = _integers(header, "SIZE", len(fields))
    counts = _integers({"COUNT": ["1"] * len(fields), **header}, "COUNT", len(fields))
    kinds = header.get("TYPE", [])
    if len(kinds) != len(fields):
        raise DataError(f"{len(fields)} entries of TYPE were expected, found {len(kinds)}")
    for field, kind, size, count in zip(fields, kinds, sizes, counts):
        if size not in _PCD_SIZES.get(kind, ()) or not 1 <= count <= _MOST_COUNT:
            raise DataError(f"field {field}: a number was expected, found TYPE {kind} SIZE {size} COUNT {count}")
    shapes = [() if count == 1 else (count,) for count in counts]
    types = [f"<{_PCD_KINDS[kind]}{size}" for kind, size in zip(kinds, sizes)]
    return np.dtype(list(zip(fields, types, shapes)))


def _integers(header: dict[str, list[str]], key: str, length: int) -> list[int]:
    words = header.get(key, [])
    if len(words) != length or not all(word.isdecimal() and len(word) < 10 for word in words):
        raise DataError(f"{length} whole numbers were expected in {key}, found '{' '.join(words)}'")
    return [int(word) for word in words]


def read_image(path: str | Path, size: tuple[int, int], cover: tuple[int, int] | None = None) -> tuple[np.ndarray, int]:
    """A JPEG or PNG file: what :func:`perception.data.image_files.decode_image` makes of its bytes."""
    try:
        return decode_image(read_bytes(path), size, cover)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from None
