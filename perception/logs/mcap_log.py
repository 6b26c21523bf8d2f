"""MCAP files as recordings: every channel gets the decoder that its encoding and its schema ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from perception.logs.failures import Failures
from perception.logs.limits import DEFAULT, Limits
from perception.logs.mcap_file import McapFile
from perception.logs.mcap_records import Channel, Schema
from perception.logs.messages import Decode, LogError, Message, Topic, merged
from perception.logs.ros_messages import as_static, decompressed_size, is_static

_ROS_SCHEMAS = {"cdr": ("ros2msg", "ros2idl", "omgidl", ""), "ros1": ("ros1msg", "")}
_BY_NAME = ("omgidl", "")  # schemas that are not read; types are known by their names alone


class McapReader:
    """One MCAP file as a :class:`perception.logs.messages.Reader`, read in the order of recording.

    Messages are numbered as they come. What is decoded: protobuf messages of Foxglove's schemas, and those of ROS 2.

    Raises:
        LogError: it cannot be opened, or is not an MCAP file.
        PerceptionError: a package that its messages need is not installed.
    """

    def __init__(self, path: str | Path, limits: Limits = DEFAULT):
        self._file = McapFile(path, limits)
        self.path = self._file.path
        self.topics: dict[str, Topic] = {}
        self._decoders: dict[int, tuple[str, Decode]] = {}
        self._failures: dict[str, Failures] = {}
        for channel_id, channel in sorted(self._file.channels.items()):
            self._add(channel_id, channel)

    @property
    def start_ns(self) -> int | None:
        return self._file.start_ns

    @property
    def stopped(self) -> str | None:
        return self._file.stopped

    @property
    def damage(self) -> list[str]:
        return [*self._file.damage, *(line for failures in self._failures.values() for line in failures.lines())]

    @property
    def failed(self) -> dict[str, str]:
        return {topic: failures.first for topic, failures in self._failures.items()}

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        wanted = {topic for topic, _ in self._decoders.values() if topics is None or topic in topics}
        self._failures.clear()
        sequence = 0
        budget = self._file.limits.budget(self.path, "bytes of messages when decompressed", self._file.size)
        for channel_id, _, log_time_ns, _, data in self._file.messages(wanted):
            if channel_id not in self._decoders:
                continue  # another channel of this topic can be decoded
            topic, decode = self._decoders[channel_id]
            if topic not in wanted:
                continue  # given up, and in this segment still
            budget.spend(decompressed_size(data))
            try:
                payloads = decode(data, log_time_ns)
            except LogError as error:
                line = f"{topic} at {log_time_ns} ns: {error}"
                if strict:
                    raise LogError(f"{self.path}: {line}") from None
                failures = self._failures.setdefault(topic, Failures(topic, str(error)))
                failures.add(line)
                if failures.in_a_row == self._file.limits.undecodable:
                    wanted.discard(topic)
                continue
            if topic in self._failures:
                self._failures[topic].in_a_row = 0
            for timestamp_ns, payload in payloads:
                yield Message(topic, timestamp_ns, log_time_ns, sequence, payload)
                sequence += 1

    def close(self) -> None:
        """Nothing is held open."""

    def _add(self, channel_id: int, channel: Channel) -> None:
        schema = self._file.schemas.get(channel.schema_id)
        try:
            kind, note, decode = _decoder(channel, schema)
        except LogError as error:
            kind, note, decode = None, str(error), None
        if decode:
            self._decoders[channel_id] = channel.topic, decode
        count = self._file.counts.get(channel_id, 0)
        topic, known = (
            Topic(channel.topic, schema.name if schema else "", kind, note, count),
            self.topics.get(channel.topic),
        )
        self.topics[channel.topic] = topic if known is None else merged(known, topic)  # of several publishers


def _decoder(channel: Channel, schema: Schema | None) -> tuple[str | None, str, Decode | None]:
    """Kind, or a note on why there is none, and decoder of the messages of a channel."""
    encoding = channel.message_encoding
    if encoding not in ("protobuf", "json", "cdr", "ros1"):
        return None, f"{encoding or 'unnamed'} messages are not decoded", None
    if schema is None:
        return None, f"{encoding} messages without a schema", None
    if (encoding, schema.encoding) in (("protobuf", "protobuf"), ("json", "jsonschema")):
        from perception.logs import foxglove_messages

        kind, note, decode = foxglove_messages.decoder(schema.name, schema.data, encoding)
    elif schema.encoding in _ROS_SCHEMAS.get(encoding, ()):
        from perception.logs import ros_messages

        definition = None if schema.encoding in _BY_NAME else schema.data.decode("utf-8", "replace")
        form = "ros1msg" if encoding == "ros1" else schema.encoding
        kind, note, decode = ros_messages.decoder(schema.name, definition, form)
    else:
        return None, f"{encoding} messages with a schema in {schema.encoding} are not decoded", None
    if decode and is_static(channel.topic):
        return kind, note, _static(decode)
    return kind, note, decode


def _static(decode: Decode) -> Decode:
    return lambda data, log_time_ns: [(time_ns, as_static(payload)) for time_ns, payload in decode(data, log_time_ns)]
