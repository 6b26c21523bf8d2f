"""The frames of a vehicle while it drives: messages as they arrive, through the same steps as those of a log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perception.logs.assemble import Assembler
from perception.logs.beginning import Lasting
from perception.logs.clock import corrected
from perception.logs.measurements import Assembly
from perception.logs.messages import Message, is_timeless
from perception.logs.order import Order
from perception.logs.rig import Rig
from perception.logs.video import Videos
from perception.sample import Frame


class LiveFrames:
    """Frames as soon as they are complete: those that a log of the same messages gives, if none of them is late.

    Args:
        known: static transforms and calibrations that are known from the start.

    Attributes:
        problems: one line each of what was left out so far.
    """

    def __init__(self, rig: Rig, assembly: Assembly, scene: str = "live", known: Iterable[Message] = ()):
        self._offsets_ns, self._videos = rig.offsets_ns, Videos()
        self._order = Order(window_ns=0, longest_ns=0)
        self._assembler = Assembler(rig, assembly, scene, scene)
        self._known = Lasting()
        for message in known:
            self._known.add(message)
            self._assembler.learn(message)

    def push(self, message: Message) -> Iterator[Frame]:
        """Take one message; yield the frames that it completes. ``log_time_ns`` is when it arrived."""
        message = self._videos.joined(message)
        message = message if is_timeless(message) else corrected(message, self._offsets_ns)
        self._known.add(message)
        yield from self._frames(self._order.push(message, message))

    def finish(self) -> Iterator[Frame]:
        """The frames that the end of the drive completes."""
        yield from self._frames(self._order.flush())
        yield from self._assembler.finish()

    def _frames(self, messages: Iterator[Message]) -> Iterator[Frame]:
        for message in messages:
            if len(self._order.set_back_ns) > self._assembler.lap:
                yield from self._assembler.finish()
                self._assembler = self._assembler.begin_again(self._known.messages)
            yield from self._assembler.push(message)

    @property
    def problems(self) -> list[str]:
        return [*self._order.problems, *(f"{what}: {n}" for what, n in sorted(self._assembler.counts.items()))]
