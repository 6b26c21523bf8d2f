"""Tracks: drives worked out by hand, a textbook Kalman filter, recorded traffic, and properties of any input."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perception.data.nuscenes import NuScenes
from perception.eval.submission import to_world
from perception.eval.tracks import to_tracking_submission
from perception.geometry import SE3, wrap_angle
from perception.sample import Boxes3D, Detections, Frame
from perception.task import CLASSES, NUSCENES
from perception.tracking import _GATE, Noise, Tracker, _born, _measured, associate, predict, update

CAR, TRUCK, PEDESTRIAN, CONE = (CLASSES.index(name) for name in ("car", "truck", "pedestrian", "traffic_cone"))
UNKNOWN = (np.nan, np.nan)
NOISE = Noise(NUSCENES)


def frame_at(seconds: float, scene: str = "a", pose: SE3 | None = None) -> Frame:
    return Frame(f"{scene}{seconds}", round(seconds * 1e9), pose or SE3(), scene=scene)


def boxes_of(position, velocity=UNKNOWN, label=CAR, yaw=0.0, size=(4.0, 2.0, 1.5)) -> Boxes3D:
    position = np.asarray(position, float).reshape(-1, 2)
    n = len(position)
    return Boxes3D(
        center=np.column_stack([position, np.full(n, 0.75)]),
        size=np.broadcast_to(size, (n, 3)),
        yaw=np.broadcast_to(yaw, n),
        velocity=np.broadcast_to(velocity, (n, 2)),
        label=np.broadcast_to(label, n),
    )


def seen(*arguments, score=0.9, **named) -> Detections:
    boxes = boxes_of(*arguments, **named)
    return Detections.sorted(boxes, np.broadcast_to(score, len(boxes)))


NOTHING = Detections(Boxes3D.empty(), np.zeros(0))


@pytest.mark.parametrize("velocities", [True, False])
def test_crossing_objects_keep_their_ids(velocities):
    """Two cars cross at right angles, 10 m/s, and are in the same place for a moment."""
    tracker, found = Tracker(), []
    for i in range(-8, 9):
        t = 0.25 * i
        velocity = [(10, 0), (0, 10)] if velocities else UNKNOWN
        found.append(tracker.step(frame_at(5 + t), seen([(10 * t, 0.5), (0, 10 * t)], velocity)).tolist())
    assert found == [[0, 1]] * 17


def test_an_object_that_was_hidden_comes_back_as_itself():
    tracker = Tracker(max_age_s=2.0)
    for i in range(4):
        assert tracker.step(frame_at(0.5 * i), seen([(5 * i, 0)], (10, 0))).tolist() == [0]
    for i in range(4, 7):
        assert tracker.step(frame_at(0.5 * i), NOTHING).tolist() == []
        tracks = tracker.tracks(frame_at(0.5 * i))
        assert tracks.ids.tolist() == [0] and tracks.unseen_s == pytest.approx([0.5 * (i - 3)])
        assert tracks.boxes.center == pytest.approx(np.array([[5.0 * i, 0, 0.75]]), abs=0.1)
    assert tracker.step(frame_at(3.5), seen([(35, 0)], (10, 0))).tolist() == [0]  # unseen for 2 s
    assert tracker.step(frame_at(5.75), seen([(57.5, 0)], (10, 0))).tolist() == [1]  # for 2.25 s
    assert len(tracker.tracks(frame_at(5.75)).ids) == 1


def test_what_stands_keeps_still_while_the_vehicle_turns():
    things = np.array([(10.0, 0.0), (0.0, 12.0), (-15.0, 3.0)])
    tracker = Tracker()
    for i in range(20):
        pose = SE3.from_yaw(0.3 * i, (4.0 * i, -i, 0.2))
        position = pose.inverse().transform(np.column_stack([things + (30, -10), np.zeros(3)]))[:, :2]
        frame = frame_at(0.5 * i, pose=pose)
        assert tracker.step(frame, seen(position, (0, 0), yaw=-0.3 * i)).tolist() == [0, 1, 2]
        boxes = tracker.tracks(frame).boxes
        assert boxes.center[:, :2] == pytest.approx(position, abs=1e-9)
        assert boxes.velocity == pytest.approx(np.zeros((3, 2)), abs=1e-9)
        assert wrap_angle(boxes.yaw + 0.3 * i) == pytest.approx(np.zeros(3), abs=1e-9)


def test_velocity_is_over_ground_in_ego_axes():
    """A car that keeps 20 m ahead of a vehicle that drives at 10 m/s along the world's +y."""
    tracker = Tracker()
    for i in range(30):
        frame = frame_at(0.1 * i, pose=SE3.from_yaw(np.pi / 2, (0, i, 0)))
        assert tracker.step(frame, seen([(20, 0)])).tolist() == [0]
    assert tracker.tracks(frame).boxes.velocity == pytest.approx(np.array([[10.0, 0.0]]), abs=0.05)


