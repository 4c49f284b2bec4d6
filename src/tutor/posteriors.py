"""What an encoder returns: the approximate posterior q(z|x).

Three kinds: a Gaussian with a density; a single code; and noise sent through a network, which can
be drawn from but has no density that one could write down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
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


class Deterministic:
    """q(z|x) is a single code, ``z = f(x)``: all randomness of z is that of the data.

    It can be drawn from like the other posteriors, and has no density.  Source: the first of the
    three encoders of Makhzani et al. (arXiv 1511.05644), section 2.

    Args:
        codes: shape ``(batch, dim)``.

    Raises:
        ValueError: if the codes are not ``(batch, dim)``.

    Example:
        >>> q = Deterministic(torch.zeros(3, 2))
        >>> q.rsample((5,)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(self, codes: Tensor) -> None:
        if codes.dim() != 2:
            raise ValueError(f"codes have shape {tuple(codes.shape)}; expected (batch, dim)")
        self.mean = codes

    @property
    def stddev(self) -> Tensor:
        """Zero for every coordinate, shape ``(batch, dim)``."""
        return torch.zeros_like(self.mean)

    def rsample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The code itself, ``sample_shape + (batch, dim)``; no random number is used."""
        return self.mean.expand(*sample_shape, *self.mean.shape)

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same without a gradient."""
        return self.rsample(sample_shape).detach()

    def log_prob(self, z: Tensor) -> NoReturn:
        """Raises TypeError: a point mass has no density."""
        raise TypeError(
            "a deterministic encoder's q(z|x) is a point mass and has no density; compare samples "
            "(tutor.metrics.energy_distance), or use a Gaussian posterior"
        )


class ImplicitPosterior:
    """q(z|x) of ``z = f(x, noise)``: samples without a density.

    Any distribution can be reached if f is rich enough and the noise has as many dimensions as z.
    Nothing but samples comes out: log q(z|x) is unknown, and a network has to estimate what is
    needed of it.  Source: the *universal approximator* of Makhzani et al. (arXiv 1511.05644),
    section 2, and the inference model of Mescheder et al. (arXiv 1701.04722), figure 1.

    Args:
        draw: ``draw(sample_shape, generator)`` gives codes ``sample_shape + shape``, with
            gradients.
        shape: ``(batch, dim)`` of one draw.

    Example:
        >>> def draw(sample_shape, generator):
        ...     return torch.rand(*sample_shape, 3, 2, generator=generator)
        >>> q = ImplicitPosterior(draw, shape=(3, 2))
        >>> mean, std = q.moments(1000, generator=torch.Generator().manual_seed(0))
        >>> mean.shape, bool((mean - 0.5).abs().max() < 0.05)
        (torch.Size([3, 2]), True)
    """

    def __init__(
        self,
        draw: Callable[[tuple[int, ...], torch.Generator | None], Tensor],
        shape: tuple[int, int],
    ) -> None:
        self._draw = draw
        self.shape = tuple(shape)

    def rsample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Codes ``sample_shape + (batch, dim)``, each from its own noise, differentiable in f.

        Raises:
            ValueError: if ``draw`` returns another shape.
        """
        z = self._draw(tuple(sample_shape), generator)
        if tuple(z.shape) != (*sample_shape, *self.shape):
            raise ValueError(
                f"the encoder drew codes of shape {tuple(z.shape)}; expected "
                f"{(*sample_shape, *self.shape)}: sample_shape, then (batch, dim)"
            )
        return z

    def sample(
        self, sample_shape: tuple[int, ...] = (), *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The same draw without a gradient."""
        with torch.no_grad():
            return self.rsample(sample_shape, generator=generator)

    def moments(
        self, samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over that many draws, ``(batch, dim)`` each, no gradient.

        The variance is divided by ``samples - 1``, so that it has no bias.

        Raises:
            ValueError: for fewer than two samples, which have no spread.
        """
        if samples < 2:
            raise ValueError(f"samples is {samples}; a standard deviation takes at least two draws")
        z = self.sample((samples,), generator=generator)
        return z.mean(0), z.std(0)

    def log_prob(self, z: Tensor) -> NoReturn:
        """Raises TypeError: the density is unknown."""
        raise TypeError(
            "q(z|x) is implicit: it can be drawn from, its density is unknown; a critic network "
            "estimates log q(z|x) - log p(z) from samples"
        )


def noise_fed(encoder: nn.Module, x: Tensor, dim: int) -> ImplicitPosterior:
    """q(z|x) of an encoder that takes images and standard normal noise.

    Args:
        encoder: has ``noise_dim``; ``encoder(x, noise)`` with noise ``(..., n, noise_dim)`` gives
            codes ``(..., n, dim)``.
        x: images ``(n, C, H, W)``.
        dim: number of latent dimensions.

    Example:
        >>> class Shift(nn.Module):
        ...     noise_dim = 2
        ...     def forward(self, x, noise):
        ...         return x + noise
        >>> noise_fed(Shift(), torch.zeros(3, 2), dim=2).sample((5,)).shape
        torch.Size([5, 3, 2])
    """

    def draw(sample_shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        shape = (*sample_shape, len(x), encoder.noise_dim)
        noise = torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        return encoder(x, noise)

    return ImplicitPosterior(draw, (len(x), dim))
