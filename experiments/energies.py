"""The banana and the ring of AVB's authors: mean field, full rank and AVB with adaptive contrast.

Sliced Wasserstein and squared energy distance of 2 000 draws to as many exact ones, beside the
noise floor, and ``log_evidence - ELBO``: KL(q || p) for the Gaussians, T's estimate of it for AVB.

    python -m experiments.energies
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from experiments import variational
from experiments.record import ROOT, save_rows
from experiments.runs import do_all
from experiments.variational import METHODS, distances, exact_draws, floors, train
from tutor.energies import Banana, Ring
from tutor.grids import row_name

ENERGIES = {"banana": Banana(), "ring": Ring()}
SETTINGS = [
    {"energy": energy, "method": method, "seed": 0}
    for energy in ENERGIES
    for method in ("exact", *METHODS)
]
DRAWS, SHOWN = 2_000, 500
RUNS = ROOT / "build" / "experiments" / "energies" / "runs"


def run(energy: str, method: str, seed: int, checkpoint: Path) -> dict[str, float]:
    target = ENERGIES[energy]
    if method == "exact":
        z, found = exact_draws(target, DRAWS, other=True), {}
    else:
        z, found = train(method, target, seed, checkpoint, DRAWS)
    torch.save(z, checkpoint / "draws.pt")
    return distances(z, exact_draws(target, DRAWS)) | found


def shown(energy: str, method: str, seed: int) -> dict[str, Any]:
    """A few of a run's draws, for the scatter."""
    setting = {"energy": energy, "method": method, "seed": seed}
    z = torch.load(RUNS / row_name(setting) / "draws.pt")[:SHOWN]
    x = (100 * z).round().int().T.tolist()
    columns = {f"x_{i}": [v / 100 for v in column] for i, column in enumerate(x, 1)}
    return {"energy": energy, "method": method, **columns}


def main() -> None:
    facts = {"draws": DRAWS} | variational.facts()
    facts["log_evidence"] = {name: energy.log_evidence for name, energy in ENERGIES.items()}
    facts["floors"] = {name: floors(energy, DRAWS) for name, energy in ENERGIES.items()}
    do_all("energies", SETTINGS, run, **facts)
    if all((RUNS / row_name(setting) / "draws.pt").exists() for setting in SETTINGS):
        save_rows("energies_draws", [shown(**setting) for setting in SETTINGS], seed=0)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the floors, to the last digit, are among the facts
    main()
