"""VAE, WAE-MMD and WAE-GAN on CelebA: the networks and the recipe of the paper.

Codes of 64 dimensions, faces of 64x64.  Pixels are in [0, 1] here and in [-1, 1] in the authors'
code, which also multiplies the squared error by 0.05; so its ``0.05 |x - y|^2 + lambda D`` is
``0.2 (|x - y|^2 + 5 lambda D)`` here.  Lambda is 100 for the MMD, from their configuration, and 10
for the discriminator, from the text of the paper's first version: 500 and 50 here.  The VAE's
decoder has a standard deviation of 0.27, our choice.

The run needs CelebA (see ``tutor.data.load("celeba")``), some hours of a GPU, and for the FID the
package ``pytorch_fid`` with its weights; a row without a FID says why.

    python -m experiments.wae_celeba
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tutor
from experiments.runs import do_all
from experiments.wae_recipe import METHODS, code_match, images_of, optimizers, pretrain
from tutor.metrics import fid, sharpness
from tutor.models import VAE, WAE
from tutor.models.autoencoder import Autoencoder
from tutor.nets import (
    KnownPriorDiscriminator,
    celeba_decoder,
    celeba_encoder,
    wae_discriminator,
)
from tutor.priors import Gaussian

LATENT, SHAPE, WIDTH, CRITIC_WIDTH = 64, (3, 64, 64), 128, 1024
EPOCHS, BATCH, PRETRAIN_BATCH, IMAGES, BLOCK = 50, 100, 256, 10_000, 1_000
RATES = {"vae": 1e-3, "wae_mmd": 1e-3, "wae_gan": 3e-4}
CRITIC_RATE = 1e-3
WEIGHTS = {"wae_mmd": 500.0, "wae_gan": 50.0}
DECODER_STD = 0.27


def schedule(t: float) -> float:
    """Rates fall smoothly, to a hundredth at the end."""
    return 0.01**t


def make(method: str) -> Autoencoder:
    decoder = celeba_decoder(LATENT, width=WIDTH)
    if method == "vae":
        encoder = celeba_encoder(2 * LATENT, width=WIDTH)
        return VAE(
            LATENT,
            image_shape=SHAPE,
            likelihood="gaussian",
            decoder_std=DECODER_STD,
            encoder=encoder,
            decoder=decoder,
        )
    parts: dict[str, Any] = {"encoder": celeba_encoder(LATENT, width=WIDTH), "decoder": decoder}
    if method == "wae_gan":  # the discriminator is told p(z): the authors' setting for faces
        critic = wae_discriminator(LATENT, width=CRITIC_WIDTH)
        parts["discriminator"] = KnownPriorDiscriminator(Gaussian(LATENT), critic)
    return WAE(
        LATENT,
        image_shape=SHAPE,
        penalty=method.removeprefix("wae_"),
        penalty_weight=WEIGHTS[method],
        **parts,
    )


def train(method: str, seed: int) -> Autoencoder:
    torch.manual_seed(seed)
    model = make(method)
    data = tutor.data.load("celeba")
    if method != "vae":
        pretrain(model, data, batch_size=PRETRAIN_BATCH, rate=RATES[method])
    tutor.fit(
        model,
        data,
        steps=EPOCHS * len(data) // BATCH,
        batch_size=BATCH,
        seed=seed,
        optimizer=optimizers(model, RATES[method], CRITIC_RATE),
        schedule=schedule,
    )
    return model.eval()


def fid_or_reason(images: Tensor, others: Tensor) -> dict[str, Any]:
    """The FID; where the network or its weights are missing, None and what is missing."""
    try:
        return {"fid": fid(images, others).item()}
    except (ModuleNotFoundError, FileNotFoundError) as missing:
        return {"fid": None, "fid_not_run": str(missing)}


def measure(model: Autoencoder, seed: int) -> dict[str, Any]:
    x = tutor.data.load("celeba", split="test")[:IMAGES]
    made = images_of(model, x, seed, len(x))
    back = made["reconstructions"]
    return {
        "images": len(x),
        "squared_error": (back - x).square().flatten(1).sum(1).mean().item(),
        "sharpness_samples": sharpness(made["samples"]).mean().item(),
        "sharpness_reconstructions": sharpness(back).mean().item(),
        "sharpness_data": sharpness(x).mean().item(),
        **fid_or_reason(made["samples"], x),
        **code_match(made["codes"], model.cpu().prior, seed, BLOCK),
    }


def run(method: str, seed: int) -> dict[str, Any]:
    return measure(train(method, seed), seed)


def main() -> None:
    do_all(
        "wae_celeba",
        [{"method": method, "seed": 0} for method in METHODS],
        run,
        epochs=EPOCHS,
        batch_size=BATCH,
        latent_dim=LATENT,
        width=WIDTH,
        learning_rates=RATES,
        critic_rate=CRITIC_RATE,
        penalty_weights=WEIGHTS,
        decoder_std=DECODER_STD,
    )


if __name__ == "__main__":
    main()
