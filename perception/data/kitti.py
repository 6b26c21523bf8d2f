"""The layouts of KITTI's object benchmark (Geiger et al. 2012) and of View-of-Delft (Palffy et al. 2022).

    KITTI            training/{image_2, velodyne, calib, label_2}/NNNNNN.{png or jpg, bin, txt, txt}
    View-of-Delft    the same below lidar/, and radar/training/{velodyne, calib}

What a frame holds:

Ego frame   The LiDAR's axes (x forward, y left, z up), its origin on the road below the LiDAR: as far below it as the
            median floor of all annotated boxes.
Time        Unknown; the number of the frame in seconds. There are no poses: every frame is a scene of its own.
Clouds      What the camera looks at, since only there objects are annotated. LiDAR: reflectance 0..1 becomes 0..255.
            Radar: x, y, z, RCS, radial speed, that over ground, age as scans before; vx, vy are the speed over ground
            along the line of sight, as in nuScenes.
Boxes       Upright; of the classes that the task has as sources. Velocities are unknown (NaN).
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from perception.data.camera_view import read_camera_image, seen
from perception.data.nuscenes_files import DataError, read_bytes
from perception.errors import PerceptionError
from perception.geometry import SE3, in_box, wrap_angle
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud, scaling
from perception.task import Task

CAMERA = "FRONT"
_SCAN_S = 0.1  # between radar scans
_MOST_TEXT_BYTES = 1 << 20


class Kitti:
    """The annotated frames of a folder: a :class:`perception.data.sources.FrameSource`.

    Args:
        root: folder in one of the layouts; that of View-of-Delft has a radar.
        task: its sources name the data set's classes, such as Car.
        image_size: as :class:`perception.NuScenes` takes it.

    Attributes:
        tokens: the number of every frame.  height_m: of the LiDAR over the road.

    Raises:
        DataError: no such folder, or labels that are none.
    """

    def __init__(self, root: str | Path, task: Task, image_size: tuple[int, int] | None = None):
        root = Path(root).expanduser()
        self.root, self.task, self._image_size = root, task, image_size
        self._folder = root / "lidar/training" if is_view_of_delft(root) else root / "training"
        self._radar = root / "radar/training" if is_view_of_delft(root) else None
        self.tokens = sorted(path.stem for path in (self._folder / "label_2").glob("*.txt"))
        if not self.tokens:
            raise DataError(f"{self._folder / 'label_2'}: files of labels were expected, found none")
        floors = [floor for token in self.tokens for floor in self._floors(token)]
        self.height_m = -float(np.median(floors)) if floors else 0.0

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> Frame:
        """Raises DataError for a damaged file, IndexError where there is no such frame."""
        token = self.tokens[range(len(self))[operator.index(index)]]
        try:
            return self._read(token)
        except DataError:
            raise
        except PerceptionError as error:  # of a number in its files
            raise DataError(f"{self._folder}: frame {token}: {error}") from None

    def frames(self) -> Iterator[Frame]:
        for index in range(len(self)):
            yield self[index]

    def _read(self, token: str) -> Frame:
        ego_SE3_lidar = SE3(translation=np.array([0.0, 0.0, self.height_m]))
        intrinsics, rectified_SE3_lidar, offset = self._calibration(self._folder, token)
        ego_SE3_rectified = ego_SE3_lidar @ rectified_SE3_lidar.inverse()
        names = [self._folder / f"image_2/{token}.{suffix}" for suffix in ("png", "jpg")]
        image, n = read_camera_image(next((p for p in names if p.exists()), names[0]), self._image_size)
        pose = ego_SE3_rectified @ SE3(translation=-offset)
        camera = CameraImage(image, scaling(1 / n, 1 / n) @ intrinsics, pose, 0)
        xyzi = _points(self._folder / f"velodyne/{token}.bin", 4)
        points = np.column_stack([ego_SE3_lidar.transform(xyzi[:, :3]), 255 * xyzi[:, 3], np.zeros(len(xyzi))])
        lidar = LidarCloud(seen(points, camera).astype(np.float32))
        radar = None if self._radar is None else self._radar_cloud(self._radar, token, ego_SE3_rectified, camera)
        boxes = self._boxes(token, ego_SE3_rectified, lidar, radar)
        return Frame(token, int(token) * 10**9 if token.isdigit() else 0, cameras={CAMERA: camera}, radar=radar,
                     lidar=lidar, boxes=boxes, scene=token)  # fmt: skip

    def _calibration(self, folder: Path, token: str) -> tuple[np.ndarray, SE3, np.ndarray]:
        """Intrinsics of the image, rectified camera 0 from the sensor, and the image's camera seen from camera 0."""
        path = folder / f"calib/{token}.txt"
        rows = {}
        for line in _text(path).splitlines():
            name, colon, numbers = line.partition(":")
            if colon:
                rows[name.strip()] = numbers.split()
        try:
            projection = np.array(rows["P2"], float).reshape(3, 4)
            rectify = np.eye(4)
            rectify[:3, :3] = np.array(rows["R0_rect"], float).reshape(3, 3)
            mount = np.vstack([np.array(rows["Tr_velo_to_cam"], float).reshape(3, 4), [0, 0, 0, 1]])
            offset = np.linalg.solve(projection[:, :3], projection[:, 3])
            return projection[:, :3], SE3.from_matrix(_orthogonal(rectify @ mount)), offset
        except (KeyError, ValueError, np.linalg.LinAlgError, PerceptionError) as error:
            raise DataError(f"{path}: P2, R0_rect and Tr_velo_to_cam were expected: {error}") from None

    def _labels(self, token: str) -> tuple[list[str], np.ndarray]:
        """Classes of the task, and [N, 7]: height, width, length, x, y, z of the floor, rotation about y."""
        path = self._folder / f"label_2/{token}.txt"
        rows = [line.split() for line in _text(path).splitlines() if line.strip()]
        try:
            kept = [row for row in rows if self.task.labels_of([row[0]])[0] >= 0]
            numbers = np.array([[float(row[column]) for column in range(8, 15)] for row in kept]).reshape(-1, 7)
            if not np.isfinite(numbers).all() or (numbers[:, :3] <= 0).any():
                raise ValueError("found sizes that are none, or numbers that are not finite")
        except (ValueError, IndexError) as error:
            raise DataError(f"{path}: lines of a class and 14 numbers were expected: {error}") from None
        return [row[0] for row in kept], numbers

    def _floors(self, token: str) -> np.ndarray:
        """Heights of the floors of the boxes in the LiDAR's frame; none of a frame that is damaged."""
        try:
            _, numbers = self._labels(token)
            _, rectified_SE3_lidar, _ = self._calibration(self._folder, token)
        except DataError:
            return np.zeros(0)
        return rectified_SE3_lidar.inverse().transform(numbers[:, 3:6])[:, 2]

    def _boxes(self, token: str, ego_SE3_rectified: SE3, lidar: LidarCloud, radar: RadarCloud | None) -> Boxes3D:
        names, numbers = self._labels(token)
        center = ego_SE3_rectified.transform(numbers[:, 3:6]) + numbers[:, :1] * [0, 0, 0.5]
        size = numbers[:, [2, 1, 0]]
        turn = numbers[:, 6]
        forward = ego_SE3_rectified.rotate(np.column_stack([np.cos(turn), np.zeros(len(turn)), -np.sin(turn)]))
        yaw = wrap_angle(np.arctan2(forward[:, 1], forward[:, 0]))
        counts = [_counts(cloud, center, size, yaw) for cloud in (lidar, radar)]
        return Boxes3D(
            center, size, yaw, np.full((len(yaw), 2), np.nan), self.task.labels_of(names),
            num_lidar_points=counts[0], num_radar_points=counts[1],
        )  # fmt: skip

    def _radar_cloud(self, folder: Path, token: str, ego_SE3_rectified: SE3, camera: CameraImage) -> RadarCloud:
        _, rectified_SE3_radar, _ = self._calibration(folder, token)
        ego_SE3_radar = ego_SE3_rectified @ rectified_SE3_radar
        found = _points(folder / f"velodyne/{token}.bin", 7)
        direction = found[:, :3] / np.maximum(np.linalg.norm(found[:, :3], axis=1, keepdims=True), 1e-6)
        velocity = ego_SE3_radar.rotate(direction * found[:, 5:6])[:, :2]
        age_s = -_SCAN_S * found[:, 6]  # 0, -1, -2, ... scans
        points = np.column_stack([ego_SE3_radar.transform(found[:, :3]), found[:, 3], velocity, age_s])
        return RadarCloud(seen(points, camera).astype(np.float32))


