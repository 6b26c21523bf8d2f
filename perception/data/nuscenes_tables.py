"""The nuScenes JSON tables, checked and turned into columns: what a dataset needs of the chosen scenes, nothing else.

The tables of trainval hold millions of rows; as Python objects they would take gigabytes in every loader worker. Here
they become a few numpy arrays, which forked workers share and spawned ones receive in one piece. Rows refer to each
other by index, -1 standing for none. Poses stay as nuScenes has them: world frame, quaternions (w, x, y, z).

Format: https://github.com/nutonomy/nuscenes-devkit/blob/master/docs/schema_nuscenes.md
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from perception.data.nuscenes_files import DataError
from perception.geometry import SE3

REFERENCE_CHANNEL = "LIDAR_TOP"


class Table:
    """The rows of one JSON table, and the checks that turn them into columns. Every method raises DataError."""

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
        for i, row in enumerate(self.rows):
            if not isinstance(row, dict):
                raise DataError(f"{self.path}: row {i}: an object was expected, found {type(row).__name__}")
            if not wanted <= row.keys():
                missing = ", ".join(sorted(wanted - row.keys()))
                raise DataError(f"{self.path}: row {i} (token {row.get('token')!r}): missing {missing}")

    def positions(self) -> dict[str, int]:
        """token -> where its row stands."""
        return {token: i for i, token in enumerate(self.strings("token"))}

    def keep(self, rows: np.ndarray) -> None:
        """Drop all rows but those, by index and in that order."""
        self.rows = [self.rows[i] for i in rows]

    def strings(self, key: str) -> list[str]:
        values = [row[key] for row in self.rows]
        for i, value in enumerate(values):
            if not isinstance(value, str) or not value.isprintable():
                self.fail(i, key, "text")
        return values

    def numbers(self, key: str, dtype, shape: tuple[int, ...] = ()) -> np.ndarray:
        """The finite numbers under ``key`` as [N, *shape]."""
        values = [row[key] for row in self.rows]
        if not values:
            return np.zeros((0, *shape), dtype)
        array = as_numbers(values, dtype)
        if array is None or array.shape != (len(values), *shape):
            for i, value in enumerate(values):  # find the row to name
                array = as_numbers(value, dtype)
                if array is None or array.shape != shape:
                    self.fail(i, key, f"{shape[0]} numbers" if shape else "a number")
        return array

    def quaternions(self, key: str) -> np.ndarray:
        """Unit quaternions [N, 4] (w, x, y, z), normalised here."""
        quaternions = self.numbers(key, np.float64, (4,))
        norms = np.linalg.norm(quaternions, axis=1)
        for i in np.flatnonzero(np.abs(norms - 1) > 0.1)[:1]:
            self.fail(i, key, "a unit quaternion")
        return quaternions / norms[:, None]

    def references(self, key: str, positions: dict[str, int], optional: bool = False) -> np.ndarray:
        """int32 [N]: the position of the token under ``key``; -1 for an empty one where ``optional``."""
        if optional:
            positions = {**positions, "": -1}
        try:
            return np.array([positions[row[key]] for row in self.rows], dtype=np.int32)
        except (KeyError, TypeError):
            pass  # find the row to name
        i = next(i for i, row in enumerate(self.rows) if not isinstance(row[key], str) or row[key] not in positions)
        self.fail(i, key, "a token that exists")

    def fail(self, i: int, key: str, expected: str) -> NoReturn:
        row = self.rows[i]
        raise DataError(f"{self.path}: token {row['token']}: {expected} was expected in {key}, found {row[key]!r}")


def as_numbers(value, dtype) -> np.ndarray | None:
    """The value as an array of ``dtype``; None unless it is made of finite numbers that fit. Booleans do not."""
    try:
        found = np.asarray(value)
    except ValueError:  # ragged lists
        return None
    if found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        return None
    with np.errstate(invalid="ignore"):
        array = found.astype(dtype)
    return array if (array == found).all() else None


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of the chosen scenes, ordered by scene and time.

    tokens: S sample tokens.  scene: int32 [S], index of the scene.  timestamp_us: int64 [S].
    position: token -> index, of all samples in the version; -1 for those of scenes not chosen.
    """

    tokens: list[str]
    scene: np.ndarray
    timestamp_us: np.ndarray
    position: dict[str, int]


