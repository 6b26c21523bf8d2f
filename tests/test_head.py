"""Encoding boxes into maps and back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.head import BOX_CHANNELS, CenterHead, CenterMaps, CenterTargets, encode, gaussian_radius
from perception.sample import Boxes3D, Detections
from perception.task import CLASSES, NUSCENES, ObjectClass, Task

GRID = BEVGrid(-25.6, 25.6, -25.6, 25.6, -5, 3, 0.8)
BOX = sum(BOX_CHANNELS.values())
TWO = Task([ObjectClass("ship", suppression_radius_m=3.0), ObjectClass("buoy", suppression_radius_m=0.5)], [])


def maps_of(heat: torch.Tensor, box: torch.Tensor | None = None, attribute: torch.Tensor | None = None) -> CenterMaps:
    """Maps of probabilities, and zeros for what is not given."""
    shape = (len(heat), *heat.shape[2:])
    box = torch.zeros(shape[0], BOX, *shape[1:]) if box is None else box
    attribute = torch.zeros(shape[0], 8, *shape[1:]) if attribute is None else attribute
    return CenterMaps(heat.double().logit(), box, attribute)


def decode(maps: CenterMaps, max_detections: int, score_threshold: float, task=NUSCENES) -> list[Detections]:
    return CenterHead(GRID, task, 1, 1, max_detections, score_threshold).decode(maps)


def perfect(target: CenterTargets) -> CenterMaps:
    """What a head would predict that knew the targets."""
    return maps_of(torch.where(target.heat == 1, 1.0, 0.0), target.box, target.attribute)


def make_boxes(rng, n):
    label = rng.integers(0, len(CLASSES), n)
    attribute = np.array([{5: 5, 6: 3, 7: 3, 8: -1, 9: -1}.get(value, 0) for value in label], int)
    return Boxes3D(
        center=np.c_[rng.uniform(-25.6, 25.599, (n, 2)), rng.uniform(-2, 2, n)],
        size=rng.uniform(0.3, 12, (n, 3)),
        yaw=rng.uniform(-np.pi, np.pi, n),
        velocity=rng.normal(0, 5, (n, 2)),
        label=label,
        attribute=attribute,
    )


def far_apart(boxes, metres):
    distance = np.linalg.norm(boxes.center[:, None, :2] - boxes.center[None, :, :2], axis=-1)
    keep = []
    for i in range(len(boxes)):
        if all(distance[i, j] > metres for j in keep):
            keep.append(i)
    return boxes[keep]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 40), st.integers(0, 2**31))
def test_round_trip(n, seed):
    """Boxes more than two cells apart come back exactly, to float32 rounding."""
    boxes = far_apart(make_boxes(np.random.default_rng(seed), n), 1.7)
    decoded = decode(perfect(encode([boxes], GRID, NUSCENES)), 300, 0.5)[0]
    assert len(decoded.boxes) == len(boxes)

    def order(b):
        return np.lexsort(b.center.T.round(3))

    have, want = decoded.boxes[order(decoded.boxes)], boxes[order(boxes)]
    for name in ("center", "size", "velocity"):
        np.testing.assert_allclose(getattr(have, name), getattr(want, name), rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(np.cos(have.yaw - want.yaw), 1, atol=1e-9)
    np.testing.assert_array_equal(have.label, want.label)
    np.testing.assert_array_equal(have.attribute, want.attribute)


def test_heat_has_its_peak_at_the_centre_cell():
    box = Boxes3D([[0.1, 0.1, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [3])
    maps = encode([box], GRID, NUSCENES)
    assert maps.heat[0, 3, 32, 32] == 1 and (maps.heat == 1).sum() == 1
    assert maps.heat[0, 3, 32, 33] == maps.heat[0, 3, 31, 32] > 0
    assert maps.heat[0, :3].sum() == 0
    assert maps.occupied.nonzero().tolist() == [[0, 32, 32]]


def test_nothing_outside_the_grid_and_nothing_from_nothing():
    outside = Boxes3D([[30, 0, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [0])
    maps = encode([outside, Boxes3D.empty()], GRID, NUSCENES)
    assert maps.heat.sum() == 0 and not maps.occupied.any()
    assert [len(d) for d in decode(perfect(maps), 300, 0.1)] == [0, 0]


def test_larger_box_owns_a_shared_cell():
    boxes = Boxes3D([[0.1, 0.1, 0], [0.2, 0.2, 5]], [[9, 3, 3], [1, 1, 1]], [0, 0], np.zeros((2, 2)), [1, 8])
    maps = encode([boxes], GRID, NUSCENES)
    assert maps.box[0, 3:6, 32, 32].exp().tolist() == pytest.approx([9, 3, 3])
    assert maps.heat[0, 1, 32, 32] == maps.heat[0, 8, 32, 32] == 1


def test_unknown_velocity_stays_unknown():
    maps = encode([Boxes3D([[0, 0, 0]], [[4, 2, 1.5]], [0], [[np.nan, np.nan]], [0])], GRID, NUSCENES)
    assert maps.box[0, -2:, 32, 32].isnan().all()


def test_too_many_peaks_are_capped_by_score():
    heat = torch.rand(1, len(CLASSES), *GRID.shape)
    detections = decode(maps_of(heat), 50, 0.0)[0]
    assert len(detections) == 50 and (np.diff(detections.scores) <= 0).all()
    assert detections.scores[0] == pytest.approx(float(heat.max()), abs=1e-6)


def test_close_peaks_of_one_class_are_one_object():
    heat, box = torch.zeros(1, 10, *GRID.shape), torch.zeros(1, BOX, *GRID.shape)
    heat[0, 0, 10, 10], heat[0, 0, 10, 12], heat[0, 5, 10, 12] = 0.9, 0.8, 0.7
    box[0, 0, 10, 10] = 1.0  # the first car's centre lies 0.8 m from the second's
    detections = decode(maps_of(heat, box), 300, 0.1)[0]
    assert detections.scores.tolist() == pytest.approx([0.9, 0.7])
    assert detections.boxes.label.tolist() == [0, 5]


def test_how_close_is_a_matter_of_the_class():
    """Peaks 2.4 m apart: two buoys, but one ship."""
    heat = torch.zeros(1, 2, *GRID.shape)
    heat[0, :, 10, 10], heat[0, :, 10, 13] = 0.9, 0.8
    detections = decode(maps_of(heat, attribute=torch.zeros(1, 0, *GRID.shape)), 300, 0.1, TWO)[0]
    assert sorted(zip(detections.boxes.label.tolist(), detections.scores.round(3).tolist())) == [
        (0, 0.9), (1, 0.8), (1, 0.9)
    ]  # fmt: skip
    assert detections.boxes.attribute.tolist() == [-1] * 3


def test_a_head_has_as_many_maps_as_its_task_has_classes_and_attributes():
    for task in (TWO, NUSCENES):
        head = CenterHead(GRID, task, 4, 8).eval()
        maps = head(torch.zeros(2, 4, *GRID.shape))
        assert maps.heat_logits.shape == (2, len(task.classes), *GRID.shape)
        assert maps.box.shape == (2, 12, *GRID.shape)
        assert maps.attribute_logits.shape == (2, len(task.attributes), *GRID.shape)
        assert maps.heat_logits.sigmoid().mean().item() == pytest.approx(
            0.00995, abs=1e-4
        )  # nothing is there, it says first


def test_the_attribute_is_the_likeliest_of_those_that_the_class_may_carry():
    heat, attribute = torch.zeros(1, 10, *GRID.shape), torch.zeros(1, 8, *GRID.shape)
    heat[0, 0, 10, 10], heat[0, 5, 20, 20], heat[0, 8, 30, 30] = 0.9, 0.8, 0.7  # a car, a pedestrian, a cone
    attribute[0, 5] = 9.0  # pedestrian.moving
    attribute[0, 1] = 1.0  # vehicle.stopped
    assert decode(maps_of(heat, attribute=attribute), 300, 0.1)[0].boxes.attribute.tolist() == [1, 5, -1]


@pytest.mark.parametrize(
    ("label", "attribute", "message"),
    [(2, -1, "boxes: labels below 2 were expected, found 2"), (0, 0, "boxes: attributes below 0 were expected")],
)
def test_labels_that_the_task_does_not_have_are_named(label, attribute, message):
    box = Boxes3D([[0, 0, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [label], [attribute])
    with pytest.raises(PerceptionError, match=message):
        encode([box], GRID, TWO)


def test_gaussian_radius_keeps_the_overlap():
    """A box moved diagonally by the radius still overlaps itself by at least a tenth."""
    length, width = np.array([5.0]), np.array([2.5])
    radius = gaussian_radius(length, width)[0]
    inter = (length - radius) * (width - radius)
    assert inter / (2 * length * width - inter) >= 0.1 - 1e-9


@pytest.mark.parametrize("yaw", [-3.0, -1.6, 0.0, 0.8, 1.6, 3.1])
@pytest.mark.parametrize("sure", [1.0, 0.01, -0.01])
def test_the_axis_gives_the_direction_and_the_heading_only_its_sense(yaw, sure):
    """However small the heading vector has become, and whichever way it points, the axis is kept."""
    target = encode([Boxes3D([[0.1, 0.1, 0]], [[4, 2, 1.5]], [yaw], [[0, 0]], [0])], GRID, NUSCENES)
    start = list(BOX_CHANNELS).index("heading")
    first = sum(list(BOX_CHANNELS.values())[:start])
    target.box[:, first : first + 2] *= sure
    found = decode(perfect(target), 300, 0.5)[0].boxes.yaw[0]
    assert np.cos(found - yaw) == pytest.approx(np.sign(sure))
