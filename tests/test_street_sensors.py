"""The sensors of the street, each in a world small enough to know by hand what it must see."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("open3d", reason="the simulator needs the extra 'sim'")
pytest.importorskip("numba", reason="the simulator needs the extra 'sim'")

from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_constants import RADAR_HZ
from perception.data.nuscenes_writer import RADAR_FIELDS
from perception.geometry import SE3
from perception.sim import simulate
from perception.sim.camera import STANDING, Camera
from perception.sim.lidar import FIRINGS, RINGS, Lidar
from perception.sim.mesh import Material, Mesh, box, merge
from perception.sim.radar import Radar
from perception.sim.radar_evidence import radar_evidence
from perception.sim.raycast import Stage
from perception.sim.rig import LIDAR_NAME, draw_rig
from perception.sim.rolling_lidar import RollingLidar
from perception.sim.sensors import camera_delay_s, make_camera, make_lidar, make_radar
from perception.sim.shapes import Shape, make_shape
from perception.sim.street_camera import StreetCamera
from perception.sim.street_echoes import OBJECT, Echoes, Scatterers, Walls, ghosts, scenery_echoes
from perception.sim.street_radar import StreetRadar, bearing_error_rad
from perception.sim.street_texture import tints
from perception.sim.traffic import Actor, Track
from perception.sim.weather import draw_weather
from perception.task import CLASSES

TINY = (160, 90)
NOWHERE = box([0, 0, -50], [1, 1, 1], (0.5, 0.5, 0.5))
GREY = (0.7, 0.7, 0.7)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sensor(channel: str):
    return draw_rig(rng(), TINY)[channel]


def weather(name: str = "day"):
    return draw_weather(name, rng())


def block(x: float, y: float, velocity: float) -> Actor:
    """4 x 2 x 1.6 m, moving along +x, at (x, y) at time zero."""
    size = np.array([4.0, 2.0, 1.6])
    shape = Shape("vehicle.car", box([0, 0, 0.8], size, GREY, Material.MATTE), size)
    return Actor(shape, Track(x + velocity * (np.arange(60) * 0.05 - 1.0), np.full(60, y), np.zeros(60)))


def wall(x: float, y: tuple[float, float], material: Material = Material.FACADE) -> Mesh:
    """Facing the ego vehicle at x, from the ground to 5 m."""
    return box([x + 0.05, 0.5 * sum(y), 2.5], [0.1, y[1] - y[0], 5.0], GREY, material)


def seen_by_lidar(scenery: Mesh, actors: list[Actor], ego_at=lambda time: SE3(), sweeps: int = 1, **options):
    """Points [N, 5] in the ego frame, of sweeps that end at time zero."""
    lidar, stage, draws = RollingLidar(sensor(LIDAR_NAME), weather(**options), rng(1)), Stage(scenery, actors), rng(2)
    points = np.concatenate([lidar.sweep(stage.at, ego_at, 0.0, draws) for _ in range(sweeps)]).astype(float)
    points[:, :3] = lidar.sensor.ego_SE3_sensor.transform(points[:, :3])
    return points


# --- LiDAR


def test_when_a_beam_passes():
    """The revolution begins at the left and goes by the front, the right and the rear."""
    lidar = RollingLidar(sensor(LIDAR_NAME), weather(), rng())
    right, ahead, left = np.array([[5.0, 0, 0], [0, 5.0, 0], [-5.0, 1e-9, 0]])  # sensor axes: right, forward, up
    np.testing.assert_allclose(lidar.delay_s(np.array([left, ahead, right, -ahead])), [0.05, 0.0375, 0.025, 0.0125])


def test_what_moves_is_where_it_was_when_the_beam_passed():
    """At 10 m/s a car ahead appears 37.5 ms, one behind 12.5 ms of its motion too far back; half a sector is 3 ms."""
    points = seen_by_lidar(NOWHERE, [block(17.0, 0.0, 10.0), block(-17.0, 0.0, 10.0)])
    upright = points[(points[:, 2] > 0.2) & (points[:, 2] < 1.5) & (np.abs(points[:, 1]) < 0.9)]
    ahead, behind = upright[upright[:, 0] > 10, 0], upright[upright[:, 0] < -10, 0]
    assert len(ahead) > 20 and len(behind) > 20
    assert np.median(ahead) == pytest.approx(15.0 - 0.375, abs=0.045)
    assert np.median(behind) == pytest.approx(-15.0 - 0.125, abs=0.045)


def test_what_stands_is_in_place_while_the_vehicle_moves():
    """The stamp's pose is the origin; 50 ms ago the vehicle was half a metre behind."""
    scenery = merge([wall(20.0, (-15, 15)), wall(-20.1, (-15, 15))])
    points = seen_by_lidar(scenery, [], lambda time: SE3(np.eye(3), np.array([10.0 * time, 0.0, 0.0])))
    for place in (20.0, -20.0):
        near = points[np.abs(points[:, 0] - place) < 1.0, 0]
        assert len(near) > 300 and np.median(near) == pytest.approx(place, abs=0.01)
    place = sensor(LIDAR_NAME).ego_SE3_sensor.translation
    without = points.reshape(FIRINGS, RINGS, 5)[:, -1, :3] - place  # of the top ring, above the walls
    middle = 10.0 * 0.05 / 16  # of the way within one of the eight sectors
    np.testing.assert_allclose(without[0], [middle - 0.5, 0, 0], atol=1e-3)
    np.testing.assert_allclose(without[-1], [-middle, 0, 0], atol=1e-3)


