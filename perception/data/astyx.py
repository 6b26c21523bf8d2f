"""Astyx HiRes2019: one front camera, an imaging radar and a 16-beam LiDAR, in the repacked layout (docs/datasets.md).

    dataset = Astyx(root, task=perception.load_config("astyx").task, split="train")
    frame = dataset[0]

What a frame holds, exactly:

Ego frame   The data set's reference frame is the radar's, which is tilted against the road by 3 degrees of pitch and
            5 of roll. Ego is that frame levelled: z is the normal of the road, x the radar's x along the road (within a
            degree of where the vehicle drives), the origin on the road below the radar, 1.6 m under it. The tilt is
            not in the files, but measured: see ``EGO_SE3_RADAR``.
Time        That of the first LiDAR point; those after it have negative ages, as far as -0.06 s. The times of camera and
            radar are not known and taken for the same. There are no poses: every frame is a scene of its own, whose
            world frame is its ego frame, and no point is moved for what the vehicle drove within the sweep.
Clouds      Only what the camera looks at, left to right. Boxes were drawn in its view alone: outside of it vehicles
            have none, and a detector that sees them there is not wrong.
Radar       Measured is the speed at which a return closes in, up to a multiple of 10.4 m/s (128 steps of 0.0812 m/s).
            What the vehicle itself adds is estimated from the stationary returns of the frame (``radar_motion.py``) and
            taken off; vx, vy are what is left, along the line of sight as in nuScenes, over ground. It is 0 for what
            stands; of faster movers than 5.2 m/s only the remainder of that period is known. ``rcs_dbsm`` is the
            measured magnitude in dB, which is not calibrated to a cross-section.
Boxes       Those of the task's classes, upright in the ego frame; velocities are unknown (NaN). The numbers of points
            are counted here, within the annotated box: a box without any is neither learned from nor scored.

A file that is missing or damaged is a DataError that names it; with ``on_error="skip"`` its frame is None.
"""

from __future__ import annotations

import io
import logging
import operator
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from perception.data.camera_view import read_camera_image, seen
from perception.data.nuscenes_files import DataError, read_bytes
from perception.data.nuscenes_scenes import are_names, require_known
from perception.data.radar_motion import ego_velocity, wrap_speed
from perception.errors import PerceptionError, require
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud, scaling
from perception.task import Task

INDEX = "frames.json"
SPLITS = {"train": range(278), "score": range(278, 379)}
CAMERA = "FRONT"
DOPPLER_PERIOD_MPS = 128 * 0.0812
# The road in radar axes, z = 0.049 x - 0.080 y - 1.60 m: the plane through the floors of all 1,553 annotated boxes of
# the training frames (0.0489, -0.0797, -1.59) and, within 0.3 degrees, that of the LiDAR's points on the road.
_ROAD_SLOPE_X, _ROAD_SLOPE_Y, _ROAD_Z_M = 0.049, -0.080, -1.60

_MOST_INDEX_BYTES, _MOST_CLOUD_BYTES = 1 << 28, 1 << 26
_NPZ_ERRORS = (
    OSError,
    ValueError,
    EOFError,
    LookupError,
    NotImplementedError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)

logger = logging.getLogger(__name__)


def _level() -> SE3:
    up = np.array([-_ROAD_SLOPE_X, -_ROAD_SLOPE_Y, 1.0])
    up /= np.linalg.norm(up)
    forward = np.array([1.0, 0.0, 0.0]) - up[0] * up
    forward /= np.linalg.norm(forward)
    return SE3(np.stack([forward, np.cross(up, forward), up]), np.array([0.0, 0.0, -_ROAD_Z_M * up[2]]))


EGO_SE3_RADAR = _level()

_Three = tuple[float, float, float]
_Four = tuple[float, float, float, float]


class _Box(msgspec.Struct):
    name: str
    center: _Three
    size: _Three  # length, width, height
    rotation_wxyz: _Four


class _Record(msgspec.Struct):
    """A frame in the index; what else it holds is not read."""

    frame: int
    time_us: int
    intrinsics: tuple[_Three, _Three, _Three]
    radar_T_lidar: tuple[_Four, _Four, _Four, _Four]
    radar_T_camera: tuple[_Four, _Four, _Four, _Four]
    boxes: list[_Box]


