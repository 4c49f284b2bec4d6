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


class PairwiseLogLikelihood:
    """``log p(x_i | z_g)`` of every image under every decoded point.

    For both likelihoods of this package it is one matrix product; what depends on the points
    alone is computed once, so that different images may look at different points.
    """

    def __init__(self, likelihood: Distribution) -> None:
        self.likelihood = likelihood
        self.kind = "any"
        if isinstance(likelihood, BernoulliLikelihood):
            self.kind = "bernoulli"
            self.points = likelihood.logits.flatten(1)  # (points, pixels)
            self.constant = softplus(self.points).sum(1)
        elif isinstance(likelihood, GaussianLikelihood) and _is_constant(likelihood.stddev):
            self.kind = "gaussian"
            # The squares nearly cancel when x is close to the mean, so this one is in float64.
            self.std = likelihood.stddev.flatten()[0].double()
            self.points = likelihood.mean.flatten(1).double() / self.std
            log_scale = self.std.log() + 0.5 * math.log(2 * math.pi)
            self.constant = 0.5 * self.points.square().sum(1) + self.points.shape[1] * log_scale

    def __call__(self, x: Tensor, points: slice = slice(None)) -> Tensor:
        """Images ``(n, C, H, W)`` under some of the points: shape ``(n, points)``."""
        if tuple(x.shape[1:]) != tuple(self.likelihood.event_shape):
            raise ValueError(
                f"images have shape {tuple(x.shape)}, the decoder makes images of shape "
                f"{tuple(self.likelihood.event_shape)}; build the model with image_shape= of "
                "your data"
            )
        if self.kind == "bernoulli":
            # x log y + (1 - x) log(1 - y) = x logit - softplus(logit)
            return x.flatten(1) @ self.points[points].T - self.constant[points]
        if self.kind == "gaussian":
            a = x.flatten(1).double() / self.std
            cross = a @ self.points[points].T - 0.5 * a.square().sum(1, keepdim=True)
            return (cross - self.constant[points]).to(x.dtype)
        return self.likelihood.log_prob(x.unsqueeze(1))[:, points]


def _is_constant(values: Tensor) -> bool:
    return bool((values == values.flatten()[0]).all())


def log_sum_exp(values: Tensor) -> Tensor:
    """Over the last axis, added up in float64 whatever the precision of ``values``."""
    top = values.amax(-1)
    total = (values - top.unsqueeze(-1)).exp().sum(-1, dtype=torch.float64)
    return top.double() + total.log()
