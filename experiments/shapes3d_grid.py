"""3D Shapes: the score against the reconstruction, as `experiments.dsprites_grid`.

Six latent dimensions, as Kim & Mnih.  Colours in [0, 1] go into a Bernoulli likelihood, so that a
reconstruction is a cross-entropy and even a perfect one costs thousands of nats.  Without a GPU a
few runs on a short schedule.

    python -m experiments.shapes3d_grid      # those not yet done
    python -m experiments.shapes3d_grid 1    # the next one
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import tutor
from experiments import disentangling
from experiments.record import ROOT
from experiments.runs import do_all
from tutor.data import Dataset

LATENT = 6
WEIGHTS: dict[str, tuple[float, ...]] = tutor.budget(
    cpu={"factor-vae": (20.0, 10.0, 50.0), "beta-vae": (4.0, 1.0, 16.0)},
    gpu={
        "factor-vae": (10.0, 20.0, 30.0, 40.0, 50.0, 100.0),
        "beta-vae": (1.0, 4.0, 8.0, 16.0, 24.0, 32.0),
    },
)
SEEDS = range(tutor.budget(cpu=2, gpu=10))
OUT = ROOT / "build" / "experiments" / "shapes3d_grid"


def images() -> Dataset:
    """All rooms as bytes, as the original file has them: drawn once, 5.9 GB, kept under build/.

    A batch that is drawn anew takes several times as long as the step that learns from it.
    """
    drawn, kept = tutor.data.load("shapes3d"), OUT / f"images-{tutor.__version__}.npy"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part")
        pixels = np.lib.format.open_memmap(part, "w+", np.uint8, (len(drawn), *drawn.shape))
        for index in torch.arange(len(drawn)).split(1_000):
            pixels[index.numpy()] = (255 * drawn[index]).round().to(torch.uint8).numpy()
        pixels.flush()
        part.rename(kept)
    data = Dataset(np.load(kept, mmap_mode="c"), name=drawn.name)
    data.factors = drawn.factors
    data.factor_names, data.factor_sizes = drawn.factor_names, drawn.factor_sizes
    return data


def run(method: str, weight: float, seed: int) -> dict[str, Any]:
    return disentangling.run(images(), "shapes3d", method, weight, seed, LATENT, OUT)[1]


def main() -> None:
    settings = disentangling.settings(WEIGHTS, SEEDS)
    do_all("shapes3d_grid", settings, run, latent_dim=LATENT, **disentangling.facts())


if __name__ == "__main__":
    main()
