"""Fully connected encoders and decoders as plain `nn.Sequential`\\ s."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import nn


def mlp(sizes: Sequence[int], activation: type[nn.Module] = nn.ReLU) -> list[nn.Module]:
    """Linear layers of the given sizes with an activation between them, none after the last.

    Example:
        >>> nn.Sequential(*mlp([784, 512, 4]))
        Sequential(
          (0): Linear(in_features=784, out_features=512, bias=True)
          (1): ReLU()
          (2): Linear(in_features=512, out_features=4, bias=True)
        )
    """
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return layers[:-1]


def mlp_encoder(
    image_shape: tuple[int, ...],
    outputs: int,
    hidden: Sequence[int] = (512, 256),
    activation: type[nn.Module] = nn.ReLU,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Images ``(n, C, H, W)`` to ``(n, outputs)`` through fully connected layers.

    With ``hidden=(500,)`` and ``activation=nn.Tanh`` it is the encoder of Kingma & Welling
    (arXiv 1312.6114, appendix C) with its two heads side by side.  With ``dropout`` above 0, units
    of the first hidden layer are dropped at that rate while training.

    Raises:
        ValueError: for a dropout that is no rate in [0, 1), or has no hidden layer to act on.

    Example:
        >>> import torch
        >>> mlp_encoder((1, 28, 28), outputs=4)(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 4])
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it is the share of units dropped, in [0, 1)")
    layers = mlp([math.prod(image_shape), *hidden, outputs], activation)
    if dropout:
        if not hidden:
            raise ValueError(f"dropout is {dropout}, but there is no hidden layer to drop from")
        layers.insert(2, nn.Dropout(dropout))
    return nn.Sequential(nn.Flatten(), *layers)


def mlp_decoder(
    latent_dim: int,
    image_shape: tuple[int, ...],
    hidden: Sequence[int] = (256, 256),
    activation: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Codes ``(n, latent_dim)`` to ``(n, C, H, W)`` through fully connected layers.

    Example:
        >>> import torch
        >>> mlp_decoder(2, (1, 28, 28))(torch.zeros(3, 2)).shape
        torch.Size([3, 1, 28, 28])
    """
    return nn.Sequential(
        *mlp([latent_dim, *hidden, math.prod(image_shape)], activation),
        nn.Unflatten(1, tuple(image_shape)),
    )
