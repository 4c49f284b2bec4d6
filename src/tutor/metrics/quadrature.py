"""The exact log p(x) of a model with one or two latent dimensions.

The plane is cut into patches.  A coarse look finds the patches that hold an image's posterior;
only these are looked at again, twice as closely each time, until the answer stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.nn.functional import max_pool2d

from tutor.metrics._evaluate import at_least_one, evaluating, on_model, refuse_grey, require
from tutor.metrics._grid import log_sum_exp, midpoints, pairwise_log_likelihood

_HALF_WIDTH = 8  # N(0, I) has 1e-15 of its mass outside
_PER_AXIS = 32  # patches of side 1/2
_CELLS = 4  # cells along a patch at the first look: spacing 1/8
_LEVELS = 7  # spacing 1/8, 1/16, ..., 1/512
_NEGLIGIBLE = 20.0  # nats: a patch below e^-20 of the evidence matters only beside a better one
_IMAGES = 10_000  # images at once
_POINTS = 16_384  # grid points decoded at once: the whole plane at the first look
_ENTRIES = 8_000_000  # entries of a table images x points at once


def quadrature(model: nn.Module, x: Tensor, *, tolerance: float = 1e-3) -> Tensor:
    """Exact ``log p(x) = log of the integral of p(z) p(x|z) dz``, for one or two latent dimensions.

    Book equation: evidence.  The midpoint rule on a grid over ``[-8, 8]`` per axis, refined
    where the posterior of an image is.  The spacing is halved until log p(x) agrees, to within
    ``tolerance``, with the grid before and with each of the interleaved grids of twice the spacing
    (two, in the plane four) that make up the new one.  Two checks, because a narrow peak can sit
    so that it fools one; it can't fool both.  They bound the error of a grid of twice the spacing.
    The error of the value returned is smaller: halving the spacing at least quarters it where
    log p(x|z) has kinks (ReLU), and raises it to the fourth power for a Gaussian posterior.

    Two limits.  A peak of standard deviation below about 0.01 is found when it holds most of
    the evidence, but may be overlooked beside a broader one.  In float32 the sums over pixels
    are good to about 1e-4 nats; for more use ``model.double()``.

    Args:
        model: has ``decode`` and ``prior`` (with ``dim`` 1 or 2); no encoder is needed.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        tolerance: largest disagreement allowed, in nats.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        TypeError: if the model or the images are of the wrong kind.
        ValueError: for more than two latent dimensions, grey images under a Bernoulli
            likelihood, a wrong shape, or a tolerance that is not positive.
        RuntimeError: if the tolerance is not reached at spacing 1/512, if the posterior runs
            over the border of the grid, or if the decoder returns values that are not finite.

    Example:
        >>> from tutor.models import VAE
        >>> model = VAE(latent_dim=2, image_shape=(1, 2, 2))
        >>> for parameter in model.parameters():
        ...     _ = torch.nn.init.zeros_(parameter)  # every pixel is 1 with probability 1/2
        >>> quadrature(model, torch.ones(1, 1, 2, 2))  # 4 log(1/2)
        tensor([-2.7726])
    """
    require(model, "decode", "prior")
    if not tolerance > 0:
        raise ValueError(f"tolerance is {tolerance}; expected a positive number of nats")
    _require_plane(model)
    x = on_model(model, x)
    with evaluating(model):
        parts = [_quadrature(model, part, tolerance) for part in x.split(_IMAGES)]
    return torch.cat(parts).to(x.dtype)


def _quadrature(model: nn.Module, x: Tensor, tolerance: float) -> Tensor:
    dim = model.prior.dim
    corners = midpoints([-_HALF_WIDTH] * dim, [_HALF_WIDTH] * dim, _PER_AXIS) - 0.25
    pieces = _masses(model, x, corners, _CELLS)  # (n, patches, interleaved grids)
    mass, grids = log_sum_exp(pieces), log_sum_exp(pieces.transpose(1, 2))
    evidence = log_sum_exp(grids)
    error = torch.full_like(evidence, torch.inf)  # one look has nothing to be compared with
    everyone = torch.arange(len(x), device=x.device)
    for level in range(1, _LEVELS):
        rows = everyone[error > tolerance]
        if len(rows) == 0:
            break
        wanted = _with_neighbours(mass[rows] > (evidence[rows] - _NEGLIGIBLE).unsqueeze(1), dim)
        grids = grids.new_full((len(rows), 2**dim), -torch.inf)
        for patch in wanted.any(0).nonzero().flatten().tolist():
            some = wanted[:, patch]
            piece = _masses(model, x[rows[some]], corners[patch, None], _CELLS * 2**level)[:, 0]
            mass[rows[some], patch] = log_sum_exp(piece)
            grids[some] = torch.logaddexp(grids[some], piece)
        before, evidence[rows] = evidence[rows], log_sum_exp(grids)
        alone = grids + math.log(2**dim)  # each interleaved grid as a rule by itself
        witnesses = torch.cat([alone, before.unsqueeze(1)], 1)
        error[rows] = (witnesses - evidence[rows].unsqueeze(1)).abs().amax(1)
    _refuse_bad(evidence, error, mass, corners, tolerance)
    return evidence


def _with_neighbours(patches: Tensor, dim: int) -> Tensor:
    """Patches ``(n, all)`` and those that touch them: a ridge may slip between coarse points."""
    square = patches.float().view(len(patches), 1, -1, _PER_AXIS)  # one row only in 1-D
    kernel = (3, 3) if dim == 2 else (1, 3)
    padding = (1, 1) if dim == 2 else (0, 1)
    return max_pool2d(square, kernel, stride=1, padding=padding).flatten(1) > 0


def _masses(model: nn.Module, x: Tensor, corners: Tensor, cells: int) -> Tensor:
    """Log of the sum of p(z) p(x|z) dz over each patch and each interleaved grid inside it.

    Shape ``(images, patches, 2 ** dim)``.
    """
    dim = corners.shape[1]
    shift = torch.cartesian_prod(*[torch.tensor([0.0, 0.5 / cells])] * dim).reshape(-1, dim)
    coarse = midpoints([0.0] * dim, [0.5] * dim, cells // 2) - 0.25 / cells
    inside = shift.unsqueeze(1) + coarse  # (grids, points, dim)
    z = (corners[:, None, None] + inside).reshape(-1, dim)
    sums = []
    for some in z.split(_POINTS):
        likelihood, log_prior = _decode(model, some, x)
        rows = []
        for part in x.split(max(1, _ENTRIES // len(some))):
            table = pairwise_log_likelihood(likelihood, part) + log_prior  # (images, points)
            rows.append(log_sum_exp(table.unflatten(1, (-1, min(len(coarse), len(some))))))
        sums.append(torch.cat(rows))
    masses = torch.cat(sums, 1).unflatten(1, (len(corners), 2**dim, -1))
    return log_sum_exp(masses) + dim * math.log(0.5 / cells)


def _decode(model: nn.Module, z: Tensor, x: Tensor) -> tuple[Distribution, Tensor]:
    """p(x|z) and log p(z) at grid points, in the precision and on the device of the images."""
    z = z.to(x)
    likelihood = model.decode(z)
    refuse_grey(likelihood, x)
    return likelihood, model.prior.log_prob(z)


def _require_plane(model: nn.Module) -> None:
    if model.prior.dim > 2:
        raise ValueError(
            f"quadrature over {model.prior.dim} latent dimensions is out of reach (a grid has "
            '(points per axis) ** dimensions points); use method="iwae" or method="ais"'
        )


def _refuse_bad(
    evidence: Tensor, error: Tensor, mass: Tensor, corners: Tensor, tolerance: float
) -> None:
    if not evidence.isfinite().all():
        raise RuntimeError(
            f"log p(x) is not finite for {(~evidence.isfinite()).sum().item()} of {len(evidence)} "
            "images; the decoder returns NaN or infinity (did training diverge?)"
        )
    late = error > tolerance
    if late.any():
        raise RuntimeError(
            f"{late.sum().item()} of {len(error)} images did not reach tolerance={tolerance}: at "
            f"spacing {0.5 / _CELLS / 2 ** (_LEVELS - 1):.4f} the grids still differ by up to "
            f"{error.max().item():.2g} nats; the posterior is too narrow for this grid, "
            "so raise tolerance= or use method='ais'"
        )
    outer = ((corners == -_HALF_WIDTH) | (corners == _HALF_WIDTH - 0.5)).any(1)
    share = (log_sum_exp(mass[:, outer.to(mass.device)]) - evidence).exp()
    if (share > tolerance).any():
        raise RuntimeError(
            f"{(share > tolerance).sum().item()} of {len(share)} images have more than "
            f"{tolerance} of their evidence at the border of [-8, 8]; the integral is cut off "
            "there, so use method='ais' for them"
        )


class PosteriorGrid(NamedTuple):
    """The exact posterior p(z|x) on a grid: see `exact_posterior`."""

    z: Tensor
    log_density: Tensor
    weights: Tensor


def exact_posterior(
    model: nn.Module,
    x: Tensor,
    *,
    bounds: Sequence[tuple[float, float]] | tuple[float, float] = (-6.0, 6.0),
    points: int = 200,
    tolerance: float = 1e-3,
) -> PosteriorGrid:
    """``p(z|x) = p(z) p(x|z) / p(x)`` on a regular grid, for one or two latent dimensions.

    Book equation: posterior.  The evidence in the denominator comes from `quadrature`, so the
    density is right inside any window; ``weights.sum(1)`` is the probability of the window
    (near 1 when it holds the posterior and the spacing resolves it).

    Args:
        model: has ``decode`` and ``prior`` (with ``dim`` 1 or 2).
        x: images ``(n, C, H, W)``.
        bounds: ``(low, high)`` for every axis, or one such pair per axis.
        points: grid points along an axis.
        tolerance: of the evidence, in nats.

    Returns:
        ``z`` of shape ``(points ** dim, dim)`` (last axis fastest), ``log_density`` and
        ``weights = density * cell`` of shape ``(n, points ** dim)``.

    Raises:
        ValueError: for bounds that are not increasing or not one pair per axis; also all that
            `quadrature` raises.

    Example:
        >>> from tutor.models import VAE
        >>> model = VAE(latent_dim=1, image_shape=(1, 2, 2))
        >>> grid = exact_posterior(model, torch.ones(3, 1, 2, 2), points=100)
        >>> grid.z.shape, grid.weights.sum(1)
        (torch.Size([100, 1]), tensor([1.0000, 1.0000, 1.0000]))
    """
    at_least_one(points=points)
    evidence = quadrature(model, x, tolerance=tolerance)
    dim = model.prior.dim
    pairs = [bounds] * dim if isinstance(bounds[0], (int, float)) else list(bounds)
    if len(pairs) != dim or not all(low < high for low, high in pairs):
        raise ValueError(f"bounds are {bounds}; expected (low, high), or one such pair per axis")
    x = on_model(model, x)
    z = midpoints([low for low, _ in pairs], [high for _, high in pairs], points)
    log_density = x.new_empty((len(x), len(z)))
    with evaluating(model):
        for index in torch.arange(len(z)).split(4096):
            likelihood, log_prior = _decode(model, z[index], x)
            joint = pairwise_log_likelihood(likelihood, x) + log_prior
            log_density[:, index.to(x.device)] = joint - evidence.unsqueeze(1)
    cell = torch.tensor([(high - low) / points for low, high in pairs]).prod().item()
    return PosteriorGrid(z.to(x), log_density, log_density.exp() * cell)
