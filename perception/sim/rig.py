"""The sensor rig: where the nuScenes vehicle carries its six cameras, LiDAR and five radars, and when they fire.

Rounded means over the nuScenes calibrations; every scene draws its own small deviation. Camera numbers hold for 1600 x
900 images and are scaled to the image size written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from perception.data.nuscenes_constants import REFERENCE_CHANNEL
from perception.geometry import SE3

# channel: x, y, z [m], yaw, pitch (up positive), roll [degrees], focal length, principal point [pixels of 1600 x 900],
# and the delay [s]: how long after the LiDAR's time stamp the camera is triggered, as the spinning head passes its
# viewing direction. The stamp is the middle of the revolution, since a simulated sweep is an instant picture.
_CAMERAS = {
    "CAM_FRONT_LEFT": (1.55, 0.50, 1.51, 55.2, 0.4, 0.2, 1262.0, 822.0, 470.0, -0.0203),
    "CAM_FRONT": (1.71, 0.01, 1.51, 0.4, 0.0, 0.2, 1261.0, 820.0, 480.0, -0.0127),
    "CAM_FRONT_RIGHT": (1.57, -0.50, 1.51, -56.5, -0.2, 0.5, 1259.0, 812.0, 475.0, -0.0046),
    "CAM_BACK_RIGHT": (1.04, -0.47, 1.56, -111.2, -0.2, 0.4, 1255.0, 815.0, 480.0, 0.0031),
    "CAM_BACK": (0.04, 0.01, 1.57, 179.7, 0.6, -0.1, 806.0, 840.0, 480.0, 0.0125),
    "CAM_BACK_LEFT": (1.04, 0.48, 1.57, 108.8, 0.0, -0.1, 1256.0, 815.0, 478.0, 0.0223),
}
_LIDAR = (0.96, 0.0, 1.84, -90.0, 0.2, -1.5)
_RADARS = {
    "RADAR_FRONT": (3.41, 0.0, 0.5, 0.0),
    "RADAR_FRONT_LEFT": (2.42, 0.8, 0.78, 90.0),
    "RADAR_FRONT_RIGHT": (2.42, -0.8, 0.77, -90.0),
    "RADAR_BACK_LEFT": (-0.56, 0.63, 0.53, 174.6),
    "RADAR_BACK_RIGHT": (-0.56, -0.62, 0.53, -175.6),
}
CAMERA_NAMES, LIDAR_NAME, RADAR_NAMES = tuple(_CAMERAS), REFERENCE_CHANNEL, tuple(_RADARS)
CAMERA_DELAY_S = {name: row[-1] for name, row in _CAMERAS.items()}
_OPTICAL = np.array(
    [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]
)  # axes (right, down, forward) in (forward, left, up)


@dataclass(frozen=True, eq=False)
class Sensor:
    """One calibrated sensor; ``intrinsics`` [3, 3] are those of the written image, None but for cameras."""

    channel: str
    modality: str
    ego_SE3_sensor: SE3
    intrinsics: np.ndarray | None = None


def velocity_of(place: np.ndarray, world_SE3_ego: SE3, ego_motion: np.ndarray) -> np.ndarray:
    """World velocity [2] in m/s of a world ``place`` [2 or 3] on the ego vehicle, which moves with ``ego_motion`` [3]:
    vx, vy in m/s and yaw rate in rad/s."""
    arm = place[:2] - world_SE3_ego.translation[:2]
    return ego_motion[:2] + ego_motion[2] * np.array([-arm[1], arm[0]])


def draw_rig(rng: np.random.Generator, image_size: tuple[int, int]) -> dict[str, Sensor]:
    """All twelve sensors with this scene's calibration; ``image_size`` is (width, height) in pixels."""
    rig = {}
    width, height = image_size
    for channel, (x, y, z, yaw, pitch, roll, focal, u, v, _) in _CAMERAS.items():
        place = np.array([x, y, z]) + rng.normal(0, 0.008, 3)
        yaw, pitch, roll = np.array([yaw, pitch, roll]) + rng.normal(0, 0.3, 3)
        focal, u, v = focal + rng.normal(0, 4), u + rng.normal(0, 8), v + rng.normal(0, 8)
        rotation = Rotation.from_euler("ZYX", [yaw, -pitch, roll], degrees=True).as_matrix() @ _OPTICAL
        scale_x, scale_y = width / 1600, height / 900
        intrinsics = np.array(
            [
                [focal * scale_x, 0, (u + 0.5) * scale_x - 0.5],
                [0, focal * scale_y, (v + 0.5) * scale_y - 0.5],
                [0, 0, 1],
            ]
        )
        rig[channel] = Sensor(channel, "camera", SE3(rotation, place), intrinsics)
    x, y, z, *angles = _LIDAR
    rotation = Rotation.from_euler("ZYX", np.array(angles) + rng.normal(0, [0.08, 0.08, 0.3]), degrees=True).as_matrix()
    rig[LIDAR_NAME] = Sensor(LIDAR_NAME, "lidar", SE3(rotation, np.array([x + rng.normal(0, 0.02), y, z])))
    for channel, (x, y, z, yaw) in _RADARS.items():
        yaw = np.radians(yaw + rng.normal(0, 0.4))
        rig[channel] = Sensor(channel, "radar", SE3.from_yaw(yaw, np.array([x, y, z])))
    return rig
