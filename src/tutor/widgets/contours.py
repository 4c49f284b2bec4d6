"""Contours of a prior's density, each labelled by the mass that it encloses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

MASSES = (0.5, 0.9, 0.99)


def prior_contours(prior: Any, masses: tuple[float, ...] = MASSES) -> list[dict[str, Any]]:
    """Boundaries of the smallest regions of the plane that hold each mass of the prior.

    The density is evaluated on a grid over a box around draws of the prior; the level of mass m is
    the density above which the grid's cells hold m of all.  For N(0, I) the boundaries are circles
    of radius ``sqrt(-2 log(1 - m))``.

    A flat density has no smallest region below mass 1; its one boundary is that of its support,
    found to 1e-3 where it is a box and to a grid cell elsewhere.

    Returns:
        for each mass ``{"mass": m, "lines": [[(z1, z2), ...], ...]}``; for a flat density one
        entry with mass 1.

    Example:
        >>> from tutor.priors import Gaussian
        >>> circle = prior_contours(Gaussian(2), (0.5,))[0]["lines"][0]
        >>> round(float(np.hypot(*circle[0])), 2)
        1.18
    """
    from contourpy import contour_generator

    some = prior.sample((4096,), generator=_generator_like(prior)).detach().cpu().numpy()
    low, high = some.min(0), some.max(0)
    low, high = low - 0.3 * (high - low), high + 0.3 * (high - low)
    xs, ys = (np.linspace(low[d], high[d], 161) for d in (0, 1))
    log_density = _log_density(prior, np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2))
    if np.ptp(log_density[np.isfinite(log_density)]) < 1e-6:
        return [{"mass": 1.0, "lines": _outline(prior, xs, ys, np.isfinite(log_density))}]
    falling = np.sort(log_density)[::-1]
    mass = np.cumsum(np.exp(falling - falling[0]))
    floor = falling[np.isfinite(falling)][-1]
    lines = contour_generator(xs, ys, np.maximum(log_density, floor).reshape(161, 161))
    return [
        {
            "mass": m,
            "lines": [
                line.round(3).tolist()
                for line in lines.lines(float(np.interp(m, mass / mass[-1], falling)))
            ],
        }
        for m in masses
    ]


def simplified(line: Any, tolerance: float) -> list[tuple[float, float]]:
    """The line with fewer points, none of the others farther than ``tolerance`` from it.

    Source: the algorithm of Ramer (1972) and of Douglas & Peucker (1973).

    Example:
        >>> simplified([(0, 0), (1, 0.001), (2, 0), (2, 2)], 0.01)
        [(0.0, 0.0), (2.0, 0.0), (2.0, 2.0)]
    """
    points = np.asarray(line, dtype="float64")
    keep = np.zeros(len(points), bool)
    keep[[0, -1]] = True
    stretches = [(0, len(points) - 1)]
    while stretches:
        first, last = stretches.pop()
        between = points[first + 1 : last] - points[first]
        if not len(between):
            continue
        along = points[last] - points[first]
        length = float(np.hypot(*along))
        if length == 0:  # a closed line begins where it ends
            distance = np.hypot(*between.T)
        else:
            distance = np.abs(between[:, 0] * along[1] - between[:, 1] * along[0]) / length
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            stretches += [(first, middle), (middle, last)]
    return [tuple(point) for point in points[keep].tolist()]


def _log_density(prior: Any, points: np.ndarray) -> np.ndarray:
    device = next((t.device for t in _tensors(prior)), torch.device("cpu"))
    with torch.no_grad():
        z = torch.from_numpy(points.astype("float32")).to(device)
        return prior.log_prob(z).cpu().double().numpy()


def _outline(prior: Any, xs: np.ndarray, ys: np.ndarray, inside: np.ndarray) -> list[Any]:
    """The boundary of the support of a flat density, known on a grid."""
    from contourpy import contour_generator

    inside = inside.reshape(len(ys), len(xs))
    columns, rows = inside.any(0), inside.any(1)
    if not inside[np.ix_(rows, columns)].all():
        lines = contour_generator(xs, ys, inside.astype("float64")).lines(0.5)
        return [line.round(3).tolist() for line in lines]
    # A box: each side lies between two lines of the grid, and halving the gap finds it.
    middle = np.array([xs[columns].mean(), ys[rows].mean()])
    sides = []
    for axis, ticks, held in ((0, xs, columns), (1, ys, rows)):
        first, last = np.flatnonzero(held)[[0, -1]]
        for within, beyond in ((first, first - 1), (last, last + 1)):
            low, high = float(ticks[within]), float(ticks[beyond])
            for _ in range(30):
                point = middle.copy()
                point[axis] = (low + high) / 2
                if np.isfinite(_log_density(prior, point[None])[0]):
                    low = float(point[axis])
                else:
                    high = float(point[axis])
            sides.append(round(low, 3))
    left, right, bottom, top = sides
    return [[[left, bottom], [right, bottom], [right, top], [left, top], [left, bottom]]]


def _tensors(module: Any) -> list[Tensor]:
    if not isinstance(module, torch.nn.Module):
        return []
    return [*module.parameters(), *module.buffers()]


def _generator_like(module: Any) -> torch.Generator:
    device = next((t.device for t in _tensors(module)), torch.device("cpu"))
    return torch.Generator(device=device).manual_seed(0)
