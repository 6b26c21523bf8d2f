"""The fusion blocks: masking, locality, and attention against a loop in float64."""

import math

import pytest
import torch

from perception.config import FusionConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.fusion import AttentionFusion, AverageFusion, ConcatFusion, build_fusion
from perception.model.registration import Registered, Registration
from perception.ops.window_attention import window_attention

SENSORS = ("camera", "radar", "lidar")
GRID = BEVGrid(-3.6, 3.6, -4.0, 4.0, -5.0, 3.0, 0.8)  # 10 rows, 9 columns
ALL = torch.ones(2, 3, dtype=torch.bool)
SUBSETS = [[bool(bits & 1 << i) for i in range(3)] for bits in range(1, 8)]


def features(batch=2, channels=8, height=10, width=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(batch, channels, height, width, generator=generator) for name in SENSORS}


def build(kind):
    torch.manual_seed(1)
    block = build_fusion(FusionConfig(kind=kind, channels=8, heads=2), GRID, SENSORS, {})
    for name, parameter in block.named_parameters():
        if "edge_head" in name or "output" in name:  # which start as zeros
            torch.nn.init.normal_(parameter, std=0.3)
    return block


def attention(channels=8, heads=2, neighbourhood=3):
    torch.manual_seed(1)
    block = AttentionFusion(SENSORS, channels, heads, neighbourhood, registration=None)
    torch.nn.init.normal_(block.bias)
    torch.nn.init.normal_(block.sensor)
    for last in (block.output, block.feed_forward[-1]):  # which start as zeros
        torch.nn.init.normal_(last.weight)
    torch.nn.init.normal_(block.residual.weight)
    return block.double()


