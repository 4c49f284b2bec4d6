"""What the KL term is made of, and what a minibatch sees of it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tests.metrics.worlds import generator
from tutor.metrics import (
    aggregate_log_marginals,
    aggregate_log_prob,
    minibatch_stratified,
    minibatch_weighted,
    stratified_log_weights,
    surgery,
    surgery_monte_carlo,
)
from tutor.posteriors import DiagonalGaussian

FOUR_ERRORS = "four standard errors, measured on the same draws"
STEP = 0.02  # of the plain grids below: a quarter of the narrowest deviation
INTEGRAL = "plain sums over a grid of a quarter of the narrowest deviation; moves below 1e-3 end it"


def posteriors(n: int = 40, dim: int = 2, seed: int = 0, log_var: float = -3.5) -> DiagonalGaussian:
    g = generator(seed)
    means = torch.randn(n, dim, generator=g, dtype=torch.float64)
    means[:, -1] += 0.8 * means[:, 0]  # correlated means: the aggregate has a total correlation
    spread = 0.5 * torch.randn(n, dim, generator=g, dtype=torch.float64)
    return DiagonalGaussian(means, log_var + spread)


def axis() -> Tensor:
    return torch.arange(-6, 6, STEP, dtype=torch.float64)


def densities(q: DiagonalGaussian) -> tuple[Tensor, Tensor]:
    """q(z_j|x_n) on the axis, one table a dimension, by torch's own normal density."""
    first, second = (
        Normal(q.mean[:, j, None], q.stddev[:, j, None]).log_prob(axis()).exp() for j in (0, 1)
    )
    return first, second  # (n, points) each


def integral(p: Tensor, ratio_log: Tensor, step: float) -> Tensor:
    """Sum of p times a log-ratio, where p is not zero."""
    return torch.where(p > 0, p * ratio_log, 0.0).sum() * step


def parts_by_definition(q: DiagonalGaussian) -> dict[str, Tensor]:
    """Every part as the divergence it is defined to be, on a plain grid of the plane."""
    first, second = densities(q)
    prior = Normal(0.0, 1.0).log_prob(axis())
    log_prior = prior[:, None] + prior
    joint = first.T @ second / len(first)
    marginals = first.mean(0), second.mean(0)
    log_product = marginals[0].log()[:, None] + marginals[1].log()
    information = torch.stack(
        [
            integral(one := a[:, None] * b, one.log() - joint.log(), STEP**2)
            for a, b in zip(first, second, strict=True)
        ]
    )
    return {
        "mutual_information": information.mean(),
        "marginal_kl": integral(joint, joint.log() - log_prior, STEP**2),
        "total_correlation": integral(joint, joint.log() - log_product, STEP**2),
        "dimension_kl": torch.stack([integral(m, m.log() - prior, STEP) for m in marginals]),
    }


@pytest.mark.equation("aggregate-posterior")
def test_aggregate_posterior_is_the_mixture(compare):
    """log q(z) against torch's mixture distribution, and its integral over the plane against 1."""
    q = posteriors()
    mixture = MixtureSameFamily(
        Categorical(torch.ones(40, dtype=torch.float64)), Independent(Normal(q.mean, q.stddev), 1)
    )
    z = torch.cartesian_prod(axis()[::5], axis()[::5])
    got = aggregate_log_prob(q.mean, q.log_var, z)
    compare(got, mixture.log_prob(z), atol=1e-9, why="logarithms down to -10^4 in float64")
    compare(
        got.exp().sum() * (5 * STEP) ** 2,
        1.0,
        atol=1e-3,
        why="spacing 0.1 against a narrowest deviation of 0.08",
    )


@pytest.mark.equation("elbo-surgery")
def test_surgery_of_the_average_kl(compare):
    """The average KL against I(x;z) + KL(q(z)||p(z)), each by its own definition on a grid."""
    q = posteriors()
    parts, truth = surgery(q), parts_by_definition(q)
    total = truth["mutual_information"] + truth["marginal_kl"]
    compare(parts.rate, total, atol=1e-6, why=INTEGRAL)
    compare(parts.marginal_kl, truth["marginal_kl"], atol=1e-6, why=INTEGRAL)


@pytest.mark.equation("elbo-surgery", "kl-decomposition")
def test_sampled_surgery_agrees_with_the_exact(compare):
    """Every part by 20 000 draws from q(z) against its exact value."""
    q = posteriors()
    exact = surgery(q)
    sampled = surgery_monte_carlo(q, samples=20_000, generator=generator(1))
    for got, want, error in zip(sampled.value, exact, sampled.standard_error, strict=True):
        compare.at_most((got - want).abs() / error, torch.full_like(want, 4), why=FOUR_ERRORS)


