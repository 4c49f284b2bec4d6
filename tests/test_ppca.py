"""Units of the linear-Gaussian toy world; its equations are checked in tests/equations."""

import math

import pytest
import torch

from tutor import ppca

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_model(rows: int = 5, columns: int = 2) -> ppca.PPCA:
    g = generator()
    weights = torch.randn(rows, columns, generator=g, dtype=F64)
    return ppca.PPCA(weights, torch.randn(rows, generator=g, dtype=F64), variance=0.3)


def test_samples_have_the_models_moments():
    model, n = random_model(), 200_000
    x = model.sample(n, generator=generator(1))
    # Standard error of an entry of the covariance is at most sqrt(2 / n) times the largest
    # variance; 5 of them never fail for a fixed seed that is not tuned.
    bound = 5 * math.sqrt(2 / n) * model.covariance.max()
    assert (x.mean(0) - model.mean).abs().max() < bound
    assert (x.T.cov(correction=0) - model.covariance).abs().max() < bound


def test_fitted_noise_is_the_mean_of_the_discarded_eigenvalues():
    covariance = torch.diag(torch.tensor([5.0, 3.0, 1.0, 0.5], dtype=F64))
    model = ppca.fit(torch.zeros(4, dtype=F64), covariance, 2)
    assert model.variance == pytest.approx(0.75)
    assert torch.allclose(model.covariance, torch.tensor([5, 3, 0.75, 0.75], dtype=F64).diag())


def test_fit_recovers_the_model_that_made_the_covariance():
    model = random_model()
    again = ppca.fit(model.mean, model.covariance, 2)
    assert again.variance == pytest.approx(model.variance, rel=1e-9)
    assert torch.allclose(again.covariance, model.covariance, atol=1e-9)


def test_rate_is_zero_exactly_at_the_threshold():
    eigenvalues = torch.tensor([2.0, 0.5, 0.25], dtype=F64)
    assert ppca.collapsed(eigenvalues, 0.5).tolist() == [False, True, True]
    assert ppca.collapsed(eigenvalues, 0.5, beta=4.0).tolist() == [True, True, True]


def test_elbo_agrees_with_sampling():
    model = random_model()
    x = model.sample(3, generator=generator(2))
    mean, log_var = torch.randn(2, 3, 2, generator=generator(3), dtype=F64)
    n = 100_000
    noise = torch.randn(n, 3, 2, generator=generator(4), dtype=F64)
    z = mean + (0.5 * log_var).exp() * noise
    residual = (x - model.mean - z @ model.weights.T).square().sum(-1)
    log_joint = -0.5 * (residual / model.variance + 5 * math.log(2 * math.pi * model.variance))
    log_joint = log_joint - 0.5 * (z.square().sum(-1) + 2 * math.log(2 * math.pi))
    log_q = -0.5 * (noise.square().sum(-1) + log_var.sum(-1) + 2 * math.log(2 * math.pi))
    draws = log_joint - log_q  # (n, 3)
    error = draws.std(0) / math.sqrt(n)
    assert ((draws.mean(0) - model.elbo(x, mean, log_var)).abs() < 5 * error).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ppca.PPCA(torch.zeros(3, 2), torch.zeros(2), 1.0), r"expected \(D, d\) and \(D,"),
        (lambda: ppca.PPCA(torch.zeros(3, 2), torch.zeros(3), 0.0), "positive"),
        (lambda: ppca.PPCA(torch.zeros(3, 2), torch.zeros(3), math.nan), "positive"),
        (lambda: random_model().log_prob(torch.zeros(2, 4)), r"expected \(n, 5\)"),
        (lambda: ppca.fit(torch.zeros(3), torch.eye(3), 4), "1 to 3"),
        (lambda: ppca.fit(torch.zeros(3), torch.eye(3), 3), "nothing is discarded"),
        (lambda: ppca.fit(torch.zeros(3), torch.eye(3), 2, beta=2.0), "give the variance"),
        (lambda: ppca.principal_directions(torch.tensor([[1.0, 2], [0, 1]])), "symmetric"),
        (lambda: ppca.rates(torch.ones(2), 0.0), "positive"),
        (lambda: ppca.rates(torch.ones(2), 1.0, beta=-1.0), "positive"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
