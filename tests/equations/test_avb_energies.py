"""Chapter 3: a bound on a normaliser, and the exact posterior of Eight Schools."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.equations.test_avb_game import ROUNDING, SMOOTH, generator, normal_log_prob
from tutor.energies import Banana, EightSchools, Ring
from tutor.models import EnergyAVB, GaussianVB

F64 = torch.float64
Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0], dtype=F64)
SIGMA = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0], dtype=F64)


@pytest.mark.equation("energy-bound")
@pytest.mark.parametrize("energy", [Banana(), Ring()], ids=repr)
def test_the_bound_on_a_normaliser(energy, compare):
    """log of the integral of exp(energy) minus the bound, against KL(q || p), on a grid."""
    axis = torch.linspace(-7, 7, 1401, dtype=F64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    log_p = energy.log_prob(z)
    log_mass = log_p.logsumexp(0) + cell.log()
    compare(log_mass, energy.log_evidence, atol=1e-6, why="the class integrates on a finite line")
    centres = torch.tensor([[0.9, 0.8], [0.5, -1.1]], dtype=F64)
    log_q = normal_log_prob(z[:, None], centres, 0.6).sum(-1).logsumexp(1) - math.log(2)
    q = log_q.exp() * cell
    mean = q @ z
    std = (q @ z.square() - mean.square()).sqrt()
    log_r = normal_log_prob(z, mean, std).sum(-1)
    bound = (q * (log_p - log_r - (log_q - log_r))).sum()  # T* = log q - log r
    divergence = (q * (log_q - (log_p - log_mass))).sum()
    compare(log_mass - bound, divergence, atol=1e-10, why=SMOOTH)
    compare.at_most(bound, log_mass, why="a divergence is not negative")


@pytest.mark.equation("energy-bound")
def test_the_packages_terms_of_the_bound(compare):
    """EnergyAVB's terms with its T = 0 against the ELBO of the Gaussian with the draws' moments."""
    model = EnergyAVB(Ring()).double()  # its critic begins at zero
    z = 0.8 * torch.randn(40_000, 2, generator=generator(0), dtype=F64)
    terms = model.elbo_terms(z).detach()
    gaussian = GaussianVB(Ring()).double()
    with torch.no_grad():
        gaussian.mean.copy_(z.mean(0))
        gaussian.log_std.copy_(z.std(0).log())
    by_hand = Ring().log_prob(z) - gaussian.log_prob(z).detach()
    compare(terms, by_hand, atol=1e-9, why=ROUNDING)
    # q is that Gaussian here, so the mean is its ELBO; E |z|^2 and E |z|^4 are known.
    v = 0.64
    exact = -(8 * v**2 - 8 * v + 4) + 1 + math.log(2 * math.pi * v)
    error = (terms.std() / math.sqrt(len(terms))).item()
    compare((terms.mean() - exact) / error, 0.0, atol=4.0, why="four standard errors")


# -- Eight Schools --------------------------------------------------------------------------------


def log_joint_of_mu_and_tau(mu: Tensor, log_tau: Tensor) -> Tensor:
    """log p(mu, log tau, y), ``(mu, tau)``: each theta_j integrated out numerically."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    eta = torch.tensor(nodes)
    log_weight = torch.tensor(weights).log() - 0.5 * math.log(2 * math.pi)
    tau = log_tau.exp()
    log_prior = normal_log_prob(mu, 0.0, 5.0)[:, None] + (
        math.log(2 / (5 * math.pi)) - torch.log1p((tau / 5).square()) + log_tau
    )
    total = log_prior
    for y, sigma in zip(Y, SIGMA, strict=True):
        theta = mu[:, None, None] + tau[None, :, None] * eta
        total = total + (normal_log_prob(y, theta, sigma) + log_weight).logsumexp(-1)
    return total


