"""Codes whose scores are known: what an encoder might have made of the factors, made by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from tutor.data import Dataset
from tutor.metrics.disentanglement._factors import checked

KINDS = ("perfect", "rotated", "duplicated", "higgins-failure", "random", "collapsed")
_NOISE = 0.01  # standard deviation of the mean code in a collapsed coordinate


def example_codes(
    factors: Tensor | Dataset,
    kind: str,
    *,
    dim: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Codes of a kind on which one knows what a score should say.

    ===================  ==========================================================================
    ``perfect``          coordinate j is factor j, shifted and scaled to mean 0 and variance 1
    ``rotated``          the perfect code turned by a random rotation: all of the information,
                         uncorrelated coordinates, and each a mixture of all factors
    ``duplicated``       the perfect code twice: each factor in two coordinates
    ``higgins-failure``  the perfect code without the last factor, which no coordinate tells
                         anything about.  A linear classifier still names the fixed factor every
                         time: one coordinate stands still, or none does
    ``random``           standard normal noise that ignores the factors
    ``collapsed``        noise of standard deviation 0.01: an encoder that says nothing
    ===================  ==========================================================================

    Source of the failure: Kim & Mnih (arXiv 1802.05983).

    Args:
        factors: whole numbers ``(N, K)``, or a data set that has them.
        kind: one of the above.
        dim: coordinates; those beyond what the kind needs are collapsed ones, as in a trained
            VAE.  By default as many as it needs (K; 2K for copies; K - 1 for the failure).
        generator: source of the rotation and of the noise, on the CPU.

    Returns:
        Codes ``(N, dim)``, float32.

    Raises:
        ValueError: for an unknown kind, or a dim below what it needs; also as every score.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(2), torch.arange(3))
        >>> example_codes(factors, "perfect")[:3]
        tensor([[-0.9129, -1.1180],
                [-0.9129,  0.0000],
                [-0.9129,  1.1180]])
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; there are {', '.join(map(repr, KINDS))}")
    found = checked(torch.zeros(len(factors), 1), factors)
    values = found.values.T.double()  # (N, K)
    std, mean = torch.std_mean(values, 0)
    perfect = (values - mean) / std
    n, k = perfect.shape
    if kind == "rotated":
        square = torch.randn(k, k, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(square)
        codes = perfect @ (q * r.diagonal().sign())  # with these signs, uniform over rotations
    elif kind == "random":
        codes = torch.randn(n, k if dim is None else dim, generator=generator)
    else:
        codes = {
            "perfect": perfect,
            "duplicated": torch.cat([perfect, perfect], 1),
            "higgins-failure": perfect[:, :-1],
            "collapsed": perfect[:, :0],
        }[kind]
    if dim is None:
        dim = k if kind == "collapsed" else codes.shape[1]
    if dim < codes.shape[1]:
        raise ValueError(f"dim is {dim}; {kind!r} codes of {k} factors need {codes.shape[1]}")
    if dim < 1:
        raise ValueError(f"dim is {dim}; a code has at least one coordinate")
    noise = _NOISE * torch.randn(n, dim - codes.shape[1], generator=generator)
    return torch.cat([codes.float(), noise], 1)
