"""For data sets that are annotated in the view of one camera: its image, and the points that it looks at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from perception.data.image_files import ImageError, decode_image
from perception.data.nuscenes_files import DataError, read_bytes
from perception.geometry import project
from perception.sample import CameraImage


def read_camera_image(path: Path, cover: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    """The image of a file, and by how much it was reduced, see :func:`perception.data.image_files.decode_image`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return decode_image(read_bytes(path), cover=cover)
    except ImageError as error:
        raise DataError(f"{path}: {error}") from None


def in_view(points: np.ndarray, cameras: Iterable[CameraImage]) -> np.ndarray:
    """bool [N]: whether points [N, 3] are in the columns of one of the images, above and below it as well."""
    found = np.zeros(len(points), dtype=bool)
    for camera in cameras:
        pixels, depth = project(camera.ego_SE3_camera.inverse().transform(points), camera.intrinsics)
        found |= (depth > 0) & (pixels[:, 0] >= -0.5) & (pixels[:, 0] < camera.image.shape[1] - 0.5)
    return found


def seen(points: np.ndarray, camera: CameraImage) -> np.ndarray:
    """The points [N, 3 or more] in view of the camera.

    Elsewhere objects have no boxes, and a detector that sees them there is not wrong.
    """
    return points[in_view(points[:, :3], [camera])]
