"""Noise-fed encoders and critics: what they compute, shown against a slower way to write it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import elu

from tutor.critics import BilinearCritic, ResidualCritic
from tutor.noise_encoders import FactoredNoiseEncoder, NoiseEncoder

SHAPE = (1, 2, 3)


def images(n: int = 4) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(0))


def test_cutting_the_first_layer_in_two_changes_nothing():
    torch.manual_seed(0)
    encoder = NoiseEncoder(SHAPE, 2, noise_dim=5, hidden=(16, 8))
    x, noise = images(), torch.randn(7, 4, 5)
    whole = nn.Linear(6 + 5, 16)
    with torch.no_grad():
        whole.weight.copy_(torch.cat([encoder.from_image.weight, encoder.from_noise.weight], 1))
        whole.bias.copy_(encoder.from_image.bias)
    side_by_side = torch.cat([x.flatten(1).expand(7, 4, 6), noise], 2)
    # the same sums in another order
    torch.testing.assert_close(encoder(x, noise), encoder.rest(whole(side_by_side)))
    torch.testing.assert_close(encoder(x, noise[0]), encoder(x, noise)[0])


def test_the_factored_encoder_is_the_sum_written_out():
    torch.manual_seed(0)
    encoder = FactoredNoiseEncoder(SHAPE, 2, bases=3, noise_dim=5, hidden=(16,), basis_hidden=(8,))
    assert encoder.noise_dim == 15
    x, noise = images(), torch.randn(7, 4, 15)
    out = encoder.from_image(x)
    offset, raw = out[:, :2], out[:, 2:].reshape(4, 3, 2)
    want = offset.expand(7, 4, 2).clone()
    for i in range(3):
        weights = [w[i] for w in encoder.from_noise.weights]
        biases = [b[i] for b in encoder.from_noise.biases]
        hidden = elu(noise[..., 5 * i : 5 * (i + 1)] @ weights[0] + biases[0])
        v = hidden @ weights[1] + biases[1]
        want = want + (elu(raw[:, i] - 1) + 1) * v
    torch.testing.assert_close(encoder(x, noise), want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder(x, noise[0]), encoder(x, noise)[0])
    assert all(p.grad_fn is None for p in encoder.parameters())
    gradients = torch.autograd.grad(encoder(x, noise).square().sum(), list(encoder.parameters()))
    assert all(g.abs().sum() > 0 for g in gradients)


def test_the_factored_moments_are_those_of_its_draws():
    torch.manual_seed(0)
    encoder = FactoredNoiseEncoder(SHAPE, 2, bases=4, noise_dim=3, hidden=(16,))
    x, n = images(), 40_000
    mean, std = encoder.moments(x, n, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(n, 4, encoder.noise_dim, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        draws = encoder(x, noise)
    # both sides are estimates from 40 000 draws: five standard errors each
    assert ((mean - draws.mean(0)).abs() < 2 * 5 * draws.std(0) / math.sqrt(n)).all()
    assert ((std / draws.std(0) - 1).abs() < 2 * 5 * 1.5 / math.sqrt(2 * n)).all()
    again = encoder.moments(x, n, generator=torch.Generator().manual_seed(1))
    assert torch.equal(mean, again[0])
    assert not mean.requires_grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseEncoder(SHAPE, 2, noise_dim=0), "noise_dim is 0; without noise"),
        (lambda: NoiseEncoder(SHAPE, 0, noise_dim=2), "latent_dim is 0"),
        (lambda: NoiseEncoder(SHAPE, 2, noise_dim=2, hidden=()), "no hidden layer"),
        (lambda: FactoredNoiseEncoder(SHAPE, 2, bases=2, noise_dim=0), "noise_dim is 0"),
        (lambda: FactoredNoiseEncoder(SHAPE, 2, bases=0, noise_dim=2), "bases is 0"),
        (
            lambda: FactoredNoiseEncoder(SHAPE, 2, bases=2, noise_dim=2, basis_hidden=()),
            "no hidden layer",
        ),
        (
            lambda: FactoredNoiseEncoder(SHAPE, 2, bases=2, noise_dim=2).moments(images(), 1),
            "samples is 1",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("shape", [(5,), (3, 5), (4, 6), (4, 5, 1)])
@pytest.mark.parametrize("kind", ["plain", "factored"])
def test_noise_of_another_shape_is_refused(shape, kind):
    if kind == "plain":
        encoder = NoiseEncoder(SHAPE, 2, noise_dim=5)
    else:
        encoder = FactoredNoiseEncoder(SHAPE, 2, bases=5, noise_dim=1)
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4, 5\): a row"):
        encoder(images(), torch.zeros(shape))


def test_a_bilinear_critic_holds_the_log_ratio_of_gaussians():
    """theta(x) = (m, 1), s(z) = (z, -z^2): T is log N(z; m, 1) - log N(z; 0, 2^2), exactly."""
    critic = BilinearCritic((1, 1, 1), 1, image_hidden=(1,), code_hidden=(1,), features=2)

    class Statistics(nn.Module):
        def __init__(self, columns) -> None:
            super().__init__()
            self.columns = columns

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return torch.cat(self.columns(value.flatten(1)), 1)

    constant = math.log(2)
    critic.of_image = Statistics(lambda m: (constant - m**2 / 2, m, torch.ones_like(m)))
    critic.of_code = Statistics(lambda z: (0 * z, z, -0.375 * z**2))
    m, z = torch.tensor([[[[0.3]]], [[[-1.0]]]]), torch.tensor([[0.7], [2.0]])
    q, p = torch.distributions.Normal(m.flatten(1), 1.0), torch.distributions.Normal(0.0, 2.0)
    want = (q.log_prob(z) - p.log_prob(z)).squeeze(1)
    torch.testing.assert_close(critic(m, z), want)


def test_a_residual_critic_starts_as_one_layer():
    torch.manual_seed(0)
    critic = ResidualCritic(SHAPE, 2, width=8, blocks=3)
    x, z = images(), torch.randn(4, 2)
    shallow = critic.last(critic.first(torch.cat([x.flatten(1), z], 1))).squeeze(1)
    assert torch.equal(critic(x, z), shallow)
    assert critic(x, z).shape == (4,)
    gradients = torch.autograd.grad(critic(x, z).sum(), [b[-1].weight for b in critic.blocks])
    assert all(g.abs().sum() > 0 for g in gradients)
