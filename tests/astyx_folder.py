"""A folder in the layout of Astyx HiRes2019, whose LiDAR frame is the ego frame, so that its geometry is plain."""

import json
from pathlib import Path

import cv2
import numpy as np

from perception.data.astyx import DOPPLER_PERIOD_MPS, EGO_SE3_RADAR
from perception.data.radar_motion import wrap_speed
from perception.geometry import SE3

RADAR_SE3_EGO = EGO_SE3_RADAR.inverse()
EGO_SE3_CAMERA = SE3([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], [0.0, 0.0, 1.5])
INTRINSICS = [
    [32.0, 0.0, 31.5],
    [0.0, 32.0, 7.5],
    [0.0, 0.0, 1.0],
]  # of 64 x 16 pixels, which see 45 degrees to each side
EGO_MPS = 12.0  # which is beyond the radar's period
CAR = {"name": "Car", "center": (20.0, 5.0, 0.8), "size": (4.0, 2.0, 1.6), "yaw": 0.3}
LIDAR = np.array([[19.0, 5.0, 0.5], [20.0, 5.5, 1.0], [10.0, -3.0, 0.0], [5.0, 9.0, 0.0]])  # two in the car, one unseen


def radar_returns() -> np.ndarray:
    """[N, 5] x, y, z in the ego frame, closing speed as the radar folds it, magnitude: the car recedes at 3 m/s."""
    bearing = np.deg2rad(np.linspace(-40, 40, 41))
    standing = np.column_stack([30 * np.cos(bearing), 30 * np.sin(bearing), np.zeros(41)])
    xyz = np.concatenate([standing, [[20.0, 5.0, 0.8]]])
    away = xyz - EGO_SE3_RADAR.translation
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    closing = EGO_MPS * away[:, 0] - np.array([0.0] * 41 + [3.0])
    return np.column_stack([xyz, wrap_speed(closing, DOPPLER_PERIOD_MPS), np.full(len(xyz), 60.0)])


def in_radar(box: dict) -> dict:
    pose = RADAR_SE3_EGO @ SE3.from_yaw(box["yaw"], box["center"])
    return {
        "name": box["name"],
        "center": pose.translation.tolist(),
        "size": box["size"],
        "rotation_wxyz": pose.quaternion.tolist(),
        "occlusion": 0,
    }


def record(number: int, boxes: list[dict]) -> dict:
    return {
        "frame": number,
        "time_us": 366_000_000 + 100_000 * number,
        "intrinsics": INTRINSICS,
        "radar_T_lidar": RADAR_SE3_EGO.matrix.tolist(),
        "radar_T_camera": (RADAR_SE3_EGO @ EGO_SE3_CAMERA).matrix.tolist(),
        "boxes": [in_radar(box) for box in boxes],
    }


def write_astyx(root: Path, numbers=(0, 277, 278, 378), boxes=(CAR,), lidar=LIDAR, radar=None) -> Path:
    """The folder, with the same content in every frame."""
    radar = radar_returns() if radar is None else radar
    radar = np.column_stack([RADAR_SE3_EGO.transform(radar[:, :3]), radar[:, 3:]]).astype(np.float32)
    for name in ("images", "lidar", "radar"):
        (root / name).mkdir(parents=True)
    image = cv2.imencode(".jpg", np.full((16, 64, 3), 90, np.uint8))[1].tobytes()
    for number in numbers:
        (root / f"images/{number:06d}.jpg").write_bytes(image)
        n = len(lidar)
        np.savez(
            root / f"lidar/{number:06d}.npz",
            xyz_5mm=np.rint(lidar / 0.005).astype(np.int16),
            reflectivity=np.arange(n, dtype=np.uint8),
            ring=np.zeros(n, np.uint8),
            time_us=np.arange(n, dtype=np.uint32) * 10_000,
        )
        np.savez(root / f"radar/{number:06d}.npz", points=radar)
    (root / "frames.json").write_text(json.dumps([record(number, list(boxes)) for number in numbers]))
    return root
