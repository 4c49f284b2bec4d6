"""What holds for every model on images: evaluation mode, resumed runs, batches of another kind."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tutor
from tutor.data import Dataset, SemiSupervised
from tutor.models import (
    AAE,
    AVB,
    DIPVAE,
    VAE,
    WAE,
    BetaTCVAE,
    ClusterHeadsAAE,
    ClusteringAAE,
    ConditionalAAE,
    FactorVAE,
    SemiSupervisedAAE,
)
from tutor.noise_encoders import FactoredNoiseEncoder, NoiseEncoder
from tutor.priors import GaussianMixture

SHAPE = (1, 2, 2)
LABELS = torch.arange(24) % 3


def data() -> Dataset:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(2, (24, *SHAPE), generator=draw, dtype=torch.uint8)
    return Dataset(255 * pixels, labels=LABELS)


class Noisy(nn.Module):
    """Dropout and batch normalisation before another network."""

    def __init__(self, inputs: int, net: nn.Module) -> None:
        super().__init__()
        self.noisy = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(inputs))
        self.net, self.inputs = net, inputs
        self.noise_dim = getattr(net, "noise_dim", None)

    def forward(self, x: Tensor, *noise: Tensor) -> Tensor:
        return self.net(self.noisy(x).reshape(x.shape), *noise)


def linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def parts(codes: int, inputs: int) -> dict[str, nn.Module]:
    """An encoder to that many numbers, a decoder from that many, both unlike in training mode."""
    decoder = nn.Sequential(linear(inputs, 4), nn.Sigmoid(), nn.Unflatten(1, SHAPE))
    return {"encoder": Noisy(4, linear(4, codes)), "decoder": Noisy(inputs, decoder)}


KNOWN = {"latent_dim": 2, "image_shape": SHAPE}


def noise_fed() -> dict[str, nn.Module]:
    encoder = NoiseEncoder(SHAPE, 2, noise_dim=3, hidden=(8,))
    return parts(2, 2) | {"encoder": Noisy(4, encoder)}


def factored() -> FactoredNoiseEncoder:
    sizes = {"hidden": (8,), "basis_hidden": (8,)}
    return FactoredNoiseEncoder(SHAPE, 2, bases=2, noise_dim=2, **sizes)


# Small networks, all but the last disturbed by dropout and batch normalisation.
MODELS = {
    "VAE": lambda: VAE(**KNOWN, **parts(4, 2)),
    "AAE": lambda: AAE(**KNOWN, **parts(2, 2)),
    "Gaussian AAE": lambda: AAE(**KNOWN, posterior="gaussian", **parts(4, 2)),
    "universal AAE": lambda: AAE(**KNOWN, posterior="universal", **noise_fed()),
    "supervised AAE": lambda: AAE(
        **KNOWN, supervised=True, prior=GaussianMixture(3), **parts(2, 2)
    ),
    "ClusteringAAE": lambda: ClusteringAAE(**KNOWN, clusters=3, **parts(5, 5)),
    "SemiSupervisedAAE": lambda: SemiSupervisedAAE(**KNOWN, classes=3, **parts(5, 5)),
    "ClusterHeadsAAE": lambda: ClusterHeadsAAE(**KNOWN, classes=3, **parts(5, 2)),
    "ConditionalAAE": lambda: ConditionalAAE(**KNOWN, classes=3, **parts(2, 5)),
    "WAE-MMD": lambda: WAE(**KNOWN, **parts(2, 2)),
    "WAE-GAN": lambda: WAE(**KNOWN, penalty="gan", **parts(2, 2)),
    "Gaussian WAE": lambda: WAE(**KNOWN, posterior="gaussian", **parts(4, 2)),
    "FactorVAE": lambda: FactorVAE(**KNOWN, **parts(4, 2), discriminator=linear(2, 2)),
    "BetaTCVAE": lambda: BetaTCVAE(**KNOWN, data_size=24, **parts(4, 2)),
    "DIPVAE": lambda: DIPVAE(**KNOWN, **parts(4, 2)),
    "AVB": lambda: AVB(**KNOWN, annealing_steps=5, **noise_fed()),
    "AVB, contrast": lambda: AVB(**KNOWN, adaptive_contrast=True, encoder=factored()),
}
NAMES = list(MODELS)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name]()


def source(name: str):
    """What the model of that name trains on."""
    if name in ("SemiSupervisedAAE", "ClusterHeadsAAE"):
        return SemiSupervised(data(), known=torch.arange(6), batch_size=4)
    return data().labelled() if name in ("supervised AAE", "ConditionalAAE") else data()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", NAMES)
def test_samples_and_reconstructions_are_made_in_evaluation_mode(name):
    """A model fresh from `fit` is in training mode: looking at it must not change or blur it."""
    model, x = build(name).train(), data()[:]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    labels = (LABELS,) if name == "ConditionalAAE" else ()
    uses = {
        "sample": lambda: model.sample(24, generator=seeded()),
        "reconstruct": lambda: model.reconstruct(x, *labels),
    }
    if "AVB" in name or name == "universal AAE":
        uses["reconstruct"] = lambda: model.reconstruct(x, generator=seeded())
    if "AVB" in name:
        uses["claimed_elbo"] = lambda: model.claimed_elbo(x, generator=seeded())
    if name == "ClusterHeadsAAE":
        uses["map"] = lambda: model.map(x)
    for use, look in uses.items():
        once = look()
        assert torch.equal(once, look()), use
        assert not once.requires_grad
        assert all(module.training for module in model.modules())
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_ends_with_the_same_weights(name, tmp_path):
    """Bit for bit: no state of a model or of its data lives outside the checkpoint."""

    def fit(steps: int, folder=None) -> dict[str, Tensor]:
        model = build(name)
        tutor.fit(
            model,
            source(name),
            steps=steps,
            batch_size=8,
            device="cpu",
            checkpoint=folder,
            progress=False,
        )
        return model.state_dict()

    whole = fit(4)
    fit(2, tmp_path)
    for key, value in fit(4, tmp_path).items():
        assert torch.equal(value, whole[key]), key


@pytest.mark.parametrize("name", NAMES)
def test_images_are_asked_for_where_something_else_came(name):
    with pytest.raises(TypeError, match=r"images are a tuple; expected a float tensor \(n, 1, 2"):
        build(name).encode((data()[:], LABELS))
