"""DIP-VAE: which covariance, its distance from the identity, and the distance's slope."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import tutor
from tutor.game import Turn
from tutor.models import DIPVAE, VAE
from tutor.models.dip_vae import code_covariance, covariance_distances
from tutor.nets import mlp_decoder, mlp_encoder
from tutor.posteriors import DiagonalGaussian

SHAPE, F64 = (1, 4, 4), torch.float64


def images(n: int = 8) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0)).round()


def small(kind=DIPVAE, latent_dim: int = 3, **options):
    torch.manual_seed(0)
    parts = {
        "encoder": mlp_encoder(SHAPE, 2 * latent_dim, hidden=(16,)),
        "decoder": mlp_decoder(latent_dim, SHAPE, hidden=(16,)),
    }
    return kind(latent_dim, image_shape=SHAPE, **parts, **options)


def play(model, x: Tensor) -> Turn:
    torch.manual_seed(1)
    (turn,) = model.step(x)
    return turn


def posteriors(n: int = 7, dim: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    mean, log_var = torch.randn(2, n, dim, generator=draw, dtype=F64).unbind()
    return mean.requires_grad_(), log_var.requires_grad_()


@pytest.mark.parametrize("variant", ["I", "II"])
def test_the_loss_written_out(variant):
    """Entry by entry, squared before they are summed; float32 sums of a few terms."""
    x, model = images(), small(variant=variant, off_diagonal=3.0, diagonal=7.0)
    turn = play(model, x)
    mean, log_var = model.encoder(x).chunk(2, 1)
    off, on = 0.0, 0.0
    for i in range(3):
        for j in range(3):
            a, b = mean[:, i] - mean[:, i].mean(), mean[:, j] - mean[:, j].mean()
            c = (a * b).sum() / 7  # n - 1
            if i == j:
                c = c + (log_var[:, i].exp().mean() if variant == "II" else 0.0)
                on = on + (c - 1) ** 2
            else:
                off = off + c**2
    loss = play(small(VAE), x).loss + 3 * off + 7 * on
    assert turn.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert turn.terms["off_diagonal"].item() == pytest.approx(off.item(), rel=1e-4)
    assert turn.terms["diagonal"].item() == pytest.approx(on.item(), rel=1e-4)


def test_without_weights_it_is_the_vae():
    turn = play(small(off_diagonal=0.0, diagonal=0.0), images())
    assert torch.equal(turn.loss, play(small(VAE), images()).loss)


def test_the_slope_of_the_distances_in_closed_form():
    """d/dC of sum C_ij^2 is 2 C off the diagonal; C moves with a mean by (m_n - mean) / (n - 1)."""
    mean, log_var = posteriors()
    q = DiagonalGaussian(mean, log_var)
    for of_means in (True, False):
        cov = code_covariance(q, of_means=of_means)
        off, on = covariance_distances(cov)
        diagonal = cov.diagonal()
        by_off = 2 * (cov - diagonal.diag())  # dL/dC, symmetric
        by_on = 2 * (diagonal - 1).diag()
        centred = mean - mean.mean(0)
        for value, by_cov in ((off, by_off), (on, by_on)):
            got = torch.autograd.grad(value, (mean, log_var), allow_unused=True, retain_graph=True)
            # float64 sums of some ten terms
            assert torch.allclose(got[0], 2 * centred @ by_cov / 6, atol=1e-12)
            wanted = torch.zeros_like(log_var)
            if not of_means:
                wanted = log_var.exp() * by_cov.diagonal() / 7
            found = wanted.new_zeros(wanted.shape) if got[1] is None else got[1]
            assert torch.allclose(found, wanted, atol=1e-12)


def test_the_covariance_is_that_of_drawn_codes():
    """Variant II against the sample covariance of 400 000 draws, within its standard error."""
    mean, log_var = (v.detach() for v in posteriors(n=2000, dim=2))
    q = DiagonalGaussian(mean, log_var)
    z = q.sample((200,), generator=torch.Generator().manual_seed(3)).reshape(-1, 2)
    # a covariance of 400 000 codes with a spread of about 2 has a standard error below 0.01
    assert torch.allclose(code_covariance(q), z.T.cov(), atol=0.03)
    means = code_covariance(q, of_means=True)
    assert torch.allclose(means, mean.T.cov(), atol=1e-12)


def test_the_covariance_of_a_batch_has_no_bias():
    """Its mean over many small batches is the covariance over the data."""
    mean, log_var = (v.detach() for v in posteriors(n=500, dim=2))
    draw = torch.Generator().manual_seed(4)
    batches = torch.randint(500, (20_000, 4), generator=draw)
    centred = mean[batches] - mean[batches].mean(1, keepdim=True)
    plain = torch.einsum("bni,bnj->ij", centred, centred) / 3 / 20_000
    few = torch.stack(
        [code_covariance(DiagonalGaussian(mean[b], log_var[b]), of_means=True)
         for b in batches[:200]]
    ).mean(0)  # fmt: skip
    subset = torch.einsum("bni,bnj->ij", centred[:200], centred[:200]) / 3 / 200
    assert torch.allclose(few, subset, atol=1e-12)
    # batches are drawn with replacement, so the truth is divided by N; five standard errors
    assert torch.allclose(plain, mean.T.cov(correction=0), atol=5 * 1.5 / math.sqrt(3 * 20_000))


def test_the_penalty_is_never_negative():
    """Public code that sums off-diagonal entries without squares rewards negative ones."""
    cov = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    off, on = covariance_distances(cov)
    assert off.item() == pytest.approx(2 * 0.81)
    assert on.item() == 0.0


@pytest.mark.parametrize(("variant", "factor"), [("I", 10), ("II", 1)])
def test_default_weights(variant, factor):
    model = small(variant=variant, off_diagonal=5.0)
    assert model.diagonal == factor * 5.0
    assert f"variant='{variant}'" in repr(model)


@pytest.mark.parametrize("variant", ["I", "II"])
def test_training_brings_the_covariance_to_the_identity(variant):
    x = images(64)
    model = small(variant=variant, off_diagonal=50.0)
    with torch.no_grad():
        before = sum(covariance_distances(model.covariance(model.encode(x))))
    tutor.fit(model, x, steps=400, batch_size=64, device="cpu", progress=False)
    with torch.no_grad():
        after = sum(covariance_distances(model.covariance(model.encode(x))))
    assert after < 0.05 * before


def test_bad_input():
    with pytest.raises(ValueError, match='variant is 1; choose "I" or "II"'):
        small(variant=1)
    for name in ("off_diagonal", "diagonal"):
        with pytest.raises(ValueError, match=f"{name} is -2.0; a weight must not be negative"):
            small(**{name: -2.0})
    with pytest.raises(ValueError, match="the batch has 1 image; a covariance needs at least 2"):
        play(small(), images(1))
    with pytest.raises(ValueError, match=r"image_shape is \(1, 32, 32\); the default networks"):
        DIPVAE(image_shape=(1, 32, 32))
