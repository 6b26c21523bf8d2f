"""A comparison as tables of text, for the terminal and for reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

from perception.replay.compare import Comparison
from perception.text import aligned

Table = list[Sequence[str]]  # the header and the rows
_LISTED = 5  # frames of a kind that are named; the report and the JSON file have more


def table(comparison: Comparison) -> str:
    """A comparison for reading in a terminal."""
    parts = [heading(comparison), frames_line(comparison), *map(aligned, tables(comparison))]
    return "\n\n".join(part for part in [*parts, _conclusion(comparison)] if part)


def tables(comparison: Comparison) -> list[Table]:
    """Classes, class changes, shifts, latency, metrics and worst frames, in that order; those without rows left out."""
    found = (_classes, _class_changes, _shifts, _latency, _metrics, _worst)
    return [made for make in found if len(made := make(comparison)) > 1]


def heading(comparison: Comparison) -> str:
    """Which results are compared."""
    lines = []
    for name, folder, summary in zip("AB", (comparison.a, comparison.b), comparison.summaries):
        about = [str(summary[key]) for key in ("checkpoint", "device") if summary.get(key)]
        if summary.get("weights_sha256"):
            about.insert(1, f"weights {str(summary['weights_sha256'])[:12]}")
        lines.append(f"{name}  {folder}" + f"  ({', '.join(about)})" * bool(about))
    return "\n".join(lines)


def frames_line(comparison: Comparison) -> str:
    """How many frames were compared, and which could not be."""
    identical = {True: "yes", False: "no", None: "unknown, a summary has no digest"}[comparison.identical]
    both, only_a, only_b = len(comparison.frames), len(comparison.only_a), len(comparison.only_b)
    lines = [
        f"{both} frames in both, {only_a} only in A, {only_b} only in B",
        f"detections identical: {identical}; a box is what scores {comparison.score_threshold:g}",
    ]
    for name, keys in (("A", comparison.only_a), ("B", comparison.only_b)):
        lines += [f"  only in {name}: {key.scene} {key.timestamp_ns}" for key in keys[:_LISTED]]
        lines += [f"  only in {name}: {len(keys) - _LISTED} more"] * (len(keys) > _LISTED)
    return "\n".join(lines)


def _classes(comparison: Comparison) -> Table:
    counts = comparison.classes | ({"all": comparison.total} if len(comparison.classes) != 1 else {})
    rows = [(name, *(str(n) for n in astuple(row))) for name, row in counts.items()]
    return [("boxes", "A", "B", "gained", "lost", "risen", "faded", "class was", "class became"), *rows]


def _class_changes(comparison: Comparison) -> Table:
    changes = comparison.class_changes.most_common(_LISTED)
    return [("class changes", "boxes"), *((f"{a} -> {b}", str(n)) for (a, b), n in changes)]


def _shifts(comparison: Comparison) -> Table:
    rows = [
        (name, *(_number(value) for value in spread[1:]), str(spread.count))
        for name, spread in comparison.shifts.items()
        if spread.count
    ]
    return [("shift of pairs", "mean", "p50", "p90", "max", "pairs"), *rows]


def _latency(comparison: Comparison) -> Table:
    rows = [
        (stage, *(f"{ms:.1f}" for ms in row[:4]), "-" if row.ratio is None else f"{row.ratio:.2f}")
        for stage, row in comparison.latency.items()
    ]
    return [("latency, ms", "A p50", "A p90", "B p50", "B p90", "B/A p50"), *rows]


def _metrics(comparison: Comparison) -> Table:
    rows = [(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}") for name, (a, b) in comparison.scores.items()]
    if comparison.track_switches is not None:
        rows.append(("track switches", "", "", str(comparison.track_switches)))
    return [("metric", "A", "B", "change"), *rows]


def _worst(comparison: Comparison) -> Table:
    rows = [
        (
            f"{frame.key.scene} {frame.token}".strip(),
            str(frame.key.timestamp_ns),
            *(str(n) for n in (frame.a, frame.b, frame.gained, frame.lost, frame.changed)),
        )
        for frame in comparison.worst(_LISTED)
    ]
    return [("frames that differ most", "time, ns", "A", "B", "gained", "lost", "changed"), *rows]


def _conclusion(comparison: Comparison) -> str:
    if not comparison.exceeded:
        return "within tolerance"
    return "\n".join(["beyond tolerance:", *(f"  {line}" for line in comparison.exceeded)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
