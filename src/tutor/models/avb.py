"""Adversarial variational Bayes (Mescheder, Nowozin & Geiger, arXiv 1701.04722)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from tutor.critics import BilinearCritic
from tutor.devices import may_look
from tutor.game import Turn, evaluating
from tutor.models.autoencoder import Autoencoder
from tutor.nets import mlp_decoder
from tutor.noise_encoders import NoiseEncoder, checked_noise_encoder
from tutor.posteriors import DiagonalGaussian, ImplicitPosterior, noise_fed
from tutor.priors import Gaussian

_LEAST_VARIANCE = 1e-4  # keeps the normalised code finite where the encoder ignores its noise


class AVB(Autoencoder):
    """A VAE whose q(z|x) may have any shape: its KL term is estimated by a critic T(x, z).

    ``max over theta, phi of E_q(z|x) [log p(x|z) - T(x, z)]``, where T maximises

    ``E_q(z|x) log sigmoid(T(x, z)) + E_p(z) log(1 - sigmoid(T(x, z)))``.

    The best T is ``log q(z|x) - log p(z)``, and its mean under q(z|x) is the KL term of the ELBO.
    The gradient with respect to the encoder goes through z only: the derivative of log q(z|x)
    at a fixed z has mean zero under q(z|x), so that T may be treated as a fixed function.
    Source: Mescheder et al. (arXiv 1701.04722), equation 3.7 and algorithm 1.

    With *adaptive contrast* the critic has less to learn.  Let r(z|x) be the Gaussian that has the
    mean and variance of q(z|x), coordinate by coordinate.  T compares the normalised code
    ``(z - mean(x)) / std(x)`` with draws of N(0, I), and

    ``KL(q(z|x) || p(z)) = E_q(z|x) [T + log r(z|x) - log p(z)]``.

    Gradients go through z in all three terms, and nowhere through the moments of r: the identity
    holds for every r, so r is a constant of the step.  Source: algorithm 2 of the same paper.

    Both terms are in nats, summed over pixels and over latent dimensions.  What the critic gives is
    an estimate, no bound: with a critic that is not the best one, ``claimed_elbo`` may lie above
    log p(x).

    Args:
        latent_dim: number of latent dimensions.
        noise_dim: numbers of noise a code, for the default encoder (32 if not given).
        adaptive_contrast: compare normalised codes with N(0, I).
        contrast_samples: draws of noise that give the moments of q(z|x).  They are drawn for each
            example, or shared by all when the encoder has ``moments`` of its own (as
            `tutor.noise_encoders.FactoredNoiseEncoder`).
        prior_in_critic: add ``-log p(z)`` to what the network returns (with adaptive contrast
            ``-log N(z; 0, I)`` of the normalised code), so that the network learns log q(z|x)
            alone.  Far from the origin this is most of T: the authors found training without it
            much worse.
        annealing_steps: steps over which the weight of the KL term rises from 0 to 1; 0 for none.
        critic_turns: turns of the critic after each turn of the autoencoder.
        image_shape: ``(C, H, W)`` of the data.
        likelihood: ``"bernoulli"`` or ``"gaussian"``, with ``decoder_std``, as in `VAE`.
        decoder_std: standard deviation of the Gaussian likelihood.
        prior: with ``dim`` equal to ``latent_dim`` and ``sample``; N(0, I) if not given.
        encoder: module called with images and noise ``(..., n, noise_dim)``, with an attribute
            ``noise_dim``; see `tutor.noise_encoders`.
        decoder: module from codes to ``(n, C, H, W)``.
        critic: module called with images and codes ``(n, latent_dim)`` that returns ``(n,)``; see
            `tutor.critics`.

    Raises:
        ValueError: for a prior of another dimension than the encoder's codes, a noise dimension
            below 1, adaptive contrast with fewer than two samples, or counts that make no sense.
        TypeError: for a prior without a density where one is needed, or an encoder that takes no
            noise.

    Example:
        >>> model = AVB(latent_dim=2, adaptive_contrast=True)
        >>> x = torch.rand(5, 1, 28, 28)
        >>> z = model.encode(x).sample((100,))
        >>> z.shape, model.kl_estimate(x, z[0]).shape
        (torch.Size([100, 5, 2]), torch.Size([5]))
        >>> [turn.player for turn in model.step(x)]
        ['autoencoder', 'critic']
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        noise_dim: int | None = None,
        adaptive_contrast: bool = False,
        contrast_samples: int = 64,
        prior_in_critic: bool = True,
        annealing_steps: int = 0,
        critic_turns: int = 1,
        image_shape: tuple[int, ...] = (1, 28, 28),
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        decoder_std: float | None = None,
        prior: nn.Module | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        critic: nn.Module | None = None,
    ) -> None:
        super().__init__(
            latent_dim,
            image_shape=image_shape,
            likelihood=likelihood,
            decoder_std=decoder_std,
            prior=prior,
        )
        self.adaptive_contrast, self.contrast_samples = adaptive_contrast, contrast_samples
        self.prior_in_critic = prior_in_critic
        self.annealing_steps, self.critic_turns = annealing_steps, critic_turns
        self._check_settings()
        if encoder is None:
            noise_dim = 32 if noise_dim is None else noise_dim
            encoder = NoiseEncoder(self.image_shape, latent_dim, noise_dim=noise_dim)
        self.encoder = checked_noise_encoder(encoder, latent_dim, noise_dim)
        self.decoder = mlp_decoder(latent_dim, self.image_shape) if decoder is None else decoder
        self.critic = BilinearCritic(self.image_shape, latent_dim) if critic is None else critic
        # What the critic compares with: the prior, or what a normalised code should look like.
        self.reference = Gaussian(latent_dim) if adaptive_contrast else self.prior
        if annealing_steps:
            # A buffer, so that a checkpoint takes up the annealing where it stopped.
            self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    @property
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        return {"autoencoder": [self.encoder, self.decoder], "critic": [self.critic]}

    def step(self, x: Tensor) -> Iterator[Turn]:
        # Primal turn: encoder and decoder, against a critic that stands still.
        z, r = self.encode(x).rsample(), self.contrast(x)  # (n, latent_dim)
        reconstruction = -self.decode(z).log_prob(x)  # (n,)
        kl = self.kl_estimate(x, z, r)  # (n,)
        loss = (reconstruction + self.kl_weight * kl).mean()
        yield Turn("autoencoder", loss, reconstruction=reconstruction.mean(), kl=kl.mean())

        # Dual turns: the critic tells codes (label 1) from draws of the prior (label 0).
        for turn in range(self.critic_turns):
            if turn > 0:  # new noise, through the moved encoder
                z, r = self.encode(x).sample(), self.contrast(x)
            posterior = self.critic_value(x, self.normalise(z.detach(), r))  # (n,)
            drawn = self.critic_value(x, self.reference.sample((len(x),)))  # (n,)
            loss = (softplus(-posterior) + softplus(drawn)).mean()
            right = 0.5 * ((posterior > 0).float() + (drawn < 0).float())
            yield Turn("critic", loss, accuracy=right.mean())

        if self.annealing_steps:
            self.steps_taken += 1

    def encode(self, x: Tensor) -> ImplicitPosterior:
        """q(z|x) of images ``(n, C, H, W)``: draws, and no density.

        Raises:
            TypeError: if the images are not floating point.
            ValueError: if their shape is not the model's.
        """
        self.check_images(x)
        return noise_fed(self.encoder, x, self.latent_dim)

    def critic_value(self, x: Tensor, z: Tensor) -> Tensor:
        """T(x, z), shape ``(n,)``, an estimate of log q(z|x) - log p(z) in nats.

        With adaptive contrast z is the normalised code, and the estimate that of its log-ratio to
        N(0, I).

        Raises:
            ValueError: if the critic returns another shape, or a code lies where the prior is zero.
        """
        value = self.critic(x, z)
        if tuple(value.shape) != (len(x),):
            raise ValueError(
                f"the critic returned shape {tuple(value.shape)}; expected ({len(x)},), one number "
                "a pair of image and code: drop the last axis with .squeeze(1)"
            )
        if not self.prior_in_critic:
            return value
        return value - _positive(self.reference.log_prob(z))

    def kl_estimate(self, x: Tensor, z: Tensor, r: DiagonalGaussian | None = None) -> Tensor:
        """What the critic says of log q(z|x) - log p(z), ``(n,)`` in nats; its mean is the KL.

        Differentiable in z.  With adaptive contrast r is r(z|x), made by `contrast` if not given.

        Raises:
            ValueError: as `critic_value`.
        """
        if not self.adaptive_contrast:
            return self.critic_value(x, z)
        r = self.contrast(x) if r is None else r
        ratio = self.critic_value(x, self.normalise(z, r))
        return ratio + r.log_prob(z) - _positive(self.prior.log_prob(z))

    @torch.no_grad()
    def contrast(
        self, x: Tensor, *, generator: torch.Generator | None = None
    ) -> DiagonalGaussian | None:
        """r(z|x), the Gaussian with the moments of q(z|x); never carries a gradient.

        None where there is no adaptive contrast.
        """
        if not self.adaptive_contrast:
            return None
        if hasattr(self.encoder, "moments"):
            self.check_images(x)
            mean, std = self.encoder.moments(x, self.contrast_samples, generator=generator)
        else:
            mean, std = self.encode(x).moments(self.contrast_samples, generator=generator)
        return DiagonalGaussian(mean, (std.square() + _LEAST_VARIANCE).log())

    def normalise(self, z: Tensor, r: DiagonalGaussian | None) -> Tensor:
        """The code as the critic sees it: ``(z - mean) / std`` of r, or z itself without one."""
        return z if r is None else (z - r.mean) / r.stddev

    @property
    def kl_weight(self) -> Tensor | float:
        """The weight of the KL term at this step, between 0 and 1."""
        if not self.annealing_steps:
            return 1.0
        return (self.steps_taken / self.annealing_steps).clamp(max=1.0)

    def claimed_elbo(
        self, x: Tensor, *, samples: int = 1, generator: torch.Generator | None = None
    ) -> Tensor:
        """``E_q(z|x) [log p(x|z)] - KL as the critic estimates it``, ``(n,)`` in nats.

        Not a bound: it is as far from the ELBO as the critic is from the best one.

        Raises:
            ValueError: for ``samples`` below 1.

        Example:
            >>> AVB(latent_dim=2).claimed_elbo(torch.ones(3, 1, 28, 28), samples=5).shape
            torch.Size([3])
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; draw at least one")
        with evaluating(self):
            r, claims = self.contrast(x, generator=generator), []
            for z in self.encode(x).sample((samples,), generator=generator):
                claims.append(self.decode(z).log_prob(x) - self.kl_estimate(x, z, r))
            return torch.stack(claims).mean(0)

    def reconstruct(self, x: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Decoder means at one draw of q(z|x), same shape as x.

        At a draw, because the mean of a posterior of any shape may lie where it has no mass.
        """
        with evaluating(self):
            return self.decode(self.encode(x).sample(generator=generator)).mean

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, adaptive_contrast={self.adaptive_contrast}, "
            f"contrast_samples={self.contrast_samples}, prior_in_critic={self.prior_in_critic}, "
            f"annealing_steps={self.annealing_steps}, critic_turns={self.critic_turns}"
        )

    def _check_settings(self) -> None:
        needs_density = self.prior_in_critic or self.adaptive_contrast
        if needs_density and not callable(getattr(self.prior, "log_prob", None)):
            why = "adaptive contrast" if self.adaptive_contrast else "prior_in_critic=True"
            raise TypeError(
                f"the prior is a {type(self.prior).__name__} without log_prob, and {why} needs its "
                "density; use prior_in_critic=False, adaptive_contrast=False: then samples are "
                "enough"
            )
        if self.adaptive_contrast and self.contrast_samples < 2:
            raise ValueError(
                f"contrast_samples is {self.contrast_samples}; the spread of q(z|x) can't be "
                "estimated from a single noise sample: give at least 2, better 16 or more"
            )
        if self.critic_turns < 1:
            raise ValueError(f"critic_turns is {self.critic_turns}; without a turn T never learns")
        if self.annealing_steps < 0:
            raise ValueError(f"annealing_steps is {self.annealing_steps}; expected 0 or more")


def _positive(log_prior: Tensor) -> Tensor:
    """The prior's log-density at codes, refused where the density is zero."""
    if may_look(log_prior) and log_prior.isinf().any():
        raise ValueError(
            f"{log_prior.isinf().sum().item()} of {len(log_prior)} codes lie where the prior's "
            "density is zero, so their KL is infinite; give the encoder an output that stays "
            "inside (a tanh, for a box), or choose a prior that is positive everywhere"
        )
    return log_prior
