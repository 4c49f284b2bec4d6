"""Grids over a latent space of one or two dimensions, and all images against all grid points."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.nn.functional import softplus

from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood


def midpoints(lower: Sequence[float], upper: Sequence[float], cells: int | Sequence[int]) -> Tensor:
    """Midpoints of a box cut into ``cells`` per axis, shape ``(cells ** d, d)``, last axis fastest.

    The midpoint rule over a whole bump is as good as the trapezoid rule: for an analytic
    integrand that has died out at the border its error falls faster than any power of the
    spacing (for a Gaussian of deviation s it is about ``2 exp(-2 (pi s / spacing)^2)``).
    """
    counts = [cells] * len(lower) if isinstance(cells, int) else list(cells)
    axes = [
        low + (high - low) / n * (torch.arange(n, dtype=torch.float64) + 0.5)
        for low, high, n in zip(lower, upper, counts, strict=True)
    ]
    return torch.cartesian_prod(*axes).reshape(-1, len(axes))


def gauss_hermite(nodes: int, dim: int) -> tuple[Tensor, Tensor]:
    """Nodes ``(nodes ** dim, dim)`` and weights (sum 1) for expectations under N(0, I)."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    axis = torch.from_numpy(points)
    weight = torch.from_numpy(weights / weights.sum())
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    return grid, torch.cartesian_prod(*[weight] * dim).reshape(-1, dim).prod(-1)


def pairwise_log_likelihood(likelihood: Distribution, x: Tensor) -> Tensor:
    """``log p(x_i | z_g)`` of every image under every decoded point, shape ``(images, points)``.

    For both likelihoods of this package it is one matrix product.
    """
    if tuple(x.shape[1:]) != tuple(likelihood.event_shape):
        raise ValueError(
            f"images have shape {tuple(x.shape)}, the decoder makes images of shape "
            f"{tuple(likelihood.event_shape)}; build the model with image_shape= of your data"
        )
    if isinstance(likelihood, BernoulliLikelihood):
        logits = likelihood.logits.flatten(1)
        # x log y + (1 - x) log(1 - y) = x logit - softplus(logit)
        return x.flatten(1) @ logits.T - softplus(logits).sum(1)
    if isinstance(likelihood, GaussianLikelihood) and _is_constant(likelihood.stddev):
        std = likelihood.stddev.flatten()[0].double()
        # The squares nearly cancel when x is close to the mean, so this one is in float64.
        a, b = x.flatten(1).double() / std, likelihood.mean.flatten(1).double() / std
        distance = a.square().sum(1, keepdim=True) + b.square().sum(1) - 2 * a @ b.T
        constant = a.shape[1] * (std.log() + 0.5 * math.log(2 * math.pi))
        return (-0.5 * distance - constant).to(x.dtype)
    return likelihood.log_prob(x.unsqueeze(1))


def _is_constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all())


def log_sum_exp(values: Tensor) -> Tensor:
    """Over the last axis, added up in float64 whatever the precision of ``values``."""
    top = values.amax(-1)
    total = (values - top.unsqueeze(-1)).exp().sum(-1, dtype=torch.float64)
    return top.double() + total.log()
