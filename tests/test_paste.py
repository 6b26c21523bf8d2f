"""Objects cut out of frames and pasted into others: whose points, pixels and boxes they are, and where none may be."""

import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_drive import tiny_world

from perception.batch import InputSpec
from perception.cli import run
from perception.config import AugmentConfig, Config, ConfigError, check_config, load_config
from perception.geometry import SE3, box_corners, in_box, project
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud
from perception.seeding import keyed_rng
from perception.train.batches import Draw, TrainingData
from perception.train.objects import ObjectBank, ObjectError, cut, outlines, whole_pixels, write_bank
from perception.train.paste import _overlap, draw_objects, earlier, paste

CLASSES = Config().task.classes
CAR, TRUCK = CLASSES.index("car"), CLASSES.index("truck")
FORWARD = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))  # a camera that looks along the ego's x axis
HEIGHT, WIDTH = 60, 100
KEY = ("camera", "CAM_FRONT")


def boxes(*places, label=CAR, size=(2.0, 2.0, 2.0), velocity=(0.0, 0.0), points=9) -> Boxes3D:
    n = len(places)
    return Boxes3D(
        np.array([(x, y, 0.0) for x, y in places]).reshape(-1, 3), np.tile(size, (n, 1)), np.zeros(n),
        np.tile(velocity, (n, 1)), np.full(n, label), num_lidar_points=np.full(n, points),
        num_radar_points=np.zeros(n, int),
    )  # fmt: skip


def camera(seed=0, focal=50.0) -> CameraImage:
    image = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    intrinsics = np.array([[focal, 0, WIDTH / 2 - 0.5], [0, focal, HEIGHT / 2 - 0.5], [0, 0, 1]])
    return CameraImage(image, intrinsics, FORWARD, 0)


def make_frame(there: Boxes3D, lidar=(), radar=(), seed=0, token="a", **changes) -> Frame:
    """lidar: x, y, z, age.  radar: x, y, z, age."""
    points = np.array([(x, y, z, 7, age) for x, y, z, age in lidar], np.float32).reshape(-1, 5)
    returns = np.array([(x, y, z, 1, 3, 0, age) for x, y, z, age in radar], np.float32).reshape(-1, 7)
    cameras = {"CAM_FRONT": camera(seed)}
    return dataclasses.replace(
        Frame(token, 1, SE3(), cameras, RadarCloud(returns), LidarCloud(points), there), **changes
    )


@pytest.fixture
def bank(tmp_path):
    def make(*frames: Frame) -> ObjectBank:
        return write_bank(tmp_path / "drives.objects", CLASSES, frames)

    return make


def test_points_in_a_box_whose_faces_belong_to_it():
    points = np.array([[1, 0, 0], [1.01, 0, 0], [0, 0.5, 0], [0, 0.51, 0], [0, 0, -3], [0, 0, -3.1]])
    assert in_box(points, np.zeros(3), [2, 1, 6], 0.0).tolist() == [True, False, True, False, True, False]
    assert in_box(points, np.zeros(3), [2, 1, 6], np.pi / 2).tolist() == [False, False, True, True, True, False]


@given(st.floats(-4, 4), st.integers(0, 100))
@settings(max_examples=30)
def test_points_in_a_turned_box_are_those_in_its_own_axes(yaw, seed):
    rng = np.random.default_rng(seed)
    points, center, size = rng.normal(size=(60, 3)) * 3, rng.normal(size=3), rng.uniform(0.5, 5, 3)
    own = SE3.from_yaw(yaw, center).inverse().transform(points)
    assert in_box(points, center, size, yaw).tolist() == (np.abs(own) <= size / 2).all(axis=1).tolist()


def test_the_outline_of_a_box_is_that_of_its_nearer_face():
    """2 m wide, its front at 9 m: 50 / 9 pixels to either side of the middle, which lies between two pixels."""
    found = outlines(camera(), boxes((10, 0)))[0]
    middle = np.array([WIDTH / 2 - 0.5, HEIGHT / 2 - 0.5])
    np.testing.assert_allclose(found, [*(middle - 50 / 9), *(middle + 50 / 9)])
    behind_beside_above = boxes((-10, 0), (10, 30), (10, -30))
    assert np.isnan(outlines(camera(), behind_beside_above)).all()


