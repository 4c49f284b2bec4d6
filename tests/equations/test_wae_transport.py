"""Chapter 4, transport: distances of things apart, Kantorovich, duality, entropy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.distributions import Normal

from tests.metrics.worlds import generator
from tutor.finite import jensen_shannon, kl, total_variation
from tutor.kernels import imq, rbf
from tutor.metrics import frechet_bias, frechet_distance, sharpness
from tutor.metrics.frechet import gaussian_frechet
from tutor.transport import assignment, distance_table, exact_plan, sinkhorn, wasserstein_1d

F64 = torch.float64
ROUNDING = "the same finite sums in another order, float64"
SOLVER = "two linear programmes, each solved to 1e-9 or better"
FOUR_ERRORS = "four standard errors, measured on the same draws"


def masses(n: int, seed: int) -> Tensor:
    raw = torch.rand(n, generator=generator(seed), dtype=F64) + 0.05
    return raw / raw.sum()


def points(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=F64)


def world(n: int, m: int, seed: int, power: float = 2) -> tuple[Tensor, Tensor, Tensor]:
    cost = distance_table(points(n, 2, seed), points(m, 2, seed + 1), power=power)
    return cost, masses(n, seed + 2), masses(m, seed + 3)


# -- things apart -------------------------------------------------------------------------------


@pytest.mark.equation("lines-apart", "points-mmd")
def test_two_lines_of_points(compare):
    """Ten points and the same ten moved by theta: sums over all places, programmes, kernels."""
    heights = torch.linspace(-1.8, 1.8, 10, dtype=F64)
    tenth = torch.full((10,), 0.1, dtype=F64)
    for theta in (0.0, 0.3, 2.0):
        x = torch.stack([torch.zeros(10, dtype=F64), heights], 1)
        y = x + torch.tensor([theta, 0.0], dtype=F64)
        places = torch.unique(torch.cat([x, y]), dim=0)
        p, q = ((places[:, None] == side).all(2).double().mean(1) for side in (x, y))
        apart = float(theta != 0)
        compare(torch.exp(-kl(p, q)), 1 - apart, atol=1e-15, why=ROUNDING)  # exp(-infinity)
        compare(jensen_shannon(p, q), apart * math.log(2), atol=1e-15, why=ROUNDING)
        compare(total_variation(p, q), apart, atol=1e-15, why=ROUNDING)
        for power in (1, 2):
            carried = exact_plan(distance_table(x, y, power=power), tenth, tenth).value
            compare(carried, theta**power, atol=1e-9, why=SOLVER)
        for kernel in (imq(0.5), rbf(0.5)):  # one point and one point
            a, b = x[:1], y[:1]
            mmd = kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)
            want = 2 * theta**2 / (0.5 + theta**2)
            if kernel.family == "rbf":
                want = 2 * (1 - math.exp(-(theta**2) / 0.5))
            compare(mmd.squeeze(), want, atol=1e-14, why=ROUNDING)


@pytest.mark.equation("gaussians-apart")
def test_two_gaussians_of_one_width(compare):
    """Closed forms of KL, TV and W_1 against sums on a fine grid and sorted quantiles."""
    for theta, h in ((0.4, 0.3), (1.5, 0.5)):
        z = torch.arange(-6, 8, 1e-3, dtype=F64)
        shift, width = torch.tensor([theta, h], dtype=F64)
        log_p, log_q = Normal(0 * shift, width).log_prob(z), Normal(shift, width).log_prob(z)
        p, q = log_p.exp() * 1e-3, log_q.exp() * 1e-3
        compare((p * (log_p - log_q)).sum(), theta**2 / (2 * h**2), atol=1e-9,
                why="the trapezium rule converges geometrically here")  # fmt: skip
        compare(0.5 * (p - q).abs().sum(), math.erf(theta / (2 * math.sqrt(2) * h)), atol=1e-6,
                why="trapezium rule, a kink where the densities cross")  # fmt: skip
        quantiles = h * torch.special.ndtri((torch.arange(5_000, dtype=F64) + 0.5) / 5_000)
        compare(wasserstein_1d(quantiles, quantiles + theta), theta, atol=1e-12, why=ROUNDING)
        slope = math.exp(-(theta**2) / (8 * h**2)) / (h * math.sqrt(2 * math.pi))
        step = 1e-5

        def tv(shift: float, h: float = h) -> float:
            return math.erf(shift / (2 * math.sqrt(2) * h))

        compare((tv(theta + step) - tv(theta - step)) / (2 * step), slope, atol=1e-8,
                why="central difference with step 1e-5")  # fmt: skip


@pytest.mark.equation("transport-below-tv")
def test_transport_is_bounded_by_total_variation(compare):
    """Linear programmes against diameter times total variation, in 20 worlds."""
    for seed in range(20):
        x = points(6, 2, seed)
        table = distance_table(x, x)
        p, q = masses(6, 100 + seed), masses(6, 200 + seed)
        compare.at_most(exact_plan(table, p, q).value, table.max() * total_variation(p, q),
                        slack=1e-9, why="solver")  # fmt: skip


# -- Monge and Kantorovich ----------------------------------------------------------------------


@pytest.mark.equation("monge", "kantorovich")
def test_maps_and_plans(compare):
    """Equal masses: the best of all 720 maps against the linear programme over plans."""
    sixth = torch.full((6,), 1 / 6, dtype=F64)
    for seed in range(3):
        cost, *_ = world(6, 6, seed)
        best = min(
            cost[torch.arange(6), torch.tensor(order)].mean().item()
            for order in itertools.permutations(range(6))
        )
        compare(exact_plan(cost, sixth, sixth).value, best, atol=1e-9, why=SOLVER)
        compare(assignment(cost).value, best, atol=1e-13, why=ROUNDING)


@pytest.mark.equation("transport-line")
def test_carrying_in_order_is_cheapest_on_the_line(compare):
    """The integral over quantiles against the linear programme, unequal masses."""
    for power in (1.0, 2.0, 3.0):
        x, y = points(7, 1, 0), points(5, 1, 1)
        a, b = masses(7, 2), masses(5, 3)
        sorted_way = wasserstein_1d(x[:, 0], y[:, 0], a, b, p=power) ** power
        programme = exact_plan(distance_table(x, y, power=power), a, b).value
        compare(sorted_way, programme, atol=1e-9, why=SOLVER)


def bures(cov_x: Tensor, cov_y: Tensor) -> Tensor:
    """tr(S_x + S_y - 2 (S_x^(1/2) S_y S_x^(1/2))^(1/2)), by eigenvalues."""
    values, vectors = torch.linalg.eigh(cov_x)
    root = vectors @ values.sqrt().diag() @ vectors.T
    inner = torch.linalg.eigvalsh(root @ cov_y @ root).clamp(min=0)
    return cov_x.trace() + cov_y.trace() - 2 * inner.sqrt().sum()


@pytest.mark.equation("frechet-distance")
def test_transport_between_gaussians(compare):
    """The formula against the cost of a linear map that carries one Gaussian to the other."""
    for seed in range(5):
        a, b = points(3, 3, seed), points(3, 3, 50 + seed)
        cov_x, cov_y = a @ a.T + 0.1 * torch.eye(3), b @ b.T + 0.1 * torch.eye(3)
        shift = points(1, 3, 90 + seed)[0]
        got = gaussian_frechet(torch.zeros(3), cov_x, shift, cov_y)
        # The map A = S_x^(-1/2) (S_x^(1/2) S_y S_x^(1/2))^(1/2) S_x^(-1/2) is symmetric, so it is
        # the gradient of a convex function; its cost is E |x - A x|^2 = tr((I - A) S_x (I - A)).
        values, vectors = torch.linalg.eigh(cov_x)
        root, back = (vectors @ (values**e).diag() @ vectors.T for e in (0.5, -0.5))
        values, vectors = torch.linalg.eigh(root @ cov_y @ root)
        carry = back @ vectors @ values.sqrt().diag() @ vectors.T @ back
        compare(carry @ cov_x @ carry.T, cov_y, atol=1e-9, why="roots of matrices, float64")
        rest = torch.eye(3, dtype=F64) - carry
        want = shift.square().sum() + (rest @ cov_x @ rest.T).trace()
        compare(got, want, atol=1e-9, why="roots of matrices, float64")
        # no linear map with the same result is cheaper
        for turn in range(20):
            q = torch.linalg.qr(points(3, 3, 1000 + turn)).Q
            values, vectors = torch.linalg.eigh(cov_y)
            other = vectors @ values.sqrt().diag() @ vectors.T @ q @ back
            apart = torch.eye(3, dtype=F64) - other
            cost = shift.square().sum() + (apart @ cov_x @ apart.T).trace()
            compare.at_most(got, cost, slack=1e-9, why="roots of matrices, float64")


@pytest.mark.equation("frechet-bias")
def test_what_the_frechet_distance_of_equal_distributions_is(compare):
    """Mean over 400 pairs of samples against the expansion, at two sample sizes."""
    s = torch.tensor([2.0, 1.0, 0.5, 0.1], dtype=F64)
    want = 2.5 * s.sum() + (s[:, None] * s / (s[:, None] + s)).sum()
    for n in (400, 800):
        values = torch.stack([
            frechet_distance(*(s.sqrt() * points(2 * n, 4, seed)).split(n)) for seed in range(400)
        ])  # fmt: skip
        error = (values.std() / 400**0.5).item()
        compare(values.mean(), want / n, atol=4 * error + 0.02 * want.item() / n,
                why="four standard errors, and the next term of the expansion")  # fmt: skip
    x = s.sqrt() * points(20_000, 4, 999)
    bias = frechet_bias(x, 400, repeats=25, generator=generator())
    compare(bias, want / 400, atol=0.3 * want.item() / 400, why="25 pairs of samples only")


@pytest.mark.equation("sharpness")
def test_sharpness_by_loops(compare):
    """The filter written out pixel by pixel, and the variance of its answers."""
    images = torch.rand(2, 1, 6, 5, generator=generator(), dtype=F64)
    for image, got in zip(images, sharpness(images), strict=True):
        x = image[0]
        answers = torch.stack([
            x[i - 1, j] + x[i + 1, j] + x[i, j - 1] + x[i, j + 1] - 4 * x[i, j]
            for i in range(1, 5) for j in range(1, 4)
        ])  # fmt: skip
        want = answers.square().mean() - answers.mean() ** 2
        compare(got, want, atol=1e-12, why=ROUNDING)


# -- duality ------------------------------------------------------------------------------------


@pytest.mark.equation("kantorovich-dual", "weak-duality", "complementary-slackness")
def test_prices_and_plans(compare):
    """Any feasible prices stay below any plan's cost; the best ones meet, with slackness."""
    for seed in range(5):
        cost, a, b = world(6, 5, 10 * seed)
        plan, value, f, g = exact_plan(cost, a, b)
        compare(a @ f + b @ g, value, atol=1e-9, why=SOLVER)
        compare.at_most(f[:, None] + g, cost, slack=1e-9, why="prices must be feasible")
        slack = plan * (cost - f[:, None] - g)
        compare(slack, torch.zeros_like(slack), atol=1e-9, why=SOLVER)
        for other in range(10):
            prices = points(1, 6, 500 + other)[0]
            best = (cost - prices[:, None]).min(0).values  # the largest g that is allowed
            compare.at_most(a @ prices + b @ best, value, slack=1e-9, why="solver")


