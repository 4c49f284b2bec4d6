"""A ring of narrow Gaussians, one for each class."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tutor.priors.base import Prior


class GaussianMixture(Prior):
    """Gaussians in the plane set in a ring like petals, of equal weight.

    Component k of K lies in the direction ``a = 2 pi k / K``: its mean is
    ``radius (cos a, sin a)``, and it spreads by ``radial_std`` along that direction and by
    ``tangential_std`` across it.  A class is a component.

    The spreads are standard deviations, not variances.  This needs saying: public
    implementations of this prior call the same numbers ``x_var`` and ``y_var`` and then hand
    them to a sampler that takes standard deviations.  Read as variances, 0.5 and 0.1 would make
    petals 1.4 times as long and 3.2 times as wide.

    Source: Makhzani et al. (arXiv 1511.05644) match codes to a mixture of ten Gaussians; the
    sizes are those of public code, where 0.05 is also found for the tangential spread.

    Args:
        components: number K of Gaussians, at least 1.
        radius: distance of every mean from the origin.
        radial_std: standard deviation along the component's direction.
        tangential_std: standard deviation across it.

    Raises:
        ValueError: if there is no component, the radius is negative or a spread is not positive.

    Example:
        >>> prior = GaussianMixture()
        >>> prior.sample((5,), generator=torch.Generator().manual_seed(0)).shape, prior.classes
        (torch.Size([5, 2]), 10)
        >>> prior.log_prob(torch.tensor([[1.4, 0.0]]))  # log 1 / (10 * 2 pi * 0.5 * 0.1)
        tensor([-1.1447])
    """

    def __init__(
        self,
        components: int = 10,
        *,
        radius: float = 1.4,
        radial_std: float = 0.5,
        tangential_std: float = 0.1,
    ) -> None:
        if components < 1:
            raise ValueError(f"components is {components}; a mixture needs at least one")
        if not 0 <= radius < math.inf:
            raise ValueError(f"radius is {radius}; expected a distance, 0 or more")
        for name, std in {"radial_std": radial_std, "tangential_std": tangential_std}.items():
            if not 0 < std < math.inf:
                raise ValueError(
                    f"{name} is {std}; expected a standard deviation above 0, "
                    "without which there is no density"
                )
        super().__init__(dim=2, classes=components)
        self.radius, self.radial_std, self.tangential_std = radius, radial_std, tangential_std

    def sample(self, shape: tuple[int, ...], *, generator: torch.Generator | None = None) -> Tensor:
        """Draws of shape ``shape + (2,)`` on the prior's device: a component each, then a point."""
        component = torch.randint(
            self.classes, (math.prod(shape),), generator=generator, device=self.origin.device
        )
        return self._draw(component, generator).reshape(*shape, 2)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density in nats; ``(..., 2)`` gives ``(...)``.

        Raises:
            ValueError: if the last axis of z is not 2.
            TypeError: if z does not hold real numbers.
        """
        self._check_codes(z)
        every = torch.arange(self.classes, device=z.device)
        return self._component_log_prob(z[..., None, :], every).logsumexp(-1) - math.log(
            self.classes
        )

    def sample_class(self, labels: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One draw from each label's component: ``(n,)`` gives ``(n, 2)``.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are not ``(n,)`` or one is not the number of a component.

        Example:
            >>> z = GaussianMixture(4).sample_class(torch.full((1000,), 1))
            >>> [round(m) for m in (z.mean(0) * 5).tolist()]  # about (0, 1.4)
            [0, 7]
        """
        return self._draw(self._check_labels(labels), generator)

    def log_prob_class(self, z: Tensor, labels: Tensor) -> Tensor:
        """Log-density of each code under its label's component; ``(n,)`` in nats.

        Raises:
            TypeError: as `log_prob` and `sample_class`.
            ValueError: as `log_prob` and `sample_class`.

        Example:
            >>> GaussianMixture().log_prob_class(torch.tensor([[1.4, 0.0]]), torch.tensor([0]))
            tensor([1.1579])
        """
        labels = self._check_labels(labels)
        self._check_codes(z, labels)
        return self._component_log_prob(z, labels.to(z.device))

    def _draw(self, labels: Tensor, generator: torch.Generator | None) -> Tensor:
        radial, tangential = self._normal((2, *labels.shape), generator)
        radial, tangential = (
            self.radius + self.radial_std * radial,
            self.tangential_std * tangential,
        )
        cos, sin = self._direction(labels, radial.dtype)
        return torch.stack([radial * cos - tangential * sin, radial * sin + tangential * cos], -1)

    def _component_log_prob(self, z: Tensor, component: Tensor) -> Tensor:
        # In each component's own frame its two coordinates are independent.
        cos, sin = self._direction(component, z.dtype)
        radial = (z[..., 0] * cos + z[..., 1] * sin - self.radius) / self.radial_std
        tangential = (z[..., 1] * cos - z[..., 0] * sin) / self.tangential_std
        area = 2 * math.pi * self.radial_std * self.tangential_std
        return -0.5 * (radial.square() + tangential.square()) - math.log(area)

    def _direction(self, component: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        angle = component.to(dtype) * (2 * math.pi / self.classes)
        return angle.cos(), angle.sin()

    def extra_repr(self) -> str:
        return (
            f"components={self.classes}, radius={self.radius}, radial_std={self.radial_std}, "
            f"tangential_std={self.tangential_std}"
        )
