"""Frames that are read and decoded once, and kept for the epochs that follow."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import socket
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

from perception.data.sources import FrameSource
from perception.errors import PerceptionError
from perception.processes import of_all_processes
from perception.sample import CameraImage, Frame, PointCloud, SensorData, fit_image

log = logging.getLogger(__name__)


class FrameCache:
    """The frames of a dataset, each kept from when it is first read, with images reduced to what training needs.

    Decoding the same files every epoch takes as long as a small detector's forward pass. Frames are kept in files,
    which loader workers and processes of one machine share, and which the page cache holds in memory as long as there
    is enough of it. The folder is a temporary one (``TMPDIR``), for nobody else to write to, and is removed when its
    process ends by itself. All processes that train together make their caches at the same time.

    Args:
        image_size: height and width that images must cover, by sensor.
    """

    def __init__(self, frames: FrameSource, image_size: Mapping[str, tuple[int, int]]):
        self.frames, self.image_size = frames, image_size
        own = Path(tempfile.mkdtemp(prefix="perception-cache-"))
        weakref.finalize(self, _remove, own, os.getpid())
        machine = socket.gethostname()
        self.folder = next(Path(folder) for name, folder in of_all_processes((machine, str(own))) if name == machine)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def tokens(self) -> Sequence[str]:
        return self.frames.tokens

    def __getitem__(self, index: int) -> Frame | None:
        """
        Raises:
            PerceptionError: what reading it raises; or there is no room for all of them.
        """
        path = self.folder / f"{index}"
        try:
            return pickle.loads(path.read_bytes())
        except FileNotFoundError:
            frame = self.frames[index]
            kept = None if frame is None else reduced(frame, self.image_size)
            content = pickle.dumps(kept, protocol=5)
            if kept is not None and not (said := self.folder / "said").exists():
                self._expect_room(len(content) * len(self))
                said.touch()
            self._keep(path, content)
            return kept

    def _keep(self, path: Path, content: bytes) -> None:
        part = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            part.write_bytes(content)
            part.replace(path)
        except OSError as error:
            raise PerceptionError(f"data.cache: {self.folder}: cannot be written: {error.strerror}") from None

    def _expect_room(self, most: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if most > free:
            raise PerceptionError(
                f"data.cache: {self.folder}: room for {len(self)} frames, {most / 1e9:.2f} GB, was expected, found "
                f"{free / 1e9:.2f} GB; TMPDIR names another folder, data.cache=false keeps none"
            )
        log.info("data.cache: %d frames will take about %.2f GB in %s", len(self), most / 1e9, self.folder)


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not a worker process that was forked from it
        shutil.rmtree(folder, ignore_errors=True)


def reduced(frame: Frame, image_size: Mapping[str, tuple[int, int]]) -> Frame:
    """The frame with images that just cover the height and width that their sensor has in ``image_size``."""
    data: dict[str, SensorData] = {}
    for sensor, value in frame.data.items():
        if isinstance(value, PointCloud) or sensor not in image_size:
            data[sensor] = value
        else:
            data[sensor] = {name: _shrunk(camera, image_size[sensor]) for name, camera in value.items()}
    return frame.with_data(data)


def _shrunk(camera: CameraImage, cover: tuple[int, int]) -> CameraImage:
    height, width = camera.image.shape[:2]
    zoom = min(1.0, max(cover[0] / height, cover[1] / width))
    return fit_image(camera, (round(height * zoom), round(width * zoom)))
