"""Which frames, sensors and boxes each batch of a training run is made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from nuscenes_world import World
from test_train import INPUTS, SENSORS, Frames, make_config, make_frame

import perception
from perception.config import AugmentConfig
from perception.errors import PerceptionError
from perception.sample import Boxes3D
from perception.train.batches import Draw, Filled, Schedule, TrainingData, sensors_kept, training_image_size
from perception.train.source import frames_by_class


def draws(samples=12, rank=0, processes=1, epoch=0, start=0, **train) -> list[Draw]:
    schedule = Schedule(samples, SENSORS, make_config(**train).train, rank, processes)
    schedule.epoch, schedule.start = epoch, start
    return list(schedule)


def make_batch(frames, sensors=SENSORS, epoch=0, indices=None, **augment):
    config = make_config()
    for name, value in augment.items():
        setattr(config.augment, name, value)
    return TrainingData(frames, config, INPUTS)[Draw(epoch, tuple(indices or range(len(frames))), sensors)]


def points(batch) -> torch.Tensor:
    return batch.inputs["lidar"].points


def images(batch) -> torch.Tensor:
    return batch.inputs["camera"].images


def test_without_dropout_every_batch_has_all_sensors_and_with_certainty_none_has():
    assert {draw.sensors for draw in draws(400, batch_size=1, sensor_dropout=0.0)} == {SENSORS}
    fewer = {draw.sensors for draw in draws(400, batch_size=1, sensor_dropout=1.0)}
    assert fewer == {(a,) for a in SENSORS} | {("camera", "radar"), ("camera", "lidar"), ("radar", "lidar")}
    single = {draw.sensors for draw in draws(400, batch_size=1, sensor_dropout=1.0, dropout_to="single")}
    assert single == {(a,) for a in SENSORS}


def test_sensors_depend_on_seed_epoch_and_place_and_on_nothing_else():
    options = {"samples": 60, "batch_size": 2, "sensor_dropout": 0.5}
    first = draws(**options)
    assert draws(**options) == first and len(first) == 30
    assert draws(**options, start=7) == first[7:]
    sensors = [draw.sensors for draw in first]
    assert len(set(sensors)) > 3
    for other in (draws(**options, epoch=1), draws(**options, seed=1)):
        assert [draw.sensors for draw in other] != sensors
        assert [draw.indices for draw in other] != [draw.indices for draw in first]
    assert {draw.epoch for draw in draws(**options, epoch=4)} == {4}
    assert {draw.epoch for draw in Schedule(60, SENSORS, make_config().train)} == {0}


def test_the_last_epochs_leave_no_sensor_out():
    options = {"samples": 200, "batch_size": 1, "sensor_dropout": 1.0, "epochs": 5, "finish_epochs": 2}
    whole = [all(draw.sensors == SENSORS for draw in draws(**options, epoch=epoch)) for epoch in range(5)]
    assert whole == [False, False, False, True, True]


def balanced(by_class, samples=60, epoch=0, rank=0, processes=1, batch_size=1) -> list[Draw]:
    train = make_config(batch_size=batch_size).train
    schedule = Schedule(samples, SENSORS, train, rank, processes, [np.array(frames, int) for frames in by_class])
    schedule.epoch = epoch
    return list(schedule)


def test_classes_have_equal_shares_of_a_balanced_epoch():
    """Three classes in 60, 10 and 3 frames, one in none: 20 draws each, so the 10 twice, the 3 six or seven times."""
    by_class = [range(60), range(40, 50), [57, 58, 59], []]
    found = balanced(by_class)
    counts = np.bincount([index for draw in found for index in draw.indices], minlength=60)
    assert counts.sum() == 60
    assert all(2 <= count <= 3 for count in counts[40:50]) and all(6 <= count <= 8 for count in counts[57:60])
    assert (counts[:40] <= 1).all() and 20 - 13 <= counts[:40].sum() + counts[50:57].sum() <= 20
    assert balanced(by_class) == found != balanced(by_class, epoch=1)


def test_a_frame_that_is_drawn_again_says_so():
    seen: dict[int, list[int]] = {}
    for draw in balanced([range(4), [3]], samples=12, batch_size=3):
        assert len(draw.repeats) == 3
        for index, repeat in zip(draw.indices, draw.repeats):
            seen.setdefault(index, []).append(repeat)
    assert all(repeats == list(range(len(repeats))) for repeats in seen.values()) and len(seen[3]) in (7, 8)
    assert all(draw.repeats == () for draw in draws())


def test_no_class_at_all_cannot_be_balanced():
    with pytest.raises(PerceptionError, match=r"train\.balanced: boxes with LiDAR or radar points were expected"):
        balanced([[], []], samples=8)
    assert [len(frames) for frames in frames_by_class([], 3)] == [0, 0, 0]


def test_processes_share_a_balanced_epoch():
    alone = balanced([range(8), [1, 2]], samples=8, batch_size=2)
    two = [balanced([range(8), [1, 2]], samples=8, rank=rank, processes=2) for rank in (0, 1)]
    assert [draw.indices for draw in alone] == [(a.indices + b.indices) for a, b in zip(*two)]


def test_the_frames_of_a_step_do_not_depend_on_the_number_of_processes():
    """Four batches of two a step: of one process, two or four, each with the same sensors."""
    train = make_config(batch_size=2, sensor_dropout=0.5).train
    alone = list(Schedule(33, SENSORS, train, batches=4))
    assert len(alone) == len(Schedule(33, SENSORS, train, batches=4)) == 16
    for processes in (2, 4):
        ranks = [list(Schedule(33, SENSORS, train, rank, processes, batches=4)) for rank in range(processes)]
        assert [draw for turn in zip(*ranks) for draw in turn] == alone
    late = Schedule(33, SENSORS, train, 1, 2, batches=4)
    late.start = 3
    assert list(late) == [alone[13], alone[15]] and len(late) == 2
    with pytest.raises(PerceptionError, match="a multiple of the 3 processes was expected, found 4"):
        Schedule(33, SENSORS, train, 0, 3, batches=4)


def test_frames_by_class_are_those_with_a_box_that_was_seen(tmp_path):
    """Of the world's two frames the first has two cars and a pedestrian, by the tables and by the frames alike."""
    source = perception.NuScenes(World().write(tmp_path))
    by_table = frames_by_class(source, 10)
    assert [frames.tolist() for frames in by_table] == [
        frames.tolist() for frames in frames_by_class([source[0], source[1]], 10)
    ]
    measured = [source[index].boxes[source[index].boxes.measured].label for index in range(2)]
    assert [frames.tolist() for frames in by_table] == [
        [index for index in range(2) if label in measured[index]] for label in range(10)
    ]
    assert any(len(frames) for frames in by_table)
    unread = frames_by_class([None, source[0]], 10)
    assert sum(map(len, unread)) and all((frames == 1).all() for frames in unread)


