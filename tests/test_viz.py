"""Drawing: projections whose answers are derived by hand, and frames with next to nothing in them."""

import cv2
import numpy as np
import pytest

from perception import viz
from perception.canvas import NEAR_M, SHIFT, WARNING, Pinhole, TopDown, glyphs
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.sample import Boxes3D, CameraImage, Detections, Frame, LidarCloud, PointCloud, RadarCloud
from perception.task import CLASSES, NUSCENES, ObjectClass, Task
from perception.viz import HEIGHT, WIDTH, Layout, draw_bev, draw_camera, draw_frame

# A camera in the ego origin that looks forward: x right is -y of the ego, y down is -z, z forward is x.
EGO_SE3_CAMERA = SE3(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]]))
INTRINSICS = np.array([[100.0, 0, 160], [0, 100, 90], [0, 0, 1]])
CAMERA = Pinhole(INTRINSICS, EGO_SE3_CAMERA.inverse())
LAYOUT = Layout()
SQUARE = (1024, 1024)  # of the bird's-eye view: ten pixels a metre of the default grid, the ego in the middle
CAR, BUS = CLASSES.index("car"), CLASSES.index("bus")


def image(colour=0, size=(180, 320)) -> CameraImage:
    return CameraImage(np.full((*size, 3), colour, np.uint8), INTRINSICS, EGO_SE3_CAMERA, 0)


def boxes(*centers, label=CAR, size=(4.0, 2.0, 1.5), velocity=(0.0, 0.0)) -> Boxes3D:
    n = len(centers)
    return Boxes3D(np.array(centers), np.tile(size, (n, 1)), np.zeros(n), np.tile(velocity, (n, 1)), np.full(n, label))


def detections(found: Boxes3D, score=0.9) -> Detections:
    return Detections(found, np.full(len(found), score))


def shows(picture: np.ndarray, name: str) -> np.ndarray:
    """Where the picture has exactly the colour of a class."""
    return (picture == NUSCENES.colors[CLASSES.index(name)]).all(axis=-1)


def test_straight_ahead_is_the_principal_point():
    pixels, depth = CAMERA.points(np.array([[10.0, 0.0, 0.0], [10.0, 1.0, 0.0], [10.0, 0.0, 1.0], [-10.0, 0.0, 0.0]]))
    assert np.allclose(pixels[:3], [[160, 90], [150, 90], [160, 80]])  # left is left, up is up
    assert np.allclose(depth[:3], 10) and np.isnan(depth[3])


def test_an_edge_through_the_camera_plane_ends_at_the_near_plane():
    segments = np.array([
        [[10.0, 1, 0], [-10, 1, 0]],
        [[-10, 1, 0], [10, 1, 0]],
        [[-1, 0, 0], [-2, 0, 0]],
        [[5, 1, 0], [10, 1, 0]],
    ])  # fmt: skip
    pixels, index = CAMERA.segments(segments)
    near = [160 - 100 / NEAR_M, 90]
    assert index.tolist() == [0, 1, 3]
    assert np.allclose(pixels, [[[150, 90], near], [near, [150, 90]], [[140, 90], [150, 90]]])


def test_a_view_looks_at_its_target():
    view = Pinhole.looking((-10.0, 0.0, 10.0), (0.0, 0.0, 0.0), 500.0, (101, 201))
    pixels, depth = view.points(np.array([[0.0, 0, 0], [0.0, 5, 0], [3.0, 0, 0]]))
    assert np.allclose(pixels[0], [100, 50]) and np.isclose(depth[0], 200**0.5)
    assert pixels[1, 0] < 100 and np.isclose(pixels[1, 1], 50)
    assert np.isclose(pixels[2, 0], 100) and pixels[2, 1] < 50


def test_forward_is_up_and_left_is_left_in_the_birds_eye_view():
    view = TopDown((100.0, 200.0), 4.0)
    pixels, _ = view.points(np.array([[0.0, 0, 0], [10.0, 0, 0], [0.0, 10, 0]]))
    assert pixels.tolist() == [[100, 200], [100, 160], [60, 200]]


