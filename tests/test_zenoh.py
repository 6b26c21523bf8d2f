"""docs/examples/zenoh_node.py: publisher, node and subscriber, each a process of its own, on the loopback interface."""

import importlib.util
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_drive import save_tiny_detector

from perception.errors import PerceptionError
from perception.stream import Stream
from perception.task import NUSCENES

vehicle = pytest.importorskip("soaking.vehicle", reason="tools are no part of the package")
ROOT = Path(__file__).parents[1]
NODE = ROOT / "docs/examples/zenoh_node.py"
WAIT_S = 120  # for another process, which is seconds unless something is wrong
RIG = """
world_frame: map
reference: ROOF
cameras:
  FRONT: {image: FRONT, calibration: FRONT/info, ego_SE3_sensor: [0, 0, 1.6, 0.5, -0.5, 0.5, -0.5]}
lidars:
  ROOF: {cloud: ROOF, ego_SE3_sensor: [0, 0, 1.8, 1, 0, 0, 0]}
"""
PUBLISHER = """
import io, json, sys, time
import numpy as np, zenoh
from soaking.vehicle import START_NS, drive, without
from zenoh_node import loopback

def npy(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()

with zenoh.open(loopback(connect=sys.argv[1])) as session:
    probe = session.declare_publisher("perception/transform")
    while not probe.matching_status.matching:
        time.sleep(0.05)
    camera = {"intrinsics": [[20, 0, 12], [0, 20, 8], [0, 0, 1]], "distortion": [], "timestamp_ns": None}
    session.put("perception/calibration/FRONT", json.dumps(camera))
    began = time.monotonic_ns()
    for event in without(drive(100_000), ["BACK", "NOSE"]):
        time.sleep(max(0, event.arrives_ns - START_NS - time.monotonic_ns() + began) * 1e-9)
        if event.what == "pose":
            said = {"parent": "map", "child": "base_link", "pose": event.data.pose.tolist()}
            session.put("perception/transform", json.dumps({**said, "timestamp_ns": event.timestamp_ns}))
            continue
        stamp = json.dumps({"timestamp_ns": event.timestamp_ns})
        session.put(f"perception/sensor/{event.what}", npy(event.data), attachment=stamp)
        session.put("perception/sensor/ROOF", npy(np.array([{}], dtype=object)), attachment=stamp)  # a pickle
        session.put("perception/sensor/NOBODY", npy(event.data), attachment=stamp)
        session.put("perception/transform", b"{")
"""
SUBSCRIBER = """
import sys, time
import zenoh
from zenoh_node import loopback
with zenoh.open(loopback(connect=sys.argv[1])) as session:
    results = session.declare_subscriber("perception/result")
    for number, sample in enumerate(results):
        print(sample.payload.to_string(), flush=True)
        if number == 2:
            break
"""


