"""The submission format: frames, orders and units by hand, and what the official reader makes of it."""

import json
import os

import numpy as np
import pytest

from perception.eval.submission import MAX_BOXES, ResultsWriter, to_submission, to_world
from perception.files import ResultsError, begin_part, check_writable, finish_part, replacing, write_json
from perception.geometry import SE3
from perception.sample import Boxes3D, Detections, Frame
from perception.task import ATTRIBUTES, CLASSES

# The ego looks along the world's +y.
FRAME = Frame("token", 0, world_SE3_ego=SE3.from_yaw(np.pi / 2, (100.0, 200.0, 1.0)))


def detections(labels, scores=None, velocity=(0.0, 0.0), attribute=None) -> Detections:
    n = len(labels)
    boxes = Boxes3D(
        center=np.tile([10.0, 2.0, 0.5], (n, 1)),
        size=np.tile([4.0, 2.0, 1.5], (n, 1)),
        yaw=np.full(n, np.pi / 2),
        velocity=np.tile(velocity, (n, 1)),
        label=np.array(labels),
        attribute=None if attribute is None else np.full(n, attribute),
    )
    return Detections.sorted(boxes, np.linspace(1.0, 0.5, n) if scores is None else np.array(scores))


def submitted(found: Detections) -> list[dict]:
    return to_submission(to_world(FRAME, found))


def test_a_box_in_the_world():
    (box,) = submitted(detections([0], velocity=(3.0, 1.0)))
    assert box["sample_token"] == "token" and box["detection_name"] == "car" and box["detection_score"] == 1.0
    assert np.allclose(box["translation"], [98.0, 210.0, 1.5])
    assert box["size"] == [2.0, 4.0, 1.5]  # width, length, height
    assert np.allclose(np.abs(box["rotation"]), [0.0, 0.0, 0.0, 1.0])  # two quarter turns
    assert np.allclose(box["velocity"], [-1.0, 3.0])
    assert box["attribute_name"] == "vehicle.moving"


def test_an_unknown_velocity_stands_still():
    (box,) = submitted(detections([0], velocity=(np.nan, np.nan)))
    assert box["velocity"] == [0.0, 0.0] and box["attribute_name"] == "vehicle.parked"


def test_nothing_found():
    assert submitted(Detections(Boxes3D.empty(), np.zeros(0))) == []


def test_the_best_boxes_are_kept_in_order():
    scores = np.random.default_rng(0).permutation(MAX_BOXES + 100) / 1000
    kept = [box["detection_score"] for box in submitted(detections([0] * len(scores), scores))]
    assert kept == sorted(scores, reverse=True)[:MAX_BOXES]


@pytest.mark.parametrize("speed", [0.0, 5.0])
@pytest.mark.parametrize("attribute", range(-1, len(ATTRIBUTES)))
def test_every_class_gets_an_attribute_it_can_have(attribute, speed):
    allowed = pytest.importorskip("nuscenes.eval.detection.utils").detection_name_to_rel_attributes
    found = submitted(detections(range(len(CLASSES)), velocity=(speed, 0.0), attribute=attribute))
    for box in found:
        names = allowed(box["detection_name"])
        assert box["attribute_name"] in (names or [""])
        if attribute >= 0 and ATTRIBUTES[attribute] in names:
            assert box["attribute_name"] == ATTRIBUTES[attribute]


def test_the_official_reader_accepts_the_file(tmp_path):
    loaders = pytest.importorskip("nuscenes.eval.common.loaders")
    from nuscenes.eval.detection.data_classes import DetectionBox

    with ResultsWriter(tmp_path / "deep" / "results.json", ["lidar", "camera"]) as writer:
        writer.add("a", submitted(detections(range(10))))
        writer.add("b", [])
    boxes, meta = loaders.load_prediction(str(tmp_path / "deep" / "results.json"), MAX_BOXES, DetectionBox)
    assert [len(boxes["a"]), len(boxes["b"])] == [10, 0] and boxes.sample_tokens == ["a", "b"]
    assert meta == {
        "use_camera": True, "use_radar": False, "use_lidar": True, "use_map": False, "use_external": False,
    }  # fmt: skip


def test_a_file_without_samples_is_json(tmp_path):
    with ResultsWriter(tmp_path / "results.json", []):
        pass
    assert json.loads((tmp_path / "results.json").read_text())["results"] == {}


def test_an_interrupted_file_leaves_the_old_one(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), ResultsWriter(path, ["radar"]) as writer:
        writer.add("a", [])
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["file/x.json", "file/deep/x.json", "folder", "/proc/self/x.json", "folder/" + "x" * 300]
)
def test_what_cannot_be_written_is_known_before_and_said_after(tmp_path, name):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    for attempt in (
        check_writable,
        lambda path: write_json(path, {}),
        lambda path: ResultsWriter(path, []).__enter__(),
    ):
        with pytest.raises(ResultsError, match=f"{path}: cannot be written"):
            attempt(path)
    assert (
        sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"] and (tmp_path / "file").read_text() == "old"
    )


def test_checking_leaves_nothing_behind(tmp_path):
    (tmp_path / "x.json").write_text("old")
    for name in ("x.json", "deep/deeper/y.json"):
        check_writable(tmp_path / name)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x.json", "old")]


def test_a_file_is_written_whole(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "deep" / "x.json", {"a": float("nan")})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text("old")
    with pytest.raises(ResultsError, match="No space left"), ResultsWriter(path, []) as writer:
        writer._file.close()
        writer._file = open("/dev/full", "w")
        writer.add("a", [])
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_new_file_obeys_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_json(tmp_path / "x.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "x.json").stat().st_mode & 0o777 == 0o640


def test_a_block_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x.mcap"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as part:
        part.write_text("new")
        assert part == tmp_path / "x.part.mcap"
        raise ZeroDivisionError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.mcap", "old")]


def test_writers_of_the_same_file_do_not_meet(tmp_path):
    path = tmp_path / "x"
    with replacing(path, contended=True) as first, replacing(path, contended=True) as second:
        first.write_text("first")
        second.write_text("second")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x", "first")]  # it ended last


def test_a_part_file_takes_its_name_once_it_is_finished(tmp_path):
    path = tmp_path / "deep" / "drive.mcap"
    part = begin_part(path)
    assert part == tmp_path / "deep" / "drive.part.mcap"
    part.write_text("new")
    assert not path.exists()
    finish_part(path)
    assert path.read_text() == "new" and list(path.parent.iterdir()) == [path]
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        begin_part(tmp_path / "file" / "drive.mcap")
