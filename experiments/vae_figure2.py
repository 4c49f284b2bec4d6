"""Kingma & Welling, figure 2: the bound on MNIST for several latent sizes.

Their network (one hidden layer of 500 tanh units), batch 100, one sample, Adagrad with the rate
chosen from {0.01, 0.02, 0.1} by early performance, and a schedule shorter than theirs.  Images are
binarised at every fetch while training; the two sets on which the bound is measured are drawn once.

    python -m experiments.vae_figure2
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

import tutor
from experiments.runs import do_all
from tutor.metrics.likelihood import elbo
from tutor.models import VAE
from tutor.nets import mlp_decoder, mlp_encoder

SIZES = (3, 5, 10, 20, 200)
RATES = (0.01, 0.02, 0.1)
TRIAL, STEPS, IMAGES = 500, 10_000, 10_000


def paper_vae(latent_dim: int, hidden: int = 500) -> VAE:
    """Gaussian MLP encoder and Bernoulli MLP decoder of the paper's appendix C."""
    torch.manual_seed(0)
    shape = (1, 28, 28)
    model = VAE(
        latent_dim,
        encoder=mlp_encoder(shape, 2 * latent_dim, (hidden,), nn.Tanh),
        decoder=mlp_decoder(latent_dim, shape, (hidden,), nn.Tanh),
    )
    for parameter in model.parameters():  # the paper writes N(0, 0.01): a standard deviation of 0.1
        nn.init.normal_(parameter, std=0.1)
    return model


def bound(model: VAE, x: torch.Tensor) -> float:
    return elbo(model, x, generator=torch.Generator().manual_seed(0)).mean().item()


def run(latent_dim: int, checkpoint: Path) -> dict[str, float]:
    data = tutor.data.load("mnist").binarized_each_time()
    train = tutor.data.load("mnist").binarized(seed=0)[:IMAGES]
    test = tutor.data.load("mnist", split="test").binarized(seed=0)[:IMAGES]
    fit = partial(tutor.fit, dataset=data, batch_size=100, progress=False)
    trials = {}
    for rate in RATES:
        model = paper_vae(latent_dim)
        fit(model, steps=TRIAL, optimizer=partial(torch.optim.Adagrad, lr=rate))
        trials[rate] = bound(model, train)
    best = max(trials, key=trials.__getitem__)
    model = paper_vae(latent_dim)
    fit(
        model,
        steps=STEPS,
        optimizer=partial(torch.optim.Adagrad, lr=best),
        checkpoint=checkpoint,
        checkpoint_every=5_000,
    )
    return {
        "learning_rate": best,
        "train_bound": bound(model, train),
        "test_bound": bound(model, test),
    }


def main() -> None:
    settings = [{"latent_dim": size} for size in SIZES]
    do_all("vae_figure2", settings, run, steps=STEPS, batch_size=100, images=IMAGES, seed=0)


if __name__ == "__main__":
    main()
