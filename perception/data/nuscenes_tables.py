"""The nuScenes JSON tables, checked and turned into columns: what ``nuscenes.py`` needs of the chosen scenes, nothing else.

The tables of trainval hold millions of rows; as Python objects they would take gigabytes in every loader worker. Here they
become a few numpy arrays, which forked workers share and spawned ones receive in one piece. Rows refer to each other by
index, -1 standing for none. Poses and boxes stay as nuScenes has them: world frame, quaternions (w, x, y, z).

Format: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_files import DataError
from perception.geometry import SE3
from perception.sample import ATTRIBUTES, CLASSES

REFERENCE_CHANNEL = "LIDAR_TOP"
MAX_TIME_DIFF_S = 1.5  # between annotations, for a velocity; twice that for a central difference (devkit: box_velocity)
DETECTION_CLASS = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}  # every other category is outside the detection task
VISIBILITY_LEVEL = {"v0-40": 1, "v40-60": 2, "v60-80": 3, "v80-100": 4}


@dataclass(frozen=True, eq=False)
class SensorChannel:
    """One calibrated sensor: a channel as it was mounted on one vehicle. intrinsics: [3, 3] for cameras, else None."""

    channel: str
    modality: str
    ego_SE3_sensor: SE3
    intrinsics: np.ndarray | None


@dataclass(frozen=True, eq=False)
class SensorRows:
    """The sample_data rows frames are made of, one entry of every array a row.

    token, filename: bytes [N].  timestamp_us: int64 [N].  world_SE3_ego: float64 [N, 7], translation then quaternion.
    calibration: int32 [N], index of a SensorChannel.  previous: int32 [N], the row of the sweep before.
    image_size: int32 [N, 2], height and width, 0 for point clouds.  present: bool [N], the file exists.
    """

    token: np.ndarray
    filename: np.ndarray
    timestamp_us: np.ndarray
    world_SE3_ego: np.ndarray
    calibration: np.ndarray
    previous: np.ndarray
    image_size: np.ndarray
    present: np.ndarray


@dataclass(frozen=True, eq=False)
class Annotations:
    """Boxes of the ten detection classes in the world frame; those of sample i are first[i] to first[i + 1].

    first: int64 [S + 1].  center: [N, 3].  size: [N, 3] (l, w, h).  forward: [N, 3], the box's x axis.
    velocity: [N, 3] m/s, NaN where unknown.  The rest as in Boxes3D, int64 [N].
    """

    first: np.ndarray
    center: np.ndarray
    size: np.ndarray
    forward: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    attribute: np.ndarray
    visibility: np.ndarray
    num_lidar_points: np.ndarray
    num_radar_points: np.ndarray


@dataclass(frozen=True, eq=False)
class Tables:
    """The chosen scenes, samples in order of time within each.

    tokens: S sample tokens.  scene: int32 [S], index into scene_names.  reference: int32 [S], the row whose ego pose is the
    sample's.  reference_us: int64 [S], its reference time.  keyframes: channel -> int32 [S], the sample's row of it.
    annotations: None in a version without any, such as v1.0-test.
    """

    scene_names: list[str]
    tokens: list[str]
    scene: np.ndarray
    reference: np.ndarray
    reference_us: np.ndarray
    keyframes: dict[str, np.ndarray]
    calibrations: list[SensorChannel]
    rows: SensorRows
    annotations: Annotations | None


def read_tables(root: Path, version: str, scene_names: list[str], sweeps: dict[str, int]) -> Tables:
    """Read the tables of some scenes.

    Args:
        scene_names: which scenes, in the order wanted.
        sweeps: modality ("camera", "radar", "lidar") -> how many sweeps a frame wants, the keyframe included. Rows of
            modalities not named, and sweeps no frame wants, are dropped.

    Raises:
        DataError: a table is missing or malformed, a row lacks a key, or refers to a row that does not exist.
    """
    scenes = Table(root / version, "scene", ("name",))
    scene_of_name = {row["name"]: row["token"] for row in scenes.rows}
    order = {scene_of_name[name]: i for i, name in enumerate(scene_names)}

    samples = Table(root / version, "sample", ("scene_token", "timestamp"))
    samples.references("scene_token", scenes)
    all_samples = samples.index()
    samples.rows = [row for row in samples.rows if row["scene_token"] in order]
    timestamp_us = samples.array("timestamp", np.int64)
    scene = np.array([order[row["scene_token"]] for row in samples.rows], dtype=np.int32)
    by_time = np.lexsort((timestamp_us, scene))
    samples.rows = [samples.rows[i] for i in by_time]
    scene, timestamp_us = scene[by_time], timestamp_us[by_time]

    calibrations = _calibrations(root / version)
    reference, reference_us, keyframes, rows = _sensor_rows(root, version, samples, all_samples, calibrations, sweeps)
    annotations = _annotations(root / version, samples, all_samples)
    tokens = [row["token"] for row in samples.rows]
    return Tables(list(scene_names), tokens, scene, reference, reference_us, keyframes, calibrations, rows, annotations)


class Table:
    """The rows of one JSON table, and the checks that turn them into columns."""

    def __init__(self, folder: Path, name: str, keys: tuple[str, ...]):
        """Read ``<folder>/<name>.json``, a list of objects with at least a token and ``keys``."""
        self.path = folder / f"{name}.json"
        try:
            self.rows: list[dict] = json.loads(self.path.read_bytes())
        except OSError as error:
            raise DataError(f"{self.path}: table '{name}' cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}: not valid JSON: {error}") from None
        if not isinstance(self.rows, list):
            raise DataError(f"{self.path}: a list of rows was expected, found {type(self.rows).__name__}")
        wanted = {"token", *keys}
        for row in self.rows:
            if not isinstance(row, dict) or not wanted <= row.keys() or not isinstance(row["token"], str):
                found = ", ".join(row) if isinstance(row, dict) else type(row).__name__
                raise DataError(
                    f"{self.path}: rows with the keys {', '.join(sorted(wanted))} were expected, found {found}"
                )

    def index(self) -> dict[str, int]:
        """token -> position."""
        return {row["token"]: i for i, row in enumerate(self.rows)}

    def array(self, key: str, dtype, shape: tuple[int, ...] = ()) -> np.ndarray:
        """The finite numbers under ``key`` as [N, *shape]."""
        values = [row[key] for row in self.rows]
        if not values:
            return np.zeros((0, *shape), dtype)
        array = _numbers(values, dtype)
        if array is not None and array.shape == (len(values), *shape):
            return array
        for row in self.rows:  # something is wrong: find the row to name
            value = _numbers(row[key], dtype)
            if value is None or value.shape != shape:
                wanted = f"{list(shape)} numbers" if shape else "a number"
                raise DataError(f"{self.path}: {row['token']}: {wanted} expected in {key}, found {row[key]!r}")
        raise DataError(f"{self.path}: the values of {key} cannot be read as numbers")

    def quaternions(self, key: str) -> np.ndarray:
        """Unit quaternions [N, 4] (w, x, y, z), normalised here."""
        quaternions = self.array(key, np.float64, (4,))
        norms = np.linalg.norm(quaternions, axis=1)
        for i in np.flatnonzero(np.abs(norms - 1) > 0.1)[:1]:
            raise DataError(
                f"{self.path}: {self.rows[i]['token']}: a unit quaternion was expected in {key}, found {quaternions[i]}"
            )
        return quaternions / norms[:, None]

    def references(
        self, key: str, target: Table, positions: dict[str, int] | None = None, optional=False
    ) -> np.ndarray:
        """int32 [N]: where in ``target`` the row stands that ``key`` names; -1 for an empty one where ``optional``."""
        positions = target.index() if positions is None else positions
        if optional:
            positions = {**positions, "": -1}
        try:
            return np.array([positions[row[key]] for row in self.rows], dtype=np.int32)
        except (KeyError, TypeError):
            row = next(row for row in self.rows if not isinstance(row[key], str) or row[key] not in positions)
            raise DataError(f"{self.path}: {row['token']}: {key} {row[key]!r} is not in {target.path.name}") from None


def _numbers(value, dtype) -> np.ndarray | None:
    """The value as a finite array, or None. Booleans and numbers in strings are not numbers."""
    try:
        array = np.asarray(value)
    except ValueError:  # ragged lists
        return None
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        return None
    return array.astype(dtype)


def _calibrations(folder: Path) -> list[SensorChannel]:
    sensors = Table(folder, "sensor", ("channel", "modality"))
    table = Table(folder, "calibrated_sensor", ("sensor_token", "translation", "rotation", "camera_intrinsic"))
    sensor = table.references("sensor_token", sensors)
    translation, rotation = table.array("translation", np.float64, (3,)), table.quaternions("rotation")
    calibrations = []
    for i, row in enumerate(table.rows):
        channel, modality = sensors.rows[sensor[i]]["channel"], sensors.rows[sensor[i]]["modality"]
        intrinsics = _numbers(row["camera_intrinsic"], np.float64) if modality == "camera" else None
        if modality == "camera" and (intrinsics is None or intrinsics.shape != (3, 3)):
            raise DataError(
                f"{table.path}: {row['token']}: camera_intrinsic [3, 3] expected, found {row['camera_intrinsic']!r}"
            )
        calibrations.append(
            SensorChannel(channel, modality, SE3.from_quaternion(rotation[i], translation[i]), intrinsics)
        )
    return calibrations


def _sensor_rows(
    root, version, samples: Table, all_samples: dict, calibrations: list[SensorChannel], sweeps: dict[str, int]
):
    """(reference, reference_us, keyframes, rows) of :class:`Tables`."""
    keys = ("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "is_key_frame", "height", "width")
    table = Table(root / version, "sample_data", (*keys, "filename", "prev"))
    table.references("sample_token", samples, all_samples)
    sample_position = samples.index()
    table.rows = [row for row in table.rows if row["sample_token"] in sample_position]
    sample = table.references("sample_token", samples, sample_position)
    calibrated = Table(root / version, "calibrated_sensor", ())
    calibration = table.references("calibrated_sensor_token", calibrated)
    previous = table.references("prev", table, optional=True)
    timestamp_us = table.array("timestamp", np.int64)
    is_key = np.array([row["is_key_frame"] is True for row in table.rows], dtype=bool)

    channels = sorted({c.channel for c in calibrations} | {REFERENCE_CHANNEL})
    channel = np.array([channels.index(c.channel) for c in calibrations], dtype=np.int32)[calibration]
    keyframe = np.full((len(samples.rows), len(channels)), -1, dtype=np.int32)
    keyframe[sample[is_key], channel[is_key]] = np.flatnonzero(is_key)

    sample_us = samples.array("timestamp", np.int64)
    reference = keyframe[:, channels.index(REFERENCE_CHANNEL)].copy()
    reference_us = np.where(reference >= 0, timestamp_us[reference], sample_us) if len(table.rows) else sample_us
    for i in np.flatnonzero(reference < 0):  # no LiDAR row: the ego pose measured nearest to the sample's own time
        own = np.flatnonzero(sample == i)
        if len(own):
            reference[i] = own[np.abs(timestamp_us[own] - sample_us[i]).argmin()]

    modality = {c.channel: c.modality for c in calibrations}
    wanted = np.zeros(len(table.rows), dtype=bool)
    wanted[reference[reference >= 0]] = True
    for column, name in enumerate(channels):
        chain = keyframe[:, column]
        for _ in range(sweeps.get(modality.get(name), 0)):
            chain = chain[chain >= 0]
            wanted[chain] = True
            chain = previous[chain]

    kept = np.flatnonzero(wanted)
    position = np.full(len(wanted) + 1, -1, dtype=np.int32)  # the last entry translates -1 to -1
    position[kept] = np.arange(len(kept))
    table.rows = [table.rows[i] for i in kept]
    rows = SensorRows(
        token=np.array([row["token"].encode() for row in table.rows], dtype=np.bytes_),
        filename=np.array([str(row["filename"]).encode() for row in table.rows], dtype=np.bytes_),
        timestamp_us=timestamp_us[kept],
        world_SE3_ego=_ego_poses(root / version, table),
        calibration=calibration[kept],
        previous=position[previous[kept]],
        image_size=np.stack([table.array("height", np.int32), table.array("width", np.int32)], axis=1),
        present=_files_present(root, table),
    )
    keyframes = {name: position[keyframe[:, i]] for i, name in enumerate(channels) if modality.get(name) in sweeps}
    return position[reference], reference_us, keyframes, rows


def _ego_poses(folder: Path, sensor_rows: Table) -> np.ndarray:
    """float64 [N, 7], translation then quaternion, of every sensor row."""
    poses = Table(folder, "ego_pose", ("translation", "rotation"))
    needed = {row["ego_pose_token"] for row in sensor_rows.rows if isinstance(row["ego_pose_token"], str)}
    poses.rows = [row for row in poses.rows if row["token"] in needed]
    pose = np.concatenate([poses.array("translation", np.float64, (3,)), poses.quaternions("rotation")], axis=1)
    return pose[sensor_rows.references("ego_pose_token", poses)]


def _files_present(root: Path, table: Table) -> np.ndarray:
    """bool [N]: whether the file of each row exists; folders are listed rather than millions of files tried one by one."""
    listings: dict[str, set[str]] = {}
    present = np.zeros(len(table.rows), dtype=bool)
    for i, row in enumerate(table.rows):
        folder, _, name = str(row["filename"]).rpartition("/")
        if folder not in listings:
            if folder.startswith("/") or ".." in folder.split("/") or "\0" in folder:
                _outside(table, row)
            listings[folder] = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if name in ("", ".", "..") or "\\" in row["filename"] or ":" in row["filename"]:
            _outside(table, row)
        present[i] = name in listings[folder]
    return present


def _outside(table: Table, row: dict):
    raise DataError(f"{table.path}: {row['token']}: a file below the data root was expected, found {row['filename']!r}")


def _annotations(folder: Path, samples: Table, all_samples: dict[str, int]) -> Annotations | None:
    if not (folder / "sample_annotation.json").exists():
        return None
    keys = ("sample_token", "instance_token", "visibility_token", "attribute_tokens", "translation", "size", "rotation")
    table = Table(folder, "sample_annotation", (*keys, "prev", "next", "num_lidar_pts", "num_radar_pts"))
    if not table.rows:
        return None
    table.references("sample_token", samples, all_samples)
    positions = samples.index()
    table.rows = [row for row in table.rows if row["sample_token"] in positions]
    label = _labels(folder, table)
    velocity = _velocities(table, samples.array("timestamp", np.int64)[table.references("sample_token", samples)])

    kept = np.flatnonzero(label >= 0)
    table.rows = [table.rows[i] for i in kept]
    sample = table.references("sample_token", samples)
    order = np.argsort(sample, kind="stable")  # the table's order within a sample, as the devkit has it
    table.rows = [table.rows[i] for i in order]
    size = table.array("size", np.float64, (3,))[:, [1, 0, 2]]
    for i in np.flatnonzero((size <= 0).any(axis=1))[:1]:
        raise DataError(
            f"{table.path}: {table.rows[i]['token']}: positive size expected, found {table.rows[i]['size']}"
        )
    w, x, y, z = table.quaternions("rotation").T
    return Annotations(
        first=np.searchsorted(sample[order], np.arange(len(samples.rows) + 1)),
        center=table.array("translation", np.float64, (3,)),
        size=size,
        forward=np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], axis=1),
        velocity=velocity[kept][order],
        label=label[kept][order],
        attribute=_attributes(folder, table),
        visibility=_visibilities(folder, table),
        num_lidar_points=table.array("num_lidar_pts", np.int64),
        num_radar_points=table.array("num_radar_pts", np.int64),
    )


def _labels(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] index into CLASSES, -1 for the categories outside the detection task."""
    categories = Table(folder, "category", ("name",))
    instances = Table(folder, "instance", ("category_token",))
    names = [DETECTION_CLASS.get(row["name"]) for row in categories.rows]
    category_label = np.array([CLASSES.index(name) if name else -1 for name in names], dtype=np.int64)
    category = instances.references("category_token", categories)
    return category_label[category[table.references("instance_token", instances)]]


