"""What a decoder returns: the likelihood p(x|z) of an image as a distribution.

Both classes sum over channels, rows and columns and give one value an image, in nats.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal
from torch.nn.functional import binary_cross_entropy_with_logits

from tutor.devices import may_look


def _same_event(x: Tensor, event_shape: torch.Size) -> None:
    """Broadcasting one image against another shape would give a plausible, wrong number."""
    if not x.is_floating_point():
        raise TypeError(f"images are {x.dtype}; expected floats; use x.float() (/ 255 for bytes)")
    if x.shape[-len(event_shape) :] != event_shape:
        raise ValueError(
            f"images have shape {tuple(x.shape)}, the decoder makes images of shape "
            f"{tuple(event_shape)}; build the model with image_shape= of your data"
        )


def _in_unit_interval(x: Tensor) -> None:
    """Outside it ``x log y + (1 - x) log(1 - y)`` has no maximum: training "succeeds" for ever."""
    if x.numel() == 0 or not may_look(x):
        return
    low, high = (v.item() for v in torch.aminmax(x.detach()))
    if low < 0 or high > 1:
        raise ValueError(
            f"images range from {low:.4g} to {high:.4g}; a Bernoulli likelihood needs [0, 1]: "
            'divide by 255 if they are 0..255, or choose likelihood="gaussian"'
        )


class BernoulliLikelihood(Independent):
    """p(x|z) for binary pixels: pixel i is 1 with probability sigmoid(logits_i).

    ``log p(x|z) = sum_i x_i log y_i + (1 - x_i) log(1 - y_i)``

    Book equation: bernoulli-likelihood.  Source: Kingma & Welling (arXiv 1312.6114),
    appendix C.1.

    Grey values between 0 and 1 are accepted as *probabilities of a white pixel*: the formula is
    linear in x, so it then returns the mean of log p(b|z) over binary images b drawn from the
    grey ones.  It is not the log-density of a grey image; `tutor.metrics` refuses that reading.

    Args:
        logits: shape ``(batch, C, H, W)``.

    Example:
        >>> BernoulliLikelihood(torch.zeros(2, 1, 4, 4)).log_prob(torch.ones(2, 1, 4, 4))
        tensor([-11.0904, -11.0904])
    """

    def __init__(self, logits: Tensor) -> None:
        super().__init__(Bernoulli(logits=logits, validate_args=False), logits.dim() - 1)
        self.logits = logits

    def expand(self, batch_shape: Any, _instance: Any = None) -> BernoulliLikelihood:
        """The same distribution with a larger batch, as in torch."""
        new = self._get_checked_instance(type(self), _instance)
        new.logits = self.logits.expand(torch.Size(batch_shape) + self.event_shape)
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-likelihood of x in nats, shape ``(batch,)``; leading axes broadcast."""
        _same_event(x, self.event_shape)
        _in_unit_interval(x)
        x, logits = torch.broadcast_tensors(x, self.logits)
        # From logits, not probabilities: log(sigmoid) under- and overflows in float32.
        pixels = -binary_cross_entropy_with_logits(logits, x, reduction="none")
        return pixels.flatten(-len(self.event_shape)).sum(-1)

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Binary images, shape ``sample_shape + (batch, C, H, W)``."""
        probabilities = self.mean.expand(*sample_shape, *self.mean.shape)
        return torch.bernoulli(probabilities.detach(), generator=generator)


class GaussianLikelihood(Independent):
    """p(x|z) = N(x; mean, std^2 I): every pixel has the same standard deviation.

    ``log p(x|z) = -|x - mean|^2 / (2 std^2) - D/2 log(2 pi std^2)``

    Book equation: gaussian-likelihood.  Source: Kingma & Welling (arXiv 1312.6114),
    appendix C.2.  The constant matters: without it two models with different std can't be
    compared, and std can't be learnt.

    Args:
        mean: shape ``(batch, C, H, W)``.
        std: positive number, or a scalar tensor (which may be a parameter).

    Example:
        >>> GaussianLikelihood(torch.zeros(1, 1, 2, 2), 1.0).log_prob(torch.zeros(1, 1, 2, 2))
        tensor([-3.6758])
    """

    def __init__(self, mean: Tensor, std: float | Tensor) -> None:
        # Filled there, not copied: a number that is sent to a GPU keeps the host waiting.
        scale = std.to(mean) if isinstance(std, Tensor) else mean.new_full((), std)
        super().__init__(Normal(mean, scale.expand_as(mean), validate_args=False), mean.dim() - 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> GaussianLikelihood:
        """The same distribution with a larger batch, as in torch."""
        new = self._get_checked_instance(type(self), _instance)
        return super().expand(batch_shape, _instance=new)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density of x in nats, shape ``(batch,)``; leading axes broadcast."""
        _same_event(x, self.event_shape)
        return super().log_prob(x)

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Images with pixel noise, shape ``sample_shape + (batch, C, H, W)``."""
        shape = (*sample_shape, *self.mean.shape)
        noise = torch.randn(
            shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype
        )
        return (self.mean + self.stddev * noise).detach()
