"""The four points: what a posterior of any shape gains over a Gaussian one, three seeds each.

The decoder, the optimiser's rates and the batches are the same for both methods.  Every figure of
the table is exact up to a stated error: log p(x) by quadrature over the decoder, q(z|x) of AVB as
the density of four million draws, that of the VAE in closed form.  What AVB's critic claims stands
beside it.  Seed 0 of each is shipped, with a recording of its training for the live figure.

    python -m experiments.avb_four_points     # ten minutes in all
    python -m experiments.avb_four_points 1   # the next run
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor import pretrained
from tutor.data import four_points
from tutor.game import Model
from tutor.grids import row_name
from tutor.metrics import (
    SampledDensity,
    exact_elbo,
    exact_posterior,
    quadrature,
    sampled_density,
    surgery,
)
from tutor.models import AVB, VAE
from tutor.widgets import PosteriorFrames, posterior_frames
from tutor.widgets.recorded import save_frames

SHAPE, HIDDEN, NOISE = (1, 2, 2), (64, 64, 64), 16
STEPS, BATCH, RATE = 8_000, 256, 1e-3
SETTINGS = [{"method": method, "seed": seed} for method in ("avb", "vae") for seed in (0, 1, 2)]
FRAMES = (0, 10, 25, 50, 100, 150, 200, 300, 400, 600, 800, 1_200, 1_600, 2_400, 3_200, 4_800)
FRAMES += (STEPS,)
DRAWS, CELLS, WINDOW = 4_000_000, 400, (-6.0, 6.0)
WIDE = (-15.0, 15.0)  # early in training AVB's codes run far out
RUNS = ROOT / "build" / "experiments" / "avb_four_points" / "runs"

NAMES = {"avb": "AVB", "vae": "VAE"}
NETWORKS = {
    "vae": {
        "encoder": ("mlp_encoder", {"image_shape": SHAPE, "outputs": 4, "hidden": HIDDEN}),
        "decoder": ("mlp_decoder", {"latent_dim": 2, "image_shape": SHAPE, "hidden": HIDDEN}),
    },
    "avb": {
        "encoder": (
            "NoiseEncoder",
            {"image_shape": SHAPE, "latent_dim": 2, "noise_dim": NOISE, "hidden": HIDDEN},
        ),
        "decoder": ("mlp_decoder", {"latent_dim": 2, "image_shape": SHAPE, "hidden": HIDDEN}),
        "critic": (
            "ResidualCritic",
            {"image_shape": SHAPE, "latent_dim": 2, "width": 64, "blocks": 2},
        ),
    },
}
ARGUMENTS = {
    "vae": {"latent_dim": 2, "image_shape": SHAPE},
    "avb": {"latent_dim": 2, "image_shape": SHAPE, "critic_turns": 2},
}


class Watched:
    """The data, which let somebody look at the model before the batch of a given step."""

    def __init__(self, rows: Tensor, look: Callable[[int], None]) -> None:
        self.rows, self.look, self.step = rows, look, 0

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> Watched:
        return self

    def take(self, index: Tensor) -> Tensor:
        self.look(self.step)
        self.step += 1
        return self.rows[index]


def train(method: str, seed: int) -> tuple[Model, list[dict[str, Tensor]], float]:
    """The trained model, its weights at the recorded steps, and the seconds it took."""
    torch.manual_seed(seed)
    model = pretrained.build(NAMES[method], ARGUMENTS[method], NETWORKS[method])
    moments: list[dict[str, Tensor]] = []

    def look(step: int) -> None:
        if step in FRAMES:
            moments.append({k: v.clone() for k, v in model.state_dict().items()})

    began = time.perf_counter()
    tutor.fit(
        model,
        Watched(four_points()[:].repeat(BATCH // 4, 1, 1, 1), look),  # each point equally often
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        device="cpu",
        optimizer=partial(Adam, lr=RATE, fused=True),
        schedule=tutor.training.decay_after(0.5),
        progress=False,
    )
    look(STEPS)
    return pretrained.halve(model), moments, time.perf_counter() - began


def counted(
    model: AVB | VAE, draws: int, window: tuple[float, float] = WINDOW, seed: int = 0
) -> SampledDensity:
    """q(z|x) of the four points as a density on the grid."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        q = model.encode(four_points()[:])
        return sampled_density(
            lambda n: q.sample((n,), generator=g), draws=draws, bounds=window, points=CELLS
        )


def posterior_cells(model: nn.Module, x: Tensor, window: tuple[float, float] = WINDOW) -> Tensor:
    """The probability of each cell under the exact posterior, ``(4, CELLS ** 2)``.

    From a grid four times as fine: the borders between the four posteriors are sharper than a cell.
    """
    fine = exact_posterior(model, x, bounds=window, points=4 * CELLS).weights
    return fine.double().view(len(x), CELLS, 4, CELLS, 4).sum((2, 4)).flatten(1)


