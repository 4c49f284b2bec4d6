"""Contest (b): FactorVAE on 64x64 sprites, two batches of 64 a step, networks of the paper."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import TensorDataset

import tutor
from benchmarks import peers, pythae_trainer
from benchmarks.peers import BATCH, reparameterised
from benchmarks.race import Contestant
from tutor.divergences import permute_dims
from tutor.models import FactorVAE

GAMMA = 10.0
IMAGES = 20_000  # of the 737 280 sprites: other loops keep them as floats


def make_model() -> FactorVAE:
    """The paper's networks: z of 10, a discriminator of six layers of 1000."""
    torch.manual_seed(0)
    return FactorVAE(10, gamma=GAMMA)


def contestants(steps: int) -> list[Contestant]:
    """All loops, each with its own copy of the same first weights; ``steps`` a round."""
    sprites = tutor.data.load("dsprites")
    g = torch.Generator().manual_seed(0)
    data = sprites.subset(torch.randperm(len(sprites), generator=g)[:IMAGES])
    images, first = data[:], make_model()
    check_same_losses(first, images[0])
    found = peers.ours(first, data, steps)
    found.append(pythae_trainer.factor_vae(peers.plain(first), images[: steps * BATCH]))
    found.append(disentangling_vae(peers.plain(first), images))
    found.append(konny(peers.plain(first), images))
    found.append(plain_loop(peers.plain(first), images))
    return found


class Together:
    """Both losses from one graph: every loop here but tutor's works on it.

    The discriminator's loss reaches the encoder as well, a gradient that is computed and then
    thrown away.  Both gradients are taken before either player moves.
    """

    def __init__(self, model: FactorVAE, rates: tuple[float, float], from_logits: bool) -> None:
        self.model, self.from_logits = model, from_logits
        both = [*model.encoder.parameters(), *model.decoder.parameters()]
        self.autoencoder = Adam(both, lr=rates[0])
        self.discriminator = Adam(model.discriminator.parameters(), lr=rates[1], betas=(0.5, 0.9))

    def step(self, x: Tensor, others: Tensor) -> float:
        loss, judge = two_losses(self.model, x, others, self.from_logits)
        self.autoencoder.zero_grad()
        loss.backward(retain_graph=True)
        self.discriminator.zero_grad()
        judge.backward()
        self.autoencoder.step()
        self.discriminator.step()
        return loss.item()


def two_losses(
    model: FactorVAE, x: Tensor, others: Tensor, from_logits: bool
) -> tuple[Tensor, Tensor]:
    """The autoencoder's loss and the discriminator's, as public code writes them."""
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    z = reparameterised(mean, log_var)
    out = model.decoder(z)
    if from_logits:
        elbo = peers.negative_elbo_from_logits(x, out, mean, log_var)
    else:
        elbo = peers.negative_elbo_from_probabilities(x, out.sigmoid(), mean, log_var)
    scores = model.discriminator(z)
    loss = elbo + model.gamma * (scores[:, 0] - scores[:, 1]).mean()
    permuted = permute_dims(reparameterised(*model.encoder(others).chunk(2, dim=1))).detach()
    real = torch.zeros(len(x), dtype=torch.long)
    judge = F.cross_entropy(scores, real)
    judge = judge + F.cross_entropy(model.discriminator(permuted), torch.ones_like(real))
    return loss, 0.5 * judge


def plain_loop(model: FactorVAE, images: Tensor) -> Contestant:
    """A DataLoader over a float tensor, Adam with its defaults, likelihood from logits."""
    game = Together(model, (1e-3, 1e-3), from_logits=True)
    batches = peers.endless(TensorDataset(images))
    train = peers.steps_over(batches, lambda batch: game.step(*batch[0].chunk(2)))
    return Contestant("plain loop, DataLoader", "our own, as public code writes it", train)


def disentangling_vae(model: FactorVAE, images: Tensor) -> Contestant:
    """A stand-in for the loop of disentangling-vae, from its published settings.

    Batches of 128 of which each half is used once; arrays of bytes converted one by one; a decoder
    that ends in a sigmoid.  Its trainer first runs the whole model on the whole batch and throws
    that away, because only then the loss says that it brings its own optimisers.
    """
    game = Together(model, (5e-4, 5e-5), from_logits=False)
    bar = peers.progress_bar()

    def step(batch: list[Tensor]) -> float:
        mean, log_var = model.encoder(batch[0]).chunk(2, dim=1)
        model.decoder(reparameterised(mean, log_var)).sigmoid()  # thrown away
        loss = game.step(*batch[0].chunk(2))
        bar.set_postfix(loss=loss)
        bar.update()
        return loss

    train = peers.steps_over(peers.endless(peers.ArraySet(images)), step)
    return Contestant("disentangling-vae", "stand-in, our own code", train)


def konny(model: FactorVAE, images: Tensor) -> Contestant:
    """A stand-in for 1Konny's loop, from its published settings.

    Pairs of float images, batches of 64, Adam at 1e-4, likelihood from logits.  As published it
    moves the autoencoder before the discriminator's backward pass, which today's torch refuses;
    so both gradients come first.
    """
    game = Together(model, (1e-4, 1e-4), from_logits=True)
    bar = peers.progress_bar()

    def step(batch: list[Tensor]) -> float:
        bar.update()
        return game.step(*batch)

    batches = peers.endless(peers.PairSet(images), BATCH // 2)
    return Contestant("1Konny", "stand-in, our own code", peers.steps_over(batches, step))


def check_same_losses(model: FactorVAE, image: Tensor) -> None:
    """All loops play one game: equal losses of both players at the same weights and noise.

    The noise is turned down until codes are their means, and all images of the batch are one:
    then neither the order of draws, nor the halves, nor the permutation matters.  A
    discriminator's loss that is a mean over both halves is half of one that is their sum; Adam
    does not feel the factor.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.encoder[-1].weight[10:] = 0.0
        model.encoder[-1].bias[10:] = -60.0
    batch = image.expand(8, -1, -1, -1).contiguous()
    turns = [turn.loss.detach() for turn in model.step(batch)]
    wanted = turns[0], 0.5 * turns[1]
    peers_losses: list[Callable[[], tuple[Tensor, Tensor]]] = [
        lambda: two_losses(model, *batch.chunk(2), from_logits=True),
        lambda: two_losses(model, *batch.chunk(2), from_logits=False),
        lambda: pythae_trainer.factor_vae_losses(model, batch),
    ]
    for losses in peers_losses:
        for value, want in zip(losses(), wanted, strict=True):
            torch.testing.assert_close(value.detach(), want, rtol=1e-5, atol=1e-6)