def test_of_a_box_that_reaches_behind_the_camera_the_rest_counts():
    """Beside the camera, 0.5 to 2.5 m to its left, and up to 1 m before it; seen from 0.1 m on."""
    left, top, right, bottom = outlines(camera(), boxes((0, 1.5)))[0]
    assert left == pytest.approx(WIDTH / 2 - 0.5 - 50 * 2.5 / 0.1) and right == pytest.approx(WIDTH / 2 - 0.5 - 25)
    assert bottom == pytest.approx(HEIGHT / 2 - 0.5 + 50 / 0.1) and top == pytest.approx(HEIGHT / 2 - 0.5 - 50 / 0.1)


@given(st.floats(-30, 30), st.floats(-30, 30), st.floats(-3, 3), st.integers(0, 50))
@settings(max_examples=60)
def test_outlines_hold_every_point_of_the_box_that_is_seen(x, y, yaw, seed):
    box = dataclasses.replace(boxes((x, y), size=(6.0, 2.0, 3.0)), yaw=np.array([yaw]))
    inside = SE3.from_yaw(yaw, [x, y, 0]).transform(np.random.default_rng(seed).uniform(-0.5, 0.5, (300, 3)) * box.size)
    pixels, depth = project(FORWARD.inverse().transform(inside), camera().intrinsics)
    shown = (depth > 0.1) & (pixels > -0.5).all(axis=1) & (pixels < [WIDTH - 0.5, HEIGHT - 0.5]).all(axis=1)
    rectangle = outlines(camera(), box)[0]
    assert not shown.any() or ((pixels[shown] >= rectangle[:2]) & (pixels[shown] <= rectangle[2:])).all()


def test_points_are_cut_where_the_object_was_when_they_were_measured():
    """It drives at 10 m/s: half a second before, it was 5 m behind. A radar's returns scatter, at any height."""
    there = boxes((10, 0), velocity=(10.0, 0.0))
    on, before, off = (10.5, 0, 0.5, 0), (5.5, 0.9, 0, 0.5), (5.5, 0, 0, 0)
    frame = make_frame(there, lidar=[on, before, off], radar=[(11.4, 1.4, 4, 0), (11.6, 0, 0, 0)])
    found = cut(frame, 0)
    np.testing.assert_allclose(found.points["lidar"][:, [0, 1, 2, 4]], [on, before])
    np.testing.assert_allclose(found.points["radar"][:, :3], [(11.4, 1.4, 4)])
    unknown = cut(make_frame(boxes((10, 0), velocity=(np.nan, 0.0)), lidar=[on, before]), 0)
    assert len(unknown.points["lidar"]) == 1
    with pytest.raises(ObjectError, match="annotated boxes were expected"):
        cut(dataclasses.replace(frame, boxes=None), 0)


def test_a_patch_is_what_the_image_shows_of_the_rectangle():
    frame = make_frame(boxes((10, 0), (10, 9.3), (2.2, 0)))
    patch = cut(frame, 0).patches[KEY]
    rectangle = outlines(frame.cameras["CAM_FRONT"], frame.boxes)[0]
    left, top, right, bottom = whole_pixels(rectangle, patch.place)
    assert (left, top, right, bottom) == (44, 24, 56, 36)  # 49.5 and 29.5, less and plus 5.6
    np.testing.assert_array_equal(patch.pixels, frame.cameras["CAM_FRONT"].image[24:36, 44:56])
    cut_off = cut(frame, 1).patches[KEY]  # from pixel 49.5 - 50 * 10.3 / 9 = -7.7 to 49.5 - 50 * 8.3 / 11 = 11.8
    assert cut_off.place[0] == pytest.approx(0.370, abs=1e-3) and cut_off.pixels.shape[1] == 12
    assert not cut(frame, 2).patches  # 1.2 m before the camera it hides nearly everything


def test_objects_come_back_from_their_file(bank, tmp_path):
    frames = [
        make_frame(boxes((10, 0), (20, 3)), lidar=[(10, 0, 0, 0), (20, 3, 0.5, 0.1), (20.5, 3, 0, 0)]),
        make_frame(boxes((15, -3), label=TRUCK), radar=[(15, -3, 0, 0)], seed=1).only(["camera", "radar"]),
        make_frame(boxes((5, 5), points=0)),  # nobody has seen it
        None,
        dataclasses.replace(make_frame(boxes()), boxes=None),
    ]
    made = bank(*frames)
    for found in (made, pickle.loads(pickle.dumps(made)), ObjectBank(tmp_path / "drives.objects", CLASSES)):
        assert len(found) == 3 and found.boxes.label.tolist() == [CAR, CAR, TRUCK]
        for index, (frame, own) in enumerate([(frames[0], 0), (frames[0], 1), (frames[1], 0)]):
            want, have = cut(frame, own), found[index]
            assert have.box.center.tolist() == want.box.center.tolist()
            for sensor in ("lidar", "radar"):
                np.testing.assert_array_equal(have.points[sensor], want.points.get(sensor, np.zeros((0, 5))))
            assert have.patches.keys() == want.patches.keys() == {KEY}
            np.testing.assert_array_equal(have.patches[KEY].pixels, want.patches[KEY].pixels)
            np.testing.assert_array_equal(have.patches[KEY].place, want.patches[KEY].place)


