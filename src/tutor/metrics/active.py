"""Which latent dimensions carry anything: active units and posterior collapse."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from tutor.metrics.surgery import _posterior
from tutor.posteriors import DiagonalGaussian


class ActiveUnits(NamedTuple):
    """``variance`` of the posterior mean over the data and ``active``, both ``(dim,)``."""

    variance: Tensor
    active: Tensor


def active_units(
    model_or_posterior: nn.Module | DiagonalGaussian,
    images: Tensor | None = None,
    *,
    threshold: float = 0.01,
) -> ActiveUnits:
    """A latent dimension is active when its posterior mean moves with x.

    ``A_j = Var_x(E_q(z|x) z_j) > threshold``

    Book equation: active-units.  The other dimensions have collapsed onto the prior: their code is
    the same for every image.  Source: Burda, Grosse & Salakhutdinov (arXiv 1509.00519), who use
    0.01.

    Args:
        model_or_posterior: a model with ``encode`` and a `Gaussian` prior, or the N posteriors.
        images: ``(N, C, H, W)`` or a data set, with a model only.
        threshold: variance above which a dimension counts as active.

    Returns:
        `ActiveUnits`; ``result.active.sum()`` is the number of active dimensions.

    Raises:
        TypeError: if it gets neither a model with images nor posteriors.
        ValueError: for fewer than two images, or a negative threshold.

    Example:
        >>> import torch
        >>> mean = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])  # the second dimension never moves
        >>> active_units(DiagonalGaussian(mean, torch.zeros(2, 2)))
        ActiveUnits(variance=tensor([2., 0.]), active=tensor([ True, False]))
    """
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}; a variance is not negative")
    q = _posterior(model_or_posterior, images)
    if len(q.mean) < 2:
        raise ValueError("a variance over the data needs at least two images")
    variance = q.mean.detach().var(0)
    return ActiveUnits(variance, variance > threshold)