@pytest.mark.equation("eight-schools-model")
def test_the_joint_density_of_the_model(compare):
    """EightSchools.log_prob against the model's four densities from SciPy, at random points."""
    energy = EightSchools()
    z = torch.randn(50, 10, generator=generator(0), dtype=F64)
    mu, tau, theta = energy.constrain(z)
    written = stats.norm.logpdf(mu.numpy(), 0, 5) + stats.halfcauchy.logpdf(tau.numpy(), scale=5)
    written = written + stats.norm.logpdf(theta, mu[:, None], tau[:, None]).sum(1)
    written = written + stats.norm.logpdf(Y, theta, SIGMA).sum(1)
    # z = (mu / 5, log tau, eta): volumes change by 5, tau and tau^8.
    volume = math.log(5) + 9 * tau.log()
    compare(energy.log_prob(z), torch.tensor(written) + volume, atol=1e-10, why=ROUNDING)


@pytest.mark.equation("eight-schools-mu", "eight-schools-tau")
def test_the_posterior_of_mu_and_tau(compare):
    """p(mu | tau, y) and p(log tau | y) against a joint with integrated effects."""
    mu = torch.linspace(-45, 55, 401, dtype=F64)
    log_tau = torch.linspace(-3, 2.6, 15, dtype=F64)
    table = log_joint_of_mu_and_tau(mu, log_tau)  # (401, 15)
    log_y_tau = table.logsumexp(0) + (mu[1] - mu[0]).log()
    given = (table - log_y_tau).exp() * (mu[1] - mu[0])
    total = SIGMA.square() + (2 * log_tau).exp()[:, None]  # (15, 8)
    precision = 1 / 25 + (1 / total).sum(1)
    mean = (Y / total).sum(1) / precision
    why = "120 Gauss-Hermite nodes for each effect, the trapezoid rule for mu"
    compare((given * mu[:, None]).sum(0), mean, atol=1e-5, why=why)
    second = (given * (mu[:, None] - mean).square()).sum(0)
    compare(second, 1 / precision, atol=1e-4, why=why)
    square = ((Y - mean[:, None]).square() / total).sum(1) + mean.square() / 25
    log_tau_density = (
        log_tau
        - torch.log1p((log_tau.exp() / 5).square())
        - 0.5 * (precision.log() + total.log().sum(1) + square)
    )
    difference = log_y_tau - log_tau_density  # a constant: the formula is up to a factor
    compare(difference - difference.mean(), torch.zeros(15, dtype=F64), atol=1e-6, why=why)


@pytest.mark.equation("eight-schools-tau", "eight-schools-mu", "eight-schools-effects")
def test_exact_draws_follow_the_three_conditionals(compare):
    """60 000 draws: the distribution function of log tau, and standardised mu and eta."""
    energy, n = EightSchools(), 60_000
    z = energy.exact_draws(n, generator=generator(1)).double()
    mu, log_tau, eta = 5 * z[:, 0], z[:, 1], z[:, 2:]
    grid = torch.linspace(-12, 6, 9_001, dtype=F64)
    total = SIGMA.square() + (2 * grid).exp()[:, None]
    precision = 1 / 25 + (1 / total).sum(1)
    mean = (Y / total).sum(1) / precision
    square = ((Y - mean[:, None]).square() / total).sum(1) + mean.square() / 25
    log_density = grid - torch.log1p((grid.exp() / 5).square())
    log_density = log_density - 0.5 * (precision.log() + total.log().sum(1) + square)
    cdf = (log_density - log_density.logsumexp(0)).exp().cumsum(0)
    at = grid[::450]
    share = (log_tau[:, None] <= at).double().mean(0)
    compare(share, cdf[::450], atol=0.011, why="Kolmogorov-Smirnov: above 0.0067 once in 100")
    total = SIGMA.square() + (2 * log_tau).exp()[:, None]
    precision = 1 / 25 + (1 / total).sum(1)
    standard = (mu - (Y / total).sum(1) / precision) * precision.sqrt()
    tau = log_tau.exp()[:, None]
    standard_eta = (eta - tau * (Y - mu[:, None]) / total) / (SIGMA / total.sqrt())
    everything = torch.cat([standard[:, None], standard_eta], 1)  # (n, 9), standard normal
    root = math.sqrt(n)
    compare(everything.mean(0) * root, torch.zeros(9, dtype=F64), atol=4.5, why="4.5 errors")
    spread = (everything.T @ everything / n - torch.eye(9, dtype=F64)) * root
    compare(spread, torch.zeros(9, 9, dtype=F64), atol=6.5,
            why="4.5 standard errors of a variance, sqrt(2 / n)")  # fmt: skip
