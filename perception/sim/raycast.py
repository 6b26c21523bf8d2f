"""Ray casting against the world of one scene, with Open3D.

What stands still is put into one acceleration structure per scene, what moves into a second one per instant; a ray takes
the nearer hit.
"""

from __future__ import annotations

import numpy as np

from perception.errors import PerceptionError
from perception.sim.mesh import Material, Mesh, box, merge
from perception.sim.traffic import Actor

_UNIT_BOX = box([0, 0, 0], [2, 2, 2], (1.0, 1.0, 1.0))
_CUBE, _CUBE_FACES = _UNIT_BOX.vertices, _UNIT_BOX.triangles


def _open3d():
    try:
        import open3d
    except ImportError as error:
        raise PerceptionError(
            f"the simulator needs open3d (extra 'sim'; system packages in the README): {error}"
        ) from error
    return open3d


class _Caster:
    """One Open3D scene of one mesh, single-threaded: scenes are spread over processes instead."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        o3d = _open3d()
        self._tensor = o3d.core.Tensor.from_numpy
        self._scene = o3d.t.geometry.RaycastingScene(nthreads=1)
        self._scene.add_triangles(
            self._tensor(np.ascontiguousarray(vertices, np.float32)),
            self._tensor(np.ascontiguousarray(triangles, np.uint32)),
        )

    def cast(self, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hit = self._scene.cast_rays(self._tensor(rays), nthreads=1)
        return hit["t_hit"].numpy(), hit["primitive_ids"].numpy()

    def occluded(self, rays: np.ndarray, far: float) -> np.ndarray:
        return self._scene.test_occlusions(self._tensor(rays), tnear=1e-3, tfar=far, nthreads=1).numpy()


def _linear(color: np.ndarray) -> np.ndarray:
    """Display RGB to linear light (gamma 2)."""
    return np.square(color).astype(np.float32)


def _normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    corners = vertices[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return (normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def _lamps_off(actor: Actor) -> bool:
    return actor.idle == "vehicle.parked" or actor.rider is False


class Stage:
    """The surfaces of one scene.

    Triangles are numbered through: first those that stand still, then those that move. ``color`` [T, 3] is linear,
    ``material`` [T] is :class:`Material`, ``instance`` [T] indexes the actors and is -1 for scenery.
    """

    def __init__(self, scenery: Mesh, actors: list[Actor]):
        self.actors = actors
        fixed, owners = [scenery], [np.full(len(scenery.triangles), -1)]
        moving, movers = [], []
        for index, actor in enumerate(actors):
            mesh = actor.shape.mesh
            if actor.track.moves:
                moving.append(mesh)
                movers.append(index)
                continue
            x, y, yaw = actor.track.at(0.0)
            fixed.append(mesh.moved(x, y, actor.z, yaw))
            owners.append(np.full(len(mesh.triangles), index))
        self._fixed = merge(fixed)
        self._moving = merge(moving) if moving else None
        self._movers = movers
        owners += [np.full(len(actors[index].shape.mesh.triangles), index) for index in movers]
        parts = [self._fixed] + ([self._moving] if moving else [])
        self.instance = np.concatenate(owners).astype(np.int32)
        self.color = _linear(np.concatenate([part.color for part in parts]))
        self.material = np.concatenate([part.material for part in parts])
        dark = np.array([_lamps_off(actor) for actor in actors] + [False])[self.instance]
        lights = (self.material == Material.HEADLIGHT) | (self.material == Material.TAILLIGHT)
        self.material[dark & lights] = Material.PAINT
        self._half = np.array([0.5 * actor.shape.size for actor in actors])
        self._fixed_normals = _normals(self._fixed.vertices, self._fixed.triangles)
        self._fixed_caster = _Caster(self._fixed.vertices, self._fixed.triangles)

    def poses(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Of every actor: x, y, yaw [A, 3] and world velocity [A, 2]."""
        poses = np.array([actor.track.at(time) for actor in self.actors])
        velocities = np.zeros((len(poses), 2))
        for index in self._movers:
            velocities[index] = self.actors[index].track.velocity(time)
        return poses, velocities

    def coarse(self, poses: np.ndarray) -> Snapshot:
        """The world with what moves as plain boxes at ``poses`` [A, 3]: enough to hide things from a radar."""
        if self._moving is None:
            return Snapshot(self, [(self._fixed_caster, 0)], self._fixed_normals)
        center, half = poses[self._movers], self._half[self._movers]
        corners = _CUBE[None] * half[:, None] + np.array([0, 0, 1.0]) * half[:, None]
        cos, sin = np.cos(center[:, 2])[:, None], np.sin(center[:, 2])[:, None]
        x = cos * corners[..., 0] - sin * corners[..., 1] + center[:, :1]
        y = sin * corners[..., 0] + cos * corners[..., 1] + center[:, 1:2]
        vertices = np.stack([x, y, corners[..., 2]], -1).reshape(-1, 3)
        triangles = (_CUBE_FACES[None] + 8 * np.arange(len(center))[:, None, None]).reshape(-1, 3)
        return Snapshot(self, [(self._fixed_caster, 0), (_Caster(vertices, triangles), 0)], self._fixed_normals)

    def at(self, time: float) -> Snapshot:
        """The world at ``time`` seconds after the first keyframe."""
        if self._moving is None:
            return Snapshot(self, [(self._fixed_caster, 0)], self._fixed_normals)
        pieces = []
        for index in self._movers:
            actor = self.actors[index]
            x, y, yaw = actor.track.at(time)
            walking = actor.stride_hz > 0 and np.hypot(*actor.track.velocity(time)) > 0.2
            posed = actor.shape.mesh.posed(2 * np.pi * actor.stride_hz * time + index if walking else 0.0)
            cos, sin = np.cos(yaw), np.sin(yaw)
            pieces.append(
                np.stack(
                    [
                        cos * posed[:, 0] - sin * posed[:, 1] + x,
                        sin * posed[:, 0] + cos * posed[:, 1] + y,
                        posed[:, 2] + actor.z,
                    ],
                    1,
                )
            )
        vertices = np.concatenate(pieces)
        triangles = self._moving.triangles
        casters = [(self._fixed_caster, 0), (_Caster(vertices, triangles), len(self._fixed.triangles))]
        return Snapshot(self, casters, np.concatenate([self._fixed_normals, _normals(vertices, triangles)]))


class Snapshot:
    """The world at one instant. ``normals`` [T, 3] belong to the stage's triangles."""

    def __init__(self, stage: Stage, casters: list[tuple[_Caster, int]], normals: np.ndarray):
        self.stage, self.normals = stage, normals
        self._casters = casters

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First hits: range [N] in units of the direction's length (inf: none) and triangle [N] (-1: none)."""
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        nearest = np.full(len(rays), np.inf, np.float32)
        triangle = np.full(len(rays), -1, np.int64)
        for caster, offset in self._casters:
            distance, primitive = caster.cast(rays)
            closer = distance < nearest
            nearest[closer] = distance[closer]
            triangle[closer] = primitive[closer].astype(np.int64) + offset
        return nearest, triangle

    def occluded(self, points: np.ndarray, direction: np.ndarray, far: float) -> np.ndarray:
        """Whether anything lies within ``far`` metres of points [N, 3] along one direction [3] or directions [N, 3]."""
        rays = np.empty((len(points), 6), np.float32)
        rays[:, :3], rays[:, 3:] = points, direction
        return np.any([caster.occluded(rays, far) for caster, _ in self._casters], axis=0)
