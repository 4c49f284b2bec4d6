"""Chapter 4, kernels: the discrepancy, its estimate and its noise, near and far, by dimension."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import chi2
from torch import Tensor

from tests.metrics.worlds import generator
from tutor.kernel_theory import gaussian_mmd, mmd_null_std
from tutor.kernels import imq, mmd, prior_scales, rbf, squared_distances
from tutor.metrics import energy_distance

F64 = torch.float64
ROUNDING = "the same finite sums in another order, float64"
FOUR_ERRORS = "four standard errors, measured on the same draws"
KERNELS = (imq([0.5, 3.0]), rbf(2.0))


def masses(n: int, seed: int) -> Tensor:
    raw = torch.rand(n, generator=generator(seed), dtype=F64) + 0.05
    return raw / raw.sum()


def points(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=F64)


@pytest.mark.equation("mmd-definition", "mmd-witness")
def test_the_best_function_of_norm_one(compare):
    """On 8 points: three means of the kernel, the witness's advantage, and 300 other functions."""
    for kernel in KERNELS:
        x = points(8, 2, 0)
        table, p, q = kernel(x, x), masses(8, 1), masses(8, 2)
        squared = p @ table @ p + q @ table @ q - 2 * p @ table @ q
        compare(squared, (p - q) @ table @ (p - q), atol=1e-14, why=ROUNDING)
        witness = (p - q) / squared.sqrt()  # f = sum_i witness_i k(x_i, .), of norm 1
        compare(witness @ table @ witness, 1.0, atol=1e-10, why=ROUNDING)
        compare((p - q) @ table @ witness, squared.sqrt(), atol=1e-12, why=ROUNDING)
        for seed in range(300):
            f = points(1, 8, 10 + seed)[0]
            f = f / (f @ table @ f).sqrt()
            compare.at_most((p - q) @ table @ f, squared.sqrt(), slack=1e-12, why=ROUNDING)


@pytest.mark.equation("mmd-estimate", "mmd-bias")
def test_with_and_without_the_pairs_of_a_point_and_itself(compare):
    """Exact expectation over all samples of three from three places, with and without the pairs."""
    places = torch.tensor([[0.0], [1.0], [2.5]], dtype=F64)
    p, q = masses(3, 0), masses(3, 1)
    index = torch.cartesian_prod(*[torch.arange(3)] * 3)  # every sample of three
    for kernel in KERNELS:
        table = kernel(places, places)
        truth = (p - q) @ table @ (p - q)
        weight_x, weight_y = p[index].prod(1), q[index].prod(1)
        unbiased = biased = torch.zeros((), dtype=F64)
        for i, a in zip(index, weight_x, strict=True):
            for j, b in zip(index, weight_y, strict=True):
                x, y = places[i], places[j]
                unbiased = unbiased + a * b * mmd(x, y, kernel=kernel)
                v = kernel(x, x).mean() + kernel(y, y).mean() - 2 * kernel(x, y).mean()
                biased = biased + a * b * v
        compare(unbiased, truth, atol=1e-12, why=ROUNDING)
        diagonal = table.diagonal()
        bias = (p @ diagonal - p @ table @ p + q @ diagonal - q @ table @ q) / 3
        compare(biased - truth, bias, atol=1e-12, why=ROUNDING)


@pytest.mark.equation("mmd-null")
def test_the_noise_of_the_estimate(compare):
    """The standard deviation at n = 6, m = 4 by simulation; zeta by quadrature in one dimension."""
    kernel, n, m, repeats = imq(prior_scales(1)), 6, 4, 2_500
    draws = points(repeats * (n + m), 1, 3).view(repeats, n + m, 1)
    values = torch.stack([mmd(d[:n], d[n:], kernel=kernel) for d in draws])
    got = mmd_null_std(1, n, m, kernel=kernel)
    error = values.square().std() / (2 * got * repeats**0.5)
    compare(values.square().mean().sqrt(), got, atol=4 * error.item(), why=FOUR_ERRORS)
    z = torch.arange(-9, 9, 0.02, dtype=F64)
    weight = torch.distributions.Normal(0.0, 1.0).log_prob(z).exp() * 0.02
    table = kernel(z[:, None], z[:, None])
    mean = table @ weight
    centred = table - mean[:, None] - mean + weight @ mean
    zeta = weight @ centred.square() @ weight
    pairs = 2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)
    compare(got, (zeta * pairs).sqrt(), atol=1e-8, why="trapezium rule, converges geometrically")


