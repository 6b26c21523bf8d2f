"""A vehicle made of noise, with two cameras, a LiDAR, a radar and poses; and what may go wrong with its messages."""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from perception.geometry import SE3
from perception.logs.arrays import ArrayError
from perception.logs.rig import CameraSource, CloudSource, Rig
from perception.sample import Boxes3D, Detections
from perception.seeding import keyed_rng
from perception.stream import Result, Stream

START_NS = 1_700_000_000_000_000_000
FRAME_NS = 100_000_000
_MS = 1_000_000
_LATE = {"ROOF": 0, "FRONT": -20 * _MS, "BACK": -10 * _MS, "NOSE": 15 * _MS}  # a sensor's stamps, after the LiDAR's
SENSORS = tuple(_LATE)
MOST_AGE_S = 0.05  # so that of a sensor that dies nothing is in the next frame
_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
_INTRINSICS = np.array([[20.0, 0, 12], [0, 20, 8], [0, 0, 1]])


class Event(NamedTuple):
    """arrives_ns: by the clock.  what: a sensor, or "pose".  data: what is pushed; of a pose, a transform."""

    arrives_ns: int
    timestamp_ns: int
    what: str
    data: np.ndarray | SE3


class Clock:
    """It stands still until it is set."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


class Stub:
    """Sees a box whose place and score tell every bit of the frame."""

    sensors = ("camera", "radar", "lidar")

    def prepare(self, frames):
        return frames

    def __call__(self, frames):
        return [self._seen(frame) for frame in frames]

    def decode(self, prediction):
        return prediction

    def _seen(self, frame):
        parts = [frame.world_SE3_ego.matrix]
        for cloud in (frame.lidar, frame.radar):
            parts += [] if cloud is None else [cloud.points]
        for image in (frame.cameras or {}).values():
            parts += [image.image, image.intrinsics, image.ego_SE3_camera.matrix]
        code = 0
        for part in parts:
            code = zlib.crc32(np.ascontiguousarray(part).tobytes(), code)
        center = np.array([[code % 997 / 20, code // 997 % 997 / 20 - 25, 1.0]])
        boxes = Boxes3D(center, np.array([[4.0, 2, 1.5]]), np.zeros(1), np.zeros((1, 2)), np.zeros(1))
        return Detections(boxes, np.array([(1 + code % 1000) / 1001]))


def rig() -> Rig:
    def camera(name: str) -> CameraSource:
        return CameraSource(image=f"/{name}", calibration=f"/{name}/info", max_age_s=MOST_AGE_S)

    def cloud(name: str) -> CloudSource:
        return CloudSource(cloud=f"/{name}", max_age_s=MOST_AGE_S)

    return Rig(
        reference="ROOF",
        cameras={name: camera(name) for name in ("FRONT", "BACK")},
        lidars={"ROOF": cloud("ROOF")},
        radars={"NOSE": cloud("NOSE")},
    )


def describe(stream: Stream) -> None:
    """Where the sensors are, and what the cameras see."""
    stream.push_transform("base_link", "ROOF", SE3(translation=np.array([0.0, 0, 1.8])))
    stream.push_transform("base_link", "NOSE", SE3(translation=np.array([3.5, 0, 0.5])))
    for name, yaw in (("FRONT", 0.0), ("BACK", np.pi)):
        turned = SE3.from_yaw(yaw, [0.0, 0, 1.6])
        stream.push_transform("base_link", name, turned @ SE3(_OPTICAL))
        stream.push_calibration(name, _INTRINSICS)


def measurement(seed: int, sensor: str, frame: int) -> np.ndarray:
    rng = keyed_rng(seed, sensor, str(frame))
    if sensor in ("FRONT", "BACK"):
        return rng.integers(20, 255, (16, 24, 3), np.uint8)
    points = np.zeros((40, 4 if sensor == "ROOF" else 6), np.float32)
    points[:, :3] = rng.uniform((-10, -10, -1), (10, 10, 2), (40, 3))
    points[:, 3:] = rng.uniform(1, 20, points[:, 3:].shape)
    return points


def drive(frames: int, seed: int = 0, sensors: Iterable[str] = SENSORS, first: int = 0) -> Iterator[Event]:
    """In order of measurement, and of arrival, 5 ms later; the vehicle drives at 10 m/s."""
    sensors = tuple(sensors)
    for frame in range(first, first + frames):
        reference_ns = START_NS + frame * FRAME_NS
        events = [(reference_ns + _LATE[name], name) for name in sensors]
        events += [(reference_ns - 20 * _MS + i * 50 * _MS, "pose") for i in range(2)]
        for timestamp_ns, what in sorted(events):
            if what == "pose":
                data = SE3(translation=np.array([(timestamp_ns - START_NS) * 1e-8, 0, 0]))
            else:
                data = measurement(seed, what, frame)
            yield Event(timestamp_ns + 5 * _MS, timestamp_ns, what, data)


def without(events: Iterable[Event], what: Iterable[str], since: int = 0, until: int = 1 << 62) -> Iterator[Event]:
    """The events but those of some sensors in these frames."""
    for event in events:
        frame = (event.timestamp_ns - START_NS + FRAME_NS // 2) // FRAME_NS
        if event.what not in what or not since <= frame < until:
            yield event


def push(stream: Stream, event: Event) -> None:
    if event.what == "pose":
        stream.push_transform("map", "base_link", event.data, event.timestamp_ns)
    else:
        stream.push(event.what, event.data, event.timestamp_ns)


def fed(stream: Stream, clock: Clock, events: Iterable[Event]) -> Iterator[Result]:
    """The results of a stream whose clock is that of the arrivals, a step after each."""
    for event in events:
        clock.now_ns = max(clock.now_ns, event.arrives_ns)
        try:
            push(stream, event)
        except ArrayError:
            pass  # what no sensor says
        yield from stream.step()


def faulty(events: Iterable[Event], rng: np.random.Generator) -> Iterator[Event]:
    """All that may happen to messages, in order of arrival: a fault for one in four, and outages and jumps of time."""
    waiting: list[tuple[int, int, Event]] = []
    latest: dict[str, np.ndarray | SE3] = {}
    shift_ns, dead = 0, {}
    for number, event in enumerate(events):
        if rng.random() < 0.0005:
            shift_ns = int(rng.integers(-3000, 3000)) * _MS
        if rng.random() < 0.002:
            dead[str(rng.choice(SENSORS))] = event.timestamp_ns + int(rng.integers(50, 3000)) * _MS
        late_ns = int(rng.integers(0, 20)) * _MS
        event = event._replace(timestamp_ns=event.timestamp_ns + shift_ns, arrives_ns=event.arrives_ns + late_ns)
        if dead.get(event.what, 0) < event.timestamp_ns - shift_ns:
            for each in _faults(event, latest.get(event.what), rng):
                heapq.heappush(waiting, (each.arrives_ns, number * 2 + (each is not event), each))
        latest[event.what] = event.data
        while waiting and waiting[0][0] < event.arrives_ns - 25 * _MS:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _faults(event: Event, before: np.ndarray | SE3 | None, rng: np.random.Generator) -> Iterator[Event]:
    fault = rng.integers(0, 40)
    if fault == 0:
        return  # lost
    if fault == 1:
        yield event._replace(arrives_ns=event.arrives_ns + 7 * _MS)  # twice
    elif fault == 2:
        event = event._replace(arrives_ns=event.arrives_ns + int(rng.integers(20, 2000)) * _MS)  # late
    elif fault == 3:
        event = event._replace(timestamp_ns=event.timestamp_ns + int(rng.integers(60, 20000)) * _MS)  # of the future
    elif fault == 4:
        event = event._replace(timestamp_ns=event.timestamp_ns - int(rng.integers(60, 20000)) * _MS)  # of the past
    elif fault == 5 and before is not None:
        event = event._replace(data=before)  # stuck
    elif isinstance(event.data, np.ndarray):
        event = event._replace(data=_damaged(event.data, fault, rng))
    yield event


def _damaged(data: np.ndarray, fault: int, rng: np.random.Generator) -> np.ndarray:
    if fault == 6:
        return np.zeros_like(data)  # black; all points in one place
    if fault == 7:
        return data[:0] if data.ndim == 2 else data[:1, :1]  # nothing in it; a pixel
    if fault == 8:
        return data.astype(np.float64)  # of another type, which is refused
    if fault == 9 and data.dtype == np.float32:
        damaged = data.copy()
        damaged[rng.integers(0, len(data), 5)] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        return damaged
    return data
