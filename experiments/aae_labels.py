"""Label-aware regularisation with few labels: agreement against their number, chapter 2.

Every batch holds 156 images without label, compared with the whole prior, and 100 drawn from the
labelled ones, compared with their class's part.

    python -m experiments.aae_labels
"""

from __future__ import annotations

import torch
from torch import Tensor

import tutor
from experiments.aae_supervised import BATCH, STEPS, build, measure, train
from experiments.runs import do_all
from tutor.data import UNKNOWN, SemiSupervised, few_labels

LABELLED = 100  # in a batch
LABELS = (100, 1_000, 10_000)
RUNS = {"mixture": (0,)}


class Together(SemiSupervised):
    """One batch: images without label first, then the labelled ones."""

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, labelled, labels = super().take(index[:-LABELLED])
        unknown = torch.full((len(x),), UNKNOWN, device=labels.device)
        return torch.cat([x, labelled]), torch.cat([unknown, labels])


def run(prior: str, labels: int, seed: int) -> dict[str, float]:
    data = tutor.data.load("mnist")
    known = few_labels(data, labels, generator=torch.Generator().manual_seed(seed))
    model = build(prior, seed)
    seconds = train(model, Together(data, known, LABELLED), seed)
    return {"seconds": seconds} | measure(model, seed)


def main() -> None:
    settings = [
        {"prior": prior, "labels": labels, "seed": seed}
        for prior, seeds in RUNS.items()
        for seed in seeds
        for labels in LABELS
    ]
    do_all("aae_labels", settings, run, steps=STEPS, batch_size=BATCH, labelled=LABELLED)


if __name__ == "__main__":
    main()
