"""The networks of FactorVAE for images of 64x64 pixels, and its discriminator on codes.

Source: Kim & Mnih (arXiv 1802.05983), appendix; what the text leaves open is as in the public
reimplementations.  The encoder and the decoder also serve beta-VAE, beta-TCVAE and DIP-VAE, so
that a comparison of the objectives compares nothing else.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from tutor.nets.plain import mlp
from tutor.nets.quick import Doubling, InPlaceReLU

_HIDDEN_LAYERS = {"with_output": 5, "hidden_only": 6}


def factor_vae_encoder(
    outputs: int = 20, *, channels: int = 1, hidden: int | None = None
) -> nn.Sequential:
    """Images ``(n, channels, 64, 64)`` to ``(n, outputs)``: four convolutions, two linear layers.

    Filters of 4x4, each layer halving the sides; 32, 32, 64 and 64 channels; ReLU.

    Args:
        outputs: numbers that describe q(z|x): twice ``latent_dim`` for a Gaussian.
        channels: of the images: 1 for dSprites, 3 for 3D Shapes.
        hidden: units of the linear layer in the middle.  Default: 128 for one channel and 256 for
            more, as in the paper (which has 256 for its grey 3D faces too).

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> factor_vae_encoder(20)(torch.zeros(3, 1, 64, 64)).shape
        torch.Size([3, 20])
    """
    hidden = _checked(outputs=outputs, channels=channels, hidden=hidden)
    layers: list[nn.Module] = []
    for inputs, width in [(channels, 32), (32, 32), (32, 64), (64, 64)]:
        layers += [nn.Conv2d(inputs, width, 4, stride=2, padding=1), InPlaceReLU()]
    net = nn.Sequential(*layers, nn.Flatten(), *mlp([64 * 4 * 4, hidden, outputs]))
    # The processors' fast convolutions want the channels of a pixel side by side in memory.
    return net.to(memory_format=torch.channels_last)


def factor_vae_decoder(
    latent_dim: int = 10, *, channels: int = 1, hidden: int | None = None
) -> nn.Sequential:
    """Codes ``(n, latent_dim)`` to ``(n, channels, 64, 64)``: the encoder's mirror image.

    Two linear layers make 64 channels of 4x4; transposed convolutions of 4x4 double the sides four
    times, with 64, 32 and 32 channels between.  The outputs are logits.

    Args:
        latent_dim: number of latent dimensions.
        channels: of the images.
        hidden: units of the first linear layer, as in `factor_vae_encoder`.

    Raises:
        ValueError: for sizes below 1.

    Example:
        >>> factor_vae_decoder(10)(torch.zeros(3, 10)).shape
        torch.Size([3, 1, 64, 64])
    """
    hidden = _checked(latent_dim=latent_dim, channels=channels, hidden=hidden)
    layers = [*mlp([latent_dim, hidden, 64 * 4 * 4]), nn.ReLU(), nn.Unflatten(1, (64, 4, 4))]
    for inputs, width in [(64, 64), (64, 32), (32, 32), (32, channels)]:
        layers += [Doubling(inputs, width), InPlaceReLU()]
    return nn.Sequential(*layers[:-1]).to(memory_format=torch.channels_last)


def factor_vae_discriminator(
    latent_dim: int = 10,
    *,
    six_layers: Literal["with_output", "hidden_only"] = "with_output",
    width: int = 1000,
    logits: Literal[1, 2] = 2,
) -> nn.Sequential:
    """Codes ``(n, latent_dim)`` to logits ``(n, logits)``: linear layers and leaky ReLU (0.2).

    The paper says "6 layers with 1000 hidden units".  It is read in two ways, which differ by a
    million weights.

    Args:
        latent_dim: number of latent dimensions.
        six_layers: ``"with_output"``, five hidden layers and the output (as in the public code of
            1Konny and in Pythae); or ``"hidden_only"``, six hidden layers and the output (as in
            disentanglement_lib).
        width: units of a hidden layer.
        logits: two, whose difference is the log-ratio, as in the paper; or one, which is the
            log-ratio itself and what `tutor.models.AAE` wants.

    Raises:
        ValueError: for another reading, sizes below 1, or another number of logits.

    Example:
        >>> sum(p.numel() for p in factor_vae_discriminator(10).parameters())
        4017002
        >>> factor_vae_discriminator(10)(torch.zeros(3, 10)).shape
        torch.Size([3, 2])
    """
    if six_layers not in _HIDDEN_LAYERS:
        raise ValueError(
            f'six_layers is {six_layers!r}; choose "with_output" (five hidden layers) or '
            '"hidden_only" (six)'
        )
    if logits not in (1, 2):
        raise ValueError(f"logits is {logits}; expected 2, one a class, or 1, their difference")
    _checked(latent_dim=latent_dim, width=width)
    hidden = [width] * _HIDDEN_LAYERS[six_layers]
    layers = mlp([latent_dim, *hidden, logits])
    return nn.Sequential(*(nn.LeakyReLU(0.2) if isinstance(m, nn.ReLU) else m for m in layers))


def _checked(*, channels: int = 1, hidden: int | None = None, **sizes: int) -> int:
    """The units of the middle layer, after a look at all sizes."""
    hidden = (128 if channels == 1 else 256) if hidden is None else hidden
    for name, size in {**sizes, "channels": channels, "hidden": hidden}.items():
        if size < 1:
            raise ValueError(f"{name} is {size}; expected at least 1")
    return hidden
