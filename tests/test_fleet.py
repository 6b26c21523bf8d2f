"""Fleets: which logs they are of, that one failure stops nothing else, and that what is done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nuscenes_world import World

from perception.config import Config
from perception.errors import PerceptionError
from perception.model.build import build
from perception.model.checkpoint import weights_sha256
from perception.replay import fleet
from perception.replay.fleet import jobs_of, run_fleet
from perception.replay.job import Job

ROOT = Path(__file__).parents[1]
FIGURES = {"frames": 2, "detections": 3, "detections_sha256": "ab" * 32}


def report(job, playback, load, progress):
    """In place of a replay: leaves what one leaves that is done."""
    done = {"job_sha256": job.digest, "files_sha256": job.files_digest, **FIGURES}
    done |= {"complete": True, "weights_sha256": weights_sha256(job.checkpoint)}
    Path(job.out).mkdir(parents=True, exist_ok=True)
    Path(job.out, "summary.json").write_text(json.dumps(done))
    return done


def misbehave(job, playback, load, progress):
    """Does what the log is called."""
    match Path(job.log).stem:
        case "bad":
            raise PerceptionError("bad.mcap:\na log was expected, found noise")
        case "bug":
            raise ZeroDivisionError("of ours")
        case "deadly":
            os._exit(9)
    return FIGURES


def wait_to_be_stopped(job, playback, load, progress):
    if job.log.endswith("quick.mcap"):
        return report(job, playback, load, progress)
    Path(job.log).with_suffix(".pid").write_text(str(os.getpid()))
    while not playback.quit:
        time.sleep(0.01)
    Path(job.log).with_suffix(".stopped").touch()
    return FIGURES


def without_processes(run, jobs, workers):
    yield from ((i, fleet._work(run, job)) for i, job in enumerate(jobs))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    config = Config()
    config.encoders["camera"].image_size, config.encoders["camera"].weights = [64, 96], "none"
    build(config).save(folder)
    return folder


@pytest.fixture
def template(tmp_path, checkpoint) -> Job:
    return Job(log="", out=str(tmp_path / "out"), checkpoint=str(checkpoint), device="cpu", outputs=())


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_world(root, *scenes):
    world = World()
    first = world.tables["scene"][0]
    world.tables["scene"] = [{**first, "name": scenes[0]}] + [{"token": s, "name": s} for s in scenes[1:]]
    for i, scene in enumerate(scenes[1:], 2):
        world.tables["sample"].append({"token": scene, "scene_token": scene, "timestamp": i * 10**15})
    world.write(root)


def outs(jobs, template):
    return [os.path.relpath(job.out, template.out) for job in jobs]


def fleet_file(template):
    return json.loads(Path(template.out, "batch.json").read_text())


def test_a_single_log_writes_where_it_is_told(tmp_path, template):
    touch(tmp_path, "drive.mcap")
    (job,) = jobs_of([f"{tmp_path}/*.mcap"], template)
    assert (job.log, job.out, job.scene) == (str(tmp_path / "drive.mcap"), template.out, None)


def test_a_pattern_finds_logs_sorted_and_nothing_else(tmp_path, template):
    touch(tmp_path, "z/a.mcap", "z/b.db3", "notes.txt", "bag/metadata.yaml", "bag/bag_0.mcap", "bag/bag_1.mcap")
    write_world(tmp_path / "folder", "scene-2", "scene-1")
    jobs = jobs_of([f"{tmp_path}/**"], template)
    assert outs(jobs, template) == ["bag", "scene-1", "scene-2", "a", "b"]
    assert [job.scene for job in jobs] == [None, "scene-1", "scene-2", None, None]
    # Part of a bag it is a log only if it is named.
    assert outs(jobs_of([f"{tmp_path}/bag/*.mcap"], template), template) == ["bag_0", "bag_1"]


def test_a_log_named_twice_is_replayed_once(tmp_path, template, monkeypatch):
    touch(tmp_path, "a.mcap", "b[1].mcap")
    monkeypatch.chdir(tmp_path)
    jobs = jobs_of(["b[1].mcap", "a.mcap", "./a.mcap", str(tmp_path / "*.mcap")], template)
    assert outs(jobs, template) == ["a", "b[1]"]


def test_logs_of_one_name_are_told_apart(tmp_path, template):
    touch(tmp_path, "mon/x.mcap", "tue/x.mcap", "tue/y.mcap", "tue/y.db3", "z.mcap")
    jobs = jobs_of([f"{tmp_path}/**"], template)
    assert outs(jobs, template) == ["mon/x", "tue/x", "tue/y.db3", "tue/y.mcap", "z"]
    for root in ("a", "b"):
        write_world(tmp_path / root, "scene-0001")
    assert outs(jobs_of([f"{tmp_path}/[ab]"], template), template) == ["a/scene-0001", "b/scene-0001"]


PATHS = st.lists(st.sampled_from(["a", "b", "a.mcap", "a.db3"]), min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(PATHS, st.sampled_from([None, "a", "b"])), min_size=1, max_size=12, unique=True))
def test_names_are_always_different(drives):
    names = fleet._names([(Path(path), scene) for path, scene in drives])
    assert len(set(names)) == len(drives)
    for name, (path, scene) in zip(names, drives):
        last, path = name.split("/")[-1], Path(path)
        assert last in ((path.stem, path.name) if scene is None else (scene, f"{scene}.nuscenes"))


def test_scenes_and_versions_are_of_nuscenes_folders(tmp_path, template):
    write_world(tmp_path / "root", "s1", "s2", "s3")
    touch(tmp_path, "drive.mcap")
    sources = [str(tmp_path / "root"), str(tmp_path / "drive.mcap")]
    versioned = Job(**{**vars(template), "version": "v1.0-sim"})
    jobs = jobs_of(sources, versioned, scenes=["s3", "s1"])
    assert [(job.scene, job.version) for job in jobs] == [(None, None), ("s1", "v1.0-sim"), ("s3", "v1.0-sim")]
    with pytest.raises(PerceptionError, match=r"scene s4 was expected in .*, found s1, s2, s3"):
        jobs_of(sources, template, scenes=["s1", "s4"])
    with pytest.raises(PerceptionError, match=r"version v1\.0-sim: a folder in the nuScenes layout was expected"):
        jobs_of(sources[1:], versioned)


@pytest.mark.parametrize("source", ["nowhere.mcap", "*.mcap", "**/nothing", "*.txt"])
def test_a_source_without_a_log_is_an_error_that_names_it(tmp_path, template, source):
    touch(tmp_path, "a.txt", "b.db3")
    with pytest.raises(PerceptionError) as error:
        jobs_of([f"{tmp_path}/b.db3", f"{tmp_path}/{source}"], template)
    assert str(error.value) == f"{tmp_path}/{source}: a log was expected, found nothing"


def test_neither_failures_nor_dead_workers_stop_the_others(tmp_path, template, capfd):
    touch(tmp_path, *(f"{name}.mcap" for name in ("a", "bad", "bug", "deadly", "e")))
    jobs = jobs_of([f"{tmp_path}/*.mcap"], template)
    statuses = run_fleet(jobs, template.out, workers=2, run=misbehave)
    assert [status.status for status in statuses] == ["done", "failed", "failed", "failed", "done"]
    assert [status.error for status in statuses[1:4]] == [
        "bad.mcap: a log was expected, found noise",
        "ZeroDivisionError: of ours",
        "its worker process died: killed, perhaps for want of memory, or crashed",
    ]
    written = fleet_file(template)
    assert [log["status"] for log in written["logs"]] == [status.status for status in statuses]
    assert written["logs"][0]["detections_sha256"] == FIGURES["detections_sha256"]
    totals = {key: value for key, value in written["totals"].items() if key != "seconds"}
    assert totals == dict(
        zip(("logs", "pending", "done", "done before", "failed", "frames", "detections"), (5, 0, 2, 0, 3, 4, 6))
    )
    out, err = capfd.readouterr()
    assert (
        "bad: failed: bad.mcap: a log was expected" in out and "a: 2 frames in " in out and "sha256 abababababab" in out
    )
    assert "ZeroDivisionError" in err  # with its traceback: it is our fault


def die_once(job, playback, load, progress):
    path = Path(job.log).with_suffix(".died")
    if not path.exists():
        path.touch()
        os._exit(9)
    return FIGURES


def test_a_log_whose_worker_died_is_tried_once_more(tmp_path, template):
    touch(tmp_path, "a.mcap")
    statuses = run_fleet(jobs_of([f"{tmp_path}/*.mcap"], template), f"{tmp_path}/fleet", run=die_once)
    assert [status.status for status in statuses] == ["done"]


class TestResume:
    """What is done is left alone until something that it was made of changes."""

    @pytest.fixture
    def jobs(self, tmp_path, template, monkeypatch):
        monkeypatch.setitem(fleet._ENGINES, "local", without_processes)
        touch(tmp_path, "a.mcap", "b.mcap")
        jobs = jobs_of([f"{tmp_path}/*.mcap"], template)
        assert self.states(jobs) == ["done", "done"]
        return jobs

    @staticmethod
    def states(jobs, **options):
        return [status.status for status in run_fleet(jobs, Path(jobs[0].out).parent, run=report, **options)]

    def test_nothing_changed(self, jobs, template):
        assert self.states(jobs) == ["done before", "done before"]
        assert fleet_file(template)["totals"]["frames"] == 4 and fleet_file(template)["logs"][0]["frames"] == 2

    def test_it_is_wanted_again(self, jobs):
        assert self.states(jobs, again=True) == ["done", "done"]

    def test_the_log(self, tmp_path, jobs):
        (tmp_path / "a.mcap").write_text("longer")
        assert self.states(jobs) == ["done", "done before"]
        os.utime(tmp_path / "b.mcap", ns=(0, 1))
        assert self.states(jobs) == ["done before", "done"]

    def test_the_job(self, jobs, tmp_path):
        assert self.states([Job(**{**vars(jobs[0]), "score_threshold": 0.5}), jobs[1]]) == ["done", "done before"]
        rigged = [Job(**{**vars(job), "rig": str(tmp_path / "rig.yaml")}) for job in jobs]
        assert self.states(rigged) == ["done", "done"] and self.states(rigged) == ["done before", "done before"]
        (tmp_path / "rig.yaml").write_text("reference: LIDAR_TOP")
        assert self.states(rigged) == ["done", "done"]

    def test_the_weights(self, jobs, checkpoint, tmp_path):
        moved = tmp_path / "moved"
        moved.mkdir()
        for name in ("config.yaml", "model.safetensors"):
            (moved / name).write_bytes((checkpoint / name).read_bytes())
        jobs = [Job(**{**vars(job), "checkpoint": str(moved)}) for job in jobs]
        assert self.states(jobs) == ["done", "done"] and self.states(jobs) == ["done before", "done before"]
        with (moved / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        assert self.states(jobs) == ["done", "done"]

    @pytest.mark.parametrize("left", ['{"complete": false}', "[]", '{"comp', b"\xff", None])
    def test_a_summary_that_is_not_complete(self, jobs, left):
        path = Path(jobs[1].out, "summary.json")
        if left is None:
            path.unlink()
        elif left == '{"complete": false}':
            path.write_text(json.dumps({**json.loads(path.read_text()), "complete": False}))
        else:
            path.write_bytes(left if isinstance(left, bytes) else left.encode())
        assert self.states(jobs) == ["done before", "done"]


def test_a_failure_is_tried_again(tmp_path, template, monkeypatch):
    monkeypatch.setitem(fleet._ENGINES, "local", without_processes)
    touch(tmp_path, "a.mcap", "bad.mcap")
    jobs = jobs_of([f"{tmp_path}/*.mcap"], template)
    assert [status.status for status in run_fleet(jobs, template.out, run=misbehave)] == ["done", "failed"]
    assert [status.status for status in run_fleet(jobs, template.out, run=report)] == ["done", "done"]


STOPPED = """
import sys
import test_fleet
from perception.replay.fleet import jobs_of, run_fleet
from perception.replay.job import Job

