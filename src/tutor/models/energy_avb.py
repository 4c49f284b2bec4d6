"""Adversarial variational Bayes for one unnormalised density (Mescheder et al., 1701.04722)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tutor.energies import Energy, checked_energy, described, log_density
from tutor.game import Model, Turn
from tutor.nets import mlp


class EnergyAVB(Model):
    """A network turns noise into draws of q, a critic measures q's density, no family is assumed.

    The ELBO of an energy needs ``log q(z)``, which a network fed with noise does not tell.  The
    critic supplies it: with a contrast r whose density is known, the T that best tells draws of q
    (label 1) from draws of r (label 0) is ``T* = log q - log r``, so

        ``ELBO = E_q [log_prob(z) - log r(z) - T*(z)]``.

    *Adaptive contrast*: r is the Gaussian with independent coordinates that has q's own means and
    standard deviations, estimated from the batch and held without gradient.  T sees the
    standardised ``z_hat = (z - mean) / std`` and tells it from N(0, I): the nearer q is to a
    Gaussian, the less there is left to learn.  Without adaptive contrast r is N(0, I) itself.

    The critic begins at T = 0: the first moves are those of a Gaussian approximation, and the
    critic adds what a Gaussian misses.  Where T falls short of T*, the estimate of the ELBO is no
    lower bound.  As in `GaussianVB` there are no data: only the length of the batch counts.

    Source: Mescheder, Nowozin & Geiger (arXiv 1701.04722), algorithms 1 and 2 (the
    second with adaptive contrast).

    Args:
        energy: the target, anything with ``dim`` and ``log_prob``; see `tutor.energies`.
        noise_dim: dimensions of the noise that the sampler is fed.
        adaptive_contrast: whether the contrast follows q.
        critic_turns: moves of the critic in a round; the paper's authors take two.
        sampler: module from noise ``(n, noise_dim)`` to ``(n, dim)``, instead of the default.
        critic: module from ``(n, dim)`` to ``(n, 1)``, instead of the default.

    Raises:
        TypeError: if the energy lacks ``dim`` or ``log_prob``.
        ValueError: for noise without dimension or no critic turn; in use, if ``log_prob`` or the
            critic does not return one number a point.

    Example:
        >>> from tutor.energies import Ring
        >>> model = EnergyAVB(Ring())
        >>> [turn.player for turn in model.step(torch.zeros(64, 1))]
        ['sampler', 'critic', 'critic']
        >>> model.sample(5).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        energy: Energy,
        *,
        noise_dim: int = 32,
        adaptive_contrast: bool = True,
        critic_turns: int = 2,
        sampler: nn.Module | None = None,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.energy = checked_energy(energy)
        if noise_dim < 1:
            raise ValueError(
                f"noise_dim is {noise_dim}; without noise the sampler makes one point only: "
                f"give at least 1, and {energy.dim} or more to fill all dimensions"
            )
        if critic_turns < 1:
            raise ValueError(
                f"critic_turns is {critic_turns}; expected at least 1: a critic that never moves "
                "measures nothing"
            )
        self.noise_dim = noise_dim
        self.adaptive_contrast = adaptive_contrast
        self.critic_turns = critic_turns
        self.sampler = (
            nn.Sequential(*mlp([noise_dim, 128, 128, energy.dim], nn.ELU))
            if sampler is None
            else sampler
        )
        self.critic = _critic(energy.dim) if critic is None else critic

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"sampler": [self.sampler], "critic": [self.critic]}

    def extra_repr(self) -> str:
        return (
            f"{described(self.energy)}, noise_dim={self.noise_dim}, "
            f"adaptive_contrast={self.adaptive_contrast}, critic_turns={self.critic_turns}"
        )

    def step(self, batch: Tensor) -> Iterator[Turn]:
        z = self._draw(len(batch), None)  # (n, dim)
        elbo = self.elbo_terms(z)  # (n,)
        yield Turn("sampler", -elbo.mean(), elbo=elbo.mean())
        for _ in range(self.critic_turns):
            z = self.sample(len(batch))
            z_hat, _ = self.contrast(z)
            t, t_contrast = self.critic_value(z_hat), self.critic_value(torch.randn_like(z_hat))
            loss = softplus(-t) + softplus(t_contrast)  # (n,): log-losses of labels 1 and 0
            yield Turn("critic", loss.mean(), kl_to_contrast=t.mean())

    def elbo_terms(self, z: Tensor) -> Tensor:
        """``log_prob(z) - log r(z) - T(z)`` of draws of q, ``(n, dim)`` to ``(n,)``, in nats."""
        z_hat, log_r = self.contrast(z)
        return log_density(self.energy, z) - log_r - self.critic_value(z_hat)

    def contrast(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The standardised ``z_hat`` ``(n, dim)`` and ``log r(z)`` ``(n,)`` of draws of q.

        Gradients reach both through z; through the means and standard deviations none does.

        Raises:
            ValueError: for a single draw with adaptive contrast: it has no spread.
        """
        mean, std = torch.zeros_like(z[0]), torch.ones_like(z[0])
        if self.adaptive_contrast:
            if len(z) < 2:
                raise ValueError(
                    "adaptive contrast was given a single draw, which has no standard deviation; "
                    "use a batch of at least 2 (hundreds, for good moments)"
                )
            std, mean = torch.std_mean(z.detach(), dim=0)
        z_hat = (z - mean) / std
        log_r = -0.5 * (z_hat.square() + 2 * std.log() + math.log(2 * math.pi)).sum(-1)
        return z_hat, log_r

    def critic_value(self, z_hat: Tensor) -> Tensor:
        """T of standardised points, ``(n, dim)`` to ``(n,)``: estimate of ``log q - log r``.

        Raises:
            ValueError: if the critic does not return one number a point.
        """
        value = self.critic(z_hat)
        if tuple(value.shape) not in {(len(z_hat), 1), (len(z_hat),)}:
            raise ValueError(
                f"the critic returned shape {tuple(value.shape)}; expected ({len(z_hat)}, 1), one "
                "number a point"
            )
        return value.reshape(len(z_hat))

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n draws of q, ``(n, dim)``."""
        return self._draw(n, generator)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        weight = next(self.sampler.parameters())
        noise = torch.randn(
            (n, self.noise_dim), generator=generator, device=weight.device, dtype=weight.dtype
        )
        return self.sampler(noise)


def _critic(dim: int) -> nn.Sequential:
    critic = nn.Sequential(*mlp([dim, 128, 128, 1], nn.ELU))
    nn.init.zeros_(critic[-1].weight)  # begin at T = 0, q taken for the contrast
    nn.init.zeros_(critic[-1].bias)
    return critic
