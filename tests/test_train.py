"""Training on a stub model and dataset: everything but the detector itself."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from frames import make_frame as drive_frame
from safetensors.torch import save
from torch import nn

from perception.batch import Batch, InputSpec
from perception.commit import write_files
from perception.config import AugmentConfig, Config, load_config, save_config
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, PointCloud, RadarCloud, SampleError, fit_image
from perception.seeding import keyed_rng
from perception.train.augment import draw_world
from perception.train.batches import Draw, Filled, Schedule, TrainingData, proper_subsets
from perception.train.cache import FrameCache
from perception.train.checkpoint import read_checkpoint
from perception.train.initialise import TrainingError, initialise
from perception.train.optim import WARMUP, Ema, one_cycle, parameter_groups
from perception.train.trainer import MAX_BROKEN_STEPS, Trainer

ROOT = Path(__file__).parent.parent
IMAGE_SIZE = (8, 16)
SENSORS = ("camera", "radar", "lidar")
INPUTS = InputSpec(SENSORS, {"camera": IMAGE_SIZE}, {"camera": "lidar"})


def make_frame(index: int) -> Frame:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 256, (10, 20, 3), dtype=np.uint8)
    camera = CameraImage(image, np.array([[10.0, 0, 9.5], [0, 10, 4.5], [0, 0, 1]]), SE3(), 0)
    return Frame(
        token=f"token-{index}",
        timestamp_ns=index,
        cameras={"CAM_FRONT": camera},
        radar=RadarCloud(rng.normal(size=(5, 7)).astype(np.float32)),
        lidar=LidarCloud(rng.normal(size=(9, 5)).astype(np.float32)),
        boxes=Boxes3D(rng.normal(size=(2, 3)), np.ones((2, 3)), np.zeros(2), np.zeros((2, 2)), np.zeros(2)),
    )


class Frames:
    """A dataset of ``count`` frames that calls ``on_read(index)`` at every access; those in ``unreadable`` are None."""

    def __init__(self, count: int, unreadable=(), on_read=None):
        self.count, self.unreadable, self.on_read = count, unreadable, on_read
        self.tokens = [f"token-{index}" for index in range(count)]

    def __len__(self):
        return self.count

    def __getitem__(self, index: int) -> Frame | None:
        if self.on_read:
            self.on_read(index)
        return None if index in self.unreadable else make_frame(index)


class StubCamera(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(3, 4)

    @property
    def pretrained(self) -> nn.Module:
        return self.backbone


class StubModel(nn.Module):
    """Means of each valid sensor through a layer of its own, and dropout to have some randomness of the network."""

    inputs = INPUTS

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.encoders = nn.ModuleDict({"camera": StubCamera(), "radar": nn.Linear(7, 4), "lidar": nn.Linear(5, 4)})
        self.norm = nn.BatchNorm1d(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, batch: Batch) -> torch.Tensor:
        camera, radar, lidar = batch.sensor_valid.any(dim=0).tolist()
        features = torch.zeros(4)
        if camera:
            mean = batch.inputs["camera"].images.float().mean(dim=(0, 1, 3, 4)) / 255
            features = features + self.encoders["camera"].backbone(mean)
        if radar:
            features = features + self.encoders["radar"](batch.inputs["radar"].points.mean(dim=0))
        if lidar:
            features = features + self.encoders["lidar"](batch.inputs["lidar"].points.mean(dim=0))
        return self.dropout(self.norm(features.expand(2, 4)) + features)

    def files(self, state):
        return {"model.safetensors": save(state), "config.yaml": b""}


class StubLoss(nn.Module):
    def forward(self, prediction, batch):
        target = torch.tensor(np.concatenate([boxes.center for boxes in batch.boxes]).mean(), dtype=torch.float32)
        return {"total": ((prediction - target) ** 2).mean()}


def make_config(**train) -> Config:
    config = Config()
    config.data.workers = 0
    for key, value in {"epochs": 2, "batch_size": 2, "amp": False, **train}.items():
        setattr(config.train, key, value)
    return config


def trainer(out, frames=None, config=None, loss=None) -> Trainer:
    return Trainer(
        StubModel(), loss or StubLoss(), frames or Frames(9), config or make_config(), Path(out), torch.device("cpu")
    )


def lines(out) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]


def test_a_run_leaves_weights_log_and_checkpoint(tmp_path):
    run = trainer(tmp_path)
    assert run.run()
    assert run.step == 2 * 4  # nine frames in batches of two, the ninth left out
    epochs = [line for line in lines(tmp_path) if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [1, 2] and [line["step"] for line in epochs] == [4, 8]
    assert epochs[0]["total"] > 0 and epochs[0]["samples_per_s"] > 0 and epochs[0]["dropped_frames"] == 0
    assert (tmp_path / "config.yaml").exists()
    assert read_checkpoint(tmp_path / "checkpoint.safetensors")[1]["step"] == 8


@pytest.mark.parametrize(
    ("stop_at", "number"),  # reads: in the first epoch, at its end, in the second
    [(4, signal.SIGINT), (7, signal.SIGTERM), (11, signal.SIGUSR1)],
)
def test_resuming_ends_in_the_same_bytes(tmp_path, stop_at, number):
    trainer(tmp_path / "whole").run()

    reads = []

    def interrupt(index):
        reads.append(index)
        if len(reads) == stop_at:
            os.kill(os.getpid(), number)

    stopped = trainer(tmp_path / "parts", Frames(9, on_read=interrupt))
    assert not stopped.run()
    assert 0 < stopped.step < 8
    resumed = trainer(tmp_path / "parts")
    resumed.resume()
    assert resumed.step == stopped.step
    assert resumed.run()

    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    tensors = [read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts")]
    for group in ("model", "ema", "optimizer"):
        assert tensors[0][group].keys() == tensors[1][group].keys()
        assert all(torch.equal(value, tensors[1][group][name]) for name, value in tensors[0][group].items())
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")  # epochs are of all their steps


def timeless(out) -> list[dict]:
    times = ("elapsed_s", "samples_per_s", "data_share", "memory_mb")
    return [{k: v for k, v in line.items() if k not in times} for line in lines(out)]


def test_the_weights_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (0, 2):
        config = make_config(epochs=1)
        config.data.workers = workers
        trainer(tmp_path / str(workers), config=config).run()
    assert (tmp_path / "0/model.safetensors").read_bytes() == (tmp_path / "2/model.safetensors").read_bytes()


def test_resuming_under_another_config_names_the_key(tmp_path):
    trainer(tmp_path).run()
    other = trainer(tmp_path, config=make_config(learning_rate=0.5))
    with pytest.raises(TrainingError, match=r"train\.learning_rate \(0\.001, now 0\.5\)"):
        other.resume()


def test_nonsense_in_the_config_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"train\.batch_size: at least 1 was expected, found 0"):
        trainer(tmp_path, config=make_config(batch_size=0))


def test_resuming_nothing_starts_from_the_beginning(tmp_path):
    run = trainer(tmp_path)
    run.resume()
    assert run.step == 0


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(PerceptionError, match=r"checkpoint\.safetensors: a training checkpoint was expected"):
        trainer(tmp_path).resume()


def test_unreadable_frames_are_left_out_and_counted(tmp_path):
    config = make_config(epochs=1)
    trainer(tmp_path, Frames(8, unreadable={0, 3, 5}), config).run()
    assert lines(tmp_path)[-1]["dropped_frames"] == 3
    with pytest.raises(TrainingError, match="not one batch could be used, 8 frames"):
        trainer(tmp_path, Frames(8, unreadable=set(range(8))), config).run()


class NanLoss(StubLoss):
    """Not a number in the steps named."""

    def __init__(self, steps):
        super().__init__()
        self.calls, self.steps = -1, steps

    def forward(self, prediction, batch):
        self.calls += 1
        return {"total": super().forward(prediction, batch)["total"] * (np.nan if self.calls in self.steps else 1)}


def test_a_broken_step_changes_nothing_and_is_logged_with_its_tokens(tmp_path):
    run = trainer(tmp_path, Frames(4), make_config(epochs=1), NanLoss({0, 1}))
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    assert run.run() and lines(tmp_path)[-1]["broken_steps"] == 2
    assert all(torch.equal(value, before[name]) for name, value in run.model.named_parameters())
    assert all(torch.equal(value, run.ema.state[name]) for name, value in before.items())
    assert sorted(token for line in lines(tmp_path)[:2] for token in line["tokens"]) == [f"token-{i}" for i in range(4)]


def test_many_broken_steps_in_a_row_stop_the_run(tmp_path):
    config = make_config(epochs=10)
    with pytest.raises(TrainingError, match=r"step 14: .* for 10 steps in a row, on frames token-"):
        trainer(tmp_path, Frames(8), config, NanLoss(range(5, 15))).run()
    scattered = set(range(40)) - {9, 19, 29, 39}
    assert MAX_BROKEN_STEPS == 10 and trainer(tmp_path, Frames(8), config, NanLoss(scattered)).run()


def test_moving_average_by_hand():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, affine=False))
    model[0].weight.data.fill_(0.0)
    ema = Ema(model, decay=0.5)
    model[0].weight.data.fill_(1.0)
    model[1].running_mean.fill_(7.0)
    model[1].num_batches_tracked.fill_(3)
    ema.update(model, step=0)  # decay (1 + 0) / (10 + 0): 0.1 * 0 + 0.9 * 1
    assert ema.state["0.weight"].item() == pytest.approx(0.9)
    assert ema.state["1.running_mean"].item() == 7.0 and ema.state["1.num_batches_tracked"].item() == 3
    ema.update(model, step=1000)  # 0.5 * 0.9 + 0.5 * 1
    assert ema.state["0.weight"].item() == pytest.approx(0.95)


def test_parameter_groups():
    model, config = StubModel(), Config().train
    camera, radar, lidar = model.encoders.values()
    radar.weight.requires_grad_(False)
    groups = {(group["peak_lr"], group["weight_decay"]): group["params"] for group in parameter_groups(model, config)}
    backbone, rest = config.backbone_learning_rate, config.learning_rate
    assert groups[backbone, config.weight_decay] == [camera.backbone.weight]
    assert groups[backbone, 0.0] == [camera.backbone.bias]
    assert groups[rest, config.weight_decay] == [lidar.weight]
    assert groups[rest, 0.0] == [radar.bias, lidar.bias, model.norm.weight, model.norm.bias]


def test_learning_rate_rises_to_one_and_falls_to_nothing():
    assert one_cycle(0) == pytest.approx(0.1)
    assert one_cycle(WARMUP / 2) == pytest.approx(0.55)
    assert one_cycle(WARMUP) == pytest.approx(1)
    assert one_cycle((1 + WARMUP) / 2) == pytest.approx(0.5)
    assert one_cycle(1) == pytest.approx(0)


def test_each_epoch_visits_every_frame_once_in_an_order_of_its_own():
    config = make_config().train
    orders = []
    for epoch in (0, 1, 0):
        ranks = [Schedule(12, SENSORS, config, rank, 2) for rank in (0, 1)]
        for schedule in ranks:
            schedule.epoch = epoch
        seen = [index for schedule in ranks for draw in schedule for index in draw.indices]
        assert sorted(seen) == list(range(12)) and [len(schedule) for schedule in ranks] == [3, 3]
        orders.append(seen)
    assert orders[0] == orders[2] != orders[1]
    with pytest.raises(SampleError, match="3 frames do not fill a step of 2 batches of 2"):
        Schedule(3, SENSORS, config, 0, 2)


def test_all_seven_subsets_are_drawn_as_often_as_they_should():
    subsets = proper_subsets(SENSORS)
    schedule = Schedule(20000, SENSORS, make_config(batch_size=1, sensor_dropout=0.6).train)
    drawn = [draw.sensors for draw in schedule]
    assert len(subsets) == 6 and set(drawn) == {*subsets, SENSORS}
    assert drawn.count(SENSORS) / len(drawn) == pytest.approx(0.4, abs=0.015)  # four standard deviations
    for subset in subsets:
        assert drawn.count(subset) / len(drawn) == pytest.approx(0.1, abs=0.01)


def test_or_single_sensors_only():
    config = make_config(batch_size=1, sensor_dropout=0.6, dropout_to="single").train
    drawn = [draw.sensors for draw in Schedule(5000, SENSORS, config)]
    assert set(drawn) == {("camera",), ("radar",), ("lidar",), SENSORS}
    for sensors, share in ((("camera",), 0.2), (("radar",), 0.2), (("lidar",), 0.2), (SENSORS, 0.4)):
        assert drawn.count(sensors) / len(drawn) == pytest.approx(share, abs=0.03)  # four standard deviations


def test_subsets_of_any_sensors():
    """All of a sensor alone, which it always is; half of the time one of the fourteen of four."""
    config = make_config(batch_size=1, sensor_dropout=1.0).train
    assert {draw.sensors for draw in Schedule(50, ("sonar",), config)} == {("sonar",)}
    assert {draw.sensors for draw in Schedule(50, ("a", "b"), config)} == {("a",), ("b",)}
    assert {draw.sensors for draw in Schedule(500, tuple("abcd"), config)} == set(proper_subsets("abcd"))
    assert len(proper_subsets("abcd")) == 14 and proper_subsets("a") == []


def test_a_cache_reads_each_frame_once():
    reads = []
    cache = FrameCache(Frames(3, unreadable={1}, on_read=reads.append), INPUTS.image_size)
    first, second = ([cache[index] for index in range(3)] for _ in range(2))
    assert reads == [0, 1, 2] and len(cache) == 3
    assert first[1] is None and second[1] is None
    for frames in (first, second):
        np.testing.assert_array_equal(frames[2].lidar.points, make_frame(2).lidar.points)
        assert frames[0].token == "token-0" and frames[0].boxes.size.tolist() == [[1] * 3] * 2
    assert FrameCache([drive_frame(0).only(["radar"])], INPUTS.image_size)[0].cameras is None


def test_workers_share_a_cache_which_ends_with_its_owner(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    reads = []
    cache = FrameCache(Frames(2, on_read=reads.append), {})
    worker = multiprocessing.get_context("fork").Process(target=cache.__getitem__, args=(0,))
    worker.start()
    worker.join()
    assert cache[0].token == "token-0" and reads == []  # the worker has read it
    other = pickle.loads(pickle.dumps(cache))
    assert other[0].token == "token-0"
    del other
    assert cache.folder.is_dir() and os.stat(cache.folder).st_mode & 0o77 == 0
    del cache
    assert list(tmp_path.iterdir()) == []


def test_a_cache_says_what_it_takes_and_wants_room_for_all(caplog, monkeypatch):
    caplog.set_level("INFO")
    cache = FrameCache(Frames(1000), {})
    assert cache[0] is not None and cache[1] is not None
    (said,) = [record.getMessage() for record in caplog.records]
    assert "data.cache: 1000 frames will take about 0.00 GB in" in said
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    with pytest.raises(PerceptionError, match=r"data\.cache: .*room for 1000 frames, 0\.00 GB, was expected"):
        FrameCache(Frames(1000), {})[0]


@pytest.mark.parametrize("size", [(90, 160), (60, 200), (8, 16), (4, 10)])
def test_a_cached_image_is_smaller_and_its_camera_still_fits(size):
    rows, columns = np.indices(size)
    image = np.stack([columns, rows, 0 * rows], axis=2).astype(np.uint8)  # every pixel says where it was
    camera = replace(make_frame(0).cameras["CAM_FRONT"], image=image)
    cached = FrameCache([Frame("f", 0, cameras={"CAM": camera})], INPUTS.image_size)[0].cameras["CAM"]
    height, width = cached.image.shape[:2]
    assert height <= size[0] and width <= size[1]
    assert size == (4, 10) or min(height / IMAGE_SIZE[0], width / IMAGE_SIZE[1]) >= 1
    assert (height, width) == size or min(height / IMAGE_SIZE[0], width / IMAGE_SIZE[1]) < 1.3
    old = camera.intrinsics @ np.linalg.inv(cached.intrinsics) @ [width // 2, height // 2, 1]
    np.testing.assert_allclose(cached.image[height // 2, width // 2, :2], old[:2], atol=1)


def test_a_cache_makes_images_of_a_sensor_small_that_want_to_be():
    camera = make_frame(0).cameras["CAM_FRONT"]
    camera = replace(camera, image=np.zeros((90, 160, 3), np.uint8))
    frame = Frame("f", 0, cameras={"CAM": camera}, others={"thermal": {"LEFT": camera}, "rear": {"REAR": camera}})
    cached = FrameCache([frame], {"camera": (9, 16), "thermal": (45, 80)})[0]
    assert cached.cameras["CAM"].image.shape == (9, 16, 3)
    assert cached.others["thermal"]["LEFT"].image.shape == (45, 80, 3)
    assert cached.others["rear"]["REAR"].image.shape == (90, 160, 3)  # which nobody takes


BEFORE, NOW = drive_frame(0), drive_frame(1)
STILL = {"flip": False, "rotate_deg": 0.0, "scale": 0.0, "translate_m": 0.0}


def faulty_batches(count: int, **augment):
    """NOW, which comes after BEFORE, in as many epochs, with a fault in every sensor: the world and the batch."""
    config = make_config()
    config.augment = AugmentConfig(image_scale=0.0, image_color=0.0, corruption_rate=1.0, **augment)
    data = TrainingData([BEFORE, NOW], config, INPUTS)
    for epoch in range(count):
        world = draw_world(config.augment, keyed_rng(config.train.seed, epoch, NOW.token, "world"))
        yield world, data[Draw(epoch, (1,), SENSORS)]


def same(points: torch.Tensor, cloud) -> bool:
    """Whether points are where those of a cloud are."""
    return len(points) == len(cloud.points) and np.allclose(points[:, :3], cloud.points[:, :3], atol=1e-4)


@pytest.mark.parametrize("name", ["radar", "lidar"])
def test_a_stale_cloud_is_displaced_by_the_vehicles_motion_and_one_that_is_in_place_is_not(name):
    moved = BEFORE.world_SE3_ego.inverse() @ NOW.world_SE3_ego
    stale = in_place = 0
    for _, batch in faulty_batches(40, **STILL):
        displacement, points = batch.displacement[0, SENSORS.index(name)], batch.inputs[name].points
        if same(points, getattr(BEFORE, name)):
            np.testing.assert_allclose(displacement, [moved.yaw, *moved.translation[:2]], atol=1e-6)
            stale += 1
        elif same(points, getattr(NOW, name)) or len(points) < 40:
            np.testing.assert_allclose(displacement, 0, atol=1e-6)
            in_place += 1
    assert stale >= 3 and in_place >= 3


def test_cameras_that_are_stale_or_turned_have_no_displacement_to_name():
    old, new = (
        [fit_image(frame.cameras[name], IMAGE_SIZE).image for name in sorted(NOW.cameras)] for frame in (BEFORE, NOW)
    )
    poses = [NOW.cameras[name].ego_SE3_camera.matrix for name in sorted(NOW.cameras)]
    seen = {"stale": 0, "turned": 0, "absent": 0}
    for _, batch in faulty_batches(40, **STILL):
        cameras, displacement = batch.inputs["camera"], batch.displacement[0, 0]
        images = cameras.images[0].permute(0, 2, 3, 1).numpy()
        if len(images) < 4:
            np.testing.assert_allclose(displacement, 0, atol=1e-6)
            seen["absent"] += 1
        elif any(np.array_equal(image, before) for image, before in zip(images, old)):
            assert displacement.isnan().all()
            seen["stale"] += 1
        elif not np.allclose(cameras.ego_SE3_camera[0], poses, atol=1e-6):
            assert displacement.isnan().all() and np.array_equal(images, new)
            seen["turned"] += 1
    assert min(seen.values()) >= 3


def test_the_displacement_of_a_stale_cloud_is_that_in_the_augmented_world():
    now_SE3_before = NOW.world_SE3_ego.inverse() @ BEFORE.world_SE3_ego
    points, checked = BEFORE.lidar.points[:, :3].astype(float), 0
    for world, batch in faulty_batches(40):
        shown = batch.inputs["lidar"].points
        if same(shown, LidarCloud(world.points(BEFORE.lidar.points))):
            true = world.points(now_SE3_before.transform(points))
            yaw, x, y = batch.displacement[0, 2].tolist()
            np.testing.assert_allclose(SE3.from_yaw(yaw, [x, y, 0]).transform(true), shown[:, :3], atol=1e-3)
            checked += 1
    assert checked >= 4


def test_without_faults_nothing_is_displaced():
    batch = TrainingData([BEFORE, NOW], make_config(), INPUTS)[Draw(0, (0, 1), SENSORS)]
    assert batch.displacement.shape == (2, 3, 3) and batch.displacement.dtype == torch.float32
    np.testing.assert_allclose(batch.displacement, 0, atol=1e-6)


def test_the_first_frame_of_a_scene_has_none_before_it():
    config = make_config()
    config.augment.corruption_rate = 1.0
    frames = [BEFORE, replace(NOW, scene="other"), None, drive_frame(3)]
    data = TrainingData(frames, config, INPUTS)
    assert [data._previous_frame(Filled(index, frames[index], [])) for index in (0, 1, 3)] == [None] * 3


def valid_sensors(frames, sensors) -> list[tuple[str, ...]]:
    batch = TrainingData(frames, make_config(), INPUTS)[Draw(0, tuple(range(len(frames))), sensors)]
    return [tuple(name for name, valid in zip(SENSORS, row) if valid) for row in batch.sensor_valid.tolist()]


def test_dropped_sensors_are_not_valid_but_lidar_still_supervises_depth():
    data = TrainingData([make_frame(0), make_frame(1)], make_config(), INPUTS)
    camera = data[Draw(0, (0, 1), ("camera",))]
    assert camera.sensor_valid.tolist() == [[True, False, False]] * 2
    assert set(camera.inputs) == {"camera", "lidar"} and len(camera.inputs["lidar"].points) == 18
    radar = data[Draw(0, (0, 1), ("radar",))]
    assert radar.sensor_valid.tolist() == [[False, True, False]] * 2
    assert set(radar.inputs) == {"radar"}
    full = data[Draw(0, (0, 1), SENSORS)]
    assert full.sensor_valid.all() and full.inputs["camera"].images.shape == (2, 1, 3, *IMAGE_SIZE)


def test_no_sample_is_left_without_a_sensor():
    frames = [make_frame(0), make_frame(1).only(["lidar"]), make_frame(2).only(["camera", "lidar"])]
    assert valid_sensors(frames, ("camera",)) == [("camera",), ("lidar",), ("camera",)]
    assert valid_sensors(frames, ("radar",)) == [("radar",), ("lidar",), ("camera", "lidar")]
    assert valid_sensors([*frames, make_frame(3).only([])], ("lidar",)) == [("lidar",)] * 3


def test_frames_with_little_in_them_make_batches():
    empty = Frame("empty", 0, lidar=LidarCloud(np.zeros((0, 5), np.float32)), boxes=Boxes3D.empty())
    batch = TrainingData([empty], make_config(), INPUTS)[Draw(0, (0,), SENSORS)]
    assert set(batch.inputs) == {"lidar"} and len(batch.inputs["lidar"].points) == len(batch.boxes[0]) == 0
    unlabelled = TrainingData([Frame("f", 0, lidar=empty.lidar)], make_config(), INPUTS)[Draw(0, (0,), SENSORS)]
    assert unlabelled.boxes is None


def test_boxes_that_no_sensor_saw_are_left_out():
    boxes = Boxes3D(
        np.zeros((4, 3)),
        np.ones((4, 3)),
        np.arange(4.0),
        np.zeros((4, 2)),
        np.zeros(4),
        num_lidar_points=np.array([0, 3, 0, -1]),
        num_radar_points=np.array([0, 0, 2, 0]),
    )
    config = make_config()
    config.augment = AugmentConfig(**STILL)
    seen = TrainingData([replace(make_frame(0), boxes=boxes)], config, INPUTS)[Draw(0, (0,), SENSORS)].boxes
    assert seen[0].yaw.tolist() == [1, 2, 3]


class Sonar(PointCloud):
    fields = ("x", "y", "z", "echo")


def test_further_sensors_are_trained_with():
    """Two of the detector's and one that only supervises depth; what else the frames hold is left out."""
    inputs = InputSpec(("thermal", "sonar"), {"thermal": (16, 32)}, {"thermal": "lidar"})
    points = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]])
    frame = make_frame(0)
    frame = replace(frame, others={"sonar": Sonar(points), "thermal": {"LEFT": frame.cameras["CAM_FRONT"]}})
    config = make_config()
    config.augment.corruption_rate = 1.0  # of which these sensors have none
    data = TrainingData([frame], config, inputs)
    both = data[Draw(0, (0,), inputs.sensors)]
    assert both.sensors == inputs.sensors and set(both.inputs) == {"thermal", "sonar", "lidar"}
    assert both.sensor_valid.tolist() == [[True, True]] and both.inputs["thermal"].images.shape == (1, 1, 3, 16, 32)
    np.testing.assert_allclose(both.displacement, np.zeros((1, 2, 3)), atol=1e-6)
    world = draw_world(config.augment, keyed_rng(config.train.seed, 0, frame.token, "world"))
    np.testing.assert_allclose(both.inputs["sonar"].points, world.points(points), atol=1e-5)
    np.testing.assert_allclose(both.inputs["lidar"].points, world.points(frame.lidar.points), atol=1e-5)
    alone = data[Draw(0, (0,), ("sonar",))]
    assert alone.sensor_valid.tolist() == [[False, True]] and set(alone.inputs) == {"sonar"}


