"""Pooling of image features into the cells of a grid, in numpy: the reference for runtimes without torch.

A cell sums the context of the pixels whose frustum points fall into it, weighted by the depth probability of those
points (``model.view_transform``, ``ops.bev_pool``). Which points those are is a matter of the calibration alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from perception.export.card import CameraCard
from perception.grid import BEVGrid


@dataclass(frozen=True)
class PoolIndex:
    """point: int32 [P] frustum points inside the grid, by cell.  pixel: int32 [P], that of each.

    offsets: int32 [cells + 1], where the points of each cell begin and end.
    """

    point: np.ndarray
    pixel: np.ndarray
    offsets: np.ndarray


def pool_index(
    camera: CameraCard,
    grid: BEVGrid,
    intrinsics: np.ndarray,  # float32 [N, 3, 3]
    ego_SE3_camera: np.ndarray,  # float32 [N, 4, 4]
    camera_valid: np.ndarray,  # bool [N]
) -> PoolIndex:
    height, width = (side // camera.stride for side in camera.image_size)
    u = (np.arange(width, dtype=np.float32) + np.float32(0.5)) * camera.stride - np.float32(0.5)
    v = (np.arange(height, dtype=np.float32) + np.float32(0.5)) * camera.stride - np.float32(0.5)
    bin_size_m = np.float32((camera.depth_max_m - camera.depth_min_m) / camera.bins)
    depth = np.float32(camera.depth_min_m) + (np.arange(camera.bins, dtype=np.float32) + np.float32(0.5)) * bin_size_m
    pixels = np.stack(np.broadcast_arrays(u, v[:, None], np.float32(1)), axis=-1)  # [h, w, 3]
    rays = (np.linalg.inv(intrinsics)[:, None, None] * pixels[..., None, :]).sum(axis=-1)  # [N, h, w, 3]
    rays = (ego_SE3_camera[:, None, None, :3, :3] * rays[..., None, :]).sum(axis=-1)
    at = rays[..., None, :] * depth[:, None] + ego_SE3_camera[:, None, None, None, :3, 3]
    x, y, z = np.moveaxis(at, -1, 0)  # [N, h, w, D]
    inside = grid.contains(x, y) & (z >= grid.z_min_m) & (z < grid.z_max_m) & camera_valid[:, None, None, None]
    point = np.flatnonzero(inside).astype(np.int32)
    column, row = grid.cell_index(x[inside], y[inside])
    cell = row * grid.columns + column
    point = point[np.argsort(cell, kind="stable")]
    offsets = np.concatenate([[0], np.bincount(cell, minlength=grid.cells).cumsum()]).astype(np.int32)
    return PoolIndex(point, point // np.int32(camera.bins), offsets)


def pool(context: np.ndarray, depth: np.ndarray, index: PoolIndex, grid: BEVGrid) -> np.ndarray:
    """Context [pixels, C] and depth probabilities [pixels, D] -> [1, C, rows, columns]."""
    weights = csr_array((depth.reshape(-1)[index.point], index.pixel, index.offsets), (grid.cells, len(context)))
    return np.ascontiguousarray((weights @ context).reshape(1, *grid.shape, -1).transpose(0, 3, 1, 2))
