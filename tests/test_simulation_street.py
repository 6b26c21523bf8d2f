"""The world "street": no box overlaps another, leaves let rays pass, the ground undulates; the town stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path as FilePath

import cv2
import numpy as np
import pytest

pytest.importorskip("open3d", reason="the simulator needs the extra 'sim'")

from perception.errors import PerceptionError
from perception.geometry import box_corners, in_box
from perception.sim import furniture, plants
from perception.sim.compare import angle_to_axis, heading_shares, track_headings
from perception.sim.footprints import overlap
from perception.sim.mesh import Material, ball, box
from perception.sim.raycast import Stage
from perception.sim.road import Layout, Path
from perception.sim.scene import SceneRun
from perception.sim.shapes import make_shape
from perception.sim.side_road import SIDE_PARKING_M
from perception.sim.simulate import Settings
from perception.sim.street_traffic import StreetTraffic
from perception.sim.terrain import FLAT, STEEPEST, Terrain, draped
from perception.sim.traffic import Actor, Track, Traffic

KEYFRAMES_S = (0.0, 0.5, 1.0)
STREET = Settings(1, 1.0, 5, (32, 32), ("day",), world="street")
TOWN_COUNTS, TOWN_PLACES, TOWN_VERTICES = (83, 5538, 817), 45086.15890777786, 2358617.851799139


def rng_of(seed: int):
    return lambda purpose: np.random.default_rng([seed, *purpose.encode()])


def plan(seed: int) -> tuple[Path, Layout]:
    rng = rng_of(seed)("world")
    return Path(rng, -165.0, 180.0), Layout.draw(rng, -75.0, 90.0)


def traffic(kind: type[Traffic], seed: int) -> Traffic:
    return kind(rng_of(seed)("traffic"), *plan(seed), 1.0, 8.0)


@pytest.fixture(scope="module")
def streets() -> list[Traffic]:
    return [traffic(StreetTraffic, seed) for seed in range(5)]


@pytest.fixture(scope="module")
def world() -> SceneRun:
    return SceneRun(STREET, 0, FilePath("unused"))


def common_area(a: np.ndarray, b: np.ndarray) -> float:
    """Of two convex outlines [4, 2], by OpenCV."""
    origin = a.mean(axis=0)
    area, _ = cv2.intersectConvexConvex((a - origin).astype(np.float32), (b - origin).astype(np.float32))
    return area


def overlapping(actors: list[Actor], time: float) -> list[tuple[str, str]]:
    """Pairs whose boxes, each a centimetre smaller, share ground."""
    places = np.array([actor.track.at(time) for actor in actors])
    size = np.array([actor.shape.size for actor in actors]) - 0.01
    outlines = box_corners(np.column_stack([places[:, :2], np.zeros(len(places))]), size, places[:, 2])[..., :2]
    outlines = np.array([cv2.convexHull(outline.astype(np.float32))[:, 0] for outline in outlines], np.float64)
    reach = 0.5 * np.hypot(size[:, 0], size[:, 1])
    pairs = []
    for i in range(len(actors)):
        near = np.hypot(*(places[i + 1 :, :2] - places[i, :2]).T) < reach[i] + reach[i + 1 :]
        for j in i + 1 + np.flatnonzero(near):
            if common_area(outlines[i], outlines[j]) > 1e-4:
                pairs.append((actors[i].shape.category, actors[j].shape.category))
    return pairs


def test_no_boxes_overlap(streets):
    for street in streets:
        for time in KEYFRAMES_S:
            assert overlapping(street.actors, time) == []
    assert any(
        overlapping(traffic(Traffic, seed).actors, 0.0) for seed in range(3)
    )  # the town's do: the check finds it


def test_a_trailer_follows_its_tractor(streets):
    """Where a moving trailer has a tractor, the gap between the boxes is the coupling's; none is left without room."""
    gaps = []
    for street in streets:
        for trailer in (a for a in street.actors if a.shape.category == "vehicle.trailer" and a.track.moves):
            x, y, yaw = trailer.track.at(0.0)
            for other in (a for a in street.actors if a.shape.category == "vehicle.truck" and a.track.moves):
                ahead = np.array(other.track.at(0.0)[:2]) - [x, y]
                along, across = ahead @ [np.cos(yaw), np.sin(yaw)], ahead @ [-np.sin(yaw), np.cos(yaw)]
                if 0 < along < 12 and abs(across) < 2:
                    gaps.append(along - 0.5 * (trailer.shape.size[0] + other.shape.size[0]))
    assert gaps and 0.0 < min(gaps) and np.median(gaps) == pytest.approx(0.5, abs=0.2)


