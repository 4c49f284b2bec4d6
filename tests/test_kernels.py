"""Kernels and the MMD: enumeration, quadrature, closed forms, simulation; the bugs of others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from tutor import divergences
from tutor.kernel_theory import gaussian_mmd, mmd_null_std
from tutor.kernels import Kernel, as_kernel, imq, mmd, prior_scales, rbf, squared_distances

F64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def by_pairs(x, y, k):
    """The U-statistic with three loops, on Python numbers."""

    def mean(a, b, same):
        pairs = [
            k(sum((u - v) ** 2 for u, v in zip(p, q, strict=True)))
            for i, p in enumerate(a.tolist())
            for j, q in enumerate(b.tolist())
            if not (same and i == j)
        ]
        return sum(pairs) / len(pairs)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


# -- kernels ------------------------------------------------------------------------------------


def test_kernels_by_their_formulas():
    x, y = normal(3, 2), normal(4, 2, seed=1)
    for i in range(3):
        for j in range(4):
            square = sum((a - b) ** 2 for a, b in zip(x[i].tolist(), y[j].tolist(), strict=True))
            several = 1.5 / (1.5 + square) + 4 / (4 + square)
            # rounding of float64
            assert imq([1.5, 4])(x, y)[i, j].item() == pytest.approx(several, rel=1e-13)
            assert rbf(2)(x, y)[i, j].item() == pytest.approx(math.exp(-square / 2), rel=1e-13)


def test_scales_are_the_mean_squared_distance_of_prior_samples():
    n = 4_000
    x, y = 0.5 * normal(n, 6), 0.5 * normal(n, 6, seed=1)
    squares = (x - y).square().sum(1)
    (scale,) = prior_scales(6, 0.5, factors=[1.0])
    assert scale == 3.0
    assert squares.mean().item() == pytest.approx(scale, abs=4 * squares.std().item() / n**0.5)
    assert prior_scales(6, 0.5) == pytest.approx([0.3, 0.6, 1.5, 3, 6, 15, 30])


def test_close_points_far_from_the_origin_keep_their_distance():
    x = torch.tensor([[1000.0, 0.0]])  # float32: x.x is 1e6, known to 0.06
    assert squared_distances(x, x + torch.tensor([0.01, 0.0])).item() == pytest.approx(
        1e-4, rel=0.01
    )
    assert squared_distances(x, x).item() == 0


# -- the estimate -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "k"),
    [
        (imq([0.7, 3]), lambda s: 0.7 / (0.7 + s) + 3 / (3 + s)),
        (rbf(1.3), lambda s: math.exp(-s / 1.3)),
        ("rbf", lambda s: math.exp(-s / 6)),  # C = 2 * 3
        ("imq", lambda s: sum(c / (c + s) for c in (0.6, 1.2, 3, 6, 12, 30, 60))),
        (lambda x, y: (1 + x @ y.T) ** 2, None),
    ],
)
def test_mmd_by_enumeration(kernel, k):
    x, y = normal(5, 3), normal(4, 3, seed=1) + 0.3
    if k is None:  # a kernel that is no function of the distance, by its feature map's means
        table = (1 + torch.cat([x, y]) @ torch.cat([x, y]).T) ** 2
        xx, yy, xy = table[:5, :5], table[5:, 5:], table[:5, 5:]
        truth = ((xx.sum() - xx.trace()) / 20 + (yy.sum() - yy.trace()) / 12 - 2 * xy.mean()).item()
    else:
        truth = by_pairs(x, y, k)
    assert mmd(x, y, kernel=kernel).item() == pytest.approx(truth, abs=1e-13)  # rounding


def test_blocks_of_rows_change_nothing(monkeypatch):
    x, y = normal(50, 3), normal(40, 3, seed=1)
    whole = mmd(x, y)
    monkeypatch.setattr("tutor.kernels._ENTRIES", 120)  # three rows at a time, a rest of two
    assert mmd(x, y).item() == pytest.approx(whole.item(), abs=1e-13)  # order of a sum


def test_gradient_against_finite_differences():
    x, y = normal(4, 2).requires_grad_(), normal(3, 2, seed=1)
    assert torch.autograd.gradcheck(lambda x: mmd(x, y, kernel=imq([0.5, 4])), x)
    twins = torch.zeros(3, 2, requires_grad=True)  # equal codes: distance 0 has no slope
    mmd(twins, y.float()).backward()
    assert twins.grad.isfinite().all()


@pytest.mark.parametrize("kernel", [imq(prior_scales(2)), rbf(4.0)])
def test_estimate_is_unbiased_and_the_null_std_exact(kernel):
    """Simulated: mean and spread of 3000 values at small and unequal n, m."""
    n, m, repeats = 8, 5, 3_000
    draws = normal(repeats, n + m, 2)
    values = torch.stack([mmd(d[:n], d[n:], kernel=kernel) for d in draws])
    std = mmd_null_std(2, n, m, kernel=kernel).item()
    assert abs(values.mean().item()) < 4 * std / repeats**0.5  # four standard errors
    spread = values.square().mean().sqrt().item()
    error = values.square().std().item() / (2 * std * repeats**0.5)  # of the root, delta method
    assert abs(spread - std) < 4 * error
    assert (values < 0).double().mean() > 0.4  # negative about every other time


def test_matched_and_narrow_codes_at_batch_size():
    """The safe test of the WAE: matched below 3 std, half the scale far above."""
    for dim in (2, 8, 64):
        std = mmd_null_std(dim, 100).item()
        matched = mmd(normal(100, dim), normal(100, dim, seed=1)).item()
        assert abs(matched) < 3 * std
        assert mmd(0.5 * normal(100, dim), normal(100, dim, seed=1)).item() > 0.2 > 5 * std


# -- exact values -------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [imq([0.3, 2.0]), rbf(0.8)])
def test_gaussian_mmd_by_quadrature(kernel):
    mean, std, step = 0.7, 0.4, 0.02
    z = torch.arange(-9, 9, step, dtype=F64)
    density, goal = (torch.distributions.Normal(m, s) for m, s in ((mean, std), (0.0, 1.0)))
    apart = (density.log_prob(z).exp() - goal.log_prob(z).exp()) * step
    truth = apart @ kernel(z[:, None], z[:, None]) @ apart  # MMD^2 as a double integral
    got = gaussian_mmd(torch.tensor([mean]), torch.tensor([std]), kernel=kernel)
    # The trapezium rule converges geometrically here; 0.4 in float32 is good to 1e-8.
    assert got.item() == pytest.approx(truth.item(), abs=1e-7)


def test_gaussian_mmd_in_several_dimensions_by_simulation():
    mean, std = torch.tensor([0.5, -0.2, 0.0], dtype=F64), torch.tensor([1.0, 0.3, 0.0], dtype=F64)
    values = torch.stack(
        [mmd(mean + std * normal(40, 3, seed=s), normal(40, 3, seed=1000 + s)) for s in range(200)]
    )
    error = values.std().item() / 200**0.5
    assert abs(values.mean() - gaussian_mmd(mean, std)).item() < 4 * error


def test_imq_is_a_mixture_of_gaussian_kernels():
    """The parts that the exact averages use, against the kernel itself and scipy's integral."""
    from tutor.kernel_theory import _parts

    for c in (0.2, 16.0, 1280.0):
        weights, scales = _parts(imq(c), 1)
        for square in (0.0, 0.5, 20.0, 400.0):
            parts = (weights @ torch.exp(-square / scales)).item()
            assert parts == pytest.approx(c / (c + square), abs=1e-9)  # smallest t left out
            integral, _ = quad(lambda t, r: math.exp(-t - t * r), 0, np.inf, args=(square / c,))
            assert parts == pytest.approx(integral, abs=1e-7)