def recorded_kl(model: nn.Module, x: Tensor) -> Tensor:
    """KL(q(z|x) || p(z|x)) of each point on a wide grid; a figure to watch, not for the table."""
    truth = posterior_cells(model, x, WIDE)
    return counted(model, 400_000, WIDE).kl(truth).value.float()


def reconstruction(model: AVB | VAE, draws: int) -> Tensor:
    """``-E_q log p(x|z)`` of each point by plain averages, ``(4,)``."""
    x, g, total = four_points()[:], torch.Generator().manual_seed(1), torch.zeros(4)
    with torch.no_grad():
        q = model.encode(x)
        for _ in range(draws // 50_000):
            z = q.sample((50_000,), generator=g)  # (50 000, 4, 2)
            for i in range(4):
                total[i] -= model.decode(z[:, i]).log_prob(x[i]).sum()
    return total / (draws // 50_000 * 50_000)


def measure(model: AVB | VAE) -> dict[str, float]:
    x = four_points()[:]
    exact = quadrature(model, x)
    density = counted(model, DRAWS)
    miss = density.kl(posterior_cells(model, x))
    z = density.z
    prior = model.prior.log_prob(z.float()).double().exp() * density.cell
    marginal = density.mixture().kl(prior)
    row = {
        "log_likelihood": exact.mean().item(),
        "reconstruction_error": reconstruction(model, 500_000).mean().item(),
        "elbo": (exact - miss.value).mean().item(),
        "kl_to_exact_posterior": miss.value.mean().item(),
        "kl_to_exact_posterior_coarser_cells": miss.coarser.mean().item(),
        "kl_aggregate_to_prior": marginal.value.item(),
        "kl_aggregate_to_prior_coarser_cells": marginal.coarser.item(),
    }
    if isinstance(model, AVB):
        g = torch.Generator().manual_seed(2)
        row["claimed_elbo"] = model.claimed_elbo(x, samples=5_000, generator=g).mean().item()
    else:  # the same figures in closed form: how good the counting is
        row["elbo_closed_form"] = exact_elbo(model, x, nodes=64).mean().item()
        row["kl_aggregate_to_prior_closed_form"] = surgery(model, x).marginal_kl.item()
    return row


def record(model: AVB | VAE, moments: list[dict[str, Tensor]], method: str) -> PosteriorFrames:
    last = {k: v.clone() for k, v in model.state_dict().items()}

    def at_each() -> Any:
        for state in moments:
            model.load_state_dict(state)
            yield model

    frames = posterior_frames(
        at_each(),
        four_points()[:],
        FRAMES,
        name=method.upper(),
        samples=300,
        points=48,
        window=(-3.6, 3.6),
        kl=recorded_kl,
    )
    model.load_state_dict(last)
    return frames


def run(method: str, seed: int, checkpoint: Path) -> dict[str, float]:
    kept = checkpoint / "trained.pt"  # killed while measuring, a run does not train again
    if not kept.exists():
        model, moments, seconds = train(method, seed)
        torch.save((model.state_dict(), moments, seconds), kept)
    last, moments, seconds = torch.load(kept, weights_only=True)
    model = pretrained.build(NAMES[method], ARGUMENTS[method], NETWORKS[method])
    model.load_state_dict(last)
    row = {"method": method, "seed": seed, "steps": STEPS, "seconds": seconds, **measure(model)}
    if seed == 0:
        about = {
            "arguments": ARGUMENTS[method],
            "networks": NETWORKS[method],
            "data": "four_points",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        }
        weights = ROOT / "src" / "tutor" / "weights"
        pretrained.save(model, weights, f"{method}_four_points", about)
        torch.save(record(model, moments, method)._asdict(), checkpoint / "frames.pt")
    return row


def collect() -> None:
    """The recording of seed 0 of both methods, once both are there."""
    shipped = [{"method": method, "seed": 0} for method in ("vae", "avb")]
    stored = [RUNS / row_name(setting) / "frames.pt" for setting in shipped]
    if all(path.exists() for path in stored):
        frames = [PosteriorFrames(**torch.load(path, weights_only=True)) for path in stored]
        about = {"data": "four_points", "seed": 0, "origin": origin()}
        save_frames(ROOT / "src" / "tutor" / "recordings", "avb_four_points", frames, about)


def main() -> None:
    facts = {"best_possible": -1.3862944, "batch_size": BATCH, "learning_rate": RATE}
    facts |= {"draws": DRAWS, "cells": CELLS, "steps": STEPS}
    facts |= {"arguments": ARGUMENTS, "networks": NETWORKS}
    do_all("avb_four_points", SETTINGS, run, **facts)
    collect()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
