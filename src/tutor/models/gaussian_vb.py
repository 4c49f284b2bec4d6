"""Gaussian variational Bayes: the best Gaussian, in KL(q || p), for an unnormalised density."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from tutor.energies import Energy, checked_energy, described, log_density
from tutor.game import Model, Turn


class GaussianVB(Model):
    """One player moves a Gaussian q to raise the ELBO of an energy.

    ``ELBO = E_q log_prob(z) + H(q) = log_evidence - KL(q || p)``

    with ``z = mean + L noise`` (the reparameterisation trick) and the entropy in closed form.
    *Mean field*: L is diagonal, the coordinates are independent.  *Full rank*: L is lower
    triangular, so every covariance is possible.  There are no data: in ``step`` only the length
    of the batch counts, it is the number of draws, and ``torch.zeros(512, 1)`` will do for `fit`.

    Source: Kucukelbir et al. (arXiv 1603.00788), Automatic Differentiation Variational Inference,
    equations 5 to 7, on coordinates that are unconstrained already.

    Args:
        energy: the target, anything with ``dim`` and ``log_prob``; see `tutor.energies`.
        full_rank: whether the coordinates of q may depend on each other.

    Raises:
        TypeError: if the energy lacks ``dim`` or ``log_prob``.
        ValueError: in use, if ``log_prob`` does not return one number a point.

    Example:
        >>> import tutor
        >>> from tutor.energies import Ring
        >>> model = GaussianVB(Ring())
        >>> history = tutor.fit(model, torch.zeros(64, 1), batch_size=64, steps=50,
        ...                     device="cpu", progress=False)
        >>> model.sample(5).shape
        torch.Size([5, 2])
        >>> bool(model.elbo(1000) < Ring().log_evidence)
        True
    """

    def __init__(self, energy: Energy, *, full_rank: bool = False) -> None:
        super().__init__()
        self.energy = checked_energy(energy)
        self.full_rank = full_rank
        self.mean = nn.Parameter(torch.zeros(energy.dim))
        self.log_std = nn.Parameter(torch.zeros(energy.dim))  # log of L's diagonal
        self.lower = nn.Parameter(torch.zeros(energy.dim, energy.dim)) if full_rank else None

    @property
    def players(self) -> Mapping[str, Sequence[nn.Parameter]]:
        return {"posterior": list(self.parameters())}

    def extra_repr(self) -> str:
        return f"{described(self.energy)}, full_rank={self.full_rank}"

    def step(self, batch: Tensor) -> Iterator[Turn]:
        z = self._draw(len(batch), None)  # (n, dim)
        log_prob = log_density(self.energy, z).mean()
        entropy = self.entropy()
        yield Turn("posterior", -(log_prob + entropy), log_prob=log_prob, entropy=entropy)

    @property
    def scale(self) -> Tensor:
        """L, the factor of the covariance ``L L^T``: ``(dim, dim)``, lower triangular."""
        diagonal = torch.diag(self.log_std.exp())
        return diagonal if self.lower is None else diagonal + self.lower.tril(-1)

    def entropy(self) -> Tensor:
        """H(q) in nats, a scalar: ``sum_i log L_ii + dim/2 log(2 pi e)``."""
        return self.log_std.sum() + 0.5 * len(self.mean) * math.log(2 * math.pi * math.e)

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z) in nats; ``(n, dim)`` gives ``(n,)``."""
        noise = torch.linalg.solve_triangular(self.scale, (z - self.mean).T, upper=False).T
        normaliser = self.log_std.sum() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - normaliser

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n draws of q, ``(n, dim)``."""
        return self._draw(n, generator)

    @torch.no_grad()
    def elbo(self, samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """The ELBO in nats, a scalar; only ``E_q log_prob`` is estimated, without bias.

        ``energy.log_evidence - elbo`` is then ``KL(q || p)``.

        Raises:
            ValueError: for ``samples`` below 1.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; draw at least one")
        return log_density(self.energy, self._draw(samples, generator)).mean() + self.entropy()

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        noise = torch.randn(
            (n, len(self.mean)),
            generator=generator,
            device=self.mean.device,
            dtype=self.mean.dtype,
        )
        return self.mean + noise @ self.scale.T
