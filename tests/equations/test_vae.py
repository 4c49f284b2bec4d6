"""Equations of chapter 1 that concern the model itself, against quadrature and enumeration."""

from __future__ import annotations

import math

import pytest
import torch

from tutor import ppca
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian


@pytest.mark.equation("standard-prior")
def test_the_prior_is_a_density_with_unit_variance(compare):
    """Mass, mean and variance of the prior by the trapezoid rule on a grid."""
    axis = torch.linspace(-9, 9, 361, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    density = Gaussian(2).double().log_prob(z).exp() * cell
    why = "the trapezoid rule converges exponentially for a Gaussian; beyond 9 lie 1e-19"
    compare(density.sum(), torch.tensor(1.0, dtype=torch.float64), atol=1e-12, why=why)
    compare((density[:, None] * z).sum(0), torch.zeros(2).double(), atol=1e-12, why=why)
    second = torch.einsum("n,ni,nj->ij", density, z, z)
    compare(second, torch.eye(2).double(), atol=1e-12, why=why)


@pytest.mark.equation("gaussian-posterior")
def test_the_encoders_density_is_a_product_of_normal_densities(compare):
    """DiagonalGaussian.log_prob beside the formula, and its mass on a grid."""
    mean = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    log_var = torch.tensor([[-1.0, 0.4]], dtype=torch.float64)
    q = DiagonalGaussian(mean, log_var)
    axis = torch.linspace(-12, 12, 481, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    formula = torch.ones(len(z), dtype=torch.float64)
    for j in range(2):
        variance = math.exp(log_var[0, j])
        exponent = -((z[:, j] - mean[0, j]) ** 2) / (2 * variance)
        formula = formula * exponent.exp() / math.sqrt(2 * math.pi * variance)
    compare(q.log_prob(z).exp(), formula, atol=1e-13, why="float64 rounding")
    mass = q.log_prob(z).exp().sum() * (axis[1] - axis[0]) ** 2
    compare(mass, torch.tensor(1.0, dtype=torch.float64), atol=1e-10,
            why="the grid reaches beyond 8 standard deviations")  # fmt: skip


@pytest.mark.equation("prior-sampling")
def test_averaging_over_the_prior_is_unbiased_for_the_evidence(compare):
    """Mean of the K-sample estimate of p(x), and the sign of the bias of its logarithm."""
    model = ppca.PPCA(torch.tensor([[1.0], [0.5]]), torch.zeros(2), variance=0.5)
    x = torch.tensor([[0.8, -0.4]])
    draw = torch.Generator().manual_seed(0)
    repeats, samples = 20_000, 10
    z = torch.randn(repeats, samples, 1, generator=draw)
    noise = torch.distributions.Normal(z @ model.weights.T, model.variance**0.5)
    estimate = noise.log_prob(x).sum(-1).exp().mean(1)  # (repeats,)
    truth = model.log_prob(x).exp()
    error = estimate.std() / math.sqrt(repeats)
    compare(estimate.mean()[None], truth, atol=4 * error.item(), why="four standard errors")
    low, slack = estimate.log(), 4 * estimate.log().std() / math.sqrt(repeats)
    compare.at_most(low.mean()[None] + slack, truth.log(), why="low even after 4 standard errors")


@pytest.fixture
def finite_world():
    """Six images, five codes: every expectation is a sum, float64."""
    draw = torch.Generator().manual_seed(1)

    def rows(n: int, m: int) -> torch.Tensor:
        return torch.rand(n, m, generator=draw, dtype=torch.float64).softmax(1)

    return {
        "data": rows(1, 6)[0],
        "encoder": rows(6, 5),  # q(z|x)
        "prior": rows(1, 5)[0],
        "decoder": rows(5, 6),  # p(x|z)
    }


@pytest.mark.equation("elbo-joint-kl")
def test_the_mean_bound_is_a_divergence_of_joints(compare, finite_world):
    """Both sides by enumeration of a finite world of six images and five codes."""
    data, encoder = finite_world["data"], finite_world["encoder"]
    prior, decoder = finite_world["prior"], finite_world["decoder"]
    q = data[:, None] * encoder  # (6, 5)
    p = (prior[:, None] * decoder).T
    divergence = (q * (q / p).log()).sum()
    elbo = (encoder * ((prior[:, None] * decoder).T / encoder).log()).sum(1)
    entropy = -(data * data.log()).sum()
    compare(divergence, -(data * elbo).sum() - entropy, atol=1e-12, why="float64 rounding")


@pytest.mark.equation("surgery-theorem")
def test_the_mean_rate_is_information_plus_mismatch(compare, finite_world):
    """The theorem's three terms by enumeration of a finite world."""
    data, encoder, prior = (finite_world[name] for name in ("data", "encoder", "prior"))
    aggregate = data @ encoder
    rate = (data[:, None] * encoder * (encoder / prior).log()).sum()
    joint, product = data[:, None] * encoder, data[:, None] * aggregate
    information = (joint * (joint / product).log()).sum()
    mismatch = (aggregate * (aggregate / prior).log()).sum()
    compare(rate, information + mismatch, atol=1e-12, why="float64 rounding")


@pytest.mark.equation("ppca-theorem")
def test_no_linear_model_beats_the_theorems(compare):
    """Mean evidence of 2 000 random linear models, near and far, never above the optimum's."""
    draw = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))[0]
    eigenvalues = torch.tensor([3.0, 1.5, 0.6, 0.2], dtype=torch.float64)
    covariance = (basis * eigenvalues) @ basis.T
    covariance = (covariance + covariance.T) / 2
    mean = torch.zeros(4, dtype=torch.float64)
    best = ppca.fit(mean, covariance, latent_dim=3, variance=0.5)
    top = ppca.mean_log_evidence(best, mean, covariance)
    others = []
    for n in range(2_000):
        scale = 10 ** -(4 * n / 2_000)  # from wild to within 1e-4 of the optimum
        noise = torch.randn(4, 3, generator=draw, dtype=torch.float64)
        offset = scale * torch.randn(4, generator=draw, dtype=torch.float64)
        other = ppca.PPCA(best.weights + scale * noise, mean + offset, 0.5)
        others.append(ppca.mean_log_evidence(other, mean, covariance))
    others = torch.stack(others)
    compare.at_most(others, top.expand_as(others), slack=1e-12, why="float64 rounding")
    # Not vacuous: the nearest one is within 1e-6 of the top, and rotating W costs nothing.
    compare(others.max(), top, atol=1e-6, why="a perturbation of 1e-4 costs its square")
    turn = torch.linalg.qr(torch.randn(3, 3, generator=draw, dtype=torch.float64))[0]
    turned = ppca.PPCA(best.weights @ turn, mean, 0.5)
    compare(ppca.mean_log_evidence(turned, mean, covariance), top, atol=1e-12, why="rounding")
