"""The drawn prior: its density integrates to one, samples follow it, bad drawings are refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tutor.priors import DrawnPrior

STROKES = [(0.1 * k, math.sin(0.3 * k)) for k in range(20)] + [(-1.5, -1.0), (-1.5, -1.0)]


def grid(h: float = 0.08, half: float = 3.6) -> Tensor:
    axis = torch.arange(-half, half, h, dtype=torch.float64) + h / 2
    return torch.cartesian_prod(axis, axis)


@pytest.mark.parametrize("thickness", [0.1, 0.25])
def test_the_density_integrates_to_one(thickness):
    mass = DrawnPrior(STROKES, thickness=thickness).log_prob(grid()).exp().sum() * 0.08**2
    # midpoints err by about exp(-2 (pi std / h)**2) < 1e-13 for a Gaussian of std 0.1; the
    # nearest edge of the square is 1.7 away, 6.8 of the wider standard deviations
    assert mass.item() == pytest.approx(1, abs=1e-10)


def test_the_density_is_the_mixtures():
    points = torch.tensor(STROKES, dtype=torch.float64)
    parts = torch.distributions.Independent(torch.distributions.Normal(points, 0.2), 1)
    whole = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(len(points), dtype=torch.float64)), parts
    )
    z = grid(0.5)
    prior = DrawnPrior(STROKES, thickness=0.2)
    # the prior keeps its points in float32: rounding of 1e-7 over a standard deviation of 0.2, far
    # away times a distance of up to 26 standard deviations
    torch.testing.assert_close(prior.log_prob(z), whole.log_prob(z), atol=1e-4, rtol=0)


def test_samples_follow_the_density():
    prior = DrawnPrior(STROKES, thickness=0.15)
    z = prior.sample((40_000,), generator=torch.Generator().manual_seed(0)).double()
    mass = prior.log_prob(grid()).exp() * 0.08**2
    for f in (lambda z: z[:, 0], lambda z: z[:, 1], lambda z: (z[:, 0] * z[:, 1]).cos()):
        error = f(z).std() / 200
        # four standard errors: one right mean in 16 000 is refused; the seed is fixed
        assert (f(z).mean() - mass @ f(grid())).abs() < 4 * error


def test_many_codes_are_taken_in_parts():
    prior = DrawnPrior(STROKES * 500)
    z = grid(0.2)[:, None]
    assert prior.log_prob(z).shape == (len(z), 1)
    torch.testing.assert_close(prior.log_prob(z[:3]), prior.log_prob(z)[:3])


def test_shapes_and_device_follow_the_model():
    prior = DrawnPrior(torch.tensor(STROKES))
    assert prior.sample((3, 4)).shape == (3, 4, 2)
    assert prior.log_prob(torch.zeros(3, 4, 2)).shape == (3, 4)
    assert dict(prior.named_parameters()) == prior.state_dict() == {}
    assert prior.double().sample((2,)).dtype == torch.float64


def test_two_drawings_look_different():
    """A checkpoint is taken up again only by a model that prints the same."""
    here, there = DrawnPrior([(0.0, 0.0)]), DrawnPrior([(1.0, 0.0)])
    assert repr(here) != repr(there)
    assert repr(here) == repr(DrawnPrior(torch.zeros(1, 2))) == repr(DrawnPrior([(0, 0)]).double())
    assert repr(here).startswith("DrawnPrior(points=1, drawing=")


def test_what_was_drawn_is_not_shared():
    points = torch.zeros(3, 2)
    prior = DrawnPrior(points)
    points += 1
    assert prior.points.abs().max() == 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "no point was drawn"),
        ([(0.0, 0.0, 0.0)], r"shape \(1, 3\); expected \(N, 2\)"),
        ([0.0, 1.0], r"shape \(2,\)"),
        ([(0.0, 0.0), (1.0,)], "not pairs of numbers"),
        ([(0.0, math.nan)], "NaN or infinite"),
    ],
)
def test_a_bad_drawing(points, message):
    with pytest.raises(ValueError, match=message):
        DrawnPrior(points)


@pytest.mark.parametrize("thickness", [0, -1, math.inf, math.nan])
def test_a_pen_without_thickness(thickness):
    with pytest.raises(ValueError, match=r"thickness is .* standard deviation above 0"):
        DrawnPrior(STROKES, thickness=thickness)


def test_codes_of_another_dimension():
    with pytest.raises(ValueError, match="this prior has 2"):
        DrawnPrior(STROKES).log_prob(torch.zeros(4, 3))
