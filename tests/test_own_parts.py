"""docs/own-parts.md: its examples run as they stand, from another folder, and change nothing of the package."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import perception
from perception.errors import PerceptionError
from perception.model.head import CenterHead
from perception.train.losses import DetectionLoss

ROOT = Path(__file__).parents[1]
SCRIPTS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", (ROOT / "docs/own-parts.md").read_text(), re.DOTALL))
OWN = {"backbone.py": "runs/backbone", "fusion.py": "runs/max", "fourth_sensor.py": "runs/five"}


def package_digest() -> str:
    files = sorted(path for path in (ROOT / "perception").rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, code in SCRIPTS.items():
        (folder / name).write_text(code)
    return folder


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "common.py"])
def test_the_examples_train_load_evaluate_and_replay(folder, name):
    before = package_digest()
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, name], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert package_digest() == before
    if name == "head.py":
        rows = [json.loads(line) for line in (folder / "runs/speed/log.jsonl").read_text().splitlines()]
        assert all("speed/error" in row for row in rows if row["kind"] == "epoch")
        return
    out = {"backbone.py": "backbone", "fusion.py": "max", "dataset.py": "yard", "fourth_sensor.py": "five"}[name]
    summary = json.loads((folder / "out" / out / "summary.json").read_text())
    assert summary["complete"] and summary["frames"] == (6 if name == "dataset.py" else 4)
    if name in OWN:  # a checkpoint with own parts says so
        with pytest.raises(PerceptionError, match="must be given to build"):
            perception.load(folder / OWN[name])
    if name == "dataset.py":
        detector = perception.load(folder / "runs/yard")
        assert detector.task.classes == ("forklift", "person") and detector.sensors == ("lidar",)
    if name == "fourth_sensor.py":
        assert summary["frames_with"] == dict.fromkeys(["camera", "radar", "lidar", "thermal", "radar4d"], 4)


class Occupancy(nn.Module):
    """A second head, which says where anything stands."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features):
        return self.conv(features)

    def losses(self, output, batch):
        return {"mean": output.square().mean()}


def test_an_own_head_is_called_trained_and_saved(tmp_path):
    config = perception.load_config(
        overrides=["camera=null", "radar=null", "fusion.channels=16", "grid.cell_size_m=3.2"]
    )
    config.head.trunk_channels, config.head.channels = [16], 16
    detector = perception.build(config, heads={"occupancy": Occupancy(16)})
    assert isinstance(detector.heads["boxes"], CenterHead) and list(detector.heads) == ["boxes", "occupancy"]
    frame = perception.Frame("a", 0, lidar=perception.LidarCloud([[5, 0, 0, 10, 0]]), boxes=perception.Boxes3D.empty())
    batch = detector.prepare([frame])
    prediction = detector(batch)
    assert prediction.outputs["occupancy"].shape == (1, 1, 32, 32)
    losses = DetectionLoss(detector, config.train)(prediction, batch)
    expected = prediction.outputs["occupancy"].square().mean()
    assert torch.equal(losses["occupancy/mean"], expected)
    assert torch.allclose(losses["total"], sum(value for name, value in losses.items() if name != "total"))
    detector.save(tmp_path)
    with pytest.raises(PerceptionError, match=r"heads\.occupancy must be given to build"):
        perception.load(tmp_path)
    loaded = perception.load(tmp_path, build=lambda c: perception.build(c, heads={"occupancy": Occupancy(16)}))
    assert torch.equal(loaded.heads["occupancy"].conv.weight, detector.heads["occupancy"].conv.weight)
