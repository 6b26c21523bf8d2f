"""Made-up frames of a rig, by which a detector is run before the first real one comes."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from perception.logs.arrays import calibration_of, image_of, lidar_of, radar_of
from perception.logs.assemble import Assembler
from perception.logs.measurements import Assembly
from perception.logs.messages import Message, Payload
from perception.logs.rig import CameraSource, Rig
from perception.sample import Frame

_SECONDS = (1, 2)  # of the two frames: the second has a memory
_POINTS = 2000
_AHEAD = [1.5, 0.0, 1.5, 0.5, -0.5, 0.5, -0.5]  # a camera that looks ahead
_ON_TOP = [0.0, 0.0, 1.8, 1.0, 0.0, 0.0, 0.0]
_INTRINSICS = np.array([[500.0, 0, 320], [0, 500, 180], [0, 0, 1]])


def made_up_frames(rig: Rig, assembly: Assembly) -> list[Frame]:
    """Two frames of noise, of a vehicle that stands still.

    Measurements are assembled as real ones are, so that pictures have their size and no kernel is compiled later on.
    """
    rig = _known(rig, assembly)
    assembler = Assembler(rig, replace(assembly, rate_hz=None), "warm-up")
    rng = np.random.default_rng(0)
    frames: list[Frame] = []
    for message in _messages(rig, rng):
        frames += assembler.push(message)
    return [*frames, *assembler.finish()]


def _known(rig: Rig, assembly: Assembly) -> Rig:
    """The rig without what would have to be pushed: poses, mounts, offsets."""
    rig = copy.deepcopy(rig)
    names: dict[str, Iterable[str]] = {"camera": rig.cameras, "lidar": rig.lidars, "radar": rig.radars}
    rig.world_frame, rig.ego_pose, rig.samples = None, None, None
    rig.reference = next(name for kind in assembly.sensors for name in names[kind])
    for source in rig.sensors.values():
        source.ego_SE3_sensor = source.ego_SE3_sensor or (_AHEAD if isinstance(source, CameraSource) else _ON_TOP)
        source.offset_s = 0.0
    return rig


def _messages(rig: Rig, rng: np.random.Generator) -> Iterator[Message]:
    for name, camera in rig.cameras.items():
        if camera.calibration is not None:
            yield Message(camera.calibration, 0, 0, 0, calibration_of(name, name, _INTRINSICS, np.zeros(0), None))
    for second in _SECONDS:
        for name, source in rig.sensors.items():
            if name in rig.cameras:
                payload: Payload = image_of(name, name, rng.integers(0, 255, (360, 640, 3), np.uint8))
            elif name in rig.lidars:
                payload = lidar_of(name, name, _points(5, rng))
            else:
                payload = radar_of(name, name, _points(6, rng))
            yield Message(source.topic, 1_000_000_000 * second, 0, 0, payload)


def _points(columns: int, rng: np.random.Generator) -> np.ndarray:
    points = np.zeros((_POINTS, columns), np.float32)
    points[:, :3] = rng.uniform((-40, -40, -2), (40, 40, 2), (_POINTS, 3))
    return points
