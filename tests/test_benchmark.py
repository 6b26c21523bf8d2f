"""Benchmarks: what is timed and gathered, not how fast it is."""

import json

import pytest
from test_model import make_frame, small_config
from tiny_drive import tiny_world

from benchmarks import cost, document, loading, model, shards, suite
from benchmarks.timing import compare, peak_mb, row, timed
from perception.batch import InputSpec, collate
from perception.config import Config, FusionConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid
from perception.model.build import build
from perception.sample import LidarCloud, RadarCloud

NEEDS = suite.Needs("sim", None, None, None, None, None)


def test_candidates_take_turns_and_medians_count():
    calls, own_seconds = [], iter([9.0, 1.0, 3.0, 2.0])  # the first is the warm-up
    peers = {"clock": lambda: calls.append("peer") or next(own_seconds)}
    (found,) = compare("x", lambda: calls.append("ours"), peers, repeats=3)
    assert calls[:4] == ["ours", "peer", "ours", "peer"]
    assert found["peer_ms"] == pytest.approx(2000.0)
    assert found["ratio"] == pytest.approx(found["peer_ms"] / found["ours_ms"])


def test_a_candidate_that_times_itself():
    assert timed(lambda: 4.5) == 4.5
    assert 0 <= timed(lambda: None) < 4.5


def test_peak_memory_is_what_a_call_adds():
    assert 90 < peak_mb(lambda: bytearray(100_000_000)) < 130


def test_samples_of_shards_are_read_from_one_file(tmp_path):
    """Loose ones of the world are an image, and a sweep each of a LiDAR and a radar."""
    root = tiny_world().write(tmp_path / "drive")
    detector = build(small_config())
    detector.config.data.lidar_sweeps = detector.config.data.radar_sweeps = 1
    loose, whole, packed = shards.reading(root, detector, repeats=1)
    assert loose["opens"] == 3 and whole["opens"] == packed["opens"] == 1
    assert 0 < packed["megabytes"] <= whole["megabytes"] and packed["samples"] == 6
    assert all(row["cold_per_s"] > 0 and row["warm_per_s"] > 0 and row["cpu_ms"] > 0 for row in (loose, packed))
    assert [path.name for path in tmp_path.iterdir()] == ["drive"]


def test_rows_replace_those_of_the_same_name_and_peer(tmp_path, monkeypatch):
    path = tmp_path / "out" / "rows.json"
    monkeypatch.setitem(suite.BENCHMARKS, "pool", lambda _: [row("a", 1.0, "p", 2.0, 0.0)])
    monkeypatch.setitem(suite.BENCHMARKS, "metric", lambda _: [row("a", 1.0, "q", 8.0, 0.0)])
    suite.run(["metric", "pool"], NEEDS, path)
    monkeypatch.setitem(suite.BENCHMARKS, "pool", lambda _: [row("a", 1.0, "p", 4.0, 0.0)])
    monkeypatch.setitem(suite.EXTRAS, "model", lambda _: [{"stage": "all", "ms": 3.0}])
    suite.run(["pool", "model"], NEEDS, path)
    assert {r["peer"]: r["ratio"] for r in json.loads(path.read_text())} == {"p": 4.0, "q": 8.0}
    assert json.loads((tmp_path / "out" / "rows.model.json").read_text()) == [{"stage": "all", "ms": 3.0}]

    tables = document.performance(path)
    assert "| `a` | p | 1 | 4 | 4× | 0 | cpu |" in tables
    assert "Still to be taken, for want of a GPU: `gpu_voxelize`" in tables and "| all | 3 |" in tables


@pytest.mark.parametrize(
    ("name", "missing"), [("loading", "--scene"), ("tables", "--tables"), ("frames", "--peers-python")]
)
def test_what_a_benchmark_lacks_is_named(tmp_path, name, missing):
    with pytest.raises(PerceptionError, match=missing):
        suite.run([name], NEEDS, tmp_path / "rows.json")


