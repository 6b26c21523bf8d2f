"""Lift-splat: each image feature is spread along its ray by a learned depth distribution and summed into BEV cells.

Lift-Splat-Shoot (Philion & Fidler, 2020) with the depth supervision of BEVDepth (Li et al., 2022). The assignment of
frustum points to cells depends only on the calibration and is cached per calibration, see ``ops.bev_pool``.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d
from perception.ops.bev_pool import IndexCache, PoolIndex, bev_pool, pool_index


class LiftSplat(nn.Module):
    """Image features -> BEV features and depth logits.

    Args:
        depth_min_m, depth_max_m, bins: depth range and number of uniform bins.
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
        self.depth_min_m, self.depth_max_m = depth_min_m, depth_max_m
        self.bin_size_m = (depth_max_m - depth_min_m) / bins
        self.depth = nn.Sequential(ConvBlock(channels + 1, channels), PointwiseConv2d(channels, bins))
        self.context = PointwiseConv2d(channels, channels)
        self.refine = nn.Sequential(ConvBlock(channels, bev_channels), ConvBlock(bev_channels, bev_channels))
        self.indices = IndexCache()

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
        # Apparent size depends on focal length; without it as an input, depth does not transfer between cameras.
        focal = (intrinsics[..., 0, 0].reshape(-1, 1, 1, 1) / 500.0).to(flat.dtype).expand(-1, 1, height, width)
        logits = self.depth(torch.cat([flat, focal], dim=1))
        probability = logits.float().softmax(dim=1).permute(0, 2, 3, 1).reshape(-1, self.bins)
        context = self.context(flat).float().permute(0, 2, 3, 1).reshape(-1, channels)
        calibration = (intrinsics, ego_SE3_camera, camera_valid, torch.tensor([height, width]))
        index = self.indices.get(calibration, lambda: self._index(*calibration[:3], height, width))
        bev = bev_pool(context, probability, index)
        bev = bev.view(batch, *self.grid.shape, channels).permute(0, 3, 1, 2)
        return self.refine(bev), logits.view(batch, cameras, self.bins, height, width)

    def frustum(self, intrinsics: torch.Tensor, ego_SE3_camera: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Ego-frame positions [B, N, h, w, D, 3] of the depth-bin centres along the ray of each feature cell."""
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

    @torch.inference_mode(False)  # a cached index may be needed in training, too
    @torch.no_grad()
    def _index(self, intrinsics, ego_SE3_camera, camera_valid, height: int, width: int) -> PoolIndex:
        """Frustum points by cell; points outside the grid (including z) and points of absent cameras are dropped."""
        x, y, z = self.frustum(intrinsics, ego_SE3_camera, height, width).unbind(-1)  # [B, N, h, w, D]
        inside = self.grid.contains(x, y) & (z >= self.grid.z_min_m) & (z < self.grid.z_max_m)
        inside &= camera_valid[:, :, None, None, None]
        column, row = self.grid.cell_index(x, y)
        sample = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1, 1)
        cell = (sample * self.grid.rows + row) * self.grid.columns + column
        return pool_index(cell.masked_fill(~inside, -1).flatten(), self.bins, len(x) * self.grid.cells)
