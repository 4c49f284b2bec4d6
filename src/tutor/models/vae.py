"""The variational autoencoder (Kingma & Welling, arXiv 1312.6114; Rezende et al., 1401.4082)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from tutor.divergences import gaussian_kl
from tutor.game import Turn
from tutor.models.autoencoder import Autoencoder
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.posteriors import DiagonalGaussian


class VAE(Autoencoder):
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
        >>> import torch
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
        super().__init__(
            latent_dim, image_shape=image_shape, likelihood=likelihood, decoder_std=decoder_std
        )
        self.encoder = mlp_encoder(self.image_shape, 2 * latent_dim) if encoder is None else encoder
        self.decoder = mlp_decoder(latent_dim, self.image_shape) if decoder is None else decoder

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"autoencoder": [self.encoder, self.decoder]}

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
        self.check_images(x)
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        return DiagonalGaussian(mean, log_var)
