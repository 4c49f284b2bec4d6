"""Transport through codes: the theorem behind the Wasserstein autoencoder, on finite worlds."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tutor.finite import distribution
from tutor.transport.exact import checked, exact_plan


class LatentTransport(NamedTuple):
    """Both sides of the theorem.

    ``transport`` is the cost of carrying the data to the model's images, ``latent`` the least mean
    cost of encoding and decoding with codes distributed like the prior.  ``encoder`` is one that
    reaches it, ``q(z|x)`` in rows, ``(n, codes)``.
    """

    transport: Tensor
    latent: Tensor
    encoder: Tensor


def wae_theorem(cost: Tensor, p_x: Tensor, p_z: Tensor, decoder: Tensor) -> LatentTransport:
    """``W_c(p_d, p_G)``, and ``min over q(z|x) with q(z) = p(z) of E_x E_q(z|x) E_p(y|z) c(x, y)``.

    Each is a linear programme of its own: couplings of images with images, and encoders.  They
    are equal when the decoder is a function; a decoder with noise can only make the second
    larger.  Book equations: latent-transport, noisy-decoder.
    Source: Tolstikhin et al. (arXiv 1711.01558), theorem 1.

    Args:
        cost: ``c(x_i, y_k)`` of each example and each image that the model can make, ``(n, m)``.
        p_x: shares of the examples, ``(n,)``, none of them 0.
        p_z: prior of the codes, ``(codes,)``.
        decoder: which image each code gives, whole numbers ``(codes,)`` from 0 to m - 1; or
            ``p(y|z)`` in rows, ``(codes, m)``.

    Returns:
        `LatentTransport`, in float64.

    Raises:
        TypeError: if a table is not a tensor of floats.
        ValueError: for shapes that do not fit, an image that does not exist, rows or shares that
            are no distribution, or an example without a share (its encoder would be anything).

    Example:
        >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> half, codes = torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.25, 0.25])
        >>> both = wae_theorem(cost, half, codes, torch.tensor([0, 1, 1]))
        >>> both.transport.item(), both.latent.item()
        (0.0, 0.0)
        >>> coin = torch.full((3, 2), 0.5)  # a decoder that throws a coin
        >>> wae_theorem(cost, half, codes, coin)[:2]
        (tensor(0., dtype=torch.float64), tensor(0.5000, dtype=torch.float64))
    """
    p_x, p_z = distribution("p_x", p_x), distribution("p_z", p_z)
    if not (p_x > 0).all():
        raise ValueError("an example has share 0 in p_x; leave it out, its encoder is arbitrary")
    likelihood = _likelihood(decoder, len(p_z), cost.shape[-1])
    cost, p_x, p_y = checked(cost, p_x, p_z @ likelihood)
    transport = exact_plan(cost, p_x, p_y).value
    through_codes = exact_plan(cost @ likelihood.T, p_x, p_z)  # E_p(y|z) c(x, y), (n, codes)
    return LatentTransport(transport, through_codes.value, through_codes.plan / p_x.unsqueeze(1))


def _likelihood(decoder: Tensor, codes: int, images: int) -> Tensor:
    """The decoder as a table ``p(y|z)``, ``(codes, images)``, float64."""
    if not isinstance(decoder, Tensor):
        raise TypeError(f"decoder is a {type(decoder).__name__}; expected a tensor")
    if not decoder.is_floating_point():
        if decoder.shape != (codes,) or not ((decoder >= 0) & (decoder < images)).all():
            raise ValueError(
                f"decoder has shape {tuple(decoder.shape)} and entries {decoder.tolist()}; "
                f"expected one image for each of {codes} codes, from 0 to {images - 1}"
            )
        return torch.nn.functional.one_hot(decoder.long(), images).double()
    if decoder.shape != (codes, images):
        raise ValueError(
            f"decoder has shape {tuple(decoder.shape)}; expected ({codes}, {images}), "
            "a distribution of images for each code"
        )
    return torch.stack([distribution(f"decoder[{z}]", row) for z, row in enumerate(decoder)])
