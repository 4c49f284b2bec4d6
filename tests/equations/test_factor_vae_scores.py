"""Chapter 5: the objectives as the models compute them, and the scores against plain counting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from tests.metrics.worlds import generator
from tutor import metrics
from tutor.divergences import gaussian_total_correlation
from tutor.metrics.disentanglement.beta_vae import _features
from tutor.metrics.disentanglement.dci import concentration
from tutor.models import DIPVAE, VAE, BetaTCVAE, FactorVAE
from tutor.nets import mlp_decoder, mlp_encoder

F64 = torch.float64
SUMS = "the same finite sums in another order, float64"
SHAPE = (1, 2, 3)


def networks(dim: int, seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    return {
        "image_shape": SHAPE,
        "encoder": mlp_encoder(SHAPE, 2 * dim, (8,)),
        "decoder": mlp_decoder(dim, SHAPE, (8,)),
    }


def images(n: int, seed: int = 0) -> Tensor:
    return (torch.rand(n, *SHAPE, generator=generator(seed), dtype=F64) < 0.5).double()


class ExactLogRatio(nn.Module):
    """log q(z) - log of the product of marginals, for codes that are Gaussian."""

    def __init__(self, cov: Tensor) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=F64))
        self.joint = torch.distributions.MultivariateNormal(torch.zeros(len(cov), dtype=F64), cov)
        self.single = torch.distributions.Normal(0.0, cov.diagonal().sqrt())

    def forward(self, z: Tensor) -> Tensor:
        ratio = self.joint.log_prob(z) - self.single.log_prob(z).sum(1) + 0 * self.unused
        return ratio[:, None]


@pytest.mark.equation("factor-vae-objective")
def test_the_models_loss_is_the_objective(compare):
    """Gaussian images, a linear encoder and the exact logit: the loss less the negative ELBO is
    gamma times the exact total correlation."""
    dim, n, gamma, std = 2, 200_000, 6.4, 0.5
    mix = torch.tensor([[1.0, 0.7], [0.0, 0.6]], dtype=F64)  # means mix @ x
    cov = mix @ mix.T + std**2 * torch.eye(dim, dtype=F64)

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Parameter(mix)

        def forward(self, x: Tensor) -> Tensor:
            mean = x.flatten(1) @ self.mix.T
            return torch.cat([mean, torch.full_like(mean, 2 * math.log(std))], 1)

    shape = (1, 1, 2)
    decoder = nn.Sequential(nn.Linear(2, 2), nn.Unflatten(1, shape))
    model = FactorVAE(
        dim,
        gamma=gamma,
        image_shape=shape,
        likelihood="gaussian",
        decoder_std=1.0,
        encoder=Linear(),
        decoder=decoder,
        discriminator=ExactLogRatio(cov),
    ).double()
    x = torch.randn(2 * n, *shape, generator=generator(0), dtype=F64)
    with torch.random.fork_rng():
        torch.manual_seed(7)  # not the seed of x: the noise must not repeat it
        turn = next(model.step(x))
    plain = turn.terms["reconstruction"] + turn.terms["kl"]
    truth = gamma * gaussian_total_correlation(cov)
    with torch.no_grad():
        spread = model.log_ratio(model.encode(x).sample(generator=generator(1))).std().item()
    compare(turn.loss - plain, truth, atol=5 * gamma * spread / n**0.5, why="five standard errors")


@pytest.mark.equation("beta-tcvae-objective")
def test_three_weights_on_three_parts(compare):
    """The loss with weights 2, 6 and 3 against reconstruction and parts; with 1, 1, 1 the ELBO."""
    dim, n, data_size = 3, 40, 500
    model = BetaTCVAE(dim, data_size=data_size, alpha=2.0, beta=6.0, gamma=3.0, **networks(dim, 0))
    plain = BetaTCVAE(dim, data_size=data_size, alpha=1.0, beta=1.0, gamma=1.0, **networks(dim, 0))
    model.double(), plain.double()
    x = images(n)
    found = {}
    for name, m in (("weighted", model), ("plain", plain)):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            found[name] = next(m.step(x))
    t = found["weighted"].terms
    # The rate in closed form stands for the three parts with weight one each.
    more = t["mutual_information"] + 5 * t["total_correlation"] + 2 * t["dimension_kl"]
    compare(found["weighted"].loss, t["reconstruction"] + t["kl"] + more, atol=1e-12, why=SUMS)
    t = found["plain"].terms
    compare(found["plain"].loss, t["reconstruction"] + t["kl"], atol=1e-12, why=SUMS)


@pytest.mark.equation("dip-vae-objective", "code-covariance")
@pytest.mark.parametrize("variant", ["I", "II"])
def test_the_penalty_on_second_moments(compare, variant):
    """The loss less the negative ELBO against double loops over the covariance of a batch."""
    model = DIPVAE(3, variant=variant, off_diagonal=5.0, diagonal=2.0, **networks(3, 1)).double()
    x = images(30)
    turn = next(model.step(x))
    with torch.no_grad():
        q = model.encode(x)
    total = torch.zeros((), dtype=F64)
    for i, j in itertools.product(range(3), repeat=2):
        a, b = q.mean[:, i] - q.mean[:, i].mean(), q.mean[:, j] - q.mean[:, j].mean()
        entry = (a * b).sum() / 29
        if i == j and variant == "II":
            entry = entry + q.log_var[:, i].exp().mean()
        total += 2.0 * (entry - 1) ** 2 if i == j else 5.0 * entry**2
    elbo = turn.terms["reconstruction"] + turn.terms["kl"]
    compare(turn.loss - elbo, total, atol=1e-10, why=SUMS)
    assert isinstance(model, VAE)


# -- scores ---------------------------------------------------------------------------------------


def small_world(seed: int) -> tuple[Tensor, Tensor]:
    """Codes of four coordinates that know something of three factors, and the factors."""
    factors = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5))
    factors = factors.repeat(4, 1)
    g = generator(seed)
    mixed = factors.double() @ torch.randn(3, 4, generator=g, dtype=F64)
    return mixed + 0.5 * torch.randn(mixed.shape, generator=g, dtype=F64), factors


@pytest.mark.equation("higgins-feature")
def test_differences_of_pairs(compare):
    """The features' means against the expected difference over all pairs that share a factor."""
    from tutor.metrics.disentanglement._factors import checked, group

    codes, factors = small_world(0)
    found = checked(codes, factors)
    groups = group(found.values, found.sizes, at_least=2, why="a pair takes two")
    batches = 3_000
    for k in range(3):
        shared = torch.full((batches,), k)
        features = _features(found.codes, found.values, groups, shared, 8, generator(k)).double()
        # By enumeration: the value as it occurs in the data, then two images that have it.
        truth = torch.zeros(4, dtype=F64)
        for value in factors[:, k].unique():
            own = codes[factors[:, k] == value]
            apart = (own[:, None] - own).abs().sum((0, 1))
            pairs = {"different": len(own) * (len(own) - 1), "any": len(own) ** 2}
            truth += len(own) / len(codes) * apart / pairs["any"]
        error = features.std(0) / batches**0.5
        gap = ((features.mean(0) - truth).abs() / error).max()
        # With or without the pair of an image and itself the truth moves by 1/48 to 1/80.
        moved = truth / 48
        compare(
            torch.clamp((features.mean(0) - truth).abs() - moved, min=0) / error,
            torch.zeros(4, dtype=F64),
            atol=5.0,
            why="five standard errors, and the share of pairs of an image with itself",
        )
        assert gap.isfinite()


