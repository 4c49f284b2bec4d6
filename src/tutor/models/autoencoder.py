"""What all autoencoders of the book share: images in, a likelihood out, a prior between."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutor.game import Model, evaluating
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.posteriors import ImplicitPosterior
from tutor.priors import Gaussian


class Autoencoder(Model):
    """An encoder q(z|x), a decoder p(x|z), a prior p(z); the subclass has the game.

    Args:
        latent_dim: number of latent dimensions.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"bernoulli"`` for binary pixels, ``"gaussian"`` for real ones.
        decoder_std: standard deviation of the Gaussian likelihood, in units of the pixel scale.
        prior: with ``dim`` equal to ``latent_dim``; N(0, I) without it.

    Raises:
        ValueError: for a latent dimension below 1, an unknown likelihood, a ``decoder_std`` that is
            not positive or has no use, or a prior of another dimension.
    """

    encoder: nn.Module
    decoder: nn.Module

    def __init__(
        self,
        latent_dim: int,
        *,
        image_shape: tuple[int, ...],
        likelihood: str,
        decoder_std: float | None,
        prior: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; a code needs at least one dimension")
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)
        self.likelihood = likelihood
        self.decoder_std = _checked_std(likelihood, decoder_std)
        self.prior = Gaussian(latent_dim) if prior is None else prior
        if getattr(self.prior, "dim", None) != latent_dim:
            raise ValueError(
                f"the prior has dim={getattr(self.prior, 'dim', None)}, the codes have "
                f"latent_dim={latent_dim}; give both the same number of dimensions"
            )

    def extra_repr(self) -> str:
        std = "" if self.decoder_std is None else f", decoder_std={self.decoder_std}"
        return f"latent_dim={self.latent_dim}, likelihood={self.likelihood!r}{std}"

    def encode(self, x: Tensor) -> Any:
        """q(z|x) of images ``(n, C, H, W)``."""
        raise NotImplementedError(f"{type(self).__name__} must define encode()")

    def check_images(self, x: Tensor) -> None:
        """Refuses images that the encoder can't take.

        Raises:
            TypeError: if the images are no tensor, not floating point, or not of the weights'
                precision.
            ValueError: if their shape is not the model's.
        """
        if not isinstance(x, Tensor):
            raise TypeError(
                f"images are a {type(x).__name__}; expected a float tensor (n, "
                f"{', '.join(map(str, self.image_shape))}), without labels beside it"
            )
        if not x.is_floating_point():
            raise TypeError(
                f"images are {x.dtype}; expected floats in [0, 1]; "
                "for uint8 images use x.float() / 255"
            )
        if x.dim() != 1 + len(self.image_shape) or x.shape[1:] != self.image_shape:
            raise ValueError(
                f"images have shape {tuple(x.shape)}; expected (n, "
                f"{', '.join(map(str, self.image_shape))}); build the model with "
                "image_shape= of your data, or reshape the images"
            )
        weight = next(self.encoder.parameters(), x)
        if x.dtype != weight.dtype:
            raise TypeError(
                f"images are {x.dtype}, the encoder's weights {weight.dtype}; "
                f"use x.to({weight.dtype}), or model.to({x.dtype})"
            )

    def decode(self, z: Tensor) -> BernoulliLikelihood | GaussianLikelihood:
        """p(x|z) of codes ``(n, latent_dim)``.

        Raises:
            ValueError: if z is not ``(n, latent_dim)``.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, {self.latent_dim})")
        if self.likelihood == "bernoulli":
            return BernoulliLikelihood(self.decoder(z))
        return GaussianLikelihood(self.decoder(z), self.decoder_std)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at n draws of the prior, shape ``(n, C, H, W)``, without pixel noise.

        In evaluation mode, as `reconstruct`: nothing is dropped out, batch statistics are frozen.
        """
        with evaluating(self):
            return self.decode(self.prior.sample((n,), generator=generator)).mean

    def reconstruct(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at the posterior means of x, same shape as x.

        An implicit posterior has no mean at hand: there it is one draw of z.
        """
        with evaluating(self):
            q = self.encode(x)
            implicit = isinstance(q, ImplicitPosterior)
            return self.decode(q.sample(generator=generator) if implicit else q.mean).mean


def _checked_std(likelihood: str, decoder_std: float | None) -> float | None:
    if likelihood == "bernoulli":
        if decoder_std is not None:
            raise ValueError(
                f"decoder_std={decoder_std} has no meaning for a Bernoulli likelihood; "
                'leave it out, or choose likelihood="gaussian"'
            )
        return None
    if likelihood != "gaussian":
        raise ValueError(f'likelihood is {likelihood!r}; choose "bernoulli" or "gaussian"')
    if decoder_std is None:
        raise ValueError(
            "a Gaussian likelihood needs decoder_std=, the standard deviation of a pixel; "
            "it sets the weight of the reconstruction, so there is no harmless default "
            "(0.1 is a start for images in [0, 1])"
        )
    if not decoder_std > 0:
        raise ValueError(f"decoder_std is {decoder_std}; a standard deviation is positive")
    return float(decoder_std)
