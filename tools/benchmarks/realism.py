"""How well a small network tells simulated from recorded patches, sensor by sensor; half of the cases is by chance.

A classifier two-sample test (Lopez-Paz & Oquab, 2017): what it finds is what differs, whatever statistics say. Patches
come from key frames, without sweeps. Those that it is scored on lie in other parts of each drive, or are of other
drives, than those that it learns from.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.sample import Frame, PointCloud
from perception.seeding import keyed_rng
from perception.train.optim import one_cycle

SIDE = 32  # of a patch, in cells or pixels
CELL_M = {"lidar": 0.2, "radar": 0.8}
LEAST = {"lidar": 30, "radar": 3}  # points of a patch
IMAGE_SIZE = (128, 352)  # height and width at which detectors of two cores see images
_REACH_M, _PATCHES_A_FRAME = 40.0, 24
_BLOCKS = 4  # of the frames, in order: learned from and scored on in turn


def patches(frames: FrameSource, sensor: str, seed: int = 0) -> list[np.ndarray]:
    """Patches float32 [N, C, SIDE, SIDE] of each of the blocks that the frames are cut into."""
    bounds = np.linspace(0, len(frames), _BLOCKS + 1).astype(int)
    blocks = []
    for first, last in zip(bounds[:-1], bounds[1:]):
        found: list[np.ndarray] = []
        for index in range(first, last):
            frame = frames[index]
            if frame is None or sensor not in frame.sensors:
                continue
            rng = keyed_rng(seed, frame.token, sensor)
            found += _of_images(frame, rng) if sensor == "camera" else _of_points(frame.data[sensor], sensor, rng)
        if not found:
            raise PerceptionError(f"{sensor}: patches of frames {first} to {last} were expected, found none")
        blocks.append(np.stack(found))
    return blocks


def _of_points(cloud: PointCloud, sensor: str, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """log(1 + points), greatest and least height, and what the sensor measures beside it; zero in empty cells."""
    points, cell = cloud.points[cloud.points[:, -1] < 0.06], CELL_M[sensor]  # one sweep
    half = 0.5 * SIDE * cell
    for center in rng.uniform(-_REACH_M, _REACH_M, (_PATCHES_A_FRAME, 2)):
        near = (np.abs(points[:, :2] - center) < half).all(axis=1)
        if near.sum() < LEAST[sensor]:
            continue
        z = points[near, 2]
        place = np.floor((points[near, :2] - center + half) / cell).astype(int).clip(0, SIDE - 1)
        index = place[:, 1] * SIDE + place[:, 0]
        count = np.bincount(index, minlength=SIDE**2).astype(np.float32)
        layers = [np.log1p(count)]
        if sensor == "lidar":
            for extreme, start in ((np.maximum, -10.0), (np.minimum, 10.0)):
                height = np.full(SIDE**2, start, np.float32)
                extreme.at(height, index, z)
                layers.append(np.where(count > 0, height / 3, 0))
            measured = [points[near, 3] / 50]
        else:
            measured = [points[near, 3] / 10, np.hypot(*points[near, 4:6].T) / 5]
        for values in measured:
            layers.append(np.bincount(index, values, minlength=SIDE**2) / np.maximum(count, 1))
        yield np.stack(layers).reshape(-1, SIDE, SIDE).astype(np.float32)


def _of_images(frame: Frame, rng: np.random.Generator) -> Iterator[np.ndarray]:
    height, width = IMAGE_SIZE
    for name in sorted(frame.cameras or {}):
        image = frame.cameras[name].image
        scaled = cv2.resize(
            image, (width, round(width * image.shape[0] / image.shape[1])), interpolation=cv2.INTER_AREA
        )
        below = scaled[-height:]
        for _ in range(_PATCHES_A_FRAME // 6):
            top, left = rng.integers(below.shape[0] - SIDE + 1), rng.integers(width - SIDE + 1)
            yield below[top : top + SIDE, left : left + SIDE].transpose(2, 0, 1).astype(np.float32) / 255


class PatchNet(nn.Sequential):
    """[B, C, SIDE, SIDE] -> logits [B] of being simulated."""

    def __init__(self, channels: int):
        widths = (channels, 16, 32, 64)
        layers: list[nn.Module] = []
        for narrow, wide in zip(widths[:-1], widths[1:]):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.GroupNorm(4, wide), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1), nn.Flatten(0))


def told_apart(recorded: FrameSource, simulated: FrameSource, sensor: str, steps: int = 600, seed: int = 0) -> dict:
    """How well a network that learned from every other block tells the patches of the others apart.

    Returns:
        accuracy, the mean over recorded and simulated patches; area under the ROC curve; numbers of patches scored.
    """
    sides = [patches(frames, sensor, seed) for frames in (recorded, simulated)]
    learned, scored = ([np.concatenate(blocks[start::2]) for blocks in sides] for start in (0, 1))
    mean = np.mean([part.mean(axis=(0, 2, 3)) for part in learned], axis=0)[:, None, None]
    spread = np.mean([part.std(axis=(0, 2, 3)) for part in learned], axis=0)[:, None, None] + 1e-6

    def tensor(part: np.ndarray) -> torch.Tensor:
        return torch.from_numpy((part - mean) / spread).float()

    torch.manual_seed(seed)
    net = PatchNet(len(mean))
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    inputs, rng = [tensor(part) for part in learned], keyed_rng(seed, sensor, "steps")
    wanted = torch.cat([torch.zeros(32), torch.ones(32)])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * one_cycle(step / steps)
        batch = torch.cat([part[rng.integers(len(part), size=32)] for part in inputs])
        if rng.random() < 0.5:
            batch = batch.flip(-1)
        loss = F.binary_cross_entropy_with_logits(net(batch), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.inference_mode():
        real, simulated_ = (net(tensor(part)).numpy() for part in scored)
    accuracy = 0.5 * (np.mean(real < 0) + np.mean(simulated_ > 0))
    return {
        "accuracy": float(accuracy), "auc": area_under_roc(real, simulated_),
        "recorded_patches": len(real), "simulated_patches": len(simulated_),
    }  # fmt: skip


def area_under_roc(negative: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs in which the positive scores higher; a tie counts half."""
    below = np.searchsorted(np.sort(negative), positive, side="left")
    up_to = np.searchsorted(np.sort(negative), positive, side="right")
    return float((below + up_to).mean() / (2 * len(negative)))
