"""The disentangling models that the package ships, for the figure that moves their codes.

They are trained as the rows of `experiments.dsprites_grid` and `experiments.shapes3d_grid` are, but
longer where there is no GPU, because a reader will look at them and not at a mean over runs.

    python -m experiments.disentangled_models      # those not yet done
    python -m experiments.disentangled_models 1    # the next one
"""

from __future__ import annotations

from functools import partial
from typing import Any

import tutor
from experiments import disentangling, dsprites_grid, shapes3d_grid
from experiments.record import ROOT
from experiments.runs import do_all

STEPS = tutor.budget(cpu=30_000, gpu=300_000)
LOAD = {"dsprites": partial(tutor.data.load, "dsprites"), "shapes3d": shapes3d_grid.images}
LATENT = {"dsprites": dsprites_grid.LATENT, "shapes3d": shapes3d_grid.LATENT}
SETTINGS = [
    {"data": "dsprites", "method": "factor-vae", "weight": 10.0},
    {"data": "dsprites", "method": "beta-vae", "weight": 4.0},
    {"data": "shapes3d", "method": "factor-vae", "weight": 20.0},
    {"data": "shapes3d", "method": "beta-vae", "weight": 4.0},
]
OUT = ROOT / "build" / "experiments" / "disentangled_models"


def run(data: str, method: str, weight: float) -> dict[str, Any]:
    images, latent = LOAD[data](), LATENT[data]
    model, row = disentangling.run(images, data, method, weight, 0, latent, OUT, STEPS)
    about = disentangling.about(method, weight, images, latent, row, STEPS)
    name = f"{method.replace('-', '_')}_{data}"
    tutor.pretrained.save(model.cpu(), ROOT / "src" / "tutor" / "weights", name, about)
    return row


def main() -> None:
    do_all("disentangled_models", SETTINGS, run, seed=0, **disentangling.facts(STEPS))


if __name__ == "__main__":
    main()
