"""What a CenterHead is trained on: heat maps, and boxes at the cells of their centres.

Made from boxes alone, so that loader workers can do it. Decoding what a head says that has learned it without error
gives the boxes back, except that of two boxes of one group in one cell only the larger survives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from perception.batch import Tensors
from perception.grid import BEVGrid
from perception.model.head import BOX_WIDTH, VELOCITY_SCALE_MPS, CenterHead
from perception.sample import Boxes3D
from perception.task import Task


@dataclass
class CenterTargets(Tensors):
    """Training targets for CenterMaps, of N cells that contain a centre.

    heat: [B, K, rows, columns] in 0..1, 1 at centres.
    cell: int64 [N], flat indices into [B, G, rows, columns] of G groups of classes, ascending.
    box: [N, 12] as in CenterMaps; unknown velocities are NaN.  attribute: [N, A] one-hot, all zero where unknown.
    """

    heat: torch.Tensor
    cell: torch.Tensor
    box: torch.Tensor
    attribute: torch.Tensor


@dataclass(frozen=True)
class CenterEncoder:
    """Boxes per sample -> targets. Boxes whose centre is outside the grid are dropped.

    min_radius: of the Gaussians, in cells.  groups: labels of the classes that share a branch; each in one.
    """

    grid: BEVGrid
    task: Task
    min_radius: int
    groups: Sequence[Sequence[int]]

    @classmethod
    def of(cls, head: CenterHead) -> CenterEncoder:
        return cls(head.grid, head.task, head.min_radius, head.members)

    def __call__(self, boxes: Sequence[Boxes3D]) -> CenterTargets:
        """
        Raises:
            TaskError: a label or attribute index that the task does not have.
        """
        grid, task, groups = self.grid, self.task, len(self.groups)
        group = np.empty(len(task.classes), np.int64)
        for number, members in enumerate(self.groups):
            group[list(members)] = number
        heat = np.zeros((len(boxes), len(task.classes), *grid.shape), np.float32)
        found: dict[int, np.ndarray] = {}
        for b, sample in enumerate(boxes):
            task.check(sample.label, sample.attribute, "boxes")
            sample = sample[grid.contains(sample.center[:, 0], sample.center[:, 1])]
            sample = sample[np.argsort(sample.size[:, 0] * sample.size[:, 1], kind="stable")]  # so the larger is last
            x, y = grid.to_cells(sample.center[:, 0], sample.center[:, 1])
            column, row = grid.cell_index(sample.center[:, 0], sample.center[:, 1])
            radii = gaussian_radius(sample.size[:, 0] / grid.cell_size_m, sample.size[:, 1] / grid.cell_size_m)
            for i in range(len(sample)):
                draw_gaussian(heat[b, sample.label[i]], column[i], row[i], max(self.min_radius, int(radii[i])))
            values = [
                np.stack([x - column, y - row], 1), sample.center[:, 2:], np.log(sample.size),
                np.stack([np.sin(sample.yaw), np.cos(sample.yaw)], 1),
                np.stack([np.sin(2 * sample.yaw), np.cos(2 * sample.yaw)], 1), sample.velocity / VELOCITY_SCALE_MPS,
                np.eye(len(task.attributes) + 1)[sample.attribute, :-1],  # all zeros for -1
            ]  # fmt: skip
            cell = ((b * groups + group[sample.label]) * grid.rows + row) * grid.columns + column
            found |= zip(cell.tolist(), np.concatenate(values, axis=1).astype(np.float32))
        cells, width = sorted(found), BOX_WIDTH + len(task.attributes)
        rows = np.array([found[cell] for cell in cells], np.float32).reshape(-1, width)
        box, attribute = np.split(rows, [BOX_WIDTH], axis=1)
        arrays = heat, np.array(cells, np.int64), box, attribute
        return CenterTargets(*(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays))


def gaussian_radius(length: np.ndarray, width: np.ndarray, min_overlap: float = 0.1) -> np.ndarray:
    """Centre offset, in cells, at which boxes still overlap by ``min_overlap`` (Law & Deng, 2018).

    The strictest of the paper's three cases, a box shrunk on all sides: (l - 2r)(w - 2r) = min_overlap l w.
    """
    total = length + width
    return (2 * total - np.sqrt(4 * total**2 - 16 * (1 - min_overlap) * length * width)) / 8


def draw_gaussian(heat: np.ndarray, column: int, row: int, radius: int) -> None:
    """In place, the maximum of ``heat`` [rows, columns] and a Gaussian with peak 1 at the cell."""
    axis = np.arange(-radius, radius + 1)
    sigma = (2 * radius + 1) / 6
    gaussian = np.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * sigma**2)).astype(np.float32)
    top, left = max(0, row - radius), max(0, column - radius)
    window = heat[top : row + radius + 1, left : column + radius + 1]
    start_row, start_column = top - (row - radius), left - (column - radius)
    part = gaussian[start_row : start_row + window.shape[0], start_column : start_column + window.shape[1]]
    np.maximum(window, part, out=window)
