"""No round of a game makes the host wait for a GPU, shown without one.

On torch's "meta" device tensors have a shape and no content.  To read one, or to make a tensor
whose shape depends on content, is an error there, and would stall a GPU.  The rounds are played as
`fit` plays all but the first: nobody looks at values that lie on a device.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import tutor
from tests.models.test_every_model import KNOWN, MODELS, build, parts, source
from tutor import kernels, likelihoods
from tutor.data.factors import checked_factors
from tutor.data.rooms import render_shapes3d
from tutor.devices import may_look, without_looks
from tutor.energies import Banana
from tutor.game import Model, Turn, player_parameters
from tutor.models import avb
from tutor.models.labels import checked_labels
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

    with without_looks():
        one_round()
    with without_looks(), monkeypatch.context() as patch:
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
            with without_looks():
                render_shapes3d(torch.zeros(1, 6, dtype=torch.int64, device=device))  # draws once
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


CHECKS = {
    "labels": lambda: checked_labels(torch.zeros(3, dtype=torch.int64, device=META), 10),
    "classes of a prior": lambda: (
        SwissRoll(classes=3).to(META)._check_labels(torch.zeros(3, dtype=torch.int64, device=META))
    ),
    "factors": lambda: checked_factors(
        torch.zeros(3, 1, dtype=torch.int64, device=META), ["x"], [2]
    ),
    "points": lambda: kernels._check(
        torch.zeros(3, 2, device=META), torch.zeros(3, 2, device=META)
    ),
    "pixels": lambda: likelihoods._in_unit_interval(torch.zeros(3, 2, device=META)),
    "density": lambda: avb._positive(torch.zeros(3, device=META)),
}


@pytest.mark.parametrize("name", list(CHECKS))
def test_values_on_a_device_are_checked_outside_of_training(name):
    """On the meta device a look is an error; in rounds of training nobody looks."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        CHECKS[name]()
    with without_looks():
        CHECKS[name]()


def test_fit_looks_in_the_first_round_of_a_run_alone(tmp_path):
    seen = []

    def look(x, loss):
        seen.append(may_look(torch.zeros(1, device=META)))

    for steps in (3, 5):  # the second run takes up the first one
        model = Waits(look)
        tutor.fit(model, torch.ones(8, 1), steps=steps, batch_size=4, device="cpu", progress=False,
                  checkpoint=tmp_path)  # fmt: skip
    assert seen == [True, False, False, True, False]
    assert may_look(torch.zeros(1, device=META))
