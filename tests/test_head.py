"""Encoding boxes into maps and back."""

import numpy as np
import pytest
import torch
from dense_targets import DenseTargets, encode
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.head import (
    BOX_CHANNELS,
    CenterHead,
    CenterMaps,
    Trunk,
)
from perception.sample import Boxes3D, Detections
from perception.task import CLASSES, NUSCENES, ObjectClass, Task
from perception.train.targets import CenterEncoder, draw_gaussian, gaussian_radius

GRID = BEVGrid(-25.6, 25.6, -25.6, 25.6, -5, 3, 0.8)
BOX = sum(BOX_CHANNELS.values())
TWO = Task([ObjectClass("ship", suppression_radius_m=3.0), ObjectClass("buoy", suppression_radius_m=0.5)], [])


def maps_of(heat: torch.Tensor, box: torch.Tensor | None = None, attribute: torch.Tensor | None = None) -> CenterMaps:
    """Maps of probabilities, and zeros for what is not given."""
    shape = (len(heat), *heat.shape[2:])
    box = torch.zeros(shape[0], BOX, *shape[1:]) if box is None else box
    attribute = torch.zeros(shape[0], 8, *shape[1:]) if attribute is None else attribute
    return CenterMaps(heat.double().logit().clamp(-100, 100), box, attribute)


def decode(maps: CenterMaps, max_detections: int, score_threshold: float, task=NUSCENES) -> list[Detections]:
    return CenterHead(GRID, task, 1, 1, max_detections, score_threshold).decode(maps)


def perfect(target: DenseTargets) -> CenterMaps:
    """What a head would predict that knew the targets."""
    return maps_of(torch.where(target.heat == 1, 1.0, 0.0), target.box, target.attribute)


class Said:
    """What a head says that sees nothing, to be filled in: every score and every value is 0."""

    def __init__(self, samples=1):
        shapes = ((samples, 10, *GRID.shape), (samples, BOX, *GRID.shape), (samples, 8, *GRID.shape))
        self.heat, self.box, self.attribute = (torch.zeros(shape) for shape in shapes)

    def decoded(self, most=300, threshold=0.1) -> list[Detections]:
        return decode(maps_of(self.heat, self.box, self.attribute), most, threshold)


def found_in(said: Said, most=300) -> Detections:
    return said.decoded(most)[0]


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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_an_error_and_not_zero_boxes(value):
    maps = maps_of(torch.full((1, len(CLASSES), *GRID.shape), 0.1))
    maps.heat_logits[0, 3, 5, 5] = value
    with pytest.raises(PerceptionError, match="heat map: finite numbers were expected, found 1 of 40960 NaN"):
        decode(maps, 300, 0.05)


@pytest.mark.parametrize("broken", ["box", "attribute_logits"])
def test_a_box_that_is_not_finite_is_an_error(broken):
    heat = torch.full((1, len(CLASSES), *GRID.shape), 0.1)
    heat[0, 3, 5, 5] = 0.9
    maps = maps_of(heat)
    getattr(maps, broken)[0, -1, 5, 5] = np.nan
    with pytest.raises(PerceptionError, match="boxes: finite numbers were expected, found 1 of"):
        decode(maps, 300, 0.5)


