"""The convolutional networks of the Wasserstein autoencoder, for 28x28 and for 64x64 images.

Source: Tolstikhin et al. (arXiv 1711.01558), and the configuration that the authors published
with their code (batch normalisation, "same" padding, initial weights).  ``width`` is
the number of channels of the encoder's first layer, 128 in the paper; the others follow from it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tutor.nets.plain import mlp


def wae_encoder(
    image_shape: tuple[int, int, int] = (1, 28, 28),
    outputs: int = 8,
    *,
    width: int = 128,
    kernel_size: int = 4,
) -> nn.Sequential:
    """Images ``(n, C, H, W)`` to ``(n, outputs)``: four convolutions, each halving the sides.

    Channels ``width * (1, 2, 4, 8)``, batch normalisation and ReLU after each, then one linear
    layer.  An odd side is rounded up (28, 14, 7, 4, 2), as with the authors' "same" padding.

    Args:
        image_shape: ``(C, H, W)``.
        outputs: numbers that describe q(z|x): ``latent_dim``, or twice as many for a Gaussian.
        width: channels of the first layer.
        kernel_size: side of the filters: 4 for MNIST, 5 for CelebA.

    Raises:
        ValueError: for a width below 1, or images that are smaller than a filter.

    Example:
        >>> encoder = wae_encoder(outputs=8, width=4)
        >>> encoder(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 8])
    """
    channels, *sides = image_shape
    _check(width, min(sides), kernel_size)
    layers: list[nn.Module] = []
    for scale in (1, 2, 4, 8):
        layers += [
            nn.ZeroPad2d(_same(sides, kernel_size)),
            nn.Conv2d(channels, scale * width, kernel_size, stride=2),
            nn.BatchNorm2d(scale * width),
            nn.ReLU(),
        ]
        channels, sides = scale * width, [math.ceil(side / 2) for side in sides]
    layers += [nn.Flatten(), nn.Linear(channels * math.prod(sides), outputs)]
    return _initialised(nn.Sequential(*layers), 128 / width)


def wae_decoder(
    latent_dim: int = 8,
    image_shape: tuple[int, int, int] = (1, 28, 28),
    *,
    width: int = 128,
    kernel_size: int = 4,
    doublings: int = 2,
    sigmoid: bool = True,
) -> nn.Sequential:
    """Codes ``(n, latent_dim)`` to ``(n, C, H, W)``: a linear layer, then transposed convolutions.

    The linear layer makes ``8 * width`` channels of the smallest size (7x7 for MNIST).  Each
    doubling halves the channels and is followed by batch normalisation and ReLU; a last layer of
    stride 1 makes the image.

    Args:
        latent_dim: number of latent dimensions.
        image_shape: ``(C, H, W)``; H and W are multiples of ``2 ** doublings``.
        width: as in `wae_encoder`.
        kernel_size: side of the filters: 4 for MNIST, 5 for CelebA.
        doublings: layers that double the sides: 2 for MNIST, 3 for CelebA.
        sigmoid: end with a sigmoid, so that pixels are in (0, 1); without it the outputs are the
            logits that a Bernoulli likelihood wants.

    Raises:
        ValueError: for a width below 1, or sides that doubling can't reach.

    Example:
        >>> decoder = wae_decoder(latent_dim=8, width=4)
        >>> decoder(torch.zeros(3, 8)).shape
        torch.Size([3, 1, 28, 28])
    """
    channels, *sides = image_shape
    _check(width, min(sides), kernel_size)
    if any(side % 2**doublings for side in sides):
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; {doublings} doublings reach multiples of "
            f"{2**doublings} only: choose another number of doublings, or crop the images"
        )
    first = 8 * width
    start = (first, *(side // 2**doublings for side in sides))
    layers = [nn.Linear(latent_dim, math.prod(start)), nn.Unflatten(1, start), nn.ReLU()]
    for _ in range(doublings):
        layers += [_doubling(first, first // 2, kernel_size), nn.BatchNorm2d(first // 2), nn.ReLU()]
        first //= 2
    # A transposed convolution of stride 1 is a convolution with the filters turned over.
    before, after = kernel_size // 2, (kernel_size - 1) // 2
    layers += [nn.ZeroPad2d((before, after) * 2), nn.Conv2d(first, channels, kernel_size)]
    if sigmoid:
        layers.append(nn.Sigmoid())
    return _initialised(nn.Sequential(*layers), 128 / width)


def celeba_encoder(outputs: int = 64, *, width: int = 128) -> nn.Sequential:
    """`wae_encoder` for faces of shape (3, 64, 64): filters of 5x5.

    Example:
        >>> celeba_encoder(outputs=64, width=4)(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 64])
    """
    return wae_encoder((3, 64, 64), outputs, width=width, kernel_size=5)


def celeba_decoder(
    latent_dim: int = 64, *, width: int = 128, sigmoid: bool = True
) -> nn.Sequential:
    """`wae_decoder` for faces of shape (3, 64, 64): filters of 5x5, from 8x8 by three doublings.

    The authors scale pixels to [-1, 1] and end with tanh; here pixels are in [0, 1] and the end
    is a sigmoid.  Since ``tanh(h) = 2 sigmoid(2 h) - 1`` both make the same images; a squared
    error is a quarter of theirs.

    Example:
        >>> celeba_decoder(latent_dim=64, width=4)(torch.zeros(2, 64)).shape
        torch.Size([2, 3, 64, 64])
    """
    return wae_decoder(
        latent_dim, (3, 64, 64), width=width, kernel_size=5, doublings=3, sigmoid=sigmoid
    )


def wae_discriminator(latent_dim: int = 8, *, width: int = 512) -> nn.Sequential:
    """Codes ``(n, latent_dim)`` to logits ``(n, 1)``: four hidden layers of ReLU.

    512 units in each for MNIST, 1024 in the authors' configuration for CelebA.

    Raises:
        ValueError: for a width below 1.

    Example:
        >>> wae_discriminator(latent_dim=8)(torch.zeros(3, 8)).shape
        torch.Size([3, 1])
    """
    if width < 1:
        raise ValueError(f"width is {width}; a layer needs at least one unit")
    return _initialised(nn.Sequential(*mlp([latent_dim, *[width] * 4, 1])), 512 / width)


class KnownPriorDiscriminator(nn.Module):
    """A discriminator that is told the prior's density: logit ``log p(z) - f(z)``.

    The best logit is log p(z) - log q(z), and p(z) is known.  So only log q(z) has to be learnt.
    The authors use it on CelebA, not on MNIST, and credit the idea to Mescheder et al.

    Args:
        prior: has ``log_prob``.
        network: codes ``(n, dim)`` to ``(n, 1)``, the estimate f of log q(z).

    Raises:
        TypeError: for a prior without a density.

    Example:
        >>> from tutor.priors import Gaussian
        >>> told = KnownPriorDiscriminator(Gaussian(64), wae_discriminator(64, width=16))
        >>> told(torch.zeros(3, 64)).shape
        torch.Size([3, 1])
    """

    def __init__(self, prior: nn.Module, network: nn.Module) -> None:
        super().__init__()
        if not callable(getattr(prior, "log_prob", None)):
            raise TypeError(
                f"{type(prior).__name__} has no log_prob; this discriminator needs the prior's "
                "density: give the network itself as the discriminator"
            )
        self.prior, self.network = prior, network

    def forward(self, z: Tensor) -> Tensor:
        return self.prior.log_prob(z).unsqueeze(1) - self.network(z)


def _same(sides: list[int], kernel_size: int) -> tuple[int, int, int, int]:
    """Padding left, right, top, bottom with which stride 2 gives half the side, rounded up."""
    pads: list[int] = []
    for side in reversed(sides):  # torch names the last axis first
        total = max(2 * (math.ceil(side / 2) - 1) + kernel_size - side, 0)
        pads += [total // 2, total - total // 2]
    return tuple(pads)


def _doubling(inputs: int, outputs: int, kernel_size: int) -> nn.ConvTranspose2d:
    odd = kernel_size % 2
    return nn.ConvTranspose2d(
        inputs,
        outputs,
        kernel_size,
        stride=2,
        padding=kernel_size // 2 - 1 + odd,
        output_padding=odd,
    )


def _check(width: int, side: int, kernel_size: int) -> None:
    if width < 1:
        raise ValueError(f"width is {width}; a layer needs at least one channel")
    if side < kernel_size:
        raise ValueError(
            f"the images' shorter side is {side}, below the filters' {kernel_size}; use "
            "tutor.nets.mlp_encoder and mlp_decoder for images of a few pixels"
        )


@torch.no_grad()
def _initialised(net: nn.Sequential, narrower: float) -> nn.Sequential:
    """Weights from N(0, 0.01^2) as in the paper, biases zero; larger weights in narrower networks.

    A unit adds up inputs in proportion to the width, so their spread grows with its square root.
    Without the correction a narrow network would start below the epsilon of batch normalisation.
    """
    std = 0.01 * math.sqrt(max(narrower, 1))
    for layer in net:
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.normal_(std=std)
            layer.bias.zero_()
    return net
