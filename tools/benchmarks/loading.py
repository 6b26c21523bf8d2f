"""Loading one nuScenes sample: LiDAR sweeps, radar sweeps, images, all of it; beside nuscenes-devkit and Pillow.

Every function takes the root of a nuScenes version with sweeps (see :func:`fill_sweeps`), checks that both sides read
the same, and returns a row of results. Files come from the page cache, and each side has one thread, as in a loader
worker.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.timing import compare
from perception.batch import Batch, InputSpec, collate
from perception.data.nuscenes import NuScenes
from perception.errors import PerceptionError, missing_extra
from perception.geometry import SE3
from perception.sample import Frame

IMAGE_SIZE = (256, 704)  # BEVFusion's
LIDAR_SWEEPS, RADAR_SWEEPS = 10, 6


def fill_sweeps(scene_root: Path, out: Path) -> Path:
    """A copy of keyframes in ``out`` in which every LiDAR and radar sweep of the tables has a file; returns ``out``.

    Sweeps take the contents of the keyframes of their channel in turn, so that no two of a cloud are alike.
    """
    shutil.copytree(scene_root, out, copy_function=shutil.copyfile)
    table = next(out.glob("*/sample_data.json"))
    for i, row in enumerate(json.loads(table.read_bytes())):
        path = out / row["filename"]
        channel = path.parent.name
        if not path.exists() and not channel.startswith("CAM"):
            keyframes = sorted((out / "samples" / channel).iterdir())
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(keyframes[i % len(keyframes)], path)
    return out


def lidar_sweeps(root: Path) -> list[dict]:
    """Ten sweeps as one array in the ego frame, against the devkit; and against the devkit's part of that alone."""
    ours, devkit = _Ours(root, sensors=("lidar",)), _Devkit(root)
    _require_same("LiDAR points", ours.frame().lidar.points, devkit.lidar_in_ego_frame())
    peers = {"devkit, to the ego frame": devkit.lidar_in_ego_frame, "devkit, its call alone": devkit.lidar}
    return _compared("lidar_sweeps", ours.frame, peers)


def radar_sweeps(root: Path) -> list[dict]:
    """Six sweeps of every radar, against the devkit, which leaves them in the LiDAR's frame."""
    ours, devkit = _Ours(root, sensors=("radar",)), _Devkit(root)
    _require_same("radar points", ours.frame().radar.points[:, [0, 1, 2, 3, 6]], devkit.radar_in_ego_frame())
    return _compared("radar_sweeps", ours.frame, {"devkit": devkit.radars})


def images(root: Path) -> list[dict]:
    """Every camera's JPEG to one uint8 tensor [N, 3, *IMAGE_SIZE], against Pillow."""
    ours, pillow = _Ours(root, sensors=("camera",)), _Devkit(root)
    _require_alike(ours.batch(), pillow.images())
    return _compared("images", ours.batch, {"PIL": pillow.images})


def sample(root: Path) -> list[dict]:
    """Clouds, images and boxes of one sample as tensors, against the devkit with Pillow."""
    ours, devkit = _Ours(root), _Devkit(root)
    batch = ours.batch()
    _require_same("LiDAR points", batch.inputs["lidar"].points.numpy(), devkit.lidar_in_ego_frame())
    _require_same("radar points", batch.inputs["radar"].points.numpy()[:, [0, 1, 2, 3, 6]], devkit.radar_in_ego_frame())
    _require_same("box centres", batch.boxes[0].center, devkit.boxes_in_ego_frame())
    _require_alike(batch, devkit.images())
    return _compared("sample", ours.batch, {"devkit + PIL": devkit.sample})


class _Ours:
    def __init__(self, root: Path, sensors: tuple[str, ...] = ("camera", "radar", "lidar")):
        sweeps = {"lidar_sweeps": LIDAR_SWEEPS, "radar_sweeps": RADAR_SWEEPS}
        self.dataset = NuScenes(root, sensors=sensors, image_size=IMAGE_SIZE, **sweeps)
        self.inputs = InputSpec(sensors, image_size={"camera": IMAGE_SIZE})
        self.index = len(self.dataset) // 2  # has all sweeps before it

    def frame(self) -> Frame:
        return self.dataset[self.index]

    def batch(self) -> Batch:
        return collate([self.frame()], self.inputs)


