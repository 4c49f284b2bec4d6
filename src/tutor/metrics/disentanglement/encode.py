"""All images of a data set through an encoder, once: every score here works on stored codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tutor.data import Dataset
from tutor.metrics._evaluate import at_least_one, evaluating, on_model, require
from tutor.posteriors import DiagonalGaussian


def encode_all(model: nn.Module, dataset: Dataset | Tensor, batch_size: int = 128) -> Tensor:
    """The mean codes of all images, in the order of the data set.

    ``E_q(z|x) z``, which is how every published score reads a representation.

    Args:
        model: anything with ``encode`` that returns codes, or a distribution with a ``mean``.
        dataset: a data set, or images ``(N, C, H, W)``.  It needs no factors; the scores do.
        batch_size: images at once; 64 to 256 are fastest on a CPU.

    Returns:
        Codes ``(N, dim)`` in the model's precision, on the CPU, without gradient.

    Raises:
        TypeError: if the model has no ``encode``, or its posterior has no mean in closed form.
        ValueError: if the images don't fit the model, or there are none.

    Example:
        >>> import tutor
        >>> model, digits = tutor.models.VAE(latent_dim=3), tutor.data.load("digits")
        >>> encode_all(model, digits).shape
        torch.Size([1500, 3])
    """
    return torch.cat([_mean(q) for q in _encoded(model, dataset, batch_size)]).cpu()


def encode_posteriors(
    model: nn.Module, dataset: Dataset | Tensor, batch_size: int = 128
) -> DiagonalGaussian:
    """The Gaussian posteriors of all images: `encode_all` with variances.

    ``gaussian_kl_per_dimension(q.mean, q.log_var).mean(0)`` of the result says which coordinates
    have collapsed onto the prior.  Arguments and errors as `encode_all`.

    Raises:
        TypeError: if ``encode`` returns anything but a `DiagonalGaussian`.

    Example:
        >>> import tutor
        >>> model, digits = tutor.models.VAE(latent_dim=3), tutor.data.load("digits")
        >>> encode_posteriors(model, digits).log_var.shape
        torch.Size([1500, 3])
    """
    means, log_vars = [], []
    for q in _encoded(model, dataset, batch_size):
        if not isinstance(q, DiagonalGaussian):
            raise TypeError(f"encode returns a {type(q).__name__}; expected a DiagonalGaussian")
        means.append(q.mean)
        log_vars.append(q.log_var)
    return DiagonalGaussian(torch.cat(means).cpu(), torch.cat(log_vars).cpu())


def _encoded(model: nn.Module, dataset: Dataset | Tensor, batch_size: int) -> Iterator[Any]:
    require(model, "encode")
    at_least_one(batch_size=batch_size)
    if not isinstance(dataset, (Dataset, Tensor)):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; expected a tutor.data.Dataset or a tensor "
            "of images"
        )
    if len(dataset) == 0:
        raise ValueError("there is no image to encode; give at least one")
    with evaluating(model):
        for i in range(0, len(dataset), batch_size):
            yield model.encode(on_model(model, dataset[i : i + batch_size]))


def _mean(q: Any) -> Tensor:
    codes = q if isinstance(q, Tensor) else getattr(q, "mean", None)
    if not isinstance(codes, Tensor):
        raise TypeError(
            f"encode returns a {type(q).__name__} whose mean has no closed form; average draws of "
            "q.sample() yourself"
        )
    if codes.dim() != 2:
        raise TypeError(f"encode returns codes of shape {tuple(codes.shape)}; expected (n, dim)")
    return codes