@pytest.mark.parametrize(
    ("place", "margin", "expected"),
    [
        ([3.99, 0, 0, 4, 2], 0.0, True),
        ([4.01, 0, 0, 4, 2], 0.0, False),
        ([4.01, 0, 0, 4, 2], 0.05, True),
        ([0, 2.01, np.pi, 4, 2], 0.0, False),
        ([2.99, 0, 0.5 * np.pi, 4, 2], 0.0, True),
        ([3.01, 0, 0.5 * np.pi, 4, 2], 0.0, False),
        ([3.0, 2.0, 0.25 * np.pi, 0.1, 4], 0.0, False),  # aslant before a corner: only its own axis separates them
        ([2.5, 1.5, 0.25 * np.pi, 0.1, 4], 0.0, False),
        ([2.0, 1.0, 0.25 * np.pi, 0.1, 4], 0.0, True),
    ],
)
def test_overlap_by_hand(place, margin, expected):
    """Against a rectangle of 4 m by 2 m at the origin, and the other way round."""
    a, b = np.array([0.0, 0, 0, 4, 2]), np.array(place, float)
    assert overlap(a, b, margin) == overlap(b, a, margin) == expected


def test_every_class_and_cars_of_all_headings(streets):
    angles, counts = [], []
    for street in streets:
        x, y, yaw = street.ego.at(0.0)
        categories = [actor.shape.category for actor in street.actors]
        for part in ("car", "truck", "bus", "trailer", "construction", "motorcycle", "bicycle", "pedestrian", "cone"):
            assert any(part in category for category in categories), part
        assert "movable_object.barrier" in categories
        for actor in street.actors:
            ax, ay, heading = actor.track.at(0.0)
            if actor.shape.category == "vehicle.car" and np.hypot(ax - x, ay - y) < 50:
                angles.append(angle_to_axis(heading - yaw))
        moving = [a for a in street.actors if a.track.moves and a.shape.category == "vehicle.car"]
        counts.append(sum(abs(a.track.at(1.0)[2] - a.track.at(0.0)[2]) > 0.15 for a in moving))
    along, across = np.mean(np.array(angles) <= 22), np.mean(np.array(angles) >= 68)
    assert 0.25 < along < 0.6 and 0.25 < across < 0.6
    assert sum(counts) >= 2  # some turn: within a second by more than the main road bends


def test_vehicles_that_turn_look_where_they_go(streets):
    for street in streets:
        for actor in street.actors:
            vx, vy = actor.track.velocity(0.5)
            if actor.shape.category == "vehicle.car" and np.hypot(vx, vy) > 2:
                off = np.arctan2(vy, vx) - actor.track.at(0.5)[2]
                assert abs((off + np.pi) % (2 * np.pi) - np.pi) < 0.12


def test_vehicles_accelerate_as_vehicles_can():
    """Over 10 s nobody stops dead or is thrown about: over a fifth of a second the velocity changes by less than
    6 m/s2, in turns by less than 3 across the vehicle, and no long vehicle turns sharply."""
    for seed in range(4):
        times = np.arange(-0.7, 10.0, 0.1)
        for actor in StreetTraffic(rng_of(seed)("traffic"), *plan(seed), 10.0, 8.0).actors:
            if actor.shape.category.startswith("vehicle") and actor.track.moves:
                velocity = np.array([actor.track.velocity(time) for time in times])
                acceleration = (velocity[2:] - velocity[:-2]) / 0.2
                yaw, speed = np.array([actor.track.at(time)[2] for time in times]), np.hypot(*velocity.T)
                assert np.hypot(*acceleration.T).max() < 6.0
                rate = np.abs(yaw[2:] - yaw[:-2]) / 0.2
                assert (rate * speed[1:-1]).max() < 3.0
                assert actor.shape.size[0] < 7.0 or np.max(rate / np.maximum(speed[1:-1], 1.0)) < 0.06


