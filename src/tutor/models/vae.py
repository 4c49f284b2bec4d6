"""The variational autoencoder (Kingma & Welling, arXiv 1312.6114; Rezende et al., 1401.4082)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tutor.divergences import gaussian_kl
from tutor.game import Model, Turn
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian


class VAE(Model):
    """Encoder and decoder play one game together: raise the evidence lower bound.

    ``ELBO(x) = E_q(z|x) log p(x|z) - KL(q(z|x) || p(z)) <= log p(x)``

    Book equation: elbo.  Source: Kingma & Welling (arXiv 1312.6114), equations 3 and 7
    (the SGVB-B estimator with one sample) and algorithm 1.

    Args:
        latent_dim: number of latent dimensions.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"bernoulli"`` for binary pixels, ``"gaussian"`` for real ones.
        decoder_std: standard deviation of the Gaussian likelihood, in units of the pixel scale;
            stated openly, because it decides the weight of the KL term (the book's page on
            units).  Giving it with a Bernoulli likelihood is an error.
        encoder: module from images to ``(n, 2 * latent_dim)``: means, then log-variances.
        decoder: module from codes to ``(n, C, H, W)``: logits (Bernoulli) or means (Gaussian).

    Raises:
        ValueError: for a latent dimension below 1, an unknown likelihood, or a ``decoder_std``
            that is not positive or has no use.

    Example:
        >>> model = VAE(latent_dim=2)
        >>> x = torch.rand(5, 1, 28, 28)
        >>> model.encode(x).mean.shape, model.reconstruct(x).shape
        (torch.Size([5, 2]), torch.Size([5, 1, 28, 28]))
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        image_shape: tuple[int, ...] = (1, 28, 28),
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        decoder_std: float | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if latent_dim < 1:
            raise ValueError(f"latent_dim is {latent_dim}; a code needs at least one dimension")
        self.latent_dim = latent_dim
        self.image_shape = tuple(image_shape)
        self.likelihood = likelihood
        self.decoder_std = _checked_std(likelihood, decoder_std)
        self.prior = Gaussian(latent_dim)
        self.encoder = mlp_encoder(self.image_shape, 2 * latent_dim) if encoder is None else encoder
        self.decoder = mlp_decoder(latent_dim, self.image_shape) if decoder is None else decoder

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"autoencoder": [self.encoder, self.decoder]}

    def extra_repr(self) -> str:
        std = "" if self.decoder_std is None else f", decoder_std={self.decoder_std}"
        return f"latent_dim={self.latent_dim}, likelihood={self.likelihood!r}{std}"

    def step(self, x: Tensor) -> Iterator[Turn]:
        q = self.encode(x)
        z = q.rsample()  # (n, latent_dim)
        reconstruction = -self.decode(z).log_prob(x)  # (n,)
        kl = gaussian_kl(q.mean, q.log_var)  # (n,)
        loss = self.weigh(reconstruction, kl).mean()
        yield Turn("autoencoder", loss, reconstruction=reconstruction.mean(), kl=kl.mean())

    def weigh(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        """The negative ELBO of each example: both terms in nats, both with weight one."""
        return reconstruction + kl

    def encode(self, x: Tensor) -> DiagonalGaussian:
        """q(z|x) of images ``(n, C, H, W)``.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's.
        """
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
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return DiagonalGaussian(mean, log_var)

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

    @torch.no_grad()
    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at n draws of the prior, shape ``(n, C, H, W)``, without pixel noise."""
        return self.decode(self.prior.sample((n,), generator=generator)).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """Decoder means at the posterior means of x, same shape as x."""
        return self.decode(self.encode(x).mean).mean


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
