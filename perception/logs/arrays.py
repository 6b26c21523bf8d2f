"""Arrays that drivers hand over, as the payloads of messages."""

from __future__ import annotations

import numpy as np
from numpy.lib.recfunctions import unstructured_to_structured

from perception.errors import PerceptionError
from perception.logs.messages import Calibration, Cloud, Image, pinhole_projection

LIDAR_FIELDS = ("x", "y", "z", "intensity", "age_s")
RADAR_FIELDS = ("x", "y", "z", "rcs_dbsm", "vx", "vy")
_RECORDED = {"age_s": "time", "rcs_dbsm": "rcs", "vx": "vx_comp", "vy": "vy_comp"}
_MODELS = {0: "", 4: "plumb_bob", 5: "plumb_bob", 8: "rational_polynomial"}  # by the number of coefficients


class ArrayError(PerceptionError):
    """An array of the wrong shape or type."""


def image_of(name: str, frame_id: str, pixels: np.ndarray) -> Image:
    """uint8 [H, W, 3] RGB, copied."""
    _check(name, pixels, np.uint8, "uint8 [H, W, 3]", pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0)
    height, width = pixels.shape[:2]
    return Image(frame_id, "rgb8", pixels.tobytes(), width, height, 3 * width)


def lidar_of(name: str, frame_id: str, points: np.ndarray) -> Cloud:
    """float32 [N, 3], [N, 4] or [N, 5], copied: x, y, z in the sensor's frame, intensity 0..255, and age_s.

    age_s is by how much a point was measured before the cloud's stamp, in seconds; negative after it.
    """
    _check(name, points, np.float32, "float32 [N, 3..5]", points.ndim == 2 and 3 <= points.shape[1] <= 5)
    columns = points.copy()
    columns[:, 4:] *= -1  # a time since the stamp
    return _cloud(frame_id, columns, LIDAR_FIELDS)


def radar_of(name: str, frame_id: str, points: np.ndarray) -> Cloud:
    """float32 [N, 6], copied: x, y, z, rcs_dbsm, vx, vy, the velocities over ground, in the sensor's axes."""
    _check(name, points, np.float32, "float32 [N, 6]", points.ndim == 2 and points.shape[1] == 6)
    return _cloud(frame_id, points.copy(), RADAR_FIELDS)


def calibration_of(
    name: str, frame_id: str, intrinsics: np.ndarray, distortion: np.ndarray, model: str | None
) -> Calibration:
    """intrinsics: [3, 3].  distortion: [D]; model: as in sensor_msgs/CameraInfo, None: by the number D."""
    if intrinsics.shape != (3, 3) or not np.isfinite(intrinsics).all():
        raise ArrayError(f"{name}: finite intrinsics [3, 3] were expected, found {intrinsics.tolist()}")
    if distortion.ndim != 1 or not np.isfinite(distortion).all() or (model is None and len(distortion) not in _MODELS):
        wanted = ", ".join(map(str, _MODELS))
        raise ArrayError(f"{name}: {wanted} finite coefficients of distortion were expected, found {distortion!r}")
    model = _MODELS[len(distortion)] if model is None else model
    return Calibration(frame_id, 0, 0, intrinsics, distortion, model, np.eye(3), pinhole_projection(intrinsics))


def _check(name: str, array: np.ndarray, dtype: type, wanted: str, fits: bool) -> None:
    if array.dtype != dtype or not fits:
        raise ArrayError(f"{name}: {wanted} was expected, found {array.dtype} {list(array.shape)}")


def _cloud(frame_id: str, columns: np.ndarray, fields: tuple[str, ...]) -> Cloud:
    names = [_RECORDED.get(name, name) for name in fields[: columns.shape[1]]]
    return Cloud(frame_id, unstructured_to_structured(columns, np.dtype([(name, np.float32) for name in names])))
