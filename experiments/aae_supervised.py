"""Label-aware regularisation on MNIST: does every class go to its own part of the prior?

All 60 000 labels; the mixture of ten, the swiss roll and the uniform square.  Agreement is the
share of test images whose code lies in its own class's part: the part with the largest density.
Seed 0 of each prior is shipped as ``aae_supervised_mixture``, ``..._roll``, ``..._uniform``.

    python -m experiments.aae_supervised
"""

from __future__ import annotations

import time
from functools import partial

import torch
from torch import Tensor

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor.metrics import prior_match
from tutor.models import AAE
from tutor.priors import UniformBox
from tutor.training import decay_after

PRIORS = {
    "mixture": ("GaussianMixture", {"components": 10}),
    "swiss roll": ("SwissRoll", {}),
    "uniform": ("UniformBox", {"dim": 2}),
}
SHAPE = (1, 28, 28)
NETWORKS = {
    "encoder": (
        "mlp_encoder",
        {"image_shape": SHAPE, "outputs": 2, "hidden": (256, 256), "dropout": 0.2},
    ),
    "decoder": ("mlp_decoder", {"latent_dim": 2, "image_shape": SHAPE, "hidden": (64, 64)}),
}
SEEDS = (0, 1, 2)
STEPS, BATCH = 5_000, 256
PENALTY = {"mixture": 0.02, "swiss roll": 0.05, "uniform": 0.02}
# A slow autoencoder beside a fast generator: where a class belongs is told by its label, and what
# the reconstruction would like better drags codes over the borders.
RATES = {"autoencoder": 1e-4, "discriminator": 1e-3, "generator": 2e-3}
OPTIMIZER = {
    player: partial(torch.optim.Adam, lr=rate, betas=(0.5, 0.99), fused=True)
    for player, rate in RATES.items()
}


def build(prior: str, seed: int) -> AAE:
    torch.manual_seed(seed)
    return tutor.pretrained.build("AAE", arguments(prior), NETWORKS | {"prior": PRIORS[prior]})


def arguments(prior: str) -> dict[str, object]:
    return {"latent_dim": 2, "supervised": True, "gradient_penalty": PENALTY[prior]}


def train(model: AAE, source: object, seed: int) -> float:
    began = time.perf_counter()
    tutor.fit(
        model,
        source,
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        optimizer=OPTIMIZER,
        schedule=decay_after(0.5),
        progress=False,
    )
    model.eval().cpu()
    return time.perf_counter() - began


@torch.no_grad()
def measure(model: AAE, seed: int) -> dict[str, float]:
    test = tutor.data.load("mnist", split="test")
    codes = torch.cat([model.encode(x).mean for x in test[:].split(1_000)])
    match = prior_match(codes, model.prior, generator=torch.Generator().manual_seed(seed))
    return {
        "agreement": (component(model, codes) == test.labels).double().mean().item(),
        **match._asdict(),
        "ratio": match.ratio,
    }


def component(model: AAE, z: Tensor) -> Tensor:
    """The class whose part of the prior has the largest density at z (or lies nearest to it)."""
    z = z.clamp(-1, 1) if isinstance(model.prior, UniformBox) else z  # a code just off the square
    classes = range(model.prior.classes)
    each = [model.prior.log_prob_class(z, torch.full((len(z),), k)) for k in classes]
    return torch.stack(each, 1).argmax(1)


def run(prior: str, seed: int) -> dict[str, float]:
    model = build(prior, seed)
    seconds = train(model, tutor.data.load("mnist").labelled(), seed)
    tutor.pretrained.halve(model)
    row = {"seconds": seconds} | measure(model, seed)
    if seed == 0:
        ship(model, prior, row)
    return row


def main() -> None:
    settings = [{"prior": prior, "seed": seed} for seed in SEEDS for prior in PRIORS]
    facts = {"batch_size": BATCH, "labels": 60_000, "penalty": PENALTY, "rates": RATES}
    do_all("aae_supervised", settings, run, steps=STEPS, **facts)


def ship(model: AAE, prior: str, measured: dict[str, object]) -> None:
    name = "aae_supervised_" + prior.split()[-1]
    about = {
        "arguments": arguments(prior),
        "networks": NETWORKS | {"prior": PRIORS[prior]},
        "data": "mnist, all labels",
        "steps": STEPS,
        "measured": measured,
        "origin": origin(),
    }
    tutor.pretrained.save(model, ROOT / "src" / "tutor" / "weights", name, about)


if __name__ == "__main__":
    main()
