"""Divergences between distributions on finitely many points: plain sums, exact.

Where a network only estimates a divergence, a finite world says what it should have found.
"""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """``TV(p, q) = 1/2 sum_i |p_i - q_i|``: the mass that has to move, 0 to 1.

    Example:
        >>> total_variation(torch.tensor([0.5, 0.5, 0.0]), torch.tensor([0.5, 0.0, 0.5]))
        tensor(0.5000, dtype=torch.float64)
    """
    p, q = _pair(p, q)
    return 0.5 * (p - q).abs().sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q) = sum_i p_i (log p_i - log q_i)``, in nats; infinite where q misses mass of p.

    Example:
        >>> kl(torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.5]))
        tensor(0., dtype=torch.float64)
        >>> kl(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        tensor(inf, dtype=torch.float64)
    """
    p, q = _pair(p, q)
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """``JS(p, q) = 1/2 KL(p || m) + 1/2 KL(q || m)``, ``m = (p + q) / 2``: 0 to log 2 nats.

    Example:
        >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))  # log 2
        tensor(0.6931, dtype=torch.float64)
    """
    p, q = _pair(p, q)
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


def distribution(name: str, p: Tensor) -> Tensor:
    """p in float64, once it is known to be a distribution: ``(n,)``, not negative, sum 1.

    Raises:
        TypeError: if it is not a tensor of floats.
        ValueError: for another shape, a negative or infinite entry, or another sum.

    Example:
        >>> distribution("p", torch.tensor([0.25, 0.75]))
        tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if not isinstance(p, Tensor) or not p.is_floating_point():
        given = p.dtype if isinstance(p, Tensor) else type(p).__name__
        raise TypeError(f"{name} is {given}; expected a tensor of floats (n,)")
    if p.dim() != 1 or len(p) == 0:
        raise ValueError(f"{name} has shape {tuple(p.shape)}; expected (n,), one mass a point")
    slack = 1e-5  # what rounding in float32 may leave; the sum is made exact
    p = p.double()
    if not (p.isfinite().all() and (p >= 0).all() and abs(p.sum().item() - 1) <= slack):
        raise ValueError(
            f"{name} has entries from {p.min().item():.3g} to {p.max().item():.3g} with sum "
            f"{p.sum().item():.9g}; expected masses of 0 or more that add up to 1"
        )
    return p / p.sum()


def _pair(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    p, q = distribution("p", p), distribution("q", q)
    if p.shape != q.shape:
        raise ValueError(
            f"p has {len(p)} points and q {len(q)}; expected masses of the same points"
        )
    return p, q
