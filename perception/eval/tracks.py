"""Tracks as a nuScenes submission: the file format of the official tracking benchmark.

The format is https://www.nuscenes.org/tracking; :class:`perception.eval.submission.ResultsWriter` writes it,
given what :func:`to_tracking_submission` makes of each sample.
"""

from __future__ import annotations

import numpy as np

from perception.eval.submission import MAX_BOXES, WorldDetections
from perception.sample import CLASSES

TRACKING_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
_TRACKED = np.isin(CLASSES, TRACKING_CLASSES)


def to_tracking_submission(world: WorldDetections, ids: np.ndarray) -> list[dict]:
    """The best MAX_BOXES boxes of one sample that belong to a track, as the records of a tracking submission.

    The benchmark has no cones, barriers and construction vehicles.

    Args:
        ids: int64 [N], the track of each detection in the ego frame, -1 for none.
    """
    boxes, ids = world.boxes, ids[world.index]
    kept = np.flatnonzero((ids >= 0) & _TRACKED[boxes.label])[:MAX_BOXES]
    return [
        {
            **world.row(i),
            "tracking_id": str(ids[i]),
            "tracking_name": CLASSES[boxes.label[i]],
            "tracking_score": float(boxes.score[i]),
        }
        for i in kept
    ]
