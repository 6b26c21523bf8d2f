"""Sensor messages to frames: what all sensors measured around one reference time, in the ego frame of that time.

Messages are pushed in order of measurement time, and a frame comes out as soon as nothing that is yet to come can
belong to it, so that the same code serves a log and a live vehicle:

Reference   The log's sample marks where the rig names their topic, else the measurements of its reference sensor, and a
            clock of ticks while that is silent (``frame_times.py``). A frame whose ego pose is unknown, or for which no
            sensor delivered, is left out and counted.
            Reference times increase; one that does not, such as a duplicate, is left out too.
Sensors     Of every camera, LiDAR and radar the measurement nearest to the reference time. A sensor without one that
            is near enough is absent from the frame; ``presence`` says which are, and why.
Clouds      That sweep and those shortly before it, each moved to where the vehicle is at the reference time; where
            points have times of their own, each point by its own.
Poses       ``transforms.py`` says how they are interpolated, ``ego_pose.py`` which they are. A frame waits for them,
            half a second at most, longer where they come slowly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from perception.geometry import SE3
from perception.logs.frame_times import FrameTimes
from perception.logs.measurements import Assembly, Measurements, UnknownPose
from perception.logs.messages import (
    Calibration,
    Cloud,
    Image,
    Located,
    LogError,
    Message,
    Motion,
    Sample,
    Transform,
)
from perception.logs.presence import Presence
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.logs.transforms import Refused, inverse
from perception.logs.video import NoPicture
from perception.sample import Frame, LidarCloud, RadarCloud, SampleError

UNUSABLE = "measurements that cannot be used"


def sweep_span_s(sweeps: int, rate_hz: float) -> float:
    """How far back ``sweeps`` sweeps reach: the time from last to first, plus half an interval."""
    return (sweeps - 0.5) / rate_hz if sweeps > 1 else 0.0


@dataclass
class _Sensor:
    """A sensor of the rig and its recent measurements, oldest first."""

    name: str
    kind: str
    source: CameraSource | CloudSource
    span_ns: int
    max_age_ns: int
    max_ahead_ns: int
    latest_ns: int | None = None  # of all that came
    recent: deque[Message[Image | Cloud]] = field(default_factory=deque)

    def remember(self, message: Message) -> bool:
        """Insert in order of time; False: there is one with that stamp, which is kept."""
        at = bisect_right(self.recent, message.timestamp_ns, key=lambda m: m.timestamp_ns)
        if at and self.recent[at - 1].timestamp_ns == message.timestamp_ns:
            return False
        self.recent.insert(at, message)
        if self.latest_ns is None or message.timestamp_ns > self.latest_ns:
            self.latest_ns = message.timestamp_ns
        return True

    def nearest(self, time_ns: int) -> Message | None:
        """The measurement nearest to a time, out of those that are neither too old nor too new."""
        offsets = ((message.timestamp_ns - time_ns, message) for message in self.recent)
        near = [(abs(t), m) for t, m in offsets if -self.max_age_ns <= t <= self.max_ahead_ns]
        return min(near, key=lambda pair: pair[0])[1] if near else None


@dataclass(frozen=True)
class _Wanted:
    """A frame to come. is_tick: the reference sensor did not measure then."""

    reference_ns: int
    token: str
    is_tick: bool


class Assembler:
    """See the module docstring. One drive each.

    Args:
        scene: the drive's name, for its frames.
        where: the log's name, for errors.
        lap: how often clocks were set back before; names of later scenes, and tokens, end in that number.
        is_wanted: whether there shall be a frame at this reference time.

    Attributes:
        counts: what was left out, and how often.
    """

    def __init__(
        self,
        rig: Rig,
        assembly: Assembly,
        scene: str = "",
        where: str = "log",
        is_wanted: Callable[[int], bool] = lambda reference_ns: True,
        lap: int = 0,
    ):
        self._is_wanted, self.lap = is_wanted, lap
        self._rig, self._assembly, self._scene, self._where = rig, assembly, scene, where
        self._measurements = Measurements(rig, assembly)
        self.counts = self._measurements.counts
        # Measurements with the stamp of one before, by topic. No problem of a log: merged recordings share topics.
        self.duplicates: Counter[str] = Counter()
        self._reasons: dict[str, str] = {}  # topic -> what is wrong with the first measurement that cannot be used
        self._refused = Refused()
        self._sensors = {sensor.source.topic: sensor for sensor in _sensors(rig, assembly)}
        reference = rig.sensors.get(rig.reference)
        self._reference_topic = reference.topic if reference is not None and rig.samples is None else None
        self._calibration_topics = {source.calibration for source in rig.cameras.values()}
        self._wait_ns = round(1e9 * assembly.wait_s)
        self._oldest_ns = max((sensor.max_age_ns for sensor in self._sensors.values()), default=0)
        self._rejected: dict[tuple[str, int], str] = {}  # topic and stamp of what the latest frame lacks -> why
        self._longest_wait_ns = round(1e9 * assembly.pose_wait_s)
        self._longest_span_ns = max((sensor.span_ns for sensor in self._sensors.values()), default=0)
        self._times = FrameTimes(assembly)
        self._wanted: deque[_Wanted] = deque()
        self._latest_reference_ns = self._shown_ns = self._now_ns = self._tidied_ns = -(1 << 62)
        self._nothing = f"frames left out: no {' or '.join(assembly.sensors)} delivered"

    def push(self, message: Message) -> Iterator[Frame]:
        """Take one message, in order of time; yield the frames that it completes."""
        data = message.data
        if not (isinstance(data, Transform) and data.static):  # which may be stamped with any time
            self._now_ns = max(self._now_ns, message.timestamp_ns)
        self._tick(self._now_ns - self._wait_ns)
        yield from self._complete(self._is_ready)
        self._forget()
        if isinstance(data, Calibration | Motion):
            self.learn(message)
        elif isinstance(data, Sample):
            if message.topic == self._rig.samples:
                self._want(message.timestamp_ns, data.token)
        else:
            self._take(message)

    def learn(self, message: Message) -> None:
        """Take a calibration, a transform, a pose or a sweep. Before the first ``push`` they tell of the whole log."""
        if isinstance(message.data, Transform):
            try:
                self._measurements.transforms.add(message.timestamp_ns, message.data)
            except LogError as error:
                self._refused.add(message.data, error)
        elif isinstance(message.data, Located):
            try:
                self._measurements.ego_pose.learn(message)
            except LogError as error:
                self.counts[str(error)] += 1
        elif isinstance(message.data, Calibration) and message.topic in self._calibration_topics:
            self._measurements.calibrations[message.topic] = message.data
        elif isinstance(message.data, Cloud):
            self._look(message, message.timestamp_ns)

    @property
    def doubts(self) -> list[str]:
        """Lines on transforms that were left out, or that contradict each other."""
        measurements = self._measurements
        return [*self._refused.lines(), *measurements.transforms.doubts(), *measurements.ego_pose.doubts()]

    def begin_again(self, known: Iterable[Message]) -> Assembler:
        """One for the time after clocks were set back, with the counts of this one."""
        later = Assembler(self._rig, self._assembly, self._scene, self._where, self._is_wanted, self.lap + 1)
        for message in known:
            later.learn(message)
        later.counts.update(self.counts)
        later.duplicates.update(self.duplicates)
        return later

    def finish(self) -> Iterator[Frame]:
        """The frames that the end of the log completes."""
        self._tick(self._now_ns)
        yield from self._complete(lambda reference_ns: True)

    def due(self, until_ns: int) -> Iterator[Frame]:
        """The frames up to a time, with what has come: on a vehicle they do not wait for ever."""
        self._tick(until_ns)
        yield from self._complete(lambda reference_ns: reference_ns <= until_ns)

    def presence(self, reference_ns: int) -> dict[str, Presence]:
        """Sensor name -> what the latest frame has of it, whose reference time this is."""
        return {sensor.name: self._presence(sensor, reference_ns) for sensor in self._sensors.values()}

    def _presence(self, sensor: _Sensor, reference_ns: int) -> Presence:
        message = sensor.nearest(reference_ns)
        stamp_ns = sensor.latest_ns if message is None else message.timestamp_ns
        if stamp_ns is None:
            return Presence("waiting")
        age_s = 1e-9 * (reference_ns - stamp_ns)
        if message is None:
            return Presence("stale", age_s)
        reason = self._rejected.get((message.topic, stamp_ns))
        return Presence("active", age_s) if reason is None else Presence("rejected", age_s, reason)

    @property
    def scene(self) -> str:
        """The name of the drive, and how often clocks were set back in it."""
        return f"{self._scene}#{self.lap}" if self.lap else self._scene

    @property
    def horizon_ns(self) -> int:
        """How long after a frame messages may come that it waits for."""
        return max(self._longest_wait_ns, self._wait_ns + self._times.silence_ns)

    def _take(self, message: Message) -> None:
        sensor = self._sensors.get(message.topic)
        if self._now_ns - message.timestamp_ns > self._kept_ns + (sensor.span_ns if sensor is not None else 0):
            self.counts[f"{message.topic}: measurements that came too late for their frame"] += 1
            return
        if sensor is not None and self._rig.samples is None:
            passed = self._times.measured(message.timestamp_ns)
            if passed:
                self.counts[self._nothing] += passed
        if message.topic == self._reference_topic:
            self._times.reference_measured(message.timestamp_ns)
            self._want(message.timestamp_ns, str(message.timestamp_ns))
        if sensor is None:
            return
        expected = Image if sensor.kind == "camera" else Cloud
        if not isinstance(message.data, expected):
            found = type(message.data).__name__
            raise self._error(message, f"the rig expects a {sensor.kind}'s {expected.__name__} here, found {found}")
        self._look(message, message.timestamp_ns - sensor.source.offset_ns)
        if not sensor.remember(message):
            self.duplicates[message.topic] += 1
        while sensor.recent and self._now_ns - sensor.recent[0].timestamp_ns > self._kept_ns + sensor.span_ns:
            sensor.recent.popleft()

    def _look(self, message: Message, recorded_ns: int) -> None:
        """At a sweep, for its units; with its stamp as recorded, by which points have their times."""
        sensor = self._sensors.get(message.topic)
        if sensor is not None and sensor.kind == "lidar" and isinstance(message.data, Cloud):
            self._measurements.sweeps.look(message.topic, recorded_ns, message.data)

    @property
    def _kept_ns(self) -> int:
        """How long measurements are kept; those of sweeps for their span as well."""
        reference_wait_ns = self._times.silence_ns - self._times.interval_ns
        late_ns = max(self._longest_wait_ns, reference_wait_ns)
        return self._oldest_ns + self._wait_ns + late_ns

    def _tick(self, until_ns: int) -> None:
        for tick_ns in self._times.ticks(until_ns):
            self._want(tick_ns, str(tick_ns), is_tick=True)

    def _want(self, reference_ns: int, token: str, is_tick: bool = False) -> None:
        """One more frame, if the rate allows it."""
        if reference_ns <= self._latest_reference_ns:
            self.counts["frames left out: not later than the one before"] += 1
            return
        self._latest_reference_ns = reference_ns
        if self._times.is_due(reference_ns) and self._is_wanted(reference_ns):
            self._wanted.append(_Wanted(reference_ns, token, is_tick))

    def _is_ready(self, reference_ns: int) -> bool:
        latest_ns = reference_ns + self._wait_ns
        if self._now_ns <= latest_ns:
            return False
        if self._rig.world_frame is None or self._now_ns > reference_ns + self._longest_wait_ns:
            return True
        measured = self._measurements.ego_pose.measured()
        return measured is not None and measured[1] >= latest_ns

    def _complete(self, is_ready: Callable[[int], bool]) -> Iterator[Frame]:
        while self._wanted and is_ready(self._wanted[0].reference_ns):
            frame = self._frame(self._wanted.popleft())
            if frame is not None:
                yield frame

    def _forget(self) -> None:
        """Drop poses that no future frame needs, every so often, whether or not there are frames."""
        if self._now_ns - self._tidied_ns > self._longest_wait_ns:
            oldest_ns = self._wanted[0].reference_ns if self._wanted else self._now_ns
            self._measurements.forget_before(oldest_ns - self._kept_ns - self._longest_span_ns)
            self._tidied_ns = self._now_ns

    def _frame(self, wanted: _Wanted) -> Frame | None:
        reference_ns = wanted.reference_ns
        self._rejected.clear()
        near = (sensor.nearest(reference_ns) for sensor in self._sensors.values())
        newest_ns = max((message.timestamp_ns for message in near if message is not None), default=None)
        if newest_ns is None or (wanted.is_tick and newest_ns <= self._shown_ns):  # nothing but what has been shown
            self.counts[self._nothing] += 1
            return None
        world_T_ego = self._measurements.ego_pose.at(reference_ns)
        if world_T_ego is None:
            self.counts["frames left out: no ego pose"] += 1
            return None
        self._shown_ns = max(self._shown_ns, newest_ns)
        ego_T_world = inverse(world_T_ego)
        lidar = self._cloud("lidar", reference_ns, ego_T_world, len(LidarCloud.fields))
        radar = self._cloud("radar", reference_ns, ego_T_world, len(RadarCloud.fields))
        cameras = self._cameras(reference_ns, ego_T_world)
        if lidar is None and radar is None and not cameras:
            self.counts["frames left out: no measurement that can be used"] += 1
            return None
        lap = f"#{self.lap}" if self.lap else ""
        return Frame(
            token=wanted.token + lap,
            timestamp_ns=reference_ns,
            world_SE3_ego=SE3.from_matrix(world_T_ego),
            cameras=cameras,
            radar=None if radar is None else RadarCloud(radar),
            lidar=None if lidar is None else LidarCloud(lidar),
            scene=self.scene,
        )

    def _cameras(self, reference_ns: int, ego_T_world: np.ndarray) -> dict:
        cameras = {}
        for sensor, message in self._measured("camera", reference_ns):
            image = self._attempt(message, self._measurements.camera, sensor.source, ego_T_world)
            if image is not None:
                cameras[sensor.name] = image
        return cameras

    def _cloud(self, kind: str, reference_ns: int, ego_T_world: np.ndarray, width: int) -> np.ndarray | None:
        """float32 [N, width] of all sweeps; None where there is none."""
        sweeps = [
            (sensor, message)
            for sensor, newest in self._measured(kind, reference_ns)
            for message in _sweeps(sensor, newest)
        ]
        read = self._measurements.lidar if kind == "lidar" else self._measurements.radar
        points = np.empty((sum(len(message.data.records) for _, message in sweeps), width), dtype=np.float32)
        counts: list[int] = []  # of the points of each sweep; it is written to where those before it end
        for sensor, message in sweeps:
            age_s = 1e-9 * (reference_ns - message.timestamp_ns)
            count = self._attempt(message, read, sensor.source, ego_T_world, age_s, points[sum(counts) :])
            counts += [] if count is None else [count]
        return points[: sum(counts)] if counts else None

    def _measured(self, kind: str, reference_ns: int) -> Iterator[tuple[_Sensor, Message]]:
        """The sensors of a kind, by name, and of each the measurement nearest to the reference time."""
        for sensor in self._sensors.values():
            if sensor.kind == kind:
                message = sensor.nearest(reference_ns)
                if message is not None:
                    yield sensor, message
                else:
                    self.counts[f"frames without {sensor.name}"] += 1

    def _attempt(self, message: Message, read: Callable, *args):
        """The result of ``read``. An error is raised with file, topic and time, or counted if damage is skipped."""
        try:
            return read(message, *args)
        except UnknownPose as unknown:
            self._reject(message, f"measurements without {unknown}")
        except NoPicture as error:  # what a lost packet costs, as a lost message costs its measurement
            self._reject(message, str(error))
        except (LogError, SampleError) as error:
            if not self._assembly.skip_damaged:
                raise self._error(message, str(error)) from None
            reason = self._reasons.setdefault(message.topic, str(error))
            self._reject(message, f"{reason}: {UNUSABLE}")
        return None

    def _reject(self, message: Message, reason: str) -> None:
        self.counts[f"{message.topic}: {reason}"] += 1
        self._rejected[message.topic, message.timestamp_ns] = reason

    def _error(self, message: Message, text: str) -> LogError:
        return LogError(f"{self._where}: {message.topic} at {message.timestamp_ns} ns: {text}")


def _sensors(rig: Rig, assembly: Assembly) -> Iterator[_Sensor]:
    """Those of the rig that are to be read, by kind and name."""
    kinds: dict[str, tuple[Mapping[str, CameraSource | CloudSource], float]] = {
        "camera": (rig.cameras, 0.0),
        "lidar": (rig.lidars, assembly.lidar_span_s),
        "radar": (rig.radars, assembly.radar_span_s),
    }
    for kind, (sources, span_s) in kinds.items():
        if kind in assembly.sensors:
            for name, source in sorted(sources.items()):
                age_s = assembly.tolerance_s if source.max_age_s is None else source.max_age_s
                span_ns, age_ns, ahead_ns = (round(1e9 * seconds) for seconds in (span_s, age_s, assembly.wait_s))
                yield _Sensor(name, kind, source, span_ns, age_ns, ahead_ns)


def _sweeps(sensor: _Sensor, newest: Message) -> list[Message]:
    """The newest and those shortly before it, latest first."""
    before = [m for m in sensor.recent if 0 < newest.timestamp_ns - m.timestamp_ns <= sensor.span_ns]
    return [newest, *reversed(before)]
