"""What a reader says of messages that cannot be decoded."""

from __future__ import annotations

_LINES = 10  # on messages of one topic; the others are counted


class Failures:
    """Messages of a topic that cannot be decoded: lines on the few first ones, and a count.

    first: the first reason.  in_a_row: how many of them since the last one that could be decoded.
    """

    def __init__(self, topic: str, first: str):
        self._topic, self.first, self._count, self.in_a_row = topic, first, 0, 0
        self._lines: list[str] = []

    def add(self, line: str) -> None:
        self._count += 1
        self.in_a_row += 1
        if len(self._lines) < _LINES:
            self._lines.append(line)

    def lines(self) -> list[str]:
        more = self._count - len(self._lines)
        return self._lines + ([f"{self._topic}: {more} more messages cannot be decoded"] if more else [])
