"""What time it is on a vehicle: what most of its sensors say.

A sensor stamps what it measures by its own clock, and some are off: GPS time is 18 s ahead of UTC, TAI 37 s, and a
sensor that has no clock counts from when it was switched on. One that is ahead must not make the others seem late.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from perception.logs.messages import Cloud, Image, Message, Pose, RecordingTime, Transform

WINDOW_NS = 500_000_000
_SENSOR, _POSES, _RECORDER = 1.0, 0.5, 0.25  # where as many sensors say one thing as another, the poses decide
_SILENT = 4  # messages of an average sensor, during which one that does not deliver is still waited for


def is_measurement(message: Message) -> bool:
    return isinstance(message.data, Image | Cloud)


def corrected(message: Message, offsets_ns: Mapping[str, int]) -> Message:
    """The message as a clock that is right would have stamped it. offsets_ns: topic -> what is added to its stamps."""
    if isinstance(message.timestamp_ns, RecordingTime):
        return replace(message, timestamp_ns=int(message.timestamp_ns))  # which JSON takes
    offset_ns = offsets_ns.get(message.topic)
    return replace(message, timestamp_ns=message.timestamp_ns + offset_ns) if offset_ns else message


@dataclass
class _Source:
    stamp_ns: int  # its latest
    weight: float
    place: int  # of its latest, among the measurements of all sensors
    is_set_back: bool  # since time began


class AgreedTime:
    """Hears every message, in the order of arrival. Time begins with the first measurement.

    Attributes:
        start_ns, now_ns: when it began, and what most of those who agree, and deliver, have reached.
        is_settled: whether all who deliver had the time to be heard.
        is_set_back: whether a clock of those was set back; if none was, others are behind.
        reached_ns: what all of them, and the poses, have reached.
    """

    def __init__(self):
        self.now_ns = self.reached_ns = -(1 << 62)
        self.start_ns = 1 << 62
        self.is_set_back = False
        self._sources: dict[str, _Source] = {}
        self._heard = 0

    def hear(self, message: Message) -> None:
        if is_measurement(message):
            self._heard += 1
            self._set(f"sensor {message.topic}", message.timestamp_ns, _SENSOR)
            self._set("recorder", message.log_time_ns, _RECORDER)
        elif isinstance(message.data, Transform | Pose):
            self._set("poses", message.timestamp_ns, _POSES)
        if self._heard:
            self._agree()

    def begin_again(self) -> None:
        """Time is what it is now, and nothing was before."""
        self.start_ns, self.is_set_back = self.now_ns, False
        for source in self._sources.values():
            source.is_set_back = False

    @property
    def is_settled(self) -> bool:
        return self._heard >= self._patience

    @property
    def _patience(self) -> int:
        return _SILENT * sum(source.weight == _SENSOR for source in self._sources.values())

    def _set(self, name: str, stamp_ns: int, weight: float) -> None:
        before = self._sources.get(name)
        is_set_back = before is not None and (before.is_set_back or stamp_ns < before.stamp_ns - WINDOW_NS)
        self._sources[name] = _Source(stamp_ns, weight, self._heard, is_set_back)

    def _agree(self) -> None:
        since = self._heard - self._patience
        delivering = [source for source in self._sources.values() if source.place >= since]
        agreed = _most_that_agree(sorted(delivering, key=lambda source: source.stamp_ns))
        left = sum(source.weight for source in agreed) / 2
        for source in reversed(agreed):
            left -= source.weight
            if left < 0:
                self.now_ns = source.stamp_ns
                break
        self.start_ns = min(self.start_ns, self.now_ns)
        self.is_set_back = any(source.is_set_back and source.weight == _SENSOR for source in agreed)
        self.reached_ns = min((s.stamp_ns for s in delivering if s.weight >= _POSES), default=self.now_ns)


def _most_that_agree(sources: list[_Source]) -> list[_Source]:
    """Those, out of all by time, that are within a window and weigh most; of several the earliest."""
    best, best_weight, first, weight = (0, 0), 0.0, 0, 0.0
    for last, source in enumerate(sources):
        weight += source.weight
        while source.stamp_ns - sources[first].stamp_ns > WINDOW_NS:
            weight -= sources[first].weight
            first += 1
        if weight > best_weight:
            best, best_weight = (first, last + 1), weight
    return sources[slice(*best)]
