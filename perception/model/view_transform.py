"""Lift-splat: each image feature is spread along its ray by a learned depth distribution and summed into BEV cells.

Lift-Splat-Shoot (Philion & Fidler, 2020) with the depth supervision of BEVDepth (Li et al., 2022). The assignment of
frustum points to cells depends only on the calibration and is cached per calibration, see ``ops.bev_pool``.
"""

from __future__ import annotations

import torch
from torch import nn

from perception.grid import BEVGrid
from perception.model.layers import ConvBlock, PointwiseConv2d, ResidualBlock, exact_product
from perception.ops.bev_pool import IndexCache, PoolIndex, bev_pool, pool_index

_FOCAL_PX, _HEIGHT_M = 500.0, 2.0  # divisors that bring the inputs of depth networks close to one


class FocalDepth(nn.Sequential):
    """Depth logits [M, bins, h, w] from features [M, C, h, w] and the focal length.

    Apparent size depends on focal length; without it as an input, depth does not transfer between cameras.
    """

    def __init__(self, channels: int, bins: int):
        super().__init__(ConvBlock(channels + 1, channels), PointwiseConv2d(channels, bins))

    def forward(self, features: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        focal = calibration[:, :1, None, None].to(features.dtype).expand(-1, 1, *features.shape[-2:])
        return super().forward(torch.cat([features, focal], dim=1))


class CalibratedDepth(nn.Module):
    """Depth logits [M, bins, h, w] from features [M, C, h, w] and the whole calibration.

    What the camera is weighs the channels, by the squeeze-and-excitation of BEVDepth (Li et al., 2022).
    """

    def __init__(self, channels: int, bins: int):
        super().__init__()
        self.enter = ConvBlock(channels, channels)
        self.gate = nn.Sequential(nn.Linear(8, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid())
        self.depth = nn.Sequential(ResidualBlock(channels), PointwiseConv2d(channels, bins))

    def forward(self, features: torch.Tensor, calibration: torch.Tensor) -> torch.Tensor:
        return self.depth(self.enter(features) * self.gate(calibration)[..., None, None])


def describe_cameras(
    intrinsics: torch.Tensor,  # [M, 3, 3]
    ego_SE3_camera: torch.Tensor,  # [M, 4, 4]
    image_size: tuple[int, int],  # height, width
) -> torch.Tensor:
    """[M, 8], of order one: focal lengths, principal point, the upward direction in the image, height over ground.

    The upward direction is in camera axes, left and right exchanged where the image is mirrored (fx < 0). Not where the
    camera is on the vehicle or where it looks: that says nothing about what it sees, and augmentation turns the world.
    """
    height, width = image_size
    fx, fy = intrinsics[:, 0, 0], intrinsics[:, 1, 1]
    focal = torch.stack([fx.abs(), fy], dim=1) / _FOCAL_PX
    principal = torch.stack([intrinsics[:, 0, 2] / width, intrinsics[:, 1, 2] / height], dim=1) - 0.5
    right, rest, height_m = ego_SE3_camera[:, 2].split([1, 2, 1], dim=1)
    return torch.cat([focal, principal, right * fx.sign()[:, None], rest, height_m / _HEIGHT_M], dim=1)


class LiftSplat(nn.Module):
    """Image features -> BEV features and depth logits.

    Args:
        depth_min_m, depth_max_m, bins: depth range and number of uniform bins.
        stride: pixels per feature cell.
        calibrated: whether depth is that of :class:`CalibratedDepth` rather than of :class:`FocalDepth`.
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
        calibrated: bool = False,
    ):
        super().__init__()
        self.grid, self.stride, self.bins = grid, stride, bins
        self.depth_min_m, self.depth_max_m = depth_min_m, depth_max_m
        self.bin_size_m = (depth_max_m - depth_min_m) / bins
        self.depth: nn.Module = CalibratedDepth(channels, bins) if calibrated else FocalDepth(channels, bins)
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
        context, probability, logits = self.lift(features, intrinsics, ego_SE3_camera)
        cameras_at = (intrinsics, ego_SE3_camera, camera_valid)
        if features.is_cuda:  # which would have to be waited for to know whether the cameras are where they were
            index = self._index(*cameras_at, height, width)
        else:
            index = self.indices.get(cameras_at, (height, width), lambda: self._index(*cameras_at, height, width))
        bev = bev_pool(context, probability, index)
        bev = bev.view(batch, *self.grid.shape, channels).permute(0, 3, 1, 2)
        return self.refine(bev), logits.view(batch, cameras, self.bins, height, width)

    def lift(
        self, features: torch.Tensor, intrinsics: torch.Tensor, ego_SE3_camera: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What is pooled, context [B * N * h * w, C] and depth probabilities [B * N * h * w, D]; logits by image."""
        channels, height, width = features.shape[2:]
        flat = features.flatten(0, 1)
        image_size = (height * self.stride, width * self.stride)
        logits = self.depth(flat, describe_cameras(intrinsics.flatten(0, 1), ego_SE3_camera.flatten(0, 1), image_size))
        probability = logits.float().softmax(dim=1).permute(0, 2, 3, 1).reshape(-1, self.bins)
        context = self.context(flat).float().permute(0, 2, 3, 1).reshape(-1, channels)
        return context, probability, logits

    def frustum(self, intrinsics: torch.Tensor, ego_SE3_camera: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Ego-frame positions [B, N, h, w, D, 3] of the depth-bin centres along the ray of each feature cell."""
        device = intrinsics.device
        u = (torch.arange(width, device=device) + 0.5) * self.stride - 0.5
        v = (torch.arange(height, device=device) + 0.5) * self.stride - 0.5
        depth = self.depth_min_m + (torch.arange(self.bins, device=device) + 0.5) * self.bin_size_m
        pixels = torch.stack(
            [u.expand(height, width), v[:, None].expand(height, width), torch.ones(height, width, device=device)], -1
        )
        rays = exact_product(torch.linalg.inv(intrinsics.float())[:, :, None, None], pixels[..., None])
        rays = exact_product(ego_SE3_camera[:, :, None, None, :3, :3].float(), rays)[..., 0]
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
