"""Networks in bfloat16: losses stay float32, gradients stay close, nothing is left behind."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import nn

import tutor
from tutor.checkpoints import CheckpointError
from tutor.game import player_networks
from tutor.models import AAE, AVB, VAE
from tutor.precision import check_precision, networks_in

CPU = torch.device("cpu")
fit = partial(tutor.fit, device="cpu", progress=False)


def test_losses_and_gradients_are_float32_and_close():
    """One step of a VAE: the loss within 0.5 %, the gradient within 5 % of its length.

    bfloat16 keeps eight bits, a relative error of 2**-9 a product; errors of the 784 pixels and of
    the hidden units are nearly independent, so sums lose less than their terms.
    """
    torch.manual_seed(0)
    model, x = VAE(), (torch.rand(64, 1, 28, 28) < 0.2).float()
    found = {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(1)
        with networks_in(precision, player_networks(model), CPU):
            (turn,) = model.step(x)
            gradient = torch.autograd.grad(turn.loss, list(model.parameters()))
        assert turn.loss.dtype == torch.float32
        assert all(g.dtype == torch.float32 for g in gradient)
        found[precision] = turn.loss, torch.cat([g.flatten() for g in gradient])
    (loss, gradient), (rounded_loss, rounded) = found.values()
    assert loss != rounded_loss  # else nothing was rounded
    assert abs(rounded_loss - loss) < 0.005 * loss
    assert (rounded - gradient).norm() < 0.05 * gradient.norm()


@pytest.mark.parametrize("make", [VAE, AAE, AVB])
def test_networks_are_as_before(make):
    torch.manual_seed(0)
    model = make()
    printed, forwards = str(model), [m.forward.__func__ for m in player_networks(model)]
    x = torch.rand(32, 1, 28, 28)
    with pytest.raises(RuntimeError), networks_in("bf16", player_networks(model), CPU):
        raise RuntimeError
    fit(model, x, steps=2, batch_size=16, precision="bf16")
    assert str(model) == printed
    assert [m.forward.__func__ for m in player_networks(model)] == forwards
    assert all(p.dtype == torch.float32 for p in model.parameters())
    copy.deepcopy(model)  # a forward that stayed behind could not be copied or pickled


def test_a_shared_network_is_rounded_once():
    model = AAE()
    assert player_networks(model) == [model.encoder, model.decoder, model.discriminator]
    layer = nn.Linear(4, 4)
    with networks_in("bf16", player_networks(model), CPU):
        assert model.encoder(torch.rand(2, 1, 28, 28)).dtype == torch.float32
        assert layer(torch.rand(1, 4)).dtype == torch.float32


def test_what_is_not_a_network_is_not_rounded():
    """A matrix product in a model's own step keeps all its digits."""
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    with networks_in("bf16", player_networks(VAE()), CPU):
        inside = a @ a
    assert torch.equal(inside, a @ a)


@pytest.mark.slow
def test_it_learns_as_well():
    """Three seeds of a VAE on digits, 300 steps: final losses agree within 0.5 %."""
    digits = tutor.data.load("digits")
    losses = {"float32": [], "bf16": []}
    for seed in range(3):
        for precision, found in losses.items():
            torch.manual_seed(seed)
            model = VAE()
            history = fit(model, digits, steps=300, seed=seed, precision=precision)
            found.append(history["autoencoder/loss"].iloc[-2:].mean())
    plain, rounded = (torch.tensor(v) for v in losses.values())
    # Measured: 319.0 and 319.5 nats, bf16 behind by 0.4 to 0.8 with each seed; over seeds the
    # losses spread by 1.4.
    assert abs(plain.mean() - rounded.mean()) < 0.005 * plain.mean()


def test_a_run_is_not_resumed_in_another_precision(tmp_path):
    x = torch.rand(32, 1, 28, 28)
    fit(VAE(), x, steps=2, batch_size=16, checkpoint=tmp_path, precision="bf16")
    with pytest.raises(CheckpointError, match="precision"):
        fit(VAE(), x, steps=4, batch_size=16, checkpoint=tmp_path)


def test_unknown_precisions_and_devices_are_refused():
    with pytest.raises(ValueError, match="precision is 'half'; choose"):
        fit(VAE(), torch.rand(4, 1, 28, 28), steps=1, batch_size=4, precision="half")
    with pytest.raises(RuntimeError, match="not available on mps"):
        check_precision("bf16", torch.device("mps"))
