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

from tutor.metrics._evaluate import at_least_one, evaluating, on_model, refuse_grey, require
from tutor.metrics._grid import PairwiseLogLikelihood, log_sum_exp, midpoints

_HALF_WIDTH = 8  # N(0, I) has 1e-15 of its mass outside
_CELLS = 8  # grid cells along a patch; a patch has side 1, 1/2, 1/4, ...: spacing 1/8, 1/16, ...
_LEVELS = 7  # the finest spacing is 1/512
_NEGLIGIBLE = 16.0  # nats: a patch with less than e^-16 of an image's evidence is left out
_TOGETHER = 64  # patches decoded at once
_IMAGES = 10_000  # images at once


def quadrature(model: nn.Module, x: Tensor, *, tolerance: float = 1e-3) -> Tensor:
    """Exact ``log p(x) = log of the integral of p(z) p(x|z) dz``, for one or two latent dimensions.

    Book equation: evidence.  The midpoint rule on a grid over ``[-8, 8]`` per axis, refined
    where the posterior of an image is.  The spacing is halved until log p(x) agrees with the grid
    before and with each of the interleaved grids of twice the spacing (two, in the plane four)
    that make up the new one.  Two checks, because a narrow peak can sit so that it fools one; it
    can't fool both.  A quarter of the worst disagreement is the error stated for the new grid: a
    fair figure where log p(x|z) has kinks (ReLU), a safe one where the posterior is near a
    Gaussian, since there halving the spacing raises the error to the fourth power.

    Two limits.  A peak of standard deviation below about 0.01 is found when it holds most of
    the evidence, but may be overlooked beside a broader one.  In float32 the sums over pixels
    are good to about 1e-4 nats; for more use ``model.double()``.

    Args:
        model: has ``decode`` and ``prior`` (with ``dim`` 1 or 2); no encoder is needed.
        x: images ``(n, C, H, W)``; binary, if the likelihood is Bernoulli.
        tolerance: largest error allowed, in nats.

    Returns:
        Shape ``(n,)``, in nats.

    Raises:
        TypeError: if the model or the images are of the wrong kind.
        ValueError: for more than two latent dimensions, grey images under a Bernoulli
            likelihood, a wrong shape, a tolerance that is not positive, or a prior whose density
            is zero somewhere.
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
    dim, n = model.prior.dim, len(x)
    per_axis = 2 * _HALF_WIDTH  # patches
    evidence = torch.full((n,), -torch.inf, dtype=torch.float64, device=x.device)
    error, outside = torch.full_like(evidence, torch.inf), torch.zeros_like(evidence)
    # A pair is a patch and an image that has posterior mass there; sorted by patch.
    pairs = torch.arange(per_axis**dim * n, device=x.device)
    for _ in range(_LEVELS):
        patch, image = pairs // n, pairs % n
        masses = _masses(model, x, patch, image, per_axis)  # (pairs, interleaved grids)
        mass = log_sum_exp(masses)
        grids = _sum_by_image(masses, image, n)  # (n, interleaved grids)
        whole = log_sum_exp(grids)
        alone = grids + math.log(2**dim)  # each interleaved grid as a rule by itself
        witnesses = torch.cat([alone, evidence.unsqueeze(1)], 1) - whole.unsqueeze(1)
        looked = error > tolerance
        evidence = torch.where(looked, whole, evidence)
        # Halving the spacing at least quarters the error.
        error = torch.where(looked, witnesses.abs().amax(1) / 4, error)
        at_edge = _at_edge(patch, dim, per_axis)
        edge = _sum_by_image(mass[at_edge, None], image[at_edge], n)[:, 0]
        outside = torch.where(looked, (edge - evidence).exp(), outside)
        unsettled = error > tolerance
        if not unsettled.any():
            break
        near = unsettled[image] & (mass > evidence[image] - _NEGLIGIBLE)
        # A ridge may slip between the points of a coarse grid: there, look at neighbours too.
        reach = range(-1, 3) if per_axis < 16 * _HALF_WIDTH else range(2)
        pairs = _children(patch[near], dim, per_axis, reach) * n + image[near]
        pairs = pairs[pairs >= 0].unique()
        per_axis *= 2
    _refuse_bad(evidence, error, outside, tolerance)
    return evidence


def _sum_by_image(masses: Tensor, image: Tensor, n: int) -> Tensor:
    """Log of the sum of masses ``(pairs, m)`` over each image's pairs: shape ``(n, m)``."""
    top = torch.full((n,), -torch.inf, dtype=masses.dtype, device=masses.device)
    top = top.scatter_reduce(0, image, masses.amax(1), "amax")
    total = masses.new_zeros((n, masses.shape[1]))
    total.index_add_(0, image, (masses - top[image].unsqueeze(1)).exp())
    return top.unsqueeze(1) + total.log()


