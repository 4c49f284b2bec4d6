"""Does bfloat16 learn as well as float32?  Losses and scores over seeds, in pairs.

A seed decides the first weights, the batches and the noise, so two runs of one seed differ by the
rounding alone.  Two games: a VAE of 784-512-2 on MNIST, and FactorVAE in the world of small sprites
(`experiments.small_sprites`), whose discriminator feels the rounding most.  All figures are
computed in float32 from the weights at the end.

    python -m experiments.precision
"""

from __future__ import annotations

from typing import Any

import torch

import tutor
from experiments import small_sprites
from experiments.runs import do_all
from tutor.divergences import gaussian_kl
from tutor.game import evaluating
from tutor.models import VAE
from tutor.nets import mlp_decoder, mlp_encoder

PRECISIONS = ("float32", "bf16")
STEPS, BATCH, SHAPE = 1_000, 128, (1, 28, 28)
GAMMA = 50.0  # a discriminator that matters: at this weight scores depend on it
SEEDS = {"vae": range(8), "factor-vae": range(5)}


def run(model: str, seed: int, precision: str) -> dict[str, Any]:
    return (train_vae if model == "vae" else train_factor_vae)(seed, precision)


def train_vae(seed: int, precision: str) -> dict[str, Any]:
    """Negative ELBO on the 10 000 test images, in nats an image, one draw of z for each."""
    torch.manual_seed(seed)
    encoder, decoder = mlp_encoder(SHAPE, 4, (512,)), mlp_decoder(2, SHAPE, (512,))
    model = VAE(2, encoder=encoder, decoder=decoder)
    images = tutor.data.load("mnist")
    tutor.fit(
        model, images, steps=STEPS, batch_size=BATCH, seed=seed, device="cpu",
        precision=precision, progress=False,
    )  # fmt: skip
    x, g = tutor.data.load("mnist", split="test")[:], torch.Generator().manual_seed(seed)
    with evaluating(model):
        q = model.encode(x)
        error = -model.decode(q.sample(generator=g)).log_prob(x).mean()
        rate = gaussian_kl(q.mean, q.log_var).mean()
    return {
        "negative_elbo": (error + rate).item(),
        "reconstruction": error.item(),
        "rate": rate.item(),
    }


def train_factor_vae(seed: int, precision: str) -> dict[str, Any]:
    """The exact parts of the rate, and the scores, of one run on small sprites."""
    data = small_sprites.world()
    torch.manual_seed(seed)
    model = small_sprites.build("factor-vae", GAMMA, data.shape)
    small_sprites.train(model, data, seed, precision=precision)
    row = small_sprites.measure(model, data, seed)
    return {"negative_elbo": row["reconstruction"] + row["rate"], **row}


def main() -> None:
    settings = [
        {"model": model, "seed": seed, "precision": precision}
        for model, seeds in SEEDS.items()
        for seed in seeds
        for precision in PRECISIONS
    ]
    do_all(
        "precision", settings, run, steps=STEPS, batch_size=BATCH, gamma=GAMMA,
        factor_vae_steps=small_sprites.STEPS, factor_vae_batch_size=small_sprites.BATCH,
    )  # fmt: skip


if __name__ == "__main__":
    main()
