"""Parzen windows against closed forms, scikit-learn, a quadrature and the true density."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.neighbors import KernelDensity
from torch.distributions import Normal

from tests.metrics.worlds import generator
from tutor.metrics import parzen, parzen_log_prob


def normal(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def test_one_window_is_a_gaussian():
    x, centre, h = normal(20, 3), normal(1, 3, seed=1), 0.7
    want = Normal(centre, h).log_prob(x).sum(1)
    # float64 throughout; squares of numbers near 1 cancel to about 1e-15
    assert (parzen_log_prob(x, centre, h) - want).abs().max() < 1e-12


def test_two_windows_written_out():
    samples = torch.tensor([[0.0], [2.0]])
    got = parzen_log_prob(torch.tensor([[0.5]]), samples, 1.0)
    want = math.log(0.5 * (math.exp(-0.125) + math.exp(-1.125)) / math.sqrt(2 * math.pi))
    assert got.item() == pytest.approx(want, abs=1e-7)


@pytest.mark.parametrize("bandwidth", [0.05, 0.3, 2.0])
def test_against_scikit_learn(bandwidth):
    x, samples = normal(50, 5), normal(80, 5, seed=1)
    want = KernelDensity(bandwidth=bandwidth).fit(samples.numpy()).score_samples(x.numpy())
    # its sums of exponentials start from a tolerance of their own, about 1e-8
    assert (parzen_log_prob(x, samples, bandwidth) - torch.from_numpy(want)).abs().max() < 1e-6


def test_it_is_a_density():
    t = torch.linspace(-12, 12, 4_801, dtype=torch.float64).unsqueeze(1)
    p = parzen_log_prob(t, normal(30, 1), 0.4).exp()
    assert p.sum().item() * 24 / 4_800 == pytest.approx(1, abs=1e-9)


def test_images_are_flattened_and_float32_is_enough_for_them():
    """At 784 dimensions and h = 0.1 a distance wrong by 1e-6 would be 5e-5 nats."""
    x, samples = (torch.rand(n, 1, 28, 28, generator=generator(n)) for n in (9, 11))
    squares = (x.double().flatten(1).unsqueeze(1) - samples.double().flatten(1)).square().sum(2)
    normaliser = 392 * math.log(2 * math.pi * 0.1**2) + math.log(11)
    want = (-squares / (2 * 0.1**2)).logsumexp(1) - normaliser
    assert (parzen_log_prob(x, samples, 0.1) - want).abs().max() < 1e-9


def test_far_from_every_sample_the_logarithm_stays_finite():
    got = parzen_log_prob(torch.full((1, 2), 1e3), torch.zeros(3, 2), 0.1)
    want = -1e8 - math.log(2 * math.pi * 0.01)
    assert got.item() == pytest.approx(want, rel=1e-12)


def test_blocks_change_nothing(monkeypatch):
    import importlib

    module = importlib.import_module("tutor.metrics.parzen")
    x, samples = normal(23, 2), normal(31, 2, seed=1)
    whole = parzen_log_prob(x, samples, 0.3)
    largest = 0
    product = torch.Tensor.__matmul__

    def watched(a, b):
        nonlocal largest
        out = product(a, b)
        largest = max(largest, out.numel())
        return out

    monkeypatch.setattr(module, "_ENTRIES", 100)
    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    pieces = parzen_log_prob(x, samples, 0.3)
    # a matrix product of another shape may add in another order
    assert (pieces - whole).abs().max() < 1e-12
    assert 0 < largest <= 100


def test_the_protocol_finds_the_density_of_a_gaussian():
    """In one dimension windows work: the best bandwidth nears the rule 1.06 m^(-1/5)."""
    samples, held_out, x = (normal(2_000, 1, seed) for seed in range(3))
    found = parzen(x, samples, held_out)
    assert 0.5 < found.bandwidth / (1.06 * 2_000**-0.2) < 2
    truth = Normal(0, 1).log_prob(x.squeeze(1)).mean()
    assert found.log_prob.mean().item() == pytest.approx(truth.item(), abs=0.02)
    assert torch.equal(found.log_prob, parzen_log_prob(x, samples, found.bandwidth))


def test_the_bandwidth_is_the_best_on_the_validation_set():
    samples, held_out, x = (normal(200, 2, seed) for seed in range(3))
    tried = [0.1, 0.3, 0.9]
    means = [parzen_log_prob(held_out, samples, h).mean().item() for h in tried]
    found = parzen(x, samples, held_out, bandwidths=reversed(tried))
    assert means[1] == max(means)
    assert found.bandwidth == 0.3


def test_a_bandwidth_at_the_end_of_the_search_is_refused():
    samples, held_out = normal(200, 2), normal(200, 2, seed=1)
    with pytest.raises(ValueError, match=r"the best bandwidth is 1, at the end .* from 1 to 3"):
        parzen(held_out, samples, held_out, bandwidths=[1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"the best bandwidth is 0\.01, at the end"):
        parzen(held_out, samples, samples, bandwidths=[0.01, 0.1, 1.0])  # it knows the answers


@pytest.mark.parametrize(
    ("x", "samples", "h", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(4, 2), 1.0, ValueError, r"shape \(2, 3\) and samples"),
        (torch.zeros(3), torch.zeros(3), 1.0, ValueError, r"shape \(3,\)"),
        (torch.zeros(0, 2), torch.zeros(4, 2), 1.0, ValueError, "given 0 points and 4 samples"),
        (torch.zeros(2, 2), torch.zeros(4, 2), 0.0, ValueError, r"bandwidth is 0\.0"),
        (torch.zeros(2, 2), torch.zeros(4, 2), math.inf, ValueError, "bandwidth is inf"),
        (torch.zeros(2, 2).byte(), torch.zeros(4, 2), 1.0, TypeError, r"torch\.uint8"),
        (torch.full((1, 2), math.nan), torch.zeros(4, 2), 1.0, ValueError, "not finite"),
    ],
)
def test_bad_input(x, samples, h, error, message):
    with pytest.raises(error, match=message):
        parzen_log_prob(x, samples, h)


def test_too_few_bandwidths():
    with pytest.raises(ValueError, match="given 2 bandwidths; a search needs at least 3"):
        parzen(torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2), bandwidths=[0.1, 1.0])
