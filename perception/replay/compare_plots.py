"""A comparison drawn with matplotlib (extra ``viz``): every function draws into the given axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perception.geometry import box_corners
from perception.replay.compare import Comparison, FrameDifference
from perception.replay.matching import SHIFTS, Matching
from perception.sample import Boxes3D, Detections

COLOURS = {"gained": "#1a9850", "lost": "#d73027", "changed": "#e08214", "both": "#4d5866", "before": "#aab6c4"}
STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "comparison",  # makes files reproducible
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.frameon": False,
}
_TITLES = {
    "center_m": "centre, m",
    "size_m": "size, m",
    "yaw_deg": "yaw, degrees",
    "velocity_mps": "velocity, m/s",
    "score": "score, B less A",
}
_BARS = 240  # of the timeline; with more frames, several share one
_NAMED_SCENES = 12
_BINS = 40


def draw_timeline(axes, comparison: Comparison) -> None:
    """Boxes gained above the line, lost below it, changed on either side."""
    frames = comparison.frames
    counts = np.array([(f.gained, f.changed, f.lost) for f in frames], float).reshape(-1, 3)
    first = np.unique(np.linspace(0, len(frames), _BARS + 1).astype(int))[:-1]  # frames of each bar
    width = np.diff([*first, len(frames)])
    bars = np.add.reduceat(counts, first) / width[:, None] if len(first) else np.zeros((0, 3))
    gained, changed, lost = bars.T
    place = {"x": first, "width": width, "align": "edge"}
    axes.bar(height=gained, color=COLOURS["gained"], label="gained", **place)
    axes.bar(height=changed / 2, bottom=gained, color=COLOURS["changed"], label="class changed", **place)
    axes.bar(height=-lost, color=COLOURS["lost"], label="lost", **place)
    axes.bar(height=-changed / 2, bottom=-lost, color=COLOURS["changed"], **place)
    axes.axhline(0, color="black", lw=0.6)
    scenes = [i for i, f in enumerate(frames) if not i or f.key.scene != frames[i - 1].key.scene]
    for i in scenes[:_NAMED_SCENES] if len(scenes) <= _NAMED_SCENES else []:
        axes.axvline(i, color=COLOURS["before"], lw=0.6)
        axes.text(i, 1.0, f" {frames[i].key.scene}", transform=axes.get_xaxis_transform(), fontsize=7, va="top")
    axes.set(xlabel="frame", xlim=(0, max(len(frames), 1)), title="Boxes a frame")
    reach = max(1.0, *np.abs(axes.get_ylim()))
    axes.set_ylim(-reach, reach)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    axes.legend(loc="lower left", bbox_to_anchor=(0.6, 1.0), ncols=3, borderaxespad=0.2, fontsize=8)


def draw_histogram(axes, comparison: Comparison, name: str) -> None:
    """Of one of SHIFTS, over all pairs."""
    values = comparison.pairs[:, SHIFTS.index(name)]
    values = values[~np.isnan(values)].astype(float)
    reach = max(float(np.abs(values).max(initial=0.0)), 0.01)
    axes.hist(values, bins=_BINS, range=(-reach if name == "score" else 0.0, reach), color=COLOURS["both"])
    p90 = comparison.shifts[name].p90
    if p90 is not None:
        axes.axvline(p90, color=COLOURS["changed"], lw=1, ls="--", label="p90")
        if name == "score":
            axes.axvline(-p90, color=COLOURS["changed"], lw=1, ls="--")
        axes.legend(loc="upper right", fontsize=7)
    axes.set(yscale="log" if len(values) else "linear", title=_TITLES[name], ylabel="pairs")


def draw_frame(
    axes, frame: FrameDifference, a: Detections, b: Detections, matching: Matching, classes: Sequence[str]
) -> None:
    """Bird's-eye view of one frame, forward up: matched boxes in grey, A's paler than B's; others as in COLOURS."""
    groups = [
        (a, matching.pairs[:, 0], "before", "-"),
        (b, matching.pairs[:, 1], "both", "-"),
        (a, matching.lost, "lost", "--"),
        (b, matching.gained, "gained", "-"),
        (a, matching.changed[:, 0], "changed", "--"),
        (b, matching.changed[:, 1], "changed", "-"),
    ]
    shown = np.concatenate([found.boxes.center[index, :2] for found, index, _, _ in groups])
    reach = float(np.clip(np.abs(shown).max(initial=0.0) + 4, 20, 70))
    for radius in (20, 40, 60):
        angle = np.linspace(0, 2 * np.pi, 90)
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), color="#e3e7ec", lw=0.8, zorder=0)
    axes.fill([0, -0.9, 0.9], [3.5, -1, -1], color="#20242b", lw=0)  # the vehicle
    for found, index, kind, line in groups:
        _outline(axes, found.boxes[index], COLOURS[kind], line, 0.8 if kind in ("before", "both") else 1.5)
    labels = [
        (
            found.scores[i],
            found.boxes.center[i, 0],
            found.boxes.center[i, 1] - found.boxes.size[i, 1] / 2,
            classes[found.boxes.label[i]],
            COLOURS[kind],
        )
        for found, index, kind, _ in groups[2:]
        for i in index
    ]
    _name(axes, labels, reach)
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set(visible=True, color="#d5dae1")
    counts = ((getattr(frame, name), name) for name in ("gained", "lost", "changed"))
    title = ", ".join([frame.key.scene or frame.token, *(f"{count} {name}" for count, name in counts if count)])
    axes.set_title(title, fontsize=8)


def _outline(axes, boxes: Boxes3D, colour: str, line: str, width: float) -> None:
    """The floor of every box and a line from its middle to its front."""
    corners = box_corners(boxes.center, boxes.size, boxes.yaw)[..., :2]
    floor, front = corners[:, [2, 3, 7, 6, 2]], corners[:, [2, 3]].mean(axis=1)
    for polygon, tip, middle in zip(floor, front, boxes.center[:, :2]):
        axes.plot(-polygon[:, 1], polygon[:, 0], color=colour, ls=line, lw=width)
        axes.plot([-middle[1], -tip[1]], [middle[0], tip[0]], color=colour, lw=width)


def _name(axes, labels: list[tuple[float, float, float, str, str]], reach: float) -> None:
    """Score, x, y, class and colour of words: written there, the best first, unless another stands in the way."""
    taken: list[tuple[float, float]] = []
    inches = axes.bbox.width / axes.figure.dpi
    line, width = 2 * reach * 0.11 / inches, 2 * reach * 1.1 / inches  # what a word of this size covers, in metres
    for score, x, y, name, colour in sorted(labels, reverse=True):
        if all(abs(x - other_x) > line or abs(y - other_y) > width for other_x, other_y in taken):
            text = {"color": colour, "fontsize": 6.5, "va": "center", "clip_on": True, "in_layout": False}
            axes.text(-y + 0.025 * reach, x, f"{name} {score:.2f}", **text)
            taken.append((x, y))
