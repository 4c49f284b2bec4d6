"""Posteriors of a VAE and of a WAE-MMD side by side: two dimensions, Gaussian encoders, MNIST.

Same networks, same squared error, same prior.  The VAE's decoder has a standard deviation of 0.2 a
pixel, near the best one for two dimensions, so that it weighs ``|x - G(z)|^2 / 0.08`` against its
KL terms.  Measured beside the other figures: how wide a posterior is, and how often a draw of
q(z|x) is likelier under the posterior of its own image than under those of 999 others.  Each
method from narrow posteriors and from wide ones: for the WAE the start decides the end.  Seed 0
from narrow is shipped, for the figure of posteriors.

    python -m experiments.wae_mnist_2d
"""

from __future__ import annotations

import time
from functools import partial

import torch

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from experiments.wae_recipe import STARTS, digit_floor, measure_digits, start_posteriors
from tutor.models.autoencoder import Autoencoder
from tutor.training import decay_after

STEPS, BATCH, RATE, WEIGHT, STD = 4_000, 256, 1e-3, 200.0, 0.2
SHAPE, HIDDEN = (1, 28, 28), (256, 128)
NETWORKS = {
    "encoder": ["mlp_encoder", {"image_shape": SHAPE, "outputs": 4, "hidden": HIDDEN}],
    "decoder": ["mlp_decoder", {"latent_dim": 2, "image_shape": SHAPE, "hidden": HIDDEN[::-1]}],
}
ARGUMENTS = {
    "vae": {"latent_dim": 2, "likelihood": "gaussian", "decoder_std": STD},
    "wae_mmd": {"latent_dim": 2, "posterior": "gaussian", "penalty_weight": WEIGHT},
}
NAMES = {"vae": "vae_mnist_2d_gaussian", "wae_mmd": "wae_mnist_2d"}
SETTINGS = [
    {"method": "vae", "start": "narrow", "seed": 0},
    {"method": "wae_mmd", "start": "narrow", "seed": 0},
    {"method": "vae", "start": "wide", "seed": 0},
    {"method": "wae_mmd", "start": "wide", "seed": 0},
    {"method": "wae_mmd", "start": "narrow", "seed": 1},
]


def train(method: str, start: str, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    model = tutor.pretrained.build("VAE" if method == "vae" else "WAE", ARGUMENTS[method], NETWORKS)
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


def run(method: str, start: str, seed: int) -> dict[str, float]:
    began = time.process_time()
    model = train(method, start, seed)
    row = {"train_cpu_seconds": time.process_time() - began}
    row |= posteriors(model, seed) | measure_digits(model, seed)
    if seed == 0 and start == "narrow":
        about = {
            "arguments": ARGUMENTS[method],
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
        decoder_std=STD,
        log_variance_at_start=STARTS,
        hidden=HIDDEN,
        floor=digit_floor(10_000),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
