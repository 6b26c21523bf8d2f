"""From a nuScenes category to one random example: its mesh and its box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception.sim import small_objects, vehicles
from perception.sim.mesh import Mesh

# Room between mesh and box on every side, metres: annotated boxes hold the surface and its range noise.
BOX_MARGIN_M = 0.04


@dataclass(frozen=True, eq=False)
class Shape:
    """A example centred on its box: x and y of the box centre are 0 and the ground is z = 0.

    Args:
        category: nuScenes category name, e.g. "vehicle.car".
        mesh: the surface.
        size: [3] box (length, width, height) in metres, over the whole swing of the limbs.
    """

    category: str
    mesh: Mesh
    size: np.ndarray


def make_shape(
    category: str, rng: np.random.Generator, rider: bool = False, walking: bool = True, tractor: bool = False
) -> Shape:
    """Draw one example of a category."""
    mesh = _mesh(category, rng, rider, walking, tractor)
    poses = [mesh.posed(phase) for phase in (0.0, 0.5 * np.pi, -0.5 * np.pi)]
    low = np.min([pose.min(axis=0) for pose in poses], axis=0)
    high = np.max([pose.max(axis=0) for pose in poses], axis=0)
    center = 0.5 * (low + high)
    size = high - low + 2 * BOX_MARGIN_M
    size[2] = high[2] + BOX_MARGIN_M
    return Shape(category, mesh.moved(-center[0], -center[1]), size)


def _mesh(category: str, rng: np.random.Generator, rider: bool, walking: bool, tractor: bool) -> Mesh:
    family, _, kind = category.rpartition(".")
    if family == "human.pedestrian":
        return small_objects.pedestrian(rng, kind, walking)
    if category == "vehicle.truck":
        return vehicles.truck(rng, tractor)
    if category == "vehicle.bicycle":
        return small_objects.bicycle(rng, rider)
    if category == "vehicle.motorcycle":
        return small_objects.motorcycle(rng, rider)
    simple = {
        "vehicle.car": vehicles.car,
        "vehicle.bus.rigid": vehicles.bus,
        "vehicle.trailer": vehicles.trailer,
        "vehicle.construction": vehicles.construction_vehicle,
        "movable_object.trafficcone": small_objects.traffic_cone,
        "movable_object.barrier": small_objects.barrier,
    }
    return simple[category](rng)
