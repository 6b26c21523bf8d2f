"""Logs as a data set in the nuScenes layout: a scene each, with boxes from a replay, a submission, or without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from perception.data.nuscenes_writer import NuScenesWriter
from perception.errors import PerceptionError
from perception.logs.default_rig import rig_of
from perception.logs.frame_times import FrameTimes
from perception.logs.frames import LogFrames
from perception.logs.measurements import Assembly
from perception.replay.job import Job, opened
from perception.replay.labels import Labels
from perception.sample import Detections, Frame

VERSION = "v1.0-own"


class DatasetError(PerceptionError):
    """Boxes that are not of these logs."""


def write_dataset(
    jobs: Sequence[Job],
    out: str | Path,
    labels: Sequence[Labels],
    names: Sequence[str],
    min_score: float = 0.3,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[Counter[str], list[str]]:
    """Write all sensors of the jobs' logs as scenes of a new version in ``out``.

    The frames that have labels, ``frame_rate_hz`` a second at most, become samples, and the others sweeps. Objects that
    were tracked are instances, so that velocities follow from where they are in the samples before and after.

    Args:
        jobs: which logs, and with which rigs.
        labels: of every log; the same may be of several.
        names: of every scene; "" for the log's own.
        min_score: boxes of lower scores are left out.
        progress: is told 1 for every frame.

    Returns:
        Class -> boxes; and what was left out of the logs, a line each.

    Raises:
        DatasetError: labels of frames that no log has, or of different classes.
        PerceptionError: whatever is wrong with a log.
    """
    task, counts, problems = labels[0].task, Counter[str](), list[str]()
    for other in labels:
        if not other.task.labels_alike(task):
            found = ", ".join(other.task.classes)
            raise DatasetError(f"{out}: boxes of {', '.join(task.classes)} were expected, found some of {found}")
    with NuScenesWriter(out, VERSION, task) as writer:
        for job, own, name in zip(jobs, labels, names):
            with opened(job) as log:
                frames = LogFrames(log, rig_of(log, job.rig), Assembly(skip_damaged=job.skip_damaged))
                times = FrameTimes(Assembly(rate_hz=job.frame_rate_hz))
                for frame in frames:
                    scene = (name or log.name) + frame.scene.removeprefix(log.name)
                    named = replace(frame, scene=scene.replace("/", "-").replace("#", "-"))
                    boxes = own.of(frame)
                    if boxes is None or not times.is_due(frame.timestamp_ns):
                        writer.add_sweep(named)
                    else:
                        counts.update(_add(writer, named, *boxes, min_score))
                    progress(1)
                problems += [f"{job.log}: {problem}" for problem in frames.problems]
        left = [name for own in labels for name in own.left]
        if left:
            logs = ", ".join(job.log for job in jobs)
            raise DatasetError(f"boxes of the frames of {logs} were expected, found those of others: {left[0]}")
    return counts, problems


def _add(
    writer: NuScenesWriter, frame: Frame, detections: Detections, objects: np.ndarray, min_score: float
) -> list[str]:
    """The classes of the boxes that were added."""
    sure = detections.scores >= min_score
    boxes, scores = detections.boxes[sure], detections.scores[sure].tolist()
    names = [str(k) if k >= 0 else f"{frame.token}/{i}" for i, k in enumerate(objects[sure].tolist())]
    writer.add(replace(frame, boxes=boxes), names, scores)
    return [writer.task.classes[label] for label in boxes.label]
