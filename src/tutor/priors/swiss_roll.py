"""A spiral in the plane, thick enough to have a density."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tutor.priors.base import Prior

OUTER_RADIUS = 3.0
TURNS = 2
ORDER = 16  # of the quadrature on one panel
PANEL = 6.0  # length of a panel, in widths of the integrand's bell


class SwissRoll(Prior):
    """A spiral of two turns, with Gaussian noise about it.

    A point of the arc has position u in [0, 1]: with ``s = sqrt(u)`` its radius is ``3 s`` and
    its angle ``4 pi s``.  The square root makes equal steps of u nearly equal lengths of arc,
    except near the centre; neighbouring turns lie 1.5 apart.  A draw is

        ``z = arc(u) + thickness * noise``,  u uniform on [0, 1], noise standard normal,

    so ``thickness`` is the standard deviation of the noise in each direction.  Without it the
    roll would be a curve, which has no density.  With it

        ``p(z) = integral of N(z; arc(u), thickness**2 I) du``  from 0 to 1.

    Class k of K is the segment of arc with u from ``k / K`` to ``(k + 1) / K``, with its noise.
    The segments follow each other outwards, so the roll is walked along with `arc`.

    Source: Makhzani et al. (arXiv 1511.05644) match codes to a swiss roll; the curve is that of
    public code, where it has no thickness.

    Args:
        classes: number K of segments, at least 1.
        thickness: standard deviation of the noise, positive.

    Raises:
        ValueError: if there is no class or the thickness is not positive.

    Example:
        >>> prior = SwissRoll()
        >>> prior.sample((5,), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
        >>> prior.log_prob(torch.tensor([[3.0, 0.0], [2.25, 0.0]]))  # outer end; between turns
        tensor([ -2.2490, -28.8096])
    """

    def __init__(self, *, classes: int = 10, thickness: float = 0.1) -> None:
        if not 0 < thickness < math.inf:
            raise ValueError(
                f"thickness is {thickness}; expected a standard deviation above 0, such as 0.1: "
                "a roll without thickness is a curve and has no density"
            )
        super().__init__(dim=2, classes=classes)
        self.thickness = thickness
        # Kept in double precision whatever the model's, and cast to the codes' when used.
        self._whole = _arc_rule(1, thickness)
        self._segments = _arc_rule(classes, thickness)

    def arc(self, u: Tensor) -> Tensor:
        """Points of the bare curve at positions u in [0, 1]; ``(...)`` gives ``(..., 2)``.

        Raises:
            ValueError: if a position is outside [0, 1].

        Example:
            >>> SwissRoll().arc(torch.tensor([0.0, 1.0])).round(decimals=4).abs()
            tensor([[0., 0.],
                    [3., 0.]])
        """
        if not ((u >= 0) & (u <= 1)).all():
            raise ValueError(
                f"u goes from {u.min().item():.4g} to {u.max().item():.4g}; positions on the arc "
                "go from 0, the centre, to 1, the outer end"
            )
        return _curve(u.sqrt())

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (2,)`` on the prior's device."""
        u = self._uniform(shape, generator)
        return _curve(u.sqrt()) + self.thickness * self._normal((*shape, 2), generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; ``(..., 2)`` gives ``(...)``.

        The integral along the arc is a sum over fixed points of it, taken in log space, so that
        codes far from the roll have a finite log-density and a gradient that leads back.  For
        codes in double precision no farther than 6 from the centre along either axis its error
        is below 1e-6 nats at thickness 0.05 or more; thinner rolls take more points and are less
        exact far away.

        Raises:
            ValueError: if the last axis of z is not 2.
            TypeError: if z does not hold real numbers.
        """
        self._check_codes(z)
        position, log_weight = (t[0] for t in self._like(z, "_whole"))
        parts = [
            self._integral(part, position, log_weight)
            # a grid of the whole plane must fit in memory
            for part in z.reshape(-1, 2).split(max(1, 400_000 // len(position)))
        ]
        return torch.cat(parts).reshape(z.shape[:-1])

    def sample_class(self, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw from each label's segment of the roll: ``(n,)`` gives ``(n, 2)``.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are not ``(n,)`` or one is not the number of a segment.

        Example:
            >>> z = SwissRoll().sample_class(torch.tensor([0, 9]))
            >>> bool(z[0].norm() < z[1].norm())  # from the centre outwards
            True
        """
        labels = self._check_labels(labels)
        u = (self._uniform(labels.shape, generator) + labels) / self.classes
        return _curve(u.sqrt()) + self.thickness * self._normal((*labels.shape, 2), generator)

    def log_prob_class(self, z: Tensor, labels: Tensor) -> Tensor:
        """Log-density of each code under its label's segment; ``(n,)`` in nats.

        Raises:
            TypeError: as `log_prob` and `sample_class`.
            ValueError: as `log_prob` and `sample_class`.

        Example:
            >>> roll = SwissRoll()
            >>> z = roll.arc(torch.tensor([0.55]))  # in the middle of segment 5
            >>> roll.log_prob_class(z, torch.tensor([5])) - roll.log_prob(z)  # log 10
            tensor([2.3026])
        """
        labels = self._check_labels(labels).to(z.device)
        self._check_codes(z, labels)
        position, log_weight = (t[labels] for t in self._like(z, "_segments"))
        return self._integral(z, position, log_weight)

    def _integral(self, z: Tensor, position: Tensor, log_weight: Tensor) -> Tensor:
        """Log of the weighted sum of N(z; curve(position), thickness^2 I); ``(n,)``."""
        x, y = _curve(position).unbind(-1)
        squared_distance = (z[:, :1] - x).square() + (z[:, 1:] - y).square()  # (n, points)
        exponent = log_weight - squared_distance / (2 * self.thickness**2)
        return exponent.logsumexp(-1) - math.log(2 * math.pi * self.thickness**2)

    def extra_repr(self) -> str:
        return f"classes={self.classes}, thickness={self.thickness}"


def _curve(s: Tensor) -> Tensor:
    radius, angle = OUTER_RADIUS * s, 2 * math.pi * TURNS * s
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def _arc_rule(classes: int, thickness: float) -> tuple[Tensor, Tensor]:
    """Points s on each class's segment and the logs of their weights, both ``(classes, points)``.

    In s, with du = 2 s ds, the integrand is a smooth bell along the arc.  Each segment is cut into
    panels a few bells long, and each panel has a Gauss-Legendre rule.
    """
    node, weight = np.polynomial.legendre.leggauss(ORDER)
    ends = np.sqrt(np.arange(classes + 1) / classes)
    s = np.linspace(ends[:-1], ends[1:], 1025)  # (1025, classes), to measure lengths with
    # The bell is one thickness wide, but a code at distance d on the outer side of a bend of
    # radius R sees it narrower by sqrt(1 + d / R): count in such bells, d being one turn's gap.
    pitch = OUTER_RADIUS / (2 * math.pi * TURNS)  # radius gained in an angle of 1
    bend = pitch / 2 + OUTER_RADIUS * s
    gap = OUTER_RADIUS / TURNS
    bells = np.hypot(pitch, OUTER_RADIUS * s) / pitch * OUTER_RADIUS / thickness
    bells *= np.sqrt(1 + gap / bend)  # per s
    count = np.zeros_like(s)
    count[1:] = np.cumsum((bells[1:] + bells[:-1]) / 2 * np.diff(s, axis=0), axis=0)
    # Beyond an end the integrand falls off over thickness**2 / distance: a short panel there.
    short = np.minimum(8 * thickness, count[-1] / 4)
    panels = math.ceil(count[-1].max() / PANEL)
    cut = np.linspace(short, count[-1] - short, panels + 1)
    cut = np.vstack([0 * short, cut, count[-1]])  # (panels + 3, classes)
    edge = np.stack([np.interp(cut[:, k], count[:, k], s[:, k]) for k in range(classes)])
    middle, half = (edge[:, 1:] + edge[:, :-1]) / 2, (edge[:, 1:] - edge[:, :-1]) / 2
    position = middle[..., None] + half[..., None] * node  # (classes, panels + 2, ORDER)
    density = 2 * classes * position  # of s, when u is uniform on the class's segment
    log_weight = np.log(half[..., None] * weight * density)
    return tuple(torch.from_numpy(t.reshape(classes, -1)) for t in (position, log_weight))
