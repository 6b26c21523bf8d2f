"""Radar points: where their objects are by now, and the direction of the beam."""

import pytest
import torch

from perception.batch import PointBatch
from perception.config import DataConfig, load_config
from perception.data.opening import open_source
from perception.grid import BEVGrid
from perception.logs.frames import assembly_for
from perception.model.build import build
from perception.model.radar import RadarEncoder, moved_to_now, with_direction
from perception.sample import RadarCloud


def cloud(*points: list[float]) -> PointBatch:
    """Columns x, y, z, rcs_dbsm, vx, vy, age_s."""
    rows = torch.tensor(points, dtype=torch.float32).reshape(-1, 7)
    return PointBatch(rows, torch.zeros(len(rows), dtype=torch.long), 1, RadarCloud.fields)


def test_old_returns_go_where_their_objects_are_by_now():
    points = cloud([10, 5, 1, 7, 4, -2, 0.5], [10, 5, 1, 7, 4, -2, 0.0])
    wanted = [[12, 4, 1, 7, 4, -2, 0.5], [10, 5, 1, 7, 4, -2, 0.0]]
    torch.testing.assert_close(moved_to_now(points).points, torch.tensor(wanted))
    assert points.points[0, 0] == 10 and moved_to_now(points).fields == RadarCloud.fields


def test_the_direction_of_the_beam_and_the_speed_along_it():
    """(6, 8) is seen in the direction (0.6, 0.8); 5 m/s towards +y there are 4 along the beam."""
    described = with_direction(cloud([6, 8, 0, 0, 0, 5, 0], [-3, 0, 0, 0, 2, 0, 0], [0, 0, 0, 0, 1, 1, 0]))
    torch.testing.assert_close(described.points[:, 7:], torch.tensor([[0.6, 0.8, 4], [-1, 0, -2], [0, 0, 0]]))
    assert described.fields[7:] == ("cos", "sin", "speed")


@pytest.mark.parametrize("points", [cloud(), cloud([6, 1, 0, 5, 2, 0, 0.2])])
def test_an_encoder_uses_what_it_is_told_to(points):
    grid = BEVGrid(-8, 8, -8, 8, -1, 1, 1.0)
    torch.manual_seed(0)
    model = RadarEncoder(grid, 4, 8, moved=True, direction=True)
    encoded, moved = model(points), moved_to_now(points)
    assert encoded.bev.shape == (1, 8, 16, 16)
    torch.testing.assert_close(encoded.bev, model.backbone(model.pillars(with_direction(moved))))
    torch.testing.assert_close(encoded.returns.points, moved.points)
    encoded.bev.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_by_default_the_weights_are_those_of_earlier_checkpoints():
    config = load_config(None, ["camera=null", "lidar=null"])
    assert build(config).encoders["radar"].pillars.point[0].weight.shape == (32, 13)
    config = load_config(None, ["camera=null", "lidar=null", "radar.direction=true"])
    assert build(config).encoders["radar"].pillars.point[0].weight.shape == (32, 16)


def test_which_returns_are_read_is_a_matter_of_the_config(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr("perception.data.opening.NuScenes", lambda *_, **options: asked.update(options))
    for keep in (True, False):
        config = load_config(None, [f"data.radar_filter={str(keep).lower()}", "data.radar_sweeps=8"])
        open_source(tmp_path, config)
        assert asked["radar_filter"] is keep and asked["radar_sweeps"] == 8
        assert assembly_for(config.data).radar_filter is keep
    assert DataConfig().radar_filter
