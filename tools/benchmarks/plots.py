"""The results of a benchmark as pictures."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.report import BLOCKS, SENSOR_SETS, condition_of, key_of, mean_resistance, select
from perception.errors import PerceptionError, missing_extra

_COLOURS = {"attention": "#1b6ca8", "average": "#f2a541", "concat": "#a83232"}


def draw_plots(files: Sequence[Path], folder: Path) -> Iterator[Path]:
    """PNG files in ``folder``: subsets, multicorrupt, ablation and calibration, of whatever the JSON files hold.

    Raises:
        PerceptionError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise PerceptionError(missing_extra("viz", "plots need matplotlib")) from None
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        content = json.loads(file.read_text())
        if isinstance(content, list) and content and "run" in content[0]:
            shipped, ablation = select(content, run="shipped"), select(content, run="ablation")
            if shipped:
                yield _save(_subsets(shipped), folder / "subsets.png")
                yield _save(_multicorrupt(shipped), folder / "multicorrupt.png")
            if ablation:
                yield _save(_ablation(ablation), folder / "ablation.png")
        elif isinstance(content, dict) and "subsets" in content and "ground_truth" not in content:
            yield _save(_calibration(content["subsets"]), folder / "calibration.png")


def _save(figure, path: Path) -> Path:
    figure.savefig(path, dpi=110, bbox_inches="tight")
    import matplotlib.pyplot as plt

    plt.close(figure)
    return path


def _subsets(rows: Sequence[dict]):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6))
    for offset, (column, colour) in enumerate((("mAP", "#1b6ca8"), ("NDS", "#7fb2d9"))):
        values = [[row[column] for row in select(rows, condition=condition_of(name))] for name in SENSOR_SETS]
        means = [statistics.mean(v) if v else 0 for v in values]
        spread = [statistics.stdev(v) if len(v) > 1 else 0 for v in values]
        where = np.arange(len(SENSOR_SETS)) + 0.4 * offset - 0.2
        bars = axes.bar(where, means, 0.38, yerr=spread, color=colour, label=column, error_kw={"lw": 1})
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(SENSOR_SETS)), [name.replace("+", "+\n") for name in SENSOR_SETS], fontsize=8)
    axes.set_title("One checkpoint, every set of sensors (simulated drives)")
    axes.legend(loc="upper right", ncols=2)
    axes.margins(y=0.2)
    return figure


def _multicorrupt(rows: Sequence[dict]):
    import matplotlib.pyplot as plt

    rows = select(rows, drives=rows[0]["drives"])
    _, resistance = mean_resistance(rows)
    figure, axes = plt.subplots(figsize=(8, 3.6))
    for i, colour in enumerate(("#bcd9ea", "#5d9ec7", "#1b4f72")):
        values = [cells[i] if i < len(cells) else math.nan for cells in resistance.values()]
        axes.bar(np.arange(len(values)) + 0.27 * (i - 1), values, 0.25, color=colour, label=f"severity {i + 1}")
    axes.axhline(1, color="grey", lw=0.8)
    axes.set_xticks(range(len(resistance)), [name[3:].replace("_", "\n") for name in resistance], fontsize=8)
    axes.set_ylabel("NDS / clean NDS")
    axes.set_title("MultiCorrupt")
    axes.legend(loc="lower left", fontsize=8)
    return figure


def _ablation(rows: Sequence[dict]):
    import matplotlib.pyplot as plt

    keys = list(dict.fromkeys(key_of(row) for row in rows))
    blocks = [block for block in BLOCKS if select(rows, fusion=block)]
    figure, axes = plt.subplots(figsize=(10, 3.8))
    for i, block in enumerate(blocks):
        for k, key in enumerate(keys):
            values = [row["mAP"] for row in select(rows, fusion=block) if key_of(row) == key]
            where = k + 0.27 * (i - (len(blocks) - 1) / 2)
            axes.bar(
                where, statistics.mean(values), 0.25, color=_COLOURS[block], label=block if not k else None, alpha=0.75
            )
            axes.plot([where] * len(values), values, "k.", ms=3)
    axes.set_xticks(range(len(keys)), [key.replace("+", "+\n").replace(":", ":\n") for key in keys], fontsize=7)
    axes.set_ylabel("mAP")
    axes.set_title("Fusion blocks on the same frozen encoders; dots are training seeds")
    axes.legend(fontsize=8)
    return figure


def _calibration(subsets: dict):
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1, 1.2))
    left.plot([0, 1], [0, 1], color="grey", lw=0.8)
    for name, report in subsets.items():
        score, share, count = zip(*report["reliability"])
        left.plot(score, share, "o-", ms=3, label=f"{name} (ECE {report['ECE']:.3f})")
    left.set(xlabel="score", ylabel="share that is right", title="Reliability")
    left.legend(fontsize=7)
    first = next(iter(subsets))
    classes = [*subsets[first]["ECE_by_class"], "nothing"]
    matrix = np.array(subsets[first]["confusion"], dtype=float)
    right.imshow(np.sqrt(matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)), cmap="Blues")
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            right.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=6)
    right.set_xticks(range(len(classes)), [*classes[:-1], "missed"], rotation=60, ha="right", fontsize=7)
    right.set_yticks(range(len(classes)), classes, fontsize=7)
    right.set_title(f"Confusion, {first} (rows: what is there)")
    return figure
