"""Equations of sampling, gradients through samples, and what a likelihood asks of a decoder."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar
from torch import Tensor

from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.posteriors import DiagonalGaussian

F64 = torch.float64
ROUNDING = "float64 rounding in short sums"
QUADRATURE = "Gauss-Hermite with 80 nodes: exact for polynomials, 1e-13 for sin at these widths"
POSTERIORS = [(0.7, 0.5), (-1.5, 1.2), (0.0, 0.05)]  # (mean, standard deviation)


def nodes() -> tuple[Tensor, Tensor]:
    """Nodes and weights for expectations under N(0, 1)."""
    points, weights = np.polynomial.hermite_e.hermegauss(80)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def f(z: Tensor) -> Tensor:
    return torch.sin(z) + z.square()


def slope_of_f(z: Tensor) -> Tensor:
    return torch.cos(z) + 2 * z


def exact_gradient(mean: float, std: float) -> list[float]:
    """Of E f = sin(mean) exp(-var/2) + mean^2 + var, with respect to mean and log-variance."""
    var = std**2
    by_mean = math.cos(mean) * math.exp(-var / 2) + 2 * mean
    by_var = -0.5 * math.sin(mean) * math.exp(-var / 2) + 1
    return [by_mean, by_var * var]


@pytest.mark.equation("reparameterisation")
def test_reparameterisation(compare):
    """mean + std eps: density and distribution against N(mean, std^2), moments, and rsample."""
    mean = torch.tensor([[0.7, -1.5]], dtype=F64)
    log_var = torch.tensor([[-1.0, 0.4]], dtype=F64)
    q = DiagonalGaussian(mean, log_var)
    std = (0.5 * log_var).exp()

    eps = torch.cartesian_prod(*[torch.linspace(-3, 3, 13, dtype=F64)] * 2)
    z = mean + std * eps
    log_density = (
        stats.norm.logpdf(eps.numpy()).sum(1) - std.log().sum().item()
    )  # change of variable
    compare(q.log_prob(z[:, None])[:, 0], log_density, atol=1e-12, why=ROUNDING)
    compare(
        torch.special.ndtr(eps),
        stats.norm.cdf(z.numpy(), loc=mean.numpy(), scale=std.numpy()),
        atol=1e-12,
        why=ROUNDING,
    )

    points, weights = nodes()
    for j in range(2):
        moved = mean[0, j] + std[0, j] * points
        compare(weights @ moved, mean[0, j], atol=1e-12, why=QUADRATURE)
        compare(
            weights @ (moved - mean[0, j]).square(), log_var[0, j].exp(), atol=1e-12, why=QUADRATURE
        )

    noise = torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    drawn = q.rsample((5,), generator=torch.Generator().manual_seed(0))
    compare(drawn, mean + std * noise, atol=1e-15, why="the same operations on the same noise")


@pytest.mark.equation("score-function")
@pytest.mark.parametrize(("mean", "std"), POSTERIORS)
def test_score_function(mean, std, compare):
    """E[f(z) grad log q(z)] by quadrature against the gradient of E f in closed form."""
    eps, weights = nodes()
    z = mean + std * eps
    by_mean = weights @ (f(z) * (z - mean) / std**2)
    by_log_var = weights @ (f(z) * 0.5 * (((z - mean) / std) ** 2 - 1))
    compare(
        torch.stack([by_mean, by_log_var]), exact_gradient(mean, std), atol=1e-10, why=QUADRATURE
    )
    # The score itself, as autograd takes it from log_prob, at one point.
    parameters = torch.tensor([[mean]], dtype=F64), torch.tensor([[2 * math.log(std)]], dtype=F64)
    leaves = [p.requires_grad_() for p in parameters]
    log_q = DiagonalGaussian(*leaves).log_prob(torch.tensor([[0.4]], dtype=F64))
    score = torch.cat([g.flatten() for g in torch.autograd.grad(log_q.sum(), leaves)])
    u = (0.4 - mean) / std
    scale = max(1.0, abs(u) / std, u * u)
    compare(
        score / scale,
        torch.tensor([u / std, 0.5 * (u * u - 1)], dtype=F64) / scale,
        atol=1e-12,
        why=ROUNDING,
    )


@pytest.mark.equation("reparameterisation-gradient")
@pytest.mark.parametrize(("mean", "std"), POSTERIORS)
def test_reparameterisation_gradient(mean, std, compare):
    """E[f'(z) dz/d(mean, log_var)] by quadrature, by autograd, against the closed form."""
    eps, weights = nodes()
    z = mean + std * eps
    by_hand = torch.stack([weights @ slope_of_f(z), weights @ (slope_of_f(z) * 0.5 * std * eps)])
    compare(by_hand, exact_gradient(mean, std), atol=1e-10, why=QUADRATURE)
    leaves = [torch.tensor(v, dtype=F64, requires_grad=True) for v in (mean, 2 * math.log(std))]
    expected_f = weights @ f(leaves[0] + (0.5 * leaves[1]).exp() * eps)
    by_autograd = torch.stack(torch.autograd.grad(expected_f, leaves))
    compare(by_autograd, exact_gradient(mean, std), atol=1e-10, why=QUADRATURE)


def score_estimates(z: Tensor, mean: float, std: float) -> Tensor:
    return z.square() * (z - mean) / std**2


@pytest.mark.equation("gradient-variances")
@pytest.mark.parametrize(("mean", "std"), POSTERIORS)
def test_variances_of_the_two_estimators(mean, std, compare):
    """Variance of d/dmean E z^2, score against path: closed forms against quadrature."""
    eps, weights = nodes()
    z = mean + std * eps
    by_score, by_path = score_estimates(z, mean, std), 2 * z
    measured = [weights @ g.square() - (weights @ g) ** 2 for g in (by_score, by_path)]
    exact = [mean**4 / std**2 + 14 * mean**2 + 15 * std**2, 4 * std**2]
    scale = max(1.0, exact[0])
    compare(torch.stack(measured) / scale, np.array(exact) / scale, atol=1e-11, why=QUADRATURE)
    compare.at_most(exact[1], exact[0], why="the path estimator is never the worse one here")


@pytest.mark.equation("gradient-variances")
def test_variances_measured_on_draws(compare):
    """The same variances against the sample variances of 200 000 one-draw gradients."""
    mean, std, n = 0.7, 0.5, 200_000
    leaf = torch.full((n, 1), mean, dtype=F64, requires_grad=True)
    q = DiagonalGaussian(leaf, torch.full((n, 1), 2 * math.log(std), dtype=F64))
    z = q.rsample(generator=torch.Generator().manual_seed(0))
    path = torch.autograd.grad(z.square().sum(), leaf)[0][:, 0]  # row i depends on leaf i alone
    score = score_estimates(z.detach()[:, 0], mean, std)
    exact = [mean**4 / std**2 + 14 * mean**2 + 15 * std**2, 4 * std**2]
    for draws, variance in zip((score, path), exact, strict=True):
        spread = (draws - draws.mean()).square()
        error = (spread.std() / math.sqrt(n)).item()
        compare(
            (spread.mean() - variance) / error,
            0.0,
            atol=4.0,
            why="four standard errors of a sample variance",
        )


@pytest.mark.equation("bernoulli-likelihood")
def test_bernoulli_likelihood(compare):
    """log p(x|z) of all 16 binary 2x2 images against products of probabilities; they sum to 1."""
    logits = 2 * torch.randn(1, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    likelihood = BernoulliLikelihood(logits)
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=F64)
    log_p = likelihood.log_prob(images.reshape(16, 1, 2, 2))
    y = logits.sigmoid().flatten()
    by_product = torch.where(images == 1, y, 1 - y).prod(1).log()
    compare(log_p, by_product, atol=1e-12, why=ROUNDING)
    compare(log_p.logsumexp(0), 0.0, atol=1e-12, why="probabilities sum to one, up to rounding")
    # A grey image: the mean of log p(b|z) over binary images b drawn from it, all enumerated.
    grey = torch.tensor([0.1, 0.9, 0.5, 0.0], dtype=F64)
    chance = torch.where(images == 1, grey, 1 - grey).prod(1)
    compare(
        likelihood.log_prob(grey.reshape(1, 1, 2, 2)),
        (chance @ log_p)[None],
        atol=1e-12,
        why=ROUNDING,
    )


@pytest.mark.equation("gaussian-likelihood")
@pytest.mark.parametrize("std", [0.1, 1.0, 3.0])
def test_gaussian_likelihood(std, compare):
    """log p(x|z) against SciPy's normal density, the formula, and total mass 1 by quadrature."""
    mean = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    x = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(3), dtype=F64)
    got = GaussianLikelihood(mean, std).log_prob(x)
    reference = stats.norm.logpdf(x.numpy(), mean.numpy(), std).sum((1, 2, 3))
    scale = max(1.0, float(np.abs(reference).max()))
    compare(got / scale, reference / scale, atol=1e-13, why=ROUNDING)
    written = -(x - mean).square().sum((1, 2, 3)) / (2 * std**2) - 2 * math.log(
        2 * math.pi * std**2
    )
    compare(got / scale, written / scale, atol=1e-13, why=ROUNDING)
    axis = torch.linspace(-12 * std, 12 * std, 401, dtype=F64)
    plane = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    density = GaussianLikelihood(torch.zeros(1, 1, 1, 2, dtype=F64), std).log_prob(plane).exp()
    compare(
        density.sum() * (axis[1] - axis[0]) ** 2,
        1.0,
        atol=1e-11,
        why="the trapezoid rule is exact to rounding for a Gaussian",
    )


