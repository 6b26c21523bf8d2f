"""The shipped checkpoint and configs: they load, they are small, and the detector still finds what it found."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

import perception
from perception import CLASSES
from perception.config import load_config
from perception.data.opening import open_source
from perception.model.build import build
from perception.model.checkpoint import find_checkpoint
from perception.sim import simulate

ROOT = Path(__file__).parent.parent
GOLDEN = Path(__file__).parent / "golden" / "sim.json"
TOP = 8
SENSORS = ("camera", "radar", "lidar")

CONFIGS = sorted(
    path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "benchmark"
)  # of drives, not models


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_builds(path):
    if any(backbone in path.read_text() for backbone in ("resnet50", "swin_t")):
        pytest.importorskip("transformers")
    with torch.device("meta"):
        build(load_config(path, ["encoders.camera.weights=none"]))


def test_a_stage_takes_over_what_the_one_before_it_trained():
    """Weights of the same name and shape: encoders, trunk and heads, all of them."""
    pytest.importorskip("transformers")
    with torch.device("meta"):
        single, whole = (
            build(load_config(ROOT / "configs" / f"{name}.yaml", ["encoders.camera.weights=none"])).state_dict()
            for name in ("nuscenes_single", "nuscenes")
        )
    parts = ("encoders.", "trunk.", "heads.")
    before, after = ({k: v.shape for k, v in state.items() if k.startswith(parts)} for state in (single, whole))
    assert before == after and len(before) > 300


def test_stages_with_registration_are_trained_with_displaced_sensors():
    """On nuScenes as on simulated drives; and all sensors are there in the last epochs."""
    for name in ("nuscenes", "nuscenes_r50_pillar", "sim"):
        config = load_config(ROOT / "configs" / f"{name}.yaml")
        assert config.fusion.registration and config.augment.corruption_rate == 0.3
        assert config.train.finish_epochs > 0 or name == "sim"


def test_the_checkpoint_is_small_and_holds_no_pickle():
    files = sorted(path.name for path in find_checkpoint("sim").iterdir())
    assert files == ["SHA256SUMS", "config.yaml", "model.safetensors"]
    assert (find_checkpoint("sim") / "model.safetensors").stat().st_size < 15e6


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(perception.PerceptionError, match=r"shipped name \(sim\)"):
        perception.load("simm")


def detect(folder: Path) -> dict[str, list]:
    """[class, x, y, score] of the most certain detections of a frame no training saw, by what sensors are there."""
    simulate(folder, 1, 1.0, seed=3000, workers=1, world="street")
    detector = perception.load("sim")
    frame = open_source(folder, detector.config)[1]
    found = {}
    for name, sensors in {"all": SENSORS, **{name: [name] for name in SENSORS}}.items():
        detections = detector.detect(frame.only(sensors))
        boxes = detections.boxes[:TOP]
        columns = (boxes.label, boxes.center[:, 0], boxes.center[:, 1], detections.scores)
        found[name] = [[CLASSES[c], round(x, 3), round(y, 3), round(p, 4)] for c, x, y, p in zip(*columns)]
    return found


def test_golden_detections(tmp_path):
    """Renew with ``python tests/test_shipped.py`` when weights or simulator change; the tolerance is for other CPUs."""
    goldens = json.loads(GOLDEN.read_text())
    assert set(goldens) == {"all", *SENSORS} and all(goldens.values()), "an empty list proves nothing"
    found = detect(tmp_path)
    for sensors, golden in goldens.items():
        for label, x, y, score in golden:
            near = [p for c, u, v, p in found[sensors] if c == label and np.hypot(u - x, v - y) < 0.1]
            assert near and abs(near[0] - score) < 0.02, f"{sensors}: {label} at {x}, {y} with score {score}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        lines = [f"  {json.dumps(name)}: {json.dumps(rows)}" for name, rows in detect(Path(scratch)).items()]
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
