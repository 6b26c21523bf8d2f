"""Objects of other frames pasted into a frame for training (ground-truth sampling, Yan et al. 2018, SECOND).

An object keeps its place relative to the vehicle, so that its points have the density, and its image the size and the
view, that they had. It is left out where it would stand in another object, where LiDAR sees something before it, and
where an image would contradict: where it, or what is there, would be hidden behind the other, or where a camera sees
its place and no image of it was kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from perception.geometry import SE3, box_corners, in_box, wrap_angle
from perception.sample import Boxes3D, CameraImage, Frame, PointCloud, SensorData
from perception.train.augment import WorldTransform
from perception.train.objects import CutObject, ObjectBank, ObjectError, outlines, whole_pixels

_TRIES = 4  # for each object that is wanted
_MOST_HIDDEN = 0.3  # share of the smaller of two rectangles in an image; points before an object, as a share of its own
_MOST_ENLARGED = 4  # sides of an object's rectangle in an image, as multiples of the image's longest
_EGO = (5.0, 2.2)  # length and width of the vehicle, about
_EYE_M = np.array([0.0, 0.0, 1.8])  # about where sensors are
_BEFORE_M = 0.5  # what is so much nearer than an object is before it
_MOST_MISSING = 0.1  # share of an object's rectangle in an image that its patch does not cover


def draw_objects(
    frame: Frame, bank: ObjectBank, wanted: Mapping[str, int], least_points: int, rng: np.random.Generator
) -> list[CutObject]:
    """Objects that fit into the frame, so that it has up to ``wanted`` of a class.

    least_points: LiDAR and radar points that an object was annotated with, at least.
    """
    if frame.boxes is None:
        return []
    for sensor, data in frame.data.items():
        if isinstance(data, PointCloud) and bank.fields.get(sensor) != list(data.fields):
            fields, own = ", ".join(data.fields), bank.fields.get(sensor)
            raise ObjectError(f"{bank.path}: points of {sensor} as {fields} were expected, found {own}")
    counts = bank.boxes.num_lidar_points + bank.boxes.num_radar_points
    boxes, chosen = frame.boxes, []
    images = [(key, camera, _shown(outlines(camera, boxes))) for key, camera in _cameras(frame)]
    rays = None if frame.lidar is None else _rays(frame.lidar.points[:, :3])
    for name, most in wanted.items():
        label = bank.classes.index(name)
        suited = np.flatnonzero((bank.boxes.label == label) & (counts >= least_points))
        missing = max(most - int((frame.boxes.label == label).sum()), 0)
        for index in rng.permutation(suited)[: _TRIES * missing]:
            found = bank[int(index)]
            rectangles = [outlines(camera, found.box) for _, camera, _ in images]
            if (
                _overlap(found.box, boxes).any()
                or (rays is not None and _is_behind(found, rays))
                or not all(
                    _agrees(found, key, camera, there, rectangle)
                    for (key, camera, there), rectangle in zip(images, rectangles)
                )
            ):
                continue
            boxes = Boxes3D.joined([boxes, found.box])
            images = [
                (key, camera, np.concatenate([there, _shown(rectangle)]))
                for (key, camera, there), rectangle in zip(images, rectangles)
            ]
            chosen.append(found)
            missing -= 1
            if not missing:
                break
    return chosen


def paste(frame: Frame, objects: Sequence[CutObject]) -> Frame:
    """The frame with the objects: their boxes, their points in place of those that are there, and their images."""
    if frame.boxes is None or not objects:
        return frame
    boxes = Boxes3D.joined([found.box for found in objects])
    data: dict[str, SensorData] = {}
    for sensor, there in frame.data.items():
        if isinstance(there, PointCloud):
            data[sensor] = _with_points(there, boxes, [found.points.get(sensor) for found in objects])
        else:
            data[sensor] = {name: _with_patches(camera, (sensor, name), objects) for name, camera in there.items()}
    return dataclasses.replace(frame.with_data(data), boxes=Boxes3D.joined([frame.boxes, boxes]))


def earlier(objects: Sequence[CutObject], now: Frame, before: Frame) -> list[CutObject]:
    """The objects of ``now`` where they were in an earlier frame of the scene, by their velocities and the ego poses.

    Objects of unknown velocity stand still; those that would stand in another object, or in the vehicle, are left out.
    Images are not asked.
    """
    if before.boxes is None:
        return []
    before_SE3_now = before.world_SE3_ego.inverse() @ now.world_SE3_ego
    seconds = (now.timestamp_ns - before.timestamp_ns) / 1e9
    clouds = {sensor: data for sensor, data in before.data.items() if isinstance(data, PointCloud)}
    ego = Boxes3D(np.zeros((1, 3)), np.array([[*_EGO, 2.0]]), np.zeros(1), np.zeros((1, 2)), np.zeros(1))
    taken, moved = Boxes3D.joined([before.boxes, ego]), []
    for found in objects:
        back = np.append(np.nan_to_num(found.box.velocity[0]) * -seconds, 0.0)
        world = WorldTransform(rigid=before_SE3_now @ SE3(translation=back))
        box = world.boxes(found.box)
        if _overlap(box, taken).any():
            continue
        taken = Boxes3D.joined([taken, box])
        points = {
            sensor: world.points(points, clouds[sensor].velocity)
            for sensor, points in found.points.items()
            if sensor in clouds
        }
        moved.append(CutObject(box, points, found.patches))
    return moved


def _with_points(cloud: PointCloud, boxes: Boxes3D, added: Sequence[np.ndarray | None]) -> PointCloud:
    free = np.ones(len(cloud.points), dtype=bool)
    for center, size, yaw in zip(boxes.center, boxes.size, boxes.yaw):
        free &= ~in_box(cloud.points[:, :3], center, size, yaw)
    points = [part for part in added if part is not None and part.shape[1] == cloud.points.shape[1]]
    return type(cloud)(np.concatenate([cloud.points[free], *points]))


def _with_patches(camera: CameraImage, key: tuple[str, str], objects: Sequence[CutObject]) -> CameraImage:
    """The farthest first."""
    seen = [found for found in objects if key in found.patches]
    if not seen:
        return camera
    image = camera.image.copy()
    height, width = image.shape[:2]
    camera_SE3_ego = camera.ego_SE3_camera.inverse()
    for found in sorted(seen, key=lambda found: -camera_SE3_ego.transform(found.box.center)[0, 2]):
        rectangle = outlines(camera, found.box)[0]
        if np.isnan(rectangle).any():
            continue
        patch = found.patches[key]
        left, top, right, bottom = whole_pixels(rectangle, patch.place)
        inside = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if inside[0] >= inside[2] or inside[1] >= inside[3] or _is_enlarged((left, top, right, bottom), camera):
            continue
        pixels = patch.pixels
        if pixels.shape[:2] != (bottom - top, right - left):  # by another calibration
            pixels = cv2.resize(pixels, (right - left, bottom - top), interpolation=cv2.INTER_LINEAR)
        image[inside[1] : inside[3], inside[0] : inside[2]] = pixels[
            inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left
        ]
    return dataclasses.replace(camera, image=image)


def _agrees(
    found: CutObject, key: tuple[str, str], camera: CameraImage, there: np.ndarray, rectangle: np.ndarray
) -> bool:
    """Whether an image can show the object: nothing of what it shows, ``there`` [N, 4], and of the object is hidden."""
    own = _shown(rectangle)
    if not len(own):
        return True
    if key not in found.patches:
        return False
    height, width = camera.image.shape[:2]
    limits = np.array([width - 0.5, height - 0.5] * 2)
    own, others = own.clip(-0.5, limits), there.clip(-0.5, limits)
    left, top, right, bottom = whole_pixels(rectangle[0], found.patches[key].place)
    covered = _common(own, np.array([[left, top, right, bottom]]) - 0.5) / np.maximum(_area(own), 1e-9)
    if covered[0] < 1 - _MOST_MISSING or _is_enlarged((left, top, right, bottom), camera):
        return False
    smaller = np.minimum(_area(own), _area(others))
    return not (_common(own, others) > _MOST_HIDDEN * smaller).any()


def _is_enlarged(pixels: tuple[int, int, int, int], camera: CameraImage) -> bool:
    left, top, right, bottom = pixels
    return max(right - left, bottom - top) > _MOST_ENLARGED * max(camera.image.shape[:2])


def _rays(points: np.ndarray) -> np.ndarray:
    """[N, 3]: azimuth, elevation and distance of points in the ego frame."""
    x, y, z = (points - _EYE_M).T
    ground = np.hypot(x, y)
    return np.stack([np.arctan2(y, x), np.arctan2(z, ground), np.hypot(ground, z)], axis=1)


def _is_behind(found: CutObject, rays: np.ndarray) -> bool:
    """Whether too much of what LiDAR sees is before the object."""
    corners = _rays(box_corners(found.box.center, found.box.size, found.box.yaw)[0])
    middle = _rays(found.box.center)[0, 0]
    azimuth, seen = wrap_angle(corners[:, 0] - middle), wrap_angle(rays[:, 0] - middle)
    before = (
        (seen >= azimuth.min()) & (seen <= azimuth.max())
        & (rays[:, 1] >= corners[:, 1].min()) & (rays[:, 1] <= corners[:, 1].max())
        & (rays[:, 2] < corners[:, 2].min() - _BEFORE_M)
    )  # fmt: skip
    return int(before.sum()) > _MOST_HIDDEN * len(found.points.get("lidar", ()))


def _cameras(frame: Frame) -> list[tuple[tuple[str, str], CameraImage]]:
    sensors = [(sensor, data) for sensor, data in frame.data.items() if not isinstance(data, PointCloud)]
    return [((sensor, name), camera) for sensor, data in sensors for name, camera in data.items()]


def _shown(rectangles: np.ndarray) -> np.ndarray:
    return rectangles[np.isfinite(rectangles).all(axis=1)]


def _area(rectangles: np.ndarray) -> np.ndarray:
    return (rectangles[:, 2:] - rectangles[:, :2]).clip(0).prod(axis=1)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Areas that rectangles [N, 4] or [1, 4] have in common."""
    return _area(np.concatenate([np.maximum(a, b)[:, :2], np.minimum(a, b)[:, 2:]], axis=1))


def _overlap(box: Boxes3D, others: Boxes3D) -> np.ndarray:
    """bool [N]: whether the one box and the others overlap in BEV: none of their axes separates them."""
    offset = others.center[:, :2] - box.center[:, :2]
    own, theirs = np.repeat(_half_axes(box), len(others), axis=0), _half_axes(others)
    apart = np.zeros(len(others), dtype=bool)
    for axes in (own, theirs):
        unit = axes / np.linalg.norm(axes, axis=-1, keepdims=True)
        reach = sum(np.abs(np.einsum("nad,nbd->nab", unit, each)).sum(axis=2) for each in (own, theirs))
        apart |= (np.abs(np.einsum("nad,nd->na", unit, offset)) >= reach).any(axis=1)
    return ~apart


def _half_axes(boxes: Boxes3D) -> np.ndarray:
    """[N, 2, 2]: half the length and half the width as vectors in BEV."""
    cos, sin = np.cos(boxes.yaw), np.sin(boxes.yaw)
    directions = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    return directions * boxes.size[:, :2, None] / 2
