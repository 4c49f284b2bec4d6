"""The codes whose scores are known are what they say."""

from __future__ import annotations

import pytest
import torch

from tests.metrics.disentanglement.grids import DSPRITES, grid
from tests.metrics.worlds import generator
from tutor.divergences import gaussian_total_correlation
from tutor.metrics import example_codes
from tutor.metrics.disentanglement.examples import KINDS

FACTORS = grid(4, 5, 10, 10)


def test_perfect_codes_are_the_factors_on_another_scale():
    codes = example_codes(FACTORS, "perfect", dim=6, generator=generator())
    std, mean = torch.std_mean(codes, 0)
    torch.testing.assert_close(mean[:4], torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(std[:4], torch.ones(4), atol=1e-5, rtol=0)
    assert std[4:].max() < 0.012  # collapsed: noise of deviation 0.01
    for j in range(4):
        assert torch.equal(codes[:, j].unique(return_inverse=True)[1], FACTORS[:, j])


def test_rotated_codes_keep_distances_and_stay_uncorrelated():
    perfect, codes = (
        example_codes(FACTORS, kind, generator=generator()).double()
        for kind in ("perfect", "rotated")
    )
    near, far = torch.pdist(perfect[:200]), torch.pdist(codes[:200])
    torch.testing.assert_close(near, far, atol=1e-5, rtol=1e-5)  # codes are float32
    # On a full grid the factors are uncorrelated with unit variances; a rotation keeps that.
    assert gaussian_total_correlation(codes.T.cov()).item() < 1e-9  # rounding in float32, squared
    correlation = codes.T @ perfect / len(codes)
    assert (correlation.abs().max(1).values < 0.999).all()  # no coordinate is a factor


def test_rotations_are_uniform():
    """The mean square of every entry of a uniform rotation is 1/K, its mean 0."""
    factors = grid(2, 2, 2)
    perfect = example_codes(factors, "perfect")
    g = generator()
    entries = torch.stack(
        [perfect.T @ example_codes(factors, "rotated", generator=g) / 7 for _ in range(2_000)]
    )
    assert entries.mean(0).abs().max() < 4 * (1 / 3 / 2_000) ** 0.5
    # Of the square of an entry of a random unit vector in three dimensions: variance 4/45.
    assert (entries.square().mean(0) - 1 / 3).abs().max() < 4 * (4 / 45 / 2_000) ** 0.5


def test_the_other_kinds():
    perfect = example_codes(FACTORS, "perfect")
    assert torch.equal(example_codes(FACTORS, "duplicated"), torch.cat([perfect, perfect], 1))
    assert torch.equal(example_codes(FACTORS, "higgins-failure"), perfect[:, :3])
    assert example_codes(FACTORS, "collapsed", generator=generator()).std() < 0.012
    noise = example_codes(FACTORS, "random", dim=9, generator=generator())
    assert noise.shape == (2000, 9)
    # Correlations of 2000 independent pairs: standard deviation 1/sqrt(2000).
    assert (perfect.T @ noise / 2000).abs().max() < 4.5 / 2000**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_each_takes_more_coordinates_and_follows_the_generator(kind):
    a, b = (example_codes(FACTORS, kind, dim=9, generator=generator(3)) for _ in range(2))
    assert a.shape == (2000, 9)
    assert a.dtype == torch.float32
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kind", "dim", "message"),
    [
        ("shuffled", None, "kind is 'shuffled'; there are 'perfect'"),
        ("perfect", 3, "dim is 3; 'perfect' codes of 4 factors need 4"),
        ("duplicated", 7, "need 8"),
        ("collapsed", 0, "at least one coordinate"),
    ],
)
def test_what_cannot_be_made(kind, dim, message):
    with pytest.raises(ValueError, match=message):
        example_codes(FACTORS, kind, dim=dim)


def test_all_of_dsprites():
    assert example_codes(grid(*DSPRITES), "perfect").shape == (737_280, 5)