def test_processes_share_an_epoch():
    """Two processes with batches of two take turns: places 0, 1 and 2, 3, then 4, 5 and 6, 7; the rest is left out."""
    whole = [i for draw in draws(11, batch_size=1) for i in draw.indices]
    first, second = (draws(11, rank, 2, batch_size=2) for rank in (0, 1))
    assert [draw.indices for draw in first] == [tuple(whole[0:2]), tuple(whole[4:6])]
    assert [draw.indices for draw in second] == [tuple(whole[2:4]), tuple(whole[6:8])]
    assert len(Schedule(11, SENSORS, make_config(batch_size=2).train, 0, 2)) == 2
    late = Schedule(11, SENSORS, make_config(batch_size=2).train, 0, 2)
    late.start = 1
    assert len(late) == 1
    with pytest.raises(PerceptionError, match="3 frames do not fill a step of 2 batches of 2"):
        Schedule(3, SENSORS, make_config(batch_size=2).train, 0, 2)
    assert len(Schedule(4, SENSORS, make_config(batch_size=2).train, 0, 2)) == 1


@pytest.mark.parametrize(
    ("present", "wanted", "kept"),
    [
        (SENSORS, ("radar",), ("radar",)), (("camera", "lidar"), ("lidar", "radar"), ("lidar",)),
        (("camera", "lidar"), ("radar",), ("camera", "lidar")), ((), SENSORS, ()),
    ],
)  # fmt: skip
def test_the_wanted_sensors_that_are_present_or_all_of_them(present, wanted, kept):
    assert sensors_kept(present, wanted) == kept


@pytest.mark.parametrize(
    ("lidar", "radar", "kept"),
    [(0, 0, False), (1, 0, True), (0, 1, True), (-1, 0, True), (0, -1, True), (-1, -1, True)],
)
def test_boxes_are_trained_on_only_where_a_sensor_saw_them(lidar, radar, kept):
    """-1 is unknown; so a batch holds such boxes, and of the two here the second always."""
    frame = make_frame(0)
    counts = {"num_lidar_points": [lidar, 5], "num_radar_points": [radar, 5]}
    boxes = replace(frame.boxes, yaw=np.array([0.0, 1.0]), **counts)
    assert boxes[boxes.measured].yaw.tolist() == ([0.0, 1.0] if kept else [1.0])
    assert len(make_batch([replace(frame, boxes=boxes)]).boxes[0]) == 1 + kept


