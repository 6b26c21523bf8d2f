"""One picture of one frame: the cameras, a view from behind the vehicle and the bird's-eye view, boxes in all of them.

Pictures are uint8 [H, W, 3] RGB; ``canvas`` draws on them, with numpy and OpenCV and nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone

import cv2
import numpy as np

from perception.canvas import (
    BACKGROUND,
    DIM,
    HEIGHT_COLOURS,
    HEIGHTS_M,
    PANEL,
    RING,
    SHIFT,
    TEXT,
    WARNING,
    WHITE,
    Pinhole,
    TopDown,
    draw_segments,
    fixed,
    inside,
    paste,
    splat,
    write,
    write_title,
)  # fmt: skip
from perception.config import GridConfig
from perception.geometry import box_corners
from perception.grid import BEVGrid
from perception.sample import Boxes3D, CameraImage, Detections, Frame, PointCloud, SensorData, fit_image
from perception.task import NUSCENES, Task

WIDTH, HEIGHT = 1920, 1080
MARGIN, GAP, HEADER = 16, 8, 56
BEV_WIDTH, LEGEND_HEIGHT = 656, 138
FAR_M = 35.0  # boxes farther from the eye than this have thin lines, else they would be all line
RADAR_ARROW_OPACITY = 0.5
ARROW_S = 1.0  # velocity arrows end where the object will be after this time
STANDING_MPS = 0.5  # slower things get no arrow
RECENT_S = 0.1  # of a cloud of several sweeps, what is older than its newest point by more would smear what moves

# The usual arrangement; a rig with other names is shown in alphabetical order.
CAMERA_ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")

EGO = (196, 204, 216)
EGO_BOX = Boxes3D(np.array([[1.4, 0, 0.8]]), np.array([[4.7, 1.9, 1.6]]), np.zeros(1), np.zeros((1, 2)), np.zeros(1))
RADAR = (255, 221, 87)
_TITLES = {"camera": "Camera", "radar": "Radar", "lidar": "LiDAR"}
_LEGEND_CLASSES = 10

# Corners by the order of geometry.box_corners.
_EDGES = np.array([(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)])
_FLOOR_EDGES = np.array([(2, 3), (3, 7), (7, 6), (6, 2)])
_FRONT_FACE, _FLOOR = (0, 1, 2, 3), (2, 3, 7, 6)


@dataclass(frozen=True)
class Layout:
    """What pictures of a detector's frames have in common.

    task: names and colours of the classes.  grid: what the bird's-eye view shows.  sensors: said to be absent if they
    are.
    """

    task: Task = field(default_factory=lambda: NUSCENES)
    grid: BEVGrid = field(default_factory=lambda: BEVGrid(**vars(GridConfig())))
    sensors: tuple[str, ...] = ("camera", "radar", "lidar")

    @classmethod
    def of(cls, detector) -> Layout:
        return cls(detector.task, detector.grid, detector.sensors)

    def colours(self, boxes: Boxes3D) -> np.ndarray:
        """[N, 3] RGB."""
        return self.task.colors[boxes.label]


def draw_frame(
    frame: Frame,
    detections: Detections | None = None,
    score_threshold: float = 0.3,
    latency_ms: float | None = None,
    tracks: np.ndarray | None = None,
    layout: Layout | None = None,
) -> np.ndarray:
    """The whole picture, [1080, 1920, 3].

    Args:
        frame: any of its parts may be missing; what is, is said in the picture. ``frame.boxes`` are drawn as ground
            truth, except those without a single LiDAR or radar point.
        detections: drawn where the score is at least ``score_threshold``.
        latency_ms: what the detections took, for the title.
        tracks: [N] the track each detection belongs to, -1 for none; written above the boxes in the view from behind.
        layout: what the detector's task and grid are; None: the defaults.
    """
    layout = Layout() if layout is None else layout
    for name, own in (("boxes", frame.boxes), ("detections", None if detections is None else detections.boxes)):
        if own is not None:
            layout.task.check(own.label, own.attribute, f"frame {frame.token}: {name}")
    found = Detections(Boxes3D.empty(), np.zeros(0)) if detections is None else detections
    shown = found.scores >= score_threshold
    boxes, tracks = found.boxes[shown], None if tracks is None else tracks[shown]
    truth = None if frame.boxes is None else frame.boxes[frame.boxes.measured]
    canvas = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    _draw_header(canvas, frame, layout, f"{len(boxes)} boxes, score >= {score_threshold:.2f}", latency_ms)

    left_width = WIDTH - BEV_WIDTH - 3 * MARGIN
    cameras = draw_cameras(images_of(frame), boxes, left_width, layout)
    paste(canvas, cameras, MARGIN, HEADER)
    top = HEADER + len(cameras) + GAP
    paste(canvas, draw_chase(frame, boxes, truth, (HEIGHT - MARGIN - top, left_width), layout, tracks), MARGIN, top)
    bev_height = HEIGHT - HEADER - MARGIN - LEGEND_HEIGHT - GAP
    left = WIDTH - MARGIN - BEV_WIDTH
    paste(canvas, draw_bev(frame, boxes, truth, (bev_height, BEV_WIDTH), layout), left, HEADER)
    paste(canvas, _draw_legend(boxes, truth, layout), left, HEADER + bev_height + GAP)
    return canvas


def draw_cameras(cameras: dict[str, CameraImage], boxes: Boxes3D, width: int, layout: Layout) -> np.ndarray:
    """The camera images side by side in two rows, [any, width, 3]; a missing one is a dark tile with its name."""
    names = CAMERA_ORDER if set(cameras) <= set(CAMERA_ORDER) else sorted(cameras)
    columns = (len(names) + 1) // 2
    tile_width = (width - (columns - 1) * GAP) // columns
    # Tiles have the shape of the images, as far as two rows of them leave room for the view below.
    aspect = float(
        np.median([camera.image.shape[0] / camera.image.shape[1] for camera in cameras.values()] or [9 / 16])
    )
    tile_height = round(min(tile_width * aspect, 250))
    grid = np.full((2 * tile_height + GAP, width, 3), BACKGROUND, np.uint8)
    for i, name in enumerate(names):
        tile = draw_camera(cameras.get(name), boxes, (tile_height, tile_width), layout)
        write_title(tile, name.removeprefix("CAM_").replace("_", " "))
        paste(grid, tile, i % columns * (tile_width + GAP), i // columns * (tile_height + GAP))
    return grid


def draw_camera(camera: CameraImage | None, boxes: Boxes3D, size: tuple[int, int], layout: Layout) -> np.ndarray:
    """One camera image of ``size`` (height, width) with the boxes it sees."""
    if camera is None:
        tile = np.full((*size, 3), PANEL, np.uint8)
        write(tile, "no image", (size[1] / 2, size[0] / 2), 15, WARNING, anchor=0.5)
        return tile
    camera = fit_image(camera, size)
    tile = camera.image.copy()
    _draw_boxes(tile, Pinhole(camera.intrinsics, camera.ego_SE3_camera.inverse()), boxes, layout.colours(boxes))
    return tile


def draw_chase(
    frame: Frame,
    boxes: Boxes3D,
    truth: Boxes3D | None,
    size: tuple[int, int],
    layout: Layout,
    tracks: np.ndarray | None = None,
) -> np.ndarray:
    """The scene as seen from behind and above the vehicle; ``size`` is (height, width)."""
    panel = np.full((*size, 3), PANEL, np.uint8)
    view = Pinhole.looking((-15.0, 0.0, 9.5), (9.0, 0.0, 0.0), 0.62 * size[1], size)
    _draw_scene(panel, view, frame, boxes, truth, layout)
    if tracks is not None:
        pixels, depth = view.points(boxes.center + boxes.size * (0, 0, 0.5))
        for i in np.flatnonzero((tracks >= 0) & np.isfinite(depth) & inside(panel, pixels)):
            write(panel, f"#{tracks[i]}", pixels[i] - (0, 10), 13, TEXT, bold=True, anchor=0.5)
    write_title(panel, "FROM BEHIND")
    return panel


def draw_bev(frame: Frame, boxes: Boxes3D, truth: Boxes3D | None, size: tuple[int, int], layout: Layout) -> np.ndarray:
    """The bird's-eye view; ``size`` is (height, width)."""
    panel = np.full((*size, 3), PANEL, np.uint8)
    view = TopDown.of(layout.grid, size)
    _draw_scene(panel, view, frame, boxes, truth, layout)
    for radius in (20, 40):
        write(panel, f"{radius} m", view.points(np.array([[0.0, -radius, 0.0]]))[0][0] + (5, 0), 12, DIM)
    write_title(panel, "BIRD'S EYE")
    absent = [name for name in reversed(layout.sensors) if name not in frame.sensors and name != "camera"]
    for i, name in enumerate(absent):
        where = (12, size[0] - 18 - 24 * (len(absent) - 1 - i))
        write(panel, f"{_title(name)}: none", where, 15, WARNING)
    return panel


