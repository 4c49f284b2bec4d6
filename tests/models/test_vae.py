"""VAE and beta-VAE: the loss is the negative bound, and bad input is answered clearly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import tutor
from tutor.divergences import gaussian_kl
from tutor.models import VAE, BetaVAE

SHAPE = (1, 4, 4)


def images(n: int = 5) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)).round()


def build(kind=VAE, **arguments):
    torch.manual_seed(0)
    return kind(2, image_shape=SHAPE, **arguments)


@pytest.mark.parametrize("likelihood", [{}, {"likelihood": "gaussian", "decoder_std": 0.3}])
def test_the_loss_is_the_negative_bound_written_out(likelihood):
    model, x = build(**likelihood), images()
    torch.manual_seed(1)
    (turn,) = model.step(x)
    torch.manual_seed(1)
    mean, log_var = model.encoder(x).chunk(2, dim=1)
    z = mean + (0.5 * log_var).exp() * torch.randn(5, 2)
    out = model.decoder(z)
    if likelihood:
        normaliser = 0.5 * math.log(2 * math.pi * 0.3**2)
        log_p = (-((x - out) ** 2) / (2 * 0.3**2) - normaliser).sum((1, 2, 3))
    else:
        y = out.sigmoid()
        log_p = (x * y.log() + (1 - x) * (1 - y).log()).sum((1, 2, 3))
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1)
    # float32 sums of 16 pixels: a few units in the last place of numbers near 100
    assert turn.loss.item() == pytest.approx((kl - log_p).mean().item(), rel=1e-5)
    assert turn.terms["kl"].item() == pytest.approx(kl.mean().item(), rel=1e-4, abs=1e-6)
    assert turn.terms["reconstruction"].item() == pytest.approx(-log_p.mean().item(), rel=1e-5)


def test_beta_weighs_the_kl_and_nothing_else():
    x = images()
    losses = {}
    for beta in (0.0, 1.0, 4.0):
        torch.manual_seed(3)
        (turn,) = build(BetaVAE, beta=beta).step(x)
        losses[beta] = turn.loss.item() - beta * turn.terms["kl"].item()
    assert losses[1.0] == pytest.approx(losses[0.0], rel=1e-6)
    assert losses[4.0] == pytest.approx(losses[0.0], rel=1e-6)


def test_one_is_the_vae():
    x, models = images(), (build(), build(BetaVAE, beta=1.0))
    totals = []
    for model in models:
        torch.manual_seed(2)
        (turn,) = model.step(x)
        totals.append(turn.loss.item())
    assert totals[0] == totals[1]


def test_every_parameter_gets_a_gradient():
    model = build()
    (turn,) = model.step(images())
    gradients = torch.autograd.grad(turn.loss, list(model.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_sample_and_reconstruct():
    model, x = build(), images()
    draw = torch.Generator().manual_seed(0)
    a = model.sample(3, generator=draw)
    b = model.sample(3, generator=torch.Generator().manual_seed(0))
    assert a.shape == (3, *SHAPE)
    assert torch.equal(a, b)
    assert a.min() >= 0 and a.max() <= 1  # noqa: PT018 (one range)
    assert torch.equal(model.reconstruct(x), model.decoder(model.encode(x).mean).sigmoid())
    assert not model.reconstruct(x).requires_grad


def test_a_readers_own_networks():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
    decoder = nn.Sequential(nn.Linear(3, 16), nn.Unflatten(1, SHAPE))
    model = VAE(3, image_shape=SHAPE, encoder=encoder, decoder=decoder)
    assert model.reconstruct(images()).shape == (5, *SHAPE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim is 0; a code needs at least one dimension"),
        ({"latent_dim": -1}, "latent_dim is -1"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson'; choose"),
        ({"likelihood": "gaussian"}, "needs decoder_std="),
        ({"likelihood": "gaussian", "decoder_std": 0.0}, "decoder_std is 0.0"),
        ({"likelihood": "gaussian", "decoder_std": float("nan")}, "decoder_std is nan"),
        ({"decoder_std": 0.1}, "has no meaning for a Bernoulli likelihood"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        VAE(**arguments)


def test_a_negative_beta_is_refused():
    with pytest.raises(ValueError, match=r"beta is -1\.0"):
        BetaVAE(beta=-1.0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (
            torch.zeros(5, 1, 4, 4, dtype=torch.uint8),
            TypeError,
            r"torch\.uint8.*x\.float\(\) / 255",
        ),
        (torch.zeros(5, 1, 4, 4).long(), TypeError, r"torch\.int64"),
        (torch.zeros(5, 1, 4, 4).double(), TypeError, r"torch\.float64.*torch\.float32"),
        (torch.zeros(5, 1, 8, 8), ValueError, r"shape \(5, 1, 8, 8\); expected \(n, 1, 4, 4\)"),
        (torch.zeros(1, 4, 4), ValueError, r"shape \(1, 4, 4\)"),
    ],
)
def test_bad_images(x, error, message):
    with pytest.raises(error, match=message):
        build().encode(x)


def test_bad_codes():
    with pytest.raises(ValueError, match=r"z has shape \(3, 5\); expected \(n, 2\)"):
        build().decode(torch.zeros(3, 5))


def test_images_of_another_shape_than_the_decoders_are_not_broadcast():
    likelihood = build().decode(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="the decoder makes images of shape"):
        likelihood.log_prob(torch.zeros(3, 1, 1, 4))


def test_the_rate_of_a_trained_model_is_never_negative_per_example():
    model, x = build(), images(64)
    tutor.fit(model, x, steps=100, batch_size=32, device="cpu", progress=False)
    q = model.encode(x)
    assert (gaussian_kl(q.mean, q.log_var) >= 0).all()


def test_a_network_without_layers_is_kept():
    empty = nn.Sequential()
    assert VAE(2, encoder=empty).encoder is empty
    assert VAE(2, decoder=empty).decoder is empty
