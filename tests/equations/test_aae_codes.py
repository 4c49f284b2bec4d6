"""Chapter 2, codes and their prior: penalty, labels, posteriors, distances, Parzen windows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import i0e, i1e
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn.functional import logsigmoid

from tests.metrics.worlds import generator
from tutor import ppca
from tutor.metrics import (
    classifier_two_sample,
    clustering_error,
    energy_distance,
    majority_error,
    parzen_log_prob,
    sliced_wasserstein,
)
from tutor.models import AAE
from tutor.priors import Gaussian, GaussianMixture

F64 = torch.float64
ROUNDING = "the same finite sums in another order, float64"
FOUR_ERRORS = "four standard errors, measured on the same draws"


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum()


def js(p: Tensor, q: Tensor) -> Tensor:
    m = (p + q) / 2
    return (kl(p, m) + kl(q, m)) / 2


def shares(*shape: int, seed: int) -> Tensor:
    """Rows of positive shares that add up to one."""
    raw = torch.rand(*shape, generator=generator(seed), dtype=F64) + 0.01
    return raw / raw.sum(-1, keepdim=True)


# -- the penalty --------------------------------------------------------------------------------


@pytest.mark.equation("r1-penalty")
def test_the_penalty_that_the_model_adds(compare):
    """The discriminator's loss in AAE.step less the plain one, against finite differences."""
    torch.manual_seed(0)
    weight, x = 0.7, torch.rand(40, 1, 28, 28)
    model = AAE(gradient_penalty=weight).double()
    judge = model.discriminator

    def turn(penalty: float) -> Tensor:
        model.gradient_penalty = penalty
        torch.manual_seed(1)
        (found,) = [t for t in model.step(x.double()) if t.player == "discriminator"]
        return found.loss

    got = turn(weight) - turn(0.0)
    torch.manual_seed(1)
    real = model.prior.sample((40,))
    fake = model.encode(x.double()).rsample().detach()
    squares = torch.zeros((), dtype=F64)
    with torch.no_grad():
        for z in (real, fake):
            for axis in torch.eye(2, dtype=F64) * 1e-6:
                slope = (judge(z + axis) - judge(z - axis)) / 2e-6
                squares += slope.square().mean()
    compare(got, weight / 2 * squares, atol=1e-8, why="central differences of a piecewise linear t")


# -- labels -------------------------------------------------------------------------------------