def test_a_file_of_something_else_is_named(tmp_path):
    (tmp_path / "rows.json").write_text('{"a": 1}')
    with pytest.raises(PerceptionError, match=r"rows\.json: rows of benchmarks were expected"):
        suite.read_rows(tmp_path / "rows.json")


def test_the_stages_of_a_frame(monkeypatch):
    """Each part has its own parameters, and together they are those of the detector."""
    monkeypatch.setattr(model, "_limits", lambda: (1e9, 1e9))
    detector = build(small_config("decoder.kind=attention")).eval()
    rows = {row["stage"]: row for row in model.stages(detector, make_frame(), repeats=1)}
    sensors, rest = ("camera", "view transform", "radar", "lidar"), ("fusion", "trunk", "head", "decoder", "decode")
    assert list(rows) == ["prepare", *sensors, *rest, "all"]
    count = {name: row["parameters"] for name, row in rows.items()}
    assert count["all"] == sum(parameter.numel() for parameter in detector.parameters())
    assert count["all"] == sum(number for name, number in count.items() if name != "all")
    assert count["prepare"] == count["decode"] == 0 and all(row["ms"] > 0 for row in rows.values())
    assert rows["camera"]["gflop"] > 0 and rows["fusion"]["gflop"] > 0


def test_a_frame_of_noise_fits_its_types():
    frame = model.make_frame((32, 64), 100, 20)
    assert len(frame.cameras) == 6 and frame.sensors == ("camera", "radar", "lidar")
    assert isinstance(frame.lidar, LidarCloud) and isinstance(frame.radar, RadarCloud)
    assert all(camera.image.shape == (32, 64, 3) for camera in frame.cameras.values())


def test_what_fusion_blocks_cost():
    """Of two sensors; an averaging block has a weight for each sensor and channel and does no product."""
    grid = BEVGrid(-12.8, 12.8, -12.8, 12.8, -5, 3, 0.8)
    rows = cost.fusion_costs(FusionConfig(channels=16, heads=2), grid, ("radar", "lidar"), repeats=1)
    found = {row["fusion"]: row for row in rows}
    narrow = "attention, half as wide, pooled"
    assert list(found) == ["attention", narrow, "attention, not registered", "average", "concat"]
    assert found[narrow]["gflop"] < found["attention"]["gflop"]
    assert found["average"]["parameters"] == 2 * 16 and found["average"]["gflop"] == 0
    assert found["attention"]["parameters"] > found["attention, not registered"]["parameters"] > 2 * 16
    # Two convolutions of 3 x 3 on 32 x 32 cells, of 32 and of 16 channels to 16.
    assert found["concat"]["gflop"] == pytest.approx(2 * 32 * 32 * 9 * (32 + 16) * 16 / 1e9)
    assert all(row["ms"] > 0 and row["saved_mb"] > 0 for row in rows)


def test_fusion_beside_attention_to_all(monkeypatch):
    """What is compared runs at every size; times are not taken."""
    ran = []

    def once(name, ours, peers, repeats):
        ran.append((name, tuple(ours().shape), [tuple(peer().shape) for peer in peers.values()]))
        return [row(name, 2.0 ** len(ran), "full", 1.0, 0.0)]

    monkeypatch.setattr(model, "compare", once)
    config = Config().fusion
    head = config.channels // config.heads
    growth = [found["growth"] for found in model.fusion_scaling(sides=(6, 12, 24))]
    assert growth == [None, 2.0, 2.0]
    for (name, ours, (full,)), side in zip(ran, (6, 12, 24)):
        assert name == f"fusion_{side}" and ours == (1, config.channels, side, side)
        assert full == (1, config.heads, side * side, head)


def test_images_unlike_those_of_the_peer_are_an_error():
    batch = collate([make_frame()], InputSpec(("camera",), image_size={"camera": (32, 64)}))
    images = batch.inputs["camera"].images[0]
    loading._require_alike(batch, images)
    with pytest.raises(PerceptionError, match=r"a mean difference of 2\.00"):
        loading._require_alike(batch, images.float() + 2)
