"""A log as frames: messages in order, through the assembler, once each time it is iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from perception.config import DataConfig
from perception.data.nuscenes_constants import LIDAR_HZ, RADAR_HZ  # whose sweeps a configuration counts
from perception.logs.assemble import LONGEST_WAIT_NS, Assembler, sweep_span_s
from perception.logs.beginning import BEGINNING_S
from perception.logs.corruptions import Corruption, Corruptions, biases
from perception.logs.inspect import inspect
from perception.logs.log import Log
from perception.logs.measurements import Assembly
from perception.logs.messages import LogError, Message, is_timeless
from perception.logs.rig import Rig
from perception.sample import Frame


def assembly_for(config: DataConfig, **changes) -> Assembly:
    """How frames are made for a detector that was trained on this data; ``changes`` are fields of Assembly."""
    return Assembly(
        lidar_span_s=sweep_span_s(config.lidar_sweeps, LIDAR_HZ),
        radar_span_s=sweep_span_s(config.radar_sweeps, RADAR_HZ),
        **changes,
    )


class LogFrames:
    """The frames of a log.

    Frames of a part of a drive equal those of the whole drive: sweeps from before its beginning, and measurements
    shortly after its end, are used.

    Args:
        corruptions: what is put into the log while it is read.
        known: transforms and calibrations that hold from the start, where the log's beginning has been read already.

    Attributes:
        problems: one line each of what was left out; complete once it has been iterated.
    """

    def __init__(
        self,
        log: Log,
        rig: Rig,
        assembly: Assembly,
        corruptions: Sequence[Corruption] = (),
        known: Sequence[Message] | None = None,
    ):
        self._log, self._rig, self._corruptions, self._known = log, rig, corruptions, known
        self._assembly = replace(assembly, bias=biases(corruptions))
        self._assembler: Assembler | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Raises LogError at the end of a log that gave no frame, saying what is missing."""
        log = self._log
        log.change, log.offsets_ns = Corruptions(self._corruptions), self._rig.offsets_ns
        self._assembler = Assembler(self._rig, self._assembly, log.name, str(log.path), self._is_in_part)
        calibrations = {source.calibration for source in self._rig.cameras.values() if source.calibration is not None}
        sensors = {source.topic for source in self._rig.sensors.values()}
        transforms = {"/tf", "/tf_static"}  # a truncated file may not list them before it is read
        transforms |= {topic.name for topic in log.topics.values() if topic.kind == "transform"}
        if self._known is None:
            self._known = inspect(log, self._rig, BEGINNING_S, topics=calibrations | sensors | transforms).known
        for message in self._known:
            self._assembler.learn(message)
        empty = True
        marks = {self._rig.samples} if self._rig.samples is not None else set()
        for message in log.whole(calibrations | sensors | transforms | marks):
            if message.timestamp_ns > log.part_ns[1] + LONGEST_WAIT_NS and not is_timeless(message):
                break
            for frame in self._assembler.push(message):
                empty = False
                yield frame
        for frame in self._assembler.finish():
            empty = False
            yield frame
        if empty:
            wanted = self._rig.samples or self._rig.reference or "a sensor in the rig"
            reasons = "; ".join(self.problems) or f"nothing on {wanted}"
            raise LogError(f"{log.path}: at least one frame was expected, found none: {reasons}")

    def _is_in_part(self, reference_ns: int) -> bool:
        since_ns, until_ns = self._log.part_ns
        return since_ns <= reference_ns <= until_ns

    @property
    def problems(self) -> list[str]:
        counts = {} if self._assembler is None else self._assembler.counts
        unstamped = [
            f"{topic}: {n} messages without a stamp, the time of their recording is used"
            for topic, n in sorted((+self._log.unstamped).items())
        ]
        stopped = [self._log.stopped] if self._log.stopped else []
        topics = {name: self._log.topics.get(source.topic) for name, source in self._rig.sensors.items()}
        unread = [
            f"{name}: {topic.name} cannot be decoded: {topic.note or topic.type}"
            for name, topic in topics.items()
            if topic is not None and topic.kind is None
        ]
        excluded = [f"transform {p} -> {c}: {n} excluded" for (p, c), n in self._log.excluded.items()]
        doubts = [] if self._assembler is None else self._assembler.doubts
        left_out = (f"{what}: {n}" for what, n in sorted(counts.items()))
        log = [*stopped, *unread, *self._log.damage, *self._log.order.problems, *unstamped]
        return [*log, *excluded, *doubts, *left_out]