def test_a_beam_on_an_edge_measures_between_both_surfaces():
    """A metre apart the echoes melt; ten metres apart the stronger one counts."""
    for gap, melts in ((1.0, True), (10.0, False)):
        scenery = merge([wall(10.0, (2.0, 12.0)), wall(10.0 + gap, (-12.0, 12.0))])
        x = seen_by_lidar(scenery, [], sweeps=12)[:, 0]
        x = x[x > 5.0]
        assert x.min() > 9.85 and x.max() < 10.0 + gap + 0.15
        between = (x > 10.12) & (x < 9.88 + gap)
        assert between.any() == melts


def test_glass_answers_only_head_on():
    counts = {}
    for material in (Material.FACADE, Material.GLASS):
        points = seen_by_lidar(wall(12.0, (-8.0, 8.0), material), [])
        counts[material] = np.sum(np.abs(points[:, 0] - 12.0) < 0.3)
    assert counts[Material.FACADE] > 1000
    assert counts[Material.GLASS] < 0.15 * counts[Material.FACADE]


def test_a_wet_road_answers_less():
    road = box([0, 0, -0.1], [80, 80, 0.2], (0.3, 0.3, 0.3), Material.ASPHALT)
    far = {}
    for name in ("day", "rain"):
        points = seen_by_lidar(road, [], name=name)
        far[name] = np.sum((np.hypot(points[:, 0], points[:, 1]) > 10) & (np.abs(points[:, 2]) < 0.2))
    assert far["rain"] < 0.6 * far["day"]


def test_the_vehicle_hides_the_road_beside_it():
    """The lowest beam, 30.67 degrees down from 1.84 m, meets the road 3.1 m away at the side, and the roof ahead."""
    road = box([0, 0, -0.1], [80, 80, 0.2], GREY, Material.CONCRETE)
    points = seen_by_lidar(road, []).reshape(FIRINGS, RINGS, 5)[:, 0]
    offset = points[:, :3] - sensor(LIDAR_NAME).ego_SE3_sensor.translation
    reach, side = np.linalg.norm(offset, axis=1), np.abs(offset[:, 1]) > 5 * np.abs(offset[:, 0])
    along = np.abs(offset[:, 0]) > 5 * np.abs(offset[:, 1])
    assert np.median(reach[side]) == pytest.approx(1.84 / np.sin(np.radians(30.67)), abs=0.15)
    assert reach[along].max() < 1.0


# --- radar


def clusters_of(radar: StreetRadar, stage: Stage, sweeps: int, motion=STANDING) -> list[np.ndarray]:
    draws, (poses, velocities) = rng(3), stage.poses(0.0)
    return [radar.sweep(stage.coarse(poses), poses, velocities, SE3(), motion, draws) for _ in range(sweeps)]


