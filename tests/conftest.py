import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_scene() -> Path:
    """One real nuScenes scene on disk, keyframes only: 40 samples of scene-0523 in the version v1.0-mini."""
    if not os.environ.get("PERCEPTION_DATA"):
        pytest.skip("PERCEPTION_DATA is not set: no real data to test on")
    return Path(os.environ["PERCEPTION_DATA"]) / "nuscenes_scene_0523"
