"""Any log into any format: every message that can be decoded, in the order of its reader."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from perception.logs.messages import LogError, Message, Reader, Sample, Topic, Transform, is_timeless

logger = logging.getLogger(__name__)

_LINES = 10  # of damage that are logged
_DEFAULT_GAP_NS = 100_000_000  # of a log in which every topic has one message


class Writer(Protocol):
    """Writes a log in some format."""

    def write(self, message: Message) -> None: ...

    def holds(self, message: Message) -> bool:
        """Whether the format has messages of the kind."""
        ...


def convert(
    reader: Reader, writer: Writer, progress: Callable[[int], object] = lambda count: None, repeat: int = 1
) -> dict[str, int]:
    """Writes what a reader reads, and says how many messages of every topic there were.

    Messages that are damaged in the source are left out; ``reader.damage`` says which, and warnings the first of them.
    So are topics of other types than :data:`KINDS`, which a warning names.

    Args:
        progress: called with 1 after every message.
        repeat: how many times over the log is written, which makes an hour of a minute. Later passes have later times,
            as if the drive went on after one typical gap; their poses are those of the first, so that the vehicle jumps
            back to where it began, and sample tokens end in "#1", "#2" and so on.

    Raises:
        LogError: nothing to convert, or what reading and writing raise.
    """
    if repeat < 1:
        raise LogError(f"repeat: at least 1 was expected, found {repeat}")
    shift_ns = _period_ns(reader.messages()) if repeat > 1 else 0
    counts, left_out = Counter[str](), Counter[str]()
    for lap in range(repeat):
        for message in reader.messages():
            if not writer.holds(message):
                left_out[message.topic] += 1
                continue
            writer.write(_moved(message, lap, lap * shift_ns, counts.total()))
            counts[message.topic] += 1
            progress(1)
    if not counts:
        raise LogError(f"{reader.path}: messages that can be decoded were expected, found none")
    unread = [f"{topic.name} ({topic.type}, {_counted(topic)})" for topic in reader.topics.values() if not topic.kind]
    if unread:
        logger.warning("%s: left out, for they cannot be decoded: %s", reader.path, ", ".join(unread))
    lines = [f"{topic}: {n} messages left out, which the format does not have" for topic, n in left_out.items()]
    lines += [*filter(None, [reader.stopped]), *reader.damage]
    for line in lines[:_LINES]:
        logger.warning("%s: %s", reader.path, line)
    if len(lines) > _LINES:
        logger.warning("%s: and %d more of the kind", reader.path, len(lines) - _LINES)
    return dict(sorted(counts.items()))


def _counted(topic: Topic) -> str:
    return "messages" if topic.count is None else f"{topic.count:,} message{'s' * (topic.count != 1)}"


@dataclass
class _Span:
    """First and last of a stream of times, and their count."""

    first_ns: int = 1 << 63
    last_ns: int = -(1 << 63)
    count: int = 0

    def add(self, time_ns: int) -> None:
        self.first_ns, self.last_ns = min(self.first_ns, time_ns), max(self.last_ns, time_ns)
        self.count += 1

    @property
    def duration_ns(self) -> int:
        return max(self.last_ns - self.first_ns, 0)


def _period_ns(messages: Iterable[Message]) -> int:
    """From the beginning of a log to that of its next pass: its duration, and a gap as usual between measurements."""
    measured, logged = _Span(), _Span()
    topics: dict[str, _Span] = defaultdict(_Span)
    for message in messages:
        if is_timeless(message):
            continue
        measured.add(message.timestamp_ns)
        logged.add(message.log_time_ns)
        if not isinstance(message.data, Transform):  # several of these come at once
            topics[message.topic].add(message.timestamp_ns)
    gaps_ns = [span.duration_ns // (span.count - 1) for span in topics.values() if span.duration_ns]
    gap_ns = round(median(gaps_ns)) if gaps_ns else _DEFAULT_GAP_NS
    return max(measured.duration_ns, logged.duration_ns) + max(gap_ns, 1)


def _moved(message: Message, lap: int, shift_ns: int, sequence: int) -> Message:
    """The message as pass number ``lap`` has it."""
    data = message.data
    if lap and isinstance(data, Sample):
        data = Sample(f"{data.token}#{lap}")
    stamp_ns, log_time_ns = message.timestamp_ns + shift_ns, message.log_time_ns + shift_ns
    return Message(message.topic, stamp_ns, log_time_ns, sequence, data)
