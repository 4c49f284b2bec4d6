"""Total correlation of Gaussians, and columns permuted one by one: truths, the usual bug, errors.

The equations behind both are tested in tests/equations/test_factor_vae_terms.py.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.metrics.worlds import generator
from tutor.divergences import gaussian_total_correlation, permute_dims

F64 = torch.float64


def within_rows(z: Tensor, g: torch.Generator) -> Tensor:
    """The bug of public code: the coordinates of one code permuted among themselves."""
    return z.gather(1, torch.rand(z.shape, generator=g).argsort(1))


def one_order(z: Tensor, g: torch.Generator) -> Tensor:
    """Another bug: whole rows permuted, so that nothing is torn apart."""
    return z[torch.randperm(len(z), generator=g)]


def keeps_columns(z: Tensor, torn: Tensor) -> bool:
    return torch.equal(torn.sort(0).values, z.sort(0).values)


def dependent_codes(n: int) -> Tensor:
    """Three coordinates that are one and the same cause, on three scales."""
    cause = torch.randn(n, 1, generator=generator(1), dtype=F64)
    return cause * torch.tensor([1.0, -2.0, 5.0], dtype=F64) + torch.arange(3, dtype=F64)


def largest_correlation(z: Tensor) -> float:
    return (z.T.corrcoef() - torch.eye(z.shape[1]).to(z)).abs().max().item()


def test_columns_keep_their_values_and_lose_one_another():
    n = 10_000
    z = dependent_codes(n)
    torn = permute_dims(z, generator=generator())
    assert largest_correlation(z) > 1 - 1e-12
    assert keeps_columns(z, torn)
    # A correlation of n independent pairs has standard deviation 1/sqrt(n).
    assert largest_correlation(torn) < 4 / math.sqrt(n)


def test_the_usual_bugs_fail_the_same_two_checks():
    z = dependent_codes(10_000)
    rows = within_rows(z, generator())
    assert not keeps_columns(z, rows)
    torch.testing.assert_close(rows.sort(1).values, z.sort(1).values)  # what it keeps instead
    assert largest_correlation(one_order(z, generator())) > 1 - 1e-12


def test_every_permutation_of_every_column_occurs_equally_often():
    """Chi-square over the 6 x 6 pairs of orders that two columns of three values can have."""
    z = torch.arange(3.0).unsqueeze(1).expand(3, 2)
    g, draws = generator(), 7_200
    counts = torch.zeros(27, 27)
    weight = torch.tensor([9, 3, 1])
    for _ in range(draws):
        a, b = (permute_dims(z, generator=g).long().T * weight).sum(1)
        counts[a, b] += 1
    seen = counts[counts > 0]
    assert len(seen) == 36
    chi_square = ((seen - draws / 36).square() / (draws / 36)).sum().item()
    assert chi_square < 35 + 4 * math.sqrt(2 * 35)  # four standard deviations above its mean


def test_permutations_follow_the_generator_and_pass_gradients():
    z = torch.randn(6, 4, generator=generator(), requires_grad=True)
    a, b, c = (permute_dims(z, generator=generator(s)) for s in (5, 5, 6))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    a.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * z.detach())  # each entry is used once


@pytest.mark.parametrize(
    ("z", "error", "message"),
    [
        (torch.zeros(1, 3), ValueError, "batch of 1 has nothing to permute"),
        (torch.zeros(3), ValueError, r"shape \(3,\); expected \(n, dim\)"),
        (torch.zeros(3, 0), ValueError, r"shape \(3, 0\)"),
        ([[1.0, 2.0]], TypeError, "z is a list"),
    ],
)
def test_what_cannot_be_permuted(z, error, message):
    with pytest.raises(error, match=message):
        permute_dims(z)


def test_total_correlation_ignores_scale_and_is_zero_without_correlation():
    factor = torch.randn(6, 6, generator=generator(), dtype=F64)
    cov = factor @ factor.T
    scale = torch.tensor([1e-6, 1.0, 1e6, 3.0, 0.2, 7.0], dtype=F64)
    torch.testing.assert_close(
        gaussian_total_correlation(cov * scale.outer(scale)), gaussian_total_correlation(cov)
    )
    assert gaussian_total_correlation(torch.diag(scale)).item() == 0.0


def test_total_correlation_of_equal_correlations():
    """1 - r is an eigenvalue d - 1 times, 1 + (d - 1) r once."""
    d, r = 10, 0.5
    cov = torch.full((d, d), r, dtype=F64).fill_diagonal_(1.0)
    truth = -0.5 * ((d - 1) * math.log(1 - r) + math.log(1 + (d - 1) * r))
    assert gaussian_total_correlation(cov).item() == pytest.approx(truth, rel=1e-12)


def test_total_correlation_is_never_negative_and_has_its_gradient():
    for seed in range(20):
        z = torch.randn(1_000, 4, generator=generator(seed))
        assert gaussian_total_correlation(z.T.cov()).item() >= 0
    factor = torch.randn(4, 4, generator=generator(), dtype=F64)
    factor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: gaussian_total_correlation(f @ f.T + torch.eye(4, dtype=F64)), factor
    )


@pytest.mark.parametrize(
    ("cov", "error", "message"),
    [
        ([[1.0]], TypeError, "cov is list"),
        (torch.eye(2).long(), TypeError, "torch.int64"),
        (torch.zeros(2, 3), ValueError, r"shape \(2, 3\)"),
        (torch.tensor([[1.0, math.nan], [math.nan, 1.0]]), ValueError, "not finite"),
        (torch.diag(torch.tensor([1.0, 0.0])), ValueError, "coordinate 1 has the variance 0"),
        (torch.tensor([[1.0, 0.5], [0.1, 1.0]]), ValueError, "not symmetric"),
        (torch.ones(2, 2), ValueError, "infinite"),
        (torch.tensor([[1.0, 2.0], [2.0, 1.0]]), ValueError, "not positive definite"),
        (torch.arange(8.0)[:, None].repeat(1, 3).T.cov(), ValueError, "infinite"),
    ],
)
def test_what_is_no_covariance(cov, error, message):
    with pytest.raises(error, match=message):
        gaussian_total_correlation(cov)
