"""Contest (a): a fully connected VAE, 784-512-2, on MNIST with batches of 128."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils.data import TensorDataset

import tutor
from benchmarks import peers, pythae_trainer
from benchmarks.peers import BATCH, reparameterised
from benchmarks.race import Contestant
from tutor.models import VAE
from tutor.nets import mlp_decoder, mlp_encoder

SHAPE = (1, 28, 28)


def make_model() -> VAE:
    """784-512-2 and back: 0.8 million weights."""
    torch.manual_seed(0)
    encoder, decoder = mlp_encoder(SHAPE, 4, (512,)), mlp_decoder(2, SHAPE, (512,))
    return VAE(2, encoder=encoder, decoder=decoder)


def contestants(steps: int) -> list[Contestant]:
    """All loops, each with its own copy of the same first weights; ``steps`` a round."""
    data = tutor.data.load("mnist", fallback="digits")
    images, first = data[:], make_model()
    check_same_loss(first, images[:BATCH])
    found = peers.ours(first, data, steps)
    few = images[torch.randperm(len(images))[: steps * BATCH]]
    found.append(pythae_trainer.vae(copy.deepcopy(first), few))
    found.append(disentangling_vae(copy.deepcopy(first), images))
    found.append(plain_loop(copy.deepcopy(first), images))
    found.append(bare_loop(copy.deepcopy(first), data))
    return found


def bare_loop(model: VAE, data: tutor.data.Dataset) -> Contestant:
    """What torch leaves to gain: nothing is checked, recorded or read out."""
    optimizer = Adam(model.parameters(), lr=1e-3, fused=True)

    def train(steps: int) -> None:
        for _ in range(steps):
            index = torch.randint(len(data), (BATCH,))
            loss = loss_from_logits(model, data.images.index_select(0, index).float().div_(255))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return Contestant("bare loop", "our own: fused Adam, no checks, nothing read out", train)


def plain_loop(model: VAE, images: Tensor) -> Contestant:
    """What a tutorial writes: a DataLoader over a float tensor, Adam with its defaults."""
    optimizer = Adam(model.parameters(), lr=1e-3)

    def step(batch: list[Tensor]) -> float:
        (x,) = batch
        loss = loss_from_logits(model, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    train = peers.steps_over(peers.endless(TensorDataset(images)), step)
    return Contestant("plain loop, DataLoader", "our own, as tutorials write it", train)


def disentangling_vae(model: VAE, images: Tensor) -> Contestant:
    """A stand-in for the loop of disentangling-vae, from its published settings.

    Pictures through PIL one by one, a decoder that ends in a sigmoid, Adam at 5e-4, the loss read
    out every step and written into a progress bar.  Their images are enlarged to 32x32; here
    they are not.
    """
    optimizer = Adam(model.parameters(), lr=5e-4)
    bar = peers.progress_bar()

    def step(batch: list[Tensor]) -> float:
        loss = loss_from_probabilities(model, batch[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        bar.set_postfix(loss=loss.item())
        bar.update()
        return loss.item()

    train = peers.steps_over(peers.endless(peers.PictureSet(images)), step)
    return Contestant("disentangling-vae", "stand-in, our own code", train)


def loss_from_logits(model: VAE, x: Tensor) -> Tensor:
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    logits = model.decoder(reparameterised(mean, log_var))
    return peers.negative_elbo_from_logits(x, logits, mean, log_var)


def loss_from_probabilities(model: VAE, x: Tensor) -> Tensor:
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    probabilities = model.decoder(reparameterised(mean, log_var)).sigmoid()
    return peers.negative_elbo_from_probabilities(x, probabilities, mean, log_var)


def check_same_loss(model: VAE, x: Tensor) -> None:
    """All loops minimise one function: equal at the same weights, images and noise.

    float32 sums over 100 000 pixels in another order differ by some 1e-6 of the sum.
    """
    losses = [
        lambda: next(iter(model.step(x))).loss,
        lambda: loss_from_logits(model, x),
        lambda: loss_from_probabilities(model, x),
        lambda: pythae_trainer.vae_loss(model, x),
    ]
    values = []
    for loss in losses:
        torch.manual_seed(0)
        values.append(loss())
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-5, atol=0)