if __name__ == "__main__":
    folder, checkpoint = sys.argv[1:]
    jobs = jobs_of([folder + "/*.mcap"], Job(log="", out=folder + "/out", checkpoint=checkpoint))
    run_fleet(jobs, folder + "/out", workers=2, run=test_fleet.wait_to_be_stopped)
"""


@pytest.fixture
def running(tmp_path, checkpoint):
    """A fleet of three logs, one of which is done, and two being replayed until somebody stops them."""
    (tmp_path / "stopped.py").write_text(STOPPED)
    touch(tmp_path, "quick.mcap", "slow.mcap", "slower.mcap")
    command = [sys.executable, tmp_path / "stopped.py", tmp_path, checkpoint]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            until(lambda: all((tmp_path / f"{name}.pid").exists() for name in ("slow", "slower")))
            yield process
        finally:
            process.kill()


def until(condition):
    deadline = time.monotonic() + 180  # three processes import torch, perhaps on a busy machine
    while not condition():
        assert time.monotonic() < deadline, "waited for three minutes"
        time.sleep(0.02)


@pytest.mark.parametrize("to_all", [False, True], ids=["kill", "terminal"])
def test_ctrl_c_stops_the_workers_and_keeps_what_is_done(tmp_path, running, checkpoint, to_all, monkeypatch):
    until(lambda: json.loads((tmp_path / "out/batch.json").read_text())["totals"]["done"] == 1)
    (os.killpg if to_all else os.kill)(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0 and err.strip().endswith("KeyboardInterrupt") and err.count("Traceback") == 1
    assert all((tmp_path / f"{name}.stopped").exists() for name in ("slow", "slower"))
    written = json.loads((tmp_path / "out/batch.json").read_text())
    assert [log["status"] for log in written["logs"]] == ["done", "pending", "pending"]
    jobs = jobs_of([f"{tmp_path}/*.mcap"], Job(log="", out=str(tmp_path / "out"), checkpoint=str(checkpoint)))
    monkeypatch.setitem(fleet._ENGINES, "local", without_processes)
    statuses = run_fleet(jobs, tmp_path / "out", run=report)
    assert [status.status for status in statuses] == ["done before", "done", "done"]


def test_workers_end_with_a_fleet_that_is_killed(tmp_path, running):
    workers = [int((tmp_path / f"{name}.pid").read_text()) for name in ("slow", "slower")]
    running.kill()
    running.wait()
    until(lambda: not any(is_alive(worker) for worker in workers))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def real_jobs(tmp_path, template):
    for root in ("a", "b"):
        write_world(tmp_path / root, "scene-0001")
    return jobs_of([f"{tmp_path}/[ab]"], template)


def digests(statuses):
    assert [status.status for status in statuses] == ["done", "done"], statuses
    assert [status.frames for status in statuses] == [2, 2]
    return [status.detections_sha256 for status in statuses]


def test_two_workers_find_what_one_finds(real_jobs, template, capfd):
    one = digests(run_fleet(real_jobs, template.out))
    assert digests(run_fleet(real_jobs, template.out, workers=2, again=True)) == one
    assert one[0] == one[1] and Path(real_jobs[0].out, "results.json").exists()
    assert fleet.main(real_jobs, template.out) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-2:] == ["2 logs: 2 done before", f"results: {template.out}"]
    assert "frame/s" not in err  # the bars of the workers would be drawn over the fleet's


@pytest.mark.long
@pytest.mark.slow
def test_ray_finds_what_a_worker_finds(real_jobs, tmp_path, template, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    touch(tmp_path, "empty.mcap")
    jobs = [Job(**{**vars(job), "log": os.path.relpath(job.log, tmp_path)}) for job in real_jobs]
    jobs.append(Job(**{**vars(template), "log": "empty.mcap", "out": f"{template.out}/empty"}))
    *on_ray, failed = run_fleet(jobs, template.out, engine="ray", workers=2)
    assert failed.status == "failed" and failed.error.startswith("empty.mcap: ")
    assert digests(on_ray) == digests(run_fleet(jobs[:2], template.out, again=True))


def test_ray_is_an_extra(real_jobs, template, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(PerceptionError, match=r'pip install -e "\.\[ray\]"'):
        run_fleet(real_jobs, template.out, engine="ray")


@pytest.mark.parametrize("options", [{"workers": 0}, {"engine": "slurm"}])
def test_bad_options_are_known_at_once(template, options):
    with pytest.raises(PerceptionError, match="were expected, found"):
        run_fleet([], template.out, **options)


def test_no_checkpoint_is_known_at_once(tmp_path, template):
    touch(tmp_path, "a.mcap")
    jobs = jobs_of([f"{tmp_path}/a.mcap"], Job(**{**vars(template), "checkpoint": "nothing"}))
    for again in (False, True):
        with pytest.raises(PerceptionError, match="checkpoint 'nothing'"):
            run_fleet(jobs, template.out, again=again)


def test_the_exit_code_tells_of_failures(tmp_path, template, capsys, monkeypatch):
    monkeypatch.setitem(fleet._ENGINES, "local", without_processes)
    touch(tmp_path, "empty.mcap")
    jobs = jobs_of([f"{tmp_path}/empty.mcap"], template)
    assert fleet.main(jobs, template.out) == 1
    assert "1 logs: 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../../evil", "/evil", "..", ""])
def test_the_name_of_a_scene_never_leads_out_of_the_results(tmp_path, name):
    world = World()
    world.tables["scene"][0]["name"] = name
    with pytest.raises(PerceptionError, match="a scene whose name can be a folder's"):
        jobs_of([str(world.write(tmp_path / "drive"))], Job("", str(tmp_path / "out"), "sim"))
