"""Named arrays in one file, mapped into memory when it is read. Nothing is unpickled.

The format is safetensors (https://github.com/huggingface/safetensors): the length of the header, a JSON header, the
arrays one behind the other. Bytes of a fixed length, numpy's S, are stored as uint8 [N, length]. The library itself is
not used, since it copies what it reads.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path

import numpy as np

from perception.files import replacing

_DTYPES = {"BOOL": "bool", "U8": "uint8", "I32": "<i4", "I64": "<i8", "F64": "<f8"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64


def write_columns(
    path: Path, columns: dict[str, np.ndarray], metadata: dict[str, str]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Write a file whole or not at all, in place of one that is there, and return what a reader of it sees.

    Args:
        columns: arrays of booleans, int32, int64, float64 or, one-dimensional, of bytes.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {name: _stored(column) for name, column in columns.items()}
    # Widest first, as the library writes them, so that every array begins at a multiple of its item size.
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, dict] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)

    with replacing(path, contended=True) as part:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(np.ascontiguousarray(array).data)
        found = read_columns(part)
        if found is None:
            raise OSError(f"{part}: what was written is not there")
    return found


def read_columns(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]] | None:
    """Arrays, read-only, and metadata; None where there is no file, or one that is not what its header says."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        metadata = header.pop("__metadata__")
        columns = {name: _view(data, start, **entry) for name, entry in header.items()}
        end = start + sum(entry["data_offsets"][1] - entry["data_offsets"][0] for entry in header.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return (columns, metadata) if end == len(data) else None


def _stored(column: np.ndarray) -> np.ndarray:
    return column.view(np.uint8).reshape(len(column), column.itemsize) if column.dtype.kind == "S" else column


def _view(data: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    count, item = math.prod(shape), np.dtype(_DTYPES[dtype])
    if count * item.itemsize != end - begin:
        raise ValueError
    array = np.frombuffer(data, item, count, start + begin).reshape(shape)
    return array.view(f"S{shape[1]}")[:, 0] if item == np.uint8 else array
