"""The records of MCAP files that hold messages, or say where they are (https://mcap.dev/spec).

Nothing here opens files. What is not as the specification says is a ValueError that says why, in a few words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct
from typing import NamedTuple

from perception.errors import PerceptionError, missing_extra

try:
    from isal.isal_zlib import crc32  # ten times as fast, where a checksum is most of the time that reading takes
except ImportError:
    from zlib import crc32

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, CHUNK_INDEX, STATISTICS, DATA_END = 2, 3, 4, 5, 6, 8, 11, 15
RECORD = Struct("<BQ")  # opcode, length of what follows
MESSAGE_HEAD = Struct("<HIQQ")  # channel id, sequence, log time, publish time; the rest is its data

# What one chunk or one message may take, before and after decompression. Writers make chunks of about a megabyte.
LARGEST = 256 << 20


class Schema(NamedTuple):
    name: str
    encoding: str
    data: bytes


class Channel(NamedTuple):
    """schema_id: 0 where messages have no schema."""

    topic: str
    message_encoding: str
    schema_id: int
    metadata: dict[str, str]


class ChunkIndex(NamedTuple):
    """One chunk as the summary has it: its record in bytes [begin, end), its message indexes in [end, after).

    channels: ids of those that have messages in it, None where the file does not say.
    """

    start_ns: int
    end_ns: int
    begin: int
    end: int
    after: int
    channels: frozenset[int] | None


class Statistics(NamedTuple):
    """message_counts: channel id -> number of messages."""

    channels: int
    start_ns: int
    end_ns: int
    message_counts: dict[int, int]


class Fields:
    """The fields of a record, one after the other."""

    def __init__(self, data: bytes | memoryview):
        self._data, self._position = memoryview(data), 0

    def number(self, size: int) -> int:
        """Little-endian, unsigned, of ``size`` bytes."""
        return int.from_bytes(self.take(size), "little")

    def numbers(self, *sizes: int) -> list[int]:
        return [self.number(size) for size in sizes]

    def take(self, size: int) -> memoryview:
        begin, self._position = self._position, self._position + size
        if self._position > len(self._data):
            raise ValueError(f"a record of {len(self._data)} bytes is too short for its fields")
        return self._data[begin : self._position]

    def blob(self) -> memoryview:
        return self.take(self.number(4))

    def text(self) -> str:
        return str(self.blob(), "utf-8", "replace")

    def pairs(self, key: Callable[[Fields], object], value: Callable[[Fields], object]) -> dict:
        inner, found = Fields(self.blob()), {}
        while inner._position < len(inner._data):
            name = key(inner)
            found[name] = value(inner)
        return found


def read_schema(fields: Fields) -> tuple[int, Schema]:
    return fields.number(2), Schema(fields.text(), fields.text(), bytes(fields.blob()))


def read_channel(fields: Fields) -> tuple[int, Channel]:
    channel_id, schema_id = fields.numbers(2, 2)
    return channel_id, Channel(fields.text(), fields.text(), schema_id, fields.pairs(Fields.text, Fields.text))


def read_chunk_index(fields: Fields) -> ChunkIndex:
    start_ns, end_ns, begin, length = fields.numbers(8, 8, 8, 8)
    offsets = fields.pairs(lambda inner: inner.number(2), lambda inner: inner.number(8))
    end = begin + length
    return ChunkIndex(start_ns, end_ns, begin, end, end + fields.number(8), frozenset(offsets) or None)


def read_statistics(fields: Fields) -> Statistics:
    _messages, _schemas, channels, _attachments, _metadata, _chunks, start_ns, end_ns = fields.numbers(
        8, 2, 4, 4, 4, 4, 8, 8
    )
    counts = fields.pairs(lambda inner: inner.number(2), lambda inner: inner.number(8))
    return Statistics(channels, start_ns, end_ns, counts)


def records(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Opcode, and what follows in data[begin:end], of records one behind the other."""
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


class ChunkHead(NamedTuple):
    """start_ns, end_ns: not covered by the checksum."""

    start_ns: int
    end_ns: int
    size: int
    checksum: int
    compression: str


def read_chunk(fields: Fields) -> tuple[ChunkHead, memoryview]:
    """Its head, and its records as they are stored."""
    head = ChunkHead(*fields.numbers(8, 8, 8, 4), fields.text())
    return head, fields.take(fields.number(8))


def unpack(head: ChunkHead, stored: memoryview) -> memoryview:
    """The records of a chunk, decompressed and checked.

    Raises:
        ValueError: they are not what the head says. Memory is taken for what it says at most, and for LARGEST.
        PerceptionError: the library for this compression is not installed.
    """
    if head.size > LARGEST:
        raise ValueError(f"{head.size} bytes when decompressed, more than the {LARGEST} allowed")
    if head.compression not in _DECOMPRESS:
        raise ValueError(f"compression {head.compression[:20]!r} is not known")
    records = _DECOMPRESS[head.compression](stored, head.size)
    if len(records) != head.size:
        raise ValueError(f"{head.size} bytes when decompressed were expected, found {len(records)}")
    if head.checksum and crc32(records) != head.checksum:
        raise ValueError("the checksum is wrong")
    return memoryview(records)


def _zstd(stored: memoryview, size: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise PerceptionError(missing_extra("logs", "zstd chunks need zstandard")) from None

    try:
        declared = zstandard.frame_content_size(stored)  # -1: the frame does not say
        if declared not in (-1, size):  # the library would allocate it
            raise ValueError(f"{size} bytes when decompressed were expected, the zstd frame says {declared}")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size) if size else b""
    except (zstandard.ZstdError, MemoryError) as error:
        raise ValueError(f"zstd: {error}") from None


def _lz4(stored: memoryview, size: int) -> bytes:
    try:
        from lz4.frame import create_decompression_context, decompress_chunk
    except ImportError:
        raise PerceptionError(missing_extra("logs", "lz4 chunks need lz4")) from None

    try:
        # One byte more than declared shows that there is more.
        records, _, complete = decompress_chunk(create_decompression_context(), stored, max_length=size + 1)
    except (RuntimeError, MemoryError) as error:
        raise ValueError(f"lz4: {error}") from None
    if len(records) > size:
        raise ValueError(f"{size} bytes when decompressed were expected, found more")
    if not complete:
        raise ValueError("lz4: the frame is not complete")
    return records


_DECOMPRESS: dict[str, Callable[[memoryview, int], bytes | memoryview]] = {
    "": lambda stored, _: stored,
    "zstd": _zstd,
    "lz4": _lz4,
}
