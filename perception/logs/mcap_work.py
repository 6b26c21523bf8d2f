"""What one pass over an MCAP file asks for: beyond the limits of the file it is a LimitError."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from perception.logs.limits import FACTOR, Limits, check_limit

# Channel id, its publisher's sequence number, log time, publish time, data; not a class, since it is made so often.
RawMessage = tuple[int, int, int, int, memoryview]
_MESSAGE_BYTES = 400  # of a message in memory, beside its data
Record = TypeVar("Record")


class Work:
    """size: of the file in bytes."""

    def __init__(self, path: Path, size: int, limits: Limits):
        self._path, self._limits = path, limits
        self._bytes = limits.budget(path, "bytes of chunks when decompressed", size)
        self._most_records = limits.small_records + size
        self._records = self._kept = 0

    def inflate(self, size: int) -> None:
        """Count the bytes of a chunk before it is decompressed."""
        if size <= self._limits.record:  # which is refused by itself
            self._bytes.spend(size)

    def counted(self, records: Iterable[Record]) -> Iterator[Record]:
        """The records of a chunk, as they are.

        Raises:
            ValueError: too many for one chunk.
        """
        most, number = min(self._limits.chunk_records, self._most_records - self._records), 0
        try:
            for number, record in enumerate(records, 1):
                if number > most:
                    check_limit(self._path, "records for its size", self._records + number, self._most_records)
                    raise ValueError(f"it has more than {most} records; {FACTOR}")
                yield record
        finally:
            self._records += number

    def keep(self, message: RawMessage) -> RawMessage:
        """The message without the memory of its chunk, of which it may be a small part."""
        channel, sequence, log_time_ns, publish_time_ns, data = message
        self._kept += len(data) + _MESSAGE_BYTES
        return channel, sequence, log_time_ns, publish_time_ns, memoryview(bytes(data))

    def check_held(self, messages: list[RawMessage]) -> None:
        """Check what is kept, once for each quarter of the limit: counting it every time would be most of the work."""
        if self._kept > self._limits.held // 4:
            self._kept = 0
            size = sum(len(message[4]) + _MESSAGE_BYTES for message in messages)
            check_limit(self._path, "bytes of messages that overlap in time", size, self._limits.held)
