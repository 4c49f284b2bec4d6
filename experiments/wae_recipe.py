"""What the WAE experiments share: networks, optimisers, schedule, pre-training, measurements.

Source: Tolstikhin et al. (arXiv 1711.01558) and the configuration in the authors' code.  Left out:
the noise of standard deviation 0.01 that they add to the encoder's input while training.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

import tutor
from tutor.game import evaluating
from tutor.kernels import imq, mmd, prior_scales
from tutor.metrics import digit_features, frechet_distance, noise_floor, prior_match, sharpness
from tutor.models import WAE
from tutor.models.autoencoder import Autoencoder

METHODS = ("vae", "wae_mmd", "wae_gan")


def schedule(t: float) -> float:
    """Half the rates after 30 % of the steps, a fifth after 50 %.

    The authors' go to a half and a tenth at these places of 100 epochs; a tenth would stop a run
    of ten epochs too early.
    """
    return 1.0 if t < 0.3 else 0.5 if t < 0.5 else 0.2


def optimizers(model: Autoencoder, rate: float, critic_rate: float) -> dict[str, Any]:
    rates = {"autoencoder": rate, "discriminator": critic_rate}
    return {
        player: partial(Adam, lr=rates[player], betas=(0.5, 0.999), fused=True)
        for player in model.players
    }


STARTS = {"narrow": -4.0, "wide": 0.0}
"""Log-variance of q(z|x) before training: standard deviations of 0.14 and 1."""


@torch.no_grad()
def start_posteriors(model: Autoencoder, start: str) -> None:
    """Set the first log-variances of a Gaussian encoder through the bias of its last layer.

    It decides where a WAE ends.  From "wide" every q(z|x) is about the prior, so the mixture is
    too: the penalty is at its minimum, nothing of the image is in the code, and a large lambda
    holds it there.
    """
    model.encoder[-1].bias[model.latent_dim :] = STARTS[start]


def moment_loss(codes: Tensor, z: Tensor) -> Tensor:
    """Mean squared differences of means and of covariances, between codes and prior samples."""
    means = (codes.mean(0) - z.mean(0)).square().mean()
    return means + (codes.T.cov() - z.T.cov()).square().mean()


def pretrain(
    model: WAE, data: Any, *, batch_size: int, rate: float, steps: int = 200, enough: float = 0.1
) -> int:
    """Bring the codes' mean and covariance near the prior's; returns the steps it took.

    The authors do so before training: codes that start as a point far from the prior would get
    no useful gradient from the penalty.
    """
    g = torch.Generator().manual_seed(0)
    draw = torch.Generator(model.device).manual_seed(0)
    optimizer = Adam(model.encoder.parameters(), lr=rate, betas=(0.5, 0.999), fused=True)
    model.train()
    for step in range(steps):
        index = torch.randint(len(data), (batch_size,), generator=g)
        x = data.take(index).to(model.device)
        codes = model.encode(x).rsample()
        z = model.prior.sample((batch_size,), generator=draw)
        loss = moment_loss(codes, z)
        if loss < enough:
            return step
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return steps


@torch.no_grad()
def images_of(model: Autoencoder, x: Tensor, seed: int, n: int) -> dict[str, Tensor]:
    """Codes drawn for x, reconstructions from the codes' means, and n samples, on the CPU."""
    g = torch.Generator(model.device).manual_seed(seed)
    codes, back, samples = [], [], []
    with evaluating(model):
        for some in x.split(500):
            q = model.encode(some.to(model.device))
            codes.append(q.sample(generator=g).cpu())
            back.append(model.decode(q.mean).mean.cpu())
        for count in [500] * (n // 500) + [n % 500] * (n % 500 > 0):
            samples.append(model.sample(count, generator=g).cpu())
    # A decoder without a sigmoid may leave [0, 1] by a little; an image can't.
    return {
        "codes": torch.cat(codes),
        "reconstructions": torch.cat(back).clamp(0, 1),
        "samples": torch.cat(samples).clamp(0, 1),
    }


def code_match(codes: Tensor, prior: nn.Module, seed: int, block: int = 1_000) -> dict[str, float]:
    """Energy distance, MMD with the paper's kernel, and a classifier: codes against the prior.

    Each in blocks of that many codes, beside what the prior has to itself (for the MMD, whose mean
    is then 0, the standard deviation).
    """
    g = torch.Generator().manual_seed(seed)
    match = prior_match(codes, prior, n=block, generator=g)
    distance = partial(mmd, kernel=imq(prior_scales(codes.shape[1])))

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return prior.sample((n,), generator=generator)

    order = torch.randperm(len(codes), generator=g)
    values = [distance(some, draw(block, g)) for some in codes[order].split(block)]
    null = noise_floor(distance, draw, block, repeats=20, generator=g)
    return {
        "energy": match.energy,
        "energy_floor": match.energy_floor,
        "energy_ratio": match.ratio,
        "classifier_accuracy": match.accuracy,
        "mmd": torch.stack(values).mean().item(),
        "mmd_null_std": null.std.item(),
    }


def digit_floor(n: int, seed: int = 0) -> dict[str, float]:
    """What real digits give: n training images, at random, against the n first test images."""
    train, test = tutor.data.load("mnist"), tutor.data.load("mnist", split="test")[:n]
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    distance = frechet_distance(digit_features(train[order[:n]]), digit_features(test))
    return {"frechet": distance.item(), "sharpness": sharpness(test).mean().item()}


def measure_digits(model: Autoencoder, seed: int, n: int = 10_000) -> dict[str, float | int]:
    """All figures of a row, on the first n test images of MNIST and n samples of the model."""
    x = tutor.data.load("mnist", split="test")[:n]
    made = images_of(model, x, seed, n)
    real = digit_features(x)
    return {
        "images": n,
        "squared_error": (made["reconstructions"] - x).square().flatten(1).sum(1).mean().item(),
        "frechet_samples": frechet_distance(digit_features(made["samples"]), real).item(),
        "frechet_reconstructions": frechet_distance(
            digit_features(made["reconstructions"]), real
        ).item(),
        "sharpness_samples": sharpness(made["samples"]).mean().item(),
        "sharpness_reconstructions": sharpness(made["reconstructions"]).mean().item(),
        **code_match(made["codes"], model.prior, seed),
    }
