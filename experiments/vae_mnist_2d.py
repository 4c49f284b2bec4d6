"""The 2-D VAE of chapter 1 on MNIST, three seeds: ELBO, IWAE, AIS and the exact log-likelihood.

Pixels are drawn anew from the grey values at every fetch while training (the protocol of AVB's
authors); the test images are drawn once, with seed 0.  Seed 0 is the shipped ``vae_mnist_2d``.

    python -m experiments.vae_mnist_2d
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor.metrics import likelihood
from tutor.metrics.ais import ais
from tutor.models import VAE

SEEDS = (0, 1, 2)
STEPS = ((1e-3, 40_000), (1e-4, 10_000))  # learning rate, steps at that rate
AIS_IMAGES, TOLERANCE = 100, 0.01  # nats, of the quadrature for the narrowest posteriors


def train(seed: int, folder: Path) -> VAE:
    data = tutor.data.load("mnist").binarized_each_time()
    torch.manual_seed(seed)
    model = VAE(latent_dim=2)
    for stage, (rate, steps) in enumerate(STEPS):
        tutor.fit(
            model,
            data,
            steps=steps,
            seed=10 * seed + stage,
            checkpoint=folder / f"stage{stage}",
            checkpoint_every=5_000,
            optimizer=partial(torch.optim.Adam, lr=rate, fused=True),
            progress=False,
        )
    return tutor.pretrained.halve(model.cpu())


def measure(model: VAE, seed: int) -> dict[str, float | int]:
    x = tutor.data.load("mnist", split="test").binarized(seed=0)[:]
    draw = torch.Generator().manual_seed(seed)
    exact = likelihood.log_likelihood(model, x, method="quadrature", tolerance=TOLERANCE)
    bound = likelihood.elbo(model, x, samples=10, generator=draw)
    iwae = {k: likelihood.iwae(model, x, samples=k, generator=draw) for k in (10, 100, 1_000)}
    few = x[:AIS_IMAGES]
    annealed = ais(model, few, generator=draw)
    error = (annealed.log_likelihood - exact[:AIS_IMAGES]).mean()
    return {
        "seed": seed,
        "images": len(x),
        "elbo": bound.mean().item(),
        **{f"iwae_{k}": v.mean().item() for k, v in iwae.items()},
        "exact": exact.mean().item(),
        "standard_error_over_images": (exact.std() / len(x) ** 0.5).item(),
        "ais_images": AIS_IMAGES,
        "ais": annealed.log_likelihood.mean().item(),
        "exact_on_ais_images": exact[:AIS_IMAGES].mean().item(),
        "ais_minus_exact": error.item(),
    }


def run(seed: int, checkpoint: Path) -> dict[str, float | int]:
    model = train(seed, checkpoint)
    row = measure(model, seed)
    if seed == 0:
        about = {
            "arguments": {"latent_dim": 2},
            "data": "mnist, binarised anew at every fetch",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        }
        tutor.pretrained.save(model, ROOT / "src" / "tutor" / "weights", "vae_mnist_2d", about)
    return row


def main() -> None:
    do_all("vae_mnist_2d", [{"seed": seed} for seed in SEEDS], run, steps=STEPS, batch_size=128)


if __name__ == "__main__":
    main()
