"""Several recordings of one drive: parts of a bag, several recorders, files that are given together."""

import shutil

import pytest
import yaml
from memory_log import START_NS, MemoryLog, calibration, cloud, drive, every, image, transform

from perception.cli import run
from perception.logs.frames import LogFrames
from perception.logs.log import open_log
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.measurements import Assembly
from perception.logs.merged import MergedReader, by_recording_time
from perception.logs.messages import LogError, Message, Sample
from perception.logs.rosbag_log import RosbagReader
from perception.logs.rosbag_writer import RosbagWriter
from perception.replay import job as job_module
from perception.replay.job import Job, rig_of

SECONDS = 3.0


def whole() -> list[Message]:
    log = MemoryLog()
    log.add("/tf_static", transform("base_link", "lidar", 1.0, static=True), [0.0])
    log.add("/tf_static", transform("base_link", "cam", 2.0, static=True), [0.0])
    log.add("/cam/image_rect", image("cam"), every(0.1, SECONDS), delay_s=0.02)
    log.add("/cam/camera_info", calibration("cam"), every(0.1, SECONDS), delay_s=0.02)
    log.add("/lidar", cloud("lidar"), every(0.1, SECONDS), delay_s=0.01)
    drive(log, "map", "base_link", every(0.05, SECONDS))
    return list(log.as_recorded().messages())


def written(path, messages, form="sqlite3"):
    """The file that holds them: part of a bag, or MCAP of Foxglove's messages."""
    if form == "foxglove":
        writer = McapLogWriter(path.with_suffix(".mcap"))
    else:
        writer = RosbagWriter(path.parent / f"{path.name}.bag", form)
    with writer:
        for message in messages:
            writer.write(message)
    if form == "foxglove":
        return path.with_suffix(".mcap")
    (file,) = (f for f in writer.path.iterdir() if f.name != "metadata.yaml")
    target = path.with_suffix(file.suffix)
    shutil.move(file, target)
    shutil.rmtree(writer.path)
    return target


def tokens(log) -> list[tuple]:
    with log:
        rig = rig_of(log, None)
        frames = LogFrames(log, rig, Assembly())
        found = [(frame.token, len(frame.cameras or {}), frame.lidar is not None) for frame in frames]
        assert frames.problems == log.reader.damage
    return found


EXPECTED = [(str(START_NS + i * 100_000_000), 1, True) for i in range(31)]


@pytest.fixture(scope="module")
def recorders(tmp_path_factory):
    """Two recorders: the cameras, all else."""
    folder = tmp_path_factory.mktemp("recorders")
    camera = [m for m in whole() if m.topic.startswith("/cam")]
    written(folder / "a_cam", camera)
    written(folder / "b_rest", [m for m in whole() if m not in camera], "mcap")
    return folder


def test_recorders_in_one_folder_are_merged(recorders):
    assert tokens(open_log(recorders)) == EXPECTED
    reader = RosbagReader(recorders)
    messages = list(reader.messages())
    times = [message.log_time_ns for message in messages]
    assert times == sorted(times) and [message.sequence for message in messages] == list(range(len(messages)))
    assert reader.start_ns == START_NS
    assert [m.topic for m in reader.messages(["/lidar"])] == ["/lidar"] * 31
    reader.close()


def test_files_that_are_given_together_are_one_drive(recorders, tmp_path):
    paths = sorted(recorders.iterdir())
    with open_log(paths) as log:
        assert (log.name, log.path) == ("a_cam", paths[0])
        assert log.topics["/lidar"].count == 31 and "/cam/image_rect" in log.topics
    assert tokens(open_log(paths)) == tokens(open_log(paths[::-1])) == EXPECTED
    other = written(tmp_path / "rest", [m for m in whole() if not m.topic.startswith("/cam")], "foxglove")
    with open_log([paths[0], other]) as log:
        assert {type(m.data).__name__ for m in log} == {"Image", "Calibration", "Cloud", "Transform"}


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_parts_of_a_bag_may_be_listed_in_any_order(tmp_path, order):
    names = []
    for part in range(3):
        since, until = START_NS + part * 10**9, START_NS + (part + 1) * 10**9
        some = [m for m in whole() if since <= m.log_time_ns < (until if part < 2 else 1 << 62)]
        names.append(written(tmp_path / f"bag_{part}", some).name)
    content = {"version": 9, "storage_identifier": "sqlite3", "relative_file_paths": [names[i] for i in order]}
    (tmp_path / "metadata.yaml").write_text(yaml.safe_dump({"rosbag2_bagfile_information": content}))
    assert tokens(open_log(tmp_path)) == tokens(open_log(tmp_path / "metadata.yaml")) == EXPECTED


