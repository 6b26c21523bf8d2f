"""Who stands where, seen from above: rectangles at any angle, and whether they touch.

A footprint is (x, y, yaw, length, width): world metres of its centre, radians, metres.
"""

from __future__ import annotations

import numpy as np

from perception.sim.traffic import LEAD_IN_S, Actor, Track

_STEP_S = 0.1
_EGO_SIZE_M, _EGO_MIDDLE_M = (4.6, 1.9, 2.0), 1.4  # the vehicle's origin is its rear axle


def overlap(a: np.ndarray, b: np.ndarray, margin: float = 0.0) -> np.ndarray:
    """Whether footprints [..., 5], which broadcast, come closer than ``margin`` metres along each of their four axes.

    The theorem of separating axes: rectangles that do not touch are apart along a side of one of them.
    """
    apart = np.zeros(np.broadcast_shapes(a.shape, b.shape)[:-1], bool)
    between = b[..., :2] - a[..., :2]
    turn = b[..., 2] - a[..., 2]
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    for own, other in ((a, b), (b, a)):
        for axis in (0, 1):
            angle = own[..., 2] + axis * 0.5 * np.pi
            distance = np.abs(between[..., 0] * np.cos(angle) + between[..., 1] * np.sin(angle))
            along, across = (cos, sin) if axis == 0 else (sin, cos)
            reach = own[..., 3 + axis] + other[..., 3] * along + other[..., 4] * across
            apart |= distance >= 0.5 * reach + margin
    return ~apart


def footprints(track: Track, size, times: np.ndarray, ahead: float = 0.0) -> np.ndarray:
    """[T, 5] at ``times`` seconds, [1, 5] of what stands; the centre lies ``ahead`` metres in front of the track."""
    places = np.array([track.at(time) for time in (times if track.moves else times[:1])])
    forward = np.stack([np.cos(places[:, 2]), np.sin(places[:, 2])], 1)
    sides = np.broadcast_to(np.asarray(size, float)[:2], (len(places), 2))
    return np.column_stack([places[:, :2] + ahead * forward, places[:, 2], sides])


class Occupied:
    """The ground that the ego vehicle and the actors take up during a scene of ``seconds``."""

    def __init__(self, ego: Track, seconds: float):
        self._times = np.arange(-0.5 * LEAD_IN_S, seconds + _STEP_S, _STEP_S)
        self._taken, self._top = np.zeros((0, len(self._times), 5)), np.zeros(0)
        self._add(footprints(ego, _EGO_SIZE_M, self._times, _EGO_MIDDLE_M), _EGO_SIZE_M[2])

    def _add(self, places: np.ndarray, top: float) -> None:
        self._top = np.append(self._top, top)
        self._taken = np.concatenate([self._taken, np.broadcast_to(places, (1, *self._taken.shape[1:]))])

    def settle(self, actors: list[Actor], margin: float = 0.1) -> list[Actor]:
        """Those actors that keep ``margin`` metres from all before them at all times; the others are left out."""
        settled = []
        for actor in actors:
            places = footprints(actor.track, actor.shape.size, self._times)
            distance = np.hypot(*np.moveaxis(self._taken[..., :2] - places[:, :2], -1, 0))
            reach = 0.5 * (np.hypot(*self._taken[:, 0, 3:].T) + np.hypot(*places[0, 3:]))
            who, when = np.nonzero(distance < reach[:, None] + margin)
            own = places[when] if len(places) > 1 else places
            if not overlap(self._taken[who, when], own, margin).any():
                settled.append(actor)
                self._add(places, actor.z + actor.shape.size[2])
        return settled

    def free(self, place: np.ndarray, above: float = 0.0) -> bool:
        """Whether a footprint [5] stays clear of everybody taller than ``above`` metres."""
        taken = self._taken[self._top > above]
        reach = 0.5 * np.hypot(*place[3:]) + 0.5 * np.hypot(*taken[:, 0, 3:].T)
        distance = np.hypot(*np.moveaxis(taken[..., :2] - place[:2], -1, 0))
        return not overlap(taken[distance < reach[:, None] + 0.1], place, 0.05).any()
