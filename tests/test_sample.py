"""Frames, boxes and batches: what they refuse, and how sensors that are missing travel into a batch."""

import dataclasses

import numpy as np
import pytest
import torch

from perception import sample
from perception.batch import InputSpec, collate
from perception.geometry import SE3, project
from perception.sample import (
    Boxes3D,
    CameraImage,
    Detections,
    Frame,
    LidarCloud,
    PointCloud,
    RadarCloud,
    SampleError,
    fit_image,
    sensor_set,
    sensor_sets,
)

SENSORS = ("camera", "radar", "lidar")
SPEC = InputSpec(SENSORS, {"camera": (45, 80)}, {"camera": "lidar"})


class PolarimetricRadarCloud(PointCloud):
    """A sensor of one's own: no age, and a velocity between other columns."""

    fields = ("x", "y", "z", "power", "vx", "vy", "phase")


def a_camera(height=90, width=160, **changes) -> CameraImage:
    intrinsics = np.array([[100.0, 0.0, (width - 1) / 2], [0.0, 100.0, (height - 1) / 2], [0.0, 0.0, 1.0]])
    image = np.full((height, width, 3), 7, dtype=np.uint8)
    return dataclasses.replace(CameraImage(image, intrinsics, SE3(translation=[1.0, 0.0, 1.5]), 0), **changes)


def test_a_camera_as_far_away_as_no_number_of_a_network_is_refused():
    assert a_camera(ego_SE3_camera=SE3(translation=[1e6, 0.0, 0.0])).timestamp_ns == 0
    with pytest.raises(SampleError, match=r"camera\.ego_SE3_camera: metres up to 1e\+06 were expected, found 1e\+300"):
        a_camera(ego_SE3_camera=SE3(translation=[0.0, -1e300, 0.0]))


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


def test_boxes_are_measured_as_the_devkit_counts():
    """The sum of both numbers is not 0; -1 is unknown."""
    points = np.array([(0, 0), (1, 0), (0, 2), (-1, 0), (-1, -1), (-1, 1)]).T
    boxes = some_boxes(6, num_lidar_points=points[0], num_radar_points=points[1])
    assert boxes.measured.tolist() == [False, True, True, True, True, False]


