"""The beta-VAE (Higgins et al., ICLR 2017): the VAE with a heavier KL term."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tutor.models.vae import VAE


class BetaVAE(VAE):
    """A `VAE` whose KL term is weighed by ``beta``.

    ``E_q(z|x) log p(x|z) - beta KL(q(z|x) || p(z))``

    Book equation: beta-vae.  Source: Higgins et al. (2017), equation 4.  With ``beta=1`` it is
    the VAE.  With a Gaussian likelihood it is the VAE whose decoder variance is ``beta`` times
    as large (book equation: beta-is-variance).

    Args:
        latent_dim: number of latent dimensions.
        beta: weight of the KL term, at least 0; 0 is an autoencoder with a noisy code.
        **vae: the other arguments of `VAE`.

    Raises:
        ValueError: if beta is negative.

    Example:
        >>> BetaVAE(latent_dim=2, beta=4.0).beta
        4.0
    """

    def __init__(self, latent_dim: int = 2, *, beta: float = 4.0, **vae: Any) -> None:
        super().__init__(latent_dim, **vae)
        if not beta >= 0:
            raise ValueError(f"beta is {beta}; it must not be negative (a reward for distance)")
        self.beta = float(beta)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, beta={self.beta}"

    def weigh(self, reconstruction: Tensor, kl: Tensor) -> Tensor:
        """The negative objective of each example, in nats when beta is 1."""
        return reconstruction + self.beta * kl
