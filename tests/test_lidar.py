"""The LiDAR encoder: its stages, its pyramid, the fine map it keeps, and what a config says of them."""

import pytest
import torch

from perception.batch import PointBatch
from perception.config import load_config
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.build import build
from perception.model.head import Trunk
from perception.model.layers import ResidualBlock
from perception.model.lidar import LidarEncoder
from perception.sample import LidarCloud

GRID = BEVGrid(-8, 8, -8, 8, -1, 1, 1.0)


def cloud(*points: list[float], samples: int = 1) -> PointBatch:
    rows = torch.tensor(points).reshape(-1, 5)
    return PointBatch(rows, torch.zeros(len(rows), dtype=torch.long), samples, LidarCloud.fields)


def scattered(count: int = 500) -> PointBatch:
    generator = torch.Generator().manual_seed(0)
    return cloud(*(torch.rand(count, 5, generator=generator) * 16 - 8).tolist(), samples=2)


def encoder(pillar_size_m=0.25, blocks=(1,), fine_blocks=0) -> LidarEncoder:
    torch.manual_seed(0)
    return LidarEncoder(GRID, pillar_size_m, 4, 8, blocks, fine_blocks)


def counts(parts) -> list[int]:
    """Residual blocks of each part."""
    return [sum(isinstance(module, ResidualBlock) for module in part.modules()) for part in parts]


def test_by_default_the_weights_are_those_of_earlier_checkpoints():
    """Two strided convolutions from 0.25 to 1 m, one residual block, and nothing else."""
    conv = ("0.weight", "1.weight", "1.bias")
    residual = [f"{part}.{name}" for part in ("first", "second") for name in conv]
    wanted = {f"backbone.{i}.{name}" for i in (0, 1) for name in conv} | {f"backbone.2.{name}" for name in residual}
    wanted |= {f"pillars.point.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}
    assert set(encoder().state_dict()) == wanted


def test_residual_blocks_stand_where_the_config_says():
    model = encoder(blocks=(2, 3, 1), fine_blocks=4)
    assert counts([model.backbone[: model.last], model.backbone[model.last :]]) == [4, 2]
    assert counts(model.pyramid.down) == [3, 1]
    assert model.pyramid.down[1][0][0].weight.shape == (16, 16, 3, 3)  # coarser levels are twice as wide
    assert counts([encoder(blocks=(0,)).backbone]) == [0]


@pytest.mark.parametrize(("pillar_size_m", "fine"), [(0.25, (8, 32, 32)), (0.5, (4, 32, 32)), (1.0, (4, 16, 16))])
def test_two_fine_cells_along_each_side_of_a_cell(pillar_size_m, fine):
    model = encoder(pillar_size_m, (1, 1, 1))
    encoded = model(scattered())
    assert encoded.bev.shape == (2, 8, 16, 16)
    assert encoded.fine.shape == (2, *fine) and model.fine_channels == fine[0]


def test_a_point_is_where_it_is_in_the_fine_map():
    """x = 3.3 is 11.3 m from the lower edge, in column 22 of half-metre cells; y = -7.6 in row 0."""
    fine = encoder(0.5)(cloud([3.3, -7.6, 0.0, 100.0, 0.0])).fine
    assert fine.abs().sum(dim=1).nonzero().tolist() == [[0, 0, 22]]


def reach(blocks: tuple[int, ...]) -> int:
    """Rows of cells that one cell of the output depends on, with normalisation, which sees all of them, taken out."""
    model = encoder(1.0, blocks)
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda x: x
    x = torch.rand(1, 4, 64, 64, requires_grad=True)
    model.pyramid(model.backbone(x))[0, :, 32, 32].sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    return int(rows.max() - rows.min()) + 1


def test_a_pyramid_sees_farther():
    assert reach((1,)) == 7  # three 3 x 3 convolutions
    assert reach((1, 1, 1)) > 4 * 7


@pytest.mark.parametrize("points", [scattered(), cloud(samples=2)])
def test_every_parameter_learns_also_from_an_empty_cloud(points):
    model = encoder(0.25, (2, 1), 1)
    encoded = model(points)
    (encoded.bev.square().sum() + encoded.fine.square().sum()).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_points_are_described_in_float32_under_autocast():
    model = encoder(0.5)
    exact = model.pillars(scattered())
    with torch.autocast("cpu", torch.bfloat16):
        encoded = model(scattered())
    assert encoded.bev.dtype == torch.bfloat16 and torch.equal(encoded.fine, exact)


def test_a_trunk_has_one_block_a_level_unless_told():
    assert counts(Trunk(4, [4, 8, 8]).down) == [1, 1] and counts(Trunk(4, [4, 8, 8], [0, 2]).down) == [0, 2]


def test_stages_of_a_config():
    overrides = ["camera=null", "radar=null", "lidar.blocks=[2,1]", "lidar.fine_blocks=1", "lidar.pillar_size_m=0.2"]
    model = build(load_config(None, overrides)).encoders["lidar"]
    assert counts([model.backbone, model.pyramid]) == [3, 1]
    with pytest.raises(PerceptionError, match=r"encoders\.lidar\.blocks: one to six counts"):
        load_config(None, ["lidar.blocks=[]"])
    with pytest.raises(PerceptionError, match=r"encoders\.lidar\.fine_blocks: 0 to 32 was expected, found -1"):
        load_config(None, ["lidar.fine_blocks=-1"])