class Astyx:
    """The frames of a folder, in the order of its index: a :class:`perception.data.sources.FrameSource`.

    Args:
        root: folder that holds ``frames.json``, ``images/``, ``lidar/`` and ``radar/``; ``~`` is the user's home.
        task: its sources name the data set's classes, such as Car; boxes of others are left out.
        split: "train", frames 0 to 277, or "score", 278 to 378; None for all that the folder has.
        scenes: names of frames, such as "000278", instead of a split.
        image_size: as :class:`perception.NuScenes` takes it.
        on_error: what a damaged file does, "raise" or "skip".

    Attributes:
        tokens, scenes: the number of every frame, six digits.
        skipped: token -> reason, of the frames this process has dropped so far.

    Raises:
        PerceptionError: an argument that names nothing.
        DataError: an index that is missing or malformed.
    """

    version = "hires2019"
    simulated = False

    def __init__(
        self,
        root: str | Path,
        *,
        task: Task,
        split: str | None = None,
        scenes: Sequence[str] | None = None,
        image_size: tuple[int, int] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        require_known("on_error", on_error, ("raise", "skip"))
        self.root, self.task, self.on_error = Path(root).expanduser(), task, on_error
        self._image_size = image_size
        records = {f"{record.frame:06d}": record for record in _read_index(self.root / INDEX)}
        self.tokens = list(records) if split is None else _of_split(split, records)
        if scenes:
            require("scenes", scenes, "a list of names", are_names)
            if split is not None:
                raise PerceptionError(f"either split or scenes was expected, found both: '{split}' and {list(scenes)}")
            for name in scenes:
                require_known("scene", name, records)
            self.tokens = list(dict.fromkeys(scenes))
        self._records = [records[token] for token in self.tokens]
        self.skipped: dict[str, str] = {}

    @property
    def scenes(self) -> list[str]:
        return self.tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Frame | None:
        """The frame, or None if it is damaged and ``on_error`` is "skip".

        Raises:
            IndexError: no such frame.
            DataError: a damaged file, and ``on_error`` is "raise".
        """
        index = range(len(self))[operator.index(index)]
        try:
            return self._read(self.tokens[index], self._records[index])
        except DataError as error:
            if self.on_error == "raise":
                raise
            if self.tokens[index] not in self.skipped:
                logger.warning("frame skipped: %s", error)
            self.skipped[self.tokens[index]] = str(error)
            return None

    @property
    def splits(self) -> dict[str, list[str]]:
        """The frames of the data set's splits, those that are here."""
        found = {name: [token for token in self.tokens if int(token) in numbers] for name, numbers in SPLITS.items()}
        return {name: tokens for name, tokens in found.items() if tokens}

    def image_files(self, index: int) -> dict[str, bytes]:
        """Camera -> the file that the image of ``self[index]`` is in."""
        return {CAMERA: read_bytes(self.root / f"images/{self.tokens[index]}.jpg")}

    def frames(self) -> Iterator[Frame]:
        """All frames in order; damaged ones are passed over if ``on_error`` is "skip"."""
        for index in range(len(self)):
            frame = self[index]
            if frame is not None:
                yield frame

    def _read(self, token: str, record: _Record) -> Frame:
        try:
            ego_SE3_lidar = EGO_SE3_RADAR @ SE3.from_matrix(record.radar_T_lidar)
            ego_SE3_camera = EGO_SE3_RADAR @ SE3.from_matrix(record.radar_T_camera)
            image, n = read_camera_image(self.root / f"images/{token}.jpg", self._image_size)
            intrinsics = scaling(1 / n, 1 / n) @ np.array(record.intrinsics)
            camera = CameraImage(image, intrinsics, ego_SE3_camera, 1000 * record.time_us)
            lidar = seen(_lidar(self.root / f"lidar/{token}.npz", ego_SE3_lidar), camera)
            radar = seen(_radar(self.root / f"radar/{token}.npz"), camera)
            boxes = _boxes(
                [box for box in record.boxes if self.task.labels_of([box.name])[0] >= 0], self.task, lidar, radar
            )
        except DataError:
            raise
        except PerceptionError as error:  # of a number in the index
            raise DataError(f"{self.root / INDEX}: frame {record.frame}: {error}") from None
        return Frame(
            token=token,
            timestamp_ns=1000 * record.time_us,
            cameras={CAMERA: camera},
            radar=RadarCloud(radar),
            lidar=LidarCloud(lidar),
            boxes=boxes,
            scene=token,
        )


def is_astyx(root: str | Path) -> bool:
    """Whether a folder is of this layout, by its index."""
    return (Path(root).expanduser() / INDEX).is_file()


def _read_index(path: Path) -> list[_Record]:
    try:
        records = msgspec.json.decode(read_bytes(path, most=_MOST_INDEX_BYTES), type=list[_Record])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: a list of frames was expected: {error}") from None
    numbers = [record.frame for record in records]
    if len(set(numbers)) < len(numbers) or min(numbers, default=0) < 0:
        raise DataError(f"{path}: different numbers of frames, from 0, were expected, found others")
    return records


def _of_split(split: str, records: dict[str, _Record]) -> list[str]:
    require_known("split", split, SPLITS)
    tokens = [token for token, record in records.items() if record.frame in SPLITS[split]]
    if not tokens:
        raise PerceptionError(f"split '{split}': frames of {SPLITS[split]} were expected, found none")
    return tokens


def _lidar(path: Path, ego_SE3_lidar: SE3) -> np.ndarray:
    """float32 [N, 5], the columns of a LidarCloud."""
    xyz, reflectivity, time_us = _arrays(
        path, {"xyz_5mm": (np.int16, 3), "reflectivity": (np.uint8, None), "time_us": (np.uint32, None)}
    )
    points = ego_SE3_lidar.transform(0.005 * xyz)
    return np.column_stack([points, reflectivity, -1e-6 * time_us]).astype(np.float32)


def _radar(path: Path) -> np.ndarray:
    """float32 [N, 7], the columns of a RadarCloud."""
    (measured,) = _arrays(path, {"points": (np.float32, 5)})
    away = EGO_SE3_RADAR.rotate(measured[:, :3].astype(np.float64))
    direction = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
    closing_mps, magnitude_db = measured[:, 3], measured[:, 4]
    ego_closing_mps = direction[:, :2] @ ego_velocity(direction, closing_mps, DOPPLER_PERIOD_MPS)
    receding_mps = wrap_speed(ego_closing_mps - closing_mps, DOPPLER_PERIOD_MPS)
    velocity = receding_mps[:, None] * direction[:, :2]
    points = away + EGO_SE3_RADAR.translation
    return np.column_stack([points, magnitude_db, velocity, np.zeros(len(points))]).astype(np.float32)


def _arrays(path: Path, wanted: dict[str, tuple[type, int | None]]) -> list[np.ndarray]:
    """The arrays of an .npz file, by name its type and width (None: one number a row), all finite and as long."""
    try:
        with np.load(io.BytesIO(read_bytes(path, most=_MOST_CLOUD_BYTES)), allow_pickle=False) as file:
            found = [file[name] for name in wanted]
    except _NPZ_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: arrays {', '.join(wanted)} were expected, found a damaged file: {reason}") from None
    for (name, (dtype, width)), array in zip(wanted.items(), found):
        shape = (len(found[0]) if found[0].ndim else 0,) + (() if width is None else (width,))
        if array.dtype != dtype or array.shape != shape or not np.isfinite(array).all():
            raise DataError(
                f"{path}: {name}: finite {np.dtype(dtype)} {list(shape)} was expected, "
                f"found {array.dtype} {list(array.shape)}"
            )
    return found


def _boxes(boxes: list[_Box], task: Task, lidar: np.ndarray, radar: np.ndarray) -> Boxes3D:
    ego_SE3_box = [EGO_SE3_RADAR @ SE3.from_quaternion(box.rotation_wxyz, box.center) for box in boxes]
    sizes = np.array([box.size for box in boxes]).reshape(-1, 3)
    return Boxes3D(
        center=np.array([pose.translation for pose in ego_SE3_box]).reshape(-1, 3),
        size=sizes,
        yaw=np.array([pose.yaw for pose in ego_SE3_box]),
        velocity=np.full((len(boxes), 2), np.nan),
        label=task.labels_of([box.name for box in boxes]),
        num_lidar_points=_counts(lidar, ego_SE3_box, sizes),
        num_radar_points=_counts(radar, ego_SE3_box, sizes),
    )


def _counts(points: np.ndarray, ego_SE3_box: list[SE3], sizes: np.ndarray) -> np.ndarray:
    """int64 [boxes]: the points within each box."""
    within = [np.abs(pose.inverse().transform(points[:, :3])) <= size / 2 for pose, size in zip(ego_SE3_box, sizes)]
    return np.array([inside.all(axis=1).sum() for inside in within], np.int64)
