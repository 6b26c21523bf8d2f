"""Flips at test time: what is found in mirror images is joined where it belongs. Answers are derived by hand."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from test_augment import make_camera, make_frame, pixels

from perception.config import AugmentConfig
from perception.eval.flips import AS_IT_IS, BOTH, FRONT_BACK, LEFT_RIGHT, Flipped, flipped, join, trained_flips
from perception.sample import Boxes3D, Detections, Frame, LidarCloud
from perception.task import NUSCENES
from perception.train.augment import draw_world

ALL = (AS_IT_IS, LEFT_RIGHT, FRONT_BACK, BOTH)
SIGNS = ((1, 1), (1, -1), (-1, 1), (-1, -1))  # of x and y
CAR, PEDESTRIAN = 0, 5


def found(*rows, label=CAR) -> Detections:
    """Rows of x, y, yaw, score; all moving at (1, 2) m/s, and as long as 4 + x / 10."""
    x, y, yaw, score = np.reshape(rows, (-1, 4)).astype(float).T
    n = len(x)
    size = np.stack([4 + x / 10, np.full(n, 2.0), np.full(n, 1.5)], axis=1)
    center, velocity = np.stack([x, y, np.ones(n)], axis=1), np.tile([1.0, 2.0], (n, 1))
    return Detections(Boxes3D(center, size, yaw, velocity, np.full(n, label)), score)


@pytest.mark.parametrize(("flip", "signs"), list(zip(ALL, SIGNS)))
def test_a_flipped_frame_by_hand(flip, signs):
    frame = dataclasses.replace(make_frame(), boxes=found([10, 4, 0.3, 1]).boxes)
    frame.cameras["CAM_0"].image[:, :, 0] = np.arange(160)
    after = flipped(frame, flip)
    np.testing.assert_allclose(after.lidar.points[:, :3], frame.lidar.points[:, :3] * [*signs, 1], atol=1e-6)
    np.testing.assert_allclose(after.radar.points[:, 4:6], frame.radar.points[:, 4:6] * signs, atol=1e-6)
    np.testing.assert_allclose(after.boxes.center, [[10 * signs[0], 4 * signs[1], 1]])
    np.testing.assert_allclose(after.boxes.velocity, [[signs[0], 2 * signs[1]]])
    heading = [np.cos(after.boxes.yaw[0]), np.sin(after.boxes.yaw[0])]
    np.testing.assert_allclose(heading, [np.cos(0.3) * signs[0], np.sin(0.3) * signs[1]], atol=1e-12)
    mirrored = signs[0] != signs[1]
    for name, camera in frame.cameras.items():
        # What the camera saw is where it was in the image, or on the other side of it.
        points = camera.ego_SE3_camera.transform(np.array([[1.0, 0.5, 9], [-2, 1, 12]]))
        u, v = pixels(camera, points)[0].T
        seen = pixels(after.cameras[name], points * [*signs, 1])[0]
        np.testing.assert_allclose(seen, np.stack([159 - u if mirrored else u, v], axis=1), atol=1e-9)
        wanted = camera.image[:, ::-1] if mirrored else camera.image
        np.testing.assert_array_equal(after.cameras[name].image, wanted)
        assert not after.cameras[name].mirrored
    again = flipped(after, flip)
    np.testing.assert_allclose(again.boxes.center, frame.boxes.center, atol=1e-12)
    np.testing.assert_allclose(again.world_SE3_ego.matrix, frame.world_SE3_ego.matrix, atol=1e-9)


class Biased:
    """Finds the boxes of a frame half a metre ahead, 0.2 m to the left, turned to the left and too fast ahead."""

    task, sensors = NUSCENES, ("camera", "radar", "lidar")

    def detect(self, frame: Frame) -> Detections:
        boxes = frame.boxes
        center, yaw, velocity = boxes.center + [0.5, 0.2, 0], boxes.yaw + 0.1, boxes.velocity + [1.0, 0]
        return Detections(
            dataclasses.replace(boxes, center=center, yaw=yaw, velocity=velocity), np.linspace(0.9, 0.5, len(boxes))
        )


def test_what_is_wrong_to_one_side_is_right_in_the_mean():
    boxes = found([10, 4, 0.3, 0.9], [20, -6, -2.0, 0.5]).boxes
    frame = dataclasses.replace(make_frame(), boxes=boxes)
    both = Flipped(Biased(), ALL).detect(frame)
    for name in ("center", "size", "yaw", "velocity", "label"):
        np.testing.assert_allclose(getattr(both.boxes, name), getattr(boxes, name), atol=1e-9)
    np.testing.assert_allclose(both.scores, [0.9, 0.5])
    sides = Flipped(Biased(), (AS_IT_IS, LEFT_RIGHT)).detect(frame)
    np.testing.assert_allclose(sides.boxes.center, boxes.center + [0.5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(sides.boxes.velocity, boxes.velocity + [1.0, 0], atol=1e-9)


class Remembering(Biased):
    """Remembers how many frames it saw, and in which mirror image: the sides that the ego's left was on."""

    remembers = True

    def detect(self, frame: Frame, memory):
        return super().detect(frame), [*(memory or []), np.sign(frame.lidar.points[0, :2]).astype(int).tolist()]