def test_an_error_while_loading_is_raised_as_it_is(tmp_path):
    def fail(index):
        raise SampleError(f"frame {index}: unreadable")

    config = make_config()
    config.data.workers = 1
    run = trainer(tmp_path, Frames(4, on_read=fail), config)
    with pytest.raises(SampleError, match=r"^frame \d: unreadable$"):
        run.run()
    assert multiprocessing.active_children() == []
    assert not run.checkpoint.exists()  # not one step was taken


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_trained_before_an_error_is_saved(tmp_path, workers, caplog):
    """The fifth frame cannot be read: the run ends after one step or two, and goes on from there once it can."""

    def fail(index, last=[]):  # noqa: B006
        last.append(index)
        if len(last) == 5:
            raise MemoryError("Unable to allocate 9 GiB") if workers == 0 else SampleError("frame: unreadable")

    config = make_config()
    config.data.workers = workers
    with pytest.raises(MemoryError if workers == 0 else SampleError):
        trainer(tmp_path / "parts", Frames(9, on_read=fail), config).run()
    assert caplog.messages[-1] == f"{tmp_path / 'parts'}: the state of step 2 is saved; continue with --resume"
    resumed = trainer(tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 2 and resumed.run()
    trainer(tmp_path / "whole").run()
    assert (tmp_path / "whole/model.safetensors").read_bytes() == (tmp_path / "parts/model.safetensors").read_bytes()
    assert timeless(tmp_path / "parts") == timeless(tmp_path / "whole")


def test_the_state_of_half_a_step_is_not_saved(tmp_path, monkeypatch):
    run = trainer(tmp_path)
    monkeypatch.setattr(run.ema, "update", lambda model, step: run.step == 2 and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.run()
    assert not run.checkpoint.exists()


def save_stub(folder: Path) -> StubModel:
    model = StubModel()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.5)
    write_files(folder, model.files(model.state_dict()))
    return model


def test_training_starts_from_the_weights_that_fit(tmp_path):
    save_stub(tmp_path / "run")
    model = StubModel()
    model.encoders["radar"] = nn.Linear(7, 5)  # of another shape
    model.extra = nn.Linear(2, 2)  # of another name
    before = {name: value.clone() for name, value in model.state_dict().items()}
    initialise(model, str(tmp_path / "run"))
    for name, value in model.named_parameters():
        if name.startswith(("encoders.radar", "extra")):
            assert torch.equal(value, before[name])
        else:
            assert (value == 0.5).all(), name


def test_weights_to_start_from_of_which_none_fits_are_named(tmp_path):
    save_stub(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"train\.init: .*run: weights of this model .* none of them fits"):
        initialise(nn.Linear(2, 2), str(tmp_path / "run"))
    with pytest.raises(PerceptionError, match="nowhere"):
        initialise(StubModel(), str(tmp_path / "nowhere"))


def test_frozen_parts_stay_as_they_are(tmp_path):
    run = trainer(tmp_path, config=make_config(freeze=["encoders.camera", "encoders.radar"], sensor_dropout=0.0))
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    assert run.run()
    changed = {name for name, value in run.model.named_parameters() if not torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("encoders.camera", "encoders.radar"))}
    assert {"encoders.lidar.weight", "encoders.lidar.bias"} <= changed <= before.keys() - frozen and len(frozen) == 4
    assert all(torch.equal(run.ema.state[name], before[name]) for name in before.keys() - changed)


