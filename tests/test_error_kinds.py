"""Kinds of errors, and detections with one of them mended: by hand."""

import numpy as np
import pytest

from benchmarks.errors import nearest_box, no_ghosts, right_class, right_order, right_place, turned_round
from perception.sample import Boxes3D, Detections

CAR, TRUCK = 0, 1


def boxes(*rows):
    """x, label, yaw."""
    x, label, yaw = np.array(rows, float).reshape(-1, 3).T
    center = np.stack([x, 0 * x, 0 * x], axis=1)
    size, velocity = np.full((len(x), 3), 2.0), np.zeros((len(x), 2))
    return Boxes3D(center, size, yaw, velocity, label.astype(int))


TRUTH = boxes((0, CAR, 0.0), (20, TRUCK, 0.0))
# Near the car, as a truck; the car, half a metre off, backwards; a ghost; the truck, a metre off; neither near nor far.
FOUND = Detections(
    boxes((0.2, TRUCK, 0.0), (0.5, CAR, 3.0), (50.0, CAR, 0.0), (21.0, TRUCK, 0.3), (23.0, TRUCK, 0.0)),
    np.array([0.9, 0.8, 0.7, 0.3, 0.1]),
)


def seen(detections):
    return list(zip(detections.boxes.center[:, 0].tolist(), detections.boxes.label.tolist(), strict=True))


def test_right_class():
    """The truck on the car is a car, before the one that was right; the third one of the truck is not near it."""
    assert seen(right_class(FOUND, TRUTH)) == [(0.2, CAR), (50.0, CAR), (21.0, TRUCK), (23.0, TRUCK)]


def test_right_place():
    assert seen(right_place(FOUND, TRUTH)) == [(0.2, TRUCK), (0.0, CAR), (50.0, CAR), (20.0, TRUCK), (23.0, TRUCK)]


def test_right_order():
    mended = right_order(FOUND, TRUTH)
    assert seen(mended) == [(0.5, CAR), (21.0, TRUCK), (0.2, TRUCK), (50.0, CAR), (23.0, TRUCK)]
    assert mended.scores.tolist() == pytest.approx([0.9, 0.65, 0.09, 0.07, 0.01])


def test_no_ghosts():
    assert seen(no_ghosts(FOUND, TRUTH)) == [(0.2, TRUCK), (0.5, CAR), (21.0, TRUCK), (23.0, TRUCK)]


def test_turned_round():
    label, turned = turned_round(FOUND, TRUTH)
    assert (label.tolist(), turned.tolist()) == ([CAR, TRUCK], [True, False])


@pytest.mark.parametrize("mend", [right_class, right_place, right_order])
def test_without_objects_nothing_is_near(mend):
    nothing = Boxes3D.empty()
    assert np.isinf(nearest_box(FOUND, nothing, same_class=False)[1]).all()
    assert seen(mend(FOUND, nothing)) == seen(FOUND)
    assert len(no_ghosts(FOUND, nothing)) == 0
    assert [len(part) for part in turned_round(FOUND, nothing)] == [0, 0]
