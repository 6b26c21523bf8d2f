"""The metric on arrays: settings and values of the devkit on adversarial boxes, and values derived by hand.

Coordinates that are meant to tie are multiples of a quarter of a metre, whose distances any processor computes alike.
"""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.eval.metric import (
    AP_WEIGHT,
    ERRORS,
    MIN_PRECISION,
    MIN_RECALL,
    THRESHOLDS_M,
    MetricBoxes,
    Metrics,
    Racks,
    counted,
    found,
    score,
)
from perception.task import ATTRIBUTES, CLASSES, NUSCENES, ObjectClass, Task

CAR, BICYCLE, CONE, BARRIER = (CLASSES.index(name) for name in ("car", "bicycle", "traffic_cone", "barrier"))
EVERY_CLASS = range(len(CLASSES))
UNROTATED, ROTATED = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]  # quaternions without a rounded number
NO_RACKS = Racks(np.zeros(9, np.int64), np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 4)))


def make_boxes(xy, sample=0, label=CAR, score=0.5, yaw=0.0, velocity=(0.0, 0.0), attribute=0, size=(4.0, 2.0, 1.5)):
    """Boxes at [N, 2]; every other value is that of all of them, or one for each."""
    xy = np.asarray(xy, dtype=float).reshape(-1, 2)
    n = len(xy)
    return MetricBoxes(
        sample=np.broadcast_to(np.asarray(sample, np.int64), n),
        center=np.column_stack([xy, np.zeros(n)]),
        size=np.broadcast_to(np.asarray(size, float), (n, 3)),
        yaw=np.broadcast_to(np.asarray(yaw, float), n),
        velocity=np.broadcast_to(np.asarray(velocity, float), (n, 2)),
        label=np.broadcast_to(np.asarray(label, np.int64), n),
        attribute=np.broadcast_to(np.asarray(attribute, np.int64), n),
        score=np.broadcast_to(np.asarray(score, float), n),
    )


def random_boxes(rng, n: int, samples: int, labels=EVERY_CLASS, spread_m: float = 10.0) -> MetricBoxes:
    """As the devkit may be given them: velocities unknown, attributes missing, classes of every kind."""
    velocity = rng.normal(0, 3, (n, 2))
    velocity[rng.random(n) < 0.2] = np.nan
    return MetricBoxes(
        sample=rng.integers(0, samples, n),
        center=rng.uniform(-spread_m, spread_m, (n, 3)),
        size=rng.uniform(0.5, 5, (n, 3)),
        yaw=rng.uniform(-np.pi, np.pi, n),
        velocity=velocity,
        label=rng.choice(labels, n),
        attribute=rng.integers(-1, len(ATTRIBUTES), n),
        score=rng.random(n),
    )


def eval_boxes(boxes: MetricBoxes, samples: int):
    """As the devkit holds them, sample by sample."""
    from nuscenes.eval.common.data_classes import EvalBoxes
    from nuscenes.eval.detection.data_classes import DetectionBox

    loaded = EvalBoxes()
    for s in range(samples):
        own = [
            DetectionBox(
                sample_token=str(s),
                translation=tuple(boxes.center[i]),
                size=tuple(boxes.size[i, [1, 0, 2]]),
                rotation=(np.cos(boxes.yaw[i] / 2), 0.0, 0.0, np.sin(boxes.yaw[i] / 2)),
                velocity=tuple(boxes.velocity[i]),
                detection_name=CLASSES[boxes.label[i]],
                detection_score=float(boxes.score[i]),
                attribute_name=ATTRIBUTES[boxes.attribute[i]] if boxes.attribute[i] >= 0 else "",
            )
            for i in np.flatnonzero(boxes.sample == s)
        ]
        loaded.add_boxes(str(s), own)
    return loaded


def devkit_settings():
    return pytest.importorskip("nuscenes.eval.common.config").config_factory("detection_cvpr_2019")


