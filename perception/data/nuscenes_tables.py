"""What the sensors of a nuScenes version measured, as columns read from the JSON tables.

Rows are ordered by scene, then by sample, so that those of a scene, and of a sample, are one piece of every column.
They refer to each other by index, -1 standing for none. Poses stay as nuScenes has them: world frame, quaternions
(w, x, y, z).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_constants import REFERENCE_CHANNEL
from perception.data.nuscenes_json import Rows, Table, bad_value, read_pieces
from perception.data.nuscenes_rows import CalibratedSensor, EgoPose, Named, Sample, SampleData, Sensor
from perception.geometry import SE3

_BLOCK_ROWS = 1 << 16

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Calibration:
    """A sensor as it was mounted on one vehicle. intrinsics: [3, 3] for cameras, else None."""

    channel: str
    modality: str
    ego_SE3_sensor: SE3
    intrinsics: np.ndarray | None


class Calibrations:
    """Those of a version, by index, each made when it is first asked for: trainval has ten thousand.

    Args:
        channels: the channel of each.  modality: channel -> modality.
        pose: [K, 7] translation, then quaternion.  intrinsics: [K, 3, 3], of cameras.
    """

    def __init__(self, channels: Sequence[str], modality: Mapping[str, str], pose: np.ndarray, intrinsics: np.ndarray):
        self._channels, self._modality, self._pose, self._intrinsics = channels, modality, pose, intrinsics
        self._made: dict[int, Calibration] = {}

    def __len__(self) -> int:
        return len(self._pose)

    def __getitem__(self, i: int) -> Calibration:
        if i not in self._made:
            channel, pose = self._channels[i], self._pose[i]
            intrinsics = self._intrinsics[i] if self._modality[channel] == "camera" else None
            self._made[i] = Calibration(channel, self._modality[channel], SE3.from_pose(pose), intrinsics)
        return self._made[i]


@dataclass(frozen=True, eq=False)
class SensorRows:
    """The rows of sample_data, one entry of every array a row.

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
    """What the sensors measured, and where it is stored.

    keyframes: channel -> int32 [S], the row of every sample.  reference: int32 [S], the row whose ego pose is the
    sample's.  reference_us: int64 [S], the sample's reference time.
    """

    rows: SensorRows
    calibrations: Calibrations
    keyframes: dict[str, np.ndarray]
    reference: np.ndarray
    reference_us: np.ndarray


def read_samples(folder: Path) -> tuple[Columns, list[str], dict[str, int]]:
    """Columns of all samples in order of scene and time; the scenes' names, in the table's order; token -> sample.

    token: bytes [S].  scene: int32 [S].  timestamp_us: int64 [S].
    """
    scenes = Table(folder, "scene", Named)
    names = scenes.strings("name")
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    table = Table(folder, "sample", Sample)
    scene = np.array([number[name] for name in names], dtype=np.int32)[
        table.references("scene_token", scenes.positions())
    ]
    timestamp_us = table.numbers("timestamp", np.int64)
    order = np.lexsort((timestamp_us, scene))
    rows = table.chosen(order)
    columns = {"token": rows.bytes("token"), "scene": scene[order], "timestamp_us": timestamp_us[order]}
    return columns, list(number), rows.positions()


def read_calibrations(folder: Path) -> tuple[Columns, dict[str, str], dict[str, int]]:
    """Columns of all calibrations, channel -> modality, and token -> calibration.

    channel: int32 [K], place in the keys of the second.  pose: [K, 7].  intrinsics: [K, 3, 3], NaN where no camera.
    """
    sensors = Table(folder, "sensor", Sensor)
    channels, modalities = sensors.strings("channel"), sensors.strings("modality")
    table = Table(folder, "calibrated_sensor", CalibratedSensor)
    sensor = table.references("sensor_token", sensors.positions())
    used = sorted({channels[i] for i in sensor})
    intrinsics = np.full((len(sensor), 3, 3), np.nan)
    for i in np.flatnonzero([modalities[k] == "camera" for k in sensor]):
        matrix = table.rows[i].camera_intrinsic
        if [len(line) for line in matrix] != [3, 3, 3] or not np.isfinite(matrix).all():
            table.fail(i, "camera_intrinsic", "a 3 x 3 matrix")
        intrinsics[i] = matrix
    columns = {
        "channel": np.array([used.index(channels[i]) for i in sensor], dtype=np.int32),
        "pose": np.concatenate([table.numbers("translation", np.float64, (3,)), table.quaternions("rotation")], axis=1),
        "intrinsics": intrinsics,
    }
    modality = dict(zip(channels, modalities))
    return columns, {channel: modality[channel] for channel in used}, table.positions()


