"""Writes the frames of a source as shards (``shards.py``); an interrupted writer goes on where it was."""

from __future__ import annotations

import contextlib
import io
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from perception.data import stores
from perception.data.image_files import image_size
from perception.data.packed_lidar import pack
from perception.data.shards import (
    FORMAT,
    INDEX,
    Contents,
    Index,
    Place,
    ShardFrames,
    StoredBoxes,
    StoredCamera,
    StoredFrame,
    read_index,
    shard_name,
)
from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.lock import locked
from perception.sample import Boxes3D, CameraImage, Frame

_CAMERA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what every tar reader takes


class ShardError(PerceptionError):
    """Frames that cannot be kept in shards, or shards that are of something else."""


def write_shards(
    frames: FrameSource,
    out: str,
    contents: Contents,
    shard_bytes: int,
    progress: Callable[[int], object] = lambda frames: None,
) -> Index:
    """Write all frames; those that are None are left out.

    A shard ends with the scene that fills half of it, so that clips rarely need two, or where it is full. It is written
    whole, and the index after it. Shards that the index of ``out`` lists already are kept; so those of an interrupted
    run become the same bytes as those of one that was not.

    Args:
        frames: with images as stored. A source's ``image_files(index)`` gives camera -> JPEG or PNG file of an image;
            other images are compressed as PNG.
        out: folder or URL.
        contents: what to say of them; ``lidar_step_m`` is the step of the LiDAR's points.
        shard_bytes: size of a full shard; one is held in memory.
        progress: told how many frames are done.

    Raises:
        ShardError: see the class.
        DataError, ResultsError: what cannot be read or written.
    """
    with contextlib.nullcontext() if stores.is_url(out) else locked(Path(out)):
        index = _begun(out, contents)
        position = _position(frames, index, out)
        progress(position)
        shard, scene = _Shard(contents.lidar_step_m), ""
        for i in range(position, len(frames)):
            frame = frames[i]
            if frame is not None:
                if shard.size >= (shard_bytes if frame.scene == scene else shard_bytes / 2):
                    _finish(shard, index, out)
                    shard = _Shard(contents.lidar_step_m)
                shard.add(i, frame, frames)
                scene = frame.scene
            progress(1)
        if shard.places:
            _finish(shard, index, out)
        if not index.shards:
            raise ShardError(f"{out}: frames to write were expected, found none")
        index.complete = True
        stores.write(out, INDEX, msgspec.json.encode(index))
    return index


def _begun(out: str, contents: Contents) -> Index:
    """The index there, up to the first shard that is not whole; an empty one where there is none."""
    if stores.size(out, INDEX) is None:
        return Index(FORMAT, contents, [], complete=False)
    index = read_index(out)
    for name in Contents.__struct_fields__:
        there, now = getattr(index.contents, name), getattr(contents, name)
        if there != now:
            raise ShardError(f"{out}: shards with {name} {now} were expected, found {there}; choose another folder")
    whole = [stores.size(out, shard_name(i)) == shard.size for i, shard in enumerate(index.shards)]
    index.shards = index.shards[: [*whole, False].index(False)]
    index.complete = False
    return index


def _position(frames: FrameSource, index: Index, out: str) -> int:
    """The first frame after those in the shards, which have to be all before it that the source does not leave out."""
    tokens, position = frames.tokens, 0
    for place in (place for shard in index.shards for place in shard.frames):
        while position < len(tokens) and tokens[position] != place.token and frames[position] is None:
            position += 1
        if position == len(tokens) or tokens[position] != place.token:
            raise ShardError(
                f"{out}: shards that begin as these {len(tokens)} frames were expected, found frame {place.token} "
                "in another place; choose another folder"
            )
        position += 1
    return position


def _finish(shard: _Shard, index: Index, out: str) -> None:
    data = shard.close()
    stores.write(out, shard_name(len(index.shards)), data)
    index.shards.append(ShardFrames(len(data), shard.places))
    stores.write(out, INDEX, msgspec.json.encode(index))


class _Shard:
    """A shard in the making, in memory."""

    def __init__(self, lidar_step_m: float):
        self.lidar_step_m = lidar_step_m
        self.places: list[Place] = []
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w", format=tarfile.USTAR_FORMAT)

    @property
    def size(self) -> int:
        return self._tar.offset

    def add(self, number: int, frame: Frame, source: FrameSource) -> None:
        begin = self.size
        for name, data in _members(frame, _files(source, number), self.lidar_step_m).items():
            info = tarfile.TarInfo(f"{number:08d}.{name}")
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
        with self._buffer.getbuffer() as written:
            crc32 = zlib.crc32(written[begin : self.size])
        boxes = Boxes3D.empty() if frame.boxes is None else frame.boxes
        labels = np.unique(boxes.label[boxes.measured]).tolist()
        self.places.append(Place(frame.token, frame.scene, begin, self.size - begin, crc32, labels))

    def close(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


def _files(source: Any, number: int) -> dict[str, bytes]:
    """Camera -> file, of a source that has such files."""
    return source.image_files(number) if hasattr(source, "image_files") else {}


def _members(frame: Frame, files: dict[str, bytes], lidar_step_m: float) -> dict[str, bytes]:
    """Name, behind the frame's number, -> content, the JSON first."""
    for name in frame.others:
        raise ShardError(f"frame {frame.token}: cameras, LiDAR and radar were expected, found a sensor '{name}'")
    members: dict[str, bytes] = {}
    cameras = None
    if frame.cameras is not None:
        cameras = {}
        for name, camera in frame.cameras.items():
            data = files.get(name) or _png(camera.image)
            file = f"{name}.{'jpg' if data[:2] == bytes([0xFF, 0xD8]) else 'png'}"
            if not _CAMERA_NAME.fullmatch(name):
                raise ShardError(f"frame {frame.token}: camera: letters, digits, _ and - were expected, found {name!r}")
            if image_size(data) != camera.image.shape[:2]:
                found = f"{camera.image.shape[:2]}, in its file {image_size(data)}"
                raise ShardError(f"frame {frame.token}: {name}: an image as stored was expected, found {found}")
            cameras[name] = _stored_camera(file, camera)
            members[file] = data
    lidar, radar = None, None
    if frame.lidar is not None:
        lidar, members["lidar"] = pack(frame.lidar.points, lidar_step_m)
    if frame.radar is not None:
        radar, members["radar"] = len(frame.radar.points), frame.radar.points.astype("<f4").tobytes()
    boxes = None if frame.boxes is None else _stored_boxes(frame.boxes)
    pose = _pose(frame.world_SE3_ego)
    stored = StoredFrame(frame.token, frame.scene, int(frame.timestamp_ns), pose, cameras, lidar, radar, boxes)
    return {"json": msgspec.json.encode(stored), **members}


def _stored_camera(file: str, camera: CameraImage) -> StoredCamera:
    return StoredCamera(file, int(camera.timestamp_ns), camera.intrinsics.tolist(), _pose(camera.ego_SE3_camera))


def _stored_boxes(boxes: Boxes3D) -> StoredBoxes:
    return StoredBoxes(**{name: getattr(boxes, name).tolist() for name in StoredBoxes.__struct_fields__})


def _pose(pose: SE3) -> Any:
    return pose.matrix.tolist()


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image[..., ::-1])[1].tobytes()
