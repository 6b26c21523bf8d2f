"""The nuScenes detection metric computed by the devkit on any set of frames (``--official``).

The devkit only scores complete official splits. This module replaces the constructor of ``DetectionEval``, which makes
that restriction, by the devkit's own loaders on the given frames. A single scene, a simulated drive or a folder with
unreadable files is thus scored by the official code, and an official split gets exactly the official values (a test
compares them).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from perception.errors import PerceptionError, missing_extra
from perception.eval.metric import ERRORS, THRESHOLDS_M, Metrics
from perception.task import CLASSES

_NAMES = dict(zip(ERRORS, ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")))


class OfficialError(PerceptionError):
    """The devkit is missing or cannot read the data."""


def open_devkit(dataset):
    """Open the dataset's tables with the devkit."""
    try:
        from nuscenes import NuScenes
    except ImportError:
        raise OfficialError(missing_extra("nuscenes", "the official code is in the devkit")) from None
    try:
        return NuScenes(version=dataset.version, dataroot=str(dataset.root), verbose=False)
    except (AssertionError, OSError, LookupError, ValueError) as error:  # raised for incomplete data
        raise OfficialError(f"{Path(dataset.root) / dataset.version}: the devkit cannot read it: {error}") from None


def ground_truth(devkit, tokens: list[str]):
    """The annotations that are scored: within class range, with LiDAR or radar points, not in a bicycle rack."""
    from nuscenes.eval.common.loaders import load_gt_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    return filtered(devkit, load_gt_of_sample_tokens(devkit, tokens, DetectionBox))


def filtered(devkit, boxes):
    return in_range(devkit, boxes, settings().class_range)


def in_range(devkit, boxes, class_range: dict[str, float]):
    """Boxes within class range and not in a bicycle rack; annotations only if they have LiDAR or radar points."""
    from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes

    if not boxes.all:  # the devkit's filter cannot infer the box type
        return boxes
    try:
        return filter_eval_boxes(devkit, add_center_dist(devkit, boxes), class_range)
    except KeyError as error:
        where = Path(devkit.dataroot) / devkit.version
        raise OfficialError(
            f"{where}: a row for LIDAR_TOP in every sample was expected, as the devkit measures range from its pose, "
            f"found none ({error}); this package's own metric does without"
        ) from None


def settings():
    """The settings of the benchmark, used for all published results."""
    from nuscenes.eval.common.config import config_factory

    return config_factory("detection_cvpr_2019")


def score_file(devkit, truth, path: Path) -> Metrics:
    """The metrics of a submission file against the :func:`ground_truth` of the same samples."""
    from nuscenes.eval.common.loaders import load_prediction_of_sample_tokens
    from nuscenes.eval.detection.data_classes import DetectionBox

    limit = settings().max_boxes_per_sample
    predicted, _ = load_prediction_of_sample_tokens(str(path), limit, DetectionBox, truth.sample_tokens)
    return metrics(truth, filtered(devkit, predicted))


def metrics(truth, predictions) -> Metrics:
    """The metrics of filtered EvalBoxes."""
    from nuscenes.eval.detection.evaluate import DetectionEval

    class LoadedEval(DetectionEval):
        """DetectionEval on boxes already loaded; everything but the constructor is inherited."""

        def __init__(self):
            self.cfg, self.verbose, self.gt_boxes, self.pred_boxes = settings(), False, truth, predictions

    official, _ = LoadedEval().evaluate()
    aps = official.serialize()["label_aps"]
    return Metrics(
        np.array([[aps[name][threshold] for threshold in THRESHOLDS_M] for name in CLASSES]),
        np.array([[official.get_label_tp(name, _NAMES[error]) for error in ERRORS] for name in CLASSES]),
    )
