"""The conditions under which fusion is compared: one name, one severity, one function from frame to frame each.

Randomness is drawn from a generator keyed by (sample token, sensor, condition, severity): the same frame is hit the
same way whatever else is run, and by however many processes.

``mc:`` are the cells of MultiCorrupt (Beemelmanns et al., 2024), re-implemented from its published code; snow, which
wants point-wise semantic labels, is left out. Where a Frame does not hold what the original works on: a cloud of
several sweeps is changed as one, the LiDAR's own axes are those of a nuScenes vehicle, and pixels are those of the
images at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from perception.data import corruptions as faults
from perception.geometry import SE3
from perception.sample import Frame, sensor_sets
from perception.seeding import keyed_rng
from perception.train.batches import proper_subsets

SENSORS = ("camera", "radar", "lidar")
CAMERAS = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
RADARS = ("RADAR_FRONT", "RADAR_FRONT_LEFT", "RADAR_FRONT_RIGHT", "RADAR_BACK_LEFT", "RADAR_BACK_RIGHT")


WITHOUT_RADAR = "no_radar:"


@dataclass(frozen=True)
class Moment:
    """A frame, the keyframe before it in the same scene and the first one of the scene."""

    frame: Frame
    previous: Frame | None
    first: Frame


@dataclass(frozen=True)
class Condition:
    """``change(moment, rng) -> Frame``, where rng(sensor) is that sensor's generator.

    source: arguments with which the dataset is opened, for conditions that need what a Frame does not keep.
    """

    name: str
    severity: int
    change: Callable[[Moment, Callable], Frame]
    source: dict = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}/{self.severity}" if self.severity else self.name

    def apply(self, moment: Moment) -> Frame:
        name = self.name.removeprefix(WITHOUT_RADAR)  # which hits the very frames that its pair does

        def rng(sensor: str):
            return keyed_rng(moment.frame.token, sensor, name, self.severity)

        return self.change(moment, rng)


def _unchanged(moment, rng):
    return moment.frame


def _only(sensors, moment, rng):
    return moment.frame.only(sensors)


def _without_radar(inner, moment, rng):
    return inner(moment, rng).only(("camera", "lidar"))


def _silent_cameras(kind, moment, rng):
    if kind == "black":
        return faults.black_cameras(moment.frame)
    return faults.stale_cameras(moment.frame, moment.first, moment.frame.cameras or {})


def _silent_lidar(kind, moment, rng):
    if kind == "empty":
        return faults.with_lidar(moment.frame, lambda points: points[:0])
    return faults.stale_lidar(moment.frame, moment.first)


def _silent_radar(kind, moment, rng):
    if kind == "empty":
        return faults.with_radar(moment.frame, lambda points: points[:0])
    return faults.stale_radar(moment.frame, moment.first)


def _missing_camera(share, moment, rng):
    return faults.black_cameras(moment.frame, [n for n in moment.frame.cameras or {} if rng(n).random() < share])


def _temporal(share, moment, rng):
    """Each camera and the LiDAR on their own: the radar has no part in the published definition."""
    frame, previous = moment.frame, moment.previous
    if previous is None:
        return frame
    late = [name for name in frame.cameras or {} if rng(name).random() < share]
    frame = faults.stale_cameras(frame, previous, late)
    return faults.stale_lidar(frame, previous) if rng("lidar").random() < share else frame


def _spatial(share, angle_deg, moment, rng):
    if rng("lidar").random() >= share:
        return moment.frame
    # MultiCorrupt's matrices turn clockwise; all three axes by the same angle.
    return faults.move_lidar(moment.frame, faults.lidar_error([angle_deg] * 3, [2.0, 0.0, 0.0]))


def _thinned(keep, moment, rng):
    return faults.with_lidar(moment.frame, lambda points: faults.thinned(points, keep, rng("lidar")))


def _motion(sigma_m, moment, rng):
    frame = faults.with_lidar(moment.frame, lambda points: faults.shake(points, sigma_m, rng("lidar")))
    angle = rng("camera").uniform(-45, 45)
    return faults.with_images(frame, lambda image: faults.motion_blur(image, angle, 100 * sigma_m))


def _bright(amount, moment, rng):
    return faults.with_images(moment.frame, lambda image: faults.bright(image, amount))


def _dark(scale, photons, noise, moment, rng):
    generator = rng("camera")
    return faults.with_images(moment.frame, lambda image: faults.dark(image, scale, photons, noise, generator))


def _fog(amount, image_beta, alpha, beta, moment, rng):
    generator = rng("camera")
    frame = faults.with_images(moment.frame, lambda image: faults.fog_image(image, amount, image_beta, generator))
    return faults.with_lidar(frame, lambda points: faults.fog_lidar(points, alpha, beta, rng("lidar")))


def _field_of_view(half_deg, moment, rng):
    return faults.with_lidar(moment.frame, lambda points: faults.ahead(points, half_deg))


def _displaced(angle_deg, shift_m, moment, rng):
    """Turned about the vehicle's vertical axis, to either side, and shifted over ground, in any direction."""
    generator = rng("lidar")
    turn, way = angle_deg * generator.choice([-1.0, 1.0]), generator.uniform(0, 2 * np.pi)
    return faults.move_lidar(
        moment.frame, SE3.from_yaw(np.deg2rad(turn), [shift_m * np.cos(way), shift_m * np.sin(way), 0.0])
    )


def _extrinsics(sigma_deg, sigma_m, names, moment, rng):
    return faults.rotate_cameras(moment.frame, sigma_deg, sigma_m, rng("camera"), names)


