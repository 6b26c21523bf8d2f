"""Runs side by side: what their configs differ in, and what came of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception.commit import read_file
from perception.errors import PerceptionError, missing_extra
from perception.files import make_folder, writing
from perception.plain_yaml import parse_yaml
from perception.text import aligned

_SCORES = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


@dataclass(frozen=True)
class Run:
    """name: its folder.  config: key -> value, of all keys.  rows: of its log, in order of steps."""

    name: str
    config: dict[str, Any]
    rows: list[dict]

    def of(self, kind: str) -> list[dict]:
        """The rows of a kind: "steps", "epoch" or "validation"."""
        return [row for row in self.rows if row.get("kind") == kind]

    @property
    def best(self) -> dict:
        """The validation of the best NDS; empty without any."""
        return max(self.of("validation"), key=lambda row: row.get("NDS", -math.inf), default={})


def read_run(folder: str | Path) -> Run:
    """What a training has left in its folder; a line of the log that a crash has cut is passed over.

    Raises:
        PerceptionError: the folder holds no run.
    """
    folder = Path(folder)
    try:
        text = read_file(folder / "config.yaml").decode()
        lines = (folder / "log.jsonl").read_text(errors="replace").splitlines()
    except OSError as error:
        raise PerceptionError(f"{folder}: a run, with config.yaml and log.jsonl, was expected: {error}") from None
    return Run(str(folder), dict(_flat(parse_yaml(text, str(folder / "config.yaml")))), list(_rows(lines)))


def table(runs: Sequence[Run]) -> str:
    """A line for each run: how far it came, its last loss, and its best scores."""
    header = ("", "epochs", "step", "hours", "frames/s", "data", "loss", "of epoch", *_SCORES)
    lines: list[tuple[str, ...]] = [header]
    for run in runs:
        epochs, last, best = run.of("epoch"), (run.rows or [{}])[-1], run.best
        timed: dict = next((row for row in reversed(run.rows) if "elapsed_s" in row), {})
        epoch = epochs[-1] if epochs else {}
        lines.append(
            (
                run.name, f"{len(epochs)}/{run.config.get('train.epochs', '?')}", str(last.get("step", 0)),
                _number(timed.get("elapsed_s"), 1 / 3600, 2), _number(epoch.get("samples_per_s"), 1, 1),
                _number(epoch.get("data_share"), 100, 0, " %"), _number(epoch.get("total"), 1, 3),
                str(best.get("epoch", "-")), *(_number(best.get(name), 1, 4) for name in _SCORES),
            )
        )  # fmt: skip
    return aligned(lines)


def differences(runs: Sequence[Run]) -> str:
    """A line for each key in which the configs differ; empty where they do not."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    differing = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    lines = [(key, *(_short(run.config.get(key, "-")) for run in runs)) for key in differing]
    return aligned([("", *(run.name for run in runs)), *lines], left=range(len(runs) + 1)) if lines else ""


def plot(runs: Sequence[Run], path: Path) -> None:
    """Loss by step, and NDS by step where there are scores, as a picture.

    Raises:
        PerceptionError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise PerceptionError(missing_extra("viz", "plots need matplotlib")) from None
    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise PerceptionError(f"{path}: a file .png, .pdf or .svg was expected")
    kinds = [("steps", "total", "loss")]
    if any(run.of("validation") for run in runs):
        kinds.append(("validation", "NDS", "NDS"))
    figure = Figure(figsize=(6 * len(kinds), 4), layout="constrained")
    for axes, (kind, key, label) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
        for run in runs:
            rows = [row for row in run.of(kind) if key in row]
            axes.plot([row["step"] for row in rows], [row[key] for row in rows], label=run.name, marker=".")
        axes.set(xlabel="step", ylabel=label)
        axes.legend(fontsize=8)
    with writing(path):
        make_folder(path.parent)
        figure.savefig(path)


def _rows(lines: Sequence[str]) -> Iterator[dict]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield row


def _flat(values: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict) or not values:
        yield prefix, values
        return
    for key, value in values.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _number(value: Any, factor: float, digits: int, unit: str = "") -> str:
    return f"{value * factor:.{digits}f}{unit}" if isinstance(value, int | float) else "-"


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 40 else f"{text[:37]}..."
