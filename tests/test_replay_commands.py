"""The command line of a replay: every option arrives, every word says what it should, every mistake is one line."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from tiny_drive import save_tiny_detector, write_logs

from perception.cli import run
from perception.cli.options import run_main
from perception.errors import PerceptionError
from perception.logs.log import open_log
from perception.logs.rig import load_rig
from perception.replay import fleet, job
from perception.replay.job import Job


def main(arguments) -> int:
    """``perception replay ...``"""
    return run(["replay", *arguments]) or 0


SUMMARY = {
    "latency": {}, "problems": [], "dropped": [], "metrics": None, "no_metrics": "", "frames": 1, "detections": 0,
    "detections_sha256": "ab",
}  # fmt: skip


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny_detector(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def replayed(checkpoint, tmp_path):
    """Runs the command with a detector, on the CPU, without pictures. Returns exit code and summary."""

    def replayed(*arguments):
        options = ["--checkpoint", checkpoint, "--out", tmp_path / "out", "--device", "cpu", "--outputs", "none"]
        code = main([str(argument) for argument in (*arguments, *options)])
        return code, json.loads((tmp_path / "out/summary.json").read_text())

    return replayed


@pytest.fixture
def taken(monkeypatch):
    """What the command hands on: [(job, playback, loop)]."""
    calls = []

    def replay(job, playback, loop, progress):
        assert not progress  # no terminal
        calls.append((job, playback, loop))
        return SUMMARY

    monkeypatch.setattr(job, "run_job", replay)
    monkeypatch.setattr("perception.replay.latency.table", lambda latency: "table")
    return calls


def test_without_options_the_defaults_of_a_job_hold(logs, taken):
    assert main([str(logs["mcap"]), "--checkpoint", "sim", "--out", "o"]) == 0
    [(job, playback, loop)] = taken
    assert dataclasses.asdict(job) == dataclasses.asdict(Job(str(logs["mcap"]), "o", "sim"))
    assert (playback.rate, playback.realtime, playback.paused, loop) == (None, False, False, False)


def test_every_option_arrives(logs, taken):
    arguments = [
        logs["nuscenes"], "--checkpoint", "sim", "--out", "o", "--device", "cpu", "--version", "v1.0-sim",
        "--scenes", "scene-0001", "--rig", "rig.yaml", "--topics", "/a", "/b", "--exclude-topics", "/c", "/d",
        "-m", "/a:=/x", "/b:=/y:=z", "--start-offset", "1.5", "--duration", "3", "--sensors", "camera, radar",
        "--frame-rate", "2", "--fault", "drop:lidar", "--fault", "blank:camera@1-2", "--truth", "tables",
        "--score-threshold", "0.5", "--outputs", "rrd,mcap", "--deadline-ms", "80", "--skip-damaged",
        "--limits", "3", "--rate", "2", "--realtime", "--loop", "--start-paused",
        "--exclude-transforms", "gps:base", "/a:/b",
    ]  # fmt: skip
    assert main([str(argument) for argument in arguments]) == 0
    [(job, playback, loop)] = taken
    expected = Job(
        log=str(logs["nuscenes"]),
        out="o",
        checkpoint="sim",
        device="cpu",
        version="v1.0-sim",
        scene="scene-0001",
        rig="rig.yaml",
        topics=("/a", "/b"),
        exclude_topics=("/c", "/d"),
        remap={"/a": "/x", "/b": "/y:=z"},
        start_offset_s=1.5,
        duration_s=3.0,
        sensors=("camera", "radar"),
        frame_rate_hz=2.0,
        faults=("drop:lidar", "blank:camera@1-2"),
        truth="tables",
        score_threshold=0.5,
        outputs=("rrd", "mcap"),
        deadline_ms=80.0,
        skip_damaged=True,
        limits=3.0,
        exclude_transforms=(("gps", "base"), ("a", "b")),
    )
    assert dataclasses.asdict(job) == dataclasses.asdict(expected)
    default = Job("", "", "")
    same = [f.name for f in dataclasses.fields(Job) if getattr(expected, f.name) == getattr(default, f.name)]
    assert same == ["parts"], "an option that is not tried"  # of --merge: see test_merged.py
    assert (playback.rate, playback.realtime, playback.paused, loop) == (2.0, True, True, True)


def test_the_names_that_users_of_ros_know(logs, taken):
    main([str(logs["mcap"]), "--checkpoint", "c", "--out", "o", "-r", "0.5", "-l", "-p", "--playback-duration", "4",
          "--remap", "/a:=/b"])  # fmt: skip
    [(job, playback, loop)] = taken
    assert (job.duration_s, job.remap, playback.rate, playback.paused, loop) == (4.0, {"/a": "/b"}, 0.5, True, True)


def test_several_logs_are_a_batch(logs, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(fleet, "main", lambda jobs, out, **options: calls.append((jobs, out, options)) or 1)
    sources = [str(logs["mcap"]), str(logs["nuscenes"])]
    code = main([*sources, "--checkpoint", "c", "--out", "o", "--jobs", "3", "--engine", "ray", "--again"])
    [(jobs, out, options)] = calls
    assert code == 1 and out == "o" and options == {"workers": 3, "engine": "ray", "again": True}
    assert [(job.log, job.scene, job.out) for job in jobs] == [
        (sources[0], None, "o/drive"),
        (sources[1], "scene-0001", "o/scene-0001"),
    ]


@pytest.mark.parametrize("option", [["--rate", "1"], ["--realtime"], ["--loop"], ["-p"], ["--outputs", "live"]])
def test_only_a_single_log_has_a_pace(logs, option):
    with pytest.raises(PerceptionError, match="want one log, found 2"):
        main([str(logs["mcap"]), str(logs["nuscenes"]), "--checkpoint", "c", "--out", "o", *option])


@pytest.mark.parametrize("log", ["nuscenes", "mcap", "sqlite3", "ros2_mcap"])
def test_a_replay_says_what_it_found(replayed, logs, log, capsys, tmp_path):
    code, summary = replayed(logs[log], "--truth", logs["nuscenes"], "--deadline-ms", "0.001")
    out = capsys.readouterr().out
    assert code == 0 and summary["frames"] == summary["metrics"]["frames"] == 6
    assert summary["latency"]["deadline_misses"] == 6
    *table, metrics, figures, where = out.splitlines()
    assert any(line.startswith("total") for line in table)
    assert (
        metrics
        == f"mAP {summary['metrics']['mAP']:.4f}, NDS {summary['metrics']['NDS']:.4f} on 6 frames with ground truth"
    )
    assert figures == f"6 frames, {summary['detections']} detections, sha256 {summary['detections_sha256']}"
    assert where == f"results: {tmp_path / 'out'}"
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"results.json", "result.jsonl", "replay.png", "summary.json"} <= left
    assert not {name for name in left if name.startswith("replay.") and name != "replay.png"}


def test_a_fault_is_reported(replayed, logs, capsys):
    _, summary = replayed(logs["mcap"], "--fault", "drop:radar")
    assert summary["injected_faults"] == ["drop:radar"]
    assert "frames without RADAR_FRONT: 6" in capsys.readouterr().out.splitlines()


def test_real_time_reports_what_it_dropped(replayed, logs, capsys):
    _, summary = replayed(logs["mcap"], "--realtime", "--rate", "1000")
    taken, dropped = summary["frames"], len(summary["dropped"])
    assert taken + dropped == 6
    assert f"{dropped} frames dropped, {taken} taken" in capsys.readouterr().out.splitlines()


def test_info_saves_the_rig_that_a_replay_takes(replayed, logs, tmp_path, capsys):
    assert main(["info", str(logs["sqlite3"]), "--save-rig", str(tmp_path / "rigs/rig.yaml")]) == 0
    out = capsys.readouterr().out
    assert "/lidar_top" in out and "RADAR_FRONT" in out and "6 " in out
    rig = load_rig(tmp_path / "rigs/rig.yaml")
    assert list(rig.sensors) == ["CAM_FRONT", "LIDAR_TOP", "RADAR_FRONT"]
    assert all(len(source.ego_SE3_sensor) == 7 for source in rig.sensors.values())
    _, proposed = replayed(logs["sqlite3"])
    _, given = replayed(logs["sqlite3"], "--rig", tmp_path / "rigs/rig.yaml")
    assert given["detections_sha256"] == proposed["detections_sha256"]
    capsys.readouterr()
    assert main(["info", str(logs["sqlite3"]), "--rig", str(tmp_path / "rigs/rig.yaml")]) == 0
    assert capsys.readouterr().out.split("\nrig\n")[0] == out.split("\nrig\n")[0]


def test_info_excludes_transforms(logs, capsys):
    assert main(["info", str(logs["mcap"]), "--exclude-transforms", "map:base_link", "a:b"]) == 0
    assert "no odometry or map frame above base_link" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["info", str(logs["mcap"]), "--exclude-transforms", "map"])
    assert "PARENT:CHILD was expected, found 'map'" in capsys.readouterr().err


def test_the_doctor_finds_nothing_and_something(logs, tmp_path, capsys):
    assert main(["info", str(logs["mcap"]), "--doctor"]) == 0
    shutil.copytree(logs["nuscenes"], tmp_path / "damaged")
    (tmp_path / "damaged/samples/LIDAR_TOP/lidar1").write_bytes(b"odd")
    capsys.readouterr()
    code = main(["info", str(tmp_path / "damaged"), "--doctor"])
    assert code == 1 and "lidar1" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "damaged")]) == 0, "who does not ask is not told"


def test_several_logs_are_a_row_each(logs, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no log")
    paths = [str(logs["mcap"]), str(tmp_path / "notes.txt")]
    assert main(["info", *paths, "--doctor"]) == 1
    head, sound, other = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["log", "seconds", "messages"]
    assert sound.startswith(paths[0]) and sound.endswith("nothing") and "1 camera, 1 LiDAR, 1 radar" in sound
    assert other.startswith(paths[1]) and "not opened" in other and other.endswith("found .txt")
    assert main(["info", *paths]) == 0, "who does not ask is not told"
    with pytest.raises(PerceptionError, match="--save-rig: one log was expected, found 2"):
        main(["info", *paths, "--save-rig", "rig.yaml"])


@pytest.mark.parametrize(
    ("options", "name"),
    [(["--to", "mcap"], "d.mcap"), (["--to", "ros2"], "bag"), (["--to", "ros2", "--storage", "mcap"], "bag")],
)
def test_convert_says_how_many_messages_of_each_topic(logs, tmp_path, options, name, capsys):
    out = tmp_path / name
    assert main(["convert", str(logs["nuscenes"]), "--scene", "scene-0001", *options, "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == str(out) and [line.split()[1] for line in lines[:-1]] == sorted(
        f"/{name}" for name in (
            "cam_front/camera_info", "cam_front/image_rect_compressed", "lidar_top", "radar_front", "sample", "tf",
        )
    )  # fmt: skip
    with open_log(out) as log:
        assert len(list(log)) == sum(int(line.split()[0]) for line in lines[:-1])


def test_a_repeated_drive_is_as_many_times_as_long(replayed, logs, tmp_path):
    main(["convert", str(logs["mcap"]), "--to", "mcap", "--repeat", "3", "--out", str(tmp_path / "long.mcap")])
    _, once = replayed(logs["mcap"])
    _, summary = replayed(tmp_path / "long.mcap")
    assert (once["frames"], summary["frames"]) == (6, 18)


def test_convert_leaves_out_what_is_damaged_and_says_so_once(logs, tmp_path, caplog, capsys):
    shutil.copytree(logs["nuscenes"], tmp_path / "damaged")
    (tmp_path / "damaged/samples/LIDAR_TOP/lidar1").write_bytes(b"odd")
    command = ["convert", str(tmp_path / "damaged"), "--to", "mcap", "--out", str(tmp_path / "d.mcap")]
    with pytest.raises(PerceptionError, match="lidar1"):
        main(command)
    assert main([*command, "--skip-damaged"]) == 0
    said = caplog.text + capsys.readouterr().err
    assert said.count("lidar1: a multiple") == 1


@pytest.mark.parametrize("word", [[], ["info"], ["convert"], ["compare"]])
def test_help(word, capsys):
    with pytest.raises(SystemExit) as end:
        main([*word, "--help"])
    out = capsys.readouterr().out
    assert end.value.code == 0 and out.startswith(f"usage: {' '.join(['perception', *(word or ['replay'])])} ")
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    "arguments",
    [[], ["drive.mcap"], ["drive.mcap", "--out", "o"], ["info"], ["convert", "a"], ["convert", "a", "--to", "avi"]],
)
def test_a_command_that_is_not_whole_shows_its_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2 and capsys.readouterr().err.startswith("usage: perception ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{mcap}", "--rate", "0"], "--rate: a number above 0 was expected, found 0.0"),
        (["{mcap}", "--rate", "nan"], "--rate: a number above 0 was expected, found nan"),
        (["{mcap}", "--frame-rate", "-1"], "--frame-rate: a number above 0"),
        (["{mcap}", "--jobs", "0"], "--jobs: a number above 0"),
        (["{mcap}", "--duration", "nan"], "start offset >= 0 and duration > 0 were expected"),
        (["{mcap}", "--start-offset", "-1"], "start offset >= 0"),
        (["{mcap}", "--remap", "/a"], "--remap: OLD:=NEW was expected, found '/a'"),
        (["{mcap}", "--remap", ":=/a"], "--remap: OLD:=NEW"),
        (["{mcap}", "--sensors", "camera,sonar"], "sonar"),
        (["{mcap}", "--outputs", "avi"], "outputs: some of mp4, rrd, mcap, live were expected, found 'avi'"),
        (["{mcap}", "--fault", "drop:sonar"], "fault 'drop:sonar': a sensor of"),
        (["{mcap}", "--scenes", "scene-0001"], "scene-0001"),
        (["{nuscenes}", "--scenes", "scene-0002"], "scene-0002"),
        (["{nuscenes}", "--version", "v9"], "v9"),
        (["nowhere*.mcap"], "nowhere*.mcap: a log was expected, found nothing"),
    ],
)
def test_a_mistake_is_one_line(logs, checkpoint, tmp_path, arguments, message):
    arguments = [argument.format(**logs) for argument in arguments]
    with pytest.raises(PerceptionError) as error:
        main([*arguments, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out/summary.json").exists()


@pytest.mark.parametrize(
    "arguments",
    [["info", "{there}"], ["info", "{log}", "--rig", "{there}"], ["info", "{log}", "--scene", "a"],
     ["convert", "{there}", "--to", "mcap", "--out", "a.mcap"], ["convert", "{log}", "--to", "mcap", "--out", "a.avi"],
     ["convert", "{log}", "--to", "mcap", "--out", "{log}"], ["info", "{log}", "--save-rig", "{there}/a/b"],
     ["convert", "{log}", "--to", "mcap", "--repeat", "0", "--out", "{new}"]],
)  # fmt: skip
def test_a_mistake_of_another_word_is_one_line_too(logs, tmp_path, arguments, capsys):
    (tmp_path / "file").write_text("of no use")
    places = {"there": tmp_path / "file", "log": logs["mcap"], "new": tmp_path / "new.mcap"}
    with pytest.raises(SystemExit) as end:
        run_main(lambda: main([argument.format(**places) for argument in arguments]), keeps_memory=False)
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert end.value.code == 2 and len(errors) == 1


BAGS = Path(os.environ.get("PERCEPTION_DATA", "")) / "nebula_rosbag2"


@pytest.mark.skipif(not os.environ.get("PERCEPTION_DATA"), reason="PERCEPTION_DATA is not set: no real data to test on")
@pytest.mark.parametrize("sensor", ["ars548", "srr520", "vlp16", "vlp32"])
def test_bags_of_raw_packets_are_present_but_not_decodable(sensor, checkpoint, tmp_path, capsys):
    bags = sorted(path.parent for path in (BAGS / sensor).rglob("metadata.yaml"))
    assert bags
    for bag in bags:
        assert main(["info", str(bag)]) == 0
        lines = capsys.readouterr().out.splitlines()
        with open_log(bag, strict=False) as log:
            topics = [topic for topic in log.topics.values() if topic.kind is None]
        assert topics
        for topic in topics:
            (line,) = [line for line in lines if line.split()[:2] == [topic.name, topic.type]]
            assert "not decoded" in line
        with pytest.raises(PerceptionError) as error:
            main([str(bag), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--device", "cpu"])
        assert (
            "a rig file was expected (--rig), for the log lacks: no sensor" in str(error.value)
            and len(str(error.value).splitlines()) == 1
        )
