"""Reads the sensors of one nuScenes sample into the ego frame at its reference time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_files import DataError, read_image, read_lidar_bin, read_pcd
from perception.data.nuscenes_tables import Calibration, Recording
from perception.geometry import SE3
from perception.sample import CameraImage, LidarCloud, RadarCloud

_RADAR_USED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
_RADAR_KEPT = {"invalid_state": (0,), "dyn_prop": (0, 1, 2, 3, 4, 5, 6), "ambig_state": (3,)}  # devkit: default_filters


@dataclass(frozen=True)
class CloudOptions:
    """sweeps: modality -> sweeps in a cloud, the keyframe included.  The rest as in :class:`perception.NuScenes`."""

    sweeps: dict[str, int]
    without: tuple[str, ...]
    min_distance_m: float
    radar_filter: bool
    lidar_rings: tuple[int, ...] | None


class SampleReader:
    """One sample's sensors. Every method raises DataError for a damaged file, naming the file and both tokens.

    Args:
        i: index of the sample, which must have a reference row.
        dropped: counts, by channel, the points that are not finite.
    """

    def __init__(self, root: Path, recording: Recording, options: CloudOptions, token: str, i: int, dropped: Counter):
        self._root, self._rows, self._calibrations = root, recording.rows, recording.calibrations
        self._options, self._token, self._dropped = options, token, dropped
        keyframes = (int(rows[i]) for rows in recording.keyframes.values())
        self._keyframes = [
            row
            for row in keyframes
            if row >= 0 and self._rows.present[row] and self._calibration(row).channel not in options.without
        ]
        self.reference_us = int(recording.reference_us[i])
        self.world_SE3_ego = self._world_SE3_ego(recording.reference[i])
        self.ego_SE3_world = self.world_SE3_ego.inverse()

    def cameras(self) -> dict[str, CameraImage]:
        return {self._calibration(row).channel: self._camera(row) for row in self._keyframe_rows("camera")}

    def lidar(self) -> LidarCloud | None:
        clouds = [self._lidar_sweep(row) for row in self._sweep_rows("lidar")]
        return LidarCloud(np.concatenate(clouds)) if clouds else None

    def radar(self) -> RadarCloud | None:
        clouds = [self._radar_sweep(row) for row in self._sweep_rows("radar")]
        return RadarCloud(np.concatenate(clouds)) if clouds else None

    def _camera(self, row: int) -> CameraImage:
        size = tuple(self._rows.image_size[row].tolist())
        image = self._read(row, read_image, size)
        timestamp_ns = 1000 * int(self._rows.timestamp_us[row])
        return CameraImage(image, self._calibration(row).intrinsics, self._ego_SE3_sensor(row), timestamp_ns)

    def _lidar_sweep(self, row: int) -> np.ndarray:
        """float32 [N, 5], columns of LIDAR_FIELDS."""
        stored = self._read(row, read_lidar_bin)
        if not len(stored):
            self._dropped[self._calibration(row).channel, "empty file"] += 1
        if self._options.lidar_rings is not None:
            stored = stored[np.isin(stored[:, 4], self._options.lidar_rings)]
        raw = self._off_vehicle(stored[:, :4].astype(np.float64))
        xyz = self._ego_SE3_sensor(row).transform(raw[:, :3])
        return self._finite(row, np.column_stack([xyz, raw[:, 3], self._age_s(row, raw)]))

    def _radar_sweep(self, row: int) -> np.ndarray:
        """float32 [N, 7], columns of RADAR_FIELDS."""
        points = self._read(row, read_pcd)
        missing = [name for name in (*_RADAR_USED, *_RADAR_KEPT) if name not in points.dtype.names]
        if missing:
            found = " ".join(points.dtype.names)
            raise self._error(row, f"a field {missing[0]} was expected, found {found}")
        if self._options.radar_filter:
            points = points[np.logical_and.reduce([np.isin(points[name], kept) for name, kept in _RADAR_KEPT.items()])]
        raw = self._off_vehicle(np.column_stack([points[name].astype(np.float64) for name in _RADAR_USED]))
        ego_SE3_radar = self._ego_SE3_sensor(row)
        velocity = ego_SE3_radar.rotate(np.column_stack([raw[:, 4:6], np.zeros(len(raw))]))[:, :2]
        xyz = ego_SE3_radar.transform(raw[:, :3])
        return self._finite(row, np.column_stack([xyz, raw[:, 3], velocity, self._age_s(row, raw)]))

    def _keyframe_rows(self, modality: str) -> list[int]:
        return [row for row in self._keyframes if self._calibration(row).modality == modality]

    def _sweep_rows(self, modality: str) -> Iterator[int]:
        """Of every sensor the keyframe and the sweeps before it whose files exist, latest first."""
        for row in self._keyframe_rows(modality):
            for _ in range(self._options.sweeps[modality]):
                if row < 0:
                    break
                if self._rows.present[row]:
                    yield row
                row = int(self._rows.previous[row])

    def _calibration(self, row: int) -> Calibration:
        return self._calibrations[self._rows.calibration[row]]

    def _world_SE3_ego(self, row: int) -> SE3:
        pose = self._rows.world_SE3_ego[row]
        return SE3.from_quaternion(pose[3:], pose[:3])

    def _ego_SE3_sensor(self, row: int) -> SE3:
        """From the sensor at its time of measurement to the ego frame at the reference time."""
        return self.ego_SE3_world @ self._world_SE3_ego(row) @ self._calibration(row).ego_SE3_sensor

    def _age_s(self, row: int, points: np.ndarray) -> np.ndarray:
        return np.full(len(points), 1e-6 * (self.reference_us - int(self._rows.timestamp_us[row])))

    def _off_vehicle(self, points: np.ndarray) -> np.ndarray:
        """Drops points [N, C] close to their sensor: in a square, not a circle (devkit: remove_close)."""
        return points[~(np.abs(points[:, :2]) < self._options.min_distance_m).all(axis=1)]

    def _finite(self, row: int, points: np.ndarray) -> np.ndarray:
        """The finite points as float32; the others are counted."""
        with np.errstate(over="ignore"):
            points = points.astype(np.float32)
        finite = np.isfinite(points).all(axis=1)
        if finite.all():
            return points
        self._dropped[self._calibration(row).channel, "point not finite"] += int((~finite).sum())
        return points[finite]

    def _read(self, row: int, reader, *args) -> np.ndarray:
        """What ``reader`` makes of the row's file; its errors gain the tokens."""
        try:
            return reader(self._path(row), *args)
        except DataError as error:
            raise DataError(f"{error} ({self._tokens(row)})") from None

    def _error(self, row: int, message: str) -> DataError:
        return DataError(f"{self._path(row)}: {message} ({self._tokens(row)})")

    def _path(self, row: int) -> Path:
        return self._root / self._rows.filename[row].decode()

    def _tokens(self, row: int) -> str:
        return f"sample {self._token}, sample_data {self._rows.token[row].decode()}"