@pytest.mark.equation("mutual-information")
def test_mutual_information(compare):
    """I(x;z): the mean of KL(q(z|x)||q(z)) on a grid; log N for codes apart; 0 for equal codes."""
    q = posteriors()
    truth = parts_by_definition(q)["mutual_information"]
    compare(surgery(q).mutual_information, truth, atol=1e-6, why=INTEGRAL)
    apart = 20.0 * torch.arange(8, dtype=torch.float64).unsqueeze(1)
    none = torch.zeros_like(apart)
    why = "codes 20 deviations apart; entropies settle to 1e-3 with an error far below"
    information = surgery(DiagonalGaussian(apart, none)).mutual_information
    compare(information, math.log(8), atol=1e-9, why=why)
    equal = surgery(DiagonalGaussian(none, none)).mutual_information
    compare(equal, 0.0, atol=1e-9, why="one Gaussian, whose entropy is known in closed form")


@pytest.mark.equation("kl-decomposition")
def test_decomposition_of_the_marginal_kl(compare):
    """KL(q(z)||p(z)) against TC + sum_j KL(q(z_j)||p(z_j)), each by its definition on a grid."""
    q = posteriors()
    parts, truth = surgery(q), parts_by_definition(q)
    compare(parts.total_correlation, truth["total_correlation"], atol=1e-6, why=INTEGRAL)
    compare(parts.dimension_kl, truth["dimension_kl"], atol=1e-6, why=INTEGRAL)
    total = truth["total_correlation"] + truth["dimension_kl"].sum()
    compare(parts.marginal_kl, total, atol=1e-6, why=INTEGRAL)


@pytest.mark.equation("kl-decomposition")
def test_total_correlation_of_independent_codes(compare):
    """TC of all pairs of two sets of codes, whose aggregate is a product, against 0."""
    a = torch.tensor([-1.0, 0.2, 1.5], dtype=torch.float64)
    b = torch.tensor([-0.5, 0.0, 0.7, 2.0], dtype=torch.float64)
    means = torch.cartesian_prod(a, b)
    parts = surgery(DiagonalGaussian(means, torch.full_like(means, -3.0)))
    compare(parts.total_correlation, 0.0, atol=1e-6, why="three entropies settled to 1e-3 each")


@pytest.mark.equation("mws")
def test_weighted_sampling_against_its_sum(compare):
    """MWS against log 1/(N M) sum_j q(z_i|x_j), term by term, for the joint and the marginals."""
    data_size, q = 1000, posteriors(6, dim=3)
    z = q.sample(generator=generator(2))
    got = minibatch_weighted(q, z, data_size)
    for i in range(6):
        each = Normal(q.mean, q.stddev).log_prob(z[i]).exp()  # (6, 3)
        joint = (each.prod(1).sum() / (data_size * 6)).log()
        compare(got.joint[i], joint, atol=1e-9, why="the same sum outside the logarithm")
        marginals = (each.sum(0) / (data_size * 6)).log()
        compare(got.marginals[i], marginals, atol=1e-9, why="the same sum outside the logarithm")


@pytest.mark.equation("mws")
def test_offset_of_weighted_sampling(compare):
    """MWS minus the exact log q(z): -log M where codes don't overlap, -log N where all do."""
    batch, data_size = 4, 32
    apart = 30.0 * torch.arange(data_size, dtype=torch.float64).unsqueeze(1)
    for means, offset in ((apart, math.log(batch)), (0 * apart, math.log(data_size))):
        log_var = torch.zeros_like(means)
        q = DiagonalGaussian(means[:batch], log_var[:batch])
        z = q.sample(generator=generator(3))
        exact = aggregate_log_prob(means, log_var, z)
        shift = minibatch_weighted(q, z, data_size).joint - exact
        compare(shift, torch.full_like(shift, -offset), atol=1e-9, why="no overlap, or complete")


@pytest.mark.equation("mss")
def test_stratified_sampling_is_unbiased(compare):
    """MSS averaged over every batch that can be drawn around one code against the exact q(z)."""
    data_size, batch = 6, 3
    q = posteriors(data_size)
    z = q.sample(generator=generator(4))
    for own in range(data_size):
        joint, marginals = [], []
        others = [n for n in range(data_size) if n != own]
        for rest in itertools.permutations(others, batch - 1):
            index = [own, *rest]
            seen = DiagonalGaussian(q.mean[index], q.log_var[index])
            density = minibatch_stratified(seen, z[index], data_size)
            joint.append(density.joint[0].exp())
            marginals.append(density.marginals[0].exp())
        here = z[own, None]
        exact = aggregate_log_prob(q.mean, q.log_var, here)[0].exp()
        why = "all 20 ordered batches: an exact mean, rounded in float64"
        compare(torch.stack(joint).mean(), exact, atol=1e-12, why=why)
        exact = aggregate_log_marginals(q.mean, q.log_var, here)[0].exp()
        compare(torch.stack(marginals).mean(0), exact, atol=1e-12, why=why)


