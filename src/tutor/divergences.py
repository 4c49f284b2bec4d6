"""Divergences between distributions over codes, one function an equation.

Each returns one value an example, shape ``(batch,)``, in nats; the mean over the batch is taken
by the caller, last.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
