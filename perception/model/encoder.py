"""The encoder interface: the data of one sensor in a batch in, its bird's-eye-view features out.

Custom encoders implement the same contract (docs/own-parts.md):

    encoder(inputs)  ->  [B, C, rows, columns] on the detector's grid, C = ``fusion.channels``; or an
                         :class:`Encoded`, if losses need more than that; or None, if there are no features.

``inputs`` is the batch entry under the sensor's name: a :class:`perception.batch.PointBatch` or a
:class:`perception.batch.ImageBatch`. The encoder is not called for a batch in which no sample has the sensor. Samples
without the sensor contribute no points, or images that are not valid; their features are masked.

Optional attributes of an encoder:

    image_size   (height, width) of its input images; an encoder without it takes points.
    depth_from, depth_range_m
                 the sensor whose points supervise depth, and the range that the depth bins cover; see :class:`Encoded`.
    pretrained   the submodule with pretrained weights, trained at ``train.backbone_learning_rate``.
    view_channels, fine_channels, return_scale
                 widths of the maps of ``Encoded.views`` or of ``Encoded.fine``, or for ``Encoded.returns`` a divisor of
                 each column by its name, which brings it close to one: what objects see of the sensor, beside its part
                 in the fused features.

What only objects want is left as the batch has it, and made of it when an object first looks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from perception.batch import InputSpec, PaddedPoints, PointBatch
from perception.model.layers import exact_product


@dataclass
class Views:
    """The images of a sensor, as objects look at them.

    features: maps [B, N, C, h, w], one a stride.  intrinsics: [B, N, 3, 3].  ego_SE3_camera: [B, N, 4, 4].
    size: height and width of the network's input.  valid: bool [B, N].
    """

    features: tuple[torch.Tensor, ...]
    intrinsics: torch.Tensor
    ego_SE3_camera: torch.Tensor
    size: tuple[int, int]
    valid: torch.Tensor

    @cached_property
    def image_T_ego(self) -> torch.Tensor:
        """[B, N, 3, 4]: maps (x, y, z, 1) in the ego frame to (u d, v d, d), with pixels (u, v) and depth d."""
        rotation = self.ego_SE3_camera[..., :3, :3].float().transpose(-1, -2)  # of the inverse
        shift = -exact_product(rotation, self.ego_SE3_camera[..., :3, 3:].float())
        return exact_product(self.intrinsics.float(), torch.cat([rotation, shift], dim=-1))


@dataclass
class Encoded:
    """What an encoder made of one sensor. All but ``bev`` may be absent; the object decoder reads what there is.

    bev: [B, C, rows, columns], for the fusion.
    depth: logits [B, N, D, h, w] over uniform depth bins, from an image encoder.
    fine: [B, F, k * rows, k * columns], a map of the same region in finer cells.  views: see the class.
    returns: the points, with radial velocities over ground (vx, vy); padded where a graph wants a fixed number of them.
    image_heat: logits [B, N, K, h, w] of centres of objects of each class in the images, only in training.
    """

    bev: torch.Tensor
    depth: torch.Tensor | None = None
    fine: torch.Tensor | None = None
    views: Views | None = None
    returns: PointBatch | PaddedPoints | None = None
    image_heat: torch.Tensor | None = None


def input_spec(encoders: Mapping[str, nn.Module]) -> InputSpec:
    """The inputs that the encoders require, in a form that loader workers can use without the encoders."""
    sizes: dict[str, tuple[int, int]] = {}
    depth_from: dict[str, str] = {}
    for name, encoder in encoders.items():
        size, source = getattr(encoder, "image_size", None), getattr(encoder, "depth_from", None)
        if size is not None:
            height, width = size
            sizes[name] = (height, width)
        if source is not None:
            depth_from[name] = source
    return InputSpec(tuple(encoders), sizes, depth_from)
