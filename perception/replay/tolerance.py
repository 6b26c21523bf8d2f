"""How much two results may differ before someone has to look."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from perception.errors import PerceptionError

FEW_BOXES = 20  # of a class; with fewer, one box more or less means nothing


class ToleranceError(PerceptionError):
    """An unknown tolerance, or an invalid value."""


def _limit(default: float | None, meaning: str):
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True)
class Tolerances:
    """The largest value of each metric of a comparison; None for no limit.

    The defaults are for two models that should behave the same. One that should be better gains and loses boxes: judge
    it by mAP and NDS, with wider limits for the rest.
    """

    unmatched_frames: float | None = _limit(0, "frames that only one of the results has")
    count_share: float | None = _limit(0.05, "change of the number of boxes, as a share of A's")
    lost_share: float | None = _limit(0.02, "share of A's boxes that B does not have")
    gained_share: float | None = _limit(0.02, "share of B's boxes that A does not have")
    class_lost_share: float | None = _limit(0.10, f"as lost_share, of the worst class of those with {FEW_BOXES} boxes")
    class_gained_share: float | None = _limit(
        0.10, f"as gained_share, of the worst class of those with {FEW_BOXES} boxes"
    )
    changed_share: float | None = _limit(0.01, "share of A's boxes that have another class in B")
    center_p90_m: float | None = _limit(0.10, "distance of the centres of a pair, 90th percentile of all pairs")
    size_p90_m: float | None = _limit(0.10, "difference of length, width or height, whichever is most, 90th percentile")
    yaw_p90_deg: float | None = _limit(5.0, "angle between the headings, 90th percentile")
    velocity_p90_mps: float | None = _limit(0.25, "difference of the velocities, 90th percentile")
    score_p90: float | None = _limit(0.05, "difference of the scores, 90th percentile")
    attribute_share: float | None = _limit(0.02, "share of the pairs whose attributes differ")
    map_drop: float | None = _limit(0.005, "mAP of A less that of B, where both were scored")
    nds_drop: float | None = _limit(0.005, "NDS of A less that of B, where both were scored")
    latency_ratio: float | None = _limit(None, "median time of a frame in B over that in A; machines differ")

    @classmethod
    def parse(cls, assignments: Iterable[str]) -> Tolerances:
        """From ``NAME=VALUE``; the value ``none`` switches one off.

        Raises:
            ToleranceError: see the class.
        """
        known, limits = [field.name for field in dataclasses.fields(cls)], {}
        for assignment in assignments:
            name, _, text = assignment.partition("=")
            if name not in known:
                raise ToleranceError(
                    f"--tolerance: NAME=VALUE was expected, of {', '.join(known)}; found {assignment!r}"
                )
            limits[name] = _value(name, text)
        return cls(**limits)

    def exceeded(self, metrics: Mapping[str, float | None]) -> list[str]:
        """A line for each of the metrics, by name, that is beyond tolerance; None is unknown and never is."""
        lines = []
        for name, found in metrics.items():
            limit = getattr(self, name)
            if limit is not None and found is not None and found > limit:
                lines.append(f"{name} {found:.4g} > {limit:g}: {meaning(name)}")
        return lines


def meaning(name: str) -> str:
    """Of a tolerance, in a few words."""
    return next(field.metadata["meaning"] for field in dataclasses.fields(Tolerances) if field.name == name)


def tolerances_help() -> str:
    """All of them, a line each: for ``--help``."""
    rows = [(field.name, field.default, field.metadata["meaning"]) for field in dataclasses.fields(Tolerances)]
    return "\n".join(
        f"  {name:<19} {'none' if value is None else f'{value:g}':<6} {text}" for name, value, text in rows
    )


def _value(name: str, text: str) -> float | None:
    if text.lower() == "none":
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise ToleranceError(f"--tolerance {name}: a number from 0, or none, was expected, found {text!r}")
    return value
