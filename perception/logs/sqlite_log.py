"""One .db3 file of a ROS 2 bag, by the schema of rosbag2_storage_sqlite3 (all versions of it).

A file that is whole is read through SQLite. One that was cut, damaged or never closed is read page by page, so that
every row that is still there comes back. SQLite keeps no checksums: a flipped bit inside a message goes unnoticed
unless it breaks the message. Either way the messages are sorted by an index of 32 bytes a message in memory; their data
are read one at a time.
"""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from perception.logs.limits import DEFAULT, LimitError, Limits, check_limit
from perception.logs.messages import Decode, LogError, Message, Topic, merged
from perception.logs.ros_messages import as_static, decoder, decompressed_size, is_static
from perception.logs.sqlite_pages import Pages, Row, columns, serial_types

_INDEX = np.dtype([("timestamp_ns", "<i8"), ("id", "<i8"), ("topic", "<i8"), ("place", "<i8")])
_NO_LIMIT = (1 << 31) - 1
_BLOCK = 4096  # entries of the index turned into Python numbers at a time
_DATA = "SELECT data FROM messages WHERE rowid = ?"
_DAMAGED = (sqlite3.Error, ValueError)  # the latter when SQLite's own words quote damaged text
_ENCODINGS = ("ros2msg", "ros2idl", "unknown")


class SqliteReader:
    """A :class:`perception.logs.messages.Reader`: in the order of recording time and id, numbered as they come.

    Raises:
        LogError: no such file, nothing of a bag in it, or more than its limits allow.
    """

    def __init__(self, path: Path | str, limits: Limits = DEFAULT) -> None:
        self.path, self._limits = Path(path), limits
        self.stopped: str | None = None
        self._notes: list[str] = []  # on the file; those on messages are in _lost
        self._lost: dict[str, tuple[int, str, str]] = {}  # topic -> how many messages, a line on the first, the reason
        self._tables = self._open()
        self._decoders: dict[int, tuple[str, Decode]] = {}
        self.topics: dict[str, Topic] = {}
        check_limit(self.path, "topics", len(self._tables.topics), limits.topics)
        ids, counts = np.unique(self._tables.index["topic"], return_counts=True)
        counted = dict(zip(ids.tolist(), counts.tolist()))
        for topic_id, name, type_name, serialization in self._tables.topics:
            self._add_topic(topic_id, name, type_name, serialization, counted.pop(topic_id, 0))
        if counted:
            self._notes.append(f"{sum(counted.values())} messages of topics that it does not name")

    @property
    def start_ns(self) -> int | None:
        """Recording time of the first message."""
        times = self._tables.index["timestamp_ns"]
        return int(times.min()) if len(times) else None

    @property
    def damage(self) -> list[str]:
        lost = (line if count == 1 else f"{line} (and {count - 1} more)" for count, line, _ in self._lost.values())
        return [*self._notes, *lost]

    @property
    def failed(self) -> dict[str, str]:
        return {topic: reason for topic, (_, _, reason) in self._lost.items()}

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        self._lost, sequence, in_a_row = {}, 0, Counter[str]()
        budget = self._limits.budget(self.path, "bytes of messages", self._tables.file_bytes)
        wanted = {key: pair for key, pair in self._decoders.items() if topics is None or pair[0] in topics}
        index = self._tables.index
        index = index[np.isin(index["topic"], list(wanted))]
        index = index[np.lexsort((index["id"], index["timestamp_ns"]))]
        for first in range(0, len(index), _BLOCK):
            for log_time_ns, number, topic_id, place in index[first : first + _BLOCK].tolist():
                name, decode = wanted[topic_id]
                if in_a_row[name] >= self._limits.undecodable:
                    continue
                try:
                    data = self._tables.data(number, place)
                    budget.spend(max(len(data), decompressed_size(data)))
                    payloads = decode(data, log_time_ns)
                except LimitError:
                    raise
                except LogError as error:
                    line = f"{name} at {log_time_ns} ns: {error}"
                    if strict:
                        raise LogError(f"{self.path}: {line}") from None
                    count, line, reason = self._lost.get(name, (0, line, str(error)))
                    self._lost[name] = (count + 1, line, reason)
                    in_a_row[name] += 1
                    continue
                in_a_row[name] = 0
                for timestamp_ns, payload in payloads:
                    payload = as_static(payload) if is_static(name) else payload
                    yield Message(name, timestamp_ns, log_time_ns, sequence, payload)
                    sequence += 1

    def close(self) -> None:
        self._tables.close()

    def _open(self) -> _Tables:
        try:
            pages = Pages(self.path)
        except OSError as error:
            raise LogError(f"{self.path}: a ROS 2 bag was expected, found nothing to read: {error.strerror}") from None
        has_journal = any(_is_filled(self.path.with_name(self.path.name + end)) for end in ("-wal", "-journal"))
        is_whole = pages.is_sqlite and pages.declared in (None, pages.complete)
        # A file alone is opened as immutable: no locks, and no files made beside it. A journal that a crash has left
        # wants SQLite to see to it, if the folder lets it.
        modes = ["mode=ro"] * has_journal + ["immutable=1"] * is_whole
        reason = "" if pages.is_sqlite else "its header is damaged"
        for mode in modes:
            try:
                database = _Database(self.path, mode, self._limits)
                pages.close()
                if has_journal and mode == "immutable=1":
                    self._notes.append("without what its journal holds, which SQLite could not read here")
                return database
            except _DAMAGED as error:
                reason = str(error)
            except LimitError:
                pages.close()
                raise
        try:
            tables = _Salvage(self.path, pages, self._limits)
        except LimitError:
            pages.close()
            raise
        except (OSError, ValueError) as error:
            pages.close()
            raise LogError(f"{self.path}: an unchanging file was expected, found it shrinking: {error}") from None
        if not len(tables.index) and (is_whole or not pages.is_sqlite):
            pages.close()
            raise LogError(
                f"{self.path}: an SQLite database with the tables topics and messages was expected, found"
                f" {pages.file_bytes} bytes without: {reason}"
            )
        if is_whole or not pages.is_sqlite:
            self._notes.append(f"read page by page, since {reason}")
        if tables.broken:
            self._notes.append(f"{tables.broken} rows in damaged pages are left out")
        self.stopped = _where_it_stops(pages, tables)
        return tables

    def _add_topic(self, topic_id: int, name: str, type_name: str, serialization: str, count: int) -> None:
        encoding, definition = self._tables.definitions.get(type_name, ("", None))
        kind, note, decode = decoder(type_name, definition, encoding)
        if kind and serialization != "cdr":
            kind, note, decode = None, f"serialised as '{serialization[:40]}', which is not read", None
        if decode is not None:
            self._decoders[topic_id] = (name, decode)
        topic, same = Topic(name, type_name, kind, note, count), self.topics.get(name)
        self.topics[name] = topic if same is None else merged(same, topic)  # offered by several publishers


