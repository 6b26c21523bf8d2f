"""Frames with all sensors, with some and with empty ones, for tests that break them; and what tells two apart."""

import numpy as np

from perception.geometry import SE3
from perception.sample import CameraImage, Frame, LidarCloud, RadarCloud

CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK")


def make_frame(seed=0, points=40) -> Frame:
    """The vehicle is 1 m further on and turned by 0.1 rad for every step of the seed."""
    random = np.random.default_rng(seed)
    lidar = np.c_[random.uniform(-50, 50, (points, 3)), random.uniform(0, 255, points), random.uniform(0, 0.2, points)]
    radar = np.c_[random.uniform(-50, 50, (points, 2)), random.normal(size=(points, 5))]
    images = random.integers(1, 255, (4, 9, 16, 3), dtype=np.uint8)
    intrinsics = np.array([[10.0, 0, 8], [0, 10, 4], [0, 0, 1]])
    return Frame(
        token=f"frame-{seed}",
        timestamp_ns=seed * 500_000_000,
        world_SE3_ego=SE3.from_yaw(0.1 * seed, [seed, 0.0, 0.0]),
        cameras={
            name: CameraImage(image, intrinsics, SE3.from_yaw(i), seed)
            for i, (name, image) in enumerate(zip(CAMERAS, images))
        },
        radar=RadarCloud(radar),
        lidar=LidarCloud(lidar),
    )


def content(frame: Frame) -> dict[str, bytes]:
    """Bytes of everything that the sensors say, by what says it."""
    out = {name: cloud.points.tobytes() for name in ("radar", "lidar") if (cloud := getattr(frame, name)) is not None}
    for name, camera in (frame.cameras or {}).items():
        out[name] = camera.image.tobytes()
        out[f"{name} pose"] = camera.ego_SE3_camera.matrix.tobytes()
    return out


def changed_parts(before: Frame, after: Frame) -> set[str]:
    old, new = content(before), content(after)
    return {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


FRAMES = {
    "full": make_frame(1),
    "empty clouds": make_frame(1, points=0),
    "one point": make_frame(1, points=1),
    "only radar": make_frame(1).only(["radar"]),
    "only lidar": make_frame(1).only(["lidar"]),
    "only cameras": make_frame(1).only(["camera"]),
    "nothing": make_frame(1).only([]),
}
