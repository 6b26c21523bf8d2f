"""Named arrays in one file, mapped into memory when it is read. Nothing is unpickled.

The format is safetensors (https://github.com/huggingface/safetensors): the length of the header, a JSON header, the
arrays one behind the other. Bytes of a fixed length, numpy's S, are stored as uint8 [N, length]. The library itself is
not used, since it copies what it reads.

The metadata hold a digest of the rest: the sum of the data as 64-bit words, which any flipped bit changes and which
takes a tenth of the time of a CRC, plus the CRC of the header.
"""

from __future__ import annotations

import json
import math
import mmap
import zlib
from pathlib import Path

import numpy as np

from perception.files import open_regular, replacing

_DTYPES = {"BOOL": "bool", "U8": "uint8", "I32": "<i4", "I64": "<i8", "F32": "<f4", "F64": "<f8"}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64


class MappedColumns(dict[str, np.ndarray]):
    """Read-only arrays by name, all of them views of one mapped file."""

    def __init__(self, path: Path, data: mmap.mmap, columns: dict[str, np.ndarray]):
        super().__init__(columns)
        self.path, self._data = path, data

    def is_cut(self) -> bool:
        """Whether the file has lost its end since it was mapped: to read what was there kills the process."""
        return self._data.size() < len(self._data)


def write_columns(
    path: Path, columns: dict[str, np.ndarray], metadata: dict[str, str]
) -> tuple[MappedColumns, dict[str, str]]:
    """Write a file whole or not at all, in place of one that is there, and return what a reader of it sees.

    Args:
        columns: arrays of booleans, int32, int64, float32 or float64, or, one-dimensional, of bytes or uint8.

    Raises:
        OSError: it cannot be written.
    """
    arrays = {name: _stored(column) for name, column in columns.items()}
    # Widest first, as the library writes them, so that every array begins at a multiple of its item size.
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    header: dict[str, dict] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in arrays.items():
        offsets = [end, end := end + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": offsets}
    blocks = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays.values()]
    header["__metadata__"]["digest"] = _digest(header, blocks)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)

    with replacing(path, contended=True) as part:
        with part.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for block in blocks:
                file.write(block.data)
        found = read_columns(part)
        if found is None:
            raise OSError(f"{part}: what was written is not there")
    return found


def read_columns(path: Path) -> tuple[MappedColumns, dict[str, str]] | None:
    """Arrays and metadata; None where there is no file, or one that is not what its header and its digest say."""
    try:
        with open_regular(path) as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        metadata = header["__metadata__"]
        digest = metadata.pop("digest")
        offsets = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        whole = np.frombuffer(data, np.uint8)
        blocks = [whole[start + begin : start + end] for begin, end in offsets]
        if digest != _digest(header, blocks) or start + sum(map(len, blocks)) != len(data):
            return None
        data.madvise(mmap.MADV_DONTNEED)  # this process needs a small part of it, the page cache keeps the rest
        del header["__metadata__"]
        columns = {name: _view(data, start, **entry) for name, entry in header.items()}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None
    return MappedColumns(path, data, columns), metadata


def _digest(header: dict, blocks: list[np.ndarray]) -> str:
    """Of a header without a digest and the bytes of its arrays."""
    total = zlib.crc32(json.dumps(header).encode())
    for block in blocks:
        words = block[: len(block) // 8 * 8]
        total += int(words.view("<u8").sum()) + int.from_bytes(block[len(words) :].tobytes(), "little")
    return f"{total % 2**64:016x}"


def _stored(column: np.ndarray) -> np.ndarray:
    return column.view(np.uint8).reshape(len(column), column.itemsize) if column.dtype.kind == "S" else column


def _view(data: mmap.mmap, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    count, item = math.prod(shape), np.dtype(_DTYPES[dtype])
    if count * item.itemsize != end - begin:
        raise ValueError
    array = np.frombuffer(data, item, count, start + begin).reshape(shape)
    return array.view(f"S{shape[1]}")[:, 0] if item == np.uint8 and len(shape) == 2 else array
