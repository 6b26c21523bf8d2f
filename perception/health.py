"""Detects silent sensor faults before detection: sensors that deliver data without measuring.

Faults and how they are handled:

dead      A black image or an empty cloud. The sensor is treated as absent.
frozen    A new measurement with exactly the same data as the one before, noise included. For ``max_age_s`` after it
          first arrived the data is compensated for ego motion and its age increased; after that the sensor is treated
          as absent.

A measurement that is used again, as those of a camera slower than the frames are, is no fault: its time of measurement
is the same too. One older than ``max_age_s`` is frozen all the same.

Faults that alter measurements, such as a wrong calibration, are handled in the detector (``model.registration``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from perception.geometry import SE3
from perception.sample import CameraImage, Frame, PointCloud, SensorData

_DARKEST = 8  # maximum grey value of a dead camera's image; night images contain lights


def without_dead(frame: Frame) -> Frame:
    """The frame without dead sensors; unchanged if there are none, or if all sensors are dead."""
    alive = _mapped(frame, lambda name, part: None if _is_dead(part) else part)
    return alive if alive.sensors else frame


def _mapped(frame: Frame, change: Callable[[str, Any], Any]) -> Frame:
    """Apply ``change(name, part)`` to every image and cloud; None removes it. Without changes, returns the same object.

    The name of a cloud is that of its sensor; the name of an image is that of its camera.
    """
    data: dict[str, SensorData] = {}
    for sensor, old in frame.data.items():
        if isinstance(old, PointCloud):
            cloud = change(sensor, old)
            if cloud is not None:
                data[sensor] = cloud
            continue
        new = {name: change(name if sensor == "camera" else f"{sensor}/{name}", image) for name, image in old.items()}
        images: dict[str, CameraImage] = {name: image for name, image in new.items() if image is not None}
        same = len(images) == len(old) and all(images[name] is image for name, image in old.items())
        data[sensor] = old if same else images
    kept = data.keys() == frame.data.keys() and all(data[sensor] is old for sensor, old in frame.data.items())
    return frame if kept else frame.with_data(data)


def _is_dead(data: CameraImage | PointCloud) -> bool:
    return _is_black(data.image) if isinstance(data, CameraImage) else not len(data.points)


def _is_black(image: np.ndarray) -> bool:
    # A sparse sample shows that most images are lit; only images that are dark there are checked completely.
    return bool(image[::16, ::16].max(initial=0) <= _DARKEST and image.max(initial=0) <= _DARKEST)


@dataclass(frozen=True)
class _Seen:
    """The last new data of a sensor."""

    data: CameraImage | PointCloud
    timestamp_ns: int
    world_SE3_ego: SE3


@dataclass
class HealthMonitor:
    """Checks the frames of a drive, in order. A frame of another scene, or with an earlier time, resets the state.

    max_age_s: how long the data of a frozen sensor is still used, and a measurement again.
    """

    max_age_s: float = 0.6
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _last: tuple[str, int] = ("", 0)

    def check(self, frame: Frame) -> tuple[Frame, dict[str, str]]:
        """The frame to pass to a detector, and the faults: name of a camera or cloud -> "dead" or "frozen"."""
        if frame.scene != self._last[0] or frame.timestamp_ns < self._last[1]:
            self._seen.clear()
        self._last = (frame.scene, frame.timestamp_ns)
        faults: dict[str, str] = {}
        return _mapped(frame, lambda name, part: self._checked(name, part, frame, faults)), faults

    def _checked(self, name: str, data, frame: Frame, faults: dict[str, str]):
        """``data`` if it is new, otherwise compensated for ego motion, or None."""
        if _is_dead(data):
            faults[name] = "dead"
            return None
        seen = self._seen.get(name)
        if seen is None or not _same(seen.data, data):
            self._seen[name] = _Seen(data, frame.timestamp_ns, frame.world_SE3_ego)
            return data
        measured_ns = _measured_ns(data, frame)
        if measured_ns == _measured_ns(seen.data, seen) and frame.timestamp_ns - measured_ns <= 1e9 * self.max_age_s:
            return data
        faults[name] = "frozen"
        age_s = (frame.timestamp_ns - seen.timestamp_ns) * 1e-9
        if age_s > self.max_age_s:
            return None
        return _moved(seen.data, frame.world_SE3_ego.inverse() @ seen.world_SE3_ego, age_s)


def _same(old, new) -> bool:
    a, b = (x.image if isinstance(x, CameraImage) else x.points for x in (old, new))
    return a is b or (a.shape == b.shape and np.array_equal(a, b))


def _measured_ns(data: CameraImage | PointCloud, arrived: Frame | _Seen) -> int:
    """Time of measurement; of a cloud, which has none of its own, that of the frame that it arrived with."""
    return data.timestamp_ns if isinstance(data, CameraImage) else arrived.timestamp_ns


def _moved(data, now_SE3_then: SE3, age_s: float):
    if isinstance(data, CameraImage):
        return replace(data, ego_SE3_camera=now_SE3_then @ data.ego_SE3_camera)
    points = data.points.astype(np.float64)
    points[:, :3] = now_SE3_then.transform(points[:, :3])
    age, velocity = data.column("age_s"), data.velocity
    if age is not None:
        points[:, age] += age_s
    if velocity is not None:
        points[:, velocity] = now_SE3_then.rotate(np.pad(points[:, velocity], ((0, 0), (0, 1))))[:, :2]
    return type(data)(points)