def test_parts_that_overlap_hold_messages_twice_and_give_frames_once(tmp_path):
    written(tmp_path / "bag_0", whole()[:200])
    written(tmp_path / "bag_1", whole()[100:])
    log = open_log(tmp_path)
    with log:
        found = [frame.token for frame in LogFrames(log, rig_of(log, None), Assembly())]
    assert found == [token for token, *_ in EXPECTED]


def stream(*times):
    return [Message("/s", t, t, i, Sample(str(t))) for i, t in enumerate(times)]


def test_streams_are_not_begun_before_their_time():
    begun = []

    def part(name, *times):
        return times[0], lambda: begun.append(name) or iter(stream(*times))

    merging = by_recording_time([part("late", 30, 40), part("first", 1, 20, 35), part("early", 2)])
    assert [next(merging).log_time_ns for _ in range(3)] == [1, 2, 20] and begun == ["first", "early"]
    assert [message.log_time_ns for message in merging] == [30, 35, 40] and begun == ["first", "early", "late"]
    assert list(by_recording_time([])) == []
    assert list(by_recording_time([(5, lambda: iter([]))])) == []  # of topics that nobody asked for


def test_of_equal_times_the_first_part_is_first():
    merging = by_recording_time([(1, lambda: iter(stream(1, 5))), (1, lambda: iter(stream(1, 5)))])
    assert [message.log_time_ns for message in merging] == [1, 1, 5, 5]
    assert MergedReader("nothing", []).topics == {} and list(MergedReader("nothing", []).messages()) == []


def test_what_cannot_be_merged(recorders, tmp_path):
    path = next(recorders.glob("*.db3"))
    with pytest.raises(LogError, match=r"nothing\.mcap: a log was expected, found nothing"):
        open_log([path, tmp_path / "nothing.mcap"])
    (tmp_path / "v1.0").mkdir()
    (tmp_path / "v1.0" / "scene.json").write_text("[]")
    with pytest.raises(LogError, match="a recording that can be merged was expected, found a nuScenes folder"):
        open_log([path, tmp_path])
    with pytest.raises(LogError, match="at least one log was expected"):
        open_log([])
    with pytest.raises(LogError, match="since a version or scene is named"):
        open_log([path, path], scene="scene-0001")


def test_a_folder_of_bags_says_what_to_do(recorders, tmp_path):
    shutil.copytree(recorders, tmp_path / "one")
    with pytest.raises(LogError, match="found folders of bags: one; give them, with --merge as one drive"):
        open_log(tmp_path)


def test_commands_take_several_recordings(recorders, tmp_path, monkeypatch, capsys):
    paths = [str(path) for path in sorted(recorders.iterdir())]
    assert not run(["info", *paths, "--merge"])
    out = capsys.readouterr().out
    assert "/cam/image_rect" in out and "/lidar" in out and "a_cam.db3" in out
    assert not run(["convert", *paths, "--merge", "--to", "mcap", "--out", str(tmp_path / "all.mcap")])
    assert tokens(open_log(tmp_path / "all.mcap")) == EXPECTED
    taken = []
    summary = {"latency": {}, "problems": [], "metrics": None, "no_metrics": "", "dropped": [], "frames": 0}
    summary |= {"detections": 0, "detections_sha256": ""}
    monkeypatch.setattr(job_module, "run_job", lambda job, *_, **__: taken.append(job) or summary)
    monkeypatch.setattr("perception.replay.latency.table", lambda latency: "")
    assert run(["replay", str(recorders / "*"), "--merge", "--checkpoint", "sim", "--out", "o"]) == 0
    (job,) = taken
    assert (job.log, job.parts) == (paths[0], tuple(paths[1:]))


def test_a_part_that_changes_changes_the_job(recorders):
    paths = [str(path) for path in sorted(recorders.iterdir())]
    alone, both = Job(paths[0], "out", "sim"), Job(paths[0], "out", "sim", parts=(paths[1],))
    assert alone.digest != both.digest and alone.files_digest != both.files_digest


def test_ros_1_bags_are_merged(tmp_path):
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    texts = store.types["std_msgs/msg/String"]
    for name, times in (("a", (1, 3)), ("b", (2, 4)), ("empty", ())):
        with Writer(tmp_path / f"{name}.bag") as writer:
            connection = writer.add_connection("/log", "std_msgs/msg/String", typestore=store)
            for at in times:
                data = store.serialize_ros1(texts("x"), "std_msgs/msg/String")
                writer.write(connection, at, data)
    with open_log([tmp_path / "b.bag", tmp_path / "empty.bag", tmp_path / "a.bag"]) as log:
        assert log.topics["/log"].count == 4 and log.reader.start_ns == 1
