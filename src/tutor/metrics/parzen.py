"""The Parzen-window log-likelihood: how generative models were once compared, in nats.

A model that can only be sampled has no density to evaluate, so one is built from its samples: a
small Gaussian about each.  In many dimensions the result says more about the windows than about
the model, which the chapter on adversarial autoencoders shows; it is here to read old tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_ENTRIES = 4_000_000  # distances at once: 32 MB
BANDWIDTHS = tuple(0.05 * 20 ** (i / 24) for i in range(25))
"""From 0.05 to 1 in equal ratios: a search for images in [0, 1]."""


class Parzen(NamedTuple):
    """``log_prob`` ``(n,)`` of each test point in nats, with the ``bandwidth`` that was chosen."""

    log_prob: Tensor
    bandwidth: float


def parzen_log_prob(x: Tensor, samples: Tensor, bandwidth: float) -> Tensor:
    """Log-density of x under Gaussian windows about the samples.

    ``log 1/m sum_j N(x; s_j, bandwidth^2 I)``

    Book equation: parzen-window.
    Computed in float64, in blocks: memory stays small whatever n and m.

    Args:
        x: points ``(n, ...)``; all but the first axis are flattened.
        samples: points of the model ``(m, ...)``, of the same size.
        bandwidth: standard deviation of a window, in the unit of the points.

    Returns:
        Shape ``(n,)``, float64, in nats, without gradient.  It depends on the unit of the points:
        images in 0..255 give ``D log 255`` less than images in [0, 1].

    Raises:
        TypeError: if x or samples are not tensors of floats.
        ValueError: for other sizes, no points, or a bandwidth that is not positive.

    Example:
        >>> parzen_log_prob(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), bandwidth=1.0)
        tensor([-2.3379], dtype=torch.float64)
    """
    return _log_prob(x, samples, [bandwidth])[0]


def parzen(
    x: Tensor,
    samples: Tensor,
    validation: Tensor,
    *,
    bandwidths: Sequence[float] = BANDWIDTHS,
) -> Parzen:
    """The papers' protocol: choose the bandwidth on a validation set, then look at the test set.

    ``h = argmax_h mean_i log p_h(v_i)``, then ``log p_h(x)``

    The papers report the mean over test points with its standard error.  Source: Goodfellow et
    al. (arXiv 1406.2661), section 5; why it misleads: Theis, van den Oord & Bethge (arXiv
    1511.01844), on estimates by Parzen windows.

    Args:
        x: test points ``(n, ...)``.
        samples: points of the model ``(m, ...)``; the papers take 10 000.
        validation: held-out points ``(k, ...)``, no test points among them.
        bandwidths: candidates, in the unit of the points.

    Returns:
        `Parzen`.

    Raises:
        TypeError: as `parzen_log_prob`.
        ValueError: as `parzen_log_prob`; or if the best bandwidth is the smallest or largest
            candidate, since then a better one may lie beyond.

    Example:
        >>> g = torch.Generator().manual_seed(0)
        >>> samples, held_out, x = (torch.randn(1_000, 2, generator=g) for _ in range(3))
        >>> found = parzen(x, samples, held_out)
        >>> 0.2 < found.bandwidth < 0.5
        True
    """
    candidates = sorted(float(h) for h in bandwidths)
    if len(candidates) < 3:
        raise ValueError(
            f"given {len(candidates)} bandwidths; a search needs at least 3 (for one bandwidth "
            "use parzen_log_prob)"
        )
    means = _log_prob(validation, samples, candidates).mean(1)  # (candidates,)
    best = int(means.argmax())
    if best in (0, len(candidates) - 1):
        raise ValueError(
            f"the best bandwidth is {candidates[best]:.4g}, at the end of the search from "
            f"{candidates[0]:.4g} to {candidates[-1]:.4g}; give bandwidths= beyond it"
        )
    return Parzen(parzen_log_prob(x, samples, candidates[best]), candidates[best])


def _log_prob(x: Tensor, samples: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """``(bandwidths, n)``: the distances, which are the work, are shared."""
    x, samples = _points(x, samples)
    for h in bandwidths:
        if not 0 < h < math.inf:
            raise ValueError(f"bandwidth is {h}; the width of a window is positive")
    h = torch.tensor(list(bandwidths), dtype=x.dtype, device=x.device)
    centre = samples.mean(0)  # smaller numbers lose less when their squares cancel
    x, samples = x - centre, samples - centre
    of_samples = samples.square().sum(1)
    parts = []
    for some in x.split(max(1, _ENTRIES // len(samples))):
        squares = some.square().sum(1, keepdim=True) + of_samples - 2 * some @ samples.T
        squares.clamp_(min=0)  # (block, m)
        parts.append(torch.stack([(squares / (-2 * w * w)).logsumexp(1) for w in h]))
    normaliser = 0.5 * x.shape[1] * (2 * math.pi * h**2).log() + math.log(len(samples))
    return torch.cat(parts, 1) - normaliser.unsqueeze(1)


def _points(x: Tensor, samples: Tensor) -> tuple[Tensor, Tensor]:
    for points in (x, samples):
        if not isinstance(points, Tensor) or not points.is_floating_point():
            given = points.dtype if isinstance(points, Tensor) else type(points).__name__
            raise TypeError(f"points are {given}; expected tensors of floats, such as dataset[:]")
    if x.dim() < 2 or samples.dim() < 2 or x.shape[1:] != samples.shape[1:]:
        raise ValueError(
            f"points have shape {tuple(x.shape)} and samples {tuple(samples.shape)}; expected "
            "(n, ...) and (m, ...) with the same size of a point"
        )
    if len(x) == 0 or len(samples) == 0:
        raise ValueError(f"given {len(x)} points and {len(samples)} samples; expected some of both")
    flat = x.detach().flatten(1).double(), samples.detach().flatten(1).double()
    if not all(points.isfinite().all() for points in flat):
        raise ValueError("some points or samples are not finite; did a training diverge?")
    return flat
