"""nuScenes, straight from its JSON tables and sensor files.

    dataset = perception.NuScenes(root, version="v1.0-mini", split="mini_val")
    frame = dataset[0]

What a frame holds, exactly:

Reference   The ego pose and time of the LIDAR_TOP keyframe. A sample without that row takes its own timestamp, and the ego
            pose of whichever of its sensor rows was measured nearest to it.
Clouds      All sweeps of all sensors of a modality in the ego frame at the reference time, the vehicle's motion removed.
            Sweeps are found by following ``prev`` from the keyframe. Points within ``min_distance_m`` of their sensor in
            both x and y are dropped (the vehicle itself), as are points with a number that is not finite; a radar with
            nothing to report writes one such point.
Radar       vx, vy are the ego-motion compensated velocities. ``radar_filter`` keeps what the devkit keeps by default:
            valid clusters, any dynamic property but "stopped", unambiguous Doppler.
Boxes       All annotations of the ten detection classes at any distance, in the table's order; None in a version without
            annotations (test).

What is absent and what is broken are different things:

Absent      A sensor without a row, or whose keyframe file is not on disk, is left out of the frame, older sweeps included:
            they alone would show the past as the present. Absent sweeps are left out one by one. ``report`` counts all of
            it; opening the dataset logs it in one line.
Broken      A file that exists but is damaged, or is not what the tables say, is a DataError naming file and tokens. With
            ``on_error="skip"`` the frame is dropped as a whole: ``dataset[i]`` is None (a collate function leaves those
            out), ``frames()`` passes over it, and ``skipped`` keeps the reason. Nothing takes its place.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from perception.data.nuscenes_files import DataError, read_image, read_lidar_bin, read_pcd
from perception.data.nuscenes_tables import SensorChannel, Table, Tables, read_tables
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import LIDAR_FIELDS, RADAR_FIELDS, SENSORS, Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud

logger = logging.getLogger(__name__)

_RADAR_USED = ("x", "y", "z", "rcs", "vx_comp", "vy_comp")
_RADAR_KEEP = {
    "invalid_state": (0,),
    "dyn_prop": (0, 1, 2, 3, 4, 5, 6),
    "ambig_state": (3,),
}  # the devkit's default_filters


class NuScenes:
    """Frames of a nuScenes version on disk, by index, in order of scene and time.

    Args:
        root: folder that holds the version folder, ``samples/`` and ``sweeps/``.
        version: folder of the JSON tables, such as "v1.0-mini"; None takes the only one there is.
        split: an official split ("mini_val", "train", ...) or one named in the version's ``splits.json``, which comes first;
            scenes of it that are not in this version are left out, and counted in the log.
        scenes: names of scenes, instead of a split. Neither: all scenes.
        sensors: the kinds of sensor to read; the others are None in every frame.
        lidar_sweeps, radar_sweeps: how many sweeps a cloud is made of, the keyframe included.
        min_distance_m: half the side of the square around a LiDAR or radar in which points are dropped.
        radar_filter: drop radar returns that the sensor itself holds for invalid or ambiguous.
        on_error: what a damaged file does, "raise" or "skip" (see the module docstring).

    Attributes:
        tokens: the sample token of every frame.  scenes: names, in the order of the frames.
        skipped: token -> reason, of frames dropped so far by this process.

    Raises:
        PerceptionError: an argument that names nothing (the message names the closest thing there is).
        DataError: tables that are missing, malformed or refer to nothing.
    """

    def __init__(
        self,
        root: str | Path,
        version: str | None = None,
        split: str | None = None,
        scenes: list[str] | tuple[str, ...] | None = None,
        *,
        sensors: tuple[str, ...] = SENSORS,
        lidar_sweeps: int = 10,
        radar_sweeps: int = 6,
        min_distance_m: float = 1.0,
        radar_filter: bool = True,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        for sensor in sensors:
            _require_known("sensor", sensor, SENSORS)
        _require_known("on_error", on_error, ("raise", "skip"))
        if min(lidar_sweeps, radar_sweeps) < 1:
            raise PerceptionError(f"sweeps: at least 1 was expected, found lidar {lidar_sweeps}, radar {radar_sweeps}")
        if split and scenes:
            raise PerceptionError(f"either split or scenes was expected, found both: {split} and {', '.join(scenes)}")
        self.root = Path(root)
        self.version = _find_version(self.root, version)
        self.split = split
        self.sensors = tuple(sensors)
        self.min_distance_m = min_distance_m
        self.radar_filter = radar_filter
        self.on_error = on_error
        self.skipped: dict[str, str] = {}
        self._dropped_points: Counter = Counter()
        self._where = f"nuScenes {self.version} at {self.root}"

        sweeps = {"camera": 1, "radar": radar_sweeps, "lidar": lidar_sweeps}
        self._sweeps = {sensor: sweeps[sensor] for sensor in self.sensors}
        self._tables: Tables = read_tables(self.root, self.version, self._choose_scenes(split, scenes), self._sweeps)
        self.tokens: list[str] = self._tables.tokens
        self.scenes: list[str] = self._tables.scene_names
        self._index = {token: i for i, token in enumerate(self.tokens)}
        self._absent = self._count_absent()
        if self._absent:
            counts = ", ".join(f"{channel} {kind} {n}" for (channel, kind), n in sorted(self._absent.items()))
            logger.warning("%s: served without what is absent: %s", self._where, counts)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Frame | None:
        """The frame, or None if it is damaged and ``on_error`` is "skip".

        Raises:
            IndexError: no such frame.
            DataError: a damaged file, and ``on_error`` is "raise".
        """
        i = range(len(self))[index]
        try:
            return self._read_frame(i)
        except PerceptionError as error:
            if self.on_error == "raise":
                raise
            if self.tokens[i] not in self.skipped:
                logger.warning("frame skipped: %s", error)
            self.skipped[self.tokens[i]] = str(error)
            return None

    def index(self, token: str) -> int:
        """Which frame has this sample token."""
        if token not in self._index:
            raise PerceptionError(f"{self._where}: no sample '{token}' in the chosen scenes")
        return self._index[token]

    def indices(self, scene: str) -> range:
        """The frames of one scene, in order of time."""
        _require_known("scene", scene, self.scenes)
        first, last = np.searchsorted(self._tables.scene, self.scenes.index(scene) + np.arange(2))
        return range(first, last)

    def frames(self, scene: str | None = None) -> Iterator[Frame]:
        """All frames, or those of one scene, in order; damaged ones are passed over if ``on_error`` is "skip"."""
        for i in range(len(self)) if scene is None else self.indices(scene):
            frame = self[i]
            if frame is not None:
                yield frame

    @property
    def report(self) -> dict[tuple[str, str], int]:
        """(channel, what) -> how many: absent rows and files of all chosen scenes; points with NaN or infinity met so far."""
        return dict(self._absent + self._dropped_points)

    def _choose_scenes(self, split: str | None, scenes) -> list[str]:
        names = [row["name"] for row in Table(self.root / self.version, "scene", ("name",)).rows]
        if scenes:
            for name in scenes:
                _require_known("scene", name, names)
            return list(dict.fromkeys(scenes))
        if split is None:
            return names
        wanted = set(_split_scenes(self.root / self.version, split))
        chosen = [name for name in names if name in wanted]
        if not chosen:
            raise PerceptionError(f"{self._where}: none of the {len(wanted)} scenes of split '{split}' is here")
        if len(chosen) < len(wanted):
            logger.warning(
                "%s: %d of %d scenes of split '%s' are absent",
                self._where,
                len(wanted) - len(chosen),
                len(wanted),
                split,
            )
        return chosen

    def _count_absent(self) -> Counter:
        rows, absent = self._tables.rows, Counter()
        channel = (
            np.array([c.channel for c in self._tables.calibrations])[rows.calibration]
            if len(rows.token)
            else np.zeros(0)
        )
        for name, keyframe in self._tables.keyframes.items():
            files = int((~rows.present[keyframe[keyframe >= 0]]).sum())
            absent[name, "keyframe row"] = int((keyframe < 0).sum())
            absent[name, "keyframe file"] = files
            absent[name, "sweep file"] = int((~rows.present & (channel == name)).sum()) - files
        return +absent

    def _read_frame(self, i: int) -> Frame:
        tables, token = self._tables, self.tokens[i]
        if tables.reference[i] < 0:
            raise DataError(
                f"{self._where}: sample {token}: a row in sample_data was expected, found none, so no ego pose"
            )
        world_SE3_ego = self._pose(tables.reference[i])
        reader = _FrameReader(self, token, world_SE3_ego.inverse(), int(tables.reference_us[i]))
        keyframes = {}  # the rows of this frame whose files exist
        for channel, rows in tables.keyframes.items():
            if rows[i] >= 0 and tables.rows.present[rows[i]]:
                keyframes[channel] = int(rows[i])
        modality = {
            channel: tables.calibrations[tables.rows.calibration[row]].modality for channel, row in keyframes.items()
        }
        radar = [reader.radar(row) for channel, row in keyframes.items() if modality[channel] == "radar"]
        lidar = [reader.lidar(row) for channel, row in keyframes.items() if modality[channel] == "lidar"]
        return Frame(
            token=token,
            timestamp_ns=1000 * int(tables.reference_us[i]),
            world_SE3_ego=world_SE3_ego,
            cameras={
                channel: reader.camera(row) for channel, row in keyframes.items() if modality[channel] == "camera"
            },
            radar=RadarCloud(np.concatenate(radar)) if radar else None,
            lidar=LidarCloud(np.concatenate(lidar)) if lidar else None,
            boxes=self._boxes(i, world_SE3_ego.inverse()),
            scene=self.scenes[tables.scene[i]],
        )

    def _pose(self, row: int) -> SE3:
        pose = self._tables.rows.world_SE3_ego[row]
        return SE3.from_quaternion(pose[3:], pose[:3])

    def _boxes(self, i: int, ego_SE3_world: SE3) -> Boxes3D | None:
        annotations = self._tables.annotations
        if annotations is None:
            return None
        own = slice(annotations.first[i], annotations.first[i + 1])
        forward = ego_SE3_world.rotate(annotations.forward[own])
        return Boxes3D(
            center=ego_SE3_world.transform(annotations.center[own]),
            size=annotations.size[own],
            yaw=np.arctan2(forward[:, 1], forward[:, 0]),
            velocity=ego_SE3_world.rotate(annotations.velocity[own])[:, :2],
            label=annotations.label[own],
            attribute=annotations.attribute[own],
            visibility=annotations.visibility[own],
            num_lidar_points=annotations.num_lidar_points[own],
            num_radar_points=annotations.num_radar_points[own],
        )


class _FrameReader:
    """Reads the sensors of one frame into the ego frame at its reference time."""

    def __init__(self, dataset: NuScenes, token: str, ego_SE3_world: SE3, reference_us: int):
        self.dataset, self.token, self.ego_SE3_world, self.reference_us = dataset, token, ego_SE3_world, reference_us
        self.rows = dataset._tables.rows

    def camera(self, row: int) -> CameraImage:
        image = self._read(row, read_image)
        expected = tuple(self.rows.image_size[row])
        if expected != image.shape[:2]:
            raise self._error(row, f"an image of height, width {expected} was expected, found {image.shape[:2]}")
        calibration = self._calibration(row)
        timestamp_ns = 1000 * int(self.rows.timestamp_us[row])
        return CameraImage(image, calibration.intrinsics, self._ego_SE3_sensor(row), timestamp_ns)

    def lidar(self, keyframe: int) -> np.ndarray:
        """float32 [N, 5] in LIDAR_FIELDS, all sweeps."""
        sweeps = [np.zeros((0, len(LIDAR_FIELDS)), np.float32)]
        for row in self._sweep_rows(keyframe, "lidar"):
            raw = self._outside(self._read(row, read_lidar_bin)[:, :4].astype(np.float64))
            xyz = self._ego_SE3_sensor(row).transform(raw[:, :3])
            sweeps.append(self._finite(row, np.column_stack([xyz, raw[:, 3], np.full(len(raw), self._age_s(row))])))
        return np.concatenate(sweeps)

    def radar(self, keyframe: int) -> np.ndarray:
        """float32 [N, 7] in RADAR_FIELDS, all sweeps."""
        sweeps = [np.zeros((0, len(RADAR_FIELDS)), np.float32)]
        for row in self._sweep_rows(keyframe, "radar"):
            raw = self._outside(self._read_radar(row))
            ego_SE3_radar = self._ego_SE3_sensor(row)
            velocity = ego_SE3_radar.rotate(np.column_stack([raw[:, 4:6], np.zeros(len(raw))]))[:, :2]
            columns = [ego_SE3_radar.transform(raw[:, :3]), raw[:, 3], velocity, np.full(len(raw), self._age_s(row))]
            sweeps.append(self._finite(row, np.column_stack(columns)))
        return np.concatenate(sweeps)

    def _read_radar(self, row: int) -> np.ndarray:
        """float64 [N, 6] in the order of _RADAR_USED, filtered."""
        points = self._read(row, read_pcd)
        missing = [name for name in (*_RADAR_USED, *_RADAR_KEEP) if name not in points.dtype.names]
        if missing:
            raise self._error(
                row, f"a radar file with field {missing[0]} was expected, found {', '.join(points.dtype.names)}"
            )
        if self.dataset.radar_filter:
            keep = [np.isin(points[name], states) for name, states in _RADAR_KEEP.items()]
            points = points[np.logical_and.reduce(keep)]
        return np.column_stack([points[name].astype(np.float64) for name in _RADAR_USED])

    def _sweep_rows(self, row: int, sensor: str) -> Iterator[int]:
        """The keyframe and the sweeps before it whose files exist, latest first."""
        for _ in range(self.dataset._sweeps[sensor]):
            if row < 0:
                return
            if self.rows.present[row]:
                yield row
            row = int(self.rows.previous[row])

    def _read(self, row: int, reader):
        """What ``reader`` makes of the row's file; its errors gain the tokens."""
        try:
            return reader(self.dataset.root / self.rows.filename[row].decode())
        except DataError as error:
            raise DataError(f"{error} ({self._tokens(row)})") from None

    def _error(self, row: int, message: str) -> DataError:
        return DataError(f"{self.dataset.root / self.rows.filename[row].decode()}: {message} ({self._tokens(row)})")

    def _tokens(self, row: int) -> str:
        return f"sample {self.token}, sample_data {self.rows.token[row].decode()}"

    def _calibration(self, row: int) -> SensorChannel:
        return self.dataset._tables.calibrations[self.rows.calibration[row]]

    def _ego_SE3_sensor(self, row: int) -> SE3:
        """From the sensor at its time of measurement to the ego frame at the reference time."""
        return self.ego_SE3_world @ self.dataset._pose(row) @ self._calibration(row).ego_SE3_sensor

    def _age_s(self, row: int) -> float:
        return 1e-6 * (self.reference_us - int(self.rows.timestamp_us[row]))

    def _outside(self, points: np.ndarray) -> np.ndarray:
        """Points [N, C >= 2] that are not on the vehicle itself (the devkit's remove_close: a square, not a circle)."""
        return points[~(np.abs(points[:, :2]) < self.dataset.min_distance_m).all(axis=1)]

    def _finite(self, row: int, points: np.ndarray) -> np.ndarray:
        """The finite points as float32; the others are counted in the report."""
        with np.errstate(over="ignore"):
            points = points.astype(np.float32)
        finite = np.isfinite(points).all(axis=1)
        if finite.all():
            return points
        self.dataset._dropped_points[self._calibration(row).channel, "points not finite"] += int((~finite).sum())
        return points[finite]


