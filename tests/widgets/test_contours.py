"""Contours of flat densities, and lines with fewer points."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tutor.priors import GaussianMixture, SwissRoll, UniformBox
from tutor.widgets.contours import prior_contours, simplified


class Flat:
    """A flat density on a set of the plane inside the square from -2 to 2."""

    def __init__(self, holds, area):
        self.holds, self.area = holds, area

    def sample(self, shape, *, generator=None):
        z = 4 * torch.rand((20 * shape[0], 2), generator=generator) - 2
        return z[self.holds(z)][: shape[0]]

    def log_prob(self, z):
        return torch.where(self.holds(z), -math.log(self.area), -math.inf)


def test_the_uniform_box_has_its_own_outline():
    (contour,) = prior_contours(UniformBox(2))
    assert contour["mass"] == 1
    (line,) = contour["lines"]
    assert line == [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]


def test_a_box_off_the_centre():
    def holds(z):
        return (z[:, 0] > -0.7) & (z[:, 0] < 1.9) & (z[:, 1] > 0.25) & (z[:, 1] < 0.5)

    (contour,) = prior_contours(Flat(holds, 2.6 * 0.25))
    low, high = np.min(contour["lines"][0], 0), np.max(contour["lines"][0], 0)
    # rounded to 1e-3, in float32
    np.testing.assert_allclose([*low, *high], [-0.7, 0.25, 1.9, 0.5], atol=1.01e-3)


def test_a_flat_disc_has_a_round_outline():
    (contour,) = prior_contours(Flat(lambda z: z.norm(dim=1) < 1.5, math.pi * 2.25))
    (line,) = contour["lines"]
    # the grid's cells are 0.03 wide, and the line runs between two nodes
    np.testing.assert_allclose(np.hypot(*np.transpose(line)), 1.5, atol=0.03)


@pytest.mark.parametrize("prior", [GaussianMixture(), SwissRoll()], ids=["mixture", "roll"])
def test_a_simplified_line_stays_within_the_tolerance(prior):
    (line,) = prior_contours(prior, (0.99,))[0]["lines"]
    fewer = np.array(simplified(line, 0.02))
    assert len(fewer) < len(line) / 3
    assert tuple(fewer[0]) == tuple(fewer[-1]) == tuple(line[0])
    start, along = fewer[:-1], np.diff(fewer, axis=0)
    for point in np.array(line):
        share = ((point - start) * along).sum(1) / (along**2).sum(1)
        nearest = start + share.clip(0, 1)[:, None] * along
        assert np.hypot(*(point - nearest).T).min() <= 0.02


def test_a_line_of_two_points_stays():
    assert simplified([(0, 0), (1, 1)], 1.0) == [(0, 0), (1, 1)]
