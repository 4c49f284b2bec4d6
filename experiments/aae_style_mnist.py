"""The shipped style-and-content model: a `ConditionalAAE` on MNIST, small enough for a page.

Measured on the test set: the squared error of a reconstruction, the match of the styles to their
prior, and how much of the class is left in the style (a linear classifier's accuracy on it; 11 %
would be had by always saying "1").

    python -m experiments.aae_style_mnist
"""

from __future__ import annotations

from functools import partial

import torch

import tutor
from experiments.record import ROOT, origin, save_rows
from tutor.metrics import energy_distance
from tutor.models import ConditionalAAE
from tutor.training import decay_after

STEPS, BATCH, STYLE, PENALTY = 8_000, 128, 8, 0.3
SHAPE, HIDDEN = (1, 28, 28), (128, 128)
NETWORKS = {
    "encoder": ["mlp_encoder", {"image_shape": SHAPE, "outputs": STYLE, "hidden": HIDDEN}],
    "decoder": ["mlp_decoder", {"latent_dim": 10 + STYLE, "image_shape": SHAPE, "hidden": HIDDEN}],
}
ARGUMENTS = {"latent_dim": STYLE, "gradient_penalty": PENALTY}
OUT = ROOT / "build" / "experiments" / "aae_style_mnist"


def train() -> ConditionalAAE:
    torch.manual_seed(0)
    model = tutor.pretrained.build("ConditionalAAE", ARGUMENTS, NETWORKS)
    tutor.fit(
        model,
        tutor.data.load("mnist").labelled(),
        steps=STEPS,
        batch_size=BATCH,
        device="cpu",
        optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
        schedule=decay_after(0.5),
        checkpoint=OUT / f"steps-{STEPS}",
        progress=False,
    )
    return tutor.pretrained.halve(model.cpu().eval())


@torch.no_grad()
def measure(model: ConditionalAAE) -> dict[str, float | int]:
    from sklearn.linear_model import LogisticRegression

    test = tutor.data.load("mnist", split="test")
    x, labels = test[:], test.labels
    z = model.encode(x).mean
    squares = (model.reconstruct(x, labels) - x).square().sum((1, 2, 3))
    g = torch.Generator().manual_seed(0)
    few = torch.randperm(len(z), generator=g)[:1_000]
    prior = model.prior.sample((1_000,), generator=g)
    probe = LogisticRegression(max_iter=1_000).fit(z[:5_000].numpy(), labels[:5_000].numpy())
    return {
        "steps": STEPS,
        "squared_error": squares.mean().item(),
        "energy_distance_to_prior": energy_distance(z[few], prior).item(),
        "class_from_style_percent": 100 * probe.score(z[5_000:].numpy(), labels[5_000:].numpy()),
    }


def main() -> None:
    model = train()
    row = measure(model)
    print(row)
    tutor.pretrained.save(
        model,
        ROOT / "src" / "tutor" / "weights",
        "aae_style_mnist",
        {
            "arguments": ARGUMENTS,
            "networks": NETWORKS,
            "data": "mnist, all labels",
            "steps": STEPS,
            "measured": row,
            "origin": origin(),
        },
    )
    save_rows("aae_style_mnist", [row], steps=STEPS, batch_size=BATCH, seed=0)


if __name__ == "__main__":
    main()
