"""The encoder of voxels: against dense convolutions, degenerate clouds, its place in a detector, a training step."""

from dataclasses import replace

import pytest
import torch
from frames import FRAMES, make_frame
from torch.nn import functional as F

from perception.batch import PointBatch
from perception.config import ConfigError, VoxelConfig, load_config, to_yaml
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.build import build
from perception.model.voxel_encoder import VoxelEncoder
from perception.sample import Boxes3D, LidarCloud
from perception.train.losses import DetectionLoss

GRID = BEVGrid(-8, 8, -8, 8, -1, 1, 2.0)  # 8 x 8 cells; voxels of 0.5 m, 32 x 32 in 5 layers
TINY = (
    "encoders.radar=null", "encoders.camera=null", "encoders.lidar.kind=lidar_voxels", "grid.cell_size_m=3.2",
    "encoders.lidar.voxel_size_m=0.8", "encoders.lidar.voxel_height_m=1", "encoders.lidar.widths=[4,8,8]",
    "fusion.channels=8", "fusion.heads=2", "head.trunk_channels=[8,8]", "head.channels=8",
)  # fmt: skip


def cloud(n: int, batch_size: int = 2, seed: int = 0) -> PointBatch:
    rng = torch.Generator().manual_seed(seed)
    points = torch.randn(n, 5, generator=rng) * torch.tensor([4, 4, 0.5, 50, 0.1])
    return PointBatch(points, torch.arange(n) * batch_size // max(n, 1), batch_size, LidarCloud.fields)


def encoder(widths=(4, 6, 8), channels=16) -> VoxelEncoder:
    torch.manual_seed(0)
    size = 2.0 / 2 ** (len(widths) - 1)
    return VoxelEncoder(GRID, size, 0.4, widths, 1, channels)


def test_shapes_of_all_depths():
    for widths, fine in (((4,), (4, 8)), ((4, 6), (4, 16)), ((4, 6, 8), (6, 16))):
        model = encoder(widths)
        encoded = model(cloud(500))
        assert encoded.bev.shape == (2, 16, 8, 8)
        assert encoded.fine.shape == (2, fine[0], fine[1], fine[1]) and model.fine_channels == fine[0]


def test_against_dense_convolutions_masked_to_the_occupied_voxels():
    """The same weights in ``F.conv3d`` on the whole grid; what is not occupied is set to zero after every layer."""
    model, batch = encoder().double(), cloud(400)
    batch.points = batch.points.double()
    features, occupied = voxels_of(model, batch)

    def block(layer, x, mask, relu=True):
        kernel = layer.kernel
        weight = layer.weight.unflatten(0, kernel).permute(4, 3, 0, 1, 2)
        stride = layer.stride or (1, 1, 1)
        padding = tuple(k // 2 for k in kernel) if layer.stride is None else layer.padding
        if layer.stride is not None:
            mask = (F.conv3d(mask, torch.ones(1, 1, *kernel).double(), stride=stride, padding=padding) > 0).double()
        x = F.conv3d(x, weight, stride=stride, padding=padding).permute(0, 2, 3, 4, 1)
        x = layer.norm(x).permute(0, 4, 1, 2, 3) * mask
        return (x.relu() if relu else x), mask

    x, mask = block(model.stem, features, occupied)
    for stage in model.stages:
        fine, fine_mask = x, mask
        for layer in stage:
            if hasattr(layer, "first"):
                y, _ = block(layer.first, x, mask)
                x = (x + block(layer.second, y, mask, relu=False)[0]).relu()
            else:
                x, mask = block(layer, x, mask)
    encoded = model(batch)
    torch.testing.assert_close(encoded.bev, model.neck(block(model.flat, x, mask)[0].squeeze(2)))
    torch.testing.assert_close(encoded.fine, block(model.flat_fine, fine, fine_mask)[0].squeeze(2))


def voxels_of(model: VoxelEncoder, batch: PointBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [B, 9, 5, 32, 32] and occupancy [B, 1, 5, 32, 32], point by point."""
    members: dict[tuple, list] = {}
    for point, sample in zip(batch.points, batch.batch_index.tolist()):
        if (point[:2].abs() < 8).all() and point[2].abs() < 1:
            x, y, z = ((point[:3] + point.new_tensor([8, 8, 1])) / point.new_tensor([0.5, 0.5, 0.4])).tolist()
            members.setdefault((sample, int(z), int(y), int(x)), []).append(point)
    features = torch.zeros(2, 9, 5, 32, 32).double()
    occupied = torch.zeros(2, 1, 5, 32, 32).double()
    for (sample, z, y, x), points in members.items():
        mean = torch.stack(points).mean(0)
        centre = mean.new_tensor([x * 0.5 - 7.75, y * 0.5 - 7.75, z * 0.4 - 0.8])
        offset = (mean[:3] - centre) / mean.new_tensor([0.5, 0.5, 0.4])
        count = mean.new_tensor([float(len(points))]).log()
        features[sample, :, z, y, x] = torch.cat([mean / model.scale, offset, count])
        occupied[sample, 0, z, y, x] = 1
    return features, occupied


@pytest.mark.parametrize("n", [0, 1, 2])
def test_clouds_of_almost_no_points(n):
    model = encoder()
    encoded = model(cloud(n))
    assert encoded.bev.isfinite().all() and encoded.fine.isfinite().all()
    if n == 0:
        assert not encoded.fine.any()
    (encoded.bev.square().sum() + encoded.fine.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


def test_a_sample_does_not_depend_on_the_others():
    model, batch = encoder(), cloud(600)
    both = model(batch)
    second = batch.batch_index == 1
    alone = model(PointBatch(batch.points[second], torch.zeros(int(second.sum()), dtype=torch.int64), 1, batch.fields))
    torch.testing.assert_close(both.bev[1:], alone.bev, rtol=1e-5, atol=1e-5)
    only = model(PointBatch(batch.points[second], batch.batch_index[second], 2, batch.fields))  # the first one is empty
    torch.testing.assert_close(only.bev[1:], alone.bev, rtol=1e-5, atol=1e-5)
    assert not only.fine[0].any()


def test_order_of_points_does_not_matter_and_the_bytes_are_the_same_every_time():
    model, batch = encoder(), cloud(600, batch_size=1)
    bev = model(batch).bev
    assert torch.equal(model(batch).bev, bev)
    batch.points = batch.points[torch.randperm(600, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(model(batch).bev, bev, rtol=1e-4, atol=1e-4)


def test_all_points_at_the_border_and_beyond():
    corner = torch.tensor([[7.99, 7.99, 0.99, 1, 0], [-8, -8, -1, 1, 0], [8, 8, 1, 1, 0], [torch.nan, 0, 0, 1, 0]])
    encoded = encoder()(PointBatch(corner, torch.zeros(4, dtype=torch.int64), 1, LidarCloud.fields))
    occupied = encoded.fine.abs().sum(1)[0].nonzero().tolist()
    assert set(map(tuple, occupied)) <= {(0, 0), (15, 15)} and occupied


def test_values_that_do_not_fit_are_named():
    with pytest.raises(PerceptionError, match=r"all of 3 widths but the first, 0.5, was expected, found 0.4"):
        VoxelEncoder(GRID, 0.4, 0.4, (4, 6, 8), 1, 16)
    with pytest.raises(PerceptionError, match=r"voxel_height_m: the grid's height \(2 m\) divided by a whole number"):
        VoxelEncoder(GRID, 0.5, 0.3, (4, 6, 8), 1, 16)
    four = PointBatch(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64), 1, ("x", "y", "z", "intensity"))
    with pytest.raises(PerceptionError, match="points with 5 columns were expected, found x, y, z, intensity"):
        encoder()(four)
    for bad in ("widths=[]", "widths=[0]", "voxel_size_m=0", "voxel_height_m=-1", "blocks=-1"):
        with pytest.raises(ConfigError, match=f"encoders.lidar.{bad.split('=')[0]}"):
            load_config(None, ["encoders.lidar.kind=lidar_voxels", f"encoders.lidar.{bad}"])


def test_config_of_voxels_is_kept(tmp_path):
    config = load_config(None, ["encoders.lidar.kind=lidar_voxels"])
    assert config.encoders["lidar"] == VoxelConfig()
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "c.yaml") == config
    build(config.__class__(encoders={"lidar": VoxelConfig()}))  # the defaults fit each other


def test_registration_takes_its_prior_from_lidar_of_either_kind():
    biases = []
    for kind in ((), ("encoders.lidar.kind=lidar_voxels",)):
        config = load_config(None, ["encoders.camera=null", *kind])
        fusion = build(config).fusion
        biases.append({name: p for name, p in fusion.state_dict().items() if "registration" in name and "bias" in name})
    assert any((bias == -4).any() for bias in biases[1].values())
    assert all(((biases[0][name] == -4) == (biases[1][name] == -4)).all() for name in biases[0])


def test_its_cloud_supervises_the_depth_of_the_camera():
    camera = ("image_size=[32,64]", "weights=none", "channels=8", "depth_bins=6")
    tiny = [key for key in TINY if key != "encoders.camera=null"] + [f"encoders.camera.{key}" for key in camera]
    detector = build(load_config(None, tiny))
    boxes = Boxes3D(center=[[5.0, 5, 0]], size=[[4.0, 2, 1.5]], yaw=[0.3], velocity=[[1.0, 0]], label=[0])
    batch = detector.prepare([replace(make_frame(1, points=3000), boxes=boxes)])
    assert DetectionLoss(detector, detector.config.train)(detector(batch), batch)["depth"] > 0


def test_a_detector_learns_and_detects():
    """Ten steps on two frames, one of them with an empty cloud, bring the loss down; then it detects in any frame."""
    torch.manual_seed(0)
    detector = build(load_config(None, list(TINY)))
    boxes = Boxes3D(center=[[5.0, 5, 0]], size=[[4.0, 2, 1.5]], yaw=[0.3], velocity=[[1.0, 0]], label=[0])
    frames = [replace(make_frame(1, points=points), boxes=boxes) for points in (300, 0)]
    batch, criterion = detector.prepare(frames), DetectionLoss(detector, detector.config.train)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=3e-3)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = criterion(detector(batch), batch)["total"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    detector.eval()
    for name, frame in FRAMES.items():
        if "lidar" in frame.sensors:
            assert len(detector.detect(frame).scores) >= 0, name
