"""Annealed importance sampling: log p(x) in any number of latent dimensions (Neal 2001)."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from tutor.metrics._evaluate import at_least_one, evaluating, on_model, refuse_grey, require

_TARGET = 0.65  # acceptance that costs HMC least, per effective draw (Beskos et al. 2013)
_RATE = 0.2  # nats of log step size a unit of acceptance away from the target
_PILOTS = 4  # chains an image that tune the step size for the others
_FIRST_STEP = 0.5  # for the prior N(0, I)


class AIS(NamedTuple):
    """What `ais` returns; every field has shape ``(n,)``.

    ``log_likelihood`` is the estimate and ``standard_error`` its error (nats, by the delta method
    over chains; too small when one chain holds most of the weight).  ``acceptance`` is the mean
    over all transitions.
    """

    log_likelihood: Tensor
    standard_error: Tensor
    acceptance: Tensor


def ais(
    model: nn.Module,
    x: Tensor,
    *,
    temperatures: int = 500,
    chains: int = 16,
    leapfrog_steps: int = 10,
    schedule: Literal["sigmoid", "linear"] = "sigmoid",
    generator: torch.Generator | None = None,
) -> AIS:
    """``log p(x)`` by annealing from the prior to the posterior with HMC transitions.

    ``w = prod_t p(x|z_{t-1}) ** (b_t - b_{t-1})``, ``p(x) = E w``: a chain starts at a draw z_0 of
    the prior; between two factors, z_t comes from z_{t-1} by one HMC transition that leaves
    ``p(z) p(x|z) ** b_t`` invariant.  The estimate is the log of the mean weight over chains.

    Book equation: ais-weights.  Source: Neal (2001); for decoders and with
    step sizes adapted to an acceptance of 0.65: Wu et al. (arXiv 1611.04273).

    A step size that follows the acceptance of its own chain would make the weights biased.  Here
    four pilot chains an image set the step size at each temperature, and the other chains, which
    alone give the estimate, use it: p(x) is estimated without bias.

    Args:
        model: has ``decode`` and ``prior``; no encoder is needed.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        temperatures: number of factors in the weight.
        chains: chains an image, beside the pilots.
        leapfrog_steps: gradient steps in a transition.
        schedule: how b rises from 0 to 1: ``"sigmoid"`` goes slowly at both ends.
        generator: source of the draws, on the model's device.

    Returns:
        `AIS`: log-likelihood, standard error and acceptance, shape ``(n,)`` each.

    Raises:
        TypeError: if the model or the images are of the wrong kind.
        ValueError: for counts below 1, fewer than two chains, an unknown schedule, a wrong shape,
            or grey images under a Bernoulli likelihood.
        RuntimeError: if a log-likelihood is not finite.

    Example:
        >>> from tutor.models import VAE
        >>> model, x = VAE(latent_dim=2), torch.ones(2, 1, 28, 28)
        >>> g = torch.Generator().manual_seed(0)
        >>> result = ais(model, x, temperatures=20, chains=4, generator=g)
        >>> result.log_likelihood.shape
        torch.Size([2])
    """
    require(model, "decode", "prior")
    at_least_one(temperatures=temperatures, chains=chains, leapfrog_steps=leapfrog_steps)
    if chains < 2:
        raise ValueError("chains is 1; the standard error needs at least 2")
    inverse = _inverse_temperatures(temperatures, schedule)
    x = on_model(model, x)
    with evaluating(model):
        parts = [
            _ais(model, part, inverse, chains, leapfrog_steps, generator)
            for part in x.split(max(1, 16_000_000 // (x[0].numel() * (chains + _PILOTS))))
        ]
    return AIS(*map(torch.cat, zip(*parts, strict=True)))


def _ais(
    model: nn.Module,
    x: Tensor,
    inverse: list[float],
    chains: int,
    leapfrog_steps: int,
    generator: torch.Generator | None,
) -> AIS:
    shape = (_PILOTS + chains, len(x))
    z = model.prior.sample(shape, generator=generator).to(x)  # (chains, n, dim)
    target = _Target(model, x)
    state = target(z)
    log_weight = torch.zeros(shape, dtype=torch.float64, device=x.device)
    log_step = torch.full_like(x.flatten(1)[:, 0], math.log(_FIRST_STEP))  # (n,)
    accepted = torch.zeros_like(log_step)
    for before, b in pairwise(inverse):
        log_weight += (b - before) * state.log_likelihood
        step = log_step.exp().unsqueeze(1)  # (n, 1)
        z, state, acceptance = _hmc(target, z, state, b, step, leapfrog_steps, generator)
        log_step += _RATE * (acceptance[:_PILOTS].mean(0) - _TARGET)
        accepted += acceptance[_PILOTS:].mean(0) / (len(inverse) - 1)
    log_weight = log_weight[_PILOTS:]
    if not log_weight.isfinite().all():
        raise RuntimeError(
            "log p(x|z) is not finite along a chain; the decoder returns NaN or infinity "
            "(did training diverge?)"
        )
    estimate = log_weight.logsumexp(0) - math.log(chains)
    ratio = (log_weight - estimate).exp()  # mean 1 over chains
    error = ratio.std(0) / math.sqrt(chains)
    return AIS(estimate.to(x.dtype), error.to(x.dtype), accepted)


class _State(NamedTuple):
    """What the annealed density needs at z, kept so that no gradient is computed twice."""

    log_prior: Tensor
    log_likelihood: Tensor
    prior_gradient: Tensor
    likelihood_gradient: Tensor

    def log_density(self, b: float) -> Tensor:
        return self.log_prior + b * self.log_likelihood

    def gradient(self, b: float) -> Tensor:
        return self.prior_gradient + b * self.likelihood_gradient


class _Target:
    """log p(z), log p(x|z) and their gradients at codes ``(chains, n, dim)``."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model, self.x = model, x

    @torch.enable_grad()
    def __call__(self, z: Tensor) -> _State:
        z = z.detach().requires_grad_()
        likelihood = self.model.decode(z.flatten(0, 1))
        refuse_grey(likelihood, self.x)
        images = self.x.repeat(len(z), *[1] * (self.x.dim() - 1))
        log_likelihood = likelihood.log_prob(images).unflatten(0, z.shape[:2])
        log_prior = self.model.prior.log_prob(z)
        gradients = [torch.autograd.grad(term.sum(), z)[0] for term in (log_prior, log_likelihood)]
        return _State(log_prior.detach(), log_likelihood.detach(), *gradients)


