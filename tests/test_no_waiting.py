"""No round of a game makes the host wait for a GPU, shown without one.

On torch's "meta" device tensors have a shape and no content.  To read one, or to make a tensor
whose shape depends on content, is an error there, and would stall a GPU.  Checks that the code
keeps for the CPU are skipped there as on a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tutor
from tests.models.test_every_model import KNOWN, MODELS, build, parts, source
from tutor.data.rooms import render_shapes3d
from tutor.energies import Banana
from tutor.game import Model, Turn, player_parameters
from tutor.priors import GaussianMixture, SwissRoll, UniformBox

META = torch.device("meta")


class NothingFromTheHost(TorchDispatchMode):
    """Refuses tensors with content: on a GPU they would be copied there, which waits."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for leaf in tree_leaves((args, kwargs or {})):
            if isinstance(leaf, torch.Tensor) and leaf.device != META:
                raise AssertionError(f"{func} took a tensor from the {leaf.device}")
        return func(*args, **(kwargs or {}))


def play(model: Model, data, monkeypatch) -> int:
    """Rounds as `fit` plays them, without the optimisers; returns the turns of the last one.

    The first one may send tables to the device, where they are kept.
    """
    model, data = model.to(META), data.to(META)
    owned = player_parameters(model)
    index = torch.zeros(8, dtype=torch.int64, device=META)

    def refuse(*args, **kwargs):
        raise AssertionError("numbers are made a tensor, which is a copy to the device")

    def one_round() -> int:
        turns = 0
        for turn in model.step(data.take(index)):
            torch.autograd.grad(turn.loss, owned[turn.player], allow_unused=True)
            turns += 1
        return turns

    one_round()
    with monkeypatch.context() as patch:
        for name in ("tensor", "as_tensor", "from_numpy"):
            patch.setattr(torch, name, refuse)
        with NothingFromTheHost():
            return one_round()


@pytest.mark.parametrize("name", list(MODELS))
def test_a_round_of_every_model_on_images(name, monkeypatch):
    assert play(build(name), source(name), monkeypatch) >= 1


def rooms():
    class Rooms:
        def take(self, index):
            return render_shapes3d(index[:, None].expand(-1, 6) * 0)

        def to(self, device):
            render_shapes3d(torch.zeros(1, 6, dtype=torch.int64, device=device))  # draws them once
            return self

    return Rooms()


def noise():
    return tutor.batches.Rows(torch.zeros(24, 1))


OTHERS = {
    "BetaVAE": (lambda: tutor.models.BetaVAE(**KNOWN, beta=4.0, **parts(4, 2)), "VAE"),
    "Gaussian pixels": (
        lambda: tutor.models.VAE(**KNOWN, likelihood="gaussian", decoder_std=0.3, **parts(4, 2)),
        "VAE",
    ),
    "weighted BetaTCVAE": (
        lambda: tutor.models.BetaTCVAE(
            **KNOWN, data_size=24, sampling="weighted", alpha=2.0, **parts(4, 2)
        ),
        "VAE",
    ),
    "DIPVAE II": (lambda: tutor.models.DIPVAE(**KNOWN, variant="II", **parts(4, 2)), "VAE"),
    "R1 penalty": (
        lambda: tutor.models.AAE(**KNOWN, gradient_penalty=1.0, **parts(2, 2)), "AAE"),
    "mixture, classes": (
        lambda: tutor.models.AAE(
            **KNOWN, supervised=True, prior=GaussianMixture(3), **parts(2, 2)
        ),
        "supervised AAE",
    ),
    "roll, classes": (
        lambda: tutor.models.AAE(
            **KNOWN, supervised=True, prior=SwissRoll(classes=3), **parts(2, 2)
        ),
        "supervised AAE",
    ),
    "box, classes": (
        lambda: tutor.models.AAE(
            **KNOWN, supervised=True, prior=UniformBox(2, classes=3), **parts(2, 2)
        ),
        "supervised AAE",
    ),
    "paper's FactorVAE": (lambda: tutor.models.FactorVAE(image_shape=(3, 64, 64)), rooms),
    "EnergyAVB": (lambda: tutor.models.EnergyAVB(Banana()), noise),
    "GaussianVB": (lambda: tutor.models.GaussianVB(Banana()), noise),
}  # fmt: skip


@pytest.mark.parametrize("name", list(OTHERS))
def test_a_round_of_other_settings(name, monkeypatch):
    make, data = OTHERS[name]
    torch.manual_seed(0)
    assert play(make(), data() if callable(data) else source(data), monkeypatch) >= 1


def test_a_round_of_the_digit_classifier(monkeypatch):
    digits = tutor.data.load("digits").labelled()
    assert play(tutor.models.DigitClassifier(), digits, monkeypatch) == 1


class Waits(Model):
    def __init__(self, how):
        super().__init__()
        self.net, self.how = torch.nn.Linear(1, 1), how

    @property
    def players(self):
        return {"one": [self.net]}

    def step(self, x):
        loss = self.net(x).square().sum(1).mean()
        self.how(x, loss)
        yield Turn("one", loss)


@pytest.mark.parametrize(
    "how",
    [
        lambda x, loss: loss.item(),
        lambda x, loss: bool(loss > 0),
        lambda x, loss: x[x[:, 0] > 0],
        lambda x, loss: loss + torch.tensor(3.0, device=loss.device),
        lambda x, loss: x + torch.ones(8, 1),
    ],
)
def test_what_waits_is_found(how, monkeypatch):
    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        play(Waits(how), noise(), monkeypatch)


def test_waiting_for_nothing_passes(monkeypatch):
    assert play(Waits(lambda x, loss: None), noise(), monkeypatch) == 1
