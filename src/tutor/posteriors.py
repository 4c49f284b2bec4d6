"""What an encoder returns: the approximate posterior q(z|x) as a distribution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, Normal


class DiagonalGaussian(Independent):
    """q(z|x) = N(mean, diag(exp(log_var))): independent coordinates given x.

    Book equation: gaussian-posterior.  Source: Kingma & Welling (arXiv 1312.6114), equation 9.

    Args:
        mean: shape ``(batch, dim)``.
        log_var: logarithm of the variance, same shape.  The logarithm makes every real number
            a legal network output.

    `log_prob` sums over the latent dimensions and returns shape ``(batch,)`` in nats.

    Raises:
        ValueError: if the two shapes differ or are not ``(batch, dim)``.

    Example:
        >>> q = DiagonalGaussian(torch.zeros(3, 2), torch.zeros(3, 2))
        >>> q.sample(generator=torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
        >>> q.log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    def __init__(self, mean: Tensor, log_var: Tensor) -> None:
        if mean.shape != log_var.shape or mean.dim() != 2:
            raise ValueError(
                f"mean has shape {tuple(mean.shape)} and log_var {tuple(log_var.shape)}; "
                "both must be (batch, dim)"
            )
        self.log_var = log_var
        # Validation would read the values back from the device on every call.
        super().__init__(Normal(mean, (0.5 * log_var).exp(), validate_args=False), 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalGaussian:
        """The same distribution with a larger batch, as in torch."""
        new = self._get_checked_instance(type(self), _instance)
        new.log_var = self.log_var.expand(torch.Size(batch_shape) + self.event_shape)
        return super().expand(batch_shape, _instance=new)

    def rsample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """z = mean + stddev * noise, differentiable in mean and log_var.

        Book equation: reparameterisation.  Shape ``sample_shape + (batch, dim)``.
        """
        shape = (*sample_shape, *self.mean.shape)
        noise = torch.randn(
            shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return self.mean + self.stddev * noise

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same draw without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)
