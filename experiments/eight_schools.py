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

from typing import Any

import torch
from torch import Tensor

from experiments.record import ROOT, save_rows
from experiments.variational import BATCH, METHODS, RATES, STEPS, distances, floors, gap, train
from tutor.energies import EightSchools, Energy
from tutor.metrics import marginal_kl

SEEDS = (0, 1, 2)
DRAWS, SHOWN = 2_000, 400
CHAINS, WARMUP = 2, 300
OUT = ROOT / "build" / "experiments" / "eight_schools"
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


def nuts_chains() -> tuple[Tensor, dict[str, Any]]:
    """DRAWS points from CHAINS chains, with effective sample size and R-hat (worst coordinate)."""
    from pyro.ops.stats import effective_sample_size, split_gelman_rubin

    chains, evaluations, divergences = [], 0, 0
    for seed in range(CHAINS):
        kept = OUT / f"nuts-seed{seed}.pt"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
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


def shown(method: str, z: Tensor) -> dict[str, Any]:
    """A few points of (mu, log tau) for the scatter, evenly through the draws."""
    few = z[:: len(z) // SHOWN][:SHOWN]
    mu, tau, _ = ENERGY.constrain(few)
    rounded = {"mu": mu, "log_tau": tau.log()}
    return {"method": method, **{k: [round(v, 2) for v in x.tolist()] for k, x in rounded.items()}}


def main() -> None:
    exact, other = (
        ENERGY.exact_draws(DRAWS, generator=torch.Generator().manual_seed(s)) for s in (11, 12)
    )
    facts = {"draws": DRAWS, "log_evidence": ENERGY.log_evidence, "floors": all_floors(DRAWS)}
    facts |= {"steps": STEPS, "batch_size": BATCH, "adam_rate_and_beta1": RATES}
    facts |= {"nuts_chains": CHAINS, "nuts_warmup": WARMUP}
    rows = [{"method": "exact", "seed": 0, **measure(other, exact)}]
    points = [shown("exact", other)]

    z, cost = nuts_chains()
    rows.append({"method": "NUTS", "seed": 0, **measure(z, exact), **cost})
    points.append(shown("NUTS", z))
    print(*rows, sep="\n", flush=True)

    curves = []
    for method in METHODS:
        for seed in SEEDS:
            model, stages = train(method, ENERGY, seed, OUT, DRAWS)
            for step, z in stages.items():
                found = measure(z, exact)
                curves.append({"method": method, "seed": seed, "step": step, **found})
            row = {"method": method, "seed": seed, **found, "gap": gap(model, ENERGY, seed)}
            rows.append({**row, "evaluations": STEPS * BATCH})
            print(rows[-1], flush=True)
            if seed == 0:
                points.append(shown(method, z))
    save_rows("eight_schools", rows, **facts)
    save_rows("eight_schools_curves", curves, **facts)
    save_rows("eight_schools_draws", points, seed=0)


if __name__ == "__main__":
    main()