def test_the_bearing_error_grows_off_boresight():
    """Strong reflectors along a line of sight, told apart by range: half a degree ahead, 3.4 at 55 degrees."""
    mount, spread = sensor("RADAR_FRONT"), {}
    for degrees in (0.0, 55.0):
        heading, ranges = mount.ego_SE3_sensor.yaw + np.radians(degrees), np.arange(15.0, 90.0, 1.5)
        place = mount.ego_SE3_sensor.translation + ranges[:, None] * [np.cos(heading), np.sin(heading), 0.0]
        radar = StreetRadar(mount, [], np.column_stack([place, np.full(len(ranges), 60.0)]), rng())
        found = np.concatenate(clusters_of(radar, Stage(NOWHERE, []), 3))
        found = found[found["rcs"] > 40]
        errors = np.degrees(np.arctan2(found["y"], found["x"])) - degrees
        assert len(found) > 100
        spread[degrees] = errors.std()
    assert spread[0.0] == pytest.approx(0.5, rel=0.35)
    assert spread[55.0] == pytest.approx(0.5 + 3.5 * (55 / 60) ** 2, rel=0.35)
    assert np.degrees(bearing_error_rad(np.radians(60.0))) == pytest.approx(4.0)


def test_cones_are_not_seen_but_cars_are():
    actors = []
    for i, category in enumerate(["movable_object.trafficcone", "vehicle.car"] * 8):
        shape = make_shape(category, rng(i))
        actors.append(Actor(shape, Track.standing((10.0 + 2.5 * i, 3.0 - 6.0 * (i % 2)), 0.0), idle="vehicle.parked"))
    radar, stage = StreetRadar(sensor("RADAR_FRONT"), actors, np.zeros((0, 4)), rng()), Stage(NOWHERE, actors)
    found = np.concatenate(clusters_of(radar, stage, 10))
    found = found[found["rcs"] > 6]  # stronger than noise
    place = radar.sensor.ego_SE3_sensor.transform(np.stack([found["x"], found["y"], found["z"]], 1).astype(float))
    away = np.array([np.hypot(*(place[:, :2] - actor.track.at(0.0)[:2]).T) for actor in actors])
    assert np.sum(away[::2] < 1.0) == 0
    assert np.sum(away[1::2] < 2.5) > 50


def test_scatterers_fade_slowly():
    """Correlated by exp(-1 / (13 * 0.4)) from sweep to sweep, hardly at all after 2 s."""
    car = make_shape("vehicle.car", rng())
    actors = [Actor(car, Track.standing((20.0, 0.0), 0.0)) for _ in range(400)]
    scatterers, draws = Scatterers(actors, rng()), rng(1)
    poses, velocities = Stage(NOWHERE, actors).poses(0.0)
    for step, expected in ((1 / RADAR_HZ, np.exp(-1 / (RADAR_HZ * 0.4))), (2.0, np.exp(-5.0))):
        before = scatterers.fade
        scatterers.echoes(poses, velocities, np.zeros(3), step, draws)
        assert np.corrcoef(before, scatterers.fade)[0, 1] == pytest.approx(expected, abs=0.06)
        assert scatterers.fade.std() == pytest.approx(1.0, abs=0.06)


def test_a_ghost_is_a_mirror_image():
    """A car 5 m before a wall along x appears 5 m behind it; what it moves along the wall it keeps."""
    car = Echoes(
        np.array([[20.0, 0.0, 0.5]]), np.array([[8.0, 2.0]]), np.array([15.0]), np.array([OBJECT]), np.zeros(1)
    )
    walls = Walls(np.array([[9.0, 5.0, 1.0], [30.0, -60.0, 1.0]]), np.array([[0.0, -1.0], [0.0, 1.0]]))
    image = ghosts(car, walls, np.zeros(3), np.array([True]))
    np.testing.assert_allclose(image.points, [[20.0, 10.0, 0.5]])
    np.testing.assert_allclose(image.velocity, [[8.0, -2.0]])
    assert image.rcs < car.rcs
    assert len(ghosts(car, walls, np.zeros(3), np.array([False])).rcs) == 0


def test_what_stands_is_still_whatever_the_vehicle_does():
    """Straight ahead, where the bearing is known: speed over ground is 0 within its steps, unless it is false."""
    mount = sensor("RADAR_FRONT")
    place = mount.ego_SE3_sensor.transform(np.column_stack([np.arange(10.0, 60.0, 1.0), np.zeros((50, 2))]))
    radar = StreetRadar(mount, [], np.column_stack([place, np.full(50, 40.0)]), rng())
    found = np.concatenate(clusters_of(radar, Stage(NOWHERE, []), 4, np.array([10.0, 0.0, 0.0])))
    found = found[(found["rcs"] > 25) & (found["ambig_state"] == 3)]
    over_ground = np.hypot(found["vx_comp"], found["vy_comp"])
    assert np.median(found["vx"]) == pytest.approx(-10.0, abs=0.3)
    assert np.mean(over_ground < 0.4) > 0.9


