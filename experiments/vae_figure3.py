"""Kingma & Welling, figure 3: marginal likelihood with 3 latents and 100 hidden units.

Trained on 1 000 and on 50 000 digits.  The paper estimated log p(x) with a sampler that is
reliable for few latents only; here it is annealed importance sampling, beside the bounds.

    python -m experiments.vae_figure3
"""

from __future__ import annotations

from functools import partial

import torch

import tutor
from experiments.record import ROOT, save_rows
from experiments.vae_figure2 import paper_vae
from tutor.metrics.ais import ais
from tutor.metrics.likelihood import elbo, iwae

TRAIN_SIZES = (1_000, 50_000)
STEPS, IMAGES, AIS_IMAGES, RATE = 10_000, 1_000, 100, 0.02
OUT = ROOT / "build" / "experiments" / "vae_figure3"


def main() -> None:
    digits = tutor.data.load("mnist")
    test = tutor.data.load("mnist", split="test").binarized(seed=0)[:IMAGES]
    rows = []
    for size in TRAIN_SIZES:
        subset = digits.subset(torch.arange(size))
        train = subset.binarized(seed=0)[:IMAGES]
        model = paper_vae(3, hidden=100)
        tutor.fit(
            model,
            subset.binarized_each_time(),
            steps=STEPS,
            batch_size=100,
            optimizer=partial(torch.optim.Adagrad, lr=RATE),
            checkpoint=OUT / f"train{size}",
            checkpoint_every=5_000,
            progress=False,
        )
        for split, x in {"train": train, "test": test}.items():
            draw = torch.Generator().manual_seed(0)
            annealed = ais(model, x[:AIS_IMAGES], generator=draw)
            rows.append(
                {
                    "train_size": size,
                    "split": split,
                    "elbo": elbo(model, x, samples=10, generator=draw).mean().item(),
                    "iwae_1000": iwae(model, x, samples=1_000, generator=draw).mean().item(),
                    "iwae_1000_on_ais_images": iwae(
                        model, x[:AIS_IMAGES], samples=1_000, generator=draw
                    )
                    .mean()
                    .item(),
                    "ais": annealed.log_likelihood.mean().item(),
                }
            )
            print(rows[-1], flush=True)
        save_rows("vae_figure3", rows, steps=STEPS, images=IMAGES, ais_images=AIS_IMAGES, seed=0)


if __name__ == "__main__":
    main()
