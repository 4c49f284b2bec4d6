"""The adversarial autoencoder (Makhzani et al., arXiv 1511.05644)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tutor.game import Turn
from tutor.models.adversarial import (
    discriminator_loss,
    generator_loss,
    logit_each,
    r1_penalty,
)
from tutor.models.autoencoder import Autoencoder
from tutor.models.labels import checked_labels, images_and_labels
from tutor.nets import mlp, mlp_decoder, mlp_encoder
from tutor.noise_encoders import NoiseEncoder, checked_noise_encoder
from tutor.posteriors import Deterministic, DiagonalGaussian, ImplicitPosterior, noise_fed

POSTERIORS = ("deterministic", "gaussian", "universal")


class AAE(Autoencoder):
    """An autoencoder whose codes a discriminator cannot tell from draws of a prior.

    A round has two phases.  *Reconstruction*: encoder and decoder lower the error.
    *Regularisation*: the discriminator learns to tell prior samples (real) from codes (fake); then
    the encoder, which is the generator of this game, moves its codes to where they look real.

    Any prior that can be sampled will do.  With ``supervised=True`` the discriminator also sees
    the label and every class goes to its own part of the prior; a batch is then
    ``(images, labels)``, as `tutor.data.Dataset.labelled` gives, and images with label -1 are
    compared with the whole prior.  Book equations: aae-objective, conditional-js, partial-labels.
    Source: Makhzani et al. (arXiv 1511.05644), figures 1 and 3.

    Args:
        latent_dim: number of latent dimensions.
        prior: what the codes should look like, of dimension ``latent_dim``; N(0, I) without it.
        posterior: ``"deterministic"``, one code an image; ``"gaussian"``; or ``"universal"``,
            noise sent through the encoder together with the image.
        supervised: whether the discriminator sees labels; the prior then needs ``sample_class``.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"gaussian"`` (half the squared error over ``decoder_std`` squared, and a
            constant) or ``"bernoulli"``.
        decoder_std: of the Gaussian likelihood.
        noise_dim: dimensions of the universal posterior's noise, for its default encoder (16 if
            not given).
        gradient_penalty: weight of the gradient penalty on the discriminator, 0 for none.
        discriminator_turns: moves of the discriminator in a round.
        encoder, decoder, discriminator: modules to use instead of the default networks.  The
            discriminator returns ``(n, 1)``; an encoder of the universal posterior takes noise
            (see `tutor.noise_encoders`).

    Raises:
        ValueError: for an unknown posterior, noise of dimension 0 or for nobody, a negative
            penalty, no discriminator turn, a prior of another dimension or without classes where
            labels are used; also as `Autoencoder`.
        TypeError: for an encoder without noise where the posterior is universal.

    Example:
        >>> from tutor.priors import SwissRoll
        >>> model = AAE(latent_dim=2, prior=SwissRoll())
        >>> [turn.player for turn in model.step(torch.rand(5, 1, 28, 28))]
        ['autoencoder', 'discriminator', 'generator']
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        prior: nn.Module | None = None,
        posterior: Literal["deterministic", "gaussian", "universal"] = "deterministic",
        supervised: bool = False,
        image_shape: tuple[int, ...] = (1, 28, 28),
        likelihood: Literal["bernoulli", "gaussian"] = "gaussian",
        decoder_std: float | None = None,
        noise_dim: int | None = None,
        gradient_penalty: float = 0.1,
        discriminator_turns: int = 1,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        if likelihood == "gaussian" and decoder_std is None:
            decoder_std = 1.0  # the paper's squared error, halved
        super().__init__(
            latent_dim,
            image_shape=image_shape,
            likelihood=likelihood,
            decoder_std=decoder_std,
            prior=prior,
        )
        if posterior not in POSTERIORS:
            raise ValueError(f"posterior is {posterior!r}; choose one of {', '.join(POSTERIORS)}")
        if not gradient_penalty >= 0:
            raise ValueError(
                f"gradient_penalty is {gradient_penalty}; expected a weight of 0 or more"
            )
        if discriminator_turns < 1:
            raise ValueError(f"discriminator_turns is {discriminator_turns}; expected at least 1")
        if posterior != "universal" and noise_dim is not None:
            raise ValueError(
                f"noise_dim is {noise_dim}, but a {posterior} encoder takes no noise; leave it "
                'out, or choose posterior="universal"'
            )
        self.posterior, self.supervised = posterior, supervised
        self.gradient_penalty, self.discriminator_turns = gradient_penalty, discriminator_turns
        self.classes = _classes(self.prior) if supervised else 0
        self.encoder = self._make_encoder(noise_dim) if encoder is None else encoder
        if posterior == "universal":
            checked_noise_encoder(self.encoder, latent_dim, noise_dim)
        self.decoder = mlp_decoder(latent_dim, self.image_shape) if decoder is None else decoder
        seen = latent_dim + (self.classes + 1 if supervised else 0)
        self.discriminator = (
            nn.Sequential(*mlp([seen, 256, 256, 1])) if discriminator is None else discriminator
        )

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {
            "autoencoder": [self.encoder, self.decoder],
            "discriminator": [self.discriminator],
            "generator": [self.encoder],
        }

    def step(self, batch: Tensor | tuple[Tensor, Tensor]) -> Iterator[Turn]:
        x, labels = batch, None
        if self.supervised:
            x, labels = images_and_labels(batch, self.classes, unknown=True)
        # Reconstruction phase.
        codes = self.encode(x).rsample()  # (n, latent_dim)
        reconstruction = -self.decode(codes).log_prob(x)  # (n,)
        yield Turn("autoencoder", reconstruction.mean())
        # Regularisation phase: prior samples are real, codes are fake.
        codes = self.encode(x).rsample()
        for _ in range(self.discriminator_turns):
            yield self._discriminator_turn(codes.detach(), labels)
        fooled = generator_loss(self.discriminate(codes, labels))
        yield Turn("generator", fooled.mean())

    def _discriminator_turn(self, fake: Tensor, labels: Tensor | None) -> Turn:
        real = self.draw_prior(len(fake), labels)
        real_logit, fake_logit = self.discriminate(real, labels), self.discriminate(fake, labels)
        loss = discriminator_loss(real_logit, fake_logit)  # (n,)
        guess = {"real": real_logit.sigmoid().mean(), "fake": fake_logit.sigmoid().mean()}
        if self.gradient_penalty == 0:
            return Turn("discriminator", loss.mean(), **guess)
        slope = sum(r1_penalty(lambda z: self.discriminate(z, labels), z) for z in (real, fake))
        loss = loss + self.gradient_penalty * slope
        return Turn("discriminator", loss.mean(), slope=slope.mean(), **guess)

    def draw_prior(
        self,
        n: int,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """n prior samples; each from its label's part of the prior, if there are labels >= 0."""
        z = self.prior.sample((n,), generator=generator)
        if labels is None:
            return z
        known = labels >= 0
        of_class = self.prior.sample_class(labels.clamp(min=0), generator=generator)
        return torch.where(known.to(z.device).unsqueeze(1), of_class, z)

    def discriminate(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logit that code z was drawn from the prior (of its class): ``(n,)``.

        Beside z the supervised discriminator sees a one-hot vector of K + 1 places; the last one
        says "label unknown".

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are missing where they are used, given where they are not, not one
                a code, or outside -1 .. K - 1.
        """
        if not self.supervised:
            if labels is not None:
                raise ValueError("this discriminator sees no labels; build with supervised=True")
            return logit_each(self.discriminator(z), len(z))
        if labels is None:
            raise ValueError(
                "the supervised discriminator needs labels (n,); give -1 where they are unknown"
            )
        labels = checked_labels(labels, self.classes, unknown=True)
        if len(labels) != len(z):
            raise ValueError(f"{len(z)} codes have {len(labels)} labels; expected one each")
        slot = one_hot(labels % (self.classes + 1), self.classes + 1)  # -1 is the last place
        return logit_each(self.discriminator(torch.cat([z, slot.to(z)], -1)), len(z))

    def encode(self, x: Tensor) -> Deterministic | DiagonalGaussian | ImplicitPosterior:
        """q(z|x) of images ``(n, C, H, W)``.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's, or the encoder's output not
                ``latent_dim`` numbers (twice as many for a Gaussian).
        """
        self.check_images(x)
        if self.posterior == "universal":
            return noise_fed(self.encoder, x, self.latent_dim)
        out = self.encoder(x)
        expected = self.latent_dim * (2 if self.posterior == "gaussian" else 1)
        if out.shape != (len(x), expected):
            raise ValueError(
                f"the encoder returned shape {tuple(out.shape)}; a {self.posterior} posterior "
                f"with latent_dim={self.latent_dim} needs (n, {expected})"
            )
        if self.posterior == "deterministic":
            return Deterministic(out)
        return DiagonalGaussian(*out.chunk(2, dim=1))

    def _make_encoder(self, noise_dim: int | None) -> nn.Module:
        if self.posterior == "universal":
            noise_dim = 16 if noise_dim is None else noise_dim
            return NoiseEncoder(self.image_shape, self.latent_dim, noise_dim=noise_dim)
        outputs = self.latent_dim * (2 if self.posterior == "gaussian" else 1)
        return mlp_encoder(self.image_shape, outputs)

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, posterior={self.posterior!r}, supervised={self.supervised}, "
            f"gradient_penalty={self.gradient_penalty}, "
            f"discriminator_turns={self.discriminator_turns}"
        )


def _classes(prior: nn.Module) -> int:
    classes = getattr(prior, "classes", None)
    if not hasattr(prior, "sample_class") or not classes:
        raise ValueError(
            f"{type(prior).__name__} has no classes; label-aware regularisation needs a prior "
            "with sample_class, such as GaussianMixture, SwissRoll or UniformBox(2)"
        )
    return classes
