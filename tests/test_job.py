"""One log from file to result: the same detections whatever the format, scored where there is ground truth."""

import dataclasses
import json
import os
import shutil
import threading

import pytest
from memory_log import START_NS, MemoryLog, calibration, cloud, drive, every, foxglove_log, image, transform
from tiny_drive import save_tiny_detector, tiny_world, write_logs

from perception import load
from perception.errors import PerceptionError
from perception.logs.convert import convert
from perception.logs.frames import LogFrames
from perception.logs.log import Log, open_log
from perception.logs.mcap_writer import McapLogWriter
from perception.logs.measurements import Assembly
from perception.logs.messages import Image, LogError, Transform
from perception.logs.rig import to_yaml
from perception.logs.rosbag_writer import RosbagWriter
from perception.replay.job import Job, rig_of, run_job
from perception.replay.playback import Playback


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """In place of ``load``: the detector, loaded once."""
    detector = load(checkpoint, device="cpu")
    return lambda *_, **__: detector


@pytest.fixture
def replayed(logs, checkpoint, loaded, tmp_path):
    """Replays a log, by its name or path, into a folder of that name."""

    def replayed(log, playback=None, loop=False, out="out", **changes):
        options = {"device": "cpu", "outputs": (), **changes}
        job = Job(str(logs.get(log, log)), str(tmp_path / out), str(checkpoint), **options)
        return run_job(job, playback, loop, load=loaded, progress=False)

    return replayed


@pytest.fixture(scope="module")
def expected(logs, checkpoint, loaded, tmp_path_factory):
    job = Job(str(logs["nuscenes"]), str(tmp_path_factory.mktemp("out")), str(checkpoint), "cpu", outputs=())
    return run_job(job, load=loaded, progress=False)


def test_what_a_summary_says(logs, expected, checkpoint):
    assert expected["complete"] and expected["frames"] == 6 and expected["scenes"] == {"scene-0001": 6}
    assert expected["frames_with"] == {"camera": 6, "radar": 6, "lidar": 6}
    assert expected["problems"] == [] and expected["dropped"] == [] and expected["injected_faults"] == []
    assert expected["source"] == str(logs["nuscenes"]) and expected["scene"] == "scene-0001"
    assert expected["metrics"]["frames"] == 6 and expected["detections"] > 0
    assert "samples: /sample" in expected["rig"] and "CAM_FRONT" in expected["rig"]
    assert expected["checkpoint"] == str(checkpoint) and expected["device"] == "cpu"
    for name in ("weights_sha256", "job_sha256", "files_sha256", "detections_sha256"):
        assert len(expected[name]) == 64, name


@pytest.mark.parametrize("log", ["nuscenes", "mcap", "sqlite3", "ros2_mcap"])
def test_the_same_drive_has_the_same_detections_in_every_format(replayed, expected, log):
    for _ in range(2):
        summary = replayed(log)
        assert summary["detections_sha256"] == expected["detections_sha256"]
        assert summary["problems"] == [] and summary["scenes"].popitem()[1] == 6


@pytest.mark.parametrize("log", ["mcap", "sqlite3"])
def test_tables_score_a_log_that_was_made_of_them(replayed, logs, expected, log):
    summary = replayed(log)
    assert summary["metrics"] is None and "no annotated box" in summary["no_metrics"]
    for truth in (logs["nuscenes"], logs["nuscenes"] / "v1.0-sim"):
        assert replayed(log, truth=str(truth))["metrics"] == expected["metrics"]


def test_truth_is_known_by_time_where_a_log_has_no_marks(replayed, logs, expected, tmp_path):
    summary = replayed("mcap", exclude_topics=("/sample",), truth=str(logs["nuscenes"]))
    assert summary["frames"] == 7, "the sweep before the first keyframe, too"
    assert summary["metrics"]["frames"] == 6
    tokens = list(json.loads((tmp_path / "out/results.json").read_text())["results"])
    assert tokens[1:] == [f"s{i}" for i in range(6)]