@pytest.fixture(scope="module")
def node():
    spec = importlib.util.spec_from_file_location("zenoh_node", NODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


AT = b'{"timestamp_ns": 1}'
POINTS = npy(np.zeros((2, 4), np.float32))


@pytest.mark.parametrize(
    ("key", "payload", "attachment", "error"),
    [
        ("sensor/ROOF", POINTS, AT, None),
        ("sensor/ROOF", npy(np.array([{}], dtype=object), allow_pickle=True), AT, "allow_pickle=False"),
        ("sensor/ROOF", POINTS[:-1], AT, "."),
        ("sensor/ROOF", b"", AT, "."),
        ("sensor/ROOF", POINTS, b"null", "subscriptable"),
        ("sensor/ROOF", POINTS, b"{}", "timestamp_ns"),
        ("sensor/ROOF", POINTS, b'{"timestamp_ns": "now"}', "nanoseconds above 0 were expected"),
        ("sensor/ROOF", npy(np.zeros(3)), AT, r"float32 \[N, 3..5\] was expected"),
        ("sensor/NOBODY", POINTS, AT, "a sensor of the rig was expected"),
        ("transform", b"[" * 100_000, b"null", "."),
        ("transform", b'{"parent": "map", "child": "base_link", "pose": [1], "timestamp_ns": 1}', b"null", "."),
        ("calibration/FRONT", b'{"intrinsics": [[1, 2], [3]], "distortion": [], "timestamp_ns": null}', b"null", "."),
    ],
)
def test_what_came_is_pushed_or_refused(node, key, payload, attachment, error):
    stream = Stream(vehicle.Stub(), vehicle.rig())
    if error is None:
        node.push(stream, f"perception/{key}", payload, attachment)
        assert stream.health().sensors["ROOF"].received == 1
        return
    expected = (PerceptionError, ValueError, KeyError, TypeError, RecursionError)
    with pytest.raises(expected, match=error):
        node.push(stream, f"perception/{key}", payload, attachment)
    assert sum(sensor.received for sensor in stream.health().sensors.values()) == 0


def test_results_are_plain_json(node):
    clock = vehicle.Clock()
    stream = Stream(vehicle.Stub(), vehicle.rig(), clock=clock, every_frame=True)
    vehicle.describe(stream)
    results = list(vehicle.fed(stream, clock, vehicle.without(vehicle.drive(14), ["NOSE"])))
    said = json.loads(node.result_json(results[-1], NUSCENES.classes))
    assert said["timestamp_ns"] == results[-1].timestamp_ns and said["sensors"]["NOSE"]["state"] == "waiting"
    tracks = results[-1].tracks
    assert len(said["world_SE3_ego"]) == 7 and said["ids"] == tracks.ids.tolist()
    assert np.array_equal(said["center"], tracks.boxes.center)


def test_systemd_is_notified(node, tmp_path, monkeypatch):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    node.notify("READY=1")  # to nobody
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        node.notify("WATCHDOG=1")
        assert systemd.recv(100) == b"WATCHDOG=1"


@pytest.mark.long
@pytest.mark.slow
def test_publisher_node_and_subscriber(tmp_path):
    pytest.importorskip("zenoh", reason="the Zenoh example needs: pip install eclipse-zenoh")
    (tmp_path / "rig.yaml").write_text(RIG)
    save_tiny_detector(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tools", NODE.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    check = [sys.executable, NODE, "--check", "--endpoint", endpoint]
    options = {"cwd": tmp_path, "env": environment, "text": True}
    assert subprocess.run(check, **options).returncode == 1  # there is none yet
    running = []

    def start(*command) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running.append(subprocess.Popen([sys.executable, *command], **pipes, **options))
        return running[-1]

    try:
        node = start(NODE, "--checkpoint", tmp_path / "tiny", "--endpoint", endpoint)
        until = time.monotonic() + WAIT_S
        while subprocess.run(check, capture_output=True, **options).returncode and time.monotonic() < until:
            assert node.poll() is None, node.communicate()
        subscriber = start("-c", SUBSCRIBER, endpoint)
        publisher = start("-c", PUBLISHER, endpoint)
        printed, failure = subscriber.communicate(timeout=WAIT_S)
        assert subscriber.returncode == 0, failure
        publisher.kill()
        asked = subprocess.run(check, capture_output=True, **options)
        node.terminate()
        _, logged = node.communicate(timeout=WAIT_S)
    finally:
        for process in running:
            process.kill()
    results = [json.loads(line) for line in printed.splitlines()]
    assert len(results) == 3
    stamps = [result["timestamp_ns"] for result in results]
    assert stamps == sorted(set(stamps)) and set(results[0]["sensors"]) == {"FRONT", "ROOF"}
    assert asked.stdout in ("OK\n", "WARN\n", "STALE\n", "ERROR\n")  # the last where the machine is slow
    assert asked.returncode == (asked.stdout == "ERROR\n")
    assert node.returncode == 0, logged
    for key in ("sensor/ROOF: ValueError", "sensor/NOBODY: StreamError", "transform: JSONDecodeError"):
        assert logged.count(f"perception/{key}") == 1, logged  # named once, and the node goes on
