"""A critic against the truth: how far apart q and p may be before logistic regression fails.

q is known, and a multilayer perceptron T learns to tell its draws from those of p = N(0, I).  Its
best value is log q - log p, so the KL that AVB would read off, E_q T, has a known error.  The
farther q is from p, the fewer draws fall where both densities matter, and the worse T.

Two families of q in d dimensions, both with centre ``distance`` along the diagonal:

- a Gaussian of deviation 0.5;
- a *bent pair*: two Gaussians of deviation 0.25, one deviation of 0.5 to either side of the centre
  along the first axis, so that normalising q does not make it a Gaussian.

With adaptive contrast T sees ``(z - mean) / std`` against N(0, I), and log r(z) - log p(z) is
added to it.

    python -m experiments.avb_critic
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import softplus

from experiments.runs import do_all
from tutor.nets import mlp

CASES = (("gaussian", 1), ("gaussian", 2), ("gaussian", 8), ("bent pair", 2))
DISTANCES = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
CRITICS = ((False, False), (False, True), (True, True))  # adaptive contrast, prior in the critic
SEEDS = (0, 1, 2)
STEPS, BATCH, RATE, HIDDEN = 1_000, 256, 3e-3, (64, 64)
DRAWS = 20_000
STD, APART, WITHIN = 0.5, 0.5, 0.25


def draw(family: str, dim: int, distance: float, n: int, g: torch.Generator) -> Tensor:
    centre = torch.full((dim,), distance / math.sqrt(dim))
    noise = torch.randn(n, dim, generator=g)
    if family == "gaussian":
        return centre + STD * noise
    side = 2.0 * torch.randint(0, 2, (n,), generator=g) - 1
    z = centre + WITHIN * noise
    z[:, 0] += APART * side
    return z


def log_density(family: str, dim: int, distance: float, z: Tensor) -> Tensor:
    z = z - distance / math.sqrt(dim)
    if family == "gaussian":
        return Normal(0.0, STD).log_prob(z).sum(1)
    rest = Normal(0.0, WITHIN).log_prob(z[:, 1:]).sum(1)
    sides = [Normal(c, WITHIN).log_prob(z[:, 0]) for c in (-APART, APART)]
    return torch.stack(sides).logsumexp(0) - math.log(2) + rest


def moments(family: str, dim: int, distance: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of q, exact: what adaptive contrast would estimate."""
    std = torch.full((dim,), STD if family == "gaussian" else WITHIN)
    if family != "gaussian":
        std[0] = math.hypot(APART, WITHIN)
    return torch.full((dim,), distance / math.sqrt(dim)), std


def log_normal(z: Tensor) -> Tensor:
    return Normal(0.0, 1.0).log_prob(z).sum(1)


def run(
    family: str,
    dim: int,
    distance: float,
    adaptive_contrast: bool,
    prior_in_critic: bool,
    seed: int,
) -> dict[str, float]:
    g = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(*mlp([dim, *HIDDEN, 1], nn.ELU))
    mean, std = moments(family, dim, distance)

    def see(z: Tensor) -> Tensor:
        return (z - mean) / std if adaptive_contrast else z

    def critic(seen: Tensor) -> Tensor:
        value = network(seen).squeeze(1)
        return value - log_normal(seen) if prior_in_critic else value

    optimizer = torch.optim.Adam(network.parameters(), lr=RATE, fused=True)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min(1.0, 2 - 2 * t / STEPS))
    for _ in range(STEPS):
        posterior = critic(see(draw(family, dim, distance, BATCH, g)))
        drawn = critic(torch.randn(BATCH, dim, generator=g))
        loss = (softplus(-posterior) + softplus(drawn)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()

    z = draw(family, dim, distance, DRAWS, g)
    with torch.no_grad():
        estimate = critic(see(z))
        if adaptive_contrast:
            estimate = estimate + log_normal(see(z)) - std.log().sum() - log_normal(z)
    truth = log_density(family, dim, distance, z) - log_normal(z)
    error = estimate - truth
    return {
        "kl": truth.mean().item(),
        "estimate": estimate.mean().item(),
        "error": error.mean().item(),
        "rms_error": error.square().mean().sqrt().item(),
        "loss": loss.item(),
    }


def main() -> None:
    settings = [
        {
            "family": family,
            "dim": dim,
            "distance": distance,
            "adaptive_contrast": contrast,
            "prior_in_critic": prior_in_critic,
            "seed": seed,
        }
        for family, dim in CASES
        for distance in DISTANCES
        for contrast, prior_in_critic in CRITICS
        for seed in SEEDS
    ]
    facts = {"batch_size": BATCH, "learning_rate": RATE, "hidden": HIDDEN, "draws": DRAWS}
    do_all("avb_critic", settings, run, steps=STEPS, **facts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