def test_files_that_are_none_are_said(bank, tmp_path):
    path = tmp_path / "drives.objects"
    with pytest.raises(ObjectError, match=r"drives\.objects: a file that perception objects wrote was expected"):
        ObjectBank(path, CLASSES)
    with pytest.raises(ObjectError, match="found none"):
        bank(make_frame(boxes((5, 5), points=0)))
    bank(make_frame(boxes((10, 0))))
    with pytest.raises(ObjectError, match="objects of the classes tram were expected, found those of car, truck"):
        ObjectBank(path, ["tram"])
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[:400] + bytes([whole[400] ^ 1]) + whole[401:], b"", bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(ObjectError, match=r"drives\.objects: "):
            ObjectBank(path, CLASSES)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch.object", np.array([7])), ("patch.camera", np.array([1])), ("patch.shape", np.array([[1, 1]])),
        ("patch.offsets", np.array([0, 1])), ("patch.place", np.zeros((1, 3))), ("box.size", -np.ones((1, 3))),
        ("points.lidar.offsets", np.array([0, 99])), ("points.lidar", np.zeros((0, 4), np.float32)),
        ("points.lidar", None),
    ],
)  # fmt: skip
def test_columns_that_contradict_each_other_are_an_error(bank, tmp_path, name, value):
    """In a file whose digest is right, as somebody else may have written it."""
    from perception.data.column_file import read_columns, write_columns

    bank(make_frame(boxes((10, 0))))
    columns, metadata = read_columns(tmp_path / "drives.objects")
    changed = {key: np.array(column) for key, column in columns.items()} | {name: value}
    write_columns(tmp_path / "x", {key: column for key, column in changed.items() if column is not None}, metadata)
    with pytest.raises(ObjectError, match="x: objects were expected, found"):
        ObjectBank(tmp_path / "x", CLASSES)


def test_a_pasted_object_brings_its_points_and_pixels_and_takes_away_what_was_there(bank):
    source = make_frame(boxes((10, 0)), lidar=[(10, 0, 0, 0), (10.5, 0.5, 0, 0)], radar=[(11.2, 0, 0, 0)])
    frame = make_frame(boxes((30, 8)), lidar=[(10.2, 0.1, 0, 0), (12, 0, 0, 0)], radar=[(9.5, 0, 0, 0)], seed=5)
    found = draw_objects(frame, bank(source), {"car": 2}, 5, keyed_rng(0))
    assert len(found) == 1  # the frame has one already
    after = paste(frame, found)
    assert after.boxes.center[:, 0].tolist() == [30, 10] and after.boxes.label.tolist() == [CAR, CAR]
    np.testing.assert_allclose(after.lidar.points[:, 0], [12, 10, 10.5])
    np.testing.assert_allclose(after.radar.points[:, 0], [11.2])
    image, before = after.cameras["CAM_FRONT"].image, frame.cameras["CAM_FRONT"].image
    np.testing.assert_array_equal(image[24:36, 44:56], source.cameras["CAM_FRONT"].image[24:36, 44:56])
    changed = (image != before).any(axis=2)
    changed[24:36, 44:56] = False
    assert not changed.any()
    assert (frame.cameras["CAM_FRONT"].image == camera(5).image).all() and len(frame.boxes) == 1  # as it was
    assert paste(frame, []) is frame