def seen_by_radar(scenery: Mesh, actors: list[Actor], x: float) -> int:
    """Clusters stronger than noise within 3 m of a place ahead, in a hundred sweeps."""
    mount = sensor("RADAR_FRONT")
    radar = StreetRadar(mount, actors, np.zeros((0, 4)), rng(4))
    found = np.concatenate(clusters_of(radar, Stage(scenery, actors), 100))
    found = found[found["rcs"] > 6]
    place = mount.ego_SE3_sensor.transform(np.stack([found["x"], found["y"], found["z"]], 1).astype(float))
    return int(np.sum(np.hypot(place[:, 0] - x, place[:, 1]) < 3.0))


def test_radar_sees_through_leaves_and_wires_but_not_through_walls():
    """Three cars 25 m ahead, or a house there, behind 40 m of hedge, wire mesh or masonry."""
    wires = merge([box([12.0, y, 1.5], [0.02, 0.02, 3.0], GREY, Material.PAINT) for y in np.arange(-20, 20, 0.04)])
    barriers = {
        "nothing": NOWHERE,
        "leaves": wall(12.0, (-20, 20), Material.FOLIAGE),
        "wires": wires,
        "masonry": wall(12.0, (-20, 20)),
    }
    house = box([26.0, 0.0, 4.0], [2.0, 12.0, 8.0], GREY, Material.FACADE)
    cars = {
        name: seen_by_radar(mesh, [block(25.0, y, 0.0) for y in (-2.1, 0.0, 2.1)], 25.0)
        for name, mesh in barriers.items()
    }
    houses = {name: seen_by_radar(merge([mesh, house]), [], 25.0) for name, mesh in barriers.items()}
    for seen in (cars, houses):
        assert seen["nothing"] > 50, seen
        for name in ("leaves", "wires"):
            assert 0.4 * seen["nothing"] < seen[name] < seen["nothing"]
        assert seen["masonry"] < 0.35 * seen["nothing"]


def test_mirrors_are_large_and_flat():
    """A wall is one, and a fence of pickets; a row of posts at different depths, leaves and the road are none."""
    road = box([0, 0, -0.1], [80, 80, 0.2], GREY, Material.ASPHALT)
    pickets = merge([box([15.0, y, 1.0], [0.03, 0.1, 2.0], GREY) for y in np.arange(-8, 8, 0.15)])
    posts = merge([box([15.0 + 0.7 * (i % 3), 2.5 * i - 8, 2.0], [0.2, 0.2, 4.0], GREY) for i in range(7)])
    for scenery, mirrors in (
        (wall(15.0, (-8, 8)), True),
        (pickets, True),
        (posts, False),
        (wall(15.0, (-8, 8), Material.FOLIAGE), False),
    ):
        snapshot = Stage(merge([road, scenery]), []).at(0.0)
        echoes, walls = scenery_echoes(snapshot, np.array([0.0, 0.0, 0.5]), 0.0, rng())
        assert len(echoes.rcs) > 10 and (len(walls.places) > 3) == mirrors
        assert mirrors or len(walls.places) == 0


# --- camera


def street_camera(channel: str = "CAM_FRONT", name: str = "day") -> StreetCamera:
    return StreetCamera(sensor(channel), TINY, weather(name), np.zeros((0, 3)), rng())


def test_rows_are_read_one_after_the_other():
    """In 16 ms at 10 m/s and 0.5 rad/s the first and the last row of 90 are 89/90 of 0.16 m and 8 mrad apart."""
    camera = street_camera()
    starts, directions = camera._world_rays(SE3(), np.array([10.0, 0.0, 0.5]))
    still, straight = camera._world_rays(SE3(), STANDING)
    share = 89 / 90 * 0.016
    arm = camera.sensor.ego_SE3_sensor.translation
    moved = (starts[-1] - starts[0]) / share
    np.testing.assert_allclose(moved, [10.0 - 0.5 * arm[1], 0.5 * arm[0], 0.0], atol=1e-6)
    angle = np.unwrap(np.arctan2(directions[:, 1], directions[:, 0]) - np.arctan2(straight[:, 1], straight[:, 0]))
    assert angle[-1] - angle[0] == pytest.approx(0.5 * share, rel=0.01)
    np.testing.assert_allclose(np.broadcast_to(still, starts.shape), camera._world_rays(SE3(), 0 * STANDING)[0])


