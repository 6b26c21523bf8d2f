"""A scene of a nuScenes folder as a log, in the layout of Foxglove's converter (github.com/foxglove/nuscenes2mcap).

Every sensor row whose file exists, keyframe or sweep, is there at its time of measurement:

/tf                               map <- base_link, one for every time; base_link <- sensor, one for every row
/cam_front/camera_info            images are rectified: D is empty, R the identity, and P is K. Where the tables have a
                                  distortion, D is that, and the images are on /cam_front/image_raw_compressed
/cam_front/image_rect_compressed  the bytes of the file
/lidar_top                        x, y, z, intensity, ring, all float32: the bytes of the file
/radar_front                      the fields of the PCD file, all returns, unfiltered

and so on for every channel, whose name in lower case is the frame of its sensor (as written, where two differ in
nothing else). Not of that converter: /sample holds
the tokens of the samples at their reference times (see ``perception/data/nuscenes.py``), and /tf has the ego pose of
these moments even where no file of them is there.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from perception.data.nuscenes import NuScenes
from perception.data.nuscenes_files import (
    LIDAR_BIN_COLUMNS,
    DataError,
    lidar_bin_length,
    path_below,
    read_bytes,
    read_lidar_bin,
    read_pcd,
)
from perception.data.nuscenes_index import Index, open_index
from perception.logs.decoding import FIRST_BYTES
from perception.logs.messages import Cloud, Image, LogError, Message, Payload, Sample, Topic, Transform, pinhole

logger = logging.getLogger(__name__)

TF, SAMPLE = "/tf", "/sample"
MAP, BASE_LINK = "map", "base_link"
LIDAR_DTYPE = np.dtype([(name, "<f4") for name in ("x", "y", "z", "intensity", "ring")])
_CAMERA_INFO, _IMAGE = "/camera_info", "/image_rect_compressed"  # behind the name of a camera
_RAW_IMAGE = "/image_raw_compressed"  # of a camera with distortion
_MAX_LISTED = 10


class _Event(NamedTuple):
    """A message to be made. Sorts by time, transforms first, then by topic, then by row.

    order: 0 for map <- base_link, 1 for base_link <- sensor, 2 for all else.  row: of SensorRows; for SAMPLE, which of
    the scene's samples.
    """

    timestamp_us: int
    order: int
    topic: str
    row: int


class NuScenesReader:
    """One scene as a :class:`perception.logs.messages.Reader`; log times are times of measurement.

    Args:
        root, version: as for :class:`perception.NuScenes`.
        scene: its name; None takes the only one there is.
        strict: damaged rows of the tables are an error, instead of being left out.

    Raises:
        LogError: several scenes, and none is named.
        PerceptionError: an unknown scene; tables that are missing or malformed.
    """

    def __init__(self, root: str | Path, version: str | None = None, scene: str | None = None, strict: bool = True):
        scenes = None if scene is None else [scene]
        dataset = NuScenes(root, version, scenes=scenes, sensors=(), on_error="raise" if strict else "skip")
        self.path, self.scene = dataset.root, _only(dataset)
        self.tables = dataset.root / dataset.version
        index = open_index(dataset.root, dataset.version, skip_damaged=not strict)
        self._index = index
        self._mounts = (
            index.recording.calibrations.poses
        )  # as written: an SE3 is a matrix, and its quaternion another one
        self._rows, self._calibrations = index.recording.rows, index.recording.calibrations
        self._tokens = dataset.tokens
        lower = Counter(channel.lower() for channel in index.modality)
        self._frame_ids = {name: name.lower() if lower[name.lower()] == 1 else name for name in index.modality}

        number = index.scenes.index(self.scene)
        rows = _rows_of_scene(index, number)
        present = rows[self._rows.present[rows]]
        absent = len(rows) - len(present)
        if absent:  # as in a download of the keyframes only: no damage
            logger.warning("%s: going without %d of %d rows of sample_data: no file", self.scene, absent, len(rows))
        self._events = self._list_events(index, index.samples(number), present)
        self.topics = self._list_topics()
        self.stopped: str | None = None
        self.damage: list[str] = []
        self.failed: dict[str, str] = {}

    def messages(self, topics: Collection[str] | None = None, strict: bool = False) -> Iterator[Message]:
        self.damage.clear()
        self.failed.clear()
        for sequence, event in enumerate(self._events):
            if topics is not None and event.topic not in topics:
                continue
            timestamp_ns = 1000 * event.timestamp_us
            try:
                payload = self._payload(event)
            except LogError as error:
                if strict:
                    raise
                self.damage.append(str(error))
                self.failed.setdefault(event.topic, str(error))
                continue
            yield Message(event.topic, timestamp_ns, timestamp_ns, sequence, payload)

    def close(self) -> None:
        """Nothing is held open."""

    def _list_events(self, index: Index, samples: np.ndarray, rows: np.ndarray) -> list[_Event]:
        reference, reference_us = index.recording.reference[samples], index.recording.reference_us[samples]
        ego_row: dict[int, int] = {}  # at every time; of several poses at one time the sample's comes first
        events = []
        for i, (row, time_us) in enumerate(zip(reference.tolist(), reference_us.tolist())):
            events.append(_Event(time_us, 2, SAMPLE, i))
            if row >= 0:
                ego_row.setdefault(time_us, row)
        for row, time_us in zip(rows.tolist(), self._rows.timestamp_us[rows].tolist()):
            ego_row.setdefault(time_us, row)
            calibration = self._calibrations[self._rows.calibration[row]]
            topic = f"/{self._frame_ids[calibration.channel]}"
            image = _IMAGE if calibration.distortion is None else _RAW_IMAGE
            endings = (_CAMERA_INFO, image) if calibration.modality == "camera" else ("",)
            events += [_Event(time_us, 1, TF, row), *(_Event(time_us, 2, topic + ending, row) for ending in endings)]
        return sorted(events + [_Event(time_us, 0, TF, row) for time_us, row in ego_row.items()])

    def _list_topics(self) -> dict[str, Topic]:
        counts = Counter(event.topic for event in self._events)
        return {name: Topic(name, *_type_and_kind(name), count=counts[name]) for name in sorted(counts)}

    def _payload(self, event: _Event) -> Payload:
        self._index.require_whole()
        if event.topic == SAMPLE:
            return Sample(self._tokens[event.row])
        if event.order == 0:
            return Transform(MAP, BASE_LINK, self._rows.world_SE3_ego[event.row].copy())  # of the mapped file
        number = self._rows.calibration[event.row]
        calibration = self._calibrations[number]
        frame_id = self._frame_ids[calibration.channel]
        if event.order == 1:
            return Transform(BASE_LINK, frame_id, self._mounts[number])
        if event.topic.endswith(_CAMERA_INFO) and calibration.intrinsics is not None:
            height, width = self._rows.image_size[event.row].tolist()
            found = pinhole(frame_id, width, height, calibration.intrinsics)
            return found if calibration.distortion is None else replace(found, **_lens(calibration.distortion))
        try:
            path = path_below(self.path, self._rows.filename[event.row].decode())
            return _measured(path, calibration.modality, frame_id)
        except DataError as error:
            token = self._rows.token[event.row].decode()
            raise LogError(f"{error} ({event.topic} at {1000 * event.timestamp_us} ns, sample_data {token})") from None


def _lens(distortion: np.ndarray) -> dict:
    """What a log's Calibration says of the distortion of one of nuScenes."""
    if len(distortion) == 4:
        return {"distortion": distortion, "model": "equidistant"}
    if distortion[5:].any():
        return {"distortion": distortion, "model": "rational_polynomial"}
    return {"distortion": distortion[:5], "model": "plumb_bob"}


