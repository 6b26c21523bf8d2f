"""Recorded images to pictures that a pinhole camera would have taken: decoded, and freed of distortion."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from perception.data.image_files import ImageError, decode_image
from perception.logs.decoding import CODECS, PIXEL_BYTES, raw_rows
from perception.logs.messages import Calibration, Image, LogError
from perception.logs.video import picture
from perception.sample import scaling

_TO_RGB: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "rgb8": lambda raw: raw,
    "bgr8": lambda raw: raw[..., ::-1],
    "rgba8": lambda raw: raw[..., :3],
    "bgra8": lambda raw: raw[..., 2::-1],
    "mono8": lambda raw: np.repeat(raw, 3, axis=2),
}
# OpenCV names a pattern after the second row's second and third pixel; ROS, and what is meant here, after the first two
# of the first row. YUV is that of BT.601 in video range, as cv_bridge takes it.
_BY_OPENCV = {
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
    "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "i420": cv2.COLOR_YUV2RGB_I420,
}
_TWELVE_BITS = 1 << 12
ENCODINGS = ("jpeg", "png", *CODECS, *PIXEL_BYTES)


def rectified_image(
    image: Image, calibration: Calibration, is_rectified: bool, cover: tuple[int, int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] RGB, and the intrinsics [3, 3] of these pixels.

    Args:
        is_rectified: the image has no distortion; its intrinsics are the calibration's P, or K where P is empty.
            Otherwise it is freed of the distortion D, R applied, and takes the same intrinsics.
        cover: see :func:`perception.data.image_files.decode_image`.

    Raises:
        NoPicture: a video that cannot be decoded here, or only from its next key frame on.
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
            pixels, n = decode_image(image.data, size, None if image.mosaic else cover)
        except ImageError as error:
            raise LogError(str(error)) from None
        return _without_mosaic(pixels, image.mosaic), n
    if image.encoding not in ENCODINGS:
        raise LogError(f"an encoding of {', '.join(ENCODINGS)} was expected, found {image.encoding!r}")
    if image.encoding in CODECS:
        pixels = picture(image)
        _check_size((pixels.shape[0], pixels.shape[1]), size)
        return pixels, 1
    _check_size((image.height, image.width), size)
    return _raw(image), 1


def _check_size(found: tuple[int, int], size: tuple[int, int] | None) -> None:
    if size is not None and found != size:
        raise LogError(f"height, width {size} were expected, found {found}")


def _without_mosaic(pixels: np.ndarray, mosaic: str) -> np.ndarray:
    """A picture that is not grey is no Bayer pattern, whatever its message says."""
    grey = pixels[..., 1]
    if not mosaic or not all(np.array_equal(grey, pixels[..., i]) for i in (0, 2)):
        return pixels
    return cv2.cvtColor(np.ascontiguousarray(grey), _BY_OPENCV[f"{mosaic}8"])


def _raw(image: Image) -> np.ndarray:
    """uint8 [H, W, 3]; see :func:`perception.logs.decoding.raw_image` for what holds of them."""
    encoding, height, width = image.encoding, image.height, image.width
    count, row = raw_rows(encoding, height), width * PIXEL_BYTES[encoding]
    if not image.step >= row or len(image.data) < count * image.step or not (height and width):
        raise LogError(
            f"{count} rows of {row} bytes were expected, found {len(image.data)} bytes in rows of {image.step}"
        )
    rows = np.frombuffer(image.data, np.uint8, count * image.step).reshape(count, image.step)
    if encoding == "i420" and image.step != width:  # two rows of colour stand in one
        colours = rows[height:].reshape(height, image.step // 2)[:, : width // 2]
        rows = np.vstack([rows[:height, :width], colours.reshape(height // 2, width)])
    raw = rows[:, :row]
    if encoding.endswith("16"):
        raw, encoding = _upper_bytes(raw), f"{encoding[:-2]}8"
    if encoding in _BY_OPENCV:
        shape = (count, width, 2) if encoding.startswith("yuv422") else (count, width)
        return cv2.cvtColor(np.ascontiguousarray(raw).reshape(shape), _BY_OPENCV[encoding])
    return np.ascontiguousarray(_TO_RGB[encoding](raw.reshape(height, width, -1)))


def _upper_bytes(raw: np.ndarray) -> np.ndarray:
    """Of rows of little-endian 16-bit numbers. Many cameras measure 12 bits, and write them as they are."""
    upper = raw[:, 1::2]
    if upper.max(initial=0) < _TWELVE_BITS >> 8:
        return (upper << 4) | (raw[:, ::2] >> 4)
    return upper


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