@pytest.mark.parametrize(
    ("part", "scored"),
    [
        ({"start_offset_s": 0.05}, 6),
        ({"start_offset_s": 0.3}, 5),
        ({"duration_s": 0.1}, 1),
        ({"start_offset_s": 0.3, "duration_s": 1.0}, 2),
        ({"start_offset_s": 2.5}, 1),
    ],
)
@pytest.mark.parametrize("log", ["nuscenes", "mcap"])
def test_a_part_of_a_drive_is_scored_for_what_it_is(replayed, logs, log, part, scored):
    summary = replayed(log, truth=str(logs["nuscenes"]), **part)
    assert summary["frames"] == summary["metrics"]["frames"] == scored


def test_truth_of_another_drive_scores_nothing(replayed, tmp_path):
    other = tiny_world()
    for row in other.tables["sample"]:
        row["timestamp"] += 10**9
    for table in ("sample_data", "ego_pose"):
        for row in other.tables[table]:
            row["timestamp"] += 10**9
    for table in ("sample", "sample_data", "sample_annotation"):
        for row in other.tables[table]:
            for key in ("token", "sample_token"):
                if key in row and (key != "token" or table == "sample"):
                    row[key] = f"other {row[key]}"
    other.write(tmp_path / "other")
    summary = replayed("mcap", truth=str(tmp_path / "other"))
    assert summary["metrics"] is None
    assert summary["no_metrics"].endswith("other/v1.0-sim: none of the frames replayed is one of its 6 samples")


def test_tables_without_annotations_score_nothing(replayed, tmp_path):
    world = tiny_world()
    for table in ("sample_annotation", "instance"):
        world.tables[table] = []
    summary = replayed(world.write(tmp_path / "unlabelled"))
    assert summary["metrics"] is None and "v1.0-sim: no annotated box in 6 frames" in summary["no_metrics"]


def test_a_loop_is_scored_once_and_says_which_pass_it_is(replayed, expected, logs, tmp_path):
    playback = Playback()
    passes = iter(range(100))

    def watched(frames):
        for frame in Playback.play(playback, frames):
            if next(passes) == 15:
                playback.press("quit")
            yield frame

    playback.play = watched
    with pytest.raises(KeyboardInterrupt):
        replayed("mcap", playback, loop=True, truth=str(logs["nuscenes"]))
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["complete"] is False and summary["frames"] == 16
    assert summary["scenes"] == {"drive": 6, "drive#1": 6, "drive#2": 4}
    assert summary["metrics"] == expected["metrics"]
    tokens = list(json.loads((tmp_path / "out/results.json").read_text())["results"])
    assert tokens == [f"s{i}{end}" for end in ("", "#1", "#2") for i in range(6)][:16]


def test_q_before_the_first_frame_leaves_nothing(replayed, tmp_path):
    playback = Playback(paused=True)
    threading.Timer(0.1, playback.press, ["quit"]).start()
    with pytest.raises(KeyboardInterrupt):
        replayed("nuscenes", playback)
    assert not (tmp_path / "out/summary.json").exists()


def test_real_time_drops_and_says_which(replayed):
    """A thousand times as fast as recorded: how many frames are taken depends on the machine, their sum does not."""
    playback = Playback(rate=1000.0, realtime=True)
    summary = replayed("nuscenes", playback)
    assert summary["frames"] + len(summary["dropped"]) == 6 and summary["complete"]
    assert set(summary["dropped"]) < {f"s{i}" for i in range(6)}
    assert summary["metrics"]["frames"] == summary["frames"]


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("drop:lidar@1-9", "frames without LIDAR_TOP: 4"),
        ("delay:RADAR_FRONT:0.3", "frames without RADAR_FRONT: 6"),
        ("freeze:lidar@1-9", None),
        ("blank:camera", None),
        ("bias:lidar:yaw=20", None),
        ("jitter:camera:0.5", "frames without CAM_FRONT: "),
    ],
)
def test_a_fault_makes_other_detections_and_is_listed(replayed, expected, fault, problem):
    summary = replayed("mcap", faults=(fault,))
    assert summary["injected_faults"] == [fault] and summary["frames"] == 6
    assert summary["detections_sha256"] != expected["detections_sha256"]
    assert summary["job_sha256"] != expected["job_sha256"]
    assert any(line.startswith(problem) for line in summary["problems"]) if problem else not summary["problems"]
    assert replayed("nuscenes", faults=(fault,))["detections_sha256"] == summary["detections_sha256"], "in any format"


