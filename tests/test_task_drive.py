"""A task of three classes from labels to pictures, and frames that come from elsewhere than nuScenes tables."""

import dataclasses
import json

import numpy as np
import pytest
from test_evaluate import Oracle, Sloppy, Thing, changed, write_drive

from perception.config import load_config
from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_files import DataError
from perception.data.opening import open_source
from perception.data.sources import FrameSource
from perception.eval.calibration import calibrate, classification_report, match_all, matched
from perception.eval.evaluate import EvaluationError, evaluate, evaluate_subsets, score_file
from perception.eval.submission_reader import read_submission
from perception.geometry import wrap_angle
from perception.model.build import build
from perception.model.checkpoint import load
from perception.sample import Boxes3D, Detections
from perception.task import NUSCENES, ObjectClass, Task, TaskError
from perception.viz import Layout, draw_frame

CONFIG = """
task:
  attributes: []
  objects:
    - {name: vehicle, sources: [car, truck, bus, trailer, construction_vehicle], color: [10, 200, 30]}
    - {name: pedestrian, range_m: 40, suppression_radius_m: 0.3, color: [200, 20, 220]}
    - {name: cycle, sources: [motorcycle, bicycle], range_m: 40, suppression_radius_m: 0.5, color: [250, 130, 20]}
grid: {x_min_m: -12.8, x_max_m: 12.8, y_min_m: -12.8, y_max_m: 12.8}
encoders: {camera: null, radar: null, lidar: {point_channels: 8}}
fusion: {channels: 16, heads: 2}
head: {trunk_channels: [16, 16], channels: 16, max_detections: 20, score_threshold: 0.0}
"""
VEHICLE, PEDESTRIAN, CYCLE = range(3)
THINGS = (
    Thing("vehicle.car", 10.0, 0.0, velocity=(2.0, 1.0)),
    Thing("vehicle.truck", 49.0, 0.0),
    Thing("vehicle.bus.rigid", -20.0, 8.0),
    Thing("vehicle.trailer", -30.0, -8.0),
    Thing("vehicle.construction", 0.0, 30.0),
    Thing("human.pedestrian.adult", 5.0, 10.0),
    Thing("human.pedestrian.adult", 45.0, 10.0),  # out of the range of its class
    Thing("vehicle.motorcycle", 15.0, -15.0),
    Thing("vehicle.bicycle", 20.0, -20.0),
    Thing("movable_object.barrier", -10.0, 10.0),  # of no class
)
LABELS = [VEHICLE] * 5 + [PEDESTRIAN] * 2 + [CYCLE] * 2
SAMPLES = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "three.yaml"
    path.write_text(CONFIG)
    return load_config(path)


@pytest.fixture(scope="module")
def task(config) -> Task:
    return config.task


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drive")
    write_drive(root, THINGS, SAMPLES)
    return root


@pytest.fixture(scope="module")
def drive(root, config) -> NuScenes:
    return open_source(root, config)


class Frames(list):
    """Frames that are in memory."""

    @property
    def tokens(self) -> list[str]:
        return [frame.token if frame is not None else f"lost{i}" for i, frame in enumerate(self)]


def test_labels_are_those_of_the_task(drive, task):
    assert task.classes == ("vehicle", "pedestrian", "cycle")
    for frame in drive:
        assert frame.boxes.label.tolist() == LABELS
        assert (frame.boxes.attribute == -1).all()  # the task has none


def test_a_perfect_detector(drive, task):
    report = evaluate_subsets(Oracle(task=task), drive, [["lidar"]])
    metrics = report["subsets"]["lidar"]
    assert report["ground_truth"] == {"vehicle": 15, "pedestrian": 3, "cycle": 6}
    assert metrics["AP"] == pytest.approx({"vehicle": 1.0, "pedestrian": 1.0, "cycle": 1.0})
    # Nobody can be wrong about attributes that there are not: NDS is (5 mAP + 4 errors of 0) / 9.
    assert metrics["mAAE"] is None and metrics["mAP"] == pytest.approx(1.0) and metrics["NDS"] == pytest.approx(1.0)


def test_a_class_of_which_there_is_none_counts_as_missed(task, tmp_path):
    write_drive(tmp_path, THINGS[:6])
    metrics = evaluate(Oracle(task=task), NuScenes(tmp_path, task=task))
    assert metrics["AP"] == pytest.approx({"vehicle": 1.0, "pedestrian": 1.0, "cycle": 0.0})
    assert metrics["mAP"] == pytest.approx(2 / 3) and metrics["mAP_present"] == pytest.approx(1.0)
    assert [metrics[name] for name in ("mATE", "mASE", "mAOE", "mAVE")] == pytest.approx([1 / 3] * 4, abs=1e-6)
    assert metrics["NDS"] == pytest.approx((5 * 2 / 3 + 4 * 2 / 3) / 9, abs=1e-6)


