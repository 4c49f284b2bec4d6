"""Encoders fed with noise, ``z = f(x, noise)``: samples from q(z|x), and no density.

The Gaussian encoder of a VAE adds its noise at the code; these take it in at the input, so the
network decides what shape the noise gets.  Both have ``noise_dim``, the numbers of noise that one
code takes, and are called with images ``(n, C, H, W)`` and noise ``(..., n, noise_dim)``; what
depends on the image alone is computed once however many codes are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import elu

from tutor.nets import mlp


class NoiseEncoder(nn.Module):
    """Fully connected layers on image and noise side by side.

    ``z = f(x, noise)`` with ``noise ~ N(0, I)``.  Any posterior can be reached if the layers are
    wide enough and the noise has at least as many dimensions as z; its moments are known from
    draws only.  Source: Mescheder et al. (arXiv 1701.04722), figure 1b and the encoder of their
    synthetic experiment.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: number of latent dimensions.
        noise_dim: numbers of noise a code.
        hidden: widths of the hidden layers, at least one.
        activation: between the layers.

    Raises:
        ValueError: for a latent or noise dimension below 1, or no hidden layer.

    Example:
        >>> encoder = NoiseEncoder((1, 28, 28), 2, noise_dim=8)
        >>> encoder(torch.rand(5, 1, 28, 28), torch.randn(100, 5, 8)).shape
        torch.Size([100, 5, 2])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        latent_dim: int,
        *,
        noise_dim: int,
        hidden: Sequence[int] = (512, 256),
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _check_sizes(latent_dim, noise_dim, hidden)
        self.latent_dim, self.noise_dim = latent_dim, noise_dim
        # One linear layer on (x, noise), cut in two so that many noises share the part of x.
        self.from_image = nn.Linear(math.prod(image_shape), hidden[0])
        self.from_noise = nn.Linear(noise_dim, hidden[0], bias=False)
        self.rest = nn.Sequential(activation(), *mlp([*hidden, latent_dim], activation))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Images ``(n, C, H, W)`` and noise ``(..., n, noise_dim)`` to codes ``(..., n, dim)``.

        Raises:
            ValueError: if the noise is not one row of ``noise_dim`` numbers an image.
        """
        _check_noise(x, noise, self.noise_dim)
        return self.rest(self.from_image(x.flatten(1)) + self.from_noise(noise))


class FactoredNoiseEncoder(nn.Module):
    """A sum of noise networks, weighed by the image: an implicit posterior with known moments.

    ``z = z_0(x) + sum_i a_i(x) * v_i(noise_i)``, with ``a_i > 0`` and independent ``noise_i``, so

    ``E z = z_0 + sum_i a_i E v_i`` and ``Var z = sum_i a_i^2 Var v_i``, coordinate by coordinate.

    The moments of the v_i do not depend on the image: one batch of noise estimates them for all
    images at once, which makes adaptive contrast cheap.  Source: the encoder of Mescheder et al.
    (arXiv 1701.04722) on MNIST with adaptive contrast, where z_0 and the a_i are convolutional.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: number of latent dimensions.
        bases: number of networks v_i.
        noise_dim: numbers of noise that each v_i takes.  The attribute ``noise_dim`` is what a
            code takes in all, ``bases`` times as many.
        hidden: widths of the hidden layers on the image, at least one.
        basis_hidden: widths of the hidden layers of each v_i, at least one.
        activation: between the layers on the image; the v_i use ELU.

    Raises:
        ValueError: for a latent or noise dimension, or a number of bases, below 1; or no hidden
            layer.

    Example:
        >>> encoder = FactoredNoiseEncoder((1, 28, 28), 2, bases=4, noise_dim=3)
        >>> x = torch.rand(5, 1, 28, 28)
        >>> encoder(x, torch.randn(100, 5, encoder.noise_dim)).shape
        torch.Size([100, 5, 2])
        >>> mean, std = encoder.moments(x, samples=1000)
        >>> mean.shape, std.shape
        (torch.Size([5, 2]), torch.Size([5, 2]))
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        latent_dim: int,
        *,
        bases: int,
        noise_dim: int,
        hidden: Sequence[int] = (512, 256),
        basis_hidden: Sequence[int] = (64, 64),
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        _check_sizes(latent_dim, noise_dim, hidden)
        _check_sizes(latent_dim, noise_dim, basis_hidden)
        if bases < 1:
            raise ValueError(f"bases is {bases}; the noise enters through at least one")
        self.latent_dim, self.bases, self.noise_dim = latent_dim, bases, bases * noise_dim
        sizes = [math.prod(image_shape), *hidden, (1 + bases) * latent_dim]
        self.from_image = nn.Sequential(nn.Flatten(), *mlp(sizes, activation))
        self.from_noise = _ParallelMLP(bases, [noise_dim, *basis_hidden, latent_dim])

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """Images ``(n, C, H, W)`` and noise ``(..., n, noise_dim)`` to codes ``(..., n, dim)``.

        Raises:
            ValueError: if the noise is not one row of ``noise_dim`` numbers an image.
        """
        _check_noise(x, noise, self.noise_dim)
        offset, weight = self._coefficients(x)
        v = self.from_noise(noise.unflatten(-1, (self.bases, -1)))  # (..., n, bases, dim)
        return offset + (weight * v).sum(-2)

    def moments(
        self, x: Tensor, samples: int, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z|x), ``(n, dim)`` each, no gradient.

        Those of the v_i come from ``samples`` draws of noise, which all images share.

        Raises:
            ValueError: for fewer than two samples, which have no spread.
        """
        if samples < 2:
            raise ValueError(f"samples is {samples}; a standard deviation takes at least two draws")
        with torch.no_grad():
            offset, weight = self._coefficients(x)
            noise = torch.randn(
                (samples, self.noise_dim), generator=generator, device=x.device, dtype=x.dtype
            )
            v = self.from_noise(noise.unflatten(-1, (self.bases, -1)))  # (samples, bases, dim)
            mean = offset + (weight * v.mean(0)).sum(1)
            return mean, (weight.square() * v.var(0)).sum(1).sqrt()

    def _coefficients(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """z_0 ``(n, dim)`` and the a_i ``(n, bases, dim)``."""
        offset, raw = self.from_image(x).split([self.latent_dim, self.bases * self.latent_dim], 1)
        # Positive: exp(raw - 1) below 1, linear above.
        return offset, elu(raw.unflatten(1, (self.bases, self.latent_dim)) - 1) + 1


class _ParallelMLP(nn.Module):
    """As many independent networks side by side: ``(..., nets, inputs)`` to ``(..., nets, outs)``.

    One batched product a layer instead of a loop over networks.
    """

    def __init__(self, nets: int, sizes: Sequence[int]) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, outputs in pairwise(sizes):
            bound = 1 / math.sqrt(inputs)  # as torch.nn.Linear
            self.weights.append(torch.empty(nets, inputs, outputs).uniform_(-bound, bound))
            self.biases.append(torch.empty(nets, outputs).uniform_(-bound, bound))

    def forward(self, inputs: Tensor) -> Tensor:
        h = inputs.flatten(0, -3).transpose(0, 1)  # (nets, rows, inputs)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias.unsqueeze(1), elu(h) if layer else h, weight)
        return h.transpose(0, 1).unflatten(0, inputs.shape[:-2])


def checked_noise_encoder(
    encoder: nn.Module, latent_dim: int, noise_dim: int | None = None
) -> nn.Module:
    """The encoder, if it takes noise and makes codes of that dimension.

    Args:
        encoder: with an attribute ``noise_dim``, and perhaps ``latent_dim``.
        latent_dim: dimensions of the codes.
        noise_dim: what the caller stated beside the encoder, if anything.

    Raises:
        TypeError: if it takes no noise.
        ValueError: if it takes none of a dimension, or other dimensions than stated.
    """
    takes = getattr(encoder, "noise_dim", None)
    if takes is None:
        raise TypeError(
            f"the encoder is a {type(encoder).__name__} without noise_dim; here it must take noise "
            "(see tutor.noise_encoders); with a Gaussian encoder use another posterior or a VAE"
        )
    if takes < 1:
        raise ValueError(f"the encoder has noise_dim={takes}; without noise q is a point")
    if noise_dim not in (None, takes):
        raise ValueError(
            f"noise_dim is {noise_dim}, the encoder takes {takes}; leave noise_dim= out"
        )
    if getattr(encoder, "latent_dim", latent_dim) != latent_dim:
        raise ValueError(
            f"the encoder makes codes of {encoder.latent_dim} dimensions, the prior has "
            f"{latent_dim}; give latent_dim={encoder.latent_dim}"
        )
    return encoder


def _check_sizes(latent_dim: int, noise_dim: int, hidden: Sequence[int]) -> None:
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; a code needs at least one dimension")
    if noise_dim < 1:
        raise ValueError(
            f"noise_dim is {noise_dim}; without noise q(z|x) is a single point, whose KL to any "
            "prior with a density is infinite: give at least as many dimensions as z has"
        )
    if len(hidden) == 0:
        raise ValueError("no hidden layer: image and noise would only be added; give one width")


def _check_noise(x: Tensor, noise: Tensor, noise_dim: int) -> None:
    if noise.dim() < 2 or tuple(noise.shape[-2:]) != (len(x), noise_dim):
        raise ValueError(
            f"noise has shape {tuple(noise.shape)}; expected (..., {len(x)}, {noise_dim}): a row "
            "of noise for each image"
        )