def test_sensors_that_are_not_asked_for_are_not_read(replayed, expected):
    summary = replayed("mcap", sensors=("radar", "lidar"))
    assert summary["frames_with"] == {"camera": 0, "radar": 6, "lidar": 6}
    without = replayed("mcap", exclude_topics=("/cam_front/image_rect_compressed",))
    assert without["detections_sha256"] == summary["detections_sha256"] != expected["detections_sha256"]


def test_topics_by_other_names_are_the_same_drive(replayed, expected, logs, tmp_path):
    summary = replayed("mcap", remap={"/lidar_top": "/front/points", "/tf": "/poses"})
    assert summary["detections_sha256"] == expected["detections_sha256"] and "/front/points" in summary["rig"]


def test_a_rig_file_says_the_same_as_the_rig_that_was_proposed(replayed, expected, logs, tmp_path):
    with open_log(logs["mcap"]) as log:
        rig = rig_of(log, None)
    (tmp_path / "rig.yaml").write_text(to_yaml(rig))
    assert rig_of(None, tmp_path / "rig.yaml") == rig
    summary = replayed("mcap", rig=str(tmp_path / "rig.yaml"))
    assert summary["detections_sha256"] == expected["detections_sha256"] and summary["rig"] == to_yaml(rig)


def test_a_frame_rate_thins_a_log_without_marks(replayed):
    assert replayed("mcap", exclude_topics=("/sample",), frame_rate_hz=1.0)["frames"] == 3


