"""A match is 1 for the prior itself, and what theory says for codes that are off."""

from __future__ import annotations

import math

import pytest
import torch

from tutor.metrics import prior_match
from tutor.metrics.prior_match import _energy
from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox


@pytest.mark.parametrize(
    "prior", [Gaussian(2), GaussianMixture(10), SwissRoll(), UniformBox(2)], ids=str
)
def test_draws_of_the_prior_are_at_the_floor(prior):
    g = torch.Generator().manual_seed(0)
    match = prior_match(prior.sample((4000,), generator=g), prior, n=400, generator=g)
    # One block's ratio has a standard deviation of 0.4 to 0.6 and leans to the right; ten blocks'
    # 0.2, and the floor adds 0.1: three of these together.
    assert match.ratio == pytest.approx(1, abs=0.65)
    assert abs(match.unbiased) < 4.5 * match.unbiased_std / math.sqrt(match.blocks)
    assert match.sliced < 1.5 * match.sliced_floor
    assert abs(match.accuracy - 0.5) < 4 * match.accuracy_std / math.sqrt(match.blocks)


def test_a_shift_by_v_costs_what_the_closed_forms_say():
    """Codes N(v, I), v = (1, 0): sliced W1 is 2 / pi, the energy 2 E|N(v, 2I)| - 2 E|N(0, 2I)|."""
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 2, generator=g) + torch.tensor([1.0, 0.0])
    match = prior_match(codes, Gaussian(2), n=1000, generator=g)
    # E|N(v, 2I)| in the plane: Rice mean, sigma = sqrt 2, by quadrature over the angle-free form
    r = torch.linspace(0, 20, 200_001, dtype=torch.float64)
    bessel = torch.special.i0e(r / 2) * (-(r - 1).square() / 4).exp()
    moved = torch.trapezoid(r * (r / 2) * bessel, r)
    still = math.sqrt(math.pi)  # Rayleigh mean, sigma sqrt(pi / 2)
    # Four blocks of 1 000: standard errors of about 0.01 and 0.02.
    assert match.unbiased == pytest.approx(2 * (moved - still).item(), abs=0.05)
    assert match.sliced == pytest.approx(2 / math.pi, abs=0.05)
    assert match.accuracy > 0.6


def test_the_energy_is_the_mean_over_all_pairs_with_a_point_and_itself():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 2, generator=g).double(), torch.randn(7, 2, generator=g).double()
    whole = 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean()
    # float64; cdist by matrix products loses half of the digits near zero distance
    assert _energy(x, y).item() == pytest.approx(whole.item(), abs=1e-6)
    assert _energy(x, x).item() == pytest.approx(0, abs=1e-12)


def test_blocks_must_use_every_code():
    with pytest.raises(ValueError, match="1500 codes"):
        prior_match(torch.zeros(1500, 2), Gaussian(2), n=1000)