def images_of(frame: Frame) -> dict[str, CameraImage]:
    """The images of all sensors; those of others than the cameras by sensor and name."""
    images = dict(frame.cameras or {})
    for sensor, data in frame.others.items():
        if isinstance(data, dict):
            images |= {f"{sensor}/{name}": image for name, image in data.items()}
    return images


def _title(sensor: str) -> str:
    return _TITLES.get(sensor, sensor)


def _draw_scene(panel: np.ndarray, view, frame: Frame, boxes: Boxes3D, truth: Boxes3D | None, layout: Layout) -> None:
    """What both views from outside show."""
    for radius in (20, 40, 60, 80):
        draw_segments(panel, view, _ring(radius), RING)
    clouds = [data for data in frame.data.values() if isinstance(data, PointCloud)]
    for cloud in sorted(clouds, key=lambda cloud: cloud.velocity is not None):  # few points on top of many
        if cloud.velocity is None:
            splat(panel, view, recent(cloud)[:, :3])
        else:
            _draw_radar(panel, view, recent(cloud), cloud.velocity)
    _draw_boxes(panel, view, boxes, layout.colours(boxes))
    arrows = _arrows(boxes.center - boxes.size * (0, 0, 0.5), boxes.velocity)
    draw_segments(panel, view, arrows, np.repeat(layout.colours(boxes), 3, axis=0), 2)
    _draw_boxes(panel, view, EGO_BOX, np.array([EGO]))
    if truth is not None:  # last: a detection that fits would hide it
        draw_segments(panel, view, _dashes(_corners(truth)[:, _FLOOR_EDGES].reshape(-1, 2, 3)), WHITE)