CLOUD_AND_IMAGES = [
    Frame("t", 0, others={"x": PointCloud(np.zeros((0, 3)))}),
    Frame("u", 0, others={"x": {"A": a_camera()}}),
]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: some_boxes(size=np.ones((3, 2))), r"boxes\.size: shape \[3, 3\].*\[3, 2\]"),
        (lambda: some_boxes(size=np.zeros((3, 3))), r"boxes\.size: positive"),
        (lambda: some_boxes(yaw=np.array([0.0, np.nan, np.inf])), r"boxes\.yaw: 2 values"),
        (
            lambda: some_boxes(label=np.array([0, -1, 10])),
            r"boxes\.label: indices into task.classes were expected, found -1",
        ),
        (lambda: some_boxes(attribute=np.zeros(2)), r"boxes\.attribute"),
        (lambda: Detections(some_boxes(), np.zeros(2)), r"scores: shape \[3\] was expected, found \[2\]"),
        (lambda: Detections(some_boxes(), np.array([0.3, 0.4, 0.2])), "scores: highest first.*0.3 before 0.4"),
        (lambda: Detections(some_boxes(), np.array([1.5, 0.4, 0.2])), "scores: 0..1 was expected, found 0.2 to 1.5"),
        (lambda: Detections(some_boxes(), np.array([0.5, 0.4, -0.2])), "scores: 0..1 was expected, found -0.2 to 0.5"),
        (lambda: Detections(some_boxes(), np.array([0.5, np.nan, 0.2])), "scores: 1 values are NaN"),
        (lambda: Detections(np.zeros((1, 7)), np.zeros(1)), r"detections\.boxes: Boxes3D was expected, found ndarray"),
        (lambda: some_boxes(label=np.array([0, 0.5, 1])), r"boxes\.label: whole numbers"),
        (lambda: some_boxes(label=["car"] * 3), r"boxes\.label: numbers were expected"),
        (lambda: some_boxes(center=[[1, 2, 3], [4]]), r"boxes\.center: an array of numbers was expected, found list"),
        (lambda: some_boxes(center=None), r"boxes\.center: shape"),
        (lambda: some_boxes(size=np.full((3, 3), 1e300)), r"boxes\.size: positive metres up to 10000.*1e\+300"),
        (lambda: some_boxes(velocity=np.full((3, 2), np.inf)), r"boxes\.velocity: .*found infinity"),
        (lambda: some_boxes(attribute=np.array([0, -1, 99])), r"boxes\.attribute: .*task.attributes.*99"),
        (lambda: Detections(some_boxes(), np.array([7.0, 0.4, 0.2])), "scores: 0..1 was expected, found 0.2 to 7"),
        (lambda: Detections(some_boxes(), None), "scores: shape"),
        (lambda: LidarCloud([[1, 2], [3]]), "LidarCloud points: an array of numbers was expected, found list"),
        (lambda: LidarCloud(np.full((2, 5), "x")), "LidarCloud points: numbers were expected"),
        (lambda: LidarCloud(np.zeros((2, 5), complex)), "LidarCloud points: numbers were expected, found complex"),
        (lambda: LidarCloud(np.full((1, 5), 1e300)), "LidarCloud points: 5 values are NaN or infinite"),
        (lambda: LidarCloud(np.zeros((4, 4))), r"LidarCloud points: shape \[N, 5\]"),
        (lambda: RadarCloud(np.full((1, 7), np.inf)), "RadarCloud points: 7 values"),
        (lambda: PolarimetricRadarCloud(np.zeros((4, 5))), r"PolarimetricRadarCloud points: shape \[N, 7\]"),
        (lambda: type("Bad", (PointCloud,), {"fields": ("t", "x", "y")})(np.zeros((0, 3))), r"Bad\.fields: x, y, z"),
        (lambda: a_camera(image=np.zeros((4, 4, 3))), "image: uint8.*float64"),
        (lambda: a_camera(image=np.zeros((4, 4), np.uint8)), "image: shape"),
        (lambda: a_camera(intrinsics=np.eye(4)), "intrinsics"),
        (lambda: a_camera(image=np.zeros((0, 160, 3), np.uint8)), "image: pixels.*found 0 x 160"),
        (lambda: a_camera(image=np.zeros((1, 1001, 3), np.uint8)), "one side at most 1000 times.*found 1 x 1001"),
        (lambda: a_camera(intrinsics=np.diag([0, 9, 1])), "intrinsics: fx, fy > 0"),
        (lambda: a_camera(intrinsics=np.diag([-9, 9, 1])), "intrinsics: fx, fy > 0"),
        (lambda: a_camera(intrinsics=np.diag([9, 9, 1]), mirrored=True), "fx < 0 in a mirrored image"),
        (lambda: a_camera(intrinsics=[[-9, 9, 0], [-9, 9, 0], [0, 0, 1]], mirrored=True), "can be inverted"),
        (lambda: a_camera(intrinsics=np.diag([1e-300, 9, 1])), "intrinsics: pixels, focal lengths.*1e-300"),
        (lambda: a_camera(intrinsics=np.diag([9, 1e30, 1])), r"intrinsics: pixels, focal lengths.*1e\+30"),
        (lambda: a_camera(intrinsics=[[1, 1, 0], [1, 1, 0], [0, 0, 1]]), "intrinsics: a matrix that can be inverted"),
        (lambda: a_camera(timestamp_ns=0.5), "camera.timestamp_ns: whole nanoseconds.*0.5"),
        (lambda: a_camera(ego_SE3_camera=np.eye(4)), r"camera\.ego_SE3_camera: SE3 was expected, found ndarray"),
        (lambda: Frame("t", 0, np.eye(4)), r"frame\.world_SE3_ego: SE3 was expected, found ndarray"),
        (lambda: Frame("t", 0, lidar=np.zeros((4, 5))), r"frame\.lidar: LidarCloud was expected, found ndarray"),
        (lambda: Frame("t", 0, radar=LidarCloud(np.zeros((0, 5)))), r"frame\.radar: RadarCloud.*found LidarCloud"),
        (lambda: Frame("t", 0, boxes=np.zeros((2, 7))), r"frame\.boxes: Boxes3D was expected, found ndarray"),
        (lambda: Frame("t", 0, cameras={"A": np.zeros((4, 4, 3))}), r"frame\.cameras\['A'\]: CameraImage"),
        (
            lambda: Frame("t", 0, cameras={1: a_camera(), "A": a_camera()}),
            "a camera's name: str was expected, found int",
        ),
        (lambda: Frame("t", 0, others={"sonar": np.zeros((4, 3))}), r"frame\.others\['sonar'\]: PointCloud"),
        (lambda: Frame("t", 0, others={"thermal": {"A": 3}}), r"frame\.thermal\['A'\]: CameraImage"),
        (lambda: Frame("t", 0, others={"lidar": LidarCloud(np.zeros((0, 5)))}), "'lidar' has a field of its own"),
        (lambda: Frame("t", 0, scene=3), r"frame\.scene: str was expected, found int"),
        (lambda: Detections.sorted(some_boxes(), [0.1, 0.2]), r"scores: shape \[3\] was expected, found \[2\]"),
        (lambda: Detections.sorted(some_boxes(), ["a"] * 3), "scores: numbers were expected"),
        (lambda: Detections.sorted([1], [0.5]), r"detections\.boxes: Boxes3D was expected, found list"),
        (lambda: fit_image(a_camera(), (0, 8)), r"size: height and width of 1 or more were expected, found \(0, 8\)"),
        (lambda: fit_image(a_camera(), "ab"), "size: height and width"),
        (lambda: collate([], SPEC), "at least one frame"),
        (lambda: collate([Frame("t", 0, others={"sonar": {"A": a_camera()}})], InputSpec(("sonar",))), "found images"),
        (
            lambda: collate(CLOUD_AND_IMAGES, InputSpec(("x",), {"x": (8, 8)})),
            "x: images were expected, as its encoder takes, found points",
        ),
        (lambda: sensor_set([], SENSORS), "some of camera, radar, lidar were expected, found none"),
        (lambda: sensor_set(["lidar", "sonar"], SENSORS), "found lidar, sonar"),
    ],
)
def test_what_is_wrong_is_named(make, message):
    with pytest.raises(SampleError, match=message):
        make()


