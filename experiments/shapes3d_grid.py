"""3D Shapes: the score against the reconstruction, as `experiments.dsprites_grid`.

Six latent dimensions, as Kim & Mnih.  Colours in [0, 1] go into a Bernoulli likelihood, so that a
reconstruction is a cross-entropy and even a perfect one costs thousands of nats.  Without a GPU a
few runs on a short schedule.  The script writes two models to the package's
weights: ``beta_vae_shapes3d`` and ``factor_vae_shapes3d``.

    python -m experiments.shapes3d_grid      # those not yet done
    python -m experiments.shapes3d_grid 1    # the next one
"""

from __future__ import annotations

from typing import Any

import tutor
from experiments import disentangling
from experiments.record import ROOT
from experiments.runs import do_all

LATENT = 6
WEIGHTS: dict[str, tuple[float, ...]] = tutor.budget(
    cpu={"factor-vae": (20.0,), "beta-vae": (4.0,)},
    gpu={
        "factor-vae": (10.0, 20.0, 30.0, 40.0, 50.0, 100.0),
        "beta-vae": (1.0, 4.0, 8.0, 16.0, 24.0, 32.0),
    },
)
SEEDS = tutor.budget(cpu=(0,), gpu=tuple(range(10)))
SHIPPED = {
    ("beta-vae", 4.0, 0): "beta_vae_shapes3d",
    ("factor-vae", 20.0, 0): "factor_vae_shapes3d",
}
OUT = ROOT / "build" / "experiments" / "shapes3d_grid"


def run(method: str, weight: float, seed: int) -> dict[str, Any]:
    data = tutor.data.load("shapes3d")
    model, row = disentangling.run(data, "shapes3d", method, weight, seed, LATENT, OUT)
    if name := SHIPPED.get((method, weight, seed)):
        about = disentangling.about(method, weight, data, LATENT, row)
        tutor.pretrained.save(model.cpu(), ROOT / "src" / "tutor" / "weights", name, about)
    return row


def main() -> None:
    settings = [
        {"method": method, "weight": weight, "seed": seed}
        for seed in SEEDS
        for method, weights in WEIGHTS.items()
        for weight in weights
    ]
    do_all("shapes3d_grid", settings, run, latent_dim=LATENT, **disentangling.facts())


if __name__ == "__main__":
    main()