def _radar(change, moment, rng):
    return faults.with_radar(moment.frame, lambda points: change(points, rng("radar")))


def _graded(name: str, changes: list, sources: list[dict] | None = None) -> list[Condition]:
    sources = sources or [{}] * len(changes)
    return [Condition(name, i + 1, change, source) for i, (change, source) in enumerate(zip(changes, sources))]


def multicorrupt() -> list[Condition]:
    """Nine corruptions at severities 1 to 3."""
    rings = [{"lidar_rings": tuple(range(1, 32, step))} for step in (2, 4, 8)]
    return [
        *_graded("mc:missing_camera", [partial(_missing_camera, p) for p in (0.2, 0.4, 0.6)]),
        *_graded("mc:temporal", [partial(_temporal, p) for p in (0.2, 0.4, 0.6)]),
        *_graded("mc:spatial", [partial(_spatial, p, deg) for p, deg in ((0.2, 1), (0.4, 2), (0.6, 3))]),
        *_graded("mc:beams", [_unchanged] * 3, rings),
        *_graded("mc:points", [partial(_thinned, keep) for keep in (0.3, 0.2, 0.1)]),
        *_graded("mc:motion", [partial(_motion, sigma) for sigma in (0.06, 0.1, 0.13)]),
        *_graded("mc:brightness", [partial(_bright, amount) for amount in (0.5, 0.6, 0.7)]),
        *_graded(
            "mc:dark",
            [partial(_dark, *strength) for strength in ((0.6, 250, 0.008), (0.4, 120, 0.018), (0.3, 50, 0.026))],
        ),
        *_graded(
            "mc:fog",
            [
                partial(_fog, *strength)
                for strength in ((2, 0.0005, 0.02, 0.008), (3, 0.001, 0.03, 0.008), (4, 0.002, 0.06, 0.05))
            ],
        ),
    ]


def all_conditions() -> list[Condition]:
    """Every condition, ``clean`` first. ``no_radar:`` is what the rest of the sensors do under the same condition."""
    cells = multicorrupt()
    extrinsic = [(f"{deg:g}deg", deg, 0.0) for deg in (0.5, 1, 2.5, 5)]
    extrinsic += [(f"{cm}cm", 0.0, cm / 100) for cm in (1, 5, 20)]
    return [
        Condition("clean", 0, _unchanged),
        *[Condition(f"only:{'+'.join(s)}", 0, partial(_only, s)) for s in reversed(proper_subsets(SENSORS))],
        *[Condition(f"silent:camera_{kind}", 0, partial(_silent_cameras, kind)) for kind in ("black", "stuck")],
        *[Condition(f"silent:lidar_{kind}", 0, partial(_silent_lidar, kind)) for kind in ("empty", "stuck")],
        *[Condition(f"silent:radar_{kind}", 0, partial(_silent_radar, kind)) for kind in ("empty", "stuck")],
        *cells,
        *[
            Condition(f"{WITHOUT_RADAR}{cell.name}", cell.severity, partial(_without_radar, cell.change), cell.source)
            for cell in cells
            if cell.severity == 3
        ],
        *_graded("fov:lidar", [partial(_field_of_view, half) for half in (90, 60)]),
        *[Condition(f"dead:{name}", 0, _unchanged, {"without": (name,)}) for name in (*CAMERAS, *RADARS)],
        *[
            Condition(f"extrinsic:{which}_{label}", 0, partial(_extrinsics, deg, metres, names))
            for which, names in (("one", CAMERAS[:1]), ("all", None))
            for label, deg, metres in extrinsic
        ],
        *_graded(
            "radar:dropped", [partial(_radar, lambda p, rng, k=k: faults.thinned(p, k, rng)) for k in (0.5, 0.25, 0.1)]
        ),
        *_graded("radar:ghosts", [partial(_radar, lambda p, rng, s=s: faults.ghosts(p, s, rng)) for s in (1, 2.5, 5)]),
        *_graded("radar:clutter", [partial(_radar, lambda p, rng, f=f: faults.clutter(p, f, rng)) for f in (2, 5, 20)]),
        Condition("radar:folded", 0, partial(_radar, lambda p, rng: faults.folded_velocity(p, rng))),
        Condition("radar:flipped", 0, partial(_radar, lambda p, rng: faults.flipped_velocity(p))),
    ]


def recorded_conditions(sensors: Sequence[str]) -> list[Condition]:
    """For recordings of a rig of these sensors: every set of them, misplaced ones, and one that is silent.

    Where nothing else is said, all sensors are there.
    """
    names = {condition.name: condition for condition in all_conditions()}
    silent = {"camera": "silent:camera_black", "radar": "silent:radar_empty", "lidar": "silent:lidar_empty"}
    moves = [(f"{deg}deg", deg, 0.0) for deg in (1, 2, 3)] + [(f"{m:g}m", 0.0, m) for m in (0.2, 0.5, 1.0)]
    found = [Condition("clean", 0, _unchanged)]
    found += [Condition(f"only:{'+'.join(own)}", 0, partial(_only, own)) for own in sensor_sets(sensors)[1:]]
    if "lidar" in sensors:
        found += [
            Condition(f"lidar:{label}", 0, partial(_displaced, deg, metres))
            for label, deg, metres in (*moves, ("2deg+0.5m", 2, 0.5))
        ]
    if "camera" in sensors:
        found += [Condition(f"extrinsic:all_{deg}deg", 0, partial(_extrinsics, deg, 0.0, None)) for deg in (1, 2, 5)]
    if len(sensors) > 1:
        found += [names[silent[sensor]] for sensor in sensors if sensor in silent]
    return found