def test_a_log_that_was_cut_is_replayed_up_to_there(replayed, tmp_path):
    log = tmp_path / "long.mcap"
    root = tiny_world(points=2000).write(tmp_path / "root")
    with open_log(root) as one, McapLogWriter(log) as writer:
        convert(one, writer, repeat=20)
    os.truncate(log, log.stat().st_size // 2)
    summary = replayed(log)
    assert summary["complete"] and 40 <= summary["frames"] <= 70, "of 120"
    (problem,) = summary["problems"]
    assert "s into the log: the last record, a chunk, is cut" in problem and len(problem.splitlines()) == 1
    assert replayed(log)["detections_sha256"] == summary["detections_sha256"]


def test_damage_stops_a_replay_unless_it_is_to_be_skipped(replayed, logs, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(logs["nuscenes"], root)
    (root / "samples/LIDAR_TOP/lidar1").write_bytes(b"odd")
    with pytest.raises(LogError, match="lidar1: a multiple of 20 bytes"):
        replayed(root)
    summary = replayed(root, skip_damaged=True)
    assert summary["frames"] == 6 and any("lidar1" in line for line in summary["problems"])
    assert "frames without LIDAR_TOP: 1" in summary["problems"]


@pytest.mark.parametrize(
    ("log", "changes", "message"),
    [
        ("nowhere.mcap", {}, "nowhere.mcap: a log was expected, found nothing"),
        ("mcap", {"checkpoint": "nowhere"}, "checkpoint 'nowhere'"),
        ("mcap", {"rig": "nowhere.yaml"}, "nowhere.yaml: cannot read the rig"),
        ("mcap", {"truth": "nowhere"}, "nowhere"),
        ("mcap", {"device": "gpu"}, "auto, cpu or cuda was expected, found 'gpu'"),
        ("mcap", {"topics": ("/nowhere",)}, "topic /nowhere was expected"),
        ("mcap", {"topics": ("/tf",)}, "a rig file was expected (--rig), for the log lacks: no sensor"),
        ("mcap", {"exclude_topics": ("/tf",)}, "no frame base_link"),
        ("mcap", {"start_offset_s": 100.0}, "at least one frame was expected, found none"),
        ("mcap", {"faults": ("drop",)}, "fault 'drop'"),
        ("mcap", {"outputs": ("avi",)}, "found 'avi'"),
        ("mcap", {"sensors": ("sonar",)}, "sonar"),
        ("mcap", {"sensors": ()}, "at least one of camera, radar, lidar was expected"),
        ("mcap", {"scene": "scene-0001"}, "a folder in the nuScenes layout was expected"),
        ("nuscenes", {"scene": "scene-9999"}, "scene-9999"),
        ("nuscenes", {"version": "v9.9"}, "v9.9"),
    ],
)
def test_bad_input_is_one_clear_line(replayed, tmp_path, log, changes, message):
    with pytest.raises(PerceptionError) as error:
        if "checkpoint" in changes:
            run_job(Job(log, str(tmp_path / "out"), changes["checkpoint"]))
        replayed(log, **changes)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out/summary.json").exists()


def test_the_digest_of_a_job_is_of_all_that_changes_its_result():
    job = Job("a.mcap", "out", "sim")
    assert job.digest == dataclasses.replace(job, out="elsewhere").digest
    others = [dataclasses.replace(job, **change) for change in (
        {"log": "b.mcap"}, {"checkpoint": "x"}, {"faults": ("drop:lidar",)}, {"remap": {"a": "b"}}, {"duration_s": 1.0},
    )]  # fmt: skip
    assert len({job.digest, *(other.digest for other in others)}) == 6


def test_the_digest_of_files_sees_their_changes(logs, checkpoint, tmp_path):
    root = tmp_path / "drive"
    shutil.copytree(logs["nuscenes"], root)
    (tmp_path / "rig.yaml").write_text("a")
    job = Job(str(root), "out", str(checkpoint), rig=str(tmp_path / "rig.yaml"), truth=str(logs["nuscenes"]))
    digests = [job.files_digest, job.files_digest]
    (root / "samples/LIDAR_TOP/more").write_text("")
    digests.append(job.files_digest)
    (root / "v1.0-sim/scene.json").write_text("[]")
    digests.append(job.files_digest)
    (tmp_path / "rig.yaml").write_text("ab")
    digests.append(job.files_digest)
    assert len(set(digests)) == 4 and digests[0] == digests[1]
    assert dataclasses.replace(job, log="nowhere").files_digest not in digests


def test_a_sensor_that_begins_late_is_said_to_be_left_out(logs, tmp_path, caplog):
    late = tmp_path / "late.mcap"
    with open_log(logs["mcap"]) as log, McapLogWriter(late) as writer:
        for message in log:
            shift = 10_000_000_000 if message.topic == "/radar_front" else 0
            times = {"timestamp_ns": message.timestamp_ns + shift, "log_time_ns": message.log_time_ns + shift}
            writer.write(dataclasses.replace(message, **times))
    with open_log(late) as log:
        assert "RADAR_FRONT" not in rig_of(log, None).sensors
    assert "/radar_front: left out, no message in the first seconds" in caplog.text


def test_a_sensor_that_cannot_be_decoded_is_named_with_its_reason(logs, replayed, tmp_path, caplog):
    depth = tmp_path / "depth.mcap"
    with open_log(logs["mcap"]) as log, McapLogWriter(depth) as writer:
        for message in log:
            if isinstance(message.data, Image):
                message = dataclasses.replace(message, data=Image("cam", "32FC1", bytes(24), 3, 2, 12))
            writer.write(message)
    summary = replayed(depth)
    (line,) = summary["problems"]
    assert line.startswith("/cam_front/image_rect_compressed: left out, an encoding of rgb8, ")
    assert line.endswith("was expected, found '32FC1'") and line in caplog.text
    assert summary["frames_with"] == {"camera": 0, "radar": 6, "lidar": 6}
    with open_log(depth, topics=["/cam_front/image_rect_compressed"]) as log:
        with pytest.raises(LogError, match=r"a rig file was expected.*found '32FC1'"):
            rig_of(log, None)


def test_static_transforms_of_a_robot_survive_the_way_to_mcap(logs, tmp_path):
    """Mounts on /tf_static once, as robots have them; a bag, and the MCAP file made of it, give the same frames."""
    bag, mcap = tmp_path / "bag", tmp_path / "bag.mcap"
    with open_log(logs["mcap"]) as log, RosbagWriter(bag) as writer:
        known = set()
        for message in log:
            data = message.data
            if isinstance(data, Transform) and data.child != "base_link":
                if data.child in known:
                    continue
                known.add(data.child)
                message = dataclasses.replace(message, topic="/tf_static", data=dataclasses.replace(data, static=True))
            writer.write(message)
    with open_log(bag) as log, McapLogWriter(mcap) as writer:
        convert(log, writer)
    found = []
    for path in (logs["mcap"], bag, mcap):
        with open_log(path) as log:
            found.append([f.lidar.points.tobytes() for f in LogFrames(log, rig_of(log, None), Assembly())])
    assert found[0] == found[1] == found[2] and len(found[0]) > 3


def test_frames_of_a_log_with_marks_may_be_fewer(logs):
    with open_log(logs["mcap"]) as log:
        rig = rig_of(log, None)
        every, fewer = (list(LogFrames(log, rig, Assembly(rate_hz=rate))) for rate in (None, 1.0))
    assert len(fewer) == (len(every) + 1) // 2 and {f.token for f in fewer} < {f.token for f in every}


@pytest.mark.parametrize(
    ("start_s", "length_s", "times"), [(5.0, None, range(10, 21)), (0, 5.0, range(11)), (0.9, 2.0, range(2, 6))]
)
def test_frames_of_a_part_are_those_of_the_whole_drive(start_s, length_s, times):
    """Sweeps from before its beginning and measurements shortly after its end included."""

    def frames(start_s, length_s):
        log = Log(foxglove_log().as_recorded(), "drive", None, (), {}, start_s, length_s, strict=True)
        assembly = Assembly(lidar_span_s=0.12, radar_span_s=0.15, min_distance_m=0.0)
        for frame in LogFrames(log, rig_of(log, None), assembly):
            cameras = [(name, camera.timestamp_ns) for name, camera in frame.cameras.items()]
            yield frame.timestamp_ns, cameras, len(frame.lidar.points), frame.radar.points.tobytes()

    whole, part = list(frames(0, None)), list(frames(start_s, length_s))
    assert [frame[0] for frame in part] == [START_NS + i * 500_000_000 for i in times]
    assert part == [whole[i] for i in times]


LATE = ("late calibration", "late mounts", "statics ahead", "old latched stamp", "early recorder")


@pytest.mark.parametrize("how", LATE)
def test_logs_whose_frames_and_calibrations_come_at_odd_times(how):
    """A robot's log in which only that differs gives the same frames."""

    def frames(how):
        reader = MemoryLog()
        late_s = {"late calibration": 1.6}.get(how, 0.0)
        reader.add("/cam/image_rect", image("cam"), every(0.1, 4.0))
        reader.add("/cam/camera_info", calibration("cam"), [t + late_s for t in every(0.1, 4.0 - late_s)])
        reader.add("/top", cloud("top", points=3), every(0.1, 4.0))
        drive(reader, "odom", "base_link", every(0.02, 4.0))
        for name in ("cam", "top"):
            at_s = {"late mounts": 1.6, "early recorder": -20.0}.get(how, 0.0)
            reader.add("/tf_static", transform("base_link", name, static=True), [at_s])
            if how == "statics ahead":
                stamp_s = 0.4  # after what is recorded with it
                reader.add("/tf_static", transform("base_link", name, static=True), every(0.25, 3.5), delay_s=-stamp_s)
        if how == "old latched stamp":
            reader.add("/tf", transform("map", "odom"), [-3600.0], delay_s=3600.0)
        log = Log(reader.as_recorded(), "drive", None, (), {}, 1.0, 2.0, strict=True)
        for frame in LogFrames(log, rig_of(log, None), Assembly(lidar_span_s=0.25, min_distance_m=0.0)):
            camera = frame.cameras["CAM"]
            pose = frame.world_SE3_ego.matrix.tobytes()
            yield frame.timestamp_ns, pose, camera.timestamp_ns, frame.lidar.points.tobytes()

    found, usual = list(frames(how)), list(frames(""))
    assert len(usual) == 21 and found == usual


def test_what_is_wrong_with_topics_that_are_not_in_the_rig_does_not_matter():
    class WithDepth(MemoryLog):
        def messages(self, topics=None, strict=False):
            if strict and (topics is None or "/depth" in topics):
                raise LogError("/depth: 16UC1")
            yield from super().messages(topics, strict)

    reader = WithDepth()
    reader.add("/top", cloud("top"), every(0.1, 3.0))
    reader.add("/depth", image("depth"), every(0.1, 3.0))
    drive(reader, "odom", "base_link", every(0.02, 3.0))
    reader.add("/tf_static", transform("base_link", "top", static=True), [0.0])
    log = Log(reader.as_recorded(), "drive", None, (), {"/top": "/roof"}, 0.0, None, strict=True)
    rig = rig_of(log, None)
    assert [source.cloud for source in rig.lidars.values()] == ["/roof"] and len(
        list(LogFrames(log, rig, Assembly()))
    ) == 31
    with pytest.raises(LogError, match="16UC1"):
        list(log)
