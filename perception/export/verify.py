"""Sets an exported model beside the detector it was made of: what they find, how well, how fast, how large."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception.data.sources import FrameSource
from perception.eval.evaluate import AnyDetector, evaluate
from perception.export.backends import FORMATS
from perception.export.runtime import Exported
from perception.model.detector import Detector
from perception.sample import Detections, Frame, sensor_set, sensor_sets
from perception.text import aligned, markdown

SCORE, METRES = 1e-4, 1e-3  # by which a detection may differ and still be the same


def differences(expected: Detections, found: Detections) -> tuple[np.ndarray, np.ndarray]:
    """[N] how far score and box (centre, size; metres) of each expected detection are from the found one of its class
    that is nearest to it; infinite where there is none."""
    ours, theirs = expected.boxes, found.boxes
    if not len(expected) or not len(found):
        return np.full(len(expected), np.inf), np.full(len(expected), np.inf)
    apart = np.abs(ours.center[:, None] - theirs.center).max(axis=2)
    apart = np.maximum(apart, np.abs(ours.size[:, None] - theirs.size).max(axis=2))
    score = np.abs(expected.scores[:, None] - found.scores)
    other = ours.label[:, None] != theirs.label
    apart[other] = score[other] = np.inf
    nearest = np.maximum(apart / METRES, score / SCORE).argmin(axis=1)
    rows = np.arange(len(expected))
    return score[rows, nearest], apart[rows, nearest]


def parity(detector: Detector, model: Exported, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """A row for each set of sensors: how many detections there are, how many are the same, how far off the worst is."""
    rows = []
    for sensors in sensor_sets(detector.sensors):
        scores, metres = [], []
        for frame in (frame.only(sensors) for frame in frames):
            if not frame.sensors:
                continue
            score, apart = differences(detector.detect(frame), model.detect(frame))
            scores.append(score)
            metres.append(apart)
        score, apart = np.concatenate(scores), np.concatenate(metres)
        same = (score <= SCORE) & (apart <= METRES)
        rows.append(
            {
                "sensors": sensor_set(sensors, detector.sensors),
                "detections": len(score),
                "same": int(same.sum()),
                "score": _worst(score),
                "metres": _worst(apart),
            }
        )
    return rows


def _worst(values: np.ndarray) -> float | None:
    """None where some detection has no counterpart at all."""
    worst = float(values.max(initial=0))
    return worst if np.isfinite(worst) else None


def compiled(detector: Detector) -> Detector:
    """The detector with encoders' networks and all behind them compiled by torch.compile."""
    fast = copy.deepcopy(detector)
    for encoder in fast.encoders.values():
        for name in ("image", "backbone", "pyramid"):
            part = getattr(encoder, name, None)
            if isinstance(part, torch.nn.Module):
                part.compile()
    fast.understand = torch.compile(fast.understand)  # type: ignore[method-assign]
    return fast


def milliseconds(candidates: Mapping[str, AnyDetector], frames: Sequence[Frame], turns: int) -> dict[str, float]:
    """Median of a frame, all sensors; candidates take turns, after one run each that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(turns + 1):
        for frame in frames if turn else frames[:1]:
            for name, candidate in candidates.items():
                start = time.perf_counter()
                candidate.detect(frame)
                if turn:
                    taken[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in taken.items()}


def megabytes(folder: Path, form: str, names: Sequence[str]) -> float:
    return sum((folder / f"{name}{FORMATS[form][0]}").stat().st_size for name in names) / 1e6


def verify(
    detector: Detector, models: Mapping[str, Exported], folder: Path, sources: Mapping[str, FrameSource],
    frames: int, turns: int,
) -> dict[str, Any]:  # fmt: skip
    """
    Args:
        models: by format, of the files in ``folder``.  sources: by name, such as "simulated".
        frames: of each source, from its beginning, that parity is run on.  turns: over those, of every candidate.

    Returns:
        parity: rows of :func:`parity` with their "format" and "frames".  speed: by candidate "ms", "ratio" to the
        eager detector and "mAP" on the whole of each annotated source.  megabytes: by format.
    """
    rows: list[dict[str, Any]] = []
    seen: dict[str, list[Frame]] = {}
    for name, source in sources.items():
        seen[name] = [frame for frame in (source[i] for i in range(min(frames, len(source)))) if frame is not None]
        for form, model in models.items():
            rows += [{"format": form, "frames": name, **row} for row in parity(detector, model, seen[name])]
    candidates: dict[str, Any] = {"eager": detector, "torch.compile": compiled(detector), **models}
    taken = milliseconds(candidates, next(iter(seen.values())), turns)
    judged: dict[str, AnyDetector] = {"eager": detector, **models}
    scored = {
        name: {where: evaluate(one, source)["mAP"] for where, source in sources.items()} for name, one in judged.items()
    }
    return {
        "parity": rows,
        "speed": [
            {"model": name, "ms": ms, "ratio": taken["eager"] / ms, "mAP": scored.get(name)}
            for name, ms in taken.items()
        ],
        "megabytes": {form: megabytes(folder, form, list(model.graphs)) for form, model in models.items()},
    }


_PARITY = ("format", "frames", "sensors", "detections", "the same", "most off, score", "most off, m")
_SPEED = ("model", "ms a frame", "times as fast as eager", "MB", "mAP")


def tables(report: Mapping[str, Any]) -> list[tuple[tuple[str, ...], list[list[str]]]]:
    """Head and rows of the two tables of :func:`verify`."""
    alike = [
        [row["format"], row["frames"], row["sensors"], str(row["detections"]), str(row["same"])]
        + ["-" if row[key] is None else f"{row[key]:.1e}" for key in ("score", "metres")]
        for row in report["parity"]
    ]
    size = report["megabytes"]
    fast = [
        [row["model"], f"{row['ms']:.0f}", f"{row['ratio']:.2f}"]
        + [f"{size[row['model']]:.1f}" if row["model"] in size else ""]
        + [", ".join(f"{name} {value:.4f}" for name, value in (row["mAP"] or {}).items())]
        for row in report["speed"]
    ]
    return [(_PARITY, alike), (_SPEED, fast)]


def as_text(report: Mapping[str, Any]) -> str:
    return "\n\n".join(aligned([head, *rows], left=(0, 1, 2)) for head, rows in tables(report))


def as_markdown(report: Mapping[str, Any]) -> str:
    return "\n".join(line for head, rows in tables(report) for line in ["", *markdown(head, rows)])
