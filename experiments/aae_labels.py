"""Label-aware regularisation with few labels: agreement against their number, chapter 2.

Every batch holds 156 images without label, compared with the whole prior, and 100 drawn from the
labelled ones, compared with their class's part.  A row keeps, beside what was measured on the
10 000 test images, the codes of 400 of them for a figure (of seed 0).

    python -m experiments.aae_labels
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import tutor
from experiments.aae_supervised import BATCH, STEPS, build, measure, train
from experiments.runs import do_all
from tutor.data import UNKNOWN, SemiSupervised, few_labels
from tutor.models import AAE

LABELLED = 100  # in a batch
LABELS = (100, 1_000, 10_000)
PRIOR, SEEDS = "mixture", (0,)
POINTS = 400


class Together(SemiSupervised):
    """One batch: images without label first, then the labelled ones."""

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        x, labelled, labels = super().take(index[:-LABELLED])
        unknown = torch.full((len(x),), UNKNOWN, device=labels.device)
        return torch.cat([x, labelled]), torch.cat([unknown, labels])


def run(prior: str, labels: int, seed: int) -> dict[str, Any]:
    data = tutor.data.load("mnist")
    known = few_labels(data, labels, generator=torch.Generator().manual_seed(seed))
    model = build(prior, seed)
    seconds = train(model, Together(data, known, LABELLED), seed)
    return {"seconds": seconds} | measure(model, seed) | (picture(model) if seed == 0 else {})


@torch.no_grad()
def picture(model: AAE) -> dict[str, list[float] | list[int]]:
    test = tutor.data.load("mnist", split="test").subset(slice(POINTS))
    codes = model.encode(test[:]).mean
    return {
        "horizontal": [round(v, 2) for v in codes[:, 0].tolist()],
        "vertical": [round(v, 2) for v in codes[:, 1].tolist()],
        "label": test.labels.tolist(),
    }


def main() -> None:
    settings = [
        {"prior": PRIOR, "labels": labels, "seed": seed} for seed in SEEDS for labels in LABELS
    ]
    do_all(
        "aae_labels",
        settings,
        run,
        steps=STEPS,
        batch_size=BATCH,
        labelled=LABELLED,
        codes_of_images=POINTS,
    )


if __name__ == "__main__":
    main()
