"""The package's data types: Frame (sensor data at one time), Boxes3D and Detections.

Every type validates its data on construction, so that errors are reported where data enters. A missing sensor is
``None``; a sensor that is present but saw nothing is an empty cloud. The two are always distinguished.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, ClassVar

import cv2
import numpy as np

from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.task import MAX_ATTRIBUTES, MAX_CLASSES

log = logging.getLogger(__name__)

# The largest magnitude that a point's field can have. Anything beyond it is a damaged number, and one of 1e20 would
# overflow in a detector and empty the whole frame. Fields of custom sensors that are not listed are not limited.
LIMITS = {
    "x": 1e6, "y": 1e6, "z": 1e6, "intensity": 1e6, "rcs_dbsm": 1e3, "vx": 1e3, "vy": 1e3, "age_s": 1e4,
}  # fmt: skip
_MAX_SIDE_RATIO = 1000  # of an image; scaled to cover a network's input, longer ones take gigabytes
_FOCAL_PX = (1e-3, 1e7)
_MAX_BOX_SIDE_M = 1e4


class SampleError(PerceptionError):
    """Data of the wrong shape, type or range."""


def _checked(name: str, array, dtype, shape: tuple, finite: bool = True) -> np.ndarray:
    """The array as ``dtype``, validated; ``None`` in ``shape`` allows any length."""
    array = _array(name, array)
    if array.ndim != len(shape) or any(want is not None and want != have for want, have in zip(shape, array.shape)):
        wanted = ", ".join("N" if want is None else str(want) for want in shape)
        raise SampleError(f"{name}: shape [{wanted}] was expected, found {list(array.shape)}")
    try:
        if array.dtype.kind not in "buifO":
            raise TypeError
        with np.errstate(invalid="ignore", over="ignore"):  # what becomes NaN or infinite is rejected below
            converted = array.astype(dtype, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise SampleError(f"{name}: numbers were expected, found {array.dtype}") from None
    if finite and converted.dtype.kind == "f" and not np.isfinite(converted).all():
        raise SampleError(f"{name}: {int((~np.isfinite(converted)).sum())} values are NaN or infinite")
    if converted.dtype.kind == "i" and array.dtype.kind in "fO" and not np.array_equal(converted, array):
        raise SampleError(f"{name}: whole numbers were expected, found {array.tolist()[:5]}")
    return converted


def _array(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError):  # rows of different lengths
        raise SampleError(f"{name}: an array of numbers was expected, found {type(values).__name__}") from None


def _require_several(index) -> None:
    if isinstance(index, int | np.integer):
        raise SampleError(f"a mask, slice or index array was expected, found {index}")


def _require(name: str, value, kind: type) -> None:
    if not isinstance(value, kind):
        raise SampleError(f"{name}: {kind.__name__} was expected, found {type(value).__name__}")


def _require_time(name: str, value) -> None:
    if not isinstance(value, int | np.integer):
        raise SampleError(f"{name}: whole nanoseconds were expected, found {value!r}")


@dataclass(frozen=True, eq=False)
class CameraImage:
    """One camera image with its calibration.

    image: uint8 [H, W, 3] RGB, a pixel at least, one side at most 1000 times the other.
    intrinsics: [3, 3] float64, pixels; invertible.
    ego_SE3_camera: maps the camera frame *at the time of exposure* to the ego frame at the Frame's reference time, so
        that ego motion is included when boxes of the Frame are projected; no further away than a point can be.
    mirrored: whether the image's left and right are exchanged, as augmentation does; its intrinsics have fx < 0.
    """

    image: np.ndarray
    intrinsics: np.ndarray
    ego_SE3_camera: SE3
    timestamp_ns: int
    mirrored: bool = False

    def __post_init__(self):
        _require("camera.ego_SE3_camera", self.ego_SE3_camera, SE3)
        _require_time("camera.timestamp_ns", self.timestamp_ns)
        farthest = float(np.abs(self.ego_SE3_camera.translation).max())
        if farthest > LIMITS["x"]:
            raise SampleError(f"camera.ego_SE3_camera: metres up to {LIMITS['x']:g} were expected, found {farthest:g}")
        image = _array("image", self.image)
        if image.dtype != np.uint8:
            raise SampleError(f"image: uint8 was expected, found {image.dtype}")
        object.__setattr__(self, "image", _checked("image", image, np.uint8, (None, None, 3)))
        height, width = image.shape[:2]
        if min(height, width) < 1 or max(height, width) > _MAX_SIDE_RATIO * min(height, width):
            ratio = f"one side at most {_MAX_SIDE_RATIO} times the other"
            raise SampleError(f"image: pixels, {ratio}, were expected, found {height} x {width}")
        object.__setattr__(self, "intrinsics", _checked("intrinsics", self.intrinsics, np.float64, (3, 3)))
        self._check_intrinsics()

    def _check_intrinsics(self) -> None:
        side = np.diag([-1.0 if self.mirrored else 1.0, 1.0, 1.0])
        (fx, skew, cx), (shear, fy, cy), last = (self.intrinsics @ side).tolist()
        if fx <= 0 or fy <= 0 or last != [0.0, 0.0, 1.0]:
            wanted, fx = ("fy > 0, fx < 0 in a mirrored image", -fx) if self.mirrored else ("fx, fy > 0", fx)
            raise SampleError(f"intrinsics: {wanted} and a last row 0, 0, 1 were expected, found {fx}, {fy}, {last}")
        least, most = _FOCAL_PX
        if min(fx, fy) < least or max(fx, fy, abs(cx), abs(cy)) > most:
            found = f"{fx:g}, {fy:g}, {cx:g}, {cy:g}"
            raise SampleError(
                f"intrinsics: pixels, focal lengths of {least:g} to {most:g}, were expected, found {found}"
            )
        if abs(fx * fy - skew * shear) < 1e-6 * fx * fy:
            raise SampleError(
                f"intrinsics: a matrix that can be inverted was expected, found {self.intrinsics.tolist()}"
            )


@dataclass(frozen=True, eq=False)
class PointCloud:
    """points: float32 [N, C] in the ego frame, with columns ``fields``.

    Custom sensors subclass this and set ``fields``. Field names have fixed meanings: x, y, z come first, in metres;
    vx, vy are velocity over ground in ego axes, m/s; age_s is reference time minus measurement time. Points with a
    value that its field cannot have (LIMITS) are left out; ``dropped`` is how many.
    """

    fields: ClassVar[tuple[str, ...]] = ("x", "y", "z")
    points: np.ndarray
    dropped: int = field(default=0, init=False)

    def __post_init__(self):
        if self.fields[:3] != ("x", "y", "z"):
            raise SampleError(f"{type(self).__name__}.fields: x, y, z first were expected, found {self.fields}")
        first = self.column("vx")
        if first is not None and self.fields[first + 1 : first + 2] != ("vy",):
            raise SampleError(f"{type(self).__name__}.fields: vy behind vx was expected, found {self.fields}")
        name = f"{type(self).__name__} points"
        points = _checked(name, self.points, np.float32, (None, len(self.fields)), finite=False)
        limits = np.array([LIMITS.get(name, np.inf) for name in self.fields], np.float32)
        least = limits.min()
        if points.size and not (-least <= points.min() and points.max() <= least):  # ten times as fast as what follows
            points = self._possible(_checked(name, points, np.float32, points.shape), limits)  # NaN is an error
        object.__setattr__(self, "points", points)

    def _possible(self, points: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """The points without those beyond the limits of a field, which are counted."""
        possible = np.abs(points) <= limits
        if possible.all():
            return points
        kept = possible.all(axis=1)
        _warn_of(type(self).__name__, self.fields[(~possible).any(axis=0).argmax()])
        object.__setattr__(self, "dropped", int((~kept).sum()))
        return points[kept]

    def column(self, field_name: str) -> int | None:
        """The column of a field; None if there is no such field."""
        return self.fields.index(field_name) if field_name in self.fields else None

    @property
    def velocity(self) -> slice | None:
        """The columns of vx, vy; None if the points have no velocity."""
        first = self.column("vx")
        return None if first is None else slice(first, first + 2)


@functools.cache  # said once
def _warn_of(cloud: str, name: str) -> None:
    log.warning("%s: points with %s beyond %g are left out, damaged numbers", cloud, name, LIMITS[name])


class LidarCloud(PointCloud):
    """points: float32 [N, 5] as x, y, z in the ego frame, intensity 0..255, age_s (reference - measurement time)."""

    fields = ("x", "y", "z", "intensity", "age_s")


class RadarCloud(PointCloud):
    """points: float32 [N, 7] as x, y, z in the ego frame, rcs_dbsm, vx, vy (over ground, ego axes, m/s), age_s."""

    fields = ("x", "y", "z", "rcs_dbsm", "vx", "vy", "age_s")


_UNKNOWN: Any = None  # default of a Boxes3D column, filled with "unknown" values on construction

SensorData = PointCloud | dict[str, CameraImage]  # data of one sensor of a Frame: a cloud, or images by camera name


@dataclass(frozen=True, eq=False)
class Boxes3D:
    """Boxes in the ego frame.

    center: [N, 3] geometric centre, metres.  size: [N, 3] length, width, height, metres.  yaw: [N] radians.
    velocity: [N, 2] (vx, vy) over ground in ego axes, m/s; NaN where unknown.  label: [N] index into task.classes.
    attribute: [N] index into task.attributes, -1 for none.  visibility: [N] nuScenes level 1..4, 0 for unknown.
    num_lidar_points, num_radar_points: [N] annotated points inside, -1 for unknown.
    """

    center: np.ndarray
    size: np.ndarray
    yaw: np.ndarray
    velocity: np.ndarray
    label: np.ndarray
    attribute: np.ndarray = _UNKNOWN
    visibility: np.ndarray = _UNKNOWN
    num_lidar_points: np.ndarray = _UNKNOWN
    num_radar_points: np.ndarray = _UNKNOWN

    def __post_init__(self):
        n = len(np.atleast_1d(_array("boxes.center", self.center)))
        for name, dtype, shape, finite in (
            ("center", np.float64, (n, 3), True),
            ("size", np.float64, (n, 3), True),
            ("yaw", np.float64, (n,), True),
            ("velocity", np.float64, (n, 2), False),
            ("label", np.int64, (n,), True),
        ):
            object.__setattr__(self, name, _checked(f"boxes.{name}", getattr(self, name), dtype, shape, finite))
        for name, unknown in (("attribute", -1), ("visibility", 0), ("num_lidar_points", -1), ("num_radar_points", -1)):
            value = getattr(self, name)
            value = np.full(n, unknown) if value is None else value
            object.__setattr__(self, name, _checked(f"boxes.{name}", value, np.int64, (n,)))
        if np.isinf(self.velocity).any():
            raise SampleError("boxes.velocity: numbers, NaN where unknown, were expected, found infinity")
        for found in self.size[(self.size <= 0) | (self.size > _MAX_BOX_SIDE_M)][:1]:
            raise SampleError(f"boxes.size: positive metres up to {_MAX_BOX_SIDE_M:g} were expected, found {found}")
        for name, least, most, known in (
            ("label", 0, MAX_CLASSES, "classes"),
            ("attribute", -1, MAX_ATTRIBUTES, "attributes"),
        ):
            index = getattr(self, name)
            for found in index[(index < least) | (index >= most)][:1]:
                raise SampleError(f"boxes.{name}: indices into task.{known} were expected, found {found}")

    @classmethod
    def empty(cls) -> Boxes3D:
        return cls(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0), np.zeros((0, 2)), np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence[Boxes3D]) -> Boxes3D:
        """The boxes of all parts, one after the other."""
        parts, columns = [cls.empty(), *parts], [f.name for f in dataclasses.fields(cls)]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in columns})

    def __len__(self) -> int:
        return len(self.center)

    def __getitem__(self, index) -> Boxes3D:
        """The boxes a mask, slice or index array selects."""
        _require_several(index)
        return Boxes3D(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    @property
    def measured(self) -> np.ndarray:
        """bool [N]: whether each box has LiDAR or radar points, or unknown counts; other boxes are not scored.

        As the devkit has it: the sum of both is not 0.
        """
        return self.num_lidar_points + self.num_radar_points != 0


@dataclass(frozen=True, eq=False)
class Detections:
    """boxes, and scores [N] in 0..1, highest first."""

    boxes: Boxes3D
    scores: np.ndarray

    def __post_init__(self):
        _require("detections.boxes", self.boxes, Boxes3D)
        object.__setattr__(self, "scores", _checked("scores", self.scores, np.float64, (len(self.boxes),)))
        if len(self) and not 0 <= self.scores.min() <= self.scores.max() <= 1:
            raise SampleError(f"scores: 0..1 was expected, found {self.scores.min()} to {self.scores.max()}")
        for i in np.flatnonzero(np.diff(self.scores) > 0)[:1]:
            first, second = self.scores[i : i + 2]
            raise SampleError(f"scores: highest first was expected, found {first} before {second}")

    def __repr__(self) -> str:
        scores = f", scores {self.scores[0]:.3f} to {self.scores[-1]:.3f}" if len(self) else ""
        return f"Detections({len(self)} boxes{scores})"

    @classmethod
    def sorted(cls, boxes: Boxes3D, scores: np.ndarray) -> Detections:
        """Detections from boxes in any order, sorted by score; the sort is stable."""
        _require("detections.boxes", boxes, Boxes3D)
        scores = _checked("scores", scores, np.float64, (len(boxes),))
        order = np.argsort(-scores, kind="stable")
        return cls(boxes[order], scores[order])

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index) -> Detections:
        """The detections that a mask, slice or ascending index array selects."""
        _require_several(index)
        return Detections(self.boxes[index], self.scores[index])


@dataclass(frozen=True, eq=False)
class Frame:
    """All sensor data at one reference time, in the ego frame of that time.

    cameras: name -> CameraImage, or None without any camera; a single missing camera is not in the dict.
    others: additional sensors by name, each a PointCloud or, like cameras, a dict of CameraImages.
    world_SE3_ego: the ego pose at timestamp_ns.  scene: name of the drive that the frame belongs to.
    """

    token: str
    timestamp_ns: int
    world_SE3_ego: SE3 = field(default_factory=SE3)
    cameras: dict[str, CameraImage] | None = None
    radar: RadarCloud | None = None
    lidar: LidarCloud | None = None
    boxes: Boxes3D | None = None
    scene: str = ""
    others: dict[str, SensorData] = field(default_factory=dict)

    def __post_init__(self):
        _require("frame.token", self.token, str)
        _require("frame.scene", self.scene, str)
        _require_time("frame.timestamp_ns", self.timestamp_ns)
        _require("frame.world_SE3_ego", self.world_SE3_ego, SE3)
        if self.cameras is not None:
            _require("frame.cameras", self.cameras, dict)
            object.__setattr__(self, "cameras", self.cameras or None)
        _require("frame.others", self.others, dict)
        others = {name: data for name, data in self.others.items() if data is not None}
        object.__setattr__(self, "others", others)
        for name, value, kind in (("radar", self.radar, RadarCloud), ("lidar", self.lidar, LidarCloud)):
            if value is not None:
                _require(f"frame.{name}", value, kind)
        if self.boxes is not None:
            _require("frame.boxes", self.boxes, Boxes3D)
        for name, data in {"cameras": self.cameras or {}, **others}.items():
            _require("frame.others: a sensor's name", name, str)
            if name in _OWN_FIELDS:
                raise SampleError(f"frame.others: '{name}' has a field of its own")
            if isinstance(data, dict):
                for camera, image in data.items():
                    _require(f"frame.{name}: a camera's name", camera, str)
                    _require(f"frame.{name}['{camera}']", image, CameraImage)
            else:
                _require(f"frame.others['{name}']", data, PointCloud)

    @property
    def data(self) -> dict[str, SensorData]:
        """Sensor name -> data, for the sensors present."""
        own = {"camera": self.cameras, "radar": self.radar, "lidar": self.lidar}
        others = {name: data for name, data in self.others.items() if isinstance(data, PointCloud) or data}
        return {name: data for name, data in own.items() if data is not None} | others

    def with_data(self, data: Mapping[str, SensorData]) -> Frame:
        """The same frame with exactly these sensors and their data."""
        others = {name: value for name, value in data.items() if name not in _OWN_FIELDS}
        own: dict[str, Any] = {field_name: data.get(name) for name, field_name in _OWN_FIELDS.items()}
        return dataclasses.replace(self, **own, others=others)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Names of the sensors present: camera, radar, lidar, then any others."""
        return tuple(self.data)

    def only(self, sensors: Iterable[str]) -> Frame:
        """The same frame as recorded by a vehicle with only these sensors."""
        wanted = set(sensors)
        return self.with_data({name: data for name, data in self.data.items() if name in wanted})


