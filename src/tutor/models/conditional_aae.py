"""Style without content: an adversarial autoencoder whose decoder is told the class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutor.game import Turn, evaluating
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.models.adversarial import generator_loss, logit_each
from tutor.models.autoencoder import Autoencoder
from tutor.models.clustering_aae import discriminator_turn
from tutor.models.labels import checked_labels, images_and_labels
from tutor.nets import mlp, mlp_decoder, mlp_encoder
from tutor.posteriors import Deterministic


class ConditionalAAE(Autoencoder):
    """The decoder gets the label beside the code, so the code need only hold the style.

    ``p(x | y, z)`` with the label y given, and ``z = g(x)``;  q(z) to p(z)

    All images are labelled.  The class is there for free, and a style of few dimensions has no
    room to say it again: with the label fixed, z varies the handwriting; with z fixed, the label
    changes the digit.  Only the room keeps the class out of z, though: the discriminator compares
    q(z) over all classes with the prior, so each class may still keep to a part of it.  With
    ``by_class=True`` the discriminator sees the label too, and asks of each class that it fills
    the whole prior: q(z|y) to p(z), and then z says nothing about y.  Book equation: style-leak.

    A batch is ``(images, labels)``, as ``dataset.labelled()`` gives.  Source: Makhzani et al.
    (arXiv 1511.05644), the supervised adversarial autoencoder that disentangles style and
    content; ``by_class`` is ours.

    Args:
        latent_dim: dimensions of the style z.
        classes: number of classes.
        prior: of the style, with ``dim`` equal to ``latent_dim``; N(0, I) without it.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"gaussian"`` (half the squared error over ``decoder_std`` squared, and a
            constant) or ``"bernoulli"``.
        decoder_std: of the Gaussian likelihood; 1 without it.
        by_class: whether the discriminator sees the label beside the style.
        gradient_penalty: weight of the gradient penalty on the discriminator, 0 for none.
        encoder: module from images to ``(n, latent_dim)``.
        decoder: module from ``(n, classes + latent_dim)``, label first, to ``(n, C, H, W)``.
        discriminator: module from ``(n, latent_dim)``, or with ``by_class`` from ``(n, classes +
            latent_dim)``, to logits ``(n, 1)``.

    Raises:
        ValueError: for fewer than two classes, a negative penalty, a prior of another dimension
            than the style; also as `Autoencoder`.

    Example:
        >>> model = ConditionalAAE(latent_dim=8)
        >>> x, labels = torch.rand(5, 1, 28, 28), torch.arange(5)
        >>> [turn.player for turn in model.step((x, labels))]
        ['autoencoder', 'discriminator', 'generator']
        >>> model.decode(model.encode(x).mean, labels).mean.shape
        torch.Size([5, 1, 28, 28])
    """

    def __init__(
        self,
        latent_dim: int = 15,
        *,
        classes: int = 10,
        prior: nn.Module | None = None,
        image_shape: tuple[int, ...] = (1, 28, 28),
        likelihood: Literal["bernoulli", "gaussian"] = "gaussian",
        decoder_std: float | None = None,
        by_class: bool = False,
        gradient_penalty: float = 0.1,
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
        if classes < 2:
            raise ValueError(f"asked for {classes} classes; a choice needs at least two")
        if not gradient_penalty >= 0:
            raise ValueError(
                f"gradient_penalty is {gradient_penalty}; expected a weight of 0 or more"
            )
        self.classes, self.by_class, self.gradient_penalty = classes, by_class, gradient_penalty
        both, seen = classes + latent_dim, latent_dim + (classes if by_class else 0)
        self.encoder = mlp_encoder(self.image_shape, latent_dim) if encoder is None else encoder
        self.decoder = mlp_decoder(both, self.image_shape) if decoder is None else decoder
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

    def step(self, batch: tuple[Tensor, Tensor]) -> Iterator[Turn]:
        x, labels = images_and_labels(batch, self.classes)
        # Reconstruction phase.
        z = self.encode(x).rsample()  # (n, latent_dim)
        reconstruction = -self.decode(z, labels).log_prob(x)  # (n,)
        yield Turn("autoencoder", reconstruction.mean())
        # Regularisation phase: prior samples are real, codes are fake.
        z = self.encode(x).rsample()
        real = self.prior.sample((len(x),))
        judge = partial(self.discriminate, labels=labels)
        yield discriminator_turn("discriminator", judge, real, z, self.gradient_penalty)
        yield Turn("generator", generator_loss(judge(z)).mean())

    def discriminate(self, z: Tensor, labels: Tensor) -> Tensor:
        """Logit that a style ``(n, latent_dim)`` was drawn from the prior: ``(n,)``.

        The labels ``(n,)`` are looked at only with ``by_class``.
        """
        seen = torch.cat([self._one_hot(labels, z), z], dim=1) if self.by_class else z
        return logit_each(self.discriminator(seen), len(z))

    def encode(self, x: Tensor) -> Deterministic:
        """The style of images ``(n, C, H, W)``: one code each.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's, or the encoder's output not
                ``latent_dim`` numbers.
        """
        self.check_images(x)
        z = self.encoder(x)
        if z.shape != (len(x), self.latent_dim):
            raise ValueError(
                f"the encoder returned shape {tuple(z.shape)}; expected (n, {self.latent_dim})"
            )
        return Deterministic(z)

    def decode(self, z: Tensor, labels: Tensor) -> BernoulliLikelihood | GaussianLikelihood:
        """p(x|y, z) of styles ``(n, latent_dim)`` and labels ``(n,)``.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if z or labels have another shape, or a label is not a class.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, {self.latent_dim})")
        out = self.decoder(torch.cat([self._one_hot(labels, z), z], dim=1))
        if self.likelihood == "bernoulli":
            return BernoulliLikelihood(out)
        return GaussianLikelihood(out, self.decoder_std)

    def _one_hot(self, labels: Tensor, z: Tensor) -> Tensor:
        """One-hot rows to stand beside the codes z: ``(n, classes)``."""
        y = functional.one_hot(checked_labels(labels, self.classes), self.classes).to(z)
        if len(y) != len(z):
            raise ValueError(f"{len(z)} codes have {len(y)} labels; expected one each")
        return y

    def sample(
        self, n: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Decoder means at n styles drawn from the prior, ``(n, C, H, W)``, without pixel noise.

        Args:
            n: number of images.
            labels: the class of each image, ``(n,)``; drawn with equal chances without it.
            generator: source of the draws.
        """
        if labels is None:
            labels = torch.randint(self.classes, (n,), generator=generator, device=self.device)
        with evaluating(self):
            return self.decode(self.prior.sample((n,), generator=generator), labels).mean

    def reconstruct(self, x: Tensor, labels: Tensor) -> Tensor:
        """Decoder means at the styles of x, given the labels ``(n,)``; same shape as x."""
        with evaluating(self):
            return self.decode(self.encode(x).mean, labels).mean

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, classes={self.classes}, by_class={self.by_class}, "
            f"gradient_penalty={self.gradient_penalty}"
        )