class _Tables(Protocol):
    """topics: (id, name, type, serialization format).  definitions: type -> (encoding, text).  index: [N] of _INDEX."""

    file_bytes: int
    topics: list[tuple[int, str, str, str]]
    definitions: dict[str, tuple[str, str]]
    index: np.ndarray

    def data(self, number: int, place: int) -> bytes:
        """Of one message.

        Raises:
            LogError: it is damaged.
        """
        ...

    def close(self) -> None: ...


class _Database:
    """Through SQLite, read-only and without trusting the schema: nothing in the file is executed or computed.

    Raises:
        sqlite3.Error, ValueError: not a database of a bag, or damaged.
    """

    def __init__(self, path: Path, mode: str, limits: Limits) -> None:
        self._path, self._limits, self.file_bytes = path, limits, path.stat().st_size
        self._connection = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, check_same_thread=False)
        self._connection.text_factory = lambda raw: raw.decode(errors="replace")
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        ask = self._connection.execute
        ask("PRAGMA trusted_schema = OFF")
        self._limit_values(self._limits.definition)
        tables = {name for name in ("topics", "messages", "message_definitions") if self._is_stored(name)}
        if not {"topics", "messages"} <= tables:
            found = sorted(str(name)[:40] for (name,) in ask("SELECT name FROM sqlite_master LIMIT 20"))
            raise sqlite3.DatabaseError(f"its tables are {', '.join(found) or 'none'}")
        most = self._limits.topics + 1  # one more shows that there are more
        topics = ask(f"SELECT id, name, type, serialization_format FROM topics ORDER BY id LIMIT {most}")
        self.topics = topics.fetchall()
        if any([*map(type, topic)] != [int, str, str, str] for topic in self.topics):
            raise sqlite3.DatabaseError("a row of its table topics is damaged")
        for _, name, type_name, _ in self.topics:
            self._limits.check_name(name)
            self._limits.check_name(type_name)
        self.definitions = {}
        if "message_definitions" in tables:
            rows = ask(f"SELECT topic_type, encoding, encoded_message_definition FROM message_definitions LIMIT {most}")
            self.definitions = {name: (str(encoding), str(text)) for name, encoding, text in rows}
        self._limit_values(_NO_LIMIT)  # data are not looked at yet
        # Not by the file's own index of times: one tree less that may be damaged.
        most = self._limits.messages_of(self.file_bytes)
        rows = ask(
            "SELECT timestamp, rowid, topic_id, 0 FROM messages NOT INDEXED"
            f" WHERE typeof(timestamp) = 'integer' AND typeof(topic_id) = 'integer' LIMIT {most + 1}"
        )
        self.index = np.fromiter(rows, _INDEX)
        check_limit(self._path, "messages", len(self.index), most)
        self._limit_values(self._limits.record)
        ask(_DATA, (0,))  # fails now, not once a message, if the column is not there

    def _is_stored(self, name: str) -> bool:
        """Whether a table is there as such: views, virtual tables and computed columns are queries of the file's own.

        Raises:
            sqlite3.DatabaseError: it is one of those.
        """
        found = self._connection.execute("SELECT type, sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        if found is None:
            return False
        kind, sql = found
        hidden = (column[-1] for column in self._connection.execute(f"PRAGMA table_xinfo({name})"))
        if kind != "table" or str(sql).upper().startswith("CREATE VIRTUAL") or any(hidden):
            raise sqlite3.DatabaseError(f"its table {name} is not stored but computed")
        return True

    def _limit_values(self, most: int) -> None:
        """Rows that are longer, or values that would be, are an error."""
        if sys.version_info >= (3, 11):
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, most)

    def data(self, number: int, place: int) -> bytes:
        try:
            row = self._connection.execute(_DATA, (number,)).fetchone()
        except _DAMAGED as error:
            raise LogError(f"its data were expected, found a damaged database: {error}") from None
        if row is None or type(row[0]) is not bytes:
            raise LogError("its data were expected, found none")
        return row[0]

    def close(self) -> None:
        self._connection.close()


