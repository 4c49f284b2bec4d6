"""Total correlation of codes: from points, and from posteriors; exact, Gaussian, by neighbours.

``TC(z) = KL(q(z) || prod_j q(z_j))`` in nats.  For a Gaussian whose covariance is known see
`tutor.divergences.gaussian_total_correlation`; for posteriors in one or two dimensions
`tutor.metrics.surgery` integrates it on a grid.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.divergences import gaussian_total_correlation
from tutor.metrics._evaluate import at_least_one
from tutor.metrics.surgery import surgery_monte_carlo
from tutor.posteriors import DiagonalGaussian

_ENTRIES = 4_000_000  # distances at once


class CodeTotalCorrelation(NamedTuple):
    """Total correlations of one encoder's codes, in nats.

    Attributes:
        sampled: of codes drawn from the posteriors, by the exact density of their mixture.
        standard_error: of ``sampled``.
        gaussian_sampled: of a Gaussian with the covariance of codes drawn from the posteriors.
        gaussian_means: of a Gaussian with the covariance of the posterior means.
    """

    sampled: Tensor
    standard_error: Tensor
    gaussian_sampled: Tensor
    gaussian_means: Tensor


def total_correlation(z: Tensor, *, method: str = "gaussian", neighbours: int = 3) -> Tensor:
    """Total correlation of the distribution that points come from.

    ``"gaussian"``: ``1/2 (sum_j log S_jj - log det S)`` with the covariance S of the points: the
    truth for a Gaussian; for others it sees linear dependence only, and may be 0 for coordinates
    that determine each other.

    ``"neighbours"``: ``psi(k) + (dim - 1) psi(n) - 1/n sum_i sum_j psi(n_ij + 1)``, with psi the
    digamma function and ``n_ij`` the number of points whose coordinate j is nearer to that of
    point i than the largest coordinate difference to its k-th neighbour.  It makes no assumption
    but a density that is smooth at the distance of neighbours.  It is nearly unbiased for
    independent coordinates, and far too low where dependence is strong and dim large: n points
    can't show more than about ``(dim - 1) log n``.  It takes ``n^2 dim`` operations: give it some
    thousands of points.

    Book equations: total-correlation, gaussian-tc.  Source: Kraskov, Stögbauer & Grassberger
    (2004), Estimating mutual information, the first algorithm, for more than two coordinates.

    Args:
        z: points ``(n, dim)``.  A coordinate that never moves tells nothing, adds nothing, and is
            allowed.
        method: ``"gaussian"`` or ``"neighbours"``.
        neighbours: k; more of them lower the variance and raise the bias.

    Returns:
        A scalar in float64, in nats; the estimate by neighbours may be negative.

    Raises:
        TypeError: if z is not a tensor of floats.
        ValueError: for another shape, too few points, points that are not finite, a coordinate
            that is a linear function of others (``"gaussian"``: infinite), points that coincide
            (``"neighbours"``: no density), or an unknown method.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> z = torch.randn(2000, 2, generator=g)
        >>> z = torch.stack([z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]], 1)  # the truth is 0.223
        >>> [round(total_correlation(z, method=m).item(), 1) for m in ("gaussian", "neighbours")]
        [0.2, 0.2]
    """
    if method not in ("gaussian", "neighbours"):
        raise ValueError(f'method is {method!r}; choose "gaussian" or "neighbours"')
    at_least_one(neighbours=neighbours)
    z = _points(z)
    z = z[:, z.std(0) > 0]
    if z.shape[1] < 2:  # nothing to depend on
        return z.new_zeros(())
    if method == "gaussian":
        return gaussian_total_correlation(z.T.cov())
    if len(z) <= neighbours:
        raise ValueError(f"there are {len(z)} points; {neighbours} neighbours need more")
    return _by_neighbours((z - z.mean(0)) / z.std(0), neighbours)


def code_total_correlation(
    posterior: DiagonalGaussian,
    *,
    samples: int = 1_000,
    generator: torch.Generator | None = None,
) -> CodeTotalCorrelation:
    """Total correlation of codes that are drawn from the posteriors, and of their means.

    A penalty on the total correlation in training acts on draws.  The means are what everybody
    uses afterwards, and their coordinates may depend on one another all the same: where a
    posterior is wide its noise hides the mean's dependence.

    Book equations: total-correlation, gaussian-tc, code-covariance.  ``sampled`` averages
    ``log q(z) - sum_j log q(z_j)`` over draws, without bias, as `surgery_monte_carlo`; it costs
    ``samples * N * dim`` exponentials, a minute or two for a thousand draws from 737 280
    posteriors.  The covariances are exact: ``Cov(z) = Cov(mu) + E[diag sigma^2]``.  Means of
    finitely many images have no density, so for them there is only the Gaussian value, and
    ``total_correlation(q.mean, method="neighbours")``.  Source: Locatello et al. (arXiv
    1811.12359), section 5.2, compare the two Gaussian values.

    Args:
        posterior: the N posteriors, see `encode_posteriors`.
        samples: draws, at least 2.
        generator: source of the draws, on the posteriors' device.

    Returns:
        `CodeTotalCorrelation`, scalars in float64.

    Raises:
        TypeError: if the posteriors are not Gaussian.
        ValueError: if the means' covariance has no inverse; also as `surgery_monte_carlo`.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> means = torch.randn(100, 1, generator=g) + 0.1 * torch.randn(100, 2, generator=g)
        >>> wide = DiagonalGaussian(means, torch.zeros(100, 2))
        >>> result = code_total_correlation(wide, generator=g)
        >>> bool(result.gaussian_means > 5 * result.gaussian_sampled)
        True
    """
    if not isinstance(posterior, DiagonalGaussian):
        raise TypeError(
            f"posterior is a {type(posterior).__name__}; expected a DiagonalGaussian, from "
            "tutor.metrics.encode_posteriors(model, dataset)"
        )
    means, log_var = posterior.mean.detach().double(), posterior.log_var.detach().double()
    gaussian_means = total_correlation(means)  # looks at the means, too
    covariance = means.T.cov(correction=0) + torch.diag(log_var.exp().mean(0))
    found = surgery_monte_carlo(posterior, samples=samples, generator=generator)
    return CodeTotalCorrelation(
        found.value.total_correlation,
        found.standard_error.total_correlation,
        gaussian_total_correlation(covariance),
        gaussian_means,
    )


def _by_neighbours(z: Tensor, k: int) -> Tensor:
    n, dim = z.shape
    radius = torch.cat(
        [
            torch.cdist(some, z, p=torch.inf).kthvalue(k + 1, dim=1).values  # the first is itself
            for some in z.split(max(1, _ENTRIES // n))
        ]
    )
    if same := (radius == 0).sum().item():
        raise ValueError(
            f"{same} points coincide with {k} others or more: the distribution has no density "
            "(codes of identical images? give each once)"
        )
    radius = radius * (1 - 1e-9)  # strictly nearer, in spite of rounding
    total = z.new_zeros(())
    for column in z.T:
        column = column.contiguous()
        ordered = column.sort().values
        below = torch.searchsorted(ordered, column - radius)
        above = torch.searchsorted(ordered, column + radius, right=True)
        total += torch.digamma((above - below).to(z)).mean()  # n_ij + 1: the point itself is in it
    psi_k, psi_n = torch.digamma(z.new_tensor([k, n]))
    return psi_k + (dim - 1) * psi_n - total


def _points(z: Tensor) -> Tensor:
    if not isinstance(z, Tensor) or not z.is_floating_point():
        given = z.dtype if isinstance(z, Tensor) else type(z).__name__
        raise TypeError(f"z is {given}; expected a tensor of floats (n, dim)")
    if z.dim() != 2 or len(z) < 2:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, dim), at least two points")
    if bad := (~z.isfinite()).any(1).sum().item():
        raise ValueError(f"{bad} of {len(z)} points are not finite (NaN or infinite)")
    return z.detach().double()
