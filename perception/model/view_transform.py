"""Lift-splat: every image feature is spread along its ray by a learned depth distribution and summed into BEV cells.

Lift-Splat-Shoot (Philion & Fidler, 2020) with the depth supervision of BEVDepth (Li et al., 2022). The sum over all
frustum points of a cell, each weighted by its depth probability, is exactly what ``embedding_bag`` with per-sample
weights computes, so the [N, D, H, W, C] volume is never made.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from perception.grid import BEVGrid
from perception.model.layers import ConvBlock


class LiftSplat(nn.Module):
    """Image features -> BEV features and depth logits.

    Args:
        depth_min_m, depth_max_m, bins: bin edges are spaced linearly between the two depths.
        stride: pixels per feature cell.
    """

    def __init__(
        self,
        grid: BEVGrid,
        channels: int,
        depth_min_m: float,
        depth_max_m: float,
        bins: int,
        stride: int,
        bev_channels: int,
    ):
        super().__init__()
        self.grid, self.stride, self.bins = grid, stride, bins
        self.depth_min_m, self.bin_size_m = depth_min_m, (depth_max_m - depth_min_m) / bins
        self.depth = nn.Sequential(ConvBlock(channels + 1, channels), nn.Conv2d(channels, bins, 1))
        self.context = nn.Conv2d(channels, channels, 1)
        self.refine = nn.Sequential(ConvBlock(channels, bev_channels), ConvBlock(bev_channels, bev_channels))

    def forward(
        self,
        features: torch.Tensor,  # [B, N, C, h, w]
        intrinsics: torch.Tensor,  # [B, N, 3, 3]
        ego_SE3_camera: torch.Tensor,  # [B, N, 4, 4]
        camera_valid: torch.Tensor,  # bool [B, N]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns BEV features [B, bev_channels, rows, columns] and depth logits [B, N, D, h, w]."""
        batch, cameras, channels, height, width = features.shape
        flat = features.flatten(0, 1)
        # How large a thing looks depends on the focal length; without it depth cannot transfer between cameras.
        focal = (intrinsics[..., 0, 0].reshape(-1, 1, 1, 1) / 500.0).to(flat.dtype).expand(-1, 1, height, width)
        logits = self.depth(torch.cat([flat, focal], dim=1))
        with torch.no_grad():
            pixel, bag_size, point = self._bags(intrinsics, ego_SE3_camera, camera_valid, height, width)
        probability = logits.float().softmax(dim=1).permute(0, 2, 3, 1).reshape(-1)  # pixel-major: [B * N * h * w * D]
        context = self.context(flat).float().permute(0, 2, 3, 1).reshape(-1, channels)
        bev = F.embedding_bag(
            pixel, context, bag_size.cumsum(0) - bag_size, mode="sum", per_sample_weights=probability[point]
        )
        bev = bev.view(batch, *self.grid.shape, channels).permute(0, 3, 1, 2)
        return self.refine(bev), logits.view(batch, cameras, self.bins, height, width)

    def frustum(self, intrinsics: torch.Tensor, ego_SE3_camera: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Ego-frame positions [B, N, h, w, D, 3] of the bin centres along the ray of every feature cell."""
        device = intrinsics.device
        u = (torch.arange(width, device=device) + 0.5) * self.stride - 0.5
        v = (torch.arange(height, device=device) + 0.5) * self.stride - 0.5
        depth = self.depth_min_m + (torch.arange(self.bins, device=device) + 0.5) * self.bin_size_m
        pixels = torch.stack(
            [u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width, device=device)], -1
        )
        rays = torch.einsum("bnij,hwj->bnhwi", torch.linalg.inv(intrinsics.float()), pixels)
        rays = torch.einsum("bnij,bnhwj->bnhwi", ego_SE3_camera[..., :3, :3].float(), rays)
        return rays[..., None, :] * depth[:, None] + ego_SE3_camera[:, :, None, None, None, :3, 3].float()

    def _bags(self, intrinsics, ego_SE3_camera, camera_valid, height, width):
        """Which pixels and frustum points each BEV cell sums: pixel [P], bag sizes [B * cells], frustum point [P]."""
        points = self.frustum(intrinsics, ego_SE3_camera, height, width)
        x, y, z = points.unbind(-1)
        inside = self.grid.contains(x, y) & (z >= self.grid.z_min_m) & (z < self.grid.z_max_m)
        inside &= camera_valid[:, :, None, None, None]
        point = inside.flatten().nonzero().squeeze(1)
        column, row = self.grid.cell_index(x.flatten()[point], y.flatten()[point])
        sample = point // (points[0, ..., 0].numel())
        cell = (sample * self.grid.rows + row) * self.grid.columns + column
        cell, permutation = torch.sort(cell, stable=True)
        point = point[permutation]
        return point // self.bins, torch.bincount(cell, minlength=len(points) * self.grid.cells), point
