"""The page's solvers: exact and entropic plans, divergences, against scipy, POT and quadrature.

The modules run in a real Chromium, with nothing around them.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import logsumexp

from tutor.widgets._live import source

pytestmark = pytest.mark.browser

FILES = ("exact_plan.js", "entropic_plan.js", "cloud_distances.js")
NAMES = "exactPlan, entropicPlan, blur, pointDivergences, smoothedDivergences, discrepancy, KERNELS"


@pytest.fixture(scope="module")
def solvers(chromium):
    """A page with the modules' functions as globals."""
    page = chromium.new_page()
    text = "\n".join(re.sub("^export ", "", source(name), flags=re.MULTILINE) for name in FILES)
    page.set_content("<title>solvers</title>")
    page.add_script_tag(type="module", content=text + f"\nObject.assign(window, {{{NAMES}}});")
    page.wait_for_function("() => window.exactPlan")
    yield page
    page.close()


def problems(count: int, *, lattice: bool = False, equal: bool = False, seed: int = 0):
    """Costs (n, m) with masses a and b; on a lattice many plans are as cheap as each other."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        n, m = rng.integers(1, 13, 2)
        x, y = (rng.uniform(-3, 3, (size, 2)) for size in (n, m))
        if lattice:
            x, y = x.round(), y.round()
        squared = ((x[:, None] - y[None]) ** 2).sum(-1)
        a, b = (np.full(s, 1 / s) if equal else rng.dirichlet(np.full(s, 2.0)) for s in (n, m))
        yield (squared if k % 2 else np.sqrt(squared)), a, b


def solved(page, cost, a, b, epsilon: float | None = None) -> dict:
    call = "exactPlan(c, a, b)" if epsilon is None else f"entropicPlan(c, a, b, {epsilon!r})"
    found = page.evaluate(
        f"""([c, a, b]) => {{
          [c, a, b] = [c, a, b].map((v) => Float64Array.from(v));
          return Object.fromEntries(Object.entries({call}).map(([k, v]) =>
            [k, typeof v === "number" ? v : [...v]]));
        }}""",
        [cost.ravel().tolist(), a.tolist(), b.tolist()],
    )
    arrays = {k: np.array(v) for k, v in found.items()}
    return {**arrays, "plan": arrays["plan"].reshape(cost.shape)}


KINDS = [{}, {"equal": True}, {"lattice": True}, {"lattice": True, "equal": True}]


@pytest.mark.parametrize("kind", KINDS, ids=["masses", "equal", "lattice", "equal lattice"])
def test_the_exact_plan_is_the_linear_programmes(solvers, kind):
    import ot

    for cost, a, b in problems(40, **kind):
        n, m = cost.shape
        found = solved(solvers, cost, a, b)
        plan = found["plan"]
        assert plan.min() >= 0
        # masses near 0.1 in double precision, a dozen of them added up
        np.testing.assert_allclose(plan.sum(1), a, atol=1e-13)
        np.testing.assert_allclose(plan.sum(0), b, atol=1e-13)
        sums = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
        programme = linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([a, b]))
        paid = (plan * cost).sum()
        assert paid == pytest.approx(programme.fun, abs=1e-9)
        assert paid == pytest.approx(ot.emd2(a, b / b.sum() * a.sum(), cost), abs=1e-9)
        # the prices prove it without another solver: no plan can cost less than they add up to
        u, v = found["u"], found["v"]
        assert (u[:, None] + v - cost).max() < 1e-12
        assert a @ u + b @ v == pytest.approx(paid, abs=1e-12)
        # without ties the cheapest plan is a corner of the polytope: no cycle among its lines
        assert kind.get("lattice") or (plan > 0).sum() <= n + m - 1


def test_the_entropic_plan_is_sinkhorns(solvers):
    """Against plain iterations in float64, as many as they need."""
    for k, (cost, a, b) in enumerate(problems(24, seed=1)):
        epsilon = [0.1, 0.4, 2.0, 30.0][k % 4]
        g = np.zeros(len(b))
        for _ in range(100_000):
            f = epsilon * (np.log(a) - logsumexp((g - cost) / epsilon, 1))
            before, g = g, epsilon * (np.log(b) - logsumexp((f[:, None] - cost) / epsilon, 0))
            if np.abs(g - before).max() < 1e-13:
                break
        else:
            raise AssertionError("the reference has not converged")
        wanted = np.exp((f[:, None] + g - cost) / epsilon)
        found = solved(solvers, cost, a, b, epsilon)["plan"]
        np.testing.assert_allclose(found, wanted, atol=1e-9)
        assert (found * cost).sum() == pytest.approx((wanted * cost).sum(), abs=1e-9)


@pytest.mark.parametrize("epsilon", [0.005, 0.02, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("kind", KINDS, ids=["masses", "equal", "lattice", "equal lattice"])
def test_the_entropic_plan_fulfils_the_conditions_of_its_optimum(solvers, kind, epsilon):
    """At any epsilon of the slider: right sums, and log P = (f + g - cost) / epsilon."""
    for cost, a, b in problems(12, seed=2, **kind):
        found = solved(solvers, cost, a, b, epsilon)
        plan = found["plan"]
        # costs up to 70 over epsilon 0.005 in an exponent: 14000 roundings of 1e-16, times 0.1
        np.testing.assert_allclose(plan.sum(1), a, atol=1e-11)
        np.testing.assert_allclose(plan.sum(0), b, atol=1e-11)
        wanted = (found["f"][:, None] + found["g"] - cost) / epsilon
        seen = plan > 1e-300
        np.testing.assert_allclose(np.log(plan[seen]), wanted[seen], rtol=1e-9, atol=1e-9)
        exact = solved(solvers, cost, a, b)["plan"]
        more = ((plan - exact) * cost).sum()
        # it costs more than the cheapest, by at most epsilon times what entropy can grow
        assert -1e-10 < more <= epsilon * np.log(min(cost.shape)) + 1e-10


def test_the_entropic_plan_between_its_limits(solvers):
    """The exact plan as epsilon falls to 0, and independence as it grows."""
    for cost, a, b in problems(6, seed=3):
        near = solved(solvers, cost, a, b, 0.002)["plan"]
        exact = solved(solvers, cost, a, b)["plan"]
        assert ((near - exact) * cost).sum() < 0.002 * np.log(12)
        # P = a b exp(s) with |s| at most about 4 * 70 / epsilon
        far = solved(solvers, cost, a, b, 1e7)["plan"]
        np.testing.assert_allclose(far, np.outer(a, b), rtol=1e-4)


def test_blur_is_the_entropy_and_the_number_of_partners(solvers):
    call = "([p, a]) => blur(Float64Array.from(p), Float64Array.from(a))"
    apart = solvers.evaluate(call, [[0.5, 0, 0, 0, 0.5, 0], [0.5, 0.5]])
    assert apart == {"entropy": pytest.approx(np.log(2)), "partners": pytest.approx(1)}
    alike = solvers.evaluate(call, [[1 / 6] * 6, [0.5, 0.5]])
    assert alike == {"entropy": pytest.approx(np.log(6)), "partners": pytest.approx(3)}


# -- divergences ----------------------------------------------------------------------------------


def test_divergences_of_points(solvers):
    call = "([x, y]) => pointDivergences(x, y, 1e-9)"
    apart = solvers.evaluate(call, [[[0, 0], [1, 0]], [[0, 1], [1, 1]]])
    assert apart == {"kl": np.inf, "js": pytest.approx(np.log(2)), "tv": pytest.approx(1)}
    same = solvers.evaluate(call, [[[0, 0], [1, 0]], [[1, 0], [0, 0]]])
    assert same == {"kl": 0, "js": 0, "tv": 0}
    # x: mass 1 at one spot; y: half of its mass there
    p, q = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    mixture = (p + q) / 2
    js = (np.log(1 / mixture[0]) + (0.5 * np.log(0.5 / mixture)).sum()) / 2
    half = solvers.evaluate(call, [[[0, 0], [0, 0]], [[0, 0], [3, 0]]])
    assert half == {
        "kl": pytest.approx(np.log(2)), "js": pytest.approx(js), "tv": pytest.approx(0.5)
    }  # fmt: skip
    assert solvers.evaluate(call, [[[0, 0], [3, 0]], [[0, 0]]])["kl"] == np.inf


def by_quadrature(x: np.ndarray, y: np.ndarray, h: float) -> dict[str, float]:
    """KL, JS and TV of the smoothed clouds as sums over a fine grid of the plane."""
    step = h / 10
    low = np.minimum(x.min(0), y.min(0)) - 7 * h
    high = np.maximum(x.max(0), y.max(0)) + 7 * h
    ticks = [np.arange(a, b, step) for a, b in zip(low, high, strict=True)]

    def log_density(cloud: np.ndarray) -> np.ndarray:
        across, up = ((t[:, None] - c) ** 2 / (2 * h * h) for t, c in zip(ticks, cloud.T))  # noqa: B905
        total = logsumexp(-(across[:, None] + up[None]), axis=-1)
        return total - np.log(2 * np.pi * h * h * len(cloud))

    p, q = log_density(x), log_density(y)
    m = np.logaddexp(p, q) - np.log(2)
    cell = step * step
    return {
        "kl": (np.exp(p) * (p - q)).sum() * cell,
        "js": (np.exp(p) * (p - m) + np.exp(q) * (q - m)).sum() * cell / 2,
        "tv": np.abs(np.exp(p) - np.exp(q)).sum() * cell / 2,
    }


@pytest.mark.parametrize("h", [0.3, 0.8])
def test_divergences_of_smoothed_clouds(solvers, h):
    rng = np.random.default_rng(4)
    for n, m in ((1, 1), (5, 8), (12, 12)):
        x, y = rng.normal(0, 0.8, (n, 2)), rng.normal(0.4, 0.8, (m, 2))
        found = solvers.evaluate(
            "([x, y, h]) => smoothedDivergences(x, y, h)", [x.tolist(), y.tolist(), h]
        )
        wanted = by_quadrature(x, y, h)
        # what lies beyond four deviations (1e-4), and the kinks of |p - q| on steps of half a one
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=1e-3), name


def test_smoothed_points_have_the_gaussians_divergences(solvers):
    """Two Gaussians d apart: KL = d^2 / (2 h^2), TV = 2 Phi(d / 2h) - 1; also far apart."""
    from scipy.special import ndtr

    for d, h in ((0.5, 0.3), (1.0, 0.5), (3.0, 0.05)):
        found = solvers.evaluate("([d, h]) => smoothedDivergences([[0, 0]], [[d, 0]], h)", [d, h])
        assert found["kl"] == pytest.approx(d * d / (2 * h * h), rel=1e-9)
        assert found["tv"] == pytest.approx(2 * ndtr(d / (2 * h)) - 1, rel=1e-3)
    assert found["js"] == pytest.approx(np.log(2), abs=1e-6)


def test_the_maximum_mean_discrepancy(solvers):
    rng = np.random.default_rng(5)
    x, y, h = rng.normal(size=(4, 2)), rng.normal(size=(7, 2)), 0.4
    kernels = {
        "imq": lambda d: 4 * h * h / (4 * h * h + d),
        "rbf": lambda d: np.exp(-d / (2 * h * h)),
    }
    for name, kernel in kernels.items():
        found = solvers.evaluate(
            f"([x, y, h]) => discrepancy(x, y, KERNELS.{name}(h))", [x.tolist(), y.tolist(), h]
        )
        points = np.concatenate([x, y])
        signs = np.concatenate([np.full(4, 1 / 4), np.full(7, -1 / 7)])
        distances = ((points[:, None] - points[None]) ** 2).sum(-1)
        # the square of the norm of the signed measure p - q
        assert found**2 == pytest.approx(signs @ kernel(distances) @ signs, abs=1e-12)
