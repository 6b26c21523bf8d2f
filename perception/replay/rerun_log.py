"""Replay as a Rerun recording (.rrd): everything a step holds, to look at from any side and to scrub through.

    world                     metres, z up, from where the scene began
    world/path                where the vehicle drove
    world/ego                 the vehicle and its pose; what is below is in ego coordinates
    world/ego/lidar           the newest sweep, coloured by height
    world/ego/radar           the newest sweep, with arrows in radar/velocity
    world/ego/camera/<name>   pinhole and image
    world/ego/detections      boxes with class, track and score, with arrows in detections/velocity
    world/ego/labels          the same labels, always visible, for boxes nearby
    world/ego/truth           annotated boxes
    plots/...                 detections by class, their mean score, latency by stage
    faults                    what the health monitor finds, when it changes

The timelines are ``drive_time``, the clock of the recording, and ``frame``, the number of the step. What a step does
not have is cleared, so that nothing of an earlier one stays visible. Entities and their archetypes:
https://rerun.io/docs/reference/types/archetypes.
"""

from __future__ import annotations

import atexit
import ctypes
import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from perception.canvas import BACKGROUND, HEIGHT_COLOURS, HEIGHTS_M, WHITE, Pinhole
from perception.errors import PerceptionError, missing_extra
from perception.files import ResultsError, begin_part, finish_part, writing
from perception.geometry import SE3
from perception.grid import BEVGrid
from perception.replay.step import Step
from perception.sample import Boxes3D, CameraImage, Frame, PointCloud, fit_image
from perception.task import Task
from perception.viz import ARROW_S, CAMERA_ORDER, EGO, EGO_BOX, RADAR, STANDING_MPS, Layout, images_of, recent

_FLUSH_S = 10.0  # where a disk is full the writer ends, and Rerun may wait for it for ever
LABEL_RANGE_M = 25.0  # labels of boxes farther away show on hover only
IMAGE_WIDTH, JPEG_QUALITY = 800, 85  # larger images are scaled down: a recording of six cameras is large enough
PATH_POINTS, PATH_STEP_M = 300, 1.0
EYE, TARGET = (-15.0, 0.0, 9.5), (9.0, 0.0, 0.0)  # the view from behind the vehicle, ego coordinates
CHASE_SIZE = (1000, 1600)
CHASE = Pinhole.looking(EYE, TARGET, 1000.0, CHASE_SIZE)
CAMERA_GRID = tuple(CAMERA_ORDER[i] for i in (1, 4, 0, 2, 3, 5))  # two columns: front and back, left and right


