"""Toy data whose truth is known: the four points of AVB and a ring of Gaussians."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.data.dataset import Dataset


def four_points() -> Dataset:
    """Four images of 2x2 pixels, each with exactly one white pixel, labelled 0 to 3.

    The data are a uniform distribution over four points, so no model can have a mean log-likelihood
    above -log 4 = -1.386 nats, and a two-dimensional latent space can be drawn whole.

    Source: Mescheder, Nowozin and Geiger (2017), "Adversarial Variational Bayes", the synthetic
    experiment.

    Example:
        >>> from tutor.data import four_points
        >>> four_points()[:].reshape(4, 4)
        tensor([[1., 0., 0., 0.],
                [0., 1., 0., 0.],
                [0., 0., 1., 0.],
                [0., 0., 0., 1.]])
    """
    images = (torch.eye(4) * 255).to(torch.uint8).reshape(4, 1, 2, 2)
    return Dataset(images, labels=torch.arange(4), name="four_points", split="all")


def ring(
    n: int,
    modes: int = 8,
    radius: float = 2.0,
    std: float = 0.1,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw points from Gaussians of equal weight, their centres evenly spaced on a circle.

    Which generator misses a mode, and which covers the space between modes, can be counted here.

    Args:
        n: how many points.
        modes: number of Gaussians.
        radius: distance of their centres from the origin.
        std: standard deviation of each, the same in both directions.
        generator: source of randomness; torch's default generator if not given.

    Returns:
        points ``(n, 2)`` and the mode each came from, LongTensor ``(n,)``.

    Raises:
        ValueError: a negative ``n``, no modes, or a radius or ``std`` that is not positive.

    Example:
        >>> import torch
        >>> from tutor.data import ring
        >>> points, mode = ring(1000, generator=torch.Generator().manual_seed(0))
        >>> points.shape, mode.unique().tolist()
        (torch.Size([1000, 2]), [0, 1, 2, 3, 4, 5, 6, 7])
    """
    if n < 0:
        raise ValueError(f"n must be at least 0, not {n}")
    centres = ring_centres(modes, radius)
    _check_positive(std=std)
    mode = torch.randint(0, modes, (n,), generator=generator)
    points = centres[mode] + std * torch.randn(n, 2, generator=generator)
    return points, mode


def ring_log_prob(points: Tensor, modes: int = 8, radius: float = 2.0, std: float = 0.1) -> Tensor:
    """Exact log-density of :func:`ring`, in nats.

    log p(x) = log (1/K) sum_k N(x; c_k, std^2 I), with K ``modes`` and c_k their centres.

    Args:
        points: ``(..., 2)``.

    Returns:
        ``(...)``.

    Raises:
        ValueError: points that are not two-dimensional; otherwise as :func:`ring`.

    Example:
        >>> import torch
        >>> from tutor.data import ring_log_prob
        >>> log_p = ring_log_prob(torch.tensor([[2.0, 0.0]]))       # at the first centre
        >>> bool(abs(log_p - math.log(1 / 8 / (2 * math.pi * 0.1**2))) < 1e-5)
        True
    """
    if points.ndim == 0 or points.shape[-1] != 2:
        raise ValueError(f"points must have shape (..., 2), not {tuple(points.shape)}")
    centres = ring_centres(modes, radius).to(points)
    _check_positive(std=std)
    square = (points.unsqueeze(-2) - centres).square().sum(-1)  # (..., modes)
    log_norm = math.log(2 * math.pi * std**2) + math.log(modes)
    return torch.logsumexp(-square / (2 * std**2), dim=-1) - log_norm


def ring_centres(modes: int = 8, radius: float = 2.0) -> Tensor:
    """Centres of the Gaussians of :func:`ring`, ``(modes, 2)``; the first lies at (radius, 0)."""
    if modes < 1:
        raise ValueError(f"modes must be at least 1, not {modes}")
    _check_positive(radius=radius)
    angle = 2 * math.pi * torch.arange(modes) / modes
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, not {value}")