class _Devkit:
    """What a data set written around the devkit does for one sample, the one in the middle."""

    def __init__(self, root: Path):
        try:
            from nuscenes import NuScenes as Tables
        except ImportError:
            raise PerceptionError(missing_extra("nuscenes", "the devkit is an extra")) from None

        self.tables = Tables(next(root.glob("*/sample_data.json")).parent.name, str(root), verbose=False)
        samples = sorted(self.tables.sample, key=lambda sample: sample["timestamp"])
        self.sample_row = samples[len(samples) // 2]
        channels = sorted(self.sample_row["data"])
        self.cameras = [channel for channel in channels if channel.startswith("CAM")]
        self.radar_channels = [channel for channel in channels if channel.startswith("RADAR")]
        lidar = self.tables.get("sample_data", self.sample_row["data"]["LIDAR_TOP"])
        mount = self.tables.get("calibrated_sensor", lidar["calibrated_sensor_token"])
        self.ego_SE3_lidar = SE3.from_quaternion(mount["rotation"], mount["translation"])

    def lidar(self) -> tuple:
        from nuscenes.utils.data_classes import LidarPointCloud

        return LidarPointCloud.from_file_multisweep(
            self.tables, self.sample_row, "LIDAR_TOP", "LIDAR_TOP", LIDAR_SWEEPS
        )

    def radars(self) -> list[tuple]:
        from nuscenes.utils.data_classes import RadarPointCloud

        return [
            RadarPointCloud.from_file_multisweep(self.tables, self.sample_row, channel, "LIDAR_TOP", RADAR_SWEEPS)
            for channel in self.radar_channels
        ]

    def boxes(self) -> list:
        return self.tables.get_sample_data(self.sample_row["data"]["LIDAR_TOP"])[1]

    def images(self) -> torch.Tensor:
        """uint8 [N, 3, *IMAGE_SIZE], as Lift-Splat-Shoot makes them: scaled to cover, the sky cut off."""
        from PIL import Image

        images = []
        for channel in self.cameras:
            image = Image.open(self.tables.get_sample_data_path(self.sample_row["data"][channel])).convert("RGB")
            scale = max(IMAGE_SIZE[0] / image.height, IMAGE_SIZE[1] / image.width)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
            left, top = (image.width - IMAGE_SIZE[1]) // 2, image.height - IMAGE_SIZE[0]
            image = image.crop((left, top, left + IMAGE_SIZE[1], top + IMAGE_SIZE[0]))
            images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
        return torch.stack(images)

    def sample(self) -> tuple:
        """Everything, with clouds as tensors."""
        lidar, lidar_age = self.lidar()
        radars = self.radars()
        return (
            torch.from_numpy(np.concatenate([lidar.points, lidar_age]).T),
            torch.from_numpy(np.concatenate([np.concatenate([cloud.points, age]).T for cloud, age in radars])),
            self.boxes(),
            self.images(),
        )

    def lidar_in_ego_frame(self) -> np.ndarray:
        """float32 [N, 5], columns of LidarCloud.fields."""
        cloud, age = self.lidar()
        cloud.transform(self.ego_SE3_lidar.matrix)
        return np.concatenate([cloud.points, age]).T.astype(np.float32, order="C")

    def radar_in_ego_frame(self) -> np.ndarray:
        """[N, 5]: x, y, z, rcs, age. The devkit leaves the velocities in the axes of each radar."""
        points = [np.column_stack([cloud.points[:3].T, cloud.points[5], age[0]]) for cloud, age in self.radars()]
        x_y_z_rcs_age = np.concatenate(points)
        return np.column_stack([self.ego_SE3_lidar.transform(x_y_z_rcs_age[:, :3]), x_y_z_rcs_age[:, 3:]])

    def boxes_in_ego_frame(self) -> np.ndarray:
        """Centres [N, 3] of the boxes of detection classes."""
        from nuscenes.eval.detection.utils import category_to_detection_name

        centers = [box.center for box in self.boxes() if category_to_detection_name(box.name)]
        return self.ego_SE3_lidar.transform(np.array(centers).reshape(-1, 3))


def _require_same(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Raises unless all numbers agree to 1e-5, or as well as float32 can: radars see further than 200 m."""
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-7, atol=1e-5):
        raise PerceptionError(f"{what}: those of the devkit, {theirs.shape}, were expected, found {ours.shape}")


def _require_alike(batch: Batch, theirs: torch.Tensor) -> None:
    """Raises unless images differ by a grey level at most, on average."""
    difference = (batch.inputs["camera"].images[0].float() - theirs.float()).abs().mean().item()
    if difference > 1:
        raise PerceptionError(f"images: those of Pillow were expected, found a mean difference of {difference:.2f}")


def _compared(name: str, ours: Callable, peers: dict[str, Callable]) -> list[dict]:
    with one_thread():
        return compare(name, ours, peers, warm_ups=2)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