def test_people_stand_in_groups(streets):
    """Most pedestrians have another one within two metres: crowds hide each other."""
    for street in streets:
        xy = np.array([a.track.at(0.0)[:2] for a in street.actors if "pedestrian" in a.shape.category])
        distance = np.linalg.norm(xy[:, None] - xy, axis=-1) + np.where(np.eye(len(xy)), np.inf, 0.0)
        assert len(xy) > 15 and np.mean(distance.min(axis=1) < 2.0) > 0.4


def test_groups_keep_to_the_sidewalk():
    """Whoever walks there, on either side: the middle of the body is between the kerb and the houses."""
    for seed in range(5):
        (path, layout), people = plan(seed), traffic(StreetTraffic, seed)
        s = np.arange(-160.0, 170.0, 0.05)
        line, heading = path.pose(s)
        for actor in people.actors:
            if "pedestrian" in actor.shape.category and actor.track.moves and actor.z > 0:
                for time in KEYFRAMES_S:
                    offset = np.array(actor.track.at(time)[:2]) - line
                    nearest = np.argmin(np.hypot(*offset.T))
                    lateral = abs(offset[nearest] @ [-np.sin(heading[nearest]), np.cos(heading[nearest])])
                    assert layout.kerb < lateral < layout.house_line


def test_nothing_stands_in_an_annotated_box(world):
    """No corner of the scenery lies in the box of anybody, at any keyframe."""
    vertices = world.scenery.mesh.vertices
    vertices = vertices[vertices[:, 2] - world.terrain.height(vertices[:, :2]) > 0.3]  # without the ground and the kerb
    vertices = vertices[np.argsort(vertices[:, 0])]
    for time in KEYFRAMES_S:
        for actor in world.traffic.actors:
            x, y, yaw = actor.track.at(time)
            z = float(world.terrain.height([x, y])) + actor.z + 0.5 * actor.shape.size[2]
            low, high = np.searchsorted(vertices[:, 0], [x - 9, x + 9])
            assert not in_box(vertices[low:high], np.array([x, y, z]), actor.shape.size, yaw).any()


def test_a_world_follows_from_its_seed(world):
    again = SceneRun(STREET, 0, FilePath("unused"))
    assert again.scenery.mesh.vertices.tobytes() == world.scenery.mesh.vertices.tobytes()
    assert again.scenery.reflectors.tobytes() == world.scenery.reflectors.tobytes()
    places = [[actor.track.at(0.5) for actor in each.traffic.actors] for each in (world, again)]
    assert places[0] == places[1]


def test_the_amount_of_clutter_is_bounded(world):
    count = len(world.scenery.mesh.triangles)
    assert 150_000 < count < 700_000
    assert np.mean(world.scenery.mesh.material == Material.FOLIAGE) > 0.3


def depths(mesh) -> np.ndarray:
    """Where 400 nearly parallel rays along +x, through the middle of a mesh, meet it first; inf where they pass."""
    middle = np.median(mesh.vertices, axis=0)
    y, z = np.meshgrid(np.linspace(-0.5, 0.5, 20), np.linspace(-0.5, 0.5, 20))
    directions = np.stack([np.ones(400), y.ravel() / 100, z.ravel() / 100], 1)
    return Stage(mesh, []).at(0.0).cast(middle - [100.0, 0, 0], directions)[0]


def test_leaves_echo_from_every_depth():
    """A solid crown echoes from its surface alone; one of leaves from within, and some rays pass."""
    rng = np.random.default_rng(0)
    tree = depths(plants.tree(rng, 8.0))
    solid = depths(ball([0, 0, 5], [2, 2, 2], (0.2, 0.4, 0.2), Material.FOLIAGE))
    assert np.isfinite(solid).all() and solid.std() < 0.15
    met = tree[np.isfinite(tree)]
    assert met.std() > 0.4 and np.ptp(met) > 1.5
    assert 0.02 < np.mean(np.isinf(tree)) < 0.9


