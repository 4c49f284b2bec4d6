"""The classifier of digits whose features define `tutor.metrics.digit_features`.

Trained on the training images of MNIST with all labels; test accuracy is that of the shipped
float16 weights, over three seeds; seed 0 is shipped.

    python -m experiments.mnist_classifier
"""

from __future__ import annotations

from functools import partial

import torch

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor.models import DigitClassifier
from tutor.training import decay_after

STEPS, BATCH, RATE, SEEDS = 4_000, 128, 1e-3, (0, 1, 2)


def train(seed: int) -> DigitClassifier:
    torch.manual_seed(seed)
    model = DigitClassifier()
    tutor.fit(
        model,
        tutor.data.load("mnist").labelled(),
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        seed=seed,
        optimizer=partial(torch.optim.Adam, lr=RATE, fused=True),
        schedule=decay_after(0.5),
        progress=False,
    )
    return tutor.pretrained.halve(model.eval())


@torch.no_grad()
def accuracy_percent(model: DigitClassifier, split: str) -> float:
    data = tutor.data.load("mnist", split=split)
    right = [
        (model(data[rows]).argmax(1) == data.labels[rows]).sum().item()
        for rows in torch.arange(len(data)).split(1_000)
    ]
    return 100 * sum(right) / len(data)


def run(seed: int) -> dict[str, float]:
    model = train(seed)
    row = {
        "test_accuracy_percent": accuracy_percent(model, "test"),
        "train_accuracy_percent": accuracy_percent(model, "train"),
    }
    if seed == 0:
        about = {
            "arguments": {},
            "data": "mnist, all labels",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        }
        tutor.pretrained.save(model, ROOT / "src" / "tutor" / "weights", "mnist_classifier", about)
    return row


def main() -> None:
    do_all(
        "mnist_classifier",
        [{"seed": seed} for seed in SEEDS],
        run,
        steps=STEPS,
        batch_size=BATCH,
        learning_rate=RATE,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
