"""Silent faults found at the door: sensors that deliver something, but nothing that was measured now.

What a fault looks like, and what is done about it:

dead      An image without any light in it, a cloud without a point. The sensor counts as absent.
frozen    The same bytes as in the frame before, noise included. What they show was true when they first came: for
          ``max_age_s`` they are moved to where the vehicle's own motion says it is now, and their age grows; after that
          the sensor counts as absent.

Faults that change what is measured, such as a wrong calibration, are the detector's business (``model.registration``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from perception.geometry import SE3
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud

_DARKEST = 8  # grey value that no pixel of an image of a dead camera exceeds; night images have lamps


def without_dead(frame: Frame) -> Frame:
    """The frame without dead sensors; the frame itself where there are none, or no others."""
    parts = {**(frame.cameras or {}), "radar": frame.radar, "lidar": frame.lidar}
    alive = _with(frame, {name: None if data is None or _is_dead(data) else data for name, data in parts.items()})
    return alive if alive.sensors else frame


def _with(frame: Frame, parts: dict) -> Frame:
    """The frame with these cameras, "radar" and "lidar", None where absent. What is as before stays the same object."""
    cameras = {name: parts[name] for name in frame.cameras or {}}
    if all(cameras[name] is camera for name, camera in (frame.cameras or {}).items()):
        if parts["radar"] is frame.radar and parts["lidar"] is frame.lidar:
            return frame
        return replace(frame, radar=parts["radar"], lidar=parts["lidar"])
    cameras = {name: camera for name, camera in cameras.items() if camera is not None}
    return replace(frame, cameras=cameras, radar=parts["radar"], lidar=parts["lidar"])


def _is_dead(data: CameraImage | LidarCloud | RadarCloud) -> bool:
    return _is_black(data.image) if isinstance(data, CameraImage) else not len(data.points)


def _is_black(image: np.ndarray) -> bool:
    # A lit image shows it in a few pixels; only one that is dark there is looked at whole.
    return bool(image[::16, ::16].max(initial=0) <= _DARKEST and image.max(initial=0) <= _DARKEST)


@dataclass(frozen=True)
class _Seen:
    """What a sensor delivered when it last delivered something new."""

    data: CameraImage | LidarCloud | RadarCloud
    timestamp_ns: int
    world_SE3_ego: SE3


@dataclass
class HealthMonitor:
    """Watches the frames of a drive, in order. A frame of another scene, or of an earlier time, starts anew.

    max_age_s: how long a frozen sensor is still of use.
    """

    max_age_s: float = 0.6
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _last: tuple[str, int] = ("", 0)

    def check(self, frame: Frame) -> tuple[Frame, dict[str, str]]:
        """The frame as a detector should see it; and camera name, "radar" or "lidar" -> "dead" or "frozen"."""
        if frame.scene != self._last[0] or frame.timestamp_ns < self._last[1]:
            self._seen.clear()
        self._last = (frame.scene, frame.timestamp_ns)
        faults: dict[str, str] = {}
        parts = {**(frame.cameras or {}), "radar": frame.radar, "lidar": frame.lidar}
        return _with(frame, {name: self._checked(name, data, frame, faults) for name, data in parts.items()}), faults

    def _checked(self, name: str, data, frame: Frame, faults: dict[str, str]):
        """``data`` if it is new, else moved to now, or None."""
        if data is None:
            return None
        if _is_dead(data):
            faults[name] = "dead"
            return None
        seen = self._seen.get(name)
        if seen is None or not _same(seen.data, data):
            self._seen[name] = _Seen(data, frame.timestamp_ns, frame.world_SE3_ego)
            return data
        faults[name] = "frozen"
        age_s = (frame.timestamp_ns - seen.timestamp_ns) * 1e-9
        if age_s > self.max_age_s:
            return None
        return _moved(seen.data, frame.world_SE3_ego.inverse() @ seen.world_SE3_ego, age_s)


def _same(old, new) -> bool:
    a, b = (x.image if isinstance(x, CameraImage) else x.points for x in (old, new))
    return a is b or (a.shape == b.shape and np.array_equal(a, b))


def _moved(data, now_SE3_then: SE3, age_s: float):
    if isinstance(data, CameraImage):
        return replace(data, ego_SE3_camera=now_SE3_then @ data.ego_SE3_camera)
    points = data.points.astype(np.float64)
    points[:, :3] = now_SE3_then.transform(points[:, :3])
    points[:, -1] += age_s
    if isinstance(data, RadarCloud):
        points[:, 4:6] = now_SE3_then.rotate(np.pad(points[:, 4:6], ((0, 0), (0, 1))))[:, :2]
    return type(data)(points)