def test_a_detection_of_low_score_is_confirmed_by_the_next_frame():
    tracker = Tracker(min_score=0.1, birth_score=0.3)
    for t, score, ids in ((0, 0.2, -1), (0.5, 0.2, 0), (1, 0.09, -1), (1.5, 0.1, 0)):
        assert tracker.step(frame_at(t), seen([(0, 0)], score=score)).tolist() == [ids]
    far = seen([(50, 0)], score=0.2)
    assert [tracker.step(frame_at(t), x).tolist() for t, x in ((2, far), (2.5, NOTHING), (3, far))] == [[-1], [], [-1]]
    assert tracker.step(frame_at(3.5), seen([(50, 0)], score=0.3)).tolist() == [1]
    assert tracker.step(frame_at(3.5 + 1e-3), seen([(-50, 0)], score=0.3)).tolist() == [2]


def test_classes_are_kept_apart():
    tracker = Tracker()
    assert tracker.step(frame_at(0), seen([(0, 0), (0, 0)], (0, 0), [CAR, TRUCK])).tolist() == [0, 1]
    assert tracker.step(frame_at(1), seen([(0, 0), (0, 0)], (0, 0), [TRUCK, CAR])).tolist() == [1, 0]
    assert tracker.tracks(frame_at(1)).boxes.label.tolist() == [CAR, TRUCK]


@pytest.mark.parametrize("then", [frame_at(10.5, "b"), frame_at(9.5)])
def test_another_scene_or_an_earlier_time_starts_anew(then):
    tracker = Tracker()
    assert tracker.step(frame_at(10), seen([(0, 0)])).tolist() == [0]
    assert tracker.step(then, seen([(0, 0)])).tolist() == [1]
    assert tracker.tracks(then).ids.tolist() == [1]


def test_a_copied_frame_changes_nothing():
    tracker, detections = Tracker(), seen([(0, 0), (9, 9)], (1, 0), score=[0.9, 0.2])
    assert tracker.step(frame_at(1), detections).tolist() == [0, -1]
    before = tracker.tracks(frame_at(1))
    for _ in range(3):
        assert tracker.step(frame_at(1), detections).tolist() == [0, -1]
    after = tracker.tracks(frame_at(1))
    assert after.boxes.center.tolist() == before.boxes.center.tolist()
    assert tracker.step(frame_at(1.5), detections).tolist() == [0, 1]


def test_nothing_at_all():
    tracker = Tracker()
    for t in (0, 0.5, 0.5, 7):
        assert tracker.step(frame_at(t), NOTHING).dtype == np.int64
        assert len(tracker.tracks(frame_at(t)).boxes) == 0


def test_five_hundred_boxes():
    grid = np.stack(np.meshgrid(np.arange(25), np.arange(20)), axis=-1).reshape(-1, 2) * 4.0
    tracker, random = Tracker(), np.random.default_rng(0)
    for i in range(5):
        order = random.permutation(500) if i else np.arange(500)
        position = (grid + random.normal(0, 0.2, grid.shape) + (5 * i, 0))[order]
        assert (tracker.step(frame_at(0.5 * i), seen(position, (10, 0))) == order).all()