def test_a_run_with_frozen_parts_resumes(tmp_path):
    config = make_config(freeze=["encoders.lidar"])
    trainer(tmp_path, config=config).run()
    run = trainer(tmp_path, config=config)
    run.resume()
    assert run.step == 8


def test_a_part_that_cannot_be_frozen_is_named(tmp_path):
    with pytest.raises(TrainingError, match=r"train\.freeze: some of encoders, norm, .* were expected, found 'wheels'"):
        trainer(tmp_path, config=make_config(freeze=["encoders.camera", "wheels"]))
    known = r"some of encoders, encoders\.camera, encoders\.radar, encoders\.lidar, .* found 'encoders\.sonar'"
    with pytest.raises(TrainingError, match=known):
        trainer(tmp_path, config=make_config(freeze=["encoders.sonar"]))


def test_all_encoders_are_frozen_by_one_name(tmp_path):
    run = trainer(tmp_path, config=make_config(freeze=["encoders"]))
    trained = [name for name, parameter in run.model.named_parameters() if parameter.requires_grad]
    assert trained == ["norm.weight", "norm.bias"]


DISTRIBUTED = """
import os
import signal
import sys
import torch
sys.path.insert(0, "tests")
from test_train import Frames, StubLoss, StubModel, make_config
from pathlib import Path
from perception.processes import process_group
from perception.train.trainer import Trainer

out, stop_after = sys.argv[1], int(sys.argv[2])
reads = []

def read(index):
    reads.append(index)
    if len(reads) == stop_after:
        os.kill(os.getpid(), signal.SIGTERM)

with process_group("cpu") as device:
    # Five frames of twelve cannot be read, so a process may find its batch empty while the other does not.
    frames = Frames(12, unreadable={0, 2, 3, 5, 9}, on_read=read)
    config = make_config(epochs=3, batch_size=1, sensor_dropout=0.9)
    run = Trainer(StubModel(), StubLoss(), frames, config, Path(out), device)
    run.resume()
    run.run()
    weights = torch.cat([value.flatten() for value in run.model.parameters()])
    Path(f"{out}.rank{run.rank}").write_bytes(weights.detach().numpy().tobytes())
"""


