"""Writes frames with boxes as a folder in the nuScenes layout, which ``perception.NuScenes`` and the devkit read.

    with NuScenesWriter("data/own") as writer:
        for frame, names in drive:
            writer.add(frame, instances=names)

The schema: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from perception.data.nuscenes_constants import DETECTION_CLASS, REFERENCE_CHANNEL, VISIBILITY_LEVEL
from perception.errors import PerceptionError
from perception.files import write_file
from perception.geometry import SE3, in_box
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud
from perception.task import ATTRIBUTES, NUSCENES, Task

TABLES = (
    "scene", "sample", "sample_data", "sample_annotation", "instance", "category", "attribute", "visibility", "sensor",
    "calibrated_sensor", "ego_pose", "log", "map",
)  # fmt: skip
RADAR_FIELDS = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z")]
    + [("dyn_prop", "i1"), ("id", "<i2")]
    + [(name, "<f4") for name in ("rcs", "vx", "vy", "vx_comp", "vy_comp")]
    + [(n, "i1") for n in "is_quality_valid ambig_state x_rms y_rms invalid_state pdh0 vx_rms vy_rms".split()]
)
RADAR_CHANNEL = "RADAR_FRONT"
_JPEG_QUALITY = 95
_ORDERED_ATTRIBUTES = (*ATTRIBUTES[:5], *reversed(ATTRIBUTES[5:]))  # as in the official table
_CATEGORIES = {name: category for category, name in reversed(DETECTION_CLASS.items()) if name is not None}
# Of the categories of a class the first; a bus is a rigid one.
_CATEGORIES["bus"] = "vehicle.bus.rigid"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class WriterError(PerceptionError):
    """Frames that the layout cannot hold, or a folder that has some already."""


class NuScenesWriter:
    """A context manager: the tables appear when its block ends without an error.

    Frames of a scene (``frame.scene``) come one after the other, in order of time. What the layout does not hold: other
    sensors than camera, radar and LiDAR (an error), and the ages of points: a frame's clouds become those of its time.
    Velocities are not stored, but follow from where an instance is in the samples before and after.

    Args:
        root: folder, which may hold other versions.
        version: folder of the tables below it.
        task: what the labels and attributes of the boxes mean.
        categories: class of the task -> nuScenes category, for classes that nuScenes does not have.
        mounts: "lidar", "radar" -> ego_SE3_sensor; by default both are the ego frame's. Readers leave out what is
            within a metre of a sensor.
        splits: name -> scenes, for ``NuScenes(split=...)``; "all" is always there.
        lossless: images as PNG rather than as JPEG.

    Raises:
        WriterError: see the class; a class without a category.
    """

    def __init__(
        self,
        root: str | Path,
        version: str = "v1.0-own",
        task: Task = NUSCENES,
        categories: Mapping[str, str] = MappingProxyType({}),
        mounts: Mapping[str, SE3] = MappingProxyType({}),
        splits: Mapping[str, Sequence[str]] = MappingProxyType({}),
        lossless: bool = False,
    ):
        self.root, self.version, self.task, self._splits, self._lossless = Path(root), version, task, splits, lossless
        self._mounts = {"lidar": SE3(), "radar": SE3(), **mounts}
        if (self.root / version / "scene.json").exists():
            raise WriterError(f"{self.root / version}: a version that is not there yet was expected, found one")
        known = {**_CATEGORIES, **categories}
        self._category = [known.get(name, "") for name in task.classes]
        for name, category in zip(task.classes, self._category):
            if category not in DETECTION_CLASS:
                raise WriterError(f"categories: a nuScenes category for '{name}' was expected, found '{category}'")
        self._rows: dict[str, list[dict]] = {name: [] for name in TABLES}
        self._scenes: dict[str, list[dict]] = {}  # name -> rows of sample
        self._data: dict[tuple[str, str], list[dict]] = {}  # scene, channel -> rows of sample_data
        self._boxes: dict[tuple[str, str], list[dict]] = {}  # scene, instance -> rows of sample_annotation
        self._kinds: dict[tuple[str, str], str] = {}  # scene, instance -> category
        self._channels: dict[str, str] = {}  # channel -> modality
        self._calibrations: set[str] = set()

    def __enter__(self) -> NuScenesWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._write_tables()

    def add(self, frame: Frame, instances: Sequence[str] | None = None) -> None:
        """Add a frame; its files are written at once.

        Args:
            instances: a name for every box, the same for the same object in all frames of a scene. None: every box is
                an object of its own, whose velocity is therefore not known.
        """
        scene, boxes = frame.scene or "scene", frame.boxes if frame.boxes is not None else Boxes3D.empty()
        names = [f"{frame.token}/{i}" for i in range(len(boxes))] if instances is None else list(instances)
        if len(names) != len(boxes) or len(set(names)) < len(names):
            raise WriterError(f"{frame.token}: {len(boxes)} different names of instances were expected, found {names}")
        if frame.others:
            raise WriterError(f"{frame.token}: camera, radar and lidar were expected, found {', '.join(frame.others)}")
        if not _NAME.fullmatch(scene):
            raise WriterError(f"{frame.token}: a scene's name of letters, digits, . _ - was expected, found '{scene}'")
        self.task.check(boxes.label, boxes.attribute, frame.token)
        samples, time_us = self._scenes.setdefault(scene, []), round(frame.timestamp_ns / 1000)
        if samples is not next(reversed(self._scenes.values())):
            raise WriterError(f"{frame.token}: scene '{scene}' was expected to be over, with others after it")
        if samples and time_us <= samples[-1]["timestamp"]:
            raise WriterError(f"{frame.token}: a frame after {samples[-1]['timestamp']} us was expected, at {time_us}")
        token = _token("sample", scene, time_us)
        samples.append({"token": token, "timestamp": time_us, "scene_token": _token("scene", scene)})
        pose = frame.world_SE3_ego
        if frame.lidar is not None:
            content = lidar_file(frame.lidar, self._mounts["lidar"])
            mount = self._calibrated(REFERENCE_CHANNEL, "lidar", self._mounts["lidar"])
            self._file(scene, token, REFERENCE_CHANNEL, mount, time_us, pose, "pcd.bin", content)
        if frame.radar is not None:
            content = radar_file(radar_records(frame.radar, self._mounts["radar"]))
            mount = self._calibrated(RADAR_CHANNEL, "radar", self._mounts["radar"])
            self._file(scene, token, RADAR_CHANNEL, mount, time_us, pose, "pcd", content)
        for name, camera in (frame.cameras or {}).items():
            self._image(scene, token, name, camera, time_us, pose)
        self._annotate(scene, token, frame, boxes, names)

    def _image(self, scene: str, sample: str, name: str, camera: CameraImage, time_us: int, pose: SE3) -> None:
        """Its calibration is relative to the ego pose of the sample, which is therefore the one that is written."""
        if not _NAME.fullmatch(name) or name in (REFERENCE_CHANNEL, RADAR_CHANNEL):
            raise WriterError(f"a camera's name of letters, digits, . _ - was expected, found '{name}'")
        suffix, options = ("png", []) if self._lossless else ("jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
        content = cv2.imencode(f".{suffix}", camera.image[..., ::-1], options)[1].tobytes()
        mount = self._calibrated(name, "camera", camera.ego_SE3_camera, camera.intrinsics)
        self._file(scene, sample, name, mount, time_us, pose, suffix, content, camera.image.shape[:2])

    def _calibrated(self, channel: str, modality: str, mount: SE3, intrinsics: np.ndarray | None = None) -> str:
        """The token of a calibration, which is written once."""
        if self._channels.setdefault(channel, modality) != modality:
            raise WriterError(f"{channel}: one sensor was expected, found {modality} and {self._channels[channel]}")
        row = {
            "sensor_token": _token("sensor", channel),
            "translation": mount.translation.tolist(),
            "rotation": mount.quaternion.tolist(),
            "camera_intrinsic": [] if intrinsics is None else intrinsics.tolist(),
        }
        token = _token("calibrated", json.dumps(row))
        if token not in self._calibrations:
            self._calibrations.add(token)
            self._rows["calibrated_sensor"].append({"token": token, **row})
        return token

    def _file(
        self, scene: str, sample: str, channel: str, mount: str, time_us: int, pose: SE3, suffix: str, content: bytes,
        size: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        filename = f"samples/{channel}/{self.version}__{scene}__{channel}__{time_us}.{suffix}"
        write_file(self.root / filename, content)
        token = _token("data", scene, channel, time_us)
        row = {
            "token": token, "sample_token": sample, "ego_pose_token": token, "calibrated_sensor_token": mount,
            "timestamp": time_us, "fileformat": suffix.split(".")[0], "is_key_frame": True,
            "height": size[0], "width": size[1], "filename": filename,
        }  # fmt: skip
        self._data.setdefault((scene, channel), []).append(row)
        where = {"rotation": pose.quaternion.tolist(), "translation": pose.translation.tolist()}
        self._rows["ego_pose"].append({"token": token, "timestamp": time_us, **where})

    def _annotate(self, scene: str, sample: str, frame: Frame, boxes: Boxes3D, names: list[str]) -> None:
        counts = [_counts(frame, boxes, "num_lidar_points"), _counts(frame, boxes, "num_radar_points")]
        for i, name in enumerate(names):
            category = self._category[boxes.label[i]]
            if self._kinds.setdefault((scene, name), category) != category:
                raise WriterError(f"{frame.token}: instance '{name}' was expected to stay a {self._kinds[scene, name]}")
            attribute = self.task.attributes[boxes.attribute[i]] if boxes.attribute[i] >= 0 else None
            if attribute is not None and attribute not in ATTRIBUTES:
                raise WriterError(f"{frame.token}: attributes of nuScenes were expected, found '{attribute}'")
            world_SE3_box = frame.world_SE3_ego @ SE3.from_yaw(float(boxes.yaw[i]), boxes.center[i])
            row = {
                "token": _token("annotation", sample, name), "sample_token": sample,
                "instance_token": _token("instance", scene, name),
                "visibility_token": str(boxes.visibility[i]) if boxes.visibility[i] else "",
                "attribute_tokens": [_token("attribute", attribute)] if attribute else [],
                "translation": world_SE3_box.translation.tolist(),
                "size": boxes.size[i][[1, 0, 2]].tolist(),  # width, length, height
                "rotation": world_SE3_box.quaternion.tolist(),
                "num_lidar_pts": int(counts[0][i]), "num_radar_pts": int(counts[1][i]),
            }  # fmt: skip
            self._boxes.setdefault((scene, name), []).append(row)

    def _write_tables(self) -> None:
        rows = self._rows
        if not self._scenes:
            raise WriterError(f"{self.root / self.version}: frames were expected, found none")
        for samples in self._scenes.values():
            link(samples)
            rows["sample"] += samples
        for data in self._data.values():
            link(data)
            rows["sample_data"] += data
        for (scene, name), boxes in self._boxes.items():
            link(boxes)
            rows["sample_annotation"] += boxes
            first, last = boxes[0]["token"], boxes[-1]["token"]
            rows["instance"].append(
                {
                    "token": _token("instance", scene, name),
                    "category_token": _token("category", self._kinds[scene, name]),
                    "nbr_annotations": len(boxes), "first_annotation_token": first, "last_annotation_token": last,
                }
            )  # fmt: skip
        for table, names in (("category", DETECTION_CLASS), ("attribute", _ORDERED_ATTRIBUTES)):
            rows[table] = [{"token": _token(table, name), "name": name, "description": ""} for name in names]
        rows["visibility"] = [
            {"token": str(i + 1), "level": level, "description": ""} for i, level in enumerate(VISIBILITY_LEVEL)
        ]
        rows["sensor"] = [
            {"token": _token("sensor", channel), "channel": channel, "modality": modality}
            for channel, modality in self._channels.items()
        ]
        for name, samples in self._scenes.items():
            scene = _token("scene", name)
            first, last = samples[0]["token"], samples[-1]["token"]
            rows["scene"].append(
                {
                    "token": scene, "log_token": _token("log"), "nbr_samples": len(samples), "name": name,
                    "first_sample_token": first, "last_sample_token": last, "description": "",
                }
            )  # fmt: skip
        log_row = {"logfile": "", "vehicle": "", "date_captured": "", "location": "unknown"}
        rows["log"] = [{"token": _token("log"), **log_row}]
        image = f"maps/{self.version}.png"  # the devkit wants one
        write_file(self.root / image, cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes())
        facts = {"log_tokens": [_token("log")], "category": "semantic_prior", "filename": image}
        rows["map"] = [{"token": _token("map"), **facts}]
        splits = {"all": list(self._scenes), **{name: list(scenes) for name, scenes in self._splits.items()}}
        for name, scenes in splits.items():
            if absent := sorted(set(scenes) - set(self._scenes)):
                raise WriterError(f"splits: scenes that were written were expected in '{name}', found {absent[0]}")
        write_json(self.root / self.version / "splits.json", splits)
        for table in sorted(TABLES, key="scene".__eq__):  # by which a version is known, at last
            write_json(self.root / self.version / f"{table}.json", rows[table])


def lidar_file(cloud: LidarCloud, ego_SE3_sensor: SE3) -> bytes:
    """A ``.pcd.bin`` file of the cloud: float32 x, y, z in the sensor's frame, intensity, ring, which is not known."""
    points = ego_SE3_sensor.inverse().transform(cloud.points[:, :3].astype(np.float64))
    return np.column_stack([points, cloud.points[:, 3], np.zeros(len(points))]).astype("<f4").tobytes()


