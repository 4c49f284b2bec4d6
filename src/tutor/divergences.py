"""Divergences between distributions over codes, one function an equation.

Each returns one value an example, shape ``(batch,)``, in nats; the mean over the batch is taken
by the caller, last.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tutor.kernels import mmd as mmd  # named here, too: a divergence like the others
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, diag(exp(log_var))) || N(0, I)) in closed form.

    ``1/2 sum_j (mean_j^2 + var_j - 1 - log var_j)``

    Book equation: gaussian-kl.  Source: Kingma & Welling (arXiv 1312.6114), appendix B.

    Args:
        mean: shape ``(batch, dim)``.
        log_var: logarithm of the variance (not the standard deviation), same shape.

    Returns:
        Shape ``(batch,)``, in nats, never negative.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> gaussian_kl(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([0.5000])
    """
    if mean.shape != log_var.shape:
        raise ValueError(
            f"mean has shape {tuple(mean.shape)}, log_var {tuple(log_var.shape)}; "
            "they must be equal (broadcasting would sum the wrong number of terms)"
        )
    # expm1 keeps var - 1 - log var accurate, and so not negative, where the variance is near 1.
    return 0.5 * (mean.square() + log_var.expm1() - log_var).sum(-1)


def gaussian_kl_per_dimension(mean: Tensor, log_var: Tensor) -> Tensor:
    """The terms of `gaussian_kl` before they are summed, shape ``(batch, dim)``.

    A dimension whose term is near zero for every example is *collapsed*: it carries nothing.

    Example:
        >>> gaussian_kl_per_dimension(torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2))
        tensor([[0.5000, 0.0000]])
    """
    rows = gaussian_kl(mean.reshape(-1, 1), log_var.reshape(-1, 1))
    return rows.reshape(mean.shape)


def monte_carlo_kl(
    q: DiagonalGaussian,
    prior: Gaussian,
    *,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """KL(q(z|x) || p(z)) estimated by ``mean of log q(z|x) - log p(z)`` over z ~ q(z|x).

    Book equation: monte-carlo-kl.  Unbiased, differentiable, and possible for any prior with a
    density; a single sample may be negative.  Source: the SGVB-A estimator of Kingma & Welling
    (arXiv 1312.6114), equation 6.

    Args:
        q: posterior with batch ``n``.
        prior: anything with ``log_prob``.
        samples: draws an example, at least 1.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        ValueError: if ``samples`` is less than 1.

    Example:
        >>> q = DiagonalGaussian(torch.ones(1, 2), torch.zeros(1, 2))
        >>> g = torch.Generator().manual_seed(0)
        >>> estimate = monte_carlo_kl(q, Gaussian(2), samples=10_000, generator=g)
        >>> abs(estimate.item() - 1.0) < 0.06  # four standard errors
        True
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; draw at least one")
    z = q.rsample((samples,), generator=generator)  # (samples, n, dim)
    return (q.log_prob(z) - prior.log_prob(z)).mean(0)


def gaussian_total_correlation(cov: Tensor) -> Tensor:
    """Total correlation of a Gaussian: ``1/2 (sum_j log cov_jj - log det cov)``.

    ``KL(q(z) || prod_j q(z_j))`` for q(z) with this covariance, whatever its mean.  Only the
    correlations matter: a coordinate may be scaled without changing it.  For any other distribution
    it is what a Gaussian with the same covariance would have, and may be above or below the truth.

    Book equation: gaussian-tc.

    Args:
        cov: covariance matrix ``(dim, dim)``, positive definite.

    Returns:
        A scalar in nats, differentiable in cov.

    Raises:
        TypeError: if cov is not a tensor of floats.
        ValueError: if cov is not square, not symmetric, not finite, or not positive definite.

    Example:
        >>> gaussian_total_correlation(torch.tensor([[1.0, 0.6], [0.6, 1.0]]))  # -1/2 log 0.64
        tensor(0.2231)
    """
    if not isinstance(cov, Tensor) or not cov.is_floating_point():
        given = cov.dtype if isinstance(cov, Tensor) else type(cov).__name__
        raise TypeError(f"cov is {given}; expected a tensor of floats (dim, dim)")
    if cov.dim() != 2 or cov.shape[0] != cov.shape[1] or len(cov) == 0:
        raise ValueError(f"cov has shape {tuple(cov.shape)}; expected (dim, dim), from z.T.cov()")
    if not cov.isfinite().all():
        raise ValueError("cov has entries that are not finite (NaN or infinite)")
    variance = cov.diagonal()
    if not (variance > 0).all():
        j = (variance <= 0).nonzero()[0].item()
        raise ValueError(
            f"coordinate {j} has the variance {variance[j].item():.3g}; expected positive ones: "
            "leave out coordinates that never move"
        )
    std = variance.sqrt()
    correlation = cov / std.outer(std)
    error = (correlation - correlation.T).abs().max().item()
    if error > 1e3 * torch.finfo(cov.dtype).eps:
        raise ValueError(f"cov is not symmetric: correlations differ by {error:.3g}")
    # Ones on the diagonal to the last digit: no pivot exceeds one, so the result is not negative.
    correlation = correlation - torch.diag(correlation.diagonal() - 1)
    factor, failed = torch.linalg.cholesky_ex(correlation)
    # The square of a pivot is the share of a variance that earlier coordinates leave unexplained.
    if failed or factor.diagonal().min().square() < 4 * len(cov) * torch.finfo(cov.dtype).eps:
        raise ValueError(
            f"cov is not positive definite in {cov.dtype}: some coordinate is a linear function of "
            "the others (then the total correlation is infinite), or there are fewer points than "
            "coordinates"
        )
    return -factor.diagonal().log().sum()


def permute_dims(z: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Each column of a batch of codes permuted by a permutation of its own.

    Every column keeps its values, and what belonged together is torn apart: a row is nearly a draw
    from ``prod_j q(z_j)``.  Nearly, since some of its entries may still come from one code.

    Book equation: permuted-row.  Source: Kim & Mnih (arXiv 1802.05983), algorithm 1.

    Args:
        z: codes ``(n, dim)``, one a row, at least two.
        generator: source of the permutations, on the device of z.

    Returns:
        Shape ``(n, dim)``, a new tensor, differentiable in z: detach z to train a critic alone.

    Raises:
        TypeError: if z is not a tensor.
        ValueError: if z is not ``(n, dim)``, or a batch of one, which has nothing to permute.

    Example:
        >>> z = torch.tensor([[1, 10], [2, 20], [3, 30]])
        >>> permute_dims(z, generator=torch.Generator().manual_seed(0)).sort(0).values
        tensor([[ 1, 10],
                [ 2, 20],
                [ 3, 30]])
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"z is a {type(z).__name__}; expected a tensor of codes (n, dim)")
    if z.dim() != 2 or z.shape[1] == 0:
        raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, dim), one code a row")
    if len(z) < 2:
        raise ValueError(f"a batch of {len(z)} has nothing to permute; give at least two codes")
    # Random keys of 53 bits: two alike, which a sort would leave in order, don't occur in practice.
    keys = torch.randint(2**53, z.shape, generator=generator, device=z.device)
    return z.gather(0, keys.argsort(0))