def devkit_metrics(truth: MetricBoxes, predictions: MetricBoxes, samples: int):
    """What the devkit's own ``evaluate`` says of boxes that are filtered already."""
    config = devkit_settings()
    from nuscenes.eval.detection.evaluate import DetectionEval

    evaluation = DetectionEval.__new__(DetectionEval)  # its constructor reads files
    evaluation.cfg, evaluation.verbose = config, False
    evaluation.gt_boxes, evaluation.pred_boxes = eval_boxes(truth, samples), eval_boxes(predictions, samples)
    return evaluation.evaluate()[0]


def assert_parity(truth: MetricBoxes, predictions: MetricBoxes, samples: int) -> Metrics:
    predictions = predictions[np.argsort(predictions.sample, kind="stable")]  # the order in which the devkit joins them
    ours, theirs = score(truth, predictions), devkit_metrics(truth, predictions, samples)
    names = ("trans_err", "scale_err", "orient_err", "vel_err", "attr_err")
    ap = [[theirs.get_label_ap(label, threshold) for threshold in THRESHOLDS_M] for label in CLASSES]
    errors = [[theirs.get_label_tp(label, name) for name in names] for label in CLASSES]
    assert np.array_equal(ours.ap, ap)
    np.testing.assert_allclose(ours.errors, errors, rtol=0, atol=1e-9)  # NaN where the devkit has it
    assert ours.mean_ap == theirs.mean_ap
    assert ours.nds == pytest.approx(theirs.nd_score, abs=1e-9)
    assert ours.mean_errors == pytest.approx([theirs.tp_errors[name] for name in names], abs=1e-9)
    return ours


def test_the_settings_are_those_of_the_benchmark():
    config = devkit_settings()
    from perception.eval.submission import MAX_BOXES

    assert list(config.class_range) == list(CLASSES)
    assert config.class_range == dict(zip(CLASSES, NUSCENES.column("range_m").tolist()))
    assert tuple(config.dist_ths) == THRESHOLDS_M
    assert NUSCENES.column("match_radius_m").tolist() == [config.dist_th_tp] * len(CLASSES)
    assert (config.min_recall, config.min_precision) == (MIN_RECALL, MIN_PRECISION)
    assert (config.mean_ap_weight, config.max_boxes_per_sample) == (AP_WEIGHT, MAX_BOXES)
    assert config.dist_fcn == "center_distance"


@pytest.mark.parametrize("seed", range(6))
def test_parity_on_random_boxes(seed):
    """Several thousand candidates around a few hundred true boxes, in one sample, some, or many."""
    rng = np.random.default_rng(seed)
    samples = (1, 3, 20)[seed % 3]
    truth = random_boxes(rng, 200, samples)
    near = truth[rng.integers(0, len(truth), 600)]
    moved = {"center": near.center + rng.normal(0, 1.5, (600, 3)), "yaw": near.yaw + rng.normal(0, 1, 600)}
    predictions = MetricBoxes.joined(
        [dataclasses.replace(near, score=rng.random(600), **moved), random_boxes(rng, 200, samples)]
    )
    assert 0.02 < assert_parity(truth, predictions, samples).mean_ap < 0.9


lattice = st.integers(-8, 8).map(lambda n: n / 4)  # distances of 0.5, 1, 2 and 4 m are hit exactly


