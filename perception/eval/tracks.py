"""Tracks as a nuScenes submission: the file format of the official tracking benchmark.

The format is https://www.nuscenes.org/tracking; :class:`perception.eval.submission.ResultsWriter` writes it,
given what :func:`to_tracking_submission` makes of each sample.
"""

from __future__ import annotations

import numpy as np

from perception.eval.submission import to_submission
from perception.sample import CLASSES, Detections, Frame

TRACKING_CLASSES = ("bicycle", "bus", "car", "motorcycle", "pedestrian", "trailer", "truck")
_TRACKED = np.isin(CLASSES, TRACKING_CLASSES)


def to_tracking_submission(frame: Frame, detections: Detections, ids: np.ndarray) -> list[dict]:
    """The boxes of one sample that belong to a track, in the words of the format.

    The benchmark has no cones, barriers and construction vehicles, and takes the best MAX_BOXES of a sample.

    Args:
        ids: int64 [N], the track of each detection, -1 for none.
    """
    kept = np.flatnonzero((ids >= 0) & _TRACKED[detections.boxes.label])
    kept = kept[np.argsort(-detections.scores[kept], kind="stable")]  # the order of to_submission
    rows = to_submission(frame, Detections(detections.boxes[kept], detections.scores[kept]))
    words = ("sample_token", "translation", "size", "rotation", "velocity")
    return [
        {
            **{word: row[word] for word in words},
            "tracking_id": str(track),
            "tracking_name": row["detection_name"],
            "tracking_score": row["detection_score"],
        }
        for row, track in zip(rows, ids[kept].tolist())
    ]
