"""The door to logs: one stable order, whatever the format and whatever the order in the file."""

import math
import shutil
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_log import START_NS, MemoryLog, calibration, cloud, every, image, transform
from nuscenes_world import World

from perception.logs.convert import convert
from perception.logs.inspect import inspect
from perception.logs.log import Log, open_log
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.messages import Cloud, LogError, Message, Sample, Topic
from perception.logs.rosbag_writer import RosbagWriter

TOPICS = {
    "/cam_front/camera_info": "calibration",
    "/cam_front/image_rect_compressed": "image",
    "/lidar_top": "cloud",
    "/radar_front": "cloud",
    "/sample": "sample",
    "/tf": "transform",
}


def opened(reader, topics=None, exclude_topics=(), remap=None, start_offset_s=0.0, duration_s=None) -> Log:
    return Log(reader, "drive", topics, exclude_topics, remap or {}, start_offset_s, duration_s, strict=True)


def key(message: Message) -> tuple[int, str, int]:
    return message.timestamp_ns, message.topic, message.sequence


def seconds(messages) -> list[float]:
    return [(message.timestamp_ns - START_NS) / 1e9 for message in messages]


def clouds_at(*stamps_s, topic="/a", delay_s=0.0) -> MemoryLog:
    log = MemoryLog()
    log.add(topic, cloud("a"), stamps_s, delay_s)
    return log


@given(st.lists(st.tuples(st.integers(0, 100), st.sampled_from("abc")), max_size=40), st.randoms())
def test_messages_that_arrive_in_any_order_come_in_order_of_measurement(measured, random):
    """Up to 0.4 s late, which is within the window."""
    arrivals = sorted(measured, key=lambda pair: pair[0] + random.uniform(0, 40))
    reader = MemoryLog()
    for hundredths, topic in arrivals:
        reader.add(topic, cloud(topic), [hundredths / 100])
    log = opened(reader)
    messages = list(log)
    assert [key(m) for m in messages] == sorted(key(m) for m in reader.messages())
    assert not log.late and [key(m) for m in log] == [key(m) for m in messages]


@given(st.lists(st.tuples(st.integers(0, 10), st.sampled_from("abc")), max_size=40))
def test_nothing_is_lost_and_where_the_order_is_broken_it_is_said(arrivals):
    reader = MemoryLog()
    for tenths, topic in arrivals:
        reader.add(topic, cloud(topic), [tenths / 10])
    log = opened(reader)
    keys = [key(message) for message in log]
    assert Counter(keys) == Counter(key(m) for m in reader.messages())
    late = [one for i, one in enumerate(keys) if one < max(keys[:i], default=one)]
    assert log.late == Counter(topic for _, topic, _ in late)


def test_ties_are_broken_by_topic_and_then_by_place_in_the_file():
    reader = MemoryLog()
    for topic in ("b", "a", "b", "a"):
        reader.add(topic, cloud(topic), [1.0])
    assert [(m.topic, m.sequence) for m in opened(reader)] == [("a", 1), ("a", 3), ("b", 0), ("b", 2)]


def test_what_comes_too_late_is_passed_on_and_counted():
    reader = clouds_at(0.0, 1.0, 2.0, 3.0, 4.0, 2.9, 5.0, topic="/lidar")
    log = opened(reader)
    assert seconds(log) == [0.0, 1.0, 2.0, 3.0, 2.9, 4.0, 5.0]
    assert log.late == {"/lidar": 1}
    assert [*log] and log.late == {"/lidar": 1}, "counted anew with every pass"


def stamped(*pairs_s) -> MemoryLog:
    """A log of (stamp, time of recording)."""
    log = MemoryLog()
    for stamp_s, logged_s in pairs_s:
        log.add("/a", cloud("a"), [stamp_s], delay_s=logged_s - stamp_s)
    return log


HOUR, YEARS = 3600.0, 1e9


