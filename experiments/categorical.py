"""What the experiments on codes with a class share: the networks, the rates, the split.

The paper's networks have two hidden layers of 1000 units, ours of 400: with 1000 a round takes
more than twice as long on one core.  Noise on the pixels, batch normalisation and dropout in the
encoder, and all rates, were chosen on the last 10 000 training images, which no model is trained
on; the runs compared there had 1 500 rounds and seed 0.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import tutor
from tutor.data import Dataset
from tutor.game import Model
from tutor.nets import mlp, mlp_decoder

SHAPE, WIDTH, JUDGE = (1, 28, 28), 400, 128
BATCH = 100


class PixelNoise(nn.Module):
    """Adds Gaussian noise to the images of a training batch, and nothing afterwards."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        return f"std={self.std}"


class GumbelNoise(nn.Module):
    """Adds Gumbel noise to the first ``classes`` outputs while training, and nothing afterwards.

    The largest of logits with this noise is a draw from their softmax (the Gumbel-max trick), and
    their softmax a soft draw.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, out: Tensor) -> Tensor:
        if not self.training:
            return out
        noise = torch.zeros_like(out)
        noise[:, : self.classes] = -torch.empty_like(noise[:, : self.classes]).exponential_().log()
        return out + noise

    def extra_repr(self) -> str:
        return f"classes={self.classes}"


def encoder(outputs: int, *, noise: float, dropout: float, drawn: int = 0) -> nn.Sequential:
    """784-400-400 with noise on the pixels, batch normalisation, and dropout of hidden units.

    The first ``drawn`` outputs get Gumbel noise.
    """
    layers: list[nn.Module] = [nn.Flatten(), PixelNoise(noise)]
    for inputs in (784, WIDTH):
        layers += [nn.Linear(inputs, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(), nn.Dropout(dropout)]
    layers.append(nn.Linear(WIDTH, outputs))
    return nn.Sequential(*layers, GumbelNoise(drawn)) if drawn else nn.Sequential(*layers)


def decoder(inputs: int) -> nn.Sequential:
    return mlp_decoder(inputs, SHAPE, (WIDTH, WIDTH))


def discriminator(inputs: int) -> nn.Sequential:
    return nn.Sequential(*mlp([inputs, JUDGE, JUDGE, 1]))


def optimizers(model: Model, rate: float) -> dict[str, partial]:
    return dict.fromkeys(model.players, partial(torch.optim.Adam, lr=rate, fused=True))


def splits() -> tuple[Dataset, Dataset, Dataset]:
    """50 000 images to train on, 10 000 to choose settings on, and the 10 000 of the test set."""
    images = tutor.data.load("mnist")
    return (
        images.subset(slice(0, 50_000)),
        images.subset(slice(50_000, 60_000)),
        tutor.data.load("mnist", split="test"),
    )


def percent(wrong: Tensor) -> float:
    """The mean of truth values, in percent."""
    return 100 * wrong.double().mean().item()
