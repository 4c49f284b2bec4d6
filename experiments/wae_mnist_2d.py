"""Posteriors of a VAE and of a WAE-MMD side by side: two dimensions, Gaussian encoders, MNIST.

Same networks, same squared error, same prior.  How much a VAE's posteriors overlap is decided by
the standard deviation of its decoder: at 1, ``1/2 |x - G(z)|^2 + KL``, as is common; and at 0.2,
near the one that raises the likelihood most.  Measured beside the other figures: how wide a
posterior is, and how often a draw of q(z|x) is likelier under the posterior of its own image than
under those of 999 others.  The WAE from narrow posteriors and from wide ones: the start decides
the end.  Shipped, for the figure of posteriors: the first row of each method.

    python -m experiments.wae_mnist_2d
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from experiments.wae_recipe import STARTS, digit_floor, measure_digits, start_posteriors
from tutor.models.autoencoder import Autoencoder
from tutor.training import decay_after

STEPS, BATCH, RATE, WEIGHT = 4_000, 256, 1e-3, 200.0
SHAPE, HIDDEN = (1, 28, 28), (256, 128)
NETWORKS = {
    "encoder": ["mlp_encoder", {"image_shape": SHAPE, "outputs": 4, "hidden": HIDDEN}],
    "decoder": ["mlp_decoder", {"latent_dim": 2, "image_shape": SHAPE, "hidden": HIDDEN[::-1]}],
}
NAMES = {"vae": "vae_mnist_2d_gaussian", "wae_mmd": "wae_mnist_2d"}
SETTINGS = [
    {"method": "vae", "start": "narrow", "decoder_std": 1.0, "seed": 0},
    {"method": "wae_mmd", "start": "narrow", "decoder_std": None, "seed": 0},
    {"method": "vae", "start": "narrow", "decoder_std": 0.2, "seed": 0},
    {"method": "wae_mmd", "start": "wide", "decoder_std": None, "seed": 0},
    {"method": "wae_mmd", "start": "narrow", "decoder_std": None, "seed": 1},
]
SHIPPED = SETTINGS[:2]


def arguments(method: str, decoder_std: float | None) -> dict[str, Any]:
    if method == "vae":
        return {"latent_dim": 2, "likelihood": "gaussian", "decoder_std": decoder_std}
    return {"latent_dim": 2, "posterior": "gaussian", "penalty_weight": WEIGHT}


def train(method: str, start: str, decoder_std: float | None, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    name = "VAE" if method == "vae" else "WAE"
    model = tutor.pretrained.build(name, arguments(method, decoder_std), NETWORKS)
    start_posteriors(model, start)
    tutor.fit(
        model,
        tutor.data.load("mnist"),
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=RATE, fused=True),
        schedule=decay_after(0.5),
        progress=False,
    )
    return tutor.pretrained.halve(model.eval())


@torch.no_grad()
def posteriors(model: Autoencoder, seed: int, n: int = 1_000) -> dict[str, float]:
    """The width of q(z|x), and the share of draws that are likeliest under their own image's."""
    q = model.encode(tutor.data.load("mnist", split="test")[:n])
    z = q.sample(generator=torch.Generator().manual_seed(seed)).unsqueeze(1)  # (n, 1, 2)
    log_q = q.log_prob(z)  # (n, n): draw of image i under the posterior of image j
    own = log_q.argmax(1) == torch.arange(n)
    return {
        "posterior_std": q.stddev.mean().item(),
        "own_image_percent": 100 * own.double().mean().item(),
    }


def run(method: str, start: str, decoder_std: float | None, seed: int) -> dict[str, float]:
    began = time.process_time()
    model = train(method, start, decoder_std, seed)
    row = {"train_cpu_seconds": time.process_time() - began}
    row |= posteriors(model, seed) | measure_digits(model, seed)
    if {"method": method, "start": start, "decoder_std": decoder_std, "seed": seed} in SHIPPED:
        about = {
            "arguments": arguments(method, decoder_std),
            "networks": NETWORKS,
            "data": "mnist, grey values",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        }
        tutor.pretrained.save(model, ROOT / "src" / "tutor" / "weights", NAMES[method], about)
    return row


def main() -> None:
    do_all(
        "wae_mnist_2d",
        SETTINGS,
        run,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
        penalty_weight=WEIGHT,
        hidden=HIDDEN,
        log_variance_at_start=STARTS,
        floor=digit_floor(10_000),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
