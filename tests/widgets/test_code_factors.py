"""Correlations and correlation ratios of codes and factors, against numpy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tutor.widgets.code_factors import correlation_ratios, correlations


def data(n: int = 400):
    generator = torch.Generator().manual_seed(0)
    factors = torch.stack([torch.randint(k, (n,), generator=generator) for k in (3, 6, 40)], 1)
    codes = torch.randn(n, 4, generator=generator)
    codes[:, 0] += factors[:, 1]
    codes[:, 1] -= 0.1 * factors[:, 2]
    return codes, factors


def test_correlations_are_numpys():
    codes, factors = data()
    wanted = np.corrcoef(codes.double().T, factors.double().T)[:4, 4:]
    np.testing.assert_allclose(correlations(codes, factors), wanted, atol=1e-12)


def test_the_ratio_is_that_of_an_analysis_of_variance():
    codes, factors = data()
    from scipy.stats import f_oneway

    found = correlation_ratios(codes, factors)
    for d in range(4):
        for f in range(3):
            values = factors[:, f].unique()
            groups = [codes[factors[:, f] == v, d].double() for v in values]
            k, n = len(values), len(codes)
            # F = (eta^2 / (k - 1)) / ((1 - eta^2) / (n - k))
            ratio = f_oneway(*groups).statistic * (k - 1) / (n - k)
            adjusted = 1 - (1 - ratio / (1 + ratio)) * (n - 1) / (n - k)
            assert found[d, f].item() == pytest.approx(max(adjusted, 0) ** 0.5, abs=1e-12)


def test_the_ratio_sees_what_the_correlation_does_not():
    angle = torch.arange(400)[:, None] % 40
    codes = torch.cos(2 * torch.pi * angle / 40)
    assert correlations(codes, angle).abs().max() < 0.1
    assert correlation_ratios(codes, angle).item() == pytest.approx(1, abs=1e-6)
    # of a straight line both say the same
    line = 3.0 - 2 * angle.float()
    assert correlations(line, angle).item() == pytest.approx(-1)
    assert correlation_ratios(line, angle).item() == pytest.approx(1)


def test_chance_explains_nothing():
    """Codes without any factor: eta^2 is 39/399 on average, and the adjusted one 0."""
    generator = torch.Generator().manual_seed(1)
    factors = torch.arange(400)[:, None] % 40
    squares = correlation_ratios(torch.randn(400, 500, generator=generator), factors).square()
    # unadjusted it would be about 0.1; cut off at 0 the mean of what spreads by 0.02 is 0.01
    assert squares.mean() < 0.015


def test_what_does_not_vary_is_unknown():
    codes, factors = data()
    codes[:, 2], factors[:, 0] = 5.0, 1
    for table in (correlations(codes, factors), correlation_ratios(codes, factors)):
        assert table.isnan()[2].all()
        assert table.isnan()[:, 0].all()
        assert not table[[0, 1, 3], 1:].isnan().any()
    own = torch.arange(400)[:, None]
    assert correlation_ratios(codes, own).isnan().all()