def test_heat_has_its_peak_at_the_centre_cell():
    box = Boxes3D([[0.1, 0.1, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [3])
    maps = encode([box], GRID, NUSCENES)
    assert maps.heat[0, 3, 32, 32] == 1 and (maps.heat == 1).sum() == 1
    assert maps.heat[0, 3, 32, 33] == maps.heat[0, 3, 31, 32] > 0
    assert maps.heat[0, :3].sum() == 0
    assert maps.occupied.nonzero().tolist() == [[0, 32, 32]]


def test_the_smallest_gaussian_is_as_wide_as_the_head_says():
    """A pedestrian's box is smaller than a cell: radius 1 covers 3 x 3 cells, radius 2 five by five."""
    box = Boxes3D([[0.1, 0.1, 0]], [[0.7, 0.7, 1.8]], [0], [[0, 0]], [5])
    for radius in (1, 2):
        heat = encode([box], GRID, NUSCENES, min_radius=radius).heat[0, 5]
        assert heat.count_nonzero() == (2 * radius + 1) ** 2
        assert float(heat[32, 33]) == pytest.approx(np.exp(-18 / (2 * radius + 1) ** 2))  # sigma = (2 r + 1) / 6


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


def test_cells_are_flat_indices_by_sample_group_row_and_column():
    """Ascending, so that sums over them do not depend on the order of the boxes."""
    place = Boxes3D([[10.0, 0.1, 0], [0.1, 0.1, 0]], [[4, 2, 1.5]] * 2, [0, 0], np.zeros((2, 2)), [0, 1])
    cells = CenterEncoder(GRID, TWO, 1, [[1], [0]])([Boxes3D.empty(), place]).cell
    assert cells.tolist() == [((1 * 2 + 0) * 64 + 32) * 64 + 32, ((1 * 2 + 1) * 64 + 32) * 64 + 44]


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
    [
        (2, -1, "boxes: labels below 2 were expected, found 2"),
        (0, 0, "boxes: attributes below 0 were expected, found 0"),
    ],
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


def by_hand(radius: float) -> np.ndarray:
    """A Gaussian [7, 7] about the centre: exp(-d^2 / (2 sigma^2)), sigma a sixth of the width 2 radius + 1."""
    y, x = np.mgrid[-3:4, -3:4]
    inside = (abs(x) <= radius) & (abs(y) <= radius)
    return np.where(inside, np.exp(-(x**2 + y**2) / (2 * ((2 * radius + 1) / 6) ** 2)), 0)


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_a_gaussian_by_hand_wherever_it_is_cut(radius):
    for row, column in ((5, 6), (0, 0), (0, 6), (10, 0), (10, 12), (1, 11), (9, 2)):
        heat, whole = np.zeros((11, 13), np.float32), np.zeros((17, 19))
        whole[row : row + 7, column : column + 7] = by_hand(radius)
        draw_gaussian(heat, column, row, radius)
        np.testing.assert_allclose(heat, whole[3:-3, 3:-3], atol=1e-6)
        assert heat[row, column] == 1


def test_where_gaussians_meet_the_larger_value_stays():
    heat = np.zeros((11, 13), np.float32)
    draw_gaussian(heat, 4, 5, 2)
    draw_gaussian(heat, 6, 5, 1)
    assert heat[5, 4] == heat[5, 6] == 1
    # Halfway: exp(-1 / (2 (5/6)^2)) of the wide one, exp(-1 / (2 (1/2)^2)) of the narrow one.
    assert heat[5, 5] == pytest.approx(np.exp(-18 / 25)) and heat[5, 7] == pytest.approx(np.exp(-2))


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 30), st.floats(0.2, 30), st.floats(0.05, 0.95))
def test_the_radius_is_the_smallest_root_of_the_three_cases(length, width, overlap):
    """Boxes whose corners are r off: one in and one out, both in, both out; each has the overlap at its root."""
    one = np.roots([1, -(length + width), length * width * (1 - overlap) / (1 + overlap)])
    inside = np.roots([4, -2 * (length + width), (1 - overlap) * length * width])
    outside = np.roots([4 * overlap, 2 * overlap * (length + width), (overlap - 1) * length * width])
    smallest = min(root.real for roots in (one, inside, outside) for root in roots if root.real > 0)
    have = gaussian_radius(np.array([length]), np.array([width]), overlap)[0]
    assert have == pytest.approx(smallest, rel=1e-6)
    assert (length - 2 * have) * (width - 2 * have) >= overlap * length * width * (1 - 1e-6)


def test_radii_by_hand():
    """Of a square, (1 - sqrt(0.1)) / 2 of its side; a box of 12 x 3 m overlaps by a tenth when 1.257 m smaller."""
    assert gaussian_radius(np.array([10.0]), np.array([10.0]))[0] == pytest.approx(5 * (1 - 0.1**0.5))
    radius = gaussian_radius(np.array([12.0]), np.array([3.0]))[0]
    assert (12 - 2 * radius) * (3 - 2 * radius) == pytest.approx(3.6)


@pytest.mark.parametrize(("side_m", "reach"), [(0.5, 1), (4.6, 1), (4.7, 2), (7.0, 2), (7.1, 3), (9.3, 3)])
def test_heat_reaches_as_far_as_the_box_is_large(side_m, reach):
    """0.342 of the side, in cells of 0.8 m, rounded down, and a cell at least: 2 cells from 4.68 m, 3 from 7.02 m."""
    maps = encode([Boxes3D([[0.1, 0.1, 0]], [[side_m, side_m, 1]], [0], [[0, 0]], [2])], GRID, NUSCENES)
    rows, columns = maps.heat[0, 2].nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32 - reach, 32 + reach) * 2
    np.testing.assert_allclose(maps.heat[0, 2, 29:36, 29:36], by_hand(reach), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 4), (4, 8)])