def test_null_std_of_the_usual_batch():
    """An earlier simulation with other code, rounded to two digits: hence a tenth."""
    measured = {(2, 100): 0.025, (8, 100): 0.0125, (64, 100): 0.0040,
                (2, 256): 0.0115, (8, 256): 0.0045, (64, 256): 0.0016}  # fmt: skip
    for (dim, n), value in measured.items():
        assert mmd_null_std(dim, n).item() == pytest.approx(value, rel=0.1)


# -- bugs that public code has ------------------------------------------------------------------


def test_rbf_divided_by_n_twice_is_not_the_mmd():
    """Mean over all n^2 entries, then divided by n (n - 1) again: smaller by about n^2."""
    x, y, k = 0.5 * normal(100, 8), normal(100, 8, seed=1), rbf(16.0)
    n = len(x)
    wrong = (k(x, x).mean() + k(y, y).mean()) / (n * (n - 1)) - 2 * k(x, y).mean() / n**2
    right = mmd(x, y, kernel=k)
    truth = gaussian_mmd(torch.zeros(8), torch.full((8,), 0.5), kernel=k)
    assert abs(right - truth) < 4 * mmd_null_std(8, n, kernel=k)
    assert abs(wrong) < 2e-4 * right


def test_leaving_the_diagonal_in_is_too_large_by_the_bias():
    x, y, k = normal(50, 8), normal(50, 8, seed=1), imq(prior_scales(8))
    biased = k(x, x).mean() + k(y, y).mean() - 2 * k(x, y).mean()
    within = [(t.sum() - t.trace()) / (50 * 49) for t in (k(x, x), k(y, y))]
    bias = sum(7 - w for w in within) / 50  # k(x, x) = 7
    assert (biased - mmd(x, y)).item() == pytest.approx(bias.item(), abs=1e-13)  # same sums
    assert bias > 5 * mmd_null_std(8, 50)


