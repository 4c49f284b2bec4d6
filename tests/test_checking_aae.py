"""`tutor.check` on chapter 2: right answers as a reader writes them pass, wrong ones are named."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from tutor.checking import check
from tutor.checks.aae import EXERCISES
from tutor.checks.aae_codes import CODES
from tutor.checks.aae_game import GAME, PENALTY


def jensen_shannon(p, q):
    def entropy(r):
        return -sum(v * math.log(v) for v in r.tolist() if v > 0)

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


def missed_prior(share):
    """KL of the average, integrated over a prior cut into a filled and an empty part."""
    p = torch.tensor([share, 1 - share], dtype=torch.float64)
    m = (p + torch.tensor([1.0, 0.0], dtype=torch.float64)) / 2
    return 2 * (m * (m / p).log()).sum()


def growth(rate, damping):
    """By playing: both eigenvalues have one modulus, so an area shrinks by its square a round."""
    states = torch.eye(2, dtype=torch.float64)
    rounds = 50
    for _ in range(rounds):
        theta, psi = states
        psi = psi - rate * (theta / 2 + damping * psi)
        states = torch.stack([theta + rate * psi / 2, psi])
    return torch.linalg.det(states).abs() ** (1 / (2 * rounds))


def label_slots(labels, classes):
    slots = torch.zeros(len(labels), classes + 1)
    slots[torch.arange(len(labels)), torch.where(labels < 0, classes, labels)] = 1
    return slots


def energy_distance(x, y):
    def mean(a, b, same):
        pairs = [(u - v).norm() for i, u in enumerate(a) for j, v in enumerate(b)
                 if not (same and i == j)]  # fmt: skip
        return sum(pairs) / len(pairs)

    return 2 * mean(x, y, False) - mean(x, x, True) - mean(y, y, True)


def cluster_error(probabilities, labels):
    wrong = 0
    for row, label in zip(probabilities, labels, strict=True):
        cluster = row.argmax()
        surest = probabilities[:, cluster].argmax()
        wrong += int(labels[surest] != label)
    return wrong / len(labels)


def parzen(x, samples, bandwidth):
    kernel = torch.distributions.Normal(samples, bandwidth)
    log_densities = kernel.log_prob(x[:, None]).sum(2)
    return log_densities.logsumexp(1) - math.log(len(samples))


def gradient_penalty(discriminator, z):
    z = z.clone().requires_grad_()
    slope = torch.autograd.grad(discriminator(z).sum(), z, create_graph=True)[0]
    return (slope**2).sum(1) / 2


RIGHT = {
    "aae.optimal-logit": lambda log_p, log_q: log_p - log_q,
    "aae.discriminator-loss": lambda real, fake: -(F.logsigmoid(real) + F.logsigmoid(-fake)).mean(),
    "aae.encoder-loss": lambda fake: -F.logsigmoid(fake).mean(),
    "aae.jensen-shannon": jensen_shannon,
    "aae.missed-prior": missed_prior,
    "aae.spiral": growth,
    "aae.label-slots": label_slots,
    "aae.energy-distance": energy_distance,
    "aae.cluster-error": cluster_error,
    "aae.parzen": parzen,
    "aae.gradient-penalty": gradient_penalty,
}


@pytest.mark.parametrize("name", [e.name for e in EXERCISES])
def test_a_right_answer_passes(name, capsys):
    verdict = check(name, RIGHT[name])
    assert verdict, verdict.message
    assert capsys.readouterr().out == f"✓ {name}: right.\n"


NUMBERS = {
    # entropy of the average (0.7, 0.3) less the mean of the two entropies
    "aae.jensen-shannon": -0.7 * math.log(0.7)
    - 0.3 * math.log(0.3)
    - (math.log(2) - 0.9 * math.log(0.9) - 0.1 * math.log(0.1)) / 2,
    "aae.missed-prior": 1.5 * math.log(1.5) - 0.5 * math.log(2),
    "aae.spiral": math.sqrt(1 - 0.1 * 0.3),
    # distances 4 6 3 5 2 4, mean 4; within x 1, 2, 1, mean 4/3; within y 2
    "aae.energy-distance": 2 * 4 - 4 / 3 - 2,
    # squares 1 and 4, variance 1/4: exp(-2) and exp(-8), normaliser 2 pi / 4
    "aae.parzen": [math.log((math.exp(-2) + math.exp(-8)) / 2 / (math.pi / 2))],
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_will_do(name):
    assert check(name, NUMBERS[name])


def test_numbers_cover_every_exercise_that_takes_one():
    takes = {f"aae.{n}" for n, f in {**GAME, **CODES}.items() if f.instance is not None}
    assert set(NUMBERS) == takes


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("optimal-logit", lambda p, q: q - p, "label 1 belongs to draws of the prior"),
        ("optimal-logit", lambda p, q: p.exp() / (p.exp() + q.exp()), "This is D"),
        ("discriminator-loss", lambda r, f: F.binary_cross_entropy_with_logits(
            torch.cat([r, f]), torch.cat([torch.ones_like(r), torch.zeros_like(f)])),
         "mean of the two terms"),
        ("discriminator-loss", lambda r, f: -(r.sigmoid().log() + (1 - f.sigmoid()).log()).mean(),
         "logit of 200"),
        ("encoder-loss", lambda f: (1 - f.sigmoid()).log().mean(), "saturating"),
        ("encoder-loss", lambda f: -f.sigmoid().log().mean(), "logit of -200"),
        ("jensen-shannon", lambda p, q: (p * (2 * p / (p + q)).log()
                                         + q * (2 * q / (p + q)).log()).sum() / 2, "0 log 0"),
        ("spiral", 0.97, "determinant"),
        ("label-slots", lambda y, k: torch.eye(k + 1)[y % k], "marks the last CLASS"),
        ("energy-distance", lambda x, y: 2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean()
         - torch.cdist(y, y).mean(), "paired with itself"),
        ("cluster-error", lambda p, y: 1 - cluster_error(p, y), "accuracy"),
        ("parzen", lambda x, s, h: (-(torch.cdist(x, s) / h) ** 2 / 2).exp().mean(1).log()
         - x.shape[1] / 2 * math.log(2 * math.pi * h**2), "logsumexp"),
    ],
)  # fmt: skip
def test_usual_mistakes_as_readers_write_them(name, answer, says):
    verdict = check(f"aae.{name}", answer)
    assert not verdict
    assert says in verdict.message


@pytest.mark.parametrize("i", range(len(PENALTY.mistakes)))
def test_every_listed_mistake_of_the_penalty_gets_its_message(i):
    mistake = PENALTY.mistakes[i]
    verdict = check("aae.gradient-penalty", mistake.formula)
    assert not verdict
    assert verdict.message == mistake.message


def test_a_penalty_without_a_graph_teaches_the_discriminator_nothing():
    def detached(discriminator, z):
        z = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(z).sum(), z)
        return slope.square().sum(1) / 2

    assert "create_graph=True" in check("aae.gradient-penalty", detached).message


def test_checking_leaves_the_global_stream_alone():
    state = torch.get_rng_state()
    for name, answer in RIGHT.items():
        check(name, answer)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_books_own_game_is_a_right_game():
    from tutor.models import AAE

    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert check("vae.own-game", (AAE(), x))
