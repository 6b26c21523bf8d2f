"""The shipped checkpoint and configs: they load, they are small, and the detector still finds what it found."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

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
    if "resnet50" in path.read_text():
        pytest.importorskip("transformers")
    build(load_config(path, ["encoders.camera.weights=none"]))


def test_the_checkpoint_is_small_and_holds_no_pickle():
    files = sorted(path.name for path in find_checkpoint("sim").iterdir())
    assert files == ["SHA256SUMS", "config.yaml", "model.safetensors"]
    assert (find_checkpoint("sim") / "model.safetensors").stat().st_size < 15e6


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(perception.PerceptionError, match=r"shipped name \(sim\)"):
        perception.load("simm")


def detect(folder: Path) -> dict[str, list]:
    """[class, x, y, score] of the most certain detections of a frame no training saw, by what sensors are there."""
    simulate(folder, 1, 1.0, seed=3000, workers=1)
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