def test_a_box_that_is_turned_round_turns_no_track():
    tracker, turned = Tracker(), (3, 7, 8)
    for i in range(12):
        detections = seen([(0, 0)], (0, 0), yaw=0.4 + np.pi * (i in turned))
        tracker.step(frame_at(0.5 * i), detections)
        assert tracker.tracks(frame_at(0.5 * i)).boxes.yaw == pytest.approx([0.4], abs=1e-9)
    for i in range(12, 24):  # until most of what it saw lately says so
        tracker.step(frame_at(0.5 * i), seen([(0, 0)], (0, 0), yaw=0.4 + np.pi))
    assert wrap_angle(tracker.tracks(frame_at(11.5)).boxes.yaw) == pytest.approx([0.4 - np.pi], abs=1e-9)


def test_size_is_averaged():
    tracker = Tracker()
    for t, length in ((0, 4.0), (1, 5.0), (2, 4.5)):
        tracker.step(frame_at(t), seen([(0, 0)], (0, 0), size=(length, 2, 1.5)))
    assert tracker.tracks(frame_at(2)).boxes.size == pytest.approx(np.array([[4.5, 2, 1.5]]))


def textbook(noise, measurements):
    """x = (x, y, vx, vy) and its full covariance after measurements (seconds since the last, z [4] with NaN)."""
    position_m, velocity_mps, speed_mps, q = noise
    unit = np.eye(2)
    x, p = None, None
    for seconds, z in measurements:
        z = np.array(z, float)
        known = np.isfinite(z)
        r = np.kron(np.diag([position_m**2, velocity_mps**2]), unit)
        if x is None:  # the place of the first detection, and a velocity that is measured below
            x, p = np.r_[z[:2], 0, 0], np.kron(np.diag([position_m**2, speed_mps**2]), unit)
            known[:2] = False
        f = np.kron([[1, seconds], [0, 1]], unit)
        noise_matrix = np.kron([[seconds**3 / 3, seconds**2 / 2], [seconds**2 / 2, seconds]], unit)
        x, p = f @ x, f @ p @ f.T + q * noise_matrix
        h = np.eye(4)[known]
        gain = p @ h.T @ np.linalg.inv(h @ p @ h.T + r[known][:, known])
        x, p = x + gain @ (z[known] - h @ x), (np.eye(4) - gain @ h) @ p
    return x, p


@pytest.mark.parametrize("first", [UNKNOWN, (1.5, -0.5)])
@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_the_filter_is_the_textbook_one(label, first):
    measurements = [
        (0, (1, 2, *first)),
        (0.5, (2.1, 1.8, 2.2, -0.3)),
        (0.1, (2.2, 1.9, np.nan, np.nan)),
        (1.3, (4.4, 1.5, 1.7, 0.1)),
        (0.05, (4.7, 1.4, 1.9, -0.2)),
    ]
    state = None
    for seconds, z in measurements:
        measured = _measured(frame_at(1), boxes_of([z[:2]], z[2:], label), np.ones(1), NOISE)
        state = _born(measured, NOISE) if state is None else update(predict(state, seconds, NOISE), measured)
    x, p = textbook([column[label] for column in vars(NOISE).values()], measurements)
    np.testing.assert_allclose(np.r_[state["position"][0], state["velocity"][0]], x, rtol=1e-12, atol=1e-12)
    ours = np.array([[state["pp"][0], state["pv"][0]], [state["pv"][0], state["vv"][0]]])
    np.testing.assert_allclose(np.kron(ours, np.eye(2)), p, rtol=1e-10, atol=1e-12)


def test_two_predictions_are_one():
    born = _born(_measured(frame_at(0), boxes_of([(1, 2)], (3, -1)), np.ones(1), NOISE), NOISE)
    twice, once = predict(predict(born, 0.3, NOISE), 0.9, NOISE), predict(born, 1.2, NOISE)
    for name in ("position", "velocity", "pp", "pv", "vv"):
        np.testing.assert_allclose(twice[name], once[name], rtol=1e-12)


