"""What a recording may ask of its reader: far more than real ones do, and far less than would stop the machine."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from perception.logs.messages import LogError

FACTOR = "--limits raises it"


class LimitError(LogError):
    """A recording that asks for more than is allowed."""


@dataclass(frozen=True)
class Limits:
    """Bytes, unless they say otherwise. :func:`times` gives all of them several times as large.

    record: of one chunk or message, before and after decompression; writers make chunks of about a megabyte.
    inflation, inflation_slack: a file, or a message compressed by itself, may decompress to so many times its bytes,
        and as many more: recordings shrink by two to ten.
    held: of messages that are read before their turn, because chunks overlap in time.
    topics: how many of them, and as many types.  name: of a topic or a type.  definition: of a type.
    undecodable: messages of a topic in a row that cannot be decoded, after which it is given up.
    messages: of a bag, or outside of the chunks of an MCAP file: so many, and as many more for each 10 MB of it.
    small_records: so many of an MCAP file, and one more for each of its bytes.  chunk_records: of one chunk.
    """

    record: int = 256 << 20
    inflation: int = 100
    inflation_slack: int = 64 << 20
    held: int = 512 << 20
    topics: int = 5_000
    name: int = 4096
    definition: int = 16 << 20
    undecodable: int = 10_000
    messages: int = 100_000
    small_records: int = 100_000
    chunk_records: int = 1_000_000

    def times(self, factor: float) -> Limits:
        return replace(self, **{field.name: round(getattr(self, field.name) * factor) for field in fields(self)})

    def inflated(self, stored: int) -> int:
        """Bytes that ``stored`` bytes may decompress to."""
        return self.inflation * stored + self.inflation_slack

    def messages_of(self, stored: int) -> int:
        """Messages that a file of ``stored`` bytes may have where each is found by itself."""
        return self.messages + self.messages * stored // 10_000_000

    def budget(self, path: Path, what: str, stored: int) -> Budget:
        """For what a file of ``stored`` bytes decompresses to."""
        return Budget(path, what, self.inflated(stored))

    def check_name(self, name: str) -> None:
        """Raise ValueError if it is too long."""
        if len(name) > self.name:
            raise ValueError(f"a name of at most {self.name} characters was expected, found {len(name)}; {FACTOR}")

    def check_definition(self, size: int) -> None:
        """Raise ValueError if it is too large."""
        if size > self.definition:
            raise ValueError(f"a definition of at most {self.definition} bytes was expected, found {size}; {FACTOR}")


DEFAULT = Limits()


def check_limit(path: Path, what: str, found: int, most: int) -> None:
    """Raise LimitError if a recording has too much of something."""
    if found > most:
        raise LimitError(f"{path}: at most {most} {what} were expected, found {found}; {FACTOR}")


class Budget:
    """What one pass over a file may take; spending more is a LimitError."""

    def __init__(self, path: Path, what: str, most: int):
        self._path, self._what, self._most, self._spent = path, what, most, 0

    def spend(self, amount: int) -> None:
        self._spent += amount
        check_limit(self._path, self._what, self._spent, self._most)