def test_a_box_is_drawn_where_it_is_in_the_birds_eye_view():
    empty = Frame("token", 0)
    size = (1124, 1024)  # ten pixels a metre; 75 of the 100 that the grid leaves are ahead: the ego is at (512, 587)
    panel = draw_bev(empty, boxes((20.0, 10.0, 0.0)), None, size, LAYOUT)
    rows, columns = np.nonzero(shows(panel, "car"))
    assert abs(rows.mean() - 387) < 8 and abs(columns.mean() - 412) < 2
    assert abs(np.ptp(rows) - 40) <= 3 and abs(np.ptp(columns) - 20) <= 3
    # The line from the middle to the front says where it is heading.
    assert shows(panel, "car")[369:385, 412].all() and not shows(panel, "car")[391:403, 412].any()


def test_a_box_ahead_surrounds_the_principal_point_of_the_image():
    tile = draw_camera(image(), boxes((12.0, 0.0, 0.0)), (180, 320), LAYOUT)
    rows, columns = np.nonzero(shows(tile, "car"))
    # The rear face, 10 m away, is 2 m wide and 1.5 m high.
    assert abs(columns.min() - 150) <= 2 and abs(columns.max() - 170) <= 2
    assert abs(rows.min() - 82.5) <= 2 and abs(rows.max() - 97.5) <= 2


def test_a_box_around_the_camera_is_cut_and_one_behind_it_unseen():
    around = draw_camera(image(), boxes((0.5, 0.0, 0.0), size=(10.0, 3.0, 2.0)), (180, 320), LAYOUT)
    assert shows(around, "car").any()
    behind = draw_camera(image(), boxes((-12.0, 0.0, 0.0)), (180, 320), LAYOUT)
    assert not behind.any()


def test_images_are_fitted_with_their_boxes():
    tile = draw_camera(image(size=(180, 320)), boxes((12.0, 0.0, 0.0)), (90, 160), LAYOUT)
    _, columns = np.nonzero(shows(tile, "car"))
    assert abs(columns.min() - 75) <= 2 and abs(columns.max() - 85) <= 2


def test_only_boxes_above_the_threshold_are_drawn():
    frame = Frame("token", 0)
    found = Detections(boxes((20.0, 0, 0), (30.0, 0, 0), label=BUS), np.array([0.4, 0.2]))
    legend = (slice(HEIGHT - 160, HEIGHT), slice(WIDTH - 680, WIDTH))

    def boxed(threshold):
        shown = shows(draw_frame(frame, found, threshold), "bus")
        shown[legend] = False
        return shown.sum()

    assert boxed(0.5) == 0 < boxed(0.3) < boxed(0.1)


@pytest.mark.parametrize(
    "frame",
    [
        Frame("nothing", 0),
        Frame("one camera", 0, cameras={"CAM_FRONT": image(90)}),
        Frame("another rig", 0, cameras={name: image(90, (100, 400)) for name in ("a", "b", "c")}),
        Frame("eight cameras", 0, cameras={f"camera {i}": image(90) for i in range(8)}),
        Frame("portrait", 0, cameras={"CAM_BACK": image(90, (640, 360))}),
        Frame("empty clouds", 0, lidar=LidarCloud(np.zeros((0, 5))), radar=RadarCloud(np.zeros((0, 7)))),
        Frame("no truth", 0, boxes=Boxes3D.empty()),
        Frame("far away", 0, lidar=LidarCloud(np.full((3, 5), 1e6)), boxes=boxes((1e6, 1e6, 0.0))),
        Frame("unknown velocity", 0, boxes=boxes((5.0, 5.0, 0.0), velocity=(np.nan, np.nan))),
    ],
    ids=lambda frame: frame.token,
)
def test_whatever_is_missing_a_picture_is_made(frame):
    found = frame.boxes if frame.boxes is not None else Boxes3D.empty()
    for picture in (draw_frame(frame), draw_frame(frame, detections(found), latency_ms=12.3)):
        assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8


def test_missing_sensors_are_said_and_inputs_left_alone():
    cloud = np.zeros((1, 5), np.float32)
    with_lidar, without = Frame("t", 0, cameras={"CAM_FRONT": image(90)}, lidar=LidarCloud(cloud)), Frame("t", 0)
    warning = (255, 107, 107)
    assert (draw_frame(without) == warning).all(axis=-1).sum() > (draw_frame(with_lidar) == warning).all(axis=-1).sum()
    assert (with_lidar.cameras["CAM_FRONT"].image == 90).all()


