"""Rows of benchmarks as the Markdown of docs/performance.md."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.suite import extra_path, read_rows
from perception.text import markdown

GPU_ROWS = ("gpu_voxelize", "gpu_bev_pool", "gpu_frame")
_HEAD = ("benchmark", "beside", "ours, ms", "peer, ms", "ratio", "our peak, MB", "device")


def performance(path: Path) -> str:
    """All tables of what ``tools/benchmark.py --json path`` wrote."""
    rows = read_rows(path)
    lines = markdown(_HEAD, [_cells(row) for row in rows])
    absent = [name for name in GPU_ROWS if name not in {row["name"] for row in rows}]
    if absent:
        lines += ["", f"Still to be taken, for want of a GPU: {', '.join(f'`{name}`' for name in absent)}."]
    for name, title, head in (
        ("model", "The stages of a frame", ("stage", "parameters", "GFLOP", "MB", "ms", "share of the roofline")),
        (
            "shards",
            "Samples from loose files and from shards",
            (
                "form",
                "samples",
                "files opened a sample",
                "MB a sample",
                "samples/s, cold",
                "samples/s, warm",
                "CPU ms a sample",
            ),
        ),
        (
            "shards_lidar",
            "Detections when LiDAR points move",
            ("points", "frames", "the same to 1e-3", "scores, median", "scores, at most", "centres, at most, m"),
        ),
        ("accuracy", "Accuracy of the shipped checkpoint", ("images decoded", "mAP", "NDS", "mATE", "mAOE", "mAVE")),
    ):
        extra = read_rows(extra_path(path, name))
        if extra:
            digits = _four_digits if name in ("accuracy", "shards_lidar") else _number
            lines += ["", f"**{title}**", "", *markdown(head, [[digits(v) for v in row.values()] for row in extra])]
    return "\n".join(lines + _replay(path) + _tracks(path))


_REPLAY = {
    "replayed": (
        "One drive in every form, replayed twice",
        {"form": "form", "turn": "run", "frames": "frames", "detections_sha256": "digest of the detections",
         "load_ms": "reading, ms", "detector_ms": "detector, ms", "load_share": "share of reading"},
    ),
    "salvaged": (
        "Recordings cut short",
        {"recording": "recording", "messages_in_complete_chunks": "messages in complete chunks",
         "messages_back": "read back", "share": "share"},
    ),
    "damaged logs": (
        "Damaged logs",
        {"kind": "kind", "inputs": "inputs", "frames": "still gave frames", "refused": "refused in one line",
         "others": "other exceptions", "worst_s": "longest, s of CPU time", "peak_mb": "peak of the process, MB"},
    ),
    "an hour": (
        "An hour of log",
        {"sensors": "sensors", "frames": "frames", "gigabytes": "GB of MCAP", "warm_mb": "after a tenth, MB",
         "most_mb": "at most, MB", "rise_mb": "rise, MB"},
    ),
}  # fmt: skip


def _replay(path: Path) -> list[str]:
    """check -> a table of its rows, with the columns that people read."""
    rows = [row for name in ("replay", "mangled", "hour") for row in read_rows(extra_path(path, name))]
    lines = []
    for check, (title, columns) in _REPLAY.items():
        own = [row for row in rows if row["check"] == check]
        if own:
            cells = [[_cell(key, row[key]) for key in columns] for row in own]
            lines += ["", f"**{title}**", "", *markdown(tuple(columns.values()), cells)]
    return lines


def _tracks(path: Path) -> list[str]:
    """What ``tools/score.py --tracks --json`` wrote beside the rows."""
    source = extra_path(path, "tracks")
    if not source.exists():
        return []
    metrics = json.loads(source.read_text())
    columns = ("AMOTA", "AMOTP", "MOTA", "RECALL", "IDS", "FRAG")
    rows = {"all": metrics, **metrics["classes"]}
    cells = [[name, *("-" if row[c] is None else f"{row[c]:.3g}" for c in columns)] for name, row in rows.items()]
    return ["", "**Tracks on simulated drives, by the devkit's metric**", "", *markdown(("class", *columns), cells)]


def _cell(key: str, value) -> str:
    if key == "detections_sha256":
        return f"`{value[:16]}`"
    if key in ("share", "load_share"):
        return f"{value:.1%}"
    if key == "others":
        return str(sum(value.values()))
    return _number(value)


def _four_digits(value) -> str:
    return str(value) if isinstance(value, str | int) else f"{value:.4f}"


def _cells(row: dict) -> list[str]:
    return [f"`{row['name']}`", row["peer"], *(_number(row[k]) for k in ("ours_ms", "peer_ms")), f"{row['ratio']:.3g}×",
            _number(row["ours_peak_mb"]), row["device"]]  # fmt: skip


def _number(value) -> str:
    """Three digits, or all of a larger number."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
