"""Frames in shards: plain tar files of some hundred megabytes in WebDataset's layout, in a folder or at a URL.

    dataset = Shards("s3://bucket/nuscenes", task=task)
    frame = dataset[0]

``shards.json`` says which frames there are and where they lie; ``shard-000000.tar``, ``shard-000001.tar``, ... hold the
frames in the order of their source. A frame is a group of neighbouring members, so it is read in one piece:

    00000017.json             times, poses, calibrations, boxes, and how its clouds are packed
    00000017.CAM_FRONT.jpg    every image, as the source had it: the file itself where there is one, else a PNG
    00000017.lidar            points of all sweeps (``packed_lidar.py``)
    00000017.radar            float32 [N, 7], the columns of a RadarCloud

Numbers in the JSON are exact. Frames read from shards are those of the source but for LiDAR points, which move by half
a step of ``lidar_step_m`` at most; see ``packed_lidar.py`` for why detectors do not mind.

Nothing in a shard is used as a path. What is read must be what the index says, by its length and its CRC-32: a shard
that was cut, or that belongs to another index, is a DataError that names shard and frame.
"""

from __future__ import annotations

import logging
import operator
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np

from perception.data import stores
from perception.data.image_files import decode_image
from perception.data.nuscenes_files import DataError
from perception.data.nuscenes_scenes import choose_scenes, part_of_scene, require_known
from perception.data.packed_lidar import Count, PackedFacts, unpack
from perception.errors import PerceptionError
from perception.geometry import SE3
from perception.sample import Boxes3D, CameraImage, Frame, LidarCloud, RadarCloud, scaling
from perception.task import MAX_CLASSES, Task

INDEX = "shards.json"
Format = Literal["perception-shards-1"]
FORMAT: Format = "perception-shards-1"
BLOCK = tarfile.BLOCKSIZE
_RADAR_FIELDS = len(RadarCloud.fields)

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
_Size = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
_FrameSize = Annotated[int, msgspec.Meta(gt=0, le=1 << 30)]
_Label = Annotated[int, msgspec.Meta(ge=0, lt=MAX_CLASSES)]
_Two = tuple[float | None, float | None]  # None: unknown
_Three = tuple[float, float, float]
_Four = tuple[float, float, float, float]
_Pose = tuple[_Four, _Four, _Four, _Four]


class Contents(msgspec.Struct):
    """What a set of shards holds.

    classes: name -> names of the data set's classes that it stands for.  splits: the version's own, names of scenes.
    lidar_sweeps, radar_sweeps, radar_filter: as in ``config.data``.  lidar_step_m: 0 for float32.
    """

    version: str | None
    simulated: bool
    classes: dict[str, list[str]]
    attributes: list[str]
    lidar_sweeps: int
    radar_sweeps: int
    radar_filter: bool
    lidar_step_m: float
    splits: dict[str, list[str]]


class Place(msgspec.Struct, gc=False):
    """A frame, and the bytes of its shard that it is in. labels: classes of its boxes that LiDAR or radar have seen."""

    token: str
    scene: str
    offset: _Size
    length: _FrameSize
    crc32: int
    labels: list[_Label]


class ShardFrames(msgspec.Struct):
    """size: of the whole file in bytes."""

    size: _Size
    frames: list[Place]


class Index(msgspec.Struct):
    """complete: whether all frames of the source are in the shards, or it is still being written."""

    format: Format
    contents: Contents
    shards: list[ShardFrames]
    complete: bool


class StoredCamera(msgspec.Struct):
    """file: the part of its member's name after the frame's number."""

    file: str
    timestamp_ns: int
    intrinsics: tuple[_Three, _Three, _Three]
    ego_SE3_camera: _Pose


class StoredBoxes(msgspec.Struct):
    """The columns of :class:`perception.sample.Boxes3D`."""

    center: list[_Three]
    size: list[_Three]
    yaw: list[float]
    velocity: list[_Two]
    label: list[int]
    attribute: list[int]
    visibility: list[int]
    num_lidar_points: list[int]
    num_radar_points: list[int]


class StoredFrame(msgspec.Struct):
    """A frame's JSON. radar: how many points."""

    token: str
    scene: str
    timestamp_ns: int
    world_SE3_ego: _Pose
    cameras: dict[str, StoredCamera] | None
    lidar: PackedFacts | None
    radar: Count | None
    boxes: StoredBoxes | None


def shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def is_shards(root: str | Path) -> bool:
    """Whether frames there are in shards: at a URL they always are, in a folder by its index."""
    return stores.is_url(root) or (Path(root).expanduser() / INDEX).is_file()


