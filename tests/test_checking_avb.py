"""Chapter 3's exercises: right answers pass, the usual mistakes are named, near misses fail.

Every listed mistake of a formula is also tried by `tests/test_checking.py`.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import MixtureSameFamily, Normal
from torch.nn import functional as F

import tutor
from tutor.checking import check
from tutor.checks import EXERCISES

NAMES = [name for name in EXERCISES if name.startswith("avb.")]


# -- answers as a reader would write them, independent of the package ---------------------------


def critic_loss(t_posterior, t_prior):
    return -F.logsigmoid(t_posterior) - F.logsigmoid(-t_prior)


def best_critic(log_q, log_p, k):
    return log_q - (log_p + torch.log(torch.tensor(float(k))))


def gradient_variances(mean, std):
    noise = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    weight = torch.exp(-0.5 * noise**2)
    weight = weight / weight.sum()
    z = mean + std * noise
    path = z - (z - mean) / std**2
    both = path + (z - mean) / std**2
    return torch.stack([(weight * (g - (weight * g).sum()) ** 2).sum() for g in (path, both)])


def proved_kl(t_posterior, t_prior):
    return t_posterior.mean() - torch.logsumexp(t_prior - math.log(len(t_prior)), 0)


def gaussian_part(weights, means, stds):
    mixture = MixtureSameFamily(torch.distributions.Categorical(weights), Normal(means, stds))
    r = Normal(mixture.mean, mixture.stddev)
    return torch.distributions.kl_divergence(r, Normal(0.0, 1.0))


def kl_estimate(t, z, mean, std):
    return t + (Normal(mean, std).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(1)


def factored_moments(offset, a, v):
    mean, mean_square = v.mean(0), (v**2).mean(0)
    variance = (a**2 * (mean_square - mean**2)).sum(dim=1)
    return torch.stack([offset + (a * mean).sum(dim=1), variance])


def overlap(distance):
    z = torch.linspace(-15, 20, 35_001, dtype=torch.float64)
    p, q = Normal(0.0, 1.0).log_prob(z), Normal(distance, 1.0).log_prob(z)
    return torch.exp(p + q - torch.logaddexp(p, q)).sum() * (z[1] - z[0])


def mu_given_tau(tau, y, sigma, prior_std):
    x = torch.linspace(-80, 120, 200_001, dtype=torch.float64)
    log_p = Normal(0.0, prior_std).log_prob(x)
    for effect, error in zip(y, sigma, strict=True):
        log_p = log_p + Normal(x, torch.sqrt(error**2 + tau**2)).log_prob(effect)
    weight = torch.softmax(log_p, 0)
    mean = (weight * x).sum()
    return torch.stack([mean, (weight * (x - mean) ** 2).sum()])


def normalise(z):
    with torch.no_grad():
        mean = z.mean(dim=0, keepdim=True)
        std = ((z - mean) ** 2).mean(dim=0, keepdim=True).sqrt()
    return (z - mean) / std


class Contest(tutor.Model):
    """A sampler and a critic that measures its distance from N(0, 1)."""

    def __init__(self):
        super().__init__()
        self.sampler, self.critic = nn.Linear(1, 1), nn.Linear(1, 1)

    @property
    def players(self):
        return {"sampler": [self.sampler], "critic": [self.critic]}

    def step(self, noise):
        z = self.sampler(noise)
        yield tutor.Turn("sampler", self.critic(z).mean())
        prior = torch.randn_like(noise)
        yield tutor.Turn("critic", critic_loss(self.critic(z.detach()), self.critic(prior)).mean())


class Alone(Contest):
    @property
    def players(self):
        return {"sampler": [self.sampler, self.critic]}

    def step(self, noise):
        yield tutor.Turn("sampler", self.critic(self.sampler(noise)).square().mean())


class Leak(Contest):
    """The sampler's loss is what the critic said before it moved."""

    def step(self, noise):
        t = self.critic(self.sampler(noise))
        yield tutor.Turn("critic", critic_loss(t, self.critic(noise)).mean())
        yield tutor.Turn("sampler", t.mean())


BATCH = torch.randn(8, 1, generator=torch.Generator().manual_seed(0))

