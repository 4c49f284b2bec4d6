"""How far one coordinate of a sample is from a distribution function that is known exactly."""

from __future__ import annotations

import torch
from torch import Tensor

from tutor.metrics._evaluate import at_least_one


def marginal_kl(u: Tensor, *, bins: int = 20) -> Tensor:
    """KL from a sample's histogram to a known law, over bins of equal probability, in nats.

    ``KL = sum_b (n_b / n) log(bins n_b / n)``

    where u are the values of the exact distribution function at the points, ``u = P(X <= x)``:
    they are uniform on [0, 1] if the points follow that law, and n_b of them fall into bin b.
    Merging points into bins only loses information, so with many points this is a lower bound of
    KL(q || p) of that coordinate.  With n points of the law itself it is about
    ``(bins - 1) / 2n``, not 0.

    Args:
        u: probabilities ``(n,)``, such as `tutor.energies.EightSchools.marginal_cdf` gives.
        bins: number of bins, each with probability ``1 / bins`` under the exact law.

    Returns:
        A scalar in float64.

    Raises:
        ValueError: for another shape, no point, or a u outside [0, 1].

    Example:
        >>> marginal_kl(torch.tensor([0.1, 0.2, 0.3, 0.9]), bins=2)  # 3/4 log 3/2 + 1/4 log 1/2
        tensor(0.1308, dtype=torch.float64)
    """
    at_least_one(bins=bins)
    if u.dim() != 1 or len(u) == 0:
        raise ValueError(f"u has shape {tuple(u.shape)}; expected (n,), one coordinate of n points")
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError(
            f"u goes from {u.min().item():.4g} to {u.max().item():.4g}; expected probabilities: "
            "the exact distribution function at the points, not the points themselves"
        )
    counts = torch.bincount((u.double() * bins).long().clamp(max=bins - 1), minlength=bins)
    share = counts.double() / len(u)
    return torch.special.xlogy(share, share * bins).sum()