@pytest.mark.equation("kantorovich-rubinstein")
def test_one_lipschitz_function_for_both_sides(compare):
    """The best 1-Lipschitz function on the points, by its own programme, against W_1."""
    for seed in range(5):
        x = points(7, 2, seed)
        table = distance_table(x, x)
        p, q = masses(7, 20 + seed), masses(7, 40 + seed)
        rows, limits = [], []
        for i, j in itertools.permutations(range(7), 2):
            row = torch.zeros(7, dtype=F64)
            row[i], row[j] = 1, -1
            rows.append(row)
            limits.append(table[i, j])
        answer = linprog(
            (q - p).numpy(), A_ub=torch.stack(rows).numpy(), b_ub=torch.stack(limits).numpy(),
            bounds=[(0, 0)] + [(None, None)] * 6,
        )  # fmt: skip
        compare(exact_plan(table, p, q).value, -answer.fun, atol=1e-9, why=SOLVER)


@pytest.mark.equation("transport-gradient")
def test_the_gradient_is_the_plan_s(compare):
    """Central differences of the linear programme's value in each coordinate of each point."""
    x, y, a, b = points(4, 2, 0), points(5, 2, 1), masses(4, 2), masses(5, 3)
    plan = exact_plan(distance_table(x, y, power=2), a, b).plan
    want = 2 * (plan.sum(1, keepdim=True) * x - plan @ y)
    step, got = 1e-5, torch.zeros_like(x)
    for i, j in itertools.product(range(4), range(2)):
        move = torch.zeros_like(x)
        move[i, j] = step
        up, down = (
            exact_plan(distance_table(x + s * move, y, power=2), a, b).value for s in (1, -1)
        )
        got[i, j] = (up - down) / (2 * step)
    compare(got, want, atol=1e-6, why="central differences with step 1e-5 of a value good to 1e-12")


