"""What the runs on dSprites and 3D Shapes share: models, schedule, and what is measured.

All methods have the same encoder and decoder (those of Kim & Mnih), the same batches of 64 images
for the reconstruction, the same rates and the same number of steps; only the loss differs.  With a
GPU the schedule is the paper's, 300 000 steps at 1e-4.  Without one it is far shorter, at a higher
rate that falls, with a narrower discriminator and in bfloat16; scores on it say how the methods
compare at this budget.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

import tutor
from tutor.data import Dataset
from tutor.divergences import gaussian_kl_per_dimension
from tutor.game import Model
from tutor.metrics import (
    beta_vae_score,
    encode_posteriors,
    factor_vae_score,
    mig,
    total_correlation,
)
from tutor.posteriors import DiagonalGaussian
from tutor.training import decay_after

BATCH = 64
STEPS = tutor.budget(cpu=5_000, gpu=300_000)
RATE = tutor.budget(cpu=1e-3, gpu=1e-4)
CRITIC_RATE = tutor.budget(cpu=1e-3, gpu=1e-4)
CRITIC_WIDTH = tutor.budget(cpu=500, gpu=1000)
PRECISION = tutor.budget(cpu="bf16", gpu="float32")
IMAGES = tutor.budget(cpu=50_000, gpu=1_000_000)  # that the scores are computed on, at most

# What the one number is that a row of the grid varies.  An adversarial autoencoder weighs nothing;
# its number is the penalty on the discriminator's slope.
METHODS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "beta-vae": ("BetaVAE", "beta", {}),
    "factor-vae": ("FactorVAE", "gamma", {}),
    "beta-tcvae": ("BetaTCVAE", "beta", {}),
    "dip-vae-i": ("DIPVAE", "off_diagonal", {"variant": "I"}),
    "dip-vae-ii": ("DIPVAE", "off_diagonal", {"variant": "II"}),
    "aae": ("AAE", "gradient_penalty", {"posterior": "gaussian", "likelihood": "bernoulli"}),
}


def settings(weights: Mapping[str, Sequence[float]], seeds: Iterable[int]) -> list[dict[str, Any]]:
    """One weight of each method first, then the next: a part of the grid compares all methods."""
    most = max(map(len, weights.values()))
    return [
        {"method": method, "weight": own[i], "seed": seed}
        for seed in seeds
        for i in range(most)
        for method, own in weights.items()
        if i < len(own)
    ]


def facts(steps: int | None = None) -> dict[str, Any]:
    """The settings that all rows of a table share."""
    return {
        "steps": steps or STEPS,
        "batch_size": BATCH,
        "rate": RATE,
        "critic_rate": CRITIC_RATE,
        "critic_width": CRITIC_WIDTH,
        "precision": PRECISION,
        "images": IMAGES,
    }


def description(
    method: str, weight: float, data: Dataset, latent_dim: int
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Class, plain arguments and networks of a model, as `tutor.pretrained.build` wants them."""
    kind, argument, more = METHODS[method]
    channels = data.shape[0]
    arguments = {"latent_dim": latent_dim, "image_shape": list(data.shape), argument: weight}
    if method == "beta-tcvae":
        arguments["data_size"] = len(data)
    sizes = {"channels": channels}
    networks: dict[str, Any] = {
        "encoder": ["factor_vae_encoder", {"outputs": 2 * latent_dim, **sizes}],
        "decoder": ["factor_vae_decoder", {"latent_dim": latent_dim, **sizes}],
    }
    if method in ("factor-vae", "aae"):
        sizes = {"width": CRITIC_WIDTH, "logits": 2 if method == "factor-vae" else 1}
        networks["discriminator"] = [
            "factor_vae_discriminator",
            {"latent_dim": latent_dim, **sizes},
        ]
    return kind, arguments | more, networks


def optimizers(model: Model) -> dict[str, Any]:
    """Adam; a discriminator's remembers less, as in the paper."""
    own = {"discriminator": (CRITIC_RATE, (0.5, 0.9))}
    return {
        player: partial(Adam, lr=rate, betas=betas, fused=True)
        for player in model.players
        for rate, betas in [own.get(player, (RATE, (0.9, 0.999)))]
    }


