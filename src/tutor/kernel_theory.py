"""The exact values behind an estimated MMD, for Gaussian distributions and `tutor.kernels`.

One idea does it all: a Gaussian kernel averaged over Gaussian points is a closed form, and the
inverse multiquadric kernel is a mixture of Gaussian kernels of all widths,

``C / (C + r^2) = integral over t > 0 of exp(-t) exp(-t r^2 / C)``,

so its averages are those of Gaussian kernels with scales ``C / t``, integrated over t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutor.kernels import Kernel, as_kernel


def gaussian_mmd(mean: Tensor, std: Tensor, *, kernel: Kernel | str = "imq") -> Tensor:
    """The squared MMD between ``N(mean, diag(std^2))`` and ``N(0, I)``, exactly.

    ``E exp(-|x - y|^2 / C) = prod_j (1 + 2 v_j / C)^(-1/2) exp(-m_j^2 / (C + 2 v_j))`` where
    ``x - y`` has mean m and variances v; three such terms make the MMD.
    Book equation: gaussian-mmd.

    Args:
        mean: shape ``(dim,)``.
        std: standard deviations, shape ``(dim,)``; 0 is a point.
        kernel: of `tutor.kernels`, or the name of one.

    Returns:
        A scalar in float64.

    Raises:
        ValueError: for other shapes, or a negative or infinite entry.
        TypeError: for a kernel of another kind, whose averages are not known here.

    Example:
        >>> gaussian_mmd(torch.tensor([0.5, 0.5]), torch.ones(2))
        tensor(0.2471, dtype=torch.float64)
    """
    mean, std = mean.double(), std.double()
    if mean.dim() != 1 or mean.shape != std.shape or len(mean) < 1:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)} and std {tuple(std.shape)}; expected (dim,) both"
        )
    if not (mean.isfinite().all() and std.isfinite().all() and (std >= 0).all()):
        raise ValueError("mean and std must be finite, and std not negative")
    weights, scales = _parts(kernel, len(mean))
    variance = std.square()

    def average(shift: Tensor, spread: Tensor) -> Tensor:
        c = scales.unsqueeze(1)  # (parts, 1), against (dim,)
        log = -0.5 * torch.log1p(2 * spread / c) - shift.square() / (c + 2 * spread)
        return log.sum(1).exp()  # (parts,)

    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    parts = average(zero, 2 * one) + average(zero, 2 * variance) - 2 * average(mean, one + variance)
    return weights @ parts


def mmd_null_std(dim: int, n: int, m: int | None = None, *, kernel: Kernel | str = "imq") -> Tensor:
    """How far `tutor.kernels.mmd` is from 0 by chance when both samples come from N(0, I).

    ``std = sqrt(zeta (2/(n(n-1)) + 2/(m(m-1)) + 4/(nm)))``, about ``sqrt(8 zeta) / n`` for n = m

    with ``zeta = E k'(x, y)^2`` of the centred kernel
    ``k'(x, y) = k(x, y) - E k(x, .) - E k(., y) + E k``.  Exact for every n, not only in the
    limit: under the null the terms that are linear in one point cancel, and the pairs that remain
    are uncorrelated.  Book equation: mmd-null.

    Args:
        dim: number of dimensions.
        n: points of one sample, at least 2.
        m: points of the other; n without it.
        kernel: of `tutor.kernels`, or the name of one.

    Returns:
        A scalar in float64.

    Raises:
        ValueError: for fewer than 2 points, or no dimension.
        TypeError: for a kernel of another kind.

    Example:
        >>> mmd_null_std(2, 100)
        tensor(0.0268, dtype=torch.float64)
    """
    m = n if m is None else m
    if dim < 1 or n < 2 or m < 2:
        raise ValueError(f"dim, n, m are {dim}, {n}, {m}; expected at least 1, 2 and 2")
    pairs = 2 / (n * (n - 1)) + 2 / (m * (m - 1)) + 4 / (n * m)
    return (_centred_square(dim, kernel) * pairs).sqrt()


def _centred_square(dim: int, kernel: Kernel | str) -> Tensor:
    """zeta: the mean square of the centred kernel, ``E k^2 - 2 E g^2 + theta^2``.

    ``g(y) = E k(x, y)`` over x, and ``theta = E g``.
    """
    weights, scales = _parts(kernel, dim)
    a, b = scales.unsqueeze(1), scales  # pairs of parts
    pair = weights.unsqueeze(1) * weights
    square = -0.5 * torch.log1p(4 / a + 4 / b)
    shrink = -0.5 * (torch.log1p(2 / a) + torch.log1p(2 / b))  # heights of g, one dimension
    marginal = shrink - 0.5 * torch.log1p(2 / (a + 2) + 2 / (b + 2))
    theta = -0.5 * (torch.log1p(4 / a) + torch.log1p(4 / b))
    # Differences of close numbers: taken inside the sum, relative to the first.
    parts = [(dim * log).exp() for log in (square, marginal, theta)]
    return (pair * (parts[0] - 2 * parts[1] + parts[2])).sum()


def _parts(kernel: Kernel | str, dim: int) -> tuple[Tensor, Tensor]:
    """The kernel as ``sum_a w_a exp(-r^2 / C_a)``: weights and scales, float64.

    For the IMQ this is its integral over t, with ``t = exp(s - exp(-s))`` and the trapezium rule
    in s, whose error falls exponentially with the number of nodes.
    """
    kernel = as_kernel(kernel, dim)
    if not isinstance(kernel, Kernel):
        raise TypeError(
            "the exact averages are known for kernels of tutor.kernels.imq and tutor.kernels.rbf; "
            f"this is a {type(kernel).__name__}"
        )
    scales = torch.tensor(kernel.scales, dtype=torch.float64)
    if kernel.family == "rbf":
        return torch.ones_like(scales), scales
    step = 0.1
    s = torch.arange(-4.0, 4.0 + step / 2, step, dtype=torch.float64)
    t = (s - (-s).exp()).exp()
    weights = step * t * (1 + (-s).exp()) * (-t).exp()
    kept = weights > 1e-18
    t, weights = t[kept], weights[kept]
    return weights.repeat(len(scales)), (scales.unsqueeze(1) / t).flatten()
