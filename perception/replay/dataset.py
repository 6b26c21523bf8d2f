"""Logs as a data set in the nuScenes layout: a scene each, with boxes from a replay, a submission, or without any."""

from __future__ import annotations

import re
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
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]")  # what a scene's name cannot have


class DatasetError(PerceptionError):
    """Boxes that are not of these logs, or logs that would be one scene."""


def scene_names(jobs: Sequence[Job], out: str | Path) -> list[str]:
    """The name of every job's scene: its folder's in ``out``, or that of its log where it has none of its own.

    Whatever is no letter, digit, dot, underscore or hyphen becomes a hyphen, and a name begins with a letter or digit.

    Raises:
        DatasetError: two would have one name.  PerceptionError: a log that cannot be opened.
    """
    logs: dict[str, str] = {}
    for job in jobs:
        name = Path(job.out).relative_to(out).as_posix()
        if name == ".":
            with opened(job) as log:
                name = log.name
        name = _clean(name)
        if name in logs:
            raise DatasetError(
                f"{job.log}: another scene's name than that of {logs[name]} was expected, found '{name}'"
            )
        logs[name] = job.log
    return list(logs)


def write_dataset(
    jobs: Sequence[Job],
    out: str | Path,
    labels: Sequence[Labels],
    names: Sequence[str],
    min_score: float = 0.3,
    progress: Callable[[int], object] = lambda number: None,
) -> tuple[Counter[str], list[str], list[str]]:
    """Write all sensors of the jobs' logs as scenes of a new version in ``out``.

    The frames that have labels, ``frame_rate_hz`` a second at most, become samples, and the others sweeps; scenes
    without samples are left out. Objects that were tracked are instances, so that velocities follow from where they are
    in the samples before and after.

    Args:
        jobs: which logs, and with which rigs.
        labels: of every log; the same may be of several.
        names: of every scene, as :func:`scene_names` has them.
        min_score: boxes of lower scores are left out.
        progress: is told 1 for every frame.

    Returns:
        Class -> boxes; the scenes; and what was left out of the logs, a line each.

    Raises:
        DatasetError: labels of frames that no log has, of none of its frames, or of different classes.
        PerceptionError: whatever is wrong with a log.
    """
    task, counts, scenes, problems = labels[0].task, Counter[str](), dict[str, None](), list[str]()
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
                    named = replace(frame, scene=name + frame.scene.removeprefix(log.name).replace("#", "-"))
                    scenes[named.scene] = None
                    boxes = own.of(frame)
                    if boxes is None or not times.is_due(frame.timestamp_ns):
                        writer.add_sweep(named)
                    else:
                        counts.update(_add(writer, named, *boxes, min_score))
                    progress(1)
                problems += [f"{job.log}: {problem}" for problem in frames.problems]
            for scene in writer.remove_without_samples():
                del scenes[scene]
                problems.append(f"{job.log}: scene '{scene}' left out: there are boxes for none of its frames")
        left = [name for own in labels for name in own.left]
        logs = ", ".join(job.log for job in jobs)
        if left:
            raise DatasetError(f"boxes of the frames of {logs} were expected, found those of others: {left[0]}")
        if not scenes:
            raise DatasetError(f"boxes of the frames of {logs} were expected, found none")
    return counts, list(scenes), problems


def _clean(name: str) -> str:
    return _NO_NAME.sub("-", name).lstrip("._-") or "scene"


def _add(
    writer: NuScenesWriter, frame: Frame, detections: Detections, objects: np.ndarray, min_score: float
) -> list[str]:
    """The classes of the boxes that were added."""
    sure = detections.scores >= min_score
    boxes, scores = detections.boxes[sure], detections.scores[sure].tolist()
    names = [str(k) if k >= 0 else f"{frame.token}/{i}" for i, k in enumerate(objects[sure].tolist())]
    writer.add(replace(frame, boxes=boxes), names, scores)
    return [writer.task.classes[label] for label in boxes.label]