def _draw_boxes(image: np.ndarray, view, boxes: Boxes3D, colours: np.ndarray) -> None:
    """Edges in colours [N, 3], a shaded floor and front, a line from the middle to the front; far boxes first."""
    if not len(boxes):
        return
    corners = _corners(boxes)
    pixels, depth = view.points(corners.reshape(-1, 3))
    pixels, depth = pixels.reshape(-1, 8, 2), depth.reshape(-1, 8)
    shade = image.copy()
    whole = np.isfinite(depth).all(axis=1) & (np.abs(pixels) < 4 * max(image.shape)).all(axis=(1, 2))
    for i in np.flatnonzero(whole):  # OpenCV takes seconds to fill what is much larger than the image
        for face in (_FLOOR, _FRONT_FACE):
            cv2.fillConvexPoly(shade, fixed(pixels[i, face]), colours[i].tolist(), cv2.LINE_AA, SHIFT)
    cv2.addWeighted(shade, 0.3, image, 0.7, 0, dst=image)
    heading = np.stack([corners[:, _FLOOR].mean(axis=1), corners[:, _FLOOR[:2]].mean(axis=1)], axis=1)
    segments = np.concatenate([corners[:, _EDGES], heading[:, None]], axis=1)
    depth = view.points(boxes.center)[1]
    far_first = np.argsort(-depth, kind="stable")  # centres behind the camera, NaN, come last
    for i in far_first:
        draw_segments(image, view, segments[i], colours[i], 1 if depth[i] > FAR_M else 2)


def _draw_radar(panel: np.ndarray, view, points: np.ndarray, velocity: slice) -> None:
    """Returns as dots at the height they were measured at, with their velocity over ground, faint: there are many."""
    arrows = panel.copy()
    draw_segments(arrows, view, _arrows(points[:, :3], points[:, velocity]), RADAR)
    cv2.addWeighted(arrows, RADAR_ARROW_OPACITY, panel, 1 - RADAR_ARROW_OPACITY, 0, dst=panel)
    pixels, depth = view.points(points[:, :3])
    for pixel in pixels[np.isfinite(depth) & inside(panel, pixels)]:
        cv2.circle(panel, fixed(pixel).tolist(), round(2.2 * 2**SHIFT), RADAR, cv2.FILLED, cv2.LINE_AA, SHIFT)


def recent(cloud: PointCloud) -> np.ndarray:
    """The newest points [N, C] of a cloud; all where their age is unknown."""
    column = cloud.column("age_s")
    if column is None:
        return cloud.points
    age_s = cloud.points[:, column]
    return cloud.points[age_s <= age_s.min(initial=np.inf) + RECENT_S]


def _corners(boxes: Boxes3D) -> np.ndarray:
    return box_corners(boxes.center, boxes.size, boxes.yaw)


def _ring(radius_m: float) -> np.ndarray:
    """A circle on the ground around the ego origin as segments [120, 2, 3]."""
    angle = np.linspace(0, 2 * np.pi, 121)
    circle = np.stack([radius_m * np.cos(angle), radius_m * np.sin(angle), 0 * angle], axis=1)
    return np.stack([circle[:-1], circle[1:]], axis=1)