@pytest.mark.parametrize("size", [(160, 90), (800, 450)])
def test_rays_meet_what_moves_in_every_row(size):
    """At 10 m/s beside a car 3 m away no row misses a piece of it, at any size of the image."""
    camera = StreetCamera(draw_rig(rng(), size)["CAM_FRONT_LEFT"], size, weather(), np.zeros((0, 3)), rng())
    snapshot = Stage(NOWHERE, [block(4.0, 5.0, 5.0)]).at(0.0)
    starts, directions = camera._world_rays(SE3(), np.array([10.0, 0.0, 0.0]))
    seen, _ = snapshot.cast(starts, directions, camera._may_meet_movers(snapshot, camera.sensor.ego_SE3_sensor))
    np.testing.assert_array_equal(seen, snapshot.cast(starts, directions)[0])


def test_no_row_casts_a_false_shadow():
    """At 10 m/s the first rows start 8 cm behind the middle one; a wall that faces the sun stays in the light."""
    sunny = replace(weather(), sun_direction=(-0.6, 0.0, 0.8))
    camera = StreetCamera(sensor("CAM_FRONT"), TINY, sunny, np.zeros((0, 3)), rng())
    snapshot = Stage(wall(15.0, (-40, 40)), []).at(0.0)
    starts, directions = camera._world_rays(SE3(), np.array([10.0, 0.0, 0.0]))
    distance, triangle = snapshot.cast(starts, directions)
    assert np.mean(triangle >= 0) > 0.3
    assert not camera._shadow(snapshot, starts, directions, distance, triangle).any()
    middle = np.tile(camera.sensor.ego_SE3_sensor.translation, (len(starts), 1))
    assert camera._shadow(snapshot, middle, directions, distance, triangle).any()  # points inside the wall


def test_motion_blur_is_as_long_as_the_way_of_the_image():
    """Looking sideways at 10 m: at night, 14 ms, a vehicle at 10 m/s passes 14 cm, which is f * 0.014 pixels."""
    camera = StreetCamera(
        replace(sensor("CAM_FRONT"), ego_SE3_sensor=SE3(np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]), np.zeros(3))),
        (800, 450),
        weather("night"),
        np.zeros((0, 3)),
        rng(),
    )
    kernel = camera._motion_blur(np.full(9, 10.0), SE3(), np.array([10.0, 0.0, 0.0]))
    assert kernel.sum() == pytest.approx(1.0)
    rows, columns = np.nonzero(kernel)
    assert np.ptp(rows) == 0
    assert np.ptp(columns) + 1 == pytest.approx(camera._intrinsics[0, 0] * 0.014, abs=1.5)
    assert camera._motion_blur(np.full(9, 10.0), SE3(), STANDING) is None


def test_the_dark_is_noisy():
    noise = {}
    for light in (0.002, 0.3):
        image = street_camera()._expose(
            np.full((90, 160, 3), light, np.float32), np.full(9, np.inf), SE3(), STANDING, 1
        )
        noise[light] = (image[40:50, 75:85].std(axis=(0, 1)) / image[40:50, 75:85].mean()).mean()
    assert noise[0.002] > 3 * noise[0.3]


def test_texture_belongs_to_its_object_and_tells_front_from_rear():
    """Looking along x at the front and at the rear of a car, 40 cm above the ground, here and elsewhere."""
    actor = block(0.0, 0.0, 0.0)
    painted = replace(actor.shape.mesh, material=np.full(12, Material.PAINT, np.uint8))
    stage = Stage(NOWHERE, [replace(actor, shape=replace(actor.shape, mesh=painted))])
    half, snapshot = stage.half, stage.at(0.0)
    surfaces = stage.material, snapshot.normals, stage.instance
    values = {}
    for shift in (0.0, 300.0):
        for side in (1, -1):
            y = np.linspace(-0.5, 0.5, 11)
            eye, ray = np.array([side * 10.0, 0.0, 0.55]), np.stack([-side * 10 + 2 * side + 0 * y, y, 0 * y], 1)
            distance, triangle = snapshot.cast(eye, (ray / np.linalg.norm(ray, axis=1)[:, None]).astype(np.float32))
            poses = snapshot.poses + [shift, 0.0, 0.0, 0.0]
            rays = (ray / np.linalg.norm(ray, axis=1)[:, None]).astype(np.float32)
            values[shift, side] = tints(
                distance, triangle, rays, np.tile(eye + [shift, 0, 0], (11, 1)), *surfaces, poses, half, stage.heights
            )
    for side in (1, -1):
        np.testing.assert_allclose(values[0.0, side], values[300.0, side], atol=2e-3)
    assert values[0.0, 1].mean() < 0.4 * values[0.0, -1].mean()  # the grille is dark


