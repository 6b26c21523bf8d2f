"""KITTI's 3D average precision: overlaps by hand and against OpenCV's, and curves that one can draw."""

import cv2
import numpy as np
import pytest

from perception.data.camera_view import in_view
from perception.eval.overlap import OverlapMatches, average_precision_3d, match_overlaps, overlaps
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Detections, Frame
from perception.task import NUSCENES, TaskError

CAR, PEDESTRIAN = (NUSCENES.classes.index(name) for name in ("car", "pedestrian"))
AHEAD = SE3([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])
K = np.array([[32.0, 0, 31.5], [0, 32, 7.5], [0, 0, 1]])
CAMERA = CameraImage(np.zeros((16, 64, 3), np.uint8), K, AHEAD, 0)  # sees 45 degrees to each side


def boxes(*centers, size=(4.0, 2.0, 1.5), yaw=0.0, label=CAR, lidar=5, radar=0) -> Boxes3D:
    n = len(centers)
    return Boxes3D(
        center=np.array(centers, float).reshape(n, 3),
        size=np.broadcast_to(np.array(size, float), (n, 3)),
        yaw=np.broadcast_to(np.array(yaw, float), n),
        velocity=np.zeros((n, 2)),
        label=np.broadcast_to(label, n),
        num_lidar_points=np.broadcast_to(lidar, n),
        num_radar_points=np.broadcast_to(radar, n),
    )


def frame(truth: Boxes3D, camera: bool = True) -> Frame:
    return Frame("frame", 0, cameras={"FRONT": CAMERA} if camera else None, boxes=truth)


def detected(*parts: Boxes3D, scores) -> Detections:
    return Detections.sorted(Boxes3D.joined(parts), np.array(scores, float))


def outcome(frame: Frame, detections: Detections | None) -> tuple[list[bool], int]:
    """Of the detections that count, and how many cars are to be found."""
    found = match_overlaps(frame, detections, NUSCENES)
    return found.hit.tolist(), int(found.positives[CAR])


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (boxes([0, 0, 0]), boxes([0, 0, 0]), 1.0),
        (boxes([5, 1, 0], yaw=0.7), boxes([5, 1, 0], yaw=0.7 - np.pi), 1.0),
        (boxes([0, 0, 0]), boxes([2, 0, 0]), 1 / 3),  # half of each: 1 of 3 halves
        (boxes([0, 0, 0]), boxes([0, 0, 0.75]), 1 / 3),
        (boxes([0, 0, 0]), boxes([4, 0, 0]), 0.0),  # they touch
        (boxes([0, 0, 0]), boxes([0, 0, 1.5]), 0.0),
        (boxes([0, 0, 0], size=(4, 4, 2)), boxes([0, 0, 0], size=(2, 2, 1)), 1 / 8),  # one within the other
        # A cross: 2 x 2 of 4 x 2 and 2 x 4.
        (boxes([0, 0, 0]), boxes([0, 0, 0], yaw=np.pi / 2), 4 / 12),
        # Two squares of side 2 turned by 45 degrees share a regular octagon whose inner radius is 1: 8 (sqrt 2 - 1).
        (
            boxes([0, 0, 0], size=(2, 2, 2)),
            boxes([0, 0, 0], size=(2, 2, 2), yaw=np.pi / 4),
            8 * (2**0.5 - 1) / (8 - 8 * (2**0.5 - 1)),
        ),
        # The turned square's corner reaches sqrt 2 far: at a distance of 2 a triangle of area (sqrt 2 - 1)^2 is left.
        (
            boxes([0, 0, 0], size=(2, 2, 2)),
            boxes([2, 0, 0], size=(2, 2, 2), yaw=np.pi / 4),
            (2**0.5 - 1) ** 2 / (8 - (2**0.5 - 1) ** 2),
        ),
    ],
)
def test_overlaps_by_hand(one, other, expected):
    for a, b in ((one, other), (other, one)):
        assert overlaps(a, b) == pytest.approx(np.array([[expected]]), abs=1e-12)


def test_overlaps_of_many_are_those_of_opencv():
    rng = np.random.default_rng(0)
    one, other = (
        boxes(*rng.uniform(-3, 3, (60, 3)), size=rng.uniform(0.5, 5, (60, 3)), yaw=rng.uniform(-4, 4, 60))
        for _ in range(2)
    )
    found = overlaps(one, other)

    def rectangle(b, i):
        return b.center[i, :2].tolist(), b.size[i, :2].tolist(), float(np.rad2deg(b.yaw[i]))

    for i in range(60):
        for j in range(60):
            polygon = cv2.rotatedRectangleIntersection(rectangle(one, i), rectangle(other, j))[1]
            area = 0.0 if polygon is None else cv2.contourArea(cv2.convexHull(polygon))
            low = max((b.center[k, 2] - b.size[k, 2] / 2) for b, k in ((one, i), (other, j)))
            high = min((b.center[k, 2] + b.size[k, 2] / 2) for b, k in ((one, i), (other, j)))
            shared = area * max(high - low, 0.0)
            union = one.size[i].prod() + other.size[j].prod() - shared
            assert found[i, j] == pytest.approx(shared / union, abs=1e-3)
    assert (found > 0).mean() > 0.1 and found.max() > 0.5


def test_two_detections_on_one_object_are_a_hit_and_a_mistake():
    """The better score has the object, although the other one overlaps it more."""
    truth = boxes([10, 0, 0])
    pair = detected(boxes([10, 0, 0]), boxes([10.5, 0, 0]), scores=[0.4, 0.8])
    assert outcome(frame(truth), pair) == ([True, False], 1)


