"""MCAP files, the low level: where the messages are, and the messages as stored (https://mcap.dev/spec).

The ``mcap`` library parses the records, but where a record is and how long it is is read here: its stream reader takes
the lengths inside of a record for granted, so that one wrong bit in the index behind a chunk costs all that follows it
in the file, and its bounds on memory are for whole records, not for what a chunk decompresses to.

A file is seen as a list of segments, which are chunks, or runs of messages outside of chunks. The summary at the end of
the file names the chunks; what it does not name is found by going from record to record. In a file that was cut, or has
no summary that can be relied on, that is everything: opening it reads every chunk once. Reading is the same afterwards.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import BinaryIO

from perception.logs.limits import DEFAULT, FACTOR, Limits, check_limit
from perception.logs.mcap_records import (
    MAGIC,
    MESSAGE,
    MESSAGE_HEAD,
    RECORD,
    Channel,
    Chunk,
    ChunkIndex,
    Footer,
    Opcode,
    Schema,
    Statistics,
    crc32,
    parse,
    records,
    unpack,
)
from perception.logs.mcap_work import RawMessage, Work
from perception.logs.messages import LogError

_FOOTER_SIZE = 20
_RUN = 1 << 20  # bytes of messages outside of chunks that make one segment

_LOG_TIME = itemgetter(2)
_LATEST = 1 << 64


@dataclass(slots=True)
class _Segment:
    """Bytes [begin, end) of the file: the record of one chunk, or the records of messages. Times are of recording.

    channels: ids of those with messages in it, None if not known.
    """

    begin: int
    end: int
    start_ns: int
    end_ns: int
    channels: set[int] | None
    chunk: bool


class McapFile:
    """The messages of one file in the order of their log time, which is when they were recorded.

    channels, schemas: by id, known after opening.  counts: channel id -> messages, known after opening.
    start_ns, end_ns: first and last recording time, None without messages.
    limits: what it may ask for.
    stopped: None, or one line on where and why the file ends before its proper end; what is whole before that is read.
    damage: lines on what was left out, such as chunks with a wrong checksum; reading may add to them.

    Raises:
        LogError: it cannot be opened, is not an MCAP file, or goes beyond its limits.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT):
        self.path, self.limits = Path(path), limits
        self.schemas: dict[int, Schema] = {}
        self.channels: dict[int, Channel] = {}
        self.counts: dict[int, int] = Counter()
        self.start_ns: int | None = None
        self.end_ns: int | None = None
        self.stopped: str | None = None
        self._damage: dict[object, str] = {}
        self._segments: list[_Segment] = []
        self._loose = 0  # messages outside of chunks
        try:
            if self.path.exists() and not self.path.is_file():  # which might never end, or never begin
                raise LogError(f"{self.path}: an MCAP file was expected, found a folder, device or pipe")
            with self.path.open("rb") as file:
                self.size = file.seek(0, 2)
                file.seek(0)
                magic = file.read(len(MAGIC))
                if magic != MAGIC:
                    found = repr(magic) if magic else "an empty file"
                    raise LogError(f"{self.path}: an MCAP file was expected, found {found}")
                self._survey(file)
        except OSError as error:
            raise LogError(f"{self.path}: an MCAP file was expected: {error.strerror}") from None

    @property
    def damage(self) -> list[str]:
        return list(self._damage.values())

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RawMessage]:
        """Those of ``topics``, or all, by log time. Their data are views, which keep the memory of their chunk.

        What is taken out of ``topics`` meanwhile is not read any more.

        Raises:
            LogError: the file cannot be read any more, or goes beyond its limits.
        """
        wanted, work = _Wanted(self, topics), Work(self.path, self.size, self.limits)
        held: list[RawMessage] = []  # of segments that overlap with the next one
        try:
            with self.path.open("rb") as file:
                for segment, following in zip(self._segments, [*self._segments[1:], None]):
                    next_ns = following.start_ns if following else _LATEST
                    wanted.update_topics()
                    if segment.channels is None or any(wanted[channel] for channel in segment.channels):
                        for message in self._messages_in(file, segment, work):
                            if wanted[message[0]]:
                                held.append(message if message[2] < next_ns else work.keep(message))
                    held.sort(key=_LOG_TIME)
                    ready = bisect_left(held, next_ns, key=_LOG_TIME)
                    yield from held[:ready]
                    del held[:ready]
                    work.check_held(held)
        except OSError as error:
            raise LogError(f"{self.path}: reading it failed: {error.strerror}") from None

    def _survey(self, file: BinaryIO) -> None:
        """Find the segments, channels, schemas and counts."""
        footer = self._footer(file)
        try:
            found = footer and self._summary(file, footer)
        except ValueError as error:
            found = None
            self._note(f"the summary cannot be relied on and is not used: {error}")
        if not (found and self._survey_by_index(file, *found)):
            self._survey_by_records(file, finished=footer is not None)
        self._segments.sort(key=lambda segment: (segment.start_ns, segment.begin))

    def _survey_by_index(self, file: BinaryIO, indexes: list[ChunkIndex], statistics: Statistics, end: int) -> bool:
        """Whether the summary is complete: some writers leave channels or chunks out of it."""
        if not indexes:
            return False
        position, named = len(MAGIC), set[int]()
        for index in indexes:
            begin, stop, after = _bytes_of(index)
            channels = set(index.message_index_offsets)
            self._walk_gap(file, position, begin)
            times = index.message_start_time, index.message_end_time
            self._segments.append(_Segment(begin, stop, *times, channels or None, chunk=True))
            position = after
            named |= channels
        self._walk_gap(file, position, end)
        if len(self.channels) < statistics.channel_count or not named <= self.channels.keys():
            return False
        self.counts = statistics.channel_message_counts
        if any(self.counts.values()):
            self.start_ns, self.end_ns = statistics.message_start_time, statistics.message_end_time
        return True

    def _survey_by_records(self, file: BinaryIO, finished: bool) -> None:
        self._segments, self.counts, self._loose = [], Counter(), 0
        cut = self._walk(file, len(MAGIC), self.size)
        if self._segments:
            self.start_ns = min(segment.start_ns for segment in self._segments)
            self.end_ns = max(segment.end_ns for segment in self._segments)
        if cut is None and not finished:
            cut = self.size, "all messages are there, but no summary and footer after them"
        if cut:
            seconds = ""
            if self.start_ns is not None and self.end_ns is not None:
                seconds = f", {(self.end_ns - self.start_ns) / 1e9:.1f} s into the log"
            self.stopped = f"at byte {cut[0]} of {self.size}{seconds}: {cut[1]}"

    def _walk_gap(self, file: BinaryIO, begin: int, end: int) -> None:
        cut = self._walk(file, begin, end)
        if cut and cut[0] < end:
            self._note(f"bytes {cut[0]} to {end}, outside of chunks, are left out: {cut[1]}")

    def _walk(self, file: BinaryIO, begin: int, end: int) -> tuple[int, str] | None:
        """Go from record to record and add segments. Returns None at the end of the data, else where it stops and why.

        The walk relies on the lengths of the records; their contents are checked where they are read.
        """
        position, run, run_channels = begin, None, set[int]()
        work, unknown = Work(self.path, self.size, self.limits), 0
        most = self.limits.messages_of(self.size)
        while position < end:
            file.seek(position)
            head = file.read(RECORD.size + MESSAGE_HEAD.size)
            body = position + RECORD.size
            if body > end or len(head) < min(RECORD.size + MESSAGE_HEAD.size, end - position):
                return position, "the last record is cut"
            opcode, length = RECORD.unpack_from(head)
            after = body + length
            if opcode == 0:
                return position, "zeros, where a record was expected"
            if after > end:
                what = {Opcode.CHUNK: "a chunk", MESSAGE: "a message"}.get(opcode, f"of type {opcode}")
                return position, f"the last record, {what}, is cut: {end - body} bytes of {length} are there"
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                return None
            if opcode == Opcode.CHUNK:
                start_ns, end_ns = (
                    int.from_bytes(head[at : at + 8], "little") for at in (RECORD.size, RECORD.size + 8)
                )
                self._add_chunk(file, _Segment(position, after, start_ns, end_ns, None, chunk=True), work)
            elif opcode == MESSAGE and MESSAGE_HEAD.size <= length <= self.limits.record:
                channel, _, log_time_ns, _ = MESSAGE_HEAD.unpack_from(head, RECORD.size)
                if run is None or run.end != position or run.end - run.begin > _RUN:
                    run_channels = set()
                    run = _Segment(position, after, log_time_ns, log_time_ns, run_channels, chunk=False)
                    self._segments.append(run)
                run.end = after
                run.start_ns, run.end_ns = min(run.start_ns, log_time_ns), max(run.end_ns, log_time_ns)
                run_channels.add(channel)
                self.counts[channel] += 1
                self._loose += 1
                if self._loose > most:
                    check_limit(self.path, "messages outside of chunks", self._loose, most)
            elif opcode == MESSAGE:
                self._note(f"the message at byte {position} is left out: it has {length} bytes")
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL) and length <= self.limits.record:
                file.seek(body)
                self._define(opcode, file.read(length))
            elif opcode > Opcode.DATA_END:
                unknown += 1
                if unknown > self.limits.small_records:
                    return position, f"more than {self.limits.small_records} records of unknown types; {FACTOR}"
            position = after
        return position, "the recording was not finished"

    def _add_chunk(self, file: BinaryIO, segment: _Segment, work: Work) -> None:
        counts, first, last = Counter[int](), _LATEST, 0
        for channel, _, log_time_ns, _, _ in self._messages_in(file, segment, work):
            counts[channel] += 1
            first, last = min(first, log_time_ns), max(last, log_time_ns)
        if counts:
            segment.start_ns, segment.end_ns, segment.channels = first, last, set(counts)
            self._segments.append(segment)
            self.counts.update(counts)

    def _messages_in(self, file: BinaryIO, segment: _Segment, work: Work) -> Iterator[RawMessage]:
        """Channels and schemas on the way are kept; what cannot be read is added to ``damage``."""
        left_out = "it"
        try:
            data = self._load(file, segment, work)
            left_out = "the rest of it"
            for opcode, begin, end in work.counted(records(data)):
                if opcode == MESSAGE:
                    yield *MESSAGE_HEAD.unpack_from(data, begin), data[begin + MESSAGE_HEAD.size : end]
                elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                    self._define(opcode, data[begin:end])
        except ValueError as error:
            where = f"{'chunk' if segment.chunk else 'messages'} at byte {segment.begin}"
            span = f"{segment.start_ns / 1e9:.3f} s to {segment.end_ns / 1e9:.3f} s"
            where += f", {segment.end - segment.begin} bytes, {span}"
            self._note(f"{where}: {error}; {left_out} is left out", about=segment.begin)

    def _load(self, file: BinaryIO, segment: _Segment, work: Work) -> memoryview:
        """The records in a segment."""
        size = segment.end - segment.begin
        if size > self.limits.record + 2 * _RUN:
            raise ValueError(f"it is larger than the {self.limits.record} bytes allowed; {FACTOR}")
        file.seek(segment.begin)
        head = file.read(RECORD.size) if segment.chunk else b""
        body = file.read(size - len(head))
        if len(head) + len(body) < size:
            raise ValueError("the file has become shorter")
        if not segment.chunk:
            return memoryview(body)
        if RECORD.unpack(head) != (Opcode.CHUNK, len(body)):
            raise ValueError("no chunk is there, though the summary says so")
        chunk = parse(Chunk, body)
        work.inflate(chunk.uncompressed_size)
        return unpack(chunk, self.limits.record)

    def _define(self, opcode: int, data: bytes | memoryview) -> None:
        """Keep a schema or a channel; of repeated definitions, which must be equal, the first."""
        try:
            self.limits.check_definition(len(data))
            if opcode == Opcode.SCHEMA:
                schema = parse(Schema, data)
                self.limits.check_name(schema.name)
                self.schemas.setdefault(schema.id, schema)
            else:
                channel = parse(Channel, data)
                self.limits.check_name(channel.topic)
                self.channels.setdefault(channel.id, channel)
        except ValueError as error:
            self._note(f"the definition of a {Opcode(opcode).name.lower()} is left out: {error}")

        check_limit(self.path, "topics and types", max(len(self.channels), len(self.schemas)), self.limits.topics)

    def _note(self, line: str, about: object = None) -> None:
        """Keep a line of damage, once for each subject: reading twice finds it twice."""
        self._damage.setdefault(about or line, line)

    def _footer(self, file: BinaryIO) -> bytes | None:
        """The record of the footer; None where there is none."""
        begin = self.size - RECORD.size - _FOOTER_SIZE - len(MAGIC)
        if begin < len(MAGIC):
            return None
        file.seek(begin)
        record = file.read(RECORD.size + _FOOTER_SIZE)
        is_footer = file.read() == MAGIC and RECORD.unpack_from(record) == (Opcode.FOOTER, _FOOTER_SIZE)
        return record if is_footer else None

    def _summary(self, file: BinaryIO, footer_record: bytes) -> tuple[list[ChunkIndex], Statistics, int] | None:
        """Chunks in file order, statistics, and the end of the data section; None where there is no summary of them.

        Raises:
            ValueError: a summary that contradicts itself or the file.
        """
        footer = parse(Footer, footer_record[RECORD.size :])
        begin, end = footer.summary_start, self.size - len(MAGIC) - len(footer_record)
        if begin == 0:
            return None
        if not len(MAGIC) <= begin <= end or end - begin > self.limits.record:
            raise ValueError(f"byte {begin} is not where it can begin")
        file.seek(begin)
        data = memoryview(file.read(end - begin))
        if footer.summary_crc and footer.summary_crc != crc32(footer_record[:-4], crc32(data)):
            raise ValueError("its checksum is wrong")
        definitions, indexes, statistics = [], [], None
        for opcode, start, stop in records(data):
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                definitions.append((opcode, data[start:stop]))
            elif opcode == Opcode.CHUNK_INDEX:
                indexes.append(parse(ChunkIndex, data[start:stop]))
            elif opcode == Opcode.STATISTICS:
                statistics = parse(Statistics, data[start:stop])
        indexes.sort(key=lambda index: index.chunk_start_offset)
        bounds = [len(MAGIC), *(bound for index in indexes for bound in _bytes_of(index)), begin]
        if bounds != sorted(bounds):
            raise ValueError("it names chunks where none can be")
        for definition in definitions:
            self._define(*definition)
        return None if statistics is None else (indexes, statistics, begin)


def _bytes_of(index: ChunkIndex) -> tuple[int, int, int]:
    """Where the record of a chunk begins, where it ends, and where the message indexes behind it end."""
    end = index.chunk_start_offset + index.chunk_length
    return index.chunk_start_offset, end, end + index.message_index_length


class _Wanted(dict[int, bool]):
    """Channel id -> whether its messages are wanted, determined on first use."""

    def __init__(self, file: McapFile, topics: Collection[str] | None):
        super().__init__()
        self._file, self._topics = file, topics
        self._known = -1

    def update_topics(self) -> None:
        if self._topics is not None and len(self._topics) != self._known:
            self._known = len(self._topics)
            self.clear()

    def __missing__(self, channel_id: int) -> bool:
        channel = self._file.channels.get(channel_id)
        if channel is None:
            self._file._note(f"messages of channel {channel_id} are left out: nothing says what it is")
        self[channel_id] = channel is not None and (self._topics is None or channel.topic in self._topics)
        return self[channel_id]