@pytest.mark.parametrize("field", ["x", "intensity", "age_s"])
@pytest.mark.parametrize("value", [1e30, -3e38])
def test_a_point_with_an_impossible_value_is_left_out_counted_and_named(field, value, caplog):
    points = np.ones((3, 5))
    points[1, LidarCloud.fields.index(field)] = value
    sample._warn_of.cache_clear()
    clouds = [LidarCloud(points), LidarCloud(points)]
    assert all(np.array_equal(cloud.points, np.ones((2, 5))) and cloud.dropped == 1 for cloud in clouds)
    assert [record.getMessage() for record in caplog.records] == [
        f"LidarCloud: points with {field} beyond {sample.LIMITS[field]:g} are left out, damaged numbers"
    ]


def test_a_cloud_of_possible_values_is_not_copied():
    points = np.full((3, 7), 999.0, np.float32)
    assert RadarCloud(points).points is points and RadarCloud(points).dropped == 0


def test_fields_of_custom_sensors_are_not_limited_but_finite():
    points = np.full((1, 7), 1.0)
    points[0, 3] = 1e30  # power
    assert len(PolarimetricRadarCloud(points).points) == 1
    points[0, 3] = np.nan
    with pytest.raises(SampleError, match="1 values are NaN"):
        PolarimetricRadarCloud(points)


def test_missing_and_empty_are_not_the_same():
    frame = Frame("t", 0, cameras={}, radar=RadarCloud(np.zeros((0, 7))))
    assert frame.cameras is None and frame.sensors == ("radar",)
    assert frame.only(["lidar"]).sensors == () and frame.only(["sonar"]).sensors == ()


def full_frame() -> Frame:
    """All of the three, a 4D radar, two thermal cameras, and an other sensor whose cameras are all dead."""
    return Frame(
        "t",
        5,
        SE3.from_yaw(0.5, [1.0, 2.0, 3.0]),
        {"FRONT": a_camera()},
        RadarCloud(np.ones((2, 7))),
        LidarCloud(np.ones((3, 5))),
        some_boxes(),
        "scene",
        {"radar4d": PolarimetricRadarCloud(np.ones((4, 7))), "thermal": {"L": a_camera(), "R": a_camera()}, "nir": {}},
    )


def test_data_by_name_are_all_that_the_sensors_delivered():
    frame = full_frame()
    assert frame.sensors == tuple(frame.data) == ("camera", "radar", "lidar", "radar4d", "thermal")
    assert frame.data["camera"] is frame.cameras and frame.data["lidar"] is frame.lidar
    assert frame.data["radar4d"] is frame.others["radar4d"] and set(frame.data["thermal"]) == {"L", "R"}
    assert Frame("t", 0).data == {}