def _hmc(
    target: _Target,
    z: Tensor,
    state: _State,
    b: float,
    step: Tensor,
    leapfrog_steps: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, _State, Tensor]:
    """One Hamiltonian Monte Carlo transition that leaves ``p(z) p(x|z) ** b`` invariant."""
    momentum = torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
    energy = 0.5 * momentum.square().sum(-1) - state.log_density(b)
    there, end = z, state
    momentum = momentum + 0.5 * step * end.gradient(b)
    for i in range(leapfrog_steps):
        there = there + step * momentum
        end = target(there)
        last = i == leapfrog_steps - 1
        momentum = momentum + (0.5 if last else 1.0) * step * end.gradient(b)
    change = energy - (0.5 * momentum.square().sum(-1) - end.log_density(b))
    # A trajectory that flew off to infinity or NaN is a rejected proposal.
    acceptance = change.clamp(max=0).exp().nan_to_num(0.0)  # (chains, n)
    draw = torch.rand(acceptance.shape, generator=generator, device=z.device, dtype=z.dtype)
    accept = draw < acceptance
    z = torch.where(accept.unsqueeze(-1), there, z)
    kept = [
        torch.where(accept if new.dim() == 2 else accept.unsqueeze(-1), new, old)
        for new, old in zip(end, state, strict=True)
    ]
    return z, _State(*kept), acceptance


def _inverse_temperatures(temperatures: int, schedule: str) -> list[float]:
    """b_0 = 0 < b_1 < ... < b_T = 1."""
    b = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        b = torch.sigmoid(8 * b - 4)  # the sigmoid over [-4, 4], rescaled
        b = (b - b[0]) / (b[-1] - b[0])
    elif schedule != "linear":
        raise ValueError(f'schedule is {schedule!r}; choose "sigmoid" or "linear"')
    return b.tolist()