def read_sensor_rows(
    folder: Path, samples: dict[str, int], calibrations: dict[str, int], progress: Callable[[int], object]
) -> tuple[Columns, list[str]]:
    """Columns of all sensor rows, ordered by sample, and the folders of their files.

    As in :class:`SensorRows`, without ``present``, and: sample, folder: int32 [N].  key: bool [N].
    """
    folders: dict[str, int] = {}

    def columns_of(rows: Rows) -> Columns:
        return {
            "token": rows.bytes("token"),
            "filename": rows.bytes("filename"),
            "folder": _folders(rows, folders),
            "sample": rows.references("sample_token", samples),
            "calibration": rows.references("calibrated_sensor_token", calibrations),
            "timestamp_us": rows.numbers("timestamp", np.int64),
            "key": np.array(rows.values("is_key_frame"), dtype=bool),
            "image_size": np.stack([rows.numbers("height", np.int32), rows.numbers("width", np.int32)], axis=1),
            "previous": rows.bytes("prev"),
            "ego_pose": rows.bytes("ego_pose_token"),
        }

    columns = stacked(map(columns_of, read_pieces(folder, "sample_data", SampleData, progress)))
    order = np.argsort(columns["sample"], kind="stable")
    for name in columns:
        columns[name] = columns[name][order]
    resolve = Resolver(folder / "sample_data.json", columns["token"])
    columns["previous"] = resolve("prev", columns["previous"], token_positions(columns["token"]), optional=True)
    poses = stacked(map(_pose_columns, read_pieces(folder, "ego_pose", EgoPose, progress)))
    pose = resolve("ego_pose_token", columns.pop("ego_pose"), token_positions(poses["token"]))
    columns["world_SE3_ego"] = poses["pose"][pose]
    return columns, list(folders)


def _pose_columns(rows: Rows) -> Columns:
    pose = np.concatenate([rows.numbers("translation", np.float64, (3,)), rows.quaternions("rotation")], axis=1)
    return {"token": rows.bytes("token"), "pose": pose}


def _folders(rows: Rows, folders: dict[str, int]) -> np.ndarray:
    """int32 [N]: which folder the file of each row is in; new ones join ``folders``, relative to the data root."""
    found = np.empty(len(rows.rows), dtype=np.int32)
    for i, filename in enumerate(rows.strings("filename")):
        folder, _, name = filename.rpartition("/")
        escapes = folder not in folders and (folder.startswith("/") or ".." in folder.split("/"))
        if escapes or filename.startswith("/") or "\\" in filename or name in ("", ".", ".."):
            rows.fail(i, "filename", "a file below the data root")
        found[i] = folders.setdefault(folder, len(folders))
    return found


def stacked(pieces: Iterable[Columns]) -> Columns:
    """The columns of all pieces, one behind the other."""
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for piece in pieces:
        for name, column in piece.items():
            parts[name].append(column)
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # each is freed before the next is made


def token_positions(tokens: np.ndarray) -> dict[bytes, int]:
    """token -> index of tokens, bytes [N]."""
    return dict(zip(tokens.tolist(), range(len(tokens))))


class Resolver:
    """Turns the tokens by which the rows of a table refer to others into indices.

    Args:
        path: the table, and own: bytes [N], the tokens of its rows, for errors to name.
    """

    def __init__(self, path: Path, own: np.ndarray):
        self._path, self._own = path, own

    def __call__(self, key: str, tokens: np.ndarray, positions: dict[bytes, int], optional: bool = False) -> np.ndarray:
        """int32 [N]: the position of each of the tokens, bytes [N]; -1 for an empty one where ``optional``."""
        if optional:
            positions[b""] = -1
        found = np.empty(len(tokens), dtype=np.int32)
        for begin in range(0, len(tokens), _BLOCK_ROWS):  # not all at once: they become Python objects
            part = slice(begin, begin + _BLOCK_ROWS)
            found[part] = [positions.get(token, -2) for token in tokens[part].tolist()]
        for i in np.flatnonzero(found == -2)[:1]:
            own, token = self._own[i].decode(), tokens[i].decode()
            raise bad_value(self._path, own, key, "a token that exists", token)
        return found


def link_keyframes(rows: Columns, samples: Columns, channel: np.ndarray, channels: list[str]) -> Columns:
    """What leads from every sample to its sensor rows.

    Args:
        channel: int32 [K], of every calibration, as a place in ``channels``.

    Returns:
        keyframe: int32 [S, C].  reference, reference_us: as in :class:`Recording`.  row_offsets: int64 [S + 1],
        where the rows of every sample begin.  ego_position: [S, 3], the vehicle at the LIDAR_TOP keyframe, NaN without
        one.
    """
    key_row = np.flatnonzero(rows["key"])
    keyframe = np.full((len(samples["token"]), len(channels)), -1, dtype=np.int32)
    keyframe[rows["sample"][key_row], channel[rows["calibration"][key_row]]] = key_row
    offsets = np.searchsorted(rows["sample"], np.arange(len(keyframe) + 1))

    reference = np.full(len(keyframe), -1, dtype=np.int32)
    if REFERENCE_CHANNEL in channels:
        reference = keyframe[:, channels.index(REFERENCE_CHANNEL)].copy()
    has_lidar = reference >= 0
    ego_position = np.full((len(keyframe), 3), np.nan)
    ego_position[has_lidar] = rows["world_SE3_ego"][reference[has_lidar], :3]
    reference_us = samples["timestamp_us"].copy()
    reference_us[has_lidar] = rows["timestamp_us"][reference[has_lidar]]
    for i in np.flatnonzero(~has_lidar):  # the ego pose measured nearest to the sample's own time
        own = rows["timestamp_us"][offsets[i] : offsets[i + 1]]
        if len(own):
            reference[i] = offsets[i] + np.abs(own - reference_us[i]).argmin()
    return {
        "keyframe": keyframe,
        "reference": reference,
        "reference_us": reference_us,
        "row_offsets": offsets,
        "ego_position": ego_position,
    }
