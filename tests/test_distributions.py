"""Posteriors, likelihoods, priors and their divergences against torch and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from tutor.divergences import gaussian_kl, gaussian_kl_per_dimension, monte_carlo_kl
from tutor.likelihoods import BernoulliLikelihood, GaussianLikelihood
from tutor.posteriors import DiagonalGaussian
from tutor.priors import Gaussian


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def posterior(n: int = 4, dim: int = 3) -> DiagonalGaussian:
    draw = seeded()
    return DiagonalGaussian(
        torch.randn(n, dim, generator=draw), torch.randn(n, dim, generator=draw)
    )


def test_log_prob_equals_a_full_gaussian():
    q = posterior()
    z = torch.randn(4, 3, generator=seeded(1))
    full = MultivariateNormal(q.mean, torch.diag_embed(q.log_var.exp()))
    torch.testing.assert_close(q.log_prob(z), full.log_prob(z), rtol=1e-5, atol=1e-5)


def test_draws_are_reproducible_and_carry_gradients():
    mean = torch.zeros(2, 3, requires_grad=True)
    log_var = torch.zeros(2, 3, requires_grad=True)
    q = DiagonalGaussian(mean, log_var)
    z = q.rsample((7,), generator=seeded())
    assert z.shape == (7, 2, 3)
    assert torch.equal(z, q.rsample((7,), generator=seeded()))
    by_mean, by_log_var = torch.autograd.grad(z.sum(), (mean, log_var))
    assert torch.equal(by_mean, torch.full((2, 3), 7.0))
    # d z / d log_var = noise / 2 where the variance is one
    torch.testing.assert_close(by_log_var, z.detach().sum(0) / 2)
    assert not q.sample(generator=seeded()).requires_grad


def test_noise_is_drawn_for_every_example_and_dimension():
    z = DiagonalGaussian(torch.zeros(50, 4), torch.zeros(50, 4)).sample(generator=seeded())
    assert z.unique().numel() == 200


def test_a_posterior_of_unequal_shapes_is_refused():
    with pytest.raises(ValueError, match="both must be"):
        DiagonalGaussian(torch.zeros(2, 3), torch.zeros(2, 2))


def test_kl_equals_torchs():
    q = posterior()
    reference = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian_kl_per_dimension(q.mean, q.log_var), reference)
    torch.testing.assert_close(gaussian_kl(q.mean, q.log_var), reference.sum(1))


def test_kl_is_accurate_next_to_zero():
    # var - 1 - log var is t^2/2 for a small log-variance t; naive float32 loses it in rounding
    log_var = torch.full((1, 1), 1e-3)
    assert gaussian_kl(torch.zeros(1, 1), log_var).item() == pytest.approx(2.5e-7, rel=2e-3)
    assert (gaussian_kl(torch.zeros(100, 5), 1e-4 * torch.randn(100, 5)) >= 0).all()


def test_kl_of_unequal_shapes_is_refused():
    with pytest.raises(ValueError, match="they must be equal"):
        gaussian_kl(torch.zeros(4, 2), torch.zeros(2))


def test_monte_carlo_kl_is_unbiased():
    q = posterior()
    estimates = torch.stack(
        [monte_carlo_kl(q, Gaussian(3), generator=seeded(s)) for s in range(4_000)]
    )
    error = estimates.std(0) / math.sqrt(len(estimates))
    truth = gaussian_kl(q.mean, q.log_var)
    assert ((estimates.mean(0) - truth).abs() < 4.5 * error).all()  # 4 examples: p = 3e-5
    with pytest.raises(ValueError, match="samples is 0"):
        monte_carlo_kl(q, Gaussian(3), samples=0)


def test_bernoulli_equals_torchs_on_binary_images():
    logits = 3 * torch.randn(4, 1, 5, 5, generator=seeded())
    x = torch.rand(4, 1, 5, 5, generator=seeded(1)).round()
    reference = Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))
    torch.testing.assert_close(BernoulliLikelihood(logits).log_prob(x), reference)


def test_bernoulli_survives_extreme_logits():
    logits = torch.full((1, 1, 1, 1), 200.0)
    assert BernoulliLikelihood(logits).log_prob(torch.zeros(1, 1, 1, 1)).item() == -200.0


def test_likelihoods_broadcast_over_samples():
    likelihood = BernoulliLikelihood(torch.zeros(4, 1, 2, 2))
    assert likelihood.log_prob(torch.zeros(7, 4, 1, 2, 2)).shape == (7, 4)
    likelihood = GaussianLikelihood(torch.zeros(4, 1, 2, 2), 1.0)
    assert likelihood.log_prob(torch.zeros(7, 4, 1, 2, 2)).shape == (7, 4)


def test_likelihood_samples_have_the_right_mean():
    draw = seeded()
    logits = torch.tensor([-1.0, 0.0, 2.0]).view(1, 1, 1, 3)
    x = BernoulliLikelihood(logits).sample((20_000,), generator=draw)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    p = logits.sigmoid()
    assert ((x.mean(0) - p).abs() < 4 * (p * (1 - p) / 20_000).sqrt()).all()  # 4 standard errors
    y = GaussianLikelihood(logits, 0.5).sample((20_000,), generator=draw)
    assert ((y.mean(0) - logits).abs() < 4 * 0.5 / math.sqrt(20_000)).all()
    assert ((y.std(0) - 0.5).abs() < 4 * 0.5 / math.sqrt(2 * 20_000)).all()


def test_the_gaussian_likelihoods_std_can_be_learnt():
    std = torch.tensor(0.5, requires_grad=True)
    likelihood = GaussianLikelihood(torch.zeros(1, 1, 1, 4), std)
    x = torch.ones(1, 1, 1, 4)
    (gradient,) = torch.autograd.grad(likelihood.log_prob(x).sum(), std)
    # d/ds (-x^2/(2 s^2) - log s) = x^2/s^3 - 1/s, four pixels
    assert gradient.item() == pytest.approx(4 * (1 / 0.5**3 - 1 / 0.5))


def test_prior():
    prior = Gaussian(3)
    z = prior.sample((5, 2), generator=seeded())
    assert z.shape == (5, 2, 3)
    torch.testing.assert_close(prior.log_prob(z), Normal(0.0, 1.0).log_prob(z).sum(-1))
    assert not list(prior.parameters())
    assert not prior.state_dict()
    with pytest.raises(ValueError, match="dim is 0"):
        Gaussian(0)
    with pytest.raises(ValueError, match="z has 2 dimensions"):
        prior.log_prob(torch.zeros(1, 2))


def test_samples_carry_no_gradient():
    logits = torch.zeros(2, 1, 2, 2, requires_grad=True)
    for likelihood in (BernoulliLikelihood(logits), GaussianLikelihood(logits, 0.5)):
        assert not likelihood.sample(generator=seeded()).requires_grad


def test_distributions_expand_as_in_torch():
    for one, x in (
        (posterior(3, 2), torch.zeros(3, 2)),
        (BernoulliLikelihood(torch.zeros(3, 1, 2, 2)), torch.ones(3, 1, 2, 2)),
        (GaussianLikelihood(torch.zeros(3, 1, 2, 2), 0.5), torch.ones(3, 1, 2, 2)),
    ):
        many = one.expand((4, 3))
        assert type(many) is type(one)
        assert torch.equal(many.log_prob(x), one.log_prob(x).expand(4, 3))


@pytest.mark.parametrize("x", [torch.ones(1, 1, 2, 2).byte(), torch.ones(1, 1, 2, 2).bool()])
def test_images_that_are_no_floats_are_refused(x):
    with pytest.raises(TypeError, match=r"expected floats; use x\.float\(\)"):
        BernoulliLikelihood(torch.zeros(1, 1, 2, 2)).log_prob(x)
