"""The check itself: starts the processes, and compares what they saw."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

import perception
from perception.logs.default_rig import rig_of
from perception.logs.frames import LogFrames, assembly_for
from perception.logs.log import is_nuscenes, open_log
from perception.logs.rig import Rig, to_yaml
from perception.replay.perceiver import Perceiver
from perception.ros2.messages import OUTPUTS, in_object_axes
from perception.ros2.node import NAME
from ros2_checking.operator import Operator

TOOLS = Path(__file__).parents[1]
_SMALL = [
    "encoders.camera.image_size=[64,128]", "encoders.camera.weights=none", "encoders.camera.channels=16",
    "encoders.camera.depth_bins=8", "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8",
    "grid.x_min_m=-25.6", "grid.x_max_m=25.6", "grid.y_min_m=-25.6", "grid.y_max_m=25.6",
    "fusion.channels=16", "fusion.heads=2", "head.trunk_channels=[16,16]", "head.channels=16",
    "head.score_threshold=0.0", "head.max_detections=50",
]  # fmt: skip
_DEAD_AFTER_S = 2.5
_PATIENCE_S = 300.0  # for the results
_SHORT_S = 5.0  # of the log, for what needs no more


def converted(log: Path, folder: Path) -> Path:
    """The log as a ROS 2 bag."""
    if not is_nuscenes(log):
        return log
    from perception.cli import run

    run(["convert", str(log), "--to", "ros2", "--out", str(folder / "bag"), "-q"])
    return folder / "bag"


def check(bag: Path, checkpoint: str | None, rate: float, seconds: float, folder: Path) -> int:
    """Prints what it finds, as it finds it; returns how much of it is not as it must be."""
    checkpoint = checkpoint or str(_small_checkpoint(folder))
    with open_log(bag) as log:
        rig = rig_of(log, None)
    (folder / "rig.yaml").write_text(to_yaml(rig))
    parameters = {
        "checkpoint": checkpoint, "device": "cpu", "rig": str(folder / "rig.yaml"), "score_threshold": 0.0,
        "every_frame": True, "use_sim_time": True, "queue": 64, "deadline_s": 1.5, "hang_s": 60.0, "stale_s": 60.0,
        "reliability": "reliable",
    }  # fmt: skip
    # JSON is YAML, and tells texts from numbers
    (folder / "node.yaml").write_text(json.dumps({NAME: {"ros__parameters": parameters}}))
    problems = 0

    def require(what: str, holds: bool, found: object = "") -> None:
        nonlocal problems
        problems += not holds
        print(f"{'ok' if holds else 'NOT':<4}{what}{f': {found}' if found != '' else ''}", flush=True)

    with _process("ros2_node.py", "--params", folder / "node.yaml") as node:
        operator = Operator(NAME)
        require("a node begins", operator.state() == "unconfigured", operator.state())
        require("configure", *_reached(operator, "configure", "inactive"))
        with _listening(folder / "heard.json"):
            require("the listener is there", operator.is_heard([f"/{NAME}/{topic}" for topic in OUTPUTS]))
            require("activate", *_reached(operator, "activate", "active"))
            _play(folder, bag, "--rate", rate, "--seconds", seconds)
            expected = list(_replayed(bag, rig, checkpoint, seconds))
            operator.see(lambda s: int(s["node"][2].get("results", 0)) >= len(expected), _PATIENCE_S)
            time.sleep(2.0)  # another one would be too many
            values = operator.statuses["node"][2]
        heard = json.loads((folder / "heard.json").read_text())
        published = json.loads((folder / "published.json").read_text())
        print("\n".join(_latency(heard, published, rig, rate, values)))
        print(f"messages heard: {heard['counts']}", flush=True)
        _compare(heard, expected, require)
        require("a parameter is changed", operator.set("score_threshold", 0.9)[0])
        for name, value in (("score_threshold", 2.0), ("checkpoint", "sim"), ("queue", "many")):
            taken, reason = operator.set(name, value)
            require(f"{name} = {value} is refused", not taken, reason)
        _dead_camera(operator, bag, rig, rate, folder, require)
        require("deactivate", *_reached(operator, "deactivate", "inactive"))
        require("cleanup", *_reached(operator, "cleanup", "unconfigured"))
        require("parameters of a node that is not configured", operator.set("rig", str(folder / "no.yaml"))[0])
        require("configure without the rig's file is refused", not operator.change("configure")[0])
        said = operator.see(lambda s: s["node"][0] == 2, 10)
        require("and diagnostics say why", said, operator.statuses["node"][1])
        operator.set("rig", str(folder / "rig.yaml"))
        require("configure again", *_reached(operator, "configure", "inactive"))
        require("activate again", *_reached(operator, "activate", "active"))
        _mismatch(operator, bag, rig, folder, require)
        require("shutdown", *_reached(operator, "shutdown", "finalized"))
        operator.close()
        require("the process ends with 0", node.wait(60) == 0, node.returncode)
    return problems


def _small_checkpoint(folder: Path) -> Path:
    torch.manual_seed(0)
    perception.build(perception.load_config(None, _SMALL)).save(folder / "small")
    return folder / "small"


@contextmanager
def _process(*command: object, **options: Any) -> Iterator[subprocess.Popen]:
    """A script or a module of the tools; ended with the block."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLS), str(TOOLS.parent)])}
    environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    first, *rest = map(str, command)
    words = [str(TOOLS / first)] if first.endswith(".py") else ["-m", first]
    process = subprocess.Popen([sys.executable, *words, *rest], env=environment, **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


@contextmanager
def _listening(out: Path) -> Iterator[None]:
    with _process("ros2_checking.listener", "--out", out, stdin=subprocess.PIPE) as listener:
        yield
        listener.communicate(timeout=60)  # closes its input, at whose end it ends


def _play(folder: Path, bag: Path, *options: object) -> None:
    with _process("ros2_checking.player", bag, "--out", folder / "published.json", *options) as player:
        player.wait()


def _reached(operator: Operator, transition: str, state: str) -> tuple[bool, str]:
    success, found = operator.change(transition)
    return success and found == state, found


def _replayed(bag: Path, rig: Rig, checkpoint: str, seconds: float) -> Iterator[tuple[int, perception.Detections]]:
    """(time, detections) of the frames of the log, by the way of a replay."""
    detector = perception.load(checkpoint)
    perceiver = Perceiver(detector)
    with open_log(bag, duration_s=seconds if seconds < 1e6 else None) as log:
        options = {"image_size": detector.inputs.covering, "sensors": detector.sensors}
        for frame in LogFrames(log, rig, assembly_for(detector.config.data, **options)):
            yield frame.timestamp_ns, perceiver.step(frame).detections


def _compare(heard: dict, expected: list, require: Callable) -> None:
    found = {stamp_ns: boxes for stamp_ns, _, boxes in heard["results"]}
    missing = [stamp_ns for stamp_ns, _ in expected if stamp_ns not in found]
    extra = sorted(set(found) - {stamp_ns for stamp_ns, _ in expected})
    counts = f"{len(found)} of the node, {len(expected)} of the replay, {len(missing)} missing, {len(extra)} more"
    require("the node has the frames of the replay", bool(expected) and not missing and not extra, counts)
    exact, boxes_seen, yaw_rad, twist_mps = 0, 0, 0.0, 0.0
    for stamp_ns, detections in expected:
        if stamp_ns not in found:
            continue
        rows, boxes = found[stamp_ns], detections.boxes
        classes = [perception.CLASSES[label] for label in boxes.label]
        numbers = np.column_stack([detections.scores, boxes.center, boxes.size]).tolist()
        exact += [row[:1] + row[1:8] for row in rows] == [[c, *values] for c, values in zip(classes, numbers)]
        boxes_seen += len(rows)
        twists = heard["twists"].get(str(stamp_ns), [])
        if len(rows) != len(boxes.yaw) or len(twists) != len(rows):
            require(f"as many boxes at {stamp_ns}", False, f"{len(rows)}, {len(twists)}, {len(boxes.yaw)}")
            continue
        for row, twist, yaw, velocity in zip(rows, twists, boxes.yaw, boxes.velocity):
            turned = 2 * math.atan2(row[8], row[9]) - yaw
            yaw_rad = float(np.maximum(yaw_rad, abs(math.remainder(turned, math.tau))))
            wanted = in_object_axes(np.nan_to_num(velocity).tolist(), float(yaw))  # one that is unknown is sent as 0
            twist_mps = float(np.max([twist_mps, *(abs(a - b) for a, b in zip(twist, wanted))]))  # NaN stays
    same = f"{exact} of {len(expected)} frames, {boxes_seen} boxes"
    require("class, score, position and size equal the replay's to the bit", exact == len(expected), same)
    require(
        "yaw and twist do up to rounding",
        yaw_rad < 1e-9 and twist_mps < 1e-9,
        f"{yaw_rad:.1e} rad, {twist_mps:.1e} m/s",
    )


def _latency(heard: dict, published: list, rig: Rig, rate: float, values: dict[str, str]) -> list[str]:
    """From when the last measurement of a frame was published until its result was received."""
    sensors = {source.topic for source in rig.sensors.values()}
    sent = np.array([[at_ns, mono_ns] for topic, at_ns, mono_ns in published if topic in sensors], np.int64)
    took_ms = []
    for stamp_ns, received_ns, _ in heard["results"]:
        near = sent[np.abs(sent[:, 0] - stamp_ns) <= 50_000_000]
        if len(near):
            took_ms.append(1e-6 * (received_ns - near[:, 1].max()))
    lines = [f"{len(took_ms)} results, played at {rate:g} of real time"]
    if took_ms:
        p50, p99 = np.quantile(took_ms, (0.5, 0.99))
        lines.append(
            f"publish to result, in the listener: p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {max(took_ms):.0f} ms"
        )
    complete = ", ".join(f"{key.removeprefix('latency ')} {values[key]}" for key in sorted(values) if "latency" in key)
    return [*lines, f"of it, from a complete frame to its result, by the clock of the log: {complete}"]


def _dead_camera(operator: Operator, bag: Path, rig: Rig, rate: float, folder: Path, require: Callable) -> None:
    name = sorted(rig.cameras)[0]
    for transition, state in (("deactivate", "inactive"), ("activate", "active")):
        require(transition, *_reached(operator, transition, state))
    options = ("--rate", rate, "--seconds", _SHORT_S, "--dead", rig.cameras[name].image, "--dead-after", _DEAD_AFTER_S)
    seen: list[tuple[int, str]] = []

    def watched(statuses: dict) -> bool:
        level, message, _ = statuses.get(name, (-1, "", {}))
        if not seen or seen[-1] != (level, message):
            seen.append((level, message))
        return level == 1 and message.startswith("stale")

    with _process("ros2_checking.player", bag, "--out", folder / "published.json", *options) as player:
        stale = operator.see(watched, 60 + 2 * _SHORT_S / rate)
        player.wait()
    require(f"{name} falls silent, which diagnostics show", stale and (0, "active") in seen, seen)


def _mismatch(operator: Operator, bag: Path, rig: Rig, folder: Path, require: Callable) -> None:
    """The node asks for reliable images and clouds; the player offers them as best effort."""
    name = sorted(rig.lidars or rig.cameras)[0]
    options = ("--reliability", "best_effort", "--seconds", 0.5, "--wait", 15)
    with _process("ros2_checking.player", bag, "--out", folder / "published.json", *options) as player:
        told = operator.see(lambda s: s.get(name, (0, ""))[0] == 2 and "QoS" in s[name][1], 60)
        player.wait()
    require("a QoS that does not match is in diagnostics", told, operator.statuses.get(name, (0, "nothing"))[1])