@pytest.mark.parametrize(
    ("there", "wanted", "least", "number"),
    [
        (boxes(), {"car": 1}, 5, 1),
        (boxes(), {"truck": 3}, 5, 0),  # there is none in the bank
        (boxes(), {"car": 1}, 10, 0),  # it has nine points
        (boxes((30, 8)), {"car": 1}, 5, 0),  # enough cars
        (boxes((11.5, 0), label=TRUCK), {"car": 1}, 5, 0),  # it would stand in the truck
        (boxes((20, 0), label=TRUCK), {"car": 1}, 5, 0),  # it would hide the truck
        (boxes((6, 0), label=TRUCK), {"car": 1}, 5, 0),  # the truck would hide it
        (boxes((10, 4), label=TRUCK), {"car": 1}, 5, 1),  # beside it
    ],
)
def test_where_an_object_fits(bank, there, wanted, least, number):
    source = bank(make_frame(boxes((10, 0))))
    assert len(draw_objects(make_frame(there, seed=1), source, wanted, least, keyed_rng(0))) == number


@pytest.mark.parametrize(
    ("lidar", "number"),
    [
        ([(5, 0, 1.0, 0)] * 3, 1),  # three of ten points
        ([(5, 0, 1.0, 0)] * 4, 0),  # four
        ([(5, 1.2, 1.0, 0)] * 4, 1),  # beside the line to it: its front is 1 m to either side at 9 m
        ([(5, 0, 3.0, 0)] * 4, 1),  # above it
        ([(8.8, 0, 0, 0)] * 4, 1),  # at it
        ([(15, 0, 0, 0)] * 4, 1),  # behind it
        ([(-5, 0, 1.0, 0)] * 4, 1),
    ],
)
def test_nothing_is_pasted_behind_what_lidar_sees(bank, lidar, number):
    """A car at 10 m, with ten points, seen from 1.8 m of height."""
    source = bank(make_frame(boxes((10, 0)), lidar=[(9.1, 0, 0, 0)] * 10))
    frame = make_frame(boxes(), lidar=lidar, seed=1)
    assert len(draw_objects(frame, source, {"car": 1}, 5, keyed_rng(0))) == number


def test_what_no_image_was_kept_of_is_not_pasted_where_a_camera_sees_it(bank):
    without = bank(make_frame(boxes((10, 0), (-10, 0))).only(["radar", "lidar"]))
    frame = make_frame(boxes())
    seen = draw_objects(frame, without, {"car": 2}, 5, keyed_rng(0))
    assert [found.box.center[0, 0] for found in seen] == [-10]  # behind the vehicle, where no camera looks
    assert len(draw_objects(frame.only(["lidar"]), without, {"car": 2}, 5, keyed_rng(0))) == 2


def test_a_camera_with_another_focal_length_sees_a_larger_object(bank):
    frame = make_frame(boxes(), cameras={"CAM_FRONT": camera(3, focal=100.0)})
    found = draw_objects(frame, bank(make_frame(boxes((10, 0)))), {"car": 1}, 5, keyed_rng(0))
    changed = (paste(frame, found).cameras["CAM_FRONT"].image != camera(3).image).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert len(rows) == pytest.approx(2 * 12, abs=2) and len(columns) == pytest.approx(2 * 12, abs=2)


def test_the_nearer_of_two_pasted_objects_hides_the_other(bank):
    """They may hide a third of each other. In the column that both have, the nearer one's pixels stay."""
    found = [cut(make_frame(boxes((10, 0)), seed=1), 0), cut(make_frame(boxes((20, -1.4)), seed=2), 0)]
    image = paste(make_frame(boxes()), found).cameras["CAM_FRONT"].image
    np.testing.assert_array_equal(image[24:36, 44:56], camera(1).image[24:36, 44:56])


@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(-3.2, 3.2), st.floats(-3.2, 3.2))
@settings(max_examples=100)
def test_overlap_agrees_with_the_areas_that_polygons_have_in_common(x, y, yaw, other):
    """Against OpenCV's intersection of convex polygons; both ways round."""
    import cv2

    a = dataclasses.replace(boxes((0, 0), size=(4.0, 2.0, 1.0)), yaw=np.array([yaw]))
    b = dataclasses.replace(boxes((x, y), size=(3.0, 1.0, 1.0)), yaw=np.array([other]))
    outline = [box_corners(box.center, box.size, box.yaw)[0, [0, 1, 5, 4], :2].astype(np.float32) for box in (a, b)]
    area = cv2.intersectConvexConvex(*outline)[0]
    if not 0 < area < 1e-3:  # numbers as these have
        assert _overlap(a, b)[0] == _overlap(b, a)[0] == (area > 0)
    assert _overlap(a, boxes()).tolist() == []


