"""How long every stage of every frame took, and its statistics."""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from perception.text import aligned

DETECTOR_STAGES = ("check", "prepare", "model", "decode")  # from a frame to its detections
_QUANTILES = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "max_ms": 1.0}


class Clock:
    """Times stages, each once a frame. Waits for a GPU where there is one, else its work would count for a later stage.

    Every frame is kept, as 4 bytes a stage: a day at 10 Hz takes 35 MB.
    """

    def __init__(self):
        self._ms: dict[str, array] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block; one that raises is not counted."""
        start = time.perf_counter()
        yield
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._ms.setdefault(name, array("f")).append(1000 * (time.perf_counter() - start))

    def forget_last(self, name: str) -> None:
        self._ms[name].pop()

    def last_ms(self, *names: str) -> float:
        """The stages of the latest frame together."""
        return sum(self._ms[name][-1] for name in names)

    def summary(self, deadline_ms: float | None = None) -> dict:
        """Milliseconds by stage and in "total".

        Each is {"cold_ms": the first frame, "p50_ms", "p90_ms", "p99_ms", "max_ms": of all others}, None where there is
        none. The total is that of every stage, of the frames that went through all of them.

        Beside them "deadline_ms", and "deadline_misses": frames, the first included, whose DETECTOR_STAGES together
        took longer; None without a deadline.
        """
        stages = {name: np.array(ms, dtype=np.float64) for name, ms in self._ms.items()}
        late = None if deadline_ms is None else int((_together(stages, DETECTOR_STAGES) > deadline_ms).sum())
        rows = {**stages, "total": _together(stages, stages)}
        return {
            **{name: _row(ms) for name, ms in rows.items()},
            "deadline_ms": deadline_ms,
            "deadline_misses": late,
        }


def table(summary: dict) -> str:
    """:meth:`Clock.summary` as text: a line a stage, and one for the deadline, if any."""
    columns = (*_QUANTILES, "cold_ms")
    rows = [("stage", *columns)]
    for name, row in summary.items():
        if isinstance(row, dict):
            rows.append((name, *("-" if row[column] is None else f"{row[column]:.1f}" for column in columns)))
    text = aligned(rows)
    if summary["deadline_ms"] is not None:
        text += f"\ndeadline {summary['deadline_ms']:g} ms missed by {summary['deadline_misses']} frames"
    return text


def _together(stages: dict[str, np.ndarray], names) -> np.ndarray:
    """Sum over the stages of ``names`` that there are, [frames that went through all of them]."""
    parts = [stages[name] for name in names if name in stages]
    frames = min(map(len, parts), default=0)  # an interrupted frame lacks the stages that were still to come
    return np.sum([part[:frames] for part in parts], axis=0) if parts else np.zeros(0)


def _row(ms: np.ndarray) -> dict[str, float | None]:
    cold, warm = ms[:1], ms[1:]
    return {
        "cold_ms": float(cold[0]) if len(cold) else None,
        **{name: float(np.quantile(warm, share)) if len(warm) else None for name, share in _QUANTILES.items()},
    }