@st.composite
def lattice_boxes(draw, samples: int, most: int) -> MetricBoxes:
    """Boxes that are equally near, exactly at a threshold, equally scored, of few classes, with unknown velocities."""
    n = draw(st.integers(0, most))
    numbers = lambda values: np.array(draw(st.lists(values, min_size=n, max_size=n)))  # noqa: E731
    unknown = numbers(st.booleans()).astype(bool)
    return make_boxes(
        np.column_stack([numbers(lattice), numbers(lattice)]) if n else np.zeros((0, 2)),
        sample=numbers(st.integers(0, samples - 1)).astype(np.int64),
        label=numbers(st.sampled_from([CAR, BICYCLE, CONE, BARRIER])).astype(np.int64),
        score=numbers(st.sampled_from([0.0, 0.25, 0.5, 1.0])).astype(float),
        yaw=numbers(st.sampled_from([0.0, 1.0, np.pi / 2, np.pi, -np.pi])).astype(float),
        velocity=np.where(unknown, np.nan, numbers(lattice).astype(float))[:, None] * [1.0, 0.5],
        attribute=numbers(st.integers(-1, 2)).astype(np.int64),
        size=(1.0 + numbers(st.integers(0, 3)).astype(float))[:, None] * [4.0, 2.0, 1.5],
    )


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_parity_where_everything_ties(data):
    samples = data.draw(st.integers(1, 3))
    assert_parity(data.draw(lattice_boxes(samples, 12)), data.draw(lattice_boxes(samples, 24)), samples)


@pytest.mark.parametrize("unknown", ["truth", "predicted", "some", "first"])
def test_parity_with_unknown_velocities(unknown):
    """Errors that are NaN are left out; where all are, the error is 1; before the first that is known, it is 0."""
    xy = np.arange(20)[:, None] * [5.0, 0.0]
    truth = make_boxes(xy, velocity=np.ones((20, 2)))
    predictions = make_boxes(xy, score=np.linspace(1, 0.1, 20), velocity=np.zeros((20, 2)))
    mask = {"some": np.arange(20) % 3 == 0, "first": np.arange(20) < 15}.get(unknown, np.ones(20, bool))
    boxes = truth if unknown == "truth" else predictions
    boxes.velocity.setflags(write=True)
    boxes.velocity[mask] = np.nan
    ave = assert_parity(truth, predictions, 1).errors[CAR, ERRORS.index("AVE")]
    assert ave == pytest.approx(1.0) if unknown in ("truth", "predicted") else 0 < ave <= np.sqrt(2) + 1e-9


@pytest.mark.parametrize(("true", "predicted"), [(0, 0), (0, 5), (5, 0)])
def test_parity_of_nothing(true, predicted):
    rng = np.random.default_rng(0)
    metrics = assert_parity(random_boxes(rng, true, 2), random_boxes(rng, predicted, 2), 2)
    assert metrics.mean_ap == metrics.nds == 0.0 and (metrics.mean_errors == 1.0).all()


def test_parity_of_classes_apart():
    """Truth and predictions share the place, but only half of the classes."""
    rng = np.random.default_rng(1)
    truth = random_boxes(rng, 100, 2, labels=range(6), spread_m=4)
    assert_parity(truth, random_boxes(rng, 300, 2, labels=range(4, 10), spread_m=4), 2)


def test_of_equal_scores_the_later_box_comes_first():
    """One is right, one 20 m off; whichever is later is looked at first."""
    truth, pair = make_boxes([[0, 0]]), make_boxes([[0, 0], [20, 0]])
    right_first, wrong_first = assert_parity(truth, pair[::-1], 1), assert_parity(truth, pair, 1)
    # Precision: 1 up to the last recall, where the devkit reads it after both, or rising from 0 to 1/2.
    recall = np.linspace(0.11, 1, 90)
    assert right_first.ap[CAR] == pytest.approx((89 * 0.9 + 0.4) / 90 / 0.9)
    assert wrong_first.ap[CAR] == pytest.approx((recall / 2 - 0.1).clip(0).mean() / 0.9)


def test_of_boxes_equally_near_the_first_is_taken():
    truth, middle = make_boxes([[-1, 0], [1, 0]]), make_boxes([[0, 0]])
    assert found(truth, middle).tolist() == [True, False]
    assert found(truth[::-1], middle).tolist() == [True, False]
    assert_parity(dataclasses.replace(truth, attribute=np.array([0, 1])), middle, 1)


def test_a_match_is_nearer_than_the_threshold():
    xy = np.arange(4)[:, None] * [30.0, 0.0]
    shifts = np.array([0.5, 1.0, 2.0, 4.0])
    predictions = make_boxes(xy + shifts[:, None] * [0.0, 1.0], score=[0.9, 0.8, 0.7, 0.6])
    assert found(make_boxes(xy), predictions).tolist() == [True, True, False, False]
    assert_parity(make_boxes(xy), predictions, 1)