def _only(dataset: NuScenes) -> str:
    if len(dataset.scenes) == 1:
        return dataset.scenes[0]
    listed = ", ".join(dataset.scenes[:_MAX_LISTED]) + (", ..." if len(dataset.scenes) > _MAX_LISTED else "")
    raise LogError(
        f"{dataset.root / dataset.version}: the name of one scene was expected, such as "
        f"scene={dataset.scenes[0] if dataset.scenes else 'NAME'}; found {len(dataset.scenes)}: {listed or 'none'}"
    )


def _rows_of_scene(index: Index, scene: int) -> np.ndarray:
    """int [N]: the scene's rows of SensorRows in their order: keyframes, and the rows linked with them by ``prev``.

    Rows are ordered by scene, so only those between the last keyframe of the scene before and the first of the scene
    after come into question.
    """
    samples, rows = index.samples(scene), index.recording.rows
    if not len(samples):
        return samples
    keyframe = np.stack([*index.recording.keyframes.values()], axis=1)
    before, own, after = (part[part >= 0] for part in np.split(keyframe, [samples[0], samples[-1] + 1]))
    begin, end = before.max(initial=-1) + 1, after.min(initial=len(rows.previous))
    previous = rows.previous[begin:end] - begin
    linked = np.flatnonzero((previous >= 0) & (previous < len(previous)))
    shape = (len(previous), len(previous))
    links = coo_matrix((np.ones(len(linked)), (linked, previous[linked])), shape=shape)
    _, chain = connected_components(links, directed=False)
    return begin + np.flatnonzero(np.isin(chain, chain[own - begin]))


def _measured(path: str, modality: str, frame_id: str) -> Image | Cloud:
    """The unchanged content of a sensor file. Raises DataError."""
    if modality == "radar":
        return Cloud(frame_id, read_pcd(path))
    if modality == "camera":
        data = read_bytes(path)
        return Image(frame_id, "png" if data.startswith(FIRST_BYTES["png"]) else "jpeg", data)
    points = np.empty((lidar_bin_length(path), LIDAR_BIN_COLUMNS), dtype=np.float32)
    read_lidar_bin(path, points)
    return Cloud(frame_id, points.view(LIDAR_DTYPE)[:, 0])


def _type_and_kind(topic: str) -> tuple[str, str]:
    """Of a topic's messages, as in the converter's files."""
    if topic == TF:
        return "foxglove.FrameTransform", "transform"
    if topic == SAMPLE:
        return "foxglove.Log", "sample"
    if topic.endswith(_CAMERA_INFO):
        return "foxglove.CameraCalibration", "calibration"
    if topic.endswith((_IMAGE, _RAW_IMAGE)):
        return "foxglove.CompressedImage", "image"
    return "foxglove.PointCloud", "cloud"
