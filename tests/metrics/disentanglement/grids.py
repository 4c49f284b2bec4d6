"""Grids of factors, and the usual codes on them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DSPRITES = (3, 6, 40, 32, 32)


def grid(*sizes: int) -> Tensor:
    """Every combination of factors once."""
    return torch.cartesian_prod(*[torch.arange(size) for size in sizes])


def scattered(n: int, *sizes: int, seed: int = 7) -> Tensor:
    """Combinations drawn at random, the same ones maybe more than once."""
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(size, (n,), generator=g) for size in sizes], 1)


def turned(factors: Tensor, degrees: float) -> Tensor:
    """Two factors, standardised and turned together in the plane."""
    z = factors.double()
    z = (z - z.mean(0)) / z.std(0)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return z @ torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
