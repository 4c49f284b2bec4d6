"""The adversarial game on codes: a discriminator's loss, the generator's, and the R1 penalty.

Real is what the prior draws, fake is what the encoder makes.  A discriminator returns logits:
positive means "drawn from the prior".  Each function returns one value an example, in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus


def logit_each(out: Tensor, n: int) -> Tensor:
    """The logits ``(n,)`` of n codes, from what a discriminator returned.

    Raises:
        ValueError: for another shape than ``(n, 1)`` or ``(n,)``; broadcasting would hide it.

    Example:
        >>> logit_each(torch.zeros(3, 1), 3).shape
        torch.Size([3])
    """
    if tuple(out.shape) not in {(n, 1), (n,)}:
        raise ValueError(
            f"the discriminator returned shape {tuple(out.shape)} for {n} codes; expected "
            f"({n}, 1), one logit a code"
        )
    return out.reshape(n)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """``-log D(z') - log(1 - D(z))`` for pairs of a prior sample z' and a code z, from logits.

    With ``D = sigmoid(logit)`` this is ``softplus(-real) + softplus(fake)``.  Its mean is smallest
    for ``D = p / (p + q)``, where it is ``2 log 2 - 2 JS(p, q)``.  Book equations: code-js,
    code-discriminator.  Source: Goodfellow et al.
    (arXiv 1406.2661), equation 1.

    Args:
        real: logits of prior samples, ``(n,)``.
        fake: logits of codes, ``(n,)``.

    Example:
        >>> discriminator_loss(torch.zeros(1), torch.zeros(1))  # cannot tell: 2 log 2
        tensor([1.3863])
    """
    return softplus(-real) + softplus(fake)


def generator_loss(fake: Tensor) -> Tensor:
    """``-log D(z)``: the encoder wants its codes to be taken for draws of the prior.

    The non-saturating loss: where D is sure, it still has a gradient, unlike ``log(1 - D(z))``.

    Book equation: gan-non-saturating.  Source: Goodfellow et al. (arXiv 1406.2661), section 3.

    Example:
        >>> generator_loss(torch.zeros(1))
        tensor([0.6931])
    """
    return softplus(-fake)


def r1_penalty(discriminator: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """``1/2 |grad_z T(z)|^2`` of the discriminator's logit T, one value an example.

    Added to the discriminator's loss on prior samples (and here on codes too), it asks for a
    discriminator without slope where the samples lie, which is what equal distributions call for.

    Book equation: r1-penalty.  Source: Mescheder, Geiger & Nowozin (arXiv 1801.04406), equations
    9 (R1) and 10 (R2).

    Args:
        discriminator: logits ``(n,)`` of codes ``(n, dim)``, each a function of its own code.
        z: codes ``(n, dim)``; no gradient reaches what made them.

    Example:
        >>> r1_penalty(lambda z: 1.5 * z[:, 0].square(), torch.ones(1, 2)).detach()
        tensor([4.5000])
    """
    z = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(z).sum(), z, create_graph=True)
    return 0.5 * slope.square().sum(-1)
