"""What there is to learn from, counted by hand."""

import logging

import pytest
from nuscenes_world import World

import perception
from perception.config import GridConfig
from perception.grid import BEVGrid
from perception.task import ObjectClass, Task
from perception.train.labels import LabelError, check_labels

GRID = BEVGrid(**vars(GridConfig()))


def annotations(world, **changes):
    for row in world.tables["sample_annotation"]:
        row.update(changes)


def test_boxes_are_counted_and_classes_without_one_named(tmp_path, caplog):
    """The vehicle faces world +y at (100, 200) and (100, 210). Of the car's boxes one is 10 m ahead, one 51.3 m."""
    caplog.set_level(logging.INFO)
    world = World()
    world.row("sample_annotation", "car1")["translation"] = [100, 261.3, 1]
    check_labels(perception.NuScenes(world.write(tmp_path)), GRID)
    assert "1 boxes to learn from; left out: 1 outside the grid, 0 without a LiDAR or radar point" in caplog.text
    assert "not one box to learn from of: truck, bus" in caplog.text and "of: car" not in caplog.text


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda w: annotations(w, num_lidar_pts=0, num_radar_pts=0), "0 outside the grid, 2 without a LiDAR or radar"),
        (lambda w: annotations(w, translation=[700, 200, 0]), "2 outside the grid, 0 without"),
        (
            lambda w: w.tables["category"][0].update(name="car"),
            "none of the classes car, .*; left out: 0 outside",
        ),
        (lambda w: w.tables["instance"][0].update(category_token="dog"), "left out: 0 outside the grid, 0 without"),
    ],
)
def test_nothing_to_learn_from_is_an_error_with_counts(tmp_path, change, found):
    world = World()
    change(world)
    with pytest.raises(LabelError, match=f"v1.0-sim: boxes to learn from were expected in 2 frames, .*{found}"):
        check_labels(perception.NuScenes(world.write(tmp_path)), GRID)


def test_a_task_without_a_box_is_named(tmp_path):
    dataset = perception.NuScenes(World().write(tmp_path), task=Task([ObjectClass("bus")], []))
    with pytest.raises(LabelError, match="none of the classes bus;"):
        check_labels(dataset, GRID)


def test_samples_without_a_sensor_do_not_count(tmp_path):
    world = World()
    for name in ("lidar1", "radar1", "camera1"):
        world.remove("sample_data", name)
    dataset = perception.NuScenes(world.write(tmp_path), on_error="skip")
    check_labels(dataset, BEVGrid(5, 15, -5, 5, -5, 3, 0.5))  # of the first sample
    with pytest.raises(LabelError, match="1 outside the grid"):
        check_labels(dataset, BEVGrid(15, 25, -5, 5, -5, 3, 0.5))


def test_a_version_without_annotations_is_named(tmp_path):
    world = World()
    world.tables["sample_annotation"] = []
    with pytest.raises(LabelError, match=r"v1\.0-sim: annotations were expected to train on, found none"):
        check_labels(perception.NuScenes(world.write(tmp_path)), GRID)