def test_a_frame_with_other_data_has_that_and_nothing_else():
    frame = full_frame()
    cloud = RadarCloud(np.zeros((0, 7)))
    after = frame.with_data({"thermal": frame.data["thermal"], "radar": cloud})
    assert after.sensors == ("radar", "thermal")
    assert after.radar is cloud and after.lidar is None and after.cameras is None and set(after.others) == {"thermal"}
    assert (after.token, after.timestamp_ns, after.scene) == ("t", 5, "scene") and after.boxes is frame.boxes
    assert after.world_SE3_ego is frame.world_SE3_ego
    assert frame.with_data({}).sensors == ()
    again = frame.with_data(frame.data)
    assert again.sensors == frame.sensors and all(again.data[name] is data for name, data in frame.data.items())
    with pytest.raises(SampleError, match=r"frame\.lidar: LidarCloud"):
        frame.with_data({"lidar": cloud})


def test_only_some_sensors_the_others_among_them():
    frame = full_frame()
    assert frame.only(["thermal", "camera", "sonar"]).sensors == ("camera", "thermal")
    assert frame.only(["radar4d"]).others["radar4d"] is frame.others["radar4d"]
    assert frame.only(name for name in ["lidar"]).sensors == ("lidar",)


def test_columns_are_found_by_their_names():
    assert LidarCloud(np.zeros((0, 5))).column("age_s") == 4 and LidarCloud(np.zeros((0, 5))).velocity is None
    assert RadarCloud(np.zeros((0, 7))).velocity == slice(4, 6) and RadarCloud(np.zeros((0, 7))).column("age_s") == 6
    own = PolarimetricRadarCloud(np.zeros((0, 7)))
    assert own.column("power") == 3 and own.velocity == slice(4, 6) and own.column("age_s") is None
    assert PointCloud(np.zeros((2, 3))).points.dtype == np.float32


def test_boxes_are_measured_by_lidar_or_radar_or_were_never_counted():
    boxes = some_boxes(6, num_lidar_points=[0, 3, 0, -1, -1, 0], num_radar_points=[0, 0, 2, 0, -1, -1])
    assert boxes.measured.tolist() == [False, True, True, True, True, True]
    assert some_boxes().measured.all() and Boxes3D.empty().measured.tolist() == []


def test_detections_have_a_length_and_are_selected_by_mask_and_slice():
    detections = Detections(some_boxes(), np.array([0.9, 0.5, 0.5]))
    assert len(detections) == 3 and len(Detections(Boxes3D.empty(), np.zeros(0))) == 0
    kept = detections[detections.boxes.label != 1]
    assert kept.scores.tolist() == [0.9, 0.5] and kept.boxes.label.tolist() == [0, 2]
    assert detections[1:].boxes.label.tolist() == [1, 2] and detections[[0, 2]].scores.tolist() == [0.9, 0.5]
    assert len(detections[np.zeros(3, bool)]) == 0
    with pytest.raises(SampleError, match="highest first"):
        detections[[1, 0]]


def test_boxes_in_any_order_become_detections_of_which_equal_ones_keep_theirs():
    detections = Detections.sorted(some_boxes(5), [0.2, 0.7, 0.2, 1.0, 0.7])
    assert detections.scores.tolist() == [1.0, 0.7, 0.7, 0.2, 0.2]
    assert detections.boxes.label.tolist() == [3, 1, 4, 0, 2]
    assert detections.boxes.center[0].tolist() == [9, 10, 11]


def test_a_set_of_sensors_has_one_name_in_the_order_of_the_detector():
    assert sensor_set(["lidar", "camera"], SENSORS) == "camera+lidar" == sensor_set(("camera", "lidar"), SENSORS)
    assert sensor_set(["camera", "thermal"], ("thermal", "camera")) == "thermal+camera"
    assert sensor_sets(("a", "b", "c")) == [
        ("a", "b", "c"), ("a", "b"), ("a", "c"), ("b", "c"), ("a",), ("b",), ("c",)
    ]  # fmt: skip
    assert len(sensor_sets("abcd")) == 15 and sensor_sets(("a",)) == [("a",)]


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
    batch = collate(frames, SPEC)
    images, lidar, radar = (batch.inputs[name] for name in ("camera", "lidar", "radar"))
    assert batch.sensors == SENSORS and len(batch) == 3 and batch.tokens == ["a", "b", "c"] and batch.boxes is None
    assert batch.sensor_valid.tolist() == [[True, False, True], [True, True, True], [False, False, True]]
    assert images.images.shape == (3, 2, 3, 45, 80) and images.images.dtype == torch.uint8
    assert images.valid.tolist() == [[True, True], [False, True], [False, False]]  # BACK, FRONT
    assert (images.images[1, 1] == 7).all() and (images.images[2] == 0).all()
    assert lidar.batch_index.tolist() == [0] * 4 + [2] * 4
    assert radar.batch_index.tolist() == [1, 1] and radar.points.shape == (2, 7)
    assert lidar.batch_size == radar.batch_size == 3
    assert torch.linalg.det(images.intrinsics).abs().min() > 0  # missing cameras too can be inverted