class RerunSink:
    """A :class:`perception.replay.step.Sink` that writes an .rrd; without a step it holds only the vehicle.

    Args:
        score_threshold: of the detections that are shown.
        layout: task and grid of the detector; None for the defaults.

    Raises:
        PerceptionError: Rerun is not installed.
    """

    def __init__(self, path: str | Path, score_threshold: float = 0.3, layout: Layout | None = None):
        self.rr = import_rerun()
        self.path, self.score_threshold, self.layout = Path(path), score_threshold, layout or Layout()
        self.task = self.layout.task
        self._size = 0  # of the file so far
        self._is_stuck = False  # since a flush failed
        self._cameras: tuple[str, ...] | None = None  # all that have been seen
        self._clouds: dict[str, None] = {"lidar": None, "radar": None}  # likewise, in this order
        self._scene: str | None = None
        self._start = np.zeros(3)  # of the scene; far from zero the viewer's float32 would make everything tremble
        self._driven: deque[np.ndarray] = deque(maxlen=PATH_POINTS)
        self._faults: dict[str, str] = {}

    def __enter__(self) -> RerunSink:
        with writing(self.path):
            self._partial = begin_part(self.path)
        self._recording = self.rr.RecordingStream("perception")
        self._recording.save(self._partial)
        for entity in ("world", "world/ego"):
            self._log(entity, self.rr.ViewCoordinates.FLU, static=True)
        self._log("world/ego", self._boxes(EGO_BOX, np.array([EGO])), static=True)
        self._log("world/ego/chase", *self._pinhole(CHASE, CHASE_SIZE), static=True)
        self._log(
            "plots/detections", self.rr.SeriesLines(colors=self.task.colors, names=self.task.classes), static=True
        )
        return self

    def add(self, step: Step) -> None:
        self._recording.set_time("frame", sequence=step.index)
        self._recording.set_time("drive_time", timestamp=np.datetime64(step.frame.timestamp_ns, "ns"))
        shown = step.detections.scores >= self.score_threshold
        boxes, scores = step.detections.boxes[shown], step.detections.scores[shown]
        tracks = None if step.tracks is None else step.tracks[shown]
        self._log_pose(step.frame)
        self._log_cameras(images_of(step.frame))
        self._log_clouds(step.frame)
        self._log_detections(boxes, labels(self.task, boxes, scores, tracks))
        self._log_truth(step.frame.boxes)
        self._log_plots(boxes, scores, {} if step.index == 0 else step.latency_ms)  # the cold one would dwarf the rest
        self._log_faults(step.faults)
        try:
            self._recording.flush(timeout_sec=_FLUSH_S)
        except (RuntimeError, ValueError) as error:
            self._is_stuck = True
            # At exit, and when the recording is deleted, Rerun would wait for the same writer.
            atexit.unregister(self.rr.rerun_shutdown)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._recording))
            raise ResultsError(f"{self._partial}: cannot be written: {error}; is the disk full?") from None
        self._check_growth()

    def __exit__(self, kind, error, trace) -> None:
        if not self._is_stuck:
            self._recording.disconnect()
        if kind is None:
            self._check_growth()  # by what marks the end
            with writing(self.path):
                finish_part(self.path)

    def _check_growth(self) -> None:
        """Older releases of Rerun say nothing when the disk is full, but then the file no longer grows."""
        with writing(self.path):
            before, self._size = self._size, self._partial.stat().st_size
        if self._size <= before:
            raise ResultsError(f"{self._partial}: cannot be written: it stays at {before} bytes; is the disk full?")

    def _log(self, entity: str, *what, static: bool = False) -> None:
        self._recording.log(entity, *what, static=static, strict=True)

    def _clear(self, entity: str) -> None:
        self._log(entity, self.rr.Clear(recursive=True))

    def _log_pose(self, frame: Frame) -> None:
        if frame.scene != self._scene:
            self._scene, self._start = frame.scene, frame.world_SE3_ego.translation
            self._driven.clear()
        position = frame.world_SE3_ego.translation - self._start
        if not self._driven or np.linalg.norm(position - self._driven[-1]) >= PATH_STEP_M:
            self._driven.append(position)
        self._log("world/ego", self._transform(SE3(frame.world_SE3_ego.rotation, position)))
        self._log("world/path", self.rr.LineStrips3D([[*self._driven, position]], colors=[EGO], radii=0.08))

    def _log_cameras(self, cameras: dict[str, CameraImage]) -> None:
        if self._cameras is None or not set(cameras) <= set(self._cameras):
            self._cameras = tuple(sorted(set(cameras) | set(self._cameras or ())))
            self._recording.send_blueprint(blueprint(self._cameras))
        for name in self._cameras:
            entity = f"world/ego/camera/{name}"
            if name not in cameras:
                self._clear(entity)
                continue
            camera = at_most(cameras[name], IMAGE_WIDTH)
            view = Pinhole(camera.intrinsics, camera.ego_SE3_camera.inverse())
            jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(camera.image), JPEG_QUALITY, "RGB", "420")
            image = self.rr.EncodedImage(contents=jpeg, media_type="image/jpeg")
            self._log(entity, *self._pinhole(view, camera.image.shape[:2]), image)

    def _log_clouds(self, frame: Frame) -> None:
        clouds = {name: data for name, data in frame.data.items() if isinstance(data, PointCloud)}
        self._clouds |= dict.fromkeys(clouds)
        for name in self._clouds:
            if name in clouds:
                self._log_cloud(f"world/ego/{name}", clouds[name])
            else:
                self._clear(f"world/ego/{name}")

    def _log_cloud(self, entity: str, cloud: PointCloud) -> None:
        """Points coloured by height or, where they have velocities, with arrows."""
        points = recent(cloud)
        points = points[within(self.layout.grid, points)]
        if cloud.velocity is None:
            colours = np.stack([np.interp(points[:, 2], HEIGHTS_M, c) for c in HEIGHT_COLOURS.T], axis=1)
            self._log(entity, self._points(points[:, :3], colours.astype(np.uint8), 1.0))
        else:
            self._log(entity, self._points(points[:, :3], np.array([RADAR]), 2.0))
            arrows = self._arrows(points[:, :3], points[:, cloud.velocity], np.array([RADAR]) // 2, 0.02)
            self._log(f"{entity}/velocity", arrows)

    def _log_detections(self, boxes: Boxes3D, words: list[str]) -> None:
        colours, half_height = self.layout.colours(boxes), boxes.size * (0, 0, 0.5)
        self._log("world/ego/detections", self._boxes(boxes, colours, words))
        arrows = self._arrows(boxes.center - half_height, boxes.velocity, colours, 0.06)
        self._log("world/ego/detections/velocity", arrows)

        near = np.linalg.norm(boxes.center[:, :2], axis=1) < LABEL_RANGE_M
        above, near_words = (boxes.center + half_height)[near] + (0, 0, 0.5), np.array(words, object)[near]
        look = {"radii": 0.0, "show_labels": True}
        self._log("world/ego/labels", self.rr.Points3D(above, labels=near_words, colors=colours[near], **look))
        # A view through a pinhole shows no labels in space.
        pixels, depth = CHASE.points(above)
        ahead = np.isfinite(depth)
        points = self.rr.Points2D(pixels[ahead] + 0.5, labels=near_words[ahead], colors=colours[near][ahead], **look)
        self._log("world/ego/chase/labels", points)

    def _log_truth(self, truth: Boxes3D | None) -> None:
        if truth is None:
            self._clear("world/ego/truth")
        else:
            truth = truth[truth.measured & within(self.layout.grid, truth.center)]
            self._log("world/ego/truth", self._boxes(truth, np.array([WHITE]), width=0.4))

    def _log_plots(self, boxes: Boxes3D, scores: np.ndarray, latency_ms: dict[str, float]) -> None:
        self._log("plots/detections", self.rr.Scalars(np.bincount(boxes.label, minlength=len(self.task.classes))))
        if len(scores):
            self._log("plots/score", self.rr.Scalars(scores.mean()))
        for stage, ms in latency_ms.items():
            self._log(f"plots/latency/{stage}", self.rr.Scalars(ms))

    def _log_faults(self, faults: dict[str, str]) -> None:
        for name in sorted(faults.keys() | self._faults.keys()):
            if faults.get(name) != self._faults.get(name):
                level = "WARN" if name in faults else "INFO"
                self._log("faults", self.rr.TextLog(f"{name} {faults.get(name, 'ok')}", level=level))
        self._faults = dict(faults)

    def _points(self, points: np.ndarray, colours: np.ndarray, radius: float):
        return self.rr.Points3D(points, colors=colours, radii=self.rr.Radius.ui_points(radius))

    def _boxes(self, boxes: Boxes3D, colours: np.ndarray, words: list[str] | None = None, width: float = 1.0):
        half, zero = boxes.yaw / 2, 0 * boxes.yaw
        return self.rr.Boxes3D(
            centers=boxes.center,
            half_sizes=boxes.size / 2,
            quaternions=np.stack([zero, zero, np.sin(half), np.cos(half)], axis=1),  # x, y, z, w
            colors=colours,
            radii=self.rr.Radius.ui_points(width),
            labels=words,
            show_labels=False,
            fill_mode="majorwireframe",
        )

    def _arrows(self, start: np.ndarray, velocity: np.ndarray, colours: np.ndarray, radius: float):
        """From what moves to where it will be after ARROW_S."""
        moves = np.nan_to_num(np.linalg.norm(velocity, axis=1)) > STANDING_MPS
        vectors = np.pad(ARROW_S * velocity[moves], ((0, 0), (0, 1)))
        colours = np.broadcast_to(colours, (len(moves), 3))[moves]
        return self.rr.Arrows3D(origins=start[moves], vectors=vectors, colors=colours, radii=radius)

    def _pinhole(self, view: Pinhole, size: tuple[int, ...]):
        """``size`` is (height, width)."""
        pinhole = self.rr.Pinhole(
            # The origin of pixel coordinates is the corner of the first pixel in Rerun, its centre here.
            image_from_camera=view.intrinsics + [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]],
            resolution=size[::-1],
            camera_xyz=self.rr.ViewCoordinates.RDF,
        )
        return self._transform(view.camera_SE3_ego.inverse()), pinhole

    def _transform(self, pose: SE3):
        no_axes = {} if has_eye_controls() else {"axis_length": 0.0}  # older viewers draw them, long ones
        return self.rr.Transform3D(translation=pose.translation, mat3x3=pose.rotation, **no_axes)


