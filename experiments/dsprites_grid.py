"""dSprites: the score against the reconstruction, for weights of several objectives.

Kim & Mnih's figures 4 and 5 are made from such a grid: beta-VAE and FactorVAE, each with several
weights and ten seeds.  Here beta-TCVAE, DIP-VAE and an adversarial autoencoder stand beside them.
With a GPU the whole grid is run, without one a small part of it on a short schedule (see
`experiments.disentangling`, whose constants are stored with the rows).

    python -m experiments.dsprites_grid      # those not yet done
    python -m experiments.dsprites_grid 1    # the next one
"""

from __future__ import annotations

from typing import Any

import tutor
from experiments import disentangling
from experiments.record import ROOT
from experiments.runs import do_all

LATENT = 10
WEIGHTS: dict[str, tuple[float, ...]] = tutor.budget(
    cpu={
        "factor-vae": (10.0, 20.0, 40.0, 100.0),
        "beta-vae": (4.0, 1.0, 8.0),
        "beta-tcvae": (4.0,),
        "dip-vae-i": (10.0,),
        "dip-vae-ii": (10.0,),
        "aae": (0.1,),
    },
    gpu={
        "factor-vae": (10.0, 20.0, 30.0, 40.0, 50.0, 100.0),
        "beta-vae": (4.0, 1.0, 2.0, 6.0, 8.0, 10.0),
        "beta-tcvae": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0),
        "dip-vae-i": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
        "dip-vae-ii": (1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
        "aae": (0.1,),
    },
)
SEEDS = range(tutor.budget(cpu=3, gpu=10))
OUT = ROOT / "build" / "experiments" / "dsprites_grid"


def run(method: str, weight: float, seed: int) -> dict[str, Any]:
    data = tutor.data.load("dsprites")
    return disentangling.run(data, "dsprites", method, weight, seed, LATENT, OUT)[1]


def main() -> None:
    settings = disentangling.settings(WEIGHTS, SEEDS)
    do_all("dsprites_grid", settings, run, latent_dim=LATENT, **disentangling.facts())


if __name__ == "__main__":
    main()
