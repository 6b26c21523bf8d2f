"""The object decoder: what it starts from, what it sees of each sensor, and what physics says of a velocity."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from dense_targets import encode
from test_model import make_frame, small_config
from torch import nn

from perception.batch import Moment, PointBatch
from perception.config import AugmentConfig
from perception.errors import PerceptionError
from perception.eval.evaluate import evaluate_subsets
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.build import build
from perception.model.decoder import Attention, DecoderLayer
from perception.model.encoder import Encoded, Views
from perception.model.head import BOX_CHANNELS, CenterHead, CenterMaps
from perception.model.memory import Memory
from perception.model.objects import Objects, rotated
from perception.model.proposals import boxes_at, find_peaks
from perception.model.radar import RadarEncoder
from perception.model.radial_velocity import solve_velocity
from perception.model.tokens import MapTokens, PointTokens, Tokens, ViewTokens, displaced, restored
from perception.replay.pipeline import replay
from perception.sample import Boxes3D, RadarCloud
from perception.task import NUSCENES
from perception.train.batches import Draw, TrainingData
from perception.train.losses import DetectionLoss
from perception.train.object_losses import ObjectLoss, match

GRID = BEVGrid(-16.0, 16.0, -16.0, 16.0, -3.0, 3.0, 1.0)
SCALE = RadarEncoder.return_scale
DECODER = ("decoder.kind=attention", "decoder.width=16", "decoder.heads=2", "decoder.queries=20")


def objects(center, yaw=0.0, size=(4.0, 2.0, 1.5), velocity=(0.0, 0.0), label=0, width=4) -> Objects:
    """One object of one sample."""
    logits = torch.full((1, 1, 10), -5.0)
    logits[..., label] = 2.0
    return Objects(
        torch.tensor([[center]], dtype=torch.float32), torch.tensor([[size]]).log(), torch.tensor([[yaw]]),
        torch.tensor([[velocity]]), torch.ones(1, 1), torch.full((1, 1), label), torch.full((1, 1), 0.8), logits,
        torch.zeros(1, 1, 8), torch.zeros(1, 1), torch.zeros(1, 1, width), torch.ones(1, 1, dtype=torch.bool),
    )  # fmt: skip


# -- proposals --------------------------------------------------------------------------------------------------------


def center_maps(boxes: Boxes3D) -> CenterMaps:
    """Those of a dense head that is right."""
    target = encode([boxes], GRID, NUSCENES)
    heat = (target.heat * 0.98 + 0.01).logit()
    return CenterMaps(heat, target.box.nan_to_num(), torch.zeros(1, 8, *GRID.shape))


def test_proposals_are_the_boxes_of_the_dense_head():
    boxes = Boxes3D([[3.3, -4.8, 0.5], [-7.1, 2.2, 1.0]], [[4.2, 1.9, 1.6], [0.7, 0.6, 1.7]], [2.5, -1.0],
                    [[3.0, -1.0], [0.5, 0.2]], [0, 5])  # fmt: skip
    maps = center_maps(boxes)
    peaks = find_peaks(maps, GRID, 2)
    found = boxes_at(maps, GRID, peaks, torch.zeros(1, 2, 4))
    order = np.argsort(peaks.label[0])
    (dense,) = CenterHead(GRID, NUSCENES, 4, 4).decode(maps)
    for b, i in enumerate(order):
        assert found.center[0, i].tolist() == pytest.approx(boxes.center[b], abs=1e-5)
        assert found.size[0, i].tolist() == pytest.approx(boxes.size[b], abs=1e-5)
        assert math.remainder(found.yaw[0, i].item() - boxes.yaw[b], 2 * math.pi) == pytest.approx(0, abs=1e-5)
        assert found.velocity[0, i].tolist() == pytest.approx(boxes.velocity[b], abs=1e-5)
        assert found.sense_logit[0, i] == pytest.approx(2.0, abs=1e-5)
    assert len(dense) >= 2


def test_a_peak_is_the_highest_of_its_class_around():
    """Two neighbouring cells, one higher for cars and the other for pedestrians: one peak of each; one of trucks."""
    heat = torch.full((1, 10, *GRID.shape), -9.0)
    heat[0, 0, 5, 5], heat[0, 0, 5, 6] = 3.0, 2.0
    heat[0, 5, 5, 5], heat[0, 5, 5, 6] = 0.0, 1.0
    heat[0, 1, 5, 5] = -1.0
    maps = CenterMaps(heat, torch.zeros(1, 12, *GRID.shape), torch.zeros(1, 8, *GRID.shape))
    peaks = find_peaks(maps, GRID, 3)
    found = list(zip(peaks.label[0].tolist(), (peaks.cell[0] - 5 * GRID.columns).tolist(), strict=True))
    assert found == [(0, 5), (5, 6), (1, 5)] and peaks.valid.all()
    boxes = boxes_at(maps, GRID, peaks, torch.zeros(1, 3, 4))
    assert boxes.label[0].tolist() == [0, 5, 1]
    assert boxes.prior[0].tolist() == pytest.approx(torch.tensor([3.0, 1.0, -1.0]).sigmoid().tolist())


def test_a_score_is_of_proposal_class_and_fit():
    """Of the class as which it was proposed, whatever others are likelier: (0.8 * 0.5 * 0.25 ** 0.5) ** 0.5."""
    found = objects([0.0, 0.0, 0.0], label=3)
    found.class_logits[0, 0, 3], found.class_logits[0, 0, 4] = 0.0, 5.0
    found.quality_logit[:] = torch.tensor(0.25).logit()
    assert found.scores.item() == pytest.approx(0.2**0.5)
    found.valid[:] = False
    assert found.scores.item() == 0.0


def test_proposals_of_two_classes_in_one_cell_have_boxes_of_their_own_groups():
    heat = torch.full((1, 10, *GRID.shape), -9.0)
    heat[0, 0, 5, 5], heat[0, 8, 5, 5] = 3.0, 2.0
    box = torch.zeros(1, 24, *GRID.shape)
    box[0, 3], box[0, 15] = 1.5, -1.0  # log of the length, by group
    group = torch.tensor([0] * 8 + [1] * 2)
    maps = CenterMaps(heat, box, torch.zeros(1, 16, *GRID.shape), group)
    peaks = find_peaks(maps, GRID, 2)
    found = boxes_at(maps, GRID, peaks, torch.zeros(1, 2, 4))
    assert found.label[0].tolist() == [0, 8] and found.log_size[0, :, 0].tolist() == [1.5, -1.0]
    assert found.attribute_logits.shape == (1, 2, 8)


def test_a_map_smaller_than_the_number_of_queries():
    maps = CenterMaps(torch.zeros(2, 10, 3, 3), torch.zeros(2, 12, 3, 3), torch.zeros(2, 8, 3, 3))
    grid = BEVGrid(0.0, 3.0, 0.0, 3.0, -1.0, 1.0, 1.0)
    assert find_peaks(maps, grid, 1000).cell.shape == (2, 90)


# -- tokens -----------------------------------------------------------------------------------------------------------


def identity(source: nn.Module, width: int) -> nn.Module:
    """A source that shows what it samples."""
    for layer in [source.embed] if isinstance(source.embed, nn.Linear) else source.embed:
        nn.init.eye_(layer.weight)
        nn.init.zeros_(layer.bias)
    return source


def position_map(finer: int = 1) -> torch.Tensor:
    """[1, 2, rows, columns]: x and y of every cell."""
    at = (torch.arange(32 * finer) + 0.5) / finer - 16
    return torch.stack([at.expand(32 * finer, -1), at[:, None].expand(-1, 32 * finer)])[None]


@pytest.mark.parametrize("finer", [1, 2])
def test_a_map_is_read_over_the_box_at_any_heading(finer):
    source = identity(MapTokens(GRID, 2, 2, fine=finer > 1), 2)
    encoded = Encoded(position_map(), fine=position_map(finer))
    tokens = source(encoded, objects([3.0, -2.0, 0.0], yaw=math.pi / 2), torch.zeros(1, 3))
    ahead = tokens.offset[0, 0, :, 0].argmax()  # half a length before the centre: to the left of the vehicle
    assert tokens.offset[0, 0, ahead].tolist() == [2.0, -1.0, 0.0]
    assert tokens.features[0, 0, ahead].tolist() == pytest.approx([3.0 + 1.0, -2.0 + 2.0], abs=1e-4)
    assert tokens.valid.all() and tokens.features.shape == (1, 1, 9, 2)


def test_a_displaced_sensor_is_read_where_it_shows_the_object():
    motion = torch.tensor([[math.pi / 2, 1.0, -3.0]])  # (5, 2) is shown at (-2 + 1, 5 - 3)
    source = identity(MapTokens(GRID, 2, 2, fine=False), 2)
    tokens = source(Encoded(position_map()), objects([5.0, 2.0, 0.0]), motion)
    assert tokens.features[0, 0, 4].tolist() == pytest.approx([-1.0, 2.0], abs=1e-4)
    there = torch.randn(1, 4, 3)
    assert torch.allclose(restored(displaced(there, motion), motion), there, atol=1e-5)


def test_off_the_map_there_is_no_token():
    tokens = MapTokens(GRID, 2, 2, fine=False)(Encoded(position_map()), objects([16.5, 0.0, 0.0]), torch.zeros(1, 3))
    assert tokens.valid[0, 0].tolist() == [True] * 3 + [False] * 6  # behind it, it is still there


def views(count: int = 2) -> Views:
    """Cameras at the origin, the first one looking forward, the second one back; a feature is (column, row)."""
    intrinsics = torch.tensor([[100.0, 0, 99.5], [0, 100, 49.5], [0, 0, 1]])
    forward = torch.tensor([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    poses = torch.stack([forward, torch.diag(torch.tensor([-1.0, -1, 1, 1])) @ forward])[None, :count]
    maps = [torch.stack([torch.arange(w).expand(h, -1), torch.arange(h)[:, None].expand(-1, w)]).float()
            for h, w in ((12, 25), (6, 12))]  # fmt: skip
    features = tuple(m.expand(1, count, 2, *m.shape[1:]) for m in maps)
    valid = torch.ones(1, count, dtype=torch.bool)
    return Views(features, intrinsics.expand(1, count, 3, 3), poses, (100, 200), valid)


def test_images_are_read_where_the_box_projects():
    """A box 10 m ahead and 1 m to the left is 10 pixels left of the middle of an image of 200, 25 cells of 8."""
    source = identity(ViewTokens((2, 2), 2), 2)
    tokens = source(Encoded(torch.zeros(1, 1, 1, 1), views=views()), objects([10.0, 1.0, 0.0]), torch.zeros(1, 3))
    assert tokens.features.shape == (1, 1, 2 * 2 * 15, 2)
    u = 99.5 - 10.0
    first = tokens.features[0, 0, 0]  # the centre, in the finer map of the image that sees it
    assert first.tolist() == pytest.approx([(u + 0.5) / 8 - 0.5, (49.5 + 0.5) * 12 / 100 - 0.5], abs=1e-3)
    assert tokens.valid[0, 0].tolist() == ([True] * 15 + [False] * 15) * 2  # the other camera looks back
    assert tokens.offset[0, 0, 15:30].tolist() == tokens.offset[0, 0, :15].tolist()


def test_an_absent_camera_shows_nothing():
    seen = dataclasses.replace(views(1), valid=torch.zeros(1, 1, dtype=torch.bool))
    tokens = ViewTokens((2, 2), 4)(Encoded(torch.zeros(1), views=seen), objects([10.0, 1.0, 0.0]), torch.zeros(1, 3))
    assert not tokens.valid.any() and tokens.valid.shape == (1, 1, 30)


def radar(*points, samples=(), batch_size=1) -> Encoded:
    """points: x, y, z, rcs_dbsm, vx, vy, age_s, each of the first sample or of that in ``samples``."""
    of_samples = torch.tensor(samples or [0] * len(points), dtype=torch.int64)
    cloud = PointBatch(torch.tensor(points).reshape(-1, 7), of_samples, batch_size, RadarCloud.fields)
    return Encoded(torch.zeros(1), returns=cloud)


def test_points_within_reach_are_seen_in_the_axes_of_the_box():
    encoded = radar([10.0, 1.0, 0.5, 0.0, 0.0, 2.0, 0.0], [10.0, 40.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    tokens = PointTokens(SCALE, 4)(encoded, objects([10.0, 0.0, 0.0], yaw=math.pi / 2), torch.zeros(1, 3))
    assert tokens.valid[0, 0].tolist() == [True, False]  # the other one is 40 m away
    assert tokens.offset[0, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.5], abs=1e-6)  # ahead of a box that heads left
    assert tokens.velocity[0, 0, 0].tolist() == pytest.approx([2.0, 0.0], abs=1e-6)


def test_a_sensor_without_points_shows_nothing():
    assert not PointTokens(SCALE, 4)(radar(), objects([0.0, 0.0, 0.0]), torch.zeros(1, 3)).valid.any()


def test_points_are_padded_to_the_longest_cloud():
    points = torch.arange(21.0).reshape(3, 7).tolist()
    padded = radar(*points, samples=(0, 2, 2), batch_size=3).returns.padded
    empty = [0.0] * 7
    assert padded.points.tolist() == [[points[0], empty], [empty, empty], points[1:]]
    assert padded.valid.tolist() == [[True, False], [False, False], [True, True]]
    assert padded.padded is padded


@pytest.mark.parametrize("decoder", [(), DECODER])
def test_points_are_padded_and_cameras_projected_only_for_objects(decoder):
    model = build(small_config(*decoder)).eval()
    batch = model.prepare([make_frame("a")])
    with torch.no_grad():
        encoded = model.encode(batch)
        model.predict(encoded, batch.sensor_valid)
    asked = {"padded" in vars(encoded["radar"].returns), "image_T_ego" in vars(encoded["camera"].views)}
    assert asked == {bool(decoder)}


# -- attention --------------------------------------------------------------------------------------------------------


def test_masked_tokens_have_no_say_and_none_at_all_is_zero():
    torch.manual_seed(0)
    attention, query, tokens = Attention(8, 2), torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    valid = torch.tensor([[True, True, False, False, False]])
    changed = tokens.clone()
    changed[:, 2:] = 1e3
    assert torch.equal(attention(query, tokens, valid), attention(query, changed, valid))
    assert torch.allclose(attention(query, tokens, valid), attention(query, tokens[:, :2], valid[:, :2]), atol=1e-6)
    assert not attention(query, tokens, torch.zeros_like(valid)).any()


# -- velocity ---------------------------------------------------------------------------------------------------------


def test_velocity_of_two_beams_is_solved():
    """Seen along x at 3 m/s and along y at -1 m/s; the prior hardly counts."""
    direction = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = solve_velocity(direction, torch.tensor([3.0, -1.0]), torch.ones(2), torch.zeros(2), torch.full((2,), 1e-6))
    assert found.tolist() == pytest.approx([3.0, -1.0], abs=1e-4)


def test_what_one_beam_does_not_see_is_the_priors():
    """min (v_x - 4)^2 + 3 (v_x - 0)^2 is at 1; v_y is not seen."""
    found = solve_velocity(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([4.0]),
        torch.ones(1),
        torch.tensor([0.0, 7.0]),
        torch.tensor([3.0, 3.0]),
    )
    assert found.tolist() == pytest.approx([1.0, 7.0])


def test_velocity_without_a_measurement_is_the_prior_and_has_gradients():
    speed = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    prior = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    direction = nn.functional.normalize(torch.randn(2, 3, 2, dtype=torch.float64), dim=-1)
    strength = torch.rand(2, 2, dtype=torch.float64) + 0.5
    assert torch.allclose(solve_velocity(direction, speed, 0 * weight, prior, strength), prior)
    assert torch.autograd.gradcheck(lambda *x: solve_velocity(direction, *x, strength), (speed, weight, prior))


@pytest.mark.parametrize(("speed", "turned"), [(3.0, False), (-3.0, True)])
def test_an_untrained_layer_measures_velocity_inside_of_the_box_and_turns_it_with_its_motion(speed, turned):
    """10 m ahead, heading ahead, thought to drive at 1 m/s. A point at its centre, seen along its axis, weighs 1 beside
    the exp(-1.5) of the network; one beside the box says nothing. Going back outweighs a heading of logit 1."""
    torch.manual_seed(0)
    layer = DecoderLayer(4, 2, NUSCENES, ("radar",), attends=True)
    offset = torch.tensor([[[[0.0, 0.0, 0.0], [0.0, 2.5, 0.0]]]])
    velocity = torch.tensor([[[[speed, 0.0], [50.0, 0.0]]]])
    tokens = Tokens(torch.zeros(1, 1, 2, 4), offset, torch.ones(1, 1, 2, dtype=torch.bool), velocity)
    refined = layer(objects([10.0, 0.0, 0.0], velocity=(1.0, 0.0)), {"radar": tokens}).objects
    trust = math.exp(-1.5)
    expected = (speed + trust) / (1 + trust)
    assert refined.velocity[0, 0].tolist() == pytest.approx([expected, 0.0], abs=1e-5)
    assert math.cos(refined.yaw.item()) == pytest.approx(-1.0 if turned else 1.0)
    assert refined.sense_logit.item() == pytest.approx(abs(1.0 + expected), abs=1e-5)


# -- memory -----------------------------------------------------------------------------------------------------------


def moment(seconds: float, pose: SE3, scene: str = "a") -> Moment:
    return Moment([scene], torch.tensor([round(seconds * 1e9)]), torch.from_numpy(pose.matrix)[None])


def test_a_remembered_object_is_where_it_has_moved_to():
    """It drives at 4 m/s to the left, the vehicle 3 m on and 90 degrees to the left: half a second later it is 2 m to
    the left of where it was, which is 2 m ahead and 7 m to the right of the vehicle."""
    memory = Memory(objects([10.0, 0.0, 1.0], yaw=0.0, velocity=(0.0, 4.0)), moment(10.0, SE3()))
    now, elapsed = memory.at(moment(10.5, SE3.from_yaw(math.pi / 2, (3.0, 0.0, 0.0))))
    assert now.center[0, 0].tolist() == pytest.approx([2.0, -7.0, 1.0], abs=1e-5)
    assert now.velocity[0, 0].tolist() == pytest.approx([4.0, 0.0], abs=1e-5)
    assert now.yaw.item() == pytest.approx(-math.pi / 2) and now.valid.all() and elapsed.tolist() == [0.5]


@pytest.mark.parametrize(
    ("seconds", "pose", "scene"),
    [(10.0, SE3(), "a"), (9.5, SE3(), "a"), (13.0, SE3(), "a"), (10.5, SE3(), "b"),
     (10.5, SE3.from_yaw(0, (500.0, 0, 0)), "a")],
)  # fmt: skip
def test_nothing_is_remembered_of_no_time_the_future_long_ago_another_drive_or_across_a_jump(seconds, pose, scene):
    memory = Memory(objects([10.0, 0.0, 1.0]), moment(10.0, SE3()))
    assert not memory.at(moment(seconds, pose, scene))[0].valid.any()


# -- the whole --------------------------------------------------------------------------------------------------------


def small_detector(*overrides):
    torch.manual_seed(0)
    return build(small_config(*DECODER, *overrides)).eval()


@pytest.mark.parametrize("sensors", [("camera", "radar", "lidar"), ("camera",), ("radar",), ("lidar",)])
@pytest.mark.parametrize("kind", ["attention", "pooling"])
def test_untrained_it_returns_the_boxes_of_the_dense_head(kind, sensors):
    """But for velocities, which are measured, and with them the sense of headings."""
    model = small_detector(f"decoder.kind={kind}")
    with torch.inference_mode():
        prediction = model(model.prepare([make_frame().only(sensors)]))
        (found,) = model.decode(prediction)
    maps = prediction.outputs["boxes"]
    peaks = boxes_at(maps, model.grid, find_peaks(maps, model.grid, 20), torch.zeros(1, 20, 1))
    refined = prediction.refined[-1].objects
    for name in ("center", "log_size", "class_logits", "attribute_logits"):
        assert torch.allclose(getattr(refined, name), getattr(peaks, name), atol=1e-5)
    assert torch.allclose((2 * refined.yaw).cos(), (2 * peaks.yaw).cos(), atol=1e-5)
    assert 0 < len(found) <= 300 and np.isfinite(found.boxes.velocity).all()


def test_an_absent_sensor_is_masked_and_its_data_does_not_matter():
    """A batch in which one sample lacks a sensor detects in it what it detects alone."""
    model = small_detector()
    for parameter in model.decoder.parameters():  # trained, as it were
        nn.init.normal_(parameter, std=0.05)
    frames = [make_frame("a", 0), make_frame("b", 1).only(["lidar"])]
    together, alone = model.detect_batch(frames)[1], model.detect(frames[1])
    assert together.scores == pytest.approx(alone.scores, abs=1e-5)
    assert together.boxes.center == pytest.approx(alone.boxes.center, abs=1e-4)


def test_detect_with_a_memory_is_a_pure_function():
    model = small_detector("decoder.memory=5")
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.05)
    first, second = make_frame("a"), dataclasses.replace(make_frame("b", 1), timestamp_ns=500_000_000)
    plain, (alone, memory) = model.detect(first), model.detect(first, None)
    assert np.array_equal(plain.scores, alone.scores) and memory.objects.center.shape == (1, 5, 3)
    seen, after = model.detect(second, memory)
    again, _ = model.detect(second, memory)
    assert np.array_equal(seen.scores, again.scores) and np.array_equal(seen.boxes.center, again.boxes.center)
    assert not np.array_equal(seen.scores, model.detect(second).scores) and after.objects.center.shape == (1, 5, 3)
    forgotten, _ = model.detect(dataclasses.replace(second, scene="another"), memory)
    assert forgotten.scores == pytest.approx(model.detect(second).scores, abs=1e-6)


def test_a_memory_of_another_batch_is_refused():
    model = small_detector("decoder.memory=5")
    batch = model.prepare([make_frame("a"), make_frame("b", 1)])
    memory = model.detect(make_frame("a"), None)[1]
    with pytest.raises(PerceptionError, match="memory: that of 2 samples was expected, found that of 1"):
        model(batch, memory)


def test_a_head_of_ones_own_has_no_decoder():
    with pytest.raises(PerceptionError, match=r"decoder\.kind: none was expected with a head of one's own"):
        build(small_config(*DECODER), heads={"boxes": nn.Identity()})


# -- training ---------------------------------------------------------------------------------------------------------


def two(first, second) -> Objects:
    return first.joined(second)


def truth(*centers, yaw=0.0, velocity=(0.0, 0.0)) -> Boxes3D:
    n = len(centers)
    return Boxes3D(list(centers), [[4.0, 2.0, 1.5]] * n, [yaw] * n, [velocity] * n, [0] * n)


def test_objects_are_matched_one_to_one_and_not_from_afar():
    """Both are nearest to the first true box, of which one gets the second. The third is too far."""
    found = two(objects([0.0, 0.0, 0.0]), objects([1.0, 0.0, 0.0]))
    pairs = match(found, 0, truth([0.2, 0.0, 0.0], [3.0, 0.0, 0.0], [30.0, 0.0, 0.0]))
    assert [index.tolist() for index in pairs] == [[0, 1], [0, 1]]
    assert [len(index) for index in match(found, 0, Boxes3D.empty())] == [0, 0]
    found.valid[:] = False
    assert [len(index) for index in match(found, 0, truth([0.0, 0.0, 0.0]))] == [0, 0]


def test_objects_that_are_no_numbers_are_no_error_of_the_matching():
    """A diverged network makes losses that are not finite, which the trainer skips and counts."""
    found = two(objects([0.0, 0.0, 0.0]), objects([9.0, 0.0, 0.0]))
    found.class_logits[0, 0] = torch.nan
    found.center[0, 1] = torch.nan
    assert [index.tolist() for index in match(found, 0, truth([0.0, 0.0, 0.0]))] == [[0], [0]]


def test_losses_of_an_object_by_hand():
    """Off by 1 m forward, 2 m/s to the left, and turned round."""
    from perception.model.decoder import Refined

    before = objects([5.0, 0.0, 0.0], yaw=0.0)
    after = dataclasses.replace(before, velocity=torch.tensor([[[0.0, 2.0]]]))
    refined = Refined(after, before, torch.tensor([[[0.0, 1.0]]]), torch.tensor([[0.0]]))
    boxes = truth([6.0, 0.0, 0.0], yaw=math.pi)
    batch = type("Batch", (), {"boxes": [boxes]})()
    terms = ObjectLoss(GRID)([refined], batch)
    assert terms["object"].item() == pytest.approx(0.5 * (1.0 + 2 * 2.0 / 5.0), abs=1e-5)
    assert terms["sense"].item() == pytest.approx(0.2 * math.log(2), abs=1e-5)
    p = math.exp(-1.0)  # what the box is worth
    assert terms["quality"].item() == pytest.approx(0.5 * math.log(2), abs=1e-5) and 0 < p < 1
    sure, other = 1 / (1 + math.exp(-2.0)), 1 / (1 + math.exp(5.0))
    classes = 0.25 * (1 - sure) ** 2 * -math.log(sure) + 9 * 0.75 * other**2 * -math.log(1 - other)
    classes += 0.3 * math.log1p(9 * math.exp(-7.0))  # the softmax of its class
    assert terms["class"].item() == pytest.approx(classes, abs=1e-5)


def test_frames_that_are_not_annotated_are_refused():
    with pytest.raises(PerceptionError, match="annotated frames were expected"):
        ObjectLoss(GRID)([], type("Batch", (), {"boxes": None})())


def test_a_frame_without_boxes_teaches_that_there_are_none():
    from perception.model.decoder import Refined

    found = objects([5.0, 0.0, 0.0])
    refined = Refined(found, found, torch.tensor([[[0.0, 1.0]]]), torch.zeros(1, 1))
    terms = ObjectLoss(GRID)([refined], type("Batch", (), {"boxes": [Boxes3D.empty()]})())
    assert terms["class"] > 0 and all(terms[name] == 0 for name in ("object", "sense", "quality", "object_attribute"))


@pytest.mark.parametrize("overrides", [(), ("decoder.kind=pooling",), ("decoder.memory=5",)])
def test_every_parameter_learns(overrides):
    """Nothing of the decoder is unused, and some steps on one frame lower its losses."""
    model = small_detector(*overrides).train()
    batch = model.prepare([make_frame("b", 1)])
    batch.moment.timestamp_ns[:] = 500_000_000
    batch.previous = model.prepare([make_frame("a")])
    loss = DetectionLoss(model, model.config.train)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        terms = loss(model(batch), batch)
        terms["total"].backward()
        optimizer.step()
        losses.append(terms["total"].item())
    assert losses[-1] < 0.8 * losses[0]
    assert [name for name, p in model.decoder.named_parameters() if p.grad is None] == []


def test_vectors_turn_in_the_axes_of_their_boxes():
    turned = rotated(torch.tensor([1.0, 0.0, 3.0]), torch.tensor(math.pi / 2))
    assert turned.tolist() == pytest.approx([0.0, 1.0, 3.0], abs=1e-6)
    box = objects([0.0, 0.0, 0.0], yaw=0.7)
    offset = torch.randn(1, 1, 5, 3)
    assert torch.allclose(box.to_ego(box.to_box(offset)), offset, atol=1e-6)
    assert list(BOX_CHANNELS) == ["offset", "z", "log_size", "heading", "axis", "velocity"]


# -- what carries the memory ------------------------------------------------------------------------------------------


class Drive:
    """Two annotated frames of one scene, half a second apart."""

    def __init__(self):
        self.frames = [
            dataclasses.replace(make_frame(token, seed), timestamp_ns=seed * 500_000_000, scene="a")
            for seed, token in enumerate(("a", "b"))
        ]
        self.tokens = ("a", "b")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.frames[index]


@pytest.fixture
def remembering():
    model = small_detector("decoder.memory=5")
    for parameter in model.decoder.parameters():
        nn.init.normal_(parameter, std=0.05)
    return model


def seen(monkeypatch, model):
    """How many objects were remembered in each call of the model."""
    counts, recall = [], model._recalled

    def counted(memory, batch):
        found = recall(memory, batch)
        counts.append(0 if found is None else int(found[0].valid.sum()))
        return found

    monkeypatch.setattr(model, "_recalled", counted)
    return counts


def test_replay_remembers_the_frame_before(tmp_path, monkeypatch, remembering):
    counts = seen(monkeypatch, remembering)
    replay(remembering, Drive(), tmp_path, outputs=(), progress=False)
    assert counts == [0, 5]


def test_evaluation_remembers_the_frame_before_for_every_set_of_sensors(monkeypatch, remembering):
    counts = seen(monkeypatch, remembering)
    evaluate_subsets(remembering, Drive(), [("lidar",), ("radar", "lidar")])
    assert counts == [0, 0, 5, 5]


def test_clips_are_augmented_alike():
    """Boxes of the frame before, moved by the change of the augmented poses, are where the world's motion puts them."""
    config = small_config(*DECODER, "decoder.memory=5", "train.clip=2", "train.memory_dropout=0.0")
    config = dataclasses.replace(config, augment=AugmentConfig(rotate_deg=180.0, scale=0.1))
    drive = Drive()
    drive.frames[1] = dataclasses.replace(drive.frames[1], world_SE3_ego=SE3.from_yaw(0.3, (4.0, 1.0, 0.0)))
    inputs = build(config).inputs
    batch = TrainingData(drive, config, inputs)[Draw(0, (1, 0), inputs.sensors)]
    assert batch.tokens == ["b", "a"] and batch.previous.tokens == ["a", "a"]  # "a" has none before it
    before, now = batch.previous.moment.world_SE3_ego[0].numpy(), batch.moment.world_SE3_ego[0].numpy()
    moved = (np.linalg.inv(now) @ before @ np.c_[batch.previous.boxes[0].center, np.ones(2)].T).T[:, :3]
    world = SE3.from_yaw(0.3, (4.0, 1.0, 0.0)).inverse()
    expected = world.rotation @ np.array([5.0, 2.0, 0.0]) + world.translation  # of the first box, without augmentation
    apart = np.linalg.norm(moved[0] - batch.boxes[0].center[0])
    scale = batch.boxes[0].size[0, 0] / 4.0
    assert apart == pytest.approx(scale * np.linalg.norm(expected - [5.0, 2.0, 0.0]), rel=1e-6)
    model = build(config)
    memory = model.remember(model(batch.previous), batch.previous)
    assert memory.at(batch.moment)[0].valid.sum(dim=1).tolist() == [5, 0]
