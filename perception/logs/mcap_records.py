"""The records of MCAP files that hold messages, or say where they are (https://mcap.dev/spec).

Nothing here opens files. Single records are parsed by the mcap library, from bytes whose number is known. A record that
is not as the specification says is a ValueError that says why, in a few words.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Protocol, TypeVar

from perception.errors import PerceptionError, missing_extra
from perception.logs.limits import FACTOR

try:
    import lz4.frame
    import zstandard
    from mcap.data_stream import ReadDataStream
    from mcap.exceptions import McapError
    from mcap.opcode import Opcode
    from mcap.records import Channel, Chunk, ChunkIndex, Footer, Schema, Statistics  # noqa: F401 for mcap_file.py
except ImportError:
    raise PerceptionError(missing_extra("logs", "MCAP logs need the mcap package")) from None
try:
    from isal.isal_zlib import crc32  # ten times as fast, where a checksum is most of the time that reading takes
except ImportError:
    from zlib import crc32

MAGIC = b"\x89MCAP0\r\n"
MESSAGE = int(Opcode.MESSAGE)  # compared for every message, where an enum is slow
RECORD = struct.Struct("<BQ")  # opcode, length of what follows
MESSAGE_HEAD = struct.Struct("<HIQQ")  # channel id, sequence, log time, publish time; the rest is its data

T = TypeVar("T", covariant=True)


class _Readable(Protocol[T]):
    def read(self, stream: ReadDataStream) -> T: ...


def parse(kind: _Readable[T], data: bytes | memoryview) -> T:
    """A record of one of the classes of ``mcap.records``, from its content, without opcode and length."""
    try:
        return kind.read(ReadDataStream(BytesIO(data)))
    except (struct.error, McapError, ValueError, OverflowError) as error:
        reason = str(error) or "it is too short for its fields"
        raise ValueError(f"a record of {len(data)} bytes cannot be parsed: {reason}") from None


def records(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Opcode and content, data[begin:end], of consecutive records."""
    end, whole = 0, len(data)
    while end < whole:
        begin = end + RECORD.size
        if begin > whole:
            raise ValueError("the last record is cut")
        opcode, length = RECORD.unpack_from(data, end)
        end = begin + length
        if end > whole or opcode == 0 or (opcode == MESSAGE and length < MESSAGE_HEAD.size):
            raise ValueError(f"a record of type {opcode} cannot have {length} bytes")
        yield opcode, begin, end


def unpack(chunk: Chunk, largest: int) -> memoryview:
    """The records of a chunk, decompressed and checked.

    Raises:
        ValueError: they do not match the chunk. Allocates at most the declared size, and at most ``largest``.
    """
    size = chunk.uncompressed_size
    if size > largest:
        raise ValueError(f"{size} bytes when decompressed, more than the {largest} allowed; {FACTOR}")
    if chunk.compression not in _DECOMPRESS:
        raise ValueError(f"compression {chunk.compression[:20]!r} is not known")
    records = _DECOMPRESS[chunk.compression](chunk.data, size)
    if len(records) != size:
        raise ValueError(f"{size} bytes when decompressed were expected, found {len(records)}")
    if chunk.uncompressed_crc and crc32(records) != chunk.uncompressed_crc:
        raise ValueError("the checksum is wrong")
    return memoryview(records)


def _zstd(stored: bytes, size: int) -> bytes:
    try:
        declared = zstandard.frame_content_size(stored)  # -1: the frame does not say
        if declared not in (-1, size):  # the library would allocate it
            raise ValueError(f"{size} bytes when decompressed were expected, the zstd frame says {declared}")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size) if size else b""
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"zstd: {error}") from None


def _lz4(stored: bytes, size: int) -> bytes:
    try:
        # One byte more than declared shows that there is more.
        context = lz4.frame.create_decompression_context()
        records, _, complete = lz4.frame.decompress_chunk(context, stored, max_length=size + 1)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"lz4: {error}") from None
    if len(records) > size:
        raise ValueError(f"{size} bytes when decompressed were expected, found more")
    if not complete:
        raise ValueError("lz4: the frame is not complete")
    return records


_DECOMPRESS: dict[str, Callable[[bytes, int], bytes]] = {"": lambda stored, _: stored, "zstd": _zstd, "lz4": _lz4}