def read_samples(folder: Path, scene_names: list[str]) -> Samples:
    scenes = Table(folder, "scene", ("name",))
    names = scenes.strings("name")
    table = Table(folder, "sample", ("scene_token", "timestamp"))
    chosen = np.array([scene_names.index(name) if name in scene_names else -1 for name in names], dtype=np.int32)
    scene = chosen[table.references("scene_token", scenes.positions())]
    timestamp_us = table.numbers("timestamp", np.int64)
    order = np.lexsort((timestamp_us, scene))
    order = order[scene[order] >= 0]
    position = dict.fromkeys(table.strings("token"), -1)
    table.keep(order)
    position.update(table.positions())
    return Samples(table.strings("token"), scene[order], timestamp_us[order], position)


@dataclass(frozen=True, eq=False)
class Calibration:
    """A sensor as it was mounted on one vehicle. intrinsics: [3, 3] for cameras, else None."""

    channel: str
    modality: str
    ego_SE3_sensor: SE3
    intrinsics: np.ndarray | None


@dataclass(frozen=True, eq=False)
class SensorRows:
    """The sample_data rows that frames are made of, one entry of every array a row.

    token, filename: bytes [N].  timestamp_us: int64 [N].  world_SE3_ego: float64 [N, 7], translation then quaternion.
    calibration: int32 [N].  previous: int32 [N], the row of the sweep before.  present: bool [N], the file exists.
    image_size: int32 [N, 2], height and width, 0 for point clouds.
    """

    token: np.ndarray
    filename: np.ndarray
    timestamp_us: np.ndarray
    world_SE3_ego: np.ndarray
    calibration: np.ndarray
    previous: np.ndarray
    present: np.ndarray
    image_size: np.ndarray


@dataclass(frozen=True, eq=False)
class Recording:
    """What the sensors measured in the chosen scenes, and where it is stored.

    keyframes: channel -> int32 [S], the row of every sample.  reference: int32 [S], the row whose ego pose is the
    sample's.  reference_us: int64 [S], the sample's reference time.
    """

    rows: SensorRows
    calibrations: list[Calibration]
    keyframes: dict[str, np.ndarray]
    reference: np.ndarray
    reference_us: np.ndarray


def read_recording(root: Path, version: str, samples: Samples, sweeps: dict[str, int]) -> Recording:
    """Read the tables about sensors.

    Args:
        sweeps: modality ("camera", "radar", "lidar") -> how many sweeps a frame wants, the keyframe included. Rows that
            no frame wants are dropped, those of modalities not named among them.

    Raises:
        DataError: a table is missing or malformed, a row refers to nothing or to a file outside ``root``.
    """
    calibrations, calibration_position = _read_calibrations(root / version)
    keys = ("sample_token", "ego_pose_token", "calibrated_sensor_token", "timestamp", "is_key_frame", "height", "width")
    table = Table(root / version, "sample_data", (*keys, "filename", "prev"))
    table.keep(np.flatnonzero(table.references("sample_token", samples.position) >= 0))
    sample = table.references("sample_token", samples.position)
    calibration = table.references("calibrated_sensor_token", calibration_position)
    previous = table.references("prev", table.positions(), optional=True)
    timestamp_us = table.numbers("timestamp", np.int64)
    key_row = np.flatnonzero([row["is_key_frame"] is True for row in table.rows])

    modality = {c.channel: c.modality for c in calibrations}
    channels = sorted(modality.keys() | {REFERENCE_CHANNEL})
    channel = np.array([channels.index(c.channel) for c in calibrations], dtype=np.int32)[calibration]
    keyframe = np.full((len(channels), len(samples.tokens)), -1, dtype=np.int32)
    keyframe[channel[key_row], sample[key_row]] = key_row

    reference = keyframe[channels.index(REFERENCE_CHANNEL)].copy()
    reference_us = samples.timestamp_us.copy()
    reference_us[reference >= 0] = timestamp_us[reference[reference >= 0]]
    for i in np.flatnonzero(reference < 0):  # no LiDAR row: the ego pose measured nearest to the sample's own time
        own = np.flatnonzero(sample == i)
        if len(own):
            reference[i] = own[np.abs(timestamp_us[own] - reference_us[i]).argmin()]

    wanted = np.zeros(len(table.rows), dtype=bool)
    wanted[reference[reference >= 0]] = True
    for rows, name in zip(keyframe, channels):
        for _ in range(sweeps.get(modality.get(name), 0)):
            rows = rows[rows >= 0]
            wanted[rows] = True
            rows = previous[rows]

    kept = np.flatnonzero(wanted)
    position = np.full(len(wanted) + 1, -1, dtype=np.int32)  # the last entry translates -1 to -1
    position[kept] = np.arange(len(kept))
    table.keep(kept)
    rows = SensorRows(
        token=_bytes(table.strings("token")),
        filename=_bytes(table.strings("filename")),
        timestamp_us=timestamp_us[kept],
        world_SE3_ego=_read_ego_poses(root / version, table),
        calibration=calibration[kept],
        previous=position[previous[kept]],
        present=_files_present(root, table),
        image_size=np.stack([table.numbers("height", np.int32), table.numbers("width", np.int32)], axis=1),
    )
    keyframes = {name: position[keyframe[i]] for i, name in enumerate(channels) if modality.get(name) in sweeps}
    return Recording(rows, calibrations, keyframes, position[reference], reference_us)


