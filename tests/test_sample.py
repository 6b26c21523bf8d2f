"""Frames, boxes and batches: what they refuse, and how sensors that are missing travel into a batch."""

import dataclasses

import numpy as np
import pytest
import torch

from perception.batch import collate
from perception.geometry import SE3, project
from perception.sample import (
    Boxes3D,
    CameraImage,
    Detections,
    Frame,
    LidarCloud,
    RadarCloud,
    SampleError,
    fit_image,
)


def a_camera(height=90, width=160, **changes) -> CameraImage:
    intrinsics = np.array([[100.0, 0.0, (width - 1) / 2], [0.0, 100.0, (height - 1) / 2], [0.0, 0.0, 1.0]])
    image = np.full((height, width, 3), 7, dtype=np.uint8)
    return dataclasses.replace(CameraImage(image, intrinsics, SE3(translation=[1.0, 0.0, 1.5]), 0), **changes)


def some_boxes(n=3, **changes) -> Boxes3D:
    values = {
        "center": np.arange(3 * n).reshape(n, 3),
        "size": np.ones((n, 3)),
        "yaw": np.zeros(n),
        "velocity": np.full((n, 2), np.nan),
        "label": np.arange(n),
    }
    return Boxes3D(**{**values, **changes})


def test_optional_fields_of_boxes_default_to_unknown():
    boxes = some_boxes()
    assert boxes.attribute.tolist() == [-1, -1, -1] and boxes.visibility.tolist() == [0, 0, 0]
    assert boxes.num_lidar_points.tolist() == [-1, -1, -1]
    assert boxes.center.dtype == np.float64 and boxes.label.dtype == np.int64


def test_boxes_are_selected_by_mask_slice_and_index():
    boxes = some_boxes()
    assert boxes[boxes.label > 0].label.tolist() == [1, 2]
    assert len(boxes[:1]) == 1 and boxes[[2, 0]].label.tolist() == [2, 0]
    assert len(boxes[np.zeros(3, bool)]) == 0 and len(Boxes3D.empty()) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: some_boxes(size=np.ones((3, 2))), r"boxes\.size: shape \[3, 3\].*\[3, 2\]"),
        (lambda: some_boxes(size=np.zeros((3, 3))), r"boxes\.size: positive"),
        (lambda: some_boxes(yaw=np.array([0.0, np.nan, np.inf])), r"boxes\.yaw: 2 values"),
        (lambda: some_boxes(label=np.array([0, 1, 10])), r"boxes\.label"),
        (lambda: some_boxes(attribute=np.zeros(2)), r"boxes\.attribute"),
        (lambda: Detections(some_boxes(), np.zeros(2)), "scores"),
        (lambda: LidarCloud(np.zeros((4, 4))), r"lidar points: shape \[N, 5\]"),
        (lambda: RadarCloud(np.full((1, 7), np.inf)), "radar points: 7 values"),
        (lambda: a_camera(image=np.zeros((4, 4, 3))), "image: uint8.*float64"),
        (lambda: a_camera(image=np.zeros((4, 4), np.uint8)), "image: shape"),
        (lambda: a_camera(intrinsics=np.eye(4)), "intrinsics"),
        (lambda: Frame("t", 0).only(["sonar"]), "sonar"),
        (lambda: collate([], (64, 64)), "at least one frame"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(SampleError, match=message):
        make()


def test_missing_and_empty_are_not_the_same():
    frame = Frame("t", 0, cameras={}, radar=RadarCloud(np.zeros((0, 7))))
    assert frame.cameras is None and frame.sensors == ("radar",)
    assert frame.only(["lidar"]).sensors == ()


@pytest.mark.parametrize("size", [(45, 80), (128, 352), (64, 64), (30, 160), (200, 160)])
def test_a_dot_stays_where_it_projects_to_after_fitting(size):
    camera = a_camera(height=270, width=480)
    row, column = 190, 250
    camera.image[row - 6 : row + 7, column - 6 : column + 7] = 255
    ray = np.linalg.inv(camera.intrinsics) @ [column, row, 1.0]
    fitted = fit_image(camera, size)
    assert fitted.image.shape == (*size, 3) and fitted.image.dtype == np.uint8
    bright = fitted.image[..., 0].astype(float) - 7
    rows, columns = np.mgrid[: size[0], : size[1]]
    found = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
    assert np.allclose(found, project(5.0 * ray[None], fitted.intrinsics)[0][0], atol=0.3)


def test_fitting_to_the_same_size_changes_nothing():
    camera = a_camera()
    assert fit_image(camera, (90, 160)) is camera


def test_the_road_is_kept_and_the_sky_is_cut():
    camera = a_camera(height=100, width=100)
    camera.image[-1] = 200
    assert (fit_image(camera, (50, 100)).image[-1] == 200).all()


def test_collate_frames_with_different_sensors_and_cameras():
    lidar, radar = LidarCloud(np.ones((4, 5))), RadarCloud(np.ones((2, 7)))
    frames = [
        Frame("a", 0, cameras={"FRONT": a_camera(), "BACK": a_camera(45, 80)}, lidar=lidar),
        Frame("b", 0, cameras={"FRONT": a_camera()}, radar=radar, lidar=LidarCloud(np.zeros((0, 5)))),
        Frame("c", 0, lidar=lidar),
    ]
    batch = collate(frames, (45, 80))
    assert len(batch) == 3 and batch.tokens == ["a", "b", "c"] and batch.boxes is None
    assert batch.sensor_valid.tolist() == [[True, False, True], [True, True, True], [False, False, True]]
    assert batch.images.shape == (3, 2, 3, 45, 80) and batch.images.dtype == torch.uint8
    assert batch.camera_valid.tolist() == [[True, True], [False, True], [False, False]]  # BACK, FRONT
    assert (batch.images[1, 1] == 7).all() and (batch.images[2] == 0).all()
    assert batch.lidar.batch_index.tolist() == [0] * 4 + [2] * 4
    assert batch.radar.batch_index.tolist() == [1, 1] and batch.radar.points.shape == (2, 7)
    assert torch.linalg.det(batch.intrinsics).abs().min() > 0  # missing cameras too can be inverted


def test_collate_without_a_sensor_anywhere():
    batch = collate([Frame("a", 0, boxes=some_boxes()), Frame("b", 0, boxes=Boxes3D.empty())], (45, 80))
    assert batch.images is None and batch.radar is None and batch.lidar is None
    assert not batch.sensor_valid.any() and [len(boxes) for boxes in batch.boxes] == [3, 0]
    assert batch.to("cpu").tokens == ["a", "b"]
