"""Objects as tensors: what the object decoder refines, remembers and turns into detections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from perception.batch import Tensors

LOG_SIZES = (-4.0, 4.0)  # of what can be a box: 2 cm to 55 m; a network may ask for any size


@dataclass
class Objects(Tensors):
    """Q objects of each sample, in the ego frame.

    center: [B, Q, 3] metres.  log_size: [B, Q, 3] of length, width, height in metres, within LOG_SIZES.
    yaw: [B, Q] radians.  velocity: [B, Q, 2] over ground, m/s.
    sense_logit: [B, Q] of the yaw against the yaw turned round, never negative.
    label: int64 [B, Q], the class as which it was proposed.
    prior: [B, Q], how sure that was before the decoder looked: the peak's probability, or a remembered object's score.
    class_logits: [B, Q, K].  attribute_logits: [B, Q, A].  quality_logit: [B, Q] of how well the box fits.
    features: [B, Q, D].  valid: bool [B, Q].
    """

    center: torch.Tensor
    log_size: torch.Tensor
    yaw: torch.Tensor
    velocity: torch.Tensor
    sense_logit: torch.Tensor
    label: torch.Tensor
    prior: torch.Tensor
    class_logits: torch.Tensor
    attribute_logits: torch.Tensor
    quality_logit: torch.Tensor
    features: torch.Tensor
    valid: torch.Tensor

    @property
    def size(self) -> torch.Tensor:
        """[B, Q, 3] metres."""
        return self.log_size.exp()

    @property
    def scores(self) -> torch.Tensor:
        """[B, Q] of the class as which each was proposed: what the dense head and what the decoder says of it, as in
        TransFusion, lowered where the box fits badly. A place that may be of two classes is proposed as both."""
        probability = self.class_logits.sigmoid().gather(2, self.label[..., None])[..., 0]
        return (self.prior * probability * self.quality_logit.sigmoid().sqrt()).sqrt() * self.valid

    def joined(self, other: Objects) -> Objects:
        pairs = ((getattr(self, name), getattr(other, name)) for name in vars(self))
        return Objects(*(torch.cat([ours, theirs], dim=1) for ours, theirs in pairs))

    def select(self, index: torch.Tensor) -> Objects:
        """Those at index [B, N] of each sample."""
        return Objects(*(gathered(value, index) for value in vars(self).values()))

    def detach(self) -> Objects:
        return self._each(lambda tensor: tensor.detach())

    def to_box(self, offset: torch.Tensor) -> torch.Tensor:
        """Ego-frame differences [B, Q, ..., 2 or 3] in the axes of each box: forward, left, up."""
        return rotated(offset, -self._yaw_for(offset))

    def to_ego(self, offset: torch.Tensor) -> torch.Tensor:
        """The inverse of :meth:`to_box`."""
        return rotated(offset, self._yaw_for(offset))

    def _yaw_for(self, offset: torch.Tensor) -> torch.Tensor:
        return self.yaw.reshape(*self.yaw.shape, *(1,) * (offset.dim() - 3))


def rotated(xyz: torch.Tensor, yaw: torch.Tensor) -> torch.Tensor:
    """Vectors [..., 2 or 3] turned about z by yaw [...]."""
    cos, sin = yaw.cos(), yaw.sin()
    x, y = cos * xyz[..., 0] - sin * xyz[..., 1], sin * xyz[..., 0] + cos * xyz[..., 1]
    return torch.cat([torch.stack([x, y], dim=-1), xyz[..., 2:]], dim=-1)


def gathered(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``values[b, index[b]]``: values [B, P, ...] at index [B, ...], which may have several axes."""
    flat = index.flatten(1)
    rest = values.shape[2:]
    picked = values.gather(1, flat.reshape(*flat.shape, *(1,) * len(rest)).expand(-1, -1, *rest))
    return picked.view(*index.shape, *rest)


def sampled(features: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Bilinear samples [B, ..., C] of maps [B, C, h, w] at grid_sample coordinates [B, ..., 2]; zero outside."""
    found = F.grid_sample(features.float(), where.flatten(1, -2)[:, None], align_corners=False)  # [B, C, 1, P]
    return found[:, :, 0].transpose(1, 2).unflatten(1, where.shape[1:-1])
