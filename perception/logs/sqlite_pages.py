"""The rows of an SQLite file without SQLite: what is left of one that was cut, or damaged, or never closed.

SQLite reaches rows through trees of pages, and gives up where a tree is broken. Here every page of the file is looked
at for itself: those that hold rows of tables say so (b-tree flag 13), and a row that did not fit names the first of the
pages that hold its rest. File format: https://www.sqlite.org/fileformat2.html, whose terms are used below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAGIC = b"SQLite format 3\0"
_HEADER = 100  # bytes of page 1 before its b-tree header
_LEAF = 13
_BLOCK = 256  # pages read at a time
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}  # serial type -> bytes
_CONSTANTS = {0: None, 8: 0, 9: 1}
_MOST_COLUMNS = 100


@dataclass(frozen=True, slots=True)
class Row:
    """place: offset of its cell in the file.  head: that part of its record that is in its own page."""

    rowid: int
    place: int
    head: bytes


class Pages:
    """The complete pages of a file.

    declared: pages that the file should have by its header, None where it does not say.  complete: that it has.
    broken: places of cells that could not be read, counted by :meth:`rows`.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        header = self._file.read(_HEADER).ljust(_HEADER, b"\0")
        self.file_bytes = self._file.seek(0, 2)
        self.is_sqlite = header.startswith(MAGIC)
        (page_bytes,) = struct.unpack_from(">H", header, 16)
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        is_sane = self.is_sqlite and page_bytes >= 512 and page_bytes & (page_bytes - 1) == 0
        self.page_bytes = page_bytes if is_sane else 4096  # the default
        reserved = header[20] if is_sane and page_bytes - header[20] >= 480 else 0
        self._usable = self.page_bytes - reserved
        changes, declared, changes_when_declared = (struct.unpack_from(">I", header, at)[0] for at in (24, 28, 92))
        self.declared = declared if is_sane and declared and changes == changes_when_declared else None
        self.complete = self.file_bytes // self.page_bytes
        self.broken = 0

    def rows(self) -> Iterator[Row]:
        """Of all tables, in the order of the file."""
        self.broken = 0
        for first in range(1, self.complete + 1, _BLOCK):
            block = self._read(first, min(_BLOCK, self.complete + 1 - first))
            flags = np.frombuffer(block, np.uint8)[:: self.page_bytes].copy()
            if first == 1:
                flags[0] = block[_HEADER]
            for index in np.flatnonzero(flags == _LEAF):
                page = block[index * self.page_bytes : (index + 1) * self.page_bytes]
                yield from self._cells(first + int(index), page)

    def record(self, place: int, most: int) -> bytes | None:
        """The whole record of a row that :meth:`rows` found; None where part of it lies beyond the end of the file.

        Raises:
            ValueError: its chain of pages is broken, or it has more than ``most`` bytes.
        """
        number, start = divmod(place, self.page_bytes)
        page = self._read(number + 1)
        size, _, start, local = self._cell(page, start)
        if size > self.file_bytes:
            return None
        if size > most:
            raise ValueError(f"up to {most} bytes were expected, found {size}")
        parts, rest = [page[start : start + local]], size - local
        follower = page[start + local : start + local + 4]
        while rest:  # ends: every page takes away some of it
            (number,) = struct.unpack(">I", follower)
            if number > self.complete:
                return None
            if number < 2:
                raise ValueError(f"{rest} more bytes in further pages were expected, found none")
            page = self._read(number)
            follower, part = page[:4], page[4 : 4 + min(rest, self._usable - 4)]
            parts.append(part)
            rest -= len(part)
        if len(parts) > 1 and any(follower):
            raise ValueError("the last of its pages was expected, found a further one")
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()

    def _read(self, first: int, count: int = 1) -> bytes:
        self._file.seek((first - 1) * self.page_bytes)
        data = self._file.read(count * self.page_bytes)
        if len(data) < count * self.page_bytes:
            raise ValueError(f"page {first} was expected, found the end of the file")  # it shrinks while it is read
        return data

    def _cells(self, number: int, page: bytes) -> Iterator[Row]:
        header = _HEADER if number == 1 else 0
        (count,) = struct.unpack_from(">H", page, header + 3)
        if header + 8 + 2 * count > self._usable:
            self.broken += 1
            return
        used = 0
        for at in struct.unpack_from(f">{count}H", page, header + 8):
            try:
                _, rowid, start, local = self._cell(page, at)
            except ValueError:
                self.broken += 1
                continue
            used += local
            if used > self._usable:  # cells that overlap, which would be more rows than the page can hold
                self.broken += 1
                return
            yield Row(rowid, (number - 1) * self.page_bytes + at, page[start : start + local])

    def _cell(self, page: bytes, at: int) -> tuple[int, int, int, int]:
        """Bytes of the record, rowid, where in the page the record starts, and bytes of it that are here."""
        size, at = _varint(page, at)
        rowid, at = _varint(page, at)
        rowid -= (rowid >> 63) << 64
        usable = self._usable
        local = size
        if size > usable - 35:
            least = (usable - 12) * 32 // 255 - 23
            local = least + (size - least) % (usable - 4)
            local = local if local <= usable - 35 else least
        if at + local + 4 * (local < size) > usable:
            raise ValueError("a cell reaches beyond its page")
        return size, rowid, at, local


def serial_types(record: bytes) -> tuple[list[int], int]:
    """The serial types of a record's columns, and where the first column begins.

    Raises:
        ValueError: no header of a record.
    """
    end, at = _varint(record, 0)
    types: list[int] = []
    while at < end:
        if len(types) == _MOST_COLUMNS:
            raise ValueError("a header of more columns than a table has")
        serial, at = _varint(record, at)
        types.append(serial)
    if at != end:
        raise ValueError("a header that ends within a serial type")
    return types, end


def columns(
    record: bytes, count: int | None = None, header: tuple[list[int], int] | None = None
) -> list[int | float | str | bytes | None]:
    """The first ``count`` values of a record, all by default.

    header: its :func:`serial_types`, if they are known.

    Raises:
        ValueError: damaged, or shorter than its header says.
    """
    types, at = header or serial_types(record)
    values: list[int | float | str | bytes | None] = []
    for serial in types[:count]:
        if serial in _CONSTANTS:
            values.append(_CONSTANTS[serial])
            continue
        size = (serial - 12) // 2 if serial >= 12 else 8 if serial == 7 else _INTEGER_BYTES.get(serial)
        if size is None or at + size > len(record):
            raise ValueError("a column reaches beyond its record")
        raw = record[at : at + size]
        at += size
        if serial >= 12:
            values.append(raw.decode(errors="replace") if serial % 2 else raw)
        else:
            values.append(struct.unpack(">d", raw)[0] if serial == 7 else int.from_bytes(raw, "big", signed=True))
    return values


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Up to nine bytes, of which the ninth gives all its bits; and where it ends."""
    if 0 <= at < len(data) and data[at] < 0x80:  # most are of one byte
        return data[at], at + 1
    value = 0
    for index in range(9):
        if not 0 <= at < len(data):
            raise ValueError("a number reaches beyond its page")
        byte = data[at]
        at += 1
        if index == 8:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at
