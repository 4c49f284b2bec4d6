"""Why the ELBO falls short of log p(x): the family is too small, or the encoder too hasty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutor.metrics._evaluate import at_least_one, evaluating, on_model, require
from tutor.metrics._grid import gauss_hermite
from tutor.metrics.likelihood import closed_form_kl, exact_elbo, log_likelihood_at
from tutor.metrics.quadrature import exact_posterior, quadrature
from tutor.posteriors import DiagonalGaussian

_STEPS = 100
_SETTLED = 1e-5  # nats: a step that gains less ends the search


class Gaps(NamedTuple):
    """Log-likelihood, two bounds and the two gaps between them; see `gaps`.  All ``(n,)``, nats."""

    log_likelihood: Tensor
    best_gaussian_elbo: Tensor
    amortised_elbo: Tensor
    approximation: Tensor
    amortisation: Tensor


def gaps(model: nn.Module, x: Tensor, *, nodes: int = 20, tolerance: float = 1e-3) -> Gaps:
    """The gap between log p(x) and the ELBO, split in two, exact for one or two dimensions.

    ``log p(x) - ELBO = [log p(x) - max_q ELBO(q)] + [max_q ELBO(q) - ELBO(q(z|x))]``

    Book equation: gap-decomposition.  The first bracket is the approximation gap: what is lost
    because no diagonal Gaussian equals p(z|x).  The second is the amortisation gap: what is lost
    because one encoder serves all images.  log p(x) is by `quadrature`, the expectations are by
    Gauss-Hermite quadrature; nothing is drawn.  The maximum is searched from three starts (the
    encoder's posterior, the moments of the exact posterior, its highest mode), so it could only
    be too low, and the approximation gap too large.  Source: Cremer, Li & Duvenaud
    (arXiv 1801.03558).

    Args:
        model: has ``encode``, ``decode`` and a `Gaussian` prior.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        nodes: Gauss-Hermite nodes along an axis.
        tolerance: of log p(x), in nats; see `quadrature`.

    Returns:
        `Gaps`; the two gaps add up to ``log_likelihood - amortised_elbo``.

    Raises:
        TypeError, ValueError, RuntimeError: as `quadrature` and `exact_elbo`.

    Example:
        >>> from tutor.models import VAE
        >>> model, x = VAE(latent_dim=1, image_shape=(1, 2, 2)), torch.ones(1, 1, 2, 2)
        >>> result = gaps(model, x)
        >>> bool((result.amortisation >= 0).all())
        True
    """
    log_likelihood = quadrature(model, x, tolerance=tolerance)
    amortised = exact_elbo(model, x, nodes=nodes)
    _, best = best_gaussian(model, x, nodes=nodes)
    return Gaps(log_likelihood, best, amortised, log_likelihood - best, best - amortised)


def best_gaussian(
    model: nn.Module, x: Tensor, *, nodes: int = 20
) -> tuple[DiagonalGaussian, Tensor]:
    """The diagonal Gaussian with the highest ELBO for each image, and that ELBO ``(n,)``.

    Book equation: gap-decomposition.  Natural-gradient steps on mean and precision,
    ``1/var <- (1 - r)/var + r (1 - E d2 log p(x|z))`` and
    ``mean <- mean + r var E d log p(x, z)``,
    with both expectations by Gauss-Hermite quadrature and Stein's identity, so that no
    derivative of the decoder is needed.  A step that does not raise an image's ELBO is undone
    and its rate r halved.  With r = 1 and a Gaussian posterior the first step is the last.

    Arguments and errors as `gaps`, the tolerance apart.

    Example:
        >>> from tutor.models import VAE
        >>> model, x = VAE(latent_dim=2, image_shape=(1, 2, 2)), torch.ones(3, 1, 2, 2)
        >>> q, bound = best_gaussian(model, x)
        >>> bool((bound >= exact_elbo(model, x, nodes=20)).all())
        True
    """
    require(model, "encode", "decode", "prior")
    at_least_one(nodes=nodes)
    x = on_model(model, x)
    with evaluating(model):
        first = model.encode(x)
        closed_form_kl(model, first)  # refuses what is not Gaussian
        found = [_climb(model, x, start, nodes) for start in [first, *_starts(model, x)]]
    bounds = torch.stack([bound for _, bound in found])  # (starts, n)
    best, which = bounds.max(0)
    each = torch.arange(len(x), device=x.device)
    mean = torch.stack([q.mean for q, _ in found])[which, each]
    log_var = torch.stack([q.log_var for q, _ in found])[which, each]
    return DiagonalGaussian(mean, log_var), best


def _starts(model: nn.Module, x: Tensor) -> list[DiagonalGaussian]:
    """Moments of the exact posterior; and its highest mode, with a small variance."""
    points = 160 if model.prior.dim == 2 else 4000
    moments, modes = [], []
    for some in x.split(256):
        # Only the shape counts here: the evidence may be rough, and cancels in the next line.
        grid = exact_posterior(model, some, points=points, tolerance=1.0)
        weights = grid.weights / grid.weights.sum(1, keepdim=True)
        mean = weights @ grid.z
        variance = weights @ grid.z.square() - mean.square()
        # A posterior narrower than the grid has no variance on it; a cell's is the least.
        cell = (12 / points) ** 2
        moments.append((mean, variance.clamp(min=cell).log()))
        mode = grid.z[grid.log_density.argmax(1)]
        modes.append((mode, torch.full_like(mode, 0.05).square().log()))
    return [
        DiagonalGaussian(*(torch.cat(part) for part in zip(*start, strict=True)))
        for start in (moments, modes)
    ]


def _climb(
    model: nn.Module, x: Tensor, start: DiagonalGaussian, nodes: int
) -> tuple[DiagonalGaussian, Tensor]:
    noise, weights = gauss_hermite(nodes, start.mean.shape[1])
    noise, weights = noise.to(x), weights.to(x)

    def look(mean: Tensor, log_var: Tensor, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ELBO, and by Stein's identity E d log p(x|z) and E d2 log p(x|z)."""
        std = (0.5 * log_var).exp()
        values = log_likelihood_at(model, images, mean + std * noise.unsqueeze(1))  # (nodes, n)
        expected = weights @ values
        centred = (values - expected) * weights.unsqueeze(1)
        slope = centred.T @ noise / std
        curvature = centred.T @ (noise.square() - 1) / std.square()
        return expected - closed_form_kl(model, DiagonalGaussian(mean, log_var)), slope, curvature

    mean, log_var = start.mean.clone(), start.log_var.clone()
    bound, slope, curvature = look(mean, log_var, x)
    rate = torch.ones_like(bound)
    active = torch.arange(len(x), device=x.device)
    for _ in range(_STEPS):
        r = rate[active].unsqueeze(1)
        precision = (-log_var[active]).exp()
        # Where log p(x|z) bends upwards the new precision could be negative: keep it positive.
        target = (1 - curvature[active]).clamp(min=0.1 * precision)
        new_precision = (1 - r) * precision + r * target
        new_mean = mean[active] + r * (slope[active] - mean[active]) / new_precision
        new_log_var = -new_precision.log()
        new_bound, new_slope, new_curvature = look(new_mean, new_log_var, x[active])
        gain = new_bound - bound[active]
        up = gain > 0
        rows = active[up]
        mean[rows], log_var[rows], bound[rows] = new_mean[up], new_log_var[up], new_bound[up]
        slope[rows], curvature[rows] = new_slope[up], new_curvature[up]
        rate[active] = torch.where(up, (1.5 * rate[active]).clamp(max=1), 0.5 * rate[active])
        active = active[(gain.abs() > _SETTLED) & (rate[active] > 1e-4)]
        if len(active) == 0:
            break
    return DiagonalGaussian(mean, log_var), bound