def column_zero_weights(batch: int, data_size: int) -> Tensor:
    """The mistake in circulation: the row's own weight and stratum go to columns 0 and 1."""
    weights = torch.full((batch, batch), 1 / (batch - 1), dtype=torch.float64)
    weights[:, 0] = 1 / data_size
    weights[:, 1] = (data_size - batch + 1) / (data_size * (batch - 1))
    return weights


@pytest.mark.equation("mss")
def test_weights_off_the_diagonal_are_biased(compare):
    """Mean q(z) over 1500 batches: diagonal weights against the truth, column-0 weights above."""
    data_size, batch, repeats = 50, 8, 1500
    g = generator(5)
    means = torch.rand(data_size, 1, generator=g, dtype=torch.float64) * 4 - 2
    log_var = torch.full_like(means, math.log(0.05**2))
    wrong, right, exact = [], [], []
    for _ in range(repeats):
        index = torch.randperm(data_size, generator=g)[:batch]
        q = DiagonalGaussian(means[index], log_var[index])
        z = q.sample(generator=g)
        right.append(minibatch_stratified(q, z, data_size).joint.exp().mean())
        exact.append(aggregate_log_prob(means, log_var, z).exp().mean())
        table = Normal(q.mean.T, q.stddev.T).log_prob(z).exp()  # (codes, posteriors)
        wrong.append((column_zero_weights(batch, data_size) * table).sum(1).mean())
    right, exact, wrong = map(torch.stack, (right, exact, wrong))
    difference = right - exact
    z_score = difference.mean().abs() * math.sqrt(repeats) / difference.std()
    compare.at_most(z_score, 4.0, why=FOUR_ERRORS)
    compare.at_most(2 * exact.mean(), wrong.mean(), why="the bias is far larger than its error")


@pytest.mark.equation("mss")
def test_two_mistakes_in_the_weights_and_what_they_do_to_a_total_correlation(compare):
    """TC of 10 000 posteriors in 10 dimensions: MSS beside the exact value, both mistakes far off.

    The first puts the weights into columns 0 and 1, the second adds their logarithm to every
    coordinate, so that the joint density gets them ten times.
    """
    data_size, batch, repeats = 10_000, 64, 20
    everybody = posteriors(data_size, 10, seed=3, log_var=2 * math.log(0.3))
    right, columns, often, exact = [], [], [], []
    g = generator(4)
    for _ in range(repeats):
        index = torch.randperm(data_size, generator=g)[:batch]
        q = DiagonalGaussian(everybody.mean[index], everybody.log_var[index])
        z = q.sample(generator=g)  # (64, 10)
        each = Normal(q.mean, q.stddev).log_prob(z[:, None])  # (codes, posteriors, dimensions)
        density = minibatch_stratified(q, z, data_size)
        right.append((density.joint - density.marginals.sum(1)).mean())
        columns.append(weighed_tc(each, column_zero_weights(batch, data_size).log()))
        weights = stratified_log_weights(batch, data_size)[..., None]
        joint = (each + weights).sum(2).logsumexp(1)
        often.append((joint - (each + weights).logsumexp(1).sum(1)).mean())
        joint = aggregate_log_prob(everybody.mean, everybody.log_var, z)
        marginals = aggregate_log_marginals(everybody.mean, everybody.log_var, z)
        exact.append((joint - marginals.sum(1)).mean())
    right, columns, often, exact = (torch.stack(v).mean() for v in (right, columns, often, exact))
    compare(right, exact, atol=1.0, why="a log of an unbiased density is biased: 0.4 here")
    compare.at_most(right + 2, columns, why="measured: four nats above the right weights")
    compare.at_most(often, exact - 20, why="measured: sixty nats below zero")


def weighed_tc(each: Tensor, log_weights: Tensor) -> Tensor:
    """Mean of log q(z) - sum_j log q(z_j) under given weights ``(codes, posteriors)``."""
    joint = (each.sum(2) + log_weights).logsumexp(1)
    return (joint - (each + log_weights[..., None]).logsumexp(1).sum(1)).mean()


@pytest.mark.equation("mss")
@pytest.mark.parametrize(("batch", "data_size"), [(2, 2), (3, 10), (64, 10_000)])
def test_stratified_weights(compare, batch, data_size):
    """Rows of the MSS weights sum to 1, with 1/N on the diagonal."""
    weights = stratified_log_weights(batch, data_size).exp()
    ones = torch.ones(batch, dtype=torch.float64)
    compare(weights.sum(1), ones, atol=1e-12, why="rounding of up to 64 terms")
    compare(weights.diagonal(), ones / data_size, atol=1e-12, why="rounding")
