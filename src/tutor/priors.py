"""Priors p(z): where codes come from when we generate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Gaussian(nn.Module):
    """The standard normal prior, p(z) = N(0, I).

    Book equation: standard-prior.

    Args:
        dim: number of latent dimensions, at least 1.

    Raises:
        ValueError: if ``dim`` is less than 1.

    Example:
        >>> prior = Gaussian(2)
        >>> z = prior.sample((5,), generator=torch.Generator().manual_seed(0))
        >>> z.shape, prior.log_prob(torch.zeros(1, 2))
        (torch.Size([5, 2]), tensor([-1.8379]))
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"dim is {dim}; a prior needs at least one dimension")
        self.dim = dim
        # Follows the model to its device, so that samples are made there; no parameter to save.
        self.register_buffer("origin", torch.zeros(dim), persistent=False)

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (dim,)`` on the prior's device."""
        return torch.randn((*shape, self.dim), generator=generator, device=self.origin.device)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; ``(..., dim)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not ``dim``.
        """
        if z.shape[-1] != self.dim:
            raise ValueError(
                f"z has {z.shape[-1]} dimensions in its last axis, this prior has {self.dim}"
            )
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