def test_a_pasted_object_was_elsewhere_a_frame_before(bank):
    """It drives at 4 m/s, and the vehicle at 2: half a second before they were 2 m and 1 m back."""
    there = boxes((10, 0), (0, 20), velocity=(4.0, 0.0))
    now = make_frame(boxes(), world_SE3_ego=SE3.from_yaw(0, [1, 0, 0]), timestamp_ns=500_000_000)
    before = make_frame(boxes(), world_SE3_ego=SE3.from_yaw(np.pi / 2), timestamp_ns=0)
    found = [cut(make_frame(there, lidar=[(10.5, 0, 0, 0)], radar=[(9.5, 0, 0, 0)]), index) for index in range(2)]
    moved = earlier(found, now, before)
    np.testing.assert_allclose(moved[0].box.center, [[0, -9, 0]], atol=1e-9)
    np.testing.assert_allclose([moved[0].box.yaw[0], *moved[0].box.velocity[0]], [-np.pi / 2, 0, -4], atol=1e-9)
    np.testing.assert_allclose(moved[0].points["lidar"][:, :3], [[0, -9.5, 0]], atol=1e-5)
    np.testing.assert_allclose(moved[0].points["radar"][0, [0, 1, 4, 5]], [0, -8.5, 0, -3], atol=1e-5)
    occupied = dataclasses.replace(before, boxes=boxes((0, -9)))
    assert [each.box.center[0, 0] for each in earlier(found, now, occupied)] == [pytest.approx(20)]


def test_clips_show_pasted_objects_where_they_were(bank):
    data = training_data(bank(make_frame(boxes((10, 0), velocity=(4.0, 0.0)), lidar=[(10, 0, 0, 0)])))
    batch = data[Draw(0, (1,), ("radar", "lidar"))]
    assert batch.previous is None
    data.config.train.clip, data.config.train.memory_dropout = 2, 0.0
    batch = data[Draw(0, (1,), ("radar", "lidar"))]
    (now,), (before,) = batch.boxes, batch.previous.boxes
    assert len(now) == len(before) == 2
    step = now.center[1] - before.center[1]  # whatever the augmentation, along the velocity
    np.testing.assert_allclose(step[:2], now.velocity[1] * 0.5, atol=1e-6)


class Frames:
    def __init__(self, *frames: Frame):
        self.all = frames
        self.tokens = [frame.token for frame in frames]

    def __len__(self):
        return len(self.all)

    def __getitem__(self, index):
        return self.all[index]


def training_data(bank: ObjectBank) -> TrainingData:
    config = load_config(None, ["train.epochs=2", "train.finish_epochs=1"])
    config.augment = AugmentConfig(flip=True, rotate_deg=180.0, scale=0.1, translate_m=5.0, paste={"car": 4})
    config.data.objects = str(bank.path)
    lidar = [(40, 1, 0, 0)]
    frames = [
        make_frame(boxes((40, 0)), lidar, token=token, timestamp_ns=i * 500_000_000).only(["radar", "lidar"])
        for i, token in enumerate("abc")
    ]
    return TrainingData(Frames(*frames), config, InputSpec(("radar", "lidar")))


def test_pasted_points_stay_in_their_boxes_whatever_the_augmentation_does(bank):
    places = [(10, 0), (20, 6), (-15, 3), (-30, -8)]
    lidar = [(x + dx, y + 0.3, 0.2, 0) for x, y in places for dx in (-0.8, 0.5)]
    data = training_data(bank(make_frame(boxes(*places), lidar).only(["radar", "lidar"])))
    batch = data[Draw(0, (0, 1, 2), ("radar", "lidar"))]
    clouds = batch.inputs["lidar"]
    for number, there in enumerate(batch.boxes):
        assert len(there) == 4
        points = clouds.points[clouds.batch_index == number].numpy().astype(float)
        for i in range(1, 4):  # those that were pasted
            grown = there.size[i] * (1 + 1e-5)
            assert in_box(points[:, :3], there.center[i], grown, there.yaw[i]).sum() == 2
    again = data[Draw(0, (2,), ("radar", "lidar"))]
    np.testing.assert_array_equal(again.boxes[0].center, batch.boxes[2].center)  # keyed by the frame alone
    other = data[Draw(0, (2,), ("radar", "lidar"), (1,))]
    assert not np.allclose(other.boxes[0].center, again.boxes[0].center)  # drawn again, it looks otherwise


