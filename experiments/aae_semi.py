"""Classes of MNIST from 100 and 1 000 labels: the AAE of three phases beside its encoder alone.

The encoder alone is the same network (with noise of 0.3 on its pixels, like the other), trained
for as many rounds on the labelled images only; the difference is what the images without labels
are worth.  Settings were chosen on the last 10 000 training images, with seed 0; the errors are
those of the test set after the last round.

    python -m experiments.aae_semi
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import tutor
from experiments.categorical import (
    BATCH,
    WIDTH,
    decoder,
    discriminator,
    encoder,
    optimizers,
    percent,
    splits,
)
from experiments.record import ROOT
from experiments.runs import do_all
from tutor.game import Model, Turn, evaluating
from tutor.models import SemiSupervisedAAE
from tutor.training import decay_after

LABELS, SEEDS = (100, 1_000), (0, 1, 2)
STEPS, LABELLED_BATCH, STYLE, PENALTY, DROPOUT = 4_000, 50, 10, 1.0, 0.2
RATE, NOISE = 3e-3, 0.3
OUT = ROOT / "build" / "experiments" / "aae_semi"


class EncoderAlone(Model):
    """The classifier that the AAE has inside, told the same labels and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder(10, noise=NOISE, dropout=DROPOUT)

    @property
    def players(self) -> dict[str, list[nn.Module]]:
        return {"classifier": [self.encoder]}

    def step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Iterator[Turn]:
        _, x, labels = batch
        yield Turn("classifier", cross_entropy(self.encoder(x), labels))

    def predict(self, x: Tensor) -> Tensor:
        with evaluating(self):
            return self.encoder(x).argmax(1)


def aae() -> SemiSupervisedAAE:
    return SemiSupervisedAAE(
        STYLE,
        gradient_penalty=PENALTY,
        encoder=encoder(10 + STYLE, noise=NOISE, dropout=DROPOUT),
        decoder=decoder(10 + STYLE),
        label_discriminator=discriminator(10),
        style_discriminator=discriminator(STYLE),
    )


def run(model: str, labels: int, seed: int) -> dict[str, float]:
    train, validation, test = splits()
    known = tutor.data.few_labels(train, labels, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)
    net = aae() if model == "aae" else EncoderAlone()
    tutor.fit(
        net,
        tutor.data.SemiSupervised(train, known, LABELLED_BATCH),
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        device="cpu",
        optimizer=optimizers(net, RATE),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"{model}-{labels}-seed{seed}-{STEPS}",
        progress=False,
    )
    return {
        "validation_error_percent": percent(net.predict(validation[:]) != validation.labels),
        "test_error_percent": percent(net.predict(test[:]) != test.labels),
    }


def main() -> None:
    settings = [
        {"model": model, "labels": labels, "seed": seed}
        for seed in SEEDS
        for labels in LABELS
        for model in ("aae", "encoder alone")
    ]
    do_all(
        "aae_semi",
        settings,
        run,
        steps=STEPS,
        batch_size=BATCH,
        labelled_batch_size=LABELLED_BATCH,
        hidden_units=WIDTH,
        style_dimensions=STYLE,
        gradient_penalty=PENALTY,
        dropout=DROPOUT,
        learning_rate=RATE,
        training_images=50_000,
    )


if __name__ == "__main__":
    main()
