"""The sensors of a nuScenes version: where they are mounted, and how cameras see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_constants import MODALITIES
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_json import Columns, Damage, Table
from perception.data.nuscenes_rows import CalibratedSensor, Sensor
from perception.geometry import SE3

OPENCV_MODELS = ("", "plumb_bob", "rational_polynomial", "opencv")
FISHEYE_MODELS = ("fisheye", "equidistant", "kannala_brandt", "opencv_fisheye")
_MOUNT_M = 1e3  # from the vehicle's origin


@dataclass(frozen=True, eq=False)
class Calibration:
    """A sensor as it was mounted on one vehicle. intrinsics: [3, 3] for cameras, else None.

    distortion: OpenCV's coefficients, [14], or those of its fisheye model, [4]; None where there is none.
    """

    channel: str
    modality: str
    ego_SE3_sensor: SE3
    intrinsics: np.ndarray | None
    distortion: np.ndarray | None = None


class Calibrations:
    """Those of a version, by index, each made when it is first asked for: trainval has ten thousand.

    Args:
        modality: channel -> modality.  columns: as :func:`read_calibrations` returns them; they may be mapped.
    """

    def __init__(self, modality: Mapping[str, str], columns: Columns):
        self._modality, self._columns = modality, columns
        names = list(modality) or [""]  # rows that are left out have the first
        self._channels = [names[i] for i in columns["channel"].tolist()]
        self._made: dict[int, Calibration] = {}

    def __len__(self) -> int:
        return len(self._channels)

    @property
    def poses(self) -> np.ndarray:
        """[K, 7], translation, then quaternion, as nuScenes has them; a copy."""
        return self._columns["pose"].copy()

    def __getitem__(self, i: int) -> Calibration:
        if i not in self._made:
            channel, own = self._channels[i], {name: np.array(column[i]) for name, column in self._columns.items()}
            modality, distortion = self._modality[channel], own["distortion"][: 4 if own["fisheye"] else None]
            self._made[i] = Calibration(
                channel,
                modality,
                SE3.from_pose(own["pose"]),
                own["intrinsics"] if modality == "camera" else None,
                distortion if distortion.any() else None,
            )
        return self._made[i]


def read_calibrations(folder: Path, damage: Damage) -> tuple[Columns, dict[str, str], dict[str, int]]:
    """Columns of all calibrations, channel -> modality, and token -> calibration.

    channel: int32 [K], place in the keys of the second.  pose: [K, 7].  intrinsics: [K, 3, 3], NaN where no camera.
    distortion: [K, 14], OpenCV's coefficients, 0 where there is none.  fisheye: bool [K], they are those of its fisheye
    model.
    """
    sensors = Table(folder, "sensor", Sensor, damage)
    table = Table(folder, "calibrated_sensor", CalibratedSensor, damage)
    sensor = table.references("sensor_token", sensors.positions())
    is_used = np.isin(np.arange(len(sensors.rows)), sensor)
    channels = sensors.strings("channel")
    unnamed = [used and not _is_name(channel) for used, channel in zip(is_used, channels)]
    sensors.refuse(unnamed, "channel", "a name without slashes")
    modalities = [modality.strip().lower() for modality in sensors.values("modality")]
    known = f"one of {', '.join(MODALITIES)}"
    unknown = [used and modality not in MODALITIES for used, modality in zip(is_used, modalities)]
    sensors.refuse(unknown, "modality", known)
    modality: dict[str, str] = {}
    for i in np.flatnonzero(is_used & sensors.sound):
        if modality.setdefault(channels[i], modalities[i]) != modalities[i]:
            raise DataError(f"{sensors.path}: channel {channels[i]}: one modality was expected, found several")
    table.refuse(~np.append(sensors.sound, False)[sensor], "sensor_token", "a token of a sound row")

    used = sorted(modality)
    number = np.array([used.index(name) if name in used else 0 for name in [*channels, ""]], dtype=np.int32)
    is_camera = np.array([modality.get(name) == "camera" for name in [*channels, ""]])[sensor]
    intrinsics = np.full((len(sensor), 3, 3), np.nan)
    bad = np.zeros(len(sensor), dtype=bool)
    for i in np.flatnonzero(is_camera):
        matrix = table.rows[i].camera_intrinsic
        bad[i] = not _is_camera_matrix(matrix)
        intrinsics[i] = np.nan if bad[i] else matrix
    table.refuse(bad, "camera_intrinsic", "a 3 x 3 matrix with fx, fy > 0 and a last row 0, 0, 1")
    distortion, fisheye = _distortions(table, is_camera)
    columns = {
        "channel": number[sensor],
        "pose": np.concatenate([table.vectors("translation", most=_MOUNT_M), table.quaternions("rotation")], axis=1),
        "intrinsics": intrinsics,
        "distortion": distortion,
        "fisheye": fisheye,
    }
    positions = {token: i for token, i in table.positions().items() if table.sound[i]}
    return columns, {channel: modality[channel] for channel in used}, positions


def _is_name(channel: str) -> bool:
    return channel not in ("", ".", "..") and not set(channel) & set("/\\")


def _is_camera_matrix(matrix: list[list[float]]) -> bool:
    if [len(line) for line in matrix] != [3, 3, 3] or not np.isfinite(matrix).all():
        return False
    return matrix[0][0] > 0 and matrix[1][1] > 0 and matrix[2] == [0, 0, 1] and bool(np.abs(matrix).max() < 1e6)


def _distortions(table: Table[CalibratedSensor], is_camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distortion, bad = np.zeros((len(is_camera), 14)), np.zeros(len(is_camera), dtype=bool)
    fisheye = np.zeros(len(is_camera), dtype=bool)
    for i in np.flatnonzero(is_camera):
        own, model = table.rows[i].camera_distortion or [], table.rows[i].distortion_model or ""
        if any(own):
            fisheye[i] = model in FISHEYE_MODELS
            known = (fisheye[i] or model in OPENCV_MODELS) and len(own) in ((4,) if fisheye[i] else (4, 5, 8, 12, 14))
            bad[i] = not known or not np.isfinite(own).all()
            distortion[i, : len(own)] = 0 if bad[i] else own
    table.refuse(bad, "camera_distortion", "4, 5, 8, 12 or 14 numbers of a model that OpenCV has")
    return distortion, fisheye
