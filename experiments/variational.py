"""What the experiments on energies share: the three methods, their training, their distances."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tutor
from tutor.energies import Energy
from tutor.game import Model
from tutor.metrics import energy_distance, noise_floor, sliced_wasserstein
from tutor.models import EnergyAVB, GaussianVB
from tutor.training import decay_after

BATCH, STEPS, ELBO_DRAWS = 512, 3_000, 100_000
STOPS = (0, 100, 200, 400, 700, 1_000, 1_300, 1_600, 1_900, 2_200, 2_500, 2_800, STEPS)
METHODS = ("mean field", "full rank", "AVB")
# Adam's rates: full up to 30 % of the steps, then down in stairs, one a stop.
RATES = {"posterior": (1e-2, 0.9), "sampler": (1e-3, 0.5), "critic": (2e-3, 0.5)}


def build(method: str, energy: Energy, seed: int) -> GaussianVB | EnergyAVB:
    torch.manual_seed(seed)
    if method == "AVB":
        return EnergyAVB(energy)
    return GaussianVB(energy, full_rank=method == "full rank")


def facts() -> dict[str, Any]:
    """The settings that all runs share."""
    return {"steps": STEPS, "batch_size": BATCH, "adam_rate_and_beta1": RATES, "stops": STOPS}


def train(
    method: str, energy: Energy, seed: int, folder: Path, draws: int
) -> tuple[Tensor, dict[str, float]]:
    """Draws of the trained model, and its gap; draws at every stop stay in the folder."""
    model = build(method, energy, seed)
    for begin, end in pairwise((0, *STOPS)):
        kept = folder / f"draws{end}.pt"
        if not kept.exists():
            fit_until(model, begin, end, seed, folder)
            z = model.sample(draws, generator=torch.Generator().manual_seed(1_000 + seed))
            torch.save(z, kept)
    fit_until(model, begin, STEPS, seed, folder)  # where all draws were there: loads the weights
    return stages(folder)[STEPS], {"gap": gap(model, energy, seed)}


def stages(folder: Path) -> dict[int, Tensor]:
    """The draws that `train` kept, by stop."""
    return {stop: torch.load(folder / f"draws{stop}.pt") for stop in STOPS}


def exact_draws(energy: Energy, draws: int, *, other: bool = False) -> Tensor:
    """What all draws are compared with, or a second such set, which shows the noise."""
    return energy.exact_draws(draws, generator=torch.Generator().manual_seed(12 if other else 11))


def fit_until(model: Model, begin: int, end: int, seed: int, folder: Path) -> None:
    """Train from one stop to the next, through the checkpoint in the folder."""
    if end == 0:
        return
    factor = decay_after(0.3)((begin + end) / 2 / STEPS)
    rates = {player: (factor * RATES[player][0], RATES[player][1]) for player in model.players}
    tutor.fit(
        model,
        torch.zeros(BATCH, 1),
        batch_size=BATCH,
        steps=end,
        seed=seed,
        device="cpu",
        checkpoint=folder,
        checkpoint_every=STEPS,
        optimizer={
            player: partial(torch.optim.Adam, lr=rate, betas=(beta1, 0.999), fused=True)
            for player, (rate, beta1) in rates.items()
        },
        progress=False,
    )


def sliced(x: Tensor, y: Tensor) -> Tensor:
    """Sliced Wasserstein along the same 200 directions at every call."""
    return sliced_wasserstein(x, y, directions=200, generator=torch.Generator().manual_seed(7))


def distances(z: Tensor, exact: Tensor) -> dict[str, float]:
    return {
        "sliced_wasserstein": sliced(z, exact).item(),
        "energy_distance": energy_distance(z, exact).item(),
    }


def floors(energy: Energy, n: int, *, columns: int | None = None) -> dict[str, dict[str, float]]:
    """Each distance between two sets of n exact draws (of the first columns): mean and std."""

    def draw(n: int, generator: torch.Generator | None) -> Tensor:
        return energy.exact_draws(n, generator=generator)[:, :columns]

    generator = torch.Generator().manual_seed(99)
    measured = {"sliced_wasserstein": sliced, "energy_distance": energy_distance}
    found = {
        k: noise_floor(f, draw, n, repeats=20, generator=generator) for k, f in measured.items()
    }
    return {k: {"mean": floor.mean.item(), "std": floor.std.item()} for k, floor in found.items()}


def gap(model: GaussianVB | EnergyAVB, energy: Energy, seed: int) -> float:
    """log_evidence - ELBO: exact up to sampling for a Gaussian, T's estimate for AVB."""
    generator = torch.Generator().manual_seed(2_000 + seed)
    if isinstance(model, GaussianVB):
        return energy.log_evidence - model.elbo(ELBO_DRAWS, generator=generator).item()
    with torch.no_grad():
        z = model.sample(ELBO_DRAWS, generator=generator)
        return energy.log_evidence - model.elbo_terms(z).mean().item()