def test_heat_of_a_long_box_reaches_as_far_as_both_sides_allow(size):
    """(8 - 2r)(4 - 2r) = 0.1 * 8 * 4 m^2 where r = (24 - 115.2^0.5) / 8 = 1.658 m, two cells of 0.8 m."""
    maps = encode([Boxes3D([[0.1, 0.1, 0]], [[*size, 1]], [0], [[0, 0]], [2])], GRID, NUSCENES)
    np.testing.assert_allclose(maps.heat[0, 2, 29:36, 29:36], by_hand(2), atol=1e-6)


def test_values_of_a_box_by_hand():
    """In the cell of 0.8 m from (0.8, -1.6): a quarter and a half of it further; log 1 is 0; velocity in 5 m/s."""
    box = Boxes3D([[1.0, -1.2, 0.7]], [[1, np.e, np.e**2]], [np.pi / 6], [[10, -5]], [0], [1])
    maps = encode([Boxes3D.empty(), box], GRID, NUSCENES)
    assert maps.occupied.nonzero().tolist() == [[1, 30, 33]]
    half, root = 0.5, 0.75**0.5
    values = [0.25, 0.5, 0.7, 0, 1, 2, half, root, root, half, 2, -1]
    np.testing.assert_allclose(maps.box[1, :, 30, 33], values, atol=1e-5)
    assert maps.attribute[1, :, 30, 33].tolist() == [0, 1, 0, 0, 0, 0, 0, 0] and maps.attribute.sum() == 1
    assert [t.dtype for t in (maps.heat, maps.box, maps.attribute)] == [torch.float32] * 3


