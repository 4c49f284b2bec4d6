"""Clusters of MNIST without labels (16 and 30), and maps of it in the plane with and without.

Errors on the test set: the paper's protocol (the surest point names its cluster), the majority's,
and the best one-to-one matching, which can't be small with more clusters than classes.  The maps
(`ClusterHeadsAAE`) keep 1 000 test codes each for a figure, in rows (horizontal, vertical, label).

    python -m experiments.aae_clusters
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tutor
from experiments.categorical import (
    BATCH,
    RATE,
    SHAPE,
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
from tutor.metrics import clustering_error, majority_error, matched_error
from tutor.models import ClusterHeadsAAE, ClusteringAAE
from tutor.training import decay_after

SEEDS = (0, 1, 2)
STEPS, STYLE, PENALTY, LABEL_WEIGHT = 4_000, 5, 1.0, 1.0
LABELLED_BATCH, POINTS = 50, 1_000
OUT = ROOT / "build" / "experiments" / "aae_clusters"


def networks(classes: int, style: int, inputs: int) -> dict[str, Any]:
    return {
        "image_shape": SHAPE,
        "gradient_penalty": PENALTY,
        "label_weight": LABEL_WEIGHT,
        "encoder": encoder(classes + style),
        "decoder": decoder(inputs),
        "label_discriminator": discriminator(classes),
        "style_discriminator": discriminator(style),
    }


def run(task: str, clusters: int, labels: int, seed: int) -> dict[str, Any]:
    train, _, test = splits()
    torch.manual_seed(seed)
    if task == "clusters":
        model = ClusteringAAE(
            STYLE, clusters=clusters, **networks(clusters, STYLE, clusters + STYLE)
        )
    else:
        model = ClusterHeadsAAE(2, classes=clusters, **networks(clusters, 2, 2))
    data = train
    if labels:
        draw = torch.Generator().manual_seed(seed)
        known = tutor.data.few_labels(train, labels, generator=draw)
        data = tutor.data.SemiSupervised(train, known, LABELLED_BATCH)
    tutor.fit(
        model,
        data,
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        device="cpu",
        optimizer=optimizers(model),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"{task}-{clusters}-{labels}-seed{seed}-{STEPS}",
        progress=False,
    )
    row = measure(model, test[:], test.labels, named=labels > 0)
    if task == "map":
        row |= drawn(model, test[:POINTS], test.labels[:POINTS])
    return row


def measure(model: ClusteringAAE, x: Tensor, labels: Tensor, named: bool) -> dict[str, float]:
    """Errors in percent; with labels in training the clusters have names, and keep them."""
    model.eval()
    with torch.no_grad():
        q = model.encode(x).y
    clusters = q.argmax(1)
    if named:
        return {"test_error_percent": percent(clusters != labels)}
    return {
        "test_error_percent": 100 * clustering_error(q, labels).item(),
        "majority_error_percent": 100 * majority_error(clusters, labels).item(),
        "matched_error_percent": 100 * matched_error(clusters, labels).item(),
        "mean_confidence": q.max(1).values.mean().item(),
        "used_clusters": len(clusters.unique()),
    }


def drawn(model: ClusterHeadsAAE, x: Tensor, labels: Tensor) -> dict[str, list]:
    codes = model.map(x)
    points = [
        [*(round(v, 3) for v in code), label]
        for code, label in zip(codes.tolist(), labels.tolist(), strict=True)
    ]
    heads = [[round(v, 3) for v in head] for head in model.heads.weight.T.tolist()]
    return {"heads": heads, "points": points}


def main() -> None:
    clusters = [
        {"task": "clusters", "clusters": count, "labels": 0, "seed": seed}
        for seed in SEEDS
        for count in (16, 30)
    ]
    maps = [
        {"task": "map", "clusters": count, "labels": labels, "seed": 0}
        for count, labels in ((10, 1_000), (20, 0), (10, 100))
    ]
    do_all(
        "aae_clusters",
        [*clusters[:2], *maps, *clusters[2:]],
        run,
        steps=STEPS,
        batch_size=BATCH,
        labelled_batch_size=LABELLED_BATCH,
        hidden_units=WIDTH,
        style_dimensions=STYLE,
        gradient_penalty=PENALTY,
        label_weight=LABEL_WEIGHT,
        learning_rate=RATE,
        training_images=50_000,
    )


if __name__ == "__main__":
    main()
