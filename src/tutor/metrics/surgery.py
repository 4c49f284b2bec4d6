"""ELBO surgery: what the KL term of a whole data set is made of, exactly and by sampling.

Over a finite data set the aggregate posterior ``q(z) = 1/N sum_n q(z|x_n)`` is a mixture with a
known density, so each part of the average KL can be computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutor.divergences import gaussian_kl
from tutor.metrics._evaluate import at_least_one, evaluating, on_model, require
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian

_LOG_2PI = math.log(2 * math.pi)
_ENTRIES = 4_000_000  # entries of a table at once
_FINEST = 16_384  # grid points along an axis


class Surgery(NamedTuple):
    """The parts of the average KL, in nats.

    ``rate = mutual_information + marginal_kl`` and
    ``marginal_kl = total_correlation + dimension_kl.sum()``.

    Attributes:
        rate: ``1/N sum_n KL(q(z|x_n) || p(z))``.
        mutual_information: ``I(x; z)`` of an image drawn from the data set and its code.
        marginal_kl: ``KL(q(z) || p(z))``.
        total_correlation: ``KL(q(z) || prod_j q(z_j))``.
        dimension_kl: ``KL(q(z_j) || p(z_j))``, shape ``(dim,)``.
    """

    rate: Tensor
    mutual_information: Tensor
    marginal_kl: Tensor
    total_correlation: Tensor
    dimension_kl: Tensor


class SurgeryEstimate(NamedTuple):
    """A sampled `Surgery` and the standard error of each of its parts."""

    value: Surgery
    standard_error: Surgery


def encode(model: nn.Module, images: Tensor) -> DiagonalGaussian:
    """q(z|x) of many images (a tensor or a data set), encoded in batches in evaluation mode."""
    require(model, "encode", "prior")
    if not isinstance(model.prior, Gaussian):
        raise TypeError(
            f"the prior is a {type(model.prior).__name__}; ELBO surgery here needs the standard "
            "normal tutor.priors.Gaussian"
        )
    at_least_one(images=len(images))
    with evaluating(model):
        parts = [
            model.encode(on_model(model, images[i : i + 1024])) for i in range(0, len(images), 1024)
        ]
    if not all(isinstance(q, DiagonalGaussian) for q in parts):
        raise TypeError(f"encode returns a {type(parts[0]).__name__}; expected a DiagonalGaussian")
    return DiagonalGaussian(
        torch.cat([q.mean for q in parts]), torch.cat([q.log_var for q in parts])
    )


def aggregate_log_prob(means: Tensor, log_vars: Tensor, z: Tensor) -> Tensor:
    """``log q(z) = log 1/N sum_n q(z|x_n)``, the density of the aggregate posterior.

    Book equation: aggregate-posterior.

    Args:
        means: ``(N, dim)`` means of the N posteriors.
        log_vars: their log-variances, same shape.
        z: codes ``(m, dim)``.

    Returns:
        Shape ``(m,)``, in nats.

    Raises:
        ValueError: if the shapes don't match.

    Example:
        >>> means = torch.tensor([[-1.0], [1.0]])
        >>> aggregate_log_prob(means, torch.zeros(2, 1), torch.zeros(1, 1))  # log N(1; 0, 1)
        tensor([-1.4189])
    """
    _check_codes(means, log_vars, z)
    rows = max(1, _ENTRIES // means.numel())
    parts = [_log_densities(means, log_vars, some).sum(-1).logsumexp(1) for some in z.split(rows)]
    return torch.cat(parts) - math.log(len(means))


def aggregate_log_marginals(means: Tensor, log_vars: Tensor, z: Tensor) -> Tensor:
    """``log q(z_j) = log 1/N sum_n q(z_j|x_n)`` of every dimension, shape ``(m, dim)``.

    Book equation: kl-decomposition.  Arguments and errors as `aggregate_log_prob`.

    Example:
        >>> aggregate_log_marginals(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(1, 3))
        tensor([[-0.9189, -0.9189, -0.9189]])
    """
    _check_codes(means, log_vars, z)
    rows = max(1, _ENTRIES // means.numel())
    parts = [_log_densities(means, log_vars, some).logsumexp(1) for some in z.split(rows)]
    return torch.cat(parts) - math.log(len(means))


def surgery(
    model_or_posterior: nn.Module | DiagonalGaussian,
    images: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
) -> Surgery:
    """The parts of the average KL over a data set, exact for one or two latent dimensions.

    ``1/N sum_n KL(q(z|x_n) || p(z)) = I(x; z) + KL(q(z) || p(z))`` and
    ``KL(q(z) || p(z)) = TC + sum_j KL(q(z_j) || p(z_j))``.

    Book equations: elbo-surgery, mutual-information, kl-decomposition.  Everything but the
    entropies of q(z) and of its marginals has a closed form; these are integrated on a grid over
    all the mass.  On a grid the mixture of N diagonal Gaussians is one matrix product, axis
    against axis.  The spacing is halved until each entropy moves by less than ``tolerance``; the
    error is then far below it, since the integrand is smooth.  Source: Hoffman & Johnson (2016);
    Chen et al.
    (arXiv 1802.04942).

    Args:
        model_or_posterior: a model with ``encode`` and a `Gaussian` prior, or the N posteriors.
        images: ``(N, C, H, W)`` or a data set, with a model only.
        tolerance: largest last move of an entropy, in nats.

    Returns:
        `Surgery`, in nats, in float64.

    Raises:
        TypeError: if it gets neither a model with images nor posteriors, or the prior is not
            Gaussian.
        ValueError: for more than two dimensions, or a tolerance that is not positive.
        RuntimeError: if the tolerance is not reached on the finest grid.

    Example:
        >>> q = DiagonalGaussian(torch.tensor([[-9.0, 0.0], [9.0, 0.0]]), torch.zeros(2, 2))
        >>> surgery(q).mutual_information  # two codes that never overlap: log 2
        tensor(0.6931, dtype=torch.float64)
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; expected a positive number of nats")
    q = _posterior(model_or_posterior, images)
    means, log_vars = q.mean.detach().double(), q.log_var.detach().double()
    dim = means.shape[1]
    if dim > 2:
        raise ValueError(
            f"an exact entropy in {dim} dimensions is out of reach; use surgery_monte_carlo"
        )
    columns = [(means[:, j, None], log_vars[:, j, None]) for j in range(dim)]
    marginal = torch.stack([_entropy(*column, tolerance) for column in columns])  # H(q(z_j))
    joint = marginal[0] if dim == 1 else _entropy(means, log_vars, tolerance)  # H(q(z))
    conditional = 0.5 * (log_vars + 1 + _LOG_2PI).sum(1).mean()  # mean of H(q(z|x_n))
    # -E log p(z_j) needs only the second moment of q(z_j), which the mixture has in closed form.
    cross = 0.5 * ((means.square() + log_vars.exp()).mean(0) + _LOG_2PI)  # (dim,)
    return Surgery(
        rate=gaussian_kl(means, log_vars).mean(),
        mutual_information=joint - conditional,
        marginal_kl=cross.sum() - joint,
        total_correlation=marginal.sum() - joint,
        dimension_kl=cross - marginal,
    )


