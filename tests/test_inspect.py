"""What is said about a log: counts, rates, gaps, contents, frames, the rig; and how regular its stamps are."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import (
    START_NS,
    MemoryLog,
    cloud,
    drive,
    every,
    foxglove_log,
    image,
    transform,
    turtlebot_log,
)

from perception.logs.inspect import inspect, table
from perception.logs.messages import Image
from perception.logs.rig import CloudSource, Rig, load_rig, to_yaml
from perception.logs.timing import Histogram, Times


def times_of(stamps_s, delay_s=0.0) -> Times:
    times = Times()
    for stamp in stamps_s:
        at = START_NS + round(stamp * 1e9)
        times.add(at, at + round(delay_s * 1e9))
    return times


def test_a_topic_is_measured():
    log = MemoryLog()
    stamps = [s for s in every(0.1) if not 4.05 < s < 5.95]  # 4.0, then 6.0
    log.add("/lidar/points", cloud("lidar"), stamps, delay_s=0.03)
    log.add("/lidar/points", cloud("lidar", points=0), [10.1], delay_s=0.03)
    info = inspect(log)
    topic = info.topics["/lidar/points"]
    assert topic.count == topic.times.count == len(stamps) + 1
    assert topic.times.interval_ns == pytest.approx(1e8) and topic.times.rate_hz == pytest.approx(10)
    assert (topic.times.gap_ns, topic.times.gap_at_ns) == (2_000_000_000, START_NS + 4_000_000_000)
    assert topic.times.gaps == 1 and topic.times.offsets.median == -30_000_000
    assert (info.start_ns, info.end_ns, info.duration_s) == (START_NS, START_NS + 10_100_000_000, pytest.approx(10.1))
    assert (topic.frame_ids, topic.fields[:4], topic.empty) == (["lidar"], ("x", "y", "z", "intensity"), 1)


def test_the_foxglove_layout_needs_nothing(tmp_path):
    info = inspect(foxglove_log())
    assert info.missing == []
    rig = info.rig
    assert list(rig.sensors) == ["CAM_BACK", "CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"]
    assert (rig.reference, rig.samples, rig.world_frame, rig.ego_frame) == ("LIDAR_TOP", "/sample", "map", "base_link")
    assert not info.transforms["map", "base_link"].constant and info.transforms["base_link", "lidar_top"].constant
    (tmp_path / "rig.yaml").write_text(to_yaml(rig))
    assert load_rig(tmp_path / "rig.yaml") == rig


def test_a_turtlebot_needs_nothing():
    info = inspect(turtlebot_log())
    assert info.missing == []
    assert {name: source.topic for name, source in info.rig.sensors.items()} == {
        "CAM": "/camera/image_raw",
        "LIDAR_VELODYNE": "/velodyne_points",
    }
    assert (info.rig.reference, info.rig.world_frame, info.rig.ego_frame) == ("LIDAR_VELODYNE", "odom", "base_link")
    assert info.transforms["base_link", "velodyne"].static


def test_a_radar_alone():
    log = MemoryLog()
    log.add("/ars548/points", cloud("radar", ("x", "y", "z", "rcs", "doppler")), every(0.05))
    info = inspect(log)
    assert list(info.rig.radars) == ["RADAR_ARS548"] == [info.rig.reference]
    assert info.rig.ego_frame == "radar" and info.rig.world_frame is None
    assert len(info.missing) == 2  # no odometry; the radar's frame stands for the vehicle's


def test_a_rig_that_is_given_is_what_the_log_is_judged_by():
    rig = Rig("odom", lidars={"A": CloudSource(cloud="/velodyne_points"), "B": CloudSource(cloud="/points")})
    info = inspect(turtlebot_log(), rig)
    assert info.rig is rig and info.missing == ["no topic /points, which B is mapped to"]


def test_an_empty_log():
    info = inspect(MemoryLog())
    assert (info.start_ns, info.topics, info.duration_s) == (None, {}, 0)
    assert table(info).splitlines()[0] == "drive.log: nothing that can be decoded, 0 messages, 0 topics"
    assert "no sensor" in table(info)


def test_topics_that_cannot_be_decoded_are_one_line_each():
    log = MemoryLog()
    log.topic("/velodyne_packets", "velodyne_msgs/msg/VelodyneScan", None, "raw packets of the sensor", 1)
    log.topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", None, count=1200)
    log.topic("/unknown", "my/Type", None)
    log.topic("/lidar", "sensor_msgs/msg/PointCloud2", "cloud", count=0)
    text = table(inspect(log))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "/velodyne_packets velodyne_msgs/msg/VelodyneScan 1 message, not decoded: raw packets of the sensor" in lines
    assert "/diagnostics diagnostic_msgs/msg/DiagnosticArray 1,200 messages, not decoded" in lines
    assert "/unknown my/Type messages, not decoded" in lines
    assert "/lidar sensor_msgs/msg/PointCloud2 0 no message decoded" in lines
    assert all(text.count(name) == 1 for name in log.topics)


def test_the_table_is_aligned_and_leaves_out_columns_that_say_nothing():
    lines = table(inspect(turtlebot_log())).splitlines()
    assert lines[0] == (
        "drive.log: 10.0 s, 2023-11-14 22:13:20 to 22:13:30 UTC, 1,208 messages, 5 topics"
    )  # 301 + 301 + 101 + 501 + 4
    head = next(line for line in lines if line.startswith("topic"))
    rows = [line for line in lines if line.startswith("/")]
    assert "stamp - log" not in head and len(rows) == 5
    assert {row[head.index("type") - 1] for row in rows} == {" "}
    assert "  base_link -> camera_link, velodyne (static)" in lines and "  odom -> base_footprint (50 Hz)" in lines
    assert "  reference: LIDAR_VELODYNE" in lines
    log = turtlebot_log()
    log.add("/velodyne_points", cloud("velodyne"), every(0.1), delay_s=2)
    log.stopped, log.damage = "after 3 of 9 chunks", [f"chunk {i}" for i in range(9)]
    lines = table(inspect(log)).splitlines()
    assert lines[1] == "stopped: after 3 of 9 chunks" and lines[6:8] == ["damage: chunk 4", "damage: and 4 more"]


def test_the_size_of_a_compressed_image_is_read_from_it():
    png = cv2.imencode(".png", np.zeros((30, 40, 3), np.uint8))[1].tobytes()
    log = MemoryLog()
    log.add("/good/image", Image("c", "png", png), [0.0])
    log.add("/bad/image", Image("c", "jpeg", b"nonsense"), [0.0])
    log.add("/raw/image", image("c", 64, 48), [0.0])
    topics = inspect(log).topics
    assert [(t.encoding, t.width, t.height) for t in topics.values()] == [
        ("jpeg", 0, 0), ("png", 40, 30), ("rgb8", 64, 48),
    ]  # fmt: skip


def test_static_transforms_do_not_stretch_the_time_range():
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", static=True), [-500.0, None])
    log.add("/lidar", cloud("lidar"), [1.0, 2.0])
    assert inspect(log).duration_s == 1
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", static=True), [-500.0], delay_s=500.0)
    drive(log, "map", "base_link", [1.0, 3.0])
    assert inspect(log).duration_s == 3  # of a log without sensors


def test_disorder_is_counted():
    times = times_of([1, 2, 2, 1.5, 3])
    assert (times.count, times.duplicates, times.backwards, times.worst_back_ns) == (5, 1, 1, 500_000_000)
    assert (times.first_ns, times.last_ns) == (START_NS + 10**9, START_NS + 3 * 10**9)
    times.add(0, 1)
    assert (times.count, times.zeros, times.first_ns) == (6, 1, START_NS + 10**9)


@pytest.mark.parametrize("stamps", [[], [1], [1, 1, 1]])
def test_too_few_stamps_have_no_rate(stamps):
    times = times_of(stamps)
    assert times.interval_ns is None and times.rate_hz is None and times.gaps == 0 and times.lull is None


def test_a_lull_is_found_and_a_gap_is_none():
    slow = [*every(0.1, 10), *(10 + s for s in every(0.3, 6)[1:]), *(16 + s for s in every(0.1, 10)[1:])]
    start, end, rate = times_of(slow).lull
    assert (start - START_NS, end - START_NS) == (pytest.approx(10e9, abs=1e9), pytest.approx(16e9, abs=1e9))
    assert rate == pytest.approx(10 / 3, abs=0.5)
    assert times_of([s for s in every(0.1, 30) if not 10.05 < s < 13.45]).lull is None
    assert times_of(every(0.1, 400)).lull is None


def test_memory_does_not_grow_with_the_log_nor_with_a_jump_of_its_clock():
    times = times_of([*every(0.5, 5000), 9e8])
    assert len(times._windows) <= 128 and len(times.intervals._bins) < 10
    assert sum(times._windows) == times.count


@given(st.lists(st.integers(-(10**19), 10**19), min_size=1))
def test_the_median_of_a_histogram_is_that_of_its_values_to_two_percent(values):
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[(len(values) - 1) // 2]
    assert histogram.median == pytest.approx(exact, rel=0.03)
    assert histogram.above(10**20) == 0 and histogram.above(-(10**20)) == len(values)


def test_recorded_bags_of_packets_are_said_to_be_that():
    if not os.environ.get("PERCEPTION_DATA"):
        pytest.skip("PERCEPTION_DATA is not set: no real recordings to test on")
    rosbag_log = pytest.importorskip("perception.logs.rosbag_log")
    folder = Path(os.environ["PERCEPTION_DATA"]) / "nebula_rosbag2"
    bags = sorted(path.parent for path in folder.rglob("metadata.yaml"))
    assert len(bags) == 4
    for bag in bags:
        reader = rosbag_log.RosbagReader(bag)
        lines = table(inspect(reader)).splitlines()
        reader.close()
        silent = [line for line in lines if "not decoded" in line]
        assert len(silent) == sum(topic.kind is None for topic in reader.topics.values()) > 0
        assert any("packet" in line for line in silent) and any("no sensor" in line for line in lines)