def test_every_mirror_image_has_a_memory_of_its_own():
    lidar = LidarCloud(np.array([[3, 2, 0, 0, 0]], np.float32))
    frame = dataclasses.replace(make_frame(), lidar=lidar, boxes=found([10, 4, 0.3, 0.9]).boxes)
    detector, memory = Flipped(Remembering(), ALL), None
    for count in (1, 2, 3):
        detections, memory = detector.detect(frame, memory)
        assert len(detections) == 1 and [*memory] == [[list(signs)] * count for signs in SIGNS]


def test_the_mean_of_two_by_hand():
    """Weights of 2/3 and 1/3; a lone box has half its score, and one of another class stays by itself."""
    first, second = found([10, 0, 0.3, 0.8]), found([30, 0, 0, 0.5], [10.6, 0.3, 0.6, 0.4])
    joint = join([first, second], NUSCENES)
    np.testing.assert_allclose(joint.scores, [0.6, 0.25])
    np.testing.assert_allclose(joint.boxes.center, [[10.2, 0.1, 1], [30, 0, 1]])
    np.testing.assert_allclose(joint.boxes.size[:, 0], [5.02, 7])
    np.testing.assert_allclose(joint.boxes.yaw, [0.4, 0])
    apart = join([first, found([10, 0, 0.3, 0.4], label=PEDESTRIAN)], NUSCENES)
    np.testing.assert_allclose(apart.scores, [0.4, 0.2])
    assert apart.boxes.label.tolist() == [CAR, PEDESTRIAN]


@pytest.mark.parametrize("step", [0.59, 0.61])
def test_boxes_are_of_one_object_within_twice_the_suppression_radius(step):
    views = [found([0, 0, 0, 0.6], label=PEDESTRIAN), found([0, step, 0, 0.6], label=PEDESTRIAN)]
    assert len(join(views, NUSCENES)) == (1 if step < 0.6 else 2)


def test_of_each_view_there_is_one_the_nearest():
    """Of two in the second view the nearer is the same object; the other stays, as do two of one view."""
    joint = join([found([0, 0, 0, 0.9]), found([0, 1.2, 0, 0.7], [0, -0.6, 0, 0.3])], NUSCENES)
    np.testing.assert_allclose(joint.boxes.center[:, 1], [-0.6 * 0.25, 1.2])
    np.testing.assert_allclose(joint.scores, [0.6, 0.35])
    assert len(join([found([0, 0, 0, 0.9], [0, 0.5, 0, 0.8])], NUSCENES)) == 2


def test_headings_by_their_axes_in_the_sense_of_the_best():
    joint = join([found([0, 0, 3.1, 0.9]), found([0, 0, 0.1, 0.3]), found([0, 0, -3.0, 0.3])], NUSCENES)
    # 0.1 turned round is 0.1 + pi: 0.1415927 further than 3.1; -3.0 is 0.1831853 further. Weights 0.6, 0.2 and 0.2.
    np.testing.assert_allclose(joint.boxes.yaw, 3.1 + 0.2 * (0.1 + np.pi - 3.1) + 0.2 * (2 * np.pi - 6.1) - 2 * np.pi)


def test_little_to_join():
    assert len(join([found(), found()], NUSCENES)) == 0
    views = [found([0, 0, 0, 0.9]), found([0, 0, 0, 0.3])]
    views[1] = Detections(dataclasses.replace(views[1].boxes, velocity=[[np.nan, np.nan]]), views[1].scores)
    assert np.isnan(join(views, NUSCENES).boxes.velocity).all()
    bare = flipped(Frame("f", 0, cameras={"CAM": make_camera()}), LEFT_RIGHT)
    assert bare.sensors == ("camera",) and bare.boxes is None


@pytest.mark.parametrize(("flip", "flip_back", "degrees"), list(product((False, True), (False, True), (22.5, 180.0))))
def test_flips_are_those_of_the_worlds_of_training(flip, flip_back, degrees):
    """A world turned by a little is as it is; turned by about half a turn it is flipped both ways."""
    config, rng = AugmentConfig(flip=flip, flip_back=flip_back, rotate_deg=degrees), np.random.default_rng(0)
    drawn = set()
    for _ in range(300):
        linear = draw_world(config, rng).linear[:2, :2]
        for signs in SIGNS:
            if np.abs(linear - np.diag(signs)).max() < 0.3:
                drawn.add(signs)
    wanted = {tuple(np.sign(np.diag(world.linear)[:2]).astype(int)) for world in trained_flips(config)}
    assert wanted == drawn and trained_flips(config)[0] is AS_IT_IS


def test_objects_that_nobody_believes_in_are_joined_all_the_same():
    boxes = Boxes3D([[1.0, 0, 0]], [[4, 2, 1.5]], [0.0], [[0, 0]], [0])
    found = join([Detections(boxes, np.zeros(1))] * 2, NUSCENES)
    assert found.scores.tolist() == [0.0] and found.boxes.center.tolist() == [[1, 0, 0]]
