"""Drawing primitives of ``viz``: lines and points given in metres, and text.

Every view, a :class:`Pinhole` or a :class:`TopDown`, projects line segments in the ego frame to pixels, so boxes,
arrows, rings and dashes are built once, in metres, and drawn by the same code in every view.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from perception.geometry import SE3, project
from perception.grid import BEVGrid

NEAR_M = 0.2  # near clipping distance of a camera
BEV_SPARE_AHEAD = 0.75  # fraction of the bird's-eye view's unused height that lies ahead of the grid

BACKGROUND, PANEL, RING = (13, 16, 22), (20, 25, 33), (50, 59, 73)
TEXT, DIM, WARNING, WHITE = (226, 232, 240), (134, 146, 164), (255, 107, 107), (255, 255, 255)
HEIGHTS_M = (-1.0, 0.0, 0.4, 1.5, 3.5, 8.0)
HEIGHT_COLOURS = np.array(
    [(58, 74, 128), (66, 96, 158), (72, 140, 180), (104, 190, 184), (190, 224, 170), (250, 236, 180)]
)

Position = Sequence[float] | np.ndarray
Colour = tuple[int, int, int] | np.ndarray  # RGB, or [N, 3] for N things


@dataclass(frozen=True)
class Pinhole:
    """A real or virtual camera. intrinsics: [3, 3] pixels."""

    intrinsics: np.ndarray
    camera_SE3_ego: SE3

    @classmethod
    def looking(cls, eye: Position, target: Position, focal_px: float, size: tuple[int, int]) -> Pinhole:
        """A camera at ``eye`` with ``target`` (both ego frame, metres) at the centre of ``size`` (height, width)."""
        forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
        right = np.cross(forward, (0, 0, 1))
        right /= np.linalg.norm(right)
        ego_SE3_camera = SE3(np.stack([right, np.cross(forward, right), forward], axis=1), np.asarray(eye))
        intrinsics = np.array([[focal_px, 0, (size[1] - 1) / 2], [0, focal_px, (size[0] - 1) / 2], [0, 0, 1]])
        return cls(intrinsics, ego_SE3_camera.inverse())

    def points(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego points [N, 3] -> pixels [N, 2], depth [N], NaN for points closer than NEAR_M or behind the camera."""
        pixels, depth = project(self.camera_SE3_ego.transform(points), self.intrinsics)
        return pixels, np.where(depth >= NEAR_M, depth, np.nan)

    def segments(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego segments [N, 2, 3] -> pixels [M, 2, 2] of the segments in front of the camera, and their indices [M].

        Segments are clipped at the plane NEAR_M ahead of the camera.
        """
        ends = self.camera_SE3_ego.transform(segments)
        depth = ends[..., 2]
        visible = np.flatnonzero((depth >= NEAR_M).any(axis=1))
        ends, depth = ends[visible], depth[visible]
        cut, behind = np.nonzero(depth < NEAR_M)
        share = (NEAR_M - depth[cut, behind]) / (depth[cut, 1 - behind] - depth[cut, behind])
        ends[cut, behind] += share[:, None] * (ends[cut, 1 - behind] - ends[cut, behind])
        return project(ends.reshape(-1, 3), self.intrinsics)[0].reshape(-1, 2, 2), visible


@dataclass(frozen=True)
class TopDown:
    """The bird's-eye view: ego x points up, ego y points left. ego_px: pixel (u, v) of the ego origin."""

    ego_px: tuple[float, float]
    px_per_m: float

    def points(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego points [N, 3] -> pixels [N, 2], depth [N] (higher points have smaller depth)."""
        pixels = np.array(self.ego_px) - self.px_per_m * points[:, [1, 0]]
        return pixels, -points[:, 2]

    @classmethod
    def of(cls, grid: BEVGrid, size: tuple[int, int]) -> TopDown:
        """A view of the whole grid in a panel of ``size`` (height, width)."""
        height, width = size
        px_per_m = min(width / (grid.y_max_m - grid.y_min_m), height / (grid.x_max_m - grid.x_min_m))
        spare = height - px_per_m * (grid.x_max_m - grid.x_min_m)
        left = width / 2 + px_per_m * (grid.y_max_m + grid.y_min_m) / 2
        return cls((left, px_per_m * grid.x_max_m + BEV_SPARE_AHEAD * spare), px_per_m)

    def segments(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ego segments [N, 2, 3] -> pixels [N, 2, 2] and indices [N] (all of them)."""
        return self.points(segments.reshape(-1, 3))[0].reshape(-1, 2, 2), np.arange(len(segments))


SHIFT = 4  # OpenCV takes sub-pixel positions as integers with this many fractional bits
_LIMIT_PX = 2**20  # OpenCV's fixed-point arithmetic overflows far beyond it


View = Pinhole | TopDown


def fixed(pixels: np.ndarray) -> np.ndarray:
    return np.round(np.clip(pixels, -_LIMIT_PX, _LIMIT_PX) * 2**SHIFT).astype(np.int32)


def draw_segments(image: np.ndarray, view: View, segments: np.ndarray, colours: Colour, thickness: int = 1) -> None:
    """Draw segments [N, 2, 3] in one colour or in N colours."""
    pixels, index = view.segments(segments)
    colours = np.broadcast_to(colours, (len(segments), 3))[index].tolist()
    for (start, end), colour in zip(fixed(pixels).tolist(), colours):
        if start != end:
            cv2.line(image, start, end, colour, thickness, cv2.LINE_AA, SHIFT)


def inside(image: np.ndarray, pixels: np.ndarray, border: int = 0) -> np.ndarray:
    size = np.array([image.shape[1], image.shape[0]])
    return np.all((pixels >= 0) & (pixels < size - border), axis=1)


def splat(image: np.ndarray, view: View, points: np.ndarray) -> None:
    """Draw points [N, 3] coloured by height, nearer ones on top; rendered at twice the resolution for smoothing."""
    pixels, depth = view.points(points)
    big = np.zeros((2 * image.shape[0], 2 * image.shape[1], 3), np.uint8)
    pixels = 2 * pixels + 0.5
    shown = np.flatnonzero(np.isfinite(depth) & inside(big, pixels, border=2))
    shown = shown[np.argsort(-depth[shown], kind="stable")]
    u, v = pixels[shown].astype(int).T
    channels = [np.interp(points[shown, 2], HEIGHTS_M, HEIGHT_COLOURS[:, c]) for c in range(3)]
    colours = np.stack(channels, axis=1).astype(np.uint8)
    for du, dv in np.ndindex(3, 3):
        big[v + dv, u + du] = colours
    np.maximum(image, cv2.resize(big, image.shape[1::-1], interpolation=cv2.INTER_AREA), out=image)


def write_title(panel: np.ndarray, text: str) -> None:
    """Draw a title near the top left corner, on a darkened background so that it is readable on any image."""
    width = glyphs(text, 13, True).shape[1]
    plate = panel[8:32, 8 : width + 24]
    plate[:] = plate // 4 + np.array(BACKGROUND, np.uint8) * 3 // 4
    write(panel, text, (16, 20), 13, TEXT, bold=True)


def write(
    image: np.ndarray,
    text: str,
    where: Sequence[float] | np.ndarray,
    size_px: int,
    colour: Colour,
    bold: bool = False,
    anchor: float = 0.0,
) -> int:
    """Blend a line of text into the image; returns its width in pixels.

    Args:
        where: (u, v) of the vertical centre of the line and its left end; its centre or right end for anchor 0.5 or 1.
    """
    mask = glyphs(text, size_px, bold)
    left, top = max(0, round(where[0] - anchor * mask.shape[1])), max(0, round(where[1] - mask.shape[0] / 2))
    patch = image[top : top + mask.shape[0], left : left + mask.shape[1]]
    alpha = mask[: patch.shape[0], : patch.shape[1], None]
    patch[:] = np.round(patch * (1 - alpha) + np.array(colour) * alpha)
    return mask.shape[1]


@lru_cache(maxsize=512)
def glyphs(text: str, size_px: int, bold: bool) -> np.ndarray:
    """Coverage [h, w] in 0..1 of a line of ASCII text, rendered at eight times the size for smooth strokes.

    Cached, because consecutive pictures share most of their text.
    """
    zoom, font = 8, cv2.FONT_HERSHEY_SIMPLEX
    scale, thickness = zoom * size_px / 30, max(1, round(zoom * size_px * (0.125 if bold else 0.085)))
    (width, height), below = cv2.getTextSize(text, font, scale, thickness)
    big = np.zeros((height + 2 * below, width + 2 * thickness), np.uint8)
    cv2.putText(big, text, (thickness, height + below // 2), font, scale, (255,), thickness, cv2.LINE_AA)
    size = (big.shape[1] // zoom, big.shape[0] // zoom)
    return cv2.resize(big, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def paste(canvas: np.ndarray, panel: np.ndarray, left: int, top: int) -> None:
    canvas[top : top + panel.shape[0], left : left + panel.shape[1]] = panel
