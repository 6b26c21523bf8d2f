"""Recorded images to pictures that a pinhole camera would have taken: decoded, and freed of distortion."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from perception.data.image_files import ImageError, decode_image
from perception.logs.decoding import PIXEL_BYTES
from perception.logs.messages import Calibration, Image, LogError
from perception.sample import scaling

_TO_RGB: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb8": lambda raw: raw,
    "bgr8": lambda raw: raw[..., ::-1],
    "rgba8": lambda raw: raw[..., :3],
    "bgra8": lambda raw: raw[..., 2::-1],
    "mono8": lambda raw: np.repeat(raw, 3, axis=2),
}
# OpenCV names a pattern after the second row's second and third pixel; ROS, and what is meant here, after the first two
# of the first row.
_BAYER = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}
_WIDE = {"mono16": "mono8", **{f"{name[:-1]}16": name for name in _BAYER}}  # little-endian; the upper byte is kept
ENCODINGS = ("jpeg", "png", *PIXEL_BYTES)


def rectified_image(
    image: Image, calibration: Calibration, is_rectified: bool, cover: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB, and the intrinsics [3, 3] of these pixels.

    Args:
        is_rectified: the image has no distortion; its intrinsics are the calibration's P, or K where P is empty.
            Otherwise it is freed of the distortion D, R applied, and takes the same intrinsics.
        cover: see :func:`perception.data.image_files.decode_image`.

    Raises:
        LogError: an image that is damaged, of an unknown encoding or not of the calibration's size; an unknown model of
            distortion.
    """
    size = (calibration.height, calibration.width)
    pixels, n = _decoded(image, size if all(size) else None, cover)
    to_reduced = scaling(1 / n, 1 / n)
    projection = calibration.projection[:, :3]
    intrinsics = projection if projection[0, 0] > 0 else calibration.intrinsics
    if not is_rectified and not _is_pinhole(calibration, intrinsics):
        key = (calibration.model, calibration.distortion.tobytes(), calibration.rectification.tobytes())
        raw = to_reduced @ calibration.intrinsics
        maps = _maps(*key, raw.tobytes(), (to_reduced @ intrinsics).tobytes(), pixels.shape[:2])
        try:
            pixels = cv2.remap(pixels, *maps, cv2.INTER_LINEAR)
        except cv2.error as error:  # of more than 32767 pixels a side
            raise LogError(f"the image cannot be freed of distortion: {error.err}") from None
    return pixels, to_reduced @ intrinsics


def _is_pinhole(calibration: Calibration, intrinsics: np.ndarray) -> bool:
    """Whether the image as recorded is the one of these intrinsics: no distortion, no rotation R, no other P."""
    r = calibration.rectification
    rotated = r.any() and not np.array_equal(r, np.eye(3))
    return not (calibration.distortion.any() or rotated or not np.array_equal(intrinsics, calibration.intrinsics))


def _decoded(image: Image, size: tuple[int, int] | None, cover: tuple[int, int] | None) -> tuple[np.ndarray, int]:
    if image.encoding in ("jpeg", "png"):
        try:
            return decode_image(image.data, size, cover)
        except ImageError as error:
            raise LogError(str(error)) from None
    if image.encoding not in ENCODINGS:
        raise LogError(f"an encoding of {', '.join(ENCODINGS)} was expected, found {image.encoding!r}")
    found = (image.height, image.width)
    if size is not None and found != size:
        raise LogError(f"height, width {size} were expected, found {found}")
    encoding = _WIDE.get(image.encoding, image.encoding)
    channels = PIXEL_BYTES[image.encoding]
    if not image.step >= image.width * channels or len(image.data) < image.height * image.step or not all(found):
        raise LogError(
            f"{image.height} rows of {image.width} x {channels} bytes were expected, found {len(image.data)} bytes in"
            f" rows of {image.step}"
        )
    rows = np.frombuffer(image.data, np.uint8, image.height * image.step).reshape(image.height, image.step)
    raw = rows[:, : image.width * channels].reshape(image.height, image.width, channels)
    if image.encoding in _WIDE:
        raw = raw[..., 1:]
    if encoding in _BAYER:
        return cv2.cvtColor(np.ascontiguousarray(raw[..., 0]), _BAYER[encoding]), 1
    return np.ascontiguousarray(_TO_RGB[encoding](raw)), 1


@lru_cache(maxsize=16)  # the cameras of a vehicle
def _maps(
    model: str, distortion: bytes, rectification: bytes, raw: bytes, new: bytes, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the image without distortion was in the recorded one."""
    k, p = (np.frombuffer(m).reshape(3, 3) for m in (raw, new))
    d, r = np.frombuffer(distortion), np.frombuffer(rectification).reshape(3, 3)
    r = r if r.any() else np.eye(3)
    model, d = (model, d) if d.any() else ("", np.zeros(4))  # whatever the model is, there is no distortion
    if model in ("plumb_bob", "rational_polynomial", "") and len(d) in (4, 5, 8, 12, 14):
        return cv2.initUndistortRectifyMap(k, d, r, p, size[::-1], cv2.CV_16SC2)
    if model in ("equidistant", "fisheye", "kannala_brandt") and len(d) == 4:
        return cv2.fisheye.initUndistortRectifyMap(k, d, r, p, size[::-1], cv2.CV_16SC2)
    raise LogError(
        f"distortion plumb_bob, rational_polynomial or equidistant was expected, found {model!r} of {len(d)} numbers"
    )