def surgery_monte_carlo(
    model_or_posterior: nn.Module | DiagonalGaussian,
    images: Tensor | None = None,
    *,
    samples: int = 10_000,
    generator: torch.Generator | None = None,
) -> SurgeryEstimate:
    """The parts of the average KL in any number of dimensions, by sampling from q(z).

    Book equations: elbo-surgery, kl-decomposition.  Each draw picks one of the N posteriors, a
    code from it, and the exact densities q(z|x_n), q(z) and q(z_j) there; the parts are means of
    differences of their logarithms, hence unbiased, and the two identities hold exactly between
    the estimates.  It costs ``samples * N * dim`` exponentials.

    Args:
        model_or_posterior: as in `surgery`.
        images: as in `surgery`.
        samples: number of draws, at least 2.
        generator: source of the draws, on the posteriors' device.

    Returns:
        `SurgeryEstimate`: the value and its standard error, in nats, in float64.

    Raises:
        TypeError: as `surgery`.
        ValueError: if ``samples`` is below 2.

    Example:
        >>> q = DiagonalGaussian(torch.tensor([[-9.0], [9.0]]), torch.zeros(2, 1))
        >>> g = torch.Generator().manual_seed(0)
        >>> estimate = surgery_monte_carlo(q, samples=100, generator=g)
        >>> estimate.value.mutual_information  # log 2
        tensor(0.6931, dtype=torch.float64)
    """
    at_least_one(samples=samples)
    if samples < 2:
        raise ValueError("samples is 1; the standard error needs at least 2")
    q = _posterior(model_or_posterior, images)
    means, log_vars = q.mean.detach().double(), q.log_var.detach().double()
    index = torch.randint(len(means), (samples,), generator=generator, device=means.device)
    chosen = DiagonalGaussian(means[index], log_vars[index])
    z = chosen.sample(generator=generator)
    return surgery_from_densities(
        z,
        chosen.log_prob(z),
        aggregate_log_prob(means, log_vars, z),
        aggregate_log_marginals(means, log_vars, z),
    )


