"""Targets of a CenterHead laid out as its maps."""

from dataclasses import dataclass

import torch

from perception.grid import BEVGrid
from perception.sample import Boxes3D
from perception.task import Task
from perception.train.targets import CenterEncoder


@dataclass
class DenseTargets:
    """heat, box and attribute as in CenterMaps, zero where there is no centre; occupied: bool [B, rows, columns]."""

    heat: torch.Tensor
    box: torch.Tensor
    attribute: torch.Tensor
    occupied: torch.Tensor


def encode(boxes: list[Boxes3D], grid: BEVGrid, task: Task, min_radius: int = 1, groups=None) -> DenseTargets:
    groups = [range(len(task.classes))] if groups is None else groups
    found = CenterEncoder(grid, task, min_radius, groups)(boxes)
    shape = (len(boxes), len(groups), *grid.shape)
    where = torch.unravel_index(found.cell, shape)
    occupied = torch.zeros(shape, dtype=torch.bool)
    occupied[where] = True

    def spread(values: torch.Tensor) -> torch.Tensor:
        maps = torch.zeros(*shape, values.shape[1])
        maps[where] = values
        return maps.permute(0, 1, 4, 2, 3).flatten(1, 2)

    return DenseTargets(found.heat, spread(found.box), spread(found.attribute), occupied.any(dim=1))
