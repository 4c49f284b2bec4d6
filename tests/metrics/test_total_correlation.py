"""Total correlation from points and from posteriors: closed forms, quadrature, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.metrics.worlds import generator
from tutor.divergences import gaussian_total_correlation, permute_dims
from tutor.metrics import code_total_correlation, surgery, total_correlation
from tutor.posteriors import DiagonalGaussian

F64 = torch.float64
THREE = torch.tensor([[2.0, 0.9, 0.2], [0.9, 1.0, -0.3], [0.2, -0.3, 0.5]], dtype=F64)


def gaussian(n: int, cov: Tensor, g: torch.Generator) -> Tensor:
    return torch.randn(n, len(cov), generator=g, dtype=F64) @ torch.linalg.cholesky(cov).T


def mixture() -> DiagonalGaussian:
    """Three posteriors at the corners of a triangle: little correlation, much dependence."""
    mean = torch.tensor([[-2.0, -1.0], [2.0, -1.0], [0.0, 2.0]], dtype=F64)
    return DiagonalGaussian(mean, torch.full_like(mean, -1.0))


def draws(q: DiagonalGaussian, n: int, seed: int) -> Tensor:
    g = generator(seed)
    chosen = torch.randint(len(q.mean), (n,), generator=g)
    return DiagonalGaussian(q.mean[chosen], q.log_var[chosen]).sample(generator=g)


@pytest.mark.parametrize("method", ["gaussian", "neighbours"])
@pytest.mark.parametrize("cov", [torch.eye(3, dtype=F64), THREE])
def test_gaussians(method, cov):
    g = generator()
    values = torch.stack(
        [total_correlation(gaussian(1_500, cov, g), method=method) for _ in range(12)]
    )
    truth = gaussian_total_correlation(cov)
    # Four standard errors of the mean, and the estimators' own bias: for the Gaussian formula
    # d (d - 1) / 4n = 0.001, for neighbours at moderate dependence below 0.02 (Kraskov et al.).
    assert (values.mean() - truth).abs() < 4 * values.std() / math.sqrt(12) + 0.02
    assert values.std() < 0.05


def test_dependence_that_a_covariance_does_not_see():
    q = mixture()
    truth = surgery(q, tolerance=1e-5).total_correlation
    values = torch.stack(
        [total_correlation(draws(q, 2_000, seed), method="neighbours") for seed in range(10)]
    )
    assert truth > 0.4
    assert (values.mean() - truth).abs() < 4 * values.std() / math.sqrt(10) + 0.02
    linear = torch.stack([total_correlation(draws(q, 2_000, seed)) for seed in range(10)])
    assert linear.max() < 0.01  # this triangle has uncorrelated corners


def test_permuted_columns_lose_it():
    z = permute_dims(draws(mixture(), 2_000, 0), generator=generator())
    values = [total_correlation(z, method=m).abs() for m in ("gaussian", "neighbours")]
    assert max(values) < 0.06  # a standard deviation of about 0.02 without dependence


@pytest.mark.parametrize("method", ["gaussian", "neighbours"])
def test_scale_shift_and_constants_do_not_matter(method):
    z = gaussian(400, THREE, generator())
    moved = z * torch.tensor([1e-3, 1.0, 50.0], dtype=F64) + torch.tensor([5.0, -1, 0], dtype=F64)
    still = torch.cat([moved, torch.full((400, 1), 2.0, dtype=F64)], 1)
    a, b, c = (total_correlation(x, method=method) for x in (z, moved, still))
    torch.testing.assert_close(b, a)
    torch.testing.assert_close(c, a)
    assert total_correlation(z[:, :1], method=method) == 0


def test_neighbours_against_the_definition():
    """Counting by loops on a few points, in one scale."""
    z = torch.randn(40, 3, generator=generator(), dtype=F64)
    z = (z - z.mean(0)) / z.std(0)
    k, n, total = 4, 40, 0.0
    for i in range(n):
        gaps = (z - z[i]).abs()
        radius = gaps.max(1).values.sort().values[k]
        for j in range(3):
            near = sum(1 for m in range(n) if m != i and gaps[m, j] < radius)
            total += torch.digamma(torch.tensor(near + 1.0, dtype=F64)).item() / n
    psi_k, psi_n = torch.digamma(torch.tensor([k, n], dtype=F64)).tolist()
    found = total_correlation(z, method="neighbours", neighbours=k).item()
    assert found == pytest.approx(psi_k + 2 * psi_n - total, abs=1e-12)


def test_codes_against_quadrature():
    q = mixture()
    found = code_total_correlation(q, samples=4_000, generator=generator())
    truth = surgery(q, tolerance=1e-5).total_correlation
    assert (found.sampled - truth).abs() < 4 * found.standard_error
    # Draws have the covariance of the means plus the posteriors' own variance, exactly.
    many = draws(q, 200_000, 5).T.cov()
    assert (found.gaussian_sampled - gaussian_total_correlation(many)).abs() < 1e-3


def test_means_may_depend_where_draws_do_not():
    """Wide posteriors on correlated means: the noise hides it."""
    means = gaussian(300, torch.tensor([[1.0, 0.95], [0.95, 1.0]], dtype=F64), generator())
    hidden = code_total_correlation(
        DiagonalGaussian(0.1 * means, torch.zeros_like(means)), generator=generator()
    )
    assert hidden.gaussian_means == pytest.approx(total_correlation(means).item())
    assert hidden.gaussian_means > 0.9
    assert hidden.gaussian_sampled < 1e-3
    assert hidden.sampled.abs() < 4 * hidden.standard_error + 1e-3


@pytest.mark.parametrize(
    ("z", "arguments", "error", "message"),
    [
        (torch.zeros(5, 2).long(), {}, TypeError, "z is torch.int64"),
        (torch.zeros(5), {}, ValueError, r"z has shape \(5,\)"),
        (torch.zeros(1, 2), {}, ValueError, "at least two points"),
        (torch.tensor([[1.0, math.nan], [0, 1]]), {}, ValueError, "1 of 2 points are not finite"),
        (torch.randn(5, 2), {"method": "ksg"}, ValueError, 'choose "gaussian" or "neighbours"'),
        (torch.randn(5, 2), {"neighbours": 0}, ValueError, "neighbours is 0"),
        (torch.randn(3, 2), {"method": "neighbours"}, ValueError, "3 points; 3 neighbours"),
        (torch.arange(5.0)[:, None].repeat(1, 2), {}, ValueError, "infinite"),
        (torch.randn(2, 2).repeat(9, 1), {"method": "neighbours"}, ValueError, "18 points coinc"),
    ],
)  # fmt: skip
def test_what_it_refuses(z, arguments, error, message):
    with pytest.raises(error, match=message):
        total_correlation(z, **arguments)


def test_posteriors_must_be_gaussian():
    with pytest.raises(TypeError, match="posterior is a Tensor"):
        code_total_correlation(torch.zeros(3, 2))