def test_classes_that_are_one_are_not_confused(drive, task):
    """A cycle that is called a pedestrian, everywhere: none is found, and of 9 detected pedestrians 3 are right."""
    mistaken = Oracle(changed(label=lambda label: np.where(label == CYCLE, PEDESTRIAN, label)), task)
    metrics = evaluate(mistaken, drive)
    assert metrics["AP"]["vehicle"] == pytest.approx(1.0) and metrics["AP"]["cycle"] == 0.0
    (matches,) = match_all(mistaken, drive, [["lidar"]]).values()
    report = classification_report({"lidar": matches}, task)["lidar"]
    # Rows: what is there; the last column is missed. Scores fall from 0.9 to 0.1 over nine boxes: the last two, both
    # cycles, and the pedestrian out of range, the seventh, are not among those that count.
    assert np.array(report["confusion"]).shape == (4, 4) and list(report["ECE_by_class"]) == list(task.classes)
    assert report["confusion"] == [[15, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 6], [0, 0, 0, 0]]
    confident = match_all(mistaken, drive, [["lidar"]], confident=0.05)
    report = classification_report(confident, task)["lidar"]
    assert report["confusion"] == [[15, 0, 0, 0], [0, 3, 0, 0], [0, 6, 0, 0], [0, 0, 0, 0]]
    assert (matches.right.sum(), len(matches.right)) == (18, 24)


def test_what_is_submitted_is_read_back(drive, task, tmp_path):
    report = evaluate_subsets(Oracle(task=task), drive, [["lidar"]], tmp_path)
    path = tmp_path / "lidar.json"
    records = json.loads(path.read_text())["results"]["sample0"]
    assert [record["detection_name"] for record in records] == [task.classes[label] for label in LABELS]
    assert {record["attribute_name"] for record in records} == {""}
    boxes = read_submission(path, drive.tokens, task)
    assert boxes.label.tolist() == LABELS * SAMPLES and (boxes.attribute == -1).all()
    again = score_file(path, drive)
    assert again["AP"] == report["subsets"]["lidar"]["AP"]
    with pytest.raises(DataError, match=r"lidar\.json: sample sample0: a known class .* found 'vehicle', ''"):
        read_submission(path, drive.tokens)


def test_what_moves_follows_the_task(drive, task):
    """A class whose objects do not move has no error of velocity."""
    still = dataclasses.replace(task, objects=[dataclasses.replace(facts, moves=False) for facts in task.objects])
    wrong = changed(velocity=lambda velocity: velocity + [3.0, 4.0])
    assert evaluate(Oracle(wrong, task), drive)["mAVE"] == pytest.approx(5.0, abs=1e-6)
    assert evaluate(Oracle(wrong, still), Frames(drive))["mAVE"] is None


def test_an_untrained_detector_of_three_classes(config, drive, task, tmp_path):
    detector = build(config).eval()
    assert detector.sensors == ("lidar",)
    found = detector.detect(drive[0])
    assert 0 < len(found) <= 20 and found.boxes.label.max() < 3
    fitted = calibrate(detector, drive)
    assert fitted.keys() == {"lidar"}
    detector.save(tmp_path)
    again = load(tmp_path)
    assert again.task == task and again.calibration.by_set["lidar"] == pytest.approx(fitted["lidar"])
    report = evaluate_subsets(again, drive)
    assert list(report["subsets"]) == ["lidar"] and report["frames_with"] == {"lidar": SAMPLES}
    assert report["subsets"]["lidar"]["boxes"] == sum(len(again.detect(frame)) for frame in drive)


def test_a_picture_has_the_colours_of_the_task(drive, task):
    """Nothing but the boxes and the legend has these colours; of a class without a box only the legend has them."""
    frame = drive[0]
    boxes = frame.boxes[frame.boxes.label != CYCLE]
    picture = draw_frame(frame, Detections(boxes, np.ones(len(boxes))), layout=Layout(task, sensors=("lidar",)))
    many = [(picture == color).all(axis=-1).sum() for color in task.colors]
    assert min(many[VEHICLE], many[PEDESTRIAN]) > 300 > many[CYCLE] > 50
    assert not any((picture == color).all(axis=-1).any() for color in NUSCENES.colors[[3, 4, 6]])


