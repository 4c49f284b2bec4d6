"""The banana and the ring of AVB's authors: mean field, full rank and AVB with adaptive contrast.

Sliced Wasserstein and squared energy distance of 2 000 draws to as many exact ones, beside the
noise floor, and ``log_evidence - ELBO``: KL(q || p) for the Gaussians, T's estimate of it for AVB.

    python -m experiments.energies
"""

from __future__ import annotations

import torch

from experiments.record import ROOT, save_rows
from experiments.variational import BATCH, METHODS, RATES, STEPS, distances, floors, gap, train
from tutor.energies import Banana, Ring

ENERGIES = {"banana": Banana(), "ring": Ring()}
SEEDS = (0,)
DRAWS, SHOWN = 2_000, 500
OUT = ROOT / "build" / "experiments" / "energies"


def main() -> None:
    rows, points, all_floors = [], [], {}
    for name, energy in ENERGIES.items():
        exact, other = (
            energy.exact_draws(DRAWS, generator=torch.Generator().manual_seed(s)) for s in (11, 12)
        )
        all_floors[name] = floors(energy, DRAWS)
        rows.append({"energy": name, "method": "exact", "seed": 0, **distances(other, exact)})
        shown = {"exact": other}
        for method in METHODS:
            for seed in SEEDS:
                model, stages = train(method, energy, seed, OUT / name, DRAWS)
                z = stages[STEPS]
                row = {"energy": name, "method": method, "seed": seed, **distances(z, exact)}
                rows.append({**row, "gap": gap(model, energy, seed)})
                print(rows[-1], flush=True)
                shown.setdefault(method, z)  # the first seed
        for method, z in shown.items():
            x = (100 * z[:SHOWN]).round().int().T.tolist()
            columns = {f"x_{i}": [v / 100 for v in column] for i, column in enumerate(x, 1)}
            points.append({"energy": name, "method": method, **columns})
    facts = {"draws": DRAWS, "steps": STEPS, "batch_size": BATCH, "adam_rate_and_beta1": RATES}
    evidence = {name: energy.log_evidence for name, energy in ENERGIES.items()}
    save_rows("energies", rows, **facts, log_evidence=evidence, floors=all_floors)
    save_rows("energies_draws", points, seed=0)


if __name__ == "__main__":
    main()
