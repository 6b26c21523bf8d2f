"""What there is to learn from: the boxes that training uses, counted by reason before it starts."""

from __future__ import annotations

import logging

import numpy as np
from scipy.spatial.transform import Rotation

from perception.batch import Batch
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError
from perception.geometry import to_xyzw
from perception.grid import BEVGrid

log = logging.getLogger(__name__)


class LabelError(PerceptionError):
    """Frames without a single box to learn from."""


def check_labels(frames: NuScenes, grid: BEVGrid) -> None:
    """Log how many boxes there are to learn from, and how many are left out for which reason.

    Raises:
        LabelError: there is none.
    """
    boxes, classes = frames.annotations, frames.task.classes
    if boxes is None:
        raise LabelError(f"{frames.root / frames.version}: annotations were expected to train on, found none")
    pose = frames.poses[np.repeat(np.arange(len(frames)), np.diff(boxes.box_offsets))]
    known = np.isfinite(pose).all(
        axis=1
    )  # not those of a sample without sensors, which training leaves out or stops at
    pose = pose[known]
    ego_R_world = Rotation.from_quat(to_xyzw(pose[:, 3:])).inv()
    x, y, _ = ego_R_world.apply(boxes.center[known] - pose[:, :3]).T
    measured = boxes.num_lidar_points[known] + boxes.num_radar_points[known] != 0
    inside = grid.contains(x, y)
    per_class = np.bincount(boxes.label[known][measured & inside], minlength=len(classes))
    left_out = (
        f"{int((measured & ~inside).sum())} outside the grid, {int((~measured).sum())} without a LiDAR or radar point "
        "(num_lidar_pts, num_radar_pts)"
    )
    where = frames.root / frames.version
    total = int(per_class.sum())
    if not total:
        raise LabelError(
            f"{where}: boxes to learn from were expected in {len(frames)} frames, found none of the classes "
            f"{', '.join(classes)}; left out: {left_out}"
        )
    log.info("%s: %d boxes to learn from; left out: %s", where, total, left_out)
    missing = [name for name, count in zip(classes, per_class) if not count]
    if missing:
        log.warning("%s: not one box to learn from of: %s", where, ", ".join(missing))


def count_labels(batch: Batch, grid: BEVGrid) -> int:
    """The boxes of a batch that are learned from."""
    return sum(int(grid.contains(boxes.center[:, 0], boxes.center[:, 1]).sum()) for boxes in batch.boxes or ())
