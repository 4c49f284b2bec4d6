"""The mutual information gap: tables by counting, bins that cap it, and exact densities."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.metrics.disentanglement.grids import DSPRITES, grid, scattered, turned
from tests.metrics.worlds import generator
from tutor.metrics import example_codes, mig, mig_mixture, surgery
from tutor.posteriors import DiagonalGaussian

F64 = torch.float64


def counted_information(code: np.ndarray, values: np.ndarray, bins: int) -> float:
    """Mutual information by counting pairs one at a time, with NumPy's histogram for bins."""
    edges = np.histogram(code, bins)[1]
    cells = np.digitize(code, edges[:-1])
    n = len(code)
    pairs = list(zip(cells.tolist(), values.tolist(), strict=True))
    joint, first, second = Counter(pairs), Counter(cells.tolist()), Counter(values.tolist())
    return sum(c / n * math.log(c * n / (first[a] * second[b])) for (a, b), c in joint.items())


# -- bins -----------------------------------------------------------------------------------------


def test_the_table_by_counting():
    factors = scattered(700, 3, 7)
    codes = torch.randn(700, 4, generator=generator(), dtype=F64)
    codes[:, 1] += factors[:, 0]
    codes[:, 2] = codes[:, 2] * factors[:, 1] + 50
    result = mig(codes, factors, bins=11)
    for j in range(4):
        for k in range(2):
            truth = counted_information(codes[:, j].numpy(), factors[:, k].numpy(), 11)
            assert result.information[j, k].item() == pytest.approx(truth, abs=1e-12)
    for k in range(2):
        first, second = sorted(result.information[:, k].tolist())[:-3:-1]
        shares = factors[:, k].bincount().double() / 700
        entropy = -(shares * shares.log()).sum()
        assert result.entropies[k].item() == pytest.approx(entropy.item(), abs=1e-12)
        assert result.gaps[k].item() == pytest.approx((first - second) / entropy.item(), abs=1e-12)
    assert result.score == pytest.approx(result.gaps.mean().item())


def transposed(information: Tensor, entropies: Tensor) -> float:
    """The bug of public code: the best two factors of each coordinate."""
    first, second = information.topk(2, dim=1).values.T
    return ((first - second)[: len(entropies)] / entropies).mean().item()


def test_factors_as_their_own_code_score_one():
    """Independent discrete factors, in bins of their own; coordinates that say nothing beside."""
    factors = grid(2, 3, 5, 8)
    codes = torch.cat([factors.float(), torch.zeros(len(factors), 2)], 1)
    result = mig(codes, factors)
    assert result.score == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(result.information[:4], result.entropies.diag())


def test_columns_are_compared_and_not_rows():
    """Copies leave no gap; on the transposed table they would score one."""
    factors = grid(2, 3, 5)
    result = mig(torch.cat([factors, factors], 1).float(), factors)
    assert result.score == pytest.approx(0.0, abs=1e-12)
    assert transposed(result.information, result.entropies) == pytest.approx(1.0)


def test_twenty_bins_cap_a_perfect_code_of_dsprites():
    """In closed form: bins hold whole runs of values, and tell their entropy."""
    factors = grid(*DSPRITES)
    result = mig(example_codes(factors, "perfect"), factors)
    truth = []
    for size in DSPRITES:
        cell = (torch.arange(size) * 20 // (size - 1)).clamp(max=19)
        share = cell.bincount().double() / size
        share = share[share > 0]
        truth.append(-(share * share.log()).sum().item() / math.log(size))
    torch.testing.assert_close(result.gaps, torch.tensor(truth, dtype=F64))
    assert result.score == pytest.approx(0.902, abs=5e-4)
    some = torch.randperm(len(factors), generator=generator())[:10_000]
    codes = example_codes(factors, "perfect", dim=10, generator=generator())
    few = mig(codes[some], factors[some])
    # A finite sample lends the second-best coordinate some information: about
    # 19 (size - 1) / 20 000 nats.  Known from an independent implementation: 0.896.
    assert few.score == pytest.approx(0.896, abs=0.003)
    expected = torch.tensor([1.00, 1.00, 0.80, 0.84, 0.84], dtype=F64)
    torch.testing.assert_close(few.gaps, expected, atol=0.01, rtol=0)


def test_turned_by_45_degrees_no_coordinate_is_ahead():
    factors = grid(20, 20)
    # Zero by symmetry; with seven bins no code falls on an edge, where rounding would decide.
    assert mig(turned(factors, 45), factors, bins=7).score == pytest.approx(0, abs=1e-9)
    assert mig(turned(factors, 0), factors).score == pytest.approx(1.0)
    assert 0 < mig(turned(factors, 20), factors).score < 0.6


def test_a_rotation_of_all_factors_leaves_little():
    factors = scattered(10_000, *DSPRITES)
    scores = [
        mig(example_codes(factors, "rotated", generator=generator(seed)), factors).score
        for seed in range(10)
    ]
    assert max(scores) < 0.3
    assert sum(scores) / 10 < 0.15


def test_noise_has_no_gap():
    factors = scattered(10_000, *DSPRITES)
    codes = example_codes(factors, "random", dim=10, generator=generator())
    result = mig(codes, factors)
    # A table estimates too much by (19 * (size - 1)) / 20 000 nats, with a chi-square's spread;
    # gaps are differences of the largest two of ten such errors.
    bias = 19 * (torch.tensor(DSPRITES, dtype=F64) - 1) / 20_000
    torch.testing.assert_close(result.information.mean(0), bias, rtol=0.15, atol=0)
    assert result.score < 0.002


def test_edges_of_bins():
    """The highest code belongs to the last bin, and a constant coordinate fills one."""
    codes = torch.stack([torch.arange(21.0), torch.full((21,), 3.0)], 1)
    factors = torch.arange(21).clamp(max=19)[:, None]
    result = mig(codes, factors)
    assert result.score == pytest.approx(1.0)
    assert result.information[1, 0].item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="bins is 0"):
        mig(codes, factors, bins=0)


