"""nuScenes, straight from its JSON tables and sensor files.

    dataset = perception.NuScenes(root, version="v1.0-mini", split="mini_val")
    frame = dataset[0]
    first_ten = dataset[:10]  # a NuScenes of these frames only

What a frame holds, exactly:

Reference   The ego pose and time of the LIDAR_TOP keyframe. A sample without that row takes its own timestamp, and the
            ego pose of whichever of its sensor rows was measured nearest to it.
Clouds      All sweeps of all sensors of a kind in the ego frame at the reference time, the vehicle's motion removed.
            Sweeps are found by following ``prev`` from the keyframe. Dropped are points within ``min_distance_m`` of
            their sensor in both x and y, which is the vehicle itself, and points with a number that is not finite; a
            radar with nothing to report writes one such point. A cloud may end up empty, which is not absent.
Radar       vx, vy are the ego-motion compensated velocities, over ground. ``radar_filter`` keeps what the devkit keeps
            by default: valid clusters, any dynamic property but "stopped", unambiguous Doppler.
Boxes       All annotations of the ten detection classes at any distance, in the table's order; None in a version
            without annotations (test). nuScenes boxes stand upright in the world, ours in the ego frame: on a road that
            tilts the vehicle by a degree, corners differ by a degree.

The first time that a version is opened its tables are read and checked, all scenes of them, and kept as columns beside
the data or in the user's cache; from then on it opens in milliseconds (``nuscenes_index.py``).

What is absent and what is broken are different things:

Absent      A sensor without a row, or whose keyframe file is not on disk, is left out of the frame, older sweeps
            included: alone they would show the past as the present. Absent sweeps are left out one by one. What is
            absent is determined, counted in ``report`` and logged in one line when the dataset is opened.
Broken      A file that exists but is damaged or not what the tables say is a DataError naming file and tokens. (A LiDAR
            file without a byte is a sweep without a point: the format has no header. The report counts them.)
            With ``on_error="skip"`` the whole frame is dropped: ``dataset[i]`` is None, which is left out
            of batches, ``frames()`` passes over it, ``skipped`` keeps the reason. Nothing takes its place.
            Of the tables only the damaged rows are left out, with what refers to them; ``report`` counts them.
Foreign     Times in seconds, milliseconds or nanoseconds are taken for what they are; categories and attributes that
            nuScenes does not have are left out. Either is logged.
"""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np

from perception.data.nuscenes_annotations import Annotations
from perception.data.nuscenes_constants import MODALITIES
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_frame import ReadOptions, SampleReader
from perception.data.nuscenes_index import open_index
from perception.data.nuscenes_scenes import (
    are_names,
    choose_scenes,
    find_version,
    is_simulated,
    part_of_scene,
    read_splits,
    require_known,
)
from perception.errors import PerceptionError, require
from perception.geometry import SE3
from perception.sample import Boxes3D, Frame
from perception.task import CLASSES, NUSCENES, Task

logger = logging.getLogger(__name__)