_OWN_FIELDS = {"camera": "cameras", "radar": "radar", "lidar": "lidar"}  # sensors with their own Frame field


def sensor_set(sensors: Iterable[str], known: Sequence[str]) -> str:
    """The name of a set of sensors, such as ``camera+lidar``, in the order of ``known``.

    Raises:
        SampleError: no sensor, or one that is not in ``known``.
    """
    wanted = set(sensors)
    if not wanted or not wanted <= set(known):
        found = ", ".join(sorted(wanted)) or "none"
        raise SampleError(f"sensors: some of {', '.join(known)} were expected, found {found}")
    return "+".join(name for name in known if name in wanted)


def sensor_sets(known: Sequence[str]) -> list[tuple[str, ...]]:
    """Every non-empty subset of the sensors, largest first."""
    return [subset for n in range(len(known), 0, -1) for subset in combinations(known, n)]


def fit_image(camera: CameraImage, size: tuple[int, int]) -> CameraImage:
    """Scale an image to cover ``size`` (height, width), then crop left and right equally, and the rest at the top."""
    if len(size) != 2 or not all(isinstance(side, int | np.integer) and side >= 1 for side in size):
        raise SampleError(f"size: height and width of 1 or more were expected, found {size!r}")
    if camera.image.shape[:2] == tuple(size):
        return camera
    image, affine = fitted(camera.image, size)
    return dataclasses.replace(camera, image=np.ascontiguousarray(image), intrinsics=affine @ camera.intrinsics)


