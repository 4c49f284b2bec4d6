"""The FactorVAE score: votes one by one, scores that are known, what the protocols change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.metrics.disentanglement.grids import grid, scattered, turned
from tests.metrics.worlds import generator
from tutor.metrics import VOTE_PROTOCOLS, VoteProtocol, example_codes, factor_vae_score
from tutor.metrics.disentanglement._factors import checked, group
from tutor.metrics.disentanglement.factor_vae import least_varying

MANY = VoteProtocol(votes=4_000, test_votes=0, batch_size=64)


def plain_score(codes: Tensor, factors: Tensor, votes: int, size: int, seed: int) -> float:
    """The metric written as the paper tells it, vote by vote, with random numbers of its own."""
    rng = np.random.default_rng(seed)
    z, v = codes.double().numpy(), factors.numpy()
    spread = z.std(0)
    table = np.zeros((z.shape[1], v.shape[1]))
    for _ in range(votes):
        k = rng.integers(v.shape[1])
        same = np.flatnonzero(v[:, k] == v[rng.integers(len(v)), k])
        batch = z[rng.choice(same, size)] / spread
        table[np.argmin(batch.var(0)), k] += 1
    return sum(max(row) for row in table) / votes


def test_each_vote_is_the_least_normalised_variance():
    codes = torch.randn(500, 6, generator=generator()) * torch.tensor([1.0, 9, 0.1, 1, 2, 3])
    codes += torch.tensor([0.0, 1e3, -5, 0, 0, 2])  # far from zero: squares must not cancel
    index = torch.randint(500, (300, 20), generator=generator(1))
    active = torch.tensor([True, True, True, False, True, True])
    z = codes.double().numpy()
    truth = []
    for rows in index.numpy():
        variance = z[rows].var(0) / z.var(0)
        variance[3] = np.inf
        truth.append(variance.argmin())
    assert least_varying(codes, index, codes.std(0), active).tolist() == truth


def test_batches_share_the_value_and_are_uniform_over_its_images():
    factors = scattered(60, 3, 4)
    found = checked(torch.zeros(60, 1), factors)
    groups = group(found.values, found.sizes, at_least=1, why="")
    for k, size in enumerate(found.sizes):
        for value in range(size):
            draws = groups.draw(
                torch.full((20_000,), k), torch.full((20_000,), value), generator(value)
            )
            members = (factors[:, k] == value).nonzero().squeeze(1)
            seen, counts = draws.unique(return_counts=True)
            assert torch.equal(seen, members)
            expected = 20_000 / len(members)
            chi_square = ((counts - expected).square() / expected).sum().item()
            free = len(members) - 1
            assert chi_square < free + 4 * math.sqrt(2 * free)  # four standard deviations


@pytest.mark.parametrize("kind", ["rotated", "random", "higgins-failure"])
def test_against_the_plain_loop(kind):
    """Two runs of the same experiment: four standard errors of the difference of two shares."""
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, kind, generator=generator(2))
    codes = codes + 0.3 * torch.randn(codes.shape, generator=generator(3))
    mine = factor_vae_score(codes, factors, protocol=MANY, generator=generator()).score
    error = math.sqrt(2 * 0.25 / 4_000)
    assert abs(mine - plain_score(codes, factors, 4_000, 64, seed=0)) < 4 * error


@pytest.mark.parametrize("protocol", VOTE_PROTOCOLS)
@pytest.mark.parametrize(("kind", "dim"), [("perfect", 4), ("perfect", 10), ("duplicated", 10)])
def test_codes_that_follow_the_factors_score_one(protocol, kind, dim):
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, kind, dim=dim, generator=generator())
    result = factor_vae_score(codes, factors, protocol=protocol, generator=generator())
    assert result.score == 1.0
    assert result.votes.shape == (dim, 4)
    assert result.votes.sum() == VOTE_PROTOCOLS[protocol].votes
    assert not result.votes[~result.active].any()
    assert torch.equal(result.active, codes.std(0) > 0.5)


def test_chance_with_the_papers_votes():
    """Votes at random over 10 coordinates and 5 factors: the mean of the best of each row."""
    shares = []
    g = generator(5)
    for _ in range(400):
        table = torch.bincount(torch.randint(50, (800,), generator=g), minlength=50).view(10, 5)
        shares.append(table.max(1).values.sum() / 800)
    std, mean = torch.std_mean(torch.stack(shares))
    assert mean.item() == pytest.approx(0.26, abs=0.005)  # two printed digits
    factors = scattered(100_000, 5, 5, 5, 5, 5)
    codes = example_codes(factors, "random", dim=10, generator=generator())
    found = factor_vae_score(codes, factors, generator=generator()).score
    assert abs(found - mean) < 4 * std


@pytest.mark.parametrize("votes", [100, 10_000])
def test_chance_with_votes_kept_apart(votes):
    """A hundred votes would score 0.4 on themselves; others don't fit them."""
    factors = scattered(100_000, 5, 5, 5, 5, 5)
    codes = example_codes(factors, "random", dim=10, generator=generator())
    protocol = VoteProtocol(votes, test_votes=5_000, batch_size=64)
    found = factor_vae_score(codes, factors, protocol=protocol, generator=generator()).score
    # Guesses at one of five: four standard errors over 5 000, and a little for the codes' own
    # chance differences between groups of 20 000 images.
    assert abs(found - 0.2) < 4 * math.sqrt(0.16 / 5_000) + 0.005


