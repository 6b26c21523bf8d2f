"""The overlap of boxes for ``perception.eval.overlap``, compiled on first use."""

from __future__ import annotations

import numpy as np

from perception.ops.compiled import compiled


@compiled
def shared_area(a, b):
    """The area two rectangles (x, y, length, width, yaw) have in common.

    The corners of ``a`` in the axes of ``b`` are clipped by one side of ``b`` after the other (Sutherland and Hodgman,
    1974); each side adds one corner at most.
    """
    polygon, clipped = np.empty((8, 2)), np.empty((8, 2))
    cos, sin = np.cos(a[4] - b[4]), np.sin(a[4] - b[4])
    dx, dy = a[0] - b[0], a[1] - b[1]
    x, y = np.cos(b[4]) * dx + np.sin(b[4]) * dy, np.cos(b[4]) * dy - np.sin(b[4]) * dx
    for i in range(4):
        along, across = a[2] / 2 * (1 if i in (0, 3) else -1), a[3] / 2 * (1 if i < 2 else -1)
        polygon[i, 0], polygon[i, 1] = x + cos * along - sin * across, y + sin * along + cos * across
    corners = 4
    for side in range(4):
        axis, sign, limit = side % 2, 1 - side // 2 * 2, b[2 + side % 2] / 2
        kept = 0
        for i in range(corners):
            p, q = polygon[i], polygon[(i + 1) % corners]
            p_within, q_within = limit - sign * p[axis], limit - sign * q[axis]
            if p_within >= 0:
                clipped[kept] = p
                kept += 1
            if p_within * q_within < 0:
                clipped[kept] = p + p_within / (p_within - q_within) * (q - p)
                kept += 1
        polygon, clipped, corners = clipped, polygon, kept
    area = 0.0
    for i in range(corners):
        p, q = polygon[i], polygon[(i + 1) % corners]
        area += p[0] * q[1] - q[0] * p[1]
    return area / 2


@compiled
def overlaps_3d(a, b):
    """float64 [A, B]: intersection over union of upright boxes [A, 7], [B, 7] (x, y, z, length, width, height, yaw)."""
    found = np.zeros((len(a), len(b)))
    footprint = np.array([0, 1, 3, 4, 6])
    for i in range(len(a)):
        for j in range(len(b)):
            height = min(a[i, 2] + a[i, 5] / 2, b[j, 2] + b[j, 5] / 2) - max(
                a[i, 2] - a[i, 5] / 2, b[j, 2] - b[j, 5] / 2
            )
            reach = np.hypot(a[i, 3], a[i, 4]) / 2 + np.hypot(b[j, 3], b[j, 4]) / 2
            if height <= 0 or np.hypot(a[i, 0] - b[j, 0], a[i, 1] - b[j, 1]) >= reach:
                continue
            shared = height * shared_area(a[i][footprint], b[j][footprint])
            found[i, j] = shared / (a[i, 3] * a[i, 4] * a[i, 5] + b[j, 3] * b[j, 4] * b[j, 5] - shared)
    return found
