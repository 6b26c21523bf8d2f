"""The detector on a vehicle: measurements in as they come, detections and tracks out. No ROS, and no file, in it.

    with perception.Stream(detector, rig, on_result=drive) as stream:
        stream.push("LIDAR", points, timestamp_ns)              # from any thread, at any time

A frame takes the same way as in a replay: messages are sorted by time of measurement (``logs/order.py``), assembled
(``logs/assemble.py``), checked, detected and tracked (``replay/perceiver.py``). ``docs/embedding.md`` has the threads,
the table of faults and the limits.
"""

from __future__ import annotations

import copy
import difflib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.logs.arrays import calibration_of, image_of, lidar_of, radar_of
from perception.logs.frames import assembly_for
from perception.logs.inbox import Inbox
from perception.logs.live import LiveFrames
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud, Image, Message, Payload, Transform
from perception.logs.presence import Presence
from perception.logs.rig import CameraSource, CloudSource, Rig, check_rig
from perception.replay.perceiver import Perceiver
from perception.sample import CameraImage, Detections, Frame, LidarCloud, RadarCloud
from perception.tracking import Tracks
from perception.vitals import Health, Level, SensorHealth, Vitals

log = logging.getLogger(__name__)

_KINDS = ("camera", "lidar", "radar")
_POSES_A_SENSOR = 64  # messages other than measurements that may wait, for each measurement that may
_RESULTS = 16  # that wait to be taken
_IDLE_S = 0.02  # how late a frame may be noticed to be due
_WATCH_S = 0.2  # between two looks of the watchdog
_CLOSING_S = 5.0  # what a thread is given to end


class StreamError(PerceptionError):
    """What is pushed is of no sensor of the rig, or has no time; or an option makes no sense."""


@dataclass(frozen=True, eq=False)
class Result:
    """One frame, seen.

    sequence: number of results before it.  token, scene: as a replay has them.
    timestamp_ns: the reference time, later than that of any result before it in this scene; another scene, ``name#1``,
        begins where the clocks of most sensors are set back.
    world_SE3_ego: the ego pose then.
    detections: as of :meth:`Detector.detect`, in the ego frame.  track_ids: int64 [N], the track of each, -1 for none.
    tracks: all current tracks, those without a detection included.
    sensors: every sensor of the rig that the detector takes -> what the frame had of it, and why it lacked the rest.
    age_s: the vehicle's time, as most sensors have it, at the result, minus the reference time; None where a drive
        ends in its first second, before that is known.
    """

    sequence: int
    token: str
    scene: str
    timestamp_ns: int
    world_SE3_ego: SE3
    detections: Detections
    track_ids: np.ndarray
    tracks: Tracks
    sensors: dict[str, Presence]
    age_s: float | None

    @property
    def is_degraded(self) -> bool:
        """Whether a sensor of the rig is missing."""
        return any(presence.state != "active" for presence in self.sensors.values())


@dataclass(frozen=True, eq=False)
class _Due:
    """A frame to be seen, and since when, by the stream's clock."""

    frame: Frame
    presence: dict[str, Presence]
    since_ns: int