def fitted(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The image as in :func:`fit_image` (possibly a view), and the affine [3, 3] from old to new pixels (u, v, 1)."""
    height, width = image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    scaled = (max(size[1], round(width * scale)), max(size[0], round(height * scale)))
    left, top = (scaled[0] - size[1]) // 2, scaled[1] - size[0]
    affine = scaling(scaled[0] / width, scaled[1] / height, left, top)
    return scaled_below(image, scaled, top)[:, left : left + size[1]], affine


def scaled_below(image: np.ndarray, scaled: tuple[int, int], top: int) -> np.ndarray:
    """The image scaled to ``scaled`` (width, height), without the rows above ``top``, most of which are never computed.

    Bilinear down to half the size, where every pixel still contributes; below that area averaging, which takes five
    times as long.
    """
    height, width = image.shape[:2]
    step = height // math.gcd(height, scaled[1])  # period, in old rows, at which old and new rows align
    skipped = max(0, min(top, scaled[1]) * height // scaled[1] - 1) // step * step  # bilinear reads one row above
    skipped_scaled = skipped * scaled[1] // height
    coarse = 2 * scaled[0] < width or 2 * scaled[1] < height
    below = cv2.resize(
        image[skipped:],
        (scaled[0], scaled[1] - skipped_scaled),
        interpolation=cv2.INTER_AREA if coarse else cv2.INTER_LINEAR,
    )
    return below[top - skipped_scaled :]


def scaling(sx: float, sy: float, left: int = 0, top: int = 0) -> np.ndarray:
    """The affine [3, 3] from old to new pixels when an image is scaled, then cropped at ``left``, ``top``.

    Pixel centres lie at integers, so scaling is about (-0.5, -0.5).
    """
    return np.array([[sx, 0, 0.5 * sx - 0.5 - left], [0, sy, 0.5 * sy - 0.5 - top], [0, 0, 1]])