def test_the_best_pairs_together_and_not_one_by_one():
    """The first track is nearer to the second detection, which is all that the second track has."""
    states = _born(_measured(frame_at(0), boxes_of([(0, 0), (1.5, 0)], (0, 0)), np.ones(2), NOISE), NOISE)
    measured = _measured(frame_at(0), boxes_of([(-0.8, 0), (0.7, 0)], (0, 0)), np.ones(2), NOISE)
    assert [pair.tolist() for pair in associate(states, measured, NOISE)] == [[0, 1], [0, 1]]


def test_the_gate():
    """A new car, sure to 0.4 m and measured to 0.4 m: d^2 / 0.32 + 2 ln 2 below the gate."""
    states = _born(_measured(frame_at(0), boxes_of([(0, 0)], (0, 0)), np.ones(1), NOISE), NOISE)
    edge = np.sqrt((_GATE - 2 * np.log(2)) * 0.32)
    for distance, pairs in ((edge - 1e-6, 1), (edge + 1e-6, 0)):
        measured = _measured(frame_at(0), boxes_of([(distance, 0)], (0, 0)), np.ones(1), NOISE)
        assert len(associate(states, measured, NOISE)[0]) == pairs


@st.composite
def drives(draw):
    """A few frames of any boxes, at any times."""
    coordinate = st.floats(-60, 60)
    velocity = st.tuples(*[st.one_of(st.just(np.nan), st.floats(-30, 30))] * 2)
    steps = []
    for time_s, scene in draw(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("aab")), max_size=8)):
        rows = draw(
            st.lists(st.tuples(coordinate, coordinate, velocity, st.integers(0, 9), st.floats(0, 1)), max_size=6)
        )
        detections = NOTHING
        if rows:
            x, y, v, label, score = zip(*rows)
            detections = seen(np.column_stack([x, y]), np.array(v), label, score=score)
        pose = SE3.from_yaw(draw(st.floats(-3, 3)), (draw(coordinate), draw(coordinate), 0))
        steps.append((frame_at(time_s, scene, pose), detections))
    return steps


@settings(max_examples=60, deadline=None)
@given(drives())
def test_whatever_comes(steps):
    first, second, used = Tracker(), Tracker(), {}
    for frame, detections in steps:
        ids = first.step(frame, detections)
        assert (ids == second.step(frame, detections)).all() and ids.dtype == np.int64
        assert len(ids) == len(detections.scores) and (ids[detections.scores < 0.1] == -1).all()
        tracked = ids[ids >= 0]
        assert len(set(tracked)) == len(tracked)
        for track, label in zip(tracked.tolist(), detections.boxes.label[ids >= 0].tolist()):
            assert used.setdefault(track, (frame.scene, label)) == (frame.scene, label)  # one scene, one class
        tracks = first.tracks(frame)
        assert set(tracked) <= set(tracks.ids) and (np.diff(tracks.ids) > 0).all()
        assert (tracks.unseen_s <= first.max_age_s).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_detections_does_not_matter(seed):
    random = np.random.default_rng(seed)
    position, velocity, label = (
        random.uniform(-40, 40, (30, 2)),
        random.normal(0, 5, (30, 2)),
        random.integers(0, 4, 30),
    )
    straight, shuffled, names = Tracker(), Tracker(), {}
    for i in range(6):
        order = random.permutation(30)
        there = position + 0.5 * i * velocity + random.normal(0, 0.3, (30, 2))
        score = random.integers(0, 4, 30) / 3  # many are equal, and those may come in any order
        one = straight.step(frame_at(0.5 * i), seen(there, velocity, label, score=score))
        two = shuffled.step(frame_at(0.5 * i), seen(there[order], velocity[order], label[order], score=score[order]))
        first, second = np.argsort(-score, kind="stable"), order[np.argsort(-score[order], kind="stable")]
        assert (first != second).any()
        for a, b in zip(one[np.argsort(first)].tolist(), two[np.argsort(second)].tolist()):
            assert (a < 0) == (b < 0) and names.setdefault(a, b) == b