def test_ground_truth_without_a_point_on_it_is_not_drawn():
    truth = boxes((20.0, 0.0, 0.0))
    unseen = Boxes3D(truth.center, truth.size, truth.yaw, truth.velocity, truth.label,
                     num_lidar_points=[0], num_radar_points=[0])  # fmt: skip
    nothing, hidden, shown = (draw_frame(Frame("t", 0, boxes=b))[60:900] for b in (Boxes3D.empty(), unseen, truth))
    assert (hidden == nothing).all() and (shown != nothing).any()


def test_a_detection_that_fits_does_not_hide_the_ground_truth():
    truth = boxes((20.0, 10.0, 0.0))
    panel, alone = (draw_bev(Frame("t", 0), truth, drawn, SQUARE, LAYOUT) for drawn in (truth, None))
    white, without = ((picture[287:337, 395:430] > 230).all(axis=-1).sum() for picture in (panel, alone))
    assert white > 30 and without == 0


def test_lines_of_boxes_far_away_are_thin():
    def lines(x):
        tile = draw_camera(image(), boxes((x, 0.0, 0.0), size=(x / 5, x / 5, x / 5)), (180, 320), LAYOUT)
        return shows(tile, "car").sum()  # the box looks the same from everywhere

    assert 0 < lines(36.0) < 0.7 * lines(34.0)


def test_radar_arrows_are_faint_and_dots_are_not():
    def yellow(velocity):
        points = np.array([[20.0, 10.0, 0.0, 5.0, velocity, 0.0, 0.0]], np.float32)
        panel = draw_bev(Frame("t", 0, radar=RadarCloud(points)), Boxes3D.empty(), None, SQUARE, LAYOUT).astype(int)
        return (panel[..., 0] > 230).sum(), (panel[..., 0] - panel[..., 2] > 40).sum()

    (bright, faint), (bright_moving, faint_moving) = yellow(0.0), yellow(8.0)
    assert 0 < bright == bright_moving and faint_moving > faint + 50


def test_words_are_kept_but_not_all_for_ever():
    assert 0 < glyphs.cache_info().maxsize <= 512


def test_five_hundred_boxes_and_huge_ones_are_cheap(monkeypatch):
    """OpenCV takes seconds to fill what is much larger than the image: it must never be asked to."""
    reach, fill = [], cv2.fillConvexPoly

    def noting(picture, corners, *rest):
        reach.append(np.abs(corners).max() / 2**SHIFT / max(picture.shape))
        return fill(picture, corners, *rest)

    monkeypatch.setattr(cv2, "fillConvexPoly", noting)
    rng = np.random.default_rng(0)
    n = 500
    many = Boxes3D(
        center=rng.uniform(-50, 50, (n, 3)) * (1, 1, 0.02),
        size=rng.uniform(0.5, 12, (n, 3)),
        yaw=rng.uniform(-np.pi, np.pi, n),
        velocity=rng.normal(0, 5, (n, 2)),
        label=rng.integers(0, len(CLASSES), n),
    )
    frame = Frame("t", 0, cameras={"CAM_FRONT": image(90)}, boxes=many)
    draw_frame(frame, detections(many))
    assert len(reach) > 500 and max(reach) <= 4


AHEAD = BEVGrid(-32.0, 96.0, -64.0, 64.0, -5.0, 3.0, 0.8)


@pytest.mark.parametrize(
    ("grid", "size", "ego", "px_per_m"),
    [
        # The panel of a frame: as wide as the grid; of the 206 pixels to spare in height three quarters are ahead.
        (AHEAD, (862, 656), (328.0, 5.125 * 96 + 154.5), 5.125),
        # As high as the grid, which is in the middle.
        (AHEAD, (512, 1024), (512.0, 4.0 * 96), 4.0),
        # More to the left of the vehicle than to its right.
        (BEVGrid(-32.0, 96.0, -16.0, 48.0, -5.0, 3.0, 0.8), (512, 400), (200.0 + 4.0 * 16, 384.0), 4.0),
        (LAYOUT.grid, SQUARE, (512.0, 512.0), 10.0),
    ],
)
def test_the_birds_eye_view_shows_the_whole_grid(grid, size, ego, px_per_m):
    view = TopDown.of(grid, size)
    assert view.px_per_m == pytest.approx(px_per_m) and view.ego_px == pytest.approx(ego)
    corners = np.array([[x, y, 0.0] for x in (grid.x_min_m, grid.x_max_m) for y in (grid.y_min_m, grid.y_max_m)])
    pixels, _ = view.points(corners)
    assert (pixels >= -1e-9).all() and (pixels <= np.array(size)[::-1] + 1e-9).all()
    across, along = np.ptp(pixels, axis=0) / px_per_m
    assert (across, along) == pytest.approx((grid.y_max_m - grid.y_min_m, grid.x_max_m - grid.x_min_m))


