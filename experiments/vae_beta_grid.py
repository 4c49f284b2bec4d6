"""What beta costs: reconstruction, rate and the two parts of the rate, exactly, as beta grows.

Two latent dimensions, MNIST binarised at every fetch, one seed a beta.  The parts of the KL term
(book equation: elbo-surgery) are computed by quadrature over 5 000 test posteriors.

    python -m experiments.vae_beta_grid
"""

from __future__ import annotations

from pathlib import Path

import torch

import tutor
from experiments.runs import do_all
from tutor.metrics import likelihood
from tutor.metrics.surgery import surgery
from tutor.models import BetaVAE

BETAS = (0.1, 0.3, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
STEPS, IMAGES = 5_000, 5_000


def run(beta: float, checkpoint: Path) -> dict[str, float]:
    data = tutor.data.load("mnist").binarized_each_time()
    x = tutor.data.load("mnist", split="test").binarized(seed=0)[:IMAGES]
    torch.manual_seed(0)
    model = BetaVAE(latent_dim=2, beta=beta)
    tutor.fit(model, data, steps=STEPS, checkpoint=checkpoint, progress=False)
    parts = surgery(model, x)
    bound = likelihood.elbo(model, x, samples=10, generator=torch.Generator().manual_seed(0))
    return {
        "elbo": bound.mean().item(),
        "reconstruction": bound.mean().item() + float(parts.rate),
        "rate": float(parts.rate),
        "mutual_information": float(parts.mutual_information),
        "marginal_kl": float(parts.marginal_kl),
    }


def main() -> None:
    settings = [{"beta": beta} for beta in BETAS]
    do_all("vae_beta_grid", settings, run, steps=STEPS, images=IMAGES, batch_size=128, seed=0)


if __name__ == "__main__":
    main()
