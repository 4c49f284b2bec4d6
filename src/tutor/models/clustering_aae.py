"""Clustering with an adversarial autoencoder (Makhzani et al., arXiv 1511.05644)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from tutor.game import Turn, evaluating
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.models.adversarial import (
    discriminator_loss,
    generator_loss,
    logit_each,
    r1_penalty,
)
from tutor.models.autoencoder import Autoencoder
from tutor.models.labels import checked_labels
from tutor.nets import mlp, mlp_decoder, mlp_encoder


class CategoricalCode(NamedTuple):
    """What the encoder says of each image: which class, and in which style.

    ``logits`` ``(n, classes)`` of q(y|x), and the style ``z`` ``(n, latent_dim)``.

    Example:
        >>> code = CategoricalCode(logits=torch.zeros(1, 4), z=torch.zeros(1, 2))
        >>> code.y
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    logits: Tensor
    z: Tensor

    @property
    def y(self) -> Tensor:
        """q(y|x), ``(n, classes)``: each row sums to one."""
        return self.logits.softmax(dim=1)


class ClusteringAAE(Autoencoder):
    """The code is a class y and a style z, and a discriminator each gives them their priors.

    ``q(y|x) = softmax(f(x))`` and ``z = g(x)``;  q(y) to Cat(1 / clusters), q(z) to N(0, I)

    Nobody gives labels.  The label discriminator tells one-hot draws of the categorical prior
    (real) from the rows q(y|x) (fake): to deceive it the encoder must decide for one cluster an
    image, and use all clusters equally often.  What varies within a cluster is left to the style.
    Book equation: cluster-information.  Source: Makhzani et al. (arXiv 1511.05644), the section
    on unsupervised clustering.

    Args:
        latent_dim: dimensions of the style z.
        clusters: number of clusters.
        prior: of the style, with ``dim`` equal to ``latent_dim``; N(0, I) without it.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"gaussian"`` (half the squared error over ``decoder_std`` squared, and a
            constant) or ``"bernoulli"``.
        decoder_std: of the Gaussian likelihood; 1 without it.
        gradient_penalty: weight of the gradient penalty on both discriminators, 0 for none.
        label_weight: weight of the label game in the generator's loss, beside 1 for the style's.
        encoder: module from images to ``(n, clusters + latent_dim)``: logits of q(y|x), then z.
        decoder: module from ``(n, clusters + latent_dim)`` to ``(n, C, H, W)``.
        label_discriminator: module from ``(n, clusters)`` to logits ``(n, 1)``.
        style_discriminator: module from ``(n, latent_dim)`` to logits ``(n, 1)``.

    Raises:
        ValueError: for fewer than two clusters, a negative weight, a prior of another dimension
            than the style; also as `Autoencoder`.

    Example:
        >>> model = ClusteringAAE(latent_dim=5, clusters=16)
        >>> x = torch.rand(4, 1, 28, 28)
        >>> [turn.player for turn in model.step(x)]
        ['autoencoder', 'label_discriminator', 'style_discriminator', 'generator']
        >>> model.predict(x).shape, model.encode(x).y.shape
        (torch.Size([4]), torch.Size([4, 16]))
    """

    def __init__(
        self,
        latent_dim: int = 5,
        *,
        clusters: int = 16,
        prior: nn.Module | None = None,
        image_shape: tuple[int, ...] = (1, 28, 28),
        likelihood: Literal["bernoulli", "gaussian"] = "gaussian",
        decoder_std: float | None = None,
        gradient_penalty: float = 0.1,
        label_weight: float = 1.0,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        label_discriminator: nn.Module | None = None,
        style_discriminator: nn.Module | None = None,
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
        if clusters < 2:
            raise ValueError(f"asked for {clusters} classes; a choice needs at least two")
        for name, weight in {
            "gradient_penalty": gradient_penalty,
            "label_weight": label_weight,
        }.items():
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; expected a weight of 0 or more")
        self.classes = clusters
        self.gradient_penalty, self.label_weight = gradient_penalty, label_weight
        outputs, inputs = clusters + latent_dim, self.decoder_inputs
        self.encoder = mlp_encoder(self.image_shape, outputs) if encoder is None else encoder
        self.decoder = mlp_decoder(inputs, self.image_shape) if decoder is None else decoder
        self.label_discriminator = (
            _judge(clusters) if label_discriminator is None else label_discriminator
        )
        self.style_discriminator = (
            _judge(latent_dim) if style_discriminator is None else style_discriminator
        )

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {
            "autoencoder": [self.encoder, self.decoder],
            "label_discriminator": [self.label_discriminator],
            "style_discriminator": [self.style_discriminator],
            "generator": [self.encoder],
        }

    def step(self, x: Tensor) -> Iterator[Turn]:
        # Reconstruction phase.
        code = self.encode(x)
        reconstruction = -self.decode(code.z, code.y).log_prob(x)  # (n,)
        yield Turn("autoencoder", reconstruction.mean())
        # Regularisation phase: draws of the priors are real, codes are fake.
        code = self.encode(x)
        real_y, real_z = self.draw_labels(len(x)), self.prior.sample((len(x),))
        yield discriminator_turn(
            "label_discriminator", self.discriminate_label, real_y, code.y, self.gradient_penalty
        )
        yield discriminator_turn(
            "style_discriminator", self.discriminate_style, real_z, code.z, self.gradient_penalty
        )
        label = generator_loss(self.discriminate_label(code.y))  # (n,)
        style = generator_loss(self.discriminate_style(code.z))  # (n,)
        loss = self.label_weight * label + style
        yield Turn("generator", loss.mean(), label=label.mean(), style=style.mean())

    def discriminate_label(self, y: Tensor) -> Tensor:
        """Logit that a row ``(n, classes)`` is a one-hot draw of the categorical prior."""
        return logit_each(self.label_discriminator(y), len(y))

    def discriminate_style(self, z: Tensor) -> Tensor:
        """Logit that a style ``(n, latent_dim)`` was drawn from its prior."""
        return logit_each(self.style_discriminator(z), len(z))

    def draw_labels(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n one-hot draws of the categorical prior, ``(n, classes)``."""
        labels = torch.randint(self.classes, (n,), generator=generator, device=self.device)
        return self.one_hot(labels)

    def one_hot(self, labels: Tensor) -> Tensor:
        """Rows for `decode` from the numbers of classes: ``(n,)`` gives ``(n, classes)``.

        Raises:
            TypeError: if labels are not whole numbers, ``torch.int64``.
            ValueError: if labels are not ``(n,)``, or one is not the number of a class.

        Example:
            >>> ClusteringAAE(clusters=3).one_hot(torch.tensor([2, 0]))
            tensor([[0., 0., 1.],
                    [1., 0., 0.]])
        """
        rows = functional.one_hot(checked_labels(labels, self.classes), self.classes)
        return rows.to(next(self.parameters()))

    def encode(self, x: Tensor) -> CategoricalCode:
        """q(y|x) and the style of images ``(n, C, H, W)``.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's, or the encoder's output is not
                ``classes + latent_dim`` numbers.
        """
        self.check_images(x)
        out = self.encoder(x)
        if out.shape != (len(x), self.classes + self.latent_dim):
            raise ValueError(
                f"the encoder returned shape {tuple(out.shape)}; {self.classes} logits and "
                f"{self.latent_dim} numbers for the style are (n, {self.classes + self.latent_dim})"
            )
        return CategoricalCode(*out.split([self.classes, self.latent_dim], dim=1))

    def decode(self, z: Tensor, y: Tensor) -> BernoulliLikelihood | GaussianLikelihood:
        """p(x|y, z) of styles ``(n, latent_dim)`` and rows y ``(n, classes)``, one-hot or soft.

        Raises:
            ValueError: if z or y has another shape.
        """
        for name, code, size in (("z", z, self.latent_dim), ("y", y, self.classes)):
            if code.dim() != 2 or code.shape[1] != size or len(code) != len(z):
                raise ValueError(
                    f"{name} has shape {tuple(code.shape)}; expected ({len(z)}, {size})"
                    + ("; for numbers of classes use model.one_hot(labels)" if name == "y" else "")
                )
        out = self.decoder(self.representation(z, y))
        if self.likelihood == "bernoulli":
            return BernoulliLikelihood(out)
        return GaussianLikelihood(out, self.decoder_std)

    @property
    def decoder_inputs(self) -> int:
        """Numbers in a row of `representation`."""
        return self.classes + self.latent_dim

    def representation(self, z: Tensor, y: Tensor) -> Tensor:
        """What the decoder sees: class and style side by side, ``(n, classes + latent_dim)``."""
        return torch.cat([y, z], dim=1)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable class of each image, ``(n,)``; in evaluation mode."""
        with evaluating(self):
            return self.encode(x).logits.argmax(dim=1)

    def sample(
        self, n: int, *, labels: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Decoder means at n styles drawn from the prior, ``(n, C, H, W)``, without pixel noise.

        Args:
            n: number of images.
            labels: the class of each image, ``(n,)``; drawn from their prior without it.
            generator: source of the draws.

        Example:
            >>> model = ClusteringAAE(clusters=4)
            >>> model.sample(3, labels=torch.tensor([0, 0, 3])).shape
            torch.Size([3, 1, 28, 28])
        """
        y = self.draw_labels(n, generator=generator) if labels is None else self.one_hot(labels)
        z = self.prior.sample((n,), generator=generator)
        with evaluating(self):
            return self.decode(z, y).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Decoder means at the codes of x, same shape as x."""
        with evaluating(self):
            code = self.encode(x)
            return self.decode(code.z, code.y).mean

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, classes={self.classes}, "
            f"gradient_penalty={self.gradient_penalty}, label_weight={self.label_weight}"
        )


def _judge(inputs: int) -> nn.Sequential:
    return nn.Sequential(*mlp([inputs, 256, 256, 1]))


def discriminator_turn(
    player: str, judge: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, penalty: float
) -> Turn:
    """The turn of a discriminator with logits ``judge``; nothing reaches what made the codes."""
    real, fake = real.detach(), fake.detach()
    real_logit, fake_logit = judge(real), judge(fake)  # (n,)
    loss = discriminator_loss(real_logit, fake_logit)
    if penalty > 0:
        loss = loss + penalty * (r1_penalty(judge, real) + r1_penalty(judge, fake))
    return Turn(
        player, loss.mean(), real=real_logit.sigmoid().mean(), fake=fake_logit.sigmoid().mean()
    )
