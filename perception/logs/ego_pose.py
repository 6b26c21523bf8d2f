"""Where the vehicle was: by the transforms of a log, or by the topics that the rig names in ``ego_pose``.

Of ``odometry`` (nav_msgs/Odometry, PoseStamped, foxglove.PoseInFrame, ...) the poses are those of the frame that the
messages name, moved to the ego frame by its mount. ``fix`` and ``imu`` together give one: positions of the antenna in
metres east, north and up of the first fix (WGS 84), and orientations of the IMU, which are of its axes against these
(REP 103). A frame that no transform connects with the ego frame is taken to be the ego frame.
"""

from __future__ import annotations

import numpy as np

from perception.logs.messages import Attitude, GnssFix, Located, LogError, Message, Pose, Transform
from perception.logs.rig import PoseSource, Rig
from perception.logs.transforms import HOLD_NS, Transforms, inverse

_WORLD, _ANTENNA, _BODY = "world", "antenna", "body"  # frames of the track
_UNTURNED, _IN_PLACE = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0)
_EQUATOR_M, _FLATTENING = 6_378_137.0, 1 / 298.257223563  # of WGS 84


class EgoPose:
    """The pose of a rig's ego frame in its world frame, from messages pushed in order of time.

    Args:
        transforms: those of the log; they are looked up when a pose is asked for.
    """

    def __init__(self, rig: Rig, transforms: Transforms):
        self._rig, self._transforms = rig, transforms
        self._track = Transforms()
        source = rig.ego_pose or PoseSource()
        self._expected: dict[str | None, type] = {
            source.odometry: Pose,
            source.fix: GnssFix,
            source.imu: Attitude,
        }
        self._located: dict[type, str] = {}  # payload -> the frame that it locates
        self._origin: GnssFix | None = None

    def learn(self, message: Message) -> None:
        """Take a pose, a fix or an attitude of the rig's topics; leave any other.

        Raises:
            LogError: one that is none; without its time, so that they can be counted.
        """
        expected, data = self._expected.get(message.topic), message.data
        if expected is None:
            return
        if not isinstance(data, Located) or not isinstance(data, expected):
            raise LogError(f"{message.topic}: a {expected.__name__} was expected, found a {type(data).__name__}")
        if not data.is_valid:
            raise LogError(f"{message.topic}: a {expected.__name__} was expected, found no numbers of one")
        self._located.setdefault(type(data), data.frame_id)
        if isinstance(data, GnssFix):
            self._origin = self._origin or data
            edge = Transform(_WORLD, _ANTENNA, np.array([*east_north_up(data, self._origin), *_UNTURNED]))
        elif isinstance(data, Attitude):
            edge = Transform(_ANTENNA, _BODY, np.array([*_IN_PLACE, *data.rotation]))
        else:
            edge = Transform(_WORLD, _BODY, data.pose)
        self._track.add(message.timestamp_ns, edge)

    def measured(self) -> tuple[float, float] | None:
        """From when to when it was measured, in ns; None where nothing connects the two frames."""
        if self._rig.ego_pose is not None:
            return self._track.measured(_WORLD, _BODY)
        return self._transforms.measured(self._rig.world_frame or "", self._rig.ego_frame)

    def at(self, time_ns: int) -> np.ndarray | None:
        """world_T_ego, float64 [4, 4]; the identity where the rig says that it stands still; None where unknown."""
        world, ego = self._rig.world_frame, self._rig.ego_frame
        if world is None:
            return np.eye(4)
        measured = self.measured()
        if measured is None or not measured[0] - HOLD_NS <= time_ns <= measured[1] + HOLD_NS:
            return None
        if self._rig.ego_pose is None:
            return self._transforms.lookup(world, ego, time_ns)
        world_T_body, ego_T_body = self._track.lookup(_WORLD, _BODY, time_ns), self._ego_T_body(time_ns)
        if world_T_body is None or ego_T_body is None:
            return None
        return world_T_body @ inverse(ego_T_body)

    def forget_before(self, time_ns: int) -> None:
        self._track.forget_before(time_ns)

    def doubts(self) -> list[str]:
        """A line on each frame that is taken to be the ego frame, though it has another name."""
        ego = self._rig.ego_frame
        unknown = {frame for frame in self._located.values() if frame and self._transforms.measured(ego, frame) is None}
        return [f"ego_pose locates {frame}, which is taken to be {ego}: no transform says" for frame in sorted(unknown)]

    def _ego_T_body(self, time_ns: int) -> np.ndarray | None:
        """Rotated as the one that was located, or the IMU; where that is, or the antenna."""
        turned = self._ego_T(self._located.get(Attitude, self._located.get(Pose, "")), time_ns)
        placed = self._ego_T(self._located.get(GnssFix, self._located.get(Pose, "")), time_ns)
        if turned is None or placed is None:
            return None
        ego_T_body = turned.copy()
        ego_T_body[:3, 3] = placed[:3, 3]
        return ego_T_body

    def _ego_T(self, frame: str, time_ns: int) -> np.ndarray | None:
        ego = self._rig.ego_frame
        if not frame or self._transforms.measured(ego, frame) is None:
            return np.eye(4)
        return self._transforms.lookup(ego, frame, time_ns)


def east_north_up(fix: GnssFix, origin: GnssFix) -> np.ndarray:
    """[3], metres from the origin, along the axes there."""
    latitude, longitude = np.radians([origin.latitude, origin.longitude])
    (sin_a, cos_a), (sin_o, cos_o) = ((np.sin(angle), np.cos(angle)) for angle in (latitude, longitude))
    axes = [
        [-sin_o, cos_o, 0.0],
        [-sin_a * cos_o, -sin_a * sin_o, cos_a],
        [cos_a * cos_o, cos_a * sin_o, sin_a],
    ]
    return np.array(axes) @ (_earth_centred(fix, origin.altitude) - _earth_centred(origin, 0.0))


def _earth_centred(fix: GnssFix, default_altitude: float) -> np.ndarray:
    """[3], metres; a fix in two dimensions, whose altitude is NaN, has the default one."""
    latitude, longitude = np.radians([fix.latitude, fix.longitude])
    altitude = next((a for a in (fix.altitude, default_altitude) if np.isfinite(a)), 0.0)
    squared_eccentricity = _FLATTENING * (2 - _FLATTENING)
    normal = _EQUATOR_M / np.sqrt(1 - squared_eccentricity * np.sin(latitude) ** 2)
    across = (normal + altitude) * np.cos(latitude)
    along = (normal * (1 - squared_eccentricity) + altitude) * np.sin(latitude)
    return np.array([across * np.cos(longitude), across * np.sin(longitude), along])
