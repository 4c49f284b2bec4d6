"""Seconds that each score of disentanglement takes on as many codes as dSprites has images.

    python benchmarks/disentanglement.py [--kind rotated] [--rounds 3] [--threads N] [--mixture]

737 280 codes of ten coordinates are made by hand, without an encoder: encoding comes once, before
all of this, and takes longer.  The mixture of as many posteriors is left out unless asked for.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import torch

from tutor import metrics
from tutor.posteriors import DiagonalGaussian

SIZES = (3, 6, 40, 32, 32)
DIM = 10


def scores(codes: torch.Tensor, factors: torch.Tensor) -> dict[str, Callable[[], float]]:
    """Each score as a call without arguments, with the same random numbers every time."""

    def fresh() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    return {
        "FactorVAE, paper (800 votes of 100)": lambda: (
            metrics.factor_vae_score(codes, factors, generator=fresh()).score
        ),
        "FactorVAE, library (15 000 votes of 64)": lambda: (
            metrics.factor_vae_score(codes, factors, protocol="library", generator=fresh()).score
        ),
        "Higgins (15 000 batches of 64 pairs)": lambda: (
            metrics.beta_vae_score(codes, factors, generator=fresh()).score
        ),
        "MIG, 20 bins, all codes": lambda: metrics.mig(codes, factors).score,
        "SAP, library (15 000 images)": lambda: (
            metrics.sap(codes, factors, generator=fresh()).score
        ),
        "SAP, paper (all; shape by 15 000)": lambda: (
            metrics.sap(codes, factors, protocol="paper", categorical=[0], generator=fresh()).score
        ),
        "DCI, disentanglement (15 000 images)": lambda: (
            metrics.dci(codes, factors, generator=fresh()).disentanglement
        ),
        "TC of the means, Gaussian": lambda: metrics.total_correlation(codes).item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", default="rotated", help="of metrics.example_codes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mixture", action="store_true", help="time MIG of posteriors as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    factors = torch.cartesian_prod(*[torch.arange(size) for size in SIZES])
    g = torch.Generator().manual_seed(0)
    codes = metrics.example_codes(factors, options.kind, dim=DIM, generator=g)
    calls = scores(codes, factors)
    if options.mixture:
        posterior = DiagonalGaussian(codes, torch.full_like(codes, -3.0))
        calls["MIG, mixture of all posteriors"] = lambda: (
            metrics.mig_mixture(posterior, factors).score
        )
    metrics.beta_vae_score(codes[::7], factors[::7], train=50, test=50)  # imports scikit-learn

    print(f"{len(codes):,} {options.kind} codes of {DIM} coordinates, {len(SIZES)} factors, CPU")
    version = f"torch {torch.__version__}, Python {platform.python_version()}"
    print(f"{version}, {options.threads} threads, best of {options.rounds}\n")
    print(f"{'':40} {'seconds':>8} {'score':>8}")
    total = 0.0
    for name, call in calls.items():
        best = float("inf")
        for _ in range(options.rounds):
            began = time.perf_counter()
            value = call()
            best = min(best, time.perf_counter() - began)
        total += best
        print(f"{name:40} {best:8.2f} {value:8.3f}", flush=True)
    print(f"{'all together':40} {total:8.2f}")


if __name__ == "__main__":
    main()
