"""Velocity from physics: a radial velocity is a measurement of the velocity of what reflected it.

Each point inside of a box with unit direction n and radial speed s says n . v = s. With the network's own estimate as a
prior, the velocity is the weighted least squares solution

    argmin_v  sum_i w_i (n_i . v - s_i)^2  +  sum_a p_a (v_a - v0_a)^2,

two equations in two unknowns, solved in closed form and differentiable in everything. Weights and priors are learned.
"""

from __future__ import annotations

import torch


def solve_velocity(
    direction: torch.Tensor,  # [..., T, 2] unit vectors
    speed: torch.Tensor,  # [..., T] along them, m/s
    weight: torch.Tensor,  # [..., T], 0 for no measurement
    prior: torch.Tensor,  # [..., 2] m/s
    prior_weight: torch.Tensor,  # [..., 2], more than 0
) -> torch.Tensor:
    """The velocity [..., 2] in the axes of the inputs; the prior where nothing is measured."""
    x, y = direction.unbind(-1)
    a = (weight * x * x).sum(-1) + prior_weight[..., 0]
    b = (weight * x * y).sum(-1)
    c = (weight * y * y).sum(-1) + prior_weight[..., 1]
    p = (weight * x * speed).sum(-1) + prior_weight[..., 0] * prior[..., 0]
    q = (weight * y * speed).sum(-1) + prior_weight[..., 1] * prior[..., 1]
    determinant = a * c - b * b  # positive, since both priors have weight
    return torch.stack([c * p - b * q, a * q - b * p], dim=-1) / determinant[..., None]
