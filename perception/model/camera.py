"""Camera encoder: an image backbone, a feature pyramid down to stride 8, and a view transform."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from perception.batch import ImageBatch
from perception.model.encoder import Encoded, Views
from perception.model.layers import ConvBlock, PointwiseConv2d, recomputed
from perception.model.view_transform import LiftSplat


class ImageEncoder(nn.Module):
    """Images [B * N, 3, H, W] in 0..255 -> features [B * N, channels, H / 8, W / 8], and at stride 16.

    Args:
        backbone: images -> list of feature maps, starting at stride 8 and halving in size at each level; its attribute
            ``out_channels`` lists their widths.
        pretrained: whether to keep the backbone's batch-norm statistics fixed.
        checkpointing: in training, recompute the backbone's features for the backward pass rather than keep them.
    """

    stride = 8

    def __init__(self, backbone: nn.Module, channels: int, pretrained: bool, checkpointing: bool = False):
        super().__init__()
        self.backbone, self.pretrained = backbone, pretrained
        for block in getattr(backbone, "blocks", [backbone]) if checkpointing else ():
            recomputed(block)
        self.channels = (channels, channels)
        widths: Any = backbone.out_channels
        self.lateral = nn.ModuleList(PointwiseConv2d(width, channels) for width in widths)
        self.smooth = ConvBlock(channels, channels)

    def train(self, mode: bool = True) -> ImageEncoder:
        """Keep pretrained batch-norm statistics fixed: batches here hold too few scenes to estimate them."""
        super().train(mode)
        for module in self.backbone.modules():
            if self.pretrained and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        *finer, x = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(images), strict=True)]
        coarse = x
        for level in reversed(finer):
            coarse, x = x, level + F.interpolate(x, size=level.shape[-2:], mode="nearest")
        return self.smooth(x), coarse


class CameraEncoder(nn.Module):
    """Camera images -> BEV features and depth logits: an image encoder followed by a view transform.

    Args:
        image_size: height and width of the images.
        depth_from: sensor whose points supervise depth; None for no depth supervision.
        objects: features -> logits of a heat map per class of the objects in the images, called only in training. A
            loss so close to the backbone teaches it faster than those behind the view transform (BEVFormer v2, Yang et
            al., 2023).
    """

    def __init__(
        self,
        image: ImageEncoder,
        view_transform: LiftSplat,
        image_size: tuple[int, int],
        depth_from: str | None,
        objects: nn.Module | None = None,
    ):
        super().__init__()
        self.image, self.view_transform = image, view_transform
        self.image_size, self.depth_from = image_size, depth_from
        self.objects = objects
        self.view_channels = image.channels

    @property
    def pretrained(self) -> nn.Module:
        return self.image.backbone

    @property
    def depth_range_m(self) -> tuple[float, float]:
        return self.view_transform.depth_min_m, self.view_transform.depth_max_m

    def forward(self, inputs: ImageBatch) -> Encoded:
        images = inputs.images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        levels = self.image(images)
        fine, coarse = (level.unflatten(0, inputs.images.shape[:2]) for level in levels)
        bev, depth = self.view_transform(fine, inputs.intrinsics, inputs.ego_SE3_camera, inputs.valid)
        heat = None
        if self.objects is not None and self.training:
            heat = self.objects(levels[0]).unflatten(0, inputs.images.shape[:2])
        views = Views((fine, coarse), inputs.intrinsics, inputs.ego_SE3_camera, self.image_size, inputs.valid)
        return Encoded(bev, depth, views=views, image_heat=heat)
