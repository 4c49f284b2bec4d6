"""Codes of MNIST on four priors: how well q(z) matches p(z) on test images, chapter 2.

The full recipe on each prior over three seeds; and without the gradient penalty, without dropout
in the encoder, or without both, on two of them.  Seed 0 of the full recipe is recorded at 28
moments for the live figure (`tutor.pretrained.recording("aae_priors")`).

    python -m experiments.aae_priors
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.optim import Adam

import tutor
from experiments.record import ROOT, origin, save_rows
from tutor.metrics import prior_match
from tutor.models import AAE
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.priors import Gaussian, GaussianMixture, SwissRoll, UniformBox
from tutor.training import decay_after

PRIORS = {
    "gaussian": lambda: Gaussian(2),
    "mixture": lambda: GaussianMixture(10),
    "swiss roll": SwissRoll,
    "uniform": lambda: UniformBox(2),
}
STEPS, BATCH = 3_000, 256
PENALTY = {"gaussian": 0.02, "mixture": 0.02, "swiss roll": 0.1, "uniform": 0.02}
RECIPES = {  # with the penalty?, dropout in the encoder, seeds, priors
    "penalty and dropout": (True, 0.2, (0, 1, 2), tuple(PRIORS)),
    "penalty": (True, 0.0, (0,), ("mixture", "swiss roll")),
    "dropout": (False, 0.2, (0,), ("mixture", "swiss roll")),
    "plain": (False, 0.0, (0,), ("mixture", "swiss roll")),
}
FRAMES, SHOWN = 28, 500  # moments recorded, test images followed
OPTIMIZER = {
    "autoencoder": partial(Adam, lr=1e-3, fused=True),
    "discriminator": partial(Adam, lr=1e-3, betas=(0.5, 0.99), fused=True),
    "generator": partial(Adam, lr=1e-3, betas=(0.5, 0.99), fused=True),
}


class Recorded(AAE):
    """An AAE that notes where the codes of some images are, at chosen moments."""

    def watch(self, images: Tensor, moments: list[int]) -> None:
        self.images, self.moments, self.done, self.frames = images, moments, 0, []

    def step(self, batch: Tensor) -> Iterator[tutor.Turn]:
        if self.done in self.moments:
            self.note()
        yield from super().step(batch)
        self.done += 1

    def note(self) -> None:
        with tutor.game.evaluating(self):
            self.frames.append(self.encode(self.images).mean)


def moments() -> list[int]:
    spaced = torch.logspace(0, torch.tensor(STEPS).log10().item(), 4 * FRAMES).round().long()
    distinct = [0, *spaced.unique().tolist()]
    index = torch.linspace(0, len(distinct) - 1, FRAMES).round().long()
    return [distinct[i] for i in index]


def train(prior: str, penalty: float, dropout: float, seed: int) -> tuple[Recorded, float]:
    torch.manual_seed(seed)
    model = Recorded(
        2,
        prior=PRIORS[prior](),
        gradient_penalty=penalty,
        encoder=mlp_encoder((1, 28, 28), 2, hidden=(256, 256), dropout=dropout),
        decoder=mlp_decoder(2, (1, 28, 28), hidden=(64, 64)),
    )
    model.watch(tutor.data.load("mnist", split="test")[:SHOWN], moments())
    began = time.perf_counter()
    tutor.fit(
        model,
        tutor.data.load("mnist"),
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        optimizer=OPTIMIZER,
        schedule=decay_after(0.5),
        progress=False,
    )
    seconds = time.perf_counter() - began
    model.note()
    return model.eval().cpu(), seconds


@torch.no_grad()
def measure(model: AAE, split: str, seed: int) -> dict[str, float]:
    data = tutor.data.load("mnist", split=split).subset(slice(10_000))
    codes = torch.cat([model.encode(x).mean for x in data[:].split(1_000)])
    match = prior_match(codes, model.prior, generator=torch.Generator().manual_seed(seed))
    error = [(model.reconstruct(x) - x).square().flatten(1).sum(1) for x in data[:].split(1_000)]
    return {
        "images": split,
        **match._asdict(),
        "ratio": match.ratio,
        "squared_error": torch.cat(error).mean().item(),
    }


def main() -> None:
    rows, kept = [], {}
    for recipe, (penalised, dropout, seeds, priors) in RECIPES.items():
        for seed in seeds:
            for prior in priors:
                penalty = PENALTY[prior] if penalised else 0.0
                model, seconds = train(prior, penalty, dropout, seed)
                about = {"prior": prior, "recipe": recipe, "penalty": penalty, "seed": seed}
                about["seconds"] = seconds
                rows += [about | measure(model, split, seed) for split in ("test", "train")]
                print(about, rows[-2]["ratio"], rows[-1]["ratio"], flush=True)
                save_rows("aae_priors", rows, steps=STEPS, batch_size=BATCH, recipes=RECIPES)
                if recipe == "penalty and dropout" and seed == 0:
                    kept[prior] = tutor.pretrained.halve(model)
            if len(kept) == len(PRIORS):
                record(kept)
                kept = {}


def record(models: dict[str, Recorded]) -> None:
    """The frames and decoders of the four runs, for the live figure."""
    labels = tutor.data.load("mnist", split="test").labels[:SHOWN]
    tensors = {"steps": torch.tensor([*moments()[:-1], STEPS]), "labels": labels}
    for prior, model in models.items():
        key = prior.replace(" ", "_")
        tensors[f"{key}.codes"] = torch.stack(model.frames).half()
        for name, value in model.decoder.state_dict().items():
            tensors[f"{key}.decoder.{name}"] = value.half()
    about = {"priors": list(models), "decoder": [2, 64, 64, 784], "origin": origin()}
    tutor.pretrained.save_recording(
        tensors, ROOT / "src" / "tutor" / "recordings", "aae_priors", about
    )


if __name__ == "__main__":
    main()