@pytest.mark.parametrize("kind", ["attention", "average", "concat"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_absent_sensors_do_not_matter(kind, subset):
    """Whether a sensor is missing or masked, and whatever its features hold, the output is the same."""
    block = build(kind)
    valid = torch.tensor([subset, subset])
    x, y = features(), features(seed=5)
    keep = dict(zip(SENSORS, subset, strict=True))
    masked = block({name: (x if keep[name] else y)[name] for name in SENSORS}, valid)
    absent = block({name: x[name] for name in SENSORS if keep[name]}, valid)
    assert torch.isfinite(masked.features).all()
    torch.testing.assert_close(masked.features, absent.features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["attention", "average", "concat"])
def test_samples_with_different_sensors_share_a_batch(kind):
    block = build(kind)
    x = features()
    mixed = block(x, torch.tensor([[True, True, True], [False, True, False]]))
    alone = block({"radar": x["radar"][1:]}, torch.tensor([[False, True, False]]))
    torch.testing.assert_close(mixed.features[1:], alone.features, rtol=1e-4, atol=1e-5)


def test_average_of_one_sensor_is_that_sensor():
    block, x = AverageFusion(SENSORS, 8), features()
    alone = block({"radar": x["radar"]}, torch.tensor([[False, True, False]] * 2))
    torch.testing.assert_close(alone.features, x["radar"])


def test_average_by_hand():
    """Weights are softmaxes over the sensors present of logits by sensor and channel: 1 : 3 of radar and lidar."""
    block = AverageFusion(SENSORS, 2)
    block.weight.data = torch.tensor([[9.0, 9.0], [0.0, 0.0], [math.log(3.0), 0.0]])
    x = {name: torch.full((1, 2, 1, 1), value) for name, value in (("lidar", 8.0), ("radar", 4.0))}
    valid = torch.tensor([[False, True, True]])
    assert block(x, valid).features.flatten().tolist() == pytest.approx([(4 + 3 * 8) / 4, 6])
    confidence = torch.tensor([[0.0, math.log(3.0), 0.0]])  # adds to radar's logits
    assert block.average(x, valid, confidence).flatten().tolist() == pytest.approx([6, (3 * 4 + 8) / 4])


@pytest.mark.parametrize("kind", ["attention", "average", "concat"])
@pytest.mark.parametrize("sensors", [("thermal",), ("camera", "lidar"), ("camera", "radar", "lidar", "thermal")])
def test_any_number_of_sensors_by_any_names(kind, sensors):
    """The order in which their features come does not matter; which of the names they are of does."""
    torch.manual_seed(1)
    block = build_fusion(FusionConfig(kind=kind, channels=8, heads=2), GRID, sensors, {"lidar": -4.0})
    for name, parameter in block.named_parameters():
        if any(part in name for part in ("sensor", "weight", "bias", "displaced")):  # so that sensors differ
            torch.nn.init.normal_(parameter, std=0.3)
    x = dict(zip(sensors, torch.randn(4, 2, 8, 10, 9)))
    valid = torch.ones(2, len(sensors), dtype=torch.bool)
    fused = block(x, valid)
    assert fused.features.shape == (2, 8, 10, 9) and torch.isfinite(fused.features).all()
    backwards = {name: x[name] for name in reversed(sensors)}
    torch.testing.assert_close(block(backwards, valid).features, fused.features)
    if len(sensors) > 1:
        swapped = dict(zip(sensors, reversed(x.values())))
        assert not torch.allclose(block(swapped, valid).features, fused.features, atol=1e-3)
    if kind == "attention":
        edges = len(sensors) * (len(sensors) - 1) // 2
        assert fused.registered.pairs.shape[:2] == (2, edges) and fused.registered.motion.shape == (2, len(sensors), 3)


def test_attention_starts_as_the_average():
    block, x = AttentionFusion(SENSORS, 8, 2, 3, Registration(GRID, SENSORS, 8)), features()
    valid = torch.ones(2, 3, dtype=torch.bool)
    block.registration.edge_head.bias.data[:6] = torch.tensor([-20.0] * 3 + [20.0] * 3)  # nothing is displaced
    torch.testing.assert_close(
        block(x, valid).features, AverageFusion(SENSORS, 8)(x, valid).features, rtol=1e-2, atol=1e-2
    )


def test_a_sensor_without_confidence_does_not_count():
    block, x = attention(), {name: f.double() for name, f in features().items()}
    valid, confidence = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[0.0, 0.0, -1e6]] * 2, dtype=torch.float64)
    two = {name: x[name] for name in ("camera", "radar")}
    two = block.residual.average(two, valid, torch.zeros(2, 3, dtype=torch.float64))
    torch.testing.assert_close(block.residual.average(x, valid, confidence), two)
    x["lidar"].requires_grad_()
    bias = block._bias([0, 1, 2], valid, confidence)
    key_value = [block.key_value(f) for f in x.values()]
    window_attention(block.query(x["camera"]), key_value, bias).sum().backward()
    assert (x["lidar"].grad == 0).all()


def test_average_starts_as_the_mean():
    x = features()
    torch.testing.assert_close(AverageFusion(SENSORS, 8)(x, ALL).features, sum(x.values()) / 3)


def test_attention_against_a_loop():
    """Every cell, head by head, in plain Python; cells at the border see their border cells repeated."""
    block = attention()
    x = {name: f.double() for name, f in features(batch=1, height=5, width=6).items()}
    valid = torch.ones(1, 3, dtype=torch.bool)
    residual = block.residual(x, valid).features
    query = block.query(block.query_norm(residual))[0]
    key_value = [
        block.key_value(block.token_norm(f) + block.sensor[i, :, None, None])[0] for i, f in enumerate(x.values())
    ]
    attended = torch.zeros_like(query)
    for row in range(5):
        for column in range(6):
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                logits, values = [], []
                for sensor in range(3):
                    for dy in range(-1, 2):
                        for dx in range(-1, 2):
                            r, c = min(max(row + dy, 0), 4), min(max(column + dx, 0), 5)
                            key, value = key_value[sensor][:8][part, r, c], key_value[sensor][8:][part, r, c]
                            bias = block.bias[head, sensor, (dy + 1) * 3 + dx + 1]
                            logits.append((query[part, row, column] * key).sum() / 2 + bias)
                            values.append(value)
                attended[part, row, column] = torch.stack(logits).softmax(0) @ torch.stack(values)
    fused = residual + block.output(attended[None])
    torch.testing.assert_close(block(x, valid).features, fused + block.feed_forward(fused))


