"""Ground truth for the frames of a replay.

:class:`GroundTruth` has the annotations of the nuScenes tables that a log was recorded or made with, and
:class:`FrameTruth` those that the frames of any other source bring along.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.data.nuscenes import NuScenes
from perception.eval.evaluate import Submission, score_boxes
from perception.eval.submission import WorldDetections
from perception.eval.truth import EvaluationError, Truth
from perception.sample import Frame
from perception.task import NUSCENES, Task

_METRICS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "mAP_present", "AP", "breakdown")


class GroundTruth:
    """Boxes for the frames that have them, and the metric over exactly those frames that were replayed.

    Args:
        path: a root in the nuScenes layout with one version, or the folder of a version's tables in it.
        scene: to take only this one; None: all.

    Raises:
        PerceptionError: no such tables or scene.
    """

    def __init__(self, path: str | Path, scene: str | None = None, task: Task = NUSCENES):
        path = Path(path)
        root, version = (path.parent, path.name) if (path / "scene.json").exists() else (path, None)
        self._dataset = NuScenes(root, version, scenes=None if scene is None else [scene], sensors=(), task=task)
        self._frame_of_token = {token: i for i, token in enumerate(self._dataset.tokens)}
        self._frame_at = {t: i for i, t in enumerate(self._dataset.timestamps_ns.tolist())}
        self._submission = Submission(task, self._frame_of_token, None)
        self._noted: set[str] = set()

    def attach(self, frame: Frame) -> Frame:
        """The frame with the token and boxes of the sample that it is, known by token or time; else as it is.

        A sample that comes again, in the second pass of a loop, keeps the token that says so.
        """
        index = self._frame_of_token.get(frame.token)
        if index is None and frame.token == str(frame.timestamp_ns):  # of a log without sample marks
            index = self._frame_at.get(frame.timestamp_ns)
        if index is None:
            return frame
        token = self._dataset.tokens[index]
        token = frame.token if token in self._noted else token
        return replace(frame, token=token, boxes=self._dataset.boxes(index))

    def add(self, frame: Frame, world: WorldDetections) -> None:
        """Note what was detected in a frame that :meth:`attach` gave, the first time; others are passed over."""
        if frame.token in self._frame_of_token and frame.token not in self._noted:
            self._noted.add(frame.token)
            self._submission.add_world(frame, world)

    def metrics(self) -> dict:
        """The nuScenes metric of the frames noted, as :func:`perception.eval.evaluate.evaluate` gives it, and how many.

        Raises:
            EvaluationError: none of them has ground truth.
        """
        truth = Truth.of_tables(self._dataset, self._submission.task)
        samples = np.array([frame.sample for frame in self._submission.frames])
        if not len(samples):
            where = self._dataset.root / self._dataset.version
            raise EvaluationError(f"{where}: none of the frames replayed is one of its {len(self._dataset)} samples")
        return _metrics(truth.of_samples(samples), self._submission)


class FrameTruth:
    """The metric over the frames of a replay that have boxes. Of frames of one token the first counts."""

    def __init__(self, task: Task):
        self._place: dict[str, int] = {}
        self._submission = Submission(task, self._place, None)

    def attach(self, frame: Frame) -> Frame:
        return frame

    def add(self, frame: Frame, world: WorldDetections) -> None:
        if frame.boxes is not None and frame.token not in self._place:
            self._submission.task.check(frame.boxes.label, frame.boxes.attribute, f"frame {frame.token}")
            self._place[frame.token] = len(self._place)
            self._submission.add_world(frame, world)

    def metrics(self) -> dict:
        """As of :class:`GroundTruth`."""
        return _metrics(Truth.of_frames(self._submission.task, self._submission.frames), self._submission)


def _metrics(truth: Truth, submission: Submission) -> dict:
    metrics = score_boxes(truth, submission.boxes)
    return {"frames": len(submission.frames), **{name: metrics[name] for name in _METRICS}}