def test_collate_without_a_sensor_anywhere():
    batch = collate([Frame("a", 0, boxes=some_boxes()), Frame("b", 0, boxes=Boxes3D.empty())], SPEC)
    assert batch.inputs == {}
    assert not batch.sensor_valid.any() and [len(boxes) for boxes in batch.boxes] == [3, 0]
    assert batch.to("cpu").tokens == ["a", "b"]


def test_collate_takes_the_sensors_that_are_wanted_each_in_its_own_size():
    spec = InputSpec(("thermal", "radar4d"), {"thermal": (32, 48)}, {"thermal": "lidar"})
    batch = collate([full_frame(), Frame("u", 0, radar=RadarCloud(np.ones((1, 7))))], spec)
    assert batch.sensors == ("thermal", "radar4d") and batch.sensor_valid.tolist() == [[True, True], [False, False]]
    assert set(batch.inputs) == {"thermal", "radar4d", "lidar"}  # which supervises depth, though nobody encodes it
    assert batch.inputs["thermal"].images.shape == (2, 2, 3, 32, 48)
    assert batch.inputs["radar4d"].points.shape == (4, 7) and batch.inputs["radar4d"].batch_size == 2
    assert batch.boxes is None  # of one of the two


def test_images_of_all_sensors_are_covered_by_the_largest_sides():
    assert InputSpec(("a", "b", "c"), {"a": (64, 48), "b": (32, 96)}).covering == (64, 96)
    assert InputSpec(("a",)).covering is None


def test_every_tensor_of_a_batch_moves_with_it():
    batch = collate([full_frame()], SPEC)
    batch.displacement = torch.zeros(1, 3, 3)
    moved = batch.to("meta")
    tensors = [moved.sensor_valid, moved.displacement, moved.inputs["lidar"].points, moved.inputs["radar"].batch_index]
    tensors += list(vars(moved.inputs["camera"]).values())
    assert len(tensors) == 8 and all(tensor.is_meta for tensor in tensors)
    assert moved.sensors == SENSORS and moved.inputs["lidar"].batch_size == 1 and moved.boxes is batch.boxes
    assert not batch.inputs["lidar"].points.is_meta


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Frame(3, 0), "frame.token: str was expected"),
        (lambda: Frame("a", 0.5), "whole nanoseconds were expected, found 0.5"),
        (lambda: Frame("a", None), "whole nanoseconds were expected"),
        (lambda: Frame("a", 0, cameras=np.zeros((2, 2))), "frame.cameras: dict was expected, found ndarray"),
        (lambda: Frame("a", 0, cameras=LidarCloud(np.zeros((1, 5)))), "frame.cameras: dict was expected"),
        (lambda: Frame("a", 0, others=[]), "frame.others: dict was expected"),
        (lambda: LidarCloud([["a"] * 5]), "LidarCloud points: numbers were expected"),
        (lambda: boxes_of(attribute=[-2]), "boxes.attribute: indices into task.attributes were expected, found -2"),
        (lambda: boxes_of(label=[-1]), "boxes.label: indices into task.classes were expected, found -1"),
        (lambda: boxes_of(label=[0.7]), "boxes.label: whole numbers were expected"),
        (lambda: boxes_of()[0], "a mask, slice or index array was expected, found 0"),
        (lambda: list(Detections(boxes_of(), np.ones(1))), "a mask, slice or index array"),
    ],
)
def test_misuse_is_named(make, message):
    with pytest.raises(SampleError, match=message):
        make()


def boxes_of(label=(0,), attribute=None) -> Boxes3D:
    return Boxes3D([[0, 0, 0]], [[1, 1, 1]], [0], [[0, 0]], label, attribute)


def test_an_absent_sensor_among_the_others_is_absent():
    frame = Frame("a", 0, others={"rear": None, "thermal": {}})
    assert frame.sensors == () and "rear" not in frame.others


def test_velocities_are_two_columns_side_by_side():
    class Odd(PointCloud):
        fields = ("x", "y", "z", "vx", "age_s", "vy")

    with pytest.raises(SampleError, match="vy behind vx was expected"):
        Odd(np.zeros((1, 6)))
