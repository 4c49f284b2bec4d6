"""Densities from counted draws, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tutor.metrics import sampled_density

MEANS = torch.tensor([[0.0, 0.0], [1.0, -0.5]])
STDS = torch.tensor([[1.0, 1.0], [0.5, 0.25]])


def gaussians(seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    return lambda n: MEANS + STDS * torch.randn(n, 2, 2, generator=g)


def log_density(z: Tensor) -> Tensor:
    """``(points, 2)`` to ``(2, points)``."""
    q = torch.distributions.Normal(MEANS.unsqueeze(1), STDS.unsqueeze(1))
    return q.log_prob(z.float()).sum(-1)


def normal_cells(density) -> Tensor:
    """The probability that N(0, I) gives each cell, by differences of its distribution function."""
    edges = torch.linspace(*density.bounds, density.points + 1, dtype=torch.float64)
    mass = torch.distributions.Normal(0.0, 1.0).cdf(edges).diff()
    return (mass.unsqueeze(1) * mass).flatten()


def test_entropy_and_kl_of_gaussians():
    density = sampled_density(gaussians(), draws=1_000_000, points=240)
    entropy = math.log(2 * math.pi * math.e) + STDS.log().sum(1)
    found = density.entropy()
    # one million draws: deviation of the mean of log q, a chi-square, is 1 / 1000; four of them.
    # cells of 0.05 add (0.05 / std)^2 / 24 an axis: 0.0021 for the narrow one
    torch.testing.assert_close(found.value.float(), entropy, rtol=0, atol=0.0065)
    assert (found.coarser > found.value - 0.001).all()  # wide cells smear, so entropy rises
    kl = 0.5 * (MEANS**2 + STDS**2 - 1).sum(1) - STDS.log().sum(1)
    got = density.kl(normal_cells(density))
    torch.testing.assert_close(got.value.float(), kl, rtol=0, atol=0.0065)
    # the first is N(0, I) itself: its KL is 0; the correction leaves 0.0015 of the noise's 0.011
    assert abs(got.value[0]) < 0.003


def test_without_the_correction_the_noise_of_the_counts_would_show():
    density = sampled_density(gaussians(), draws=50_000, points=240)
    p = normal_cells(density)
    w = density.weights[0]
    plain = (torch.xlogy(w, w) - torch.xlogy(w, p)).sum().item()
    corrected = density.kl(p).value[0].item()
    # 50 000 draws over some 9 000 cells, most with fewer than five; seen: 0.145 and 0.024
    assert plain > 0.12
    assert abs(corrected) < 0.05


def test_a_mixture_against_its_density_on_the_grid():
    density = sampled_density(gaussians(), draws=1_000_000, points=240)
    both = density.mixture()
    assert both.draws == 2_000_000
    log_q = log_density(density.z).logsumexp(0) - math.log(2)
    entropy = -(log_q.exp() * log_q).sum().item() * density.cell
    assert both.entropy().value.item() == pytest.approx(entropy, abs=0.006)
    # against itself; half the mass is in the narrow Gaussian, within some 3 000 cells
    assert both.kl(log_q.exp() * density.cell).value.abs().item() < 0.002
    inside = density.weights[0] > 2e-4
    error = (density.log_density[0] - log_density(density.z)[0])[inside]
    # 200 draws or more a cell: deviation of the logarithm at most 1 / sqrt(200) = 0.07
    assert error.std() < 0.07


def test_coarser_cells_hold_the_same_draws():
    density = sampled_density(gaussians(), draws=10_000, points=60)
    coarse = density.coarser()
    assert coarse.points == 30
    assert coarse.cell == pytest.approx(4 * density.cell)
    assert coarse.counts.sum(1).tolist() == density.counts.sum(1).tolist() == [10_000, 10_000]
    # the block of four cells about (1.1, -0.5) is one cell of the coarse grid
    near = (density.z - torch.tensor([1.0, -0.6])).abs().amax(1) < 0.2 - 1e-9
    block = (coarse.z - torch.tensor([1.0, -0.6])).abs().amax(1) < 0.2 - 1e-9
    assert near.sum() == 4
    assert block.sum() == 1
    assert density.counts[:, near].sum(1).tolist() == coarse.counts[:, block].squeeze(1).tolist()


def test_a_kl_to_a_density_that_is_zero_where_draws_fall_is_infinite():
    density = sampled_density(gaussians(), draws=1_000, points=60)
    p = normal_cells(density)
    p[density.counts[0].argmax()] = 0
    assert density.kl(p).value[0] == math.inf


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"draws": 0}, ValueError, "draws is 0"),
        ({"points": 61}, ValueError, "points is 61; cells are merged in pairs"),
        ({"bounds": (1.0, 1.0)}, ValueError, "expected \\(low, high\\)"),
        ({"bounds": (-1.0, 1.0)}, RuntimeError, "outside \\[-1.0, 1.0\\]"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        sampled_density(gaussians(), **({"draws": 100} | arguments))


def test_bad_draws_and_weights():
    with pytest.raises(ValueError, match=r"has shape \(100, 2\); expected \(100, m, 2\)"):
        sampled_density(lambda n: torch.zeros(n, 2), draws=100)
    with pytest.raises(RuntimeError, match="NaN"):
        sampled_density(lambda n: torch.full((n, 1, 2), math.nan), draws=100)
    density = sampled_density(gaussians(), draws=100)
    with pytest.raises(ValueError, match="one number a cell"):
        density.kl(torch.ones(7))