def _arrows(start: np.ndarray, velocity: np.ndarray) -> np.ndarray:
    """Segments [3N, 2, 3], a shaft and two barbs each; of length zero for what stands or has an unknown velocity."""
    speed = np.nan_to_num(np.linalg.norm(velocity, axis=1, keepdims=True))
    reach = np.where(speed > STANDING_MPS, ARROW_S * velocity, 0.0)
    barb = reach / np.maximum(speed, STANDING_MPS) * np.minimum(0.9, 0.4 * speed)
    tip = start + np.pad(reach, ((0, 0), (0, 1)))
    left = tip - np.pad(barb @ np.array([[0.8, -0.5], [0.5, 0.8]]), ((0, 0), (0, 1)))
    right = tip - np.pad(barb @ np.array([[0.8, 0.5], [-0.5, 0.8]]), ((0, 0), (0, 1)))
    return np.stack([start, tip, tip, left, tip, right], axis=1).reshape(-1, 2, 3)


def _dashes(segments: np.ndarray, count: int = 5) -> np.ndarray:
    """Segments [N, 2, 3] -> ``count`` dashes of each, [count * N, 2, 3]."""
    start, along = segments[:, :1], segments[:, 1:] - segments[:, :1]
    at = np.arange(2 * count).reshape(count, 2) / (2 * count - 1)
    return (start[:, None] + at[None, :, :, None] * along[:, None]).reshape(-1, 2, 3)


def _draw_header(canvas: np.ndarray, frame: Frame, layout: Layout, count: str, latency_ms: float | None) -> None:
    """Scene and time on the left; sensors, boxes and latency on the right."""
    middle = HEADER / 2
    time = datetime.fromtimestamp(frame.timestamp_ns / 1e9, tz=timezone.utc).strftime("%Y-%m-%d  %H:%M:%S.%f")[:-5]
    x = MARGIN + write(canvas, frame.scene or "frame", (MARGIN, middle), 24, TEXT, bold=True)
    write(canvas, time, (x + 24, middle + 2), 16, DIM)
    items = [(count, TEXT)] if latency_ms is None else [(f"{latency_ms:.0f} ms", TEXT), (count, TEXT)]
    for name in reversed(list(dict.fromkeys([*layout.sensors, *frame.sensors]))):
        items.append((f"{_title(name)}: {_amount(frame.data.get(name))}", TEXT if name in frame.sensors else WARNING))
    x = WIDTH - MARGIN
    for text, colour in items:
        x -= write(canvas, text, (x, middle), 16, colour, anchor=1.0) + 36


def _amount(data: SensorData | None) -> str:
    if data is None:
        return "none"
    return f"{len(data.points)} points" if isinstance(data, PointCloud) else str(len(data))


def _draw_legend(boxes: Boxes3D, truth: Boxes3D | None, layout: Layout) -> np.ndarray:
    """Classes with the number of boxes of each, at most ten of them, and what the other marks mean."""
    panel = np.full((LEGEND_HEIGHT, BEV_WIDTH, 3), PANEL, np.uint8)
    counts = Counter(boxes.label.tolist())
    task = layout.task
    listed = sorted(range(len(task.classes)), key=lambda label: -counts[label])[:_LEGEND_CLASSES]
    for i, label in enumerate(sorted(listed)):
        x, y = (14, 150, 288, 402, 506)[i % 5], 22 + i // 5 * 28
        colour = task.colors[label].tolist()
        cv2.rectangle(panel, (x, y - 6), (x + 11, y + 5), colour, cv2.FILLED)
        name = task.classes[label].removesuffix("_vehicle").removeprefix("traffic_")
        width = write(panel, name, (x + 18, y), 14, TEXT if counts[label] else DIM)
        if counts[label]:
            write(panel, str(counts[label]), (x + 26 + width, y), 14, colour, bold=True)
    cv2.line(panel, (14, 80), (BEV_WIDTH - 14, 80), RING, 1)
    y = 109
    cv2.arrowedLine(panel, (14, y), (38, y), TEXT, 2, cv2.LINE_AA, tipLength=0.35)
    write(panel, f"velocity, {ARROW_S:.0f} s", (46, y), 14, DIM)
    cv2.circle(panel, (168, y), 3, RADAR, cv2.FILLED, cv2.LINE_AA)
    write(panel, "radar", (178, y), 14, DIM)
    for x in range(240, 268, 9):
        cv2.line(panel, (x, y), (x + 4, y), WHITE, 1, cv2.LINE_AA)
    write(panel, "no ground truth" if truth is None else f"ground truth {len(truth)}", (276, y), 14, DIM)
    heights = np.linspace(HEIGHTS_M[0], HEIGHTS_M[-1], 104)
    panel[y - 5 : y + 6, 424:528] = np.stack([np.interp(heights, HEIGHTS_M, c) for c in HEIGHT_COLOURS.T], axis=1)
    write(panel, "LiDAR -1..8 m", (536, y), 12, DIM)
    return panel