def _velocities(table: Table, timestamp_us: np.ndarray) -> np.ndarray:
    """[N, 3] m/s, world frame: the difference to the neighbours in time, as the devkit's ``box_velocity`` has it."""
    center = table.array("translation", np.float64, (3,))
    own = np.arange(len(table.rows))
    positions = table.index()
    before, after = (table.references(key, table, positions, optional=True) for key in ("prev", "next"))
    central = (before >= 0) & (after >= 0)
    before, after = np.where(before >= 0, before, own), np.where(after >= 0, after, own)
    seconds = 1e-6 * (timestamp_us[after] - timestamp_us[before])
    known = (seconds > 0) & (seconds <= MAX_TIME_DIFF_S * np.where(central, 2, 1))
    seconds[~known] = np.nan
    return (center[after] - center[before]) / seconds[:, None]


def _attributes(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] index into ATTRIBUTES of the first attribute, -1 for none."""
    names = {row["token"]: row["name"] for row in Table(folder, "attribute", ("name",)).rows}
    attribute = np.full(len(table.rows), -1, dtype=np.int64)
    for i, row in enumerate(table.rows):
        for token in row["attribute_tokens"][:1]:
            if names.get(token) not in ATTRIBUTES:
                raise DataError(
                    f"{table.path}: {row['token']}: attribute {token!r} is not a known one of attribute.json"
                )
            attribute[i] = ATTRIBUTES.index(names[token])
    return attribute


def _visibilities(folder: Path, table: Table) -> np.ndarray:
    """int64 [N] level 1..4, 0 for unknown."""
    visibility = Table(folder, "visibility", ("level",))
    level = np.array([VISIBILITY_LEVEL.get(row["level"], 0) for row in visibility.rows] + [0], dtype=np.int64)
    return level[table.references("visibility_token", visibility, optional=True)]
