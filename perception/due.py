"""The frames of a drive as they become due: because they are complete, or because their deadline has passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from perception.logs.inbox import Post
from perception.logs.live import LiveFrames
from perception.logs.measurements import Assembly
from perception.logs.presence import Presence
from perception.logs.rig import Rig
from perception.sample import Frame

_UNKNOWN_NS = 5_000_000_000  # how long a message waits for it to be known what time it is


@dataclass(frozen=True, eq=False)
class Due:
    """A frame to be seen, what it has of each sensor, and since when it is due, by the stream's clock."""

    frame: Frame
    presence: dict[str, Presence]
    since_ns: int


class DueFrames:
    """Takes what was pushed, in order of arrival. Not thread-safe, but for ``counts``.

    Args:
        window_ns: how long a message waits for others that were measured before it.
        deadline_ns: a frame goes so long after its reference time with what has come.
    """

    def __init__(self, rig: Rig, assembly: Assembly, scene: str, window_ns: int, deadline_ns: int):
        self._live = LiveFrames(rig, assembly, scene, window_ns=window_ns)
        self._deadline_ns = deadline_ns
        self._heard: tuple[int, int] | None = None  # the vehicle's time and the clock's, when it was last known

    def take(self, post: Post) -> Iterator[Due]:
        """The frames that a message completes."""
        message = post.message
        if post.holds:
            self._live.learn(message)
            return
        yield from self._due(self._live.push(message), message.log_time_ns)
        now_ns = self._live.now_ns
        if now_ns is None:  # again, once clocks were set back
            self._heard = None
        elif self._heard is None or now_ns != self._heard[0]:
            self._heard = now_ns, message.log_time_ns

    def late(self, clock_ns: int) -> Iterator[Due]:
        """Those whose deadline has passed."""
        self._live.forget(clock_ns - _UNKNOWN_NS)
        if self._heard is not None:
            yield from self._due(self._live.due(_vehicle_ns(*self._heard, clock_ns) - self._deadline_ns), clock_ns)

    def finish(self, clock_ns: int) -> Iterator[Due]:
        """Those that still wait, since nothing will come any more."""
        yield from self._due(self._live.finish(), clock_ns)

    def age_s(self, frame: Frame, clock_ns: int) -> float | None:
        """Of its reference time; None where the vehicle's is not known, or clocks were set back since."""
        if self._heard is None or frame.scene != self._live.scene:
            return None
        return 1e-9 * (_vehicle_ns(*self._heard, clock_ns) - frame.timestamp_ns)

    @property
    def counts(self) -> Counter[str]:
        """What was left out so far, and how often. May be asked for while another thread takes."""
        return self._live.counts

    def _due(self, frames: Iterator[Frame], since_ns: int) -> Iterator[Due]:
        for frame in frames:
            yield Due(frame, self._live.presence(frame.timestamp_ns), since_ns)


def _vehicle_ns(then_ns: int, heard_ns: int, clock_ns: int) -> int:
    """The vehicle's time: as last heard, and what has passed since then by the clock."""
    return then_ns + clock_ns - heard_ns