def train(model: Model, data: Dataset, seed: int, folder: Path, steps: int) -> float | None:
    """Train, or go on training; the processor's seconds a step, unless all was done before."""
    twice = 2 if type(model).__name__ == "FactorVAE" else 1  # it splits its batch into two
    began = time.process_time()
    history = tutor.fit(
        model,
        data,
        steps=steps,
        batch_size=twice * BATCH,
        seed=seed,
        optimizer=optimizers(model),
        schedule=decay_after(0.5) if PRECISION == "bf16" else None,
        precision=PRECISION,
        checkpoint=folder,
        checkpoint_every=500,
        progress=False,
    )
    every = max(1, len(history) // 8)
    print(history.iloc[every - 1 :: every].round(2).to_string(), flush=True)
    model.eval()
    taken = history.attrs["steps"]
    return (time.process_time() - began) / taken if taken else None


def run(
    data: Dataset,
    name: str,
    method: str,
    weight: float,
    seed: int,
    latent_dim: int,
    folder: Path,
    steps: int | None = None,
) -> tuple[Model, dict[str, Any]]:
    """One model of a grid, trained, rounded as it would be shipped, and measured."""
    steps = steps or STEPS
    kind, arguments, networks = description(method, weight, data, latent_dim)
    torch.manual_seed(seed)
    model = tutor.pretrained.build(kind, arguments, networks)
    folder = folder / f"{name}-{method}-{weight:g}-{seed}-{steps}"
    a_step = train(model, data, seed, folder, steps)
    tutor.pretrained.halve(model)
    return model, {"seconds_a_step": a_step, **measure(model, data, seed)}


def some(data: Dataset, seed: int) -> Dataset:
    """`IMAGES` images of the data set, drawn without replacement, or all of them."""
    if len(data) <= IMAGES:
        return data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[:IMAGES].sort().values)


def measure(model: Model, data: Dataset, seed: int) -> dict[str, Any]:
    """Reconstruction, rate, scores, and what D believes of the total correlation; in nats."""
    data = some(data, seed)
    g = torch.Generator().manual_seed(seed)
    q = encode_posteriors(model, data)
    per_dimension = gaussian_kl_per_dimension(q.mean, q.log_var).mean(0)
    by_kl = per_dimension >= 0.01
    z = q.sample(generator=g)
    row: dict[str, Any] = {
        "images": len(data),
        "reconstruction": reconstruction(model, data, z),
        "kl": per_dimension.sum().item(),
        "active": int(by_kl.sum()),
        "gaussian_tc_samples": total_correlation(z).item(),
        "gaussian_tc_means": total_correlation(q.mean[:, q.mean.std(0) > 1e-4]).item(),
        "discriminator_tc": claimed(model, z),
    }
    return row | scores(q, data, by_kl, seed)


def scores(q: DiagonalGaussian, data: Dataset, by_kl: Tensor, seed: int) -> dict[str, Any]:
    """Scores of the mean codes; None where every coordinate has collapsed."""
    if q.mean.std(0).max() < 0.05 or not by_kl.any():
        names = ("factor_vae_score", "factor_vae_score_library", "beta_vae_score", "mig")
        return dict.fromkeys(names)
    g = torch.Generator().manual_seed(seed)
    paper = factor_vae_score(q.mean, data, active=by_kl, generator=g)
    return {
        "factor_vae_score": paper.score,
        "factor_vae_score_library": factor_vae_score(
            q.mean, data, protocol="library", generator=g
        ).score,
        "beta_vae_score": beta_vae_score(q.mean, data, generator=g).score,
        "mig": mig(q.mean, data).score,
        "votes": paper.votes.tolist(),
    }


@torch.no_grad()
def reconstruction(model: Model, data: Dataset, z: Tensor, images: int = 10_000) -> float:
    """Mean of -log p(x|z) at one draw of z for each image, at most that many images."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:images]
    total = 0.0
    for some_images in order.split(256):
        x = data[some_images].to(model.device)
        total -= model.decode(z[some_images].to(model.device)).log_prob(x).sum().item()
    return total / len(order)


@torch.no_grad()
def claimed(model: Model, z: Tensor) -> float | None:
    """The discriminator's total correlation of codes, for models that have a discriminator for it.

    Raises:
        RuntimeError: if it is not finite.
    """
    if not hasattr(model, "log_ratio"):
        return None
    parts = [model.log_ratio(part.to(model.device)).double().sum() for part in z.split(4096)]
    value = torch.stack(parts).sum().item() / len(z)
    if not math.isfinite(value):
        raise RuntimeError("the discriminator's logits are not finite")
    return value


def about(
    method: str,
    weight: float,
    data: Dataset,
    latent_dim: int,
    measured: Mapping[str, Any],
    steps: int | None = None,
) -> dict[str, Any]:
    """What is stored beside the weights of a shipped model."""
    from experiments.record import origin

    _, arguments, networks = description(method, weight, data, latent_dim)
    return {
        "arguments": arguments,
        "networks": networks,
        "data": f"{data.name}, {len(data)} images",
        "steps": steps or STEPS,
        "settings": facts(steps),
        "measured": {k: v for k, v in measured.items() if k != "votes"},
        "origin": origin(),
    }
