import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads stall a busy machine

import logging
import signal
from pathlib import Path

import pytest

from perception.signals import STOP_SIGNALS


@pytest.fixture(autouse=True)
def log_levels():
    """A command sets them for its process; the next test wants them as they were."""
    loggers = [logging.getLogger(), logging.getLogger("perception")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before):
        logger.setLevel(level)


@pytest.fixture(autouse=True)
def environment():
    """A command sets TQDM_DISABLE and others for its process and those that it starts."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    for name, value in before.items():
        if name != "PYTEST_CURRENT_TEST" and os.environ.get(name) != value:
            os.environ[name] = value


@pytest.fixture(autouse=True)
def signal_handlers():
    """A command handles signals for the rest of its process.

    A forked worker that inherits the handlers can outlive ``Pool.terminate``: a signal that comes just before it waits
    for a lock is noted in Python, and does not wake it.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_scene() -> Path:
    """One real nuScenes scene on disk, keyframes only: 40 samples of scene-0523 in the version v1.0-mini."""
    if not os.environ.get("PERCEPTION_DATA"):
        pytest.skip("PERCEPTION_DATA is not set: no real data to test on")
    return Path(os.environ["PERCEPTION_DATA"]) / "nuscenes_scene_0523"