# --- a whole scene


@pytest.fixture(scope="module")
def drive(tmp_path_factory):
    root = tmp_path_factory.mktemp("street") / "sim"
    return simulate(root, 1, 0.5, 3, image_size=TINY, weather=("day",), workers=1, world="street")


def test_half_of_the_clusters_pass_the_filter(drive):
    found = []
    for path in drive.glob("s*/RADAR_*/*.pcd"):
        header, _, body = path.read_bytes().partition(b"DATA binary\n")
        found.append(np.frombuffer(body, RADAR_FIELDS, int(header.split(b"POINTS ")[1].split()[0])))
        assert 1 <= len(found[-1]) <= 125
    clusters = np.concatenate(found)
    passing = (clusters["invalid_state"] == 0) & (clusters["ambig_state"] == 3) & (clusters["dyn_prop"] < 7)
    assert 0.38 < passing.mean() < 0.54
    over_ground = np.hypot(clusters["vx_comp"], clusters["vy_comp"])
    assert 0.1 < np.mean(over_ground > 0.5) < 0.3


def test_radar_evidence_counts_clusters_in_boxes(drive):
    """Counted again from the points, by the corners of each box in its own axes."""
    cells = [row.split("|")[1:-1] for row in radar_evidence(drive).splitlines()[2:]]
    found = {name.strip(): (int(boxes), *map(float, counts.split(","))) for name, boxes, _, _, counts, _ in cells}
    for column, filtered in ((1, False), (2, True)):
        frames, clusters = NuScenes(drive, sensors=("radar",), radar_sweeps=1, radar_filter=filtered), []
        for frame in (frames[i] for i in range(len(frames))):
            cars = frame.boxes[
                (frame.boxes.label == CLASSES.index("car")) & (np.hypot(*frame.boxes.center[:, :2].T) < 50)
            ]
            for center, size, yaw in zip(cars.center, cars.size, cars.yaw, strict=True):
                local = SE3.from_yaw(yaw, center).inverse().transform(frame.radar.points[:, :3].astype(float))
                clusters.append(np.sum((np.abs(local[:, :2]) <= 0.5 * size[:2] + 0.5).all(axis=1)))
        assert len(clusters) == found["car"][0] > 3
        assert found["car"][column] == pytest.approx(np.mean(clusters), abs=0.006)


def test_cameras_fire_before_the_end_of_the_sweep(drive):
    samples = {row["token"]: row["timestamp"] for row in json.loads((drive / "v1.0-sim" / "sample.json").read_text())}
    for row in json.loads((drive / "v1.0-sim" / "sample_data.json").read_text()):
        if "CAM" in row["filename"]:
            assert -50_000 < row["timestamp"] - samples[row["sample_token"]] < 0


@pytest.mark.slow
def test_same_bytes_again(drive, tmp_path):
    again = simulate(tmp_path, 1, 0.5, 3, image_size=TINY, weather=("day",), workers=1, world="street")
    files = [path.relative_to(again) for path in again.rglob("*") if path.is_file()]
    assert [name for name in files if (drive / name).read_bytes() != (again / name).read_bytes()] == []


def test_the_town_keeps_its_sensors():
    assert type(make_lidar("town", sensor(LIDAR_NAME), weather(), rng())) is Lidar
    assert type(make_radar("town", sensor("RADAR_FRONT"), [], np.zeros((0, 4)), rng())) is Radar
    assert type(make_camera("town", sensor("CAM_FRONT"), TINY, weather(), np.zeros((0, 3)), rng())) is Camera
    assert camera_delay_s("town", "CAM_FRONT") == -0.0127
    np.testing.assert_array_equal(Lidar(sensor(LIDAR_NAME), weather()).delay_s(np.ones((3, 3))), np.zeros(3))
