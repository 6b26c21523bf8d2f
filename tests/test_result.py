"""result.jsonl: what is written is read back to the last bit, and what is wrong is named with its line."""

import dataclasses
import json
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.errors import PerceptionError
from perception.files import ResultsError
from perception.geometry import SE3
from perception.replay.result import LinesSink, ReplayResultError, ResultFile, read_result, read_summary
from perception.replay.step import Step
from perception.sample import Boxes3D, Detections, Frame, PointCloud, RadarCloud
from perception.task import ATTRIBUTES, CLASSES, ObjectClass, Task


def detections(n: int, seed: int = 0) -> Detections:
    random = np.random.default_rng(seed)
    boxes = Boxes3D(
        random.normal(scale=30, size=(n, 3)), random.uniform(0.1, 9, (n, 3)), random.uniform(-3, 3, n),
        random.normal(size=(n, 2)), random.integers(0, len(CLASSES), n), random.integers(-1, len(ATTRIBUTES), n),
    )  # fmt: skip
    return Detections(boxes, np.sort(random.uniform(size=n))[::-1])


def step(index: int, found: Detections, tracks=None) -> Step:
    radar = RadarCloud(np.zeros((0, 7)))
    pose = SE3.from_yaw(0.1 * index, [1000.123 + index, -2.5, 0.3])
    frame = Frame(f"token-{index}", 10**18 + index, pose, radar=radar, scene="scene-ü")
    return Step(index, frame, found, tracks, {"lidar": "dead"}, {"load": 1.5, "model": 0.1 + 0.2})


def write(folder, *steps: Step):
    with LinesSink(folder / "result.jsonl") as sink:
        for each in steps:
            sink.add(each)
    return folder


def same(a: Detections, b: Detections) -> bool:
    ours, theirs = (
        [getattr(d.boxes, field.name) for field in dataclasses.fields(Boxes3D)] + [d.scores] for d in (a, b)
    )
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(ours, theirs))


@given(st.integers(0, 12), st.integers(0, 2**32))
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path_factory, n, seed):
    found = detections(n, seed)
    found.boxes.velocity[::3] = np.nan
    folder = write(tmp_path_factory.mktemp("result"), step(0, found), step(1, found, np.arange(n) - 1))
    first, second = read_result(folder)
    assert same(first.detections, found) and same(second.detections, found)
    assert first.tracks is None and second.tracks.tolist() == list(range(-1, n - 1))
    assert (first.index, first.token, first.timestamp_ns, first.scene) == (0, "token-0", 10**18, "scene-ü")
    assert first.sensors == ("radar",) and first.faults == {"lidar": "dead"}
    assert first.latency_ms == {"load": 1.5, "model": 0.1 + 0.2}
    assert np.allclose(second.world_SE3_ego.matrix, step(1, found).frame.world_SE3_ego.matrix, atol=1e-12)


def test_a_line_is_what_the_format_says(tmp_path):
    boxes = Boxes3D([[1, 2, 3]], [[4, 2, 1.5]], [0.25], [[np.nan, np.nan]], [0], [2])
    write(tmp_path, step(0, Detections(boxes, [0.5]), np.array([7])))
    line = json.loads((tmp_path / "result.jsonl").read_text())
    assert list(line) == [
        "index", "token", "timestamp_ns", "scene", "sensors", "world_SE3_ego", "faults", "latency_ms", "boxes",
    ]  # fmt: skip
    assert line["world_SE3_ego"] == [1000.123, -2.5, 0.3, 1, 0, 0, 0]
    assert line["boxes"] == {
        "label": ["car"], "score": [0.5], "center": [[1, 2, 3]], "size": [[4, 2, 1.5]], "yaw": [0.25],
        "velocity": [[None, None]], "attribute": ["vehicle.parked"], "track": [7],
    }  # fmt: skip


SHIPS = Task([ObjectClass("ship", attributes=["sailing"], color=[1, 2, 3]), ObjectClass("buoy")], ["sailing"])


def test_other_classes_and_sensors_are_named_by_the_first_line(tmp_path):
    boxes = Boxes3D([[1, 2, 3]] * 2, [[4, 2, 1.5]] * 2, [0, 0], np.zeros((2, 2)), [1, 0], [-1, 0])
    with LinesSink(tmp_path / "result.jsonl", SHIPS, ("sonar",)) as sink:
        frame = Frame("token", 7, others={"sonar": PointCloud(np.zeros((1, 3)))})
        sink.add(Step(0, frame, Detections(boxes, [0.5, 0.25]), None, {}, {}))
    header, line = map(json.loads, (tmp_path / "result.jsonl").read_text().splitlines())
    assert header["sensors"] == ["sonar"]
    assert [facts["name"] for facts in header["task"]["objects"]] == ["ship", "buoy"]
    assert line["boxes"]["label"] == ["buoy", "ship"] and line["boxes"]["attribute"] == ["", "sailing"]
    file = ResultFile(tmp_path)
    (found,) = file
    assert (file.task, file.sensors, found.sensors) == (SHIPS, ("sonar",), ("sonar",))
    assert same(found.detections, Detections(boxes, [0.5, 0.25]))
    (place,) = file.places().values()
    assert place.line == 2 and same(file.read(place).detections, found.detections)


def test_a_header_that_is_none_is_named(tmp_path):
    for header in ({"task": {"objects": []}, "sensors": []}, {"task": {}}, {"task": 1, "sensors": []}):
        (tmp_path / "result.jsonl").write_text(json.dumps(header, separators=(",", ":")) + "\n")
        with pytest.raises(ReplayResultError, match=r"result\.jsonl: line 1: "):
            ResultFile(tmp_path)


