"""Where messages wait until they are taken: so many of each topic, or pair of frames, of which the newest stay."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import NamedTuple

from perception.logs.messages import Message, Transform

_RECENT = 64  # arrivals, by which a rate is told


class Post(NamedTuple):
    """number: how many came before it.  holds: whether it holds from now on, whatever its stamp."""

    number: int
    message: Message
    holds: bool


class Inbox:
    """Not thread-safe. limit: topic -> how many messages of it may wait, of transforms those between two frames.

    Attributes:
        received, dropped: topic -> how many messages came, and how many of them were dropped for newer ones.
    """

    def __init__(self, limit: Callable[[str], int]):
        self.received: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._limit, self._number = limit, 0
        self._waiting: dict[tuple[str, ...], deque[Post]] = defaultdict(deque)
        self._arrivals: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=_RECENT))

    def put(self, message: Message, holds: bool = False) -> Message | None:
        """Returns the message that is dropped for it."""
        topic, data = message.topic, message.data
        # Many nodes share a topic of transforms: one that moves often must not displace what another says once.
        waiting = self._waiting[(topic, data.parent, data.child) if isinstance(data, Transform) else (topic,)]
        waiting.append(Post(self._number, message, holds))
        self._number += 1
        self.received[topic] += 1
        self._arrivals[topic].append(message.log_time_ns)
        if len(waiting) <= self._limit(topic):
            return None
        self.dropped[topic] += 1
        return waiting.popleft().message

    def take(self) -> list[Post]:
        """All that wait, in the order in which they came."""
        posts = sorted(post for waiting in self._waiting.values() for post in waiting)  # by their numbers
        self._waiting.clear()
        return posts

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def arrived_ns(self, topic: str) -> int | None:
        """When the latest one of a topic came; None where none has."""
        return self._arrivals[topic][-1] if topic in self._arrivals else None

    def rate_hz(self, topic: str) -> float | None:
        """Of the latest arrivals."""
        arrivals = self._arrivals.get(topic, deque())
        if len(arrivals) < 2 or arrivals[-1] <= arrivals[0]:
            return None
        return 1e9 * (len(arrivals) - 1) / (arrivals[-1] - arrivals[0])