@pytest.mark.equation("imq-kernel", "rbf-kernel", "imq-mixture")
def test_the_two_kernels(compare):
    """The tables against their formulas, and the IMQ against scipy's integral over widths."""
    x, y = points(3, 2, 0), points(4, 2, 1)
    squares = (x[:, None] - y).square().sum(2)
    compare(imq([0.5, 3.0])(x, y), 0.5 / (0.5 + squares) + 3 / (3 + squares), atol=1e-14,
            why=ROUNDING)  # fmt: skip
    compare(rbf(2.0)(x, y), torch.exp(-squares / 2), atol=1e-14, why=ROUNDING)
    for c, square in ((0.5, 0.1), (16.0, 40.0)):
        integral, _ = quad(lambda t, r: math.exp(-t - t * r), 0, math.inf, args=(square / c,))
        got = imq(c).of_squares(torch.tensor(square, dtype=F64))
        compare(got, integral, atol=1e-8, why="scipy's quadrature")


@pytest.mark.equation("prior-distance", "distance-concentration")
def test_distances_of_prior_samples(compare):
    """Mean and standard deviation of 2 sigma^2 chi-square with d degrees, and of 20 000 draws."""
    for dim, std in ((2, 1.0), (64, 0.5)):
        square = 2 * std**2 * chi2(dim).mean(), 2 * std**2 * chi2(dim).std()
        (scale,) = prior_scales(dim, std, factors=[1.0])
        compare(scale, square[0], atol=1e-12, why=ROUNDING)
        compare(square[1] / square[0], math.sqrt(2 / dim), atol=1e-12, why=ROUNDING)
        draws = std * points(40_000, dim, 5)
        apart = (draws[:20_000] - draws[20_000:]).square().sum(1)
        error = apart.std().item() / 20_000**0.5
        compare(apart.mean(), scale, atol=4 * error, why=FOUR_ERRORS)


@pytest.mark.equation("gaussian-mmd")
def test_between_gaussians(compare):
    """The closed form against a sum over a fine grid, and the mean of estimates in 4 dimensions."""
    z = torch.arange(-9, 9, 0.02, dtype=F64)
    mean, std = torch.tensor([0.7], dtype=F64), torch.tensor([0.4], dtype=F64)
    codes, prior = torch.distributions.Normal(mean, std), torch.distributions.Normal(0.0, 1.0)
    apart = (codes.log_prob(z).exp() - prior.log_prob(z).exp()) * 0.02
    for kernel in KERNELS:
        table = kernel(z[:, None], z[:, None])
        compare(gaussian_mmd(mean, std, kernel=kernel), apart @ table @ apart, atol=1e-9,
                why="trapezium rule, converges geometrically")  # fmt: skip
        mean4, std4 = points(1, 4, 6)[0] / 2, torch.rand(4, generator=generator(7), dtype=F64)
        values = torch.stack([
            mmd(mean4 + std4 * points(30, 4, 20 + s), points(30, 4, 900 + s), kernel=kernel)
            for s in range(300)
        ])  # fmt: skip
        want = gaussian_mmd(mean4, std4, kernel=kernel)
        compare(values.mean(), want, atol=4 * values.std().item() / 300**0.5, why=FOUR_ERRORS)


@pytest.mark.equation("outlier-pull")
def test_the_pull_on_a_code_far_away(compare):
    """Slope of -2 k at distance R, by autograd, against the two formulas."""
    c = 4.0
    for reach in (1.0, 3.0, 10.0):
        slopes = []
        for kernel in (imq(c), rbf(c)):
            code = torch.tensor([[reach, 0.0]], dtype=F64, requires_grad=True)
            pull = -2 * kernel(code, torch.zeros(1, 2, dtype=F64)).sum()
            slopes.append(torch.autograd.grad(pull, code)[0].norm())
        want = [4 * c * reach / (c + reach**2) ** 2, 4 * reach / c * math.exp(-(reach**2) / c)]
        compare(torch.stack(slopes), torch.tensor(want, dtype=F64), atol=1e-12, why=ROUNDING)


@pytest.mark.equation("energy-is-mmd")
def test_the_energy_distance_is_one(compare):
    """MMD with the kernel -|x - y| against chapter 2's estimate, on unequal samples."""
    x, y = points(7, 3, 0), points(5, 3, 1) + 0.4
    got = mmd(x, y, kernel=lambda a, b: -squared_distances(a, b).sqrt())
    compare(got, energy_distance(x, y), atol=1e-12, why=ROUNDING)