# -- entropy ------------------------------------------------------------------------------------


@pytest.mark.equation("entropic-transport")
def test_sinkhorn_s_plan_is_the_best(compare):
    """Against its dual value, against 50 other feasible plans, and against the exact plan."""
    cost, a, b = world(4, 5, 3)

    def objective(plan: Tensor, epsilon: float) -> Tensor:
        return (plan * cost).sum() + epsilon * torch.xlogy(plan, plan).sum()

    exact = exact_plan(cost, a, b)
    for epsilon in (0.1, 1.0):
        found = sinkhorn(cost, a, b, epsilon)
        compare(objective(found.plan, epsilon), found.value, atol=1e-12, why=ROUNDING)
        # the dual function of the constraints, at the potentials: a lower bound that is met
        dual = a @ found.f + b @ found.g - epsilon * (found.plan.sum() - 1)
        compare(found.value, dual, atol=1e-8, why="column sums good to 1e-9")
        for seed in range(25):
            other = sinkhorn(cost + points(4, 5, seed), a, b, epsilon).plan
            compare.at_most(found.value, objective(other, epsilon), slack=1e-8, why="to 1e-9")
        most = epsilon * math.log(20)
        compare.at_most(found.cost - exact.value, most, slack=1e-9, why="H(P) is at most log nm")


@pytest.mark.equation("sinkhorn-form")
def test_scaling_rows_and_columns(compare):
    """Two thousand plain rescalings of exp(-c / epsilon) against the function in log domain."""
    cost, a, b = world(5, 6, 8)
    kernel = torch.exp(-cost / 0.7)
    v = torch.ones_like(b)
    for _ in range(2_000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    got = u[:, None] * kernel * v
    compare(got, sinkhorn(cost, a, b, 0.7).plan, atol=1e-8, why="column sums good to 1e-9")
