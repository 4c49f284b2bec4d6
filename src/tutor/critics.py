"""Networks T(x, z) that tell posterior samples from prior samples, image and code together.

A critic is any module called with images ``(n, C, H, W)`` and codes ``(n, dim)`` that returns one
number a pair, ``(n,)``: an estimate of log q(z|x) - log p(z).  A critic that ignored the image
would compare the *aggregate* posterior with the prior, which is an adversarial autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tutor.nets import mlp


class BilinearCritic(nn.Module):
    """``T(x, z) = theta(x) . s(z) + T_x(x) + T_z(z)``: two networks that meet in a scalar product.

    The form suits the task: where q(z|x) belongs to an exponential family, the log-ratio *is*
    bilinear in parameters of x and statistics of z (for a diagonal Gaussian, z and z^2).  Source:
    the critic of Mescheder et al. (arXiv 1701.04722) on MNIST, where the four networks are wider
    and share nothing; here theta and T_x share their hidden layers, as do s and T_z.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: number of latent dimensions.
        image_hidden: widths of the hidden layers on the image.
        code_hidden: widths of the hidden layers on the code.
        features: number of terms in the scalar product.

    Example:
        >>> critic = BilinearCritic((1, 28, 28), 2)
        >>> critic(torch.rand(5, 1, 28, 28), torch.randn(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self,
        image_shape: tuple[int, ...],
        latent_dim: int,
        *,
        image_hidden: Sequence[int] = (256,),
        code_hidden: Sequence[int] = (256, 256),
        features: int = 128,
    ) -> None:
        super().__init__()
        sizes = [math.prod(image_shape), *image_hidden, features + 1]
        self.of_image = nn.Sequential(nn.Flatten(), *mlp(sizes, nn.LeakyReLU))
        self.of_code = nn.Sequential(*mlp([latent_dim, *code_hidden, features + 1], nn.LeakyReLU))

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        image, code = self.of_image(x), self.of_code(z)  # (n, features + 1) each
        return (image[:, 1:] * code[:, 1:]).sum(1) + image[:, 0] + code[:, 0]


class ResidualCritic(nn.Module):
    """Image and code side by side through residual blocks, for images of a few pixels.

    Each block adds to what it is given, and starts by adding nothing (its last layer is zero), so
    that a deep critic starts as a shallow one.  Source: the critic of Mescheder et al.
    (arXiv 1701.04722) in their synthetic experiment, there with width 256 and five blocks.

    Args:
        image_shape: ``(C, H, W)`` of the images.
        latent_dim: number of latent dimensions.
        width: numbers in each layer.
        blocks: number of residual blocks.

    Example:
        >>> critic = ResidualCritic((1, 2, 2), 2)
        >>> critic(torch.rand(5, 1, 2, 2), torch.randn(5, 2)).shape
        torch.Size([5])
    """

    def __init__(
        self, image_shape: tuple[int, ...], latent_dim: int, *, width: int = 128, blocks: int = 2
    ) -> None:
        super().__init__()
        self.first = nn.Linear(math.prod(image_shape) + latent_dim, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ELU(), nn.Linear(width, width), nn.ELU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.ELU(), nn.Linear(width, 1))
        for block in self.blocks:
            nn.init.zeros_(block[-1].weight)
            nn.init.zeros_(block[-1].bias)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        h = self.first(torch.cat([x.flatten(1), z], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.last(h).squeeze(1)