RIGHT = {
    "avb.critic-loss": critic_loss,
    "avb.unequal-samples": best_critic,
    "avb.gradient-noise": gradient_variances,
    "avb.proved-kl": proved_kl,
    "avb.gaussian-part": gaussian_part,
    "avb.kl-estimate": kl_estimate,
    "avb.factored-moments": factored_moments,
    "avb.overlap": overlap,
    "avb.mu-given-tau": mu_given_tau,
    "avb.contrast-moments": normalise,
    "avb.own-game": (Contest(), BATCH),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_passes(name):
    verdict = check(name, RIGHT[name])
    assert verdict, verdict.message


# By hand: neither side is the package's.
PEAKS_VARIANCE = 0.25 + 0.04
NUMBERS = {
    "avb.gradient-noise": [2.25, 0.25],  # std 1/2: (1/2 - 2)^2 and 1/4
    "avb.gaussian-part": 0.5 * (9 + PEAKS_VARIANCE - 1 - math.log(PEAKS_VARIANCE)),
    "avb.overlap": 0.0986,
    # precision 1/25 + sum 1/(sigma^2 + 100) = 0.072819, weighted sum 0.266704
    "avb.mu-given-tau": [0.266704 / 0.072819, 1 / 0.072819],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_will_do(name):
    verdict = check(name, NUMBERS[name])
    assert verdict, verdict.message


def test_numbers_cover_every_exercise_that_takes_one():
    takes = {n for n in NAMES if getattr(EXERCISES[n].grade, "instance", None) is not None}
    assert set(NUMBERS) == takes


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("critic-loss", lambda a, b: critic_loss(b, a), "labels are swapped"),
        ("critic-loss", lambda a, b: -(a.sigmoid().log() + (1 - b.sigmoid()).log()), "200"),
        ("critic-loss", lambda a, b: a.sigmoid().log() + (1 - b.sigmoid()).log(), "negative"),
        ("unequal-samples", lambda q, p, k: q - p, "equal numbers"),
        ("gradient-noise", lambda m, s: torch.tensor([s**2, (s - 1 / s) ** 2]), "Swapped"),
        ("proved-kl", lambda a, b: a.mean() - b.exp().mean().log(), "overflows"),
        ("proved-kl", lambda a, b: a.mean(), "claim"),
        ("kl-estimate", lambda t, z, m, s: t, "rest of the way"),
        ("kl-estimate", lambda t, z, m, s: kl_estimate(t, z, m, s**0.5), "for the variance"),
        ("factored-moments", lambda o, a, v: torch.stack([o + (a * v.mean(0)).sum(1),
         (a**2 * v.var(0)).sum(1)]), "k - 1"),
        ("overlap", lambda d: math.exp(-d * d / 8), "Bhattacharyya"),
        ("mu-given-tau", lambda t, y, s, p: torch.stack(
            [(y / s**2).sum() / ((1 / s**2).sum() + 1 / p**2),
             1 / ((1 / s**2).sum() + 1 / p**2)]), "tau is missing"),
    ],
)  # fmt: skip
def test_usual_mistakes_as_readers_write_them(name, answer, says):
    verdict = check(f"avb.{name}", answer)
    assert not verdict
    assert says in verdict.message


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda z: (z - z.mean(0)) / z.std(0, correction=0), "a gradient flows through"),
        (lambda z: (z - z.mean(0)) / z.detach().std(0, correction=0), "a gradient flows"),
        (lambda z: normalise(z).detach(), "not the code itself"),
        (lambda z: (z - z.mean(1, keepdim=True)) / z.std(1, correction=0, keepdim=True), "axis 1"),
        (lambda z: (z - z.mean((0, 1))) / z.std((0, 1), correction=0), "aggregate posterior"),
        (lambda z: (z - z.mean(0)) / z.std(0), "not by K - 1"),
        (lambda z: (z - z.mean(0)) / z.var(0, correction=0), "divided by the variance"),
        (lambda z: z - z.mean(0), "not divided"),
        (lambda z: normalise(z)[0], "has shape"),
        (lambda z: 1.1 * normalise(z), "mean 0 and variance 1"),
        (lambda z: z @ z, "raised RuntimeError"),
        (torch.zeros(3), "without calling it"),
    ],
)
def test_mistakes_of_the_normalised_code_are_named(answer, says):
    verdict = check("avb.contrast-moments", answer)
    assert not verdict
    assert says in verdict.message


def test_the_package_normalises_as_the_exercise_asks():
    from tutor.posteriors import DiagonalGaussian

    model = tutor.models.AVB(3, noise_dim=2, image_shape=(1, 1, 1), adaptive_contrast=True)

    def answer(z):
        std, mean = torch.std_mean(z.detach(), 0, correction=0)
        return model.normalise(z, DiagonalGaussian(mean, 2 * std.log()))

    assert check("avb.contrast-moments", answer)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((Alone(), BATCH), "one player"),
        ((Leak(), BATCH), "stale"),
        (Contest(), "Pass a pair"),
    ],
)
def test_mistakes_in_a_game_are_named(answer, says):
    verdict = check("avb.own-game", answer)
    assert not verdict
    assert says in verdict.message


def test_the_packages_own_model_is_a_right_game():
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert check("avb.own-game", (tutor.models.AVB(adaptive_contrast=True), images))
