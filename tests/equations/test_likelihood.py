"""log p(x), its bounds and its estimators, in worlds where the truth is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from tests.metrics.worlds import (
    all_binary_images,
    bernoulli_vae,
    brute_force_joint,
    generator,
    linear_elbo,
    linear_images,
    linear_vae,
    log_evidence,
    plane,
    posterior,
)
from tutor.divergences import gaussian_kl, monte_carlo_kl
from tutor.metrics import (
    active_units,
    ais,
    elbo,
    exact_elbo,
    exact_posterior,
    gaps,
    iwae,
    quadrature,
)
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian

FOUR_ERRORS = "four standard errors of the mean, measured on the same draws"


@pytest.mark.equation("evidence")
@pytest.mark.parametrize("dim", [1, 2])
def test_quadrature_has_the_evidence_of_a_linear_model(compare, dim):
    """log p(x) by quadrature against N(x; b, WW' + s^2 I) in closed form."""
    model = linear_vae(dim)
    x = linear_images(model, 50)
    compare(
        quadrature(model, x),
        log_evidence(model, x),
        atol=1e-6,
        why="patches with less than e^-16 = 1e-7 of the evidence are left out",
    )


@pytest.mark.equation("evidence")
def test_the_evidence_of_all_images_sums_to_one(compare):
    """The sum of p(x) over all 64 images of six binary pixels against 1."""
    compare(
        quadrature(bernoulli_vae(), all_binary_images()).exp().sum(),
        1.0,
        atol=1e-6,
        why="64 terms, each good to a few parts in 10^7",
    )


@pytest.mark.equation("posterior")
def test_posterior_of_a_linear_model(compare):
    """p(z|x) on a grid against the Gaussian posterior in closed form."""
    model = linear_vae(2)
    x = linear_images(model, 3)
    grid = exact_posterior(model, x, bounds=(-5, 5), points=60)
    truth = posterior(model, x).log_prob(grid.z.unsqueeze(1)).T
    compare(grid.log_density, truth, atol=1e-6, why="the error of the evidence, see above")
    compare(
        grid.weights.sum(1),
        torch.ones(3),
        atol=1e-6,
        why="spacing 1/6 is half the narrowest deviation; the window holds all but 1e-7",
    )


@pytest.mark.equation("elbo")
def test_elbo_of_a_linear_model(compare):
    """The ELBO by Gauss-Hermite quadrature and by sampling against its closed form."""
    model = linear_vae(2)
    x = linear_images(model, 20)
    truth = linear_elbo(model, x)
    compare(
        exact_elbo(model, x, nodes=2),
        truth,
        atol=1e-10,
        why="two nodes integrate a quadratic exactly; rounding in float64",
    )
    draws = torch.stack([elbo(model, x, generator=generator(s)) for s in range(400)])
    z_score = (draws.mean(0) - truth).abs() * math.sqrt(len(draws)) / draws.std(0)
    compare.at_most(z_score, torch.full_like(truth, 4.0), why=FOUR_ERRORS)


@pytest.mark.equation("elbo-jensen")
def test_jensen_inequality(compare):
    """E_q log p(x,z)/q(z|x) at most log E_q p(x,z)/q(z|x), which is log p(x)."""
    model, x = bernoulli_vae(scale=2.0), all_binary_images()
    z, area = plane(141)
    with torch.no_grad():
        q = model.encode(x)
    log_q = MultivariateNormal(q.mean, torch.diag_embed(q.log_var.exp())).log_prob(z.unsqueeze(1)).T
    log_ratio = brute_force_joint(model, x, z) - log_q
    log_mean = (log_q + log_ratio).logsumexp(1) + math.log(area)
    mean_log = (log_q.exp() * log_ratio).sum(1) * area
    compare(
        log_mean, quadrature(model, x), atol=1e-6, why="smooth integrand, spacing 0.1; see evidence"
    )
    compare(
        mean_log,
        exact_elbo(model, x, nodes=32),
        atol=1e-6,
        why="both rules converge faster than any power on a smooth decoder",
    )
    compare.at_most(mean_log, log_mean, why="an inequality: no tolerance")


@pytest.mark.equation("elbo-gap")
def test_gap_is_the_divergence_from_the_posterior(compare):
    """log p(x) - ELBO against KL(q(z|x) || p(z|x)): closed form (linear), grid (nonlinear)."""
    model = linear_vae(2)
    x = linear_images(model, 10)
    with torch.no_grad():
        q = model.encode(x)
    divergence = kl_divergence(
        MultivariateNormal(q.mean, torch.diag_embed(q.log_var.exp())), posterior(model, x)
    )
    gap = quadrature(model, x) - exact_elbo(model, x)
    compare(gap, divergence, atol=1e-6, why="the error of the evidence, see above")

    model, x = bernoulli_vae(scale=2.0), all_binary_images()
    with torch.no_grad():
        q = model.encode(x)
    grid = exact_posterior(model, x, bounds=(-7, 7), points=140)
    log_q = MultivariateNormal(q.mean, torch.diag_embed(q.log_var.exp()))
    log_q = log_q.log_prob(grid.z.unsqueeze(1)).T
    divergence = (log_q.exp() * (log_q - grid.log_density)).sum(1) * 0.1**2
    gap = quadrature(model, x) - exact_elbo(model, x, nodes=32)
    compare(gap, divergence, atol=1e-6, why="the error of the evidence; smooth elsewhere")


@pytest.mark.equation("iwae-bound")
def test_importance_weighted_bound(compare):
    """ELBO, IWAE with 5, with 50 samples and log p(x), in this order; and E exp(IWAE) = p(x)."""
    model, repeats = linear_vae(2), 400
    image = linear_images(model, 1)
    truth = log_evidence(model, image)
    x = image.expand(repeats, -1, -1, -1)
    bounds = [linear_elbo(model, image)]
    for samples in (5, 50):
        draws = iwae(model, x, samples=samples, generator=generator(samples))
        error = 4 * draws.std() / math.sqrt(repeats)
        bounds.append(draws.mean(0, keepdim=True))
        compare.at_most(bounds[-2], bounds[-1], slack=error.item(), why=FOUR_ERRORS)
        compare.at_most(bounds[-1], truth, slack=error.item(), why=FOUR_ERRORS)
        compare.at_most(bounds[-2], bounds[-1] - error, why="K = 5 to 50 times more is visible")
    weights = (draws - truth).exp()
    z_score = (weights.mean() - 1).abs() * math.sqrt(repeats) / weights.std()
    compare.at_most(z_score, 4.0, why=FOUR_ERRORS)


@pytest.mark.equation("iwae-bound")
def test_one_importance_sample_is_the_elbo(compare):
    """IWAE with one sample against log p(x|z) + log p(z) - log q(z|x) at the same draw."""
    model, x = bernoulli_vae(), all_binary_images()
    with torch.no_grad():
        q = model.encode(x)
        z = q.sample((1,), generator=generator(5))[0]
        direct = model.decode(z).log_prob(x) + model.prior.log_prob(z) - q.log_prob(z)
    got = iwae(model, x, samples=1, generator=generator(5))
    compare(got, direct, atol=1e-12, why="the same arithmetic in float64")


@pytest.mark.equation("ais-weights")
@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_annealed_weights_are_unbiased(compare, schedule):
    """The mean AIS weight over 30 x 200 chains, divided by the exact p(x), against 1."""
    model = linear_vae(2)
    x = linear_images(model, 30)
    result = ais(
        model,
        x,
        temperatures=20,
        chains=200,
        leapfrog_steps=3,
        schedule=schedule,
        generator=generator(2),
    )
    ratio = (result.log_likelihood - log_evidence(model, x)).exp()
    z_score = (ratio - 1).abs() / (ratio * result.standard_error)
    compare.at_most(z_score.square().mean(), 2.0, why="mean of 30 squared errors is 1 +- 0.26")
    mean_error = (ratio * result.standard_error).square().sum().sqrt() / len(x)
    compare.at_most((ratio.mean() - 1).abs(), 4 * mean_error, why=FOUR_ERRORS)


@pytest.mark.equation("ais-weights")
def test_annealing_reaches_the_exact_evidence(compare):
    """AIS on a nonlinear model of binary pixels against quadrature."""
    model, x = bernoulli_vae(), all_binary_images()
    result = ais(model, x, temperatures=60, chains=64, leapfrog_steps=4, generator=generator(4))
    difference = (result.log_likelihood - quadrature(model, x)).abs()
    compare.at_most(
        difference, 4.5 * result.standard_error, why="4.5 standard errors: the worst of 64 images"
    )


@pytest.mark.equation("gaussian-kl")
def test_gaussian_kl_is_the_integral(compare):
    """The closed form against the integral of q log(q/p), coordinate by coordinate."""
    mean = torch.tensor([[0.0, 1.0], [-2.0, 0.3], [0.7, -1.5]], dtype=torch.float64)
    log_var = torch.tensor([[0.0, -3.0], [1.2, -0.4], [-5.0, 0.8]], dtype=torch.float64)
    z = torch.linspace(-20, 20, 20_001, dtype=torch.float64)
    log_p = -0.5 * z.square()
    log_q = -0.5 * ((z - mean.unsqueeze(-1)).square() / log_var.exp().unsqueeze(-1))
    log_q = log_q - 0.5 * log_var.unsqueeze(-1)
    density = log_q.exp() / math.sqrt(2 * math.pi)
    integral = (density * (log_q - log_p)).sum(-1) * (z[1] - z[0])
    compare(
        gaussian_kl(mean, log_var),
        integral.sum(1),
        atol=1e-9,
        why="spacing 0.002 is 1/40 of the narrowest deviation, and the ends are 9 deviations away",
    )


@pytest.mark.equation("monte-carlo-kl")
def test_monte_carlo_kl_is_unbiased(compare):
    """The mean of log q - log p over 40 000 draws against the closed form."""
    mean = torch.tensor([[0.0, 1.0], [-2.0, 0.3]], dtype=torch.float64)
    log_var = torch.tensor([[0.0, -3.0], [1.2, -0.4]], dtype=torch.float64)
    q, truth = DiagonalGaussian(mean, log_var), gaussian_kl(mean, log_var)
    repeats = [
        monte_carlo_kl(q, Gaussian(2), samples=200, generator=generator(s)) for s in range(200)
    ]
    draws = torch.stack(repeats)
    z_score = (draws.mean(0) - truth).abs() * math.sqrt(len(draws)) / draws.std(0)
    compare.at_most(z_score, torch.full_like(truth, 4.0), why=FOUR_ERRORS)


@pytest.mark.equation("gap-decomposition")
def test_gaps_of_a_linear_model(compare):
    """Both gaps against the mean-field optimum of a Gaussian posterior, in closed form."""
    model = linear_vae(2, std=0.3)
    x = linear_images(model, 15)
    exact = posterior(model, x)
    result = gaps(model, x)
    # The best diagonal Gaussian keeps the mean and the diagonal of the precision.
    precision = exact.precision_matrix
    log_diagonal = precision.diagonal(dim1=1, dim2=2).log().sum(1)
    approximation = 0.5 * (log_diagonal - torch.logdet(precision))
    why = "steps end when they gain less than 1e-5 nats; the evidence is good to 1e-6"
    compare(result.approximation, approximation, atol=2e-5, why=why)
    amortisation = log_evidence(model, x) - approximation - linear_elbo(model, x)
    compare(result.amortisation, amortisation, atol=2e-5, why=why)
    total = result.approximation + result.amortisation
    compare(
        total,
        result.log_likelihood - result.amortised_elbo,
        atol=1e-10,
        why="the same three numbers, rounded",
    )


@pytest.mark.equation("gap-decomposition")
def test_gaps_are_not_negative(compare):
    """On a nonlinear model: 0 <= approximation gap and 0 <= amortisation gap."""
    model, x = bernoulli_vae(), all_binary_images()
    result = gaps(model, x, nodes=32)
    zero = torch.zeros_like(result.approximation)
    compare.at_most(
        zero, result.approximation, slack=1e-3, why="Gauss-Hermite of steep logits with 32 nodes"
    )
    compare.at_most(zero, result.amortisation, why="the encoder's posterior is one of the starts")


@pytest.mark.equation("active-units")
def test_active_units_of_a_linear_encoder(compare):
    """The variance of the posterior mean against w' Cov(x) w, and which dimensions are active."""
    model = linear_vae(3)
    with torch.no_grad():
        model.encoder[1].weight[1] = 0  # the second mean no longer sees the image
        model.encoder[1].weight[2] *= 0.01
    x = linear_images(model, 500)
    weight = model.encoder[1].weight[:3].detach()
    truth = (weight @ torch.cov(x.flatten(1).T) @ weight.T).diagonal()
    result = active_units(model, x)
    compare(result.variance, truth, atol=1e-12, why="the same sum in another order")
    compare(result.active.double(), [1.0, 0.0, 0.0], atol=0, why="yes or no, threshold 0.01")
