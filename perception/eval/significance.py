"""Whether two detectors differ: both on the same frames, with intervals from drawing those frames again and again.

The paired bootstrap (Efron and Tibshirani 1993): what is drawn is drawn for both, so that a difference that is there on
most frames shows although the scores of either vary more. Whole scenes are drawn, for frames of a scene are alike;
single frames where there are fewer than ten scenes.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from perception.data.loader import Loader, Whole
from perception.data.nuscenes import NuScenes
from perception.data.sources import FrameSource
from perception.eval.evaluate import AnyDetector, Submission, score_submissions
from perception.eval.metric import ERRORS, MetricBoxes, counted, score
from perception.eval.truth import EvaluationError, Truth
from perception.processes import place
from perception.sample import Frame
from perception.text import aligned

DRAWS = 200
_FEWEST_SCENES = 10
_NAMES = ("mAP", "NDS", *(f"m{error}" for error in ERRORS))


@dataclass(frozen=True)
class Difference:
    """first, second: scores.  low, high: between which the second less the first is in 95 % of the draws."""

    first: float
    second: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        return self.low > 0 or self.high < 0


def compare_detectors(
    first: AnyDetector, second: AnyDetector, source: FrameSource, draws: int = DRAWS, seed: int = 0, workers: int = 0
) -> tuple[dict[str, Difference], str]:
    """mAP, NDS and mean errors of two detectors of the same task with all their sensors, and what was drawn.

    Args:
        workers: as in :func:`perception.eval.evaluate.evaluate`.

    Raises:
        EvaluationError: other classes, or nothing to score against.
    """
    if place()[1] > 1:
        raise EvaluationError(f"one process was expected, found {place()[1]}")
    if not first.task.labels_alike(second.task):
        raise EvaluationError("two detectors of the same classes were expected, found others")
    submissions: dict[str, Submission] = {}
    scene_of: dict[int, str] = {}

    def detect(given: dict[str, Submission]) -> None:
        submissions.update(given)
        memories: dict[str, Any] = {}
        bar = tqdm(range(len(source)), desc="compare", unit="frame", disable=None)
        with closing(Loader(Whole(source), workers)) as loader:
            for index, frame in zip(bar, loader.items(range(len(source)))):
                if not isinstance(frame, Frame) or frame.boxes is None:
                    continue
                scene_of[index] = frame.scene
                for name, detector in (("first", first), ("second", second)):
                    seen = frame.only(detector.sensors)
                    if not seen.sensors:
                        given[name].add(seen, None)
                    elif getattr(detector, "remembers", False):
                        remembering: Any = detector
                        detections, memories[name] = remembering.detect(seen, memories.get(name))
                        given[name].add(seen, detections)
                    else:
                        given[name].add(seen, detector.detect(seen))

    names = {"first": first.sensors, "second": second.sensors}
    score_submissions(source, first.task, names, detect)
    frames = submissions["first"].frames
    truth = Truth.of_frames(first.task, frames)
    if isinstance(source, NuScenes):  # which knows bicycle racks, too
        truth = Truth.of_tables(source, first.task).of_samples(np.array([frame.sample for frame in frames]))
    boxes = [_counted(truth, submissions[name].boxes) for name in names]
    scenes = list(dict.fromkeys(scene_of.values()))
    by_scene = len(scenes) >= _FEWEST_SCENES
    groups = [np.array([i for i, name in scene_of.items() if name == scene]) for scene in scenes]
    groups = groups if by_scene else [np.array([i]) for i in scene_of]
    what = f"{len(groups)} {'scenes' if by_scene else 'frames'}"
    return paired_differences(truth, boxes[0], boxes[1], groups, draws, seed), what


def paired_differences(
    truth: Truth, first: MetricBoxes, second: MetricBoxes, groups: Sequence[np.ndarray], draws: int, seed: int
) -> dict[str, Difference]:
    """Scores of two sets of boxes, and intervals from drawing as many ``groups`` of samples as there are.

    Args:
        groups: samples that are drawn together.
    """
    rng = np.random.default_rng(seed)
    whole = np.concatenate(groups)
    scores = [_scores(truth, part, whole) for part in (first, second)]
    found = []
    for _ in tqdm(range(draws), desc="draw", disable=None):
        drawn = np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])
        found.append(_scores(truth, second, drawn) - _scores(truth, first, drawn))
    with np.errstate(all="ignore"):
        low, high = (np.nanpercentile(np.array(found), q, axis=0) for q in (2.5, 97.5))
    numbers = zip(scores[0].tolist(), scores[1].tolist(), low.tolist(), high.tolist())
    return {name: Difference(*row) for name, row in zip(_NAMES, numbers)}


def table(differences: dict[str, Difference], first: str, second: str) -> str:
    lines = [("", first, second, "difference", "95 % of draws", "")]
    for name, d in differences.items():
        interval = f"{d.low:+.4f} to {d.high:+.4f}"
        clear = "clear" if d.is_clear else ""
        lines.append((name, f"{d.first:.4f}", f"{d.second:.4f}", f"{d.second - d.first:+.4f}", interval, clear))
    return aligned(lines, left=(0, 5))


def _counted(truth: Truth, boxes: MetricBoxes) -> MetricBoxes:
    return boxes[counted(boxes, truth.ego_positions, truth.racks, truth.task)]


def _scores(truth: Truth, boxes: MetricBoxes, samples: np.ndarray) -> np.ndarray:
    """float64 [7], in the order of _NAMES, on samples that may be there more than once."""
    metrics = score(_drawn(truth.boxes, samples), _drawn(boxes, samples), truth.task)
    return np.array([metrics.mean_ap, metrics.nds, *metrics.mean_errors])


def _drawn(boxes: MetricBoxes, samples: np.ndarray) -> MetricBoxes:
    """The boxes of the samples, which are numbered anew."""
    order = np.argsort(boxes.sample, kind="stable")
    begin, end = (np.searchsorted(boxes.sample[order], samples, side=side) for side in ("left", "right"))
    rows = np.concatenate([np.zeros(0, np.int64), *(order[a:b] for a, b in zip(begin, end))])
    return replace(boxes[rows], sample=np.repeat(np.arange(len(samples)), end - begin))