@pytest.mark.parametrize(
    ("pairs", "kept", "left_out"),
    [
        ([(0, 0), (HOUR, 0.1), (0.2, 0.2)], [0, 0.2], 1),
        ([(0, 0), (HOUR, 0.1), (HOUR, 0.2), (0.3, 0.3)], [0, 0.3], 2),
        ([(0, 0), (-YEARS, 0.1), (0.2, 0.2), (0.3, 0.3)], [-YEARS, 0, 0.2, 0.3], 0),
        ([(-YEARS, 0), (0.1, 0.1), (0.2, 0.2)], [-YEARS, 0.1, 0.2], 0),
        ([(-YEARS, 0), (0.1, HOUR), (0.2, HOUR)], [-YEARS, 0.1, 0.2], 0),
        ([(-YEARS, 0), (0.1 - YEARS, 0.1), (0.2 - YEARS, 0.3)], [-YEARS, 0.1 - YEARS, 0.2 - YEARS], 0),
        ([(0, YEARS), (HOUR, YEARS + 0.1), (0.2, YEARS + 0.2)], [0, 0.2], 1),
        ([(0, 0), (HOUR, HOUR), (HOUR + 1, HOUR + 1)], [0, HOUR, HOUR + 1], 0),
    ],
    ids=["one ahead", "two", "behind", "first", "first, and clocks that differ", "simulated", "differ", "a pause"],
)
def test_a_stamp_that_leaps_ahead_is_left_out_and_one_that_falls_behind_harms_no_other(pairs, kept, left_out):
    log = opened(stamped(*pairs))
    assert seconds(log) == pytest.approx(kept)
    line = f"drive.log: /a: {left_out} messages left out, stamped more than a minute ahead of their recording"
    assert log.damage == ([line] if left_out else [])


def test_what_holds_for_the_whole_drive_comes_from_before_its_beginning():
    reader = clouds_at(0.0)
    reader.add("/tf_static", transform("base", "a", static=True), [0.0])
    for topic, data in (("/info", calibration("camera")), ("/tf", transform("map", "base"))):
        reader.add(topic, data, [0.1])
    reader.add("/a", cloud("a"), every(0.1)[2:])
    messages = list(opened(reader, start_offset_s=8.0, duration_s=0.25))
    assert [m.topic for m in messages] == ["/tf_static", "/info", "/tf", "/a", "/a", "/a"]
    assert seconds(messages[3:]) == [8.0, 8.1, 8.2]


@pytest.mark.parametrize(
    ("cut", "found"),
    [
        ({}, [0, 1, 2, 3]),
        ({"start_offset_s": 1.0}, [1, 2, 3]),
        ({"start_offset_s": 1.5}, [2, 3]),
        ({"duration_s": 1.0}, [0, 1]),
        ({"duration_s": 0.5}, [0]),
        ({"start_offset_s": 1.0, "duration_s": 1.0}, [1, 2]),
        ({"start_offset_s": 9.0}, []),
    ],
)
def test_a_part_of_the_drive(cut, found):
    assert seconds(opened(clouds_at(0, 1, 2, 3), **cut)) == found


@pytest.mark.parametrize(
    "bad",
    [{"start_offset_s": -1.0}, {"duration_s": 0.0}, {"start_offset_s": math.nan}, {"duration_s": math.nan}]
    + [{"start_offset_s": math.inf}, {"duration_s": math.inf}],
)
def test_no_part_of_a_drive(tmp_path, bad):
    with pytest.raises(LogError, match=r"start offset >= 0 and duration > 0 were expected, found (-1|0|nan|inf)"):
        open_log(World().write(tmp_path), **bad)


def test_what_a_change_delays_waits_for_the_others():
    """Two seconds, which is more than the window: the clock is that of the log as it was recorded."""
    reader = MemoryLog()
    for stamp_s in every(0.5, 4):
        reader.add("/a", cloud("a"), [stamp_s])
        reader.add("/b", cloud("b"), [stamp_s])
    log = opened(reader)
    log.change = lambda m: Message(m.topic, m.timestamp_ns + 2_000_000_000 * (m.topic == "/a"), *_rest(m))
    messages = list(log)
    assert [key(m) for m in messages] == sorted(key(m) for m in messages) and len(messages) == 18
    assert seconds(m for m in messages if m.topic == "/a") == every(0.5, 6)[4:] and not log.late