def _bytes(strings: list[str]) -> np.ndarray:
    return np.array([string.encode() for string in strings], dtype=np.bytes_)


def _read_calibrations(folder: Path) -> tuple[list[Calibration], dict[str, int]]:
    """All calibrations, and token -> index."""
    sensors = Table(folder, "sensor", ("channel", "modality"))
    channels, modalities = sensors.strings("channel"), sensors.strings("modality")
    table = Table(folder, "calibrated_sensor", ("sensor_token", "translation", "rotation", "camera_intrinsic"))
    translation, rotation = table.numbers("translation", np.float64, (3,)), table.quaternions("rotation")
    calibrations = []
    for i, sensor in enumerate(table.references("sensor_token", sensors.positions())):
        intrinsics = None
        if modalities[sensor] == "camera":
            intrinsics = as_numbers(table.rows[i]["camera_intrinsic"], np.float64)
            if intrinsics is None or intrinsics.shape != (3, 3):
                table.fail(i, "camera_intrinsic", "a 3 x 3 matrix")
        ego_SE3_sensor = SE3.from_quaternion(rotation[i], translation[i])
        calibrations.append(Calibration(channels[sensor], modalities[sensor], ego_SE3_sensor, intrinsics))
    return calibrations, table.positions()


def _read_ego_poses(folder: Path, sensor_rows: Table) -> np.ndarray:
    """float64 [N, 7], translation then quaternion, of every sensor row."""
    poses = Table(folder, "ego_pose", ("translation", "rotation"))
    needed = set(sensor_rows.strings("ego_pose_token"))
    poses.keep(np.flatnonzero([token in needed for token in poses.strings("token")]))
    pose = np.concatenate([poses.numbers("translation", np.float64, (3,)), poses.quaternions("rotation")], axis=1)
    return pose[sensor_rows.references("ego_pose_token", poses.positions())]


def _files_present(root: Path, table: Table) -> np.ndarray:
    """bool [N]: whether the file of each row exists. Folders are listed, rather than millions of files tried singly."""
    listings: dict[str, set[str]] = {}
    present = np.zeros(len(table.rows), dtype=bool)
    for i, filename in enumerate(table.strings("filename")):
        folder, _, name = filename.rpartition("/")
        escapes = folder not in listings and (folder.startswith("/") or ".." in folder.split("/"))
        if escapes or filename.startswith("/") or "\\" in filename or name in ("", ".", ".."):
            table.fail(i, "filename", "a file below the data root")
        if folder not in listings:
            listings[folder] = _listing(root / folder)
        present[i] = name in listings[folder]
    return present


def _listing(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None
