"""The three energies: densities, constants and draws against each other and the outside."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import halfcauchy, kstest, norm
from torch import Tensor

from tutor.energies import Banana, EightSchools, Ring, checked_energy
from tutor.metrics import noise_floor, sliced_wasserstein

ENERGIES = [Banana(), Ring(), EightSchools()]
PLANAR = ENERGIES[:2]
REFERENCE = Path(os.environ.get("TUTOR_DATA") or ".") / "reference" / "eight_schools_draws.npz"

every_energy = pytest.mark.parametrize("energy", ENERGIES, ids=repr)
planar = pytest.mark.parametrize("energy", PLANAR, ids=repr)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def schools() -> EightSchools:
    return ENERGIES[2]


# -- densities -----------------------------------------------------------------------------


def test_the_formulas_of_the_plane_by_hand():
    z = torch.tensor([[2.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
    assert Banana().log_prob(z).tolist() == [-2.0, -12.5]  # -1 - (1 - 2)^2;  -1/4 - (4 - 1/2)^2
    assert Ring().log_prob(z).tolist() == [-9.0, -5.0625]  # -(5 - 2)^2;  -(4.25 - 2)^2


def test_eight_schools_is_the_stated_model(schools):
    """Prior, likelihood and Jacobian written out with scipy."""
    z = torch.randn(5, 10, generator=seeded(), dtype=torch.float64)
    y, sigma = [28, 8, -3, 7, -1, 1, 18, 12], [15, 10, 16, 11, 9, 11, 10, 18]
    for point, got in zip(z.numpy(), schools.log_prob(z), strict=True):
        mu, tau, eta = 5 * point[0], math.exp(point[1]), point[2:]
        want = norm.logpdf(mu, 0, 5) + math.log(5)  # density of mu / 5
        want += halfcauchy.logpdf(tau, scale=5) + math.log(tau)  # density of log tau
        want += norm.logpdf(eta).sum() + norm.logpdf(y, mu + tau * eta, sigma).sum()
        assert got.item() == pytest.approx(want, rel=1e-12)  # float64 on both sides


@every_energy
def test_gradients_agree_with_finite_differences(energy):
    z = torch.randn(4, energy.dim, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(energy.log_prob, z, eps=1e-6, atol=1e-5)


@every_energy
def test_leading_axes_and_precision(energy):
    z = torch.randn(3, 4, energy.dim, generator=seeded(2))
    values = energy.log_prob(z)
    assert values.shape == (3, 4)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values[1], energy.log_prob(z[1]))
    # float32 against float64: sums of tens of terms below 1e4
    torch.testing.assert_close(values.double(), energy.log_prob(z.double()), rtol=1e-5, atol=1e-4)


def test_far_out_the_density_is_small_and_finite(schools):
    """An untrained network may start anywhere; NaN there would end its training."""
    z = torch.zeros(2, 10, requires_grad=True)
    far = z + torch.tensor([[20.0], [-20.0]])
    value = schools.log_prob(far)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


# -- constants -----------------------------------------------------------------------------


@planar
def test_log_evidence_of_the_plane_by_two_dimensional_quadrature(energy):
    x = torch.linspace(-7, 25, 3201, dtype=torch.float64)  # Banana reaches far to the right
    y = torch.linspace(-6, 6, 1201, dtype=torch.float64)
    values = torch.cat([energy.log_prob(torch.cartesian_prod(some, y)) for some in x.split(400)])
    total = values.exp().sum() * 0.01 * 0.01
    # Both sides are trapezium rules on smooth functions; Ring's own starts at an edge, s = 0,
    # where it is off by step^2 / 12 times the slope there, 1e-9.
    assert energy.log_evidence == pytest.approx(total.log().item(), abs=1e-8)


def test_log_evidence_of_the_ring_in_closed_form():
    exact = math.log(math.pi**1.5 / 2 * (1 + math.erf(2)))  # a normal distribution cut at zero
    assert Ring().log_evidence == pytest.approx(exact, abs=1e-8)


def test_evidence_of_eight_schools_by_brute_force(schools):
    """mu and log tau on a grid, and each eta by its own quadrature: nothing in closed form.

    Given mu and tau the etas are independent, so along each axis log_prob differs from its value
    at eta = 0 by that eta's own factor.
    """
    m = torch.linspace(-4, 5, 46, dtype=torch.float64)
    t = torch.linspace(-18, 8, 131, dtype=torch.float64)
    eta = torch.linspace(-8, 8, 161, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for some in torch.cartesian_prod(m, t).split(2000):
        base = torch.cat([some, some.new_zeros(len(some), 8)], 1)
        at_zero = schools.log_prob(base)
        log_value = at_zero
        for j in range(8):
            line = base[:, None].repeat(1, len(eta), 1)
            line[:, :, 2 + j] = eta
            factor = schools.log_prob(line) - at_zero[:, None]
            log_value = log_value + factor.logsumexp(1) + math.log(0.1)
        total += log_value.exp().sum() * 0.2 * 0.2
    # Trapezium rules converge geometrically here; exp(-18) of mass lies left of the grid.
    assert schools.log_evidence == pytest.approx(total.log().item(), abs=1e-6)


def test_an_elbo_does_not_pass_the_evidence(schools):
    """Importance weights of a broad Gaussian average to the evidence (and their logs to less)."""
    n = 200_000
    scale = torch.tensor([0.8, 1.4, *[1.1] * 8], dtype=torch.float64)
    mean = schools.exact_draws(5000, generator=seeded(1)).double().mean(0)
    q = torch.distributions.Normal(mean, scale)
    z = mean + scale * torch.randn(n, 10, generator=seeded(), dtype=torch.float64)
    log_weight = schools.log_prob(z) - q.log_prob(z).sum(1)
    weight = (log_weight - schools.log_evidence).exp()
    assert log_weight.mean() < schools.log_evidence
    # four standard errors of a mean over n weights
    assert abs(weight.mean() - 1) < 4 * weight.std() / math.sqrt(n)


# -- draws ---------------------------------------------------------------------------------


@every_energy
def test_draws_satisfy_steins_identity(energy):
    """E grad log p = 0 and E z grad log p^T = -I hold under p alone, whatever its constant."""
    n = 40_000
    z = energy.exact_draws(n, generator=seeded()).double().requires_grad_()
    (slope,) = torch.autograd.grad(energy.log_prob(z).sum(), z)
    z = z.detach()
    products = (z.unsqueeze(2) * slope.unsqueeze(1)).flatten(1)  # (n, dim * dim)
    values = torch.cat([slope, products + torch.eye(energy.dim).flatten()], 1)
    scores = values.mean(0) / (values.std(0) / math.sqrt(n))
    # up to 110 standard normal scores: all below 4.5 except once in 1300 seeds
    assert scores.abs().max() < 4.5


@planar
def test_draws_fill_cells_in_proportion_to_the_density(energy):
    n = 50_000
    z = energy.exact_draws(n, generator=seeded()).double()
    edges = torch.linspace(-3, 5, 41, dtype=torch.float64)
    counts = torch.histogramdd(z, bins=[edges, edges]).hist
    fine = torch.linspace(-3, 5, 2001, dtype=torch.float64)[:-1] + 0.002  # 50 points a cell side
    density = (energy.log_prob(torch.cartesian_prod(fine, fine)) - energy.log_evidence).exp()
    expected = n * density.view(40, 50, 40, 50).sum((1, 3)) * 0.004**2
    enough = expected > 10
    chi2 = ((counts - expected).square() / expected)[enough].sum()
    cells = enough.sum().item()
    # chi-squared: its standard deviation is sqrt(2 cells)
    assert abs(chi2 - cells) < 4 * math.sqrt(2 * cells)


def test_draws_have_the_exact_marginals(schools):
    mu, tau, _ = schools.constrain(schools.exact_draws(20_000, generator=seeded()).double())
    for name, values in {"mu": mu, "log tau": tau.log()}.items():
        u = schools.marginal_cdf(name, values)
        # Kolmogorov-Smirnov against the uniform: below 1e-3 once in a thousand seeds
        assert kstest(u.numpy(), "uniform").pvalue > 1e-3


def test_marginal_cdf_rises_from_zero_to_one(schools):
    for name in ("mu", "log tau"):
        u = schools.marginal_cdf(name, torch.linspace(-60, 60, 301).view(7, 43))
        assert u.shape == (7, 43)
        assert (u.flatten().diff() >= 0).all()
        assert u.min() == pytest.approx(0, abs=1e-12)
        assert u.max() == pytest.approx(1, abs=1e-9)


@every_energy
def test_draws_are_repeated_by_the_generator(energy):
    first, again, other = (energy.exact_draws(7, generator=seeded(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_constrain_and_back(schools):
    z = schools.exact_draws(100, generator=seeded()).double()
    mu, tau, theta = schools.constrain(z)
    torch.testing.assert_close(theta[:, 3], mu + tau * z[:, 5])
    torch.testing.assert_close(schools.unconstrain(mu, tau, theta), z)


# -- reference draws -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference() -> Tensor:
    if not REFERENCE.exists():
        pytest.skip(
            "no reference draws: set TUTOR_DATA to a folder with reference/eight_schools_draws.npz"
        )
    with np.load(REFERENCE) as file:
        assert list(file["names"][:3]) == ["mu", "tau", "theta[1]"]
        return torch.from_numpy(file["draws"]).double()


def natural(schools: EightSchools, n: int, generator: torch.Generator | None) -> Tensor:
    """Exact draws as the reference has them: mu, tau, theta."""
    mu, tau, theta = schools.constrain(schools.exact_draws(n, generator=generator).double())
    return torch.cat([mu[:, None], tau[:, None], theta], 1)


def test_marginals_of_the_reference(schools, reference):
    """Means and quantiles of the ten columns agree within sampling error of both samples."""
    ours = natural(schools, 200_000, seeded())
    error = reference.std(0) * math.sqrt(1 / len(reference) + 1 / len(ours))
    # four standard errors; 20 % more because draws of a chain are not quite independent
    assert ((ours.mean(0) - reference.mean(0)).abs() < 1.2 * 4 * error).all()
    for level in (0.05, 0.25, 0.5, 0.75, 0.95):
        cut = ours.quantile(level, dim=0)
        share = (reference <= cut).double().mean(0)
        allowed = 1.2 * 4 * math.sqrt(level * (1 - level) / len(reference))
        assert ((share - level).abs() < allowed).all()


def test_reference_lies_at_the_noise_floor(schools, reference):
    """Sliced Wasserstein on z: the reference is as near as another set of exact draws."""
    n = 2000
    z = schools.unconstrain(reference[:, 0], reference[:, 1], reference[:, 2:])
    spread = z[torch.randperm(len(z), generator=seeded())][:n]

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return sliced_wasserstein(x, y, directions=100, generator=seeded(3))

    floor = noise_floor(
        distance,
        lambda n, g: schools.exact_draws(n, generator=g),
        n,
        repeats=20,
        generator=seeded(1),
    )
    ours = schools.exact_draws(n, generator=seeded(2))
    assert distance(spread, ours) < floor.mean + 4 * floor.std
    # the same test sees a shift of a tenth of a standard deviation in every coordinate
    assert distance(spread + 0.1 * z.std(0), ours) > floor.mean + 4 * floor.std


# -- refusals ------------------------------------------------------------------------------


@every_energy
def test_points_of_another_dimension_are_refused(energy):
    with pytest.raises(ValueError, match=rf"\(5, 3\).*\(\.\.\., {energy.dim}\)"):
        energy.log_prob(torch.zeros(5, 3))
    with pytest.raises(ValueError, match="expected"):
        energy.log_prob(torch.zeros(()))
    with pytest.raises(TypeError, match="float"):
        energy.log_prob(torch.zeros(5, energy.dim, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least 1"):
        energy.exact_draws(0)


def test_other_refusals(schools):
    with pytest.raises(ValueError, match="log tau"):
        schools.marginal_cdf("tau", torch.zeros(1))
    with pytest.raises(ValueError, match="positive"):
        schools.unconstrain(torch.zeros(1), torch.zeros(1), torch.zeros(1, 8))


def test_what_is_no_energy_is_refused():
    class Flat:
        dim = 0

        def log_prob(self, z: Tensor) -> Tensor:
            return z.sum(-1)

    with pytest.raises(TypeError, match="without dim and log_prob"):
        checked_energy(lambda z: z)
    with pytest.raises(TypeError, match="is the class Ring"):
        checked_energy(Ring)
    with pytest.raises(ValueError, match="dim=0"):
        checked_energy(Flat())