def _rest(message):
    return message.log_time_ns, message.sequence, message.data


def test_a_change_can_leave_out_anything():
    reader = clouds_at(0, 1, 2)
    reader.add("/tf_static", transform("base", "a", static=True), [0.0])
    log = opened(reader)
    log.change = lambda message: None
    assert not list(log)


def three_topics() -> MemoryLog:
    reader = clouds_at(0, 1)
    reader.add("/b", cloud("b"), [0.5])
    reader.add("/c", image("c"), [0.7])
    return reader


def test_topics_are_chosen_left_out_and_renamed():
    def found(**options):
        log = opened(three_topics(), **options)
        assert set(log.topics) >= {m.topic for m in log}
        return [m.topic for m in log], list(log.topics)

    assert found() == (["/a", "/b", "/c", "/a"], ["/a", "/b", "/c"])
    assert found(topics=["/c", "/a"]) == (["/a", "/c", "/a"], ["/a", "/c"])
    assert found(exclude_topics=["/a"]) == (["/b", "/c"], ["/b", "/c"])
    assert found(topics=["/a", "/b"], exclude_topics=["/a"]) == (["/b"], ["/b"])
    assert found(topics=[]) == ([], [])
    assert found(remap={"/a": "/front", "/b": "/a"}) == (["/front", "/a", "/c", "/front"], ["/front", "/a", "/c"])
    assert found(topics=["/a"], remap={"/a": "/x", "/c": "/y"}) == (["/x", "/x"], ["/x"])


def test_a_log_is_a_reader_under_its_new_names():
    log = opened(three_topics(), remap={"/a": "/front"}, exclude_topics=["/b"])
    info = inspect(log)
    assert {name: topic.count for name, topic in info.topics.items()} == {"/front": 2, "/c": 1}
    assert info.topics["/front"].topic == Topic("/front", "some/Type", "cloud")
    assert [m.topic for m in log.messages(["/front"])] == ["/front", "/front"]
    assert not list(log.messages(["/a"])), "as it is called in the file"


@pytest.mark.parametrize("option", ["topics", "exclude_topics", "remap"])
def test_a_topic_that_is_not_there_is_named(option):
    value = {"/nowhere": "/b"} if option == "remap" else ["/a", "/nowhere"]
    with pytest.raises(LogError, match=r"^drive.log: topic /nowhere was expected, found /a$"):
        opened(clouds_at(0), **{option: value})


def test_a_log_of_nothing():
    log = opened(MemoryLog())
    assert list(log) == list(log) == [] and log.topics == {} and log.damage == [] and not log.late


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """The same drive in every format."""
    folder = tmp_path_factory.mktemp("logs")
    found = {"nuscenes": World().write(folder / "nuscenes")}
    found |= {"mcap": folder / "drive.mcap", "ros2 sqlite3": folder / "bag", "ros2 mcap": folder / "bag_mcap"}
    for writer in (
        McapLogWriter(found["mcap"]),
        RosbagWriter(found["ros2 sqlite3"], "sqlite3"),
        RosbagWriter(found["ros2 mcap"], "mcap"),
    ):
        with open_log(found["nuscenes"]) as log, writer:
            convert(log, writer)
    [found["a .db3"]] = found["ros2 sqlite3"].glob("*.db3")
    [found["its .mcap"]] = found["ros2 mcap"].glob("*.mcap")
    return found


