"""Figures into documents: what stands in a document was printed by a command, and can be printed again."""

from __future__ import annotations

import json
from pathlib import Path

from perception.errors import PerceptionError

_COLUMNS = ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE")


def put_between_markers(path: Path, generated: str, name: str = "generated") -> None:
    """Replace what stands between the lines ``<!-- name -->`` and ``<!-- end -->`` of a document.

    Raises:
        PerceptionError: the document cannot be read, or has no such lines.
    """
    begin, end = f"<!-- {name} -->", "<!-- end -->"
    try:
        text = path.read_text()
    except OSError as error:
        raise PerceptionError(f"{path}: cannot be read: {error.strerror}") from None
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise PerceptionError(f"{path}: the lines {begin} and {end} were expected, found none")
    path.write_text(f"{head}{begin}\n{generated}\n{end}{tail}")


def scores_tables(path: Path) -> str:
    """Markdown tables of a file written by ``tools/evaluate.py``: a row per set of sensors, and a row per class.

    Raises:
        PerceptionError: the file is not such a file.
    """
    try:
        report = json.loads(path.read_text())
        subsets, ground_truth = report["subsets"], report["ground_truth"]
        lines = [f"| sensors | {' | '.join(_COLUMNS)} | boxes |", "|---|" + "---|" * (len(_COLUMNS) + 1)]
        for name, scores in subsets.items():
            lines.append(f"| {name} | {' | '.join(_number(scores[c]) for c in _COLUMNS)} | {scores['boxes']} |")
        lines += ["", f"| AP | ground truth | {' | '.join(subsets)} |", "|---|---|" + "---|" * len(subsets)]
        for label, count in ground_truth.items():
            values = " | ".join(_number(scores["AP"][label]) for scores in subsets.values())
            lines.append(f"| {label} | {count} | {values} |")
        lines += ["", f"{report['frames']} frames; weights `{report['weights_sha256'][:12]}`."]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PerceptionError(f"{path}: a file written by tools/evaluate.py was expected: {error!r}") from None
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