def test_a_run_is_the_same_on_another_number_of_processes(tmp_path):
    """Two processes have equal weights; what they began, one goes on with, and is where one alone would be."""
    script = tmp_path / "distributed.py"
    script.write_text(DISTRIBUTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [*torchrun, str(script), str(tmp_path / "parts"), "9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = ((tmp_path / f"parts.rank{rank}").read_bytes() for rank in (0, 1))
    assert len(first) > 0 and first == second
    before = read_checkpoint(tmp_path / "parts/checkpoint.safetensors")[1]
    assert 0 < before["step"] < before["total_steps"] == 18
    frames = Frames(12, unreadable={0, 2, 3, 5, 9})
    config = make_config(epochs=3, batch_size=1, sensor_dropout=0.9)
    parts = Trainer(StubModel(), StubLoss(), frames, config, tmp_path / "parts", torch.device("cpu"))
    parts.resume()
    assert parts.step == before["step"] and parts.total_steps == 18 and parts.run()
    alone = replace(config, train=replace(config.train, batches_per_step=2))
    Trainer(StubModel(), StubLoss(), frames, alone, tmp_path / "alone", torch.device("cpu")).run()
    curves = [
        [line["total"] for line in lines(tmp_path / name) if line["kind"] == "epoch"] for name in ("parts", "alone")
    ]
    assert len(curves[0]) == 3
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)
    parts_end, alone_end = (
        read_checkpoint(tmp_path / name / "checkpoint.safetensors")[0]["model"] for name in ("parts", "alone")
    )
    for name, _ in parts.model.named_parameters():  # not the statistics of batch norm, which are the first process's
        torch.testing.assert_close(parts_end[name], alone_end[name], rtol=1e-4, atol=1e-5)


def test_another_number_of_batches_in_a_step_is_another_run(tmp_path):
    run = trainer(tmp_path, Frames(12), make_config(epochs=1, batch_size=1))
    run.run()
    other = make_config(epochs=1, batch_size=1)
    other.train.batches_per_step = 3
    with pytest.raises(TrainingError, match=r"train\.batches_per_step \(1, now 3\)"):
        trainer(tmp_path, Frames(12), other).resume()


class OneWeight(StubModel):
    """Its output, and its weight's gradient, is the number of the batch's one frame, times the weight and not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        return self.weight * float(batch.tokens[0].removeprefix("token-"))


class Output(nn.Module):
    def forward(self, prediction, batch):
        return {"total": prediction}


def test_gradients_and_losses_of_several_batches_are_averaged(tmp_path):
    """One step of the frames 0, 1, 2 and 3."""
    config = make_config(epochs=1, batch_size=1)
    config.train.batches_per_step = 4
    assert Trainer(OneWeight(), Output(), Frames(4), config, tmp_path, torch.device("cpu")).run()
    (first,) = [line for line in lines(tmp_path) if line["kind"] == "steps"]
    assert first["gradient_norm"] == first["total"] == 1.5


def test_learning_rates_are_for_a_number_of_frames(tmp_path):
    """Steps of eight frames, rates for two: twice as high, the square root of four."""
    config = make_config(epochs=1, batch_size=2, learning_rate=0.1)
    config.train.batches_per_step, config.train.reference_frames = 4, 2
    run = trainer(tmp_path, Frames(8), config)
    assert run.learning_rate == pytest.approx(0.1 * 2 * one_cycle(0))
    assert run.run() and {group["lr"] for group in run.optimizer.param_groups} >= {0.1 * 2 * one_cycle(0)}


INTERRUPTED = """
import os, sys
sys.path.insert(0, "tests")
from test_train import Frames, make_config, trainer
from perception.cli.options import run_main

def read(index):
    if index == 5:  # in the first epoch, by one of the workers
        os.killpg(0, int(sys.argv[2]))

config = make_config()
config.data.workers = 2
run_main(lambda: 0 if trainer(sys.argv[1], Frames(8, on_read=read), config).run() else 130)
"""


def test_a_signal_to_all_processes_saves_says_nothing_else_and_the_run_goes_on(tmp_path):
    """It reaches the loader workers, too, as it does from a terminal and from a cluster's scheduler."""
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "parts"), str(int(signal.SIGUSR1))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert done.returncode == 130 and "Traceback" not in done.stderr and "Error" not in done.stderr
    resumed = trainer(tmp_path / "parts", Frames(8))
    resumed.resume()
    assert (tmp_path / "parts/model.safetensors").exists() and resumed.step < 4 and resumed.run()
    trainer(tmp_path / "whole", Frames(8)).run()
    assert (tmp_path / "parts/model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()


def run_tool(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/train.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_a_wrong_key_is_one_line_and_exit_code_2(tmp_path):
    save_config(load_config(), tmp_path / "c.yaml")
    done = run_tool(tmp_path / "c.yaml", "train.epoch=3", "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip().splitlines() == [
        "error: override 'train.epoch=3': unknown key 'train.epoch'; the closest valid key is 'train.epochs'"
    ]


def test_a_run_is_not_overwritten(tmp_path):
    save_config(load_config(), tmp_path / "c.yaml")
    (tmp_path / "checkpoint.safetensors").touch()
    done = run_tool(tmp_path / "c.yaml", "--out", tmp_path)
    assert done.returncode == 2 and "holds a training run" in done.stderr and "Traceback" not in done.stderr