def _coordinates(patch: Tensor, dim: int, per_axis: int) -> Tensor:
    """Whole-number coordinates of patches, counted from the lower corner, ``(..., dim)``."""
    powers = per_axis ** torch.arange(dim, device=patch.device)
    return patch.unsqueeze(-1) // powers % per_axis


def _at_edge(patch: Tensor, dim: int, per_axis: int) -> Tensor:
    where = _coordinates(patch, dim, per_axis)
    return ((where == 0) | (where == per_axis - 1)).any(-1)


def _children(patch: Tensor, dim: int, per_axis: int, reach: range) -> Tensor:
    """Patches of half the side in and (by ``reach``) around each patch: ``(children, patches)``.

    A patch outside the grid gets a number so negative that its pairs are negative too.
    """
    steps = torch.cartesian_prod(*[torch.tensor(reach, device=patch.device)] * dim)
    where = 2 * _coordinates(patch, dim, per_axis) + steps.reshape(-1, 1, dim)
    inside = ((where >= 0) & (where < 2 * per_axis)).all(-1)
    powers = (2 * per_axis) ** torch.arange(dim, device=patch.device)
    return torch.where(inside, (where * powers).sum(-1), -(2**20))


def _masses(model: nn.Module, x: Tensor, patch: Tensor, image: Tensor, per_axis: int) -> Tensor:
    """Log of the sum of p(z) p(x|z) dz over each pair's patch and each grid interleaved in it.

    Shape ``(pairs, 2 ** dim)``.
    """
    dim = model.prior.dim
    side = 2 * _HALF_WIDTH / per_axis
    cell = side / _CELLS
    shift = torch.cartesian_prod(*[torch.tensor([0.25, 0.75]) * 2 * cell] * dim).reshape(-1, dim)
    coarse = midpoints([0.0] * dim, [side] * dim, _CELLS // 2) - cell
    inside = (shift.unsqueeze(1) + coarse).reshape(-1, dim)  # grid by grid
    patches, counts = patch.unique_consecutive(return_counts=True)
    corners = _coordinates(patches, dim, per_axis).cpu() * side - _HALF_WIDTH
    images = image.split(counts.tolist())
    masses = []
    for first in range(0, len(patches), _TOGETHER):
        some = corners[first : first + _TOGETHER]
        likelihood, log_prior = _decode(model, (some.unsqueeze(1) + inside).reshape(-1, dim), x)
        if log_prior.isneginf().any():  # no rule for smooth integrands copes with an edge
            raise ValueError(
                f"the density of the prior, a {type(model.prior).__name__}, is zero on part of the "
                "plane, and the quadrature needs one that is smooth everywhere; use iwae"
            )
        pairwise = PairwiseLogLikelihood(likelihood)
        for i in range(len(some)):
            rows = images[first + i]
            points = slice(i * len(inside), (i + 1) * len(inside))
            table = pairwise(x if len(rows) == len(x) else x[rows], points) + log_prior[points]
            masses.append(log_sum_exp(table.unflatten(1, (2**dim, -1))))
    return torch.cat(masses) + dim * math.log(cell)


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


def _refuse_bad(evidence: Tensor, error: Tensor, outside: Tensor, tolerance: float) -> None:
    if not evidence.isfinite().all():
        raise RuntimeError(
            f"log p(x) is not finite for {(~evidence.isfinite()).sum().item()} of {len(evidence)} "
            "images; the decoder returns NaN or infinity (did training diverge?)"
        )
    cut = outside > tolerance
    if cut.any():
        raise RuntimeError(
            f"{cut.sum().item()} of {len(cut)} images have more than {tolerance} of their evidence "
            "at the border of [-8, 8]; the integral is cut off there, so use method='ais' for them"
        )
    late = error > tolerance
    if late.any():
        raise RuntimeError(
            f"{late.sum().item()} of {len(error)} images did not reach tolerance={tolerance}: at "
            f"spacing {1 / _CELLS / 2 ** (_LEVELS - 1):.4f} the error may be up to "
            f"{error.max().item():.2g} nats; the posterior is too narrow for this grid, "
            'so raise tolerance= or use method="ais"'
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
            joint = PairwiseLogLikelihood(likelihood)(x) + log_prior
            log_density[:, index.to(x.device)] = joint - evidence.unsqueeze(1)
    cell = torch.tensor([(high - low) / points for low, high in pairs]).prod().item()
    return PosteriorGrid(z.to(x), log_density, log_density.exp() * cell)
