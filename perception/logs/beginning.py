"""The first seconds of a log, in which its topics are seen, and what is known of the vehicle from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from perception.logs.messages import Calibration, Cloud, Image, Message, Transform, is_timeless
from perception.logs.units import SWEEPS

BEGINNING_S = 5.0
_LONGEST_STEP_NS = 1_000_000_000
_SLOWEST = 20  # seconds of recording for one of measurement


def beginning(messages: Iterable[Message], seconds: float = BEGINNING_S) -> Iterator[Message]:
    """The messages of the first seconds in which a sensor measures, by the stamps of its images or clouds.

    Recordings are played slowly, or written all at once, so that the recorder's clock says little. It counts where
    the stamps agree, and ends what stamps that stand still would not. A step in the stamps of a sensor counts
    ``_LONGEST_STEP_NS`` at most, lest its clock was set.
    """
    length_ns = 1e9 * seconds
    first: Message | None = None
    stamps: dict[str, tuple[int, int]] = {}  # topic -> the latest stamp, and how much time has passed by them
    for message in messages:
        if first is not None:
            recorded_ns = message.log_time_ns - first.log_time_ns
            agree = recorded_ns > length_ns and message.timestamp_ns - first.timestamp_ns > length_ns
            if agree or recorded_ns > _SLOWEST * length_ns:
                return
        if isinstance(message.data, Image | Cloud):
            first = first or message
            latest_ns, passed_ns = stamps.get(message.topic, (message.timestamp_ns, 0))
            passed_ns += min(max(message.timestamp_ns - latest_ns, 0), _LONGEST_STEP_NS)
            if passed_ns > length_ns:
                return
            stamps[message.topic] = message.timestamp_ns, passed_ns
        yield message


class Lasting:
    """What holds from the beginning of a log, whenever it was first recorded.

    That is the first calibration of every topic, and what was said about mounts: static transforms, and others of which
    nothing that was added says that they move. Recorders often start before the publishers of these do, but the sensors
    were mounted before that. And the first clouds of every topic, which tell the units of their numbers.
    """

    def __init__(self):
        self._messages: dict[object, Message] = {}
        self._moving: set[object] = set()
        self._clouds: Counter[str] = Counter()

    def add(self, message: Message) -> None:
        data = message.data
        if isinstance(data, Calibration):
            self._messages.setdefault(message.topic, message)
        elif isinstance(data, Cloud) and self._clouds[message.topic] < SWEEPS:
            self._messages[message.topic, self._clouds[message.topic]] = message
            self._clouds[message.topic] += 1
        elif is_timeless(message):  # the latest holds
            self._messages[data.parent, data.child, True] = message
        elif isinstance(data, Transform):
            key = data.parent, data.child, False
            first = self._messages.setdefault(key, message)
            if first.data.pose.tobytes() != data.pose.tobytes():
                self._moving.add(key)

    @property
    def messages(self) -> list[Message]:
        return [message for key, message in self._messages.items() if key not in self._moving]
