"""The loss of the heat maps in the images: where the centres of the boxes project to, class by class.

An auxiliary loss that lets the image backbone learn what objects look like before their depth is known. Objects behind
others are not left out: which of them a camera sees is not annotated.
"""

from __future__ import annotations

import numpy as np
import torch

from perception.batch import ImageBatch
from perception.geometry import SE3, project
from perception.sample import Boxes3D
from perception.train.targets import draw_gaussian, gaussian_radius

_MIN_DEPTH_M = 0.5  # nearer centres are those of objects that surround the camera


def image_heat_target(boxes: list[Boxes3D], images: ImageBatch, classes: int, height: int, width: int) -> torch.Tensor:
    """float32 [B, N, K, height, width] in 0..1 on the device of the images, 1 at the cells with projected centres.

    The Gaussians have the radius of CenterNet (Zhou et al., 2019) for boxes as wide as the mean of length and width.
    """
    batch, cameras = images.valid.shape
    stride = images.images.shape[-1] / width
    target = np.zeros((batch, cameras, classes, height, width), np.float32)
    intrinsics, poses, valid = (
        tensor.cpu().numpy() for tensor in (images.intrinsics.double(), images.ego_SE3_camera.double(), images.valid)
    )
    for b, n in zip(*valid.nonzero()):
        ego_SE3_camera = SE3.from_matrix(poses[b, n])
        pixels, depth = project(ego_SE3_camera.inverse().transform(boxes[b].center), intrinsics[b, n])
        column, row = np.floor((pixels.T + 0.5) / stride)  # pixel centres lie at integers
        seen = (depth > _MIN_DEPTH_M) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cells_per_m = abs(intrinsics[b, n, 0, 0]) / stride / depth[seen]  # negative in mirrored images
        size = boxes[b].size[seen]
        radii = gaussian_radius(size[:, :2].mean(axis=1) * cells_per_m, size[:, 2] * cells_per_m)
        for label, u, v, radius in zip(boxes[b].label[seen], column[seen], row[seen], radii):
            draw_gaussian(target[b, n, label], int(u), int(v), max(1, int(radius)))
    return torch.from_numpy(target).to(images.images.device)
