"""marginal_kl: against the KL by quadrature, against chance, and refusals."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm

from tutor.metrics import marginal_kl


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_points_of_the_law_give_the_bias_that_is_stated():
    n, bins, repeats = 500, 20, 400
    values = torch.stack([marginal_kl(torch.rand(n, generator=seeded(s))) for s in range(repeats)])
    # 2 n KL is chi-squared with bins - 1 degrees of freedom, up to terms of order bins / n
    assert (2 * n * values.mean()).item() == pytest.approx(bins - 1, abs=1.5)
    assert (2 * n * values.std()).item() == pytest.approx(math.sqrt(2 * (bins - 1)), rel=0.25)


@pytest.mark.parametrize(("mean", "std"), [(0.5, 1.0), (0.0, 0.7), (-0.3, 1.4)])
def test_many_points_of_another_law(mean, std):
    """q = N(mean, std^2) against N(0, 1): the sum over bins by q's exact probabilities."""
    n, bins = 200_000, 20
    edges = norm.ppf(torch.linspace(0, 1, bins + 1).numpy())
    share = torch.from_numpy(norm.cdf(edges, mean, std)).diff()
    truth = (share * (share * bins).log()).sum().item()
    x = mean + std * torch.randn(n, generator=seeded(), dtype=torch.float64)
    got = marginal_kl(torch.from_numpy(norm.cdf(x.numpy())), bins=bins).item()
    spread = (share * ((share * bins).log() - truth).square()).sum().sqrt().item()
    # four standard errors, and the bias of (bins - 1) / 2n
    assert abs(got - truth) < 4 * spread / math.sqrt(n) + bins / n
    # merged into bins, it stays below the KL of the two Gaussians
    assert got < 0.5 * (mean**2 + std**2 - 1) - math.log(std)


def test_all_points_in_one_bin():
    u = torch.full((7,), 1.0)  # the upper end belongs to the last bin
    assert marginal_kl(u, bins=4).item() == pytest.approx(math.log(4))


def test_refusals():
    with pytest.raises(ValueError, match="probabilities"):
        marginal_kl(torch.tensor([0.5, 1.2]))
    with pytest.raises(ValueError, match="probabilities"):
        marginal_kl(torch.tensor([0.5, math.nan]))
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        marginal_kl(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="bins is 0"):
        marginal_kl(torch.zeros(3), bins=0)