FORMATS = ("nuscenes", "mcap", "ros2 sqlite3", "ros2 mcap", "a .db3", "its .mcap")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_known_and_says_the_same(logs, name):
    with open_log(logs["nuscenes"]) as log:
        expected = [(m.timestamp_ns, m.topic, type(m.data)) for m in log]
    with open_log(logs[name]) as log:
        messages = list(log)
        assert {name: topic.kind for name, topic in log.topics.items()} == TOPICS
        assert sorted((m.timestamp_ns, m.topic, str(type(m.data))) for m in messages) == sorted(
            (time, topic, str(kind)) for time, topic, kind in expected
        )
        assert [key(m) for m in messages] == sorted(key(m) for m in messages)
        assert [key(m) for m in log] == [key(m) for m in messages], "iterated twice"
        assert log.stopped is None and log.damage == [] and not log.late
        assert [m.data.token for m in messages if isinstance(m.data, Sample)] == ["s0", "s1"]
    names = {"nuscenes": "scene-0001", "mcap": "drive", "ros2 sqlite3": "bag", "ros2 mcap": "bag_mcap"}
    assert log.name == names.get(name, logs[name].stem) and log.path == logs[name]


@pytest.mark.parametrize("name", FORMATS)
def test_a_log_can_be_open_twice(logs, name):
    with open_log(logs[name], topics=["/lidar_top"]) as one, open_log(logs[name], topics=["/lidar_top"]) as other:
        pairs = list(zip(one, other, strict=True))
    assert len(pairs) == 3 and all(isinstance(a.data, Cloud) for a, _ in pairs)
    assert all(key(a) == key(b) and (a.data.records == b.data.records).all() for a, b in pairs)


def test_of_several_scenes_one_is_to_be_named(tmp_path):
    world = World()
    world.tables["scene"].append({"token": "later", "name": "scene-0002"})
    world.tables["sample"].append(
        {"token": "s9", "scene_token": "later", "timestamp": world.tables["sample"][0]["timestamp"] + 10**8}
    )
    world.add("lidar9", "s9", "LIDAR_TOP", 10**8, np.zeros(5, "<f4").tobytes())
    root = world.write(tmp_path)
    with pytest.raises(LogError, match=r"the name of one scene was expected, such as scene=scene-0001.*scene-0002"):
        open_log(root)
    with open_log(root, scene="scene-0002") as log:
        assert log.name == "scene-0002" and [m.data.token for m in log if m.topic == "/sample"] == ["s9"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere.mcap", {}, "a log was expected, found nothing"),
        ("drive.txt", {}, "a nuScenes folder, an .mcap file or a ROS bag was expected, found .txt"),
        ("drive", {}, "found a file"),
        ("empty", {}, "a folder with files .db3, .mcap"),
        ("drive.mcap", {}, "drive.mcap: "),
        ("drive.db3", {}, "drive.db3: "),
        ("drive.mcap", {"scene": "scene-0001"}, "a folder in the nuScenes layout was expected, since"),
    ],
)
def test_what_is_no_log(tmp_path, name, options, message):
    (tmp_path / "empty").mkdir()
    for file in ("drive.txt", "drive", "drive.mcap", "drive.db3"):
        (tmp_path / file).write_text("no log")
    with pytest.raises(LogError, match=message) as error:
        open_log(tmp_path / name, **options)
    assert len(str(error.value).splitlines()) == 1 and str(tmp_path / name) in str(error.value)


def test_damage_is_an_error_or_left_out(tmp_path):
    root = World().write(tmp_path)
    (root / "samples/LIDAR_TOP/lidar0").write_bytes(b"odd")
    with open_log(root) as log, pytest.raises(LogError, match="lidar0: a multiple of 20 bytes"):
        list(log)
    with open_log(root, strict=False) as log:
        assert sum(m.topic == "/lidar_top" for m in log) == 2 and len(log.damage) == 1


def test_a_log_that_was_cut_says_where(logs, tmp_path):
    cut = tmp_path / "drive.mcap"
    shutil.copy(logs["mcap"], cut)
    with cut.open("r+b") as file:
        file.truncate(cut.stat().st_size - 100)
    with open_log(cut) as log:
        list(log)
        assert log.stopped is not None and len(log.stopped.splitlines()) == 1