def test_attention_sees_its_window_and_no_further():
    block = attention(neighbourhood=3)
    key_value = [torch.randn(1, 16, 12, 12, dtype=torch.float64, requires_grad=True)]
    query = torch.randn(1, 8, 12, 12, dtype=torch.float64)
    bias = block._bias([2], torch.tensor([[False, False, True]]), torch.zeros(1, 3))
    attended = window_attention(query, key_value, bias)
    attended[0, :, 5, 7].sum().backward()
    seen = key_value[0].grad.abs().sum(dim=(0, 1)) > 0
    assert seen[4:7, 6:9].all() and seen.sum() == 9


def test_attention_gradients():
    block = attention(channels=4, heads=1)
    x = {name: f.double().requires_grad_() for name, f in features(batch=1, channels=4, height=4, width=5).items()}
    valid = torch.tensor([[True, False, True]])

    def fuse(a, c):
        return block({"camera": a, "lidar": c}, valid).features

    assert torch.autograd.gradcheck(fuse, (x["camera"], x["lidar"]), fast_mode=True)


def test_bad_sizes_are_named():
    with pytest.raises(PerceptionError, match="neighbourhood"):
        AttentionFusion(SENSORS, 8, 2, 4, None)
    with pytest.raises(PerceptionError, match=r"fusion\.heads"):
        AttentionFusion(SENSORS, 8, 3, 3, None)
    with pytest.raises(PerceptionError, match=r"fusion\.width \(6\) must be a multiple of fusion\.heads \(4\)"):
        AttentionFusion(SENSORS, 8, 4, 3, None, width=6)


def test_concat_takes_zeros_for_absent():
    block, x = ConcatFusion(SENSORS, 8), features()
    zeros = {**x, "radar": torch.zeros_like(x["radar"])}
    absent = {"camera": x["camera"], "lidar": x["lidar"]}
    torch.testing.assert_close(block(absent, ALL).features, block(zeros, ALL).features)


class FixedRegistration(torch.nn.Module):
    """In place of a registration: features as they are or as given, with these motions and this confidence."""

    def __init__(self, motion=None, confidence=None, features=None):
        super().__init__()
        self.motion = torch.zeros(2, 3, 3) if motion is None else motion
        self.confidence = torch.zeros(2, 3) if confidence is None else confidence
        self.features = features

    def forward(self, x, sensor_valid):
        return Registered(self.features or x, self.motion, self.confidence, torch.zeros(2, 3, 1), torch.zeros(1, 3))


def test_average_weights_by_hand():
    """Two channels: weights log 1, 2, 3 give sixths; without the second, quarters; confidence 1 is e times more."""
    block, x = AverageFusion(SENSORS, 2), features(channels=2)
    block.weight.data = torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 2.0]]).log()
    whole = block(x, ALL).features
    torch.testing.assert_close(whole[:, 0], (x["camera"] + 2 * x["radar"] + 3 * x["lidar"])[:, 0] / 6)
    torch.testing.assert_close(whole[:, 1], (x["camera"] + x["radar"] + 2 * x["lidar"])[:, 1] / 4)
    valid = torch.tensor([[True, False, True], [True, True, True]])
    torch.testing.assert_close(block(x, valid).features[0, 0], (x["camera"] + 3 * x["lidar"])[0, 0] / 4)
    torch.testing.assert_close(block(x, valid).features[1], whole[1])
    confidence = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    two = 2 * math.e
    confident = block.average(x, ALL, confidence)
    torch.testing.assert_close(confident[0, 0], (x["camera"] + two * x["radar"] + 3 * x["lidar"])[0, 0] / (4 + two))
    torch.testing.assert_close(confident[1], whole[1])


