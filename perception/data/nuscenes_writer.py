"""Writes frames with boxes as a folder in the nuScenes layout, which ``perception.NuScenes`` and the devkit read.

    with NuScenesWriter("data/own") as writer:
        for frame, names in drive:
            writer.add(frame, instances=names)

The schema: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from perception.data.nuscenes_constants import DETECTION_CLASS, REFERENCE_CHANNEL
from perception.data.scene_tables import SceneTables, write_tables
from perception.errors import PerceptionError
from perception.files import write_file
from perception.geometry import SE3, in_box
from perception.sample import Boxes3D, Frame, LidarCloud, RadarCloud
from perception.task import ATTRIBUTES, NUSCENES, ObjectClass, Task

RADAR_FIELDS = np.dtype(
    [(name, "<f4") for name in ("x", "y", "z")]
    + [("dyn_prop", "i1"), ("id", "<i2")]
    + [(name, "<f4") for name in ("rcs", "vx", "vy", "vx_comp", "vy_comp")]
    + [(n, "i1") for n in "is_quality_valid ambig_state x_rms y_rms invalid_state pdh0 vx_rms vy_rms".split()]
)
RADAR_CHANNEL = "RADAR_FRONT"
_JPEG_QUALITY = 95
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
        categories: class of the task -> nuScenes category. By default that of the nuScenes class of this name, or of
            the first one among its ``sources``.
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
        require_new(root, version)
        self.root, self.version, self.task, self._splits, self._lossless = Path(root), version, task, splits, lossless
        self._mounts = {"lidar": SE3(), "radar": SE3(), **mounts}
        self._category = [_category(facts, {**_CATEGORIES, **categories}) for facts in task.objects]
        self._scenes: dict[str, SceneTables] = {}
        self._latest_us = 0  # of the last scene
        self._channels: dict[str, str] = {}  # channel -> modality

    def __enter__(self) -> NuScenesWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._write_tables()

    def add(self, frame: Frame, instances: Sequence[str] | None = None, scores: Sequence[float] | None = None) -> None:
        """Add a frame; its files are written at once.

        Args:
            instances: a name for every box, the same for the same object in all frames of a scene. None: every box is
                an object of its own, whose velocity is therefore not known.
            scores: of every box, where they are a detector's: the column ``score`` of sample_annotation, which the
                schema does not have and readers pass over.
        """
        boxes = frame.boxes if frame.boxes is not None else Boxes3D.empty()
        names = [f"{frame.token}/{i}" for i in range(len(boxes))] if instances is None else list(instances)
        if len(names) != len(boxes) or len(set(names)) < len(names):
            raise WriterError(f"{frame.token}: {len(boxes)} different names of instances were expected, found {names}")
        if scores is not None and len(scores) != len(boxes):
            raise WriterError(f"{frame.token}: {len(boxes)} scores were expected, found {len(scores)}")
        self.task.check(boxes.label, boxes.attribute, frame.token)
        scene = self._scene(frame)
        sample = scene.add_sample(_microseconds(frame))
        self._clouds(scene, sample, frame)
        for name, camera in (frame.cameras or {}).items():
            # Its place is relative to the ego pose of the sample, which is therefore the one that is written.
            if not _NAME.fullmatch(name) or name in (REFERENCE_CHANNEL, RADAR_CHANNEL):
                raise WriterError(f"a camera's name of letters, digits, . _ - was expected, found '{name}'")
            suffix, options = ("png", []) if self._lossless else ("jpg", [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            content = cv2.imencode(f".{suffix}", camera.image[..., ::-1], options)[1].tobytes()
            calibration = self._calibration(scene, name, "camera", camera.ego_SE3_camera, camera.intrinsics)
            self._file(scene, sample, frame, name, calibration, suffix, content, camera.image.shape[:2])
        self._annotate(scene, sample, frame, boxes, names, scores)

    def add_sweep(self, frame: Frame) -> None:
        """Add the clouds of a frame as sweeps: what is seen between the samples, without images and boxes."""
        self._clouds(self._scene(frame), None, frame)

    def remove_without_samples(self) -> list[str]:
        """Remove scenes of sweeps only, which the layout cannot hold, and their files. Returns their names."""
        empty = [name for name, scene in self._scenes.items() if not scene.times_us]
        for name in empty:
            for filename in self._scenes.pop(name).filenames:
                (self.root / filename).unlink(missing_ok=True)
        return empty

    def _scene(self, frame: Frame) -> SceneTables:
        """The tables of a frame that comes next."""
        name, time_us = frame.scene or "scene", _microseconds(frame)
        if frame.others:
            raise WriterError(f"{frame.token}: camera, radar and lidar were expected, found {', '.join(frame.others)}")
        if not _NAME.fullmatch(name):
            raise WriterError(f"{frame.token}: a scene's name of letters, digits, . _ - was expected, found '{name}'")
        if name not in self._scenes:
            self._scenes[name], self._latest_us = SceneTables(self.version, name), -(1 << 62)
        if name != next(reversed(self._scenes)):
            raise WriterError(f"{frame.token}: scene '{name}' was expected to be over, with others after it")
        if time_us <= self._latest_us:
            raise WriterError(f"{frame.token}: a frame after {self._latest_us} us was expected, at {time_us}")
        self._latest_us = time_us
        return self._scenes[name]

    def _clouds(self, scene: SceneTables, sample: int | None, frame: Frame) -> None:
        if frame.lidar is not None:
            calibration = self._calibration(scene, REFERENCE_CHANNEL, "lidar", self._mounts["lidar"])
            content = lidar_file(frame.lidar, self._mounts["lidar"])
            self._file(scene, sample, frame, REFERENCE_CHANNEL, calibration, "pcd.bin", content)
        if frame.radar is not None:
            calibration = self._calibration(scene, RADAR_CHANNEL, "radar", self._mounts["radar"])
            content = radar_file(radar_records(frame.radar, self._mounts["radar"]))
            self._file(scene, sample, frame, RADAR_CHANNEL, calibration, "pcd", content)

    def _calibration(
        self, scene: SceneTables, channel: str, modality: str, mount: SE3, intrinsics: np.ndarray | None = None
    ) -> str:
        self._channels[channel] = modality
        return scene.add_calibration(channel, mount, intrinsics)

    def _file(
        self, scene: SceneTables, sample: int | None, frame: Frame, channel: str, calibration: str, suffix: str,
        content: bytes, image_size: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        time_us, folder = _microseconds(frame), "sweeps" if sample is None else "samples"
        filename = f"{folder}/{channel}/{self.version}__{scene.name}__{channel}__{time_us}.{suffix}"
        write_file(self.root / filename, content)
        scene.add_file(sample, channel, calibration, time_us, frame.world_SE3_ego, filename, image_size)

    def _annotate(
        self, scene: SceneTables, sample: int, frame: Frame, boxes: Boxes3D, names: list[str],
        scores: Sequence[float] | None,
    ) -> None:  # fmt: skip
        points = _points(frame, boxes)
        for i, name in enumerate(names):
            category = self._category[boxes.label[i]]
            if scene.categories.get(name, category) != category:
                raise WriterError(f"{frame.token}: instance '{name}' was expected to stay a {scene.categories[name]}")
            attribute = self.task.attributes[boxes.attribute[i]] if boxes.attribute[i] >= 0 else ""
            if attribute and attribute not in ATTRIBUTES:
                raise WriterError(f"{frame.token}: attributes of nuScenes were expected, found '{attribute}'")
            world_SE3_box = frame.world_SE3_ego @ SE3.from_yaw(float(boxes.yaw[i]), boxes.center[i])
            score = {} if scores is None else {"score": float(scores[i])}
            visibility = int(boxes.visibility[i])
            scene.add_box(
                sample, name, category, world_SE3_box, boxes.size[i], points[i], attribute, visibility, **score
            )

    def _write_tables(self) -> None:
        for name, scene in self._scenes.items():
            if not scene.times_us:
                raise WriterError(f"{self.root / self.version}: samples of '{name}' were expected, found sweeps only")
        if not self._scenes:
            raise WriterError(f"{self.root / self.version}: frames were expected, found none")
        for name, scenes in self._splits.items():
            if absent := sorted(set(scenes) - set(self._scenes)):
                raise WriterError(f"splits: scenes that were written were expected in '{name}', found {absent[0]}")
        image = f"maps/{self.version}.png"  # the devkit wants one
        write_file(self.root / image, cv2.imencode(".png", np.zeros((1, 1), np.uint8))[1].tobytes())
        rows = [scene.finished(image) for scene in self._scenes.values()]
        write_tables(self.root / self.version, self.version, rows, self._channels, self._splits)


def require_new(root: str | Path, version: str) -> None:
    """Raises WriterError where the folder has this version."""
    if Path(root, version, "scene.json").exists():
        raise WriterError(f"{Path(root, version)}: a version that is not there yet was expected, found one")


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


def _category(facts: ObjectClass, known: Mapping[str, str]) -> str:
    category = next((known[name] for name in (facts.name, *facts.sources) if name in known), "")
    if category not in DETECTION_CLASS:
        raise WriterError(f"categories: a nuScenes category for '{facts.name}' was expected, found '{category}'")
    return category


def _microseconds(frame: Frame) -> int:
    return round(frame.timestamp_ns / 1000)


def _points(frame: Frame, boxes: Boxes3D) -> list[list[int]]:
    """[N, 2] of LiDAR and radar in each box: as annotated, or counted where that is not known and the sensor is there.

    Readers add the two, unknown ones being -1; next to a number that is known, what is not known counts for none.
    """
    counts = np.stack([boxes.num_lidar_points, boxes.num_radar_points], axis=1)
    for column, cloud in zip(counts.T, (frame.lidar, frame.radar)):
        if cloud is not None:
            points = cloud.points[:, :3].astype(np.float64)
            for i in np.flatnonzero(column < 0):
                column[i] = in_box(points, boxes.center[i], boxes.size[i], float(boxes.yaw[i])).sum()
    return np.where((counts >= 0).any(axis=1, keepdims=True), np.maximum(counts, 0), counts).tolist()
