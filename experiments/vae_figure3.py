"""Kingma & Welling, figure 3: marginal likelihood with 3 latents and 100 hidden units.

Trained on 1 000 and on 50 000 digits.  The paper estimated log p(x) with a sampler that is
reliable for few latents only; here it is annealed importance sampling, beside the bounds.  Each
row trains its model anew, in a minute: the sampler takes longer.

    python -m experiments.vae_figure3
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

import tutor
from experiments.runs import do_all
from experiments.vae_figure2 import paper_vae
from tutor.metrics.ais import ais
from tutor.metrics.likelihood import elbo, iwae

TRAIN_SIZES = (1_000, 50_000)
STEPS, IMAGES, AIS_IMAGES, RATE = 10_000, 1_000, 100, 0.02


def run(train_size: int, split: str, checkpoint: Path) -> dict[str, float]:
    digits = tutor.data.load("mnist").subset(torch.arange(train_size))
    model = paper_vae(3, hidden=100)
    tutor.fit(
        model,
        digits.binarized_each_time(),
        steps=STEPS,
        batch_size=100,
        optimizer=partial(torch.optim.Adagrad, lr=RATE),
        checkpoint=checkpoint,
        checkpoint_every=5_000,
        progress=False,
    )
    measured = digits if split == "train" else tutor.data.load("mnist", split="test")
    x = measured.binarized(seed=0)[:IMAGES]
    few = x[:AIS_IMAGES]
    draw = torch.Generator().manual_seed(0)
    annealed = ais(model, few, generator=draw)
    return {
        "elbo": elbo(model, x, samples=10, generator=draw).mean().item(),
        "iwae_1000": iwae(model, x, samples=1_000, generator=draw).mean().item(),
        "iwae_1000_on_ais_images": iwae(model, few, samples=1_000, generator=draw).mean().item(),
        "ais": annealed.log_likelihood.mean().item(),
    }


def main() -> None:
    settings = [{"train_size": n, "split": s} for n in TRAIN_SIZES for s in ("train", "test")]
    facts = {"steps": STEPS, "images": IMAGES, "ais_images": AIS_IMAGES, "seed": 0}
    do_all("vae_figure3", settings, run, **facts)


if __name__ == "__main__":
    main()
