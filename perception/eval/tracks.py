"""Converts tracks to a nuScenes submission, the file format of the official tracking benchmark.

Format: https://www.nuscenes.org/tracking. :class:`perception.eval.submission.ResultsWriter` writes the records that
:func:`to_tracking_submission` returns for each sample.
"""

from __future__ import annotations

import numpy as np

from perception.eval.submission import MAX_BOXES, WorldDetections


def to_tracking_submission(world: WorldDetections, ids: np.ndarray) -> list[dict]:
    """The MAX_BOXES best boxes of a sample that belong to a track, as records of a tracking submission.

    Classes that the benchmark does not track are omitted (cones, barriers, construction vehicles).

    Args:
        ids: int64 [N], track id of each detection, -1 for none.
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