@pytest.mark.equation("factor-vae-metric")
def test_votes_and_their_majority(compare):
    """Votes by a plain loop over batches, and the score of the package's own table of votes."""
    from tutor.metrics.disentanglement.factor_vae import VoteProtocol, least_varying

    codes, factors = small_world(1)
    g = generator(0)
    scale, votes = codes.var(0, correction=0), []
    index = torch.stack(
        [torch.randperm(len(codes), generator=g)[:10] for _ in range(300)]
    )  # batches of 10
    for rows in index:
        spread = [codes[rows, j].var(correction=0) / scale[j] for j in range(4)]
        votes.append(int(torch.stack(spread).argmin()))
    found = least_varying(codes, index, scale.sqrt(), torch.ones(4, dtype=torch.bool))
    compare(found, torch.tensor(votes), atol=0, why="the same whole numbers")
    result = metrics.factor_vae_score(
        codes, factors, protocol=VoteProtocol(2_000, 0, 10), generator=g
    )
    right = sum(max(row) for row in result.votes.tolist())
    compare(torch.tensor(result.score), torch.tensor(right / 2_000), atol=1e-7, why="one division")
    compare(result.votes.sum(), torch.tensor(2_000), atol=0, why="every vote is counted once")


@pytest.mark.equation("mig")
def test_gaps_by_counting(compare):
    """Mutual information and gaps of codes with few values, by a table of counts for each pair."""
    factors = torch.cartesian_prod(torch.arange(3), torch.arange(4)).repeat(5, 1)
    g = generator(2)
    codes = torch.stack([factors[:, 0], factors[:, 1], factors.sum(1)], 1).double()
    moved = torch.rand(codes.shape, generator=g) < 0.2
    codes = torch.where(moved, torch.randint(6, codes.shape, generator=g).double(), codes)
    gaps = []
    for k in range(2):
        told = []
        for j in range(3):
            information = 0.0
            for a in codes[:, j].unique():
                for v in factors[:, k].unique():
                    p = ((codes[:, j] == a) & (factors[:, k] == v)).double().mean().item()
                    p_a, p_v = (codes[:, j] == a).double(), (factors[:, k] == v).double()
                    information += p * math.log(p / (p_a.mean() * p_v.mean())) if p > 0 else 0.0
            told.append(information)
        told.sort(reverse=True)
        gaps.append((told[0] - told[1]) / math.log((3, 4)[k]))
    compare(torch.tensor(metrics.mig(codes, factors).score), torch.tensor(sum(gaps) / 2),
            atol=1e-6, why="sums of the same counts; 20 bins separate six values")  # fmt: skip


@pytest.mark.equation("dci-disentanglement")
def test_concentrated_rows(compare):
    """The weighted concentration by loops, on random tables and on ones with known scores."""
    for seed in range(5):
        table = torch.rand(4, 3, generator=generator(seed), dtype=F64) ** 3
        total = 0.0
        for row in table.tolist():
            shares = [r / sum(row) for r in row]
            inner = 1 + sum(p * math.log(p) / math.log(3) for p in shares)
            total += sum(row) / table.sum().item() * inner
        compare(torch.tensor(concentration(table)[0]), torch.tensor(total), atol=1e-6, why=SUMS)
    compare(
        torch.tensor([concentration(torch.eye(3))[0], concentration(torch.ones(4, 3))[0]]),
        torch.tensor([1.0, 0.0]),
        atol=1e-6,
        why="one factor a coordinate, and all alike",
    )
