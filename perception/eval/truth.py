"""Ground truth for scoring, from any frame source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_annotations import Annotations
from perception.errors import PerceptionError
from perception.eval.metric import MetricBoxes, Racks, counted
from perception.geometry import SE3
from perception.sample import Boxes3D
from perception.task import Task


class EvaluationError(PerceptionError):
    """Something cannot be scored, such as frames without ground truth."""


@dataclass(frozen=True, eq=False)
class Annotated:
    """Annotations of one frame: token, index in the source, ego pose and boxes."""

    token: str
    sample: int
    world_SE3_ego: SE3
    boxes: Boxes3D | None


@dataclass(frozen=True, eq=False)
class Truth:
    """Ground truth of the frames of a source, in the world frame.

    boxes: the annotations that are scored: within class range, which is measured from the ego pose at the reference
        time; with points (as the devkit has it: the sum of the numbers of LiDAR and radar points, -1 where unknown, is
        not 0); and not in a bicycle rack.
    visibility, lidar, radar: int64 [G], visibility level and point counts of each box.  ego_positions: [S, 3].
    racks: bicycle racks.
    """

    task: Task
    boxes: MetricBoxes
    visibility: np.ndarray
    lidar: np.ndarray
    radar: np.ndarray
    ego_positions: np.ndarray
    racks: Racks

    @classmethod
    def of_tables(cls, dataset: NuScenes, task: Task) -> Truth:
        """Ground truth from the tables of a nuScenes version, for all frames of the dataset.

        Raises:
            EvaluationError: there are no annotations, or none that is scored.
        """
        where, annotations = f"{Path(dataset.root) / dataset.version}: ", dataset.annotations
        if annotations is None or not len(annotations.label):
            classes = ", ".join(task.classes)
            raise EvaluationError(
                f"{where}no annotated box in {len(dataset)} frames, nothing to score against; classes are {classes}"
            )
        racks = Racks(
            annotations.rack_offsets, annotations.rack_center, annotations.rack_size, annotations.rack_rotation
        )
        counts = (annotations.visibility, annotations.num_lidar_points, annotations.num_radar_points)
        return cls._counted(task, _of_annotations(annotations), *counts, dataset.ego_positions, racks, where)

    @classmethod
    def of_frames(cls, task: Task, frames: Sequence[Annotated]) -> Truth:
        """Ground truth from the frames of any source, without bicycle racks.

        Raises:
            EvaluationError: there are no annotations, or none that is scored.
            TaskError: a label or attribute index that the task does not have.
        """
        boxes = [frame.boxes for frame in frames if frame.boxes is not None]
        if not sum(map(len, boxes)):
            raise EvaluationError(f"no annotated box in {len(frames)} frames, nothing to score against")
        for frame in frames:
            if frame.boxes is not None:
                task.check(frame.boxes.label, frame.boxes.attribute, f"frame {frame.token}")
        samples = 1 + max(frame.sample for frame in frames)
        positions = np.full((samples, 3), np.nan)
        for frame in frames:
            positions[frame.sample] = frame.world_SE3_ego.translation
        racks = Racks(np.zeros(samples + 1, np.int64), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)))
        world = MetricBoxes.joined(
            [_in_world(frame.sample, frame.world_SE3_ego, frame.boxes) for frame in frames if frame.boxes is not None]
        )
        names = ("visibility", "num_lidar_points", "num_radar_points")
        visibility, lidar, radar = (np.concatenate([getattr(own, name) for own in boxes]) for name in names)
        return cls._counted(task, world, visibility, lidar, radar, positions, racks)

    @classmethod
    def _counted(
        cls,
        task: Task,
        boxes: MetricBoxes,
        visibility: np.ndarray,
        lidar: np.ndarray,
        radar: np.ndarray,
        ego_positions: np.ndarray,
        racks: Racks,
        where: str = "",
    ) -> Truth:
        measured, in_place = lidar + radar != 0, counted(boxes, ego_positions, racks, task)
        kept = in_place & measured
        if not kept.any():
            points, elsewhere = int((~measured).sum()), int((measured & ~in_place).sum())
            raise EvaluationError(
                f"{where}none of {len(boxes)} annotated boxes is scored: {points} without a LiDAR or radar point "
                f"(num_lidar_pts, num_radar_pts), {elsewhere} beyond the range of their class or in a bicycle rack"
            )
        return cls(task, boxes[kept], visibility[kept], lidar[kept], radar[kept], ego_positions, racks)

    def of_samples(self, samples: np.ndarray) -> Truth:
        """The ground truth of some samples only, which may have none."""
        kept = np.isin(self.boxes.sample, samples)
        columns = (self.visibility[kept], self.lidar[kept], self.radar[kept])
        return Truth(self.task, self.boxes[kept], *columns, self.ego_positions, self.racks)


def _of_annotations(annotations: Annotations) -> MetricBoxes:
    return MetricBoxes(
        sample=np.repeat(np.arange(len(annotations.box_offsets) - 1), np.diff(annotations.box_offsets)),
        center=annotations.center,
        size=annotations.size,
        yaw=np.arctan2(annotations.forward[:, 1], annotations.forward[:, 0]),
        velocity=annotations.velocity[:, :2],
        label=annotations.label,
        attribute=annotations.attribute,
        score=np.full(len(annotations.label), -1.0),
    )


def _in_world(sample: int, pose: SE3, boxes: Boxes3D) -> MetricBoxes:
    forward = pose.rotate(np.column_stack([np.cos(boxes.yaw), np.sin(boxes.yaw), np.zeros(len(boxes))]))
    return MetricBoxes(
        sample=np.full(len(boxes), sample),
        center=pose.transform(boxes.center),
        size=boxes.size,
        yaw=np.arctan2(forward[:, 1], forward[:, 0]),
        velocity=pose.rotate(np.pad(boxes.velocity, ((0, 0), (0, 1))))[:, :2],
        label=boxes.label,
        attribute=boxes.attribute,
        score=np.full(len(boxes), -1.0),
    )
