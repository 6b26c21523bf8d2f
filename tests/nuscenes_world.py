"""A nuScenes dataset small enough to work out by hand, for tests to damage."""

import json
import math

import cv2
import numpy as np

RADAR_DTYPE = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z")]
    + [("dyn_prop", "<i1"), ("id", "<i2")]
    + [(name, "<f4") for name in ("rcs", "vx", "vy", "vx_comp", "vy_comp")]
    + [(n, "<i1") for n in "is_quality_valid ambig_state x_rms y_rms invalid_state pdh0 vx_rms vy_rms".split()]
)
START_US = 1_500_000_000_000_000
TURN_LEFT = [math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5)]  # quaternions wxyz
TURN_RIGHT = [math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)]
TURN_ROUND = [0.0, 0.0, 0.0, 1.0]
OPTICAL = [0.5, -0.5, 0.5, -0.5]  # a camera that looks along ego x
STILL = [1.0, 0.0, 0.0, 0.0]


def pcd_bytes(points: np.ndarray) -> bytes:
    """What a radar driver writes, without the newline that some put at the end."""
    columns = [(name, points.dtype[name]) for name in points.dtype.names]
    kind = {"f": "F", "i": "I", "u": "U"}
    header = f"""# .PCD v0.7
VERSION 0.7
FIELDS {" ".join(name for name, _ in columns)}
SIZE {" ".join(str(dtype.itemsize) for _, dtype in columns)}
TYPE {" ".join(kind[dtype.kind] for _, dtype in columns)}
COUNT {" ".join("1" for _ in columns)}
WIDTH {len(points)}
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS {len(points)}
DATA binary
"""
    return header.encode() + points.tobytes()


def radar_points(*rows) -> np.ndarray:
    """Valid returns from rows of (x, y, z, rcs, vx_comp, vy_comp); the other fields are zero."""
    points = np.zeros(len(rows), RADAR_DTYPE)
    for i, row in enumerate(rows):
        for name, value in zip(("x", "y", "z", "rcs", "vx_comp", "vy_comp"), row):
            points[name][i] = value
    points["ambig_state"] = 3
    return points


class World:
    """A dataset in memory, to be damaged and then written.

    One scene of two samples, 0.5 s apart. The vehicle drives at 20 m/s along world +y, and faces that way, from
    (100, 200). The LiDAR sits 1 m ahead and 2 m up, turned to the right; the radar 1 m behind, turned round. Both have
    one sweep 50 ms before the first keyframe, when the vehicle was 1 m further back. The camera exposes 100 ms late,
    2 m further on. A car of 4 x 2 x 1.5 m drives ahead, 10 m/s; a dog watches.
    """

    def __init__(self):
        sensors = {"LIDAR_TOP": "lidar", "RADAR_FRONT": "radar", "CAM_FRONT": "camera"}
        mounts = {
            "LIDAR_TOP": ([1.0, 0.0, 2.0], TURN_RIGHT, []),
            "RADAR_FRONT": ([-1.0, 0.0, 0.5], TURN_ROUND, []),
            "CAM_FRONT": ([0.0, 0.0, 1.0], OPTICAL, [[10, 0, 16], [0, 10, 8], [0, 0, 1]]),
        }
        self.files: dict[str, bytes] = {}
        self.tables = {
            "scene": [{"token": "scene", "name": "scene-0001"}],
            "sample": [{"token": f"s{i}", "scene_token": "scene", "timestamp": START_US + i * 500_000} for i in (0, 1)],
            "sensor": [{"token": name, "channel": name, "modality": kind} for name, kind in sensors.items()],
            "calibrated_sensor": [
                {"token": n, "sensor_token": n, "translation": t, "rotation": r, "camera_intrinsic": k}
                for n, (t, r, k) in mounts.items()
            ],
            "ego_pose": [],
            "sample_data": [],
            "category": [{"token": "car", "name": "vehicle.car"}, {"token": "dog", "name": "animal"}],
            "instance": [{"token": "car", "category_token": "car"}, {"token": "dog", "category_token": "dog"}],
            "attribute": [{"token": "moving", "name": "vehicle.moving"}],
            "visibility": [{"token": "4", "level": "v80-100"}],
            "sample_annotation": [
                self.box("dog0", "s0", "dog", [100, 205, 0], "", ""),
                self.box("car0", "s0", "car", [100, 210, 1], "", "car1"),
                self.box("car1", "s1", "car", [100, 215, 1], "car0", ""),
            ],
        }
        lidar, radar = np.array([[10, 0, 0, 50, 3]], "<f4"), radar_points((5, 0, 0, 7, 3, 0))
        for i in (0, 1):
            self.add(f"lidar{i}", f"s{i}", "LIDAR_TOP", i * 500_000, lidar.tobytes(), "sweep" if i == 0 else "")
            self.add(f"radar{i}", f"s{i}", "RADAR_FRONT", i * 500_000, pcd_bytes(radar), "rsweep" if i == 0 else "")
            jpeg = cv2.imencode(".jpg", np.full((16, 32, 3), 90, np.uint8))[1].tobytes()
            self.add(f"camera{i}", f"s{i}", "CAM_FRONT", i * 500_000 + 100_000, jpeg)
        self.add("sweep", "s0", "LIDAR_TOP", -50_000, lidar.tobytes(), key=False)
        self.add("rsweep", "s0", "RADAR_FRONT", -50_000, pcd_bytes(radar), key=False)

    @staticmethod
    def box(token, sample, instance, translation, before, after):
        return {
            "token": token,
            "sample_token": sample,
            "instance_token": instance,
            "visibility_token": "4",
            "attribute_tokens": ["moving"] if instance == "car" else [],
            "translation": translation,
            "size": [2.0, 4.0, 1.5],  # width, length, height
            "rotation": TURN_LEFT,
            "prev": before,
            "next": after,
            "num_lidar_pts": 5,
            "num_radar_pts": 2,
        }

    def add(self, token, sample, channel, offset_us, data, prev="", key=True):
        image = channel.startswith("CAM")
        filename = f"{'samples' if key else 'sweeps'}/{channel}/{token}" + (".jpg" if image else "")
        self.files[filename] = data
        time_us, y = START_US + offset_us, 200 + 20e-6 * offset_us
        pose = {"token": token, "timestamp": time_us, "rotation": TURN_LEFT, "translation": [100.0, y, 0.0]}
        self.tables["ego_pose"].append(pose)
        self.tables["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": channel,
                "timestamp": time_us,
                "is_key_frame": key,
                "height": 16 if image else 0,
                "width": 32 if image else 0,
                "filename": filename,
                "prev": prev,
            }
        )

    def row(self, table, token):
        return next(row for row in self.tables[table] if row["token"] == token)

    def remove(self, table, token):
        self.tables[table].remove(self.row(table, token))

    def write(self, root, version="v1.0-sim"):
        (root / version).mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (root / version / f"{name}.json").write_text(json.dumps(rows))
        for name, data in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
        return root
