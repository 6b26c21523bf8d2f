"""Ray casting against the world of one scene, with Open3D.

What stands still is put into one acceleration structure per scene, what moves into a second one per instant; a ray
takes the nearer hit.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from perception.errors import PerceptionError, missing_extra
from perception.sim.mesh import Material, Mesh, box, merge
from perception.sim.terrain import FLAT, Terrain
from perception.sim.traffic import TIME_STEP_S, Actor, interpolate

_UNIT_BOX = box([0, 0, 0], [2, 2, 2], (1.0, 1.0, 1.0))
_CUBE, _CUBE_FACES = _UNIT_BOX.vertices, _UNIT_BOX.triangles


def _open3d():
    try:
        import open3d
    except ImportError as error:
        message = f"the simulator needs open3d and its system packages, see the README ({error})"
        raise PerceptionError(missing_extra("sim", message)) from error
    return open3d


class Caster:
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
    ``material`` [T] is :class:`Material`, ``instance`` [T] indexes the actors and is -1 for scenery; ``half``
    [A, 3] are half the sizes of the actors and ``heights`` [A] what they stand on, above the ground.
    """

    def __init__(self, scenery: Mesh, actors: list[Actor], terrain: Terrain = FLAT):
        self.actors, self._terrain = actors, terrain
        fixed, owners = [scenery], [np.full(len(scenery.triangles), -1)]
        moving, movers = [], []
        for index, actor in enumerate(actors):
            mesh = actor.shape.mesh
            if actor.track.moves:
                moving.append(mesh.moved(z=actor.z))
                movers.append(index)
                continue
            x, y, yaw = actor.track.at(0.0)
            fixed.append(mesh.moved(x, y, actor.z + float(terrain.height([x, y])), yaw))
            owners.append(np.full(len(mesh.triangles), index))
        self._fixed = merge(fixed)
        self._moving = merge(moving) if moving else None
        self._movers = movers
        self._owner = np.repeat(np.arange(len(movers)), [len(mesh.vertices) for mesh in moving])
        self._stride_hz = np.array([actors[index].stride_hz for index in movers])
        tracks = [actors[index].track for index in movers]
        self._tracks = np.array([[track.x, track.y, track.yaw] for track in tracks])
        self._standing = np.array([actor.track.at(0.0) for actor in actors]).reshape(-1, 3)
        owners += [np.full(len(actors[index].shape.mesh.triangles), index) for index in movers]
        parts = [part for part in (self._fixed, self._moving) if part is not None]
        self.instance = np.concatenate(owners).astype(np.int32)
        self.color = _linear(np.concatenate([part.color for part in parts]))
        self.material = np.concatenate([part.material for part in parts])
        dark = np.array([_lamps_off(actor) for actor in actors] + [False])[self.instance]
        lights = (self.material == Material.HEADLIGHT) | (self.material == Material.TAILLIGHT)
        self.material[dark & lights] = Material.PAINT
        self.half = np.array([0.5 * actor.shape.size for actor in actors]).reshape(-1, 3)
        self.heights = np.array([actor.z for actor in actors])
        self._fixed_normals = _normals(self._fixed.vertices, self._fixed.triangles)
        self._fixed_caster = Caster(self._fixed.vertices, self._fixed.triangles)

    @cached_property
    def widths(self) -> np.ndarray:
        """[F] smallest heights in metres of the triangles that stand still: those of wires are narrow."""
        corners = self._fixed.vertices[self._fixed.triangles]
        edges = np.roll(corners, -1, axis=1) - corners
        area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
        return area / np.maximum(np.linalg.norm(edges, axis=2).max(axis=1), 1e-9)

    def poses(self, time: float) -> tuple[np.ndarray, np.ndarray]:
        """Of every actor: x, y, yaw and the height of the ground below it [A, 4], and world velocity [A, 2]."""
        poses, velocities = self._standing.copy(), np.zeros((len(self.actors), 2))
        if self._movers:
            poses[self._movers] = interpolate(self._tracks, time)
            half = 0.5 * TIME_STEP_S
            step = interpolate(self._tracks, time + half) - interpolate(self._tracks, time - half)
            velocities[self._movers] = step[:, :2] / TIME_STEP_S
        return np.column_stack([poses, self._terrain.height(poses[:, :2])]), velocities

    def _corners(self, poses: np.ndarray) -> np.ndarray:
        """[M, 8, 3] corners of the boxes of everything that moves."""
        center, half = poses[self._movers], self.half[self._movers]
        corners = (_CUBE + [0.0, 0.0, 1.0]) * half[:, None]
        cos, sin = np.cos(center[:, 2])[:, None], np.sin(center[:, 2])[:, None]
        x = cos * corners[..., 0] - sin * corners[..., 1] + center[:, :1]
        y = sin * corners[..., 0] + cos * corners[..., 1] + center[:, 1:2]
        return np.stack([x, y, corners[..., 2] + (self.heights[self._movers] + center[:, 3])[:, None]], -1)

    def coarse(self, poses: np.ndarray) -> Snapshot:
        """The world with what moves as plain boxes at ``poses`` [A, 4]: enough to hide things from a radar."""
        if self._moving is None:
            return Snapshot(self, [(self._fixed_caster, 0)], self._fixed_normals, None, poses)
        vertices = self._corners(poses).reshape(-1, 3)
        triangles = (_CUBE_FACES[None] + 8 * np.arange(len(self._movers))[:, None, None]).reshape(-1, 3)
        return Snapshot(
            self,
            [(self._fixed_caster, 0), (Caster(vertices, triangles), len(self._fixed.triangles))],
            self._fixed_normals,
            None,
            poses,
        )

    def at(self, time: float) -> Snapshot:
        """The world at ``time`` seconds after the first keyframe."""
        poses, velocities = self.poses(time)
        if self._moving is None:
            return Snapshot(self, [(self._fixed_caster, 0)], self._fixed_normals, None, poses)
        x, y, yaw, ground = poses[self._movers][self._owner].T
        striding = self._stride_hz * (np.hypot(*velocities[self._movers].T) > 0.2)
        phase = np.where(striding > 0, 2 * np.pi * striding * time + np.arange(len(striding)), 0.0)
        posed = self._moving.posed(phase[self._owner])
        cos, sin = np.cos(yaw), np.sin(yaw)
        vertices = np.stack(
            [
                cos * posed[:, 0] - sin * posed[:, 1] + x,
                sin * posed[:, 0] + cos * posed[:, 1] + y,
                posed[:, 2] + ground,
            ],
            1,
        )
        triangles = self._moving.triangles
        casters = [(self._fixed_caster, 0), (Caster(vertices, triangles), len(self._fixed.triangles))]
        return Snapshot(self, casters, self._fixed_normals, (vertices, triangles), poses, self._corners(poses))


