"""Stands in for compiled operators that a machine does not have, so that the originals can be imported.

Classes and functions of the modules named are empty, but those that are set here: hard voxelization, the suppression of
overlapping boxes and scatter, each in plain Python as their papers and documentation define them.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types

import numpy as np
import torch
from torch import nn


class _Stub(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012  # a package of further stubs
    __version__ = "2.3.6"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (nn.Module,), {"__module__": self.__name__}))
        return self.__dict__[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: tuple[str, ...]):
        self.names = names

    def find_spec(self, name, path, target=None):
        if name.endswith(("_cuda", "_ext")) or any(name == own or name.startswith(f"{own}.") for own in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Stub(spec.name)

    def exec_module(self, module):
        pass


def stub(*names: str) -> None:
    sys.meta_path.insert(0, _Finder(names))


def hard_voxelize(
    points, voxel_size, coors_range, voxels, coors, num_points_per_voxel, voxel_num, max_points, max_voxels, **_
):  # as mmcv has it
    """Voxels in the order of their first points, with their first points; float32 arithmetic."""
    low, high = coors_range[:3].numpy(), coors_range[3:].numpy()
    size = voxel_size.numpy()
    cell = np.floor((points[:, :3].numpy() - low) / size).astype(np.int64)
    shape = np.round((high - low) / size).astype(np.int64)
    index: dict[tuple[int, ...], int] = {}
    for i in np.flatnonzero(((cell >= 0) & (cell < shape)).all(axis=1)).tolist():
        key = tuple(cell[i].tolist())
        if key not in index:
            if len(index) == max_voxels:
                continue
            index[key] = len(index)
            coors[index[key]] = torch.tensor(key[::-1])
        voxel = index[key]
        count = int(num_points_per_voxel[voxel])
        if count < max_points:
            voxels[voxel, count] = points[i]
            num_points_per_voxel[voxel] = count + 1
    voxel_num.fill_(len(index))


def suppressed(boxes: np.ndarray, most: float) -> list[int]:
    """Indices kept of boxes [N, 5] (x, y, length, width, yaw), best first: intersection over union, by shapely."""
    from shapely import affinity
    from shapely.geometry import box

    shapes = []
    for x, y, length, width, yaw in np.asarray(boxes, np.float64).tolist():
        at_origin = box(-length / 2, -width / 2, length / 2, width / 2)
        shapes.append(affinity.translate(affinity.rotate(at_origin, yaw, (0, 0), use_radians=True), x, y))
    kept: list[int] = []
    for i, shape in enumerate(shapes):
        others = (shapes[j] for j in kept if shapes[j].intersects(shape))
        if all(shape.intersection(other).area <= most * shape.union(other).area for other in others):
            kept.append(i)
    return kept


def scatter_mean(values, index, dim=0):
    total = values.new_zeros(int(index.max()) + 1, values.shape[1]).index_add(0, index, values)
    return total / torch.bincount(index)[:, None]


def scatter_max(values, index, dim=0):
    lowest = values.new_full((int(index.max()) + 1, values.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, index[:, None].expand_as(values), values, "amax"), None
