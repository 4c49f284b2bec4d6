"""DIP-VAE (Kumar, Sattigeri & Balakrishnan, arXiv 1711.00848): codes without correlations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from tutor.divergences import gaussian_kl
from tutor.game import Turn
from tutor.models.factor_vae import networks_64
from tutor.models.vae import VAE
from tutor.posteriors import DiagonalGaussian


class DIPVAE(VAE):
    """A `VAE` with a price on how far a covariance C of the codes is from the identity.

    ``ELBO - lambda_od sum_{i != j} C_ij^2 - lambda_d sum_i (C_ii - 1)^2``

    Variant I takes the covariance of the posterior means; variant II that of the codes themselves,
    which is larger by the mean of the posterior variances.  Only second moments are at stake:
    codes may be uncorrelated and yet depend on each other.
    Book equations: dip-vae-objective, code-covariance.  Source: Kumar et al. (arXiv 1711.00848).

    Args:
        latent_dim: number of latent dimensions.
        variant: ``"I"`` or ``"II"``.
        off_diagonal: lambda_od, at least 0.
        diagonal: lambda_d, at least 0.  Default: ten times ``off_diagonal`` in variant I, equal to
            it in variant II, as in disentanglement_lib.
        image_shape: ``(C, H, W)`` of the data.  The default networks take ``(C, 64, 64)``; they
            are those of `FactorVAE`.
        encoder, decoder: modules to use instead.
        **vae: the other arguments of `VAE`.

    Raises:
        ValueError: for an unknown variant, a negative weight, images that the default networks
            can't take; also as `VAE`.

    Example:
        >>> import torch
        >>> (turn,) = DIPVAE(latent_dim=10, variant="II").step(torch.rand(4, 1, 64, 64))
        >>> list(turn.terms)
        ['reconstruction', 'kl', 'off_diagonal', 'diagonal']
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        variant: Literal["I", "II"] = "I",
        off_diagonal: float = 10.0,
        diagonal: float | None = None,
        image_shape: tuple[int, ...] = (1, 64, 64),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        **vae: Any,
    ) -> None:
        encoder, decoder = networks_64(latent_dim, image_shape, encoder, decoder)
        super().__init__(
            latent_dim, image_shape=image_shape, encoder=encoder, decoder=decoder, **vae
        )
        if variant not in ("I", "II"):
            raise ValueError(f'variant is {variant!r}; choose "I" or "II"')
        if diagonal is None:
            diagonal = 10 * off_diagonal if variant == "I" else off_diagonal
        for name, weight in {"off_diagonal": off_diagonal, "diagonal": diagonal}.items():
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; a weight must not be negative")
        self.variant = variant
        self.off_diagonal, self.diagonal = float(off_diagonal), float(diagonal)

    def step(self, x: Tensor) -> Iterator[Turn]:
        q = self.encode(x)
        reconstruction = -self.decode(q.rsample()).log_prob(x)  # (n,)
        kl = gaussian_kl(q.mean, q.log_var)  # (n,)
        off_diagonal, diagonal = covariance_distances(self.covariance(q))
        loss = (
            (reconstruction + kl).mean()
            + self.off_diagonal * off_diagonal
            + self.diagonal * diagonal
        )
        yield Turn(
            "autoencoder",
            loss,
            reconstruction=reconstruction.mean(),
            kl=kl.mean(),
            off_diagonal=off_diagonal,
            diagonal=diagonal,
        )

    def covariance(self, q: DiagonalGaussian) -> Tensor:
        """C of a batch of posteriors, ``(latent_dim, latent_dim)``, as the variant defines it."""
        return code_covariance(q, of_means=self.variant == "I")

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, variant={self.variant!r}, "
            f"off_diagonal={self.off_diagonal}, diagonal={self.diagonal}"
        )


def code_covariance(q: DiagonalGaussian, *, of_means: bool = False) -> Tensor:
    """Covariance of the codes of a batch, ``(dim, dim)``: of the means, plus the mean variances.

    ``Cov[z] = Cov[mean(x)] + E[diag(var(x))]``, the law of total covariance.  The covariance over
    images is divided by ``n - 1``, so that its expectation is that over the data.

    Args:
        q: posteriors of n images.
        of_means: leave the second part out, for the covariance of the means alone.

    Raises:
        ValueError: for a single image, which has no covariance.

    Example:
        >>> import torch
        >>> q = DiagonalGaussian(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.zeros(2, 2))
        >>> code_covariance(q)
        tensor([[3., 0.],
                [0., 1.]])
    """
    n = len(q.mean)
    if n < 2:
        raise ValueError(f"the batch has {n} image; a covariance needs at least 2")
    rows = (q.mean - q.mean.mean(0)).T  # (dim, n); torch.cov would read its divisor from the device
    cov = rows @ rows.T / (n - 1)  # (dim, dim)
    return cov if of_means else cov + q.log_var.exp().mean(0).diag()


def covariance_distances(cov: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_{i != j} C_ij^2`` and ``sum_i (C_ii - 1)^2``, two scalars.

    Example:
        >>> import torch
        >>> covariance_distances(torch.tensor([[3.0, 0.5], [0.5, 1.0]]))
        (tensor(0.5000), tensor(4.))
    """
    diagonal = cov.diagonal()
    off_diagonal = cov - diagonal.diag()
    return off_diagonal.square().sum(), (diagonal - 1).square().sum()