class _Salvage:
    """Page by page. The table of a row is recognized by the types of its columns.

    cut: messages that begin before the end of the file and lie partly behind it; not in the index.
    broken: rows that could not be read.
    """

    def __init__(self, path: Path, pages: Pages, limits: Limits) -> None:
        self._pages, self._limits, self.file_bytes = pages, limits, pages.file_bytes
        self._read_bytes = 0  # of topics and definitions
        self.definitions: dict[str, tuple[str, str]] = {}
        self.cut = 0
        self._topics: dict[int, tuple[int, str, str, str]] = {}
        entries, unread, most = [], 0, limits.messages_of(pages.file_bytes)
        for row in pages.rows():
            try:
                entry = self._read(row)
            except ValueError:
                unread += 1
                continue
            if entry is not None:
                entries.append(entry)
                check_limit(path, "messages", len(entries), most)
        self.topics = [self._topics[key] for key in sorted(self._topics)]
        self.broken = pages.broken + unread
        index = np.array(entries, dtype=_INDEX)
        self.index = index[np.unique(index["id"], return_index=True)[1]]  # a tree being rebalanced holds rows twice
        self._drop_cut_messages()

    def _read(self, row: Row) -> tuple[int, int, int, int] | None:
        header = types, _ = serial_types(row.head)
        if len(types) == 4 and types[0] == 0 and types[3] >= 12 and types[3] % 2 == 0:
            _, topic_id, timestamp_ns = columns(row.head, 3, header)
            if isinstance(timestamp_ns, int) and isinstance(topic_id, int):
                return timestamp_ns, row.rowid, topic_id, row.place
        elif len(types) in (4, 5, 6) and types[0] == 0 and all(serial >= 13 and serial % 2 for serial in types[1:]):
            if self._read_bytes > self._pages.file_bytes or len(self._topics) > self._limits.topics:
                raise ValueError("rows that share their pages, or too many")
            record = self._pages.record(row.place, self._limits.definition)
            self._read_bytes += len(record or b"")
            first, second, third = map(str, columns(record)[1:4] if record else [""] * 3)
            if second in _ENCODINGS:
                self.definitions[first] = (second, third)
            elif record:
                self._topics[row.rowid] = (row.rowid, first, second, third)
        return None

    def _drop_cut_messages(self) -> None:
        """Messages are appended: before the first page from the end that has no cut ones, there are none."""
        whole = np.ones(len(self.index), dtype=bool)
        page, cut_in_page = None, True
        for at in reversed(range(len(self.index))):
            place = int(self.index["place"][at])
            if place // self._pages.page_bytes != page:
                if not cut_in_page:
                    break
                page, cut_in_page = place // self._pages.page_bytes, False
            whole[at] = not self._is_cut(place)
            cut_in_page |= not whole[at]
        self.cut = int(len(whole) - whole.sum())
        self.index = self.index[whole]

    def _is_cut(self, place: int) -> bool:
        try:
            return self._pages.record(place, self._limits.record) is None
        except ValueError:
            return False

    def data(self, number: int, place: int) -> bytes:
        try:
            record = self._pages.record(place, self._limits.record)
            data = columns(record)[3] if record else None
        except ValueError as error:
            raise LogError(f"its data were expected, found damaged pages: {error}") from None
        if not isinstance(data, bytes):
            raise LogError("its data were expected, found pages beyond the end of the file")
        return data

    def close(self) -> None:
        self._pages.close()


def _where_it_stops(pages: Pages, tables: _Salvage) -> str | None:
    """A line on a file with fewer or more pages than its header declares; None for others."""
    declared = pages.declared or pages.complete
    if pages.complete < declared or (tables.cut and pages.complete == declared):
        line = f"cut at {pages.file_bytes} of {declared * pages.page_bytes} bytes"
    elif pages.complete > declared:
        line = f"never closed; {pages.file_bytes - declared * pages.page_bytes} bytes after its last commit"
    else:
        return None
    if tables.cut:
        line += f"; {tables.cut} messages lack their ends"
    if len(tables.index):
        first, last = int(tables.index["timestamp_ns"].min()), int(tables.index["timestamp_ns"].max())
        line += f"; last message at {last / 1e9:.3f} s, {(last - first) / 1e9:.3f} s after the first"
    return line


def _is_filled(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