def labelled_world(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Class shares (3,), p(z|y) and q(z|y) as rows (3, 6)."""
    return shares(3, seed=seed), shares(3, 6, seed=seed + 1), shares(3, 6, seed=seed + 2)


@pytest.mark.equation("conditional-logit", "conditional-js")
def test_the_discriminator_that_sees_the_label(compare):
    """Slope of its value at log p(z|y) - log q(z|y), and the value, by enumeration."""
    share, p, q = labelled_world()
    best = (p.log() - q.log()).requires_grad_()
    value = (share[:, None] * (p * logsigmoid(best) + q * logsigmoid(-best))).sum()
    (slope,) = torch.autograd.grad(value, best)
    compare(slope, torch.zeros_like(slope), atol=1e-15, why=ROUNDING)
    mean_js = sum(s * js(a, b) for s, a, b in zip(share, p, q, strict=True))
    compare(value, 2 * mean_js - math.log(4), atol=1e-14, why=ROUNDING)


@pytest.mark.equation("js-of-mixtures")
def test_matching_the_classes_matches_the_whole(compare):
    """JS of the mixtures, against the mean JS of the classes, in 200 random worlds."""
    small, large = [], []
    for seed in range(200):
        share, p, q = labelled_world(seed)
        small.append(js(share @ p, share @ q).item())
        large.append(sum(s * js(a, b) for s, a, b in zip(share, p, q, strict=True)).item())
    compare.at_most(np.array(small), np.array(large), why="JS is jointly convex")


@pytest.mark.equation("partial-labels")
def test_the_value_when_some_labels_are_unknown(compare):
    """Best value over (z, slot) with K + 1 slots by enumeration, against the sum of its parts."""
    share, p, q = labelled_world()
    unlabelled = shares(6, seed=9)  # codes of images without label
    for known in (0.0, 0.3, 1.0):
        slots = torch.cat([known * share, torch.tensor([1 - known], dtype=F64)])
        real = slots[:, None] * torch.cat([p, (share @ p)[None]])
        fake = slots[:, None] * torch.cat([q, unlabelled[None]])
        both = torch.stack([real, fake])
        value = torch.special.xlogy(both, both / both.sum(0).clamp(min=1e-300)).sum()
        classes = sum(s * js(a, b) for s, a, b in zip(share, p, q, strict=True))
        want = 2 * (known * classes + (1 - known) * js(share @ p, unlabelled)) - math.log(4)
        compare(value, want, atol=1e-14, why=ROUNDING)


@pytest.mark.equation("component-agreement")
def test_agreement_of_the_priors_own_draws(compare):
    """Share of draws by class that lie where their class is densest, against quadrature."""
    prior = GaussianMixture(10).double()
    labels = torch.arange(10).repeat(4000)
    z = prior.sample_class(labels, generator=generator(0))
    every = torch.stack([prior.log_prob_class(z, torch.full_like(labels, k)) for k in range(10)])
    measured = (every.argmax(0) == labels).double()
    axis = torch.arange(-4.5, 4.5, 0.02, dtype=F64)
    plane = torch.cartesian_prod(axis, axis)
    parts = torch.stack(
        [prior.log_prob_class(plane, torch.full((len(plane),), k)) for k in range(10)]
    )
    best = 0.02**2 * parts.max(0).values.exp().sum() / 10  # an integral of the largest class
    error = measured.std() / len(measured) ** 0.5
    compare(measured.mean(), best, atol=4 * error.item(), why=FOUR_ERRORS)


# -- three posteriors of four images ------------------------------------------------------------


@pytest.mark.equation("atoms-kl", "atoms-js")
def test_codes_that_shrink_to_points(compare):
    """KL and JS of N narrow Gaussians and N(0, 1), by quadrature near the points."""
    centres = torch.tensor([-1.5, -0.4, 0.3, 1.2], dtype=F64)
    for std in (1e-2, 1e-4, 1e-6):
        offset = torch.linspace(-9, 9, 1801, dtype=F64) * std
        z = (centres[:, None] + offset).flatten()
        log_q = -0.5 * (offset / std).square() - math.log(std) - 0.5 * math.log(2 * math.pi)
        log_q = log_q.repeat(4) - math.log(4)  # each point lies near one centre only
        log_p = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        cell = (offset[1] - offset[0]) * log_q.exp()
        divergence = (cell * (log_q - log_p)).sum()
        want = -math.log(4) - math.log(std) - 0.5 + (centres.square().mean() + std**2) / 2
        compare(divergence, want, atol=1e-10, why="trapezoid rule of a Gaussian, to 9 deviations")
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        from_q = (cell * (log_q - log_m)).sum()
        near = (offset[1] - offset[0]) * log_p.exp()
        from_p = math.log(2) * (1 - near.sum()) + (near * (log_p - log_m)).sum()  # beyond, m = p/2
        compare((from_q + from_p) / 2, math.log(2), atol=40 * std * math.log(1 / std),
                why="what the prior holds within nine deviations of a point")  # fmt: skip


def mean_distance(radius: Tensor) -> Tensor:
    """E |Z - c| in the plane with Z standard normal and |c| = radius."""
    half = radius.square().numpy() / 4
    bessel = (1 + 2 * half) * i0e(half) + 2 * half * i1e(half)
    return math.sqrt(math.pi / 2) * torch.as_tensor(bessel)


@pytest.mark.equation("energy-to-point")
def test_mean_distance_from_a_gaussian_to_a_point(compare):
    """The closed form with Bessel functions, against a sum over the plane."""
    axis = torch.arange(-9, 9, 0.02, dtype=F64) + 0.01  # the kink lies on no grid point
    plane = torch.cartesian_prod(axis, axis)
    weight = 0.02**2 * Gaussian(2).double().log_prob(plane).exp()
    radius = torch.tensor([0.0, 0.5, 1.0, 3.0], dtype=F64)
    point = torch.stack([radius, torch.zeros(4, dtype=F64)], 1)
    got = torch.stack([(weight * (plane - c).norm(dim=1)).sum() for c in point])
    compare(got, mean_distance(radius), atol=2e-5, why="midpoint rule over a kink, spacing 0.02")


def energy_to_gaussian(codes: Tensor) -> Tensor:
    """Squared energy distance of points, each with mass 1/n, from N(0, I) in the plane: exact."""
    within = torch.cdist(codes, codes).mean()
    return 2 * mean_distance(codes.norm(dim=1)).mean() - within - math.sqrt(math.pi)


@pytest.mark.equation("energy-of-draws")
def test_energy_distance_of_n_draws_from_their_own_law(compare):
    """Mean over 4000 samples of N points from N(0, I), against sqrt(pi) / N."""
    for n in (4, 40):
        g = generator(n)
        values = torch.stack(
            [energy_to_gaussian(torch.randn(n, 2, generator=g, dtype=F64)) for _ in range(4000)]
        )
        error = values.std() / len(values) ** 0.5
        compare(values.mean(), math.sqrt(math.pi) / n, atol=4 * error.item(), why=FOUR_ERRORS)


@pytest.mark.equation("universal-posterior")
def test_four_quadrants_make_the_prior(compare):
    """Mixture of the four folded normals against N(0, I), and I(x; z) against log 4, on a grid."""
    axis = torch.arange(-9, 9, 0.05, dtype=F64) + 0.025
    plane = torch.cartesian_prod(axis, axis)
    prior = Gaussian(2).double().log_prob(plane).exp()
    signs = torch.tensor([[1, 1], [-1, 1], [-1, -1], [1, -1]], dtype=F64)
    quadrants = torch.stack([((plane * s) > 0).all(1) for s in signs]).to(F64)
    posteriors = 4 * prior * quadrants
    cell = 0.05**2
    compare(cell * posteriors.sum(1), torch.ones(4, dtype=F64), atol=1e-10, why="midpoint rule")
    compare(posteriors.mean(0), prior, atol=1e-15, why=ROUNDING)
    information = torch.stack([cell * kl(row, prior) for row in posteriors]).mean()
    compare(information, math.log(4), atol=1e-10, why="midpoint rule")
    noise = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400, dtype=F64) + 0.5) / 400)
    z = signs[0] * torch.cartesian_prod(noise, noise).abs()  # the encoder of the text
    want = torch.tensor([math.sqrt(2 / math.pi)] * 2, dtype=F64)
    compare(z.mean(0), want, atol=2e-3, why="the mean of a folded normal, from 400 quantiles")


# -- distances between samples ------------------------------------------------------------------


@pytest.mark.equation("energy-distance")
def test_the_energy_distance_is_an_integral_of_squared_differences(compare):
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two Gaussians, against 2 int (F - G)^2."""

    def mean_absolute(mean: float, std: float) -> float:  # of N(mean, std^2): a folded normal
        inside = mean / (std * math.sqrt(2))
        return std * math.sqrt(2 / math.pi) * math.exp(-(inside**2)) + mean * math.erf(inside)

    x = torch.linspace(-14, 14, 20_001, dtype=F64)
    for shift, std in [(0.0, 1.0), (0.5, 1.0), (1.5, 2.0), (0.0, 0.3)]:
        p = torch.distributions.Normal(torch.tensor(0.0, dtype=F64), 1.0)
        q = torch.distributions.Normal(torch.tensor(shift, dtype=F64), std)
        want = 2 * (p.cdf(x) - q.cdf(x)).square().sum() * (x[1] - x[0])
        got = 2 * mean_absolute(shift, math.hypot(1, std)) - 2 / math.sqrt(math.pi) * (1 + std)
        compare(got, want, atol=1e-9, why="sum over 20 001 points of a smooth function")


@pytest.mark.equation("energy-bias")
def test_pairs_of_a_point_with_itself_bias_the_distance(compare):
    """Mean over all samples of two points each, with and without those pairs, by enumeration."""
    place = torch.tensor([0.0, 1.0, 3.5], dtype=F64)
    p, q = torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([0.6, 0.1, 0.3], dtype=F64)
    apart = (place[:, None] - place).abs()
    within = torch.stack([p @ apart @ p, q @ apart @ q])
    exact = 2 * p @ apart @ q - within.sum()
    without = torch.zeros((), dtype=F64)
    with_pairs = torch.zeros((), dtype=F64)
    for i, j, k, m in itertools.product(range(3), repeat=4):
        weight = p[i] * p[j] * q[k] * q[m]
        x, y = place[[i, j], None], place[[k, m], None]
        without += weight * energy_distance(x, y)
        between = 2 * torch.cdist(x, y).mean()
        with_pairs += weight * (between - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())
    compare(without, exact, atol=1e-14, why=ROUNDING)
    compare(with_pairs, exact + within.sum() / 2, atol=1e-14, why=ROUNDING)


@pytest.mark.equation("sliced-wasserstein")
def test_sorted_projections_are_optimal_and_their_mean_is_the_distance(compare):
    """The package's distance, against the cheapest assignment along 2000 even directions."""
    g = generator(3)
    x, y = torch.randn(7, 2, generator=g, dtype=F64), torch.randn(7, 2, generator=g, dtype=F64) + 1
    angle = math.pi * (torch.arange(2000, dtype=F64) + 0.5) / 2000
    costs = []
    for theta in torch.stack([angle.cos(), angle.sin()], 1)[::20]:
        table = ((x @ theta)[:, None] - y @ theta).abs().numpy()
        rows, columns = linear_sum_assignment(table)
        sorted_cost = ((x @ theta).sort().values - (y @ theta).sort().values).abs().mean()
        compare(sorted_cost, table[rows, columns].mean(), atol=1e-14, why=ROUNDING)
    for theta in torch.stack([angle.cos(), angle.sin()], 1):
        costs.append(((x @ theta).sort().values - (y @ theta).sort().values).abs().mean())
    got = sliced_wasserstein(x, y, directions=40_000, generator=g)
    spread = torch.stack(costs).std() / 200
    compare(got, torch.stack(costs).mean(), atol=4 * spread.item(), why=FOUR_ERRORS)


@pytest.mark.equation("best-accuracy")
def test_no_classifier_beats_the_total_variation(compare):
    """Accuracy of the best rule between N(0, 1) and N(d, 1), and of the package's, against it."""
    x = torch.linspace(-12, 14, 26_001, dtype=F64)
    p = torch.distributions.Normal(torch.tensor(0.0, dtype=F64), 1.0)
    for d in (0.5, 2.0):
        log_q = p.log_prob(x - d)
        best = torch.maximum(p.log_prob(x), log_q).exp().sum() * (x[1] - x[0]) / 2
        variation = (p.log_prob(x).exp() - log_q.exp()).abs().sum() * (x[1] - x[0]) / 2
        compare(best, 0.5 + variation / 2, atol=1e-9, why=ROUNDING)
        compare(best, p.cdf(torch.tensor(d / 2, dtype=F64)), atol=1e-6, why="the best cut is d / 2")
        g = generator(5)
        a, b = torch.randn(2, 4000, 1, generator=g, dtype=F64)
        found = classifier_two_sample(a, b + d, generator=g)
        compare.at_most(found.accuracy, best, slack=4 * found.standard_error.item(),
                        why="four standard errors of the accuracy")  # fmt: skip


# -- clusters, likelihood by samples, the bottleneck --------------------------------------------


@pytest.mark.equation("cluster-information")
def test_one_hot_and_even_codes_tell_log_k(compare):
    """I(x; y) of one-hot codes that use K clusters evenly, and of others, by enumeration."""

    def information(rows: Tensor) -> Tensor:
        return torch.stack([kl(row, rows.mean(0)) for row in rows]).mean()

    for clusters in (4, 10):
        rows = torch.eye(clusters, dtype=F64).repeat(3, 1)
        compare(information(rows), math.log(clusters), atol=1e-14, why=ROUNDING)
        softer = 0.9 * rows + 0.1 / clusters
        uneven = rows[: 2 * clusters + 1]
        others = torch.stack([information(softer), information(uneven)])
        want = torch.full((2,), math.log(clusters) - 1e-3)
        compare.at_most(others, want, why="soft or uneven codes tell less, by more than 0.001")


@pytest.mark.equation("parzen-smoothing")
def test_the_parzen_estimate_of_the_truth_itself(compare):
    """Mean log-density of N(0, I) under N(0, (c^2 + h^2) I), closed form against quadrature."""
    z = torch.linspace(-12, 12, 9601, dtype=F64)
    weight = (z[1] - z[0]) * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    for dim, width, bandwidth in [(1, 1.0, 0.3), (50, 1.0, 0.6), (784, 0.8, 0.2)]:
        variance = width**2 + bandwidth**2
        log_density = -0.5 * z.square() / variance - 0.5 * math.log(2 * math.pi * variance)
        want = -dim / 2 * (math.log(2 * math.pi * variance) + 1 / variance)
        compare(dim * (weight * log_density).sum() / abs(want), want / abs(want), atol=1e-12,
                why="trapezoid rule of a Gaussian, relative")  # fmt: skip


@pytest.mark.equation("linear-bottleneck")
def test_the_error_of_the_best_linear_autoencoder(compare):
    """Squared error left by d principal directions, against the sum of the other eigenvalues."""
    g = generator(0)
    x = torch.randn(300, 12, generator=g, dtype=F64) @ torch.randn(12, 12, generator=g, dtype=F64)
    centred = x - x.mean(0)
    values, vectors = ppca.principal_directions(x.T.cov(correction=0))
    for d in (0, 1, 5, 11):
        kept = vectors[:, :d]
        error = (centred - centred @ kept @ kept.T).square().sum(1).mean()
        compare(error, values[d:].sum(), atol=1e-10, why="float64 rounding")
        low = torch.linalg.qr(torch.randn(12, d, generator=g, dtype=F64)).Q
        other = (centred - centred @ low @ low.T).square().sum(1).mean()
        compare.at_most(error, other, slack=1e-9, why="no other directions do better")


@pytest.mark.equation("gumbel-max")
def test_the_largest_noisy_logit_is_a_draw(compare):
    """P(logit k with Gumbel noise is the largest), by quadrature, against the softmax."""
    g = torch.arange(-12, 40, 0.01, dtype=F64)

    def density(x: Tensor) -> Tensor:  # of -log e with e exponential of mean 1
        return torch.exp(-x - torch.exp(-x))

    def below(x: Tensor) -> Tensor:
        return torch.exp(-torch.exp(-x))

    for logits in ([0.0, 0.0, 0.0], [1.0, -0.5, 3.0, 2.0], [8.0, 0.0]):
        size = torch.tensor(logits, dtype=F64)
        others = [torch.cat([size[:j], size[j + 1 :]]) for j in range(len(size))]
        won = [
            0.01 * (density(g - size[j]) * below(g[:, None] - rest).prod(1)).sum()
            for j, rest in enumerate(others)
        ]
        compare(torch.stack(won), size.softmax(0), atol=1e-9, why="trapezoid rule, smooth tails")


@pytest.mark.equation("aae-even-clusters", "even-clusters")
def test_even_clusters_err_where_classes_do_not_fit(compare):
    """The bound, against every way to deal out classes to even clusters, by majority vote."""

    def bound(share: Tensor, clusters: int) -> float:
        ways = (n for n in itertools.product(range(clusters + 1), repeat=len(share)))
        whole = (torch.tensor(n, dtype=F64) for n in ways if sum(n) == clusters)
        return 1 - max(torch.minimum(share, n / clusters).sum().item() for n in whole)

    for counts, clusters in [((4, 2), 3), ((3, 3), 3), ((3, 3), 2), ((3, 2, 1), 3), ((6, 1, 1), 4)]:
        images = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        size = len(images) // clusters
        orders = set(itertools.permutations(images.tolist()))  # cut into clusters of equal size
        best = 1.0
        for order in orders:
            found = torch.arange(clusters).repeat_interleave(size)
            best = min(best, majority_error(found, torch.tensor(order)).item())
        share = torch.tensor(counts, dtype=F64) / len(images)
        compare(best, bound(share, clusters), atol=1e-12, why="counts of a few images")
    tenths = torch.full((10,), 0.1, dtype=F64)
    pairs = torch.tensor([2.0] * 6 + [1.0] * 4, dtype=F64)  # the best for equal classes
    compare(1 - torch.minimum(tenths, pairs / 16).sum(), 0.15, atol=1e-12, why=ROUNDING)


@pytest.mark.equation("clustering-error")
def test_a_cluster_is_named_after_its_surest_image(compare):
    """The package's error by the paper's protocol, against a loop over images; majority below."""
    for seed in range(3):
        q = shares(60, 5, seed=seed)
        labels = torch.randint(4, (60,), generator=generator(seed))
        wrong = 0
        for n in range(60):
            cluster = max(range(5), key=lambda k: q[n, k].item())
            surest = max(range(60), key=lambda i: q[i, cluster].item())
            wrong += int(labels[surest] != labels[n])
        error = clustering_error(q, labels)
        compare(error, wrong / 60, atol=0.0, why="counts")
        compare.at_most(majority_error(q.argmax(1), labels), error, why="a vote is kinder")


@pytest.mark.equation("parzen-window")
def test_the_parzen_window_is_a_mixture(compare):
    """The package's estimate, against torch's mixture distribution, and its mass on the plane."""
    g = generator(4)
    samples, h = torch.randn(9, 2, generator=g, dtype=F64), 0.4
    windows = Independent(Normal(samples, torch.full_like(samples, h)), 1)
    mixture = MixtureSameFamily(Categorical(torch.ones(9, dtype=F64)), windows)
    x = 2 * torch.randn(20, 2, generator=g, dtype=F64)
    compare(parzen_log_prob(x, samples, h), mixture.log_prob(x), atol=1e-10,
            why="squared distances by a matrix product, float64")  # fmt: skip
    axis = torch.arange(-7, 7, 0.05, dtype=F64)
    plane = torch.cartesian_prod(axis, axis)
    mass = 0.05**2 * parzen_log_prob(plane, samples, h).exp().sum()
    compare(mass, 1.0, atol=1e-8, why="a grid of an eighth of the bandwidth")


@pytest.mark.equation("style-leak")
def test_a_matched_style_may_tell_the_class(compare):
    """I(z; y) for classes on parts of the prior, and for classes that each fill it, by sums."""
    prior = torch.full((12,), 1 / 12, dtype=F64)
    share = torch.full((4,), 1 / 4, dtype=F64)

    def information(q: Tensor) -> Tensor:
        joint = share[:, None] * q
        return kl(joint.flatten(), (share[:, None] * (share @ q)).flatten())

    def leak(q: Tensor) -> Tensor:
        return sum(s * kl(row, share @ q) for s, row in zip(share, q, strict=True))

    parts = torch.eye(4, dtype=F64).repeat_interleave(3, 1) / 3
    both = torch.stack([share @ parts, share @ prior.expand(4, 12)])
    compare(both, prior.expand(2, 12), atol=1e-15, why="either way the styles fill the prior")
    compare(leak(parts), math.log(4), atol=1e-14, why=ROUNDING)
    compare(leak(prior.expand(4, 12)), 0.0, atol=1e-14, why=ROUNDING)
    mixed = shares(4, 12, seed=3)
    compare(leak(mixed), information(mixed), atol=1e-14, why=ROUNDING)
