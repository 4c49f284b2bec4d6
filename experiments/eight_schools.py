"""Eight Schools: exact posterior, NUTS, Gaussian variational Bayes and AVB with adaptive contrast.

The model is the textbook's (see `tutor.energies.EightSchools`), not the rescaled one of the
notebook that AVB's authors publish.  Everything is compared with exact draws on the coordinates
z = (mu / 5, log tau, eta_1..8), and again on (mu, log tau) alone:

    sliced Wasserstein and squared energy distance, 2 000 draws against 2 000 exact ones;
    the KL of a marginal to the exact one over 20 bins of equal exact probability, for mu and for
    log tau (their distribution functions are known by quadrature, see `marginal_kl`);
    log_evidence - ELBO, which is KL(q || posterior) for the Gaussians.  For AVB the same number
    is T's estimate of it, and no bound.

Each stands beside its noise floor, the same measure of exact draws.  NUTS runs two chains on the
same ``log_prob``.

    python -m experiments.eight_schools
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import variational
from experiments.record import ROOT, save_rows
from experiments.runs import do_all
from experiments.variational import METHODS, distances, exact_draws, floors, stages, train
from tutor.energies import EightSchools, Energy
from tutor.grids import row_name
from tutor.metrics import marginal_kl

SEEDS = {"exact": (0,), "NUTS": (0,)} | dict.fromkeys(METHODS, (0, 1, 2))
SETTINGS = [{"method": method, "seed": seed} for method, seeds in SEEDS.items() for seed in seeds]
DRAWS, SHOWN = 2_000, 400
CHAINS, WARMUP = 2, 300
RUNS = ROOT / "build" / "experiments" / "eight_schools" / "runs"
ENERGY = EightSchools()


def nuts(energy: Energy, draws: int, *, warmup: int, seed: int) -> tuple[Tensor, dict[str, int]]:
    """One chain of the no-U-turn sampler by Pyro: draws ``(draws, dim)``, and what it cost."""
    import pyro
    from pyro.infer import MCMC, NUTS

    counts = {"evaluations": 0}

    def potential(point: dict[str, Tensor]) -> Tensor:
        counts["evaluations"] += 1
        return -energy.log_prob(point["z"])

    with torch.random.fork_rng():
        pyro.set_rng_seed(seed)
        chain = MCMC(
            NUTS(potential_fn=potential),
            num_samples=draws,
            warmup_steps=warmup,
            initial_params={"z": 0.1 * torch.randn(energy.dim, dtype=torch.float64)},
            disable_progbar=True,
        )
        chain.run()
    counts["divergences"] = sum(len(found) for found in chain.diagnostics()["divergences"].values())
    return chain.get_samples()["z"], counts


def nuts_chains(folder: Path) -> tuple[Tensor, dict[str, Any]]:
    """DRAWS points from CHAINS chains, with effective sample size and R-hat (worst coordinate)."""
    from pyro.ops.stats import effective_sample_size, split_gelman_rubin

    chains, evaluations, divergences = [], 0, 0
    for seed in range(CHAINS):
        kept = folder / f"nuts-seed{seed}.pt"
        if not kept.exists():
            torch.save(nuts(ENERGY, DRAWS // CHAINS, warmup=WARMUP, seed=seed), kept)
        z, cost = torch.load(kept)
        chains.append(z)
        evaluations += cost["evaluations"]
        divergences += cost["divergences"]
    stacked = torch.stack(chains)  # (chains, draws, dim)
    return torch.cat(chains).float(), {
        "evaluations": evaluations,
        "divergences": divergences,
        "effective_draws": effective_sample_size(stacked).min().item(),
        "r_hat": split_gelman_rubin(stacked).max().item(),
    }


def measure(z: Tensor, exact: Tensor) -> dict[str, float]:
    mu, tau, _ = ENERGY.constrain(z.double())
    plane = {f"plane_{k}": v for k, v in distances(z[:, :2], exact[:, :2]).items()}
    return {
        **distances(z, exact),
        **plane,
        "kl_mu": marginal_kl(ENERGY.marginal_cdf("mu", mu)).item(),
        "kl_log_tau": marginal_kl(ENERGY.marginal_cdf("log tau", tau.log())).item(),
    }


def all_floors(n: int) -> dict[str, dict[str, float]]:
    plane = {f"plane_{k}": v for k, v in floors(ENERGY, n, columns=2).items()}
    marginal: dict[str, list[Tensor]] = {"kl_mu": [], "kl_log_tau": []}
    generator = torch.Generator().manual_seed(98)
    for _ in range(20):
        mu, tau, _ = ENERGY.constrain(ENERGY.exact_draws(n, generator=generator).double())
        marginal["kl_mu"].append(marginal_kl(ENERGY.marginal_cdf("mu", mu)))
        marginal["kl_log_tau"].append(marginal_kl(ENERGY.marginal_cdf("log tau", tau.log())))
    found = {k: torch.std_mean(torch.stack(v)) for k, v in marginal.items()}
    found_floors = {k: {"mean": m.item(), "std": s.item()} for k, (s, m) in found.items()}
    return {**floors(ENERGY, n), **plane, **found_floors}


def run(method: str, seed: int, checkpoint: Path) -> dict[str, float]:
    if method == "exact":
        z, found = exact_draws(ENERGY, DRAWS, other=True), {}
    elif method == "NUTS":
        z, found = nuts_chains(checkpoint)
    else:
        z, found = train(method, ENERGY, seed, checkpoint, DRAWS)
        found["evaluations"] = variational.STEPS * variational.BATCH
    torch.save(z, checkpoint / "draws.pt")
    return measure(z, exact_draws(ENERGY, DRAWS)) | found


def shown(method: str, seed: int) -> dict[str, Any]:
    """A few of a run's points of (mu, log tau) for the scatter, evenly through the draws."""
    z = torch.load(RUNS / row_name({"method": method, "seed": seed}) / "draws.pt")
    mu, tau, _ = ENERGY.constrain(z[:: len(z) // SHOWN][:SHOWN])
    rounded = {"mu": mu, "log_tau": tau.log()}
    return {"method": method, **{k: [round(v, 2) for v in x.tolist()] for k, x in rounded.items()}}


def curves() -> list[dict[str, Any]]:
    """The measures of each training run at every stop."""
    exact = exact_draws(ENERGY, DRAWS)
    return [
        {**setting, "step": step, **measure(z, exact)}
        for setting in SETTINGS
        if setting["method"] in METHODS
        for step, z in stages(RUNS / row_name(setting)).items()
    ]


def main() -> None:
    facts = {"draws": DRAWS, "log_evidence": ENERGY.log_evidence, "floors": all_floors(DRAWS)}
    facts |= {"nuts_chains": CHAINS, "nuts_warmup": WARMUP} | variational.facts()
    do_all("eight_schools", SETTINGS, run, **facts)
    if all((RUNS / row_name(setting) / "draws.pt").exists() for setting in SETTINGS):
        save_rows("eight_schools_curves", curves(), **facts)
        first = [setting for setting in SETTINGS if setting["seed"] == 0]
        save_rows("eight_schools_draws", [shown(**setting) for setting in first], seed=0)


if __name__ == "__main__":
    torch.set_num_threads(1)  # the floors, to the last digit, are among the facts
    main()