def test_an_unknown_attribute_is_none_of_them():
    maps = encode([Boxes3D([[0.1, 0.1, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [0], [-1])], GRID, NUSCENES)
    assert maps.attribute.abs().sum() == 0


def test_size_is_the_area_on_the_ground_and_order_does_not_matter():
    """A flat plate owns the cell it shares with a mast, whichever comes first."""
    plate, mast = [3.0, 3.0, 0.1], [0.2, 0.2, 30.0]
    for sizes in ([plate, mast], [mast, plate]):
        boxes = Boxes3D([[0.1, 0.1, 0]] * 2, sizes, [0, 0], np.zeros((2, 2)), [0, 0])
        assert encode([boxes], GRID, NUSCENES).box[0, 3:6, 32, 32].exp().tolist() == pytest.approx(plate)


RADII = (1.0, 1.2, 1.2, 1.2, 1.2, 0.3, 0.5, 0.5, 0.25, 0.4)


@pytest.mark.parametrize(("label", "radius"), list(enumerate(RADII)))
@pytest.mark.parametrize("way", [(1, 0), (0, 1), (-0.6, 0.8)])
def test_of_two_peaks_within_the_radius_of_their_class_one_stays(label, radius, way):
    """Peaks two cells apart, whose offsets say that the boxes lie a little less or more than the radius apart."""
    assert NUSCENES.column("suppression_radius_m")[label] == radius
    for apart, left in ((radius - 0.01, 1), (radius + 0.01, 2)):
        maps = Said()
        maps.heat[0, label, 20, 20], maps.heat[0, label, 20, 22] = 0.9, 0.8
        maps.box[0, :2, 20, 22] = torch.tensor([way[0] * apart / 0.8 - 2, way[1] * apart / 0.8])
        detections = found_in(maps)
        assert detections.scores.tolist() == pytest.approx([0.9, 0.8][:left])
        other = (label + 1) % 10  # of which it is none of the business
        maps.heat[0, other, 20, 22], maps.heat[0, label, 20, 22] = 0.8, 0.0
        assert len(found_in(maps).scores) == 2


def test_what_is_suppressed_suppresses_nothing():
    """Of three cars 0.9 m apart in a row the middle one goes and the last one stays."""
    maps = Said()
    for place, (column, score) in enumerate(((20, 0.9), (22, 0.8), (24, 0.7))):
        maps.heat[0, 0, 20, column] = score
        maps.box[0, 0, 20, column] = 0.9 / 0.8 * place - 2 * place
    assert found_in(maps).scores.tolist() == pytest.approx([0.9, 0.7])


def test_of_neighbouring_cells_only_the_peak_is_a_box():
    for row, column in ((21, 20), (20, 21), (21, 21), (19, 21)):
        maps = Said()
        maps.heat[0, 8, 20, 20], maps.heat[0, 8, row, column] = 0.9, 0.8
        assert found_in(maps).scores.tolist() == pytest.approx([0.9])
    maps = Said()  # two cells away is another peak; a cone is small
    maps.heat[0, 8, 20, 20], maps.heat[0, 8, 20, 22] = 0.9, 0.8
    assert len(found_in(maps).scores) == 2


def test_scores_above_the_threshold_highest_first_in_every_sample():
    maps = Said(samples=2)
    for column, score in enumerate((0.5, 0.6, 0.75)):
        maps.heat[1, 5, 10, 4 * column] = score
    nothing, found = maps.decoded(threshold=0.5)
    assert len(nothing) == 0 and found.scores.tolist() == pytest.approx([0.75, 0.6])
    assert len(maps.decoded(most=1)[1]) == 1


@pytest.mark.parametrize(
    ("label", "allowed"),
    [*((c, [0, 1, 2]) for c in range(5)), (5, [5, 6, 7]), (6, [3, 4]), (7, [3, 4]), (8, []), (9, [])],
)
def test_attributes_that_a_class_may_carry(label, allowed):
    """The likeliest of all is one that the class has not; of its own, each may be."""
    for best in allowed or [-1]:
        maps = Said()
        maps.heat[0, label, 3, 4] = 0.9
        for index in range(8):
            maps.attribute[0, index, 3, 4] = -1.0 if index in allowed else 9.0
        if allowed:
            maps.attribute[0, best, 3, 4] = 0.5
        assert found_in(maps).boxes.attribute.tolist() == [best]


def test_a_decoded_box_by_hand():
    """Row 3 and column 5 begin at (-21.6, -23.2); half a cell further; 3, 1 and e metres; 2 * 5 m/s; 30 degrees."""
    maps = Said()
    maps.heat[0, 4, 3, 5] = 0.9
    half, root = 0.5, 0.75**0.5
    values = [0.5, 0.25, -1.5, np.log(3), 0, 1, half, root, root, half, 2, -0.4]
    maps.box[0, :, 3, 5] = torch.tensor(values)
    boxes = found_in(maps).boxes
    np.testing.assert_allclose(boxes.center, [[-21.2, -23.0, -1.5]], atol=1e-5)
    np.testing.assert_allclose(boxes.size, [[3, 1, np.e]], rtol=1e-6)
    np.testing.assert_allclose(boxes.velocity, [[10, -2]], rtol=1e-6)
    assert boxes.yaw.tolist() == pytest.approx([np.pi / 6]) and boxes.label.tolist() == [4]


def test_absurd_sizes_are_bounded():
    maps = Said()
    maps.heat[0, 0, 3, 5] = 0.9
    maps.box[0, 3:6, 3, 5] = torch.tensor([50.0, -50.0, 3.9])
    np.testing.assert_allclose(found_in(maps).boxes.size, [np.exp([4, -4, 3.9])], rtol=1e-5)


def test_boxes_of_two_per_cent_and_less_are_left_out_by_default():
    maps = Said()
    for column, score in enumerate((0.019, 0.021, 0.9)):
        maps.heat[0, 5, 10, 4 * column] = score
    found = CenterHead(GRID, NUSCENES, 1, 1).decode(maps_of(maps.heat))[0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.021])


def test_a_new_head_sees_nothing_anywhere():
    torch.manual_seed(0)
    head = CenterHead(GRID, NUSCENES, 8, 8)
    torch.nn.init.zeros_(head.heat[-1].weight)
    maps = head(torch.randn(1, 8, 6, 5))
    assert maps.heat_logits.detach().sigmoid().numpy() == pytest.approx(0.01, rel=0.01)
    low = head.bfloat16()(torch.randn(1, 8, 6, 5, dtype=torch.bfloat16))
    assert {t.dtype for t in (low.heat_logits, low.box, low.attribute_logits)} == {torch.float32}


@pytest.mark.parametrize("shape", [(16, 16), (9, 14)])
def test_the_trunk_keeps_the_grid_and_sees_far(shape):
    torch.manual_seed(0)
    trunk = Trunk(4, [8, 16, 24])
    assert [block[0][0].stride for block in trunk.down] == [(2, 2), (2, 2)]
    x = torch.randn(1, 4, *shape, requires_grad=True)
    y = trunk(x)
    assert y.shape == (1, 8, *shape)
    y[0, :, 0, 0].sum().backward()
    assert x.grad[0, :, 6, 8].abs().sum() > 0  # further than convolutions at full resolution see
    assert all(parameter.grad is not None for parameter in trunk.parameters())


def test_the_trunk_adds_what_is_coarser():
    """16 in one cell of 4 x 4 is a mean of 4 in its quarter and of 1 in all; each level adds to the finer one."""
    trunk = Trunk(1, [1, 1, 1])
    trunk.enter = torch.nn.Identity()
    trunk.down = torch.nn.ModuleList(torch.nn.AvgPool2d(2) for _ in range(2))
    trunk.up, trunk.merge = (torch.nn.ModuleList(torch.nn.Identity() for _ in range(2)) for _ in range(2))
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 0] = 16
    assert trunk(x)[0, 0].tolist() == [[21, 5, 1, 1], [5, 5, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


@pytest.mark.parametrize(("x", "y", "inside"), [
    (-25.6, 0, True), (25.59, 0, True), (0, -25.6, True), (0, 25.59, True),
    (-25.61, 0, False), (25.6, 0, False), (0, -25.61, False), (0, 25.6, False),
])  # fmt: skip
def test_boxes_beyond_any_side_of_the_grid_are_left_out(x, y, inside):
    maps = encode([Boxes3D([[x, y, 99.0]], [[4, 2, 1.5]], [0], [[0, 0]], [0])], GRID, NUSCENES)
    assert maps.occupied.sum() == (maps.heat == 1).sum() == inside


def test_twice_as_many_peaks_as_boxes_are_looked_at():
    """The best car and three within its radius are all that is looked at for two boxes; for three, the fifth is too."""
    maps = Said()
    for place, score in enumerate((0.9, 0.8, 0.7, 0.6)):
        maps.heat[0, 0, 20, 10 + 2 * place] = score
        maps.box[0, 0, 20, 10 + 2 * place] = -2.0 * place
    maps.heat[0, 0, 40, 40] = 0.5
    assert found_in(maps, most=2).scores.tolist() == pytest.approx([0.9])
    assert found_in(maps, most=3).scores.tolist() == pytest.approx([0.9, 0.5])
    assert found_in(maps, most=10**6).scores.tolist() == pytest.approx([0.9, 0.5])  # more than there are cells


# -- groups of classes ------------------------------------------------------------------------------------------------

GROUPS = [["buoy"], ["ship"]]  # not in the order of the task


def grouped_head(**settings) -> CenterHead:
    return CenterHead(GRID, TWO, 8, 8, groups=GROUPS, **settings)


def test_every_class_has_the_branch_of_its_group():
    """A branch that sees nothing else changes the maps of its classes alone, wherever the task has them."""
    torch.manual_seed(0)
    head, x = grouped_head().eval(), torch.randn(1, 8, *GRID.shape)
    before = head(x)
    assert before.heat_logits.shape == (1, 2, *GRID.shape) and before.box.shape == (1, 24, *GRID.shape)
    torch.nn.init.constant_(head.heat[0][-1].bias, 3.0)  # of buoys, label 1
    torch.nn.init.constant_(head.box[0][-1].bias, 3.0)
    after = head(x)
    assert torch.equal(after.heat_logits[:, 0], before.heat_logits[:, 0])
    assert not torch.equal(after.heat_logits[:, 1], before.heat_logits[:, 1])
    cell, label = torch.tensor([[70, 70]]), torch.tensor([[0, 1]])
    assert torch.equal(after.at(cell, label)[0][0, 0], before.at(cell, label)[0][0, 0])
    assert not torch.equal(after.at(cell, label)[0][0, 1], before.at(cell, label)[0][0, 1])


def test_two_groups_have_a_box_each_in_one_cell():
    """With one branch the larger of the two boxes would be that of both classes."""
    boxes = Boxes3D([[0.1, 0.1, 0], [0.3, 0.3, 1]], [[9, 3, 3], [1, 1, 2]], [0.3, 0.5], [[1, 0], [0, 0]], [0, 1])
    target = encode([boxes], GRID, TWO, groups=[[1], [0]])
    heat, none = (target.heat * 0.98 + 0.01).logit(), torch.zeros(1, 0, *GRID.shape)
    maps = CenterMaps(heat, target.box, none, torch.tensor([1, 0]))
    (found,) = grouped_head(score_threshold=0.9).decode(maps)
    order = np.argsort(found.boxes.label)
    np.testing.assert_allclose(found.boxes.size[order], boxes.size, rtol=1e-5)
    np.testing.assert_allclose(found.boxes.center[order], boxes.center, atol=1e-5)


@pytest.mark.parametrize("groups", [[["ship"]], [["ship", "buoy"], ["ship"]]])
def test_classes_are_in_one_group_each(groups):
    with pytest.raises(PerceptionError, match=r"head\.groups: each of ship, buoy in one group was expected"):
        CenterHead(GRID, TWO, 8, 8, groups=groups)


def test_labels_beyond_the_task_are_named_whatever_the_group():
    box = Boxes3D([[0, 0, 0]], [[4, 2, 1.5]], [0], [[0, 0]], [2])
    with pytest.raises(PerceptionError, match="labels below 2"):
        encode([box], GRID, TWO, groups=[[0], [1]])
