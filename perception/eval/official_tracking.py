"""The nuScenes tracking metric computed by the devkit on the frames of a submission.

As in ``perception.eval.official``, only the constructor of ``TrackingEval`` is replaced, by the devkit's own loaders on
the given frames.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import tempfile
import warnings
from pathlib import Path

from perception.data.nuscenes_files import DataError
from perception.errors import missing_extra
from perception.eval.official import OfficialError, in_range, open_devkit
from perception.eval.submission_reader import tracked_samples
from perception.files import writing

_FIGURES = (
    "amota", "amotp", "mota", "motp", "motar", "recall", "faf", "tid", "lgd",
    "gt", "tp", "fp", "fn", "ids", "frag", "mt", "ml",
)  # fmt: skip


def score_tracks(dataset, path: str | Path) -> dict:
    """The metrics of a tracking submission on its own samples, which must all be in ``dataset``.

    Args:
        dataset: a :class:`perception.NuScenes`, real or simulated.
        path: a file written by ResultsWriter with the records of :func:`perception.eval.tracks.to_tracking_submission`.

    Returns:
        The metrics of https://www.nuscenes.org/tracking, computed by the devkit. AMOTA, AMOTP (metres), MOTA, MOTP,
        MOTAR, RECALL, FAF, TID, LGD and GT: means over the classes with ground truth; TP, FP, FN, IDS, FRAG, MT, ML:
        sums over the classes, each at the threshold of its highest MOTA. classes: the same by class. None where a
        metric is undefined.

    Raises:
        OfficialError: not a submission, or one with other samples; tables that the devkit cannot read, or no devkit.
    """
    _require_devkit()
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import load_gt_of_sample_tokens, load_prediction_of_sample_tokens
    from nuscenes.eval.tracking.data_classes import TrackingBox

    settings = config_factory("tracking_nips_2019")
    tokens = _tokens(Path(path), set(dataset.tokens))
    devkit = open_devkit(dataset)
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # progress bars, means of empty slices
        warnings.simplefilter("ignore")
        try:
            truth = load_gt_of_sample_tokens(devkit, tokens, TrackingBox)
            limit = settings.max_boxes_per_sample
            predicted, _ = load_prediction_of_sample_tokens(str(path), limit, TrackingBox, tokens)
        except (AssertionError, LookupError, TypeError, ValueError) as error:  # raised for invalid files
            raise OfficialError(f"{path}: the devkit cannot read it as tracks: {error}") from None
        truth, predicted = (in_range(devkit, boxes, settings.class_range) for boxes in (truth, predicted))
        metrics = _evaluate(devkit, settings, truth, predicted).serialize()
    by_class = metrics["label_metrics"]
    return {
        **{name.upper(): _or_none(metrics[name]) for name in _FIGURES},
        "classes": {
            label: {name.upper(): _or_none(by_class[name][label]) for name in _FIGURES}
            for label in settings.class_names
        },
    }


def _require_devkit() -> None:
    try:
        import motmetrics  # noqa: F401
        import nuscenes  # noqa: F401
        import pandas  # noqa: F401
    except ImportError as error:
        message = missing_extra("nuscenes", f"the tracking metric is in the devkit ({error.name} is missing)")
        raise OfficialError(message) from None


def _tokens(path: Path, known: set[str]) -> list[str]:
    """The samples of a submission."""
    try:
        tokens = tracked_samples(path, len(known))
    except DataError as error:
        raise OfficialError(str(error)) from None
    for token in tokens:
        if token not in known:
            raise OfficialError(f"{path}: sample {token} is not in the dataset")
    if not tokens:
        raise OfficialError(f"{path}: at least one sample was expected, found none")
    return tokens


def _evaluate(devkit, settings, truth, predicted):
    from nuscenes.eval.tracking.evaluate import TrackingEval
    from nuscenes.eval.tracking.loaders import create_tracks

    class LoadedEval(TrackingEval):
        """TrackingEval on boxes already loaded; everything but the constructor is inherited."""

        def __init__(self):
            self.cfg, self.verbose, self.output_dir, self.render_classes = settings, False, None, None
            self.tracks_gt = create_tracks(truth, devkit, "samples", gt=True)
            self.tracks_pred = create_tracks(predicted, devkit, "samples", gt=False)

    scenes = {devkit.get("sample", token)["scene_token"] for token in truth.sample_tokens}
    with tempfile.TemporaryDirectory() as folder:  # create_tracks reads its scenes from a splits file
        splits = Path(folder) / devkit.version / "splits.json"
        with writing(splits):
            splits.parent.mkdir()
            splits.write_text(json.dumps({"samples": [devkit.get("scene", scene)["name"] for scene in scenes]}))
        devkit.dataroot = folder
        metrics, _ = LoadedEval().evaluate()
    return metrics


def _or_none(value: float) -> float | None:
    """NaN as None, since JSON has no NaN."""
    return None if math.isnan(value) else float(value)
