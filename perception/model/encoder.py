"""What every encoder of a detector is: one sensor of a batch in, its bird's-eye-view features out.

The contract, which an encoder of one's own fulfils as well (docs/own-parts.md):

    encoder(inputs)  ->  [B, C, rows, columns] of the detector's grid, C = ``fusion.channels``; or an
                         :class:`Encoded`, where losses want more than that; or None, where it has nothing to say.

``inputs`` is what the batch holds under the sensor's name: a :class:`perception.batch.PointBatch` or a
:class:`perception.batch.ImageBatch`. It is not called for a batch in which no sample has the sensor. Samples without
the sensor are in the batch with no points or with images that are not valid; what it makes of those is masked.

Attributes that an encoder may have:

    image_size   (height, width) of the images that it takes; without it, it takes points.
    depth_from, depth_range_m
                 the sensor whose points teach it depth, and from where to where its bins go; see :class:`Encoded`.
    pretrained   a part with pretrained weights, which is trained at ``train.backbone_learning_rate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from perception.batch import InputSpec


@dataclass
class Encoded:
    """bev: [B, C, rows, columns].  depth: logits [B, N, D, h, w] of an encoder of images, of bins equally wide."""

    bev: torch.Tensor
    depth: torch.Tensor | None = None


def input_spec(encoders: Mapping[str, nn.Module]) -> InputSpec:
    """What the encoders want to be given, said so that loader workers need no encoder."""
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
