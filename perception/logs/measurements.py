"""One recorded measurement, moved into the ego frame of a reference time: what a frame is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from perception.data.cloud_kernels import lidar_to_ego, radar_to_ego
from perception.geometry import SE3, pose_matrix
from perception.logs.clouds import is_in_degrees, lidar_points, radar_records
from perception.logs.ego_pose import EgoPose
from perception.logs.images import rectified_image
from perception.logs.messages import Calibration, Cloud, Image, LogError, Message, pinhole
from perception.logs.rig import CameraSource, CloudSource, Mount, Rig
from perception.logs.transforms import HOLD_NS, Transforms, inverse
from perception.logs.units import FirstSweeps, Units, point_times_ns
from perception.sample import CameraImage

_ALL_RINGS = True, np.zeros(0, dtype=bool)


class UnknownPose(LogError):
    """What is unknown at the time of a measurement: the pose of the vehicle, as at the ends of a log, or a mount."""


@dataclass(frozen=True)
class Assembly:
    """How frames are made of a log. image_size, min_distance_m, radar_filter: see :class:`perception.NuScenes`.

    sensors: the kinds that are read.
    lidar_span_s, radar_span_s: how far the sweeps of a cloud reach back from its newest one.
    rate_hz: at most so many frames a second.
    tolerance_s: how far a measurement may be from the reference time; wait_s: how much later it may be.
    pose_wait_s: how long a frame waits for the pose of the vehicle.
    bias: topic -> float64 [4, 4], where its sensor is, as seen from where it is said to be (``corruptions.py``).
    skip_damaged: a measurement that cannot be decoded counts as not delivered, instead of being an error.
    """

    sensors: tuple[str, ...] = ("camera", "radar", "lidar")
    lidar_span_s: float = 0.0
    radar_span_s: float = 0.0
    image_size: tuple[int, int] | None = None
    min_distance_m: float = 1.0
    radar_filter: bool = True
    rate_hz: float | None = None
    tolerance_s: float = 0.1
    wait_s: float = 0.05
    pose_wait_s: float = 0.5
    bias: Mapping[str, np.ndarray] = field(default_factory=dict)
    skip_damaged: bool = False


class Measurements:
    """Reads messages with the poses and calibrations that were recorded so far. Raises LogError without the topic.

    counts: what was left out, and how often.  sweeps: the first of each LiDAR, which tell the units of its clouds.
    """

    def __init__(self, rig: Rig, assembly: Assembly):
        self.transforms, self.sweeps = Transforms(), FirstSweeps()
        self.ego_pose = EgoPose(rig, self.transforms)
        self.calibrations: dict[str, Calibration] = {}  # topic -> the latest
        self.counts: Counter = Counter()
        self._rig, self._assembly = rig, assembly

    def forget_before(self, time_ns: int) -> None:
        """Drop poses that are not needed any more."""
        self.transforms.forget_before(time_ns)
        self.ego_pose.forget_before(time_ns)

    def camera(self, message: Message[Image], source: CameraSource, ego_T_world: np.ndarray) -> CameraImage:
        calibration = self._calibration(message, source)
        cover = self._assembly.image_size
        image, intrinsics = rectified_image(message.data, calibration, source.is_rectified, cover)
        pose = ego_T_world @ self._world_T_sensor(message, source, message.timestamp_ns)
        return CameraImage(image, intrinsics, SE3.from_matrix(pose), message.timestamp_ns)

    def lidar(
        self, message: Message[Cloud], source: CloudSource, ego_T_world: np.ndarray, age_s: float, out: np.ndarray
    ) -> int:
        """Fill ``out``, float32 [>= N, 5], as in a LidarCloud; returns how many points."""
        pose = ego_T_world @ self._world_T_sensor(message, source, message.timestamp_ns)
        self.sweeps.look(message.topic, message.timestamp_ns - source.offset_ns, message.data)
        units = self.sweeps.units(message.topic)
        self._count_defects(message)
        for note in units.notes:
            if not (source.intensity_max and note.startswith("intensities")):
                self.counts[f"{message.topic}: clouds with {note}"] += 1
        points = lidar_points(message.data, source.intensity_max or units.intensity_max)
        self._deskew(points, message, source, units)
        out = out[: len(points)]
        out[:] = points
        kept, *dropped = lidar_to_ego(out, pose, age_s, self._assembly.min_distance_m, *_ALL_RINGS)
        self._count_dropped(message, *dropped)
        return kept

    def radar(
        self, message: Message[Cloud], source: CloudSource, ego_T_world: np.ndarray, age_s: float, out: np.ndarray
    ) -> int:
        """Fill ``out``, float32 [>= N, 7], as in a RadarCloud; returns how many points."""
        world_T_sensor = self._world_T_sensor(message, source, message.timestamp_ns)
        self._count_defects(message)
        if is_in_degrees(message.data):
            self.counts[f"{message.topic}: clouds with azimuths in degrees"] += 1
        records, has_states = radar_records(message.data, lambda: self._velocity(message, source))
        filtered = self._assembly.radar_filter and has_states
        pose = ego_T_world @ world_T_sensor
        kept, *dropped = radar_to_ego(records, pose, age_s, self._assembly.min_distance_m, filtered, out)
        self._count_dropped(message, *dropped)
        return kept

    def _calibration(self, message: Message[Image], source: CameraSource) -> Calibration:
        if source.intrinsics is not None:
            fx, fy, cx, cy = source.intrinsics
            return pinhole(message.data.frame_id, 0, 0, np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]))
        if source.calibration not in self.calibrations:
            raise LogError(f"a calibration on {source.calibration} was expected before, found none")
        return self.calibrations[source.calibration]

    def _deskew(self, points: np.ndarray, message: Message[Cloud], source: CloudSource, units: Units) -> None:
        """Move every point from the sensor as it was when it was measured to the sensor as it was at the stamp.

        Those near enough to be dropped stay: they are the vehicle, and move with the sensor.
        """
        stamp_ns = message.timestamp_ns
        times_ns = point_times_ns(message.data, stamp_ns - source.offset_ns, units)
        if times_ns is None or self._rig.world_frame is None or times_ns.min() == times_ns.max():
            return
        times_ns += source.offset_ns
        first, last, shift = self._known_motion(int(times_ns.min()), stamp_ns, int(times_ns.max()))
        stamp_T_world = inverse(self._world_T_sensor(message, source, stamp_ns + shift))
        start, end = (stamp_T_world @ self._world_T_sensor(message, source, time_ns) for time_ns in (first, last))
        share = ((times_ns + shift - first) / (last - first))[:, None]
        rotation = Rotation.from_matrix(start[:3, :3].T @ end[:3, :3]).as_rotvec()
        rotated = Rotation.from_rotvec(share * rotation).apply(points[:, :3]) @ start[:3, :3].T
        moved = rotated + start[:3, 3] + share * (end[:3, 3] - start[:3, 3])
        near = (np.abs(points[:, :2]) < self._assembly.min_distance_m).all(axis=1)
        points[~near, :3] = moved[~near]

    def _velocity(self, message: Message[Cloud], source: CloudSource) -> np.ndarray:
        """[3] of the sensor over ground, in its own axes, m/s; from where it was around the time of measurement."""
        if self._rig.world_frame is None:
            return np.zeros(3)
        stamp_ns, half_ns = message.timestamp_ns, HOLD_NS // 2
        first, last, shift = self._known_motion(stamp_ns - half_ns, stamp_ns, stamp_ns + half_ns)
        before, at, after = (self._world_T_sensor(message, source, t) for t in (first, stamp_ns + shift, last))
        return at[:3, :3].T @ (after[:3, 3] - before[:3, 3]) / (1e-9 * (last - first))

    def _known_motion(self, first_ns: int, stamp_ns: int, last_ns: int) -> tuple[int, int, int]:
        """An interval with poses in which the vehicle moved as around this stamp, and how much later it is.

        Poses may end before the last point of a sweep, or begin after its first: constant motion is assumed there.
        """
        since_ns, until_ns = self.ego_pose.measured() or (0, 0)
        shift_ns = int(max(0, since_ns - first_ns) + min(0, until_ns - last_ns))
        shift_ns = int(min(max(stamp_ns + shift_ns, since_ns), until_ns)) - stamp_ns
        first_ns, last_ns = int(max(first_ns + shift_ns, since_ns)), int(min(last_ns + shift_ns, until_ns))
        if first_ns >= last_ns:
            raise UnknownPose("an ego pose")
        return first_ns, last_ns, shift_ns

    def _world_T_sensor(self, message: Message[Image | Cloud], source: Mount, time_ns: int) -> np.ndarray:
        """[4, 4] at a time that may differ from the message's."""
        world_T_ego = self.ego_pose.at(time_ns)
        if world_T_ego is None:
            raise UnknownPose("an ego pose")
        world_T_sensor = world_T_ego @ self._ego_T_sensor(message, source, time_ns)
        bias = self._assembly.bias.get(message.topic)
        return world_T_sensor if bias is None else world_T_sensor @ bias

    def _ego_T_sensor(self, message: Message[Image | Cloud], source: Mount, time_ns: int) -> np.ndarray:
        if source.ego_SE3_sensor is not None:
            return pose_matrix(np.array(source.ego_SE3_sensor))
        ego, frame = self._rig.ego_frame, source.frame_id or message.data.frame_id
        ego_T_sensor = self.transforms.lookup(ego, frame, time_ns)
        if ego_T_sensor is None:
            raise UnknownPose(f"a transform from {ego} to {frame}" if frame else "a frame_id")
        return ego_T_sensor

    def _count_defects(self, message: Message[Cloud]) -> None:
        for line in message.data.defects:
            self.counts[f"{message.topic}: clouds used without: {line}"] += 1

    def _count_dropped(self, message: Message, not_finite: int, out_of_range: int) -> None:
        for what, number in (("that are not finite", not_finite), ("out of range", out_of_range)):
            if number:
                self.counts[f"{message.topic}: points {what}"] += int(number)
