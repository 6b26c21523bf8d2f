"""What the sensors of a nuScenes version measured, as columns read from the JSON tables.

Rows are ordered by scene, then by sample, so that those of a scene, and of a sample, are one piece of every column.
They refer to each other by index, -1 standing for none. Poses stay as nuScenes has them: world frame, quaternions
(w, x, y, z).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes_calibrations import Calibrations
from perception.data.nuscenes_constants import REFERENCE_CHANNEL
from perception.data.nuscenes_files import DataError, is_below_root
from perception.data.nuscenes_json import (
    MAX_FILENAME,
    Columns,
    Damage,
    Rows,
    Table,
    bad_value,
    read_pieces,
    repeated_token,
)
from perception.data.nuscenes_rows import EgoPose, Named, Sample, SampleData
from perception.data.nuscenes_times import require_plausible, to_microseconds

MOST_M = 1e9  # of a place in the world; the Earth's radius is 6.4e6
_BLOCK_ROWS = 1 << 16
_NEAR_US = 60_000_000  # from a measurement to its sample


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

    def of(self, rows: list[int]) -> SensorRows:
        """Copies of some of the rows, in this order; ``previous`` stays as it is."""
        return SensorRows(**{name: column[rows] for name, column in vars(self).items()})


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


def read_samples(folder: Path, damage: Damage, notes: list[str]) -> tuple[Columns, list[str], dict[str, int]]:
    """Columns of all samples in order of scene and time; the scenes' names, in the table's order; token -> sample.

    token: bytes [S].  scene: int32 [S].  timestamp_us: int64 [S].
    """
    scenes = Table(folder, "scene", Named, damage)
    names = scenes.strings("name")
    if len(set(names)) < len(names):
        name = next(name for name, number in Counter(names).items() if number > 1)
        raise DataError(f"{scenes.path}: one scene of the name '{name}' was expected, found several")
    table = Table(folder, "sample", Sample, damage)
    scene = table.references("scene_token", scenes.positions())
    timestamp_us, sound, unit = to_microseconds(_plain_numbers(table, "timestamp"))
    table.refuse(~sound, "timestamp", f"a time in {unit} as most are")
    notes += _note_of_unit(table.path, unit)
    tokens = table.strings("token")
    if len(tokens) and not table.sound.any():
        raise DataError(damage.first["sample", "row"])
    order = np.lexsort((timestamp_us, scene))
    order = order[table.sound[order]]
    require_plausible(table.path, timestamp_us[order], scene[order])
    rows = table.chosen(order)
    columns = {"token": rows.bytes("token"), "scene": scene[order], "timestamp_us": timestamp_us[order]}
    return columns, names, rows.positions()


def read_sensor_rows(
    folder: Path,
    samples: Columns,
    sample_position: dict[str, int],
    calibrations: Columns,
    calibration_position: dict[str, int],
    damage: Damage,
    notes: list[str],
    progress: Callable[[int], object],
) -> tuple[Columns, list[str]]:
    """Columns of all sensor rows, ordered by sample, and the folders of their files.

    As in :class:`SensorRows`, without ``present``, and: sample, folder: int32 [N].  key: bool [N].
    """
    folders: dict[str, int] = {}

    def columns_of(rows: Rows) -> Columns:
        return rows.kept(
            {
                "token": rows.bytes("token"),
                "filename": rows.bytes("filename", MAX_FILENAME),
                "folder": _folders(rows, folders),
                "sample": rows.references("sample_token", sample_position),
                "calibration": rows.references("calibrated_sensor_token", calibration_position),
                "timestamp_us": _plain_numbers(rows, "timestamp"),
                "key": rows.flags("is_key_frame"),
                "image_size": rows.columns_of_numbers("height", "width"),
                "previous": rows.bytes("prev"),
                "ego_pose": rows.bytes("ego_pose_token"),
            }
        )

    columns = stacked(map(columns_of, read_pieces(folder, "sample_data", SampleData, damage, progress)))
    order = np.argsort(columns["sample"], kind="stable")
    for name in columns:
        columns[name] = columns[name][order]
    columns = _timed(LinkedRows(folder / "sample_data.json", columns["token"], damage), columns, samples, notes)
    columns = _posed(LinkedRows(folder / "sample_data.json", columns["token"], damage), columns, folder, progress)
    channel = calibrations["channel"][columns["calibration"]]
    columns["previous"] = _previous(LinkedRows(folder / "sample_data.json", columns["token"], damage), columns, channel)
    return columns, list(folders)


def _timed(table: LinkedRows, columns: Columns, samples: Columns, notes: list[str]) -> Columns:
    """With times in microseconds, near those of the samples."""
    written = columns["timestamp_us"]
    columns["timestamp_us"], sound, unit = to_microseconds(written)
    notes += _note_of_unit(table.path, unit)
    near = np.abs(columns["timestamp_us"] - samples["timestamp_us"][columns["sample"]]) <= _NEAR_US
    table.refuse(~sound, "timestamp", f"a time in {unit} as most are", written)
    table.refuse(~near, "timestamp", f"a time within {_NEAR_US // 10**6} s of its sample's", written)
    return table.kept(columns)


def _posed(table: LinkedRows, columns: Columns, folder: Path, progress: Callable[[int], object]) -> Columns:
    """With ego poses instead of tokens."""
    poses = stacked(map(_pose_columns, read_pieces(folder, "ego_pose", EgoPose, table.damage, progress)))
    position = LinkedRows(folder / "ego_pose.json", poses["token"], table.damage).positions()
    pose = table.resolve("ego_pose_token", columns.pop("ego_pose"), position)
    columns = table.kept(columns)
    columns["world_SE3_ego"] = poses["pose"][pose[table.sound]]
    return columns


def _previous(table: LinkedRows, columns: Columns, channel: np.ndarray) -> np.ndarray:
    """int32 [N]: the row before each, of the same sensor and earlier, so that no walk along them goes in a circle."""
    previous = table.resolve("prev", columns["previous"], table.positions(), optional=True)
    before, time_us = np.maximum(previous, 0), columns["timestamp_us"]
    wrong = (previous >= 0) & ((channel[before] != channel) | (time_us[before] >= time_us))
    table.refuse(wrong, "prev", "an earlier row of the same channel", columns["previous"], loosely=True)
    return np.where(wrong, -1, previous).astype(np.int32)


def _pose_columns(rows: Rows) -> Columns:
    pose = np.concatenate([rows.vectors("translation", most=MOST_M), rows.quaternions("rotation")], axis=1)
    return rows.kept({"token": rows.bytes("token"), "pose": pose})


def _folders(rows: Rows, folders: dict[str, int]) -> np.ndarray:
    """int32 [N]: which folder the file of each row is in; new ones join ``folders``, relative to the data root."""
    filenames = rows.strings("filename", MAX_FILENAME)
    rows.refuse([not is_below_root(name) for name in filenames], "filename", "a file below the data root")
    parts = [name.rpartition("/")[0] if sound else "" for name, sound in zip(filenames, rows.sound)]
    return np.array([folders.setdefault(folder, len(folders)) for folder in parts], dtype=np.int32)


def _plain_numbers(rows: Rows, key: str) -> np.ndarray:
    """[N] as they are written, whole numbers as int64."""
    return np.array(rows.values(key)) if rows.rows else np.zeros(0, dtype=np.int64)


def _note_of_unit(path: Path, unit: str) -> list[str]:
    return [] if unit == "microseconds" else [f"the timestamps of {path.name} are taken for {unit}"]


def stacked(pieces: Iterable[Columns]) -> Columns:
    """The columns of all pieces, one behind the other."""
    parts: dict[str, list[np.ndarray]] = defaultdict(list)
    for piece in pieces:
        for name, column in piece.items():
            parts[name].append(column)
    return {name: np.concatenate(parts.pop(name)) for name in list(parts)}  # each is freed before the next is made


class LinkedRows:
    """All rows of a large table, which others refer to, by their tokens.

    Args:
        path: the table.  tokens: bytes [N], of its rows.

    Attributes:
        sound: bool [N], the rows without damage so far.
    """

    def __init__(self, path: Path, tokens: np.ndarray, damage: Damage):
        self.path, self.damage = path, damage
        self._tokens = tokens
        self.sound = np.ones(len(tokens), dtype=bool)

    def positions(self) -> dict[bytes, int]:
        """token -> index. Raises DataError if two rows have one token."""
        positions: dict[bytes, int] = dict(zip(self._tokens.tolist(), range(len(self._tokens))))
        if len(positions) < len(self._tokens):
            raise repeated_token(self.path, self._tokens.tolist())
        return positions

    def resolve(self, key: str, tokens: np.ndarray, positions: dict[bytes, int], optional: bool = False) -> np.ndarray:
        """int32 [N]: the position of each of the tokens, bytes [N].

        -1 for an empty one where ``optional``, and then for one that does not exist too, where damage is tolerated.
        """
        found = np.empty(len(tokens), dtype=np.int32)
        for begin in range(0, len(tokens), _BLOCK_ROWS):  # not all at once: they become Python objects
            part = slice(begin, begin + _BLOCK_ROWS)
            found[part] = [positions.get(token, -2) for token in tokens[part].tolist()]
        if optional:
            found[tokens == b""] = -1
        self.refuse(found == -2, key, "a token that exists", tokens, loosely=optional)
        return np.maximum(found, -1)

    def refuse(self, bad: np.ndarray, key: str, expected: str, found: np.ndarray, loosely: bool = False) -> None:
        """Rows, bool [N], are damaged: under ``key`` something else was expected than was found, [N].

        Args:
            loosely: only this link is left out, the rows are good for all else.
        """
        bad = bad & self.sound
        for i in np.flatnonzero(bad)[:1]:
            value = found[i].decode() if isinstance(found[i], bytes) else found[i].item()
            message = bad_value(self.path, self._tokens[i].decode(), key, expected, value)
            self.damage.add(self.path, message, int(bad.sum()), "link" if loosely else "row")
        if not loosely:
            self.sound &= ~bad

    def kept(self, columns: Columns) -> Columns:
        """The sound rows of columns."""
        return columns if self.sound.all() else {name: column[self.sound] for name, column in columns.items()}


def link_keyframes(
    path: Path, rows: Columns, samples: Columns, channel: np.ndarray, channels: list[str], damage: Damage
) -> Columns:
    """What leads from every sample to its sensor rows.

    Args:
        path: of sample_data.  channel: int32 [K], of every calibration, as a place in ``channels``.

    Returns:
        keyframe: int32 [S, C].  reference, reference_us: as in :class:`Recording`.  row_offsets: int64 [S + 1],
        where the rows of every sample begin.
    """
    key_row = np.flatnonzero(rows["key"])
    keyframe = np.full((len(samples["token"]), len(channels)), -1, dtype=np.int32)
    cell = rows["sample"][key_row].astype(np.int64) * len(channels) + channel[rows["calibration"][key_row]]
    _, first = np.unique(cell, return_index=True)
    again = np.setdiff1d(np.arange(len(cell)), first)
    for row in key_row[again[:1]]:
        token, name = rows["token"][row].decode(), channels[channel[rows["calibration"][row]]]
        message = bad_value(path, token, "is_key_frame", f"one key frame of {name} a sample", True)
        damage.add(path, message, len(again), "link")
    keyframe.flat[cell[first]] = key_row[first]
    offsets = np.searchsorted(rows["sample"], np.arange(len(keyframe) + 1))

    reference = np.full(len(keyframe), -1, dtype=np.int32)
    if REFERENCE_CHANNEL in channels:
        reference = keyframe[:, channels.index(REFERENCE_CHANNEL)].copy()
    has_lidar = reference >= 0
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
    }
