"""Transforms and projection: answers one can derive by hand, and round trips over random input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.geometry import SE3, GeometryError, box_corners, pose_matrix, project, to_wxyz, to_xyzw, wrap_angle

ANGLES = st.floats(-np.pi, np.pi)
METRES = st.floats(-2000.0, 2000.0)


@st.composite
def transforms(draw) -> SE3:
    quaternion = np.array(draw(st.tuples(*[st.floats(-1.0, 1.0)] * 4)))
    norm = np.linalg.norm(quaternion)
    quaternion = quaternion / norm if norm > 0.1 else np.array([1.0, 0.0, 0.0, 0.0])
    return SE3.from_quaternion(quaternion, draw(st.tuples(METRES, METRES, METRES)))


def test_quarter_turn_maps_forward_to_left():
    world_SE3_ego = SE3.from_yaw(np.pi / 2, (10.0, 20.0, 0.0))
    assert np.allclose(world_SE3_ego.transform([1.0, 0.0, 0.0]), [10.0, 21.0, 0.0])
    assert np.allclose(world_SE3_ego.rotate([1.0, 0.0, 0.0]), [0.0, 1.0, 0.0])
    assert np.allclose(world_SE3_ego.quaternion, [np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)])
    assert world_SE3_ego.yaw == pytest.approx(np.pi / 2)


def test_composition_reads_from_right_to_left():
    world_SE3_ego = SE3.from_yaw(np.pi / 2, (10.0, 0.0, 0.0))
    ego_SE3_camera = SE3(translation=[1.0, 0.0, 1.5])
    assert np.allclose((world_SE3_ego @ ego_SE3_camera).transform(np.zeros(3)), [10.0, 1.0, 1.5])


@given(transforms(), transforms(), st.tuples(METRES, METRES, METRES))
def test_inverse_and_composition_agree_with_the_matrices(a, b, point):
    assert np.allclose((a @ a.inverse()).matrix, np.eye(4), atol=1e-8)
    assert np.allclose((a @ b).matrix, a.matrix @ b.matrix, atol=1e-8)
    assert np.allclose(a.inverse().transform(a.transform(np.array(point))), point, atol=1e-8)
    assert np.allclose(SE3.from_matrix(a.matrix).matrix, a.matrix)


@given(transforms())
def test_quaternion_round_trip(a):
    assert a.quaternion[0] >= 0
    assert np.allclose(SE3.from_quaternion(a.quaternion, a.translation).matrix, a.matrix, atol=1e-12)


@given(ANGLES)
def test_yaw_round_trip(yaw):
    assert abs(wrap_angle(SE3.from_yaw(yaw).yaw - yaw)) < 1e-9


@given(st.floats(-100.0, 100.0))
def test_wrapped_angles_stay_in_range_and_point_the_same_way(angle):
    wrapped = wrap_angle(angle)
    assert -np.pi <= wrapped < np.pi
    assert np.isclose(np.cos(wrapped), np.cos(angle)) and np.isclose(np.sin(wrapped), np.sin(angle), atol=1e-8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SE3(np.eye(4), np.zeros(3)), r"rotation \[3, 3\].*\(4, 4\)"),
        (lambda: SE3(np.eye(3), np.array([0.0, np.nan, 0.0])), "NaN"),
        (lambda: SE3(2 * np.eye(3), np.zeros(3)), "determinant 8"),
        (lambda: SE3(np.diag([1.0, 1.0, -1.0]), np.zeros(3)), "determinant -1"),
        (lambda: SE3.from_quaternion([0.0, 0.0, 0.0, 0.0]), "unit quaternion"),
        (lambda: SE3.from_matrix(np.eye(3)), r"\[4, 4\]"),
        (lambda: SE3.from_matrix(np.ones((4, 4))), r"last row 0, 0, 0, 1"),
        (lambda: SE3([["a"] * 3] * 3), r"SE3\.rotation: numbers were expected"),
        (lambda: SE3(np.eye(3), [[1], [2, 3]]), r"SE3\.translation: numbers were expected, found \[\[1\], \[2, 3\]\]"),
        (lambda: SE3.from_yaw("north"), "yaw: numbers were expected"),
        (
            lambda: SE3().transform(np.zeros((4, 2))),
            r"points: numbers \[\.\.\., 3\] were expected, found float64 \[4, 2\]",
        ),
        (lambda: SE3().rotate("abc"), r"vectors: numbers"),
        (lambda: SE3.from_quaternion(None), "quaternion"),
        (lambda: SE3.from_quaternion([np.nan, 0, 0, 0]), "unit quaternion"),
        (lambda: SE3.from_pose([1, 2, 3]), r"a pose \[7\] was expected, found \(3,\)"),
    ],
)
def test_what_is_no_transform_is_refused(make, message):
    with pytest.raises(GeometryError, match=message):
        make()


def test_projection_of_a_point_right_of_and_below_the_axis():
    intrinsics = np.array([[100.0, 0.0, 50.0], [0.0, 200.0, 40.0], [0.0, 0.0, 1.0]])
    points = np.array([[1.0, 0.5, 2.0], [0.0, 0.0, 10.0], [1.0, 1.0, -1.0], [1.0, 1.0, 0.0]])
    pixels, depth = project(points, intrinsics)
    assert np.allclose(pixels[:2], [[100.0, 90.0], [50.0, 40.0]])
    assert np.allclose(depth, points[:, 2])
    assert np.isfinite(pixels).all()


def test_projection_of_no_points():
    pixels, depth = project(np.zeros((0, 3)), np.eye(3))
    assert pixels.shape == (0, 2) and depth.shape == (0,)


def test_corners_of_a_turned_box():
    corners = box_corners(np.array([[10.0, 0.0, 1.0]]), np.array([[4.0, 2.0, 1.0]]), np.array([np.pi / 2]))[0]
    # The front looks along +y; the box's left side, its +y, is at -x.
    assert np.allclose(corners[0], [9.0, 2.0, 1.5])
    assert np.allclose(corners[:4, 1], 2.0) and np.allclose(corners[4:, 1], -2.0)
    assert np.allclose(corners.mean(axis=0), [10.0, 0.0, 1.0])
    assert box_corners(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0)).shape == (0, 8, 3)


def test_a_pose_is_the_translation_then_the_quaternion():
    quarter = SE3.from_yaw(np.pi / 2, (1.0, 2.0, 3.0))
    half = np.sqrt(0.5)
    assert np.allclose(quarter.pose, [1, 2, 3, half, 0, 0, half], atol=1e-15)  # (w, x, y, z)
    assert np.allclose(SE3.from_pose(quarter.pose).matrix, quarter.matrix, atol=1e-15)
    both = pose_matrix(np.array([[1, 2, 3, half, 0, 0, half], [4, 5, 6, 1, 0, 0, 0]]))
    assert np.allclose(both[0], [[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]], atol=1e-15)
    assert np.allclose(both[1], [[1, 0, 0, 4], [0, 1, 0, 5], [0, 0, 1, 6], [0, 0, 0, 1]])
    assert pose_matrix(quarter.pose).shape == (4, 4)


def test_orders_of_quaternions():
    assert to_xyzw(np.array([[4, 1, 2, 3]])).tolist() == [[1, 2, 3, 4]]
    assert to_wxyz(np.array([1, 2, 3, 4])).tolist() == [4, 1, 2, 3]