def test_a_sensor_that_shows_an_earlier_frame_shows_what_is_pasted(bank, monkeypatch):
    """A LiDAR that hangs, for certain: its points are those of half a second ago, of a car that drove 4 m/s, too."""
    from perception.data.corruptions import Corrupted, stale_lidar

    def stale(corrupted, previous, rate, rng):
        return Corrupted(stale_lidar(corrupted.frame, previous()), corrupted.errors)

    monkeypatch.setattr("perception.train.batches.draw_corruptions", stale)
    source = make_frame(boxes((10, 0), velocity=(4.0, 0.0)), lidar=[(10, 0, 0, 0)]).only(["radar", "lidar"])
    data = training_data(bank(source))
    data.config.augment = AugmentConfig(False, 0.0, 0.0, 0.0, 0.0, 0.0, paste={"car": 4}, corruption_rate=1.0)
    batch = data[Draw(0, (1,), ("radar", "lidar"))]
    assert sorted(batch.inputs["lidar"].points[:, 0].tolist()) == [8.0, 40.0]
    assert sorted(batch.boxes[0].center[:, 0].tolist()) == [10.0, 40.0]


def test_the_last_epochs_have_nothing_pasted(bank):
    data = training_data(bank(make_frame(boxes((10, 0), (20, 6))).only(["radar", "lidar"])))
    assert [len(data[Draw(epoch, (0,), ("lidar",))].boxes[0]) for epoch in (0, 1)] == [3, 1]


def test_objects_of_other_sensors_are_no_objects(bank):
    with pytest.raises(ObjectError, match=r"drives\.objects: points of radar as x, y, .* were expected, found None"):
        draw_objects(make_frame(boxes()), bank(make_frame(boxes((10, 0))).only(["lidar"])), {"car": 1}, 5, keyed_rng(0))


def test_what_a_frame_before_has_no_room_for_is_left_out(bank):
    """Half a second before: the first is where the second stands, the third where the vehicle does."""
    now, before = make_frame(boxes(), timestamp_ns=500_000_000), make_frame(boxes(), timestamp_ns=0)
    standing = cut(make_frame(boxes((15, 0))), 0)
    moving = [cut(make_frame(boxes(place, velocity=(10.0, 0.0))), 0) for place in ((20, 0), (5, 0))]
    assert [each.box.center[0, 0] for each in earlier([standing, *moving], now, before)] == [15]
    assert earlier([standing], now, dataclasses.replace(before, boxes=None)) == []


def test_an_image_that_would_grow_without_limit_is_not_pasted():
    """Right before the camera, where a frame before had it, it would be a hundred images wide."""
    found = cut(make_frame(boxes((10, 0))), 0)
    near = dataclasses.replace(found, box=boxes((1.12, 0)))
    frame = make_frame(boxes(), seed=2)
    np.testing.assert_array_equal(paste(frame, [near]).cameras["CAM_FRONT"].image, camera(2).image)


def test_what_is_pasted_is_overridden_as_a_whole(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("augment: {paste: {car: 2, bus: 3}}\ndata: {objects: x}\n")
    assert load_config(file).augment.paste == {"car": 2, "bus": 3}
    assert load_config(file, ["augment.paste={bus: 4}"]).augment.paste == {"bus": 4}
    assert load_config(file, ["augment.paste={}", "data.objects=null"]).augment.paste == {}
    assert load_config(file, ["augment.flip=false"]).augment.paste == {"car": 2, "bus": 3}


def test_configs_that_cannot_be_meant():
    for overrides, message in (
        (["augment.paste={car: 2}"], "data.objects: a file, for augment.paste, was expected, found None"),
        (["augment.paste={cat: 2}", "data.objects=x"], "augment.paste: classes, and 1 or more of each, was expected"),
        (["augment.paste={car: 0}", "data.objects=x"], "augment.paste: classes, and 1 or more of each, was expected"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(None, overrides)
    check_config(load_config(None, ["augment.paste={car: 1}", "data.objects=x"]))


def test_the_command_writes_a_file_that_training_takes(tmp_path, capsys):
    root = tiny_world().write(tmp_path / "drive")
    overrides = [f"data.root={root}", "encoders.camera.image_size=[32,64]"]
    assert run(["objects", "sim", *overrides, "--out", str(tmp_path / "objects")]) is None
    out = capsys.readouterr().out
    objects = ObjectBank(tmp_path / "objects", CLASSES)
    assert f"{tmp_path}/objects: {len(objects)} objects" in out and len(objects) > 0
    assert set(objects.fields) == {"radar", "lidar"}
