"""A prior that somebody drew: round Gaussians along the strokes of a pen."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tutor.priors.base import Prior

ENTRIES = 4_000_000  # entries of a table at once


class DrawnPrior(Prior):
    """An equal mixture of round Gaussians in the plane, one about each drawn point.

        ``p(z) = 1/N sum_i N(z; point_i, thickness**2 I)``

    Points set evenly along a stroke, no farther apart than ``thickness``, make the stroke a band
    of about even density.  A drawing has no classes: there is no ``sample_class``.

    Args:
        points: where the pen was, ``(N, 2)`` or a list of pairs.
        thickness: standard deviation about each point, positive.

    Raises:
        ValueError: if nothing was drawn, a point is no pair of finite numbers, or the thickness
            is not positive.

    Example:
        >>> prior = DrawnPrior([(0.0, 0.0), (1.0, 0.0)], thickness=0.1)
        >>> prior.sample((5,), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
        >>> prior.log_prob(torch.zeros(1, 2))  # log 1 / (2 * 2 pi * 0.01); the other is far away
        tensor([2.0741])
    """

    def __init__(
        self, points: Tensor | Sequence[tuple[float, float]], *, thickness: float = 0.1
    ) -> None:
        super().__init__(dim=2, classes=1)
        if not 0 < thickness < math.inf:
            raise ValueError(
                f"thickness is {thickness}; expected a standard deviation above 0, such as 0.1"
            )
        if len(points) == 0:
            raise ValueError("no point was drawn; draw a stroke first")
        try:
            centres = torch.as_tensor(points, dtype=self.origin.dtype).detach()
        except (TypeError, ValueError) as error:
            raise ValueError("points are not pairs of numbers; expected (N, 2)") from error
        if centres.dim() != 2 or centres.shape[1] != 2:
            raise ValueError(f"points have shape {tuple(centres.shape)}; expected (N, 2)")
        if not centres.isfinite().all():
            raise ValueError("a drawn point is NaN or infinite; expected two finite numbers each")
        self.thickness = thickness
        self.register_buffer("points", centres.clone(), persistent=False)

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (2,)`` on the prior's device: a point each, then its noise."""
        point = torch.randint(
            len(self.points), shape, generator=generator, device=self.origin.device
        )
        return self.points[point] + self.thickness * self._normal((*shape, 2), generator)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; ``(..., 2)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not 2.
            TypeError: if z does not hold real numbers.
        """
        self._check_codes(z)
        points, variance = self.points.to(z), self.thickness**2
        rows = z.reshape(-1, 2).split(max(1, ENTRIES // len(points)))
        exponents = [
            # the difference first: expanding the square would lose digits far from the origin
            (-(part[:, None] - points).square().sum(-1) / (2 * variance)).logsumexp(1)
            for part in rows
        ]
        whole = torch.cat(exponents).reshape(z.shape[:-1])
        return whole - math.log(2 * math.pi * variance * len(points))

    def extra_repr(self) -> str:
        # A checkpoint is taken up by a model that prints the same: two drawings must not.
        drawing = hashlib.sha256(self.points.cpu().float().numpy().tobytes()).hexdigest()[:8]
        return f"points={len(self.points)}, drawing={drawing}, thickness={self.thickness}"