def surgery_from_densities(
    z: Tensor, log_conditional: Tensor, log_joint: Tensor, log_marginals: Tensor
) -> SurgeryEstimate:
    """The parts from (estimated) log-densities at codes z ``(m, dim)``, one draw a row.

    Args:
        z: codes, drawn from the posteriors.
        log_conditional: ``log q(z|x)`` of each code under its own posterior, ``(m,)``.
        log_joint: ``log q(z)``, ``(m,)``.
        log_marginals: ``log q(z_j)``, ``(m, dim)``.
    """
    log_prior = -0.5 * (z.square() + _LOG_2PI)  # (m, dim)
    draws = Surgery(
        rate=log_conditional - log_prior.sum(1),
        mutual_information=log_conditional - log_joint,
        marginal_kl=log_joint - log_prior.sum(1),
        total_correlation=log_joint - log_marginals.sum(1),
        dimension_kl=log_marginals - log_prior,
    )
    return SurgeryEstimate(
        Surgery(*(draw.mean(0) for draw in draws)),
        Surgery(*(draw.std(0) / math.sqrt(len(z)) for draw in draws)),
    )


def _posterior(model_or_posterior: object, images: Tensor | None) -> DiagonalGaussian:
    if isinstance(model_or_posterior, DiagonalGaussian):
        if images is not None:
            raise TypeError("posteriors need no images; give images with a model only")
        return model_or_posterior
    if images is None:
        raise TypeError(
            f"given a {type(model_or_posterior).__name__} alone; expected a model and its images, "
            "or a DiagonalGaussian that holds the N posteriors"
        )
    return encode(model_or_posterior, images)


def _check_codes(means: Tensor, log_vars: Tensor, z: Tensor) -> None:
    if means.shape != log_vars.shape or means.dim() != 2 or z.shape[1:] != means.shape[1:]:
        raise ValueError(
            f"means have shape {tuple(means.shape)}, log_vars {tuple(log_vars.shape)}, "
            f"z {tuple(z.shape)}; expected (N, dim), (N, dim) and (m, dim)"
        )


def _log_densities(means: Tensor, log_vars: Tensor, z: Tensor) -> Tensor:
    """``log q(z_j|x_n)``: shape ``(m, N, dim)``."""
    scaled = (z.unsqueeze(1) - means) * (-0.5 * log_vars).exp()
    return -0.5 * (scaled.square() + log_vars + _LOG_2PI)


def _entropy(means: Tensor, log_vars: Tensor, tolerance: float) -> Tensor:
    """``-integral of q(z) log q(z)`` for a mixture in one or two dimensions, in nats."""
    std = (0.5 * log_vars).exp()
    lower, upper = (means - 8 * std).amin(0), (means + 8 * std).amax(0)  # (dim,)
    # The first spacing is the median deviation of an axis; two points at least see the box.
    points = ((upper - lower) / std.median(0).values).clamp(min=2, max=_FINEST // 2).ceil().int()
    before = None
    while True:
        value, missed = _entropy_on_grid(means, std, lower, upper, points.tolist())
        # A posterior that falls between the points of two grids moves neither: ask for its mass.
        settled = before is not None and (value - before).abs() < tolerance
        if settled and missed < tolerance:
            return value
        if (points >= _FINEST).any():
            raise RuntimeError(
                f"the entropy of q(z) did not settle to tolerance={tolerance} with "
                f"{points.tolist()} grid points; the narrowest posterior has a standard deviation "
                f"of {std.min().item():.2g}; raise tolerance= or use surgery_monte_carlo"
            )
        before, points = value, (2 * points).clamp(max=_FINEST)


def _entropy_on_grid(
    means: Tensor, std: Tensor, lower: Tensor, upper: Tensor, points: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The entropy, and how far the N posteriors' masses on the grid are from 1, on average."""
    axes = []  # per axis: densities of all posteriors at all grid points, (points, N)
    for j, n in enumerate(points):
        z = lower[j] + (upper[j] - lower[j]) / n * (torch.arange(n, device=means.device) + 0.5)
        scaled = (z.unsqueeze(1) - means[:, j]) / std[:, j]
        axes.append((-0.5 * (scaled.square() + _LOG_2PI)).exp() / std[:, j])
    cell = math.prod(((upper - lower) / torch.tensor(points).to(lower)).tolist())
    mass = math.prod(table.sum(0) for table in axes) * cell  # (N,)
    missed = (mass - 1).abs().mean()
    if len(axes) == 1:
        return torch.special.entr(axes[0].mean(1)).sum() * cell, missed
    total = torch.zeros((), dtype=means.dtype, device=means.device)
    for rows in axes[0].split(max(1, _ENTRIES // points[1])):
        density = rows @ axes[1].T / len(means)  # (some points, points)
        total += torch.special.entr(density).sum()
    return total * cell, missed
