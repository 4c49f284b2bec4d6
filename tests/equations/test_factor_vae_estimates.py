"""Chapter 5: the discriminator's total correlation, its gradient, and the other estimates."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.nn.functional import softplus

from tests.equations.finite_codes import FiniteWorld, entropy, kl, product_of_marginals
from tests.metrics.worlds import generator
from tutor import metrics
from tutor.posteriors import DiagonalGaussian

F64 = torch.float64
SUMS = "the same finite sums in another order, float64"


@pytest.mark.equation("tc-density-ratio")
def test_the_best_logit_is_the_log_ratio(compare):
    """Logistic regression with a free logit for every code, by L-BFGS, in the finite world."""
    q = FiniteWorld().q.flatten()
    bar = product_of_marginals(FiniteWorld().q).flatten()

    def loss(t: np.ndarray) -> tuple[float, np.ndarray]:
        logit = torch.tensor(t, requires_grad=True)
        value = (q * softplus(-logit) + bar * softplus(logit)).sum()
        value.backward()
        return value.item(), logit.grad.numpy()

    found = minimize(loss, np.zeros(len(q)), jac=True, method="L-BFGS-B",
                     options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2_000})  # fmt: skip
    t = torch.tensor(found.x)
    truth = q.log() - bar.log()
    compare(t, truth, atol=1e-5, why="L-BFGS stops where the value is flat to rounding")
    compare((q * t).sum(), kl(q, bar), atol=1e-6, why="errors of the logits, averaged")
    confidence = t.sigmoid()
    by_confidence = (q * (confidence.log() - (1 - confidence).log())).sum()
    compare(by_confidence, kl(q, bar), atol=1e-6, why="errors of the logits, averaged")


class Mixture:
    """Three images with Gaussian posteriors in the plane, on a grid; phi are their parameters."""

    def __init__(self) -> None:
        self.mean = torch.tensor([[-0.9, -0.7], [0.8, 0.9], [0.3, -0.4]], dtype=F64)
        self.log_var = torch.tensor([[-0.8, -0.3], [-0.5, -1.1], [-0.2, -0.6]], dtype=F64)
        self.axis = torch.linspace(-8, 8, 641, dtype=F64)

    def log_q_and_bar(self, mean: Tensor, log_var: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """log q(z) and log of the product of marginals at points (n, 2)."""
        normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
        each = normal.log_prob(z[:, None])  # (n, 3, 2)
        joint = each.sum(2).logsumexp(1) - math.log(3)
        return joint, (each.logsumexp(1) - math.log(3)).sum(1)

    def total_correlation(self, mean: Tensor, log_var: Tensor) -> Tensor:
        plane = torch.cartesian_prod(self.axis, self.axis)
        log_q, log_bar = self.log_q_and_bar(mean, log_var, plane)
        cell = (self.axis[1] - self.axis[0]) ** 2
        return (log_q.exp() * (log_q - log_bar)).sum() * cell


@pytest.mark.equation("tc-frozen-logit", "tc-gradient")
def test_the_logit_may_be_held_still(compare):
    """The derivative of the total correlation by quadrature against the path with t frozen."""
    world = Mixture()
    mean, log_var = (v.clone().requires_grad_() for v in (world.mean, world.log_var))
    truth = torch.autograd.grad(world.total_correlation(mean, log_var), (mean, log_var))

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights) / math.sqrt(2 * math.pi)
    noise = torch.cartesian_prod(nodes, nodes)  # (1600, 2)
    weight = torch.cartesian_prod(weights, weights).prod(1)
    z = mean + (0.5 * log_var).exp() * noise[:, None]  # (1600, 3, 2): codes that move
    log_q, log_bar = world.log_q_and_bar(world.mean, world.log_var, z.flatten(0, 1))  # held still
    value = (weight[:, None] * (log_q - log_bar).view(1600, 3)).sum(0).mean()
    path = torch.autograd.grad(value, (mean, log_var))
    for got, want in zip(path, truth, strict=True):
        compare(got, want, atol=1e-6, why="Gauss-Hermite with 40 nodes a dimension, and a grid")


@pytest.mark.equation("leaked-weight")
def test_the_weight_that_a_leak_leaves(compare):
    """The code's gradient of both losses together, by autograd, in units of the logit's slope."""
    gamma, n = 6.4, 40
    judge = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 1)).double()
    z = torch.randn(n, 3, generator=generator(0), dtype=F64).requires_grad_()
    torn = torch.randn(n, 3, generator=generator(1), dtype=F64)
    logit = judge(z)[:, 0]
    discriminator = (softplus(-logit).sum() + softplus(judge(torn)).sum()) / (2 * n)
    (got,) = torch.autograd.grad(gamma * logit.mean() + discriminator, z, retain_graph=True)
    (slope,) = torch.autograd.grad(logit.sum(), z)
    weight = gamma - 0.5 * (1 - logit.detach().sigmoid())
    compare(got * n, weight[:, None] * slope, atol=1e-12, why=SUMS)
    at_first = gamma - 0.5 * (1 - torch.tensor(0.5))
    compare(at_first, torch.tensor(gamma - 0.25), atol=1e-6, why="one subtraction in float32")


@pytest.mark.equation("tc-proved")
def test_what_a_logit_proves(compare):
    """The inequality for 200 random logits, and equality for the log-ratio and a constant."""
    q = FiniteWorld().q.flatten()
    bar = product_of_marginals(FiniteWorld().q).flatten()
    truth = kl(q, bar)
    logits = 2 * torch.randn(200, len(q), generator=generator(0), dtype=F64)
    proved = (logits * q).sum(1) - (bar * logits.exp()).sum(1).log()
    compare.at_most(proved, truth.expand(200), why="an inequality of finite sums")
    best = q.log() - bar.log() + 1.7
    compare((best * q).sum() - (bar * best.exp()).sum().log(), truth, atol=1e-12, why=SUMS)


@pytest.mark.equation("mws-offset")
def test_the_offset_of_weighted_sampling(compare):
    """Posteriors that are apart in ten dimensions and overlap in each: MWS against the mixture."""
    g = generator(0)
    data_size, dim, std = 10_000, 10, 0.3
    means = torch.randn(data_size, dim, generator=g, dtype=F64) * math.sqrt(1 - std**2)
    whole = DiagonalGaussian(means, torch.full_like(means, 2 * math.log(std)))
    exact = metrics.surgery_monte_carlo(whole, samples=2_000, generator=g)
    for size in (256, 1_024):
        batch = torch.randperm(data_size, generator=g)[:size]
        q = DiagonalGaussian(means[batch], whole.log_var[batch])
        found = metrics.minibatch_surgery(q, q.sample(generator=g), data_size, method="weighted")
        offset = dim * math.log(data_size) - math.log(size)
        compare(
            found.value.total_correlation - offset,
            exact.value.total_correlation,
            atol=2.0,
            why="'about': a few posteriors of the data set and of the batch do overlap jointly",
        )


@pytest.mark.equation("code-covariance")
def test_the_law_of_total_covariance(compare):
    """The two parts against Gauss-Hermite quadrature of the mixture's second moments."""
    world = Mixture()
    std = (0.5 * world.log_var).exp()
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    nodes, weights = torch.tensor(nodes), torch.tensor(weights) / math.sqrt(2 * math.pi)
    noise = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(1)
    z = world.mean + std * noise[:, None]  # (25, 3, 2)
    first = (weight[:, None, None] * z).sum(0).mean(0)
    second = torch.einsum("i,inj,ink->jk", weight, z, z) / 3
    truth = second - first.outer(first)
    parts = torch.diag(std.square().mean(0)) + world.mean.T.cov(correction=0)
    compare(parts, truth, atol=1e-12, why="five nodes integrate polynomials of degree nine exactly")


@pytest.mark.equation("information-floor")
def test_the_floor_is_the_doubt_that_a_code_leaves(compare):
    """H(p_d) - I(x; z) equals the mean entropy of q(x|z), enumerated."""
    world = FiniteWorld()
    joint = world.data[:, None] * world.encoder
    doubt = sum(mass * entropy(column / mass) for mass, column in zip(joint.sum(0), joint.T,
                                                                      strict=True))  # fmt: skip
    compare(entropy(world.data) - world.information, doubt, atol=1e-12, why=SUMS)
