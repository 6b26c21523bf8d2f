"""The vehicle's own velocity from one radar frame, where no pose tells it.

What stands closes in on the radar at ``v . direction``, with the radar's velocity v over ground: most returns of a
street agree on one v (Kellner et al., "Instantaneous ego-motion estimation using Doppler radar", 2013). Many radars
measure speed only up to a multiple of a period; the wide field of view still tells the multiple of v, since closing
speeds of one v spread over directions.
"""

from __future__ import annotations

import numpy as np

# The velocities (forward, left) of a vehicle that are tried, before the best is refined.
_TRIED_MPS = np.stack(np.meshgrid(np.arange(-3, 30, 0.3), np.arange(-1.5, 1.6, 0.3), indexing="ij"), -1).reshape(-1, 2)
_VOTERS = 400  # returns that choose among them, evenly from all
_AGREES_MPS, _REFINED_MPS = 0.25, 0.4


def wrap_speed(speed: np.ndarray, period_mps: float) -> np.ndarray:
    """Speeds in -period/2 to period/2, a multiple of the period away."""
    return (speed + period_mps / 2) % period_mps - period_mps / 2


def ego_velocity(direction: np.ndarray, closing_mps: np.ndarray, period_mps: float) -> np.ndarray:
    """float64 [2] (vx, vy) over ground with which most returns are stationary; zero if there are fewer than two.

    Deterministic: all plausible velocities of a vehicle on a street, -3 to 30 m/s forward and up to 1.5 m/s sideways,
    are tried, and least squares over the returns that agree refine the best.

    Args:
        direction: [N, 3] unit vectors from the radar to the returns, x forward, y left, z up.
        closing_mps: [N] measured speeds towards the radar, each off by any multiple of ``period_mps``.
    """
    if len(direction) < 2:
        return np.zeros(2)
    level = direction[:, :2]
    some = slice(None, None, -(-len(level) // _VOTERS))
    left_over = wrap_speed(closing_mps[some] - _TRIED_MPS @ level[some].T, period_mps)
    velocity = _TRIED_MPS[(np.abs(left_over) < _AGREES_MPS).sum(axis=1).argmax()]
    for _ in range(3):
        left_over = wrap_speed(closing_mps - level @ velocity, period_mps)
        agree = np.abs(left_over) < _REFINED_MPS
        velocity = velocity + np.linalg.lstsq(level[agree], left_over[agree], rcond=None)[0]
    return velocity