def test_no_frame_at_all(tmp_path):
    assert list(read_result(write(tmp_path))) == []
    assert ResultFile(tmp_path).places() == {}


def test_the_file_takes_its_name_when_it_is_whole(tmp_path):
    with LinesSink(tmp_path / "new/result.jsonl") as sink:
        sink.add(step(0, detections(2)))
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.part.jsonl"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.jsonl"]


def test_an_interrupted_run_leaves_whole_lines_and_the_earlier_result(tmp_path):
    write(tmp_path, step(0, detections(1)))
    earlier = (tmp_path / "result.jsonl").read_bytes()
    with pytest.raises(RuntimeError), LinesSink(tmp_path / "result.jsonl") as sink:
        sink.add(step(0, detections(3)))
        sink.add(step(1, detections(3)))
        assert (tmp_path / "result.part.jsonl").read_bytes().count(b"\n") == 2  # a line is on disk once it is added
        raise RuntimeError
    assert (tmp_path / "result.jsonl").read_bytes() == earlier
    (tmp_path / "result.jsonl").unlink()
    assert ResultFile(tmp_path).interrupted
    assert [frame.index for frame in read_result(tmp_path)] == [0, 1]


def test_a_line_that_was_cut_off_is_reported(tmp_path, caplog):
    whole = write(tmp_path, *(step(i, detections(3)) for i in range(3))) / "result.jsonl"
    data = whole.read_bytes()
    whole.unlink()
    (tmp_path / "result.part.jsonl").write_bytes(data[:-20])
    with caplog.at_level(logging.WARNING):
        assert [frame.index for frame in read_result(tmp_path)] == [0, 1]
    assert "result.part.jsonl: line 3 is incomplete" in caplog.text
    whole.write_bytes(data[:-20])  # a whole file has no such line
    with pytest.raises(ReplayResultError, match=r"result.jsonl: line 3: .* found one that does not end"):
        list(read_result(tmp_path))


BROKEN = {
    "not JSON": (lambda line: line.update(index=float("nan")), "JSON"),
    "no token": (lambda line: line.pop("token"), "missing required field `token`"),
    "a field too many": (lambda line: line.update(colour="red"), "unknown field `colour`"),
    "text for a number": (lambda line: line["boxes"]["yaw"].__setitem__(0, "north"), "Expected `float`"),
    "two numbers a centre": (lambda line: line["boxes"]["center"][0].pop(), "length 3"),
    "another class": (lambda line: line["boxes"]["label"].__setitem__(0, "tram"), "known class names .* 'tram'"),
    "another attribute": (lambda line: line["boxes"]["attribute"].__setitem__(0, "x"), "known attribute names .* 'x'"),
    "another sensor": (lambda line: line["sensors"].append("sonar"), "known sensors .* 'sonar'"),
    "a score of 2": (lambda line: line["boxes"]["score"].__setitem__(0, 2), r"scores: 0\.\.1 was expected"),
    "a size of 0": (lambda line: line["boxes"]["size"].__setitem__(0, [0, 1, 1]), "positive metres"),
    "one label less": (lambda line: line["boxes"]["label"].pop(), r"boxes.label: shape \[2\]"),
    "one score less": (lambda line: line["boxes"]["score"].pop(), r"scores: shape \[2\]"),
    "one track less": (lambda line: line["boxes"].update(track=[1]), "2 tracks were expected"),
    "no rotation": (lambda line: line.update(world_SE3_ego=[0] * 7), "unit quaternion"),
    "before the first": (lambda line: line.update(index=-1), "index"),
    "no object": (lambda line: None, "Expected `object`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_line_is_named(tmp_path, name):
    path = write(tmp_path, *(step(i, detections(2)) for i in range(3))) / "result.jsonl"
    lines, (damage, problem) = path.read_text().splitlines(), BROKEN[name]
    line = json.loads(lines[1])
    damage(line)
    lines[1] = json.dumps(line) if name != "no object" else "[1, 2]"
    path.write_text("\n".join(lines) + "\n")
    frames = read_result(tmp_path)
    assert next(frames).index == 0
    with pytest.raises(ReplayResultError, match=f"result.jsonl: line 2: .*{problem}"):
        next(frames)


@given(st.data())
def test_damage_is_an_error_of_ours_or_none(tmp_path_factory, data):
    folder = write(tmp_path_factory.mktemp("result"), step(0, detections(1)), step(1, detections(1)))
    content = bytearray((folder / "result.jsonl").read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    (folder / "result.jsonl").write_bytes(content)
    for reading in (lambda: list(read_result(folder)), lambda: ResultFile(folder).places()):
        try:
            reading()
        except PerceptionError as error:
            assert "result.jsonl: line " in str(error)


def test_any_frame_can_be_read_by_its_key(tmp_path):
    """A replay that loops sees a frame again."""
    steps = [dataclasses.replace(step(i % 2, detections(3, seed=i)), index=i) for i in range(4)]
    file = ResultFile(write(tmp_path, *steps))
    places = file.places()
    assert [(key.timestamp_ns - 10**18, key.repeat) for key in places] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    for i, place in reversed(list(enumerate(places.values()))):
        frame = file.read(place)
        assert place.line == i + 1 and frame.index == i and same(frame.detections, steps[i].detections)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ReplayResultError, match=r"result.jsonl: the result of a replay was expected, found none"):
        read_result(tmp_path / "nowhere")
    assert read_summary(tmp_path) == {}
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(ReplayResultError, match=r"summary.json: Expected `object`"):
        read_summary(tmp_path)


def test_a_place_that_takes_no_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match="cannot be written"), LinesSink(tmp_path / "file/result.jsonl"):
        pass