def test_each_takes_the_object_that_it_overlaps_most():
    """0.8 m off the first of two cars nose to tail, 3.2 m off the second."""
    truth = boxes([14, 0, 0], [10, 0, 0])
    assert outcome(frame(truth), detected(boxes([10.8, 0, 0]), scores=[0.5])) == ([True], 2)


@pytest.mark.parametrize(("shift", "hit"), [(4 / 3 - 0.001, True), (4 / 3 + 0.001, False)])
def test_half_is_where_a_car_is_found(shift, hit):
    """At a third of its length: (1 - 1/3) of (1 + 1/3)."""
    assert outcome(frame(boxes([10, 0, 0])), detected(boxes([10 + shift, 0, 0]), scores=[0.5])) == ([hit], 1)


def test_another_class_is_no_hit():
    truck = boxes([10, 0, 0], label=NUSCENES.classes.index("truck"))
    assert outcome(frame(boxes([10, 0, 0])), detected(truck, scores=[0.5])) == ([False], 1)


@pytest.mark.parametrize(
    "ignored",
    [
        boxes([10, 0, 0], lidar=0),  # neither LiDAR nor radar
        boxes([5, 6, 0]),  # left of the image
        boxes([-10, 0, 0]),  # behind the camera
        boxes([50.5, 0, 0]),  # beyond 50 m
    ],
)
def test_who_finds_what_is_ignored_neither_gains_nor_loses(ignored):
    found = detected(ignored, boxes([20, 0, 0]), scores=[0.9, 0.5])
    assert outcome(frame(Boxes3D.joined([ignored, boxes([20, 0, 0])])), found) == ([True], 1)
    assert outcome(frame(ignored), None) == ([], 0)


def test_radar_alone_makes_an_object_count():
    assert outcome(frame(boxes([10, 0, 0], lidar=0, radar=1)), None) == ([], 1)


def test_detections_of_nothing_count_in_view_and_in_range():
    nothing = detected(boxes([10, 0, 0], [5, 6, 0], [50.5, 0, 0]), scores=[0.9, 0.8, 0.7])
    assert outcome(frame(Boxes3D.empty()), nothing) == ([False], 0)
    assert outcome(frame(Boxes3D.empty(), camera=False), nothing) == ([False, False], 0)  # no camera, no view


def test_a_detection_out_of_view_may_find_an_object_in_view():
    edge, beyond = [20, 19.5, 0], [20, 20.5, 0]  # the view ends at y = x, at the border of the image
    assert in_view(np.array([edge, beyond]), [CAMERA]).tolist() == [True, False]
    wide = boxes(beyond, size=(4, 4, 2))
    assert outcome(frame(boxes(edge, size=(4, 4, 2))), detected(wide, scores=[0.5])) == ([True], 1)


def test_a_label_that_the_task_does_not_have_is_named():
    with pytest.raises(TaskError, match="frame frame: labels"):
        match_overlaps(frame(boxes([10, 0, 0], label=10)), None, NUSCENES)


def curve(score, hit, positives: int) -> float:
    label, counts = np.full(len(score), CAR), np.zeros(len(NUSCENES.classes), np.int64)
    counts[CAR] = positives
    part = OverlapMatches(np.array(score, float), label, np.array(hit, bool), counts)
    return average_precision_3d([part], NUSCENES)["car"]


def test_average_precision_by_hand():
    assert curve([], [], 3) == 0
    assert curve([0.9, 0.5], [True, True], 2) == 1
    assert curve([0.9, 0.5], [True, False], 2) == 0.5  # 20 of 40 levels at precision 1
    assert curve([0.9, 0.5], [False, True], 1) == 0.5  # every level at precision 1/2
    # Precision 1 to recall 1/4; then 2/3, which stays the best although it was 1/2 before, to 1/2.
    assert curve([0.9, 0.8, 0.7], [True, False, True], 4) == pytest.approx((10 * 1 + 10 * 2 / 3) / 40)
    assert curve([0.9], [True], 3) == pytest.approx(13 / 40)  # levels to 13/40 = 0.325; 14/40 is beyond a third
    assert curve([0.9], [True], 41) == 0  # one of 41 is less than the first level


def test_equal_scores_are_one_threshold():
    assert curve([0.5, 0.5], [True, False], 1) == curve([0.5, 0.5], [False, True], 1) == 0.5


def test_frames_are_joined_and_classes_apart():
    truth = Boxes3D.joined([boxes([10, 0, 0]), boxes([20, 0, 0], label=PEDESTRIAN)])
    wrong = detected(boxes([20, 0, 0]), boxes([20, 0, 0], label=PEDESTRIAN), scores=[0.9, 0.4])
    right = detected(boxes([10, 0, 0]), scores=[0.5])
    parts = [match_overlaps(frame(truth), found, NUSCENES) for found in (wrong, right)]
    ap = average_precision_3d(parts, NUSCENES)
    assert ap["car"] == pytest.approx(20 * 0.5 / 40)  # one of two cars, after a mistake
    assert ap["pedestrian"] == pytest.approx(20 * 1.0 / 40)
    assert {name for name, value in ap.items() if value is not None} == {"car", "pedestrian"}


def test_no_frame_with_objects_has_no_precision():
    assert set(average_precision_3d([match_overlaps(frame(Boxes3D.empty()), None, NUSCENES)], NUSCENES).values()) == {
        None
    }
