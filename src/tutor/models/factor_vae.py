"""FactorVAE (Kim & Mnih, arXiv 1802.05983): a VAE that pays for dependence between its codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from tutor.divergences import gaussian_kl, permute_dims
from tutor.game import Turn
from tutor.models.adversarial import discriminator_loss
from tutor.models.vae import VAE
from tutor.nets import factor_vae_decoder, factor_vae_discriminator, factor_vae_encoder


class FactorVAE(VAE):
    """A `VAE` with a price on the total correlation of q(z), as a discriminator sees it.

    ``ELBO(x) - gamma KL(q(z) || prod_j q(z_j))``

    The discriminator tells codes from codes whose columns were permuted across the batch, and its
    logit at a code is an estimate of ``log q(z) - sum_j log q(z_j)``.

    ``step`` is algorithm 2 of the paper, which takes two batches: one to be encoded, decoded and
    judged, another one to be permuted.  They are the two halves of the batch that ``step`` is
    given, so ``batch_size=128`` in `tutor.fit` makes the paper's two batches of 64.  `fit` draws
    without replacement: the halves share no image, and `fit` need not know what a model does with
    its batch.
    Book equations: factor-vae-objective, tc-density-ratio.  Source: Kim & Mnih (arXiv 1802.05983),
    algorithm 2.

    Args:
        latent_dim: number of latent dimensions, at least 2.
        gamma: weight of the total correlation, at least 0.  It is a number of nats a nat: its
            meaning depends on sums (never means) over pixels in the reconstruction.
        image_shape: ``(C, H, W)`` of the data.  The default networks take ``(C, 64, 64)``.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, with ``decoder_std``, as in `VAE`.
        decoder_std: standard deviation of the Gaussian likelihood.
        encoder, decoder, discriminator: modules to use instead of the paper's networks
            (`tutor.nets.factor_vae_encoder` and its neighbours).  The discriminator returns two
            logits ``(n, 2)``, "from q(z)" first, or one, their difference, ``(n, 1)``.

    Raises:
        ValueError: for a negative gamma, a single latent dimension (which has no total
            correlation), images that the default networks can't take; also as `VAE`.

    Example:
        >>> model = FactorVAE(latent_dim=10, gamma=40.0)
        >>> [turn.player for turn in model.step(torch.rand(4, 1, 64, 64))]
        ['autoencoder', 'discriminator']
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        gamma: float = 40.0,
        image_shape: tuple[int, ...] = (1, 64, 64),
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        decoder_std: float | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        encoder, decoder = networks_64(latent_dim, image_shape, encoder, decoder)
        super().__init__(
            latent_dim,
            image_shape=image_shape,
            likelihood=likelihood,
            decoder_std=decoder_std,
            encoder=encoder,
            decoder=decoder,
        )
        if latent_dim < 2:
            raise ValueError(
                f"latent_dim is {latent_dim}; a single coordinate has no total correlation: use "
                "at least 2, or tutor.models.VAE"
            )
        if not gamma >= 0:
            raise ValueError(f"gamma is {gamma}; it must not be negative (a reward for dependence)")
        self.gamma = float(gamma)
        if discriminator is None:
            discriminator = factor_vae_discriminator(latent_dim)
        self.discriminator = discriminator

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {
            "autoencoder": [self.encoder, self.decoder],
            "discriminator": [self.discriminator],
        }

    def step(self, batch: Tensor) -> Iterator[Turn]:
        x, others = halves(batch)  # two batches of m images
        # Encoder and decoder lower the negative ELBO + gamma * total correlation; D stands still.
        q = self.encode(x)
        z = q.rsample()  # (m, latent_dim)
        reconstruction = -self.decode(z).log_prob(x)  # (m,)
        kl = gaussian_kl(q.mean, q.log_var)  # (m,)
        correlation = self.log_ratio(z)  # (m,)
        loss = (self.weigh(reconstruction, kl) + self.gamma * correlation).mean()
        terms = {"reconstruction": reconstruction, "kl": kl, "total_correlation": correlation}
        yield Turn("autoencoder", loss, **{name: term.mean() for name, term in terms.items()})

        # D tells the codes (label 1) from the second batch's permuted codes (label 0).  The moved
        # encoder makes these, and learns nothing from this turn.
        with torch.no_grad():
            permuted = permute_dims(self.encode(others).sample())
        logits = self.log_ratio(torch.cat([z.detach(), permuted]))  # one sweep: (2 m,)
        codes, permuted = logits.chunk(2)
        loss = discriminator_loss(codes, permuted)  # (m,)
        right = 0.5 * ((codes > 0).float() + (permuted < 0).float())
        yield Turn("discriminator", loss.mean(), accuracy=right.mean())

    def log_ratio(self, z: Tensor) -> Tensor:
        """The discriminator's estimate of ``log q(z) - sum_j log q(z_j)``, shape ``(n,)``, in nats.

        Its mean over draws of q(z) estimates the total correlation.  The estimate has a sign of
        its own: a discriminator that is not the best one may make it negative.

        Raises:
            ValueError: if the discriminator returns neither ``(n, 2)`` nor ``(n, 1)``.

        Example:
            >>> FactorVAE(latent_dim=10).log_ratio(torch.randn(5, 10)).shape
            torch.Size([5])
        """
        out = self.discriminator(z)
        if tuple(out.shape) == (len(z), 2):
            return out[:, 0] - out[:, 1]
        if tuple(out.shape) == (len(z), 1):
            return out[:, 0]
        raise ValueError(
            f"the discriminator returned shape {tuple(out.shape)} for {len(z)} codes; expected "
            f"({len(z)}, 2), a logit each for codes and permuted codes, or ({len(z)}, 1), their "
            "difference"
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gamma={self.gamma}"


def halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    """The two batches of algorithm 2, from one of twice their size.

    Raises:
        ValueError: for an odd batch, or halves of a single image, which have nothing to permute.

    Example:
        >>> [len(half) for half in halves(torch.zeros(6, 1, 64, 64))]
        [3, 3]
    """
    if len(batch) < 4 or len(batch) % 2:
        raise ValueError(
            f"the batch has {len(batch)} images; FactorVAE splits it into two halves, one of which "
            "it permutes: use an even batch_size of at least 4 (128 for the paper's two of 64)"
        )
    first, second = batch.chunk(2)
    return first, second


def networks_64(
    latent_dim: int,
    image_shape: tuple[int, ...],
    encoder: nn.Module | None,
    decoder: nn.Module | None,
) -> tuple[nn.Module, nn.Module]:
    """The given networks, or in their place those of Kim & Mnih.

    Raises:
        ValueError: for a latent dimension below 1, or if a network is missing and the images are
            not of 64x64 pixels.

    Example:
        >>> encoder, decoder = networks_64(10, (3, 64, 64), None, None)
        >>> decoder(torch.zeros(2, 10)).shape
        torch.Size([2, 3, 64, 64])
    """
    if latent_dim < 1:
        raise ValueError(f"latent_dim is {latent_dim}; a code needs at least one dimension")
    if encoder is not None and decoder is not None:
        return encoder, decoder
    if len(image_shape) != 3 or tuple(image_shape[1:]) != (64, 64):
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; the default networks take (C, 64, 64): give "
            "encoder= and decoder= for other images (tutor.nets.mlp_encoder and mlp_decoder fit "
            "any), or scale them to 64x64"
        )
    channels = image_shape[0]
    if encoder is None:
        encoder = factor_vae_encoder(2 * latent_dim, channels=channels)
    if decoder is None:
        decoder = factor_vae_decoder(latent_dim, channels=channels)
    return encoder, decoder
