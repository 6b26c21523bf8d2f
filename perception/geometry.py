"""Rigid transforms and the pinhole camera model; the conventions of the whole package.

Frames
    ego     x forward, y left, z up, metres, origin on the ground below the rear axle, at the frame's reference time.
    camera  optical axes: x right, y down, z forward.
    world   any fixed, gravity-aligned frame (nuScenes: the map frame).

A transform is named after its two frames: ``ego_SE3_camera`` maps points from the camera frame to the ego frame, and
inner frame names cancel in a composition: ``world_SE3_ego @ ego_SE3_camera`` is ``world_SE3_camera``.

Yaw is counter-clockwise about +z, zero along +x, in radians. All transforms are float64: world coordinates reach
several kilometres, where float32 resolves only a quarter of a millimetre.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from perception.errors import PerceptionError


class GeometryError(PerceptionError):
    """An invalid transform, rotation or pose."""


@dataclass(frozen=True, eq=False)
class SE3:
    """A rigid transform.

    Args:
        rotation: [3, 3] proper rotation.
        translation: [3] metres.

    Raises:
        GeometryError: wrong shape, not finite, or ``rotation`` further than 1e-4 from orthonormal.
    """

    rotation: np.ndarray = field(default_factory=lambda: np.eye(3))
    translation: np.ndarray = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self):
        rotation, translation = _numbers("SE3.rotation", self.rotation), _numbers("SE3.translation", self.translation)
        if rotation.shape != (3, 3) or translation.shape != (3,):
            raise GeometryError(
                f"SE3 wants rotation [3, 3] and translation [3], found {rotation.shape} and {translation.shape}"
            )
        if not (np.isfinite(rotation).all() and np.isfinite(translation).all()):
            raise GeometryError("SE3 wants finite numbers, found NaN or infinity")
        if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-4 or np.linalg.det(rotation) < 0:
            raise GeometryError(
                f"SE3 wants a proper rotation, found a matrix with determinant {np.linalg.det(rotation):.4f}"
            )
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation", translation)

    @classmethod
    def from_quaternion(cls, wxyz, translation=(0.0, 0.0, 0.0)) -> SE3:
        """From a quaternion (w, x, y, z), which is normalised."""
        quaternion = _numbers("quaternion", wxyz)
        if quaternion.shape != (4,) or not 0.5 < quaternion @ quaternion < 2.0:
            raise GeometryError(f"a unit quaternion (w, x, y, z) was expected, found {quaternion.tolist()}")
        return cls(Rotation.from_quat(to_xyzw(quaternion)).as_matrix(), translation)

    @classmethod
    def from_pose(cls, pose) -> SE3:
        """From a pose [7], see :attr:`pose`."""
        pose = _numbers("pose", pose)
        if pose.shape != (7,):
            raise GeometryError(f"a pose [7] was expected, found {pose.shape}")
        return cls.from_quaternion(pose[3:], pose[:3])

    @classmethod
    def from_yaw(cls, yaw: float, translation=(0.0, 0.0, 0.0)) -> SE3:
        return cls(Rotation.from_euler("z", float(_numbers("yaw", yaw))).as_matrix(), translation)

    @classmethod
    def from_matrix(cls, matrix) -> SE3:
        """From a homogeneous [4, 4] matrix."""
        matrix = _numbers("matrix", matrix)
        if matrix.shape != (4, 4) or not np.allclose(matrix[3], [0.0, 0.0, 0.0, 1.0]):
            raise GeometryError(f"a [4, 4] matrix with a last row 0, 0, 0, 1 was expected, found {matrix.tolist()}")
        return cls(matrix[:3, :3], matrix[:3, 3])

    @property
    def matrix(self) -> np.ndarray:
        """Homogeneous [4, 4] float64."""
        matrix = np.eye(4)
        matrix[:3, :3] = self.rotation
        matrix[:3, 3] = self.translation
        return matrix

    @property
    def quaternion(self) -> np.ndarray:
        """[4] in (w, x, y, z) order, w >= 0."""
        quaternion = to_wxyz(Rotation.from_matrix(self.rotation).as_quat())
        return -quaternion if quaternion[0] < 0 else quaternion

    @property
    def pose(self) -> np.ndarray:
        """[7]: translation, then quaternion (w, x, y, z); the pose layout of all files of this package."""
        return np.concatenate([self.translation, self.quaternion])

    @property
    def yaw(self) -> float:
        """Heading of the transformed x axis, projected onto the ground plane, in radians."""
        return float(np.arctan2(self.rotation[1, 0], self.rotation[0, 0]))

    def inverse(self) -> SE3:
        return SE3(self.rotation.T, -self.rotation.T @ self.translation)

    def __matmul__(self, other: SE3) -> SE3:
        return SE3(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def transform(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] mapped from the frame on the right of the name to the one on the left."""
        return _vectors("points", points) @ self.rotation.T + self.translation

    def rotate(self, vectors: np.ndarray) -> np.ndarray:
        """Directions or velocities [..., 3], rotated but not translated."""
        return _vectors("vectors", vectors) @ self.rotation.T