def is_kitti(root: str | Path) -> bool:
    return (Path(root).expanduser() / "training/label_2").is_dir()


def is_view_of_delft(root: str | Path) -> bool:
    return (Path(root).expanduser() / "lidar/training/label_2").is_dir()


def _text(path: Path) -> str:
    return read_bytes(path, most=_MOST_TEXT_BYTES).decode("ascii", errors="replace")


def _points(path: Path, columns: int) -> np.ndarray:
    data = read_bytes(path)
    if len(data) % (4 * columns):
        raise DataError(f"{path}: records of {columns} float32 were expected, found {len(data)} bytes")
    points = np.frombuffer(data, "<f4").reshape(-1, columns)
    return points[np.isfinite(points).all(axis=1)].astype(np.float64)


def _counts(cloud: LidarCloud | RadarCloud | None, center: np.ndarray, size: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """int64 [N]: points in each box, -1 without a cloud."""
    if cloud is None:
        return np.full(len(yaw), -1)
    return np.array([in_box(cloud.points[:, :3], *box).sum() for box in zip(center, size, yaw)], np.int64)


def _orthogonal(matrix: np.ndarray) -> np.ndarray:
    """The nearest rigid transform: calibrations are written with seven digits."""
    u, _, v = np.linalg.svd(matrix[:3, :3])
    matrix = matrix.copy()
    matrix[:3, :3] = u @ v
    return matrix