def test_a_missing_factor_costs_its_share():
    """Votes for the last factor fall on all coordinates alike and lose everywhere."""
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, "higgins-failure", dim=10, generator=generator())
    found = factor_vae_score(codes, factors, protocol="library", generator=generator())
    assert abs(found.score - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 5_000)
    assert found.votes[3:].sum() == 0  # collapsed coordinates were left out


def test_collapsed_coordinates_would_win_votes():
    """Left in, they take the missing factor's votes and pretend to stand for it."""
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, "higgins-failure", dim=10, generator=generator())
    every = torch.ones(10, dtype=torch.bool)
    fair = factor_vae_score(codes, factors, protocol=MANY, generator=generator())
    fooled = factor_vae_score(codes, factors, protocol=MANY, active=every, generator=generator())
    assert fooled.votes[3:].sum() > 300
    assert fooled.score > fair.score + 0.1


def test_a_code_turned_by_less_than_45_degrees_still_scores_one():
    """The least of two variances is the right one; at 45 degrees it is nobody's."""
    factors = grid(70, 70)
    scores = [
        factor_vae_score(turned(factors, angle), factors, protocol=MANY, generator=generator())
        for angle in (0, 25, 45)
    ]
    assert scores[0].score == 1.0
    assert scores[1].score > 0.99  # variances 0.18 and 0.82, each within 20 per cent
    assert scores[2].score == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 4_000))


def test_what_a_vote_takes():
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, "perfect")
    with pytest.raises(ValueError, match=r"factor 2 has only 200 images .* batch of 201"):
        factor_vae_score(codes, factors, protocol=VoteProtocol(10, 0, 201))
    assert factor_vae_score(codes, factors, protocol=VoteProtocol(10, 0, 200)).score == 1.0
    with pytest.raises(ValueError, match="one image has no variance"):
        factor_vae_score(codes, factors, protocol=VoteProtocol(10, 0, 1))
    with pytest.raises(ValueError, match="votes is 0"):
        factor_vae_score(codes, factors, protocol=VoteProtocol(0, 0, 10))
    with pytest.raises(ValueError, match="there are 'paper' and 'library'"):
        factor_vae_score(codes, factors, protocol="dlib")
    with pytest.raises(TypeError, match="expected a name or a VoteProtocol"):
        factor_vae_score(codes, factors, protocol=800)


def test_which_coordinates_may_win():
    factors = grid(4, 5, 10, 10)
    codes = example_codes(factors, "perfect")
    with pytest.raises(ValueError, match="all 4 coordinates are collapsed"):
        factor_vae_score(0.01 * codes, factors)
    with pytest.raises(TypeError, match=r"active is torch\.int64"):
        factor_vae_score(codes, factors, active=torch.ones(4).long())
    with pytest.raises(ValueError, match=r"active has shape \(3,\); expected \(4,\)"):
        factor_vae_score(codes, factors, active=torch.ones(3, dtype=torch.bool))
    still = torch.cat([codes, torch.ones(2000, 1)], 1)
    assert factor_vae_score(still, factors, generator=generator()).score == 1.0
    with pytest.raises(ValueError, match="coordinate 4 never moves"):
        factor_vae_score(still, factors, active=torch.ones(5, dtype=torch.bool))
