"""The frames of a vehicle while it drives: messages as they arrive, through the same steps as those of a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from perception.logs.assemble import Assembler
from perception.logs.beginning import Lasting
from perception.logs.clock import corrected
from perception.logs.measurements import Assembly
from perception.logs.messages import Calibration, Message, Transform, is_timeless
from perception.logs.order import OFF_NS, Order
from perception.logs.presence import Presence
from perception.logs.rig import Rig
from perception.logs.video import Videos
from perception.sample import Frame


class LiveFrames:
    """Frames as soon as they are complete: those that a log of the same messages gives, if none of them is late.

    Args:
        known: static transforms and calibrations that are known from the start.
        window_ns: how long messages wait for others that were measured before them. Within it the order in which they
            arrive changes nothing.

    Attributes:
        problems: one line each of what was left out so far.
    """

    def __init__(
        self, rig: Rig, assembly: Assembly, scene: str = "live", known: Iterable[Message] = (), window_ns: int = 0
    ):
        self._rig, self._videos = rig, Videos()
        self._order = Order(window_ns, window_ns)
        self._assembler = Assembler(rig, assembly, scene, scene)
        self._known, self._learned = Lasting(), dict[object, Message]()
        self._wait_ns = round(1e9 * assembly.wait_s)
        for message in known:
            self._known.add(message)
            self._assembler.learn(message)

    def learn(self, message: Message[Calibration | Transform]) -> None:
        """Take a calibration, or a static transform, that holds from now on, and after clocks were set back, too."""
        data = message.data
        self._learned[(data.parent, data.child) if isinstance(data, Transform) else message.topic] = message
        self._assembler.learn(message)

    def push(self, message: Message) -> Iterator[Frame]:
        """Take one message; yield the frames that it completes. ``log_time_ns`` is when it arrived."""
        message = self._videos.joined(message)
        message = message if is_timeless(message) else corrected(message, self._rig.offsets_ns)
        self._known.add(message)
        yield from self._frames(self._order.push(message, message))

    def due(self, until_ns: int) -> Iterator[Frame]:
        """The frames up to a reference time, with what has come."""
        yield from self._frames(self._order.release(until_ns + self._wait_ns))
        yield from self._assembler.due(until_ns)

    def forget(self, before_ns: int) -> None:
        """Leave out what arrived before, and waits for it to be known what time it is."""
        self._order.forget(before_ns)

    def finish(self) -> Iterator[Frame]:
        """The frames that the end of the drive completes."""
        yield from self._frames(self._order.flush())
        yield from self._assembler.finish()

    def _frames(self, messages: Iterator[Message]) -> Iterator[Frame]:
        for message in messages:
            if len(self._order.set_back_ns) > self._assembler.lap:
                yield from self._assembler.finish()
                self._assembler = self._assembler.begin_again([*self._known.messages, *self._learned.values()])
            yield from self._assembler.push(message)

    @property
    def now_ns(self) -> int | None:
        """What time it is on the vehicle, by most of its sensors; None in the first second, before that is known."""
        return self._order.now_ns

    @property
    def scene(self) -> str:
        """Of the frames that are to come."""
        return self._assembler.scene

    def presence(self, reference_ns: int) -> dict[str, Presence]:
        """See :meth:`Assembler.presence`; a sensor that is left out, for its clock is off, is rejected."""
        found = self._assembler.presence(reference_ns)
        for name, presence in found.items():
            left_out_ns = self._order.left_out_ns.get(self._rig.sensors[name].topic)
            if presence.state in ("waiting", "stale") and left_out_ns and abs(left_out_ns - reference_ns) < OFF_NS:
                found[name] = Presence("rejected", presence.age_s, "its clock is off")
        return found

    @property
    def counts(self) -> Counter[str]:
        """What was left out so far, and how often. May be asked for while another thread pushes."""
        order, counts = self._order, self._assembler.counts.copy()
        counts.update(
            {f"{topic}: messages that came too late to be sorted in": n for topic, n in order.late.copy().items()}
        )
        twice = self._assembler.duplicates.copy().items()
        counts.update({f"{topic}: measurements with the stamp of one before": n for topic, n in twice})
        counts.update({f"{topic}: messages of a clock that is off": n for topic, n in order.left_out.copy().items()})
        forgotten = order.forgotten.copy().items()
        counts.update({f"{topic}: messages left out before it was known what time it is": n for topic, n in forgotten})
        if order.set_back_ns:
            counts["times that clocks were set back"] = len(order.set_back_ns)
        return counts

    @property
    def problems(self) -> list[str]:
        return [*self._order.problems, *(f"{what}: {n}" for what, n in sorted(self._assembler.counts.items()))]