def test_a_box_far_ahead_is_in_a_picture_of_a_grid_that_reaches_there():
    """At 90 m: at (512 / 2, 4 * (96 - 90)) of four pixels a metre; the default grid ends at 51.2 m."""
    far = boxes((90.0, 0.0, 0.0))
    rows, columns = np.nonzero(shows(draw_bev(Frame("t", 0), far, None, (512, 512), Layout(grid=AHEAD)), "car"))
    assert abs(rows.mean() - 24) < 4 and abs(columns.mean() - 256) < 2
    assert not shows(draw_bev(Frame("t", 0), far, None, (512, 512), LAYOUT), "car").any()


class Radar4D(PointCloud):
    fields = ("x", "y", "z", "vx", "vy")


def test_clouds_of_other_sensors_are_drawn_by_what_they_hold():
    """One with velocities as a radar, one without in the colours of heights; 20 m ahead of the middle."""
    nothing = draw_bev(Frame("t", 0), Boxes3D.empty(), None, SQUARE, LAYOUT)
    point = [20.0, 10.0, 0.0]
    moving, plain = Radar4D(np.array([[*point, 5.0, 0.0]])), PointCloud(np.array([point]))
    around = (slice(302, 323), slice(402, 423))
    for sensor, yellow in ((moving, True), (plain, False)):
        panel = draw_bev(Frame("t", 0, others={"extra": sensor}), Boxes3D.empty(), None, SQUARE, LAYOUT)
        assert (panel[around] != nothing[around]).any()
        assert ((panel == viz.RADAR).all(axis=-1)[around].any()) == yellow


def test_images_of_other_sensors_are_tiles_beside_the_cameras():
    """A thermal camera is one more tile, whether or not there is another; what it shows has no green in it."""
    thermal = CameraImage(np.full((180, 320, 3), (200, 0, 100), np.uint8), INTRINSICS, EGO_SE3_CAMERA, 0)

    def purple(**sensors):
        picture = draw_frame(Frame("t", 0, **sensors), layout=Layout(sensors=("camera", "thermal")))
        return (picture == (200, 0, 100)).all(axis=-1).sum()

    cameras = {"CAM_FRONT": image(90)}
    assert purple(cameras=cameras) == 0
    assert min(purple(others={"thermal": {"front": thermal}}, **own) for own in ({}, {"cameras": cameras})) > 10_000


def test_an_absent_sensor_is_said_to_be_absent_whatever_it_is_called():
    panel, usual = (
        draw_bev(Frame("t", 0), Boxes3D.empty(), None, SQUARE, Layout(sensors=sensors)) for sensors in (("sonar",), ())
    )
    warning = (panel == WARNING).all(axis=-1)
    assert warning.any() and not (usual == WARNING).all(axis=-1).any()


def test_many_classes_fit_into_the_legend_and_the_seen_ones_come_first():
    """Of twelve classes the legend has room for ten: that of the last is listed once there is a box of it."""
    task = Task([ObjectClass(f"class{k}", color=[k + 1, 2, 3]) for k in range(12)], attributes=[])

    def listed(picture):
        return [(picture == color).all(axis=-1).any() for color in task.colors]

    behind = boxes((-45.0, 0.0, 0.0), label=11)
    legend = np.s_[HEIGHT - 160 :, WIDTH - 680 :]
    none, some = (draw_frame(Frame("t", 0), found, layout=Layout(task))[legend] for found in (None, detections(behind)))
    assert listed(none) == [True] * 10 + [False] * 2
    assert listed(some) == [True] * 9 + [False] * 2 + [True]
