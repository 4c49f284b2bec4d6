"""When the codes have more dimensions than the data: WAE-MMD on MNIST with d = 2, 8, 32, 64.

A deterministic encoder maps images, which fill a thin sheet, to a sheet of codes, and a sheet can't
fill d dimensions: q(z) stays unlike p(z) however long it is trained.  A random encoder can fill
them with noise; how far it does depends on where it starts (see `wae_recipe.start_posteriors`).
Fully connected networks, one seed, lambda 200 throughout, the kernel's scales in proportion to d.

    python -m experiments.wae_dimension
"""

from __future__ import annotations

from functools import partial

import torch

import tutor
from experiments.runs import do_all
from experiments.wae_recipe import STARTS, digit_floor, measure_digits, start_posteriors
from tutor.models import WAE
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.training import decay_after

SETTINGS = [
    {"latent_dim": d, "encoder": encoder}
    for encoder, dimensions in {
        "deterministic": (2, 8, 32, 64),
        "narrow": (2, 8, 32, 64),
        "wide": (8, 64),
    }.items()
    for d in dimensions
]
STEPS, BATCH, RATE, WEIGHT, HIDDEN = 2_000, 256, 1e-3, 200.0, (256, 256)
SHAPE = (1, 28, 28)


def train(latent_dim: int, encoder: str) -> WAE:
    torch.manual_seed(0)
    posterior = "deterministic" if encoder == "deterministic" else "gaussian"
    outputs = latent_dim * (2 if posterior == "gaussian" else 1)
    model = WAE(
        latent_dim,
        penalty_weight=WEIGHT,
        posterior=posterior,
        encoder=mlp_encoder(SHAPE, outputs, HIDDEN),
        decoder=mlp_decoder(latent_dim, SHAPE, HIDDEN),
    )
    if posterior == "gaussian":
        start_posteriors(model, encoder)
    tutor.fit(
        model,
        tutor.data.load("mnist"),
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=RATE, fused=True),
        schedule=decay_after(0.5),
        progress=False,
    )
    return model.eval()


@torch.no_grad()
def spread(model: WAE, n: int = 10_000) -> dict[str, float]:
    """How codes' variance is shared out: by noise of single posteriors, and over directions.

    ``effective_dimensions`` is (sum of eigenvalues)^2 over the sum of their squares, of the
    covariance of the posterior means: d for the prior.
    """
    q = model.encode(tutor.data.load("mnist", split="test")[:n])
    values = torch.linalg.eigvalsh(q.mean.double().T.cov())
    return {
        "posterior_std": q.stddev.mean().item(),
        "smallest_variance": values.min().item(),
        "largest_variance": values.max().item(),
        "effective_dimensions": (values.sum().square() / values.square().sum()).item(),
    }


def run(latent_dim: int, encoder: str) -> dict[str, float]:
    model = train(latent_dim, encoder)
    return spread(model) | measure_digits(model, seed=0)


def main() -> None:
    do_all(
        "wae_dimension",
        SETTINGS,
        run,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        penalty_weight=WEIGHT,
        hidden=HIDDEN,
        log_variance_at_start=STARTS,
        seed=0,
        floor=digit_floor(10_000),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
