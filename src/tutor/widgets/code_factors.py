"""How codes follow factors: correlations, and correlation ratios for factors without order."""

from __future__ import annotations

import torch
from torch import Tensor


def correlations(codes: Tensor, factors: Tensor) -> Tensor:
    """Pearson's correlation of each code with each factor.

    Args:
        codes: ``(n, d)``.
        factors: ``(n, K)``, numbers.

    Returns:
        ``(d, K)`` in float64 and [-1, 1]; NaN where a code or a factor does not vary.

    Example:
        >>> codes = torch.tensor([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0]])  # the second never varies
        >>> correlations(codes, torch.tensor([[4], [2], [0]])).tolist()
        [[-1.0], [nan]]
    """
    z, f = (t.double() - t.double().mean(0) for t in (codes, factors))
    scale = _norms(z)[:, None] * _norms(f)
    return torch.where(scale > 0, (z.T @ f) / scale, torch.nan).clamp(-1, 1)


def correlation_ratios(codes: Tensor, factors: Tensor) -> Tensor:
    """The root of the share of each code's variance that each factor explains, less chance.

    ``eta^2 = sum_v n_v (mean_v - mean)^2 / sum_i (z_i - mean)^2``

    where the mean of the n_v codes with factor value v is mean_v: the largest squared correlation
    of z with any function of the factor, so it sees factors without order and factors that come
    round.  Chance alone gives eta^2 about (k - 1)/(n - 1) for k values; that is taken off as for
    an adjusted R^2, ``1 - (1 - eta^2)(n - 1)/(n - k)``, and what falls below 0 counts as 0.

    Args:
        codes: ``(n, d)``.
        factors: ``(n, K)``, whole numbers.

    Returns:
        ``(d, K)`` in float64 and [0, 1]; NaN where a code or a factor does not vary, or each point
        has a value of its own.

    Source: the ratio is Pearson's (1905), the correction Kelley's epsilon squared (1935).

    Example:
        >>> shape = torch.tensor([[0], [0], [1], [1], [2], [2]])
        >>> codes = torch.tensor([[1.0], [1.0], [7.0], [7.0], [1.0], [1.0]])
        >>> correlations(codes, shape), correlation_ratios(codes, shape)
        (tensor([[0.]], dtype=torch.float64), tensor([[1.]], dtype=torch.float64))
    """
    z = codes.double() - codes.double().mean(0)  # (n, d)
    n, total = len(z), z.square().sum(0)
    varies = _norms(z) > 0
    columns = []
    for factor in factors.T:
        values, group = torch.unique(factor, return_inverse=True)
        k = len(values)
        sums = z.new_zeros(k, z.shape[1]).index_add_(0, group, z)
        between = (sums.square() / torch.bincount(group)[:, None]).sum(0)
        if not 1 < k < n:
            columns.append(torch.full_like(total, torch.nan))
            continue
        adjusted = 1 - (1 - between / total) * (n - 1) / (n - k)
        columns.append(torch.where(varies, adjusted.clamp(0, 1).sqrt(), torch.nan))
    return torch.stack(columns, 1)


def _norms(centred: Tensor) -> Tensor:
    """Lengths of columns, 0 where they are rounding only."""
    length = centred.norm(dim=0)
    return torch.where(length > 1e-6 * len(centred) ** 0.5, length, 0.0)
