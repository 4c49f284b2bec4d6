"""A world of small sprites in which everything can be counted: scores, rates and total correlation.

The 4 608 images are sprites without their turns: 3 shapes, 6 sizes, 16 by 16 positions (every
second one), averaged over squares of 4 by 4 pixels to 16 by 16 grey values, which are taken as
probabilities of white.  Networks are small and fully connected.  The data set is finite, so q(z) is
a known mixture, and each part of the rate is computed from it, not estimated from a batch.

    python -m experiments.small_sprites
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.optim import Adam

import tutor
from experiments.runs import do_all
from tutor.data import Dataset, render_dsprites
from tutor.game import Model, evaluating
from tutor.metrics import beta_vae_score, factor_vae_score, mig, surgery_monte_carlo
from tutor.models import BetaVAE, FactorVAE
from tutor.nets import mlp, mlp_decoder, mlp_encoder
from tutor.training import decay_after

NAMES, SIZES = ("shape", "scale", "x", "y"), (3, 6, 16, 16)
LATENT, BATCH, STEPS, RATE, WIDTH = 6, 64, 6_000, 1e-3, 256
WEIGHTS = {"beta-vae": (1.0, 2.0, 4.0, 8.0), "factor-vae": (5.0, 10.0, 20.0, 50.0)}
SEEDS = (0, 1)


def world() -> Dataset:
    """The small sprites with their four factors."""
    factors = torch.cartesian_prod(*map(torch.arange, SIZES))
    shape, scale, x, y = factors.T
    full = torch.stack([shape, scale, torch.zeros_like(x), 2 * x, 2 * y], 1)
    data = Dataset(avg_pool2d(render_dsprites(full), 4), name="small sprites")
    data.factors, data.factor_names, data.factor_sizes = factors, NAMES, SIZES
    return data


def build(method: str, weight: float, shape: tuple[int, ...]) -> Model:
    networks: dict[str, Any] = {
        "encoder": mlp_encoder(shape, 2 * LATENT, (WIDTH, WIDTH)),
        "decoder": mlp_decoder(LATENT, shape, (WIDTH, WIDTH)),
        "image_shape": shape,
    }
    if method == "beta-vae":
        return BetaVAE(LATENT, beta=weight, **networks)
    judge = nn.Sequential(*mlp([LATENT, WIDTH, WIDTH, WIDTH, 1], nn.LeakyReLU))
    return FactorVAE(LATENT, gamma=weight, discriminator=judge, **networks)


def train(
    model: Model, data: Dataset, seed: int, steps: int = STEPS, precision: str = "float32"
) -> None:
    twice = 2 if isinstance(model, FactorVAE) else 1  # it splits its batch into two
    rates = dict.fromkeys(model.players, partial(Adam, lr=RATE, fused=True))
    if twice == 2:
        rates["discriminator"] = partial(Adam, lr=RATE, betas=(0.5, 0.9), fused=True)
    tutor.fit(
        model,
        data,
        steps=steps,
        batch_size=twice * BATCH,
        seed=seed,
        optimizer=rates,
        schedule=decay_after(0.5),
        precision=precision,
        device="cpu",
        progress=False,
    )


def measure(model: Model, data: Dataset, seed: int) -> dict[str, float | None]:
    g = torch.Generator().manual_seed(seed)
    with evaluating(model):
        q = model.encode(data[:])
        z = q.sample(generator=g)
        error = -model.decode(z).log_prob(data[:]).mean().item()
    parts = surgery_monte_carlo(q, samples=2_000, generator=g).value
    row = {
        "reconstruction": error,
        "rate": parts.rate.item(),
        "mutual_information": parts.mutual_information.item(),
        "total_correlation": parts.total_correlation.item(),
        "dimension_kl": parts.dimension_kl.sum().item(),
        "discriminator_tc": claimed(model, z),
    }
    if q.mean.std(0).max() < 0.05:  # everything has collapsed: there is nothing to score
        return row | dict.fromkeys(("factor_vae_score", "beta_vae_score", "mig")) | {"active": 0}
    votes = factor_vae_score(q.mean, data, protocol="library", generator=g)
    return row | {
        "factor_vae_score": votes.score,
        "beta_vae_score": beta_vae_score(q.mean, data, train=2_000, test=2_000, generator=g).score,
        "mig": mig(q.mean, data).score,
        "active": int(votes.active.sum()),
    }


@torch.no_grad()
def claimed(model: Model, z: Tensor) -> float | None:
    """What the discriminator says of the total correlation; None where there is none."""
    return model.log_ratio(z).mean().item() if isinstance(model, FactorVAE) else None


def run(method: str, weight: float, seed: int) -> dict[str, float | None]:
    data = world()
    torch.manual_seed(seed)
    model = build(method, weight, data.shape)
    train(model, data, seed)
    return measure(model, data, seed)


def main() -> None:
    settings = [
        {"method": method, "weight": weight, "seed": seed}
        for seed in SEEDS
        for method, weights in WEIGHTS.items()
        for weight in weights
    ]
    facts = {"batch_size": BATCH, "latent_dim": LATENT, "rate": RATE, "width": WIDTH}
    do_all("small_sprites", settings, run, steps=STEPS, images=4_608, **facts)


if __name__ == "__main__":
    main()
