"""Parzen-window log-likelihoods of MNIST: of an AAE with an 8-D code, and of cheats that beat it.

The papers' protocol: 10 000 samples of the model, a Gaussian window about each, the bandwidth
chosen on held-out images (the last 1 000 training images), the mean over the 10 000 test images
with its standard error.  Images in [0, 1].  Beside the AAE stand "models" that nobody would want:
training images handed out again, the same smeared or moved, and centroids of k-means.

    python -m experiments.aae_parzen
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import tutor
from experiments.record import ROOT
from experiments.runs import do_all
from tutor.metrics import parzen
from tutor.models import AAE
from tutor.training import decay_after

STEPS, BATCH, PENALTY = 2_000, 100, 0.1
CENTROIDS = 1_000
OUT = ROOT / "build" / "experiments" / "aae_parzen"


def trained() -> AAE:
    torch.manual_seed(0)
    model = AAE(8, gradient_penalty=PENALTY)
    tutor.fit(
        model,
        tutor.data.load("mnist").subset(slice(0, 50_000)),
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"aae-8-{STEPS}",
        progress=False,
    )
    return model.eval()


def training_images(n: int) -> Tensor:
    """n training images, drawn without replacement: what a model that only remembers would show."""
    rows = torch.randperm(50_000, generator=torch.Generator().manual_seed(1))[:n]
    return tutor.data.load("mnist")[rows]


def smeared(images: Tensor) -> Tensor:
    """The mean over each pixel's 3 by 3 neighbours."""
    return avg_pool2d(images, 3, stride=1, padding=1)


def moved(images: Tensor, pixels: int) -> Tensor:
    """Everything moved to the right, which no reader would notice."""
    return images.roll(pixels, dims=-1)


def centroids(k: int) -> Tensor:
    """Centres of a k-means clustering of the training images."""
    from sklearn.cluster import MiniBatchKMeans

    images = tutor.data.load("mnist")[:50_000].flatten(1).numpy()
    found = MiniBatchKMeans(k, batch_size=4_096, n_init=1, max_iter=20, random_state=0).fit(images)
    return torch.from_numpy(found.cluster_centers_).float().view(-1, 1, 28, 28).clamp(0, 1)


def draw(source: str, samples: int) -> Tensor:
    if source == "aae":
        return trained().sample(samples, generator=torch.Generator().manual_seed(0))
    if source == "k-means centroids":
        return centroids(samples)
    images = training_images(samples)
    if source == "training images, smeared":
        return smeared(images)
    if source == "training images, moved by one pixel":
        return moved(images, 1)
    return images


def run(source: str, samples: int) -> dict[str, float]:
    validation = tutor.data.load("mnist")[59_000:]
    test = tutor.data.load("mnist", split="test")[:]
    found = parzen(test, draw(source, samples), validation)
    spread = found.log_prob.std() / len(test) ** 0.5
    return {
        "log_likelihood": found.log_prob.mean().item(),
        "standard_error_over_images": spread.item(),
        "bandwidth": found.bandwidth,
    }


def main() -> None:
    sources = [
        ("aae", 10_000),
        ("training images", 10_000),
        ("k-means centroids", CENTROIDS),
        ("aae", 1_000),
        ("training images", 1_000),
        ("training images, smeared", 10_000),
        ("training images, moved by one pixel", 10_000),
    ]
    do_all(
        "aae_parzen",
        [{"source": source, "samples": samples} for source, samples in sources],
        run,
        steps=STEPS,
        batch_size=BATCH,
        gradient_penalty=PENALTY,
        seed=0,
        test_images=10_000,
        validation_images=1_000,
        training_images=50_000,
    )


if __name__ == "__main__":
    main()
