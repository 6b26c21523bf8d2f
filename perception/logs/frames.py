"""A log as frames: messages in order, through the assembler, once each time it is iterated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from perception.config import DataConfig
from perception.data.nuscenes_constants import LIDAR_HZ, RADAR_HZ  # whose sweeps a configuration counts
from perception.logs.assemble import Assembler, sweep_span_s
from perception.logs.beginning import BEGINNING_S
from perception.logs.corruptions import Corruption, Corruptions, biases
from perception.logs.inspect import LogInfo, inspect
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
        radar_filter=config.radar_filter,
        **changes,
    )


class LogFrames:
    """The frames of a log.

    Frames of a part of a drive equal those of the whole drive: sweeps from before its beginning, and measurements
    shortly after its end, are used.

    Args:
        corruptions: what is put into the log while it is read.
        info: of the log's beginning with this rig, where it has been read already.

    Attributes:
        problems: one line each of what was left out; complete once it has been iterated.
    """

    def __init__(
        self,
        log: Log,
        rig: Rig,
        assembly: Assembly,
        corruptions: Sequence[Corruption] = (),
        info: LogInfo | None = None,
    ):
        self._log, self._rig, self._corruptions, self._info = log, rig, corruptions, info
        self._assembly = replace(assembly, bias=biases(corruptions))
        self._assembler: Assembler | None = None

    def __iter__(self) -> Iterator[Frame]:
        """Raises LogError at the end of a log that gave no frame, saying what is missing."""
        log = self._log
        log.change, log.offsets_ns = Corruptions(self._corruptions), self._rig.offsets_ns
        topics = self._topics()
        if self._info is None:
            self._info = inspect(log, self._rig, BEGINNING_S, topics=topics)
        assembly = replace(self._assembly, pose_wait_s=max(self._assembly.pose_wait_s, self._info.pose_wait_s))
        self._assembler = Assembler(self._rig, assembly, log.name, str(log.path), self._is_in_part)
        for message in self._info.known:
            self._assembler.learn(message)
        empty = True
        for frame in self._frames(topics, self._info.known, self._assembler):
            empty = False
            yield frame
        if empty:
            wanted = self._rig.samples or self._rig.reference or "a sensor in the rig"
            reasons = "; ".join(self.problems) or f"nothing on {wanted}"
            raise LogError(f"{log.path}: at least one frame was expected, found none: {reasons}")

    def _frames(self, topics: set[str], known: Sequence[Message], assembler: Assembler) -> Iterator[Frame]:
        log = self._log
        for message in log.whole(topics):
            if len(log.order.set_back_ns) > assembler.lap:
                yield from assembler.finish()
                assembler = self._assembler = assembler.begin_again(known)
            if message.timestamp_ns > log.part_ns[1] + assembler.horizon_ns and not is_timeless(message):
                break
            yield from assembler.push(message)
        yield from assembler.finish()

    def _topics(self) -> set[str]:
        """Those of the log that the rig needs, transforms included."""
        rig = self._rig
        topics = {source.topic for source in rig.sensors.values()}
        topics |= {source.calibration for source in rig.cameras.values() if source.calibration is not None}
        topics |= {rig.samples} if rig.samples is not None else set()
        topics |= set(rig.ego_pose.topics) if rig.ego_pose is not None else set()
        topics |= {"/tf", "/tf_static"}  # a truncated file may not list them before it is read
        return topics | {topic.name for topic in self._log.topics.values() if topic.kind == "transform"}

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
