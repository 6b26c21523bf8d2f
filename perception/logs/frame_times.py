"""When frames are: at the measurements of the reference sensor and, while it is silent, at those that it would have.

A clock of ticks goes on from its last measurement, at its own rate. As long as that is not known it is ``--frame-rate``
or 10 Hz, from the first measurement of any sensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from statistics import median_low

from perception.logs.measurements import Assembly

_INTERVALS = 15  # that are remembered
_UNKNOWN_NS = 100_000_000  # interval of a reference that has never been heard
_SILENCE_NS, _SILENCE = (
    500_000_000,
    2.5,
)  # the longer of this time and so many intervals: no jitter, and not just a loss


class FrameTimes:
    """Times are in ns, and those of measurements increase. One drive each."""

    def __init__(self, assembly: Assembly):
        self._shortest_ns = 0 if assembly.rate_hz is None else round(1e9 / assembly.rate_hz)
        self._tolerance_ns, self._wait_ns = round(1e9 * assembly.tolerance_s), round(1e9 * assembly.wait_s)
        self._intervals: deque[int] = deque(maxlen=_INTERVALS)
        self._reference_ns: int | None = None
        self._tick_ns: int | None = None  # the next
        self._silent_since_ns = self._newest_ns = self._due_ns = -(1 << 62)

    @property
    def interval_ns(self) -> int:
        return median_low(self._intervals) if self._intervals else self._shortest_ns or _UNKNOWN_NS

    @property
    def silence_ns(self) -> int:
        """How long the reference says nothing before ticks come in its place."""
        return max(_SILENCE_NS, round(_SILENCE * self.interval_ns))

    def is_due(self, time_ns: int) -> bool:
        """Whether the rate allows a frame then; a tenth of the interval early is in time."""
        if time_ns < self._due_ns - self._shortest_ns // 10:
            return False
        self._due_ns = max(time_ns, self._due_ns) + self._shortest_ns
        return True

    def reference_measured(self, time_ns: int) -> None:
        if self._reference_ns is not None and 0 < time_ns - self._reference_ns <= self.silence_ns:
            self._intervals.append(time_ns - self._reference_ns)
        self._reference_ns = self._silent_since_ns = time_ns
        self._tick_ns = time_ns + self.interval_ns

    def measured(self, time_ns: int) -> int:
        """What a sensor that is used has measured. Returns how many ticks had no measurement near, since the last."""
        passed = 0
        if self._tick_ns is None:
            self._tick_ns = self._silent_since_ns = time_ns
        elif self._is_silent(time_ns - self._wait_ns):
            passed = max(0, -((self._tick_ns - time_ns + self._wait_ns) // self.interval_ns))
            self._tick_ns += passed * self.interval_ns
        self._newest_ns = max(self._newest_ns, time_ns)
        return passed

    def ticks(self, until_ns: int) -> Iterator[int]:
        """Those up to a time for which all have come, as long as anything was measured since the one before."""
        while self._tick_ns is not None and self._is_silent(until_ns):
            tick_ns = self._tick_ns
            is_new = self._newest_ns > tick_ns - self.interval_ns + self._wait_ns
            if not is_new or tick_ns > min(until_ns, self._newest_ns + self._tolerance_ns):
                return
            self._tick_ns = tick_ns + self.interval_ns
            yield tick_ns

    def _is_silent(self, now_ns: int) -> bool:
        return now_ns - self._silent_since_ns > self.silence_ns