def radar_records(cloud: RadarCloud, ego_SE3_sensor: SE3) -> np.ndarray:
    """Valid returns [N] of RADAR_FIELDS, in the sensor's frame."""
    sensor_SE3_ego = ego_SE3_sensor.inverse()
    records = np.zeros(len(cloud.points), RADAR_FIELDS)
    xyz = sensor_SE3_ego.transform(cloud.points[:, :3].astype(np.float64))
    velocity = sensor_SE3_ego.rotate(np.pad(cloud.points[:, 4:6].astype(np.float64), ((0, 0), (0, 1))))
    for name, values in zip(("x", "y", "z"), xyz.T):
        records[name] = values
    records["rcs"], records["vx_comp"], records["vy_comp"] = cloud.points[:, 3], velocity[:, 0], velocity[:, 1]
    records["ambig_state"], records["is_quality_valid"] = 3, 1
    return records


def link(rows: list[dict]) -> None:
    """Fill ``prev`` and ``next`` of rows already in order of time."""
    for i, row in enumerate(rows):
        row["prev"] = rows[i - 1]["token"] if i else ""
        row["next"] = rows[i + 1]["token"] if i + 1 < len(rows) else ""


def write_json(path: Path, content) -> None:
    """Write a JSON file with a value a line, as nuScenes has its tables."""
    write_file(path, json.dumps(content, indent=0).encode())


