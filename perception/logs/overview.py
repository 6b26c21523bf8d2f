"""Many logs at a glance: what each holds, whether a replay can use it, and the first thing that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from perception.errors import PerceptionError
from perception.logs.doctor import counts, diagnose
from perception.logs.inspect import LogInfo, counted, inspect
from perception.logs.log import open_log
from perception.logs.rehearsal import rehearse
from perception.logs.rig import Rig

HEADER = ("log", "seconds", "messages", "sensors", "frames tried", "found", "above all")


def rows(paths: Iterable[str | Path], rig: Rig | None = None, **options) -> Iterator[tuple[tuple[str, ...], bool]]:
    """The cells of each log's row, as in HEADER, and whether it is without errors.

    options: as :func:`open_log` takes them.
    """
    for path in paths:
        try:
            with open_log(path, strict=False, **options) as log:
                info = inspect(log, rig)
                rehearsal = rehearse(log, rig, info.duration_s)
        except PerceptionError as error:
            yield (str(path), "", "", "", "", "not opened", str(error).removeprefix(f"{path}: ")), False
            continue
        findings = diagnose(info, rehearsal)
        messages = sum(topic.count or 0 for topic in info.topics.values())
        contents = (f"{info.duration_s:.1f}", f"{messages:,}", _sensors(info), str(rehearsal.frames))
        first = "; ".join(finding.text for finding in findings[:2])
        yield (
            (str(path), *contents, counts(findings) or "nothing", first),
            "error" not in {f.severity for f in findings},
        )


def _sensors(info: LogInfo) -> str:
    kinds: dict[str, Mapping] = {"camera": info.rig.cameras, "LiDAR": info.rig.lidars, "radar": info.rig.radars}
    return ", ".join(counted(len(sensors), kind) for kind, sensors in kinds.items() if sensors) or "none"
