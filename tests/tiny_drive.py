"""A drive of three seconds in every format, and a detector small enough to replay it in no time."""

from pathlib import Path

import cv2
import numpy as np
from nuscenes_world import World, pcd_bytes, radar_points

from perception.config import load_config
from perception.logs.convert import convert
from perception.logs.log import open_log
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.rosbag_writer import RosbagWriter
from perception.model.build import build

SAMPLES = 6


def tiny_world(points: int = 300) -> World:
    """The world of ``nuscenes_world`` for longer, full of noise that is never the same, its camera in time."""
    world, rng = World(), np.random.default_rng(0)
    start_us = world.tables["sample"][0]["timestamp"]
    for table in ("sample_data", "ego_pose"):
        for i in (0, 1):
            world.row(table, f"camera{i}")["timestamp"] -= 100_000
    for i in range(2, SAMPLES):
        world.tables["sample"].append({"token": f"s{i}", "scene_token": "scene", "timestamp": start_us + i * 500_000})
        for channel, name in (("LIDAR_TOP", "lidar"), ("RADAR_FRONT", "radar"), ("CAM_FRONT", "camera")):
            world.add(f"{name}{i}", f"s{i}", channel, i * 500_000, b"")
    for name in world.files:
        if "LIDAR" in name:
            cloud = rng.uniform(-12, 12, (points, 5)).astype("<f4")
            cloud[:, 4] = np.arange(points) % 32  # the ring
            world.files[name] = cloud.tobytes()
        elif "RADAR" in name:
            world.files[name] = pcd_bytes(radar_points(*rng.uniform(-12, 12, (20, 6))))
        else:
            world.files[name] = cv2.imencode(".jpg", rng.integers(0, 255, (16, 32, 3), np.uint8))[1].tobytes()
    return world


def write_logs(folder: Path) -> dict[str, Path]:
    """The drive as "nuscenes", "mcap", "sqlite3" and "ros2_mcap", the last two being bags."""
    logs = {"nuscenes": tiny_world().write(folder / "nuscenes"), "mcap": folder / "drive.mcap"}
    logs |= {storage: folder / f"bag_{storage}" for storage in ("sqlite3", "ros2_mcap")}
    for writer in (
        McapLogWriter(logs["mcap"]),
        RosbagWriter(logs["sqlite3"], "sqlite3"),
        RosbagWriter(logs["ros2_mcap"], "mcap"),
    ):
        with open_log(logs["nuscenes"]) as log, writer:
            convert(log, writer)
    return logs


def save_tiny_detector(folder: Path) -> Path:
    """An untrained one, which sees boxes everywhere."""
    config = load_config(None, [
        "grid.x_min_m=-12.8", "grid.x_max_m=12.8", "grid.y_min_m=-12.8", "grid.y_max_m=12.8",
        "encoders.camera.image_size=[32,64]", "encoders.camera.weights=none", "encoders.camera.channels=16",
        "encoders.camera.depth_bins=8", "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8",
        "fusion.channels=16", "fusion.heads=2",
        "head.trunk_channels=[16,16]", "head.channels=16", "head.score_threshold=0.0", "head.max_detections=20",
    ])  # fmt: skip
    build(config).save(folder)
    return folder