def radar_file(records: np.ndarray) -> bytes:
    """The PCD file of a structured array [N]."""
    names = records.dtype.names or ()
    kinds = [records.dtype[name] for name in names]
    header = [
        "# .PCD v0.7 - Point Cloud Data file format",
        "VERSION 0.7",
        "FIELDS " + " ".join(names),
        "SIZE " + " ".join(str(kind.itemsize) for kind in kinds),
        "TYPE " + " ".join("F" if kind.kind == "f" else "I" for kind in kinds),
        "COUNT" + " 1" * len(names),
        f"WIDTH {len(records)}",
        "HEIGHT 1",
        "VIEWPOINT 0 0 0 1 0 0 0",
        f"POINTS {len(records)}",
        "DATA binary",
    ]
    # The devkit's reader wants bytes after the last point.
    return ("\n".join(header) + "\n").encode() + records.tobytes() + b"\n"


def _token(*name: object) -> str:
    """32 hexadecimal digits that depend on the name only."""
    return hashlib.md5("/".join(map(str, name)).encode(), usedforsecurity=False).hexdigest()


def _counts(frame: Frame, boxes: Boxes3D, column: str) -> np.ndarray:
    """int64 [N]: of points in each box, as annotated, or counted where that is not known and the sensor is there."""
    cloud = frame.lidar if column == "num_lidar_points" else frame.radar
    counts = getattr(boxes, column).copy()
    if cloud is not None:
        points = cloud.points[:, :3].astype(np.float64)
        for i in np.flatnonzero(counts < 0):
            counts[i] = in_box(points, boxes.center[i], boxes.size[i], float(boxes.yaw[i])).sum()
    return counts