def test_bollards_are_not_orange():
    """A cone is orange with white bands; so must no bollard be."""
    for seed in range(60):
        red, green, blue = furniture.bollard(np.random.default_rng(seed)).color.T
        assert not ((red > 0.7) & (green > 0.25) & (green < 0.6) & (blue < 0.3)).any()


def test_hedges_and_bushes_are_open_too():
    rng = np.random.default_rng(1)
    for mesh in (plants.hedge(rng, 2.2, 1.4, plants.green(rng)), plants.bush(rng)):
        met = depths(mesh)
        assert met[np.isfinite(met)].std() > 0.05
        assert mesh.vertices[:, 2].min() >= 0


# --- ground ---


def test_terrain_is_gentle_and_tilts_what_drives_on_it():
    terrain, xy = Terrain.draw(np.random.default_rng(0)), np.random.default_rng(1).uniform(0, 400, (200, 2))
    h = 1e-4
    slope = np.stack([(terrain.height(xy + d) - terrain.height(xy - d)) / (2 * h) for d in (h * np.eye(2))], 1)
    steepness = np.linalg.norm(slope, axis=1)
    assert 0.3 * STEEPEST < steepness.max() <= STEEPEST
    for (x, y), (east, north) in zip(xy[:5], slope[:5], strict=True):
        pitch, roll = terrain.pitch_and_roll(x, y, 0.5 * np.pi)  # facing north: ahead is +y, left is -x
        assert pitch == pytest.approx(-np.arctan(north), abs=1e-6)
        assert roll == pytest.approx(np.arctan(-east), abs=1e-6)
    assert FLAT.height(xy).tolist() == [0.0] * 200 and FLAT.pitch_and_roll(3.0, 4.0, 1.0) == (0.0, 0.0)


def test_a_draped_plate_follows_the_ground():
    """Of a plate of 60 m cut to edges of 4 m, the middles of all triangles lie within 5 mm of the terrain."""
    terrain = Terrain.draw(np.random.default_rng(2))
    plate = box([100, 50, -0.5], [60, 60, 1.0], (0.3, 0.3, 0.3), Material.ASPHALT)
    mesh = draped(plate, terrain, 4.0)
    corners = mesh.vertices[mesh.triangles]
    edges = np.linalg.norm(corners[..., :2] - np.roll(corners[..., :2], 1, axis=1), axis=-1)
    assert edges.max() <= 4.0
    middle = corners.mean(axis=1)
    flat = draped(plate, FLAT, 4.0).vertices[mesh.triangles]
    top = flat[..., 2].min(axis=1) == 0.0
    np.testing.assert_allclose(middle[top, 2], terrain.height(middle[top, :2]), atol=0.005)
    flat = flat[top]
    area = np.linalg.norm(np.cross(flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]), axis=1).sum() / 2
    assert area == pytest.approx(3600.0)  # nothing lost, nothing twice
    assert draped(plate, FLAT).vertices.tolist() == plate.vertices.tolist()


@pytest.mark.parametrize("speed", [0.0, 10.0])
def test_actors_stand_on_the_ground(speed):
    """On a wave of 2 m amplitude: a ray from above meets the roof as high above the ground as without it."""
    terrain = Terrain(np.array([[2.0, 0.02, 0.0, 0.0]]))
    times = np.arange(60) * 0.05 - 1.0
    track = Track(30 + speed * times, np.full(60, 5.0), np.zeros(60)) if speed else Track.standing((30, 5), 0.0)
    actor = Actor(make_shape("vehicle.car", np.random.default_rng(0)), track, z=0.15)
    ground = box([0, 0, -20], [400, 400, 1], (0.3, 0.3, 0.3))
    x = 30 + speed * 0.5
    tops = []
    for land in (FLAT, terrain):
        stage = Stage(ground, [actor], land)
        for snapshot in (stage.at(0.5), stage.coarse(stage.poses(0.5)[0])):
            tops.append(50 - snapshot.cast(np.array([x, 5.0, 50.0]), np.array([[0.0, 0, -1]]))[0][0])
    expected = 2.0 * np.sin(0.02 * x)
    assert tops[2] - tops[0] == pytest.approx(expected, abs=1e-4)
    assert tops[3] - tops[1] == pytest.approx(expected, abs=1e-4)


