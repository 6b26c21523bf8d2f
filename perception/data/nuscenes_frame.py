"""Reads the sensors of one nuScenes sample into the ego frame at its reference time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.cloud_kernels import lidar_to_ego, radar_to_ego
from perception.data.nuscenes_calibrations import Calibration
from perception.data.nuscenes_files import (
    MOST_RINGS,
    DataError,
    lidar_bin_length,
    path_below,
    read_bytes,
    read_image,
    read_lidar_bin,
    read_pcd,
)
from perception.data.nuscenes_scenes import are_names
from perception.data.nuscenes_tables import Recording
from perception.data.radar_fields import radar_records
from perception.data.rectification import undistorted
from perception.errors import require
from perception.geometry import SE3, pose_matrix
from perception.sample import CameraImage, LidarCloud, RadarCloud, scaling


@dataclass(frozen=True)
class ReadOptions:
    """sweeps: modality -> sweeps in a cloud, the keyframe included.  The rest as in :class:`perception.NuScenes`."""

    sweeps: dict[str, int]
    without: Sequence[str]
    min_distance_m: float
    radar_filter: bool
    lidar_rings: Sequence[int] | None
    image_size: Sequence[int] | None

    def __post_init__(self):
        for sensor, sweeps in self.sweeps.items():
            require(f"{sensor}_sweeps", sweeps, "a whole number from 1", lambda sweeps: index(sweeps) >= 1)
        require("without", self.without, "a list of names", are_names)
        require("min_distance_m", self.min_distance_m, "a number from 0", lambda metres: 0 <= metres < math.inf)
        if self.lidar_rings is not None:
            expected = f"whole numbers from 0 to {MOST_RINGS}"
            require(
                "lidar_rings", self.lidar_rings, expected, lambda rings: all(0 <= index(r) <= MOST_RINGS for r in rings)
            )
        if self.image_size is not None:
            expected = "height and width of at least 8"
            require("image_size", self.image_size, expected, lambda size: [index(n) >= 8 for n in size] == [True, True])


class SampleReader:
    """One sample's sensors. Every method raises DataError for a damaged file, naming the file and both tokens.

    Args:
        i: index of the sample, which must have a reference row.
        dropped: counts, by channel, the points that are not finite or out of range.
    """

    def __init__(self, root: Path, recording: Recording, options: ReadOptions, token: str, i: int, dropped: Counter):
        self._root, self._calibrations = root, recording.calibrations
        self._options, self._token, self._dropped = options, token, dropped
        self.reference_us = int(recording.reference_us[i])
        self.world_SE3_ego = SE3.from_pose(
            recording.rows.world_SE3_ego[recording.reference[i]].copy()
        )  # of a mapped file
        self.ego_SE3_world = self.world_SE3_ego.inverse()
        rows = {modality: self._sweep_rows(recording, i, modality) for modality in options.sweeps}
        self._rows = recording.rows.of([row for own in rows.values() for row in own])
        ends = np.cumsum([len(own) for own in rows.values()]).tolist()
        self._own = {m: range(end - len(rows[m]), end) for m, end in zip(rows, ends)}  # modality -> places in _rows

    def cameras(self) -> dict[str, CameraImage]:
        rows = self._own.get("camera")
        if not rows:
            return {}
        poses = self._ego_T_sensor(rows)
        return {self._calibration(row).channel: self._camera(row, pose) for row, pose in zip(rows, poses)}

    def image_files(self) -> dict[str, bytes]:
        """Channel -> the bytes of its image file, where that is what ``cameras`` decodes and does not change."""
        rows = [row for row in self._own.get("camera", ()) if self._calibration(row).distortion is None]
        return {self._calibration(row).channel: self._read(row, read_bytes) for row in rows}

    def lidar(self) -> LidarCloud | None:
        rows = self._own.get("lidar")
        if not rows:
            return None
        lengths = [self._read(row, lidar_bin_length) for row in rows]
        rings = _ring_filter(self._options.lidar_rings)
        points = np.empty((sum(lengths), len(LidarCloud.fields)), dtype=np.float32)
        total = 0  # of the points so far: every sweep is read to where those before it end, and shrinks in place
        for row, length, pose, age_s in zip(rows, lengths, self._ego_T_sensor(rows), self._age_s(rows)):
            sweep = points[total : total + length]
            self._read(row, read_lidar_bin, sweep)
            kept, *dropped = lidar_to_ego(sweep, pose, age_s, self._options.min_distance_m, *rings)
            self._count(row, "empty file", length == 0)
            self._count_points(row, *dropped)
            total += kept
        return LidarCloud(points[:total])

    def radar(self) -> RadarCloud | None:
        rows = self._own.get("radar")
        if not rows:
            return None
        sweeps = [self._radar_records(row) for row in rows]
        points = np.empty((sum(len(records) for records, _ in sweeps), len(RadarCloud.fields)), dtype=np.float32)
        total = 0
        for row, (sweep, has_states), pose, age_s in zip(rows, sweeps, self._ego_T_sensor(rows), self._age_s(rows)):
            options = self._options.min_distance_m, self._options.radar_filter and has_states
            kept, *dropped = radar_to_ego(sweep, pose, age_s, *options, points[total:])
            self._count_points(row, *dropped)
            total += kept
        return RadarCloud(points[:total])

    def _camera(self, row: int, ego_T_camera: np.ndarray) -> CameraImage:
        size = tuple(self._rows.image_size[row].tolist())
        image, n = self._read(row, read_image, size, self._options.image_size)
        calibration = self._calibration(row)
        intrinsics = scaling(1 / n, 1 / n) @ calibration.intrinsics
        if calibration.distortion is not None:
            image = undistorted(image, intrinsics, calibration.distortion)
        timestamp_ns = 1000 * int(self._rows.timestamp_us[row])
        return CameraImage(image, intrinsics, SE3.from_matrix(ego_T_camera), timestamp_ns)

    def _radar_records(self, row: int) -> tuple[np.ndarray, bool]:
        try:
            return radar_records(self._read(row, read_pcd), partial(self._sensor_velocity, row))
        except ValueError as error:
            raise self._error(row, str(error)) from None

    def _sensor_velocity(self, row: int) -> np.ndarray:
        """[3] of the row's sensor over ground, in its own axes, m/s, from where the sample's rows were measured."""
        time_us = self._rows.timestamp_us
        first, last = int(time_us.argmin()), int(time_us.argmax())
        if time_us[first] == time_us[last]:
            raise self._error(row, "poses at two times were expected, to know how its radar moves")
        mount = self._calibration(row).ego_SE3_sensor.matrix
        before, now, after = pose_matrix(self._rows.world_SE3_ego[[first, row, last]]) @ mount
        return now[:3, :3].T @ (after[:3, 3] - before[:3, 3]) / (1e-6 * (time_us[last] - time_us[first]))

    def _sweep_rows(self, recording: Recording, i: int, modality: str) -> list[int]:
        """Of every sensor the keyframe and the sweeps before it whose files exist, latest first."""
        found = []
        for channel, keyframes in recording.keyframes.items():
            row = int(keyframes[i])
            is_wanted = row >= 0 and recording.rows.present[row] and channel not in self._options.without
            if not is_wanted or self._calibrations[recording.rows.calibration[row]].modality != modality:
                continue
            for _ in range(self._options.sweeps[modality]):
                if row < 0:
                    break
                if recording.rows.present[row]:
                    found.append(row)
                row = int(recording.rows.previous[row])
        return found

    def _calibration(self, row: int) -> Calibration:
        return self._calibrations[self._rows.calibration[row]]

    def _ego_T_sensor(self, rows: range) -> np.ndarray:
        """float64 [M, 4, 4]: from each row's sensor at its time of measurement to the ego frame at the reference time.

        All at once, since there are dozens: to make and check an SE3 takes longer than to transform a radar's points.
        """
        calibration = self._rows.calibration[rows].tolist()
        world_T_ego = pose_matrix(self._rows.world_SE3_ego[rows])
        mount = {i: self._calibrations[i].ego_SE3_sensor.matrix for i in set(calibration)}
        return self.ego_SE3_world.matrix @ world_T_ego @ np.stack([mount[i] for i in calibration])

    def _age_s(self, rows: range) -> np.ndarray:
        return 1e-6 * (self.reference_us - self._rows.timestamp_us[rows])

    def _count_points(self, row: int, not_finite: int, out_of_range: int) -> None:
        self._count(row, "point not finite", not_finite)
        self._count(row, "point out of range", out_of_range)

    def _count(self, row: int, what: str, number: int) -> None:
        if number:
            self._dropped[self._calibration(row).channel, what] += int(number)

    def _read(self, row: int, reader, *args) -> Any:
        """What ``reader`` makes of the row's file; its errors gain the tokens."""
        try:
            return reader(path_below(self._root, self._filename(row)), *args)
        except DataError as error:
            raise DataError(f"{error} ({self._tokens(row)})") from None

    def _error(self, row: int, message: str) -> DataError:
        return DataError(f"{self._root / self._filename(row)}: {message} ({self._tokens(row)})")

    def _filename(self, row: int) -> str:
        return self._rows.filename[row].decode()

    def _tokens(self, row: int) -> str:
        return f"sample {self._token}, sample_data {self._rows.token[row].decode()}"


def _ring_filter(rings: Sequence[int] | None) -> tuple[bool, np.ndarray]:
    """Whether the points of all rings are kept, and else of which: bool, by ring."""
    if rings is None:
        return True, np.zeros(0, dtype=bool)
    return False, np.isin(np.arange(1 + max(rings, default=-1)), rings)
