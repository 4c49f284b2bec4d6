"""Maps of MNIST in the plane: cluster heads with 1 000 labels, with 100, and with none.

A row keeps, beside the error on the test set, the heads and the codes of 500 test images for a
figure.  With labels the error is that of the predicted class; without, it is by the paper's
protocol for clusterings, with 20 clusters.  One seed.

    python -m experiments.aae_maps
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tutor
from experiments.aae_clusters import errors
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
from tutor.game import evaluating
from tutor.models import ClusterHeadsAAE
from tutor.training import decay_after

MAPS = ((1_000, 10), (0, 20), (100, 10))  # labels, classes or clusters
STEPS, PENALTY, THRESHOLD, LABELLED_BATCH, NOISE = 2_000, 1.0, 2.0, 50, 0.3
RATES, DROPOUT = {True: 3e-3, False: 1e-3}, {True: 0.2, False: 0.0}  # with labels, and without
POINTS = 500
OUT = ROOT / "build" / "experiments" / "aae_maps"


def run(labels: int, classes: int) -> dict[str, Any]:
    train, _, test = splits()
    torch.manual_seed(0)
    model = ClusterHeadsAAE(
        2,
        classes=classes,
        threshold=THRESHOLD,
        gradient_penalty=PENALTY,
        encoder=encoder(classes + 2, noise=NOISE, dropout=DROPOUT[labels > 0]),
        decoder=decoder(2),
        label_discriminator=discriminator(classes),
        style_discriminator=discriminator(2),
    )
    data = train
    if labels:
        known = tutor.data.few_labels(train, labels, generator=torch.Generator().manual_seed(0))
        data = tutor.data.SemiSupervised(train, known, LABELLED_BATCH)
    tutor.fit(
        model,
        data,
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        optimizer=optimizers(model, RATES[labels > 0]),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"{labels}-{classes}-{STEPS}",
        progress=False,
    )
    with evaluating(model):
        logits, codes = model.encode(test[:]).logits, model.map(test[:POINTS])
    if labels:
        measured = {"test_error_percent": percent(logits.argmax(1) != test.labels)}
    else:
        measured = errors(logits, test.labels)
    return {
        **measured,
        "heads_horizontal": _short(model.heads.weight[0]),
        "heads_vertical": _short(model.heads.weight[1]),
        "horizontal": _short(codes[:, 0]),
        "vertical": _short(codes[:, 1]),
        "label": test.labels[:POINTS].tolist(),
    }


def _short(values: Tensor) -> list[float]:
    return [round(v, 2) for v in values.tolist()]


def main() -> None:
    do_all(
        "aae_maps",
        [{"labels": labels, "classes": classes} for labels, classes in MAPS],
        run,
        steps=STEPS,
        batch_size=BATCH,
        labelled_batch_size=LABELLED_BATCH,
        hidden_units=WIDTH,
        gradient_penalty=PENALTY,
        threshold=THRESHOLD,
        noise_on_pixels=NOISE,
        dropout={"with labels": DROPOUT[True], "without": DROPOUT[False]},
        learning_rates={"with labels": RATES[True], "without": RATES[False]},
        seed=0,
        training_images=50_000,
    )


if __name__ == "__main__":
    main()
