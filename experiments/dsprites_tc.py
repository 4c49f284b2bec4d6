"""Total correlation while FactorVAE trains: the truth, and what its discriminator says (figure 7).

q(z) is a mixture of one Gaussian an image, so its density is a finite sum, and the total
correlation an average over draws of an exact log-ratio.  With a GPU all 737 280 images are summed
over.  Without one the model is trained on a part of the grid of factors (every fourth orientation
and every fourth position, 11 520 images), so that the sum stays exact.  Beside the discriminator's
mean logit stands what that logit proves, ``E_q t - log E_qbar exp t``, a lower bound of the truth.

    python -m experiments.dsprites_tc
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import tutor
from experiments import disentangling
from experiments.record import ROOT
from experiments.runs import do_all
from tutor.data import Dataset
from tutor.data.sprites import SIZES
from tutor.divergences import permute_dims
from tutor.metrics import encode_posteriors, surgery_monte_carlo
from tutor.models import FactorVAE

LATENT = 10
EVERY = tutor.budget(cpu=(1, 1, 4, 4, 4), gpu=(1, 1, 1, 1, 1))
GAMMAS = tutor.budget(cpu=(10.0, 40.0), gpu=(10.0, 20.0, 50.0, 100.0))
STEPS = tutor.budget(cpu=4_000, gpu=300_000)
CHECKS = tutor.budget(cpu=10, gpu=50)
DRAWS = 1_000
CODES = 20_000  # for the discriminator's mean logit, and what it proves
OUT = ROOT / "build" / "experiments" / "dsprites_tc"


def part(data: Dataset, every: tuple[int, ...]) -> Dataset:
    """The images whose factors are multiples of ``every``, factor by factor."""
    kept = (data.factors % torch.tensor(every) == 0).all(1)
    return data.subset(kept)


def run(gamma: float, seed: int) -> dict[str, Any]:
    data = part(tutor.data.load("dsprites"), EVERY)
    kind, arguments, networks = disentangling.description("factor-vae", gamma, data, LATENT)
    torch.manual_seed(seed)
    model = tutor.pretrained.build(kind, arguments, networks)
    folder = OUT / f"{gamma:g}-{seed}-{len(data)}-{STEPS}-{CHECKS}"
    rows = []
    for check in range(1, CHECKS + 1):
        history = tutor.fit(
            model,
            data,
            steps=check * STEPS // CHECKS,
            batch_size=2 * disentangling.BATCH,
            seed=seed,
            optimizer=disentangling.optimizers(model),
            precision=disentangling.PRECISION,
            checkpoint=folder / "model",
            progress=False,
        )
        kept = folder / f"{check}.pt"
        if not kept.exists():  # a row that was measured before the script was stopped
            last = history.iloc[-1]
            row = {
                "step": check * STEPS // CHECKS,
                "reconstruction": last["autoencoder/reconstruction"],
                "kl": last["autoencoder/kl"],
                "in_training": last["autoencoder/total_correlation"],
                **measure(model.eval(), data, seed=check),
            }
            torch.save({k: float(v) for k, v in row.items()}, kept)
        rows.append(torch.load(kept, weights_only=True))
        print({k: round(v, 3) for k, v in rows[-1].items()}, flush=True)
    return {name: [float(f"{row[name]:.6g}") for row in rows] for name in rows[0]}


@torch.no_grad()
def measure(model: FactorVAE, data: Dataset, seed: int) -> dict[str, Tensor | float]:
    """The truth with its standard error, the mean logit on codes, and what the logit proves."""
    g = torch.Generator().manual_seed(seed)
    q = encode_posteriors(model, data)
    exact = surgery_monte_carlo(q, samples=DRAWS, generator=g)
    index = torch.randint(len(data), (CODES,), generator=g)
    z = q.mean[index] + q.stddev[index] * torch.randn(CODES, LATENT, generator=g)
    logits = model.log_ratio(z.to(model.device)).double().cpu()
    torn = model.log_ratio(permute_dims(z, generator=g).to(model.device)).double().cpu()
    return {
        "exact": exact.value.total_correlation,
        "standard_error": exact.standard_error.total_correlation,
        "claimed": logits.mean(),
        "proved": logits.mean() - (torn.logsumexp(0) - math.log(CODES)),
    }


def main() -> None:
    settings = [{"gamma": gamma, "seed": 0} for gamma in GAMMAS]
    images = math.prod(-(-size // every) for size, every in zip(SIZES, EVERY, strict=True))
    facts = disentangling.facts() | {"images": images, "steps": STEPS, "every": EVERY}
    facts["draws"] = DRAWS
    do_all("dsprites_tc", settings, run, latent_dim=LATENT, **facts)


if __name__ == "__main__":
    main()