def _require_known(kind: str, name: str, known) -> None:
    if name not in known:
        closest = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)
        raise PerceptionError(
            f"unknown {kind} '{name}'" + (f"; the closest is '{closest[0]}'" if closest else "; there is none")
        )


def _find_version(root: Path, version: str | None) -> str:
    if not root.is_dir():
        raise DataError(f"{root}: a folder with nuScenes data was expected, found none")
    candidates = sorted(path.parent.name for path in root.glob("*/scene.json"))
    if version is not None and version in candidates:
        return version
    if version is None and len(candidates) == 1:
        return candidates[0]
    wanted = f"version folder '{version}'" if version is not None else "exactly one version folder"
    raise DataError(f"{root}: {wanted} with a scene.json was expected, found {', '.join(candidates) or 'none'}")


def _split_scenes(folder: Path, split: str) -> list[str]:
    """The scene names of a split: one in the version's ``splits.json`` (the devkit's custom splits), or an official one."""
    custom = {}
    if (folder / "splits.json").exists():
        try:
            custom = json.loads((folder / "splits.json").read_bytes())
        except ValueError as error:
            raise DataError(f"{folder / 'splits.json'}: not valid JSON: {error}") from None
        if split in custom:
            return custom[split]
    try:
        from nuscenes.utils.splits import create_splits_scenes
    except ImportError:
        raise PerceptionError(f"split '{split}': the official splits need pip install 'perception[nuscenes]'") from None
    official = create_splits_scenes()
    _require_known("split", split, [*official, *custom])
    return official[split]
