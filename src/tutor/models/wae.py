"""The Wasserstein autoencoder (Tolstikhin et al., arXiv 1711.01558)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NoReturn

from torch import Tensor, nn

from tutor.game import Turn
from tutor.kernels import Kernel, as_kernel, mmd
from tutor.models.adversarial import discriminator_loss, generator_loss, logit_each
from tutor.models.autoencoder import Autoencoder
from tutor.nets import mlp, mlp_decoder, mlp_encoder
from tutor.posteriors import Deterministic, DiagonalGaussian

Cost = Callable[[Tensor, Tensor], Tensor]
PENALTIES = ("mmd", "gan")
POSTERIORS = ("deterministic", "gaussian")


def squared_cost(x: Tensor, y: Tensor) -> Tensor:
    """``c(x, y) = |x - y|^2``, summed over channels, rows and columns: ``(n,)``.

    Example:
        >>> import torch
        >>> squared_cost(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0))
        tensor([16., 16.])
    """
    return (x - y).square().flatten(1).sum(1)


def l1_cost(x: Tensor, y: Tensor) -> Tensor:
    """``c(x, y) = sum_i |x_i - y_i|``, summed likewise: ``(n,)``.

    Example:
        >>> import torch
        >>> l1_cost(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 2.0))
        tensor([8., 8.])
    """
    return (x - y).abs().flatten(1).sum(1)


COSTS: dict[str, Cost] = {"squared": squared_cost, "l1": l1_cost}


class GeneratedImages:
    """What a decoder without noise makes of codes: one image each, and no density.

    It has a ``mean`` like the likelihoods of the other models, so that plots and metrics on
    images work alike; metrics that need p(x|z) are told why there is none.

    Example:
        >>> import torch
        >>> GeneratedImages(torch.zeros(3, 1, 2, 2)).mean.shape
        torch.Size([3, 1, 2, 2])
    """

    def __init__(self, images: Tensor) -> None:
        self.mean = images
        self.event_shape = images.shape[1:]

    def log_prob(self, x: Tensor) -> NoReturn:
        """Raises TypeError: a point mass has no density."""
        raise TypeError(
            "the decoder of a WAE is a function G(z), and p(x|z) a point mass without a density; "
            "compare x with .mean by a cost, or whole sets of images (tutor.metrics."
            "frechet_distance); a likelihood needs a model such as tutor.models.VAE"
        )


class WAE(Autoencoder):
    """The cheapest way to reconstruct, among encoders whose codes together look like the prior.

    ``E_x E_q(z|x) c(x, G(z)) + lambda D(q(z), p(z))``

    The optimal transport cost between data and model is the first term alone, minimised over
    encoders with ``q(z) = p(z)``.  The second term puts a price on missing that.  Only the mixture
    of all q(z|x) is pushed to the prior, never a single one.  ``step`` is algorithm 1 (WAE-GAN)
    or 2 (WAE-MMD) of the paper; the former with a squared cost is an AAE.  Book equations:
    wae-objective, wae-gan-aae.
    Source: Tolstikhin et al. (arXiv 1711.01558).

    Two scales matter more than lambda's digits.  A cost is *summed* over pixels; with a mean
    lambda would weigh 784 times as much on MNIST.  And the authors' code multiplies the squared
    cost by 0.05, so that its lambda of 10 is one of 200 here.

    Args:
        latent_dim: number of latent dimensions.
        penalty: ``"mmd"``, the maximum mean discrepancy between codes and prior samples (an
            unbiased estimate, so it may be negative), or ``"gan"``, a discriminator on codes.
        penalty_weight: lambda, at least 0.
        kernel: of the MMD: ``"imq"``, the sum of inverse multiquadrics ``C / (C + |z - z'|^2)``
            at the authors' seven scales; ``"rbf"``, a single ``exp(-|z - z'|^2 / C)``; a kernel of
            `tutor.kernels`; or a function.  By name, C is ``2 d prior_std^2``, the mean squared
            distance of two prior samples.
        prior: what all codes together should look like, of dimension ``latent_dim``; N(0, I)
            without it.
        prior_std: standard deviation of a coordinate of ``prior``, for C.
        cost: ``"squared"``, ``"l1"``, or a function ``c(x, y)`` of images that gives ``(n,)``.
        posterior: ``"deterministic"``, one code an image, or ``"gaussian"``.
        image_shape: ``(C, H, W)`` of the data.
        encoder, decoder, discriminator: modules to use instead of the default networks (the
            paper's are in `tutor.nets`).  The decoder ends with the images themselves, not with
            logits; the discriminator returns ``(n, 1)``.

    Raises:
        ValueError: for an unknown penalty, kernel, cost or posterior, a negative weight, a
            ``prior_std`` that is not positive, a prior of another dimension, or a discriminator
            where none plays.
        TypeError: for a kernel or cost that is neither a name nor a function.

    Example:
        >>> import torch
        >>> x = torch.rand(5, 1, 28, 28)
        >>> [turn.player for turn in WAE(latent_dim=8, penalty="gan").step(x)]
        ['discriminator', 'autoencoder']
        >>> [turn.player for turn in WAE(latent_dim=8, penalty="mmd").step(x)]
        ['autoencoder']
    """

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        penalty: Literal["mmd", "gan"] = "mmd",
        penalty_weight: float = 200.0,
        kernel: Literal["imq", "rbf"] | Kernel | Callable[[Tensor, Tensor], Tensor] = "imq",
        prior: nn.Module | None = None,
        prior_std: float = 1.0,
        cost: Literal["squared", "l1"] | Cost = "squared",
        posterior: Literal["deterministic", "gaussian"] = "deterministic",
        image_shape: tuple[int, ...] = (1, 28, 28),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        discriminator: nn.Module | None = None,
    ) -> None:
        # "gaussian" tells plots and live figures that pixels are real numbers, no logits; there is
        # no density, and so no decoder_std (see `decode`).
        super().__init__(
            latent_dim, image_shape=image_shape, likelihood="gaussian", decoder_std=1.0, prior=prior
        )
        self.decoder_std = None
        _one_of("penalty", penalty, PENALTIES)
        _one_of("posterior", posterior, POSTERIORS)
        if not 0 <= penalty_weight < math.inf:
            raise ValueError(f"penalty_weight is {penalty_weight}; expected lambda, 0 or more")
        if penalty == "mmd" and discriminator is not None:
            raise ValueError(
                'a discriminator was given, but penalty="mmd" has none; choose penalty="gan"'
            )
        self.penalty, self.penalty_weight = penalty, penalty_weight
        self.posterior = posterior
        self.cost = _checked_cost(cost)
        if not prior_std > 0:
            raise ValueError(f"prior_std is {prior_std}; a standard deviation is positive")
        self.kernel = as_kernel(kernel, latent_dim, prior_std)
        outputs = latent_dim * (2 if posterior == "gaussian" else 1)
        self.encoder = mlp_encoder(self.image_shape, outputs) if encoder is None else encoder
        self.decoder = mlp_decoder(latent_dim, self.image_shape) if decoder is None else decoder
        if penalty == "gan":
            self.discriminator = (
                nn.Sequential(*mlp([latent_dim, 256, 256, 1]))
                if discriminator is None
                else discriminator
            )

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        players = {"autoencoder": [self.encoder, self.decoder]}
        return (
            players if self.penalty == "mmd" else players | {"discriminator": [self.discriminator]}
        )

    def step(self, x: Tensor) -> Iterator[Turn]:
        z = self.prior.sample((len(x),))  # prior samples, (n, latent_dim)
        codes = self.encode(x).rsample()  # (n, latent_dim)
        if self.penalty == "gan":
            # Algorithm 1.  Ascend in D: lambda (log D(z) + log(1 - D(codes))).
            real, fake = self.discriminate(z), self.discriminate(codes.detach())
            loss = self.penalty_weight * discriminator_loss(real, fake)  # (n,)
            guess = {"real": real.sigmoid().mean(), "fake": fake.sigmoid().mean()}
            yield Turn("discriminator", loss.mean(), **guess)
            # Descend in encoder and decoder together: c(x, G(codes)) - lambda log D(codes).
            penalty = generator_loss(self.discriminate(codes)).mean()
        else:
            # Algorithm 2: c(x, G(codes)) + lambda MMD(codes, z).
            penalty = self.discrepancy(codes, z)
        cost = self.reconstruction_cost(x, codes).mean()
        loss = cost + self.penalty_weight * penalty
        yield Turn("autoencoder", loss, cost=cost, penalty=penalty)

    def reconstruction_cost(self, x: Tensor, codes: Tensor) -> Tensor:
        """``c(x, G(z))`` of images and their codes, ``(n,)``.

        Raises:
            ValueError: if the decoder's images have another shape than x, or the cost does not
                give one number an image; broadcasting would hide both.
        """
        images = self.decode(codes).mean
        if images.shape != x.shape:
            raise ValueError(
                f"the decoder made images of shape {tuple(images.shape)}, the data are "
                f"{tuple(x.shape)}; give a decoder for image_shape={self.image_shape}"
            )
        cost = self.cost(x, images)
        if cost.shape != (len(x),):
            raise ValueError(
                f"the cost has shape {tuple(cost.shape)} for {len(x)} images; expected "
                f"({len(x)},): sum over pixels, with .flatten(1).sum(1), and take no mean"
            )
        return cost

    def discrepancy(self, codes: Tensor, z: Tensor) -> Tensor:
        """The squared MMD between codes and prior samples, a scalar, estimated without bias.

        Raises:
            ValueError: for a single code, which has no other one to be compared with.
        """
        if len(codes) < 2:
            raise ValueError(
                f"the batch has {len(codes)} image; the MMD compares the codes of a batch with "
                "one another, so it needs at least 2 (and is a poor estimate below some 100)"
            )
        return mmd(codes, z, kernel=self.kernel)

    def discriminate(self, z: Tensor) -> Tensor:
        """Logit that code z was drawn from the prior: ``(n,)``.

        Raises:
            ValueError: if this model has no discriminator, or it returns another shape.
        """
        if self.penalty == "mmd":
            raise ValueError('a WAE with penalty="mmd" has no discriminator; choose penalty="gan"')
        return logit_each(self.discriminator(z), len(z))

    def encode(self, x: Tensor) -> Deterministic | DiagonalGaussian:
        """q(z|x) of images ``(n, C, H, W)``.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's, or the encoder's output not
                ``latent_dim`` numbers (twice as many for a Gaussian).
        """
        self.check_images(x)
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

    def decode(self, z: Tensor) -> GeneratedImages:
        """G(z) of codes ``(n, latent_dim)``, in ``.mean``.

        Raises:
            ValueError: if z is not ``(n, latent_dim)``.
        """
        if z.dim() != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; expected (n, {self.latent_dim})")
        return GeneratedImages(self.decoder(z))

    def extra_repr(self) -> str:
        kernel = f", kernel={_name(self.kernel)}" if self.penalty == "mmd" else ""
        return (
            f"latent_dim={self.latent_dim}, penalty={self.penalty!r}, "
            f"penalty_weight={self.penalty_weight}{kernel}, cost={_name(self.cost)}, "
            f"posterior={self.posterior!r}"
        )


def _checked_cost(cost: str | Cost) -> Cost:
    if isinstance(cost, str):
        _one_of("cost", cost, tuple(COSTS))
        return COSTS[cost]
    if not callable(cost):
        raise TypeError(
            f"cost is a {type(cost).__name__}; expected one of {', '.join(COSTS)}, or a function "
            "c(x, y) of images that gives one number an image, (n,)"
        )
    return cost


def _one_of(what: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{what} is {given!r}; choose one of {', '.join(known)}")


def _name(function: Callable) -> str:
    """What stays the same from run to run: a plain function prints with its address."""
    return getattr(function, "__qualname__", repr(function))
