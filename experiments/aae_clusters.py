"""Clusters of MNIST without labels, 16 and 30 of them.

Errors on the test set: by the paper's protocol (the surest point names its cluster), by the
majority, and by the best one-to-one matching, which can't be small with more clusters than
classes.  While training, the logits of q(y|x) have Gumbel noise, so that the encoder must decide
(``drawn``).

Settings were tried on the last 10 000 training images, seed 0, 2 500 to 5 000 rounds, by the error
of a majority vote.  With 16 clusters: noise on the logits in the reconstruction alone was better
than none; a slower generator or autoencoder, 3 or 10 style dimensions, and a penalty of 0.03 with a
label game of three times the weight were worse.  With 30 clusters: noise on the logits in both
phases was better than in one; a rate of 3e-3 with dropout better than 1e-3 without; 2 and 10 style
dimensions were worse than 5; a style discriminator that sees the class too gained nothing.

    python -m experiments.aae_clusters
"""

from __future__ import annotations

import torch

import tutor
from experiments.categorical import (
    BATCH,
    WIDTH,
    decoder,
    discriminator,
    encoder,
    optimizers,
    splits,
)
from experiments.record import ROOT
from experiments.runs import do_all
from tutor.game import evaluating
from tutor.metrics import clustering_error, majority_error, matched_error
from tutor.models import ClusteringAAE
from tutor.training import decay_after

CLUSTERS, SEEDS = (16, 30), (0, 1, 2)
STEPS, STYLE, PENALTY = 4_000, 5, 0.1
RATE, NOISE, DROPOUT = 3e-3, 0.3, 0.2
OUT = ROOT / "build" / "experiments" / "aae_clusters"


def run(clusters: int, drawn: bool, seed: int) -> dict[str, float | int]:
    train, _, test = splits()
    torch.manual_seed(seed)
    model = ClusteringAAE(
        STYLE,
        clusters=clusters,
        gradient_penalty=PENALTY,
        encoder=encoder(
            clusters + STYLE, noise=NOISE, dropout=DROPOUT, drawn=clusters if drawn else 0
        ),
        decoder=decoder(clusters + STYLE),
        label_discriminator=discriminator(clusters),
        style_discriminator=discriminator(STYLE),
    )
    tutor.fit(
        model,
        train,
        steps=STEPS,
        batch_size=BATCH,
        seed=seed,
        device="cpu",
        optimizer=optimizers(model, RATE),
        schedule=decay_after(0.5),
        precision="bf16",
        checkpoint=OUT / f"{clusters}-{'drawn' if drawn else 'soft'}-seed{seed}-{STEPS}",
        progress=False,
    )
    with evaluating(model):
        logits = model.encode(test[:]).logits
    return errors(logits, test.labels)


def errors(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """The three errors of q(y|x), in percent; how sure it is, and how many clusters it uses."""
    log_q = logits.double().log_softmax(1)  # in float32 the surest points would all be at 1
    found = log_q.argmax(1)
    return {
        "test_error_percent": 100 * clustering_error(log_q, labels).item(),
        "majority_error_percent": 100 * majority_error(found, labels).item(),
        "matched_error_percent": 100 * matched_error(found, labels).item(),
        "mean_confidence": log_q.max(1).values.exp().mean().item(),
        "used_clusters": len(found.unique()),
    }


def main() -> None:
    settings = [
        {"clusters": count, "drawn": True, "seed": seed} for seed in SEEDS for count in CLUSTERS
    ]
    do_all(
        "aae_clusters",
        settings,
        run,
        steps=STEPS,
        batch_size=BATCH,
        hidden_units=WIDTH,
        style_dimensions=STYLE,
        gradient_penalty=PENALTY,
        noise_on_pixels=NOISE,
        dropout=DROPOUT,
        learning_rate=RATE,
        training_images=50_000,
        precision="bf16",
    )


if __name__ == "__main__":
    main()
