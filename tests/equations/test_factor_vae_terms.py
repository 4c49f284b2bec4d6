"""Chapter 5: what rotations hide, the parts of the rate, and what a permuted row is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.equations.finite_codes import (
    SIZES,
    FiniteWorld,
    entropy,
    kl,
    marginal,
    product_of_marginals,
)
from tests.metrics.worlds import generator
from tutor import divergences, metrics
from tutor.divergences import gaussian_kl, gaussian_total_correlation
from tutor.models import VAE

F64 = torch.float64
SUMS = "the same finite sums in another order, float64"


def rotation(turn: float) -> Tensor:
    c, s = math.cos(turn), math.sin(turn)
    return torch.tensor([[c, -s], [s, c]], dtype=F64)


# -- rotations ------------------------------------------------------------------------------------


@pytest.mark.equation("rotation-unseen", "rotated-model")
def test_a_turned_model_has_the_same_evidence_and_elbo(compare):
    """Quadrature of the evidence, and the ELBO's two terms, before and after a rotation."""
    torch.manual_seed(0)
    shape, turned = (1, 2, 2), rotation(0.7)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4), nn.Unflatten(1, shape))
    back = nn.Linear(2, 2, bias=False)
    back.weight.data = turned.T.float()  # R^T z
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    plain = VAE(2, image_shape=shape, encoder=encoder, decoder=decoder).double()
    other = VAE(2, image_shape=shape, encoder=encoder, decoder=nn.Sequential(back, decoder))
    other = other.double()
    back.weight.data = turned.T  # in float64, not rounded to float32
    x = (torch.rand(6, *shape, generator=generator(1), dtype=F64) < 0.5).double()
    before, after = (metrics.log_likelihood(m, x, method="quadrature") for m in (plain, other))
    compare(after, before, atol=1e-6, why="the tolerance of the adaptive quadrature, both sides")
    with torch.no_grad():
        q = plain.encode(x)
        z = q.sample((50,), generator=generator(2))  # (50, 6, 2)
        moved = z @ turned.T
        terms = [m.decode(c.flatten(0, 1)).log_prob(x.repeat(50, 1, 1, 1))
                 for m, c in ((plain, z), (other, moved))]  # fmt: skip
    compare(terms[1], terms[0], atol=1e-12, why=SUMS)
    cov = turned @ torch.diag_embed(q.log_var.exp()) @ turned.T
    mean = q.mean @ turned.T
    trace = cov.diagonal(dim1=1, dim2=2).sum(1)
    full = 0.5 * (trace + mean.square().sum(1) - 2 - torch.logdet(cov))
    compare(full, gaussian_kl(q.mean, q.log_var), atol=1e-12, why=SUMS)


@pytest.mark.equation("factors-unidentified")
def test_a_map_that_mixes_all_and_keeps_the_distribution(compare):
    """For uniform coordinates: the map's Jacobian determinant is one, its inverse exists."""
    normal = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=generator(0), dtype=F64)).Q
    assert (turned.abs() > 0.05).all()

    def f(z: Tensor) -> Tensor:
        return normal.cdf(normal.icdf(z) @ turned.T)

    z = 0.01 + 0.98 * torch.rand(200, 3, generator=generator(1), dtype=F64)
    slopes = torch.stack([torch.autograd.functional.jacobian(f, row) for row in z])
    # A one-to-one map of the cube keeps the uniform density exactly if |det| = 1 everywhere.
    compare(
        torch.linalg.det(slopes).abs(),
        torch.ones(200, dtype=F64),
        atol=1e-8,
        why="products of normal densities and their inverses near the faces of the cube, float64",
    )
    compare(
        normal.cdf(normal.icdf(f(z)) @ turned),
        z,
        atol=1e-9,
        why="there and back, quantiles in float64",
    )
    compare.at_most(
        torch.full((200, 3, 3), 1e-6, dtype=F64),
        slopes.abs(),
        why="every coordinate depends on every other: no slope vanishes",
    )


# -- the parts of the rate ------------------------------------------------------------------------


@pytest.mark.equation("beta-splits")
def test_beta_weighs_three_parts(compare):
    """The mean objective with beta = 4 by its definition and by its parts, enumerated."""
    world, beta = FiniteWorld(), 4.0
    left = world.log_likelihood_of_codes - beta * world.rate
    single = sum(kl(marginal(world.q, (j,)).flatten(), p) for j, p in enumerate(world.parts))
    right = world.log_likelihood_of_codes - beta * (
        world.information + world.total_correlation + single
    )
    compare(right, left, atol=1e-12, why=SUMS)


@pytest.mark.equation("total-correlation", "tc-chain")
def test_three_ways_to_the_total_correlation(compare):
    """As a divergence, as a difference of entropies, and as a chain of mutual information."""
    q = FiniteWorld().q
    truth = kl(q, product_of_marginals(q))
    by_entropies = sum(entropy(marginal(q, (j,))) for j in range(3)) - entropy(q)
    compare(by_entropies, truth, atol=1e-12, why=SUMS)

    def information(of: tuple[int, ...], about: tuple[int, ...]) -> Tensor:
        both = marginal(q, tuple(sorted(of + about)))
        return kl(both, marginal(q, of) * marginal(q, about))

    chain = information((1,), (0,)) + information((2,), (0, 1))
    compare(chain, truth, atol=1e-12, why=SUMS)


