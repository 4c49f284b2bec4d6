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

    Returns:
        for each mass ``{"mass": m, "lines": [[(z1, z2), ...], ...]}``.

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
    grid = torch.from_numpy(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype("float32"))
    device = next((t.device for t in _tensors(prior)), torch.device("cpu"))
    with torch.no_grad():
        log_density = prior.log_prob(grid.to(device)).cpu().double().numpy()
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


def _tensors(module: Any) -> list[Tensor]:
    if not isinstance(module, torch.nn.Module):
        return []
    return [*module.parameters(), *module.buffers()]


def _generator_like(module: Any) -> torch.Generator:
    device = next((t.device for t in _tensors(module)), torch.device("cpu"))
    return torch.Generator(device=device).manual_seed(0)
