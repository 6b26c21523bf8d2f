"""Several recordings of one drive as one: the files of a split bag, of several recorders, or any that are given."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from perception.logs.messages import Message, Reader, Topic, merged


class Part(Reader, Protocol):
    """start_ns: recording time of its first message, None without any."""

    @property
    def start_ns(self) -> int | None: ...


class MergedReader:
    """A :class:`perception.logs.messages.Reader` of all parts, merged by recording time and numbered anew.

    Args:
        path: what was opened.
        parts: the name that lines on a part begin with, or "", and its reader.
    """

    def __init__(self, path: Path, parts: Sequence[tuple[str, Part]]):
        self.path, self._parts = path, parts

    @property
    def topics(self) -> dict[str, Topic]:
        found: dict[str, Topic] = {}
        for _, part in self._parts:
            for name, topic in part.topics.items():
                found[name] = merged(found[name], topic) if name in found else topic
        return found

    @property
    def start_ns(self) -> int | None:
        return min((part.start_ns for _, part in self._parts if part.start_ns is not None), default=None)

    @property
    def stopped(self) -> str | None:
        return "; ".join(_named(name, part.stopped) for name, part in self._parts if part.stopped) or None

    @property
    def damage(self) -> list[str]:
        return [_named(name, line) for name, part in self._parts for line in part.damage]

    @property
    def failed(self) -> dict[str, str]:
        return {topic: reason for _, part in reversed(self._parts) for topic, reason in part.failed.items()}

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        def reading(part: Part) -> Callable[[], Iterator[Message]]:
            return lambda: part.messages(topics, strict)

        starts = [(part.start_ns, reading(part)) for _, part in self._parts]
        parts = [(start_ns, read) for start_ns, read in starts if start_ns is not None]
        for sequence, message in enumerate(by_recording_time(parts)):
            yield message if message.sequence == sequence else replace(message, sequence=sequence)

    def close(self) -> None:
        for _, part in self._parts:
            part.close()


def by_recording_time(parts: Sequence[tuple[int, Callable[[], Iterator[Message]]]]) -> Iterator[Message]:
    """Streams merged; of equal times the first stream's message is first.

    Args:
        parts: the time before which a stream has nothing, and what begins to read it. It is not begun before its time.
    """
    waiting = sorted(((start_ns, number) for number, (start_ns, _) in enumerate(parts)), reverse=True)
    reading: list[tuple[int, int, Message, Iterator[Message]]] = []

    def advance(number: int, stream: Iterator[Message]) -> None:
        message = next(stream, None)
        if message is not None:
            heapq.heappush(reading, (message.log_time_ns, number, message, stream))

    while waiting or reading:
        if waiting and (not reading or waiting[-1] <= reading[0][:2]):
            _, number = waiting.pop()
            advance(number, parts[number][1]())
            continue
        _, number, message, stream = heapq.heappop(reading)
        yield message
        advance(number, stream)


def _named(name: str, line: str) -> str:
    return f"{name}: {line}" if name else line