# -- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "y", "error", "says"),
    [
        (normal(1, 2), normal(3, 2), ValueError, "batch of one"),
        (normal(3, 2), normal(1, 2), ValueError, "batch of one"),
        (normal(3, 2), normal(3, 4), ValueError, "x has 2 dimensions and y 4"),
        (normal(3), normal(3), ValueError, r"expected \(n, dim\)"),
        (normal(3, 2) / 0, normal(3, 2), ValueError, "3 of 3 points of x are not finite"),
        (torch.ones(3, 2, dtype=int), normal(3, 2), TypeError, "tensor of floats"),
        ([[1.0], [2.0]], normal(3, 1), TypeError, "x is list"),
        (normal(3, 2), normal(3, 2).float(), TypeError, "convert one"),
    ],
)
def test_bad_points(x, y, error, says):
    with pytest.raises(error, match=says):
        mmd(x, y)


def test_bad_kernels():
    x = normal(3, 2)
    with pytest.raises(ValueError, match="'laplace'; choose one of imq, rbf"):
        mmd(x, x, kernel="laplace")
    with pytest.raises(TypeError, match="kernel is a float"):
        mmd(x, x, kernel=2.0)
    with pytest.raises(ValueError, match=r"expected \(3, 3\), one value a pair"):
        mmd(x, x, kernel=lambda x, y: x.sum())
    for bad in (0.0, -1.0, [], [1.0, math.inf], math.nan):
        with pytest.raises(ValueError, match="scales are"):
            imq(bad)
    with pytest.raises(ValueError, match="choose one of imq, rbf"):
        Kernel("poly", (1.0,))
    with pytest.raises(ValueError, match="dim is 0"):
        prior_scales(0)
    with pytest.raises(TypeError, match="exact averages are known"):
        mmd_null_std(2, 10, kernel=lambda x, y: x @ y.T)
    with pytest.raises(ValueError, match="at least 1, 2 and 2"):
        mmd_null_std(2, 1)
    with pytest.raises(ValueError, match=r"expected \(dim,\) both"):
        gaussian_mmd(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="not negative"):
        gaussian_mmd(torch.zeros(1), -torch.ones(1))


def test_one_name_for_one_function():
    assert divergences.mmd is mmd
    assert as_kernel("imq", 2) == imq(prior_scales(2))
