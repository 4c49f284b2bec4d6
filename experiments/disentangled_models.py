"""The disentangling models that the package ships, for the figure that moves their codes.

They are trained as the rows of `experiments.dsprites_grid` and `experiments.shapes3d_grid` are, but
longer where there is no GPU, because a reader will look at them and not at a mean over runs.

    python -m experiments.disentangled_models      # those not yet done
    python -m experiments.disentangled_models 1    # the next one
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import tutor
from experiments import disentangling, dsprites_grid, shapes3d_grid
from experiments.record import ROOT
from experiments.runs import do_all
from tutor import metrics
from tutor.data import Dataset

STEPS = tutor.budget(cpu=15_000, gpu=300_000)
EVALUATED, DRAWS = 100, 1_000  # images, and draws for each, of the log-likelihood
LOAD = {"dsprites": partial(tutor.data.load, "dsprites"), "shapes3d": shapes3d_grid.images}
LATENT = {"dsprites": dsprites_grid.LATENT, "shapes3d": shapes3d_grid.LATENT}
SETTINGS = [
    {"data": "dsprites", "method": "factor-vae", "weight": 10.0},
    {"data": "dsprites", "method": "factor-vae", "weight": 40.0},
    {"data": "dsprites", "method": "beta-vae", "weight": 4.0},
    {"data": "shapes3d", "method": "factor-vae", "weight": 20.0},
    {"data": "shapes3d", "method": "beta-vae", "weight": 4.0},
]
SHIPPED = [setting for setting in SETTINGS if setting["weight"] != 10.0]  # the better score
OUT = ROOT / "build" / "experiments" / "disentangled_models"


def run(data: str, method: str, weight: float) -> dict[str, Any]:
    images, latent = LOAD[data](), LATENT[data]
    model, row = disentangling.run(images, data, method, weight, 0, latent, OUT, STEPS)
    row |= likelihood(model, images)
    if {"data": data, "method": method, "weight": weight} in SHIPPED:
        about = disentangling.about(method, weight, images, latent, row, STEPS)
        name = f"{method.replace('-', '_')}_{data}"
        tutor.pretrained.save(model.cpu(), ROOT / "src" / "tutor" / "weights", name, about)
    return row


def likelihood(model: Any, images: Dataset) -> dict[str, float | None]:
    """ELBO and importance-sampled log p(x) of some images, nats; the models have seen them.

    Colours in a Bernoulli likelihood have no density, so for rooms there is nothing to estimate.
    """
    g = torch.Generator().manual_seed(0)
    x = images[torch.randperm(len(images), generator=g)[:EVALUATED].sort().values]
    if not torch.isin(x, torch.tensor([0.0, 1.0])).all():
        return {"elbo": None, "log_likelihood": None}
    return {
        "elbo": metrics.elbo(model, x, samples=64, generator=g).mean().item(),
        "log_likelihood": metrics.iwae(model, x, samples=DRAWS, generator=g).mean().item(),
    }


def main() -> None:
    do_all("disentangled_models", SETTINGS, run, seed=0, draws=DRAWS, **disentangling.facts(STEPS))


if __name__ == "__main__":
    main()