# -- mixtures -------------------------------------------------------------------------------------


def random_posteriors(n: int, dim: int) -> DiagonalGaussian:
    g = generator(3)
    return DiagonalGaussian(
        1.5 * torch.randn(n, dim, generator=g, dtype=F64),
        torch.randn(n, dim, generator=g, dtype=F64) - 1,
    )


def test_information_by_sampling():
    """log q(z_j|v_k) - log q(z_j) averaged over draws, as the paper's own code does it."""
    factors, q = grid(2, 3, 4), random_posteriors(24, 3)
    result = mig_mixture(q, factors)
    z = q.sample((4_000,), generator=generator())  # (draws, 24, 3)
    each = torch.distributions.Normal(q.mean[:, None], q.stddev[:, None])  # (24, 1, 3)
    log = each.log_prob(z[:, None])  # (draws, posterior, image that drew, 3)
    whole = log.logsumexp(1) - math.log(24)
    for k in range(3):
        same = (factors[:, None, k] == factors[None, :, k])[None, :, :, None]
        part = log.masked_fill(~same, -math.inf).logsumexp(1) - same.double().sum(1).log()
        draws = (part - whole).mean(1)  # (draws, 3)
        error = draws.std(0) / math.sqrt(len(draws))
        assert ((result.information[:, k] - draws.mean(0)).abs() < 4 * error).all()


def test_one_image_a_value_is_the_information_about_the_image():
    """Against `surgery`, whose entropies come from another grid."""
    q = random_posteriors(7, 2)
    result = mig_mixture(q, torch.arange(7)[:, None], points=2_000)
    for j in range(2):
        one = DiagonalGaussian(q.mean[:, j : j + 1], q.log_var[:, j : j + 1])
        truth = surgery(one, tolerance=1e-6).mutual_information
        assert result.information[j, 0].item() == pytest.approx(truth.item(), abs=1e-5)
    assert result.entropies[0].item() == pytest.approx(math.log(7))


def test_narrow_and_wide_posteriors():
    factors = grid(4, 5, 6)
    codes = torch.cat([factors.double(), torch.zeros(120, 1, dtype=F64)], 1)
    narrow = mig_mixture(
        DiagonalGaussian(codes, torch.full_like(codes, math.log(0.05**2))), factors
    )
    assert narrow.score == pytest.approx(1.0, abs=1e-6)  # ten deviations to the border of two codes
    wide = mig_mixture(DiagonalGaussian(0.001 * codes, torch.zeros_like(codes)), factors)
    assert wide.score == pytest.approx(0.0, abs=1e-5)  # I is near Var(mu) / 2 sigma^2, about 1e-6


def test_single_precision_on_many_posteriors():
    """The sums over 30 000 densities keep their digits."""
    factors = scattered(30_000, 3, 5)
    codes = example_codes(factors, "rotated", dim=3, generator=generator())
    q = DiagonalGaussian(codes, torch.full_like(codes, -3.0))
    exact = mig_mixture(DiagonalGaussian(q.mean.double(), q.log_var.double()), factors)
    torch.testing.assert_close(mig_mixture(q, factors).information, exact.information,
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_what_the_mixture_refuses():
    factors = grid(4, 5)
    codes = torch.zeros(20, 2)
    with pytest.raises(ValueError, match=r"narrowest standard deviation is 0\.00.*raise points"):
        mig_mixture(DiagonalGaussian(10 * factors.float(), codes - 10), factors)
    with pytest.raises(TypeError, match="posterior is a Tensor; expected a DiagonalGaussian"):
        mig_mixture(codes, factors)
    with pytest.raises(ValueError, match="20 of 20 codes are not finite"):
        mig_mixture(DiagonalGaussian(codes, codes + math.nan), factors)