def test_no_sidewalk_lies_on_the_side_road():
    """All over the side road, up to its borders and beyond the houses, the ground is at the carriageway's height."""
    for index in range(3):
        run = SceneRun(replace(STREET, scenes=3), index, FilePath("unused"))
        layout, (center, heading) = run.layout, run.path.pose(run.layout.cross_s)
        yaw, half = float(heading) + layout.cross_angle, layout.cross_half_width + SIDE_PARKING_M - 0.05
        along, across = np.meshgrid(np.arange(-layout.house_line - 3, layout.house_line + 3, 0.5), [-half, 0, half])
        out, left = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
        xy = center + along.reshape(-1, 1) * out + across.reshape(-1, 1) * left
        height = run.terrain.height(xy)
        above = np.column_stack([xy, height + 0.3])
        reach, _ = Stage(run.scenery.mesh, []).at(0.0).cast(above, np.tile([0.0, 0.0, -1.0], (len(xy), 1)))
        assert np.abs(reach - 0.3).max() < 0.1  # a sidewalk is 0.15 m high
        for actor in run.actors:
            if actor.z > 0:  # on a sidewalk
                for time in KEYFRAMES_S:
                    assert abs((np.array(actor.track.at(time)[:2]) - center) @ left) > half


def test_the_vehicle_rides_on_the_ground(world):
    pose = world._ego(0.4)
    assert pose.translation[2] == pytest.approx(float(world.terrain.height(pose.translation[:2])))
    ahead = pose.transform(np.array([3.0, 0.0, 0.0]))
    assert abs(ahead[2] - world.terrain.height(ahead[:2])) < 0.05  # the springs pitch by 0.3 degrees


# --- the town stays as it was ---


def test_the_town_is_unchanged():
    """Figures of the world as it was before there was a street."""
    run = SceneRun(Settings(1, 1.0, 5, (32, 32), ("day",)), 0, FilePath("unused"))
    places = np.array([actor.track.at(0.5) for actor in run.actors])
    mesh = run.scenery.mesh
    assert (len(run.actors), len(mesh.triangles), len(run.scenery.reflectors)) == TOWN_COUNTS
    assert places.sum() == pytest.approx(TOWN_PLACES, rel=1e-9)
    assert mesh.vertices.sum() == pytest.approx(TOWN_VERTICES, rel=1e-9)
    assert run.terrain is FLAT and run._ego(0.0).translation[2] == 0.0


# --- the comparison's headings ---


def test_headings_by_hand():
    assert angle_to_axis([0.0, np.pi, 0.5 * np.pi, -0.5 * np.pi, np.pi + 0.1]) == pytest.approx(
        [0, 0, 90, 90, np.degrees(0.1)], abs=1e-6
    )
    assert heading_shares(np.array([0.0, 21.9, 22.1, 67.9, 90.0])) == "40 % / 40 % / 20 %"
    assert heading_shares(np.zeros(0)) == "–"


def test_headings_of_tracks(tmp_path):
    """Of eleven instants the first and the last count; one car is too far off, one not there at the end."""

    def track(name: str, x: float, heading: float, valid: int = 1, kind: str = "VEHICLE") -> dict:
        places = {"position": [[x, 0.0, 0.0]] * 11, "heading": [heading] * 11}
        return {"id": name, "type": kind, "valid": [1] * 10 + [valid], **places}

    tracks = [track("ego", 0, 0.5), track("a", 10, 0.5), track("b", 49, 2.0, 0), track("c", 51, 0.0)]
    path = tmp_path / "tracks.json"
    path.write_text(json.dumps({"tracks": [*tracks, track("d", 5, 0.5 + 0.5 * np.pi, kind="CYCLIST")]}))
    found = track_headings(path)
    assert found["VEHICLE"] == pytest.approx([0, 0, np.degrees(1.5)])
    assert found["CYCLIST"] == pytest.approx([90, 90])
    path.write_text('{"tracks": []}')
    with pytest.raises(PerceptionError, match=r"tracks\.json: tracks of an ego vehicle"):
        track_headings(path)