def import_rerun():
    """The module ``rerun``, its usage statistics off."""
    os.environ.setdefault("RERUN_ANALYTICS", "0")
    try:
        import rerun
        import rerun.blueprint
    except ImportError:
        raise PerceptionError(missing_extra("viz", "a Rerun recording needs Rerun")) from None
    return rerun


def has_eye_controls() -> bool:
    """Whether a recording can say from where the scene is seen, and on which timeline: from Rerun 0.27 on."""
    return hasattr(import_rerun().blueprint, "EyeControls3D")


def blueprint(cameras: tuple[str, ...]):
    """What the viewer opens with: the scene from behind the vehicle, the cameras beside it, plots below."""
    rrb = import_rerun().blueprint
    background, no_legend = list(BACKGROUND), rrb.PlotLegend(visible=False)
    eye: dict[str, Any] = {}
    timeline: dict[str, Any] = {}
    if has_eye_controls():
        eye["eye_controls"] = rrb.EyeControls3D(position=EYE, look_target=TARGET)
        timeline["timeline"] = "drive_time"
    scene = rrb.Spatial3DView(
        name="scene",
        origin="/world/ego",
        contents=["/world/**", "- /world/ego/camera/**", "- /world/ego/chase/**"],
        background=background,
        line_grid=rrb.archetypes.LineGrid3D(visible=False),
        **eye,
    )
    chase = rrb.Spatial2DView(
        name="from behind",
        origin="/world/ego/chase",
        contents=["/world/**", "- /world/ego/camera/**", "- /world/ego/labels"],
        background=background,
    )
    images = [
        rrb.Spatial2DView(
            name=name.removeprefix("CAM_").replace("_", " ").lower(),
            origin=f"/world/ego/camera/{name}",
            contents=["$origin/**", "/world/ego/detections"],
        )
        for name in (CAMERA_GRID if set(cameras) <= set(CAMERA_GRID) else cameras)
    ]
    plots = rrb.Horizontal(
        rrb.TimeSeriesView(name="detections", origin="/plots/detections", plot_legend=no_legend),
        rrb.TimeSeriesView(
            name="mean score", origin="/plots/score", plot_legend=no_legend, axis_y=rrb.ScalarAxis(range=(0.0, 1.0))
        ),
        rrb.TimeSeriesView(name="latency, ms", origin="/plots/latency"),
        rrb.TextLogView(name="faults", origin="/faults"),
    )
    # A viewer without eye controls sees the scene from too far away; a pinhole stands where the eye should be.
    main = scene if has_eye_controls() else rrb.Tabs(chase, scene)
    top = rrb.Horizontal(main, rrb.Grid(*images, grid_columns=2), column_shares=[3, 2]) if cameras else main
    time = rrb.TimePanel(state="collapsed", **timeline)
    return rrb.Blueprint(rrb.Vertical(top, plots, row_shares=[7, 2]), time, collapse_panels=True)


def labels(task: Task, boxes: Boxes3D, scores: np.ndarray, tracks: np.ndarray | None) -> list[str]:
    """ "car 0.87", or "car #12 0.87" where the track [N] of a box is known."""
    classes = task.classes
    names = [classes[label] for label in boxes.label]
    if tracks is not None:
        names = [f"{name} #{track}" if track >= 0 else name for name, track in zip(names, tracks)]
    return [f"{name} {score:.2f}" for name, score in zip(names, scores)]


def within(grid: BEVGrid, points: np.ndarray) -> np.ndarray:
    """bool [N]: points [N, 2 or more] that are inside the grid, where detections can be."""
    x, y = points[:, 0], points[:, 1]
    return (x > grid.x_min_m) & (x < grid.x_max_m) & (y > grid.y_min_m) & (y < grid.y_max_m)


def at_most(camera: CameraImage, width: int) -> CameraImage:
    """The camera with its image scaled down to ``width`` pixels; a narrower one stays as it is."""
    height = round(camera.image.shape[0] * width / camera.image.shape[1])
    return fit_image(camera, (height, width)) if camera.image.shape[1] > width else camera
