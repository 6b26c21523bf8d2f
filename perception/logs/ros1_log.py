"""ROS 1 bags (``.bag``, version 2.0), through rosbags: https://wiki.ros.org/Bags/Format/2.0."""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from perception.errors import PerceptionError, missing_extra
from perception.logs.failures import Failures
from perception.logs.limits import DEFAULT, FACTOR, Limits, check_limit
from perception.logs.messages import Decode, LogError, Message, Topic, merged
from perception.logs.ros_messages import as_static, decoder, is_static

# What the library makes of damaged bytes.
_DAMAGED = (ValueError, LookupError, AssertionError, RuntimeError, OSError, EOFError, OverflowError, struct.error)


class Ros1Reader:
    """A bag as a :class:`perception.logs.messages.Reader`: in the order of recording, numbered as they come.

    What comes after a damaged chunk is lost, and ``stopped`` says where.

    Raises:
        LogError: no such bag, or one without an index, as a crash leaves it.
        PerceptionError: rosbags is not installed.
    """

    def __init__(self, path: Path | str, limits: Limits = DEFAULT) -> None:
        try:
            from rosbags.rosbag1 import Reader, ReaderError
        except ImportError:
            raise PerceptionError(missing_extra("logs", "ROS 1 bags need an extra")) from None
        self.path = Path(path)
        self.stopped: str | None = None
        self.topics: dict[str, Topic] = {}
        self._undecodable = limits.undecodable
        self._damaged = (*_DAMAGED, ReaderError)
        self._decoders: dict[int, Decode] = {}
        self._failures: dict[str, Failures] = {}
        try:
            self._bag = Reader(self.path)
            self._bag.open()
            self._bag.chunks = {
                at: chunk._replace(decompressor=_bounded(chunk, limits.record))
                for at, chunk in self._bag.chunks.items()
            }
        except self._damaged as error:
            hint = "; rosbag reindex makes one" if "not indexed" in str(error) else ""
            reason = str(error).rstrip(".")
            raise LogError(f"{self.path}: a ROS 1 bag with an index was expected, found: {reason}{hint}") from None
        try:
            most = limits.messages_of(self.path.stat().st_size)
            check_limit(self.path, "messages", self._bag.message_count, most)
            for connection in self._bag.connections:
                self._add(connection)
        except BaseException:
            self.close()
            raise

    @property
    def start_ns(self) -> int | None:
        """Recording time of the first message."""
        return self._bag.start_time if self._bag.message_count else None

    @property
    def damage(self) -> list[str]:
        return [line for failures in self._failures.values() for line in failures.lines()]

    @property
    def failed(self) -> dict[str, str]:
        return {topic: failures.first for topic, failures in self._failures.items()}

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        wanted = [c for c in self._bag.connections if c.id in self._decoders and (topics is None or c.topic in topics)]
        for connection in wanted:
            self._failures.pop(connection.topic, None)
        sequence, log_time_ns = 0, None
        recorded = self._bag.messages(wanted) if wanted else iter(())
        while True:
            try:
                connection, log_time_ns, data = next(recorded)
            except StopIteration:
                return
            except self._damaged as error:
                after = "at its beginning" if log_time_ns is None else f"after {log_time_ns} ns"
                self.stopped = f"{after}: a whole chunk was expected, found a damaged one: {error}"
                return
            failures = self._failures.get(connection.topic)
            if failures is not None and failures.in_a_row >= self._undecodable:
                continue  # given up
            try:
                payloads = self._decoders[connection.id](data, log_time_ns)
            except LogError as error:
                line = f"{connection.topic} at {log_time_ns} ns: {error}"
                if strict:
                    raise LogError(f"{self.path}: {line}") from None
                self._failures.setdefault(connection.topic, Failures(connection.topic, str(error))).add(line)
                continue
            if failures is not None:
                failures.in_a_row = 0
            for timestamp_ns, payload in payloads:
                payload = as_static(payload) if is_static(connection.topic) else payload
                yield Message(connection.topic, timestamp_ns, log_time_ns, sequence, payload)
                sequence += 1

    def close(self) -> None:
        self._bag.close()

    def _add(self, connection) -> None:
        kind, note, decode = decoder(connection.msgtype, connection.msgdef.data, "ros1msg")
        if decode is not None:
            self._decoders[connection.id] = decode
        topic = Topic(connection.topic, connection.msgtype, kind, note, connection.msgcount)
        known = self.topics.get(topic.name)
        self.topics[topic.name] = topic if known is None else merged(known, topic)  # of several publishers


def _bounded(chunk, most: int) -> Callable[[bytes], bytes]:
    """What decompresses a chunk, up to a size."""
    import lz4.frame

    makers: dict[Callable, Callable] = {
        bz2.decompress: bz2.BZ2Decompressor,
        lz4.frame.decompress: lz4.frame.LZ4FrameDecompressor,
    }
    if chunk.decompressor not in makers:
        return chunk.decompressor

    def decompress(data: bytes) -> bytes:
        unpacker = makers[chunk.decompressor]()
        out = unpacker.decompress(data, max_length=most)
        if not unpacker.eof:
            raise ValueError(f"{len(data)} bytes that are cut, or become more than {most}; {FACTOR}")
        return out

    return decompress
