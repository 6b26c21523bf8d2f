"""Images of cameras with distortion as a pinhole camera of the same intrinsics would have taken them."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np


def undistorted(image: np.ndarray, intrinsics: np.ndarray, distortion: np.ndarray) -> np.ndarray:
    """The image freed of distortion; black where it shows what the camera did not see.

    Args:
        image: uint8 [H, W, 3].  intrinsics: [3, 3] of its pixels.
        distortion: OpenCV's coefficients, or the four of its fisheye model
            (:class:`perception.data.nuscenes_calibrations.Calibration`).
    """
    maps = _maps(intrinsics.tobytes(), distortion.tobytes(), image.shape[:2])
    return cv2.remap(image, *maps, cv2.INTER_LINEAR)


@lru_cache(maxsize=16)  # the cameras of a vehicle
def _maps(intrinsics: bytes, distortion: bytes, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the image without distortion was in the recorded one."""
    k, d = np.frombuffer(intrinsics).reshape(3, 3), np.frombuffer(distortion)
    model = cv2.fisheye if len(d) == 4 else cv2
    return model.initUndistortRectifyMap(k, d, np.eye(3), k, size[::-1], cv2.CV_16SC2)
