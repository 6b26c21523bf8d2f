"""How regular a stream of time stamps is, in memory that does not grow with it."""

from __future__ import annotations

import math

_BINS_AN_OCTAVE = 32
_WINDOWS = 128
GAP_FACTOR = 5  # a gap is an interval of so many times the median
SHORTEST_GAP_NS = 200_000_000
_FULL_RATE = 0.7  # of the usual messages in a window; fewer are a lull
_MESSAGES_A_WINDOW = 5


class Histogram:
    """Histogram of integers in bins 2 % wide. The median is the mean of its bin: exact where all values are equal."""

    def __init__(self):
        self._bins: dict[int, list[int]] = {}  # signed logarithm -> count, sum

    def add(self, value: int) -> None:
        key = 1 + int(_BINS_AN_OCTAVE * math.log2(abs(value))) if value else 0
        key = -key if value < 0 else key
        entry = self._bins.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] += value

    @property
    def count(self) -> int:
        return sum(count for count, _ in self._bins.values())

    @property
    def median(self) -> float | None:
        """The lower middle one of an even number of values; None without values."""
        left = (self.count + 1) // 2
        for key in sorted(self._bins):
            count, total = self._bins[key]
            left -= count
            if left <= 0:
                return total / count
        return None

    def above(self, value: float) -> int:
        """How many values lie in bins whose mean is larger."""
        return sum(count for count, total in self._bins.values() if total / count > value)


class Times:
    """Stamps of one topic (or one transform) in the order of the file.

    count, zeros: messages; those without a stamp, which count nowhere else.  first_ns, last_ns: earliest and latest.
    logged_ns: from when to when they were recorded.
    backwards, worst_back_ns: how often a stamp is earlier than the one before, and by how much at most.
    duplicates: stamps equal to the one before.  gap_ns, gap_at_ns, gap_log_ns: longest step between two stamps, the
    stamp before it, and how much later it was recorded.  intervals, offsets: steps, and stamp minus log time, in ns.
    """

    def __init__(self):
        self.count = self.zeros = self.backwards = self.worst_back_ns = self.duplicates = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.logged_ns: tuple[int, int] | None = None
        self.gap_ns = self.gap_at_ns = self.gap_log_ns = 0
        self.intervals, self.offsets = Histogram(), Histogram()
        self._previous, self._origin = (0, 0), 0
        self._windows, self._width_ns = [0], 1_000_000_000

    def add(self, stamp_ns: int, log_time_ns: int) -> None:
        self.count += 1
        first_ns, last_ns = self.logged_ns or (log_time_ns, log_time_ns)
        self.logged_ns = min(first_ns, log_time_ns), max(last_ns, log_time_ns)
        if stamp_ns <= 0:
            self.zeros += 1
            return
        self.offsets.add(stamp_ns - log_time_ns)
        if self.first_ns is None or self.last_ns is None:
            self.first_ns = self.last_ns = stamp_ns
        else:
            self._step(stamp_ns - self._previous[0], log_time_ns - self._previous[1])
            self.first_ns, self.last_ns = min(self.first_ns, stamp_ns), max(self.last_ns, stamp_ns)
        self._previous = (stamp_ns, log_time_ns)
        self._count_window(stamp_ns)

    @property
    def interval_ns(self) -> float | None:
        """The median."""
        return self.intervals.median

    @property
    def rate_hz(self) -> float | None:
        return 1e9 / self.interval_ns if self.interval_ns else None

    @property
    def mean_hz(self) -> float:
        """Mean rate, for what comes in bursts, such as transforms."""
        return (self.count - self.zeros - 1) * 1e9 / max(1, (self.last_ns or 0) - (self.first_ns or 0))

    @property
    def gaps(self) -> int:
        """Steps longer than GAP_FACTOR medians and SHORTEST_GAP_NS."""
        return self.intervals.above(max(GAP_FACTOR * self.interval_ns, SHORTEST_GAP_NS)) if self.interval_ns else 0

    @property
    def lull(self) -> tuple[int, int, float] | None:
        """Start and end (ns) and rate (Hz) of the longest time with less than 0.7 of the usual rate, gaps left out."""
        if not self.interval_ns:
            return None
        windows, width = self._windows, self._width_ns
        while width < _MESSAGES_A_WINDOW * self.interval_ns and len(windows) > 1:
            windows, width = _halved(windows), 2 * width
        start = self._origin
        quiet = range(self.gap_at_ns, self.gap_at_ns + self.gap_ns if self.gaps else self.gap_at_ns)
        longest: list[int] = []
        run: list[int] = []
        for i, count in enumerate(windows[:-1]):  # the last one is not full
            begin = start + i * width
            broken = begin < quiet.stop and begin + width > quiet.start
            slow = 0 < count < _FULL_RATE * width / self.interval_ns and not broken
            run = [*run, i] if slow else []
            longest = max(longest, run, key=len)
        if not longest:
            return None
        rate = sum(windows[i] for i in longest) / (len(longest) * width) * 1e9
        return start + longest[0] * width, start + (longest[-1] + 1) * width, rate

    def _step(self, step_ns: int, log_step_ns: int) -> None:
        if step_ns > 0:
            self.intervals.add(step_ns)
            if step_ns > self.gap_ns:
                self.gap_ns, self.gap_at_ns, self.gap_log_ns = step_ns, self._previous[0], log_step_ns
        elif step_ns < 0:
            self.backwards += 1
            self.worst_back_ns = max(self.worst_back_ns, -step_ns)
        else:
            self.duplicates += 1

    def _count_window(self, stamp_ns: int) -> None:
        if self.count - self.zeros == 1:
            self._origin = stamp_ns
        index = (stamp_ns - self._origin) // self._width_ns
        while index >= _WINDOWS:
            self._windows, self._width_ns, index = _halved(self._windows), 2 * self._width_ns, index // 2
        if index >= 0:
            self._windows += [0] * (index + 1 - len(self._windows))
            self._windows[index] += 1


def _halved(windows: list[int]) -> list[int]:
    return [sum(windows[i : i + 2]) for i in range(0, len(windows), 2)]
