"""How the node is doing, as diagnostic_msgs/msg/DiagnosticArray: one status of the stream, one of each sensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perception.logs.rig import CameraSource, CloudSource
from perception.vitals import Health, SensorHealth

LEVELS = {"OK": 0, "WARN": 1, "ERROR": 2, "STALE": 3}  # diagnostic_msgs/msg/DiagnosticStatus


@dataclass(frozen=True)
class Status:
    """One line of diagnostics. level: a key of LEVELS.  values: what is shown beneath it."""

    name: str
    level: str
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


def of_node(state: str, problem: str, health: Health | None, values: Mapping[str, object]) -> Status:
    """Of the whole node.

    Args:
        state: of the lifecycle.  problem: why the last transition failed, "" if it did not.
        health: None while the node is not active.  values: more of them, to be shown.
    """
    shown: dict[str, object] = {"state": state, **values}
    if health is None:
        return Status("node", "ERROR" if problem else "OK", problem or state, shown)
    shown["results"] = health.results
    shown |= {f"latency {name}": f"{ms:.1f} ms" for name, ms in health.latency_ms.items()}
    return Status("node", health.level, "; ".join(health.reasons) or "all is well", shown | health.counts)


def of_sensor(
    name: str, source: CameraSource | CloudSource, health: SensorHealth, problems: list[str], stale_s: float
) -> Status:
    """Of one sensor.

    Args:
        problems: of its topics, such as no publisher; any makes it an error until data comes.
        stale_s: silence for longer is a warning, for the state is that of a result, and there may be none any more.
    """
    is_silent = health.age_s is not None and health.age_s > stale_s
    is_well = health.state == "active" and not is_silent
    level = "ERROR" if problems else "OK" if is_well else "WARN"
    said = [health.state, *([f"nothing for {health.age_s:.1f} s"] if is_silent else []), *problems]
    values = {
        "topic": source.topic,
        "state": health.state,
        "rate": "unknown" if health.rate_hz is None else f"{health.rate_hz:.1f} Hz",
        "age": "none has come" if health.age_s is None else f"{health.age_s:.2f} s",
        "received": health.received,
        "dropped": health.dropped,
    }
    return Status(name, level, "; ".join(said), values)


def diagnostic_array(node: str, timestamp_ns: int, statuses: list[Status]) -> Any:
    """The message; every status is named ``node: name``."""
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

    from perception.ros2.messages import header

    message = DiagnosticArray(header=header("", timestamp_ns))
    for status in statuses:
        values = [KeyValue(key=key, value=str(value)) for key, value in status.values.items()]
        made = DiagnosticStatus(name=f"{node}: {status.name}", message=status.message, values=values)
        made.level = bytes([LEVELS[status.level]])
        message.status.append(made)
    return message