def read_index(root: str) -> Index:
    """Raises DataError where it is missing or malformed."""
    try:
        index = msgspec.json.decode(stores.read(root, INDEX), type=Index)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise DataError(f"{root}/{INDEX}: an index of shards was expected: {error}") from None
    tokens = [place.token for shard in index.shards for place in shard.frames]
    if len(set(tokens)) < len(tokens):
        raise DataError(f"{root}/{INDEX}: different tokens were expected, found one of two frames")
    return index


def classes_of(task: Task) -> dict[str, list[str]]:
    """As :class:`Contents` names them."""
    return {facts.name: sorted(facts.sources or [facts.name]) for facts in task.objects}


class Shards:
    """The frames of an index, in its order: a :class:`perception.data.sources.FrameSource`.

    Args:
        root: folder, or URL, that holds ``shards.json`` and the shards; ``~`` is the user's home.
        task: what the labels are expected to mean.
        split, scenes, part, image_size, on_error: as :class:`perception.NuScenes` takes them.

    Attributes:
        contents: what the shards hold.  version, simulated: of it.
        tokens: the token of every frame.  scenes: names, in the order of the frames.
        shard: int64 [len(self)], the number of the shard that each frame is in.
        labels: of every frame, the classes of its boxes that LiDAR or radar have seen.
        skipped: token -> reason, of the frames this process has dropped so far.

    Raises:
        PerceptionError: an argument that names nothing, or a task whose labels mean something else.
        DataError: an index that is missing, malformed or not complete.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        task: Task,
        split: str | None = None,
        scenes: Sequence[str] | None = None,
        part: Sequence[float] = (0.0, 1.0),
        image_size: tuple[int, int] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
    ):
        require_known("on_error", on_error, ("raise", "skip"))
        self.root = str(root) if stores.is_url(root) else str(Path(root).expanduser())
        self.task, self.on_error, self._image_size = task, on_error, image_size
        index = read_index(self.root)
        self.contents = index.contents
        if not index.complete:
            number = sum(len(shard.frames) for shard in index.shards)
            raise DataError(
                f"{self.root}/{INDEX}: all frames were expected, found {number}; run perception shard again"
            )
        if (classes_of(task), task.attributes) != (self.contents.classes, self.contents.attributes):
            expected, found = ", ".join(task.classes), ", ".join(self.contents.classes)
            raise PerceptionError(
                f"{self.root}: the classes {expected}, of the same sources and attributes, were expected, found {found}"
            )
        places = [place for shard in index.shards for place in shard.frames]
        numbers = np.repeat(np.arange(len(index.shards)), [len(shard.frames) for shard in index.shards])
        of_scene: dict[str, list[int]] = {}
        for number, place in enumerate(places):
            of_scene.setdefault(place.scene, []).append(number)
        self.scenes = choose_scenes(self.root, list(of_scene), split, scenes, self.contents.splits)
        chosen = [part_of_scene(np.array(of_scene[name]), part) for name in self.scenes]
        frames = np.concatenate([np.zeros(0, np.int64), *chosen])
        self._places = [places[number] for number in frames.tolist()]
        self.shard = numbers[frames]
        self.skipped: dict[str, str] = {}

    @property
    def tokens(self) -> list[str]:
        return [place.token for place in self._places]

    @property
    def labels(self) -> list[list[int]]:
        return [place.labels for place in self._places]

    @property
    def version(self) -> str | None:
        return self.contents.version

    @property
    def simulated(self) -> bool:
        return self.contents.simulated

    @property
    def splits(self) -> dict[str, list[str]]:
        return self.contents.splits

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Frame | None:
        """The frame, or None if it is damaged and ``on_error`` is "skip".

        Raises:
            IndexError: no such frame.
            DataError: a damaged shard, and ``on_error`` is "raise".
        """
        index = range(len(self))[operator.index(index)]
        try:
            return self._read(index)
        except DataError as error:
            if self.on_error == "raise":
                raise
            token = self._places[index].token
            if token not in self.skipped:
                logger.warning("frame skipped: %s", error)
            self.skipped[token] = str(error)
            return None

    def frames(self) -> Iterator[Frame]:
        """All frames in order; damaged ones are passed over if ``on_error`` is "skip"."""
        for index in range(len(self)):
            frame = self[index]
            if frame is not None:
                yield frame

    def image_files(self, index: int) -> dict[str, bytes]:
        """Camera -> the file, JPEG or PNG, that the image of ``self[index]`` is in."""
        return self._made(index, _image_files)

    def _read(self, index: int) -> Frame:
        return self._made(index, partial(_frame, image_size=self._image_size))

    def _made(self, index: int, make: Callable[[StoredFrame, dict[str, memoryview]], Made]) -> Made:
        """What ``make`` makes of a frame's JSON and members, which may be anybody's."""
        stored, members = self._stored(index)
        try:
            return make(stored, members)
        except KeyError as error:
            raise DataError(f"{self._where(index)}: a member {error} was expected, found none") from None
        except (PerceptionError, ValueError) as error:
            raise DataError(f"{self._where(index)}: {error}") from None

    def _stored(self, index: int) -> tuple[StoredFrame, dict[str, memoryview]]:
        """What the frame's JSON says, and its members."""
        place = self._places[index]
        block = stores.read(self.root, shard_name(int(self.shard[index])), place.offset, place.length)
        if len(block) != place.length:
            what = f"{place.length} bytes from {place.offset} on were expected, found {len(block)}: truncated?"
            raise DataError(f"{self._where(index)}: {what}")
        if zlib.crc32(block) != place.crc32:
            what = f"other bytes were expected by the CRC-32 in {INDEX}: damaged, or of another index?"
            raise DataError(f"{self._where(index)}: {what}")
        try:
            members = _members(memoryview(block))
            return msgspec.json.decode(members["json"], type=StoredFrame), members
        except (tarfile.TarError, LookupError, ValueError, RecursionError) as error:  # MsgspecError is a ValueError
            raise DataError(f"{self._where(index)}: a frame's members were expected: {error}") from None

    def _where(self, index: int) -> str:
        return f"{self.root}/{shard_name(int(self.shard[index]))}: frame {self._places[index].token}"


