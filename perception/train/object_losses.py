"""Losses of the object decoder: objects are matched with the truth one to one, as in DETR (Carion et al., 2020)."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F

from perception.batch import Batch
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.decoder import Refined
from perception.model.objects import Objects, rotated
from perception.sample import Boxes3D

_FAR_M = 4.0  # a pair further apart is no match: boxes are refined, not found anew
_CLASS_COST, _DISTANCE_COST = 1.0, 1.0  # of a class logit's sigmoid, of a metre
_CLASS_WEIGHT, _KIND_WEIGHT, _BOX_WEIGHT = 1.0, 0.3, 0.5
_SENSE_WEIGHT, _QUALITY_WEIGHT, _ATTRIBUTE_WEIGHT = 0.2, 0.5, 0.1
_QUALITY_M = 1.0  # distance from the truth at which a box is worth 1 / e of a perfect one


class ObjectLoss:
    """``loss(refined, batch)`` -> {"class", "object", "sense", "quality", "object_attribute"}, means over layers."""

    def __init__(self, grid: BEVGrid):
        self.grid = grid

    def __call__(self, refined: list[Refined], batch: Batch) -> dict[str, torch.Tensor]:
        if batch.boxes is None:
            raise PerceptionError("losses of objects: annotated frames were expected, found some without boxes")
        inside = [boxes[self.grid.contains(boxes.center[:, 0], boxes.center[:, 1])] for boxes in batch.boxes]
        layers = [self._layer(layer, inside) for layer in refined]
        return {name: torch.stack([terms[name] for terms in layers]).mean() for name in layers[0]}

    def _layer(self, refined: Refined, truth: list[Boxes3D]) -> dict[str, torch.Tensor]:
        objects = refined.objects
        pairs = [match(objects, b, boxes) for b, boxes in enumerate(truth)]
        sample = torch.cat([torch.full_like(q, b) for b, (q, _) in enumerate(pairs)])
        query = torch.cat([q for q, _ in pairs])
        matched = [boxes[i.numpy()] for boxes, (_, i) in zip(truth, pairs, strict=True)]
        aim = _Target(matched, objects.attribute_logits.shape[2], objects.center.device)
        count = max(len(query), 1)
        where = (sample, query)

        wanted = torch.zeros_like(objects.class_logits)
        wanted[sample, query, aim.label] = 1.0
        classes = _focal(objects.class_logits, wanted)[objects.valid].sum()
        # What it is, given that it is something: among ever so many empty places the focal loss says little of that.
        kinds = F.cross_entropy(objects.class_logits[where], aim.label, reduction="sum")

        before_yaw = refined.before.yaw[where]
        turn = aim.yaw - before_yaw
        axis = torch.stack([(2 * turn).sin(), (2 * turn).cos()], dim=-1)
        offset = rotated(objects.center[where] - aim.center, -before_yaw)
        speed = (objects.velocity[where] - aim.velocity) / 5.0
        known = speed.isfinite()
        error = (
            offset.abs().sum()
            + (objects.log_size[where] - aim.log_size).abs().sum()
            + (refined.axis[where] - axis).abs().sum()
            + 2 * rotated(speed.nan_to_num() * known, -before_yaw).abs().sum()
        )
        sense = F.binary_cross_entropy_with_logits(refined.sense[where], (turn.cos() > 0).float(), reduction="sum")
        apart = offset[:, :2].detach().norm(dim=-1)
        quality = torch.exp(-apart / _QUALITY_M)
        fits = F.binary_cross_entropy_with_logits(objects.quality_logit[where], quality, reduction="sum")
        attributes = -(aim.attribute * objects.attribute_logits[where].log_softmax(dim=-1)).sum()
        return {
            "class": (_CLASS_WEIGHT * classes + _KIND_WEIGHT * kinds) / count,
            "object": _BOX_WEIGHT * error / count,
            "sense": _SENSE_WEIGHT * sense / count,
            "quality": _QUALITY_WEIGHT * fits / count,
            "object_attribute": _ATTRIBUTE_WEIGHT * attributes / count,
        }


@torch.no_grad()
def match(objects: Objects, sample: int, truth: Boxes3D) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (object, true box) of a sample: int64 [M] each, on the CPU, of the least total cost, none beyond 4 m."""
    valid = objects.valid[sample].nonzero()[:, 0].cpu()
    center = torch.from_numpy(truth.center[:, :2]).float()
    apart = torch.cdist(objects.center[sample].detach().cpu()[valid, :2], center)
    likely = objects.class_logits[sample].detach().cpu()[valid].sigmoid()[:, torch.from_numpy(truth.label)]
    cost = _DISTANCE_COST * apart - _CLASS_COST * likely
    cost = torch.where((apart < _FAR_M) & cost.isfinite(), cost, 1e3)
    found, wanted = (torch.from_numpy(index) for index in linear_sum_assignment(cost.double().numpy()))
    near = apart[found, wanted] < _FAR_M
    return valid[found[near]], wanted[near]


class _Target:
    def __init__(self, boxes: list[Boxes3D], attributes: int, device: torch.device):
        def tensor(values: list[np.ndarray]) -> torch.Tensor:
            return torch.from_numpy(np.concatenate(values)).to(device)

        self.center = tensor([b.center for b in boxes]).float()
        self.log_size = tensor([np.log(b.size) for b in boxes]).float()
        self.yaw = tensor([b.yaw for b in boxes]).float()
        self.velocity = tensor([b.velocity for b in boxes]).float()
        self.label = tensor([b.label for b in boxes])
        self.attribute = F.one_hot(tensor([b.attribute for b in boxes]) + 1, attributes + 1)[:, 1:].float()


def _focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Focal loss (Lin et al., 2017), gamma 2, alpha 0.25, element by element."""
    p = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return torch.where(wanted > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2) * entropy