@pytest.mark.equation("total-correlation")
def test_total_correlation_of_a_mixture(compare):
    """`metrics.surgery` on a mixture of Gaussians in the plane, against plain quadrature."""
    from tutor.posteriors import DiagonalGaussian

    means = torch.tensor([[-1.0, -1.0], [1.0, 0.8], [0.2, 1.5]], dtype=F64)
    log_vars = torch.tensor([[-1.0, -0.5], [-0.7, -1.5], [0.0, -1.0]], dtype=F64)
    axis = torch.linspace(-8, 8, 1601, dtype=F64)
    along = torch.distributions.Normal(means, (0.5 * log_vars).exp())
    density = along.log_prob(axis[:, None, None]).exp()  # (points, 3, 2)
    joint = density[..., 0] @ density[..., 1].T / 3
    first, second = density.mean(1).T
    truth = kl(joint, first[:, None] * second[None]) * (axis[1] - axis[0]) ** 2
    found = metrics.surgery(DiagonalGaussian(means, log_vars)).total_correlation
    compare(found, truth, atol=1e-5, why="the tolerance that surgery's grid works to")


@pytest.mark.equation("information-floor")
def test_no_decoder_beats_what_the_code_tells(compare):
    """The reconstruction term of 200 random decoders above the floor; the best one on it."""
    world = FiniteWorld()
    floor = entropy(world.data) - world.information
    joint = world.data[:, None] * world.encoder  # (images, codes)
    codes = math.prod(SIZES)
    for_every = (2 * torch.randn(200, codes, 5, generator=generator(5), dtype=F64)).softmax(-1)
    errors = -(joint.T * for_every.log()).sum((1, 2))
    compare.at_most(floor.expand(200), errors, why="an inequality; sums of 60 terms")
    best = (joint / joint.sum(0)).T  # q(x|z)
    compare(-(joint.T * best.log()).sum(), floor, atol=1e-12, why=SUMS)


@pytest.mark.equation("factor-vae-bound")
def test_still_a_bound(compare):
    """Objective, mean ELBO and mean log-likelihood in order, in 50 finite worlds."""
    rows = []
    for seed in range(50):
        world = FiniteWorld(seed)
        elbo = world.log_likelihood_of_codes - world.rate
        evidence = (world.data * (world.prior @ world.decoder).log()).sum()
        rows.append(torch.stack([elbo - 10 * world.total_correlation, elbo, evidence]))
    objective, elbo, evidence = torch.stack(rows, 1)
    compare.at_most(objective, elbo, why="an inequality; sums of 60 terms")
    compare.at_most(elbo, evidence, why="an inequality; sums of 60 terms")


@pytest.mark.equation("gaussian-tc")
def test_total_correlation_of_gaussians(compare):
    """The formula against quadrature in the plane, and against the chain in five dimensions."""
    cov = torch.tensor([[1.5, -0.9], [-0.9, 0.8]], dtype=F64)
    axis = torch.linspace(-12, 12, 2401, dtype=F64)
    plane = torch.cartesian_prod(axis, axis)
    joint = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=F64), cov)
    single = torch.distributions.Normal(torch.zeros(2, dtype=F64), cov.diagonal().sqrt())
    log_q = joint.log_prob(plane)
    ratio = log_q - single.log_prob(plane).sum(1)
    truth = (log_q.exp() * ratio).sum() * (axis[1] - axis[0]) ** 2
    compare(gaussian_total_correlation(cov), truth, atol=1e-9, why="trapezoid rule on a Gaussian")
    factor = torch.randn(5, 5, generator=generator(3), dtype=F64)
    cov = factor @ factor.T + 0.2 * torch.eye(5, dtype=F64)
    chain = torch.zeros((), dtype=F64)
    for j in range(1, 5):  # I(z_j; z_<j) from the variance that is left
        before, with_j = cov[:j, :j], cov[:j, j]
        left = cov[j, j] - with_j @ torch.linalg.solve(before, with_j)
        chain += 0.5 * (cov[j, j] / left).log()
    compare(gaussian_total_correlation(cov), chain, atol=1e-12, why=SUMS)


@pytest.mark.equation("tc-of-nothing")
def test_an_encoder_that_ignores_the_image(compare):
    """q(z|x) = p(z): no total correlation and no information, enumerated."""
    world = FiniteWorld()
    world.encoder = world.prior.expand(5, -1)
    got = torch.stack([world.total_correlation, world.information])
    compare(got, torch.zeros(2, dtype=F64), atol=1e-12, why=SUMS)