def test_concat_by_hand():
    """What goes into the convolutions: the channels of the sensors in order, zeros where one is absent."""
    block, x, told = ConcatFusion(SENSORS, 8), features(), {}
    block.mix.register_forward_pre_hook(lambda module, inputs: told.update(x=inputs[0]))
    valid = torch.tensor([[True, False, True], [True, True, True]])
    out = block({"camera": x["camera"], "radar": x["radar"]}, valid)
    zeros = torch.zeros_like(x["camera"])
    torch.testing.assert_close(
        told["x"], torch.cat([x["camera"], torch.stack([zeros[0], x["radar"][1]]), zeros], dim=1)
    )
    assert out.features.shape == x["camera"].shape and out.registered is None


def test_position_bias_and_confidence_make_the_bias_of_a_token():
    block = AttentionFusion(SENSORS, 8, 2, 3, None)
    block.bias.data = torch.arange(2 * 3 * 9, dtype=torch.float32).view(2, 3, 9)
    valid = torch.tensor([[True, True, True], [True, False, True]])
    confidence = torch.tensor([[100.0, 200.0, 300.0], [400.0, 500.0, 600.0]])
    bias = block._bias([0, 2], valid, confidence)
    assert bias.shape == (2, 2, 2, 3, 3)
    assert bias[0, 1, 1].tolist() == [[345.0, 346.0, 347.0], [348.0, 349.0, 350.0], [351.0, 352.0, 353.0]]
    assert bias[1, 0, 0, 2].tolist() == [406.0, 407.0, 408.0]
    absent = block._bias([1], valid, confidence)
    assert (absent[1] == -torch.inf).all() and torch.isfinite(absent[0]).all()


def test_a_new_block_is_the_average_of_its_sensors():
    """Exactly, whatever confidence the registration gives: that counts in the average."""
    confidence = torch.tensor([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0]])
    block, x = AttentionFusion(SENSORS, 8, 2, 3, FixedRegistration(torch.ones(2, 3, 3), confidence)), features()
    torch.testing.assert_close(block(x, ALL).features, AverageFusion(SENSORS, 8).average(x, ALL, confidence))
    assert (block.sensor == 0).all() and (block.bias == 0).all() and (block.displaced.weight == 0).all()
    assert block.displaced.bias is None


def test_tokens_know_how_far_their_sensor_was_off():
    """Yaw counts five times, metres a fifth: 0.2 rad and 5 m are one each."""
    block, x, told = AttentionFusion(SENSORS, 8, 2, 3, None), features(), []
    torch.nn.init.normal_(block.sensor)
    torch.nn.init.normal_(block.displaced.weight)
    motion = torch.zeros(2, 3, 3)
    motion[0, 0], motion[1, 2] = torch.tensor([0.2, 5.0, -10.0]), torch.tensor([0.0, 0.0, 5.0])
    block.registration = FixedRegistration(motion)
    block.key_value.register_forward_pre_hook(lambda module, inputs: told.append(inputs[0]))
    fused = block({"camera": x["camera"], "lidar": x["lidar"]}, torch.tensor([[True, False, True]] * 2))
    assert fused.registered.motion is motion and len(told) == 2
    weight = block.displaced.weight
    kinds = [
        torch.stack([block.sensor[0] + weight @ torch.tensor([1.0, 1.0, -2.0]), block.sensor[0]]),
        torch.stack([block.sensor[2], block.sensor[2] + weight @ torch.tensor([0.0, 0.0, 1.0])]),
    ]
    for have, feature, kind in zip(told, (x["camera"], x["lidar"]), kinds, strict=True):
        torch.testing.assert_close(have, block.token_norm(feature) + kind[:, :, None, None])