def test_images_are_read_as_large_as_the_widest_zoom_wants():
    assert training_image_size((128, 352), AugmentConfig(image_scale=0.1)) == (141, 388)  # 140.8 and 387.2
    assert training_image_size((128, 352), AugmentConfig(image_scale=0.0)) == (128, 352)


def test_augmentation_depends_on_epoch_and_frame_and_not_on_the_batch():
    frames = [make_frame(0), make_frame(1)]
    both, again = make_batch(frames), make_batch(frames)
    assert torch.equal(points(both), points(again)) and torch.equal(images(both), images(again))
    alone = make_batch(frames, indices=[1])
    assert torch.equal(points(both)[9:], points(alone)) and torch.equal(images(both)[1:], images(alone))
    later = make_batch(frames, epoch=1)
    assert not torch.allclose(points(both), points(later))
    still = {"flip": False, "rotate_deg": 0.0, "scale": 0.0, "translate_m": 0.0}
    np.testing.assert_allclose(points(make_batch(frames, **still))[:9], frames[0].lidar.points, rtol=1e-6)


def test_frames_that_cannot_be_read_or_hold_nothing_are_left_out():
    frames = [None, make_frame(1), make_frame(2).only([])]
    assert make_batch(frames).tokens == ["token-1"]
    assert make_batch([None, make_frame(2).only([])]) is None


def test_lidar_supervises_depth_only_where_there_are_images():
    camera, radar = make_batch([make_frame(0)], ("camera",)), make_batch([make_frame(0)], ("radar",))
    assert camera.sensor_valid.tolist() == [[True, False, False]] and len(points(camera)) == 9
    assert radar.sensor_valid.tolist() == [[False, True, False]] and set(radar.inputs) == {"radar"}
    both = make_batch([make_frame(0)], ("camera", "lidar"))
    assert both.sensor_valid.tolist() == [[True, False, True]] and len(points(both)) == 9
    no_lidar = make_batch([make_frame(0).only(["camera", "radar"])], ("camera",))
    assert no_lidar.sensor_valid.tolist() == [[True, False, False]] and "lidar" not in no_lidar.inputs


def test_corruptions_are_drawn_only_where_asked_for_and_before_is_the_frame_before():
    frames = [make_frame(0), make_frame(1)]
    assert (make_batch(frames, corruption_rate=0.0).displacement.abs() < 1e-6).all()
    corrupted = [make_batch(frames, indices=[1], epoch=epoch, corruption_rate=1.0).displacement for epoch in range(12)]
    assert any((displacement[0, 2].abs() > 1e-3).any() for displacement in corrupted)
    data = TrainingData(Frames(3), make_config(), INPUTS)
    assert data._previous_frame(Filled(0, make_frame(0), [])) is None
    assert data._previous_frame(Filled(2, make_frame(2), [])).token == "token-1"
    assert data._previous_frame(Filled(2, replace(make_frame(2), scene="other"), [])) is None


def test_a_cache_is_used_where_asked_for():
    for cache, reads in ((False, [0, 0]), (True, [0])):
        seen, config = [], make_config()
        config.data.cache = cache
        data = TrainingData(Frames(1, on_read=seen.append), config, INPUTS)
        for epoch in range(2):
            assert data[Draw(epoch, (0,), SENSORS)] is not None
        assert seen == reads and data.frames.tokens == ["token-0"]


def test_without_annotations_there_are_no_boxes():
    assert make_batch([replace(make_frame(0), boxes=None)]).boxes is None
    assert len(make_batch([replace(make_frame(0), boxes=Boxes3D.empty())]).boxes[0]) == 0


def test_targets_are_those_of_the_boxes_that_are_trained_on():
    """Of the augmented frame, without boxes that no sensor saw; of an unannotated frame there are none."""
    boxes = Boxes3D(
        *[[[1, 2, 3]] * 2] * 2, [0, 1], [[0, 0]] * 2, [0, 1], num_lidar_points=[3, 0], num_radar_points=[0, 0]
    )
    targets = {"boxes": lambda of_batch: [found.label.tolist() for found in of_batch]}
    data = TrainingData([replace(make_frame(0), boxes=boxes)], make_config(), INPUTS, targets)
    assert data[Draw(0, (0,), SENSORS)].targets == {"boxes": [[0]]}
    unannotated = TrainingData([replace(make_frame(0), boxes=None)], make_config(), INPUTS, targets)
    assert unannotated[Draw(0, (0,), SENSORS)].targets == {}
