"""What the contests share: our own loops, and how other code feeds and writes a VAE.

The latter is our own code too, written after what those projects do; none of it is theirs.
"""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import tutor
from benchmarks.race import Contestant
from tutor import Model
from tutor.nets.quick import Doubling, InPlaceReLU
from tutor.training import playing

BATCH = 128


def ours(first: Model, data: tutor.data.Dataset, steps: int) -> list[Contestant]:
    """The loop of `tutor.fit` in both precisions, each on its own copy of the same first weights.

    One long training each, which pauses after every ``steps``: the other loops, too, keep their
    optimisers from round to round.
    """
    found = []
    for precision in ("float32", "bf16"):
        game = playing(
            copy.deepcopy(first), data, steps=10**9, batch_size=BATCH, where=torch.device("cpu"),
            checkpoint_every=steps, precision=precision, progress=False,
        )  # fmt: skip

        def train(asked: int, game: Iterator[int] = game) -> None:
            if asked != steps:
                raise ValueError(f"this loop pauses after {steps} steps, asked for {asked}")
            while next(game) % steps:  # it pauses at the end of a window as well
                pass

        found.append(Contestant(f"tutor.fit, {precision}", "this package", train))
    return found


def negative_elbo_from_logits(x: Tensor, logits: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """Summed over pixels and codes, mean over the batch; the likelihood from logits."""
    error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    return (error + kl(mean, log_var).sum()) / len(x)


def negative_elbo_from_probabilities(
    x: Tensor, probabilities: Tensor, mean: Tensor, log_var: Tensor
) -> Tensor:
    """The same number, the way of decoders that end in a sigmoid."""
    error = F.binary_cross_entropy(probabilities, x, reduction="sum")
    return (error + kl(mean, log_var).sum()) / len(x)


def kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(q(z|x) || N(0, I)) of each image."""
    return -0.5 * (1 + log_var - mean.pow(2) - log_var.exp()).sum(1)


def reparameterised(mean: Tensor, log_var: Tensor) -> Tensor:
    return mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)


class PictureSet(Dataset):
    """Bytes that become a PIL image, then a float tensor, one by one: torchvision's MNIST."""

    def __init__(self, images: Tensor) -> None:
        self.bytes = (images[:, 0] * 255).to(torch.uint8).numpy()

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        picture = Image.fromarray(self.bytes[index])
        return from_bytes(np.asarray(picture)[..., None]), 0


class ArraySet(Dataset):
    """Bytes of 0 and 1 that become a float tensor one by one: disentangling-vae's dSprites."""

    def __init__(self, images: Tensor) -> None:
        self.bytes = images[:, 0].to(torch.uint8).numpy()

    def __len__(self) -> int:
        return len(self.bytes)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return from_bytes(self.bytes[index][..., None] * 255), 0


class PairSet(Dataset):
    """A float image and another one drawn at random: 1Konny's FactorVAE."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        other = int(torch.randint(len(self.images), ()))
        return self.images[index], self.images[other]


def from_bytes(array: np.ndarray) -> Tensor:
    """``(H, W, C)`` in 0..255 to ``(C, H, W)`` in [0, 1], as torchvision's ToTensor."""
    return torch.from_numpy(array.transpose(2, 0, 1).copy()).to(torch.float32).div(255)


def endless(dataset: Dataset, batch_size: int = BATCH) -> Iterator[list[Tensor]]:
    """Shuffled batches of a DataLoader in the main process, epoch after epoch."""
    loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def steps_over(batches: Iterable[object], step: Callable[[object], float]) -> Callable[[int], None]:
    """A contestant's ``train``: that many batches, each loss read out as these loops do."""
    batches, total = iter(batches), 0.0

    def train(steps: int) -> None:
        nonlocal total
        for batch in itertools.islice(batches, steps):
            total += step(batch)
        if total != total:
            raise ArithmeticError("a loss is NaN")

    return train


def progress_bar() -> tqdm:
    """A bar that nobody sees, at the price of one that is seen."""
    return tqdm(file=io.StringIO())


def plain(model: Model) -> Model:
    """The same networks as a plain script builds them: torch's own layers, default memory order.

    `tutor.nets.quick` computes transposed convolutions and ReLUs its own way; whoever takes
    another library does not get it.  Weights and functions stay what they are.
    """
    model = copy.deepcopy(model)
    for net in list(model.modules()):
        for name, layer in list(net.named_children()):
            if isinstance(layer, Doubling):
                usual = nn.ConvTranspose2d(layer.in_channels, layer.out_channels, 4, 2, 1)
                usual.load_state_dict(layer.state_dict())
                setattr(net, name, usual)
            elif isinstance(layer, InPlaceReLU):
                setattr(net, name, nn.ReLU())
    return model.to(memory_format=torch.contiguous_format)
