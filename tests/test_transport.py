"""Transport on finitely many points: by hand, by enumeration, against POT; refusals."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog
from scipy.stats import wasserstein_distance

from tutor.finite import jensen_shannon, kl, total_variation
from tutor.transport import (
    assignment,
    distance_table,
    exact_plan,
    sinkhorn,
    wae_theorem,
    wasserstein_1d,
)

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masses(n: int, seed: int) -> torch.Tensor:
    raw = torch.rand(n, generator=generator(seed), dtype=F64) + 0.05
    return raw / raw.sum()


def points(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=F64)


def world(n: int, m: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cost = distance_table(points(n, 2, seed), points(m, 2, seed + 1), power=2)
    return cost, masses(n, seed + 2), masses(m, seed + 3)


# -- divergences ----------------------------------------------------------------------------------


def test_divergences_by_their_sums():
    p, q = [0.5, 0.3, 0.2, 0.0], [0.1, 0.3, 0.2, 0.4]
    tp, tq = torch.tensor(p, dtype=F64), torch.tensor(q, dtype=F64)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def by_hand(p, q):
        return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    assert kl(tp, tq).item() == pytest.approx(by_hand(p, q), abs=1e-14)
    assert kl(tq, tp).item() == math.inf  # q has mass where p has none
    js = (by_hand(p, middle) + by_hand(q, middle)) / 2
    assert jensen_shannon(tp, tq).item() == pytest.approx(js, abs=1e-14)
    assert total_variation(tp, tq).item() == pytest.approx(0.4, abs=1e-14)


def test_total_variation_is_transport_at_unit_cost():
    p, q = masses(5, 0), masses(5, 1)
    moved = exact_plan(1 - torch.eye(5, dtype=F64), p, q).value
    assert moved.item() == pytest.approx(total_variation(p, q).item(), abs=1e-12)


# -- exact plans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_exact_plan_agrees_with_pot(seed):
    ot = pytest.importorskip("ot")
    cost, a, b = world(7, 5, 10 * seed)
    found = exact_plan(cost, a, b)
    theirs = ot.emd2(a.numpy(), b.numpy(), cost.numpy())
    assert found.value.item() == pytest.approx(theirs, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_plan_and_potentials_prove_each_other(seed):
    """Feasible on both sides and equal in value: both are optimal, whatever the solver did."""
    cost, a, b = world(6, 9, 10 * seed)
    plan, value, f, g = exact_plan(cost, a, b)
    slack = 1e-9  # of the solver, on numbers of size 1 to 10
    assert (plan >= -slack).all()
    assert (plan.sum(1) - a).abs().max() < slack
    assert (plan.sum(0) - b).abs().max() < slack
    assert (f.unsqueeze(1) + g - cost).max() < slack
    assert value.item() == pytest.approx((a @ f + b @ g).item(), abs=slack)


def test_masses_of_zero_get_nothing():
    cost, a, b = world(3, 3, 0)
    a = torch.tensor([0.5, 0.0, 0.5], dtype=F64)
    plan = exact_plan(cost, a, b).plan
    assert plan[1].abs().max() == 0
    blurred = sinkhorn(cost, a, b, 0.5)
    assert blurred.plan[1].abs().max() == 0
    assert blurred.value.isfinite()


def test_assignment_is_the_best_permutation():
    cost, *_ = world(6, 6, 3)
    best = min(
        sum(cost[i, j].item() for i, j in enumerate(order)) / 6
        for order in itertools.permutations(range(6))
    )
    found = assignment(cost)
    assert found.value.item() == pytest.approx(best, abs=1e-13)
    assert sorted(found.columns.tolist()) == list(range(6))
    sixth = torch.full((6,), 1 / 6, dtype=F64)
    # a corner of the plans with equal masses is a permutation, so the programme finds the same
    assert exact_plan(cost, sixth, sixth).value.item() == pytest.approx(best, abs=1e-9)


# -- the line -------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_on_the_line_by_the_linear_programme(p):
    x, y = points(6, 1, 0), points(4, 1, 1)
    a, b = masses(6, 2), masses(4, 3)
    truth = exact_plan(distance_table(x, y, power=p), a, b).value.item()
    assert wasserstein_1d(x[:, 0], y[:, 0], a, b, p=p).item() ** p == pytest.approx(truth, abs=1e-9)


def test_on_the_line_by_scipy():
    x, y = points(50, 1, 0)[:, 0], points(31, 1, 1)[:, 0]
    truth = wasserstein_distance(x.numpy(), y.numpy())
    assert wasserstein_1d(x, y).item() == pytest.approx(truth, abs=1e-12)


def test_gaussians_on_the_line():
    """Quantiles of N(0, 1) and N(1, 2^2): W_2^2 = 1 + (2 - 1)^2."""
    u = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    quantiles = torch.special.ndtri(u)
    got = wasserstein_1d(quantiles, 1 + 2 * quantiles, p=2)
    assert got.item() ** 2 == pytest.approx(2.0, abs=1e-3)  # the tails beyond 1/40 000


# -- with entropy ---------------------------------------------------------------------------------


def test_sinkhorn_agrees_with_pot():
    ot = pytest.importorskip("ot")
    cost, a, b = world(5, 8, 0)
    for epsilon in (0.1, 1.0):
        found = sinkhorn(cost, a, b, epsilon)
        theirs = ot.sinkhorn(
            a.numpy(), b.numpy(), cost.numpy(), epsilon, method="sinkhorn_log",
            stopThr=1e-12, numItermax=100_000,
        )  # fmt: skip
        assert (found.plan - torch.from_numpy(theirs)).abs().max() < 1e-8  # both stop near 1e-9


def test_sinkhorn_is_optimal_and_tends_to_the_exact_plan():
    cost, a, b = world(4, 5, 7)
    exact = exact_plan(cost, a, b)
    costs, blurs = [], []
    for epsilon in (0.01, 0.1, 1.0, 10.0, 1000.0):
        found = sinkhorn(cost, a, b, epsilon)
        assert found.marginal_error <= 1e-9
        assert (found.plan.sum(1) - a).abs().max() < 1e-12
        # first-order condition: log P is of the form (f + g - c) / epsilon, with equality
        if epsilon >= 0.1:  # below, some entries are too small for a float
            inner = found.plan.log() + cost / epsilon
            twist = inner[:-1, :-1] - inner[1:, :-1] - inner[:-1, 1:] + inner[1:, 1:]
            assert twist.abs().max() < 1e-6
        costs.append(found.cost.item())
        blurs.append(found.blur.item())
    assert costs == sorted(costs)
    assert blurs == sorted(blurs)
    assert costs[0] == pytest.approx(exact.value.item(), abs=0.01 * math.log(20))  # epsilon log nm
    assert costs[0] > exact.value.item() - 1e-8
    assert costs[-1] == pytest.approx((a @ cost @ b).item(), abs=0.02)  # the independent plan
    assert blurs[-1] == pytest.approx(math.exp(-(b * b.log()).sum().item()), abs=1e-3)


def test_sinkhorn_with_a_tiny_epsilon_does_not_overflow():
    cost, a, b = world(6, 6, 1)
    found = sinkhorn(100 * cost, a, b, 0.05, tolerance=1e-6)
    assert found.plan.isfinite().all()
    assert found.cost.item() == pytest.approx(100 * exact_plan(cost, a, b).value.item(), abs=0.2)


def test_sinkhorn_says_when_it_has_not_arrived():
    cost, a, b = world(6, 6, 1)
    with pytest.raises(RuntimeError, match="after 2 steps the marginal error"):
        sinkhorn(cost, a, b, 0.05, steps=2)


# -- through codes --------------------------------------------------------------------------------


def best_encoder(cost, p_x, p_z, likelihood):
    """The second side again, over q(z|x) itself instead of joint tables, with scipy."""
    n, codes = len(p_x), len(p_z)
    price = p_x[:, None] * (cost @ likelihood.T)
    rows = torch.block_diag(*[torch.ones(1, codes, dtype=F64)] * n)
    columns = torch.cat([torch.diag(p_x[i].expand(codes)) for i in range(n)], 1)
    sums = torch.cat([rows, columns]).numpy()
    answer = linprog(
        price.flatten().numpy(), A_eq=sums, b_eq=torch.cat([torch.ones(n), p_z]).numpy()
    )
    return answer.fun


@pytest.mark.parametrize("seed", range(8))
def test_both_sides_of_the_theorem_agree(seed):
    """More codes than images and fewer; several codes may give one image."""
    n, m, codes = 5, 4 + seed % 3, 3 + seed
    cost, p_x, _ = world(n, m, 100 + seed)
    p_z = masses(codes, seed)
    decoder = torch.randint(m, (codes,), generator=generator(seed))
    both = wae_theorem(cost, p_x, p_z, decoder)
    assert both.latent.item() == pytest.approx(both.transport.item(), abs=1e-9)
    likelihood = torch.nn.functional.one_hot(decoder, m).double()
    again = best_encoder(cost, p_x, p_z, likelihood)
    assert both.latent.item() == pytest.approx(again, abs=1e-9)
    assert (both.encoder.sum(1) - 1).abs().max() < 1e-9
    assert (p_x @ both.encoder - p_z).abs().max() < 1e-9


@pytest.mark.parametrize("seed", range(8))
def test_a_noisy_decoder_only_bounds(seed):
    cost, p_x, _ = world(5, 4, 200 + seed)
    p_z = masses(6, seed)
    likelihood = torch.stack([masses(4, 50 + seed + z) for z in range(6)])
    both = wae_theorem(cost, p_x, p_z, likelihood)
    assert both.latent > both.transport + 1e-3  # strictly, in these worlds
    again = best_encoder(cost, p_x, p_z, likelihood)
    assert both.latent.item() == pytest.approx(again, abs=1e-9)


# -- bad input ------------------------------------------------------------------------------------

HALF = torch.tensor([0.5, 0.5])


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: exact_plan(torch.zeros(2, 3), HALF, HALF), ValueError, "one row a source"),
        (lambda: exact_plan(torch.zeros(2), HALF, HALF), ValueError, r"expected \(n, m\)"),
        (lambda: exact_plan([[0.0]], HALF, HALF), TypeError, "cost is list"),
        (lambda: exact_plan(torch.eye(2) / 0, HALF, HALF), ValueError, "NaN or infinite"),
        (lambda: exact_plan(torch.eye(2), 2 * HALF, HALF), ValueError, "add up to 1"),
        (lambda: exact_plan(torch.eye(2), HALF, HALF - HALF.flip(0)), ValueError, "add up to 1"),
        (lambda: exact_plan(torch.eye(2), HALF.long(), HALF), TypeError, "a is torch.int64"),
        (lambda: exact_plan(torch.eye(2), HALF[None], HALF), ValueError, "one mass a point"),
        (lambda: assignment(torch.zeros(2, 3)), ValueError, "as many sources as targets"),
        (lambda: sinkhorn(torch.eye(2), HALF, HALF, 0.0), ValueError, "0 is exact_plan"),
        (lambda: wasserstein_1d(HALF, HALF, p=0.5), ValueError, "p is 0.5"),
        (lambda: wasserstein_1d(HALF, HALF, torch.ones(1)), ValueError, "2 points and a 1 masses"),
        (lambda: wasserstein_1d(HALF[None], HALF), ValueError, "expected finite points"),
        (lambda: wasserstein_1d([1.0], HALF), TypeError, "x is list"),
        (lambda: kl(HALF, torch.ones(1)), ValueError, "p has 2 points and q 1"),
        (lambda: wae_theorem(torch.eye(2), HALF, HALF, torch.tensor([0, 2])), ValueError,
         "from 0 to 1"),
        (lambda: wae_theorem(torch.eye(2), HALF, HALF, torch.eye(3)), ValueError,
         r"expected \(2, 2\)"),
        (lambda: wae_theorem(torch.eye(2), HALF, HALF, 2 * torch.eye(2)), ValueError,
         r"decoder\[0\] has entries"),
        (lambda: wae_theorem(torch.eye(2), torch.tensor([1.0, 0]), HALF, torch.eye(2)), ValueError,
         "share 0"),
        (lambda: wae_theorem(torch.eye(2), HALF, HALF, [0, 1]), TypeError, "decoder is a list"),
    ],
)  # fmt: skip
def test_bad_input(call, error, says):
    with pytest.raises(error, match=says):
        call()
