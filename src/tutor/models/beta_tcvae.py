"""The beta-TCVAE (Chen et al., arXiv 1802.04942): each part of the KL term has its own weight."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor, nn

from tutor.divergences import gaussian_kl
from tutor.game import Turn
from tutor.metrics.minibatch import minibatch_surgery
from tutor.models.factor_vae import networks_64
from tutor.models.vae import VAE

SAMPLING = ("stratified", "weighted")


class BetaTCVAE(VAE):
    """A `VAE` that weighs mutual information, total correlation and the rest of the KL apart.

    ``E_q(z|x) log p(x|z) - alpha I(x; z) - beta TC - gamma sum_j KL(q(z_j) || p(z_j))``

    The three parts sum to the KL term, so this is the ELBO with three corrections,

    ``ELBO - (alpha - 1) I(x; z) - (beta - 1) TC - (gamma - 1) sum_j KL(q(z_j) || p(z_j))``,

    and is computed so: the KL term in closed form, and estimates only where a weight differs from
    one.  With three ones it is the `VAE`.  The parts need log q(z), an average over all N images,
    of which a batch holds a few: `tutor.metrics.minibatch_stratified` and `minibatch_weighted`
    estimate it.  Book equations: beta-tcvae-objective, mws, mss, mws-offset.  Source: Chen et al.
    (arXiv 1802.04942).

    The weighted estimate of the total correlation is too high by about ``d log N - log M``, a
    hundred nats and more.  That moves the loss but hardly its gradient.  The terms that are
    recorded are always the stratified ones, which have no such offset.

    Args:
        latent_dim: number of latent dimensions.
        data_size: N, the number of images in the data set: ``len(data)``.  No default: a wrong N
            would shift every estimate and say nothing.
        alpha: weight of the mutual information between image and code.
        beta: weight of the total correlation; 6 on dSprites in the paper.
        gamma: weight of the dimensions' distances to the prior.
        sampling: ``"stratified"`` or ``"weighted"``, the estimator that the loss uses.
        image_shape: ``(C, H, W)`` of the data.  The default networks take ``(C, 64, 64)``; they
            are those of `FactorVAE`.
        encoder, decoder: modules to use instead.
        **vae: the other arguments of `VAE`.

    Raises:
        ValueError: for a negative weight, an unknown sampling, a data set of fewer than two
            images, images that the default networks can't take; also as `VAE`.

    Example:
        >>> import torch
        >>> model = BetaTCVAE(latent_dim=10, data_size=737_280)
        >>> (turn,) = model.step(torch.rand(4, 1, 64, 64))
        >>> list(turn.terms)
        ['reconstruction', 'kl', 'mutual_information', 'total_correlation', 'dimension_kl']
    """

    def __init__(
        self,
        latent_dim: int = 10,
        *,
        data_size: int,
        alpha: float = 1.0,
        beta: float = 6.0,
        gamma: float = 1.0,
        sampling: Literal["stratified", "weighted"] = "stratified",
        image_shape: tuple[int, ...] = (1, 64, 64),
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        **vae: Any,
    ) -> None:
        encoder, decoder = networks_64(latent_dim, image_shape, encoder, decoder)
        super().__init__(
            latent_dim, image_shape=image_shape, encoder=encoder, decoder=decoder, **vae
        )
        for name, weight in {"alpha": alpha, "beta": beta, "gamma": gamma}.items():
            if not weight >= 0:
                raise ValueError(f"{name} is {weight}; a weight must not be negative")
        if sampling not in SAMPLING:
            raise ValueError(f'sampling is {sampling!r}; choose "stratified" or "weighted"')
        if data_size < 2:
            raise ValueError(
                f"data_size is {data_size}; expected the number of images in the data set, "
                "len(data), at least 2"
            )
        self.alpha, self.beta, self.gamma = float(alpha), float(beta), float(gamma)
        self.sampling, self.data_size = sampling, int(data_size)

    def step(self, x: Tensor) -> Iterator[Turn]:
        q = self.encode(x)
        z = q.rsample()  # (n, latent_dim)
        reconstruction = -self.decode(z).log_prob(x)  # (n,)
        kl = gaussian_kl(q.mean, q.log_var)  # (n,)
        recorded = parts = minibatch_surgery(q, z, self.data_size).value  # stratified
        if self.sampling == "weighted":
            parts = minibatch_surgery(q, z, self.data_size, method="weighted").value
        loss = (
            (reconstruction + kl).mean()
            + (self.alpha - 1) * parts.mutual_information
            + (self.beta - 1) * parts.total_correlation
            + (self.gamma - 1) * parts.dimension_kl.sum()
        )
        yield Turn(
            "autoencoder",
            loss,
            reconstruction=reconstruction.mean(),
            kl=kl.mean(),
            mutual_information=recorded.mutual_information,
            total_correlation=recorded.total_correlation,
            dimension_kl=recorded.dimension_kl.sum(),
        )

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, alpha={self.alpha}, beta={self.beta}, gamma={self.gamma}, "
            f"sampling={self.sampling!r}, data_size={self.data_size}"
        )