def _numbers(name: str, values) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise GeometryError(f"{name}: numbers were expected, found {values!r:.80}") from None


def _vectors(name: str, values) -> np.ndarray:
    vectors = np.asarray(values)
    if vectors.shape[-1:] != (3,) or vectors.dtype.kind not in "biuf":
        raise GeometryError(f"{name}: numbers [..., 3] were expected, found {vectors.dtype} {list(vectors.shape)}")
    return vectors


def to_xyzw(wxyz: np.ndarray) -> np.ndarray:
    """Quaternions [..., 4] from (w, x, y, z), the order of this package, to (x, y, z, w), that of scipy and ROS."""
    return np.asarray(wxyz)[..., [1, 2, 3, 0]]


def to_wxyz(xyzw: np.ndarray) -> np.ndarray:
    """The inverse of :func:`to_xyzw`."""
    return np.asarray(xyzw)[..., [3, 0, 1, 2]]


def pose_matrix(pose: np.ndarray) -> np.ndarray:
    """Poses [7] or [N, 7], see :attr:`SE3.pose`, as homogeneous float64 [4, 4] or [N, 4, 4]; not validated."""
    matrix = np.broadcast_to(np.eye(4), (*pose.shape[:-1], 4, 4)).copy()
    matrix[..., :3, :3] = Rotation.from_quat(to_xyzw(pose[..., 3:])).as_matrix()
    matrix[..., :3, 3] = pose[..., :3]
    return matrix


def wrap_angle(angle):
    """Angles in radians wrapped to [-pi, pi)."""
    return (np.asarray(angle) + np.pi) % (2 * np.pi) - np.pi


def project(points_camera: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points [N, 3] in the camera frame: pixels [N, 2] as (u, v), depth [N] in metres along the optical axis.

    Pixel centres lie at integer coordinates. Pixels are undefined for points with depth <= 0, behind the camera.
    """
    depth = points_camera[:, 2]
    pixels = points_camera @ np.asarray(intrinsics).T
    safe_depth = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return pixels[:, :2] / safe_depth[:, None], depth


def box_corners(center: np.ndarray, size: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Corners [N, 8, 3] of boxes with center [N, 3], size [N, 3] as (length, width, height) and yaw [N].

    Order: the first four are the front face (+x of the box), counter-clockwise seen from the front starting at
    (+y, +z); the last four are the rear face in the same order.
    """
    signs = 0.5 * np.array(
        [[1, 1, 1], [1, -1, 1], [1, -1, -1], [1, 1, -1], [-1, 1, 1], [-1, -1, 1], [-1, -1, -1], [-1, 1, -1]]
    )
    offsets = np.asarray(size)[:, None, :] * signs[None]
    cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
    x = cos * offsets[..., 0] - sin * offsets[..., 1]
    y = sin * offsets[..., 0] + cos * offsets[..., 1]
    return np.stack([x, y, offsets[..., 2]], axis=-1) + np.asarray(center)[:, None, :]


def in_box(points: np.ndarray, center: np.ndarray, size: np.ndarray, yaw: float) -> np.ndarray:
    """bool [N]: whether points [N, 3] lie in the box of ``size`` (length, width, height), its faces included."""
    half = 0.5 * np.asarray(size)
    inside = np.zeros(len(points), dtype=bool)
    radius = float(np.linalg.norm(half))
    near = np.flatnonzero((np.abs(points[:, 0] - center[0]) <= radius) & (np.abs(points[:, 1] - center[1]) <= radius))
    offsets = points[near] - center
    cos, sin = np.cos(yaw), np.sin(yaw)
    along, across = cos * offsets[:, 0] + sin * offsets[:, 1], cos * offsets[:, 1] - sin * offsets[:, 0]
    inside[near] = (np.abs(along) <= half[0]) & (np.abs(across) <= half[1]) & (np.abs(offsets[:, 2]) <= half[2])
    return inside
