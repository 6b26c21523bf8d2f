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

from perception.due import Due, DueFrames
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.logs.arrays import calibration_of, image_of, lidar_of, radar_of
from perception.logs.frames import assembly_for
from perception.logs.inbox import Inbox
from perception.logs.measurements import Assembly
from perception.logs.messages import Cloud, Image, Message, Payload, Transform
from perception.logs.presence import Presence, with_faults
from perception.logs.rig import CameraSource, CloudSource, Rig, check_rig
from perception.replay.perceiver import Perceiver
from perception.sample import Detections
from perception.tracking import Tracks
from perception.vitals import Health, Level, SensorHealth, Vitals
from perception.warmup import made_up_frames

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
        ends in its first second, before that is known, or clocks were set back meanwhile.
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
            if not 0 < rate_hz < np.inf:
                raise StreamError(f"rate_hz: more than 0 was expected, found {rate_hz}")
            self._rig.reference, self._rig.samples = "", None
        self._own_assembly = assembly is None
        assembly = _assembly_of(detector, self._rig) if assembly is None else assembly
        assembly = replace(assembly, skip_damaged=True, rate_hz=rate_hz or assembly.rate_hz)
        least_s = assembly.wait_s + window_s
        for name, value, least in (
            ("window_s", window_s, 0), ("deadline_s", deadline_s, least_s), ("queue", queue, 1),
            ("stale_s", stale_s, 0), ("hang_s", hang_s, 0),
        ):  # fmt: skip
            if not least <= value < np.inf:
                raise StreamError(f"{name}: {least} or more was expected, found {value}")
        self._frames = DueFrames(self._rig, assembly, scene, round(1e9 * window_s), round(1e9 * deadline_s))
        self._assembly, self._every_frame = assembly, every_frame
        self._on_result, self._on_drop, self._on_health = on_result, on_drop, on_health
        self._clock = clock
        cameras = self._rig.cameras
        self._payloads = {s.topic: Image if name in cameras else Cloud for name, s in self._rig.sensors.items()}
        self._inbox = Inbox(lambda topic: queue if topic in self._payloads else _POSES_A_SENSOR * queue)
        self._due: deque[Due] = deque()
        self._results: deque[Result] = deque()
        self._vitals = Vitals(round(1e9 * hang_s), round(1e9 * stale_s))
        self._perceiver, self._next_detector = Perceiver(detector), detector
        self._ran: Any = None  # the detector that has run
        self._said: dict[str, str] = {}  # what failed -> with which error, the last time
        self._working = threading.Lock()  # one frame at a time; never taken inside of the other
        self._change = threading.Condition()  # of the inbox, the results, the vitals
        self._closed = threading.Event()
        self._threads: list[threading.Thread] = []

    # Who pushes: any thread, which never waits for those that work.

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
        if isinstance(data, Image):
            payload: Payload = replace(data, data=bytes(data.data))
        elif isinstance(data, Cloud):
            payload = replace(data, records=data.records.copy())
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
        message = replace(message, timestamp_ns=_time_of(message.topic, message.timestamp_ns))
        expected = self._payloads.get(message.topic)
        if expected is not None and not isinstance(message.data, expected):
            found = type(message.data).__name__
            raise StreamError(f"{message.topic}: an {expected.__name__} was expected, found {found}")
        self._put(message, holds=False)

    def _source(self, sensor: str) -> Any:
        source = self._rig.sensors.get(sensor)
        if source is None:
            closest = difflib.get_close_matches(str(sensor), self._rig.sensors, n=1, cutoff=0.0)
            raise StreamError(f"a sensor of the rig was expected, such as {closest[0]}, found {sensor!r}")
        return source

    def _push_known(self, topic: str, data: Payload, timestamp_ns: int | None) -> None:
        """What is said of a mount or a camera."""
        stamp_ns = 0 if timestamp_ns is None else _time_of(topic, timestamp_ns)
        self._put(Message(topic, stamp_ns, self._clock(), 0, data), holds=timestamp_ns is None)

    def _put(self, message: Message, holds: bool) -> None:
        if self._closed.is_set():
            raise StreamError(f"{message.topic}: a stream that is open was expected, found one that is closed")
        with self._change:
            dropped = self._inbox.put(message, holds)
            if dropped is not None:
                self._vitals.lost("messages dropped for newer ones", message.log_time_ns)
            self._change.notify_all()
        if dropped is not None and self._on_drop is not None:
            self._call("drops whose callback failed", self._on_drop, dropped.topic, dropped.timestamp_ns)

    # Who works: one thread at a time, the stream's own or that of the caller.

    def step(self) -> list[Result]:
        """Take what was pushed, and give the results of the frames that are due; in the caller's thread."""
        with self._working:
            self._collect()
            return self._seen()

    def finish(self) -> list[Result]:
        """The results of the frames that still wait, since nothing will come any more."""
        with self._working:
            self._collect(is_end=True)
            return self._seen()

    @property
    def sensors(self) -> dict[str, CameraSource | CloudSource]:
        """Those of the rig that the detector takes."""
        kinds = _sources(self._rig)
        return {name: s for kind in kinds if kind in self._assembly.sensors for name, s in kinds[kind].items()}

    def warmup(self) -> None:
        """Run the detector on a made-up frame of the rig's sensors, so that the first real one does not wait."""
        with self._working:
            perceiver = Perceiver(self._next_detector)
            for frame in made_up_frames(self._rig, self._assembly):
                perceiver.step(frame)
            self._ran = perceiver.detector

    @property
    def ready(self) -> bool:
        """Whether the detector, the one last set, has run, so that a frame takes no longer than usual."""
        return self._ran is self._next_detector

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

    def _work(self) -> None:
        while not self._closed.is_set():
            with self._change:
                if not self._inbox and not self._due:
                    self._change.wait(_IDLE_S)
            with self._working:
                if not self._due:
                    self._collect()
                result = self._result(self._due.popleft()) if self._due else None
            if result is not None and not self._closed.is_set():
                self._give(result)

    def _collect(self, is_end: bool = False) -> None:
        """The frames that are complete, or whose deadline has passed; at the end those that wait for others, too."""
        with self._change:  # what comes from now on is not missed by the deadlines of now
            posts, clock_ns = self._inbox.take(), self._clock()
        found = [self._frames.take(post) for post in posts] + [self._frames.late(clock_ns)]
        for frames in [*found, self._frames.finish(clock_ns)] if is_end else found:
            try:
                self._due.extend(frames)
            except Exception as error:  # costs that message, not those behind it
                self._failed("messages that failed", error)
        if not self._every_frame and len(self._due) > 1:
            with self._change:
                self._vitals.lost("frames dropped for newer ones", self._clock(), len(self._due) - 1)
            self._due = deque([self._due[-1]])

    def _seen(self) -> list[Result]:
        results = [self._result(self._due.popleft()) for _ in range(len(self._due))]
        return [result for result in results if result is not None]

    def _result(self, due: Due) -> Result | None:
        detector = self._next_detector
        if detector is not self._perceiver.detector:
            self._perceiver.detector = detector
        with self._change:
            self._vitals.begin(self._clock())
        try:
            perceived = self._perceiver.step(due.frame)
            tracks = self._perceiver.tracker.tracks(perceived.frame)
            presence = with_faults(due.presence, perceived.faults, perceived.frame, self._rig)
        except Exception as error:  # whatever a detector raises, a vehicle wants the next frame
            with self._change:
                self._vitals.failed(f"{type(error).__name__}: {error}")
            self._failed("frames whose inference failed", error)
            return None
        self._ran = detector
        frame, clock_ns = perceived.frame, self._clock()
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
            age_s=self._frames.age_s(frame, clock_ns),
        )

    # Who takes the results: a callback in the thread that works, or any other thread.

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

    def _give(self, result: Result) -> None:
        if self._on_result is not None:
            self._call("results whose callback failed", self._on_result, result)
            return
        with self._change:
            self._results.append(result)
            if len(self._results) > _RESULTS:
                self._results.popleft()
                self._vitals.lost("results that nobody took", self._clock())
            self._change.notify_all()

    # Who watches: any thread, and the watchdog.

    def health(self) -> Health:
        """See :class:`Health`. Never waits for inference."""
        with self._change:
            now_ns = self._clock()
            level, reasons = self._vitals.judged(now_ns)
            counts = dict(sorted((self._vitals.counts + self._frames.counts).items()))
            presence, inbox = self._vitals.presence, self._inbox
            sensors = {
                name: SensorHealth.of(source.topic, inbox, presence.get(name), now_ns)
                for name, source in self.sensors.items()
            }
            return Health(level, reasons, sensors, self._vitals.results, self._vitals.latency_ms, counts)

    def _watch(self) -> None:
        level: Level | None = None
        while not self._closed.wait(_WATCH_S):
            health = self.health()
            if health.level == level:
                continue
            level = health.level
            log.log(logging.INFO if level == "OK" else logging.WARNING, "%s: %s", level, "; ".join(health.reasons))
            if self._on_health is not None:
                self._call("levels whose callback failed", self._on_health, health)

    # What fails, in whichever thread.

    def _call(self, failure: str, callback: Callable[..., None], *args: Any) -> None:
        """A callback must not end the thread that works, watches or pushes."""
        try:
            callback(*args)
        except Exception as error:
            self._failed(failure, error)

    def _failed(self, what: str, error: Exception) -> None:
        """Inside of an ``except``."""
        text = f"{type(error).__name__}: {error}"
        if self._said.get(what) != text:  # the same again would fill a disk
            log.exception(what)
        self._said[what] = text
        with self._change:
            self._vitals.lost(what, self._clock())

    # From when to when.

    def __enter__(self) -> Stream:
        for target, name in ((self._work, "stream"), (self._watch, "stream's watchdog")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.close()

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


def _time_of(where: str, timestamp_ns: int) -> int:
    """No number of numpy's: those that are unsigned have no differences."""
    if not isinstance(timestamp_ns, int | np.integer) or not 0 < timestamp_ns < 1 << 62:
        raise StreamError(f"{where}: nanoseconds above 0 were expected, found {timestamp_ns!r}")
    return timestamp_ns if isinstance(timestamp_ns, int) else int(timestamp_ns)


def _sources(rig: Rig) -> dict[str, dict[str, Any]]:
    """kind -> the sensors of that kind, by their names."""
    return {"camera": {**rig.cameras}, "lidar": {**rig.lidars}, "radar": {**rig.radars}}


def _assembly_of(detector: Any, rig: Rig) -> Assembly:
    """Of the frames that the detector was trained on, with those of its sensors that the rig has."""
    known = getattr(detector, "sensors", _KINDS)
    sensors = tuple(kind for kind, sources in _sources(rig).items() if sources and kind in known)
    if not sensors:
        raise StreamError(f"rig: some of {', '.join(known)} were expected, which the detector knows, found none")
    if not hasattr(detector, "config"):
        return Assembly(sensors=sensors)
    return assembly_for(detector.config.data, image_size=detector.inputs.covering, sensors=sensors)