RECORDED = {"VEHICLE": CAR, "PEDESTRIAN": PEDESTRIAN, "CYCLIST": CLASSES.index("bicycle"), "TRAFFIC_CONE": CONE}


@pytest.mark.parametrize("scene", ["scene-0061", "scene-0655", "scene-0757", "scene-1077", "scene-1094"])
def test_recorded_traffic_with_noise_and_dropouts(scene):
    """Every fifth detection lost, errors of 0.1 m and 0.3 m/s, half of the velocities unknown: ids are kept, 10 Hz."""
    if not os.environ.get("PERCEPTION_DATA"):
        pytest.skip("PERCEPTION_DATA is not set: no real data to test on")
    recording = json.loads((Path(os.environ["PERCEPTION_DATA"]) / f"nuscenes_mini_tracks/{scene}.json").read_text())
    agents = [agent for agent in recording["tracks"] if agent["type"] in RECORDED]
    valid = np.array([agent["valid"] for agent in agents], bool)
    position = np.array([agent["position"] for agent in agents])[..., :2]
    velocity = np.array([agent["velocity"] for agent in agents])
    label = np.array([RECORDED[agent["type"]] for agent in agents])
    random, tracker, links, kept = np.random.default_rng(0), Tracker(), 0, 0
    owner, last = {}, {}
    for i, time_s in enumerate(recording["timestamp_s"]):
        own = np.flatnonzero(valid[:, i] & (random.uniform(size=len(agents)) > 0.2))
        there = position[own, i] + random.normal(0, 0.1, (len(own), 2))
        moving = velocity[own, i] + random.normal(0, 0.3, (len(own), 2))
        moving[random.uniform(size=len(own)) < 0.5] = np.nan
        for agent, track in zip(own.tolist(), tracker.step(frame_at(time_s), seen(there, moving, label[own])).tolist()):
            if agent in last:
                links, kept = links + 1, kept + (last[agent] == track and owner[track] == agent)
            owner[track], last[agent] = agent, track
    assert links > 2000 and kept / links > 0.998


def test_the_annotations_of_a_real_scene(real_scene):
    """As detections, at 2 Hz: tracks are what the annotators' instances are."""
    folder = real_scene / "v1.0-mini"
    instance = {}
    for row in json.loads((folder / "sample_annotation.json").read_text()):
        instance[row["sample_token"], tuple(np.round(row["translation"], 3))] = row["instance_token"]
    tracker, last, links, kept = Tracker(), {}, 0, 0
    for frame in NuScenes(real_scene, sensors=()).frames():
        ids = tracker.step(frame, Detections(frame.boxes, np.ones(len(frame.boxes))))
        for center, track in zip(frame.world_SE3_ego.transform(frame.boxes.center), ids.tolist()):
            own = instance[frame.token, tuple(np.round(center, 3))]
            links, kept = links + (own in last), kept + (last.get(own) == track)
            last[own] = track
    assert links > 2000 and kept / links > 0.99


def test_a_submission_names_the_tracks_of_seven_classes():
    frame = Frame("token", 0, SE3.from_yaw(np.pi / 2, (100, 200, 0)))
    detections = seen([(10, 2)] * 4, (3, 1), [CONE, CAR, PEDESTRIAN, TRUCK], score=[0.9, 0.5, 0.6, 0.7])
    rows = to_tracking_submission(to_world(frame, detections), np.array([1, -1, 3, 2]))  # cone, truck, pedestrian, car
    assert [(row["tracking_name"], row["tracking_id"], row["tracking_score"]) for row in rows] == [
        ("pedestrian", "3", 0.6),
        ("car", "2", 0.5),
    ]
    assert rows[0].keys() == {
        "sample_token", "translation", "size", "rotation", "velocity", "tracking_id", "tracking_name", "tracking_score",
    }  # fmt: skip
    assert rows[0]["translation"] == pytest.approx([98, 210, 0.75]) and rows[0]["velocity"] == pytest.approx([-1, 3])
