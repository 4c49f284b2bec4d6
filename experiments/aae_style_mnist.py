"""The shipped style-and-content model: a `ConditionalAAE` on MNIST, small enough for a page.

Two rows: with a discriminator that sees the style alone, as in the paper, and with one that sees
the label too, which is the one that is shipped.  Measured on the test set: the squared error of a
reconstruction, the match of the styles to their prior, and how much of the class is left in the
style (the accuracy of nearest neighbours on it, in percent; always saying "1" gives 11).

    python -m experiments.aae_style_mnist
"""

from __future__ import annotations

from functools import partial

import torch

import tutor
from experiments.record import ROOT, origin
from experiments.runs import do_all
from tutor.metrics import energy_distance
from tutor.models import ConditionalAAE
from tutor.training import decay_after

STEPS, BATCH, STYLE, PENALTY, RATE = 3_000, 128, 4, 0.3, 2e-3
SHAPE, HIDDEN = (1, 28, 28), (128, 128)
NETWORKS = {
    "encoder": ["mlp_encoder", {"image_shape": SHAPE, "outputs": STYLE, "hidden": HIDDEN}],
    "decoder": ["mlp_decoder", {"latent_dim": 10 + STYLE, "image_shape": SHAPE, "hidden": HIDDEN}],
}
OUT = ROOT / "build" / "experiments" / "aae_style_mnist"


def arguments(by_class: bool) -> dict[str, float | bool]:
    return {"latent_dim": STYLE, "by_class": by_class, "gradient_penalty": PENALTY}


def train(by_class: bool) -> ConditionalAAE:
    torch.manual_seed(0)
    model = tutor.pretrained.build("ConditionalAAE", arguments(by_class), NETWORKS)
    tutor.fit(
        model,
        tutor.data.load("mnist").labelled(),
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=RATE, fused=True),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"by-class-{by_class}-{STEPS}",
        progress=False,
    )
    return tutor.pretrained.halve(model.cpu().eval())


@torch.no_grad()
def measure(model: ConditionalAAE) -> dict[str, float | int]:
    from sklearn.neighbors import KNeighborsClassifier

    test = tutor.data.load("mnist", split="test")
    x, labels = test[:], test.labels
    z = model.encode(x).mean
    squares = (model.reconstruct(x, labels) - x).square().sum((1, 2, 3))
    g = torch.Generator().manual_seed(0)
    few = torch.randperm(len(z), generator=g)[:1_000]
    prior = model.prior.sample((1_000,), generator=g)
    probe = KNeighborsClassifier(25).fit(z[:5_000].numpy(), labels[:5_000].numpy())
    return {
        "squared_error": squares.mean().item(),
        "energy_distance_to_prior": energy_distance(z[few], prior).item(),
        "class_from_style_percent": 100 * probe.score(z[5_000:].numpy(), labels[5_000:].numpy()),
    }


def run(by_class: bool) -> dict[str, float | int]:
    model = train(by_class)
    row = measure(model)
    if by_class:
        about = {
            "arguments": arguments(by_class),
            "networks": NETWORKS,
            "data": "mnist, all labels",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        }
        tutor.pretrained.save(model, ROOT / "src" / "tutor" / "weights", "aae_style_mnist", about)
    return row


def main() -> None:
    do_all(
        "aae_style_mnist",
        [{"by_class": by_class} for by_class in (True, False)],
        run,
        steps=STEPS,
        batch_size=BATCH,
        style_dimensions=STYLE,
        gradient_penalty=PENALTY,
        learning_rate=RATE,
        seed=0,
    )


if __name__ == "__main__":
    main()