def test_what_a_better_box_has_taken_is_not_there_for_the_next():
    """The second prediction is left with a box 3 m away, which is too far at 2 m and a match at 4 m."""
    truth, predictions = make_boxes([[0, 0], [3, 0]]), make_boxes([[0.25, 0], [0, 0]], score=[0.9, 0.8])
    assert found(truth, predictions).tolist() == [True, False]
    ap = assert_parity(truth, predictions, 1).ap[CAR]
    assert ap[3] == pytest.approx(1.0) and (ap[:3] < 0.6).all()


def test_a_barrier_has_no_front():
    boxes = [make_boxes([[0, 0]], label=label, yaw=yaw) for yaw in (0.0, np.pi) for label in (CAR, BARRIER)]
    errors = assert_parity(MetricBoxes.joined(boxes[:2]), MetricBoxes.joined(boxes[2:]), 1).errors
    aoe = errors[:, ERRORS.index("AOE")]
    assert aoe[CAR] == pytest.approx(np.pi) and aoe[BARRIER] == pytest.approx(0.0) and np.isnan(aoe[CONE])


def test_samples_are_apart():
    """The same place in another sample is no match, in whatever order the samples' boxes come."""
    truth = make_boxes([[0, 0], [9, 0]], sample=[0, 2])
    assert not found(truth, make_boxes([[0, 0], [9, 0]], sample=[2, 0])).any()
    assert found(truth, make_boxes([[9, 0], [0, 0]], sample=[2, 0])).all()


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_order_of_boxes_does_not_matter_unless_they_tie(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    truth, predictions = random_boxes(rng, 30, 3, spread_m=5), random_boxes(rng, 60, 3, spread_m=5)
    mixed = score(truth[rng.permutation(30)], predictions[rng.permutation(60)])
    plain = score(truth, predictions)
    assert np.array_equal(mixed.ap, plain.ap) and np.allclose(mixed.errors, plain.errors, atol=1e-12, equal_nan=True)


def devkit_counts(boxes: MetricBoxes, ego: np.ndarray, racks: list[dict]) -> list[bool]:
    """Which boxes the devkit's own filter keeps, with tables of one sample for it to look into."""
    loaders = pytest.importorskip("nuscenes.eval.common.loaders")
    tables = {
        "sample": {"0": {"data": {"LIDAR_TOP": "0"}, "anns": list(range(len(racks)))}},
        "sample_data": {"0": {"ego_pose_token": "0"}},
        "ego_pose": {"0": {"translation": ego.tolist()}},
        "sample_annotation": dict(enumerate(racks)),
    }
    devkit = SimpleNamespace(get=lambda table, token: tables[table][token])
    loaded = eval_boxes(boxes, 1)
    every = list(loaded["0"])
    kept = loaders.filter_eval_boxes(devkit, loaders.add_center_dist(devkit, loaded), devkit_settings().class_range)[
        "0"
    ]
    return [any(box is other for other in kept) for box in every]


def rack_records(center, size, rotation) -> list[dict]:
    return [
        {"translation": c, "size": [s[1], s[0], s[2]], "rotation": r, "category_name": "static_object.bicycle_rack"}
        for c, s, r in zip(np.asarray(center).tolist(), np.asarray(size).tolist(), np.asarray(rotation).tolist())
    ]


def assert_same_count(boxes: MetricBoxes, ego, center, size, rotation) -> np.ndarray:
    shapes = (center, (-1, 3)), (size, (-1, 3)), (rotation, (-1, 4))
    center, size, rotation = (np.asarray(a, float).reshape(shape) for a, shape in shapes)
    ours = counted(boxes, np.array([ego]), Racks(np.array([0, len(center)]), center, size, rotation))
    assert ours.tolist() == devkit_counts(boxes, np.array(ego), rack_records(center, size, rotation))
    return ours


@pytest.mark.parametrize("rotation", [UNROTATED, ROTATED])
def test_a_rack_holds_bicycles_up_to_its_border(rotation):
    """A rack of 4 x 2 m: at its corner is inside, a quarter of a metre further is not; a car is never in one."""
    xy = np.array([[12, 20], [12, 21], [12.25, 21], [12, 21.25], [10, 20], [10, 20]])
    boxes = make_boxes(xy, label=[BICYCLE] * 5 + [CAR])
    counts = assert_same_count(boxes, [0.0, 0.0, 0.0], [[10, 20, 0]], [[4, 2, 2]], [rotation])
    assert counts.tolist() == [False, False, True, True, False, True]


def test_a_rack_has_a_height():
    boxes = make_boxes([[10, 20]] * 3, label=BICYCLE)
    boxes.center[:, 2] = [1.0, 1.25, -1.0]
    counts = assert_same_count(boxes, [0.0, 0.0, 0.0], [[10, 20, 0]], [[4, 2, 2]], [UNROTATED])
    assert counts.tolist() == [False, True, False]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_the_devkit_counts_the_same(seed, racks):
    """Range is measured from the vehicle on the ground; racks lie and lean anyhow."""
    rng = np.random.default_rng(seed)
    boxes = random_boxes(rng, 60, 1, labels=[CAR, BICYCLE, 6, CONE], spread_m=45)
    ego = np.array([600.0, 1600.0, 0.0])
    boxes = dataclasses.replace(boxes, center=boxes.center * [1, 1, 0.02] + ego + rng.normal(0, 10, 3))
    rotation = rng.normal(size=(racks, 4))
    rotation /= np.linalg.norm(rotation, axis=1, keepdims=True)
    center = ego + rng.uniform(-20, 20, (racks, 3)) * [1, 1, 0.02]
    assert_same_count(boxes, ego, center, rng.uniform(5, 30, (racks, 3)), rotation)


def test_what_is_exactly_at_its_range_does_not_count():
    boxes = make_boxes([[50, 0], [49.75, 0], [30, 40], [18, 24], [0, 39.75], [0, 40]], label=[0, 0, 0, CONE, 7, 7])
    assert counted(boxes, np.zeros((1, 3)), NO_RACKS).tolist() == [False, True, False, False, True, False]


def test_no_racks_and_no_boxes():
    assert counted(make_boxes(np.zeros((0, 2))), np.zeros((1, 3)), NO_RACKS).tolist() == []
    assert counted(make_boxes([[1, 1]], label=BICYCLE), np.zeros((1, 3)), NO_RACKS).tolist() == [True]


def test_racks_are_those_of_the_own_sample():
    """Samples 0 and 2 have a rack at (10, 20), sample 1 one at (30, 20); cycles come in no order, a car between."""
    center = np.array([[10.0, 20, 0], [30, 20, 0], [10, 20, 0]])
    racks = Racks(np.array([0, 1, 2, 3]), center, np.full((3, 3), 4.0), np.array([UNROTATED] * 3))
    places = {"near": [10, 20], "far": [30, 20], "between": [20, 20]}
    where = ["near", "far", "near", "far", "between", "near", "near", "far", "near"]
    sample, label = [2, 2, 1, 1, 0, 0, 0, 0, 2], [BICYCLE] * 6 + [CAR] + [BICYCLE] * 2
    boxes = make_boxes([places[place] for place in where], sample=sample, label=label)
    counts = counted(boxes, np.zeros((3, 3)), racks)
    assert counts.tolist() == [False, True, True, False, True, False, True, True, False]
    several = Racks(np.array([0, 0, 2, 3]), center, np.full((3, 3), 4.0), np.array([UNROTATED] * 3))
    assert counted(boxes, np.zeros((3, 3)), several).tolist() == [False, True, False, False] + [True] * 4 + [False]


@pytest.mark.parametrize(("true", "error"), [(9, 0.25), (10, 1.0)])
def test_errors_count_from_the_first_recall_above_a_tenth(true, error):
    """One match of nine is a recall of 11.1 %, of which 11 % is reached; of ten it is 10 %, and the error is 1."""
    truth = make_boxes(np.arange(true)[:, None] * [20.0, 0.0])
    metrics = assert_parity(truth, make_boxes([[0.25, 0.0]]), 1)
    assert metrics.errors[CAR, ERRORS.index("ATE")] == pytest.approx(error)


def test_boxes_joined_are_one_behind_the_other():
    rng = np.random.default_rng(0)
    parts = [random_boxes(rng, n, 2) for n in (3, 0, 2)]
    joined = MetricBoxes.joined(parts)
    for name, values in vars(joined).items():
        assert np.array_equal(
            values, np.concatenate([vars(part)[name] for part in parts]), equal_nan=name == "velocity"
        )
        nothing = vars(MetricBoxes.joined([]))[name]
        assert nothing.shape == (0, *values.shape[1:]) and nothing.dtype == values.dtype


def test_a_single_cycle_in_a_rack():
    racks = Racks(np.array([0, 1]), np.array([[10.0, 20, 0]]), np.full((1, 3), 4.0), np.array([UNROTATED]))
    for x, counts in ((10, False), (20, True)):
        assert counted(make_boxes([[x, 20]], label=BICYCLE), np.zeros((1, 3)), racks).tolist() == [counts]


def test_an_error_that_no_class_has_does_not_count():
    """NDS of mAP 1/2 and the errors 1/4 and 3/4 (of ATE a mean of 1/2 and 0): (5 / 2 + 3/4 + 1/4) / (5 + 2)."""
    errors = np.full((3, 5), np.nan)
    errors[0, 0], errors[2, 0], errors[1, 3] = 0.5, 0.0, 0.75
    metrics = Metrics(np.full((3, 4), 0.5), errors)
    assert np.array_equal(metrics.mean_errors, [0.25, np.nan, np.nan, 0.75, np.nan], equal_nan=True)
    assert metrics.nds == pytest.approx((2.5 + 0.75 + 0.25) / 7)


def test_of_ground_truth_at_one_distance_the_first_is_found():
    """Thirty predictions between two boxes each, of which only the first has their yaw; samples take turns."""
    places = np.repeat(np.arange(30), 2)
    truth = make_boxes(
        np.column_stack([20.0 * places, np.tile([1.0, -1.0], 30)]), sample=places % 2, yaw=np.tile([0.0, 1.0], 30)
    )
    middle = np.column_stack([20.0 * np.arange(30), np.zeros(30)])
    predictions = make_boxes(middle, sample=np.arange(30) % 2, score=np.linspace(0.9, 0.1, 30))
    assert score(truth, predictions).errors[CAR, ERRORS.index("AOE")] == 0


def test_facts_of_a_class_decide_what_matches_and_which_errors_it_has():
    """A detection 3 m off is within 4 m; of a ship, which is found within 3.5 m, that is the error of its position."""
    facts = {"match_radius_m": 3.5, "attributes": ["a"]}
    task = Task([ObjectClass("ship", **facts), ObjectClass("buoy", heading="none", moves=False)], ["a"])
    truth = make_boxes([[0, 0], [0, 0]], label=[0, 1], attribute=[0, -1], velocity=[[1, 0], [0, 0]])
    predictions = make_boxes([[3, 0], [3, 0]], label=[0, 1], attribute=[-1, 0], yaw=0.5)
    metrics = score(truth, predictions, task)
    assert metrics.ap.tolist() == [pytest.approx([0, 0, 0, 1])] * 2
    assert metrics.errors[0].tolist() == pytest.approx([3, 0, 0.5, 1, 1])
    assert np.array_equal(metrics.errors[1], [1, 1, np.nan, np.nan, np.nan], equal_nan=True)
    assert found(truth, predictions, task).tolist() == [True, False]