def _members(block: memoryview) -> dict[str, memoryview]:
    """The content of the members of a piece of a tar file, by what follows the first dot of their names."""
    members, at = {}, 0
    while at < len(block):
        info = tarfile.TarInfo.frombuf(bytes(block[at : at + BLOCK]), "utf-8", "surrogateescape")
        begin, end = at + BLOCK, at + BLOCK + info.size
        if not info.isreg() or not begin <= end <= len(block):
            raise ValueError(f"a file of {info.size} bytes does not fit")
        members[info.name.partition(".")[2]] = block[begin:end]
        at = begin + -(-info.size // BLOCK) * BLOCK
    return members


def _image_files(stored: StoredFrame, members: dict[str, memoryview]) -> dict[str, bytes]:
    return {name: bytes(members[camera.file]) for name, camera in (stored.cameras or {}).items()}


def _frame(stored: StoredFrame, members: dict[str, memoryview], image_size: tuple[int, int] | None) -> Frame:
    cameras = stored.cameras
    if cameras is not None:
        decoded = {name: _camera(camera, members[camera.file], image_size) for name, camera in cameras.items()}
    return Frame(
        token=stored.token,
        timestamp_ns=stored.timestamp_ns,
        world_SE3_ego=SE3.from_matrix(stored.world_SE3_ego),
        cameras=None if cameras is None else decoded,
        lidar=None if stored.lidar is None else LidarCloud(unpack(stored.lidar, members["lidar"])),
        radar=None if stored.radar is None else RadarCloud(_radar(stored.radar, members["radar"])),
        boxes=None if stored.boxes is None else _boxes(stored.boxes),
        scene=stored.scene,
    )


def _camera(stored: StoredCamera, file: memoryview, image_size: tuple[int, int] | None) -> CameraImage:
    image, n = decode_image(file, cover=image_size)
    intrinsics = scaling(1 / n, 1 / n) @ np.array(stored.intrinsics)
    return CameraImage(image, intrinsics, SE3.from_matrix(stored.ego_SE3_camera), stored.timestamp_ns)


def _radar(number: int, data: memoryview) -> np.ndarray:
    if len(data) != 4 * _RADAR_FIELDS * number:
        raise ValueError(f"{4 * _RADAR_FIELDS * number} bytes of radar points were expected, found {len(data)}")
    return np.frombuffer(data, "<f4").reshape(-1, _RADAR_FIELDS).astype(np.float32)  # not of the whole frame's memory


def _boxes(stored: StoredBoxes) -> Boxes3D:
    columns = msgspec.structs.asdict(stored)
    shapes = {"center": (-1, 3), "size": (-1, 3), "velocity": (-1, 2)}
    wide = {name: np.array(columns[name], np.float64).reshape(shape) for name, shape in shapes.items()}  # None is NaN
    return Boxes3D(**columns | wide)
