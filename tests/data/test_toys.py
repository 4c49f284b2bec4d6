"""The ring of Gaussians against its own density and against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from tutor.data import ring, ring_centres, ring_log_prob


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_centres_are_evenly_spaced_on_the_circle():
    centres = ring_centres(5, radius=3.0)
    assert torch.allclose(centres.norm(dim=1), torch.full((5,), 3.0), atol=1e-6)
    gap = (centres - centres.roll(1, 0)).norm(dim=1)
    assert torch.allclose(gap, torch.full((5,), 6 * math.sin(math.pi / 5)), atol=1e-5)


def test_the_density_is_that_of_a_mixture():
    x = torch.randn(200, 2, dtype=torch.float64, generator=seeded())
    mixture = MixtureSameFamily(
        Categorical(torch.ones(6, dtype=torch.float64)),
        Independent(Normal(ring_centres(6, 1.5).double(), 0.3), 1),
    )
    got = ring_log_prob(x, modes=6, radius=1.5, std=0.3)
    # The same formula in double precision, up to rounding of terms of size up to about 100.
    assert torch.allclose(got, mixture.log_prob(x), atol=1e-11)


def test_the_density_integrates_to_one():
    axis = torch.arange(-3, 3, 0.02, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    total = ring_log_prob(grid).exp().sum() * 0.02**2
    # A step of a fifth of the standard deviation: the rectangle rule's error for a Gaussian is
    # below exp(-2 pi^2 25), and no mass lies outside. What is left is the float32 of the centres.
    assert total.item() == pytest.approx(1, abs=1e-9)


def test_points_come_from_the_density():
    points, mode = ring(20_000, generator=seeded())
    noise = points - ring_centres()[mode]
    n = noise.numel()
    # Standard error of a variance estimated from n normal values: sqrt(2 / n) of it. Four of them.
    assert noise.square().mean().item() == pytest.approx(0.01, rel=4 * math.sqrt(2 / n))
    assert abs(noise.mean().item()) < 4 * 0.1 / math.sqrt(n)
    # Binomial counts, eight of them: four standard deviations each.
    counts = mode.bincount(minlength=8)
    assert (counts - 2500).abs().max() < 4 * math.sqrt(20_000 / 8 * 7 / 8)
    # The eight modes don't overlap (1.5 apart, 0.1 wide), so the entropy is log 8 plus that of one.
    entropy = math.log(8) + 1 + math.log(2 * math.pi * 0.01)
    log_p = ring_log_prob(points)
    # Per point -log p varies as a chi-square with 2 degrees of freedom, halved: variance 1.
    assert -log_p.mean().item() == pytest.approx(entropy, abs=4 / math.sqrt(20_000))


def test_the_generator_decides_and_the_default_one_is_left_alone():
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    a, b, c = (ring(50, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert not torch.equal(a[0], c[0])
    assert torch.equal(torch.rand(3), want)


def test_shapes():
    points, mode = ring(0)
    assert points.shape == (0, 2)
    assert mode.shape == (0,)
    assert ring_log_prob(torch.zeros(4, 5, 2)).shape == (4, 5)
    assert ring_log_prob(torch.zeros(2)).shape == ()


def test_far_away_the_log_density_is_finite():
    # exp would underflow here; (1000 - 2)^2 / (2 * 0.01) is about 5e7 nats.
    assert ring_log_prob(torch.tensor([1000.0, 0.0])).item() == pytest.approx(-4.98e7, rel=1e-2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ring(-1), "n must be at least 0, not -1"),
        (lambda: ring(5, modes=0), "modes must be at least 1"),
        (lambda: ring(5, std=0.0), "std must be positive"),
        (lambda: ring(5, radius=-2.0), "radius must be positive"),
        (lambda: ring(5, std=float("nan")), "std must be positive"),
        (lambda: ring_log_prob(torch.zeros(4, 3)), r"\(\.\.\., 2\), not \(4, 3\)"),
        (lambda: ring_log_prob(torch.tensor(1.0)), r"not \(\)"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