def finite_world() -> tuple[Tensor, Tensor]:
    """Six images of 2x2 grey values and p(image | code) for three codes."""
    g = torch.Generator().manual_seed(4)
    images = torch.rand(6, 1, 2, 2, generator=g, dtype=F64)
    encoder = torch.randn(6, 3, generator=g, dtype=F64).softmax(1)  # q(z|x), images equally likely
    return images, encoder / encoder.sum(0)


@pytest.mark.equation("blur")
@pytest.mark.parametrize("kind", ["bernoulli", "gaussian"])
def test_best_decoder_is_the_conditional_mean(kind, compare):
    """Decoder output that training on a finite set finds, for each code, against E[x|z]."""
    images, share = finite_world()  # share: (6, 3), columns sum to one
    output = torch.zeros(3, 1, 2, 2, dtype=F64, requires_grad=True)

    def mean_log_likelihood(raw: Tensor) -> Tensor:
        likelihood = (
            BernoulliLikelihood(raw) if kind == "bernoulli" else GaussianLikelihood(raw, 0.3)
        )
        return (share * likelihood.log_prob(images[:, None])).sum()  # log_prob is (6, 3)

    optimiser = torch.optim.LBFGS(
        [output],
        max_iter=200,
        tolerance_grad=1e-12,
        tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -mean_log_likelihood(output)
        value.backward()
        return value

    optimiser.step(loss)
    found = (output.sigmoid() if kind == "bernoulli" else output).detach()
    conditional_mean = torch.einsum("nk,nchw->kchw", share, images)
    compare(found, conditional_mean, atol=1e-7, why="L-BFGS stops at a flat loss: sqrt(1e-16)")
    # No picture of the data beats the blend, although each of them is sharp.
    best = mean_log_likelihood(output)
    sharp = images.clamp(1e-6, 1 - 1e-6)
    rivals = torch.stack(
        [
            mean_log_likelihood((x.logit() if kind == "bernoulli" else x).expand(3, 1, 2, 2))
            for x in sharp
        ]
    )
    compare.at_most(rivals, best.expand(6), why="the blend is the maximum")


@pytest.mark.equation("optimal-decoder-variance")
def test_optimal_decoder_variance(compare):
    """The s^2 that maximises the Gaussian likelihood, found numerically, against the mean error."""
    g = torch.Generator().manual_seed(5)
    x, mean = torch.rand(2, 50, 1, 3, 4, generator=g, dtype=F64)
    mse = (x - mean).square().mean().item()

    def loss(log_variance: float) -> float:
        return -GaussianLikelihood(mean, math.exp(0.5 * log_variance)).log_prob(x).mean().item()

    found = minimize_scalar(loss, bracket=(-3.0, 0.0), options={"xtol": 1e-10})
    compare(math.exp(found.x), mse, atol=1e-7, why="line search: sqrt of rounding in the loss")
    at_best = 12 / 2 * (1 + math.log(2 * math.pi * mse))
    compare(loss(math.log(mse)), at_best, atol=1e-12, why=ROUNDING)
    around = [loss(math.log(mse) + step) for step in (-1.0, -0.01, 0.01, 1.0)]
    compare.at_most([at_best] * 4, around, why="the mean squared error is the minimum")
