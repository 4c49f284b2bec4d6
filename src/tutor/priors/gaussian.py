"""The standard normal prior, in any number of dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.priors.base import Prior


class Gaussian(Prior):
    """The standard normal prior, p(z) = N(0, I).

    Book equation: standard-prior.

    In the plane it has classes of equal weight: class 0 is the disc about the origin that holds
    ``1 / classes`` of the mass, the others are equal sectors of the ring outside it, numbered
    counter-clockwise from the first axis.

    Args:
        dim: number of latent dimensions, at least 1.
        classes: number of classes that `sample_class` knows, where ``dim`` is 2.

    Raises:
        ValueError: if ``dim`` or ``classes`` is less than 1.

    Example:
        >>> prior = Gaussian(2)
        >>> z = prior.sample((5,), generator=torch.Generator().manual_seed(0))
        >>> z.shape, prior.log_prob(torch.zeros(1, 2))
        (torch.Size([5, 2]), tensor([-1.8379]))
    """

    def __init__(self, dim: int, *, classes: int = 10) -> None:
        super().__init__(dim, classes)

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (dim,)`` on the prior's device."""
        return self._normal((*shape, self.dim), generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; ``(..., dim)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not ``dim``.
            TypeError: if z does not hold real numbers.
        """
        self._check_codes(z)
        return -0.5 * (z.square().sum(-1) + self.dim * math.log(2 * math.pi))

    def sample_class(self, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw from each label's part of the plane: ``(n,)`` gives ``(n, 2)``.

        The squared radius of a standard normal pair is exponential, so the mass outside radius r
        is ``exp(-r**2 / 2)``: a draw of that mass gives the radius.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are not ``(n,)``, one is not the number of a class, or ``dim``
                is not 2.

        Example:
            >>> z = Gaussian(2).sample_class(torch.tensor([0, 1, 1]))
            >>> bool(z[0].norm() < z[1:].norm(dim=1).min())  # class 0 is the disc
            True
        """
        self._check_plane()
        labels = self._check_labels(labels)
        radial, angular = self._uniform((2, *labels.shape), generator)
        disc = labels == 0
        outside = torch.where(disc, 1 - radial / self.classes, self._beyond * (1 - radial))
        turn = torch.where(disc, angular, (labels - 1 + angular) / max(self.classes - 1, 1))
        radius, angle = (-2 * outside.log()).sqrt(), 2 * math.pi * turn
        return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)

    def log_prob_class(self, z: Tensor, labels: Tensor) -> Tensor:
        """Log-density of each code in its label's part, ``-inf`` elsewhere; ``(n,)`` in nats.

        Raises:
            TypeError: as `log_prob` and `sample_class`.
            ValueError: as `log_prob` and `sample_class`.

        Example:
            >>> Gaussian(2).log_prob_class(torch.zeros(2, 2), torch.tensor([0, 1]))
            tensor([0.4647,   -inf])
        """
        self._check_plane()
        labels = self._check_labels(labels)
        self._check_codes(z, labels)
        turn = torch.atan2(z[:, 1], z[:, 0]).detach() / (2 * math.pi) % 1
        sector = 1 + (turn * (self.classes - 1)).long().clamp(max=max(self.classes - 2, 0))
        inside_disc = (-0.5 * z.square().sum(-1)).exp() >= self._beyond
        own = torch.where(inside_disc, 0, sector) == labels.to(z.device)
        return torch.where(own, self.log_prob(z) + math.log(self.classes), -math.inf)

    @property
    def _beyond(self) -> float:
        """The mass outside the disc of class 0."""
        return 1 - 1 / self.classes

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
