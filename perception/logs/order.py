"""Messages in the order in which they were measured, out of those in which they arrive.

Time goes on as most sensors have it (``clock.py``). A message waits until it is ``window_ns`` old, and until all others
have got as far, ``longest_ns`` at most; in the beginning, when it is not known who will deliver, for ``OFF_NS``. What
comes later is passed on at once, and counted.

A clock is off, and what it has stamped is left out, that is further ahead or behind than ``OFF_NS`` and a window while
time goes on; further ahead than a window is enough where the recorder agrees with most sensors on what time it is.
Where most clocks are set back by more than ``OFF_NS``, another stretch of time begins.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from perception.logs.clock import WINDOW_NS, AgreedTime, is_measurement
from perception.logs.messages import Message, content, is_timeless
from perception.logs.timing import Histogram

OFF_NS = 2 * WINDOW_NS
_NOTHING = (-(1 << 62), "", 0)  # has been passed on


@dataclass(eq=False, slots=True)
class _Waiting:
    """stamp_ns: as recorded.  message: what a change has made of it.  since_ns: when it came, in agreed time."""

    stamp_ns: int
    message: Message
    since_ns: int

    @property
    def place(self) -> tuple[int, str, int]:
        return self.message.timestamp_ns, self.message.topic, self.message.sequence

    def __lt__(self, other: _Waiting) -> bool:
        if self.place != other.place:
            return self.place < other.place
        return content(self.message.data) < content(other.message.data)  # in whatever order the two have come


class Order:
    """See the module docstring. One drive each.

    Attributes:
        late: topic -> how many messages came too late to be sorted in.
        set_back_ns: by how much most clocks were set back, each time that they were.
        left_out: topic -> how many messages were left out, for its clock is off.
        left_out_ns: topic -> when one was the last time, in agreed time.
        forgotten: topic -> how many messages were left out since it was not known what time it is.
    """

    def __init__(self, window_ns: int = WINDOW_NS, longest_ns: int = OFF_NS):
        self.late: Counter[str] = Counter()
        self.set_back_ns: list[int] = []
        self._window_ns, self._longest_ns = window_ns, longest_ns
        self._time = AgreedTime()
        self.left_out: Counter[str] = Counter()
        self.left_out_ns: dict[str, int] = {}
        self.forgotten: Counter[str] = Counter()
        self._off: dict[str, Histogram] = defaultdict(Histogram)  # topic -> how far ahead is what was left out, in ns
        self._sorted: list[_Waiting] = []  # a heap
        self._ahead: list[_Waiting] = []
        self._passed = _NOTHING

    def push(self, message: Message, changed: Message | None) -> Iterator[Message]:
        """Take one message, in order of arrival; yield those whose turn it is.

        changed: what is passed on in its place; None for nothing. The clock is that of what was recorded.
        """
        if is_timeless(message):
            if changed is not None:
                yield changed
            return
        self._time.hear(message)
        back_ns = self._passed[0] + self._window_ns - self._time.now_ns
        if self._time.is_settled and self._time.is_set_back and back_ns > OFF_NS:
            yield from self._begin_again(back_ns)
        if changed is not None:
            waiting = _Waiting(message.timestamp_ns, changed, self._time.now_ns)
            if is_measurement(message) and (self._is_ahead(waiting) or waiting.stamp_ns > self._time.now_ns + OFF_NS):
                self._set_aside(waiting)
            elif is_measurement(message) and self._is_behind(waiting):
                self._leave_out(waiting, self._time.now_ns)
            else:
                self._sort_in(waiting)
        self._judge()
        yield from self.release(self._until_ns())

    def release(self, until_ns: int) -> Iterator[Message]:
        """What is stamped with no later time: nothing is waited for any longer that could come before it."""
        while self._sorted and self._sorted[0].message.timestamp_ns <= until_ns:
            waiting = heapq.heappop(self._sorted)
            if waiting.message.topic in self._off and self._is_behind(waiting):
                self._leave_out(waiting, self._time.now_ns)
                continue
            self._passed = max(self._passed, waiting.place)
            yield waiting.message

    def forget(self, before_ns: int) -> None:
        """Leave out what was recorded before and still waits for time to go on: for sensors to begin, say.

        Without it what waits has no bound while no sensor delivers, or all stamps stand still.
        """
        self._ahead = self._remembered(self._ahead, before_ns)
        if self.now_ns is None:
            remembered = self._remembered(self._sorted, before_ns)
            if remembered is not self._sorted:
                heapq.heapify(remembered)
            self._sorted = remembered

    def _remembered(self, messages: list[_Waiting], before_ns: int) -> list[_Waiting]:
        """Without the old ones, once these are most of them: to look for them each time would take long."""
        new = [waiting for waiting in messages if waiting.message.log_time_ns >= before_ns]
        if 2 * len(new) >= len(messages):
            return messages
        self.forgotten.update(w.message.topic for w in messages if w.message.log_time_ns < before_ns)
        return new

    @property
    def now_ns(self) -> int | None:
        """What time it is on the vehicle; None in the beginning, as long as that is not known."""
        now_ns = self._time.now_ns
        return now_ns if self._time.is_settled and now_ns >= self._time.start_ns + OFF_NS else None

    def flush(self) -> Iterator[Message]:
        """What still waits, at the end."""
        for waiting in self._ahead:
            if waiting.message.topic in self._off:
                self._leave_out(waiting, waiting.since_ns)
            else:
                self._sort_in(waiting)
        self._ahead.clear()
        while self._sorted:
            yield heapq.heappop(self._sorted).message

    def _begin_again(self, back_ns: int) -> Iterator[Message]:
        """What is left of the time before."""
        yield from self.flush()
        self.set_back_ns.append(back_ns)
        self._passed = _NOTHING
        self._time.begin_again()

    @property
    def problems(self) -> list[str]:
        """A line for each topic that was late, or left out, and each time that clocks were set back."""
        late = sorted(self.late.items()) if self._longest_ns else []  # nobody waited
        lines = [f"{topic}: {n} messages came too late to be sorted in" for topic, n in late]
        for number, back_ns in enumerate(self.set_back_ns, 1):
            lines.append(
                f"clocks were set back by {back_ns * 1e-9:,.1f} s: frames from there on are of scene #{number}"
            )
        for topic, off in sorted(self._off.items()):
            ahead_ns = off.median or 0.0
            side, or_late = ("ahead of", "") if ahead_ns > 0 else ("behind", ", or they come late")
            lines.append(
                f"{topic}: {off.count} messages left out, stamped about {abs(ahead_ns) * 1e-9:,.1f} s {side} what most"
                f" sensors agree on: its clock is off, which offset_s in the rig corrects{or_late}"
            )
        return lines

    def _until_ns(self) -> int:
        """Up to when nothing is to come that could have to be sorted in."""
        now_ns = self._time.now_ns
        if self.now_ns is None:
            return now_ns - OFF_NS if self._time.is_settled else -(1 << 62)
        return min(now_ns - self._window_ns, max(self._time.reached_ns, now_ns - self._longest_ns))

    def _is_ahead(self, waiting: _Waiting) -> bool:
        """For certain: it is of a time that had not come when it was recorded."""
        recorded_ns, now_ns = waiting.message.log_time_ns, waiting.since_ns
        return abs(recorded_ns - now_ns) <= WINDOW_NS and waiting.stamp_ns > max(recorded_ns, now_ns) + WINDOW_NS

    def _is_behind(self, waiting: _Waiting) -> bool:
        return waiting.stamp_ns < self._time.now_ns - OFF_NS - WINDOW_NS

    def _sort_in(self, waiting: _Waiting) -> None:
        if waiting.place < self._passed:
            self.late[waiting.message.topic] += 1
        heapq.heappush(self._sorted, waiting)

    def _set_aside(self, waiting: _Waiting) -> None:
        """Until it is known whether time leaps to it; with what came before there were others to tell the time."""
        topic, now_ns = waiting.message.topic, self._time.now_ns
        if all(other.message.topic != topic for other in self._ahead):
            early = [w for w in self._sorted if w.message.topic == topic and w.stamp_ns > now_ns + WINDOW_NS]
            if early:
                self._sorted = [w for w in self._sorted if w not in early]
                heapq.heapify(self._sorted)
                self._ahead += [replace(w, since_ns=now_ns) for w in early]
        self._ahead.append(waiting)

    def _judge(self) -> None:
        now_ns, undecided = self._time.now_ns, []
        for waiting in self._ahead:
            if self._is_ahead(waiting):
                self._leave_out(waiting, waiting.since_ns)
            elif waiting.stamp_ns <= now_ns + WINDOW_NS:
                self._sort_in(waiting)
            elif now_ns >= waiting.since_ns + WINDOW_NS and waiting.stamp_ns > now_ns + OFF_NS:
                self._leave_out(waiting, waiting.since_ns)
            else:
                undecided.append(waiting)
        self._ahead = undecided

    def _leave_out(self, waiting: _Waiting, now_ns: int) -> None:
        topic = waiting.message.topic
        self._off[topic].add(waiting.stamp_ns - now_ns)
        self.left_out[topic] += 1
        self.left_out_ns[topic] = self._time.now_ns