class Snapshot:
    """The world at one instant.

    ``moving`` are the vertices and triangles of all that moves, None if nobody asks for their normals; ``poses`` [A, 4]
    are the x, y, yaw of all actors and the heights of the ground, ``corners`` [M, 8, 3] of the boxes of what moves.
    """

    def __init__(
        self, stage: Stage, casters: list[tuple[Caster, int]], fixed_normals: np.ndarray, moving, poses, corners=None
    ):
        self.stage, self.poses, self._fixed_normals, self._moving = stage, poses, fixed_normals, moving
        self.corners = np.zeros((0, 8, 3)) if corners is None else corners
        self._casters = casters

    @cached_property
    def normals(self) -> np.ndarray:
        """[T, 3] of the stage's triangles."""
        if self._moving is None:
            return self._fixed_normals
        return np.concatenate([self._fixed_normals, _normals(*self._moving)])

    def normals_of(self, triangle: np.ndarray) -> np.ndarray:
        """[N, 3] of the triangles [N], cheaper than those of all."""
        count = len(self._fixed_normals)
        normals = self._fixed_normals[np.minimum(triangle, count - 1)]
        moving = triangle >= count
        if moving.any():
            vertices, triangles = self._moving
            normals[moving] = _normals(vertices, triangles[triangle[moving] - count])
        return normals

    def cast(self, origin: np.ndarray, directions: np.ndarray, movable=None) -> tuple[np.ndarray, np.ndarray]:
        """First hits: range [N] in units of the direction's length (inf: none) and triangle [N] (-1: none).

        ``movable`` lists the rays that can meet anything that moves; by default all of them.
        """
        rays = np.empty((len(directions), 6), np.float32)
        rays[:, :3], rays[:, 3:] = origin, directions
        fixed, *moving = self._casters
        nearest, primitive = fixed[0].cast(rays)
        triangle = np.where(np.isfinite(nearest), primitive.astype(np.int64), -1)
        for caster, offset in moving:
            chosen = np.arange(len(rays)) if movable is None else movable
            if len(chosen) == 0:
                continue
            distance, primitive = caster.cast(rays[chosen])
            closer = distance < nearest[chosen]
            hit = chosen[closer]
            nearest[hit] = distance[closer]
            triangle[hit] = primitive[closer].astype(np.int64) + offset
        return nearest, triangle

    def occluded(self, points: np.ndarray, direction: np.ndarray, far: float) -> np.ndarray:
        """Whether anything lies within ``far`` metres of points [N, 3] along one direction [3] or directions [N, 3]."""
        rays = np.empty((len(points), 6), np.float32)
        rays[:, :3], rays[:, 3:] = points, direction
        return np.any([caster.occluded(rays, far) for caster, _ in self._casters], axis=0)