@pytest.mark.equation("uncorrelated-dependent")
def test_uncorrelated_and_dependent(compare):
    """Three equally likely points: no covariance, 0.637 nats of total correlation."""
    first = math.sqrt(1.5) * torch.tensor([-1.0, 0.0, 1.0], dtype=F64)
    second = math.sqrt(2) * (1 - first.square())
    for value in (first, second):  # so that no penalty on variances sees anything either
        compare(value.square().mean(), torch.ones((), dtype=F64), atol=1e-15, why="three numbers")
    covariance = (first * second).mean() - first.mean() * second.mean()
    compare(covariance, torch.zeros((), dtype=F64), atol=1e-15, why="a sum of three numbers")
    joint = torch.zeros(3, 2, dtype=F64)
    for i, value in enumerate(second):
        joint[i, int(value > 0)] = 1 / 3
    formula = math.log(3) - 2 / 3 * math.log(2)
    compare(kl(joint, product_of_marginals(joint)), torch.tensor(formula), atol=1e-7, why=SUMS)
    compare(torch.tensor(0.637), torch.tensor(formula), atol=5e-4, why="three printed digits")


# -- permuted rows --------------------------------------------------------------------------------


def permuted_row(q: Tensor, n: int) -> Tensor:
    """The law of one permuted row by the theorem, from which coordinates share a code."""
    d, table = q.dim(), torch.zeros_like(q)
    for numbers in itertools.product(range(n), repeat=d):  # which code each entry comes from
        blocks: dict[int, list[int]] = {}
        for j, number in enumerate(numbers):
            blocks.setdefault(number, []).append(j)
        part = torch.ones_like(q)
        for block in blocks.values():
            part = part * marginal(q, tuple(block))
        table = table + part / n**d
    return table


def partitions(items: list[int]):
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in partitions(rest):
        for i, block in enumerate(smaller):
            yield [*smaller[:i], [first, *block], *smaller[i + 1 :]]
        yield [[first], *smaller]


@pytest.mark.equation("permuted-row-theorem", "permuted-row")
def test_the_law_of_a_permuted_row(compare):
    """The mixture over partitions against all batches of three codes and all permutations."""
    q, n = FiniteWorld().q, 3
    codes = torch.tensor(list(itertools.product(*map(range, SIZES))))  # (12, 3)
    chance = q.flatten()
    batches = torch.cartesian_prod(*[torch.arange(len(codes))] * n)  # (1728, n): every batch
    weight = chance[batches].prod(1)
    truth = torch.zeros(SIZES, dtype=F64)
    orders = list(itertools.permutations(range(n)))
    for chosen in itertools.product(orders, repeat=3):  # an order for each column
        row = [codes[batches[:, order[0]], j] for j, order in enumerate(chosen)]  # the first row
        truth.index_put_(tuple(row), weight, accumulate=True)
    truth /= len(orders) ** 3
    formula = torch.zeros(SIZES, dtype=F64)
    for blocks in partitions([0, 1, 2]):
        count = math.perm(n, len(blocks)) / n**3
        part = torch.ones(SIZES, dtype=F64)
        for block in blocks:
            part = part * marginal(q, tuple(block))
        formula += count * part
    compare(formula, truth, atol=1e-12, why=SUMS)
    plane = marginal(q, (0, 1)).squeeze(-1)
    compare(
        permuted_row(plane, 7),
        6 / 7 * product_of_marginals(plane) + plane / 7,
        atol=1e-12,
        why=SUMS,
    )


@pytest.mark.equation("permutation-bias")
def test_what_a_permuted_batch_hides(compare):
    """Divergence and largest logit against permuted rows below their limits, in 20 worlds."""
    seen, limit, highest, ceiling = [], [], [], []
    for seed in range(20):
        q = FiniteWorld(seed).q
        for n in (2, 3, 5):
            law = permuted_row(q, n)
            seen.append(kl(q, law))
            limit.append((1 - n**-2) * kl(q, product_of_marginals(q)))
            highest.append((q.log() - law.log()).max())
            ceiling.append(torch.tensor(2 * math.log(n), dtype=F64))
    compare.at_most(torch.stack(seen), torch.stack(limit), why="an inequality of finite sums")
    compare.at_most(torch.stack(highest), torch.stack(ceiling), why="an inequality of finite sums")


@pytest.mark.equation("permuted-row")
def test_permute_dims_makes_such_rows(compare):
    """The share of rows that kept two entries together, over 4000 permuted batches of five."""
    n, batches = 5, 4_000
    codes, g = torch.arange(n, dtype=F64)[:, None].expand(n, 3), generator(0)
    rows = torch.cat([divergences.permute_dims(codes, generator=g) for _ in range(batches)])
    together = (rows[:, 0] == rows[:, 1]).double()
    every = ((rows[:, 0] == rows[:, 1]) & (rows[:, 1] == rows[:, 2])).double()
    # Rows of one batch are not independent; the batches are, so the error is taken over them.
    for found, share in ((together, 1 / n), (every, 1 / n**2)):
        means = found.view(batches, n).mean(1)
        error = means.std().item() / batches**0.5
        compare(means.mean(), torch.tensor(share), atol=4 * error, why="four standard errors")
