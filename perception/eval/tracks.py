"""Tracks as a nuScenes submission: the file format of the official tracking benchmark.

The format is https://www.nuscenes.org/tracking; :class:`perception.eval.submission.ResultsWriter` writes it,
given what :func:`to_tracking_submission` makes of each sample.
"""

from __future__ import annotations

import numpy as np

from perception.eval.submission import MAX_BOXES, WorldDetections


def to_tracking_submission(world: WorldDetections, ids: np.ndarray) -> list[dict]:
    """The best MAX_BOXES boxes of one sample that belong to a track, as the records of a tracking submission.

    Classes that the benchmark does not track are left out: cones, barriers and construction vehicles.

    Args:
        ids: int64 [N], the track of each detection, -1 for none.
    """
    boxes = world.boxes
    tracked = world.task.column("tracked")[boxes.label]
    kept = np.flatnonzero((ids >= 0) & tracked)[:MAX_BOXES]
    return [
        {
            **world.row(i),
            "tracking_id": str(ids[i]),
            "tracking_name": world.task.classes[boxes.label[i]],
            "tracking_score": float(boxes.score[i]),
        }
        for i in kept
    ]
