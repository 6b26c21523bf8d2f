"""Objects cut out of annotated frames: the ground-truth database of SECOND (Yan et al. 2018), with radar and images.

An object is its box, the points of every sensor that are on it, older sweeps included, and, for every image that shows
it, the rectangle around it. ``perception.train.paste`` puts objects into other frames, where they were relative to the
vehicle.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception.data.column_file import read_columns, write_columns
from perception.errors import PerceptionError
from perception.geometry import box_corners, in_box, project
from perception.sample import Boxes3D, CameraImage, Frame, PointCloud, RadarCloud

_NEAR_M = 0.1  # in front of a camera; what is nearer, or behind it, is not seen
_EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5], [5, 6], [6, 7], [7, 4], [0, 4], [1, 5], [2, 6], [3, 7]])
_MOST_OF_IMAGE = 0.25  # an object that hides more of an image is not kept for it: it would hide most of another one
_RADAR_MARGIN_M, _RADAR_HEIGHT_M = 0.5, 20.0  # returns scatter, and a radar hardly knows heights
_WHOLE = np.array([0.0, 0.0, 1.0, 1.0])  # as a place
_COLUMNS = tuple(field.name for field in dataclasses.fields(Boxes3D))


class ObjectError(PerceptionError):
    """A file of objects that cannot be used."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Part of an image: pixels uint8 [h, w, 3] RGB, and its place as shares of the rectangle around the object.

    place: [4] left, top, right, bottom; 0, 0, 1, 1 is the whole rectangle, of which the image may show a part.
    """

    pixels: np.ndarray
    place: np.ndarray


@dataclass(frozen=True, eq=False)
class CutObject:
    """box: one, in the ego frame.  points: by sensor, [N, C] with the columns of the sensor's cloud, in the ego frame.

    patches: by sensor and camera.
    """

    box: Boxes3D
    points: dict[str, np.ndarray]
    patches: dict[tuple[str, str], Patch]


def outlines(camera: CameraImage, boxes: Boxes3D) -> np.ndarray:
    """Rectangles [N, 4] around what of each box is in front of the camera: left, top, right, bottom in pixels.

    Pixel centres lie at integers, so that an image reaches from -0.5. NaN for boxes that the image shows nothing of.
    """
    corners = camera.ego_SE3_camera.inverse().transform(box_corners(boxes.center, boxes.size, boxes.yaw))
    first, second = corners[:, _EDGES[:, 0]], corners[:, _EDGES[:, 1]]
    before = second[..., 2] - first[..., 2]
    crosses = (first[..., 2] < _NEAR_M) != (second[..., 2] < _NEAR_M)
    share = (_NEAR_M - first[..., 2]) / np.where(crosses, before, 1.0)
    points = np.concatenate([corners, first + share[..., None] * (second - first)], axis=1)
    seen = np.concatenate([corners[..., 2] >= _NEAR_M, crosses], axis=1)
    pixels = project(points.reshape(-1, 3), camera.intrinsics)[0].reshape(*points.shape[:2], 2)
    least = np.where(seen[..., None], pixels, np.inf).min(axis=1, initial=np.inf)
    most = np.where(seen[..., None], pixels, -np.inf).max(axis=1, initial=-np.inf)
    height, width = camera.image.shape[:2]
    shown = ((most > -0.5) & (least < [width - 0.5, height - 0.5])).all(axis=1)
    return np.where(shown[:, None], np.concatenate([least, most], axis=1), np.nan)


def whole_pixels(rectangle: np.ndarray, place: np.ndarray) -> tuple[int, int, int, int]:
    """The pixels that shares ``place`` [4] of a rectangle [4] cover: left, top, and behind them right, bottom."""
    sides = np.tile(rectangle[2:] - rectangle[:2], 2)
    left, top, right, bottom = np.round(np.tile(rectangle[:2], 2) + place * sides + 0.5).astype(int).tolist()
    return left, top, right, bottom


def on_object(cloud: PointCloud, box: Boxes3D) -> np.ndarray:
    """bool [N]: the points that are on the one box, at the time that each was measured at."""
    points, size, center = cloud.points[:, :3].astype(np.float64), box.size[0], box.center[0]
    age = cloud.column("age_s")
    if age is not None and np.isfinite(box.velocity[0]).all():
        points[:, :2] += cloud.points[:, age, None] * box.velocity[0]
    if isinstance(cloud, RadarCloud):
        size = np.array([*(size[:2] + 2 * _RADAR_MARGIN_M), _RADAR_HEIGHT_M])
    return in_box(points, center, size, float(box.yaw[0]))


def cut(frame: Frame, index: int) -> CutObject:
    """One object of an annotated frame."""
    if frame.boxes is None:
        raise ObjectError(f"{frame.token}: annotated boxes were expected, found none")
    box = frame.boxes[index : index + 1]
    points: dict[str, np.ndarray] = {}
    patches: dict[tuple[str, str], Patch] = {}
    for sensor, data in frame.data.items():
        if isinstance(data, PointCloud):
            points[sensor] = data.points[on_object(data, box)]
            continue
        for name, camera in data.items():
            rectangle = outlines(camera, box)[0]
            patch = None if np.isnan(rectangle).any() else _patch(camera.image, rectangle)
            if patch is not None:
                patches[sensor, name] = patch
    return CutObject(box, points, patches)


def _patch(image: np.ndarray, rectangle: np.ndarray) -> Patch | None:
    height, width = image.shape[:2]
    left, top, right, bottom = whole_pixels(rectangle.clip(-0.5, [width - 0.5, height - 0.5] * 2), _WHOLE)
    if left >= right or top >= bottom or (right - left) * (bottom - top) > _MOST_OF_IMAGE * width * height:
        return None
    sides = np.tile(rectangle[2:] - rectangle[:2], 2)
    place = (np.array([left, top, right, bottom]) - 0.5 - np.tile(rectangle[:2], 2)) / sides
    return Patch(np.ascontiguousarray(image[top:bottom, left:right]), place)


class ObjectBank:
    """Objects by index, in one file that is mapped into memory.

    boxes: all of them, in the ego frames that they were cut from.

    Raises:
        ObjectError: no such file, a damaged one, or one of other classes.
    """

    def __init__(self, path: str | Path, classes: Iterable[str]):
        self.path, self.classes = Path(path), tuple(classes)
        found = read_columns(self.path)
        if found is None:
            raise ObjectError(
                f"{path}: a file that perception objects wrote was expected, found none, or a damaged one"
            )
        self._columns, metadata = found
        try:
            known = {name: json.loads(metadata[name]) for name in ("classes", "fields", "cameras")}
            self.fields: dict[str, list[str]] = {name: list(fields) for name, fields in known["fields"].items()}
            self._cameras = [(str(sensor), str(name)) for sensor, name in known["cameras"]]
            self.boxes = Boxes3D(**{name: self._columns[f"box.{name}"] for name in _COLUMNS})
            self._check()
        except (LookupError, ValueError, TypeError, AttributeError, PerceptionError, RecursionError) as error:
            raise ObjectError(f"{path}: objects were expected, found {type(error).__name__}: {error}") from None
        if tuple(known["classes"]) != self.classes:
            raise ObjectError(
                f"{path}: objects of the classes {', '.join(self.classes)} were expected, found those of "
                f"{', '.join(map(str, known['classes']))}"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def __reduce__(self) -> tuple:
        return ObjectBank, (self.path, self.classes)

    def __getitem__(self, index: int) -> CutObject:
        columns = self._columns
        points = {}
        for sensor in self.fields:
            begin, end = columns[f"points.{sensor}.offsets"][index : index + 2]
            points[sensor] = np.array(columns[f"points.{sensor}"][begin:end])
        patches = {}
        for row in range(*np.searchsorted(columns["patch.object"], [index, index + 1])):
            begin, end = columns["patch.offsets"][row : row + 2]
            pixels = columns["patch.pixels"][begin:end].reshape(*columns["patch.shape"][row], 3)
            patches[self._cameras[columns["patch.camera"][row]]] = Patch(pixels, columns["patch.place"][row])
        return CutObject(self.boxes[[index]], points, patches)

    def _check(self) -> None:
        """Raise ValueError where columns contradict each other; LookupError where there is none."""
        columns, count = self._columns, len(self.boxes)
        tables = {f"points.{s}": (count, len(columns[f"points.{s}"])) for s in self.fields}
        tables["patch"] = (len(columns["patch.object"]), len(columns["patch.pixels"]))
        for name, (rows, end) in tables.items():
            offsets = columns[f"{name}.offsets"]
            if offsets.shape != (rows + 1,) or offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < 0).any():
                raise ValueError(f"{name}.offsets that lead elsewhere")
        for sensor, fields in self.fields.items():
            if columns[f"points.{sensor}"].shape[1:] != (len(fields),):
                raise ValueError(f"points.{sensor} of other fields")
        owner, shape = columns["patch.object"], columns["patch.shape"]
        if len(owner) and not (0 <= owner[0] and owner[-1] < count and (np.diff(owner) >= 0).all()):
            raise ValueError("patches of no object")
        if shape.shape != (len(owner), 2) or (shape.prod(axis=1) * 3 != np.diff(columns["patch.offsets"])).any():
            raise ValueError("patches of another size")
        camera = columns["patch.camera"]
        if len(camera) != len(owner) or not all(0 <= c < len(self._cameras) for c in np.unique(camera).tolist()):
            raise ValueError("patches of no camera")
        if columns["patch.place"].shape != (len(owner), 4):
            raise ValueError("patches without a place")


def write_bank(path: str | Path, classes: Iterable[str], frames: Iterable[Frame | None]) -> ObjectBank:
    """Cut every object that a LiDAR or radar has seen out of the frames; frames that are None are passed over.

    All of them are held in memory, twice while they are written.

    Raises:
        ObjectError: there is no object.
        OSError: the file cannot be written.
    """
    boxes: list[Boxes3D] = []
    fields: dict[str, list[str]] = {}
    points: dict[str, list[np.ndarray]] = {}
    cameras: dict[tuple[str, str], int] = {}
    owners: list[int] = []
    seen_by: list[int] = []
    patches: list[Patch] = []
    for frame in frames:
        if frame is None or frame.boxes is None:
            continue
        for sensor, data in frame.data.items():
            if isinstance(data, PointCloud) and sensor not in fields:
                fields[sensor] = list(data.fields)
                points[sensor] = [np.zeros((0, len(data.fields)), np.float32)] * len(boxes)
        for index in np.flatnonzero(frame.boxes.measured):
            found = cut(frame, int(index))
            for camera, patch in found.patches.items():
                owners.append(len(boxes))
                seen_by.append(cameras.setdefault(camera, len(cameras)))
                patches.append(patch)
            for sensor, kept in points.items():
                kept.append(found.points.get(sensor, np.zeros((0, len(fields[sensor])), np.float32)))
            boxes.append(found.box)
    if not boxes:
        raise ObjectError("annotated boxes with LiDAR or radar points were expected, found none")
    columns: dict[str, np.ndarray] = {
        f"box.{name}": np.concatenate([getattr(box, name) for box in boxes]) for name in _COLUMNS
    }
    for sensor, kept in points.items():
        columns[f"points.{sensor}"] = np.concatenate(kept)
        columns[f"points.{sensor}.offsets"] = _offsets(map(len, kept))
    columns["patch.object"], columns["patch.camera"] = np.array(owners, np.int64), np.array(seen_by, np.int64)
    columns["patch.place"] = np.array([patch.place for patch in patches]).reshape(-1, 4)
    columns["patch.shape"] = np.array([patch.pixels.shape[:2] for patch in patches], np.int64).reshape(-1, 2)
    columns["patch.pixels"] = np.concatenate([np.zeros(0, np.uint8), *(patch.pixels.ravel() for patch in patches)])
    columns["patch.offsets"] = _offsets(patch.pixels.size for patch in patches)
    metadata: Mapping[str, Any] = {"classes": list(classes), "fields": fields, "cameras": list(cameras)}
    write_columns(Path(path), columns, {name: json.dumps(value) for name, value in metadata.items()})
    return ObjectBank(path, metadata["classes"])


def _offsets(sizes: Iterable[int]) -> np.ndarray:
    return np.cumsum([0, *sizes], dtype=np.int64)
