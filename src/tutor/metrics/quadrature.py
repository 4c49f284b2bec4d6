"""The exact log p(x) of a model with one or two latent dimensions.

The plane is cut into patches.  A coarse look finds the patches that hold an image's posterior;
only these are looked at again, twice as closely each time, until the answer stands still.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from tutor.metrics._evaluate import at_least_one, evaluating, on_model, refuse_grey, require
from tutor.metrics._grid import log_sum_exp, midpoints, pairwise_log_likelihood

_HALF_WIDTH = 8  # N(0, I) has 1e-15 of its mass outside
_PER_AXIS = 32  # patches of side 1/2
_CELLS = 4  # cells along a patch at the first look: spacing 1/8
_LEVELS = 7  # spacing 1/8, 1/16, ..., 1/512
_NEGLIGIBLE = 30.0  # nats below the image's evidence: a patch with e^-30 of it is left as it is
_IMAGES = 10_000  # images at once
_ENTRIES = 8_000_000  # entries of a table images x points at once


def quadrature(model: nn.Module, x: Tensor, *, tolerance: float = 1e-3) -> Tensor:
    """Exact ``log p(x) = log of the integral of p(z) p(x|z) dz``, for one or two latent dimensions.

    Book equation: evidence.  The midpoint rule on a grid over ``[-8, 8]`` per axis, refined
    where the posterior of an image is.  The spacing is halved until log p(x) moves by less than
    ``tolerance``.  That last move is the error of the coarser grid; the error of the value
    returned is smaller, because halving the spacing at least quarters it (and raises it to the
    fourth power for a posterior near a Gaussian).

    Two limits.  A peak of standard deviation below about 0.01 is found when it holds most of
    the evidence, but may be overlooked beside a broader one.  In float32 the sums over pixels
    are good to about 1e-4 nats; for more use ``model.double()``.

    Args:
        model: has ``decode`` and ``prior`` (with ``dim`` 1 or 2); no encoder is needed.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        tolerance: largest last move allowed, in nats.

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
    mass = x.new_empty((len(x), len(corners)), dtype=torch.float64)  # log of each patch's integral
    everyone = torch.arange(len(x), device=x.device)
    for patches in torch.arange(len(corners)).split(128):
        mass[:, patches.to(x.device)] = _patch_mass(model, x, corners[patches], _CELLS)
    evidence = log_sum_exp(mass)
    move = torch.full_like(evidence, torch.inf)
    for level in range(1, _LEVELS):
        rows = everyone[move > tolerance]
        if len(rows) == 0:
            break
        wanted = mass[rows] > (evidence[rows] - _NEGLIGIBLE).unsqueeze(1)
        for patch in wanted.any(0).nonzero().flatten().tolist():
            some = rows[wanted[:, patch]]
            cells = _CELLS * 2**level
            mass[some, patch] = _patch_mass(model, x[some], corners[patch : patch + 1], cells)[:, 0]
        refined = log_sum_exp(mass[rows])
        move[rows] = (refined - evidence[rows]).abs()
        evidence[rows] = refined
    _refuse_bad(evidence, move, mass, corners, tolerance)
    return evidence


def _patch_mass(model: nn.Module, x: Tensor, corners: Tensor, cells: int) -> Tensor:
    """Log of the integral of p(z) p(x|z) over each patch, shape ``(images, patches)``."""
    dim = corners.shape[1]
    inside = midpoints([0.0] * dim, [0.5] * dim, cells)  # (points, dim)
    z = (corners.unsqueeze(1) + inside).reshape(-1, dim)  # (patches * points, dim)
    log_cell = dim * math.log(0.5 / cells)
    if len(z) > 4096:  # one patch at a close look: in pieces, then together
        total = [_patch_table(model, x, part).unsqueeze(-1) for part in z.split(4096)]
        return log_sum_exp(torch.cat(total, -1)).unsqueeze(1) + log_cell
    return _patch_table(model, x, z, len(corners)) + log_cell


def _patch_table(model: nn.Module, x: Tensor, z: Tensor, patches: int | None = None) -> Tensor:
    """Log of the sum of p(z) p(x|z) over the points of each patch (of all, without patches)."""
    likelihood, log_prior = _decode(model, z, x)
    sums = []
    for part in x.split(max(1, _ENTRIES // len(z))):
        table = pairwise_log_likelihood(likelihood, part) + log_prior  # (images, points)
        sums.append(log_sum_exp(table.unflatten(1, (patches or 1, -1))))
    joined = torch.cat(sums)
    return joined if patches else joined[:, 0]


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
    evidence: Tensor, move: Tensor, mass: Tensor, corners: Tensor, tolerance: float
) -> None:
    if not evidence.isfinite().all():
        raise RuntimeError(
            f"log p(x) is not finite for {(~evidence.isfinite()).sum().item()} of {len(evidence)} "
            "images; the decoder returns NaN or infinity (did training diverge?)"
        )
    late = move > tolerance
    if late.any():
        raise RuntimeError(
            f"{late.sum().item()} of {len(move)} images did not reach tolerance={tolerance}: at "
            f"spacing {0.5 / _CELLS / 2 ** (_LEVELS - 1):.4f} log p(x) still moved by up to "
            f"{move.max().item():.2g} nats; the posterior is too narrow for this grid, "
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