def test_frames_from_elsewhere_give_the_same(root):
    """Of nuScenes' own classes; there is no bicycle rack, which only tables know of."""
    drive = NuScenes(root)
    frames = Frames(drive)
    assert isinstance(frames, FrameSource) and isinstance(drive, FrameSource)
    ours, theirs = evaluate(Sloppy(), frames, ["lidar"]), evaluate(Sloppy(), drive, ["lidar"])
    assert 0.05 < ours["mAP"] < 0.7
    for name in ("mAP", "NDS", "mATE", "mASE", "mAOE", "mAVE", "mAAE", "mAP_present"):
        assert ours[name] == pytest.approx(theirs[name], abs=1e-6)
    assert ours["AP"] == pytest.approx(theirs["AP"], abs=1e-6) and ours["boxes"] == theirs["boxes"]
    assert ours["breakdown"] == theirs["breakdown"]


def test_frames_of_three_classes_from_elsewhere(drive, task):
    frames = Frames(drive)
    report = evaluate_subsets(Oracle(task=task), Frames([frames[0], None, frames[2]]), [["lidar"]])
    assert (report["frames"], report["skipped"]) == (2, 1) and report["ground_truth"]["vehicle"] == 10
    assert report["subsets"]["lidar"]["mAP"] == pytest.approx(1.0)
    matches = match_all(Oracle(task=task), Frames([frames[0], None, frames[2]]), [["lidar"]])["lidar"]
    assert len(matches.score) == 16 and matches.right.all()


def test_frames_without_boxes_cannot_be_scored(drive, task):
    bare = Frames(dataclasses.replace(frame, boxes=None) for frame in drive)

    class Blind(Oracle):
        def detect(self, frame):
            return Detections(Boxes3D.empty(), np.zeros(0))

    with pytest.raises(EvaluationError, match="no annotated box in 3 frames"):
        evaluate(Blind(task=task), bare)
    with pytest.raises(EvaluationError, match="none of the 2 frames could be read"):
        evaluate(Blind(task=task), Frames([None, None]))


def test_a_label_beyond_the_task_names_the_frame(root, task):
    """Labels of ten classes: the bicycle's is 7, that of the barrier, the largest, 9."""
    frames = Frames(NuScenes(root))
    beyond = Frames([frames[0], frames[1]])
    beyond[0] = dataclasses.replace(frames[0], boxes=frames[0].boxes[frames[0].boxes.label == 0])
    beyond = Frames(dataclasses.replace(f, boxes=changed(attribute=lambda a: 0 * a - 1)(f.boxes)) for f in beyond)
    cars = Oracle(lambda boxes: boxes[boxes.label == 0], task)
    for run in (lambda: evaluate(cars, beyond), lambda: match_all(cars, beyond, [["lidar"]])):
        with pytest.raises(TaskError, match="frame sample1: labels below 3 were expected, found 9"):
            run()
    with pytest.raises(TaskError, match="frame sample1: detections: labels below 3 were expected, found 7"):
        evaluate(Oracle(task=task, change=lambda boxes: boxes[boxes.label <= 7]), beyond)


def test_an_attribute_beyond_the_task_names_the_frame(root, task):
    """The car's is vehicle.moving, 0, of which there is none."""
    frame = NuScenes(root)[0]
    cars = Frames([dataclasses.replace(frame, boxes=frame.boxes[frame.boxes.label == 0])])
    unsaid = changed(attribute=lambda attribute: 0 * attribute - 1)
    for run in (lambda: evaluate(Oracle(unsaid, task), cars), lambda: match_all(Oracle(task=task), cars, [["lidar"]])):
        with pytest.raises(TaskError, match="frame sample0: attributes below 0 were expected, found 0"):
            run()
    with pytest.raises(TaskError, match="frame sample0: detections: attributes below 0 were expected, found 0"):
        evaluate(Oracle(task=task), cars)


def test_tables_of_another_task_are_refused(root, drive, task):
    with pytest.raises(EvaluationError, match=r"vehicle, pedestrian, cycle, of the same.*, found car, truck"):
        evaluate(Oracle(task=task), NuScenes(root))
    with pytest.raises(EvaluationError, match="the devkit scores the ten nuScenes classes"):
        evaluate(Oracle(task=task), drive, official=True)


def one_class(**facts) -> Task:
    return Task([ObjectClass("vehicle", ["car"], **facts)], attributes=[])


