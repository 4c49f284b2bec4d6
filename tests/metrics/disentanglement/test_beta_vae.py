"""The Higgins score: its pairs, its classifier against another solver, and how it is fooled."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.metrics.disentanglement.grids import grid, scattered, turned
from tests.metrics.worlds import generator
from tutor.metrics import beta_vae_score, example_codes, factor_vae_score, mig
from tutor.metrics.disentanglement._factors import checked, group
from tutor.metrics.disentanglement.beta_vae import _classify, _features

FACTORS = grid(4, 5, 10, 10)


def features_of(codes: Tensor, factors: Tensor, batches: int, size: int) -> tuple[Tensor, Tensor]:
    found = checked(codes, factors)
    groups = group(found.values, found.sizes, at_least=2, why="")
    shared = torch.randint(len(found.sizes), (batches,), generator=generator())
    return shared, _features(found.codes, found.values, groups, shared, size, generator(1))


def test_pairs_share_one_factor_and_are_independent_otherwise():
    """With the factors as codes: a zero where shared, else the mean of |a - b|."""
    shared, features = features_of(FACTORS.float(), FACTORS, 2_000, 16)
    for k, size in enumerate((4, 5, 10, 10)):
        assert (features[shared == k, k] == 0).all()
        others = features[shared != k, k]
        truth = (size**2 - 1) / (3 * size)  # of two uniform numbers below size
        assert (others.mean() - truth).abs() < 4 * others.std() / math.sqrt(len(others))


def test_each_pair_has_a_value_of_its_own():
    """Else a code of x * y would differ by a multiple of one x only within a batch."""
    factors = grid(10, 10)
    codes = (factors[:, :1] * factors[:, 1:]).float()
    shared, features = features_of(codes, factors, 2_000, 64)
    # |x (y - y')| with x anew in each pair: mean E[x] E|y - y'| and, over 64 pairs, little spread.
    truth = 4.5 * 99 / 30
    x, gap = torch.arange(10.0), (torch.arange(10.0)[:, None] - torch.arange(10.0)).abs()
    variance = x.square().mean() * gap.square().mean() - truth**2
    some = features[shared == 0, 0]
    assert abs(some.mean() - truth) < 4 * math.sqrt(variance / 64 / len(some))
    assert some.std() == pytest.approx(math.sqrt(variance / 64), rel=0.15)


def test_the_classifier_is_the_optimum_of_its_loss():
    """Another solver for the same penalised softmax regression makes the same guesses."""
    g = generator()
    labels = torch.randint(3, (400,), generator=g)
    x = torch.randn(400, 4, generator=g) + labels[:, None] * torch.tensor([1.0, -0.5, 0, 0])
    others = 2 * torch.randn(1_000, 4, generator=g)
    std, mean = torch.std_mean(x.double(), 0, correction=0)
    scaled, scaled_others = (x - mean) / std, (others - mean) / std
    weight = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=500, tolerance_grad=1e-9,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = cross_entropy(scaled @ weight + bias, labels, reduction="sum")
        value = value + 0.5 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    truth = (scaled_others @ weight + bias).argmax(1)
    # Points on a border may fall to either side, within the tolerance of the two solvers.
    assert (_classify(x, labels, others) == truth).double().mean() > 0.995


@pytest.mark.parametrize("dim", [4, 10])
def test_a_perfect_code_scores_one(dim):
    codes = example_codes(FACTORS, "perfect", dim=dim, generator=generator())
    result = beta_vae_score(codes, FACTORS, train=1_000, test=1_000, generator=generator())
    assert result.score == 1.0
    assert torch.equal(result.confusion, torch.diag(result.confusion.diagonal()))
    assert result.confusion.sum() == 1_000


def test_chance():
    factors = scattered(100_000, 5, 5, 5, 5)
    codes = example_codes(factors, "random", dim=10, generator=generator())
    found = beta_vae_score(codes, factors, train=4_000, test=4_000, generator=generator()).score
    # A random code differs a little between groups by chance; beyond that, four standard errors.
    assert abs(found - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4_000) + 0.01


def test_it_does_not_see_that_a_factor_is_missing():
    """The failure that Kim & Mnih draw: all pairs of the missing factor differ everywhere."""
    codes = example_codes(FACTORS, "higgins-failure", dim=6, generator=generator())
    assert beta_vae_score(codes, FACTORS, generator=generator()).score == 1.0
    assert factor_vae_score(codes, FACTORS, generator=generator()).score < 0.8
    assert mig(codes, FACTORS).gaps[3] < 0.01


def test_it_accepts_mixtures():
    """Turned by 25 degrees every coordinate mixes both factors: perfect for the classifier, not
    for a gap.  Turned by 45 degrees the two kinds of batches look alike, and it can only guess."""
    factors = grid(40, 40)
    small, even = turned(factors, 25), turned(factors, 45)
    assert beta_vae_score(small, factors, generator=generator()).score > 0.999
    assert mig(small, factors).score < 0.5
    found = beta_vae_score(even, factors, generator=generator()).score
    assert abs(found - 0.5) < 4 * math.sqrt(0.25 / 5_000)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="only 1 images with its value number 2"):
        beta_vae_score(torch.rand(5, 2), torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [2, 0]]))
    with pytest.raises(ValueError, match="share one factor; raise train"):
        beta_vae_score(torch.rand(2000, 2), FACTORS, train=1, generator=generator())
    with pytest.raises(ValueError, match="batch_size is 0"):
        beta_vae_score(torch.rand(2000, 2), FACTORS, batch_size=0)