def test_registered_features_are_what_is_fused():
    moved = features(seed=9)
    block = AttentionFusion(SENSORS, 8, 2, 3, FixedRegistration(features=moved))
    torch.testing.assert_close(block(features(), ALL).features, sum(moved.values()) / 3)


def test_confidence_counts_in_the_attention_too():
    """Of a sensor without any confidence nothing is left, neither in the average nor in what is attended to."""
    block = attention().float()
    x, y = features(), features(seed=5)
    confidence = torch.tensor([[0.0, -1e6, 0.0]] * 2)
    block.registration = FixedRegistration(confidence=confidence)
    other = {**x, "radar": y["radar"]}
    torch.testing.assert_close(block(x, ALL).features, block(other, ALL).features, rtol=1e-4, atol=1e-5)
    block.registration = FixedRegistration()
    assert not torch.allclose(block(x, ALL).features, block(other, ALL).features, atol=1e-2)


class Features(torch.nn.Module):
    """The features of a fusion block, which is what is exported."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, features, sensor_valid):
        return self.block(features, sensor_valid).features


@pytest.mark.parametrize("strict", [False, True])
def test_one_exported_graph_serves_all_sets_of_sensors(strict):
    """Absent sensors are masked there, whatever stands in their place; here they are left out."""
    block, x = build("attention").eval(), features(batch=1)
    exported = torch.export.export(Features(block), (x, ALL[:1]), strict=strict).module()
    for subset in SUBSETS:
        keep, valid = dict(zip(SENSORS, subset, strict=True)), torch.tensor([subset])
        with torch.no_grad():
            want = block({name: x[name] for name in SENSORS if keep[name]}, valid).features
        zeros = {name: x[name] if keep[name] else torch.zeros_like(x[name]) for name in SENSORS}
        torch.testing.assert_close(exported(zeros, valid), want, rtol=1e-4, atol=1e-5)
    # Nothing of the trace is left behind.
    block(x, ALL[:1]).features.sum().backward()
    assert type(block.query.weight.grad) is torch.Tensor


def test_which_block_a_config_asks_for():
    block = build_fusion(FusionConfig(kind="attention", channels=16, heads=4, neighbourhood=5), GRID, SENSORS, {})
    assert block.bias.shape == (4, 3, 25) and block.sensor.shape == (3, 16)
    assert isinstance(block.registration, Registration) and block.registration.grid is GRID
    plain = build_fusion(FusionConfig(kind="attention", channels=16, registration=False), GRID, SENSORS, {})
    assert plain.registration is None
    assert plain(dict.fromkeys(SENSORS, torch.zeros(1, 16, 10, 9)), ALL[:1]).registered is None
    narrow = FusionConfig(channels=16, width=8, pooled_descriptors=True)
    narrow = build_fusion(narrow, GRID, SENSORS, {})
    assert narrow.query.weight.shape[:2] == (8, 16) and narrow.key_value.weight.shape[:2] == (16, 16)
    assert narrow.registration.pooled and not block.registration.pooled
    fused = narrow({name: torch.randn(1, 16, 10, 9) for name in SENSORS}, ALL[:1])
    assert fused.features.shape == (1, 16, 10, 9) and fused.features.requires_grad
    assert isinstance(build_fusion(FusionConfig(kind="average", channels=16), GRID, SENSORS, {}), AverageFusion)
    assert isinstance(build_fusion(FusionConfig(kind="concat", channels=16), GRID, SENSORS, {}), ConcatFusion)
    for neighbourhood in (0, -1, 2):
        with pytest.raises(PerceptionError, match="neighbourhood"):
            AttentionFusion(SENSORS, 8, 2, neighbourhood, None)
    assert AttentionFusion(SENSORS, 8, 2, 1, None).bias.shape == (2, 3, 1)