@pytest.mark.parametrize(
    ("radius", "shift", "ap", "ate", "hits"),
    [
        (2.0, 0.9, 0.75, 0.9, 1.0),
        (0.5, 0.9, 0.75, 1.0, 0.0),  # found by none of the errors' matches
        (0.95, 0.9, 0.75, 0.9, 1.0),  # none of the four thresholds
        (2.0, 4.1, 0.0, 1.0, 0.0),
        (6.0, 4.1, 0.0, 4.1, 1.0),
    ],
)
def test_the_match_radius_of_a_class(root, radius, shift, ap, ate, hits):
    """Average precision keeps its four thresholds; errors and hits are within the radius."""
    task = one_class(match_radius_m=radius)
    drive = NuScenes(root, task=task)
    moved = Oracle(changed(center=lambda center: center + [0.0, shift, 0.0]), task)
    metrics = evaluate(moved, drive)
    assert metrics["AP"]["vehicle"] == pytest.approx(ap)
    assert metrics["errors"]["vehicle"]["ATE"] == pytest.approx(ate)
    assert metrics["breakdown"]["seen_by"]["lidar only"] == hits
    truth = drive[0].boxes
    assert matched(moved.detect(drive[0]), truth, task).tolist() == [bool(hits)]
    (matches,) = match_all(moved, drive, [["lidar"]]).values()
    assert matches.right.mean() == hits and (matches.truth == matches.seen_as).all() == bool(hits)


@pytest.mark.parametrize(
    ("heading", "turn", "aoe"),
    [
        ("direction", np.pi, np.pi),
        ("direction", 0.5, 0.5),
        ("axis", np.pi, 0.0),
        ("axis", 0.5, 0.5),
        ("axis", np.pi - 0.5, 0.5),
        ("none", np.pi, None),
        ("none", 0.5, None),
    ],
)
def test_the_heading_of_a_class(root, heading, turn, aoe):
    task = one_class(heading=heading)
    metrics = evaluate(Oracle(changed(yaw=lambda yaw: wrap_angle(yaw + turn)), task), NuScenes(root, task=task))
    assert metrics["mAOE"] == (None if aoe is None else pytest.approx(aoe, abs=1e-6))
    # NDS: 1 for AP five times, and one for each error that exists, which are all 0 but that of the heading.
    errors = [0.0, 0.0, 0.0] + ([] if aoe is None else [min(aoe, 1.0)])
    assert metrics["NDS"] == pytest.approx((5 + sum(1 - error for error in errors)) / (5 + len(errors)), abs=1e-6)


def test_the_range_of_a_class(root):
    """The car is 10, 11.05 and 12.2 m away."""
    near = one_class(range_m=11.5)
    report = evaluate_subsets(Oracle(task=near), NuScenes(root, task=near), [["lidar"]])
    assert report["ground_truth"] == {"vehicle": 2} and report["subsets"]["lidar"]["mAP"] == pytest.approx(1.0)


def test_frames_without_boxes_are_not_scored(drive, config):
    """Whatever is found in a frame that nobody annotated is neither right nor wrong."""
    frames = Frames(drive[i] for i in range(len(drive)))
    alone = evaluate(Oracle(task=config.task), Frames(frames[:2]))
    with_others = Frames([frames[0], dataclasses.replace(frames[2], boxes=None), frames[1]])
    report = evaluate_subsets(Oracle(task=config.task), with_others, [("camera", "radar", "lidar")])
    assert (report["frames"], report["skipped"]) == (2, 1)
    assert next(iter(report["subsets"].values()))["mAP"] == pytest.approx(alone["mAP"])


def test_tokens_of_a_source_are_its_own(drive, config):
    class Twice(Frames):
        tokens = ("a", "a")

    class Other(Frames):
        tokens = ("a", "b")

    for source, message in (
        (Twice, "a token of its own was expected of each of 2 frames"),
        (Other, "one of the source's"),
    ):
        with pytest.raises(EvaluationError, match=message):
            evaluate(Oracle(task=config.task), source([drive[0], drive[1]]))


def test_facts_that_labels_do_not_depend_on_may_differ(drive, config):
    """A detector whose task has another colour and range scores the frames of the old one, by its own range."""
    objects = [dataclasses.replace(facts, color=[1, 2, 3], range_m=12.0) for facts in config.task.objects]
    near = Task(objects, config.task.attributes)
    assert near.labels_alike(config.task) and near != config.task
    report = evaluate_subsets(Oracle(task=near), drive)
    assert report["ground_truth"].keys() == {"vehicle", "pedestrian", "cycle"}
    near_count, count = (
        sum(r["ground_truth"].values()) for r in (report, evaluate_subsets(Oracle(task=config.task), drive))
    )
    assert 0 < near_count < count
    other = Task([*objects[1:], objects[0]], config.task.attributes)
    assert not other.labels_alike(config.task)
    with pytest.raises(EvaluationError, match="of the same sources and attributes"):
        evaluate(Oracle(task=other), drive)


def test_a_class_that_nothing_counts_as_is_told(root, caplog):
    NuScenes(root, task=Task([ObjectClass("car"), ObjectClass("tram")], []))
    assert "class tram has no source" in caplog.text and "class car" not in caplog.text