class Stream:
    """See the module docstring. Every method may be called from any thread.

    As a context manager it works in a thread of its own, beside a watchdog. Otherwise nothing happens until
    :meth:`step` is called, which does the work in the caller's thread.

    Args:
        detector: as in :func:`perception.replay.pipeline.replay`.
        rig: its sensors, as in a rig file; topics matter only for messages that are pushed as such.
        assembly: how frames are made; None: as the detector was trained.
        rate_hz: frames at this rate by the clock of the stamps, instead of at the measurements of ``rig.reference``.
        window_s: how long a message waits for others that were measured before it. Within it, the order of arrival
            does not change a bit of the output.
        deadline_s: a frame goes this long after its reference time with what has come.
        queue: measurements of each sensor that may wait; a newer one drops the oldest.
        every_frame: whether also those are seen that were due when the one before was not yet done, as in a replay;
            otherwise the newest is, and the others are dropped.
        stale_s: without a result for so long it is stale.  hang_s: inference that takes longer hangs.
        on_result: takes every result, in the stream's thread; without it they wait for :meth:`poll`.
        on_drop: takes the topic of a message that is dropped for a newer one and its stamp, in the thread that pushes.
        on_health: takes the :class:`Health` whenever its level changes, in the watchdog's thread.
        clock: monotonic, in ns. It need not agree with the stamps.
        scene: the name of the drive.

    Raises:
        ConfigError: the rig makes no sense.  StreamError: an option does not.
    """

    def __init__(
        self,
        detector: Any,
        rig: Rig,
        *,
        assembly: Assembly | None = None,
        rate_hz: float | None = None,
        window_s: float = 0.05,
        deadline_s: float = 0.25,
        queue: int = 16,
        every_frame: bool = False,
        stale_s: float = 1.0,
        hang_s: float = 0.7,
        on_result: Callable[[Result], None] | None = None,
        on_drop: Callable[[str, int], None] | None = None,
        on_health: Callable[[Health], None] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        scene: str = "live",
    ):
        self._rig = copy.deepcopy(rig)
        check_rig(self._rig, "rig")
        if rate_hz is not None:
            self._rig.reference, self._rig.samples = "", None
        self._own_assembly = assembly is None
        assembly = _assembly_of(detector, self._rig) if assembly is None else assembly
        assembly = replace(assembly, skip_damaged=True, rate_hz=rate_hz or assembly.rate_hz)
        least_s = assembly.wait_s + window_s
        for name, value, least in (("window_s", window_s, 0), ("deadline_s", deadline_s, least_s), ("queue", queue, 1)):
            if not least <= value < np.inf:
                raise StreamError(f"{name}: {least} or more was expected, found {value}")
        self._live = LiveFrames(self._rig, assembly, scene, window_ns=round(1e9 * window_s))
        self._assembly, self._deadline_ns, self._every_frame = assembly, round(1e9 * deadline_s), every_frame
        self._on_result, self._on_drop, self._on_health = on_result, on_drop, on_health
        self._clock = clock
        cameras = self._rig.cameras
        self._payloads = {s.topic: Image if name in cameras else Cloud for name, s in self._rig.sensors.items()}
        self._inbox = Inbox(lambda topic: queue if topic in self._payloads else _POSES_A_SENSOR * queue)
        self._results: deque[Result] = deque()
        self._vitals = Vitals(round(1e9 * hang_s), round(1e9 * stale_s))
        self._perceiver, self._next_detector = Perceiver(detector), detector
        self._heard: tuple[int, int] | None = None  # the vehicle's time and the clock's, when it was last known
        self._ready = False
        self._working = threading.Lock()  # one step at a time; never taken inside of the other
        self._change = threading.Condition()  # of the inbox, the results, the vitals
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    def push(self, sensor: str, data: np.ndarray | Image | Cloud, timestamp_ns: int) -> None:
        """A measurement. Never waits; what it takes of ``data`` is copied.

        Args:
            sensor: its name in the rig.
            data: of a camera uint8 [H, W, 3] RGB; of a LiDAR float32 [N, 3..5], the columns of a
                :class:`perception.LidarCloud` from x on; of a radar float32 [N, 6], those of a
                :class:`perception.RadarCloud` up to vy. All in the sensor's own frame: the rig's ``frame_id``, else
                its name. Or an ``Image`` or a ``Cloud`` as logs have them, compressed or with any fields.
            timestamp_ns: when it was measured, by the sensor's clock.

        Raises:
            StreamError: no such sensor or no time.  ArrayError: another shape or type.
        """
        source = self._source(sensor)
        if isinstance(data, Image | Cloud):
            payload: Payload = data
        elif not isinstance(data, np.ndarray):
            raise StreamError(f"{sensor}: an array, an Image or a Cloud was expected, found {type(data).__name__}")
        elif isinstance(source, CameraSource):
            payload = image_of(sensor, source.frame_id or sensor, data)
        elif sensor in self._rig.lidars:
            payload = lidar_of(sensor, source.frame_id or sensor, data)
            source.intensity_max = source.intensity_max or 255.0  # which is not to be told by its numbers
        else:
            payload = radar_of(sensor, source.frame_id or sensor, data)
        self.push_message(Message(source.topic, timestamp_ns, self._clock(), 0, payload))

    def push_transform(self, parent: str, child: str, parent_SE3_child: SE3, timestamp_ns: int | None = None) -> None:
        """Where a frame was: of the vehicle, from the rig's world frame to its ego frame; of a sensor, from that on.

        timestamp_ns: when it was measured; None: it holds from now on. Extrinsics may change while the stream runs.
        """
        data = Transform(parent, child, parent_SE3_child.pose, static=timestamp_ns is None)
        self._push_known("/tf" if timestamp_ns is not None else f"/tf_static/{parent}/{child}", data, timestamp_ns)

    def push_calibration(
        self,
        camera: str,
        intrinsics: np.ndarray,
        distortion: Sequence[float] | np.ndarray = (),
        model: str | None = None,
        timestamp_ns: int | None = None,
    ) -> None:
        """Of the images as they are pushed.

        Args:
            intrinsics: [3, 3], pixels.  distortion: [0, 4, 5 or 8], which images are freed of.
            model: "plumb_bob", "rational_polynomial" or "equidistant"; None: one of the first two, by their number.
            timestamp_ns: from when on; None: from now on.

        Raises:
            StreamError: a camera that is not in the rig, or of which the rig says the intrinsics.
            ArrayError: numbers that are none.
        """
        source = self._source(camera)
        if not isinstance(source, CameraSource) or source.calibration is None:
            raise StreamError(f"{camera}: a camera whose calibration is a topic in the rig was expected, found none")
        k, d = (np.asarray(values, dtype=np.float64) for values in (intrinsics, distortion))
        data = calibration_of(camera, source.frame_id or camera, k, d, model)
        self._push_known(source.calibration, data, timestamp_ns)

    def push_message(self, message: Message) -> None:
        """A message as logs have them, on a topic of the rig; ``log_time_ns``: when it came, by the stream's clock."""
        _require_time(message.topic, message.timestamp_ns)
        expected = self._payloads.get(message.topic)
        if expected is not None and not isinstance(message.data, expected):
            found = type(message.data).__name__
            raise StreamError(f"{message.topic}: an {expected.__name__} was expected, found {found}")
        self._put(message, holds=False)

    def step(self) -> list[Result]:
        """Take what was pushed, and give the results of the frames that are due; in the caller's thread."""
        with self._working:
            return self._seen(list(self._due()))

    def finish(self) -> list[Result]:
        """The results of the frames that still wait, since nothing will come any more."""
        with self._working:
            due = list(self._due())
            frames = self._live.finish()
            due += [_Due(frame, self._live.presence(frame.timestamp_ns), self._clock()) for frame in frames]
            return self._seen(due)

    def poll(self) -> Result | None:
        """The next result, None while there is none."""
        with self._change:
            return self._results.popleft() if self._results else None

    def __iter__(self) -> Iterator[Result]:
        """The results as they come, until the stream is closed."""
        while True:
            with self._change:
                self._change.wait_for(lambda: self._results or self._closed.is_set())
                if not self._results:
                    return
                result = self._results.popleft()
            yield result

    def warmup(self) -> None:
        """Run the detector on a made-up frame of the rig's sensors, so that the first real one does not wait."""
        with self._working:
            perceiver = Perceiver(self._next_detector)
            for second in (1, 2):  # the second has a memory
                frame = _made_up(self._rig, self._assembly.sensors, second)
                perceiver.step(frame)
        self._ready = True

    @property
    def ready(self) -> bool:
        """Whether the detector has run, so that a frame takes no longer than usual."""
        return self._ready

    @property
    def detector(self) -> Any:
        """May be set at any time, and is used from the next frame on. What the old one remembers is forgotten.

        Setting it raises StreamError if it was trained on other sweeps, pictures or sensors.
        """
        return self._next_detector

    @detector.setter
    def detector(self, detector: Any) -> None:
        if self._own_assembly:
            expected = replace(_assembly_of(detector, self._rig), skip_damaged=True, rate_hz=self._assembly.rate_hz)
            if expected != self._assembly:
                raise StreamError(f"a detector of frames as {self._assembly} was expected, found one of {expected}")
        self._next_detector = detector

    def health(self) -> Health:
        """See :class:`Health`. Never waits for inference."""
        with self._change:
            now_ns = self._clock()
            level, reasons = self._vitals.judged(now_ns)
            counts = dict(sorted((self._vitals.counts + self._live.counts).items()))
            sensors = {name: self._sensor_health(name, source.topic, now_ns) for name, source in self._sources()}
            return Health(level, reasons, sensors, self._vitals.results, self._vitals.latency_ms, counts)

    def close(self) -> None:
        """End the threads. What still waits is left; results can still be polled. May be called twice."""
        self._closed.set()
        with self._change:
            self._change.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_CLOSING_S)
                if thread.is_alive():
                    log.error("%s: does not end, and is left behind", thread.name)
        self._threads.clear()

    def __enter__(self) -> Stream:
        for target, name in ((self._work, "stream"), (self._watch, "stream's watchdog")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _sources(self) -> Iterator[tuple[str, CameraSource | CloudSource]]:
        return iter(self._rig.sensors.items())

    def _source(self, sensor: str) -> Any:
        source = self._rig.sensors.get(sensor)
        if source is None:
            closest = difflib.get_close_matches(str(sensor), self._rig.sensors, n=1, cutoff=0.0)
            raise StreamError(f"a sensor of the rig was expected, such as {closest[0]}, found {sensor!r}")
        return source

    def _push_known(self, topic: str, data: Payload, timestamp_ns: int | None) -> None:
        """What is said of a mount or a camera."""
        if timestamp_ns is not None:
            _require_time(topic, timestamp_ns)
        self._put(Message(topic, timestamp_ns or 0, self._clock(), 0, data), holds=timestamp_ns is None)

    def _put(self, message: Message, holds: bool) -> None:
        if self._closed.is_set():
            raise StreamError(f"{message.topic}: a stream that is open was expected, found one that is closed")
        with self._change:
            dropped = self._inbox.put(message, holds)
            if dropped is not None:
                self._vitals.lost("messages dropped for newer ones", message.log_time_ns)
            self._change.notify_all()
        if dropped is not None and self._on_drop is not None:
            self._on_drop(dropped.topic, dropped.timestamp_ns)

    def _due(self) -> Iterator[_Due]:
        """The frames that are complete, or whose deadline has passed."""
        with self._change:  # what comes from now on is not missed by the deadlines of now
            posts, clock_ns = self._inbox.take(), self._clock()
        for _, message, holds in posts:
            if holds:
                self._live.learn(message)
                continue
            for frame in self._live.push(message):
                yield _Due(frame, self._live.presence(frame.timestamp_ns), message.log_time_ns)
            now_ns = self._live.now_ns
            if now_ns is None:  # again, once clocks were set back
                self._heard = None
            elif self._heard is None or now_ns != self._heard[0]:
                self._heard = now_ns, message.log_time_ns
        if self._heard is not None:
            for frame in self._live.due(_vehicle_ns(*self._heard, clock_ns) - self._deadline_ns):
                yield _Due(frame, self._live.presence(frame.timestamp_ns), clock_ns)

    def _seen(self, due: list[_Due]) -> list[Result]:
        if not self._every_frame and len(due) > 1:
            with self._change:
                self._vitals.lost("frames dropped for newer ones", self._clock(), len(due) - 1)
            due = due[-1:]
        return [result for each in due if (result := self._result(each)) is not None]

    def _result(self, due: _Due) -> Result | None:
        if self._next_detector is not self._perceiver.detector:
            self._perceiver.detector = self._next_detector
        with self._change:
            self._vitals.begin(self._clock())
        try:
            perceived = self._perceiver.step(due.frame)
            tracks = self._perceiver.tracker.tracks(perceived.frame)
        except Exception as error:  # whatever a detector raises, a vehicle wants the next frame
            self._failed(error)
            return None
        self._ready = True
        frame, clock_ns = perceived.frame, self._clock()
        presence = _checked(due.presence, perceived.faults, frame, self._rig)
        with self._change:
            sequence = self._vitals.results
            self._vitals.done(presence, clock_ns - due.since_ns, clock_ns)
        return Result(
            sequence=sequence,
            token=frame.token,
            scene=frame.scene,
            timestamp_ns=frame.timestamp_ns,
            world_SE3_ego=frame.world_SE3_ego,
            detections=perceived.detections,
            track_ids=perceived.tracks,
            tracks=tracks,
            sensors=presence,
            age_s=None if self._heard is None else 1e-9 * (_vehicle_ns(*self._heard, clock_ns) - frame.timestamp_ns),
        )

    def _failed(self, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._vitals.error:  # the same again would fill a disk
            log.exception("a frame has failed")
        with self._change:
            self._vitals.failed(text, self._clock())

    def _give(self, result: Result) -> None:
        if self._on_result is not None:
            try:
                self._on_result(result)
            except Exception:  # which must not end the thread that works
                log.exception("on_result")
                with self._change:
                    self._vitals.lost("results whose callback failed", self._clock())
            return
        with self._change:
            self._results.append(result)
            if len(self._results) > _RESULTS:
                self._results.popleft()
                self._vitals.lost("results that nobody took", self._clock())
            self._change.notify_all()

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._change:
                if not self._inbox:
                    self._change.wait(_IDLE_S)
            try:
                for result in self.step():
                    self._give(result)
            except Exception as error:
                self._failed(error)

    def _watch(self) -> None:
        level: Level | None = None
        while not self._closed.wait(_WATCH_S):
            health = self.health()
            if health.level == level:
                continue
            level = health.level
            log.log(logging.INFO if level == "OK" else logging.WARNING, "%s: %s", level, "; ".join(health.reasons))
            if self._on_health is not None:
                try:
                    self._on_health(health)
                except Exception:
                    log.exception("on_health")

    def _sensor_health(self, name: str, topic: str, now_ns: int) -> SensorHealth:
        arrived_ns, presence = self._inbox.arrived_ns(topic), self._vitals.presence.get(name)
        return SensorHealth(
            state="waiting" if presence is None else presence.state,
            rate_hz=self._inbox.rate_hz(topic),
            age_s=None if arrived_ns is None else 1e-9 * (now_ns - arrived_ns),
            received=self._inbox.received[topic],
            dropped=self._inbox.dropped[topic],
        )


def _vehicle_ns(then_ns: int, heard_ns: int, clock_ns: int) -> int:
    """The vehicle's time: as last heard, and what has passed since then by the clock."""
    return then_ns + clock_ns - heard_ns


def _require_time(where: str, timestamp_ns: int) -> None:
    if not isinstance(timestamp_ns, int | np.integer) or not 0 < timestamp_ns < 1 << 62:
        raise StreamError(f"{where}: nanoseconds above 0 were expected, found {timestamp_ns!r}")


def _assembly_of(detector: Any, rig: Rig) -> Assembly:
    """Of the frames that the detector was trained on, with those of its sensors that the rig has."""
    known = getattr(detector, "sensors", _KINDS)
    kinds = {"camera": rig.cameras, "lidar": rig.lidars, "radar": rig.radars}
    sensors = tuple(kind for kind, sources in kinds.items() if sources and kind in known)
    if not sensors:
        raise StreamError(f"rig: some of {', '.join(known)} were expected, which the detector knows, found none")
    if not hasattr(detector, "config"):
        return Assembly(sensors=sensors)
    return assembly_for(detector.config.data, image_size=detector.inputs.covering, sensors=sensors)


def _checked(presence: dict[str, Presence], faults: dict[str, str], frame: Frame, rig: Rig) -> dict[str, Presence]:
    """With what the health monitor has found: a sensor whose data it took away is rejected."""
    clouds = {"lidar": rig.lidars, "radar": rig.radars}
    found = dict(presence)
    for part, fault in faults.items():
        names = clouds.get(part, (part,))
        left = frame.data.get(part) if part in clouds else (frame.cameras or {}).get(part)
        for name in names:
            if found[name].state == "active":
                found[name] = replace(found[name], state="rejected" if left is None else "active", reason=fault)
    return found


def _made_up(rig: Rig, sensors: Sequence[str], second: int) -> Frame:
    """A frame of noise."""
    rng = np.random.default_rng(second)
    optical = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.array([0, 0, 1.5]))
    intrinsics = np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]])
    timestamp_ns = second * 1_000_000_000

    def image() -> CameraImage:
        return CameraImage(rng.integers(0, 255, (360, 640, 3), np.uint8), intrinsics, optical, timestamp_ns)

    def points(width: int) -> np.ndarray:
        cloud = np.zeros((2000, width), np.float32)
        cloud[:, :3] = rng.uniform((-40, -40, 0), (40, 40, 3), (2000, 3))
        return cloud

    return Frame(
        token=f"warm-up {second}",
        timestamp_ns=timestamp_ns,
        cameras={name: image() for name in rig.cameras} if "camera" in sensors else None,
        lidar=LidarCloud(points(len(LidarCloud.fields))) if "lidar" in sensors else None,
        radar=RadarCloud(points(len(RadarCloud.fields))) if "radar" in sensors else None,
    )