class NuScenes:
    """Frames of a nuScenes version on disk, by index, ordered by scene and time.

    Args:
        root: folder that holds the version folder, ``samples/`` and ``sweeps/``; ``~`` is the user's home.
        version: folder of the JSON tables, such as "v1.0-mini"; None takes the only one there is.
        split: an official split ("mini_val", "train", ...), or one of the version's own ``splits.json``, which comes
            first. Scenes of it that are not in this version are left out, and their number is logged.
        scenes: names of scenes, instead of a split. Neither: all scenes.
        part: from where to where of each scene, as shares of its keyframes: (0.5, 1) is the second half.
        sensors: the kinds of sensor to read; the others are None in every frame.
        lidar_sweeps, radar_sweeps: how many sweeps of a sensor make a cloud, the keyframe included.
        without: channels that are left out, such as "CAM_FRONT".
        min_distance_m: half the side of the square around a LiDAR or radar in which points are dropped.
        radar_filter: drop radar returns that the sensor itself holds for invalid or ambiguous.
        lidar_rings: keep only points that these lasers measured, counted as the files do; None keeps all.
        image_size: height and width that the caller will scale images to, covering and then cropping, as
            :func:`perception.sample.fit_image` does. JPEGs that are at least twice as large are decoded at a half, a
            quarter or an eighth of their sides, which is much faster; their intrinsics say so. None: as stored.
        task: its classes; boxes of others are left out, and labels and attributes index those of the task.
        on_error: what a damaged file does, "raise" or "skip" (see the module docstring).

    Attributes:
        tokens: the sample token of every frame.  scenes: names, in the order of the frames.
        skipped: token -> reason, of the frames this process has dropped so far.

    Raises:
        PerceptionError: an argument that names nothing (the message names the closest thing there is).
        DataError: tables that are missing, malformed or refer to nothing.
    """

    def __init__(
        self,
        root: str | Path,
        version: str | None = None,
        split: str | None = None,
        scenes: Sequence[str] | None = None,
        *,
        part: Sequence[float] = (0.0, 1.0),
        sensors: Sequence[str] = MODALITIES,
        lidar_sweeps: int = 10,
        radar_sweeps: int = 6,
        without: Sequence[str] = (),
        min_distance_m: float = 1.0,
        radar_filter: bool = True,
        lidar_rings: Sequence[int] | None = None,
        image_size: tuple[int, int] | None = None,
        task: Task = NUSCENES,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        require("root", root, "a path", lambda root: isinstance(root, str | Path))
        require("task", task, "a Task", lambda task: isinstance(task, Task))
        require("sensors", sensors, "a list of names", are_names)
        for sensor in sensors:
            require_known("sensor", sensor, MODALITIES)
        require_known("on_error", on_error, ("raise", "skip"))
        self.root = Path(root).expanduser()
        self.version = find_version(self.root, version)
        self.split, self.task = split, task
        self.on_error = on_error

        folder = self.root / self.version
        sweeps = {"camera": 1, "radar": radar_sweeps, "lidar": lidar_sweeps}
        sweeps = {sensor: sweeps[sensor] for sensor in sensors}
        self._options = ReadOptions(sweeps, without, min_distance_m, radar_filter, lidar_rings, image_size)
        self._attach()
        for channel in without:
            require_known("channel", channel, self._index.modality)
        for facts in task.objects:
            if not set(facts.sources or [facts.name]) & set(CLASSES):
                logger.warning("%s: class %s has no source among nuScenes' classes, hence no box", folder, facts.name)

        number_of_scene = {name: number for number, name in enumerate(self._index.scenes)}
        own_splits = {} if split is None else self.splits
        chosen = choose_scenes(folder, self._index.scenes, split, scenes, own_splits)
        numbers = [number_of_scene[name] for name in chosen]
        self._select(numbers, [part_of_scene(self._index.samples(number), part) for number in numbers])
        for note in self._index.notes:
            logger.warning("%s: %s", folder, note)
        for table, what, number, first in self._index.damage:
            logger.warning("%s: %s: damaged %ss left out: %d, the first: %s", folder, table, what, number, first)
        if self._absent:
            counts = ", ".join(f"{n} {channel} {what}" for (channel, what), n in sorted(self._absent.items()))
            logger.warning("%s: going without what is absent: %s", folder, counts)

    def _attach(self) -> None:
        self._index = open_index(self.root, self.version, skip_damaged=self.on_error == "skip")
        modality, recording = self._index.modality, self._index.recording
        keyframes = {name: rows for name, rows in recording.keyframes.items() if modality[name] in self._options.sweeps}
        self._recording = dataclasses.replace(recording, keyframes=keyframes)

    def _select(self, scenes: list[int], samples: list[np.ndarray]) -> None:
        """Serve the given samples of each of the given scenes, both by their numbers in the index."""
        self.scenes: list[str] = [self._index.scenes[number] for number in scenes]
        self._scene_offsets = np.cumsum([0, *map(len, samples)])
        self._samples = _joined(samples)  # one for every frame
        self.tokens: list[str] = [token.decode() for token in self._index.sample_token[self._samples].tolist()]
        self.skipped: dict[str, str] = {}
        self._dropped_points: Counter = Counter()
        every = _joined([self._index.samples(number) for number in scenes])
        self._absent = self._index.count_absent(scenes, every, self._options.sweeps)

    def __getstate__(self) -> dict:
        """Another process maps the index itself."""
        state = {name: value for name, value in vars(self).items() if name not in ("_index", "_recording")}
        return {**state, "_sources": self._index.sources}

    def __setstate__(self, state: dict) -> None:
        sources = state.pop("_sources")
        vars(self).update(state)
        self._attach()
        if self._index.sources != sources:
            raise DataError(f"{self.root / self.version}: the tables were expected as they were opened, found others")

    def __len__(self) -> int:
        return len(self.tokens)

    @overload
    def __getitem__(self, index: int) -> Frame | None: ...

    @overload
    def __getitem__(self, index: slice) -> NuScenes: ...

    def __getitem__(self, index: int | slice) -> Frame | NuScenes | None:
        """The frame, or None if it is damaged and ``on_error`` is "skip". Of a slice, a dataset of those frames.

        Raises:
            IndexError: no such frame.
            DataError: a damaged file, and ``on_error`` is "raise".
            PerceptionError: a slice that goes backwards: frames are in order of time.
        """
        if isinstance(index, slice):
            return self._sliced(range(len(self))[index])
        index = range(len(self))[operator.index(index)]
        try:
            return self._read(index)
        except PerceptionError as error:
            if self.on_error == "raise":
                raise
            token = self.tokens[index]
            if token not in self.skipped:
                logger.warning("frame skipped: %s", error)
            self.skipped[token] = str(error)
            return None

    def _sliced(self, frames: range) -> NuScenes:
        if frames.step < 0:
            raise PerceptionError(f"slice of a dataset: a step of 1 or more was expected, found {frames.step}")
        view = object.__new__(type(self))
        vars(view).update(vars(self))
        vars(view).pop("_frame_of_token", None)
        samples = self._samples[frames.start : frames.stop : frames.step]
        scene = self._index.sample_scene[samples]
        begin = np.flatnonzero(np.diff(scene, prepend=-1))
        view._select(scene[begin].tolist(), np.split(samples, begin)[1:])
        return view

    def index(self, token: str) -> int:
        """Which frame has this sample token."""
        try:
            return self._frame_of_token[token]
        except KeyError:
            message = f"{self.root / self.version}: sample {token} is not in the chosen scenes"
            raise PerceptionError(message) from None

    @cached_property
    def _frame_of_token(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def indices(self, scene: str) -> range:
        """The frames of one scene, in order of time."""
        require_known("scene", scene, self.scenes)
        number = self.scenes.index(scene)
        return range(*self._scene_offsets[number : number + 2].tolist())

    def frames(self, scene: str | None = None) -> Iterator[Frame]:
        """All frames, or those of one scene, in order; damaged ones are passed over if ``on_error`` is "skip"."""
        for i in range(len(self)) if scene is None else self.indices(scene):
            frame = self[i]
            if frame is not None:
                yield frame

    @property
    def annotated(self) -> bool:
        """Whether this version has annotations; the frames' boxes are None where it has not."""
        return self._index.annotations is not None

    @property
    def simulated(self) -> bool:
        """Whether ``perception.sim`` made this version."""
        return is_simulated(self.root / self.version)

    @property
    def splits(self) -> dict[str, list[str]]:
        """The version's own splits, names of scenes; not the official ones."""
        return read_splits(self.root / self.version)

    @property
    def annotations(self) -> Annotations | None:
        """All boxes of this dataset's frames in the world frame; None where the version has no annotations.

        Those of ``dataset[i]`` are ``box_offsets[i]:box_offsets[i + 1]``. They are gathered anew by every call.
        """
        self._index.require_whole()
        every = self._index.annotations
        return None if every is None else every.of(self._samples).of_task(self.task)

    @property
    def poses(self) -> np.ndarray:
        """float64 [len(self), 7]: every frame's ``world_SE3_ego.pose``; NaN without a row in sample_data."""
        row = self._recording.reference[self._samples]
        return np.where(row[:, None] >= 0, self._recording.rows.world_SE3_ego[row], np.nan)

    @property
    def ego_positions(self) -> np.ndarray:
        """float64 [len(self), 3]: the translations of :attr:`poses`."""
        return self.poses[:, :3]

    @property
    def timestamps_ns(self) -> np.ndarray:
        """int64 [len(self)]: the reference time of every frame."""
        return 1000 * self._index.recording.reference_us[self._samples]

    def boxes(self, index: int) -> Boxes3D | None:
        """The boxes of ``self[index]``, without reading its sensors."""
        reader = self._reader(index)
        return self._boxes(int(self._samples[index]), reader.ego_SE3_world)

    def image_files(self, index: int) -> dict[str, bytes]:
        """Camera -> the file, JPEG or PNG, that an image of ``self[index]`` is in; not of those that are rectified."""
        return self._reader(index).image_files()

    @property
    def report(self) -> dict[tuple[str, str], int]:
        """(channel, what) -> how many.

        "keyframe row", "keyframe file" and "sweep file" are absent ones in the chosen scenes; "point not finite" and
        "point out of range" are points dropped so far, by this process. With the name of a table, "damaged row" and
        "damaged link" (from one row to another) are what was left out of it in all scenes.
        """
        damage = Counter({(table, f"damaged {what}"): number for table, what, number, _ in self._index.damage})
        return dict(self._absent + self._dropped_points + damage)

    def _reader(self, index: int) -> SampleReader:
        self._index.require_whole()
        token, sample = self.tokens[index], int(self._samples[index])
        if self._recording.reference[sample] < 0:
            raise DataError(f"{self.root / self.version}: sample {token}: no row in sample_data, so no ego pose")
        return SampleReader(self.root, self._recording, self._options, token, sample, self._dropped_points)

    def _read(self, index: int) -> Frame:
        reader, sample = self._reader(index), int(self._samples[index])
        return Frame(
            token=self.tokens[index],
            timestamp_ns=1000 * reader.reference_us,
            world_SE3_ego=reader.world_SE3_ego,
            cameras=reader.cameras(),
            radar=reader.radar(),
            lidar=reader.lidar(),
            boxes=self._boxes(sample, reader.ego_SE3_world),
            scene=self._index.scenes[self._index.sample_scene[sample]],
        )

    def _boxes(self, sample: int, ego_SE3_world: SE3) -> Boxes3D | None:
        if self._index.annotations is None:
            return None
        own = self._index.annotations.of(np.array([sample])).of_task(self.task)
        forward = ego_SE3_world.rotate(own.forward)
        return Boxes3D(
            center=ego_SE3_world.transform(own.center),
            size=own.size,
            yaw=np.arctan2(forward[:, 1], forward[:, 0]),
            velocity=ego_SE3_world.rotate(own.velocity)[:, :2],
            label=own.label,
            attribute=own.attribute,
            visibility=own.visibility,
            num_lidar_points=own.num_lidar_points,
            num_radar_points=own.num_radar_points,
        )


def _joined(samples: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *samples])
